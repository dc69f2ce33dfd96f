//! `network connect`, `disconnect`, `rm`, `prune`.

use hull_api::client::{Body, Query, segment};
use serde_json::{Map, Value, json};

use super::create::map;
use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::create::fields;
use crate::filters;
use crate::flags::{Flag, Given, any, integer};
use crate::session::{Session, confirm, line, print, say};

pub(crate) static CONNECT: Command = Command {
    paths: &["network connect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    summary: "Connect a container to a network",
    arguments: Arguments::Exactly(2),
    stop_at_argument: false,
    flags: &[&[
        Flag::list("alias", any, "Another name of the container on this network").label("strings"),
        Flag::list("driver-opt", any, "Option of the driver for this container").label("strings"),
        Flag::value("gw-priority", "int", integer, "The highest one's gateway is the default route")
            .default("0"),
        Flag::text("ip", "IPv4 address, as 172.30.100.104"),
        Flag::text("ip6", "IPv6 address, as 2001:db8::33"),
        Flag::list("link", any, "Know another container by a name of one's own"),
        Flag::list("link-local-ip", any, "Link-local address").label("strings"),
    ]],
    run: |session, given| Box::pin(connect(session, given)) as Outcome<'_>,
};

pub(crate) static DISCONNECT: Command = Command {
    paths: &["network disconnect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    summary: "Disconnect a container from a network",
    arguments: Arguments::Exactly(2),
    stop_at_argument: false,
    flags: &[&[Flag::switch("force", "Even if the container is not known any more").short('f')]],
    run: |session, given| Box::pin(disconnect(session, given)) as Outcome<'_>,
};

pub(crate) static REMOVE: Command = Command {
    paths: &["network rm", "network remove"],
    usage: "NETWORK [NETWORK...]",
    summary: "Remove networks",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[Flag::switch("force", "A network that is not there is no error").short('f')]],
    run: |session, given| Box::pin(remove(session, given)) as Outcome<'_>,
};

pub(crate) static PRUNE: Command = Command {
    paths: &["network prune"],
    usage: "[OPTIONS]",
    summary: "Remove all networks that no container uses",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::list("filter", filters::check, "Remove only what meets a condition (\"until=<time>\")")
            .label("filter"),
        Flag::switch("force", "Do not ask first").short('f'),
    ]],
    run: |session, given| Box::pin(prune(session, given)) as Outcome<'_>,
};

async fn connect(session: &Session, given: &Given) -> Result<u8, Failure> {
    let path = format!("/networks/{}/connect", segment(&given.arguments[0]));
    let body = Body::json(&connect_body(given).map_err(fail)?);
    session.client.post(&path, &Query::new(), body).await?.bytes().await?;
    Ok(0)
}

fn connect_body(given: &Given) -> Result<Value, String> {
    // Of these flags each is a list: `--alias a,b`.
    let lists = |flag| -> Result<Vec<String>, String> {
        given.list(flag).try_fold(Vec::new(), |all, text| Ok([all, fields(text)?].concat()))
    };
    let mut addresses = Map::new();
    for (flag, key) in [("ip", "IPv4Address"), ("ip6", "IPv6Address")] {
        if !given.text(flag).is_empty() {
            addresses.insert(key.to_owned(), json!(given.text(flag)));
        }
    }
    if given.has("link-local-ip") {
        addresses.insert("LinkLocalIPs".to_owned(), json!(lists("link-local-ip")?));
    }
    let links = if given.has("link") { json!(given.strings("link")) } else { Value::Null };
    let options = lists("driver-opt")?;
    Ok(json!({
        "Container": given.arguments[1],
        "EndpointConfig": {
            "IPAMConfig": addresses,
            "Links": links,
            "Aliases": lists("alias")?,
            "MacAddress": "",
            "DriverOpts": map(options.iter().map(String::as_str)),
            "GwPriority": given.number("gw-priority"),
            "NetworkID": "",
            "EndpointID": "",
            "Gateway": "",
            "IPAddress": "",
            "IPPrefixLen": 0,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "DNSNames": null,
        },
    }))
}

async fn disconnect(session: &Session, given: &Given) -> Result<u8, Failure> {
    let path = format!("/networks/{}/disconnect", segment(&given.arguments[0]));
    let body = json!({ "Container": given.arguments[1], "Force": given.on("force") });
    session.client.post(&path, &Query::new(), Body::json(&body)).await?.bytes().await?;
    Ok(0)
}

async fn remove(session: &Session, given: &Given) -> Result<u8, Failure> {
    let mut failed = false;
    for name in &given.arguments {
        let path = format!("/networks/{}", segment(name));
        let outcome = match session.client.delete(&path, &Query::new()).await {
            Ok(answer) => answer.bytes().await.map(drop),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => line(name),
            Err(error) if given.on("force") && error.is_not_found() => {}
            Err(error) => {
                say(&chain(&error));
                failed = true;
            }
        }
    }
    // The reference's last word.
    if failed { Err(fail("exit status 1")) } else { Ok(0) }
}

async fn prune(session: &Session, given: &Given) -> Result<u8, Failure> {
    let question = "WARNING! This will remove all custom networks not used by at least one container.\n\
                    Are you sure you want to continue?";
    if !given.on("force") && !confirm(question) {
        return Ok(0);
    }
    let query = filters::add(Query::new(), given.list("filter"));
    let answer = session.client.post("/networks/prune", &query, Body::Empty).await?;
    let pruned: Value = answer.json().await?;
    let names: Vec<&str> =
        pruned["NetworksDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !names.is_empty() {
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        print(&format!("Deleted Networks:\n{lines}\n"));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    #[test]
    fn a_connection_is_asked_for_as_the_reference_does() {
        let words = [
            "--ip",
            "10.85.0.77",
            "--alias",
            "al,am",
            "--link",
            "x:zz",
            "--driver-opt",
            "\"a=b,c\"",
            "--gw-priority",
            "5",
            "c1",
            "st",
        ];
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let Ok(given) = flags::parse(CONNECT.flags, false, &words) else { panic!("parses") };
        let body = connect_body(&given).unwrap();
        assert_eq!(body["Container"], "st");
        let endpoint = &body["EndpointConfig"];
        assert_eq!(endpoint["IPAMConfig"], json!({"IPv4Address": "10.85.0.77"}));
        assert_eq!((&endpoint["Links"], &endpoint["Aliases"]), (&json!(["x:zz"]), &json!(["al", "am"])));
        assert_eq!((&endpoint["DriverOpts"], &endpoint["GwPriority"]), (&json!({"a": "b,c"}), &json!(5)));
        let Ok(given) = flags::parse(CONNECT.flags, false, &words[10..]) else { panic!("parses") };
        let body = connect_body(&given).unwrap();
        assert_eq!(body["EndpointConfig"]["IPAMConfig"], json!({}));
        assert_eq!(
            (&body["EndpointConfig"]["Links"], &body["EndpointConfig"]["Aliases"]),
            (&Value::Null, &json!([]))
        );
    }
}
