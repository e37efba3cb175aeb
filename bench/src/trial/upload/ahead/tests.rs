use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use records::Stage;

use super::*;

/// Numbers from 0 on, one of which may be a failure.
fn source(count: usize, bad: Option<usize>) -> impl Iterator<Item = Result<usize, Failure>> + Send + 'static {
    (0..count).map(move |k| match bad {
        Some(bad) if bad == k => Err(Failure::at(Stage::Data, format!("no batch {k}"))),
        _ => Ok(k),
    })
}

/// A room remembers all that was put into it.
fn start(rooms: &Rooms<Vec<usize>>, count: usize, bad: Option<usize>) -> Ahead<Vec<usize>, usize> {
    Ahead::start(source(count, bad), rooms, |room, batch| {
        room.push(batch);
        Ok(batch * 10)
    })
}

fn rooms(count: usize) -> Rooms<Vec<usize>> {
    Rooms::new((0..count).map(|_| Vec::new()))
}

fn all(rooms: &Rooms<Vec<usize>>) -> Vec<Vec<usize>> {
    rooms.free.lock().unwrap().try_iter().collect()
}

#[test]
fn batches_come_in_order_and_rooms_are_used_again() {
    let rooms = rooms(3);
    for epoch in 1..3 {
        let mut ahead = start(&rooms, 20, None);
        let mut seen = Vec::new();
        while let Some(item) = ahead.next() {
            let (room, with) = item.unwrap();
            assert_eq!(room.last().map(|last| last * 10), Some(with));
            seen.push(with / 10);
            ahead.give_back(room);
        }
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        drop(ahead);
        let kept: usize = rooms
            .free
            .lock()
            .unwrap()
            .try_iter()
            .map(|room| {
                let count = room.len();
                rooms.back.send(room).unwrap();
                count
            })
            .take(3)
            .sum();
        assert_eq!(kept, 20 * epoch);
    }
    assert_eq!(all(&rooms).len(), 3);
}

#[test]
fn no_more_is_made_than_there_are_rooms() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let rooms = rooms(2);
    let mut ahead = Ahead::start(source(50, None), &rooms, |_, _| {
        MADE.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    for taken in 1..8 {
        let (room, ()) = ahead.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(10));
        let made = MADE.load(Ordering::SeqCst);
        assert!((taken..=taken + 1).contains(&made), "{made} made, {taken} taken");
        ahead.give_back(room);
    }
}

#[test]
fn a_failure_is_the_last_thing_and_costs_no_room() {
    let rooms = rooms(2);
    let mut ahead = start(&rooms, 9, Some(1));
    let (room, with) = ahead.next().unwrap().unwrap();
    assert_eq!(with, 0);
    assert_eq!(ahead.next().unwrap().unwrap_err().message, "no batch 1");
    assert!(ahead.next().is_none());
    ahead.give_back(room);
    drop(ahead);
    let refused = Ahead::start(source(3, None), &rooms, |_, batch| match batch {
        0 => Ok(()),
        _ => Err(Failure::at(Stage::Train, "no memory")),
    });
    let messages: Vec<Result<(), String>> =
        refused.map(|item| item.map(|(_, with)| with).map_err(|failure| failure.message)).collect();
    assert_eq!(messages, [Ok(()), Err("no memory".into())]);
}

#[test]
fn dropped_in_the_middle_it_ends_and_brings_the_rooms_back() {
    for taken in [0, 1, 4] {
        let rooms = rooms(3);
        let mut ahead = start(&rooms, 1000, None);
        for _ in 0..taken {
            let (room, _) = ahead.next().unwrap().unwrap();
            ahead.give_back(room);
        }
        drop(ahead);
        let left = all(&rooms);
        assert_eq!(left.len(), 3);
        assert!(left.iter().map(Vec::len).sum::<usize>() <= taken + 3);
    }
}

#[test]
#[should_panic(expected = "out of order")]
fn a_panic_of_the_thread_is_not_the_end_of_the_epoch() {
    let rooms = rooms(1);
    let ahead = Ahead::<_, ()>::start(source(1, None), &rooms, |_, _| panic!("out of order"));
    ahead.for_each(drop);
}
