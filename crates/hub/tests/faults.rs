//! Everything that a server and a network do wrong: either the file comes whole and right in the end, or there is a
//! typed error, and never a bad file in the cache.

mod common;

use std::fs;
use std::time::Duration;

use common::{CONFIG, Place, SIZE, WEIGHTS, at, file, noise};
use hub::{Hub, HubError, HubFile, Progress, Reason, Repo, Token};
use testkit::hub_server::{Access, At, Fault, ServedRepo, What, sha256};

const LONG: Duration = Duration::from_secs(30);

fn server_error(status: u16) -> What {
    What::Status(status, vec![])
}

/// Faults that pass when they strike once: the file is right afterwards, and no byte comes twice unless it had to.
#[test]
fn what_passes_is_recovered_from() {
    let half = SIZE / 2;
    let cases: Vec<(&str, At, What)> = vec![
        ("closed at HEAD", At::Head, What::Closed),
        ("500 at HEAD", At::Head, server_error(500)),
        ("503 at HEAD", At::Head, server_error(503)),
        ("429 at HEAD", At::Head, What::Status(429, vec![("Retry-After", "0".into())])),
        ("closed at GET", At::Get, What::Closed),
        ("500 at GET", At::Get, server_error(500)),
        ("408 at GET", At::Get, server_error(408)),
        ("429 at GET", At::Get, What::Status(429, vec![("RateLimit", "\"api\";r=0;t=0".into())])),
        ("expired signature", At::Body, server_error(403)),
        ("404 of the other host", At::Body, server_error(404)),
        ("504 of the other host", At::Body, server_error(504)),
        ("closed at the body", At::Body, What::Closed),
        ("truncated at once", At::Body, What::Truncated(0)),
        ("truncated in the middle", At::Body, What::Truncated(half)),
        ("truncated at the last byte", At::Body, What::Truncated(SIZE - 1)),
        ("longer, and says so", At::Body, What::Longer(5)),
        ("shorter, and says so", At::Body, What::Longer(-5)),
        ("announces more", At::Body, What::Announced(5)),
        ("announces less", At::Body, What::Announced(-5)),
        ("flipped at the first byte", At::Body, What::Flipped(0)),
        ("flipped in the middle", At::Body, What::Flipped(half)),
        ("flipped at the last byte", At::Body, What::Flipped(SIZE - 1)),
        ("stalled at once", At::Body, What::Stalled(0, LONG)),
        ("stalled in the middle", At::Body, What::Stalled(half, LONG)),
        ("another ETag at GET", At::Get, What::Header("X-Linked-Etag", "\"other\"".into())),
    ];
    for (name, at, what) in cases {
        let place = Place::new();
        place.server.fault(Fault::once(at, what.clone()));
        let (result, told) = place.fetch(&file(WEIGHTS));
        let fetched = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        place.assert_right(&fetched);
        let tried_again = told.iter().any(|e| matches!(e, Progress::Retrying { .. } | Progress::Restarting));
        assert!(tried_again, "{name} was not noticed: {told:?}");
        // What was right of it is not sent again.
        let bodies = place.server.bodies();
        let (first, last) = (&bodies[0], bodies.last().unwrap());
        match what {
            What::Truncated(n) | What::Stalled(n, _) if n > 0 => {
                assert_eq!(last.range, Some(n as u64), "{name}");
                assert_eq!((first.sent, last.sent), (n as u64, (SIZE - n) as u64), "{name}");
            }
            What::Flipped(_) => assert_eq!(last.range, None, "{name}"),
            _ => {}
        }
    }
}

/// Faults that stay: a typed error that says what it was.
#[test]
fn what_stays_is_a_typed_error() {
    let exhausted = |error: &HubError, right: &dyn Fn(&Reason) -> bool| matches!(error, HubError::Exhausted { attempts: 4, reason, .. } if right(reason));
    type Check<'a> = Box<dyn Fn(&HubError) -> bool + 'a>;
    let cases: Vec<(&str, At, What, Check)> = vec![
        ("closed", At::Head, What::Closed, Box::new(|e| exhausted(e, &|r| matches!(r, Reason::Network(_))))),
        (
            "500",
            At::Head,
            server_error(500),
            Box::new(|e| exhausted(e, &|r| matches!(r, Reason::Server { status: 500, .. }))),
        ),
        (
            "503",
            At::Get,
            server_error(503),
            Box::new(|e| exhausted(e, &|r| matches!(r, Reason::Server { status: 503, .. }))),
        ),
        ("429", At::Head, server_error(429), Box::new(|e| exhausted(e, &|r| matches!(r, Reason::RateLimited { .. })))),
        ("stalled", At::Body, What::Stalled(0, LONG), Box::new(|e| exhausted(e, &|r| *r == Reason::Stalled))),
        (
            "truncated",
            At::Body,
            What::Truncated(0),
            Box::new(|e| {
                exhausted(e, &|r| matches!(r, Reason::Truncated { expected, received: 0 } if *expected == SIZE as u64))
            }),
        ),
        (
            "longer",
            At::Body,
            What::Longer(7),
            Box::new(|e| {
                exhausted(
                    e,
                    &|r| matches!(r, Reason::WrongSize { expected, found } if (*expected, *found) == (SIZE as u64, SIZE as u64 + 7)),
                )
            }),
        ),
        (
            "announces less",
            At::Body,
            What::Announced(-7),
            Box::new(|e| exhausted(e, &|r| matches!(r, Reason::WrongSize { .. }))),
        ),
        (
            "flipped",
            At::Body,
            What::Flipped(9),
            Box::new(|e| {
                let mut bytes = noise(1, SIZE);
                let right = sha256(&bytes);
                bytes[9] ^= 1;
                matches!(e, HubError::Checksum { algorithm: "SHA-256", expected, found, .. } if *expected == right && *found == sha256(&bytes))
            }),
        ),
        ("no commit", At::Head, What::Without("X-Repo-Commit"), Box::new(|e| matches!(e, HubError::Protocol { .. }))),
        (
            "an ETag that is a path",
            At::Head,
            What::Header("X-Linked-Etag", "\"../../escape\"".into()),
            Box::new(|e| matches!(e, HubError::Protocol { .. })),
        ),
        (
            "a size that is none",
            At::Head,
            What::Header("X-Linked-Size", "many".into()),
            Box::new(|e| matches!(e, HubError::Protocol { .. })),
        ),
        ("an odd status", At::Head, server_error(418), Box::new(|e| matches!(e, HubError::Protocol { .. }))),
        (
            "redirects without end",
            At::Head,
            What::Status(302, vec![("Location", "/a/resolve/b".into())]),
            Box::new(|e| exhausted(e, &|r| matches!(r, Reason::Odd(_)))),
        ),
    ];
    for (name, at, what, right) in cases {
        let place = Place::new();
        place.server.fault(Fault::always(at, what));
        let error = place.fetch(&file(WEIGHTS)).0.unwrap_err();
        assert!(right(&error), "{name}: {error:?}");
        assert!(error.to_string().contains(WEIGHTS), "{name}: {error}");
        place.assert_no_bad_blob();
        assert!(!place.blob(&sha256(&place.bytes)).exists(), "{name}");
        assert!(!place.folder().join("snapshots").exists(), "{name}");
        assert!(place.offline().cached(&file(WEIGHTS), None).is_err(), "{name}");
    }
}

/// Small files are compared with git's digest.
#[test]
fn a_flipped_bit_of_a_small_file_is_found() {
    let place = Place::new();
    place.server.fault(Fault { at: At::Body, times: 2, what: What::Flipped(3) });
    let error = place.fetch(&file(CONFIG)).0.unwrap_err();
    assert!(matches!(&error, HubError::Checksum { algorithm: "git SHA-1", .. }), "{error}");
    place.assert_no_bad_blob();
    assert_eq!(place.fetch(&file(CONFIG)).0.unwrap().size, common::CONFIG_TEXT.len() as u64);
}

#[test]
fn what_is_not_there_is_said_to_be_what_it_is() {
    let place = Place::new();
    let result = |name: HubFile| place.hub().fetch(&name, None, &mut |_| {}).unwrap_err();
    assert!(matches!(result(file("model.bin")), HubError::FileNotFound { .. }));
    assert!(matches!(result(at("v2", WEIGHTS)), HubError::RevisionNotFound { .. }));
    assert!(matches!(result(at(&"0".repeat(40), WEIGHTS)), HubError::RevisionNotFound { .. }));
    let absent = HubFile::new(Repo::model("timm/absent").unwrap(), "main", WEIGHTS).unwrap();
    let error = result(absent.clone());
    assert!(matches!(&error, HubError::RepoNotFound { token: false, .. }));
    assert!(error.to_string().contains("HF_TOKEN is not set"), "{error}");
    let gated = ServedRepo::model("o/gated").small("a", b"x").access(Access::Gated("hf_right".into()));
    place.server.add(gated);
    let gated = HubFile::new(Repo::model("o/gated").unwrap(), "main", "a").unwrap();
    let error = result(gated.clone());
    assert!(matches!(&error, HubError::Unauthorised { token: false, gated: true, .. }));
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    let mut settings = place.settings();
    settings.token = Token::new("hf_wrong").unwrap();
    let hub = Hub::new(settings).unwrap();
    let error = hub.fetch(&gated, None, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, HubError::Unauthorised { token: true, gated: true, .. }));
    assert!(!error.to_string().contains("hf_wrong"));
    assert!(matches!(hub.fetch(&absent, None, &mut |_| {}), Err(HubError::RepoNotFound { token: true, .. })));
    place.server.fault(Fault::once(At::Head, server_error(403)));
    assert!(matches!(result(file(WEIGHTS)), HubError::Unauthorised { gated: false, .. }));
    assert_eq!(place.server.bodies().len(), 0, "none of this is tried again");
}

#[test]
fn nobody_listening_is_a_network_error() {
    let place = Place::new();
    let mut settings = place.settings();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    settings.endpoint = format!("http://127.0.0.1:{port}");
    let error = Hub::new(settings).unwrap().fetch(&file(WEIGHTS), None, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, HubError::Exhausted { reason: Reason::Network(_), attempts: 4, .. }), "{error:?}");
}

#[test]
fn the_pause_that_the_server_asks_for_is_kept_up_to_a_limit() {
    let place = Place::new();
    place.server.fault(Fault::once(At::Head, What::Status(503, vec![("Retry-After", "1".into())])));
    let (result, told) = place.fetch(&file(WEIGHTS));
    place.assert_right(&result.unwrap());
    let wait = Duration::from_secs(1);
    let reason = Reason::Server { status: 503, wait: Some(wait) };
    assert_eq!(told[0], Progress::Retrying { reason, pause: wait });
    let place = Place::new();
    place.server.fault(Fault::once(At::Head, What::Status(429, vec![("Retry-After", "3".into())])));
    let error = place.fetch(&file(WEIGHTS)).0.unwrap_err();
    assert!(matches!(&error, HubError::Exhausted { attempts: 1, reason: Reason::RateLimited { .. }, .. }), "{error:?}");
    assert!(error.to_string().contains("3 s"), "{error}");
}

/// Whatever part is there already, and whatever a server makes of being asked for the rest.
#[test]
fn parts_are_resumed_only_where_they_fit() {
    let n = SIZE / 3;
    let whole = |part: &dyn Fn(&[u8]) -> Vec<u8>, fault: Option<What>| {
        let place = Place::new();
        fs::create_dir_all(place.partial().parent().unwrap()).unwrap();
        fs::write(place.partial(), part(&place.bytes)).unwrap();
        fault.into_iter().for_each(|what| place.server.fault(Fault::once(At::Body, what)));
        let (result, told) = place.fetch(&file(WEIGHTS));
        place.assert_right(&result.unwrap());
        (place.server.bodies(), told)
    };
    let begun = |bytes: &[u8]| bytes[..n].to_vec();
    let (bodies, _) = whole(&begun, None);
    assert_eq!((bodies.len(), bodies[0].range, bodies[0].sent), (1, Some(n as u64), (SIZE - n) as u64));
    // All of it is there: nothing is sent.
    let (bodies, _) = whole(&|bytes| bytes.to_vec(), None);
    assert!(bodies.is_empty());
    // More than all of it.
    let (bodies, _) = whole(&|bytes| [bytes, b"more"].concat(), None);
    assert_eq!((bodies.len(), bodies[0].range), (1, None));
    // Something else: found by the digest, and brought anew.
    let (bodies, told) = whole(&|_| noise(2, n), None);
    assert_eq!((bodies[0].range, bodies[1].range), (Some(n as u64), None));
    assert!(told.contains(&Progress::Restarting));
    // A server that ignores, misplaces or refuses the range.
    let (bodies, told) = whole(&begun, Some(What::Unranged));
    assert_eq!((bodies.len(), bodies[0].status, bodies[0].sent), (1, 200, SIZE as u64));
    assert!(!told.contains(&Progress::Restarting));
    whole(&begun, Some(What::Misplaced(5)));
    let (bodies, _) = whole(&begun, Some(What::Unsatisfiable));
    assert_eq!(bodies[0].range, None);
    whole(&begun, Some(What::Without("Content-Range")));
    whole(&begun, Some(What::Header("Content-Range", "bytes 0-9/10".into())));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named_and_passes() {
    let place = Place::new();
    fs::create_dir_all(place.partial().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.partial()).unwrap();
    let error = place.fetch(&file(WEIGHTS)).0.unwrap_err();
    let HubError::Disk { action: "write", path, source } = &error else { panic!("{error:?}") };
    assert_eq!((path, source.kind()), (&place.partial(), std::io::ErrorKind::StorageFull));
    assert_eq!(place.server.bodies().len(), 1, "a full disk is not tried again");
    fs::remove_file(place.partial()).unwrap();
    place.assert_right(&place.fetch(&file(WEIGHTS)).0.unwrap());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::new();
    fs::write(place.folder(), "in the way").unwrap();
    let error = place.fetch(&file(WEIGHTS)).0.unwrap_err();
    assert!(matches!(&error, HubError::Disk { .. }), "{error:?}");
    assert!(error.to_string().contains("models--timm--leaf.in1k"), "{error}");
}
