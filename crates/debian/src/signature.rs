//! Whether a text was signed by whom the host trusts (RFC 9580).
//!
//! The mathematics are the `pgp` crate's. What counts as good is decided here, because a library cannot
//! know: the digest is of the SHA-2 or SHA-3 families, the signature was made before now and still counts,
//! and so does its key, of which the newest statement of its owner is asked: it has not expired, was not
//! revoked, and may sign. A subkey must have signed in return that it is one.

use pgp::composed::{CleartextSignedMessage, Deserializable as _, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, Signature, SignatureType};
use pgp::types::{KeyDetails as _, Tag};

use crate::Error;
use crate::release::shown;

/// Bytes and lines of a signed text: the time to read it grows with the square of them. The largest known
/// have a few hundred thousand bytes.
const BYTES: usize = 1 << 20;
const LINES: usize = 20_000;
/// Bytes of all its signatures together, and their number.
const SIGNATURES: usize = 64 << 10;
const COUNT: usize = 16;

/// Keys whose signatures count.
#[derive(Debug, Default)]
pub struct Keyring(Vec<SignedPublicKey>);

impl Keyring {
    /// Adds the keys of a file, binary or in ASCII.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let wrong = |error: pgp::errors::Error| Error::Keyring { why: error.to_string() };
        let (keys, _) = SignedPublicKey::from_reader_many(bytes).map_err(wrong)?;
        for key in keys {
            self.0.push(key.map_err(wrong)?);
        }
        Ok(())
    }

    /// Leaves those alone that have one of these fingerprints, their own or a subkey's (small hex digits).
    pub fn keep(&mut self, fingerprints: &[String]) {
        let is = |fingerprint: pgp::types::Fingerprint| fingerprints.contains(&fingerprint.to_string());
        self.0.retain(|key| {
            let mut subkeys = key.public_subkeys.iter();
            is(key.primary_key.fingerprint()) || subkeys.any(|subkey| is(subkey.key.fingerprint()))
        });
    }

    /// Of each key, in small hex digits.
    pub fn fingerprints(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|key| key.primary_key.fingerprint().to_string())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Gives the text that was signed, and nothing that stands around it. `now` is in seconds since the epoch.
///
/// # Errors
/// [`Error::Unsigned`] where no signature can be read, [`Error::Untrusted`] where none is good.
pub fn verify(message: &[u8], keyring: &Keyring, now: i64) -> Result<String, Error> {
    let unsigned = |why: String| Error::Unsigned { why };
    let text = std::str::from_utf8(message).map_err(|error| unsigned(error.to_string()))?;
    bound(text).map_err(unsigned)?;
    let (message, _) =
        CleartextSignedMessage::from_string(text).map_err(|error| unsigned(error.to_string()))?;
    let text = message.signed_text();
    if message.signatures().len() > COUNT {
        return Err(unsigned(format!("it has more than {COUNT} signatures")));
    }
    let mut reasons = Vec::new();
    for signature in message.signatures() {
        match check(signature, &text, keyring, now) {
            Ok(()) => return Ok(text),
            Err(reason) => reasons.push(reason),
        }
    }
    match reasons.is_empty() {
        true => Err(unsigned("it has no signature".to_owned())),
        false => Err(Error::Untrusted { reasons }),
    }
}

type Checked = Result<(), String>;

/// Refuses what would take long to read.
fn bound(text: &str) -> Checked {
    let begin = text.find("\n-----BEGIN PGP SIGNATURE-----").ok_or("it has no signature")?;
    let (text, signatures) = text.split_at(begin);
    if text.len() > BYTES || text.lines().count() > LINES {
        return Err(format!("it is longer than {BYTES} bytes or {LINES} lines"));
    }
    if signatures.len() > SIGNATURES {
        return Err(format!("its signatures are longer than {SIGNATURES} bytes"));
    }
    Ok(())
}

fn check(signature: &Signature, text: &str, keyring: &Keyring, now: i64) -> Checked {
    if !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
        return Err("a signature is not over a document".to_owned());
    }
    let digest = signature.hash_alg();
    if !digest.is_some_and(is_strong) {
        return Err(format!("a signature is over a digest that can be forged ({digest:?})"));
    }
    // Without a name each key would have to be tried.
    if signature.issuer_fingerprint().is_empty() && signature.issuer_key_id().is_empty() {
        return Err("a signature does not say whose it is".to_owned());
    }
    let mut found = Vec::new();
    for key in &keyring.0 {
        if signature.verify(&key.primary_key, text.as_bytes()).is_ok() {
            found.push((key, None));
        }
        let signed = |subkey: &&SignedPublicSubKey| signature.verify(&subkey.key, text.as_bytes()).is_ok();
        if let Some(subkey) = key.public_subkeys.iter().find(signed) {
            found.push((key, Some(subkey)));
        }
    }
    // A key may be there several times, older and newer: what one copy revokes the others cannot restore.
    let mut good = Err(strange(signature, keyring));
    for (key, subkey) in found {
        match counts(signature, (key, subkey), now) {
            Err(why) if why.ends_with(REVOKED) => return Err(why),
            Err(why) if good.is_err() => good = Err(why),
            Err(_) => {}
            Ok(()) => good = Ok(()),
        }
    }
    good
}

/// How a reason ends that no other copy of a key outweighs.
const REVOKED: &str = "was revoked";

/// Whether a signature counts that this key has made.
fn counts(
    signature: &Signature,
    (key, subkey): (&SignedPublicKey, Option<&SignedPublicSubKey>),
    now: i64,
) -> Checked {
    let name = key.primary_key.fingerprint();
    let created = signature.created().map_or(i64::MAX, |created| created.as_secs().into());
    let lifetime = signature.signature_expiration_time().map(|time| time.as_secs());
    in_time(created, lifetime, now).map_err(|why| format!("the signature by key {name} {why}"))?;
    check_primary(key, subkey.is_none(), now).map_err(|why| format!("key {name} {why}"))?;
    match subkey {
        None => Ok(()),
        Some(subkey) => check_subkey(key, subkey, now)
            .map_err(|why| format!("subkey {} of key {name} {why}", subkey.key.fingerprint())),
    }
}

fn is_strong(digest: HashAlgorithm) -> bool {
    use HashAlgorithm::{Sha3_256, Sha3_512, Sha256, Sha384, Sha512};
    matches!(digest, Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512)
}

/// Nobody's key has made it, or somebody's has made it of another text.
fn strange(signature: &Signature, keyring: &Keyring) -> String {
    let by = signature.issuer_fingerprint().iter().map(|print| print.to_string()).next();
    let by = by.or_else(|| signature.issuer_key_id().iter().map(|id| id.to_string()).next());
    let by = by.unwrap_or_else(|| "that is not named".to_owned());
    let is_known = keyring.0.iter().any(|key| {
        let prints = key.public_subkeys.iter().map(|subkey| subkey.key.fingerprint());
        prints.chain([key.primary_key.fingerprint()]).any(|print| print.to_string().ends_with(&by))
    });
    match is_known {
        true => format!("the text is not what key {by} has signed"),
        false => format!("it is by key {by}, which the keyring does not have"),
    }
}

/// Seconds since the epoch; a lifetime of 0 has no end.
fn in_time(created: i64, lifetime: Option<u32>, now: i64) -> Checked {
    match lifetime.filter(|lifetime| *lifetime != 0) {
        _ if created > now => Err("was made in the future: is this host's clock right?".to_owned()),
        Some(lifetime) if created + i64::from(lifetime) < now => {
            Err(format!("has expired at {}", shown(created + i64::from(lifetime))))
        }
        _ => Ok(()),
    }
}

/// What the owner says of the key, the newest word.
fn check_primary(key: &SignedPublicKey, signs: bool, now: i64) -> Checked {
    let (primary, details) = (&key.primary_key, &key.details);
    if details.revocation_signatures.iter().any(|signature| signature.verify_key(primary).is_ok()) {
        return Err(REVOKED.to_owned());
    }
    let of_users = details.users.iter().flat_map(|user| {
        let own = |signature: &&Signature| {
            signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
                && signature.typ() != Some(SignatureType::CertRevocation)
        };
        user.signatures.iter().filter(own)
    });
    let direct = details.direct_signatures.iter().filter(|signature| signature.verify_key(primary).is_ok());
    let word = newest(of_users.chain(direct)).ok_or("does not say of itself what it is for")?;
    let flags = word.key_flags();
    if signs && flags != KeyFlags::default() && !flags.sign() {
        return Err("is not for signatures".to_owned());
    }
    let lifetime = word.key_expiration_time().map(|time| time.as_secs());
    in_time(primary.created_at().as_secs().into(), lifetime, now)
}

fn check_subkey(key: &SignedPublicKey, subkey: &SignedPublicSubKey, now: i64) -> Checked {
    let primary = &key.primary_key;
    let bound = |signature: &&Signature| signature.verify_subkey_binding(primary, &subkey.key).is_ok();
    let (revoked, bound): (Vec<&Signature>, Vec<&Signature>) = subkey
        .signatures
        .iter()
        .filter(bound)
        .partition(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation));
    if !revoked.is_empty() {
        return Err(REVOKED.to_owned());
    }
    let word = newest(bound.into_iter()).ok_or("is nobody's")?;
    let agrees = |word: &Signature| {
        let back = word.embedded_signature()?;
        back.verify_primary_key_binding(&subkey.key, primary).ok()
    };
    if !word.key_flags().sign() || agrees(word).is_none() {
        return Err("is not for signatures".to_owned());
    }
    let lifetime = word.key_expiration_time().map(|time| time.as_secs());
    in_time(subkey.key.created_at().as_secs().into(), lifetime, now)
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|signature| signature.created().map(|created| created.as_secs()))
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
