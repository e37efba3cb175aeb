//! Views that a card makes of bytes and recipes against the CPU's, bit for bit. Without a card it says so.
#![cfg(feature = "cuda")]

mod card_common;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use datasets::{AugmentConfig, Normalise, Place, Recipe, RgbRef, TrainPlan, WantViews, recipe_words, train_recipes};
use kernels::images::{Copying, Recipes, Stage};
use random::{Axis, Seeds};

use card_common::card;

fn plan(size: usize, epoch: u64) -> TrainPlan {
    let augment = AugmentConfig {
        rotation: 30.0,
        contrast: 0.4,
        saturation: 0.4,
        hue: 0.2,
        shuffle_grid: 3,
        ..AugmentConfig::default()
    };
    let want = WantViews { positive: true, teacher: true };
    TrainPlan { augment, size, norm: Normalise::default(), seeds: Seeds::new(76), epoch, want }
}

/// A batch: bytes, and recipes of anchors and of the other views.
struct Batch {
    pixels: Vec<u8>,
    places: Vec<Place>,
    recipes: [Vec<Recipe>; 2],
}

impl Batch {
    fn draw(sides: &[(usize, usize)], plan: &TrainPlan) -> Self {
        let mut stream = plan.seeds.stream(Axis::Test, &[plan.epoch]);
        let mut batch = Self { pixels: vec![], places: vec![], recipes: [vec![], vec![]] };
        for (item, &(width, height)) in sides.iter().enumerate() {
            batch.places.push(Place { offset: batch.pixels.len(), width, height });
            batch.pixels.extend((0..width * height * 3).map(|at| ((at / 29 % 7) * 30) as u8 ^ stream.below(64) as u8));
            let drawn = train_recipes(width, height, plan, item as u64);
            batch.recipes[0].push(drawn.anchor);
            batch.recipes[1].extend(if item % 2 == 0 { drawn.positive } else { drawn.teacher });
        }
        batch
    }

    fn checked(&self, plan: &TrainPlan) -> Vec<Recipes> {
        let norm = (plan.norm.mean, plan.norm.std);
        let of = |recipes: &Vec<Recipe>| {
            let words = recipe_words(recipes, &self.places);
            Recipes::new(words, recipes.len(), plan.size, norm, self.pixels.len()).unwrap()
        };
        self.recipes.iter().map(of).collect()
    }

    fn on_the_cpu(&self, kind: usize, plan: &TrainPlan) -> Vec<f32> {
        let made = self.recipes[kind].iter().zip(&self.places).flat_map(|(recipe, place)| {
            let data = &self.pixels[place.offset..][..place.width * place.height * 3];
            recipe.apply(RgbRef { width: place.width, height: place.height, data }, plan.size, &plan.norm)
        });
        made.collect()
    }
}

fn assert_same(got: &Tensor, want: &[f32], what: &str) {
    let got = got.to_device(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(got.len(), want.len(), "{what}");
    let other = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(other, None, "{what}: {:?} and {:?}", other.map(|at| got[at]), other.map(|at| want[at]));
}

/// Stages that are filled again before the views of the batches in the others were looked at, with batches that grow.
#[test]
fn views_of_a_card_are_those_of_the_cpu() {
    let Some(card) = card() else { return };
    let device = card.as_cuda_device().unwrap();
    let copying = Arc::new(Copying::new(device).unwrap());
    let mut stages = [Stage::new(&copying).unwrap(), Stage::new(&copying).unwrap()];
    let mut made = Vec::new();
    for (turn, (size, sides)) in [
        (28, vec![(33, 32), (32, 45)]),
        (224, vec![(256, 256), (341, 256), (256, 300)]),
        (29, vec![(40, 31), (1, 1), (7, 64)]),
        (448, vec![(512, 512), (600, 512)]),
    ]
    .into_iter()
    .enumerate()
    {
        let plan = plan(size, turn as u64);
        let batch = Batch::draw(&sides, &plan);
        let stage = &mut stages[turn % 2];
        let waited = stage.fill(&batch.pixels, batch.checked(&plan)).unwrap();
        assert!((0.0..60.0).contains(&waited), "{waited} s");
        let views = stage.views(device).unwrap();
        assert_eq!(views[0].dims(), [sides.len(), 3, size, size]);
        made.push((plan, batch, views));
    }
    for (plan, batch, views) in &made {
        for (kind, view) in views.iter().enumerate() {
            assert_same(view, &batch.on_the_cpu(kind, plan), &format!("{}×{}, kind {kind}", plan.size, plan.size));
        }
    }
}

#[test]
fn what_a_stage_cannot_do_it_refuses() {
    let Some(card) = card() else { return };
    let device = card.as_cuda_device().unwrap();
    let mut stage = Stage::new(&Arc::new(Copying::new(device).unwrap())).unwrap();
    assert!(stage.views(device).unwrap_err().to_string().contains("a stage without a batch"));
    let plan = plan(8, 0);
    let batch = Batch::draw(&[(9, 9)], &plan);
    let error = stage.fill(&batch.pixels[..200], batch.checked(&plan)).unwrap_err();
    assert!(error.to_string().contains("recipes for 243 bytes, and 200 bytes"), "{error}");
}
