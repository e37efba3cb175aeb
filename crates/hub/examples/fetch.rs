//! Fetches one file, for `ci/hub-faithful`: `fetch ENDPOINT CACHE model|dataset REPO REVISION FILE [offline]` prints
//! path, SHA-256 and the bytes that came.

use std::io::Write;

use hub::{Hub, HubFile, Repo, Settings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, cache, kind, repo, revision, file, rest @ ..] = arguments.as_slice() else {
        return Err("usage: fetch ENDPOINT CACHE model|dataset REPO REVISION FILE [offline]".into());
    };
    let repo = if kind == "dataset" { Repo::dataset(repo)? } else { Repo::model(repo)? };
    let settings = Settings {
        endpoint: endpoint.clone(),
        offline: rest.first().is_some_and(|word| word == "offline"),
        ..Settings::with_cache(cache)
    };
    let fetched = Hub::new(settings)?.fetch(&HubFile::new(repo, revision, file)?, None, &mut |_| {})?;
    writeln!(std::io::stdout(), "{} {} {}", fetched.path.display(), fetched.sha256, fetched.received)?;
    Ok(())
}
