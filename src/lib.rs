//! Trains LSTM sequence classifiers, fast, without Python: a linear input layer, an LSTM, a linear head, softmax
//! cross-entropy and Adam, on a CPU engine of fused microkernels. The same seed gives the same bits, whatever the number
//! of threads.
//!
//! Train on data in memory, see how good it is, predict:
//!
//! ```
//! use fused_lstm::config::Config;
//! use fused_lstm::cpu::CpuEngine;
//! use fused_lstm::data::{Split, synthetic};
//! use fused_lstm::engine::Engine;
//! use fused_lstm::train::{Plan, Unwatched, evaluate, train};
//! use std::sync::Arc;
//!
//! fn main() -> fused_lstm::Result<()> {
//!     let data = Arc::new(synthetic::digits(7, 4_000, 500, 500)); // drawn digits, 28 steps of 28 pixels
//!     let config = Config { batch_size: 64, ..Config::new(&data, 48) }; // 48 hidden units
//!     let mut engine = CpuEngine::new(config.model, config.adam, data.clone(), 0)?;
//!     engine.set_state(&config.initial_state())?;
//!     train(&mut engine, &data, &config, &Plan::new(300), &mut Unwatched)?;
//!
//!     let test = evaluate(&mut engine, &data, Split::Test)?;
//!     println!("{:.1} % of the test digits are classified right", 100.0 * test.accuracy);
//!     let probabilities = engine.predict(&data.test.slice(0, 1))?; // of the ten classes, for one digit
//!     # assert!(test.accuracy > 0.7, "{}", test.accuracy);
//!     # assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
//!     assert_eq!(probabilities.len(), 10);
//!     Ok(())
//! }
//! ```
//!
//! # Where things are
//!
//! | module | what |
//! | --- | --- |
//! | [`data`] | IDX files, MNIST and its download, synthetic digits, pictures, [your own files](data::own), the order of batches |
//! | [`shape`], [`model`], [`dropout`] | sizes, and where each tensor lies in the flat parameters; what is computed |
//! | [`engine`] | the seam: what every engine can do |
//! | [`reference`](mod@reference) | the oracle in plain loops, for f32 and f64 |
//! | [`cpu`] | the fast CPU engine |
//! | `cuda` | with the feature `cuda`: the kernels of the CUDA engine, compiled when the program runs |
//! | [`precision`] | in which numbers matrix products are computed |
//! | [`config`], [`train`], [`checkpoint`] | how a model is trained, the loop, saving and going on |
//! | [`interchange`] | models to and from PyTorch, Keras and ONNX |
//! | [`run`] | the folder that a training leaves: settings, numbers, checkpoints, what it gets wrong |
//! | [`stream`] | a trained model step by step, while a sequence is still coming |
//! | [`confusion`] | how often each class was taken for each other |
//! | [`fixture`] | batches with expected results, to check any engine by |
//!
//! Sizes have one letter each: B sequences in a batch, T steps, I inputs per step, P outputs of the input layer, H hidden
//! units, G = 4H gates, L layers of D directions, K classes. Shapes are row-major.

pub mod checkpoint;
pub mod config;
pub mod confusion;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod dropout;
pub mod engine;
pub mod error;
pub mod fixture;
pub mod init;
pub mod interchange;
pub mod model;
pub mod optimizer;
pub mod precision;
pub mod progress;
pub mod reference;
pub mod run;
pub mod shape;
pub mod stream;
pub mod tensor_file;
pub mod train;

pub use error::{Error, Result};
