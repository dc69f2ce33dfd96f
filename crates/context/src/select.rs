//! Which files a COPY or ADD means (docs.docker.com/reference/dockerfile, "COPY").
//!
//! A pattern is a path below the source's root, with wildcards as in an ignore file; a `/` in front
//! or at the end means nothing. Of a folder, what is in it is meant, not the folder. A path that leads
//! out of the root is refused, and so is a link that does; other links on the way to what a pattern
//! means are followed within the root, those inside a folder that is copied stay links. A pattern
//! with wildcards may mean nothing; one without must mean something.

use std::path::{Component, Path, PathBuf};

use crate::pattern::{MAX_LENGTH, Pattern, clean, has_wildcards};
use crate::walk::{Entry, Kind, Tree, WalkError};
use crate::{Ignore, IgnoreError};

/// Most links that may be followed on one way (Linux allows as many, path_resolution(7)).
const MAX_LINKS: usize = 40;

/// One thing that a pattern means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// What it is and where it lies, links followed.
    pub entry: Entry,
    /// Its name below the destination. Of a folder the content is meant, so the name is empty, but with
    /// `parents`.
    pub name: PathBuf,
    /// If it is a folder: all that is in it, as [`walk`](crate::walk()) sorts it. Paths are relative to
    /// the folder.
    pub below: Vec<Entry>,
}

/// Why a pattern means nothing that could be copied. The first two texts are the reference's.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    #[error("failed to compute cache key: \"/{path}\": not found")]
    NotFound { path: String },
    #[error("forbidden path outside the build context: {path} ()")]
    Outside { path: String },
    #[error("{path:?} leads through more than {MAX_LINKS} links")]
    Links { path: String },
    #[error("{pattern:?}: syntax error in pattern")]
    Pattern { pattern: String },
    #[error("a pattern of {length} bytes: it has {MAX_LENGTH} at most")]
    Long { length: usize },
    #[error("--exclude is not valid")]
    Exclude(#[from] IgnoreError),
    #[error("the files cannot be read")]
    Walk(#[from] WalkError),
}

/// What `patterns` mean, in their order, each one's sorted by path, without what `exclude` (lines as in an
/// ignore file, relative to each thing that is meant) names. With `parents` names keep their folders,
/// from a `/./` in the pattern on if there is one.
pub fn select(
    tree: &dyn Tree,
    patterns: &[String],
    exclude: &[String],
    parents: bool,
) -> Result<Vec<Matched>, SelectError> {
    let exclude = Ignore::of(exclude)?;
    let mut matched = Vec::new();
    for pattern in patterns {
        let (pivot, text) = match pattern.split_once("/./").filter(|_| parents) {
            Some((pivot, rest)) => (inside(pivot)?, inside(&format!("{pivot}/{rest}"))?),
            None => (String::new(), inside(pattern)?),
        };
        let entries = match has_wildcards(&text) {
            true => matching(tree, &text)?,
            false => vec![(text.clone().into(), resolve(tree, &text)?)],
        };
        for (path, entry) in entries {
            let name = name_of(&path, &entry, parents, &pivot);
            let is_folder = entry.kind == Kind::Folder;
            if !is_folder && exclude.is_ignored(Path::new(name.file_name().unwrap_or_default())) {
                continue;
            }
            let below = if is_folder { below(tree, &entry.path, &exclude)? } else { Vec::new() };
            matched.push(Matched { entry, name, below });
        }
    }
    Ok(matched)
}

/// A pattern as a clean relative path.
fn inside(pattern: &str) -> Result<String, SelectError> {
    let cleaned = clean(pattern.trim_start_matches('/'));
    if cleaned.split('/').next() == Some("..") {
        return Err(SelectError::Outside { path: pattern.to_owned() });
    }
    Ok(cleaned)
}

fn name_of(path: &Path, entry: &Entry, parents: bool, pivot: &str) -> PathBuf {
    match (parents, &entry.kind) {
        (true, _) => {
            let depth = Path::new(pivot).components().count();
            path.components().skip(depth).collect()
        }
        (false, Kind::Folder) => PathBuf::new(),
        (false, _) => path.file_name().map(PathBuf::from).unwrap_or_default(),
    }
}

/// What a pattern with wildcards matches: paths as they are named, entries with their last link
/// followed. Below what matches nothing more is looked for.
fn matching(tree: &dyn Tree, text: &str) -> Result<Vec<(PathBuf, Entry)>, SelectError> {
    if text.len() > MAX_LENGTH {
        return Err(SelectError::Long { length: text.len() });
    }
    let pattern = Pattern::parse(text).map_err(|_| SelectError::Pattern { pattern: text.to_owned() })?;
    let mut found = Vec::new();
    let mut ahead = tree.children(Path::new(""))?;
    ahead.reverse();
    while let Some(entry) = ahead.pop() {
        let path = entry.path.to_string_lossy();
        let run = pattern.run(&path);
        if run.itself {
            let resolved = resolve(tree, &path)?;
            found.push((entry.path, resolved));
        } else if run.below && entry.kind == Kind::Folder {
            ahead.extend(tree.children(&entry.path)?.into_iter().rev());
        }
    }
    Ok(found)
}

/// The entry at a path, all links on the way followed within the root.
fn resolve(tree: &dyn Tree, text: &str) -> Result<Entry, SelectError> {
    let missing = || SelectError::NotFound { path: text.to_owned() };
    let mut ahead: Vec<String> = text.split('/').rev().map(str::to_owned).collect();
    let mut at = tree.entry(Path::new(""))?.ok_or_else(missing)?;
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                let parent =
                    at.path.parent().ok_or_else(|| SelectError::Outside { path: text.to_owned() })?;
                at = tree.entry(parent)?.ok_or_else(missing)?;
                continue;
            }
            _ => {}
        }
        if at.kind != Kind::Folder {
            return Err(missing());
        }
        let next = tree.entry(&at.path.join(&part))?.ok_or_else(missing)?;
        let Kind::Link(target) = &next.kind else {
            at = next;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(SelectError::Links { path: text.to_owned() });
        }
        if target.is_absolute() {
            at = tree.entry(Path::new(""))?.ok_or_else(missing)?;
        }
        let parts = target.components().filter(|part| *part != Component::RootDir);
        ahead.extend(parts.rev().map(|part| part.as_os_str().to_string_lossy().into_owned()));
    }
    Ok(at)
}

/// All that is in `folder`, without what is excluded, with paths relative to it.
fn below(tree: &dyn Tree, folder: &Path, exclude: &Ignore) -> Result<Vec<Entry>, SelectError> {
    let mut found: Vec<Entry> = Vec::new();
    let mut ahead = tree.children(folder)?;
    ahead.reverse();
    while let Some(mut entry) = ahead.pop() {
        let path = entry.path.strip_prefix(folder).unwrap_or(&entry.path).to_owned();
        let is_folder = entry.kind == Kind::Folder;
        if exclude.is_ignored(&path) && !(is_folder && exclude.may_include_below(&path)) {
            continue;
        }
        if is_folder {
            ahead.extend(tree.children(&entry.path)?.into_iter().rev());
        }
        entry.path = path;
        found.push(entry);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use crate::Folder;

    /// A folder with files, and links (`name -> target`).
    fn context(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let (name, target) = name.split_once(" -> ").unwrap_or((name, ""));
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match target {
                "" => fs::write(path, name).unwrap(),
                target => symlink(target, path).unwrap(),
            }
        }
        root
    }

    /// Each match as `path => name`, with what is below it behind.
    fn selected(
        root: &Path,
        patterns: &[&str],
        exclude: &[&str],
        parents: bool,
    ) -> Result<Vec<String>, String> {
        let root = fs::File::open(root).unwrap();
        let tree = Folder::new(root.as_fd(), Ignore::default());
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let matched =
            select(&tree, &owned(patterns), &owned(exclude), parents).map_err(|error| error.to_string())?;
        let show = |one: Matched| {
            let below: Vec<_> = one.below.iter().map(|entry| entry.path.display().to_string()).collect();
            format!("{} => {} {below:?}", one.entry.path.display(), one.name.display())
                .trim_end_matches(" []")
                .to_owned()
        };
        Ok(matched.into_iter().map(show).collect())
    }

    const TREE: &[&str] = &["a.txt", "b.txt", "dir/c.txt", "dir/sub/d.md", "dir/link -> ../a.txt"];

    #[test]
    fn patterns_of_the_documentation() {
        let root = context(TREE);
        let cases: &[(&str, &[&str])] = &[
            ("a.txt", &["a.txt => a.txt"]),
            ("/a.txt", &["a.txt => a.txt"]),
            ("./dir/../a.txt", &["a.txt => a.txt"]),
            ("*.txt", &["a.txt => a.txt", "b.txt => b.txt"]),
            ("?.txt", &["a.txt => a.txt", "b.txt => b.txt"]),
            ("dir", &["dir =>  [\"c.txt\", \"link\", \"sub\", \"sub/d.md\"]"]),
            ("dir/", &["dir =>  [\"c.txt\", \"link\", \"sub\", \"sub/d.md\"]"]),
            ("dir/*", &["dir/c.txt => c.txt", "a.txt => link", "dir/sub =>  [\"d.md\"]"]),
            ("d*/s*/*.md", &["dir/sub/d.md => d.md"]),
            ("*.none", &[]),
        ];
        for (pattern, expected) in cases {
            assert_eq!(selected(root.path(), &[pattern], &[], false).unwrap(), *expected, "{pattern}");
        }
        let all = selected(root.path(), &["."], &[], false).unwrap();
        assert_eq!(all.len(), 1);
        assert!(all[0].contains("dir/sub/d.md"), "{all:?}");
    }

    #[test]
    fn what_is_missing_or_outside_is_an_error() {
        let root = context(&["a", "up -> ../x", "abs -> /etc/passwd", "loop -> loop", "dir/out -> ../../x"]);
        let cases = [
            ("x", "failed to compute cache key: \"/x\": not found"),
            ("a/x", "failed to compute cache key: \"/a/x\": not found"),
            ("../a", "forbidden path outside the build context: ../a ()"),
            ("dir/../../a", "forbidden path outside the build context: dir/../../a ()"),
            ("up", "forbidden path outside the build context: up ()"),
            ("dir/out", "forbidden path outside the build context: dir/out ()"),
            ("abs", "failed to compute cache key: \"/abs\": not found"),
            ("loop", "\"loop\" leads through more than 40 links"),
            ("[x", "\"[x\": syntax error in pattern"),
        ];
        for (pattern, error) in cases {
            assert_eq!(selected(root.path(), &[pattern], &[], false).unwrap_err(), error, "{pattern}");
        }
    }

    #[test]
    fn links_to_what_is_meant_are_followed_within_the_root() {
        let root = context(&["real/x", "folder -> real", "deep/abs -> /real/x", "file -> folder/x"]);
        assert_eq!(selected(root.path(), &["folder"], &[], false).unwrap(), ["real =>  [\"x\"]"]);
        assert_eq!(selected(root.path(), &["folder/x"], &[], false).unwrap(), ["real/x => x"]);
        assert_eq!(selected(root.path(), &["deep/abs"], &[], false).unwrap(), ["real/x => abs"]);
        assert_eq!(selected(root.path(), &["file"], &[], false).unwrap(), ["real/x => file"]);
    }

    #[test]
    fn exclude_and_parents() {
        let root = context(TREE);
        let names = |patterns, exclude, parents| selected(root.path(), patterns, exclude, parents).unwrap();
        assert_eq!(names(&["*.txt"], &["b*"], false), ["a.txt => a.txt"]);
        assert_eq!(names(&["dir"], &["**/*.md", "link"], false), ["dir =>  [\"c.txt\", \"sub\"]"]);
        assert_eq!(names(&["dir/sub/d.md"], &[], true), ["dir/sub/d.md => dir/sub/d.md"]);
        assert_eq!(names(&["dir/./sub/d.md"], &[], true), ["dir/sub/d.md => sub/d.md"]);
        assert_eq!(names(&["./dir/sub"], &[], true), ["dir/sub => dir/sub [\"d.md\"]"]);
        assert_eq!(names(&["**/*.md"], &[], true), ["dir/sub/d.md => dir/sub/d.md"]);
    }
}
