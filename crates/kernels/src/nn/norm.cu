// Batch normalisation, fused with a rectifier where one follows: statistics of a channel in pieces by blocks, in two
// passes each, joined in the order of the pieces; backward in closed form.
#pragma once
#include "element.cuh"

// Values of a channel, [batch, channels, map], one after another.
struct Channels {
    u32 channels, map;

    __device__ u64 place(u32 channel, u32 n) const { return ((u64)(n / map) * channels + channel) * map + n % map; }
};

// The part of a channel that a block looks at: `length` of its `all` values.
struct Piece {
    u32 channel, from, to;

    __device__ Piece(u32 channels, u32 all, u32 length) : channel(blockIdx.x % channels) {
        from = blockIdx.x / channels * length;
        to = from + length < all ? from + length : all;
    }
};

// Mean and sum of squared deviations of each piece, [pieces, channels, 2].
template <class T> __device__ inline void norm_moments(const T *x, Sum<T> *parts, u32 channels, u32 map, u32 all, u32 length) {
    typedef Sum<T> S;
    SHARED_MEMORY(memory);
    S *room = (S *)memory;
    Channels at{channels, map};
    Piece piece(channels, all, length);
    S sum = S(0), squares = S(0);
    for (u32 n = piece.from + threadIdx.x; n < piece.to; n += blockDim.x) sum += wide(x[at.place(piece.channel, n)]);
    S mean = block_sum(sum, room) / (S)(piece.to - piece.from);
    for (u32 n = piece.from + threadIdx.x; n < piece.to; n += blockDim.x) {
        S away = wide(x[at.place(piece.channel, n)]) - mean;
        squares += away * away;
    }
    squares = block_sum(squares, room);
    if (threadIdx.x == 0) parts[2 * (u64)blockIdx.x] = mean, parts[2 * (u64)blockIdx.x + 1] = squares;
}

// Joins the pieces (Chan, Golub and LeVeque 1983, equation 2.1): mean, biased variance and 1/sqrt(variance + eps).
template <class S>
__device__ inline void norm_finish(const S *parts, S *mean, S *variance, S *inverse, u32 channels, u32 all, u32 length, double eps) {
    u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    S m = parts[2 * c], squares = parts[2 * c + 1];
    for (u32 from = length, piece = 1; from < all; from += length, piece++) {
        S count = (S)(all - from < length ? all - from : length), before = (S)from;
        S away = parts[2 * ((u64)piece * channels + c)] - m;
        m += away * (count / (before + count));
        squares += parts[2 * ((u64)piece * channels + c) + 1] + away * away * (before * (count / (before + count)));
    }
    mean[c] = m, variance[c] = squares / (S)all;
    inverse[c] = S(1) / sqrt(squares / (S)all + (S)eps);
}

template <class S> __device__ inline void norm_inverse(const S *variance, S *inverse, u32 channels, double eps) {
    u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < channels) inverse[c] = S(1) / sqrt(variance[c] + (S)eps);
}

template <class T>
__device__ inline void norm_forward(const T *x, const Sum<T> *mean, const Sum<T> *inverse, const Sum<T> *gamma,
                                    const Sum<T> *beta, T *y, u32 n, u32 channels, u32 map, u32 relu) {
    EACH_VALUE(i, n) {
        u32 c = i / map % channels;
        Sum<T> value = (wide(x[i]) - mean[c]) * (gamma[c] * inverse[c]) + beta[c];
        y[i] = narrow<T>(relu ? rectified(value) : value);
    }
}

// The gradient before the rectifier.
template <class T> __device__ inline Sum<T> passed(const T *g, const T *y, u64 at, u32 relu) {
    return !relu || wide(y[at]) > Sum<T>(0) ? wide(g[at]) : Sum<T>(0);
}

// Sums of g and of g (x - mean) over each piece, [pieces, 2, channels]. Without x the first one alone, [pieces, channels].
template <class T>
__device__ inline void norm_sums(const T *x, const T *y, const T *g, const Sum<T> *mean, Sum<T> *parts, u32 channels, u32 map,
                                 u32 all, u32 length, u32 relu) {
    typedef Sum<T> S;
    SHARED_MEMORY(memory);
    S *room = (S *)memory;
    Channels at{channels, map};
    Piece piece(channels, all, length);
    S sum = S(0), product = S(0), centre = x ? mean[piece.channel] : S(0);
    for (u32 n = piece.from + threadIdx.x; n < piece.to; n += blockDim.x) {
        u64 place = at.place(piece.channel, n);
        S own = passed(g, y, place, relu);
        sum += own;
        if (x) product += own * (wide(x[place]) - centre);
    }
    sum = block_sum(sum, room);
    if (x) product = block_sum(product, room);
    if (threadIdx.x != 0) return;
    u64 out = (u64)(blockIdx.x / channels) * channels * (x ? 2 : 1) + piece.channel;
    parts[out] = sum;
    if (x) parts[out + channels] = product;
}

// Running averages move towards a batch's statistics: a share `momentum` of the mean, and of the unbiased variance.
template <class S>
__device__ inline void norm_follow(const S *mean, const S *variance, S *running_mean, S *running_variance, u32 channels,
                                   double momentum, double unbiased) {
    u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    double next = (double)variance[c] * unbiased, rest = 1.0 - momentum;
    running_mean[c] = (S)(rest * running_mean[c] + momentum * mean[c]);
    running_variance[c] = (S)(rest * running_variance[c] + momentum * next);
}

// From the sums over all pieces, [2, channels]: the gradient of gamma in the second one's place.
template <class S> __device__ inline void norm_slopes(S *sums, const S *inverse, u32 channels) {
    u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < channels) sums[channels + c] *= inverse[c];
}

// The gradient of x. `sums` are those of beta and gamma, [2, channels]; none (statistics given) leaves them out.
template <class T>
__device__ inline void norm_backward(const T *x, const T *y, const T *g, const Sum<T> *mean, const Sum<T> *inverse,
                                     const Sum<T> *gamma, const Sum<T> *sums, T *gx, u32 n, u32 channels, u32 map, u32 all,
                                     u32 relu) {
    EACH_VALUE(i, n) {
        u32 c = i / map % channels;
        Sum<T> own = passed(g, y, i, relu), scale = gamma[c] * inverse[c];
        if (sums) own -= (sums[c] + (wide(x[i]) - mean[c]) * inverse[c] * sums[channels + c]) / (Sum<T>)all;
        gx[i] = narrow<T>(scale * own);
    }
}

#define NORM(suffix, T)                                                                                              \
    extern "C" __global__ void norm_moments_##suffix(const T *x, Sum<T> *parts, u32 channels, u32 map, u32 all,      \
                                                     u32 length) {                                                   \
        norm_moments(x, parts, channels, map, all, length);                                                          \
    }                                                                                                                \
    extern "C" __global__ void norm_forward_##suffix(const T *x, const Sum<T> *mean, const Sum<T> *inverse,          \
                                                     const Sum<T> *gamma, const Sum<T> *beta, T *y, u32 n,           \
                                                     u32 channels, u32 map, u32 relu) {                              \
        norm_forward(x, mean, inverse, gamma, beta, y, n, channels, map, relu);                                      \
    }                                                                                                                \
    extern "C" __global__ void norm_sums_##suffix(const T *x, const T *y, const T *g, const Sum<T> *mean,            \
                                                  Sum<T> *parts, u32 channels, u32 map, u32 all, u32 length,         \
                                                  u32 relu) {                                                        \
        norm_sums(x, y, g, mean, parts, channels, map, all, length, relu);                                           \
    }                                                                                                                \
    extern "C" __global__ void norm_backward_##suffix(const T *x, const T *y, const T *g, const Sum<T> *mean,        \
                                                      const Sum<T> *inverse, const Sum<T> *gamma,                    \
                                                      const Sum<T> *sums, T *gx, u32 n, u32 channels, u32 map,       \
                                                      u32 all, u32 relu) {                                           \
        norm_backward(x, y, g, mean, inverse, gamma, sums, gx, n, channels, map, all, relu);                         \
    }
NORM(f32, float)
NORM(f64, double)
NORM(bf16, bf16)

#define NORM_CHANNELS(suffix, S)                                                                                     \
    extern "C" __global__ void norm_finish_##suffix(const S *parts, S *mean, S *variance, S *inverse, u32 channels,  \
                                                    u32 all, u32 length, double eps) {                               \
        norm_finish(parts, mean, variance, inverse, channels, all, length, eps);                                     \
    }                                                                                                                \
    extern "C" __global__ void norm_inverse_##suffix(const S *variance, S *inverse, u32 channels, double eps) {      \
        norm_inverse(variance, inverse, channels, eps);                                                              \
    }                                                                                                                \
    extern "C" __global__ void norm_follow_##suffix(const S *mean, const S *variance, S *running_mean,               \
                                                    S *running_variance, u32 channels, double momentum,              \
                                                    double unbiased) {                                               \
        norm_follow(mean, variance, running_mean, running_variance, channels, momentum, unbiased);                   \
    }                                                                                                                \
    extern "C" __global__ void norm_slopes_##suffix(S *sums, const S *inverse, u32 channels) {                       \
        norm_slopes(sums, inverse, channels);                                                                        \
    }
NORM_CHANNELS(f32, float)
NORM_CHANNELS(f64, double)
