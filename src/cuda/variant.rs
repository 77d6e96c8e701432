//! The persistent kernels for one model and one kind of GPU: sizes that are fixed when they are compiled.

use super::device::Limits;
use super::sources;
use crate::precision::Activations;
use crate::shape::{Dims, GATES};
use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// Rows of the batch of one tile: the narrow side of a tensor-core product.
pub const TILE_ROWS: usize = 8;
/// Hidden units of a group, of which a warp has one or two.
const GROUP_UNITS: usize = 8;
/// Summands of one tensor-core product, and hidden units of a tile of backward weights.
const DEPTH: usize = 16;
/// Most hidden units of a block whose warps have one group each, 12 of them: more parts of a multiprocessor have work, and as much of
/// it, and together its threads have more registers. With more warps, a thread has too few for its weights.
const MOST_UNITS_OF_ONE_GROUP: usize = 96;
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
/// Most threads of a block.
const MOST_THREADS: usize = 1024;
/// Registers that a thread needs besides weights, with one group and with two: forward, with another [`SUMS`] for each group and
/// chain of sums, one of them x's; and backward. `tests/kernels.rs` sees that nothing spills.
const OTHER_FORWARD: [usize; 2] = [48, 40];
const SUMS: usize = 8;
const OTHER_BACKWARD: [usize; 2] = [80, 104];
/// Registers more of a block of several tiles, forward, where x has no sums of its own, and backward, where not all weights fit.
const SEVERAL_TILES: [usize; 2] = [16, 24];
/// Units for which one block has the registers of one chain of sums only. More of them are for clusters, whose blocks have fewer.
const UNITS_OF_ONE_CHAIN: RangeInclusive<usize> = 129..=192;
/// Registers of each group for a tile of weights, forward and backward.
const FORWARD_TILE: usize = 8;
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
    /// Backward tiles of weights of a warp in shared memory.
    pub backward_shared: usize,
    /// Chains of sums of a forward product.
    pub chains: usize,
    /// Groups of 8 hidden units of a warp, 1 or 2. They change no bit of any result.
    pub groups: usize,
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
    [h.next_multiple_of(DEPTH), (i + BIAS_PARTS).next_multiple_of(DEPTH)]
}

/// Groups of 8 hidden units of each warp of a block of so many: one where units are few, or no whole pairs of warps with two.
pub(super) const fn groups_of(units: usize) -> usize {
    if units <= MOST_UNITS_OF_ONE_GROUP || !units.is_multiple_of(4 * GROUP_UNITS) { 1 } else { 2 }
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
        if !units.is_multiple_of(DEPTH * cluster) {
            return Err(format!("{} hidden units are no whole pairs of warps for each of {cluster} blocks", dims.h));
        }
        let of_block = units / cluster;
        let groups = groups_of(of_block);
        let threads = of_block / (GROUP_UNITS * groups) * WARP;
        if threads > MOST_THREADS {
            return Err(format!("{} hidden units are more than a block can own", dims.h));
        }
        // The compiler counts the threads of a block in whole groups of four warps.
        let registers = (REGISTERS / threads.next_multiple_of(4 * WARP) / 8 * 8).min(MOST_REGISTERS);
        // Of the units alone, for they decide the order of sums.
        let chains = if UNITS_OF_ONE_CHAIN.contains(&units) { 1 } else { 2 };
        let (forward_tiles, backward_tiles) = ((inputs + units) / DEPTH, GATES * units / DEPTH / 2);
        let in_registers = |other: usize, tile: usize| registers.saturating_sub(other) / (groups * tile);
        let [more_forward, more_backward] = if tiles > 1 { SEVERAL_TILES } else { [SUMS * groups, 0] };
        let other_forward = OTHER_FORWARD[groups - 1] + SUMS * groups * chains + more_forward;
        let forward = in_registers(other_forward, FORWARD_TILE).min(forward_tiles);
        let backward = match in_registers(OTHER_BACKWARD[groups - 1], BACKWARD_TILE) {
            enough if enough >= backward_tiles => backward_tiles,
            // An even number: they are loaded in pairs.
            _ => in_registers(OTHER_BACKWARD[groups - 1] + more_backward, BACKWARD_TILE) / 2 * 2,
        };
        let (forward_shared, backward_shared) = (forward_tiles - forward, backward_tiles - backward);
        let (activations, room) = (Activations::default(), limits.shared as usize);
        let variant = Self { units, inputs, forward_shared, backward_shared, chains, groups, activations, division };
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
    pub fn constants(&self) -> [(&'static str, usize); 9] {
        let Self { units, inputs, forward_shared, backward_shared, chains, groups, activations, division } = *self;
        [
            ("UNITS", units),
            ("INPUTS", inputs),
            ("FORWARD_SHARED", forward_shared),
            ("BACKWARD_SHARED", backward_shared),
            ("CHAINS", chains),
            ("FAST_ACTIVATIONS", usize::from(activations == Activations::Fast)),
            ("TILES", division.tiles),
            ("GROUPS", groups),
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

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        self.units / (GROUP_UNITS * self.groups * self.division.cluster) * WARP
    }

    /// Blocks for a batch.
    pub fn blocks(&self, batch: usize) -> usize {
        batch.div_ceil(TILE_ROWS * self.division.tiles) * self.division.cluster
    }

    /// Words of 4 bytes of the forward weights as operands.
    pub fn forward_words(&self) -> usize {
        self.gradient_rows() * self.gate_rows() / 2
    }

    /// Words of 4 bytes of the backward weights as operands.
    pub fn backward_words(&self) -> usize {
        self.gate_rows() * self.units / 2
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
        let weights = |count: usize| count * self.groups * threads / WARP * FRAGMENT_BYTES;
        let operands = (2 * self.units + X_SLOTS * self.inputs) * ROW_BYTES;
        let forward = tiles * (operands + TILE_ROWS * 4 * self.units) + weights(2 * self.forward_shared);
        let backward = tiles * 2 * self.gate_rows() * ROW_BYTES + weights(self.backward_shared);
        // A lane has two cells of each of its units.
        let cells = if tiles > 1 { tiles * threads * self.groups * 2 * 4 } else { 0 };
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
