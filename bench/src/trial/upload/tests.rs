use datasets::{AugmentConfig, DatasetConfig, Filter, Fit, Normalise, Resize, WantViews, train_views};
use random::Seeds;

use super::*;

fn set() -> Arc<DecodedSet> {
    let config = "generated = { classes = 2, train_per_class = 3, test_per_class = 1, size = 24, seed = 8 }";
    let config: DatasetConfig = toml::from_str(config).unwrap();
    let items = datasets::load("leaves", &config, std::path::Path::new("")).unwrap().train;
    Arc::new(DecodedSet::new(&items, Resize { size: 20, fit: Fit::ShortSide, filter: Filter::Bilinear }).unwrap())
}

fn plan(want: WantViews) -> TrainPlan {
    let augment =
        AugmentConfig { rotation: 20.0, contrast: 0.3, saturation: 0.3, hue: 0.1, ..AugmentConfig::default() };
    TrainPlan { augment, size: 16, norm: Normalise::default(), seeds: Seeds::new(9), epoch: 2, want }
}

fn numbers(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.to_device(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// The views of `device` are those of the CPU, to the bit, over two epochs.
fn views_on(device: &Device) {
    let (set, order) = (set(), vec![vec![5, 0, 3], vec![1], vec![4, 2], vec![0, 0], vec![3]]);
    let upload = Upload::new(device).unwrap();
    for want in [WantViews { positive: true, teacher: true }, WantViews::default()] {
        let plan = plan(want);
        let got: Vec<ImageBatch> =
            upload.epoch(&set, order.clone(), plan.clone()).collect::<Result<_, _>>().map_err(|e| e.message).unwrap();
        assert_eq!(got.len(), order.len());
        for (indices, got) in order.iter().zip(got) {
            let made = indices.iter().map(|&k| train_views(set.image(k).unwrap(), &plan, k as u64));
            let (mut anchor, mut positive, mut teacher) = (Vec::new(), Vec::new(), Vec::new());
            for views in made {
                anchor.extend(views.anchor);
                positive.extend(views.positive.unwrap_or_default());
                teacher.extend(views.teacher.unwrap_or_default());
            }
            assert_eq!(got.labels, indices.iter().map(|&k| set.labels()[k]).collect::<Vec<_>>());
            assert_eq!(got.anchor.dims(), [indices.len(), 3, 16, 16]);
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(numbers(&got.anchor), bits(anchor));
            assert_eq!((got.positive.is_some(), got.teacher.is_some()), (want.positive, want.teacher));
            assert_eq!(got.positive.map_or(vec![], |t| numbers(&t)), bits(positive));
            assert_eq!(got.teacher.map_or(vec![], |t| numbers(&t)), bits(teacher));
        }
    }
    assert!(upload.waited_s() > 0.0 && upload.waited_s() < 60.0);
}

#[test]
fn views_reach_the_cpu() {
    views_on(&Device::Cpu);
}

#[test]
#[cfg(feature = "cuda")]
#[expect(clippy::print_stderr, reason = "a comparison that was not made must be seen")]
fn views_reach_a_card() {
    match Device::new_cuda(0) {
        Ok(card) => views_on(&card),
        Err(error) => eprintln!("no card, nothing compared: {error}"),
    }
}

#[test]
fn an_epoch_may_end_early() {
    let upload = Upload::new(&Device::Cpu).unwrap();
    let mut batches = upload.epoch(&set(), vec![vec![0, 1]; 50], plan(WantViews::default()));
    assert!(batches.next().unwrap().is_ok());
    drop(batches);
}
