use super::*;
use crate::augment::{JitterPart, flip, jitter};
use crate::decode::Rgb;
use crate::resize::resize;

const SEEDS: u64 = 42;

fn image(width: usize, height: usize) -> Rgb {
    let level = |x: usize, y: usize, c: usize| (40 + x * 3 + y * 2 + c * 30 + (x * y) % 11) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| level(x, y, c))));
    Rgb { width, height, data: pixels.collect() }
}

fn plan(augment: &AugmentConfig, norm: Normalise, epoch: u64, want: WantViews) -> TrainPlan {
    TrainPlan { augment: augment.clone(), size: 16, norm, seeds: Seeds::new(SEEDS), epoch, want }
}

fn views(augment: &AugmentConfig, epoch: u64, item: u64, want: WantViews) -> Views {
    train_views(image(32, 28).as_ref(), &plan(augment, Normalise::default(), epoch, want), item)
}

const ALL: WantViews = WantViews { positive: true, teacher: true };

#[test]
fn what_is_wanted_changes_nothing_in_the_others() {
    let config = AugmentConfig { rotation: 15.0, contrast: 0.2, ..AugmentConfig::default() };
    let all = views(&config, 3, 5, ALL);
    assert_eq!(
        views(&config, 3, 5, WantViews::default()),
        Views { anchor: all.anchor.clone(), positive: None, teacher: None }
    );
    let teacher = views(&config, 3, 5, WantViews { positive: false, teacher: true });
    assert_eq!((&teacher.anchor, &teacher.teacher), (&all.anchor, &all.teacher));
    let positive = views(&config, 3, 5, WantViews { positive: true, teacher: false });
    assert_eq!((&positive.anchor, &positive.positive), (&all.anchor, &all.positive));
    // What is done to the positive view only does not reach the anchor.
    let plain = AugmentConfig { erase_area: [0.0, 0.0], shuffle_grid: 1, ..config };
    assert_eq!(views(&plain, 3, 5, ALL).anchor, all.anchor);
    assert_ne!(views(&plain, 3, 5, ALL).positive, all.positive);
}

#[test]
fn epochs_items_and_seeds_have_views_of_their_own() {
    let config = AugmentConfig::default();
    let anchor = |epoch, item| views(&config, epoch, item, WantViews::default()).anchor;
    assert_eq!(anchor(1, 2), anchor(1, 2));
    assert_ne!(anchor(1, 2), anchor(2, 1));
    assert_ne!(anchor(1, 2), anchor(1, 3));
}

#[test]
fn the_teacher_differs_from_the_anchor_by_light_alone() {
    let norm = Normalise { mean: [0.0; 3], std: [1.0; 3] };
    let config = AugmentConfig { crop_scale: [0.3, 0.5], brightness: 0.2, rotation: 0.0, ..AugmentConfig::default() };
    let dark = Rgb { data: image(32, 28).data.iter().map(|v| v / 3).collect(), ..image(32, 28) };
    let got = train_views(dark.as_ref(), &plan(&config, norm, 0, ALL), 0);
    let (anchor, teacher) = (got.anchor, got.teacher.unwrap());
    // Nothing is clamped in a dark image, so the two differ by one factor.
    let factor = teacher[100] / anchor[100];
    assert!((factor - 1.0).abs() > 1e-3 && (0.8 / 1.2..1.2 / 0.8).contains(&factor), "{factor}");
    assert!(anchor.iter().zip(&teacher).all(|(a, t)| (t - factor * a).abs() < 1e-5));
}

#[test]
fn the_positive_view_is_erased_then_shuffled() {
    // Without crop, flip and jitter, the tiles of the positive view are those of the anchor or partly erased.
    let config = AugmentConfig { erase_area: [0.15, 0.45], shuffle_grid: 2, ..AugmentConfig::none() };
    let got = train_views(image(16, 16).as_ref(), &plan(&config, Normalise::default(), 0, ALL), 1);
    let (anchor, positive) = (got.anchor, got.positive.unwrap());
    let erased = positive[..256].iter().filter(|&&v| v == 0.0).count() as f64 / 256.0;
    assert!((0.12..0.5).contains(&erased), "{erased}");
    let tile = |v: &[f32], k: usize| -> Vec<f32> {
        (0..64).map(|i| v[((k / 2) * 8 + i / 8) * 16 + (k % 2) * 8 + i % 8]).collect()
    };
    let mut used = std::collections::HashSet::new();
    for place in 0..4 {
        let got = tile(&positive, place);
        let fits = |k: &usize| tile(&anchor, *k).iter().zip(&got).all(|(a, g)| *g == 0.0 || a == g);
        let source = (0..4).filter(|k| !used.contains(k)).find(fits).expect("a tile of the anchor");
        used.insert(source);
    }
}

#[test]
fn without_augmentation_a_view_is_the_normalised_image() {
    let source = image(16, 16);
    let got = train_views(source.as_ref(), &plan(&AugmentConfig::none(), Normalise::default(), 0, ALL), 0);
    assert_eq!(Some(&got.anchor), got.positive.as_ref());
    assert_eq!(Some(&got.anchor), got.teacher.as_ref());
    let want = (f32::from(source.data[(3 * 16 + 2) * 3 + 1]) / 255.0 - 0.456) / 0.224;
    assert_eq!(got.anchor[256 + 3 * 16 + 2], want);
}

#[test]
fn evaluation_cuts_the_centre() {
    let norm = Normalise { mean: [0.0; 3], std: [1.0 / 255.0; 3] };
    let source = image(9, 5);
    let eval = EvalConfig { resize: 5, filter: Filter::Bilinear };
    let got = eval_view(source.as_ref(), &eval, 4, &norm);
    // Columns: (9 − 4) / 2 = 2.5 → 2; rows: 0.5 → 0, both rounded to even as torchvision does.
    for (c, y, x) in (0..3).flat_map(|c| (0..16).map(move |k| (c, k / 4, k % 4))) {
        let want = f32::from(source.data[(y * 9 + x + 2) * 3 + c]);
        assert!((got[c * 16 + y * 4 + x] - want).abs() < 1e-3, "{c} {y} {x}");
    }
    let resized = eval_view(source.as_ref(), &EvalConfig { resize: 10, filter: Filter::Bicubic }, 10, &norm);
    let want = resize(source.as_ref(), 18, 10, Filter::Bicubic);
    assert!((resized[0] - f32::from(want.data[4 * 3])).abs() < 1e-3);
}

/// Levels over 255, mirrored, jittered, normalised: step by step.
fn plainly(cut: &Rgb, flipped: bool, steps: &[(JitterPart, f32)], norm: &Normalise) -> Vec<f32> {
    let size = cut.width;
    let mut planes: Vec<f32> =
        (0..3).flat_map(|c| cut.data.iter().skip(c).step_by(3).map(|&v| f32::from(v) / 255.0)).collect();
    if flipped {
        flip::apply(&mut planes, size);
    }
    jitter::apply(&mut planes, &jitter::JitterParams { steps: steps.to_vec() });
    norm.apply(&mut planes);
    planes
}

#[test]
fn rendering_in_one_go_gives_the_bits_of_the_single_steps() {
    use JitterPart::{Brightness, Contrast, Hue, Saturation};
    let (cut, norm) = (image(16, 16), Normalise::default());
    let steps: &[&[(JitterPart, f32)]] = &[
        &[],
        &[(Brightness, 1.27)],
        &[(Brightness, 0.0)],
        &[(Brightness, 0.9), (Saturation, 1.4)],
        &[(Contrast, 0.7), (Brightness, 1.6), (Hue, 0.2)],
    ];
    for (steps, flipped) in steps.iter().flat_map(|s| [(s, false), (s, true)]) {
        let mut got = vec![f32::NAN; 3 * 256];
        light::render(cut.as_ref(), (0, 0, 16, 16), flipped, steps, &norm, &mut got);
        let want = plainly(&cut, flipped, steps, &norm);
        assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{steps:?} {flipped}");
    }
}

#[test]
fn hue_changes_nothing_but_colours() {
    let config = AugmentConfig { saturation: 0.2, ..AugmentConfig::default() };
    let with = AugmentConfig { hue: 0.2, ..config.clone() };
    let (one, two) = (views(&config, 0, 0, ALL), views(&with, 0, 0, ALL));
    assert_ne!(one.anchor, two.anchor);
    // The draws after it, of the erased rectangle, are the same ones.
    let erased = |views: Views| views.positive.unwrap().iter().map(|&v| v == 0.0).collect::<Vec<_>>();
    assert_eq!(erased(one), erased(two));
}

#[test]
fn settings_out_of_range_are_named() {
    let eval = EvalConfig { resize: 200, filter: Filter::Bicubic };
    assert_eq!(
        eval.validate(224).unwrap_err().to_string(),
        "`resize` = 200: must be at least the size of the views, 224"
    );
    assert!(eval.validate(200).is_ok());
    let norm = Normalise { std: [0.2, 0.0, 0.2], ..Normalise::default() };
    assert_eq!(norm.validate().unwrap_err().to_string(), "`std` = [0.2, 0.0, 0.2]: must be above 0");
    assert!(Normalise::default().validate().is_ok());
}

#[test]
fn settings_are_read_from_toml() {
    let eval: EvalConfig = toml::from_str("resize = 256\nfilter = \"bicubic\"").unwrap();
    assert_eq!(eval, EvalConfig { resize: 256, filter: Filter::Bicubic });
    let error = toml::from_str::<EvalConfig>("resize = 256\nfilter = \"nearest\"").unwrap_err().to_string();
    assert!(error.contains("expected `bilinear` or `bicubic`"), "{error}");
    let norm: Normalise = toml::from_str("mean = [0.5, 0.5, 0.5]").unwrap();
    assert_eq!(norm, Normalise { mean: [0.5; 3], ..Normalise::default() });
}
