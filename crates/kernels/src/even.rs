//! Work for all threads in parts small enough that none waits long for the last.

use rayon::iter::{IndexedParallelIterator, MaxLen, MinLen};

/// Parts of a loop. Cores differ in speed from moment to moment, and a thread without work idles for half a part on average.
const PARTS: usize = 32;

/// Loops whose parts are given out evenly.
pub(crate) trait Even: IndexedParallelIterator {
    /// Parts of a 32nd of the items, or of `least` items where that is more. Left alone, rayon splits a loop of two threads in
    /// four, and a thread may wait for a quarter of the work.
    fn evenly(self, least: usize) -> MinLen<MaxLen<Self>> {
        let most = self.len().div_ceil(PARTS).max(least);
        self.with_max_len(most).with_min_len(least)
    }
}

impl<I: IndexedParallelIterator> Even for I {}
