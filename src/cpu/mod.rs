//! The fast CPU engine.
//!
//! An iteration: pack the weights and fold the input layer into them (`weights`); send groups of chunks of rows through
//! the whole model (`stack`), each layer and direction through the whole sequence (`chunk`), forward and backward, each group
//! summing its own gradients (`gradient`); add the groups and unfold (`gradient`); update (`adam`). How the batch is cut depends on its size only, and every sum has one order,
//! so results do not depend on the number of threads.

mod adam;
mod chunk;
mod gradient;
mod head;
mod math;
pub mod peak;
mod simd;
mod sizes;
mod stack;
pub(crate) mod stream;
mod tile;
mod weights;

pub use simd::Isa;

use crate::data::{Dataset, Sequences, Split};
use crate::engine::{Engine, Model, Scores, State, StepMetrics, Trace};
use crate::error::{Error, Result};
use crate::optimizer::Adam;
use crate::precision::Precision;
use chunk::CHUNK_ROWS;
use gradient::{Packed, TrainChunk};
use rayon::prelude::*;
use sizes::Stack;
use stack::{Dropout, Room, Score};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use weights::Weights;

/// Most groups that a batch is cut into, and so most threads that a training step uses.
const MAX_GROUPS: usize = 16;
/// Most bytes of all groups' gradients together; very large models have fewer groups.
const MAX_GROUP_BYTES: usize = 256 << 20;

/// Runs a model on the processor's cores.
pub struct CpuEngine {
    model: Model,
    optimizer: Adam,
    data: Arc<Dataset>,
    isa: Isa,
    stack: Stack,
    pool: Arc<rayon::ThreadPool>,
    state: State,
    weights: Weights,
    /// True while `weights` are those of `state`.
    forward_packed: bool,
    /// One for each thread, made at the first training step.
    training: Vec<Mutex<Room>>,
    /// One for each thread.
    scoring: Vec<Mutex<Room>>,
    /// Gradients of each group of chunks, and their sum.
    groups: Vec<Packed>,
    total: Packed,
    /// The flat gradient.
    gradient: Vec<f32>,
}

impl CpuEngine {
    /// An engine for `model` that trains with `adam` on `data`, with `threads` threads (0: one for each core) and the
    /// best instructions of the processor. All parameters are zero until [`Engine::set_state`].
    ///
    /// # Errors
    ///
    /// If the threads cannot be started.
    pub fn new(model: Model, adam: Adam, data: Arc<Dataset>, threads: usize) -> Result<Self> {
        Self::with_isa(model, adam, data, threads, Isa::best())
    }

    /// The same with matrix products of this precision.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if the processor has no such products; if the threads cannot be started.
    pub fn with_precision(
        model: Model,
        adam: Adam,
        data: Arc<Dataset>,
        threads: usize,
        precision: Precision,
    ) -> Result<Self> {
        Self::with_isa(model, adam, data, threads, Isa::with(precision)?)
    }

    /// The same with instructions of one's choice among [`Isa::available`] and [`Isa::bf16`].
    ///
    /// # Errors
    ///
    /// If the threads cannot be started.
    pub fn with_isa(model: Model, adam: Adam, data: Arc<Dataset>, threads: usize, isa: Isa) -> Result<Self> {
        check_precision(&model, isa)?;
        let stack = Stack::new(model, isa.lanes());
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("cpu-engine-{n}"))
            .build()
            .map_err(|e| Error::usage(format!("--threads {threads}"), e.to_string(), "ask for fewer"))?;
        let room = || Mutex::new(Room::new(&stack, false, isa.precision()));
        let scoring = (0..pool.current_num_threads()).map(|_| room()).collect();
        let parameters = model.layout().len();
        Ok(Self {
            model,
            optimizer: adam,
            data,
            isa,
            state: State::new(vec![0.0; parameters]),
            weights: Weights::new(stack.clone(), isa.precision()),
            forward_packed: false,
            training: Vec::new(),
            scoring,
            groups: Vec::new(),
            total: Packed::new(&stack),
            gradient: vec![0.0; parameters],
            stack,
            pool: Arc::new(pool),
        })
    }

    /// In the pool: packs the weights, unless they have not changed.
    fn pack_forward(&mut self) {
        if !self.forward_packed {
            self.weights.pack_forward(self.isa, &self.state.parameters);
            self.forward_packed = true;
        }
    }

    /// In the pool: leaves the gradient of the mean loss of `rows` in `self.gradient`; returns each row's loss and
    /// predicted class. `watch` sees every chunk's rows and what was computed for them.
    fn differentiate(
        &mut self,
        sequences: &Sequences,
        rows: &[u32],
        watch: &(dyn Fn(Range<usize>, &Room, &Weights) + Sync),
    ) -> Vec<(f32, u32)> {
        self.pack_forward();
        let Self { model, isa, stack, weights, groups, training, state, total, gradient, pool, .. } = self;
        let (stack, isa) = (&*stack, *isa);
        let chunks = rows.len().div_ceil(CHUNK_ROWS);
        let affordable = MAX_GROUP_BYTES / (size_of::<f32>() * Packed::len(stack));
        let count = chunks.min(MAX_GROUPS).min(affordable.max(1));
        while groups.len() < count {
            groups.push(Packed::new(stack));
        }
        while training.len() < pool.current_num_threads() {
            training.push(Mutex::new(Room::new(stack, true, isa.precision())));
        }
        let mask = model.dropout.map(|dropout| dropout.mask(state.step + 1));
        let groups = &mut groups[..count];
        let scale = 1.0 / rows.len() as f32;
        weights.pack_backward(isa, &state.parameters);
        let weights = &*weights;
        let run_group = |(g, gradient): (usize, &mut Packed)| {
            let mut room = own(training);
            let mut scores = Vec::new();
            let own_chunks = part(chunks, g, count);
            for chunk in own_chunks.clone() {
                let span = part(rows.len(), chunk, chunks);
                let rows = &rows[span.clone()];
                room.gather(stack, sequences, rows);
                let labels: Vec<u32> = rows.iter().map(|&row| sequences.labels()[row as usize]).collect();
                isa.run(TrainChunk {
                    stack,
                    weights,
                    room: &mut room,
                    dropout: mask.as_ref().map(|mask| Dropout { mask, first: span.start }),
                    labels: &labels,
                    scale,
                    gradient,
                    add: chunk > own_chunks.start,
                    scores: &mut scores,
                });
                watch(span, &room, weights);
            }
            scores
        };
        let scores: Vec<Vec<_>> = groups.par_iter_mut().enumerate().with_max_len(1).map(run_group).collect();
        gradient::reduce(groups, total);
        gradient::unpack(isa, stack, weights, &state.parameters, total, gradient);
        scores.concat()
    }

    /// In the pool: one training step.
    fn step(&mut self, rows: &[u32]) -> StepMetrics {
        let data = self.data.clone();
        let scores = self.differentiate(&data.train, rows, &|_, _, _| {});
        adam::step(self.isa, &self.optimizer, &self.gradient, &mut self.state);
        self.forward_packed = false;
        let right = |((_, predicted), row): &(&(f32, u32), &u32)| *predicted == data.train.labels()[**row as usize];
        StepMetrics {
            loss: (scores.iter().map(|&(loss, _)| f64::from(loss)).sum::<f64>() / rows.len() as f64) as f32,
            correct: scores.iter().zip(rows).filter(right).count() as u32,
        }
    }

    /// Runs `rows` forward and calls `each` with every chunk's rows and its logits `[R,K]`, K padded.
    fn score<R: Send>(
        &mut self,
        sequences: &Sequences,
        rows: &[u32],
        each: impl Fn(&[u32], &[f32]) -> Vec<R> + Sync,
    ) -> Vec<R> {
        let pool = self.pool.clone();
        pool.install(|| {
            self.pack_forward();
            let (stack, isa, weights, scoring) = (&self.stack, self.isa, &self.weights, &self.scoring);
            let run_chunk = |rows: &[u32]| {
                let room = &mut *own(scoring);
                room.gather(stack, sequences, rows);
                isa.run(Score { stack, weights, room, rows: rows.len() });
                each(rows, &room.logits)
            };
            rows.par_chunks(CHUNK_ROWS).flat_map_iter(run_chunk).collect()
        })
    }
}

/// Refuses models that no products in bf16 were made for.
fn check_precision(model: &Model, isa: Isa) -> Result<()> {
    match model.extras().filter(|_| isa.precision() == Precision::Bf16) {
        Some(extras) => Err(Error::usage(
            "--precision bf16",
            format!("the CPU engine computes such models in f32 only: {extras}"),
            "leave it out",
        )),
        None => Ok(()),
    }
}

/// The current thread's own room.
fn own(rooms: &[Mutex<Room>]) -> std::sync::MutexGuard<'_, Room> {
    let thread = rayon::current_thread_index().expect("runs in the engine's pool");
    // Whatever a panicking thread left there is overwritten before it is read.
    rooms[thread].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Part `n` of `count` nearly equal parts of `0..total`.
fn part(total: usize, n: usize, count: usize) -> Range<usize> {
    total * n / count..total * (n + 1) / count
}

impl Engine for CpuEngine {
    fn device(&self) -> String {
        let threads = self.threads();
        format!("cpu, {}, {threads} thread{}", self.isa.name(), if threads == 1 { "" } else { "s" })
    }

    fn precision(&self) -> Precision {
        self.isa.precision()
    }

    fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn model(&self) -> Model {
        self.model
    }

    fn state(&mut self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        assert_eq!(state.parameters.len(), self.gradient.len(), "a state of another model");
        self.state.clone_from(state);
        self.forward_packed = false;
        Ok(())
    }

    fn train_steps(&mut self, rows: &[u32], batch_size: usize) -> Result<Vec<StepMetrics>> {
        // All steps in one visit to the pool: its threads then do not fall asleep between two phases.
        let pool = self.pool.clone();
        Ok(pool.install(|| rows.chunks_exact(batch_size).map(|rows| self.step(rows)).collect()))
    }

    fn evaluate(&mut self, split: Split, rows: &[u32]) -> Result<Scores> {
        let (data, k, classes) = (self.data.clone(), self.model.dims.k, self.stack.classes);
        let sequences = data.split(split);
        let scores = self.score(sequences, rows, |rows, logits| {
            let score = |(&row, logits): (&u32, &[f32])| {
                head::softmax_xent(&logits[..k], sequences.labels()[row as usize] as usize, 0.0, None)
            };
            rows.iter().zip(logits.chunks_exact(classes)).map(score).collect()
        });
        let (loss, predicted) = scores.into_iter().unzip();
        Ok(Scores { loss, predicted })
    }

    fn predict(&mut self, sequences: &Sequences) -> Result<Vec<f32>> {
        let (k, classes) = (self.model.dims.k, self.stack.classes);
        let rows: Vec<u32> = (0..sequences.len() as u32).collect();
        Ok(self.score(sequences, &rows, |rows, logits| {
            let probabilities = |logits: &[f32]| {
                let mut row = logits[..k].to_vec();
                head::softmax(&mut row);
                row
            };
            logits.chunks_exact(classes).take(rows.len()).flat_map(probabilities).collect()
        }))
    }

    fn trace(&mut self, batch: &Sequences) -> Result<Trace> {
        let (stack, n) = (self.stack.clone(), batch.len());
        let (dims, width) = (self.model.dims, self.model.width());
        let zeros = |per_row: usize| vec![0.0; n * per_row];
        let trace = Mutex::new(Trace {
            logits: zeros(dims.k),
            h_last: zeros(width),
            c_last: zeros(width),
            loss: Vec::new(),
            gradient: Vec::new(),
            dx: zeros(dims.sequence_len()),
        });
        let rows: Vec<u32> = (0..n as u32).collect();
        let watch = |span, room: &Room, weights: &Weights| {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            room.copy_results(&stack, weights, span, &mut trace);
        };
        let pool = self.pool.clone();
        let scores = pool.install(|| self.differentiate(batch, &rows, &watch));
        let mut trace = trace.into_inner().unwrap_or_else(PoisonError::into_inner);
        trace.loss = scores.into_iter().map(|(loss, _)| loss).collect();
        trace.gradient.clone_from(&self.gradient);
        Ok(trace)
    }
}
