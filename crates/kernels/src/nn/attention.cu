// Softmax of rows, a warp a row, forward and backward; the products around it are those of linear.cu.
#pragma once
#include "element.cuh"

// In place: row = exp(row - its largest) over their sum.
template <class T> __device__ inline void softmax(T *scores, u32 rows, u32 n) {
    u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    T *own = scores + (u64)row * n;
    Sum<T> largest = -INFINITE, sum = Sum<T>(0);
    for (u32 i = lane; i < n; i += 32) largest = fmax(largest, wide(own[i]));
    largest = warp_max(largest);
    for (u32 i = lane; i < n; i += 32) sum += exp(wide(own[i]) - largest);
    sum = warp_sum(sum);
    for (u32 i = lane; i < n; i += 32) own[i] = narrow<T>(exp(wide(own[i]) - largest) / sum);
}

// In place: slope = weight (slope - sum of slope weight).
template <class T> __device__ inline void softmax_backward(const T *weights, T *slopes, u32 rows, u32 n) {
    u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T *weight = weights + (u64)row * n;
    T *own = slopes + (u64)row * n;
    Sum<T> mean = Sum<T>(0);
    for (u32 i = lane; i < n; i += 32) mean += wide(weight[i]) * wide(own[i]);
    mean = warp_sum(mean);
    for (u32 i = lane; i < n; i += 32) own[i] = narrow<T>(wide(weight[i]) * (wide(own[i]) - mean));
}

#define SOFTMAX(suffix, T)                                                                                           \
    extern "C" __global__ void softmax_##suffix(T *scores, u32 rows, u32 n) { softmax(scores, rows, n); }            \
    extern "C" __global__ void softmax_backward_##suffix(const T *weights, T *slopes, u32 rows, u32 n) {             \
        softmax_backward(weights, slopes, rows, n);                                                                  \
    }
SOFTMAX(f32, float)
SOFTMAX(f64, double)
SOFTMAX(bf16, bf16)
