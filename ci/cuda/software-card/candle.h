// What candle's kernels find in CUDA's place, beyond what the emulator has for the project's own: numbers of half precision
// from the toolkit's headers, which work on the host, and functions that these leave to a card.
#pragma once
#include <cassert>
#include <cmath>
#include <cstdint>
#include <limits>

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cuda/std/limits>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#include "emulator.h"
#define __host__
#define __forceinline__ inline

using std::isnan;
using std::max;
using std::min;
using std::signbit;
inline unsigned int min(unsigned int x, int y) { return min(x, (unsigned int)y); }
inline size_t min(size_t x, unsigned int y) { return min(x, (size_t)y); }
inline size_t min(unsigned int x, size_t y) { return min((size_t)x, y); }

inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

template <class T> inline T __shfl_xor_sync(unsigned int mask, T x, int step, int width) {
    assert(width == 32);
    return __shfl_xor_sync(mask, x, (unsigned int)step);
}

inline float __int_as_float(int bits) { return __uint_as_float((unsigned int)bits); }
inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
inline long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// One thread runs at a time: nothing comes between.
template <class T, class U> inline T atomicAdd(T *at, U x) {
    T old = *at;
    *at = old + (T)x;
    return old;
}
template <class T> inline T atomicMax(T *at, T x) {
    T old = *at;
    if (x > old) *at = x;
    return old;
}
inline unsigned long long atomicMin(unsigned long long *at, long long x) { return atomicMin(at, (unsigned long long)x); }
inline unsigned long long atomicMax(unsigned long long *at, long long x) { return atomicMax(at, (unsigned long long)x); }
template <class T> inline T atomicCAS(T *at, T expected, T x) {
    T old = *at;
    if (old == expected) *at = x;
    return old;
}

// In float32, rounded once.
#define HALF_FUNCTION(name, function)                                                                                \
    inline __half h##name(__half x) { return __float2half(function(__half2float(x))); }                            \
    inline __nv_bfloat16 h##name(__nv_bfloat16 x) { return __float2bfloat16(function(__bfloat162float(x))); }
HALF_FUNCTION(sqrt, sqrtf)
HALF_FUNCTION(cos, cosf)
HALF_FUNCTION(sin, sinf)
HALF_FUNCTION(log, logf)
HALF_FUNCTION(exp, expf)
#undef HALF_FUNCTION

// All variants: the program's own text says which of them it was compiled with.
#define __CUDA_ARCH__ 900
