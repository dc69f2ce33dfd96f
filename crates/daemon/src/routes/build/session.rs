//! `POST /hull/v1/build`: a build that asks its client back ([`hull_api::build`]).
//!
//! Three things go on at once for as long as the connection lives: the build, what it says going out, and
//! what the client says coming in. None waits for another, but for what a slow client has not
//! taken yet ([`hull_builder::progress::Output`]) and for answers that nobody has consumed yet. The end of
//! the connection is the end of the build.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hull_api::build::frame::{Heard, PIECE, Told};
use hull_api::build::{Begin, Failed, Finished, Form, Named, Output, Planned, Question, Stream, link};
use hull_api::client;
use hull_builder::{Built, Progress, Request, progress};
use hull_context::{DIGESTS_MAX, LISTING_MAX};
use hull_engine::Error;
use hull_engine::builds::{
    self, Build, Context, Given, Import, Layout, List, Pieces, Place, Secret, Unbuilt,
};
use hull_oci::Reference;
use hull_sys::memfd;
use rustix::fs::FileType;
use rustix::net::SocketType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::request::{self, Wanted};
use super::{PARALLEL, now};
use crate::Server;
use crate::hijack::{Own, Takeover, Then, head};
use crate::http::{Answer, Call, Failure, chain, empty};
use crate::routes::{archives, identity, images};
use crate::serve::Socket;

/// Questions that wait for their answers at a time.
const QUESTIONS: usize = 32;
/// Pieces of one answer that nobody has consumed yet.
const PIECES: usize = 4;
/// Bytes of a secret, as the reference has it.
const SECRET_MAX: usize = 500 << 10;
/// What is said of an answer to another question.
const OTHER: &str = "the client sent something else";
/// How long a client may take to notice the end.
const LINGER: Duration = Duration::from_millis(500);

pub(in crate::routes) fn build(call: &Call) -> Answer {
    let server = Arc::clone(&call.server);
    let own = Own::new(move |socket, ahead| serve(server, socket, ahead));
    let head = head(true, "application/vnd.hull.build", &identity());
    call.slot.put(Takeover { head, then: Then::Own(own) });
    empty(StatusCode::OK)
}

/// What is to be said, in order.
enum Say {
    Told(Told),
    /// It takes room in its build until it has been said.
    Progress(Progress),
}

async fn serve(server: Arc<Server>, socket: Socket, ahead: Bytes) -> io::Result<()> {
    let stream = match socket {
        Socket::Unix(stream) => client::Stream::Unix(stream),
        Socket::Tcp(stream) => client::Stream::Tcp(stream),
    };
    let user = user(&stream);
    let (sender, mut receiver) = link::halves::<Told, Heard>(stream, &ahead);
    let begin = match receiver.next().await? {
        Some((Heard::Begin(begin), _)) => *begin,
        Some(_) => return Err(unexpected("a build begins with what is wished")),
        None => return Ok(()),
    };
    let (say, said) = mpsc::unbounded_channel();
    let questions = Arc::new(Questions::new(say.clone(), user));
    {
        let building = async {
            let told = make(&server, begin, &questions, (&sender, &say)).await;
            let told = told.unwrap_or_else(Told::Failed);
            // Heard by the future beside this one.
            say.send(Say::Told(told)).ok();
            Ok(())
        };
        let mut going = Box::pin(async { tokio::try_join!(building, tell(&sender, said)) });
        tokio::select! {
            ended = &mut going => ended?,
            left = listen(&mut receiver, &questions) => return left,
        };
    }
    sender.close()?;
    // Closing while words of the client are unread would cut off the last ones to it.
    let _ = tokio::time::timeout(LINGER, listen(&mut receiver, &questions)).await;
    Ok(())
}

/// Says everything, the build's last word at the end.
async fn tell(sender: &link::Sender<Told>, mut said: mpsc::UnboundedReceiver<Say>) -> io::Result<()> {
    while let Some(say) = said.recv().await {
        match say {
            Say::Progress(progress) => sender.send(&Told::Progress(plain(&progress))).await?,
            Say::Told(told) => {
                sender.send(&told).await?;
                if matches!(told, Told::Finished(_) | Told::Failed(_) | Told::Checked(_)) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Gives answers to whoever waits for them, until the client ends.
async fn listen(receiver: &mut link::Receiver<Heard>, questions: &Questions) -> io::Result<()> {
    while let Some((heard, mut beside)) = receiver.next().await? {
        let (question, part) = match heard {
            Heard::Begin(_) => return Err(unexpected("a build begins once")),
            Heard::Piece { question, bytes } => (question, Part::Bytes(bytes)),
            Heard::End { question } => (question, Part::End),
            Heard::Refused { question, why } => (question, Part::Refused(why)),
            Heard::Descriptor { question } => match beside.pop() {
                Some(descriptor) => (question, Part::Descriptor(descriptor)),
                None => return Err(unexpected("a descriptor is missing")),
            },
            Heard::Listing { question } => match (beside.pop(), beside.pop()) {
                (Some(folder), Some(list)) => (question, Part::Listing { list, folder }),
                _ => return Err(unexpected("a descriptor is missing")),
            },
            Heard::FarListing { question, list } => (question, Part::FarListing(u64::from(list))),
        };
        // Who has asked may not want to know any more.
        let to = questions.waiting().answers.get(&question).cloned();
        if let Some(to) = to {
            to.send(part).await.ok();
        }
    }
    Ok(())
}

fn unexpected(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// Builds as it was wished, or checks; the last word.
async fn make(
    server: &Server,
    begin: Begin,
    questions: &Arc<Questions>,
    (sender, say): (&link::Sender<Told>, &mpsc::UnboundedSender<Say>),
) -> Result<Told, Failed> {
    let (secrets, agents) = (begin.secrets.clone(), begin.agents.clone());
    let (check, discard) = (begin.check, begin.discard);
    let outputs = forms(&begin.outputs).map_err(request::refused)?;
    let Wanted {
        limits,
        allowed,
        options,
        names,
        dockerfile: name,
        remote,
        contexts: others,
        imports,
        folders,
        inline_cache,
    } = request::wanted(begin).map_err(request::refused)?;
    let client = Arc::new(Client { questions: Arc::clone(questions), secrets, agents });
    let (context, name) = match remote.as_str() {
        "" => (receive(server, questions, "").await.map_err(request::refused)?, name),
        remote => {
            let fetched = request::fetch(&server.engine, (remote, name), Arc::clone(&client) as _).await;
            fetched.map_err(request::refused)?
        }
    };
    let dockerfile = dockerfile(&context, questions, &name).await.map_err(request::refused)?;
    let text = String::from_utf8_lossy(&dockerfile).into_owned();
    let mut given = Given { client, ..limits.into() };
    let got = get(server, questions, &mut given, others).await;
    got.map_err(request::refused)?;
    given.contexts.insert(String::new(), context);
    (given.imports, given.inline_cache) = (imports, inline_cache);
    for name in folders {
        // A cache that does not come is none.
        let folder = receive(server, questions, &name).await.map_err(|failure| failure.message);
        given.imports.push(Import::Folder(name, folder));
    }
    let rows = inline_cache || outputs.iter().any(|form| matches!(form, builds::Form::Cache { .. }));
    let request = Request { dockerfile, options, parallel: PARALLEL, now: now(), rows };
    given.allowed.extend(allowed);
    let build = server.engine.build(given);
    let say = say.clone();
    let report: progress::Report = Arc::new(move |progress| {
        // The build outlives its listener by moments.
        say.send(Say::Progress(progress)).ok();
    });
    let failed = |error: Unbuilt| request::failed(&error, &name, &text);
    if check {
        let checked = hull_builder::build::check(&request, &build).await;
        let checked = checked.map_err(|error| failed(error.into()))?;
        return Ok(Told::Checked(request::checked(&checked, &name, &text)));
    }
    let built = build.solve(&request, report).await.map_err(failed)?;
    let finished = deliver(&build, &built, (outputs, discard, names), sender).await;
    finished.map(Told::Finished).map_err(|error| failed(error.into()))
}

/// Sends what was wished of what was built, and keeps the image.
async fn deliver(
    build: &Build,
    built: &Built,
    (outputs, discard, names): (Vec<builds::Form>, bool, Vec<Reference>),
    sender: &link::Sender<Told>,
) -> Result<Finished, Error> {
    let is_cache = |form: &builds::Form| matches!(form, builds::Form::Cache { .. });
    let (caches, outputs): (Vec<_>, Vec<_>) = (0..).zip(outputs).partition(|(_, form)| is_cache(form));
    for (number, form) in outputs {
        send(build, built, form, (number, sender)).await?;
    }
    let finished = if discard {
        Finished { id: build.id(built)?, names: Vec::new(), stored: false }
    } else {
        let stored = build.store(built, names).await?;
        let names = stored.names.iter().map(Reference::familiar).collect();
        Finished { id: stored.id, names, stored: true }
    };
    // At last: the image is there, whatever becomes of them.
    for (number, form) in caches {
        send(build, built, form, (number, sender)).await?;
    }
    Ok(finished)
}

/// Gets the contexts besides the main one.
async fn get(
    server: &Server,
    questions: &Arc<Questions>,
    given: &mut Given,
    contexts: BTreeMap<String, Named>,
) -> Result<(), Failure> {
    for (number, (name, named)) in contexts.into_iter().enumerate() {
        match named {
            Named::Image(_) => {}
            Named::Files => {
                let files = receive(server, questions, &name).await?;
                given.contexts.insert(name, files);
            }
            Named::Layout { tag, digest } => {
                let files = receive(server, questions, &name).await?;
                given.layouts.insert(request::layout(number)?, Layout { files, tag, digest });
            }
            Named::Address(address) => {
                let client = Arc::clone(&given.client);
                let (files, name_there) =
                    request::fetch(&server.engine, (&address, String::new()), client).await?;
                if !name_there.is_empty() {
                    // It has got the name of a Dockerfile.
                    let text = format!("{address} is neither a repository nor an archive: ADD it");
                    return Err(Failure::invalid(text));
                }
                given.contexts.insert(name, files);
            }
        }
    }
    Ok(())
}

fn forms(outputs: &[Output]) -> Result<Vec<builds::Form>, Failure> {
    let form = |output: &Output| match output.form {
        Form::Files => Ok(builds::Form::Files),
        Form::Image => {
            let names = output.names.iter().map(|name| images::reference(name, ""));
            Ok(builds::Form::Image(names.collect::<Result<_, _>>()?))
        }
        Form::Cache { all } => Ok(builds::Form::Cache { all }),
    };
    outputs.iter().map(form).collect()
}

/// Sends what was built, in pieces as fast as the client takes them.
async fn send(
    build: &Build,
    built: &Built,
    form: builds::Form,
    (output, sender): (u32, &link::Sender<Told>),
) -> Result<(), Error> {
    let broken = |source| Error::Io { call: "pass on", path: "an output".into(), source };
    let (read, write) = archives::pipe().map_err(|failure| Error::Archive(failure.message))?;
    let mut read = pipe::Receiver::from_owned_fd(read).map_err(broken)?;
    let pass = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            match read.read(&mut buffer).await? {
                0 => return Ok(()),
                count => {
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    sender.send(&Told::Output { output, bytes }).await?;
                }
            }
        }
    };
    let (written, passed) = tokio::join!(build.write(built, form, write), pass);
    // Where nobody reads, that is why nothing could be written.
    passed.map_err(broken)?;
    written
}

/// The Dockerfile: the client's, as the files of a list are, or one of the files.
async fn dockerfile(context: &Context, questions: &Arc<Questions>, name: &str) -> Result<Vec<u8>, Failure> {
    if !context.is_listed() {
        return Ok(context.dockerfile(name).await?);
    }
    let bytes = questions.ask(Question::Dockerfile).await.whole(builds::DOCKERFILE_LIMIT).await;
    let bytes = bytes.map_err(|why| Failure::invalid(format!("{name}: {why}")))?;
    match bytes.is_empty() {
        true => Err(Failure::invalid(format!("the Dockerfile ({name}) cannot be empty"))),
        false => Ok(bytes),
    }
}

/// A context, as a list or as an archive.
async fn receive(server: &Server, questions: &Arc<Questions>, name: &str) -> Result<Context, Failure> {
    let unread = |why: String| Failure::invalid(format!("the context cannot be read: {why}"));
    let mut answer = questions.ask(Question::Context(name.to_owned())).await;
    let first = match answer.next().await {
        Part::Descriptor(pipe) if is(&pipe, FileType::Fifo) => {
            // The worker reads what the client writes; nobody is between them.
            return server.engine.build_context(pipe).await.map_err(|error| unread(chain(&error)));
        }
        first @ (Part::Listing { .. } | Part::FarListing(_)) => {
            let list = questions.list(first, answer).await.map_err(unread)?;
            return Ok(server.engine.listed_context(name.to_owned(), list).await?);
        }
        Part::Bytes(bytes) => bytes,
        Part::End => Bytes::new(),
        Part::Refused(why) => return Err(unread(why)),
        Part::Descriptor(_) => return Err(unread(OTHER.to_owned())),
    };
    let (read, write) = archives::pipe()?;
    let write = pipe::Sender::from_owned_fd(write).map_err(|error| unread(error.to_string()))?;
    let (context, fed) = tokio::join!(server.engine.build_context(read), feed(first, answer, write));
    fed.map_err(unread)?;
    context.map_err(|error| unread(chain(&error)))
}

/// The pieces of an answer into a pipe.
async fn feed(first: Bytes, mut answer: Coming, mut write: pipe::Sender) -> Result<(), String> {
    let mut piece = first;
    loop {
        if write.write_all(&piece).await.is_err() {
            // A worker that hears no more has what it wants, or says why not.
            return Ok(());
        }
        match answer.next().await {
            Part::Bytes(bytes) => piece = bytes,
            Part::End => return Ok(()),
            Part::Refused(why) => return Err(why),
            _ => return Err(OTHER.to_owned()),
        }
    }
}

/// Who is at the other end, on this host.
fn user(stream: &client::Stream) -> Option<u32> {
    match stream {
        client::Stream::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        client::Stream::Tcp(_) => None,
    }
}

fn is(descriptor: &OwnedFd, kind: FileType) -> bool {
    rustix::fs::fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

/// What is asked and not answered yet.
#[derive(Debug)]
struct Questions {
    say: mpsc::UnboundedSender<Say>,
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Who is asked, on this host.
    user: Option<u32>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u32,
    answers: HashMap<u32, mpsc::Sender<Part>>,
}

/// Of an answer.
#[derive(Debug)]
enum Part {
    Bytes(Bytes),
    Descriptor(OwnedFd),
    Listing {
        list: OwnedFd,
        folder: OwnedFd,
    },
    /// The first so many bytes that follow are a list.
    FarListing(u64),
    End,
    /// There is none.
    Refused(String),
}

/// One that is on its way. Dropped, nobody waits for it any more.
struct Coming {
    number: u32,
    parts: mpsc::Receiver<Part>,
    questions: Arc<Questions>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Questions {
    fn new(say: mpsc::UnboundedSender<Say>, user: Option<u32>) -> Questions {
        Questions { say, places: Arc::new(Semaphore::new(QUESTIONS)), waiting: Mutex::default(), user }
    }

    /// What panics under the lock leaves a table that is whole.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self: &Arc<Questions>, question: Question) -> Coming {
        // Nobody closes it.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (to, parts) = mpsc::channel(PIECES);
        let number = {
            let mut waiting = self.waiting();
            waiting.last = waiting.last.wrapping_add(1);
            let number = waiting.last;
            waiting.answers.insert(number, to);
            number
        };
        // Where nobody says it any more, the build ends.
        self.say.send(Say::Told(Told::Question { number, question })).ok();
        Coming { number, parts, questions: Arc::clone(self), _place: place }
    }
}

impl Questions {
    /// A context that is a list, from the first part of the answer on.
    async fn list(&self, first: Part, mut answer: Coming) -> Result<List, String> {
        match (first, self.user) {
            (Part::Listing { list, folder }, Some(user)) => {
                Ok(List { list, place: Place::Here { folder, user } })
            }
            (Part::FarListing(size), _) => {
                let mut rest = Bytes::new();
                let list = answer.file(&mut rest, Some(size), LISTING_MAX).await?;
                let digests = answer.file(&mut rest, None, DIGESTS_MAX).await?;
                Ok(List { list, place: Place::Elsewhere { digests } })
            }
            (Part::Refused(why), _) => Err(why),
            _ => Err(OTHER.to_owned()),
        }
    }
}

impl Coming {
    async fn next(&mut self) -> Part {
        self.parts.recv().await.unwrap_or_else(|| Part::Refused("the client has gone".to_owned()))
    }

    /// All of it.
    async fn whole(mut self, most: usize) -> Result<Vec<u8>, String> {
        let mut whole = Vec::new();
        loop {
            match self.next().await {
                Part::Bytes(bytes) if whole.len() + bytes.len() > most => {
                    return Err(format!("it has more than {most} bytes"));
                }
                Part::Bytes(bytes) => whole.extend_from_slice(&bytes),
                Part::End => return Ok(whole),
                Part::Refused(why) => return Err(why),
                _ => return Err(OTHER.to_owned()),
            }
        }
    }

    /// A file in memory with this much of what is still to come, or with all of it.
    async fn file(&mut self, rest: &mut Bytes, size: Option<u64>, most: u64) -> Result<OwnedFd, String> {
        let failed = |error: &dyn std::fmt::Display| format!("a list cannot be kept: {error}");
        let mut file = File::from(memfd::open(c"list").map_err(|error| failed(&error))?);
        let mut have = 0;
        while size.is_none_or(|size| have < size) {
            if rest.is_empty() {
                match self.next().await {
                    Part::Bytes(bytes) => *rest = bytes,
                    Part::End if size.is_none() => break,
                    Part::Refused(why) => return Err(why),
                    _ => return Err(OTHER.to_owned()),
                }
            }
            let left = size.map_or(rest.len() as u64, |size| size - have);
            let now = rest.split_to(rest.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            have += now.len() as u64;
            if have > most {
                return Err(format!("a list has more than {most} bytes"));
            }
            file.write_all(&now).map_err(|error| failed(&error))?;
        }
        memfd::seal(&file).map_err(|error| failed(&error))?;
        Ok(file.into())
    }
}

impl Pieces for Coming {
    fn next(&mut self) -> builds::Answer<'_, Option<Bytes>> {
        Box::pin(async move {
            match Coming::next(self).await {
                Part::Bytes(bytes) => Ok(Some(bytes)),
                Part::End => Ok(None),
                Part::Refused(why) => Err(Error::Invalid(format!("the context's files: {why}"))),
                _ => Err(Error::Invalid(format!("the context's files: {OTHER}"))),
            }
        })
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.questions.waiting().answers.remove(&self.number);
    }
}

/// What the build's steps ask for.
#[derive(Debug)]
struct Client {
    questions: Arc<Questions>,
    /// The names of what is offered.
    secrets: Vec<String>,
    agents: Vec<String>,
}

impl builds::Client for Client {
    fn secret<'a>(&'a self, id: &'a str) -> builds::Answer<'a, Option<Secret>> {
        Box::pin(async move {
            if !self.secrets.iter().any(|offered| offered == id) {
                return Ok(None);
            }
            let coming = self.questions.ask(Question::Secret(id.to_owned())).await;
            let bytes = coming.whole(SECRET_MAX).await;
            bytes
                .map(|bytes| Some(Secret(bytes)))
                .map_err(|why| Error::Invalid(format!("secret {id}: {why}")))
        })
    }

    fn agent<'a>(&'a self, id: &'a str) -> builds::Answer<'a, Option<OwnedFd>> {
        Box::pin(async move {
            if !self.agents.iter().any(|offered| offered == id) {
                return Ok(None);
            }
            let failed = |why: &str| Error::Invalid(format!("agent {id}: {why}"));
            match self.questions.ask(Question::Agent(id.to_owned())).await.next().await {
                Part::Descriptor(descriptor) if is_a(&descriptor, SocketType::STREAM) => Ok(Some(descriptor)),
                Part::Refused(why) => Err(failed(&why)),
                _ => Err(failed(OTHER)),
            }
        })
    }

    fn list<'a>(&'a self, context: &'a str) -> builds::Answer<'a, List> {
        Box::pin(async move {
            let mut answer = self.questions.ask(Question::Context(context.to_owned())).await;
            let first = answer.next().await;
            let list = self.questions.list(first, answer).await;
            list.map_err(|why| Error::Invalid(format!("the context cannot be read: {why}")))
        })
    }

    fn files<'a>(&'a self, context: &'a str) -> builds::Answer<'a, OwnedFd> {
        Box::pin(async move {
            let failed = |why: &str| Error::Invalid(format!("the context's files: {why}"));
            match self.questions.ask(Question::Files(context.to_owned())).await.next().await {
                Part::Descriptor(socket) if is_a(&socket, SocketType::SEQPACKET) => Ok(socket),
                Part::Refused(why) => Err(failed(&why)),
                _ => Err(failed(OTHER)),
            }
        })
    }

    fn contents<'a>(&'a self, context: &'a str, numbers: Vec<u32>) -> builds::Answer<'a, Box<dyn Pieces>> {
        Box::pin(async move {
            let question = Question::Contents { context: context.to_owned(), numbers };
            Ok(Box::new(self.questions.ask(question).await) as Box<dyn Pieces>)
        })
    }
}

fn is_a(descriptor: &OwnedFd, wanted: SocketType) -> bool {
    rustix::net::sockopt::socket_type(descriptor).is_ok_and(|kind| kind == wanted)
}

/// As it goes over the connection.
pub(super) fn plain(progress: &Progress) -> hull_api::build::Progress {
    use hull_api::build::Progress as Plain;
    let number = |step: usize| u32::try_from(step).unwrap_or(u32::MAX);
    match progress {
        Progress::Planned { instructions } => {
            let planned = |one: &progress::Planned| Planned {
                text: one.text.clone(),
                step: one.step.map(number),
                trigger: one.trigger,
            };
            Plain::Planned { instructions: instructions.iter().map(planned).collect() }
        }
        Progress::Started { step, name } => Plain::Started { step: number(*step), name: name.clone() },
        Progress::Cached { step } => Plain::Cached { step: number(*step) },
        Progress::Output { step, stream, bytes } => Plain::Output {
            step: number(*step),
            stream: match stream {
                progress::Stream::Out => Stream::Out,
                progress::Stream::Error => Stream::Error,
            },
            bytes: bytes.to_vec(),
        },
        Progress::Done { step, layer } => Plain::Done { step: number(*step), layer: layer.clone() },
        Progress::Failed { step, message } => Plain::Failed { step: number(*step), message: message.clone() },
        Progress::Warning { message, page, line } => {
            Plain::Warning { message: message.clone(), page: page.clone(), line: number(*line) }
        }
    }
}
