//! A few rows of the batch through the whole sequence: what one thread works on at a time.
//!
//! Rows never exchange anything within an iteration, so a chunk runs all steps forward, the head, and all steps backward,
//! with everything that it saves small enough to stay near the core.

use super::math::{sigmoid, tanh};
use super::simd::{Kernel, Pair, Simd, round_to_bf16};
use super::sizes::Sizes;
use super::tile::{FindPlaces, Left, Places, Product, Right, Rows, Sums, multiply, multiply_at, narrow, wide, zeros};
use super::weights::{PairRows, Weights};
use crate::data::{Sequences, Values};
use crate::engine::Trace;
use crate::precision::Precision;
use crate::shape::{GATES, gate};
use std::ops::Range;

/// Most rows of a chunk.
pub const CHUNK_ROWS: usize = 16;

/// Room for what a chunk computes, for up to [`CHUNK_ROWS`] rows; R is the rows of the chunk at hand.
pub struct Scratch {
    /// Inputs and a one behind each step's, `[T,R,I+1]`.
    pub x: Vec<f32>,
    /// Hidden state, `[T+1,R,H]`; slot 0 is zero.
    pub h: Vec<f32>,
    /// Cell state, `[T+1,R,H]`; slot 0 is zero.
    pub c: Vec<f32>,
    /// `[U][T,R,4L]`: from the forward pass the gates after their activation, of which the backward pass makes, step by
    /// step and in place, the gradient `da` by the gates before their activation. (In place, for it is the largest tensor.)
    pub gates: Vec<f32>,
    /// Gradient by the last hidden state, `[R,H]`.
    dh_last: Vec<f32>,
    /// Gradient by the cell state at the step at hand, `[R,H]`.
    dc: Vec<f32>,
    /// `[R,K]`, padded.
    pub logits: Vec<f32>,
    /// `[R,K]`, padded with zeros.
    pub dlogits: Vec<f32>,
    /// Where each block of rows has inputs that are not zero, at the step at hand.
    step_places: Vec<Places>,
    /// Where each block of inputs is not zero, among all steps and rows.
    pub input_places: Vec<Places>,
    /// The factors of products in bf16.
    pub pairs: Pairs,
    /// True if all steps are kept for the backward pass; else `h` and `c` have two slots that take turns.
    saving: bool,
}

/// What a chunk multiplies in bf16. A factor takes its pairs along k: units or inputs in the steps' products, rows of the
/// chunk in the gradients'; R/2 counts a zero row if R is odd.
#[derive(Default)]
pub struct Pairs {
    /// Pairs of inputs, `[T,R,I/2]`.
    x: Vec<Pair>,
    /// Pairs of units of the hidden state: before and after the step at hand, `[2,R,H/2]`.
    h: Vec<Pair>,
    /// Pairs of units of `da`: of the step at hand and the one after it, `[2][U][R,2L]`.
    da: Vec<Pair>,
    /// Pairs of rows of the inputs, `[T,R/2,I]`.
    pub x_rows: Vec<Pair>,
    /// Pairs of rows of the hidden state after each step, `[T,R/2,H]`.
    pub h_rows: Vec<Pair>,
    /// Pairs of rows of `da`, `[U][T,R/2,4L]`.
    pub da_rows: Vec<Pair>,
    /// Sum of `da` over all steps and rows, not rounded: the bias is no product. `[U,4L]`
    pub bias: Vec<f32>,
}

impl Pairs {
    fn new(sizes: Sizes, training: bool) -> Self {
        let Sizes { dims, hidden, gates, .. } = sizes;
        let (rows, steps) = (CHUNK_ROWS, if training { dims.t } else { 0 });
        let zeros = |n: usize| vec![Pair(0); n];
        Self {
            x: zeros(dims.t * rows * sizes.input_pairs),
            h: zeros(2 * rows * hidden / 2),
            da: zeros(if training { 2 * rows * gates / 2 } else { 0 }),
            x_rows: zeros(steps * rows.div_ceil(2) * dims.i),
            h_rows: zeros(steps * rows.div_ceil(2) * hidden),
            da_rows: zeros(steps * rows.div_ceil(2) * gates),
            bias: vec![0.0; if training { gates } else { 0 }],
        }
    }

    /// Rounds the inputs `[T,R,I+1]`.
    #[inline(always)]
    fn round_inputs(&mut self, sizes: Sizes, x: &[f32], rows: usize) {
        let (i, inputs) = (sizes.dims.i, sizes.inputs);
        for (x, to) in x.chunks_exact(inputs).zip(self.x.chunks_exact_mut(sizes.input_pairs)) {
            for (x, to) in x[..i].chunks(2).zip(to) {
                *to = Pair::new(x[0], x.get(1).copied().unwrap_or(0.0));
            }
        }
        if self.x_rows.is_empty() {
            return;
        }
        let steps = x.chunks_exact(rows * inputs).zip(self.x_rows.chunks_exact_mut(rows.div_ceil(2) * i));
        for (x, to) in steps {
            for (x, to) in x.chunks(2 * inputs).zip(to.chunks_exact_mut(i)) {
                let (first, second) = x.split_at(inputs);
                if second.is_empty() {
                    to.iter_mut().zip(first).for_each(|(to, &a)| *to = Pair::new(a, 0.0));
                } else {
                    to.iter_mut().zip(first.iter().zip(second)).for_each(|(to, (&a, &b))| *to = Pair::new(a, b));
                }
            }
        }
    }
}

impl Scratch {
    /// Room for forward and, with `training`, backward.
    pub fn new(sizes: Sizes, training: bool, precision: Precision) -> Self {
        let Sizes { dims, hidden, gates, classes, inputs, .. } = sizes;
        let rows = CHUNK_ROWS;
        let zeros = |n: usize| vec![0.0; n];
        // Inference needs no more than the step before and the step at hand.
        let (slots, steps) = if training { (dims.t + 1, dims.t) } else { (2, 0) };
        Self {
            x: zeros(dims.t * rows * inputs),
            h: zeros(slots * rows * hidden),
            c: zeros(slots * rows * hidden),
            gates: zeros(steps * rows * gates),
            dh_last: zeros(rows * hidden),
            dc: zeros(rows * hidden),
            logits: zeros(rows * classes),
            dlogits: zeros(rows * classes),
            step_places: vec![Places::default(); rows],
            input_places: vec![Places::default(); if training { inputs } else { 0 }],
            pairs: if precision == Precision::Bf16 { Pairs::new(sizes, training) } else { Pairs::default() },
            saving: training,
        }
    }

    /// Fetches the inputs of `rows` of `sequences`.
    pub fn gather(&mut self, sizes: Sizes, sequences: &Sequences, rows: &[u32]) {
        let (i, n) = (sizes.dims.i, sizes.dims.sequence_len());
        for (r, &row) in rows.iter().enumerate() {
            let span = row as usize * n..(row as usize + 1) * n;
            let to = self.x.chunks_exact_mut(sizes.inputs).skip(r).step_by(rows.len());
            match sequences.values() {
                Values::U8 { bytes, scale } => {
                    for (to, from) in to.zip(bytes[span].chunks_exact(i)) {
                        to.iter_mut().zip(from).for_each(|(to, &byte)| *to = f32::from(byte) * scale);
                        to[i] = 1.0;
                    }
                }
                Values::F32(values) => {
                    for (to, from) in to.zip(values[span].chunks_exact(i)) {
                        to[..i].copy_from_slice(from);
                        to[i] = 1.0;
                    }
                }
            }
        }
    }
}

impl Scratch {
    /// Copies what a trained chunk computed to rows `span` of `trace`, and works out the gradient by its inputs.
    pub fn copy_results(&self, sizes: Sizes, weights: &Weights, span: Range<usize>, trace: &mut Trace) {
        let Sizes { dims, hidden, classes, panel, depth, panels, .. } = sizes;
        let rows = span.len();
        for (r, row) in span.enumerate() {
            let last = (dims.t * rows + r) * hidden;
            trace.logits[row * dims.k..][..dims.k].copy_from_slice(&self.logits[r * classes..][..dims.k]);
            trace.h_last[row * dims.h..][..dims.h].copy_from_slice(&self.h[last..][..dims.h]);
            trace.c_last[row * dims.h..][..dims.h].copy_from_slice(&self.c[last..][..dims.h]);
            for t in 0..dims.t {
                for i in 0..dims.i {
                    let products = (0..panels).map(|u| {
                        let da = &self.gates[((u * dims.t + t) * rows + r) * panel..][..panel];
                        let w = &weights.forward[(u * depth + dims.h + i) * panel..][..panel];
                        if self.pairs.da_rows.is_empty() {
                            da.iter().zip(w).map(|(a, b)| a * b).sum::<f32>()
                        } else {
                            da.iter().zip(w).map(|(&a, &b)| round_to_bf16(a) * round_to_bf16(b)).sum::<f32>()
                        }
                    });
                    trace.dx[(row * dims.t + t) * dims.i + i] = products.sum();
                }
            }
        }
    }
}

/// One step of the cell for a panel of units.
struct ForwardStep<'a> {
    sizes: Sizes,
    rows: usize,
    t: usize,
    u: usize,
    weights: &'a Weights,
    scratch: &'a mut Scratch,
}

impl ForwardStep<'_> {
    /// The gates before their activation.
    #[inline(always)]
    fn sums<S: Simd, const MR: usize>(&self, s: S, first: usize) -> Sums<S, MR, GATES> {
        let Sizes { dims, inputs, panel, depth, .. } = self.sizes;
        let (rows, t) = (self.rows, self.t);
        let Scratch { x, h, step_places, .. } = &*self.scratch;
        let (recurrent, input) =
            self.weights.forward[self.u * depth * panel..][..depth * panel].split_at(dims.h * panel);
        let right = |values| Right { values, stride: panel };
        let mut sums = zeros::<S, MR, GATES>(s);
        // At the first step the hidden state is zero.
        if t > 0 {
            let h = Left::rows(&h[self.slot(t, first)..], self.sizes.hidden);
            multiply(s, &mut sums, dims.h, h, right(recurrent));
        }
        let x = Left::rows(&x[(t * rows + first) * inputs..], inputs);
        multiply_at(s, &mut sums, &step_places[first], x, right(input));
        sums
    }

    /// The same with products in bf16.
    #[inline(always)]
    fn sums_of_pairs<S: Simd, const MR: usize>(&self, s: S, first: usize) -> Sums<S, MR, GATES> {
        let Sizes { hidden, panel, depth, hidden_pairs, input_pairs, .. } = self.sizes;
        let (rows, t, u) = (self.rows, self.t, self.u);
        let depth_pairs = self.sizes.depth_pairs();
        let pairs = &self.weights.forward_pairs[u * depth_pairs * panel..][..depth_pairs * panel];
        let (recurrent, input) = pairs.split_at(hidden_pairs * panel);
        let bias = &self.weights.forward[((u + 1) * depth - 1) * panel..];
        let mut row = [s.splat(0.0); GATES];
        row.iter_mut().enumerate().for_each(|(gate, v)| *v = s.load(&bias[gate * S::LANES..]));
        let mut sums = [row; MR];
        let right = |values| Right { values, stride: panel };
        let Scratch { pairs, step_places, .. } = &*self.scratch;
        if t > 0 {
            let h = Left::rows(&pairs.h[(t % 2 * rows + first) * hidden / 2..], hidden / 2);
            multiply(s, &mut sums, hidden_pairs, h, right(recurrent));
        }
        let x = Left::rows(&pairs.x[(t * rows + first) * input_pairs..], input_pairs);
        multiply_at(s, &mut sums, &step_places[first], x, right(input));
        sums
    }

    /// Where a row of `h` and `c` lies.
    #[inline(always)]
    fn slot(&self, t: usize, row: usize) -> usize {
        ((if self.scratch.saving { t } else { t % 2 }) * self.rows + row) * self.sizes.hidden
    }
}

impl Rows for ForwardStep<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let Sizes { dims, hidden, panel, .. } = self.sizes;
        let (rows, t, u) = (self.rows, self.t, self.u);
        let sums: Sums<S, MR, GATES> = if S::PAIRS { self.sums_of_pairs(s, first) } else { self.sums(s, first) };
        let Scratch { h, c, gates, pairs, saving, .. } = &mut *self.scratch;
        let slot = |t: usize, row: usize| ((if *saving { t } else { t % 2 }) * rows + row) * hidden;
        let unit = u * S::LANES;
        for (r, a) in sums.into_iter().enumerate() {
            let row = first + r;
            let i = sigmoid(s, a[gate::I]);
            let f = sigmoid(s, a[gate::F]);
            let g = tanh(s, a[gate::G]);
            let o = sigmoid(s, a[gate::O]);
            let c_now = s.fma(f, s.load(&c[slot(t, row) + unit..]), s.mul(i, g));
            let tanh_now = tanh(s, c_now);
            s.store(&mut c[slot(t + 1, row) + unit..], c_now);
            let h_now = s.mul(o, tanh_now);
            s.store(&mut h[slot(t + 1, row) + unit..], h_now);
            if S::PAIRS {
                s.store_rounded(&mut pairs.h[(((t + 1) % 2 * rows + row) * hidden + unit) / 2..], h_now);
            }
            if *saving {
                let gates = &mut gates[((u * dims.t + t) * rows + row) * panel..][..panel];
                s.store(&mut gates[gate::I * S::LANES..], i);
                s.store(&mut gates[gate::F * S::LANES..], f);
                s.store(&mut gates[gate::G * S::LANES..], g);
                s.store(&mut gates[gate::O * S::LANES..], o);
            }
        }
    }
}

/// One step backward for a strip of `NV` vectors of units.
struct BackwardStep<'a, const NV: usize> {
    sizes: Sizes,
    rows: usize,
    t: usize,
    /// First unit of the strip.
    unit: usize,
    /// `w_hᵀ`, this strip's columns.
    weights: &'a [f32],
    /// The same for products in bf16.
    weight_pairs: &'a [Pair],
    scratch: &'a mut Scratch,
}

impl<const NV: usize> Rows for BackwardStep<'_, NV> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let Sizes { dims, hidden, panel, panels, .. } = self.sizes;
        let (rows, t) = (self.rows, self.t);
        let Scratch { h, c, gates, dh_last, dc, pairs, .. } = &mut *self.scratch;
        let pairs_at = |u: usize, t: usize, row: usize| ((t % 2 * panels + u) * rows + row) * panel / 2;
        let panel_at = |u: usize, t: usize, row: usize| ((u * dims.t + t) * rows + row) * panel;
        let mut dh = zeros::<S, MR, NV>(s);
        if t + 1 == dims.t {
            for (r, dh) in dh.iter_mut().enumerate() {
                for (j, dh) in dh.iter_mut().enumerate() {
                    *dh = s.load(&dh_last[(first + r) * hidden + self.unit + j * S::LANES..]);
                }
            }
        } else if S::PAIRS {
            for u in 0..panels {
                let left = Left::rows(&pairs.da[pairs_at(u, t + 1, first)..], panel / 2);
                let stride = NV * S::LANES;
                let right = Right { values: &self.weight_pairs[u * panel / 2 * stride..], stride };
                multiply(s, &mut dh, panel / 2, left, right);
            }
        } else {
            for u in 0..panels {
                let left = Left::rows(&gates[panel_at(u, t + 1, first)..], panel);
                let stride = NV * S::LANES;
                let right = Right { values: &self.weights[u * panel * stride..], stride };
                multiply(s, &mut dh, panel, left, right);
            }
        }
        let one = s.splat(1.0);
        for (r, dh) in dh.into_iter().enumerate() {
            for (j, dh) in dh.into_iter().enumerate() {
                let row = first + r;
                let unit = self.unit + j * S::LANES;
                let at = panel_at(unit / S::LANES, t, row);
                let gates = &mut gates[at..at + panel];
                let i = s.load(&gates[gate::I * S::LANES..]);
                let f = s.load(&gates[gate::F * S::LANES..]);
                let g = s.load(&gates[gate::G * S::LANES..]);
                let o = s.load(&gates[gate::O * S::LANES..]);
                // h = o · tanh(c): dividing is cheaper than keeping another tensor.
                let tanh_c = s.div(s.load(&h[((t + 1) * rows + row) * hidden + unit..]), o);
                let c_before = s.load(&c[(t * rows + row) * hidden + unit..]);
                let dc = &mut dc[row * hidden + unit..];
                let dc_now = s.fma(s.mul(dh, o), s.fnma(tanh_c, tanh_c, one), s.load(dc));
                s.store(dc, s.mul(dc_now, f));
                let rounded = pairs_at(unit / S::LANES, t, row);
                // A loop, for a closure might become a function of its own without the instructions.
                let da = [
                    (gate::I, s.mul(s.mul(dc_now, g), s.fnma(i, i, i))),
                    (gate::F, s.mul(s.mul(dc_now, c_before), s.fnma(f, f, f))),
                    (gate::G, s.mul(s.mul(dc_now, i), s.fnma(g, g, one))),
                    (gate::O, s.mul(s.mul(dh, tanh_c), s.fnma(o, o, o))),
                ];
                for (gate, da) in da {
                    s.store(&mut gates[gate * S::LANES..], da);
                    if S::PAIRS {
                        s.store_rounded(&mut pairs.da[rounded + gate * S::LANES / 2..], da);
                    }
                }
            }
        }
    }
}

/// All steps forward and the logits, for the rows that were gathered.
#[inline(always)]
pub fn forward<S: Simd>(s: S, sizes: Sizes, weights: &Weights, scratch: &mut Scratch, rows: usize) {
    let Sizes { dims, hidden, inputs, input_pairs, .. } = sizes;
    if S::PAIRS {
        scratch.pairs.round_inputs(sizes, &scratch.x[..dims.t * rows * inputs], rows);
    }
    scratch.c[..rows * hidden].fill(0.0);
    scratch.h[..rows * hidden].fill(0.0);
    for t in 0..dims.t {
        if S::PAIRS {
            let x = Left::rows(&scratch.pairs.x[t * rows * input_pairs..], input_pairs);
            wide(s, rows, &mut FindPlaces { left: x, depth: input_pairs, places: &mut scratch.step_places });
        } else {
            let x = Left::rows(&scratch.x[t * rows * inputs..], inputs);
            wide(s, rows, &mut FindPlaces { left: x, depth: inputs, places: &mut scratch.step_places });
        }
        for u in 0..sizes.panels {
            wide(s, rows, &mut ForwardStep { sizes, rows, t, u, weights, scratch });
        }
        if S::PAIRS && scratch.saving {
            let n = rows.div_ceil(2) * hidden;
            let (from, to) = (&scratch.h[(t + 1) * rows * hidden..][..rows * hidden], &mut scratch.pairs.h_rows);
            PairRows { from, stride: hidden, width: hidden, to: &mut to[t * n..(t + 1) * n] }.run(s);
        }
    }
    let last = if scratch.saving { dims.t } else { dims.t % 2 };
    let h_last = &scratch.h[last * rows * hidden..];
    for row in scratch.logits.chunks_exact_mut(sizes.classes).take(rows) {
        row.copy_from_slice(&weights.head_bias);
    }
    for (column, vectors, strip) in weights.head.iter() {
        let out = &mut scratch.logits[column..];
        let left = Left::rows(h_last, hidden);
        product(s, sizes, rows, left, dims.h, (vectors, strip), out, sizes.classes, true);
    }
}

/// All steps backward, from `dlogits`.
#[inline(always)]
pub fn backward<S: Simd>(s: S, sizes: Sizes, weights: &Weights, scratch: &mut Scratch, rows: usize) {
    let Sizes { dims, hidden, classes, panels, panel, .. } = sizes;
    for (column, vectors, strip) in weights.head_transposed.iter() {
        let left = Left::rows(&scratch.dlogits, classes);
        product(s, sizes, rows, left, dims.k, (vectors, strip), &mut scratch.dh_last[column..], hidden, false);
    }
    scratch.dc[..rows * hidden].fill(0.0);
    scratch.pairs.bias.fill(0.0);
    let pairs = &weights.recurrent_pairs;
    for t in (0..dims.t).rev() {
        for (unit, vectors, weights) in weights.recurrent_transposed.iter() {
            let weight_pairs = if S::PAIRS { pairs.strip(unit) } else { &[] };
            if vectors == 2 {
                narrow(s, rows, &mut BackwardStep::<2> { sizes, rows, t, unit, weights, weight_pairs, scratch });
            } else {
                narrow(s, rows, &mut BackwardStep::<1> { sizes, rows, t, unit, weights, weight_pairs, scratch });
            }
        }
        if S::PAIRS {
            let n = rows.div_ceil(2) * panel;
            for u in 0..panels {
                let at = u * dims.t + t;
                let from = &scratch.gates[at * rows * panel..][..rows * panel];
                add_rows(s, from, &mut scratch.pairs.bias[u * panel..][..panel]);
                PairRows { from, stride: panel, width: panel, to: &mut scratch.pairs.da_rows[at * n..][..n] }.run(s);
            }
        }
    }
}

/// Adds every row of `from` to `sums`, both whole vectors wide.
#[inline(always)]
fn add_rows<S: Simd>(s: S, from: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    for n in (0..width).step_by(S::LANES) {
        let mut sum = s.load(&sums[n..]);
        for row in from.chunks_exact(width) {
            sum = s.add(sum, s.load(&row[n..]));
        }
        s.store(&mut sums[n..], sum);
    }
}

/// `out (+)= left [rows, depth] · strip`, a product of one or two vectors' width.
#[expect(clippy::too_many_arguments)]
#[inline(always)]
pub fn product<S: Simd>(
    s: S,
    sizes: Sizes,
    rows: usize,
    left: Left,
    depth: usize,
    (vectors, right): (usize, &[f32]),
    out: &mut [f32],
    row_stride: usize,
    add: bool,
) {
    let (lanes, vector_stride) = (sizes.lanes, sizes.lanes);
    let right = Right { values: right, stride: vectors * lanes };
    if vectors == 2 {
        narrow(s, rows, &mut Product { left, depth, right, out, row_stride, vector_stride, lanes: [lanes; 2], add });
    } else {
        narrow(s, rows, &mut Product { left, depth, right, out, row_stride, vector_stride, lanes: [lanes; 1], add });
    }
}

/// Scores a chunk: forward only.
pub struct Score<'a> {
    pub sizes: Sizes,
    pub weights: &'a Weights,
    pub scratch: &'a mut Scratch,
    pub rows: usize,
}

impl Kernel for Score<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        forward(s, self.sizes, self.weights, self.scratch, self.rows);
    }
}
