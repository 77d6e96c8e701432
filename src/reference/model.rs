//! The whole model, layer after layer, forward and backward.

use super::lstm::{self, WeightGradients, Weights};
use super::{Real, linear, softmax_xent};
use crate::data::{Sequences, Values};
use crate::engine::Model;
use crate::shape::Tensors;

/// What a forward and backward pass of one batch gives.
pub struct Gradients<F> {
    /// `[B,K]`
    pub logits: Vec<F>,
    /// Hidden state after the last step, `[B,H]`.
    pub h_last: Vec<F>,
    /// Cell state after the last step, `[B,H]`.
    pub c_last: Vec<F>,
    /// Cross-entropy of each sequence, `[B]`.
    pub loss: Vec<F>,
    /// Gradient of the mean loss, laid out as the flat parameters.
    pub gradient: Vec<F>,
    /// Gradient of the mean loss by the inputs, `[B,T,I]`.
    pub dx: Vec<F>,
}

/// The inputs `[rows,T,I]` of the given `rows`, as numbers.
pub fn inputs<F: Real>(sequences: &Sequences, rows: &[u32]) -> Vec<F> {
    let n = sequences.t() * sequences.i();
    let spans = rows.iter().map(|&row| row as usize * n..(row as usize + 1) * n);
    match sequences.values() {
        // The product is rounded to f32, as every engine sees it.
        Values::U8 { bytes, scale } => {
            spans.flat_map(|span| &bytes[span]).map(|&b| F::of((f32::from(b) * scale).into())).collect()
        }
        Values::F32(values) => spans.flat_map(|span| &values[span]).map(|&v| F::of(v.into())).collect(),
    }
}

/// Forward and backward of a batch: `x [B,T,I]`, `labels [B]`, flat `parameters`.
pub fn forward_backward<F: Real>(model: &Model, parameters: &[F], x: &[F], labels: &[u32]) -> Gradients<F> {
    let dims = model.dims;
    let batch = labels.len();
    let layout = model.layout();
    let w = layout.view(parameters);
    let weights = weights(model, &w);

    let z = linear::forward(x, w.w_in, w.b_in);
    let saved = lstm::forward(&z, batch, weights);
    let last = dims.t * batch * dims.h..;
    let (h_last, c_last) = (saved.h[last.clone()].to_vec(), saved.c[last].to_vec());
    let logits = linear::forward(&h_last, w.w_out, w.b_out);

    let mut gradient = vec![F::zero(); layout.len()];
    let d = layout.view_mut(&mut gradient);
    let (loss, dh_last) = head(&logits, &h_last, labels, w.w_out, d.w_out, d.b_out);
    let mut d_lstm = WeightGradients { w_x: d.w_x, w_h: d.w_h, b: d.b };
    let dz = lstm::backward(&z, &saved, &dh_last, weights, &mut d_lstm);
    let mut dx = Vec::with_capacity(x.len());
    for (x_t, dz_t) in x.chunks_exact(dims.i).zip(dz.chunks_exact(dims.p)) {
        linear::backward_weights(x_t, dz_t, d.w_in, d.b_in);
        dx.extend(linear::backward_input(dz_t, w.w_in));
    }
    Gradients { logits, h_last, c_last, loss, gradient, dx }
}

fn weights<'a, F: Real>(model: &Model, w: &Tensors<&'a [F]>) -> Weights<'a, F> {
    let forget_bias = F::of(model.forget_bias.into());
    Weights { w_x: w.w_x, w_h: w.w_h, b: w.b, forget_bias, round: |x| x, bias_in_products: false }
}

/// From `logits [B,K]` of `h [B,H]`: the loss of each sequence and the gradient of the mean loss by `h`; adds those of the
/// head's parameters.
pub fn head<F: Real>(
    logits: &[F],
    h: &[F],
    labels: &[u32],
    w_out: &[F],
    dw_out: &mut [F],
    db_out: &mut [F],
) -> (Vec<F>, Vec<F>) {
    let (k, hidden) = (db_out.len(), h.len() / labels.len());
    let scale = F::one() / F::of(labels.len() as f64);
    let (mut loss, mut dh) = (Vec::new(), Vec::new());
    for ((row, h), &label) in logits.chunks_exact(k).zip(h.chunks_exact(hidden)).zip(labels) {
        loss.push(softmax_xent::loss(row, label as usize));
        let dlogits = softmax_xent::backward(row, label as usize, scale);
        linear::backward_weights(h, &dlogits, dw_out, db_out);
        dh.extend(linear::backward_input(&dlogits, w_out));
    }
    (loss, dh)
}

/// Logits `[B,K]` of `x [B,T,I]`.
pub fn logits<F: Real>(model: &Model, parameters: &[F], x: &[F], batch: usize) -> Vec<F> {
    let layout = model.layout();
    let w = layout.view(parameters);
    let weights = weights(model, &w);
    let saved = lstm::forward(&linear::forward(x, w.w_in, w.b_in), batch, weights);
    linear::forward(&saved.h[model.dims.t * batch * model.dims.h..], w.w_out, w.b_out)
}
