//! Whom a client trusts, and who it is, server by server.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::Error;

/// What holds for one server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of authorities besides those that the host trusts, in PEM.
    pub roots: Vec<Vec<u8>>,
    /// Shown to a server that asks who this is.
    pub identity: Option<Identity>,
    /// Whoever answers is believed.
    pub unverified: bool,
}

/// A certificate with those that lead to its authority, and its key; in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificates: Vec<u8>,
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tls { roots, identity, unverified } = self;
        f.debug_struct("Tls")
            .field("roots", &roots.len())
            .field("identity", identity)
            .field("unverified", unverified)
            .finish()
    }
}

/// Whom the host trusts, and `more` (DER). Reads files.
pub(crate) fn roots(more: &[Vec<u8>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if let (0, Some(error)) = (added, found.errors.first()) {
        return Err(Error::Roots { why: error.to_string() });
    }
    for root in more {
        let root = CertificateDer::from(root.as_slice());
        roots.add(root).map_err(|error| Error::Roots { why: error.to_string() })?;
    }
    Ok(roots)
}

/// For one server, or for all that have nothing of their own.
pub(crate) fn config(host: &str, mut roots: RootCertStore, tls: &Tls) -> Result<ClientConfig, Error> {
    let wrong = |why: String| Error::Tls { host: host.to_owned(), why };
    for pem in &tls.roots {
        for root in CertificateDer::pem_slice_iter(pem) {
            let root = root.map_err(|error| wrong(format!("an authority's certificate: {error}")))?;
            roots.add(root).map_err(|error| wrong(format!("an authority's certificate: {error}")))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let config = match tls.unverified {
        true => config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        false => config.with_root_certificates(roots),
    };
    let Some(identity) = &tls.identity else { return Ok(config.with_no_client_auth()) };
    let certificates = CertificateDer::pem_slice_iter(&identity.certificates).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| wrong(format!("the client's certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key);
    let key = key.map_err(|error| wrong(format!("the client's key: {error}")))?;
    config
        .with_client_auth_cert(certificates, key)
        .map_err(|error| wrong(format!("the client's certificate and key: {error}")))
}

/// Whatever certificate a server has; it has to have the key of it.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
