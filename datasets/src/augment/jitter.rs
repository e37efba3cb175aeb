//! Brightness, contrast, saturation and hue, as torchvision's `ColorJitter` defines them on float images.
//!
//! With `f` the factor: brightness `f·x`; contrast `f·x + (1 − f)·m`, `m` the mean over the image of the grey levels;
//! saturation `f·x + (1 − f)·grey(x)`; each clamped to `[0, 1]`; `grey = 0.2989 r + 0.587 g + 0.114 b`. Hue is turned by
//! the share `f` of the colour circle in HSV (hue, saturation, value).

use random::Stream;

use super::AugmentConfig;
use crate::math::wide::{Loop, wide};

/// One of the four changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JitterPart {
    /// Towards black or away from it.
    Brightness,
    /// Towards the mean grey or away from it.
    Contrast,
    /// Towards grey or away from it.
    Saturation,
    /// Around the colour circle.
    Hue,
}

/// The changes to make, in order, with their factors.
#[derive(Debug, Clone, PartialEq)]
pub struct JitterParams {
    /// Part and factor; a part that is off is not listed.
    pub steps: Vec<(JitterPart, f32)>,
}

/// Draws an order of the four parts, uniformly, and a factor for each: from `[max(0, 1 − v), 1 + v]`, for hue from
/// `[−v, v]`. The number of draws does not depend on the settings. What concerns hue comes from a stream of its own.
pub fn draw(config: &AugmentConfig, stream: &mut Stream, hue_stream: &mut Stream) -> JitterParams {
    let parts = [
        (JitterPart::Brightness, config.brightness),
        (JitterPart::Contrast, config.contrast),
        (JitterPart::Saturation, config.saturation),
    ];
    let order = stream.permutation(3);
    let factors = parts.map(|(part, v)| (part, v, stream.range((1.0 - v).max(0.0), 1.0 + v) as f32));
    let mut chosen: Vec<(JitterPart, f64, f32)> = order.into_iter().map(|k| factors[k]).collect();
    // A uniform place in a uniform order of the others: every order of the four is equally likely.
    let turn = hue_stream.range(-config.hue, config.hue) as f32;
    chosen.insert(hue_stream.below(4), (JitterPart::Hue, config.hue, turn));
    JitterParams { steps: chosen.into_iter().filter(|&(_, v, _)| v > 0.0).map(|(part, _, f)| (part, f)).collect() }
}

/// Applies the changes to `[3, S, S]` levels in `[0, 1]`.
pub fn apply(planes: &mut [f32], params: &JitterParams) {
    apply_steps(planes, &params.steps);
}

pub(crate) fn apply_steps(planes: &mut [f32], steps: &[(JitterPart, f32)]) {
    for &(part, factor) in steps {
        match part {
            JitterPart::Brightness => wide(Each { planes, f: |v: f32| brightness(v, factor) }),
            JitterPart::Contrast => contrast(planes, factor),
            JitterPart::Saturation => wide(Pixels {
                planes,
                f: |[r, g, b]: [f32; 3]| {
                    let shift = (1.0 - factor) * grey(r, g, b);
                    [r, g, b].map(|v| (factor * v + shift).clamp(0.0, 1.0))
                },
            }),
            JitterPart::Hue => wide(Pixels { planes, f: |rgb| from_hsv(turn(to_hsv(rgb), factor)) }),
        }
    }
}

/// One level, brighter.
#[inline(always)]
pub(crate) fn brightness(level: f32, factor: f32) -> f32 {
    (factor * level).clamp(0.0, 1.0)
}

#[inline(always)]
fn grey(r: f32, g: f32, b: f32) -> f32 {
    0.2989 * r + 0.587 * g + 0.114 * b
}

fn contrast(planes: &mut [f32], factor: f32) {
    let (r, g, b) = split(planes);
    let sum: f64 = r.iter().zip(&*g).zip(&*b).map(|((&r, &g), &b)| f64::from(grey(r, g, b))).sum();
    let shift = (1.0 - factor) * (sum / r.len().max(1) as f64) as f32;
    wide(Each { planes, f: |v: f32| (factor * v + shift).clamp(0.0, 1.0) });
}

/// Hue as a share of the circle, saturation and value, all in `[0, 1]`. Grey has hue 0.
#[inline(always)]
fn to_hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0.0 {
        return [0.0, 0.0, most];
    }
    let away = [r, g, b].map(|v| (most - v) / range);
    let sixths = if most == r {
        away[2] - away[1]
    } else if most == g {
        2.0 + away[0] - away[2]
    } else {
        4.0 + away[1] - away[0]
    };
    [(sixths * (1.0 / 6.0) + 1.0) % 1.0, range / most, most]
}

#[inline(always)]
fn turn([hue, saturation, value]: [f32; 3], share: f32) -> [f32; 3] {
    let turned = hue + share;
    [turned - turned.floor(), saturation, value]
}

#[inline(always)]
fn from_hsv([hue, saturation, value]: [f32; 3]) -> [f32; 3] {
    let sixths = hue * 6.0;
    let sector = sixths.floor();
    let within = sixths - sector;
    let level = |share: f32| (value * (1.0 - saturation * share)).clamp(0.0, 1.0);
    let (low, falling, rising) = (level(1.0), level(within), level(1.0 - within));
    match sector as i32 {
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        5 => [value, low, falling],
        // 0, and 6 where rounding reaches the end of the circle.
        _ => [value, rising, low],
    }
}

fn split(planes: &mut [f32]) -> (&mut [f32], &mut [f32], &mut [f32]) {
    let area = planes.len() / 3;
    let (r, rest) = planes.split_at_mut(area);
    let (g, b) = rest.split_at_mut(area);
    (r, g, b)
}

/// The same for every value.
pub(crate) struct Each<'a, F> {
    pub(crate) planes: &'a mut [f32],
    pub(crate) f: F,
}

impl<F: Fn(f32) -> f32> Loop for Each<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        for v in self.planes {
            *v = (self.f)(*v);
        }
    }
}

/// The same for every pixel.
struct Pixels<'a, F> {
    planes: &'a mut [f32],
    f: F,
}

impl<F: Fn([f32; 3]) -> [f32; 3]> Loop for Pixels<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let (r, g, b) = split(self.planes);
        for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
            [*r, *g, *b] = (self.f)([*r, *g, *b]);
        }
    }
}
