//! All tests, in the order in which a failure is cheapest to learn.
//!
//! The privileged tests need the executables, so these are built first, with the failpoints that
//! only test builds contain. Nothing is skipped: a test that cannot run fails.

use std::path::Path;

use anyhow::Result;

use crate::machine::{self, Program};
use crate::{build, cargo, execute, root, tidy};

/// What the tests call on the host.
const PROGRAMS: &[Program] = &[
    Program { name: "busybox", package: "busybox-static" },
    Program { name: "unshare", package: "util-linux" },
    Program { name: "setpriv", package: "util-linux" },
    Program { name: "mkfs.ext4", package: "e2fsprogs" },
    Program { name: "python3", package: "python3-minimal" },
    Program { name: "skopeo", package: "skopeo" },
    Program { name: "script", package: "bsdutils" },
];

/// Everything: installs what is missing, then style, unit tests, and the privileged tests.
/// `arguments` go to the privileged tests (a filter, `--nocapture` …).
pub(crate) fn all(arguments: &[String]) -> Result<()> {
    machine::must_run_containers()?;
    machine::install(PROGRAMS)?;
    let docker = machine::docker_client(&build::target_folder().join("tools/docker"))?;
    unit()?;
    privileged(&docker, arguments)
}

/// What needs no rights: the style checks are a test of xtask's own.
pub(crate) fn unit() -> Result<()> {
    tidy::run()?;
    execute(cargo().args([
        "build",
        "--quiet",
        "--package",
        "hull",
        "--package",
        "hull-runtime",
        "--features",
        FAILPOINTS,
    ]))?;
    execute(cargo().args(["test", "--quiet", "--workspace", "--features", FAILPOINTS, "--exclude", "hull"]))
}

const FAILPOINTS: &str = "hull/failpoints,hull-runtime/failpoints";

/// The one executable in which each test gets a host of its own.
fn privileged(docker: &Path, arguments: &[String]) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--package", "hull", "--features", "failpoints", "--test", "root", "--"]);
    command.args(arguments).env("HULL_TEST_DOCKER", docker);
    execute(&mut command)
}

/// What continuous integration runs.
pub(crate) fn ci() -> Result<()> {
    execute(cargo().args(["fmt", "--all", "--check"]))?;
    execute(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    debug_assert!(root().is_absolute());
    all(&[])
}
