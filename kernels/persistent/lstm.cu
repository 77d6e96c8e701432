// persistent_lstm: a batch from its sequences to the gradient by its gates, in one launch: LSTM forward through all steps,
// head, loss, and LSTM backward through all steps. A block owns 8 rows of the batch, so that blocks exchange nothing.
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
//          h_last, c_last    f32 [B,H], or null
// Scratch  saved_gates       f16 [tiles][T][SAVED] of uint4: i, f, g, o of a lane's unit and two rows
//          saved_cells       f16 [tiles][T][SAVED] of uint2: c, tanh(c); each thread reads back what it wrote itself
// Launch   grid (ceil(B / 8), M), block THREADS = 2 · UNITS
// Shared   HEAD_LOGITS + 32 · K bytes, dynamic
// Bounds   H <= UNITS, I + 3 <= INPUTS, B, K >= 1, 1 <= T <= 2^15, for cells are saved in f16; hx and da of a model below
//          2^30 words of 4 bytes; model_size numbers are a model's parameters
// Rounding operands of the recurrent products and of x's to bf16, what is saved to f16; everything else f32. tanh.approx.
// Sums     one order that depends on the sizes alone, no atomics: the same input gives the same bits
// CPU twin reference::rounded

struct Cells {
    float gate[GATES][2];  // i, f, g, o of this lane's unit, two rows of the batch
};

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

// The input of all steps of this tile, as operands of the products: to hx, from where each step fetches its own.
DEVICE void convert_inputs(u32* __restrict__ hx, const u8* __restrict__ bytes, const float* __restrict__ floats,
                           const u32* __restrict__ batch, int B, int T, int I) {
    const int tile = blockIdx.x, tiles = gridDim.x;
#pragma unroll 4
    for (int at = threadIdx.x; at < T * INPUTS * ROW_WORDS; at += THREADS) {
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
        u32* of_tile = hx + ((size_t)t * tiles + tile) * HX_WORDS;
        of_tile[(UNITS + input) * ROW_WORDS + at % ROW_WORDS] = pair_of_bf16(pair[0], pair[1]);
    }
}

// Starts to copy x of a step, if there is such a step, to its slot; a group of copies in any case.
DEVICE void fetch_input(unsigned char* shared, const u32* __restrict__ hx, int t, int T) {
    if (t < T) {
        const u32* x = hx + ((size_t)t * gridDim.x + blockIdx.x) * HX_WORDS + UNITS * ROW_WORDS;
        const u32 to = shared_address(shared + FORWARD_X) + t % X_SLOTS * INPUTS * ROW_BYTES;
        for (int row = threadIdx.x; row < INPUTS; row += THREADS) start_copy(to + row * ROW_BYTES, x + row * ROW_WORDS);
    }
    close_copies();
}

// Activates the gates and moves the cells on by one step.
DEVICE void step_cells(Cells& cells, float (&c)[2], float (&tanh_c)[2], float (&h)[2]) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const float i = fast_sigmoid(cells.gate[GATE_I][e]), f = fast_sigmoid(cells.gate[GATE_F][e]);
        const float g = fast_tanh(cells.gate[GATE_G][e]), o = fast_sigmoid(cells.gate[GATE_O][e]);
        cells.gate[GATE_I][e] = i, cells.gate[GATE_F][e] = f, cells.gate[GATE_G][e] = g, cells.gate[GATE_O][e] = o;
        c[e] = fmaf(f, c[e], i * g);
        tanh_c[e] = fast_tanh(c[e]);
        h[e] = o * tanh_c[e];
    }
}

// All steps forward. Leaves h_T in shared memory in f32, and c_T in `c`.
DEVICE void run_forward(unsigned char* shared, const uint4* __restrict__ weights, u32* hx, uint4* saved_gates,
                        uint2* saved_cells, float (&c)[GROUPS][2], int T) {
    constexpr int IN_REGISTERS = FORWARD_TILES - FORWARD_SHARED, M = 2 * GROUPS;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, tile = blockIdx.x, tiles = gridDim.x;
    const int own = warp * GROUPS * WARP + lane;
    // Tiles of M = 4: gates i and f of the first group, its g and o, then the second group's.
    uint4 in_registers[IN_REGISTERS][M];
    uint4* in_shared = (uint4*)(shared + FORWARD_WEIGHTS) + warp * M * WARP + lane;
#pragma unroll
    for (int k = 0; k < FORWARD_TILES; k++)
#pragma unroll
        for (int m = 0; m < M; m++) {
            const uint4 weight = weights[((k * WARPS + warp) * M + m) * WARP + lane];
            if (k < FORWARD_SHARED) in_shared[(k * WARPS * M + m) * WARP] = weight;
            else in_registers[k - FORWARD_SHARED < 0 ? 0 : k - FORWARD_SHARED][m] = weight;
        }
    u32* h_shared = (u32*)(shared + FORWARD_H) + own;
    u32* h_global = hx + (size_t)tile * HX_WORDS + own;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        h_shared[group * WARP] = 0, h_global[group * WARP] = 0;
        c[group][0] = c[group][1] = 0.0f;
    }
    uint4* gates_to = saved_gates + (size_t)tile * T * SAVED + own;
    uint2* cells_to = saved_cells + (size_t)tile * T * SAVED + own;
#pragma unroll
    for (int t = 0; t < X_SLOTS - 1; t++) fetch_input(shared, hx, t, T);
    float h_last[GROUPS][2];

#pragma unroll 1
    for (int t = 0; t < T; t++) {
        wait_for_copies<X_SLOTS - 2>();
        // Now x_t and h_{t-1} of all threads are there, and nobody reads those of the step before any more.
        __syncthreads();
        fetch_input(shared, hx, t + X_SLOTS - 1, T);
        u32 x[INPUT_TILES][2], h[UNITS / DEPTH][2];
        load_operand(x, shared_address(shared + FORWARD_X) + t % X_SLOTS * INPUTS * ROW_BYTES);
        load_operand(h, shared_address(shared + FORWARD_H) + t % 2 * UNITS * ROW_BYTES);
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
                    const uint4 weight = k < FORWARD_SHARED ? in_shared[(k * WARPS * M + m) * WARP]
                                                            : in_registers[k < FORWARD_SHARED ? 0 : k - FORWARD_SHARED][m];
                    multiply_add(sum[k % CHAINS][m], weight, low, high);
                }
        h_shared = (u32*)(shared + FORWARD_H + (t + 1) % 2 * UNITS * ROW_BYTES) + own;
        h_global += (size_t)tiles * HX_WORDS;
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            Cells cells;
#pragma unroll
            for (int gate = 0; gate < GATES; gate++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int m = 2 * group + gate / 2, result = gate % 2 * 2 + e;
                    cells.gate[gate][e] = sum[0][m][result];
                    if (CHAINS == 2) cells.gate[gate][e] += sum[CHAINS - 1][m][result];
                }
            float tanh_c[2], h_new[2];
            step_cells(cells, c[group], tanh_c, h_new);
            const u32 pair = pair_of_bf16(h_new[0], h_new[1]);
            h_shared[group * WARP] = pair, h_global[group * WARP] = pair;
            const auto& gate = cells.gate;
            gates_to[group * WARP] =
                make_uint4(pair_of_f16(gate[GATE_I][0], gate[GATE_I][1]), pair_of_f16(gate[GATE_F][0], gate[GATE_F][1]),
                           pair_of_f16(gate[GATE_G][0], gate[GATE_G][1]), pair_of_f16(gate[GATE_O][0], gate[GATE_O][1]));
            cells_to[group * WARP] = make_uint2(pair_of_f16(c[group][0], c[group][1]), pair_of_f16(tanh_c[0], tanh_c[1]));
            h_last[group][0] = h_new[0], h_last[group][1] = h_new[1];
        }
        gates_to += SAVED, cells_to += SAVED;
    }
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        float* to = (float*)(shared + HEAD_H) + warp * WARP_UNITS + group * TILE_ROWS + lane / 4;
        to[lane % 4 * 2 * UNITS] = h_last[group][0], to[(lane % 4 * 2 + 1) * UNITS] = h_last[group][1];
    }
}

// Logits of the tile's rows, to shared memory: a warp to a class, its lanes share the units.
DEVICE void head_forward(unsigned char* shared, const float* __restrict__ w_out, const float* __restrict__ b_out,
                         int H, int K) {
    const int lane = threadIdx.x % WARP;
    const float* h = (const float*)(shared + HEAD_H);
    float* logits = (float*)(shared + HEAD_LOGITS);
    for (int k = threadIdx.x / WARP; k < K; k += WARPS) {
        float sum[TILE_ROWS] = {};
        for (int unit = lane; unit < H; unit += WARP) {
            const float weight = w_out[(size_t)unit * K + k];
#pragma unroll
            for (int n = 0; n < TILE_ROWS; n++) sum[n] = fmaf(h[n * UNITS + unit], weight, sum[n]);
        }
#pragma unroll
        for (int n = 0; n < TILE_ROWS; n++) {
            const float total = warp_sum(sum[n]);
            if (lane == 0) logits[n * K + k] = total + b_out[k];
        }
    }
}

// A row's loss and class; its logits go to `logits` and leave their place to their gradient. A warp to a row.
DEVICE void score_row(float* row, float* __restrict__ logits, float* __restrict__ loss,
                      u32* __restrict__ predicted, int label, bool inside, int B, int K) {
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
        if (inside) logits[k] = logit;
        row[k] = inside ? (expf(logit - max) / total - (k == label ? 1.0f : 0.0f)) / (float)B : 0.0f;
    }
    if (lane == 0 && inside) {
        *loss = logf(total) + (max - of_label);
        *predicted = best < K ? best : 0;
    }
}

// From the gradient of the logits: this tile's part of dW_out and db_out, and dh_T of each lane's cells.
DEVICE void head_backward(const unsigned char* shared, const float* __restrict__ w_out, float* __restrict__ parts,
                          float (&dh)[GROUPS][2], int H, int K) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const float *h = (const float*)(shared + HEAD_H), *dlogits = (const float*)(shared + HEAD_LOGITS);
    for (int at = threadIdx.x; at < (H + 1) * K; at += THREADS) {
        const int unit = at / K, k = at % K;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < TILE_ROWS; n++) sum = fmaf(unit < H ? h[n * UNITS + unit] : 1.0f, dlogits[n * K + k], sum);
        parts[at] = sum;
    }
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        const int unit = warp * WARP_UNITS + group * TILE_ROWS + lane / 4;
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

DEVICE void make_factors(Factors (&to)[GROUPS][2], const Saved& now, const uint2 (&before)[GROUPS], bool first) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float i = half_of_pair(now.gates[group].x, e), f = half_of_pair(now.gates[group].y, e);
            const float g = half_of_pair(now.gates[group].z, e), o = half_of_pair(now.gates[group].w, e);
            const float tanh_c = half_of_pair(now.cells[group].y, e);
            const float c_before = first ? 0.0f : half_of_pair(before[group].x, e);
            Factors& factors = to[group][e];
            factors.o = tanh_c * fmaf(-o, o, o);
            factors.c = o * fmaf(-tanh_c, tanh_c, 1.0f);
            factors.i = g * fmaf(-i, i, i);
            factors.f = c_before * fmaf(-f, f, f);
            factors.g = i * fmaf(-g, g, 1.0f);
            factors.keep = f;
        }
}

// All steps backward, from dh_T. What was saved was written by this launch: it must be read by plain loads, so no __restrict__.
DEVICE void run_backward(unsigned char* shared, const uint4* __restrict__ weights, const uint4* saved_gates,
                         const uint2* saved_cells, u32* __restrict__ da, float (&dh)[GROUPS][2], int T) {
    constexpr int IN_REGISTERS = BACKWARD_TILES - BACKWARD_SHARED;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, tile = blockIdx.x, tiles = gridDim.x;
    const int own = warp * GROUPS * WARP + lane;
    uint4 in_registers[IN_REGISTERS];
    uint4* in_shared = (uint4*)(shared + BACKWARD_WEIGHTS) + threadIdx.x;
#pragma unroll
    for (int k = 0; k < BACKWARD_TILES; k++) {
        const uint4 weight = weights[k * THREADS + threadIdx.x];
        if (k < BACKWARD_SHARED) in_shared[k * THREADS] = weight;
        else in_registers[k < BACKWARD_SHARED ? 0 : k - BACKWARD_SHARED] = weight;
    }
    const uint4* gates_from = saved_gates + (size_t)tile * T * SAVED + own;
    const uint2* cells_from = saved_cells + (size_t)tile * T * SAVED + own;
    Saved now;         // of the step whose factors come next
    uint2 before[GROUPS];  // and the cells of the step before it
    // Before step 0 there is none; then what is fetched is not looked at.
    auto fetch = [&](int t) {
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            now.cells[group] = before[group];
            now.gates[group] = gates_from[(size_t)max(t, 0) * SAVED + group * WARP];
            before[group] = cells_from[(size_t)max(t - 1, 0) * SAVED + group * WARP];
        }
    };
#pragma unroll
    for (int group = 0; group < GROUPS; group++) before[group] = cells_from[(size_t)(T - 1) * SAVED + group * WARP];
    Factors factors[GROUPS][2];
    fetch(T - 1);
    make_factors(factors, now, before, T == 1);
    fetch(T - 2);
    float dc[GROUPS][2] = {};
    u32* da_global = da + ((size_t)(T - 1) * tiles + tile) * DA_WORDS + warp * GROUPS * GATES * WARP + lane;

#pragma unroll 1
    for (int t = T - 1;; t--) {
        unsigned char* da_step = shared + BACKWARD_DA + t % 2 * GATES * UNITS * ROW_BYTES;
        u32* da_shared = (u32*)da_step + warp * GROUPS * GATES * WARP + lane;
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
            for (int gate = 0; gate < GATES; gate++) {
                const u32 pair = pair_of_bf16(d[gate][0], d[gate][1]);
                da_shared[(group * GATES + gate) * WARP] = pair;
                da_global[(group * GATES + gate) * WARP] = pair;
            }
        }
        if (t == 0) break;
        da_global -= (size_t)tiles * DA_WORDS;
        // Now da of all threads is there. It has two places in turn: nobody still reads the one that is written next.
        __syncthreads();
        float sum[BACKWARD_CHAINS][4] = {};
#pragma unroll
        for (int k = 0; k < BACKWARD_TILES; k += 2) {
            const uint4 operand = load_transposed(shared_address(da_step) + (k * DEPTH + lane) * ROW_BYTES);
            const bool is_shared = k < BACKWARD_SHARED;
            const int at = is_shared ? 0 : k - BACKWARD_SHARED;
            const uint4 even = is_shared ? in_shared[k * THREADS] : in_registers[at];
            const uint4 odd = is_shared ? in_shared[(k + 1) * THREADS] : in_registers[at + (is_shared ? 0 : 1)];
            multiply_add(sum[k % BACKWARD_CHAINS], even, operand.x, operand.y);
            multiply_add(sum[(k + 1) % BACKWARD_CHAINS], odd, operand.z, operand.w);
        }
        // While the tensor cores work: the next step's factors, and the values of the step after it on their way.
        make_factors(factors, now, before, t == 1);
        fetch(t - 2);
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int result = group * 2 + e;
                dh[group][e] = (sum[0][result] + sum[1][result]) + (sum[2][result] + sum[3][result]);
            }
    }
}

KERNEL(THREADS)
persistent_lstm(const uint4* __restrict__ forward_weights, const uint4* __restrict__ backward_weights,
                const float* __restrict__ w_out, const float* __restrict__ b_out, const u8* __restrict__ bytes,
                const float* __restrict__ floats, const u32* __restrict__ labels, const u32* __restrict__ rows,
                const u32* __restrict__ turn, u32* hx, u32* __restrict__ da, uint4* saved_gates, uint2* saved_cells,
                float* __restrict__ logits, float* __restrict__ loss, u32* __restrict__ predicted,
                u32* __restrict__ batch_labels, float* __restrict__ head_parts, float* __restrict__ h_last,
                float* __restrict__ c_last, int B, int T, int I, int H, int K, int model_size) {
    extern __shared__ __align__(16) unsigned char shared[];
    const size_t model = blockIdx.y, tiles = (B + TILE_ROWS - 1) / TILE_ROWS;
    forward_weights += model * (FORWARD_NUMBERS / 8), backward_weights += model * (BACKWARD_NUMBERS / 8);
    w_out += model * model_size, b_out += model * model_size;
    hx += model * (T + 1) * tiles * HX_WORDS, da += model * T * tiles * DA_WORDS;
    saved_gates += model * tiles * T * SAVED, saved_cells += model * tiles * T * SAVED;
    logits += model * B * K, loss += model * B, predicted += model * B, batch_labels += model * B;
    head_parts += model * tiles * (H + 1) * K;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row0 = blockIdx.x * TILE_ROWS;
    const u32* batch = rows + (*turn * (size_t)gridDim.y + model) * B;
    convert_inputs(hx, bytes, floats, batch, B, T, I);
    // The copies of the first steps read what other threads wrote.
    __syncthreads();
    float cells[GROUPS][2];
    run_forward(shared, forward_weights, hx, saved_gates, saved_cells, cells, T);
    __syncthreads();
    if (h_last != nullptr) {
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int unit = warp * WARP_UNITS + group * TILE_ROWS + lane / 4, n = lane % 4 * 2 + e;
                if (unit >= H || row0 + n >= B) continue;
                const size_t at = (model * B + row0 + n) * H + unit;
                h_last[at] = ((const float*)(shared + HEAD_H))[n * UNITS + unit];
                c_last[at] = cells[group][e];
            }
    }
    head_forward(shared, w_out, b_out, H, K);
    __syncthreads();
    for (int n = warp; n < TILE_ROWS; n += WARPS) {
        const int row = row0 + n;
        const int label = labels[batch[min(row, B - 1)]];
        float* of_row = (float*)(shared + HEAD_LOGITS) + n * K;
        if (lane == 0 && row < B) batch_labels[row] = label;
        score_row(of_row, logits + (size_t)row * K, loss + row, predicted + row, label, row < B, B, K);
    }
    __syncthreads();
    float dh[GROUPS][2];
    head_backward(shared, w_out, head_parts + (size_t)blockIdx.x * (H + 1) * K, dh, H, K);
    run_backward(shared, backward_weights, saved_gates, saved_cells, da, dh, T);
}
