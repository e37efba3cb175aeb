//! Files that were changed at random: each is refused with a message, or is still what it should be.

use std::panic::{AssertUnwindSafe, catch_unwind};

use datasets::Subset;
use random::{Axis, Seeds, Stream};

use super::*;

const SUBSET: Subset = Subset::SoyLocal;
const MUTATIONS: u64 = 200;

/// One of the ways in which files are damaged on their way.
fn mutate(bytes: &[u8], stream: &mut Stream) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let at = stream.below(out.len());
    match stream.below(6) {
        // Some bits flip.
        0 => {
            for _ in 0..=stream.below(8) {
                let at = stream.below(out.len());
                out[at] ^= 1 << stream.below(8);
            }
        }
        // A byte of the directory or footer, which lies at the end, becomes another.
        1 => {
            for _ in 0..=stream.below(3) {
                let at = out.len() - 1 - stream.below(out.len().min(1500));
                out[at] = stream.below(256) as u8;
            }
        }
        2 => out.truncate(at),
        // A stretch is lost, doubled or overwritten with zeros.
        3 => {
            let end = (at + 1 + stream.below(200)).min(out.len());
            out.drain(at..end);
        }
        4 => {
            let end = (at + 1 + stream.below(200)).min(out.len());
            let again = out[at..end].to_vec();
            out.splice(end..end, again);
        }
        _ => {
            let end = (at + 1 + stream.below(4096)).min(out.len());
            out[at..end].fill(0);
        }
    }
    out
}

fn survive(kind: &str, source: &Path) -> (usize, usize) {
    let whole = fs::read(source).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let good = import_stand_in(source, &dir.path().join("good"), SUBSET).unwrap().dataset;
    let (mut refused, mut handled) = (0, 0);
    for number in 0..MUTATIONS {
        let place = dir.path().join(format!("m{number}"));
        fs::create_dir(&place).unwrap();
        let path = place.join(source.file_name().unwrap());
        let mut stream = Seeds::new(number).named_stream(Axis::Generate, &format!("damage {kind}"));
        fs::write(&path, mutate(&whole, &mut stream)).unwrap();
        let data = place.join("inside/data");
        let result = catch_unwind(AssertUnwindSafe(|| import_stand_in(&path, &data, SUBSET)))
            .unwrap_or_else(|_| panic!("{kind} {number}: a panic"));
        let beside: Vec<PathBuf> = files(&place).into_iter().filter(|f| !f.starts_with(&data) && f != &path).collect();
        assert_eq!(beside, [""; 0].map(PathBuf::from), "{kind} {number}: written outside");
        match result {
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                let name = path.file_name().unwrap().to_string_lossy();
                assert!(text.contains(&*name) || text.contains("line "), "{kind} {number} names no place: {text}");
                let left: Vec<PathBuf> =
                    files(&data).into_iter().filter(|f| f.extension().is_none_or(|e| e != "lock")).collect();
                assert_eq!(left, [""; 0].map(PathBuf::from), "{kind} {number}: {text}");
                assert!(!data.join("stand-ins/soylocal").exists(), "{kind} {number}: {text}");
            }
            Ok(imported) => {
                handled += 1;
                // What was changed does not matter, or made one image of the file another one of it.
                let told = imported.dataset.notices.iter().any(|notice| {
                    ["repeat another one", "are also train images", "under two classes"]
                        .iter()
                        .any(|w| notice.contains(w))
                });
                assert!(told || contents(&imported.dataset) == contents(&good), "{kind} {number}");
                assert!(imported.dataset.train.iter().all(|item| item.bytes().is_ok()));
            }
        }
        fs::remove_dir_all(&place).unwrap();
    }
    (refused, handled)
}

#[test]
fn two_hundred_damaged_parquet_files_and_as_many_archives() {
    let dir = tempfile::tempdir().unwrap();
    let (parquet, archive) = stand_in(SUBSET, &tiny(dir.path(), 4));
    for (kind, path) in [("parquet", parquet), ("archive", archive)] {
        let (refused, handled) = survive(kind, &path);
        assert_eq!(refused + handled, MUTATIONS as usize);
        assert!(refused > 100, "{kind}: only {refused} of the changes were noticed");
    }
}
