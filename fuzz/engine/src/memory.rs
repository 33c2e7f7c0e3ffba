//! A counting allocator: targets state how much memory a parser may take, and [`bounded`] holds it to that.
//!
//! Counts are of the whole process, as a parser may have threads: whoever bounds something runs nothing else meanwhile.
//! Behind each allocation lie a few guard bytes, so that unsafe code that writes too far is
//! noticed when the memory is given back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const GUARD: [u8; 16] = *b"walb guard bytes";
/// No target comes near; what does is stopped before the machine suffers.
const CAP_BYTES: usize = 1 << 30;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn with_guard(layout: Layout) -> Option<Layout> {
        Layout::from_size_align(layout.size().checked_add(GUARD.len())?, layout.align()).ok()
    }

    fn allocate(layout: Layout, allocate: impl FnOnce(Layout) -> *mut u8) -> *mut u8 {
        let Some(wider) = Self::with_guard(layout) else {
            return std::ptr::null_mut();
        };
        if NOW.load(Relaxed).saturating_add(layout.size()) > CAP_BYTES {
            return std::ptr::null_mut();
        }
        let start = allocate(wider);
        if !start.is_null() {
            let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
            PEAK.fetch_max(now, Relaxed);
            // SAFETY: `wider` has room for the guard behind the layout's own bytes.
            unsafe {
                start
                    .add(layout.size())
                    .copy_from_nonoverlapping(GUARD.as_ptr(), GUARD.len());
            };
        }
        start
    }
}

// SAFETY: every call goes to the system's allocator with a layout that is only longer, consistently so.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is not zero, as it includes the guard.
        Self::allocate(layout, |wider| unsafe { System.alloc(wider) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        Self::allocate(layout, |wider| unsafe { System.alloc_zeroed(wider) })
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: `start` was given out by `allocate`, with the guard behind it.
        let intact = unsafe {
            start
                .add(layout.size())
                .cast::<[u8; GUARD.len()]>()
                .read_unaligned()
        } == GUARD;
        if !intact {
            // Not a panic: the heap is damaged. The input is in the file of the running input.
            let text = b"memory behind the end of an allocation was overwritten\n";
            let _ = std::io::stderr().write_all(text);
            std::process::abort();
        }
        NOW.fetch_sub(layout.size(), Relaxed);
        if let Some(wider) = Self::with_guard(layout) {
            // SAFETY: the layout it was allocated with.
            unsafe { System.dealloc(start, wider) };
        }
    }
}

/// Runs a parser and panics if it had more than `limit` bytes allocated at any time, its result included.
#[track_caller]
pub fn bounded<T>(limit: usize, parse: impl FnOnce() -> T) -> T {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = parse();
    let taken = PEAK.load(Relaxed) - before;
    let place = Location::caller();
    assert!(
        taken <= limit,
        "memory bound: {taken} bytes taken, expected at most {limit} ({place})"
    );
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, as others would allocate meanwhile.
    #[test]
    fn what_takes_too_much_is_noticed_even_if_given_back() {
        let result = bounded(2 << 20, || vec![1_u8; 1 << 20]);
        assert_eq!(result.len(), 1 << 20);
        let found = std::panic::catch_unwind(|| bounded(2 << 20, || drop(vec![1_u8; 3 << 20])));
        assert!(found.is_err());
    }
}
