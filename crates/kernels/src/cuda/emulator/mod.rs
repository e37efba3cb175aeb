//! A device without a card: the kernels compiled by the host's C++ compiler, a fiber for each thread of a block.
//!
//! Buffers end where a page begins that nobody may touch, and hold NaN until something is written; threads and blocks
//! run forwards, backwards or in an order of neither, so that a missing barrier shows as a difference.

mod augment;
mod libraries;
mod ranking;
mod refusals;
mod tests;
mod training;
mod witnesses;

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};

use super::device::{Argument, Device, Launch, Number, View};
use crate::Result;

type Entry = unsafe extern "C" fn(*mut *mut c_void);
type Allocate = unsafe extern "C" fn(usize, *mut *mut c_void) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void) -> c_int;
type Run = unsafe extern "C" fn(*const c_char, Entry, *mut *mut c_void, *const c_char, u32, u32, usize, c_int);

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Resolve everything at once.
const NOW: c_int = 2;

/// The compiled kernels. The scheduler has one set of fibers: one launch at a time.
struct Library {
    handle: usize,
    busy: Mutex<()>,
}

fn library() -> &'static Library {
    static ONE: OnceLock<Library> = OnceLock::new();
    ONE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for the compiled kernels");
        let path = folder.path().join("kernels.so");
        compile(&path);
        let name = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path without a NUL");
        // SAFETY: the library is the one just made; its initialisers only set up empty containers.
        let handle = unsafe { dlopen(name.as_ptr(), NOW) };
        assert!(!handle.is_null(), "the compiled kernels cannot be loaded");
        Library { handle: handle as usize, busy: Mutex::new(()) }
    })
}

/// Compiles the kernels and the scheduler.
fn compile(to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/emulator/emulator.cpp");
    // Tiles are read four numbers at a time: the kernels rely on the layout of memory, not on C++'s types.
    let flags = [
        "-std=c++17",
        "-O2",
        "-fno-strict-aliasing",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fPIC",
        "-shared",
        "-ffp-contract=off",
        "-o",
    ];
    let out = Command::new("c++").args(flags).arg(to).arg(source).output();
    let out = out.unwrap_or_else(|e| panic!("the emulator needs a C++ compiler; `c++` did not start: {e}"));
    assert!(out.status.success(), "the kernels do not compile:\n{}", String::from_utf8_lossy(&out.stderr));
}

impl Library {
    fn find(&self, name: &str) -> *mut c_void {
        let text = CString::new(name).expect("a name without a NUL");
        // SAFETY: the handle is that of the open library, which is never closed.
        let found = unsafe { dlsym(self.handle as *mut c_void, text.as_ptr()) };
        assert!(!found.is_null(), "the emulator has no `{name}`: add it to emulator.cpp");
        found
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The order in which threads and blocks take their turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Order {
    Forward,
    Backward,
    OddFirst,
}

impl Order {
    pub(super) const ALL: [Self; 3] = [Self::Forward, Self::Backward, Self::OddFirst];
}

/// The emulator with one order of turns.
pub(super) struct Emulator(pub(super) Order);

/// Guarded memory.
pub(super) struct Memory<T> {
    data: *mut T,
    handle: *mut c_void,
    len: usize,
}

// SAFETY: plain memory that only its owner frees; kernels, which write through its address, run one at a time.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: the symbol has this signature in emulator.cpp, and the handle was made by `emulator_allocate`.
        let whole = unsafe {
            let free: Free = std::mem::transmute(library().find("emulator_free"));
            free(self.handle)
        };
        if !std::thread::panicking() {
            assert!(whole != 0, "a kernel wrote before the begin of a buffer");
        }
    }
}

impl Device for Emulator {
    type Buffer<T: Number> = Memory<T>;

    fn empty<T: Number>(&self, len: usize) -> Result<Memory<T>> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the symbol has this signature in emulator.cpp; the memory is aligned to 8 bytes at least.
        let data = unsafe {
            let allocate: Allocate = std::mem::transmute(library().find("emulator_allocate"));
            allocate(len * size_of::<T>(), &mut handle)
        };
        Ok(Memory { data: data.cast(), handle, len })
    }

    fn upload<T: Number>(&self, values: &[T]) -> Result<Memory<T>> {
        let memory = self.empty(values.len())?;
        // SAFETY: the memory has room for as many numbers, and is new.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), memory.data, values.len()) };
        Ok(memory)
    }

    fn download<T: Number>(&self, buffer: &Memory<T>) -> Result<Vec<T>> {
        // SAFETY: the memory holds `len` numbers, whatever their bits, and no kernel runs while this one waits for none.
        Ok(unsafe { std::slice::from_raw_parts(buffer.data, buffer.len) }.to_vec())
    }

    fn view<T: Number>(&self, buffer: &Memory<T>) -> View<T> {
        View::new(buffer.data as u64, buffer.len)
    }

    fn launch(&self, kernel: &'static str, launch: Launch, arguments: &[Argument]) -> Result<()> {
        let library = library();
        let entry = library.find(&format!("{kernel}_entry"));
        let mut pointers: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Address(address) => std::ptr::from_ref(address).cast_mut().cast(),
                Argument::Count(count) => std::ptr::from_ref(count).cast_mut().cast(),
                Argument::Real(real) => std::ptr::from_ref(real).cast_mut().cast(),
            })
            .collect();
        let name = CString::new(kernel).expect("a name without a NUL");
        let kind = |argument: &Argument| match argument {
            Argument::Address(_) => b'a',
            Argument::Count(_) => b'c',
            Argument::Real(_) => b'r',
        };
        let kinds = CString::new(arguments.iter().map(kind).collect::<Vec<u8>>()).expect("letters");
        let _busy = library.lock();
        // SAFETY: entry and scheduler have these signatures in emulator.cpp; arguments of other kinds than the kernel's
        // signature stop the process, and so does a kernel that leaves its memory.
        unsafe {
            let entry: Entry = std::mem::transmute(entry);
            let run: Run = std::mem::transmute(library.find("emulator_launch"));
            let (blocks, threads) = (launch.blocks as u32, launch.threads as u32);
            run(
                name.as_ptr(),
                entry,
                pointers.as_mut_ptr(),
                kinds.as_ptr(),
                blocks,
                threads,
                launch.shared * size_of::<f64>(),
                self.0 as c_int,
            );
        }
        Ok(())
    }
}
