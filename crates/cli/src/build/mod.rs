//! `build`: a context goes to the daemon, what happens there is shown.
//!
//! Client and daemon talk as [`hull_api::build`] has it.

pub(crate) mod cache;
mod caches;
mod context;
mod known;
mod offer;
mod outputs;
mod show;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hull_api::build::frame::{Heard, Told};
use hull_api::build::{Begin, Checked, Failed, Finished, Limits, Named, Output, PATH, link};
use hull_api::hostconfig::Ulimit;
use hull_oci::reference::Reference;
use tokio::task::JoinSet;

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::create::{reason, size, swap};
use crate::flags::{Flag, Given, any, integer};
use crate::session::{Session, print};
use context::Context;
use offer::{Offer, Source};
use outputs::{Place, Sink};
use show::Shown;

pub(crate) static BUILD: Command = Command {
    paths: &["image build", "build", "builder build"],
    usage: "[OPTIONS] PATH | -",
    summary: "Build an image from a Dockerfile",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::list("add-host", any, "Add a line to the hosts of RUN (NAME:ADDRESS)"),
        Flag::list("allow", any, "Let RUN take more of the host (network.host, security.insecure)"),
        Flag::list(
            "build-arg",
            any,
            "Give an ARG its value (NAME=VALUE; NAME alone takes the environment's)",
        ),
        Flag::list(
            "build-context",
            any,
            "Give other files a name (NAME=PATH, address, docker-image://IMAGE or oci-layout://PATH[:TAG][@DIGEST])",
        ),
        Flag::list(
            "cache-from",
            any,
            "Look for what was done in this cache, too (IMAGE, type=local,src=FOLDER)",
        ),
        Flag::list(
            "cache-to",
            any,
            "Where what was done goes (type=local,dest=FOLDER[,mode=min|max], type=inline)",
        ),
        Flag::text("cgroup-parent", "Put each RUN below this cgroup"),
        Flag::switch("check", "Build nothing: check the Dockerfile"),
        Flag::switch("compress", ""),
        Flag::value("cpu-period", "int", integer, "Length of a period of the CPU quota (microseconds)"),
        Flag::value("cpu-quota", "int", integer, "CPU time of each period (microseconds)"),
        Flag::value("cpu-shares", "int", integer, "Share of the CPU where it is scarce").short('c'),
        Flag::text("cpuset-cpus", "CPUs to run on (0-3, 0,1)"),
        Flag::text("cpuset-mems", "Memory nodes to run on (0-3, 0,1)"),
        Flag::text("file", "The Dockerfile (default 'PATH/Dockerfile'; - is STDIN)").short('f'),
        Flag::switch("force-rm", "Keep nothing of a RUN that fails"),
        Flag::text("iidfile", "Write the image's id into this file"),
        Flag::list("label", any, "Give the image a label (NAME=VALUE)"),
        Flag::value("memory", "bytes", size, "Memory of each RUN").short('m'),
        Flag::value("memory-swap", "bytes", swap, "Memory and swap of each RUN; -1 is without limit"),
        Flag::text("metadata-file", "Write what the build came to into this file, as JSON"),
        Flag::text("network", "Network of RUN (default, host, none)"),
        Flag::switch("no-cache", "Do everything again"),
        Flag::list("no-cache-filter", any, "Do these stages again"),
        Flag::list(
            "output",
            any,
            "Where it goes (FOLDER, -, type=image|local|tar|oci|docker|cacheonly[,dest=PATH])",
        )
        .short('o'),
        Flag::text("platform", "Build for this platform, as os[/arch[/variant]]"),
        Flag::text("progress", "Show what happens as 'auto', 'plain', 'tty', 'quiet' or 'rawjson'")
            .default("auto"),
        Flag::switch("pull", "Look for newer base images"),
        Flag::switch("quiet", "Show nothing but the image's id").short('q'),
        Flag::switch("rm", "").default("true"),
        Flag::list("secret", any, "Give RUN a secret (id=ID[,src=FILE|env=NAME])"),
        Flag::value("shm-size", "bytes", size, "Size of /dev/shm"),
        Flag::list("ssh", any, "Give RUN an ssh agent (default|ID[=SOCKET])"),
        Flag::list("tag", any, "Name the image (NAME[:TAG])").short('t'),
        Flag::text("target", "Build this stage"),
        Flag::list("ulimit", any, "Limits of RUN (NAME=SOFT[:HARD])"),
    ]],
    run: |session, given| Box::pin(build(session, given)) as Outcome<'_>,
};

async fn build(session: &Session, given: &Given) -> Result<u8, Failure> {
    let shown = if given.on("quiet") { Shown::Nothing } else { Shown::parse(given.text("progress"))? };
    for tag in given.list("tag") {
        Reference::parse(tag)
            .map_err(|error| fail(format!("invalid argument {tag:?} for \"-t, --tag\" flag: {error}")))?;
    }
    let path = given.arguments[0].as_str();
    let mut begin = begin(given)?;
    let wanted = outputs::parse(given.list("output"), &begin.tags)?;
    wanted.outputs.iter().try_for_each(|(place, _)| outputs::check(place))?;
    begin.discard = !wanted.store;
    begin.tags.extend(wanted.names);
    let (mut places, outputs): (Vec<Place>, Vec<Output>) = wanted.outputs.into_iter().unzip();
    begin.outputs = outputs;
    caches::export(given.list("cache-to"), &mut begin, &mut places)?;
    let context = if is_address(path) {
        (begin.remote, begin.dockerfile) = (path.to_owned(), given.text("file").to_owned());
        None
    } else if path == "-" {
        let (source, dockerfile) = offer::from_stdin(given.text("file"))?;
        begin.dockerfile = dockerfile;
        Some(source)
    } else {
        let context = Context::open(path, given.text("file"))?;
        begin.dockerfile.clone_from(&context.dockerfile);
        begin.ignore = String::from_utf8_lossy(&context.ignore).into_owned();
        Some(Source::Folder(Arc::new(context)))
    };
    let mut contexts: BTreeMap<String, Source> =
        context.map(|main| (String::new(), main)).into_iter().collect();
    for text in given.list("build-context") {
        let (name, named, source) = other_context(text)?;
        begin.contexts.insert(name.clone(), named);
        contexts.extend(source.map(|source| (name, source)));
    }
    caches::import(given.list("cache-from"), &mut begin, &mut contexts)?;
    let offer = Offer::new(contexts, given.list("secret"), given.list("ssh"))?;
    (begin.secrets, begin.agents) = (offer.secrets(), offer.agents());
    if given.on("check") {
        begin = Begin { check: true, outputs: Vec::new(), ..begin };
        return match follow(session, begin, Arc::new(offer), (shown, &[])).await? {
            Ended::Checked(checked) => report(&checked),
            Ended::Built(_) => Err(fail("the daemon has built what it should have checked")),
        };
    }
    // An id of an earlier build must not pass for this one's.
    forget(given.text("iidfile"))?;
    let taken = shown == Shown::Nothing && places.contains(&Place::Stdout);
    let shown = if taken { Shown::Silent } else { shown };
    let Ended::Built(finished) = follow(session, begin, Arc::new(offer), (shown, &places)).await? else {
        return Err(fail("the daemon has checked what it should have built"));
    };
    note(given.text("iidfile"), &finished.id.to_string())?;
    note(given.text("metadata-file"), &metadata(&finished))?;
    Ok(0)
}

/// Removes the file that a flag names.
fn forget(file: &str) -> Result<(), Failure> {
    match std::fs::remove_file(file) {
        Err(error) if !file.is_empty() && error.kind() != std::io::ErrorKind::NotFound => {
            Err(fail(format!("remove {file}: {}", reason(&error))))
        }
        _ => Ok(()),
    }
}

/// Writes a file that a flag asks for.
fn note(file: &str, text: &str) -> Result<(), Failure> {
    if file.is_empty() {
        return Ok(());
    }
    std::fs::write(file, text).map_err(|error| fail(format!("write {file}: {}", reason(&error))))
}

/// What `--metadata-file` has, in the reference's words.
fn metadata(finished: &Finished) -> String {
    let mut fields = serde_json::Map::new();
    if finished.stored {
        for key in ["containerimage.config.digest", "containerimage.digest"] {
            fields.insert(key.to_owned(), finished.id.to_string().into());
        }
    }
    let whole = |name: &String| Reference::parse(name).map_or_else(|_| name.clone(), |name| name.to_string());
    let names: Vec<String> = finished.names.iter().map(whole).collect();
    if !names.is_empty() {
        fields.insert("image.name".to_owned(), names.join(",").into());
    }
    serde_json::to_string_pretty(&fields).unwrap_or_default()
}

fn is_address(path: &str) -> bool {
    ["http://", "https://", "git://", "git@", "ssh://", "github.com/"]
        .iter()
        .any(|scheme| path.starts_with(scheme))
}

/// `NAME=` and a folder, an address, `docker-image://IMAGE` or `oci-layout://PATH[:TAG][@DIGEST]`.
fn other_context(text: &str) -> Result<(String, Named, Option<Source>), Failure> {
    let wrong = |why: &str| fail(format!("invalid build context {text:?}: {why}"));
    let (name, value) =
        text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty()).ok_or_else(
            || wrong("it is NAME=PATH, NAME=ADDRESS, NAME=docker-image://IMAGE or NAME=oci-layout://PATH"),
        )?;
    if let Some(image) = value.strip_prefix("docker-image://") {
        return Ok((name.to_owned(), Named::Image(image.to_owned()), None));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (rest, digest) = layout.split_once('@').unwrap_or((layout, ""));
        let tagged = rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (path, tag) = tagged.unwrap_or((rest, ""));
        let named = Named::Layout { tag: tag.to_owned(), digest: digest.to_owned() };
        return Ok((name.to_owned(), named, Some(Source::Folder(Arc::new(Context::other(path)?)))));
    }
    if is_address(value) {
        return Ok((name.to_owned(), Named::Address(value.to_owned()), None));
    }
    if value.contains("://") {
        return Err(wrong("it is no folder, no address of http, https, git or ssh, no image and no layout"));
    }
    Ok((name.to_owned(), Named::Files, Some(Source::Folder(Arc::new(Context::other(value)?)))))
}

/// All that the flags say, but for the context.
fn begin(given: &Given) -> Result<Begin, Failure> {
    let text = |name: &str| given.text(name).to_owned();
    let all = |name: &str| given.list(name).map(str::to_owned).collect::<Vec<String>>();
    let value = |text: &str| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        // A name alone takes the environment's, if there is one.
        None => Some((text.to_owned(), std::env::var(text).ok()?)),
    };
    let label = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    Ok(Begin {
        tags: all("tag"),
        arguments: given.list("build-arg").filter_map(value).collect(),
        labels: given.list("label").map(label).collect(),
        target: text("target"),
        platform: text("platform"),
        pull: given.on("pull"),
        no_cache: given.on("no-cache"),
        no_cache_filter: given
            .list("no-cache-filter")
            .flat_map(|names| names.split(','))
            .map(str::to_owned)
            .collect(),
        network: text("network"),
        hosts: all("add-host"),
        limits: limits(given)?,
        force_rm: given.on("force-rm"),
        allow: given.list("allow").flat_map(|names| names.split(',')).map(str::to_owned).collect(),
        ..Begin::default()
    })
}

fn limits(given: &Given) -> Result<Limits, Failure> {
    let unsigned = |name: &str| u64::try_from(given.number(name)).unwrap_or(0);
    Ok(Limits {
        memory: given.number("memory"),
        swap: given.number("memory-swap"),
        cpu_shares: unsigned("cpu-shares"),
        cpu_period: unsigned("cpu-period"),
        cpu_quota: given.number("cpu-quota"),
        cpus: given.text("cpuset-cpus").to_owned(),
        memory_nodes: given.text("cpuset-mems").to_owned(),
        shm: unsigned("shm-size"),
        ulimits: given.list("ulimit").map(limit).collect::<Result<_, Failure>>()?,
        cgroup_parent: given.text("cgroup-parent").to_owned(),
    })
}

/// `NAME=SOFT[:HARD]`
fn limit(text: &str) -> Result<Ulimit, Failure> {
    let wrong = || fail(format!("invalid ulimit argument: {text}: it is NAME=SOFT[:HARD]"));
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.parse::<i64>().map_err(|_| wrong());
    Ok(Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? })
}

/// What a build has come to.
enum Ended {
    Built(Finished),
    Checked(Checked),
}

/// Says what the checks have found, in the reference's words; with warnings the command ends with 1.
fn report(Checked { warnings, error }: &Checked) -> Result<u8, Failure> {
    let count = match warnings.len() {
        0 => "no warnings found.".to_owned(),
        1 => "1 warning has been found!".to_owned(),
        count => format!("{count} warnings have been found!"),
    };
    let shown: String = warnings.iter().map(|warning| format!("\n{}\n", show::tame(warning))).collect();
    print(&format!("Check complete, {count}\n{shown}"));
    match error.as_str() {
        "" => Ok(u8::from(!warnings.is_empty())),
        error => Err(fail(show::tame(error))),
    }
}

/// Tells the daemon what is wished, answers its questions and shows what happens, to the end.
async fn follow(
    session: &Session,
    begin: Begin,
    offer: offer::Shared,
    (shown, places): (Shown, &[Place]),
) -> Result<Ended, Failure> {
    let (tell, mut hear) = match link::open(&session.client).await {
        Err(error) if error.is_not_found() => {
            return Err(fail(format!(
                "the daemon at {} does not know Hull's builds: use a Hull of this version there",
                session.client.endpoint()
            )));
        }
        opened => opened?,
    };
    let lost = |source| hull_api::client::Error::Lost { path: PATH.to_owned(), source };
    tell.send(&Heard::Begin(Box::new(begin))).await.map_err(lost)?;
    let mut answers = JoinSet::new();
    let mut show = show::Show::new(shown);
    let mut sinks = places.iter().map(Sink::open).collect::<Result<Vec<Sink>, Failure>>()?;
    loop {
        let due = show.due();
        let told = tokio::select! {
            () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()).await },
                if due.is_some() =>
            {
                show.draw(false);
                continue;
            }
            told = hear.next() => told.map_err(lost)?,
            Some(answered) = answers.join_next() => {
                answered??;
                continue;
            }
        };
        let Some((told, _)) = told else {
            return Err(lost(std::io::ErrorKind::UnexpectedEof.into()).into());
        };
        match told {
            Told::Question { number, question } => {
                let (offer, tell) = (Arc::clone(&offer), tell.clone());
                answers.spawn(async move { offer.answer(number, question, &tell).await });
            }
            Told::Progress(progress) => show.progress(progress),
            Told::Output { output, bytes } => {
                if let Some(sink) = sinks.get_mut(output as usize) {
                    sink.write(&bytes).await?;
                }
            }
            Told::Finished(finished) => {
                for sink in sinks {
                    sink.end().await?;
                }
                show.finished(&finished);
                return Ok(Ended::Built(finished));
            }
            Told::Checked(checked) => return Ok(Ended::Checked(checked)),
            Told::Failed(failed) => {
                let said = show.failed(&failed);
                return Err(failure(failed, said));
            }
        }
    }
}

/// In the words, and with the code, of the reference's client. `said`: the problems of the Dockerfile have been
/// said one by one.
fn failure(failed: Failed, said: bool) -> Failure {
    if said {
        let count = match failed.problems.len() {
            1 => "a problem".to_owned(),
            count => format!("{count} problems"),
        };
        return fail(format!("failed to solve: {count} in the Dockerfile"));
    }
    match http::StatusCode::from_u16(failed.status) {
        Ok(status) => hull_api::client::Error::Refused { status, message: failed.message }.into(),
        Err(_) => {
            let lines: Vec<String> = std::iter::once(failed.message).chain(failed.advice).collect();
            Failure { code: failed.code.max(1), message: show::tame(&lines.join("\n")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_contexts_are_folders_images_layouts_and_addresses() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = format!("a={}", scratch.path().display());
        assert!(matches!(other_context(&folder), Ok((name, Named::Files, Some(_))) if name == "a"));
        let image = other_context("b=docker-image://box:1").ok().map(|(name, named, _)| (name, named));
        assert_eq!(image, Some(("b".to_owned(), Named::Image("box:1".to_owned()))));
        let named = |text: &str| other_context(text).ok().map(|(_, named, source)| (named, source.is_some()));
        let layout = |tag: &str, digest: &str| {
            Some((Named::Layout { tag: tag.to_owned(), digest: digest.to_owned() }, true))
        };
        let path = scratch.path().display();
        assert_eq!(named(&format!("b=oci-layout://{path}")), layout("", ""));
        assert_eq!(named(&format!("b=oci-layout://{path}:1@sha256:0")), layout("1", "sha256:0"));
        let address = "https://host.example/x.git#v1";
        assert_eq!(named(&format!("b={address}")), Some((Named::Address(address.to_owned()), false)));
        for (bad, why) in [
            ("a", "it is NAME=PATH"),
            ("=x", "it is NAME=PATH"),
            ("a=ftp://host.example/x", "no address of http"),
            ("a=oci-layout:///nosuch", "open /nosuch"),
            ("a=/nosuch", "open /nosuch"),
        ] {
            let message = other_context(bad).err().unwrap().message;
            assert!(message.contains(why), "{bad}: {message}");
        }
    }

    #[test]
    fn limits_are_read_as_they_are_written() {
        let read = |text| limit(text).map(|limit| (limit.name, limit.soft, limit.hard));
        assert_eq!(read("nofile=1:2").unwrap(), ("nofile".to_owned(), 1, 2));
        assert_eq!(read("core=0").unwrap(), ("core".to_owned(), 0, 0));
        for bad in ["nofile", "nofile=x", "nofile=1:x"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
