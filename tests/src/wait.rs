//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Calls `attempt` until it gives a value; fails with what the last attempt said once the patience is over.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        let last = match attempt() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if began.elapsed() > patience {
            let last = last.map_or_else(String::new, |e| format!("; last error: {e:#}"));
            anyhow::bail!("waited {patience:?} for {what}{last}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Patience of the tests: far beyond what is needed on a quiet machine, short enough to end a hung run.
pub const PATIENCE: Duration = Duration::from_secs(90);
