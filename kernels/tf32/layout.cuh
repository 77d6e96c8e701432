// layout: how the TF32 kernels share out a model, and the sizes that are fixed when they are compiled.
//
// The program puts these lines before this text, chosen for the model, the batch and the GPU (src/cuda/tf32_variant.rs):
//
//     VARIANT_UNITS            hidden units, padded to a multiple of 16 · CLUSTER; the padding's weights are zero
//     VARIANT_CLUSTER          blocks that share one tile of rows: each owns UNITS / CLUSTER units. 1, 2, 4 or 8
//     VARIANT_GROUPS           groups of 8 units that a warp owns: 1 or 2
//     VARIANT_FORWARD_SHARED   of a warp's operand tiles of weights, how many lie in shared memory; the others in registers
//     VARIANT_BACKWARD_SHARED  the same backward
//
// They do what the kernels of ../sequence do, with the two recurrent products, h · W_h and da · W_hᵀ, on tensor cores: both factors
// rounded to TF32, to nearest and ties away from zero, sums in f32. What goes to memory is not rounded: h, da and all else stay f32.
//
// A block, or a cluster, owns 8 rows of the batch for all steps and holds the weights on chip for the whole time, as operand
// a of multiply_add: tiles of 16 rows and 8 columns, 16 bytes of each lane. Forward a tile has two gates of a group of units against
// 8 of h, so that a lane's results are all four gates of its own units and two rows of the batch, and cells never leave registers.
// Backward it has 16 units against one gate of a group. With one group to a warp two neighbours share such a tile's sums: each adds
// up half of the groups, and they exchange what the other owns.
//
// Operand b lies in shared memory as [row of the matrix][8 rows of the batch], as the lanes' results fill it.
//
// The order of sums: forward tile after tile of 8 units along h, in two chains, even and odd tiles, which are added; then the
// input part. Backward the gates of groups in order, in four chains: even and odd gates of even groups, which are added, those of odd
// groups likewise, then both. How many warps and blocks share the work, and how far units are padded, changes no bit.

constexpr int GATES = 4;
constexpr int GATE_I = 0, GATE_F = 1, GATE_G = 2, GATE_O = 3;
constexpr int TILE_ROWS = 8;   // rows of the batch of a block
constexpr int DEPTH = 8;       // summands of one tensor-core instruction, and units of a group

constexpr int UNITS = VARIANT_UNITS, CLUSTER = VARIANT_CLUSTER, GROUPS = VARIANT_GROUPS;
constexpr int FORWARD_SHARED = VARIANT_FORWARD_SHARED, BACKWARD_SHARED = VARIANT_BACKWARD_SHARED;
constexpr int ALL_GROUPS = UNITS / DEPTH, BLOCK_GROUPS = ALL_GROUPS / CLUSTER;
constexpr int THREADS = BLOCK_GROUPS / GROUPS * WARP;
constexpr int CELLS = 2 * GROUPS;                 // of a lane: two rows of one unit of each group
constexpr int PAIRS = GATES / 2;                  // operand tiles of a group's gates
constexpr int TILES = PAIRS * GROUPS;             // of a warp's gates
constexpr int PLACES = TILES * ALL_GROUPS;        // operand tiles of a warp, forward and backward
constexpr int FORWARD_CHAINS = 2;
constexpr int BACKWARD_CHAINS = 2 * GROUPS;       // of a warp
static_assert(GROUPS == 1 || GROUPS == 2, "a warp has half a tile of 16 units or a whole one");
static_assert(UNITS % (2 * DEPTH * CLUSTER) == 0, "whole tiles of 16 units in each block");

// Place of h of a unit in operand b of the forward product, and of a gate's da in that of the backward product.
DEVICE int place_of_h(int unit, int row) {
    return unit * TILE_ROWS + row;
}

DEVICE int place_of_da(int gate, int unit, int row) {
    return (unit / DEPTH * DEPTH * GATES + gate * DEPTH + unit % DEPTH) * TILE_ROWS + row;
}

// Operand tiles in shared memory stand evenly among those in registers, so that their loads hide behind the products.
DEVICE constexpr int shared_before(int place, int shared) {
    return place * shared / PLACES;
}

DEVICE constexpr bool is_shared(int place, int shared) {
    return shared_before(place + 1, shared) > shared_before(place, shared);
}

// This lane's part of a warp's operand tiles: `shared` is its first place in shared memory, places are THREADS apart, and
// `packed` its part of the warp's first tile; `tile_of` tells how many tiles after that one the tile of a place stands.
template <int SHARED>
struct Weights {
    static_assert(SHARED < PLACES, "some lie in registers");
    uint4* shared;
    uint4 registers[PLACES - SHARED];

    template <typename TileOf>
    __device__ __forceinline__ Weights(uint4* shared, const uint4* __restrict__ packed, TileOf tile_of) : shared(shared) {
#pragma unroll
        for (int place = 0; place < PLACES; place++) {
            const int before = shared_before(place, SHARED);
            const uint4 weight = packed[tile_of(place) * WARP];
            if (is_shared(place, SHARED)) shared[before * THREADS] = weight;
            else registers[place - before] = weight;
        }
    }

    __device__ __forceinline__ uint4 at(int place) const {
        const int before = shared_before(place, SHARED);
        return is_shared(place, SHARED) ? shared[before * THREADS] : registers[place - before];
    }
};
