//! The engine's own sizes: units padded to whole vectors, gates regrouped in panels.
//!
//! A panel holds the four gates of L neighbouring units (i, f, g, o, a vector each), so that a block of sums four vectors
//! wide is all that an LSTM cell needs. "Packed gate order" is panel after panel.

use crate::shape::{Dims, GATES};

/// Floats in a cache line.
const LINE: usize = 16;

/// Sizes for vectors of L lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The model's sizes.
    pub dims: Dims,
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
    /// Padded classes.
    pub classes: usize,
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
    pub fn new(dims: Dims, lanes: usize) -> Self {
        let panels = dims.h.div_ceil(lanes);
        let lines = (panels * lanes).div_ceil(LINE);
        Self {
            dims,
            lanes,
            panels,
            panel: GATES * lanes,
            hidden: (lines | 1) * LINE,
            gates: panels * GATES * lanes,
            classes: dims.k.next_multiple_of(lanes),
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
