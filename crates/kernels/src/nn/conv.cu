// Convolution, forward and both backward passes, as products whose factors are read where they lie. Every group is a
// product of its own.
#pragma once
#include "product.cuh"

struct Conv {
    u32 batch, c_in, height, width, c_out, kh, kw, oh, ow, stride, padding, dilation, groups;

    __device__ u32 cg() const { return c_in / groups; }
    __device__ u32 og() const { return c_out / groups; }
    __device__ u32 area() const { return kh * kw; }
    __device__ u32 plane() const { return height * width; }
    __device__ u32 map() const { return oh * ow; }
    // The pixel that the first tap of an output lies on.
    __device__ Line window(u32 n) const {
        u32 at = n % map();
        int row = (int)(at / ow * stride) - (int)padding, column = (int)(at % ow * stride) - (int)padding;
        return {(i64)(n / map()) * c_in * plane() + (i64)row * width + column, row, column};
    }
    // The way from there to the pixel of the k-th tap of all channels.
    __device__ Line tap(u32 k) const {
        u32 at = k % area();
        int row = (int)(at / kw * dilation), column = (int)(at % kw * dilation);
        return {(i64)(k / area()) * plane() + (i64)row * width + column, row, column};
    }
};
#define CONV_SIZES                                                                                                   \
    u32 batch, u32 c_in, u32 height, u32 width, u32 c_out, u32 kh, u32 kw, u32 oh, u32 ow, u32 stride, u32 padding,  \
        u32 dilation, u32 groups
#define CONV                                                                                                         \
    Conv { batch, c_in, height, width, c_out, kh, kw, oh, ow, stride, padding, dilation, groups }

// y[o, (b, p, q)] = sum over (c, i, j) of w[o, (c, i, j)] x[(c, i, j), (b, p, q)].
template <class T> struct ConvForward {
    static const bool LEFT_ALONG = true, RIGHT_ALONG = false;
    Conv conv;
    u32 rows, columns, height, width, first_channel;
    const T *left, *right;
    i64 left_stride;
    const Sum<T> *bias;
    T *y;

    __device__ Step step(u32 k) const {
        Line tap = conv.tap(k);
        return {k, tap.right, tap.row, tap.column};
    }
    __device__ Line line(u32 n) const { return conv.window(n); }
    __device__ void store(u32 m, u32 n, Sum<T> sum) const {
        u32 o = first_channel + m, map = conv.map();
        y[((u64)(n / map) * conv.c_out + o) * map + n % map] = narrow<T>(bias ? sum + bias[o] : sum);
    }
};

template <class T>
__device__ inline void conv_forward(const T *x, const T *w, const Sum<T> *bias, T *y, u32 tiles_m, u32 tiles_n,
                                    const Conv &conv) {
    u32 tile = blockIdx.x, of_m = tile % tiles_m, of_n = tile / tiles_m % tiles_n, group = tile / tiles_m / tiles_n;
    u32 terms = conv.cg() * conv.area();
    ConvForward<T> plan;
    plan.conv = conv;
    plan.rows = conv.og(), plan.columns = conv.batch * conv.map();
    plan.height = conv.height, plan.width = conv.width, plan.first_channel = group * conv.og();
    plan.left = w + (u64)group * conv.og() * terms, plan.left_stride = terms;
    plan.right = x + (u64)group * conv.cg() * conv.plane();
    plan.bias = bias, plan.y = y;
    product_tile<T>(plan, of_m * SIDE, of_n * SIDE, 0, terms);
}

// The taps of one axis that meet pixels of one residue by the stride: first, first + every, ..., count of them; the output
// of tap number a and pixel number h of the residue is h + shift - a * back.
struct Taps {
    u32 first, every, count;
    int shift, back;

    __device__ Taps(u32 taps, u32 residue, const Conv &conv) : first(taps), every(1), count(0), shift(0), back(0) {
        u32 stride = conv.stride, wanted = (residue + conv.padding) % stride;
        for (u32 i = 0; i < stride && i < taps; i++)
            if (i * conv.dilation % stride == wanted) {
                first = i;
                break;
            }
        if (first == taps) return;
        while (every * conv.dilation % stride != 0) every++;
        count = (taps - first + every - 1) / every;
        shift = ((int)(residue + conv.padding) - (int)(first * conv.dilation)) / (int)stride;
        back = (int)(every * conv.dilation / stride);
    }
};

// gx[c, (b, h, w)] = sum over (o, i, j) of w[c, (o, i, j)] gy[(o, i, j), (b, h, w)], for the pixels whose coordinates leave
// the residues (ry, rx) by the stride: no tap is looked at in vain.
template <class T> struct ConvBackward {
    static const bool LEFT_ALONG = true, RIGHT_ALONG = false;
    Conv conv;
    Taps down, along;
    u32 rows, columns, height, width, first_channel, ry, rx, high, wide_;
    const T *left, *right;
    i64 left_stride;
    T *gx;

    __device__ Step step(u32 k) const {
        u32 taps = down.count * along.count, o = k / taps, a = k % taps / along.count, b = k % along.count;
        i64 weight = (i64)o * conv.cg() * conv.area() + (down.first + a * down.every) * conv.kw + along.first + b * along.every;
        int row = -(int)a * down.back, column = -(int)b * along.back;
        return {weight, (i64)o * conv.map() + (i64)row * conv.ow + column, row, column};
    }
    __device__ Line line(u32 n) const {
        u32 at = n % (high * wide_);
        int row = (int)(at / wide_) + down.shift, column = (int)(at % wide_) + along.shift;
        return {(i64)(n / (high * wide_)) * conv.c_out * conv.map() + (i64)row * conv.ow + column, row, column};
    }
    __device__ void store(u32 m, u32 n, Sum<T> sum) const {
        u32 at = n % (high * wide_), h = at / wide_ * conv.stride + ry, w = at % wide_ * conv.stride + rx;
        u64 image = (u64)(n / (high * wide_)) * conv.c_in + first_channel + m;
        gx[image * conv.plane() + h * conv.width + w] = narrow<T>(sum);
    }
};

template <class T>
__device__ inline void conv_backward(const T *gy, const T *w, T *gx, u32 tiles_m, u32 tiles_n, const Conv &conv) {
    u32 tile = blockIdx.x, of_m = tile % tiles_m, of_n = tile / tiles_m % tiles_n, rest = tile / tiles_m / tiles_n;
    u32 residues = conv.stride * conv.stride, group = rest / residues;
    u32 ry = rest % residues / conv.stride, rx = rest % conv.stride;
    u32 high = (conv.height + conv.stride - 1 - ry) / conv.stride, wide_ = (conv.width + conv.stride - 1 - rx) / conv.stride;
    u32 columns = conv.batch * high * wide_;
    if (of_n * SIDE >= columns) return;
    Taps down(conv.kh, ry, conv), along(conv.kw, rx, conv);
    u64 weights = (u64)group * conv.og() * conv.cg() * conv.area();
    ConvBackward<T> plan{conv,       down,     along,   conv.cg(), columns,     conv.oh,
                         conv.ow,    group * conv.cg(), ry,      rx,        high,        wide_,
                         w + weights, gy + (u64)group * conv.og() * conv.map(), (i64)conv.area(), gx};
    product_tile<T>(plan, of_m * SIDE, of_n * SIDE, 0, conv.og() * down.count * along.count);
}

// gw[o, (c, i, j)] = sum over (b, p, q) of gy[o, (b, p, q)] x[(b, p, q), (c, i, j)], in pieces of the sum.
template <class T> struct ConvFilter {
    static const bool LEFT_ALONG = true, RIGHT_ALONG = true;
    Conv conv;
    u32 rows, columns, height, width;
    const T *left, *right;
    i64 left_stride;
    Sum<T> *gw;

    __device__ Step step(u32 k) const {
        Line window = conv.window(k);
        return {(i64)(k / conv.map()) * conv.c_out * conv.map() + k % conv.map(), window.right, window.row, window.column};
    }
    __device__ Line line(u32 n) const { return conv.tap(n); }
    __device__ void store(u32 m, u32 n, Sum<T> sum) const { gw[(u64)m * columns + n] = sum; }
};

template <class T>
__device__ inline void conv_filter(const T *x, const T *gy, Sum<T> *parts, u32 tiles_m, u32 tiles_n, u32 length,
                                   const Conv &conv) {
    u32 tile = blockIdx.x, of_m = tile % tiles_m, of_n = tile / tiles_m % tiles_n, rest = tile / tiles_m / tiles_n;
    u32 group = rest % conv.groups, piece = rest / conv.groups, terms = conv.batch * conv.map();
    ConvFilter<T> plan;
    plan.conv = conv;
    plan.rows = conv.og(), plan.columns = conv.cg() * conv.area();
    plan.height = conv.height, plan.width = conv.width;
    plan.left = gy + (u64)group * conv.og() * conv.map(), plan.left_stride = conv.map();
    plan.right = x + (u64)group * conv.cg() * conv.plane();
    plan.gw = parts + ((u64)piece * conv.groups + group) * conv.og() * plan.columns;
    u32 from = piece * length;
    product_tile<T>(plan, of_m * SIDE, of_n * SIDE, from, from + length < terms ? from + length : terms);
}

// Adds pieces of `n` numbers in their order.
template <class S> __device__ inline void sum_pieces(const S *parts, S *out, u32 n, u32 pieces) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    S sum = parts[i];
    for (u32 piece = 1; piece < pieces; piece++) sum += parts[(u64)piece * n + i];
    out[i] = sum;
}

#define CONVOLUTION(suffix, T)                                                                                       \
    extern "C" __global__ void conv_forward_##suffix(const T *x, const T *w, const Sum<T> *bias, T *y, u32 tiles_m,  \
                                                     u32 tiles_n, CONV_SIZES) {                                      \
        conv_forward(x, w, bias, y, tiles_m, tiles_n, CONV);                                                         \
    }                                                                                                                \
    extern "C" __global__ void conv_backward_##suffix(const T *gy, const T *w, T *gx, u32 tiles_m, u32 tiles_n,      \
                                                      CONV_SIZES) {                                                  \
        conv_backward(gy, w, gx, tiles_m, tiles_n, CONV);                                                            \
    }                                                                                                                \
    extern "C" __global__ void conv_filter_##suffix(const T *x, const T *gy, Sum<T> *parts, u32 tiles_m, u32 tiles_n, \
                                                    u32 length, CONV_SIZES) {                                        \
        conv_filter(x, gy, parts, tiles_m, tiles_n, length, CONV);                                                   \
    }
CONVOLUTION(f32, float)
CONVOLUTION(f64, double)
CONVOLUTION(bf16, bf16)

extern "C" __global__ void sum_pieces_f32(const float *parts, float *out, u32 n, u32 pieces) {
    sum_pieces(parts, out, n, pieces);
}
extern "C" __global__ void sum_pieces_f64(const double *parts, double *out, u32 n, u32 pieces) {
    sum_pieces(parts, out, n, pieces);
}
