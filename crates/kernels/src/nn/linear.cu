// Products of matrices by their strides, one for each pair of an outer and an inner index: linear maps, and the products
// of attention.
#pragma once
#include "product.cuh"

// Strides of one matrix: between pairs, outer and inner, and between its lines along and across the sum.
struct Strides {
    u32 outer, inner, across, along;

    __device__ i64 of(u32 pair, u32 inners) const { return (i64)(pair / inners) * outer + (i64)(pair % inners) * inner; }
};

template <class T, class Out, bool LEFT, bool RIGHT> struct Matmul {
    static const bool LEFT_ALONG = LEFT, RIGHT_ALONG = RIGHT;
    u32 rows, columns, height, width;
    const T *left, *right;
    i64 left_stride, left_step, right_stride, right_step, out_row, out_column;
    const Sum<T> *bias;
    Out *out;
    Sum<T> scale;

    __device__ Step step(u32 k) const { return {k * left_step, k * right_step, 0, 0}; }
    __device__ Line line(u32 n) const { return {n * right_stride, 0, 0}; }
    __device__ void store(u32 m, u32 n, Sum<T> sum) const {
        Sum<T> scaled = sum * scale;
        out[m * out_row + n * out_column] = narrow<Out>(bias ? scaled + bias[n] : scaled);
    }
};

template <class T, class Out, bool LEFT, bool RIGHT>
__device__ inline void matmul(const T *left, const T *right, const Sum<T> *bias, Out *out, u32 rows, u32 columns, u32 terms,
                              u32 inners, Strides of_left, Strides of_right, Strides of_out, double scale) {
    u32 tiles_m = (rows + SIDE - 1) / SIDE, tiles_n = (columns + SIDE - 1) / SIDE;
    u32 tile = blockIdx.x, of_m = tile % tiles_m, of_n = tile / tiles_m % tiles_n, pair = tile / tiles_m / tiles_n;
    Matmul<T, Out, LEFT, RIGHT> plan;
    plan.rows = rows, plan.columns = columns, plan.height = 1, plan.width = 1;
    plan.left = left + of_left.of(pair, inners), plan.right = right + of_right.of(pair, inners);
    plan.left_stride = of_left.across, plan.left_step = of_left.along;
    plan.right_stride = of_right.across, plan.right_step = of_right.along;
    plan.out = out + of_out.of(pair, inners), plan.out_row = of_out.across, plan.out_column = of_out.along;
    plan.bias = bias, plan.scale = (Sum<T>)scale;
    product_tile<T>(plan, of_m * SIDE, of_n * SIDE, 0, terms);
}

// `across` of the result goes down its rows, `along` to the right. The letters say whether the left and the right matrix
// lie along the sum (n) or across it (t).
#define MATMUL(name, suffix, T, Out, LEFT, RIGHT)                                                                    \
    extern "C" __global__ void name##_##suffix(                                                                      \
        const T *left, const T *right, const Sum<T> *bias, Out *out, u32 rows, u32 columns, u32 terms, u32 inners,   \
        u32 lo, u32 li, u32 lr, u32 lt, u32 ro, u32 ri, u32 rc, u32 rt, u32 oo, u32 oi, u32 orow, u32 oc,            \
        double scale) {                                                                                              \
        matmul<T, Out, LEFT, RIGHT>(left, right, bias, out, rows, columns, terms, inners, {lo, li, lr, lt},          \
                                    {ro, ri, rc, rt}, {oo, oi, orow, oc}, scale);                                    \
    }
#define MATMULS(suffix, T)                                                                                           \
    MATMUL(matmul_nn, suffix, T, T, true, true)                                                                      \
    MATMUL(matmul_nt, suffix, T, T, true, false)                                                                     \
    MATMUL(matmul_tt, suffix, T, T, false, false)                                                                    \
    MATMUL(matmul_wide_tt, suffix, T, Sum<T>, false, false)
MATMULS(f32, float)
MATMULS(f64, double)
MATMULS(bf16, bf16)
