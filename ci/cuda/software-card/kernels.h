// How the kernels of a source file become known: `KERNEL(name)` is an entry of a table for `card::add_kernels`.
#pragma once
#include "card.h"

#include <type_traits>
#include <utility>

namespace card {

template <auto kernel> struct Entry;
template <class... P, void (*kernel)(P...)> struct Entry<kernel> {
    static constexpr unsigned int count = sizeof...(P);
    static constexpr unsigned char sizes[count + 1] = {sizeof(P)..., 0};

    template <size_t... i> static void spread(void **a, std::index_sequence<i...>) { kernel(*(P *)a[i]...); }
    static void run(void **a) { spread(a, std::index_sequence_for<P...>{}); }

    static constexpr unsigned long long pointers() {
        unsigned long long mask = 0;
        unsigned int k = 0;
        ((mask |= (unsigned long long)std::is_pointer<P>::value << k++), ...);
        return mask;
    }
};

} // namespace card

#define KERNEL(name)                                                                                                 \
    {#name, card::Entry<name>::run, card::Entry<name>::count, card::Entry<name>::sizes, card::Entry<name>::pointers(), ORIGIN},
