// softmax_xent: loss, predicted class and gradient of every row, in one pass over the logits.
//
//     loss[b] = log Σ_k exp(l_k) - l[label]      predicted[b] = class of the largest logit, of equal ones the first
//     dlogits = (softmax(l) - onehot(label)) · scale
//
// With label smoothing ε > 0 the target is (1 - ε) · onehot(label) + ε/K instead of onehot(label):
//
//     loss[b] = log Σ_k exp(l_k) - (1 - ε) · l[label] - ε/K · Σ_k l_k
//
// Inputs   logits  f32 [B,K]
//          labels  u32 [B], each below K
// Outputs  loss       f32 [B]
//          predicted  u32 [B]
//          dlogits    f32 [B,K]; may be null (evaluation), then it is not written
// Launch   grid ceil(B / 8), block 256: one warp for each row, whose lanes take the classes lane, lane + 32, …
// Shared   none
// Bounds   B, K >= 1; B below 2^31 - 8
// Sums     each lane's classes upwards, then a tree over the lanes. The largest logit is subtracted first, so that no
//          exponential overflows. A NaN among the logits makes the loss NaN; the class is then any
// CPU twin reference::softmax_xent

constexpr int SOFTMAX_THREADS = 256;
constexpr int SOFTMAX_ROWS = SOFTMAX_THREADS / WARP;
static_assert(SOFTMAX_ROWS * WARP == SOFTMAX_THREADS, "whole warps");

// Largest logit of a row and, of those equal to it, the first class; every lane of the warp gets the largest, lane 0 the
// class.
DEVICE float largest(const float* __restrict__ logits, int K, int lane, int& best) {
    float value = lane < K ? logits[lane] : -__int_as_float(0x7f800000);
    best = lane < K ? lane : K - 1;
    for (int k = lane + WARP; k < K; k += WARP)
        if (logits[k] > value) value = logits[k], best = k;
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, value, distance);
        const int other_best = __shfl_xor_sync(ALL_LANES, best, distance);
        if (other > value || (other == value && other_best < best)) value = other, best = other_best;
    }
    // With a NaN the lanes may disagree; what follows must not depend on who saw it.
    return warp_max(value);
}

// Σ_k exp(l_k - max), in every lane.
DEVICE float sum_of_exps(const float* __restrict__ logits, int K, int lane, float max) {
    float sum = 0.0f;
    for (int k = lane; k < K; k += WARP) sum += expf(logits[k] - max);
    return warp_sum(sum);
}

KERNEL(SOFTMAX_THREADS)
softmax_xent(const float* __restrict__ logits, const u32* __restrict__ labels, float* __restrict__ loss,
             u32* __restrict__ predicted, float* __restrict__ dlogits, int B, int K, float scale, float smoothing) {
    const int lane = threadIdx.x % WARP;
    const int row = blockIdx.x * SOFTMAX_ROWS + threadIdx.x / WARP;
    // A whole warp leaves or stays: the shuffles below have all their lanes.
    if (row >= B) return;
    const float* of_row = logits + (size_t)row * K;
    const int label = (int)labels[row];
    int best;
    const float max = largest(of_row, K, lane, best);
    const float sum = sum_of_exps(of_row, K, lane, max);
    const float spread = smoothing / (float)K;
    // By how much all logits together are below the largest: nothing overflows.
    float below = 0.0f;
    if (smoothing > 0.0f) {
        for (int k = lane; k < K; k += WARP) below += max - of_row[k];
        below = warp_sum(below);
    }
    if (lane == 0) {
        const float target = (1.0f - smoothing) * (max - of_row[label]) + spread * below;
        loss[row] = smoothing > 0.0f ? logf(sum) + target : logf(sum) + max - of_row[label];
        predicted[row] = (u32)best;
    }
    if (dlogits == nullptr) return;
    for (int k = lane; k < K; k += WARP) {
        const float probability = expf(of_row[k] - max) / sum;
        const float target = (k == label ? 1.0f - smoothing : 0.0f) + spread;
        dlogits[(size_t)row * K + k] = (probability - target) * scale;
    }
}

// softmax: probabilities[b,k] = exp(l_k) / Σ exp(l), for predictions; launch, bounds and sums as softmax_xent.
//
// Inputs   logits f32 [B,K]     Outputs  probabilities f32 [B,K]
// CPU twin reference::softmax_xent::softmax

KERNEL(SOFTMAX_THREADS)
softmax(const float* __restrict__ logits, float* __restrict__ probabilities, int B, int K) {
    const int lane = threadIdx.x % WARP;
    const int row = blockIdx.x * SOFTMAX_ROWS + threadIdx.x / WARP;
    if (row >= B) return;
    const float* of_row = logits + (size_t)row * K;
    int best;
    const float max = largest(of_row, K, lane, best);
    const float sum = sum_of_exps(of_row, K, lane, max);
    for (int k = lane; k < K; k += WARP) probabilities[(size_t)row * K + k] = expf(of_row[k] - max) / sum;
}

// batch_metrics: what a training step tells, kept on the device until it is asked for.
//
//     mean_loss[turn] = Σ_b loss[b] / B        correct[turn] = how many predicted[b] = labels[b]
//
// Inputs   loss f32 [B], predicted u32 [B], labels u32 [B], turn u32 [1], below S
// Outputs  mean_loss f32 [S], correct u32 [S], only element `turn` of each
// Launch   grid 1, block 256
// Shared   64 bytes, static
// Bounds   B >= 1, below 2^31 - 256
// Sums     each thread's rows thread, thread + 256, … upwards; then block_sum's order. The count is whole numbers, exact
// CPU twin reference::ReferenceEngine's metrics

constexpr int METRICS_THREADS = 256;

KERNEL(METRICS_THREADS)
batch_metrics(const float* __restrict__ loss, const u32* __restrict__ predicted, const u32* __restrict__ labels,
              const u32* __restrict__ turn, float* __restrict__ mean_loss, u32* __restrict__ correct, int B) {
    __shared__ u32 counts[METRICS_THREADS / WARP];
    float sum = 0.0f;
    u32 count = 0;
    for (int row = threadIdx.x; row < B; row += METRICS_THREADS) {
        sum += loss[row];
        count += predicted[row] == labels[row];
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) count += __shfl_xor_sync(ALL_LANES, count, distance);
    if (threadIdx.x % WARP == 0) counts[threadIdx.x / WARP] = count;
    // Its barrier is also the one between writing and reading `counts`.
    const float total = block_sum<METRICS_THREADS>(sum);
    if (threadIdx.x != 0) return;
    u32 right = 0;
    for (int warp = 0; warp < METRICS_THREADS / WARP; warp++) right += counts[warp];
    mean_loss[*turn] = total / (float)B;
    correct[*turn] = right;
}
