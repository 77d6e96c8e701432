//! Launches `persistent_forward`: sequences to their logits, losses and classes, with products in bf16. Nothing is kept for a
//! gradient.

use super::device::{Buffer, Device, Part, int};
use super::gather::DeviceSequences;
use super::persistent::{fold, launch_divided, pack_recurrent};
use super::variant::{TILE_ROWS, Variant};
use super::weights::Weights;
use crate::error::Result;
use crate::shape::{Dims, Linear};

/// What up to `capacity` sequences, B at a time, need and leave.
pub struct Inference<D: Device> {
    dims: Dims,
    variant: Variant,
    capacity: usize,
    /// Operand tiles of the weights, in words of 4 bytes.
    weights: Buffer<D, u32>,
    /// The scale of bytes that is in them; none if they are not those of the parameters.
    scale: Option<f32>,
    /// x of all steps, in bf16.
    x: Buffer<D, u32>,
    /// `[B,K]`
    logits: Buffer<D, f32>,
    /// `[B]`
    loss: Buffer<D, f32>,
    /// `[B]`
    predicted: Buffer<D, u32>,
}

impl<D: Device> Inference<D> {
    /// Buffers for up to `capacity` sequences; the device must have loaded `variant`.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn new(device: &D, dims: Dims, variant: Variant, capacity: usize) -> Result<Self> {
        let x = dims.t * capacity.div_ceil(TILE_ROWS) * variant.inputs * TILE_ROWS / 2;
        Ok(Self {
            dims,
            variant,
            capacity,
            weights: Buffer::new(device, "scored weights", variant.forward_words())?,
            scale: None,
            x: Buffer::new(device, "scored x", x)?,
            logits: Buffer::new(device, "logits", capacity * dims.k)?,
            loss: Buffer::new(device, "loss", capacity)?,
            predicted: Buffer::new(device, "predicted", capacity)?,
        })
    }

    /// Most sequences of a batch.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// `[B,K]`
    pub fn logits(&self) -> &Buffer<D, f32> {
        &self.logits
    }

    /// Loss of each sequence, `[B]`.
    pub fn loss(&self) -> &Buffer<D, f32> {
        &self.loss
    }

    /// Predicted class of each sequence, `[B]`.
    pub fn predicted(&self) -> &Buffer<D, u32> {
        &self.predicted
    }

    /// The parameters have changed.
    pub fn forget_weights(&mut self) {
        self.scale = None;
    }

    /// From the sequences `rows[turn]` to logits, losses and classes.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn run(
        &mut self,
        device: &D,
        weights: &Weights<D>,
        sequences: &DeviceSequences<D>,
        (rows, turn): (Part<'_, u32>, Part<'_, u32>),
        batch: usize,
    ) -> Result<()> {
        assert!(rows.len() >= batch && batch <= self.capacity, "a batch is {batch} rows");
        if self.scale != Some(sequences.scale()) {
            pack_recurrent(device, (weights, 1), &self.variant, &self.weights, None)?;
            fold(device, (weights, 1), &self.variant, &self.weights, sequences.scale(), None)?;
            self.scale = Some(sequences.scale());
        }
        let Dims { t, i, h, k, .. } = self.dims;
        let Linear { w: w_out, b: b_out } = weights.tensors().output;
        let [bytes, floats, labels] = sequences.args(t, i);
        let args = [
            self.weights.all().arg(self.weights.len()),
            w_out.arg(h * k),
            b_out.arg(k),
            bytes,
            floats,
            labels,
            rows.arg(batch),
            turn.arg(1),
            self.x.all().arg(self.x.len()),
            self.logits.all().arg(batch * k),
            self.loss.all().arg(batch),
            self.predicted.all().arg(batch),
            int(batch),
            int(t),
            int(i),
            int(h),
            int(k),
        ];
        launch_divided(device, "persistent_forward", &self.variant, (batch, k, 1), &args)
    }
}
