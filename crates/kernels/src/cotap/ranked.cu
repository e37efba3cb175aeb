// The CoTAP ranking loss of long lists by sorting, in O(n log² n). Items are merged by q into one order. In that order, the
// items of a lower q are a prefix, and a prefix is made of blocks of powers of two; each block is sorted by p with running
// sums, where three binary searches give an item's sums of 1, p and p². One launch a level asks the blocks and merges them
// by twos: an item's place is its own plus its rank in the other block, and its running sums are both blocks' up to there,
// so that no scan is needed. Sums have a fixed order.
#include "cotap.cu"

// An item in the order of q. `first..last` are the places of those of its q.
struct Ranked {
    double p, sum, slope;
    u32 first, last, less, id;
};
// A place of a sorted block: p, and the sums of its block up to and with it.
struct Running {
    double p, one, two;
};
struct Sums {
    double one, two;
};

// How many of the first `n` places pass, where those that do come first.
template <class F> __device__ inline u32 passing(u32 n, F test) {
    u32 from = 0;
    while (from < n) {
        u32 middle = (from + n) / 2;
        if (test(middle)) from = middle + 1;
        else n = middle;
    }
    return from;
}

// A thread's place in its list: `blocks` blocks a list.
#define OWN_PLACE                                                                                                    \
    u32 list = blockIdx.x / blocks, place = blockIdx.x % blocks * blockDim.x + threadIdx.x;                          \
    if (place >= n) return;                                                                                          \
    u64 base = (u64)list * n

// Keys and numbers of the items; refuses values that are not finite.
template <class T>
__device__ inline void ranked_start(const T *p, const T *q, double *keys, u32 *ids, u64 *flag, double *details, u32 n, u32 blocks) {
    OWN_PLACE;
    if (!is_number(p[base + place])) refuse(flag, details, list, NOT_FINITE, 0.0);
    if (!is_number(q[base + place])) refuse(flag, details, list, NOT_FINITE_SECOND, 0.0);
    keys[base + place] = q[base + place], ids[base + place] = place;
}

// The mean of p, about which sums are taken; one block a list.
template <class T> __device__ inline void ranked_mean(const T *p, double *mean, u32 n) {
    SHARED_MEMORY(room);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += (double)p[(u64)blockIdx.x * n + i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) mean[blockIdx.x] = sum / n;
}

// The pair of blocks of `length` that a place lies in: its own begins at `own`, the other one has `others` from `other`.
struct Merge {
    u32 own, other, others, to;
    bool left;

    __device__ Merge(u32 place, u32 n, u32 length) {
        u32 start = place / (2 * length) * (2 * length), middle = start + length;
        left = place < middle;
        own = left ? start : middle, other = left ? middle : start;
        others = !left ? length : middle >= n ? 0 : n - middle < length ? n - middle : length;
        to = start + place - own;
    }
    // How many of the other block come before `key`: of equal ones, those of the left block do.
    template <class F> __device__ u32 rank(double key, F of) const {
        u32 begin = other;
        return left ? passing(others, [&](u32 k) { return of(begin + k) < key; })
                    : passing(others, [&](u32 k) { return of(begin + k) <= key; });
    }
};

// Merges blocks of `length` keys by twos.
extern "C" __global__ void ranked_sort(const double *keys, const u32 *ids, double *to_keys, u32 *to_ids, u32 n, u32 blocks,
                                       u32 length) {
    OWN_PLACE;
    const double *all = keys + base;
    Merge merge(place, n, length);
    u32 to = merge.to + merge.rank(all[place], [&](u32 k) { return all[k]; });
    to_keys[base + to] = all[place], to_ids[base + to] = ids[base + place];
}

// Items in the order of q, and blocks of one place each with the sums of p and p².
template <class T>
__device__ inline void ranked_items(const T *p, const double *keys, const u32 *ids, const double *mean, Ranked *items,
                                    Running *running, u32 n, u32 blocks) {
    OWN_PLACE;
    const double *all = keys + base;
    double key = all[place];
    Ranked item;
    item.id = ids[base + place], item.p = p[base + item.id], item.sum = 0.0, item.slope = 0.0, item.less = 0;
    item.first = passing(n, [&](u32 k) { return all[k] < key; });
    item.last = passing(n, [&](u32 k) { return all[k] <= key; });
    items[base + place] = item;
    double x = item.p - mean[list];
    running[base + place] = {item.p, x, x * x};
}

// Sums of the first `count` places of a block.
__device__ inline Sums up_to(const Running *block, u32 count) {
    return count == 0 ? Sums{0.0, 0.0} : Sums{block[count - 1].one, block[count - 1].two};
}
__device__ inline Sums between(Sums a, Sums b) { return {b.one - a.one, b.two - a.two}; }

// Puts a place of a block of `length` into the block of twice the length.
__device__ inline void merge_running(const Running *from, Running *to, u32 place, u32 n, u32 length) {
    Merge merge(place, n, length);
    Running own = from[place];
    u32 rank = merge.rank(own.p, [&](u32 k) { return from[k].p; });
    Sums others = up_to(from + merge.other, rank);
    to[merge.to + rank] = {own.p, own.one + others.one, own.two + others.two};
}

// A level of the sums over items of a lower q.
extern "C" __global__ void ranked_below(const Running *running, Running *to, Ranked *items, const double *mean, u32 n,
                                        u32 blocks, u32 length, double tau2) {
    OWN_PLACE;
    merge_running(running + base, to + base, place, n, length);
    Ranked item = items[base + place];
    if ((item.first & length) == 0) return;
    const Running *block = running + base + (item.first & ~(2 * length - 1));
    double p = item.p, x = p - mean[list], c = tau2 - x;
    u32 after = passing(length, [&](u32 k) { return block[k].p <= p; });
    u32 down = passing(after, [&](u32 k) { return p - block[k].p >= tau2; });
    // Those above p, and those in (p - tau2, p].
    Sums at = up_to(block, after), above = between(at, up_to(block, length)), near = between(up_to(block, down), at);
    double higher = length - after, nearby = after - down;
    double linear = higher - 2.0 * (x * higher - above.one) / tau2;
    double quadratic = (c * c * nearby + 2.0 * c * near.one + near.two) / (tau2 * tau2);
    item.sum += linear + fmax(quadratic, 0.0);
    item.slope -= 2.0 / tau2 * (higher + (c * nearby + near.one) / tau2);
    item.less += passing(after, [&](u32 k) { return block[k].p < p; });
    items[base + place] = item;
}

// Parts of the loss, and blocks of one place each with the sums of the weights and of weight times p. `sorted` is the
// whole list by p.
extern "C" __global__ void ranked_weights(const double *keys, const double *mean, const Running *sorted, Ranked *items,
                                          Running *to, double *terms, u32 n, u32 blocks, double tau1) {
    OWN_PLACE;
    Ranked item = items[base + place];
    const Running *all = sorted + base;
    double p = item.p;
    u32 before = passing(n, [&](u32 k) { return all[k].p < p; });
    // Of the n - before items at p or above, those of a lower q do not count.
    double count = (double)(n - before) - (double)(item.first - item.less);
    RankedItem own(keys[base + place], item.sum, count, n, tau1);
    terms[base + place] = own.term;
    items[base + place].slope = own.weight * item.slope;
    to[base + place] = {p, own.weight, own.weight * (p - mean[list])};
}

// A level of the sums over items of a higher q, which are a suffix: blocks of a list of `whole` places, a power of two.
extern "C" __global__ void ranked_above(const Running *running, Running *to, Ranked *items, const double *mean, u32 n,
                                        u32 blocks, u32 length, u32 whole, double tau2) {
    OWN_PLACE;
    merge_running(running + base, to + base, place, n, length);
    Ranked item = items[base + place];
    u32 higher = whole - item.last, start = whole - (higher & ~(length - 1));
    if ((higher & length) == 0 || start >= n) return;
    const Running *block = running + base + start;
    u32 count = n - start < length ? n - start : length;
    double p = item.p, x = p - mean[list];
    u32 before = passing(count, [&](u32 k) { return block[k].p < p; });
    u32 up = passing(count, [&](u32 k) { return block[k].p - p < tau2; });
    // Those below p, and those in [p, p + tau2).
    Sums under = up_to(block, before), near = between(under, up_to(block, up));
    items[base + place].slope = item.slope + 2.0 / tau2 * (under.one + ((tau2 + x) * near.one - near.two) / tau2);
}

// Gradients back in the order of the list.
extern "C" __global__ void ranked_finish(const Ranked *items, double *gradient, u32 n, u32 blocks) {
    OWN_PLACE;
    gradient[base + items[base + place].id] = items[base + place].slope;
}

#define RANKED(suffix, T)                                                                                            \
    extern "C" __global__ void ranked_start_##suffix(const T *p, const T *q, double *keys, u32 *ids, u64 *flag,      \
                                                     double *details, u32 n, u32 blocks) {                           \
        ranked_start(p, q, keys, ids, flag, details, n, blocks);                                                     \
    }                                                                                                                \
    extern "C" __global__ void ranked_mean_##suffix(const T *p, double *mean, u32 n) { ranked_mean(p, mean, n); }    \
    extern "C" __global__ void ranked_items_##suffix(const T *p, const double *keys, const u32 *ids,                 \
                                                     const double *mean, Ranked *items, Running *running, u32 n,     \
                                                     u32 blocks) {                                                   \
        ranked_items(p, keys, ids, mean, items, running, n, blocks);                                                 \
    }
RANKED(f32, float)
RANKED(f64, double)
