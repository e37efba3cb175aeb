//! Compiles the device code to PTX, where the feature `cuda` asks for it.
//!
//! `NVCC` names the compiler (else `nvcc` of `CUDA_HOME`, else that of the search path), `CUDA_COMPUTE_CAP` the oldest cards
//! that the code is for, such as `90` (else 80: Ampere). PTX is for these and all later ones. The feature `cusolver` needs
//! CUDA 12.8: earlier ones lack the batched routine, or have it in an update alone.

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
    let of_toolkit = || variable("CUDA_HOME").or_else(|| variable("CUDA_PATH")).map(|home| home + "/bin/nvcc");
    let compiler = variable("NVCC").or_else(of_toolkit).unwrap_or_else(|| "nvcc".into());
    let cap = variable("CUDA_COMPUTE_CAP").unwrap_or_else(|| "80".into()).replace('.', "");
    let out = PathBuf::from(variable("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernels.ptx");
    let mut command = Command::new(&compiler);
    command
        .args(["-O3", "-std=c++17", "--ptx", &format!("-arch=compute_{cap}"), "src/cuda/kernels.cu", "-o"])
        .arg(&out);
    let made = command.output().unwrap_or_else(|e| {
        panic!(
            "the feature `cuda` needs NVIDIA's compiler, and {compiler} did not start: {e}. Set NVCC or CUDA_HOME, or make a \
             toolchain with ci/cuda-toolchain.sh"
        )
    });
    assert!(made.status.success(), "{compiler} refused the kernels:\n{}", String::from_utf8_lossy(&made.stderr));
    if variable("CARGO_FEATURE_CUSOLVER").is_some() {
        let (major, minor) = version(&compiler);
        assert!(
            (major, minor) >= (12, 8),
            "the feature `cusolver` needs CUDA 12.8 or later, and this is {major}.{minor}; build without it"
        );
    }
}

/// The version that the bindings of CUDA are made for: `CUDARC_CUDA_VERSION`, such as 13000, else that of the compiler.
fn version(compiler: &str) -> (u32, u32) {
    if let Some(named) = variable("CUDARC_CUDA_VERSION") {
        let number: u32 = named.parse().unwrap_or_else(|_| panic!("CUDARC_CUDA_VERSION is {named}, expected as 13000"));
        return (number / 1000, number % 1000 / 10);
    }
    let said =
        Command::new(compiler).arg("--version").output().map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let release = said.ok().and_then(|said| {
        let (major, minor) = said.split_once("release ")?.1.split_once(',')?.0.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    release
        .unwrap_or_else(|| panic!("{compiler} --version names no release; set CUDARC_CUDA_VERSION, such as to 13000"))
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
