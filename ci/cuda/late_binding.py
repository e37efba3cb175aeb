"""Archives that stand in for CUDA's shared libraries when a program is linked.

    late_binding.py BINDINGS OUT MAJOR [FOLDER]

BINDINGS is the source of the crate `cudarc`, whose declarations name the functions; OUT gets a lib<name>.a for each
library of CUDA MAJOR (12 or 13), and FOLDER is where an installed toolkit has them. A function there is a jump through a slot. The slot leads at first to code that opens the library, looks the
function up and stores its address; later calls go straight there. A program linked with the archives does not depend
on the libraries to start: where one is missing, or lacks a function, the call returns that library's own error code.

Folders in UFG_BENCH_CUDA_LIBS (separated by colons) are searched before the loader's own, and then FOLDER and the usual
places.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

# Short name for the linker: module of the bindings, name of the library in CUDA 12 and 13, the error code for "not there".
LIBRARIES = {
    "cuda": ("driver", {"12": "libcuda.so.1", "13": "libcuda.so.1"}, 34),
    "cublas": ("cublas", {"12": "libcublas.so.12", "13": "libcublas.so.13"}, 1),
    "cublasLt": ("cublaslt", {"12": "libcublasLt.so.12", "13": "libcublasLt.so.13"}, 1),
    "curand": ("curand", {"12": "libcurand.so.10", "13": "libcurand.so.10"}, 101),
    "cusolver": ("cusolver", {"12": "libcusolver.so.11", "13": "libcusolver.so.12"}, 1),
    "cusparse": ("cusparse", {"12": "libcusparse.so.12", "13": "libcusparse.so.12"}, 1),
    "cudnn": ("cudnn", {"12": "libcudnn.so.9", "13": "libcudnn.so.9"}, 1001),
    "nvrtc": ("nvrtc", {"12": "libnvrtc.so.12", "13": "libnvrtc.so.13"}, 11),
}
# "@MAJOR@" is that of CUDA.
PLACES = [
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-@MAJOR@*/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local/lib/python3*/*-packages/nvidia/*/lib",
    "/opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib",
]

# Integer and vector registers that may hold arguments, and rax, which tells a variadic function of the latter. Six
# integer registers, rax and eight vector registers take 184 bytes; with the return address and the pushed number the
# stack stays aligned to 16 where the resolver is called.
WHOLE = ["%rdi", "%rsi", "%rdx", "%rcx", "%r8", "%r9", "%rax"]
VECTOR = [f"%xmm{k}" for k in range(8)]


def trampolines(library, functions):
    """Assembly of the functions, the slots and the way to the resolver."""
    lines = [".text"]
    for number, name in enumerate(functions):
        lines += [
            f".globl {name}", f".type {name}, @function", ".balign 16",
            f"{name}: jmp *slots_{library} + {8 * number}(%rip)",
            f"first_{library}_{number}: push ${number}", f"jmp bind_{library}", f".size {name}, . - {name}",
        ]
    room = 8 * len(WHOLE) + 16 * len(VECTOR)
    room += 8  # keeps the alignment
    places = [(f"movq {{}}, {{}}", register, 8 * k) for k, register in enumerate(WHOLE)]
    places += [(f"movups {{}}, {{}}", register, 8 * len(WHOLE) + 16 * k) for k, register in enumerate(VECTOR)]
    lines += [f"bind_{library}:", f"subq ${room}, %rsp"]
    lines += [move.format(register, f"{at}(%rsp)") for move, register, at in places]
    lines += [f"movq {room}(%rsp), %rdi", f"call resolve_{library}", "movq %rax, %r11"]
    lines += [move.format(f"{at}(%rsp)", register) for move, register, at in places]
    lines += [f"addq ${room + 8}, %rsp", "jmp *%r11"]
    lines += ['.section .data.rel, "aw", @progbits', ".balign 8", f".globl slots_{library}", f".hidden slots_{library}",
              f"slots_{library}:"]
    lines += [f".quad first_{library}_{number}" for number in range(len(functions))]
    lines += ['.section .note.GNU-stack, "", @progbits', ""]
    return "\n".join(lines)


RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *slots_@LIB@[] __attribute__((visibility("hidden")));
static const char *const names[] = { @NAMES@ };
static const char *const places[] = { @PLACES@ };
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *library;

static int absent(void) { return @ERROR@; }
static const char *absent_text(void) { return "@SONAME@ is not on this machine, or lacks the function"; }

static void open_in(const char *folder, int length) {
    char path[4096];
    if (!library && length > 0 && snprintf(path, sizeof path, "%.*s/@SONAME@", length, folder) < (int)sizeof path)
        library = dlopen(path, RTLD_LAZY | RTLD_GLOBAL);
}

static void open_library(void) {
    const char *own = getenv("UFG_BENCH_CUDA_LIBS");
    while (own && *own) {
        int length = (int)strcspn(own, ":");
        open_in(own, length);
        own += length + (own[length] == ':');
    }
    if (!library) library = dlopen("@SONAME@", RTLD_LAZY | RTLD_GLOBAL);
    for (size_t k = 0; !library && k < sizeof places / sizeof *places; k++) {
        glob_t found;
        if (glob(places[k], 0, 0, &found) == 0) {
            for (size_t i = 0; i < found.gl_pathc; i++) open_in(found.gl_pathv[i], (int)strlen(found.gl_pathv[i]));
            globfree(&found);
        }
    }
}

/* The functions that return a text instead of a code. */
static int returns_text(const char *name) {
    size_t length = strlen(name);
    return length > 6 && strcmp(name + length - 6, "String") == 0 && strncmp(name, "cuGet", 5) != 0;
}

__attribute__((visibility("hidden"))) void *resolve_@LIB@(long number) {
    pthread_once(&once, open_library);
    void *address = library ? dlsym(library, names[number]) : 0;
    if (!address) address = returns_text(names[number]) ? (void *)absent_text : (void *)absent;
    __atomic_store_n(&slots_@LIB@[number], address, __ATOMIC_RELEASE);
    return address;
}
"""


def quoted(names):
    return ", ".join(f'"{name}"' for name in names)


def archive(library, functions, soname, error, places, out):
    """Writes lib<library>.a."""
    text = RESOLVER.replace("@LIB@", library).replace("@SONAME@", soname).replace("@ERROR@", str(error))
    text = text.replace("@NAMES@", quoted(functions)).replace("@PLACES@", quoted(places))
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "jumps.s").write_text(trampolines(library, functions))
        (work / "bind.c").write_text(text)
        objects = []
        for source in ("jumps.s", "bind.c"):
            made = work / f"{library}_{source[:-2]}.o"
            subprocess.run(["gcc", "-O2", "-fPIC", "-Wall", "-c", work / source, "-o", made], check=True)
            objects.append(made)
        target = out / f"lib{library}.a"
        target.unlink(missing_ok=True)
        subprocess.run(["ar", "crs", target, *objects], check=True)


def main():
    bindings, out = map(pathlib.Path, sys.argv[1:3])
    major, *folder = sys.argv[3:]
    places = folder + [place.replace("@MAJOR@", major) for place in PLACES]
    for library, (module, sonames, error) in LIBRARIES.items():
        text = (bindings / "src" / module / "sys" / "mod.rs").read_text()
        found = re.findall(r"^\s*(?:pub )?fn ((?:cu|nvrtc)\w+)\s*\(", text, re.MULTILINE)
        functions = sorted(set(found))
        if not functions:
            sys.exit(f"late_binding: no function in the bindings of {library}")
        archive(library, functions, sonames[major], error, places, out)
        print(f"{library}: {len(functions)} functions")


main()
