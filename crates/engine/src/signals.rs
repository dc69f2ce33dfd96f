//! Signals by name or number, as the reference reads them: any case, with or without `SIG`,
//! `RTMIN+n`, `RTMAX-n`, or a number from 1 on (signal(7)).

const NAMES: &[(&str, i32)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", MIN_RT),
    ("RTMAX", MAX_RT),
];

/// As the C library counts them: it keeps the first two for itself.
const MIN_RT: i32 = 34;
const MAX_RT: i32 = 64;

pub const SIGTERM: i32 = 15;
pub const SIGKILL: i32 = 9;

/// The number, 1 to 64, or `None` if there is no such signal.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=MAX_RT).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(number);
    }
    let (base, offset) = match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
        (Some(offset), _) => (MIN_RT, i32::from(offset.parse::<u8>().ok()?)),
        (_, Some(offset)) => (MAX_RT, -i32::from(offset.parse::<u8>().ok()?)),
        _ => return None,
    };
    // Neither reaches past the middle of the range.
    (offset.abs() <= 15).then_some(base + offset)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_numbers_and_real_time_signals() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("usr1", 10),
            ("SIGCONT", 18),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-14", 50),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in [
            "",
            "0",
            "65",
            "-9",
            "NOPE",
            "SIG",
            "FOO",
            "RTMIN+16",
            "RTMIN+-3",
            "RTMAX-16",
            "SIGSIGTERM",
            " 9",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
