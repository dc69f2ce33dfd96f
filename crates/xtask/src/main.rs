//! Developer commands: build, test, demo, bench, tidy, ci.

fn main() {}
