//! The seam between the training loop and whatever computes: one trait, cut so high that an engine may fuse a whole
//! iteration into one launch.

use crate::data::{Sequences, Split};
use crate::error::Result;
use crate::precision::Precision;

pub use crate::model::Model;

/// Everything that training changes.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Flat parameters, as [`crate::shape::ParamLayout`] lays them out.
    pub parameters: Vec<f32>,
    /// Adam's running mean of the gradients, laid out alike.
    pub m: Vec<f32>,
    /// Adam's running mean of their squares, laid out alike.
    pub v: Vec<f32>,
    /// Steps done.
    pub step: u64,
}

impl State {
    /// The state before the first step.
    pub fn new(parameters: Vec<f32>) -> Self {
        let zeros = vec![0.0; parameters.len()];
        Self { parameters, m: zeros.clone(), v: zeros, step: 0 }
    }
}

/// What a training step tells: of its batch, before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// Mean cross-entropy, in nats.
    pub loss: f32,
    /// Sequences whose largest logit is that of their label.
    pub correct: u32,
}

/// What an evaluation tells, sequence by sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Cross-entropy, in nats.
    pub loss: Vec<f32>,
    /// Class of the largest logit; of equal ones the first.
    pub predicted: Vec<u32>,
}

/// All that one batch gives, for checks of one engine against another.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// `[B,K]`
    pub logits: Vec<f32>,
    /// Hidden state that each direction of the last layer ends with, `[B,D·H]`.
    pub h_last: Vec<f32>,
    /// Cell state, likewise.
    pub c_last: Vec<f32>,
    /// Cross-entropy of each sequence, `[B]`.
    pub loss: Vec<f32>,
    /// Gradient of the mean loss, laid out as the flat parameters.
    pub gradient: Vec<f32>,
    /// Gradient of the mean loss by the inputs, `[B,T,I]`.
    pub dx: Vec<f32>,
}

/// Holds a model's parameters, the optimizer's state and a data set, and computes with them.
///
/// Same state, same data, same calls: same bits, whatever the number of threads.
pub trait Engine {
    /// One line for the user: the device and what is used of it.
    fn device(&self) -> String;

    /// Precision of the operands of its matrix products.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// Threads that compute; 1 where that means nothing.
    fn threads(&self) -> usize;

    /// What is computed.
    fn model(&self) -> Model;

    /// A copy of everything that training changes.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn state(&mut self) -> Result<State>;

    /// Replaces everything that training changes; lengths must be those of the model's layout.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn set_state(&mut self, state: &State) -> Result<()>;

    /// Makes ready to train on batches of that size, so that what does not fit is told before a run begins. Training does
    /// without it.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Usage`] for batches that the device has no room for; if the device fails.
    fn prepare(&mut self, _batch_size: usize) -> Result<()> {
        Ok(())
    }

    /// Trains one step for each `batch_size` of `rows`, which are indices into the training split.
    ///
    /// # Errors
    ///
    /// If the device fails. A loss that is not finite is no error here.
    fn train_steps(&mut self, rows: &[u32], batch_size: usize) -> Result<Vec<StepMetrics>>;

    /// Scores `rows` of `split` with the parameters as they are.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn evaluate(&mut self, split: Split, rows: &[u32]) -> Result<Scores>;

    /// Probabilities of every class `[N,K]` for sequences from outside of the data set; their labels are not looked at.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn predict(&mut self, sequences: &Sequences) -> Result<Vec<f32>>;

    /// Runs forward and backward on `batch`, from outside of the data set, as the next training step would, and changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn trace(&mut self, batch: &Sequences) -> Result<Trace>;
}
