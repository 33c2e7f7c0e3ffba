//! Index records and the index super of the indexed layout. Byte tables: docs/formats/wdiff-indexed.md.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::file_header::WDIFF_HEADER_SIZE;
use super::sorted_pack::{check_image, flags_of, kind_of};
use super::{ReadWdiffError, RecordKind, sums_to_zero};
use crate::format::checksum::{Salt, checksum};
use crate::types::{Compression, Lb};

/// Bytes of an index record.
pub const INDEX_RECORD_SIZE: usize = 48;
/// Bytes of the index super.
pub const INDEX_SUPER_SIZE: usize = 24;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Stored {
    address: U64,
    blocks: U32,
    flags: u8,
    compression: u8,
    reserved: U16,
    data_offset: U64,
    data_size: U32,
    io_offset: U32,
    orig_blocks: U32,
    reserved2: U32,
    io_checksum: U32,
    rec_checksum: U32,
}
const _: () = assert!(size_of::<Stored>() == INDEX_RECORD_SIZE);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StoredSuper {
    index_offset: U64,
    n_records: U32,
    n_data: U32,
    reserved: U32,
    checksum: U32,
}
const _: () = assert!(size_of::<StoredSuper>() == INDEX_SUPER_SIZE);

/// A range and where its data are: a part of a stored image, which other records may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexRecord {
    /// First logical block.
    pub address: Lb,
    /// Logical blocks; fits 32 bits.
    pub blocks: Lb,
    /// Its kind. Without data everything below but `data_offset` and `io_offset`, which mean nothing then, is 0.
    pub kind: RecordKind,
    /// Of the image.
    pub compression: Compression,
    /// Byte position of the image in the file.
    pub data_offset: u64,
    /// Stored bytes of the image.
    pub data_size: u32,
    /// Where the range's data start in the decompressed image.
    pub io_offset: Lb,
    /// Logical blocks of the decompressed image.
    pub orig_blocks: Lb,
    /// Of the stored image.
    pub io_checksum: u32,
}

impl IndexRecord {
    /// Reads the record at byte `position`; it starts at `from` or above, its image lies before `index_offset`.
    pub fn decode(
        bytes: &[u8],
        position: u64,
        from: Lb,
        index_offset: u64,
        max_image: usize,
    ) -> Result<Self, ReadWdiffError> {
        const PART: &str = "index record";
        let bad = |field, found: u64, expected: String| {
            Err(ReadWdiffError::field(PART, position, field, found, expected))
        };
        let Ok(stored) = Stored::ref_from_bytes(bytes) else {
            return Err(ReadWdiffError::Truncated { position, part: PART });
        };
        sums_to_zero(PART, position, bytes)?;
        let kind = kind_of(stored.flags, position)?;
        let (address, blocks) = (Lb(stored.address.get()), Lb(stored.blocks.get().into()));
        if address < from {
            return Err(ReadWdiffError::Order {
                position,
                found: address,
                expected: from,
            });
        }
        if address.0.checked_add(blocks.0).is_none() {
            return bad("address", address.0, "an end below 2^64".to_owned());
        }
        let (data_offset, data_size) = (stored.data_offset.get(), stored.data_size.get());
        let (io_offset, orig_blocks) = (
            Lb(stored.io_offset.get().into()),
            Lb(stored.orig_blocks.get().into()),
        );
        let mut compression = Compression::None;
        if kind == RecordKind::Normal {
            compression = match Compression::from_id(stored.compression) {
                Some(compression) => compression,
                None => return bad("compression type", stored.compression.into(), "0 to 5".to_owned()),
            };
            check_image(position, orig_blocks, data_size, compression, max_image)?;
            let data_end = data_offset.checked_add(data_size.into());
            if data_offset < WDIFF_HEADER_SIZE as u64 || data_end.is_none_or(|end| end > index_offset) {
                return bad(
                    "data offset",
                    data_offset,
                    format!("data of {data_size} within 32..{index_offset}"),
                );
            }
            if blocks == Lb(0) || io_offset.0 + blocks.0 > orig_blocks.0 {
                return bad(
                    "io offset",
                    io_offset.0,
                    format!("{blocks} blocks within {orig_blocks}"),
                );
            }
        } else if data_size != 0 {
            return bad("data size", data_size.into(), "0 for its kind".to_owned());
        }
        let io_checksum = stored.io_checksum.get();
        Ok(Self {
            address,
            blocks,
            kind,
            compression,
            data_offset,
            data_size,
            io_offset,
            orig_blocks,
            io_checksum,
        })
    }

    /// The 48 bytes to store. Its blocks fit 32 bits.
    pub fn encode(&self) -> [u8; INDEX_RECORD_SIZE] {
        let narrow = |lb: Lb| u32::try_from(lb.0).expect("sizes in blocks fit 32 bits");
        let mut stored = Stored {
            address: self.address.0.into(),
            blocks: narrow(self.blocks).into(),
            flags: flags_of(self.kind),
            compression: self.compression.id(),
            reserved: 0.into(),
            data_offset: self.data_offset.into(),
            data_size: self.data_size.into(),
            io_offset: narrow(self.io_offset).into(),
            orig_blocks: narrow(self.orig_blocks).into(),
            reserved2: 0.into(),
            io_checksum: self.io_checksum.into(),
            rec_checksum: 0.into(),
        };
        stored.rec_checksum = checksum(stored.as_bytes(), Salt::ZERO).into();
        zerocopy::transmute!(stored)
    }
}

/// The last bytes of an indexed file: where the index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSuper {
    /// Byte position of the first index record, a multiple of 8.
    pub index_offset: u64,
    /// Index records.
    pub n_records: u32,
    /// IOs that went into the file, those without data included.
    pub n_data: u32,
}

impl IndexSuper {
    /// Reads the last 24 bytes of a file of `file_size` bytes.
    pub fn decode(bytes: &[u8], file_size: u64) -> Result<Self, ReadWdiffError> {
        const PART: &str = "index super";
        let position = file_size.saturating_sub(INDEX_SUPER_SIZE as u64);
        let Ok(stored) = StoredSuper::ref_from_bytes(bytes) else {
            return Err(ReadWdiffError::Truncated {
                position: file_size,
                part: PART,
            });
        };
        sums_to_zero(PART, position, bytes)?;
        let (index_offset, n_records) = (stored.index_offset.get(), stored.n_records.get());
        let index_size = u64::from(n_records) * INDEX_RECORD_SIZE as u64;
        if index_offset < WDIFF_HEADER_SIZE as u64
            || !index_offset.is_multiple_of(8)
            || index_offset.checked_add(index_size) != Some(position)
        {
            let expected = format!("a multiple of 8 with {n_records} records between it and {position}");
            return Err(ReadWdiffError::field(
                PART,
                position,
                "index offset",
                index_offset,
                expected,
            ));
        }
        Ok(Self {
            index_offset,
            n_records,
            n_data: stored.n_data.get(),
        })
    }

    /// The 24 bytes to store.
    pub fn encode(&self) -> [u8; INDEX_SUPER_SIZE] {
        let mut stored = StoredSuper {
            index_offset: self.index_offset.into(),
            n_records: self.n_records.into(),
            n_data: self.n_data.into(),
            reserved: 0.into(),
            checksum: 0.into(),
        };
        stored.checksum = checksum(stored.as_bytes(), Salt::ZERO).into();
        zerocopy::transmute!(stored)
    }
}
