// Numbers in another type, float32 to bfloat16 and back; numbers left out by a mask.
#pragma once
#include "element.cuh"

extern "C" __global__ void narrow_bf16(const float *x, bf16 *y, u32 n) { EACH_VALUE(i, n) y[i] = narrow<bf16>(x[i]); }
extern "C" __global__ void widen_bf16(const bf16 *x, float *y, u32 n) { EACH_VALUE(i, n) y[i] = wide(x[i]); }

// y = x mask; a number of the mask is for `each` numbers of x.
template <class T> __device__ inline void masked(const T *x, const Sum<T> *mask, T *y, u32 n, u32 each) {
    EACH_VALUE(i, n) y[i] = narrow<T>(wide(x[i]) * mask[i / each]);
}

#define MASKED(suffix, T)                                                                                            \
    extern "C" __global__ void masked_##suffix(const T *x, const Sum<T> *mask, T *y, u32 n, u32 each) {              \
        masked(x, mask, y, n, each);                                                                                 \
    }
MASKED(f32, float)
MASKED(f64, double)
MASKED(bf16, bf16)
