// Max pooling with overlapping windows. The forward pass notes where each largest value lies, so that the backward pass
// gathers: a thread takes a pixel and adds the windows that chose it, in their order.
#pragma once
#include "element.cuh"

struct Pool {
    u32 height, width, oh, ow, kernel, stride, padding;

    // Pixels of the window of output `o` on an axis of `n`.
    __device__ u32 begin(u32 o) const { return o * stride < padding ? 0 : o * stride - padding; }
    __device__ u32 end(u32 o, u32 n) const {
        u32 last = o * stride + kernel - padding;
        return last < n ? last : n;
    }
    // Outputs whose windows may hold pixel `i`.
    __device__ u32 first(u32 i) const { return i + padding < kernel ? 0 : (i + padding - kernel) / stride + 1; }
    __device__ u32 last(u32 i, u32 n) const {
        u32 past = (i + padding) / stride + 1;
        return past < n ? past : n;
    }
};
#define POOL_SIZES u32 height, u32 width, u32 oh, u32 ow, u32 kernel, u32 stride, u32 padding
#define POOL                                                                                                         \
    Pool { height, width, oh, ow, kernel, stride, padding }

// The first largest value of each window; NaN counts as largest, and the last one is it.
template <class T> __device__ inline void max_pool(const T *x, T *y, u32 *chosen, u32 n, const Pool &pool) {
    EACH_VALUE(at, n) {
        u32 map = pool.oh * pool.ow, oy = at % map / pool.ow, ox = at % pool.ow;
        const T *plane = x + (u64)(at / map) * pool.height * pool.width;
        u32 place = pool.begin(oy) * pool.width + pool.begin(ox);
        Sum<T> largest = -INFINITE;
        for (u32 row = pool.begin(oy); row < pool.end(oy, pool.height); row++)
            for (u32 column = pool.begin(ox); column < pool.end(ox, pool.width); column++) {
                Sum<T> value = wide(plane[row * pool.width + column]);
                if (value > largest || value != value) largest = value, place = row * pool.width + column;
            }
        y[at] = narrow<T>(largest), chosen[at] = place;
    }
}

template <class T> __device__ inline void max_pool_backward(const u32 *chosen, const T *gy, T *gx, u32 n, const Pool &pool) {
    EACH_VALUE(at, n) {
        u32 plane = pool.height * pool.width, pixel = at % plane, row = pixel / pool.width, column = pixel % pool.width;
        u64 outputs = (u64)(at / plane) * pool.oh * pool.ow;
        Sum<T> sum = Sum<T>(0);
        for (u32 oy = pool.first(row); oy < pool.last(row, pool.oh); oy++)
            for (u32 ox = pool.first(column); ox < pool.last(column, pool.ow); ox++) {
                u64 o = outputs + oy * pool.ow + ox;
                if (chosen[o] == pixel) sum += wide(gy[o]);
            }
        gx[at] = narrow<T>(sum);
    }
}

#define POOLING(suffix, T)                                                                                           \
    extern "C" __global__ void max_pool_##suffix(const T *x, T *y, u32 *chosen, u32 n, POOL_SIZES) {                 \
        max_pool(x, y, chosen, n, POOL);                                                                             \
    }                                                                                                                \
    extern "C" __global__ void max_pool_backward_##suffix(const u32 *chosen, const T *gy, T *gx, u32 n,              \
                                                          POOL_SIZES) {                                              \
        max_pool_backward(chosen, gy, gx, n, POOL);                                                                  \
    }
POOLING(f32, float)
POOLING(f64, double)
POOLING(bf16, bf16)
