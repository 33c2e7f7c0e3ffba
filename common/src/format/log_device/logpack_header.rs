//! Logpack header: the first physical block of each logpack. Byte table: docs/formats/log-device.md.

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::KIND_LOGPACK;
use crate::format::checksum::{Salt, checksum};
use crate::types::{LB_SIZE, Lb, Lsid, PhysicalBlockSize};

const EXIST: u32 = 1;
const PADDING: u32 = 2;
const DISCARD: u32 = 4;

/// As stored; nothing in it is believed yet.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Stored {
    checksum: U32,
    kind: U16,
    total_io_pb: U16,
    lsid: U64,
    n_records: U16,
    n_padding: U16,
    reserved: U32,
}
const _: () = assert!(size_of::<Stored>() == 24 && std::mem::offset_of!(Stored, lsid) == 8);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StoredRecord {
    checksum: U32,
    flags: U32,
    offset: U64,
    size: U32,
    lsid_local: U16,
    reserved: U16,
    lsid: U64,
}
const _: () = assert!(size_of::<StoredRecord>() == 32);

/// What a log record stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A write; its data follow in the pack.
    Normal,
    /// Filler, so that no record's data crosses the ring's end.
    Padding,
    /// A discard; no data.
    Discard,
}

/// One IO of a logpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRecord {
    /// What it stands for.
    pub kind: RecordKind,
    /// Address on the volume; 0 for padding.
    pub offset: Lb,
    /// Size on the volume; of padding too.
    pub size: Lb,
    /// Lsid of its first data block. A discard shares it with the record after it.
    pub lsid: Lsid,
    /// `lsid` relative to the header's.
    pub lsid_local: u16,
    /// Of exactly `size` of data, with the log's salt; 0 unless normal.
    pub checksum: u32,
}

impl LogRecord {
    /// Physical blocks its data occupy in the log.
    pub fn data_pbs(&self, pbs: PhysicalBlockSize) -> u64 {
        match self.kind {
            RecordKind::Discard => 0,
            RecordKind::Normal | RecordKind::Padding => pbs.pbs_of(self.size),
        }
    }
}

/// A believed header. Invariants: 1 to [`LogpackHeader::max_records`] records, at most one of them padding; sizes,
/// lsids and the total agree with each other; `next_lsid` is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogpackHeader {
    pub(super) pbs: PhysicalBlockSize,
    pub(super) lsid: Lsid,
    pub(super) total_io_pb: u16,
    pub(super) records: Vec<LogRecord>,
}

/// Why a block is not the logpack header that was sought. On a device each of these just ends the log; in a wlog it
/// is damage, except [`LogpackHeaderError::EndBlock`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogpackHeaderError {
    /// Not one physical block.
    #[error("logpack header has {found} bytes, expected {expected}")]
    Length {
        /// Bytes given.
        found: usize,
        /// Bytes of a physical block.
        expected: usize,
    },
    /// The block does not sum to zero.
    #[error("logpack header checksum wrong: the block sums to {sum:08x}, expected 0")]
    Checksum {
        /// What it sums to.
        sum: u32,
    },
    /// Another sector type.
    #[error("sector type is {found}, expected 3 (logpack)")]
    Kind {
        /// The type found.
        found: u16,
    },
    /// An intact end block: the wlog is complete.
    #[error("end block")]
    EndBlock,
    /// A pack of an earlier lap of the ring, or of another place in a wlog.
    #[error("header carries lsid {found}, sought {sought}")]
    OtherLsid {
        /// The lsid it carries.
        found: Lsid,
        /// Where it was read.
        sought: Lsid,
    },
    /// No or too many records.
    #[error("header has {found} records, expected 1 to {max}")]
    RecordCount {
        /// The count.
        found: u16,
        /// What fits.
        max: usize,
    },
    /// The padding count is not the number of padding records, or more than one.
    #[error("header counts {found} padding records, there are {actual}")]
    PaddingCount {
        /// The count.
        found: u16,
        /// Padding records present.
        actual: usize,
    },
    /// The total is not the sum of the records' blocks.
    #[error("header counts {found} data blocks, its records have {actual}")]
    Total {
        /// The count.
        found: u16,
        /// The sum.
        actual: u64,
    },
    /// The next lsid would not be valid.
    #[error("pack at lsid {lsid} with {total} data blocks would end beyond the largest lsid")]
    LsidOverflow {
        /// The header's lsid.
        lsid: Lsid,
        /// Its data blocks.
        total: u16,
    },
    /// One record is impossible.
    #[error("record {index}: {fault}")]
    Record {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        fault: RecordFault,
    },
}

/// What is wrong with a log record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// No kind has these flags.
    #[error("flags are {0:#x}, expected 1 (normal), 3 (padding) or 5 (discard)")]
    Flags(u32),
    /// A size its kind cannot have.
    #[error("size is {0} logical blocks, not allowed for its kind")]
    Size(u32),
    /// Its place in the pack is not where the records before it end.
    #[error("lsid is {found} (local {found_local}), expected {expected}")]
    Lsid {
        /// The lsid it carries.
        found: u64,
        /// The local lsid it carries.
        found_local: u16,
        /// Where the earlier records end.
        expected: u64,
    },
}

impl LogpackHeader {
    /// Records that fit a header block: 15 or 127.
    pub fn max_records(pbs: PhysicalBlockSize) -> usize {
        (pbs.bytes() - size_of::<Stored>()) / size_of::<StoredRecord>()
    }

    /// Reads a header block.
    ///
    /// `sought` is not redundant: the ring is reused, and an older lap leaves intact headers with other lsids.
    pub fn decode(
        block: &[u8],
        pbs: PhysicalBlockSize,
        salt: Salt,
        sought: Lsid,
    ) -> Result<Self, LogpackHeaderError> {
        use LogpackHeaderError::{
            Checksum, EndBlock, Kind, Length, LsidOverflow, OtherLsid, PaddingCount, RecordCount, Total,
        };
        let length = || Length {
            found: block.len(),
            expected: pbs.bytes(),
        };
        let (stored, rest) = Stored::ref_from_prefix(block).map_err(|_| length())?;
        if block.len() != pbs.bytes() {
            return Err(length());
        }
        match checksum(block, salt) {
            0 => {}
            sum => return Err(Checksum { sum }),
        }
        if stored.kind.get() != KIND_LOGPACK {
            return Err(Kind {
                found: stored.kind.get(),
            });
        }
        let (lsid, total_io_pb) = (Lsid(stored.lsid.get()), stored.total_io_pb.get());
        let (n_records, n_padding) = (stored.n_records.get(), stored.n_padding.get());
        if n_records == 0 && lsid == Lsid::INVALID && total_io_pb == 0 && n_padding == 0 {
            return Err(EndBlock);
        }
        if lsid != sought {
            return Err(OtherLsid { found: lsid, sought });
        }
        let max = Self::max_records(pbs);
        if n_records == 0 || usize::from(n_records) > max {
            return Err(RecordCount {
                found: n_records,
                max,
            });
        }
        match lsid.0.checked_add(1 + u64::from(total_io_pb)) {
            Some(next) if next <= Lsid::MAX.0 => {}
            _ => {
                return Err(LsidOverflow {
                    lsid,
                    total: total_io_pb,
                });
            }
        }
        let mut records = Vec::with_capacity(n_records.into());
        let mut local = 1;
        for (index, bytes) in rest
            .chunks_exact(size_of::<StoredRecord>())
            .take(n_records.into())
            .enumerate()
        {
            let record = decode_record(bytes, lsid, local)
                .map_err(|fault| LogpackHeaderError::Record { index, fault })?;
            local += record.data_pbs(pbs);
            records.push(record);
        }
        if local - 1 != u64::from(total_io_pb) {
            return Err(Total {
                found: total_io_pb,
                actual: local - 1,
            });
        }
        let actual = records.iter().filter(|r| r.kind == RecordKind::Padding).count();
        if actual > 1 || usize::from(n_padding) != actual {
            return Err(PaddingCount {
                found: n_padding,
                actual,
            });
        }
        Ok(Self {
            pbs,
            lsid,
            total_io_pb,
            records,
        })
    }

    /// The header block.
    pub fn encode(&self, salt: Salt) -> Bytes {
        let n_padding = self
            .records
            .iter()
            .filter(|r| r.kind == RecordKind::Padding)
            .count();
        encode_block(
            self.pbs,
            salt,
            self.lsid,
            self.total_io_pb,
            u16::from(n_padding > 0),
            &self.records,
        )
    }

    /// Physical block size.
    pub fn pbs(&self) -> PhysicalBlockSize {
        self.pbs
    }

    /// Lsid of the header block, which names the pack.
    pub fn lsid(&self) -> Lsid {
        self.lsid
    }

    /// Data blocks that follow the header.
    pub fn total_io_pb(&self) -> u16 {
        self.total_io_pb
    }

    /// Bytes that follow the header.
    pub fn data_bytes(&self) -> usize {
        usize::from(self.total_io_pb) * self.pbs.bytes()
    }

    /// The records, in the order the IOs were issued.
    pub fn records(&self) -> &[LogRecord] {
        &self.records
    }

    /// Lsid after the pack, where the next one starts.
    pub fn next_lsid(&self) -> Lsid {
        Lsid(self.lsid.0.saturating_add(1 + u64::from(self.total_io_pb)))
    }

    /// The place of a record's data behind the header: exactly its bytes, without the undefined tail of the last
    /// block. Empty for a discard.
    pub fn data_range(&self, record: &LogRecord) -> std::ops::Range<usize> {
        let start = (usize::from(record.lsid_local) - 1) * self.pbs.bytes();
        let bytes = match record.kind {
            RecordKind::Discard => 0,
            // At most 65535 logical blocks, as decoding and building made sure.
            RecordKind::Normal | RecordKind::Padding => (record.size.0 * LB_SIZE) as usize,
        };
        start..start + bytes
    }

    /// The pack cut to its first `n` records, as redo leaves one whose record `n` is torn. None if nothing is left.
    pub fn shrunk_to(&self, n: usize) -> Option<Self> {
        let records = self.records.get(..n).filter(|r| !r.is_empty())?.to_vec();
        let total: u64 = records.iter().map(|r| r.data_pbs(self.pbs)).sum();
        let total_io_pb = u16::try_from(total).expect("a part is not larger than the whole");
        Some(Self {
            pbs: self.pbs,
            lsid: self.lsid,
            total_io_pb,
            records,
        })
    }
}

fn decode_record(bytes: &[u8], pack: Lsid, local: u64) -> Result<LogRecord, RecordFault> {
    let stored = StoredRecord::ref_from_bytes(bytes).expect("cut to the length of a record");
    let (flags, size) = (stored.flags.get(), stored.size.get());
    let kind = match flags & (EXIST | PADDING | DISCARD) {
        EXIST => RecordKind::Normal,
        3 => RecordKind::Padding,
        5 => RecordKind::Discard,
        _ => return Err(RecordFault::Flags(flags)),
    };
    let sizes = match kind {
        RecordKind::Normal => 1..=65535,
        RecordKind::Padding => 0..=65535 * 8,
        RecordKind::Discard => 1..=u32::MAX,
    };
    if !sizes.contains(&size) {
        return Err(RecordFault::Size(size));
    }
    let (lsid, lsid_local) = (stored.lsid.get(), stored.lsid_local.get());
    // Bogus sizes may carry the sum beyond the largest lsid; then it just does not match.
    let expected = pack.0.wrapping_add(local);
    if u64::from(lsid_local) != local || lsid != expected {
        return Err(RecordFault::Lsid {
            found: lsid,
            found_local: lsid_local,
            expected,
        });
    }
    Ok(LogRecord {
        kind,
        offset: Lb(stored.offset.get()),
        size: Lb(size.into()),
        lsid: Lsid(lsid),
        lsid_local,
        checksum: stored.checksum.get(),
    })
}

/// Lays out a header block; also of the end block, which has no records.
pub(in crate::format) fn encode_block(
    pbs: PhysicalBlockSize,
    salt: Salt,
    lsid: Lsid,
    total_io_pb: u16,
    n_padding: u16,
    records: &[LogRecord],
) -> Bytes {
    let stored = Stored {
        checksum: 0.into(),
        kind: KIND_LOGPACK.into(),
        total_io_pb: total_io_pb.into(),
        lsid: lsid.0.into(),
        n_records: u16::try_from(records.len()).expect("at most 127").into(),
        n_padding: n_padding.into(),
        reserved: 0.into(),
    };
    let mut block = Vec::with_capacity(pbs.bytes());
    block.extend_from_slice(stored.as_bytes());
    for record in records {
        let kind = match record.kind {
            RecordKind::Normal => 0,
            RecordKind::Padding => PADDING,
            RecordKind::Discard => DISCARD,
        };
        let stored = StoredRecord {
            checksum: record.checksum.into(),
            flags: (EXIST | kind).into(),
            offset: record.offset.0.into(),
            size: u32::try_from(record.size.0)
                .expect("checked when built or decoded")
                .into(),
            lsid_local: record.lsid_local.into(),
            reserved: 0.into(),
            lsid: record.lsid.0.into(),
        };
        block.extend_from_slice(stored.as_bytes());
    }
    block.resize(pbs.bytes(), 0);
    let sum = checksum(&block, salt);
    block[..4].copy_from_slice(&sum.to_le_bytes());
    block.into()
}
