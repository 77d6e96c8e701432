//! The model as kernels in narrow numbers compute it: the input layer folded into the input weights, and the operands of all
//! products over the batch rounded. Sums, gates, cells, head and loss are not.
//!
//! ```text
//! fold = W_in · W_x, bias = b_in · W_x + b + forget bias
//! a = r(x) · r(fold) + bias + r(h) · r(W_h)
//! da = r(da);  dh = da · r(W_h)ᵀ;  dW_h = Σ r(h)ᵀ · da;  M = Σ r(x)ᵀ · da;  s = Σ da
//! dW_x = W_inᵀ · M + b_in ⊗ s;  dW_in = M · W_xᵀ;  db_in = s · W_xᵀ;  db = s;  dx = da · foldᵀ
//! ```
//!
//! Bytes are operands as they are, and their scale is in the weights: r(scale · fold).

use super::{Gradients, Real, linear, softmax_xent};
use crate::data::{Sequences, Values};
use crate::engine::Model;
use crate::precision::Precision;
use crate::shape::{Dims, gate};

/// `value` with as many bits as operands of that precision have, to the nearest, of two as near the even one.
pub fn round<F: Real>(value: F, precision: Precision) -> F {
    let dropped = match precision {
        Precision::F32 => return value,
        Precision::Tf32 => 13,
        Precision::Bf16 => 16,
    };
    let bits = value.single().to_bits();
    let half = (1u32 << (dropped - 1)) - 1 + (bits >> dropped & 1);
    F::of(f32::from_bits(bits.wrapping_add(half) >> dropped << dropped).into())
}

/// Operands of the products over the batch.
struct Operands<F> {
    /// `[B,T,I]`, before the scale of bytes.
    x: Vec<F>,
    /// What x is multiplied by.
    scale: F,
    /// `[I,4H]`, with the scale.
    fold: Vec<F>,
    /// `[4H]`
    bias: Vec<F>,
    /// `[H,4H]`
    w_h: Vec<F>,
}

fn rounded<F: Real>(values: impl IntoIterator<Item = F>, precision: Precision) -> Vec<F> {
    values.into_iter().map(|value| round(value, precision)).collect()
}

/// Folded weights without their scale, `[I,4H]`, and the operands.
fn operands<F: Real>(
    model: &Model,
    parameters: &[F],
    sequences: &Sequences,
    rows: &[u32],
    precision: Precision,
) -> (Vec<F>, Operands<F>) {
    let layout = model.layout();
    let w = layout.view(parameters);
    let Dims { p, h, .. } = model.dims;
    let zeros = vec![F::zero(); model.dims.g()];
    let fold = linear::forward(w.w_in, w.w_x, &zeros);
    let mut bias = linear::forward(w.b_in, w.w_x, w.b);
    bias[gate::F * h..(gate::F + 1) * h].iter_mut().for_each(|b| *b += F::of(model.forget_bias.into()));
    debug_assert_eq!(w.b_in.len(), p);
    let n = sequences.t() * sequences.i();
    let spans = rows.iter().map(|&row| row as usize * n..(row as usize + 1) * n);
    let (x, scale) = match sequences.values() {
        Values::U8 { bytes, scale } => {
            (spans.flat_map(|span| &bytes[span]).map(|&byte| F::of(byte.into())).collect(), F::of((*scale).into()))
        }
        Values::F32(values) => {
            (rounded(spans.flat_map(|span| &values[span]).map(|&v| F::of(v.into())), precision), F::one())
        }
    };
    let scaled = rounded(fold.iter().map(|&w| w * scale), precision);
    let w_h = rounded(w.w_h.iter().copied(), precision);
    (fold, Operands { x, scale, fold: scaled, bias, w_h })
}

/// A cell of one step and row, before and after, and what backward needs of it.
struct Step<F> {
    /// Gates after their activation, `[4H]`.
    gates: Vec<F>,
    /// `[H]`
    c_before: Vec<F>,
    /// `[H]`
    c: Vec<F>,
    /// Operand, `[H]`.
    h_before: Vec<F>,
}

fn sigmoid<F: Real>(x: F) -> F {
    F::one() / (F::one() + (-x).exp())
}

/// All steps of one row: what they leave, and h after the last.
fn forward_row<F: Real>(operands: &Operands<F>, x: &[F], dims: Dims, precision: Precision) -> (Vec<Step<F>>, Vec<F>) {
    let hidden = dims.h;
    let (mut h, mut c, mut steps) = (vec![F::zero(); hidden], vec![F::zero(); hidden], Vec::new());
    for x_t in x.chunks_exact(dims.i) {
        let (h_before, c_before) = (rounded(h.iter().copied(), precision), c.clone());
        let mut gates = operands.bias.clone();
        linear::add_product(x_t, &operands.fold, &mut gates);
        linear::add_product(&h_before, &operands.w_h, &mut gates);
        for unit in 0..hidden {
            for (n, a) in gates.iter_mut().skip(unit).step_by(hidden).enumerate() {
                *a = if n == gate::G { a.tanh() } else { sigmoid(*a) };
            }
            let at = |gate: usize| gates[gate * hidden + unit];
            c[unit] = at(gate::F) * c_before[unit] + at(gate::I) * at(gate::G);
            h[unit] = at(gate::O) * c[unit].tanh();
        }
        steps.push(Step { gates, c_before, c: c.clone(), h_before });
    }
    (steps, h)
}

/// Gradient by the gates of one step, not rounded; moves `dc` to the step before.
fn backward_cell<F: Real>(step: &Step<F>, dh: &[F], dc: &mut [F]) -> Vec<F> {
    let (hidden, one) = (dh.len(), F::one());
    let mut da = vec![F::zero(); 4 * hidden];
    for unit in 0..hidden {
        let at = |gate: usize| step.gates[gate * hidden + unit];
        let (i, f, g, o, tanh_c) = (at(gate::I), at(gate::F), at(gate::G), at(gate::O), step.c[unit].tanh());
        dc[unit] += dh[unit] * o * (one - tanh_c * tanh_c);
        da[gate::I * hidden + unit] = dc[unit] * g * i * (one - i);
        da[gate::F * hidden + unit] = dc[unit] * step.c_before[unit] * f * (one - f);
        da[gate::G * hidden + unit] = dc[unit] * i * (one - g * g);
        da[gate::O * hidden + unit] = dh[unit] * tanh_c * o * (one - o);
        dc[unit] *= f;
    }
    da
}

/// As [`super::forward_backward`] of the `rows` of `sequences`, with operands of that precision.
pub fn forward_backward<F: Real>(
    model: &Model,
    parameters: &[F],
    sequences: &Sequences,
    rows: &[u32],
    precision: Precision,
) -> Gradients<F> {
    let (dims, layout) = (model.dims, model.layout());
    let w = layout.view(parameters);
    let (fold, operands) = operands(model, parameters, sequences, rows, precision);
    let mut gradient = vec![F::zero(); layout.len()];
    let d = layout.view_mut(&mut gradient);
    let mut m = vec![F::zero(); fold.len()];
    let mut out = Gradients {
        logits: Vec::new(),
        h_last: Vec::new(),
        c_last: Vec::new(),
        loss: Vec::new(),
        gradient: Vec::new(),
        dx: Vec::new(),
    };
    let scale = F::one() / F::of(rows.len() as f64);
    let mut unused = vec![F::zero(); dims.g()];
    for (x, &row) in operands.x.chunks_exact(dims.sequence_len()).zip(rows) {
        let label = sequences.labels()[row as usize] as usize;
        let (steps, h_last) = forward_row(&operands, x, dims, precision);
        let logits = linear::forward(&h_last, w.w_out, w.b_out);
        out.loss.push(softmax_xent::loss(&logits, label));
        let dlogits = softmax_xent::backward(&logits, label, scale);
        linear::backward_weights(&h_last, &dlogits, d.w_out, d.b_out);
        let mut dh = linear::backward_input(&dlogits, w.w_out);
        let mut dc = vec![F::zero(); dims.h];
        let mut dx = vec![F::zero(); x.len()];
        for (t, step) in steps.iter().enumerate().rev() {
            let da = rounded(backward_cell(step, &dh, &mut dc), precision);
            let span = t * dims.i..(t + 1) * dims.i;
            linear::backward_weights(&x[span.clone()], &da, &mut m, d.b);
            linear::backward_weights(&step.h_before, &da, d.w_h, &mut unused);
            dx[span].copy_from_slice(&linear::backward_input(&da, &fold));
            dh = linear::backward_input(&da, &operands.w_h);
        }
        out.c_last.extend(&steps[dims.t - 1].c);
        out.h_last.extend(h_last);
        out.logits.extend(logits);
        out.dx.extend(dx);
    }
    m.iter_mut().for_each(|m| *m *= operands.scale);
    for ((m_i, w_in), dw_in) in
        m.chunks_exact(dims.g()).zip(w.w_in.chunks_exact(dims.p)).zip(d.w_in.chunks_exact_mut(dims.p))
    {
        linear::backward_weights(w_in, m_i, d.w_x, &mut unused);
        dw_in.copy_from_slice(&linear::backward_input(m_i, w.w_x));
    }
    linear::backward_weights(w.b_in, d.b, d.w_x, &mut unused);
    d.b_in.copy_from_slice(&linear::backward_input(d.b, w.w_x));
    out.gradient = gradient;
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{self, Init};
    use crate::reference;

    #[test]
    fn numbers_are_rounded_to_the_nearest_even() {
        let bf16 = |v: f64| round(v, Precision::Bf16);
        assert_eq!([1.0, 1.00390625, 1.01171875, -1.0078125].map(bf16), [1.0, 1.0, 1.015625, -1.0078125]);
        assert_eq!(bf16(1.005), 1.0078125);
        assert_eq!(round(1.0 + 1.0 / 1024.0f64, Precision::Tf32), 1.0 + 1.0 / 1024.0);
        assert_eq!(round(1.0 + 1.0 / 2048.0f64, Precision::Tf32), 1.0);
        assert_eq!(round(0.1f64, Precision::F32), 0.1);
    }

    #[test]
    fn without_rounding_it_is_the_plain_model() {
        let dims = Dims { t: 3, i: 4, p: 5, h: 6, k: 3 };
        let model = Model { dims, forget_bias: 0.7 };
        let parameters: Vec<f64> = init::parameters(dims, Init::Xavier, 3).into_iter().map(f64::from).collect();
        let labels: Vec<u32> = (0..7).map(|n| n % 3).collect();
        let bytes = (0..7 * 12).map(|n| (n * 37 % 256) as u8).collect();
        for values in [Values::U8 { bytes, scale: 0.0078125 }, Values::F32((0..84).map(|n| (n as f32).sin()).collect())]
        {
            let sequences = Sequences::new(3, 4, values, labels.clone());
            let rows: Vec<u32> = (0..7).collect();
            let plain =
                reference::forward_backward(&model, &parameters, &reference::inputs(&sequences, &rows), &labels);
            let folded = forward_backward(&model, &parameters, &sequences, &rows, Precision::F32);
            let pairs = [
                (&plain.logits, &folded.logits),
                (&plain.h_last, &folded.h_last),
                (&plain.c_last, &folded.c_last),
                (&plain.loss, &folded.loss),
                (&plain.gradient, &folded.gradient),
                (&plain.dx, &folded.dx),
            ];
            for (plain, folded) in pairs {
                assert_eq!(plain.len(), folded.len());
                let off = plain.iter().zip(folded).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(off < 1e-14, "{off:e}");
            }
        }
    }
}
