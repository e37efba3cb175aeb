// Activations, sums, and ops between maps and one number a channel: mean over the pixels, gates, scaled residuals.
#pragma once
#include "element.cuh"

// `Activation` in activation.rs.
enum Activation : u32 { RELU = 0, GELU = 1, SILU = 2 };

template <class S> __device__ inline S logistic(S x) { return S(1) / (S(1) + exp(-x)); }
// The normal distribution function.
template <class S> __device__ inline S normal(S x) { return S(0.5) * (S(1) + erf(x * S(0.70710678118654752440))); }
template <class S> __device__ inline S density(S x) { return S(0.39894228040143267794) * exp(S(-0.5) * x * x); }

template <class S> __device__ inline S activated(S x, u32 kind) {
    if (kind == RELU) return rectified(x);
    if (kind == GELU) return x * normal(x);
    return x * logistic(x);
}
// The derivative at x; that of the rectifier is 0 at 0.
template <class S> __device__ inline S slope(S x, u32 kind) {
    if (kind == RELU) return x > S(0) ? S(1) : S(0);
    if (kind == GELU) return normal(x) + x * density(x);
    S s = logistic(x);
    return s + x * s * (S(1) - s);
}

template <class T> __device__ inline void activate(const T *x, T *y, u32 n, u32 kind) {
    EACH_VALUE(i, n) y[i] = narrow<T>(activated(wide(x[i]), kind));
}
template <class T> __device__ inline void activate_backward(const T *x, const T *g, T *gx, u32 n, u32 kind) {
    EACH_VALUE(i, n) {
        // A rectified infinity times 0 is 0.
        Sum<T> s = slope(wide(x[i]), kind);
        gx[i] = kind == RELU && s == Sum<T>(0) ? narrow<T>(Sum<T>(0)) : narrow<T>(wide(g[i]) * s);
    }
}

// a + b, rectified if asked for; b lies every `period` numbers again.
template <class T> __device__ inline void add(const T *a, const T *b, T *y, u32 n, u32 period, u32 relu) {
    EACH_VALUE(i, n) {
        Sum<T> sum = wide(a[i]) + wide(b[i % period]);
        y[i] = narrow<T>(relu ? rectified(sum) : sum);
    }
}

// The mean of each map, a warp a map.
template <class T> __device__ inline void global_mean(const T *x, T *y, u32 maps, u32 map) {
    u32 m = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (m >= maps) return;
    Sum<T> sum = Sum<T>(0);
    for (u32 i = threadIdx.x % 32; i < map; i += 32) sum += wide(x[(u64)m * map + i]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[m] = narrow<T>(sum / (Sum<T>)map);
}
template <class T> __device__ inline void global_mean_backward(const T *g, T *gx, u32 n, u32 map) {
    EACH_VALUE(i, n) gx[i] = narrow<T>(wide(g[i / map]) / (Sum<T>)map);
}

// y = x / (1 + exp(-gate)), one gate a map.
template <class T> __device__ inline void gated(const T *x, const T *gate, T *y, u32 n, u32 map) {
    EACH_VALUE(i, n) y[i] = narrow<T>(wide(x[i]) * logistic(wide(gate[i / map])));
}
// A warp a map: the gradient of x is made on the way to the sum that the gate's is.
template <class T>
__device__ inline void gated_backward(const T *x, const T *gate, const T *g, T *gx, T *ggate, u32 maps, u32 map) {
    u32 m = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (m >= maps) return;
    Sum<T> s = logistic(wide(gate[m])), sum = Sum<T>(0);
    for (u32 i = threadIdx.x % 32; i < map; i += 32) {
        u64 at = (u64)m * map + i;
        Sum<T> own = wide(g[at]);
        sum += own * wide(x[at]);
        gx[at] = narrow<T>(own * s);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) ggate[m] = narrow<T>(sum * s * (Sum<T>(1) - s));
}

// y = shortcut + scale x, one scale a channel. Its backward pass: gx = scale g; the scale's is the sum of g x, see
// `norm_sums` with a mean of 0.
template <class T>
__device__ inline void scaled_residual(const T *shortcut, const T *x, const Sum<T> *scale, T *y, u32 n, u32 channels, u32 map) {
    EACH_VALUE(i, n) {
        Sum<T> scaled = scale[i / map % channels] * wide(x[i]);
        y[i] = narrow<T>(shortcut ? wide(shortcut[i]) + scaled : scaled);
    }
}

#define POINTWISE(suffix, T)                                                                                         \
    extern "C" __global__ void activate_##suffix(const T *x, T *y, u32 n, u32 kind) { activate(x, y, n, kind); }     \
    extern "C" __global__ void activate_backward_##suffix(const T *x, const T *g, T *gx, u32 n, u32 kind) {          \
        activate_backward(x, g, gx, n, kind);                                                                        \
    }                                                                                                                \
    extern "C" __global__ void add_##suffix(const T *a, const T *b, T *y, u32 n, u32 period, u32 relu) {             \
        add(a, b, y, n, period, relu);                                                                               \
    }                                                                                                                \
    extern "C" __global__ void global_mean_##suffix(const T *x, T *y, u32 maps, u32 map) {                           \
        global_mean(x, y, maps, map);                                                                                \
    }                                                                                                                \
    extern "C" __global__ void global_mean_backward_##suffix(const T *g, T *gx, u32 n, u32 map) {                    \
        global_mean_backward(g, gx, n, map);                                                                         \
    }                                                                                                                \
    extern "C" __global__ void gated_##suffix(const T *x, const T *gate, T *y, u32 n, u32 map) {                     \
        gated(x, gate, y, n, map);                                                                                   \
    }                                                                                                                \
    extern "C" __global__ void gated_backward_##suffix(const T *x, const T *gate, const T *g, T *gx, T *ggate,       \
                                                       u32 maps, u32 map) {                                          \
        gated_backward(x, gate, g, gx, ggate, maps, map);                                                            \
    }                                                                                                                \
    extern "C" __global__ void scaled_residual_##suffix(const T *shortcut, const T *x, const Sum<T> *scale, T *y,    \
                                                        u32 n, u32 channels, u32 map) {                              \
        scaled_residual(shortcut, x, scale, y, n, channels, map);                                                    \
    }
POINTWISE(f32, float)
POINTWISE(f64, double)
POINTWISE(bf16, bf16)
