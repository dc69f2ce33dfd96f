//! What builds remember: its part of `system df`, and `POST /build/prune`.

use hull_api::filters::Filters;
use hull_api::system::Usage;
use hull_engine::builds::{self, Cached, Forget, Room};
use serde_json::{Value, json};

use super::{containers, show};
use crate::http::{Call, Failure, Handled, ok};

/// A remembered step as the API has it.
fn record(step: &Cached) -> Value {
    json!({
        "ID": step.id.hex(),
        "Parents": step.parent.as_ref().map(|parent| [parent.hex()]),
        "Type": step.kind.name(),
        "Description": step.description,
        "InUse": step.in_use,
        "Shared": step.shared,
        "Size": step.size,
        "CreatedAt": show::time(Some(step.created)),
        "LastUsedAt": show::time(Some(step.used)),
        "UsageCount": step.uses,
    })
}

/// For `system df`. What images have, too, is theirs.
pub(super) fn usage(call: &Call) -> Usage<Value> {
    let steps = call.server.engine.build_cache();
    let own = steps.iter().filter(|step| !step.shared);
    let size = own.map(|step| i64::try_from(step.size).unwrap_or(i64::MAX)).sum();
    Usage {
        active_count: i64::try_from(steps.iter().filter(|step| step.in_use).count()).unwrap_or(i64::MAX),
        items: steps.iter().map(record).collect(),
        reclaimable: size,
        total_count: i64::try_from(steps.len()).unwrap_or(i64::MAX),
        total_size: size,
    }
}

/// `POST /build/prune`
pub(super) async fn prune(call: &Call) -> Handled {
    let filters = call.query.filters()?;
    let number = |name| {
        call.query.number(name).map(|bytes| bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    };
    // Before 1.48 it had the other name.
    let reserved = number("reserved-space")?.max(number("keep-storage")?);
    let room = Room { reserved, max_used: number("max-used-space")?, min_free: number("min-free-space")? };
    let wanted = Forget { all: call.query.flag("all"), room, ..forget(&filters, show::now())? };
    let gone = call.server.engine.forget_builds(&wanted).await?;
    let ids: Vec<&str> = gone.steps.iter().map(|step| step.id.hex()).collect();
    ok(&json!({
        "CachesDeleted": if ids.is_empty() { None } else { Some(ids) },
        "SpaceReclaimed": gone.bytes,
    }))
}

fn forget(filters: &Filters, now: i64) -> Result<Forget, Failure> {
    filters.check(&[
        "until",
        "unused-for",
        "id",
        "parent",
        "type",
        "description",
        "inuse",
        "shared",
        "private",
    ])?;
    let values = |name: &str| filters.0.get(name).into_iter().flatten().cloned().collect::<Vec<String>>();
    let given = |name: &str| filters.0.contains_key(name);
    if given("shared") && given("private") {
        return Err(Failure::invalid("nothing is both shared and private: give one of the two filters"));
    }
    let mut forget = Forget {
        filters: builds::Filters {
            ids: values("id"),
            parents: values("parent"),
            kinds: values("type"),
            descriptions: values("description"),
            shared: given("shared").then_some(true).or(given("private").then_some(false)),
            in_use: given("inuse"),
        },
        ..Forget::default()
    };
    for text in values("until").iter().chain(&values("unused-for")) {
        forget.unused_for = now.saturating_sub(containers::moment(text, now)?).max(1);
    }
    Ok(forget)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_say_what_is_forgotten() {
        let read = |text: &str| forget(&Filters::parse(text).unwrap(), 10_000_000_000);
        assert_eq!(read("").unwrap(), Forget::default());
        let wanted = read(r#"{"until":{"3s":true},"id":{"ab":true},"type":{"regular":true},"shared":{}}"#);
        let wanted = wanted.unwrap();
        assert_eq!(wanted.unused_for, 3_000_000_000);
        assert_eq!(wanted.filters.ids, ["ab"]);
        assert_eq!(
            (&wanted.filters.kinds[..], wanted.filters.shared),
            (&["regular".to_owned()][..], Some(true))
        );
        assert_eq!(read(r#"{"private":{}}"#).unwrap().filters.shared, Some(false));
        assert!(read(r#"{"color":{"red":true}}"#).is_err());
        assert!(read(r#"{"private":{},"shared":{}}"#).is_err());
        assert!(read(r#"{"until":{"x":true}}"#).is_err());
    }
}
