// Sinkhorn's updates with uniform marginals, one block a problem, all iterations in one launch. In logarithms, so that no
// potential leaves the range of float64; the backward pass reads the potentials of each iteration and nothing else.

// The cost in units of ε with the sign of a logarithm, least cost 0: 0 and below, -∞ where the cost is infinite.
template <class T> __device__ inline double log_kernel(const T *cost, u64 at, double least, double inverse_eps) {
    return (least - (double)cost[at]) * inverse_eps;
}

// log Σ exp(x) from the largest x and the sum of exp(x - largest).
struct LogSum {
    double largest, sum;
};

__device__ inline LogSum joined(LogSum a, LogSum b) {
    double largest = fmax(a.largest, b.largest);
    if (largest == -INFINITE) return a;
    return {largest, a.sum * exp(a.largest - largest) + b.sum * exp(b.largest - largest)};
}

__device__ inline double value_of(LogSum s) { return s.largest + log(s.sum); }

// Row update: out_i = -log n - log Σ_j exp(M_ij + other_j). A warp takes a row.
template <class T>
__device__ inline void update_rows(const T *cost, const double *other, double *out, u32 n, double least,
                                   double inverse_eps) {
    u32 lane = threadIdx.x % 32;
    for (u32 i = threadIdx.x / 32; i < n; i += blockDim.x / 32) {
        double largest = -INFINITE, sum = 0.0;
        for (u32 j = lane; j < n; j += 32) largest = fmax(largest, log_kernel(cost, i * n + j, least, inverse_eps) + other[j]);
        largest = warp_max(largest);
        for (u32 j = lane; j < n; j += 32) sum += exp(log_kernel(cost, i * n + j, least, inverse_eps) + other[j] - largest);
        sum = warp_sum(sum);
        if (lane == 0) out[i] = -log((double)n) - largest - log(sum);
    }
    __syncthreads();
}

// Column update: out_j = -log n - log Σ_i exp(M_ij + other_i). A warp takes every so-manieth row of 32 columns; `room`
// holds two numbers a thread.
template <class T>
__device__ inline void update_columns(const T *cost, const double *other, double *out, u32 n, double least,
                                      double inverse_eps, LogSum *room) {
    u32 lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (u32 first = 0; first < n; first += 32) {
        u32 j = first + lane;
        LogSum own = {-INFINITE, 0.0};
        if (j < n) {
            for (u32 i = threadIdx.x / 32; i < n; i += warps)
                own.largest = fmax(own.largest, log_kernel(cost, i * n + j, least, inverse_eps) + other[i]);
            if (own.largest > -INFINITE)
                for (u32 i = threadIdx.x / 32; i < n; i += warps)
                    own.sum += exp(log_kernel(cost, i * n + j, least, inverse_eps) + other[i] - own.largest);
        }
        room[threadIdx.x] = own;
        __syncthreads();
        if (threadIdx.x < 32 && j < n) {
            for (u32 warp = 1; warp < warps; warp++) own = joined(own, room[warp * 32 + lane]);
            out[j] = -log((double)n) - value_of(own);
        }
        __syncthreads();
    }
}

// Refuses a problem without a plan; the least finite cost otherwise.
template <class T>
__device__ inline bool check_costs(const T *cost, u32 n, double eps, u64 *flag, double *details, double *room,
                                   double &least) {
    __shared__ u32 row, column;
    if (threadIdx.x == 0) row = column = n;
    double illegal = 0.0, some = 0.0, most = -INFINITE, minus_least = -INFINITE;
    for (u32 at = threadIdx.x; at < n * n; at += blockDim.x) {
        double c = cost[at];
        bool inside = c < INFINITE;
        if (!(c > -INFINITE)) illegal = 1.0;
        if (!inside) some = 1.0;
        if (inside) most = fmax(most, c), minus_least = fmax(minus_least, -c);
    }
    illegal = block_max(illegal, room), some = block_max(some, room);
    most = block_max(most, room), minus_least = block_max(minus_least, room);
    if (illegal > 0.0) {
        if (threadIdx.x == 0) refuse(flag, details, blockIdx.x, NOT_FINITE, 0.0);
        return false;
    }
    for (u32 k = threadIdx.x; some > 0.0 && k < 2 * n; k += blockDim.x) {
        u32 line = k % n;
        bool any = false;
        for (u32 i = 0; i < n && !any; i++) any = (double)cost[k < n ? line * n + i : i * n + line] < INFINITE;
        if (!any) atomicMin(k < n ? &row : &column, line);
    }
    __syncthreads();
    least = -minus_least;
    bool feasible = row == n && column == n, wide = (most - least) / eps > 1125899906842624.0; // 2^50
    if (threadIdx.x == 0 && !feasible)
        refuse(flag, details, blockIdx.x, row <= column ? INFEASIBLE_ROW : INFEASIBLE_COLUMN, row <= column ? row : column);
    else if (threadIdx.x == 0 && wide)
        refuse(flag, details, blockIdx.x, EPS_TOO_SMALL, eps);
    return feasible && !wide;
}

// Keeps in `path` of each problem, of 2 n iterations + 1 numbers, the logarithms of the row and column scalings after each
// iteration and the least cost.
template <class T>
__device__ inline void sinkhorn(const T *cost, T *plan, double *path, u64 *flag, double *details, u32 n, u32 iterations,
                                double eps) {
    SHARED_MEMORY(rows);
    double *columns = rows + n, *room = columns + n;
    double least, inverse_eps = 1.0 / eps;
    cost += (u64)blockIdx.x * n * n, plan += (u64)blockIdx.x * n * n;
    path += (u64)blockIdx.x * (2 * (u64)n * iterations + 1);
    if (!check_costs(cost, n, eps, flag, details, room, least)) return;
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) columns[j] = 0.0;
    __syncthreads();
    for (u32 t = 0; t < iterations; t++) {
        update_rows(cost, columns, rows, n, least, inverse_eps);
        update_columns(cost, rows, columns, n, least, inverse_eps, (LogSum *)room);
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            path[2 * (u64)n * t + i] = rows[i];
            path[2 * (u64)n * t + n + i] = columns[i];
        }
    }
    if (threadIdx.x == 0) path[2 * (u64)n * iterations] = least;
    for (u32 at = threadIdx.x; at < n * n; at += blockDim.x)
        plan[at] = (T)exp(log_kernel(cost, at, least, inverse_eps) + rows[at / n] + columns[at % n]);
}

// What the last column update takes back from the gradient G of the plan P: N Σ_i P_ij G_ij as the sum of `pivot`, the G at
// the column's largest weight, and the small `mean`.
template <class T>
__device__ inline void last_columns(const T *cost, const T *grad, const double *rows, const double *columns, double *pivot,
                                    double *mean, u32 n, double least, double inverse_eps, double *room) {
    u32 lane = threadIdx.x % 32, warps = blockDim.x / 32;
    double *weights = room, *pivots = room + blockDim.x;
    for (u32 first = 0; first < n; first += 32) {
        u32 j = first + lane;
        double most = -INFINITE, at_most = 0.0, sum = 0.0;
        for (u32 i = threadIdx.x / 32; j < n && i < n; i += warps) {
            double weight = log_kernel(cost, i * n + j, least, inverse_eps) + rows[i];
            if (weight > most) most = weight, at_most = grad[i * n + j];
        }
        weights[threadIdx.x] = most, pivots[threadIdx.x] = at_most;
        __syncthreads();
        for (u32 warp = 0; warp < warps; warp++) {
            u32 other = warp * 32 + lane;
            if (warp == 0 || weights[other] > most) most = weights[other], at_most = pivots[other];
        }
        __syncthreads();
        for (u32 i = threadIdx.x / 32; j < n && i < n; i += warps)
            sum += exp(log_kernel(cost, i * n + j, least, inverse_eps) + rows[i] + columns[j]) * ((double)grad[i * n + j] - at_most);
        weights[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < 32 && j < n) {
            for (u32 warp = 1; warp < warps; warp++) sum += weights[warp * 32 + lane];
            pivot[j] = at_most, mean[j] = n * sum;
        }
        __syncthreads();
    }
}

// The gradient of the cost, through all updates backwards. `work` has n² numbers a problem. Refused where the terms cancel
// to less than `residue` of themselves.
template <class T>
__device__ inline void sinkhorn_gradient(const T *cost, const T *grad, const double *path, double *work, T *out, u64 *flag,
                                         double *details, u32 n, u32 iterations, double eps, double residue) {
    SHARED_MEMORY(pivot);
    double *mean = pivot + n, *from_rows = mean + n, *from_columns = from_rows + n, *room = from_columns + n;
    double inverse_eps = 1.0 / eps, log_n = log((double)n), terms = 0.0;
    u32 lane = threadIdx.x % 32, warps = blockDim.x / 32;
    u64 base = (u64)blockIdx.x * n * n;
    cost += base, grad += base, work += base, out += base, path += (u64)blockIdx.x * (2 * (u64)n * iterations + 1);
    double least = path[2 * (u64)n * iterations];
    const double *rows = path + 2 * (u64)n * (iterations - 1), *columns = rows + n;
    last_columns(cost, grad, rows, columns, pivot, mean, n, least, inverse_eps, room);
    for (u32 i = threadIdx.x / 32; i < n; i += warps) {
        double sum = 0.0;
        for (u32 j = lane; j < n; j += 32) {
            u32 at = i * n + j;
            double own = exp(log_kernel(cost, at, least, inverse_eps) + rows[i] + columns[j])
                       * (((double)grad[at] - pivot[j]) - mean[j]);
            work[at] = own;
            sum += own;
            terms = fmax(terms, fabs(own));
        }
        sum = warp_sum(sum);
        if (lane == 0) from_rows[i] = sum;
        terms = fmax(terms, fabs(sum));
    }
    __syncthreads();
    for (u32 t = iterations; t-- > 0;) {
        rows = path + 2 * (u64)n * t;
        // The row update backwards: its weights are exp(M + log v + log u) n with the column scalings before it.
        for (u32 first = 0; first < n; first += 32) {
            u32 j = first + lane;
            double sum = 0.0;
            for (u32 i = threadIdx.x / 32; j < n && i < n; i += warps) {
                u32 at = i * n + j;
                double before = t > 0 ? *(rows - n + j) : 0.0;
                double own = exp(log_kernel(cost, at, least, inverse_eps) + rows[i] + before + log_n) * from_rows[i];
                work[at] -= own;
                sum -= own;
            }
            room[threadIdx.x] = sum;
            __syncthreads();
            if (threadIdx.x < 32 && j < n) {
                for (u32 warp = 1; warp < warps; warp++) sum += room[warp * 32 + lane];
                from_columns[j] = sum;
                terms = fmax(terms, fabs(sum));
            }
            __syncthreads();
        }
        if (t == 0) break;
        // The column update of the iteration before, backwards.
        rows -= 2 * n, columns = rows + n;
        for (u32 i = threadIdx.x / 32; i < n; i += warps) {
            double sum = 0.0;
            for (u32 j = lane; j < n; j += 32) {
                u32 at = i * n + j;
                double own = exp(log_kernel(cost, at, least, inverse_eps) + rows[i] + columns[j] + log_n) * from_columns[j];
                work[at] -= own;
                sum -= own;
            }
            sum = warp_sum(sum);
            if (lane == 0) from_rows[i] = sum;
            terms = fmax(terms, fabs(sum));
        }
        __syncthreads();
    }
    double largest = 0.0;
    for (u32 at = threadIdx.x; at < n * n; at += blockDim.x) {
        double own = -inverse_eps * work[at];
        out[at] = (T)own;
        largest = fmax(largest, fabs(own));
    }
    largest = block_max(largest, room), terms = block_max(terms, room);
    if (threadIdx.x == 0 && largest < residue * terms * inverse_eps)
        refuse(flag, details, blockIdx.x, TOO_FEW_DIGITS, largest / (terms * inverse_eps));
}

#define SINKHORN(suffix, T)                                                                                          \
    extern "C" __global__ void sinkhorn_##suffix(const T *cost, T *plan, double *path, u64 *flag, double *details,   \
                                                 u32 n, u32 iterations, double eps) {                                \
        sinkhorn(cost, plan, path, flag, details, n, iterations, eps);                                               \
    }                                                                                                                \
    extern "C" __global__ void sinkhorn_gradient_##suffix(const T *cost, const T *grad, const double *path,          \
                                                          double *work, T *out, u64 *flag, double *details, u32 n,   \
                                                          u32 iterations, double eps, double residue) {              \
        sinkhorn_gradient(cost, grad, path, work, out, flag, details, n, iterations, eps, residue);                  \
    }
SINKHORN(f32, float)
SINKHORN(f64, double)
