// Products of matrices in tiles of 64 x 64, for whatever says where its factors lie: convolutions as implicit products,
// linear maps, attention. A block of 256 threads takes a tile, or a piece of its sum; terms are added in their order, so
// that the same shapes give the same bits.
//
// A plan has: rows, columns, height, width; left, right; left_stride between rows of the left matrix; step(k), what the
// k-th term adds to the places of both factors; line(n), the place of a column; store(m, n, sum); and whether neighbours in
// memory are neighbours in the sum (LEFT_ALONG, RIGHT_ALONG) or in rows and columns.
#pragma once
#include "element.cuh"

// What a term of the sum adds: to the left address, to the right one, and to the right one's pixel.
struct Step {
    i64 left, right;
    int row, column;
};

// Where a column lies, and its pixel; outside of the image its factors are 0.
struct Line {
    i64 right;
    int row, column;
};
#define NOWHERE (-(1 << 30))

// d += a b for 16 x 16 and 16 x 8 numbers of bfloat16, spread over a warp as PTX describes it for mma.m16n8k16.
__device__ inline void multiply_16x8x16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator_multiply(d, a, b);
#endif
}

const u32 SIDE = 64;
const u32 PRODUCT_THREADS = 256;

// Four numbers that one instruction loads.
template <class S> struct alignas(16) Four {
    S v[4];
};

// Tiles in shared memory and sums in registers. Float32 and float64: a thread has 4 x 4 sums, and tiles lie term by term.
template <class T> struct Tile {
    static const u32 DEPTH = 16, ROW = SIDE + 4;
    struct Shared {
        Step steps[2][DEPTH];
        alignas(16) T left[2][DEPTH][ROW];
        alignas(16) T right[2][DEPTH][ROW];
    };
    T sums[4][4];

    __device__ Tile() {
        for (u32 i = 0; i < 4; i++)
            for (u32 j = 0; j < 4; j++) sums[i][j] = T(0);
    }
    static __device__ void put_left(Shared &shared, u32 half, u32 k, u32 m, T x) { shared.left[half][k][m] = x; }
    static __device__ void put_right(Shared &shared, u32 half, u32 k, u32 n, T x) { shared.right[half][k][n] = x; }

    __device__ void multiply(const Shared &shared, u32 half) {
        u32 m = threadIdx.x / 16 * 4, n = threadIdx.x % 16 * 4;
#pragma unroll
        for (u32 k = 0; k < DEPTH; k++) {
            Four<T> a = *(const Four<T> *)&shared.left[half][k][m], b = *(const Four<T> *)&shared.right[half][k][n];
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) sums[i][j] += a.v[i] * b.v[j];
        }
    }

    template <class Plan> __device__ void store(const Plan &plan, u32 first_row, u32 first_column) const {
        u32 m = first_row + threadIdx.x / 16 * 4, n = first_column + threadIdx.x % 16 * 4;
#pragma unroll
        for (u32 i = 0; i < 4; i++)
#pragma unroll
            for (u32 j = 0; j < 4; j++)
                if (m + i < plan.rows && n + j < plan.columns) plan.store(m + i, n + j, sums[i][j]);
    }
};

// bfloat16: products of 16 x 8 by the tensor cores, sums in float32. Eight warps take 32 x 16 each; rows of the left tile
// and columns of the right one lie as whole lines of terms, eight numbers apart in banks so that no two lanes meet.
template <> struct Tile<bf16> {
    static const u32 DEPTH = 32, ROW = DEPTH + 8;
    struct Shared {
        Step steps[2][DEPTH];
        alignas(16) bf16 left[2][SIDE][ROW];
        alignas(16) bf16 right[2][SIDE][ROW];
    };
    float sums[2][2][4];

    __device__ Tile() {
        for (u32 i = 0; i < 16; i++) sums[i / 8][i / 4 % 2][i % 4] = 0.0f;
    }
    static __device__ void put_left(Shared &shared, u32 half, u32 k, u32 m, bf16 x) { shared.left[half][m][k] = x; }
    static __device__ void put_right(Shared &shared, u32 half, u32 k, u32 n, bf16 x) { shared.right[half][n][k] = x; }
    // Two neighbouring terms.
    static __device__ u32 pair(const bf16 *at) { return *(const u32 *)at; }

    __device__ void multiply(const Shared &shared, u32 half) {
        u32 warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, place = threadIdx.x % 4 * 2;
        u32 m = warp / 4 * 32 + group, n = warp % 4 * 16 + group;
#pragma unroll
        for (u32 first = 0; first < DEPTH; first += 16) {
            u32 k = first + place;
            u32 a[2][4], b[2][2];
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                const bf16 *upper = &shared.left[half][m + 16 * i][k], *lower = upper + 8 * ROW;
                a[i][0] = pair(upper), a[i][1] = pair(lower), a[i][2] = pair(upper + 8), a[i][3] = pair(lower + 8);
                const bf16 *column = &shared.right[half][n + 8 * i][k];
                b[i][0] = pair(column), b[i][1] = pair(column + 8);
            }
#pragma unroll
            for (u32 i = 0; i < 2; i++)
#pragma unroll
                for (u32 j = 0; j < 2; j++) multiply_16x8x16(sums[i][j], a[i], b[j]);
        }
    }

    template <class Plan> __device__ void store(const Plan &plan, u32 first_row, u32 first_column) const {
        u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (u32 k = 0; k < 16; k++) {
            u32 m = first_row + warp / 4 * 32 + k / 8 * 16 + k % 4 / 2 * 8 + lane / 4;
            u32 n = first_column + warp % 4 * 16 + k / 4 % 2 * 8 + lane % 4 * 2 + k % 2;
            if (m < plan.rows && n < plan.columns) plan.store(m, n, sums[k / 8][k / 4 % 2][k % 4]);
        }
    }
};

// The terms `from..to` of the tile at (first_row, first_column). The next tiles are on their way into registers while those
// in shared memory are multiplied; where the factors of a term lie is worked out once a block, two tiles ahead.
template <class T, class Plan>
__device__ inline void product_tile(const Plan &plan, u32 first_row, u32 first_column, u32 from, u32 to) {
    typedef Tile<T> Own;
    const u32 DEPTH = Own::DEPTH, EACH = SIDE * DEPTH / PRODUCT_THREADS, APART = PRODUCT_THREADS / DEPTH;
    const u32 DOWN = PRODUCT_THREADS / SIDE, LINES = Plan::RIGHT_ALONG ? EACH : 1;
    SHARED_MEMORY(memory);
    typename Own::Shared &shared = *(typename Own::Shared *)memory;
    u32 tid = threadIdx.x, along = tid % DEPTH, across = tid / DEPTH, side = tid % SIDE, down = tid / SIDE;
    u32 m = Plan::LEFT_ALONG ? across : side;
    const T *left = plan.left + (i64)(first_row + m) * plan.left_stride;
    Line lines[LINES];
#pragma unroll
    for (u32 e = 0; e < LINES; e++) {
        u32 n = first_column + (Plan::RIGHT_ALONG ? across + e * APART : side);
        lines[e] = n < plan.columns ? plan.line(n) : Line{0, NOWHERE, 0};
    }
    u32 tiles = (to - from + DEPTH - 1) / DEPTH;
    if (tid < 2 * DEPTH && from + tid < to) shared.steps[tid / DEPTH][along] = plan.step(from + tid);
    __syncthreads();
    Own sums;
    T next_left[EACH], next_right[EACH];
    for (u32 tile = 0; tile <= tiles; tile++) {
        u32 half = tile % 2, first = from + tile * DEPTH;
        if (tile < tiles) {
#pragma unroll
            for (u32 e = 0; e < EACH; e++) {
                u32 k = Plan::LEFT_ALONG ? along : down + e * DOWN, row = Plan::LEFT_ALONG ? e * APART : 0;
                bool inside = first + k < to && first_row + m + row < plan.rows;
                next_left[e] = inside ? left[(i64)row * plan.left_stride + shared.steps[half][k].left] : T();
            }
#pragma unroll
            for (u32 e = 0; e < EACH; e++) {
                u32 k = Plan::RIGHT_ALONG ? along : down + e * DOWN;
                const Line &line = lines[Plan::RIGHT_ALONG ? e : 0];
                const Step &step = shared.steps[half][k];
                bool inside = first + k < to && (u32)(line.row + step.row) < plan.height &&
                              (u32)(line.column + step.column) < plan.width;
                next_right[e] = inside ? plan.right[line.right + step.right] : T();
            }
        }
        if (tile > 0) sums.multiply(shared, 1 - half);
        if (tile < tiles) {
#pragma unroll
            for (u32 e = 0; e < EACH; e++) {
                u32 k = Plan::LEFT_ALONG ? along : down + e * DOWN, row = m + (Plan::LEFT_ALONG ? e * APART : 0);
                Own::put_left(shared, half, k, row, next_left[e]);
                k = Plan::RIGHT_ALONG ? along : down + e * DOWN;
                u32 n = Plan::RIGHT_ALONG ? across + e * APART : side;
                Own::put_right(shared, half, k, n, next_right[e]);
            }
        }
        __syncthreads();
        // Everybody has read the steps of this tile.
        if (tid < DEPTH && first + 2 * DEPTH + tid < to) shared.steps[half][tid] = plan.step(first + 2 * DEPTH + tid);
    }
    sums.store(plan, first_row, first_column);
}

// What `Stored::TILE` in device.rs says, in bytes.
static_assert(sizeof(Tile<float>::Shared) == 2272 * 8, "Stored::TILE of f32");
static_assert(sizeof(Tile<double>::Shared) == 4448 * 8, "Stored::TILE of f64");
static_assert(sizeof(Tile<bf16>::Shared) == 2752 * 8, "Stored::TILE of Bf16");
