use std::sync::Arc;

use super::*;
use crate::model::{ImageSource, Item, sha256_hex};
use crate::resize::{Filter, Fit, Resize};
use crate::source::{DatasetConfig, load};

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
    let got: Vec<ViewBatch> = loader.collect();
    assert_eq!(got.iter().map(|b| b.indices.clone()).collect::<Vec<_>>(), order());
    let stride = 3 * 24 * 24;
    for batch in &got {
        assert_eq!(batch.anchor.len(), batch.indices.len() * stride);
        for (slot, &index) in batch.indices.iter().enumerate() {
            let image = &set.images()[index];
            let want = train_views(image, &plan.augment, 24, &plan.norm, plan.seeds, 1, index as u64, plan.want);
            let part = |v: &[f32]| v[slot * stride..(slot + 1) * stride].to_vec();
            assert_eq!(part(&batch.anchor), want.anchor);
            assert_eq!(batch.positive.as_deref().map(part), want.positive);
            assert_eq!(batch.teacher.as_deref().map(part), want.teacher);
            assert_eq!(batch.labels[slot], set.labels()[index]);
        }
    }
}

#[test]
fn the_same_for_any_number_of_workers() {
    let run = |threads| Loader::new(set(), order(), plan(), pool(threads)).collect::<Vec<_>>();
    assert_eq!(run(1), run(2));
    let decode = |threads| pool(threads).unwrap().install(|| DecodedSet::new(&items(), working()).unwrap());
    assert_eq!(decode(1).images(), decode(2).images());
}

#[test]
fn evaluation_batches_hold_evaluation_views() {
    let set = set();
    let plan =
        EvalPlan { eval: EvalConfig { resize: 28, filter: Filter::Bicubic }, size: 24, norm: Normalise::default() };
    let got: Vec<ViewBatch> = Loader::eval(set.clone(), order(), plan.clone(), pool(2)).collect();
    let want = eval_view(&set.images()[5], &plan.eval, 24, &plan.norm);
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
        let error = pool(threads).unwrap().install(|| DecodedSet::new(&items, working()).unwrap_err());
        assert!(error.to_string().starts_with("leaves.parquet row 4: "), "{error}");
        assert_eq!(error.kind(), crate::error::ErrorKind::Image);
    }
}

#[test]
fn a_decoded_set_has_the_working_size() {
    let set = set();
    assert_eq!((set.len(), set.is_empty(), set.memory()), (12, false, 12 * 32 * 32 * 3));
    assert_eq!(set.labels(), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
}
