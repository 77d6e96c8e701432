// gather: brings the sequences of a batch, by index, into the layout the LSTM reads.
//
//     x[t,b,i] = sequences[row(b), t, i] · scale        x[t,b,I] = 1        batch_labels[b] = labels[row(b)]
//     row(b) = rows[turn · B + b]
//
// The 1 after each step's inputs stands for the bias: with J = I + 1, the product of x and the folded input weights
// [J,G] has the bias in it, and the product xᵀ · da has the bias's gradient as its last row.
// Time comes first, so that one step is one dense matrix [B,J] and all steps are one dense matrix [T·B,J].
//
// Inputs   sequences  u8 or f32 [N,T,I]
//          labels     u32 [N]; may be null, then batch_labels is not written
//          rows       u32 [S,B], the batches of S steps; each below N (the launcher checks)
//          turn       u32 [1], which of the S batches; on the device, so that a captured graph can be replayed
//          lengths    u32 [N], steps of each sequence, from 1 to T; null where all have T. x is 0 at the steps beyond
//          reversed   whether the last step comes first: x is in the order in which a cell reads it
// Outputs  x          f32 [T,B,J]
//          batch_labels  u32 [B]
//          batch_lengths u32 [B]; may be null
// Launch   grid (ceil(T·B·J / 256), at most 2^31 - 1), block 256; shared memory none
// Bounds   B, T, I, N, S >= 1; offsets are 64 bits wide
// Sums     none. The product byte · scale is rounded to f32, as in the reference
// CPU twin reference::inputs

constexpr int GATHER_THREADS = 256;

template <typename Value>
DEVICE void gather(const Value* __restrict__ sequences, const u32* __restrict__ labels, const u32* __restrict__ rows,
                   const u32* __restrict__ turn, float* __restrict__ x, u32* __restrict__ batch_labels, int B, int T,
                   int I, float scale, const u32* __restrict__ lengths, u32* __restrict__ batch_lengths,
                   int reversed) {
    const int J = I + 1;
    const size_t n = (size_t)blockIdx.x * GATHER_THREADS + threadIdx.x;
    if (n >= (size_t)T * B * J) return;
    const int i = (int)(n % J);
    const size_t step_row = n / J;
    const int b = (int)(step_row % B);
    const int place = (int)(step_row / B);
    const int t = reversed ? T - 1 - place : place;
    const u32 row = rows[(size_t)*turn * B + b];
    const bool over = lengths != nullptr && t >= lengths[row];
    float value = 1.0f;
    if (i < I) value = over ? 0.0f : (float)sequences[((size_t)row * T + t) * I + i] * scale;
    x[n] = value;
    if (place != 0 || i != 0) return;
    if (labels != nullptr) batch_labels[b] = labels[row];
    if (batch_lengths != nullptr) batch_lengths[b] = lengths[row];
}

KERNEL(GATHER_THREADS)
gather_bytes(const u8* __restrict__ sequences, const u32* __restrict__ labels, const u32* __restrict__ rows,
             const u32* __restrict__ turn, float* __restrict__ x, u32* __restrict__ batch_labels, int B, int T, int I,
             float scale, const u32* __restrict__ lengths, u32* __restrict__ batch_lengths, int reversed) {
    gather(sequences, labels, rows, turn, x, batch_labels, B, T, I, scale, lengths, batch_lengths, reversed);
}

// As gather_bytes, for sequences that are numbers already; the launcher passes scale 1.
KERNEL(GATHER_THREADS)
gather_floats(const float* __restrict__ sequences, const u32* __restrict__ labels, const u32* __restrict__ rows,
              const u32* __restrict__ turn, float* __restrict__ x, u32* __restrict__ batch_labels, int B, int T, int I,
              float scale, const u32* __restrict__ lengths, u32* __restrict__ batch_lengths, int reversed) {
    gather(sequences, labels, rows, turn, x, batch_labels, B, T, I, scale, lengths, batch_lengths, reversed);
}
