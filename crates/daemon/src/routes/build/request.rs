//! What is wished of a build, whichever way a client has said it, as the engine and the builder are asked;
//! and what they have against it, as a client is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use hull_api::build::{Begin, CacheFrom, Failed, Named, Problem};
use hull_builder::build::Checked;
use hull_builder::dockerfile::Position;
use hull_builder::dockerfile::span::excerpt;
use hull_builder::executor::Left;
use hull_builder::plan::{NamedContext, Options, PlanError};
use hull_builder::{BuildError, Failure as StepFailure};
use hull_context::Ignore;
use hull_engine::Engine;
use hull_engine::builds::{Client, Context, Entitlement, Import, Limits, Unbuilt};
use hull_engine::containers::settings::NetworkMode;
use hull_oci::runtime::Rlimit;
use hull_oci::{Digest, Reference};

use crate::http::{Failure, chain};
use crate::routes::{archives, images};

/// What is asked for besides the context.
pub(super) struct Wanted {
    pub(super) limits: Limits,
    /// What its Dockerfile may take.
    pub(super) allowed: Vec<Entitlement>,
    pub(super) options: Options,
    pub(super) names: Vec<Reference>,
    /// In the context.
    pub(super) dockerfile: String,
    /// Where the context is; empty: the client sends it.
    pub(super) remote: String,
    /// Other contexts, by name, that have to be got.
    pub(super) contexts: BTreeMap<String, Named>,
    /// Images that say what was done for them.
    pub(super) imports: Vec<Import>,
    /// Folders of such images, which the client has.
    pub(super) folders: Vec<String>,
    pub(super) inline_cache: bool,
}

pub(super) fn wanted(begin: Begin) -> Result<Wanted, Failure> {
    let mut names = Vec::new();
    for tag in begin.tags.iter().filter(|tag| !tag.is_empty()) {
        let name = images::reference(tag, "")?;
        if name.digest.is_some() {
            return Err(Failure::invalid("build tag cannot contain a digest"));
        }
        names.push(name);
    }
    let entitlement = |text: &String| {
        Entitlement::parse(text).ok_or_else(|| Failure::invalid(format!("unknown entitlement {text}")))
    };
    let allowed = begin.allow.iter().map(entitlement).collect::<Result<_, _>>()?;
    let ignore = Ignore::parse(begin.ignore.as_bytes())
        .map_err(|error| Failure::invalid(format!("the ignore file: {}", chain(&error))))?;
    let named = begin.contexts.iter().enumerate().map(|(number, (name, context))| {
        let named = match context {
            Named::Files | Named::Address(_) => NamedContext::Files,
            Named::Image(image) => NamedContext::Image(images::reference(image, "")?.with_default_tag()),
            Named::Layout { .. } => NamedContext::Image(layout(number)?),
        };
        Ok((name.clone(), named))
    });
    let contexts = named.collect::<Result<_, Failure>>()?;
    let (mut imports, mut folders) = (Vec::new(), Vec::new());
    for from in begin.cache_from {
        match from {
            CacheFrom::Folder(name) => folders.push(name),
            CacheFrom::Image(name) => {
                imports.push(Import::Image(images::reference(&name, "")?.with_default_tag()));
            }
        }
    }
    // As BuildKit has it, an argument says so, too.
    let argument = begin.arguments.get("BUILDKIT_INLINE_CACHE");
    let inline_cache = begin.inline_cache || argument.is_some_and(|value| value == "1");
    let limits = Limits { force_rm: begin.force_rm, ..limits(begin.limits, &begin.network, begin.hosts) };
    let options = Options {
        target: Some(begin.target).filter(|target| !target.is_empty()),
        arguments: begin.arguments,
        labels: begin.labels,
        platform: archives::platform(&begin.platform)?,
        pull: begin.pull,
        no_cache: begin.no_cache,
        no_cache_filter: begin.no_cache_filter,
        surroundings: surroundings(&limits),
        ignore,
        contexts,
    };
    let dockerfile = Some(begin.dockerfile).filter(|name| !name.is_empty());
    let dockerfile = dockerfile.unwrap_or_else(|| "Dockerfile".to_owned());
    let remote = begin.remote;
    let contexts = begin.contexts;
    Ok(Wanted {
        limits,
        allowed,
        options,
        names,
        dockerfile,
        remote,
        contexts,
        imports,
        folders,
        inline_cache,
    })
}

/// What stands for the image of a layout, the so many-th of the contexts: no registry has that name (RFC 2606).
pub(super) fn layout(number: usize) -> Result<Reference, Failure> {
    images::reference(&format!("layout.invalid/context:{number}"), "")
}

/// The context at an address, and the Dockerfile's name in it.
pub(super) async fn fetch(
    engine: &Engine,
    (address, dockerfile): (&str, String),
    client: Arc<dyn Client>,
) -> Result<(Context, String), Failure> {
    match engine.remote_context(address, client).await {
        Ok((context, false)) => Ok((context, dockerfile)),
        Ok((context, true)) => Ok((context, "Dockerfile".to_owned())),
        Err(error) => Err(Failure::invalid(format!("unable to prepare context: {error}"))),
    }
}

fn limits(given: hull_api::build::Limits, network: &str, extra_hosts: Vec<String>) -> Limits {
    let network = match network {
        "" | "default" | "bridge" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => match other.strip_prefix("container:") {
            Some(key) => NetworkMode::Container(key.to_owned()),
            None => NetworkMode::Named(other.to_owned()),
        },
    };
    let mut limits = Limits { network, extra_hosts, shm_bytes: given.shm, ..Limits::default() };
    let resources = &mut limits.resources;
    resources.memory.limit = Some(given.memory).filter(|bytes| *bytes != 0);
    resources.memory.swap = Some(given.swap).filter(|bytes| *bytes != 0);
    let some = |number: u64| Some(number).filter(|number| *number != 0);
    resources.cpu.shares = some(given.cpu_shares);
    resources.cpu.period = some(given.cpu_period);
    resources.cpu.quota = Some(given.cpu_quota).filter(|quota| *quota != 0);
    resources.cpu.cpus = given.cpus;
    resources.cpu.mems = given.memory_nodes;
    limits.cgroup_parent = given.cgroup_parent;
    let ulimits = given.ulimits.into_iter().map(|limit| Rlimit {
        kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
        // -1 is without limit.
        hard: u64::try_from(limit.hard).unwrap_or(u64::MAX),
        soft: u64::try_from(limit.soft).unwrap_or(u64::MAX),
    });
    limits.rlimits = ulimits.collect();
    limits
}

/// What a RUN's outcome can depend on besides its own words.
fn surroundings(limits: &Limits) -> Vec<String> {
    let network = match &limits.network {
        NetworkMode::Default => None,
        NetworkMode::None => Some("network none".to_owned()),
        NetworkMode::Host => Some("network host".to_owned()),
        NetworkMode::Named(name) => Some(format!("network named {name}")),
        NetworkMode::Container(key) => Some(format!("network of {key}")),
    };
    network.into_iter().chain(limits.extra_hosts.iter().map(|host| format!("host {host}"))).collect()
}

/// A request that is wrong as a whole.
pub(super) fn refused(failure: Failure) -> Failed {
    Failed { status: failure.status.as_u16(), message: failure.message, ..Failed::default() }
}

/// Why there is no image, in the reference's words. `text` is the Dockerfile, `name` what it is called.
pub(super) fn failed(error: &Unbuilt, name: &str, text: &str) -> Failed {
    match error {
        Unbuilt::Build(BuildError::Dockerfile(problems)) => {
            let problems: Vec<Problem> = problems.iter().map(|problem| shown(problem, name, text)).collect();
            let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
            // The first problem, then all others.
            let message = messages.join("\n");
            Failed { problems, ..refused(Failure::invalid(message)) }
        }
        Unbuilt::Build(BuildError::Plan(error)) => refused(Failure::invalid(chain(error))),
        Unbuilt::Build(BuildError::Step(step)) => {
            let excerpt = excerpt(name, text, &step.lines);
            match (&step.failure, &step.command) {
                (StepFailure::Exit { code, left }, Some(command)) => Failed {
                    code: u8::try_from(*code).unwrap_or(1),
                    advice: advice(left),
                    message: format!("The command '{command}' returned a non-zero code: {code}"),
                    excerpt,
                    ..Failed::default()
                },
                (failure, _) => Failed { message: failure.to_string(), excerpt, ..Failed::default() },
            }
        }
        Unbuilt::Build(BuildError::Image { line, .. }) => {
            let excerpt = excerpt(name, text, &(*line..=*line));
            Failed { message: chain(error), excerpt, ..Failed::default() }
        }
        Unbuilt::Store(_) => Failed { message: chain(error), ..Failed::default() },
    }
}

/// What the checks of a Dockerfile have found, in the reference's form.
pub(super) fn checked(checked: &Checked, name: &str, text: &str) -> hull_api::build::Checked {
    let error = match checked.error {
        true => PlanError::Checks(checked.warnings.clone()).to_string(),
        false => String::new(),
    };
    let warnings = checked.warnings.iter().map(|warning| warning.show(name, text)).collect();
    hull_api::build::Checked { warnings, error }
}

/// How to look around where a step failed.
fn advice(left: &Left) -> Vec<String> {
    let line = |what: &str, id: &Option<Digest>| {
        let id = id.as_ref()?.short();
        Some(format!("{what} is the image {id}; for a shell in it: hull run -it --rm {id}"))
    };
    let good = line("The last good layer", &left.below);
    good.into_iter().chain(line("What the failed step has left", &left.failed)).collect()
}

fn shown(problem: &hull_builder::dockerfile::Problem, name: &str, text: &str) -> Problem {
    let Position { line, column } = Position::of(text, problem.span.start);
    let told = match problem.message.as_str() {
        "no build stage in current context" => problem.message.clone(),
        "file with no instructions" => format!("failed to parse {name}: {}", problem.message),
        message => format!("dockerfile parse error on line {line}: {message}"),
    };
    let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
    Problem {
        line: number(line),
        column: number(column),
        message: match problem.remedy.as_str() {
            "" => told,
            remedy => format!("{told} ({remedy})"),
        },
        shown: problem.show(name, text),
    }
}
