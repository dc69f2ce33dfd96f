//! Who asks a registry.

use std::fmt;

/// What somebody can show to a registry. Nothing of it is ever printed.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Credentials {
    #[default]
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    /// Stands for a user's password; tokens are made of it (distribution-spec's `auth/oauth`: a refresh token).
    IdentityToken {
        user: String,
        token: String,
    },
    /// A finished token: goes into the requests as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Password { .. } => "Password(…)",
            Credentials::IdentityToken { .. } => "IdentityToken(…)",
            Credentials::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}

impl Credentials {
    /// Who it is, if that can be told.
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Credentials::Password { user, .. } | Credentials::IdentityToken { user, .. } => Some(user),
            Credentials::Anonymous | Credentials::RegistryToken(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_printed() {
        let text = |part: &str| format!("s3cret-{part}");
        let all = [
            Credentials::Password { user: text("user"), password: text("password") },
            Credentials::IdentityToken { user: text("user"), token: text("token") },
            Credentials::RegistryToken(text("token")),
        ];
        assert!(!format!("{all:?}").contains("s3cret"), "{all:?}");
    }
}
