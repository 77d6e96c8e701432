//! Launches `kernels/sequence/`: all time steps of the LSTM in one launch, forward and backward, in f32. They take the place of
//! the launches of [`super::lstm`], and leave what those leave.

#![allow(unsafe_code)]

use super::device::{Arg, Buffer, Device, Launch, Part, int, tiles};
use super::sequence_variant::SequenceVariant;
use super::tiles::SEQUENCE_PACK_THREADS;
use super::weights::Weights;
use crate::error::Result;
use crate::shape::{Dims, GATES};

/// The kernels of a variant, which the device must have loaded, and the weights that they read.
pub struct Sequence<D: Device> {
    hidden: usize,
    variant: SequenceVariant,
    /// Recurrent weights as the threads hold them.
    forward_weights: Buffer<D, f32>,
    /// Likewise.
    backward_weights: Buffer<D, f32>,
}

/// Some steps forward; G = 4H.
pub struct ForwardSteps<'a> {
    /// T, of these steps.
    pub steps: usize,
    /// B
    pub batch: usize,
    /// `[T,B,G]`: the products of the inputs, with the bias, and then gates after their activation if they are kept.
    pub gates: Part<'a, f32>,
    /// Hidden state before the first step, `[B,H]`.
    pub h_first: Part<'a, f32>,
    /// Cell state before the first step, `[B,H]`.
    pub c_first: Part<'a, f32>,
    /// Written: hidden state after each step, `[T,B,H]`, or after the last one, `[B,H]`.
    pub h: Part<'a, f32>,
    /// Written: cell state, likewise.
    pub c: Part<'a, f32>,
    /// Whether gates and states of all steps are kept, for backward.
    pub keeps_all: bool,
    /// Added to the forget gate before its activation.
    pub forget_bias: f32,
}

/// All steps backward.
pub struct BackwardSteps<'a> {
    /// T
    pub steps: usize,
    /// B
    pub batch: usize,
    /// Gates after their activation, `[T,B,G]`.
    pub gates: Part<'a, f32>,
    /// Cell state before the first step and after each, `[T+1,B,H]`.
    pub c: Part<'a, f32>,
    /// Gradient by the last hidden state, `[B,H]`.
    pub dh_last: Part<'a, f32>,
    /// Written: gradient by the gates before their activation, `[T,B,G]`.
    pub da: Part<'a, f32>,
}

impl<D: Device> Sequence<D> {
    /// Room for the weights of a model.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn new(device: &D, dims: Dims, variant: SequenceVariant) -> Result<Self> {
        Ok(Self {
            hidden: dims.h,
            variant,
            forward_weights: Buffer::new(device, "forward weights", variant.packed())?,
            backward_weights: Buffer::new(device, "backward weights", variant.packed())?,
        })
    }

    /// Sizes of the kernels.
    pub fn variant(&self) -> &SequenceVariant {
        &self.variant
    }

    /// Makes the recurrent weights ready: whoever changed them, before the next steps.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn pack(&self, device: &D, weights: &Weights<D>) -> Result<()> {
        let (h, packed) = (self.hidden, self.variant.packed());
        let args = [
            weights.tensors().cells[0].w_h.arg(h * GATES * h),
            self.forward_weights.all().arg(packed),
            self.backward_weights.all().arg(packed),
            int(h),
        ];
        let launch = Launch {
            kernel: "sequence_pack",
            grid: [tiles(packed, SEQUENCE_PACK_THREADS), 1, 1],
            block: [SEQUENCE_PACK_THREADS, 1, 1],
            cluster: [1; 3],
            shared: 0,
            dependent: false,
            args: &args,
        };
        // SAFETY: `arg` has checked the lengths of all three.
        unsafe { device.launch(&launch) }
    }

    /// Runs steps forward. The weights must be packed.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn forward(&self, device: &D, forward: &ForwardSteps<'_>) -> Result<()> {
        let ForwardSteps { steps, batch, gates, h_first, c_first, h, c, keeps_all, forget_bias } = *forward;
        let (cells, kept) = (batch * self.hidden, if keeps_all { steps } else { 1 });
        let args = [
            self.forward_weights.all().arg(self.variant.packed()),
            gates.arg(steps * GATES * cells),
            h_first.arg(cells),
            c_first.arg(cells),
            c.arg(kept * cells),
            h.arg(kept * cells),
            int(batch),
            int(steps),
            int(self.hidden),
            Arg::F32(forget_bias),
        ];
        let (kernel, rows) = match keeps_all {
            true => ("sequence_forward", self.variant.rows),
            false => ("sequence_score", self.variant.score_rows),
        };
        self.launch(device, kernel, batch.div_ceil(rows), self.variant.shared_bytes_forward(keeps_all), &args)
    }

    /// Runs all steps backward. The weights must be packed.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn backward(&self, device: &D, backward: &BackwardSteps<'_>) -> Result<()> {
        let BackwardSteps { steps, batch, gates, c, dh_last, da } = *backward;
        let cells = batch * self.hidden;
        let args = [
            self.backward_weights.all().arg(self.variant.packed()),
            gates.arg(steps * GATES * cells),
            c.arg((steps + 1) * cells),
            dh_last.arg(cells),
            da.arg(steps * GATES * cells),
            int(batch),
            int(steps),
            int(self.hidden),
        ];
        let tiles = batch.div_ceil(self.variant.rows);
        self.launch(device, "sequence_backward", tiles, self.variant.backward_bytes(), &args)
    }

    fn launch(&self, device: &D, kernel: &'static str, tiles: usize, shared: usize, args: &[Arg]) -> Result<()> {
        let cluster = self.variant.cluster as u32;
        let launch = Launch {
            kernel,
            grid: [cluster, tiles as u32, 1],
            block: [self.variant.threads() as u32, 1, 1],
            cluster: [cluster, 1, 1],
            shared: shared as u32,
            dependent: false,
            args,
        };
        // SAFETY: `arg` has checked each length against T, B and H; the packed weights are of this variant.
        unsafe { device.launch(&launch) }
    }
}
