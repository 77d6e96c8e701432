//! The whole model, layer after layer, forward and backward.

use super::lstm::{self, Saved, WeightGradients, Weights};
use super::{Real, Steps, linear, pool, softmax_xent};
use crate::data::Sequences;
use crate::dropout::Mask;
use crate::model::Model;
use crate::shape::{Cell, Linear, Tensors};

/// A batch of B sequences.
pub struct Batch<F> {
    /// `[B,T,I]`
    pub x: Vec<F>,
    /// Steps of each sequence, `[B]`.
    pub lengths: Vec<usize>,
    /// `[B]`
    pub labels: Vec<u32>,
    /// T
    pub t: usize,
}

impl<F: Real> Batch<F> {
    /// The given `rows` of `sequences`.
    pub fn new(sequences: &Sequences, rows: &[u32]) -> Self {
        Self {
            x: inputs(sequences, rows),
            lengths: rows.iter().map(|&row| sequences.length(row as usize)).collect(),
            labels: rows.iter().map(|&row| sequences.labels()[row as usize]).collect(),
            t: sequences.t(),
        }
    }

    /// Steps of its sequences.
    pub fn steps(&self) -> Steps<'_> {
        Steps { t: self.t, lengths: &self.lengths, reversed: false }
    }
}

/// What a forward and backward pass of one batch gives.
pub struct Gradients<F> {
    /// `[B,K]`
    pub logits: Vec<F>,
    /// Hidden state that each direction of the last layer ends with, `[B,D·H]`.
    pub h_last: Vec<F>,
    /// Cell state, likewise.
    pub c_last: Vec<F>,
    /// Cross-entropy of each sequence, with label smoothing if the model has some, `[B]`.
    pub loss: Vec<F>,
    /// Gradient of the mean loss, laid out as the flat parameters.
    pub gradient: Vec<F>,
    /// Gradient of the mean loss by the inputs, `[B,T,I]`.
    pub dx: Vec<F>,
}

/// The inputs `[rows,T,I]` of the given `rows`, as numbers; zero at the steps that a sequence does not have.
pub fn inputs<F: Real>(sequences: &Sequences, rows: &[u32]) -> Vec<F> {
    let n = sequences.t() * sequences.i();
    let mut x = Vec::with_capacity(rows.len() * n);
    for (batch_row, row) in rows.iter().map(|&row| row as usize).enumerate() {
        // A byte times its scale is rounded to f32, as every engine sees it.
        x.extend(sequences.numbers(row).iter().map(|&v| F::of(v.into())));
        x.resize((batch_row + 1) * n, F::zero());
    }
    x
}

/// An LSTM layer's way forward.
struct Layer<F> {
    /// What it read, `[B,T,M]`.
    input: Vec<F>,
    /// Of each direction.
    saved: Vec<Saved<F>>,
}

/// A whole way forward.
struct Forward<F> {
    layers: Vec<Layer<F>>,
    /// Hidden states of the last layer, `[B,T,D·H]`.
    outputs: Vec<F>,
    /// `[B,D·H]`
    pooled: Vec<F>,
    /// `[B,K]`
    logits: Vec<F>,
}

/// The steps of each direction.
fn of_direction(steps: Steps<'_>, direction: usize) -> Steps<'_> {
    Steps { reversed: direction == 1, ..steps }
}

fn forward<F: Real>(model: &Model, w: &Tensors<&[F]>, batch: &Batch<F>, mask: Option<&Mask>) -> Forward<F> {
    let (steps, directions) = (batch.steps(), model.directions());
    let mut outputs = match &w.input {
        Some(input) => linear::forward(&batch.x, input.w, input.b),
        None => batch.x.clone(),
    };
    let mut layers = Vec::new();
    for (layer, cells) in w.cells.chunks(directions).enumerate() {
        if let Some(mask) = mask.filter(|_| layer > 0) {
            leave_out(&mut outputs, mask, layer - 1, steps);
        }
        let input = outputs;
        let cells = cells.iter().enumerate();
        let saved: Vec<_> =
            cells.map(|(d, cell)| lstm::forward(&input, of_direction(steps, d), weights(model, cell))).collect();
        outputs = side_by_side(saved.iter().enumerate().map(|(d, saved)| saved.outputs(of_direction(steps, d))), model);
        layers.push(Layer { input, saved });
    }
    let pooled = pool::forward(model.pool, &outputs, steps, directions);
    let logits = linear::forward(&pooled, w.output.w, w.output.b);
    Forward { layers, outputs, pooled, logits }
}

fn weights<'a, F: Real>(model: &Model, cell: &Cell<&'a [F]>) -> Weights<'a, F> {
    let forget_bias = F::of(model.forget_bias.into());
    Weights { w_x: cell.w_x, w_h: cell.w_h, b: cell.b, forget_bias, round: |x| x, rounded: lstm::Rounded::All }
}

/// Rows `[n,D·H]` of rows `[n,H]` of each direction.
fn side_by_side<F: Real>(directions: impl Iterator<Item = Vec<F>>, model: &Model) -> Vec<F> {
    let directions: Vec<_> = directions.collect();
    let h = model.dims.h;
    let row = |n: usize| directions.iter().flat_map(move |direction| &direction[n * h..(n + 1) * h]);
    (0..directions[0].len() / h).flat_map(row).copied().collect()
}

/// Multiplies outputs `[B,T,W]` of `layer`, or the gradient by them, by what dropout leaves of them.
fn leave_out<F: Real>(outputs: &mut [F], mask: &Mask, layer: usize, steps: Steps<'_>) {
    let width = outputs.len() / (steps.t * steps.lengths.len());
    for (n, outputs) in outputs.chunks_exact_mut(width).enumerate() {
        for (quad, outputs) in outputs.chunks_mut(4).enumerate() {
            let factors = mask.factors(layer, n / steps.t, n % steps.t, quad);
            outputs.iter_mut().zip(factors).for_each(|(output, factor)| *output *= F::of(factor.into()));
        }
    }
}

/// Forward and backward of a batch, from flat `parameters`; `mask` says what dropout leaves out.
pub fn forward_backward<F: Real>(
    model: &Model,
    parameters: &[F],
    batch: &Batch<F>,
    mask: Option<&Mask>,
) -> Gradients<F> {
    let (layout, steps, directions) = (model.layout(), batch.steps(), model.directions());
    let w = layout.view(parameters);
    let Forward { layers, outputs, pooled, logits } = forward(model, &w, batch, mask);
    let ends = |state: fn(&Saved<F>) -> &[F]| {
        let saved = &layers[model.layers - 1].saved;
        let ends = saved.iter().enumerate().map(|(d, saved)| of_direction(steps, d).end(state(saved)).to_vec());
        side_by_side(ends, model)
    };
    let (h_last, c_last) = (ends(|saved| &saved.h), ends(|saved| &saved.c));

    let mut gradient = vec![F::zero(); layout.len()];
    let d = layout.view_mut(&mut gradient);
    let smoothing = F::of(model.label_smoothing.into());
    let (loss, d_pooled) = head(&logits, &pooled, &batch.labels, smoothing, w.output, d.output);
    let mut d_outputs = pool::backward(model.pool, &outputs, &d_pooled, steps, directions);
    let mut d_cells = d.cells;
    for (layer, Layer { input, saved }) in layers.iter().enumerate().rev() {
        let mut d_input = vec![F::zero(); input.len()];
        for (direction, saved) in saved.iter().enumerate() {
            let cell = layer * directions + direction;
            let dh: Vec<F> = d_outputs
                .chunks_exact(model.width())
                .flat_map(|row| &row[direction * model.dims.h..][..model.dims.h])
                .copied()
                .collect();
            let Cell { w_x, w_h, b } = &mut d_cells[cell];
            let mut d = WeightGradients { w_x, w_h, b };
            let weights = weights(model, &w.cells[cell]);
            let part = lstm::backward(input, saved, &dh, of_direction(steps, direction), weights, &mut d);
            d_input.iter_mut().zip(part).for_each(|(sum, d)| *sum += d);
        }
        if let Some(mask) = mask.filter(|_| layer > 0) {
            leave_out(&mut d_input, mask, layer - 1, steps);
        }
        d_outputs = d_input;
    }
    let dx = match (w.input, d.input) {
        (Some(w), Some(d)) => {
            let rows = batch.x.chunks_exact(model.dims.i).zip(d_outputs.chunks_exact(model.dims.p));
            let of_row = |(x, dz): (&[F], &[F])| {
                linear::backward_weights(x, dz, d.w, d.b);
                linear::backward_input(dz, w.w)
            };
            rows.flat_map(of_row).collect()
        }
        _ => d_outputs,
    };
    Gradients { logits, h_last, c_last, loss, gradient, dx }
}

/// From `logits [B,K]` of `h [B,D·H]`: the loss of each sequence and the gradient of the mean loss by `h`; adds those of the
/// head's parameters.
pub fn head<F: Real>(
    logits: &[F],
    h: &[F],
    labels: &[u32],
    smoothing: F,
    w: Linear<&[F]>,
    d: Linear<&mut [F]>,
) -> (Vec<F>, Vec<F>) {
    let (k, width) = (d.b.len(), h.len() / labels.len());
    let scale = F::one() / F::of(labels.len() as f64);
    let (mut loss, mut dh) = (Vec::new(), Vec::new());
    for ((row, h), &label) in logits.chunks_exact(k).zip(h.chunks_exact(width)).zip(labels) {
        loss.push(softmax_xent::loss(row, label as usize, smoothing));
        let dlogits = softmax_xent::backward(row, label as usize, smoothing, scale);
        linear::backward_weights(h, &dlogits, d.w, d.b);
        dh.extend(linear::backward_input(&dlogits, w.w));
    }
    (loss, dh)
}

/// Logits `[B,K]` of a batch, with nothing left out.
pub fn logits<F: Real>(model: &Model, parameters: &[F], batch: &Batch<F>) -> Vec<F> {
    let layout = model.layout();
    forward(model, &layout.view(parameters), batch, None).logits
}
