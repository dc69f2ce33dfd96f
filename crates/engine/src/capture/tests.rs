//! Captures of this machine's own programs, run for real with the captured tree as root.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use hull_image::layer::{self, Limits, Mode};

use super::*;

/// Captures, unpacks, and checks that the configuration names the layer.
fn unpacked(options: &Capture) -> (tempfile::TempDir, Captured) {
    let mut layer = Vec::new();
    let captured = capture(options, &mut layer).unwrap_or_else(|error| panic!("{error}: {error:?}"));
    let root = tempfile::tempdir().unwrap();
    let folder = fs::File::open(root.path()).unwrap();
    let applied = layer::apply(&mut &layer[..], folder.as_fd(), Mode::Layer, &Limits::default()).unwrap();
    assert_eq!(captured.config.rootfs.diff_ids, [applied.diff_id]);
    (root, captured)
}

/// Runs a command with the folder as its root; its standard output.
fn run(root: &Path, command: &[&str]) -> String {
    assert!(rustix::process::geteuid().is_root(), "these tests need root: they use chroot(2)");
    let output =
        Command::new("chroot").arg(root).args(command).env_clear().env("PATH", PATH.join(":")).output();
    let output = output.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The search path of whoever runs the tests: it may lead to a version switcher.
fn own_search() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect()
}

fn programs(names: &[&str]) -> Capture {
    Capture {
        programs: names.iter().map(|name| (*name).to_owned()).collect(),
        search: own_search(),
        ..Capture::default()
    }
}

fn error(options: &Capture) -> String {
    capture(options, &mut std::io::sink()).unwrap_err().to_string()
}

#[test]
fn busybox_runs_under_all_its_names() {
    let (root, captured) = unpacked(&programs(&["busybox"]));
    assert_eq!(captured.config.config.cmd, Some(vec!["sh".to_owned()]));
    let out = run(root.path(), &["sh", "-c", "ls / | tr '\\n' ' '; id -un; stat -c %a /tmp"]);
    for folder in ["etc", "proc", "root", "tmp", "usr"] {
        assert!(out.contains(folder), "{out}");
    }
    assert!(out.ends_with("root\n1777\n"), "{out}");
    let own = run(Path::new("/"), &["busybox", "--list"]);
    let links: Vec<&str> = own.lines().filter(|name| *name != "busybox").collect();
    assert!(links.len() > 100, "{own}");
    for name in links {
        assert!(captured.paths.iter().any(|path| path.ends_with(name)), "{name}");
    }
}

#[test]
fn a_dynamic_program_comes_with_its_libraries() {
    let (root, captured) = unpacked(&programs(&["bash", "env"]));
    assert_eq!(run(root.path(), &["bash", "-c", "echo $((6*7)) | { read x; echo got $x; }"]), "got 42\n");
    assert_eq!(run(root.path(), &["/bin/bash", "-c", "echo ${BASH##*/}"]), "bash\n");
    assert!(captured.size < 20 << 20, "{}", captured.size);
    assert!(captured.missing.is_empty(), "{:?}", captured.missing);
    assert!(captured.packages.is_empty());
}

#[test]
fn a_script_comes_with_its_interpreter() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("greet");
    fs::write(&script, "#!/usr/bin/env bash\necho hi from $BASH_VERSION | cut -c1-7\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let (root, captured) = unpacked(&programs(&[script.to_str().unwrap(), "cut"]));
    assert_eq!(captured.config.config.cmd, Some(vec![script.to_str().unwrap().to_owned()]));
    // Its folder is not searched for programs, so there is a link in one that is.
    assert_eq!(run(root.path(), &["greet"]), "hi from\n");
}

/// Uses much of a Python: its own modules, extensions in C, and libraries of those.
const PYTHON: &str = "import http.server, json, hashlib, sqlite3, ssl, zlib, ctypes, socket; \
    print(json.dumps([zlib.crc32(b'x'), hashlib.sha256(b'').hexdigest()[:4]]))";
const PRINTED: &str = "[2363233923, \"e3b0\"]\n";

#[test]
fn a_python_of_the_search_path_runs_with_its_standard_library() {
    let (root, captured) = unpacked(&programs(&["python3"]));
    assert_eq!(run(root.path(), &["python3", "-c", PYTHON]), PRINTED);
    assert!(!captured.paths.iter().any(|path| path.ends_with("site-packages")));
    let command = captured.config.config.cmd.unwrap();
    assert_eq!(run(root.path(), &[&command[0], "-c", "print(1)"]), "1\n");
    // It trusts whom the host's trusts.
    let trusted = "import ssl, os; print(len(ssl.create_default_context().get_ca_certs()), \
        len(os.listdir(ssl.get_default_verify_paths().capath or '/')) > 0)";
    let of = |root: &Path| run(root, &[&command[0], "-c", trusted]);
    assert_eq!(of(root.path()), of(Path::new("/")));
}

#[test]
fn a_python_of_a_package_runs_with_its_standard_library() {
    let (name, path) = fs::read_dir("/usr/bin")
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .find(|(name, _)| name.strip_prefix("python3.").is_some_and(|rest| rest.parse::<u32>().is_ok()))
        .expect("the machine that tests has the distribution's python3.N");
    let (root, captured) = unpacked(&programs(&[path.to_str().unwrap()]));
    assert_eq!(run(root.path(), &[&name, "-c", PYTHON]), PRINTED);
    assert!(captured.packages.iter().any(|package| package.starts_with(&name)), "{:?}", captured.packages);
}

#[test]
fn packages_come_whole_with_what_they_depend_on() {
    let options = Capture { packages: vec!["dash".to_owned()], ..Capture::default() };
    let (root, captured) = unpacked(&options);
    assert!(captured.packages.contains(&"libc6".to_owned()), "{:?}", captured.packages);
    assert_eq!(captured.config.config.cmd, None);
    assert_eq!(run(root.path(), &["/bin/sh", "-c", "echo $0"]), "/bin/sh\n");
    assert_eq!(
        root.path().join("usr/share/doc/dash/copyright").exists(),
        Path::new("/usr/share/doc/dash/copyright").exists()
    );
}

#[test]
fn paths_keep_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tree");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/data"), "data").unwrap();
    fs::hard_link(source.join("sub/data"), source.join("other")).unwrap();
    fs::write(source.join("program"), "x").unwrap();
    fs::set_permissions(source.join("program"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::symlink("sub/data", source.join("link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    let add = Add { source, destination: Some("/bin/x".into()) };
    let options = Capture { add: vec![add], newest: 1_000_000_000, ..Capture::default() };
    let (root, _) = unpacked(&options);
    drop(socket);
    let at = |path: &str| fs::symlink_metadata(root.path().join("bin/x").join(path));
    assert_eq!(at("program").unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(at("program").unwrap().mtime(), 1_000_000_000);
    assert_eq!(at("sub/data").unwrap().ino(), at("other").unwrap().ino());
    assert!(at("link").unwrap().is_symlink());
    assert!(at("socket").is_err());
    // The host's /bin may be a link: what goes below it goes where it leads.
    assert_eq!(root.path().join("bin").is_symlink(), Path::new("/bin").is_symlink());
}

#[test]
fn the_same_capture_gives_the_same_bytes() {
    let options = programs(&["bash", "busybox"]);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let one = capture(&options, &mut first).unwrap();
    let two = capture(&options, &mut second).unwrap();
    assert!(first == second);
    assert_eq!(one.config, two.config);
}

#[test]
fn what_cannot_be_captured_is_named() {
    assert_eq!(error(&Capture::default()), "no program, package or path to capture was named");
    let options = Capture { search: vec!["/usr/bin".into()], ..programs(&["no-such-program"]) };
    assert_eq!(error(&options), "program \"no-such-program\" is not found in [\"/usr/bin\"]");
    let options = Capture { packages: vec!["no-such-package".to_owned()], ..Capture::default() };
    assert_eq!(error(&options), "package \"no-such-package\" is not installed on this host");
    let add = |source: &str, destination: Option<&str>| Capture {
        add: vec![Add { source: source.into(), destination: destination.map(PathBuf::from) }],
        ..Capture::default()
    };
    assert_eq!(error(&add("/proc", None)), "\"/proc\" cannot be captured: it belongs to the running system");
    assert_eq!(error(&add("relative", None)), "\"relative\" is not an absolute path without '..'");
    assert_eq!(error(&add("/etc/hosts", Some("/../x"))), "\"/../x\" is not an absolute path without '..'");
    assert_eq!(error(&add("/no/such", None)), "cannot read \"/no/such\"");
}

#[test]
fn hello_runs_and_explains_itself() {
    let Hello { layer, config } = hello();
    assert!(layer.len() < 4096, "{}", layer.len());
    let root = tempfile::tempdir().unwrap();
    let folder = fs::File::open(root.path()).unwrap();
    let applied = layer::apply(&mut &layer[..], folder.as_fd(), Mode::Layer, &Limits::default()).unwrap();
    assert_eq!(config.rootfs.diff_ids, [applied.diff_id]);
    let command = config.config.cmd.unwrap();
    let out = run(root.path(), &[&command[0]]);
    assert!(out.contains("Hello!") && out.ends_with("hull run -it demo sh\n\n"), "{out}");
}
