//! The kernels that run all time steps in one launch with the recurrent products in TF32, on the emulator, which checks every access of
//! theirs on the way: against the reference with the same operands rounded, closely, and against the plain one in f64, within the
//! bounds of the class.
//!
//! What runs is the kept PTX of some variants (`fused_lstm::cuda::kept_variants`), so that no compiler is needed.

mod support;

use fused_lstm::cuda::device::Limits;
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::plan::Family;
use fused_lstm::cuda::tf32_variant::Tf32Variant;
use fused_lstm::cuda::{CudaEngine, kept, kept_variants};
use fused_lstm::data::{Dataset, Split, synthetic};
use fused_lstm::engine::{Engine, Model};
use fused_lstm::fixture::Fixture;
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::Adam;
use fused_lstm::precision::Precision;
use fused_lstm::reference::ReferenceEngine;
use fused_lstm::shape::Dims;
use ptx_emulator::Options;
use std::path::Path;
use std::sync::Arc;
use support::models::{check, check_trace, dataset, start, worse};
use support::sequence::{Pass, pass};

/// Largest error of each tensor relative to its largest value, against the reference with rounded operands: room for an h or a da
/// that is rounded the other way here and there. In brackets the worst seen.
mod bound {
    /// Logits, h and c after the last step, loss of each sequence, probabilities (4e-6).
    pub const OUTPUT: f64 = 4e-5;
    /// Gradient and input gradient (5e-6).
    pub const GRADIENT: f64 = 5e-5;
    /// Losses of 100 training steps (4e-5).
    pub const LOSSES: f64 = 4e-4;
}

/// Bounds of the class of operands in TF32, against the plain reference; likewise.
mod class {
    /// (1.3e-4)
    pub const OUTPUT: f64 = 1e-3;
    /// (1.0e-3)
    pub const GRADIENT: f64 = 4e-3;
    /// (8e-5)
    pub const LOSSES: f64 = 8e-4;
}

fn emulated(seed: u64) -> Emulated {
    Emulated::new(kept::ptx(), Options { seed, ..Options::default() }).expect("the emulator runs the kernels")
}

fn engine(model: Model, adam: Adam, data: Arc<Dataset>, seed: u64) -> CudaEngine<Emulated> {
    let mut engine = CudaEngine::with_precision(emulated(seed), model, adam, data, Precision::Tf32).unwrap();
    engine.set_state(&start(model.dims)).unwrap();
    engine
}

fn reference(model: Model, adam: Adam, data: Arc<Dataset>, precision: Precision) -> ReferenceEngine<f64> {
    let plain = ReferenceEngine::new(model, adam, data);
    let mut engine = if precision == Precision::Tf32 { plain.rounding_to_tf32() } else { plain };
    engine.set_state(&start(model.dims)).unwrap();
    engine
}

/// B, T, I, P, H, K
const SIZES: [[usize; 6]; 10] = [
    [1, 1, 1, 1, 1, 2],
    [7, 5, 7, 16, 16, 10],
    [9, 5, 28, 31, 31, 2],
    [8, 28, 1, 33, 33, 10],
    [9, 2, 28, 7, 64, 10],
    [3, 100, 1, 8, 31, 3],
    [12, 3, 2, 2, 5, 4],
    [17, 5, 7, 24, 48, 33],
    [1, 5, 7, 16, 128, 10],
    [9, 2, 28, 40, 115, 10],
];

#[test]
fn a_batch_at_ragged_sizes() {
    let mut worst = [[0.0f64; 2]; 2];
    for [n, t, i, p, h, k] in SIZES {
        let dims = Dims { t, i, p, h, k };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        let data = dataset(dims, n);
        let mut engine = engine(model, Adam::default(), data.clone(), 0);
        let got = engine.trace(&data.train).unwrap();
        let probabilities = engine.predict(&data.train).unwrap();
        let plan = engine.plan().unwrap();
        assert!(matches!(plan.family, Family::Tf32(_)), "{}", plan.reason);
        assert_eq!(engine.precision(), Precision::Tf32);
        for (worst, (precision, [output_bound, gradient_bound])) in worst.iter_mut().zip([
            (Precision::Tf32, [bound::OUTPUT, bound::GRADIENT]),
            (Precision::F32, [class::OUTPUT, class::GRADIENT]),
        ]) {
            let mut reference = reference(model, Adam::default(), data.clone(), precision);
            let expected = reference.trace(&data.train).unwrap();
            let what = format!("B {n} {dims:?} against {precision}");
            let bounds = [output_bound, gradient_bound];
            *worst = worse(*worst, check_trace(&what, &model, &data.train, &got, &expected, bounds));
            let expected = reference.predict(&data.train).unwrap();
            check(&format!("{what}: probabilities"), &probabilities, &expected, output_bound, false);
        }
    }
    let [[output, gradient], [plain_output, plain_gradient]] = worst;
    println!("worst errors against rounded operands: outputs {output:.1e}, gradients {gradient:.1e}");
    println!("against plain ones: outputs {plain_output:.1e}, gradients {plain_gradient:.1e}");
}

/// Clusters, groups, padding, places in shared memory and schedules.
#[test]
fn every_way_to_share_the_work_gives_the_same_bits() {
    let variants: Vec<Tf32Variant> = kept_variants::tf32().filter(|variant| variant.units >= 20).collect();
    assert!(variants.iter().any(|variant| variant.cluster > 2) && variants.iter().any(|variant| variant.groups == 2));
    for t in [1, 5] {
        let dims = Dims { t, i: 3, p: 7, h: 20, k: 4 };
        let expected = pass(emulated(0), variants[0], dims, 11).unwrap();
        let Pass { logits, h_last, c_last, scored, .. } = &expected;
        assert!([logits, h_last, c_last] == scored.each_ref(), "training and scoring");
        for (n, &variant) in variants.iter().enumerate() {
            assert!(pass(emulated(3 + n as u64), variant, dims, 11).unwrap() == expected, "{variant:?}, {t} steps");
        }
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let run = |seed| {
        let dims = Dims { t: 3, i: 5, p: 9, h: 37, k: 10 };
        let data = dataset(dims, 11);
        let mut engine = engine(Model::new(dims), Adam::default(), data.clone(), seed);
        let rows: Vec<u32> = (0..33).map(|k| k % 11).collect();
        let metrics = engine.train_steps(&rows, 11).unwrap();
        (engine.state().unwrap(), metrics, engine.trace(&data.train).unwrap())
    };
    let plain = run(0);
    for seed in [1, 7] {
        assert!(run(seed) == plain, "schedule {seed}");
    }
}

/// Losses of 100 steps of the tutorial's width, near both references all the way.
#[test]
fn a_hundred_steps_follow_the_reference() {
    let dims = Dims { t: 7, i: 5, p: 6, h: 128, k: 10 };
    let model = Model::new(dims);
    let (data, batch, steps) = (dataset(dims, 64), 16, 100);
    let adam = Adam { learning_rate: 0.003, ..Adam::default() };
    let rows: Vec<u32> = (0..steps * batch).map(|k| (k * 37 % 64) as u32).collect();
    let losses = |engine: &mut dyn Engine| -> Vec<f32> {
        engine.train_steps(&rows, batch).unwrap().iter().map(|metrics| metrics.loss).collect()
    };
    let got = losses(&mut engine(model, adam, data.clone(), 0));
    for (precision, bound) in [(Precision::Tf32, bound::LOSSES), (Precision::F32, class::LOSSES)] {
        let expected = losses(&mut reference(model, adam, data.clone(), precision));
        let error = check("losses", &got, &expected, bound, false);
        println!("losses of {steps} steps against operands in {precision}: {error:.1e}");
    }
    assert!(got[steps - 1] < got[0], "it learns");
}

/// The fixtures of `tests/golden` whose sizes are among the kept ones, within the bounds of the class.
#[test]
fn golden_cases() {
    for case in ["odd_small", "zero_x", "h64"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{case}.safetensors"));
        let fixture = Fixture::read(&path).unwrap();
        let (model, adam, data) = (fixture.model, fixture.adam, fixture.dataset());
        let mut engine = CudaEngine::with_precision(emulated(0), model, adam, data, Precision::Tf32).unwrap();
        let computed = fixture.compute(&mut engine).unwrap();
        assert!(matches!(engine.plan().unwrap().family, Family::Tf32(_)));
        let comparisons = fixture.compare(&computed, engine.precision()).unwrap();
        assert!(comparisons.len() >= 31, "{case}: only {} comparisons", comparisons.len());
        let bad: Vec<_> = comparisons.iter().filter(|c| !c.holds()).collect();
        assert!(bad.is_empty(), "{case}: {bad:#?}");
    }
}

/// As many as in f32, however many steps, in training and in scoring, which sees what training left.
#[test]
fn launches_do_not_grow_with_the_steps() {
    for t in [3, 9] {
        let dims = Dims { t, i: 3, p: 4, h: 5, k: 3 };
        let data = dataset(dims, 9);
        let mut engine = engine(Model::new(dims), Adam::default(), data.clone(), 0);
        engine.train_steps(&[0, 1, 2], 3).unwrap();
        let before = engine.device().launches();
        engine.train_steps(&[3, 4, 5, 6, 7, 8], 3).unwrap();
        assert_eq!(engine.device().launches() - before, 2 * 19);
        engine.evaluate(Split::Train, &[0]).unwrap();
        let before = engine.device().launches();
        let scores = engine.evaluate(Split::Train, &[0, 1]).unwrap();
        assert_eq!(engine.device().launches() - before, 5, "gathering, products, steps, head, loss");
        assert_eq!(scores.loss, engine.trace(&data.train).unwrap().loss[..2]);
    }
}

/// A GPU that is too old trains in f32, to the bit, and says why.
#[test]
fn what_the_kernels_cannot_do_is_done_in_f32_and_told() {
    let dims = Dims { t: 2, i: 3, p: 4, h: 5, k: 3 };
    let (model, data) = (Model::new(dims), dataset(dims, 9));
    let rows: Vec<u32> = (0..9).collect();
    let turing = Limits { capability: (7, 5), shared: 64 * 1024, multiprocessors: 40 };
    let [(old, reason, precision), (plain, ..)] = [Precision::Tf32, Precision::F32].map(|precision| {
        let mut device = emulated(0);
        device.set_limits(turing);
        let mut engine = CudaEngine::with_precision(device, model, Adam::default(), data.clone(), precision).unwrap();
        engine.set_state(&start(dims)).unwrap();
        let metrics = engine.train_steps(&rows, 3).unwrap();
        (metrics, engine.plan().unwrap().reason.clone(), engine.precision())
    });
    assert_eq!(old, plain);
    assert!(reason.contains("in f32: tf32 needs compute capability 8.0, and this GPU has 7.5"), "{reason}");
    assert_eq!(precision, Precision::F32);
}

/// What the rounding does to the accuracy of a training on digits is less than what another seed does.
#[test]
fn accuracy_is_that_of_f32_within_the_spread_of_seeds() {
    let data = Arc::new(synthetic::digits(0, 2_000, 0, 500));
    let (batch, steps, seeds) = (50, 120, 4);
    let dims = Dims { t: 28, i: 28, p: 16, h: 24, k: 10 };
    let model = Model::new(dims);
    let adam = Adam { learning_rate: 0.005, ..Adam::default() };
    let rows: Vec<u32> = (0..steps * batch).map(|k| (k * 37 % 2_000) as u32).collect();
    let accuracy = |rounded: bool, seed: u64| {
        let plain = ReferenceEngine::<f32>::new(model, adam, data.clone());
        let mut engine = if rounded { plain.rounding_to_tf32() } else { plain };
        let parameters = init::parameters(&model, Init::Xavier, seed);
        engine.set_state(&fused_lstm::engine::State::new(parameters)).unwrap();
        engine.train_steps(&rows, batch).unwrap();
        let all: Vec<u32> = (0..500).collect();
        let predicted = engine.evaluate(Split::Test, &all).unwrap().predicted;
        let right = predicted.iter().zip(data.test.labels()).filter(|(got, label)| got == label).count();
        right as f64 / 500.0
    };
    let [plain, rounded] = [false, true].map(|rounded| {
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..seeds).map(|seed| scope.spawn(move || accuracy(rounded, seed))).collect();
            runs.into_iter().map(|run| run.join().expect("a training")).collect::<Vec<f64>>()
        })
    });
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = plain.iter().map(|accuracy| (accuracy - mean(&plain)).powi(2)).sum();
    let spread = (squares / (plain.len() - 1) as f64).sqrt();
    println!("f32 {plain:?}, tf32 {rounded:?}, spread {spread:.4}");
    // A tenth would be chance.
    assert!(mean(&plain) > 0.5, "{plain:?}");
    assert!((mean(&rounded) - mean(&plain)).abs() <= spread, "f32 {plain:?}, tf32 {rounded:?}");
}
