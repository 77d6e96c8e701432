// What the sequence kernels say in PTX, all of it: blocks of a cluster reach each other's shared memory and wait for each other. Needs
// sm_90; with one block to a cluster none of it is left in the program.

// Which block of its cluster this is.
DEVICE int cluster_rank() {
    if constexpr (CLUSTER == 1) return 0;
    u32 rank;
    asm("mov.u32 %0,%%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Writes to the place of block `rank`'s shared memory that `to` is in this block's.
DEVICE void store_in_block(float* to, float value, int rank) {
    if constexpr (CLUSTER == 1) {
        *to = value;
    } else {
        u32 address;
        asm("mapa.shared::cluster.u32 %0,%1,%2;" : "=r"(address) : "r"((u32)__cvta_generic_to_shared(to)), "r"(rank));
        asm volatile("st.shared::cluster.f32 [%0],%1;" ::"r"(address), "f"(value) : "memory");
    }
}

// All threads of the cluster have arrived, and see what any of them wrote before.
DEVICE void wait_for_cluster() {
    if constexpr (CLUSTER == 1) {
        __syncthreads();
    } else {
        asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    }
}
