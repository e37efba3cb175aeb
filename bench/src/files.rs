//! Writing files so that a crash leaves the old one or the new one, never half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::ExpectedError;

/// Writes to a temporary name beside `path`, syncs and renames.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("file");
    let temporary = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The old file is untouched; what is left of the new one is of no use to anybody.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// [`write_atomically`], with the error that the command shows.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ExpectedError> {
    write_atomically(path, bytes).map_err(|source| ExpectedError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Creates a directory and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<(), ExpectedError> {
    fs::create_dir_all(path).map_err(|source| ExpectedError::File { action: "create", path: path.to_owned(), source })
}

/// Removes temporary files that a killed writer left in `dir`.
pub(crate) fn remove_leftovers(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if is_temporary(&name.to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// True for the names that [`write_atomically`] gives to files that it is writing.
fn is_temporary(name: &str) -> bool {
    let Some((rest, "part")) = name.rsplit_once('.') else {
        return false;
    };
    let Some((rest, id)) = rest.rsplit_once('.') else {
        return false;
    };
    rest.len() > 1 && rest.starts_with('.') && !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let onto_directory = dir.path().join("sub");
        fs::create_dir(&onto_directory).unwrap();
        assert!(write_atomically(&onto_directory, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
        fs::write(dir.path().join(".a.csv.1.part"), b"torn").unwrap();
        fs::write(dir.path().join(".my.data.part"), b"not ours").unwrap();
        remove_leftovers(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
