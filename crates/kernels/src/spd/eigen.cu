// Eigendecompositions of symmetric matrices, one block a matrix: cyclic Jacobi, in shared memory up to 64 rows, with the rotations of a
// round-robin tournament, which act on disjoint pairs and are applied together (Golub and Van Loan, section 8.5).

// Sweeps after which an iteration counts as not converging; eight to twelve are usual.
#define SWEEPS 60

// Indices of pair k in a round among `m` (even) players, the first less than the second; each two meet once in m - 1 rounds.
__device__ inline void players(u32 k, u32 round, u32 m, u32 &p, u32 &q) {
    u32 n = m - 1;
    u32 a = k == 0 ? n : (round + k) % n;
    u32 b = k == 0 ? round : (round + n - k) % n;
    p = a < b ? a : b;
    q = a < b ? b : a;
}

// Rotations of a round.
struct Rotations {
    double *cosine, *sine, *tangent;
};

// The rotation that makes entry (p, q) zero; none where it is negligible.
__device__ inline bool rotation(const double *a, u32 stride, u32 p, u32 q, double bar, bool relative, double &tangent) {
    double off = a[p * stride + q], x = a[p * stride + p], y = a[q * stride + q];
    double limit = relative ? EPSILON / 4 * sqrt(fabs(x)) * sqrt(fabs(y)) : bar;
    tangent = 0.0;
    if (fabs(off) <= limit) return false;
    double theta = (y - x) / (2.0 * off);
    tangent = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(1.0 + theta * theta));
    return true;
}

// Applies the rotations of a round from both sides to `a`, pairs of rows and pairs of columns at a time.
__device__ inline void rotate_matrix(double *a, u32 d, u32 stride, u32 round, u32 m, Rotations r) {
    u32 half = m / 2;
    for (u32 block = threadIdx.x; block < half * half; block += blockDim.x) {
        u32 k = block / half, l = block % half, p, q, s, t;
        if (k > l) continue;
        players(k, round, m, p, q);
        players(l, round, m, s, t);
        if (k == l) {
            if (q < d) {
                double moved = r.tangent[k] * a[p * stride + q];
                a[p * stride + p] -= moved;
                a[q * stride + q] += moved;
                if (r.tangent[k] != 0.0) a[p * stride + q] = a[q * stride + p] = 0.0;
            }
            continue;
        }
        double ck = r.cosine[k], sk = r.sine[k], cl = r.cosine[l], sl = r.sine[l];
        // Beyond the matrix there is nobody, and nothing rotates with him.
        double ps = a[p * stride + s], pt = t < d ? a[p * stride + t] : 0.0;
        double qs = q < d ? a[q * stride + s] : 0.0, qt = q < d && t < d ? a[q * stride + t] : 0.0;
        double x = ck * ps - sk * qs, y = sk * ps + ck * qs, z = ck * pt - sk * qt, w = sk * pt + ck * qt;
        ps = cl * x - sl * z, pt = sl * x + cl * z, qs = cl * y - sl * w, qt = sl * y + cl * w;
        a[p * stride + s] = a[s * stride + p] = ps;
        if (t < d) a[p * stride + t] = a[t * stride + p] = pt;
        if (q < d) a[q * stride + s] = a[s * stride + q] = qs;
        if (q < d && t < d) a[q * stride + t] = a[t * stride + q] = qt;
    }
}

// Applies them to the rows of `v`.
__device__ inline void rotate_rows(double *v, u32 d, u32 stride, u32 round, u32 m, Rotations r) {
    for (u32 at = threadIdx.x; at < m / 2 * d; at += blockDim.x) {
        u32 k = at / d, i = at % d, p, q;
        if (r.tangent[k] == 0.0) continue;
        players(k, round, m, p, q);
        double x = v[p * stride + i], y = v[q * stride + i];
        v[p * stride + i] = r.cosine[k] * x - r.sine[k] * y;
        v[q * stride + i] = r.sine[k] * x + r.cosine[k] * y;
    }
}

// Diagonalises the symmetric `a`; the rows of `v` follow. An off-diagonal entry is negligible against the norm of `a`, or
// (`relative`) against its own two diagonal entries, which gives small eigenvalues of a definite, nearly diagonal matrix
// their digits (Demmel and Veselic 1992). False after too many sweeps.
__device__ inline bool diagonalise(double *a, double *v, u32 d, u32 stride, bool relative, Rotations r, double *room) {
    __shared__ u32 rotated;
    double squares = 0.0;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        double x = a[at / d * stride + at % d];
        squares += x * x;
    }
    double bar = sqrt(block_sum(squares, room)) * EPSILON / (64.0 * d);
    u32 m = d + d % 2;
    for (u32 sweep = 0; sweep < SWEEPS; sweep++) {
        if (threadIdx.x == 0) rotated = 0;
        __syncthreads();
        for (u32 round = 0; round + 1 < m; round++) {
            for (u32 k = threadIdx.x; k < m / 2; k += blockDim.x) {
                u32 p, q;
                players(k, round, m, p, q);
                double t = 0.0;
                if (q < d && rotation(a, stride, p, q, bar, relative, t)) rotated = 1;
                r.tangent[k] = t;
                r.cosine[k] = 1.0 / sqrt(1.0 + t * t);
                r.sine[k] = t * r.cosine[k];
            }
            __syncthreads();
            rotate_matrix(a, d, stride, round, m, r);
            rotate_rows(v, d, stride, round, m, r);
            __syncthreads();
        }
        u32 more = rotated;
        __syncthreads();
        if (!more) return true;
    }
    return false;
}

// Reads a matrix into shared memory, the mean of both triangles; false where it is refused.
template <class In>
__device__ inline bool read_symmetric(const In *in, double *a, u32 d, u32 stride, double bar, u64 *flag, double *details,
                                      double *room) {
    double largest = 0.0, asymmetry = 0.0;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        double x = in[at], y = in[j * d + i];
        largest = fmax(largest, is_number(x) ? fabs(x) : INFINITE);
        if (x != y) asymmetry = fmax(asymmetry, fabs(x - y));
        a[i * stride + j] = 0.5 * (x + y);
    }
    largest = block_max(largest, room);
    asymmetry = block_max(asymmetry, room);
    bool infinite = !is_number(largest), skew = asymmetry > bar * largest;
    if (threadIdx.x == 0) {
        if (infinite) refuse(flag, details, blockIdx.x, NOT_FINITE, 0.0);
        else if (skew) refuse(flag, details, blockIdx.x, NOT_SYMMETRIC, asymmetry / largest);
    }
    return !infinite && !skew;
}

// Where the matrix lies close to a multiple of the identity, subtracts that and returns the factor; 0 elsewhere. The
// differences on the diagonal are exact there.
__device__ inline double centre(double *a, u32 d, u32 stride, double *room) {
    double trace = 0.0;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) trace += a[i * stride + i];
    double mean = block_sum(trace, room) / d, squares = 0.0;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        double x = a[i * stride + j] - (i == j ? mean : 0.0);
        squares += x * x;
    }
    if (!(sqrt(block_sum(squares, room)) < 0.25 * mean)) return 0.0;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) a[i * stride + i] -= mean;
    __syncthreads();
    return mean;
}

// a = V A Vᵀ for the rows of `v`, in twice the working precision and rounded once; A is read anew. `images` holds two
// numbers a thread.
template <class In>
__device__ inline void project(const In *in, double *a, const double *v, u32 d, u32 stride, Twofold *images) {
    u32 together = blockDim.x / d, group = threadIdx.x / d, i = threadIdx.x % d;
    for (u32 first = 0; first < d; first += together) {
        u32 l = first + group;
        bool active = group < together && l < d;
        if (active) {
            Twofold sum = {0.0, 0.0};
            for (u32 j = 0; j < d; j++) add_product(sum, 0.5 * ((double)in[i * d + j] + (double)in[j * d + i]), v[l * stride + j]);
            images[threadIdx.x] = sum;
        }
        __syncthreads();
        if (active) {
            Twofold sum = {0.0, 0.0};
            double rest = 0.0;
            for (u32 j = 0; j < d; j++) {
                Twofold image = images[group * d + j];
                add_product(sum, v[i * stride + j], image.high);
                rest += v[i * stride + j] * image.low;
            }
            a[i * stride + l] = sum.high + (sum.low + rest);
        }
        __syncthreads();
    }
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 k = at / d, l = at % d;
        if (k < l) a[k * stride + l] = a[l * stride + k] = 0.5 * (a[k * stride + l] + a[l * stride + k]);
    }
    __syncthreads();
}

// Functions of the spectrum; `Function` in spd.rs.
enum Function : u32 { NOTHING = 0, LOG = 1, SQRT = 2, INV_SQRT = 3, EXP = 4 };

__device__ inline double function_value(u32 function, double x) {
    switch (function) {
    case LOG: return log(x);
    case SQRT: return sqrt(x);
    case INV_SQRT: return 1.0 / sqrt(x);
    case EXP: return exp(x);
    default: return x;
    }
}

// Memory of `decompose`.
struct EigenRoom {
    u32 stride;
    double *a, *v, *values, *spectrum, *reduce;
    Rotations rotations;
    Twofold *images;

    __device__ EigenRoom(Room room, u32 d) {
        stride = d | 1;
        a = room.first;
        v = room.second;
        values = room.rest;
        spectrum = values + d;
        reduce = spectrum + d;
        rotations.cosine = reduce + 32;
        rotations.sine = rotations.cosine + (d + 1) / 2;
        rotations.tangent = rotations.sine + (d + 1) / 2;
        images = (Twofold *)(rotations.tangent + (d + 1) / 2);
    }
};

// Least and largest of the diagonal.
__device__ inline void extremes(const double *a, u32 d, u32 stride, double &least, double &largest) {
    least = INFINITE, largest = -INFINITE;
    for (u32 i = 0; i < d; i++) {
        least = fmin(least, a[i * stride + i]);
        largest = fmax(largest, a[i * stride + i]);
    }
}

// Eigenvalues (ascending) and eigenvectors (rows) of a batch of matrices, and a function of them. With `positive`,
// a matrix must be positive definite, and small eigenvalues get a high relative accuracy. Where `failed` is given, `vectors`
// holds orthonormal bases in rows that nearly diagonalise the matrices, but for those of which `failed` is not 0: the
// iteration begins there.
template <class In, class Out>
__device__ inline void decompose(const In *all, Out *images, double *vectors, double *values, u64 *flag, double *details,
                                 double *scratch, const u32 *failed, u32 d, u32 function, u32 positive, double bar) {
    SHARED_MEMORY(memory);
    EigenRoom room(Room(memory, scratch, d), d);
    u32 stride = room.stride;
    u64 base = (u64)blockIdx.x * d * d;
    const In *in = all + base;
    if (!read_symmetric(in, room.a, d, stride, bar, flag, details, room.reduce)) return;
    double middle = positive ? centre(room.a, d, stride, room.reduce) : 0.0;
    // Close to a multiple of the identity, the differences are diagonalised, which the given basis does not belong to.
    bool given = failed && failed[blockIdx.x] == 0 && middle == 0.0;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x)
        room.v[at / d * stride + at % d] = given ? vectors[base + at] : (double)(at / d == at % d);
    __syncthreads();
    // The second time with `relative`; a given basis stands in for what the first time leaves.
    bool done = given || diagonalise(room.a, room.v, d, stride, false, room.rotations, room.reduce);
    double least, largest;
    if (given) project(in, room.a, room.v, d, stride, room.images);
    extremes(room.a, d, stride, least, largest);
    bool spread = positive && middle == 0.0 && least < 1e-3 * largest;
    if (done && (given || spread)) {
        __syncthreads();
        if (!given) project(in, room.a, room.v, d, stride, room.images);
        done = diagonalise(room.a, room.v, d, stride, spread, room.rotations, room.reduce);
        extremes(room.a, d, stride, least, largest);
    }
    least += middle, largest += middle;
    bool definite = least > d * EPSILON * largest && least > 0.0;
    if (!done || (positive && !definite)) {
        if (threadIdx.x == 0) refuse(flag, details, blockIdx.x, done ? NOT_POSITIVE : NO_CONVERGENCE, done ? least : SWEEPS);
        return;
    }
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
        double own = room.a[i * stride + i];
        room.values[i] = own;
        room.spectrum[i] = middle != 0.0 && function == LOG ? log(middle) + log1p(own / middle)
                                                            : function_value(function, middle + own);
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 k = at / d, i = at % d, place = 0;
        double own = room.values[k];
        for (u32 other = 0; other < d; other++) place += room.values[other] < own || (room.values[other] == own && other < k);
        vectors[base + place * d + i] = room.v[k * stride + i];
        if (i == 0) values[(u64)blockIdx.x * d + place] = middle + own;
    }
    if (function == NOTHING) return;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        if (j > i) continue;
        double sum = 0.0;
        for (u32 k = 0; k < d; k++) sum += room.spectrum[k] * room.v[k * stride + i] * room.v[k * stride + j];
        images[base + i * d + j] = images[base + j * d + i] = (Out)sum;
    }
}

#define DECOMPOSE(name, In, Out)                                                                                      \
    extern "C" __global__ void name(const In *all, Out *images, double *vectors, double *values, u64 *flag,          \
                                    double *details, double *scratch, const u32 *failed, u32 d, u32 function,        \
                                    u32 positive, double bar) {                                                      \
        decompose(all, images, vectors, values, flag, details, scratch, failed, d, function, positive, bar);         \
    }
DECOMPOSE(spd_decompose_f32_f32, float, float)
DECOMPOSE(spd_decompose_f32_f64, float, double)
DECOMPOSE(spd_decompose_f64_f64, double, double)

// Means of both triangles, in float64, for a library that takes any matrix for symmetric; the identity where a number is
// none, which `decompose` refuses.
template <class In> __device__ inline void symmetrise(const In *all, double *out, u32 d) {
    SHARED_MEMORY(room);
    const In *in = all + (u64)blockIdx.x * d * d;
    double *to = out + (u64)blockIdx.x * d * d, bad = 0.0;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) bad = fmax(bad, is_number(in[at]) ? 0.0 : 1.0);
    bool whole = block_max(bad, room) == 0.0;
    for (u32 at = threadIdx.x; at < d * d; at += blockDim.x) {
        u32 i = at / d, j = at % d;
        to[at] = whole ? 0.5 * (double)in[at] + 0.5 * (double)in[j * d + i] : (double)(i == j);
    }
}

extern "C" __global__ void spd_symmetrise_f32(const float *all, double *out, u32 d) { symmetrise(all, out, d); }
extern "C" __global__ void spd_symmetrise_f64(const double *all, double *out, u32 d) { symmetrise(all, out, d); }
