//! A few rows of the batch through the whole model: what one thread works on at a time.
//!
//! Rows never exchange anything within an iteration, so a chunk runs all layers and all steps forward, the head, and all of
//! it backward, with everything that it saves small enough to stay near the core.

use super::chunk::{self, CHUNK_ROWS, Keep, Scratch, product};
use super::simd::{Kernel, Simd, round_to_bf16};
use super::sizes::{Sizes, Stack};
use super::tile::Left;
use super::weights::Weights;
use crate::data::{Sequences, Values};
use crate::dropout::Mask;
use crate::engine::Trace;
use crate::model::Pool;
use crate::precision::Precision;
use std::borrow::Cow;
use std::ops::Range;

/// Room for what a chunk computes, for up to [`CHUNK_ROWS`] rows; R is the rows of the chunk at hand.
pub struct Room {
    /// Of each cell.
    pub cells: Vec<Scratch>,
    /// What the head reads, `[R,D·H]`, padded.
    pub pooled: Vec<f32>,
    /// Gradient by it, likewise.
    d_pooled: Vec<f32>,
    /// `[R,K]`, padded.
    pub logits: Vec<f32>,
    /// `[R,K]`, padded with zeros.
    pub dlogits: Vec<f32>,
    /// Gradient by what a cell reads, `[T,R,M]`, padded to whole vectors.
    d_inputs: Vec<f32>,
    /// Steps of each row, `[R]`; empty if all have T.
    lengths: Vec<u32>,
}

impl Room {
    /// Room for forward and, with `training`, backward.
    pub fn new(stack: &Stack, training: bool, precision: Precision) -> Self {
        let is_read = |n: usize| stack.layer(n) + 1 < stack.model.layers || stack.model.pool != Pool::Last;
        let keep = |n: usize| match training {
            true => Keep::All,
            false if is_read(n) => Keep::States,
            false => Keep::Nothing,
        };
        let cells = stack.cells.iter().enumerate().map(|(n, &sizes)| Scratch::new(sizes, keep(n), precision));
        let zeros = |n: usize| vec![0.0; CHUNK_ROWS * n];
        Self {
            cells: cells.collect(),
            pooled: zeros(stack.pooled),
            d_pooled: zeros(stack.pooled),
            logits: zeros(stack.classes),
            dlogits: zeros(stack.classes),
            d_inputs: Vec::new(),
            lengths: Vec::new(),
        }
    }

    /// Fetches the inputs of `rows` of `sequences`; zeros at the steps that a sequence does not have.
    pub fn gather(&mut self, stack: &Stack, sequences: &Sequences, rows: &[u32]) {
        self.lengths.clear();
        if let Some(lengths) = sequences.lengths() {
            self.lengths.extend(rows.iter().map(|&row| lengths[row as usize]));
        }
        for scratch in &mut self.cells {
            scratch.lengths.clone_from(&self.lengths);
        }
        for n in stack.cells_of(0) {
            let (sizes, x) = (stack.cells[n], &mut self.cells[n].x);
            let (i, per_sequence) = (sizes.dims.i, sizes.dims.sequence_len());
            for (r, &row) in rows.iter().enumerate() {
                let (row, length) = (row as usize, sequences.length(row as usize));
                let mapped = match sequences.values() {
                    Values::Mapped(_) => sequences.numbers(row),
                    Values::U8 { .. } | Values::F32(_) => Cow::default(),
                };
                for t in 0..sizes.dims.t {
                    let to = &mut x[(sizes.place(t) * rows.len() + r) * sizes.inputs..][..sizes.inputs];
                    let span = row * per_sequence + t * i..row * per_sequence + (t + 1) * i;
                    match sequences.values() {
                        _ if t >= length => to[..i].fill(0.0),
                        Values::U8 { bytes, scale } => {
                            let bytes = to.iter_mut().zip(&bytes[span]);
                            bytes.for_each(|(to, &byte)| *to = f32::from(byte) * scale);
                        }
                        Values::F32(values) => to[..i].copy_from_slice(&values[span]),
                        Values::Mapped(_) => to[..i].copy_from_slice(&mapped[t * i..][..i]),
                    }
                    to[i] = 1.0;
                }
            }
        }
    }

    /// What `layer` reads of the one below, in the order of each of its cells.
    fn read_layer_below(&mut self, stack: &Stack, layer: usize, rows: usize, dropout: Option<&Dropout<'_>>) {
        let h = stack.model.dims.h;
        let (below, above) = self.cells.split_at_mut(stack.cells_of(layer).start);
        let first = stack.cells_of(layer - 1).start;
        for (n, scratch) in stack.cells_of(layer).zip(above) {
            let sizes = stack.cells[n];
            for t in 0..sizes.dims.t {
                for r in 0..rows {
                    let to = &mut scratch.x[(sizes.place(t) * rows + r) * sizes.inputs..][..sizes.inputs];
                    let (to, one) = to.split_at_mut(sizes.dims.i);
                    for (to, source) in to.chunks_exact_mut(h).zip(first..) {
                        to.copy_from_slice(&below[source].h[state_after(stack.cells[source], rows, t, r)..][..h]);
                    }
                    if let Some(dropout) = dropout {
                        dropout.leave_out(to, layer - 1, r, t);
                    }
                    one[0] = 1.0;
                }
            }
        }
    }

    /// What the head reads.
    fn pool(&mut self, stack: &Stack, rows: usize) {
        let (h, t) = (stack.model.dims.h, stack.model.dims.t);
        let Self { cells, pooled, lengths, .. } = self;
        for (d, n) in stack.cells_of(stack.model.layers - 1).enumerate() {
            let (sizes, scratch) = (stack.cells[n], &cells[n]);
            for r in 0..rows {
                let to = &mut pooled[r * stack.pooled + d * h..][..h];
                let length = lengths.get(r).map_or(t, |&length| length as usize);
                let at = |t: usize| &scratch.h[state_after(sizes, rows, t, r)..][..h];
                match stack.model.pool {
                    // A state is carried on to the last place.
                    Pool::Last => {
                        to.copy_from_slice(&scratch.h[scratch.slot(sizes, rows, t) + r * sizes.hidden..][..h]);
                    }
                    Pool::Mean => {
                        to.copy_from_slice(at(0));
                        for t in 1..length {
                            to.iter_mut().zip(at(t)).for_each(|(to, h)| *to += h);
                        }
                        to.iter_mut().for_each(|to| *to /= length as f32);
                    }
                    Pool::Max => {
                        to.copy_from_slice(at(0));
                        for t in 1..length {
                            to.iter_mut().zip(at(t)).for_each(|(to, &h)| *to = if h > *to { h } else { *to });
                        }
                    }
                }
            }
        }
    }

    /// From the gradient by what the head reads to that by the last layer's states; whether it is by those of every step.
    fn unpool(&mut self, stack: &Stack, rows: usize) -> bool {
        let (h, t) = (stack.model.dims.h, stack.model.dims.t);
        let Self { cells, pooled, d_pooled, lengths, .. } = self;
        let of_every_step = stack.model.pool != Pool::Last || !lengths.is_empty();
        for (d, n) in stack.cells_of(stack.model.layers - 1).enumerate() {
            let sizes = stack.cells[n];
            let Scratch { h: states, dh, .. } = &mut cells[n];
            if of_every_step {
                dh.resize(dh.len().max(t * CHUNK_ROWS * sizes.hidden), 0.0);
                dh[..t * rows * sizes.hidden].fill(0.0);
            }
            for r in 0..rows {
                let d_pooled = &d_pooled[r * stack.pooled + d * h..][..h];
                let length = lengths.get(r).map_or(t, |&length| length as usize);
                let place = |t: usize| (sizes.place(t) * rows + r) * sizes.hidden;
                match stack.model.pool {
                    Pool::Last if of_every_step => {
                        let end = if sizes.reversed { 0 } else { length - 1 };
                        dh[place(end)..][..h].copy_from_slice(d_pooled);
                    }
                    Pool::Last => dh[r * sizes.hidden..][..h].copy_from_slice(d_pooled),
                    Pool::Mean => {
                        for t in 0..length {
                            let dh = dh[place(t)..].iter_mut().zip(d_pooled);
                            dh.for_each(|(dh, d)| *dh = d / length as f32);
                        }
                    }
                    Pool::Max => {
                        let largest = &pooled[r * stack.pooled + d * h..][..h];
                        for unit in 0..h {
                            // The first one, if several are the largest; none of NaN, whose gradient is NaN anyhow.
                            let at = |t: &usize| states[state_after(sizes, rows, *t, r) + unit] == largest[unit];
                            let t = (0..length).find(at).unwrap_or(0);
                            dh[place(t) + unit] = d_pooled[unit];
                        }
                    }
                }
            }
        }
        of_every_step
    }

    /// Gradient by the states of the layer below `layer`, from that by its gates.
    fn give_layer_below<S: Simd>(
        &mut self,
        s: S,
        stack: &Stack,
        weights: &Weights,
        layer: usize,
        rows: usize,
        dropout: Option<&Dropout<'_>>,
    ) {
        let (h, t, width) = (stack.model.dims.h, stack.model.dims.t, stack.model.width());
        let padded = width.next_multiple_of(S::LANES);
        let Self { cells, d_inputs, .. } = self;
        d_inputs.resize(t * CHUNK_ROWS * padded, 0.0);
        let (below, above) = cells.split_at_mut(stack.cells_of(layer).start);
        let first = stack.cells_of(layer - 1).start;
        for scratch in &mut below[first..] {
            let count = t * CHUNK_ROWS * stack.cells[first].hidden;
            scratch.dh.resize(count.max(scratch.dh.len()), 0.0);
            scratch.dh[..t * rows * stack.cells[first].hidden].fill(0.0);
        }
        for (n, scratch) in stack.cells_of(layer).zip(above) {
            let Sizes { panels, panel, .. } = stack.cells[n];
            let steps = t * rows;
            for (column, vectors, strip) in weights.cells[n].input_transposed.iter() {
                for u in 0..panels {
                    let left = Left::rows(&scratch.gates[u * steps * panel..], panel);
                    let right = &strip[u * panel * vectors * S::LANES..];
                    product(s, steps, left, panel, (vectors, right), &mut d_inputs[column..], padded, u > 0);
                }
            }
            for t in 0..t {
                for r in 0..rows {
                    let from = &mut d_inputs[(stack.cells[n].place(t) * rows + r) * padded..][..width];
                    if let Some(dropout) = dropout {
                        dropout.leave_out(from, layer - 1, r, t);
                    }
                    for (from, target) in from.chunks_exact(h).zip(first..) {
                        let sizes = stack.cells[target];
                        let to = &mut below[target].dh[(sizes.place(t) * rows + r) * sizes.hidden..][..h];
                        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                    }
                }
            }
        }
    }

    /// Copies what a trained chunk computed to rows `span` of `trace`, and works out the gradient by its inputs.
    pub fn copy_results(&self, stack: &Stack, weights: &Weights, span: Range<usize>, trace: &mut Trace) {
        let (dims, width) = (stack.model.dims, stack.model.width());
        let rows = span.len();
        for (r, row) in span.enumerate() {
            trace.logits[row * dims.k..][..dims.k].copy_from_slice(&self.logits[r * stack.classes..][..dims.k]);
            for (d, n) in stack.cells_of(stack.model.layers - 1).enumerate() {
                let (scratch, hidden) = (&self.cells[n], stack.cells[n].hidden);
                let (last, to) = ((dims.t * rows + r) * hidden, row * width + d * dims.h);
                trace.h_last[to..][..dims.h].copy_from_slice(&scratch.h[last..][..dims.h]);
                trace.c_last[to..][..dims.h].copy_from_slice(&scratch.c[last..][..dims.h]);
            }
            for n in stack.cells_of(0) {
                let (sizes, scratch, weights) = (stack.cells[n], &self.cells[n], &weights.cells[n]);
                let Sizes { panel, depth, panels, .. } = sizes;
                for t in 0..dims.t {
                    for i in 0..dims.i {
                        let products = (0..panels).map(|u| {
                            let at = (u * dims.t + sizes.place(t)) * rows + r;
                            let da = &scratch.gates[at * panel..][..panel];
                            let w = &weights.forward[(u * depth + dims.h + i) * panel..][..panel];
                            if scratch.pairs.da_rows.is_empty() {
                                da.iter().zip(w).map(|(a, b)| a * b).sum::<f32>()
                            } else {
                                da.iter().zip(w).map(|(&a, &b)| round_to_bf16(a) * round_to_bf16(b)).sum::<f32>()
                            }
                        });
                        trace.dx[(row * dims.t + t) * dims.i + i] += products.sum::<f32>();
                    }
                }
            }
        }
    }
}

/// Where the state after time step `t` of a row lies, where all are kept.
fn state_after(sizes: Sizes, rows: usize, t: usize, row: usize) -> usize {
    ((sizes.place(t) + 1) * rows + row) * sizes.hidden
}

/// What dropout leaves of a chunk.
pub struct Dropout<'a> {
    pub mask: &'a Mask,
    /// The chunk's first row in the batch.
    pub first: usize,
}

impl Dropout<'_> {
    /// Of the outputs of `layer` at time step `t`, or of the gradient by them, of a row of the chunk.
    fn leave_out(&self, outputs: &mut [f32], layer: usize, row: usize, t: usize) {
        for (quad, outputs) in outputs.chunks_mut(4).enumerate() {
            let factors = self.mask.factors(layer, self.first + row, t, quad);
            outputs.iter_mut().zip(factors).for_each(|(output, factor)| *output *= factor);
        }
    }
}

/// All layers forward and the logits, for the rows that were gathered.
#[inline(always)]
pub fn forward<S: Simd>(
    s: S,
    stack: &Stack,
    weights: &Weights,
    room: &mut Room,
    rows: usize,
    dropout: Option<&Dropout<'_>>,
) {
    for layer in 0..stack.model.layers {
        if layer > 0 {
            room.read_layer_below(stack, layer, rows, dropout);
        }
        for n in stack.cells_of(layer) {
            chunk::forward(s, stack.cells[n], &weights.cells[n], &mut room.cells[n], rows);
        }
    }
    room.pool(stack, rows);
    for row in room.logits.chunks_exact_mut(stack.classes).take(rows) {
        row.copy_from_slice(&weights.head_bias);
    }
    for (column, vectors, strip) in weights.head.iter() {
        let (out, left) = (&mut room.logits[column..], Left::rows(&room.pooled, stack.pooled));
        product(s, rows, left, stack.model.width(), (vectors, strip), out, stack.classes, true);
    }
}

/// All layers backward, from `dlogits`.
#[inline(always)]
pub fn backward<S: Simd>(
    s: S,
    stack: &Stack,
    weights: &Weights,
    room: &mut Room,
    rows: usize,
    dropout: Option<&Dropout<'_>>,
) {
    for (column, vectors, strip) in weights.head_transposed.iter() {
        let (out, left) = (&mut room.d_pooled[column..], Left::rows(&room.dlogits, stack.classes));
        product(s, rows, left, stack.model.dims.k, (vectors, strip), out, stack.pooled, false);
    }
    let mut of_every_step = room.unpool(stack, rows);
    for layer in (0..stack.model.layers).rev() {
        for n in stack.cells_of(layer) {
            chunk::backward(s, stack.cells[n], &weights.cells[n], &mut room.cells[n], rows, of_every_step);
        }
        if layer > 0 {
            room.give_layer_below(s, stack, weights, layer, rows, dropout);
            of_every_step = true;
        }
    }
}

/// Scores a chunk: forward only.
pub struct Score<'a> {
    pub stack: &'a Stack,
    pub weights: &'a Weights,
    pub room: &'a mut Room,
    pub rows: usize,
}

impl Kernel for Score<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        forward(s, self.stack, self.weights, self.room, self.rows, None);
    }
}
