// Stands in CUDA's place when the host's C++ compiler translates the kernels: a fiber for each thread of a block, so that
// barriers and exchanges inside a warp work as on a card. One block at a time.
#pragma once

// With the overloads for float.
#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

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
// Number of the thread in its block.
unsigned int emulator_thread();
// Puts up to eight bytes up for the warp, and takes those of another lane for them.
void emulator_exchange(void *x, size_t size, unsigned int lane);

#define __syncthreads() emulator_block_barrier(__FILE__, __LINE__)
#define __syncwarp() emulator_warp_barrier()

// The tensor cores' product of a warp, see product.cuh.
void emulator_multiply(float *d, const unsigned int *a, const unsigned int *b);

template <class T> inline T __shfl_xor_sync(unsigned int, T x, unsigned int step) {
    static_assert(sizeof x <= 8, "a number of eight bytes at most");
    emulator_exchange(&x, sizeof x, (emulator_thread() % 32) ^ step);
    return x;
}
inline float __uint_as_float(unsigned int bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline unsigned int __float_as_uint(float x) {
    unsigned int bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
template <class T> inline T atomicMin(T *at, T x) {
    T old = *at;
    if (x < old) *at = x;
    return old;
}
inline float __fmul_rn(float x, float y) { return x * y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
