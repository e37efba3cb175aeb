// The emulator's scheduler and memory, and the kernels.
#include "emulator.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#include "../kernels.cu"

Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, ENDED };

struct Fiber {
    ucontext_t first;
    jmp_buf place;
    bool begun;
    State state;
    const char *file;
    int line;
};

const size_t STACK = 128 * 1024;

std::vector<Fiber> fibers;
std::vector<char *> stacks;
double exchanged[1024];
unsigned int factors[1024][6];
jmp_buf scheduler;
ucontext_t home;
unsigned int current;
const char *kernel_name;
void (*entry)(void **);
void **arguments;
const char *kinds;
double *shared;

[[noreturn]] void fail(const char *what) {
    std::fprintf(stderr, "emulator: kernel %s, block %u: %s\n", kernel_name, blockIdx.x, what);
    std::abort();
}

// Says which kernel left its memory.
void outside(int) {
    char text[256];
    int length = std::snprintf(text, sizeof text, "emulator: kernel %s, block %u, thread %u leaves its memory\n", kernel_name,
                               blockIdx.x, threadIdx.x);
    if (write(2, text, length) < 0) std::abort();
    std::signal(SIGABRT, SIG_DFL);
    std::abort();
}

void body() {
    entry(arguments);
    fibers[current].state = ENDED;
    _longjmp(scheduler, 1);
}

void wait(State why) {
    unsigned int own = current;
    fibers[own].state = why;
    if (_setjmp(fibers[own].place) == 0) _longjmp(scheduler, 1);
}

void resume(unsigned int number) {
    current = number;
    threadIdx = {number, 0, 0};
    Fiber &fiber = fibers[number];
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = stacks[number];
    fiber.first.uc_stack.ss_size = STACK;
    fiber.first.uc_link = &home;
    makecontext(&fiber.first, body, 0);
    setcontext(&fiber.first);
}

// Whether the fibers of a range all wait in this state; then they go on. Some but not all at it is no error yet.
bool release(unsigned int from, unsigned int to, State at) {
    for (unsigned int k = from; k < to; k++)
        if (fibers[k].state != at) return false;
    for (unsigned int k = from; k < to; k++) {
        if (at == AT_BLOCK_BARRIER && (fibers[k].line != fibers[from].line || std::strcmp(fibers[k].file, fibers[from].file)))
            fail("threads wait at different barriers");
        fibers[k].state = READY;
    }
    return true;
}

// Order 0 takes threads and blocks forwards, 1 backwards, 2 the odd ones first.
unsigned int turn(unsigned int k, unsigned int count, int order) {
    if (order == 1) return count - 1 - k;
    if (order == 2) return k < count / 2 ? 2 * k + 1 : 2 * (k - count / 2);
    return k;
}

void run_block(int order) {
    unsigned int count = blockDim.x;
    for (auto &fiber : fibers) fiber.begun = false, fiber.state = READY;
    for (;;) {
        unsigned int ended = 0;
        for (unsigned int k = 0; k < count; k++) {
            unsigned int number = turn(k, count, order);
            if (fibers[number].state == READY) resume(number);
            ended += fibers[number].state == ENDED;
        }
        if (ended == count) return;
        bool moved = release(0, count, AT_BLOCK_BARRIER);
        for (unsigned int warp = 0; warp < count; warp += 32) {
            unsigned int to = warp + 32 < count ? warp + 32 : count;
            moved = release(warp, to, AT_WARP_BARRIER) || moved;
        }
        if (!moved) fail("a barrier that not all threads reach");
    }
}

// Memory that ends where a page begins that nobody may touch; the bytes before it must keep their pattern.
struct Guarded {
    char *start, *data;
    size_t total, length;
};
const unsigned char PATTERN = 0xff; // NaN in float and double

Guarded guarded(size_t length) {
    size_t page = sysconf(_SC_PAGESIZE), rounded = (length + 7) / 8 * 8, room = (rounded + page - 1) / page * page;
    Guarded memory{nullptr, nullptr, room + 2 * page, rounded};
    memory.start = (char *)mmap(nullptr, memory.total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory.start == MAP_FAILED) std::abort();
    std::memset(memory.start, PATTERN, memory.total);
    mprotect(memory.start, page, PROT_NONE);
    mprotect(memory.start + page + room, page, PROT_NONE);
    memory.data = memory.start + page + room - rounded;
    return memory;
}

bool intact(const Guarded &memory) {
    for (char *at = memory.start + sysconf(_SC_PAGESIZE); at < memory.data; at++)
        if ((unsigned char)*at != PATTERN) return false;
    return true;
}

void give_back(const Guarded &memory) { munmap(memory.start, memory.total); }

// What Rust calls an argument of this type.
template <class T> constexpr char kind() {
    return std::is_pointer<T>::value ? 'a' : std::is_same<T, double>::value ? 'r' : std::is_same<T, u32>::value ? 'c' : '?';
}

template <class... P> struct Unpack;
template <class P, class... Rest> struct Unpack<P, Rest...> {
    template <class F, class... Q> static void call(F f, void **a, Q... q) { Unpack<Rest...>::call(f, a + 1, q..., *(P *)*a); }
};
template <> struct Unpack<> {
    template <class F, class... Q> static void call(F f, void **, Q... q) { f(q...); }
};
template <class... P> void call(void (*kernel)(P...), void **a) {
    const char expected[] = {kind<P>()..., 0};
    if (std::strcmp(expected, kinds)) fail("arguments of other kinds than its signature");
    Unpack<P...>::call(kernel, a);
}

} // namespace

double *emulator_shared_memory() { return shared; }

void emulator_block_barrier(const char *file, int line) {
    fibers[current].file = file;
    fibers[current].line = line;
    wait(AT_BLOCK_BARRIER);
}

void emulator_warp_barrier() { wait(AT_WARP_BARRIER); }

double emulator_exchange(double x, unsigned int lane) {
    exchanged[threadIdx.x] = x;
    wait(AT_WARP_BARRIER);
    double other = exchanged[threadIdx.x / 32 * 32 + lane];
    wait(AT_WARP_BARRIER);
    return other;
}

// Lane 4g + t holds rows g and g + 8 of a at columns 2t, 2t + 1 and eight further (a0: row g, a1: row g + 8, a2 and a3 the
// same eight columns on), rows 2t, 2t + 1 and eight further of column g of b, and columns 2t, 2t + 1 of rows g and g + 8 of d.
void emulator_multiply(float *d, const unsigned int *a, const unsigned int *b) {
    unsigned int *own = factors[threadIdx.x];
    std::memcpy(own, a, 4 * sizeof *a);
    std::memcpy(own + 4, b, 2 * sizeof *b);
    wait(AT_WARP_BARRIER);
    unsigned int(*warp)[6] = factors + threadIdx.x / 32 * 32, lane = threadIdx.x % 32;
    for (unsigned int e = 0; e < 4; e++) {
        unsigned int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        for (unsigned int k = 0; k < 16; k++) {
            unsigned int left = warp[row % 8 * 4 + k % 8 / 2][k / 8 * 2 + row / 8];
            unsigned int right = warp[column * 4 + k % 8 / 2][4 + k / 8];
            d[e] += __uint_as_float(k % 2 ? left & 0xffff0000u : left << 16) *
                    __uint_as_float(k % 2 ? right & 0xffff0000u : right << 16);
        }
    }
    wait(AT_WARP_BARRIER);
}

extern "C" {

// Memory for a buffer; `handle` is for `emulator_free`, which tells whether nobody wrote before its begin.
void *emulator_allocate(size_t length, void **handle) {
    Guarded *memory = new Guarded(guarded(length));
    *handle = memory;
    return memory->data;
}

int emulator_free(void *handle) {
    Guarded *memory = (Guarded *)handle;
    int whole = intact(*memory);
    give_back(*memory);
    delete memory;
    return whole;
}

void emulator_launch(const char *name, void (*kernel)(void **), void **a, const char *of_kinds, unsigned int grid,
                     unsigned int block, size_t shared_bytes, int order) {
    kernel_name = name, entry = kernel, arguments = a, kinds = of_kinds;
    void (*before)(int) = std::signal(SIGSEGV, outside);
    if (block % 32 != 0 || block == 0 || block > 1024) fail("the size of a block");
    if (fibers.size() != block) fibers = std::vector<Fiber>(block);
    while (stacks.size() < block) stacks.push_back(guarded(STACK).data);
    blockDim = {block, 1, 1}, gridDim = {grid, 1, 1};
    for (unsigned int k = 0; k < grid; k++) {
        blockIdx = {turn(k, grid, order), 0, 0};
        Guarded memory = guarded(shared_bytes);
        shared = (double *)memory.data;
        run_block(order);
        if (!intact(memory)) fail("wrote before the begin of the shared memory");
        give_back(memory);
    }
    std::signal(SIGSEGV, before);
}

#define ENTRY(name)                                                                                                  \
    void name##_entry(void **a) { call(name, a); }
#define BOTH(name) ENTRY(name##_f32) ENTRY(name##_f64)
#include "entries.h"
}
