//! Models, data and comparisons for checks of one engine against another.

use fused_lstm::data::{Dataset, Sequences, Values};
use fused_lstm::dropout::Dropout;
use fused_lstm::engine::{State, Trace};
use fused_lstm::fixture::relative_max;
use fused_lstm::init::{self, Init};
use fused_lstm::model::{InputLayer, Model, Pool};
use fused_lstm::shape::Dims;
use std::sync::Arc;

/// B, T, I, P, H, K: every value of the lists in the project's test plan, and sizes around the engines' own edges
/// (vectors of 8 and 16, chunks of 16 rows, 16 groups, tiles of 32 and 64, blocks of 256).
pub const RAGGED: [[usize; 6]; 24] = [
    [1, 1, 1, 1, 1, 2],
    [3, 2, 7, 16, 16, 10],
    [8, 5, 28, 31, 31, 5],
    [13, 28, 1, 33, 33, 10],
    [64, 2, 28, 64, 64, 17],
    [65, 5, 7, 100, 100, 10],
    [128, 5, 28, 128, 128, 10],
    [130, 2, 28, 7, 256, 10],
    [3, 100, 1, 8, 31, 3],
    [13, 1, 28, 128, 100, 10],
    [1, 28, 28, 1, 128, 10],
    [16, 5, 7, 9, 8, 8],
    [17, 5, 7, 24, 24, 16],
    [15, 2, 28, 17, 48, 33],
    [300, 2, 7, 5, 16, 10],
    [257, 1, 1, 3, 1, 2],
    [513, 3, 2, 2, 5, 4],
    [33, 4, 3, 40, 15, 40],
    [8, 3, 31, 2, 17, 2],
    [2, 9, 32, 32, 32, 64],
    [1, 2, 1, 1, 7, 100],
    [64, 1, 7, 256, 33, 10],
    [31, 100, 7, 16, 1, 10],
    [130, 28, 28, 64, 64, 10],
];

/// A number from -1 to 1, two of five zero, for each `k`; made without a random generator.
pub fn number(k: usize) -> f32 {
    let mixed = (k as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    if mixed % 5 < 2 { 0.0 } else { (mixed % 2001) as f32 / 1000.0 - 1.0 }
}

pub fn sequences(dims: Dims, n: usize) -> Sequences {
    let values = (0..n * dims.sequence_len()).map(number).collect();
    Sequences::new(dims.t, dims.i, Values::F32(values), (0..n).map(|k| (k * 7 % dims.k) as u32).collect())
}

/// The same with lengths, and NaN in the padding; the first sequence is as short and the last as long as can be.
pub fn padded(dims: Dims, n: usize) -> Sequences {
    let length = |k: usize| if k + 1 == n { dims.t } else { 1 + k * 7 % dims.t };
    let mut values: Vec<f32> = (0..n * dims.sequence_len()).map(number).collect();
    for (k, values) in values.chunks_exact_mut(dims.sequence_len()).enumerate() {
        values[length(k) * dims.i..].fill(f32::NAN);
    }
    let labels = sequences(dims, n).labels().to_vec();
    let lengths = (0..n).map(|k| length(k) as u32).collect();
    Sequences::new(dims.t, dims.i, Values::F32(values), labels).with_lengths(lengths)
}

/// Models beyond the tutorial's with a batch of sequences each. Any two values of any two options are together in one of
/// them.
pub fn larger() -> Vec<(Model, Sequences)> {
    let dropout = |rate| Some(Dropout { rate, seed: 11 });
    let (linear, none) = (InputLayer::Linear, InputLayer::None);
    // B, T, I, P, H, K; layers, directions, input layer, pool, dropout, label smoothing, lengths.
    let cases = [
        ([19, 5, 7, 12, 21, 10], (1, false, none, Pool::Last, None, 0.0, true)),
        ([33, 3, 4, 9, 16, 3], (1, true, linear, Pool::Mean, None, 0.2, false)),
        ([5, 9, 3, 3, 33, 5], (1, true, none, Pool::Max, None, 0.2, true)),
        ([16, 4, 28, 31, 8, 10], (1, false, linear, Pool::Max, None, 0.0, true)),
        ([65, 6, 5, 7, 17, 4], (2, true, linear, Pool::Last, dropout(0.4), 0.2, true)),
        ([7, 8, 2, 2, 40, 2], (2, false, none, Pool::Mean, dropout(0.4), 0.0, true)),
        ([40, 2, 9, 16, 31, 17], (2, false, linear, Pool::Max, dropout(0.4), 0.2, false)),
        ([1, 7, 1, 1, 1, 2], (2, true, none, Pool::Last, None, 0.0, false)),
        ([23, 5, 6, 6, 12, 7], (3, true, none, Pool::Mean, dropout(0.2), 0.2, true)),
        ([127, 3, 3, 20, 9, 10], (3, false, linear, Pool::Last, dropout(0.2), 0.0, false)),
        ([3, 12, 4, 5, 24, 6], (3, true, linear, Pool::Max, None, 0.0, true)),
        ([17, 1, 5, 5, 7, 3], (3, false, none, Pool::Mean, None, 0.2, false)),
        ([31, 4, 2, 3, 64, 4], (2, true, linear, Pool::Mean, None, 0.2, true)),
        ([12, 6, 16, 16, 16, 16], (3, true, none, Pool::Max, dropout(0.2), 0.0, false)),
        ([300, 3, 2, 4, 5, 4], (1, false, linear, Pool::Last, None, 0.0, true)),
    ];
    let case = |(sizes, options): ([usize; 6], _)| {
        let [n, t, i, p, h, k] = sizes;
        let (layers, bidirectional, input_layer, pool, dropout, label_smoothing, has_lengths) = options;
        let dims = Dims { t, i, p: if input_layer == InputLayer::None { i } else { p }, h, k };
        let plain = Model { forget_bias: 0.7, ..Model::new(dims) };
        let model = Model { layers, bidirectional, input_layer, pool, dropout, label_smoothing, ..plain };
        model.check().unwrap();
        (model, if has_lengths { padded(dims, n) } else { sequences(dims, n) })
    };
    cases.map(case).into()
}

pub fn dataset_of(train: Sequences, classes: usize) -> Arc<Dataset> {
    let (validation, test) = (train.slice(0, 0), train.slice(0, train.len() / 2));
    Arc::new(Dataset { description: String::new(), name: "made up", classes, train, validation, test, own: None })
}

pub fn dataset(dims: Dims, n: usize) -> Arc<Dataset> {
    dataset_of(sequences(dims, n), dims.k)
}

pub fn start(dims: Dims) -> State {
    start_of(&Model::new(dims))
}

pub fn start_of(model: &Model) -> State {
    State::new(init::parameters(model, Init::Xavier, 3))
}

/// The error of `got` relative to the largest expected value; fails if it is over `bound`.
pub fn check(what: &str, got: &[f32], expected: &[f32], bound: f64, zero_allowed: bool) -> f64 {
    let [got, expected] = [got, expected].map(|v| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    assert_eq!(got.len(), expected.len(), "{what}");
    assert!(expected.iter().all(|v| v.is_finite()), "{what}: the reference is not finite");
    assert!(zero_allowed || expected.iter().any(|&v| v != 0.0), "{what}: the reference is all zero");
    let error = relative_max(&got, &expected);
    assert!(error <= bound, "{what}: error {error:.1e} is over {bound:.0e}");
    if error > bound / 10.0 {
        println!("{what}: error {error:.1e}");
    }
    error
}

/// Checks all that an engine tells of a batch, each tensor as [`check`] does; gives the worst errors of outputs and of gradients.
/// The gradient by the padding of sequences with lengths must be zero.
pub fn check_trace(
    what: &str,
    model: &Model,
    sequences: &Sequences,
    got: &Trace,
    expected: &Trace,
    bounds: [f64; 2],
) -> [f64; 2] {
    let [output_bound, gradient_bound] = bounds;
    let (mut output, mut gradient) = (0.0f64, 0.0f64);
    for (tensor, got, expected) in [
        ("logits", &got.logits, &expected.logits),
        ("h", &got.h_last, &expected.h_last),
        ("c", &got.c_last, &expected.c_last),
        ("loss", &got.loss, &expected.loss),
    ] {
        output = output.max(check(&format!("{what}: {tensor}"), got, expected, output_bound, false));
    }
    let layout = model.layout();
    for (tensor, range) in layout.names().into_vec().iter().zip(layout.ranges().into_vec()) {
        let (got, expected) = (&got.gradient[range.clone()], &expected.gradient[range]);
        // With one step there is no h before it.
        let zero = model.dims.t == 1 && tensor.starts_with("w_h");
        gradient = gradient.max(check(&format!("{what}: {tensor}"), got, expected, gradient_bound, zero));
    }
    gradient = gradient.max(check(&format!("{what}: dx"), &got.dx, &expected.dx, gradient_bound, false));
    let length = model.dims.sequence_len();
    for (row, dx) in got.dx.chunks_exact(length).enumerate() {
        let padding = &dx[sequences.length(row) * model.dims.i..];
        assert!(padding.iter().all(|&d| d == 0.0), "{what}: padding of sequence {row}");
    }
    [output, gradient]
}

/// The larger ones of two pairs of errors.
pub fn worse(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0].max(b[0]), a[1].max(b[1])]
}
