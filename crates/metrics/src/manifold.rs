//! Summaries for the diagnostics of methods on the SPD manifold: eigenvalues, distances and hinges, collected over an
//! epoch, to the few numbers that an epoch's point keeps.
//!
//! Quantiles are those of linear interpolation between order statistics (type 7 of Hyndman and Fan, "Sample
//! Quantiles in Statistical Packages", The American Statistician 50(4), 1996): with sorted `x_0 ≤ … ≤ x_{n−1}` and
//! `h = (n − 1) q`, the quantile is `x_⌊h⌋ + (h − ⌊h⌋)(x_{⌊h⌋+1} − x_⌊h⌋)`.

use crate::error::{MetricError, check_finite};

/// The type-7 quantile of `values` at `level` in 0..=1.
///
/// # Errors
/// [`MetricError::Empty`], [`MetricError::NotFinite`], or [`MetricError::Level`] for a level outside 0..=1.
pub fn quantile(values: &[f64], level: f64) -> Result<f64, MetricError> {
    Ok(quantiles("values", values, [level])?[0])
}

/// Several quantiles of the same values.
fn quantiles<const N: usize>(what: &'static str, values: &[f64], levels: [f64; N]) -> Result<[f64; N], MetricError> {
    if let Some(&level) = levels.iter().find(|q| !(0.0..=1.0).contains(*q)) {
        return Err(MetricError::Level { level });
    }
    check(what, values)?;
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Ok(levels.map(|level| {
        let h = (sorted.len() - 1) as f64 * level;
        let low = h.floor() as usize;
        let part = h - h.floor();
        // Where the rank is whole there may be no next order statistic, and none is needed.
        if part == 0.0 { sorted[low] } else { (1.0 - part) * sorted[low] + part * sorted[low + 1] }
    }))
}

fn check(what: &'static str, values: &[f64]) -> Result<(), MetricError> {
    if values.is_empty() { Err(MetricError::Empty { what }) } else { check_finite(what, values) }
}

fn mean(what: &'static str, values: &[f64]) -> Result<f64, MetricError> {
    check(what, values)?;
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

/// The lower end of a spectrum, in the units of the matrices' entries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eigenvalues {
    /// Smallest of all.
    pub min: f64,
    /// 1 % quantile.
    pub quantile_01: f64,
    /// Median.
    pub median: f64,
}

/// Summarises the smallest eigenvalues of many matrices, one value a matrix.
///
/// # Errors
/// [`MetricError::Empty`] or [`MetricError::NotFinite`].
pub fn eigenvalues(smallest: &[f64]) -> Result<Eigenvalues, MetricError> {
    let [min, quantile_01, median] = quantiles("smallest eigenvalues", smallest, [0.0, 0.01, 0.5])?;
    Ok(Eigenvalues { min, quantile_01, median })
}

/// How far classes lie apart, in the units of the distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Separation {
    /// Mean distance of pairs within a class.
    pub intra: f64,
    /// Mean distance of pairs of different classes.
    pub inter: f64,
    /// `inter − intra`.
    pub margin: f64,
}

/// Summarises distances of pairs within a class (`intra`) and of different classes (`inter`).
///
/// # Errors
/// [`MetricError::Empty`] or [`MetricError::NotFinite`].
pub fn separation(intra: &[f64], inter: &[f64]) -> Result<Separation, MetricError> {
    let intra = mean("distances within classes", intra)?;
    let inter = mean("distances between classes", inter)?;
    Ok(Separation { intra, inter, margin: inter - intra })
}

/// Distances `δ(p, π(p))` of aligned parts, in the units of the distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlignedDistances {
    /// Median.
    pub median: f64,
    /// 95 % quantile.
    pub quantile_95: f64,
}

/// Summarises the distances of aligned pairs of parts.
///
/// # Errors
/// [`MetricError::Empty`] or [`MetricError::NotFinite`].
pub fn aligned_distances(distances: &[f64]) -> Result<AlignedDistances, MetricError> {
    let [median, quantile_95] = quantiles("aligned distances", distances, [0.5, 0.95])?;
    Ok(AlignedDistances { median, quantile_95 })
}

/// Share of hinges `[x]₊` that are active: `x > 0`. Takes the values before or after clamping at 0.
///
/// # Errors
/// [`MetricError::Empty`] or [`MetricError::NotFinite`].
pub fn active_share(hinges: &[f64]) -> Result<f64, MetricError> {
    check("hinges", hinges)?;
    Ok(hinges.iter().filter(|&&h| h > 0.0).count() as f64 / hinges.len() as f64)
}

/// What was collected over an epoch. An empty slice means that the method has no such numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct ManifoldSamples<'a> {
    /// Smallest eigenvalue of each part's covariance.
    pub smallest_eigenvalues: &'a [f64],
    /// Distances of pairs within a class.
    pub intra: &'a [f64],
    /// Distances of pairs of different classes.
    pub inter: &'a [f64],
    /// Distances of aligned parts.
    pub aligned: &'a [f64],
    /// Hinges of all parts that have a negative.
    pub hinges: &'a [f64],
}

/// The manifold diagnostics of an epoch; none where nothing was collected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ManifoldDiagnostics {
    /// Of the smallest eigenvalues.
    pub eigenvalues: Option<Eigenvalues>,
    /// Of the distances within and between classes; none if either is missing.
    pub separation: Option<Separation>,
    /// Of the distances of aligned parts.
    pub aligned: Option<AlignedDistances>,
    /// Share of active hinges.
    pub active_share: Option<f64>,
}

impl ManifoldDiagnostics {
    /// Summarises an epoch.
    ///
    /// # Errors
    /// [`MetricError::NotFinite`] if anything that was collected is NaN or infinite.
    pub fn of(samples: &ManifoldSamples<'_>) -> Result<Self, MetricError> {
        check_finite("distances within classes", samples.intra)?;
        check_finite("distances between classes", samples.inter)?;
        Ok(Self {
            eigenvalues: present(samples.smallest_eigenvalues, eigenvalues)?,
            separation: present(samples.intra, |intra| present(samples.inter, |inter| separation(intra, inter)))?
                .flatten(),
            aligned: present(samples.aligned, aligned_distances)?,
            active_share: present(samples.hinges, active_share)?,
        })
    }

    /// The numbers that there are, by the names under which records keep them.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let mut named = vec![];
        if let Some(e) = self.eigenvalues {
            named.extend([("eigenvalue_min", e.min), ("eigenvalue_q01", e.quantile_01)]);
            named.push(("eigenvalue_median", e.median));
        }
        if let Some(s) = self.separation {
            named.extend([("intra_distance", s.intra), ("inter_distance", s.inter), ("distance_margin", s.margin)]);
        }
        if let Some(a) = self.aligned {
            named.extend([("aligned_median", a.median), ("aligned_q95", a.quantile_95)]);
        }
        named.extend(self.active_share.map(|share| ("active_share", share)));
        named
    }
}

fn present<T>(
    values: &[f64],
    summary: impl FnOnce(&[f64]) -> Result<T, MetricError>,
) -> Result<Option<T>, MetricError> {
    if values.is_empty() { Ok(None) } else { summary(values).map(Some) }
}
