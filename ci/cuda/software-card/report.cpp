// Messages, settings, and what is counted and told at exit.
#include "card.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <unistd.h>

namespace card {

std::recursive_mutex lock;

namespace {

struct Count {
    unsigned long long calls, bytes;
};
// Never freed: threads may still call while the process ends.
std::map<std::string, Count> &counts() {
    static auto *all = new std::map<std::string, Count>;
    return *all;
}

void speak(const char *format, va_list values) {
    std::fputs("software card: ", stderr);
    std::vfprintf(stderr, format, values);
    std::fputc('\n', stderr);
}

} // namespace

void say(const char *format, ...) {
    va_list values;
    va_start(values, format);
    speak(format, values);
    va_end(values);
}

void die(const char *format, ...) {
    va_list values;
    va_start(values, format);
    speak(format, values);
    va_end(values);
    std::abort();
}

long number(const char *variable, long otherwise) {
    const char *text = std::getenv(variable);
    if (!text || !*text) return otherwise;
    char *end;
    long value = std::strtol(text, &end, 10);
    if (*end || value < 0) die("%s=%s is no number", variable, text);
    return value;
}

void count(const char *what, size_t bytes) {
    Count &one = counts()[what];
    one.calls++;
    one.bytes += bytes;
}

// A line for each kernel, copy and product: calls, bytes, name. Each process adds its own: trials are processes.
__attribute__((destructor)) void report() {
    const char *path = std::getenv("UFG_SOFTWARE_CARD_REPORT");
    if (!path || !*path) return;
    Held held(lock);
    FILE *out = std::fopen(path, "a");
    if (!out) die("cannot write %s", path);
    std::fprintf(out, "process %d\n", (int)getpid());
    for (const auto &[name, one] : counts()) std::fprintf(out, "%llu %llu %s\n", one.calls, one.bytes, name.c_str());
    for (int k = 0; k < cards(); k++) std::fprintf(out, "1 %zu most memory of card %d\n", amount(k).most, k);
    std::fclose(out);
}

} // namespace card
