//! Records in the binary what it was built from: git revision, whether the tree differed from it, profile.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    let revision = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    #[expect(clippy::disallowed_methods, reason = "cargo tells build scripts the profile this way alone")]
    let profile = std::env::var("PROFILE").unwrap_or_default();
    println!("cargo::rustc-env=UFG_BENCH_REVISION={revision}");
    println!("cargo::rustc-env=UFG_BENCH_DIRTY={dirty}");
    println!("cargo::rustc-env=UFG_BENCH_BUILD={profile}");
    println!("cargo::rerun-if-changed=build.rs");
    // The index changes with every commit and checkout; sources of the workspace with every edit.
    for path in ["../.git/HEAD", "../.git/index", "../crates", "../datasets", "../reports", "src"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
