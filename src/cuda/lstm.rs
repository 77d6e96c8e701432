//! Launches `kernels/lstm.cu`: one time step of the LSTM, forward and backward.

#![allow(unsafe_code)]

use super::device::{Arg, Device, Launch, Part, arg_or_null, int, tiles};
use super::tiles::{LSTM_GROUPS, LSTM_ROWS, LSTM_UNITS};
use crate::error::Result;
use crate::shape::GATES;

/// One step forward; J = I + 1, G = 4H.
pub struct ForwardStep<'a> {
    /// The step's inputs, each row with a 1 at its end, `[B,J]`.
    pub x: Part<'a, f32>,
    /// Folded input weights, and the bias as the last row, `[J,G]`.
    pub fold: Part<'a, f32>,
    /// Recurrent weights, `[H,G]`.
    pub w_h: Part<'a, f32>,
    /// Hidden state before the step, `[B,H]`.
    pub h_prev: Part<'a, f32>,
    /// Cell state before the step, `[B,H]`.
    pub c_prev: Part<'a, f32>,
    /// Written: gates after their activation, `[B,G]`.
    pub gates: Part<'a, f32>,
    /// Written: cell state, `[B,H]`.
    pub c: Part<'a, f32>,
    /// Written: hidden state, `[B,H]`.
    pub h: Part<'a, f32>,
    /// B
    pub batch: usize,
    /// J
    pub inputs: usize,
    /// H
    pub hidden: usize,
    /// Added to the forget gate before its sigmoid.
    pub forget_bias: f32,
    /// Where sequences differ in length.
    pub ends: Ends<'a>,
}

/// Steps of each sequence `[B]`, and this step's place in them; none where no sequence ends before it.
pub type Ends<'a> = Option<(Part<'a, u32>, usize)>;

/// One step backward.
pub struct BackwardStep<'a> {
    /// `da` of the step that is read after this one, `[B,G]`; none at the last one.
    pub later: Option<Part<'a, f32>>,
    /// Gradient by the step's hidden state as others than the next step read it, `[B,H]`; there must be one at the last step.
    pub outside: Option<Part<'a, f32>>,
    /// Recurrent weights, `[H,G]`.
    pub w_h: Part<'a, f32>,
    /// The step's gates, `[B,G]`.
    pub gates: Part<'a, f32>,
    /// Cell state before the step, `[B,H]`.
    pub c_prev: Part<'a, f32>,
    /// Cell state after the step, `[B,H]`.
    pub c: Part<'a, f32>,
    /// Gradient by the cell state, from the step after to this one, `[B,H]`; at the last step only written.
    pub dc: Part<'a, f32>,
    /// Written: gradient by the gates before their activation, `[B,G]`.
    pub da: Part<'a, f32>,
    /// B
    pub batch: usize,
    /// H
    pub hidden: usize,
    /// Where sequences differ in length.
    pub ends: Ends<'a>,
}

/// The arguments that say so.
fn ends_args(ends: Ends<'_>, batch: usize) -> [Arg; 2] {
    [arg_or_null(ends.map(|(lengths, _)| lengths), batch), int(ends.map_or(0, |(_, step)| step))]
}

/// Runs one step forward.
///
/// # Errors
///
/// If the device fails.
pub fn forward_step<D: Device>(device: &D, step: &ForwardStep<'_>) -> Result<()> {
    let ForwardStep { x, fold, w_h, h_prev, c_prev, gates, c, h, batch, inputs, hidden, forget_bias, ends } = *step;
    let [lengths, t] = ends_args(ends, batch);
    let (cells, g) = (batch * hidden, GATES * hidden);
    let args = [
        x.arg(batch * inputs),
        fold.arg(inputs * g),
        h_prev.arg(cells),
        w_h.arg(hidden * g),
        c_prev.arg(cells),
        gates.arg(batch * g),
        c.arg(cells),
        h.arg(cells),
        int(batch),
        int(inputs),
        int(hidden),
        Arg::F32(forget_bias),
        lengths,
        t,
    ];
    launch(device, "lstm_forward_step", batch, hidden, &args)
}

/// Runs one step backward.
///
/// # Errors
///
/// If the device fails.
pub fn backward_step<D: Device>(device: &D, step: &BackwardStep<'_>) -> Result<()> {
    let BackwardStep { later, outside, w_h, gates, c_prev, c, dc, da, batch, hidden, ends } = *step;
    assert!(later.is_some() || outside.is_some(), "the last step has nothing to begin with");
    let [lengths, t] = ends_args(ends, batch);
    let (cells, g) = (batch * hidden, GATES * hidden);
    let args = [
        arg_or_null(later, batch * g),
        arg_or_null(outside, cells),
        w_h.arg(hidden * g),
        gates.arg(batch * g),
        c_prev.arg(cells),
        c.arg(cells),
        dc.arg(cells),
        da.arg(batch * g),
        int(batch),
        int(hidden),
        lengths,
        t,
    ];
    launch(device, "lstm_backward_step", batch, hidden, &args)
}

fn launch<D: Device>(device: &D, kernel: &'static str, batch: usize, hidden: usize, args: &[Arg]) -> Result<()> {
    let launch = Launch {
        kernel,
        grid: [tiles(batch, LSTM_ROWS), tiles(hidden, LSTM_UNITS), 1],
        block: [LSTM_UNITS, LSTM_GROUPS, 1],
        cluster: [1; 3],
        shared: 0,
        dependent: false,
        args,
    };
    // SAFETY: `arg` has checked the length of each tensor against B, J and H.
    unsafe { device.launch(&launch) }
}
