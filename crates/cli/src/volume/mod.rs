//! `volume`: volumes made, shown and removed.

pub(crate) mod list;

use hull_api::client::{Body, Query, segment};
use serde_json::{Value, json};

use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::container::each::gathered;
use crate::flags::{Flag, Given, any};
use crate::network::create::map;
use crate::session::{Session, line};

pub(crate) static CREATE: Command = Command {
    paths: &["volume create"],
    usage: "[OPTIONS] [VOLUME]",
    summary: "Create a volume",
    arguments: Arguments::AtMost(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::text("driver", "Driver of the volume: local").short('d').default("local"),
        Flag::list("label", any, "Label of the volume"),
        Flag::list("opt", any, "Option of the driver").short('o').label("map"),
    ]],
    run: |session, given| Box::pin(create(session, given)) as Outcome<'_>,
};

pub(crate) static REMOVE: Command = Command {
    paths: &["volume rm", "volume remove"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    summary: "Remove volumes that no container has",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[Flag::switch("force", "A volume that is not there is no error").short('f')]],
    run: |session, given| Box::pin(remove(session, given)) as Outcome<'_>,
};

pub(crate) static UPDATE: Command = Command {
    paths: &["volume update"],
    usage: "[OPTIONS] VOLUME",
    summary: "Change a volume of a swarm",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[Flag::text("availability", "Where it can be used: active, pause, drain").default("active")]],
    run: |session, given| Box::pin(update(session, given)) as Outcome<'_>,
};

async fn create(session: &Session, given: &Given) -> Result<u8, Failure> {
    let answer = session.client.post("/volumes/create", &Query::new(), Body::json(&body(given))).await?;
    let created: Value = answer.json().await?;
    line(created["Name"].as_str().unwrap_or_default());
    Ok(0)
}

/// What is not said is not there, as the reference does it.
fn body(given: &Given) -> Value {
    let mut body = json!({ "Driver": given.text("driver") });
    for (flag, key) in [("opt", "DriverOpts"), ("label", "Labels")] {
        if given.has(flag) {
            body[key] = Value::Object(map(given.list(flag)));
        }
    }
    if let Some(name) = given.arguments.first() {
        body["Name"] = json!(name);
    }
    body
}

async fn remove(session: &Session, given: &Given) -> Result<u8, Failure> {
    let query = Query::new().switch("force", given.on("force"));
    let mut errors = Vec::new();
    for name in &given.arguments {
        let outcome = match session.client.delete(&format!("/volumes/{}", segment(name)), &query).await {
            Ok(answer) => answer.bytes().await.map(drop),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => line(name),
            Err(error) => errors.push(chain(&error)),
        }
    }
    gathered(errors)
}

/// There are no volumes of a swarm; the daemon says whether there is this one.
async fn update(session: &Session, given: &Given) -> Result<u8, Failure> {
    let path = format!("/volumes/{}", segment(&given.arguments[0]));
    session.client.get(&path, &Query::new()).await?.bytes().await?;
    Err(fail("can only update cluster volumes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    #[test]
    fn the_body_is_the_references() {
        let asked = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let Ok(given) = flags::parse(CREATE.flags, false, &words) else { panic!("{words:?}") };
            body(&given)
        };
        assert_eq!(asked(""), json!({"Driver": "local"}));
        assert_eq!(asked("-d nosuch v3"), json!({"Driver": "nosuch", "Name": "v3"}));
        assert_eq!(
            asked("--label a=b -o type=tmpfs -o o=size=1m -o bare v2"),
            json!({
                "Driver": "local", "DriverOpts": {"type": "tmpfs", "o": "size=1m", "bare": ""}, "Labels": {"a": "b"},
                "Name": "v2",
            })
        );
    }
}
