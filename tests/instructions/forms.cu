// One kernel for each form of instruction that the kernels of this project come to, so that the emulator can be held against
// a real GPU. Each takes n values of 32 bits from a, b and c and gives n results; warps are whole.

typedef unsigned int u32;
typedef unsigned long long u64;

#define FORM(name, ...)                                                                                              \
    extern "C" __global__ void name(const u32* a, const u32* b, const u32* c, u32* out, int n) {                     \
        const int at = blockIdx.x * blockDim.x + threadIdx.x;                                                        \
        if (at >= n) return;                                                                                         \
        const u32 x = a[at], y = b[at], z = c[at];                                                                   \
        u32 r = 0;                                                                                                   \
        (void)y, (void)z;                                                                                            \
        __VA_ARGS__;                                                                                                 \
        out[at] = r;                                                                                                 \
    }

// Registers of 32 bits hold floats as well: the instruction gives the meaning.
#define ONE(name, text) FORM(name, asm volatile(text " %0, %1;" : "=r"(r) : "r"(x)))
#define TWO(name, text) FORM(name, asm volatile(text " %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y)))
#define THREE(name, text) FORM(name, asm volatile(text " %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(z)))
#define FLOAT1(name, text) \
    FORM(name, { float f; asm volatile(text " %0, %1;" : "=f"(f) : "f"(__uint_as_float(x))); r = __float_as_uint(f); })
#define FLOAT2(name, text)                                                                                           \
    FORM(name, {                                                                                                     \
        float f;                                                                                                     \
        asm volatile(text " %0, %1, %2;" : "=f"(f) : "f"(__uint_as_float(x)), "f"(__uint_as_float(y)));              \
        r = __float_as_uint(f);                                                                                      \
    })
#define FLOAT3(name, text)                                                                                           \
    FORM(name, {                                                                                                     \
        float f;                                                                                                     \
        asm volatile(text " %0, %1, %2, %3;"                                                                         \
                     : "=f"(f)                                                                                       \
                     : "f"(__uint_as_float(x)), "f"(__uint_as_float(y)), "f"(__uint_as_float(z)));                   \
        r = __float_as_uint(f);                                                                                      \
    })
#define COMPARE(name, how)                                                                                           \
    FORM(name, {                                                                                                     \
        asm volatile("{ .reg .pred p; setp." how ".f32 p, %1, %2; selp.u32 %0, 1, 0, p; }"                            \
                     : "=r"(r)                                                                                       \
                     : "f"(__uint_as_float(x)), "f"(__uint_as_float(y)));                                            \
    })

// ---- floats, exact to the bit ----
FLOAT2(exact_add_rn_f32, "add.rn.f32")
FLOAT2(exact_sub_rn_f32, "sub.rn.f32")
FLOAT2(exact_mul_rn_f32, "mul.rn.f32")
FLOAT3(exact_fma_rn_f32, "fma.rn.f32")
FLOAT2(exact_add_ftz_f32, "add.rn.ftz.f32")
FLOAT2(exact_mul_ftz_f32, "mul.rn.ftz.f32")
FLOAT3(exact_fma_ftz_f32, "fma.rn.ftz.f32")
FLOAT2(exact_div_rn_f32, "div.rn.f32")
FLOAT1(exact_sqrt_rn_f32, "sqrt.rn.f32")
FLOAT1(exact_rcp_rn_f32, "rcp.rn.f32")
FLOAT2(exact_min_f32, "min.f32")
FLOAT2(exact_min_nan_f32, "min.NaN.f32")
FLOAT2(exact_max_f32, "max.f32")
FLOAT1(exact_neg_f32, "neg.f32")
FLOAT1(exact_abs_f32, "abs.f32")
COMPARE(exact_setp_lt_f32, "lt")
COMPARE(exact_setp_le_f32, "le")
COMPARE(exact_setp_eq_f32, "eq")
COMPARE(exact_setp_ne_f32, "ne")
COMPARE(exact_setp_gtu_f32, "gtu")
COMPARE(exact_setp_equ_f32, "equ")
COMPARE(exact_setp_nan_f32, "nan")

// ---- conversions ----
FORM(exact_cvt_rn_f32_s32, { float f; asm volatile("cvt.rn.f32.s32 %0, %1;" : "=f"(f) : "r"(x)); r = __float_as_uint(f); })
FORM(exact_cvt_rn_f32_u32, { float f; asm volatile("cvt.rn.f32.u32 %0, %1;" : "=f"(f) : "r"(x)); r = __float_as_uint(f); })
FORM(exact_cvt_rzi_s32_f32, asm volatile("cvt.rzi.s32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(x))))
FORM(exact_cvt_rni_u32_f32, asm volatile("cvt.rni.u32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(x))))
FLOAT1(exact_cvt_rmi_f32_f32, "cvt.rmi.f32.f32")
FORM(exact_cvt_rn_bf16x2_f32,
     asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(__uint_as_float(x)), "f"(__uint_as_float(y))))
FORM(exact_cvt_rn_f16x2_f32,
     asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(__uint_as_float(x)), "f"(__uint_as_float(y))))
FORM(exact_cvt_f32_f16, {
    float f;
    asm volatile("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(f) : "r"(x));
    r = __float_as_uint(f);
})
FORM(exact_cvt_rna_tf32_f32, asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(x))))

// ---- whole numbers ----
TWO(exact_add_s32, "add.s32")
TWO(exact_sub_s32, "sub.s32")
TWO(exact_mul_lo_s32, "mul.lo.s32")
TWO(exact_mul_hi_u32, "mul.hi.u32")
TWO(exact_mul_hi_s32, "mul.hi.s32")
THREE(exact_mad_lo_s32, "mad.lo.s32")
FORM(exact_mad_wide_s32, {
    u64 w;
    asm volatile("mad.wide.s32 %0, %1, %2, %3;" : "=l"(w) : "r"(x), "r"(y), "l"((u64)z));
    r = (u32)w ^ (u32)(w >> 32);
})
TWO(exact_shl_b32, "shl.b32")
TWO(exact_shr_u32, "shr.u32")
TWO(exact_shr_s32, "shr.s32")
THREE(exact_shf_l_wrap, "shf.l.wrap.b32")
THREE(exact_shf_r_clamp, "shf.r.clamp.b32")
TWO(exact_min_s32, "min.s32")
TWO(exact_max_u32, "max.u32")
ONE(exact_popc, "popc.b32")
ONE(exact_clz, "clz.b32")
ONE(exact_brev, "brev.b32")
THREE(exact_prmt, "prmt.b32")
FORM(exact_bfe_u32, asm volatile("bfe.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y & 63), "r"(z & 63)))
FORM(exact_bfe_s32, asm volatile("bfe.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y & 63), "r"(z & 63)))
FORM(exact_bfi_b32, asm volatile("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(x), "r"(y), "r"(z & 63), "r"(y & 31)))
FORM(exact_lop3, asm volatile("lop3.b32 %0, %1, %2, %3, 0xe8;" : "=r"(r) : "r"(x), "r"(y), "r"(z)))

// ---- between lanes ----
FORM(exact_shfl_bfly, asm volatile("shfl.sync.bfly.b32 %0, %1, 5, 31, 0xffffffff;" : "=r"(r) : "r"(x)))
FORM(exact_shfl_down, asm volatile("shfl.sync.down.b32 %0, %1, 3, 31, 0xffffffff;" : "=r"(r) : "r"(x)))
FORM(exact_shfl_up, asm volatile("shfl.sync.up.b32 %0, %1, 3, 0, 0xffffffff;" : "=r"(r) : "r"(x)))
FORM(exact_shfl_idx, asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x181f, 0xffffffff;" : "=r"(r) : "r"(x), "r"(y & 31)))
FORM(exact_ballot, {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.ballot.b32 %0, p, 0xffffffff; }" : "=r"(r) : "r"(x & 1));
})

// ---- matrices: small whole numbers, whose sums are exact in any order ----
#define SMALL(v, k) ((float)(int)(((v) >> (k)) % 17u) - 8.0f)
static __device__ u32 pair_of_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
static __device__ u32 fold(const float* d) {
    return __float_as_uint(d[0]) ^ (__float_as_uint(d[1]) * 3u) ^ (__float_as_uint(d[2]) * 5u) ^ (__float_as_uint(d[3]) * 7u);
}
FORM(exact_mma_m16n8k16_bf16, {
    u32 p[6];
    for (int k = 0; k < 6; k++) p[k] = pair_of_bf16(SMALL(x ^ y * k, 3), SMALL(y ^ z * k, 7));
    float d[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(p[4]), "r"(p[5]));
    r = fold(d);
})
FORM(exact_mma_m16n8k8_tf32, {
    u32 p[6];
    for (int k = 0; k < 6; k++) p[k] = __float_as_uint(SMALL(x ^ y * k, 3));
    float d[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(p[4]), "r"(p[5]));
    r = fold(d);
})
#define LDMATRIX(name, form)                                                                                         \
    extern "C" __global__ void name(const u32* a, const u32*, const u32*, u32* out, int n) {                         \
        __shared__ __align__(16) u32 tiles[256][4];                                                                  \
        const int at = blockIdx.x * blockDim.x + threadIdx.x;                                                        \
        for (int k = 0; k < 4; k++) tiles[threadIdx.x][k] = at < n ? a[at] * (2u * k + 1u) : 0u;                      \
        __syncthreads();                                                                                             \
        u32 p, q, r, s;                                                                                              \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" form ".shared.b16 {%0,%1,%2,%3}, [%4];"                         \
                     : "=r"(p), "=r"(q), "=r"(r), "=r"(s)                                                            \
                     : "r"((u32)__cvta_generic_to_shared(tiles[threadIdx.x]))                                        \
                     : "memory");                                                                                    \
        if (at < n) out[at] = p ^ q * 3u ^ r * 5u ^ s * 7u;                                                          \
    }
LDMATRIX(exact_ldmatrix_x4, "")
LDMATRIX(exact_ldmatrix_x4_trans, ".trans")

// ---- floats with an error that the manual of PTX bounds ----
FLOAT1(near_ex2_approx_f32, "ex2.approx.f32")
FLOAT1(near_ex2_approx_ftz_f32, "ex2.approx.ftz.f32")
FLOAT1(near_lg2_approx_f32, "lg2.approx.f32")
FLOAT1(near_rcp_approx_ftz_f32, "rcp.approx.ftz.f32")
FLOAT1(near_rsqrt_approx_f32, "rsqrt.approx.f32")
FLOAT1(near_sqrt_approx_f32, "sqrt.approx.f32")
FLOAT1(near_tanh_approx_f32, "tanh.approx.f32")
FLOAT2(near_div_approx_f32, "div.approx.f32")
