//! Gradients of the parameters: each group of chunks sums its own, the groups are added in a fixed order, and the input
//! layer is unfolded from the sum. Nothing here depends on the number of threads.

use super::chunk::{self, Scratch};
use super::head::softmax_xent;
use super::simd::{Isa, Kernel, Simd};
use super::sizes::{Sizes, Stack};
use super::stack::{Dropout, Room, backward, forward};
use super::tile::{Factor, FindPlaces, Left, Places, Product, Right, Rows, multiply_at, narrow, wide, zeros};
use super::weights::{CellWeights, Weights, gate_segments};
use crate::shape::{Cell, GATES, Linear, Tensors};
use rayon::prelude::*;

/// Gradients of the packed weights.
pub struct Packed {
    /// Of each cell, as [`super::weights::CellWeights::forward`], `[U][H + I+1, 4L]`.
    pub cells: Vec<Vec<f32>>,
    /// `[D·H,K]`, K padded.
    pub head: Vec<f32>,
    /// `[K]`, padded.
    pub head_bias: Vec<f32>,
}

impl Packed {
    /// All zeros.
    pub fn new(stack: &Stack) -> Self {
        Self {
            cells: stack.cells.iter().map(|sizes| vec![0.0; sizes.panels * sizes.depth * sizes.panel]).collect(),
            head: vec![0.0; stack.model.width() * stack.classes],
            head_bias: vec![0.0; stack.classes],
        }
    }

    /// Number of floats of each tensor together.
    pub fn len(stack: &Stack) -> usize {
        let cells: usize = stack.cells.iter().map(|sizes| sizes.panels * sizes.depth * sizes.panel).sum();
        cells + (stack.model.width() + 1) * stack.classes
    }
}

/// Trains on a chunk: forward, loss, backward, and its share of the gradients.
pub struct TrainChunk<'a> {
    pub stack: &'a Stack,
    pub weights: &'a Weights,
    pub room: &'a mut Room,
    /// What is left out between layers.
    pub dropout: Option<Dropout<'a>>,
    /// `[R]`
    pub labels: &'a [u32],
    /// 1/B
    pub scale: f32,
    /// Where the gradients go; replaced by the group's first chunk, added to by the others.
    pub gradient: &'a mut Packed,
    pub add: bool,
    /// Cross-entropy and predicted class of each row.
    pub scores: &'a mut Vec<(f32, u32)>,
}

impl Kernel for TrainChunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { stack, weights, room, labels, add, .. } = self;
        let (rows, k, smoothing) = (labels.len(), stack.model.dims.k, stack.model.label_smoothing);
        forward(s, stack, weights, room, rows, self.dropout.as_ref());
        let logits = room.logits.chunks_exact(stack.classes);
        let dlogits = room.dlogits.chunks_exact_mut(stack.classes);
        for ((logits, dlogits), &label) in logits.zip(dlogits).zip(labels) {
            let gradient = Some((&mut dlogits[..k], self.scale));
            self.scores.push(softmax_xent(&logits[..k], label as usize, smoothing, gradient));
        }
        backward(s, stack, weights, room, rows, self.dropout.as_ref());

        let Packed { cells, head, head_bias } = self.gradient;
        for ((&sizes, scratch), gradient) in stack.cells.iter().zip(&mut room.cells).zip(cells) {
            let mut cell = CellGradient { sizes, scratch, gradient, add };
            if S::PAIRS {
                cell.add_of_pairs(s, rows);
            } else {
                cell.add(s, rows);
            }
        }
        if !add {
            head.fill(0.0);
            head_bias.fill(0.0);
        }
        let read = room.pooled.chunks_exact(stack.pooled);
        for (h, dlogits) in read.zip(room.dlogits.chunks_exact(stack.classes)).take(rows) {
            for (&h, out) in h.iter().zip(head.chunks_exact_mut(stack.classes)) {
                out.iter_mut().zip(dlogits).for_each(|(out, d)| *out += h * d);
            }
            head_bias.iter_mut().zip(dlogits).for_each(|(out, d)| *out += d);
        }
    }
}

/// A chunk's share of the gradient of a cell's packed weights.
struct CellGradient<'a> {
    sizes: Sizes,
    scratch: &'a mut Scratch,
    gradient: &'a mut Vec<f32>,
    add: bool,
}

impl CellGradient<'_> {
    #[inline(always)]
    fn add<S: Simd>(&mut self, s: S, rows: usize) {
        let Sizes { dims, hidden, panel, inputs, depth, .. } = self.sizes;
        let Scratch { x, h, gates: da, input_places: places, .. } = &mut *self.scratch;
        let (steps, add) = (dims.t * rows, self.add);
        let x = Left::columns(x, inputs);
        wide(s, inputs, &mut FindPlaces { left: x, depth: steps, places });
        for (u, out) in self.gradient.chunks_exact_mut(depth * panel).enumerate() {
            let da = &da[u * steps * panel..(u + 1) * steps * panel];
            let (recurrent, input) = out.split_at_mut(dims.h * panel);
            // Two gates at a time: blocks of more units then pass over `da` less often than with four.
            for gates in (0..panel).step_by(2 * S::LANES) {
                // The first step's hidden state is zero.
                let right = Right { values: &da[(rows * panel + gates).min(da.len())..], stride: panel };
                let out = &mut recurrent[gates..];
                let left = Left::columns(&h[rows * hidden..], hidden);
                let (depth, row_stride, vector_stride, lanes) = (steps - rows, panel, S::LANES, [S::LANES; 2]);
                narrow(s, dims.h, &mut Product { left, depth, right, out, row_stride, vector_stride, lanes, add });
            }
            wide(s, inputs, &mut InputGradient { x, da, places, out: input, add });
        }
    }

    /// The same with products in bf16, whose pairs are rows of the chunk.
    #[inline(always)]
    fn add_of_pairs<S: Simd>(&mut self, s: S, rows: usize) {
        let Sizes { dims, hidden, panel, depth, .. } = self.sizes;
        let Scratch { pairs, input_places: places, .. } = &mut *self.scratch;
        let (rows, add) = (rows.div_ceil(2), self.add);
        let steps = dims.t * rows;
        let x = Left::columns(&pairs.x_rows, dims.i);
        wide(s, dims.i, &mut FindPlaces { left: x, depth: steps, places });
        for (u, out) in self.gradient.chunks_exact_mut(depth * panel).enumerate() {
            let da = &pairs.da_rows[u * steps * panel..(u + 1) * steps * panel];
            let (recurrent, input) = out.split_at_mut(dims.h * panel);
            for gates in (0..panel).step_by(2 * S::LANES) {
                let right = Right { values: &da[(rows * panel + gates).min(da.len())..], stride: panel };
                let out = &mut recurrent[gates..];
                let left = Left::columns(&pairs.h_rows, hidden);
                let (depth, row_stride, vector_stride, lanes) = (steps - rows, panel, S::LANES, [S::LANES; 2]);
                narrow(s, dims.h, &mut Product { left, depth, right, out, row_stride, vector_stride, lanes, add });
            }
            let (input, bias) = input.split_at_mut(dims.i * panel);
            wide(s, dims.i, &mut InputGradient { x, da, places, out: input, add });
            let sums = &pairs.bias[u * panel..][..panel];
            bias.iter_mut().zip(sums).for_each(|(bias, sum)| *bias = if add { *bias + sum } else { *sum });
        }
    }
}

/// A panel of the gradient of the folded input weights, `[M; s] (+)= xᵀ · da`.
struct InputGradient<'a, E = f32> {
    /// `[I+1,T·R]`
    x: Left<'a, E>,
    /// `[T·R,4L]`
    da: &'a [E],
    /// Where each block of rows of `x` is not zero.
    places: &'a [Places],
    /// `[I+1,4L]`
    out: &'a mut [f32],
    add: bool,
}

impl<E: Factor> Rows for InputGradient<'_, E> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let mut sums = zeros::<S, MR, GATES>(s);
        let right = Right { values: self.da, stride: GATES * S::LANES };
        multiply_at(s, &mut sums, &self.places[first], self.x.skip_rows(first), right);
        let rows = self.out.chunks_exact_mut(GATES * S::LANES).skip(first);
        for (out, sums) in rows.zip(sums) {
            for (out, sum) in out.chunks_exact_mut(S::LANES).zip(sums) {
                let before = if self.add { s.load(out) } else { s.splat(0.0) };
                s.store(out, s.add(before, sum));
            }
        }
    }
}

/// Adds the groups' gradients, in their order, to `total`.
pub fn reduce(groups: &[Packed], total: &mut Packed) {
    /// Numbers that a thread adds at a time.
    const PART: usize = 4096;
    fn add<'a>(total: &mut [f32], tensor: impl Fn(&'a Packed) -> &'a [f32] + Sync, groups: &'a [Packed]) {
        total.par_chunks_mut(PART).enumerate().for_each(|(part, total)| {
            let part = part * PART..part * PART + total.len();
            total.copy_from_slice(&tensor(&groups[0])[part.clone()]);
            for group in &groups[1..] {
                total.iter_mut().zip(&tensor(group)[part.clone()]).for_each(|(total, v)| *total += v);
            }
        });
    }
    for (n, total) in total.cells.iter_mut().enumerate() {
        add(total, |g| &g.cells[n], groups);
    }
    add(&mut total.head, |g| &g.head, groups);
    add(&mut total.head_bias, |g| &g.head_bias, groups);
}

/// The flat gradient from the packed one: unpacks the LSTM's and the head's, unfolds the input layer's.
///
/// With M the gradient of the folded input weights and s that of the bias, `[M; s]` is `[I+1, 4H]` and
/// `dW_x = [W_in; b_in]ᵀ · [M; s]`, `[dW_in; db_in] = [M; s] · W_xᵀ`, `db = s`. Of two directions the input layer has the
/// sum of both.
pub fn unpack(isa: Isa, stack: &Stack, weights: &Weights, parameters: &[f32], total: &Packed, gradient: &mut [f32]) {
    let layout = stack.model.layout();
    let layer = layout.ranges().input.map(|Linear { w, b }| &parameters[w.start..b.end]);
    let Tensors { input: mut d_layer, cells, output } = layout.view_mut(gradient);
    for ((n, (&sizes, cell)), total) in stack.cells.iter().zip(cells).enumerate().zip(&total.cells) {
        let (dims, g) = (sizes.dims, sizes.dims.g());
        let Cell { w_x, w_h, b } = cell;
        let unpack_rows = |out: &mut [f32], first: usize| {
            out.par_chunks_mut(g).enumerate().for_each(|(row, out)| unpack_row(sizes, total, first + row, out));
        };
        match (layer, &mut d_layer) {
            (Some(layer), Some(out)) if sizes.is_folded => {
                rayon::join(
                    || isa.run(UnfoldInput { sizes, weights: &weights.cells[n], total, out, add: n > 0 }),
                    || {
                        /// Rows of `w_x` that a thread unfolds at a time; a multiple of every block's height.
                        const ROWS: usize = 12;
                        w_x.par_chunks_mut(ROWS * g).enumerate().for_each(|(n, out)| {
                            isa.run(UnfoldRecurrent { sizes, layer: &layer[n * ROWS..], total, out });
                        });
                        unpack_rows(w_h, 0);
                    },
                );
            }
            _ => {
                unpack_rows(w_h, 0);
                unpack_rows(w_x, dims.h);
            }
        }
        unpack_row(sizes, total, sizes.depth - 1, b);
    }
    let k = stack.model.dims.k;
    for (out, row) in output.w.chunks_exact_mut(k).zip(total.head.chunks_exact(stack.classes)) {
        out.copy_from_slice(&row[..k]);
    }
    output.b.copy_from_slice(&total.head_bias[..k]);
}

/// Row `row` of every panel, in the model's gate order.
fn unpack_row(sizes: Sizes, total: &[f32], row: usize, out: &mut [f32]) {
    let Sizes { depth, panel, .. } = sizes;
    for (packed, range) in gate_segments(sizes) {
        let from = (packed / panel * depth + row) * panel + packed % panel;
        let n = range.len();
        out[range].copy_from_slice(&total[from..from + n]);
    }
}

/// `[dW_in; db_in] = [M; s] · W_xᵀ`, all of it.
struct UnfoldInput<'a, 'b> {
    sizes: Sizes,
    weights: &'a CellWeights,
    /// `[U][H + I+1, 4L]`
    total: &'a [f32],
    /// `[I,P]` and `[P]`
    out: &'a mut Linear<&'b mut [f32]>,
    /// Add to what is there instead of replacing it.
    add: bool,
}

impl Kernel for UnfoldInput<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { dims, inputs, panel, depth, panels, lanes, .. } = self.sizes;
        // Whole vectors at first: P may end within one.
        let width = dims.p.next_multiple_of(lanes);
        let mut padded = vec![0.0; inputs * width];
        for (column, vectors, strip) in self.weights.input_transposed.iter() {
            for u in 0..panels {
                let left = Left::rows(&self.total[(u * depth + dims.h) * panel..], panel);
                let right = &strip[u * panel * vectors * lanes..];
                let out = &mut padded[column..];
                chunk::product(s, inputs, left, panel, (vectors, right), out, width, u > 0);
            }
        }
        let Linear { w, b } = self.out;
        let rows = w.chunks_exact_mut(dims.p).chain([&mut b[..]]);
        for (out, padded) in rows.zip(padded.chunks_exact(width)) {
            for (out, &d) in out.iter_mut().zip(padded) {
                *out = if self.add { *out + d } else { d };
            }
        }
    }
}

/// Some rows of `dW_x = [W_in; b_in]ᵀ · [M; s]`.
struct UnfoldRecurrent<'a> {
    sizes: Sizes,
    /// `[I+1,P]`, from the first of these rows' columns on.
    layer: &'a [f32],
    /// `[U][H + I+1, 4L]`
    total: &'a [f32],
    /// `[rows,4H]`
    out: &'a mut [f32],
}

impl Kernel for UnfoldRecurrent<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { dims, inputs, panel, depth, lanes, panels, .. } = self.sizes;
        let rows = self.out.len() / dims.g();
        for u in 0..panels {
            let unit = u * lanes;
            wide(
                s,
                rows,
                &mut Product {
                    left: Left::columns(self.layer, dims.p),
                    depth: inputs,
                    right: Right { values: &self.total[(u * depth + dims.h) * panel..], stride: panel },
                    out: &mut self.out[unit..],
                    row_stride: dims.g(),
                    vector_stride: dims.h,
                    lanes: [self.sizes.lanes_before(unit, dims.h); GATES],
                    add: false,
                },
            );
        }
    }
}
