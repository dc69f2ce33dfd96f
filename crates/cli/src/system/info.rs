//! `info`: what the daemon says of itself and its host.

use std::fmt::Write as _;

use hull_api::client::Query;
use serde_json::{Map, Value, json};

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given};
use crate::format::{self, go_json};
use crate::session::{Session, line, print, say};
use crate::units::human_size;

pub(crate) static INFO: Command = Command {
    paths: &["system info", "info"],
    usage: "[OPTIONS]",
    summary: "Show what the daemon says of itself and its host",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[Flag::text("format", crate::FORMAT_HELP).short('f')]],
    run: |session, given| Box::pin(info(session, given)) as Outcome<'_>,
};

async fn info(session: &Session, given: &Given) -> Result<u8, Failure> {
    let format = given.text("format");
    let answer = match session.client.get("/info", &Query::new()).await {
        Ok(answer) => answer.json::<Value>().await,
        Err(error) => Err(error),
    };
    let client = json!({
        "Debug": false,
        "Version": super::version::OWN,
        "GitCommit": "",
        "Context": "default",
        "Plugins": [],
        "Warnings": null,
    });
    let server = match answer {
        Ok(server) => server,
        Err(error) if format.is_empty() => {
            print(&format!("{}\nServer:\n", client_text(&client)));
            return Err(Failure::from(error));
        }
        Err(error) => return Err(Failure::from(error)),
    };
    match format {
        "" => {
            print(&format!("{}\nServer:\n{}", client_text(&client), server_text(&server)));
            for warning in list(&server["Warnings"]) {
                say(warning);
            }
        }
        "json" => line(&go_json(&with_client(server, client))),
        text => {
            let template = format::parse(text)?;
            let data = hull_template::Value::from(with_client(server, client));
            let options = hull_template::Options {
                missing: hull_template::Missing::Error,
                ..hull_template::Options::default()
            };
            let text = template.exec(&data, &options).map_err(|error| fail(error.to_string()))?;
            line(&text);
        }
    }
    Ok(0)
}

fn with_client(mut server: Value, client: Value) -> Value {
    server["ClientInfo"] = client;
    server
}

fn client_text(client: &Value) -> String {
    format!(
        "Client:\n Version:    {}\n Context:    {}\n Debug Mode: {}\n",
        text(client, "Version"),
        text(client, "Context"),
        client["Debug"]
    )
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn server_text(server: &Value) -> String {
    let mut out = String::new();
    let mut put = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, " {name}: {value}");
    };
    put("Containers", &server["Containers"]);
    put(" Running", &server["ContainersRunning"]);
    put(" Paused", &server["ContainersPaused"]);
    put(" Stopped", &server["ContainersStopped"]);
    put("Images", &server["Images"]);
    put("Server Version", &text(server, "ServerVersion"));
    put("Storage Driver", &text(server, "Driver"));
    for pair in server["DriverStatus"].as_array().into_iter().flatten() {
        let part = |index: usize| pair[index].as_str().unwrap_or_default();
        put(&format!(" {}", part(0)), &part(1));
    }
    put("Logging Driver", &text(server, "LoggingDriver"));
    put("Cgroup Driver", &text(server, "CgroupDriver"));
    put("Cgroup Version", &text(server, "CgroupVersion"));
    out.push_str(" Plugins:\n");
    for kind in ["Volume", "Network", "Authorization", "Log"] {
        let names: Vec<&str> = list(&server["Plugins"][kind]).collect();
        if !names.is_empty() {
            let _ = writeln!(out, "  {kind}: {}", names.join(" "));
        }
    }
    if list(&server["CDISpecDirs"]).next().is_some() {
        out.push_str(" CDI spec directories:\n");
        for folder in list(&server["CDISpecDirs"]) {
            let _ = writeln!(out, "  {folder}");
        }
    }
    runtimes(server, &mut out);
    security(server, &mut out);
    host(server, &mut out);
    out.push('\n');
    out
}

fn runtimes(server: &Value, out: &mut String) {
    let swarm = text(&server["Swarm"], "LocalNodeState");
    let _ = writeln!(out, " Swarm: {}", if swarm.is_empty() { "inactive" } else { swarm });
    let none = Map::new();
    let mut names: Vec<&String> = server["Runtimes"].as_object().unwrap_or(&none).keys().collect();
    names.sort();
    if !names.is_empty() {
        let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
        let _ = writeln!(out, " Runtimes: {}", names.join(" "));
        let _ = writeln!(out, " Default Runtime: {}", text(server, "DefaultRuntime"));
    }
    let _ = writeln!(out, " Init Binary: {}", text(server, "InitBinary"));
    for (name, key) in [("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")] {
        // A server without such a part leaves it out.
        if let Some(id) = server[key]["ID"].as_str() {
            let _ = writeln!(out, " {name} version: {id}");
        }
    }
}

/// `name=seccomp,profile=builtin` and the like.
fn security(server: &Value, out: &mut String) {
    let mut options = list(&server["SecurityOptions"]).peekable();
    if options.peek().is_none() {
        return;
    }
    out.push_str(" Security Options:\n");
    for option in options {
        let mut name = option;
        let mut rest = Vec::new();
        for pair in option.split(',') {
            match pair.split_once('=') {
                Some(("name", value)) => name = value,
                Some((key, value)) => rest.push((key, value)),
                None => {}
            }
        }
        let _ = writeln!(out, "  {name}");
        for (key, value) in rest {
            let label = if key == "profile" { "Profile" } else { key };
            let _ = writeln!(out, "   {label}: {value}");
        }
    }
}

fn host(server: &Value, out: &mut String) {
    for (name, key) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    ] {
        let _ = writeln!(out, " {name}: {}", text(server, key));
    }
    let memory = server["MemTotal"].as_f64().unwrap_or(0.0);
    let _ = writeln!(out, " CPUs: {}", server["NCPU"]);
    let _ = writeln!(out, " Total Memory: {}", binary_size(memory));
    for (name, key) in [("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir")] {
        let _ = writeln!(out, " {name}: {}", text(server, key));
    }
    let _ = writeln!(out, " Debug Mode: {}", server["Debug"]);
    for (name, key) in [("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")] {
        if !text(server, key).is_empty() {
            let _ = writeln!(out, " {name}: {}", text(server, key));
        }
    }
    lines(out, " Labels:", list(&server["Labels"]));
    let _ = writeln!(out, " Experimental: {}", server["ExperimentalBuild"]);
    lines(out, " Insecure Registries:", list(&server["RegistryConfig"]["InsecureRegistryCIDRs"]));
    lines(out, " Registry Mirrors:", list(&server["RegistryConfig"]["Mirrors"]));
    let _ = writeln!(out, " Live Restore Enabled: {}", server["LiveRestoreEnabled"]);
}

fn lines<'a>(out: &mut String, title: &str, entries: impl Iterator<Item = &'a str>) {
    let mut entries = entries.peekable();
    if entries.peek().is_some() {
        let _ = writeln!(out, "{title}");
        for entry in entries {
            let _ = writeln!(out, "  {entry}");
        }
    }
}

/// `23.54GiB`: a size in steps of 1024.
fn binary_size(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = bytes;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    // Below 1000 the significant digits are those of a size in tens.
    let number = human_size(size.min(999.9), 4);
    format!("{}{}", number.trim_end_matches('B'), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shown_in_steps_of_1024() {
        assert_eq!(binary_size(25_274_793_984.0), "23.54GiB");
        assert_eq!(binary_size(0.0), "0B");
        assert_eq!(binary_size(2_147_483_648.0), "2GiB");
    }

    #[test]
    fn security_options_are_taken_apart() {
        let mut out = String::new();
        let server = json!({ "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"] });
        security(&server, &mut out);
        assert_eq!(out, " Security Options:\n  seccomp\n   Profile: builtin\n  cgroupns\n");
    }
}
