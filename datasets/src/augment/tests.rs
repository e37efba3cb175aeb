use proptest::prelude::*;
use random::{Axis, Seeds, Stream};

use super::*;
use crate::decode::Rgb;

fn stream(seed: u64) -> Stream {
    Seeds::new(seed).stream(Axis::Test, &[])
}

fn ramp(width: usize, height: usize) -> Rgb {
    Rgb { width, height, data: (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect() }
}

fn planes(size: usize) -> Vec<f32> {
    (0..3 * size * size).map(|i| (i + 1) as f32 / (3 * size * size) as f32).collect()
}

#[test]
fn a_crop_without_resizing_is_the_rectangle() {
    let image = ramp(5, 4);
    let crop = CropParams { left: 2, top: 1, width: 2, height: 2 };
    let got = random_resized_crop::apply(image.as_ref(), crop, 2);
    let want: Vec<u8> = [(2, 1), (3, 1), (2, 2), (3, 2)]
        .iter()
        .flat_map(|&(x, y): &(usize, usize)| image.data[(y * 5 + x) * 3..][..3].to_vec())
        .collect();
    assert_eq!(got.data, want);
}

#[test]
fn a_crop_that_never_fits_falls_back_to_the_centre() {
    // Ratio 3/4 to 4/3 at full area never fits into 100×10; the fallback is as wide as 4/3 allows.
    let crop = random_resized_crop::draw(100, 10, [1.0, 1.0], [0.75, 4.0 / 3.0], &mut stream(1));
    assert_eq!(crop, CropParams { left: 43, top: 0, width: 13, height: 10 });
    let crop = random_resized_crop::draw(10, 100, [1.0, 1.0], [0.75, 4.0 / 3.0], &mut stream(1));
    assert_eq!(crop, CropParams { left: 0, top: 43, width: 10, height: 13 });
}

#[test]
fn crops_cover_area_and_ratio() {
    let mut stream = stream(2);
    let crops: Vec<CropParams> =
        (0..4000).map(|_| random_resized_crop::draw(300, 300, [0.2, 0.8], [0.75, 4.0 / 3.0], &mut stream)).collect();
    let areas: Vec<f64> = crops.iter().map(|c| (c.width * c.height) as f64 / 9e4).collect();
    assert!(areas.iter().all(|&a| (0.19..0.81).contains(&a)));
    // Uniform in [0.2, 0.8]: mean 0.5, standard error 0.173 / √4000 = 0.0027.
    let mean = areas.iter().sum::<f64>() / 4000.0;
    assert!((mean - 0.5).abs() < 0.014, "{mean}");
    let wide = crops.iter().filter(|c| c.width > c.height).count();
    assert!((1800..2200).contains(&wide), "{wide}");
    assert!(crops.iter().any(|c| c.left == 0) && crops.iter().any(|c| c.left + c.width == 300));
}

#[test]
fn a_flip_mirrors_columns() {
    let mut planes: Vec<f32> = (0..12u8).map(f32::from).collect();
    flip::apply(&mut planes, 2);
    assert_eq!(planes, [1.0, 0.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0, 9.0, 8.0, 11.0, 10.0]);
    let mut stream = stream(3);
    let flips = (0..10_000).filter(|_| flip::draw(0.3, &mut stream)).count();
    // Five standard errors of a binomial: 5·√(10⁴·0.21) = 229.
    assert!((2771..3229).contains(&flips), "{flips}");
    assert!(!flip::draw(0.0, &mut stream) && flip::draw(1.0, &mut stream));
}

#[test]
fn jitter_is_that_of_torchvision() {
    // One pixel (0.2, 0.4, 0.8) and one (0.6, 0.1, 0.3); grey levels 0.38578 and 0.27224, mean 0.32901.
    let image = [0.2f32, 0.6, 0.4, 0.1, 0.8, 0.3];
    let run = |part, factor| {
        let mut planes = image;
        jitter::apply(&mut planes, &JitterParams { steps: vec![(part, factor)] });
        planes
    };
    let close = |got: [f32; 6], want: [f32; 6]| {
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} is not {want:?}");
    };
    close(run(JitterPart::Brightness, 1.5), [0.3, 0.9, 0.6, 0.15, 1.0, 0.45]);
    close(run(JitterPart::Contrast, 0.5), [0.264505, 0.464505, 0.364505, 0.214505, 0.564505, 0.314505]);
    close(run(JitterPart::Saturation, 0.5), [0.29289, 0.43612, 0.39289, 0.18612, 0.59289, 0.28612]);
    close(run(JitterPart::Saturation, 0.0), [0.38578, 0.27224, 0.38578, 0.27224, 0.38578, 0.27224]);
}

#[test]
fn jitter_steps_are_applied_in_order() {
    let mut planes = [0.8f32, 0.8, 0.8];
    let steps = vec![(JitterPart::Brightness, 2.0), (JitterPart::Brightness, 0.5)];
    jitter::apply(&mut planes, &JitterParams { steps });
    assert_eq!(planes, [0.5; 3], "clamped to 1 before it is halved");
}

#[test]
fn jitter_draws_every_order_and_leaves_out_what_is_off() {
    let config =
        AugmentConfig { brightness: 0.3, contrast: 1.5, saturation: 0.2, hue: 0.1, ..AugmentConfig::default() };
    let (mut draws, mut hue) = (stream(4), stream(40));
    let mut orders = std::collections::HashMap::new();
    for _ in 0..24_000 {
        let params = jitter::draw(&config, &mut draws, &mut hue);
        *orders.entry(params.steps.iter().map(|s| s.0).collect::<Vec<_>>()).or_insert(0) += 1;
        for (part, factor) in params.steps {
            let range = match part {
                JitterPart::Brightness => 0.7..1.3,
                JitterPart::Contrast => 0.0..2.5,
                JitterPart::Saturation => 0.8..1.2,
                JitterPart::Hue => -0.1..0.1,
            };
            assert!(range.contains(&factor), "{part:?} {factor}");
        }
    }
    assert_eq!(orders.len(), 24);
    // Five standard errors: 5·√1000 = 158.
    assert!(orders.values().all(|&n: &i32| (n - 1000).abs() < 160), "{orders:?}");
    let only = jitter::draw(&AugmentConfig::default(), &mut draws, &mut hue);
    assert_eq!(only.steps.iter().map(|s| s.0).collect::<Vec<_>>(), [JitterPart::Brightness]);
    // What is on does not change what is drawn afterwards.
    let (mut one, mut two) = (stream(5), stream(5));
    jitter::draw(&config, &mut one, &mut hue);
    jitter::draw(&AugmentConfig::none(), &mut two, &mut hue);
    assert_eq!(one.bits(), two.bits());
}

#[test]
fn a_quarter_turn_is_counter_clockwise() {
    let size = 3;
    let mut got = planes(size);
    let source = got.clone();
    rotate::apply(&mut got, size, RotateParams { degrees: 90.0 });
    for (c, y, x) in (0..3).flat_map(|c| (0..9).map(move |k| (c, k / 3, k % 3))) {
        let want = source[c * 9 + x * 3 + (2 - y)];
        assert!((got[c * 9 + y * 3 + x] - want).abs() < 1e-6, "{c} {y} {x}");
    }
}

#[test]
fn pixels_inside_and_at_the_border_are_the_same_sum() {
    // An image inside a frame of zeros: its border pixels are then inside, and come to the same.
    let (size, frame) = (6, 4);
    let framed_size = size + 2 * frame;
    let mut plain = planes(size);
    let mut framed = vec![0.0f32; 3 * framed_size * framed_size];
    let at = |c: usize, y: usize, x: usize| (c * framed_size + y + frame) * framed_size + x + frame;
    for (k, &value) in plain.iter().enumerate() {
        framed[at(k / 36, k / 6 % 6, k % 6)] = value;
    }
    rotate::apply(&mut plain, size, RotateParams { degrees: 23.0 });
    rotate::apply(&mut framed, framed_size, RotateParams { degrees: 23.0 });
    for (k, value) in plain.iter().enumerate() {
        let other = framed[at(k / 36, k / 6 % 6, k % 6)];
        assert!((value - other).abs() <= 1e-6, "{k}: {value} {other}");
    }
    assert!(plain.iter().any(|&v| v != 0.0));
}

#[test]
fn rotation_fills_with_the_mean() {
    let mut image = vec![1.0f32; 3 * 64];
    rotate::apply(&mut image, 8, RotateParams { degrees: 45.0 });
    assert_eq!(image[0], 0.0, "a corner comes from outside");
    assert!((image[3 * 8 + 3] - 1.0).abs() < 1e-6, "the centre stays");
    let mut still = planes(4);
    rotate::apply(&mut still, 4, RotateParams { degrees: 0.0 });
    assert_eq!(still, planes(4));
    let mut draws = stream(6);
    let angles: Vec<f64> = (0..2000).map(|_| rotate::draw(15.0, &mut draws).degrees).collect();
    assert!(
        angles.iter().all(|a| a.abs() <= 15.0) && angles.iter().any(|&a| a > 14.0) && angles.iter().any(|&a| a < -14.0)
    );
}

#[test]
fn erasing_sets_one_rectangle_to_zero() {
    let size = 6;
    let mut got = planes(size);
    erase::apply(&mut got, size, EraseParams { left: 1, top: 2, width: 3, height: 2 });
    for (i, (value, before)) in got.iter().zip(planes(size)).enumerate() {
        let (y, x) = (i % 36 / 6, i % 6);
        let inside = (1..4).contains(&x) && (2..4).contains(&y);
        assert_eq!(*value, if inside { 0.0 } else { before }, "{i}");
    }
}

#[test]
fn erased_rectangles_have_the_drawn_area() {
    let mut draws = stream(7);
    let mut areas = Vec::new();
    for _ in 0..3000 {
        let Some(p) = erase::draw(224, [0.15, 0.45], [0.3, 3.3], &mut draws) else { continue };
        let aspect = p.height as f64 / p.width as f64;
        assert!((0.29..3.4).contains(&aspect), "{p:?}");
        areas.push((p.width * p.height) as f64 / (224.0 * 224.0));
    }
    assert!(areas.len() > 2990, "{}", areas.len());
    assert!(areas.iter().all(|&a| (0.145..0.455).contains(&a)));
    assert!(areas.iter().any(|&a| a < 0.17) && areas.iter().any(|&a| a > 0.43));
    assert_eq!(erase::draw(224, [0.0, 0.0], [0.3, 3.3], &mut draws), None);
    assert_eq!(erase::draw(10, [0.9, 0.95], [50.0, 50.0], &mut draws), None, "never fits");
}

#[test]
fn tiles_move_as_a_whole_and_the_rest_stays() {
    // 5 pixels on a grid of 2: tiles of 2, the last row and column stay.
    let size = 5;
    let mut got = planes(size);
    let before = got.clone();
    shuffle::apply(&mut got, size, &ShuffleParams { grid: 2, order: vec![3, 0, 1, 2] });
    let at = |v: &[f32], y: usize, x: usize| v[25 + y * 5 + x];
    assert_eq!(at(&got, 0, 0), at(&before, 2, 2), "place 0 receives tile 3");
    assert_eq!(at(&got, 1, 3), at(&before, 1, 1), "place 1 receives tile 0");
    assert_eq!(at(&got, 3, 0), at(&before, 1, 2), "place 2 receives tile 1");
    for k in 0..5 {
        assert_eq!((at(&got, 4, k), at(&got, k, 4)), (at(&before, 4, k), at(&before, k, 4)));
    }
}

#[test]
fn all_permutations_of_four_tiles_are_equally_likely() {
    let mut draws = stream(8);
    let mut counts = std::collections::HashMap::new();
    for _ in 0..24_000 {
        *counts.entry(shuffle::draw(2, &mut draws).order).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 24);
    // Five standard errors: 5·√1000 = 158.
    assert!(counts.values().all(|&n: &i32| (n - 1000).abs() < 160), "{counts:?}");
}

#[test]
fn settings_out_of_range_are_named() {
    let message = |change: fn(&mut AugmentConfig)| {
        let mut config = AugmentConfig::default();
        change(&mut config);
        config.validate(64).unwrap_err().to_string()
    };
    assert!(AugmentConfig::default().validate(64).is_ok() && AugmentConfig::none().validate(1).is_ok());
    assert_eq!(message(|c| c.crop_scale = [0.9, 0.5]), "`crop_scale` = [0.9, 0.5]: needs 0.0001 ≤ low ≤ high ≤ 1");
    assert_eq!(message(|c| c.erase_area = [0.1, f64::NAN]), "`erase_area` = [0.1, NaN]: needs 0 ≤ low ≤ high ≤ 0.95");
    assert_eq!(message(|c| c.flip = 1.5), "`flip` = 1.5: is a probability, 0 to 1");
    assert_eq!(message(|c| c.rotation = -3.0), "`rotation` = -3: must be 0 to 180 degrees");
    assert_eq!(message(|c| c.shuffle_grid = 0), "`shuffle_grid` = 0: must be 1 to the size of the views, 64");
    assert_eq!(message(|c| c.hue = 0.6), "`hue` = 0.6: must be 0 to 0.5");
    assert_eq!(message(|c| c.contrast = -0.1), "`contrast` = -0.1: must be 0 to 10");
}

#[test]
fn settings_are_read_from_toml() {
    let config: AugmentConfig = toml::from_str("rotation = 15.0\nshuffle_grid = 4").unwrap();
    assert_eq!(config, AugmentConfig { rotation: 15.0, shuffle_grid: 4, ..AugmentConfig::default() });
    let error = toml::from_str::<AugmentConfig>("rotate = 15.0").unwrap_err().to_string();
    assert!(error.contains("unknown field `rotate`") && error.contains("`rotation`"), "{error}");
    let coloured = AugmentConfig { hue: 0.1, ..AugmentConfig::default() };
    assert_eq!(toml::from_str::<AugmentConfig>(&toml::to_string(&coloured).unwrap()).unwrap(), coloured);
    let text = toml::to_string(&AugmentConfig::none()).unwrap();
    assert!(!text.contains("hue"), "what is off is not part of an identity: {text}");
    assert_eq!(toml::from_str::<AugmentConfig>(&text).unwrap(), AugmentConfig::none());
}

proptest! {
    #[test]
    fn drawn_rectangles_lie_inside(seed: u64, w in 1usize..400, h in 1usize..400, size in 2usize..300) {
        let mut draws = stream(seed);
        let crop = random_resized_crop::draw(w, h, [0.08, 1.0], [0.75, 4.0 / 3.0], &mut draws);
        prop_assert!(crop.width >= 1 && crop.height >= 1 && crop.left + crop.width <= w && crop.top + crop.height <= h);
        if let Some(p) = erase::draw(size, [0.02, 0.6], [0.3, 3.3], &mut draws) {
            prop_assert!(p.left + p.width <= size && p.top + p.height <= size && p.width < size && p.height < size);
        }
    }

    #[test]
    fn shuffling_permutes_the_values(seed: u64, size in 1usize..24, grid in 1usize..6) {
        prop_assume!(grid <= size);
        let mut got = planes(size);
        shuffle::apply(&mut got, size, &shuffle::draw(grid, &mut stream(seed)));
        got.sort_by(f32::total_cmp);
        prop_assert_eq!(got, planes(size));
    }

    #[test]
    fn flipping_twice_changes_nothing(size in 1usize..20) {
        let mut image = planes(size);
        flip::apply(&mut image, size);
        flip::apply(&mut image, size);
        prop_assert_eq!(image, planes(size));
    }
}
