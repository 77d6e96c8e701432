//! A trained model step by step: what it takes a sequence for while that is still coming.
//!
//! A stream keeps the states of all layers between two steps, and gives after each step the probabilities that
//! [`Engine::predict`](crate::engine::Engine::predict) gives for the steps so far; with the instructions of the same [`Isa`] the
//! very same bits. It runs in the thread that pushes, on the processor, and a push allocates no memory.
//!
//! ```
//! use fused_lstm::config::Config;
//! use fused_lstm::data::synthetic;
//! use fused_lstm::stream::Stream;
//!
//! fn main() -> fused_lstm::Result<()> {
//!     let config = Config::new(&synthetic::digits(7, 100, 10, 10), 48);
//!     let parameters = config.initial_state().parameters; // of a trained model: Stream::load(folder)
//!     let mut stream = Stream::new(&config, &parameters)?;
//!     for row in [[0.0; 28], [200.0; 28]] {
//!         let probabilities = stream.push(&row); // of the ten classes, after the rows so far
//!         # assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
//!         assert_eq!(probabilities.len(), 10);
//!     }
//!     stream.reset(); // another sequence begins
//!     Ok(())
//! }
//! ```

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::cpu::Isa;
use crate::cpu::stream::Running;
use crate::data::own::{Normalization, scale};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::precision::Precision;
use std::path::Path;

/// What a stream remembers of its steps so far. L layers of H units each.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamState {
    /// Steps so far.
    pub steps: u64,
    /// Hidden state of each layer, `[L,H]`.
    pub h: Vec<f32>,
    /// Cell state of each layer, `[L,H]`.
    pub c: Vec<f32>,
    /// For the pool over the steps, `[H]`: the sum of the last layer's hidden states, or the largest of each unit. Empty
    /// where the last state is read.
    pub pooled: Vec<f32>,
}

/// M streams of one model, which all take a step at a time: faster than each on its own, for every weight is read once.
pub struct Streams {
    running: Running,
    /// What the numbers of a step are multiplied by before anything else.
    scale: f32,
    normalization: Normalization,
}

impl Streams {
    /// `count` streams of the model in the checkpoint `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] for one that cannot be read, or whose model cannot be streamed: of two directions one begins
    /// at the sequence's end, and normalisation by sequence needs all of it. [`Error::Usage`] for a `count` of 0.
    pub fn load(folder: &Path, count: usize) -> Result<Self> {
        let (config, parameters) = Checkpoint::load_model(folder)?;
        if let Some((found, remedy)) = obstacle(&config) {
            return Err(Error::checkpoint(folder, found, remedy));
        }
        Self::new(&config, &parameters, count)
    }

    /// The same of a configuration and flat parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a model that cannot be streamed, or a `count` of 0 or beyond memory.
    ///
    /// # Panics
    ///
    /// If the parameters are not as many as the model has.
    pub fn new(config: &Config, parameters: &[f32], count: usize) -> Result<Self> {
        Self::with_isa(config, parameters, count, Isa::best())
    }

    /// The same with instructions of one's choice among [`Isa::available`].
    ///
    /// # Errors
    ///
    /// As [`Streams::new`], and for instructions for bf16.
    ///
    /// # Panics
    ///
    /// As [`Streams::new`].
    pub fn with_isa(config: &Config, parameters: &[f32], count: usize, isa: Isa) -> Result<Self> {
        if let Some((found, remedy)) = obstacle(config) {
            return Err(Error::usage("stream", found, remedy));
        }
        if isa.precision() != Precision::F32 {
            return Err(Error::usage("--precision bf16", "streams compute in f32", "leave it out"));
        }
        if count == 0 {
            return Err(Error::usage("0 streams", "there is nothing to push to", "ask for 1 or more"));
        }
        // Asked for and given back, never touched: a count beyond all memory is told before it ends the program.
        let bytes = Running::bytes_of_a_stream(&config.model).saturating_mul(count);
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| {
            Error::usage(format!("{count} streams"), "that takes more memory than there is", "ask for fewer")
        })?;
        let normalization = config.own.as_ref().map_or(Normalization::None, |own| own.normalization.clone());
        let running = Running::new(&config.model, parameters, count, isa);
        Ok(Self { running, scale: config.input_scale(), normalization })
    }

    /// What is computed.
    pub fn model(&self) -> &Model {
        self.running.model()
    }

    /// Number of streams, M.
    pub fn count(&self) -> usize {
        self.running.steps.len()
    }

    /// The next step `x [M,I]` of every stream; gives the probabilities of every class `[M,K]`.
    ///
    /// The numbers are as in the data that the model was trained on, pixels from 0 to 255: what brings them to the model's
    /// scale, which the checkpoint keeps, is done here. A stream may be longer than the sequences that the model was trained
    /// on. The sum of a mean over the steps is in f32, as everywhere: reset it before there are millions.
    ///
    /// # Panics
    ///
    /// If `x` does not hold M·I numbers.
    pub fn push(&mut self, x: &[f32]) -> &[f32] {
        let i = self.model().dims.i;
        assert_eq!(x.len(), self.count() * i, "a step is [M,I]");
        for (to, from) in self.running.inputs().zip(x.chunks_exact(i)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * self.scale);
            if let Normalization::Feature { mean, deviation } = &self.normalization {
                scale(to, mean, deviation);
            }
        }
        self.running.step();
        &self.running.probabilities
    }

    /// Begins another sequence in one stream.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn reset(&mut self, stream: usize) {
        self.check(stream);
        self.running.steps[stream] = 0;
        for (h, c) in self.running.states_mut(stream) {
            h.fill(0.0);
            c.fill(0.0);
        }
        self.pooled_mut(stream).fill(0.0);
    }

    /// A copy of what one stream remembers.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn state(&self, stream: usize) -> StreamState {
        self.check(stream);
        let (h, c): (Vec<_>, Vec<_>) = self.running.states(stream).unzip();
        let per_stream = self.running.pooled.len() / self.count();
        let pooled = self.running.pooled[stream * per_stream..][..per_stream].to_vec();
        StreamState { steps: self.running.steps[stream], h: h.concat(), c: c.concat(), pooled }
    }

    /// Goes on in one stream from a state, which may be of another stream of the same model.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a state of other sizes; the stream is then as it was.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn set_state(&mut self, stream: usize, state: &StreamState) -> Result<()> {
        self.check(stream);
        let model = self.model();
        let (h, all) = (model.dims.h, model.layers * model.dims.h);
        let pooled = self.running.pooled.len() / self.count();
        let (expected, found) = ([all, all, pooled], [state.h.len(), state.c.len(), state.pooled.len()]);
        if found != expected {
            let found = format!("h, c and pooled hold {found:?} numbers, those of this model {expected:?}");
            return Err(Error::usage("state", found, "give one that a stream of the same model gave"));
        }
        self.running.steps[stream] = state.steps;
        let from = state.h.chunks_exact(h).zip(state.c.chunks_exact(h));
        for ((h, c), (from_h, from_c)) in self.running.states_mut(stream).zip(from) {
            h.copy_from_slice(from_h);
            c.copy_from_slice(from_c);
        }
        self.pooled_mut(stream).copy_from_slice(&state.pooled);
        Ok(())
    }

    fn pooled_mut(&mut self, stream: usize) -> &mut [f32] {
        let per_stream = self.running.pooled.len() / self.count();
        &mut self.running.pooled[stream * per_stream..][..per_stream]
    }

    fn check(&self, stream: usize) {
        assert!(stream < self.count(), "stream {stream} of {}", self.count());
    }
}

/// Why the model of `config` cannot be run while its sequence is coming, and what to do.
fn obstacle(config: &Config) -> Option<(&'static str, &'static str)> {
    if config.model.bidirectional {
        return Some((
            "the model reads sequences in both directions, and a stream's end, where one begins, is yet to come",
            "train one without --bidirectional",
        ));
    }
    match config.own.as_ref()?.normalization {
        Normalization::Sequence => Some((
            "the model's sequences are normalized by the mean and deviation of all their steps, and a stream's are yet to come",
            "train one with --normalize feature or none",
        )),
        _ => None,
    }
}

/// One stream.
pub struct Stream(Streams);

impl Stream {
    /// A stream of the model in the checkpoint `folder`.
    ///
    /// # Errors
    ///
    /// As [`Streams::load`].
    pub fn load(folder: &Path) -> Result<Self> {
        Streams::load(folder, 1).map(Self)
    }

    /// The same of a configuration and flat parameters.
    ///
    /// # Errors
    ///
    /// As [`Streams::new`].
    ///
    /// # Panics
    ///
    /// As [`Streams::new`].
    pub fn new(config: &Config, parameters: &[f32]) -> Result<Self> {
        Streams::new(config, parameters, 1).map(Self)
    }

    /// What is computed.
    pub fn model(&self) -> &Model {
        self.0.model()
    }

    /// The next step `x [I]`; gives the probabilities of every class `[K]`. See [`Streams::push`].
    ///
    /// # Panics
    ///
    /// If `x` does not hold I numbers.
    pub fn push(&mut self, x: &[f32]) -> &[f32] {
        self.0.push(x)
    }

    /// Begins another sequence.
    pub fn reset(&mut self) {
        self.0.reset(0);
    }

    /// A copy of what it remembers.
    pub fn state(&self) -> StreamState {
        self.0.state(0)
    }

    /// Goes on from a state, which may be of another stream of the same model.
    ///
    /// # Errors
    ///
    /// As [`Streams::set_state`].
    pub fn set_state(&mut self, state: &StreamState) -> Result<()> {
        self.0.set_state(0, state)
    }
}
