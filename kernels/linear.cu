// linear: the matrix products of the linear layers, of the folded input layer and of the weight gradients.
//
//     product_nn   c[m,n] = Σ_k a[m,k] · b[k,n] + bias[n] in the rows m >= bias_from     a [M,K], b [K,N]
//     product_nt   c[m,n] = Σ_k a[m,k] · b[n,k] + …                                      a [M,K], b [N,K]
//     product_tn   c[m,n] = Σ_k a[k,m] · b[k,n] + …                                      a [K,M], b [K,N]
//
// What they are used for (J = I + 1; W_in and b_in lie one after the other, a matrix [J,P], and so do W_out and b_out):
//
//     fold             [W_fold; b_fold] [J,G] = [W_in; b_in] · W_x, b added to the last row    nn, bias b from row I
//     head             logits [B,K] = h_T · W_out + b_out                                      nn, bias b_out from row 0
//     head backward    dh_T [B,H] = dlogits · W_outᵀ                                           nt
//                      dW_out [H,K] = h_Tᵀ · dlogits                                           tn
//                      db_out [K] = column sums of dlogits                                     column_sums
//     weight gradients [M; s] [J,G] = xᵀ · da,  dW_h [H,G] = hᵀ · da, over all T·B rows        tn, split, sum_parts
//     unfold           dW_x [P,G] = [W_in; b_in]ᵀ · [M; s]                                     tn
//                      [dW_in; db_in] [J,P] = [M; s] · W_xᵀ                                    nt
//                      db [G] = s, a copy
//     input gradient   dx [T·B,I] = da · W_foldᵀ                                               nt
//
// Split over k: with grid z of S > 1, part z takes k from z · chunk up to (z + 1) · chunk and writes c + z · M · N; then
// sum_parts adds the parts. With S = 1 chunk is K.
//
// Inputs   a, b  f32, shapes above, dense and row-major;  bias f32 [N], may be null, and must be where S > 1
// Outputs  c     f32 [S,M,N]
// Launch   grid (ceil(M / 32), ceil(N / 64), S), block 128
// Shared   13,312 bytes, static
// Bounds   M, N, K, chunk >= 1 and below 2^31 - 64; N at most 64 · 65535; S at most 65535 and ceil(K / chunk)
// Sums     k upwards with fused multiply-adds from 0, then the bias; parts z upwards. The tile shapes change no bit
// CPU twin reference::linear

constexpr int PRODUCT_ROWS = 32;
constexpr int PRODUCT_COLUMNS = 64;
constexpr int PRODUCT_DEPTH = 32;
constexpr int PRODUCT_THREADS = 128;
// Each thread owns 4 neighbouring rows and 4 neighbouring columns, and reads either out of its tile as one float4.
constexpr int PRODUCT_LANES = 16;
constexpr int PRODUCT_THREAD_ROWS = 4;
constexpr int PRODUCT_THREAD_COLUMNS = 4;
static_assert(PRODUCT_LANES * PRODUCT_THREAD_COLUMNS == PRODUCT_COLUMNS, "threads cover the columns");
static_assert(PRODUCT_THREADS / PRODUCT_LANES * PRODUCT_THREAD_ROWS == PRODUCT_ROWS, "threads cover the rows");

// Copies the ROWS x DEPTH tile at (row0, k0) of a matrix into `tile` [k][row], zeros outside of the matrix. The matrix is
// [rows, ends at k1], or transposed [k, rows]; `stride` is its row length. Neighbouring threads read neighbouring
// numbers either way. PAD numbers follow each row of the tile: with 1 the stores of neighbours in k fall on different banks;
// with 4 on eight of them, and a row can be read four numbers at a time, which is done far more often.
template <bool TRANSPOSED, int ROWS, int DEPTH, int PAD, int THREADS>
DEVICE void load_tile(float (&tile)[DEPTH][ROWS + PAD], const float* __restrict__ matrix, size_t stride, int row0,
                      int rows, int k0, int k1, int thread) {
    // A thread stays in one place across the matrix's rows in memory and goes down them: one test and one address for all.
    constexpr int ACROSS = TRANSPOSED ? ROWS : DEPTH, DOWN = TRANSPOSED ? DEPTH : ROWS, STEP = THREADS / ACROSS;
    static_assert(THREADS % ACROSS == 0 && DOWN % STEP == 0, "a whole number of loads for each thread");
    const int across = thread % ACROSS;
    const bool inside = TRANSPOSED ? row0 + across < rows : k0 + across < k1;
    const int left = TRANSPOSED ? k1 - k0 : rows - row0;
    size_t at = (size_t)((TRANSPOSED ? k0 : row0) + thread / ACROSS) * stride + (TRANSPOSED ? row0 : k0) + across;
    // Eight loads on their way at once; more cost registers that the sums need.
#pragma unroll 8
    for (int down = thread / ACROSS; down < DOWN; down += STEP, at += STEP * stride)
        tile[TRANSPOSED ? down : across][TRANSPOSED ? across : down] = inside && down < left ? matrix[at] : 0.0f;
}

template <bool A_TRANSPOSED, bool B_TRANSPOSED>
DEVICE void product(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias,
                    int bias_from, float* __restrict__ c, int M, int N, int K, int chunk) {
    __shared__ __align__(16) float tile_a[PRODUCT_DEPTH][PRODUCT_ROWS + 4];
    __shared__ __align__(16) float tile_b[PRODUCT_DEPTH][PRODUCT_COLUMNS + 4];
    const int thread = threadIdx.x;
    const int lane = thread % PRODUCT_LANES, group = thread / PRODUCT_LANES;
    const int m0 = blockIdx.x * PRODUCT_ROWS, n0 = blockIdx.y * PRODUCT_COLUMNS;
    const int k0 = blockIdx.z * chunk;
    const int k1 = K - k0 < chunk ? K : k0 + chunk;

    float sum[PRODUCT_THREAD_ROWS][PRODUCT_THREAD_COLUMNS] = {};
    for (int k = k0; k < k1; k += PRODUCT_DEPTH) {
        load_tile<A_TRANSPOSED, PRODUCT_ROWS, PRODUCT_DEPTH, 4, PRODUCT_THREADS>(tile_a, a, A_TRANSPOSED ? M : K, m0, M, k,
                                                                              k1, thread);
        // b is [K,N]: as rows of n it is the transposed one of the two.
        load_tile<!B_TRANSPOSED, PRODUCT_COLUMNS, PRODUCT_DEPTH, 4, PRODUCT_THREADS>(tile_b, b, B_TRANSPOSED ? K : N, n0,
                                                                                  N, k, k1, thread);
        __syncthreads();
#pragma unroll 8
        for (int depth = 0; depth < PRODUCT_DEPTH; depth++) {
            float row[PRODUCT_THREAD_ROWS], column[PRODUCT_THREAD_COLUMNS];
            load_four(row, &tile_a[depth][group * PRODUCT_THREAD_ROWS]);
            load_four(column, &tile_b[depth][lane * PRODUCT_THREAD_COLUMNS]);
#pragma unroll
            for (int i = 0; i < PRODUCT_THREAD_ROWS; i++)
#pragma unroll
                for (int j = 0; j < PRODUCT_THREAD_COLUMNS; j++) sum[i][j] = fmaf(row[i], column[j], sum[i][j]);
        }
        // Nobody may overwrite a tile that another thread still reads.
        __syncthreads();
    }

    float* part = c + (size_t)blockIdx.z * M * N;
#pragma unroll
    for (int i = 0; i < PRODUCT_THREAD_ROWS; i++) {
        const int m = m0 + group * PRODUCT_THREAD_ROWS + i;
#pragma unroll
        for (int j = 0; j < PRODUCT_THREAD_COLUMNS; j++) {
            const int n = n0 + lane * PRODUCT_THREAD_COLUMNS + j;
            if (m >= M || n >= N) continue;
            const bool biased = bias != nullptr && m >= bias_from;
            part[(size_t)m * N + n] = biased ? sum[i][j] + bias[n] : sum[i][j];
        }
    }
}

KERNEL(PRODUCT_THREADS)
product_nn(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, int bias_from,
           float* __restrict__ c, int M, int N, int K, int chunk) {
    product<false, false>(a, b, bias, bias_from, c, M, N, K, chunk);
}

KERNEL(PRODUCT_THREADS)
product_nt(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, int bias_from,
           float* __restrict__ c, int M, int N, int K, int chunk) {
    product<false, true>(a, b, bias, bias_from, c, M, N, K, chunk);
}

KERNEL(PRODUCT_THREADS)
product_tn(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, int bias_from,
           float* __restrict__ c, int M, int N, int K, int chunk) {
    product<true, false>(a, b, bias, bias_from, c, M, N, K, chunk);
}

// sum_parts: c[n] = Σ_z parts[z,n], z upwards.
//
// Inputs   parts f32 [S,n]      Outputs  c f32 [n]
// Launch   grid ceil(n / 256), block 256; shared memory none
// Bounds   n, S >= 1; n below 2^31 - 256
// CPU twin the sums over all rows in reference::linear::backward_weights

constexpr int SUM_THREADS = 256;

KERNEL(SUM_THREADS) sum_parts(const float* __restrict__ parts, float* __restrict__ c, int n, int S) {
    const int at = blockIdx.x * SUM_THREADS + threadIdx.x;
    if (at >= n) return;
    float sum = 0.0f;
    for (int z = 0; z < S; z++) sum += parts[(size_t)z * n + at];
    c[at] = sum;
}

// column_sums: c[n] = Σ_m a[m,n].
//
// Inputs   a f32 [M,N]          Outputs  c f32 [N]
// Launch   grid ceil(N / 32), block (32, 8)
// Shared   1,024 bytes, static
// Bounds   M, N >= 1; N below 2^31 - 32
// Sums     thread row y adds the rows y, y + 8, …; then the eight sums, y upwards
// CPU twin the bias in reference::linear::backward_weights

constexpr int COLUMN_SUM_COLUMNS = 32;
constexpr int COLUMN_SUM_GROUPS = 8;

KERNEL(COLUMN_SUM_COLUMNS* COLUMN_SUM_GROUPS)
column_sums(const float* __restrict__ a, float* __restrict__ c, int M, int N) {
    __shared__ float sums[COLUMN_SUM_GROUPS][COLUMN_SUM_COLUMNS];
    const int n = blockIdx.x * COLUMN_SUM_COLUMNS + threadIdx.x;
    float sum = 0.0f;
    if (n < N)
        for (int m = threadIdx.y; m < M; m += COLUMN_SUM_GROUPS) sum += a[(size_t)m * N + n];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || n >= N) return;
    for (int group = 1; group < COLUMN_SUM_GROUPS; group++) sum += sums[group][threadIdx.x];
    c[n] = sum;
}
