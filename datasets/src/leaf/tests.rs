use super::*;

fn config() -> GeneratedConfig {
    GeneratedConfig {
        classes: 4,
        train_per_class: PerClass::Range { min: 1, max: 5 },
        test_per_class: PerClass::Fixed(2),
        size: 48,
        seed: 11,
        separation: 1.0,
    }
}

fn hashes(found: &Found) -> Vec<String> {
    found.train.iter().chain(&found.test).map(|item| item.sha256.clone()).collect()
}

/// The leaf of a class at 96 pixels.
fn pixels(class: usize, index: usize, separation: f64) -> Rgb {
    let seeds = Seeds::new(7);
    let species = Species::draw(seeds);
    let cultivar = Cultivar::draw(&species, seeds, class, separation);
    draw::leaf(&cultivar, &Pose::draw(&species, seeds, &format!("leaf {class} train {index}")), 96)
}

#[test]
fn pixels_are_the_same_on_every_machine() {
    // Stored results depend on these pixels: a change here is a change of every result on generated leaves.
    let hash = sha256_hex(&pixels(3, 1, 1.0).data);
    assert_eq!(hash, "83db9df447ee497a60529e6ddbe0ac42ca2a0faa28e1e004fb9ec8b0de584ac5");
}

#[test]
fn the_same_for_any_number_of_threads() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        hashes(&pool.install(|| generate(&config()).unwrap()))
    };
    assert_eq!(with(1), with(2));
}

#[test]
fn more_classes_or_images_change_no_other_image() {
    let small = generate(&config()).unwrap();
    let large = generate(&GeneratedConfig { classes: 6, test_per_class: PerClass::Fixed(3), ..config() }).unwrap();
    let known = hashes(&large);
    assert!(hashes(&small).iter().all(|hash| known.contains(hash)));
    let other = hashes(&generate(&GeneratedConfig { seed: 12, ..config() }).unwrap());
    assert!(hashes(&small).iter().all(|hash| !other.contains(hash)));
}

#[test]
fn counts_are_those_asked_for() {
    let found = generate(&GeneratedConfig { classes: 40, size: 16, ..config() }).unwrap();
    let count = |items: &[Item], class: u32| items.iter().filter(|item| item.label == class).count();
    let train: Vec<usize> = (0..40).map(|c| count(&found.train, c)).collect();
    assert_eq!((train.iter().min(), train.iter().max()), (Some(&1), Some(&5)), "{train:?}");
    assert!((0..40).all(|c| count(&found.test, c) == 2));
    assert_eq!((found.classes[0].as_str(), found.classes[39].as_str()), ("cultivar-01", "cultivar-40"));
    let fixed = generate(&GeneratedConfig { train_per_class: PerClass::Fixed(3), size: 16, ..config() }).unwrap();
    assert_eq!(fixed.train.len(), 12);
}

#[test]
fn encoded_leaves_decode_to_what_was_drawn() {
    let image = pixels(0, 0, 1.0);
    let bytes = encode(&image, "here").unwrap();
    assert_eq!(crate::decode::decode_bytes(&bytes, "here").unwrap(), image);
}

#[test]
fn without_separation_all_cultivars_are_one() {
    let seeds = Seeds::new(7);
    let species = Species::draw(seeds);
    let at = |class, separation| Cultivar::draw(&species, seeds, class, separation);
    assert_eq!(at(0, 0.0), at(9, 0.0));
    assert_eq!(at(0, 0.0).width, species.mean.width);
    assert_ne!(at(0, 1.0), at(9, 1.0));
    let (near, far) = (at(0, 0.5).tip - species.mean.tip, at(0, 1.0).tip - species.mean.tip);
    assert!((far / near - 2.0).abs() < 1e-9, "{near} {far}");
}

/// Ultra-fine-grained: pictures of a class differ among themselves almost as much as from those of another class.
#[test]
fn variation_within_a_class_outweighs_that_between_classes() {
    let images: Vec<Vec<Rgb>> = (0..6).map(|c| (0..6).map(|k| pixels(c, k, SEPARATION)).collect()).collect();
    let difference = |a: &Rgb, b: &Rgb| {
        a.data.iter().zip(&b.data).map(|(x, y)| f64::from(x.abs_diff(*y))).sum::<f64>() / a.data.len() as f64
    };
    let (mut within, mut between) = ((0.0, 0), (0.0, 0));
    for (i, j) in (0..36).flat_map(|i| (0..i).map(move |j| (i, j))) {
        let sum = if i / 6 == j / 6 { &mut within } else { &mut between };
        sum.0 += difference(&images[i / 6][i % 6], &images[j / 6][j % 6]);
        sum.1 += 1;
    }
    let ratio = (within.0 / f64::from(within.1)) / (between.0 / f64::from(between.1));
    assert!(ratio > 0.85, "within / between = {ratio}");
}

#[test]
fn a_leaf_lies_on_a_light_ground() {
    for k in 0..12 {
        let image = pixels(k, 0, 1.0);
        let green = image.data.chunks_exact(3).filter(|p| p[1] > p[2] && p[1] - p[2] > 30).count();
        let share = green as f64 / (96.0 * 96.0);
        assert!((0.12..0.7).contains(&share), "leaf {k} covers {share}");
        let corners =
            [0, 95, 95 * 96, 96 * 96 - 1].map(|i| image.data[i * 3..][..3].iter().min().copied().unwrap_or(0));
        assert!(corners.iter().filter(|&&level| level > 130).count() >= 3, "leaf {k}: {corners:?}");
    }
}

#[test]
fn values_out_of_range_are_named() {
    let message = |change: fn(&mut GeneratedConfig)| {
        let mut config = config();
        change(&mut config);
        let error = config.validate().unwrap_err();
        assert!(error.is_configuration());
        error.to_string()
    };
    assert!(config().validate().is_ok());
    assert_eq!(message(|c| c.classes = 1), "`generated.classes` = 1: must be 2 to 10000");
    assert_eq!(message(|c| c.size = 8), "`generated.size` = 8: must be 16 to 1024 pixels");
    assert_eq!(
        message(|c| c.test_per_class = PerClass::Fixed(0)),
        "`generated.test_per_class` = 0: needs 1 ≤ min ≤ max ≤ 100000"
    );
    assert_eq!(message(|c| c.separation = f64::NAN), "`generated.separation` = NaN: must be 0 to 4");
    assert_eq!(
        message(|c| c.train_per_class = PerClass::Range { min: 3, max: 2 }),
        "`generated.train_per_class` = { min = 3, max = 2 }: needs 1 ≤ min ≤ max ≤ 100000"
    );
}
