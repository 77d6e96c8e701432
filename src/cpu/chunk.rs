//! A few rows of the batch through the whole sequence: what one thread works on at a time.
//!
//! Rows never exchange anything within an iteration, so a chunk runs all steps forward, the head, and all steps backward,
//! with everything that it saves small enough to stay near the core.

use super::math::{sigmoid, tanh};
use super::simd::{Kernel, Simd};
use super::sizes::Sizes;
use super::tile::{FindPlaces, Left, Places, Product, Right, Rows, multiply, multiply_at, narrow, wide, zeros};
use super::weights::Weights;
use crate::data::{Sequences, Values};
use crate::engine::Trace;
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
    /// True if all steps are kept for the backward pass; else `h` and `c` have two slots that take turns.
    saving: bool,
}

impl Scratch {
    /// Room for forward and, with `training`, backward.
    pub fn new(sizes: Sizes, training: bool) -> Self {
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
                        da.iter().zip(w).map(|(a, b)| a * b).sum::<f32>()
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
    /// The panel's weights, `[H + I+1, 4L]`.
    weights: &'a [f32],
    scratch: &'a mut Scratch,
}

impl Rows for ForwardStep<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let Sizes { dims, hidden, inputs, panel, .. } = self.sizes;
        let (rows, t, u) = (self.rows, self.t, self.u);
        let Scratch { x, h, c, gates, step_places, saving, .. } = &mut *self.scratch;
        let slot = |t: usize, row: usize| ((if *saving { t } else { t % 2 }) * rows + row) * hidden;
        let (recurrent, input) = self.weights.split_at(dims.h * panel);
        let right = |values| Right { values, stride: panel };
        let mut sums = zeros::<S, MR, GATES>(s);
        // At the first step the hidden state is zero.
        if t > 0 {
            multiply(s, &mut sums, dims.h, Left::rows(&h[slot(t, first)..], hidden), right(recurrent));
        }
        let x = Left::rows(&x[(t * rows + first) * inputs..], inputs);
        multiply_at(s, &mut sums, &step_places[first], x, right(input));
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
            s.store(&mut h[slot(t + 1, row) + unit..], s.mul(o, tanh_now));
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
    scratch: &'a mut Scratch,
}

impl<const NV: usize> Rows for BackwardStep<'_, NV> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let Sizes { dims, hidden, panel, panels, .. } = self.sizes;
        let (rows, t) = (self.rows, self.t);
        let Scratch { h, c, gates, dh_last, dc, .. } = &mut *self.scratch;
        let panel_at = |u: usize, t: usize, row: usize| ((u * dims.t + t) * rows + row) * panel;
        let mut dh = zeros::<S, MR, NV>(s);
        if t + 1 == dims.t {
            for (r, dh) in dh.iter_mut().enumerate() {
                for (j, dh) in dh.iter_mut().enumerate() {
                    *dh = s.load(&dh_last[(first + r) * hidden + self.unit + j * S::LANES..]);
                }
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
                let mut da = |gate: usize, v: S::V| s.store(&mut gates[gate * S::LANES..], v);
                da(gate::I, s.mul(s.mul(dc_now, g), s.fnma(i, i, i)));
                da(gate::F, s.mul(s.mul(dc_now, c_before), s.fnma(f, f, f)));
                da(gate::G, s.mul(s.mul(dc_now, i), s.fnma(g, g, one)));
                da(gate::O, s.mul(s.mul(dh, tanh_c), s.fnma(o, o, o)));
            }
        }
    }
}

/// All steps forward and the logits, for the rows that were gathered.
#[inline(always)]
pub fn forward<S: Simd>(s: S, sizes: Sizes, weights: &Weights, scratch: &mut Scratch, rows: usize) {
    let Sizes { dims, hidden, inputs, depth, panel, .. } = sizes;
    scratch.c[..rows * hidden].fill(0.0);
    scratch.h[..rows * hidden].fill(0.0);
    for t in 0..dims.t {
        let x = Left::rows(&scratch.x[t * rows * inputs..], inputs);
        wide(s, rows, &mut FindPlaces { left: x, depth: inputs, places: &mut scratch.step_places });
        for (u, weights) in weights.forward.chunks_exact(depth * panel).enumerate() {
            wide(s, rows, &mut ForwardStep { sizes, rows, t, u, weights, scratch });
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
    let Sizes { dims, hidden, classes, .. } = sizes;
    for (column, vectors, strip) in weights.head_transposed.iter() {
        let left = Left::rows(&scratch.dlogits, classes);
        product(s, sizes, rows, left, dims.k, (vectors, strip), &mut scratch.dh_last[column..], hidden, false);
    }
    scratch.dc[..rows * hidden].fill(0.0);
    for t in (0..dims.t).rev() {
        for (unit, vectors, weights) in weights.recurrent_transposed.iter() {
            if vectors == 2 {
                narrow(s, rows, &mut BackwardStep::<2> { sizes, rows, t, unit, weights, scratch });
            } else {
                narrow(s, rows, &mut BackwardStep::<1> { sizes, rows, t, unit, weights, scratch });
            }
        }
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
