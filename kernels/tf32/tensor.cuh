// What the TF32 kernels say in PTX beside ../sequence/peers.cuh: products on tensor cores, and pairs for other blocks. Needs sm_80.

// x as a factor: rounded to 11 bits, to nearest, ties away from zero.
DEVICE u32 rounded_to_tf32(float x) {
    u32 rounded;
    asm("cvt.rna.tf32.f32 %0,%1;" : "=r"(rounded) : "f"(x));
    return rounded;
}

// d [16,8] += a [16,8] · b [8,8], a and b in TF32, sums in f32. With row = lane / 4 and k = lane % 4:
//     a.x (row; k)   a.y (row + 8; k)   a.z (row; k + 4)   a.w (row + 8; k + 4)
//     low (k; column = row)             high (k + 4)
//     d[0], d[1] (row; columns 2k, 2k + 1)   d[2], d[3] (row + 8)
DEVICE void multiply_add(float (&d)[4], const uint4& a, u32 low, u32 high) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(low), "r"(high));
}

// Writes two neighbours to the place of each block's shared memory that `to` is in this block's. Clusters need sm_90.
DEVICE void store_everywhere(u32* to, u32 first, u32 second) {
    if constexpr (CLUSTER == 1) {
        *(uint2*)to = make_uint2(first, second);
    } else {
#pragma unroll
        for (int rank = 0; rank < CLUSTER; rank++) {
            u32 address;
            asm("mapa.shared::cluster.u32 %0,%1,%2;" : "=r"(address) : "r"((u32)__cvta_generic_to_shared(to)), "r"(rank));
            asm volatile("st.shared::cluster.v2.u32 [%0],{%1,%2};" ::"r"(address), "r"(first), "r"(second) : "memory");
        }
    }
}
