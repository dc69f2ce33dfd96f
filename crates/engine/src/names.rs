//! Names of containers: what is a valid one, and making one up.

use crate::{Error, Result};

/// Longest name; far above any real one, below every limit of a file name.
const LONGEST: usize = 200;

const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "apt", "ardent", "azure", "bold", "brave", "bright", "brisk", "calm", "candid",
    "cheery", "civil", "clear", "clever", "coral", "cosy", "crisp", "curious", "daring", "deft", "eager",
    "earnest", "elated", "fair", "fleet", "fluent", "frank", "gentle", "glad", "golden", "happy", "hardy",
    "honest", "humble", "ideal", "jolly", "jovial", "keen", "kind", "lively", "loyal", "lucid", "mellow",
    "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "polite", "proud", "quick",
    "quiet", "ready", "robust", "rustic", "serene", "sharp", "silver", "sober", "solid", "steady", "stoic",
    "sunny", "swift", "tidy", "tough", "trusty", "upbeat", "valiant", "vivid", "warm", "wise", "witty",
    "zesty",
];

/// Of people who built, sailed, measured or reasoned.
const SURNAMES: &[&str] = &[
    "abel",
    "adleman",
    "alhazen",
    "anning",
    "avogadro",
    "babbage",
    "backus",
    "banach",
    "bernoulli",
    "boole",
    "brahe",
    "brunel",
    "cantor",
    "carson",
    "cayley",
    "cerf",
    "church",
    "cook",
    "curie",
    "dantzig",
    "descartes",
    "dijkstra",
    "dirac",
    "easley",
    "edison",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fibonacci",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "godel",
    "goodall",
    "hamilton",
    "harrison",
    "heron",
    "hertz",
    "hilbert",
    "hopper",
    "huygens",
    "jacobi",
    "joule",
    "kepler",
    "khwarizmi",
    "knuth",
    "kolmogorov",
    "lagrange",
    "lamarr",
    "lamport",
    "leibniz",
    "lovelace",
    "magellan",
    "maxwell",
    "meitner",
    "mendel",
    "mirzakhani",
    "nansen",
    "napier",
    "newton",
    "nightingale",
    "noether",
    "pascal",
    "pasteur",
    "perlman",
    "planck",
    "raman",
    "ramanujan",
    "ride",
    "riemann",
    "ritchie",
    "rubin",
    "shannon",
    "somerville",
    "stokes",
    "swartz",
    "tesla",
    "thompson",
    "turing",
    "volta",
    "watt",
    "wiles",
    "wing",
    "wu",
    "zeno",
];

/// Refuses what is no container name; `shown` is how the caller's text appears in the message.
pub fn check(name: &str, shown: &str) -> Result<()> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    // The reference's pattern wants two characters at least.
    if first && rest && (2..=LONGEST).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "Invalid container name ({shown}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

/// `adjective_surname`, with a number from the third attempt on, from 64 bits of chance.
pub fn generate(chance: u64, attempt: u32) -> String {
    let adjective = ADJECTIVES[(chance % ADJECTIVES.len() as u64) as usize];
    let surname = SURNAMES[((chance >> 32) % SURNAMES.len() as u64) as usize];
    match attempt {
        0..3 => format!("{adjective}_{surname}"),
        _ => format!("{adjective}_{surname}{}", (chance >> 16) & 0xffff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_reference_allows() {
        for good in ["ab", "a1", "web-1.x_y", "0abc"] {
            check(good, good).unwrap();
        }
        for bad in ["", "a", "-ab", "b@d", "bad name", "a/b", ".x", "ü1", &"a".repeat(201)] {
            assert!(check(bad, bad).is_err(), "{bad}");
        }
        assert_eq!(
            check("bad name", "bad name").unwrap_err().to_string(),
            "Invalid container name (bad name), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        );
    }

    #[test]
    fn every_made_up_name_is_valid() {
        for n in 0..2000u64 {
            let chance = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for attempt in [0, 5] {
                let name = generate(chance, attempt);
                check(&name, &name).unwrap();
                assert!(name.contains('_'));
            }
        }
    }
}
