// What the parts of the software card share.
#pragma once
#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>

namespace card {

// Everything happens under this lock, kernels too.
extern std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> Held;

// Text on standard error, after "software card: "; `die` ends the process.
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

// The environment variable as a number, or another one where it is not set.
long number(const char *variable, long otherwise);

// What is reported at exit: calls and bytes by name.
void count(const char *what, size_t bytes = 0);

// Who wrote a kernel: the project's threads must all come to every barrier, those of candle may end before.
enum class Origin { PROJECT, CANDLE };

// A kernel as its source was compiled. `pointers` has a bit for each argument that is an address.
struct Kernel {
    const char *name;
    void (*entry)(void **);
    unsigned int arguments;
    const unsigned char *sizes;
    unsigned long long pointers;
    Origin origin;
};
// Makes kernels known, when the library is loaded.
bool add_kernels(const Kernel *first, size_t how_many);

// Memory of a card, or the host's pinned memory (card -1). `late`: given by a stream.
struct Buffer {
    int card;
    char *start, *data;
    size_t total, bytes;
};
CUresult take(int card, size_t bytes, CUdeviceptr *at);
CUresult give_back(CUdeviceptr at, int card);
// The buffer in which an address lies, or whose end it is.
const Buffer *buffer_of(const void *at);
// Whether a card may touch these bytes: its own, or pinned ones.
bool may_touch(int card, const void *at, size_t bytes);
bool is_pinned(const void *at);
// What a card has, has given, and had given at most.
struct Amount {
    size_t total, used, most;
};
Amount &amount(int card);

// How many cards there are, and the one whose context is current in this thread (-1: none).
int cards();
int current_card();

// A stream's work: at once, or, where UFG_SOFTWARE_CARD_LATE asks for it, not before somebody must wait for it.
struct Queue;
// The queue of a handle in the current context; null where there is no such stream.
Queue *queue_of(CUstream stream);
int card_of(const Queue *queue);
bool is_late();
void submit(Queue *queue, std::function<void()> work);
void finish(Queue *queue);
// All streams of a card, or of all cards (-1).
void finish_all(int card);

} // namespace card
