// persistent_pack: the weights of the recurrent products as operand tiles in bf16.
//
// Inputs   fold  f32 [J,G], the folded input weights and, as its last row, the bias; J = I + 1
//          w_h   f32 [H,G]
// Outputs  forward_weights   [FORWARD_TILES][WARPS][4][32 lanes] of uint4: rows are gates, columns x, bias parts and h
//          backward_weights  [BACKWARD_TILES][WARPS][32 lanes] of uint4: rows are units, columns gate rows
//          Each uint4 is a lane's part of an operand a of multiply_add. What is padded is zero.
// Launch   grid ceil(n / 256) for n = (4 · FORWARD_TILES + BACKWARD_TILES) · THREADS, block 256; shared memory none
// Bounds   H <= UNITS, I + 3 <= INPUTS
// Rounding bf16, to nearest even, of W_h, of fold · scale, and of the three parts of the bias
// CPU twin reference::rounded

constexpr int PACK_THREADS = 256;

// Part `part` of the bias: the three parts add up to all of its bits.
DEVICE float bias_part(float bias, int part) {
    const float first = rounded_to_bf16(bias), second = rounded_to_bf16(bias - first);
    return part == 0 ? first : part == 1 ? second : bias - first - second;
}

// Weight of gate `gate` of `unit` against row k of [x, bias parts, padding, h].
DEVICE float forward_weight(const float* __restrict__ fold, const float* __restrict__ w_h, int k, int gate, int unit, int I,
                            int H, float scale, float forget_bias) {
    const int column = gate * H + unit;
    if (unit >= H) return 0.0f;
    if (k >= INPUTS) return k - INPUTS < H ? w_h[(size_t)(k - INPUTS) * GATES * H + column] : 0.0f;
    if (k < I) return fold[(size_t)k * GATES * H + column] * scale;
    if (k >= I + BIAS_PARTS) return 0.0f;
    return bias_part(fold[(size_t)I * GATES * H + column] + (gate == GATE_F ? forget_bias : 0.0f), k - I);
}

KERNEL(PACK_THREADS)
persistent_pack(const float* __restrict__ fold, const float* __restrict__ w_h, uint4* __restrict__ forward_weights,
                uint4* __restrict__ backward_weights, int I, int H, float scale, float forget_bias) {
    constexpr int FORWARD = FORWARD_TILES * WARPS * 2 * GROUPS * WARP, BACKWARD = BACKWARD_TILES * THREADS;
    const int at = blockIdx.x * PACK_THREADS + threadIdx.x, lane = at % WARP;
    if (at >= FORWARD + BACKWARD) return;
    u32 words[4];
    const bool forward = at < FORWARD;
    const int m = at / WARP % (2 * GROUPS);
    const int warp = (forward ? at / (WARP * 2 * GROUPS) : (at - FORWARD) / WARP) % WARPS;
    const int k = forward ? at / (WARP * 2 * GROUPS * WARPS) : (at - FORWARD) / THREADS;
#pragma unroll
    for (int word = 0; word < 4; word++) {
        float pair[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int lower = word % 2, right = word / 2;
            if (forward) {
                const int gate = m % 2 * 2 + lower, unit = warp * WARP_UNITS + m / 2 * TILE_ROWS + lane / 4;
                const int column = k * DEPTH + right * 8 + lane % 4 * 2 + e;
                pair[e] = forward_weight(fold, w_h, column, gate, unit, I, H, scale, forget_bias);
            } else {
                const int unit = warp * WARP_UNITS + lower * TILE_ROWS + lane / 4;
                const int gate = k % 2 * 2 + right, of_gate = k / 2 * TILE_ROWS + lane % 4 * 2 + e;
                const bool inside = unit < H && of_gate < H;
                pair[e] = inside ? w_h[(size_t)unit * GATES * H + gate * H + of_gate] : 0.0f;
            }
        }
        words[word] = pair_of_bf16(pair[0], pair[1]);
    }
    (forward ? forward_weights : backward_weights - FORWARD)[at] = make_uint4(words[0], words[1], words[2], words[3]);
}
