//! One scenario for each rule of the language that a build shows: files, users and configuration of the
//! image, by both clients; and nothing of it is done twice.

use std::fs;
use std::path::Path;
use std::process::Command;

use hull_testkit::Host;

use super::builds::{CLIENTS, build, context, text, used_cache};
use super::host;

/// A context, what is asked of it, and what the image then has.
struct Scenario {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    words: &'static [&'static str],
    dockerfile: &'static str,
    /// A script that runs in the image, and what it says.
    looks: (&'static str, &'static str),
    /// A template of `image inspect`, and what comes of it.
    config: (&'static str, &'static str),
}

const PLAIN: Scenario =
    Scenario { name: "", files: &[], words: &[], dockerfile: "", looks: ("", ""), config: ("", "") };

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "arguments have their scopes",
        words: &["--build-arg", "LOCAL=given", "--build-arg", "HTTP_PROXY=http://p", "--build-arg", "AWAY=x"],
        dockerfile: "ARG BASE=busybox\nARG GLOBAL=outer AWAY\nFROM ${BASE} AS one\nARG GLOBAL LOCAL=default UNSET\n\
                     RUN echo \"$GLOBAL $LOCAL [$UNSET] $HTTP_PROXY [$AWAY]\" >/seen\n\
                     FROM one\nRUN echo \"$GLOBAL $LOCAL [$AWAY]\" >>/seen\nFROM one\nCOPY --from=1 /seen /\n",
        looks: ("cat /seen; echo [$LOCAL]", "outer given [] http://p []\nouter given []\n[]"),
        ..PLAIN
    },
    Scenario {
        name: "platforms are predefined",
        dockerfile: "FROM --platform=$BUILDPLATFORM busybox\nARG TARGETOS TARGETPLATFORM BUILDOS\n\
                     RUN echo \"$TARGETOS ${TARGETPLATFORM%%/*} $BUILDOS\" >/seen\n",
        looks: ("cat /seen", "linux linux linux"),
        config: ("{{.Os}}", "linux"),
        ..PLAIN
    },
    Scenario {
        name: "variables in both forms, with modifiers",
        dockerfile: "FROM busybox\nENV OLD one two\nENV A=1 B=\"2 3\" C=4\\ 5\nENV A=9 D=$A\n\
                     ENV E=${NONE:-fallback} F=${A:+set} G=${NONE:+set} H=${OLD#one?} I=${OLD/two/2} J=\\$A K='$A'\n\
                     RUN echo \"$OLD|$A|$B|$C|$D|$E|$F|$G|$H|$I|$J|$K\" >/seen\n",
        looks: ("cat /seen; echo $D", "one two|9|2 3|4 5|1|fallback|set||two|one 2|$A|$A\n1"),
        ..PLAIN
    },
    Scenario {
        name: "folders to work in",
        dockerfile: "FROM busybox\nENV D=c\nWORKDIR /a\nWORKDIR b\nWORKDIR $D/\nRUN pwd >seen\nWORKDIR ../../x\n",
        looks: ("pwd; cat /a/b/c/seen", "/a/x\n/a/b/c"),
        config: ("{{.Config.WorkingDir}}", "/a/x"),
        ..PLAIN
    },
    Scenario {
        name: "files are copied",
        files: &[("a.txt", "a"), ("b.txt", "b"), ("c.md", "c"), ("dir/x/deep", "d"), ("dir/y", "y")],
        dockerfile: "FROM busybox\nCOPY *.txt /texts/\nCOPY --exclude=*.md --exclude=dir . /rest/\n\
                     COPY --parents dir/x/deep /parents/\nCOPY --parents dir/./y /pivot/\n\
                     COPY --chown=3:4 --chmod=0604 a.txt /owned\nCOPY --chmod=u=rwX,go=X dir /modes\n\
                     COPY --link dir /linked\nCOPY a.txt /renamed\nCOPY [\"b.txt\", \"/with space\"]\n",
        looks: (
            "ls /texts /rest /linked; find /parents /pivot -type f; stat -c '%a %u:%g' /owned /modes/y /modes/x; \
             cat /renamed '/with space'",
            "/linked:\nx\ny\n\n/rest:\nDockerfile\na.txt\nb.txt\n\n/texts:\na.txt\nb.txt\n\
             /parents/dir/x/deep\n/pivot/y\n604 3:4\n600 0:0\n711 0:0\nab",
        ),
        ..PLAIN
    },
    Scenario {
        name: "files come from stages and images",
        dockerfile: "FROM busybox\nRUN echo zero >/zero\nFROM busybox AS named\nRUN echo named >/named\nFROM scratch\n\
                     COPY --from=busybox / /\nCOPY --from=0 /zero /z\nCOPY --from=named /named /n\n",
        looks: ("cat /z /n", "zero\nnamed"),
        ..PLAIN
    },
    Scenario {
        name: "archives are unpacked",
        files: &[("dir/x", "x")],
        dockerfile: "FROM busybox\nADD packed.tgz /unpacked/\nADD --unpack=false packed.tgz /whole/\n\
                     COPY packed.tgz /copied\nADD --chown=5:6 dir /added\n",
        looks: (
            "cat /unpacked/dir/x; ls /whole; tar tzf /copied dir/x; stat -c %u:%g /added/x",
            "xpacked.tgz\ndir/x\n5:6",
        ),
        ..PLAIN
    },
    Scenario {
        name: "here-documents",
        dockerfile: "FROM busybox\nARG WHO=you\nRUN <<EOF\necho one >/seen\necho $WHO >>/seen\nEOF\n\
                     RUN <<EOF sh -e\necho piped >>/seen\nEOF\nRUN <<'EOF'\n#!/bin/busybox sh\necho shebang >>/seen\nEOF\n\
                     COPY <<a <<'b' /files/\n$WHO\na\n$WHO\nb\nCOPY <<-EOT /tabs\n\t\tindented\n\tEOT\n",
        looks: ("cat /seen /files/a /files/b /tabs", "one\nyou\npiped\nshebang\nyou\n$WHO\nindented"),
        ..PLAIN
    },
    Scenario {
        name: "the shell is another",
        dockerfile: "FROM busybox\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $- | grep -q e && echo ran >/seen\nCMD echo x\n",
        looks: ("cat /seen", "ran"),
        config: (
            "{{json .Config.Shell}} {{json .Config.Cmd}}",
            "[\"/bin/sh\",\"-ec\"] [\"/bin/sh\",\"-ec\",\"echo x\"]",
        ),
        ..PLAIN
    },
    Scenario {
        name: "a program and its arguments",
        dockerfile: "FROM busybox\nENTRYPOINT [\"echo\", \"a\"]\nCMD [\"b\"]\n",
        config: ("{{json .Config.Entrypoint}} {{json .Config.Cmd}}", "[\"echo\",\"a\"] [\"b\"]"),
        ..PLAIN
    },
    Scenario {
        name: "a program by the shell",
        dockerfile: "FROM busybox\nENTRYPOINT echo a\nCMD echo b\n",
        config: (
            "{{json .Config.Entrypoint}} {{json .Config.Cmd}}",
            "[\"/bin/sh\",\"-c\",\"echo a\"] [\"/bin/sh\",\"-c\",\"echo b\"]",
        ),
        ..PLAIN
    },
    Scenario {
        name: "a new program forgets the arguments of the base",
        dockerfile: "FROM busybox AS base\nCMD [\"b\"]\nFROM base\nENTRYPOINT [\"echo\"]\n",
        config: ("{{json .Config.Entrypoint}} {{if index .Config \"Cmd\"}}kept{{end}}", "[\"echo\"] "),
        ..PLAIN
    },
    Scenario {
        name: "new arguments for the program of the base",
        dockerfile: "FROM busybox AS base\nENTRYPOINT [\"echo\"]\nFROM base\nCMD b\n",
        config: ("{{json .Config.Entrypoint}} {{json .Config.Cmd}}", "[\"echo\"] [\"/bin/sh\",\"-c\",\"b\"]"),
        ..PLAIN
    },
    Scenario {
        name: "what containers of the image are to have",
        words: &["--label", "of=the words"],
        dockerfile: "FROM busybox\nMAINTAINER me <me@x>\nARG P=8080\nEXPOSE 80 53/udp 9000-9001 $P\nLABEL a=b \"c d\"='e f'\n\
                     STOPSIGNAL SIGINT\nVOLUME /v \"/w\"\nUSER 7:8\n\
                     HEALTHCHECK --interval=5s --timeout=1m --retries=2 --start-period=1s CMD [\"true\"]\n",
        looks: ("id -u; id -g", "7\n8"),
        config: (
            "{{.Author}} {{json .Config.ExposedPorts}} {{json .Config.Labels}} {{.Config.StopSignal}} \
             {{json .Config.Volumes}} {{.Config.User}} {{json .Config.Healthcheck}}",
            "me <me@x> {\"53/udp\":{},\"80/tcp\":{},\"8080/tcp\":{},\"9000/tcp\":{},\"9001/tcp\":{}} \
             {\"a\":\"b\",\"c d\":\"e f\",\"of\":\"the words\"} SIGINT {\"/v\":{},\"/w\":{}} 7:8 \
             {\"Test\":[\"CMD\",\"true\"],\"Interval\":5000000000,\"Timeout\":60000000000,\"StartPeriod\":1000000000,\"Retries\":2}",
        ),
        ..PLAIN
    },
    Scenario {
        name: "triggers of a base",
        files: &[("a", "a")],
        dockerfile: "FROM busybox AS base\nONBUILD ARG A=default\nONBUILD COPY a /triggered\nONBUILD RUN echo $A >>/triggered\n\
                     FROM base\nRUN echo after >>/triggered\n",
        words: &["--build-arg", "A=given"],
        looks: ("cat /triggered", "agiven\nafter"),
        config: ("{{if index .Config \"OnBuild\"}}kept{{end}}", ""),
    },
    Scenario {
        name: "lines of another system, and comments between them",
        dockerfile: "# escape=`\r\nFROM busybox\r\n\r\nRUN echo a >/seen `\r\n  # a comment\r\n\r\n  && echo 'b\\' >>/seen\r\n# end\r\n",
        looks: ("cat /seen", "a\nb\\"),
        ..PLAIN
    },
    Scenario {
        name: "what is ignored is not there",
        files: &[
            (
                ".dockerignore",
                "# some\n.dockerignore\nDockerfile\n*.md\n!keep.md\n**/drop\ndir/sub\n!dir/sub/k\n",
            ),
            ("keep.md", "x"),
            ("not.md", "x"),
            ("drop", "x"),
            ("dir/k", "x"),
            ("dir/drop", "x"),
            ("dir/sub/k", "x"),
            ("dir/sub/d", "x"),
        ],
        dockerfile: "FROM busybox\nCOPY dir keep.md* /context/\n",
        looks: ("cd /context; find . -type f | sort", "./k\n./keep.md\n./sub/k"),
        ..PLAIN
    },
    Scenario {
        name: "another file is the Dockerfile",
        files: &[("sub/Other", "FROM busybox\nCOPY a /a\n"), ("a", "a")],
        words: &["-f", "sub/Other"],
        dockerfile: "FROM nosuch\n",
        looks: ("cat /a", "a"),
        ..PLAIN
    },
    Scenario {
        name: "mounts of a step",
        files: &[("a", "of the context\n")],
        dockerfile: "FROM busybox AS made\nRUN echo of a stage >/b\nFROM busybox\n\
                     RUN --mount=target=/ctx --mount=from=made,source=/b,target=/b --mount=type=tmpfs,target=/t \
                     --mount=type=cache,target=/c cat /ctx/a /b >/seen && touch /t/x /c/x\n",
        looks: ("cat /seen; ls -d /ctx /b /t /c 2>/dev/null", "of the context\nof a stage"),
        ..PLAIN
    },
    Scenario {
        name: "no network, and more hosts",
        words: &["--add-host", "some.where:192.0.2.1"],
        dockerfile: "FROM busybox\nRUN --network=none ls /sys/class/net >/seen\nRUN grep some.where /etc/hosts >>/seen\n",
        looks: ("cat /seen; grep -c some.where /etc/hosts", "lo\n192.0.2.1\tsome.where\n0"),
        ..PLAIN
    },
    Scenario {
        name: "limits of the steps",
        words: &["--ulimit", "nofile=100:200", "--shm-size", "2m", "-m", "64m", "--cpu-shares", "512"],
        dockerfile: "FROM busybox\nRUN ulimit -Sn >/seen; ulimit -Hn >>/seen; df -m /dev/shm | tail -n 1 | awk '{print $2}' >>/seen\n",
        looks: ("cat /seen", "100\n200\n2"),
        ..PLAIN
    },
    Scenario {
        name: "a stage of the file, and none that it does not need",
        words: &["--target", "wanted", "--rm=false"],
        dockerfile: "FROM busybox AS broken\nRUN exit 1\nFROM busybox AS wanted\nRUN echo wanted >/seen\nFROM broken\n",
        looks: ("cat /seen", "wanted"),
        ..PLAIN
    },
    Scenario {
        name: "what is written to the place of a volume stays",
        dockerfile: "FROM busybox\nVOLUME /v\nRUN mkdir -p /v && echo x >/v/x && rm /etc/group && mkdir /empty\n",
        looks: ("cat /v/x; ls -d /empty /etc/group 2>/dev/null", "x\n/empty"),
        ..PLAIN
    },
];

/// Writes the context; with an archive of the folder `dir`, if there is one.
fn furnish(host: &Host, scenario: &Scenario) -> String {
    let folder = context(host, &scenario.name.replace([' ', ','], "-"), scenario.files);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("Dockerfile"), scenario.dockerfile).unwrap();
    if scenario.dockerfile.contains("packed.tgz") {
        let archive = folder.join("packed.tgz");
        let packed = Command::new("tar").args(["-C", text(&folder), "-czf", text(&archive), "dir"]).status();
        assert!(packed.unwrap().success());
    }
    text(&folder).to_owned()
}

#[track_caller]
fn holds(host: &Host, image: &str, scenario: &Scenario) {
    let (script, seen) = scenario.looks;
    let run = ["run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script];
    assert_eq!(host.hull(&run).stdout.trim_end(), seen, "{}", scenario.name);
    let (template, shown) = scenario.config;
    if !template.is_empty() {
        let inspected = host.hull(&["image", "inspect", "-f", template, image]);
        assert_eq!(inspected.ok(), shown, "{}", scenario.name);
    }
}

#[test]
fn every_rule_of_the_language_is_built_by_both_clients() {
    let host = host();
    for scenario in SCENARIOS {
        let folder = furnish(&host, scenario);
        let own = scenario.words.iter().position(|word| *word == "-f");
        let mut words: Vec<String> = scenario.words.iter().map(|&word| word.to_owned()).collect();
        if let Some(place) = own {
            words[place + 1] = Path::new(&folder).join(&words[place + 1]).display().to_string();
        }
        let mut told = Vec::new();
        for official in CLIENTS {
            let all = |more: &[&str]| {
                let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
                build(&host, official, &[&words[..], &["-t", "made", &folder]].concat())
            };
            let built = all(&["--no-cache"]);
            assert_eq!(built.code, 0, "{}: {built}", scenario.name);
            holds(&host, "made", scenario);
            told.push(
                host.hull(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "made"]).ok().to_owned(),
            );
            let id = host.hull(&["image", "inspect", "-f", "{{.Id}}", "made"]).ok().to_owned();
            let again = all(&[]);
            let changes = ["RUN", "COPY", "ADD"].iter().any(|verb| scenario.dockerfile.contains(verb));
            assert!(!changes || used_cache(&again), "{}: {again}", scenario.name);
            assert_eq!(
                host.hull(&["image", "inspect", "-f", "{{.Id}}", "made"]).ok(),
                id,
                "{}",
                scenario.name
            );
        }
        assert_eq!(told[0], told[1], "{}", scenario.name);
    }
    assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
}
