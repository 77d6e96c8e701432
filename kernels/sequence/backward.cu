// sequence_backward: all time steps of the LSTM backward in one launch, in f32.
//
//     dh = da_{t+1} · W_hᵀ           or, at the last step, the head's dh_T
//     do = dh ∘ tanh(c_t)            dc += dh ∘ o ∘ (1 - tanh²(c_t))
//     di = dc ∘ g     dg = dc ∘ i    df = dc ∘ c_{t-1}
//     da = [di∘i(1-i), df∘f(1-f), dg∘(1-g²), do∘o(1-o)]
//     dc = dc ∘ f
//
// Inputs   packed   the recurrent weights, as sequence_pack leaves them
//          gates    f32 [T,B,G], as sequence_forward saved them
//          c        f32 [T+1,B,H], the initial state and those that it saved
//          dh_last  f32 [B,H], the gradient by h_T
// Outputs  da       f32 [T,B,G]
// Launch   grid (CLUSTER, ceil(B / ROWS)), block THREADS, cluster (CLUSTER, 1)
// Shared   dynamic: 16 · THREADS · SHARED + 32 · ROWS · UNITS bytes
// Bounds   B, T >= 1; 1 <= H <= UNITS; B / ROWS at most 65535; sizes below 2^31
// Sums     as layout.cuh tells, of columns of da
// CPU twin reference::lstm::backward

template <int ROWS, int SHARED>
DEVICE void run_backward(const float4* __restrict__ packed, const float* __restrict__ gates, const float* __restrict__ c,
                         const float* __restrict__ dh_last, float* __restrict__ da, int B, int T, int H) {
    constexpr int SPAN = ROWS < LANES ? LANES / ROWS : 1;    // lanes that share a cell
    constexpr int CELLS = ROWS < LANES ? 1 : ROWS / LANES;   // cells of a lane: rows of one unit
    constexpr int COLUMNS = GATES * UNITS;
    extern __shared__ float4 shared[];
    const int lane = threadIdx.x % BACKWARD_LANES, rank = cluster_rank(), row0 = blockIdx.y * ROWS;
    const int first_unit = rank * BLOCK_UNITS + threadIdx.x / BACKWARD_LANES * BACKWARD_UNITS;
    const size_t G = (size_t)GATES * H;

    const Weights<SHARED> weights(shared + threadIdx.x, packed, rank);

    const int share = lane / SPAN, own_unit = share * CELLS / ROWS, unit = first_unit + own_unit;
    const int own_row = share * CELLS % ROWS, first_row = row0 + own_row;
    auto is_inside = [&](int cell) { return unit < H && first_row + cell < B; };
    auto cell_of = [&](int t, int cell) { return ((size_t)t * B + first_row + cell) * H + unit; };
    auto gate_of = [&](int t, int cell) { return ((size_t)t * B + first_row + cell) * G + unit; };
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

    // da of all columns in two places by turns: [2][ROWS][COLUMNS].
    float* da_shared = (float*)(shared + SHARED * THREADS);
#pragma unroll 1
    for (int t = T - 1;; t--) {
        float* da_now = da_shared + t % 2 * ROWS * COLUMNS;
#pragma unroll
        for (int cell = 0; cell < CELLS; cell++) {
            const float i = gate[cell][GATE_I], f = gate[cell][GATE_F], g = gate[cell][GATE_G], o = gate[cell][GATE_O];
            const float d_c = fmaf(dh[cell] * o, 1.0f - tanh_c[cell] * tanh_c[cell], dc[cell]);
            float d[GATES];
            d[GATE_I] = d_c * g * i * (1.0f - i);
            d[GATE_F] = d_c * c_before[cell] * f * (1.0f - f);
            d[GATE_G] = d_c * i * (1.0f - g * g);
            d[GATE_O] = dh[cell] * tanh_c[cell] * o * (1.0f - o);
            dc[cell] = d_c * f;
#pragma unroll
            for (int n = 0; n < GATES; n++) {
                // The lanes of a cell share its gates.
                if (lane % SPAN != n % SPAN) continue;
                if (is_inside(cell)) da[gate_of(t, cell) + (size_t)n * H] = d[n];
                // A block may be done after the first step: nobody writes to it then.
                if (t == 0) continue;
                float* to = da_now + (own_row + cell) * COLUMNS + column_of(n, unit);
#pragma unroll
                for (int block = 0; block < CLUSTER; block++) store_in_block(to, d[n], block);
            }
        }
        if (t == 0) break;
        fetch(t - 1);
        // Now da of all threads is there. It has two places in turn: nobody still reads the one that is written next.
        wait_for_cluster();
        const float* from = da_now + lane * VECTOR;
        float sum[OWN_CHAINS][BACKWARD_UNITS * ROWS] = {};
#pragma unroll
        for (int round = 0; round < ROUNDS; round++)
#pragma unroll
            for (int chain = 0; chain < OWN_CHAINS; chain++) {
                float4 weight[BACKWARD_UNITS];
#pragma unroll
                for (int n = 0; n < BACKWARD_UNITS; n++)
                    weight[n] = weights.at((round * OWN_CHAINS + chain) * BACKWARD_UNITS + n);
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    float of_da[VECTOR];
                    load_four(of_da, from + row * COLUMNS + (round * BACKWARD_CHAINS + chain * BACKWARD_LANES) * VECTOR);
#pragma unroll
                    for (int n = 0; n < BACKWARD_UNITS; n++) {
                        float& to = sum[chain][n * ROWS + row];
                        to = fmaf(of_da[0], weight[n].x, to);
                        to = fmaf(of_da[1], weight[n].y, to);
                        to = fmaf(of_da[2], weight[n].z, to);
                        to = fmaf(of_da[3], weight[n].w, to);
                    }
                }
            }
        if (OWN_CHAINS == 2)
#pragma unroll
            for (int n = 0; n < BACKWARD_UNITS * ROWS; n++) sum[0][n] += sum[OWN_CHAINS - 1][n];
        add_lanes<BACKWARD_LANES, BACKWARD_UNITS * ROWS, CELLS>(sum[0]);
#pragma unroll
        for (int cell = 0; cell < CELLS; cell++) dh[cell] = sum[0][cell];
    }
}

KERNEL(THREADS)
sequence_backward(const float4* __restrict__ packed, const float* __restrict__ gates, const float* __restrict__ c,
                  const float* __restrict__ dh_last, float* __restrict__ da, int B, int T, int H) {
    run_backward<VARIANT_ROWS, VARIANT_BACKWARD_SHARED>(packed, gates, c, dh_last, da, B, T, H);
}
