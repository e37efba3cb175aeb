// Convolution with one input channel a group, where a product would have a single row: a thread takes an output.
#include "conv.cu"

template <class T>
__device__ inline void depthwise_forward(const T *x, const T *w, const Sum<T> *bias, T *y, const Conv &conv) {
    u32 n = conv.batch * conv.c_out * conv.map();
    EACH_VALUE(at, n) {
        u32 o = at / conv.map() % conv.c_out, b = at / conv.map() / conv.c_out;
        Line window = conv.window(at % conv.map());
        const T *image = x + ((u64)b * conv.c_in + o / conv.og()) * conv.plane(), *taps = w + (u64)o * conv.area();
        Sum<T> sum = bias ? bias[o] : Sum<T>(0);
        for (u32 i = 0; i < conv.kh; i++) {
            int row = window.row + (int)(i * conv.dilation);
            if ((u32)row >= conv.height) continue;
            for (u32 j = 0; j < conv.kw; j++) {
                int column = window.column + (int)(j * conv.dilation);
                if ((u32)column < conv.width)
                    sum += wide(taps[i * conv.kw + j]) * wide(image[(u32)row * conv.width + (u32)column]);
            }
        }
        y[at] = narrow<T>(sum);
    }
}

template <class T> __device__ inline void depthwise_backward(const T *gy, const T *w, T *gx, const Conv &conv) {
    u32 n = conv.batch * conv.c_in * conv.plane(), og = conv.og(), map = conv.map();
    EACH_VALUE(at, n) {
        u32 pixel = at % conv.plane(), c = at / conv.plane() % conv.c_in, b = at / conv.plane() / conv.c_in;
        u32 h = pixel / conv.width + conv.padding, v = pixel % conv.width + conv.padding;
        Sum<T> sum = Sum<T>(0);
        for (u32 k = 0; k < og; k++) {
            u32 o = c * og + k;
            const T *taps = w + (u64)o * conv.area(), *image = gy + ((u64)b * conv.c_out + o) * map;
            for (u32 i = 0; i < conv.kh && i * conv.dilation <= h; i++) {
                u32 down = h - i * conv.dilation;
                if (down % conv.stride != 0 || down / conv.stride >= conv.oh) continue;
                for (u32 j = 0; j < conv.kw && j * conv.dilation <= v; j++) {
                    u32 along = v - j * conv.dilation;
                    if (along % conv.stride == 0 && along / conv.stride < conv.ow)
                        sum += wide(taps[i * conv.kw + j]) *
                               wide(image[down / conv.stride * conv.ow + along / conv.stride]);
                }
            }
        }
        gx[at] = narrow<T>(sum);
    }
}

// A block takes a piece of the outputs of a channel and a row of taps, eight of which are summed at a time: piece by
// piece, [pieces, c_out, kh, kw].
template <class T>
__device__ inline void depthwise_filter(const T *x, const T *gy, Sum<T> *parts, u32 length, const Conv &conv) {
    typedef Sum<T> S;
    SHARED_MEMORY(memory);
    S *room = (S *)memory;
    u32 i = blockIdx.x % conv.kh, o = blockIdx.x / conv.kh % conv.c_out, piece = blockIdx.x / conv.kh / conv.c_out;
    u32 map = conv.map(), all = conv.batch * map, from = piece * length, to = from + length < all ? from + length : all;
    S *out = parts + (((u64)piece * conv.c_out + o) * conv.kh + i) * conv.kw;
    for (u32 first = 0; first < conv.kw; first += 8) {
        S sums[8] = {};
        for (u32 n = from + threadIdx.x; n < to; n += blockDim.x) {
            Line window = conv.window(n % map);
            int row = window.row + (int)(i * conv.dilation);
            if ((u32)row >= conv.height) continue;
            S g = wide(gy[((u64)(n / map) * conv.c_out + o) * map + n % map]);
            const T *line = x + ((u64)(n / map) * conv.c_in + o / conv.og()) * conv.plane() + (u32)row * conv.width;
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                int column = window.column + (int)((first + j) * conv.dilation);
                if (first + j < conv.kw && (u32)column < conv.width) sums[j] += g * wide(line[column]);
            }
        }
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            S sum = block_sum(sums[j], room);
            if (threadIdx.x == 0 && first + j < conv.kw) out[first + j] = sum;
        }
    }
}

#define DEPTHWISE(suffix, T)                                                                                         \
    extern "C" __global__ void depthwise_forward_##suffix(const T *x, const T *w, const Sum<T> *bias, T *y,          \
                                                          CONV_SIZES) {                                              \
        depthwise_forward(x, w, bias, y, CONV);                                                                      \
    }                                                                                                                \
    extern "C" __global__ void depthwise_backward_##suffix(const T *gy, const T *w, T *gx, CONV_SIZES) {             \
        depthwise_backward(gy, w, gx, CONV);                                                                         \
    }                                                                                                                \
    extern "C" __global__ void depthwise_filter_##suffix(const T *x, const T *gy, Sum<T> *parts, u32 length,         \
                                                         CONV_SIZES) {                                               \
        depthwise_filter(x, gy, parts, length, CONV);                                                                \
    }
DEPTHWISE(f32, float)
DEPTHWISE(f64, double)
DEPTHWISE(bf16, bf16)
