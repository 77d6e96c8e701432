// adam: one step of Adam in TensorFlow's form, over the flat parameters.
//
//     g = gradient · clip
//     m = β1·m + (1-β1)·g      v = β2·v + (1-β2)·g²      θ = kept · θ - step_size · m / (sqrt(v) + ε)
//
// Inputs   gradient    f32 [n]
//          step_sizes  f32 [S], lr · sqrt(1 - β2^t) / (1 - β1^t) of S steps, worked out in double precision on the host
//          turn        u32 [1], which of the S steps this is
//          clip        f32 [1], what the gradients are multiplied by; null where nothing is clipped
//          kept        f32 [S], what the decay leaves of θ at S steps; null where nothing decays
// In, out  parameters, m, v  f32 [n]
// Launch   grid ceil(n / 256), block 256; shared memory none
// Bounds   n from 1 to 2^31 - 256
// Sums     none; root and division are the accurate ones
// CPU twin reference::adam::step

constexpr int ADAM_THREADS = 256;

KERNEL(ADAM_THREADS)
adam(const float* __restrict__ gradient, const float* __restrict__ step_sizes, const u32* __restrict__ turn,
     const float* __restrict__ clip, float* __restrict__ parameters, float* __restrict__ m, float* __restrict__ v,
     int n, float beta1, float rest1, float beta2, float rest2, float epsilon, const float* __restrict__ kept) {
    const int at = blockIdx.x * ADAM_THREADS + threadIdx.x;
    if (at >= n) return;
    const float g = clip != nullptr ? gradient[at] * *clip : gradient[at];
    const float mean = beta1 * m[at] + rest1 * g;
    const float square = beta2 * v[at] + rest2 * g * g;
    m[at] = mean;
    v[at] = square;
    const float step = step_sizes[*turn] * mean / (sqrtf(square) + epsilon);
    parameters[at] = (kept != nullptr ? kept[*turn] : 1.0f) * parameters[at] - step;
}

// squared_norm_parts: parts[block] = Σ gradient² over that block's share; clip_factor adds the parts.
//
// Inputs   gradient f32 [n]     Outputs  parts f32 [number of blocks]
// Launch   grid 1 to 1024 blocks, block 256; the number of blocks is part of the summation order, so it depends on n alone
// Shared   32 bytes, static
// Bounds   n from 1 to 2^31 - 1
// Sums     each thread's elements upwards, a grid apart; then block_sum's order
// CPU twin the norm in reference::adam::step

KERNEL(ADAM_THREADS)
squared_norm_parts(const float* __restrict__ gradient, float* __restrict__ parts, int n) {
    float sum = 0.0f;
    const size_t stride = (size_t)gridDim.x * ADAM_THREADS;
    for (size_t at = (size_t)blockIdx.x * ADAM_THREADS + threadIdx.x; at < n; at += stride)
        sum = fmaf(gradient[at], gradient[at], sum);
    const float total = block_sum<ADAM_THREADS>(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = total;
}

// clip_factor: clip[0] = max_norm / max(sqrt(Σ parts), max_norm)
//
// Inputs   parts f32 [count]    Outputs  clip f32 [1]
// Launch   grid 1, block 256
// Shared   32 bytes, static
// Bounds   count >= 1, max_norm > 0
// Sums     each thread's parts upwards, 256 apart; then block_sum's order
// CPU twin optimizer::Adam::clip_factor

KERNEL(ADAM_THREADS) clip_factor(const float* __restrict__ parts, float* __restrict__ clip, int count, float max_norm) {
    float sum = 0.0f;
    for (int at = threadIdx.x; at < count; at += ADAM_THREADS) sum += parts[at];
    const float total = block_sum<ADAM_THREADS>(sum);
    if (threadIdx.x == 0) *clip = max_norm / fmaxf(sqrtf(total), max_norm);
}

// advance: turn[0] += 1, the last launch of an iteration: a captured graph then does the next one when it is replayed.
//
// In, out  turn u32 [1]         Launch  grid 1, block 1
// CPU twin the loop over steps in Engine::train_steps

KERNEL(1) advance(u32* __restrict__ turn) {
    *turn += 1;
}
