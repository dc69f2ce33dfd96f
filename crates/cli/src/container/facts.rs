//! `top`, `port`, `diff`, `update`: facts of one container, and its limits.

use hull_api::client::{Body, Query, segment};
use hull_api::container::Change;
use serde_json::{Map, Value, json};

use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::create::{cpus, restart, size, swap};
use crate::flags::{Flag, Given, integer, integer16};
use crate::session::{Session, line, print, say};
use crate::table;

pub(crate) static TOP: Command = Command {
    paths: &["container top", "top"],
    usage: "CONTAINER [ps OPTIONS]",
    summary: "Show the processes of a container",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: true,
    flags: &[],
    run: |session, given| Box::pin(top(session, given)) as Outcome<'_>,
};

pub(crate) static PORT: Command = Command {
    paths: &["container port", "port"],
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    summary: "Show where ports of a container are published",
    arguments: Arguments::Between(1, 2),
    stop_at_argument: false,
    flags: &[],
    run: |session, given| Box::pin(port(session, given)) as Outcome<'_>,
};

pub(crate) static DIFF: Command = Command {
    paths: &["container diff", "diff"],
    usage: "CONTAINER",
    summary: "Show what changed in the files of a container",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[],
    run: |session, given| Box::pin(diff(session, given)) as Outcome<'_>,
};

pub(crate) static UPDATE: Command = Command {
    paths: &["container update", "update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    summary: "Change limits of containers",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::value(
            "blkio-weight",
            "uint16",
            integer16,
            "Relative weight of block I/O, 10 to 1000, or 0 for none",
        )
        .default("0"),
        Flag::value("cpu-period", "int", integer, "Period of the CPU quota, in microseconds"),
        Flag::value("cpu-quota", "int", integer, "CPU time per period, in microseconds"),
        Flag::value("cpu-rt-period", "int", integer, "Real-time period in microseconds"),
        Flag::value("cpu-rt-runtime", "int", integer, "Real-time CPU time in microseconds"),
        Flag::value("cpu-shares", "int", integer, "Relative CPU weight").short('c'),
        Flag::value("cpus", "decimal", cpus, "Number of CPUs"),
        Flag::text("cpuset-cpus", "CPUs to run on (0-3, 0,1)"),
        Flag::text("cpuset-mems", "Memory nodes to use (0-3, 0,1)"),
        Flag::value("memory", "bytes", size, "Memory limit").short('m'),
        Flag::value("memory-reservation", "bytes", size, "Soft memory limit"),
        Flag::value(
            "memory-swap",
            "bytes",
            swap,
            "Limit of memory and swap together; -1 for no limit of swap",
        ),
        Flag::value("pids-limit", "int", integer, "Most processes; -1 for no limit"),
        Flag::text("restart", "What to do when the container exits"),
    ]],
    run: |session, given| Box::pin(update(session, given)) as Outcome<'_>,
};

async fn top(session: &Session, given: &Given) -> Result<u8, Failure> {
    let path = format!("/containers/{}/top", segment(&given.arguments[0]));
    let query = Query::new().unless_empty("ps_args", &given.arguments[1..].join(" "));
    let answer = session.client.get(&path, &query).await?;
    let processes: Value = answer.json().await?;
    let join = |cells: &Value| {
        let cells: Vec<&str> = cells.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        cells.join("\t") + "\n"
    };
    let mut text = join(&processes["Titles"]);
    for process in processes["Processes"].as_array().into_iter().flatten() {
        text.push_str(&join(process));
    }
    print(&table::align(&text, 3, 20));
    Ok(0)
}

async fn port(session: &Session, given: &Given) -> Result<u8, Failure> {
    let name = &given.arguments[0];
    let path = format!("/containers/{}/json", segment(name));
    let answer = session.client.get(&path, &Query::new()).await?;
    let container: Value = answer.json().await?;
    let ports = &container["NetworkSettings"]["Ports"];
    match given.arguments.get(1) {
        None => {
            let mut lines: Vec<(u16, String)> = Vec::new();
            for (port, bindings) in ports.as_object().into_iter().flatten() {
                let number = port.split('/').next().and_then(|port| port.parse().ok());
                for address in addresses(bindings) {
                    lines.push((number.unwrap_or(0), format!("{port} -> {address}\n")));
                }
            }
            lines.sort();
            print(&lines.into_iter().map(|(_, line)| line).collect::<String>());
        }
        Some(wanted) => {
            let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
            if number.parse::<u16>().is_err() {
                return Err(fail(format!(
                    "Error: invalid port ({number}): strconv.ParseUint: parsing \"{number}\": invalid syntax"
                )));
            }
            let found = addresses(&ports[format!("{number}/{protocol}")]);
            if found.is_empty() {
                return Err(fail(format!("Error: No public port '{wanted}' published for {name}")));
            }
            print(&(found.join("\n") + "\n"));
        }
    }
    Ok(0)
}

fn addresses(bindings: &Value) -> Vec<String> {
    bindings
        .as_array()
        .into_iter()
        .flatten()
        .map(|binding| {
            let text = |key: &str| binding[key].as_str().unwrap_or_default();
            match text("HostIp") {
                address if address.contains(':') => format!("[{address}]:{}", text("HostPort")),
                address => format!("{address}:{}", text("HostPort")),
            }
        })
        .collect()
}

async fn diff(session: &Session, given: &Given) -> Result<u8, Failure> {
    let path = format!("/containers/{}/changes", segment(&given.arguments[0]));
    let answer = session.client.get(&path, &Query::new()).await?;
    let changes: Option<Vec<Change>> = answer.json().await?;
    let mut text = String::new();
    for Change { path, kind } in changes.iter().flatten() {
        text.push_str(match kind {
            1 => "A ",
            2 => "D ",
            _ => "C ",
        });
        text.push_str(path);
        text.push('\n');
    }
    print(&text);
    Ok(0)
}

/// What the reference sends along without having a flag for it, as JSON.
const UNCHANGED: &[(&str, &str)] = &[
    ("CgroupParent", "\"\""),
    ("BlkioWeightDevice", "null"),
    ("BlkioDeviceReadBps", "null"),
    ("BlkioDeviceWriteBps", "null"),
    ("BlkioDeviceReadIOps", "null"),
    ("BlkioDeviceWriteIOps", "null"),
    ("Devices", "null"),
    ("DeviceCgroupRules", "null"),
    ("DeviceRequests", "null"),
    ("MemorySwappiness", "null"),
    ("OomKillDisable", "null"),
    ("Ulimits", "null"),
    ("CpuCount", "0"),
    ("CpuPercent", "0"),
    ("IOMaximumIOps", "0"),
    ("IOMaximumBandwidth", "0"),
];

async fn update(session: &Session, given: &Given) -> Result<u8, Failure> {
    const NUMBERS: [(&str, &str); 10] = [
        ("BlkioWeight", "blkio-weight"),
        ("CpuPeriod", "cpu-period"),
        ("CpuQuota", "cpu-quota"),
        ("CpuRealtimePeriod", "cpu-rt-period"),
        ("CpuRealtimeRuntime", "cpu-rt-runtime"),
        ("CpuShares", "cpu-shares"),
        ("NanoCpus", "cpus"),
        ("Memory", "memory"),
        ("MemoryReservation", "memory-reservation"),
        ("MemorySwap", "memory-swap"),
    ];
    let flags = NUMBERS.iter().map(|(_, flag)| *flag);
    let others = ["cpuset-cpus", "cpuset-mems", "pids-limit", "restart"];
    if !flags.chain(others).any(|flag| given.has(flag)) {
        return Err(fail("you must provide one or more flags when using this command"));
    }
    let mut body: Map<String, Value> =
        NUMBERS.iter().map(|(key, flag)| ((*key).to_owned(), json!(given.number(flag)))).collect();
    for (key, flag) in [("CpusetCpus", "cpuset-cpus"), ("CpusetMems", "cpuset-mems")] {
        body.insert(key.to_owned(), json!(given.text(flag)));
    }
    let processes = given.has("pids-limit").then(|| given.number("pids-limit"));
    body.insert("PidsLimit".to_owned(), json!(processes));
    let policy = if given.has("restart") {
        restart(given.text("restart")).map_err(fail)?
    } else {
        json!({ "Name": "", "MaximumRetryCount": 0 })
    };
    body.insert("RestartPolicy".to_owned(), policy);
    for (key, value) in UNCHANGED {
        let value = serde_json::from_str(value).unwrap_or(Value::Null);
        body.insert((*key).to_owned(), value);
    }
    let body = Value::Object(body);
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for name in &given.arguments {
        let path = format!("/containers/{}/update", segment(name));
        let answer = session.client.post(&path, &Query::new(), Body::json(&body)).await;
        let answer = match answer {
            Ok(answer) => answer.json::<Value>().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                line(name);
                let said = answer["Warnings"].as_array().into_iter().flatten();
                warnings.extend(said.filter_map(Value::as_str).map(str::to_owned));
            }
            Err(error) => errors.push(chain(&error)),
        }
    }
    for warning in warnings {
        say(&warning);
    }
    super::each::gathered(errors)
}
