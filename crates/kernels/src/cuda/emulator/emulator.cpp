// The emulator's own library: the kernels, their entries by name, and memory for buffers.
#include "scheduler.h"

#include <type_traits>

#include "../kernels.cu"

namespace {

const char *kinds;

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
    if (std::strcmp(expected, kinds)) emulator::fail("arguments of other kinds than its signature");
    Unpack<P...>::call(kernel, a);
}

} // namespace

using emulator::Guarded;

extern "C" {

// Memory for a buffer; `handle` is for `emulator_free`, which tells whether nobody wrote before its begin.
void *emulator_allocate(size_t length, void **handle) {
    Guarded *memory = new Guarded(emulator::guarded(length));
    emulator::fill(*memory);
    *handle = memory;
    return memory->data;
}

int emulator_free(void *handle) {
    Guarded *memory = (Guarded *)handle;
    int whole = emulator::intact(*memory);
    emulator::give_back(*memory);
    delete memory;
    return whole;
}

void emulator_launch(const char *name, void (*kernel)(void **), void **a, const char *of_kinds, unsigned int grid,
                     unsigned int block, size_t shared_bytes, int order) {
    kinds = of_kinds;
    emulator::Running launch = {name, kernel, a, {grid, 1, 1}, {block, 1, 1}, shared_bytes, order, false};
    emulator::running = &launch;
    if (block % 32 != 0) emulator::fail("the size of a block");
    emulator::run(launch);
}

#define ENTRY(name)                                                                                                  \
    void name##_entry(void **a) { call(name, a); }
#define BOTH(name) ENTRY(name##_f32) ENTRY(name##_f64)
#include "entries.h"
}
