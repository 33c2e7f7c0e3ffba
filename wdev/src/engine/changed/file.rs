//! The file that remembers what has changed, beside the device's configuration. Layout: docs/formats/changed-chunks.md.
//!
//! It covers the log of `uuid` below `end`. The log behind that tells the rest at the next start, so it may lag: it is
//! written before that log is overwritten, and by a stop. A log reset writes it once more, with the uuid the log will have:
//! whichever of the two super sectors a crash leaves, the file fits it.

use std::collections::VecDeque;
use std::io::Read;
use std::{fs, io};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use walb_common::disk::{fault, replace_durable};
use walb_common::types::{Lb, Lsid, Uuid};

use super::tracker::{Carried, Grown, Part, Segment, Tracker};
use crate::chunk_set::{ChunkSet, ChunkSetError};

/// First bytes; the last of them is the version.
const MAGIC: &[u8; 8] = b"WALBCHG1";
/// Longest file believed.
const FILE_MAX: u64 = 256 << 20;
/// Bytes of the checksum at the end: BLAKE3 of everything before it.
pub(super) const SUM: usize = blake3::OUT_LEN;

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum FileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{found} bytes, expected at most {FILE_MAX}")]
    TooLong { found: u64 },
    #[error("it does not begin with {:?}", MAGIC.escape_ascii().to_string())]
    Magic,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its content is damaged: {0}")]
    Content(#[from] rmp_serde::decode::Error),
    #[error("its content is damaged: {0}")]
    Set(#[from] ChunkSetError),
    #[error("its log positions contradict each other")]
    Positions,
}

#[derive(Serialize, Deserialize)]
enum StoredPart {
    Known(Bytes),
    Lost(String),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    uuid: Uuid,
    next_uuid: Option<Uuid>,
    device_size: Lb,
    chunk: Lb,
    oldest: Lsid,
    end: Lsid,
    carried: Option<(Uuid, Lsid, StoredPart)>,
    /// Each ends there; the first begins at `begin`.
    begin: Lsid,
    segments: Vec<(Lsid, StoredPart)>,
    grown: Vec<(Lsid, Lb, Lb)>,
}

/// What a file says.
#[derive(Debug)]
pub(in crate::engine) struct Found {
    pub tracker: Tracker,
    /// The log may have become this one by a reset, after what the tracker covers.
    pub next_uuid: Option<Uuid>,
}

/// Where it is kept. Whoever stores takes the tracker's snapshot while holding this, so that none replaces a newer one.
#[derive(Debug)]
pub(in crate::engine) struct ChangedFile {
    path: Utf8PathBuf,
}

impl ChangedFile {
    /// Beside `state_file`.
    pub fn beside(state_file: &Utf8Path) -> Self {
        Self {
            path: changed_path(state_file),
        }
    }

    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Stores it, durably.
    pub fn store(&self, tracker: &Tracker, next_uuid: Option<Uuid>) -> io::Result<()> {
        fault::point("wdev.changed.before_store")?;
        replace_durable(self.path.as_std_path(), &encode(tracker, next_uuid)?)?;
        fault::point("wdev.changed.stored")
    }

    /// The stored one, for a ring of `ring` blocks.
    pub fn load(&self, ring: u64) -> Result<Option<Found>, FileError> {
        let mut file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let found = file.metadata()?.len();
        if found > FILE_MAX {
            return Err(FileError::TooLong { found });
        }
        let mut bytes = Vec::new();
        (&mut file).take(FILE_MAX).read_to_end(&mut bytes)?;
        decode(&bytes, ring).map(Some)
    }
}

/// The file's path, beside the device's state file.
pub(crate) fn changed_path(state_file: &Utf8Path) -> Utf8PathBuf {
    state_file.with_extension("changed")
}

pub(super) fn encode(tracker: &Tracker, next_uuid: Option<Uuid>) -> io::Result<Vec<u8>> {
    let stored_part = |part: &Part| match part {
        Part::Known(set) => StoredPart::Known(Bytes::from(set.encode())),
        Part::Lost { reason } => StoredPart::Lost(reason.clone()),
    };
    let stored = Stored {
        uuid: tracker.uuid,
        next_uuid,
        device_size: tracker.device_size,
        chunk: tracker.chunk,
        oldest: tracker.oldest,
        end: tracker.end,
        carried: tracker
            .carried
            .as_ref()
            .map(|c| (c.base.0, c.base.1, stored_part(&c.part))),
        begin: tracker.segments.front().map_or(tracker.end, |s| s.begin),
        segments: tracker
            .segments
            .iter()
            .map(|s| (s.end, stored_part(&s.part)))
            .collect(),
        grown: tracker.grown.iter().map(|g| (g.at, g.from, g.to)).collect(),
    };
    let mut bytes = MAGIC.to_vec();
    rmp_serde::encode::write_named(&mut bytes, &stored).map_err(io::Error::other)?;
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    Ok(bytes)
}

pub(super) fn decode(bytes: &[u8], ring: u64) -> Result<Found, FileError> {
    let (content, sum) = bytes.split_last_chunk::<SUM>().ok_or(FileError::Checksum)?;
    let body = content.strip_prefix(MAGIC).ok_or(FileError::Magic)?;
    if blake3::hash(content) != *sum {
        return Err(FileError::Checksum);
    }
    let stored: Stored = rmp_serde::from_slice(body)?;
    let part = |part| {
        Ok::<_, ChunkSetError>(match part {
            StoredPart::Known(bytes) => ChunkSet::decode(&bytes, stored.chunk, stored.device_size)?.into(),
            StoredPart::Lost(reason) => Part::Lost { reason },
        })
    };
    let carried = match stored.carried {
        Some((uuid, lsid, stored)) => Some(Carried {
            base: (uuid, lsid),
            part: part(stored)?,
        }),
        None => None,
    };
    // An empty set checks the geometry where there is none to check.
    ChunkSet::decode(
        &ChunkSet::new(stored.chunk).encode(),
        stored.chunk,
        stored.device_size,
    )?;
    let (mut begin, mut segments) = (stored.begin, VecDeque::new());
    for (end, stored) in stored.segments {
        if end < begin {
            return Err(FileError::Positions);
        }
        segments.push_back(Segment {
            begin,
            end,
            part: part(stored)?,
        });
        begin = end;
    }
    let grown: Vec<_> = stored
        .grown
        .iter()
        .map(|&(at, from, to)| Grown { at, from, to })
        .collect();
    let in_order = grown.iter().all(|g| g.from <= g.to && g.to <= stored.device_size)
        && begin == stored.end
        && stored.oldest <= stored.end;
    if !in_order {
        return Err(FileError::Positions);
    }
    let tracker = Tracker::from_parts(
        stored.uuid,
        (stored.device_size, stored.chunk),
        (stored.oldest, stored.end),
        carried,
        segments,
        grown,
        ring,
    );
    Ok(Found {
        tracker,
        next_uuid: stored.next_uuid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker() -> Tracker {
        let mut old = Tracker::new(Uuid([1; 16]), Lsid(5), Lb(2000), 64);
        old.add_pack(Lsid(9), [(Lb(0), Lb(3)), (Lb(900), Lb(90))]);
        let mut tracker = old.after_reset(Uuid([2; 16]), 64);
        for n in 1..30 {
            tracker.add_pack(Lsid(n * 3), [(Lb(n * 60), Lb(1))]);
        }
        tracker.resize(Lb(2500));
        tracker.push(
            Lsid(90),
            Part::Lost {
                reason: "gone".to_owned(),
            },
        );
        tracker
    }

    #[test]
    fn what_is_stored_is_found() {
        let stored = tracker();
        for next in [None, Some(Uuid([3; 16]))] {
            let found = decode(&encode(&stored, next).unwrap(), 64).unwrap();
            assert_eq!(found.next_uuid, next);
            assert_eq!(found.tracker.base(), (Uuid([1; 16]), Lsid(5)));
            assert_eq!(found.tracker.segments, stored.segments);
            assert_eq!(found.tracker.carried, stored.carried);
            assert_eq!(found.tracker.grown, stored.grown);
            assert_eq!(found.tracker.total(), stored.total());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = encode(&tracker(), None).unwrap();
        for at in 0..good.len() {
            decode(&good[..at], 64).unwrap_err();
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                decode(&bytes, 64).unwrap_err();
            }
        }
    }

    /// As somebody would who computes the checksum anew.
    #[test]
    fn content_that_makes_no_sense_is_refused_and_never_worse() {
        let good = encode(&tracker(), None).unwrap();
        let body = good.len() - SUM;
        let mut refused = 0;
        for at in MAGIC.len()..body {
            for value in [
                0,
                1,
                0x7f,
                0x80,
                0xc0,
                0xff,
                good[at] ^ 1,
                good[at].wrapping_add(1),
            ] {
                let mut bytes = good[..body].to_vec();
                bytes[at] = value;
                let sum = blake3::hash(&bytes);
                bytes.extend_from_slice(sum.as_bytes());
                refused += usize::from(decode(&bytes, 64).map(|found| found.tracker.total()).is_err());
            }
        }
        assert!(refused > body, "{refused}");
    }
}
