// tf32_pack: recurrent weights as operand tiles in TF32.
//
// Inputs   w_h       f32 [H,G]
// Outputs  forward   TF32 [UNITS / 8][UNITS / 8][2][32][4]: for each group of units and each group of h its gates i and f, then g and o
//          backward  TF32 [UNITS / 16][UNITS / 8][4][32][4]: for each 16 units and each group of units its gates; lanes and words as
//                    multiply_add takes its operand a; padding is zero
// Launch   grid ceil(4 · UNITS · UNITS / 256), block 256
// Shared   none
// Bounds   1 <= H <= UNITS
// Rounding to nearest, ties away from zero
// CPU twin reference::rounded

constexpr int TF32_PACK_THREADS = 256;

KERNEL(TF32_PACK_THREADS)
tf32_pack(const float* __restrict__ w_h, u32* __restrict__ forward, u32* __restrict__ backward, int H) {
    const int at = blockIdx.x * TF32_PACK_THREADS + threadIdx.x;
    if (at >= GATES * UNITS * UNITS) return;
    const int word = at % 4, lane = at / 4 % WARP, tile = at / (4 * WARP);
    const int row = lane / 4, upper = word % 2, column = lane % 4 + word / 2 * 4;
    const size_t G = (size_t)GATES * H;
    {
        const int gate = tile % PAIRS * 2 + upper, k = tile / PAIRS % ALL_GROUPS * DEPTH + column;
        const int unit = tile / PAIRS / ALL_GROUPS * DEPTH + row;
        forward[at] = unit < H && k < H ? rounded_to_tf32(w_h[k * G + (size_t)gate * H + unit]) : 0;
    }
    const int gate = tile % GATES, of_unit = tile / GATES % ALL_GROUPS * DEPTH + column;
    const int unit = (tile / GATES / ALL_GROUPS * 2 + upper) * DEPTH + row;
    backward[at] = unit < H && of_unit < H ? rounded_to_tf32(w_h[unit * G + (size_t)gate * H + of_unit]) : 0;
}
