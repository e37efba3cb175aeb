//! `kill -9` while a file comes, and two processes at a time. The children are this very test program, told on its
//! standard input what to fetch.

mod common;

use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Place, WEIGHTS, file, settings};
use hub::Hub;
use random::{Axis, Seeds};
use testkit::hub_server::Pace;

/// Bytes of the file in these tests.
const SIZE: usize = 1_500_000;
const PACE: Pace = Pace { chunk: 8192, pause: Duration::from_micros(500) };

/// Not a test by itself: what a child does.
#[test]
#[ignore = "the child of the tests below; they tell it what to do"]
fn child() {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    let (endpoint, cache) = line.trim_end().split_once(' ').unwrap();
    let hub = Hub::new(settings(Path::new(cache), endpoint)).unwrap();
    hub.fetch(&file(WEIGHTS), None, &mut |_| {}).unwrap();
}

fn start(place: &Place) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let line = format!("{} {}\n", place.server.endpoint(), place.dir.path().display());
    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    child
}

#[track_caller]
fn finish(mut child: Child) {
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn after_a_kill_the_next_run_sends_the_rest_alone() {
    for seed in 0..20 {
        let place = Place::of_size(SIZE);
        place.server.pace(PACE);
        let mut stream = Seeds::new(seed).stream(Axis::Test, &[]);
        let moment = stream.range(1.0, (SIZE - 400_000) as f64) as u64;
        let mut child = start(&place);
        while place.server.sent() < moment {
            assert!(child.try_wait().unwrap().is_none(), "seed {seed}: it ended before the moment");
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let part = std::fs::metadata(place.partial()).map_or(0, |metadata| metadata.len());
        place.assert_no_bad_blob();
        assert!(place.offline().cached(&file(WEIGHTS), None).is_err(), "seed {seed}: half a file counts");
        finish(start(&place));
        let last = place.server.bodies().pop().unwrap();
        assert_eq!(last.range.unwrap_or(0), part, "seed {seed}");
        assert_eq!(last.sent, SIZE as u64 - part, "seed {seed}");
        assert!(part + 300_000 > moment, "seed {seed}: {part} bytes of {moment} were kept");
        place.assert_right(&place.offline().cached(&file(WEIGHTS), None).unwrap());
    }
}

#[test]
fn two_processes_bring_a_file_once() {
    let place = Place::of_size(SIZE);
    place.server.pace(PACE);
    let children = [start(&place), start(&place), start(&place)];
    children.into_iter().for_each(finish);
    let bodies = place.server.bodies();
    assert_eq!((bodies.len(), bodies[0].sent), (1, SIZE as u64));
    place.assert_right(&place.offline().cached(&file(WEIGHTS), None).unwrap());
}

#[test]
fn whoever_waits_goes_on_where_the_killed_one_stopped() {
    let place = Place::of_size(SIZE);
    place.server.pace(PACE);
    let mut first = start(&place);
    while place.server.sent() < 200_000 {
        std::thread::sleep(Duration::from_micros(200));
    }
    let second = start(&place);
    // The second one is known to wait once it has looked the file up.
    while place.server.seen().iter().filter(|request| request.method == "HEAD").count() < 2 {
        std::thread::sleep(Duration::from_micros(200));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    finish(second);
    let bodies = place.server.bodies();
    assert_eq!(bodies.len(), 2);
    assert!(bodies[1].range.unwrap() >= 100_000, "{bodies:?}");
    assert_eq!(bodies[1].sent, SIZE as u64 - bodies[1].range.unwrap());
    place.assert_right(&place.offline().cached(&file(WEIGHTS), None).unwrap());
}
