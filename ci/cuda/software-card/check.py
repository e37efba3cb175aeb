"""What the software card must find, and must get right: each case in a process of its own.

    check.py FOLDER_OF_THE_LIBRARIES
"""

import ctypes
import os
import struct
import subprocess
import sys

NON_BLOCKING, OUT_OF_MEMORY, INVALID_VALUE, NOT_FOUND = 1, 2, 1, 500
PTX = b""".version 9.0
.visible .entry fill_f32(
	.param .u64 fill_f32_param_0,
	.param .f32 fill_f32_param_1,
	.param .u64 fill_f32_param_2
)
{ }
.visible .entry bmul_f32(
	.param .u64 bmul_f32_param_0,
	.param .u32 bmul_f32_param_1
)
{ }
.visible .entry no_such_kernel()
{ }
"""


class Card:
    """The driver's functions; a code other than the expected one is an error."""

    def __init__(self, folder):
        self.library = ctypes.CDLL(os.path.join(folder, "libcuda.so.1"))
        self("cuInit", 0)
        self.use(0)

    def __call__(self, name, *arguments, code=0):
        got = getattr(self.library, name)(*arguments)
        assert got == code, f"{name}: {got}, not {code}"

    def use(self, number):
        context = ctypes.c_void_p()
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
        self("cuCtxSetCurrent", context)

    def made(self, name, *arguments):
        """The handle or address that a function writes to its first argument."""
        handle = ctypes.c_void_p()
        self(name, ctypes.byref(handle), *arguments)
        return handle

    def floats(self, values):
        memory = self.made("cuMemAlloc_v2", ctypes.c_size_t(4 * len(values)))
        self("cuMemcpyHtoD_v2", memory, struct.pack(f"{len(values)}f", *values), ctypes.c_size_t(4 * len(values)))
        return memory

    def read(self, memory, count):
        out = ctypes.create_string_buffer(4 * count)
        self("cuMemcpyDtoH_v2", out, memory, ctypes.c_size_t(4 * count))
        return list(struct.unpack(f"{count}f", out.raw))

    def launch(self, function, stream, *arguments, blocks=1, threads=32, shared=0, code=0):
        pointers = (ctypes.c_void_p * len(arguments))(*[ctypes.addressof(one) for one in arguments])
        self("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, shared, stream, pointers, None, code=code)


def fresh_memory_is_nan(card):
    memory = card.made("cuMemAlloc_v2", ctypes.c_size_t(20))
    assert all(x != x for x in card.read(memory, 5))


def launches_and_copies(card):
    memory = card.floats([1.0] * 100)
    module = card.made("cuModuleLoadData", PTX)
    function = card.made("cuModuleGetFunction", module, b"fill_f32")
    card.launch(function, None, memory, ctypes.c_float(2.5), ctypes.c_size_t(99))
    assert card.read(memory, 100) == [2.5] * 99 + [1.0]
    card("cuModuleGetFunction", ctypes.byref(ctypes.c_void_p()), module, b"fill_f64", code=NOT_FOUND)
    card.launch(function, None, memory, ctypes.c_float(0), ctypes.c_size_t(1), shared=50000, code=INVALID_VALUE)
    card("cuFuncSetAttribute", function, 8, 60000)
    card.launch(function, None, memory, ctypes.c_float(0), ctypes.c_size_t(1), shared=50000)
    card.launch(function, None, memory, ctypes.c_float(0), ctypes.c_size_t(1), threads=2048, code=INVALID_VALUE)


def memory_has_an_end(card):
    first = card.made("cuMemAlloc_v2", ctypes.c_size_t(600 << 10))
    card("cuMemAlloc_v2", ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(600 << 10), code=OUT_OF_MEMORY)
    card("cuMemFree_v2", first)
    card.made("cuMemAlloc_v2", ctypes.c_size_t(600 << 10))


def products(card):
    m, n, k, batch = 3, 4, 5, 2
    a, b = [float(i % 7 - 3) for i in range(m * k * batch)], [float(i % 5 - 2) for i in range(k * n * batch)]
    for turn_a in (0, 1):
        for turn_b in (0, 1):
            left, right, out = card.floats(a), card.floats(b), card.floats([1.0] * (m * n * batch))
            handle = card.made("cublasCreate_v2")
            numbers = ctypes.c_longlong
            card("cublasSgemmStridedBatched", handle, turn_a, turn_b, m, n, k, ctypes.byref(ctypes.c_float(2)), left,
                 k if turn_a else m, numbers(m * k), right, n if turn_b else k, numbers(k * n), ctypes.byref(ctypes.c_float(10)),
                 out, m, numbers(m * n), batch)
            got = card.read(out, m * n * batch)
            for s in range(batch):
                for i in range(m):
                    for j in range(n):
                        terms = (a[s * m * k + (i * k + t if turn_a else t * m + i)]
                                 * b[s * k * n + (t * n + j if turn_b else j * k + t)] for t in range(k))
                        assert got[s * m * n + j * m + i] == 2 * sum(terms) + 10


def written_by_a_stream(card, waits):
    """What another stream reads after a stream has filled memory."""
    memory, copy = card.floats([1.0] * 4), card.floats([0.0] * 4)
    card("cuCtxSynchronize")
    first, second = card.made("cuStreamCreate", NON_BLOCKING), card.made("cuStreamCreate", NON_BLOCKING)
    card("cuMemsetD32Async", memory, 0x40000000, ctypes.c_size_t(4), first)
    if waits:
        event = card.made("cuEventCreate", 2)
        card("cuEventRecord", event, first)
        card("cuStreamWaitEvent", second, event, 0)
    card("cuMemcpyDtoDAsync_v2", copy, memory, ctypes.c_size_t(16), second)
    card("cuStreamSynchronize", second)
    return card.read(copy, 4)


def late_work_waits_for_events(card):
    assert written_by_a_stream(card, True) == [2.0] * 4


def late_work_without_a_wait_shows(card):
    assert written_by_a_stream(card, False) == [1.0] * 4


def late_work_reads_pinned_memory_late(card):
    pinned = card.made("cuMemHostAlloc", ctypes.c_size_t(4), 0)
    memory, stream = card.floats([0.0]), card.made("cuStreamCreate", NON_BLOCKING)
    ctypes.memmove(pinned, struct.pack("f", 1), 4)
    card("cuMemcpyHtoDAsync_v2", memory, pinned, ctypes.c_size_t(4), stream)
    # Too early: the copy has not been made.
    ctypes.memmove(pinned, struct.pack("f", 2), 4)
    card("cuStreamSynchronize", stream)
    assert card.read(memory, 1) == [2.0]


def dies_beyond_a_buffer(card):
    """copy to the host: 24 bytes that are no memory of card 0"""
    card.read(card.floats([1.0] * 5), 6)


def dies_of_a_kernel_that_leaves_its_memory(card):
    """kernel fill_f32, block 0, thread 16 leaves its memory"""
    function = card.made("cuModuleGetFunction", card.made("cuModuleLoadData", PTX), b"fill_f32")
    card.launch(function, None, card.floats([1.0] * 2000), ctypes.c_float(0), ctypes.c_size_t(2003))


def dies_of_a_freed_buffer(card):
    """kernel fill_f32, argument 0: an address that no buffer holds"""
    function = card.made("cuModuleGetFunction", card.made("cuModuleLoadData", PTX), b"fill_f32")
    memory = card.floats([1.0] * 2000)
    card("cuMemFree_v2", memory)
    card.launch(function, None, memory, ctypes.c_float(0), ctypes.c_size_t(1))


def dies_of_a_freed_buffer_whose_place_would_be_taken(card):
    """kernel fill_f32, argument 0: an address that no buffer holds"""
    function = card.made("cuModuleGetFunction", card.made("cuModuleLoadData", PTX), b"fill_f32")
    memory = card.floats([1.0] * 2000)
    card("cuMemFree_v2", memory)
    others = [card.floats([1.0] * 2000) for _ in range(100)]
    assert memory.value not in [other.value for other in others]
    card.launch(function, None, memory, ctypes.c_float(0), ctypes.c_size_t(1))


def dies_of_what_lies_behind_the_end(card):
    """somebody wrote behind the end of a buffer of 20 bytes"""
    memory = card.floats([1.0] * 5)
    ctypes.memmove(memory.value + 20, b"\0", 1)
    card("cuMemFree_v2", memory)


def dies_of_what_lies_before_the_begin(card):
    """somebody wrote before the begin of a buffer of 20 bytes"""
    memory = card.floats([1.0] * 5)
    ctypes.memmove(memory.value - 1, b"\0", 1)
    card("cuMemFree_v2", memory)


def dies_of_another_cards_memory(card):
    """kernel fill_f32 on card 1, argument 0: memory of card 0"""
    memory = card.floats([1.0] * 5)
    card.use(1)
    function = card.made("cuModuleGetFunction", card.made("cuModuleLoadData", PTX), b"fill_f32")
    card.launch(function, None, memory, ctypes.c_float(0), ctypes.c_size_t(1))


def dies_of_other_arguments(card):
    """kernel bmul_f32 has other arguments in the program"""
    card.made("cuModuleGetFunction", card.made("cuModuleLoadData", PTX), b"bmul_f32")


def dies_of_an_unknown_kernel(card):
    """kernel no_such_kernel is in the program, but was not built"""
    card.made("cuModuleGetFunction", card.made("cuModuleLoadData", PTX), b"no_such_kernel")


def dies_of_a_missing_function(card):
    """cuGraphCreate is not here"""
    card("cuGraphCreate", None, 0)


SETTINGS = {
    "memory_has_an_end": {"UFG_SOFTWARE_CARD_MB": "1"},
    "dies_of_another_cards_memory": {"UFG_SOFTWARE_CARDS": "2"},
}


def main():
    folder, *chosen = sys.argv[1:]
    if chosen:
        globals()[chosen[0]](Card(folder))
        return
    cases = [name for name, value in globals().items() if callable(value) and name not in ("Card", "main", "written_by_a_stream")]
    for name in cases:
        own = {key: value for key, value in os.environ.items() if not key.startswith("UFG_SOFTWARE")}
        own |= SETTINGS.get(name, {}) | ({"UFG_SOFTWARE_CARD_LATE": "1"} if name.startswith("late") else {})
        done = subprocess.run([sys.executable, __file__, folder, name], env=own, capture_output=True, text=True)
        if name.startswith("dies"):
            fine = done.returncode == -6 and globals()[name].__doc__ in done.stderr
        else:
            fine = done.returncode == 0
        if not fine:
            sys.exit(f"software card: {name}: code {done.returncode}\n{done.stderr}")
    print(f"software card: {len(cases)} cases")


main()
