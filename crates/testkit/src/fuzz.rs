//! A small mutation fuzzer on stable Rust: seeds, a generator of changes, a time limit.
//!
//! No coverage feedback: what it finds, it finds by keeping close to valid documents. Each crate's
//! `fuzz` functions can be given to a coverage-guided fuzzer as they are. The generator is seeded
//! by a number that a failure prints, so that every finding repeats.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Calls `target` with changed copies of `seeds` until `time` is over. Panics with the input (as a
/// Rust byte string) if the target panics or takes longer than five seconds for one input.
#[track_caller]
pub fn drive(name: &str, seeds: &[&[u8]], time: Duration, target: fn(&[u8])) {
    let seed = std::env::var("HULL_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    let mut random = Random(seed);
    let start = Instant::now();
    let mut corpus: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    corpus.push(Vec::new());
    let mut count = 0u64;
    let mut pending = corpus.clone();
    while start.elapsed() < time {
        let input = pending.pop().unwrap_or_else(|| change(&corpus, &mut random));
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let shown = || input.escape_ascii().to_string();
        assert!(result.is_ok(), "{name} panics (HULL_FUZZ_SEED={seed}, input {count}): b\"{}\"", shown());
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{name} takes {:?}: b\"{}\"",
            began.elapsed(),
            shown()
        );
        count += 1;
    }
    assert!(count > 100, "{name}: only {count} inputs in {time:?}");
}

/// xorshift64* (Vigna): fast, and good enough to choose what to break.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Another sequence for every seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number from 0 to `limit`, without that; 0 for 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }
}

const INTERESTING: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"../",
    b"/",
    b":",
    b"@",
    b"sha256:",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"-1",
    b"18446744073709551616",
    b"9223372036854775808",
    b"\r\n",
    b"\xf0\x9f\x92\xa9",
    b".wh.",
    b".wh..wh..opq",
    b"{{",
    b"}}",
    b"0x",
    b"1e999",
    b"\x80\0\0\0\0\0\0\x7f",
];

fn change(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(data.len() + 1);
        match random.below(7) {
            0 if !data.is_empty() => {
                let at = random.below(data.len());
                data[at] ^= 1 << random.below(8);
            }
            1 if !data.is_empty() => {
                let at = random.below(data.len());
                data[at] = random.next() as u8;
            }
            2 => data.truncate(at),
            3 => {
                let word = INTERESTING[random.below(INTERESTING.len())];
                data.splice(at..at, word.iter().copied());
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(600)).min(other.len());
                data.splice(at..at, other[from..to].iter().copied());
            }
            5 => {
                let end = (at + random.below(64)).min(data.len());
                data.drain(at..end);
            }
            _ => {
                let end = (at + random.below(64)).min(data.len());
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
        }
        data.truncate(1 << 20);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_near_a_seed_is_found_and_shown() {
        let found = catch_unwind(|| {
            drive("sample", &[b"abcdef"], Duration::from_secs(20), |data| {
                assert!(!(data.len() > 3 && data[3] == b'{'), "found");
            });
        });
        let message = found.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("sample panics") && message.contains('{'), "{message}");
    }
}
