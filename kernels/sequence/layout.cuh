// layout: how the sequence kernels share out a model, and the sizes that are fixed when they are compiled.
//
// The program puts these lines before this text, chosen for the model, the batch and the GPU (src/cuda/sequence.rs):
//
//     VARIANT_UNITS            hidden units, padded to whole blocks of 16; the padding's weights are zero
//     VARIANT_CLUSTER          blocks that share one tile of rows: each owns UNITS / CLUSTER units. 1, 2, 4 or 8
//     VARIANT_LANES            lanes that share a unit's sums: 2 or 4
//     VARIANT_ROWS             rows of the batch of a block that trains: 1, 2 or 4
//     VARIANT_SCORE_ROWS       and of one that scores
//     VARIANT_FORWARD_SHARED   of a thread's places of weights, how many lie in shared memory; the others in registers
//     VARIANT_BACKWARD_SHARED  the same backward
//     VARIANT_SCORE_SHARED     the same where scores are wanted
//
// A tile of rows never needs another tile within a sequence, so its block runs all steps and holds its weights on chip for
// the whole time. A thread holds places of 4 weights each, neighbours along the sum. They come packed, as
// float4 [CLUSTER][PLACES][THREADS]: sequence_pack puts them so.
//
// The order of sums is that of chains: a forward sum over units k is CHAINS sums, chain (k / 4) % 4, each upwards by
// fused multiply-adds; they are added as a tree, chains 2 apart first. Backward it is 16 chains over the columns of da, chain
// (column / 4) % 16, those 8 apart first. How many lanes, rows and blocks share the work, and how far units are padded, changes who
// computes a chain and not a single bit.

constexpr int GATES = 4;
constexpr int GATE_I = 0, GATE_F = 1, GATE_G = 2, GATE_O = 3;
constexpr int VECTOR = 4;  // neighbours along k of one place

constexpr int UNITS = VARIANT_UNITS, CLUSTER = VARIANT_CLUSTER, LANES = VARIANT_LANES;
constexpr int BLOCK_UNITS = UNITS / CLUSTER, THREADS = BLOCK_UNITS * LANES;
constexpr int CHAINS = 4;
constexpr int BACKWARD_UNITS = 4;                        // units whose sums a thread has a part of backward
constexpr int BACKWARD_LANES = BACKWARD_UNITS * LANES;   // lanes that share them
constexpr int BACKWARD_CHAINS = 16;
constexpr int OWN_CHAINS = CHAINS / LANES;               // of a thread, forward and backward
constexpr int ROUNDS = UNITS / (CHAINS * VECTOR);        // places along one chain
constexpr int PLACES = ROUNDS * OWN_CHAINS * 4;          // of a thread: of 4 gates forward, of 4 units backward
static_assert(LANES == 2 || LANES == 4, "a thread has one or two chains");
static_assert(UNITS % (16 * CLUSTER) == 0, "whole rounds, and whole warps in each block");
static_assert(BACKWARD_CHAINS / BACKWARD_LANES == OWN_CHAINS && GATES * UNITS == ROUNDS * BACKWARD_CHAINS * VECTOR, "");

// Columns of da stand by turns of 16 units: i of 16 units, f of them, g, o, then those of the next 16.
DEVICE int column_of(int gate, int unit) {
    return unit / 16 * 16 * GATES + gate * 16 + unit % 16;
}

// Places in shared memory stand evenly among those in registers, so that their loads hide behind the multiply-adds.
DEVICE constexpr int shared_before(int place, int shared) {
    return place * shared / PLACES;
}

DEVICE constexpr bool is_shared(int place, int shared) {
    return shared_before(place + 1, shared) > shared_before(place, shared);
}

// A thread's weights, out of the packed ones of `rank`: `shared` is its own first place of shared memory, and places are
// THREADS apart.
template <int SHARED>
struct Weights {
    float4* shared;
    float4 registers[PLACES - SHARED];

    __device__ __forceinline__ Weights(float4* shared, const float4* __restrict__ packed, int rank) : shared(shared) {
        packed += rank * PLACES * THREADS + threadIdx.x;
#pragma unroll
        for (int place = 0; place < PLACES; place++) {
            const int before = shared_before(place, SHARED);
            const float4 weight = packed[place * THREADS];
            if (is_shared(place, SHARED)) shared[before * THREADS] = weight;
            else registers[place - before] = weight;
        }
    }

    __device__ __forceinline__ float4 at(int place) const {
        const int before = shared_before(place, SHARED);
        return is_shared(place, SHARED) ? shared[before * THREADS] : registers[place - before];
    }
};

// Adds values of `LANES_TOGETHER` neighbouring lanes, lane for lane: of the COUNT values each lane is left with its share of
// the sums, KEPT of them, those from share · KEPT on, where share is the lane's number among them over the lanes that have
// the same ones. Order: a tree over lanes LANES_TOGETHER / 2, …, 2, 1 apart.
template <int LANES_TOGETHER, int COUNT, int KEPT>
DEVICE void add_lanes(float (&value)[COUNT]) {
    int count = COUNT;
#pragma unroll
    for (int distance = LANES_TOGETHER / 2; distance > 0; distance /= 2) {
        const bool upper = threadIdx.x & distance;
        const bool halves = count > KEPT;
        if (halves) count /= 2;
#pragma unroll
        for (int n = 0; n < COUNT; n++) {
            if (n >= count) continue;
            const float keep = halves && upper ? value[n + count] : value[n];
            const float send = halves && !upper ? value[n + count] : value[n];
            value[n] = keep + __shfl_xor_sync(ALL_LANES, send, distance);
        }
    }
}
