//! The persistent kernels for one model and one kind of GPU: sizes that are fixed when they are compiled.

use super::device::Limits;
use super::sources;
use crate::precision::Activations;
use crate::shape::{Dims, GATES};
use std::fmt::Write as _;

/// Rows of the batch of one tile: the narrow side of a tensor-core product.
pub const TILE_ROWS: usize = 8;
/// Hidden units of one warp.
const WARP_UNITS: usize = 16;
/// Summands of one tensor-core product.
const DEPTH: usize = 16;
/// Numbers that together are a bias.
const BIAS_PARTS: usize = 3;
/// Steps of x on their way or in use.
const X_SLOTS: usize = 4;
/// Bytes of a row of 8 numbers.
const ROW_BYTES: usize = 2 * TILE_ROWS;
/// Bytes that one warp has of a tile of weights.
const FRAGMENT_BYTES: usize = 512;
const WARP: usize = 32;

/// Tiles of a block, and blocks of a cluster: a cluster of more than 8 is not portable.
const COUNTS: [usize; 4] = [1, 2, 4, 8];
/// The oldest compute capability with clusters: Hopper.
const OLDEST_WITH_CLUSTERS: (u32, u32) = (9, 0);

/// Registers of a multiprocessor.
const REGISTERS: usize = 64 * 1024;
/// Most registers of a thread.
const MOST_REGISTERS: usize = 255;
/// Registers that a thread needs besides the weights forward, with one chain of sums, and for another chain or for places in
/// shared memory where the number of warps is odd; and besides the weights backward. `tests/kernels.rs` sees that nothing spills.
const OTHER_FORWARD: usize = 72;
const CHAIN: usize = 16;
/// Registers of one tile of x on its way into the products; those of two are in the above.
const INPUT_TILE: usize = 3;
const ODD_WARPS: usize = 16;
/// Most units for which one block has the registers of two chains.
const MOST_UNITS_OF_TWO_CHAINS: usize = 128;
const OTHER_BACKWARD: usize = 84;
/// What it can do with in a cluster, where shared memory is too small for more weights.
const LEAST_OTHER_BACKWARD: usize = 63;
/// Registers more, forward and backward, where weights are in shared memory too and tiles or units are divided.
const DIVIDED: [usize; 2] = [16, 16];
/// Registers for a tile of weights, forward and backward.
const FORWARD_TILE: usize = 16;
const BACKWARD_TILE: usize = 4;

/// Sizes as `kernels/persistent/layout.cuh` explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Hidden units, padded.
    pub units: usize,
    /// Inputs of a step and the parts of the bias, padded.
    pub inputs: usize,
    /// Forward tiles of weights in shared memory.
    pub forward_shared: usize,
    /// Backward tiles of weights in shared memory.
    pub backward_shared: usize,
    /// Chains of sums of a forward product.
    pub chains: usize,
    /// How sigmoid and tanh are computed.
    pub activations: Activations,
    /// How sequences and units are divided among blocks.
    pub division: Division,
}

/// How sequences and units are divided among blocks. No division changes a bit of any result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Division {
    /// Tiles of 8 sequences that a block owns, one after the other in each step.
    pub tiles: usize,
    /// Blocks that share tiles, each with its part of the units.
    pub cluster: usize,
}

impl Division {
    /// A block for each tile.
    pub const ONE: Self = Self { tiles: 1, cluster: 1 };

    /// All that kernels have, few tiles and small clusters first.
    pub fn all() -> impl Iterator<Item = Self> {
        COUNTS.into_iter().flat_map(|tiles| COUNTS.into_iter().map(move |cluster| Self { tiles, cluster }))
    }
}

/// Hidden units, and inputs with the parts of the bias, padded to whole tiles.
pub(super) fn padded(h: usize, i: usize) -> [usize; 2] {
    [h.next_multiple_of(WARP_UNITS), (i + BIAS_PARTS).next_multiple_of(DEPTH)]
}

/// Rows that one block of the weight gradients' product computes, of so many in all.
fn gradient_block_rows(rows: usize) -> usize {
    let fragments = rows / 16;
    2 * fragments.div_ceil(2 * fragments.div_ceil(10)) * 16
}

/// Blocks that the rows of that product take.
pub(super) fn gradient_row_blocks(rows: usize) -> usize {
    rows.div_ceil(gradient_block_rows(rows))
}

impl Variant {
    /// The variant for a model on GPUs of some limits; else what of the model is too large for them.
    ///
    /// # Errors
    ///
    /// What does not fit, for the user to read.
    pub fn new(dims: Dims, division: Division, limits: &Limits) -> Result<Self, String> {
        let Division { tiles, cluster } = division;
        let [units, inputs] = padded(dims.h, dims.i);
        if cluster > 1 && limits.capability < OLDEST_WITH_CLUSTERS {
            let ((major, minor), (oldest, zero)) = (limits.capability, OLDEST_WITH_CLUSTERS);
            return Err(format!("clusters need compute capability {oldest}.{zero}, and this GPU has {major}.{minor}"));
        }
        if !(units / WARP_UNITS).is_multiple_of(cluster) {
            return Err(format!("{} hidden units are no whole warps for each of {cluster} blocks", dims.h));
        }
        let threads = 2 * units / cluster;
        if threads > 1024 {
            return Err(format!("{} hidden units are more than a block can own", dims.h));
        }
        // The compiler counts the threads of a block in whole groups of four warps.
        let registers = (REGISTERS / threads.next_multiple_of(4 * WARP) / 8 * 8).min(MOST_REGISTERS);
        // Of the units alone, for they decide the order of sums.
        let chains = if units <= MOST_UNITS_OF_TWO_CHAINS { 2 } else { 1 };
        let (forward_tiles, backward_tiles) = ((inputs + units) / DEPTH, GATES * units / DEPTH);
        let in_registers = |other: usize, tile: usize| registers.saturating_sub(other) / tile;
        let odd = if chains == 1 && (threads / WARP) % 2 == 1 { ODD_WARPS } else { 0 };
        let wide = INPUT_TILE * (inputs / DEPTH).saturating_sub(2);
        let is_divided = division != Division::ONE && chains == 1;
        let [divided_forward, divided_backward] = if is_divided { DIVIDED } else { [0; 2] };
        let other = OTHER_FORWARD + CHAIN * (chains - 1) + odd + wide + divided_forward;
        let forward = in_registers(other, FORWARD_TILE).min(forward_tiles);
        let (activations, room) = (Activations::default(), limits.shared as usize);
        let with = |other_backward| {
            // An even number: they are loaded in pairs.
            let backward = (in_registers(other_backward, BACKWARD_TILE) / 2 * 2).min(backward_tiles);
            let (forward_shared, backward_shared) = (forward_tiles - forward, backward_tiles - backward);
            Self { units, inputs, forward_shared, backward_shared, chains, activations, division }
        };
        let mut variant = with(OTHER_BACKWARD + divided_backward);
        if cluster > 1 && variant.shared_bytes(dims.k) > room {
            variant = with(LEAST_OTHER_BACKWARD);
        }
        if variant.forward_shared == forward_tiles || variant.backward_shared == backward_tiles {
            return Err(format!("{} hidden units leave no registers for weights", dims.h));
        }
        let needed = variant.shared_bytes(dims.k);
        if needed > room {
            let of_tiles = if tiles == 1 { String::new() } else { format!(" of {tiles} tiles") };
            return Err(format!(
                "{} hidden units, {} inputs and {} classes{of_tiles} take {needed} bytes of shared memory of {room}",
                dims.h, dims.i, dims.k
            ));
        }
        Ok(variant)
    }

    /// Whether kernels of the two give the same bits for the same model and batch.
    pub fn has_bits_of(&self, other: &Self) -> bool {
        let Self { units, inputs, chains, activations, .. } = *other;
        (self.units, self.inputs, self.chains, self.activations) == (units, inputs, chains, activations)
    }

    /// What is fixed when the kernels are compiled: names after `VARIANT_`, and their values.
    pub fn constants(&self) -> [(&'static str, usize); 8] {
        let Self { units, inputs, forward_shared, backward_shared, chains, activations, division } = *self;
        [
            ("UNITS", units),
            ("INPUTS", inputs),
            ("FORWARD_SHARED", forward_shared),
            ("BACKWARD_SHARED", backward_shared),
            ("CHAINS", chains),
            ("FAST_ACTIVATIONS", usize::from(activations == Activations::Fast)),
            ("TILES", division.tiles),
            ("CLUSTER", division.cluster),
        ]
    }

    /// The kernels' text for this variant.
    pub fn source(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.constants() {
            let _ = writeln!(text, "#define VARIANT_{name} {value}");
        }
        text + sources::PERSISTENT
    }

    /// Warps of all blocks that share a tile.
    pub fn warps(&self) -> usize {
        self.units / WARP_UNITS
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        self.warps() / self.division.cluster * WARP
    }

    /// Blocks for a batch.
    pub fn blocks(&self, batch: usize) -> usize {
        batch.div_ceil(TILE_ROWS * self.division.tiles) * self.division.cluster
    }

    /// Words of 4 bytes of the forward weights as operands.
    pub fn forward_words(&self) -> usize {
        self.forward_tiles() * self.warps() * WARP * 4 * 4
    }

    /// Words of 4 bytes of the backward weights as operands.
    pub fn backward_words(&self) -> usize {
        self.backward_tiles() * self.warps() * WARP * 4
    }

    /// Forward tiles of weights.
    pub fn forward_tiles(&self) -> usize {
        (self.inputs + self.units) / DEPTH
    }

    /// Backward tiles of weights.
    pub fn backward_tiles(&self) -> usize {
        GATES * self.units / DEPTH
    }

    /// Rows of the weight gradients' product: units and inputs, padded.
    pub fn gradient_rows(&self) -> usize {
        self.units + self.inputs
    }

    /// Columns of that product: gate rows.
    pub fn gate_rows(&self) -> usize {
        GATES * self.units
    }

    /// Blocks that its rows take.
    pub fn gradient_row_blocks(&self) -> usize {
        gradient_row_blocks(self.gradient_rows())
    }

    /// Dynamic shared memory of a block of `persistent_lstm` and of `persistent_forward`, in bytes, for K classes.
    pub fn shared_bytes(&self, classes: usize) -> usize {
        let (tiles, threads) = (self.division.tiles, self.threads());
        let weights = |count: usize| count * threads / WARP * FRAGMENT_BYTES;
        let operands = (2 * self.units + X_SLOTS * self.inputs) * ROW_BYTES;
        let forward = tiles * (operands + TILE_ROWS * 4 * self.units) + weights(4 * self.forward_shared);
        let backward = tiles * 2 * self.gate_rows() * ROW_BYTES + weights(self.backward_shared);
        // A lane has two cells of each of its two units.
        let cells = if tiles > 1 { tiles * threads * 4 * 4 } else { 0 };
        forward.max(backward) + cells + tiles * TILE_ROWS * 4 * classes
    }

    /// Numbers of 4 bytes of a tile of a step, of hx and of da.
    pub fn step_words(&self) -> [usize; 2] {
        [self.gradient_rows(), self.gate_rows()].map(|rows| rows * ROW_BYTES / 4)
    }

    /// Places of saved values of a tile of a step.
    pub fn saved(&self) -> usize {
        self.units * TILE_ROWS / 2
    }
}
