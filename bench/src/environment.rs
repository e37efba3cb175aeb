//! The only file that reads environment variables, and that names those which a trial's process is given. Each is
//! listed here with what it does.

/// Number of worker threads of a process (the variable of the thread pool `rayon`). A trial's is set by its parent.
pub(crate) const THREADS: &str = "RAYON_NUM_THREADS";

/// What a trial's process is given besides [`THREADS`]. None of it changes a number.
pub(crate) const TRIAL: &[(&str, &str)] = &[
    // candle sums gradients in a pool of spinning threads, which costs more than it gains beside ours.
    ("CANDLE_NUM_THREADS", "1"),
    // glibc gives every large buffer back to the system and maps it anew, a quarter of a step in page faults.
    ("MALLOC_MMAP_THRESHOLD_", "1000000000"),
    ("MALLOC_TRIM_THRESHOLD_", "1000000000"),
    ("MALLOC_TOP_PAD_", "67108864"),
    // and asks for large pages, where the system grants them on request.
    ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    // A record keeps the last words of a child that died; a backtrace would crowd them out.
    ("RUST_BACKTRACE", "0"),
];

/// The variables that say where the Hugging Face Hub and its cache are: those of Python's `huggingface_hub`, with the same
/// meaning, and those that name a proxy. One that is not UTF-8 is an error, whichever it is.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn hub_variables() -> Result<hub::Variables, hub::HubError> {
    let first = |names: &[&'static str]| {
        let found =
            names.iter().find_map(|name| Some((*name, std::env::var_os(name).filter(|text| !text.is_empty())?)));
        let Some((setting, text)) = found else { return Ok(None) };
        let refuse = |_| hub::HubError::Setting { setting, reason: "it is not UTF-8".into() };
        text.into_string().map(Some).map_err(refuse)
    };
    Ok(hub::Variables {
        hf_home: first(&["HF_HOME"])?,
        hf_hub_cache: first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])?,
        hf_endpoint: first(&["HF_ENDPOINT"])?,
        hf_token: first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])?,
        hf_token_path: first(&["HF_TOKEN_PATH"])?,
        hf_hub_offline: first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])?,
        hf_hub_download_timeout: first(&["HF_HUB_DOWNLOAD_TIMEOUT"])?,
        xdg_cache_home: first(&["XDG_CACHE_HOME"])?,
        home: first(&["HOME"])?,
        proxy: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?,
        no_proxy: first(&["NO_PROXY", "no_proxy"])?,
    })
}

/// Threads that [`THREADS`] asks for, if it is set to a number ≥ 1.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn threads() -> Option<usize> {
    std::env::var(THREADS).ok()?.parse().ok().filter(|&n| n > 0)
}

/// The folder for decoded images of all runs, `UFG_BENCH_CACHE`. Without it each run keeps its own, in its directory.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn image_cache() -> Option<std::path::PathBuf> {
    std::env::var_os("UFG_BENCH_CACHE").filter(|path| !path.is_empty()).map(Into::into)
}

/// The directory for imported datasets: `UFG_BENCH_DATA`, or `ufg-bench` in the user's data directory (`XDG_DATA_HOME`, or
/// `.local/share` in `HOME`).
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn data_directory() -> Option<std::path::PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(std::path::PathBuf::from);
    let shared = || folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
    folder("UFG_BENCH_DATA").or_else(|| shared().map(|shared| shared.join("ufg-bench")))
}
