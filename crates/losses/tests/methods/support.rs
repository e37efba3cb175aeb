//! Seeded parameters, maps and small settings.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use losses::{
    Alignment, Batch, Draws, LossOut, Method, MethodConfig, Negatives, PacMclConfig, PairCount, SoftTopK, Teacher,
    TripletLoss, TripletNegative,
};
use random::{Axis, Seeds, Stream};

pub(crate) const CHANNELS: usize = 6;
pub(crate) const CLASSES: usize = 3;
pub(crate) const SIDE: usize = 3;
pub(crate) const LABELS: [u32; 5] = [0, 1, 0, 2, 1];

/// Parameters made on demand from named streams, and kept as variables.
#[derive(Clone)]
pub(crate) struct Parameters {
    seeds: Seeds,
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
    bounds: Arc<Mutex<BTreeMap<String, (f64, f64)>>>,
}

impl Parameters {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seeds: Seeds::new(seed), vars: Arc::default(), bounds: Arc::default() }
    }

    pub(crate) fn builder(&self, dtype: DType) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, Device::Cpu)
    }

    pub(crate) fn vars(&self) -> BTreeMap<String, Var> {
        self.vars.lock().unwrap().clone()
    }

    /// The bounds of the uniform distribution that each parameter was asked from.
    pub(crate) fn bounds(&self) -> BTreeMap<String, (f64, f64)> {
        self.bounds.lock().unwrap().clone()
    }

    pub(crate) fn tensors(&self) -> HashMap<String, Tensor> {
        self.vars().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
    }
}

impl SimpleBackend for Parameters {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        let Init::Uniform { lo, up } = h else { candle_core::bail!("{name}: no initial values for {h:?}") };
        let mut stream = self.seeds.named_stream(Axis::Init, name);
        let values: Vec<f64> = (0..s.elem_count()).map(|_| stream.range(lo, up)).collect();
        let var = Var::from_tensor(&Tensor::from_vec(values, s, dev)?.to_dtype(dtype)?)?;
        let known = self.vars.lock().unwrap().insert(name.to_owned(), var.clone());
        self.bounds.lock().unwrap().insert(name.to_owned(), (lo, up));
        assert!(known.is_none(), "{name} is asked for twice");
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: the shape is needed")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// The same method with settings small enough for a test, and margins at which every hinge is active.
pub(crate) fn small(config: MethodConfig) -> MethodConfig {
    match config {
        MethodConfig::Ce(_) | MethodConfig::CeTwoView(_) => config,
        MethodConfig::Supcon(c) => MethodConfig::Supcon(losses::SupconConfig { output: 4, ..c }),
        MethodConfig::Triplet(c) => MethodConfig::Triplet(losses::TripletConfig { margin: Some(5.0), ..c }),
        MethodConfig::PacMclLe(c) => MethodConfig::PacMclLe(small_parts(c)),
        MethodConfig::PacMclBw(c) => MethodConfig::PacMclBw(small_parts(c)),
        MethodConfig::Dsot(c) => MethodConfig::Dsot(losses::DsotHeadConfig { k: 4, hidden: 5, ..c }),
        MethodConfig::Cotap(c) => MethodConfig::Cotap(losses::CotapConfig { hidden: 8, output: 4, ..c }),
    }
}

fn small_parts(config: PacMclConfig) -> PacMclConfig {
    PacMclConfig { parts: 2, dim: 4, margin: 50.0, ..config }
}

/// The registry in small, and the variants that its defaults leave out.
pub(crate) fn cases() -> Vec<MethodConfig> {
    let mut cases = Vec::new();
    for (_, config) in MethodConfig::registry() {
        let config = small(config);
        cases.extend(variants(&config));
        cases.push(config);
    }
    cases
}

fn variants(config: &MethodConfig) -> Vec<MethodConfig> {
    let soft = Negatives::SoftTopK(SoftTopK { k: 5, temperature: 0.5 });
    match config.clone() {
        MethodConfig::Ce(mut c) => {
            c.label_smoothing = 0.1;
            vec![MethodConfig::Ce(c)]
        }
        MethodConfig::Triplet(c) => {
            let random = losses::TripletConfig { negative: Some(TripletNegative::Random), ..c.clone() };
            let cosine =
                losses::TripletConfig { loss: TripletLoss::LabelCosine, negative: None, margin: Some(0.1), ..c };
            vec![MethodConfig::Triplet(random), MethodConfig::Triplet(cosine)]
        }
        MethodConfig::PacMclLe(c) => {
            vec![MethodConfig::PacMclLe(PacMclConfig {
                negatives: soft,
                alignment: Some(Alignment::Nearest),
                gamma: 2.0,
                ..c
            })]
        }
        MethodConfig::PacMclBw(c) => vec![MethodConfig::PacMclBw(PacMclConfig { negatives: soft, ..c })],
        MethodConfig::Dsot(c) => vec![MethodConfig::Dsot(losses::DsotHeadConfig { k: 100, lambda: 0.3, ..c })],
        MethodConfig::Cotap(c) => vec![MethodConfig::Cotap(losses::CotapConfig { pairs: PairCount::Fixed(7), ..c })],
        MethodConfig::CeTwoView(_) | MethodConfig::Supcon(_) => Vec::new(),
    }
}

pub(crate) fn stream(index: u64) -> Stream {
    Seeds::new(11).stream(Axis::Test, &[index])
}

pub(crate) fn tensor(values: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

pub(crate) fn normal(shape: &[usize], index: u64) -> Tensor {
    let mut stream = stream(index);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    tensor(&values, shape)
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn value(tensor: &Tensor) -> f64 {
    let all = values(tensor);
    assert_eq!(all.len(), 1, "a scalar");
    all[0]
}

/// A method in small with its inputs.
pub(crate) struct Fixture {
    pub(crate) config: MethodConfig,
    pub(crate) parameters: Parameters,
    pub(crate) method: Method,
    pub(crate) anchor: Var,
    pub(crate) positive: Var,
    pub(crate) teacher: Option<Tensor>,
    pub(crate) labels: Vec<u32>,
    pub(crate) draws: Draws,
}

impl Fixture {
    pub(crate) fn new(config: MethodConfig, labels: &[u32], dtype: DType) -> Self {
        let parameters = Parameters::new(3);
        let method = Method::new(&config, CHANNELS, CLASSES, parameters.builder(dtype)).unwrap();
        let shape = [labels.len(), CHANNELS, SIDE, SIDE];
        let map = |index| normal(&shape, index).to_dtype(dtype).unwrap();
        let teacher = config.views().teacher.then(|| {
            let other = Parameters::new(4);
            Teacher::new(&config, CHANNELS, other.builder(dtype)).unwrap().tokens(&map(2)).unwrap()
        });
        let draws = method.draw(labels.len(), &stream(9));
        let (anchor, positive) = (Var::from_tensor(&map(0)).unwrap(), Var::from_tensor(&map(1)).unwrap());
        Self { config, parameters, method, anchor, positive, teacher, labels: labels.to_vec(), draws }
    }

    pub(crate) fn loss(&self) -> LossOut {
        self.loss_at(&self.method, &self.anchor, &self.positive)
    }

    pub(crate) fn loss_at(&self, method: &Method, anchor: &Tensor, positive: &Tensor) -> LossOut {
        let stream = stream(9);
        let batch = Batch {
            anchor_map: anchor,
            positive_map: self.config.views().positive.then_some(positive),
            teacher_tokens: self.teacher.as_ref(),
            labels: &self.labels,
            stream: &stream,
        };
        method.loss_with(&batch, &self.draws).unwrap()
    }

    /// A method of the same settings whose parameters are these.
    pub(crate) fn with_parameters(&self, tensors: HashMap<String, Tensor>) -> Method {
        let builder = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
        Method::new(&self.config, CHANNELS, CLASSES, builder).unwrap()
    }
}

/// Rows of a tensor.
pub(crate) fn select(x: &Tensor, order: &[usize]) -> Tensor {
    let order: Vec<u32> = order.iter().map(|&i| i as u32).collect();
    let n = order.len();
    x.detach().index_select(&Tensor::from_vec(order, n, x.device()).unwrap(), 0).unwrap()
}
