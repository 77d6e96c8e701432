// lstm: one time step of the LSTM, forward and backward. Products, bias, activations and cell are one launch.
//
// Gates stand in the order i, f, g, o: gate n of unit u is column n · H + u of G = 4H.
// Tiles are named once here; both kernels use blocks of (LSTM_UNITS, LSTM_GROUPS) threads.

constexpr int GATES = 4;
constexpr int GATE_I = 0, GATE_F = 1, GATE_G = 2, GATE_O = 3;
constexpr int LSTM_ROWS = 16;   // rows of the batch in a block
constexpr int LSTM_UNITS = 32;  // hidden units in a block: a warp reads and writes 32 neighbours
constexpr int LSTM_DEPTH = 32;  // summands in a tile
constexpr int LSTM_GROUPS = 4;  // warps
constexpr int LSTM_THREADS = LSTM_UNITS * LSTM_GROUPS;
constexpr int LSTM_THREAD_ROWS = LSTM_ROWS / LSTM_GROUPS;  // each thread owns these neighbouring rows of one unit
static_assert(LSTM_UNITS == WARP, "a row of threads is a warp");
static_assert(LSTM_THREAD_ROWS == 4, "a thread reads its rows out of a tile as one float4");
static_assert(LSTM_THREAD_ROWS * LSTM_GROUPS == LSTM_ROWS, "threads cover the rows");

// lstm_forward_step
//
//     a = x_t · fold + h_{t-1} · W_h                             the bias is in fold, against the 1 at the end of x
//     i, f, o = sigmoid(a_i), sigmoid(a_f + forget_bias), sigmoid(a_o);  g = tanh(a_g)
//     c_t = f ∘ c_{t-1} + i ∘ g,   h_t = o ∘ tanh(c_t)
//
// Inputs   x       f32 [B,J], step t of x [T,B,J], J = I + 1
//          fold    f32 [J,G], the folded input weights and, as its last row, the bias
//          h_prev  f32 [B,H], slot t of h [T+1,B,H]; slot 0 is zero
//          w_h     f32 [H,G]
//          c_prev  f32 [B,H], slot t of c [T+1,B,H]; slot 0 is zero
//          lengths u32 [B], steps of each sequence; null where none ends before step t. At a step beyond, c and h are
//                  carried on, and what gates hold means nothing
//          t       the step's place in the sequence, whatever the reading order
// Outputs  gates   f32 [B,G], step t of gates [T,B,G], after their activation: saved for backward
//          c, h    f32 [B,H], slot t + 1: saved for backward
// Launch   grid (ceil(B / 16), ceil(H / 32)), block (32, 4)
// Shared   18,944 bytes, static
// Bounds   B, J, H >= 1; B, J below 2^31 - 64, G below 2^31; H at most 32 · 65535
// Sums     x's summands upwards, then h's, one chain of fused multiply-adds from 0
// CPU twin reference::lstm::forward

// sum[n][r] += Σ_k rows[row0 + …, k] · weights[k, n · H + unit] for the four gates of this thread's unit.
DEVICE void add_gate_products(float (&sum)[GATES][LSTM_THREAD_ROWS], float (&tile_rows)[LSTM_DEPTH][LSTM_ROWS + 4],
                              float4 (&tile_weights)[LSTM_DEPTH][LSTM_UNITS], const float* __restrict__ rows,
                              const float* __restrict__ weights, int B, int K, int H) {
    const int row0 = blockIdx.x * LSTM_ROWS, unit = blockIdx.y * LSTM_UNITS + threadIdx.x;
    const int thread = threadIdx.y * LSTM_UNITS + threadIdx.x;
    for (int k0 = 0; k0 < K; k0 += LSTM_DEPTH) {
        load_tile<false, LSTM_ROWS, LSTM_DEPTH, 4, LSTM_THREADS>(tile_rows, rows, K, row0, B, k0, K, thread);
#pragma unroll
        for (int depth = threadIdx.y; depth < LSTM_DEPTH; depth += LSTM_GROUPS) {
            const bool inside = unit < H && depth < K - k0;
            const float* of_unit = weights + (size_t)(k0 + depth) * GATES * H + unit;
            float weight[GATES];
#pragma unroll
            for (int n = 0; n < GATES; n++) weight[n] = inside ? of_unit[(size_t)n * H] : 0.0f;
            // A unit's four gates side by side: one load brings them back.
            tile_weights[depth][threadIdx.x] = make_float4(weight[0], weight[1], weight[2], weight[3]);
        }
        __syncthreads();
#pragma unroll 8
        for (int depth = 0; depth < LSTM_DEPTH; depth++) {
            const float4 weight = tile_weights[depth][threadIdx.x];
            float row[LSTM_THREAD_ROWS];
            load_four(row, &tile_rows[depth][threadIdx.y * LSTM_THREAD_ROWS]);
#pragma unroll
            for (int r = 0; r < LSTM_THREAD_ROWS; r++) {
                sum[0][r] = fmaf(row[r], weight.x, sum[0][r]);
                sum[1][r] = fmaf(row[r], weight.y, sum[1][r]);
                sum[2][r] = fmaf(row[r], weight.z, sum[2][r]);
                sum[3][r] = fmaf(row[r], weight.w, sum[3][r]);
            }
        }
        // Nobody may overwrite a tile that another thread still reads.
        __syncthreads();
    }
}

KERNEL(LSTM_THREADS)
lstm_forward_step(const float* __restrict__ x, const float* __restrict__ fold, const float* __restrict__ h_prev,
                  const float* __restrict__ w_h, const float* __restrict__ c_prev, float* __restrict__ gates,
                  float* __restrict__ c, float* __restrict__ h, int B, int J, int H, float forget_bias,
                  const u32* __restrict__ lengths, int t) {
    __shared__ __align__(16) float tile_rows[LSTM_DEPTH][LSTM_ROWS + 4];
    __shared__ float4 tile_weights[LSTM_DEPTH][LSTM_UNITS];
    float sum[GATES][LSTM_THREAD_ROWS] = {};
    add_gate_products(sum, tile_rows, tile_weights, x, fold, B, J, H);
    add_gate_products(sum, tile_rows, tile_weights, h_prev, w_h, B, H, H);

    const int unit = blockIdx.y * LSTM_UNITS + threadIdx.x;
#pragma unroll
    for (int r = 0; r < LSTM_THREAD_ROWS; r++) {
        const int row = blockIdx.x * LSTM_ROWS + threadIdx.y * LSTM_THREAD_ROWS + r;
        if (row >= B || unit >= H) continue;
        const float i = sigmoid(sum[GATE_I][r]);
        const float f = sigmoid(sum[GATE_F][r] + forget_bias);
        const float g = tanhf(sum[GATE_G][r]);
        const float o = sigmoid(sum[GATE_O][r]);
        const size_t cell = (size_t)row * H + unit;
        float* of_row = gates + (size_t)row * GATES * H + unit;
        of_row[(size_t)GATE_I * H] = i;
        of_row[(size_t)GATE_F * H] = f;
        of_row[(size_t)GATE_G * H] = g;
        of_row[(size_t)GATE_O * H] = o;
        const bool over = lengths != nullptr && t >= lengths[row];
        const float state = fmaf(f, c_prev[cell], i * g);
        c[cell] = over ? c_prev[cell] : state;
        h[cell] = over ? h_prev[cell] : o * tanhf(state);
    }
}

// lstm_backward_step
//
//     dh = da_{t+1} · W_hᵀ + dh_outside      at the last step dh_outside alone
//     do = dh ∘ tanh(c_t)            dc += dh ∘ o ∘ (1 - tanh²(c_t))
//     di = dc ∘ g     dg = dc ∘ i    df = dc ∘ c_{t-1}
//     da = [di∘i(1-i), df∘f(1-f), dg∘(1-g²), do∘o(1-o)]
//     dc = dc ∘ f
//
// Inputs   da_next  f32 [B,G], step t + 1 of da [T,B,G]; null at the last step
//          dh_outside  f32 [B,H], the gradient by h_t as others than the next step read it, such as the head; null for none,
//                   but not at the last step
//          w_h      f32 [H,G]
//          gates    f32 [B,G], step t, as lstm_forward_step saved them
//          c_prev, c  f32 [B,H], slots t and t + 1
//          lengths, t  as lstm_forward_step; at a step beyond a sequence's length da and dc are zero
// In, out  dc       f32 [B,H]: from step t + 1 to step t; not read at the last step, where it is zero
// Outputs  da       f32 [B,G], step t
// Launch   grid (ceil(B / 16), ceil(H / 32)), block (32, 4); steps in falling order
// Shared   6,784 bytes, static
// Bounds   B, H >= 1; B, G below 2^31 - 64; H at most 32 · 65535
// Sums     columns of da upwards, one chain of fused multiply-adds from 0
// CPU twin reference::lstm::backward

// sum[r] += Σ_k da_next[row, k] · w_h[unit, k]
DEVICE void add_recurrent_gradient(float (&sum)[LSTM_THREAD_ROWS], const float* __restrict__ da_next,
                                   const float* __restrict__ w_h, int B, int H) {
    __shared__ __align__(16) float tile_da[LSTM_DEPTH][LSTM_ROWS + 4];
    __shared__ float tile_w[LSTM_DEPTH][LSTM_UNITS + 1];
    const int row0 = blockIdx.x * LSTM_ROWS, unit0 = blockIdx.y * LSTM_UNITS, G = GATES * H;
    const int thread = threadIdx.y * LSTM_UNITS + threadIdx.x;
    for (int k0 = 0; k0 < G; k0 += LSTM_DEPTH) {
        load_tile<false, LSTM_ROWS, LSTM_DEPTH, 4, LSTM_THREADS>(tile_da, da_next, G, row0, B, k0, G, thread);
        load_tile<false, LSTM_UNITS, LSTM_DEPTH, 1, LSTM_THREADS>(tile_w, w_h, G, unit0, H, k0, G, thread);
        __syncthreads();
#pragma unroll 8
        for (int depth = 0; depth < LSTM_DEPTH; depth++) {
            const float weight = tile_w[depth][threadIdx.x];
            float row[LSTM_THREAD_ROWS];
            load_four(row, &tile_da[depth][threadIdx.y * LSTM_THREAD_ROWS]);
#pragma unroll
            for (int r = 0; r < LSTM_THREAD_ROWS; r++) sum[r] = fmaf(row[r], weight, sum[r]);
        }
        // Nobody may overwrite a tile that another thread still reads.
        __syncthreads();
    }
}

KERNEL(LSTM_THREADS)
lstm_backward_step(const float* __restrict__ da_next, const float* __restrict__ dh_outside,
                   const float* __restrict__ w_h, const float* __restrict__ gates, const float* __restrict__ c_prev,
                   const float* __restrict__ c, float* __restrict__ dc, float* __restrict__ da, int B, int H,
                   const u32* __restrict__ lengths, int t) {
    const bool last = da_next == nullptr;
    float dh[LSTM_THREAD_ROWS] = {};
    // The same for all threads, so that the barriers inside are met by all or by none.
    if (!last) add_recurrent_gradient(dh, da_next, w_h, B, H);

    const int unit = blockIdx.y * LSTM_UNITS + threadIdx.x;
#pragma unroll
    for (int r = 0; r < LSTM_THREAD_ROWS; r++) {
        const int row = blockIdx.x * LSTM_ROWS + threadIdx.y * LSTM_THREAD_ROWS + r;
        if (row >= B || unit >= H) continue;
        const size_t cell = (size_t)row * H + unit, first = (size_t)row * GATES * H + unit;
        const float i = gates[first + (size_t)GATE_I * H], f = gates[first + (size_t)GATE_F * H];
        const float g = gates[first + (size_t)GATE_G * H], o = gates[first + (size_t)GATE_O * H];
        const float tanh_c = tanhf(c[cell]);
        float d_h = dh[r];
        if (dh_outside != nullptr) d_h = last ? dh_outside[cell] : d_h + dh_outside[cell];
        const bool over = lengths != nullptr && t >= lengths[row];
        const float d_c = fmaf(d_h * o, 1.0f - tanh_c * tanh_c, last ? 0.0f : dc[cell]);
        da[first + (size_t)GATE_I * H] = over ? 0.0f : d_c * g * i * (1.0f - i);
        da[first + (size_t)GATE_F * H] = over ? 0.0f : d_c * c_prev[cell] * f * (1.0f - f);
        da[first + (size_t)GATE_G * H] = over ? 0.0f : d_c * i * (1.0f - g * g);
        da[first + (size_t)GATE_O * H] = over ? 0.0f : d_h * tanh_c * o * (1.0f - o);
        dc[cell] = over ? 0.0f : d_c * f;
    }
}
