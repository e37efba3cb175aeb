use std::sync::Arc;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use random::Seeds;
use rayon::ThreadPool;

use super::*;
use crate::augment::{AugmentConfig, JitterPart};
use crate::decode::RgbRef;
use crate::model::{ImageSource, Item, sha256_hex};
use crate::resize::{Filter, Fit, Resize};
use crate::source::{DatasetConfig, load};
use crate::views::{Normalise, RECIPE_WORDS, WantViews, eval_view, recipe_words, train_views};

const TOML: &str = "generated = { classes = 3, train_per_class = 4, test_per_class = 1, size = 40, seed = 5 }";

fn items() -> Vec<Item> {
    let config: DatasetConfig = toml::from_str(TOML).unwrap();
    load("leaves", &config, std::path::Path::new("")).unwrap().train
}

fn working() -> Resize {
    Resize { size: 32, fit: Fit::ShortSide, filter: Filter::Bilinear }
}

fn set() -> Arc<DecodedSet> {
    Arc::new(DecodedSet::new(&items(), working()).unwrap())
}

fn plan() -> TrainPlan {
    TrainPlan {
        augment: AugmentConfig::default(),
        size: 24,
        norm: Normalise::default(),
        seeds: Seeds::new(42),
        epoch: 1,
        want: WantViews { positive: true, teacher: true },
    }
}

fn order() -> Vec<Vec<usize>> {
    vec![vec![3, 1, 4], vec![11, 5], vec![9, 2, 6, 0], vec![7], vec![8, 10]]
}

fn pool(threads: usize) -> Option<Arc<ThreadPool>> {
    Some(Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()))
}

#[test]
fn batches_hold_the_views_of_their_items_in_order() {
    let (set, plan) = (set(), plan());
    let loader = Loader::new(set.clone(), order(), plan.clone(), None);
    assert_eq!(loader.len(), 5);
    let got: Vec<ViewBatch> = loader.map(Result::unwrap).collect();
    assert_eq!(got.iter().map(|b| b.indices.clone()).collect::<Vec<_>>(), order());
    let stride = 3 * 24 * 24;
    for batch in &got {
        assert_eq!(batch.anchor.len(), batch.indices.len() * stride);
        for (slot, &index) in batch.indices.iter().enumerate() {
            let want = train_views(set.image(index).unwrap(), &plan, index as u64);
            let part = |v: &[f32]| v[slot * stride..(slot + 1) * stride].to_vec();
            assert_eq!(part(&batch.anchor), want.anchor);
            assert_eq!(batch.positive.as_deref().map(part), want.positive);
            assert_eq!(batch.teacher.as_deref().map(part), want.teacher);
            assert_eq!(batch.labels[slot], set.labels()[index]);
        }
    }
}

#[test]
fn bytes_and_recipes_make_the_same_views() {
    let (set, plan) = (set(), plan());
    let views = Loader::new(set.clone(), order(), plan.clone(), None).map(Result::unwrap);
    let bytes = Loader::bytes(set.clone(), order(), plan.clone(), pool(2)).map(Result::unwrap);
    assert_eq!(bytes.len(), 5);
    for (views, bytes) in views.zip(bytes) {
        assert_eq!((&bytes.indices, &bytes.labels), (&views.indices, &views.labels));
        let all = [
            (&views.anchor, &bytes.anchor),
            (views.positive.as_ref().unwrap(), bytes.positive.as_ref().unwrap()),
            (views.teacher.as_ref().unwrap(), bytes.teacher.as_ref().unwrap()),
        ];
        for (planes, recipes) in all {
            let made = recipes.iter().zip(&bytes.places).flat_map(|(recipe, place)| {
                let data = &bytes.pixels[place.offset..][..place.width * place.height * 3];
                let image = RgbRef { width: place.width, height: place.height, data };
                recipe.apply(image, plan.size, &plan.norm)
            });
            assert!(made.map(f32::to_bits).eq(planes.iter().map(|v| v.to_bits())));
        }
    }
    let plain = TrainPlan { want: WantViews::default(), ..plan };
    let got = Loader::bytes(set, vec![vec![4, 4]], plain, None).next().unwrap().unwrap();
    assert!(got.positive.is_none() && got.teacher.is_none());
    assert_eq!(got.places[1], Place { offset: 32 * 32 * 3, width: 32, height: 32 });
    assert_eq!(got.pixels.len(), 2 * 32 * 32 * 3);
}

#[test]
fn recipes_become_words() {
    let (set, base) = (set(), plan());
    let augment = AugmentConfig { rotation: 30.0, hue: 0.1, ..base.augment.clone() };
    let plan = TrainPlan { augment, ..base };
    let batch = Loader::bytes(set, vec![vec![3, 7]], plan, None).next().unwrap().unwrap();
    let positive = batch.positive.as_ref().unwrap();
    let words = recipe_words(positive, &batch.places);
    let (second, recipe) = (&words[RECIPE_WORDS..2 * RECIPE_WORDS], &positive[1]);
    let crop = recipe.crop;
    let want = [32 * 32 * 3, 0, 32, 32, crop.left, crop.top, crop.width, crop.height].map(|v| v as u32);
    assert_eq!(second[..8], want);
    let real = |at: usize| f64::from_bits(u64::from(second[at]) | u64::from(second[at + 1]) << 32);
    assert_eq!((Some((real(8), real(10))), second[12]), (recipe.rotate.sine_cosine(), 1));
    assert_eq!(second[13..15], [u32::from(recipe.flip), recipe.jitter.steps.len() as u32]);
    let parts = [JitterPart::Brightness, JitterPart::Contrast, JitterPart::Saturation, JitterPart::Hue];
    for (k, (part, factor)) in recipe.jitter.steps.iter().enumerate() {
        assert_eq!((parts[second[15 + k] as usize], f32::from_bits(second[19 + k])), (*part, *factor));
    }
    let erase = recipe.erase.unwrap();
    assert_eq!(second[23..27], [erase.left, erase.top, erase.width, erase.height].map(|v| v as u32));
    let orders: Vec<u32> =
        positive.iter().flat_map(|r| &r.shuffle.as_ref().unwrap().order).map(|&t| t as u32).collect();
    assert_eq!(second[27..], [2, 2 * RECIPE_WORDS as u32 + 4, 0]);
    assert_eq!(words[2 * RECIPE_WORDS..], orders);
    // The anchor has neither: nothing erased, one tile.
    assert_eq!(recipe_words(&batch.anchor, &batch.places)[23..28], [0, 0, 0, 0, 1]);
}

#[test]
fn the_same_for_any_number_of_workers() {
    let run = |threads| Loader::new(set(), order(), plan(), pool(threads)).map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(run(1), run(2));
    let decode = |threads| pool(threads).unwrap().install(|| DecodedSet::new(&items(), working()).unwrap());
    let (one, two) = (decode(1), decode(2));
    assert!((0..one.len()).all(|index| one.image(index).unwrap() == two.image(index).unwrap()));
}

#[test]
fn evaluation_batches_hold_evaluation_views() {
    let set = set();
    let plan =
        EvalPlan { eval: EvalConfig { resize: 28, filter: Filter::Bicubic }, size: 24, norm: Normalise::default() };
    let got: Vec<ViewBatch> = Loader::eval(set.clone(), order(), plan.clone(), pool(2)).map(Result::unwrap).collect();
    let want = eval_view(set.image(5).unwrap(), &plan.eval, 24, &plan.norm);
    assert_eq!(got[1].anchor[3 * 24 * 24..], want);
    assert!(got[1].positive.is_none() && got[1].teacher.is_none());
}

#[test]
fn dropped_in_the_middle_it_ends() {
    let many: Vec<Vec<usize>> = (0..200).map(|i| vec![i % 12; 4]).collect();
    for taken in [0, 1, 5] {
        let mut loader = Loader::new(set(), many.clone(), plan(), pool(2));
        assert_eq!(loader.by_ref().take(taken).count(), taken);
        assert_eq!(loader.len(), 200 - taken);
        drop(loader);
    }
}

#[test]
fn a_slow_consumer_finds_no_more_than_four_batches_made() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let many: Vec<Vec<usize>> = (0..50).map(|i| vec![i % 12]).collect();
    let mut loader = Loader::start(many, None, |indices| {
        MADE.fetch_add(1, Ordering::SeqCst);
        Ok(ViewBatch { indices, labels: vec![], anchor: vec![], positive: None, teacher: None })
    });
    for taken in 1..10 {
        loader.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let made = MADE.load(Ordering::SeqCst);
        assert!((taken..=taken + DEPTH + 1).contains(&made), "{made} made, {taken} taken");
    }
}

#[test]
fn a_damaged_cache_is_an_error_in_place_of_the_batch_and_the_last_thing() {
    let dir = tempfile::tempdir().unwrap();
    DecodedSet::cached(&items(), working(), dir.path(), &mut |_| ()).unwrap();
    let path = crate::cache::cache_path(&items(), working(), dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let stride = 32 * 32 * 3;
    let begin = bytes.len() - 12 * stride;
    for index in [5, 2] {
        bytes[begin + index * stride + 7] ^= 1;
    }
    for threads in [1, 2] {
        std::fs::write(&path, &bytes).unwrap();
        let set = Arc::new(DecodedSet::cached(&items(), working(), dir.path(), &mut |_| ()).unwrap());
        let batches = vec![vec![0, 1], vec![3, 2, 5, 4], vec![6]];
        let mut loader = Loader::new(set, batches, plan(), pool(threads));
        assert_eq!(loader.next().unwrap().unwrap().indices, [0, 1]);
        let error = loader.next().unwrap().unwrap_err();
        assert!(error.to_string().contains("the pixels of image 2 have the checksum"), "{error}");
        assert!(loader.next().is_none() && loader.len() == 0);
    }
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn a_panic_of_the_thread_is_not_the_end_of_the_epoch() {
    let _ = Loader::new(set(), vec![vec![0], vec![99]], plan(), None).count();
}

#[test]
fn the_first_bad_image_is_the_error() {
    let mut items = items();
    for (index, place) in [(7, "leaves.parquet row 7"), (4, "leaves.parquet row 4")] {
        items[index].image = ImageSource::Bytes(Arc::from(b"\x89PNG\r\n\x1a\nbroken".as_slice()));
        items[index].sha256 = sha256_hex(b"irrelevant for bytes in memory");
        items[index].place = place.into();
    }
    for threads in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let (memory, mapped) = pool(threads).unwrap().install(|| {
            let mapped = DecodedSet::cached(&items, working(), dir.path(), &mut |_| ());
            (DecodedSet::new(&items, working()).unwrap_err(), mapped.unwrap_err())
        });
        for error in [memory, mapped] {
            assert!(error.to_string().starts_with("leaves.parquet row 4: "), "{error}");
            assert_eq!(error.kind(), crate::error::ErrorKind::Image);
        }
    }
}

#[test]
fn a_decoded_set_has_the_working_size() {
    let set = set();
    assert_eq!((set.len(), set.is_empty(), set.memory(), set.mapped()), (12, false, 12 * 32 * 32 * 3, 0));
    assert_eq!(set.labels(), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
}
