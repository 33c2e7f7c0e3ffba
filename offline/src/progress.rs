//! How far a command is, for a person who waits: one line on stderr that is drawn over and over, and only on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use walb_common::types::format_size;

const INTERVAL: Duration = Duration::from_millis(200);

/// Where a command is. Costs nothing without a terminal.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: Option<u64>,
    next: Option<Instant>,
    drawn: bool,
}

impl Progress {
    /// Starts at 0 of `total` bytes, if that is known. `what` says what is done, as in `verify a.wdiff`.
    pub fn new(what: impl Into<String>, total: Option<u64>) -> Self {
        let next = io::stderr().is_terminal().then(|| Instant::now() + INTERVAL);
        Self {
            what: what.into(),
            total: total.filter(|&t| t > 0),
            next,
            drawn: false,
        }
    }

    /// Never shows anything.
    pub fn silent() -> Self {
        Self {
            what: String::new(),
            total: None,
            next: None,
            drawn: false,
        }
    }

    /// Tells that `done` bytes are dealt with.
    pub fn at(&mut self, done: u64) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + INTERVAL);
        self.drawn = true;
        // Nothing depends on whether it can be drawn.
        let _ = write!(io::stderr(), "\r\x1b[K{}", line(&self.what, done, self.total));
    }
}

fn line(what: &str, done: u64, total: Option<u64>) -> String {
    let mib = |bytes: u64| format_size((bytes >> 20) << 20);
    match total {
        Some(total) => {
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            format!("{what}: {percent}% of {}", mib(total.next_multiple_of(1 << 20)))
        }
        None => format!("{what}: {}", mib(done)),
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_and_how_far() {
        assert_eq!(line("verify a", 5 << 20, Some(10 << 20)), "verify a: 50% of 10m");
        assert_eq!(line("verify a", 99, Some(1)), "verify a: 100% of 1m");
        assert_eq!(line("verify -", 3 << 20, None), "verify -: 3m");
    }
}
