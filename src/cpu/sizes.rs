//! The engine's own sizes: units padded to whole vectors, gates regrouped in panels.
//!
//! A panel holds the four gates of L neighbouring units (i, f, g, o, a vector each), so that a block of sums four vectors
//! wide is all that an LSTM cell needs. "Packed gate order" is panel after panel.

use crate::model::{InputLayer, Model};
use crate::shape::{Dims, GATES};

/// Floats in a cache line.
const LINE: usize = 16;

/// The sizes of a model for vectors of L lanes.
#[derive(Clone, Debug)]
pub struct Stack {
    /// What is computed.
    pub model: Model,
    /// Of each cell, in the order of the parameters: layer after layer, the forward direction first.
    pub cells: Vec<Sizes>,
    /// Distance between rows of what the head reads, D·H numbers.
    pub pooled: usize,
    /// Padded classes.
    pub classes: usize,
    /// L
    pub lanes: usize,
}

impl Stack {
    /// The sizes of `model` for vectors of `lanes`.
    pub fn new(model: Model, lanes: usize) -> Self {
        let directions = model.directions();
        let cell = |n: usize| {
            let (layer, is_folded) = (n / directions, n < directions && model.input_layer == InputLayer::Linear);
            // The input layer is folded into what the first LSTM layer reads.
            let inputs = if layer == 0 { model.dims.i } else { model.width() };
            let reversed = n % directions == 1;
            Sizes { is_folded, reversed, ..Sizes::new(Dims { i: inputs, ..model.dims }, lanes) }
        };
        Self {
            model,
            cells: (0..model.layers * directions).map(cell).collect(),
            pooled: odd_lines(model.width()),
            classes: model.dims.k.next_multiple_of(lanes),
            lanes,
        }
    }

    /// The layer that cell `n` is of.
    pub fn layer(&self, n: usize) -> usize {
        n / self.model.directions()
    }

    /// The cells of `layer`.
    pub fn cells_of(&self, layer: usize) -> std::ops::Range<usize> {
        let directions = self.model.directions();
        layer * directions..(layer + 1) * directions
    }

    /// Columns of the transposed input weights that the backward pass of cell `n` asks for.
    pub fn transposed_inputs(&self, n: usize) -> usize {
        let sizes = self.cells[n];
        match self.layer(n) {
            0 if sizes.is_folded => sizes.dims.p,
            0 => 0,
            _ => sizes.dims.i,
        }
    }
}

/// `n` numbers, padded to an odd number of cache lines.
fn odd_lines(n: usize) -> usize {
    (n.div_ceil(LINE) | 1) * LINE
}

/// The sizes of a cell, one layer in one direction, for vectors of L lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The model's sizes, where I is what this cell reads.
    pub dims: Dims,
    /// Whether the input layer is folded into its input weights.
    pub is_folded: bool,
    /// Whether it reads the last step first. All that is kept of steps is in reading order.
    pub reversed: bool,
    /// L
    pub lanes: usize,
    /// Panels of L units, U.
    pub panels: usize,
    /// Width of a panel, 4L.
    pub panel: usize,
    /// Distance between rows of hidden and cell states: the units, padded to U·L (padding units have zero weights and so
    /// always h = c = 0) and then to an odd number of cache lines, so that a column does not fall into a few sets of the
    /// cache.
    pub hidden: usize,
    /// Padded gates, U·4L.
    pub gates: usize,
    /// Inputs and a one behind them, I+1: the bias is the weight of the one.
    pub inputs: usize,
    /// Rows of the packed forward weights, H + I+1.
    pub depth: usize,
    /// Pairs of units, the last one with a padding unit if H is odd.
    pub hidden_pairs: usize,
    /// Pairs of inputs, the last one with a zero if I is odd. The bias is no product then.
    pub input_pairs: usize,
}

impl Sizes {
    /// The sizes for vectors of `lanes`.
    fn new(dims: Dims, lanes: usize) -> Self {
        let panels = dims.h.div_ceil(lanes);
        Self {
            dims,
            is_folded: false,
            reversed: false,
            lanes,
            panels,
            panel: GATES * lanes,
            hidden: odd_lines(panels * lanes),
            gates: panels * GATES * lanes,
            inputs: dims.i + 1,
            depth: dims.h + dims.i + 1,
            hidden_pairs: dims.h.div_ceil(2),
            input_pairs: dims.i.div_ceil(2),
        }
    }

    /// Rows of pairs of the packed forward weights.
    pub fn depth_pairs(&self) -> usize {
        self.hidden_pairs + self.input_pairs
    }

    /// The place of time step `t` in reading order, and the other way round.
    pub fn place(&self, t: usize) -> usize {
        if self.reversed { self.dims.t - 1 - t } else { t }
    }

    /// How many of the `lanes` from `start` on lie before `end`.
    pub fn lanes_before(&self, start: usize, end: usize) -> usize {
        end.saturating_sub(start).min(self.lanes)
    }
}

/// A matrix `[depth, columns]` packed for products at most two vectors wide: strips of 2L columns, row after row, the
/// last strip of L columns if their number is odd.
#[derive(Clone, Debug)]
pub struct Strips<E = f32> {
    depth: usize,
    lanes: usize,
    values: Vec<E>,
}

impl<E: Copy + Default + Send + Sync> Strips<E> {
    /// All zeros; `columns` is rounded up to whole vectors.
    pub fn new(depth: usize, columns: usize, lanes: usize) -> Self {
        Self { depth, lanes, values: vec![E::default(); depth * columns.next_multiple_of(lanes)] }
    }

    /// `[depth, width]` of the strip whose first column is `column`.
    pub fn strip(&self, column: usize) -> &[E] {
        let from = column * self.depth;
        &self.values[from..(from + self.depth * 2 * self.lanes).min(self.values.len())]
    }

    /// The strips with their first column, `(column, vectors, [depth, vectors·L])`.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, &[E])> {
        let strip = 2 * self.lanes;
        self.values
            .chunks(self.depth * strip)
            .enumerate()
            .map(move |(n, values)| (n * strip, values.len() / (self.depth * self.lanes), values))
    }

    /// The strips to be filled, `(first column, width, [depth, width])`.
    pub fn par_iter_mut(&mut self) -> impl rayon::iter::IndexedParallelIterator<Item = (usize, usize, &mut [E])> {
        use rayon::prelude::*;
        let (depth, strip) = (self.depth, 2 * self.lanes);
        self.values
            .par_chunks_mut(depth * strip)
            .enumerate()
            .map(move |(n, values)| (n * strip, values.len() / depth, values))
    }
}
