//! Batches that a thread puts into rooms ahead of the loop that uses them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::super::Failure;

/// Rooms that are filled, used and filled again, over all epochs of a trial. Their number bounds how far ahead batches are.
pub(super) struct Rooms<R> {
    free: Arc<Mutex<Receiver<R>>>,
    back: Sender<R>,
}

impl<R> Rooms<R> {
    pub(super) fn new(rooms: impl IntoIterator<Item = R>) -> Self {
        let (back, free) = channel();
        // Nothing is refused: the other end is just below.
        rooms.into_iter().for_each(|room| drop(back.send(room)));
        Self { free: Arc::new(Mutex::new(free)), back }
    }
}

/// An iterator over rooms with a batch in them, in the order of its source. Who took a room brings it back.
///
/// An error is the last thing that comes. Dropping it in the middle ends the thread after the batch it is at, and
/// brings all rooms back.
pub(super) struct Ahead<R, T> {
    ready: Receiver<Result<(R, T), Failure>>,
    back: Sender<R>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<R: Send + 'static, T: Send + 'static> Ahead<R, T> {
    /// Takes the batches of `source` and fills each into a room.
    pub(super) fn start<B>(
        source: impl Iterator<Item = Result<B, Failure>> + Send + 'static,
        rooms: &Rooms<R>,
        fill: impl Fn(&mut R, B) -> Result<T, Failure> + Send + 'static,
    ) -> Self {
        let (sender, ready) = channel();
        let (free, back, stop) = (Arc::clone(&rooms.free), rooms.back.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let free = free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            for batch in source {
                let Ok(mut room) = free.recv() else { return };
                let filled = match batch {
                    _ if stopped.load(Ordering::Relaxed) => None,
                    Ok(batch) => Some(fill(&mut room, batch)),
                    Err(failure) => Some(Err(failure)),
                };
                let (message, last) = match filled {
                    Some(Ok(with)) => (Ok((room, with)), false),
                    failed => {
                        // The receivers of both live at least as long as this thread.
                        drop(back.send(room));
                        let Some(Err(failure)) = failed else { return };
                        (Err(failure), true)
                    }
                };
                if sender.send(message).is_err() || last {
                    return;
                }
            }
        });
        Self { ready, back: rooms.back.clone(), stop, thread: Some(thread) }
    }
}

impl<R, T> Ahead<R, T> {
    /// Takes a room back.
    pub(super) fn give_back(&self, room: R) {
        // Without the trial's rooms nobody fills one any more.
        drop(self.back.send(room));
    }
}

impl<R, T> Iterator for Ahead<R, T> {
    type Item = Result<(R, T), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Ok(item) = self.ready.recv() {
            return Some(item);
        }
        // The thread is done, or has panicked: an epoch must not end early without a word.
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

impl<R, T> Drop for Ahead<R, T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Ends when the thread does; a thread that waits for a room gets one.
        while let Ok(item) = self.ready.recv() {
            if let Ok((room, _)) = item {
                self.give_back(room);
            }
        }
        if let Some(thread) = self.thread.take() {
            // A panic over batches that nobody wants any more is nobody's loss.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests;
