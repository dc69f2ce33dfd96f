//! `version`: of the client and of the daemon.

use std::fmt::Write as _;

use hull_api::ApiVersion;
use hull_api::client::Query;
use serde_json::{Map, Value, json};

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given};
use crate::format::{self, go_json};
use crate::session::{Session, line, print};
use crate::table;

pub(crate) static VERSION: Command = Command {
    paths: &["version"],
    usage: "[OPTIONS]",
    summary: "Show the versions of client and daemon",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[Flag::text("format", crate::FORMAT_HELP).short('f')]],
    run: |session, given| Box::pin(version(session, given)) as Outcome<'_>,
};

/// The version of this build.
pub(crate) const OWN: &str = env!("CARGO_PKG_VERSION");

async fn version(session: &Session, given: &Given) -> Result<u8, Failure> {
    let answer = match session.client.get("/version", &Query::new()).await {
        Ok(answer) => answer.json::<Value>().await,
        Err(error) => Err(error),
    };
    let (server, failure) = match answer {
        Ok(server) => (Some(server), None),
        Err(error) => (None, Some(Failure::from(error))),
    };
    let client = client(session);
    match given.text("format") {
        "" => print(&shown(&client, server.as_ref())),
        "json" => line(&go_json(&both(&client, server.as_ref()))),
        text => {
            let template = format::parse(text)?;
            let data = hull_template::Value::from(both(&client, server.as_ref()));
            let text = template
                .exec(&data, &hull_template::Options::default())
                .map_err(|error| fail(error.to_string()))?;
            line(&text);
        }
    }
    match failure {
        None => Ok(0),
        Some(failure) => Err(failure),
    }
}

fn both(client: &Value, server: Option<&Value>) -> Value {
    json!({ "Client": client, "Server": server })
}

fn client(session: &Session) -> Value {
    let newest = session.pinned.unwrap_or(ApiVersion::NEWEST).to_string();
    json!({
        "Version": OWN,
        "ApiVersion": session.client.version().to_string(),
        "DefaultAPIVersion": newest,
        "GitCommit": "",
        "GoVersion": "",
        "Os": std::env::consts::OS,
        "Arch": architecture(),
        "BuildTime": "",
        "Context": "default",
    })
}

/// The machine as Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn shown(client: &Value, server: Option<&Value>) -> String {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (used, newest) = (text(client, "ApiVersion"), ApiVersion::NEWEST.to_string());
    let api = if used == newest { used } else { format!("{used} (downgraded from {newest})") };
    let mut out = String::from("Client:\n");
    for (name, value) in [
        ("Version", text(client, "Version")),
        ("API version", api),
        ("OS/Arch", format!("{}/{}", text(client, "Os"), text(client, "Arch"))),
        ("Context", text(client, "Context")),
    ] {
        let _ = writeln!(out, " {name}:\t{value}");
    }
    if let Some(server) = server {
        out.push_str("\nServer:");
        let platform = server["Platform"]["Name"].as_str().unwrap_or_default();
        if !platform.is_empty() {
            let _ = write!(out, " {platform}");
        }
        out.push('\n');
        let components = server["Components"].as_array();
        for component in components.into_iter().flatten() {
            let _ = writeln!(out, " {}:", text(component, "Name"));
            self::component(component, &mut out);
        }
    }
    table::align(&out, 1, 20)
}

fn component(component: &Value, out: &mut String) {
    let none = Map::new();
    let details = component["Details"].as_object().unwrap_or(&none);
    let detail = |key: &str| details.get(key).and_then(Value::as_str).unwrap_or_default();
    let version = component["Version"].as_str().unwrap_or_default();
    let _ = writeln!(out, "  Version:\t{version}");
    if component["Name"] == "Engine" {
        let _ = writeln!(
            out,
            "  API version:\t{} (minimum version {})",
            detail("ApiVersion"),
            detail("MinAPIVersion")
        );
        for (name, key) in [("Go version", "GoVersion"), ("Git commit", "GitCommit"), ("Built", "BuildTime")]
        {
            if !detail(key).is_empty() {
                let _ = writeln!(out, "  {name}:\t{}", detail(key));
            }
        }
        let _ = writeln!(out, "  OS/Arch:\t{}/{}", detail("Os"), detail("Arch"));
        let _ = writeln!(out, "  Experimental:\t{}", detail("Experimental"));
    } else {
        let mut names: Vec<&String> = details.keys().collect();
        names.sort();
        for name in names {
            let _ = writeln!(out, "  {name}:\t{}", detail(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn both_sides_are_shown_in_columns() {
        let client = json!({ "Version": "0.1.0", "ApiVersion": "1.50", "Os": "linux", "Arch": "amd64", "Context": "default" });
        let server = json!({
            "Platform": {"Name": ""},
            "Components": [
                {"Name": "Engine", "Version": "28.5.2", "Details": {
                    "ApiVersion": "1.51", "MinAPIVersion": "1.24", "GitCommit": "3ef3",
                    "Os": "linux", "Arch": "amd64", "Experimental": "false"}},
                {"Name": "runc", "Version": "1.3.6", "Details": {"GitCommit": "x"}}
            ]
        });
        expect![[r#"
            Client:
             Version:           0.1.0
             API version:       1.50 (downgraded from 1.53)
             OS/Arch:           linux/amd64
             Context:           default

            Server:
             Engine:
              Version:          28.5.2
              API version:      1.51 (minimum version 1.24)
              Git commit:       3ef3
              OS/Arch:          linux/amd64
              Experimental:     false
             runc:
              Version:          1.3.6
              GitCommit:        x
        "#]]
        .assert_eq(&shown(&client, Some(&server)));
    }
}
