// layout: how the persistent kernels lay out a model, and the sizes that are fixed when they are compiled.
//
// The program puts nine lines before this text, chosen for the model and the GPU (src/cuda/variant.rs):
//
//     VARIANT_UNITS            hidden units, padded to a multiple of 16
//     VARIANT_INPUTS           inputs of a step and 3 for the bias, padded to a multiple of 16
//     VARIANT_FORWARD_SHARED   of the forward weights' tiles along k, how many lie in shared memory; the others in registers
//     VARIANT_BACKWARD_SHARED  the same of the backward weights' tiles that a warp has
//     VARIANT_CHAINS           chains of sums of a forward product, 1 or 2
//     VARIANT_FAST_ACTIVATIONS 0 or 1, see transcendental.cuh
//     VARIANT_TILES            tiles of the batch that a block owns; in each step it takes one after the other
//     VARIANT_GROUPS           groups of 8 hidden units of a warp, 1 or 2; a block has an even number of warps
//     VARIANT_CLUSTER          blocks that share tiles, each with its part of the units; a power of 2 up to 8, and from 2 on a
//                              cluster, which needs sm_90
//
// A tile is 8 rows of the batch. None of the last three constants changes a bit of any result. What there is of a tile and a step
// lies as [row of the matrix][8 rows of the batch] in bf16, 16 bytes for each row of the matrix: that is what a lane's results
// fill in one store of 4 bytes, 128 bytes together for a warp, what ldmatrix reads as an operand of the recurrent products, and
// what it reads as operands of the weight gradients'. Everything that is padded is zero, so that it adds nothing to anything.
//
// Gate rows stand in tiles of 8 units: row (u / 8) · 32 + gate · 8 + u % 8 for unit u. So one lane's results are all four
// gates of its own units, and cells never leave registers.
//
// hx  bf16 [T+1][tiles][UNITS + INPUTS][8]   of step t: h_{t-1}, then x_t, then 1, 1, 1 against the bias, then zeros; of x the
//                                            last slot has nothing
// da  bf16 [T][tiles][4 · UNITS][8]          gradient by the gates before their activation, in gate rows
//
// M models of the same sizes train side by side: blockIdx.y counts them, and each tensor that a model has of its own holds all
// of theirs, model after model. What the contracts say is of one model. Of a step's small things, [S,M], the models lie together.
//
// The bias, with the forget bias in it, stands in the weights as a sum of three bf16, each against a 1 of x: all 24 bits of it
// get into the sums, and its gradient is a row of the weight gradients' product.

constexpr int GATES = 4;
constexpr int GATE_I = 0, GATE_F = 1, GATE_G = 2, GATE_O = 3;
constexpr int TILE_ROWS = 8;    // rows of the batch of one tile
constexpr int GROUP_UNITS = 8;  // hidden units of a group: a lane has one unit of each group of its warp
constexpr int DEPTH = 16;       // summands of one tensor-core instruction
constexpr int BIAS_PARTS = 3;

constexpr int UNITS = VARIANT_UNITS, INPUTS = VARIANT_INPUTS;
constexpr int TILES = VARIANT_TILES, CLUSTER = VARIANT_CLUSTER, GROUPS = VARIANT_GROUPS;
constexpr int WARP_UNITS = GROUPS * GROUP_UNITS;
constexpr int WARPS = UNITS / WARP_UNITS;                    // of all blocks that share a tile
constexpr int BLOCK_WARPS = WARPS / CLUSTER, THREADS = BLOCK_WARPS * WARP;
constexpr int INPUT_TILES = INPUTS / DEPTH;                  // tiles of DEPTH summands, x first
constexpr int FORWARD_TILES = INPUT_TILES + UNITS / DEPTH;
constexpr int BACKWARD_TILES = GATES * UNITS / DEPTH;
constexpr int HALF_TILES = BACKWARD_TILES / 2;               // of them, those that one warp of a pair sums
constexpr int FORWARD_SHARED = VARIANT_FORWARD_SHARED, BACKWARD_SHARED = VARIANT_BACKWARD_SHARED;
constexpr int CHAINS = VARIANT_CHAINS;
constexpr int HALF_CHAINS = 4;                               // chains of sums of one warp backward
constexpr int FORWARD_ROWS = 2 * GROUPS;                     // tiles of 16 rows of a warp's forward weights
static_assert(UNITS % DEPTH == 0 && INPUTS % DEPTH == 0 && UNITS > 0 && INPUTS > 0, "whole tiles");
static_assert(GROUPS == 1 || GROUPS == 2, "a pair of warps owns one or two tiles of 16 units");
static_assert(FORWARD_SHARED < FORWARD_TILES && BACKWARD_SHARED < HALF_TILES, "some tiles lie in registers");
static_assert(BACKWARD_SHARED % 2 == 0, "backward tiles are loaded in pairs");
static_assert(UNITS % (2 * WARP_UNITS * CLUSTER) == 0, "each block of a cluster owns as many pairs of warps");

constexpr int ROW_BYTES = TILE_ROWS * 2;                     // of one row of a matrix
constexpr int ROW_WORDS = ROW_BYTES / 4;
constexpr int HX_WORDS = (UNITS + INPUTS) * ROW_WORDS;       // of one step of one tile
constexpr int DA_WORDS = GATES * UNITS * ROW_WORDS;
constexpr int SAVED = UNITS / GROUP_UNITS * WARP;            // of one step of one tile, in places of one lane each
constexpr int FORWARD_NUMBERS = (UNITS + INPUTS) * GATES * UNITS;  // of the weights as operands
constexpr int BACKWARD_NUMBERS = GATES * UNITS * UNITS;
constexpr int X_SLOTS = 4;                                   // steps of x on their way or in use

// Weights are operands a of multiply_add: for each tile of DEPTH columns and each tile of 16 rows, 32 lanes of 8 numbers. Of forward
// weights rows are gates and columns are x, bias parts and h; each group of units has two tiles of rows, gates i and f, then g and
// o. Of backward weights rows are 16 units and columns are gate rows.
//
// Place of the number in `row` and `column` of a tile of 16 rows and DEPTH columns.
DEVICE int place_in_tile(int row, int column) {
    const int lane = row % 8 * 4 + column % 8 / 2, word = row / 8 + column / 8 * 2;
    return lane * 8 + word * 2 + column % 2;
}

// Place of a gate's weight of `unit` against column k of [x, bias parts, padding, h].
DEVICE int forward_place(int k, int gate, int unit) {
    const int tile = (k / DEPTH * (UNITS / GROUP_UNITS) + unit / GROUP_UNITS) * 2 + gate / 2;
    return tile * 16 * DEPTH + place_in_tile(gate % 2 * 8 + unit % 8, k % DEPTH);
}

// Place of the weight from `unit`'s h to a gate of `of_gate`.
DEVICE int backward_place(int unit, int gate, int of_gate) {
    const int tile = (of_gate / 8 * 2 + gate / 2) * (UNITS / 16) + unit / 16;
    return tile * 16 * DEPTH + place_in_tile(unit % 16, gate % 2 * 8 + of_gate % 8);
}

// Gate row of a gate of `unit`.
DEVICE int gate_row(int gate, int unit) {
    return unit / TILE_ROWS * TILE_ROWS * GATES + gate * TILE_ROWS + unit % TILE_ROWS;
}

// Shared memory of persistent_lstm, in bytes. Forward and backward use the same space, one after the other.
constexpr int FRAGMENT_BYTES = 16 * WARP;                    // a tile of weights of one warp
constexpr int FORWARD_H = 0;                                 // h [2][TILES][UNITS][8]
constexpr int FORWARD_X = FORWARD_H + 2 * TILES * UNITS * ROW_BYTES;  // x [X_SLOTS][TILES][INPUTS][8]
constexpr int FORWARD_WEIGHTS = FORWARD_X + X_SLOTS * TILES * INPUTS * ROW_BYTES;
constexpr int HEAD_H = FORWARD_WEIGHTS + FORWARD_SHARED * BLOCK_WARPS * FORWARD_ROWS * FRAGMENT_BYTES;  // h_T, f32 [TILES][8][UNITS]
constexpr int FORWARD_END = HEAD_H + TILES * TILE_ROWS * UNITS * 4;
constexpr int BACKWARD_DA = 0;                               // da [2][TILES][4 · UNITS][8]
constexpr int BACKWARD_WEIGHTS = BACKWARD_DA + 2 * TILES * GATES * UNITS * ROW_BYTES;
constexpr int BACKWARD_END = BACKWARD_WEIGHTS + BACKWARD_SHARED * BLOCK_WARPS * GROUPS * FRAGMENT_BYTES;
// c, or dc, f32 [TILES][GROUPS][THREADS][2], each thread's own; of a single tile they stay in registers.
constexpr int CELLS = FORWARD_END > BACKWARD_END ? FORWARD_END : BACKWARD_END;
constexpr int LOGITS = CELLS + (TILES > 1 ? TILES * GROUPS * THREADS * 8 : 0);  // then their gradient, f32 [TILES][8][K]
