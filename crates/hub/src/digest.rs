//! Digests of files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::names::is_hex;
use crate::{HubError, Result};

/// Bytes read at a time.
const CHUNK: usize = 1 << 18;

/// What an ETag says of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// The file's SHA-256: large files.
    Sha256,
    /// git's name of the file, SHA-1 over `blob <size>\0` and the content: small files.
    GitSha1,
    /// Nothing.
    None,
}

impl Algorithm {
    /// Read off the form of an ETag.
    pub(crate) fn of_etag(etag: &str) -> Self {
        match etag.len() {
            64 if is_hex(etag) => Algorithm::Sha256,
            40 if is_hex(etag) => Algorithm::GitSha1,
            _ => Algorithm::None,
        }
    }
}

/// The digests of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) size: u64,
    pub(crate) sha256: String,
    git_sha1: Option<String>,
}

impl Digests {
    /// Reads the file through. git's digest is computed only where the ETag is one.
    pub(crate) fn of(path: &Path, etag: Option<&str>) -> Result<Self> {
        let git = etag.is_some_and(|etag| Algorithm::of_etag(etag) == Algorithm::GitSha1);
        Self::read(path, git).map_err(|source| HubError::Disk { action: "read", path: path.to_owned(), source })
    }

    fn read(path: &Path, git: bool) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut sha256 = Sha256::new();
        let mut sha1 = git.then(|| Sha1::new_with_prefix(format!("blob {size}\0")));
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            sha256.update(&buffer[..read]);
            if let Some(sha1) = &mut sha1 {
                sha1.update(&buffer[..read]);
            }
        }
        Ok(Self { size, sha256: hex(&sha256.finalize()), git_sha1: sha1.map(|sha1| hex(&sha1.finalize())) })
    }

    /// Compares with what an ETag says: name of the algorithm, expected and found digest where they differ.
    pub(crate) fn differ(&self, etag: &str) -> Option<(&'static str, String, String)> {
        let (name, found) = match Algorithm::of_etag(etag) {
            Algorithm::Sha256 => ("SHA-256", &self.sha256),
            Algorithm::GitSha1 => ("git SHA-1", self.git_sha1.as_ref()?),
            Algorithm::None => return None,
        };
        (found != etag).then(|| (name, etag.to_owned(), found.clone()))
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard_and_of_git() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        // `printf abc | git hash-object --stdin`
        let git = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";
        let digests = Digests::of(&path, Some(git)).unwrap();
        assert_eq!((digests.size, digests.sha256.as_str()), (3, sha256));
        assert_eq!(digests.differ(sha256), None);
        assert_eq!(digests.differ(git), None);
        assert_eq!(digests.differ("5-odd"), None);
        let other = git.replace('f', "0");
        assert_eq!(digests.differ(&other), Some(("git SHA-1", other.clone(), git.to_owned())));
        assert!(matches!(Digests::of(&dir.path().join("b"), None), Err(HubError::Disk { action: "read", .. })));
    }
}
