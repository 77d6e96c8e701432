//! The TF32 kernels for one model, one size of batch and one kind of GPU: how they share out the work.
//!
//! Several ways fit, and they give the same bits. The one that should take the fewest cycles is chosen by a rule of thumb of the
//! kind of [`super::sequence_variant`]: a prediction, not a measurement.

use super::device::Limits;
use super::sequence_variant::{
    CACHE_RATE, CLUSTER_STEP, LAUNCH, MOST_REGISTERS, MOST_TILES, PLACE_BYTES, RATE, REGISTERS, STEP, WARP,
};
use super::sources;
use super::variant::TILE_ROWS;
use crate::shape::{Dims, GATES};
use std::fmt::Write as _;

/// The oldest compute capability with products in TF32: Ampere.
const OLDEST: (u32, u32) = (8, 0);
/// Registers that a thread needs besides its weights, with one group of units to a warp and with two. `tests/kernels.rs` sees that
/// nothing spills.
const OTHER_FORWARD: [usize; 2] = [84, 115];
const OTHER_BACKWARD: [usize; 2] = [72, 96];
/// Units of a group, and summands of one tensor-core instruction.
const DEPTH: usize = 8;
/// Numbers of a place of a lane.
const VECTOR: usize = 4;

/// Parts of a multiprocessor, each with its own tensor core.
const PARTS: usize = 4;
/// Cycles of a part from one `mma.m16n8k8` to the next.
const PRODUCT: usize = 8;
/// Instructions of a lane's cell: three sigmoids and two tanh forward, one tanh backward.
const CELL_FORWARD: usize = 130;
const CELL_BACKWARD: usize = 60;

/// Sizes as `kernels/tf32/layout.cuh` explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tf32Variant {
    /// Hidden units, padded.
    pub units: usize,
    /// Blocks that share one tile of rows.
    pub cluster: usize,
    /// Groups of 8 units of a warp.
    pub groups: usize,
    /// Places of a warp's forward weights in shared memory.
    pub forward_shared: usize,
    /// The same backward.
    pub backward_shared: usize,
}

impl Tf32Variant {
    /// The variant for a model and batches of `batch` sequences on GPUs of some limits; else why there is none.
    ///
    /// # Errors
    ///
    /// What does not fit, for the user to read.
    pub fn new(dims: Dims, batch: usize, limits: &Limits) -> Result<Self, String> {
        let ((major, minor), (oldest, zero)) = (limits.capability, OLDEST);
        if limits.capability < OLDEST {
            return Err(format!("tf32 needs compute capability {oldest}.{zero}, and this GPU has {major}.{minor}"));
        }
        if batch.div_ceil(TILE_ROWS) > MOST_TILES {
            return Err(format!("a batch of {batch} sequences is more than the tf32 kernels count"));
        }
        Self::all(dims, batch, limits).into_iter().next().ok_or_else(|| {
            format!("the recurrent weights of {} hidden units do not fit on a multiprocessor in tf32", dims.h)
        })
    }

    /// All ways that fit a model, a size of batch and a GPU with products in TF32, those first that are predicted to take the fewest
    /// cycles. They give the same bits.
    pub fn all(dims: Dims, batch: usize, limits: &Limits) -> Vec<Self> {
        let clusters: &[usize] = if limits.capability >= (9, 0) { &[1, 2, 4, 8] } else { &[1] };
        let of = |&cluster: &usize| [1, 2].map(|groups| Self::with(dims.h, cluster, groups, limits));
        let mut fitting: Vec<_> = clusters.iter().flat_map(of).flatten().collect();
        fitting.sort_by_key(|variant| variant.cycles(dims.t, batch, limits));
        fitting
    }

    /// One way to share out the work, if it fits.
    fn with(hidden: usize, cluster: usize, groups: usize, limits: &Limits) -> Option<Self> {
        let units = hidden.next_multiple_of(2 * DEPTH * cluster);
        let mut variant = Self { units, cluster, groups, forward_shared: 0, backward_shared: 0 };
        let threads = variant.threads();
        if threads > 1024 {
            return None;
        }
        // The compiler counts the threads of a block in whole groups of four warps.
        let registers = (REGISTERS / threads.next_multiple_of(4 * WARP) / 8 * 8).min(MOST_REGISTERS);
        let shared = |other: [usize; 2]| {
            let in_registers = registers.saturating_sub(other[groups - 1]) / VECTOR;
            (in_registers > 0).then(|| variant.places().saturating_sub(in_registers))
        };
        let [forward, backward] = [shared(OTHER_FORWARD)?, shared(OTHER_BACKWARD)?];
        (variant.forward_shared, variant.backward_shared) = (forward, backward);
        (variant.forward_bytes().max(variant.backward_bytes()) <= limits.shared as usize).then_some(variant)
    }

    /// Cycles of all steps, forward and backward: predicted.
    fn cycles(&self, t: usize, batch: usize, limits: &Limits) -> usize {
        let (threads, places) = (self.threads(), self.places());
        let blocks = batch.div_ceil(TILE_ROWS) * self.cluster;
        let registers = (OTHER_FORWARD[self.groups - 1] + VECTOR * places).min(MOST_REGISTERS);
        let resident = (REGISTERS / (threads * registers)).clamp(1, 2048 / threads);
        let on_each = blocks.div_ceil(limits.multiprocessors as usize);
        let together = on_each.min(resident);
        let warps_of_part = (threads / WARP).div_ceil(PARTS);
        let products = warps_of_part * places * PRODUCT;
        // Operands b, two words of a lane, are loaded anew for each tile along the sum.
        let loads = |shared: usize, depth: usize| (shared * PLACE_BYTES + depth * 2 * 4) * threads / RATE;
        let step = |shared: usize, depth: usize, cell: usize| {
            let cells = warps_of_part * 2 * self.groups * cell;
            let waits = if self.cluster > 1 { STEP + CLUSTER_STEP } else { STEP };
            (products.max(loads(shared, depth)) + cells) * together + waits
        };
        let forward = step(self.forward_shared, self.units / DEPTH, CELL_FORWARD);
        let backward = step(self.backward_shared, places, CELL_BACKWARD);
        let weights = 2 * blocks * threads * places * PLACE_BYTES / CACHE_RATE;
        on_each.div_ceil(resident) * t * (forward + backward) + weights + 3 * LAUNCH
    }

    /// The kernels' text for this variant.
    pub fn source(&self) -> String {
        let Self { units, cluster, groups, forward_shared, backward_shared } = self;
        let mut text = String::new();
        for (name, value) in [
            ("UNITS", units),
            ("CLUSTER", cluster),
            ("GROUPS", groups),
            ("FORWARD_SHARED", forward_shared),
            ("BACKWARD_SHARED", backward_shared),
        ] {
            let _ = writeln!(text, "#define VARIANT_{name} {value}");
        }
        text + sources::TF32
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        self.units / self.cluster / (DEPTH * self.groups) * WARP
    }

    /// Operand tiles of a warp's weights.
    pub fn places(&self) -> usize {
        self.groups * GATES / 2 * self.units / DEPTH
    }

    /// Numbers of all weights as operands.
    pub fn packed(&self) -> usize {
        GATES * self.units * self.units
    }

    /// Dynamic shared memory of a block forward, in bytes.
    pub fn forward_bytes(&self) -> usize {
        self.forward_shared * self.threads() * PLACE_BYTES + 2 * self.units * TILE_ROWS * 4
    }

    /// The same backward.
    pub fn backward_bytes(&self) -> usize {
        let exchanged = if self.groups == 1 { self.threads() * 8 } else { 0 };
        self.backward_shared * self.threads() * PLACE_BYTES + 2 * GATES * self.units * TILE_ROWS * 4 + exchanged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Limits = Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: 132 };
    const A100: Limits = Limits { capability: (8, 0), shared: 163 * 1024, multiprocessors: 108 };
    const RTX4090: Limits = Limits { capability: (8, 9), shared: 99 * 1024, multiprocessors: 128 };
    const RTX5090: Limits = Limits { capability: (12, 0), shared: 99 * 1024, multiprocessors: 170 };

    fn of(h: usize, batch: usize, limits: &Limits) -> Result<Tf32Variant, String> {
        Tf32Variant::new(Dims { t: 28, i: 28, p: h, h, k: 10 }, batch, limits)
    }

    /// Blocks of a cluster and groups of a warp.
    fn shared_out(h: usize, batch: usize, limits: &Limits) -> Option<[usize; 2]> {
        of(h, batch, limits).ok().map(|Tf32Variant { cluster, groups, .. }| [cluster, groups])
    }

    #[test]
    fn the_tutorials_batch_has_clusters_where_there_are_any() {
        assert_eq!(shared_out(128, 128, &H100), Some([4, 1]));
        assert_eq!(shared_out(128, 4096, &H100), Some([1, 2]));
        assert_eq!(shared_out(128, 128, &A100), Some([1, 2]));
        assert_eq!(shared_out(128, 128, &RTX4090), None);
        assert_eq!(shared_out(100, 128, &RTX4090), Some([1, 2]));
        assert_eq!(shared_out(128, 128, &RTX5090), Some([4, 1]));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        assert!(of(512, 128, &H100).unwrap_err().contains("512 hidden units do not fit"));
        assert!(of(128, 1 << 40, &H100).unwrap_err().contains("is more than the tf32 kernels count"));
        let turing = Limits { capability: (7, 5), ..A100 };
        assert!(of(16, 16, &turing).unwrap_err().contains("tf32 needs compute capability 8.0, and this GPU has 7.5"));
    }

    #[test]
    fn what_is_chosen_fits() {
        for limits in [H100, A100, RTX4090, RTX5090] {
            for h in [1, 16, 20, 64, 100, 128, 192, 256, 320, 384] {
                for batch in [1, 16, 128, 1024, 65_536] {
                    let Ok(variant) = of(h, batch, &limits) else { continue };
                    let most = variant.forward_bytes().max(variant.backward_bytes());
                    assert!(most <= limits.shared as usize && variant.threads() <= 1024, "{variant:?}");
                    assert!(variant.units >= h && variant.units.is_multiple_of(16 * variant.cluster), "{variant:?}");
                    assert!(variant.forward_shared.max(variant.backward_shared) < variant.places(), "{variant:?}");
                }
            }
        }
    }
}
