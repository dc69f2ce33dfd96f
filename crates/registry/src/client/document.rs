//! Manifests and indexes.
//!
//! By a digest one gets the bytes of that digest or an error. By a tag one gets what the registry says, if it
//! agrees with itself: the digest that it names is of the bytes that it sends, the type that it names is that of
//! the fields. What could be read in two ways is refused (`hull_oci`).

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use hull_fetch::Answer;
use hull_oci::image::{Descriptor, Document, MAX_MANIFEST, media_type};
use hull_oci::{Digest, Hasher};

use super::ask::{Ask, accept};
use super::door::Door;
use super::{Error, Repository, Result};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A document of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub descriptor: Descriptor,
    /// As the registry has it.
    pub bytes: Bytes,
    /// The same, read.
    pub document: Document,
}

impl Fetched {
    /// What a descriptor describes, from `address`: bytes whose digest has been verified.
    ///
    /// # Errors
    /// For a document of another size or type than the descriptor says, or none.
    pub fn described(address: &str, wanted: &Descriptor, bytes: Bytes) -> Result<Fetched> {
        let (expected, found) = (wanted.size, bytes.len() as u64);
        if found != expected {
            return Err(Error::Size { address: address.to_owned(), expected, found });
        }
        let document = parse(address, &bytes)?;
        // Whatever the header says: the descriptor is part of what is verified.
        type_of(address, &document, &wanted.media_type)?;
        Ok(Fetched { descriptor: wanted.clone(), bytes, document })
    }
}

impl Repository {
    /// The manifest or index that a tag or a digest stands for.
    pub async fn manifest(&self, reference: &str) -> Result<Fetched> {
        let digest = Digest::parse(reference).ok();
        let ask = |door| self.manifest_from(door, reference, digest.as_ref());
        Ok(self.each(ask).await?.0)
    }

    async fn manifest_from(&self, door: &Door, reference: &str, digest: Option<&Digest>) -> Result<Fetched> {
        let (answer, bytes) = self.document_bytes(door, reference, digest).await?;
        let address = answer.address.to_string();
        let document = parse(&address, &bytes)?;
        let told = answer.header(CONTENT_TYPE).and_then(|text| text.split(';').next()).unwrap_or_default();
        let media_type = type_of(&address, &document, told.trim())?;
        let digest = digest.cloned().unwrap_or_else(|| Digest::sha256(&bytes));
        let descriptor = Descriptor::new(&media_type, digest, bytes.len() as u64);
        Ok(Fetched { descriptor, bytes, document })
    }

    /// The manifest or index that a descriptor describes, of the type that it names.
    pub async fn document(&self, wanted: &Descriptor) -> Result<Fetched> {
        let reference = wanted.digest.to_string();
        let (fetched, _) = self.each(|door| self.described_from(door, &reference, wanted)).await?;
        Ok(fetched)
    }

    async fn described_from(&self, door: &Door, reference: &str, wanted: &Descriptor) -> Result<Fetched> {
        let (answer, bytes) = self.document_bytes(door, reference, Some(&wanted.digest)).await?;
        Fetched::described(&answer.address.to_string(), wanted, bytes)
    }

    async fn document_bytes(
        &self,
        door: &Door,
        reference: &str,
        digest: Option<&Digest>,
    ) -> Result<(Answer, Bytes)> {
        let mut ask = Ask::get(format!("/manifests/{reference}"));
        // The reference looks before it fetches.
        ask.called = "Head";
        let accepted = HeaderValue::from_str(&media_type::MANIFESTS.join(", "));
        ask.headers.extend(accepted.ok().map(|accepted| (ACCEPT, accepted)));
        let called = ask.called;
        let mut answer = accept(called, self.ask(door, ask).await?, &[StatusCode::OK]).await?;
        let bytes = whole(&mut answer, MAX_MANIFEST as u64).await?;
        let named = answer.header(DOCKER_CONTENT_DIGEST).map(Digest::parse).transpose();
        let address = || answer.address.to_string();
        let named = named.map_err(|error| Error::Nonsense {
            address: address(),
            why: format!("its Docker-Content-Digest: {error}"),
        })?;
        for expected in digest.into_iter().chain(named.as_ref()) {
            verify(&address(), expected, &bytes)?;
        }
        Ok((answer, bytes))
    }

    /// A small blob, of `most` bytes at most.
    pub async fn bytes(&self, wanted: &Descriptor, most: u64) -> Result<Bytes> {
        Ok(self.each(|door| self.bytes_from(door, wanted, most)).await?.0)
    }

    async fn bytes_from(&self, door: &Door, wanted: &Descriptor, most: u64) -> Result<Bytes> {
        let path = format!("/blobs/{}", wanted.digest);
        if wanted.size > most {
            return Err(Error::Large { address: path, most });
        }
        let mut answer = accept("Get", self.ask(door, Ask::get(path)).await?, &[StatusCode::OK]).await?;
        let address = answer.address.to_string();
        let bytes = whole(&mut answer, wanted.size).await?;
        if bytes.len() as u64 != wanted.size {
            return Err(Error::Size { address, expected: wanted.size, found: bytes.len() as u64 });
        }
        verify(&address, &wanted.digest, &bytes)?;
        Ok(bytes)
    }
}

/// A body of `most` bytes at most.
pub(super) async fn whole(answer: &mut Answer, most: u64) -> Result<Bytes> {
    let address = answer.address.clone();
    let large = || Error::Large { address: address.to_string(), most };
    let told = answer.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    if told.is_some_and(|told| told > most) {
        return Err(large());
    }
    let mut bytes = Vec::new();
    match answer.save(&mut bytes, most, |_| {}).await {
        Ok(_) => Ok(bytes.into()),
        Err(hull_fetch::Error::Large { .. }) => Err(large()),
        Err(error) => Err(Error::unreachable("Get", &address, &error)),
    }
}

fn verify(address: &str, expected: &Digest, bytes: &[u8]) -> Result<()> {
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    match hasher.finish() {
        found if found == *expected => Ok(()),
        found => Err(Error::Digest { address: address.to_owned(), expected: expected.clone(), found }),
    }
}

fn parse(address: &str, bytes: &[u8]) -> Result<Document> {
    Document::parse(bytes).map_err(|source| Error::Document { address: address.to_owned(), source })
}

/// The type of a document, which those who name one have to agree on: `told` beside it, and the document itself.
/// Servers that do not know say what any file is.
fn type_of(address: &str, document: &Document, told: &str) -> Result<String> {
    let (inside, possible) = match document {
        Document::Manifest(manifest) => {
            (&manifest.media_type, [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST])
        }
        Document::Index(index) => (&index.media_type, [media_type::OCI_INDEX, media_type::DOCKER_INDEX]),
    };
    let unsaid = ["", "application/json", "application/octet-stream", "text/plain"];
    let told = if unsaid.contains(&told) { "" } else { told };
    let named = if told.is_empty() { inside.as_str() } else { told };
    let known = if named.is_empty() { possible[0] } else { named };
    let agreed = possible.contains(&known) && (inside.is_empty() || inside == known);
    let expected = || if inside.is_empty() { possible[0].to_owned() } else { inside.clone() };
    match agreed {
        true => Ok(known.to_owned()),
        false => Err(Error::MediaType {
            address: address.to_owned(),
            expected: known.to_owned(),
            found: expected(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(inside: &str, told: &str, fields: &str) -> Option<String> {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{inside}",{fields}}}"#);
        type_of("here", &parse("here", text.as_bytes()).unwrap(), told).ok()
    }

    #[test]
    fn a_document_is_of_the_type_that_all_name() {
        use media_type::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
        let config = format!(r#"{{"mediaType":"x","size":1,"digest":"{}"}}"#, Digest::sha256(b"1"));
        let manifest = &format!(r#""config":{config},"layers":[]"#);
        let index = r#""manifests":[]"#;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(typed("", OCI_MANIFEST, manifest), some(OCI_MANIFEST));
        assert_eq!(typed("", DOCKER_MANIFEST, manifest), some(DOCKER_MANIFEST));
        assert_eq!(typed(DOCKER_MANIFEST, DOCKER_MANIFEST, manifest), some(DOCKER_MANIFEST));
        assert_eq!(typed(DOCKER_MANIFEST, "application/json", manifest), some(DOCKER_MANIFEST));
        assert_eq!(typed("", "", manifest), some(OCI_MANIFEST));
        assert_eq!(typed("", "text/plain", index), some(OCI_INDEX));
        assert_eq!(typed(DOCKER_INDEX, DOCKER_INDEX, index), some(DOCKER_INDEX));
        for (inside, told, fields) in [
            (OCI_MANIFEST, DOCKER_MANIFEST, &**manifest),
            ("", OCI_INDEX, manifest),
            ("", OCI_MANIFEST, index),
            (OCI_INDEX, DOCKER_INDEX, index),
            ("", "application/x", index),
        ] {
            assert_eq!(typed(inside, told, fields), None, "{inside:?} {told:?}");
        }
    }
}
