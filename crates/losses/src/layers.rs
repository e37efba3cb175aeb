//! Linear layers and perceptrons over rows or tokens.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use kernels::nn::inner_products;

use crate::Result;
use crate::ops::positive_part;

/// `x·Wᵀ + b` over the last dimension. Initial values are those of PyTorch's `nn.Linear`: weight and bias uniform
/// in `±1/√in` (Kaiming uniform with `a = √5`).
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer with the parameters `weight` `[outputs,inputs]` and `bias` `[outputs]` under the path of `vb`.
    pub fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let layer = Self::without_bias(inputs, outputs, vb.clone())?;
        let bias = vb.get_with_hints(outputs, "bias", default_init(inputs))?;
        Ok(Self { bias: Some(bias), ..layer })
    }

    /// A layer with the parameter `weight` alone, for outputs whose offset cannot matter.
    pub fn without_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints((outputs, inputs), "weight", default_init(inputs))?;
        Ok(Self { weight, bias: None })
    }

    /// Applies the layer to `[..,inputs]`: `[..,outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        let rows = x.elem_count() / inputs.max(1);
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let y = inner_products(&x.reshape((1, rows, inputs))?, &self.weight.unsqueeze(0)?)?.squeeze(0)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        Ok(y.reshape(shape)?)
    }
}

/// Linear layers with ReLU between them (not after the last).
#[derive(Debug, Clone)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// A perceptron through these widths; layer `i` has its parameters under `vb.pp(i)`.
    pub fn new(widths: &[usize], vb: VarBuilder) -> Result<Self> {
        let layers = widths.windows(2).enumerate().map(|(i, w)| Linear::new(w[0], w[1], vb.pp(i)));
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    /// Applies the perceptron to the last dimension.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x)?;
            if i + 1 < self.layers.len() {
                x = positive_part(&x)?;
            }
        }
        Ok(x)
    }
}

fn default_init(inputs: usize) -> Init {
    let bound = 1.0 / (inputs.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}
