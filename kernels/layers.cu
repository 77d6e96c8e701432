// layers: what lies between LSTM layers, and between the last one and the head.
//
// A cell is one layer in one direction. All that is kept of its steps is in its reading order: place n is step n, or step
// T - 1 - n of a reversed cell; its states h [T+1,B,H] have the initial one in slot 0. D = 1 or 2 directions make the layer's
// output [T,B,D·H]: unit u of direction d is column d·H + u.
// All kernels here use blocks of LAYERS_THREADS threads; shared memory none.

constexpr int LAYERS_THREADS = 256;

// A step's place in the reading order, and the other way round.
DEVICE int place_of(int t, int T, int reversed) {
    return reversed ? T - 1 - t : t;
}

// What dropout multiplies the output `column` of `layer` by, for row b at step t: Philox4x32-10 (Salmon et al. 2011), of whose
// four words the column takes its own. Twin: dropout::Mask::factors.
DEVICE float dropout_factor(const u32* __restrict__ key, int layer, int b, int t, int column, u32 threshold,
                            float scale) {
    u32 word[4] = {(u32)column / 4, (u32)t, (u32)b, (u32)layer};
    u32 k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const u32 high0 = __umulhi(0xD2511F53u, word[0]), low0 = 0xD2511F53u * word[0];
        const u32 high1 = __umulhi(0xCD9E8D57u, word[2]), low1 = 0xCD9E8D57u * word[2];
        word[0] = high1 ^ word[1] ^ k0, word[1] = low1;
        word[2] = high0 ^ word[3] ^ k1, word[3] = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const int own = column % 4;
    const u32 mine = own < 2 ? (own == 0 ? word[0] : word[1]) : (own == 2 ? word[2] : word[3]);
    return mine < threshold ? 0.0f : scale;
}

// layer_inputs: what a cell reads of the layer below.
//
// Inputs   h, h_back  f32 [T+1,B,H], states of the layer below; h_back is null where there is one direction
//          keys       u32 [S,2], of dropout at S steps; null where nothing is left out
//          turn       u32 [1], which of the S steps this is
// Outputs  x          f32 [T,B,J], in the cell's reading order, J = D·H + 1: the last of each row is 1, for the bias
// Launch   grid ceil(T·B·J / 256), block 256
// Bounds   T, B, H >= 1; offsets are 64 bits wide
// Sums     none
// CPU twin cpu::stack::Room::read_layer_below

KERNEL(LAYERS_THREADS)
layer_inputs(const float* __restrict__ h, const float* __restrict__ h_back, const u32* __restrict__ keys,
             const u32* __restrict__ turn, float* __restrict__ x, int T, int B, int H, int layer, int reversed,
             u32 threshold, float scale) {
    const int width = h_back != nullptr ? 2 * H : H, J = width + 1;
    const size_t n = (size_t)blockIdx.x * LAYERS_THREADS + threadIdx.x;
    if (n >= (size_t)T * B * J) return;
    const int column = (int)(n % J), b = (int)(n / J % B), t = place_of((int)(n / J / B), T, reversed);
    float value = 1.0f;
    if (column < width) {
        const bool back = column >= H;
        const size_t slot = (size_t)(place_of(t, T, back) + 1) * B + b;
        value = (back ? h_back : h)[slot * H + (back ? column - H : column)];
        if (keys != nullptr) value *= dropout_factor(keys + 2 * *turn, layer, b, t, column, threshold, scale);
    }
    x[n] = value;
}

// layer_gradients: the gradient by the states of a cell, from those by what the cells of the layer above read.
//
// Inputs   dx, dx_back  f32 [T,B,D·H], in the reading order of each cell above; dx_back is null where there is one
//          keys, turn   as layer_inputs
// Outputs  dh           f32 [T,B,H], in the cell's reading order
// Launch   grid ceil(T·B·H / 256), block 256
// Bounds   T, B, H >= 1; offsets are 64 bits wide
// Sums     the forward direction's, then the other one's
// CPU twin cpu::stack::Room::to_layer_below

KERNEL(LAYERS_THREADS)
layer_gradients(const float* __restrict__ dx, const float* __restrict__ dx_back, const u32* __restrict__ keys,
                const u32* __restrict__ turn, float* __restrict__ dh, int T, int B, int H, int layer, int reversed,
                u32 threshold, float scale) {
    const int width = dx_back != nullptr ? 2 * H : H;
    const size_t n = (size_t)blockIdx.x * LAYERS_THREADS + threadIdx.x;
    if (n >= (size_t)T * B * H) return;
    const int b = (int)(n / H % B), t = place_of((int)(n / H / B), T, reversed);
    const int column = (int)(n % H) + (reversed ? H : 0);
    float sum = dx[((size_t)t * B + b) * width + column];
    if (dx_back != nullptr) sum += dx_back[((size_t)place_of(t, T, 1) * B + b) * width + column];
    if (keys != nullptr) sum *= dropout_factor(keys + 2 * *turn, layer, b, t, column, threshold, scale);
    dh[n] = sum;
}

// pool: what the head reads of a cell of the last layer. POOL_LAST: its last state; POOL_MEAN, POOL_MAX: the mean or the
// largest of its states over the steps of the sequence.
//
// Inputs   h        f32 [T+1,B,H]
//          lengths  u32 [B], from 1 to T; null where all have T
// Outputs  pooled   f32 [B,width], of which columns `first` to first + H - 1 are written
// Launch   grid ceil(B·H / 256), block 256
// Bounds   T, B, H >= 1; offsets are 64 bits wide
// Sums     steps upwards, from the sequence's first
// CPU twin reference::pool::forward

constexpr int POOL_LAST = 0, POOL_MEAN = 1, POOL_MAX = 2;

KERNEL(LAYERS_THREADS)
pool(const float* __restrict__ h, const u32* __restrict__ lengths, float* __restrict__ pooled, int T, int B, int H,
     int width, int first, int reversed, int kind) {
    const size_t n = (size_t)blockIdx.x * LAYERS_THREADS + threadIdx.x;
    if (n >= (size_t)B * H) return;
    const int b = (int)(n / H), unit = (int)(n % H);
    const size_t step = (size_t)B * H;
    const int length = lengths != nullptr ? (int)lengths[b] : T;
    float value = h[(size_t)T * step + n];
    if (kind != POOL_LAST) {
        value = h[(size_t)(place_of(0, T, reversed) + 1) * step + n];
        for (int t = 1; t < length; t++) {
            const float other = h[(size_t)(place_of(t, T, reversed) + 1) * step + n];
            value = kind == POOL_MEAN ? value + other : (other > value ? other : value);
        }
        if (kind == POOL_MEAN) value /= (float)length;
    }
    pooled[(size_t)b * width + first + unit] = value;
}

// unpool: the gradient by the states of a cell of the last layer, from that by what the head reads.
//
// Inputs   h, lengths        as pool
//          pooled, d_pooled  f32 [B,width], of which columns `first` to first + H - 1 are read
// Outputs  dh                f32 [T,B,H], in the cell's reading order
// Launch   grid ceil(B·H / 256), block 256
// Bounds   T, B, H >= 1; offsets are 64 bits wide
// Sums     none. The maximum's gradient goes to the first of equal steps
// CPU twin reference::pool::backward

KERNEL(LAYERS_THREADS)
unpool(const float* __restrict__ h, const u32* __restrict__ lengths, const float* __restrict__ pooled,
       const float* __restrict__ d_pooled, float* __restrict__ dh, int T, int B, int H, int width, int first,
       int reversed, int kind) {
    const size_t n = (size_t)blockIdx.x * LAYERS_THREADS + threadIdx.x;
    if (n >= (size_t)B * H) return;
    const int b = (int)(n / H), unit = (int)(n % H);
    const size_t step = (size_t)B * H, at = (size_t)b * width + first + unit;
    const int length = lengths != nullptr ? (int)lengths[b] : T;
    const float d = d_pooled[at];
    int chosen = reversed ? 0 : length - 1;
    if (kind == POOL_MAX) {
        chosen = length - 1;
        for (int t = length - 2; t >= 0; t--)
            if (h[(size_t)(place_of(t, T, reversed) + 1) * step + n] == pooled[at]) chosen = t;
    }
    for (int t = 0; t < T; t++) {
        const float given = kind == POOL_MEAN ? (t < length ? d / (float)length : 0.0f) : (t == chosen ? d : 0.0f);
        dh[(size_t)place_of(t, T, reversed) * step + n] = given;
    }
}
