// Memory of the driver: allocation, pools, copies and fills. What a copy to or from pinned memory moves is read when the
// stream comes to it; pageable memory is read at once and written before the call returns, as cards do it.
#include "card.h"

#include <cstring>
#include <memory>
#include <vector>

using namespace card;

namespace {

#define CONTEXT()                                                                                                    \
    Held held(lock);                                                                                                 \
    if (current_card() < 0) return CUDA_ERROR_INVALID_CONTEXT

// A pool is a card's number, plus one.
CUmemoryPool pool_of(int card) { return (CUmemoryPool)(uintptr_t)(card + 1); }

bool is_pool(CUmemoryPool pool) { return (uintptr_t)pool >= 1 && (uintptr_t)pool <= (uintptr_t)cards(); }

void must_hold(const char *what, int card, const void *at, size_t bytes) {
    if (!may_touch(card, at, bytes)) die("%s: %zu bytes that are no memory of card %d", what, bytes, card);
}

CUresult to_card(Queue *queue, CUdeviceptr to, const void *from, size_t bytes, bool now) {
    count("copies to a card", bytes);
    int card = card_of(queue);
    void *at = (void *)to;
    if (now || is_pinned(from)) {
        submit(queue, [=] {
            must_hold("copy to a card", card, at, bytes);
            if (is_pinned(from)) must_hold("copy to a card", -1, from, bytes);
            std::memcpy(at, from, bytes);
        });
        if (now) finish(queue);
        return CUDA_SUCCESS;
    }
    auto staged = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    submit(queue, [=] {
        must_hold("copy to a card", card, at, bytes);
        std::memcpy(at, staged->data(), bytes);
    });
    return CUDA_SUCCESS;
}

CUresult to_host(Queue *queue, void *to, CUdeviceptr from, size_t bytes, bool now) {
    count("copies to the host", bytes);
    int card = card_of(queue);
    const void *at = (const void *)from;
    bool pinned = is_pinned(to);
    submit(queue, [=] {
        must_hold("copy to the host", card, at, bytes);
        if (pinned) must_hold("copy to the host", -1, to, bytes);
        std::memcpy(to, at, bytes);
    });
    if (now || !pinned) finish(queue);
    return CUDA_SUCCESS;
}

CUresult on_card(Queue *queue, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    count("copies on a card", bytes);
    int card = card_of(queue);
    submit(queue, [=] {
        must_hold("copy on a card", card, (void *)to, bytes);
        must_hold("copy on a card", card, (void *)from, bytes);
        std::memmove((void *)to, (void *)from, bytes);
    });
    return CUDA_SUCCESS;
}

template <class T> CUresult fill(Queue *queue, CUdeviceptr to, T value, size_t how_many) {
    count("fills", how_many * sizeof value);
    int card = card_of(queue);
    if (to % sizeof value) return CUDA_ERROR_INVALID_VALUE;
    submit(queue, [=] {
        must_hold("fill", card, (void *)to, how_many * sizeof value);
        for (size_t k = 0; k < how_many; k++) ((T *)to)[k] = value;
    });
    return CUDA_SUCCESS;
}

} // namespace

#define STREAM(queue, handle)                                                                                        \
    CONTEXT();                                                                                                       \
    Queue *queue = queue_of(handle);                                                                                 \
    if (!queue) return CUDA_ERROR_INVALID_HANDLE

extern "C" {

CUresult cuMemAlloc_v2(CUdeviceptr *at, size_t bytes) {
    CONTEXT();
    count("allocations", bytes);
    return take(current_card(), bytes, at);
}

CUresult cuMemAllocAsync(CUdeviceptr *at, size_t bytes, CUstream stream) {
    STREAM(queue, stream);
    count("allocations", bytes);
    return take(card_of(queue), bytes, at);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *at, size_t bytes, CUmemoryPool pool, CUstream stream) {
    STREAM(queue, stream);
    if (!is_pool(pool)) return CUDA_ERROR_INVALID_VALUE;
    count("allocations", bytes);
    return take((int)(uintptr_t)pool - 1, bytes, at);
}

CUresult cuMemFree_v2(CUdeviceptr at) {
    CONTEXT();
    // Waits for the whole card.
    finish_all(current_card());
    return give_back(at, current_card());
}

CUresult cuMemFreeAsync(CUdeviceptr at, CUstream stream) {
    STREAM(queue, stream);
    int card = card_of(queue);
    submit(queue, [=] {
        if (give_back(at, card) != CUDA_SUCCESS) die("cuMemFreeAsync of what is no memory");
    });
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **at, size_t bytes, unsigned int) {
    CONTEXT();
    count("pinned allocations", bytes);
    CUdeviceptr address;
    CUresult code = take(-1, bytes, &address);
    if (code == CUDA_SUCCESS) *at = (void *)address;
    return code;
}

CUresult cuMemFreeHost(void *at) {
    CONTEXT();
    finish_all(-1);
    return give_back((CUdeviceptr)at, -1);
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    CONTEXT();
    const Amount &of = amount(current_card());
    *free = of.total - of.used, *total = of.total;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) {
    if (device < 0 || device >= cards()) return CUDA_ERROR_INVALID_DEVICE;
    *pool = pool_of(device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) { return cuDeviceGetDefaultMemPool(pool, device); }

// Nothing is kept: what is reserved is what is used.
CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    Held held(lock);
    if (!is_pool(pool)) return CUDA_ERROR_INVALID_VALUE;
    const Amount &of = amount((int)(uintptr_t)pool - 1);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *(cuuint64_t *)value = of.used; return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *(cuuint64_t *)value = of.most; return CUDA_SUCCESS;
    default: die("cuMemPoolGetAttribute: attribute %d", (int)attribute);
    }
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    Held held(lock);
    if (!is_pool(pool)) return CUDA_ERROR_INVALID_VALUE;
    Amount &of = amount((int)(uintptr_t)pool - 1);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        if (*(cuuint64_t *)value != 0) return CUDA_ERROR_INVALID_VALUE;
        of.most = of.used;
        return CUDA_SUCCESS;
    default: die("cuMemPoolSetAttribute: attribute %d", (int)attribute);
    }
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t) { return is_pool(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    STREAM(queue, nullptr);
    return to_card(queue, to, from, bytes, true);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    STREAM(queue, stream);
    return to_card(queue, to, from, bytes, false);
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    STREAM(queue, nullptr);
    return to_host(queue, to, from, bytes, true);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    STREAM(queue, stream);
    return to_host(queue, to, from, bytes, false);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    STREAM(queue, nullptr);
    return on_card(queue, to, from, bytes);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    STREAM(queue, stream);
    return on_card(queue, to, from, bytes);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    STREAM(queue, stream);
    count("copies between cards", bytes);
    const Buffer *source = buffer_of((void *)from), *target = buffer_of((void *)to);
    if (!source || !target || source->card < 0 || target->card < 0) return CUDA_ERROR_INVALID_VALUE;
    int here = source->card, there = target->card;
    submit(queue, [=] {
        must_hold("copy between cards", here, (void *)from, bytes);
        must_hold("copy between cards", there, (void *)to, bytes);
        std::memmove((void *)to, (void *)from, bytes);
    });
    return CUDA_SUCCESS;
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t how_many) {
    STREAM(queue, nullptr);
    return fill(queue, to, value, how_many);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t how_many, CUstream stream) {
    STREAM(queue, stream);
    return fill(queue, to, value, how_many);
}

CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t how_many, CUstream stream) {
    STREAM(queue, stream);
    return fill(queue, to, value, how_many);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t how_many, CUstream stream) {
    STREAM(queue, stream);
    return fill(queue, to, value, how_many);
}
}
