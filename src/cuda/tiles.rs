//! Sizes of blocks and tiles, read out of the kernels' own text when this crate is compiled: each is named once.

use super::sources::{KERNELS, PERSISTENT, SEQUENCE, TF32};

/// `16` of `constexpr int LSTM_ROWS = 16;`.
const fn constant(name: &str) -> u32 {
    constant_in(KERNELS, name)
}

const fn constant_in(text: &str, name: &str) -> u32 {
    let text = text.as_bytes();
    let mut at = 0;
    while at < text.len() {
        // Names in capitals are rare in the text: most positions end here.
        if text[at] == name.as_bytes()[0] && opens(text, at, b"constexpr int ", name.as_bytes()) {
            return number(text, at + name.len());
        }
        at += 1;
    }
    panic!("no such constant in the kernels");
}

/// Whether `before` and `name` stand around position `at`, and ` = ` follows.
const fn opens(text: &[u8], at: usize, before: &[u8], name: &[u8]) -> bool {
    at >= before.len()
        && stands(text, at - before.len(), before)
        && stands(text, at, name)
        && stands(text, at + name.len(), b" = ")
}

const fn stands(text: &[u8], at: usize, what: &[u8]) -> bool {
    let mut n = 0;
    while n < what.len() {
        if at + n >= text.len() || text[at + n] != what[n] {
            return false;
        }
        n += 1;
    }
    true
}

const fn number(text: &[u8], equals: usize) -> u32 {
    let mut at = equals + " = ".len();
    let mut value = 0;
    while text[at].is_ascii_digit() {
        value = value * 10 + (text[at] - b'0') as u32;
        at += 1;
    }
    assert!(text[at] == b';' && value > 0, "the constant is not a plain number");
    value
}

/// Threads of a block of the gathering kernels.
pub const GATHER_THREADS: u32 = constant("GATHER_THREADS");
/// Threads of a block of the kernels between layers.
pub const LAYERS_THREADS: u32 = constant("LAYERS_THREADS");
/// Rows of a product that one block computes.
pub const PRODUCT_ROWS: u32 = constant("PRODUCT_ROWS");
/// Columns of a product that one block computes.
pub const PRODUCT_COLUMNS: u32 = constant("PRODUCT_COLUMNS");
/// Summands that a block of a product takes at a time.
pub const PRODUCT_DEPTH: u32 = constant("PRODUCT_DEPTH");
/// Threads of a block of a product.
pub const PRODUCT_THREADS: u32 = constant("PRODUCT_THREADS");
/// Threads of a block that adds parts.
pub const SUM_THREADS: u32 = constant("SUM_THREADS");
/// Columns that one block adds up.
pub const COLUMN_SUM_COLUMNS: u32 = constant("COLUMN_SUM_COLUMNS");
/// Groups of rows in which it does.
pub const COLUMN_SUM_GROUPS: u32 = constant("COLUMN_SUM_GROUPS");
/// Rows of the batch of one block of the LSTM's kernels.
pub const LSTM_ROWS: u32 = constant("LSTM_ROWS");
/// Hidden units of one block of them.
pub const LSTM_UNITS: u32 = constant("LSTM_UNITS");
/// Warps of one block of them.
pub const LSTM_GROUPS: u32 = constant("LSTM_GROUPS");
/// Threads of a block of the softmax kernels.
pub const SOFTMAX_THREADS: u32 = constant("SOFTMAX_THREADS");
/// Threads of the block that sums up a batch.
pub const METRICS_THREADS: u32 = constant("METRICS_THREADS");
/// Threads of a block of Adam's kernels.
pub const ADAM_THREADS: u32 = constant("ADAM_THREADS");
/// Threads of a warp: a block of the softmax kernels has one row for each.
pub const WARP: u32 = constant("WARP");
/// Threads of a block that packs weights.
pub const PACK_THREADS: u32 = constant_in(PERSISTENT, "PACK_THREADS");
/// Threads of a block that packs weights for the sequence kernels.
pub const SEQUENCE_PACK_THREADS: u32 = constant_in(SEQUENCE, "SEQUENCE_PACK_THREADS");
/// Threads of a block that packs weights for the TF32 kernels.
pub const TF32_PACK_THREADS: u32 = constant_in(TF32, "TF32_PACK_THREADS");
/// Threads of a block that folds and packs weights.
pub const FOLD_THREADS: u32 = constant_in(PERSISTENT, "FOLD_THREADS");
/// Columns of one block of it.
pub const FOLD_COLUMNS: u32 = constant_in(PERSISTENT, "FOLD_COLUMNS");
/// Threads of a block that updates parameters.
pub const UPDATE_THREADS: u32 = constant_in(PERSISTENT, "UPDATE_THREADS");
/// Threads of a block of the weight gradients' product.
pub const GRADIENT_THREADS: u32 = constant_in(PERSISTENT, "GRADIENT_THREADS");
/// Columns of one block of it.
pub const GRADIENT_COLUMNS: u32 = constant_in(PERSISTENT, "GRADIENT_COLUMNS");
/// Tiles of the batch that it takes at a time.
pub const STAGE_TILES: u32 = constant_in(PERSISTENT, "STAGE_TILES");
/// Threads of a block that unpacks gradients.
pub const UNPACK_THREADS: u32 = constant_in(PERSISTENT, "UNPACK_THREADS");
/// Threads of a block that adds its parts.
pub const PARTS_THREADS: u32 = constant_in(PERSISTENT, "PARTS_THREADS");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_those_of_the_text() {
        assert_eq!((GATHER_THREADS, LSTM_ROWS, WARP), (256, 16, 32));
        for (name, value) in [("PRODUCT_COLUMNS", PRODUCT_COLUMNS), ("COLUMN_SUM_GROUPS", COLUMN_SUM_GROUPS)] {
            assert!(KERNELS.contains(&format!("\nconstexpr int {name} = {value};")), "{name} {value}");
        }
    }
}
