//! The CUDA engine on a GPU: every kernel at the tutorial's sizes, timed by the device's own clock, and whole iterations and
//! evaluation.
//!
//! A kernel is timed as training runs it: [`LAUNCHES`] of its launches are recorded and replayed, so what a launch costs inside
//! of a graph is in it and what it costs this program is not. Without a GPU there is nothing to time: the bench says so and
//! succeeds, and `cargo bench --bench cuda -- --test` runs every launch once on the emulator, which checks them.

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use fused_lstm::Result;
use fused_lstm::cuda::adam::{self, Update};
use fused_lstm::cuda::device::{Buffer, Device};
use fused_lstm::cuda::driver::Driver;
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::gather::{DeviceSequences, Gather, gather};
use fused_lstm::cuda::layers::{self, Pooled};
use fused_lstm::cuda::linear::{self, Form, Product, column_sums, product, split_product, sum_parts};
use fused_lstm::cuda::lstm::{BackwardStep, ForwardStep, backward_step, forward_step};
use fused_lstm::cuda::profiled::Profiled;
use fused_lstm::cuda::softmax_xent::{Metrics, SoftmaxXent, batch_metrics, softmax, softmax_xent};
use fused_lstm::cuda::{CudaEngine, kept, sources};
use fused_lstm::data::{Sequences, Split, Values, synthetic};
use fused_lstm::engine::{Engine, Model, State};
use fused_lstm::init::{self, Init};
use fused_lstm::model::Pool;
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DIMS: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
const BATCH: usize = 128;
/// Sequences that are scored in a call.
const SCORED: usize = 1000;
/// Launches that are recorded to be replayed.
const LAUNCHES: u64 = 100;
/// Iterations in a call of the engine: as many as it keeps on the device at once.
const STEPS: usize = 64;

/// What is launched, by name; most names are those of their kernels.
const WORK: [&str; 21] = [
    "gather_bytes",
    "gather_floats",
    "product_nn, fold",
    "product_nn, head",
    "product_nt, input layer's gradient",
    "product_tn, dW_x",
    "product_tn and sum_parts, dW_h",
    "sum_parts, dW_h",
    "column_sums",
    "lstm_forward_step",
    "lstm_backward_step",
    "layer_inputs",
    "layer_gradients",
    "pool, mean",
    "unpool, mean",
    "softmax_xent",
    "softmax",
    "batch_metrics",
    "adam",
    "squared_norm_parts and clip_factor",
    "advance",
];

/// Buffers of the tutorial's sizes, filled with small numbers.
struct Bed<D: Device> {
    bytes: DeviceSequences<D>,
    floats: DeviceSequences<D>,
    /// `[B]`
    rows: Buffer<D, u32>,
    labels: Buffer<D, u32>,
    predicted: Buffer<D, u32>,
    correct: Buffer<D, u32>,
    /// Always 0, `[1]`.
    turn: Buffer<D, u32>,
    /// Counted up, `[1]`.
    count: Buffer<D, u32>,
    /// `[T,B,J]`
    x: Buffer<D, f32>,
    /// `[J,P]`
    input_layer: Buffer<D, f32>,
    /// `[P,G]`, and as large `[H,G]`.
    weights: Buffer<D, f32>,
    /// `[J,G]`
    fold: Buffer<D, f32>,
    /// `[G]`
    bias: Buffer<D, f32>,
    /// `[H,K]`
    w_out: Buffer<D, f32>,
    /// `[T,B,G]`: a step's gates are the first of them.
    gates: Buffer<D, f32>,
    /// `[T,B,G]`
    da: Buffer<D, f32>,
    /// `[T,B,H]`: c before and after a step are the first two of them.
    states: Buffer<D, f32>,
    /// Written: `[B,H]` twice.
    c: Buffer<D, f32>,
    h: Buffer<D, f32>,
    /// `[B,H]`
    dc: Buffer<D, f32>,
    /// `[B,K]`
    logits: Buffer<D, f32>,
    dlogits: Buffer<D, f32>,
    /// `[B]`
    loss: Buffer<D, f32>,
    /// `[S,H,G]`
    parts: Buffer<D, f32>,
    /// `[n]` each
    gradient: Buffer<D, f32>,
    parameters: Buffer<D, f32>,
    m: Buffer<D, f32>,
    v: Buffer<D, f32>,
    /// `[1]` each
    one: Buffer<D, f32>,
    step_size: Buffer<D, f32>,
    mean_loss: Buffer<D, f32>,
}

/// Small numbers from -1 to 1.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|n| (n * 37 % 201) as f32 / 100.0 - 1.0).collect()
}

impl<D: Device> Bed<D> {
    fn new(device: &D) -> Result<Self> {
        let Dims { t, i, p, h, k } = DIMS;
        let (j, g, n, b) = (i + 1, DIMS.g(), Model::new(DIMS).layout().len(), BATCH);
        let floats = |name, count: usize| Buffer::from_slice(device, name, &numbers(count));
        let whole =
            |name, most: u32| Buffer::from_slice(device, name, &(0..b as u32).map(|n| n % most).collect::<Vec<_>>());
        let digits = synthetic::digits(0, SCORED, 0, 0).train;
        let as_numbers = Values::F32(numbers(SCORED * t * i));
        let as_floats = Sequences::new(t, i, as_numbers, digits.labels().to_vec());
        let parts = linear::Split::new(h, g, t * b).parts;
        Ok(Self {
            bytes: DeviceSequences::new(device, &digits)?,
            floats: DeviceSequences::new(device, &as_floats)?,
            rows: whole("rows", SCORED as u32)?,
            labels: whole("labels", k as u32)?,
            predicted: whole("predicted", 7)?,
            correct: Buffer::new(device, "correct", 1)?,
            turn: Buffer::from_slice(device, "turn", &[0])?,
            count: Buffer::from_slice(device, "count", &[0])?,
            x: floats("x", t * b * j)?,
            input_layer: floats("input layer", j * p)?,
            weights: floats("weights", p.max(h) * g)?,
            fold: floats("fold", j * g)?,
            bias: floats("bias", g)?,
            w_out: floats("w_out", h * k)?,
            gates: floats("gates", t * b * g)?,
            da: floats("da", t * b * g)?,
            states: floats("states", t * b * h)?,
            c: Buffer::new(device, "c", b * h)?,
            h: Buffer::new(device, "h", b * h)?,
            dc: floats("dc", b * h)?,
            logits: floats("logits", b * k)?,
            dlogits: floats("dlogits", b * k)?,
            loss: floats("loss", b)?,
            parts: floats("parts", parts * h * g)?,
            gradient: floats("gradient", n)?,
            parameters: floats("parameters", n)?,
            m: floats("m", n)?,
            v: Buffer::from_slice(device, "v", &vec![1.0; n])?,
            one: floats("one", 1)?,
            step_size: Buffer::from_slice(device, "step size", &[1e-3])?,
            mean_loss: Buffer::new(device, "mean loss", 1)?,
        })
    }

    fn gather(&self, device: &D, sequences: &DeviceSequences<D>) -> Result<()> {
        let (rows, turn, x, labels) = (self.rows.all(), self.turn.all(), self.x.all(), Some(self.labels.all()));
        gather(device, sequences, &Gather { rows, turn, x, labels, lengths: None, reversed: false, b: BATCH })
    }

    fn run(&self, device: &D, work: &str) -> Result<()> {
        let Dims { t, i, p, h, k } = DIMS;
        let (j, g, n, b, cells) = (i + 1, DIMS.g(), Model::new(DIMS).layout().len(), BATCH, BATCH * h);
        let of_step = |buffer: &'_ Buffer<D, f32>, step: usize| step * buffer.len() / t..(step + 1) * buffer.len() / t;
        let recurrent = Product {
            form: Form::Tn,
            a: self.states.all(),
            b: self.da.all(),
            bias: None,
            c: self.gradient.first(h * g),
            m: h,
            n: g,
            k: t * b,
        };
        let of_layer = layers::Sizes { t, batch: b, hidden: h };
        let pooled = |pooled| Pooled {
            sizes: of_layer,
            h: self.da.first((t + 1) * cells),
            lengths: None,
            pooled,
            directions: 1,
            reversed: false,
            kind: Pool::Mean,
        };
        match work {
            "gather_bytes" => self.gather(device, &self.bytes),
            "gather_floats" => self.gather(device, &self.floats),
            "product_nn, fold" => {
                let (a, c, bias) = (self.input_layer.all(), self.fold.all(), Some((self.bias.all(), i)));
                product(device, &Product { form: Form::Nn, a, b: self.weights.all(), bias, c, m: j, n: g, k: p })
            }
            "product_nn, head" => {
                let (a, c, bias) = (self.states.first(cells), self.logits.all(), Some((self.bias.first(k), 0)));
                product(device, &Product { form: Form::Nn, a, b: self.w_out.all(), bias, c, m: b, n: k, k: h })
            }
            "product_nt, input layer's gradient" => {
                let (a, b, c) = (self.fold.all(), self.weights.all(), self.gradient.first(j * p));
                product(device, &Product { form: Form::Nt, a, b, bias: None, c, m: j, n: p, k: g })
            }
            "product_tn, dW_x" => {
                let (a, b, c) = (self.input_layer.all(), self.fold.all(), self.gradient.first(p * g));
                product(device, &Product { form: Form::Tn, a, b, bias: None, c, m: p, n: g, k: j })
            }
            "product_tn and sum_parts, dW_h" => split_product(device, &recurrent, self.parts.all()),
            "sum_parts, dW_h" => {
                let parts = linear::Split::new(h, g, t * b).parts;
                sum_parts(device, self.parts.all(), self.gradient.first(h * g), h * g, parts)
            }
            "column_sums" => column_sums(device, self.dlogits.all(), self.gradient.first(k), b, k),
            "lstm_forward_step" => {
                let step = ForwardStep {
                    x: self.x.part(of_step(&self.x, 1)),
                    fold: self.fold.all(),
                    w_h: self.weights.all(),
                    h_prev: self.states.part(of_step(&self.states, 1)),
                    c_prev: self.states.part(of_step(&self.states, 2)),
                    gates: self.gates.part(of_step(&self.gates, 1)),
                    c: self.c.all(),
                    h: self.h.all(),
                    batch: b,
                    inputs: j,
                    hidden: h,
                    forget_bias: 1.0,
                    ends: None,
                };
                forward_step(device, &step)
            }
            "lstm_backward_step" => {
                let step = BackwardStep {
                    later: Some(self.da.part(of_step(&self.da, 2))),
                    outside: None,
                    w_h: self.weights.all(),
                    gates: self.gates.part(of_step(&self.gates, 1)),
                    c_prev: self.states.part(of_step(&self.states, 1)),
                    c: self.states.part(of_step(&self.states, 2)),
                    dc: self.dc.all(),
                    da: self.da.part(of_step(&self.da, 1)),
                    batch: b,
                    hidden: h,
                    ends: None,
                };
                backward_step(device, &step)
            }
            // Buffers of the gates are as large as four of states.
            "layer_inputs" => {
                let (states, x) = (self.da.first((t + 1) * cells), self.gates.first(t * (cells + b)));
                layers::layer_inputs(device, of_layer, (states, None), None, (1, false), x)
            }
            "layer_gradients" => {
                let (dx, dh) = (self.da.first(t * cells), self.gates.first(t * cells));
                layers::layer_gradients(device, of_layer, (dx, None), None, (1, false), dh)
            }
            "pool, mean" => layers::pool(device, &pooled(self.h.all())),
            "unpool, mean" => {
                layers::unpool(device, &pooled(self.dc.all()), self.dc.all(), self.gates.first(t * cells))
            }
            "softmax_xent" => {
                let scored = SoftmaxXent {
                    logits: self.logits.all(),
                    labels: self.labels.all(),
                    loss: self.loss.all(),
                    predicted: self.predicted.all(),
                    dlogits: Some(self.dlogits.all()),
                    batch: b,
                    classes: k,
                    smoothing: 0.0,
                };
                softmax_xent(device, &scored)
            }
            "softmax" => softmax(device, self.logits.all(), self.dlogits.all(), b, k),
            "batch_metrics" => {
                let metrics = Metrics {
                    loss: self.loss.all(),
                    predicted: self.predicted.all(),
                    labels: self.labels.all(),
                    turn: self.turn.all(),
                    mean_loss: self.mean_loss.all(),
                    correct: self.correct.all(),
                    batch: b,
                };
                batch_metrics(device, &metrics)
            }
            "adam" => {
                let update = Update {
                    gradient: self.gradient.all(),
                    step_sizes: self.step_size.all(),
                    turn: self.turn.all(),
                    clip: None,
                    kept: None,
                    parameters: self.parameters.all(),
                    m: self.m.all(),
                    v: self.v.all(),
                    n,
                };
                adam::update(device, &Adam::default(), &update)
            }
            "squared_norm_parts and clip_factor" => {
                let (gradient, parts, factor) = (self.gradient.all(), self.parts.all(), self.one.all());
                adam::clip_factor(device, gradient, parts, factor, n, 1.0)
            }
            "advance" => adam::advance(device, self.count.all()),
            other => panic!("no work is called {other}"),
        }
    }
}

fn kernels<D: Device>(group: &mut BenchmarkGroup<'_, WallTime>, device: &D) {
    let bed = Bed::new(device).expect("room for a batch");
    for work in WORK {
        let mut record = || (0..LAUNCHES).try_for_each(|_| bed.run(device, work));
        let graph = device.capture(&mut record).expect("a recording");
        group.bench_function(work, |bencher| {
            bencher.iter_custom(|iterations| {
                let replays = iterations.div_ceil(LAUNCHES);
                let mut replay = || (0..replays).try_for_each(|_| device.replay(&graph));
                let milliseconds = f64::from(device.time(&mut replay).expect("launches"));
                Duration::from_secs_f64(milliseconds / 1e3 * iterations as f64 / (replays * LAUNCHES) as f64)
            });
        });
    }
}

/// Whole calls of the engine, with their copies, by this machine's clock: each call ends when the device has done all.
fn engine<D: Device>(group: &mut BenchmarkGroup<'_, WallTime>, device: D) {
    let data = Arc::new(synthetic::digits(0, STEPS * BATCH, 0, SCORED));
    let model = Model::new(DIMS);
    let mut engine = CudaEngine::new(device, model, Adam::default(), data).expect("room for the model");
    engine
        .set_state(&State::new(init::parameters(&Model::new(DIMS), Init::Tutorial, 0)))
        .expect("a state of this model");
    let rows: Vec<u32> = (0..(STEPS * BATCH) as u32).collect();
    engine.train_steps(&rows[..BATCH], BATCH).expect("buffers and a recording");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(format!("step, of {STEPS} in a call"), |bencher| {
        bencher.iter_custom(|iterations| {
            let calls = iterations.div_ceil(STEPS as u64);
            let started = Instant::now();
            for _ in 0..calls {
                engine.train_steps(&rows, BATCH).expect("steps");
            }
            started.elapsed().mul_f64(iterations as f64 / (calls * STEPS as u64) as f64)
        });
    });
    group.bench_function("step, alone in its call", |bencher| {
        bencher.iter(|| engine.train_steps(&rows[..BATCH], BATCH).expect("a step"));
    });
    group.throughput(Throughput::Elements(SCORED as u64));
    group.bench_function("infer", |bencher| {
        bencher.iter(|| engine.evaluate(Split::Test, &rows[..SCORED]).expect("scores"));
    });
}

/// Runs all work once where every access is checked, and makes sure that no kernel is left out.
fn check() -> Result<()> {
    let device = Profiled::new(Emulated::new(kept::ptx(), Default::default())?);
    let bed = Bed::new(&device)?;
    device.watch();
    WORK.iter().try_for_each(|work| bed.run(&device, work))?;
    let seen = device.seen();
    for name in sources::names() {
        assert!(seen.iter().any(|timed| timed.kernel == name), "no work of this bench launches {name}");
    }
    println!("{} launches of all {} kernels run on the emulator", seen.len(), sources::names().len());
    Ok(())
}

fn main() -> Result<()> {
    match Driver::open(0, true) {
        Ok(driver) => {
            let mut criterion = Criterion::default()
                .sample_size(20)
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(1))
                .configure_from_args();
            let mut group = criterion.benchmark_group(driver.name());
            kernels(&mut group, &driver);
            engine(&mut group, driver);
            group.finish();
            criterion.final_summary();
            Ok(())
        }
        Err(error) if std::env::var_os("REQUIRE_GPU").is_some() => Err(error),
        Err(error) => {
            println!("nothing is timed: {error}");
            if std::env::args().any(|arg| arg == "--test") { check() } else { Ok(()) }
        }
    }
}
