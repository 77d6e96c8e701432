//! Launches `kernels/sequence/` and `kernels/tf32/`: all time steps of the LSTM in one launch, forward and backward, in f32, or with the
//! recurrent products in TF32. They take the place of the launches of [`super::lstm`], and leave what those leave.

#![allow(unsafe_code)]

use super::device::{Arg, Buffer, Device, Launch, Part, int, tiles};
use super::sequence_variant::SequenceVariant;
use super::tf32_variant::Tf32Variant;
use super::tiles::{SEQUENCE_PACK_THREADS, TF32_PACK_THREADS};
use super::variant::TILE_ROWS;
use super::weights::Weights;
use crate::error::Result;
use crate::shape::{Dims, GATES};

/// The kernels of a variant, which the device must have loaded, and the weights that they read.
pub struct Sequence<D: Device> {
    hidden: usize,
    launches: Launches,
    /// Recurrent weights as the threads hold them.
    forward_weights: Buffer<D, f32>,
    /// Likewise.
    backward_weights: Buffer<D, f32>,
}

/// How the kernels of a variant are launched.
#[derive(Clone, Copy, Debug)]
pub struct Launches {
    pack: &'static str,
    pack_threads: u32,
    forward: &'static str,
    score: &'static str,
    backward: &'static str,
    /// Blocks that share a tile of rows.
    cluster: usize,
    threads: usize,
    /// Rows of the batch of a tile that trains, and of one that scores.
    rows: [usize; 2],
    /// Numbers of the packed weights.
    packed: usize,
    /// Dynamic shared memory of each, in bytes.
    forward_bytes: usize,
    score_bytes: usize,
    backward_bytes: usize,
}

impl From<SequenceVariant> for Launches {
    fn from(variant: SequenceVariant) -> Self {
        Self {
            pack: "sequence_pack",
            pack_threads: SEQUENCE_PACK_THREADS,
            forward: "sequence_forward",
            score: "sequence_score",
            backward: "sequence_backward",
            cluster: variant.cluster,
            threads: variant.threads(),
            rows: [variant.rows, variant.score_rows],
            packed: variant.packed(),
            forward_bytes: variant.shared_bytes_forward(true),
            score_bytes: variant.shared_bytes_forward(false),
            backward_bytes: variant.backward_bytes(),
        }
    }
}

impl From<Tf32Variant> for Launches {
    fn from(variant: Tf32Variant) -> Self {
        Self {
            pack: "tf32_pack",
            pack_threads: TF32_PACK_THREADS,
            forward: "tf32_forward",
            score: "tf32_score",
            backward: "tf32_backward",
            cluster: variant.cluster,
            threads: variant.threads(),
            rows: [TILE_ROWS; 2],
            packed: variant.packed(),
            forward_bytes: variant.forward_bytes(),
            score_bytes: variant.forward_bytes(),
            backward_bytes: variant.backward_bytes(),
        }
    }
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
    pub fn new(device: &D, dims: Dims, variant: impl Into<Launches>) -> Result<Self> {
        let launches = variant.into();
        Ok(Self {
            hidden: dims.h,
            launches,
            forward_weights: Buffer::new(device, "forward weights", launches.packed)?,
            backward_weights: Buffer::new(device, "backward weights", launches.packed)?,
        })
    }

    /// Makes the recurrent weights ready: whoever changed them, before the next steps.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn pack(&self, device: &D, weights: &Weights<D>) -> Result<()> {
        let (h, packed) = (self.hidden, self.launches.packed);
        let args = [
            weights.tensors().cells[0].w_h.arg(h * GATES * h),
            self.forward_weights.all().arg(packed),
            self.backward_weights.all().arg(packed),
            int(h),
        ];
        let launch = Launch {
            kernel: self.launches.pack,
            grid: [tiles(packed, self.launches.pack_threads), 1, 1],
            block: [self.launches.pack_threads, 1, 1],
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
            self.forward_weights.all().arg(self.launches.packed),
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
        let Launches { forward, score, rows: [rows, score_rows], forward_bytes, score_bytes, .. } = self.launches;
        let (kernel, rows, shared) =
            if keeps_all { (forward, rows, forward_bytes) } else { (score, score_rows, score_bytes) };
        self.launch(device, kernel, batch.div_ceil(rows), shared, &args)
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
            self.backward_weights.all().arg(self.launches.packed),
            gates.arg(steps * GATES * cells),
            c.arg((steps + 1) * cells),
            dh_last.arg(cells),
            da.arg(steps * GATES * cells),
            int(batch),
            int(steps),
            int(self.hidden),
        ];
        let Launches { backward, rows: [rows, _], backward_bytes, .. } = self.launches;
        self.launch(device, backward, batch.div_ceil(rows), backward_bytes, &args)
    }

    fn launch(&self, device: &D, kernel: &'static str, tiles: usize, shared: usize, args: &[Arg]) -> Result<()> {
        let cluster = self.launches.cluster as u32;
        let launch = Launch {
            kernel,
            grid: [cluster, tiles as u32, 1],
            block: [self.launches.threads as u32, 1, 1],
            cluster: [cluster, 1, 1],
            shared: shared as u32,
            dependent: false,
            args,
        };
        // SAFETY: `arg` has checked each length against T, B and H; the packed weights are of this variant.
        unsafe { device.launch(&launch) }
    }
}
