// Attention-weighted covariances, one block a batch entry.

// y = Σ w_n (x_n - μ)(x_n - μ)ᵀ + ε I with w = softmax(logits); keeps weights and means.
template <class T>
__device__ inline void covariance(const T *x, const T *logits, T *y, double *weights, double *means, u64 *flag,
                                  double *details, u32 n, u32 d, double eps) {
    SHARED_MEMORY(w);
    double *mean = w + n, *room = mean + d;
    x += (u64)blockIdx.x * n * d, logits += (u64)blockIdx.x * n, y += (u64)blockIdx.x * d * d;
    double bad_x = 0.0, bad_logit = 0.0, largest = -INFINITE;
    for (u32 at = threadIdx.x; at < n * d; at += blockDim.x) bad_x = fmax(bad_x, is_number(x[at]) ? 0.0 : 1.0);
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        double s = logits[i];
        bad_logit = fmax(bad_logit, is_number(s) ? 0.0 : 1.0);
        largest = fmax(largest, s);
    }
    bad_x = block_max(bad_x, room), bad_logit = block_max(bad_logit, room), largest = block_max(largest, room);
    if (bad_x + bad_logit > 0.0) {
        if (threadIdx.x == 0) refuse(flag, details, blockIdx.x, bad_x > 0.0 ? NOT_FINITE : NOT_FINITE_SECOND, 0.0);
        return;
    }
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += w[i] = exp((double)logits[i] - largest);
    sum = block_sum(sum, room);
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) weights[(u64)blockIdx.x * n + i] = w[i] /= sum;
    __syncthreads();
    for (u32 j = threadIdx.x; j < d; j += blockDim.x) {
        double total = 0.0;
        for (u32 i = 0; i < n; i++) total += w[i] * (double)x[i * d + j];
        means[(u64)blockIdx.x * d + j] = mean[j] = total;
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        if (j > i) continue;
        double total = 0.0;
        for (u32 k = 0; k < n; k++) total += w[k] * ((double)x[k * d + i] - mean[i]) * ((double)x[k * d + j] - mean[j]);
        y[i * d + j] = y[j * d + i] = (T)(total + (i == j ? eps : 0.0));
    }
}

// With G symmetrised and c = x - μ: ∂x_n = 2 w_n G c_n and ∂l_n = w_n (c_nᵀ G c_n - Σ_m w_m c_mᵀ G c_m). A warp takes a token.
template <class T>
__device__ inline void covariance_gradient(const T *x, const double *weights, const double *means, const T *grad, T *dx,
                                           T *dlogits, double *scratch, u32 n, u32 d) {
    SHARED_MEMORY(memory);
    u32 stride = d | 1, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    // One matrix: in shared memory, or in the scratch memory of the block.
    double *g = scratch ? scratch + (u64)blockIdx.x * d * stride : memory;
    double *forms = scratch ? memory : memory + d * stride, *room = forms + n, *token = room + 32 + threadIdx.x / 32 * d;
    x += (u64)blockIdx.x * n * d, dx += (u64)blockIdx.x * n * d, dlogits += (u64)blockIdx.x * n;
    weights += (u64)blockIdx.x * n, means += (u64)blockIdx.x * d, grad += (u64)blockIdx.x * d * d;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x)
        g[at / d * stride + at % d] = 0.5 * ((double)grad[at] + (double)grad[at % d * d + at / d]);
    __syncthreads();
    double sum = 0.0;
    for (u32 k = threadIdx.x / 32; k < n; k += warps) {
        for (u32 i = lane; i < d; i += 32) token[i] = (double)x[k * d + i] - means[i];
        __syncwarp();
        double form = 0.0;
        for (u32 i = lane; i < d; i += 32) {
            double image = 0.0;
            for (u32 j = 0; j < d; j++) image += g[i * stride + j] * token[j];
            form += image * token[i];
            dx[k * d + i] = (T)(2.0 * weights[k] * image);
        }
        form = warp_sum(form);
        if (lane == 0) forms[k] = form;
        sum += lane == 0 ? weights[k] * form : 0.0;
        __syncwarp();
    }
    sum = block_sum(sum, room);
    for (u32 k = threadIdx.x; k < n; k += blockDim.x) dlogits[k] = (T)(weights[k] * (forms[k] - sum));
}

#define COVARIANCE(suffix, T)                                                                                        \
    extern "C" __global__ void covariance_##suffix(const T *x, const T *logits, T *y, double *weights,               \
                                                   double *means, u64 *flag, double *details, u32 n, u32 d,          \
                                                   double eps) {                                                     \
        covariance(x, logits, y, weights, means, flag, details, n, d, eps);                                          \
    }                                                                                                                \
    extern "C" __global__ void covariance_gradient_##suffix(const T *x, const double *weights, const double *means,  \
                                                            const T *grad, T *dx, T *dlogits, double *scratch,       \
                                                            u32 n, u32 d) {                                          \
        covariance_gradient(x, weights, means, grad, dx, dlogits, scratch, n, d);                                    \
    }
COVARIANCE(f32, float)
COVARIANCE(f64, double)
