//! Why an archive is not believed, or cannot be used. The caller says which archive or file it was.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("line {line}: {why}")]
    Control { line: usize, why: &'static str },
    #[error("the keyring cannot be read: {why}")]
    Keyring { why: String },
    #[error("it is no text with OpenPGP signatures: {why}")]
    Unsigned { why: String },
    /// None of its signatures is good; one line for each.
    #[error("its signature is not trusted: {}", .reasons.join("; "))]
    Untrusted { reasons: Vec<String> },
    #[error("it has no usable field {field:?}")]
    Field { field: &'static str },
    #[error("it is for {found}, not for {wanted:?}")]
    Suite { found: String, wanted: String },
    #[error(
        "it was to be used until {until} and no longer: the mirror is out of date, or this host's clock is wrong"
    )]
    Expired { until: String },
    #[error("it was made at {date}, which is still to come: this host's clock is wrong")]
    Future { date: String },
    #[error("package {package:?}: field {field:?} cannot be used")]
    Package { package: String, field: &'static str },
    #[error("there is no package {name:?} in the archive")]
    NoPackage { name: String },
    #[error("package {package:?} needs {needed:?}, which the archive does not have")]
    Unsatisfiable { package: String, needed: String },
    #[error("it is no Debian package: {why}")]
    Deb { why: &'static str },
}
