//! Trains LSTM sequence classifiers.

pub mod data;
pub mod error;
pub mod progress;

pub use error::{Error, Result};
