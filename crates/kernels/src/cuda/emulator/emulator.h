// Stands in CUDA's place when the host's C++ compiler translates the kernels: a fiber for each thread of a block, so that
// barriers and exchanges inside a warp work as on a card. One block at a time.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
// One block at a time: what its threads share may be static.
#define __shared__ static

struct Index {
    unsigned int x, y, z;
};
extern Index threadIdx, blockIdx, blockDim, gridDim;

double *emulator_shared_memory();
// Waits for the other threads of the block (all must come by the same line) or of the warp.
void emulator_block_barrier(const char *file, int line);
void emulator_warp_barrier();
// Puts a number up for the warp, and reads that of another lane.
double emulator_exchange(double x, unsigned int lane);

#define __syncthreads() emulator_block_barrier(__FILE__, __LINE__)
#define __syncwarp() emulator_warp_barrier()

inline double __shfl_xor_sync(unsigned int, double x, unsigned int step) {
    return emulator_exchange(x, (threadIdx.x % 32) ^ step);
}
template <class T> inline T atomicMin(T *at, T x) {
    T old = *at;
    if (x < old) *at = x;
    return old;
}
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
