//! How a model is trained: all that, with the data, determines every bit of it.

use crate::data::own::OwnData;
use crate::data::{BYTE_SCALE, Dataset};
use crate::engine::{Model, State};
use crate::init::{self, Init};
use crate::optimizer::{Adam, Schedule};
use crate::shape::Dims;
use serde::{Deserialize, Serialize};

/// Sequences in a batch, where there are as many.
const BATCH: usize = 128;

/// A model and its training. With it and a [`State`], training goes on as if it had never stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What is computed.
    pub model: Model,
    /// The optimizer.
    pub adam: Adam,
    /// How the parameters start.
    pub init: Init,
    /// Seed of the initial parameters and of the data order; dropout has its own.
    pub seed: u64,
    /// Sequences in a batch, B.
    pub batch_size: usize,
    /// Name of the data set, as in `--data`, or `own`.
    pub data: String,
    /// Sequences in its training split.
    pub train_sequences: usize,
    /// Names of the classes and normalisation, of data that is the user's own. Checkpoints of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnData>,
}

impl Config {
    /// The tutorial's training for `data`, with `hidden` units and an input layer as wide: forget bias 1, Adam with
    /// learning rate 0.001, batches of 128 or of all sequences if there are fewer, seed 0.
    pub fn new(data: &Dataset, hidden: usize) -> Self {
        let dims = Dims { t: data.train.t(), i: data.train.i(), p: hidden, h: hidden, k: data.classes };
        Self {
            model: Model::new(dims),
            adam: Adam::default(),
            init: Init::default(),
            seed: 0,
            batch_size: data.train.len().clamp(1, BATCH),
            data: data.name.to_owned(),
            train_sequences: data.train.len(),
            own: data.own.clone(),
        }
    }

    /// What a number of the data is multiplied by before anything else: [`BYTE_SCALE`] where they are bytes, else 1.
    pub fn input_scale(&self) -> f32 {
        let is_bytes = match &self.own {
            Some(own) => own.bytes,
            None => ["mnist", "synthetic"].contains(&self.data.as_str()),
        };
        if is_bytes { BYTE_SCALE } else { 1.0 }
    }

    /// Whether it can be told to programs that know nothing beyond the tutorial's model and optimizer.
    pub(crate) fn is_first_form(&self) -> bool {
        let Adam { weight_decay, schedule, .. } = self.adam;
        self.model.extras().is_none() && weight_decay == 0.0 && schedule == Schedule::Constant
    }

    /// The state before the first step.
    pub fn initial_state(&self) -> State {
        State::new(init::parameters(&self.model, self.init, self.seed))
    }
}
