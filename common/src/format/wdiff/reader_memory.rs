//! Memory that the readers of one job share: without it, a hundred wdiffs read side by side take a hundred times what one
//! may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Kept images of all readers together.
const KEPT_BYTES: u64 = 24 << 20;
/// Read-ahead of all readers together.
const AHEAD_BYTES: usize = 16 << 20;
/// Of one reader, at most and at least.
const AHEAD_ONE: (usize, usize) = (64 << 10, 4 << 10);

/// What the readers of one job may take besides the record at hand. Cloned, it is the same memory.
#[derive(Debug, Clone)]
pub struct ReaderMemory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ahead: usize,
    max: u64,
    kept: AtomicU64,
}

impl ReaderMemory {
    /// For so many readers.
    pub fn of(readers: usize) -> Self {
        let (most, least) = AHEAD_ONE;
        Self::with(KEPT_BYTES, (AHEAD_BYTES / readers.max(1)).clamp(least, most))
    }

    fn with(max: u64, ahead: usize) -> Self {
        let kept = AtomicU64::new(0);
        Self(Arc::new(Shared { ahead, max, kept }))
    }

    /// Bytes one reader may read ahead, unless one image is larger.
    pub(super) fn ahead(&self) -> usize {
        self.0.ahead
    }

    /// Bytes of images that are kept, together.
    pub fn kept(&self) -> u64 {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// Room to keep an image of so many bytes, if there is as much, or nothing is kept yet: one image may be larger than
    /// all room. Who has room keeps it: were it taken away for the image needed last, readers that come in turn would
    /// find none of theirs.
    pub(super) fn claim(&self, bytes: u64) -> Option<Claim> {
        let shared = &self.0;
        let add = |kept: u64| {
            kept.checked_add(bytes)
                .filter(|&sum| kept == 0 || sum <= shared.max)
        };
        let claimed = shared
            .kept
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        claimed.is_ok().then(|| Claim {
            memory: self.clone(),
            bytes,
        })
    }
}

/// Room taken, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    memory: ReaderMemory,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.memory.0.kept.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_up_to_the_bound_and_comes_back() {
        let memory = ReaderMemory::with(100, 1);
        let first = memory.claim(60).unwrap();
        assert!(memory.claim(41).is_none() && memory.claim(u64::MAX).is_none());
        let second = memory.clone().claim(40).unwrap();
        assert_eq!(memory.kept(), 100);
        drop(first);
        assert_eq!(memory.kept(), 40);
        drop(second);
        assert_eq!(memory.kept(), 0);
        let huge = memory.claim(1000).unwrap();
        assert!(memory.claim(1).is_none());
        drop(huge);
    }

    #[test]
    fn many_readers_read_less_ahead() {
        let ahead = |readers| ReaderMemory::of(readers).ahead();
        assert_eq!((ahead(0), ahead(1), ahead(256)), (64 << 10, 64 << 10, 64 << 10));
        assert_eq!((ahead(1024), ahead(100_000)), (16 << 10, 4 << 10));
    }
}
