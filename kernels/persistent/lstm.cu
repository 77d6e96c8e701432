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
// Launch   grid (CLUSTER · ceil(B / (8 · TILES)), M), block THREADS = 2 · UNITS / CLUSTER, clusters of CLUSTER
// Shared   LOGITS + 32 · TILES · K bytes, dynamic
// Bounds   H <= UNITS, I + 3 <= INPUTS, B, K >= 1, 1 <= T <= 2^15, for cells are saved in f16; hx and da of a model below
//          2^30 words of 4 bytes; model_size numbers are a model's parameters
// Rounding operands of the recurrent products and of x's to bf16, what is saved to f16; everything else f32; of activations see transcendental.cuh
// Sums     one order that depends on the sizes alone, no atomics: the same input gives the same bits
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

// A barrier of all threads that share tiles.
DEVICE void meet() {
    if (CLUSTER == 1) __syncthreads();
    else meet_cluster();
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

// Activates the gates of a lane's unit and two rows, and moves the cells on by one step.
DEVICE void step_cells(float (&gates)[2][GATES], float (&c)[2], float (&tanh_c)[2], float (&h)[2]) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
        activate(gates[e]);
        c[e] = fmaf(gates[e][GATE_F], c[e], gates[e][GATE_I] * gates[e][GATE_G]);
        tanh_c[e] = tanh_of_cell(c[e]);
        h[e] = gates[e][GATE_O] * tanh_c[e];
    }
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
DEVICE void leave_state(unsigned char* shared, const Kept& kept, const float (&h)[2], const float (&c)[2], const Share& share,
                        int tile, int unit, int B, int H) {
    const int n0 = threadIdx.x % 4 * 2;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const int row = (share.first + tile) * TILE_ROWS + n0 + e;
        store_everywhere(shared, HEAD_H + ((tile * TILE_ROWS + n0 + e) * UNITS + unit) * 4, __float_as_uint(h[e]));
        if (TRAINING && kept.h_last != nullptr && unit < H && row < B) {
            kept.h_last[(size_t)row * H + unit] = h[e];
            kept.c_last[(size_t)row * H + unit] = c[e];
        }
    }
}

// All steps forward. Leaves h_T in shared memory in f32, and where TRAINING what backward needs.
template <bool TRAINING>
DEVICE void run_forward(unsigned char* shared, const uint4* weights, const Kept& kept, const Share& share, int B,
                        int T, int H) {
    constexpr int IN_REGISTERS = FORWARD_TILES - FORWARD_SHARED, M = 2 * GROUPS;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int own = share.warp * GROUPS * WARP + lane;
    // Tiles of M = 4: gates i and f of the first group, its g and o, then the second group's.
    uint4 in_registers[IN_REGISTERS][M];
    uint4* in_shared = (uint4*)(shared + FORWARD_WEIGHTS) + warp * M * WARP + lane;
#pragma unroll
    for (int k = 0; k < FORWARD_TILES; k++)
#pragma unroll
        for (int m = 0; m < M; m++) {
            const uint4 weight = weights[((k * WARPS + share.warp) * M + m) * WARP + lane];
            if (k < FORWARD_SHARED) in_shared[(k * BLOCK_WARPS * M + m) * WARP] = weight;
            else in_registers[k - FORWARD_SHARED < 0 ? 0 : k - FORWARD_SHARED][m] = weight;
        }
    float c[GROUPS][2] = {};
    float2* all_c = (float2*)(shared + CELLS) + threadIdx.x;
    for (int tile = 0; tile < share.count; tile++)
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            store_everywhere(shared, FORWARD_H + tile * UNITS * ROW_BYTES + (own + group * WARP) * 4, 0);
            if (TRAINING) kept.hx[(share.first + tile) * HX_WORDS + own + group * WARP] = 0;
            if (TILES > 1) all_c[(tile * GROUPS + group) * THREADS] = make_float2(0.0f, 0.0f);
        }
#pragma unroll
    for (int t = 0; t < X_SLOTS - 1; t++) fetch_input<TRAINING>(shared, kept.hx, share, t, T);

#pragma unroll 1
    for (int t = 0; t < T; t++) {
        wait_for_copies<X_SLOTS - 2>();
        // Now x_t and h_{t-1} of all threads are there, and nobody reads those of the step before any more.
        meet();
        fetch_input<TRAINING>(shared, kept.hx, share, t + X_SLOTS - 1, T);
#pragma unroll 1
        for (int tile = 0; tile < share.count; tile++) {
            u32 x[INPUT_TILES][2], h[UNITS / DEPTH][2];
            load_operand(x, shared_address(shared + FORWARD_X) + (t % X_SLOTS * TILES + tile) * INPUTS * ROW_BYTES);
            load_operand(h, shared_address(shared + FORWARD_H) + (t % 2 * TILES + tile) * UNITS * ROW_BYTES);
            float sum[CHAINS][M][4] = {};
#pragma unroll
            for (int group = 0; group < GROUPS; group++)
#pragma unroll
                for (int k = 0; k < FORWARD_TILES; k++)
#pragma unroll
                    for (int m = 2 * group; m < 2 * group + 2; m++) {
                        const bool of_x = k < INPUT_TILES;
                        const u32 low = of_x ? x[of_x ? k : 0][0] : h[of_x ? 0 : k - INPUT_TILES][0];
                        const u32 high = of_x ? x[of_x ? k : 0][1] : h[of_x ? 0 : k - INPUT_TILES][1];
                        const uint4 weight = k < FORWARD_SHARED
                                                 ? in_shared[(k * BLOCK_WARPS * M + m) * WARP]
                                                 : in_registers[k < FORWARD_SHARED ? 0 : k - FORWARD_SHARED][m];
                        multiply_add(sum[k % CHAINS][m], weight, low, high);
                    }
            const int h_next = FORWARD_H + ((t + 1) % 2 * TILES + tile) * UNITS * ROW_BYTES;
            const int at = (share.first + tile) * T + t, at_next = (t + 1) * share.tiles + share.first + tile;
#pragma unroll
            for (int group = 0; group < GROUPS; group++) {
                float gates[2][GATES];
#pragma unroll
                for (int gate = 0; gate < GATES; gate++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const int m = 2 * group + gate / 2, result = gate % 2 * 2 + e;
                        gates[e][gate] = sum[0][m][result];
                        if (CHAINS == 2) gates[e][gate] += sum[CHAINS - 1][m][result];
                    }
                if (TILES > 1) {
                    const float2 of_tile = all_c[(tile * GROUPS + group) * THREADS];
                    c[group][0] = of_tile.x, c[group][1] = of_tile.y;
                }
                const u32 c_before = pair_of_f16(c[group][0], c[group][1]);
                float tanh_c[2], h_new[2];
                step_cells(gates, c[group], tanh_c, h_new);
                if (TILES > 1) all_c[(tile * GROUPS + group) * THREADS] = make_float2(c[group][0], c[group][1]);
                const u32 pair = pair_of_bf16(h_new[0], h_new[1]);
                store_everywhere(shared, h_next + (own + group * WARP) * 4, pair);
                if (TRAINING) {
                    auto saved = [&](int gate) { return pair_of_f16(gates[0][gate], gates[1][gate]); };
                    kept.hx[at_next * HX_WORDS + own + group * WARP] = pair;
                    kept.gates[at * SAVED + own + group * WARP] =
                        make_uint4(saved(GATE_I), saved(GATE_F), saved(GATE_G), saved(GATE_O));
                    kept.cells[at * SAVED + own + group * WARP] = make_uint2(c_before, pair_of_f16(tanh_c[0], tanh_c[1]));
                }
                if (t == T - 1) {
                    const int unit = share.warp * WARP_UNITS + group * TILE_ROWS + lane / 4;
                    leave_state<TRAINING>(shared, kept, h_new, c[group], share, tile, unit, B, H);
                }
            }
        }
    }
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
        const int unit = share.warp * WARP_UNITS + group * TILE_ROWS + lane / 4;
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

// All steps backward. What was saved was written by this launch: it must be read by plain loads, so no __restrict__.
DEVICE void run_backward(unsigned char* shared, const uint4* weights, const uint4* saved_gates,
                         const uint2* saved_cells, u32* __restrict__ da, const float* w_out, const Share& share,
                         int T, int H, int K) {
    constexpr int IN_REGISTERS = BACKWARD_TILES - BACKWARD_SHARED;
    const int lane = threadIdx.x % WARP, own = share.warp * GROUPS * WARP + lane;
    uint4 in_registers[IN_REGISTERS];
    uint4* in_shared = (uint4*)(shared + BACKWARD_WEIGHTS) + threadIdx.x;
#pragma unroll
    for (int k = 0; k < BACKWARD_TILES; k++) {
        const uint4 weight = weights[(k * WARPS + share.warp) * WARP + lane];
        if (k < BACKWARD_SHARED) in_shared[k * THREADS] = weight;
        else in_registers[k < BACKWARD_SHARED ? 0 : k - BACKWARD_SHARED] = weight;
    }
    Saved saved;
    auto fetch = [&](int t, int tile) {
        const int at = ((share.first + tile) * T + t) * SAVED + own;
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            saved.gates[group] = saved_gates[at + group * WARP];
            saved.cells[group] = saved_cells[at + group * WARP];
        }
    };
    // Of the tile that comes after this one: the next, or the first of the step before. Before step 0 there is none; then what is
    // fetched is not looked at.
    auto fetch_after = [&](int t, int tile) {
        if (tile + 1 < share.count) fetch(t, tile + 1);
        else fetch(max(t - 1, 0), 0);
    };
    float dc[GROUPS][2] = {};
    float2* all_dc = (float2*)(shared + CELLS) + threadIdx.x;
    // From dh to da of a step and tile, to all blocks and to the weight gradients.
    auto finish = [&](int t, int tile, const float (&dh)[GROUPS][2], const Factors (&factors)[GROUPS][2]) {
        u32 pairs[GROUPS][GATES];
        step_cells_back(pairs, dc, dh, factors);
        const int at = (own / WARP * GATES) * WARP + lane;
        const int at_shared = BACKWARD_DA + (t % 2 * TILES + tile) * GATES * UNITS * ROW_BYTES + at * 4;
        u32* to = da + (size_t)(t * share.tiles + share.first + tile) * DA_WORDS + at;
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            if (TILES > 1) all_dc[(tile * GROUPS + group) * THREADS] = make_float2(dc[group][0], dc[group][1]);
#pragma unroll
            for (int gate = 0; gate < GATES; gate++) {
                to[(group * GATES + gate) * WARP] = pairs[group][gate];
                // Nobody reads da of step 0, and a block that is done may be gone.
                if (CLUSTER == 1 || t > 0)
                    store_everywhere(shared, at_shared + (group * GATES + gate) * WARP * 4, pairs[group][gate]);
            }
        }
    };

    fetch(T - 1, 0);
#pragma unroll 1
    for (int tile = 0; tile < share.count; tile++) {
        float dh[GROUPS][2];
        last_dh(dh, shared, w_out, share, tile, H, K);
        Factors factors[GROUPS][2];
        make_factors(factors, saved);
        fetch_after(T - 1, tile);
#pragma unroll
        for (int group = 0; group < GROUPS; group++) dc[group][0] = dc[group][1] = 0.0f;
        finish(T - 1, tile, dh, factors);
    }
#pragma unroll 1
    for (int t = T - 2; t >= 0; t--) {
        // Now da of all threads is there. It has two places in turn: nobody still reads the one that is written next.
        meet();
#pragma unroll 1
        for (int tile = 0; tile < share.count; tile++) {
            const u32 of_tile = shared_address(shared + BACKWARD_DA) + ((t + 1) % 2 * TILES + tile) * GATES * UNITS * ROW_BYTES;
            float sum[BACKWARD_CHAINS][4] = {};
#pragma unroll
            for (int k = 0; k < BACKWARD_TILES; k += 2) {
                const uint4 operand = load_transposed(of_tile + (k * DEPTH + lane) * ROW_BYTES);
                const bool is_shared = k < BACKWARD_SHARED;
                const int at = is_shared ? 0 : k - BACKWARD_SHARED;
                const uint4 even = is_shared ? in_shared[k * THREADS] : in_registers[at];
                const uint4 odd = is_shared ? in_shared[(k + 1) * THREADS] : in_registers[at + (is_shared ? 0 : 1)];
                multiply_add(sum[k % BACKWARD_CHAINS], even, operand.x, operand.y);
                multiply_add(sum[(k + 1) % BACKWARD_CHAINS], odd, operand.z, operand.w);
            }
            // While the tensor cores work: the factors, and the values of what comes next on their way.
            Factors factors[GROUPS][2];
            make_factors(factors, saved);
            fetch_after(t, tile);
            float dh[GROUPS][2];
#pragma unroll
            for (int group = 0; group < GROUPS; group++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int result = group * 2 + e;
                    dh[group][e] = (sum[0][result] + sum[1][result]) + (sum[2][result] + sum[3][result]);
                }
                if (TILES > 1) {
                    const float2 of_group = all_dc[(tile * GROUPS + group) * THREADS];
                    dc[group][0] = of_group.x, dc[group][1] = of_group.y;
                }
            }
            finish(t, tile, dh, factors);
        }
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
    forward_weights += model * (FORWARD_NUMBERS / 8), backward_weights += model * (BACKWARD_NUMBERS / 8);
    w_out += model * model_size, b_out += model * model_size;
    hx += model * (T + 1) * tiles * HX_WORDS, da += model * T * tiles * DA_WORDS;
    saved_gates += model * tiles * T * SAVED, saved_cells += model * tiles * T * SAVED;
    logits += model * B * K, loss += model * B, predicted += model * B, batch_labels += model * B;
    head_parts += model * tiles * (H + 1) * K;
    if (model > 0) h_last = nullptr;
    follow_launches();
    const u32* batch = rows + (*turn * (size_t)gridDim.y + model) * B;
    convert_inputs<true>(hx, bytes, floats, batch, share, B, T, I);
    // The copies of the first steps read what other threads wrote; and a block must have started before it is written to.
    meet();
    run_forward<true>(shared, forward_weights, {hx, saved_gates, saved_cells, h_last, c_last}, share, B, T, H);
    meet();
    head_forward(shared, w_out, b_out, share, H, K);
    meet();
    score_rows(shared, logits, loss, predicted, batch_labels, labels, batch, share, B, K);
    __syncthreads();
    head_gradient(shared, head_parts, share, H, K);
    // The space of h_T and of all that was before is free for backward.
    meet();
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
    meet();
    head_forward(shared, w_out, b_out, share, H, K);
    meet();
    score_rows(shared, logits, loss, predicted, nullptr, labels, batch, share, B, K);
}
