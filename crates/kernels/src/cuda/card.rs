//! A CUDA card, through candle's device.

use candle_core::CudaDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, DevicePtr, LaunchConfig, PushKernelArg};

#[cfg(feature = "cudnn")]
use super::device::Stored;
use super::device::{Argument, Device, Launch, Number, View};
#[cfg(feature = "cudnn")]
use super::train::conv::{Conv, Pass};
use crate::{Error, Result};

/// All kernels, as `build.rs` compiled them.
const MODULE: (&str, &str) = ("ufg-kernels", include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx")));
/// Bytes of dynamic shared memory that a kernel gets without asking.
const UNASKED: usize = 48 * 1024;

/// A card and its stream.
#[derive(Clone)]
pub(crate) struct Card(pub(crate) CudaDevice);

impl Card {
    /// Refuses a driver that is too old for the kernels, before any of them is needed: it is given a module with their version
    /// of PTX and nothing in it. Whatever else the driver may say to that is left to the first launch.
    pub(crate) fn takes_kernels(&self) -> Result<()> {
        let heading = heading(MODULE.1);
        match self.0.cuda_stream().context().load_module(Ptx::from_src(heading)) {
            Err(error) if error.0 == CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => Err(Error::Device {
                op: "loading kernels",
                reason: format!(
                    "the driver is older than the CUDA toolkit that compiled this program's kernels (PTX {}): take a newer driver, or \
                     build with a toolkit that is no newer than the CUDA version that nvidia-smi shows",
                    version(heading)
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// What PTX begins with: its version, the cards that it is for, and the size of addresses.
fn heading(ptx: &str) -> &str {
    const LAST: &str = ".address_size 64";
    &ptx[..ptx.find(LAST).map_or(0, |at| at + LAST.len())]
}

/// The version that PTX says it has; empty where it says none.
fn version(ptx: &str) -> &str {
    ptx.split_once(".version ").and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default()
}

impl Device for Card {
    type Buffer<T: Number> = CudaSlice<T>;

    fn empty<T: Number>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: the numbers are plain, and a kernel writes all of them before anybody reads one.
        Ok(unsafe { self.0.alloc::<T>(len.max(1)) }?)
    }

    fn upload<T: Number>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        match values {
            [] => self.empty(0),
            values => Ok(self.0.clone_htod(values)?),
        }
    }

    fn download<T: Number>(&self, buffer: &CudaSlice<T>) -> Result<Vec<T>> {
        Ok(self.0.clone_dtoh(buffer)?)
    }

    fn view<T: Number>(&self, buffer: &CudaSlice<T>) -> View<T> {
        let stream = self.0.cuda_stream();
        // One stream does everything in order, so that the guard need not outlive this line.
        let (address, _guard) = buffer.device_ptr(&stream);
        View::new(address, buffer.len())
    }

    fn launch(&self, kernel: &'static str, launch: Launch, arguments: &[Argument]) -> Result<()> {
        if launch.blocks == 0 {
            return Ok(());
        }
        let refused = |reason: String| Error::Device { op: kernel, reason };
        let function = self.0.get_or_load_custom_func(kernel, MODULE.0, MODULE.1)?;
        let bytes = launch.shared * size_of::<f64>();
        if bytes > UNASKED {
            function
                .set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes as i32)
                .map_err(|e| refused(format!("the card has no {bytes} bytes of shared memory for a block: {e}")))?;
        }
        let blocks = u32::try_from(launch.blocks).map_err(|_| refused(format!("{} blocks", launch.blocks)))?;
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (launch.threads as u32, 1, 1),
            shared_mem_bytes: bytes as u32,
        };
        let mut builder = function.builder();
        for argument in arguments {
            match argument {
                Argument::Address(address) => builder.arg(address),
                Argument::Count(count) => builder.arg(count),
                Argument::Real(real) => builder.arg(real),
            };
        }
        // SAFETY: the arguments are those of the kernel's signature, and the memory that they point to has the sizes that
        // the kernel expects; the same calls run in the emulator, whose memory is guarded.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    #[cfg(feature = "cudnn")]
    fn convolve<T: Stored>(
        &self,
        op: &'static str,
        pass: Pass,
        views: ([View<T>; 2], View<T>),
        conv: &Conv,
    ) -> Result<bool> {
        super::cudnn::convolve(self, op, pass, views, conv)
    }

    #[cfg(feature = "cusolver")]
    fn has_eigenvectors(&self, op: &'static str) -> Result<bool> {
        super::cusolver::is_there(self, op)
    }

    #[cfg(feature = "cusolver")]
    fn eigenvectors(
        &self,
        op: &'static str,
        views: (View<f64>, View<f64>, View<u32>),
        sizes: (usize, usize),
    ) -> Result<()> {
        super::cusolver::eigenvectors(self, op, views, sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_begins_with_its_version() {
        let text = "//\n// by a compiler\n//\n\n.version 8.4\n.target sm_80\n.address_size 64\n\n.visible .entry k()\n{ ret; }\n";
        let head = heading(text);
        assert!(head.ends_with(".target sm_80\n.address_size 64") && head.starts_with("//"), "{head}");
        assert_eq!(version(head), "8.4");
        assert_eq!((heading("{}"), version("{}")), ("", ""));
    }
}
