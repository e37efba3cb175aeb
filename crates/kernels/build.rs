//! Compiles the device code to PTX, where the feature `cuda` asks for it.
//!
//! The compiler is `NVCC`, else the `nvcc` of the search path, else that of `CUDA_HOME` or `CUDA_PATH`: CUDA 12 or 13.
//! `CUDA_COMPUTE_CAP` is the oldest cards that the code is for, such as `90`, else those that `nvidia-smi` lists. PTX is for these
//! and all later ones. candle's kernels are built by the same compiler for the same cards. The feature `cusolver` needs CUDA
//! 12.8: earlier ones lack the batched routine, or have it in an update alone.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &[&str] = &["src/cuda", "src/spd", "src/transport", "src/cotap", "src/nn", "src/optim"];

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts what to do this way alone")]
fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if variable("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    SOURCES.iter().for_each(|folder| watch(Path::new(folder)));
    let (compiler, release) = compiler();
    assert!(
        release >= (12, 0),
        "CUDA 12 or 13 is needed, and {compiler} is of {}.{}. Put the `bin` of a newer toolkit into PATH first, or make a toolchain \
         with ci/cuda-toolchain.sh",
        release.0,
        release.1
    );
    if variable("CARGO_FEATURE_CUSOLVER").is_some() {
        let (major, minor) = interface().unwrap_or(release);
        assert!(
            (major, minor) >= (12, 8),
            "the feature `cusolver` needs CUDA 12.8 or later, and this is {major}.{minor}; build without it"
        );
    }
    let cap = variable("CUDA_COMPUTE_CAP").map(|cap| cap.replace('.', "")).or_else(oldest_card).unwrap_or_else(|| {
        panic!(
            "nvidia-smi lists no card here: set CUDA_COMPUTE_CAP to the oldest cards to build for, such as 80 (Ampere)"
        )
    });
    let out = PathBuf::from(variable("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernels.ptx");
    let mut command = Command::new(&compiler);
    command
        .args(["-O3", "-std=c++17", "--ptx", &format!("-arch=compute_{cap}"), "src/cuda/kernels.cu", "-o"])
        .arg(&out);
    let made = command.output().unwrap_or_else(|e| panic!("{compiler} did not start: {e}"));
    assert!(made.status.success(), "{compiler} refused the kernels:\n{}", String::from_utf8_lossy(&made.stderr));
}

/// The compiler and its release, such as (13, 0). candle's build looks in the same order.
fn compiler() -> (String, (u32, u32)) {
    let of_toolkit = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(|home| home + "/bin/nvcc");
    let candidates: Vec<String> =
        variable("NVCC").map_or_else(|| ["nvcc".into()].into_iter().chain(of_toolkit).collect(), |named| vec![named]);
    for compiler in &candidates {
        let Ok(said) = Command::new(compiler).arg("--version").output() else { continue };
        let said = String::from_utf8_lossy(&said.stdout);
        let release = said.split_once("release ").and_then(|(_, rest)| pair(rest.split_once(',')?.0));
        return (
            compiler.clone(),
            release.unwrap_or_else(|| panic!("{compiler} --version names no release: {said:?}")),
        );
    }
    panic!(
        "the feature `cuda` needs NVIDIA's compiler, and there is no {}. Put the `bin` of a CUDA toolkit (12 or 13) into PATH, or \
         make a toolchain with ci/cuda-toolchain.sh",
        candidates.join(", no ")
    );
}

/// The version that the bindings of CUDA are made for, where it is not the compiler's: `CUDARC_CUDA_VERSION`, such as 13000.
fn interface() -> Option<(u32, u32)> {
    let named = variable("CUDARC_CUDA_VERSION")?;
    let number: u32 = named.parse().unwrap_or_else(|_| panic!("CUDARC_CUDA_VERSION is {named}, expected as 13000"));
    Some((number / 1000, number % 1000 / 10))
}

/// The lowest compute capability among this machine's cards.
fn oldest_card() -> Option<String> {
    let said = Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let (major, minor) = said.lines().filter_map(|line| pair(line.trim())).min()?;
    Some(format!("{major}{minor}"))
}

/// Two numbers around a dot.
fn pair(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Builds again when a source changes.
fn watch(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "cu" || e == "cuh") {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}
