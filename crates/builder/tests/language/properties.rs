//! What is true of every input, well formed or not: [`fuzz_dockerfile`] asserts it.

use hull_builder::dockerfile::fuzz::{fuzz_dockerfile, fuzz_expand};
use proptest::prelude::*;

use crate::cases;

/// Pieces that Dockerfiles are made of, and some that break them.
const PIECES: &[&str] = &[
    "FROM x AS a\n",
    "FROM --platform=$BUILDPLATFORM ",
    "RUN ",
    "RUN <<EOF\n",
    "EOF\n",
    "EOF",
    "COPY <<-\"E\" <<F /d\n",
    "\tE\n",
    "F\n",
    "COPY --from=a --chown=$u ",
    "ADD ",
    "ENV a=b c=\"d e\" ",
    "ENV a b",
    "ARG a=${b:-c}",
    "LABEL ",
    "ONBUILD ",
    "CMD [\"a\", \"b\"]",
    "HEALTHCHECK --interval=5s CMD ",
    "SHELL [\"sh\"]",
    "EXPOSE 80/tcp $p",
    "WORKDIR ",
    "VOLUME ",
    "USER $u:0",
    "MAINTAINER m",
    "STOPSIGNAL 9",
    "--mount=type=cache,target=/x,id=$i ",
    "# escape=`\n",
    "# check=skip=all\n",
    "# c\n",
    "\u{feff}",
    "\\\n",
    "`\n",
    "\r\n",
    "\n",
    " ",
    "\\",
    "`",
    "'",
    "\"",
    "$",
    "${a",
    "}",
    ":?",
    "#",
    "[",
    "]",
    "é",
    "\t",
    "<<",
    "a",
    "/b",
    "=",
    ",",
    "--",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn nothing_panics_and_spans_cover_what_is_made_of_pieces(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)
    ) {
        fuzz_dockerfile(pieces.concat().as_bytes());
    }

    #[test]
    fn the_same_behind_a_stage(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12)) {
        fuzz_dockerfile(format!("FROM x\n{}", pieces.concat()).as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_dockerfile(&bytes);
    }

    #[test]
    fn any_word_is_expanded_or_refused(text in "[$}{:?#%/*'\"`\\\\a-cu \n+-]{0,40}") {
        fuzz_expand(text.as_bytes());
    }
}

#[test]
fn every_case_has_the_properties() {
    for case in cases::read("grammar").iter().chain(&cases::read("checks")) {
        fuzz_dockerfile(case.input.as_bytes());
    }
}

/// Long files of one thing are read in a time that grows as they do: this one ends within seconds.
#[test]
fn long_files_of_one_thing_are_read() {
    let pieces = [
        "RUN a \\\n",
        "\\\n",
        "# c\n",
        "RUN a \\\n\n\n\nb\n",
        "ENV a=$a$a\n",
        "COPY <<a <<b /x\n",
        "RUN \"'[[[\n",
        "${a:-",
        "FROM a AS a\nARG b\nRUN --mount=target=$e\n",
        "ARG a=${b//c*d/e}${b##*$b*}",
    ];
    for piece in pieces {
        for count in [(1 << 18) / piece.len(), 2000] {
            fuzz_dockerfile(("FROM x\n".to_owned() + &piece.repeat(count)).as_bytes());
        }
    }
}

#[test]
fn too_large_is_refused() {
    use hull_builder::dockerfile::{MAX_FILE, MAX_INSTRUCTIONS, parse};
    let refused = |text: String| parse(text.as_bytes()).unwrap_err()[0].message.clone();
    let file = refused("# c\n".repeat(MAX_FILE));
    assert_eq!(file, format!("the file has {} bytes, more than the allowed 4194304", 4 * MAX_FILE));
    let many = refused("FROM x\n".repeat(MAX_INSTRUCTIONS + 1));
    assert_eq!(many, "more than 10000 instructions");
    assert_eq!(
        parse("FROM x\n".repeat(MAX_INSTRUCTIONS).as_bytes()).unwrap().instructions.len(),
        MAX_INSTRUCTIONS
    );
    let line = refused(format!("FROM x\nRUN {}", "a".repeat(65532)));
    assert_eq!(line, "dockerfile line greater than maximum allowed size of 65535");
    let variables = refused(format!("FROM x\n{}", format!("ARG {}\n", "a ".repeat(64)).repeat(65)));
    assert_eq!(variables, "more than 4096 variables");
    assert!(parse(format!("FROM x\nRUN {}", "a".repeat(65531)).as_bytes()).is_ok());
    let documents = refused(format!("FROM x\nRUN {}", "<<a ".repeat(257)));
    assert_eq!(documents, "more than 256 here-documents in one instruction");
}
