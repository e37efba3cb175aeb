//! Damaged files on which the parquet library panics: an error, and not a word of the panic. A test alone in its process,
//! because a panic hook is the whole process's.

use std::panic;
use std::path::Path;
use std::sync::Mutex;

use datasets::{DatasetConfig, DatasetError, ExportOptions, ParquetConfig, Subset, decode};
use random::{Axis, Seeds};

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Reads everything of a parquet file.
fn read(path: &Path) -> Result<usize, DatasetError> {
    let config = DatasetConfig::Parquet(ParquetConfig { path: path.to_owned() });
    let set = datasets::load("set", &config, Path::new(""))?;
    set.train.iter().chain(&set.test).try_fold(0, |sum, item| Ok(sum + decode(item)?.data.len()))
}

#[test]
fn a_panic_of_the_parquet_library_is_an_error_and_says_nothing() {
    panic::set_hook(Box::new(|info| HEARD.lock().unwrap().push(info.to_string())));
    let dir = tempfile::tempdir().unwrap();
    let options = ExportOptions {
        out: dir.path().to_owned(),
        classes: Some(3),
        size: 16,
        seed: 1,
        parquet: true,
        archive: false,
        validation: true,
        paths: false,
    };
    let file = datasets::export(Subset::SoyLocal, &options, &mut |_, _| {}).unwrap().remove(0);
    let whole = std::fs::read(&file).unwrap();
    let path = dir.path().join("damaged.parquet");
    let mut panics = 0;
    for number in 0..1500 {
        let mut stream = Seeds::new(number).named_stream(Axis::Test, "fence");
        let mut bytes = whole.clone();
        // The footer is what the library believes.
        for _ in 0..=stream.below(3) {
            let at = bytes.len() - 1 - stream.below(1500);
            bytes[at] = stream.below(256) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        if read(&path).is_err_and(|error| error.to_string().contains("it is damaged (")) {
            panics += 1;
        }
    }
    assert!(panics >= 3, "only {panics} of the files make the library panic: the test shows nothing");
    assert_eq!(HEARD.lock().unwrap().clone(), [""; 0], "{panics} panics");

    // A panic anywhere else is heard as before: on this thread outside the fence, and on another one at any time.
    assert!(panic::catch_unwind(|| panic!("ours")).is_err());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(read(&file).is_ok());
            }
        });
        for number in 0..200 {
            assert!(panic::catch_unwind(|| panic!("theirs {number}")).is_err());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let heard = HEARD.lock().unwrap().clone();
    assert_eq!((heard.len(), heard.iter().filter(|text| text.contains("theirs")).count()), (201, 200), "{heard:?}");
}
