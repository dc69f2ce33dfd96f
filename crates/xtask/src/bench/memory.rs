//! What processes hold in memory: the proportional set size of all that serve one engine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The sum over this network namespace's processes of these names, in KiB. Containers have
/// network namespaces of their own, so only what serves them counts.
pub(crate) fn pss(names: &[&str]) -> Result<f64> {
    sum(names, &process)
}

/// The most that each of them has held, added up, in KiB.
pub(crate) fn peaks(names: &[&str]) -> Result<f64> {
    sum(names, &|path| field(&fs::read_to_string(path.join("status")).unwrap_or_default(), "VmHWM:"))
}

/// From now on [`peaks`] are counted anew: proc_pid_clear_refs(5). Gives what they hold now.
pub(crate) fn forget_peaks(names: &[&str]) -> Result<f64> {
    sum(names, &|path| {
        if let Err(error) = fs::write(path.join("clear_refs"), "5") {
            eprintln!("bench: {}: {error}", path.display());
        }
        field(&fs::read_to_string(path.join("status")).unwrap_or_default(), "VmHWM:")
    })
}

fn sum(names: &[&str], of: &dyn Fn(&Path) -> u64) -> Result<f64> {
    let own = fs::read_link("/proc/self/ns/net").context("read the network namespace")?;
    let mut sum = 0;
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let path = entry.context("list /proc")?.path();
        let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
        // The kernel cuts names after 15 bytes.
        let named = names.iter().any(|name| comm.trim() == &name[..name.len().min(15)]);
        if named && fs::read_link(path.join("ns/net")).is_ok_and(|net| net == own) {
            sum += of(&path);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "kilobytes of one machine")]
    Ok(sum as f64)
}

/// KiB; a process that has just ended holds nothing.
fn process(path: &Path) -> u64 {
    let text = fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
    field(&text, "Pss:")
}

/// The kernel's own estimate of what is left, in KiB.
pub(crate) fn available() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    #[expect(clippy::cast_precision_loss, reason = "kilobytes of one machine")]
    Ok(field(&text, "MemAvailable:") as f64)
}

fn field(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_the_number_behind_its_key() {
        let text = "Rss:  12 kB\nPss:   345 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(field(text, "Pss:"), 345);
        assert_eq!(field(text, "Swap:"), 0);
        assert!(available().unwrap() > 0.0);
    }
}
