//! Which way a batch of log takes to the log device: past the page cache, or through it.
//!
//! Written means the same on both ways: the kernel has it, so the end of the process cannot take it back; a power loss can, until
//! it is synced. Past the page cache a write waits for the disk, and a sync finds next to nothing to do: best where flushes
//! are frequent. Through it a write waits for nothing, and a sync for everything: best where nobody flushes. So it goes past it
//! until so many requests in a row have come without a flush ([`crate::config::Limits::log_cached_after`]), and again
//! from the next flush on. That depends on the requests alone, not on any clock.
//!
//! The two may follow each other at will: the kernel writes out what is dirty in the range of a direct write before it, and
//! drops it after. What is cached is bounded: after [`CACHED_MAX_BYTES`] a sync begins, and what is synced is dropped.

use walb_common::types::{Lsid, PhysicalBlockSize};

use crate::config::{Limits, LogDirect};

/// Cached log that a sync is begun for, so that a flush never finds much more.
const CACHED_MAX_BYTES: u64 = 4 << 20;
/// Larger batches take less time on the disk than in the cache and on the disk.
const BATCH_MAX_BYTES: u64 = 512 << 10;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Past the page cache, where the log device takes that.
    Direct,
    /// Through it.
    Cached,
}

/// Chooses, and remembers what has to be known for it.
#[derive(Debug, Clone)]
pub(super) struct LogWay {
    /// None: no choice.
    cached_after: Option<u32>,
    /// Requests since the last flush or request that had to be durable.
    without_flush: u32,
    /// Bytes that went through the cache since the last sync was begun.
    cached_bytes: u64,
    /// Where the cached log lies that has not been dropped.
    cached: Option<(Lsid, Lsid)>,
}

impl LogWay {
    pub fn new(limits: &Limits, pbs: PhysicalBlockSize) -> Self {
        // Smaller blocks share pages: the kernel would have to read one before a part of it is written.
        let adapts = limits.log_direct == LogDirect::Auto && pbs == PhysicalBlockSize::B4096;
        Self {
            cached_after: adapts.then_some(limits.log_cached_after),
            without_flush: 0,
            cached_bytes: 0,
            cached: None,
        }
    }

    /// For log from `begin` to `end`, `bytes` of it, that finishes `requests`; `flush`: one of them, or one before them, waits for
    /// a sync.
    pub fn choose(&mut self, (begin, end): (Lsid, Lsid), bytes: u64, requests: usize, flush: bool) -> Way {
        let Some(after) = self.cached_after else {
            return Way::Direct;
        };
        if flush {
            self.flush_seen();
            return Way::Direct;
        }
        let before = self.without_flush;
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.without_flush = before.saturating_add(requests);
        if before < after || bytes > BATCH_MAX_BYTES {
            return Way::Direct;
        }
        self.cached_bytes += bytes;
        self.cached = Some((self.cached.map_or(begin, |(from, _)| from), end));
        Way::Cached
    }

    /// A flush came with nothing to log.
    pub fn flush_seen(&mut self) {
        self.without_flush = 0;
    }

    /// So much is cached that it should be synced.
    pub fn is_full(&self) -> bool {
        self.cached_bytes >= CACHED_MAX_BYTES
    }

    /// A sync begins of everything that is written.
    pub fn sync_begins(&mut self) {
        self.cached_bytes = 0;
    }

    /// Everything below `permanent` is synced. Answers where what may be dropped from the cache begins, if anything may.
    pub fn synced(&mut self, permanent: Lsid) -> Option<Lsid> {
        let (from, to) = self.cached.filter(|&(from, _)| from < permanent)?;
        self.cached = (to > permanent).then_some((permanent, to));
        Some(from)
    }

    /// The log was reset: lsids begin anew.
    pub fn reset(&mut self) {
        (self.cached_bytes, self.cached) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(after: u32) -> LogWay {
        let limits = Limits {
            log_cached_after: after,
            ..Limits::default()
        };
        LogWay::new(&limits, PhysicalBlockSize::B4096)
    }

    #[test]
    fn log_goes_through_the_cache_after_so_many_requests_without_a_flush_until_the_next_one() {
        let mut way = auto(100);
        let mut at = 0;
        let mut next = |requests, flush| {
            at += 2;
            way.choose((Lsid(at), Lsid(at + 2)), 8192, requests, flush)
        };
        for _ in 0..4 {
            // A flush for each 32 requests, and with each.
            assert_eq!(next(32, true), Way::Direct);
            assert_eq!(next(31, false), Way::Direct);
            assert_eq!(next(1, true), Way::Direct);
        }
        for _ in 0..100 {
            assert_eq!(next(1, false), Way::Direct);
        }
        for _ in 0..100 {
            assert_eq!(next(1, false), Way::Cached);
        }
        assert_eq!(next(1, true), Way::Direct);
        assert_eq!(next(100, false), Way::Direct);
        assert_eq!(next(1, false), Way::Cached);
    }

    #[test]
    fn it_is_told_or_its_blocks_are_small_and_it_takes_no_other_way() {
        let limits = |log_direct| Limits {
            log_direct,
            log_cached_after: 0,
            ..Limits::default()
        };
        for (log_direct, pbs) in [
            (LogDirect::Always, PhysicalBlockSize::B4096),
            (LogDirect::Never, PhysicalBlockSize::B4096),
            (LogDirect::Auto, PhysicalBlockSize::B512),
        ] {
            let mut way = LogWay::new(&limits(log_direct), pbs);
            assert_eq!(way.choose((Lsid(0), Lsid(2)), 8192, 1, false), Way::Direct);
        }
    }

    #[test]
    fn large_batches_do_not_go_through_the_cache() {
        let mut way = auto(0);
        assert_eq!(way.choose((Lsid(0), Lsid(257)), 1 << 20, 1, false), Way::Direct);
        assert_eq!(way.choose((Lsid(257), Lsid(259)), 8192, 1, false), Way::Cached);
    }

    #[test]
    fn what_is_cached_is_synced_and_then_dropped_once() {
        let mut way = auto(0);
        assert_eq!(way.synced(Lsid(0)), None);
        let mut at = 0;
        while !way.is_full() {
            assert_eq!(way.choose((Lsid(at), Lsid(at + 2)), 8192, 1, false), Way::Cached);
            at += 2;
        }
        assert_eq!(at * 4096, CACHED_MAX_BYTES);
        way.sync_begins();
        assert!(!way.is_full());
        // While the sync is under way.
        assert_eq!(way.choose((Lsid(at), Lsid(at + 2)), 8192, 1, false), Way::Cached);
        assert_eq!(way.synced(Lsid(at)), Some(Lsid(0)));
        way.sync_begins();
        assert_eq!(way.synced(Lsid(at + 2)), Some(Lsid(at)));
        assert_eq!(way.synced(Lsid(at + 2)), None);
        way.choose((Lsid(at + 2), Lsid(at + 4)), 8192, 1, false);
        way.reset();
        assert_eq!(way.synced(Lsid(at + 4)), None);
    }
}
