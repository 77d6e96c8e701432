//! Data sets: where they come from, how they are checked, in which order they are walked.

pub mod picture;
pub mod sequences;
pub mod synthetic;

pub use sequences::{Dataset, Sequences, Split, Values};
