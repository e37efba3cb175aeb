//! Trainable backbones and their parameter store.
