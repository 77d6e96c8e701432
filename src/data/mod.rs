//! Data sets: where they come from, how they are checked, in which order they are walked.

pub mod batches;
pub mod download;
pub mod idx;
pub mod mnist;
pub mod own;
pub mod picture;
pub mod sequences;
pub mod source;
pub mod synthetic;

pub use sequences::{BYTE_SCALE, Dataset, Sequences, Split, Values};
