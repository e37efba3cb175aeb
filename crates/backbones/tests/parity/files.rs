//! The fill formula of the parity files, and what they hold.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};

/// `n` numbers in [-1, 1), multiples of 2⁻²³: splitmix64's output function over FNV-1a of the name.
pub(crate) fn unit(name: &str, n: usize) -> Vec<f64> {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    (1..=n as u64)
        .map(|i| {
            let mut z = hash.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 40) as f64 / f64::from(1u32 << 23) - 1.0
        })
        .collect()
}

/// The values of a parameter or buffer, rounded to float32.
pub(crate) fn fill(name: &str, shape: &[usize]) -> Tensor {
    let scale = |u: f64| -> f64 {
        if name.ends_with("running_var") {
            1.0 + 0.5 * u
        } else if name.ends_with("running_mean") {
            0.1 * u
        } else if name.ends_with("gamma") {
            0.5 + 0.1 * u
        } else if ["pos_embed", "cls_token"].contains(&name) {
            0.2 * u
        } else if shape.len() >= 2 {
            u * (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt()
        } else if name.ends_with("weight") {
            1.0 + 0.1 * u
        } else {
            0.1 * u
        }
    };
    let values: Vec<f32> = unit(name, shape.iter().product()).into_iter().map(|u| scale(u) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// One architecture's expectations.
pub(crate) struct Parity {
    pub(crate) batch: usize,
    pub(crate) size: usize,
    /// Name and shape of every parameter and buffer of the network, classifier included.
    pub(crate) shapes: BTreeMap<String, Vec<usize>>,
    /// Norm and probe of each parameter's gradient.
    pub(crate) grads: BTreeMap<String, [f64; 2]>,
    pub(crate) outputs: HashMap<String, Tensor>,
}

impl Parity {
    /// Reads the files of an architecture, or panics with what is missing.
    pub(crate) fn read(arch: &str) -> Self {
        let base = testkit::oracle::shared_dir().join("backbones/data");
        let path = base.join(format!("{arch}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let whole = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
        let shape = |v: &serde_json::Value| -> Vec<usize> { v.as_array().unwrap().iter().map(whole).collect() };
        let params = json["params"].as_array().unwrap();
        let shapes = params.iter().map(|p| (p["name"].as_str().unwrap().to_owned(), shape(&p["shape"]))).collect();
        let pair = |v: &serde_json::Value| [v[0].as_f64().unwrap(), v[1].as_f64().unwrap()];
        let grads = json["grads"].as_object().unwrap().iter().map(|(name, v)| (name.clone(), pair(v))).collect();
        let path = base.join(format!("{arch}.safetensors"));
        let outputs = candle_core::safetensors::load(&path, &Device::Cpu)
            .unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let input = shape(&json["input"]);
        Self { batch: input[0], size: input[2], shapes, grads, outputs }
    }

    /// The image batch.
    pub(crate) fn input(&self, dtype: DType) -> Tensor {
        let shape = (self.batch, 3, self.size, self.size);
        let n = self.batch * 3 * self.size * self.size;
        Tensor::from_vec(unit("input", n), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    /// The architectures that have a file.
    pub(crate) fn all() -> Vec<String> {
        let dir = testkit::oracle::shared_dir().join("backbones/data");
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("cannot read {}: {e}", dir.display()));
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect()
    }

    /// A parameter of timm's classifier.
    pub(crate) fn classifier(&self, name: &str, dtype: DType) -> Tensor {
        fill(name, &self.shapes[name]).to_dtype(dtype).unwrap()
    }

    /// Filled parameters and buffers of the backbone, without the classifier.
    pub(crate) fn parameters(&self, classifier: &str) -> BTreeMap<String, Tensor> {
        let backbone = self.shapes.iter().filter(|(name, _)| !name.starts_with(classifier));
        backbone.map(|(name, shape)| (name.clone(), fill(name, shape))).collect()
    }
}

/// The numbers of a tensor.
pub(crate) fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
