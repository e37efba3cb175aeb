//! Numbers of a step that stay on the device until all of them are read together.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::Result;

/// The numbers of a step, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// The total loss.
    pub total: f64,
    /// The unweighted terms that the method has: `ce_anchor`, `ce_positive`, `method`.
    pub terms: BTreeMap<String, f64>,
    /// What the objective reports beside its value; see [`crate::pac_mcl::pac_mcl`] and
    /// [`crate::triplet::mined_triplet`].
    pub diagnostics: BTreeMap<String, f64>,
    /// The values of the tensors that were to be read as well, each in row-major order.
    pub also: Vec<Vec<f64>>,
}

/// Diagnostics of an objective, some of which need values that are still on the device.
#[derive(Debug)]
pub(crate) struct Unread {
    /// Those that are known.
    known: BTreeMap<String, f64>,
    /// What the others are made of.
    pub(crate) tensors: Vec<Tensor>,
    margin: f64,
    finish: Finish,
}

/// Diagnostics from the values of the tensors and the margin.
type Finish = fn(&[Vec<f64>], f64) -> BTreeMap<String, f64>;

impl Unread {
    /// Diagnostics that are all known.
    pub(crate) fn known(known: BTreeMap<String, f64>) -> Self {
        Self { known, tensors: Vec::new(), margin: 0.0, finish: |_, _| BTreeMap::new() }
    }

    /// Diagnostics that `finish` makes of the values of the tensors and a margin, beside those that are known.
    pub(crate) fn later(known: BTreeMap<String, f64>, tensors: Vec<Tensor>, margin: f64, finish: Finish) -> Self {
        Self { known, tensors, margin, finish }
    }

    /// All of them, from the values of [`Self::tensors`].
    pub(crate) fn finish(&self, values: &[Vec<f64>]) -> BTreeMap<String, f64> {
        let mut all = self.known.clone();
        all.extend((self.finish)(values, self.margin));
        all
    }

    /// All of them, read now.
    pub(crate) fn read(&self) -> Result<BTreeMap<String, f64>> {
        Ok(self.finish(&fetch(&self.tensors.iter().collect::<Vec<_>>())?))
    }
}

/// The values of tensors of one device in float64, in one copy from it.
pub(crate) fn fetch(tensors: &[&Tensor]) -> Result<Vec<Vec<f64>>> {
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    let flat = |tensor: &&Tensor| tensor.detach().flatten_all()?.to_dtype(DType::F64);
    let flat: Vec<Tensor> = tensors.iter().map(flat).collect::<candle_core::Result<_>>()?;
    let all: Vec<f64> = Tensor::cat(&flat, 0)?.to_vec1()?;
    let mut rest = all.as_slice();
    let mut out = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let (own, others) = rest.split_at(tensor.elem_count());
        out.push(own.to_vec());
        rest = others;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn tensors_of_any_shape_and_dtype_come_back_in_their_order() {
        let single = Tensor::new(&[[1.5f32, -0.0], [3.0, f32::INFINITY]], &Device::Cpu).unwrap();
        let scalar = Tensor::new(0.1f64, &Device::Cpu).unwrap();
        let turned = single.t().unwrap();
        let got = fetch(&[&single, &scalar, &turned]).unwrap();
        assert_eq!(got, [vec![1.5, 0.0, 3.0, f64::INFINITY], vec![0.1], vec![1.5, 3.0, 0.0, f64::INFINITY]]);
        assert!(got[0][1].is_sign_negative());
        assert_eq!(fetch(&[]).unwrap(), Vec::<Vec<f64>>::new());
    }

    #[test]
    fn what_is_known_and_what_is_read_are_one() {
        let known = BTreeMap::from([("a".to_owned(), 1.0)]);
        let values = Tensor::new(&[2.0f64, 4.0], &Device::Cpu).unwrap();
        let sum: Finish = |values, margin| BTreeMap::from([("b".to_owned(), values[0].iter().sum::<f64>() + margin)]);
        let unread = Unread::later(known.clone(), vec![values], 0.5, sum);
        assert_eq!(unread.read().unwrap(), BTreeMap::from([("a".to_owned(), 1.0), ("b".to_owned(), 6.5)]));
        assert_eq!(Unread::known(known.clone()).read().unwrap(), known);
    }
}
