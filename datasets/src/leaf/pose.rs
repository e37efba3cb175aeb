//! What differs between two leaves of one cultivar: pose, growth, light, colour, background.

use random::{Axis, Seeds};

use super::cultivar::Species;

/// One leaf on the scanner. Positions and lengths are in units of the image's side.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pose {
    /// Rotation in radians.
    pub(super) angle: f64,
    /// Length of the leaf.
    pub(super) length: f64,
    /// Centre of the leaf, from the centre of the image.
    pub(super) centre: [f64; 2],
    /// Factor on the width: the blade is not flat.
    pub(super) squeeze: f64,
    /// Bend of the midrib, in leaf lengths.
    pub(super) bend: f64,
    /// Difference between the two halves of the blade.
    pub(super) asymmetry: f64,
    /// Amplitude of the irregular outline, in leaf lengths.
    pub(super) wobble: f64,
    /// Phases of teeth, lobes, veins and outline.
    pub(super) phases: [f64; 8],
    /// Brightness of the blade.
    pub(super) brightness: f64,
    /// Shift of the green towards yellow, on top of the cultivar's.
    pub(super) yellow: f64,
    /// Shift of the green towards grey-blue, likewise.
    pub(super) wax: f64,
    /// Darkening from base to tip.
    pub(super) gradient: f64,
    /// Direction of the light across the image, times its strength.
    pub(super) light: [f64; 2],
    /// Strength of the relief between veins.
    pub(super) relief: f64,
    /// Background colour.
    pub(super) background: [f64; 3],
    /// Strength and offset of the shadow.
    pub(super) shadow: [f64; 3],
    /// Seed of the texture.
    pub(super) noise: u64,
}

impl Pose {
    /// Draws the leaf called `name`; the stream belongs to it alone.
    pub(super) fn draw(species: &Species, seeds: Seeds, name: &str) -> Self {
        let mut stream = seeds.named_stream(Axis::Generate, name);
        // Wide leaves must still fit on the scanner.
        let largest = (0.92 / species.mean.width.max(0.8)).min(0.96);
        let tint = stream.range(0.84, 0.98);
        Self {
            angle: stream.range(-0.35, 0.35),
            length: largest * stream.range(0.80, 0.97),
            centre: [stream.range(-0.05, 0.05), stream.range(-0.05, 0.05)],
            squeeze: stream.range(0.92, 1.06),
            bend: stream.range(-0.07, 0.07),
            asymmetry: stream.range(-0.10, 0.10),
            wobble: stream.range(0.002, 0.008),
            phases: std::array::from_fn(|_| stream.uniform()),
            brightness: stream.range(0.76, 1.18),
            yellow: stream.range(-0.14, 0.14),
            wax: stream.range(-0.06, 0.06),
            gradient: stream.range(-0.18, 0.18),
            light: [stream.range(-0.22, 0.22), stream.range(-0.22, 0.22)],
            relief: stream.range(0.03, 0.10),
            background: std::array::from_fn(|_| tint + stream.range(-0.035, 0.02)),
            shadow: [stream.range(0.05, 0.3), stream.range(-0.02, 0.02), stream.range(0.0, 0.025)],
            noise: stream.bits(),
        }
    }
}
