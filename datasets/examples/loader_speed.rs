//! View pairs per second of the loader, for `ci/peers/loader`:
//! `cargo run -p datasets --example loader_speed -- FILE.parquet SIZE [--workers 2] [--batch 16] [--epochs 5] [--cache DIR]`.
//!
//! Prints `work,images_per_s`: the first epoch, in which all images are decoded and the cache is built, and the median of
//! the later ones. On stderr the memory at its highest, without the mapped file. With `--cache` the file stays there.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the figures are what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use datasets::{
    AugmentConfig, DatasetConfig, DecodedSet, Filter, Fit, Item, Loader, Normalise, ParquetConfig, Resize, TrainPlan,
    WantViews, batches, epoch_order,
};
use random::Seeds;

struct Arguments {
    file: PathBuf,
    size: usize,
    workers: usize,
    batch: usize,
    epochs: u64,
    cache: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut found = Self { file: PathBuf::new(), size: 0, workers: 2, batch: 16, epochs: 5, cache: None };
        let mut plain = Vec::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                plain.push(word);
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--workers" => found.workers = value.parse()?,
                "--batch" => found.batch = value.parse()?,
                "--epochs" => found.epochs = value.parse()?,
                "--cache" => found.cache = Some(value.into()),
                _ => return Err(format!("unknown argument {word}").into()),
            }
        }
        let [file, size] = plain.as_slice() else {
            return Err(
                "usage: loader_speed FILE.parquet SIZE [--workers N] [--batch N] [--epochs N] [--cache DIR]".into()
            );
        };
        found.file = file.into();
        found.size = size.parse()?;
        if found.size == 0 || found.workers == 0 || found.batch == 0 || found.epochs == 0 {
            return Err("SIZE, --workers, --batch and --epochs are at least 1".into());
        }
        Ok(found)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse()?;
    let config = DatasetConfig::Parquet(ParquetConfig { path: arguments.file.clone() });
    let items = datasets::load("peer", &config, Path::new(""))?.train;
    let (folder, temporary) = match &arguments.cache {
        Some(folder) => (folder.clone(), None),
        None => {
            let folder = tempfile::tempdir()?;
            (folder.path().to_owned(), Some(folder))
        }
    };
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(arguments.workers).build()?);
    // Short side 256: what the photographs have, and what the random crops are taken from.
    let working = Resize { size: 256, fit: Fit::ShortSide, filter: Filter::Bilinear };
    let start = Instant::now();
    let set = Arc::new(pool.install(|| open(&items, working, &folder))?);
    let mut rates = Vec::new();
    for epoch in 0..=arguments.epochs {
        let began = if epoch == 0 { start } else { Instant::now() };
        let images = run_epoch(&set, &arguments, epoch, &pool)?;
        rates.push(images as f64 / began.elapsed().as_secs_f64());
    }
    let name = format!("loader {} view pairs workers={}", arguments.size, arguments.workers);
    println!("work,images_per_s\n{name} first epoch,{:.1}", rates[0]);
    rates.remove(0);
    rates.sort_by(f64::total_cmp);
    println!("{name},{:.1}", rates[rates.len() / 2]);
    let mapped = set.mapped() as f64 / 1e6;
    eprintln!("memory: {} MB beside the mapped file of {mapped:.0} MB", anonymous_mb());
    drop(temporary);
    Ok(())
}

fn open(items: &[Item], working: Resize, folder: &Path) -> Result<DecodedSet, datasets::DatasetError> {
    DecodedSet::cached(items, working, folder, &mut |_| ())
}

fn run_epoch(
    set: &Arc<DecodedSet>,
    arguments: &Arguments,
    epoch: u64,
    pool: &Arc<rayon::ThreadPool>,
) -> Result<usize, datasets::DatasetError> {
    let seeds = Seeds::new(42);
    let plan = TrainPlan {
        augment: AugmentConfig::default(),
        size: arguments.size,
        norm: Normalise::default(),
        seeds,
        epoch,
        want: WantViews { positive: true, teacher: false },
    };
    let batches = batches(&epoch_order(seeds, epoch, set.len()), arguments.batch, false);
    let mut images = 0;
    for batch in Loader::new(Arc::clone(set), batches, plan, Some(Arc::clone(pool))) {
        images += batch?.labels.len();
    }
    Ok(images)
}

/// Memory at its highest in MB, less the pages of files as they are now, where the system tells it.
fn anonymous_mb() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let peak = field("VmHWM").zip(field("RssFile")).map(|(all, files)| (all - files) * 1024.0 / 1e6);
    peak.map_or_else(|| "?".into(), |mb| format!("{mb:.0}"))
}
