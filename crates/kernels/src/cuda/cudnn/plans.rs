//! Algorithms by problem: chosen once, and left for one with less workspace where memory has run out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::{Choice, Offer, Problem, WORKSPACE, allowed};

/// Why the library did not do what it was asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Refusal {
    /// It is not there, or lacks what is needed.
    Missing(String),
    /// It has no code for the problem.
    Unsupported,
    /// The card has no memory left.
    Memory(String),
    /// Anything else.
    Failed(String),
}

/// A convolution library, and memory of the card.
pub(super) trait Engine {
    /// Workspace on the card.
    type Room;

    /// The algorithms for a problem, those expected to be the fastest first.
    fn offers(&mut self, problem: &Problem) -> Result<Vec<Offer>, Refusal>;

    /// Bytes of workspace that an algorithm needs.
    fn bytes(&mut self, problem: &Problem, choice: Choice) -> Result<usize, Refusal>;

    /// As many bytes.
    fn room(&mut self, bytes: usize) -> Result<Self::Room, Refusal>;

    /// Starts an algorithm: reads the two inputs, writes the output.
    fn start(
        &mut self,
        problem: &Problem,
        choice: Choice,
        room: (&Self::Room, usize),
        addresses: [u64; 3],
    ) -> Result<(), Refusal>;
}

/// Problems of this process whose algorithm was left for one with less workspace because memory had run out.
static SMALLER: AtomicUsize = AtomicUsize::new(0);

/// How often memory ran out so far, see [`Plans::run`].
pub(crate) fn smaller() -> usize {
    SMALLER.load(Ordering::Relaxed)
}

/// Algorithms of a problem that are left to try, with their workspace, the next one last.
type Left = Vec<(Choice, usize)>;

/// The algorithms of the problems so far.
#[derive(Debug, Default)]
pub(super) struct Plans(HashMap<Problem, Left>);

impl Plans {
    /// Computes a problem by the first algorithm that can. An algorithm that turns out not to support the problem, or whose
    /// workspace the card has no memory for, is not tried again.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] where no algorithm is left, [`Refusal::Memory`] where there would be one with more memory.
    pub(super) fn run<E: Engine>(
        &mut self,
        engine: &mut E,
        problem: &Problem,
        addresses: [u64; 3],
    ) -> Result<Choice, Refusal> {
        if !self.0.contains_key(problem) {
            let left = plan(engine, problem)?;
            self.0.insert(*problem, left);
        }
        let Some(left) = self.0.get_mut(problem) else { return Err(Refusal::Unsupported) };
        while let Some(&(choice, bytes)) = left.last() {
            let done = engine.room(bytes).and_then(|room| engine.start(problem, choice, (&room, bytes), addresses));
            match done {
                Ok(()) => return Ok(choice),
                Err(Refusal::Unsupported) => drop(left.pop()),
                Err(Refusal::Memory(text)) => {
                    if !left.iter().any(|(_, other)| *other < bytes) {
                        return Err(Refusal::Memory(text));
                    }
                    left.retain(|(_, other)| *other < bytes);
                    SMALLER.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => return Err(other),
            }
        }
        Err(Refusal::Unsupported)
    }
}

/// What may compute a problem within the bounds of a workspace.
fn plan<E: Engine>(engine: &mut E, problem: &Problem) -> Result<Left, Refusal> {
    let offers = match engine.offers(problem) {
        Err(Refusal::Unsupported) => Vec::new(),
        other => other?,
    };
    let mut left = Vec::new();
    for choice in allowed(problem, &offers) {
        match engine.bytes(problem, choice) {
            Ok(bytes) if bytes <= WORKSPACE => left.push((choice, bytes)),
            Ok(_) | Err(Refusal::Unsupported) => {}
            Err(other) => return Err(other),
        }
    }
    left.reverse();
    Ok(left)
}
