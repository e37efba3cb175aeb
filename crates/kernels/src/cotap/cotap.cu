// The CoTAP ranking loss of lists of some thousands: every pair is looked at, which a card does sooner than it could sort.
// Longer lists are sorted, see ranked.cu.
#pragma once

// ℓ(x) and ℓ'(x).
__device__ inline double penalty(double x, double inverse_tau) {
    double near = fmax(0.0, 1.0 - x * inverse_tau);
    return x < 0.0 ? 1.0 - 2.0 * x * inverse_tau : near * near;
}
__device__ inline double penalty_slope(double x, double inverse_tau) {
    return -2.0 * inverse_tau * (x < 0.0 ? 1.0 : fmax(0.0, 1.0 - x * inverse_tau));
}

// An item's part of the loss, and the loss's derivative in its s over the count, from its sum and count over its pairs.
struct RankedItem {
    double term, weight;

    __device__ RankedItem(double q, double sum, double count, u32 n, double tau1) {
        double height = fmax(0.0, q - tau1) / n, s = sum / count;
        term = height * s / (1.0 + s), weight = height / ((1.0 + s) * (1.0 + s) * count);
    }
};

// For each item its part of the loss, its weight (the loss's derivative in s over the count) and its part of the gradient
// as the upper item of its pairs. A warp takes an item and walks over its list; `blocks` blocks a list.
template <class T>
__device__ inline void cotap_below(const T *p, const T *q, double *terms, double *weights, double *gradient, u64 *flag,
                                   double *details, u32 n, u32 blocks, double tau1, double tau2) {
    u32 list = blockIdx.x / blocks, i = blockIdx.x % blocks * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= n) return;
    const T *of_p = p + (u64)list * n, *of_q = q + (u64)list * n;
    double own_p = of_p[i], own_q = of_q[i], sum = 0.0, slope = 0.0, count = 0.0, inverse_tau = 1.0 / tau2;
    for (u32 j = lane; j < n; j += 32) {
        if ((double)of_q[j] < own_q) {
            double x = own_p - (double)of_p[j];
            sum += penalty(x, inverse_tau);
            slope += penalty_slope(x, inverse_tau);
        } else if ((double)of_p[j] >= own_p) {
            count += 1.0;
        }
    }
    sum = warp_sum(sum), slope = warp_sum(slope), count = warp_sum(count);
    if (lane != 0) return;
    if (!is_number(own_p)) refuse(flag, details, list, NOT_FINITE, 0.0);
    if (!is_number(own_q)) refuse(flag, details, list, NOT_FINITE_SECOND, 0.0);
    RankedItem item(own_q, sum, count, n, tau1);
    u64 at = (u64)list * n + i;
    terms[at] = item.term, weights[at] = item.weight, gradient[at] = item.weight * slope;
}

// Adds what each item contributes as the lower one of its pairs, a warp an item.
template <class T>
__device__ inline void cotap_above(const T *p, const T *q, const double *weights, double *gradient, u32 n, u32 blocks,
                                   double tau2) {
    u32 list = blockIdx.x / blocks, j = blockIdx.x % blocks * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (j >= n) return;
    u64 base = (u64)list * n;
    double own_p = p[base + j], own_q = q[base + j], sum = 0.0, inverse_tau = 1.0 / tau2;
    for (u32 i = lane; i < n; i += 32)
        if ((double)q[base + i] > own_q) sum += weights[base + i] * penalty_slope((double)p[base + i] - own_p, inverse_tau);
    sum = warp_sum(sum);
    if (lane == 0) gradient[base + j] -= sum;
}

// Sums the parts of the loss, one block a list.
template <class T> __device__ inline void cotap_loss(const double *terms, T *loss, u32 n) {
    SHARED_MEMORY(room);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += terms[(u64)blockIdx.x * n + i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) loss[blockIdx.x] = (T)sum;
}

// The gradient times that of the loss, one block a list.
template <class T> __device__ inline void cotap_scale(const double *gradient, const T *grad, T *out, u32 n) {
    for (u32 i = threadIdx.x; i < n; i += blockDim.x)
        out[(u64)blockIdx.x * n + i] = (T)(gradient[(u64)blockIdx.x * n + i] * (double)grad[blockIdx.x]);
}

#define COTAP(suffix, T)                                                                                             \
    extern "C" __global__ void cotap_below_##suffix(const T *p, const T *q, double *terms, double *weights,          \
                                                    double *gradient, u64 *flag, double *details, u32 n, u32 blocks, \
                                                    double tau1, double tau2) {                                      \
        cotap_below(p, q, terms, weights, gradient, flag, details, n, blocks, tau1, tau2);                           \
    }                                                                                                                \
    extern "C" __global__ void cotap_above_##suffix(const T *p, const T *q, const double *weights, double *gradient, \
                                                    u32 n, u32 blocks, double tau2) {                                \
        cotap_above(p, q, weights, gradient, n, blocks, tau2);                                                       \
    }                                                                                                                \
    extern "C" __global__ void cotap_loss_##suffix(const double *terms, T *loss, u32 n) {                            \
        cotap_loss(terms, loss, n);                                                                                  \
    }                                                                                                                \
    extern "C" __global__ void cotap_scale_##suffix(const double *gradient, const T *grad, T *out, u32 n) {          \
        cotap_scale(gradient, grad, out, n);                                                                         \
    }
COTAP(f32, float)
COTAP(f64, double)
