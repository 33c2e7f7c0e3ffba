//! Holds the reading of a backup back to a rate that may change while it runs.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Of a rate of nearly nothing a wait is cut in pieces that can be expressed.
const WAIT_MAX: f64 = 3600.0;
const WAIT_MIN: f64 = 0.000_1;

/// Reading, held back.
pub(crate) struct Pace {
    /// Bytes per second; 0 is no limit.
    limit: watch::Receiver<u64>,
    owed: Owed,
}

impl Pace {
    pub fn new(limit: watch::Receiver<u64>) -> Self {
        let owed = Owed::new(Instant::now(), *limit.borrow());
        Self { limit, owed }
    }

    /// So much has been read.
    pub fn read(&mut self, bytes: u64) {
        self.owed.add(bytes);
    }

    /// Waits until more may be read. A change of the limit counts at once. Dropping the wait loses nothing.
    pub async fn wait(&mut self) {
        loop {
            let limit = *self.limit.borrow_and_update();
            let Some(left) = self.owed.wait(Instant::now(), limit) else {
                return;
            };
            let changed = async {
                // Without a sender the limit stays what it is.
                if self.limit.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = sleep(left) => {}
                () = changed => {}
            }
        }
    }
}

/// What was read and time has not paid for yet.
///
/// Strict: what could not be read in the past is not made up for, so a network that stood still causes no burst.
struct Owed {
    bytes: f64,
    since: Instant,
    /// Bytes per second since then; 0 is no limit.
    rate: u64,
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
impl Owed {
    fn new(now: Instant, rate: u64) -> Self {
        let bytes = 0.0;
        Self {
            bytes,
            since: now,
            rate,
        }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes as f64;
    }

    /// How long nothing more may be read if `rate` holds from `now` on.
    fn wait(&mut self, now: Instant, rate: u64) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.bytes = (self.bytes - passed * self.rate as f64).max(0.0);
        (self.since, self.rate) = (now, rate);
        if rate == 0 {
            self.bytes = 0.0;
        }
        // Less than a byte is rounding.
        let owes = self.bytes >= 1.0;
        owes.then(|| Duration::from_secs_f64((self.bytes / rate as f64).clamp(WAIT_MIN, WAIT_MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_keeps_to_the_rate_and_makes_nothing_up() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut owed = Owed::new(begin, 1000);
        assert_eq!(owed.wait(at(0), 1000), None);
        owed.add(5000);
        assert_eq!(owed.wait(at(0), 1000), Some(Duration::from_secs(5)));
        assert_eq!(owed.wait(at(2), 1000), Some(Duration::from_secs(3)));
        assert_eq!(owed.wait(at(5), 1000), None);
        // A hundred seconds in which nothing was read.
        assert_eq!(owed.wait(at(105), 1000), None);
        owed.add(3000);
        assert_eq!(owed.wait(at(105), 1000), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_change_counts_from_then_on_and_none_is_no_limit() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut owed = Owed::new(begin, 1000);
        owed.add(1_000_000);
        assert_eq!(owed.wait(at(0), 1000), Some(Duration::from_secs(1000)));
        assert_eq!(owed.wait(at(10), 99_000), Some(Duration::from_secs(10)));
        assert_eq!(owed.wait(at(11), 1), Some(Duration::from_secs(3600)), "in pieces");
        assert_eq!(owed.wait(at(12), 0), None);
        assert_eq!(owed.wait(at(13), 1), None, "nothing is owed from before");
    }
}
