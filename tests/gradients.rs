//! Central differences against the reference's gradients, for every parameter and every input.

use fused_lstm::data::{Sequences, Values};
use fused_lstm::dropout::Dropout;
use fused_lstm::init::{self, Init};
use fused_lstm::model::{InputLayer, Model, Pool};
use fused_lstm::reference::{Batch, forward_backward};
use fused_lstm::shape::Dims;

const EPSILON: f64 = 1e-5;
/// Largest error relative to the largest gradient; the worst seen is 2.6e-10.
const BOUND: f64 = 1e-6;

fn numbers(dims: Dims, n: usize) -> Vec<f32> {
    (0..n * dims.sequence_len()).map(|k| ((k * 7919 % 101) as f32 / 50.0) - 1.0).collect()
}

fn batch(dims: Dims, x: Vec<f32>, lengths: Option<Vec<u32>>) -> Batch<f64> {
    let n = x.len() / dims.sequence_len();
    let labels = (0..n).map(|k| (k * 3 % dims.k) as u32).collect();
    let sequences = Sequences::new(dims.t, dims.i, Values::F32(x), labels);
    let sequences = match lengths {
        Some(lengths) => sequences.with_lengths(lengths),
        None => sequences,
    };
    Batch::new(&sequences, &(0..n as u32).collect::<Vec<_>>())
}

fn check(model: &Model, n: usize, init: Init, lengths: Option<Vec<u32>>) {
    model.check().unwrap();
    let batch = batch(model.dims, numbers(model.dims, n), lengths);
    let parameters: Vec<f64> = init::parameters(model, init, 5).iter().map(|&p| p.into()).collect();
    let mask = model.dropout.map(|dropout| dropout.mask(3));
    let loss = |parameters: &[f64], x: &[f64]| {
        let batch = Batch { x: x.to_vec(), lengths: batch.lengths.clone(), labels: batch.labels.clone(), t: batch.t };
        forward_backward(model, parameters, &batch, mask.as_ref()).loss.iter().sum::<f64>() / n as f64
    };
    let out = forward_backward(model, &parameters, &batch, mask.as_ref());
    compare("parameter", &parameters, &out.gradient, |p| loss(p, &batch.x));
    compare("input", &batch.x, &out.dx, |x| loss(&parameters, x));
    let per_step = batch.x.len() / (n * batch.t);
    for (row, &length) in batch.lengths.iter().enumerate() {
        let padding = &out.dx[(row * batch.t + length) * per_step..(row + 1) * batch.t * per_step];
        assert!(padding.iter().all(|&d| d == 0.0), "padding has no gradient");
    }
}

fn compare(what: &str, at: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    let largest = gradient.iter().fold(0.0f64, |a, g| a.max(g.abs()));
    assert!(largest > 1e-4 && largest.is_finite());
    let mut moved = at.to_vec();
    let mut worst = 0.0f64;
    for index in 0..at.len() {
        moved[index] = at[index] + EPSILON;
        let above = loss(&moved);
        moved[index] = at[index] - EPSILON;
        let below = loss(&moved);
        moved[index] = at[index];
        let error = ((above - below) / (2.0 * EPSILON) - gradient[index]).abs() / largest;
        assert!(error < BOUND, "{what} {index}: {error}");
        worst = worst.max(error);
    }
    println!("{what}: worst error {worst:.1e}");
}

#[test]
fn several_steps_and_unequal_sizes() {
    check(&Model::new(Dims { t: 5, i: 3, p: 7, h: 6, k: 4 }), 3, Init::Tutorial, None);
}

#[test]
fn one_of_everything() {
    let model = Model { forget_bias: 0.0, ..Model::new(Dims { t: 1, i: 1, p: 1, h: 1, k: 2 }) };
    check(&model, 1, Init::Tutorial, None);
}

#[test]
fn xavier_and_another_forget_bias() {
    let model = Model { forget_bias: -0.5, ..Model::new(Dims { t: 9, i: 2, p: 3, h: 5, k: 3 }) };
    check(&model, 2, Init::Xavier, None);
}

/// Any two values of any two options are together in one of these models.
#[test]
fn every_two_options_together() {
    let dims = Dims { t: 5, i: 3, p: 4, h: 3, k: 3 };
    let without = Dims { p: dims.i, ..dims };
    let (linear, none) = ((InputLayer::Linear, dims), (InputLayer::None, without));
    let dropout = |rate| Some(Dropout { rate, seed: 11 });
    // Layers, directions, input layer, pool, dropout, label smoothing, lengths.
    let models = [
        (1, false, none, Pool::Last, None, 0.0, true),
        (1, true, linear, Pool::Mean, None, 0.2, false),
        (1, true, none, Pool::Max, None, 0.2, true),
        (1, false, linear, Pool::Max, None, 0.0, true),
        (2, true, linear, Pool::Last, dropout(0.4), 0.2, true),
        (2, false, none, Pool::Mean, dropout(0.4), 0.0, true),
        (2, false, linear, Pool::Max, dropout(0.4), 0.2, false),
        (2, true, none, Pool::Last, None, 0.0, false),
        (3, true, none, Pool::Mean, dropout(0.2), 0.2, true),
        (3, false, linear, Pool::Last, dropout(0.2), 0.0, false),
        (3, true, linear, Pool::Max, None, 0.0, true),
        (3, false, none, Pool::Mean, None, 0.2, false),
        (2, true, linear, Pool::Mean, None, 0.2, true),
        (3, true, none, Pool::Max, dropout(0.2), 0.0, false),
    ];
    for (layers, bidirectional, (input_layer, dims), pool, dropout, label_smoothing, has_lengths) in models {
        let model = Model { layers, bidirectional, input_layer, pool, dropout, label_smoothing, ..Model::new(dims) };
        check(&model, 4, Init::Xavier, has_lengths.then(|| vec![3, 5, 1, 4]));
    }
}

/// What stands in the padding, even if it is no number, changes nothing; and a padded sequence gives what it gives alone.
#[test]
fn padding_is_never_read() {
    let dims = Dims { t: 6, i: 2, p: 3, h: 4, k: 3 };
    for pool in [Pool::Last, Pool::Mean, Pool::Max] {
        let model = Model { layers: 2, bidirectional: true, pool, ..Model::new(dims) };
        let parameters: Vec<f64> = init::parameters(&model, Init::Xavier, 5).iter().map(|&p| p.into()).collect();
        let mut x = numbers(dims, 2);
        let padded = batch(dims, x.clone(), Some(vec![4, 6]));
        let expected = forward_backward(&model, &parameters, &padded, None);
        x[4 * 2..6 * 2].fill(f32::NAN);
        let got = forward_backward(&model, &parameters, &batch(dims, x, Some(vec![4, 6])), None);
        assert!(got.logits == expected.logits && got.gradient == expected.gradient && got.dx == expected.dx);
        let short = Model { dims: Dims { t: 4, ..dims }, ..model };
        let alone = Batch { x: padded.x[..4 * 2].to_vec(), lengths: vec![4], labels: vec![padded.labels[0]], t: 4 };
        let alone = forward_backward(&short, &parameters, &alone, None);
        assert_eq!(alone.logits, expected.logits[..3]);
        assert_eq!((alone.h_last, alone.c_last), (expected.h_last[..8].to_vec(), expected.c_last[..8].to_vec()));
    }
}
