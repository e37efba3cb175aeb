//! Datasets of ultra-fine-grained images: sources, decoding, augmentation, samplers.
