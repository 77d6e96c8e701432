// persistent_unpack: the gradient by the gates in f32 and in the model's own order, for checks and for the inputs' gradient.
//
// Inputs   da      bf16, see layout.cuh
// Outputs  da_f32  f32 [T,B,G]
// Launch   grid ceil(T · B · G / 256), block 256; shared memory none
// Bounds   T · B · G below 2^31 - 256
// Sums     none
// CPU twin reference::lstm::backward

constexpr int UNPACK_THREADS = 256;

KERNEL(UNPACK_THREADS)
persistent_unpack(const u32* __restrict__ da, float* __restrict__ da_f32, int B, int T, int H) {
    const int at = blockIdx.x * UNPACK_THREADS + threadIdx.x, G = GATES * H;
    if (at >= T * B * G) return;
    const int t = at / (B * G), row = at / G % B, gate = at % G / H, unit = at % H;
    const int tiles = (B + TILE_ROWS - 1) / TILE_ROWS;
    const u32* of_tile = da + ((size_t)t * tiles + row / TILE_ROWS) * DA_WORDS;
    const u32 pair = of_tile[gate_row(gate, unit) * ROW_WORDS + row % TILE_ROWS / 2];
    da_f32[at] = __uint_as_float(row % 2 ? pair & 0xffff0000u : pair << 16);
}
