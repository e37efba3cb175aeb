//! What a species is, and by how little a cultivar differs from it.

use random::{Axis, Seeds, Stream};

/// Micro-parameters of a leaf. Lengths are in units of the leaf's length, angles in radians.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cultivar {
    /// Greatest width.
    pub(super) width: f64,
    /// Exponent of the outline at the base: larger is more wedge-shaped.
    pub(super) base: f64,
    /// Exponent of the outline at the tip: larger is more pointed.
    pub(super) tip: f64,
    /// Depth of the lobes, as a share of the local width.
    pub(super) lobe_depth: f64,
    /// Lobes on a side.
    pub(super) lobes: f64,
    /// Teeth on a side.
    pub(super) teeth: f64,
    /// Depth of the teeth.
    pub(super) tooth_depth: f64,
    /// Side veins on a side.
    pub(super) veins: f64,
    /// Angle between midrib and side veins.
    pub(super) vein_angle: f64,
    /// How much the side veins bend towards the tip.
    pub(super) vein_curve: f64,
    /// How much lighter veins are than the blade.
    pub(super) vein_contrast: f64,
    /// Cross veins between two side veins, per length.
    pub(super) cross_veins: f64,
    /// How much cross veins stand out, as a share of `vein_contrast`.
    pub(super) cross_contrast: f64,
    /// Frequency of the mottled texture, per length.
    pub(super) mottle: f64,
    /// Strength of the mottled texture.
    pub(super) mottle_depth: f64,
    /// Share of the blade's cells that have a spot.
    pub(super) spots: f64,
    /// Shift of the green towards yellow.
    pub(super) yellow: f64,
    /// Shift of the green towards the grey-blue of a waxy blade.
    pub(super) wax: f64,
}

/// The mean of all cultivars of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Species {
    pub(super) mean: Cultivar,
}

impl Species {
    pub(super) fn draw(seeds: Seeds) -> Self {
        let mut stream = seeds.named_stream(Axis::Generate, "species");
        let mut draw = |low: f64, high: f64| stream.range(low, high);
        let mean = Cultivar {
            width: draw(0.58, 0.70),
            base: draw(0.42, 0.58),
            tip: draw(0.70, 0.95),
            lobe_depth: draw(0.05, 0.14),
            lobes: draw(2.6, 3.4),
            teeth: draw(13.0, 16.0),
            tooth_depth: draw(0.016, 0.022),
            veins: draw(7.0, 9.0),
            vein_angle: draw(0.80, 0.95),
            vein_curve: draw(0.5, 0.8),
            vein_contrast: draw(0.20, 0.26),
            cross_veins: draw(16.0, 20.0),
            cross_contrast: draw(0.35, 0.45),
            mottle: draw(15.0, 19.0),
            mottle_depth: draw(0.075, 0.10),
            spots: draw(0.16, 0.22),
            yellow: draw(0.28, 0.42),
            wax: draw(0.10, 0.16),
        };
        Self { mean }
    }
}

impl Cultivar {
    /// The cultivar of a class: each micro-parameter uniform within `separation` half-widths of the species', kept
    /// inside what a leaf can be. The stream belongs to the class alone.
    pub(super) fn draw(species: &Species, seeds: Seeds, class: usize, separation: f64) -> Self {
        let mut stream = seeds.named_stream(Axis::Generate, &format!("class {class}"));
        let mean = &species.mean;
        let mut near = |mean: f64, half_width: f64, low: f64, high: f64| {
            draw_near(&mut stream, mean, separation * half_width, low, high)
        };
        Self {
            width: near(mean.width, 0.080, 0.30, 0.95),
            base: near(mean.base, 0.100, 0.30, 1.00),
            tip: near(mean.tip, 0.200, 0.45, 1.60),
            lobe_depth: near(mean.lobe_depth, 0.070, 0.0, 0.35),
            lobes: near(mean.lobes, 0.8, 1.0, 6.0),
            teeth: near(mean.teeth, 5.0, 5.0, 24.0),
            tooth_depth: near(mean.tooth_depth, 0.014, 0.0, 0.05),
            veins: near(mean.veins, 3.0, 3.0, 14.0).round_ties_even(),
            vein_angle: near(mean.vein_angle, 0.20, 0.5, 1.3),
            vein_curve: near(mean.vein_curve, 0.45, -0.2, 1.6),
            vein_contrast: near(mean.vein_contrast, 0.12, 0.06, 0.50),
            cross_veins: near(mean.cross_veins, 7.0, 6.0, 32.0),
            cross_contrast: near(mean.cross_contrast, 0.30, 0.0, 1.0),
            mottle: near(mean.mottle, 8.0, 5.0, 32.0),
            mottle_depth: near(mean.mottle_depth, 0.060, 0.0, 0.25),
            spots: near(mean.spots, 0.16, 0.0, 0.6),
            yellow: near(mean.yellow, 0.16, 0.0, 1.0),
            wax: near(mean.wax, 0.10, 0.0, 0.4),
        }
    }
}

fn draw_near(stream: &mut Stream, mean: f64, half_width: f64, low: f64, high: f64) -> f64 {
    (mean + half_width * stream.range(-1.0, 1.0)).clamp(low, high)
}
