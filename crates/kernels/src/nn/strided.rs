//! 1×1 convolutions with a stride are plain ones of the pixels that they meet.

use std::mem::MaybeUninit;

use super::buffers::{Real, fresh};
use super::columns::Geometry;
use super::conv::Conv2dConfig;

/// Maps that one task handles.
const MAPS: usize = 16;

/// Whether a convolution is of this kind.
pub(super) fn applies(g: &Geometry) -> bool {
    (g.kh, g.kw, g.config.padding) == (1, 1, 0) && g.config.stride > 1
}

/// The convolution of the pixels that are met.
pub(super) fn plain(g: &Geometry) -> Geometry {
    let config = Conv2dConfig { stride: 1, ..g.config };
    Geometry { height: g.oh, width: g.ow, config, ..*g }
}

/// The pixels that are met, [B, C, H', W'].
pub(super) fn met<T: Real>(g: &Geometry, x: &[T]) -> Vec<T> {
    // SAFETY: every row of the map has a row of the image that it comes from, with a pixel for each of its own.
    unsafe {
        fresh(g.batch * g.c_in * g.map(), (g.map(), MAPS), |index, to| {
            let rows = x[index * g.plane()..][..g.plane()].chunks(g.width).step_by(g.config.stride);
            for (to, from) in to.chunks_mut(g.ow).zip(rows) {
                for (to, from) in to.iter_mut().zip(from.iter().step_by(g.config.stride)) {
                    to.write(*from);
                }
            }
        })
    }
}

/// The way back: zeros where no pixel is met, [B, C, H, W].
pub(super) fn spread<T: Real>(g: &Geometry, met: &[T]) -> Vec<T> {
    // SAFETY: the whole map is filled first.
    unsafe {
        fresh(g.batch * g.c_in * g.plane(), (g.plane(), MAPS), |index, to| {
            to.fill(MaybeUninit::new(T::ZERO));
            let from = met[index * g.map()..][..g.map()].chunks(g.ow);
            for (to, from) in to.chunks_mut(g.width).step_by(g.config.stride).zip(from) {
                for (to, from) in to.iter_mut().step_by(g.config.stride).zip(from) {
                    to.write(*from);
                }
            }
        })
    }
}
