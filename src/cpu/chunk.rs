//! A few rows of the batch through one cell, all steps forward and all steps backward.
//!
//! Steps are numbered in the order in which the cell reads them. At a step that a sequence does not have, its state is
//! carried on and its gradients are zero.

use super::math::{sigmoid, tanh};
use super::simd::{Kernel, Pair, Simd};
use super::sizes::Sizes;
use super::tile::{FindPlaces, Left, Places, Product, Right, Rows, Sums, multiply, multiply_at, narrow, wide, zeros};
use super::weights::{CellWeights, PairRows};
use crate::precision::Precision;
use crate::shape::{GATES, gate};

/// Most rows of a chunk.
pub const CHUNK_ROWS: usize = 16;

/// Room for what a chunk computes, for up to [`CHUNK_ROWS`] rows; R is the rows of the chunk at hand.
pub struct Scratch {
    /// Steps of each row, `[R]`; empty if all have T.
    pub lengths: Vec<u32>,
    /// Inputs and a one behind each step's, `[T,R,I+1]`.
    pub x: Vec<f32>,
    /// Hidden state, `[T+1,R,H]`; slot 0 is zero.
    pub h: Vec<f32>,
    /// Cell state, `[T+1,R,H]`; slot 0 is zero.
    pub c: Vec<f32>,
    /// `[U][T,R,4L]`: from the forward pass the gates after their activation, of which the backward pass makes, step by
    /// step and in place, the gradient `da` by the gates before their activation. (In place, for it is the largest tensor.)
    pub gates: Vec<f32>,
    /// Gradient by the hidden states as others read them: by the last one, `[R,H]`, or by those of every step, `[T,R,H]`.
    pub dh: Vec<f32>,
    /// Gradient by the cell state at the step at hand, `[R,H]`.
    dc: Vec<f32>,
    /// Where each block of rows has inputs that are not zero, at the step at hand.
    step_places: Vec<Places>,
    /// Where each block of inputs is not zero, among all steps and rows.
    pub input_places: Vec<Places>,
    /// The factors of products in bf16.
    pub pairs: Pairs,
    /// True if `h` and `c` are kept of all steps; else they have two slots that take turns.
    keeps_states: bool,
}

/// What a chunk keeps of a cell's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The state at hand.
    Nothing,
    /// States, which a layer above or a pool reads.
    States,
    /// Everything, for the backward pass.
    All,
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
    /// Room for a chunk.
    pub fn new(sizes: Sizes, keep: Keep, precision: Precision) -> Self {
        let Sizes { dims, hidden, gates, inputs, .. } = sizes;
        let (rows, training) = (CHUNK_ROWS, keep == Keep::All);
        let zeros = |n: usize| vec![0.0; n];
        let (slots, steps) = (if keep == Keep::Nothing { 2 } else { dims.t + 1 }, if training { dims.t } else { 0 });
        Self {
            lengths: Vec::new(),
            x: zeros(dims.t * rows * inputs),
            h: zeros(slots * rows * hidden),
            c: zeros(slots * rows * hidden),
            gates: zeros(steps * rows * gates),
            dh: zeros(rows * hidden),
            dc: zeros(rows * hidden),
            step_places: vec![Places::default(); rows],
            input_places: vec![Places::default(); if training { inputs } else { 0 }],
            pairs: if precision == Precision::Bf16 { Pairs::new(sizes, training) } else { Pairs::default() },
            keeps_states: keep != Keep::Nothing,
        }
    }

    /// Where the state before step `t` (after all of them for T) of the first of `rows` rows lies in `h` and `c`.
    pub fn slot(&self, sizes: Sizes, rows: usize, t: usize) -> usize {
        (if self.keeps_states { t } else { t % 2 }) * rows * sizes.hidden
    }

    /// Whether `row` has no step at place `place` of the reading order.
    #[inline(always)]
    fn is_over(&self, sizes: Sizes, row: usize, place: usize) -> bool {
        self.lengths.get(row).is_some_and(|&length| sizes.place(place) >= length as usize)
    }
}

/// What a step makes of a vector of units.
pub struct Activated<V> {
    /// After their activation.
    pub gates: [V; GATES],
    /// Cell state.
    pub c: V,
    /// Hidden state.
    pub h: V,
}

/// From the gates before their activation and the cell state before the step.
#[inline(always)]
pub fn activate<S: Simd>(s: S, a: [S::V; GATES], c_before: S::V) -> Activated<S::V> {
    let i = sigmoid(s, a[gate::I]);
    let f = sigmoid(s, a[gate::F]);
    let g = tanh(s, a[gate::G]);
    let o = sigmoid(s, a[gate::O]);
    let c = s.fma(f, c_before, s.mul(i, g));
    Activated { gates: [i, f, g, o], c, h: s.mul(o, tanh(s, c)) }
}

/// One step of the cell for a panel of units.
struct ForwardStep<'a> {
    sizes: Sizes,
    rows: usize,
    t: usize,
    u: usize,
    weights: &'a CellWeights,
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
        self.scratch.slot(self.sizes, self.rows, t) + row * self.sizes.hidden
    }
}

impl Rows for ForwardStep<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let Sizes { dims, hidden, panel, .. } = self.sizes;
        let (rows, t, u) = (self.rows, self.t, self.u);
        let sums: Sums<S, MR, GATES> = if S::PAIRS { self.sums_of_pairs(s, first) } else { self.sums(s, first) };
        let unit = u * S::LANES;
        for (r, a) in sums.into_iter().enumerate() {
            let row = first + r;
            let (before, after) = (self.slot(t, row) + unit, self.slot(t + 1, row) + unit);
            let is_over = self.scratch.is_over(self.sizes, row, t);
            let Scratch { h, c, gates, pairs, .. } = &mut *self.scratch;
            let Activated { gates: [i, f, g, o], c: mut c_now, h: mut h_now } = activate(s, a, s.load(&c[before..]));
            if is_over {
                (c_now, h_now) = (s.load(&c[before..]), s.load(&h[before..]));
            }
            s.store(&mut c[after..], c_now);
            s.store(&mut h[after..], h_now);
            if S::PAIRS {
                s.store_rounded(&mut pairs.h[(((t + 1) % 2 * rows + row) * hidden + unit) / 2..], h_now);
            }
            if !gates.is_empty() {
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
    /// Whether there is a gradient by every step's hidden state, and not only by the last one's.
    of_every_step: bool,
}

impl<const NV: usize> Rows for BackwardStep<'_, NV> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let Sizes { dims, hidden, panel, panels, .. } = self.sizes;
        let (rows, t) = (self.rows, self.t);
        let Scratch { h, c, gates, dh: dh_outside, dc, pairs, lengths, .. } = &mut *self.scratch;
        let pairs_at = |u: usize, t: usize, row: usize| ((t % 2 * panels + u) * rows + row) * panel / 2;
        let panel_at = |u: usize, t: usize, row: usize| ((u * dims.t + t) * rows + row) * panel;
        let mut dh = zeros::<S, MR, NV>(s);
        let last = t + 1 == dims.t;
        if last {
            // Nothing comes from later.
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
        if last || self.of_every_step {
            let step = if self.of_every_step { t } else { 0 };
            for (r, dh) in dh.iter_mut().enumerate() {
                for (j, dh) in dh.iter_mut().enumerate() {
                    let at = (step * rows + first + r) * hidden + self.unit + j * S::LANES;
                    let outside = s.load(&dh_outside[at..]);
                    *dh = if last { outside } else { s.add(*dh, outside) };
                }
            }
        }
        let one = s.splat(1.0);
        for (r, dh) in dh.into_iter().enumerate() {
            let row = first + r;
            let is_over = lengths.get(row).is_some_and(|&length| self.sizes.place(t) >= length as usize);
            for (j, dh) in dh.into_iter().enumerate() {
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
                let zero = s.splat(0.0);
                s.store(dc, if is_over { zero } else { s.mul(dc_now, f) });
                let rounded = pairs_at(unit / S::LANES, t, row);
                // A loop, for a closure might become a function of its own without the instructions.
                let da = [
                    (gate::I, s.mul(s.mul(dc_now, g), s.fnma(i, i, i))),
                    (gate::F, s.mul(s.mul(dc_now, c_before), s.fnma(f, f, f))),
                    (gate::G, s.mul(s.mul(dc_now, i), s.fnma(g, g, one))),
                    (gate::O, s.mul(s.mul(dh, tanh_c), s.fnma(o, o, o))),
                ];
                for (gate, da) in da {
                    let da = if is_over { zero } else { da };
                    s.store(&mut gates[gate * S::LANES..], da);
                    if S::PAIRS {
                        s.store_rounded(&mut pairs.da[rounded + gate * S::LANES / 2..], da);
                    }
                }
            }
        }
    }
}

/// All steps forward, of the inputs in `x`.
#[inline(always)]
pub fn forward<S: Simd>(s: S, sizes: Sizes, weights: &CellWeights, scratch: &mut Scratch, rows: usize) {
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
        if S::PAIRS && !scratch.gates.is_empty() {
            let n = rows.div_ceil(2) * hidden;
            let (from, to) = (&scratch.h[(t + 1) * rows * hidden..][..rows * hidden], &mut scratch.pairs.h_rows);
            PairRows { from, stride: hidden, width: hidden, to: &mut to[t * n..(t + 1) * n] }.run(s);
        }
    }
}

/// All steps backward, from `dh`: the gradient by every step's hidden state, or by the last one's alone.
#[inline(always)]
pub fn backward<S: Simd>(
    s: S,
    sizes: Sizes,
    weights: &CellWeights,
    scratch: &mut Scratch,
    rows: usize,
    of_every_step: bool,
) {
    let Sizes { dims, hidden, panels, panel, .. } = sizes;
    scratch.dc[..rows * hidden].fill(0.0);
    scratch.pairs.bias.fill(0.0);
    let pairs = &weights.recurrent_pairs;
    for t in (0..dims.t).rev() {
        for (unit, vectors, weights) in weights.recurrent_transposed.iter() {
            let weight_pairs = if S::PAIRS { pairs.strip(unit) } else { &[] };
            macro_rules! step {
                ($vectors:literal) => {
                    BackwardStep::<$vectors> { sizes, rows, t, unit, weights, weight_pairs, scratch, of_every_step }
                };
            }
            if vectors == 2 {
                narrow(s, rows, &mut step!(2));
            } else {
                narrow(s, rows, &mut step!(1));
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
    rows: usize,
    left: Left,
    depth: usize,
    (vectors, right): (usize, &[f32]),
    out: &mut [f32],
    row_stride: usize,
    add: bool,
) {
    let (lanes, vector_stride) = (S::LANES, S::LANES);
    let right = Right { values: right, stride: vectors * lanes };
    if vectors == 2 {
        narrow(s, rows, &mut Product { left, depth, right, out, row_stride, vector_stride, lanes: [lanes; 2], add });
    } else {
        narrow(s, rows, &mut Product { left, depth, right, out, row_stride, vector_stride, lanes: [lanes; 1], add });
    }
}
