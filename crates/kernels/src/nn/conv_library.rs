//! Whose kernels a convolution on a card runs.

/// Whose kernels a convolution on a CUDA card runs; on the CPU there is one implementation, and this says nothing.
///
/// Depthwise convolutions (several groups of one input channel) are own kernels always: cuDNN has no better ones for maps as
/// they lie here (batch, channel, row, column).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ConvLibrary {
    /// As [`ConvLibrary::Cudnn`] where the program was built with the feature `cudnn` and cuDNN is on the machine, own
    /// kernels elsewhere, and for what cuDNN has no algorithm for. [`crate::libraries::of`] says which it is. A function of
    /// the machine and the shapes: the same in every run.
    #[default]
    Automatic,
    /// Own kernels, which give the same bits in every run.
    Own,
    /// cuDNN 9, by algorithms that it documents to give the same bits in every run and that sum products as they are
    /// (neither Winograd's nor Fourier's transform, which round more): float32 in float32 (no TF32), bfloat16 with float32
    /// sums. An error where there is no cuDNN, or no algorithm of this kind.
    ///
    /// The gradient of a bfloat16 filter is summed in float32 and rounded to bfloat16 once before it is returned in float32,
    /// as in PyTorch; own kernels do not round it.
    Cudnn,
    /// cuDNN 9, by whatever algorithm its own model of the card expects to be the fastest: float32 products may be rounded to
    /// TF32 (11 bits), and gradients may differ between runs. An error where there is no cuDNN, or no algorithm at all.
    CudnnFast,
}

impl ConvLibrary {
    /// Whether anything but cuDNN is refused.
    #[cfg_attr(not(any(test, feature = "cuda")), expect(dead_code, reason = "only cards have libraries"))]
    pub(crate) fn insists(self) -> bool {
        matches!(self, Self::Cudnn | Self::CudnnFast)
    }
}
