//! A whole build, from the bytes of a Dockerfile to an image's configuration and layers.

use std::collections::HashMap;
use std::path::Path;

use futures_util::future::try_join_all;
use hull_oci::Reference;
use hull_oci::image::Config;

use crate::dockerfile::check::{self, Facts, Settings, Warning};
use crate::dockerfile::{self, Dockerfile, Position, Problem, Span};
use crate::executor::{Base, Cache, Executor, Failure, Layer, Row, Wanted};
use crate::plan::{self, Need, Options, Outcome, Plan, PlanError};
use crate::progress::{Progress, Report};
use crate::solve::{Host, Running, Solved, StepError, solve};

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Request {
    pub dockerfile: Vec<u8>,
    pub options: Options,
    /// Most steps at a time.
    pub parallel: usize,
    /// The time that steps which are done now are said to be done at, in RFC 3339. SOURCE_DATE_EPOCH
    /// among the build arguments replaces it.
    pub now: String,
    /// All that is known of its steps is wanted, for others' caches.
    pub rows: bool,
}

/// An image that is not stored yet; its layers are.
#[derive(Debug, Clone)]
pub struct Built {
    pub config: Config,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// What another cache needs to do none of it again, if it was wanted.
    pub rows: Vec<Row>,
}

/// Why there is no image. The texts are for people; [`Problem::show`] and the fields have the place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    /// All that is wrong with the Dockerfile, in the order of their places; at least one.
    #[error("{}", .0.first().map(|problem| problem.message.as_str()).unwrap_or_default())]
    Dockerfile(Vec<Problem>),
    #[error(transparent)]
    Plan(PlanError),
    /// A base image, or one that files come from. The line is the Dockerfile's.
    #[error("{failure}")]
    Image { name: String, line: usize, failure: Failure },
    #[error(transparent)]
    Step(Box<StepError>),
}

/// Builds. To drop it ends all that it does; nothing is left but what the cache keeps.
pub async fn build<E: Executor, C: Cache>(
    request: &Request,
    executor: &E,
    cache: &C,
    running: &Running,
    report: Report,
) -> Result<Built, BuildError> {
    let dockerfile = dockerfile::parse(&request.dockerfile).map_err(BuildError::Dockerfile)?;
    let text = String::from_utf8_lossy(&request.dockerfile);
    let (plan, known) = plan_with(&text, &dockerfile, request, executor).await?;
    let checked = checked(&text, &dockerfile, request, &known)?;
    for warning in &checked.warnings {
        let line = Position::of(&text, warning.span.start).line;
        let message = format!("{}: {} (line {line})", warning.check, warning.message);
        report(Progress::Warning { message, page: warning.page(), line });
    }
    for message in &plan.warnings {
        report(Progress::Warning { message: message.clone(), page: String::new(), line: 0 });
    }
    if checked.error {
        return Err(BuildError::Plan(PlanError::Checks(checked.warnings)));
    }
    report(Progress::Planned { instructions: plan.instructions.clone() });
    let created = created(request)?;
    let (parallel, rows) = (request.parallel, request.rows);
    let host = Host { executor, cache, running, report, parallel, created: &created, rows };
    let solved = solve(&plan.graph, plan.target, host).await;
    let Solved { stack, rows } = solved.map_err(|error| BuildError::Step(Box::new(error)))?;
    Ok(Built { config: plan.config(&stack, &created), layers: stack.layers(), rows })
}

/// What the build checks come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// In the order of their places.
    pub warnings: Vec<Warning>,
    /// There are some, and the file says that they are errors.
    pub error: bool,
}

/// The build checks without the build (`--check`). What would keep the build from beginning is an error; an
/// image that is not here is none: of what it says nothing is known then.
pub async fn check<E: Executor>(request: &Request, executor: &E) -> Result<Checked, BuildError> {
    let dockerfile = dockerfile::parse(&request.dockerfile).map_err(BuildError::Dockerfile)?;
    let text = String::from_utf8_lossy(&request.dockerfile);
    let known = match plan_with(&text, &dockerfile, request, executor).await {
        Ok((_, known)) => known,
        Err(BuildError::Image { .. }) => HashMap::new(),
        Err(error) => return Err(error),
    };
    checked(&text, &dockerfile, request, &known)
}

fn checked(
    text: &str,
    dockerfile: &Dockerfile,
    request: &Request,
    known: &HashMap<Wanted, Base>,
) -> Result<Checked, BuildError> {
    let settings = match request.options.arguments.get("BUILDKIT_DOCKERFILE_CHECK") {
        Some(given) => Settings::parse(given, Span::default()),
        None => Settings::of(dockerfile),
    };
    let settings = settings.map_err(|problem| BuildError::Dockerfile(vec![problem]))?;
    let variables = |image: &str| {
        let reference = Reference::parse(image).ok()?.with_default_tag();
        let (_, base) = known.iter().find(|(wanted, _)| wanted.reference == reference)?;
        let name = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
        Some(base.config.config.env.iter().map(name).collect())
    };
    let ignored = |path: &str| request.options.ignore.is_ignored(Path::new(path.trim_matches('/')));
    let facts = Facts { variables: &variables, ignored: &ignored };
    let warnings = check::check(text, dockerfile, &settings, &facts);
    Ok(Checked { error: settings.error && !warnings.is_empty(), warnings })
}

/// Plans, and looks up images until no more are needed: a base image's triggers can name others.
async fn plan_with<E: Executor>(
    text: &str,
    dockerfile: &Dockerfile,
    request: &Request,
    executor: &E,
) -> Result<(Plan, HashMap<Wanted, Base>), BuildError> {
    let mut known: HashMap<Wanted, Base> = HashMap::new();
    loop {
        let outcome =
            plan::plan(text, dockerfile, &request.options, &known).map_err(|error| match error {
                PlanError::Problem(problem) => BuildError::Dockerfile(vec![problem]),
                error => BuildError::Plan(error),
            })?;
        let needs = match outcome {
            Outcome::Ready(plan) => return Ok((*plan, known)),
            Outcome::Needs(needs) => needs,
        };
        let looked_up = needs.into_iter().map(|Need { wanted, line }| async move {
            match executor.image(wanted.clone()).await {
                Ok(base) => Ok((wanted, base)),
                Err(failure) => Err(BuildError::Image { name: wanted.reference.familiar(), line, failure }),
            }
        });
        known.extend(try_join_all(looked_up).await?);
    }
}

fn created(request: &Request) -> Result<String, BuildError> {
    let Some(seconds) = plan::newest(&request.options).map_err(BuildError::Plan)? else {
        return Ok(request.now.clone());
    };
    let time = jiff::Timestamp::from_second(seconds);
    time.map(|time| time.to_string()).map_err(|_| BuildError::Plan(PlanError::Epoch(seconds.to_string())))
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
