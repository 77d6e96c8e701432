//! Launches `kernels/layers.cu`: what lies between LSTM layers, and between the last one and the head.

#![allow(unsafe_code)]

use super::device::{Arg, Buffer, Device, Launch, Part, arg_or_null, int, tiles};
use super::tiles::LAYERS_THREADS;
use crate::dropout::Mask;
use crate::error::Result;
use crate::model::{Model, Pool};

/// Sizes of a layer's cells.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// T
    pub t: usize,
    /// B
    pub batch: usize,
    /// H
    pub hidden: usize,
}

/// What dropout leaves out between two layers.
#[derive(Clone, Copy)]
pub struct LeaveOut<'a> {
    /// [`Mask::key`] of S steps, `[S,2]`.
    pub keys: Part<'a, u32>,
    /// Which of the S steps, `[1]`.
    pub turn: Part<'a, u32>,
    /// Threshold and scale are those of every step.
    pub mask: Mask,
}

impl<'a> LeaveOut<'a> {
    /// What the dropout of `model` leaves out at the steps that `keys` are of; none if it has no dropout.
    pub fn new<D: Device>(model: &Model, keys: Option<&'a Buffer<D, u32>>, turn: Part<'a, u32>) -> Option<Self> {
        // Threshold and scale are the same at every step.
        model.dropout.zip(keys).map(|(dropout, keys)| Self { keys: keys.all(), turn, mask: dropout.mask(1) })
    }
}

/// The arguments that say so, in the order of the kernels': keys and turn, threshold and scale.
fn leave_out_args(leave_out: Option<LeaveOut<'_>>) -> ([Arg; 2], [Arg; 2]) {
    match leave_out {
        None => ([Arg::Address(0); 2], [Arg::I32(0), Arg::F32(1.0)]),
        Some(LeaveOut { keys, turn, mask }) => {
            // The kernel takes the bits for a whole number without a sign.
            ([keys.arg(2), turn.arg(1)], [Arg::I32(mask.threshold as i32), Arg::F32(mask.scale)])
        }
    }
}

/// Leaves in `x` `[T,B,D·H+1]` what a cell reads of the layer below, number `layer`, whose D states are `[T+1,B,H]`.
///
/// # Errors
///
/// If the device fails.
pub fn layer_inputs<D: Device>(
    device: &D,
    sizes: Sizes,
    (h, h_back): (Part<'_, f32>, Option<Part<'_, f32>>),
    leave_out: Option<LeaveOut<'_>>,
    (layer, reversed): (usize, bool),
    x: Part<'_, f32>,
) -> Result<()> {
    let Sizes { t, batch, hidden } = sizes;
    let states = (t + 1) * batch * hidden;
    let count = t * batch * (hidden * (1 + usize::from(h_back.is_some())) + 1);
    let ([keys, turn], [threshold, scale]) = leave_out_args(leave_out);
    let args = [
        h.arg(states),
        arg_or_null(h_back, states),
        keys,
        turn,
        x.arg(count),
        int(t),
        int(batch),
        int(hidden),
        int(layer),
        int(usize::from(reversed)),
        threshold,
        scale,
    ];
    launch(device, "layer_inputs", count, &args)
}

/// Leaves in `dh` `[T,B,H]` the gradient by the states of a cell of `layer`, from that by what each of the D cells above it
/// reads, `[T,B,D·H]`.
///
/// # Errors
///
/// If the device fails.
pub fn layer_gradients<D: Device>(
    device: &D,
    sizes: Sizes,
    (dx, dx_back): (Part<'_, f32>, Option<Part<'_, f32>>),
    leave_out: Option<LeaveOut<'_>>,
    (layer, reversed): (usize, bool),
    dh: Part<'_, f32>,
) -> Result<()> {
    let Sizes { t, batch, hidden } = sizes;
    let count = t * batch * hidden;
    let width = count * (1 + usize::from(dx_back.is_some()));
    let ([keys, turn], [threshold, scale]) = leave_out_args(leave_out);
    let args = [
        dx.arg(width),
        arg_or_null(dx_back, width),
        keys,
        turn,
        dh.arg(count),
        int(t),
        int(batch),
        int(hidden),
        int(layer),
        int(usize::from(reversed)),
        threshold,
        scale,
    ];
    launch(device, "layer_gradients", count, &args)
}

/// A cell of the last layer, and what the head reads of it.
#[derive(Clone, Copy)]
pub struct Pooled<'a> {
    /// Its sizes.
    pub sizes: Sizes,
    /// `[T+1,B,H]`
    pub h: Part<'a, f32>,
    /// Steps of each sequence, `[B]`; none where all have T.
    pub lengths: Option<Part<'a, u32>>,
    /// `[B,D·H]`
    pub pooled: Part<'a, f32>,
    /// D
    pub directions: usize,
    /// Whether this cell is the second direction.
    pub reversed: bool,
    /// How states become one.
    pub kind: Pool,
}

impl Pooled<'_> {
    /// Sizes, the first column, the direction and the kind.
    fn args(&self) -> [Arg; 7] {
        let Sizes { t, batch, hidden } = self.sizes;
        let first = if self.reversed { hidden } else { 0 };
        let kind = match self.kind {
            Pool::Last => 0,
            Pool::Mean => 1,
            Pool::Max => 2,
        };
        let width = int(self.directions * hidden);
        [int(t), int(batch), int(hidden), width, int(first), int(usize::from(self.reversed)), int(kind)]
    }
}

/// Writes the cell's columns of `pooled`.
///
/// # Errors
///
/// If the device fails.
pub fn pool<D: Device>(device: &D, cell: &Pooled<'_>) -> Result<()> {
    let Pooled { sizes: Sizes { t, batch, hidden }, h, lengths, pooled, directions, .. } = *cell;
    let [steps, b, units, width, first, reversed, kind] = cell.args();
    let (h, lengths) = (h.arg((t + 1) * batch * hidden), arg_or_null(lengths, batch));
    let pooled = pooled.arg(batch * directions * hidden);
    let args = [h, lengths, pooled, steps, b, units, width, first, reversed, kind];
    launch(device, "pool", batch * hidden, &args)
}

/// Leaves in `dh` `[T,B,H]` the gradient by the cell's states, from that by `pooled`.
///
/// # Errors
///
/// If the device fails.
pub fn unpool<D: Device>(device: &D, cell: &Pooled<'_>, d_pooled: Part<'_, f32>, dh: Part<'_, f32>) -> Result<()> {
    let Pooled { sizes: Sizes { t, batch, hidden }, h, lengths, pooled, directions, .. } = *cell;
    let [steps, b, units, width, first, reversed, kind] = cell.args();
    let (h, lengths) = (h.arg((t + 1) * batch * hidden), arg_or_null(lengths, batch));
    let (pooled, d_pooled) = (pooled.arg(batch * directions * hidden), d_pooled.arg(batch * directions * hidden));
    let dh = dh.arg(t * batch * hidden);
    let args = [h, lengths, pooled, d_pooled, dh, steps, b, units, width, first, reversed, kind];
    launch(device, "unpool", batch * hidden, &args)
}

fn launch<D: Device>(device: &D, kernel: &'static str, count: usize, args: &[Arg]) -> Result<()> {
    let (grid, block) = ([tiles(count, LAYERS_THREADS), 1, 1], [LAYERS_THREADS, 1, 1]);
    let launch = Launch { kernel, grid, block, cluster: [1; 3], shared: 0, dependent: false, args };
    // SAFETY: `arg` has checked the length of each tensor against T, B and H; the turn is below S by the engine's contract,
    // and lengths are at most T.
    unsafe { device.launch(&launch) }
}
