// A generator as cuRAND's: uniform numbers in (0, 1] and normal ones, of SplitMix64 (Steele, Lea and Flood 2014), by seed and
// offset. Other numbers than a card's.
#include "card.h"

#include <cmath>

using namespace card;

namespace {

enum Status { SUCCESS = 0, NOT_INITIALIZED = 101, TYPE_ERROR = 103, LENGTH_NOT_MULTIPLE = 105 };

struct Generator {
    Queue *queue;
    unsigned long long seed, offset;
};

unsigned long long bits(unsigned long long seed, unsigned long long index) {
    unsigned long long z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

// In (0, 1], in steps of 2^-53.
double uniform(unsigned long long seed, unsigned long long index) { return ((double)(bits(seed, index) >> 11) + 1.0) * 0x1p-53; }

template <class T, class Make> int generate(void *handle, T *out, size_t many, Make make) {
    Held held(lock);
    if (!handle) return NOT_INITIALIZED;
    auto *generator = (Generator *)handle;
    unsigned long long seed = generator->seed, from = generator->offset;
    generator->offset += many;
    Queue *queue = generator->queue;
    submit(queue, [=] {
        if (!may_touch(card_of(queue), out, many * sizeof *out)) die("cuRAND writes to what is no memory of the card");
        count("random numbers", many * sizeof *out);
        for (size_t k = 0; k < many; k++) out[k] = (T)make(seed, from, k);
    });
    return SUCCESS;
}

// Box and Muller (1958), two numbers for two.
template <class T> int normal(void *handle, T *out, size_t many, T mean, T deviation) {
    if (many % 2) return LENGTH_NOT_MULTIPLE;
    return generate(handle, out, many, [=](unsigned long long seed, unsigned long long from, size_t k) {
        double radius = std::sqrt(-2.0 * std::log(uniform(seed, from + k / 2 * 2)));
        double angle = 6.283185307179586477 * uniform(seed, from + k / 2 * 2 + 1);
        return mean + deviation * radius * (k % 2 ? std::sin(angle) : std::cos(angle));
    });
}

} // namespace

extern "C" {

int curandCreateGenerator(void **generator, int kind) {
    Held held(lock);
    // The pseudo-random ones.
    if (kind < 100 || kind > 161) return TYPE_ERROR;
    if (current_card() < 0) return NOT_INITIALIZED;
    *generator = new Generator{queue_of(nullptr), 0, 0};
    return SUCCESS;
}

int curandDestroyGenerator(void *generator) {
    Held held(lock);
    delete (Generator *)generator;
    return SUCCESS;
}

int curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed) {
    Held held(lock);
    ((Generator *)generator)->seed = seed;
    ((Generator *)generator)->offset = 0;
    return SUCCESS;
}

int curandSetGeneratorOffset(void *generator, unsigned long long offset) {
    Held held(lock);
    ((Generator *)generator)->offset = offset;
    return SUCCESS;
}

int curandSetStream(void *generator, CUstream stream) {
    Held held(lock);
    Queue *queue = queue_of(stream);
    if (!queue) return NOT_INITIALIZED;
    ((Generator *)generator)->queue = queue;
    return SUCCESS;
}

int curandGenerateUniform(void *generator, float *out, size_t many) {
    return generate(generator, out, many, [](unsigned long long seed, unsigned long long from, size_t k) {
        // Not less than the least that float32 keeps apart from 0 here.
        return std::fmax(uniform(seed, from + k), 0x1p-32);
    });
}

int curandGenerateUniformDouble(void *generator, double *out, size_t many) {
    return generate(generator, out, many,
                    [](unsigned long long seed, unsigned long long from, size_t k) { return uniform(seed, from + k); });
}

int curandGenerateNormal(void *generator, float *out, size_t many, float mean, float deviation) {
    return normal(generator, out, many, mean, deviation);
}

int curandGenerateNormalDouble(void *generator, double *out, size_t many, double mean, double deviation) {
    return normal(generator, out, many, mean, deviation);
}
}
