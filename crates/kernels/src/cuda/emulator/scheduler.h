// The emulator's scheduler and guarded memory, for one translation unit of a library: emulator.cpp, and the software card's
// launch.cpp (ci/cuda/software-card).
#pragma once
#include "emulator.h"
#include "guarded.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

// A launch. `exits` says whether threads may end while others still wait for each other, as cards allow.
struct Running {
    const char *name;
    void (*entry)(void **);
    void **arguments;
    Index grid, block;
    size_t shared;
    int order;
    bool exits;
};

namespace {

enum State { FRESH, READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, ENDED };

// A thread of the block. It has a stack while it waits.
struct Fiber {
    jmp_buf place;
    char *stack;
    State state;
    const char *file;
    int line;
};

const size_t STACK = 128 * 1024;

std::vector<Fiber> fibers;
std::vector<char *> stacks;
unsigned char exchanged[1024][8];
unsigned int factors[1024][6];
jmp_buf scheduler;
ucontext_t first, home;
unsigned int current, place_in_turn, threads;
const Running *running;
double *shared;

[[noreturn]] void fail(const char *what) {
    std::fprintf(stderr, "emulator: kernel %s, block %u: %s\n", running->name, blockIdx.x, what);
    std::abort();
}

// Says which kernel left its memory.
void outside(int) {
    char text[256];
    int length = std::snprintf(text, sizeof text, "emulator: kernel %s, block %u, thread %u leaves its memory\n", running->name,
                               blockIdx.x, current);
    if (write(2, text, length) < 0) std::abort();
    std::signal(SIGABRT, SIG_DFL);
    std::abort();
}

// Order 0 takes threads and blocks forwards, 1 backwards, 2 the odd ones first.
unsigned int turn(unsigned int k, unsigned int count, int order) {
    if (order == 1) return count - 1 - k;
    if (order == 2) return k < count / 2 ? 2 * k + 1 : 2 * (k - count / 2);
    return k;
}

void become(unsigned int number) {
    current = number;
    unsigned int row = number / blockDim.x;
    threadIdx = {number % blockDim.x, row % blockDim.y, row / blockDim.y};
}

// Runs a thread, and those whose turn is next on the same stack: without barriers a block is a plain loop.
void body() {
    for (;;) {
        running->entry(running->arguments);
        Fiber &done = fibers[current];
        done.state = ENDED;
        if (place_in_turn + 1 < threads) {
            unsigned int next = turn(place_in_turn + 1, threads, running->order);
            if (fibers[next].state == FRESH) {
                place_in_turn++;
                fibers[next].stack = done.stack;
                fibers[next].state = READY;
                become(next);
                continue;
            }
        }
        stacks.push_back(done.stack);
        _longjmp(scheduler, 1);
    }
}

void wait(State why) {
    unsigned int own = current;
    fibers[own].state = why;
    if (_setjmp(fibers[own].place) == 0) _longjmp(scheduler, 1);
}

void resume(unsigned int number) {
    Fiber &fiber = fibers[number];
    become(number);
    if (_setjmp(scheduler) != 0) return;
    if (fiber.state == READY) _longjmp(fiber.place, 1);
    fiber.state = READY;
    if (stacks.empty()) stacks.push_back(guarded(STACK).data);
    fiber.stack = stacks.back();
    stacks.pop_back();
    getcontext(&first);
    first.uc_stack.ss_sp = fiber.stack;
    first.uc_stack.ss_size = STACK;
    first.uc_link = &home;
    makecontext(&first, body, 0);
    setcontext(&first);
}

// Whether the fibers of a range all wait in this state; then they go on. Some but not all at it is no error yet.
bool release(unsigned int from, unsigned int to, State at) {
    const Fiber *one = nullptr;
    for (unsigned int k = from; k < to; k++) {
        if (running->exits && fibers[k].state == ENDED) continue;
        if (fibers[k].state != at) return false;
        if (!one) one = &fibers[k];
    }
    if (!one) return false;
    for (unsigned int k = from; k < to; k++) {
        if (fibers[k].state == ENDED) continue;
        if (at == AT_BLOCK_BARRIER && (fibers[k].line != one->line || std::strcmp(fibers[k].file, one->file)))
            fail("threads wait at different barriers");
        fibers[k].state = READY;
    }
    return true;
}

void run_block() {
    for (unsigned int k = 0; k < threads; k++) fibers[k].state = FRESH;
    for (;;) {
        for (place_in_turn = 0; place_in_turn < threads; place_in_turn++) {
            unsigned int number = turn(place_in_turn, threads, running->order);
            if (fibers[number].state <= READY) resume(number);
        }
        unsigned int ended = 0;
        for (unsigned int k = 0; k < threads; k++) ended += fibers[k].state == ENDED;
        if (ended == threads) return;
        bool moved = release(0, threads, AT_BLOCK_BARRIER);
        for (unsigned int warp = 0; warp < threads; warp += 32) {
            unsigned int to = warp + 32 < threads ? warp + 32 : threads;
            moved = release(warp, to, AT_WARP_BARRIER) || moved;
        }
        if (!moved) fail("a barrier that not all threads reach");
    }
}

// Runs all blocks, each with shared memory that holds NaN.
void run(const Running &launch) {
    running = &launch;
    void (*before)(int) = std::signal(SIGSEGV, outside);
    blockDim = launch.block, gridDim = launch.grid;
    threads = blockDim.x * blockDim.y * blockDim.z;
    if (threads == 0 || threads > 1024) fail("the size of a block");
    if (fibers.size() < threads) fibers.resize(threads);
    Guarded memory = guarded(launch.shared, 16);
    shared = (double *)memory.data;
    unsigned int blocks = gridDim.x * gridDim.y * gridDim.z;
    for (unsigned int k = 0; k < blocks; k++) {
        unsigned int number = turn(k, blocks, launch.order), row = number / gridDim.x;
        blockIdx = {number % gridDim.x, row % gridDim.y, row / gridDim.y};
        fill(memory);
        run_block();
        if (!intact(memory)) fail("wrote before the begin of the shared memory");
    }
    give_back(memory);
    std::signal(SIGSEGV, before);
}

} // namespace
} // namespace emulator

double *emulator_shared_memory() { return emulator::shared; }

unsigned int emulator_thread() { return emulator::current; }

void emulator_block_barrier(const char *file, int line) {
    emulator::fibers[emulator::current].file = file;
    emulator::fibers[emulator::current].line = line;
    emulator::wait(emulator::AT_BLOCK_BARRIER);
}

void emulator_warp_barrier() { emulator::wait(emulator::AT_WARP_BARRIER); }

void emulator_exchange(void *x, size_t size, unsigned int lane) {
    using namespace emulator;
    std::memcpy(exchanged[current], x, size);
    wait(AT_WARP_BARRIER);
    std::memcpy(x, exchanged[current / 32 * 32 + lane], size);
    wait(AT_WARP_BARRIER);
}

// Lane 4g + t holds rows g and g + 8 of a at columns 2t, 2t + 1 and eight further (a0: row g, a1: row g + 8, a2 and a3 the
// same eight columns on), rows 2t, 2t + 1 and eight further of column g of b, and columns 2t, 2t + 1 of rows g and g + 8 of d.
void emulator_multiply(float *d, const unsigned int *a, const unsigned int *b) {
    using namespace emulator;
    unsigned int *own = factors[current];
    std::memcpy(own, a, 4 * sizeof *a);
    std::memcpy(own + 4, b, 2 * sizeof *b);
    wait(AT_WARP_BARRIER);
    unsigned int(*warp)[6] = factors + current / 32 * 32, lane = current % 32;
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
