//! Prints the default seccomp profile of a container with Docker's default capabilities, as OCI
//! JSON: for bundles that other runtimes shall run under the same filter (`cargo xtask bench`).
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

const CAPABILITIES: &str = "CAP_AUDIT_WRITE CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL \
    CAP_MKNOD CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_CHROOT";

fn main() {
    let capabilities = CAPABILITIES.split_whitespace().map(str::to_owned).collect();
    let profile = hull_runtime::seccomp::default_profile(&capabilities, (6, 1));
    println!("{}", serde_json::to_string(&profile).unwrap_or_default());
}
