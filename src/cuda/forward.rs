//! A batch from its sequences to its logits, and the buffers that it leaves on the way.

use super::device::{Buffer, Device, Part};
use super::gather::{DeviceSequences, Gather, gather};
use super::linear::{Form, Product, product};
use super::lstm::{ForwardStep, forward_step};
use super::sequence::{ForwardSteps, Sequence};
use super::softmax_xent::{self, SoftmaxXent};
use super::weights::Weights;
use crate::error::Result;
use crate::shape::{Dims, Linear};

/// Which steps' gates and states are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Of all steps, for backward.
    All,
    /// Of the last one; gates have room for so many steps.
    Last(usize),
}

/// What forward computes of up to `capacity` sequences, B at a time.
pub struct Forward<D: Device> {
    dims: Dims,
    keep: Keep,
    capacity: usize,
    /// `[T,B,J]`
    x: Buffer<D, f32>,
    /// `[B]`
    labels: Buffer<D, u32>,
    /// After their activation, `[T,B,G]`; of the steps that there is room for, if they are not kept.
    gates: Buffer<D, f32>,
    /// Cell state after each step, in [`Forward::slot`]s of `[B,H]`.
    c: Buffer<D, f32>,
    /// Hidden state, likewise.
    h: Buffer<D, f32>,
    /// `[B,K]`
    logits: Buffer<D, f32>,
    /// Cross-entropy of each sequence, `[B]`.
    loss: Buffer<D, f32>,
    /// Class of each one's largest logit, `[B]`.
    predicted: Buffer<D, u32>,
}

impl<D: Device> Forward<D> {
    /// Buffers for up to `capacity` sequences.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn new(device: &D, dims: Dims, capacity: usize, keep: Keep) -> Result<Self> {
        // The initial state, then that of each step, or of the last one and the one being written.
        let slots = 1 + if keep == Keep::All { dims.t } else { 2 };
        let steps = match keep {
            Keep::All => dims.t,
            Keep::Last(steps) => steps,
        };
        let cells = capacity * dims.h;
        let mut forward = Self {
            dims,
            keep,
            capacity,
            x: Buffer::new(device, "x", dims.t * capacity * (dims.i + 1))?,
            labels: Buffer::new(device, "batch labels", capacity)?,
            gates: Buffer::new(device, "gates", steps * capacity * dims.g())?,
            c: Buffer::new(device, "c", slots * cells)?,
            h: Buffer::new(device, "h", slots * cells)?,
            logits: Buffer::new(device, "logits", capacity * dims.k)?,
            loss: Buffer::new(device, "loss", capacity)?,
            predicted: Buffer::new(device, "predicted", capacity)?,
        };
        forward.c.zero(device, cells)?;
        forward.h.zero(device, cells)?;
        Ok(forward)
    }

    /// Most sequences of a batch.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Where the state after `done` steps lies; slot 0 is the initial one, zero and never written again.
    fn slot(&self, done: usize) -> usize {
        match self.keep {
            Keep::All => done,
            Keep::Last(_) => (1 + done % 2) * usize::from(done > 0),
        }
    }

    fn state<'a>(&self, buffer: &'a Buffer<D, f32>, done: usize, batch: usize) -> Part<'a, f32> {
        let start = self.slot(done) * self.capacity * self.dims.h;
        buffer.part(start..start + batch * self.dims.h)
    }

    /// Cell state `[B,H]` after `done` steps.
    pub fn c(&self, done: usize, batch: usize) -> Part<'_, f32> {
        self.state(&self.c, done, batch)
    }

    /// Hidden state `[B,H]` after `done` steps.
    pub fn h(&self, done: usize, batch: usize) -> Part<'_, f32> {
        self.state(&self.h, done, batch)
    }

    /// Hidden states before all steps, `[T·B,H]`, of a full batch.
    ///
    /// # Panics
    ///
    /// If they were not kept.
    pub fn h_before(&self) -> Part<'_, f32> {
        assert_eq!(self.keep, Keep::All, "only the last state was kept");
        self.h.first(self.dims.t * self.capacity * self.dims.h)
    }

    /// Inputs of all steps, `[T·B,J]`, of a full batch.
    pub fn x(&self) -> Part<'_, f32> {
        self.x.all()
    }

    /// Gates `[B,G]` of a step of `batch` sequences.
    pub fn gates(&self, step: usize, batch: usize) -> Part<'_, f32> {
        let step = if self.keep == Keep::All { step } else { 0 };
        let start = step * self.capacity * self.dims.g();
        self.gates.part(start..start + batch * self.dims.g())
    }

    /// Gates `[T,B,G]` of all steps, and cell states `[T+1,B,H]` before and after them, of a full batch.
    ///
    /// # Panics
    ///
    /// If they were not kept.
    pub fn kept(&self) -> (Part<'_, f32>, Part<'_, f32>) {
        assert_eq!(self.keep, Keep::All, "only the last state was kept");
        (self.gates.all(), self.c.all())
    }

    /// Class of each sequence, `[B]`.
    pub fn labels(&self) -> Part<'_, u32> {
        self.labels.all()
    }

    /// Loss of each sequence, `[B]`.
    pub fn loss(&self) -> &Buffer<D, f32> {
        &self.loss
    }

    /// Predicted class of each sequence, `[B]`.
    pub fn predicted(&self) -> &Buffer<D, u32> {
        &self.predicted
    }

    /// `[B,K]`
    pub fn logits(&self) -> &Buffer<D, f32> {
        &self.logits
    }

    /// State after the last step of `batch` sequences: h and c, `[B,H]` each.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn download_last(&self, device: &D, batch: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let start = self.slot(self.dims.t) * self.capacity * self.dims.h;
        let of = |buffer: &Buffer<D, f32>| buffer.download_part(device, start..start + batch * self.dims.h);
        Ok((of(&self.h)?, of(&self.c)?))
    }

    /// From the sequences `rows[turn]` to their logits; `fold` of the weights must be that of their parameters. All steps run in
    /// one launch if there are kernels for that, whose weights must be packed.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn run(
        &self,
        device: &D,
        weights: &Weights<D>,
        in_one_launch: Option<&Sequence<D>>,
        sequences: &DeviceSequences<D>,
        (rows, turn): (Part<'_, u32>, Part<'_, u32>),
        batch: usize,
    ) -> Result<()> {
        let Dims { t, i, h: hidden, k, .. } = self.dims;
        let x = self.x.first(t * batch * (i + 1));
        let labels = Some(self.labels.first(batch));
        gather(device, sequences, &Gather { rows, turn, x, labels, lengths: None, reversed: false, b: batch })?;
        match in_one_launch {
            Some(lstm) => self.steps_in_one_launch(device, weights, lstm, batch)?,
            None => self.steps(device, weights, batch)?,
        }
        let Linear { w, b } = weights.tensors().output;
        let (a, bias, c) = (self.h(t, batch), Some((b, 0)), self.logits.first(batch * k));
        product(device, &Product { form: Form::Nn, a, b: w, bias, c, m: batch, n: k, k: hidden })
    }

    fn steps(&self, device: &D, weights: &Weights<D>, batch: usize) -> Result<()> {
        let (inputs, hidden) = (self.dims.i + 1, self.dims.h);
        for step in 0..self.dims.t {
            let x = self.x.part(step * batch * inputs..(step + 1) * batch * inputs);
            let forward = ForwardStep {
                x,
                fold: weights.fold(),
                w_h: weights.tensors().cells[0].w_h,
                h_prev: self.h(step, batch),
                c_prev: self.c(step, batch),
                gates: self.gates(step, batch),
                c: self.c(step + 1, batch),
                h: self.h(step + 1, batch),
                batch,
                inputs,
                hidden,
                forget_bias: weights.model().forget_bias,
                ends: None,
            };
            forward_step(device, &forward)?;
        }
        Ok(())
    }

    /// The products of the inputs, then all steps; where not all are kept, as many of them at a time as gates have room for.
    fn steps_in_one_launch(&self, device: &D, weights: &Weights<D>, lstm: &Sequence<D>, batch: usize) -> Result<()> {
        let (Dims { t, i, .. }, n) = (self.dims, self.dims.g());
        let (k, cells, keeps_all) = (i + 1, batch * self.dims.h, self.keep == Keep::All);
        let at_once = match self.keep {
            Keep::All => t,
            Keep::Last(steps) => steps,
        };
        assert!(!keeps_all || batch == self.capacity, "states of a batch that is not full are not kept");
        for first in (0..t).step_by(at_once) {
            let steps = at_once.min(t - first);
            let (m, gates) = (steps * batch, self.gates.first(steps * batch * n));
            let a = self.x.part(first * batch * k..(first + steps) * batch * k);
            product(device, &Product { form: Form::Nn, a, b: weights.fold(), bias: None, c: gates, m, n, k })?;
            let [h, c] = match keeps_all {
                true => [&self.h, &self.c].map(|states| states.part(cells..(t + 1) * cells)),
                false => [self.h(first + steps, batch), self.c(first + steps, batch)],
            };
            let forward = ForwardSteps {
                steps,
                batch,
                gates,
                h_first: self.h(first, batch),
                c_first: self.c(first, batch),
                h,
                c,
                keeps_all,
                forget_bias: weights.model().forget_bias,
            };
            lstm.forward(device, &forward)?;
        }
        Ok(())
    }

    /// From logits to losses and classes and, if there is a place for it, the gradient `[B,K]` of the mean loss.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn score(&self, device: &D, dlogits: Option<Part<'_, f32>>, batch: usize) -> Result<()> {
        let scored = SoftmaxXent {
            logits: self.logits.first(batch * self.dims.k),
            labels: self.labels.first(batch),
            loss: self.loss.first(batch),
            predicted: self.predicted.first(batch),
            dlogits,
            batch,
            classes: self.dims.k,
            smoothing: 0.0,
        };
        softmax_xent::softmax_xent(device, &scored)
    }
}
