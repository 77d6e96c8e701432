// Probes of one GPU: how long an instruction takes, and how many of them go through at once. `fused-lstm bench micro` runs
// them. They compute nothing that training needs, so they are no part of the kernels' text: build.rs joins only the files of
// the folder above.
//
// What all of them share, except `empty` and `dependent`:
//
// Inputs   rounds     int, 0 or more: each chain makes 16 · rounds steps (STEPS)
// Outputs  clocks     u64 [blocks, warps, 2], the multiprocessor's clock when a warp began its steps and when it had issued
//                     the last one
//          kept       u32 [blocks, threads], what a thread's chains came to: it keeps them alive, and tells a test how many
//                     steps were made
// Launch   grid (blocks), block a multiple of 32, at most 512 threads where nothing else is said
// Bounds   16 · rounds · chains below 2^31
// Sums     none that matter
// CPU twin none; tests/micro.rs works out what `kept` must be
//
// The chains of a thread do not depend on each other, and each step depends on the one before it in its chain. They start
// from different values: equal ones would be computed once for all. Loads are told from each other by their addresses.

typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
#define PROBE(threads) extern "C" __global__ void __launch_bounds__(threads)

constexpr int WARP = 32;
// Steps of a chain in a round, written out one after the other: the loop's own instructions are few beside them.
constexpr int STEPS = 16;
constexpr int THREADS = 512;
constexpr int WORDS = 1024;
// A word's successor in a chase through shared memory: the lanes of a warp stay in banks of their own.
constexpr int STRIDE = 33;
constexpr int ROWS = 64;
constexpr int ROW_STRIDE = 9;
constexpr int ROW_BYTES = 16;

DEVICE u64 now() {
    u64 clock;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(clock)::"memory");
    return clock;
}

DEVICE void finish(u64* clocks, u32* kept, u64 began, u64 ended, u32 result) {
    kept[(size_t)blockIdx.x * blockDim.x + threadIdx.x] = result;
    if (threadIdx.x % WARP != 0) return;
    const size_t warp = (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    clocks[2 * warp] = began;
    clocks[2 * warp + 1] = ended;
}

DEVICE u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }

// ---- arithmetic ----

// fma_N, ex2_N, rcp_N, tanh_N: N chains of x = f(x) in each thread; f of fma is 0.5 · x + 0.25.
// kept: the bits of the sum of all x.
#define CHAINS(name, chains, start, ...)                                                                             \
    PROBE(THREADS) name(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {                              \
        float x[chains];                                                                                             \
        for (int c = 0; c < chains; c++) x[c] = (start) + 0.0078125f * (float)(c * WARP + (int)(threadIdx.x % WARP)); \
        __syncthreads();                                                                                             \
        const u64 began = now();                                                                                     \
        _Pragma("unroll 1") for (int round = 0; round < rounds; round++) {                                           \
            _Pragma("unroll") for (int step = 0; step < STEPS; step++) {                                             \
                _Pragma("unroll") for (int c = 0; c < chains; c++) { __VA_ARGS__; }                                  \
            }                                                                                                        \
        }                                                                                                            \
        const u64 ended = now();                                                                                     \
        float sum = 0.0f;                                                                                            \
        for (int c = 0; c < chains; c++) sum += x[c];                                                                \
        finish(clocks, kept, began, ended, __float_as_uint(sum));                                                    \
    }
#define FMA(name, chains) \
    CHAINS(name, chains, 1.0f, asm volatile("fma.rn.f32 %0, %0, %1, %2;" : "+f"(x[c]) : "f"(0.5f), "f"(0.25f)))
// The forms that flush subnormals are one instruction each; the others are scaled before and after.
#define EX2(name, chains) CHAINS(name, chains, 0.5f, asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x[c])))
#define RCP(name, chains) CHAINS(name, chains, 0.5f, asm volatile("rcp.approx.ftz.f32 %0, %0;" : "+f"(x[c])))
#define TANH(name, chains) CHAINS(name, chains, 0.5f, asm volatile("tanh.approx.f32 %0, %0;" : "+f"(x[c])))

FMA(fma_1, 1)
FMA(fma_8, 8)
EX2(ex2_1, 1)
EX2(ex2_4, 4)
RCP(rcp_1, 1)
RCP(rcp_4, 4)
TANH(tanh_1, 1)
TANH(tanh_4, 4)

// ---- tensor cores, from sm_80 on ----

// mma_bf16_N, mma_tf32_N: N chains of d = a · b + d in each warp, of mma.sync m16n8k16 in bf16 or m16n8k8 in TF32, sums in
// f32. All warps have the same a and b, numbers between 1 and 2 that differ from lane to lane: a product of zeros takes less
// power, and more of them in a second.
// kept: the bits of the sum of a thread's d, all of which start at the number of their chain.
#if __CUDA_ARCH__ >= 800
#define MMA(name, chains, shape, types, mask, low)                                                                   \
    PROBE(THREADS) name(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {                              \
        float d[chains][4];                                                                                          \
        for (int c = 0; c < chains; c++)                                                                             \
            for (int n = 0; n < 4; n++) d[c][n] = (float)c;                                                          \
        u32 f[6];                                                                                                    \
        for (int n = 0; n < 6; n++) f[n] = low | (((threadIdx.x % WARP * 6 + n + 1) * 2654435761u) & mask);          \
        __syncthreads();                                                                                             \
        const u64 began = now();                                                                                     \
        _Pragma("unroll 1") for (int round = 0; round < rounds; round++) {                                           \
            _Pragma("unroll") for (int step = 0; step < STEPS; step++) {                                             \
                _Pragma("unroll") for (int c = 0; c < chains; c++)                                                   \
                    asm volatile("mma.sync.aligned." shape ".row.col.f32." types ".f32 {%0, %1, %2, %3}, "           \
                                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                     \
                                 : "+f"(d[c][0]), "+f"(d[c][1]), "+f"(d[c][2]), "+f"(d[c][3])                        \
                                 : "r"(f[0]), "r"(f[1]), "r"(f[2]), "r"(f[3]), "r"(f[4]), "r"(f[5]));                \
            }                                                                                                        \
        }                                                                                                            \
        const u64 ended = now();                                                                                     \
        float sum = 0.0f;                                                                                            \
        for (int c = 0; c < chains; c++) sum += d[c][0] + d[c][1] + d[c][2] + d[c][3];                               \
        finish(clocks, kept, began, ended, __float_as_uint(sum));                                                    \
    }
// Two numbers of 7 bits after the point in a word, and one of 10 bits.
#define MMA_BF16(name, chains) MMA(name, chains, "m16n8k16", "bf16.bf16", 0x007f007fu, 0x3f803f80u)
#define MMA_TF32(name, chains) MMA(name, chains, "m16n8k8", "tf32.tf32", 0x007fe000u, 0x3f800000u)

MMA_BF16(mma_bf16_1, 1)
MMA_BF16(mma_bf16_2, 2)
MMA_BF16(mma_bf16_4, 4)
MMA_TF32(mma_tf32_1, 1)
MMA_TF32(mma_tf32_2, 2)
MMA_TF32(mma_tf32_4, 4)
#endif

// ---- shared memory ----

// shared_chase: each thread follows addresses through shared memory, 4 bytes a step, no two lanes in one bank.
// Shared   4 KB
// kept: the word that was reached, counted from 0; a lane starts at the word of its number, and a step goes 33 on, of 1024.
PROBE(THREADS) shared_chase(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {
    __shared__ u32 words[WORDS];
    const u32 base = shared_address(words);
    for (int n = threadIdx.x; n < WORDS; n += blockDim.x) words[n] = base + (n + STRIDE) % WORDS * 4;
    u32 at = base + threadIdx.x % WARP * 4;
    __syncthreads();
    const u64 began = now();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) asm volatile("ld.shared.u32 %0, [%0];" : "+r"(at)::"memory");
    }
    const u64 ended = now();
    finish(clocks, kept, began, ended, (at - base) / 4);
}

// matrix_chase: the same by ldmatrix.x4, whose rows are 16 bytes.
// Shared   1 KB
// kept: the row that was reached; a step goes 9 on, of 64. After three steps all lanes are at one row.
PROBE(THREADS) matrix_chase(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {
    __shared__ __align__(16) u32 words[ROWS * 4];
    const u32 base = shared_address(words);
    for (int n = threadIdx.x; n < ROWS * 4; n += blockDim.x) words[n] = base + (n / 4 + ROW_STRIDE) % ROWS * ROW_BYTES;
    u32 at = base + threadIdx.x % WARP * ROW_BYTES;
    __syncthreads();
    const u64 began = now();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++)
            // The other three matrices go nowhere.
            asm volatile("{\n\t.reg .b32 b, c, d;\n\tldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, b, c, d}, [%0];\n\t}"
                         : "+r"(at)::"memory");
    }
    const u64 ended = now();
    finish(clocks, kept, began, ended, (at - base) / ROW_BYTES);
}

// shared_rate, matrix_rate: loads of 16 bytes a lane, 512 a warp, that do not wait for each other.
// Shared   16 KB, where word n holds n
// kept: the sum of all words that a thread was given, of which the upper bits are lost.
#define LOADS(name, instruction)                                                                                     \
    PROBE(THREADS) name(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {                              \
        __shared__ __align__(16) u32 words[2 * STEPS * WARP * 4];                                                    \
        for (int n = threadIdx.x; n < 2 * STEPS * WARP * 4; n += blockDim.x) words[n] = n;                           \
        u32 at = shared_address(words) + threadIdx.x % WARP * 16, sum = 0;                                           \
        __syncthreads();                                                                                             \
        const u64 began = now();                                                                                     \
        _Pragma("unroll 1") for (int round = 0; round < rounds; round++) {                                           \
            _Pragma("unroll") for (int step = 0; step < STEPS; step++) {                                             \
                u32 a, b, c, d;                                                                                      \
                asm volatile(instruction " {%0, %1, %2, %3}, [%4];"                                                  \
                             : "=r"(a), "=r"(b), "=r"(c), "=r"(d)                                                    \
                             : "r"(at + step * WARP * 16)                                                            \
                             : "memory");                                                                            \
                sum += a + b + c + d;                                                                                \
            }                                                                                                        \
            /* Another half of the words: nothing that was loaded can be used again. */                              \
            at = (round & 1) ? at - STEPS * WARP * 16 : at + STEPS * WARP * 16;                                      \
        }                                                                                                            \
        const u64 ended = now();                                                                                     \
        finish(clocks, kept, began, ended, sum);                                                                     \
    }
LOADS(shared_rate, "ld.shared.v4.u32")
LOADS(matrix_rate, "ldmatrix.sync.aligned.m8n8.x4.shared.b16")

// ---- barriers of a block ----

// block_barrier: a step is __syncthreads().
// Launch   up to 1024 threads
// kept: 16 · rounds.
PROBE(1024) block_barrier(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {
    __syncthreads();
    const u64 began = now();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) __syncthreads();
    }
    const u64 ended = now();
    finish(clocks, kept, began, ended, rounds * STEPS);
}

// named_barrier: a step is a barrier of half the block, whose halves do not wait for each other.
// Launch   a multiple of 64 threads, up to 1024
// kept: 16 · rounds · half the threads, the arrivals that a thread took part in.
PROBE(1024) named_barrier(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {
    const int half = blockDim.x / 2, barrier = 1 + threadIdx.x / half;
    __syncthreads();
    const u64 began = now();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(half) : "memory");
    }
    const u64 ended = now();
    finish(clocks, kept, began, ended, rounds * STEPS * half);
}

// ---- clusters, from sm_90 on ----

#if __CUDA_ARCH__ >= 900
DEVICE void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}

DEVICE u32 rank_in_cluster() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

DEVICE u32 blocks_of_cluster() {
    u32 blocks;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    return blocks;
}

// The address of `at`, of this block's shared memory, in that of block `rank`.
DEVICE u32 in_block(u32 at, u32 rank) {
    u32 mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(at), "r"(rank));
    return mapped;
}

DEVICE void store_in_cluster(u32 at, u32 value) {
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(at), "r"(value) : "memory");
}

// cluster_barrier: a step is a barrier of all blocks of a cluster.
// kept: 16 · rounds.
PROBE(THREADS) cluster_barrier(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {
    cluster_sync();
    const u64 began = now();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) cluster_sync();
    }
    const u64 ended = now();
    finish(clocks, kept, began, ended, rounds * STEPS);
}

// cluster_chase: as shared_chase, through the shared memory of the next block of the cluster.
// Shared   4 KB
// kept: as in shared_chase.
PROBE(THREADS) cluster_chase(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {
    __shared__ u32 words[WORDS];
    const u32 base = in_block(shared_address(words), (rank_in_cluster() + 1) % blocks_of_cluster());
    // Every block must have begun before its memory is written to.
    cluster_sync();
    for (int n = threadIdx.x; n < WORDS; n += blockDim.x)
        store_in_cluster(base + n * 4, base + (n + STRIDE) % WORDS * 4);
    u32 at = base + threadIdx.x % WARP * 4;
    cluster_sync();
    const u64 began = now();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) asm volatile("ld.shared::cluster.u32 %0, [%0];" : "+r"(at)::"memory");
    }
    const u64 ended = now();
    // No block may end while another reads its memory.
    cluster_sync();
    finish(clocks, kept, began, ended, (at - base) / 4);
}

// cluster_exchange_N: what a step of a recurrence that N blocks share needs. Each thread stores a word into every block of
// the cluster; after a barrier of the cluster it adds the word of its twin in the next block to its own.
// Launch   256 threads, clusters of N
// Shared   2 · N KB
// kept: (thread + 1) · 2^(16 · rounds), of which the upper bits are lost.
template <int BLOCKS>
DEVICE void exchange(u64* clocks, u32* kept, int rounds) {
    __shared__ u32 words[2][BLOCKS][256];
    const u32 rank = rank_in_cluster(), next = (rank + 1) % BLOCKS;
    u32 to[2][BLOCKS], value = threadIdx.x + 1;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int block = 0; block < BLOCKS; block++)
            to[half][block] = in_block(shared_address(&words[half][rank][threadIdx.x]), block);
    cluster_sync();
    const u64 began = now();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            // The other half is still being read.
#pragma unroll
            for (int block = 0; block < BLOCKS; block++) store_in_cluster(to[step % 2][block], value);
            cluster_sync();
            value += words[step % 2][next][threadIdx.x];
        }
    }
    const u64 ended = now();
    cluster_sync();
    finish(clocks, kept, began, ended, value);
}

PROBE(256) cluster_exchange_2(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {
    exchange<2>(clocks, kept, rounds);
}

PROBE(256) cluster_exchange_4(u64* __restrict__ clocks, u32* __restrict__ kept, int rounds) {
    exchange<4>(clocks, kept, rounds);
}
#endif

// ---- launches ----

// empty: nothing, to see what a launch costs by itself. No arguments, any grid and block up to 1024 threads.
PROBE(1024) empty() {}

#if __CUDA_ARCH__ >= 900
// dependent: the same where the launch before it has not ended yet, for which it waits, and lets the next one start.
PROBE(1024) dependent() {
    asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
}
#endif
