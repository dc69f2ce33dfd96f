//! Running a client with a limit on its time, and one on a pseudo-terminal.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Seconds; no command of a test may take longer.
const LIMIT: u64 = 60;

/// So many seconds, and `HULL_TEST_PATIENCE` times as many where that is set: an emulated machine
/// is many times slower than the one that the limits of tests are made for.
pub fn patience(seconds: u64) -> Duration {
    let times = std::env::var("HULL_TEST_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    Duration::from_secs(seconds.saturating_mul(times))
}

/// Does what may wait for ever; panics if that takes more than so many seconds. The thread that waits stays behind.
#[track_caller]
pub fn in_time<T: Send + 'static>(seconds: u64, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(work()));
    match told.recv_timeout(patience(seconds)) {
        Ok(done) => done,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub line: String,
    /// The exit code; 128 + n for a signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Its standard output without the last line end; panics with everything it said if it failed.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self}");
        self.stdout.trim_end_matches('\n')
    }

    /// Panics unless it ended with `code` and its standard error has `text`.
    #[track_caller]
    pub fn fails(&self, code: i32, text: &str) -> &Finished {
        assert_eq!(self.code, code, "{self}");
        assert!(self.stderr.contains(text), "no {text:?} in the errors of {self}");
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {}\nstdout: {}\nstderr: {}",
            self.line, self.code, self.stdout, self.stderr
        )
    }
}

/// Runs it to its end with `input` as its standard input; kills it and panics after a minute.
pub fn run(command: &mut Command, input: &[u8]) -> Finished {
    let line = shown(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run `{line}`: {error}"));
    let feeding = child.stdin.take().map(|mut stdin| {
        let input = input.to_vec();
        // A child that does not read its input to the end is its own affair.
        thread::spawn(move || drop(stdin.write_all(&input)))
    });
    let stdout = child.stdout.take().map(|pipe| thread::spawn(move || read_all(pipe)));
    let stderr = child.stderr.take().map(|pipe| thread::spawn(move || read_all(pipe)));
    let code = wait(&mut child, &line);
    let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        let bytes = reader.map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let finished = Finished { line, code, stdout: text(stdout), stderr: text(stderr) };
    if let Some(thread) = feeding {
        let _ = thread.join();
    }
    finished
}

fn read_all(mut pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    bytes
}

/// Waits for a child that a test started in the background.
pub(crate) fn wait(child: &mut Child, line: &str) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            Ok(None) if start.elapsed() > patience(LIMIT) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("`{line}` did not end within {} s", patience(LIMIT).as_secs());
            }
            Ok(None) => thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("cannot wait for `{line}`: {error}"),
        }
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A command on a pseudo-terminal: what is typed and what comes back. The terminal comes from
/// script(1), so that no test needs unsafe code.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    line: String,
    stdin: Option<std::process::ChildStdin>,
    seen: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Terminal {
    pub fn start(command: &Command) -> Terminal {
        let line = shown(command);
        let quoted: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| quote(&word.to_string_lossy()))
            .collect();
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--flush", "--command", &quoted.join(" "), "/dev/null"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().unwrap_or_else(|error| panic!("cannot run script: {error}"));
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let reader = child.stdout.take().map(|mut pipe| {
            let seen = seen.clone();
            thread::spawn(move || {
                let mut block = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut block) {
                    seen.lock()
                        .unwrap_or_else(|poison| poison.into_inner())
                        .extend_from_slice(&block[..count]);
                }
            })
        });
        let stdin = child.stdin.take();
        Terminal { child, line, stdin, seen, reader }
    }

    #[track_caller]
    pub fn type_in(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("the terminal is open until finish()");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("type into the terminal");
    }

    /// All that came back so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(|poison| poison.into_inner())).into_owned()
    }

    /// Waits until `text` has come back; panics after ten seconds.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        let start = Instant::now();
        while !self.screen().contains(text) {
            assert!(
                start.elapsed() < patience(10),
                "`{}` never showed {text:?}: {:?}",
                self.line,
                self.screen()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end: exit code, and all that came back.
    pub fn finish(mut self) -> (i32, String) {
        let code = wait(&mut self.child, &self.line.clone());
        drop(self.stdin.take());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        (code, self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
