// The CoTAP ranking loss. Every pair of a list is looked at: a thread takes an item and walks over the list in its order,
// which a card does faster than it could sort lists of thousands, with sums whose order is fixed.

// ℓ(x) and ℓ'(x).
__device__ inline double penalty(double x, double inverse_tau) {
    double near = fmax(0.0, 1.0 - x * inverse_tau);
    return x < 0.0 ? 1.0 - 2.0 * x * inverse_tau : near * near;
}
__device__ inline double penalty_slope(double x, double inverse_tau) {
    return -2.0 * inverse_tau * (x < 0.0 ? 1.0 : fmax(0.0, 1.0 - x * inverse_tau));
}

// For each item its part of the loss, its weight (the loss's derivative in s over the count) and its part of the gradient
// as the upper item of its pairs. `blocks` blocks a list.
template <class T>
__device__ inline void cotap_below(const T *p, const T *q, double *terms, double *weights, double *gradient, u64 *flag,
                                   double *details, u32 n, u32 blocks, double tau1, double tau2) {
    SHARED_MEMORY(tile_p);
    double *tile_q = tile_p + blockDim.x;
    u32 list = blockIdx.x / blocks, i = blockIdx.x % blocks * blockDim.x + threadIdx.x;
    u64 base = (u64)list * n;
    double own_p = i < n ? (double)p[base + i] : 0.0, own_q = i < n ? (double)q[base + i] : 0.0;
    if (!is_number(own_p)) refuse(flag, details, list, NOT_FINITE, 0.0);
    if (!is_number(own_q)) refuse(flag, details, list, NOT_FINITE_SECOND, 0.0);
    double sum = 0.0, slope = 0.0, inverse_tau = 1.0 / tau2;
    u32 count = 0;
    for (u32 first = 0; first < n; first += blockDim.x) {
        if (first + threadIdx.x < n) {
            tile_p[threadIdx.x] = p[base + first + threadIdx.x];
            tile_q[threadIdx.x] = q[base + first + threadIdx.x];
        }
        __syncthreads();
        for (u32 j = 0; j < blockDim.x && first + j < n; j++) {
            if (tile_q[j] < own_q) {
                double x = own_p - tile_p[j];
                sum += penalty(x, inverse_tau);
                slope += penalty_slope(x, inverse_tau);
            } else {
                count += tile_p[j] >= own_p;
            }
        }
        __syncthreads();
    }
    if (i >= n) return;
    double height = fmax(0.0, own_q - tau1) / n, s = sum / count;
    double weight = height / ((1.0 + s) * (1.0 + s) * count);
    terms[base + i] = height * s / (1.0 + s);
    weights[base + i] = weight;
    gradient[base + i] = weight * slope;
}

// Adds what each item contributes as the lower one of its pairs.
template <class T>
__device__ inline void cotap_above(const T *p, const T *q, const double *weights, double *gradient, u32 n, u32 blocks,
                                   double tau2) {
    SHARED_MEMORY(tile_p);
    double *tile_q = tile_p + blockDim.x, *tile_w = tile_q + blockDim.x;
    u32 list = blockIdx.x / blocks, j = blockIdx.x % blocks * blockDim.x + threadIdx.x;
    u64 base = (u64)list * n;
    double own_p = j < n ? (double)p[base + j] : 0.0, own_q = j < n ? (double)q[base + j] : 0.0;
    double sum = 0.0, inverse_tau = 1.0 / tau2;
    for (u32 first = 0; first < n; first += blockDim.x) {
        if (first + threadIdx.x < n) {
            tile_p[threadIdx.x] = p[base + first + threadIdx.x];
            tile_q[threadIdx.x] = q[base + first + threadIdx.x];
            tile_w[threadIdx.x] = weights[base + first + threadIdx.x];
        }
        __syncthreads();
        for (u32 i = 0; i < blockDim.x && first + i < n; i++)
            if (tile_q[i] > own_q) sum += tile_w[i] * penalty_slope(tile_p[i] - own_p, inverse_tau);
        __syncthreads();
    }
    if (j < n) gradient[base + j] -= sum;
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
