//! Why something could not be fetched: which address, what went wrong, what can be done.

use std::io;
use std::time::Duration;

/// Addresses in it have no credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{address:?} cannot be fetched: {why}")]
    Address { address: String, why: String },
    /// The certificates that the host trusts cannot be read, or there are none.
    #[error(
        "the certificates that this host trusts cannot be read: {why}; install ca-certificates, or name a file with SSL_CERT_FILE"
    )]
    Roots { why: String },
    /// What was given for one server cannot be used.
    #[error("no TLS with {host} by what is configured for it: {why}")]
    Tls { host: String, why: String },
    /// A redirect of a request whose body cannot, or may not, be sent there, too.
    #[error("{from} leads to {to}, where what it was sent does not follow")]
    Body { from: String, to: String },
    /// No connection, or none that is trusted; the source says which.
    #[error("{address} cannot be reached{}", through(proxy))]
    Connect { address: String, proxy: Option<String>, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{address} has not {what} within {} seconds", limit.as_secs())]
    Late { address: String, what: &'static str, limit: Duration },
    #[error("{address} answers with {status} without a place to go to")]
    Location { address: String, status: u16 },
    #[error("{address} leads to more than {most} other addresses, one after the other")]
    Redirects { address: String, most: usize },
    #[error(
        "{from} leads to {to}, which is not encrypted: ask for that address itself if it is to be trusted"
    )]
    Downgrade { from: String, to: String },
    /// The body ended before it was whole.
    #[error("what {address} sends has broken off")]
    Cut { address: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{address} sends more than {most} bytes")]
    Large { address: String, most: u64 },
    #[error("what {address} sends cannot be written")]
    Write { address: String, source: io::Error },
}

fn through(proxy: &Option<String>) -> String {
    match proxy {
        Some(proxy) => format!(" through the proxy {proxy} (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)"),
        None => String::new(),
    }
}
