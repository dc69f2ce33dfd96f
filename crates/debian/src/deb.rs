//! The file of a package (deb(5)): an archive as ar(1) makes them, whose third member is what the package
//! installs.

use std::io::{self, Read, Seek, SeekFrom};

use crate::Error;

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;
/// More members than any package has.
const MEMBERS: usize = 16;

/// Part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From the file's beginning, in bytes.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// Why the part cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Wrong(#[from] Error),
}

/// Where in the file the archive (tar, with whatever compression) of the package's own files is.
pub fn files(mut file: impl Read + Seek) -> Result<Part, DebError> {
    let wrong = |why| DebError::Wrong(Error::Deb { why });
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut magic = [0; MAGIC.len()];
    if length < MAGIC.len() as u64 || {
        file.read_exact(&mut magic)?;
        magic != *MAGIC
    } {
        return Err(wrong("it is no archive of ar"));
    }
    let mut offset = MAGIC.len() as u64;
    for number in 0..MEMBERS {
        if length < offset + HEADER as u64 {
            break;
        }
        let mut header = [0; HEADER];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut header)?;
        let (name, size) = member(&header).ok_or_else(|| wrong("a member has no proper header"))?;
        offset += HEADER as u64;
        if size > length - offset {
            return Err(wrong("it is cut off"));
        }
        if number == 0 {
            let mut format = [0; 2];
            if name != "debian-binary" || size < 4 || {
                file.read_exact(&mut format)?;
                format != *b"2."
            } {
                return Err(wrong("it is of another format than 2"));
            }
        }
        if name.starts_with("data.tar") {
            return Ok(Part { offset, size });
        }
        offset += size + size % 2;
    }
    Err(wrong("it has no files (data.tar)"))
}

/// Name and size: the rest of a header says nothing of use.
fn member(header: &[u8; HEADER]) -> Option<(&str, u64)> {
    let text = std::str::from_utf8(header).ok()?.strip_suffix("`\n")?;
    let name = text.get(..16)?.trim_end().trim_end_matches('/');
    Some((name, text.get(48..58)?.trim_end().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (name, content) in members {
            bytes.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, content.len()).bytes(),
            );
            bytes.extend(*content);
            bytes.extend(vec![b'\n'; content.len() % 2]);
        }
        bytes
    }

    fn why(bytes: &[u8]) -> String {
        files(Cursor::new(bytes)).unwrap_err().to_string()
    }

    #[test]
    fn the_files_are_found_behind_members_of_any_length() {
        let bytes =
            archive(&[("debian-binary", b"2.0\n"), ("control.tar.xz/", b"abc"), ("data.tar.zst", b"files")]);
        let Part { offset, size } = files(Cursor::new(&bytes)).unwrap();
        assert_eq!(&bytes[offset as usize..][..size as usize], b"files");
    }

    #[test]
    fn what_is_no_package_is_refused() {
        assert_eq!(why(b""), "it is no Debian package: it is no archive of ar");
        assert_eq!(why(b"!<arch>?"), "it is no Debian package: it is no archive of ar");
        assert_eq!(why(MAGIC), "it is no Debian package: it has no files (data.tar)");
        let format = "it is no Debian package: it is of another format than 2";
        assert_eq!(why(&archive(&[("debian-binary", b"3.0\n")])), format);
        assert_eq!(why(&archive(&[("data.tar", b"")])), format);
        let good = archive(&[("debian-binary", b"2.0\n"), ("data.tar", b"files")]);
        assert_eq!(why(&good[..good.len() - 2]), "it is no Debian package: it is cut off");
        let strange = String::from_utf8(good).unwrap().replace("5         `", "-1        `");
        assert_eq!(why(strange.as_bytes()), "it is no Debian package: a member has no proper header");
    }
}
