//! A Dockerfile becomes a graph: stages, variables and base images are resolved, and each instruction that
//! changes files becomes a vertex.
//!
//! Only what the target needs is planned: a stage when a FROM, a COPY --from or a mount names it. What
//! an instruction means can depend on its stage's base image (its variables, its user, its ONBUILD
//! triggers), and that is known only when the image was looked up. So planning is a pure function of the file, the
//! wishes and the images that are known; if one is missing it says which ones, and is called again.

mod stage;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use hull_context::Ignore;
use hull_oci::image::Config;
use hull_oci::{Platform, Reference};

use crate::config::{self, Past};
use crate::dockerfile::ast::{From, Word};
use crate::dockerfile::check::Warning;
use crate::dockerfile::{Dockerfile, Instruction, Kind, Position, Problem, Span, expand, scope};
use crate::executor::{Base, Layer, Stack, Wanted};
use crate::graph::{Graph, Task, Vertex};
use crate::progress::{Planned, Step};
use stage::Stage;

/// Bytes that a plan may come to: all values, ports, labels and texts of the history, each time that they are
/// copied. A file of a few lines can mean any amount.
const MAX_PLAN: usize = 64 << 20;

/// What is left of them.
struct Budget(Cell<usize>);

impl Budget {
    fn spend(&self, bytes: usize, span: Span) -> Result<(), Problem> {
        let Some(left) = self.0.get().checked_sub(bytes) else {
            let message = format!("up to here the Dockerfile comes to more than {} MiB", MAX_PLAN >> 20);
            let remedy = "use fewer or shorter variables, labels and ports, or keep large values in files";
            return Err(Problem::new(span, message, remedy));
        };
        self.0.set(left);
        Ok(())
    }
}

/// What is wished besides the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A stage's name or number; `None` is the last.
    pub target: Option<String>,
    /// `--build-arg`.
    pub arguments: BTreeMap<String, String>,
    /// `--label`: the file's are replaced.
    pub labels: BTreeMap<String, String>,
    /// That is built for; `None` is the host's.
    pub platform: Option<Platform>,
    /// Newer base images are looked for.
    pub pull: bool,
    pub no_cache: bool,
    /// Stages that are made anew.
    pub no_cache_filter: Vec<String>,
    /// What the main context leaves out: a check warns of copies of it.
    pub ignore: Ignore,
    /// What else of the host a RUN can see: a step that was done with other ones is done again.
    pub surroundings: Vec<String>,
    /// `--build-context`, by name; they hide stages and images of that name.
    pub contexts: BTreeMap<String, NamedContext>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// Files, which the executor knows by the name.
    Files,
    Image(Reference),
}

/// What planning comes to.
#[derive(Debug)]
pub enum Outcome {
    /// These have to be known first.
    Needs(Vec<Need>),
    Ready(Box<Plan>),
}

/// An image, and where it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub wanted: Wanted,
    /// Of the Dockerfile, from 1.
    pub line: usize,
}

/// All that is to be done.
#[derive(Debug)]
pub struct Plan {
    pub graph: Graph,
    /// Whose file system is the image's.
    pub target: Step,
    /// Those of the stages that are needed, in the order of the file.
    pub instructions: Vec<Planned>,
    pub warnings: Vec<String>,
    config: Config,
    past: Vec<Past>,
}

impl Plan {
    /// The image's configuration, once its file system is there. `created` is for an image without
    /// any step, in RFC 3339.
    pub fn config(&self, stack: &Stack, created: &str) -> Config {
        config::finish(self.config.clone(), &self.past, stack, created)
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("target stage {0:?} could not be found")]
    Target(String),
    #[error("{}", .0.message)]
    Problem(Problem),
    /// The file says `# check=error=true`, and there are warnings. The text is the reference's.
    #[error("lint violation found for rules: {}", rules(.0))]
    Checks(Vec<Warning>),
    #[error("invalid SOURCE_DATE_EPOCH: {0:?}: write seconds since 1970")]
    Epoch(String),
}

/// The names of the checks that have warned, each once.
fn rules(warnings: &[Warning]) -> String {
    let mut names: Vec<&str> = warnings.iter().map(|warning| warning.check).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

impl std::convert::From<Problem> for PlanError {
    fn from(problem: Problem) -> PlanError {
        PlanError::Problem(problem)
    }
}

/// `text` is what `dockerfile` was parsed from; `known` has the images that were looked up.
pub fn plan(
    text: &str,
    dockerfile: &Dockerfile,
    options: &Options,
    known: &HashMap<Wanted, Base>,
) -> Result<Outcome, PlanError> {
    let target_platform = options.platform.clone().unwrap_or_else(Platform::host);
    let mut global = scope::Global::new(options.arguments.clone(), &Platform::host(), &target_platform);
    let budget = Budget(Cell::new(MAX_PLAN));
    let sections = sections(dockerfile, &mut global, &budget)?;
    let target = target(&sections, options)?;
    let each = sections.len();
    let mut planner = Planner {
        text,
        escape: dockerfile.escape,
        options,
        budget,
        newest: newest(options)?,
        platform: target_platform,
        known,
        global,
        sections,
        stages: vec![None; each],
        bases: HashMap::new(),
        vertices: Vec::new(),
        instructions: Vec::new(),
        needs: Vec::new(),
        nested: 0,
    };
    // In the order of the file: a stage needs only earlier ones, which are planned when it comes.
    for index in planner.look_ahead(target)? {
        if !planner.needs.is_empty() {
            break;
        }
        match planner.stage(index) {
            Err(Stop::Problem(problem)) => return Err(problem.into()),
            Ok(()) | Err(Stop::Needs) => {}
        }
    }
    match planner.stages[target].take() {
        Some(stage) if planner.needs.is_empty() => {
            Ok(Outcome::Ready(Box::new(planner.finish(dockerfile, stage))))
        }
        _ => {
            planner.needs.sort_by_key(|need| need.line);
            Ok(Outcome::Needs(planner.needs))
        }
    }
}

/// SOURCE_DATE_EPOCH as a number (reproducible-builds.org/specs/source-date-epoch).
pub(crate) fn newest(options: &Options) -> Result<Option<i64>, PlanError> {
    let text = options.arguments.get("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty());
    let number = |text: &String| text.parse().map_err(|_| PlanError::Epoch(text.clone()));
    text.map(number).transpose()
}

/// A FROM and what follows it up to the next.
struct Section<'a> {
    from: &'a From,
    span: Span,
    /// Lower case.
    name: Option<String>,
    body: &'a [Instruction],
}

/// Parts the file; what stands before the first FROM goes to the global variables.
fn sections<'a>(
    dockerfile: &'a Dockerfile,
    global: &mut scope::Global,
    budget: &Budget,
) -> Result<Vec<Section<'a>>, Problem> {
    let instructions = &dockerfile.instructions;
    let starts: Vec<usize> =
        (0..instructions.len()).filter(|&at| matches!(instructions[at].kind, Kind::From(_))).collect();
    for instruction in &instructions[..starts.first().copied().unwrap_or(0)] {
        if let Kind::Arg(arguments) = &instruction.kind {
            for argument in arguments {
                budget.spend(global.declare(argument, dockerfile.escape)?, instruction.span)?;
            }
        }
    }
    let ends = starts.iter().skip(1).copied().chain([instructions.len()]);
    let section = |(start, end): (usize, usize)| match &instructions[start].kind {
        Kind::From(from) => Some(Section {
            from,
            span: instructions[start].span,
            name: from.stage.as_ref().map(|name| name.text.to_lowercase()),
            body: &instructions[start + 1..end],
        }),
        _ => None,
    };
    Ok(starts.iter().copied().zip(ends).filter_map(section).collect())
}

fn target(sections: &[Section<'_>], options: &Options) -> Result<usize, PlanError> {
    let missing = || PlanError::Target(options.target.clone().unwrap_or_default());
    let Some(name) = options.target.as_ref().filter(|name| !name.is_empty()) else {
        return sections.len().checked_sub(1).ok_or_else(missing);
    };
    let lower = name.to_lowercase();
    let by_name = sections.iter().rposition(|section| section.name.as_ref() == Some(&lower));
    let by_number = || name.parse().ok().filter(|number| *number < sections.len());
    by_name.or_else(by_number).ok_or_else(missing)
}

/// Why a stage cannot be planned (now).
enum Stop {
    /// An image is not known; it is among the planner's needs.
    Needs,
    Problem(Problem),
}

impl std::convert::From<Problem> for Stop {
    fn from(problem: Problem) -> Stop {
        Stop::Problem(problem)
    }
}

/// What a name in FROM or `--from` means.
enum Named {
    Stage(usize),
    Files(String),
    Image(Wanted),
    Scratch,
}

struct Planner<'a> {
    text: &'a str,
    escape: char,
    options: &'a Options,
    budget: Budget,
    newest: Option<i64>,
    platform: Platform,
    known: &'a HashMap<Wanted, Base>,
    global: scope::Global,
    sections: Vec<Section<'a>>,
    /// Those that are planned.
    stages: Vec<Option<Stage>>,
    /// Vertices of images that files are copied from.
    bases: HashMap<Option<Wanted>, Step>,
    vertices: Vec<Vertex>,
    /// With the stage and the place in it, by which they are sorted.
    instructions: Vec<((usize, usize), Planned)>,
    needs: Vec<Need>,
    /// Stages that wait for the one that is planned now.
    nested: usize,
}

impl Planner<'_> {
    /// The stages that the target needs as far as the file tells, in its order. Notes all of their images,
    /// so that they are looked up at the same time.
    fn look_ahead(&mut self, target: usize) -> Result<Vec<usize>, Problem> {
        let mut ahead = vec![target];
        let mut seen = vec![false; self.sections.len()];
        while let Some(index) = ahead.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            let span = self.sections[index].span;
            match self.base_of(index)? {
                Named::Stage(stage) => ahead.push(stage),
                Named::Image(wanted) => self.need(wanted, span),
                Named::Files(_) | Named::Scratch => {}
            }
            for name in stage::froms(self.sections[index].body) {
                match self.source_named(name, index) {
                    Ok(Named::Stage(stage)) => ahead.push(stage),
                    Ok(Named::Image(wanted)) => self.need(wanted, name.span),
                    // What is wrong with it is told when its turn comes.
                    Ok(Named::Files(_) | Named::Scratch) | Err(_) => {}
                }
            }
        }
        Ok((0..=target).filter(|&index| seen[index]).collect())
    }

    fn need(&mut self, wanted: Wanted, span: Span) {
        let line = Position::of(self.text, span.start).line;
        if !self.known.contains_key(&wanted) && !self.needs.iter().any(|need| need.wanted == wanted) {
            self.needs.push(Need { wanted, line });
        }
    }

    /// What a stage begins with.
    fn base_of(&self, index: usize) -> Result<Named, Problem> {
        let from = self.sections[index].from;
        let lookup = |name: &str| self.global.get(name);
        let image = Word { text: expand::word(&from.image, self.escape, &lookup)?, span: from.image.span };
        if image.text.is_empty() {
            let message = format!("base name ({}) should not be blank", from.image.text);
            return Err(Problem::new(image.span, message, "give the ARG a default, or a --build-arg"));
        }
        let platform = match &from.platform {
            Some(word) => {
                let text = expand::word(word, self.escape, &lookup)?;
                let platform = Platform::parse(&text);
                Some(platform.map_err(|error| Problem::new(word.span, error.to_string(), ""))?)
            }
            None => self.options.platform.clone(),
        };
        self.named(&image, index, platform)
    }

    /// What a name means in the stage `index`: a context, an earlier stage, `scratch`, an image.
    fn named(&self, name: &Word, index: usize, platform: Option<Platform>) -> Result<Named, Problem> {
        let lower = name.text.to_lowercase();
        let image = |reference: Reference| {
            let reference = reference.with_default_tag();
            Named::Image(Wanted { reference, platform: platform.clone(), pull: self.options.pull })
        };
        match self.options.contexts.get(&lower) {
            Some(NamedContext::Files) => return Ok(Named::Files(lower)),
            Some(NamedContext::Image(reference)) => return Ok(image(reference.clone())),
            None => {}
        }
        let earlier = &self.sections[..index];
        if let Some(stage) = earlier.iter().rposition(|section| section.name.as_ref() == Some(&lower)) {
            return Ok(Named::Stage(stage));
        }
        if lower == "scratch" {
            return Ok(Named::Scratch);
        }
        match Reference::parse(&name.text) {
            Ok(reference) => Ok(image(reference)),
            Err(error) => {
                Err(Problem::new(name.span, error.to_string(), "name an image, or an earlier stage"))
            }
        }
    }

    /// What `--from` means: as [`named`](Self::named), or an earlier stage by its number.
    fn source_named(&self, name: &Word, index: usize) -> Result<Named, Problem> {
        if let Ok(number) = name.text.parse::<usize>() {
            if number < index {
                return Ok(Named::Stage(number));
            }
            let message = format!("invalid from flag value {number}: index out of bounds");
            return Err(Problem::new(name.span, message, "stages are counted from 0; name an earlier one"));
        }
        self.named(name, index, self.options.platform.clone())
    }

    fn image(&mut self, wanted: &Wanted, span: Span) -> Result<&Base, Stop> {
        match self.known.get(wanted) {
            Some(base) => Ok(base),
            None => {
                self.need(wanted.clone(), span);
                Err(Stop::Needs)
            }
        }
    }

    fn base_vertex(&mut self, name: String, lines: RangeInclusive<usize>, layers: Vec<Layer>) -> Step {
        self.vertices.push(Vertex { name, lines, task: Task::Base(layers), fresh: false });
        self.vertices.len() - 1
    }

    fn finish(mut self, dockerfile: &Dockerfile, stage: Stage) -> Plan {
        self.instructions.sort_by_key(|(place, _)| *place);
        let named = |name: &str| {
            dockerfile.instructions.iter().any(|instruction| match &instruction.kind {
                Kind::Arg(arguments) => arguments.iter().any(|argument| argument.name.text == name),
                _ => false,
            })
        };
        let unused: Vec<&str> = self.global.unused().into_iter().filter(|name| !named(name)).collect();
        let warnings = match unused.is_empty() {
            true => Vec::new(),
            false => vec![format!("One or more build-args [{}] were not consumed", unused.join(" "))],
        };
        let mut config = stage.config;
        config.config.labels.extend(self.options.labels.clone());
        Plan {
            target: stage.top,
            instructions: self.instructions.into_iter().map(|(_, planned)| planned).collect(),
            graph: Graph { vertices: self.vertices },
            warnings,
            config,
            past: stage.past,
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
