//! A fence around the parquet library, which panics on some damaged files.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use parquet::errors::ParquetError;

thread_local! {
    /// True while this thread is inside the fence.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// Marks this thread as inside the fence as long as it lives.
struct Inside {
    before: bool,
}

impl Inside {
    fn enter() -> Self {
        Self { before: INSIDE.replace(true) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

/// Puts a hook before the one that is there: a panic inside the fence, on the thread that is inside, says nothing; any
/// other is the business of the hook that was there.
fn install() {
    let before = take_hook();
    set_hook(Box::new(move |panic| {
        if !INSIDE.try_with(Cell::get).unwrap_or(false) {
            before(panic);
        }
    }));
}

/// Runs a part of the parquet library on a file that anybody may have made. It checks much, but not all, of what a
/// damaged file says before it counts on it; where it panics, the file is at fault: the panic becomes an error, and
/// nothing of it reaches stderr.
pub(super) fn fenced<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    HOOK.call_once(install);
    let inside = Inside::enter();
    let result = catch_unwind(AssertUnwindSafe(work));
    drop(inside);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(ParquetError::General(format!("it is damaged ({})", text.unwrap_or("the reader gave up"))))
    })
}
