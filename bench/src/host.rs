//! What machine this is and what the process has used of it.

use std::fs;

use records::{Digest, Provenance};

use crate::device::{self, Facts, Place};

/// Provenance of this build on this machine, of what runs on a device with this many threads. The libraries of a card are known
/// to who has opened it.
pub(crate) fn provenance(place: Place, threads: usize) -> Provenance {
    let Facts { card, driver } = device::facts(place);
    let revision = option_env!("UFG_BENCH_REVISION").filter(|r| !r.is_empty()).map(str::to_owned);
    Provenance {
        version: env!("CARGO_PKG_VERSION").into(),
        dirty: revision.as_ref().map(|_| env!("UFG_BENCH_DIRTY") == "true"),
        revision,
        dependencies: Digest::of(include_bytes!("../../Cargo.lock")),
        build: env!("UFG_BENCH_BUILD").into(),
        device: place.to_string(),
        card,
        driver,
        libraries: None,
        cpu: cpu(),
        threads: threads as u64,
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim().to_owned()))
        .unwrap_or_else(|| "unknown".into());
    format!("{model} ({})", features().join(" "))
}

/// The vector extensions by which kernels choose their code.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        vec!["baseline"]
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Largest resident memory of this process so far in MiB, where the system tells.
pub(crate) fn peak_memory_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

/// How many processes the kernel's out-of-memory killer has ended since the machine started.
pub(crate) fn oom_kills() -> Option<u64> {
    let stat = fs::read_to_string("/proc/vmstat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
}
