//! Addresses of git repositories, as the language has them (docs.docker.com, "Build context", "Git
//! repositories"): `ADDRESS#REFERENCE:FOLDER`, or `ADDRESS?branch=…&tag=…&ref=…&commit=…&checksum=…&subdir=…
//! &submodules=…&keep-git-dir=…`, both parts optional.
//!
//! What is read here is words of a stranger on their way to a program's arguments: what could be taken for
//! an option, or leads where git would execute something, is refused.

use std::path::{Component, Path, PathBuf};

/// Most bytes of an address, of a reference, of a folder.
const LONG: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Repository {
    /// As git is told it.
    pub(super) address: String,
    pub(super) reference: Reference,
    /// Below the repository's root; empty: all of it. No `..` in it.
    pub(super) folder: PathBuf,
    /// What the commit's id must begin with.
    pub(super) checksum: Option<String>,
    pub(super) submodules: bool,
    pub(super) keep_git_dir: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Reference {
    /// What the repository itself begins with.
    Head,
    /// A branch, a tag, or the full name of either.
    Any(String),
    Branch(String),
    Tag(String),
    /// All digits of a commit's id.
    Commit(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RepositoryError {
    #[error("{address:?} is no address of a git repository: {why}")]
    Address { address: String, why: &'static str },
    #[error("{reference:?} cannot be a branch, tag or commit of a git repository")]
    Reference { reference: String },
    #[error("{folder:?} cannot be a folder of a git repository: it leads out of it")]
    Folder { folder: String },
    #[error(
        "{name:?} means nothing in the address of a git repository: it knows ref, branch, tag, commit, checksum, subdir, submodules and keep-git-dir"
    )]
    Query { name: String },
    #[error("{name}={value} in the address of a git repository: it is true or false")]
    Switch { name: String, value: String },
    #[error("the address of a git repository has both ?… and #…: write one")]
    Both,
}

/// Whether an address of a context is a repository's.
pub(super) fn is_repository(text: &str) -> bool {
    let path = text.split(['#', '?']).next().unwrap_or_default();
    ["git://", "git@", "ssh://", "github.com/"].iter().any(|start| text.starts_with(start))
        || (path.starts_with("http://") || path.starts_with("https://")) && path.ends_with(".git")
}

impl Repository {
    pub(super) fn parse(text: &str) -> Result<Repository, RepositoryError> {
        let (rest, fragment) = text.split_once('#').map_or((text, None), |(rest, part)| (rest, Some(part)));
        let (address, query) = rest.split_once('?').map_or((rest, None), |(rest, part)| (rest, Some(part)));
        if fragment.is_some() && query.is_some() {
            return Err(RepositoryError::Both);
        }
        let mut repository = Repository {
            address: checked_address(address)?,
            reference: Reference::Head,
            folder: PathBuf::new(),
            checksum: None,
            submodules: true,
            keep_git_dir: false,
        };
        if let Some(fragment) = fragment {
            let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
            repository.reference = any(reference)?;
            repository.folder = checked_folder(folder)?;
        }
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            repository.take(name, value)?;
        }
        Ok(repository)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), RepositoryError> {
        match name {
            "ref" => self.reference = any(value)?,
            "branch" => self.reference = Reference::Branch(checked_reference(value)?),
            "tag" => self.reference = Reference::Tag(checked_reference(value)?),
            "commit" | "checksum" => {
                let digits = checked_checksum(value)?;
                if self.reference == Reference::Head && is_commit(&digits) {
                    self.reference = Reference::Commit(digits.clone());
                }
                self.checksum = Some(digits);
            }
            "subdir" => self.folder = checked_folder(value)?,
            "submodules" => self.submodules = switch(name, value)?,
            "keep-git-dir" => self.keep_git_dir = switch(name, value)?,
            _ => return Err(RepositoryError::Query { name: name.to_owned() }),
        }
        Ok(())
    }

    /// The full names that the reference can have, those first that win; as git-rev-parse(1) and, for a
    /// branch and a tag of one name, git-checkout(1) have it. An annotated tag is what it leads to.
    pub(super) fn names(&self) -> Vec<String> {
        let tag = |name: &str| [format!("refs/tags/{name}^{{}}"), format!("refs/tags/{name}")];
        let branch = |name: &str| format!("refs/heads/{name}");
        match &self.reference {
            Reference::Head => vec!["HEAD".to_owned()],
            Reference::Commit(_) => Vec::new(),
            Reference::Branch(name) => vec![branch(name)],
            Reference::Tag(name) => tag(name).into(),
            Reference::Any(name) => {
                let mut names = vec![branch(name)];
                names.extend(tag(name));
                names.extend([format!("{name}^{{}}"), name.clone()]);
                names.extend([format!("refs/{name}^{{}}"), format!("refs/{name}")]);
                names
            }
        }
    }

    /// What is looked for among the names that the server has (git-ls-remote(1)).
    pub(super) fn patterns(&self) -> Vec<String> {
        match &self.reference {
            Reference::Head => vec!["HEAD".to_owned()],
            Reference::Commit(_) => Vec::new(),
            Reference::Any(name) | Reference::Branch(name) | Reference::Tag(name) => {
                vec![name.clone(), format!("{name}^{{}}")]
            }
        }
    }

    pub(super) fn is_ssh(&self) -> bool {
        self.address.starts_with("ssh://") || !self.address.contains("://")
    }
}

/// Of the lines that git-ls-remote(1) prints, the commit and the name that is meant.
pub(super) fn pick(lines: &str, names: &[String]) -> Option<(String, String)> {
    let refs: Vec<(&str, &str)> = lines.lines().filter_map(|line| line.split_once('\t')).collect();
    let (id, name) = names.iter().find_map(|name| refs.iter().find(|(_, found)| found == name))?;
    is_commit(id).then(|| ((*id).to_owned(), name.trim_end_matches("^{}").to_owned()))
}

/// All digits of an id by SHA-1 or SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn any(reference: &str) -> Result<Reference, RepositoryError> {
    Ok(match reference {
        "" | "HEAD" => Reference::Head,
        digits if is_commit(digits) => Reference::Commit(digits.to_owned()),
        name => Reference::Any(checked_reference(name)?),
    })
}

/// git-check-ref-format(1), and no more.
fn checked_reference(name: &str) -> Result<String, RepositoryError> {
    let sign = |sign: char| sign.is_control() || sign.is_whitespace() || "~^:?*[\\".contains(sign);
    let part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let wrong = name.starts_with('-')
        || name.len() > LONG
        || name.ends_with('.')
        || name.contains("..")
        || name.contains("@{")
        || name.contains(sign)
        || name.split('/').any(part);
    if wrong { Err(RepositoryError::Reference { reference: name.to_owned() }) } else { Ok(name.to_owned()) }
}

fn checked_checksum(digits: &str) -> Result<String, RepositoryError> {
    let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match hex && (7..=64).contains(&digits.len()) {
        true => Ok(digits.to_ascii_lowercase()),
        false => Err(RepositoryError::Reference { reference: digits.to_owned() }),
    }
}

fn checked_folder(folder: &str) -> Result<PathBuf, RepositoryError> {
    let wrong = || RepositoryError::Folder { folder: folder.to_owned() };
    let mut path = PathBuf::new();
    for component in Path::new(folder).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(wrong()),
        }
    }
    // git's own folder is no part of what a repository holds.
    let own = path.components().any(|part| part.as_os_str().eq_ignore_ascii_case(".git"));
    if own || folder.contains('\0') || folder.len() > LONG { Err(wrong()) } else { Ok(path) }
}

fn switch(name: &str, value: &str) -> Result<bool, RepositoryError> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(RepositoryError::Switch { name: name.to_owned(), value: value.to_owned() }),
    }
}

/// One of the forms of git-clone(1) that lead to another host.
fn checked_address(address: &str) -> Result<String, RepositoryError> {
    let shown = || match address.split_once("://").zip(address.rsplit_once('@')) {
        Some(((scheme, _), (_, host))) => format!("{scheme}://{host}"),
        None => address.to_owned(),
    };
    let wrong = |why| Err(RepositoryError::Address { address: shown(), why });
    if address.len() > LONG || address.contains(|sign: char| sign.is_control() || sign.is_whitespace()) {
        return wrong("it has signs that no address has, or too many");
    }
    let full = match address.starts_with("github.com/") {
        true => format!("https://{address}"),
        false => address.to_owned(),
    };
    let (place, rest) = match full.split_once("://") {
        Some(("http" | "https" | "ssh" | "git", rest)) => rest.split_once('/').unwrap_or((rest, "")),
        Some(_) => return wrong("it begins with none of http://, https://, ssh:// and git://"),
        None => match full.split_once(':') {
            Some((place, path)) if !place.contains('/') && place.contains('@') => (place, path),
            _ => return wrong("it names no host"),
        },
    };
    let (user, host) = place.rsplit_once('@').map_or(("", place), |(user, host)| (user, host));
    if host.is_empty() || rest.is_empty() {
        return wrong("it names no host, or nothing there");
    }
    // To ssh(1) they would be options.
    if [user, host, rest].iter().any(|part| part.starts_with('-')) {
        return wrong("a part of it begins with -");
    }
    // NAME::ADDRESS is a program to execute (gitremote-helpers(7)).
    if !full.contains("://") && full.contains("::") && !host.starts_with('[') {
        return wrong("it names a helper program");
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Repository {
        Repository::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn addresses_say_what_of_a_repository_is_meant() {
        let plain = parse("https://h/r.git");
        assert_eq!((&plain.reference, plain.folder.to_str()), (&Reference::Head, Some("")));
        assert!(plain.submodules && !plain.keep_git_dir && !plain.is_ssh());
        let both = parse("git@h:r.git#v1.0:a/./b/");
        assert_eq!(
            (both.reference.clone(), both.folder.to_str()),
            (Reference::Any("v1.0".into()), Some("a/b"))
        );
        assert!(both.is_ssh() && parse("ssh://git@h:22/r").is_ssh());
        assert_eq!(parse("http://h/r.git#:sub").folder.to_str(), Some("sub"));
        assert_eq!(parse("github.com/u/r").address, "https://github.com/u/r");
        let id = "a".repeat(40);
        assert_eq!(parse(&format!("git://h/r#{id}")).reference, Reference::Commit(id.clone()));
        let asked =
            parse("https://h/r.git?tag=v1&subdir=/x&checksum=ABCDEF1&submodules=false&keep-git-dir=1");
        assert_eq!(
            (asked.reference.clone(), asked.folder.to_str()),
            (Reference::Tag("v1".into()), Some("x"))
        );
        assert_eq!(asked.checksum.as_deref(), Some("abcdef1"));
        assert!(!asked.submodules && asked.keep_git_dir);
        assert_eq!(parse(&format!("https://h/r.git?commit={id}")).reference, Reference::Commit(id));
        assert_eq!(parse("https://h/r.git?branch=a/b").reference, Reference::Branch("a/b".into()));
    }

    #[test]
    fn what_could_be_an_option_a_program_or_a_way_out_is_refused() {
        let long = format!("https://h/{}", "x".repeat(LONG));
        for bad in [
            "https://h/r.git#--upload-pack=touch /x",
            "https://h/r.git#--upload-pack=x",
            "https://h/r.git?ref=-x",
            "https://h/r.git?branch=--upload-pack=x",
            "https://h/r.git?commit=--x",
            "https://h/r.git#a..b",
            "https://h/r.git#a b",
            "https://h/r.git#x.lock",
            "https://h/r.git#main:../x",
            "https://h/r.git#main:a/../../x",
            "https://h/r.git#main:.git/hooks",
            "https://h/r.git?subdir=..",
            "https://h/r.git?nosuch=1",
            "https://h/r.git?submodules=maybe",
            "https://h/r.git?ref=a#b",
            "ext::sh -c true",
            "ext::true@h:x",
            "a@ext::true",
            "file:///etc",
            "/etc",
            "../r.git",
            "r.git",
            "ssh://-oProxyCommand=x/r",
            "ssh://git@-oProxyCommand=x/r",
            "-oProxyCommand=x@h:r",
            "git@-oProxyCommand=x:r",
            "git@h:-x",
            "https://",
            "https://h",
            "git@h:",
            &long,
        ] {
            assert!(Repository::parse(bad).is_err(), "{bad}");
        }
        let error = Repository::parse("ftp://u:secret@h/r").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn contexts_are_repositories_by_their_addresses() {
        for yes in [
            "git@h:r",
            "git://h/r",
            "ssh://h/r",
            "github.com/u/r",
            "http://h/r.git",
            "https://h/r.git#x",
            "https://h/r.git?ref=x",
        ] {
            assert!(is_repository(yes), "{yes}");
        }
        for no in ["http://h/r.tar", "https://h/r.git/x", "http://h/x?y=.git", "./x.git", "/github.com/x"] {
            assert!(!is_repository(no), "{no}");
        }
    }

    #[test]
    fn of_a_branch_and_a_tag_of_one_name_the_branch_is_meant() {
        let id = |sign: &str| sign.repeat(40);
        let lines = format!(
            "{}\trefs/heads/x/v1\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n",
            id("a"),
            id("b"),
            id("c")
        );
        let find = |lines: &str, text: &str| pick(lines, &parse(text).names());
        assert_eq!(find(&lines, "https://h/r.git#v1"), Some((id("c"), "refs/tags/v1".into())));
        assert_eq!(find(&lines, "https://h/r.git#heads/x/v1"), Some((id("a"), "refs/heads/x/v1".into())));
        assert_eq!(find(&lines, "https://h/r.git#refs/tags/v1"), Some((id("c"), "refs/tags/v1".into())));
        assert_eq!(find(&lines, "https://h/r.git#tags/v1"), Some((id("c"), "refs/tags/v1".into())));
        assert_eq!(find(&lines, "https://h/r.git?branch=v1"), None);
        let lines = format!("{lines}{}\trefs/heads/v1\n", id("d"));
        assert_eq!(find(&lines, "https://h/r.git#v1"), Some((id("d"), "refs/heads/v1".into())));
        assert_eq!(find(&lines, "https://h/r.git?tag=v1"), Some((id("c"), "refs/tags/v1".into())));
        assert_eq!(find("--x\tHEAD\n", "https://h/r.git"), None);
    }
}
