//! The pack header of the sorted layout. Byte table: docs/formats/wdiff-sorted.md.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ReadWdiffError, RecordKind, sums_to_zero};
use crate::format::checksum::{Salt, checksum};
use crate::types::{Compression, Lb};

/// Bytes of a pack header.
pub const PACK_HEADER_SIZE: usize = 4096;
/// Records in a pack at most.
pub const PACK_RECORDS_MAX: usize = 127;
/// Bytes of data in a pack at most, unless it has just one record.
pub const MAX_PACK_DATA: u32 = 32 << 20;
const END: u8 = 1;
pub(super) const ALL_ZERO: u8 = 2;
pub(super) const DISCARD: u8 = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Stored {
    checksum: U32,
    n_records: U16,
    flags: u8,
    reserved: u8,
    total_size: U32,
    reserved2: U32,
}
const _: () = assert!(size_of::<Stored>() == 16);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StoredRecord {
    address: U64,
    blocks: U32,
    flags: u8,
    compression: u8,
    reserved: U16,
    data_offset: U32,
    data_size: U32,
    checksum: U32,
    reserved2: U32,
}
const _: () = assert!(size_of::<StoredRecord>() == 32);

/// A record of a sorted pack. Its data follow those of the records before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRecord {
    /// First logical block.
    pub address: Lb,
    /// Logical blocks; fits 32 bits.
    pub blocks: Lb,
    /// Its kind.
    pub kind: RecordKind,
    /// Of its data; none unless normal.
    pub compression: Compression,
    /// Where its data start behind the header.
    pub data_offset: u32,
    /// Stored bytes; 0 unless normal.
    pub data_size: u32,
    /// Of the stored bytes; 0 unless normal.
    pub checksum: u32,
}

/// A believed pack header: offsets, sizes and address order agree. Without records it is the end pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackHeader {
    is_end: bool,
    total_size: u32,
    records: Vec<PackRecord>,
}

impl PackHeader {
    /// Reads the header at byte `position` of the file; its records start at `from` or above.
    pub fn decode(bytes: &[u8], position: u64, from: Lb, max_image: usize) -> Result<Self, ReadWdiffError> {
        const PART: &str = "pack header";
        let bad =
            |field, found: u64, expected: &str| ReadWdiffError::field(PART, position, field, found, expected);
        let truncated = || ReadWdiffError::Truncated {
            position: position + bytes.len() as u64,
            part: PART,
        };
        let (stored, rest) = Stored::ref_from_prefix(bytes).map_err(|_| truncated())?;
        if bytes.len() != PACK_HEADER_SIZE {
            return Err(truncated());
        }
        sums_to_zero(PART, position, bytes)?;
        let (n_records, total_size) = (stored.n_records.get(), stored.total_size.get());
        if usize::from(n_records) > PACK_RECORDS_MAX {
            return Err(bad("record count", n_records.into(), "at most 127"));
        }
        let is_end = stored.flags & END != 0;
        if is_end && n_records != 0 {
            return Err(bad("record count", n_records.into(), "0 in the end pack"));
        }
        if n_records != 1 && total_size > MAX_PACK_DATA {
            return Err(bad("data size", total_size.into(), "at most 33554432"));
        }
        let mut header = Self {
            is_end,
            total_size: 0,
            records: Vec::with_capacity(n_records.into()),
        };
        let mut from = from;
        let records = rest
            .chunks_exact(size_of::<StoredRecord>())
            .take(n_records.into());
        for (index, bytes) in records.enumerate() {
            let at = position + (size_of::<Stored>() + index * size_of::<StoredRecord>()) as u64;
            let record = decode_record(bytes, at, max_image)?;
            if record.data_offset != header.total_size {
                let (found, expected) = (record.data_offset.into(), header.total_size);
                return Err(ReadWdiffError::field(
                    "record",
                    at,
                    "data offset",
                    found,
                    expected,
                ));
            }
            if record.address < from {
                return Err(ReadWdiffError::Order {
                    position: at,
                    found: record.address,
                    expected: from,
                });
            }
            from = Lb(record.address.0 + record.blocks.0);
            header.total_size = header
                .total_size
                .checked_add(record.data_size)
                .filter(|total| *total <= total_size)
                .ok_or_else(|| bad("data size", total_size.into(), "the sum of its records' sizes"))?;
            header.records.push(record);
        }
        if header.total_size != total_size {
            return Err(bad(
                "data size",
                total_size.into(),
                "the sum of its records' sizes",
            ));
        }
        Ok(header)
    }

    /// The end pack.
    pub fn end() -> Self {
        Self {
            is_end: true,
            ..Self::default()
        }
    }

    /// Whether it is the end pack.
    pub fn is_end(&self) -> bool {
        self.is_end
    }

    /// Bytes of data behind it.
    pub fn total_size(&self) -> u32 {
        self.total_size
    }

    /// Its records.
    pub fn records(&self) -> &[PackRecord] {
        &self.records
    }

    /// Whether a record with `data_size` bytes may go in.
    pub fn has_room_for(&self, data_size: u32) -> bool {
        self.records.is_empty()
            || (self.records.len() < PACK_RECORDS_MAX
                && self
                    .total_size
                    .checked_add(data_size)
                    .is_some_and(|total| total <= MAX_PACK_DATA))
    }

    /// Adds a record, which has room; sets its data offset.
    pub fn push(&mut self, mut record: PackRecord) {
        assert!(self.has_room_for(record.data_size), "the caller asked for room");
        record.data_offset = self.total_size;
        self.total_size += record.data_size;
        self.records.push(record);
    }

    /// The 4096 bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            checksum: 0.into(),
            n_records: (self.records.len() as u16).into(),
            flags: u8::from(self.is_end),
            reserved: 0,
            total_size: self.total_size.into(),
            reserved2: 0.into(),
        };
        let mut bytes = stored.as_bytes().to_vec();
        for record in &self.records {
            let stored = StoredRecord {
                address: record.address.0.into(),
                blocks: u32::try_from(record.blocks.0)
                    .expect("checked when pushed or decoded")
                    .into(),
                flags: flags_of(record.kind),
                compression: record.compression.id(),
                reserved: 0.into(),
                data_offset: record.data_offset.into(),
                data_size: record.data_size.into(),
                checksum: record.checksum.into(),
                reserved2: 0.into(),
            };
            bytes.extend_from_slice(stored.as_bytes());
        }
        bytes.resize(PACK_HEADER_SIZE, 0);
        let sum = checksum(&bytes, Salt::ZERO);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

pub(super) fn flags_of(kind: RecordKind) -> u8 {
    match kind {
        RecordKind::Normal => 0,
        RecordKind::AllZero => ALL_ZERO,
        RecordKind::Discard => DISCARD,
    }
}

/// The kind that record flags name. The other bits mean nothing: existing writers leave anything in them.
pub(super) fn kind_of(flags: u8, position: u64) -> Result<RecordKind, ReadWdiffError> {
    match flags & (ALL_ZERO | DISCARD) {
        0 => Ok(RecordKind::Normal),
        ALL_ZERO => Ok(RecordKind::AllZero),
        DISCARD => Ok(RecordKind::Discard),
        _ => Err(ReadWdiffError::field(
            "record",
            position,
            "flags",
            flags.into(),
            "not both all-zero and discard",
        )),
    }
}

fn decode_record(bytes: &[u8], position: u64, max_image: usize) -> Result<PackRecord, ReadWdiffError> {
    let stored = StoredRecord::ref_from_bytes(bytes).expect("cut to the length of a record");
    let bad =
        |field, found: u64, expected: &str| ReadWdiffError::field("record", position, field, found, expected);
    let kind = kind_of(stored.flags, position)?;
    let (address, blocks) = (Lb(stored.address.get()), Lb(stored.blocks.get().into()));
    let data_size = stored.data_size.get();
    if address.0.checked_add(blocks.0).is_none() {
        return Err(bad("address", address.0, "an end below 2^64"));
    }
    let mut compression = Compression::None;
    if kind == RecordKind::Normal {
        compression = Compression::from_id(stored.compression)
            .ok_or_else(|| bad("compression type", stored.compression.into(), "0 to 5"))?;
        check_image(position, blocks, data_size, compression, max_image)?;
    } else if data_size != 0 {
        return Err(bad("data size", data_size.into(), "0 for its kind"));
    }
    let (data_offset, checksum) = (stored.data_offset.get(), stored.checksum.get());
    Ok(PackRecord {
        address,
        blocks,
        kind,
        compression,
        data_offset,
        data_size,
        checksum,
    })
}

/// Bounds an image before anything is allocated for it.
pub(super) fn check_image(
    position: u64,
    blocks: Lb,
    data_size: u32,
    compression: Compression,
    max_image: usize,
) -> Result<(), ReadWdiffError> {
    let bad = |field, found: u64, expected: String| {
        Err(ReadWdiffError::field("record", position, field, found, expected))
    };
    if blocks == Lb(0) || blocks.bytes() > max_image as u64 {
        return bad("size in blocks", blocks.0, format!("1 to {}", max_image / 512));
    }
    if compression == Compression::None && u64::from(data_size) != blocks.bytes() {
        return bad(
            "data size",
            data_size.into(),
            format!("{} as it is not compressed", blocks.bytes()),
        );
    }
    // Compressed data are smaller than raw ones as we write them; others may write a little more.
    if u64::from(data_size) > blocks.bytes() + 4096 + blocks.bytes() / 8 {
        return bad(
            "data size",
            data_size.into(),
            format!("at most about {}", blocks.bytes()),
        );
    }
    Ok(())
}
