// Modules, functions and launches. A module is the text that the program was linked with: what it does not name is not
// found, and its kernels' arguments must have the sizes that they have here.
#include "card.h"

#include "scheduler.h"

#include <map>
#include <memory>
#include <set>
#include <string>

namespace card {

namespace {

typedef std::pair<Origin, std::string> Name;
std::map<Name, const Kernel *> &kernels() {
    static auto *all = new std::map<Name, const Kernel *>;
    return *all;
}

struct Module;
struct Function {
    const Kernel *kernel;
    int card;
    int shared;
};
struct Module {
    int card;
    Origin origin;
    std::map<std::string, std::string> entries;
    std::map<std::string, std::unique_ptr<Function>> functions;
};
std::set<Module *> &modules() {
    static auto *all = new std::set<Module *>;
    return *all;
}

// Bytes of shared memory of a block that need no asking for, and at most.
const int SHARED = 48 * 1024, SHARED_AT_MOST = 227 * 1024;

// The sizes of the arguments, as letters from 'a' (0 bytes) on.
std::string sizes_of(const std::string &parameters) {
    std::string sizes;
    for (size_t at = 0; (at = parameters.find(".param", at)) != std::string::npos;) {
        size_t end = std::min(parameters.find(".param", at + 1), parameters.size());
        std::string one = parameters.substr(at, end - at);
        size_t type = std::string::npos;
        for (const char *kind : {" .u", " .s", " .f", " .b"})
            if (type == std::string::npos) type = one.find(kind);
        if (type == std::string::npos) die("an argument of unknown type in a module: %s", one.c_str());
        int bytes = std::atoi(one.c_str() + type + 3) / 8;
        size_t array = one.find('[');
        if (array != std::string::npos) bytes *= std::atoi(one.c_str() + array + 1);
        sizes += (char)('a' + bytes);
        at = end;
    }
    return sizes;
}

std::map<std::string, std::string> entries_of(const char *text) {
    std::map<std::string, std::string> entries;
    for (const char *at = text; (at = std::strstr(at, ".entry ")) != nullptr;) {
        at += 7;
        size_t length = std::strcspn(at, " (\n\t");
        std::string name(at, length);
        const char *open = at + length + std::strspn(at + length, " \n\t");
        const char *close = *open == '(' ? std::strchr(open, ')') : open;
        if (!close) die("a module that ends within its entry %s", name.c_str());
        entries[name] = sizes_of(std::string(open, close));
        at = close;
    }
    return entries;
}

// Whose module it is: some names of kernels are in both.
Origin origin_of(const std::map<std::string, std::string> &entries) {
    int balance = 0;
    for (const auto &[name, sizes] : entries)
        balance += (int)kernels().count(Name(Origin::PROJECT, name)) - (int)kernels().count(Name(Origin::CANDLE, name));
    return balance > 0 ? Origin::PROJECT : Origin::CANDLE;
}

// The order of turns of the emulator.
int order() {
    static int chosen = [] {
        const char *text = std::getenv("UFG_SOFTWARE_CARD_ORDER");
        if (!text || !*text || !std::strcmp(text, "forwards")) return 0;
        if (!std::strcmp(text, "backwards")) return 1;
        if (!std::strcmp(text, "odd-first")) return 2;
        die("UFG_SOFTWARE_CARD_ORDER is forwards, backwards or odd-first, not %s", text);
    }();
    return chosen;
}

// A launch with its own copy of the arguments.
struct Launched {
    const Kernel *kernel;
    int card;
    Index grid, block;
    size_t shared;
    std::unique_ptr<unsigned char[]> bytes;
    std::unique_ptr<void *[]> arguments;

    Launched(const Function &function, Index grid, Index block, size_t shared, void **from)
        : kernel(function.kernel), card(function.card), grid(grid), block(block), shared(shared) {
        size_t room = 0;
        for (unsigned int k = 0; k < kernel->arguments; k++) room += (kernel->sizes[k] + 15) / 16 * 16;
        bytes.reset(new unsigned char[room + 16]);
        arguments.reset(new void *[kernel->arguments + 1]);
        unsigned char *at = bytes.get();
        for (unsigned int k = 0; k < kernel->arguments; k++) {
            std::memcpy(at, from[k], kernel->sizes[k]);
            arguments[k] = at;
            at += (kernel->sizes[k] + 15) / 16 * 16;
        }
    }

    void run() const {
        for (unsigned int k = 0; k < kernel->arguments; k++) {
            if (!(kernel->pointers >> k & 1)) continue;
            const void *address = *(void **)arguments[k];
            const Buffer *buffer = address ? buffer_of(address) : nullptr;
            if (address && !buffer) die("kernel %s, argument %u: an address that no buffer holds", kernel->name, k);
            if (buffer && buffer->card >= 0 && buffer->card != card)
                die("kernel %s on card %d, argument %u: memory of card %d", kernel->name, card, k, buffer->card);
        }
        count(kernel->name);
        emulator::run({kernel->name, kernel->entry, arguments.get(), grid, block, shared, order(),
                       kernel->origin == Origin::CANDLE});
    }
};

} // namespace

bool add_kernels(const Kernel *first, size_t how_many) {
    for (const Kernel *one = first; one < first + how_many; one++)
        if (!kernels().emplace(Name(one->origin, one->name), one).second) die("two kernels are called %s", one->name);
    return true;
}

} // namespace card

using namespace card;

extern "C" {

// Of a text such as "8.4": major and minor, in order.
static long version_of(const char *text) {
    char *dot;
    long major = std::strtol(text, &dot, 10);
    return major * 1000 + (*dot == '.' ? std::strtol(dot + 1, nullptr, 10) : 0);
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    Held held(lock);
    if (current_card() < 0) return CUDA_ERROR_INVALID_CONTEXT;
    const char *text = (const char *)image;
    if (!std::strstr(text, ".version")) {
        say("a module that is no text of PTX");
        return CUDA_ERROR_INVALID_PTX;
    }
    const char *newest = std::getenv("UFG_SOFTWARE_CARD_PTX");
    if (newest && version_of(std::strstr(text, ".version") + 8) > version_of(newest)) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    std::map<std::string, std::string> entries = entries_of(text);
    auto *made = new Module{current_card(), origin_of(entries), entries, {}};
    modules().insert(made);
    *module = (CUmodule)made;
    return CUDA_SUCCESS;
}

// Functions stay as they are: a launch may still be waiting.
CUresult cuModuleUnload(CUmodule module) {
    Held held(lock);
    return modules().erase((Module *)module) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule handle, const char *name) {
    Held held(lock);
    auto *module = (Module *)handle;
    if (!modules().count(module)) return CUDA_ERROR_INVALID_HANDLE;
    auto entry = module->entries.find(name);
    if (entry == module->entries.end()) return CUDA_ERROR_NOT_FOUND;
    auto found = kernels().find(Name(module->origin, name));
    if (found == kernels().end()) die("kernel %s is in the program, but was not built for the software card", name);
    const Kernel *kernel = found->second;
    std::string sizes;
    for (unsigned int k = 0; k < kernel->arguments; k++) sizes += (char)('a' + kernel->sizes[k]);
    if (sizes != entry->second)
        die("kernel %s has other arguments in the program: the software card was built from other sources", name);
    auto &made = module->functions[name];
    if (!made) made.reset(new Function{kernel, module->card, SHARED});
    *function = (CUfunction)made.get();
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
    Held held(lock);
    auto *function = (Function *)handle;
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        if (value < 0 || value > SHARED_AT_MOST) return CUDA_ERROR_INVALID_VALUE;
        function->shared = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: return CUDA_SUCCESS;
    default: die("cuFuncSetAttribute: attribute %d", (int)attribute);
    }
}

CUresult cuLaunchKernel(CUfunction handle, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                        unsigned int by, unsigned int bz, unsigned int shared, CUstream stream, void **arguments,
                        void **extra) {
    Held held(lock);
    auto *function = (Function *)handle;
    if (extra) die("cuLaunchKernel: arguments in one piece");
    Queue *queue = queue_of(stream);
    if (!queue) return CUDA_ERROR_INVALID_HANDLE;
    const char *name = function->kernel->name;
    if (card_of(queue) != function->card) {
        say("kernel %s of card %d in a stream of card %d", name, function->card, card_of(queue));
        return CUDA_ERROR_INVALID_HANDLE;
    }
    bool sized = gx && gy && gz && bx && by && bz && gx <= 0x7fffffffu && gy <= 65535 && gz <= 65535 && bx <= 1024 &&
                 by <= 1024 && bz <= 64 && (unsigned long long)bx * by * bz <= 1024;
    if ((unsigned __int128)gx * gy * gz > 0xffffffffu) die("kernel %s: more blocks than the emulator counts", name);
    if (!sized || (int)shared > (function->shared > SHARED ? function->shared : SHARED)) {
        say("kernel %s: %u x %u x %u blocks of %u x %u x %u threads with %u bytes of shared memory", name, gx, gy, gz, bx, by,
            bz, shared);
        return CUDA_ERROR_INVALID_VALUE;
    }
    auto launched = std::make_shared<Launched>(*function, Index{gx, gy, gz}, Index{bx, by, bz}, shared, arguments);
    submit(queue, [launched] { launched->run(); });
    return CUDA_SUCCESS;
}
}
