// sequence_pack: recurrent weights as the threads of the sequence kernels hold them.
//
// Inputs   w_h       f32 [H,G]
// Outputs  forward, backward  f32 [CLUSTER][PLACES][THREADS][4], as layout.cuh tells; padding is zero
// Launch   grid ceil(CLUSTER · PLACES · THREADS · 4 / 256), block 256
// Shared   none
// Bounds   1 <= H <= UNITS
// CPU twin none: it moves numbers

constexpr int SEQUENCE_PACK_THREADS = 256;

KERNEL(SEQUENCE_PACK_THREADS)
sequence_pack(const float* __restrict__ w_h, float* __restrict__ forward, float* __restrict__ backward, int H) {
    const int at = blockIdx.x * SEQUENCE_PACK_THREADS + threadIdx.x;
    if (at >= CLUSTER * PLACES * THREADS * VECTOR) return;
    const int e = at % VECTOR, thread = at / VECTOR % THREADS, place = at / VECTOR / THREADS % PLACES;
    const int unit0 = at / VECTOR / THREADS / PLACES * BLOCK_UNITS;
    const int n = place % 4, own_chain = place / 4 % OWN_CHAINS, round = place / 4 / OWN_CHAINS;
    const size_t G = (size_t)GATES * H;
    {
        const int gate = n, unit = unit0 + thread / LANES;
        const int k = (round * CHAINS + own_chain * LANES + thread % LANES) * VECTOR + e;
        forward[at] = unit < H && k < H ? w_h[k * G + (size_t)gate * H + unit] : 0.0f;
    }
    const int unit = unit0 + thread / BACKWARD_LANES * BACKWARD_UNITS + n;
    const int column = (round * BACKWARD_CHAINS + own_chain * BACKWARD_LANES + thread % BACKWARD_LANES) * VECTOR + e;
    const int gate = column / 16 % GATES, of_unit = column / (16 * GATES) * 16 + column % 16;
    backward[at] = unit < H && of_unit < H ? w_h[unit * G + (size_t)gate * H + of_unit] : 0.0f;
}
