// persistent_update: gradients of all parameters from what the launches before left of them, one step of Adam, and the recurrent
// weights as the next iteration's operands; and the batch's loss and count.
//
//     dW_h = Σ parts        dW_x = [W_in; b_in]ᵀ · d_fold      d[W_in; b_in] = d_fold · W_xᵀ      db = last row of d_fold
//     d[W_out; b_out] = Σ head_parts
//     m, v, θ as in adam;   mean_loss[turn], correct[turn] as in batch_metrics
//
// dW_x of a row p needs column p of [W_in; b_in], and the gradient of that column needs row p of W_x, as they were: one block
// owns both, reads them before a barrier and writes them after it.
//
// Inputs   parts, d_fold     as persistent_weight_gradient leaves them
//          head_parts        f32 [tiles][(H+1) · K]
//          loss, predicted, labels   f32, u32, u32 [B]
//          step_sizes, turn  f32 [S',M], u32 [1], as in adam
// In, out  parameters, m, v  f32 [n]; at_… is where a tensor begins in each
// Outputs  forward_weights, backward_weights   bf16, the places of W_h, see layout.cuh
//          mean_loss, correct   f32, u32 [S',M]
// Launch   grid (H + P + ceil((G + (H+1) · K) / 256) + 1, M), block 256
// Shared   4 · (INPUTS + 4 · UNITS) + 64 bytes, static
// Bounds   H <= UNITS, I + 3 <= INPUTS, P >= 1
// Sums     parts and tiles upwards; rows of d_fold upwards; of columns each lane's upwards, 32 apart, then warp_sum's order
// CPU twin reference::rounded, reference::adam

constexpr int UPDATE_THREADS = 256;

struct Optimizer {
    float *parameters, *m, *v;
    float step_size, beta1, rest1, beta2, rest2, epsilon;
};

// One step of one parameter, as in adam.cu; its new value.
DEVICE float update(const Optimizer& adam, size_t at, float gradient) {
    const float mean = adam.beta1 * adam.m[at] + adam.rest1 * gradient;
    const float square = adam.beta2 * adam.v[at] + adam.rest2 * gradient * gradient;
    adam.m[at] = mean;
    adam.v[at] = square;
    return adam.parameters[at] -= adam.step_size * mean / (sqrtf(square) + adam.epsilon);
}

// Row `unit` of W_h.
DEVICE void update_recurrent(const Optimizer& adam, const float* parts, u16* __restrict__ forward_weights,
                             u16* __restrict__ backward_weights, int unit, int S, int H) {
    for (int column = threadIdx.x; column < GATES * H; column += UPDATE_THREADS) {
        const int gate = column / H, of_gate = column % H;
        const float gradient = recurrent_gradient(parts, unit, gate, of_gate, S);
        const u16 weight = bits_of_bf16(update(adam, (size_t)unit * GATES * H + column, gradient));
        forward_weights[forward_place(INPUTS + unit, gate, of_gate)] = weight;
        backward_weights[backward_place(unit, gate, of_gate)] = weight;
    }
}

// Row p of W_x, and column p of [W_in; b_in].
DEVICE void update_input(const Optimizer& of_w_x, const Optimizer& of_input, const float* d_fold, int p, int J, int P,
                         int G) {
    __shared__ float column_in[INPUTS];
    __shared__ float row_x[GATES * UNITS];
    for (int j = threadIdx.x; j < J; j += UPDATE_THREADS) column_in[j] = of_input.parameters[(size_t)j * P + p];
    for (int n = threadIdx.x; n < G; n += UPDATE_THREADS) row_x[n] = of_w_x.parameters[(size_t)p * G + n];
    // From here on both are what they were, whatever is written to the parameters.
    __syncthreads();
    for (int n = threadIdx.x; n < G; n += UPDATE_THREADS) {
        float gradient = 0.0f;
#pragma unroll 8
        for (int j = 0; j < J; j++) gradient = fmaf(column_in[j], d_fold[(size_t)j * G + n], gradient);
        update(of_w_x, (size_t)p * G + n, gradient);
    }
    const int lane = threadIdx.x % WARP;
    for (int j = threadIdx.x / WARP; j < J; j += UPDATE_THREADS / WARP) {
        float sum = 0.0f;
#pragma unroll 4
        for (int n = lane; n < G; n += WARP) sum = fmaf(d_fold[(size_t)j * G + n], row_x[n], sum);
        const float gradient = warp_sum(sum);
        if (lane == 0) update(of_input, (size_t)j * P + p, gradient);
    }
}

// Mean loss and count of the batch. As in batch_metrics.
DEVICE void measure(const float* loss, const u32* predicted, const u32* labels, float* __restrict__ mean_loss,
                    u32* __restrict__ correct, int B) {
    __shared__ u32 counts[UPDATE_THREADS / WARP];
    float sum = 0.0f;
    u32 count = 0;
    for (int row = threadIdx.x; row < B; row += UPDATE_THREADS) {
        sum += loss[row];
        count += predicted[row] == labels[row];
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) count += __shfl_xor_sync(ALL_LANES, count, distance);
    if (threadIdx.x % WARP == 0) counts[threadIdx.x / WARP] = count;
    // Its barrier is the one that counts need.
    const float total = block_sum<UPDATE_THREADS>(sum);
    if (threadIdx.x != 0) return;
    u32 right = 0;
    for (int warp = 0; warp < UPDATE_THREADS / WARP; warp++) right += counts[warp];
    *mean_loss = total / (float)B;
    *correct = right;
}

KERNEL(UPDATE_THREADS)
persistent_update(const float* parts, const float* d_fold, const float* head_parts, const float* loss, const u32* predicted,
                  const u32* labels, const float* __restrict__ step_sizes, const u32* turn, float* parameters, float* m,
                  float* v, u16* __restrict__ forward_weights, u16* __restrict__ backward_weights,
                  float* __restrict__ mean_loss, u32* __restrict__ correct, int S, int tiles, int B, int I, int P, int H,
                  int K, int at_input, int at_w_x, int at_w_h, int at_b, int at_head, int model_size, float beta1,
                  float rest1, float beta2, float rest2, float epsilon) {
    follow_launches();
    const int G = GATES * H, J = I + 1;
    const size_t model = blockIdx.y, of_turn = *turn * (size_t)gridDim.y + model;
    parts += model * S * (UNITS + INPUTS) * GATES * UNITS, d_fold += model * J * G, head_parts += model * tiles * (H + 1) * K;
    loss += model * B, predicted += model * B, labels += model * B;
    parameters += model * model_size, m += model * model_size, v += model * model_size;
    forward_weights += model * FORWARD_NUMBERS, backward_weights += model * BACKWARD_NUMBERS;
    const float step_size = step_sizes[of_turn];
    auto of = [&](int at) {
        return Optimizer{parameters + at, m + at, v + at, step_size, beta1, rest1, beta2, rest2, epsilon};
    };
    const int block = blockIdx.x;
    if (block < H) {
        update_recurrent(of(at_w_h), parts, forward_weights, backward_weights, block, S, H);
    } else if (block < H + P) {
        update_input(of(at_w_x), of(at_input), d_fold, block - H, J, P, G);
    } else if (block == gridDim.x - 1) {
        measure(loss, predicted, labels, mean_loss + of_turn, correct + of_turn, B);
    } else {
        const int at = (block - H - P) * UPDATE_THREADS + threadIdx.x, head = at - G, size = (H + 1) * K;
        if (at < G) update(of(at_b), at, d_fold[(size_t)I * G + at]);
        if (head < 0 || head >= size) return;
        float gradient = 0.0f;
#pragma unroll 8
        for (int tile = 0; tile < tiles; tile++) gradient += head_parts[(size_t)tile * size + head];
        update(of(at_head), head, gradient);
    }
}
