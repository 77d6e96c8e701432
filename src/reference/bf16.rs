//! What an engine with products in bf16 computes: the same model with the input layer folded into the LSTM, and with both
//! factors of each of the LSTM's products rounded to bf16. Sums, states, biases, the folding and the head are not rounded.

use super::lstm::{self, WeightGradients, Weights};
use super::model::head;
use super::{Gradients, Real, linear};
use crate::engine::Model;

/// `w_in · w_x [I,4H]` and `w_h [H,4H]`, rounded, and `b_in · w_x + b [4H]`.
struct Folded<F> {
    w_x: Vec<F>,
    w_h: Vec<F>,
    b: Vec<F>,
}

impl<F: Real> Folded<F> {
    fn new(model: &Model, parameters: &[F]) -> Self {
        let w = model.layout().view(parameters);
        let zero = vec![F::zero(); model.dims.g()];
        let w_x = rounded(&linear::forward(w.w_in, w.w_x, &zero));
        Self { w_x, w_h: rounded(w.w_h), b: linear::forward(w.b_in, w.w_x, w.b) }
    }

    fn weights(&self, model: &Model) -> Weights<'_, F> {
        let forget_bias = F::of(model.forget_bias.into());
        Weights { w_x: &self.w_x, w_h: &self.w_h, b: &self.b, forget_bias, round: F::bf16 }
    }
}

fn rounded<F: Real>(values: &[F]) -> Vec<F> {
    values.iter().map(|v| v.bf16()).collect()
}

/// As [`super::forward_backward`].
pub fn forward_backward<F: Real>(model: &Model, parameters: &[F], x: &[F], labels: &[u32]) -> Gradients<F> {
    let (dims, layout) = (model.dims, model.layout());
    let (batch, g) = (labels.len(), dims.g());
    let w = layout.view(parameters);
    let folded = Folded::new(model, parameters);
    let x = rounded(x);
    let saved = lstm::forward(&x, batch, folded.weights(model));
    let last = dims.t * batch * dims.h..;
    let (h_last, c_last) = (saved.h[last.clone()].to_vec(), saved.c[last].to_vec());
    let logits = linear::forward(&h_last, w.w_out, w.b_out);

    let mut gradient = vec![F::zero(); layout.len()];
    let d = layout.view_mut(&mut gradient);
    let (loss, dh_last) = head(&logits, &h_last, labels, w.w_out, d.w_out, d.b_out);
    // The gradients of the folded weights, `[I,4H]`, and from them those of the input layer.
    let mut folded_w = vec![F::zero(); dims.i * g];
    let mut d_lstm = WeightGradients { w_x: &mut folded_w, w_h: d.w_h, b: d.b };
    let dx = lstm::backward(&x, &saved, &dh_last, folded.weights(model), &mut d_lstm);
    let mut unused = vec![F::zero(); g];
    for (n, dm) in folded_w.chunks_exact(g).enumerate() {
        linear::backward_weights(&w.w_in[n * dims.p..][..dims.p], dm, d.w_x, &mut unused);
        d.w_in[n * dims.p..][..dims.p].copy_from_slice(&linear::backward_input(dm, w.w_x));
    }
    linear::backward_weights(w.b_in, d.b, d.w_x, &mut unused);
    d.b_in.copy_from_slice(&linear::backward_input(d.b, w.w_x));
    Gradients { logits, h_last, c_last, loss, gradient, dx }
}

/// As [`super::model::logits`].
pub fn logits<F: Real>(model: &Model, parameters: &[F], x: &[F], batch: usize) -> Vec<F> {
    let w = model.layout().view(parameters);
    let folded = Folded::new(model, parameters);
    let saved = lstm::forward(&rounded(x), batch, folded.weights(model));
    linear::forward(&saved.h[model.dims.t * batch * model.dims.h..], w.w_out, w.b_out)
}
