// sequence_forward, sequence_score: all time steps of the LSTM in one launch, in f32.
//
//     a = z_t + h_{t-1} · W_h                                    z, the input part with the bias, lies in gates
//     i, f, o = sigmoid(a_i), sigmoid(a_f + forget_bias), sigmoid(a_o);  g = tanh(a_g)
//     c_t = f ∘ c_{t-1} + i ∘ g,   h_t = o ∘ tanh(c_t)
//
// Inputs   packed   the recurrent weights, as sequence_pack leaves them
//          h_first, c_first  f32 [B,H], the state before the first step
// In, out  gates    f32 [T,B,G]: z comes in; sequence_forward leaves the gates after their activation, saved for backward
// Outputs  c, h     f32 [T,B,H], the state after each step, saved for backward; of sequence_score [B,H], after the last, which
//                   may be where the first state lies
// Launch   grid (CLUSTER, ceil(B / ROWS)), block THREADS, cluster (CLUSTER, 1); SCORE_ROWS in the place of ROWS for sequence_score
// Shared   dynamic: 16 · THREADS · SHARED + 8 · ROWS · UNITS bytes
// Bounds   B, T >= 1; 1 <= H <= UNITS; B / ROWS at most 65535; sizes below 2^31
// Sums     as layout.cuh tells, of h; then z is added
// CPU twin reference::lstm::forward

template <int ROWS, int SHARED, bool SAVES>
DEVICE void run_forward(const float4* __restrict__ packed, float* gates, const float* h_first, const float* c_first, float* c,
                        float* h, int B, int T, int H, float forget_bias) {
    constexpr int OWN = GATES * ROWS / LANES;                // sums of a lane, of neighbouring gates, then rows
    constexpr int SPAN = OWN < GATES ? GATES / OWN : 1;      // lanes that share a cell
    constexpr int CELLS = OWN < GATES ? 1 : OWN / GATES;     // cells of a lane
    extern __shared__ float4 shared[];
    const int lane = threadIdx.x % LANES, rank = cluster_rank(), row0 = blockIdx.y * ROWS;
    const int unit = rank * BLOCK_UNITS + threadIdx.x / LANES;
    const size_t G = (size_t)GATES * H;

    const Weights<SHARED> weights(shared + threadIdx.x, packed, rank);

    // h of all units in two places by turns: [2][ROWS][UNITS].
    float* h_shared = (float*)(shared + SHARED * THREADS);
    for (int at = threadIdx.x; at < ROWS * UNITS; at += THREADS) {
        const int row = row0 + at / UNITS, of_unit = at % UNITS;
        h_shared[at] = row < B && of_unit < H ? h_first[(size_t)row * H + of_unit] : 0.0f;
    }
    const int first_row = row0 + lane * OWN / GATES;         // of this lane's cells
    float state[CELLS];
#pragma unroll
    for (int cell = 0; cell < CELLS; cell++) {
        const bool inside = unit < H && first_row + cell < B;
        state[cell] = inside ? c_first[(size_t)(first_row + cell) * H + unit] : 0.0f;
    }
    // Of this lane's sum n, where it has one.
    auto gate_of = [&](int n) { return OWN < GATES ? (lane * OWN + n) % GATES : n % GATES; };
    auto place_of = [&](int t, int n) {
        return ((size_t)t * B + first_row + n / GATES) * G + (size_t)gate_of(n) * H + unit;
    };
    auto is_inside = [&](int n) { return unit < H && first_row + n / GATES < B; };
    float z[OWN];
    auto fetch = [&](int t) {
#pragma unroll
        for (int n = 0; n < OWN; n++) z[n] = is_inside(n) ? gates[place_of(t, n)] : 0.0f;
    };
    fetch(0);
    // Every block has its h, and nobody writes to one that has not started.
    wait_for_cluster();

#pragma unroll 1
    for (int t = 0; t < T; t++) {
        const float* h_now = h_shared + t % 2 * ROWS * UNITS + lane * VECTOR;
        float sum[OWN_CHAINS][ROWS * GATES] = {};
#pragma unroll
        for (int round = 0; round < ROUNDS; round++)
#pragma unroll
            for (int chain = 0; chain < OWN_CHAINS; chain++) {
                float4 weight[GATES];
#pragma unroll
                for (int gate = 0; gate < GATES; gate++)
                    weight[gate] = weights.at((round * OWN_CHAINS + chain) * GATES + gate);
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    float of_h[VECTOR];
                    load_four(of_h, h_now + row * UNITS + (round * CHAINS + chain * LANES) * VECTOR);
                    float* to = sum[chain] + row * GATES;
#pragma unroll
                    for (int gate = 0; gate < GATES; gate++) to[gate] = fmaf(of_h[0], weight[gate].x, to[gate]);
#pragma unroll
                    for (int gate = 0; gate < GATES; gate++) to[gate] = fmaf(of_h[1], weight[gate].y, to[gate]);
#pragma unroll
                    for (int gate = 0; gate < GATES; gate++) to[gate] = fmaf(of_h[2], weight[gate].z, to[gate]);
#pragma unroll
                    for (int gate = 0; gate < GATES; gate++) to[gate] = fmaf(of_h[3], weight[gate].w, to[gate]);
                }
            }
        if (OWN_CHAINS == 2)
#pragma unroll
            for (int n = 0; n < ROWS * GATES; n++) sum[0][n] += sum[OWN_CHAINS - 1][n];
        add_lanes<LANES, ROWS * GATES, OWN>(sum[0]);

        float value[OWN];
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            const int gate = gate_of(n);
            const float a = z[n] + sum[0][n];
            value[n] = gate == GATE_G ? tanhf(a) : sigmoid(gate == GATE_F ? a + forget_bias : a);
            if (SAVES && is_inside(n)) gates[place_of(t, n)] = value[n];
        }
        // While the cells are computed and the others waited for.
        if (t + 1 < T) fetch(t + 1);
        float* h_next = h_shared + (t + 1) % 2 * ROWS * UNITS + (first_row - row0) * UNITS + unit;
#pragma unroll
        for (int cell = 0; cell < CELLS; cell++) {
            float of_cell[GATES];
#pragma unroll
            for (int gate = 0; gate < GATES; gate++) {
                const float own = value[OWN < GATES ? gate % OWN : cell * GATES + gate];
                of_cell[gate] = SPAN == 1 ? own : __shfl_sync(ALL_LANES, own, gate / OWN, SPAN);
            }
            state[cell] = fmaf(of_cell[GATE_F], state[cell], of_cell[GATE_I] * of_cell[GATE_G]);
            const float h_new = of_cell[GATE_O] * tanhf(state[cell]);
#pragma unroll
            for (int block = 0; block < CLUSTER; block++)
                if (lane % SPAN == block % SPAN) store_in_block(h_next + cell * UNITS, h_new, block);
            if ((SAVES || t + 1 == T) && unit < H && first_row + cell < B) {
                const size_t at = ((size_t)(SAVES ? t : 0) * B + first_row + cell) * H + unit;
                if (lane % SPAN == 0) c[at] = state[cell];
                if (lane % SPAN == SPAN - 1) h[at] = h_new;
            }
        }
        // Now h_t is there for all, and nobody reads the place of h_{t-1} any more.
        wait_for_cluster();
    }
}

KERNEL(THREADS)
sequence_forward(const float4* __restrict__ packed, float* gates, const float* h_first, const float* c_first, float* c, float* h,
                 int B, int T, int H, float forget_bias) {
    run_forward<VARIANT_ROWS, VARIANT_FORWARD_SHARED, true>(packed, gates, h_first, c_first, c, h, B, T, H, forget_bias);
}

KERNEL(THREADS)
sequence_score(const float4* __restrict__ packed, float* gates, const float* h_first, const float* c_first, float* c, float* h,
               int B, int T, int H, float forget_bias) {
    run_forward<VARIANT_SCORE_ROWS, VARIANT_SCORE_SHARED, false>(packed, gates, h_first, c_first, c, h, B, T, H, forget_bias);
}
