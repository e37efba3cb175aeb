// Guarded memory, for the emulator's buffers and for the software card's.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace emulator {

// Memory that ends where a page begins that nobody may touch; the bytes before it must keep their pattern.
struct Guarded {
    char *start, *data;
    size_t total, length;
};
const unsigned char PATTERN = 0xff; // NaN in float and double

inline Guarded guarded(size_t length, size_t align = 8) {
    size_t page = sysconf(_SC_PAGESIZE), rounded = (length + align - 1) / align * align;
    size_t room = (rounded + page - 1) / page * page;
    Guarded memory{nullptr, nullptr, room + 2 * page, rounded};
    memory.start = (char *)mmap(nullptr, memory.total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory.start == MAP_FAILED || mprotect(memory.start + page, room, PROT_READ | PROT_WRITE) != 0) {
        std::fprintf(stderr, "emulator: the system has no %zu bytes\n", length);
        std::abort();
    }
    memory.data = memory.start + page + room - rounded;
    return memory;
}

inline void fill(const Guarded &memory) {
    char *from = memory.start + sysconf(_SC_PAGESIZE);
    std::memset(from, PATTERN, memory.data + memory.length - from);
}

inline bool intact(const Guarded &memory) {
    for (char *at = memory.start + sysconf(_SC_PAGESIZE); at < memory.data; at++)
        if ((unsigned char)*at != PATTERN) return false;
    return true;
}

inline void give_back(const Guarded &memory) { munmap(memory.start, memory.total); }

} // namespace emulator
