// What a library's convolutions leave to do: the bias, and filters' gradients in float32.
#pragma once
#include "element.cuh"

// y[b, c, p] += bias[c], with maps of `map` pixels.
template <class T> __device__ inline void add_bias(T *y, const Sum<T> *bias, u32 n, u32 channels, u32 map) {
    EACH_VALUE(i, n) y[i] = narrow<T>(wide(y[i]) + bias[i / map % channels]);
}

#define ADD_BIAS(suffix, T)                                                                                          \
    extern "C" __global__ void add_bias_##suffix(T *y, const Sum<T> *bias, u32 n, u32 channels, u32 map) {          \
        add_bias(y, bias, n, channels, map);                                                                         \
    }
ADD_BIAS(f32, float)
ADD_BIAS(f64, double)
ADD_BIAS(bf16, bf16)

extern "C" __global__ void widened_bf16(const bf16 *x, float *y, u32 n) {
    EACH_VALUE(i, n) y[i] = wide(x[i]);
}
