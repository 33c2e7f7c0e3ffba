//! How far the file of changes is, and when it is stored. Values only.

use walb_common::format::log_device::Ring;
use walb_common::types::Lsid;

/// Log that the file need not cover, at most: a start reads its headers.
const UNCOVERED_MAX_BYTES: u64 = 1 << 30;

/// How far the file is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(in crate::engine) struct Kept {
    /// It covers the log below this.
    pub durable: Lsid,
    /// It covers the log below this, or could not be stored when that was tried.
    pub tried: Lsid,
    /// The log writer waits for it.
    pub wanted: bool,
    /// Why it could not be stored the last time.
    pub problem: Option<String>,
}

impl Kept {
    /// A file that covers the log below `durable`.
    pub fn at(durable: Lsid) -> Self {
        Self {
            durable,
            tried: durable,
            ..Self::default()
        }
    }

    /// Whether log that ends at `end` would overwrite what neither the rest of the log nor the file tells.
    pub fn is_outrun_by(&self, end: Lsid, oldest: Lsid, ring: &Ring) -> bool {
        end.0.saturating_sub(ring.size()) > oldest.max(self.tried).0
    }

    /// Whether the file is to be stored: somebody waits for it, or half of the ring is not covered.
    pub fn is_due(&self, completed: Lsid, oldest: Lsid, ring: &Ring) -> bool {
        let most = UNCOVERED_MAX_BYTES / ring.pbs().bytes() as u64;
        let step = (ring.size() / 2).clamp(1, most);
        self.wanted || completed.0.saturating_sub(oldest.max(self.tried).0) >= step
    }

    /// Log below `oldest` is released: the file tells the difference only once it is stored anew.
    pub fn released(&mut self, oldest: Lsid) {
        self.tried = self.tried.min(oldest);
        self.durable = self.durable.min(oldest);
    }

    /// The log was reset.
    pub fn reset(&mut self) {
        (self.durable, self.tried) = (Lsid(0), Lsid(0));
    }

    /// The changes of the log from `from` to `upto` were stored, or not, for `problem`; the attempt counts up to `tried`.
    pub fn stored(&mut self, (from, upto): (Lsid, Lsid), tried: Lsid, oldest: Lsid, problem: Option<String>) {
        // What was released while it was being stored has to be stored again.
        let (upto, tried) = if oldest > from {
            (oldest, oldest)
        } else {
            (upto, tried)
        };
        self.wanted = false;
        self.tried = tried;
        if problem.is_none() {
            self.durable = upto;
        }
        self.problem = problem;
    }
}
