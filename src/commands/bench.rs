//! `fused-lstm bench step` and `infer`: whole iterations, on data in memory. `micro` is in a file of its own.

use super::device::Chosen;
use super::output::{line, thousands};
use super::train::set_layers;
use crate::cli::{BenchArgs, BenchName, SizeArgs};
use fused_lstm::data::batches::Order;
use fused_lstm::data::{BYTE_SCALE, Dataset, Sequences, Split, Values, synthetic};
use fused_lstm::engine::{Model, State};
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::Adam;
use fused_lstm::precision::Precision;
use fused_lstm::shape::Dims;
use fused_lstm::{Error, Result};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CLASSES: usize = 10;
/// Sequences in memory, as long as they take no more than [`DATA_BYTES`]; at least one batch.
const SEQUENCES: usize = 4096;
const DATA_BYTES: usize = 256 << 20;
/// About how many numbers a training iteration keeps for each hidden unit, step and sequence: gates and states.
const NUMBERS_KEPT: usize = 8;
/// A day.
const MOST_SECONDS: f64 = 86_400.0;
/// Share of the numbers that are not zero, where there are no digits of the size: about that of MNIST's pixels.
const FILLED: f64 = 0.19;
const WARM_UP: Duration = Duration::from_millis(500);
const FEWEST: usize = 5;

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    match args.what {
        BenchName::Step => iterations(args, "step", true),
        BenchName::Infer => iterations(args, "infer", false),
        BenchName::Micro => super::micro::run(args),
    }
}

/// Whole iterations, of training or of evaluation only.
fn iterations(args: &BenchArgs, what: &str, trains: bool) -> Result<()> {
    let device = Chosen::open(&args.device)?;
    if !(args.seconds > 0.0 && args.seconds <= MOST_SECONDS) {
        let found = format!("it is not between 0 and {MOST_SECONDS}");
        return Err(Error::usage(format!("--seconds {:?}", args.seconds), found, "give a number such as 5"));
    }
    let (model, data) = prepare(&args.sizes)?;
    let dims = model.dims;
    let (batch, Dims { t, i, h, .. }) = (args.sizes.batch_size, dims);
    let mut engine = device.for_speed().engine(model, Adam::default(), data.clone())?;
    engine.set_state(&State::new(init::parameters(&model, Init::Tutorial, 0)))?;
    let mut order = Order::new(data.train.len(), 0);
    let mut place = 0;
    let mut iteration = || -> Result<Duration> {
        let rows = order.rows(place, batch);
        place += batch as u64;
        let started = Instant::now();
        match trains {
            true => drop(engine.train_steps(&rows, batch)?),
            false => drop(engine.evaluate(Split::Train, &rows)?),
        }
        Ok(started.elapsed())
    };
    let started = Instant::now();
    while started.elapsed() < WARM_UP.min(Duration::from_secs_f64(args.seconds)) {
        iteration()?;
    }
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < FEWEST || started.elapsed().as_secs_f64() < args.seconds {
        times.push(iteration()?.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let (median, p10, p90) = (quantile(0.5), quantile(0.1), quantile(0.9));
    let speed = batch as f64 * 1e3 / median;
    let device = engine.device();
    let precision = engine.precision();
    if args.json {
        let dtype = if precision == Precision::F32 { "fp32".into() } else { precision.to_string() };
        let round = |value: f64, unit: f64| (value * unit).round() / unit;
        let result = json!({
            "peer": format!("fused-lstm-{what}"),
            "version": env!("CARGO_PKG_VERSION"),
            "device": device,
            "threads": engine.threads(),
            "dtype": dtype,
            "B": batch, "T": t, "I": i, "H": h,
            "model": model.extras(),
            "ms_per_iter_median": round(median, 1e5),
            "p10": round(p10, 1e5),
            "p90": round(p90, 1e5),
            "samples_per_s": round(speed, 10.0),
            "iters": times.len(),
        });
        return line(&result.to_string());
    }
    let extras = model.extras().map_or_else(String::new, |extras| format!(", {extras}"));
    line(&format!("{what}: B {batch}, T {t}, I {i}, H {h}{extras}, {precision}; {device}"))?;
    line(&format!(
        "{median:.3} ms an iteration (p10 {p10:.3}, p90 {p90:.3}), {} samples/s, {} iterations",
        thousands(speed as u64),
        times.len()
    ))
}

/// The model of those sizes, and data for it.
pub fn prepare(sizes: &SizeArgs) -> Result<(Model, Arc<Dataset>)> {
    let SizeArgs { batch_size, hidden: h, steps_per_sequence: t, inputs: i, .. } = *sizes;
    let dims = Dims { t, i, p: h, h, k: CLASSES };
    let flags = format!("--batch-size {batch_size} --steps-per-sequence {t} --inputs {i} --hidden {h}");
    let mut model = Model::new(dims);
    set_layers(&sizes.model, &mut model, 0);
    let kept = model.layers.saturating_mul(model.width()).saturating_mul(NUMBERS_KEPT);
    let batch = [t, size_of::<f32>(), i.saturating_add(kept)].into_iter().fold(batch_size, usize::saturating_mul);
    super::check_sizes(&model, flags, batch)?;
    let sequences = (DATA_BYTES / dims.sequence_len()).clamp(1, SEQUENCES).max(batch_size);
    Ok((model, Arc::new(data(dims, sequences))))
}

fn data(dims: Dims, n: usize) -> Dataset {
    if (dims.t, dims.i) == (28, 28) {
        return synthetic::digits(0, n, 0, 0);
    }
    let bytes = n * dims.sequence_len();
    let mut rng = init::generator(0, 0);
    let mut pixel = || {
        use rand::RngExt;
        if rng.random_bool(FILLED) { rng.random() } else { 0u8 }
    };
    let values = Values::U8 { bytes: (0..bytes).map(|_| pixel()).collect(), scale: BYTE_SCALE };
    let train = Sequences::new(dims.t, dims.i, values, (0..n).map(|k| (k % CLASSES) as u32).collect());
    let none = train.slice(0, 0);
    Dataset {
        description: "random numbers".into(),
        name: "random",
        classes: CLASSES,
        train,
        validation: none.clone(),
        test: none,
        own: None,
    }
}
