//! Sizes, and where each tensor lies in the flat parameters.

use crate::error::{Error, Result};
use std::ops::Range;

/// Number of gates of a cell.
pub const GATES: usize = 4;

/// Order of the gates in every tensor of width 4H; PyTorch's order.
pub mod gate {
    /// Input gate.
    pub const I: usize = 0;
    /// Forget gate.
    pub const F: usize = 1;
    /// Candidate (cell input).
    pub const G: usize = 2;
    /// Output gate.
    pub const O: usize = 3;
}

/// The sizes of a model; the batch size B comes with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dims {
    /// Time steps, T.
    pub t: usize,
    /// Inputs per step, I.
    pub i: usize,
    /// Width of the linear input layer, P.
    pub p: usize,
    /// Hidden units, H.
    pub h: usize,
    /// Classes, K.
    pub k: usize,
}

impl Dims {
    /// Largest value of any one size.
    pub const MAX_SIZE: usize = 1 << 20;
    /// Largest number of parameters: indices of the flat parameters fit in 31 bits.
    pub const MAX_PARAMETERS: usize = (1 << 31) - 1;

    /// Width of the gates, G = 4H.
    pub fn g(&self) -> usize {
        GATES * self.h
    }

    /// Numbers of one sequence, T·I.
    pub fn sequence_len(&self) -> usize {
        self.t * self.i
    }

    /// Checks that every size is from 1 to [`Dims::MAX_SIZE`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] that names the size.
    pub fn check(&self) -> Result<()> {
        for (name, size) in [("T", self.t), ("I", self.i), ("P", self.p), ("H", self.h), ("K", self.k)] {
            if size == 0 || size > Self::MAX_SIZE {
                return Err(Error::usage(
                    format!("size {name} = {size}"),
                    format!("sizes go from 1 to {}", Self::MAX_SIZE),
                    "choose another size",
                ));
            }
        }
        Ok(())
    }
}

/// A linear layer's weights and bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear<V> {
    /// Weights.
    pub w: V,
    /// Bias.
    pub b: V,
}

/// The parameters of one LSTM layer in one direction, which reads M numbers a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell<V> {
    /// Weights from what the layer reads to the gates, `[M,4H]`.
    pub w_x: V,
    /// Recurrent weights, `[H,4H]`; they follow `w_x`, so that both are one LSTM kernel `[M+H,4H]`.
    pub w_h: V,
    /// Bias of the gates, `[4H]`; the forget bias is not in it.
    pub b: V,
}

/// One value for each parameter tensor of a model, in the order of the flat parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensors<V> {
    /// The input layer, `[I,P]` and `[P]`, if there is one.
    pub input: Option<Linear<V>>,
    /// One for each layer and direction: layer after layer, of each the forward direction first.
    pub cells: Vec<Cell<V>>,
    /// The output layer, `[D·H,K]` and `[K]`.
    pub output: Linear<V>,
}

impl<V> Tensors<V> {
    /// What `f` makes of each value, which it gets in the order of the flat parameters.
    pub fn map<W>(self, mut f: impl FnMut(V) -> W) -> Tensors<W> {
        let input = self.input.map(|Linear { w, b }| Linear { w: f(w), b: f(b) });
        let cells = self.cells.into_iter().map(|Cell { w_x, w_h, b }| Cell { w_x: f(w_x), w_h: f(w_h), b: f(b) });
        let cells = cells.collect();
        Tensors { input, cells, output: Linear { w: f(self.output.w), b: f(self.output.b) } }
    }

    /// The values in the order of the flat parameters.
    pub fn into_vec(self) -> Vec<V> {
        let mut values = Vec::with_capacity(4 + 3 * self.cells.len());
        self.map(|value| values.push(value));
        values
    }
}

/// Where each tensor lies in the flat parameters: the only place that knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamLayout {
    dims: Dims,
    input_layer: bool,
    layers: usize,
    directions: usize,
}

impl ParamLayout {
    /// The layout of a model of `dims` with an input layer or none, and `layers` LSTM layers of one or two `directions`.
    pub(crate) fn new(dims: Dims, input_layer: bool, layers: usize, directions: usize) -> Self {
        Self { dims, input_layer, layers, directions }
    }

    /// Layer and direction of each cell, in their order.
    fn cells(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let directions = self.directions;
        (0..self.layers).flat_map(move |layer| (0..directions).map(move |direction| (layer, direction)))
    }

    /// Names of the tensors, as in checkpoints and tables. Those of cells beyond the first have PyTorch's endings: `_l1`,
    /// `_l0_reverse`.
    pub fn names(&self) -> Tensors<String> {
        let cell = |(layer, direction)| {
            let end = match (layer, direction) {
                (0, 0) => String::new(),
                (_, 0) => format!("_l{layer}"),
                _ => format!("_l{layer}_reverse"),
            };
            Cell { w_x: format!("w_x{end}"), w_h: format!("w_h{end}"), b: format!("b{end}") }
        };
        Tensors {
            input: self.input_layer.then(|| Linear { w: "w_in".into(), b: "b_in".into() }),
            cells: self.cells().map(cell).collect(),
            output: Linear { w: "w_out".into(), b: "b_out".into() },
        }
    }

    /// Shapes; a vector has one dimension.
    pub fn shapes(&self) -> Tensors<Vec<usize>> {
        let Dims { i, p, h, k, .. } = self.dims;
        let (g, width) = (self.dims.g(), self.directions * h);
        let cell = |(layer, _)| {
            let inputs = if layer == 0 { p } else { width };
            Cell { w_x: vec![inputs, g], w_h: vec![h, g], b: vec![g] }
        };
        Tensors {
            input: self.input_layer.then(|| Linear { w: vec![i, p], b: vec![p] }),
            cells: self.cells().map(cell).collect(),
            output: Linear { w: vec![width, k], b: vec![k] },
        }
    }

    /// Checks that the parameters can be counted in 31 bits. The sizes must have passed [`Dims::check`].
    pub(crate) fn check(&self) -> Result<()> {
        // Every size is at most 2^20 and there are few tensors, so this fits in 64 bits.
        let count = |shape: &Vec<usize>| shape.iter().map(|&size| size as u64).product::<u64>();
        let parameters: u64 = self.shapes().into_vec().iter().map(count).sum();
        if parameters > Dims::MAX_PARAMETERS as u64 {
            let Dims { i, p, h, k, .. } = self.dims;
            return Err(Error::usage(
                format!("I {i} P {p} H {h} K {k}"),
                format!("that makes {parameters} parameters, more than {}", Dims::MAX_PARAMETERS),
                "choose smaller sizes",
            ));
        }
        Ok(())
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.shapes().into_vec().iter().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Never true: every size is at least 1.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where each tensor lies.
    pub fn ranges(&self) -> Tensors<Range<usize>> {
        let mut end = 0;
        self.shapes().map(|shape| {
            let start = end;
            end += shape.iter().product::<usize>();
            start..end
        })
    }

    /// The tensors of `flat`, which holds [`ParamLayout::len`] numbers.
    pub fn view<'a, F>(&self, flat: &'a [F]) -> Tensors<&'a [F]> {
        assert_eq!(flat.len(), self.len(), "not the flat parameters of these sizes");
        self.ranges().map(|range| &flat[range])
    }

    /// The tensors of `flat`, which holds [`ParamLayout::len`] numbers, to be written.
    pub fn view_mut<'a, F>(&self, flat: &'a mut [F]) -> Tensors<&'a mut [F]> {
        assert_eq!(flat.len(), self.len(), "not the flat parameters of these sizes");
        let mut rest = flat;
        self.ranges().map(|range| {
            let (tensor, tail) = std::mem::take(&mut rest).split_at_mut(range.len());
            rest = tail;
            tensor
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUTORIAL: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };

    #[test]
    fn the_tutorial_has_136586_parameters() {
        let layout = ParamLayout::new(TUTORIAL, true, 1, 1);
        assert_eq!(layout.len(), 3_712 + 131_584 + 1_290);
        assert_eq!(layout.names().into_vec(), ["w_in", "b_in", "w_x", "w_h", "b", "w_out", "b_out"]);
        let Tensors { cells, output, .. } = layout.ranges();
        assert_eq!(cells[0].w_x.end, cells[0].w_h.start, "w_x and w_h form one kernel");
        assert_eq!(output.b.end, layout.len());
    }

    #[test]
    fn a_layer_reads_both_directions_of_the_one_below() {
        let layout = ParamLayout::new(Dims { t: 5, i: 3, p: 3, h: 4, k: 2 }, false, 2, 2);
        let names = layout.names().into_vec();
        assert_eq!(names[..6], ["w_x", "w_h", "b", "w_x_l0_reverse", "w_h_l0_reverse", "b_l0_reverse"]);
        assert_eq!(names[6..9], ["w_x_l1", "w_h_l1", "b_l1"]);
        let shapes = layout.shapes();
        assert_eq!((&shapes.cells[1].w_x, &shapes.cells[3].w_x), (&vec![3, 16], &vec![8, 16]));
        assert_eq!((shapes.input, shapes.output.w), (None, vec![8, 2]));
        assert_eq!(layout.len(), 2 * (3 + 4 + 1) * 16 + 2 * (8 + 4 + 1) * 16 + 9 * 2);
    }

    #[test]
    fn views_cover_the_flat_parameters_once() {
        for (input_layer, layers, directions, tensors) in [(true, 1, 1, 7), (true, 2, 2, 16), (false, 3, 1, 11)] {
            let layout = ParamLayout::new(Dims { t: 2, i: 3, p: 3, h: 4, k: 2 }, input_layer, layers, directions);
            let mut flat = vec![0; layout.len()];
            for (n, tensor) in layout.view_mut(&mut flat).into_vec().into_iter().enumerate() {
                tensor.iter_mut().for_each(|v| *v += 1 + n);
            }
            assert!(flat.is_sorted() && flat[0] == 1 && flat[layout.len() - 1] == tensors);
            assert_eq!(layout.view(&flat).cells[0].w_h, vec![if input_layer { 4 } else { 2 }; 4 * 16]);
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert!(TUTORIAL.check().is_ok());
        for bad in [Dims { h: 0, ..TUTORIAL }, Dims { t: 0, ..TUTORIAL }, Dims { i: usize::MAX, ..TUTORIAL }] {
            assert_eq!(bad.check().unwrap_err().exit_code(), 2);
        }
    }
}
