//! What an engine with products in bf16 or TF32 computes: the same model with the input layer folded into the LSTM, and with both
//! factors of each of the LSTM's products, or of the recurrent ones alone, rounded. Sums, states, biases, the folding and the head are
//! not rounded.
//! Engines differ in what they make factors of: [`Style`].

use super::lstm::{self, Rounded, WeightGradients, Weights};
use super::model::head;
use super::{Batch, Gradients, Real, inputs, linear, pool};
use crate::data::{Sequences, Values};
use crate::model::{Model, Pool};
use crate::shape::{Cell, Linear, Tensors};

/// What an engine makes factors of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The CPU engine: bytes times their scale; the bias has no part in the products.
    Cpu,
    /// The persistent kernels: bytes as they are, their scale is in the folded weights; the bias is one more row of the
    /// products, so that its gradient is the sum of rounded factors.
    Persistent,
    /// The TF32 kernels: the factors of the products of all steps with the recurrent weights, and no others.
    Recurrent,
}

/// How factors are made of the model's numbers.
#[derive(Clone, Copy)]
pub struct Factors<F> {
    /// Of what.
    pub style: Style,
    /// What becomes of each factor.
    pub round: fn(F) -> F,
}

impl<F: Real> Factors<F> {
    fn rounded(&self, values: impl IntoIterator<Item = F>) -> Vec<F> {
        values.into_iter().map(self.round).collect()
    }

    /// Inputs `[rows,T,I]` as factors, and what is left to multiply into the weights.
    fn inputs(&self, sequences: &Sequences, rows: &[u32]) -> (Vec<F>, F) {
        match sequences.values() {
            Values::U8 { bytes, scale } if self.style == Style::Persistent => {
                let n = sequences.t() * sequences.i();
                let bytes = rows.iter().flat_map(|&row| &bytes[row as usize * n..][..n]);
                (bytes.map(|&byte| F::of(byte.into())).collect(), F::of((*scale).into()))
            }
            _ if self.style == Style::Recurrent => (inputs(sequences, rows), F::one()),
            _ => (self.rounded(inputs::<F>(sequences, rows)), F::one()),
        }
    }
}

/// `scale · w_in · w_x [I,4H]` and `w_h [H,4H]`, rounded where they are factors, and `b_in · w_x + b [4H]`.
struct Folded<F> {
    w_x: Vec<F>,
    w_h: Vec<F>,
    b: Vec<F>,
}

impl<F: Real> Folded<F> {
    fn new(model: &Model, parameters: &[F], scale: F, factors: &Factors<F>) -> Self {
        let Tensors { input: Some(input), cells, .. } = model.layout().view(parameters) else {
            unreachable!("such a model has an input layer")
        };
        let (zero, cell) = (vec![F::zero(); model.dims.g()], cells[0]);
        let w_x = linear::forward(input.w, cell.w_x, &zero).into_iter().map(|w| w * scale);
        let w_x = if factors.style == Style::Recurrent { w_x.collect() } else { factors.rounded(w_x) };
        let w_h = factors.rounded(cell.w_h.iter().copied());
        Self { w_x, w_h, b: linear::forward(input.b, cell.w_x, cell.b) }
    }

    fn weights(&self, model: &Model, factors: &Factors<F>) -> Weights<'_, F> {
        let forget_bias = F::of(model.forget_bias.into());
        let rounded = match factors.style {
            Style::Cpu => Rounded::All,
            Style::Persistent => Rounded::AllWithBias,
            Style::Recurrent => Rounded::Recurrent,
        };
        Weights { w_x: &self.w_x, w_h: &self.w_h, b: &self.b, forget_bias, round: factors.round, rounded }
    }
}

/// As [`super::forward_backward`], of the `rows` of `sequences`.
pub fn forward_backward<F: Real>(
    model: &Model,
    parameters: &[F],
    sequences: &Sequences,
    rows: &[u32],
    factors: &Factors<F>,
) -> Gradients<F> {
    let (dims, layout) = (model.dims, model.layout());
    let g = dims.g();
    let batch = Batch::<F>::new(sequences, rows);
    let steps = batch.steps();
    let (x, scale) = factors.inputs(sequences, rows);
    let folded = Folded::new(model, parameters, scale, factors);
    let saved = lstm::forward(&x, steps, folded.weights(model, factors));
    let (h_last, c_last) = (steps.end(&saved.h).to_vec(), steps.end(&saved.c).to_vec());
    let mut gradient = vec![F::zero(); layout.len()];
    let (w, d) = (layout.view(parameters), layout.view_mut(&mut gradient));
    let (Some(w_in), Some(d_in)) = (w.input, d.input) else { unreachable!("such a model has an input layer") };
    let [Cell { w_x, .. }] = w.cells[..] else { unreachable!("such a model has one layer") };
    let logits = linear::forward(&h_last, w.output.w, w.output.b);
    let (loss, dh_last) = head(&logits, &h_last, &batch.labels, F::zero(), w.output, d.output);
    let outputs = saved.outputs(steps);
    let dh = pool::backward(Pool::Last, &outputs, &dh_last, steps, 1);
    let Some(Cell { w_x: d_x, w_h: d_h, b: d_b }) = d.cells.into_iter().next() else { unreachable!("as above") };
    // The gradients of the folded weights, `[I,4H]`, and from them those of the input layer.
    let mut folded_w = vec![F::zero(); dims.i * g];
    let mut d_lstm = WeightGradients { w_x: &mut folded_w, w_h: d_h, b: d_b };
    let mut dx = lstm::backward(&x, &saved, &dh, steps, folded.weights(model, factors), &mut d_lstm);
    // By the folded weights and the inputs themselves, not by the factors that were made of them.
    folded_w.iter_mut().for_each(|d| *d *= scale);
    dx.iter_mut().for_each(|d| *d /= scale);
    let mut unused = vec![F::zero(); g];
    for (n, dm) in folded_w.chunks_exact(g).enumerate() {
        linear::backward_weights(&w_in.w[n * dims.p..][..dims.p], dm, d_x, &mut unused);
        d_in.w[n * dims.p..][..dims.p].copy_from_slice(&linear::backward_input(dm, w_x));
    }
    linear::backward_weights(w_in.b, d_b, d_x, &mut unused);
    d_in.b.copy_from_slice(&linear::backward_input(d_b, w_x));
    Gradients { logits, h_last, c_last, loss, gradient, dx }
}

/// As `model::logits`, of the `rows` of `sequences`.
pub fn logits<F: Real>(
    model: &Model,
    parameters: &[F],
    sequences: &Sequences,
    rows: &[u32],
    factors: &Factors<F>,
) -> Vec<F> {
    let Linear { w, b } = model.layout().view(parameters).output;
    let batch = Batch::<F>::new(sequences, rows);
    let (x, scale) = factors.inputs(sequences, rows);
    let folded = Folded::new(model, parameters, scale, factors);
    let saved = lstm::forward(&x, batch.steps(), folded.weights(model, factors));
    linear::forward(batch.steps().end(&saved.h), w, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{self, Init};
    use crate::reference;
    use crate::shape::Dims;

    #[test]
    fn without_rounding_it_is_the_plain_model() {
        let dims = Dims { t: 3, i: 4, p: 5, h: 6, k: 3 };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        let parameters: Vec<f64> = init::parameters(&model, Init::Xavier, 3).into_iter().map(f64::from).collect();
        let labels: Vec<u32> = (0..7).map(|n| n % 3).collect();
        let rows: Vec<u32> = (0..7).collect();
        let bytes = (0..7 * 12).map(|n| (n * 37 % 256) as u8).collect();
        let numbers = (0..84).map(|n| (n as f32).sin()).collect();
        for values in [Values::U8 { bytes, scale: 0.0078125 }, Values::F32(numbers)] {
            let sequences = Sequences::new(3, 4, values, labels.clone());
            let plain = reference::forward_backward(&model, &parameters, &Batch::new(&sequences, &rows), None);
            for style in [Style::Cpu, Style::Persistent, Style::Recurrent] {
                let factors = Factors { style, round: |x| x };
                let folded = forward_backward(&model, &parameters, &sequences, &rows, &factors);
                let logits = logits(&model, &parameters, &sequences, &rows, &factors);
                let pairs = [
                    (&plain.logits, &folded.logits),
                    (&plain.logits, &logits),
                    (&plain.h_last, &folded.h_last),
                    (&plain.c_last, &folded.c_last),
                    (&plain.loss, &folded.loss),
                    (&plain.gradient, &folded.gradient),
                    (&plain.dx, &folded.dx),
                ];
                for (plain, folded) in pairs {
                    assert_eq!(plain.len(), folded.len());
                    let off = plain.iter().zip(folded).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(off < 1e-14, "{style:?} {off:e}");
                }
            }
        }
    }
}
