//! Central differences against the reference's gradients, for every parameter and every input.

use fused_lstm::data::{Sequences, Values};
use fused_lstm::engine::Model;
use fused_lstm::init::{self, Init};
use fused_lstm::reference::{forward_backward, inputs};
use fused_lstm::shape::Dims;

const EPSILON: f64 = 1e-5;
/// Largest error relative to the largest gradient; the worst seen is 2.6e-10.
const BOUND: f64 = 1e-6;

fn batch(dims: Dims, n: usize) -> Sequences {
    let x = (0..n * dims.sequence_len()).map(|k| ((k * 7919 % 101) as f32 / 50.0) - 1.0).collect();
    Sequences::new(dims.t, dims.i, Values::F32(x), (0..n).map(|k| (k * 3 % dims.k) as u32).collect())
}

fn check(dims: Dims, n: usize, init: Init, forget_bias: f32) {
    let model = Model { dims, forget_bias };
    let batch = batch(dims, n);
    let rows: Vec<u32> = (0..n as u32).collect();
    let x = inputs::<f64>(&batch, &rows);
    let parameters: Vec<f64> = init::parameters(dims, init, 5).iter().map(|&p| p.into()).collect();
    let loss = |parameters: &[f64], x: &[f64]| {
        forward_backward(&model, parameters, x, batch.labels()).loss.iter().sum::<f64>() / n as f64
    };
    let out = forward_backward(&model, &parameters, &x, batch.labels());
    compare("parameter", &parameters, &out.gradient, |p| loss(p, &x));
    compare("input", &x, &out.dx, |x| loss(&parameters, x));
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
    check(Dims { t: 5, i: 3, p: 7, h: 6, k: 4 }, 3, Init::Tutorial, 1.0);
}

#[test]
fn one_of_everything() {
    check(Dims { t: 1, i: 1, p: 1, h: 1, k: 2 }, 1, Init::Tutorial, 0.0);
}

#[test]
fn xavier_and_another_forget_bias() {
    check(Dims { t: 9, i: 2, p: 3, h: 5, k: 3 }, 2, Init::Xavier, -0.5);
}
