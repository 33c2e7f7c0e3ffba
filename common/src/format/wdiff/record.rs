//! What a wdiff consists of, whatever its layout: address ranges with content.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::format::checksum::{Salt, checksum};
use crate::format::compress::{Compressor, DecompressError, decompress, decompress_into};
use crate::types::{Compression, LB_SIZE, Lb};

/// What a record does to its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Writes data.
    Normal,
    /// Writes zeros.
    AllZero,
    /// Discards.
    Discard,
}

/// One address range and what becomes of it. Cheap to clone: data are shared.
#[derive(Debug, Clone)]
pub struct WdiffRecord {
    /// First logical block.
    pub address: Lb,
    /// Logical blocks, 1 to 2^32-1 (0 occurs only for data-less records of odd files, and means nothing).
    pub blocks: Lb,
    /// What is there afterwards.
    pub content: Content,
}

/// The content of a range.
#[derive(Debug, Clone)]
pub enum Content {
    /// Data.
    Normal(Data),
    /// Zeros.
    AllZero,
    /// Discarded.
    Discard,
}

impl WdiffRecord {
    /// A record that writes `raw`, which is whole logical blocks.
    pub fn normal(address: Lb, raw: Bytes) -> Self {
        let data = Data::whole(Arc::new(Image::raw(raw)));
        Self {
            address,
            blocks: data.blocks(),
            content: Content::Normal(data),
        }
    }

    /// The kind of its content.
    pub fn kind(&self) -> RecordKind {
        match self.content {
            Content::Normal(_) => RecordKind::Normal,
            Content::AllZero => RecordKind::AllZero,
            Content::Discard => RecordKind::Discard,
        }
    }

    /// The first block after it.
    pub fn end(&self) -> Lb {
        Lb(self.address.0.saturating_add(self.blocks.0))
    }

    /// The part `[from, to)` of it, which must lie within it and not be empty.
    #[must_use]
    pub fn slice(&self, from: Lb, to: Lb) -> Self {
        assert!(
            self.address <= from && from < to && to <= self.end(),
            "a slice lies within its record"
        );
        let blocks = Lb(to.0 - from.0);
        let content = match &self.content {
            Content::Normal(data) => Content::Normal(data.slice(Lb(from.0 - self.address.0), blocks)),
            other => other.clone(),
        };
        Self {
            address: from,
            blocks,
            content,
        }
    }

    /// The decompressed data of a normal record; none for the other kinds.
    pub fn raw_data(&self) -> Result<Option<Bytes>, DecompressError> {
        match &self.content {
            Content::Normal(data) => data.raw().map(Some),
            Content::AllZero | Content::Discard => Ok(None),
        }
    }
}

/// Data of a range: an image, or a part of one that other ranges may share.
#[derive(Debug, Clone)]
pub struct Data {
    image: Arc<Image>,
    offset: Lb,
    blocks: Lb,
}

impl Data {
    /// All of an image.
    pub fn whole(image: Arc<Image>) -> Self {
        let blocks = image.blocks();
        Self {
            image,
            offset: Lb(0),
            blocks,
        }
    }

    /// A part of it; must lie within it.
    #[must_use]
    pub fn slice(&self, offset: Lb, blocks: Lb) -> Self {
        assert!(
            offset.0 + blocks.0 <= self.blocks.0,
            "a slice lies within its data"
        );
        Self {
            image: Arc::clone(&self.image),
            offset: Lb(self.offset.0 + offset.0),
            blocks,
        }
    }

    /// Logical blocks.
    pub fn blocks(&self) -> Lb {
        self.blocks
    }

    /// The image it lies in.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Where it starts in the image.
    pub fn offset(&self) -> Lb {
        self.offset
    }

    /// Whether it is all of its image, so that the stored form can be passed on.
    pub fn is_whole(&self) -> bool {
        self.blocks == self.image.blocks()
    }

    /// The data themselves.
    pub fn raw(&self) -> Result<Bytes, DecompressError> {
        let raw = self.image.decompressed()?;
        let start = self.offset.bytes() as usize;
        Ok(raw.slice(start..start + self.blocks.bytes() as usize))
    }

    /// Writes the data themselves into `out`, which has their length. An image of which this is all is decompressed right
    /// there and not kept; after an error anything may be in `out`.
    pub fn copy_raw(&self, out: &mut [u8]) -> Result<(), DecompressError> {
        if self.is_whole() && self.image.raw.get().is_none() {
            return decompress_into(self.image.compression, &self.image.stored, out);
        }
        out.copy_from_slice(&self.raw()?);
        Ok(())
    }

    /// The same data; where they are a small part of an image, in memory of their own, so that they do not keep all of it.
    pub fn detached(self) -> Result<Self, DecompressError> {
        if self.blocks.0.saturating_mul(2) > self.image.blocks.0 {
            return Ok(self);
        }
        let own = Bytes::copy_from_slice(&self.raw()?);
        Ok(Self::whole(Arc::new(Image::raw(own))))
    }

    /// Bytes of memory that the image takes.
    pub fn held_bytes(&self) -> u64 {
        let raw = match self.image.compression {
            // The same memory.
            Compression::None => 0,
            _ => self.image.raw.get().map_or(0, Bytes::len),
        };
        (self.image.stored.len() + raw) as u64
    }

    /// The form to store under `compressor`'s setting: the stored form if it is of that type already, else recompressed.
    pub fn to_stored(&self, compressor: &mut Compressor) -> Result<Arc<Image>, DecompressError> {
        let wanted = compressor.setting().kind;
        if self.is_stored_as(wanted) {
            return Ok(Arc::clone(&self.image));
        }
        let raw = self.raw()?;
        Ok(Arc::new(match compressor.compress(&raw) {
            Some(stored) => Image::stored(wanted, stored.into(), self.blocks, None),
            None => Image::raw(raw),
        }))
    }

    /// Whether it is all of an image stored with that compression (for `None`: raw), which can be passed on as it is.
    pub fn is_stored_as(&self, wanted: Compression) -> bool {
        self.is_whole() && self.image.compression == wanted
    }
}

/// A stored image. Decompressed at most once, when first needed.
#[derive(Debug)]
pub struct Image {
    compression: Compression,
    stored: Bytes,
    blocks: Lb,
    checksum: OnceLock<u32>,
    raw: OnceLock<Bytes>,
}

impl Image {
    /// Uncompressed data, whole logical blocks.
    pub fn raw(raw: Bytes) -> Self {
        assert!(
            raw.len().is_multiple_of(LB_SIZE as usize),
            "data are whole logical blocks"
        );
        let blocks = Lb(raw.len() as u64 / LB_SIZE);
        Self::stored(Compression::None, raw, blocks, None)
    }

    /// An image in stored form; `checksum` is that of the stored bytes, if known.
    pub fn stored(compression: Compression, stored: Bytes, blocks: Lb, checksum: Option<u32>) -> Self {
        let known = OnceLock::new();
        if let Some(sum) = checksum {
            let _ = known.set(sum);
        }
        Self {
            compression,
            stored,
            blocks,
            checksum: known,
            raw: OnceLock::new(),
        }
    }

    /// How the stored bytes are compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The stored bytes.
    pub fn stored_bytes(&self) -> &Bytes {
        &self.stored
    }

    /// Logical blocks it decompresses to.
    pub fn blocks(&self) -> Lb {
        self.blocks
    }

    /// Checksum of the stored bytes.
    pub fn checksum(&self) -> u32 {
        *self.checksum.get_or_init(|| checksum(&self.stored, Salt::ZERO))
    }

    /// The decompressed data.
    pub fn decompressed(&self) -> Result<Bytes, DecompressError> {
        if let Some(raw) = self.raw.get() {
            return Ok(raw.clone());
        }
        let expected = self.blocks.bytes() as usize;
        let raw = match self.compression {
            Compression::None if self.stored.len() == expected => self.stored.clone(),
            kind => Bytes::from(decompress(kind, &self.stored, expected)?),
        };
        Ok(self.raw.get_or_init(|| raw).clone())
    }
}
