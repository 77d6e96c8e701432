//! Launches `kernels/softmax_xent.cu`: loss, predicted class and gradient of each row; what a batch comes to.

#![allow(unsafe_code)]

use super::device::{Arg, Device, Launch, Part, arg_or_null, int, tiles};
use super::tiles::{METRICS_THREADS, SOFTMAX_THREADS, WARP};
use crate::error::Result;

/// The loss of a batch.
pub struct SoftmaxXent<'a> {
    /// `[B,K]`
    pub logits: Part<'a, f32>,
    /// `[B]`, each below K, which the caller has checked.
    pub labels: Part<'a, u32>,
    /// Written: cross-entropy of each row, `[B]`.
    pub loss: Part<'a, f32>,
    /// Written: class of each row's largest logit, `[B]`.
    pub predicted: Part<'a, u32>,
    /// Written: gradient of the batch's mean loss, `[B,K]`; left out in an evaluation.
    pub dlogits: Option<Part<'a, f32>>,
    /// B
    pub batch: usize,
    /// K
    pub classes: usize,
    /// Share of the target that is spread over all classes.
    pub smoothing: f32,
}

/// Computes a batch's losses, classes and gradient.
///
/// # Errors
///
/// If the device fails.
pub fn softmax_xent<D: Device>(device: &D, batch: &SoftmaxXent<'_>) -> Result<()> {
    let SoftmaxXent { logits, labels, loss, predicted, dlogits, batch, classes, smoothing } = *batch;
    let args = [
        logits.arg(batch * classes),
        labels.arg(batch),
        loss.arg(batch),
        predicted.arg(batch),
        arg_or_null(dlogits, batch * classes),
        int(batch),
        int(classes),
        Arg::F32(1.0 / batch as f32),
        Arg::F32(smoothing),
    ];
    launch_rows(device, "softmax_xent", batch, &args)
}

/// Probabilities `[B,K]` of logits `[B,K]`.
///
/// # Errors
///
/// If the device fails.
pub fn softmax<D: Device>(
    device: &D,
    logits: Part<'_, f32>,
    probabilities: Part<'_, f32>,
    batch: usize,
    classes: usize,
) -> Result<()> {
    let count = batch * classes;
    let args = [logits.arg(count), probabilities.arg(count), int(batch), int(classes)];
    launch_rows(device, "softmax", batch, &args)
}

fn launch_rows<D: Device>(device: &D, kernel: &'static str, batch: usize, args: &[Arg]) -> Result<()> {
    let grid = [tiles(batch, SOFTMAX_THREADS / WARP), 1, 1];
    let launch =
        Launch { kernel, grid, block: [SOFTMAX_THREADS, 1, 1], cluster: [1; 3], shared: 0, dependent: false, args };
    // SAFETY: `arg` has checked the length of each tensor against B and K; labels are below K by the caller's word.
    unsafe { device.launch(&launch) }
}

/// What is known of each row of a batch, and where its sums go.
pub struct Metrics<'a> {
    /// `[B]`
    pub loss: Part<'a, f32>,
    /// `[B]`
    pub predicted: Part<'a, u32>,
    /// `[B]`
    pub labels: Part<'a, u32>,
    /// Which of the S steps this is, `[1]`.
    pub turn: Part<'a, u32>,
    /// Element `turn` is written: mean loss, `[S]`.
    pub mean_loss: Part<'a, f32>,
    /// Element `turn` is written: how many rows are classified right, `[S]`.
    pub correct: Part<'a, u32>,
    /// B
    pub batch: usize,
}

/// Sums up a batch.
///
/// # Errors
///
/// If the device fails.
pub fn batch_metrics<D: Device>(device: &D, metrics: &Metrics<'_>) -> Result<()> {
    let Metrics { loss, predicted, labels, turn, mean_loss, correct, batch } = *metrics;
    let args = [
        loss.arg(batch),
        predicted.arg(batch),
        labels.arg(batch),
        turn.arg(1),
        mean_loss.arg(1),
        correct.arg(1),
        int(batch),
    ];
    let block = [METRICS_THREADS, 1, 1];
    let launch = Launch {
        kernel: "batch_metrics",
        grid: [1; 3],
        block,
        cluster: [1; 3],
        shared: 0,
        dependent: false,
        args: &args,
    };
    // SAFETY: `arg` has checked the length of each tensor against B; the turn is below S by the engine's contract.
    unsafe { device.launch(&launch) }
}
