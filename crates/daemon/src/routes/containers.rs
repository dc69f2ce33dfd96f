//! Making, listing and showing containers.

use std::collections::BTreeSet;

use http::StatusCode;
use hull_api::compat;
use hull_api::container::{
    ContainersPruned, Summary, SummaryHealth, SummaryHostConfig, SummaryNetworks, Top,
};
use hull_api::create::{CreateRequest, Created};
use hull_api::filters::{FilterError, Filters};
use hull_api::system::Usage;
use hull_engine::Error;
use hull_engine::containers::phase::Time;
use hull_engine::containers::settings::{Below, Mount};
use hull_engine::containers::view::{Place, View};
use hull_network::record::{PortRange, Protocol};
use hull_oci::Platform;

use super::{show, system};
use crate::http::{Call, Failure, Handled, json, ok};
use crate::translate;
use crate::units::go_duration;

pub(super) async fn create(mut call: Call) -> Handled {
    let body = call.json_bytes().await?;
    let mut request = CreateRequest::decode(&body)?;
    let unified = call.server.engine.host().facts.cgroup_version == "2";
    let mut warnings = compat::request::create(call.version, &mut request, unified)?;
    let name = call.query.text("name").trim_start_matches('/').to_owned();
    let name = Some(name).filter(|name| !name.is_empty());
    check_platform(&call, &request.config.image)?;
    let other = other_platform(&call, &request.config.image);
    let below = if compat::request::read_only_at_top_alone(call.version) {
        Below::Untouched
    } else {
        Below::ReadOnlyIfPossible
    };
    let (create, more) = translate::create(name, request, &call.server.facts, below)?;
    warnings.splice(0..0, more);
    let created = match call.server.engine.create(create.clone()).await {
        // The image that is inside the executable appears when it is first asked for.
        Err(Error::NoSuchImage(name)) if name == "hello:latest" => {
            call.server.engine.images().hello().await?;
            call.server.engine.create(create).await?
        }
        other => other?,
    };
    warnings.extend(created.warnings);
    warnings.extend(other);
    Ok(json(StatusCode::CREATED, &Created { id: created.id, warnings }))
}

/// `?platform=linux/arm64`: refused if the image is of another.
fn check_platform(call: &Call, image: &str) -> Result<(), Failure> {
    let text = call.query.text("platform");
    if text.is_empty() || image.is_empty() || call.version.before(41) {
        return Ok(());
    }
    let wanted = Platform::parse(text).map_err(|error| Failure::invalid(error.to_string()))?;
    let found = call.server.engine.images().resolve(image)?.config.platform();
    if wanted.rank(&found).is_some() {
        return Ok(());
    }
    Err(Failure::not_found(format!(
        "image with reference {image} was found but its platform ({found}) does not match the specified platform \
         ({wanted})"
    )))
}

/// What is said of an image for another machine, where nobody asked for that.
fn other_platform(call: &Call, image: &str) -> Option<String> {
    if !call.query.text("platform").is_empty() {
        return None;
    }
    // What is not there is told later, by who needs it.
    let image = call.server.engine.images().resolve(image).ok()?.config.platform();
    let host = call.server.engine.host().facts.platform;
    host.rank(&image).is_none().then(|| {
        format!(
            "The requested image's platform ({image}) does not match the detected host platform ({host}) and no specific \
             platform was requested"
        )
    })
}

pub(super) async fn inspect(call: &Call, key: &str) -> Handled {
    let view = call.server.engine.container(key)?;
    let mut shown = show::inspect(&view);
    if call.query.flag("size") {
        let (rw, all) = sizes(call, &view).await;
        shown.size_rw = Some(rw);
        shown.size_root_fs = Some(all);
    }
    let mut value = system::value_of(&shown)?;
    compat::container(call.version, &mut value);
    ok(&value)
}

/// Bytes of the writable layer, and of everything.
async fn sizes(call: &Call, view: &View) -> (i64, i64) {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    // Gone meanwhile: nothing.
    let rw = number(call.server.engine.writable_bytes(&view.id).await.unwrap_or(0));
    let image = call.server.engine.images().resolve(&view.image.id.to_string());
    let image = image.map_or(0, |image| number(image.size));
    (rw, rw.saturating_add(image))
}

/// For `system df`: every container, and what those that do not run would give back.
pub(super) async fn usage(call: &Call) -> Usage<Summary> {
    let mut usage = Usage::default();
    for view in call.server.engine.containers() {
        let row = summary(call, &view, true).await;
        let size = row.size_rw.unwrap_or(0);
        usage.total_size += size;
        if matches!(view.phase.status(), "running" | "paused" | "restarting") {
            usage.active_count += 1;
        } else {
            usage.reclaimable += size;
        }
        usage.total_count += 1;
        usage.items.push(row);
    }
    usage
}

/// One row of a list.
async fn summary(call: &Call, view: &View, size: bool) -> Summary {
    let (size_rw, size_root_fs) = if size {
        let (rw, all) = sizes(call, view).await;
        (Some(rw).filter(|bytes| *bytes != 0), Some(all))
    } else {
        (None, None)
    };
    let annotations = view.settings.annotations.clone();
    Summary {
        id: view.id.clone(),
        names: vec![format!("/{}", view.name)],
        image: image_name(call, view),
        image_id: view.image.id.to_string(),
        command: show::command(view),
        created: view.created.div_euclid(1_000_000_000),
        ports: show::ports(view),
        size_rw,
        size_root_fs,
        labels: view.settings.labels.clone(),
        state: view.phase.status().to_owned(),
        status: show::status(view, show::now()),
        host_config: SummaryHostConfig {
            network_mode: show::network_mode(&view.settings.network),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        },
        health: Some(SummaryHealth { status: "none".to_owned(), failing_streak: 0 }),
        network_settings: SummaryNetworks { networks: show::networks(view) },
        mounts: show::mounts(view).into_iter().filter(|mount| mount.kind != "tmpfs").collect(),
    }
}

/// The name as it was asked for, unless it means another image by now.
fn image_name(call: &Call, view: &View) -> String {
    match call.server.engine.images().resolve(&view.image.name) {
        Ok(image) if image.id == view.image.id => view.image.name.clone(),
        _ => view.image.id.to_string(),
    }
}

pub(super) async fn list(call: &Call) -> Handled {
    const KNOWN: [&str; 17] = [
        "ancestor",
        "before",
        "exited",
        "id",
        "isolation",
        "label",
        "name",
        "status",
        "health",
        "since",
        "volume",
        "network",
        "is-task",
        "publish",
        "expose",
        "label!",
        "until",
    ];
    let filters = call.query.filters()?;
    filters.check(&KNOWN[..15])?;
    let limit = match call.query.text("limit") {
        "" => None,
        text => Some(
            text.parse::<i64>()
                .map_err(|_| Failure::invalid(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))?,
        ),
    };
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let wanted = Wanted::new(call, &filters)?;
    // A filter for a state looks at all containers, as does a limit.
    let all = call.query.flag("all") || limit.is_some() || filters.has("status") || filters.has("exited");
    let mut rows = Vec::new();
    for view in call.server.engine.containers() {
        if (all || view.is_running() || view.phase.status() == "restarting") && wanted.admits(&view) {
            let mut row = system::value_of(&summary(call, &view, call.query.flag("size")).await)?;
            compat::container_row(call.version, &mut row);
            rows.push(row);
            if Some(rows.len()) == limit {
                break;
            }
        }
    }
    ok(&rows)
}

/// The filters of a list, looked up and checked once.
struct Wanted<'a> {
    filters: &'a Filters,
    exited: Vec<i32>,
    before: Option<Time>,
    since: Option<Time>,
    /// Ids of the images named; `None` without that filter.
    ancestors: Option<BTreeSet<String>>,
    /// Ports of the host, and of the container.
    published: Vec<(Protocol, PortRange)>,
    exposed_ports: Vec<(Protocol, PortRange)>,
}

impl<'a> Wanted<'a> {
    fn new(call: &Call, filters: &'a Filters) -> Result<Wanted<'a>, Failure> {
        const STATES: [&str; 7] =
            ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
        for state in filters.values("status") {
            if !STATES.contains(&state) {
                return Err(Failure::invalid(format!(
                    "invalid filter 'status={state}': invalid value for state ({state}): must be one of {}",
                    STATES.join(", ")
                )));
            }
        }
        for health in filters.values("health") {
            if !["none", "starting", "healthy", "unhealthy"].contains(&health) {
                return Err(FilterError::BadValue { name: "health".into(), value: health.into() }.into());
            }
        }
        let code = |text: &str| {
            text.parse().map_err(|_| {
                Failure::invalid(format!(
                    "invalid filter 'exited={text}': strconv.Atoi: parsing {text:?}: invalid syntax"
                ))
            })
        };
        filters.boolean("is-task")?;
        let engine = &call.server.engine;
        let created = |name: &str| -> Result<Option<Time>, Failure> {
            filters.values(name).next().map(|key| Ok(engine.container(key)?.created)).transpose()
        };
        let ancestors = filters.has("ancestor").then(|| {
            filters
                .values("ancestor")
                .filter_map(|name| engine.images().resolve(name).ok())
                .map(|image| image.id.to_string())
                .collect()
        });
        Ok(Wanted {
            filters,
            exited: filters.values("exited").map(code).collect::<Result<_, _>>()?,
            before: created("before")?,
            since: created("since")?,
            ancestors,
            published: port_filter(filters, "publish")?,
            exposed_ports: port_filter(filters, "expose")?,
        })
    }

    fn has_port(&self, view: &View, wanted: &[(Protocol, PortRange)], public: bool) -> bool {
        show::ports(view).iter().any(|port| {
            let number = if public { port.public_port } else { port.private_port };
            number != 0
                && wanted
                    .iter()
                    .any(|(protocol, range)| protocol.name() == port.kind && range.contains(number))
        })
    }

    fn admits(&self, view: &View) -> bool {
        let Wanted { filters, .. } = self;
        let any =
            |name: &str, fits: &dyn Fn(&str) -> bool| !filters.has(name) || filters.values(name).any(fits);
        let exited = self.exited.is_empty()
            || (view.phase.status() == "exited" && self.exited.contains(&view.exit_code));
        exited
            && self.before.is_none_or(|before| view.created < before)
            && self.since.is_none_or(|since| view.created > since)
            && self.ancestors.as_ref().is_none_or(|ids| ids.contains(&view.image.id.to_string()))
            && any("id", &|id| view.id.starts_with(id))
            && any("name", &|pattern| name_matches(pattern, &view.name))
            && any("status", &|state| view.phase.status() == state)
            && any("health", &|health| health == "none")
            && any("is-task", &|flag| matches!(flag, "false" | "0"))
            && any("network", &|network| {
                let is = |place: &Place| {
                    let id =
                        place.id.as_ref().is_some_and(|id| !network.is_empty() && id.starts_with(network));
                    id || place.attachment.network == network
                };
                view.places.iter().any(is)
            })
            && any("volume", &|volume| {
                view.settings.mounts.iter().any(|mount| {
                    let source = match mount {
                        Mount::Bind { source, .. } => Some(source.as_str()),
                        Mount::Volume(volume) => Some(volume.name.as_str()),
                        Mount::Tmpfs { .. } | Mount::Image { .. } => None,
                    };
                    source == Some(volume) || mount.target() == volume
                })
            })
            && (self.published.is_empty() || self.has_port(view, &self.published, true))
            && (self.exposed_ports.is_empty() || self.has_port(view, &self.exposed_ports, false))
            && filters.labels_match("label", &view.settings.labels)
    }
}

/// `80`, `80/udp`, `80-90/tcp`.
fn port_filter(filters: &Filters, name: &str) -> Result<Vec<(Protocol, PortRange)>, Failure> {
    let parse = |text: &str| {
        hull_engine::networks::exposed_port(text).ok_or_else(|| {
            // 500 in the reference.
            Failure::internal(format!(
                "error while looking up for {name} {text}: strconv.ParseUint: parsing {:?}: invalid syntax",
                text.split('/').next().unwrap_or_default()
            ))
        })
    };
    filters.values(name).map(parse).collect()
}

/// The reference matches a regular expression against the name with and without its slash; here
/// it is the part of that language that is used for names: `^`, `$`, `.`, `.*`, `|` and text.
fn name_matches(pattern: &str, name: &str) -> bool {
    let slashed = format!("/{name}");
    pattern.split('|').any(|pattern| expression(pattern, name) || expression(pattern, &slashed))
}

fn expression(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    match pattern.first() {
        Some('^') => here(&pattern[1..], &text),
        _ => (0..=text.len()).any(|start| here(&pattern, &text[start..])),
    }
}

/// Names are at most 200 characters and patterns a line: the recursion is bounded by both.
fn here(pattern: &[char], text: &[char]) -> bool {
    let fits =
        |wanted: char, found: Option<&char>| found.is_some_and(|found| wanted == '.' || wanted == *found);
    match pattern {
        [] => true,
        ['$'] => text.is_empty(),
        ['\\', wanted, rest @ ..] => text.first() == Some(wanted) && here(rest, &text[1..]),
        [wanted, '*', rest @ ..] => {
            let run = text.iter().take_while(|found| fits(*wanted, Some(found))).count();
            (0..=run).rev().any(|count| here(rest, &text[count..]))
        }
        [wanted, rest @ ..] => fits(*wanted, text.first()) && here(rest, &text[1..]),
    }
}

pub(super) async fn top(call: &Call, key: &str) -> Handled {
    let args = call.query.get("ps_args").unwrap_or("-ef");
    let top = call.server.engine.top(key, args).await?;
    ok(&Top { processes: top.processes, titles: top.titles })
}

pub(super) async fn prune(call: &Call) -> Handled {
    let filters = call.query.filters()?;
    filters.check(&["label", "label!", "until"])?;
    let until = filters.values("until").next().map(|text| moment(text, show::now())).transpose()?;
    let engine = &call.server.engine;
    let wanted = |view: &View| {
        let labels = &view.settings.labels;
        until.is_none_or(|until| view.created < until)
            && filters.labels_match("label", labels)
            && !(filters.has("label!") && filters.labels_match("label!", labels))
    };
    let pruned = engine.prune_containers(wanted).await?;
    ok(&ContainersPruned {
        containers_deleted: (!pruned.ids.is_empty()).then_some(pruned.ids),
        space_reclaimed: pruned.bytes,
    })
}

/// A point in time: seconds since the epoch, RFC 3339, a date, or a duration before now.
pub(super) fn moment(text: &str, now: Time) -> Result<Time, Failure> {
    let wrong = || Failure::invalid(format!("failed to parse value as time or duration: {text:?}"));
    if let Some(time) = super::streams::timestamp(text) {
        return Ok(time);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return i64::try_from(time.as_nanosecond()).map_err(|_| wrong());
    }
    if let Ok(time) = text.parse::<jiff::civil::DateTime>()
        && let Ok(time) = time.to_zoned(jiff::tz::TimeZone::UTC)
    {
        return i64::try_from(time.timestamp().as_nanosecond()).map_err(|_| wrong());
    }
    go_duration(text).map(|nanos| now.saturating_sub(nanos)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_anywhere_or_where_the_pattern_says() {
        for (pattern, name, expected) in [
            ("ex", "my-ex0", true),
            ("^ex0$", "ex0", true),
            ("^ex0$", "my-ex0", false),
            ("^/ex0$", "ex0", true),
            ("/ex", "ex0", true),
            ("e.0", "ex0", true),
            ("^a.*z$", "abcz", true),
            ("^a.*z$", "abc", false),
            ("zz|ex", "ex0", true),
            ("[", "ex0", false),
        ] {
            assert_eq!(name_matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn moments_are_read_in_all_their_forms() {
        let now = 10_000_000_000_000;
        assert_eq!(moment("1.5", now).unwrap(), 1_500_000_000);
        assert_eq!(moment("1970-01-01T00:00:02Z", now).unwrap(), 2_000_000_000);
        assert_eq!(moment("1970-01-01T00:00:02", now).unwrap(), 2_000_000_000);
        assert_eq!(moment("1h30m", now).unwrap(), now - 5_400_000_000_000);
        assert_eq!(
            moment("nonsense", now).unwrap_err().message,
            "failed to parse value as time or duration: \"nonsense\""
        );
    }
}
