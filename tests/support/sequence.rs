//! A batch by the kernels that run all steps in one launch, without an engine that chooses how they share out the work.

use super::models::{dataset, start};
use fused_lstm::Result;
use fused_lstm::cuda::backward::Backward;
use fused_lstm::cuda::device::{Buffer, Device};
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::forward::{Forward, Keep};
use fused_lstm::cuda::gather::DeviceSequences;
use fused_lstm::cuda::sequence::Sequence;
use fused_lstm::cuda::specialized::Specialized;
use fused_lstm::cuda::weights::Weights;
use fused_lstm::engine::Model;
use fused_lstm::shape::Dims;

pub const FORGET_BIAS: f32 = 0.7;

/// What the kernels of a variant give.
#[derive(Debug, PartialEq)]
pub struct Pass {
    pub logits: Vec<f32>,
    pub h_last: Vec<f32>,
    pub c_last: Vec<f32>,
    pub gradient: Vec<f32>,
    /// Logits, h and c once more, by the kernel that keeps nothing else.
    pub scored: [Vec<f32>; 3],
}

/// Runs the first `batch` sequences of [`dataset`]; scores them two steps at a time.
pub fn pass(mut device: Emulated, variant: impl Into<Specialized>, dims: Dims, batch: usize) -> Result<Pass> {
    let kernels = variant.into();
    device.load(&kernels)?;
    let device = &device;
    let model = Model { forget_bias: FORGET_BIAS, ..Model::new(dims) };
    let mut weights = Weights::new(device, model)?;
    weights.upload(device, &start(dims))?;
    weights.update_fold(device)?;
    let launches = kernels.launches().expect("kernels that run all steps in the place of those of one step");
    let lstm = Sequence::new(device, dims, launches)?;
    lstm.pack(device, &weights)?;
    let sequences = DeviceSequences::new(device, &dataset(dims, batch).train)?;
    let rows = Buffer::from_slice(device, "rows", &(0..batch as u32).collect::<Vec<_>>())?;
    let turn = Buffer::from_slice(device, "turn", &[0u32])?;
    let run = |keep| {
        let forward = Forward::new(device, dims, batch, keep)?;
        forward.run(device, &weights, Some(&lstm), &sequences, (rows.all(), turn.all()), batch)?;
        Ok::<_, fused_lstm::Error>(forward)
    };
    let logits = |forward: &Forward<Emulated>| forward.logits().download(device, batch * dims.k);
    let (forward, backward) = (run(Keep::All)?, Backward::new(device, &model, batch)?);
    forward.score(device, Some(backward.dlogits()), batch)?;
    backward.run(device, &weights, Some(&lstm), &forward)?;
    let (h_last, c_last) = forward.download_last(device, batch)?;
    let gradient = backward.gradient().download(device, backward.gradient().len())?;
    let scored = run(Keep::Last(2))?;
    let (h_scored, c_scored) = scored.download_last(device, batch)?;
    let scored = [logits(&scored)?, h_scored, c_scored];
    Ok(Pass { logits: logits(&forward)?, h_last, c_last, gradient, scored })
}
