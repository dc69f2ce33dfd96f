//! A Dockerfile as text, a line for each instruction: `line:column NAME part="word"@line:column`.

use std::fmt::Write as _;

use hull_builder::dockerfile::ast::*;
use hull_builder::dockerfile::{Dockerfile, Instruction, Kind, Position, Span};

pub(crate) fn dockerfile(text: &str, file: &Dockerfile) -> String {
    let mut dump = Dump { text, out: String::new() };
    for directive in &file.directives {
        let place = dump.place(directive.span);
        writeln!(dump.out, "{place} # {}={}", directive.name, directive.value).unwrap();
    }
    for instruction in &file.instructions {
        dump.instruction(instruction);
        dump.out.push('\n');
    }
    for blank in &file.blanks {
        writeln!(dump.out, "{} empty", Position::of(text, blank.start).line).unwrap();
    }
    dump.out
}

pub(crate) fn instruction(text: &str, instruction: &Instruction) -> String {
    let mut dump = Dump { text, out: String::new() };
    dump.instruction(instruction);
    dump.out + "\n"
}

struct Dump<'a> {
    text: &'a str,
    out: String,
}

impl Dump<'_> {
    fn place(&self, span: Span) -> String {
        let at = Position::of(self.text, span.start);
        format!("{}:{}", at.line, at.column)
    }

    fn word(&mut self, name: &str, word: &Word) {
        let place = self.place(word.span);
        write!(self.out, " {name}{:?}@{place}", word.text).unwrap();
    }

    fn words(&mut self, name: &str, words: &[Word]) {
        words.iter().for_each(|word| self.word(name, word));
    }

    fn maybe(&mut self, name: &str, word: &Option<Word>) {
        self.words(name, word.as_slice());
    }

    fn mark(&mut self, on: bool, name: &str) {
        if on {
            write!(self.out, " {name}").unwrap();
        }
    }

    fn instruction(&mut self, instruction: &Instruction) {
        let (start, end) = (self.place(instruction.span), Position::of(self.text, instruction.span.end));
        write!(self.out, "{start}-{}:{}", end.line, end.column).unwrap();
        write!(self.out, " {}", instruction.name.of(self.text)).unwrap();
        match &instruction.kind {
            Kind::From(from) => {
                self.word("image=", &from.image);
                self.maybe("platform=", &from.platform);
                self.maybe("as=", &from.stage);
            }
            Kind::Run(run) => self.run(run),
            Kind::Cmd(command) | Kind::Entrypoint(command) => self.command(command),
            Kind::Label(pairs) | Kind::Env(pairs) => {
                self.mark(pairs.legacy, "legacy");
                for pair in &pairs.pairs {
                    self.word("key=", &pair.key);
                    self.word("", &pair.value);
                }
            }
            Kind::Maintainer(word) | Kind::User(word) | Kind::Workdir(word) | Kind::Stopsignal(word) => {
                self.word("", word);
            }
            Kind::Expose(words) | Kind::Volume(words) | Kind::Shell(words) => self.words("", words),
            Kind::Add(add) => {
                self.sources(&add.sources, &add.destination);
                self.maybe("checksum=", &add.checksum);
                self.mark(add.keep_git_dir, "keep-git-dir");
                self.mark(add.unpack == Some(true), "unpack");
                self.mark(add.unpack == Some(false), "unpack=false");
                self.maybe("chown=", &add.chown);
                self.maybe("chmod=", &add.chmod);
                self.mark(add.link, "link");
                self.words("exclude=", &add.exclude);
            }
            Kind::Copy(copy) => {
                self.sources(&copy.sources, &copy.destination);
                self.maybe("from=", &copy.from);
                self.maybe("chown=", &copy.chown);
                self.maybe("chmod=", &copy.chmod);
                self.mark(copy.link, "link");
                self.mark(copy.parents, "parents");
                self.words("exclude=", &copy.exclude);
            }
            Kind::Arg(arguments) => {
                for argument in arguments {
                    self.word("name=", &argument.name);
                    self.maybe("default=", &argument.default);
                }
            }
            Kind::Onbuild(onbuild) => {
                write!(self.out, " text={:?} ", onbuild.text).unwrap();
                self.instruction(&onbuild.trigger);
            }
            Kind::Healthcheck(Healthcheck::None) => self.mark(true, "none"),
            Kind::Healthcheck(Healthcheck::Check(check)) => self.check(check),
        }
    }

    fn check(&mut self, check: &Check) {
        self.command(&check.command);
        let times = [
            ("interval", check.interval),
            ("timeout", check.timeout),
            ("start-period", check.start_period),
            ("start-interval", check.start_interval),
        ];
        for (name, time) in times {
            if let Some(time) = time {
                write!(self.out, " {name}={time:?}").unwrap();
            }
        }
        if let Some(retries) = check.retries {
            write!(self.out, " retries={retries}").unwrap();
        }
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Shell(word) => self.word("shell ", word),
            Command::Exec(words) => {
                self.mark(true, "exec");
                self.words("", words);
            }
        }
    }

    fn run(&mut self, run: &Run) {
        match &run.program {
            Program::Shell(word) => self.word("shell ", word),
            Program::Exec(words) => {
                self.mark(true, "exec");
                self.words("", words);
            }
            Program::Script(heredoc) => self.heredoc(heredoc),
        }
        for mount in &run.mounts {
            self.mark(true, "mount");
            for option in &mount.options {
                match &option.value {
                    Some(word) => self.word(&format!("{}=", option.key), word),
                    None => self.mark(true, &option.key),
                }
            }
        }
        self.mark(run.network != Network::Default, &format!("network={:?}", run.network));
        self.mark(run.security != Security::Sandbox, &format!("security={:?}", run.security));
        for device in &run.devices {
            write!(self.out, " device={} required={}", device.name, device.required).unwrap();
        }
    }

    fn sources(&mut self, sources: &[Source], destination: &Word) {
        for source in sources {
            match source {
                Source::Path(path) => self.word("", path),
                Source::Inline(heredoc) => self.heredoc(heredoc),
            }
        }
        self.word("to=", destination);
    }

    fn heredoc(&mut self, heredoc: &Heredoc) {
        self.word(&format!("<<{}", heredoc.name), &heredoc.content);
        self.mark(!heredoc.expand, "literal");
    }
}
