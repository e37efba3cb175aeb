// Buffers between pages that nobody may touch. New memory holds NaN; freed memory may not be touched either.
#include "card.h"

#include "guarded.h"

#include <deque>
#include <map>
#include <vector>

namespace card {

namespace {

// By the address of the data. Never freed, as what is in report.cpp.
std::map<uintptr_t, Buffer> &buffers() {
    static auto *all = new std::map<uintptr_t, Buffer>;
    return *all;
}

// Bytes that the data's size is rounded up to: what the widest loads of a kernel need. A card would round up to 256; an
// access behind the end is to be seen.
const size_t ALIGN = 16;

bool keeps_pattern(const char *from, const char *to) {
    for (const char *at = from; at < to; at++)
        if ((unsigned char)*at != emulator::PATTERN) return false;
    return true;
}

// Gives memory back to the system but not its addresses, so that who uses it later meets nothing, instead of what was taken
// next; 2^44 bytes of addresses are kept, then the oldest go.
void retire(const Buffer &buffer) {
    static auto *retired = new std::deque<std::pair<char *, size_t>>;
    static size_t kept = 0;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (mmap(buffer.start, buffer.total, PROT_NONE, flags, -1, 0) == MAP_FAILED) die("freed memory cannot be closed");
    retired->emplace_back(buffer.start, buffer.total);
    for (kept += buffer.total; kept > (size_t)1 << 44; retired->pop_front()) {
        munmap(retired->front().first, retired->front().second);
        kept -= retired->front().second;
    }
}

} // namespace

Amount &amount(int card) {
    static auto *all = [] {
        size_t total = (size_t)number("UFG_SOFTWARE_CARD_MB", 8192) << 20;
        return new std::vector<Amount>(cards(), Amount{total, 0, 0});
    }();
    return all->at(card);
}

CUresult take(int card, size_t bytes, CUdeviceptr *at) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (card >= 0) {
        Amount &of = amount(card);
        // What is freed late may be all that is missing.
        if (bytes > of.total - of.used) finish_all(card);
        if (bytes > of.total - of.used) return CUDA_ERROR_OUT_OF_MEMORY;
        of.used += bytes;
        if (of.used > of.most) of.most = of.used;
    }
    emulator::Guarded memory = emulator::guarded(bytes, ALIGN);
    emulator::fill(memory);
    buffers()[(uintptr_t)memory.data] = Buffer{card, memory.start, memory.data, memory.total, bytes};
    *at = (CUdeviceptr)memory.data;
    return CUDA_SUCCESS;
}

CUresult give_back(CUdeviceptr at, int card) {
    if (at == 0 && card >= 0) return CUDA_SUCCESS;
    auto found = buffers().find((uintptr_t)at);
    if (found == buffers().end() || (card < 0) != (found->second.card < 0)) {
        say("memory is freed that is not allocated");
        return CUDA_ERROR_INVALID_VALUE;
    }
    Buffer buffer = found->second;
    emulator::Guarded memory{buffer.start, buffer.data, buffer.total, buffer.bytes};
    if (!emulator::intact(memory)) die("somebody wrote before the begin of a buffer of %zu bytes", buffer.bytes);
    size_t rounded = (buffer.bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (!keeps_pattern(buffer.data + buffer.bytes, buffer.data + rounded))
        die("somebody wrote behind the end of a buffer of %zu bytes", buffer.bytes);
    retire(buffer);
    buffers().erase(found);
    if (buffer.card >= 0) amount(buffer.card).used -= buffer.bytes;
    return CUDA_SUCCESS;
}

const Buffer *buffer_of(const void *at) {
    auto next = buffers().upper_bound((uintptr_t)at);
    if (next == buffers().begin()) return nullptr;
    const Buffer &buffer = std::prev(next)->second;
    return (const char *)at <= buffer.data + buffer.bytes ? &buffer : nullptr;
}

bool may_touch(int card, const void *at, size_t bytes) {
    if (bytes == 0) return true;
    const Buffer *buffer = buffer_of(at);
    return buffer && (buffer->card == card || buffer->card < 0) && (const char *)at + bytes <= buffer->data + buffer->bytes;
}

bool is_pinned(const void *at) {
    const Buffer *buffer = buffer_of(at);
    return buffer && buffer->card < 0;
}

} // namespace card
