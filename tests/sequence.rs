//! The kernels that run all time steps in one launch, in f32, on the emulator, which checks every access of theirs on the way:
//! against the reference in f64, and against themselves with the work shared out in other ways.
//!
//! What runs is the kept PTX of some variants (`fused_lstm::cuda::kept_variants`), so that no compiler is needed.

mod support;

use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::plan::Family;
use fused_lstm::cuda::sequence_variant::SequenceVariant;
use fused_lstm::cuda::{CudaEngine, kept, kept_variants};
use fused_lstm::data::{Dataset, Split};
use fused_lstm::engine::{Engine, Model, State};
use fused_lstm::fixture::Fixture;
use fused_lstm::optimizer::Adam;
use fused_lstm::reference::ReferenceEngine;
use fused_lstm::shape::Dims;
use ptx_emulator::Options;
use std::path::Path;
use std::sync::Arc;
use support::models::{check, check_trace, dataset, start, worse};
use support::sequence::{Pass, pass};

/// Largest error of each tensor relative to its largest value, as of the kernels of one step.
mod bound {
    /// Logits, h and c after the last step, loss of each sequence, probabilities.
    pub const OUTPUT: f64 = 4e-6;
    /// Gradient and input gradient.
    pub const GRADIENT: f64 = 2e-5;
    /// Losses of 100 training steps.
    pub const LOSSES: f64 = 3e-6;
    /// Parameters after 100 training steps.
    pub const PARAMETERS: f64 = 2e-5;
}

fn emulated(seed: u64) -> Emulated {
    Emulated::new(kept::ptx(), Options { seed, ..Options::default() }).expect("the emulator runs the kernels")
}

fn engine(model: Model, adam: Adam, data: Arc<Dataset>, seed: u64) -> CudaEngine<Emulated> {
    let mut engine = CudaEngine::new(emulated(seed), model, adam, data).unwrap();
    engine.set_state(&start(model.dims)).unwrap();
    engine
}

/// B, T, I, P, H, K
const SIZES: [[usize; 6]; 9] = [
    [1, 2, 1, 1, 1, 2],
    [3, 2, 7, 16, 16, 10],
    [13, 5, 28, 31, 31, 2],
    [8, 28, 1, 33, 33, 10],
    [9, 2, 28, 7, 64, 10],
    [3, 100, 1, 8, 31, 3],
    [12, 3, 2, 2, 5, 4],
    [17, 5, 7, 24, 48, 33],
    [5, 9, 7, 256, 60, 10],
];

#[test]
fn a_batch_at_ragged_sizes() {
    let mut worst = [0.0; 2];
    for [n, t, i, p, h, k] in SIZES {
        let dims = Dims { t, i, p, h, k };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        let data = dataset(dims, n);
        let mut reference = ReferenceEngine::<f64>::new(model, Adam::default(), data.clone());
        reference.set_state(&start(dims)).unwrap();
        let expected = reference.trace(&data.train).unwrap();
        let mut engine = engine(model, Adam::default(), data.clone(), 0);
        let got = engine.trace(&data.train).unwrap();
        let plan = engine.plan().unwrap();
        assert!(matches!(plan.family, Family::Sequence(_)), "{}", plan.reason);
        let what = format!("B {n} {dims:?}");
        let bounds = [bound::OUTPUT, bound::GRADIENT];
        worst = worse(worst, check_trace(&what, &model, &data.train, &got, &expected, bounds));
        let (got, expected) = (engine.predict(&data.train).unwrap(), reference.predict(&data.train).unwrap());
        check(&format!("{what}: probabilities"), &got, &expected, bound::OUTPUT, false);
    }
    println!("worst errors: outputs {:.1e}, gradients {:.1e}", worst[0], worst[1]);
}

/// Rows, lanes, clusters, padding, places in shared memory and schedules.
#[test]
fn every_way_to_share_the_work_gives_the_same_bits() {
    let variants: Vec<SequenceVariant> = kept_variants::sequence().filter(|variant| variant.units >= 20).collect();
    assert!(variants.iter().any(|variant| variant.cluster > 2) && variants.iter().any(|variant| variant.rows == 4));
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

#[test]
fn a_hundred_training_steps() {
    let dims = Dims { t: 7, i: 5, p: 12, h: 20, k: 4 };
    let model = Model::new(dims);
    let data = dataset(dims, 60);
    let (adam, steps) = (Adam { learning_rate: 0.003, ..Adam::default() }, 100);
    let rows: Vec<u32> = (0..steps * 20).map(|k| (k * 37 % 60) as u32).collect();
    let mut reference = ReferenceEngine::<f64>::new(model, adam, data.clone());
    reference.set_state(&start(dims)).unwrap();
    let expected = reference.train_steps(&rows, 20).unwrap();
    let mut engine = engine(model, adam, data, 0);
    let got = engine.train_steps(&rows, 20).unwrap();
    let losses = |metrics: &[fused_lstm::engine::StepMetrics]| metrics.iter().map(|m| m.loss).collect::<Vec<_>>();
    let a = check("losses", &losses(&got), &losses(&expected), bound::LOSSES, false);
    let (state, expected) = (engine.state().unwrap(), reference.state().unwrap());
    let b = check("parameters", &state.parameters, &expected.parameters, bound::PARAMETERS, false);
    println!("losses {a:.1e}, parameters {b:.1e}");
    assert!(got[steps - 1].loss < got[0].loss, "it learns");
}

#[test]
fn golden_cases() {
    for case in ["odd_small", "zero_x"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{case}.safetensors"));
        let fixture = Fixture::read(&path).unwrap();
        let mut engine = CudaEngine::new(emulated(0), fixture.model, fixture.adam, fixture.dataset()).unwrap();
        let computed = fixture.compute(&mut engine).unwrap();
        assert!(matches!(engine.plan().unwrap().family, Family::Sequence(_)));
        let comparisons = fixture.compare(&computed, engine.precision()).unwrap();
        assert!(comparisons.len() >= 31, "{case}: only {} comparisons", comparisons.len());
        let bad: Vec<_> = comparisons.iter().filter(|c| !c.holds()).collect();
        assert!(bad.is_empty(), "{case}: {bad:#?}");
    }
}

/// However many steps, in training and in scoring.
#[test]
fn launches_do_not_grow_with_the_steps() {
    for t in [3, 9] {
        let dims = Dims { t, i: 3, p: 4, h: 5, k: 3 };
        let mut engine = engine(Model::new(dims), Adam::default(), dataset(dims, 9), 0);
        engine.train_steps(&[0, 1, 2], 3).unwrap();
        let before = engine.device().launches();
        engine.train_steps(&[3, 4, 5, 6, 7, 8], 3).unwrap();
        assert_eq!(engine.device().launches() - before, 2 * 19);
        engine.evaluate(Split::Train, &[0]).unwrap();
        let before = engine.device().launches();
        engine.evaluate(Split::Train, &[0, 1]).unwrap();
        assert_eq!(engine.device().launches() - before, 5, "gathering, products, steps, head, loss");
    }
}

/// Batches of other sizes take other kernels, and scores and traces may come between.
#[test]
fn another_batch_takes_the_place_of_the_last() {
    let dims = Dims { t: 2, i: 3, p: 4, h: 5, k: 6 };
    let data = dataset(dims, 300);
    let model = Model::new(dims);
    let train = |looks: bool| -> State {
        let mut engine = engine(model, Adam::default(), data.clone(), 0);
        for batch in [3, 140, 3] {
            engine.train_steps(&(0..batch as u32).collect::<Vec<_>>(), batch).unwrap();
            if looks {
                engine.evaluate(Split::Train, &[0, 5]).unwrap();
                engine.trace(&data.train.slice(0, 150)).unwrap();
                engine.predict(&data.train).unwrap();
            }
        }
        engine.state().unwrap()
    };
    assert!(train(false) == train(true));
}
