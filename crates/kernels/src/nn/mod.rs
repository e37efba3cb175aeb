//! Training ops that candle lacks, or whose backward pass it lacks or makes slow: convolution, max pooling,
//! batch normalisation, rectifier. Float32 and float64, on the CPU.
//!
//! Every op gives the same bits whatever the number of rayon threads: work is cut into pieces that depend on
//! shapes alone, each piece is computed sequentially, and partial sums are added in a fixed order.

mod activation;
pub(crate) mod buffers;
mod columns;
mod conv;
mod dense;
mod depthwise;
mod moments;
mod norm;
mod pool;

pub use activation::{add_relu, relu};
pub use conv::{Conv2dConfig, conv2d};
pub use norm::{BatchNormOut, batch_norm_eval, batch_norm_relu_eval, batch_norm_relu_train, batch_norm_train};
pub use pool::max_pool2d;
