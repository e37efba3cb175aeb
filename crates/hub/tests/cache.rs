//! Fetching, finding and pinning, where nothing goes wrong; and the layout that Python has.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::{CONFIG, CONFIG_TEXT, Place, REPO, SIZE, WEIGHTS, at, file, noise, settings};
use hub::{Hub, HubError, HubFile, Pin, Pins, Progress, Repo, Settings, Token};
use testkit::hub_server::{Access, Host, HubServer, ServedRepo, git_sha1, sha256};

#[test]
fn a_file_comes_once_and_lies_where_python_has_it() {
    let place = Place::new();
    let (fetched, told) = place.fetch(&file(WEIGHTS));
    let fetched = fetched.unwrap();
    place.assert_right(&fetched);
    assert_eq!((fetched.commit.as_str(), fetched.received), (place.commit.as_str(), SIZE as u64));
    let total = Some(SIZE as u64);
    assert_eq!(told, [Progress::Started { done: 0, total }, Progress::Verifying]);
    let etag = sha256(&place.bytes);
    let pointer = place.folder().join("snapshots").join(&place.commit).join(WEIGHTS);
    assert_eq!(fetched.path, pointer);
    assert_eq!(fs::read_link(&pointer).unwrap(), Path::new("../../blobs").join(&etag));
    assert_eq!(fs::read_to_string(place.folder().join("refs/main")).unwrap(), place.commit);
    assert!(place.dir.path().join(format!(".locks/models--timm--leaf.in1k/{etag}.lock")).is_file());
    // A small file is named by git's digest and comes from the Hub itself.
    let config = place.fetch(&file(CONFIG)).0.unwrap();
    assert_eq!(fs::read(&config.path).unwrap(), CONFIG_TEXT);
    assert!(place.blob(&git_sha1(CONFIG_TEXT)).is_file());
    // Again: the branch is looked up, nothing is sent.
    let before = place.server.sent();
    let again = place.fetch(&file(WEIGHTS)).0.unwrap();
    assert_eq!((again.path, again.received), (fetched.path.clone(), 0));
    assert_eq!(place.server.sent(), before);
    // At the commit not even that.
    let requests = place.server.seen().len();
    assert_eq!(place.fetch(&at(&place.commit, WEIGHTS)).0.unwrap().path, fetched.path);
    assert_eq!(place.server.seen().len(), requests);
}

#[test]
fn tags_and_new_commits_share_blobs() {
    let place = Place::new();
    let first = place.fetch(&file(WEIGHTS)).0.unwrap();
    let next = ServedRepo::model(REPO).small(CONFIG, b"{}").large(WEIGHTS, &place.bytes);
    let commit = place.server.add(next);
    let second = place.fetch(&file(WEIGHTS)).0.unwrap();
    assert_ne!(first.commit, second.commit);
    assert_eq!((second.commit.as_str(), second.received), (commit.as_str(), 0));
    assert_eq!(fs::read_to_string(place.folder().join("refs/main")).unwrap(), commit);
    let tagged = place.fetch(&at("v1.0", CONFIG)).0.unwrap();
    assert_eq!(tagged.commit, first.commit);
    assert_eq!(fs::read(tagged.path).unwrap(), CONFIG_TEXT);
    assert_eq!(fs::read(place.fetch(&file(CONFIG)).0.unwrap().path).unwrap(), b"{}");
}

#[test]
fn data_sets_files_in_folders_and_empty_files_come_too() {
    let server = HubServer::start().unwrap();
    let bytes = noise(3, 1000);
    server.add(ServedRepo::dataset("o/n").large("data/a b.parquet", &bytes).small("empty", b""));
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(settings(dir.path(), &server.endpoint())).unwrap();
    let repo = Repo::dataset("o/n").unwrap();
    let name = HubFile::new(repo.clone(), "main", "data/a b.parquet").unwrap();
    let fetched = hub.fetch(&name, None, &mut |_| {}).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), bytes);
    assert!(fetched.path.starts_with(dir.path().join("datasets--o--n/snapshots")));
    let target = fs::read_link(&fetched.path).unwrap();
    assert_eq!(target, Path::new("../../../blobs").join(sha256(&bytes)));
    let empty = hub.fetch(&HubFile::new(repo, "main", "empty").unwrap(), None, &mut |_| {}).unwrap();
    assert_eq!((empty.size, fs::read(&empty.path).unwrap().len()), (0, 0));
    // A repository of weights of the same id is another one.
    let model = HubFile::new(Repo::model("o/n").unwrap(), "main", "empty").unwrap();
    assert!(matches!(hub.fetch(&model, None, &mut |_| {}), Err(HubError::RepoNotFound { token: false, .. })));
}

/// The layout by hand, as Python's library leaves it.
#[test]
fn what_python_downloaded_is_used() {
    let place = Place::new();
    let (etag, small) = (sha256(&place.bytes), git_sha1(CONFIG_TEXT));
    let snapshot = place.folder().join("snapshots").join(&place.commit);
    fs::create_dir_all(place.folder().join("blobs")).unwrap();
    fs::create_dir_all(place.folder().join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(place.blob(&etag), &place.bytes).unwrap();
    fs::write(place.blob(&small), CONFIG_TEXT).unwrap();
    symlink(format!("../../blobs/{etag}"), snapshot.join(WEIGHTS)).unwrap();
    symlink(format!("../../blobs/{small}"), snapshot.join(CONFIG)).unwrap();
    fs::write(place.folder().join("refs/main"), &place.commit).unwrap();
    for hub in [place.offline(), place.hub()] {
        for (path, content) in [(WEIGHTS, place.bytes.as_slice()), (CONFIG, CONFIG_TEXT)] {
            let fetched = hub.fetch(&file(path), None, &mut |_| {}).unwrap();
            assert_eq!((fetched.path, fetched.sha256), (snapshot.join(path), sha256(content)));
        }
    }
    assert_eq!(place.server.sent(), 0);
    // A blob without its link: the link is made, nothing is sent.
    fs::remove_file(snapshot.join(WEIGHTS)).unwrap();
    let fetched = place.fetch(&file(WEIGHTS)).0.unwrap();
    assert_eq!((fetched.path, fetched.received), (snapshot.join(WEIGHTS), 0));
    // A copy instead of a link, as on systems without links.
    fs::remove_file(snapshot.join(WEIGHTS)).unwrap();
    fs::write(snapshot.join(WEIGHTS), &place.bytes).unwrap();
    assert_eq!(place.offline().cached(&file(WEIGHTS), None).unwrap().sha256, etag);
    // A blob that leads into a store which several caches share.
    let store = place.dir.path().join("store");
    fs::rename(place.blob(&etag), &store).unwrap();
    symlink(&store, place.blob(&etag)).unwrap();
    fs::remove_file(snapshot.join(WEIGHTS)).unwrap();
    symlink(format!("../../blobs/{etag}"), snapshot.join(WEIGHTS)).unwrap();
    assert_eq!(place.offline().cached(&file(WEIGHTS), None).unwrap().sha256, etag);
    assert_eq!(place.server.sent(), 0);
}

#[test]
fn offline_there_is_what_the_cache_has() {
    let place = Place::new();
    let error = place.offline().fetch(&file(WEIGHTS), None, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, HubError::NotCached { cache, .. } if cache == place.dir.path()));
    assert!(place.server.seen().is_empty());
    place.fetch(&file(WEIGHTS)).0.unwrap();
    let requests = place.server.seen().len();
    let found = place.offline().fetch(&file(WEIGHTS), None, &mut |_| {}).unwrap();
    place.assert_right(&found);
    let error = place.offline().fetch(&file(CONFIG), None, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, HubError::NotCached { .. }));
    assert!(error.to_string().contains(CONFIG), "{error}");
    assert!(matches!(place.offline().cached(&at("v1.0", WEIGHTS), None), Err(HubError::NotCached { .. })));
    assert_eq!(place.server.seen().len(), requests);
}

#[test]
fn a_damaged_file_in_the_cache_is_found() {
    let place = Place::new();
    let fetched = place.fetch(&file(WEIGHTS)).0.unwrap();
    let mut bytes = place.bytes.clone();
    bytes[SIZE / 2] ^= 4;
    fs::write(&fetched.path, &bytes).unwrap();
    for result in [place.fetch(&file(WEIGHTS)).0, place.offline().cached(&file(WEIGHTS), None)] {
        let error = result.unwrap_err();
        let HubError::CacheDamaged { path, expected, found, .. } = &error else { panic!("{error}") };
        assert_eq!(path, &place.blob(&sha256(&place.bytes)).canonicalize().unwrap());
        assert_eq!((expected, found), (&sha256(&place.bytes), &sha256(&bytes)));
    }
}

#[test]
fn a_pin_holds_whatever_the_branch_becomes() {
    let place = Place::new();
    let lock = place.dir.path().join("bench.lock");
    let pin = place.fetch(&file(WEIGHTS)).0.unwrap().pin();
    Pins::add(&lock, &[(file(WEIGHTS), pin.clone())]).unwrap();
    place.server.add(ServedRepo::model(REPO).large(WEIGHTS, b"something else"));
    // Another cache: the pinned commit is asked for.
    let fresh = tempfile::tempdir().unwrap();
    let hub = Hub::new(settings(fresh.path(), &place.server.endpoint())).unwrap();
    let pins = Pins::read(&lock).unwrap();
    let fetched = hub.fetch(&file(WEIGHTS), pins.get(&file(WEIGHTS)), &mut |_| {}).unwrap();
    assert_eq!(fetched.pin(), pin);
    // Offline too, although there is no reference for the branch.
    let offline = Hub::new(Settings { offline: true, ..hub.settings().clone() }).unwrap();
    let found = offline.fetch(&file(WEIGHTS), Some(&pin), &mut |_| {}).unwrap();
    assert_eq!((found.pin(), found.path, found.received), (pin, fetched.path, 0));
    // Without the pin it is the new content.
    assert_eq!(hub.fetch(&file(WEIGHTS), None, &mut |_| {}).unwrap().sha256, sha256(b"something else"));
}

#[test]
fn another_content_than_the_pinned_one_is_refused_before_and_after_it_is_there() {
    let place = Place::new();
    let pin = |sha256: String| Pin { commit: place.commit.clone(), sha256, size: SIZE as u64 };
    let wrong = pin("0".repeat(64));
    let error = place.hub().fetch(&file(WEIGHTS), Some(&wrong), &mut |_| {}).unwrap_err();
    let HubError::PinMismatch { pinned, found, .. } = &error else { panic!("{error}") };
    assert_eq!((pinned, found), (&wrong.sha256, &sha256(&place.bytes)));
    assert_eq!(place.server.sent(), 0, "the Hub's own digest was enough to tell");
    // A small file's digest is only known when it is there; it is thrown away.
    let error = place.hub().fetch(&file(CONFIG), Some(&wrong), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, HubError::PinMismatch { found, .. } if *found == sha256(CONFIG_TEXT)));
    assert!(!place.blob(&git_sha1(CONFIG_TEXT)).exists());
    // In the cache.
    place.fetch(&file(WEIGHTS)).0.unwrap();
    for result in [
        place.hub().fetch(&file(WEIGHTS), Some(&wrong), &mut |_| {}),
        place.offline().cached(&file(WEIGHTS), Some(&wrong)),
    ] {
        assert!(matches!(result, Err(HubError::PinMismatch { .. })));
    }
    place.assert_right(&place.offline().cached(&file(WEIGHTS), Some(&pin(sha256(&place.bytes)))).unwrap());
}

#[test]
fn the_token_goes_to_the_endpoint_alone() {
    let place = Place::new();
    let repo = ServedRepo::model("o/private").small("s", b"small").large("l", &place.bytes);
    place.server.add(repo.access(Access::Private("hf_right".to_owned())));
    let mut settings = place.settings();
    settings.token = Token::new("hf_right").unwrap();
    let hub = Hub::new(settings).unwrap();
    for path in ["s", "l"] {
        let name = HubFile::new(Repo::model("o/private").unwrap(), "main", path).unwrap();
        hub.fetch(&name, None, &mut |_| {}).unwrap();
    }
    let seen = place.server.seen();
    assert!(seen.iter().any(|request| request.host == Host::Other));
    for request in seen {
        let sent = request.authorization.as_deref() == Some("Bearer hf_right");
        assert_eq!(sent, request.host == Host::Hub, "{request:?}");
    }
}
