//! A change of permissions as chmod(1) reads it: octal digits, or `u+x,go-w`.

/// What becomes of a file's permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    Absolute(u32),
    Symbolic(Vec<Clause>),
}

/// One part of a symbolic change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clause {
    /// The bits of those whom it is about, as `0o700`, `0o070`, `0o007` and what belongs to them.
    who: u32,
    /// `+`, `-` or `=`.
    operation: u8,
    /// The permissions for everybody, of which `who` takes its part.
    bits: u32,
    /// `X`: execution where it is a folder, or executable already.
    conditional: bool,
}

impl ModeChange {
    /// `None`: it is neither.
    pub fn parse(text: &str) -> Option<ModeChange> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)?;
            return Some(ModeChange::Absolute(mode));
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let who_end = part.find(['+', '-', '='])?;
            let (mut who, mut rest) = (0, part.as_bytes().get(who_end..)?);
            for byte in part.bytes().take(who_end) {
                who |= match byte {
                    b'u' => 0o4700,
                    b'g' => 0o2070,
                    b'o' => 0o1007,
                    b'a' => 0o7777,
                    _ => return None,
                };
            }
            who = if who == 0 { 0o7777 } else { who };
            // Several changes of the same may stand after each other: `u=r+x`.
            while let Some((&operation, more)) = rest.split_first() {
                let end = more.iter().position(|byte| b"+-=".contains(byte)).unwrap_or(more.len());
                let (mut bits, mut conditional) = (0, false);
                for byte in &more[..end] {
                    match byte {
                        b'r' => bits |= 0o444,
                        b'w' => bits |= 0o222,
                        b'x' => bits |= 0o111,
                        b'X' => conditional = true,
                        b's' => bits |= 0o6000,
                        b't' => bits |= 0o1000,
                        _ => return None,
                    }
                }
                clauses.push(Clause { who, operation, bits, conditional });
                rest = &more[end..];
            }
        }
        Some(ModeChange::Symbolic(clauses))
    }

    /// The permission bits of a file that has `mode`.
    pub fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        let clauses = match self {
            ModeChange::Absolute(mode) => return *mode,
            ModeChange::Symbolic(clauses) => clauses,
        };
        clauses.iter().fold(mode & 0o7777, |mode, clause| {
            let executable = clause.conditional && (is_folder || mode & 0o111 != 0);
            let bits = (clause.bits | if executable { 0o111 } else { 0 }) & clause.who;
            match clause.operation {
                b'+' => mode | bits,
                b'-' => mode & !bits,
                _ => mode & !(clause.who & 0o777) | bits,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_digits_and_words_of_chmod() {
        let check = |text: &str, mode: u32, folder: bool, expected: u32| {
            let change = ModeChange::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(format!("{:o}", change.apply(mode, folder)), format!("{expected:o}"), "{text}");
        };
        check("755", 0o600, false, 0o755);
        check("04711", 0o600, false, 0o4711);
        check("u+x", 0o644, false, 0o744);
        check("+x", 0o644, false, 0o755);
        check("go-rwx", 0o755, true, 0o700);
        check("a=rX", 0o600, false, 0o444);
        check("a=rX", 0o700, true, 0o555);
        check("u=rwx,g=rx,o=", 0o777, false, 0o750);
        check("u=r+x", 0o644, false, 0o544);
        check("g+s,+t", 0o755, true, 0o3755);
        for bad in ["", "8", "12345", "u", "z+x", "u+z", "u+x,"] {
            assert_eq!(ModeChange::parse(bad), None, "{bad:?}");
        }
    }
}
