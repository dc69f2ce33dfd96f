//! What a fuzzer calls: any bytes, and nothing may panic, hang or grow without end; and what is true of
//! every Dockerfile that is read is checked.

use super::ast::{Dockerfile, Instruction, Kind, Word};
use super::check::{Facts, Settings, check};
use super::span::Span;
use super::{expand, mount, parse, trigger};

/// Reads any bytes as a Dockerfile, expands it, checks it, and shows what is wrong.
pub fn fuzz_dockerfile(data: &[u8]) {
    match parse(data) {
        Ok(file) => {
            let text = std::str::from_utf8(data).expect("only UTF-8 is read");
            covers(text, &file);
            uses(text, &file);
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "what is refused has a reason");
            let text = String::from_utf8_lossy(data);
            for problem in problems {
                let Span { start, end } = problem.span;
                assert!(start <= end && end <= data.len(), "{problem:?} is outside of the file");
                assert!(!problem.show("Dockerfile", &text).is_empty());
            }
        }
    }
}

/// Instructions and directives follow each other, and between them there is nothing that counts.
fn covers(text: &str, file: &Dockerfile) {
    let directives = file.directives.iter().map(|directive| directive.span);
    let spans = directives.chain(file.instructions.iter().map(|instruction| instruction.span));
    let mut at = 0;
    for span in spans.chain([Span::new(text.len(), text.len())]) {
        assert!(at <= span.start && span.start <= span.end, "{span:?} begins before {at}");
        let between = text.get(at..span.start).expect("spans end between characters");
        // A line that was continued to the end of the file leaves its comments and its escape behind.
        for line in between.trim_start_matches('\u{feff}').lines().map(str::trim) {
            let rest = line.trim_start_matches(file.escape);
            assert!(rest.is_empty() || rest.starts_with('#'), "{line:?} belongs to no instruction");
        }
        at = span.end;
    }
    for instruction in &file.instructions {
        within(text, instruction, instruction.span);
    }
}

fn within(text: &str, instruction: &Instruction, outer: Span) {
    let inside = |span: Span| outer.start <= span.start && span.start <= span.end && span.end <= outer.end;
    assert!(inside(instruction.span) && inside(instruction.name), "{instruction:?} is not in {outer:?}");
    for Word { text: word, span } in expand::expanded(&instruction.kind) {
        assert!(inside(*span), "{word:?} at {span:?} is not in {outer:?}");
        let written = text.get(span.start..span.end).expect("spans end between characters");
        // Where nothing was joined, and no quote was taken away, it stands there as it is.
        if !written.contains(['\n', '"', '\'', '\\', '`']) {
            assert_eq!(word, written);
        }
    }
    if let Kind::Onbuild(onbuild) = &instruction.kind {
        within(text, &onbuild.trigger, outer);
    }
}

/// All that is done with a file that was read.
fn uses(text: &str, file: &Dockerfile) {
    let lookup = |name: &str| name.starts_with('a').then(|| format!("{name} *\"'$x"));
    for instruction in &file.instructions {
        if let Err(problem) = expand::instruction(instruction, file.escape, &lookup, &|_, _| Ok(())) {
            assert!(problem.span.end <= text.len(), "{problem:?} is outside of the file");
            assert!(!problem.show("Dockerfile", text).is_empty());
        }
        if let Kind::Run(run) = &instruction.kind {
            for flag in &run.mounts {
                // Values can be wrong; that is told, and not a panic.
                let _ = mount::resolve(flag, &mut |word| expand::word(word, file.escape, &lookup));
            }
        }
        if let Kind::Onbuild(onbuild) = &instruction.kind
            && file.escape == '\\'
        {
            // What an image keeps can be read when it is built upon.
            let again = trigger(&onbuild.text).expect("a trigger is read again");
            assert_eq!(format!("{:?}", std::mem::discriminant(&again.kind)), {
                format!("{:?}", std::mem::discriminant(&onbuild.trigger.kind))
            });
        }
    }
    let settings = Settings::of(file).expect("parse has refused what it cannot be");
    let facts = Facts { variables: &|_| Some(Vec::new()), ignored: &|path| path.len() % 2 == 0 };
    for warning in check(text, file, &settings, &facts) {
        assert!(warning.span.end <= text.len(), "{warning:?} is outside of the file");
        assert!(!warning.show("Dockerfile", text).is_empty());
    }
}

/// Expands any text: the first line is the word, the rest the value of all variables.
pub fn fuzz_expand(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (text, value) = text.split_once('\n').unwrap_or((&text, "value"));
    let word = Word { text: text.to_owned(), span: Span::new(0, text.len()) };
    for escape in ['\\', '`'] {
        let lookup = |name: &str| (!name.starts_with('u')).then(|| value.to_owned());
        if let Ok(value) = expand::word(&word, escape, &lookup) {
            assert!(value.len() <= expand::MAX_VALUE);
        }
        let _ = expand::words(&word, escape, &lookup);
        let _ = expand::unset(&word, escape, &lookup);
    }
}
