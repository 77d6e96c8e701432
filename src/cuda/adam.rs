//! Launches `kernels/adam.cu`: the update of all parameters, gradient clipping, and the count of steps.

#![allow(unsafe_code)]

use super::device::{Arg, Device, Launch, Part, arg_or_null, int, tiles};
use super::tiles::ADAM_THREADS;
use crate::error::Result;
use crate::optimizer::Adam;

/// Most blocks that add up squares.
const MOST_NORM_PARTS: usize = 1024;

/// Parts in which the squared norm of `n` gradients is added up; depends on `n` alone, for it is part of the order of the
/// sum.
pub fn norm_parts(n: usize) -> usize {
    // Eight numbers for each thread.
    n.div_ceil(8 * ADAM_THREADS as usize).clamp(1, MOST_NORM_PARTS)
}

/// The flat parameters and what belongs to them, n numbers each.
pub struct Update<'a> {
    /// Gradient of the mean loss.
    pub gradient: Part<'a, f32>,
    /// [`Adam::step_size`] of S steps.
    pub step_sizes: Part<'a, f32>,
    /// Which of the S steps this is, `[1]`.
    pub turn: Part<'a, u32>,
    /// What gradients are multiplied by, `[1]`; left out where nothing is clipped.
    pub clip: Option<Part<'a, f32>>,
    /// [`Adam::kept`] of S steps; left out where nothing decays.
    pub kept: Option<Part<'a, f32>>,
    /// Updated: θ.
    pub parameters: Part<'a, f32>,
    /// Updated: the mean of the gradients.
    pub m: Part<'a, f32>,
    /// Updated: the mean of their squares.
    pub v: Part<'a, f32>,
    /// n
    pub n: usize,
}

/// One step of Adam.
///
/// # Errors
///
/// If the device fails.
pub fn update<D: Device>(device: &D, adam: &Adam, update: &Update<'_>) -> Result<()> {
    let Update { gradient, step_sizes, turn, clip, kept, parameters, m, v, n } = *update;
    let args = [
        gradient.arg(n),
        step_sizes.arg(1),
        turn.arg(1),
        arg_or_null(clip, 1),
        parameters.arg(n),
        m.arg(n),
        v.arg(n),
        int(n),
        Arg::F32(adam.beta1 as f32),
        Arg::F32((1.0 - adam.beta1) as f32),
        Arg::F32(adam.beta2 as f32),
        Arg::F32((1.0 - adam.beta2) as f32),
        Arg::F32(adam.epsilon as f32),
        arg_or_null(kept, 1),
    ];
    launch(device, "adam", tiles(n, ADAM_THREADS), ADAM_THREADS, &args)
}

/// Leaves in `clip` `[1]` what the `n` gradients must be multiplied by, so that their norm is at most `max_norm`; `parts` is
/// scratch of [`norm_parts`] numbers.
///
/// # Errors
///
/// If the device fails.
pub fn clip_factor<D: Device>(
    device: &D,
    gradient: Part<'_, f32>,
    parts: Part<'_, f32>,
    clip: Part<'_, f32>,
    n: usize,
    max_norm: f32,
) -> Result<()> {
    let count = norm_parts(n);
    let args = [gradient.arg(n), parts.arg(count), int(n)];
    launch(device, "squared_norm_parts", count as u32, ADAM_THREADS, &args)?;
    let args = [parts.arg(count), clip.arg(1), int(count), Arg::F32(max_norm)];
    launch(device, "clip_factor", 1, ADAM_THREADS, &args)
}

/// Adds 1 to `turn` `[1]`.
///
/// # Errors
///
/// If the device fails.
pub fn advance<D: Device>(device: &D, turn: Part<'_, u32>) -> Result<()> {
    launch(device, "advance", 1, 1, &[turn.arg(1)])
}

fn launch<D: Device>(device: &D, kernel: &'static str, blocks: u32, threads: u32, args: &[Arg]) -> Result<()> {
    let (grid, block) = ([blocks, 1, 1], [threads, 1, 1]);
    let launch = Launch { kernel, grid, block, cluster: [1; 3], shared: 0, dependent: false, args };
    // SAFETY: `arg` has checked the length of each tensor against n; the turn is below S by the engine's contract.
    unsafe { device.launch(&launch) }
}
