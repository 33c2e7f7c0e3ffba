//! What a hash backup came to.

use tokio::time::Instant;
use walb_common::lineage::Snapshot;
use walb_common::rest::storage::HashBackupReport;
use walb_common::types::{Gid, Timestamp};

use super::bitmap::Ranges;
use crate::volume::Volume;

/// Counted while it runs, over all its connections.
pub(super) struct Counters {
    pub from: Option<Snapshot>,
    pub volume_bytes: u64,
    /// Read from the device.
    pub read: u64,
    /// Of chunks that were sent, before compression.
    pub changed: u64,
    /// Over the connection, both directions.
    pub moved: u64,
    pub cuts: u32,
    methods: Vec<&'static str>,
    not_bitmap: Option<String>,
    began: Instant,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            from: None,
            volume_bytes: 0,
            read: 0,
            changed: 0,
            moved: 0,
            cuts: 0,
            methods: Vec::new(),
            not_bitmap: None,
            began: Instant::now(),
        }
    }
}

impl Counters {
    /// How a connection finds what differs.
    pub fn method(&mut self, changed: &Result<Ranges, String>) {
        let name = match changed {
            Ok(_) => "bitmap",
            Err(reason) => {
                self.not_bitmap = Some(reason.clone());
                "hashes"
            }
        };
        if self.methods.last() != Some(&name) {
            self.methods.push(name);
        }
    }

    pub fn report(&self, from: Snapshot, gid: Gid, why: String) -> HashBackupReport {
        HashBackupReport {
            method: self.methods.join(", then "),
            not_bitmap: self.not_bitmap.clone(),
            why,
            from,
            gid,
            volume_bytes: self.volume_bytes,
            read_bytes: self.read,
            changed_bytes: self.changed,
            sent_bytes: self.moved,
            saved_bytes: self.volume_bytes.saturating_sub(self.moved),
            cuts: self.cuts,
            seconds: self.began.elapsed().as_secs_f32(),
            ended: Timestamp::now(),
            state: String::new(),
        }
    }
}

/// One line tells all of it.
pub(super) fn log(volume: &Volume, report: &HashBackupReport) {
    tracing::info!(
        volume = %volume.name, why = report.why, from = %report.from, gid = %report.gid, method = report.method,
        not_bitmap = report.not_bitmap, volume_bytes = report.volume_bytes, read = report.read_bytes,
        changed = report.changed_bytes, sent = report.sent_bytes, saved = report.saved_bytes, cuts = report.cuts,
        seconds = report.seconds, state = report.state, "hash backup done"
    );
}
