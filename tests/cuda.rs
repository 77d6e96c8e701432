//! The CUDA engine and its kernels against the reference in f64: on the emulator, which checks every access of theirs on
//! the way, and on a real GPU where there is one. With `REQUIRE_GPU=1` it is a failure if there is none.

mod support;

use fused_lstm::Error;
use fused_lstm::cuda::adam::{self, Update};
use fused_lstm::cuda::device::{Buffer, Device, Limits, Part};
use fused_lstm::cuda::driver::Driver;
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::gather::{DeviceSequences, Gather, gather};
use fused_lstm::cuda::layers::{self, LeaveOut, Pooled, Sizes, layer_gradients, layer_inputs};
use fused_lstm::cuda::linear::{Form, Product, Split, column_sums, product, split_product};
use fused_lstm::cuda::plan::Family;
use fused_lstm::cuda::softmax_xent::{self, Metrics, SoftmaxXent};
use fused_lstm::cuda::{CudaEngine, kept};
use fused_lstm::data::{Sequences, Split as DataSplit, Values};
use fused_lstm::dropout::Dropout;
use fused_lstm::engine::{Engine, Model, State, StepMetrics, Trace};
use fused_lstm::fixture::Fixture;
use fused_lstm::init::{self, Init};
use fused_lstm::model::Pool;
use fused_lstm::optimizer::{Adam, Schedule};
use fused_lstm::precision::Precision;
use fused_lstm::reference::{self, ReferenceEngine, Steps};
use fused_lstm::shape::Dims;
use ptx_emulator::Options;
use std::path::Path;
use std::sync::LazyLock;
use support::models::{
    RAGGED, check, check_trace, dataset, dataset_of, larger, number, padded, sequences, start, start_of, worse,
};

/// Largest error of each tensor relative to its largest value, about 10 times the worst seen (in brackets).
mod bound {
    /// One kernel's results.
    pub const KERNEL: f64 = 3e-6;
    /// Logits, h and c after the last step, loss of each sequence, probabilities.
    pub const OUTPUT: f64 = 4e-6;
    /// Gradient and input gradient.
    pub const GRADIENT: f64 = 2e-5;
    /// Losses of 100 training steps.
    pub const LOSSES: f64 = 3e-6;
    /// Parameters after 100 training steps.
    pub const PARAMETERS: f64 = 2e-5;
}

/// With too little shared memory for the kernels that run all steps in one launch: here it is those of one step.
fn emulated_with(options: Options) -> Emulated {
    let mut device = Emulated::new(kept::ptx(), options).expect("the emulator runs the kernels");
    device.set_limits(Limits { shared: 0, ..device.limits().unwrap() });
    device
}

fn emulated() -> Emulated {
    emulated_with(Options::default())
}

fn gpu() -> Driver {
    Driver::open(0, true).expect("it could be opened before")
}

/// With too little shared memory likewise.
fn gpu_step_by_step() -> Driver {
    let mut device = gpu();
    device.set_limits(Limits { shared: 0, ..device.limits().unwrap() });
    device
}

/// Whether there is a GPU that can be used; says why not. Anything else that goes wrong is a failure.
fn is_there() -> bool {
    // Found out once: one that can be used for some tests is there for all.
    static MISSING: LazyLock<Option<Error>> = LazyLock::new(|| Driver::open(0, true).err());
    if let Some(error) = &*MISSING {
        assert!(matches!(error, Error::Device { .. }), "{error}");
        assert!(std::env::var_os("REQUIRE_GPU").is_none(), "REQUIRE_GPU is set, but: {error}");
        println!("skipped: {error}");
    }
    MISSING.is_none()
}

/// Runs each check on the emulator and, if there is one, on a GPU: there by the kernels that are planned, and by those of one step.
macro_rules! on_devices {
    ($($name:ident)*) => {
        mod emulator {
            $(#[test]
            fn $name() {
                super::$name(&super::emulated);
            })*
        }

        mod gpu {
            $(#[test]
            fn $name() {
                if super::is_there() {
                    super::$name(&super::gpu);
                }
            })*
        }

        mod gpu_step_by_step {
            $(#[test]
            fn $name() {
                if super::is_there() {
                    super::$name(&super::gpu_step_by_step);
                }
            })*
        }
    };
}

on_devices! {
    a_batch_at_ragged_sizes golden_cases a_hundred_training_steps products split_products sums_of_columns gathering
    losses_and_probabilities sums_of_a_batch updates another_state_takes_the_place_of_the_last
    scores_do_not_depend_on_what_they_are_scored_with steps_do_not_depend_on_how_many_are_asked_for
    a_single_class_leaves_nothing_to_learn larger_models larger_models_are_trained_as_by_the_reference
    weights_decay_in_every_model lengths_that_are_all_the_longest_change_nothing
    sequences_of_other_lengths_are_predicted_on_the_way states_between_layers gradients_between_layers pooling
}

// ---- the engine ----

fn engine<D: Device>(
    device: D,
    model: Model,
    adam: Adam,
    data: std::sync::Arc<fused_lstm::data::Dataset>,
) -> CudaEngine<D> {
    let mut engine = CudaEngine::new(device, model, adam, data).unwrap();
    engine.set_state(&start(model.dims)).unwrap();
    engine
}

fn a_batch_at_ragged_sizes<D: Device>(open: &dyn Fn() -> D) {
    let mut worst = [0.0; 2];
    for [n, t, i, p, h, k] in RAGGED {
        let dims = Dims { t, i, p, h, k };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        let data = dataset(dims, n);
        let mut reference = ReferenceEngine::<f64>::new(model, Adam::default(), data.clone());
        reference.set_state(&start(dims)).unwrap();
        let expected = reference.trace(&data.train).unwrap();
        let mut engine = engine(open(), model, Adam::default(), data.clone());
        let got = engine.trace(&data.train).unwrap();
        let what = format!("B {n} {dims:?}");
        worst =
            worse(worst, check_trace(&what, &model, &data.train, &got, &expected, [bound::OUTPUT, bound::GRADIENT]));
        let (got, expected) = (engine.predict(&data.train).unwrap(), reference.predict(&data.train).unwrap());
        check(&format!("{what}: probabilities"), &got, &expected, bound::OUTPUT, false);
    }
    println!("worst errors: outputs {:.1e}, gradients {:.1e}", worst[0], worst[1]);
}

/// Every option with every other, at ragged sizes, against the reference.
fn larger_models<D: Device>(open: &dyn Fn() -> D) {
    let mut worst = [0.0; 2];
    for (model, sequences) in larger() {
        let n = sequences.len();
        let data = dataset_of(sequences, model.dims.k);
        let mut reference = ReferenceEngine::<f64>::new(model, Adam::default(), data.clone());
        reference.set_state(&start_of(&model)).unwrap();
        let expected = reference.trace(&data.train).unwrap();
        let mut engine = CudaEngine::new(open(), model, Adam::default(), data.clone()).unwrap();
        poison(&mut engine, &data.train);
        engine.set_state(&start_of(&model)).unwrap();
        let got = engine.trace(&data.train).unwrap();
        let what = format!("B {n} {model:?}");
        worst =
            worse(worst, check_trace(&what, &model, &data.train, &got, &expected, [bound::OUTPUT, bound::GRADIENT]));
        let mut output = |tensor: &str, got: &[f32], expected: &[f32]| {
            worst[0] = worst[0].max(check(&format!("{what}: {tensor}"), got, expected, bound::OUTPUT, false));
        };
        output("probabilities", &engine.predict(&data.train).unwrap(), &reference.predict(&data.train).unwrap());
        // All, and fewer than there is room for.
        for count in [n, n.div_ceil(2)] {
            let rows: Vec<u32> = (0..count as u32).collect();
            let got = engine.evaluate(DataSplit::Train, &rows).unwrap().loss;
            output("scores", &got, &reference.evaluate(DataSplit::Train, &rows).unwrap().loss);
        }
    }
    println!("worst errors: outputs {:.1e}, gradients {:.1e}", worst[0], worst[1]);
}

/// Trains, scores and predicts with parameters that are not numbers, so that all buffers hold such results.
fn poison<D: Device>(engine: &mut CudaEngine<D>, sequences: &Sequences) {
    let rows: Vec<u32> = (0..sequences.len() as u32).collect();
    engine.set_state(&State::new(vec![f32::NAN; engine.model().layout().len()])).unwrap();
    assert!(engine.train_steps(&rows, rows.len()).unwrap()[0].loss.is_nan());
    assert!(engine.evaluate(DataSplit::Train, &rows).unwrap().loss.iter().all(|loss| loss.is_nan()));
    assert!(engine.predict(sequences).unwrap().iter().all(|p| p.is_nan()));
}

/// Recorded iterations, with another choice of dropout, another learning rate and another decay at each step.
fn larger_models_are_trained_as_by_the_reference<D: Device>(open: &dyn Fn() -> D) {
    let some = |(model, sequences): &(Model, Sequences)| model.dims.h > 1 && sequences.len() < 100;
    for (model, sequences) in larger().into_iter().filter(some) {
        let n = sequences.len();
        let data = dataset_of(sequences, model.dims.k);
        let adam = decaying(6);
        let rows: Vec<u32> = (0..6 * n).map(|k| (k * 37 % n) as u32).collect();
        let mut reference = ReferenceEngine::<f64>::new(model, adam, data.clone());
        reference.set_state(&start_of(&model)).unwrap();
        let expected = losses(&reference.train_steps(&rows, n).unwrap());
        // From a state, with buffers that hold results that are not numbers.
        let train = |state: &State, rows: &[u32]| {
            let mut engine = CudaEngine::new(open(), model, adam, data.clone()).unwrap();
            engine.set_state(&State::new(vec![f32::NAN; model.layout().len()])).unwrap();
            assert!(engine.train_steps(&rows[..n], n).unwrap()[0].loss.is_nan());
            engine.set_state(state).unwrap();
            let losses = losses(&engine.train_steps(rows, n).unwrap());
            (losses, engine.state().unwrap())
        };
        let whole = train(&start_of(&model), &rows);
        check(&format!("losses of {model:?}"), &whole.0, &expected, bound::LOSSES, false);
        let parameters = reference.state().unwrap().parameters;
        check(&format!("parameters of {model:?}"), &whole.1.parameters, &parameters, bound::PARAMETERS, false);
        // Another engine goes on where the first one stopped.
        let first = train(&start_of(&model), &rows[..2 * n]);
        let rest = train(&first.1, &rows[2 * n..]);
        assert!(([first.0, rest.0].concat(), rest.1) == whole, "a state is all that it goes on from: {model:?}");
    }
}

/// Everything that an optimizer may do, in a training of so many steps.
fn decaying(steps: u64) -> Adam {
    let schedule = Schedule::Cosine { warm_up: 2, steps };
    Adam { learning_rate: 0.003, grad_clip: Some(0.5), weight_decay: 0.1, schedule, ..Adam::default() }
}

/// The tutorial's model keeps its kernels where weights decay.
fn weights_decay_in_every_model<D: Device>(open: &dyn Fn() -> D) {
    let dims = Dims { t: 4, i: 3, p: 5, h: 9, k: 3 };
    let (model, data) = (Model::new(dims), dataset(dims, 21));
    let rows: Vec<u32> = (0..12 * 21).map(|k| k * 5 % 21).collect();
    for adam in [decaying(12), Adam { grad_clip: None, ..decaying(12) }] {
        let mut reference = ReferenceEngine::<f64>::new(model, adam, data.clone());
        reference.set_state(&start(dims)).unwrap();
        let expected = losses(&reference.train_steps(&rows, 21).unwrap());
        let mut engine = engine(open(), model, adam, data.clone());
        let got = losses(&engine.train_steps(&rows, 21).unwrap());
        assert_ne!(engine.plan().unwrap().family, Family::Stack);
        check("losses", &got, &expected, bound::LOSSES, false);
        let (got, expected) = (engine.state().unwrap().parameters, reference.state().unwrap().parameters);
        check("parameters", &got, &expected, bound::PARAMETERS, false);
    }
}

/// Data without lengths are read by other kernels than data that have some; so are those that lengths do not shorten.
fn lengths_that_are_all_the_longest_change_nothing<D: Device>(open: &dyn Fn() -> D) {
    let larger = larger().into_iter().filter(|(model, sequences)| model.layers > 1 && sequences.lengths().is_none());
    for (model, sequences) in larger {
        let (n, data) = (sequences.len(), dataset_of(sequences, model.dims.k));
        let lengths = data.train.clone().with_lengths(vec![model.dims.t as u32; n]);
        let mut engine = CudaEngine::new(open(), model, Adam::default(), data.clone()).unwrap();
        engine.set_state(&start_of(&model)).unwrap();
        assert!(engine.trace(&data.train).unwrap() == engine.trace(&lengths).unwrap(), "{model:?}");
        assert!(engine.predict(&data.train).unwrap() == engine.predict(&lengths).unwrap(), "{model:?}");
    }
}

/// A model that was trained on sequences of one length reads others, and training goes on as if it had not.
fn sequences_of_other_lengths_are_predicted_on_the_way<D: Device>(open: &dyn Fn() -> D) {
    let dims = Dims { t: 5, i: 3, p: 4, h: 6, k: 3 };
    let (model, data, shorter) = (Model::new(dims), dataset(dims, 12), padded(dims, 12));
    let rows: Vec<u32> = (0..12).collect();
    let mut reference = ReferenceEngine::<f64>::new(model, Adam::default(), dataset_of(shorter.clone(), dims.k));
    reference.set_state(&start(dims)).unwrap();
    let mut engine = engine(open(), model, Adam::default(), data.clone());
    let whole = engine.predict(&data.train).unwrap();
    let got = engine.predict(&shorter).unwrap();
    check("probabilities", &got, &reference.predict(&shorter).unwrap(), bound::OUTPUT, false);
    check(
        "loss",
        &engine.trace(&shorter).unwrap().loss,
        &reference.trace(&shorter).unwrap().loss,
        bound::OUTPUT,
        false,
    );
    assert_eq!(engine.predict(&data.train).unwrap(), whole);
    engine.train_steps(&rows, 12).unwrap();
    let kernels = engine.plan().unwrap().clone();
    let seen = engine.predict(&shorter).unwrap();
    engine.train_steps(&rows, 12).unwrap();
    assert_eq!(engine.plan(), Some(&kernels));
    let mut undisturbed = self::engine(open(), model, Adam::default(), data);
    undisturbed.train_steps(&[&rows[..], &rows].concat(), 12).unwrap();
    assert_eq!(engine.state().unwrap(), undisturbed.state().unwrap());
    assert_ne!(engine.predict(&shorter).unwrap(), seen, "an update is seen");
}

/// The fixtures of `tests/golden` that the emulator runs in reasonable time.
fn golden_cases<D: Device>(open: &dyn Fn() -> D) {
    for case in ["odd_small", "t1", "zero_x"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{case}.safetensors"));
        let fixture = Fixture::read(&path).unwrap();
        let mut engine = CudaEngine::new(open(), fixture.model, fixture.adam, fixture.dataset()).unwrap();
        let computed = fixture.compute(&mut engine).unwrap();
        let comparisons = fixture.compare(&computed, engine.precision()).unwrap();
        assert!(comparisons.len() >= 31, "{case}: only {} comparisons", comparisons.len());
        let bad: Vec<_> = comparisons.iter().filter(|c| !c.holds()).collect();
        assert!(bad.is_empty(), "{case}: {bad:#?}");
    }
}

fn losses(metrics: &[StepMetrics]) -> Vec<f32> {
    metrics.iter().map(|m| m.loss).collect()
}

fn a_hundred_training_steps<D: Device>(open: &dyn Fn() -> D) {
    let dims = Dims { t: 7, i: 5, p: 12, h: 20, k: 4 };
    let model = Model::new(dims);
    let data = dataset(dims, 60);
    for (steps, grad_clip) in [(100, None), (30, Some(0.1))] {
        let adam = Adam { learning_rate: 0.003, grad_clip, ..Adam::default() };
        let rows: Vec<u32> = (0..steps * 20).map(|k| (k * 37 % 60) as u32).collect();
        let mut reference = ReferenceEngine::<f64>::new(model, adam, data.clone());
        reference.set_state(&start(dims)).unwrap();
        let expected = reference.train_steps(&rows, 20).unwrap();
        let mut engine = engine(open(), model, adam, data.clone());
        let got = engine.train_steps(&rows, 20).unwrap();
        let a = check("losses", &losses(&got), &losses(&expected), bound::LOSSES, false);
        let (state, expected_state) = (engine.state().unwrap(), reference.state().unwrap());
        let b = check("parameters", &state.parameters, &expected_state.parameters, bound::PARAMETERS, false);
        println!("losses {a:.1e}, parameters {b:.1e}");
        assert_eq!(state.step, steps as u64);
        let correct = |metrics: &[StepMetrics]| metrics.iter().map(|m| m.correct).sum::<u32>();
        assert!(correct(&got).abs_diff(correct(&expected)) <= 2, "the same sequences are classified right");
        assert!(got[steps - 1].loss < got[0].loss, "it learns");
    }
}

fn another_state_takes_the_place_of_the_last<D: Device>(open: &dyn Fn() -> D) {
    let dims = Dims { t: 2, i: 3, p: 4, h: 5, k: 6 };
    let data = dataset(dims, 8);
    let mut engine = engine(open(), Model::new(dims), Adam::default(), data.clone());
    let before = engine.predict(&data.train).unwrap();
    engine.set_state(&State::new(init::parameters(&Model::new(dims), Init::Tutorial, 4))).unwrap();
    assert_ne!(engine.predict(&data.train).unwrap(), before);
    let mut state = start(dims);
    state.m.iter_mut().zip(&mut state.v).enumerate().for_each(|(k, (m, v))| (*m, *v) = (k as f32, 1.0 / k as f32));
    state.step = 77;
    engine.set_state(&state).unwrap();
    assert_eq!(engine.state().unwrap(), state, "it comes back as it went in");
    assert_eq!(engine.predict(&data.train).unwrap(), before);
    engine.train_steps(&[0, 1, 2], 3).unwrap();
    assert_eq!(engine.state().unwrap().step, 78);
    assert_ne!(engine.predict(&data.train).unwrap(), before, "an update is seen");
}

fn scores_do_not_depend_on_what_they_are_scored_with<D: Device>(open: &dyn Fn() -> D) {
    let dims = Dims { t: 3, i: 2, p: 3, h: 4, k: 3 };
    let larger = Model { layers: 2, bidirectional: true, pool: Pool::Mean, ..Model::new(dims) };
    [Model::new(dims), larger].into_iter().for_each(|model| scores_of(open, model));
}

fn scores_of<D: Device>(open: &dyn Fn() -> D, model: Model) {
    let data = dataset(model.dims, 1500);
    let mut engine = CudaEngine::new(open(), model, Adam::default(), data.clone()).unwrap();
    engine.set_state(&start_of(&model)).unwrap();
    assert!(engine.evaluate(DataSplit::Validation, &[]).unwrap().loss.is_empty(), "there are none");
    let alone = engine.evaluate(DataSplit::Train, &[1203]).unwrap();
    // More than are scored at once, and fewer than the buffers have room for afterwards.
    let rows: Vec<u32> = (0..1300).rev().collect();
    let all = engine.evaluate(DataSplit::Train, &rows).unwrap();
    assert_eq!((all.loss.len(), all.predicted.len()), (1300, 1300));
    assert_eq!((all.loss[96], all.predicted[96]), (alone.loss[0], alone.predicted[0]));
    let again = engine.evaluate(DataSplit::Train, &rows[90..100]).unwrap();
    assert_eq!((&all.loss[90..100], &all.predicted[90..100]), (&again.loss[..], &again.predicted[..]));
    let test = engine.evaluate(DataSplit::Test, &[700]).unwrap();
    assert_eq!(test.loss[0], all.loss[1299 - 700], "the test split here is the start of the training split");
    let probabilities = engine.predict(&data.train.slice(0, 1300)).unwrap();
    let sums: Vec<f32> = probabilities.chunks_exact(3).map(|row| row.iter().sum()).collect();
    assert!(sums.len() == 1300 && sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6));
}

fn steps_do_not_depend_on_how_many_are_asked_for<D: Device>(open: &dyn Fn() -> D) {
    let dims = Dims { t: 2, i: 2, p: 2, h: 3, k: 3 };
    let model = Model::new(dims);
    let data = dataset(dims, 30);
    let rows: Vec<u32> = (0..150 * 4).map(|k| k * 7 % 30).collect();
    let mut at_once = engine(open(), model, Adam::default(), data.clone());
    let all = at_once.train_steps(&rows, 4).unwrap();
    assert_eq!(all.len(), 150, "more than the device keeps at once");
    let mut one_by_one = engine(open(), model, Adam::default(), data);
    let each: Vec<_> = rows.chunks(4).flat_map(|rows| one_by_one.train_steps(rows, 4).unwrap()).collect();
    assert_eq!(all, each);
    assert_eq!(at_once.state().unwrap(), one_by_one.state().unwrap());
    one_by_one.train_steps(&rows[..9], 3).unwrap();
    assert_eq!(one_by_one.state().unwrap().step, 153, "batches of another size");
}

fn a_single_class_leaves_nothing_to_learn<D: Device>(open: &dyn Fn() -> D) {
    let dims = Dims { t: 3, i: 2, p: 4, h: 5, k: 1 };
    let data = dataset(dims, 9);
    let mut engine = engine(open(), Model::new(dims), Adam::default(), data.clone());
    let trace = engine.trace(&data.train).unwrap();
    assert!(trace.loss.iter().chain(&trace.gradient).all(|&v| v == 0.0));
}

/// Everything that can be seen of some training, under a schedule of blocks and warps.
fn run(seed: u64, model: Model, sequences: Sequences, adam: Adam) -> (State, Vec<f32>, Trace) {
    let (n, data) = (sequences.len(), dataset_of(sequences, model.dims.k));
    let device = emulated_with(Options { seed, ..Options::default() });
    let mut engine = CudaEngine::new(device, model, adam, data.clone()).unwrap();
    engine.set_state(&start_of(&model)).unwrap();
    let rows: Vec<u32> = (0..3 * n as u32).map(|k| k % n as u32).collect();
    let seen = losses(&engine.train_steps(&rows, n).unwrap());
    (engine.state().unwrap(), seen, engine.trace(&data.train).unwrap())
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let model = Model::new(Dims { t: 3, i: 5, p: 9, h: 37, k: 10 });
    let clipping = Adam { grad_clip: Some(0.01), ..Adam::default() };
    let plain = [(1, Adam::default()), (35, clipping)].map(|(n, adam)| (model, sequences(model.dims, n), adam));
    let seen = |seed, (model, sequences, adam): &(Model, Sequences, Adam)| run(seed, *model, sequences.clone(), *adam);
    for training in plain {
        let first = seen(0, &training);
        for seed in [1, 7, 12345] {
            assert!(seen(seed, &training) == first, "schedule {seed}, batch {}", training.1.len());
        }
    }
    for (model, sequences) in larger().into_iter().filter(|(_, sequences)| sequences.len() < 50) {
        let training = (model, sequences, decaying(3));
        assert!(seen(7, &training) == seen(0, &training), "{model:?}");
    }
}

/// The line that tells of the device says why; so does the plan.
#[test]
fn a_model_that_few_kernels_know_says_so() {
    let dims = Dims { t: 3, i: 2, p: 3, h: 4, k: 3 };
    let plain = Model::new(dims);
    let whole = || sequences(dims, 6);
    for (model, sequences, extras) in [
        (Model { layers: 2, bidirectional: true, ..plain }, whole(), "2 layers, two directions"),
        (
            Model { pool: Pool::Max, label_smoothing: 0.1, ..plain },
            whole(),
            "the maximum over the steps, label smoothing",
        ),
        (
            Model { pool: Pool::Mean, ..plain },
            padded(dims, 6),
            "the mean over the steps, sequences of different lengths",
        ),
        (plain, padded(dims, 6), "sequences of different lengths"),
    ] {
        for precision in [Precision::F32, Precision::Bf16] {
            let device = Emulated::new(kept::ptx(), Options::default()).unwrap();
            let data = dataset_of(sequences.clone(), dims.k);
            let mut engine = CudaEngine::with_precision(device, model, Adam::default(), data, precision).unwrap();
            engine.set_state(&start_of(&model)).unwrap();
            engine.train_steps(&[0, 1, 2], 3).unwrap();
            let reason = format!("one launch a step, in f32, as no other kernels know this: {extras}");
            assert_eq!(Engine::device(&engine), format!("emulated GPU; {reason}"));
            assert_eq!((engine.precision(), engine.alone()), (Precision::F32, Some(reason)));
        }
    }
}

#[test]
fn a_batch_without_room_is_refused_with_the_largest_that_fits() {
    let dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
    let data = dataset(dims, 4);
    let device = emulated();
    device.set_free_bytes(100_000_000);
    let mut engine = CudaEngine::new(device, Model::new(dims), Adam::default(), data).unwrap();
    let error = engine.train_steps(&vec![0; 1 << 20], 1 << 20).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2, "{text}");
    assert!(text.contains("batch size 1048576") && text.contains(" 95.0 MB"), "{text}");
    let largest: usize = text.rsplit(' ').next().unwrap().parse().expect("the message ends with the largest batch");
    // Gates, their gradients, h, c and x of 28 steps are about 160 kB a sequence.
    assert!((400..700).contains(&largest), "{text}");
    let refused = engine.train_steps(&vec![0; largest + 1], largest + 1).unwrap_err();
    assert!(refused.to_string().ends_with(&format!(" {largest}")), "{refused}");
}

// ---- kernel by kernel ----

fn numbers(first: usize, count: usize) -> Vec<f32> {
    (first..first + count).map(number).collect()
}

fn upload<D: Device>(device: &D, values: &[f32]) -> Buffer<D, f32> {
    Buffer::from_slice(device, "input", values).unwrap()
}

/// A place for results: never written on the emulator, which notices reads of it, and NaN on a GPU.
fn output<D: Device>(device: &D, len: usize) -> Buffer<D, f32> {
    let mut buffer = Buffer::new(device, "output", len).unwrap();
    if device.name() != "emulated GPU" {
        buffer.upload(device, &vec![f32::NAN; len]).unwrap();
    }
    buffer
}

const PRODUCTS: [[usize; 3]; 9] = [
    [1, 1, 1],
    [3, 5, 7],
    [31, 63, 33],
    [32, 64, 32],
    [33, 65, 31],
    [29, 40, 128],
    [128, 10, 100],
    [2, 130, 65],
    [100, 3, 2],
];

fn at(form: Form, [m, n, k]: [usize; 3], row: usize, column: usize, at: usize) -> (usize, usize) {
    let a = if form == Form::Tn { at * m + row } else { row * k + at };
    let b = if form == Form::Nt { column * k + at } else { at * n + column };
    (a, b)
}

fn expected_product(form: Form, sizes: [usize; 3], a: &[f32], b: &[f32], bias: Option<(&[f32], usize)>) -> Vec<f32> {
    let [m, n, k] = sizes;
    let element = |row: usize, column: usize| {
        let term = |k: usize| {
            let (x, y) = at(form, sizes, row, column, k);
            f64::from(a[x]) * f64::from(b[y])
        };
        let bias = bias.filter(|(_, from)| row >= *from).map_or(0.0, |(bias, _)| f64::from(bias[column]));
        ((0..k).map(term).sum::<f64>() + bias) as f32
    };
    (0..m).flat_map(|row| (0..n).map(move |column| element(row, column))).collect()
}

fn products<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    for sizes @ [m, n, k] in PRODUCTS {
        for form in [Form::Nn, Form::Nt, Form::Tn] {
            for from in [None, Some(0), Some(m - 1)] {
                let (a, b, bias) = (numbers(0, m * k), numbers(7777, k * n), vec![0.75; n]);
                let (da, db, dbias, c) =
                    (upload(device, &a), upload(device, &b), upload(device, &bias), output(device, m * n));
                let given = from.map(|from| (dbias.all(), from));
                let launched = Product { form, a: da.all(), b: db.all(), bias: given, c: c.all(), m, n, k };
                product(device, &launched).unwrap();
                let expected = expected_product(form, sizes, &a, &b, from.map(|from| (&bias[..], from)));
                let what = format!("{form:?} {sizes:?} bias from {from:?}");
                check(&what, &c.download(device, m * n).unwrap(), &expected, bound::KERNEL, true);
            }
        }
    }
}

fn split_products<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    for (sizes @ [m, n, k], parts) in [([5, 9, 128], 1), ([5, 9, 129], 2), ([33, 70, 700], 6), ([2, 3, 9000], 57)] {
        let split = Split::new(m, n, k);
        assert_eq!(split.parts, parts);
        let (a, b) = (numbers(0, m * k), numbers(7777, k * n));
        let (da, db, c, scratch) =
            (upload(device, &a), upload(device, &b), output(device, m * n), output(device, parts * m * n));
        let launched = Product { form: Form::Tn, a: da.all(), b: db.all(), bias: None, c: c.all(), m, n, k };
        split_product(device, &launched, scratch.all()).unwrap();
        let expected = expected_product(Form::Tn, sizes, &a, &b, None);
        check(&format!("{sizes:?}"), &c.download(device, m * n).unwrap(), &expected, bound::KERNEL, false);
    }
}

fn sums_of_columns<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    for [m, n] in [[1, 1], [7, 31], [8, 32], [9, 33], [130, 10], [1, 100]] {
        let a = numbers(5, m * n);
        let (da, c) = (upload(device, &a), output(device, n));
        column_sums(device, da.all(), c.all(), m, n).unwrap();
        let sum = |column: usize| (0..m).map(|row| f64::from(a[row * n + column])).sum::<f64>() as f32;
        let expected: Vec<f32> = (0..n).map(sum).collect();
        check(&format!("{m} {n}"), &c.download(device, n).unwrap(), &expected, bound::KERNEL, true);
    }
}

fn gathering<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    let sizes = [[1, 1, 1, 1], [9, 5, 7, 4], [40, 28, 28, 13]];
    let ways = [(false, false), (false, true), (true, false), (true, true)];
    for ([n, t, i, b], (has_lengths, reversed)) in sizes.into_iter().flat_map(|sizes| ways.map(|way| (sizes, way))) {
        let count = n * t * i;
        let labels: Vec<u32> = (0..n as u32).map(|k| k * 3).collect();
        let bytes = Values::U8 { bytes: (0..count).map(|k| (k * 37 % 256) as u8).collect(), scale: 1.0 / 255.0 };
        for values in [bytes, Values::F32(numbers(0, count))] {
            let mut sequences = Sequences::new(t, i, values, labels.clone());
            if has_lengths {
                sequences = sequences.with_lengths((0..n as u32).map(|k| 1 + k * 7 % t as u32).collect());
            }
            let on_device = DeviceSequences::new(device, &sequences).unwrap();
            // Three batches, of which the last one is gathered.
            let rows: Vec<u32> = (0..3 * b).map(|k| (k * 5 % n) as u32).collect();
            let drows = Buffer::from_slice(device, "rows", &rows).unwrap();
            let turn = Buffer::from_slice(device, "turn", &[2u32]).unwrap();
            let x = output(device, t * b * (i + 1));
            let [batch_labels, batch_lengths] =
                ["labels", "lengths"].map(|name| Buffer::<D, u32>::new(device, name, b).unwrap());
            let batch = Gather {
                rows: drows.all(),
                turn: turn.all(),
                x: x.all(),
                labels: Some(batch_labels.all()),
                lengths: Some(batch_lengths.all()),
                reversed,
                b,
            };
            gather(device, &on_device, &batch).unwrap();
            let rows = &rows[2 * b..];
            let plain: Vec<f32> = reference::inputs(&sequences, rows);
            let expected = |place: usize, row: usize| {
                let step = if reversed { t - 1 - place } else { place };
                let step = plain[(row * t + step) * i..][..i].to_vec();
                step.into_iter().chain([1.0])
            };
            let expected: Vec<f32> = (0..t).flat_map(|t| (0..b).flat_map(move |row| expected(t, row))).collect();
            assert_eq!(x.download(device, expected.len()).unwrap(), expected, "exact to the bit");
            let expected: Vec<u32> = rows.iter().map(|row| row * 3).collect();
            assert_eq!(batch_labels.download(device, b).unwrap(), expected);
            if has_lengths {
                let expected: Vec<u32> = rows.iter().map(|&row| sequences.length(row as usize) as u32).collect();
                assert_eq!(batch_lengths.download(device, b).unwrap(), expected);
            }
        }
    }
}

fn losses_and_probabilities<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    let sizes = [[1, 1], [3, 2], [8, 10], [9, 31], [13, 32], [5, 33], [130, 100]];
    for ([batch, classes], smoothing) in sizes.into_iter().flat_map(|sizes| [(sizes, 0.0), (sizes, 0.2f32)]) {
        // Large ones, so that an exponential without the largest taken off would overflow; and ties.
        let logits: Vec<f32> = numbers(3, batch * classes).iter().map(|v| v * 200.0).collect();
        let labels: Vec<u32> = (0..batch).map(|row| (row * 7 % classes) as u32).collect();
        let d_logits = upload(device, &logits);
        let d_labels = Buffer::from_slice(device, "labels", &labels).unwrap();
        let (loss, dlogits, probabilities) =
            (output(device, batch), output(device, batch * classes), output(device, batch * classes));
        let predicted = Buffer::<D, u32>::new(device, "predicted", batch).unwrap();
        let mut of_batch = SoftmaxXent {
            logits: d_logits.all(),
            labels: d_labels.all(),
            loss: loss.all(),
            predicted: predicted.all(),
            dlogits: Some(dlogits.all()),
            batch,
            classes,
            smoothing,
        };
        softmax_xent::softmax_xent(device, &of_batch).unwrap();
        softmax_xent::softmax(device, d_logits.all(), probabilities.all(), batch, classes).unwrap();

        let wide: Vec<f64> = logits.iter().map(|&l| l.into()).collect();
        let rows = || wide.chunks_exact(classes).zip(&labels);
        let single = |v: f64| v as f32;
        let expected: Vec<f32> = rows()
            .map(|(row, &label)| single(reference::softmax_xent::loss(row, label as usize, smoothing.into())))
            .collect();
        let what = format!("{batch} {classes} {smoothing}");
        check(&format!("{what} loss"), &loss.download(device, batch).unwrap(), &expected, bound::KERNEL, true);
        let gradient = |(row, &label): (&[f64], &u32)| {
            reference::softmax_xent::backward(row, label as usize, smoothing.into(), 1.0 / batch as f64)
        };
        let expected: Vec<f32> = rows().flat_map(gradient).map(single).collect();
        check(
            &format!("{what} gradient"),
            &dlogits.download(device, batch * classes).unwrap(),
            &expected,
            bound::KERNEL,
            true,
        );
        let expected: Vec<f32> =
            rows().flat_map(|(row, _)| reference::softmax_xent::softmax(row)).map(single).collect();
        check(
            &format!("{what} softmax"),
            &probabilities.download(device, batch * classes).unwrap(),
            &expected,
            bound::KERNEL,
            false,
        );
        let expected: Vec<u32> = rows().map(|(row, _)| reference::softmax_xent::arg_max(row)).collect();
        assert_eq!(predicted.download(device, batch).unwrap(), expected, "{what}");

        let same = loss.download(device, batch).unwrap();
        of_batch.dlogits = None;
        softmax_xent::softmax_xent(device, &of_batch).unwrap();
        assert_eq!(loss.download(device, batch).unwrap(), same, "without a gradient");
    }
}

fn sums_of_a_batch<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    for batch in [1, 31, 255, 256, 257, 1000] {
        let loss = numbers(1, batch);
        let classes = |shift: usize| (0..batch).map(|row| ((row * shift) % 3) as u32).collect::<Vec<_>>();
        let (predicted, labels) = (classes(1), classes(2));
        let d_loss = upload(device, &loss);
        let d_predicted = Buffer::from_slice(device, "predicted", &predicted).unwrap();
        let d_labels = Buffer::from_slice(device, "labels", &labels).unwrap();
        let turn = Buffer::from_slice(device, "turn", &[3u32]).unwrap();
        let mean_loss = Buffer::from_slice(device, "mean loss", &[9.0f32; 5]).unwrap();
        let correct = Buffer::from_slice(device, "correct", &[9u32; 5]).unwrap();
        let metrics = Metrics {
            loss: d_loss.all(),
            predicted: d_predicted.all(),
            labels: d_labels.all(),
            turn: turn.all(),
            mean_loss: mean_loss.all(),
            correct: correct.all(),
            batch,
        };
        softmax_xent::batch_metrics(device, &metrics).unwrap();
        let mean = loss.iter().map(|&l| f64::from(l)).sum::<f64>() / batch as f64;
        let right = predicted.iter().zip(&labels).filter(|(p, l)| p == l).count() as u32;
        let got = mean_loss.download(device, 5).unwrap();
        assert!((f64::from(got[3]) - mean).abs() < 1e-6, "{batch}: {got:?} {mean}");
        assert_eq!([got[0], got[1], got[2], got[4]], [9.0; 4], "only its own turn's element");
        assert_eq!(correct.download(device, 5).unwrap(), [9, 9, 9, right, 9]);
    }
}

fn updates<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    for n in [1, 255, 257, 5000] {
        for (grad_clip, weight_decay) in
            [(None, 0.0), (Some(0.5), 0.0), (Some(1e9), 0.0), (None, 50.0), (Some(0.5), 50.0)]
        {
            let adam = Adam { grad_clip, weight_decay, ..Adam::default() };
            let (mut parameters, mut m, mut v) = (numbers(0, n), vec![0.0; n], vec![0.0; n]);
            let step_sizes: Vec<f32> = (1..=4).map(|t| adam.step_size(t) as f32).collect();
            let d_sizes = upload(device, &step_sizes);
            let kept: Vec<f32> = (1..=4).map(|t| adam.kept(t) as f32).collect();
            let d_kept = (weight_decay > 0.0).then(|| upload(device, &kept));
            let (dp, dm, dv) = (upload(device, &parameters), upload(device, &m), upload(device, &v));
            let turn = Buffer::from_slice(device, "turn", &[0u32]).unwrap();
            let (parts, factor) = (output(device, adam::norm_parts(n)), output(device, 1));
            let mut wide: [Vec<f64>; 3] = [&parameters, &m, &v].map(|v| v.iter().map(|&v| v.into()).collect());
            for step in 0..4 {
                let gradient = numbers(step * 100, n);
                let d_gradient = upload(device, &gradient);
                let clip: Option<Part<'_, f32>> = adam.grad_clip.map(|max_norm| {
                    adam::clip_factor(device, d_gradient.all(), parts.all(), factor.all(), n, max_norm).unwrap();
                    factor.all()
                });
                let update = Update {
                    gradient: d_gradient.all(),
                    step_sizes: d_sizes.all(),
                    turn: turn.all(),
                    clip,
                    kept: d_kept.as_ref().map(Buffer::all),
                    parameters: dp.all(),
                    m: dm.all(),
                    v: dv.all(),
                    n,
                };
                adam::update(device, &adam, &update).unwrap();
                adam::advance(device, turn.all()).unwrap();
                let gradient: Vec<f64> = gradient.iter().map(|&g| g.into()).collect();
                let [p, m, v] = &mut wide;
                reference::adam::step(&adam, step as u64 + 1, &gradient, p, m, v);
            }
            let got = [&dp, &dm, &dv].map(|buffer| buffer.download(device, n).unwrap());
            [parameters, m, v] = wide.map(|v| v.iter().map(|&v| v as f32).collect());
            for ((name, got), expected) in ["parameters", "m", "v"].iter().zip(got).zip([parameters, m, v]) {
                check(
                    &format!("{name} n {n} clip {grad_clip:?} decay {weight_decay}"),
                    &got,
                    &expected,
                    bound::KERNEL,
                    true,
                );
            }
            assert_eq!(turn.download(device, 1).unwrap(), [4]);
        }
    }
}

/// T, B, H of layers of one direction and of two, with dropout and without.
fn shapes() -> impl Iterator<Item = (Sizes, usize, Option<Dropout>)> {
    let sizes = [[1, 1, 1], [3, 5, 7], [4, 1, 33], [2, 37, 16], [5, 3, 9]];
    sizes.into_iter().flat_map(|[t, batch, hidden]| {
        let sizes = Sizes { t, batch, hidden };
        let ways = [(1, None), (1, Some(0.3)), (2, None), (2, Some(0.3))];
        ways.map(|(directions, rate)| (sizes, directions, rate.map(|rate| Dropout { rate, seed: 5 })))
    })
}

/// What dropout multiplies the output of a column by at the last of three steps, which is number 9.
fn factor(dropout: Option<Dropout>, [layer, b, t, column]: [usize; 4]) -> f32 {
    dropout.map_or(1.0, |dropout| dropout.mask(9).factors(layer, b, t, column / 4)[column % 4])
}

/// The keys of three steps, the last of which is number 9, and the turn of that one.
fn keys<D: Device>(device: &D, dropout: Option<Dropout>) -> (Option<Buffer<D, u32>>, Buffer<D, u32>) {
    let keys = dropout.map(|dropout| [7, 8, 9].map(|step| dropout.mask(step).key).concat());
    let keys = keys.map(|keys| Buffer::from_slice(device, "keys", &keys).unwrap());
    (keys, Buffer::from_slice(device, "turn", &[2u32]).unwrap())
}

/// Step and place in the reading order of a direction, either way round.
fn turned(t: usize, steps: usize, reversed: bool) -> usize {
    if reversed { steps - 1 - t } else { t }
}

fn states_between_layers<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    for (sizes @ Sizes { t, batch, hidden }, directions, dropout) in shapes() {
        let states: Vec<_> = (0..directions).map(|d| numbers(d * 999, (t + 1) * batch * hidden)).collect();
        let on_device: Vec<_> = states.iter().map(|states| upload(device, states)).collect();
        let (keys, turn) = keys(device, dropout);
        let model = Model { dropout, ..Model::new(Dims { t, i: 1, p: 1, h: hidden, k: 2 }) };
        let width = directions * hidden;
        for reversed in [false, true] {
            let x = output(device, t * batch * (width + 1));
            let leave_out = LeaveOut::new(&model, keys.as_ref(), turn.all());
            let below = (on_device[0].all(), on_device.get(1).map(Buffer::all));
            layer_inputs(device, sizes, below, leave_out, (3, reversed), x.all()).unwrap();
            let at = |place: usize, b: usize, column: usize| {
                let step = turned(place, t, reversed);
                let (d, unit) = (column / hidden, column % hidden);
                let slot = turned(step, t, d == 1) + 1;
                states[d][(slot * batch + b) * hidden + unit] * factor(dropout, [3, b, step, column])
            };
            let row = |n: usize| (0..width).map(move |column| at(n / batch, n % batch, column)).chain([1.0]);
            let expected: Vec<f32> = (0..t * batch).flat_map(row).collect();
            assert_eq!(x.download(device, expected.len()).unwrap(), expected, "{sizes:?} {directions} {dropout:?}");
        }
    }
}

fn gradients_between_layers<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    for (sizes @ Sizes { t, batch, hidden }, directions, dropout) in shapes() {
        let width = directions * hidden;
        let above: Vec<_> = (0..directions).map(|d| numbers(d * 999, t * batch * width)).collect();
        let on_device: Vec<_> = above.iter().map(|dx| upload(device, dx)).collect();
        let (keys, turn) = keys(device, dropout);
        let model = Model { dropout, ..Model::new(Dims { t, i: 1, p: 1, h: hidden, k: 2 }) };
        for below in 0..directions {
            let dh = output(device, t * batch * hidden);
            let leave_out = LeaveOut::new(&model, keys.as_ref(), turn.all());
            let given = (on_device[0].all(), on_device.get(1).map(Buffer::all));
            layer_gradients(device, sizes, given, leave_out, (3, below == 1), dh.all()).unwrap();
            let at = |place: usize, b: usize, unit: usize| {
                let (step, column) = (turned(place, t, below == 1), below * hidden + unit);
                let of = |d: usize| above[d][(turned(step, t, d == 1) * batch + b) * width + column];
                (0..directions).map(of).sum::<f32>() * factor(dropout, [3, b, step, column])
            };
            let row = |n: usize| (0..hidden).map(move |unit| at(n / batch, n % batch, unit));
            let expected: Vec<f32> = (0..t * batch).flat_map(row).collect();
            assert_eq!(dh.download(device, expected.len()).unwrap(), expected, "{sizes:?} {directions} {dropout:?}");
        }
    }
}

/// Forward and backward, with ties for the maximum and lengths.
fn pooling<D: Device>(open: &dyn Fn() -> D) {
    let device = &open();
    let every = |(sizes, directions, _)| {
        let pools = [Pool::Last, Pool::Mean, Pool::Max];
        pools.into_iter().flat_map(move |kind| [(sizes, directions, kind, false), (sizes, directions, kind, true)])
    };
    let plain = shapes().filter(|(_, _, dropout)| dropout.is_none());
    for (sizes @ Sizes { t, batch, hidden }, directions, kind, has_lengths) in plain.flat_map(every) {
        let width = directions * hidden;
        // At a step beyond the end a direction holds the state that it has: the one before it in its order.
        let lengths: Vec<usize> = (0..batch).map(|b| if has_lengths { 1 + b * 7 % t } else { t }).collect();
        let steps = Steps { t, lengths: &lengths, reversed: false };
        let coarse = |n: usize| (number(n) * 2.0).round();
        let outputs: Vec<f32> = (0..batch * t * width).map(coarse).collect();
        let states: Vec<_> = (0..directions)
            .map(|d| {
                let mut states = vec![0.0; (t + 1) * batch * hidden];
                for n in 0..t * batch * hidden {
                    let (place, b, unit) = (n / (batch * hidden), n / hidden % batch, n % hidden);
                    let step = turned(place, t, d == 1);
                    let value = match step < lengths[b] {
                        true => outputs[(b * t + step) * width + d * hidden + unit],
                        false => states[n],
                    };
                    states[n + batch * hidden] = value;
                }
                upload(device, &states)
            })
            .collect();
        let d_lengths: Vec<u32> = lengths.iter().map(|&length| length as u32).collect();
        let d_lengths = Buffer::from_slice(device, "lengths", &d_lengths).unwrap();
        let pooled = output(device, batch * width);
        let cell = |d: usize| Pooled {
            sizes,
            h: states[d].all(),
            lengths: has_lengths.then(|| d_lengths.all()),
            pooled: pooled.all(),
            directions,
            reversed: d == 1,
            kind,
        };
        let what = format!("{sizes:?} {directions} {kind:?} {has_lengths}");
        (0..directions).for_each(|d| layers::pool(device, &cell(d)).unwrap());
        let expected = reference::pool::forward(kind, &outputs, steps, directions);
        check(&what, &pooled.download(device, batch * width).unwrap(), &expected, bound::KERNEL, true);
        let d_pooled = numbers(77, batch * width);
        let expected = reference::pool::backward(kind, &outputs, &d_pooled, steps, directions);
        let d_pooled = upload(device, &d_pooled);
        for d in 0..directions {
            let dh = output(device, t * batch * hidden);
            layers::unpool(device, &cell(d), d_pooled.all(), dh.all()).unwrap();
            let at = |n: usize| {
                let (place, b, unit) = (n / (batch * hidden), n / hidden % batch, n % hidden);
                expected[(b * t + turned(place, t, d == 1)) * width + d * hidden + unit]
            };
            let expected: Vec<f32> = (0..t * batch * hidden).map(at).collect();
            check(&what, &dh.download(device, t * batch * hidden).unwrap(), &expected, bound::KERNEL, true);
        }
    }
}

/// Data in bytes, as images are, go through the whole engine.
#[test]
fn bytes_are_trained_on_like_numbers() {
    let dims = Dims { t: 3, i: 4, p: 5, h: 6, k: 3 };
    let model = Model::new(dims);
    let bytes: Vec<u8> = (0..20 * 12).map(|k| (k * 41 % 256) as u8).collect();
    let floats = bytes.iter().map(|&b| f32::from(b) * (1.0 / 255.0)).collect();
    let labels: Vec<u32> = (0..20).map(|k| k % 3).collect();
    let train = |values| {
        let data = dataset_of(Sequences::new(3, 4, values, labels.clone()), 3);
        let mut engine = engine(emulated(), model, Adam::default(), data);
        engine.train_steps(&(0..20).collect::<Vec<_>>(), 5).unwrap()
    };
    let of_bytes = train(Values::U8 { bytes, scale: 1.0 / 255.0 });
    assert_eq!(of_bytes, train(Values::F32(floats)));
}
