//! What the output layer reads of the last LSTM layer: its state at the end, or the mean or the largest over the steps.

use super::{Real, Steps};
use crate::model::Pool;

/// `[B,W]` of the layer's outputs `[B,T,W]`, W = D·H. Only the steps that a sequence has count.
pub fn forward<F: Real>(pool: Pool, outputs: &[F], steps: Steps<'_>, directions: usize) -> Vec<F> {
    let width = outputs.len() / (steps.lengths.len() * steps.t);
    let mut pooled = Vec::with_capacity(steps.lengths.len() * width);
    for (outputs, &length) in outputs.chunks_exact(steps.t * width).zip(steps.lengths) {
        let unit = |unit: usize| {
            let at = |t: usize| outputs[t * width + unit];
            match pool {
                Pool::Last => at(end(unit, width, directions, length)),
                Pool::Mean => (0..length).map(at).sum::<F>() / F::of(length as f64),
                Pool::Max => at(largest(length, at)),
            }
        };
        pooled.extend((0..width).map(unit));
    }
    pooled
}

/// Gradient by the outputs `[B,T,W]`, from that by what was made of them `[B,W]`.
pub fn backward<F: Real>(pool: Pool, outputs: &[F], d_pooled: &[F], steps: Steps<'_>, directions: usize) -> Vec<F> {
    let width = d_pooled.len() / steps.lengths.len();
    let mut d = vec![F::zero(); outputs.len()];
    let rows = d.chunks_exact_mut(steps.t * width).zip(outputs.chunks_exact(steps.t * width));
    for (((d, outputs), d_pooled), &length) in rows.zip(d_pooled.chunks_exact(width)).zip(steps.lengths) {
        for (unit, &d_unit) in d_pooled.iter().enumerate() {
            match pool {
                Pool::Last => d[end(unit, width, directions, length) * width + unit] = d_unit,
                Pool::Mean => (0..length).for_each(|t| d[t * width + unit] = d_unit / F::of(length as f64)),
                Pool::Max => d[largest(length, |t| outputs[t * width + unit]) * width + unit] = d_unit,
            }
        }
    }
    d
}

/// The step after which a unit's direction ends.
fn end(unit: usize, width: usize, directions: usize, length: usize) -> usize {
    if unit < width / directions { length - 1 } else { 0 }
}

/// The step of the largest value; of equal ones the first.
fn largest<F: Real>(length: usize, at: impl Fn(usize) -> F) -> usize {
    (1..length).fold(0, |best, t| if at(t) > at(best) { t } else { best })
}
