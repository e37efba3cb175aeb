//! What a forward pass carries besides the images.

use kernels::nn::Flow;
use random::Stream;

use crate::{BatchStatistics, Error, Result};

/// Statistics of the normalisations, and the numbers that dropout and stochastic depth draw.
#[derive(Debug)]
pub struct Pass<'a> {
    statistics: BatchStatistics,
    stream: Option<&'a mut Stream>,
}

impl<'a> Pass<'a> {
    /// A pass without random numbers. In [`BatchStatistics::Train`] a network with `drop_path` or `dropout` above 0
    /// refuses it; otherwise these do nothing.
    pub fn new(statistics: BatchStatistics) -> Self {
        Self { statistics, stream: None }
    }

    /// A training pass whose dropout and stochastic depth draw from `stream`: one of [`random::Axis::Dropout`] at the
    /// training step, so that a step can be repeated.
    pub fn training(stream: &'a mut Stream) -> Self {
        Self { statistics: BatchStatistics::Train, stream: Some(stream) }
    }

    /// Which statistics the batch normalisations use.
    pub fn statistics(&self) -> BatchStatistics {
        self.statistics
    }

    /// Runs a part of the network: a frozen one in eval mode, with neither stochastic depth nor dropout.
    pub(crate) fn part<T>(&mut self, frozen: bool, run: impl FnOnce(&mut Pass<'_>) -> Result<T>) -> Result<T> {
        if frozen { run(&mut Pass::new(BatchStatistics::Eval)) } else { run(self) }
    }

    /// Stochastic depth (Huang et al. 2016): each image's residual is left out with probability `rate`, else divided
    /// by `1 − rate`.
    pub(crate) fn drop_path(&mut self, x: Flow, rate: f64) -> Result<Flow> {
        let mut dims = vec![1; x.dims().len()];
        dims[0] = x.dims()[0];
        self.masked(x, rate, dims, "drop_path")
    }

    /// Dropout (Srivastava et al. 2014): each number is left out with probability `rate`, else divided by `1 − rate`.
    pub(crate) fn dropout(&mut self, x: Flow, rate: f64) -> Result<Flow> {
        let dims = x.dims().to_vec();
        self.masked(x, rate, dims, "dropout")
    }

    fn masked(&mut self, x: Flow, rate: f64, dims: Vec<usize>, what: &'static str) -> Result<Flow> {
        if rate == 0.0 || self.statistics != BatchStatistics::Train {
            return Ok(x);
        }
        let Some(stream) = self.stream.as_deref_mut() else {
            return Err(Error::NoStream { what });
        };
        let n = dims.iter().product();
        let mask: Vec<f64> = (0..n).map(|_| if stream.chance(rate) { 0.0 } else { 1.0 / (1.0 - rate) }).collect();
        let mask = kernels::host::from_f64(what, mask, dims, x.parameter_dtype(), x.value().device())?;
        Ok(x.masked(&mask)?)
    }
}
