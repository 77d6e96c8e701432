// What the persistent kernels say in PTX: products on tensor cores, loads of their operands, copies that go on beside the
// thread, barriers, and pairs of narrow numbers. Needs sm_80. All inline PTX of this unit is in this file.

typedef unsigned short u16;

// d [16,8] += a [16,16] · b [16,8], a and b in bf16, sums in f32. With row = lane / 4 and pair = 2 · (lane % 4):
//     a.x (row; k = pair, pair + 1)   a.y (row + 8; the same k)   a.z (row; k + 8)   a.w (row + 8; k + 8)
//     low (k = pair, pair + 1; column = row)                      high (k + 8)
//     d[0], d[1] (row; columns pair, pair + 1)                    d[2], d[3] (row + 8)
DEVICE void multiply_add(float (&d)[4], const uint4& a, u32 low, u32 high) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(low), "r"(high));
}

// Address of shared memory as ldmatrix and cp.async take it.
DEVICE u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

// Four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of matrix l / 8.
DEVICE uint4 load_matrices(u32 address) {
    uint4 to;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "r"(address)
                 : "memory");
    return to;
}

// The same, each matrix transposed.
DEVICE uint4 load_transposed(u32 address) {
    uint4 to;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "r"(address)
                 : "memory");
    return to;
}

// Two matrices, transposed; the addresses of lanes 0 to 15 count.
DEVICE uint2 load_two_transposed(u32 address) {
    uint2 to;
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
                 : "=r"(to.x), "=r"(to.y)
                 : "r"(address)
                 : "memory");
    return to;
}

// Starts to copy 16 bytes to shared memory.
DEVICE void start_copy(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(to), "l"(from) : "memory");
}

// What this thread has started since the last call is a group.
DEVICE void close_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most the youngest `LEFT` groups of this thread are on their way.
template <int LEFT>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Where `address` of this block's shared memory lies in that of the cluster's block `rank`. Clusters need sm_90.
DEVICE u32 address_in(u32 address, int rank) {
    u32 there;
    asm("mapa.shared::cluster.u32 %0,%1,%2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}

DEVICE void store_in_cluster(u32 address, u32 value) {
    asm volatile("st.shared::cluster.u32 [%0],%1;" ::"r"(address), "r"(value) : "memory");
}

// A barrier of all threads of the cluster, in two halves: what any of them wrote before it arrives, the others see after they
// have waited.
DEVICE void arrive_at_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

DEVICE void wait_for_cluster() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// One of the block's barriers 1 to 15, for so many of its threads; the first only arrives, and does not wait.
DEVICE void arrive_at(int barrier, int threads) {
    asm volatile("bar.arrive %0,%1;" ::"r"(barrier), "r"(threads) : "memory");
}

DEVICE void wait_at(int barrier, int threads) {
    asm volatile("bar.sync %0,%1;" ::"r"(barrier), "r"(threads) : "memory");
}

// The start of a kernel that may be launched before the launch before it has ended (programmatic dependent launch, from sm_90 on;
// elsewhere, and where it is launched as usual, nothing waits here). What follows may start to take its place, and then all launches
// before this one have ended and their results are there.
//
// Why that is right. The second instruction returns when the launch before this one has ended, whatever it let start when. That
// one has ended only after each of its threads has waited here in turn for the launch before it; and so on, back to one that was
// launched as usual, and so started after everything before it had ended. So the first instruction may come before the second,
// and what comes after the second is as ordered as without any of this, provided that
//   - every thread of every kernel that is launched so comes here, and
//   - nothing in global memory is read or written before: arguments and indices are all that there is.
// The emulator checks both. What earlier launches write must be read by plain loads: those for memory that stays as it is while the
// kernel runs (ld.global.nc) are not meant for what has changed until here. So there is no __restrict__ where such memory is only read.
DEVICE void follow_launches() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

// Two numbers, rounded to nearest even, the first in the low half.
DEVICE u32 pair_of_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE u32 pair_of_f16(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0,%1,%2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// The low half (0) or the high half (1) of a pair of f16.
DEVICE float half_of_pair(u32 pair, int half) {
    float value;
    asm("cvt.f32.f16 %0,%1;" : "=f"(value) : "h"((u16)(half ? pair >> 16 : pair)));
    return value;
}

// x, rounded to bf16: its 16 bits, and as a number.
DEVICE u16 bits_of_bf16(float x) {
    return (u16)pair_of_bf16(x, 0.0f);
}

DEVICE float rounded_to_bf16(float x) {
    return __uint_as_float(pair_of_bf16(x, 0.0f) << 16);
}

// One special-function instruction each. Their errors: 2^-22 of the result, 2^-23, 2^-11.
DEVICE float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float fast_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float fast_tanh(float x) {
    float y;
    asm("tanh.approx.f32 %0,%1;" : "=f"(y) : "f"(x));
    return y;
}

// The smaller one; NaN if either is.
DEVICE float min_or_nan(float x, float y) {
    float least;
    asm("min.NaN.f32 %0,%1,%2;" : "=f"(least) : "f"(x), "f"(y));
    return least;
}
