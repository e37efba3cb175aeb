//! Geometry of a convolution, and images to columns and back.
//!
//! An image is first copied, padded, into *phases*: a padded row is split by `x mod stride`, so that the values
//! that a tap meets along an output row are contiguous. Columns are then plain copies of such runs, whatever the
//! stride and dilation, without a test for the border; the way back is plain additions.

use std::mem::MaybeUninit;

use super::buffers::Real;
use super::conv::Conv2dConfig;

/// Sizes of one convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) c_in: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) c_out: usize,
    pub(super) kh: usize,
    pub(super) kw: usize,
    pub(super) oh: usize,
    pub(super) ow: usize,
    pub(super) config: Conv2dConfig,
}

impl Geometry {
    /// Input channels of a group.
    pub(super) fn cg(&self) -> usize {
        self.c_in / self.config.groups
    }

    /// Output channels of a group.
    pub(super) fn og(&self) -> usize {
        self.c_out / self.config.groups
    }

    /// Taps of one output value: input channels of a group times the kernel's area.
    pub(super) fn taps(&self) -> usize {
        self.cg() * self.kh * self.kw
    }

    /// Values of an output map.
    pub(super) fn map(&self) -> usize {
        self.oh * self.ow
    }

    /// Values of an input map.
    pub(super) fn plane(&self) -> usize {
        self.height * self.width
    }

    /// Values of an input image.
    pub(super) fn image(&self) -> usize {
        self.c_in * self.plane()
    }

    /// A 1×1 kernel at every pixel: the columns are the image itself.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kh == 1 && self.kw == 1 && self.config.stride == 1 && self.config.padding == 0
    }

    /// Every group has one input channel.
    pub(super) fn is_depthwise(&self) -> bool {
        self.config.groups > 1 && self.config.groups == self.c_in
    }

    fn padded_height(&self) -> usize {
        self.height + 2 * self.config.padding
    }

    /// Length of a phase of a padded row.
    fn phase(&self) -> usize {
        (self.width + 2 * self.config.padding).div_ceil(self.config.stride)
    }

    /// Values of a padded map in phases.
    pub(super) fn padded_plane(&self) -> usize {
        self.padded_height() * self.config.stride * self.phase()
    }

    /// Where the run of output row `oy` under tap `(ky, kx)` starts in a padded map; it is `ow` long.
    #[inline(always)]
    pub(super) fn run(&self, oy: usize, ky: usize, kx: usize) -> usize {
        let Conv2dConfig { stride, dilation, .. } = self.config;
        let row = oy * stride + ky * dilation;
        let x = kx * dilation;
        (row * stride + x % stride) * self.phase() + x / stride
    }

    /// Copies maps into padded phases, zeros around them.
    pub(super) fn pad<T: Real>(&self, maps: &[T], padded: &mut [T]) {
        padded.fill(T::ZERO);
        self.each_run_of_input(|from, to, step, len| {
            let to = &mut padded[to..to + len];
            if step == 1 {
                to.copy_from_slice(&maps[from..from + len]);
            } else {
                for (to, from) in to.iter_mut().zip(maps[from..].iter().step_by(step)) {
                    *to = *from;
                }
            }
        });
    }

    /// The way back: writes maps from padded phases, without the border.
    pub(super) fn unpad<T: Real>(&self, padded: &[T], maps: &mut [MaybeUninit<T>]) {
        self.each_run_of_input(|to, from, step, len| {
            let from = &padded[from..from + len];
            if step == 1 {
                maps[to..to + len].write_copy_of_slice(from);
            } else {
                for (to, from) in maps[to..].iter_mut().step_by(step).zip(from) {
                    to.write(*from);
                }
            }
        });
    }

    /// Calls `f(start in maps, start in padded maps, step in maps, length)` for every run, over as many maps as a
    /// group has.
    fn each_run_of_input(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let Conv2dConfig { stride, padding, .. } = self.config;
        let (phase, height) = (self.phase(), self.padded_height());
        for c in 0..self.cg() {
            for y in 0..self.height {
                let from = (c * self.height + y) * self.width;
                let to = (c * height + y + padding) * stride * phase;
                for first in 0..stride.min(self.width) {
                    let x = first + padding;
                    let len = (self.width - first).div_ceil(stride);
                    f(from + first, to + (x % stride) * phase + x / stride, stride, len);
                }
            }
        }
    }

    /// Distance between the runs of neighbouring output rows.
    pub(super) fn run_step(&self) -> usize {
        self.config.stride * self.config.stride * self.phase()
    }

    /// Columns of one padded image: row `(c, ky, kx)`, column `at + (oy, ox)`, `pitch` values a row.
    pub(super) fn fill_columns<T: Real>(&self, padded: &[T], columns: &mut [T], pitch: usize, at: usize) {
        // A copy whose length the compiler knows, for the usual widths: a call to `memcpy` costs more than the copy.
        match self.ow {
            4 => self.fill_columns_of::<T, 4>(padded, columns, pitch, at),
            7 => self.fill_columns_of::<T, 7>(padded, columns, pitch, at),
            8 => self.fill_columns_of::<T, 8>(padded, columns, pitch, at),
            14 => self.fill_columns_of::<T, 14>(padded, columns, pitch, at),
            16 => self.fill_columns_of::<T, 16>(padded, columns, pitch, at),
            28 => self.fill_columns_of::<T, 28>(padded, columns, pitch, at),
            32 => self.fill_columns_of::<T, 32>(padded, columns, pitch, at),
            56 => self.fill_columns_of::<T, 56>(padded, columns, pitch, at),
            _ => self.each_tap(|row, start| {
                let to = &mut columns[row * pitch + at..][..self.map()];
                for (to, from) in to.chunks_exact_mut(self.ow).zip(padded[start..].chunks(self.run_step())) {
                    to.copy_from_slice(&from[..self.ow]);
                }
            }),
        }
    }

    fn fill_columns_of<T: Real, const W: usize>(&self, padded: &[T], columns: &mut [T], pitch: usize, at: usize) {
        let step = self.run_step();
        self.each_tap(|row, start| {
            let (to, _) = columns[row * pitch + at..][..self.oh * W].as_chunks_mut::<W>();
            for (to, from) in to.iter_mut().zip(padded[start..].chunks(step)) {
                if let Some(from) = from.first_chunk::<W>() {
                    *to = *from;
                }
            }
        });
    }

    /// The transpose of [`Self::fill_columns`]: adds columns into a padded image.
    pub(super) fn add_columns<T: Real>(&self, columns: &[T], padded: &mut [T], pitch: usize, at: usize) {
        let step = self.run_step();
        self.each_tap(|row, start| {
            let from = columns[row * pitch + at..][..self.map()].chunks_exact(self.ow);
            for (to, from) in padded[start..].chunks_mut(step).zip(from) {
                for (to, from) in to[..self.ow].iter_mut().zip(from) {
                    *to += *from;
                }
            }
        });
    }

    /// Calls `f(row of the columns, start of the first run in the padded image)` for every tap.
    #[inline(always)]
    fn each_tap(&self, mut f: impl FnMut(usize, usize)) {
        let plane = self.padded_plane();
        for ky in 0..self.kh {
            for kx in 0..self.kw {
                let run = self.run(0, ky, kx);
                for c in 0..self.cg() {
                    f((c * self.kh + ky) * self.kw + kx, c * plane + run);
                }
            }
        }
    }
}
