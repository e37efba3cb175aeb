//! Prefix sums under insertion.

/// Prefix sums of `S` quantities (Fenwick, *A new data structure for cumulative frequency tables*, Software: Practice and
/// Experience 24, 1994).
pub(super) struct PrefixSums<const S: usize> {
    nodes: Vec<[f64; S]>,
    total: [f64; S],
}

impl<const S: usize> PrefixSums<S> {
    /// Zeros at `n` places.
    pub(super) fn new(n: usize) -> Self {
        Self { nodes: vec![[0.0; S]; n + 1], total: [0.0; S] }
    }

    pub(super) fn add(&mut self, place: u32, values: [f64; S]) {
        let mut node = place as usize + 1;
        while let Some(sums) = self.nodes.get_mut(node) {
            *sums = plus(*sums, values);
            node += node & node.wrapping_neg();
        }
        self.total = plus(self.total, values);
    }

    /// Sums over the places `0..end`.
    pub(super) fn below(&self, end: u32) -> [f64; S] {
        let (mut node, mut out) = (end as usize, [0.0; S]);
        while node > 0 {
            out = plus(out, self.nodes[node]);
            node &= node - 1;
        }
        out
    }

    /// Sums over all places.
    pub(super) fn total(&self) -> [f64; S] {
        self.total
    }
}

#[inline(always)]
fn plus<const S: usize>(mut a: [f64; S], b: [f64; S]) -> [f64; S] {
    for k in 0..S {
        a[k] += b[k];
    }
    a
}

/// `a − b`.
#[inline(always)]
pub(super) fn difference<const S: usize>(mut a: [f64; S], b: [f64; S]) -> [f64; S] {
    for k in 0..S {
        a[k] -= b[k];
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use random::{Axis, Seeds};

    #[test]
    fn sums_are_those_of_a_plain_loop() {
        let mut stream = Seeds::new(7).stream(Axis::Test, &[]);
        for n in [1usize, 2, 13, 64] {
            let (mut sums, mut plain) = (PrefixSums::<2>::new(n), vec![[0.0; 2]; n]);
            for step in 0..3 * n {
                let (place, value) = (stream.below(n), stream.below(100) as f64);
                sums.add(place as u32, [1.0, value]);
                plain[place] = plus(plain[place], [1.0, value]);
                let end = step % (n + 1);
                // Whole numbers: every order of additions gives the same.
                assert_eq!(sums.below(end as u32), plain[..end].iter().fold([0.0; 2], |a, b| plus(a, *b)));
                assert_eq!(sums.total(), sums.below(n as u32));
            }
        }
    }
}
