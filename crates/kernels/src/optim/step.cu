// Steps of optimisers and moving averages over all parameters in one launch, and the norm of all gradients. A table holds
// where each parameter lies; a block takes a chunk of one parameter. Arithmetic is float64, as on the CPU: memory, not
// arithmetic, is what a step costs.
#pragma once
#include "../nn/element.cuh"

// A row of the table; `Slot` in optim.rs. `copy` is the bfloat16 copy that the network computes with, or 0.
struct Slot {
    u64 value, gradient, first, second, copy, count;
    double shrink, rate, root;
};
const u32 CHUNK = 4096;

// The values of a block's chunk: `chunks` holds a parameter and the chunk's number in it for each block.
struct Chunk {
    const Slot &slot;
    u64 from, to;

    __device__ Chunk(const u64 *table, const u32 *chunks)
        : slot(((const Slot *)table)[chunks[2 * blockIdx.x]]), from((u64)chunks[2 * blockIdx.x + 1] * CHUNK) {
        to = from + CHUNK < slot.count ? from + CHUNK : slot.count;
    }
};

template <class S> __device__ inline void store_value(const Slot &slot, u64 i, double value) {
    ((S *)slot.value)[i] = (S)value;
    if (slot.copy) ((bf16 *)slot.copy)[i] = narrow<bf16>((float)value);
}

// `scale` points to the gradients' factor. One that is not finite leaves everything as it was.
template <class S>
__device__ inline void adamw(const u64 *table, const u32 *chunks, const double *scale, double beta1, double beta2, double eps) {
    Chunk chunk(table, chunks);
    const Slot &slot = chunk.slot;
    double factor = *scale;
    if (!is_number(factor)) return;
    const S *value = (const S *)slot.value, *gradient = (const S *)slot.gradient;
    S *first = (S *)slot.first, *second = (S *)slot.second;
    for (u64 i = chunk.from + threadIdx.x; i < chunk.to; i += blockDim.x) {
        double g = gradient[i] * factor, m = first[i], v = second[i];
        m += (1.0 - beta1) * (g - m);
        v = beta2 * v + (1.0 - beta2) * g * g;
        double size = sqrt(v) / slot.root + eps;
        store_value<S>(slot, i, value[i] * slot.shrink - slot.rate * m / size);
        first[i] = (S)m, second[i] = (S)v;
    }
}

// `shrink` is the penalty of the parameter, `rate` the learning rate.
template <class S>
__device__ inline void sgd(const u64 *table, const u32 *chunks, const double *scale, double momentum, u32 nesterov) {
    Chunk chunk(table, chunks);
    const Slot &slot = chunk.slot;
    double factor = *scale;
    if (!is_number(factor)) return;
    const S *value = (const S *)slot.value, *gradient = (const S *)slot.gradient;
    S *velocity = (S *)slot.first;
    for (u64 i = chunk.from + threadIdx.x; i < chunk.to; i += blockDim.x) {
        double g = gradient[i] * factor + slot.shrink * value[i];
        double speed = momentum * velocity[i] + g, direction = nesterov ? g + momentum * speed : speed;
        store_value<S>(slot, i, value[i] - slot.rate * direction);
        velocity[i] = (S)speed;
    }
}

// value = decay value + (1 - decay) gradient, where `gradient` is the parameter that the average follows.
template <class S> __device__ inline void ema(const u64 *table, const u32 *chunks, double decay) {
    Chunk chunk(table, chunks);
    const S *value = (const S *)chunk.slot.value, *next = (const S *)chunk.slot.gradient;
    for (u64 i = chunk.from + threadIdx.x; i < chunk.to; i += blockDim.x)
        store_value<S>(chunk.slot, i, decay * value[i] + (1.0 - decay) * next[i]);
}

// The sum of squares of each chunk of the gradients.
template <class S> __device__ inline void gradient_squares(const u64 *table, const u32 *chunks, double *parts) {
    SHARED_MEMORY(room);
    Chunk chunk(table, chunks);
    const S *gradient = (const S *)chunk.slot.gradient;
    double sum = 0.0;
    for (u64 i = chunk.from + threadIdx.x; i < chunk.to; i += blockDim.x) sum += (double)gradient[i] * (double)gradient[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block: the norm, and the factor that brings it down to `most`: [norm, factor]. The factor of a norm that is not
// finite is NaN, so that no step is made.
extern "C" __global__ void gradient_factor(const double *parts, double *out, u32 n, double most) {
    SHARED_MEMORY(room);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += parts[i];
    double norm = sqrt(block_sum(sum, room)), factor = most / (norm + 1e-6);
    if (threadIdx.x != 0) return;
    out[0] = norm;
    out[1] = is_number(norm) ? fmin(factor, 1.0) : norm - norm;
}

#define STEP(suffix, S)                                                                                              \
    extern "C" __global__ void adamw_##suffix(const u64 *table, const u32 *chunks, const double *scale, double beta1, \
                                              double beta2, double eps) {                                            \
        adamw<S>(table, chunks, scale, beta1, beta2, eps);                                                           \
    }                                                                                                                \
    extern "C" __global__ void sgd_##suffix(const u64 *table, const u32 *chunks, const double *scale,                \
                                            double momentum, u32 nesterov) {                                         \
        sgd<S>(table, chunks, scale, momentum, nesterov);                                                            \
    }                                                                                                                \
    extern "C" __global__ void ema_##suffix(const u64 *table, const u32 *chunks, double decay) {                     \
        ema<S>(table, chunks, decay);                                                                                \
    }                                                                                                                \
    extern "C" __global__ void gradient_squares_##suffix(const u64 *table, const u32 *chunks, double *parts) {       \
        gradient_squares<S>(table, chunks, parts);                                                                   \
    }
STEP(f32, float)
STEP(f64, double)
