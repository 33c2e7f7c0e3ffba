//! A door to the file of changed chunks, for the search for files that break its reader.

use walb_common::types::{Lb, Lsid, Uuid};

use super::file::{SUM, decode, encode};
use super::tracker::{Part, Tracker};

const RING: u64 = 64;

/// What a believed file comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Believed {
    /// Size of the device.
    pub device_size: Lb,
    /// Size of a chunk.
    pub chunk: Lb,
    /// Chunks `(first, count)` that have changed; `None`: not known.
    pub changed: Option<Vec<(u64, u64)>>,
    /// The same, stored again.
    pub stored: Vec<u8>,
}

/// Believes a file, or not; and then lives on with what it says: log is released, a snapshot taken and compacted, the
/// device grows and shrinks, the log is reset.
pub fn believe(bytes: &[u8]) -> Option<Believed> {
    let found = decode(bytes, RING).ok()?;
    let tracker = found.tracker;
    let mut used = tracker.clone();
    used.set_oldest(Lsid(tracker.oldest().0.saturating_add(3)));
    used.resize(Lb(tracker.device_size.0.saturating_mul(3)));
    used.resize(Lb(tracker.device_size.0 / 2));
    let mut snapshot = used.snapshot(tracker.end());
    snapshot.compact(tracker.end());
    used.take_joined(&snapshot);
    let reset = used.after_reset(Uuid([9; 16]), RING);
    // Asked of every state; what they answer to random content is random too.
    let _ = (
        used.total(),
        reset.total(),
        used.inexact(),
        reset.lost().is_some(),
    );
    let changed = match tracker.total() {
        Part::Known(set) => Some(set.ranges().collect()),
        Part::Lost { .. } => None,
    };
    Some(Believed {
        device_size: tracker.device_size,
        chunk: tracker.chunk(),
        changed,
        stored: encode(&tracker, found.next_uuid).ok()?,
    })
}

/// Makes the checksum at a file's end right.
pub fn seal(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len().saturating_sub(SUM));
    let sum = blake3::hash(bytes);
    bytes.extend_from_slice(sum.as_bytes());
}

/// Files as a device writes them.
pub fn examples() -> Vec<Vec<u8>> {
    let mut old = Tracker::new(Uuid([1; 16]), Lsid(5), Lb(2000), RING);
    old.add_pack(Lsid(9), [(Lb(0), Lb(3)), (Lb(900), Lb(90))]);
    let mut reset = old.after_reset(Uuid([2; 16]), RING);
    for n in 1..9 {
        reset.add_pack(Lsid(n * 3), [(Lb(n * 60), Lb(1))]);
    }
    let mut grown = reset.clone();
    grown.resize(Lb(2500));
    let mut lost = grown.clone();
    let reason = "gone".to_owned();
    lost.push(Lsid(90), Part::Lost { reason });
    let stored = |(tracker, next)| encode(tracker, next).ok();
    let next = Some(Uuid([3; 16]));
    let all = [(&old, None), (&reset, next), (&grown, None), (&lost, None)];
    all.into_iter().filter_map(stored).collect()
}
