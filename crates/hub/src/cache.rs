//! The cache's folders and files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo};

use crate::names::is_commit;
use crate::{HubError, Progress, Repo, Result};

/// What tells backup programs to leave a folder out (the Cache Directory Tagging Specification).
const TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag created by ufg-bench.\n";

/// The part of the cache that belongs to one repository.
pub(crate) struct RepoCache {
    root: PathBuf,
    name: String,
    names: CacheRepo,
}

/// A file that is in the cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its path in `snapshots`.
    pub(crate) path: PathBuf,
    /// The ETag in the name of the blob that it links to. None where the file system has no links.
    pub(crate) etag: Option<String>,
}

fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Disk { action, path, source }
}

/// Creates the folder that is to hold a file.
fn make_room(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(disk("create", folder))
}

impl RepoCache {
    pub(crate) fn new(root: &Path, repo: &Repo) -> Self {
        let named = repo.named();
        let name = named.folder_name();
        Self { root: root.to_owned(), name, names: Cache::new(root.to_owned()).repo(named) }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.names.blob_path(etag)
    }

    /// Where a blob grows.
    pub(crate) fn partial(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.incomplete"))
    }

    fn pointer(&self, commit: &str, path: &str) -> PathBuf {
        self.names.pointer_path(commit).join(path)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder().join("refs").join(revision)
    }

    /// The commit that a revision was when it was last looked up; a commit is itself.
    pub(crate) fn commit_of(&self, revision: &str) -> Result<Option<String>> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.reference(revision);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|commit| is_commit(commit))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => Ok(None),
            Err(source) => Err(HubError::Disk { action: "read", path, source }),
        }
    }

    /// A file of a commit, if it is there.
    pub(crate) fn find(&self, commit: &str, path: &str) -> Result<Option<Found>> {
        let path = self.pointer(commit, path);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                let target = fs::read_link(&path).ok();
                let etag = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
                Ok(Some(Found { etag: etag.map(str::to_owned), path }))
            }
            Ok(_) => {
                let source = io::Error::new(io::ErrorKind::IsADirectory, "it is no file");
                Err(HubError::Disk { action: "read", path, source })
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(source) => Err(HubError::Disk { action: "read", path, source }),
        }
    }

    /// Takes the lock of a blob, waiting for whoever holds it. It is let go when the file is dropped.
    pub(crate) fn lock(&self, etag: &str, progress: &mut dyn FnMut(Progress)) -> Result<File> {
        let path = self.root.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        make_room(&path)?;
        make_room(&self.blob(etag))?;
        let tag = self.root.join("CACHEDIR.TAG");
        if !tag.exists() {
            // A courtesy to backup programs: a cache without it works as well.
            let _ = fs::write(tag, TAG);
        }
        loop {
            let open = OpenOptions::new().create(true).append(true).open(&path);
            let file = open.map_err(disk("open", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    progress(Progress::Waiting);
                    file.lock().map_err(disk("lock", &path))?;
                }
                Err(TryLockError::Error(source)) => return Err(disk("lock", &path)(source)),
            }
            if is_still(&file, &path) {
                return Ok(file);
            }
        }
    }

    /// Moves a verified part to its name.
    pub(crate) fn accept(&self, etag: &str) -> Result<()> {
        let (from, to) = (self.partial(etag), self.blob(etag));
        fs::rename(&from, &to).map_err(disk("move into the cache", &from))?;
        sync_folder(&to)
    }

    /// Makes a file of a commit a link to its blob.
    pub(crate) fn point(&self, commit: &str, path: &str, etag: &str) -> Result<PathBuf> {
        let pointer = self.pointer(commit, path);
        make_room(&pointer)?;
        let up = "../".repeat(1 + path.split('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        match link(&target, &self.blob(etag), &pointer) {
            Ok(()) => {}
            // Whoever was quicker made the same link; a link that leads nowhere or elsewhere is replaced.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_link(&pointer).ok().as_deref() != Some(&target) || !pointer.exists() {
                    fs::remove_file(&pointer).map_err(disk("remove", &pointer))?;
                    link(&target, &self.blob(etag), &pointer).map_err(disk("link", &pointer))?;
                }
            }
            Err(source) => return Err(HubError::Disk { action: "link", path: pointer, source }),
        }
        Ok(pointer)
    }

    /// Remembers which commit a branch or tag is.
    pub(crate) fn refer(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit_of(revision)?.as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference(revision);
        make_room(&path)?;
        write_whole(&path, commit.as_bytes())
    }
}

/// True if the path still names the open file: somebody may have removed it before the lock was granted.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_still(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(unix)]
fn link(target: &Path, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::hard_link(blob, pointer)
}

/// Makes a rename last.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    let synced = if cfg!(unix) { File::open(folder).and_then(|folder| folder.sync_all()) } else { Ok(()) };
    synced.map_err(disk("sync", folder))
}

/// Writes to a temporary name beside `path`, syncs and renames.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What was there before is untouched.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(disk("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn links_are_relative_and_lead_to_the_blob() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), &Repo::dataset("o/n").unwrap());
        drop(cache.lock("e", &mut |_| {}).unwrap());
        fs::write(cache.partial("e"), "x").unwrap();
        cache.accept("e").unwrap();
        for (path, target) in [("a", "../../blobs/e"), ("b/c/d", "../../../../blobs/e")] {
            assert_eq!(cache.find(COMMIT, path).unwrap(), None);
            let pointer = cache.point(COMMIT, path, "e").unwrap();
            assert_eq!(pointer, dir.path().join("datasets--o--n/snapshots").join(COMMIT).join(path));
            assert_eq!(fs::read_link(&pointer).unwrap(), Path::new(target));
            let found = cache.find(COMMIT, path).unwrap().unwrap();
            assert_eq!(found, Found { path: pointer.clone(), etag: Some("e".into()) });
            assert_eq!(fs::read(&found.path).unwrap(), b"x");
            cache.point(COMMIT, path, "e").unwrap();
            // A link that leads nowhere is replaced.
            fs::remove_file(&pointer).unwrap();
            std::os::unix::fs::symlink("nowhere", &pointer).unwrap();
            assert_eq!(cache.find(COMMIT, path).unwrap(), None);
            cache.point(COMMIT, path, "e").unwrap();
            assert_eq!(fs::read(&pointer).unwrap(), b"x");
        }
        assert!(dir.path().join("CACHEDIR.TAG").is_file());
    }

    #[test]
    fn references_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), &Repo::model("o/n").unwrap());
        assert_eq!(cache.commit_of("main").unwrap(), None);
        assert_eq!(cache.commit_of(COMMIT).unwrap().as_deref(), Some(COMMIT));
        cache.refer("refs/pr/1", COMMIT).unwrap();
        let path = dir.path().join("models--o--n/refs/refs/pr/1");
        assert_eq!(fs::read_to_string(&path).unwrap(), COMMIT);
        assert_eq!(cache.commit_of("refs/pr/1").unwrap().as_deref(), Some(COMMIT));
        assert_eq!(cache.commit_of("refs/pr").unwrap(), None);
        fs::write(path, "torn").unwrap();
        assert_eq!(cache.commit_of("refs/pr/1").unwrap(), None);
    }

    #[test]
    fn the_lock_is_waited_for_and_outlives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), &Repo::model("o/n").unwrap());
        let held = cache.lock("e", &mut |_| panic!("nobody holds it")).unwrap();
        let path = dir.path().join(".locks/models--o--n/e.lock");
        // Another program may remove the file: the next one makes a new one and is not held up.
        fs::remove_file(&path).unwrap();
        let second = cache.lock("e", &mut |_| panic!("the new file is free")).unwrap();
        drop(held);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cache.lock("e", &mut |event| sender.send(event).unwrap()).unwrap());
            assert_eq!(receiver.recv().unwrap(), Progress::Waiting);
            assert!(!waiting.is_finished());
            drop(second);
            waiting.join().unwrap();
        });
    }
}
