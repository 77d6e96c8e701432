// persistent_pack: recurrent weights as operand tiles in bf16.
//
// Inputs   w_h  f32 [H,G]
// Outputs  forward_weights   bf16, the places of h, see layout.cuh
//          backward_weights  bf16, all places; what is padded is zero. Or null
// Launch   grid (ceil(4 · UNITS · UNITS / 256), M), block 256; shared memory none
// Bounds   H <= UNITS; model_size numbers are a model's parameters
// Rounding to nearest even
// CPU twin reference::rounded

constexpr int PACK_THREADS = 256;

KERNEL(PACK_THREADS)
persistent_pack(const float* __restrict__ w_h, u16* __restrict__ forward_weights, u16* __restrict__ backward_weights,
                int H, int model_size) {
    const size_t model = blockIdx.y;
    w_h += model * model_size, forward_weights += model * FORWARD_NUMBERS;
    const int at = blockIdx.x * PACK_THREADS + threadIdx.x;
    if (at >= UNITS * GATES * UNITS) return;
    const int unit = at / (GATES * UNITS), gate = at / UNITS % GATES, of_gate = at % UNITS;
    const bool inside = unit < H && of_gate < H;
    const u16 weight = bits_of_bf16(inside ? w_h[(size_t)unit * GATES * H + gate * H + of_gate] : 0.0f);
    forward_weights[forward_place(INPUTS + unit, gate, of_gate)] = weight;
    if (backward_weights == nullptr) return;
    backward_weights[model * BACKWARD_NUMBERS + backward_place(unit, gate, of_gate)] = weight;
}

// persistent_fold: folds the input layer into the input weights, and leaves them and the bias as operand tiles in bf16. The last
// launch of an iteration: counts the turn up.
//
//     fold = W_in · W_x,   bias = b_in · W_x + b + forget bias
//
// Inputs   input_layer  f32 [J,P]: W_in and, as its last row, b_in; J = I + 1
//          w_x          f32 [P,G]
//          b            f32 [G]
// In, out  turn         u32 [1], or null; one for all models
// Outputs  forward_weights  bf16, the places of x, bias parts and padding, see layout.cuh
// Launch   grid (4 · UNITS / 8, M), block 256
// Shared   20,608 bytes, static
// Bounds   H <= UNITS, I + 3 <= INPUTS, P >= 1; model_size numbers, below 2^31, are a model's parameters
// Rounding to nearest even, of fold · scale; the three parts of the bias add up to all of its bits
// Sums     summands upwards, four chains of fused multiply-adds: p, p + 1, p + 2, p + 3 modulo 4
// CPU twin reference::rounded

constexpr int FOLD_COLUMNS = 8;
constexpr int FOLD_ROWS = 32;
constexpr int FOLD_DEPTH = 128;
constexpr int FOLD_THREADS = 256;
static_assert(FOLD_THREADS == FOLD_COLUMNS * FOLD_ROWS, "a thread for each result of a tile");
constexpr int FOLD_CHAINS = 4;

// The results of one row and gate, as operands.
DEVICE void store_fold(u16* __restrict__ weights, float fold, int row, int gate, int unit, int I, float scale) {
    if (row < I) weights[forward_place(row, gate, unit)] = bits_of_bf16(fold * scale);
    else if (row == I) {
        const float first = rounded_to_bf16(fold), second = rounded_to_bf16(fold - first);
        weights[forward_place(I, gate, unit)] = bits_of_bf16(first);
        weights[forward_place(I + 1, gate, unit)] = bits_of_bf16(second);
        weights[forward_place(I + 2, gate, unit)] = bits_of_bf16(fold - first - second);
    } else if (row >= I + BIAS_PARTS && row < INPUTS) weights[forward_place(row, gate, unit)] = 0;
}

// With fewer registers than two blocks leave, some sizes would spill.
KERNEL(FOLD_THREADS, 2)
persistent_fold(const float* input_layer, const float* w_x, const float* b, u32* turn, u16* __restrict__ forward_weights,
                int I, int P, int H, int model_size, float scale, float forget_bias) {
    const size_t model = blockIdx.y;
    input_layer += model * model_size, w_x += model * model_size;
    follow_launches();
    __shared__ float tile_in[FOLD_ROWS][FOLD_DEPTH + 1];
    __shared__ float tile_x[FOLD_DEPTH][FOLD_COLUMNS];
    const int J = I + 1, column = threadIdx.x % FOLD_COLUMNS, row_of_tile = threadIdx.x / FOLD_COLUMNS;
    // 8 neighbouring units of one gate, of those with their padding.
    const int gate = blockIdx.x * FOLD_COLUMNS / UNITS, unit = blockIdx.x * FOLD_COLUMNS % UNITS + column;
    const int G = GATES * H, of_gate = gate * H + unit;
    for (int row0 = 0; row0 < INPUTS; row0 += FOLD_ROWS) {
        float sum[FOLD_CHAINS] = {};
        for (int p0 = 0; p0 < P; p0 += FOLD_DEPTH) {
            for (int at = threadIdx.x; at < FOLD_ROWS * FOLD_DEPTH; at += FOLD_THREADS) {
                const int row = row0 + at / FOLD_DEPTH, p = p0 + at % FOLD_DEPTH;
                tile_in[at / FOLD_DEPTH][at % FOLD_DEPTH] = row < J && p < P ? input_layer[row * P + p] : 0.0f;
            }
            for (int at = threadIdx.x; at < FOLD_DEPTH * FOLD_COLUMNS; at += FOLD_THREADS) {
                const int p = p0 + at / FOLD_COLUMNS;
                tile_x[at / FOLD_COLUMNS][column] = unit < H && p < P ? w_x[p * G + of_gate] : 0.0f;
            }
            __syncthreads();
#pragma unroll 4
            for (int p = 0; p < FOLD_DEPTH; p += FOLD_CHAINS)
#pragma unroll
                for (int chain = 0; chain < FOLD_CHAINS; chain++)
                    sum[chain] = fmaf(tile_in[row_of_tile][p + chain], tile_x[p + chain][column], sum[chain]);
            // Nobody may overwrite a tile that another thread still reads.
            __syncthreads();
        }
        const int row = row0 + row_of_tile;
        float fold = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        if (row == I && unit < H) fold += b[model * model_size + of_gate] + (gate == GATE_F ? forget_bias : 0.0f);
        store_fold(forward_weights + model * FORWARD_NUMBERS, fold, row, gate, unit, I, scale);
    }
    if (turn != nullptr && blockIdx.x == 0 && model == 0 && threadIdx.x == 0) *turn += 1;
}
