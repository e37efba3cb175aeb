// Layer normalisation over the channels of tokens (a warp a token) or of the pixels of maps (a thread a pixel).
#pragma once
#include "element.cuh"

// Where the channels of a token or pixel lie, and which threads share it.
struct Token {
    u64 base;
    u32 stride, first, every;

    // Token `t` of a list, shared by a warp.
    static __device__ Token of_list(u32 t, u32 channels) { return {(u64)t * channels, 1, threadIdx.x % 32, 32}; }
    // Pixel `t` of maps [.., channels, map], for a thread alone.
    static __device__ Token of_map(u32 t, u32 channels, u32 map) { return {(u64)(t / map) * channels * map + t % map, map, 0, 1}; }
    __device__ u64 at(u32 c) const { return base + (u64)c * stride; }
    // Of all threads that share it.
    template <class S> __device__ S sum(S x) const { return every == 1 ? x : warp_sum(x); }
};

// The token of this thread; `t` is number `tokens` or more where there is none.
#define OWN_TOKEN                                                                                                    \
    u32 t = map == 1 ? blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32 : blockIdx.x * blockDim.x + threadIdx.x;    \
    if (t >= tokens) return;                                                                                         \
    Token token = map == 1 ? Token::of_list(t, channels) : Token::of_map(t, channels, map)

template <class T>
__device__ inline void layer_norm(const T *x, const Sum<T> *gamma, const Sum<T> *beta, T *y, Sum<T> *mean, Sum<T> *inverse,
                                  u32 tokens, u32 channels, u32 map, double eps) {
    OWN_TOKEN;
    Sum<T> sum = Sum<T>(0), squares = Sum<T>(0);
    for (u32 c = token.first; c < channels; c += token.every) sum += wide(x[token.at(c)]);
    Sum<T> m = token.sum(sum) / (Sum<T>)channels;
    for (u32 c = token.first; c < channels; c += token.every) {
        Sum<T> away = wide(x[token.at(c)]) - m;
        squares += away * away;
    }
    Sum<T> one = Sum<T>(1) / sqrt(token.sum(squares) / (Sum<T>)channels + (Sum<T>)eps);
    for (u32 c = token.first; c < channels; c += token.every)
        y[token.at(c)] = narrow<T>((wide(x[token.at(c)]) - m) * one * gamma[c] + beta[c]);
    if (token.every == 1 || token.first == 0) mean[t] = m, inverse[t] = one;
}

template <class T>
__device__ inline void layer_norm_backward(const T *x, const Sum<T> *gamma, const T *g, const Sum<T> *mean,
                                           const Sum<T> *inverse, T *gx, u32 tokens, u32 channels, u32 map) {
    OWN_TOKEN;
    Sum<T> m = mean[t], one = inverse[t], sum = Sum<T>(0), product = Sum<T>(0);
    for (u32 c = token.first; c < channels; c += token.every) {
        Sum<T> own = wide(g[token.at(c)]) * gamma[c];
        sum += own, product += own * (wide(x[token.at(c)]) - m) * one;
    }
    sum = token.sum(sum) / (Sum<T>)channels, product = token.sum(product) / (Sum<T>)channels;
    for (u32 c = token.first; c < channels; c += token.every) {
        Sum<T> own = wide(g[token.at(c)]) * gamma[c], deviation = (wide(x[token.at(c)]) - m) * one;
        gx[token.at(c)] = narrow<T>(one * (own - sum - deviation * product));
    }
}

// Pieces of the gradients of beta and gamma, [pieces, 2, channels]: a block takes 32 channels and `length` tokens, a warp
// every eighth of them.
template <class T>
__device__ inline void layer_norm_slopes(const T *x, const T *g, const Sum<T> *mean, const Sum<T> *inverse, Sum<T> *parts,
                                         u32 tokens, u32 channels, u32 map, u32 length) {
    typedef Sum<T> S;
    SHARED_MEMORY(memory);
    S *room = (S *)memory;
    u32 tiles = (channels + 31) / 32, piece = blockIdx.x / tiles, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 c = blockIdx.x % tiles * 32 + lane, from = piece * length, to = from + length < tokens ? from + length : tokens;
    S sum = S(0), product = S(0);
    for (u32 t = from + warp; c < channels && t < to; t += blockDim.x / 32) {
        u64 at = (u64)(t / map) * channels * map + (u64)c * map + t % map;
        S own = wide(g[at]);
        sum += own, product += own * (wide(x[at]) - mean[t]) * inverse[t];
    }
    room[threadIdx.x] = sum, room[blockDim.x + threadIdx.x] = product;
    __syncthreads();
    if (warp > 0 || c >= channels) return;
    for (u32 w = 1; w < blockDim.x / 32; w++) sum += room[w * 32 + lane], product += room[blockDim.x + w * 32 + lane];
    parts[(u64)piece * 2 * channels + c] = sum;
    parts[((u64)piece * 2 + 1) * channels + c] = product;
}

#define LAYER_NORM(suffix, T)                                                                                        \
    extern "C" __global__ void layer_norm_##suffix(const T *x, const Sum<T> *gamma, const Sum<T> *beta, T *y,        \
                                                   Sum<T> *mean, Sum<T> *inverse, u32 tokens, u32 channels, u32 map, \
                                                   double eps) {                                                     \
        layer_norm(x, gamma, beta, y, mean, inverse, tokens, channels, map, eps);                                    \
    }                                                                                                                \
    extern "C" __global__ void layer_norm_backward_##suffix(const T *x, const Sum<T> *gamma, const T *g,             \
                                                            const Sum<T> *mean, const Sum<T> *inverse, T *gx,        \
                                                            u32 tokens, u32 channels, u32 map) {                     \
        layer_norm_backward(x, gamma, g, mean, inverse, gx, tokens, channels, map);                                  \
    }                                                                                                                \
    extern "C" __global__ void layer_norm_slopes_##suffix(const T *x, const T *g, const Sum<T> *mean,                \
                                                          const Sum<T> *inverse, Sum<T> *parts, u32 tokens,          \
                                                          u32 channels, u32 map, u32 length) {                       \
        layer_norm_slopes(x, g, mean, inverse, parts, tokens, channels, map, length);                                \
    }
LAYER_NORM(f32, float)
LAYER_NORM(f64, double)
LAYER_NORM(bf16, bf16)
