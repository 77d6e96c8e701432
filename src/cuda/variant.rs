//! The persistent kernels for one model and one kind of GPU: sizes that are fixed when they are compiled.

use super::device::Limits;
use super::sources;
use crate::shape::{Dims, GATES};
use std::fmt::Write as _;

/// Rows of the batch of one block: the narrow side of a tensor-core product.
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
const OTHER_BACKWARD: usize = 84;
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
}

impl Variant {
    /// The variant for a model on GPUs of some limits; else what of the model is too large for them.
    ///
    /// # Errors
    ///
    /// What does not fit, for the user to read.
    pub fn new(dims: Dims, limits: &Limits) -> Result<Self, String> {
        let units = dims.h.next_multiple_of(WARP_UNITS);
        let inputs = (dims.i + BIAS_PARTS).next_multiple_of(DEPTH);
        let threads = 2 * units;
        if threads > 1024 {
            return Err(format!("{} hidden units are more than a block can own", dims.h));
        }
        // The compiler counts the threads of a block in whole groups of four warps.
        let registers = (REGISTERS / threads.next_multiple_of(4 * WARP) / 8 * 8).min(MOST_REGISTERS);
        let chains = if registers == MOST_REGISTERS { 2 } else { 1 };
        let (forward_tiles, backward_tiles) = ((inputs + units) / DEPTH, GATES * units / DEPTH);
        let in_registers = |other: usize, tile: usize| registers.saturating_sub(other) / tile;
        let odd = if chains == 1 && (units / WARP_UNITS) % 2 == 1 { ODD_WARPS } else { 0 };
        let wide = INPUT_TILE * (inputs / DEPTH).saturating_sub(2);
        let other = OTHER_FORWARD + CHAIN * (chains - 1) + odd + wide;
        let forward = in_registers(other, FORWARD_TILE).min(forward_tiles);
        // An even number: they are loaded in pairs.
        let backward = (in_registers(OTHER_BACKWARD, BACKWARD_TILE) / 2 * 2).min(backward_tiles);
        if forward == 0 || backward == 0 {
            return Err(format!("{} hidden units leave no registers for weights", dims.h));
        }
        let (forward_shared, backward_shared) = (forward_tiles - forward, backward_tiles - backward);
        let variant = Self { units, inputs, forward_shared, backward_shared, chains };
        let (needed, room) = (variant.shared_bytes(dims.k), limits.shared as usize);
        if needed > room {
            return Err(format!(
                "{} hidden units, {} inputs and {} classes take {needed} bytes of shared memory of {room}",
                dims.h, dims.i, dims.k
            ));
        }
        Ok(variant)
    }

    /// The kernels' text for this variant.
    pub fn source(&self) -> String {
        let mut text = String::new();
        let Self { units, inputs, forward_shared, backward_shared, chains } = self;
        for (name, value) in [
            ("UNITS", units),
            ("INPUTS", inputs),
            ("FORWARD_SHARED", forward_shared),
            ("BACKWARD_SHARED", backward_shared),
            ("CHAINS", chains),
        ] {
            let _ = writeln!(text, "#define VARIANT_{name} {value}");
        }
        text + sources::PERSISTENT
    }

    /// Warps of a block.
    pub fn warps(&self) -> usize {
        self.units / WARP_UNITS
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        self.warps() * WARP
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

    /// Rows of that product that one block computes.
    pub fn gradient_block_rows(&self) -> usize {
        let fragments = self.gradient_rows() / 16;
        let blocks = fragments.div_ceil(10);
        2 * fragments.div_ceil(2 * blocks) * 16
    }

    /// Blocks that its rows take.
    pub fn gradient_row_blocks(&self) -> usize {
        self.gradient_rows().div_ceil(self.gradient_block_rows())
    }

    /// Dynamic shared memory of a block of `persistent_lstm`, in bytes, for K classes.
    pub fn shared_bytes(&self, classes: usize) -> usize {
        let weights = |tiles: usize| tiles * self.warps() * FRAGMENT_BYTES;
        let forward = (2 * self.units + X_SLOTS * self.inputs) * ROW_BYTES + weights(4 * self.forward_shared);
        let backward = 2 * self.gate_rows() * ROW_BYTES + weights(self.backward_shared);
        forward.max(backward) + TILE_ROWS * 4 * (self.units + classes)
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
