//! Views of bytes and recipes against those that `datasets` makes on the CPU, bit for bit.

use datasets::augment::{CropParams, EraseParams, JitterParams, JitterPart, RotateParams, ShuffleParams};
use datasets::{Normalise, Place, Recipe, RgbRef};
use random::{Axis, Seeds, Stream};

use super::super::augment::views;
use super::super::device::Device;
use super::{Emulator, Order};
use crate::images::{RECIPE_WORDS, Recipes};

/// A batch of images, all of whose pixels are told apart by their neighbours.
struct Images {
    pixels: Vec<u8>,
    places: Vec<Place>,
}

impl Images {
    fn draw(sides: &[(usize, usize)], stream: &mut Stream) -> Self {
        let mut images = Self { pixels: Vec::new(), places: Vec::new() };
        for &(width, height) in sides {
            images.places.push(Place { offset: images.pixels.len(), width, height });
            // Noise, and a part that is black and white.
            images.pixels.extend((0..width * height * 3).map(|at| match at / 3 % 7 {
                0 => 0,
                1 => 255,
                _ => stream.below(256) as u8,
            }));
        }
        images
    }

    fn of(&self, image: usize) -> RgbRef<'_> {
        let Place { offset, width, height } = self.places[image];
        RgbRef { width, height, data: &self.pixels[offset..][..width * height * 3] }
    }
}

fn whole(image: RgbRef<'_>) -> Recipe {
    Recipe {
        crop: CropParams { left: 0, top: 0, width: image.width, height: image.height },
        flip: false,
        jitter: JitterParams { steps: vec![] },
        rotate: RotateParams { degrees: 0.0 },
        erase: None,
        shuffle: None,
    }
}

fn words(recipes: &[Recipe], places: &[Place]) -> Vec<u32> {
    assert_eq!(RECIPE_WORDS, datasets::RECIPE_WORDS);
    datasets::recipe_words(recipes, places)
}

/// The device gives the CPU's bits, in every order of threads and blocks.
fn same(what: &str, images: &Images, of: &[usize], recipes: &[Recipe], size: usize) {
    let norm = Normalise::default();
    let want: Vec<f32> =
        of.iter().zip(recipes).flat_map(|(&image, recipe)| recipe.apply(images.of(image), size, &norm)).collect();
    let places: Vec<Place> = of.iter().map(|&image| images.places[image]).collect();
    let words = words(recipes, &places);
    let checked = Recipes::new(words, recipes.len(), size, (norm.mean, norm.std), images.pixels.len()).unwrap();
    for order in Order::ALL {
        let device = Emulator(order);
        let (pixels, words) = (device.upload(&images.pixels).unwrap(), device.upload(checked.words()).unwrap());
        let got = views(&device, device.view(&pixels), device.view(&words), &checked).unwrap();
        let got = device.download(&got).unwrap();
        assert_eq!(got.len(), want.len(), "{what}");
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            let (view, rest) = (at / (3 * size * size), at % (3 * size * size));
            assert!(
                got.to_bits() == want.to_bits(),
                "{what}, {order:?}, view {view}, number {rest} of {size}×{size}: {got:e}, the CPU's is {want:e}"
            );
        }
    }
}

/// Every image with one recipe, made by `change` of the whole image's.
fn each(what: &str, size: usize, change: impl Fn(usize, RgbRef<'_>, &mut Recipe)) {
    let mut stream = Seeds::new(70).stream(Axis::Test, &[size as u64]);
    let images = Images::draw(&[(size, size), (17, 23), (40, 31), (1, 1), (7, 64)], &mut stream);
    let of: Vec<usize> = (0..images.places.len()).collect();
    let recipes: Vec<Recipe> = of
        .iter()
        .map(|&image| {
            let mut recipe = whole(images.of(image));
            change(image, images.of(image), &mut recipe);
            recipe
        })
        .collect();
    same(what, &images, &of, &recipes, size);
}

const SIZES: [usize; 2] = [14, 29];

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn resizing_of_crops() {
    for size in SIZES {
        each("whole images", size, |_, _, _| ());
        each("crops", size, |k, image, recipe| {
            let (width, height) = (image.width.div_ceil(k % 3 + 1), image.height.div_ceil(2));
            recipe.crop = CropParams { left: image.width - width, top: (image.height - height) / 2, width, height };
        });
        each("single pixels", size, |_, image, recipe| {
            recipe.crop = CropParams { left: image.width - 1, top: image.height - 1, width: 1, height: 1 };
        });
    }
    // The ratio of sides of 256 to views of 224 and 448, and a reduction of many taps.
    let mut stream = Seeds::new(71).stream(Axis::Test, &[]);
    for (side, size) in [(32, 28), (32, 56), (150, 4), (3, 1)] {
        let images = Images::draw(&[(side, side + 5)], &mut stream);
        let mut part = whole(images.of(0));
        part.crop = CropParams { left: 1, top: 0, width: side - 1, height: side };
        same("ratios", &images, &[0, 0], &[whole(images.of(0)), part], size);
    }
}

/// See [`CLOSE`].
type Close = (usize, usize, [(usize, u8); 2]);

/// Side of the view, width of the image, and two columns of it with their levels, all others black. The first column's weight for
/// some column of the view is within 10⁻⁴ of half a unit, and the sum of the two is so close to the next level that one unit
/// of that weight makes another level of it. The first half of the list is just below half a unit, the second just above.
const CLOSE: [Close; 8] = [
    (5, 232, [(26, 251), (24, 191)]),
    (5, 232, [(205, 255), (118, 94)]),
    (10, 237, [(59, 220), (36, 186)]),
    (10, 237, [(177, 232), (160, 245)]),
    (9, 244, [(85, 185), (68, 40)]),
    (9, 244, [(158, 225), (122, 110)]),
    (10, 223, [(15, 221), (20, 243)]),
    (10, 223, [(207, 221), (202, 243)]),
];

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn weights_are_rounded_at_half_a_unit() {
    for (size, width, columns) in CLOSE {
        let mut row = vec![0; width * 3];
        columns.iter().for_each(|&(column, level)| row[column * 3..][..3].fill(level));
        let places = vec![Place { offset: 0, width, height: size }];
        let images = Images { pixels: row.repeat(size), places };
        same("a weight close to half a unit", &images, &[0], &[whole(images.of(0))], size);
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn flips() {
    for size in SIZES {
        each("flips", size, |k, _, recipe| recipe.flip = k != 2);
    }
}

/// Every part alone at its extremes, then in orders of all four.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn jitter() {
    use JitterPart::{Brightness, Contrast, Hue, Saturation};
    let factors = [
        (Brightness, [0.0, 0.7, 1.0, 1.3, 11.0]),
        (Contrast, [0.0, 0.6, 1.0, 1.7, 11.0]),
        (Saturation, [0.0, 0.6, 1.0, 1.7, 11.0]),
        (Hue, [-0.5, -0.1, 0.0, 0.17, 0.5]),
    ];
    for size in SIZES {
        for (part, factors) in factors {
            each(&format!("{part:?}"), size, |k, _, recipe| recipe.jitter.steps = vec![(part, factors[k])]);
        }
        each("all four", size, |k, _, recipe| {
            let mut stream = Seeds::new(72).stream(Axis::Test, &[k as u64]);
            let order = stream.permutation(4);
            recipe.jitter.steps = order.iter().map(|&part| (factors[part].0, factors[part].1[1 + k % 4])).collect();
        });
    }
}

/// Grey levels so dark that sums of them may be rounded: one thread adds them in the CPU's order.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn contrast_of_dark_images() {
    use JitterPart::{Brightness, Contrast};
    each("dark", 29, |k, _, recipe| {
        recipe.jitter.steps = vec![(Brightness, [1e-9, 3e-5, 1e-13, 0.011, 1e-20][k]), (Contrast, 0.4)];
    });
}

/// A saturation that leaves 4·10⁻⁶ of dark grey makes sums of grey levels that float64 rounds. The mean of these lies between two
/// float32 numbers, so close to the middle that it depends on the order of the sum which of them it becomes.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn contrast_of_a_mean_that_depends_on_the_order() {
    use JitterPart::{Contrast, Saturation};
    let colours = [([0, 0, 255], 2625), ([255, 0, 0], 322), ([0, 255, 0], 96), ([255, 255, 0], 17), ([1, 1, 1], 1036)];
    let pixels: Vec<u8> = colours.iter().flat_map(|(colour, count)| colour.repeat(*count)).collect();
    let images = Images { pixels, places: vec![Place { offset: 0, width: 64, height: 64 }] };
    let mut recipe = whole(images.of(0));
    recipe.jitter.steps = vec![(Saturation, -9_990.001), (Contrast, 0.5)];
    same("a mean close to the middle of two numbers", &images, &[0], &[recipe], 64);
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn rotations() {
    for size in SIZES {
        each("rotations", size, |k, _, recipe| recipe.rotate.degrees = [15.0, -33.3, 90.0, 180.0, -1e-3][k]);
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn erasing() {
    for size in SIZES {
        each("erasing", size, |k, _, recipe| {
            let corner = size - 3;
            let (left, top) = [(0, 0), (corner, 0), (0, corner), (corner, corner), (4, 5)][k];
            recipe.erase = Some(EraseParams { left, top, width: 3, height: if k == 4 { 8 } else { 3 } });
        });
        each("all of it", size, |_, _, recipe| {
            recipe.erase = Some(EraseParams { left: 0, top: 0, width: size, height: size });
        });
    }
}

#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn tiles() {
    for size in SIZES {
        each("tiles", size, |k, _, recipe| {
            let grid = [2, 3, 4, size, 1][k];
            let order = Seeds::new(73).stream(Axis::Test, &[k as u64]).permutation(grid * grid);
            recipe.shuffle = Some(ShuffleParams { grid, order });
        });
    }
}

/// Everything together, as it is drawn for training.
#[test]
#[ignore = "needs a C++ compiler: ci/cuda-check runs it"]
fn recipes_as_they_are_drawn() {
    use datasets::{AugmentConfig, TrainPlan, WantViews, train_recipes};
    let augment = AugmentConfig {
        crop_scale: [0.1, 1.0],
        rotation: 40.0,
        brightness: 0.4,
        contrast: 0.4,
        saturation: 0.4,
        hue: 0.3,
        shuffle_grid: 3,
        ..AugmentConfig::default()
    };
    let mut stream = Seeds::new(74).stream(Axis::Test, &[]);
    let images = Images::draw(&[(33, 32), (32, 41), (57, 32), (32, 32)], &mut stream);
    for size in [28, 56] {
        let plan = TrainPlan {
            augment: augment.clone(),
            size,
            norm: Normalise::default(),
            seeds: Seeds::new(75),
            epoch: 3,
            want: WantViews { positive: true, teacher: true },
        };
        let (mut of, mut recipes) = (Vec::new(), Vec::new());
        for (item, place) in images.places.iter().enumerate() {
            let drawn = train_recipes(place.width, place.height, &plan, item as u64);
            let drawn = [Some(drawn.anchor), drawn.positive, drawn.teacher].into_iter().flatten();
            recipes.extend(drawn);
            of.resize(recipes.len(), item);
        }
        same("as drawn", &images, &of, &recipes, size);
    }
}
