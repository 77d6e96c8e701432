//! The parameters on the device, and the input layer folded into them.

use super::device::{Buffer, Device, Part};
use super::linear::{Form, Product, product};
use crate::engine::{Model, State};
use crate::error::Result;
use crate::shape::{Cell, Dims, Linear, Tensors};
use std::ops::Range;

/// Parameters, what Adam keeps of them, and the folded input weights.
pub struct Weights<D: Device> {
    model: Model,
    ranges: Tensors<Range<usize>>,
    /// Flat, as [`crate::shape::ParamLayout`] lays them out; n numbers.
    pub parameters: Buffer<D, f32>,
    /// Adam's mean of the gradients, `[n]`.
    pub m: Buffer<D, f32>,
    /// Adam's mean of their squares, `[n]`.
    pub v: Buffer<D, f32>,
    /// Input layer and input weights in one, and under them the bias, `[J,G]`.
    fold: Buffer<D, f32>,
}

impl<D: Device> Weights<D> {
    /// Room for the parameters of `model`, not set to anything.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn new(device: &D, model: Model) -> Result<Self> {
        Ok(Self::side_by_side(device, model, 1)?.remove(0))
    }

    /// The same for `count` models: what each of them has lies behind that of the one before, so that one launch finds all.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn side_by_side(device: &D, model: Model, count: usize) -> Result<Vec<Self>> {
        let n = model.layout().len();
        let of_all = |name, len: usize| Ok(Buffer::new(device, name, count * len)?.split(count));
        let (parameters, m, v) = (of_all("parameters", n)?, of_all("adam m", n)?, of_all("adam v", n)?);
        let fold = of_all("folded weights", (model.dims.i + 1) * model.dims.g())?;
        let buffers = parameters.into_iter().zip(m).zip(v).zip(fold);
        let one =
            |(((parameters, m), v), fold)| Self { model, ranges: model.layout().ranges(), parameters, m, v, fold };
        Ok(buffers.map(one).collect())
    }

    /// Whether this model lies right behind the other one.
    pub fn follows(&self, other: &Self) -> bool {
        let pairs = [(&self.parameters, &other.parameters), (&self.m, &other.m), (&self.v, &other.v)];
        pairs.into_iter().all(|(this, before)| this.follows(before))
    }

    /// Copies a state to the device.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn upload(&mut self, device: &D, state: &State) -> Result<()> {
        self.parameters.upload(device, &state.parameters)?;
        self.m.upload(device, &state.m)?;
        self.v.upload(device, &state.v)
    }

    /// Copies the state, at step `step`, from the device.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn download(&self, device: &D, step: u64) -> Result<State> {
        let n = self.parameters.len();
        Ok(State {
            parameters: self.parameters.download(device, n)?,
            m: self.m.download(device, n)?,
            v: self.v.download(device, n)?,
            step,
        })
    }

    /// What is computed.
    pub fn model(&self) -> Model {
        self.model
    }

    /// Where each tensor lies in the flat parameters and in their gradient.
    pub fn ranges(&self) -> &Tensors<Range<usize>> {
        &self.ranges
    }

    /// Each tensor.
    pub fn tensors(&self) -> Tensors<Part<'_, f32>> {
        self.ranges.clone().map(|range| self.parameters.part(range))
    }

    /// The input layer's weights and under them its bias, one matrix `[J,P]`.
    pub fn input_layer(&self) -> Part<'_, f32> {
        self.parameters.part(self.input_range())
    }

    /// Where [`Weights::input_layer`] lies in the flat parameters and in their gradient.
    pub fn input_range(&self) -> Range<usize> {
        let Some(Linear { w, b }) = &self.ranges.input else { unreachable!("such a model has an input layer") };
        joined(w, b)
    }

    /// Folded weights and under them the bias, `[J,G]`, as [`Weights::update_fold`] left them.
    pub fn fold(&self) -> Part<'_, f32> {
        self.fold.all()
    }

    /// Folds the input layer into the input weights: `[W_in; b_in] · W_x`, and the bias added to the last row.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn update_fold(&self, device: &D) -> Result<()> {
        let Dims { i, p, .. } = self.model.dims;
        let Cell { w_x, b, .. } = self.tensors().cells[0];
        let (a, bias, c) = (self.input_layer(), Some((b, i)), self.fold());
        product(device, &Product { form: Form::Nn, a, b: w_x, bias, c, m: i + 1, n: self.model.dims.g(), k: p })
    }
}

/// One range out of two that lie side by side.
pub fn joined(first: &Range<usize>, second: &Range<usize>) -> Range<usize> {
    assert_eq!(first.end, second.start, "the two tensors are one matrix");
    first.start..second.end
}
