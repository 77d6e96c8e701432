// persistent_lstm: a batch from its sequences to the gradient by its gates, in one launch: LSTM forward through all steps,
// head, loss, and LSTM backward through all steps. A block owns TILES tiles of 8 rows of the batch, so that blocks exchange
// nothing; or a cluster of CLUSTER blocks owns them, each of it a part of the units, and blocks give each other h and da.
//
//     a = [x_t 1 1 1 | h_{t-1}] · [fold; bias parts; W_h]
//     i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)          the forget bias is in the bias parts
//     c_t = f ∘ c_{t-1} + i ∘ g,   h_t = o ∘ tanh(c_t)
//     logits = h_T · W_out + b_out;   loss and its gradient as in softmax_xent
//     backward as in lstm_backward_step
//
// Inputs   forward_weights   bf16, as persistent_fold and persistent_pack leave them
//          backward_weights  bf16, likewise
//          w_out, b_out      f32 [H,K], [K]
//          bytes or floats   [N,T,I], the other one null; bytes go into the product as they are, their scale is in the weights
//          labels            u32 [N]
//          rows, turn        u32 [S,M,B], [1]: the batch of a model is rows[turn, model]
// Outputs  hx, da            see layout.cuh; of rows beyond B, da is zero
//          logits            f32 [B,K]
//          loss, predicted, batch_labels  f32, u32, u32 [B]
//          head_parts        f32 [tiles][(H+1) · K]: each tile's part of dW_out and, under it, db_out
//          h_last, c_last    f32 [B,H], or null; of the first model alone
// Scratch  saved_gates       f16 [tiles][T][SAVED] of uint4: i, f, g, o of a lane's unit and two rows
//          saved_cells       f16 [tiles][T][SAVED] of uint2: c before the step, tanh(c) after it; each thread reads back what it
//                            wrote itself
// Launch   grid (CLUSTER · ceil(B / (8 · TILES)), M), block THREADS = 4 · UNITS / GROUPS / CLUSTER, clusters of CLUSTER
// Shared   LOGITS + 32 · TILES · K bytes, dynamic
// Bounds   H <= UNITS, I + 3 <= INPUTS, B, K >= 1, 1 <= T <= 2^15, for cells are saved in f16; hx and da of a model below
//          2^30 words of 4 bytes; model_size numbers are a model's parameters
// Rounding operands of the recurrent products and of x's to bf16, what is saved to f16; everything else f32; of activations see transcendental.cuh
// Sums     one order that depends on the sizes alone, no atomics: the same input gives the same bits. Of a product forward, tiles of
//          DEPTH summands: x's in one chain, upwards, which chain 0 goes on with; h's tile k in chain k modulo CHAINS; then the
//          chains. Of one backward: tile k of the gate rows in chain k modulo 8; ((0 + 1) + (4 + 5)) + ((2 + 3) + (6 + 7))
// CPU twin reference::rounded

// Which tiles a block owns, and which part of their units.
struct Share {
    int first, count;  // tiles
    int tiles;         // of the batch
    int rank;          // of the block among those that share the tiles
    int warp;          // of this thread among those of all these blocks
};

DEVICE Share share_of_block(int B) {
    const int tiles = (B + TILE_ROWS - 1) / TILE_ROWS, first = blockIdx.x / CLUSTER * TILES, rank = blockIdx.x % CLUSTER;
    return {first, TILES == 1 ? 1 : min(TILES, tiles - first), tiles, rank, rank * BLOCK_WARPS + (int)threadIdx.x / WARP};
}

// A barrier of all threads that share tiles, in two halves: what is written between them need not be there for the others yet.
// Where they are of one block, it has no first half.
DEVICE void arrive() {
    if (CLUSTER > 1) arrive_at_cluster();
}

DEVICE void wait_for_all() {
    if (CLUSTER == 1) __syncthreads();
    else wait_for_cluster();
}

DEVICE void meet() {
    arrive();
    wait_for_all();
}

// Stores a word at byte `at` of the shared memory of each block that shares the tiles.
DEVICE void store_everywhere(unsigned char* shared, int at, u32 value) {
    if (CLUSTER == 1) *(u32*)(shared + at) = value;
    else {
#pragma unroll
        for (int rank = 0; rank < CLUSTER; rank++) store_in_cluster(address_in(shared_address(shared), rank) + at, value);
    }
}

// COUNT operand tiles of a matrix of rows of 16 bytes that starts at `address`.
template <int COUNT>
DEVICE void load_operand(u32 (&to)[COUNT][2], u32 address) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int tile = 0; tile + 1 < COUNT; tile += 2) {
        const uint4 two = load_transposed(address + (tile * DEPTH + lane) * ROW_BYTES);
        to[tile][0] = two.x, to[tile][1] = two.y, to[tile + 1][0] = two.z, to[tile + 1][1] = two.w;
    }
    if (COUNT % 2 == 1) {
        const uint2 one = load_two_transposed(address + ((COUNT - 1) * DEPTH + lane % DEPTH) * ROW_BYTES);
        to[COUNT - 1][0] = one.x, to[COUNT - 1][1] = one.y;
    }
}

// Where x of a step and tile lies in `hx`, in words: where only x is wanted, there is no h before it.
template <bool TRAINING>
DEVICE size_t place_of_input(int t, int tile, int tiles) {
    const size_t at = (size_t)t * tiles + tile;
    return TRAINING ? at * HX_WORDS + UNITS * ROW_WORDS : at * INPUTS * ROW_WORDS;
}

// The input of all steps of the tiles, as operands of the products: to hx, from where each step fetches its own.
template <bool TRAINING>
DEVICE void convert_inputs(u32* __restrict__ hx, const u8* __restrict__ bytes, const float* __restrict__ floats,
                           const u32* __restrict__ batch, const Share& share, int B, int T, int I) {
    for (int tile = share.first; tile < share.first + share.count; tile++) {
#pragma unroll 4
        for (int at = share.rank * THREADS + threadIdx.x; at < T * INPUTS * ROW_WORDS; at += CLUSTER * THREADS) {
            const int t = at / (INPUTS * ROW_WORDS), input = at / ROW_WORDS % INPUTS;
            const int row = tile * TILE_ROWS + at % ROW_WORDS * 2;
            float pair[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                pair[e] = input < I + BIAS_PARTS ? 1.0f : 0.0f;
                if (input < I) {
                    // Rows beyond the batch are the last one again; nothing of them gets out.
                    const size_t from = ((size_t)batch[min(row + e, B - 1)] * T + t) * I + input;
                    pair[e] = bytes != nullptr ? (float)bytes[from] : floats[from];
                }
            }
            u32* of_tile = hx + place_of_input<TRAINING>(t, tile, share.tiles);
            of_tile[input * ROW_WORDS + at % ROW_WORDS] = pair_of_bf16(pair[0], pair[1]);
        }
    }
}

// Starts to copy x of a step, if there is such a step, to its slot; a group of copies in any case.
template <bool TRAINING>
DEVICE void fetch_input(unsigned char* shared, const u32* __restrict__ hx, const Share& share, int t, int T) {
    if (t < T) {
        const u32 to = shared_address(shared + FORWARD_X) + t % X_SLOTS * TILES * INPUTS * ROW_BYTES;
        for (int at = threadIdx.x; at < share.count * INPUTS; at += THREADS) {
            const u32* x = hx + place_of_input<TRAINING>(t, share.first + at / INPUTS, share.tiles);
            start_copy(to + at * ROW_BYTES, x + at % INPUTS * ROW_WORDS);
        }
    }
    close_copies();
}

// Forward weights of a warp, as operands: of its tiles along k the first FORWARD_SHARED lie in shared memory.
struct ForwardWeights {
    uint4 in_registers[FORWARD_TILES - FORWARD_SHARED][FORWARD_ROWS];
    uint4* in_shared;
};

DEVICE uint4& place_in_shared(const ForwardWeights& weights, int k, int m) {
    return weights.in_shared[(k * BLOCK_WARPS * FORWARD_ROWS + m) * WARP];
}

DEVICE void load_weights(ForwardWeights& to, const uint4* weights, unsigned char* shared, const Share& share) {
    const int lane = threadIdx.x % WARP;
    to.in_shared = (uint4*)(shared + FORWARD_WEIGHTS) + threadIdx.x / WARP * FORWARD_ROWS * WARP + lane;
#pragma unroll
    for (int k = 0; k < FORWARD_TILES; k++)
#pragma unroll
        for (int m = 0; m < FORWARD_ROWS; m++) {
            const uint4 weight = weights[((k * WARPS + share.warp) * FORWARD_ROWS + m) * WARP + lane];
            if (k < FORWARD_SHARED) place_in_shared(to, k, m) = weight;
            else to.in_registers[k < FORWARD_SHARED ? 0 : k - FORWARD_SHARED][m] = weight;
        }
}

// Adds the products of COUNT operand tiles, a matrix at `address`, and the weights' tiles from `first` on, to N sums in turn. Of
// as many operands as registers hold at once the first group's products come first: its activations can begin while the second's
// are on their way.
template <int COUNT, int N>
DEVICE void add_products(float (&sum)[N][FORWARD_ROWS][4], const ForwardWeights& weights, int first, u32 address) {
    constexpr int AT_ONCE = COUNT < 8 ? COUNT : 8;
    static_assert(COUNT == AT_ONCE || AT_ONCE % N == 0, "the next ones begin with the first sum");
    u32 operand[AT_ONCE][2];
    load_operand(operand, address);
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
#pragma unroll
        for (int at = 0; at < AT_ONCE; at++)
#pragma unroll
            for (int m = 2 * group; m < 2 * group + 2; m++) {
                const int k = first + at;
                const uint4 weight = k < FORWARD_SHARED ? place_in_shared(weights, k, m)
                                                        : weights.in_registers[k < FORWARD_SHARED ? 0 : k - FORWARD_SHARED][m];
                multiply_add(sum[at % N][m], weight, operand[at][0], operand[at][1]);
            }
    if constexpr (COUNT > AT_ONCE)
        add_products<COUNT - AT_ONCE>(sum, weights, first + AT_ONCE, address + AT_ONCE * DEPTH * ROW_BYTES);
}

// What a step leaves of a lane's unit and two rows: h in bf16; for backward, in f16, the gates, c before the step and tanh(c) after it.
struct Left {
    u32 h;
    uint4 gates;
    uint2 cells;
};

// Activates the gates of a group, which are `sum`, and moves a lane's two cells on by one step.
DEVICE Left step_cells(float (&h)[2], float (&c)[2], const float (&sum)[CHAINS][FORWARD_ROWS][4], int group) {
    float gates[2][GATES], tanh_c[2];
    Left left;
    left.cells.x = pair_of_f16(c[0], c[1]);
#pragma unroll
    for (int e = 0; e < 2; e++) {
#pragma unroll
        for (int gate = 0; gate < GATES; gate++) {
            const int m = 2 * group + gate / 2, result = gate % 2 * 2 + e;
            gates[e][gate] = sum[0][m][result];
            if (CHAINS == 2) gates[e][gate] += sum[CHAINS - 1][m][result];
        }
        activate(gates[e]);
        c[e] = fmaf(gates[e][GATE_F], c[e], gates[e][GATE_I] * gates[e][GATE_G]);
        tanh_c[e] = tanh_of_cell(c[e]);
        h[e] = gates[e][GATE_O] * tanh_c[e];
    }
    left.h = pair_of_bf16(h[0], h[1]);
    auto saved = [&](int gate) { return pair_of_f16(gates[0][gate], gates[1][gate]); };
    left.gates = make_uint4(saved(GATE_I), saved(GATE_F), saved(GATE_G), saved(GATE_O));
    left.cells.y = pair_of_f16(tanh_c[0], tanh_c[1]);
    return left;
}

// Where a step's results go.
struct Kept {
    u32* hx;
    uint4* gates;
    uint2* cells;
    float *h_last, *c_last;  // or null
};

// The state after the last step: h in f32 to the heads of all blocks, and both to whoever wants them.
template <bool TRAINING>
DEVICE void leave_state(unsigned char* shared, const Kept& kept, const float (&h)[GROUPS][2], const float (&c)[GROUPS][2],
                        const Share& share, int tile, int B, int H) {
    const int lane = threadIdx.x % WARP, n0 = lane % 4 * 2;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        const int unit = share.warp * WARP_UNITS + group * GROUP_UNITS + lane / 4;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int row = (share.first + tile) * TILE_ROWS + n0 + e;
            const int at = (tile * TILE_ROWS + n0 + e) * UNITS + unit;
            store_everywhere(shared, HEAD_H + at * 4, __float_as_uint(h[group][e]));
            if (TRAINING && kept.h_last != nullptr && unit < H && row < B) {
                kept.h_last[(size_t)row * H + unit] = h[group][e];
                kept.c_last[(size_t)row * H + unit] = c[group][e];
            }
        }
    }
}

// All steps forward. Leaves h_T in shared memory in f32, seen by all, and where TRAINING what backward needs.
//
// With one tile to a block and all weights in registers, the sums of x's products are made a step ahead, beside the activations.
template <bool TRAINING>
DEVICE void run_forward(unsigned char* shared, const uint4* all_weights, const Kept& kept, const Share& share, int B,
                        int T, int H) {
    constexpr int AHEAD = TILES == 1 && FORWARD_SHARED == 0 ? 1 : 0, FETCHED = AHEAD + X_SLOTS - 1;
    const int lane = threadIdx.x % WARP, own = share.warp * GROUPS * WARP + lane;
    ForwardWeights weights;
    load_weights(weights, all_weights, shared, share);
    float c[GROUPS][2] = {};
    float2* all_c = (float2*)(shared + CELLS) + threadIdx.x;
    for (int tile = 0; tile < share.count; tile++)
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            store_everywhere(shared, FORWARD_H + tile * UNITS * ROW_BYTES + (own + group * WARP) * 4, 0);
            if (TRAINING) kept.hx[(share.first + tile) * HX_WORDS + own + group * WARP] = 0;
            if (TILES > 1) all_c[(tile * GROUPS + group) * THREADS] = make_float2(0.0f, 0.0f);
        }
    float of_x[1][FORWARD_ROWS][4];
    auto sum_inputs = [&](int t, int tile) {
#pragma unroll
        for (int m = 0; m < FORWARD_ROWS; m++) of_x[0][m][0] = of_x[0][m][1] = of_x[0][m][2] = of_x[0][m][3] = 0.0f;
        const int at = FORWARD_X + (t % X_SLOTS * TILES + tile) * INPUTS * ROW_BYTES;
        add_products<INPUT_TILES>(of_x, weights, 0, shared_address(shared + at));
    };
#pragma unroll
    for (int t = 0; t < FETCHED; t++) fetch_input<TRAINING>(shared, kept.hx, share, t, T);
    // Where this lane leaves the step's results, of the first tile.
    u32* hx = kept.hx + (share.tiles + share.first) * HX_WORDS + own;
    uint4* gates = kept.gates + share.first * T * SAVED + own;
    uint2* cells = kept.cells + share.first * T * SAVED + own;
    wait_for_copies<X_SLOTS - 2>();
    if (AHEAD) {
        meet();
        sum_inputs(0, 0);
    }
    arrive();
#pragma unroll 1
    for (int t = 0; t < T; t++) {
        // Now h_{t-1} and x_{t+AHEAD} of all threads are there, and nobody reads those of the step before any more.
        wait_for_all();
#pragma unroll 1
        for (int tile = 0; tile < share.count; tile++) {
            if (!AHEAD) sum_inputs(t, tile);
            float sum[CHAINS][FORWARD_ROWS][4] = {};
#pragma unroll
            for (int m = 0; m < FORWARD_ROWS; m++)
#pragma unroll
                for (int result = 0; result < 4; result++) sum[0][m][result] = of_x[0][m][result];
            const int h = FORWARD_H + ((t & 1) * TILES + tile) * UNITS * ROW_BYTES;
            add_products<UNITS / DEPTH>(sum, weights, INPUT_TILES, shared_address(shared + h));
            // After the last step they are made again, and nobody takes them.
            if (AHEAD) sum_inputs(min(t + 1, T - 1), tile);
            const int h_next = FORWARD_H + (((t + 1) & 1) * TILES + tile) * UNITS * ROW_BYTES;
            Left left[GROUPS];
            float h_new[GROUPS][2];
#pragma unroll
            for (int group = 0; group < GROUPS; group++) {
                float2* of_tile = &all_c[(tile * GROUPS + group) * THREADS];
                if (TILES > 1) c[group][0] = of_tile->x, c[group][1] = of_tile->y;
                left[group] = step_cells(h_new[group], c[group], sum, group);
                if (TILES > 1) *of_tile = make_float2(c[group][0], c[group][1]);
                store_everywhere(shared, h_next + (own + group * WARP) * 4, left[group].h);
            }
            if (t == T - 1) leave_state<TRAINING>(shared, kept, h_new, c, share, tile, B, H);
            if (tile + 1 == share.count) {
                wait_for_copies<X_SLOTS - 3>();
                arrive();
            }
            // What no step of forward reads is stored after that: the barrier need not wait for it.
            if (TRAINING) {
#pragma unroll
                for (int group = 0; group < GROUPS; group++) {
                    hx[tile * HX_WORDS + group * WARP] = left[group].h;
                    gates[tile * T * SAVED + group * WARP] = left[group].gates;
                    cells[tile * T * SAVED + group * WARP] = left[group].cells;
                }
            }
        }
        fetch_input<TRAINING>(shared, kept.hx, share, t + FETCHED, T);
        hx += share.tiles * HX_WORDS, gates += SAVED, cells += SAVED;
    }
    wait_for_all();
}

// Logits of the tiles' rows, to the shared memory of all blocks: a warp to a tile and class, its lanes share the units.
DEVICE void head_forward(unsigned char* shared, const float* w_out, const float* b_out, const Share& share, int H, int K) {
    const int lane = threadIdx.x % WARP;
    for (int at = share.warp; at < share.count * K; at += WARPS) {
        const int tile = at / K, k = at % K;
        const float* h = (const float*)(shared + HEAD_H) + tile * TILE_ROWS * UNITS;
        float sum[TILE_ROWS] = {};
        for (int unit = lane; unit < H; unit += WARP) {
            const float weight = w_out[(size_t)unit * K + k];
#pragma unroll
            for (int n = 0; n < TILE_ROWS; n++) sum[n] = fmaf(h[n * UNITS + unit], weight, sum[n]);
        }
        float of_lane = 0.0f;
#pragma unroll
        for (int n = 0; n < TILE_ROWS; n++) {
            const float total = warp_sum(sum[n]);
            if (lane == n) of_lane = total + b_out[k];
        }
        if (lane < TILE_ROWS)
            store_everywhere(shared, LOGITS + ((tile * TILE_ROWS + lane) * K + k) * 4, __float_as_uint(of_lane));
    }
}

// A row's loss and class; its logits go to `logits`, if `tell`, and leave their place to their gradient. A warp to a row.
DEVICE void score_row(float* row, float* __restrict__ logits, float* __restrict__ loss,
                      u32* __restrict__ predicted, int label, bool inside, bool tell, int B, int K) {
    const int lane = threadIdx.x % WARP;
    float largest = -3.402823466e38f;
    for (int k = lane; k < K; k += WARP) largest = fmaxf(largest, row[k]);
    const float max = warp_max(largest);
    const float of_label = row[label];
    float sum = 0.0f;
    int best = K;
    for (int k = lane; k < K; k += WARP) {
        sum += expf(row[k] - max);
        // Of equal ones the first. A row with NaN has none: class 0.
        if (row[k] == max && best == K) best = k;
    }
    const float total = warp_sum(sum);
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) best = min(best, __shfl_xor_sync(ALL_LANES, best, distance));
    // Every lane has read the label's logit.
    __syncwarp();
    for (int k = lane; k < K; k += WARP) {
        const float logit = row[k];
        if (inside && tell) logits[k] = logit;
        row[k] = inside ? (expf(logit - max) / total - (k == label ? 1.0f : 0.0f)) / (float)B : 0.0f;
    }
    if (lane == 0 && inside && tell) {
        *loss = logf(total) + (max - of_label);
        *predicted = best < K ? best : 0;
    }
}

// Losses and classes of the tiles' rows. Each block makes the gradients of all logits; one of those that share the tiles tells
// the rest. A warp to a row.
DEVICE void score_rows(unsigned char* shared, float* __restrict__ logits, float* __restrict__ loss,
                       u32* __restrict__ predicted, u32* __restrict__ batch_labels, const u32* __restrict__ labels,
                       const u32* __restrict__ batch, const Share& share, int B, int K) {
    for (int n = threadIdx.x / WARP; n < share.count * TILE_ROWS; n += BLOCK_WARPS) {
        const int row = share.first * TILE_ROWS + n;
        const int label = labels[batch[min(row, B - 1)]];
        const bool inside = row < B, tell = share.rank == 0;
        if (batch_labels != nullptr && threadIdx.x % WARP == 0 && inside && tell) batch_labels[row] = label;
        float* of_row = (float*)(shared + LOGITS) + n * K;
        score_row(of_row, logits + (size_t)row * K, loss + row, predicted + row, label, inside, tell, B, K);
    }
}

// From the gradient of the logits: each tile's part of dW_out and db_out.
DEVICE void head_gradient(const unsigned char* shared, float* __restrict__ head_parts, const Share& share, int H, int K) {
    const float *h = (const float*)(shared + HEAD_H), *dlogits = (const float*)(shared + LOGITS);
    const int size = (H + 1) * K;
    for (int tile = 0; tile < share.count; tile++)
        for (int at = share.rank * THREADS + threadIdx.x; at < size; at += CLUSTER * THREADS) {
            const int unit = at / K, k = at % K;
            float sum = 0.0f;
#pragma unroll
            for (int n = tile * TILE_ROWS; n < (tile + 1) * TILE_ROWS; n++)
                sum = fmaf(unit < H ? h[n * UNITS + unit] : 1.0f, dlogits[n * K + k], sum);
            head_parts[(size_t)(share.first + tile) * size + at] = sum;
        }
}

// dh_T of a lane's cells of a tile.
DEVICE void last_dh(float (&dh)[GROUPS][2], const unsigned char* shared, const float* w_out, const Share& share, int tile, int H,
                    int K) {
    const int lane = threadIdx.x % WARP;
    const float* dlogits = (const float*)(shared + LOGITS) + tile * TILE_ROWS * K;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        const int unit = share.warp * WARP_UNITS + group * GROUP_UNITS + lane / 4;
        dh[group][0] = dh[group][1] = 0.0f;
        if (unit >= H) continue;
        for (int k = 0; k < K; k++) {
            const float weight = w_out[(size_t)unit * K + k];
#pragma unroll
            for (int e = 0; e < 2; e++) dh[group][e] = fmaf(dlogits[(lane % 4 * 2 + e) * K + k], weight, dh[group][e]);
        }
    }
}

// What a step of backward needs of forward, of one lane's units and rows.
struct Saved {
    uint4 gates[GROUPS];
    uint2 cells[GROUPS];
};

// What the gradients of a cell are multiplied by: everything of a step that does not wait for dh.
struct Factors {
    float o, c, i, f, g, keep;
};

DEVICE void make_factors(Factors (&to)[GROUPS][2], const Saved& saved) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float i = half_of_pair(saved.gates[group].x, e), f = half_of_pair(saved.gates[group].y, e);
            const float g = half_of_pair(saved.gates[group].z, e), o = half_of_pair(saved.gates[group].w, e);
            const float c_before = half_of_pair(saved.cells[group].x, e), tanh_c = half_of_pair(saved.cells[group].y, e);
            Factors& factors = to[group][e];
            factors.o = tanh_c * fmaf(-o, o, o);
            factors.c = o * fmaf(-tanh_c, tanh_c, 1.0f);
            factors.i = g * fmaf(-i, i, i);
            factors.f = c_before * fmaf(-f, f, f);
            factors.g = i * fmaf(-g, g, 1.0f);
            factors.keep = f;
        }
}

// From dh of a lane's cells to da, in pairs of rows, and to dc of the step before.
DEVICE void step_cells_back(u32 (&da)[GROUPS][GATES], float (&dc)[GROUPS][2], const float (&dh)[GROUPS][2],
                            const Factors (&factors)[GROUPS][2]) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        float d[GATES][2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const Factors& factor = factors[group][e];
            const float d_c = fmaf(dh[group][e], factor.c, dc[group][e]);
            d[GATE_I][e] = d_c * factor.i;
            d[GATE_F][e] = d_c * factor.f;
            d[GATE_G][e] = d_c * factor.g;
            d[GATE_O][e] = dh[group][e] * factor.o;
            dc[group][e] = d_c * factor.keep;
        }
#pragma unroll
        for (int gate = 0; gate < GATES; gate++) da[group][gate] = pair_of_bf16(d[gate][0], d[gate][1]);
    }
}

// Backward weights of a warp, as operands: GROUPS tiles of 16 units, for which two warps, a pair, each sum half of the gate rows. The
// units that a warp finishes itself come first. Of its tiles along k the first BACKWARD_SHARED lie in shared memory.
struct BackwardWeights {
    uint4 in_registers[HALF_TILES - BACKWARD_SHARED][GROUPS];
    uint4* in_shared;
};

DEVICE uint4& place_in_shared(const BackwardWeights& weights, int k, int m) {
    return weights.in_shared[(k * GROUPS + m) * THREADS];
}

// Tile of the gate rows that is a warp's k-th: of each four neighbours the first two are for one half of a pair, the others for the
// other.
DEVICE int tile_of_half(int half, int k) {
    return k / 2 * 4 + half * 2 + k % 2;
}

DEVICE void load_weights(BackwardWeights& to, const uint4* weights, unsigned char* shared, const Share& share) {
    const int lane = threadIdx.x % WARP, half = share.warp % 2;
    to.in_shared = (uint4*)(shared + BACKWARD_WEIGHTS) + threadIdx.x;
#pragma unroll
    for (int k = 0; k < HALF_TILES; k++)
#pragma unroll
        for (int m = 0; m < GROUPS; m++) {
            // Of two tiles of 16 units a warp finishes one, of a single tile half of its rows.
            const int units = share.warp / 2 * GROUPS + (GROUPS == 2 ? m ^ half : 0);
            uint4 weight = weights[(tile_of_half(half, k) * (UNITS / 16) + units) * WARP + lane];
            if (GROUPS == 1 && half == 1) weight = make_uint4(weight.y, weight.x, weight.w, weight.z);
            if (k < BACKWARD_SHARED) place_in_shared(to, k, m) = weight;
            else to.in_registers[k < BACKWARD_SHARED ? 0 : k - BACKWARD_SHARED][m] = weight;
        }
}

// This warp's half of the sums of dh: first those of the units that it finishes itself, then the partner's. `da` is an address in
// shared memory, of a tile of a step.
DEVICE void sum_half(float (&dh)[2 * GROUPS][2], const BackwardWeights& weights, u32 da, int half) {
    const int lane = threadIdx.x % WARP;
    float sum[GROUPS][HALF_CHAINS][4] = {};
#pragma unroll
    for (int k = 0; k < HALF_TILES; k += 2) {
        const uint4 operand = load_transposed(da + (tile_of_half(half, k) * DEPTH + lane) * ROW_BYTES);
#pragma unroll
        for (int m = 0; m < GROUPS; m++) {
            const bool is_shared = k < BACKWARD_SHARED;
            const int at = is_shared ? 0 : k - BACKWARD_SHARED;
            const uint4 even = is_shared ? place_in_shared(weights, k, m) : weights.in_registers[at][m];
            const uint4 odd = is_shared ? place_in_shared(weights, k + 1, m) : weights.in_registers[at + (is_shared ? 0 : 1)][m];
            multiply_add(sum[m][k % HALF_CHAINS], even, operand.x, operand.y);
            multiply_add(sum[m][(k + 1) % HALF_CHAINS], odd, operand.z, operand.w);
        }
    }
#pragma unroll
    for (int group = 0; group < 2 * GROUPS; group++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            auto of_chain = [&](int chain) { return sum[group / 2][chain][group % 2 * 2 + e]; };
            dh[group][e] = (of_chain(0) + of_chain(1)) + (of_chain(2) + of_chain(3));
        }
}

// Byte in shared memory where a lane's words of da begin, WARP words apart: of the units of `warp`, group after group, gates.
DEVICE int place_of_da(int t, int tile, int warp) {
    const int at = warp * GROUPS * GATES * WARP + threadIdx.x % WARP;
    return BACKWARD_DA + ((t & 1) * TILES + tile) * GATES * UNITS * ROW_BYTES + at * 4;
}

// A pair has one of a block's barriers, of which the first is that of all threads.
static_assert(BLOCK_WARPS / 2 < 16, "a block has 16 barriers");

// Adds the partner's half to dh of a warp's own units, and gives the partner its. What one gives the other lies where the other
// will put its da of the step, and nobody looks there before that.
DEVICE void join_halves(float (&dh)[GROUPS][2], unsigned char* shared, const float (&halves)[2 * GROUPS][2], const Share& share,
                        int t, int tile) {
    float* to = (float*)(shared + place_of_da(t, tile, share.warp ^ 1));
    const float* from = (const float*)(shared + place_of_da(t, tile, share.warp));
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
#pragma unroll
        for (int e = 0; e < 2; e++) to[(group * 2 + e) * WARP] = halves[GROUPS + group][e];
    wait_at(1 + threadIdx.x / (2 * WARP), 2 * WARP);
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
#pragma unroll
        for (int e = 0; e < 2; e++) dh[group][e] = halves[group][e] + from[(group * 2 + e) * WARP];
}

// All steps backward. What was saved was written by this launch: it must be read by plain loads, so no __restrict__.
DEVICE void run_backward(unsigned char* shared, const uint4* all_weights, const uint4* saved_gates,
                         const uint2* saved_cells, u32* da, const float* w_out, const Share& share, int T, int H, int K) {
    const int lane = threadIdx.x % WARP, own = share.warp * GROUPS * WARP + lane;
    BackwardWeights weights;
    load_weights(weights, all_weights, shared, share);
    Saved saved;
    Factors factors[GROUPS][2];
    // Fetches the saved values of one tile after the other: of step T - 1, then of the step before. Before step 0 there is none; then
    // what is fetched is not looked at.
    int next_t = T - 1, next_tile = 0;
    const int last = (share.first * T + T - 1) * SAVED + own;
    saved_gates += last, saved_cells += last;
    auto fetch_next = [&] {
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            saved.gates[group] = saved_gates[next_tile * T * SAVED + group * WARP];
            saved.cells[group] = saved_cells[next_tile * T * SAVED + group * WARP];
        }
        if (++next_tile < share.count) return;
        next_tile = 0;
        if (next_t-- > 0) saved_gates -= SAVED, saved_cells -= SAVED;
    };
    // Where this lane leaves da of the step's first tile.
    da += ((T - 1) * share.tiles + share.first) * DA_WORDS + share.warp * GROUPS * GATES * WARP + lane;
    float dc[GROUPS][2] = {};
    float2* all_dc = (float2*)(shared + CELLS) + threadIdx.x;
    // From dh to da of a step and tile, to all blocks and to the weight gradients; and the factors of what comes next, while the
    // barrier is waited for.
    auto finish = [&](int t, int tile, const float (&dh)[GROUPS][2]) {
        u32 pairs[GROUPS][GATES];
        step_cells_back(pairs, dc, dh, factors);
        if (TILES > 1) {
#pragma unroll
            for (int group = 0; group < GROUPS; group++)
                all_dc[(tile * GROUPS + group) * THREADS] = make_float2(dc[group][0], dc[group][1]);
        }
        // Nobody reads da of step 0, and a block that is done may be gone.
        if (CLUSTER == 1 || t > 0) {
            const int at_shared = place_of_da(t, tile, share.warp);
#pragma unroll
            for (int at = 0; at < GROUPS * GATES; at++)
                store_everywhere(shared, at_shared + at * WARP * 4, pairs[at / GATES][at % GATES]);
            if (tile + 1 == share.count) arrive();
        }
        // As forward: the barrier need not wait for this.
#pragma unroll
        for (int at = 0; at < GROUPS * GATES; at++) da[tile * DA_WORDS + at * WARP] = pairs[at / GATES][at % GATES];
        make_factors(factors, saved);
        fetch_next();
    };

    fetch_next();
    make_factors(factors, saved);
    fetch_next();
#pragma unroll 1
    for (int tile = 0; tile < share.count; tile++) {
        float dh[GROUPS][2];
        last_dh(dh, shared, w_out, share, tile, H, K);
#pragma unroll
        for (int group = 0; group < GROUPS; group++) dc[group][0] = dc[group][1] = 0.0f;
        finish(T - 1, tile, dh);
    }
    da -= share.tiles * DA_WORDS;
#pragma unroll 1
    for (int t = T - 2; t >= 0; t--) {
        // Now da of all threads is there. It has two places in turn: nobody still reads the one that is written next.
        wait_for_all();
#pragma unroll 1
        for (int tile = 0; tile < share.count; tile++) {
            const u32 of_tile = shared_address(shared + BACKWARD_DA) + (((t + 1) & 1) * TILES + tile) * GATES * UNITS * ROW_BYTES;
            float halves[2 * GROUPS][2], dh[GROUPS][2];
            sum_half(halves, weights, of_tile, share.warp % 2);
            join_halves(dh, shared, halves, share, t, tile);
            if (TILES > 1) {
#pragma unroll
                for (int group = 0; group < GROUPS; group++) {
                    const float2 of_group = all_dc[(tile * GROUPS + group) * THREADS];
                    dc[group][0] = of_group.x, dc[group][1] = of_group.y;
                }
            }
            finish(t, tile, dh);
        }
        da -= share.tiles * DA_WORDS;
    }
}

KERNEL(THREADS, 1)
persistent_lstm(const uint4* forward_weights, const uint4* backward_weights, const float* w_out, const float* b_out,
                const u8* __restrict__ bytes, const float* __restrict__ floats, const u32* __restrict__ labels,
                const u32* __restrict__ rows, const u32* turn, u32* hx, u32* __restrict__ da, uint4* saved_gates,
                uint2* saved_cells, float* __restrict__ logits, float* __restrict__ loss, u32* __restrict__ predicted,
                u32* __restrict__ batch_labels, float* __restrict__ head_parts, float* __restrict__ h_last,
                float* __restrict__ c_last, int B, int T, int I, int H, int K, int model_size) {
    extern __shared__ __align__(16) unsigned char shared[];
    const Share share = share_of_block(B);
    const size_t model = blockIdx.y, tiles = share.tiles;
    forward_weights += model * (FORWARD_NUMBERS / 8), hx += model * (T + 1) * tiles * HX_WORDS;
    saved_gates += model * tiles * T * SAVED, saved_cells += model * tiles * T * SAVED;
    if (model > 0) h_last = nullptr;
    follow_launches();
    const u32* batch = rows + (*turn * (size_t)gridDim.y + model) * B;
    convert_inputs<true>(hx, bytes, floats, batch, share, B, T, I);
    // The copies of the first steps read what other threads wrote; and a block must have started before it is written to.
    meet();
    run_forward<true>(shared, forward_weights, {hx, saved_gates, saved_cells, h_last, c_last}, share, B, T, H);
    // What comes after the steps finds its places here: before them they would take registers.
    w_out += model * model_size, b_out += model * model_size;
    logits += model * B * K, loss += model * B, predicted += model * B, batch_labels += model * B;
    head_parts += model * tiles * (H + 1) * K;
    head_forward(shared, w_out, b_out, share, H, K);
    meet();
    score_rows(shared, logits, loss, predicted, batch_labels, labels, batch, share, B, K);
    __syncthreads();
    head_gradient(shared, head_parts, share, H, K);
    // The space of h_T and of all that was before is free for backward.
    meet();
    backward_weights += model * (BACKWARD_NUMBERS / 8), da += model * T * tiles * DA_WORDS;
    run_backward(shared, backward_weights, saved_gates, saved_cells, da, w_out, share, T, H, K);
}

// persistent_forward: the same forward only, for sequences that are scored: logits, losses and classes. Nothing is kept.
//
// Inputs   as of persistent_lstm
// Outputs  logits, loss, predicted   as of persistent_lstm, with the same bits
// Scratch  x                 bf16 [T][tiles][INPUTS][8], as in hx
// Launch, shared, bounds, rounding, sums   as of persistent_lstm
// CPU twin reference::rounded

KERNEL(THREADS, 1)
persistent_forward(const uint4* __restrict__ forward_weights, const float* __restrict__ w_out,
                   const float* __restrict__ b_out, const u8* __restrict__ bytes, const float* __restrict__ floats,
                   const u32* __restrict__ labels, const u32* __restrict__ rows, const u32* __restrict__ turn, u32* x,
                   float* __restrict__ logits, float* __restrict__ loss, u32* __restrict__ predicted, int B, int T, int I,
                   int H, int K) {
    extern __shared__ __align__(16) unsigned char shared[];
    const Share share = share_of_block(B);
    const u32* batch = rows + (size_t)*turn * B;
    convert_inputs<false>(x, bytes, floats, batch, share, B, T, I);
    // As in persistent_lstm.
    meet();
    run_forward<false>(shared, forward_weights, {x, nullptr, nullptr, nullptr, nullptr}, share, B, T, H);
    head_forward(shared, w_out, b_out, share, H, K);
    meet();
    score_rows(shared, logits, loss, predicted, nullptr, labels, batch, share, B, K);
}
