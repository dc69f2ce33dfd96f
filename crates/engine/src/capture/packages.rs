//! Installed Debian packages, read from dpkg's own files: no program is executed.
//!
//! `var/lib/dpkg/status` holds a stanza for each package (deb-control(5)),
//! `var/lib/dpkg/info/NAME[:ARCH].list` the paths it installed, one a line, and
//! `var/lib/dpkg/alternatives/NAME` a name that several packages can provide
//! (update-alternatives(1)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::CaptureError;

/// One installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) architecture: String,
    /// `Pre-Depends` and `Depends`: each entry is a list of alternatives.
    pub(crate) depends: Vec<Vec<String>>,
}

/// The package database of one host.
#[derive(Debug, Default)]
pub(crate) struct Packages {
    folder: PathBuf,
    installed: BTreeMap<String, Package>,
    /// Names of virtual packages, and who provides them.
    provided: BTreeMap<String, BTreeSet<String>>,
}

impl Packages {
    /// Reads the database below `root`; a host without one has no packages.
    pub(crate) fn read(root: &Path) -> Result<Packages, CaptureError> {
        let folder = root.join("var/lib/dpkg");
        let status = folder.join("status");
        let text = match fs::read(&status) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(CaptureError::read(&status)(error)),
        };
        let mut packages = parse(&text);
        packages.folder = folder;
        Ok(packages)
    }

    /// The packages named and all they depend on, sorted.
    pub(crate) fn closure(&self, names: &[String]) -> Result<BTreeSet<String>, CaptureError> {
        let mut found = BTreeSet::new();
        let mut open: Vec<String> = Vec::new();
        for name in names {
            let installed = self.resolve(name);
            open.push(installed.ok_or_else(|| CaptureError::NoPackage { package: name.clone() })?);
        }
        while let Some(name) = open.pop() {
            if found.contains(&name) {
                continue;
            }
            let package = self.installed.get(&name).cloned().unwrap_or_default();
            for alternatives in package.depends {
                match alternatives.iter().find_map(|one| self.resolve(one)) {
                    Some(dependency) => open.push(dependency),
                    None => {
                        return Err(CaptureError::NoDependency {
                            package: name,
                            dependency: alternatives.join(" | "),
                        });
                    }
                }
            }
            found.insert(name);
        }
        Ok(found)
    }

    pub(crate) fn is_installed(&self, name: &str) -> bool {
        self.installed.contains_key(name)
    }

    /// The installed package that answers to a name.
    fn resolve(&self, name: &str) -> Option<String> {
        if self.is_installed(name) {
            return Some(name.to_owned());
        }
        self.provided.get(name)?.first().cloned()
    }

    /// The paths a package installed, folders among them.
    pub(crate) fn files(&self, name: &str) -> Result<Vec<PathBuf>, CaptureError> {
        let list = self.list_path(name);
        let text = fs::read_to_string(&list).map_err(CaptureError::read(&list))?;
        Ok(text.lines().filter(|line| line.starts_with('/') && *line != "/.").map(PathBuf::from).collect())
    }

    fn list_path(&self, name: &str) -> PathBuf {
        let info = self.folder.join("info");
        let plain = info.join(format!("{name}.list"));
        let architecture = self.installed.get(name).map_or("", |package| &package.architecture);
        match plain.exists() {
            true => plain,
            false => info.join(format!("{name}:{architecture}.list")),
        }
    }

    /// The links of the alternatives system: names below `/etc/alternatives`, and where
    /// the links to these are.
    pub(crate) fn alternatives(&self) -> Vec<(String, PathBuf)> {
        let mut links = Vec::new();
        for entry in fs::read_dir(self.folder.join("alternatives")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if let Some(name) = entry.file_name().to_str() {
                links.extend(alternative(name, &text));
            }
        }
        links.sort();
        links
    }

    /// The package that installed a path. Hosts with a merged `/usr` list some files
    /// below `/bin` and some below `/usr/bin`: both spellings are tried.
    pub(crate) fn owner(&self, path: &Path) -> Option<String> {
        let text = path.to_str()?;
        let other = match text.strip_prefix("/usr/") {
            Some(rest) => format!("/{rest}"),
            None => format!("/usr{text}"),
        };
        self.installed
            .keys()
            .find(|name| {
                let list = fs::read_to_string(self.list_path(name)).unwrap_or_default();
                list.lines().any(|line| line == text || line == other)
            })
            .cloned()
    }
}

/// Reads one alternative: its mode, its link, then a name and a link for each that goes
/// with it, up to an empty line; the candidates behind that do not matter here.
fn alternative(name: &str, text: &str) -> Vec<(String, PathBuf)> {
    let mut lines = text.lines().skip(1).take_while(|line| !line.is_empty());
    let Some(link) = lines.next() else { return Vec::new() };
    let mut links = vec![(name.to_owned(), PathBuf::from(link))];
    while let (Some(name), Some(link)) = (lines.next(), lines.next()) {
        links.push((name.to_owned(), PathBuf::from(link)));
    }
    links
}

fn parse(status: &str) -> Packages {
    let mut packages = Packages::default();
    for stanza in status.split("\n\n") {
        let fields = fields(stanza);
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        // `Status: WANT FLAG STATE`
        if !field("Status").ends_with(" installed") {
            continue;
        }
        let name = field("Package").to_owned();
        let mut depends = dependencies(field("Pre-Depends"));
        depends.extend(dependencies(field("Depends")));
        for provided in dependencies(field("Provides")).into_iter().flatten() {
            packages.provided.entry(provided).or_default().insert(name.clone());
        }
        let package = Package { architecture: field("Architecture").to_owned(), depends };
        packages.installed.entry(name).or_insert(package);
    }
    packages
}

/// The one-line fields of a stanza; continuation lines are not of interest here.
fn fields(stanza: &str) -> BTreeMap<&str, &str> {
    stanza
        .lines()
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect()
}

/// `a (>= 1) | b:any, c` without versions and architectures.
fn dependencies(text: &str) -> Vec<Vec<String>> {
    let name = |one: &str| {
        let end = one.find([' ', '(', ':', '[']).unwrap_or(one.len());
        one[..end].to_owned()
    };
    text.split(',')
        .map(|entry| {
            let names = entry.split('|').map(|one| name(one.trim()));
            names.filter(|name| !name.is_empty()).collect::<Vec<_>>()
        })
        .filter(|alternatives| !alternatives.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: a\nStatus: install ok installed\nArchitecture: amd64\n\
        Pre-Depends: libc6 (>= 2.35)\nDepends: gone | b (>= 1:2~x), mail-agent, c:any\n\
        Description: text\n Depends: trap\n\n\
        Package: b\nStatus: install ok installed\nArchitecture: all\nDepends: a\n\n\
        Package: c\nStatus: install ok installed\nArchitecture: amd64\n\n\
        Package: exim\nStatus: install ok installed\nProvides: mail-agent (= 1)\n\n\
        Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n\n\
        Package: gone\nStatus: deinstall ok config-files\n\n\
        Package: broken\nStatus: install ok installed\nDepends: missing | gone\n";

    #[test]
    fn a_closure_follows_alternatives_and_provides() {
        let packages = parse(STATUS);
        let closure = |name: &str| match packages.closure(&[name.to_owned()]) {
            Ok(names) => names.into_iter().collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(closure("a"), "a b c exim libc6");
        assert_eq!(closure("mail-agent"), "exim");
        assert_eq!(closure("gone"), "package \"gone\" is not installed on this host");
        assert_eq!(
            closure("broken"),
            "package \"broken\" depends on \"missing | gone\", which is not installed"
        );
    }

    #[test]
    fn an_alternative_has_a_link_for_each_name() {
        let text = "auto\n/usr/bin/vi\nvi.1.gz\n/usr/share/man/man1/vi.1.gz\n\n/usr/bin/vim\n30\n\n\n";
        let links = alternative("vi", text);
        let shown: Vec<String> =
            links.iter().map(|(name, link)| format!("{name} {}", link.display())).collect();
        assert_eq!(shown, ["vi /usr/bin/vi", "vi.1.gz /usr/share/man/man1/vi.1.gz"]);
        assert!(alternative("x", "auto\n").is_empty());
    }

    #[test]
    fn the_owner_is_found_under_both_spellings() {
        let root = tempfile::tempdir().unwrap();
        let info = root.path().join("var/lib/dpkg/info");
        fs::create_dir_all(&info).unwrap();
        fs::write(root.path().join("var/lib/dpkg/status"), STATUS).unwrap();
        fs::write(info.join("c:amd64.list"), "/.\n/bin\n/bin/c\n").unwrap();
        let packages = Packages::read(root.path()).unwrap();
        assert_eq!(packages.owner(Path::new("/usr/bin/c")).as_deref(), Some("c"));
        assert_eq!(packages.owner(Path::new("/bin/c")).as_deref(), Some("c"));
        assert_eq!(packages.owner(Path::new("/bin/d")), None);
        assert_eq!(packages.files("c").unwrap(), [PathBuf::from("/bin"), PathBuf::from("/bin/c")]);
    }
}
