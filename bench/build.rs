//! Records in the binary what it was built from: git revision, whether the tree differed from it, profile.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Writes the list of the shipped oracle files, each with its contents.
fn list_oracles() -> std::io::Result<()> {
    let folder = Path::new("../ci/oracles/data").canonicalize()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    names.sort();
    let line = |name: &String| format!("    ({name:?}, include_bytes!({:?})),\n", folder.join(name));
    let lines: String = names.iter().map(line).collect();
    #[expect(clippy::disallowed_methods, reason = "cargo tells build scripts their folder this way alone")]
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let text =
        format!("/// Names and contents of `ci/oracles/data`.\nstatic SHIPPED: &[(&str, &[u8])] = &[\n{lines}];\n");
    std::fs::write(Path::new(&out).join("shipped_oracles.rs"), text)
}

fn main() {
    list_oracles().expect("the oracle files of ci/oracles/data");
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
