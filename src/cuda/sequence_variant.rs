//! The sequence kernels for one model, one size of batch and one kind of GPU: how they share out the work.
//!
//! Several ways fit, and they give the same bits. The one that should take the fewest cycles is chosen by a rule of thumb, made of
//! rates that NVIDIA publishes and of guesses at latencies: a prediction, not a measurement.

use super::device::Limits;
use super::sources;
use crate::shape::{Dims, GATES};
use std::fmt::Write as _;

/// Registers of a multiprocessor.
pub(super) const REGISTERS: usize = 64 * 1024;
/// Most registers of a thread.
pub(super) const MOST_REGISTERS: usize = 255;
/// Registers that a thread needs besides its weights, and for each of its chains of sums of 1, 2 or 4 rows. `tests/kernels.rs` sees
/// that nothing spills.
const OTHER: usize = 39;
const CHAIN: [usize; 3] = [6, 20, 44];
/// Rows of a block. With more of them too many weights lie in shared memory.
const ROWS: [usize; 3] = [1, 2, 4];
/// Neighbouring weights of one place.
const VECTOR: usize = 4;
/// Chains of a forward sum.
const CHAINS: usize = 4;
pub(super) const WARP: usize = 32;
/// Bytes of a place of a thread.
pub(super) const PLACE_BYTES: usize = 16;
/// Most blocks in the second dimension of a grid.
pub(super) const MOST_TILES: usize = 65_535;

/// Multiply-adds that a multiprocessor does in a cycle, and bytes of shared memory that it reads.
pub(super) const RATE: usize = 128;
/// Cycles of a step besides its products: sums over lanes, activations, a barrier.
pub(super) const STEP: usize = 300;
/// More of them where a cluster waits for its blocks and writes to their memory: rather too many, for nobody has measured it yet.
pub(super) const CLUSTER_STEP: usize = 700;
/// Bytes that all multiprocessors together get out of the cache in a cycle.
pub(super) const CACHE_RATE: usize = 3000;
/// Cycles from the start of one launch to the start of the next, and of one round of tiles of the kernels of one step.
pub(super) const LAUNCH: usize = 2500;
const TILE_ROUND: usize = 700;
/// Summands of such a tile.
const TILE_DEPTH: usize = 32;

/// Sizes as `kernels/sequence/layout.cuh` explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceVariant {
    /// Hidden units, padded.
    pub units: usize,
    /// Blocks that share one tile of rows.
    pub cluster: usize,
    /// Lanes that share a unit's sums.
    pub lanes: usize,
    /// Rows of the batch of a block that trains.
    pub rows: usize,
    /// And of one that scores.
    pub score_rows: usize,
    /// Places of a thread's forward weights in shared memory.
    pub forward_shared: usize,
    /// The same backward.
    pub backward_shared: usize,
    /// The same where scores are wanted.
    pub score_shared: usize,
}

impl SequenceVariant {
    /// The variant for a model and batches of `batch` sequences on GPUs of some limits; else why there is none.
    ///
    /// # Errors
    ///
    /// What does not fit, for the user to read.
    pub fn new(dims: Dims, batch: usize, limits: &Limits) -> Result<Self, String> {
        if batch.div_ceil(ROWS[0]) > MOST_TILES * ROWS[ROWS.len() - 1] {
            return Err(format!("a batch of {batch} sequences is more than the kernels of all steps count"));
        }
        let best = Self::all(dims, batch, limits).into_iter().next().ok_or_else(|| {
            format!("the recurrent weights of {} hidden units and their sums do not fit on a multiprocessor", dims.h)
        })?;
        if best.cycles(dims.t, batch, limits) > per_step_cycles(dims, batch, limits) {
            return Err("that is predicted to be faster for these sizes".into());
        }
        Ok(best)
    }

    /// All ways that fit a model, a size of batch and a GPU, those first that are predicted to take the fewest cycles. They give the
    /// same bits.
    pub fn all(dims: Dims, batch: usize, limits: &Limits) -> Vec<Self> {
        let clusters: &[usize] = if limits.capability >= (9, 0) { &[1, 2, 4, 8] } else { &[1] };
        let of = |&cluster: &usize| {
            [4, 2].into_iter().flat_map(move |lanes| ROWS.map(|rows| Self::with(dims.h, cluster, lanes, rows, limits)))
        };
        let fitting = clusters.iter().flat_map(of).flatten();
        let mut all: Vec<_> = fitting.filter(|variant| batch.div_ceil(variant.rows) <= MOST_TILES).collect();
        all.sort_by_key(|variant| variant.cycles(dims.t, batch, limits));
        all
    }

    /// One way to share out the work, if it fits.
    fn with(hidden: usize, cluster: usize, lanes: usize, rows: usize, limits: &Limits) -> Option<Self> {
        let units = hidden.next_multiple_of(16 * cluster);
        let threads = units / cluster * lanes;
        // The compiler counts the threads of a block in whole groups of four warps.
        let registers = (REGISTERS / threads.next_multiple_of(4 * WARP) / 8 * 8).min(MOST_REGISTERS);
        let mut variant =
            Self { units, cluster, lanes, rows, score_rows: 0, forward_shared: 0, backward_shared: 0, score_shared: 0 };
        let shared = |rows: usize| {
            let other = OTHER + CHAIN[rows.ilog2() as usize] * CHAINS / lanes;
            let in_registers = registers.saturating_sub(other) / VECTOR;
            (in_registers > 0).then(|| variant.places().saturating_sub(in_registers))
        };
        let room = limits.shared as usize;
        let of_training = shared(rows)?;
        let fits_scoring =
            |&rows: &usize| shared(rows).is_some_and(|shared| variant.forward_bytes(rows, shared) <= room);
        let score_rows = ROWS.into_iter().rev().find(fits_scoring)?;
        let of_scoring = shared(score_rows)?;
        variant.score_rows = score_rows;
        (variant.forward_shared, variant.backward_shared, variant.score_shared) =
            (of_training, of_training, of_scoring);
        (threads <= 1024 && variant.backward_bytes() <= room).then_some(variant)
    }

    /// Cycles of all steps, forward and backward: predicted.
    fn cycles(&self, t: usize, batch: usize, limits: &Limits) -> usize {
        let Self { units, cluster, lanes, rows, .. } = *self;
        let (threads, multiprocessors) = (self.threads(), limits.multiprocessors as usize);
        let blocks = batch.div_ceil(rows) * cluster;
        // Of a thread's registers, those of its weights are most.
        let resident =
            (REGISTERS / (threads * (OTHER + VECTOR * self.places()).min(MOST_REGISTERS))).clamp(1, 2048 / threads);
        let on_each = blocks.div_ceil(multiprocessors);
        let together = on_each.min(resident);
        let products = GATES * rows * units * (units / cluster) / RATE;
        let loads = |shared: usize| {
            shared * threads * PLACE_BYTES / RATE + rows * self.places() / GATES * (threads / WARP) * lanes / 2
        };
        let step =
            |shared: usize| products.max(loads(shared)) * together + STEP + if cluster > 1 { CLUSTER_STEP } else { 0 };
        let steps = on_each.div_ceil(resident) * t * (step(self.forward_shared) + step(self.backward_shared));
        let weights = 2 * blocks * threads * self.places() * PLACE_BYTES / CACHE_RATE;
        steps + weights + 3 * LAUNCH
    }

    /// The kernels' text for this variant.
    pub fn source(&self) -> String {
        let mut text = String::new();
        for (name, value) in ["UNITS", "CLUSTER", "LANES", "ROWS", "SCORE_ROWS"].into_iter().zip(self.sizes()) {
            let _ = writeln!(text, "#define VARIANT_{name} {value}");
        }
        let Self { forward_shared, backward_shared, score_shared, .. } = self;
        for (name, value) in [("FORWARD", forward_shared), ("BACKWARD", backward_shared), ("SCORE", score_shared)] {
            let _ = writeln!(text, "#define VARIANT_{name}_SHARED {value}");
        }
        text + sources::SEQUENCE
    }

    fn sizes(&self) -> [usize; 5] {
        [self.units, self.cluster, self.lanes, self.rows, self.score_rows]
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        self.units / self.cluster * self.lanes
    }

    /// Places of a thread's weights.
    pub fn places(&self) -> usize {
        GATES * self.units / self.lanes / VECTOR
    }

    /// Numbers of all weights as threads hold them.
    pub fn packed(&self) -> usize {
        self.cluster * self.threads() * self.places() * VECTOR
    }

    fn weight_bytes(&self, shared: usize) -> usize {
        shared * self.threads() * PLACE_BYTES
    }

    fn forward_bytes(&self, rows: usize, shared: usize) -> usize {
        self.weight_bytes(shared) + 2 * rows * self.units * 4
    }

    /// Dynamic shared memory of a block forward, where it trains and where it scores, in bytes.
    pub fn shared_bytes_forward(&self, trains: bool) -> usize {
        if trains {
            self.forward_bytes(self.rows, self.forward_shared)
        } else {
            self.forward_bytes(self.score_rows, self.score_shared)
        }
    }

    /// The same backward.
    pub fn backward_bytes(&self) -> usize {
        self.weight_bytes(self.backward_shared) + 2 * self.rows * GATES * self.units * 4
    }
}

/// Cycles of all steps, a launch for each: predicted, at half the rate of multiply-adds.
fn per_step_cycles(dims: Dims, batch: usize, limits: &Limits) -> usize {
    let Dims { t, i, h, .. } = dims;
    let step = |products: usize, summands: usize| {
        let throughput = batch * products / (limits.multiprocessors as usize * RATE / 2);
        LAUNCH + throughput.max(summands.div_ceil(TILE_DEPTH) * TILE_ROUND)
    };
    t * (step(dims.g() * (i + 1 + h), i + 1 + h) + step(dims.g() * h, dims.g()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Limits = Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: 132 };
    const RTX4090: Limits = Limits { capability: (8, 9), shared: 99 * 1024, multiprocessors: 128 };
    const T4: Limits = Limits { capability: (7, 5), shared: 64 * 1024, multiprocessors: 40 };

    fn of(h: usize, batch: usize, limits: &Limits) -> Result<SequenceVariant, String> {
        SequenceVariant::new(Dims { t: 28, i: 28, p: h, h, k: 10 }, batch, limits)
    }

    #[test]
    fn the_tutorials_batch_has_a_multiprocessor_for_each_row() {
        for limits in [H100, RTX4090] {
            let SequenceVariant { units, cluster, lanes, rows, .. } = of(128, 128, &limits).unwrap();
            assert_eq!([units, cluster, lanes, rows], [128, 1, 2, 1]);
        }
    }

    #[test]
    fn large_batches_take_more_rows_to_a_block_and_many_units_a_cluster() {
        assert_eq!(of(128, 4096, &H100).unwrap().rows, 4);
        assert!(of(256, 128, &H100).unwrap().cluster >= 4);
        assert!(of(256, 128, &RTX4090).unwrap_err().contains("256 hidden units"));
        assert!(of(1024, 128, &H100).unwrap_err().contains("1024 hidden units"));
    }

    #[test]
    fn what_is_chosen_fits() {
        for limits in [H100, RTX4090, T4] {
            for h in [1, 16, 20, 64, 100, 128, 192, 256] {
                for batch in [1, 16, 128, 1024, 65_536] {
                    let Ok(variant) = of(h, batch, &limits) else { continue };
                    let most = variant.backward_bytes().max(variant.shared_bytes_forward(true));
                    assert!(most.max(variant.shared_bytes_forward(false)) <= limits.shared as usize, "{variant:?}");
                    assert!(variant.threads().is_multiple_of(WARP) && variant.units >= h, "{variant:?}");
                }
            }
        }
        assert!(of(64, 128, &T4).is_ok());
    }
}
