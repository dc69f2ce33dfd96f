//! What templates print and how they fail.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn data() -> Value {
    Value::from(json!({
        "Name": "/i1", "Id": "abc", "Zero": 0, "Pid": 42, "Size": 1.5, "On": true, "Nil": null,
        "Config": {"Env": ["A=b", "PATH=/bin"], "Labels": {"x": "y", "a.b": "c"}, "Cmd": null},
        "Mounts": [], "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}], "81/tcp": null}
    }))
}

fn run(text: &str, options: &Options) -> String {
    let template = match Template::parse("", text) {
        Ok(template) => template,
        Err(error) => return error.to_string(),
    };
    let mut out = String::new();
    match template.exec_into(&mut out, &data(), options) {
        Ok(()) => out,
        Err(error) => format!("{out}! {error}"),
    }
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&run(text, &Options::default()));
}

fn check_strict(text: &str, expected: Expect) {
    let options = Options { missing: Missing::Error, ..Options::default() };
    expected.assert_eq(&run(text, &options));
}

#[test]
fn fields_and_values_print_as_go_prints_them() {
    check("plain", expect!["plain"]);
    check("{{.Name}} {{.Pid}} {{.Size}} {{.On}}", expect!["/i1 42 1.5 true"]);
    check("{{.Config.Env}} {{.Config.Labels}}", expect!["[A=b PATH=/bin] map[a.b:c x:y]"]);
    check("{{.Nope}} {{.Nil}} {{.Config.Cmd}}", expect!["<no value> <no value> <no value>"]);
    check("{{.Ports}}", expect!["map[80/tcp:[map[HostIp:0.0.0.0 HostPort:80]] 81/tcp:<nil>]"]);
    check(
        "{{json .Config}}",
        expect![[r#"{"Env":["A=b","PATH=/bin"],"Labels":{"x":"y","a.b":"c"},"Cmd":null}"#]],
    );
    check(
        r#"{{1}} {{-0x10}} {{1.0}} {{1e30}} {{'a'}} {{"q\"\t|"}} {{`raw\n`}} {{true}}"#,
        expect!["1 -16 1 1e+30 97 q\"\t| raw\\n true"],
    );
}

#[test]
fn white_space_and_comments_are_trimmed() {
    check("a {{- 1 -}} b", expect!["a1b"]);
    check("a {{/* c */}} b", expect!["a  b"]);
    check("a {{- /* c */ -}} b", expect!["ab"]);
    check("{{-1}} {{- -1}}", expect!["-1-1"]);
    check("a\n{{- if true}}\n b\n{{- end}}\n", expect!["a\n b\n"]);
}

#[test]
fn control_structures_choose_and_repeat() {
    check("{{if .Zero}}a{{else if .On}}b{{else}}c{{end}}", expect!["b"]);
    check("{{with .Config.Labels}}{{.x}}{{end}}{{with .Nil}}{{else}}none{{end}}", expect!["ynone"]);
    check("{{with .Nil}}a{{else with .Name}}{{.}}{{end}}", expect!["/i1"]);
    check("{{range .Config.Env}}[{{.}}]{{end}}", expect!["[A=b][PATH=/bin]"]);
    check("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", expect!["0=A=b;1=PATH=/bin;"]);
    check("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}", expect!["a.b=c x=y "]);
    check("{{range .Mounts}}x{{else}}no mounts{{end}}", expect!["no mounts"]);
    check("{{range 3}}{{.}}{{end}}{{range $i := 2}}{{$i}}{{end}}", expect!["01201"]);
    check("{{range $i, $_ := .Config.Env}}{{if $i}}{{break}}{{end}}{{$i}}{{end}}", expect!["0"]);
    check("{{range 4}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", expect!["023"]);
    check("{{range .Nope}}x{{end}}", expect![""]);
    check(
        "{{range .Name}}{{end}}",
        expect![[r#"! template: :1:8: executing "" at <.Name>: range can't iterate over /i1"#]],
    );
}

#[test]
fn variables_have_block_scope() {
    check("{{$x := 1}}{{if true}}{{$x = 2}}{{$x := 3}}{{$x}}{{end}}{{$x}}", expect!["32"]);
    check("{{range .Config.Env}}{{$.Id}}{{end}}", expect!["abcabc"]);
    check("{{$x}}", expect![[r#"template: :1: undefined variable "$x""#]]);
    check("{{if true}}{{$x := 1}}{{end}}{{$x}}", expect![[r#"template: :1: undefined variable "$x""#]]);
    check("{{$y = 1}}", expect![[r#"template: :1: undefined variable "$y""#]]);
    check("{{$n := 0}}{{range .Config.Env}}{{$n = len .}}{{end}}{{$n}}", expect!["9"]);
    check("{{with $v := .Config}}{{len $v.Env}}{{end}}", expect!["2"]);
}

#[test]
fn templates_are_defined_and_called() {
    check(
        r#"{{define "T"}}<{{.}}>{{end}}{{template "T" .Id}}{{template "T"}}"#,
        expect!["<abc><<no value>>"],
    );
    check(r#"{{block "B" .Name}}[{{.}}]{{end}}"#, expect!["[/i1]"]);
    check(
        r#"{{template "Nope"}}"#,
        expect![[r#"! template: :1:2: executing "" at <{{template "Nope"}}>: template "Nope" not defined"#]],
    );
    check(
        r#"{{define "T"}}{{template "T"}}{{end}}{{template "T"}}"#,
        expect![[
            r#"! template: :1:16: executing "T" at <{{template "T"}}>: exceeded maximum template depth (100)"#
        ]],
    );
    check(
        r#"{{define "T"}}{{.X.Y}}{{end}}{{template "T" 1}}"#,
        expect![[r#"! template: :1:18: executing "T" at <.X.Y>: can't evaluate field X in type int"#]],
    );
}

#[test]
fn builtins_compare_and_combine() {
    check(
        r#"{{eq .Id "x" "abc"}} {{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 1 2}}"#,
        expect!["true true true true false false"],
    );
    check(
        r#"{{and 1 0 2}} {{or 0 "" "x"}} {{not .Zero}} {{and true .Nil.X}}"#,
        expect![[
            r#"0 x true ! template: :1:59: executing "" at <.Nil.X>: nil pointer evaluating interface {}.X"#
        ]],
    );
    check(r#"{{or 1 .Nil.X}}"#, expect!["1"]);
    check(
        r#"{{eq 1 "1"}}"#,
        expect![[
            r#"! template: :1:2: executing "" at <eq 1 "1">: error calling eq: incompatible types for comparison"#
        ]],
    );
    check(
        r#"{{lt true false}}"#,
        expect![[
            r#"! template: :1:2: executing "" at <lt true false>: error calling lt: invalid type for comparison"#
        ]],
    );
}

#[test]
fn builtins_measure_index_and_print() {
    check("{{len .Name}} {{len .Config.Env}} {{len .Config.Labels}}", expect!["3 2 2"]);
    check(
        "{{len 3}}",
        expect![[r#"! template: :1:2: executing "" at <len 3>: error calling len: len of type int"#]],
    );
    check(
        r#"{{index .Config.Labels "a.b"}} {{index .Config.Env 1}} {{(index (index .Ports "80/tcp") 0).HostPort}}"#,
        expect!["c PATH=/bin 80"],
    );
    check(
        "{{index .Config.Env 2}}",
        expect![[
            r#"! template: :1:2: executing "" at <index .Config.Env 2>: error calling index: reflect: slice index out of range"#
        ]],
    );
    check(
        "{{index .Config.Env 9}}",
        expect![[
            r#"! template: :1:2: executing "" at <index .Config.Env 9>: error calling index: index out of range: 9"#
        ]],
    );
    check(
        "{{index .Nil 1}}",
        expect![[
            r#"! template: :1:2: executing "" at <index .Nil 1>: error calling index: index of untyped nil"#
        ]],
    );
    check(r#"{{index .Config.Labels "nope"}}"#, expect!["<no value>"]);
    check(r#"{{slice .Name 1}} {{slice "abcd" 1 3}} {{slice .Config.Env 0 1}}"#, expect!["i1 bc [A=b]"]);
    check(
        r#"{{slice "abc" 2 1}}"#,
        expect![[
            r#"! template: :1:2: executing "" at <slice "abc" 2 1>: error calling slice: invalid slice index: 2 > 1"#
        ]],
    );
    check(
        r#"{{html "<a href='x'>&"}} {{js "it's <b>"}} {{urlquery "a b/ü"}}"#,
        expect!["&lt;a href=&#39;x&#39;&gt;&amp; it\\'s \\u003Cb\\u003E a+b%2F%C3%BC"],
    );
    check(
        "{{print 1 2 \"a\" \"b\" 3 4}}|{{println 1 \"a\"}}",
        expect![[r#"
        1 2ab3 4|1 a
    "#]],
    );
    check(r#"{{"x" | printf "%s-%s" "a" | upper}}"#, expect!["A-X"]);
}

#[test]
fn docker_functions_shape_text() {
    check(
        r#"{{upper .Name}} {{lower "ABC"}} {{title "hello big-world"}}"#,
        expect!["/I1 abc Hello Big-World"],
    );
    check(
        r#"{{join .Config.Env ","}} {{split "a,b" ","}} {{join .Config.Labels "+"}}"#,
        expect!["A=b,PATH=/bin [a b] c+y"],
    );
    check(
        r#"[{{pad "x" 1 2}}][{{pad "" 1 2}}] {{truncate "abcdef" 3}} {{truncate "ab" 3}}"#,
        expect!["[ x  ][] abc ab"],
    );
    check("{{json .Name}} {{.Pid | json}}", expect![[r#""/i1" 42"#]]);
    check(
        "{{upper 1}}",
        expect![[
            r#"! template: :1:2: executing "" at <upper 1>: wrong type for value; expected string; got int"#
        ]],
    );
    check(
        r#"{{pad "x" 99999999 0}}"#,
        expect![[
            r#"! template: :1:2: executing "" at <pad "x" 99999999 0>: error calling pad: invalid count: 99999999"#
        ]],
    );
    let header = Options { header: true, ..Options::default() };
    assert_eq!(run(r#"{{upper "Names"}} {{json "ID"}} {{truncate "Image" 2}}"#, &header), "Names ID Image");
}

#[test]
fn printf_knows_the_verbs() {
    check(
        r#"{{printf "%v|%s|%q|%d|%x|%X|%t" .Id .Id .Id 255 255 "hi" true}}"#,
        expect![[r#"abc|abc|"abc"|255|ff|6869|true"#]],
    );
    check(r#"{{printf "[%5d|%-5d|%05d|%+d|% d]" 42 42 42 42 42}}"#, expect!["[   42|42   |00042|+42| 42]"]);
    check(r#"{{printf "[%6s|%-6s|%.2s|%*d]" "abc" "abc" "abc" 4 7}}"#, expect!["[   abc|abc   |ab|   7]"]);
    check(
        r#"{{printf "%.2f %e %g %8.3f %.3g %G" 3.14159 1500.0 1e21 2.5 1234.5 1e-7}}"#,
        expect!["3.14 1.500000e+03 1e+21    2.500 1.23e+03 1E-07"],
    );
    check(r#"{{printf "%c %U %b %o %#x %O" 65 65 5 8 255 8}}"#, expect!["A U+0041 101 10 0xff 0o10"]);
    check(
        r#"{{printf "%s %d %v" .Config.Env .Config.Env .Nil}}"#,
        expect!["[A=b PATH=/bin] [%!d(string=A=b) %!d(string=PATH=/bin)] <nil>"],
    );
    check(
        r#"{{printf "%q %T %T" .Config.Env .Pid .Config}}"#,
        expect![[r#"["A=b" "PATH=/bin"] int map[string]interface {}"#]],
    );
    check(
        r#"{{printf "%d %s" 1}} {{printf "%d" 1 2}} {{printf "%"}} {{printf "%z" 1}}"#,
        expect!["1 %!s(MISSING) 1%!(EXTRA int=2) %!(NOVERB) %!z(int=1)"],
    );
    check(r#"{{printf "%[2]d %[1]d %%" 1 2}} {{printf "%s" 5}}"#, expect!["2 1 % %!s(int=5)"]);
    check(
        r#"{{printf "%t" 1}} {{printf "%-10v|" .On}} {{printf "%#v" .Id}}"#,
        expect![[r#"%!t(int=1) true      | "abc""#]],
    );
}

#[test]
fn missing_keys_fail_with_the_references_text() {
    check_strict(
        "{{.Nope}}",
        expect![[r#"! template: :1:2: executing "" at <.Nope>: map has no entry for key "Nope""#]],
    );
    check_strict(
        "{{.Config.Nope.More}}",
        expect![[
            r#"! template: :1:9: executing "" at <.Config.Nope.More>: map has no entry for key "Nope""#
        ]],
    );
    check_strict(
        "{{.Nil.More}}",
        expect![[
            r#"! template: :1:6: executing "" at <.Nil.More>: nil pointer evaluating interface {}.More"#
        ]],
    );
    check_strict(
        "a\nb {{.Name}} {{.Nope}}",
        expect![[r#"
        a
        b /i1 ! template: :2:14: executing "" at <.Nope>: map has no entry for key "Nope""#]],
    );
    check(
        "{{.Name.X}}",
        expect![[r#"! template: :1:7: executing "" at <.Name.X>: can't evaluate field X in type string"#]],
    );
    check(
        "{{.Name 1}}",
        expect![[r#"! template: :1:2: executing "" at <.Name>: Name is not a method but has arguments"#]],
    );
    check(
        "{{1 2}}",
        expect![[r#"! template: :1:2: executing "" at <1>: can't give argument to non-function 1"#]],
    );
    check("{{nil}}", expect![[r#"! template: :1:2: executing "" at <nil>: nil is not a command"#]]);
    check(
        "{{join 1}}",
        expect![[
            r#"! template: :1:2: executing "" at <join 1>: wrong number of args for join: want 2 got 1"#
        ]],
    );
}

#[test]
fn malformed_templates_fail_with_the_references_text() {
    check("{{", expect!["template: :1: unclosed action"]);
    check("{{.Nope", expect!["template: :1: unclosed action"]);
    check("a\n{{.Nope\n", expect!["template: :3: unclosed action started at :2"]);
    check("{{}}", expect!["template: :1: missing value for command"]);
    check("{{if}}{{end}}", expect!["template: :1: missing value for if"]);
    check("{{if true}}", expect!["template: :1: unexpected EOF"]);
    check("{{end}}", expect!["template: :1: unexpected {{end}}"]);
    check("{{else}}", expect!["template: :1: unexpected {{else}}"]);
    check("{{nope .}}", expect![[r#"template: :1: function "nope" not defined"#]]);
    check("{{break}}", expect!["template: :1: {{break}} outside {{range}}"]);
    check("{{. | 1}}", expect!["template: :1: non executable command in pipeline stage 2"]);
    check("{{(.A}}", expect!["template: :1: unclosed left paren"]);
    check("{{.A)}}", expect!["template: :1: unexpected right paren"]);
    check("{{\"abc}}", expect!["template: :1: unterminated quoted string"]);
    check("{{3k}}", expect![[r#"template: :1: bad number syntax: "3k""#]]);
    check("{{.a!b}}", expect!["template: :1: bad character U+0021 '!'"]);
    check("{{/* a }}", expect!["template: :1: unclosed comment"]);
    check("{{/* a */ }}", expect!["template: :1: comment ends before closing delimiter"]);
    check("{{$a, $b := .}}", expect!["template: :1: too many declarations in command"]);
    check("{{template .}}", expect![[r#"template: :1: unexpected "." in template clause"#]]);
    check("{{\"a\".b}}", expect![[r#"template: :1: unexpected . after term "\"a\"""#]]);
    check("{{. else}}", expect!["template: :1: unexpected <else> in operand"]);
}

#[test]
fn structs_have_typed_fields_and_methods() {
    let label = Function::new(1, |args| match args {
        [Value::String(name)] if &**name == "bad" => Err("no such label".to_owned()),
        [name] => Ok(Value::from(format!("label {}", gofmt::verb_v(name)))),
        _ => Ok(Value::Nil),
    });
    let data = Value::from(Struct {
        type_name: "*formatter.ContainerContext".into(),
        fields: vec![
            Field::new("ID", "<1>"),
            Field { name: "Arch".into(), json: "".into(), value: "x".into() },
        ],
        methods: vec![("Label".into(), label)],
        escape_json: true,
    });
    let run = |text: &str| match Template::parse("", text).unwrap().exec(&data, &Options::default()) {
        Ok(out) => out,
        Err(error) => error.to_string(),
    };
    assert_eq!(run(r#"{{.ID}} {{.Label "a"}} {{"b" | .Label}} {{.}}"#), "<1> label a label b {<1> x}");
    assert_eq!(run("{{json .}}"), r#"{"ID":"\u003c1\u003e"}"#);
    assert_eq!(
        run("{{.Nope}}"),
        "template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type *formatter.ContainerContext"
    );
    assert_eq!(
        run(r#"{{.Label "bad"}}"#),
        "template: :1:2: executing \"\" at <.Label>: error calling Label: no such label"
    );
    assert_eq!(
        run("{{.Label}}"),
        "template: :1:2: executing \"\" at <.Label>: wrong number of args for Label: want 1 got 0"
    );
    assert_eq!(
        run("{{.ID 1}}"),
        "template: :1:2: executing \"\" at <.ID>: ID has arguments but cannot be invoked as function"
    );
}

#[test]
fn nil_lists_maps_and_pointers_keep_their_types() {
    let map = |nil, zero: Value| Value::from(Map { nil, zero, ..Map::default() });
    let data = Value::from(Struct {
        type_name: "container.InspectResponse".into(),
        fields: vec![
            Field::new("Cmd", Value::NilList),
            Field::new("Ports", map(true, Value::NilList)),
            Field::new("Labels", map(false, "".into())),
            Field::new("Health", Value::NilPointer("*container.Health")),
        ],
        ..Struct::default()
    });
    let run = |text: &str| match Template::parse("", text).unwrap().exec(&data, &Options::default()) {
        Ok(out) => out,
        Err(error) => error.to_string(),
    };
    assert_eq!(run("{{.Cmd}} {{.Ports}} {{.Labels}} {{.Health}}"), "[] map[] map[] <nil>");
    assert_eq!(run("{{.Labels.nope}}|{{index .Labels \"nope\"}}|{{index .Ports \"x\"}}"), "<no value>||[]");
    assert_eq!(run("{{len .Cmd}}{{range .Cmd}}x{{else}}none{{end}}{{join .Cmd \",\"}}"), "0none");
    assert_eq!(run("{{json .}}"), r#"{"Cmd":null,"Ports":null,"Labels":{},"Health":null}"#);
    assert_eq!(
        run("{{.Health.Status}}"),
        "template: :1:9: executing \"\" at <.Health.Status>: nil pointer evaluating *container.Health.Status"
    );
    assert_eq!(
        run("{{index .Cmd 0}}"),
        "template: :1:2: executing \"\" at <index .Cmd 0>: error calling index: reflect: slice index out of range"
    );
}

#[test]
fn limits_stop_runaway_templates() {
    let limits = Limits { steps: 1000, output: 100 };
    let options = Options { limits, ..Options::default() };
    assert!(run("{{range 100000000}}{{end}}", &options).contains("more than 1000 steps"));
    assert!(run("{{range 20}}0123456789{{end}}", &options).contains("prints more than 100 bytes"));
    assert!(run(r#"{{printf "%900000d" 1}}"#, &options).contains("prints more than 100 bytes"));
    let doubling = r#"{{$x := "aaaaaaaa"}}{{range 60}}{{$x = print $x $x}}{{end}}{{len $x}}"#;
    assert!(run(doubling, &options).len() < 200);
    let deep = "{{(".to_owned() + &"(".repeat(100_000);
    assert!(run(&deep, &options).contains("nested too deeply"));
    let deep = "{{if true}}".repeat(10_000);
    assert!(run(&deep, &options).contains("nested too deeply"));
    assert!(Template::parse("", &"x".repeat(MAX_TEXT + 1)).is_err());
}

#[test]
fn no_text_breaks_the_template_engine() {
    // A simple generator instead of a dependency: pieces of the language at random.
    const PIECES: &[&str] = &[
        "{{",
        "}}",
        "{{-",
        " -}}",
        " ",
        ".",
        ".L",
        ".M",
        ".N",
        "$x",
        ":=",
        "=",
        "|",
        "(",
        ")",
        ",",
        "if ",
        "range ",
        "end",
        "else",
        "with ",
        "define \"a\"",
        "template \"a\" ",
        "1",
        "\"s\"",
        "'c'",
        "`r`",
        "printf \"%v%5d%q\" ",
        "index ",
        "slice ",
        "len ",
        "json ",
        "é",
        "\n",
        "/*",
        "*/",
        "nil",
        "true",
        "break",
        "continue",
        "-3.5",
        "eq ",
    ];
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap_or(0)
    };
    for _ in 0..20_000 {
        let text: String = (0..random() % 16).map(|_| PIECES[random() % PIECES.len()]).collect();
        fuzz::fuzz_template(text.as_bytes());
    }
}
