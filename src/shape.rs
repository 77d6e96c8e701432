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

    /// Checks that every size is at least 1 and that the parameters can be counted in 31 bits.
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
        // Every size is below 2^20, so these products fit in 64 bits.
        let wide = |a: usize, b: usize| a as u64 * b as u64;
        let g = wide(GATES, self.h);
        let parameters = wide(self.i + 1, self.p) + (self.p + self.h + 1) as u64 * g + wide(self.h + 1, self.k);
        if parameters > Self::MAX_PARAMETERS as u64 {
            return Err(Error::usage(
                format!("I {} P {} H {} K {}", self.i, self.p, self.h, self.k),
                format!("that makes {parameters} parameters, more than {}", Self::MAX_PARAMETERS),
                "choose smaller sizes",
            ));
        }
        Ok(())
    }
}

/// One value for each parameter tensor of the model, in the order of the flat parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensors<V> {
    /// Weights of the input layer, `[I,P]`.
    pub w_in: V,
    /// Bias of the input layer, `[P]`.
    pub b_in: V,
    /// Weights from the input layer to the gates, `[P,4H]`.
    pub w_x: V,
    /// Recurrent weights, `[H,4H]`; they follow `w_x`, so that both are one LSTM kernel `[P+H,4H]`.
    pub w_h: V,
    /// Bias of the gates, `[4H]`; the forget bias is not in it.
    pub b: V,
    /// Weights of the output layer, `[H,K]`.
    pub w_out: V,
    /// Bias of the output layer, `[K]`.
    pub b_out: V,
}

impl<V> Tensors<V> {
    /// The values in the order of the flat parameters.
    pub fn into_array(self) -> [V; 7] {
        [self.w_in, self.b_in, self.w_x, self.w_h, self.b, self.w_out, self.b_out]
    }

    fn from_array([w_in, b_in, w_x, w_h, b, w_out, b_out]: [V; 7]) -> Self {
        Self { w_in, b_in, w_x, w_h, b, w_out, b_out }
    }
}

/// Where each tensor lies in the flat parameters: the only place that knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamLayout {
    dims: Dims,
}

impl ParamLayout {
    /// Names of the tensors, as in checkpoints and tables.
    pub const NAMES: Tensors<&'static str> =
        Tensors { w_in: "w_in", b_in: "b_in", w_x: "w_x", w_h: "w_h", b: "b", w_out: "w_out", b_out: "b_out" };

    /// The layout for `dims`, which must pass [`Dims::check`].
    pub fn new(dims: Dims) -> Self {
        Self { dims }
    }

    /// Shapes; a vector has one dimension.
    pub fn shapes(&self) -> Tensors<Vec<usize>> {
        let Dims { i, p, h, k, .. } = self.dims;
        let g = self.dims.g();
        Tensors {
            w_in: vec![i, p],
            b_in: vec![p],
            w_x: vec![p, g],
            w_h: vec![h, g],
            b: vec![g],
            w_out: vec![h, k],
            b_out: vec![k],
        }
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.shapes().into_array().iter().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Never true: every size is at least 1.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where each tensor lies.
    pub fn ranges(&self) -> Tensors<Range<usize>> {
        let mut end = 0;
        Tensors::from_array(self.shapes().into_array().map(|shape| {
            let start = end;
            end += shape.iter().product::<usize>();
            start..end
        }))
    }

    /// The tensors of `flat`, which holds [`ParamLayout::len`] numbers.
    pub fn view<'a, F>(&self, flat: &'a [F]) -> Tensors<&'a [F]> {
        assert_eq!(flat.len(), self.len(), "not the flat parameters of these sizes");
        Tensors::from_array(self.ranges().into_array().map(|range| &flat[range]))
    }

    /// The tensors of `flat`, which holds [`ParamLayout::len`] numbers, to be written.
    pub fn view_mut<'a, F>(&self, flat: &'a mut [F]) -> Tensors<&'a mut [F]> {
        assert_eq!(flat.len(), self.len(), "not the flat parameters of these sizes");
        let mut rest = flat;
        Tensors::from_array(self.ranges().into_array().map(|range| {
            let (tensor, tail) = std::mem::take(&mut rest).split_at_mut(range.len());
            rest = tail;
            tensor
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUTORIAL: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };

    #[test]
    fn the_tutorial_has_136586_parameters() {
        let layout = ParamLayout::new(TUTORIAL);
        assert_eq!(layout.len(), 3_712 + 131_584 + 1_290);
        let ranges = layout.ranges();
        assert_eq!(ranges.w_x.end, ranges.w_h.start, "w_x and w_h form one kernel");
        assert_eq!(ranges.b_out.end, layout.len());
    }

    #[test]
    fn views_cover_the_flat_parameters_once() {
        let layout = ParamLayout::new(Dims { t: 2, i: 3, p: 5, h: 4, k: 2 });
        let mut flat = vec![0; layout.len()];
        for (n, tensor) in layout.view_mut(&mut flat).into_array().into_iter().enumerate() {
            tensor.iter_mut().for_each(|v| *v += 1 + n);
        }
        assert!(flat.is_sorted() && flat[0] == 1 && flat[layout.len() - 1] == 7);
        assert_eq!(layout.view(&flat).w_h, vec![4; 4 * 16]);
    }

    #[test]
    fn sizes_are_checked() {
        assert!(TUTORIAL.check().is_ok());
        for bad in [Dims { h: 0, ..TUTORIAL }, Dims { t: 0, ..TUTORIAL }, Dims { i: usize::MAX, ..TUTORIAL }] {
            assert_eq!(bad.check().unwrap_err().exit_code(), 2);
        }
        let message = Dims { h: 1 << 16, ..TUTORIAL }.check().unwrap_err().to_string();
        assert!(message.contains("parameters, more than"), "{message}");
    }
}
