// tf32_forward, tf32_score: all time steps of the LSTM in one launch, with the product h · W_h in TF32.
//
//     a = z_t + h_{t-1} · W_h                                    z, the input part with the bias, lies in gates
//     i, f, o = sigmoid(a_i), sigmoid(a_f + forget_bias), sigmoid(a_o);  g = tanh(a_g)
//     c_t = f ∘ c_{t-1} + i ∘ g,   h_t = o ∘ tanh(c_t)
//
// Inputs   packed   the recurrent weights, as tf32_pack leaves them
//          h_first, c_first  f32 [B,H], the state before the first step
// In, out  gates    f32 [T,B,G]: z comes in; tf32_forward leaves the gates after their activation, saved for backward
// Outputs  c, h     f32 [T,B,H], the state after each step, saved for backward; of tf32_score [B,H], after the last, which may be
//                   where the first state lies
// Launch   grid (CLUSTER, ceil(B / 8)), block THREADS, cluster (CLUSTER, 1)
// Shared   dynamic: 16 · THREADS · FORWARD_SHARED + 64 · UNITS bytes
// Bounds   B, T >= 1; 1 <= H <= UNITS; B / 8 at most 65535; sizes below 2^31
// Rounding h and W_h as factors, to nearest, ties away from zero; nothing else
// Sums     as layout.cuh tells, of h; then z is added
// CPU twin reference::rounded

template <bool SAVES>
DEVICE void run_forward(const uint4* __restrict__ packed, float* gates, const float* h_first, const float* c_first, float* c,
                        float* h, int B, int T, int H, float forget_bias) {
    extern __shared__ uint4 shared[];
    const int lane = threadIdx.x % WARP, rank = cluster_rank(), row0 = blockIdx.y * TILE_ROWS;
    const int first_group = rank * BLOCK_GROUPS + threadIdx.x / WARP * GROUPS;
    const size_t G = (size_t)GATES * H;

    const uint4* own = packed + first_group * ALL_GROUPS * PAIRS * WARP + lane;
    const Weights<FORWARD_SHARED> weights(shared + threadIdx.x, own, [](int place) {
        return (place % TILES / PAIRS * ALL_GROUPS + place / TILES) * PAIRS + place % PAIRS;
    });

    // h of all units in two places by turns: [2][UNITS][TILE_ROWS].
    u32* h_shared = (u32*)(shared + FORWARD_SHARED * THREADS);
    for (int at = threadIdx.x; at < UNITS * TILE_ROWS; at += THREADS) {
        const int row = row0 + at % TILE_ROWS, unit = at / TILE_ROWS;
        h_shared[at] = row < B && unit < H ? rounded_to_tf32(h_first[(size_t)row * H + unit]) : 0;
    }
    const int first_unit = first_group * DEPTH + lane / 4, first_row = lane % 4 * 2;
    auto unit_of = [&](int cell) { return first_unit + cell / 2 * DEPTH; };
    auto row_of = [&](int cell) { return row0 + first_row + cell % 2; };
    auto is_inside = [&](int cell) { return unit_of(cell) < H && row_of(cell) < B; };
    auto cell_of = [&](int t, int cell) { return ((size_t)t * B + row_of(cell)) * H + unit_of(cell); };
    auto gate_of = [&](int t, int cell) { return ((size_t)t * B + row_of(cell)) * G + unit_of(cell); };
    float state[CELLS], z[CELLS][GATES];
    auto fetch = [&](int t) {
#pragma unroll
        for (int cell = 0; cell < CELLS; cell++)
#pragma unroll
            for (int gate = 0; gate < GATES; gate++)
                z[cell][gate] = is_inside(cell) ? gates[gate_of(t, cell) + (size_t)gate * H] : 0.0f;
    };
#pragma unroll
    for (int cell = 0; cell < CELLS; cell++) state[cell] = is_inside(cell) ? c_first[cell_of(0, cell)] : 0.0f;
    fetch(0);
    // Every block has its h, and nobody writes to one that has not started.
    wait_for_cluster();

#pragma unroll 1
    for (int t = 0; t < T; t++) {
        const u32* h_now = h_shared + t % 2 * UNITS * TILE_ROWS + place_of_h(lane % 4, lane / 4);
        float sum[FORWARD_CHAINS][TILES][4] = {};
#pragma unroll
        for (int k = 0; k < ALL_GROUPS; k++) {
            const u32 low = h_now[place_of_h(k * DEPTH, 0)], high = h_now[place_of_h(k * DEPTH + 4, 0)];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                multiply_add(sum[k % FORWARD_CHAINS][tile], weights.at(k * TILES + tile), low, high);
        }
        float of_cell[CELLS][GATES];
#pragma unroll
        for (int cell = 0; cell < CELLS; cell++)
#pragma unroll
            for (int gate = 0; gate < GATES; gate++) {
                const int tile = cell / 2 * PAIRS + gate / 2, result = gate % 2 * 2 + cell % 2;
                const float a = z[cell][gate] + (sum[0][tile][result] + sum[1][tile][result]);
                const float value = gate == GATE_G ? tanhf(a) : sigmoid(gate == GATE_F ? a + forget_bias : a);
                if (SAVES && is_inside(cell)) gates[gate_of(t, cell) + (size_t)gate * H] = value;
                of_cell[cell][gate] = value;
            }
        // While the cells are computed and the others waited for.
        if (t + 1 < T) fetch(t + 1);
        float h_new[CELLS];
#pragma unroll
        for (int cell = 0; cell < CELLS; cell++) {
            state[cell] = fmaf(of_cell[cell][GATE_F], state[cell], of_cell[cell][GATE_I] * of_cell[cell][GATE_G]);
            h_new[cell] = of_cell[cell][GATE_O] * tanhf(state[cell]);
            if ((SAVES || t + 1 == T) && is_inside(cell)) {
                const size_t at = cell_of(SAVES ? t : 0, cell);
                c[at] = state[cell];
                h[at] = h_new[cell];
            }
        }
        u32* h_next = h_shared + (t + 1) % 2 * UNITS * TILE_ROWS;
#pragma unroll
        for (int cell = 0; cell < CELLS; cell += 2)
            store_everywhere(h_next + place_of_h(unit_of(cell), first_row), rounded_to_tf32(h_new[cell]),
                             rounded_to_tf32(h_new[cell + 1]));
        // Now h_t is there for all, and nobody reads the place of h_{t-1} any more.
        wait_for_cluster();
    }
}

KERNEL(THREADS, 1)
tf32_forward(const uint4* __restrict__ packed, float* gates, const float* h_first, const float* c_first, float* c, float* h, int B,
             int T, int H, float forget_bias) {
    run_forward<true>(packed, gates, h_first, c_first, c, h, B, T, H, forget_bias);
}

KERNEL(THREADS, 1)
tf32_score(const uint4* __restrict__ packed, float* gates, const float* h_first, const float* c_first, float* c, float* h, int B,
           int T, int H, float forget_bias) {
    run_forward<false>(packed, gates, h_first, c_first, c, h, B, T, H, forget_bias);
}
