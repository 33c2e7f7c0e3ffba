//! Running a target once: panics become values.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::Target;

/// A run broke an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// File, line and column of the panic.
    pub place: String,
    /// Its message.
    pub message: String,
}

thread_local! {
    static CAUGHT: RefCell<Option<Failure>> = const { RefCell::new(None) };
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `target` on `input`; what panicked, if anything did. Panics of other threads are reported as ever.
pub fn check(target: &Target, input: &[u8]) -> Result<(), Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                return usual(info);
            }
            let message = info.payload_as_str().unwrap_or("(no message)").to_owned();
            let place = info.location().map_or_else(String::new, ToString::to_string);
            CAUGHT.set(Some(Failure { place, message }));
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    QUIET.set(false);
    result.map_err(|_| {
        CAUGHT.take().unwrap_or(Failure {
            place: String::new(),
            message: "panicked".to_owned(),
        })
    })
}
