//! All tests, in the order in which a failure is cheapest to learn.
//!
//! The privileged tests need the executables, so these are built first, with the failpoints that
//! only test builds contain. Nothing is skipped: a test that cannot run fails.

use anyhow::Result;

use crate::machine::{self, Program};
use crate::{build, cargo, execute, tidy};

/// What the tests call on the host.
const PROGRAMS: &[Program] = &[
    Program { name: "busybox", package: "busybox-static" },
    Program { name: "unshare", package: "util-linux" },
    Program { name: "setpriv", package: "util-linux" },
    Program { name: "mkfs.ext4", package: "e2fsprogs" },
    Program { name: "python3", package: "python3" },
    Program { name: "skopeo", package: "skopeo" },
    Program { name: "script", package: "bsdutils" },
    Program { name: "zstd", package: "zstd" },
    Program { name: "xz", package: "xz-utils" },
    Program { name: "nft", package: "nftables" },
    Program { name: "bzip2", package: "bzip2" },
    Program { name: "git", package: "git" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "ssh-agent", package: "openssh-client" },
    Program { name: "docker-registry", package: "docker-registry" },
    // A server of ssh whose package starts none.
    Program { name: "dropbear", package: "dropbear-bin" },
];

/// Everything: installs what is missing, checks the style, runs all tests. With arguments only the
/// privileged tests, which get them (a filter, `--nocapture` …).
pub(crate) fn all(arguments: &[String]) -> Result<()> {
    machine::must_run_containers()?;
    machine::install(PROGRAMS)?;
    let docker = machine::docker_client(&build::target_folder().join("tools/docker"))?;
    let archive = machine::archive(&build::target_folder().join("tools/archive"))?;
    tidy::run()?;
    executables()?;
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast", "--features", FAILPOINTS])
        .env("HULL_TEST_DOCKER", docker)
        .env("HULL_TEST_ARCHIVE", archive);
    match arguments {
        [] => command.args(["--lib", "--bins", "--tests"]),
        filter => command.args(["--test", "root", "--test", "kernel", "--"]).args(filter),
    };
    execute(&mut command)
}

/// The style checks, and the tests of rooms that need no rights.
pub(crate) fn unit() -> Result<()> {
    tidy::run()?;
    let rooms = ["hull-oci", "hull-template", "hull-api", "hull-cli", "hull-testkit", "xtask"];
    let packages = rooms.iter().flat_map(|room| ["--package", *room]);
    execute(cargo().arg("test").args(packages))
}

/// Some tests start `hull-runtime` from the folder that their own executable is in.
fn executables() -> Result<()> {
    let features = ["--features", FAILPOINTS];
    execute(
        cargo().args(["build", "--quiet", "--package", "hull", "--package", "hull-runtime"]).args(features),
    )
}

/// The points at which tests kill processes; only test builds have them.
pub(crate) const FAILPOINTS: &str = "hull/failpoints,hull-runtime/failpoints";

/// What continuous integration runs.
pub(crate) fn ci() -> Result<()> {
    execute(cargo().args(["fmt", "--all", "--check"]))?;
    execute(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    all(&[])
}
