//! A batch from the gradient of its logits to the gradient of all parameters.

use super::device::{Buffer, Device, Part};
use super::forward::Forward;
use super::linear::{Form, Product, Split, column_sums, product, split_product, sum_parts};
use super::lstm::{BackwardStep, backward_step};
use super::sequence::{BackwardSteps, Sequence};
use super::weights::Weights;
use crate::error::Result;
use crate::model::Model;
use crate::shape::Dims;

/// What backward computes of a batch of `batch` sequences, B.
pub struct Backward<D: Device> {
    dims: Dims,
    batch: usize,
    /// `[B,K]`
    dlogits: Buffer<D, f32>,
    /// Gradient by the last hidden state, `[B,H]`.
    dh_last: Buffer<D, f32>,
    /// Gradient by the gates before their activation, `[T,B,G]`.
    da: Buffer<D, f32>,
    /// Gradient by the cell state, `[B,H]`, on its way from step to step.
    dc: Buffer<D, f32>,
    /// Gradient by the folded weights and, as its last row, by the bias, `[J,G]`.
    d_fold: Buffer<D, f32>,
    /// Parts of split products.
    parts: Buffer<D, f32>,
    /// Gradient of the mean loss, laid out as the flat parameters.
    gradient: Buffer<D, f32>,
}

impl<D: Device> Backward<D> {
    /// Buffers for a batch.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn new(device: &D, model: &Model, batch: usize) -> Result<Self> {
        let dims = model.dims;
        let (cells, g) = (batch * dims.h, dims.g());
        let split_products = [(dims.i + 1, g, dims.t * batch), (dims.h, g, dims.t * batch), (dims.h, dims.k, batch)];
        let parts = split_products.map(|(m, n, k)| Split::new(m, n, k).parts * m * n);
        Ok(Self {
            dims,
            batch,
            dlogits: Buffer::new(device, "dlogits", batch * dims.k)?,
            dh_last: Buffer::new(device, "dh_last", cells)?,
            da: Buffer::new(device, "da", dims.t * batch * g)?,
            dc: Buffer::new(device, "dc", cells)?,
            d_fold: Buffer::new(device, "d_fold", (dims.i + 1) * g)?,
            parts: Buffer::new(device, "parts", parts.into_iter().max().unwrap_or(1))?,
            gradient: Buffer::new(device, "gradient", model.layout().len())?,
        })
    }

    /// Where the gradient of the logits goes, `[B,K]`.
    pub fn dlogits(&self) -> Part<'_, f32> {
        self.dlogits.all()
    }

    /// Gradient of the mean loss, laid out as the flat parameters.
    pub fn gradient(&self) -> &Buffer<D, f32> {
        &self.gradient
    }

    /// From `dlogits` to the gradient. `forward` must hold the same batch. All steps run in one launch if there are kernels for
    /// that, whose weights must be packed.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn run(
        &self,
        device: &D,
        weights: &Weights<D>,
        in_one_launch: Option<&Sequence<D>>,
        forward: &Forward<D>,
    ) -> Result<()> {
        self.head(device, weights, forward)?;
        match in_one_launch {
            Some(lstm) => {
                let (steps, batch, (gates, c)) = (self.dims.t, self.batch, forward.kept());
                let (dh_last, da) = (self.dh_last.all(), self.da.all());
                lstm.backward(device, &BackwardSteps { steps, batch, gates, c, dh_last, da })?;
            }
            None => self.steps(device, weights, forward)?,
        }
        self.recurrent_weights(device, weights, forward)?;
        self.input_weights(device, weights, forward)
    }

    fn part(&self, range: &std::ops::Range<usize>) -> Part<'_, f32> {
        self.gradient.part(range.clone())
    }

    fn head(&self, device: &D, weights: &Weights<D>, forward: &Forward<D>) -> Result<()> {
        let (Dims { t, h, k, .. }, batch, ranges) = (self.dims, self.batch, weights.ranges());
        let (dlogits, h_last) = (self.dlogits.all(), forward.h(t, batch));
        let (b, c) = (weights.tensors().output.w, self.dh_last.all());
        product(device, &Product { form: Form::Nt, a: dlogits, b, bias: None, c, m: batch, n: h, k })?;
        let c = self.part(&ranges.output.w);
        let product = Product { form: Form::Tn, a: h_last, b: dlogits, bias: None, c, m: h, n: k, k: batch };
        split_product(device, &product, self.parts.all())?;
        column_sums(device, dlogits, self.part(&ranges.output.b), batch, k)
    }

    fn da(&self, step: usize) -> Part<'_, f32> {
        let len = self.batch * self.dims.g();
        self.da.part(step * len..(step + 1) * len)
    }

    fn steps(&self, device: &D, weights: &Weights<D>, forward: &Forward<D>) -> Result<()> {
        let (Dims { t, h: hidden, .. }, batch) = (self.dims, self.batch);
        for step in (0..t).rev() {
            let backward = BackwardStep {
                later: (step + 1 < t).then(|| self.da(step + 1)),
                outside: (step + 1 == t).then(|| self.dh_last.all()),
                w_h: weights.tensors().cells[0].w_h,
                gates: forward.gates(step, batch),
                c_prev: forward.c(step, batch),
                c: forward.c(step + 1, batch),
                dc: self.dc.all(),
                da: self.da(step),
                batch,
                hidden,
                ends: None,
            };
            backward_step(device, &backward)?;
        }
        Ok(())
    }

    fn recurrent_weights(&self, device: &D, weights: &Weights<D>, forward: &Forward<D>) -> Result<()> {
        let (Dims { t, h, .. }, n) = (self.dims, self.dims.g());
        let (a, b, c) = (forward.h_before(), self.da.all(), self.part(&weights.ranges().cells[0].w_h));
        let product = Product { form: Form::Tn, a, b, bias: None, c, m: h, n, k: t * self.batch };
        split_product(device, &product, self.parts.all())
    }

    /// The gradient by the folded weights, and from it those of the layers that were folded.
    fn input_weights(&self, device: &D, weights: &Weights<D>, forward: &Forward<D>) -> Result<()> {
        let (Dims { t, i, p, .. }, g) = (self.dims, self.dims.g());
        let (ranges, d_fold) = (&weights.ranges().cells[0], self.d_fold.all());
        let (a, b, m) = (forward.x(), self.da.all(), i + 1);
        let fold = Product { form: Form::Tn, a, b, bias: None, c: d_fold, m, n: g, k: t * self.batch };
        split_product(device, &fold, self.parts.all())?;
        let (a, c) = (weights.input_layer(), self.part(&ranges.w_x));
        product(device, &Product { form: Form::Tn, a, b: d_fold, bias: None, c, m: p, n: g, k: m })?;
        let w_x = weights.tensors().cells[0].w_x;
        let c = self.part(&weights.input_range());
        product(device, &Product { form: Form::Nt, a: d_fold, b: w_x, bias: None, c, m, n: p, k: g })?;
        sum_parts(device, self.d_fold.part(i * g..m * g), self.part(&ranges.b), g, 1)
    }

    /// Gradient of the mean loss by the inputs, into `dx` `[T·B,I]`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn inputs(&self, device: &D, weights: &Weights<D>, dx: Part<'_, f32>) -> Result<()> {
        let (Dims { t, i, .. }, g) = (self.dims, self.dims.g());
        let (a, b, m) = (self.da.all(), weights.fold(), t * self.batch);
        product(device, &Product { form: Form::Nt, a, b, bias: None, c: dx, m, n: i, k: g })
    }
}
