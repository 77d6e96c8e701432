//! The CPU engine against the reference in f64, for products in bf16 the one that rounds alike: at ragged sizes, with
//! every kind of vectors, with buffers poisoned before; and against itself: with any number of threads the same bits.

mod support;

use fused_lstm::cpu::{CpuEngine, Isa};
use fused_lstm::data::{Dataset, Sequences, Split, Values};
use fused_lstm::engine::{Engine, Model, State, Trace};
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::{Adam, Schedule};
use fused_lstm::precision::Precision;
use fused_lstm::reference::{ReferenceEngine, Style};
use fused_lstm::shape::Dims;
use std::sync::Arc;
use support::models::{RAGGED, check, check_trace, dataset, dataset_of, larger, padded, start, start_of, worse};

/// Largest error of each tensor relative to its largest value, about 10 times the worst seen (in brackets).
struct Bounds {
    /// Logits, h and c after the last step, loss of each sequence.
    output: f64,
    /// Gradient and input gradient.
    gradient: f64,
    /// Losses of 100 training steps.
    losses: f64,
    /// Parameters after 100 training steps.
    parameters: f64,
}

impl Bounds {
    fn of(precision: Precision) -> Self {
        match precision {
            // (4.3e-7; 3.8e-6, where terms cancel, else below 1e-6; 2.6e-7; 2.2e-6)
            Precision::F32 => Self { output: 4e-6, gradient: 2e-5, losses: 3e-6, parameters: 2e-5 },
            // The last place of an f32 may decide how it is rounded to bf16. (1.1e-4; 8.9e-4; 3.8e-4; 1.8e-3: an eighth of
            // what the rounding itself does)
            _ => Self { output: 5e-4, gradient: 3e-3, losses: 3e-3, parameters: 1e-2 },
        }
    }
}

/// All kinds of vectors that this processor has.
fn all() -> Vec<Isa> {
    if Isa::bf16().is_none() {
        println!("skipped: this processor has no AVX512-BF16");
    }
    Isa::available().into_iter().chain(Isa::bf16()).collect()
}

fn reference(model: Model, adam: Adam, data: &Arc<Dataset>, precision: Precision) -> ReferenceEngine<f64> {
    let plain = ReferenceEngine::new(model, adam, data.clone());
    let mut reference = if precision == Precision::Bf16 { plain.rounding_to_bf16(Style::Cpu) } else { plain };
    reference.set_state(&start(model.dims)).unwrap();
    reference
}

fn cpu(model: Model, adam: Adam, data: &Arc<Dataset>, threads: usize, isa: Isa) -> CpuEngine {
    let mut engine = CpuEngine::with_isa(model, adam, data.clone(), threads, isa).unwrap();
    engine.set_state(&start(model.dims)).unwrap();
    engine
}

/// Runs a batch of NaN through the engine: whatever it leaves in the engine's buffers, no later result may depend on it.
fn poison(engine: &mut CpuEngine, n: usize) {
    let dims = engine.model().dims;
    let nan = Values::F32(vec![f32::NAN; n * dims.sequence_len()]);
    let batch = Sequences::new(dims.t, dims.i, nan, vec![0; n]);
    let trace = engine.trace(&batch).unwrap();
    assert!(trace.logits.iter().all(|l| l.is_nan()) && trace.loss.iter().all(|l| l.is_nan()), "NaN must not be lost");
    engine.predict(&batch).unwrap();
}

#[test]
fn a_batch_at_ragged_sizes() {
    for isas in [Isa::available(), Isa::bf16().into_iter().collect()] {
        batches_at_ragged_sizes(&isas);
    }
}

/// With kinds of vectors of the same precision.
fn batches_at_ragged_sizes(isas: &[Isa]) {
    let Some(precision) = isas.first().map(|isa| isa.precision()) else {
        return println!("skipped: this processor has no AVX512-BF16");
    };
    let bounds = Bounds::of(precision);
    let mut worst = [0.0; 2];
    for [n, t, i, p, h, k] in RAGGED {
        let dims = Dims { t, i, p, h, k };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        let data = dataset(dims, n);
        let mut reference = reference(model, Adam::default(), &data, precision);
        let expected = reference.trace(&data.train).unwrap();
        let probabilities = reference.predict(&data.train).unwrap();
        for &isa in isas {
            let mut engine = cpu(model, Adam::default(), &data, 2, isa);
            poison(&mut engine, n.next_multiple_of(16));
            let got = engine.trace(&data.train).unwrap();
            let what = format!("{} B {n} {dims:?}", isa.name());
            let both = [bounds.output, bounds.gradient];
            worst = worse(worst, check_trace(&what, &model, &data.train, &got, &expected, both));
            let got = engine.predict(&data.train).unwrap();
            check(&format!("{what}: probabilities"), &got, &probabilities, bounds.output, false);
        }
    }
    println!("{precision}, worst errors: outputs {:.1e}, gradients {:.1e}", worst[0], worst[1]);
}

fn larger_cpu(model: Model, adam: Adam, data: &Arc<Dataset>, threads: usize, isa: Isa) -> CpuEngine {
    let mut engine = CpuEngine::with_isa(model, adam, data.clone(), threads, isa).unwrap();
    engine.set_state(&start_of(&model)).unwrap();
    engine
}

#[test]
fn larger_models() {
    let bounds = Bounds::of(Precision::F32);
    let mut worst = [0.0; 2];
    for (model, sequences) in larger() {
        let n = sequences.len();
        let data = dataset_of(sequences, model.dims.k);
        let mut reference = ReferenceEngine::<f64>::new(model, Adam::default(), data.clone());
        reference.set_state(&start_of(&model)).unwrap();
        let expected = reference.trace(&data.train).unwrap();
        let probabilities = reference.predict(&data.train).unwrap();
        let rows: Vec<u32> = (0..n as u32).collect();
        let scores = reference.evaluate(Split::Train, &rows).unwrap().loss;
        for isa in Isa::available() {
            let mut engine = larger_cpu(model, Adam::default(), &data, 2, isa);
            poison(&mut engine, n.next_multiple_of(16));
            let got = engine.trace(&data.train).unwrap();
            let what = format!("{} B {n} {model:?}", isa.name());
            let both = [bounds.output, bounds.gradient];
            worst = worse(worst, check_trace(&what, &model, &data.train, &got, &expected, both));
            let got = engine.predict(&data.train).unwrap();
            check(&format!("{what}: probabilities"), &got, &probabilities, bounds.output, false);
            let got = engine.evaluate(Split::Train, &rows).unwrap().loss;
            check(&format!("{what}: scores"), &got, &scores, bounds.output, false);
        }
    }
    println!("worst errors: outputs {:.1e}, gradients {:.1e}", worst[0], worst[1]);
}

#[test]
fn larger_models_are_trained_as_by_the_reference() {
    let bounds = Bounds::of(Precision::F32);
    for (model, sequences) in larger().into_iter().filter(|(model, _)| model.dims.h > 1) {
        let n = sequences.len();
        let data = dataset_of(sequences, model.dims.k);
        let schedule = Schedule::Cosine { warm_up: 3, steps: 20 };
        let adam = Adam { learning_rate: 0.003, grad_clip: Some(0.5), weight_decay: 0.1, schedule, ..Adam::default() };
        let rows: Vec<u32> = (0..20 * n).map(|k| (k * 37 % n) as u32).collect();
        let mut reference = ReferenceEngine::<f64>::new(model, adam, data.clone());
        reference.set_state(&start_of(&model)).unwrap();
        let expected: Vec<f32> = reference.train_steps(&rows, n).unwrap().iter().map(|m| m.loss).collect();
        let parameters = reference.state().unwrap().parameters;
        let train = |threads| {
            let mut engine = larger_cpu(model, adam, &data, threads, Isa::best());
            let losses: Vec<f32> = engine.train_steps(&rows, n).unwrap().iter().map(|m| m.loss).collect();
            (losses, engine.state().unwrap(), engine.evaluate(Split::Train, &rows[..n]).unwrap())
        };
        let one = train(1);
        check(&format!("losses of {model:?}"), &one.0, &expected, bounds.losses, false);
        check(&format!("parameters of {model:?}"), &one.1.parameters, &parameters, bounds.parameters, false);
        for threads in [2, 3] {
            assert!(train(threads) == one, "{threads} threads, {model:?}");
        }
    }
}

/// Without lengths the engine takes another way back through the steps.
#[test]
fn lengths_that_are_all_the_longest_change_nothing() {
    for (model, sequences) in larger().into_iter().filter(|(_, sequences)| sequences.lengths().is_none()) {
        let (n, data) = (sequences.len(), dataset_of(sequences, model.dims.k));
        let lengths = data.train.clone().with_lengths(vec![model.dims.t as u32; n]);
        let mut engine = larger_cpu(model, Adam::default(), &data, 2, Isa::best());
        assert!(engine.trace(&data.train).unwrap() == engine.trace(&lengths).unwrap(), "{model:?}");
    }
}

/// Products in bf16 know lengths, and refuse what they do not know.
#[test]
fn bf16_knows_lengths_and_no_larger_models() {
    let Some(isa) = Isa::bf16() else { return println!("skipped: this processor has no AVX512-BF16") };
    let bounds = Bounds::of(Precision::Bf16);
    let dims = Dims { t: 6, i: 5, p: 7, h: 33, k: 4 };
    let (model, data) = (Model::new(dims), dataset_of(padded(dims, 37), dims.k));
    let expected = reference(model, Adam::default(), &data, Precision::Bf16).trace(&data.train).unwrap();
    let got = cpu(model, Adam::default(), &data, 2, isa).trace(&data.train).unwrap();
    check("logits", &got.logits, &expected.logits, bounds.output, false);
    check("gradient", &got.gradient, &expected.gradient, bounds.gradient, false);
    for (model, sequences) in larger().into_iter().filter(|(model, _)| model.extras().is_some()) {
        let data = dataset_of(sequences, model.dims.k);
        let error = CpuEngine::with_isa(model, Adam::default(), data, 1, isa).err().expect("it is refused");
        assert!(error.exit_code() == 2 && error.to_string().contains(&model.extras().unwrap()), "{error}");
    }
}

#[test]
fn a_single_class_leaves_nothing_to_learn() {
    let dims = Dims { t: 3, i: 2, p: 4, h: 5, k: 1 };
    let data = dataset(dims, 9);
    let mut engine = cpu(Model::new(dims), Adam::default(), &data, 1, Isa::best());
    let trace = engine.trace(&data.train).unwrap();
    assert!(trace.loss.iter().chain(&trace.gradient).all(|&v| v == 0.0));
}

#[test]
fn a_hundred_training_steps() {
    let dims = Dims { t: 7, i: 5, p: 12, h: 20, k: 4 };
    let model = Model::new(dims);
    let data = dataset(dims, 60);
    for grad_clip in [None, Some(0.1)] {
        let adam = Adam { learning_rate: 0.003, grad_clip, ..Adam::default() };
        let rows: Vec<u32> = (0..100 * 20).map(|k| (k * 37 % 60) as u32).collect();
        for isa in all() {
            let bounds = Bounds::of(isa.precision());
            let mut reference = reference(model, adam, &data, isa.precision());
            let expected = reference.train_steps(&rows, 20).unwrap();
            let parameters = reference.state().unwrap().parameters;
            let mut engine = cpu(model, adam, &data, 2, isa);
            let got = engine.train_steps(&rows, 20).unwrap();
            let losses =
                |metrics: &[fused_lstm::engine::StepMetrics]| metrics.iter().map(|m| m.loss).collect::<Vec<_>>();
            let a = check("losses", &losses(&got), &losses(&expected), bounds.losses, false);
            let state = engine.state().unwrap();
            let b = check("parameters", &state.parameters, &parameters, bounds.parameters, false);
            println!("{}: losses {a:.1e}, parameters {b:.1e}", isa.name());
            assert_eq!(state.step, 100);
            let correct = |metrics: &[fused_lstm::engine::StepMetrics]| metrics.iter().map(|m| m.correct).sum::<u32>();
            assert!(correct(&got).abs_diff(correct(&expected)) <= 2, "the same sequences are classified right");
            assert!(got[99].loss < got[0].loss, "it learns");
        }
    }
}

/// Trains and scores with some threads; everything that can be seen of it.
fn run(isa: Isa, threads: usize, n: usize, grad_clip: Option<f32>) -> (State, Vec<u32>, Vec<f32>, Trace) {
    let dims = Dims { t: 6, i: 5, p: 9, h: 37, k: 10 };
    let data = dataset(dims, n);
    let adam = Adam { grad_clip, ..Adam::default() };
    let mut engine = cpu(Model::new(dims), adam, &data, threads, isa);
    let rows: Vec<u32> = (0..5 * n as u32).map(|k| k % n as u32).collect();
    let metrics = engine.train_steps(&rows, n).unwrap();
    let scores = engine.evaluate(Split::Train, &rows[..n]).unwrap();
    let mut seen = scores.loss;
    seen.extend(metrics.iter().map(|m| m.loss));
    (engine.state().unwrap(), scores.predicted, seen, engine.trace(&data.train).unwrap())
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for isa in all() {
        for (n, grad_clip) in [(1, None), (100, Some(0.01)), (700, None)] {
            let one = run(isa, 1, n, grad_clip);
            for threads in [1, 2, 3, 8] {
                assert!(run(isa, threads, n, grad_clip) == one, "{} {threads} threads, batch {n}", isa.name());
            }
        }
    }
}

#[test]
fn another_state_takes_the_place_of_the_last() {
    let dims = Dims { t: 2, i: 3, p: 4, h: 5, k: 6 };
    let data = dataset(dims, 8);
    let mut engine = cpu(Model::new(dims), Adam::default(), &data, 1, Isa::best());
    let before = engine.predict(&data.train).unwrap();
    engine.set_state(&State::new(init::parameters(&Model::new(dims), Init::Tutorial, 4))).unwrap();
    assert_ne!(engine.predict(&data.train).unwrap(), before);
    engine.set_state(&start(dims)).unwrap();
    assert_eq!(engine.predict(&data.train).unwrap(), before);
    engine.train_steps(&[0, 1, 2], 3).unwrap();
    assert_ne!(engine.predict(&data.train).unwrap(), before, "an update is seen");
}

#[test]
fn a_state_comes_back_as_it_went_in() {
    let dims = Dims { t: 2, i: 3, p: 4, h: 5, k: 6 };
    let mut state = start(dims);
    state.m.iter_mut().zip(&mut state.v).enumerate().for_each(|(k, (m, v))| (*m, *v) = (k as f32, 1.0 / k as f32));
    state.step = 77;
    let mut engine = cpu(Model::new(dims), Adam::default(), &dataset(dims, 4), 1, Isa::best());
    engine.set_state(&state).unwrap();
    assert_eq!(engine.state().unwrap(), state);
}
