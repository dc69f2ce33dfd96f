//! Which packages a system consists of, and in which order they are installed.
//!
//! ```text
//! core    essential packages, those that are required, and what they need: unpacked together, for each
//!         may need another to be configured
//! rounds  the rest; what must be configured before another is unpacked (Pre-Depends) is in a round before
//! ```
//!
//! Of alternatives the first that the archive has is taken, unless one of the others is there anyway; of
//! those that offer a name, the most needed. That is enough for a system that begins with nothing. Conflicts
//! are not looked at: dpkg refuses them, by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::Error;
use crate::packages::{Index, Package, Priority, provides};
use crate::relation::{self, Relation};

/// What a system has besides what it is asked to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Variant {
    /// What other packages rely on without saying so.
    Essential,
    /// That, what is required, and apt.
    #[default]
    Minbase,
    /// That, and what people miss on any system.
    Important,
    /// That, and what they expect on one without a desktop.
    Standard,
}

impl Variant {
    /// By the names that debootstrap(8) and mmdebstrap(1) have for them.
    pub fn parse(text: &str) -> Option<Variant> {
        Some(match text {
            "essential" => Variant::Essential,
            "" | "minbase" => Variant::Minbase,
            "important" => Variant::Important,
            "standard" => Variant::Standard,
            _ => return None,
        })
    }

    fn least(self) -> Option<Priority> {
        match self {
            Variant::Essential => None,
            Variant::Minbase => Some(Priority::Required),
            Variant::Important => Some(Priority::Important),
            Variant::Standard => Some(Priority::Standard),
        }
    }
}

/// Packages to install.
#[derive(Debug)]
pub struct System {
    /// By name.
    pub core: Vec<Package>,
    /// Each by name.
    pub rounds: Vec<Vec<Package>>,
}

impl System {
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.core.iter().chain(self.rounds.iter().flatten())
    }
}

/// Chooses the packages for a system that has `include`, by name.
pub fn resolve(index: &Index, variant: Variant, include: &[String]) -> Result<System, Error> {
    let mut chosen = Chosen { index, packages: BTreeMap::new(), waiting: VecDeque::new() };
    let required = variant != Variant::Essential;
    let is_core =
        |package: &&Package| package.essential || required && package.priority == Priority::Required;
    chosen.close(index.iter().filter(is_core))?;
    let core: Vec<&Package> = chosen.packages.values().copied().collect();
    let mut named = Vec::new();
    for name in include.iter().map(String::as_str).chain(required.then_some("apt")) {
        named.push(index.get(name).ok_or_else(|| Error::NoPackage { name: name.to_owned() })?);
    }
    let by_priority = |package: &&Package| variant.least().is_some_and(|least| package.priority <= least);
    chosen.close(named.into_iter().chain(index.iter().filter(by_priority)))?;
    let known: BTreeSet<&str> = core.iter().map(|package| package.name.as_str()).collect();
    let rest: Vec<&Package> =
        chosen.packages.values().copied().filter(|package| !known.contains(package.name.as_str())).collect();
    let owned = |packages: Vec<&Package>| packages.into_iter().cloned().collect();
    Ok(System { core: owned(core), rounds: rounds(&rest).into_iter().map(owned).collect() })
}

/// A set of packages that is to have all that its members need.
struct Chosen<'a> {
    index: &'a Index,
    packages: BTreeMap<&'a str, &'a Package>,
    /// Members whose needs nobody has looked at.
    waiting: VecDeque<&'a Package>,
}

impl<'a> Chosen<'a> {
    fn close(&mut self, more: impl Iterator<Item = &'a Package>) -> Result<(), Error> {
        more.for_each(|package| self.add(package));
        while let Some(package) = self.waiting.pop_front() {
            for text in [&package.pre_depends, &package.depends] {
                for alternatives in relation::parse(text) {
                    if !alternatives.iter().any(|wanted| self.has(wanted)) {
                        let found = alternatives.iter().find_map(|wanted| self.find(wanted));
                        self.add(found.ok_or_else(|| unsatisfiable(package, &alternatives))?);
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, package: &'a Package) {
        if self.packages.insert(&package.name, package).is_none() {
            self.waiting.push_back(package);
        }
    }

    fn has(&self, wanted: &Relation<'_>) -> bool {
        let named = self.packages.get(wanted.name);
        named.is_some_and(|package| is(package, wanted))
            || self.packages.values().any(|package| provides(package, wanted))
    }

    fn find(&self, wanted: &Relation<'_>) -> Option<&'a Package> {
        let named = self.index.get(wanted.name).filter(|package| is(package, wanted));
        named.or_else(|| self.index.providers(wanted).first().copied())
    }
}

fn is(package: &Package, wanted: &Relation<'_>) -> bool {
    package.name == wanted.name && wanted.bound.is_none_or(|bound| bound.allows(&package.version))
}

fn unsatisfiable(package: &Package, alternatives: &[Relation<'_>]) -> Error {
    let needed: Vec<String> = alternatives.iter().map(Relation::to_string).collect();
    Error::Unsatisfiable { package: package.name.clone(), needed: needed.join(" | ") }
}

/// Parts packages by how many others, one after the other, must be configured before they are unpacked.
/// Within a circle, which dpkg breaks, it does not matter.
fn rounds<'a>(packages: &[&'a Package]) -> Vec<Vec<&'a Package>> {
    let among = |text: &str| -> Vec<usize> {
        let wanted = relation::parse(text);
        let meant = |package: &Package| {
            wanted.iter().flatten().any(|wanted| is(package, wanted) || provides(package, wanted))
        };
        (0..packages.len()).filter(|at| meant(packages[*at])).collect()
    };
    let needs: Vec<(Vec<usize>, Vec<usize>)> =
        packages.iter().map(|package| (among(&package.pre_depends), among(&package.depends))).collect();
    let mut level = vec![0; packages.len()];
    // One more time than the longest chain, at most: then only circles would go on.
    for _ in 0..=packages.len() {
        let before = level.clone();
        for (at, (first, also)) in needs.iter().enumerate() {
            let first = first.iter().filter(|need| **need != at).map(|need| level[*need] + 1);
            let also = also.iter().map(|need| level[*need]);
            level[at] = first.chain(also).fold(level[at], usize::max).min(packages.len());
        }
        if level == before {
            break;
        }
    }
    let mut rounds: BTreeMap<usize, Vec<&'a Package>> = BTreeMap::new();
    for (at, package) in packages.iter().enumerate() {
        rounds.entry(level[at]).or_default().push(package);
    }
    rounds.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of `name: field=value; …`.
    fn index(packages: &[(&str, &str)]) -> Index {
        let stanza = |(name, fields): &(&str, &str)| {
            let fields = fields.replace("; ", "\n");
            format!(
                "Package: {name}\nVersion: 1\nArchitecture: all\nFilename: x\nSize: 0\nSHA256: {}\n{fields}\n\n",
                "0".repeat(64)
            )
        };
        let text: String = packages.iter().map(stanza).collect();
        let mut index = Index::default();
        index.read(text.as_bytes(), "amd64", 0).unwrap();
        index
    }

    fn shown(packages: &[(&str, &str)], variant: Variant, include: &[&str]) -> Result<String, String> {
        let index = index(packages);
        let include: Vec<String> = include.iter().map(|name| (*name).to_owned()).collect();
        let system = resolve(&index, variant, &include).map_err(|error| error.to_string())?;
        let names = |packages: &Vec<Package>| {
            packages.iter().map(|package| package.name.as_str()).collect::<Vec<_>>().join(" ")
        };
        let rounds = system.rounds.iter().map(names).collect::<Vec<_>>();
        Ok([vec![names(&system.core)], rounds].concat().join(" | "))
    }

    #[test]
    fn variants_are_sets_of_priorities() {
        let packages = [
            ("base", "Essential: yes; Priority: required; Depends: lib"),
            ("lib", "Priority: optional"),
            ("init", "Priority: required"),
            ("apt", "Priority: required"),
            ("edit", "Priority: important"),
            ("mail", "Priority: standard"),
            ("game", "Priority: optional"),
        ];
        let check = |variant, expected: &str| assert_eq!(shown(&packages, variant, &[]).unwrap(), expected);
        check(Variant::Essential, "base lib");
        check(Variant::Minbase, "apt base init lib");
        check(Variant::Important, "apt base init lib | edit");
        check(Variant::Standard, "apt base init lib | edit mail");
        assert_eq!(shown(&packages, Variant::Essential, &["game"]).unwrap(), "base lib | game");
    }

    #[test]
    fn of_alternatives_the_first_is_taken_unless_another_is_there() {
        let packages = [
            ("a", "Depends: x | y, awk"),
            ("b", "Depends: none | y"),
            ("x", ""),
            ("y", ""),
            ("late-awk", "Provides: awk"),
            ("mawk", "Provides: awk; Priority: standard"),
        ];
        let check = |include: &[&str], expected: &str| {
            assert_eq!(shown(&packages, Variant::Essential, include).unwrap(), expected);
        };
        check(&["a"], " | a mawk x");
        check(&["b"], " | b y");
        check(&["b", "y", "a"], " | a b mawk y");
        check(&["a", "late-awk"], " | a late-awk x");
    }

    #[test]
    fn what_is_missing_is_named() {
        let packages = [("a", "Depends: b (>= 2) | c"), ("b", "")];
        let why = |include: &[&str], variant| shown(&packages, variant, include).unwrap_err();
        assert_eq!(
            why(&["a"], Variant::Essential),
            r#"package "a" needs "b (>= 2) | c", which the archive does not have"#
        );
        assert_eq!(why(&["d"], Variant::Essential), r#"there is no package "d" in the archive"#);
        assert_eq!(why(&[], Variant::Minbase), r#"there is no package "apt" in the archive"#);
    }

    #[test]
    fn what_must_be_configured_first_is_in_a_round_before() {
        let packages = [
            ("a", "Pre-Depends: b"),
            ("b", "Depends: c"),
            ("c", "Pre-Depends: d"),
            ("d", ""),
            ("e", "Depends: a"),
        ];
        assert_eq!(shown(&packages, Variant::Essential, &["e"]).unwrap(), " | d | b c | a e");
    }

    #[test]
    fn circles_end() {
        let packages = [("a", "Pre-Depends: b"), ("b", "Depends: a"), ("c", "Depends: c; Pre-Depends: c")];
        let shown = shown(&packages, Variant::Essential, &["a", "c"]).unwrap();
        let mut names: Vec<&str> = shown.split([' ', '|']).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
