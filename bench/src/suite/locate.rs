//! Where suites are found: embedded in the binary, in the folder `suites`, or at a path.

use std::path::{Path, PathBuf};

use super::SuiteError;

/// Suites that the binary carries, so that it runs anywhere.
const EMBEDDED: &[(&str, &str)] = &[("ufg-smoke", include_str!("../../../suites/ufg-smoke.toml"))];

/// The folder in which suites are looked up by name.
const FOLDER: &str = "suites";

/// A suite file that was found.
pub(crate) struct SuiteFile {
    /// Name of the suite.
    pub(crate) name: String,
    /// What errors call the file.
    pub(crate) label: String,
    /// Its text.
    pub(crate) text: String,
    /// Folder against which its relative paths are resolved.
    pub(crate) base: PathBuf,
}

/// Finds a suite: a path if it has a separator or ends in `.toml`; else a file of the folder `suites`, else an
/// embedded one.
pub(crate) fn find(name_or_path: &str) -> Result<SuiteFile, SuiteError> {
    let looks_like_path = name_or_path.ends_with(".toml") || name_or_path.contains(['/', '\\']);
    let path = if looks_like_path {
        PathBuf::from(name_or_path)
    } else {
        Path::new(FOLDER).join(format!("{name_or_path}.toml"))
    };
    if looks_like_path || path.is_file() {
        return read(&path);
    }
    let embedded = EMBEDDED.iter().find(|(name, _)| *name == name_or_path);
    let (name, text) = embedded.ok_or_else(|| SuiteError::Unknown {
        name: name_or_path.into(),
        available: available().into_iter().map(|(name, _)| name).collect(),
    })?;
    Ok(SuiteFile {
        name: (*name).into(),
        label: format!("{name}.toml (embedded)"),
        text: (*text).into(),
        base: PathBuf::from("."),
    })
}

fn read(path: &Path) -> Result<SuiteFile, SuiteError> {
    let text = std::fs::read_to_string(path).map_err(|source| SuiteError::Read { path: path.to_owned(), source })?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or("suite").to_owned();
    let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    Ok(SuiteFile { name, label: path.display().to_string(), text, base })
}

/// Names of the suites that can be given by name, and where each is.
pub(crate) fn available() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> =
        EMBEDDED.iter().map(|(name, _)| ((*name).to_owned(), "embedded".to_owned())).collect();
    for entry in std::fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|e| e == "toml") {
            found.retain(|(other, _)| *other != name);
            found.push((name, path.display().to_string()));
        }
    }
    found.sort();
    found
}
