// Streams and events. Work is done when it is submitted, or as late as the rules of CUDA allow, which shows an order that
// nobody asked for: UFG_SOFTWARE_CARD_LATE=1.
#include "card.h"

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <tuple>
#include <vector>

namespace card {

struct Queue {
    int card;
    bool destroyed;
    std::deque<std::function<void()>> waiting;
};

namespace {

struct Event {
    int card;
    Queue *queue;
    unsigned long long wanted, reached;
    double time;
};

struct All {
    std::vector<Queue *> queues;
    // The default stream, with streams that are ordered with it; and each thread's own default stream.
    std::map<int, Queue *> shared;
    std::map<std::pair<int, std::thread::id>, Queue *> of_thread;
    std::map<CUevent, std::shared_ptr<Event>> events;
    unsigned long long recorded = 0;
};
// Never freed, as what is in report.cpp.
All &all() {
    static auto *one = new All;
    return *one;
}

Queue *make(int card) {
    all().queues.push_back(new Queue{card, false, {}});
    return all().queues.back();
}

template <class Map, class Key> Queue *made_once(Map &map, Key key, int card) {
    auto found = map.find(key);
    if (found == map.end()) found = map.emplace(key, make(card)).first;
    return found->second;
}

bool step(Queue *queue) {
    if (queue->waiting.empty()) return false;
    std::function<void()> work = std::move(queue->waiting.front());
    queue->waiting.pop_front();
    work();
    return true;
}

// Works a stream off up to where an event was recorded.
void reach(const Event &event, Queue *queue, unsigned long long wanted) {
    while (event.reached < wanted)
        if (!step(queue)) die("an event that was recorded never comes");
}

std::shared_ptr<Event> event_of(CUevent handle) {
    auto found = all().events.find(handle);
    return found == all().events.end() ? nullptr : found->second;
}

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

} // namespace

bool is_late() {
    static bool late = number("UFG_SOFTWARE_CARD_LATE", 0) != 0;
    return late;
}

int card_of(const Queue *queue) { return queue->card; }

Queue *queue_of(CUstream stream) {
    int card = current_card();
    if (card < 0) return nullptr;
    if (stream == nullptr || stream == CU_STREAM_LEGACY) return made_once(all().shared, card, card);
    if (stream == CU_STREAM_PER_THREAD)
        return made_once(all().of_thread, std::make_pair(card, std::this_thread::get_id()), card);
    for (Queue *queue : all().queues)
        if ((CUstream)queue == stream) return queue->destroyed ? nullptr : queue;
    return nullptr;
}

void submit(Queue *queue, std::function<void()> work) {
    if (is_late()) queue->waiting.push_back(std::move(work));
    else work();
}

void finish(Queue *queue) {
    while (step(queue)) {}
}

void finish_all(int card) {
    // Work may add no queues: by number, all the same.
    for (size_t k = 0; k < all().queues.size(); k++)
        if (card < 0 || all().queues[k]->card == card) finish(all().queues[k]);
}

} // namespace card

using namespace card;

#define STREAM(queue, handle)                                                                                        \
    Held held(lock);                                                                                                 \
    if (current_card() < 0) return CUDA_ERROR_INVALID_CONTEXT;                                                       \
    Queue *queue = queue_of(handle);                                                                                 \
    if (!queue) return CUDA_ERROR_INVALID_HANDLE

extern "C" {

CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
    Held held(lock);
    int card = current_card();
    if (card < 0) return CUDA_ERROR_INVALID_CONTEXT;
    bool apart = flags & CU_STREAM_NON_BLOCKING;
    *stream = (CUstream)(apart ? make(card) : made_once(all().shared, card, card));
    return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int) { return cuStreamCreate(stream, flags); }

CUresult cuStreamDestroy_v2(CUstream stream) {
    STREAM(queue, stream);
    // Its work is still done. A stream that shares the default one's queue leaves it there.
    if (queue != queue_of(nullptr)) queue->destroyed = true;
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
    STREAM(queue, stream);
    count("waits for a stream");
    finish(queue);
    return CUDA_SUCCESS;
}

CUresult cuStreamQuery(CUstream stream) {
    STREAM(queue, stream);
    if (queue->waiting.empty()) return CUDA_SUCCESS;
    // Whoever asks again and again must get on.
    step(queue);
    return CUDA_ERROR_NOT_READY;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    STREAM(queue, stream);
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent handle, unsigned int) {
    STREAM(queue, stream);
    std::shared_ptr<Event> event = event_of(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    // What was recorded last until now, whatever is recorded later.
    unsigned long long wanted = event->wanted;
    Queue *other = event->queue;
    submit(queue, [event, other, wanted] { reach(*event, other, wanted); });
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *handle, unsigned int) {
    Held held(lock);
    if (current_card() < 0) return CUDA_ERROR_INVALID_CONTEXT;
    auto event = std::make_shared<Event>(Event{current_card(), nullptr, 0, 0, 0.0});
    *handle = (CUevent)event.get();
    all().events[*handle] = event;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent handle) {
    Held held(lock);
    return all().events.erase(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuEventRecord(CUevent handle, CUstream stream) {
    STREAM(queue, stream);
    std::shared_ptr<Event> event = event_of(handle);
    if (!event || event->card != queue->card) return CUDA_ERROR_INVALID_HANDLE;
    unsigned long long wanted = event->wanted = ++all().recorded;
    event->queue = queue;
    submit(queue, [event, wanted] {
        if (event->reached < wanted) event->reached = wanted;
        event->time = now();
    });
    return CUDA_SUCCESS;
}

CUresult cuEventQuery(CUevent handle) {
    Held held(lock);
    std::shared_ptr<Event> event = event_of(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (event->reached >= event->wanted) return CUDA_SUCCESS;
    step(event->queue);
    return CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent handle) {
    Held held(lock);
    std::shared_ptr<Event> event = event_of(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    reach(*event, event->queue, event->wanted);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent from, CUevent to) {
    Held held(lock);
    std::shared_ptr<Event> first = event_of(from), second = event_of(to);
    if (!first || !second || !first->queue || !second->queue) return CUDA_ERROR_INVALID_HANDLE;
    if (first->reached < first->wanted || second->reached < second->wanted) return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)(second->time - first->time);
    return CUDA_SUCCESS;
}

// Its name in CUDA 12, which the headers of 13 take for the other.
CUresult elapsed_time_of_12(float *milliseconds, CUevent from, CUevent to) __asm__("cuEventElapsedTime");
CUresult elapsed_time_of_12(float *milliseconds, CUevent from, CUevent to) { return cuEventElapsedTime_v2(milliseconds, from, to); }

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
    STREAM(queue, stream);
    submit(queue, [function, data] { function(data); });
    return CUDA_SUCCESS;
}
}
