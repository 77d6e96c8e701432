//! Gradients of the parameters: each group of chunks sums its own, the groups are added in a fixed order, and the input
//! layer is unfolded from the sum. Nothing here depends on the number of threads.

use super::chunk::{self, Scratch, backward, forward};
use super::head::softmax_xent;
use super::simd::{Isa, Kernel, Simd};
use super::sizes::Sizes;
use super::tile::{Factor, FindPlaces, Left, Places, Product, Right, Rows, multiply_at, narrow, wide, zeros};
use super::weights::{Weights, gate_segments};
use crate::model::Model;
use crate::shape::{GATES, Tensors};
use rayon::prelude::*;

/// Gradients of the packed weights.
pub struct Packed {
    /// As [`Weights::forward`], `[U][H + I+1, 4L]`.
    pub lstm: Vec<f32>,
    /// `[H,K]`, K padded.
    pub head: Vec<f32>,
    /// `[K]`, padded.
    pub head_bias: Vec<f32>,
}

impl Packed {
    /// All zeros.
    pub fn new(sizes: Sizes) -> Self {
        Self {
            lstm: vec![0.0; sizes.panels * sizes.depth * sizes.panel],
            head: vec![0.0; sizes.dims.h * sizes.classes],
            head_bias: vec![0.0; sizes.classes],
        }
    }

    /// Number of floats of each tensor together.
    pub fn len(sizes: Sizes) -> usize {
        sizes.panels * sizes.depth * sizes.panel + (sizes.dims.h + 1) * sizes.classes
    }
}

/// Trains on a chunk: forward, loss, backward, and its share of the gradients.
pub struct TrainChunk<'a> {
    pub sizes: Sizes,
    pub weights: &'a Weights,
    pub scratch: &'a mut Scratch,
    /// `[R]`
    pub labels: &'a [u32],
    /// Share of the target that is spread over all classes.
    pub smoothing: f32,
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
    fn run<S: Simd>(mut self, s: S) {
        let Sizes { dims, hidden, classes, .. } = self.sizes;
        let rows = self.labels.len();
        forward(s, self.sizes, self.weights, self.scratch, rows);
        let logits = self.scratch.logits.chunks_exact(classes);
        let dlogits = self.scratch.dlogits.chunks_exact_mut(classes);
        for ((logits, dlogits), &label) in logits.zip(dlogits).zip(self.labels) {
            let gradient = Some((&mut dlogits[..dims.k], self.scale));
            self.scores.push(softmax_xent(&logits[..dims.k], label as usize, self.smoothing, gradient));
        }
        backward(s, self.sizes, self.weights, self.scratch, rows);

        if S::PAIRS {
            self.add_lstm_of_pairs(s, rows);
        } else {
            self.add_lstm(s, rows);
        }

        let Scratch { h, dlogits, .. } = self.scratch;
        let steps = dims.t * rows;
        let (head, head_bias) = (&mut self.gradient.head, &mut self.gradient.head_bias);
        if !self.add {
            head.fill(0.0);
            head_bias.fill(0.0);
        }
        let h_last = h[steps * hidden..].chunks_exact(hidden);
        for (h, dlogits) in h_last.zip(dlogits.chunks_exact(classes)).take(rows) {
            for (&h, out) in h.iter().zip(head.chunks_exact_mut(classes)) {
                out.iter_mut().zip(dlogits).for_each(|(out, d)| *out += h * d);
            }
            head_bias.iter_mut().zip(dlogits).for_each(|(out, d)| *out += d);
        }
    }
}

impl TrainChunk<'_> {
    /// Adds the chunk's share of the gradients of the packed LSTM weights.
    #[inline(always)]
    fn add_lstm<S: Simd>(&mut self, s: S, rows: usize) {
        let Sizes { dims, hidden, panel, inputs, depth, .. } = self.sizes;
        let Scratch { x, h, gates: da, input_places: places, .. } = &mut *self.scratch;
        let (steps, add) = (dims.t * rows, self.add);
        let x = Left::columns(x, inputs);
        wide(s, inputs, &mut FindPlaces { left: x, depth: steps, places });
        for (u, out) in self.gradient.lstm.chunks_exact_mut(depth * panel).enumerate() {
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
    fn add_lstm_of_pairs<S: Simd>(&mut self, s: S, rows: usize) {
        let Sizes { dims, hidden, panel, depth, .. } = self.sizes;
        let Scratch { pairs, input_places: places, .. } = &mut *self.scratch;
        let (rows, add) = (rows.div_ceil(2), self.add);
        let steps = dims.t * rows;
        let x = Left::columns(&pairs.x_rows, dims.i);
        wide(s, dims.i, &mut FindPlaces { left: x, depth: steps, places });
        for (u, out) in self.gradient.lstm.chunks_exact_mut(depth * panel).enumerate() {
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
    let add = |total: &mut Vec<f32>, tensor: fn(&Packed) -> &Vec<f32>| {
        total.par_chunks_mut(PART).enumerate().for_each(|(part, total)| {
            let part = part * PART..part * PART + total.len();
            total.copy_from_slice(&tensor(&groups[0])[part.clone()]);
            for group in &groups[1..] {
                total.iter_mut().zip(&tensor(group)[part.clone()]).for_each(|(total, v)| *total += v);
            }
        });
    };
    add(&mut total.lstm, |g| &g.lstm);
    add(&mut total.head, |g| &g.head);
    add(&mut total.head_bias, |g| &g.head_bias);
}

/// The flat gradient from the packed one: unpacks the LSTM's and the head's, unfolds the input layer's.
///
/// With M the gradient of the folded input weights and s that of the bias, `[M; s]` is `[I+1, 4H]` and
/// `dW_x = [W_in; b_in]ᵀ · [M; s]`, `[dW_in; db_in] = [M; s] · W_xᵀ`, `db = s`.
pub fn unpack(
    isa: Isa,
    model: &Model,
    sizes: Sizes,
    weights: &Weights,
    parameters: &[f32],
    total: &Packed,
    gradient: &mut [f32],
) {
    let Sizes { dims, depth, panel, classes, .. } = sizes;
    let layout = model.layout();
    let Tensors { input: Some(input), cells, output } = layout.ranges() else {
        unreachable!("such a model has an input layer")
    };
    let (ranges, g) = (&cells[0], dims.g());
    let layer = &parameters[input.w.start..input.b.end];
    let (input, rest) = gradient.split_at_mut(input.b.end);
    let (w_x, rest) = rest.split_at_mut(ranges.w_x.len());
    let (w_h, rest) = rest.split_at_mut(ranges.w_h.len());
    let (b, rest) = rest.split_at_mut(ranges.b.len());
    let (w_out, b_out) = rest.split_at_mut(output.w.len());

    rayon::join(
        || isa.run(UnfoldInput { sizes, weights, total, out: input }),
        || {
            /// Rows of `w_x` that a thread unfolds at a time; a multiple of every block's height.
            const ROWS: usize = 12;
            w_x.par_chunks_mut(ROWS * g).enumerate().for_each(|(n, out)| {
                isa.run(UnfoldRecurrent { sizes, layer: &layer[n * ROWS..], total, out });
            });
            w_h.par_chunks_mut(g).enumerate().for_each(|(row, out)| unpack_row(sizes, total, row, out));
        },
    );
    unpack_row(sizes, total, depth - 1, b);
    for (out, row) in w_out.chunks_exact_mut(dims.k).zip(total.head.chunks_exact(classes)) {
        out.copy_from_slice(&row[..dims.k]);
    }
    b_out.copy_from_slice(&total.head_bias[..dims.k]);
    debug_assert_eq!(panel, sizes.lanes * GATES);
}

/// Row `row` of every panel, in the model's gate order.
fn unpack_row(sizes: Sizes, total: &Packed, row: usize, out: &mut [f32]) {
    let Sizes { depth, panel, .. } = sizes;
    for (packed, range) in gate_segments(sizes) {
        let from = (packed / panel * depth + row) * panel + packed % panel;
        let n = range.len();
        out[range].copy_from_slice(&total.lstm[from..from + n]);
    }
}

/// `[dW_in; db_in] = [M; s] · W_xᵀ`, all of it.
struct UnfoldInput<'a> {
    sizes: Sizes,
    weights: &'a Weights,
    total: &'a Packed,
    /// `[I+1,P]`
    out: &'a mut [f32],
}

impl Kernel for UnfoldInput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { dims, inputs, panel, depth, panels, lanes, .. } = self.sizes;
        // Whole vectors at first: P may end within one.
        let width = dims.p.next_multiple_of(lanes);
        let mut padded = vec![0.0; inputs * width];
        for (column, vectors, strip) in self.weights.input_transposed.iter() {
            for u in 0..panels {
                let left = Left::rows(&self.total.lstm[(u * depth + dims.h) * panel..], panel);
                let right = &strip[u * panel * vectors * lanes..];
                let out = &mut padded[column..];
                chunk::product(s, self.sizes, inputs, left, panel, (vectors, right), out, width, u > 0);
            }
        }
        for (out, padded) in self.out.chunks_exact_mut(dims.p).zip(padded.chunks_exact(width)) {
            out.copy_from_slice(&padded[..dims.p]);
        }
    }
}

/// Some rows of `dW_x = [W_in; b_in]ᵀ · [M; s]`.
struct UnfoldRecurrent<'a> {
    sizes: Sizes,
    /// `[I+1,P]`, from the first of these rows' columns on.
    layer: &'a [f32],
    total: &'a Packed,
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
                    right: Right { values: &self.total.lstm[(u * depth + dims.h) * panel..], stride: panel },
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
