//! Dockerfiles and what they come to, as text.

use expect_test::{Expect, expect};
use hull_oci::Digest;
use hull_oci::image::Config;

use super::*;
use crate::dockerfile::parse;
use crate::executor::{Change, MountKind, Source};
use crate::graph::Operation;

/// An image `base` with a variable, a user and a command; `trigger` has ONBUILD; every other is empty.
fn image(wanted: &Wanted) -> Base {
    let name = wanted.reference.familiar();
    let mut config = Config { os: "linux".into(), architecture: "amd64".into(), ..Config::default() };
    config.created = Some("2020-01-01T00:00:00Z".into());
    match name.as_str() {
        "base:latest" => {
            config.config.env = vec!["PATH=/bin".into(), "FROM_BASE=1".into()];
            config.config.cmd = Some(vec!["sh".into()]);
        }
        "trigger:latest" => {
            config.config.on_build = vec!["COPY --from=other /x /y".into(), "RUN echo $A".into()];
        }
        _ => {}
    }
    let layer = Layer { diff_id: Digest::sha256(name.as_bytes()), size: 1 };
    config.rootfs.diff_ids = vec![layer.diff_id.clone()];
    Base { id: Digest::sha256(b"id"), config, layers: vec![layer] }
}

fn options(arguments: &[(&str, &str)]) -> Options {
    let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let platform = Some(Platform::new("linux", "amd64", ""));
    Options { arguments, platform, ..Options::default() }
}

/// The plan, and the images that were asked for, one line for each question.
fn planned(text: &str, options: &Options) -> Result<(Plan, Vec<String>), String> {
    let dockerfile = parse(text.as_bytes()).map_err(|problems| format!("{problems:?}"))?;
    let mut known = HashMap::new();
    let mut asked = Vec::new();
    for _ in 0..10 {
        match plan(text, &dockerfile, options, &known).map_err(|error| error.to_string())? {
            Outcome::Ready(plan) => return Ok((*plan, asked)),
            Outcome::Needs(needs) => {
                let names =
                    needs.iter().map(|need| format!("{}:{}", need.line, need.wanted.reference.familiar()));
                asked.push(names.collect::<Vec<_>>().join(" "));
                known.extend(needs.into_iter().map(|need| (need.wanted.clone(), image(&need.wanted))));
            }
        }
    }
    panic!("it asks for ever: {asked:?}");
}

fn source(source: &Source<Step>) -> String {
    match source {
        Source::Layers(step) => format!("#{step}"),
        Source::Context(name) => format!("context {name:?}"),
        Source::Inline(files) => format!("{files:?}"),
        source => format!("{source:?}"),
    }
}

fn show(vertex: &Vertex) -> String {
    let fresh = if vertex.fresh { " fresh" } else { "" };
    let what = match &vertex.task {
        Task::Base(layers) => format!("{} layers", layers.len()),
        Task::Operation(Operation::Folder(folder)) => {
            format!("#{} folder {} {:?}", folder.below, folder.path, folder.user)
        }
        Task::Operation(Operation::Copy(copy)) => {
            let files: Vec<_> = copy
                .files
                .iter()
                .map(|(from, what)| format!("{} {:?}", source(from), what.patterns))
                .collect();
            format!("#{} copy {} to {}", copy.below, files.join(", "), copy.destination)
        }
        Task::Operation(Operation::Run(run)) => {
            format!("#{} run {:?} in {} with {:?}", run.below, run.arguments, run.folder, run.environment)
        }
    };
    format!("{}: {what}{fresh}", vertex.name)
}

fn check(text: &str, options: &Options, expected: &Expect) -> Plan {
    let (plan, asked) = planned(text, options).unwrap();
    let mut shown: Vec<String> = asked.iter().map(|names| format!("asks {names}")).collect();
    shown.extend(
        plan.graph.vertices.iter().enumerate().map(|(step, vertex)| format!("#{step} {}", show(vertex))),
    );
    shown.extend(plan.warnings.clone());
    expected.assert_eq(&(shown.join("\n") + "\n"));
    plan
}

fn refused(text: &str, options: &Options) -> String {
    planned(text, options).map(|(plan, _)| format!("{plan:?}")).unwrap_err()
}

/// What the image is, with a layer for each step.
fn finished(plan: &Plan) -> Config {
    let past = plan.past.iter().filter(|past| past.is_step).enumerate();
    let change = |(number, _): (usize, &Past)| Change {
        layer: Some(Layer { diff_id: Digest::sha256(&[u8::try_from(number).unwrap()]), size: 1 }),
        created: format!("2026-01-01T00:00:0{number}Z"),
    };
    let stack = Stack { base: Vec::new(), changes: past.map(change).collect() };
    plan.config(&stack, "2026-02-02T00:00:00Z")
}

#[test]
fn stages_that_the_target_does_not_need_are_left_out() {
    let text = "\
FROM base AS build
RUN make
FROM other AS unused
RUN test
FROM scratch
COPY --from=build /a /b
COPY --from=0 c d /e/
COPY --from=third / .
";
    check(
        text,
        &options(&[]),
        &expect![[r#"
            asks 1:base:latest 8:third:latest
            #0 [build 1/2] FROM base AS build: 1 layers
            #1 [build 2/2] RUN make: #0 run ["/bin/sh", "-c", "make"] in / with ["PATH=/bin", "FROM_BASE=1"]
            #2 [stage-2 1/4] FROM scratch: 0 layers
            #3 [stage-2 2/4] COPY --from=build /a /b: #2 copy #1 ["/a"] to /b
            #4 [stage-2 3/4] COPY --from=0 c d /e/: #3 copy #1 ["c", "d"] to /e/
            #5 FROM third: 1 layers
            #6 [stage-2 4/4] COPY --from=third / .: #4 copy #5 ["/"] to /
        "#]],
    );
    let target = Options { target: Some("BUILD".into()), ..options(&[]) };
    check(
        text,
        &target,
        &expect![[r#"
        asks 1:base:latest
        #0 [build 1/2] FROM base AS build: 1 layers
        #1 [build 2/2] RUN make: #0 run ["/bin/sh", "-c", "make"] in / with ["PATH=/bin", "FROM_BASE=1"]
    "#]],
    );
    let missing = Options { target: Some("nosuch".into()), ..options(&[]) };
    assert_eq!(refused(text, &missing), "target stage \"nosuch\" could not be found");
}

#[test]
fn variables_have_their_scopes() {
    let text = "\
ARG TAG=latest
ARG GLOBAL=g
FROM base:$TAG AS one
ARG GLOBAL
ARG OWN=o
ENV E=$OWN-$FROM_BASE
WORKDIR /$E
RUN echo
FROM one
RUN echo
USER u
WORKDIR sub/../x
COPY $E ./
";
    let given = options(&[("OWN", "given"), ("NOBODY", "x"), ("http_proxy", "p")]);
    let plan = check(
        text,
        &given,
        &expect![[r#"
        asks 3:base:latest
        #0 [one 1/3] FROM base:$TAG AS one: 1 layers
        #1 [one 2/3] WORKDIR /$E: #0 folder /given-1 ""
        #2 [one 3/3] RUN echo: #1 run ["/bin/sh", "-c", "echo"] in /given-1 with ["PATH=/bin", "FROM_BASE=1", "E=given-1", "GLOBAL=g", "OWN=given"]
        #3 [stage-1 2/4] RUN echo: #2 run ["/bin/sh", "-c", "echo"] in /given-1 with ["PATH=/bin", "FROM_BASE=1", "E=given-1", "GLOBAL=g", "OWN=given"]
        #4 [stage-1 3/4] WORKDIR sub/../x: #3 folder /given-1/x "u"
        #5 [stage-1 4/4] COPY $E ./: #4 copy context "" ["given-1"] to /given-1/x/
        One or more build-args [NOBODY] were not consumed
    "#]],
    );
    let Task::Operation(Operation::Run(run)) = &plan.graph.vertices[2].task else { panic!("a RUN") };
    assert_eq!(run.proxies, ["http_proxy=p"]);
}

#[test]
fn triggers_of_a_base_run_first_and_may_need_more_images() {
    let plan = check(
        "FROM trigger\nARG A=1\nRUN last\n",
        &options(&[]),
        &expect![[r#"
        asks 1:trigger:latest
        asks 1:other:latest
        #0 [1/4] FROM trigger: 1 layers
        #1 FROM other: 1 layers
        #2 [2/4] COPY --from=other /x /y: #0 copy #1 ["/x"] to /y
        #3 [3/4] RUN echo $A: #2 run ["/bin/sh", "-c", "echo $A"] in / with []
        #4 [4/4] RUN last: #3 run ["/bin/sh", "-c", "last"] in / with ["A=1"]
    "#]],
    );
    let texts: Vec<_> =
        plan.instructions.iter().map(|one| (one.text.as_str(), one.step, one.trigger)).collect();
    let expected = [
        ("FROM trigger", Some(0), false),
        ("COPY --from=other /x /y", Some(2), true),
        ("RUN echo $A", Some(3), true),
        ("ARG A=1", None, false),
        ("RUN last", Some(4), false),
    ];
    assert_eq!(texts, expected);
    let plan = check(
        "FROM base AS a\nONBUILD RUN x\nFROM a\n",
        &options(&[]),
        &expect![[r#"
        asks 1:base:latest
        #0 [a 1/1] FROM base AS a: 1 layers
        #1 [stage-1 2/2] RUN x: #0 run ["/bin/sh", "-c", "x"] in / with ["PATH=/bin", "FROM_BASE=1"]
    "#]],
    );
    assert!(finished(&plan).config.on_build.is_empty());
}

#[test]
fn sources_of_files() {
    let text = "\
FROM base
COPY a b <<one <<\"two\" /d/
1 $FROM_BASE
one
2 $FROM_BASE
two
ADD https://example.com/x.tgz https://example.com/r.git#v1 c /d/
COPY --from=named x /y
RUN --mount=from=named,target=m --mount=type=cache,target=/c --mount=type=secret,id=s,env=S true
RUN <<EOF
#!/bin/python
print()
EOF
RUN <<EOF
echo
EOF
";
    let contexts = [("named".to_owned(), NamedContext::Files)].into();
    let plan = check(
        text,
        &Options { contexts, ..options(&[]) },
        &expect![[r#"
        asks 1:base:latest
        #0 [1/7] FROM base: 1 layers
        #1 [2/7] COPY a b <<one <<"two" /d/: #0 copy context "" ["a", "b"], [("one", [49, 32, 49, 10]), ("two", [50, 32, 36, 70, 82, 79, 77, 95, 66, 65, 83, 69, 10])] [] to /d/
        #2 [3/7] ADD https://example.com/x.tgz https://example.com/r.git#v1 c /d/: #1 copy Url { address: "https://example.com/x.tgz", checksum: None } [], Git { address: "https://example.com/r.git#v1", checksum: None, keep_git_dir: false } [], context "" ["c"] to /d/
        #3 [4/7] COPY --from=named x /y: #2 copy context "named" ["x"] to /y
        #4 [5/7] RUN --mount=from=named,target=m --mount=type=cache,target=/c --mount=type=secret,id=s,env=S true: #3 run ["/bin/sh", "-c", "true"] in / with ["PATH=/bin", "FROM_BASE=1"]
        #5 [6/7] RUN <<EOF: #4 run ["/dev/pipes/EOF"] in / with ["PATH=/bin", "FROM_BASE=1"]
        #6 [7/7] RUN <<EOF: #5 run ["/bin/sh", "-c", "echo\n"] in / with ["PATH=/bin", "FROM_BASE=1"]
    "#]],
    );
    let Task::Operation(Operation::Run(run)) = &plan.graph.vertices[4].task else { panic!("a RUN") };
    let targets: Vec<_> = run.mounts.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(targets, ["/m", "/c", "S"]);
    assert!(
        matches!(&run.mounts[0].kind, MountKind::Bind { source: Source::Context(name), .. } if name == "named")
    );
}

#[test]
fn many_stages_take_no_stack() {
    let mut text = "FROM trigger AS s0\n".to_owned();
    for stage in 1..3000 {
        text += &format!("FROM s{} AS s{stage}\n", stage - 1);
    }
    let (plan, asked) = planned(&text, &options(&[])).unwrap();
    assert_eq!((plan.graph.vertices.len(), asked.len()), (4, 2));
}

#[test]
fn what_cannot_be_planned_says_why() {
    let cases = [
        ("FROM a\nCOPY --from=3 /a /b\n", "invalid from flag value 3: index out of bounds"),
        ("FROM Bad:Name:x\n", "invalid reference format: repository name (library/Bad) must be lowercase"),
        ("FROM $NOTHING\n", "base name ($NOTHING) should not be blank"),
        ("FROM a\nEXPOSE x\n", "Invalid containerPort: x"),
        (
            "FROM a\nCOPY a b /x\n",
            "When using COPY with more than one source file, the destination must be a directory and end with a /",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refused(text, &options(&[])), message, "{text}");
    }
    let deep = format!("FROM a\n{}", "WORKDIR /w\n".repeat(125));
    assert_eq!(refused(&deep, &options(&[])), "max depth exceeded");
    let epoch = options(&[("SOURCE_DATE_EPOCH", "yesterday")]);
    assert!(refused("FROM a\n", &epoch).starts_with("invalid SOURCE_DATE_EPOCH: \"yesterday\""));
}

#[test]
fn the_whole_configuration() {
    let text = "\
FROM base
ARG V=1
MAINTAINER me
ENV A=\"b c\" D=e
LABEL l=m
WORKDIR /w
COPY --chown=1:2 --chmod=755 a /b
RUN make
RUN [\"x\", \"y z\"]
SHELL [\"/bin/bash\", \"-c\"]
EXPOSE 80 53/udp
VOLUME [\"/data\"]
USER u
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --retries=3 CMD true
ONBUILD RUN later
CMD echo
ENTRYPOINT [\"e\"]
";
    let labels = [("given".to_owned(), "g".to_owned())].into();
    let (plan, _) = planned(text, &Options { labels, ..options(&[]) }).unwrap();
    let mut config = finished(&plan);
    config.rootfs.diff_ids.clear();
    let history: Vec<String> = std::mem::take(&mut config.history)
        .into_iter()
        .map(|past| format!("{} {} {}", past.created.unwrap(), past.empty_layer, past.created_by))
        .collect();
    expect![[r#"
        2020-01-01T00:00:00Z true ARG V=1
        2020-01-01T00:00:00Z true MAINTAINER me
        2020-01-01T00:00:00Z true ENV A=b c D=e
        2020-01-01T00:00:00Z true LABEL l=m
        2026-01-01T00:00:00Z false WORKDIR /w
        2026-01-01T00:00:01Z false COPY --chown=1:2 --chmod=755 a /b # buildkit
        2026-01-01T00:00:02Z false RUN |1 V=1 /bin/sh -c make # buildkit
        2026-01-01T00:00:03Z false RUN |1 V=1 x y z # buildkit
        2026-01-01T00:00:03Z true SHELL [/bin/bash -c]
        2026-01-01T00:00:03Z true EXPOSE map[53/udp:{} 80/tcp:{}]
        2026-01-01T00:00:03Z true VOLUME [/data]
        2026-01-01T00:00:03Z true USER u
        2026-01-01T00:00:03Z true STOPSIGNAL SIGINT
        2026-01-01T00:00:03Z true HEALTHCHECK &{["CMD-SHELL" "true"] "30s" "0s" "0s" "0s" '\x03'}
        2026-01-01T00:00:03Z true ONBUILD RUN later
        2026-01-01T00:00:03Z true CMD ["/bin/bash" "-c" "echo"]
        2026-01-01T00:00:03Z true ENTRYPOINT ["e"]
    "#]]
    .assert_eq(&(history.join("\n") + "\n"));
    expect![[r#"
        {
          "architecture": "amd64",
          "os": "linux",
          "config": {
            "User": "u",
            "ExposedPorts": {
              "53/udp": {},
              "80/tcp": {}
            },
            "Env": [
              "PATH=/bin",
              "FROM_BASE=1",
              "A=b c",
              "D=e"
            ],
            "Entrypoint": [
              "e"
            ],
            "Cmd": [
              "/bin/bash",
              "-c",
              "echo"
            ],
            "Healthcheck": {
              "Test": [
                "CMD-SHELL",
                "true"
              ],
              "Interval": 30000000000,
              "Retries": 3
            },
            "ArgsEscaped": true,
            "Volumes": {
              "/data": {}
            },
            "WorkingDir": "/w",
            "OnBuild": [
              "RUN later"
            ],
            "Labels": {
              "given": "g",
              "l": "m"
            },
            "StopSignal": "SIGINT",
            "Shell": [
              "/bin/bash",
              "-c"
            ]
          },
          "rootfs": {
            "type": "layers",
            "diff_ids": []
          },
          "created": "2026-01-01T00:00:03Z",
          "author": "me"
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&config).unwrap());
}

#[test]
fn an_entrypoint_takes_the_bases_command_away_and_leaves_the_stages() {
    let command = |text: &str| finished(&planned(text, &options(&[])).unwrap().0).config.cmd;
    assert_eq!(command("FROM base\n"), Some(vec!["sh".to_owned()]));
    assert_eq!(command("FROM base\nENTRYPOINT [\"e\"]\n"), None);
    assert_eq!(command("FROM base\nCMD [\"c\"]\nENTRYPOINT [\"e\"]\n"), Some(vec!["c".to_owned()]));
    assert_eq!(command("FROM base AS a\nCMD [\"c\"]\nFROM a\nENTRYPOINT [\"e\"]\n"), None);
}

#[test]
fn steps_are_fresh_by_wish() {
    let text = "FROM base AS one\nRUN a\nFROM base\nRUN b\nCOPY --from=one / /\n";
    let fresh = |options: Options| {
        let (plan, _) = planned(text, &options).unwrap();
        plan.graph
            .vertices
            .iter()
            .filter(|vertex| vertex.fresh)
            .map(|vertex| vertex.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(fresh(options(&[])), Vec::<String>::new());
    assert_eq!(fresh(Options { no_cache: true, ..options(&[]) }).len(), 3);
    let filtered = Options { no_cache_filter: vec!["ONE".into()], ..options(&[]) };
    assert_eq!(fresh(filtered), ["[one 2/2] RUN a"]);
}

#[test]
fn a_short_file_does_not_mean_any_amount() {
    let value = "x".repeat(60 << 10);
    let files = [
        format!("FROM base\nENV A={value}\n{}", "LABEL $A=$A b=$A c=$A d=$A\n".repeat(1000)),
        format!(
            "FROM base\nARG A={value}\nENV {}\n{}",
            (0..10).map(|n| format!("B{n}=$A ")).collect::<String>(),
            "RUN true\n".repeat(110)
        ),
        format!(
            "ARG A={value}\n{}FROM base\n",
            (0..2000).map(|n| format!("ARG B{n}=$A\n")).collect::<String>()
        ),
        format!(
            "FROM base AS a0\nLABEL a={value}\n{}",
            (0..1000).map(|n| format!("FROM a{n} AS a{}\n", n + 1)).collect::<String>()
        ),
        format!("FROM base\nEXPOSE {}\n", "0-65535 ".repeat(5000)),
        format!("FROM base\n{}", (0..4000).map(|n| format!("ENV A{n}=\n")).collect::<String>()),
    ];
    for file in files {
        let error = planned(&file, &options(&[])).map(|_| ()).unwrap_err();
        assert!(error.contains("comes to more than 64 MiB"), "{error}");
    }
    // What people write is far from it.
    let (plan, _) = planned("FROM base\nEXPOSE 1-65535 1-65535/udp 80\n", &options(&[])).unwrap();
    assert_eq!(plan.config.config.exposed_ports.len(), 2 * 65535);
}
