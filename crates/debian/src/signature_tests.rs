//! Keys and signatures of GnuPG's, made with its clock at 2020 and 2021.

use super::*;

const KEYS: &[u8] = include_bytes!("../testdata/keys.asc");
/// The same in binary.
const BINARY: &[u8] = include_bytes!("../testdata/keys.gpg");
const REVOKED: &[u8] = include_bytes!("../testdata/revoked.asc");
const SUBKEY_REVOKED: &[u8] = include_bytes!("../testdata/subkey-revoked.asc");

/// By the first key's subkeys.
const ED25519: &str = include_str!("../testdata/ed25519.asc");
const RSA: &str = include_str!("../testdata/rsa.asc");
/// Over SHA-1.
const SHA1: &str = include_str!("../testdata/sha1.asc");
/// Counts for two days.
const BRIEF: &str = include_str!("../testdata/brief.asc");
/// By a key that counts for a year.
const SHORT: &str = include_str!("../testdata/short.asc");
/// By a key that is in no keyring; and by that and another.
const STRANGER: &str = include_str!("../testdata/stranger.asc");
const BOTH: &str = include_str!("../testdata/both.asc");

const TEXT: &str = "Suite: wood\r\n- dash\r\nDate: then";
const DAY: i64 = 86400;
/// 2021-01-01T00:00:00Z, when the texts were signed.
const SIGNED: i64 = 1_609_459_200;

fn check(message: &str, keys: &[u8], now: i64) -> Result<String, String> {
    let mut keyring = Keyring::default();
    keyring.read(keys).unwrap();
    verify(message.as_bytes(), &keyring, now).map_err(|error| error.to_string())
}

fn refused(message: &str, keys: &[u8], now: i64, why: &str) {
    let error = check(message, keys, now).unwrap_err();
    assert!(error.contains(why), "{error:?} does not say {why:?}");
}

#[test]
fn what_a_key_of_the_ring_has_signed_is_believed() {
    for keys in [KEYS, BINARY] {
        for message in [ED25519, RSA, BOTH, BRIEF] {
            assert_eq!(check(message, keys, SIGNED + DAY).unwrap().trim_end(), TEXT);
        }
    }
}

#[test]
fn a_text_that_was_changed_is_refused() {
    for message in [ED25519, RSA] {
        refused(&message.replace("wood", "iron"), KEYS, SIGNED, "the text is not what key");
    }
}

#[test]
fn nothing_stands_around_the_signed_text() {
    for message in
        [format!("Suite: iron\n{ED25519}"), format!("{ED25519}Suite: iron\n"), format!("{ED25519}{RSA}")]
    {
        refused(&message, KEYS, SIGNED, "it is no text with OpenPGP signatures");
    }
    for message in ["", "Suite: wood\n", &ED25519[..ED25519.len() / 2]] {
        refused(message, KEYS, SIGNED, "it is no text with OpenPGP signatures");
    }
}

#[test]
fn what_takes_long_to_read_is_refused() {
    let lines = |line: &str, count| ED25519.replacen("Suite: wood", &line.repeat(count), 1);
    refused(&lines("x\n", LINES), KEYS, SIGNED, "it is longer than");
    refused(&lines("x", BYTES), KEYS, SIGNED, "it is longer than");
    let tail = format!("{ED25519}{}", "\n".repeat(SIGNATURES));
    refused(&tail, KEYS, SIGNED, "its signatures are longer than");
}

#[test]
fn strangers_are_not_believed() {
    let stranger = "e9fc025591c0d722745ba4bdf53f3279b3348035, which the keyring does not have";
    refused(STRANGER, KEYS, SIGNED, stranger);
    refused(BOTH, REVOKED, SIGNED, stranger);
}

#[test]
fn keys_and_signatures_count_in_their_time() {
    refused(ED25519, KEYS, SIGNED - 1, "was made in the future");
    // The subkey's ten years.
    assert!(check(ED25519, KEYS, SIGNED + 8 * 365 * DAY).is_ok());
    refused(ED25519, KEYS, SIGNED + 10 * 365 * DAY, "has expired at 2029-12-29T");
    refused(BRIEF, KEYS, SIGNED + 3 * DAY, "has expired at 2021-01-03T00:00:00Z");
    assert!(check(SHORT, KEYS, SIGNED - 30 * DAY).is_ok());
    refused(SHORT, KEYS, SIGNED, "45886d66c8c440ac9e29094d77806abbcfe7af35 has expired at 2020-12-31T");
}

#[test]
fn what_was_revoked_does_not_count() {
    refused(RSA, SUBKEY_REVOKED, SIGNED, "subkey 5a3445d94cc0de221bd4d3d2d872da2d063ba73f");
    refused(RSA, SUBKEY_REVOKED, SIGNED, "was revoked");
    assert!(check(ED25519, SUBKEY_REVOKED, SIGNED).is_ok());
    refused(ED25519, REVOKED, SIGNED, "key 3aa8d13e149441ea63c294cfacd6d67ae38a102a was revoked");
}

#[test]
fn a_key_that_is_revoked_in_one_of_its_copies_does_not_count() {
    for copies in [[KEYS, REVOKED], [REVOKED, KEYS]] {
        let mut keyring = Keyring::default();
        copies.iter().for_each(|copy| keyring.read(copy).unwrap());
        let refused = verify(ED25519.as_bytes(), &keyring, SIGNED).unwrap_err().to_string();
        assert!(refused.contains("was revoked"), "{refused}");
    }
}

#[test]
fn digests_that_can_be_forged_do_not_count() {
    refused(SHA1, KEYS, SIGNED, "over a digest that can be forged");
}

#[test]
fn what_is_no_keyring_is_refused() {
    let read = |bytes: &[u8]| Keyring::default().read(bytes).map_err(|error| error.to_string());
    assert!(read(b"nothing").unwrap_err().starts_with("the keyring cannot be read"));
}
