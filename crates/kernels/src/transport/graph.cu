// The graph over an image's tokens: costs, the heaviest edges of each token, and the sum over them.

#define LEAST_NORM 1e-12
#define MEAN_OFFSET 1e-8
// Side of a tile of a product; a block has a thread for each of its entries.
#define TILE 16

// Unit tokens and their norms, one block a token; `n` tokens an image.
extern "C" __global__ void graph_unit(const double *x, double *unit, double *norms, u64 *flag, double *details, u32 n,
                                      u32 d) {
    SHARED_MEMORY(room);
    x += (u64)blockIdx.x * d, unit += (u64)blockIdx.x * d;
    double square = 0.0, bad = 0.0;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) square += x[i] * x[i], bad = fmax(bad, is_number(x[i]) ? 0.0 : 1.0);
    bad = block_max(bad, room);
    double norm = sqrt(block_sum(square, room));
    if (threadIdx.x == 0) {
        norms[blockIdx.x] = norm;
        if (bad > 0.0) refuse(flag, details, blockIdx.x / n, NOT_FINITE, 0.0);
    }
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) unit[i] = x[i] / fmax(norm, LEAST_NORM);
}

// Position of a token on its axis, from 0 to 1.
__device__ inline double position(u32 index, u32 count) { return count > 1 ? (double)index / (count - 1) : 0.0; }

// One entry of a product of an m x k and a k x n matrix, by tiles: a(i, l) and b(l, j) read an entry.
template <class A, class B> __device__ inline double tiled_product(u32 m, u32 n, u32 k, u32 tile, A a, B b) {
    __shared__ double left[TILE][TILE + 1], right[TILE][TILE + 1];
    u32 columns = (n + TILE - 1) / TILE, y = threadIdx.x / TILE, x = threadIdx.x % TILE;
    u32 i = tile / columns * TILE + y, j = tile % columns * TILE + x;
    double sum = 0.0;
    for (u32 first = 0; first < k; first += TILE) {
        left[y][x] = i < m && first + x < k ? a(i, first + x) : 0.0;
        right[y][x] = first + y < k && j < n ? b(first + y, j) : 0.0;
        __syncthreads();
        for (u32 l = 0; l < TILE; l++) sum += left[y][l] * right[l][x];
        __syncthreads();
    }
    return sum;
}

// 1 - cosine + λ · squared distance of positions; `tiles` blocks an image.
extern "C" __global__ void graph_cost(const double *unit, double *raw, u32 n, u32 d, u32 height, u32 width, double lambda,
                                      u32 tiles) {
    u32 image = blockIdx.x / tiles, tile = blockIdx.x % tiles, columns = (n + TILE - 1) / TILE;
    const double *u = unit + (u64)image * n * d;
    double cosine = tiled_product(n, n, d, tile, [=](u32 i, u32 l) { return u[(u64)i * d + l]; },
                                  [=](u32 l, u32 j) { return u[(u64)j * d + l]; });
    u32 i = tile / columns * TILE + threadIdx.x / TILE, j = tile % columns * TILE + threadIdx.x % TILE;
    if (i >= n || j >= n) return;
    double y = position(i / width, height) - position(j / width, height);
    double x = position(i % width, width) - position(j % width, width);
    raw[(u64)image * n * n + (u64)i * n + j] = 1.0 - cosine + lambda * (y * y + x * x);
}

// Divides by the mean, which it keeps; one block an image.
extern "C" __global__ void graph_mean(const double *raw, double *means, double *cost, u32 n) {
    SHARED_MEMORY(room);
    raw += (u64)blockIdx.x * n * n, cost += (u64)blockIdx.x * n * n;
    double sum = 0.0;
    for (u32 at = threadIdx.x; at < n * n; at += blockDim.x) sum += raw[at];
    double mean = block_sum(sum, room) / ((double)n * n) + MEAN_OFFSET;
    if (threadIdx.x == 0) means[blockIdx.x] = mean;
    for (u32 at = threadIdx.x; at < n * n; at += blockDim.x) cost[at] = raw[at] / mean;
}

// The gradient of the cosines, both triangles together: C = R / m with m = mean(R) + offset.
extern "C" __global__ void graph_cosines(const double *raw, const double *means, const double *grad, double *out, u32 n) {
    SHARED_MEMORY(room);
    u64 base = (u64)blockIdx.x * n * n;
    raw += base, grad += base, out += base;
    double mean = means[blockIdx.x], sum = 0.0;
    for (u32 at = threadIdx.x; at < n * n; at += blockDim.x) sum += grad[at] * raw[at];
    double shift = block_sum(sum, room) / (mean * mean * ((double)n * n));
    for (u32 at = threadIdx.x; at < n * n; at += blockDim.x)
        out[at] = 2.0 * shift - (grad[at] + grad[at % n * n + at / n]) / mean;
}

// Their product with the unit tokens; `tiles` blocks an image.
extern "C" __global__ void graph_tokens(const double *cosines, const double *unit, double *out, u32 n, u32 d, u32 tiles) {
    u32 image = blockIdx.x / tiles, tile = blockIdx.x % tiles, columns = (d + TILE - 1) / TILE;
    const double *c = cosines + (u64)image * n * n, *u = unit + (u64)image * n * d;
    double sum = tiled_product(n, d, n, tile, [=](u32 i, u32 l) { return c[(u64)i * n + l]; },
                               [=](u32 l, u32 j) { return u[(u64)l * d + j]; });
    u32 i = tile / columns * TILE + threadIdx.x / TILE, j = tile % columns * TILE + threadIdx.x % TILE;
    if (i < n && j < d) out[(u64)image * n * d + (u64)i * d + j] = sum;
}

// From the gradient of unit tokens to that of tokens, in place; one block a token. A token of norm 0 has no direction.
extern "C" __global__ void graph_project(double *out, const double *unit, const double *norms, u32 d) {
    SHARED_MEMORY(room);
    out += (u64)blockIdx.x * d, unit += (u64)blockIdx.x * d;
    double along = 0.0, norm = norms[blockIdx.x];
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) along += out[i] * unit[i];
    along = block_sum(along, room);
    double scale = norm > LEAST_NORM ? 1.0 / norm : 0.0;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) out[i] = scale * (out[i] - along * unit[i]);
}

// The `k` largest values of each row by falling value, the lower index first of equal ones; one block a row. An entry's
// place is the number of entries that go before it.
extern "C" __global__ void graph_heaviest(const double *values, u32 *index, u32 n, u32 k) {
    SHARED_MEMORY(row);
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) row[j] = values[(u64)blockIdx.x * n + j];
    __syncthreads();
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
        u32 place = 0;
        for (u32 other = 0; other < n; other++) place += row[other] > row[j] || (row[other] == row[j] && other < j);
        if (place < k) index[(u64)blockIdx.x * k + place] = j;
    }
}

// y_i = Σ_k w_ik h_index(i, k), one block a token; `edges` of each.
template <class T>
__device__ inline void aggregate(const T *h, const u32 *index, const T *weights, T *out, u64 *flag, double *details, u32 n,
                                 u32 c, u32 edges) {
    u64 image = blockIdx.x / n;
    for (u32 at = threadIdx.x; at < c; at += blockDim.x) {
        T sum = 0;
        for (u32 k = 0; k < edges; k++) {
            u32 j = index[(u64)blockIdx.x * edges + k];
            if (j < n) sum += weights[(u64)blockIdx.x * edges + k] * h[(image * n + j) * c + at];
            else if (at == 0) refuse(flag, details, blockIdx.x, ILLEGAL_INDEX, j);
        }
        out[(u64)blockIdx.x * c + at] = sum;
    }
}

// The gradient of h, one block a token: over all edges of the image that lead to it, in their order.
template <class T>
__device__ inline void aggregate_tokens(const u32 *index, const T *weights, const T *grad, T *out, u32 n, u32 c, u32 edges) {
    u64 image = blockIdx.x / n;
    u32 own = blockIdx.x % n;
    for (u32 at = threadIdx.x; at < c; at += blockDim.x) {
        T sum = 0;
        for (u32 edge = 0; edge < n * edges; edge++)
            if (index[image * n * edges + edge] == own)
                sum += weights[image * n * edges + edge] * grad[(image * n + edge / edges) * c + at];
        out[(u64)blockIdx.x * c + at] = sum;
    }
}

// The gradient of the weights, one warp an edge; `total` of them.
template <class T>
__device__ inline void aggregate_weights(const T *h, const u32 *index, const T *grad, T *out, u32 n, u32 c, u32 edges,
                                         u32 total) {
    u32 edge = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (edge >= total) return;
    u64 token = edge / edges, image = token / n;
    double sum = 0.0;
    for (u32 at = threadIdx.x % 32; at < c; at += 32)
        sum += (double)grad[token * c + at] * (double)h[(image * n + index[edge]) * c + at];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) out[edge] = (T)sum;
}

#define AGGREGATE(suffix, T)                                                                                         \
    extern "C" __global__ void graph_aggregate_##suffix(const T *h, const u32 *index, const T *weights, T *out,      \
                                                        u64 *flag, double *details, u32 n, u32 c, u32 edges) {       \
        aggregate(h, index, weights, out, flag, details, n, c, edges);                                               \
    }                                                                                                                \
    extern "C" __global__ void graph_aggregate_tokens_##suffix(const u32 *index, const T *weights, const T *grad,    \
                                                               T *out, u32 n, u32 c, u32 edges) {                    \
        aggregate_tokens(index, weights, grad, out, n, c, edges);                                                    \
    }                                                                                                                \
    extern "C" __global__ void graph_aggregate_weights_##suffix(const T *h, const u32 *index, const T *grad, T *out, \
                                                                u32 n, u32 c, u32 edges, u32 total) {                \
        aggregate_weights(h, index, grad, out, n, c, edges, total);                                                  \
    }
AGGREGATE(f32, float)
AGGREGATE(f64, double)
