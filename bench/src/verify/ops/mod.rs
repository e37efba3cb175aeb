//! The ops and how each is run: one small function per op.

mod losses;
mod scores;
mod spd;
mod transport;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::Precision;
use super::measure::{Measured, Part, tolerance, worst};
use super::oracle::{Case, OracleError};

macro_rules! ops {
    ($($variant:ident = $name:literal => $runner:path,)*) => {
        /// The ops of the format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Op {
            $(#[doc = $name] $variant,)*
        }

        impl Op {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As the files name it.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            fn runner(self) -> fn(&Run<'_>) -> Outcome {
                match self {
                    $(Self::$variant => $runner,)*
                }
            }
        }
    };
}

ops! {
    SpdLog = "spd_log" => spd::log,
    SpdSqrt = "spd_sqrt" => spd::sqrt,
    SpdInvSqrt = "spd_inv_sqrt" => spd::inv_sqrt,
    SpdExp = "spd_exp" => spd::exp,
    LeDistance = "le_distance" => spd::le_distance,
    BwDistance = "bw_distance" => spd::bw_distance,
    Covariance = "covariance" => spd::covariance,
    Sinkhorn = "sinkhorn" => transport::sinkhorn,
    DsotGraph = "dsot_graph" => transport::dsot_graph,
    Cotap = "cotap" => transport::cotap,
    Supcon = "supcon" => losses::supcon,
    Triplet = "triplet" => losses::triplet,
    PacMcl = "pac_mcl" => losses::pac_mcl,
    ClassificationMetrics = "classification_metrics" => scores::classification,
    RetrievalMetrics = "retrieval_metrics" => scores::retrieval,
}

impl Op {
    /// The op of a file.
    pub(super) fn of(case: &Case) -> Result<Self, OracleError> {
        let found = Self::ALL.iter().copied().find(|op| op.name() == case.op);
        found.ok_or_else(|| OracleError::UnknownOp { path: case.path.clone(), op: case.op.clone() })
    }

    /// The names of all ops.
    pub(super) fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|op| op.name()).collect()
    }

    /// Runs a case and compares.
    pub(super) fn run(self, case: &Case, precision: Precision, device: &Device) -> Outcome {
        self.runner()(&Run { case, precision, device })
    }
}

/// Why there is nothing to compare.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file is not what the format describes.
    File(OracleError),
    /// The op refused or failed.
    Op(String),
}

impl From<OracleError> for Failure {
    fn from(error: OracleError) -> Self {
        Self::File(error)
    }
}

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        Self::Op(error.to_string())
    }
}

impl From<kernels::Error> for Failure {
    fn from(error: kernels::Error) -> Self {
        Self::Op(error.to_string())
    }
}

impl From<::losses::LossError> for Failure {
    fn from(error: ::losses::LossError) -> Self {
        Self::Op(error.to_string())
    }
}

impl From<metrics::MetricError> for Failure {
    fn from(error: metrics::MetricError) -> Self {
        Self::Op(error.to_string())
    }
}

/// The compared tensors of a case.
pub(super) type Outcome = Result<Vec<Part>, Failure>;

/// A case and the dtype that it runs in.
pub(super) struct Run<'a> {
    /// The case.
    pub(super) case: &'a Case,
    /// The dtype.
    pub(super) precision: Precision,
    /// Where the tensors lie.
    pub(super) device: &'a Device,
}

impl Run<'_> {
    /// An input or a cotangent as a tensor of the dtype.
    fn tensor(&self, name: &str, rank: usize) -> Result<Tensor, Failure> {
        let array = self.case.ranked(name, rank)?;
        let tensor = Tensor::from_slice(&array.values, array.shape.as_slice(), self.device)?;
        Ok(tensor.to_dtype(self.precision.dtype())?)
    }

    /// The same to be differentiated.
    fn variable(&self, name: &str, rank: usize) -> Result<Var, Failure> {
        Ok(Var::from_tensor(&self.tensor(name, rank)?)?)
    }

    /// An input as plain numbers, rounded to the dtype.
    fn plain(&self, name: &str, rank: usize) -> Result<Vec<f64>, Failure> {
        Ok(values(&self.tensor(name, rank)?)?)
    }

    /// Refuses a size that does not agree with another one of the file.
    fn agree(&self, what: &str, found: usize, expected: usize) -> Result<(), Failure> {
        if found == expected {
            return Ok(());
        }
        Err(self.case.wrong(format!("{what} has size {found} where {expected} is due")).into())
    }

    /// Compares an output with the tensor `name`, in batch entries of `item` values.
    fn value(&self, name: &str, got: &[f64], item: usize) -> Result<Part, Failure> {
        let bar = tolerance(self.precision).value;
        Ok(Part { gradient: false, measured: self.compare(name, got, item, |_| bar)?, note: None })
    }

    /// Compares a gradient with the tensor `name`, in batch entries of `item` values.
    fn gradient(&self, name: &str, grads: &GradStore, of: &Var, item: usize) -> Result<Part, Failure> {
        let bar = tolerance(self.precision).gradient;
        let got = gradient_values(name, grads, of)?;
        Ok(Part { gradient: true, measured: self.compare(name, &got, item, |_| bar)?, note: None })
    }

    /// Compares the gradient of symmetric `d`×`d` matrices: its symmetric part counts.
    fn symmetric_gradient(&self, name: &str, grads: &GradStore, of: &Var, d: usize) -> Result<Part, Failure> {
        let bar = tolerance(self.precision).gradient;
        let mut got = gradient_values(name, grads, of)?;
        for matrix in got.chunks_mut(d * d) {
            for (i, j) in (0..d).flat_map(|i| (0..i).map(move |j| (i, j))) {
                let mean = 0.5 * (matrix[i * d + j] + matrix[j * d + i]);
                (matrix[i * d + j], matrix[j * d + i]) = (mean, mean);
            }
        }
        Ok(Part { gradient: true, measured: self.compare(name, &got, d * d, |_| bar)?, note: None })
    }

    fn compare(&self, name: &str, got: &[f64], item: usize, bars: impl Fn(usize) -> f64) -> Result<Measured, Failure> {
        let want = &self.case.tensor(name)?.values;
        self.agree(&format!("tensor `{name}`"), want.len(), got.len())?;
        Ok(worst(got, want, item, bars))
    }
}

/// Float64 values of a tensor.
fn values(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

fn gradient_values(name: &str, grads: &GradStore, of: &Var) -> Result<Vec<f64>, Failure> {
    let grad = grads.get(of).ok_or_else(|| Failure::Op(format!("backward made no `{name}`")))?;
    Ok(values(grad)?)
}

/// The gradients of `scale · Σ y ∘ g`.
fn backward(y: &Tensor, g: &Tensor, scale: f64) -> Result<GradStore, Failure> {
    Ok((y.mul(g)?.sum_all()? * scale)?.backward()?)
}
