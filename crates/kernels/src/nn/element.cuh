// Numbers as tensors store them and as kernels compute with them: float32 and float64 in themselves, bfloat16 in float32.
#pragma once
#include "../cuda/common.cuh"

typedef long long i64;

// A bfloat16: the upper half of a float32.
struct bf16 {
    unsigned short bits;
};

template <class T> struct Stored {
    typedef T Sum;
    static __device__ T wide(T x) { return x; }
    static __device__ T narrow(T x) { return x; }
};
template <> struct Stored<bf16> {
    typedef float Sum;
    static __device__ float wide(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
    // To the nearest, ties to even; NaN stays NaN.
    static __device__ bf16 narrow(float x) {
        u32 bits = __float_as_uint(x);
        if (x != x) return {(unsigned short)(bits >> 16 | 0x40)};
        return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    }
};

// What sums, statistics and parameters of a norm of `T` are kept in.
template <class T> using Sum = typename Stored<T>::Sum;
template <class T> __device__ inline Sum<T> wide(T x) { return Stored<T>::wide(x); }
template <class T> __device__ inline T narrow(Sum<T> x) { return Stored<T>::narrow(x); }

// max(x, 0) that lets NaN through.
template <class S> __device__ inline S rectified(S x) { return x < S(0) ? S(0) : x; }

// The values that a thread of an elementwise kernel takes: four of them, each next to its neighbour thread's.
#define EACH_VALUE(i, n)                                                                                             \
    for (u32 i = blockIdx.x * 4 * blockDim.x + threadIdx.x, i##_end = (blockIdx.x + 1) * 4 * blockDim.x;            \
         i < i##_end && i < (n); i += blockDim.x)
