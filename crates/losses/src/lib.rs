//! Objectives and heads of the methods.
