// tf32_backward: all time steps of the LSTM backward in one launch, with the product da · W_hᵀ in TF32.
//
//     dh = da_{t+1} · W_hᵀ           or, at the last step, the head's dh_T
//     do = dh ∘ tanh(c_t)            dc += dh ∘ o ∘ (1 - tanh²(c_t))
//     di = dc ∘ g     dg = dc ∘ i    df = dc ∘ c_{t-1}
//     da = [di∘i(1-i), df∘f(1-f), dg∘(1-g²), do∘o(1-o)]
//     dc = dc ∘ f
//
// Inputs   packed   the recurrent weights, as tf32_pack leaves them
//          gates    f32 [T,B,G], as tf32_forward saved them
//          c        f32 [T+1,B,H], the initial state and those that it saved
//          dh_last  f32 [B,H], the gradient by h_T
// Outputs  da       f32 [T,B,G]
// Launch   grid (CLUSTER, ceil(B / 8)), block THREADS, cluster (CLUSTER, 1)
// Shared   dynamic: 16 · THREADS · BACKWARD_SHARED + 256 · UNITS bytes, and with one group to a warp 8 · THREADS more
// Bounds   B, T >= 1; 1 <= H <= UNITS; B / 8 at most 65535; sizes below 2^31
// Rounding da and W_h as factors, to nearest, ties away from zero; nothing else
// Sums     as layout.cuh tells, of gates of da
// CPU twin reference::rounded

DEVICE void run_backward(const uint4* __restrict__ packed, const float* __restrict__ gates, const float* __restrict__ c,
                         const float* __restrict__ dh_last, float* __restrict__ da, int B, int T, int H) {
    constexpr int DA_WORDS = GATES * UNITS * TILE_ROWS;
    extern __shared__ uint4 shared[];
    const int lane = threadIdx.x % WARP, rank = cluster_rank(), row0 = blockIdx.y * TILE_ROWS;
    const int first_group = rank * BLOCK_GROUPS + threadIdx.x / WARP * GROUPS;
    // Which groups' gates this warp adds up: of all, or of every other one.
    const int half = GROUPS == 1 ? first_group % 2 : 0;
    const size_t G = (size_t)GATES * H;

    const uint4* own = packed + (first_group / 2 * ALL_GROUPS + half) * GATES * WARP + lane;
    auto k_of = [](int place) { return GROUPS == 1 ? place / GATES * 2 * GATES + place % GATES : place; };
    const Weights<BACKWARD_SHARED> weights(shared + threadIdx.x, own, k_of);

    const int first_unit = first_group * DEPTH + lane / 4, first_row = lane % 4 * 2;
    auto unit_of = [&](int cell) { return first_unit + cell / 2 * DEPTH; };
    auto row_of = [&](int cell) { return row0 + first_row + cell % 2; };
    auto is_inside = [&](int cell) { return unit_of(cell) < H && row_of(cell) < B; };
    auto cell_of = [&](int t, int cell) { return ((size_t)t * B + row_of(cell)) * H + unit_of(cell); };
    auto gate_of = [&](int t, int cell) { return ((size_t)t * B + row_of(cell)) * G + unit_of(cell); };
    // What a step needs of forward, and what it leaves to the step before.
    float gate[CELLS][GATES], tanh_c[CELLS], c_before[CELLS], dh[CELLS], dc[CELLS];
    auto fetch = [&](int t) {
#pragma unroll
        for (int cell = 0; cell < CELLS; cell++) {
            tanh_c[cell] = tanhf(c_before[cell]);
            c_before[cell] = is_inside(cell) ? c[cell_of(t, cell)] : 0.0f;
#pragma unroll
            for (int n = 0; n < GATES; n++)
                gate[cell][n] = is_inside(cell) ? gates[gate_of(t, cell) + (size_t)n * H] : 0.0f;
        }
    };
#pragma unroll
    for (int cell = 0; cell < CELLS; cell++) {
        c_before[cell] = is_inside(cell) ? c[cell_of(T, cell)] : 0.0f;
        dh[cell] = is_inside(cell) ? dh_last[cell_of(0, cell)] : 0.0f;
        dc[cell] = 0.0f;
    }
    fetch(T - 1);
    // Nobody writes to a block that has not started.
    wait_for_cluster();

    // da of all gates in two places by turns: [2][UNITS / 8][GATES][8][TILE_ROWS]. Then what warps exchange, a pair of each lane.
    u32* da_shared = (u32*)(shared + BACKWARD_SHARED * THREADS);
    float2* exchanged = (float2*)(da_shared + 2 * DA_WORDS);
#pragma unroll 1
    for (int t = T - 1;; t--) {
        u32* da_now = da_shared + t % 2 * DA_WORDS;
#pragma unroll
        for (int cell = 0; cell < CELLS; cell += 2) {
            float d[2][GATES];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int n = cell + e;
                const float i = gate[n][GATE_I], f = gate[n][GATE_F], g = gate[n][GATE_G], o = gate[n][GATE_O];
                const float d_c = fmaf(dh[n] * o, 1.0f - tanh_c[n] * tanh_c[n], dc[n]);
                d[e][GATE_I] = d_c * g * i * (1.0f - i);
                d[e][GATE_F] = d_c * c_before[n] * f * (1.0f - f);
                d[e][GATE_G] = d_c * i * (1.0f - g * g);
                d[e][GATE_O] = dh[n] * tanh_c[n] * o * (1.0f - o);
                dc[n] = d_c * f;
                if (!is_inside(n)) continue;
#pragma unroll
                for (int n_gate = 0; n_gate < GATES; n_gate++) da[gate_of(t, n) + (size_t)n_gate * H] = d[e][n_gate];
            }
            // A block may be done after the first step: nobody writes to it then.
            if (t == 0) continue;
#pragma unroll
            for (int n_gate = 0; n_gate < GATES; n_gate++)
                store_everywhere(da_now + place_of_da(n_gate, unit_of(cell), first_row), rounded_to_tf32(d[0][n_gate]),
                                 rounded_to_tf32(d[1][n_gate]));
        }
        if (t == 0) break;
        fetch(t - 1);
        // Now da of all threads is there. It has two places in turn: nobody still reads the one that is written next.
        wait_for_cluster();
        const u32* from = da_now + half * GATES * DEPTH * TILE_ROWS + lane % 4 * TILE_ROWS + lane / 4;
        float sum[BACKWARD_CHAINS][4] = {};
#pragma unroll
        for (int place = 0; place < PLACES; place++) {
            const int at = k_of(place) * DEPTH * TILE_ROWS;
            const int chain = (GROUPS == 1 ? 0 : place / GATES % 2 * 2) + place % 2;
            multiply_add(sum[chain], weights.at(place), from[at], from[at + 4 * TILE_ROWS]);
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
            sum[0][n] += sum[1][n];
            if (GROUPS == 2) sum[0][n] += sum[BACKWARD_CHAINS - 2][n] + sum[BACKWARD_CHAINS - 1][n];
        }
        if (GROUPS == 2) {
#pragma unroll
            for (int cell = 0; cell < CELLS; cell++) dh[cell] = sum[0][cell];
        } else {
            exchanged[threadIdx.x ^ WARP] = half ? make_float2(sum[0][0], sum[0][1]) : make_float2(sum[0][2], sum[0][3]);
            // What is read now is written again only after the next wait for all.
            __syncthreads();
            const float2 others = exchanged[threadIdx.x];
            dh[0] = (half ? sum[0][2] : sum[0][0]) + others.x;
            dh[1] = (half ? sum[0][3] : sum[0][1]) + others.y;
        }
    }
}

KERNEL(THREADS, 1)
tf32_backward(const uint4* __restrict__ packed, const float* __restrict__ gates, const float* __restrict__ c,
              const float* __restrict__ dh_last, float* __restrict__ da, int B, int T, int H) {
    run_backward(packed, gates, c, dh_last, da, B, T, H);
}
