//! One stage: its instructions one after the other, each on what the former left.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use hull_oci::Digest;
use hull_oci::image::Config;
use hull_oci::path;

use super::{Budget, Named, Planner, Stop, Wanted};
use crate::config::{self, Past};
use crate::dockerfile::ast::{self, Heredoc, Program, Source as From, Word};
use crate::dockerfile::{Instruction, Kind, Problem, Span, expand, mount, scope, trigger};
use crate::executor::{Copy, Folder, Mount, MountKind, Network, Run, Selection, Sharing, Source, Unpack};
use crate::graph::{Operation, Task, Vertex};
use crate::progress::{Planned, Step};

/// Most layers and steps of an image: the reference's limit, in its words.
const MAX_DEPTH: usize = 125;
/// Most stages that are planned in the midst of another, which takes stack.
const MAX_NESTED: usize = 32;

/// What a stage has come to.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) config: Config,
    pub(super) past: Vec<Past>,
    /// Whose file system it is.
    pub(super) top: Step,
    /// Layers of its base image, and steps since.
    depth: usize,
    scope: scope::Stage,
    /// A CMD of this stage, which an ENTRYPOINT leaves alone.
    has_command: bool,
}

/// An instruction on its way, and where it comes from.
struct Item {
    instruction: Instruction,
    /// As it stands, on one line.
    text: String,
    /// In the Dockerfile: of a trigger, its FROM.
    span: Span,
    trigger: bool,
}

/// Names that a stage's `--from`s use.
pub(super) fn froms(body: &[Instruction]) -> Vec<&Word> {
    let mut names = Vec::new();
    for instruction in body {
        match &instruction.kind {
            Kind::Copy(copy) => names.extend(&copy.from),
            Kind::Run(run) => {
                let options = run.mounts.iter().flat_map(|mount| &mount.options);
                names.extend(options.filter(|option| option.key == "from").filter_map(|o| o.value.as_ref()));
            }
            _ => {}
        }
    }
    names
}

impl Planner<'_> {
    /// Plans a stage, if it is not planned yet. What it needs is planned before, but for stages that only a
    /// base image's triggers name.
    pub(super) fn stage(&mut self, index: usize) -> Result<(), Stop> {
        if self.stages[index].is_some() {
            return Ok(());
        }
        let span = self.sections[index].span;
        if self.nested == MAX_NESTED {
            let remedy = "name the stages that its triggers need in the Dockerfile, too";
            return Err(Problem::new(span, "triggers need too many stages of each other", remedy).into());
        }
        self.nested += 1;
        let planned = self.plan_stage(index);
        self.nested -= 1;
        self.stages[index] = Some(planned?);
        Ok(())
    }

    /// A stage that may have to be planned first.
    fn other(&mut self, index: usize) -> Result<&Stage, Stop> {
        self.stage(index)?;
        self.stages[index].as_ref().ok_or(Stop::Needs)
    }

    fn plan_stage(&mut self, index: usize) -> Result<Stage, Stop> {
        let span = self.sections[index].span;
        let base = self.base_of(index)?;
        let below = match &base {
            Named::Stage(stage) => {
                let bytes = self.other(*stage)?.bytes();
                self.budget.spend(bytes, span)?;
                Some(self.other(*stage)?.clone())
            }
            _ => None,
        };
        let triggers = match (&base, &below) {
            (Named::Image(wanted), _) => self.image(wanted, span)?.config.config.on_build.clone(),
            (_, Some(stage)) => stage.config.config.on_build.clone(),
            _ => Vec::new(),
        };
        let items = self.items(index, &triggers)?;
        let label = self.label(index);
        let text = one_line(span.of(self.text), self.escape);
        let lines = span.lines(self.text);
        let mut stage = match below {
            Some(stage) => Stage { has_command: false, ..stage },
            None => self.begin(&base, format!("[{label}1/{}] {text}", steps(&items) + 1), lines, span)?,
        };
        stage.config.config.on_build.clear();
        let step = Some(stage.top).filter(|_| !matches!(base, Named::Stage(_)));
        self.instructions.push(((index, 0), Planned { text, step, trigger: false }));
        let total = steps(&items) + 1;
        let mut number = 1;
        for (place, item) in items.into_iter().enumerate() {
            number += usize::from(changes_files(&item.instruction));
            let name = format!("[{label}{number}/{total}] {}", item.text);
            let step = self.apply(index, &mut stage, &item, name).map_err(|stop| match stop {
                Stop::Problem(problem) if item.trigger => Stop::Problem(of_trigger(problem, &item)),
                stop => stop,
            })?;
            let planned = Planned { text: item.text, step, trigger: item.trigger };
            self.instructions.push(((index, place + 1), planned));
        }
        Ok(stage)
    }

    fn items(&self, index: usize, triggers: &[String]) -> Result<Vec<Item>, Problem> {
        let span = self.sections[index].span;
        let mut items = Vec::new();
        for text in triggers {
            let parsed = trigger(text).map_err(|mut problems| {
                let message = problems.pop().map(|problem| problem.message).unwrap_or_default();
                Problem::new(span, format!("ONBUILD {text}: {message}"), "build the base image again")
            })?;
            let text = one_line(text, '\\');
            items.push(Item { instruction: parsed, text, span, trigger: true });
        }
        for instruction in self.sections[index].body {
            let text = one_line(instruction.span.of(self.text), self.escape);
            let instruction = instruction.clone();
            items.push(Item { span: instruction.span, instruction, text, trigger: false });
        }
        Ok(items)
    }

    /// The stage's name in front of its steps' numbers; nothing if there is but one stage without a name.
    fn label(&self, index: usize) -> String {
        match &self.sections[index].name {
            Some(name) => format!("{name} "),
            None if self.sections.len() > 1 => format!("stage-{index} "),
            None => String::new(),
        }
    }

    fn begin(
        &mut self,
        base: &Named,
        name: String,
        lines: RangeInclusive<usize>,
        span: Span,
    ) -> Result<Stage, Stop> {
        let (config, layers) = match base {
            Named::Image(wanted) => {
                let base = self.image(wanted, span)?;
                (config::inherited(&base.config), base.layers.clone())
            }
            Named::Files(name) => {
                let message = format!("the build context {name:?} is a folder: a stage cannot begin with it");
                return Err(Problem::new(span, message, "COPY --from it").into());
            }
            Named::Stage(_) | Named::Scratch => (config::scratch(&self.platform), Vec::new()),
        };
        let depth = layers.len();
        let top = self.base_vertex(name, lines, layers);
        let scope = scope::Stage::new(&config.config.env);
        Ok(Stage { config, past: Vec::new(), top, depth, scope, has_command: false })
    }

    /// Applies an instruction; its vertex, if it has one.
    fn apply(
        &mut self,
        index: usize,
        stage: &mut Stage,
        item: &Item,
        name: String,
    ) -> Result<Option<Step>, Stop> {
        let escape = if item.trigger { '\\' } else { self.escape };
        let scope = stage.scope.clone();
        self.budget.spend(size_of::<[usize; 4]>() * scope.count() + item.text.len(), item.span)?;
        let spend = |bytes, _| self.budget.spend(bytes, item.span);
        let expanded = expand::instruction(&item.instruction, escape, &|name| scope.get(name), &spend)?;
        let (operation, created_by) = match &expanded.kind {
            Kind::Run(run) => self.run(index, stage, (run, item.span), escape)?,
            Kind::Copy(copy) => self.copy(index, stage, copy)?,
            Kind::Add(add) => self.add(stage, add)?,
            Kind::Workdir(folder) => self.workdir(stage, &folder.text),
            Kind::Arg(_) => {
                let created_by = self.argument(stage, item, escape)?;
                stage.past.push(Past { created_by, is_step: false });
                return Ok(None);
            }
            _ => {
                let created_by = stage.configure(&expanded, &self.budget)?;
                stage.past.push(Past { created_by, is_step: false });
                return Ok(None);
            }
        };
        let fresh =
            self.options.no_cache
                || self.options.no_cache_filter.iter().any(|filter| {
                    self.sections[index].name.as_deref() == Some(filter.to_lowercase().as_str())
                });
        stage.depth += 1;
        if stage.depth > MAX_DEPTH {
            let remedy = "do more in one RUN or COPY";
            return Err(Problem::new(item.span, "max depth exceeded", remedy).into());
        }
        let lines = item.span.lines(self.text);
        self.vertices.push(Vertex { name, lines, task: Task::Operation(operation), fresh });
        stage.top = self.vertices.len() - 1;
        stage.past.push(Past { created_by, is_step: true });
        Ok(Some(stage.top))
    }

    fn argument(&mut self, stage: &mut Stage, item: &Item, escape: char) -> Result<String, Problem> {
        let Kind::Arg(arguments) = &item.instruction.kind else { return Ok(String::new()) };
        let mut texts = vec!["ARG".to_owned()];
        for argument in arguments {
            let bytes = stage.scope.declare(argument, escape, &mut self.global)?;
            self.budget.spend(bytes, item.span)?;
            let name = &argument.name.text;
            let value = stage.scope.get(name).map(|value| format!("={value}")).unwrap_or_default();
            texts.push(format!("{name}{value}"));
        }
        Ok(texts.join(" "))
    }

    fn workdir(&mut self, stage: &mut Stage, folder: &str) -> (Operation<Step>, String) {
        let path = absolute(&stage.config, folder);
        stage.config.config.working_dir.clone_from(&path);
        let user = stage.config.config.user.clone();
        let created_by = format!("WORKDIR {path}");
        (Operation::Folder(Folder { below: stage.top, path, user, newest: self.newest }), created_by)
    }

    fn run(
        &mut self,
        index: usize,
        stage: &mut Stage,
        (run, span): (&ast::Run, Span),
        escape: char,
    ) -> Result<(Operation<Step>, String), Stop> {
        let scope = stage.scope.clone();
        let mut mounts = Vec::new();
        for flag in &run.mounts {
            let resolved = mount::resolve(flag, &mut |word| {
                let text = expand::word(word, escape, &|name| scope.get(name))?;
                self.budget.spend(text.len(), span).map(|()| text)
            })?;
            self.mount(index, stage, resolved, flag.span, &mut mounts)?;
        }
        let arguments = match &run.program {
            Program::Exec(words) => config::texts(words),
            Program::Shell(text) => with_shell(&stage.config, &text.text),
            Program::Script(script) if script.content.text.starts_with("#!") => {
                let target = format!("/dev/pipes/{}", script.name);
                let contents = script.content.text.clone().into_bytes();
                let kind = MountKind::Inline { contents, mode: 0o755 };
                mounts.push(Mount { target: target.clone(), kind });
                vec![target]
            }
            Program::Script(script) => with_shell(&stage.config, &script.content.text),
        };
        let given = stage.scope.arguments();
        let mut words = vec!["RUN".to_owned()];
        if !given.is_empty() {
            words.push(format!("|{} {}", given.len(), given.join(" ")));
        }
        words.push(arguments.join(" "));
        words.push("# buildkit".to_owned());
        let mut environment = stage.scope.environment();
        environment.extend(given);
        let bytes = environment.iter().chain(&words).map(String::len).sum();
        self.budget.spend(bytes, span)?;
        let run = Run {
            below: stage.top,
            arguments,
            environment,
            proxies: stage.scope.proxies(&self.global),
            user: stage.config.config.user.clone(),
            folder: absolute(&stage.config, ""),
            mounts,
            network: match run.network {
                ast::Network::Default => Network::Default,
                ast::Network::None => Network::None,
                ast::Network::Host => Network::Host,
            },
            surroundings: self.options.surroundings.clone(),
            insecure: run.security == ast::Security::Insecure,
            devices: run.devices.iter().map(|device| (device.name.clone(), device.required)).collect(),
            newest: self.newest,
        };
        Ok((Operation::Run(run), words.join(" ")))
    }

    fn mount(
        &mut self,
        index: usize,
        stage: &Stage,
        mount: mount::Mount,
        span: Span,
        mounts: &mut Vec<Mount<Step>>,
    ) -> Result<(), Stop> {
        let at = |target: &str| absolute(&stage.config, target);
        let word = |text: String| Word { text, span };
        match mount {
            mount::Mount::Bind { target, source: path, from, writable } => {
                let source = match from {
                    Some(from) => self.source(index, &word(from))?,
                    None => Source::Context(String::new()),
                };
                mounts.push(Mount { target: at(&target), kind: MountKind::Bind { source, path, writable } });
            }
            mount::Mount::Cache { id, target, readonly, sharing, from, source: path, owner } => {
                let source = from.map(|from| self.source(index, &word(from))).transpose()?;
                let sharing = match sharing {
                    mount::Sharing::Shared => Sharing::Shared,
                    mount::Sharing::Private => Sharing::Private,
                    mount::Sharing::Locked => Sharing::Locked,
                };
                let (mode, uid, gid) = (owner.mode, owner.uid, owner.gid);
                let kind =
                    MountKind::Cache { id, source, path, sharing, writable: !readonly, mode, uid, gid };
                mounts.push(Mount { target: at(&target), kind });
            }
            mount::Mount::Tmpfs { target, size } => {
                mounts.push(Mount { target: at(&target), kind: MountKind::Tmpfs { size } });
            }
            mount::Mount::Secret { id, target, env, required, owner } => {
                if let Some(env) = env {
                    let kind = MountKind::SecretVariable { id: id.clone(), required };
                    mounts.push(Mount { target: env, kind });
                }
                if let Some(target) = target {
                    let (mode, uid, gid) = (owner.mode, owner.uid, owner.gid);
                    let kind = MountKind::Secret { id, required, mode, uid, gid };
                    mounts.push(Mount { target: at(&target), kind });
                }
            }
            mount::Mount::Ssh { id, target, required, owner } => {
                let sockets =
                    mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Ssh { .. })).count();
                let target = target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{sockets}"));
                let (mode, uid, gid) = (owner.mode, owner.uid, owner.gid);
                let kind = MountKind::Ssh { id, required, mode, uid, gid };
                mounts.push(Mount { target: at(&target), kind });
            }
        }
        Ok(())
    }

    /// Where `--from` takes files.
    fn source(&mut self, index: usize, from: &Word) -> Result<Source<Step>, Stop> {
        Ok(match self.source_named(from, index)? {
            Named::Stage(stage) => Source::Layers(self.other(stage)?.top),
            Named::Files(name) => Source::Context(name),
            Named::Scratch => Source::Layers(self.base_of_files(None, from)?),
            Named::Image(wanted) => Source::Layers(self.base_of_files(Some(wanted), from)?),
        })
    }

    /// The vertex of an image that files are copied from; `None` is `scratch`.
    fn base_of_files(&mut self, wanted: Option<Wanted>, from: &Word) -> Result<Step, Stop> {
        if let Some(step) = self.bases.get(&wanted) {
            return Ok(*step);
        }
        let layers = match &wanted {
            Some(wanted) => self.image(wanted, from.span)?.layers.clone(),
            None => Vec::new(),
        };
        let lines = from.span.lines(self.text);
        let step = self.base_vertex(format!("FROM {}", from.text), lines, layers);
        self.bases.insert(wanted, step);
        Ok(step)
    }

    fn copy(
        &mut self,
        index: usize,
        stage: &Stage,
        copy: &ast::Copy,
    ) -> Result<(Operation<Step>, String), Stop> {
        let source = match &copy.from {
            Some(from) => self.source(index, from)?,
            None => Source::Context(String::new()),
        };
        let flags =
            Flags { chown: &copy.chown, chmod: &copy.chmod, exclude: &copy.exclude, parents: copy.parents };
        let files = files(&copy.sources, &flags, |_| Ok(source.clone()))?;
        let name = ("COPY", &copy.sources, &copy.destination);
        self.place(stage, name, flags, files, (copy.link, Unpack::Never))
    }

    fn add(&mut self, stage: &Stage, add: &ast::Add) -> Result<(Operation<Step>, String), Stop> {
        let flags = Flags { chown: &add.chown, chmod: &add.chmod, exclude: &add.exclude, parents: false };
        let files = files(&add.sources, &flags, |path| remote(path, add))?;
        let unpack = match add.unpack {
            None => Unpack::Local,
            Some(true) => Unpack::Always,
            Some(false) => Unpack::Never,
        };
        let name = ("ADD", &add.sources, &add.destination);
        self.place(stage, name, flags, files, (add.link, unpack))
    }

    /// The common part of COPY and ADD.
    fn place(
        &mut self,
        stage: &Stage,
        (name, sources, destination): (&str, &Vec<From>, &Word),
        flags: Flags<'_>,
        files: Vec<(Source<Step>, Selection)>,
        (link, unpack): (bool, Unpack),
    ) -> Result<(Operation<Step>, String), Stop> {
        let is_folder =
            destination.text.ends_with('/') || destination.text == "." || destination.text.ends_with("/.");
        if sources.len() > 1 && !is_folder {
            let message = format!(
                "When using {name} with more than one source file, the destination must be a directory and end with a /"
            );
            let remedy = format!("write {}/", destination.text);
            return Err(Problem::new(destination.span, message, remedy).into());
        }
        let mut path = absolute(&stage.config, &destination.text);
        if is_folder && !path.ends_with('/') {
            path.push('/');
        }
        let mut words = vec![name.to_owned()];
        let text = |word: &Option<Word>| word.as_ref().map(|word| word.text.clone());
        words.extend(text(flags.chown).map(|owner| format!("--chown={owner}")));
        words.extend(text(flags.chmod).map(|mode| format!("--chmod={mode}")));
        words.extend(sources.iter().map(|source| match source {
            From::Path(path) => path.text.clone(),
            From::Inline(Heredoc { name, .. }) => format!("<<{name}"),
        }));
        words.extend([destination.text.clone(), "# buildkit".to_owned()]);
        let (owner, mode) = (text(flags.chown), text(flags.chmod));
        let newest = self.newest;
        let copy = Copy { below: stage.top, files, destination: path, owner, mode, link, unpack, newest };
        Ok((Operation::Copy(copy), words.join(" ")))
    }
}

impl Stage {
    /// Of a clone, about.
    fn bytes(&self) -> usize {
        let image = &self.config.config;
        let labels = image.labels.iter().map(|(name, value)| name.len() + value.len());
        let texts = self.past.iter().map(|past| &past.created_by);
        let texts =
            texts.chain(&image.env).chain(&image.exposed_ports).chain(&image.volumes).chain(&image.on_build);
        texts.map(String::len).chain(labels).map(|bytes| bytes + size_of::<String>()).sum()
    }

    /// Instructions that change no file; their text in the history.
    fn configure(&mut self, instruction: &Instruction, budget: &Budget) -> Result<String, Problem> {
        let image = &mut self.config.config;
        Ok(match &instruction.kind {
            Kind::Env(pairs) => {
                for pair in &pairs.pairs {
                    self.scope.set(&pair.key.text, &pair.value.text);
                }
                image.env = self.scope.environment();
                budget.spend(image.env.iter().map(String::len).sum(), instruction.span)?;
                format!("ENV {}", pairs_text(pairs))
            }
            Kind::Label(pairs) => {
                let pair = |pair: &ast::Pair| (pair.key.text.clone(), pair.value.text.clone());
                image.labels.extend(pairs.pairs.iter().map(pair));
                format!("LABEL {}", pairs_text(pairs))
            }
            Kind::Expose(words) => {
                let mut ports = BTreeSet::new();
                for word in words {
                    let found = config::ports(&word.text);
                    let found =
                        found.map_err(|message| Problem::new(word.span, message, "write PORT/tcp"))?;
                    budget
                        .spend(found.iter().map(|port| port.len() + size_of::<String>()).sum(), word.span)?;
                    ports.extend(found);
                }
                image.exposed_ports.extend(ports.iter().cloned());
                format!("EXPOSE {}", config::set(ports))
            }
            Kind::Volume(words) => {
                image.volumes.extend(config::texts(words));
                format!("VOLUME [{}]", config::texts(words).join(" "))
            }
            Kind::User(user) => {
                image.user.clone_from(&user.text);
                format!("USER {}", user.text)
            }
            Kind::Stopsignal(signal) => {
                image.stop_signal.clone_from(&signal.text);
                format!("STOPSIGNAL {}", signal.text)
            }
            Kind::Onbuild(onbuild) => {
                image.on_build.push(onbuild.text.clone());
                format!("ONBUILD {}", onbuild.text)
            }
            Kind::Maintainer(name) => {
                self.config.author.clone_from(&name.text);
                format!("MAINTAINER {}", name.text)
            }
            other => self.configure_process(other),
        })
    }

    /// Those that say what runs in a container.
    fn configure_process(&mut self, kind: &Kind) -> String {
        match kind {
            Kind::Cmd(command) => {
                self.has_command = true;
                let arguments = config::arguments(&self.config, command);
                self.config.config.args_escaped = matches!(command, ast::Command::Shell(_));
                let text = format!("CMD {}", config::quoted(&arguments));
                self.config.config.cmd = Some(arguments);
                text
            }
            Kind::Entrypoint(command) => {
                let arguments = config::arguments(&self.config, command);
                let text = format!("ENTRYPOINT {}", config::quoted(&arguments));
                self.config.config.entrypoint = Some(arguments);
                if !self.has_command {
                    self.config.config.cmd = None;
                }
                text
            }
            Kind::Healthcheck(check) => {
                let check = config::healthcheck(check);
                let text = format!("HEALTHCHECK {}", config::quoted_check(&check));
                self.config.config.healthcheck = Some(check);
                text
            }
            Kind::Shell(words) => {
                self.config.config.shell = config::texts(words);
                format!("SHELL [{}]", config::texts(words).join(" "))
            }
            // The others change files or variables; the planner has done them.
            _ => String::new(),
        }
    }
}

/// What COPY and ADD have in common.
struct Flags<'a> {
    chown: &'a Option<Word>,
    chmod: &'a Option<Word>,
    exclude: &'a [Word],
    parents: bool,
}

/// Where the sources of a COPY or ADD are: those that come from one place in one selection.
fn files(
    sources: &[From],
    flags: &Flags<'_>,
    place: impl Fn(&Word) -> Result<Source<Step>, Problem>,
) -> Result<Vec<(Source<Step>, Selection)>, Problem> {
    let mut files: Vec<(Source<Step>, Selection)> = Vec::new();
    for source in sources {
        let path = match source {
            From::Inline(document) => {
                let one = (document.name.clone(), document.content.text.clone().into_bytes());
                match files.last_mut() {
                    Some((Source::Inline(inline), _)) => inline.push(one),
                    _ => files.push((Source::Inline(vec![one]), Selection::default())),
                }
                continue;
            }
            From::Path(path) => path,
        };
        let from = place(path)?;
        if matches!(from, Source::Url { .. } | Source::Git { .. }) {
            files.push((from, Selection { exclude: config::texts(flags.exclude), ..Selection::default() }));
            continue;
        }
        match files.last_mut() {
            Some((last, selection)) if *last == from => selection.patterns.push(path.text.clone()),
            _ => {
                let (exclude, parents) = (config::texts(flags.exclude), flags.parents);
                files.push((from, Selection { patterns: vec![path.text.clone()], exclude, parents }));
            }
        }
    }
    Ok(files)
}

/// What a source of ADD is: a git repository, a file at an address, or a path of the context
/// (docs.docker.com/reference/dockerfile, "ADD").
fn remote(path: &Word, add: &ast::Add) -> Result<Source<Step>, Problem> {
    let text = &path.text;
    let checksum = add.checksum.as_ref().map(|word| word.text.clone());
    let is_web = text.starts_with("http://") || text.starts_with("https://");
    let repository = text.split(['#', '?']).next().unwrap_or(text);
    let is_git = ["git@", "git://", "ssh://"].iter().any(|start| text.starts_with(start))
        || is_web && repository.ends_with(".git");
    if is_git {
        return Ok(Source::Git { address: text.clone(), checksum, keep_git_dir: add.keep_git_dir });
    }
    if !is_web {
        if let Some(word) = &add.checksum {
            let message = "checksum can't be specified for non-HTTP(S) sources";
            return Err(Problem::new(word.span, message, "take --checksum away"));
        }
        return Ok(Source::Context(String::new()));
    }
    let parse = |text: String| {
        let span = add.checksum.as_ref().map_or(path.span, |word| word.span);
        Digest::parse(&text).map_err(|error| Problem::new(span, error.to_string(), "write sha256:HEX"))
    };
    Ok(Source::Url { address: text.clone(), checksum: checksum.map(parse).transpose()? })
}

fn with_shell(config: &Config, text: &str) -> Vec<String> {
    let mut arguments = config::shell(config);
    arguments.push(text.to_owned());
    arguments
}

fn pairs_text(pairs: &ast::Pairs) -> String {
    let text = |pair: &ast::Pair| format!("{}={}", pair.key.text, pair.value.text);
    pairs.pairs.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// A path as seen from the working directory.
fn absolute(config: &Config, path: &str) -> String {
    path::clean_from(&config.config.working_dir, path)
}

fn changes_files(instruction: &Instruction) -> bool {
    matches!(instruction.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_))
}

fn steps(items: &[Item]) -> usize {
    items.iter().filter(|item| changes_files(&item.instruction)).count()
}

/// An instruction on one line, without continuations and comments; of a here-document only its first line.
fn one_line(text: &str, escape: char) -> String {
    let mut parts = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let trimmed = line.trim();
        match trimmed.strip_suffix(escape) {
            Some(continued) => parts.push(continued.trim_end()),
            None if trimmed.is_empty() => {}
            None => {
                parts.push(trimmed);
                break;
            }
        }
    }
    parts.join(" ")
}

/// A trigger's problem is told at the FROM that brought it.
fn of_trigger(problem: Problem, item: &Item) -> Problem {
    Problem::new(item.span, format!("ONBUILD {}: {}", item.text, problem.message), problem.remedy)
}
