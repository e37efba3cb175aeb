//! The measure of the errors, and the tolerances.

use super::Precision;

/// Bars of one dtype.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tolerance {
    /// For outputs.
    pub(crate) value: f64,
    /// For gradients.
    pub(crate) gradient: f64,
}

/// What every op promises in a dtype.
pub(crate) fn tolerance(precision: Precision) -> Tolerance {
    match precision {
        Precision::F32 => Tolerance { value: 1e-5, gradient: 1e-4 },
        Precision::F64 => Tolerance { value: 1e-10, gradient: 1e-8 },
    }
}

/// An error and the tolerance that it is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// Relative error, or infinity if anything was not finite.
    pub(crate) error: f64,
    /// The bar.
    pub(crate) tolerance: f64,
}

impl Measured {
    /// An error that no tolerance lets pass.
    pub(crate) fn never(tolerance: f64) -> Self {
        Self { error: f64::INFINITY, tolerance }
    }

    /// Whether the error is within the tolerance; what is not finite never is.
    pub(crate) fn passes(self) -> bool {
        self.share() <= 1.0
    }

    /// The one that takes the larger part of its tolerance.
    pub(crate) fn worse(self, other: Self) -> Self {
        if other.share() > self.share() { other } else { self }
    }

    /// The part of the tolerance that the error takes; infinite where either is not finite.
    fn share(self) -> f64 {
        match (self.error, self.tolerance) {
            (error, tolerance) if !(error.is_finite() && tolerance.is_finite()) => f64::INFINITY,
            (0.0, _) => 0.0,
            (error, tolerance) => error / tolerance,
        }
    }
}

/// One compared tensor of a case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Whether it is a gradient.
    pub(crate) gradient: bool,
    /// Its worst batch entry.
    pub(crate) measured: Measured,
    /// What a reader should know about the comparison.
    pub(crate) note: Option<String>,
}

/// Euclidean norm.
pub(crate) fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// `‖got − want‖ / ‖want‖` of one batch entry, `‖got‖` where `want` is 0, infinity where anything is not finite.
pub(crate) fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    let difference = norm(got.iter().zip(want).map(|(g, w)| g - w));
    let scale = norm(want.iter().copied());
    let error = if scale == 0.0 { difference } else { difference / scale };
    if error.is_finite() { error } else { f64::INFINITY }
}

/// The worst batch entry of `item` values each; `tolerances` gives the bar of an entry.
///
/// `got` and `want` are of one length, a multiple of `item`.
pub(crate) fn worst(got: &[f64], want: &[f64], item: usize, tolerances: impl Fn(usize) -> f64) -> Measured {
    let entries = got.chunks(item).zip(want.chunks(item)).enumerate();
    let measured = entries.map(|(b, (g, w))| Measured { error: relative_error(g, w), tolerance: tolerances(b) });
    measured.reduce(Measured::worse).unwrap_or(Measured { error: 0.0, tolerance: tolerances(0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use testkit::tolerance as shared;

    #[test]
    fn the_tolerances_are_those_of_the_tests() {
        for (precision, want) in [(Precision::F32, shared::ORACLE_F32), (Precision::F64, shared::ORACLE_F64)] {
            let got = tolerance(precision);
            assert_eq!((got.value, got.gradient), (want.value, want.gradient));
        }
    }

    proptest! {
        #[test]
        fn the_measure_is_that_of_the_tests(pairs in prop::collection::vec((-3i8..4, -3i8..4), 1..20), item in 1usize..4) {
            let whole = pairs.len() / item * item;
            prop_assume!(whole > 0);
            let (got, want): (Vec<f64>, Vec<f64>) = pairs[..whole].iter().map(|&(g, w)| (f64::from(g), f64::from(w))).unzip();
            prop_assert_eq!(worst(&got, &want, item, |_| 1.0).error, shared::relative_error(&got, &want, item));
        }
    }

    #[test]
    fn what_is_not_finite_never_passes() {
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(!worst(&[1.0, bad], &[1.0, 1.0], 1, |_| 1e9).passes());
            assert!(!worst(&[1.0, 1.0], &[1.0, 1.0], 1, |b| [1.0, bad][b]).passes());
            assert!(!worst(&[bad, 1.0], &[1.0, 1.0], 1, |_| 1e9).passes());
        }
        assert!(!worst(&[f64::NAN], &[f64::NAN], 1, |_| 1.0).passes());
        assert!(worst(&[1.0], &[1.0], 1, |_| 0.0).passes());
        assert!(!Measured::never(1.0).passes());
    }

    #[test]
    fn the_worst_entry_is_the_one_closest_to_its_own_bar() {
        let bars = [1.0, 0.01];
        let got = worst(&[1.5, 1.02], &[1.0, 1.0], 1, |b| bars[b]);
        assert!((got.error - 0.02).abs() < 1e-12 && got.tolerance == 0.01 && !got.passes());
    }
}
