//! How much memory a parquet file of one's own takes: not that of its images. Counted where it is allocated, so this test
//! is alone in its process.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use datasets::{
    Dataset, DatasetConfig, DecodedSet, Filter, Fit, ImageSource, Item, ParquetConfig, Resize, decode_working,
    estimate_cache,
};
use parquet::basic::Compression;
use random::{Axis, Seeds};
use tables::{Layout, MIRROR, images, ints, texts, write};

#[path = "sources/tables.rs"]
#[allow(dead_code, reason = "shared with the tests of parquet files")]
mod tables;

/// The system's allocator, counting the bytes that are in use and the most that ever were.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        let used = USED.fetch_add(block.size(), Ordering::Relaxed) + block.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, block: Block) {
        USED.fetch_sub(block.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result, and the most bytes that were in use during the work, beyond those before it.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (result, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}

const ROWS: usize = 400;
const SIDE: u32 = 256;

/// A picture that packs no further, as BMP: 196,662 bytes.
fn noise(row: usize) -> Vec<u8> {
    let mut stream = Seeds::new(row as u64).named_stream(Axis::Test, "noise");
    let image = image::RgbImage::from_fn(SIDE, SIDE, |_, _| image::Rgb([0; 3].map(|_: u8| stream.below(256) as u8)));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
    bytes.into_inner()
}

/// 400 rows in one row group; every fourth is test, and classes alternate, so that the order of the items is not that of
/// the rows. The file's size.
fn written(path: &Path, compression: Compression) -> usize {
    let splits: Vec<&str> = (0..ROWS).map(|row| if row % 4 == 3 { "test" } else { "train" }).collect();
    let labels: Vec<i64> = (0..ROWS as i64).map(|row| row / 4 % 5).collect();
    let names: Vec<String> = labels.iter().map(|label| format!("class {label}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let columns = [images((0..ROWS).map(noise).collect()), ints(&labels), texts(&names), texts(&splits)];
    write(path, &Layout { group: ROWS, compression, dictionary: false, ..MIRROR }, &columns);
    std::fs::metadata(path).unwrap().len() as usize
}

fn load(path: &Path) -> Dataset {
    datasets::load("set", &DatasetConfig::Parquet(ParquetConfig { path: path.to_owned() }), Path::new("")).unwrap()
}

#[test]
fn a_parquet_file_of_ones_own_is_never_held() {
    let dir = tempfile::tempdir().unwrap();
    let working = Resize { size: 64, fit: Fit::ShortSide, filter: Filter::Bilinear };
    for (name, compression) in [("plain", Compression::UNCOMPRESSED), ("packed", Compression::SNAPPY)] {
        let path = dir.path().join(name);
        let size = written(&path, compression);
        assert!(size > 75_000_000, "{size}");
        let (set, loading) = peak_of(|| load(&path));
        let all = || set.train.iter().chain(&set.test);
        assert!(all().all(|item| matches!(item.image, ImageSource::Row { .. })));
        // 32 images of 0.2 MB at a time.
        assert!(loading < 20_000_000, "{name}: {loading} bytes to load {size}");

        let (estimate, estimating) = peak_of(|| estimate_cache(&set.train, working).unwrap());
        assert!(estimating < 30_000_000, "{name}: {estimating} bytes to estimate");
        let cache = dir.path().join(format!("{name}.cache"));
        let (mapped, building) = peak_of(|| DecodedSet::cached(&set.train, working, &cache, &mut |_| ()).unwrap());
        assert_eq!(mapped.mapped(), estimate);
        // 64 encoded images, and what two threads need to decode one each.
        assert!(building < 40_000_000, "{name}: {building} bytes to decode");

        // The pixels are those of the items, whatever order the file holds them in; and those of a set in memory.
        let memory = DecodedSet::new(&set.train, working).unwrap();
        let check = |k: usize, item: &Item| {
            let one = decode_working(item, working).unwrap();
            assert_eq!(mapped.image(k).unwrap(), one.as_ref(), "{name} {k}");
            assert_eq!(memory.image(k).unwrap(), one.as_ref(), "{name} {k}");
        };
        set.train.iter().enumerate().step_by(7).for_each(|(k, item)| check(k, item));
        set.train.iter().enumerate().rev().step_by(61).for_each(|(k, item)| check(k, item));
    }
}
