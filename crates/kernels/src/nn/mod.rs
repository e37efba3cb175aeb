//! Training ops that candle lacks, or whose backward pass it lacks or makes slow: convolution, max pooling,
//! batch and layer normalisation, activations, linear maps, attention, gates. Float32 and float64, on the CPU and,
//! with the feature `cuda`, on a card; there bfloat16 too, with parameters, statistics and sums in float32.
//!
//! Every op gives the same bits whatever the number of rayon threads: work is cut into pieces that depend on
//! shapes alone, each piece is computed sequentially, and partial sums are added in a fixed order. So does every processor
//! with AVX2 and FMA, whatever its caches and whether it has AVX-512 too.

mod activation;
mod attention;
mod batch_moments;
pub(crate) mod buffers;
mod cast;
mod channels;
mod columns;
mod conv;
mod conv_library;
mod conv_pairs;
mod dense;
mod depthwise;
mod flow;
mod gradient;
mod inner_products;
mod layer_norm;
mod layer_pieces;
mod linear;
mod masked;
mod math;
mod merged;
mod moments;
mod norm;
mod norm_pairs;
mod norm_pieces;
mod pair;
mod pointwise;
mod pool;
mod product;
mod strided;
pub(crate) mod wide;
mod winograd;

pub use activation::{add_relu, relu};
pub use attention::attention;
pub use batch_moments::BatchMoments;
pub use cast::cast;
pub use channels::{gated, global_mean, scaled_residual};
pub use conv::{Conv2dConfig, conv2d};
pub use conv_library::ConvLibrary;
pub use flow::Flow;
pub use inner_products::inner_products;
pub use layer_norm::{layer_norm, layer_norm_map};
pub use linear::linear;
pub use norm::{BatchNormOut, batch_norm_eval, batch_norm_relu_eval, batch_norm_relu_train, batch_norm_train};
pub use pointwise::{gelu, silu};
pub use pool::max_pool2d;
