//! Trains LSTM sequence classifiers.

pub mod checkpoint;
pub mod cpu;
pub mod data;
pub mod engine;
pub mod error;
pub mod fixture;
pub mod init;
pub mod optimizer;
pub mod progress;
pub mod reference;
pub mod shape;
pub mod tensor_file;
pub mod train;

pub use error::{Error, Result};
