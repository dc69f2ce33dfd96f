//! What is at a path in a container, as `HEAD` and `GET /containers/{id}/archive` say it: a JSON
//! document in base64 (RFC 4648) in a header, with the type and mode of a file as Go's `os.FileMode`
//! has them.

use serde::{Deserialize, Serialize};

use crate::base64;

/// The header's name.
pub const HEADER: &str = "x-docker-container-path-stat";

/// Go's `os.ModeDir`.
pub const FOLDER: u32 = 1 << 31;
/// Go's `os.ModeSymlink`.
pub const LINK: u32 = 1 << 27;

/// What is at a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathStat {
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// `os.FileMode`, see [`mode`].
    pub mode: u32,
    /// RFC 3339.
    pub mtime: String,
    /// Where a link leads in the container, all links followed; else empty.
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

impl PathStat {
    pub fn to_header(&self) -> String {
        base64::encode(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// `None` if it is not what [`Self::to_header`] makes.
    pub fn from_header(text: &str) -> Option<PathStat> {
        serde_json::from_slice(&base64::decode(text)?).ok()
    }

    pub fn is_folder(&self) -> bool {
        self.mode & FOLDER != 0
    }

    pub fn is_link(&self) -> bool {
        self.mode & LINK != 0
    }
}

/// `st_mode` (inode(7)) as an `os.FileMode`.
pub fn mode(unix: u32) -> u32 {
    const DEVICE: u32 = 1 << 26;
    const PIPE: u32 = 1 << 25;
    const SOCKET: u32 = 1 << 24;
    const SET_USER: u32 = 1 << 23;
    const SET_GROUP: u32 = 1 << 22;
    const CHARACTER: u32 = 1 << 21;
    const STICKY: u32 = 1 << 20;
    let kind = match unix & 0o170_000 {
        0o040_000 => FOLDER,
        0o120_000 => LINK,
        0o060_000 => DEVICE,
        0o020_000 => DEVICE | CHARACTER,
        0o010_000 => PIPE,
        0o140_000 => SOCKET,
        _ => 0,
    };
    [(0o4000, SET_USER), (0o2000, SET_GROUP), (0o1000, STICKY)]
        .into_iter()
        .filter(|(bit, _)| unix & bit != 0)
        .fold(kind | unix & 0o777, |mode, (_, bit)| mode | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers of the reference.
    #[test]
    fn a_recorded_header_is_read_and_written() {
        let check = |recorded: &str, unix: u32, target: &str| {
            let stat = PathStat::from_header(recorded).unwrap();
            assert_eq!((stat.mode, stat.link_target.as_str()), (mode(unix), target));
            assert_eq!(stat.to_header(), recorded);
        };
        check(
            "eyJuYW1lIjoibmV3Iiwic2l6ZSI6MiwibW9kZSI6NDIwLCJtdGltZSI6IjIwMjYtMTEtMjFUMDE6NDE6MTQuNDE5NDU1ODcyWiIsImxpbmtUYXJnZXQiOiIifQ==",
            0o100_644,
            "",
        );
        check(
            "eyJuYW1lIjoidG1wIiwic2l6ZSI6NDA5NiwibW9kZSI6MjE0ODUzMjczNSwibXRpbWUiOiIyMDI2LTExLTIxVDAxOjQxOjE1LjE1MDU5NDI0N1oiLCJsaW5rVGFyZ2V0IjoiIn0=",
            0o041_777,
            "",
        );
        let link = PathStat { mode: mode(0o120_777), link_target: "/new".to_owned(), ..PathStat::default() };
        assert!(link.is_link() && !link.is_folder() && link.mode == 134_218_239);
        assert_eq!(mode(0o104_755), 1 << 23 | 0o755);
        assert_eq!(mode(0o020_666), 1 << 26 | 1 << 21 | 0o666);
    }
}
