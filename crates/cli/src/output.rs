//! Where an archive from the daemon goes: a file, which appears only when it is whole, or standard
//! output, which must be no terminal.

use std::io::Write;
use std::path::Path;

use hull_api::client::Response;

use crate::command::{Failure, fail};
use crate::create::reason;
use crate::streams::write_stream;

/// Refuses what can be no output (empty: standard output) before anything is asked for; `failed` is
/// how the refusal begins.
pub(crate) fn check(output: &str, failed: &str) -> Result<(), Failure> {
    if !output.is_empty() {
        return check_path(output, failed);
    }
    if rustix::termios::isatty(rustix::stdio::stdout()) {
        return Err(fail("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    Ok(())
}

/// Writes the archive there as it comes; gives the exit code.
pub(crate) async fn write(mut answer: Response, output: &str, failed: &str) -> Result<u8, Failure> {
    if output.is_empty() {
        while let Some(piece) = answer.chunk().await? {
            if !write_stream(1, &piece) {
                return Err(Failure::said(141));
            }
        }
        return Ok(0);
    }
    let failed = |error: &std::io::Error| fail(format!("{failed}: {}", reason(error)));
    let mut file = Unfinished::create(output).map_err(|error| failed(&error))?;
    while let Some(piece) = answer.chunk().await? {
        file.file.write_all(&piece).map_err(|error| failed(&error))?;
    }
    file.publish().map_err(|error| failed(&error))?;
    Ok(0)
}

/// Refuses an output that can be no file, before anything is asked for.
fn check_path(output: &str, failed: &str) -> Result<(), Failure> {
    let refuse = |reason: String| fail(format!("{failed}: invalid output path: {reason}"));
    let path = Path::new(output);
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if let Err(error) = std::fs::metadata(folder) {
        return Err(refuse(format!("stat {}: {}", folder.display(), reason(&error))));
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(refuse(format!("\"{output}\" is a directory"))),
        Ok(found) if !found.is_file() => Err(refuse(format!("\"{output}\" is not a regular file"))),
        _ => Ok(()),
    }
}

/// A file that appears under its name only when it is whole.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) file: std::fs::File,
    path: String,
    target: String,
    published: bool,
}

impl Unfinished {
    pub(crate) fn create(target: &str) -> std::io::Result<Unfinished> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = format!("{target}.{}.part", std::process::id());
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Unfinished { file, path, target: target.to_owned(), published: false })
    }

    pub(crate) fn publish(mut self) -> std::io::Result<()> {
        std::fs::rename(&self.path, &self.target)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.tar");
        let name = target.to_str().unwrap();
        drop(Unfinished::create(name).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut file = Unfinished::create(name).unwrap();
        file.file.write_all(b"tar").unwrap();
        file.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"tar");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_output_that_can_be_no_file_is_refused() {
        let said = |path| check_path(path, "failed to save image").unwrap_err().message;
        assert_eq!(
            said("/nonexistent/x.tar"),
            "failed to save image: invalid output path: stat /nonexistent: no such file or directory"
        );
        assert_eq!(said("/tmp"), "failed to save image: invalid output path: \"/tmp\" is a directory");
    }
}
