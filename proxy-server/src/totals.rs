//! What went through since the process started, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Totals {
    logs: AtomicU64,
    log_bytes: AtomicU64,
    wdiffs: AtomicU64,
    wdiff_bytes: AtomicU64,
}

impl Totals {
    /// A log was received and stored.
    pub fn received(&self, bytes: u64) {
        self.logs.fetch_add(1, Ordering::Relaxed);
        self.log_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A wdiff was delivered.
    pub fn sent(&self, bytes: u64) {
        self.wdiffs.fetch_add(1, Ordering::Relaxed);
        self.wdiff_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Name, help and value of each.
    pub fn values(&self) -> [(&'static str, &'static str, u64); 4] {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (
                "walb_proxy_wlogs_received_total",
                "Logs received and stored.",
                get(&self.logs),
            ),
            (
                "walb_proxy_wlog_bytes_received_total",
                "Bytes of their logpacks.",
                get(&self.log_bytes),
            ),
            (
                "walb_proxy_wdiffs_sent_total",
                "Wdiffs acknowledged by archives.",
                get(&self.wdiffs),
            ),
            (
                "walb_proxy_wdiff_bytes_sent_total",
                "Bytes of those wdiffs.",
                get(&self.wdiff_bytes),
            ),
        ]
    }
}
