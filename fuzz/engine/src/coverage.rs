//! What of the instrumented code a run reached, and which numbers it compared.
//!
//! The compiler's coverage pass leaves a counter byte per edge and calls the functions below; `cargo xtask fuzz` turns
//! it on for the crates of this workspace. Without it there are no counters, and nothing here is called.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

static COUNTERS: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Comparisons kept: the latest of a run.
const COMPARED: usize = 256;

thread_local! {
    static LATEST: [Cell<(u64, u64)>; COMPARED] = const { [const { Cell::new((0, 0)) }; COMPARED] };
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

/// Whether this program was built with coverage.
pub fn is_instrumented() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

/// Two different numbers that were compared: the input may contain one and want the other.
pub(super) fn compared(pick: usize) -> Option<(u64, u64)> {
    let known = NEXT.get().min(COMPARED);
    (known > 0).then(|| LATEST.with(|latest| latest[pick % known].get()))
}

fn note(a: u64, b: u64) {
    // Small numbers are everywhere and say nothing about the input.
    if a != b && (a > 255 || b > 255) {
        let next = NEXT.get();
        LATEST.with(|latest| latest[next % COMPARED].set((a, b)));
        NEXT.set(next.wrapping_add(1));
    }
}

/// Which edges have been taken how often, in powers of two, by all runs so far.
#[derive(Debug, Default)]
pub struct Coverage {
    seen: Vec<u8>,
    reached: usize,
}

impl Coverage {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            seen: vec![0; COUNT.load(Ordering::Relaxed)],
            reached: 0,
        }
    }

    /// Edges reached by any run.
    pub fn reached(&self) -> usize {
        self.reached
    }

    /// Forgets what the run before did.
    pub fn start() {
        NEXT.set(0);
        for counter in counters() {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Takes up what the run did; whether anything of it is new.
    pub fn take(&mut self) -> bool {
        let mut new = false;
        for (counter, seen) in counters().iter().zip(&mut self.seen) {
            let count = counter.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let class = 1 << count.ilog2();
            if *seen & class == 0 {
                new = true;
                self.reached += usize::from(*seen == 0);
                *seen |= class;
            }
        }
        new
    }
}

fn counters() -> &'static [std::sync::atomic::AtomicU8] {
    let start = COUNTERS.load(Ordering::Relaxed);
    if start.is_null() {
        return &[];
    }
    // SAFETY: the linker's section of counters, which lives as long as the program; instrumented code changes single
    // bytes of it without synchronisation, which atomic loads of bytes tolerate.
    unsafe { std::slice::from_raw_parts(start.cast(), COUNT.load(Ordering::Relaxed)) }
}

/// Called by each instrumented object before `main`, always with the whole section.
///
/// # Safety
/// Only the compiler's constructors may call it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    COUNTERS.store(start, Ordering::Relaxed);
    COUNT.store(stop as usize - start as usize, Ordering::Relaxed);
}

macro_rules! comparisons {
    ($($name:ident $constant:ident $number:ty;)*) => {$(
        /// Called by instrumented code before it compares.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(a: $number, b: $number) {
            note(a.into(), b.into());
        }
        /// Called by instrumented code before it compares with a constant.
        #[unsafe(no_mangle)]
        pub extern "C" fn $constant(a: $number, b: $number) {
            note(a.into(), b.into());
        }
    )*};
}
comparisons! {
    __sanitizer_cov_trace_cmp1 __sanitizer_cov_trace_const_cmp1 u8;
    __sanitizer_cov_trace_cmp2 __sanitizer_cov_trace_const_cmp2 u16;
    __sanitizer_cov_trace_cmp4 __sanitizer_cov_trace_const_cmp4 u32;
    __sanitizer_cov_trace_cmp8 __sanitizer_cov_trace_const_cmp8 u64;
}

/// Called by instrumented code before a `match` on numbers: the count of cases, their width, then the cases.
///
/// # Safety
/// Only instrumented code may call it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_trace_switch(value: u64, cases: *const u64) {
    // SAFETY: the layout that the coverage pass promises.
    let cases = unsafe { std::slice::from_raw_parts(cases.add(2), cases.read() as usize) };
    for case in cases.iter().take(8) {
        note(value, *case);
    }
}
