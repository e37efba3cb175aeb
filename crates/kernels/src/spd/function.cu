// Gradients of functions of symmetric matrices: V (K o (Vᵀ G V)) Vᵀ with divided differences K (Daleckii and Krein).

// Divided differences at eigenvalues x and y with the values fx and fy, without cancellation.
__device__ inline double divided(u32 function, double x, double y, double fx, double fy) {
    switch (function) {
    case LOG: {
        // 2 artanh(r) / (x - y) with r = (x - y) / (x + y), by its series where the difference of logarithms cancels.
        double difference = x - y, sum = x + y, r = difference / sum, r2 = r * r;
        if (r2 > 0.02) return (fx - fy) / difference;
        double series = 1.0 / 19.0;
        for (int k = 8; k >= 0; k--) series = series * r2 + 1.0 / (2 * k + 1);
        return 2.0 / sum * series;
    }
    case SQRT: return 1.0 / (fx + fy);
    case INV_SQRT: return -(fx * fy) * (fx * fy) / (fx + fy);
    default: {
        double gap = fabs(x - y);
        return fmax(fx, fy) * (gap == 0.0 ? 1.0 : -expm1(-gap) / gap);
    }
    }
}

// One block a matrix; `vectors` holds eigenvectors in rows. The gradient of a symmetric matrix is symmetric.
template <class In, class Out>
__device__ inline void function_gradient(const double *vectors, const double *values, const In *grad, Out *out,
                                         double *scratch, u32 d, u32 function) {
    SHARED_MEMORY(memory);
    Room room(memory, scratch, d);
    u32 stride = d | 1;
    double *x = room.first, *y = room.second, *eigenvalues = room.rest, *spectrum = eigenvalues + d;
    u64 base = (u64)blockIdx.x * d * d;
    const double *v = vectors + base;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        x[i * stride + j] = 0.5 * ((double)grad[base + at] + (double)grad[base + j * d + i]);
    }
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
        eigenvalues[i] = values[(u64)blockIdx.x * d + i];
        spectrum[i] = function_value(function, eigenvalues[i]);
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 k = at / d, j = at % d;
        double sum = 0.0;
        for (u32 i = 0; i < d; i++) sum += v[k * d + i] * x[i * stride + j];
        y[k * stride + j] = sum;
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 k = at / d, l = at % d;
        double sum = 0.0;
        for (u32 j = 0; j < d; j++) sum += y[k * stride + j] * v[l * d + j];
        x[k * stride + l] = sum * divided(function, eigenvalues[k], eigenvalues[l], spectrum[k], spectrum[l]);
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 k = at / d, j = at % d;
        double sum = 0.0;
        for (u32 l = 0; l < d; l++) sum += x[k * stride + l] * v[l * d + j];
        y[k * stride + j] = sum;
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        if (j > i) continue;
        double sum = 0.0;
        for (u32 k = 0; k < d; k++) sum += v[k * d + i] * y[k * stride + j];
        out[base + i * d + j] = out[base + j * d + i] = (Out)sum;
    }
}

#define FUNCTION_GRADIENT(name, In, Out)                                                                             \
    extern "C" __global__ void name(const double *vectors, const double *values, const In *grad, Out *out,           \
                                    double *scratch, u32 d, u32 function) {                                          \
        function_gradient(vectors, values, grad, out, scratch, d, function);                                         \
    }
FUNCTION_GRADIENT(spd_gradient_f32_f32, float, float)
FUNCTION_GRADIENT(spd_gradient_f64_f32, double, float)
FUNCTION_GRADIENT(spd_gradient_f64_f64, double, double)
