//! Draws one leaf. One sample a pixel; edges and veins are antialiased by their distance in pixels.
//!
//! Leaf coordinates: `t` runs along the midrib from 0 (base) to 1 (tip), `s` across it, both in leaf lengths.

use std::f64::consts::PI;

use super::cultivar::Cultivar;
use super::noise;
use super::pose::Pose;
use crate::decode::Rgb;
use crate::math::{cos, pow, sin, smoothstep};

/// Entries of an outline table.
const STEPS: usize = 512;
/// Where the first and the last side vein leave the midrib.
const VEINS: (f64, f64) = (0.06, 0.88);
/// Side of the cells that hold at most one spot each.
const CELL: f64 = 0.045;

pub(super) fn leaf(cultivar: &Cultivar, pose: &Pose, size: usize) -> Rgb {
    let leaf = Leaf::new(cultivar, pose, size);
    let mut data = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        for x in 0..size {
            let (u, v) = ((x as f64 + 0.5) / size as f64 - 0.5, (y as f64 + 0.5) / size as f64 - 0.5);
            let grain = 0.012 * (noise::uniform(noise::hash(!pose.noise, x as i64, y as i64), 0) - 0.5);
            data.extend(leaf.colour(u, v).map(|c| ((c + grain).clamp(0.0, 1.0) * 255.0 + 0.5) as u8));
        }
    }
    Rgb { width: size, height: size, data }
}

struct Leaf<'a> {
    cultivar: &'a Cultivar,
    pose: &'a Pose,
    /// Pixels in a leaf length.
    pixels: f64,
    rotation: (f64, f64),
    /// Half-width at `t` of the left and the right side.
    outline: [Vec<f64>; 2],
    /// Sine, cotangent of the vein angle.
    vein: (f64, f64),
    /// Where each side vein is off its regular place, as a share of the distance between two.
    vein_offsets: [Vec<f64>; 2],
    green: [f64; 3],
}

impl<'a> Leaf<'a> {
    fn new(cultivar: &'a Cultivar, pose: &'a Pose, size: usize) -> Self {
        let (s, c) = (sin(cultivar.vein_angle), cos(cultivar.vein_angle));
        let offsets = |side: i64| {
            (0..cultivar.veins as i64)
                .map(|k| 0.36 * (noise::uniform(noise::hash(pose.noise, k, 1000 + side), 1) - 0.5))
                .collect()
        };
        let yellow = cultivar.yellow + pose.yellow;
        let wax = cultivar.wax + pose.wax;
        let green =
            [0.20 + 0.32 * yellow - 0.05 * wax, 0.42 + 0.14 * yellow - 0.10 * wax, 0.13 + 0.02 * yellow + 0.45 * wax]
                .map(|v| v * pose.brightness);
        Self {
            cultivar,
            pose,
            pixels: pose.length * size as f64,
            rotation: (sin(pose.angle), cos(pose.angle)),
            outline: [outline(cultivar, pose, -1.0), outline(cultivar, pose, 1.0)],
            vein: (s, c / s),
            vein_offsets: [offsets(0), offsets(1)],
            green,
        }
    }

    /// Leaf coordinates of an image point.
    fn coordinates(&self, u: f64, v: f64) -> (f64, f64) {
        let (x, y) = (u - self.pose.centre[0], v - self.pose.centre[1]);
        let (sin, cos) = self.rotation;
        let t = 0.5 - (cos * y - sin * x) / self.pose.length;
        let s = (cos * x + sin * y) / self.pose.length;
        (t, (s - self.pose.bend * 4.0 * t * (1.0 - t)) / self.pose.squeeze)
    }

    /// Signed distance to the outline in pixels, positive inside; the local half-width.
    fn inside(&self, t: f64, s: f64) -> (f64, f64) {
        if !(0.0..1.0).contains(&t) {
            return (-8.0, 0.0);
        }
        let table = &self.outline[usize::from(s > 0.0)];
        let place = t * STEPS as f64;
        let index = place as usize;
        let (low, high) = (table[index], table[index + 1]);
        let width = low + (high - low) * (place - index as f64);
        let slope = ((high - low) * STEPS as f64).clamp(-6.0, 6.0);
        ((width - s.abs()) * self.pixels / (1.0 + slope * slope).sqrt(), width)
    }

    /// How much of a pixel at distance `d` from a line of this half-width is covered by it.
    fn line(d: f64, half_width: f64) -> f64 {
        (half_width + 0.5 - d).clamp(0.0, 1.0) * (2.0 * half_width).min(1.0)
    }

    fn colour(&self, u: f64, v: f64) -> [f64; 3] {
        let (t, s) = self.coordinates(u, v);
        let (distance, width) = self.inside(t, s);
        let blade = (distance + 0.5).clamp(0.0, 1.0);
        let light = 1.0 + self.pose.light[0] * u + self.pose.light[1] * v;
        let mut colour = if blade < 1.0 { self.ground(u, v, t, s) } else { [0.0; 3] };
        if blade > 0.0 {
            let leaf = self.blade(t, s, distance, width);
            colour = std::array::from_fn(|c| colour[c] * (1.0 - blade) + leaf[c] * blade);
        }
        colour.map(|v| v * light)
    }

    /// Background with the shadow of the leaf, and the stalk.
    fn ground(&self, u: f64, v: f64, t: f64, s: f64) -> [f64; 3] {
        let [strength, dx, dy] = self.pose.shadow;
        let (shadow_t, shadow_s) = self.coordinates(u - dx, v - dy);
        let (distance, _) = self.inside(shadow_t, shadow_s);
        let softness = 0.03 * self.pixels;
        let shade = 1.0 - strength * smoothstep(-softness, softness, distance);
        let ground = self.pose.background.map(|v| v * shade);
        if !(-0.13..=0.01).contains(&t) {
            return ground;
        }
        let stalk = Self::line(s.abs() * self.pixels, 0.010 * self.pixels);
        std::array::from_fn(|c| ground[c] + (self.green[c] * 1.15 - ground[c]) * stalk)
    }

    /// Colour of the blade: gradient, relief, mottling, veins, spots.
    fn blade(&self, t: f64, s: f64, distance: f64, width: f64) -> [f64; 3] {
        let (cultivar, pose) = (self.cultivar, self.pose);
        let side = usize::from(s > 0.0);
        let (vein, place) = self.side_veins(t, s.abs(), width, side);
        let mottle = noise::value(pose.noise, t * cultivar.mottle, s * cultivar.mottle)
            + 0.5 * noise::value(pose.noise ^ 1, t * 2.3 * cultivar.mottle, s * 2.3 * cultivar.mottle);
        let patches = noise::value(pose.noise ^ 2, t * 4.0, s * 4.0);
        let relief =
            pose.relief * (1.0 - 2.0 * (place - place.floor() - 0.5).abs() * 2.0) * if side == 0 { 1.0 } else { -1.0 };
        let rim = 0.10 * smoothstep(0.04 * self.pixels, 0.0, distance);
        let level =
            1.0 + pose.gradient * (2.0 * t - 1.0) + relief + cultivar.mottle_depth * mottle + 0.08 * patches - rim;
        let midrib = Self::line(s.abs() * self.pixels, (0.004 + 0.009 * (1.0 - t)) * self.pixels);
        let cross = self.cross_veins(s.abs(), place, side);
        let veins = (cultivar.vein_contrast * (1.25 * midrib).max(vein))
            .max(cultivar.cross_contrast * cultivar.vein_contrast * cross);
        let spot = self.spot(t, s) * 0.75;
        let brown = [0.42, 0.30, 0.14].map(|v| v * pose.brightness);
        std::array::from_fn(|c| {
            let green = self.green[c] * level;
            let green = green + (brown[c] - green) * spot;
            green + veins * [0.95, 1.0, 0.62][c] * pose.brightness
        })
    }

    /// Cover of the nearest side vein, and the place between two of them (whole numbers on a vein).
    fn side_veins(&self, t: f64, s: f64, width: f64, side: usize) -> (f64, f64) {
        let cultivar = self.cultivar;
        let gap = (VEINS.1 - VEINS.0) / cultivar.veins;
        let origin = t - s * self.vein.1 - cultivar.vein_curve * s * s;
        let place = (origin - VEINS.0) / gap - self.pose.phases[side];
        let offsets = &self.vein_offsets[side];
        let nearest = place.round_ties_even();
        if nearest < 0.0 || nearest >= offsets.len() as f64 {
            return (0.0, place);
        }
        let distance = (place - nearest - offsets[nearest as usize]).abs() * gap * self.vein.0 * self.pixels;
        let taper = 1.0 - 0.65 * (s / width.max(1e-6)).min(1.0);
        (Self::line(distance, 0.0075 * taper * self.pixels), place)
    }

    /// Cover of the cross veins: a ladder between two side veins, shifted from one gap to the next.
    fn cross_veins(&self, s: f64, place: f64, side: usize) -> f64 {
        let gap = place.floor();
        let shift = noise::uniform(noise::hash(self.pose.noise, gap as i64, 77 + side as i64), 2);
        let rung = s * self.cultivar.cross_veins + shift + 0.15 * (place - gap);
        let distance = (rung - rung.round_ties_even()).abs() / self.cultivar.cross_veins * self.pixels;
        Self::line(distance, 0.005 * self.pixels)
    }

    /// Cover of the spot in this cell of the blade, if it has one. A spot lies wholly inside its cell.
    fn spot(&self, t: f64, s: f64) -> f64 {
        let (x, y) = (t / CELL, s / CELL);
        let (cx, cy) = (x.floor(), y.floor());
        let bits = noise::hash(self.pose.noise ^ 3, cx as i64, cy as i64);
        if noise::uniform(bits, 0) >= self.cultivar.spots {
            return 0.0;
        }
        let radius = 0.18 + 0.22 * noise::uniform(bits, 1);
        let centre = |k: u32| radius + (1.0 - 2.0 * radius) * noise::uniform(bits, k);
        let (dx, dy) = (x - cx - centre(2), y - cy - centre(3));
        let distance = (radius - (dx * dx + dy * dy).sqrt()) * CELL * self.pixels;
        (distance + 0.5).clamp(0.0, 1.0)
    }
}

/// Half-widths of one side: `W t^a (1−t)^b`, scaled to its maximum, with lobes, teeth and irregularities.
fn outline(cultivar: &Cultivar, pose: &Pose, side: f64) -> Vec<f64> {
    let (a, b) = (cultivar.base, cultivar.tip);
    let peak = pow(a / (a + b), a) * pow(b / (a + b), b);
    let half = 0.5 * cultivar.width * (1.0 + side * pose.asymmetry);
    let phase = |k: usize| pose.phases[k + if side > 0.0 { 1 } else { 0 }];
    (0..=STEPS)
        .map(|step| {
            let t = step as f64 / STEPS as f64;
            let body = pow(t, a) * pow(1.0 - t, b) / peak;
            let lobe = 0.5 - 0.5 * cos(2.0 * PI * (cultivar.lobes * t + 0.15 * phase(2)));
            let along = cultivar.teeth * t + phase(4);
            let tooth = along - along.floor();
            let tooth = if tooth < 0.3 { 1.0 - tooth / 0.3 } else { (tooth - 0.3) / 0.7 };
            let wobble = sin(2.0 * PI * (2.0 * t + phase(6))) + 0.6 * sin(2.0 * PI * (5.0 * t + phase(4)));
            let ends = (4.0 * body).min(1.0);
            let width = half * body * (1.0 - cultivar.lobe_depth * lobe);
            (width - ends * (cultivar.tooth_depth * tooth + pose.wobble * wobble)).max(0.0)
        })
        .collect()
}
