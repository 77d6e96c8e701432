//! The persistent kernels in bf16 on the emulator, which checks every access of theirs on the way: against the reference with
//! the same operands rounded, closely, and against the plain one in f64, within the bounds of the class.
//!
//! What runs is the kept PTX of some variants (`fused_lstm::cuda::kept_variants`), so that no compiler is needed.

mod support;

use fused_lstm::cuda::device::{Device, Limits};
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::plan::Family;
use fused_lstm::cuda::variant::Division;
use fused_lstm::cuda::{CudaEngine, kept, kept_variants};
use fused_lstm::data::{Dataset, Sequences, Split, Values};
use fused_lstm::engine::{Engine, Model, Scores, State, StepMetrics, Trace};
use fused_lstm::fixture::{Fixture, relative_max};
use fused_lstm::optimizer::Adam;
use fused_lstm::precision::{Activations, Precision};
use fused_lstm::reference::{ReferenceEngine, Style};
use fused_lstm::shape::Dims;
use ptx_emulator::Options;
use std::path::Path;
use std::sync::Arc;
use support::models::{check, dataset, dataset_of, start};

/// Largest error of each tensor relative to its largest value, against the reference with rounded operands; in brackets the
/// worst seen.
mod bound {
    /// One bit of an h that is rounded the other way is in it (2e-6).
    pub const LOSS: f64 = 2e-5;
    /// Likewise (2e-4).
    pub const OUTPUT: f64 = 2e-3;
    /// Gates and cells are saved in 11 bits, and then da is rounded the other way here and there (1.1e-2).
    pub const GRADIENT: f64 = 2e-2;
    /// Adam's m and v, of gradients that two ways of adding in f32 give (1.3e-6).
    pub const UPDATE: f64 = 1.5e-5;
    /// Losses of 25 training steps (6e-5).
    pub const LOSSES: f64 = 6e-4;
    /// Losses of 100 training steps (2.3e-4).
    pub const HUNDRED_LOSSES: f64 = 2e-3;
}

/// Bounds of the class of operands in bf16, against the plain reference.
mod class {
    pub const LOSS: f64 = 1e-2;
    pub const OUTPUT: f64 = 4e-2;
    pub const GRADIENT: f64 = 5e-2;
    pub const LOSSES: f64 = 2e-2;
    /// Update after one step, and after ten, in 2-norm.
    pub const AFTER_1: f64 = 0.3;
    pub const AFTER_10: f64 = 0.25;
    /// Share of parameters that are more than a tenth of a step away.
    pub const FAR: f64 = 0.35;
}

/// A device without clusters, unless a test asks for them.
fn emulated(seed: u64) -> Emulated {
    let made = Emulated::new(kept::ptx(), Options { seed, ..Options::default() });
    let mut device = made.expect("the emulator runs the kernels");
    device.set_limits(Limits { capability: (8, 0), shared: 227 * 1024, multiprocessors: 132 });
    device
}

/// A device whose variants with fast activations have a `tanh.approx` that is cut to 11 bits, as far off as the manual of PTX
/// allows; the emulator's own is exact to f32.
fn with_coarse_tanh() -> Emulated {
    let mut device = emulated(0);
    for variant in kept_variants::persistent().filter(|variant| variant.activations == Activations::Fast) {
        let mut text = String::new();
        for line in kept_variants::ptx(&variant.into()).unwrap().lines() {
            text += &format!("{line}\n");
            if let Some((result, _)) = line.trim().strip_prefix("tanh.approx.f32").and_then(|rest| rest.split_once(','))
            {
                let result = result.trim();
                text += &format!("mov.b32 %cut, {result};\nand.b32 %cut, %cut, 0xfffff000;\nmov.b32 {result}, %cut;\n");
            }
        }
        device.replace(variant, text.replace("\n{\n", "\n{\n.reg .b32 %cut;\n"));
    }
    device
}

fn engine(model: Model, adam: Adam, data: Arc<Dataset>, seed: u64) -> CudaEngine<Emulated> {
    let mut engine = CudaEngine::with_precision(emulated(seed), model, adam, data, Precision::Bf16).unwrap();
    engine.set_state(&start(model.dims)).unwrap();
    engine
}

fn reference(model: Model, adam: Adam, data: Arc<Dataset>, precision: Precision) -> ReferenceEngine<f64> {
    let plain = ReferenceEngine::new(model, adam, data);
    let mut engine = if precision == Precision::Bf16 { plain.rounding_to_bf16(Style::Persistent) } else { plain };
    engine.set_state(&start(model.dims)).unwrap();
    engine
}

/// B, T, I, P, H, K
const SIZES: [[usize; 6]; 13] = [
    [1, 1, 1, 1, 1, 2],
    [3, 2, 7, 16, 16, 10],
    [8, 5, 28, 31, 31, 2],
    [13, 28, 31, 33, 33, 10],
    [16, 2, 31, 9, 33, 33],
    [17, 5, 28, 64, 64, 10],
    [3, 5, 28, 40, 115, 10],
    [13, 2, 28, 128, 128, 10],
    [1, 28, 28, 7, 128, 10],
    [9, 3, 20, 16, 128, 40],
    [16, 7, 29, 24, 20, 3],
    [33, 1, 28, 5, 60, 5],
    // Weights partly in shared memory.
    [3, 3, 20, 8, 180, 4],
];

/// Errors of a trace against another: loss, other outputs, gradients.
fn errors(got: &Trace, expected: &Trace, model: Model) -> [(f64, &'static str); 3] {
    let of = |got: &[f32], expected: &[f32]| {
        let [got, expected] = [got, expected].map(|v| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        assert_eq!(got.len(), expected.len());
        relative_max(&got, &expected)
    };
    let worst = |all: Vec<(f64, &'static str)>| {
        all.into_iter().fold((0.0, ""), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a })
    };
    let ranges = model.layout().ranges().into_vec();
    let names = ["w_in", "b_in", "w_x", "w_h", "b", "w_out", "b_out"];
    let gradients = names
        .into_iter()
        .zip(ranges)
        .map(|(name, range)| (of(&got.gradient[range.clone()], &expected.gradient[range]), name));
    [
        (of(&got.loss, &expected.loss), "loss"),
        worst(vec![
            (of(&got.logits, &expected.logits), "logits"),
            (of(&got.h_last, &expected.h_last), "h"),
            (of(&got.c_last, &expected.c_last), "c"),
        ]),
        worst(gradients.chain([(of(&got.dx, &expected.dx), "dx")]).collect()),
    ]
}

/// Fails if an error is over its bound.
#[track_caller]
fn hold(what: &str, errors: [(f64, &'static str); 3], bounds: [f64; 3]) {
    for ((error, tensor), bound) in errors.into_iter().zip(bounds) {
        assert!(error <= bound, "{what}, {tensor}: error {error:.1e} is over {bound:.0e}");
    }
}

fn text(errors: [(f64, &'static str); 3]) -> String {
    errors.map(|(error, tensor)| format!("{tensor} {error:.1e}")).join(", ")
}

#[test]
fn a_batch_at_ragged_sizes() {
    for [n, t, i, p, h, k] in SIZES {
        let dims = Dims { t, i, p, h, k };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        let data = dataset(dims, n);
        let [rounded, plain] = [Precision::Bf16, Precision::F32]
            .map(|precision| reference(model, Adam::default(), data.clone(), precision).trace(&data.train).unwrap());
        let mut engine = engine(model, Adam::default(), data.clone(), 0);
        let got = engine.trace(&data.train).unwrap();
        let plan = engine.plan().unwrap();
        assert!(matches!(plan.family, Family::Persistent(_)), "{}", plan.reason);
        let (close, far) = (errors(&got, &rounded, model), errors(&got, &plain, model));
        println!("B {n} {dims:?}: rounded {}; plain {}", text(close), text(far));
        hold(&format!("B {n} {dims:?}, rounded"), close, [bound::LOSS, bound::OUTPUT, bound::GRADIENT]);
        hold(&format!("B {n} {dims:?}, plain"), far, [class::LOSS, class::OUTPUT, class::GRADIENT]);
    }
}

/// Without clipping, gradients go into the update as they are made; with clipping, by way of the flat gradient that traces show.
/// A norm that nothing reaches changes nothing.
#[test]
fn both_ways_of_updating_do_the_same() {
    let mut worst = 0.0f64;
    for [n, t, i, p, h, k] in SIZES {
        let dims = Dims { t, i, p, h, k };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        let data = dataset(dims, n);
        let [(state, metrics), (expected, expected_metrics)] = [None, Some(1e9)].map(|grad_clip| {
            let mut engine = engine(model, Adam { grad_clip, ..Adam::default() }, data.clone(), 0);
            let rows: Vec<u32> = (0..n as u32).collect();
            let metrics = engine.train_steps(&rows, n).unwrap();
            (engine.state().unwrap(), metrics)
        });
        assert_eq!(metrics, expected_metrics, "before any update");
        for (tensor, range) in
            ["w_in", "b_in", "w_x", "w_h", "b", "w_out", "b_out"].iter().zip(model.layout().ranges().into_vec())
        {
            let zero = t == 1 && *tensor == "w_h";
            let what = |of: &str| format!("B {n} {dims:?} {of} of {tensor}");
            for (name, got, expected) in [("m", &state.m, &expected.m), ("v", &state.v, &expected.v)] {
                let error = check(&what(name), &got[range.clone()], &expected[range.clone()], bound::UPDATE, zero);
                worst = worst.max(error);
            }
        }
        // Where a gradient is as good as zero its sign may be another, and then Adam goes the other way by a step.
        let far = state.parameters.iter().zip(&expected.parameters).filter(|(a, b)| (**a - **b).abs() > 1e-5).count();
        assert!(far * 1000 <= state.parameters.len(), "{dims:?}: {far} of {}", state.parameters.len());
    }
    println!("worst error {worst:.1e}");
}

/// How training is cut into calls, and a state that goes out and comes back, change nothing.
#[test]
fn steps_do_not_depend_on_how_many_are_asked_for() {
    let dims = Dims { t: 2, i: 20, p: 7, h: 60, k: 3 };
    let model = Model::new(dims);
    let data = images(dims, 30);
    let rows: Vec<u32> = (0..70 * 4).map(|k| k * 7 % 30).collect();
    let mut at_once = engine(model, Adam::default(), data.clone(), 0);
    let all = at_once.train_steps(&rows, 4).unwrap();
    let mut in_parts = engine(model, Adam::default(), data.clone(), 0);
    let mut each = in_parts.train_steps(&rows[..40], 4).unwrap();
    each.extend(in_parts.train_steps(&rows[40..120], 4).unwrap());
    let state = in_parts.state().unwrap();
    let mut resumed = engine(model, Adam::default(), data, 0);
    resumed.train_steps(&rows[..8], 4).unwrap();
    resumed.set_state(&state).unwrap();
    each.extend(resumed.train_steps(&rows[120..], 4).unwrap());
    assert_eq!(all, each);
    assert_eq!(at_once.state().unwrap(), resumed.state().unwrap());
}

/// Data in bytes, as images are.
fn images(dims: Dims, n: usize) -> Arc<Dataset> {
    let bytes = (0..n * dims.sequence_len()).map(|k| (k * 37 % 256) as u8).collect();
    let labels = (0..n).map(|k| (k % dims.k) as u32).collect();
    dataset_of(Sequences::new(dims.t, dims.i, Values::U8 { bytes, scale: 1.0 / 255.0 }, labels), dims.k)
}

#[test]
fn bytes_are_operands_as_they_are() {
    let dims = Dims { t: 4, i: 28, p: 20, h: 64, k: 10 };
    let model = Model::new(dims);
    let data = images(dims, 11);
    let expected = reference(model, Adam::default(), data.clone(), Precision::Bf16).trace(&data.train).unwrap();
    let got = engine(model, Adam::default(), data.clone(), 0).trace(&data.train).unwrap();
    let close = errors(&got, &expected, model);
    println!("{}", text(close));
    hold("bytes", close, [bound::LOSS, bound::OUTPUT, bound::GRADIENT]);
}

/// The error of a training iteration's gradient by the precision of products and the form of activations, against f64: the table in
/// `docs/performance.md`.
#[test]
fn gradients_by_precision_and_activations() {
    let dims = Dims { t: 28, i: 28, p: 32, h: 128, k: 10 };
    let model = Model::new(dims);
    let data = images(dims, 8);
    let expected = reference(model, Adam::default(), data.clone(), Precision::F32).trace(&data.train).unwrap();
    for (precision, activations, bounds) in [
        (Precision::F32, Activations::Accurate, [1e-6, 4e-6, 2e-5]),
        (Precision::Tf32, Activations::Accurate, [1e-4, 1e-3, 2e-3]),
        (Precision::Bf16, Activations::Accurate, [class::LOSS, class::OUTPUT, class::GRADIENT]),
        (Precision::Bf16, Activations::Fast, [class::LOSS, class::OUTPUT, class::GRADIENT]),
    ] {
        let mut device = if activations == Activations::Fast { with_coarse_tanh() } else { emulated(0) };
        if precision == Precision::Tf32 {
            // The kept variant of these sizes is of a cluster.
            device.set_limits(Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: 132 });
        }
        let made = CudaEngine::with_precision(device, model, Adam::default(), data.clone(), precision).unwrap();
        let mut engine = made.with_activations(activations);
        engine.set_state(&start(dims)).unwrap();
        let errors = errors(&engine.trace(&data.train).unwrap(), &expected, model);
        println!("{precision} {activations:?}: {}", text(errors));
        hold(&format!("{precision} {activations:?}"), errors, bounds);
    }
}

/// Scores and probabilities are of the same products as training.
#[test]
fn forward_alone_at_ragged_sizes() {
    for [n, t, i, p, h, k] in SIZES {
        let dims = Dims { t, i, p, h, k };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        let data = dataset(dims, n);
        let rows: Vec<u32> = (0..n as u32).rev().collect();
        let mut engine = engine(model, Adam::default(), data.clone(), 0);
        let mut reference = reference(model, Adam::default(), data.clone(), Precision::Bf16);
        let [got, expected] = [&mut engine as &mut dyn Engine, &mut reference].map(|engine| {
            let scores = engine.evaluate(Split::Train, &rows).unwrap();
            (scores, engine.predict(&data.train).unwrap())
        });
        let what = |of: &str| format!("B {n} {dims:?} {of}");
        check(&what("loss"), &got.0.loss, &expected.0.loss, bound::LOSS, false);
        check(&what("probabilities"), &got.1, &expected.1, bound::OUTPUT, false);
        // What training left of its last batch is what scoring finds of it.
        let trace = engine.trace(&data.train).unwrap();
        let in_order: Vec<u32> = (0..n as u32).collect();
        assert_eq!(engine.evaluate(Split::Train, &in_order).unwrap().loss, trace.loss, "{dims:?}");
        assert_eq!(engine.precision(), Precision::Bf16);
    }
}

/// Parameters that change, and bytes of another scale, are new operands.
#[test]
fn forward_alone_packs_what_has_changed() {
    let dims = Dims { t: 2, i: 20, p: 7, h: 60, k: 3 };
    let model = Model::new(dims);
    let data = images(dims, 9);
    let Values::U8 { bytes, .. } = data.train.values() else { unreachable!("images are bytes") };
    let coarse = Values::U8 { bytes: bytes.clone(), scale: 1.0 / 16.0 };
    let coarse = Sequences::new(dims.t, dims.i, coarse, data.train.labels().to_vec());
    let rows: Vec<u32> = (0..9).collect();
    let mut engine = engine(model, Adam { learning_rate: 0.05, ..Adam::default() }, data.clone(), 0);
    let mut reference =
        reference(model, Adam { learning_rate: 0.05, ..Adam::default() }, data.clone(), Precision::Bf16);
    let seen = [&mut engine as &mut dyn Engine, &mut reference].map(|engine| {
        let mut seen = engine.predict(&data.train).unwrap();
        seen.extend(engine.predict(&coarse).unwrap());
        engine.train_steps(&rows, 9).unwrap();
        seen.extend(engine.predict(&data.train).unwrap());
        seen.extend(engine.evaluate(Split::Train, &rows).unwrap().loss);
        engine.set_state(&start(dims)).unwrap();
        seen.extend(engine.predict(&data.train).unwrap());
        seen
    });
    check("probabilities and losses", &seen[0], &seen[1], 10.0 * bound::OUTPUT, false);
}

/// Divisions that are kept of 64 units; of 128 there is one, whose warps have one group of units, and in one block two.
const DIVISIONS: [[usize; 2]; 2] = [[4, 1], [2, 4]];

/// Everything that a division shows of two training steps, of a trace and of scores.
fn divided(division: Division, seed: u64, [n, t, h]: [usize; 3]) -> (State, Vec<f32>, Trace, Scores, Vec<f32>) {
    let dims = Dims { t, i: 28, p: 9, h, k: 10 };
    let model = Model { forget_bias: 0.7, ..Model::new(dims) };
    let data = images(dims, n);
    let mut device = emulated(seed);
    device.set_limits(Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: 132 });
    let made = CudaEngine::with_precision(device, model, Adam::default(), data.clone(), Precision::Bf16).unwrap();
    let mut engine = made.with_division(division);
    engine.set_state(&start(dims)).unwrap();
    let rows: Vec<u32> = (0..2 * n as u32).map(|k| k % n as u32).collect();
    let seen = losses(&engine.train_steps(&rows, n).unwrap());
    let trace = engine.trace(&data.train).unwrap();
    let Family::Persistent(variant) = engine.plan().unwrap().family else { panic!("{:?}", engine.plan()) };
    assert_eq!(variant.division, division);
    let scores = engine.evaluate(Split::Train, &rows[..n]).unwrap();
    (engine.state().unwrap(), seen, trace, scores, engine.predict(&data.train).unwrap())
}

/// Tiles of a block, blocks of a cluster and groups of a warp change no bit, nor does the schedule; with tiles, rows and units left over.
#[test]
fn every_division_gives_the_same_bits() {
    for (sizes, divisions) in
        [([45, 3, 60], &DIVISIONS[..]), ([9, 1, 60], &DIVISIONS), ([3, 5, 60], &DIVISIONS), ([9, 3, 115], &[[1, 4]])]
    {
        let plain = divided(Division::ONE, 0, sizes);
        for &[tiles, cluster] in divisions {
            for seed in [0, 12345] {
                let same = divided(Division { tiles, cluster }, seed, sizes) == plain;
                assert!(same, "{sizes:?}, {tiles} {cluster}, schedule {seed}");
            }
        }
    }
}

/// On newer devices launches may start before those before them have ended, and the emulator sees that they wait. 21 steps are replays
/// of 16, 4 and 1 iterations; clipping puts launches between that do not overlap.
#[test]
fn launches_that_overlap_change_no_bit() {
    let dims = Dims { t: 3, i: 5, p: 9, h: 13, k: 4 };
    for grad_clip in [None, Some(0.1)] {
        let run = |capability| {
            let mut device = emulated(0);
            device.set_limits(Limits { capability, ..device.limits().unwrap() });
            let adam = Adam { grad_clip, ..Adam::default() };
            let made = CudaEngine::with_precision(device, Model::new(dims), adam, dataset(dims, 20), Precision::Bf16);
            let mut engine = made.unwrap().with_division(Division::ONE);
            engine.set_state(&start(dims)).unwrap();
            let rows: Vec<u32> = (0..21 * 9).map(|k| k * 7 % 20).collect();
            let metrics = engine.train_steps(&rows, 9).unwrap();
            let trace = engine.trace(&dataset(dims, 20).train).unwrap();
            (metrics, engine.state().unwrap(), trace.gradient)
        };
        assert!(run((9, 0)) == run((8, 0)), "{grad_clip:?}");
    }
}

fn losses(metrics: &[StepMetrics]) -> Vec<f32> {
    metrics.iter().map(|m| m.loss).collect()
}

#[test]
fn training_follows_the_reference() {
    let dims = Dims { t: 7, i: 28, p: 24, h: 60, k: 5 };
    let model = Model::new(dims);
    let plain = Adam { learning_rate: 0.003, ..Adam::default() };
    let (clipping, decaying) = (Adam { grad_clip: Some(0.1), ..plain }, Adam { weight_decay: 10.0, ..plain });
    for (data, adam) in [(images(dims, 60), plain), (dataset(dims, 60), clipping), (images(dims, 60), decaying)] {
        let (batch, steps) = (20, 25);
        let rows: Vec<u32> = (0..steps * batch).map(|k| (k * 37 % 60) as u32).collect();
        let mut engine = engine(model, adam, data.clone(), 0);
        let got = engine.train_steps(&rows, batch).unwrap();
        for (precision, bound) in [(Precision::Bf16, bound::LOSSES), (Precision::F32, class::LOSSES)] {
            let mut reference = reference(model, adam, data.clone(), precision);
            let expected = reference.train_steps(&rows, batch).unwrap();
            let error = check("losses", &losses(&got), &losses(&expected), bound, false);
            println!("losses of {steps} steps against operands in {precision}: {error:.1e}");
            let correct = |metrics: &[StepMetrics]| metrics.iter().map(|m| m.correct).sum::<u32>();
            assert!(correct(&got).abs_diff(correct(&expected)) <= 5, "the same sequences are classified right");
        }
        assert_eq!(engine.state().unwrap().step, steps as u64);
        assert!(got[steps - 1].loss < got[0].loss, "it learns");
    }
}

/// Losses of 100 steps of the tutorial's width, near the reference all the way.
#[test]
fn a_hundred_steps_follow_the_reference() {
    let dims = Dims { t: 7, i: 28, p: 16, h: 128, k: 10 };
    let model = Model::new(dims);
    let (data, batch, steps) = (images(dims, 64), 16, 100);
    let adam = Adam { learning_rate: 0.003, ..Adam::default() };
    let rows: Vec<u32> = (0..steps * batch).map(|k| (k * 37 % 64) as u32).collect();
    let got = losses(&engine(model, adam, data.clone(), 0).train_steps(&rows, batch).unwrap());
    let mut reference = reference(model, adam, data, Precision::Bf16);
    let expected = losses(&reference.train_steps(&rows, batch).unwrap());
    let error = check("losses", &got, &expected, bound::HUNDRED_LOSSES, false);
    println!("losses of {steps} steps: {error:.1e}");
}

/// The fixtures of `tests/golden` whose sizes are among the kept ones, within the bounds of the class.
#[test]
fn golden_cases() {
    for case in ["odd_small", "h64", "zero_x"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{case}.safetensors"));
        let fixture = Fixture::read(&path).unwrap();
        let (model, adam, data) = (fixture.model, fixture.adam, fixture.dataset());
        let mut engine = CudaEngine::with_precision(emulated(0), model, adam, data, Precision::Bf16).unwrap();
        let computed = fixture.compute(&mut engine).unwrap();
        assert!(matches!(engine.plan().unwrap().family, Family::Persistent(_)));
        let comparisons = fixture.compare(&computed, Precision::Bf16).unwrap();
        assert!(comparisons.len() >= 31, "{case}: only {} comparisons", comparisons.len());
        for comparison in comparisons {
            let bound = match (comparison.name.as_str(), comparison.measure) {
                ("out.loss", _) => class::LOSS,
                ("out.losses10", _) => class::LOSSES,
                // One sequence in twelve, on the edge between two classes.
                ("out.correct", _) => 0.1,
                (name, _) if name.starts_with("out.") => class::OUTPUT,
                (name, _) if name.starts_with("grad.") => class::GRADIENT,
                (_, "far") => class::FAR,
                (name, _) if name.starts_with("after10.") => class::AFTER_10,
                _ => class::AFTER_1,
            };
            assert!(comparison.error <= bound, "{case}: {comparison:?} is over {bound:.0e}");
        }
    }
}

/// Gates come from their biases alone, so that cells are sigmoid or tanh of a number. Largest errors over the range of each.
#[test]
fn activations_are_as_accurate_as_they_say() {
    const UNITS: usize = 128;
    let dims = Dims { t: 1, i: 20, p: 1, h: UNITS, k: 2 };
    let model = Model { forget_bias: 0.0, ..Model::new(dims) };
    let data = dataset(dims, 1);
    let numbers: Vec<f32> = (-320..320).map(|n| n as f32 / 16.0).chain([-1e3; 64]).chain([1e3; 64]).collect();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for (activations, bound) in [(Activations::Accurate, 3e-7), (Activations::Fast, 5e-4)] {
        let device = if activations == Activations::Fast { with_coarse_tanh() } else { emulated(0) };
        let made = CudaEngine::with_precision(device, model, Adam::default(), data.clone(), Precision::Bf16).unwrap();
        let mut engine = made.with_activations(activations);
        let mut worst = [0.0f64; 4];
        let mut see = |which: usize, got: f64, expected: f64| worst[which] = worst[which].max((got - expected).abs());
        for numbers in numbers.chunks(UNITS) {
            for gate in [0, 2, 3] {
                // All other gates are open.
                let mut parameters = vec![0.0; model.layout().len()];
                let bias = &mut parameters[model.layout().ranges().cells[0].b.clone()];
                bias.fill(1e3);
                bias[gate * UNITS..][..UNITS].copy_from_slice(numbers);
                engine.set_state(&State::new(parameters)).unwrap();
                let trace = engine.trace(&data.train).unwrap();
                for (at, &x) in numbers.iter().enumerate() {
                    let [x, c, h] = [x, trace.c_last[at], trace.h_last[at]].map(f64::from);
                    match gate {
                        0 => see(0, c, sigmoid(x)),
                        2 => see(1, c, x.tanh()),
                        _ => see(2, h, sigmoid(x) * 1f64.tanh()),
                    }
                    if gate == 2 {
                        see(3, h, c.tanh());
                    }
                }
            }
        }
        println!("{activations:?}: {worst:?}");
        assert!(worst.iter().all(|error| *error <= bound), "{activations:?}: {worst:?}");
    }
}

/// Launches of one training step, after the first.
fn launches_of_a_step(grad_clip: Option<f32>) -> u64 {
    let dims = Dims { t: 9, i: 3, p: 4, h: 5, k: 3 };
    let adam = Adam { grad_clip, ..Adam::default() };
    let mut engine = engine(Model::new(dims), adam, dataset(dims, 9), 0);
    engine.train_steps(&[0, 1, 2], 3).unwrap();
    let before = engine.device().launches();
    engine.train_steps(&[3, 4, 5, 6, 7, 8], 3).unwrap();
    (engine.device().launches() - before) / 2
}

#[test]
fn an_iteration_is_four_launches() {
    assert_eq!(launches_of_a_step(None), 4);
    assert_eq!(launches_of_a_step(Some(1.0)), 13);
}

/// Everything that can be seen of some training, under a schedule of blocks and warps.
fn run(seed: u64, n: usize) -> (State, Vec<f32>, Trace) {
    let dims = Dims { t: 3, i: 20, p: 9, h: 60, k: 10 };
    let data = dataset(dims, n);
    let mut engine = engine(Model::new(dims), Adam::default(), data.clone(), seed);
    let rows: Vec<u32> = (0..2 * n as u32).map(|k| k % n as u32).collect();
    let seen = losses(&engine.train_steps(&rows, n).unwrap());
    (engine.state().unwrap(), seen, engine.trace(&data.train).unwrap())
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let plain = run(0, 11);
    for seed in [1, 12345] {
        assert!(run(seed, 11) == plain, "schedule {seed}");
    }
}

#[test]
fn what_the_kernels_cannot_do_is_done_in_f32_and_told() {
    let dims = Dims { t: 2, i: 3, p: 4, h: 5, k: 3 };
    let model = Model::new(dims);
    let data = dataset(dims, 9);
    let mut device = emulated(0);
    device.set_limits(Limits { capability: (7, 5), shared: 64 * 1024, multiprocessors: 40 });
    let mut old = CudaEngine::with_precision(device, model, Adam::default(), data.clone(), Precision::Bf16).unwrap();
    let mut f32 = CudaEngine::new(emulated(0), model, Adam::default(), data.clone()).unwrap();
    let rows: Vec<u32> = (0..9).collect();
    for engine in [&mut old, &mut f32] {
        engine.set_state(&start(dims)).unwrap();
        assert_eq!(engine.plan(), None);
    }
    assert_eq!(old.train_steps(&rows, 3).unwrap(), f32.train_steps(&rows, 3).unwrap());
    let reason = &old.plan().unwrap().reason;
    assert!(reason.contains("in f32: bf16 needs compute capability 8.0"), "{reason}");
    assert_eq!(old.precision(), Precision::F32);
}
