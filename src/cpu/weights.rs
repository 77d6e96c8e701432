//! The parameters as the products want them, made once an iteration: the input layer folded into the input weights,
//! gates in packed order, transposes for the backward pass.

use super::simd::{Isa, Kernel, Pair, Simd};
use super::sizes::{Sizes, Stack, Strips};
use super::tile::{Left, Product, Right, wide};
use crate::precision::Precision;
use crate::shape::{Cell, GATES, Linear, Tensors, gate};
use rayon::prelude::*;

/// Packed weights.
pub struct Weights {
    stack: Stack,
    /// Of each cell.
    pub cells: Vec<CellWeights>,
    /// `w_out [D·H, K]`
    pub head: Strips,
    /// `w_outᵀ [K, D·H]`
    pub head_transposed: Strips,
    /// `b_out [K]`, padded.
    pub head_bias: Vec<f32>,
}

/// Packed weights of a cell.
pub struct CellWeights {
    sizes: Sizes,
    /// `[U][H + I+1, 4L]`: the rows of `w_h`, of the folded `w_in · w_x` or of `w_x`, and of the (folded) bias.
    pub forward: Vec<f32>,
    /// For products in bf16: `[U][H/2 + I/2, 4L]`, pairs of the rows of `forward` without the bias.
    pub forward_pairs: Vec<Pair>,
    /// `w_hᵀ [4H in packed gate order, H]`
    pub recurrent_transposed: Strips,
    /// For products in bf16: `[2H in packed gate order, H]`, pairs of its rows.
    pub recurrent_pairs: Strips<Pair>,
    /// `w_xᵀ [4H in packed gate order, P]`, or as wide as what a layer above the first reads.
    pub input_transposed: Strips,
    /// `[U][P, 4L]`: `w_x`, while it is folded.
    input: Vec<f32>,
}

impl Weights {
    /// Room for the weights.
    pub fn new(stack: Stack, precision: Precision) -> Self {
        let (width, k, lanes) = (stack.model.width(), stack.model.dims.k, stack.lanes);
        let cell = |n: usize| CellWeights::new(stack.cells[n], stack.transposed_inputs(n), precision);
        Self {
            cells: (0..stack.cells.len()).map(cell).collect(),
            head: Strips::new(width, k, lanes),
            head_transposed: Strips::new(k, width, lanes),
            head_bias: vec![0.0; stack.classes],
            stack,
        }
    }

    /// Packs what the forward pass needs.
    pub fn pack_forward(&mut self, isa: Isa, parameters: &[f32]) {
        let model = self.stack.model;
        let Tensors { input, cells, output } = model.layout().view(parameters);
        for (packed, cell) in self.cells.iter_mut().zip(cells) {
            packed.pack_forward(isa, model.forget_bias, input, cell);
        }
        let k = model.dims.k;
        self.head.par_iter_mut().for_each(|(column, width, strip)| {
            let valid = width.min(k - column);
            for (to, from) in strip.chunks_exact_mut(width).zip(output.w.chunks_exact(k)) {
                to[..valid].copy_from_slice(&from[column..column + valid]);
            }
        });
        self.head_bias[..k].copy_from_slice(output.b);
    }

    /// Packs what the backward pass needs besides.
    pub fn pack_backward(&mut self, isa: Isa, parameters: &[f32]) {
        let k = self.stack.model.dims.k;
        let Tensors { cells, output, .. } = self.stack.model.layout().view(parameters);
        for (packed, cell) in self.cells.iter_mut().zip(cells) {
            packed.pack_backward(isa, cell);
        }
        self.head_transposed.par_iter_mut().for_each(|(column, width, strip)| {
            for (unit, row) in output.w.chunks_exact(k).enumerate().skip(column).take(width) {
                for (class, &weight) in row.iter().enumerate() {
                    strip[class * width + unit - column] = weight;
                }
            }
        });
    }
}

impl CellWeights {
    fn new(sizes: Sizes, transposed_inputs: usize, precision: Precision) -> Self {
        let dims = sizes.dims;
        let pairs = |n: usize| if precision == Precision::Bf16 { n } else { 0 };
        let folded = if sizes.is_folded { dims.p } else { 0 };
        Self {
            sizes,
            forward: vec![0.0; sizes.panels * sizes.depth * sizes.panel],
            forward_pairs: vec![Pair(0); pairs(sizes.panels * sizes.depth_pairs() * sizes.panel)],
            recurrent_transposed: Strips::new(sizes.gates, dims.h, sizes.lanes),
            recurrent_pairs: Strips::new(pairs(sizes.gates / 2), dims.h, sizes.lanes),
            input_transposed: Strips::new(sizes.gates, transposed_inputs, sizes.lanes),
            input: vec![0.0; sizes.panels * folded * sizes.panel],
        }
    }

    fn pack_forward(&mut self, isa: Isa, forget_bias: f32, layer: Option<Linear<&[f32]>>, cell: Cell<&[f32]>) {
        let Sizes { dims, depth, panel, .. } = self.sizes;
        let sizes = self.sizes;
        let pack = |(u, forward): (usize, &mut [f32]), input: &mut [f32]| {
            isa.run(PackPanel { sizes, forget_bias, layer, cell, u, forward, input });
        };
        let panels = self.forward.par_chunks_mut(depth * panel).enumerate();
        if sizes.is_folded {
            panels.zip(self.input.par_chunks_mut(dims.p * panel)).for_each(|(forward, input)| pack(forward, input));
        } else {
            panels.for_each(|forward| pack(forward, &mut []));
        }
        if isa.precision() == Precision::Bf16 {
            let pairs = self.forward_pairs.par_chunks_mut(sizes.depth_pairs() * panel);
            pairs.zip(self.forward.par_chunks(depth * panel)).for_each(|(pairs, forward)| {
                let (recurrent, input) = pairs.split_at_mut(sizes.hidden_pairs * panel);
                isa.run(PairRows { from: &forward[..dims.h * panel], stride: panel, width: panel, to: recurrent });
                let forward = &forward[dims.h * panel..][..dims.i * panel];
                isa.run(PairRows { from: forward, stride: panel, width: panel, to: input });
            });
        }
    }

    fn pack_backward(&mut self, isa: Isa, cell: Cell<&[f32]>) {
        let sizes = self.sizes;
        let transposed = |strips: &mut Strips, from: &[f32]| {
            strips.par_iter_mut().for_each(|(column, width, strip)| transpose_gates(sizes, from, column, width, strip));
        };
        let Self { recurrent_transposed, recurrent_pairs, input_transposed, .. } = self;
        rayon::join(|| transposed(recurrent_transposed, cell.w_h), || transposed(input_transposed, cell.w_x));
        if isa.precision() == Precision::Bf16 {
            recurrent_pairs.par_iter_mut().for_each(|(column, width, to)| {
                isa.run(PairRows { from: recurrent_transposed.strip(column), stride: width, width, to });
            });
        }
    }
}

/// Columns `column..column + width` of the transpose of `from [rows, 4H]`, whose own rows come in packed gate order.
fn transpose_gates(sizes: Sizes, from: &[f32], column: usize, width: usize, strip: &mut [f32]) {
    let g = sizes.dims.g();
    for (n, row) in from.chunks_exact(g).skip(column).take(width).enumerate() {
        for (packed, range) in gate_segments(sizes) {
            for (k, &weight) in row[range].iter().enumerate() {
                strip[(packed + k) * width + n] = weight;
            }
        }
    }
}

/// The pieces of a row of width 4H: where each begins in packed gate order, and where it lies in the row.
pub fn gate_segments(sizes: Sizes) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let h = sizes.dims.h;
    (0..sizes.panels).flat_map(move |u| {
        (0..GATES).map(move |gate| {
            let unit = u * sizes.lanes;
            let start = gate * h + unit;
            (u * sizes.panel + gate * sizes.lanes, start..start + sizes.lanes_before(unit, h))
        })
    })
}

/// Pairs of the rows of a matrix, rounded; the last pair has a zero if the number of rows is odd.
pub struct PairRows<'a> {
    /// `[rows, width]`
    pub from: &'a [f32],
    /// Distance between the rows.
    pub stride: usize,
    /// Numbers in a row, whole vectors.
    pub width: usize,
    /// `[rows/2, width]`
    pub to: &'a mut [Pair],
}

impl Kernel for PairRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (from, to) in self.from.chunks(2 * self.stride).zip(self.to.chunks_exact_mut(self.width)) {
            for n in (0..self.width).step_by(S::LANES) {
                let second = if from.len() > self.stride { s.load(&from[self.stride + n..]) } else { s.splat(0.0) };
                s.store_pairs(&mut to[n..], s.load(&from[n..]), second);
            }
        }
    }
}

struct PackPanel<'a> {
    sizes: Sizes,
    forget_bias: f32,
    /// The input layer `[I,P]` and `[P]`, where it is folded.
    layer: Option<Linear<&'a [f32]>>,
    cell: Cell<&'a [f32]>,
    u: usize,
    /// `[H + I+1, 4L]`
    forward: &'a mut [f32],
    /// `[P, 4L]`, where the input layer is folded.
    input: &'a mut [f32],
}

impl Kernel for PackPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { dims, panel, lanes, .. } = self.sizes;
        let cell = self.cell;
        pack_panel(self.sizes, self.u, cell.w_h, self.forward);
        let inputs = &mut self.forward[dims.h * panel..];
        match self.layer.filter(|_| self.sizes.is_folded) {
            Some(layer) => {
                pack_panel(self.sizes, self.u, cell.w_x, self.input);
                let (folded, bias) = inputs.split_at_mut(dims.i * panel);
                for (rows, left, out) in [(dims.i, layer.w, folded), (1, layer.b, bias)] {
                    wide(
                        s,
                        rows,
                        &mut Product {
                            left: Left::rows(left, dims.p),
                            depth: dims.p,
                            right: Right { values: self.input, stride: panel },
                            out,
                            row_stride: panel,
                            vector_stride: lanes,
                            lanes: [lanes; GATES],
                            add: false,
                        },
                    );
                }
            }
            None => {
                pack_panel(self.sizes, self.u, cell.w_x, inputs);
                inputs[dims.i * panel..].fill(0.0);
            }
        }
        let bias = &mut inputs[dims.i * panel..];
        let valid = self.sizes.lanes_before(self.u * lanes, dims.h);
        for gate in 0..GATES {
            let forget = if gate == gate::F { self.forget_bias } else { 0.0 };
            let from = &cell.b[gate * dims.h + self.u * lanes..][..valid];
            for (to, b) in bias[gate * lanes..].iter_mut().zip(from) {
                *to += b + forget;
            }
        }
    }
}

/// Panel `u` of `from [rows, 4H]`, to `to [rows, 4L]`.
#[inline(always)]
fn pack_panel(sizes: Sizes, u: usize, from: &[f32], to: &mut [f32]) {
    let Sizes { dims, lanes, panel, .. } = sizes;
    let unit = u * lanes;
    let valid = sizes.lanes_before(unit, dims.h);
    for (from, to) in from.chunks_exact(dims.g()).zip(to.chunks_exact_mut(panel)) {
        for gate in 0..GATES {
            to[gate * lanes..][..valid].copy_from_slice(&from[gate * dims.h + unit..][..valid]);
        }
    }
}
