// Distances of pairs of matrices, and their gradients.

// The log-Euclidean distance: ‖x - y‖ of the logarithms. One block a pair.
template <class Out>
__device__ inline void le_distance(const double *a, const double *b, const u32 *left, const u32 *right, double *kept,
                                   Out *out, u32 size) {
    SHARED_MEMORY(room);
    const double *x = a + (u64)left[blockIdx.x] * size, *y = b + (u64)right[blockIdx.x] * size;
    double sum = 0.0;
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) sum += (x[at] - y[at]) * (x[at] - y[at]);
    sum = sqrt(block_sum(sum, room));
    if (threadIdx.x == 0) kept[blockIdx.x] = sum, out[blockIdx.x] = (Out)sum;
}

// What a pair's gradient is multiplied by: scale * grad / distance, 0 at distance 0.
template <class In> __device__ inline double pair_factor(const In *grad, const double *kept, u32 pair, double scale) {
    return kept[pair] > 0.0 ? scale * (double)grad[pair] / kept[pair] : 0.0;
}

// Per matrix the sum of factor * (own - other) over its pairs, which `members` lists from `offsets` on.
template <class In>
__device__ inline void le_gradient(const double *own, const double *others, const u32 *partner, const u32 *offsets,
                                   const u32 *members, const In *grad, const double *kept, double *out, u32 size) {
    u64 base = (u64)blockIdx.x * size;
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        double sum = 0.0, mine = own[base + at];
        for (u32 k = offsets[blockIdx.x]; k < offsets[blockIdx.x + 1]; k++) {
            u32 pair = members[k];
            sum += pair_factor(grad, kept, pair, 1.0) * (mine - others[(u64)partner[pair] * size + at]);
        }
        out[base + at] = sum;
    }
}

// A row's squared length, by a warp.
__device__ inline double square_of(const double *row, u32 d) {
    double sum = 0.0;
    for (u32 i = threadIdx.x % 32; i < d; i += 32) sum += row[i] * row[i];
    return warp_sum(sum);
}

// Orthogonalises the rows of `w` by rotations of pairs, and applies them to those of `r` (one-sided Jacobi, Golub and Van
// Loan, section 8.6.4). A warp takes a pair. `squares` gets the squared lengths, which are followed through a sweep: a
// rotation moves t x·y from one to the other.
__device__ inline bool orthogonalise(double *w, double *r, double *squares, u32 d, u32 stride) {
    __shared__ u32 rotated;
    u32 m = d + d % 2, lane = threadIdx.x % 32;
    for (u32 sweep = 0; sweep < SWEEPS; sweep++) {
        if (threadIdx.x == 0) rotated = 0;
        for (u32 k = threadIdx.x / 32; k < d; k += blockDim.x / 32) {
            double square = square_of(w + k * stride, d);
            if (lane == 0) squares[k] = square;
        }
        __syncthreads();
        for (u32 round = 0; round + 1 < m; round++) {
            for (u32 k = threadIdx.x / 32; k < m / 2; k += blockDim.x / 32) {
                u32 p, q;
                players(k, round, m, p, q);
                if (q >= d) continue;
                double pp = squares[p], qq = squares[q], pq = 0.0;
                for (u32 i = lane; i < d; i += 32) pq += w[p * stride + i] * w[q * stride + i];
                pq = warp_sum(pq);
                if (fabs(pq) <= 1e-14 * sqrt(pp) * sqrt(qq)) continue;
                double theta = (qq - pp) / (2.0 * pq);
                double t = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(1.0 + theta * theta));
                double c = 1.0 / sqrt(1.0 + t * t), s = t * c;
                for (u32 i = lane; i < d; i += 32) {
                    double x = w[p * stride + i], y = w[q * stride + i];
                    w[p * stride + i] = c * x - s * y, w[q * stride + i] = s * x + c * y;
                    x = r[p * stride + i], y = r[q * stride + i];
                    r[p * stride + i] = c * x - s * y, r[q * stride + i] = s * x + c * y;
                }
                double left = pp - t * pq, right = qq + t * pq;
                __syncwarp();
                // What little is left of a long row has lost its digits.
                if (left < 0.01 * pp) left = square_of(w + p * stride, d);
                if (right < 0.01 * qq) right = square_of(w + q * stride, d);
                if (lane == 0) rotated = 1, squares[p] = left, squares[q] = right;
            }
            __syncthreads();
        }
        u32 more = rotated;
        __syncthreads();
        if (!more) return true;
    }
    return false;
}

// A matrix by its principal root, and its eigenvectors (rows) and eigenvalues, ascending.
struct Matrix {
    const double *root, *vectors, *values;

    // Number `k` of a batch.
    __device__ Matrix of(u64 k, u32 d) const { return {root + k * d * d, vectors + k * d * d, values + k * d}; }
};

// The Bures-Wasserstein distance of a pair, by a whole block, and the polar factor U of F = B½ A½ in `u`: with F = U H,
// tr A + tr B - 2 tr H = ‖A½ - Uᵀ B½‖², a sum of squares (Bhatia, Jain and Lim 2019, theorem 1). Exactly 0 for equal roots,
// with U = 0; -1 where the iteration does not converge. Beside the two matrices `memory` has d + 32 numbers; its second
// matrix ends as the right singular vectors r_k of F, rows in A's eigenvectors from the largest eigenvalue on, and the d numbers as
// the singular values.
//
// The rows that are made orthogonal are those of Λ_A½ V_Aᵀ V_B Λ_B½, the longest first: graded like that, the iteration
// takes 10 sweeps where it takes 17 from A½ B½ (parts of training steps, d = 64).
__device__ inline double bw_pair(Matrix a, Matrix b, double *u, Room memory, u32 d) {
    u32 stride = d | 1, size = d * d;
    double *w = memory.first, *r = memory.second, *lengths = memory.rest, *room = lengths + d;
    double differs = 0.0;
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        u32 k = at / d, j = at % d, own = d - 1 - k;
        double sum = 0.0;
        for (u32 i = 0; i < d; i++) sum += a.vectors[own * d + i] * b.vectors[j * d + i];
        w[k * stride + j] = sqrt(a.values[own]) * sum * sqrt(b.values[j]);
        r[k * stride + j] = k == j;
        u[at] = 0.0;
        if (a.root[at] != b.root[at]) differs = 1.0;
    }
    if (block_max(differs, room) == 0.0) return 0.0;
    if (!orthogonalise(w, r, lengths, d, stride)) return -1.0;
    for (u32 k = threadIdx.x / 32; k < d; k += blockDim.x / 32) {
        double square = square_of(w + k * stride, d);
        if (threadIdx.x % 32 == 0) lengths[k] = sqrt(square);
    }
    __syncthreads();
    // U between the eigenvectors, then V_B U, then U itself.
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) w[at / d * stride + at % d] /= lengths[at / d];
    __syncthreads();
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        u32 j = at / d, i = at % d;
        double sum = 0.0;
        for (u32 k = 0; k < d; k++) sum += w[k * stride + j] * r[k * stride + i];
        u[at] = sum;
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        u32 i = at / d, k = at % d;
        double sum = 0.0;
        for (u32 j = 0; j < d; j++) sum += b.vectors[j * d + i] * u[j * d + k];
        w[i * stride + k] = sum;
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        double sum = 0.0;
        for (u32 k = 0; k < d; k++) sum += w[i * stride + k] * a.vectors[(d - 1 - k) * d + j];
        u[at] = sum;
    }
    __syncthreads();
    double square = 0.0;
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        double gap = a.root[at];
        for (u32 k = 0; k < d; k++) gap -= u[k * d + i] * b.root[k * d + j];
        square += gap * gap;
    }
    return sqrt(block_sum(square, room));
}

// Distances and polar factors of pairs, one block a pair; `first` is the number of the first.
template <class Out>
__device__ inline void bw_distance(Matrix a, Matrix b, const u32 *left, const u32 *right, double *polar, double *kept, Out *out,
                                   u64 *flag, double *details, double *scratch, u32 d, u32 first) {
    SHARED_MEMORY(memory);
    u32 pair = first + blockIdx.x, size = d * d;
    double distance = bw_pair(a.of(left[pair], d), b.of(right[pair], d), polar + (u64)blockIdx.x * size,
                              Room(memory, scratch, d), d);
    if (threadIdx.x != 0) return;
    if (distance < 0.0) refuse(flag, details, left[pair], NO_CONVERGENCE, SWEEPS);
    kept[pair] = distance, out[pair] = (Out)distance;
}

// The block's first index of the least number; `count` where all are infinite. `least` gets the number.
__device__ inline u32 first_least(const double *numbers, u32 count, double &least, double *room) {
    __shared__ u32 index;
    if (threadIdx.x == 0) index = count;
    double own = INFINITE;
    for (u32 j = threadIdx.x; j < count; j += blockDim.x) own = fmin(own, numbers[j]);
    least = -block_max(-own, room);
    for (u32 j = threadIdx.x; j < count && least < INFINITE; j += blockDim.x)
        if (numbers[j] == least) atomicMin(&index, j);
    __syncthreads();
    u32 found = index;
    __syncthreads();
    return found;
}

// Margin for rounding in the comparison of bounds with distances.
#define SLACK 1e-8

// The squares of symmetric matrices, one block a matrix.
extern "C" __global__ void spd_square(const double *roots, double *squares, u32 d) {
    const double *root = roots + (u64)blockIdx.x * d * d;
    double *square = squares + (u64)blockIdx.x * d * d;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        double sum = 0.0;
        for (u32 l = 0; l < d; l++) sum += root[l * d + i] * root[l * d + j];
        square[at] = sum;
    }
}

// Shares of rounding errors in the bounds below: of orthogonal rows, of a sum of traces, of an inner product of two matrices,
// and of a product with a root, which its condition number magnifies. Each is generous.
#define ROWS_ROUNDING 1e-11
#define SUM_ROUNDING 1e-12
#define INNER_ROUNDING 4e-13
#define ROOT_ROUNDING 1e-13

// Raises the bounds of the distances from A to all that lie below `worst`, by Kantorovich duality as in mining.rs: any positive
// definite P gives δ² ≥ tr A + tr B - 2 √(tr A P⁻¹ · tr B P). `bw_pair` has left the singular values s_k and right singular
// vectors r_k of C½ A½ in `memory`; P = Σ (A½ r_k)(A½ r_k)ᵀ / s_k is the map from C to A, whatever C is, and tr A P⁻¹ = Σ s_k.
// `squares` are the matrices themselves and `spectra` their eigenvalues, `p` has room for P.
__device__ inline void tighten(Matrix a, const double *squares, const double *spectra, double *p, Room memory, double *bounds,
                               double worst, u32 d, u32 m) {
    u32 stride = d | 1, size = d * d, lane = threadIdx.x % 32;
    double *w = memory.first, *r = memory.second, *lengths = memory.rest, *room = lengths + d;
    double length = 0.0, least = INFINITE, trace = 0.0;
    for (u32 k = threadIdx.x; k < d; k += blockDim.x) {
        length += lengths[k], trace += a.values[k];
        least = fmin(least, lengths[k]);
    }
    length = block_sum(length, room), trace = block_sum(trace, room), least = -block_max(-least, room);
    if (!(least > 0.0)) return;
    length *= 1.0 + ROWS_ROUNDING + ROOT_ROUNDING * sqrt(a.values[d - 1] / a.values[0]);
    // The vectors are not needed any more: their numbers become those of r_k Λ½ / √s_k.
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        u32 k = at / d, i = at % d;
        r[k * stride + i] *= sqrt(a.values[d - 1 - i]) / sqrt(lengths[k]);
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        u32 k = at / d, j = at % d;
        double sum = 0.0;
        for (u32 i = 0; i < d; i++) sum += r[k * stride + i] * a.vectors[(d - 1 - i) * d + j];
        w[k * stride + j] = sum;
    }
    __syncthreads();
    double stretch = 0.0;
    for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        double sum = 0.0;
        for (u32 k = 0; k < d; k++) sum += w[k * stride + i] * w[k * stride + j];
        p[at] = sum;
        if (i == j) stretch += sum;
    }
    stretch = block_sum(stretch, room);
    for (u32 j = threadIdx.x / 32; j < m; j += blockDim.x / 32) {
        if (bounds[j] == INFINITE || bounds[j] > worst * (1.0 + SLACK)) continue;
        double inner = 0.0, other = 0.0;
        for (u32 at = lane; at < size; at += 32) inner += squares[(u64)j * size + at] * p[at];
        for (u32 k = lane; k < d; k += 32) other += spectra[(u64)j * d + k];
        inner = warp_sum(inner), other = warp_sum(other);
        inner = fmax(inner, 0.0) + INNER_ROUNDING * other * stretch;
        double both = (trace + other) * (1.0 - SUM_ROUNDING), square = both - 2.0 * sqrt(length * inner);
        if (lane == 0 && square > 0.0) bounds[j] = fmax(bounds[j], sqrt(square));
    }
    __syncthreads();
}

// For each matrix of `a` the `k` nearest of the `m` of `b` whose group it may be compared with, ascending, the lower index
// first of equal ones; `m` stands for nobody. One block a matrix. Groups are `size` consecutive matrices.
//
// A log-Euclidean distance is computed at once. A Bures-Wasserstein distance is at least H/√2 with H = ‖A½ - B½‖, and at least
// √Σ(√λ_i(A) - √λ_i(B))² over the ordered eigenvalues; pairs are looked at from the least bound on, as long as it lies below
// the distance that was found. Each pair that was looked at raises the bounds of the others by its map, and so does the map to
// the sum of all of `b`, whose root `middle` is, before the first. `looked` counts the pairs of each matrix.
extern "C" __global__ void spd_nearest(const double *a, const double *vectors_a, const double *spectra_a, const double *b,
                                       const double *vectors_b, const double *spectra_b, const double *squares,
                                       const double *middle, const double *middle_vectors, const double *middle_spectrum,
                                       const u32 *allowed, double *bounds, double *polar, u32 *index, double *distances,
                                       u32 *looked, u64 *flag, double *details, double *scratch, u32 d, u32 m, u32 size,
                                       u32 k, u32 bounded) {
    SHARED_MEMORY(memory);
    Room matrices(memory, scratch, d);
    u32 numbers = d * d, lane = threadIdx.x % 32, groups = m / size;
    double *room = matrices.rest + d;
    const double *x = a + (u64)blockIdx.x * numbers;
    bounds += (u64)blockIdx.x * m, index += (u64)blockIdx.x * k, distances += (u64)blockIdx.x * k;
    for (u32 j = threadIdx.x / 32; j < m; j += blockDim.x / 32) {
        double roots = 0.0, spectra = 0.0;
        bool open = allowed[(u64)(blockIdx.x / size) * groups + j / size];
        for (u32 at = lane; open && at < numbers; at += 32) {
            double gap = x[at] - b[(u64)j * numbers + at];
            roots += gap * gap;
        }
        for (u32 i = lane; open && bounded && i < d; i += 32) {
            double gap = sqrt(spectra_a[(u64)blockIdx.x * d + i]) - sqrt(spectra_b[(u64)j * d + i]);
            spectra += gap * gap;
        }
        roots = sqrt(warp_sum(roots)), spectra = sqrt(warp_sum(spectra));
        if (lane == 0) bounds[j] = !open ? INFINITE : bounded ? fmax(roots * 0.7071067811865475, spectra) : roots;
    }
    for (u32 place = threadIdx.x; place < k; place += blockDim.x) index[place] = m, distances[place] = INFINITE;
    __syncthreads();
    Matrix own = Matrix{a, vectors_a, spectra_a}.of(blockIdx.x, d), others = {b, vectors_b, spectra_b};
    double *map = polar + (u64)blockIdx.x * numbers;
    if (middle && bw_pair(own, {middle, middle_vectors, middle_spectrum}, map, matrices, d) > 0.0)
        tighten(own, squares, spectra_b, map, matrices, bounds, INFINITE, d, m);
    for (u32 count = 0;; count++) {
        double bound;
        u32 j = first_least(bounds, m, bound, room);
        if (j == m || bound > distances[k - 1] * (1.0 + SLACK)) {
            if (threadIdx.x == 0) looked[blockIdx.x] = count;
            return;
        }
        double distance = bound;
        if (bounded) distance = bw_pair(own, others.of(j, d), map, matrices, d);
        if (threadIdx.x == 0) {
            if (distance < 0.0) refuse(flag, details, blockIdx.x, NO_CONVERGENCE, SWEEPS);
            bounds[j] = INFINITE;
            u32 place = k;
            while (place > 0 && (distance < distances[place - 1] || (distance == distances[place - 1] && j < index[place - 1]))) {
                if (place < k) index[place] = index[place - 1], distances[place] = distances[place - 1];
                place--;
            }
            if (place < k) index[place] = j, distances[place] = distance;
        }
        __syncthreads();
        if (bounded && distance > 0.0)
            tighten(own, squares, spectra_b, map, matrices, bounds, distances[k - 1], d, m);
    }
}

// For each row of `a` the nearest row of `b` with another label by squared distances, the lower index of equally near ones;
// `n` where there is none. One block a row; both have `n` rows of `d`.
template <class T>
__device__ inline void nearest_row(const T *a, const T *b, const u32 *labels, double *squares, u32 *index, u32 n, u32 d) {
    SHARED_MEMORY(room);
    u32 lane = threadIdx.x % 32;
    squares += (u64)blockIdx.x * n;
    for (u32 j = threadIdx.x / 32; j < n; j += blockDim.x / 32) {
        bool open = labels[j] != labels[blockIdx.x];
        double sum = 0.0;
        for (u32 at = lane; open && at < d; at += 32) {
            double gap = (double)a[(u64)blockIdx.x * d + at] - (double)b[(u64)j * d + at];
            sum += gap * gap;
        }
        sum = warp_sum(sum);
        if (lane == 0) squares[j] = open ? sum : INFINITE;
    }
    __syncthreads();
    double least;
    u32 found = first_least(squares, n, least, room);
    if (threadIdx.x == 0) index[blockIdx.x] = found;
}

// Adds to `sum` of each matrix factor * (own root - T), T = Uᵀ B½ for the left matrices and U A½ for the right ones, over
// its pairs among the `count` from `first` on, whose U are in `polar`.
template <class In>
__device__ inline void bw_accumulate(const double *own, const double *others, const u32 *partner, const u32 *offsets,
                                     const u32 *members, const In *grad, const double *kept, const double *polar,
                                     double *sum, double *scratch, u32 d, u32 first, u32 count, u32 transposed) {
    SHARED_MEMORY(memory);
    Room room(memory, scratch, d);
    u32 stride = d | 1, size = d * d;
    double *u = room.first, *root = room.second;
    u64 base = (u64)blockIdx.x * size;
    for (u32 k = offsets[blockIdx.x]; k < offsets[blockIdx.x + 1]; k++) {
        u32 pair = members[k];
        double factor = pair < first || pair >= first + count ? 0.0 : pair_factor(grad, kept, pair, 0.5);
        if (factor == 0.0) continue;
        const double *rotation = polar + (u64)(pair - first) * size, *other = others + (u64)partner[pair] * size;
        for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
            u32 i = at / d, j = at % d;
            u[(transposed ? j : i) * stride + (transposed ? i : j)] = rotation[at];
            root[i * stride + j] = other[at];
        }
        __syncthreads();
        for (u32 at = threadIdx.x; at < size; at += blockDim.x) {
            u32 i = at / d, j = at % d;
            double image = 0.0;
            for (u32 l = 0; l < d; l++) image += u[i * stride + l] * root[l * stride + j];
            sum[base + at] += factor * (own[base + at] - image);
        }
        __syncthreads();
    }
}

// A^{-½} times the sum, symmetrised: the gradient of A.
template <class Out>
__device__ inline void bw_finish(const double *vectors, const double *values, const double *sum, Out *out, double *scratch,
                                 u32 d) {
    SHARED_MEMORY(memory);
    Room room(memory, scratch, d);
    u32 stride = d | 1;
    double *inverse = room.first, *s = room.second;
    u64 base = (u64)blockIdx.x * d * d;
    const double *v = vectors + base, *x = values + (u64)blockIdx.x * d;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        double total = 0.0;
        for (u32 k = 0; k < d; k++) total += v[k * d + i] * v[k * d + j] / sqrt(x[k]);
        inverse[i * stride + j] = total;
        s[i * stride + j] = sum[base + at];
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        if (j > i) continue;
        double upper = 0.0, lower = 0.0;
        for (u32 l = 0; l < d; l++) {
            upper += inverse[i * stride + l] * s[l * stride + j];
            lower += inverse[j * stride + l] * s[l * stride + i];
        }
        out[base + i * d + j] = out[base + j * d + i] = (Out)(0.5 * (upper + lower));
    }
}

#define DISTANCES(suffix, T)                                                                                         \
    extern "C" __global__ void le_distance_##suffix(const double *a, const double *b, const u32 *left,               \
                                                    const u32 *right, double *kept, T *out, u32 size) {              \
        le_distance(a, b, left, right, kept, out, size);                                                             \
    }                                                                                                                \
    extern "C" __global__ void le_gradient_##suffix(const double *own, const double *others, const u32 *partner,     \
                                                    const u32 *offsets, const u32 *members, const T *grad,           \
                                                    const double *kept, double *out, u32 size) {                     \
        le_gradient(own, others, partner, offsets, members, grad, kept, out, size);                                  \
    }                                                                                                                \
    extern "C" __global__ void bw_distance_##suffix(                                                                 \
        const double *a, const double *vectors_a, const double *spectra_a, const double *b, const double *vectors_b, \
        const double *spectra_b, const u32 *left, const u32 *right, double *polar, double *kept, T *out, u64 *flag,  \
        double *details, double *scratch, u32 d, u32 first) {                                                        \
        bw_distance(Matrix{a, vectors_a, spectra_a}, Matrix{b, vectors_b, spectra_b}, left, right, polar, kept, out, \
                    flag, details, scratch, d, first);                                                               \
    }                                                                                                                \
    extern "C" __global__ void bw_accumulate_##suffix(const double *own, const double *others, const u32 *partner,   \
                                                      const u32 *offsets, const u32 *members, const T *grad,         \
                                                      const double *kept, const double *polar, double *sum,          \
                                                      double *scratch, u32 d, u32 first, u32 count,                  \
                                                      u32 transposed) {                                              \
        bw_accumulate(own, others, partner, offsets, members, grad, kept, polar, sum, scratch, d, first, count,      \
                      transposed);                                                                                   \
    }                                                                                                                \
    extern "C" __global__ void bw_finish_##suffix(const double *vectors, const double *values, const double *sum,    \
                                                  T *out, double *scratch, u32 d) {                                  \
        bw_finish(vectors, values, sum, out, scratch, d);                                                            \
    }                                                                                                                \
    extern "C" __global__ void nearest_row_##suffix(const T *a, const T *b, const u32 *labels, double *squares,      \
                                                    u32 *index, u32 n, u32 d) {                                      \
        nearest_row(a, b, labels, squares, index, n, d);                                                             \
    }
DISTANCES(f32, float)
DISTANCES(f64, double)
