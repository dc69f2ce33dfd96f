//! The release executables.
//!
//! `hull` is linked against the host's C library, because names of registries must resolve as the
//! host resolves them. `hull-runtime` is what every shim is a fork of: small, without unwinding,
//! and static where the C library allows it, so that its sealed copy in memory needs no file of
//! the host to start.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

use crate::{cargo, execute, root};

/// Builds both into `target/dist` and returns that folder.
pub(crate) fn release() -> Result<PathBuf> {
    let target = target_folder();
    let dist = target.join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("create {}", dist.display()))?;
    // They share no object file, and each ends with minutes on one core.
    let (hull, runtime) = thread::scope(|scope| {
        let runtime = scope.spawn(|| runtime(&target));
        let hull = execute(cargo().args(["build", "--quiet", "--release", "--package", "hull"]));
        (hull, runtime.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    hull?;
    publish(&target.join("release/hull"), &dist.join("hull"))?;
    publish(&runtime?, &dist.join("hull-runtime"))?;
    Ok(dist)
}

/// The folder that cargo builds into.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// `hull-runtime`, static when glibc's archive is installed, else dynamic. A target is named even
/// though it is the host's own: only then do RUSTFLAGS leave build scripts alone.
fn runtime(target: &std::path::Path) -> Result<PathBuf> {
    let triple = host_triple()?;
    let mut command = cargo();
    command.args([
        "build",
        "--quiet",
        "--profile",
        "runtime",
        "--package",
        "hull-runtime",
        "--target",
        &triple,
    ]);
    command.env("CARGO_ENCODED_RUSTFLAGS", runtime_flags(has_static_libc()).join("\x1f"));
    execute(&mut command)?;
    Ok(target.join(triple).join("runtime/hull-runtime"))
}

/// Nothing in `hull-runtime` unwinds (`panic = "abort"`), so it is linked without what unwinding
/// needs: the linker script says which.
fn runtime_flags(static_libc: bool) -> Vec<String> {
    let script = root().join("crates/hull-runtime/unwind.ld");
    let mut flags =
        vec!["-Clink-arg=-Wl,--no-eh-frame-hdr".to_owned(), format!("-Clink-arg=-T{}", script.display())];
    if static_libc {
        flags.push("-Ctarget-feature=+crt-static".to_owned());
    }
    flags
}

/// Asks the C compiler where its static C library is; without one it answers with the bare name.
fn has_static_libc() -> bool {
    let answer = Command::new("cc").arg("-print-file-name=libc.a").output();
    answer.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().starts_with('/'))
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("run rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc -vV names no host")
}

/// Copy and rename: a daemon may be running from the old file.
fn publish(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh).with_context(|| format!("copy {} to {}", from.display(), fresh.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("rename {} to {}", fresh.display(), to.display()))
}
