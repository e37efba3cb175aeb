// The products of cuBLAS, with sums in a fixed order. Matrices lie column by column.
#include "card.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <library_types.h>

#include <memory>
#include <vector>

using namespace card;

namespace {

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Compute { COMPUTE_32F = 68, COMPUTE_64F = 70, COMPUTE_32F_FAST_16F = 74, COMPUTE_32F_FAST_TF32 = 77 };

struct Handle {
    Queue *queue;
};

// A product of `many` pairs: sizes and distances as cuBLAS names them.
struct Product {
    bool turn_a, turn_b;
    int m, n, k, lda, ldb, ldc, many;
    const void *a, *b;
    void *c;
    long long next_a, next_b, next_c;
};

template <class T> double wide(T x) { return (double)x; }
template <> double wide(__nv_bfloat16 x) { return __bfloat162float(x); }
template <> double wide(__half x) { return __half2float(x); }
template <class T> T narrow(double x) { return (T)x; }
template <> __nv_bfloat16 narrow(double x) { return __float2bfloat16((float)x); }
template <> __half narrow(double x) { return __float2half((float)x); }

// op(X) packed with `inner` running fastest: rows of op(A), or terms of op(B).
template <class T, class Sum> std::vector<Sum> packed(const T *x, bool across, int outer, int inner, long long ld) {
    std::vector<Sum> out((size_t)outer * inner);
    for (int o = 0; o < outer; o++)
        for (int i = 0; i < inner; i++) out[(size_t)o * inner + i] = (Sum)wide(across ? x[i * ld + o] : x[o * ld + i]);
    return out;
}

// Terms are added in their order, in `Sum`.
template <class T, class Sum> void multiply(const Product &p, Sum alpha, Sum beta) {
    std::vector<Sum> sums(p.m);
    for (int batch = 0; batch < p.many; batch++) {
        const T *a = (const T *)p.a + batch * p.next_a, *b = (const T *)p.b + batch * p.next_b;
        T *c = (T *)p.c + batch * p.next_c;
        std::vector<Sum> left = packed<T, Sum>(a, p.turn_a, p.k, p.m, p.lda), right = packed<T, Sum>(b, p.turn_b, p.n, p.k, p.ldb);
        for (int j = 0; j < p.n; j++) {
            std::fill(sums.begin(), sums.end(), Sum(0));
            for (int k = 0; k < p.k; k++) {
                const Sum *column = &left[(size_t)k * p.m], factor = right[(size_t)j * p.k + k];
                Sum *to = sums.data();
                for (int i = 0; i < p.m; i++) to[i] += column[i] * factor;
            }
            for (int i = 0; i < p.m; i++) {
                T &at = c[(long long)j * p.ldc + i];
                Sum old = beta == Sum(0) ? Sum(0) : beta * (Sum)wide(at);
                at = narrow<T>(alpha * sums[i] + old);
            }
        }
    }
}

// The bytes of a batch of matrices of so many rows and columns.
size_t extent(long long rows, long long columns, long long ld, long long next, int many, size_t size) {
    if (!rows || !columns || !many) return 0;
    return (size_t)((many - 1) * next + (columns - 1) * ld + rows) * size;
}

void check(const Product &p, int card, size_t size) {
    size_t a = p.turn_a ? extent(p.k, p.m, p.lda, p.next_a, p.many, size) : extent(p.m, p.k, p.lda, p.next_a, p.many, size);
    size_t b = p.turn_b ? extent(p.n, p.k, p.ldb, p.next_b, p.many, size) : extent(p.k, p.n, p.ldb, p.next_b, p.many, size);
    size_t c = extent(p.m, p.n, p.ldc, p.next_c, p.many, size);
    if (!may_touch(card, p.a, a) || !may_touch(card, p.b, b) || !may_touch(card, p.c, c))
        die("a product of %d x %d x %d leaves its matrices, or they are no memory of card %d", p.m, p.k, p.n, card);
}

bool legal(const Product &p) {
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.many < 0) return false;
    return p.lda >= (p.turn_a ? p.k : p.m) && p.ldb >= (p.turn_b ? p.n : p.k) && p.ldc >= p.m && p.lda > 0 && p.ldb > 0 && p.ldc > 0;
}

template <class T, class Sum> int product(void *handle, const char *name, const Product &p, const void *alpha, const void *beta) {
    Held held(lock);
    if (!handle) return NOT_INITIALIZED;
    if (!legal(p)) {
        say("%s: sizes %d x %d x %d with rows of %d, %d and %d", name, p.m, p.k, p.n, p.lda, p.ldb, p.ldc);
        return INVALID_VALUE;
    }
    Queue *queue = ((Handle *)handle)->queue;
    Sum by = *(const Sum *)alpha, kept = *(const Sum *)beta;
    submit(queue, [=] {
        check(p, card_of(queue), sizeof(T));
        count(name);
        multiply<T, Sum>(p, by, kept);
    });
    return SUCCESS;
}

// CUBLAS_OP_N is 0; CUBLAS_OP_T and, for real numbers, CUBLAS_OP_C turn.
bool turned(int operation) { return operation != 0; }

} // namespace

extern "C" {

int cublasCreate_v2(void **handle) {
    Held held(lock);
    if (current_card() < 0) return NOT_INITIALIZED;
    *handle = new Handle{queue_of(nullptr)};
    return SUCCESS;
}

// Work that still waits has its own copy of all it needs.
int cublasDestroy_v2(void *handle) {
    Held held(lock);
    delete (Handle *)handle;
    return SUCCESS;
}

int cublasSetStream_v2(void *handle, CUstream stream) {
    Held held(lock);
    Queue *queue = queue_of(stream);
    if (!queue) return INVALID_VALUE;
    ((Handle *)handle)->queue = queue;
    return SUCCESS;
}

const char *cublasGetStatusString(int status) {
    switch (status) {
    case SUCCESS: return "success";
    case NOT_INITIALIZED: return "the library was not initialized";
    case INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
    case NOT_SUPPORTED: return "the functionality requested is not supported";
    default: return "an error that the software card does not give";
    }
}

int cublasSgemmStridedBatched(void *handle, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda,
                              long long sa, const float *b, int ldb, long long sb, const float *beta, float *c, int ldc,
                              long long sc, int many) {
    Product p = {turned(ta), turned(tb), m, n, k, lda, ldb, ldc, many, a, b, c, sa, sb, sc};
    return product<float, float>(handle, "cublasSgemmStridedBatched", p, alpha, beta);
}

int cublasDgemmStridedBatched(void *handle, int ta, int tb, int m, int n, int k, const double *alpha, const double *a, int lda,
                              long long sa, const double *b, int ldb, long long sb, const double *beta, double *c, int ldc,
                              long long sc, int many) {
    Product p = {turned(ta), turned(tb), m, n, k, lda, ldb, ldc, many, a, b, c, sa, sb, sc};
    return product<double, double>(handle, "cublasDgemmStridedBatched", p, alpha, beta);
}

int cublasSgemm_v2(void *handle, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda,
                   const float *b, int ldb, const float *beta, float *c, int ldc) {
    Product p = {turned(ta), turned(tb), m, n, k, lda, ldb, ldc, 1, a, b, c, 0, 0, 0};
    return product<float, float>(handle, "cublasSgemm", p, alpha, beta);
}

int cublasDgemm_v2(void *handle, int ta, int tb, int m, int n, int k, const double *alpha, const double *a, int lda,
                   const double *b, int ldb, const double *beta, double *c, int ldc) {
    Product p = {turned(ta), turned(tb), m, n, k, lda, ldb, ldc, 1, a, b, c, 0, 0, 0};
    return product<double, double>(handle, "cublasDgemm", p, alpha, beta);
}

// Tensor cores' shorter factors (TF32) are not imitated: such a product is computed in float32.
int cublasGemmStridedBatchedEx(void *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int kind_a,
                               int lda, long long sa, const void *b, int kind_b, int ldb, long long sb, const void *beta,
                               void *c, int kind_c, int ldc, long long sc, int many, int compute, int) {
    const char *name = "cublasGemmStridedBatchedEx";
    Product p = {turned(ta), turned(tb), m, n, k, lda, ldb, ldc, many, a, b, c, sa, sb, sc};
    bool single = compute == COMPUTE_32F || compute == COMPUTE_32F_FAST_TF32 || compute == COMPUTE_32F_FAST_16F;
    if (kind_a == kind_b && kind_b == kind_c && single) {
        if (kind_a == CUDA_R_32F) return product<float, float>(handle, name, p, alpha, beta);
        if (kind_a == CUDA_R_16BF) return product<__nv_bfloat16, float>(handle, name, p, alpha, beta);
        if (kind_a == CUDA_R_16F) return product<__half, float>(handle, name, p, alpha, beta);
    }
    if (kind_a == kind_b && kind_b == kind_c && kind_a == CUDA_R_64F && compute == COMPUTE_64F)
        return product<double, double>(handle, name, p, alpha, beta);
    die("%s: numbers of kinds %d, %d, %d computed as %d", name, kind_a, kind_b, kind_c, compute);
}
}
