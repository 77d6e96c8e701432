// persistent_weight_gradient: the product of hx and da over all steps and rows of the batch, in S parts.
//
//     parts[s] [UNITS + INPUTS, 4 · UNITS] = Σ over the part's tiles of hx_tile · da_tileᵀ
//
// Its rows are h's units, x's inputs and the 1 of the bias; its columns are gate rows. Of x and the bias, which every gradient of
// the input layer needs all of, the last block of each column adds the parts.
//
// Inputs   hx, da   see layout.cuh; `tiles` = T · ceil(B / 8) tiles of 8 rows of each; hx has hx_tiles = (T + 1) · ceil(B / 8)
// In, out  counters u32 [ceil(4 · UNITS / 64)], zero before and after
// Outputs  parts    f32 [S][UNITS + INPUTS][4 · UNITS]
//          d_fold   f32 [J,G]: the gradient by the folded input weights and, as its last row, by the bias
// Launch   grid (ceil(4 · UNITS / 64), M · ROW_BLOCKS, S), block 256; ROW_BLOCKS = ceil((UNITS + INPUTS) / BLOCK_ROWS)
// Shared   STAGES · STAGE_TILES · (BLOCK_ROWS + 64) · 16 + 16 bytes, static, at most 43,024
// Bounds   1 <= S <= ceil(tiles / STAGE_TILES)
// Sums     tiles upwards, two of them (16 rows of the batch) in one tensor-core instruction; parts upwards, whichever block adds
// CPU twin reference::rounded

constexpr int GRADIENT_THREADS = 256;
constexpr int GRADIENT_COLUMNS = 64;   // of a block, in four parts of 16
constexpr int GRADIENT_HALVES = 2;     // of a block's rows
constexpr int STAGE_TILES = 4;         // tiles of 8 rows of the batch between two barriers
constexpr int STAGES = 3;              // on their way or in use

constexpr int ALL_FRAGMENTS = (UNITS + INPUTS) / 16;                // of 16 rows
constexpr int ROW_BLOCKS = (ALL_FRAGMENTS + 9) / 10;
constexpr int WARP_FRAGMENTS = (ALL_FRAGMENTS + 2 * ROW_BLOCKS - 1) / (2 * ROW_BLOCKS);
constexpr int BLOCK_ROWS = GRADIENT_HALVES * WARP_FRAGMENTS * 16;
constexpr int GRADIENT_WARP_COLUMNS = GRADIENT_COLUMNS / 4;
static_assert(GRADIENT_THREADS == 8 * WARP, "two halves of rows, four parts of columns");

struct Stage {
    uint4 hx[STAGE_TILES][BLOCK_ROWS];        // 8 rows of the batch for each
    uint4 da[STAGE_TILES][GRADIENT_COLUMNS];
};
static_assert(STAGES * sizeof(Stage) <= 48 * 1024, "static shared memory");

// Starts to copy a stage, if the part has one more; a group of copies in any case. Tiles beyond the last are zero.
DEVICE void fetch_stage(Stage& to, const uint4* hx, const uint4* da, int first, int tiles, bool wanted) {
    const int row0 = blockIdx.y % ROW_BLOCKS * BLOCK_ROWS, column0 = blockIdx.x * GRADIENT_COLUMNS;
    if (wanted) {
        for (int at = threadIdx.x; at < STAGE_TILES * BLOCK_ROWS; at += GRADIENT_THREADS) {
            const int tile = at / BLOCK_ROWS, row = at % BLOCK_ROWS;
            const bool inside = first + tile < tiles && row0 + row < UNITS + INPUTS;
            const uint4* from = hx + (size_t)(first + tile) * (UNITS + INPUTS) + row0 + row;
            if (inside) start_copy(shared_address(&to.hx[tile][row]), from);
            else to.hx[tile][row] = make_uint4(0, 0, 0, 0);
        }
        for (int at = threadIdx.x; at < STAGE_TILES * GRADIENT_COLUMNS; at += GRADIENT_THREADS) {
            const int tile = at / GRADIENT_COLUMNS, column = at % GRADIENT_COLUMNS;
            const bool inside = first + tile < tiles && column0 + column < GATES * UNITS;
            const uint4* from = da + (size_t)(first + tile) * GATES * UNITS + column0 + column;
            if (inside) start_copy(shared_address(&to.da[tile][column]), from);
            else to.da[tile][column] = make_uint4(0, 0, 0, 0);
        }
    }
    close_copies();
}

// The sums of a stage's tiles.
DEVICE void add_stage(float (&sum)[WARP_FRAGMENTS][2][4], const Stage& stage) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int half = warp % GRADIENT_HALVES, part = warp / GRADIENT_HALVES;
#pragma unroll
    for (int tile = 0; tile < STAGE_TILES; tile += 2) {
        // Of the columns: both tiles of the first 8, then of the next 8.
        const int column = part * GRADIENT_WARP_COLUMNS + lane / 16 * 8 + lane % 8;
        const uint4 b = load_matrices(shared_address(&stage.da[tile + lane / 8 % 2][column]));
#pragma unroll
        for (int fragment = 0; fragment < WARP_FRAGMENTS; fragment++) {
            const int row = (half * WARP_FRAGMENTS + fragment) * 16 + lane % 16;
            const uint4 a = load_matrices(shared_address(&stage.hx[tile + lane / 16][row]));
            multiply_add(sum[fragment][0], a, b.x, b.y);
            multiply_add(sum[fragment][1], a, b.z, b.w);
        }
    }
}

// Whether all other blocks of this model's column of the grid are done, so that this one sees what they wrote. At most one is
// told so, the last.
DEVICE bool is_last(u32* counters) {
    __shared__ u32 last;
    // What this block wrote is known to thread 0 before it counts.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(counters + blockIdx.x, 1u) == ROW_BLOCKS * gridDim.z - 1;
        __threadfence();
        if (last) counters[blockIdx.x] = 0;
    }
    __syncthreads();
    return last;
}

// Adds the parts of x's rows and of the bias, of this block's columns.
DEVICE void add_parts_of_inputs(const float* parts, float* __restrict__ d_fold, int I, int H, float scale) {
    for (int at = threadIdx.x; at < (I + 1) * GRADIENT_COLUMNS; at += GRADIENT_THREADS) {
        const int input = at / GRADIENT_COLUMNS, column = blockIdx.x * GRADIENT_COLUMNS + at % GRADIENT_COLUMNS;
        const int gate = column / TILE_ROWS % GATES, unit = column / (TILE_ROWS * GATES) * TILE_ROWS + column % TILE_ROWS;
        if (unit >= H) continue;
        const float* part = parts + (size_t)(UNITS + input) * GATES * UNITS + column;
        float sum = 0.0f;
#pragma unroll 8
        for (int s = 0; s < gridDim.z; s++) sum += part[(size_t)s * (UNITS + INPUTS) * GATES * UNITS];
        // Bytes went into the product without their scale; the 1 of the bias has none.
        d_fold[(size_t)input * GATES * H + gate * H + unit] = input < I ? sum * scale : sum;
    }
}

// `parts` is written and read: its loads must be plain ones, that see what other blocks wrote.
KERNEL(GRADIENT_THREADS)
persistent_weight_gradient(const uint4* hx, const uint4* da, float* parts, float* __restrict__ d_fold, u32* counters,
                           int tiles, int hx_tiles, int I, int H, float scale) {
    const size_t model = blockIdx.y / ROW_BLOCKS, part_size = (UNITS + INPUTS) * GATES * UNITS;
    hx += model * hx_tiles * (UNITS + INPUTS), da += model * tiles * (GATES * UNITS);
    parts += model * gridDim.z * part_size, d_fold += model * (I + 1) * GATES * H, counters += model * gridDim.x;
    __shared__ Stage stages[STAGES];
    follow_launches();
    const int all = (tiles + STAGE_TILES - 1) / STAGE_TILES;
    const int begin = (int)((long long)all * blockIdx.z / gridDim.z);
    const int end = (int)((long long)all * (blockIdx.z + 1) / gridDim.z);
    float sum[WARP_FRAGMENTS][2][4] = {};
#pragma unroll
    for (int n = 0; n < STAGES - 1; n++)
        fetch_stage(stages[n], hx, da, (begin + n) * STAGE_TILES, tiles, begin + n < end);
    for (int stage = begin; stage < end; stage++) {
        wait_for_copies<STAGES - 2>();
        // Now the stage is there, and nobody still reads the one before it, whose place the next one takes.
        __syncthreads();
        const int next = stage + STAGES - 1;
        fetch_stage(stages[(next - begin) % STAGES], hx, da, next * STAGE_TILES, tiles, next < end);
        add_stage(sum, stages[(stage - begin) % STAGES]);
    }
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int half = warp % GRADIENT_HALVES, part = warp / GRADIENT_HALVES;
    const int row0 = blockIdx.y % ROW_BLOCKS * BLOCK_ROWS;
    float* of_part = parts + (size_t)blockIdx.z * (UNITS + INPUTS) * GATES * UNITS;
#pragma unroll
    for (int fragment = 0; fragment < WARP_FRAGMENTS; fragment++)
#pragma unroll
        for (int side = 0; side < 2; side++)
#pragma unroll
            for (int lower = 0; lower < 2; lower++) {
                const int row = row0 + (half * WARP_FRAGMENTS + fragment) * 16 + lower * 8 + lane / 4;
                const int column = blockIdx.x * GRADIENT_COLUMNS + part * GRADIENT_WARP_COLUMNS + side * 8 + lane % 4 * 2;
                if (row >= UNITS + INPUTS || column >= GATES * UNITS) continue;
                float2* to = (float2*)(of_part + (size_t)row * GATES * UNITS + column);
                *to = make_float2(sum[fragment][side][lower * 2], sum[fragment][side][lower * 2 + 1]);
            }
    if (is_last(counters)) add_parts_of_inputs(parts, d_fold, I, H, scale);
}

// persistent_sum: adds the parts of W_h's gradient, for whoever wants it as it is: clipping, traces.
//
// Inputs   parts   f32 [S][UNITS + INPUTS][4 · UNITS]
// Outputs  d_w_h   f32 [H,G]
// Launch   grid ceil(H · G / 256), block 256; shared memory none
// Bounds   H · G below 2^31 - 256
// Sums     parts upwards
// CPU twin reference::rounded

constexpr int PARTS_THREADS = 256;

// The gradient of the weight from `unit`'s h to a gate of `of_gate`.
DEVICE float recurrent_gradient(const float* parts, int unit, int gate, int of_gate, int S) {
    const float* part = parts + (size_t)unit * GATES * UNITS + gate_row(gate, of_gate);
    float sum = 0.0f;
#pragma unroll 8
    for (int s = 0; s < S; s++) sum += part[(size_t)s * (UNITS + INPUTS) * GATES * UNITS];
    return sum;
}

KERNEL(PARTS_THREADS) persistent_sum(const float* __restrict__ parts, float* __restrict__ d_w_h, int S, int H) {
    const int at = blockIdx.x * PARTS_THREADS + threadIdx.x, G = GATES * H;
    if (at < H * G) d_w_h[at] = recurrent_gradient(parts, at / G, at % G / H, at % H, S);
}
