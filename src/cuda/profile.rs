//! Where the time of a training iteration goes, kernel by kernel, and how near each is to what the device can do.

use super::CudaEngine;
use super::cost::Cost;
use super::device::{Buffer, Device};
use super::linear::{Form, Product, product, sum_parts};
use super::profiled::{Profiled, Timed};
use super::tune::Tuning;
use crate::data::Dataset;
use crate::engine::{Engine, Model, State};
use crate::error::Result;
use crate::init::{self, Init};
use crate::optimizer::Adam;
use crate::precision::{Activations, Precision};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Iterations in a call of the engine that replays recordings.
pub const REPLAYED_AT_ONCE: usize = 64;
/// Fewest repetitions of whatever is measured.
const FEWEST: usize = 3;

/// What to profile, and how long.
pub struct Job {
    /// The model.
    pub model: Model,
    /// Its data; not empty.
    pub data: Arc<Dataset>,
    /// Sequences in a batch.
    pub batch: usize,
    /// Of the matrix products.
    pub precision: Precision,
    /// Their form, where kernels have a choice.
    pub activations: Activations,
    /// About how long to repeat each of the two measurements; each is done three times at least.
    pub each: Duration,
}

/// What a device reaches of itself, by kernels of this program.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ceilings {
    /// Bytes read and written in a second by `sum_parts` as a copy.
    pub bytes_per_second: f64,
    /// Bytes of what was copied.
    pub copied_bytes: u64,
    /// Operations in a second of `product_nn`.
    pub operations_per_second: f64,
    /// Rows, columns and summands of that product.
    pub product: usize,
}

/// A kernel's part of an iteration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The kernel.
    pub kernel: &'static str,
    /// Its launches in one iteration.
    pub launches: usize,
    /// Milliseconds of all these launches, the median of the iterations.
    pub milliseconds: f64,
    /// Bytes that they must move, see [`super::cost`]; none if nobody knows.
    pub bytes: Option<u64>,
    /// Operations that they must make.
    pub operations: Option<u64>,
}

/// All that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Of the matrix products, as the chosen kernels have them.
    pub precision: Precision,
    /// Which kernels were chosen, and why.
    pub plan: String,
    /// One row for each kernel, the longest first.
    pub rows: Vec<Row>,
    /// Milliseconds of the launches of an iteration, added up.
    pub launches_milliseconds: f64,
    /// Milliseconds of an iteration that is replayed from a recording of several, as training does it: the median of calls of
    /// [`REPLAYED_AT_ONCE`] iterations, with their copies.
    pub replayed_milliseconds: f64,
    /// Most iterations that one replay of a recording runs.
    pub iterations_of_a_replay: usize,
    /// Iterations that were timed launch by launch.
    pub iterations: usize,
}

/// Measures training iterations on `device`, of the fastest plan as far as `tuning` goes, else of the one of the rules.
///
/// # Errors
///
/// If the device fails or has no room for the model.
pub fn profile<D: Device>(device: Profiled<D>, job: &Job, tuning: Option<Tuning>) -> Result<Profile> {
    let Job { model, batch, each, precision, activations, .. } = *job;
    let engine = CudaEngine::with_precision(device, model, Adam::default(), job.data.clone(), precision)?;
    let mut engine = engine.with_activations(activations);
    if let Some(tuning) = tuning {
        engine = engine.with_tuning(tuning);
    }
    engine.set_state(&State::new(init::parameters(&model, Init::Tutorial, 0)))?;
    let sequences = job.data.train.len();
    let rows: Vec<u32> = (0..REPLAYED_AT_ONCE * batch).map(|n| (n % sequences) as u32).collect();
    // The first call allocates and records.
    engine.train_steps(&rows[..batch], batch)?;
    let iterations = repeat(each, || {
        engine.device().watch();
        let trained = engine.train_steps(&rows[..batch], batch);
        let seen = engine.device().seen();
        trained.map(|_| seen)
    })?;
    let mut replayed = repeat(each, || {
        let started = Instant::now();
        engine.train_steps(&rows, batch)?;
        Ok(started.elapsed().as_secs_f64() * 1e3 / REPLAYED_AT_ONCE as f64)
    })?;
    let rows = table(&iterations);
    let launches_milliseconds = rows.iter().map(|row| row.milliseconds).sum();
    let replayed_milliseconds = median(&mut replayed);
    let plan = engine.plan().map(|plan| plan.reason.clone()).unwrap_or_default();
    let precision = engine.precision();
    Ok(Profile {
        precision,
        plan,
        rows,
        launches_milliseconds,
        replayed_milliseconds,
        iterations_of_a_replay: engine.iterations_of_a_replay(),
        iterations: iterations.len(),
    })
}

/// Does `work` for about so long.
fn repeat<T>(time: Duration, mut work: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    let started = Instant::now();
    let mut done = Vec::new();
    while done.len() < FEWEST || started.elapsed() < time {
        done.push(work()?);
    }
    Ok(done)
}

/// One row for each kernel of iterations that all have the same launches.
fn table(iterations: &[Vec<Timed>]) -> Vec<Row> {
    let first = iterations.first().map_or(&[][..], |first| first);
    let mut kernels: Vec<&'static str> = Vec::new();
    for launch in first {
        if !kernels.contains(&launch.kernel) {
            kernels.push(launch.kernel);
        }
    }
    let mut rows: Vec<Row> = kernels.into_iter().map(|kernel| row(kernel, first, iterations)).collect();
    rows.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    rows
}

fn row(kernel: &'static str, first: &[Timed], iterations: &[Vec<Timed>]) -> Row {
    let of_kernel = |timed: &&Timed| timed.kernel == kernel;
    let time = |launches: &Vec<Timed>| launches.iter().filter(of_kernel).map(|t| f64::from(t.milliseconds)).sum();
    let launches: Vec<_> = first.iter().filter(of_kernel).collect();
    let cost: Option<Cost> = launches.iter().map(|timed| timed.cost).sum();
    Row {
        kernel,
        launches: launches.len(),
        milliseconds: median(&mut iterations.iter().map(time).collect::<Vec<f64>>()),
        bytes: cost.map(|cost| cost.bytes),
        operations: cost.map(|cost| cost.operations),
    }
}

/// The middle one; of two in the middle the greater.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What `device` reaches by copying `numbers` of f32, and by a product of two square matrices of `product` rows: the best of
/// some turns each.
///
/// # Errors
///
/// If the device fails or has no room.
pub fn ceilings<D: Device>(device: &D, numbers: usize, product: usize) -> Result<Ceilings> {
    let copy = copy_time(device, numbers)?;
    let multiply = product_time(device, product)?;
    let (copied_bytes, size) = ((numbers * size_of::<f32>()) as u64, product as f64);
    Ok(Ceilings {
        bytes_per_second: 2.0 * copied_bytes as f64 / copy,
        copied_bytes,
        operations_per_second: 2.0 * size * size * size / multiply,
        product,
    })
}

/// Seconds of the fastest of some turns.
fn fastest<D: Device>(device: &D, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    // The first turn may load code and wake the device.
    work()?;
    let times: Vec<f32> = (0..5).map(|_| device.time(&mut work)).collect::<Result<_>>()?;
    Ok(f64::from(times.into_iter().fold(f32::INFINITY, f32::min)) / 1e3)
}

fn copy_time<D: Device>(device: &D, numbers: usize) -> Result<f64> {
    let mut from = Buffer::<D, f32>::new(device, "copied", numbers)?;
    let to = Buffer::<D, f32>::new(device, "copy", numbers)?;
    from.zero(device, numbers)?;
    fastest(device, || sum_parts(device, from.all(), to.all(), numbers, 1))
}

fn product_time<D: Device>(device: &D, size: usize) -> Result<f64> {
    let count = size * size;
    let mut factors = [Buffer::<D, f32>::new(device, "a", count)?, Buffer::new(device, "b", count)?];
    // Not zeros: a device that does nothing uses less power, and runs faster for it.
    let numbers: Vec<f32> = (0..count).map(|n| (n % 251) as f32 / 251.0 - 0.5).collect();
    for factor in &mut factors {
        factor.upload(device, &numbers)?;
    }
    let c = Buffer::<D, f32>::new(device, "c", count)?;
    let [a, b] = &factors;
    let (a, b, c) = (a.all(), b.all(), c.all());
    let squares = Product { form: Form::Nn, a, b, bias: None, c, m: size, n: size, k: size };
    fastest(device, || product(device, &squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_adds_up_launches_and_takes_medians_of_iterations() {
        let timed = |kernel, bytes, milliseconds| Timed {
            kernel,
            cost: Some(Cost { bytes, operations: 10 * bytes }),
            milliseconds,
        };
        let iteration = |a: f32, b: f32| vec![timed("a", 1, a), timed("b", 5, b), timed("a", 2, a)];
        let rows = table(&[iteration(1.0, 9.0), iteration(4.0, 3.0), iteration(2.0, 5.0)]);
        let row = |kernel, launches, milliseconds, bytes| Row {
            kernel,
            launches,
            milliseconds,
            bytes: Some(bytes),
            operations: Some(10 * bytes),
        };
        assert_eq!(rows, [row("b", 1, 5.0, 5), row("a", 2, 4.0, 3)]);
        let unknown = table(&[vec![timed("a", 1, 1.0), Timed { cost: None, ..timed("a", 1, 1.0) }]]);
        assert_eq!((unknown[0].bytes, unknown[0].operations), (None, None), "half of a sum is none");
        assert_eq!(table(&[]), []);
    }
}
