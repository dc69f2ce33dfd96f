//! Signals by name, as kill(1) takes them. Pure.

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal that programs may use, as the C libraries count.
const RTMIN: i32 = 34;

/// The number of `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`; `None` for what is no signal.
pub(crate) fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (0..=hull_sys::signal::MAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let at =
        |name: &str| NAMES.iter().position(|known| *known == name).and_then(|at| i32::try_from(at + 1).ok());
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let number = match name {
        "POLL" => at("IO"),
        "CLD" => at("CHLD"),
        _ if name.starts_with("RTMIN") => offset(&name[5..]).map(|more| RTMIN + more),
        _ if name.starts_with("RTMAX") => offset(&name[5..]).map(|less| hull_sys::signal::MAX + less),
        _ => at(name),
    };
    number.filter(|number| (1..=hull_sys::signal::MAX).contains(number))
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_and_numbers_are_signals() {
        for (text, expected) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("SYS", Some(31)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("65", None),
            ("RTMIN+99", None),
            ("NOPE", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
