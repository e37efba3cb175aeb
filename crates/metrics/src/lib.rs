//! Classification, retrieval, calibration and manifold metrics: slices in, f64 out.
