// What every kernel file may use: short names of types, sums over a warp, activations.
//
// This file is put before all the others; there are no include lines and no CUDA headers. All sums here have one fixed
// order: the same input gives the same bits.

typedef unsigned char u8;
typedef unsigned int u32;

// A kernel that Rust finds by its plain name, for blocks of at most so many threads; a second number, of blocks that a
// multiprocessor has room for at least, lets the compiler take the registers that they leave.
#define KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
#define DEVICE static __device__ __forceinline__

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// 1 / (1 + e^-x), with the accurate exponential and division: 0 and 1 in the limits, never NaN for a number.
DEVICE float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// Four neighbouring numbers of shared memory in one load; `from` must be a multiple of 16 bytes.
DEVICE void load_four(float (&to)[4], const float* from) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

// Sum over the lanes of a warp; every lane gets it. Order: a tree over lanes 16, 8, 4, 2, 1 apart.
DEVICE float warp_sum(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// Largest value over the lanes of a warp; every lane gets it.
DEVICE float warp_max(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

// Sum over the THREADS of a one-dimensional block, which all must call it; thread 0 gets it. Order: within each warp as
// `warp_sum`, then warp after warp. May be called again only after a barrier.
template <int THREADS>
DEVICE float block_sum(float value) {
    static_assert(THREADS % WARP == 0, "whole warps");
    __shared__ float warps[THREADS / WARP];
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = value;
    __syncthreads();
    float sum = 0.0f;
    if (threadIdx.x == 0)
        for (int warp = 0; warp < THREADS / WARP; warp++) sum += warps[warp];
    return sum;
}
