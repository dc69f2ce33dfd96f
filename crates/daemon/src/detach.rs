//! The keys that leave a terminal without ending its program: `ctrl-p,ctrl-q` unless the client
//! names others.
//!
//! Bytes that may be the beginning of the sequence are held back until the next byte decides;
//! when it does not continue the sequence, they go on as they were.

/// A sequence of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Keys {
        Keys(vec![0x10, 0x11])
    }
}

impl Keys {
    /// Comma-separated: a letter or sign for itself, `ctrl-` with a letter or one of `@ [ \ ] ^ _`.
    /// Empty is the default; `None` if it is none of this.
    pub(crate) fn parse(text: &str) -> Option<Keys> {
        if text.is_empty() {
            return Some(Keys::default());
        }
        let mut keys = Vec::new();
        for word in text.split(',') {
            keys.push(match word.strip_prefix("ctrl-") {
                Some(key) => {
                    let &[byte] = key.as_bytes() else { return None };
                    match byte {
                        b'a'..=b'z' => byte - b'a' + 1,
                        b'@' => 0,
                        b'[' | b'\\' | b']' | b'^' | b'_' => byte - b'[' + 27,
                        _ => return None,
                    }
                }
                None => {
                    let &[byte] = word.as_bytes() else { return None };
                    byte
                }
            });
        }
        Some(Keys(keys))
    }
}

/// Looks for the sequence in a stream of bytes.
#[derive(Debug)]
pub(crate) struct Filter {
    keys: Keys,
    matched: usize,
}

/// What a block of input is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Forward(Vec<u8>),
    /// The sequence was typed; what came before it in the block still counts.
    Detach(Vec<u8>),
}

impl Filter {
    pub(crate) fn new(keys: Keys) -> Filter {
        Filter { keys, matched: 0 }
    }

    pub(crate) fn feed(&mut self, block: &[u8]) -> Typed {
        let keys = &self.keys.0;
        let mut forward = Vec::with_capacity(block.len() + self.matched);
        for &byte in block {
            if byte != keys[self.matched] {
                forward.extend_from_slice(&keys[..self.matched]);
                self.matched = 0;
            }
            // Not `else`: the byte that breaks a sequence may begin the next one.
            if byte == keys[self.matched] {
                self.matched += 1;
                if self.matched == keys.len() {
                    return Typed::Detach(forward);
                }
            } else {
                forward.push(byte);
            }
        }
        Typed::Forward(forward)
    }

    /// What was held back when the input ended.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.keys.0[..self.matched]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_spelled_as_the_reference_spells_them() {
        assert_eq!(Keys::parse(""), Some(Keys(vec![16, 17])));
        assert_eq!(Keys::parse("a,b"), Some(Keys(b"ab".to_vec())));
        assert_eq!(Keys::parse("ctrl-a,ctrl-@,ctrl-_,ctrl-["), Some(Keys(vec![1, 0, 31, 27])));
        for bad in ["nonsense", "ctrl-", "ctrl-A", "a,", "ctrl-aa", ","] {
            assert_eq!(Keys::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_sequence_is_found_across_blocks_and_nothing_else_is_lost() {
        let mut filter = Filter::new(Keys::default());
        assert_eq!(filter.feed(b"ab\x10"), Typed::Forward(b"ab".to_vec()));
        assert_eq!(filter.feed(b"c"), Typed::Forward(b"\x10c".to_vec()));
        assert_eq!(filter.feed(b"\x10\x10"), Typed::Forward(b"\x10".to_vec()));
        assert_eq!(filter.rest(), b"\x10");
        assert_eq!(filter.feed(b"\x11later"), Typed::Detach(Vec::new()));
    }
}
