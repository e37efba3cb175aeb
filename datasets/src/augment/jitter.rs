//! Brightness, contrast and saturation, as torchvision's `ColorJitter` defines them on float images.
//!
//! With `f` the factor: brightness `f·x`; contrast `f·x + (1 − f)·m`, `m` the mean over the image of the grey levels;
//! saturation `f·x + (1 − f)·grey(x)`; each clamped to `[0, 1]`; `grey = 0.2989 r + 0.587 g + 0.114 b`.

use random::Stream;

use super::AugmentConfig;

/// One of the three changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JitterPart {
    /// Towards black or away from it.
    Brightness,
    /// Towards the mean grey or away from it.
    Contrast,
    /// Towards grey or away from it.
    Saturation,
}

/// The changes to make, in order, with their factors.
#[derive(Debug, Clone, PartialEq)]
pub struct JitterParams {
    /// Part and factor; a part that is off is not listed.
    pub steps: Vec<(JitterPart, f32)>,
}

/// Draws an order of the three parts, uniformly, and a factor for each from `[max(0, 1 − v), 1 + v]`. The number of
/// draws does not depend on the settings.
pub fn draw(config: &AugmentConfig, stream: &mut Stream) -> JitterParams {
    let parts = [
        (JitterPart::Brightness, config.brightness),
        (JitterPart::Contrast, config.contrast),
        (JitterPart::Saturation, config.saturation),
    ];
    let order = stream.permutation(3);
    let factors = parts.map(|(part, v)| (part, v, stream.range((1.0 - v).max(0.0), 1.0 + v) as f32));
    let enabled = order.into_iter().map(|k| factors[k]).filter(|&(_, v, _)| v > 0.0);
    JitterParams { steps: enabled.map(|(part, _, factor)| (part, factor)).collect() }
}

/// Applies the changes to `[3, S, S]` levels in `[0, 1]`.
pub fn apply(planes: &mut [f32], params: &JitterParams) {
    for &(part, factor) in &params.steps {
        match part {
            JitterPart::Brightness => planes.iter_mut().for_each(|v| *v = (factor * *v).clamp(0.0, 1.0)),
            JitterPart::Contrast => contrast(planes, factor),
            JitterPart::Saturation => saturation(planes, factor),
        }
    }
}

fn grey(r: f32, g: f32, b: f32) -> f32 {
    0.2989 * r + 0.587 * g + 0.114 * b
}

fn split(planes: &mut [f32]) -> (&mut [f32], &mut [f32], &mut [f32]) {
    let area = planes.len() / 3;
    let (r, rest) = planes.split_at_mut(area);
    let (g, b) = rest.split_at_mut(area);
    (r, g, b)
}

fn contrast(planes: &mut [f32], factor: f32) {
    let (r, g, b) = split(planes);
    let sum: f64 = r.iter().zip(&*g).zip(&*b).map(|((&r, &g), &b)| f64::from(grey(r, g, b))).sum();
    let shift = (1.0 - factor) * (sum / r.len().max(1) as f64) as f32;
    planes.iter_mut().for_each(|v| *v = (factor * *v + shift).clamp(0.0, 1.0));
}

fn saturation(planes: &mut [f32], factor: f32) {
    let (r, g, b) = split(planes);
    for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
        let shift = (1.0 - factor) * grey(*r, *g, *b);
        for v in [r, g, b] {
            *v = (factor * *v + shift).clamp(0.0, 1.0);
        }
    }
}
