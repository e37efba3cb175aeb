// What all kernels share. Also compiled by the host's C++ compiler, with emulator/emulator.h in CUDA's place.
#pragma once

#ifdef __CUDACC__
// The block's dynamic shared memory, aligned for loads of four numbers.
extern __shared__ __align__(16) double dynamic_shared_memory[];
#define SHARED_MEMORY(name) double *name = dynamic_shared_memory
#else
#define SHARED_MEMORY(name) double *name = emulator_shared_memory()
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

// Two matrices of a block in padded rows, and its other numbers: all in shared memory, or the matrices in `scratch`, which has
// room for those of every block, where they are too large for that.
struct Room {
    double *first, *second, *rest;

    __device__ Room(double *shared, double *scratch, u32 d) {
        u64 size = (u64)d * (d | 1);
        double *matrices = scratch ? scratch + blockIdx.x * 2 * size : shared;
        first = matrices, second = matrices + size;
        rest = scratch ? shared : shared + 2 * size;
    }
};

#define INFINITE (1.0 / 0.0)
// The largest finite number.
#define LARGEST 1.7976931348623157e308
#define EPSILON 2.220446049250313e-16

// Why a kernel refuses an entry of its batch; `Problem` in problem.rs.
enum Problem : u32 {
    NOT_FINITE = 1,
    NOT_FINITE_SECOND = 2,
    NOT_SYMMETRIC = 3,
    NOT_POSITIVE = 4,
    NO_CONVERGENCE = 5,
    INFEASIBLE_ROW = 6,
    INFEASIBLE_COLUMN = 7,
    EPS_TOO_SMALL = 8,
    TOO_FEW_DIGITS = 9,
    ILLEGAL_INDEX = 10,
};

// Notes that an entry is refused. The flag ends as the least entry with its least reason; called by one thread of a block.
__device__ inline void refuse(u64 *flag, double *details, u32 entry, Problem why, double detail) {
    details[entry] = detail;
    atomicMin(flag, ((u64)entry << 8) | (u64)why);
}

__device__ inline bool is_number(double x) { return fabs(x) <= LARGEST; }

// Sum over the threads of a block in a fixed order, told to all of them. `room` holds 32 numbers; all threads must call.
template <class S> __device__ inline S block_sum(S x, S *room) {
    for (u32 step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    S total = S(0);
    for (u32 warp = 0; warp < blockDim.x / 32; warp++) total += room[warp];
    __syncthreads();
    return total;
}

// The same for the largest; NaN counts as infinite.
__device__ inline double block_max(double x, double *room) {
    if (x != x) x = INFINITE;
    for (u32 step = 16; step > 0; step /= 2) x = fmax(x, __shfl_xor_sync(0xffffffffu, x, step));
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    double most = room[0];
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) most = fmax(most, room[warp]);
    __syncthreads();
    return most;
}

template <class S> __device__ inline S warp_sum(S x) {
    for (u32 step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

template <class S> __device__ inline S warp_max(S x) {
    for (u32 step = 16; step > 0; step /= 2) x = fmax(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// A number of twice the working precision. The intrinsics keep the compiler from fusing what must be rounded apart.
struct Twofold {
    double high, low;
};

// sum + x * y, with the rounding errors of both operations kept (Ogita, Rump and Oishi 2005, algorithm 5.3).
__device__ inline void add_product(Twofold &sum, double x, double y) {
    double p = __dmul_rn(x, y);
    double p_error = fma(x, y, -p);
    double s = __dadd_rn(sum.high, p);
    double back = __dsub_rn(s, sum.high);
    double s_error = __dadd_rn(__dsub_rn(sum.high, __dsub_rn(s, back)), __dsub_rn(p, back));
    sum.high = s;
    sum.low = __dadd_rn(sum.low, __dadd_rn(p_error, s_error));
}
