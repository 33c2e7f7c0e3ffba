//! Writing diffs of either layout, record by record in address order.

use std::collections::HashMap;
use std::io::Write;

use walb_common::convert::overlay::aligned_size;
use walb_common::format::compress::Compressor;
use walb_common::format::wdiff::{
    Content, Data, Image, IndexRecord, IndexedWriter, RecordKind, SortedWriter, StoredImage, WdiffRecord,
    WriteStats, WriteWdiffError,
};
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};

use crate::options::Layout;

/// A diff being written.
#[derive(Debug)]
pub enum Writer<W: Write> {
    /// Keeps a pack in memory.
    Sorted(SortedWriter<W>),
    /// Keeps the index in memory.
    Indexed(Indexed<W>),
}

impl<W: Write> Writer<W> {
    /// Starts it.
    pub fn new(
        layout: Layout,
        out: W,
        uuid: Uuid,
        setting: CompressionSetting,
    ) -> Result<Self, WriteWdiffError> {
        Ok(match layout {
            Layout::Sorted => Self::Sorted(SortedWriter::new(out, uuid, setting)?),
            Layout::Indexed => Self::Indexed(Indexed::new(out, uuid, setting)?),
        })
    }

    /// Adds a record. Data that are compressed as wanted already are passed on as they are.
    pub fn write(&mut self, record: &WdiffRecord) -> Result<(), WriteWdiffError> {
        match self {
            Self::Sorted(writer) => writer.write(record),
            Self::Indexed(writer) => writer.write(record),
        }
    }

    /// Ends it. Gives the stream back, unflushed.
    pub fn finish(self) -> Result<(W, WriteStats), WriteWdiffError> {
        match self {
            Self::Sorted(writer) => writer.finish(),
            Self::Indexed(writer) => writer.writer.finish(writer.index),
        }
    }
}

/// Where an image was in the file it came from. Records that share an image there share it here.
pub type ImageId = (u64, u32);

/// An indexed diff being written.
#[derive(Debug)]
pub struct Indexed<W> {
    writer: IndexedWriter<W>,
    compressor: Compressor,
    index: Vec<IndexRecord>,
    shared: HashMap<ImageId, StoredImage>,
}

impl<W: Write> Indexed<W> {
    fn new(out: W, uuid: Uuid, setting: CompressionSetting) -> Result<Self, WriteWdiffError> {
        Ok(Self {
            writer: IndexedWriter::new(out, uuid)?,
            compressor: Compressor::new(setting),
            index: Vec::new(),
            shared: HashMap::new(),
        })
    }

    fn write(&mut self, record: &WdiffRecord) -> Result<(), WriteWdiffError> {
        let address = record.address;
        let image = match &record.content {
            Content::Normal(data) => {
                let image = data
                    .to_stored(&mut self.compressor)
                    .map_err(|source| WriteWdiffError::Decompress { address, source })?;
                Some(self.writer.add_image(&image)?)
            }
            Content::AllZero | Content::Discard => {
                self.writer.add_dataless(1);
                None
            }
        };
        self.add(address, record.blocks, record.kind(), image, Lb(0));
        Ok(())
    }

    /// Adds a record whose data are a part of an image that others may share; the image is compressed anew, once.
    pub fn write_part(
        &mut self,
        record: &WdiffRecord,
        data: &Data,
        id: ImageId,
    ) -> Result<(), WriteWdiffError> {
        let address = record.address;
        let image = if let Some(image) = self.shared.get(&id) {
            *image
        } else {
            let raw = data
                .image()
                .decompressed()
                .map_err(|source| WriteWdiffError::Decompress { address, source })?;
            let stored = match self.compressor.compress(&raw) {
                Some(stored) => {
                    let kind = self.compressor.setting().kind;
                    Image::stored(kind, stored.into(), data.image().blocks(), None)
                }
                None => Image::raw(raw),
            };
            let image = self.writer.add_image(&stored)?;
            self.shared.insert(id, image);
            image
        };
        self.add(
            address,
            record.blocks,
            RecordKind::Normal,
            Some(image),
            data.offset(),
        );
        Ok(())
    }

    /// Cuts a range into pieces as the layout demands them: powers of two in size, at multiples of their size.
    fn add(&mut self, address: Lb, blocks: Lb, kind: RecordKind, image: Option<StoredImage>, offset: Lb) {
        let end = address.0 + blocks.0;
        let mut from = address.0;
        while from < end {
            let size = aligned_size(from, end - from, 0);
            let skipped = from - address.0;
            self.index.push(IndexRecord {
                address: Lb(from),
                blocks: Lb(size),
                kind,
                compression: image.map_or(Compression::None, |i| i.compression),
                data_offset: image.map_or(self.writer.position(), |i| i.data_offset),
                data_size: image.map_or(0, |i| i.data_size),
                io_offset: Lb(if image.is_some() { offset.0 + skipped } else { 0 }),
                orig_blocks: image.map_or(Lb(0), |i| i.blocks),
                io_checksum: image.map_or(0, |i| i.checksum),
            });
            from += size;
        }
    }
}
