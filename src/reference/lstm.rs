//! The LSTM layer over one batch of sequences.
//!
//! ```text
//! a = z · w_x + h · w_h + b
//! i, f, o = sigmoid(a_i), sigmoid(a_f + forget_bias), sigmoid(a_o);  g = tanh(a_g)
//! c' = f ∘ c + i ∘ g,  h' = o ∘ tanh(c')
//! ```

use super::{Real, linear};
use crate::shape::gate;

/// In which order, and how far, a batch of sequences is read.
#[derive(Clone, Copy)]
pub struct Steps<'a> {
    /// T
    pub t: usize,
    /// Steps of each sequence, `[B]`.
    pub lengths: &'a [usize],
    /// Whether the last step is read first.
    pub reversed: bool,
}

impl<'a> Steps<'a> {
    /// The slots of a state before and after step `t`: T+1 in all, the first one in reading order is the initial one.
    fn slots(&self, t: usize) -> (usize, usize) {
        if self.reversed { (t + 1, t) } else { (t, t + 1) }
    }

    /// The steps in reading order.
    fn order(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let (t, reversed) = (self.t, self.reversed);
        (0..t).map(move |n| if reversed { t - 1 - n } else { n })
    }

    /// The last state in reading order `[B,H]`, of those of all steps, `[T+1,B,H]`.
    pub fn end<F>(&self, states: &'a [F]) -> &'a [F] {
        let slot = states.len() / (self.t + 1);
        if self.reversed { &states[..slot] } else { &states[self.t * slot..] }
    }
}

/// Which factors of the layer's products are rounded; those that are not computed on the way are rounded by who gives them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rounded {
    /// Those of the products with `w_h` alone, h and the gradient by the gates; gradients of weights are of numbers as they are.
    Recurrent,
    /// Those of all products.
    All,
    /// Likewise, and the bias is one more row of the products: its gradient is a sum of rounded factors.
    AllWithBias,
}

/// The parameters of the layer.
#[derive(Clone, Copy)]
pub struct Weights<'a, F> {
    /// `[P,4H]`
    pub w_x: &'a [F],
    /// `[H,4H]`
    pub w_h: &'a [F],
    /// `[4H]`
    pub b: &'a [F],
    /// Added to the forget gate before its sigmoid.
    pub forget_bias: F,
    /// What becomes of factors that are computed on the way, h and the gradient by the gates.
    pub round: fn(F) -> F,
    /// Of which products.
    pub rounded: Rounded,
}

/// What the forward pass keeps, time first.
pub struct Saved<F> {
    /// Gates after their activation, `[T,B,4H]`.
    pub gates: Vec<F>,
    /// Cell state, `[T+1,B,H]`; the initial one is zero. At a step that a sequence does not have it is carried on.
    pub c: Vec<F>,
    /// Hidden state, likewise.
    pub h: Vec<F>,
}

impl<F: Real> Saved<F> {
    /// Hidden states after each step, `[B,T,H]`.
    pub fn outputs(&self, steps: Steps<'_>) -> Vec<F> {
        let hidden = self.h.len() / ((steps.t + 1) * steps.lengths.len());
        let at = |row: usize, t: usize| &self.h[(steps.slots(t).1 * steps.lengths.len() + row) * hidden..][..hidden];
        let rows = 0..steps.lengths.len();
        rows.flat_map(|row| (0..steps.t).flat_map(move |t| at(row, t))).copied().collect()
    }
}

/// Gradients of the layer's parameters.
pub struct WeightGradients<'a, F> {
    /// `[P,4H]`
    pub w_x: &'a mut [F],
    /// `[H,4H]`
    pub w_h: &'a mut [F],
    /// `[4H]`
    pub b: &'a mut [F],
}

fn sigmoid<F: Real>(x: F) -> F {
    F::one() / (F::one() + (-x).exp())
}

/// Runs `z [B,T,P]` through the layer, from zero states; H is a quarter of the width of `b`.
pub fn forward<F: Real>(z: &[F], steps: Steps<'_>, weights: Weights<F>) -> Saved<F> {
    let g_width = weights.b.len();
    let hidden = g_width / 4;
    let p = weights.w_x.len() / g_width;
    let batch = steps.lengths.len();
    let mut gates = vec![F::zero(); steps.t * batch * g_width];
    let mut c = vec![F::zero(); (steps.t + 1) * batch * hidden];
    let mut h = c.clone();
    for t in steps.order() {
        for (row, &length) in steps.lengths.iter().enumerate() {
            let (before, after) = steps.slots(t);
            let [before, after] = [before, after].map(|slot| (slot * batch + row) * hidden);
            if t >= length {
                c.copy_within(before..before + hidden, after);
                h.copy_within(before..before + hidden, after);
                continue;
            }
            let a = &mut gates[(t * batch + row) * g_width..][..g_width];
            a.copy_from_slice(weights.b);
            linear::add_product(&z[(row * steps.t + t) * p..][..p], weights.w_x, a);
            let h_before: Vec<F> = h[before..][..hidden].iter().map(|&h| (weights.round)(h)).collect();
            linear::add_product(&h_before, weights.w_h, a);
            for unit in 0..hidden {
                let at = |gate: usize| gate * hidden + unit;
                let i = sigmoid(a[at(gate::I)]);
                let f = sigmoid(a[at(gate::F)] + weights.forget_bias);
                let g = a[at(gate::G)].tanh();
                let o = sigmoid(a[at(gate::O)]);
                (a[at(gate::I)], a[at(gate::F)], a[at(gate::G)], a[at(gate::O)]) = (i, f, g, o);
                let cell = f * c[before + unit] + i * g;
                c[after + unit] = cell;
                h[after + unit] = o * cell.tanh();
            }
        }
    }
    Saved { gates, c, h }
}

/// From `d_outputs [B,T,H]`, the gradient by the hidden states as others read them: adds the gradients of the parameters to
/// `d` and returns `dz [B,T,P]`, zero at steps that a sequence does not have.
pub fn backward<F: Real>(
    z: &[F],
    saved: &Saved<F>,
    d_outputs: &[F],
    steps: Steps<'_>,
    weights: Weights<F>,
    d: &mut WeightGradients<F>,
) -> Vec<F> {
    let g_width = weights.b.len();
    let hidden = g_width / 4;
    let p = weights.w_x.len() / g_width;
    let batch = steps.lengths.len();
    let mut dz = vec![F::zero(); z.len()];
    let mut unused = vec![F::zero(); g_width];
    for (row, &length) in steps.lengths.iter().enumerate() {
        let mut dh = vec![F::zero(); hidden];
        let mut dc = vec![F::zero(); hidden];
        for t in steps.order().rev().filter(|&t| t < length) {
            let (before, after) = steps.slots(t);
            let [before, after] = [before, after].map(|slot| (slot * batch + row) * hidden);
            dh.iter_mut().zip(&d_outputs[(row * steps.t + t) * hidden..][..hidden]).for_each(|(dh, &d)| *dh += d);
            let gates = &saved.gates[(t * batch + row) * g_width..][..g_width];
            let mut da = vec![F::zero(); g_width];
            for unit in 0..hidden {
                let at = |gate: usize| gate * hidden + unit;
                let (i, f, g, o) = (gates[at(gate::I)], gates[at(gate::F)], gates[at(gate::G)], gates[at(gate::O)]);
                let tanh_c = saved.c[after + unit].tanh();
                let one = F::one();
                dc[unit] += dh[unit] * o * (one - tanh_c * tanh_c);
                da[at(gate::I)] = dc[unit] * g * i * (one - i);
                da[at(gate::F)] = dc[unit] * saved.c[before + unit] * f * (one - f);
                da[at(gate::G)] = dc[unit] * i * (one - g * g);
                da[at(gate::O)] = dh[unit] * tanh_c * o * (one - o);
                dc[unit] *= f;
            }
            let factors: Vec<F> = da.iter().map(|&da| (weights.round)(da)).collect();
            dh = linear::backward_input(&factors, weights.w_h);
            let of_bias = if weights.rounded == Rounded::AllWithBias { &factors } else { &da };
            d.b.iter_mut().zip(of_bias).for_each(|(d, &da)| *d += da);
            let mut h_before = saved.h[before..][..hidden].to_vec();
            if weights.rounded != Rounded::Recurrent {
                h_before.iter_mut().for_each(|h| *h = (weights.round)(*h));
                da = factors;
            }
            let z_t = (row * steps.t + t) * p;
            linear::backward_weights(&z[z_t..][..p], &da, d.w_x, &mut unused);
            linear::backward_weights(&h_before, &da, d.w_h, &mut unused);
            dz[z_t..][..p].copy_from_slice(&linear::backward_input(&da, weights.w_x));
        }
    }
    dz
}
