//! Which of cuDNN's algorithms may compute a pass, and in which order they are tried.

use super::super::device::Stored;
use super::super::train::conv::{Conv, Pass};
use crate::nn::ConvLibrary;

/// Bytes of workspace that an algorithm may ask for: a guess, far above what the sums of products of the networks here
/// need, and a small part of a card.
pub(super) const WORKSPACE: usize = 1 << 30;

/// A type of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Precision {
    Single,
    Double,
    Half,
}

impl Precision {
    pub(super) fn of<T: Stored>() -> Self {
        match T::pick(["single", "double", "half"]) {
            "single" => Self::Single,
            "double" => Self::Double,
            _ => Self::Half,
        }
    }
}

/// What an algorithm is chosen by, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub(super) pass: Pass,
    pub(super) precision: Precision,
    /// Whether speed comes before repeatability and float32's digits.
    pub(super) fast: bool,
    /// Images, input channels, height, width.
    pub(super) x: [usize; 4],
    /// Filters, their channels, height, width.
    pub(super) w: [usize; 4],
    /// Height and width of the result.
    pub(super) y: [usize; 2],
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) dilation: usize,
    pub(super) groups: usize,
}

impl Problem {
    pub(super) fn new<T: Stored>(pass: Pass, conv: &Conv) -> Self {
        let config = conv.config;
        Self {
            pass,
            precision: Precision::of::<T>(),
            fast: config.library == ConvLibrary::CudnnFast,
            x: [conv.batch, conv.c_in, conv.height, conv.width],
            w: [conv.c_out, conv.c_in / config.groups, conv.kh, conv.kw],
            y: [conv.oh, conv.ow],
            stride: config.stride,
            padding: config.padding,
            dilation: config.dilation,
            groups: config.groups,
        }
    }

    /// How products are to be taken while cuDNN is asked for algorithms.
    pub(super) fn math(&self) -> Math {
        match (self.precision, self.fast) {
            (Precision::Single, false) => Math::Fma,
            (Precision::Half, _) => Math::Tensor,
            _ => Math::Default,
        }
    }

    /// How an algorithm that cuDNN offers with `offered` takes its products here; `None` where that would round the factors.
    fn taken(&self, offered: Math) -> Option<Math> {
        match (self.precision, self.fast) {
            // Float32 keeps its digits: cuDNN's default may round factors to TF32, and does not where FMA is asked for.
            (Precision::Single, false) => matches!(offered, Math::Fma | Math::Default).then_some(Math::Fma),
            (Precision::Double, _) => matches!(offered, Math::Fma | Math::Default).then_some(Math::Default),
            // Float32 factors must not become bfloat16 or float16.
            (Precision::Single, true) => (offered != Math::Convert).then_some(offered),
            (Precision::Half, _) => Some(offered),
        }
    }
}

/// cuDNN's ways to take products, `cudnnMathType_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Math {
    Default = 0,
    Tensor = 1,
    Convert = 2,
    Fma = 3,
}

impl Math {
    /// Of cuDNN's number.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        [Self::Default, Self::Tensor, Self::Convert, Self::Fma].into_iter().find(|math| *math as u32 == number)
    }
}

/// An algorithm as cuDNN offers it for a problem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Offer {
    /// Its number among those of the pass.
    pub(super) algorithm: u32,
    pub(super) math: Math,
    /// Whether it can compute the problem.
    pub(super) works: bool,
    /// Whether it gives the same bits in every run.
    pub(super) deterministic: bool,
}

/// An algorithm, and how it takes products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Choice {
    pub(super) algorithm: u32,
    pub(super) math: Math,
}

/// Algorithms of a pass that add up products as they are and are documented to be deterministic, the usual one first: all but
/// the transforms of Winograd and Fourier, and those that add atomically.
fn plain(pass: Pass) -> &'static [u32] {
    match pass {
        // IMPLICIT_PRECOMP_GEMM, IMPLICIT_GEMM, GEMM, DIRECT.
        Pass::Forward => &[1, 0, 2, 3],
        // ALGO_1; 0 adds atomically.
        Pass::BackwardData => &[1],
        // ALGO_1; 0 and 3 add atomically.
        Pass::BackwardFilter => &[1],
    }
}

/// The algorithms that may compute a problem, in the order in which they are tried: cuDNN's own order, by what its model of
/// the card expects, then those that it did not offer and documents for every problem.
pub(super) fn allowed(problem: &Problem, offers: &[Offer]) -> Vec<Choice> {
    let plain = plain(problem.pass);
    let repeatable = |offer: &Offer| problem.fast || (offer.deterministic && plain.contains(&offer.algorithm));
    let offered = offers.iter().filter(|offer| offer.works && repeatable(offer));
    let mut all: Vec<Choice> = Vec::new();
    let offered =
        offered.filter_map(|offer| Some(Choice { algorithm: offer.algorithm, math: problem.taken(offer.math)? }));
    let usual = plain.iter().map(|&algorithm| Choice { algorithm, math: problem.math() });
    for choice in offered.chain(usual) {
        if !all.contains(&choice) {
            all.push(choice);
        }
    }
    all
}
