//! Full image to wdiff: every block of an image as data, so that applying the wdiff to anything of its size gives the
//! image. Zeros are data too: what they replace is not known.

use std::io::{self, Read, Write};

use crate::convert::overlay::aligned_size;
use crate::format::compress::Compressor;
use crate::format::wdiff::{
    Image, IndexRecord, IndexedWriter, MAX_IMAGE_BYTES, RecordKind, SortedWriter, WdiffRecord, WriteStats,
    WriteWdiffError,
};
use crate::types::{CompressionSetting, LB_SIZE, Lb, Uuid};

/// Size of a record unless told otherwise: 64 KiB.
pub const DEFAULT_IMAGE_IO: Lb = Lb(128);

/// An image cannot be made a wdiff.
#[derive(Debug, thiserror::Error)]
pub enum ImageToWdiffError {
    /// The image cannot be read.
    #[error("read the image at byte {position}")]
    Read {
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image ends inside a logical block.
    #[error("the image has {bytes} bytes, expected a multiple of 512")]
    PartialBlock {
        /// Its size.
        bytes: u64,
    },
    /// No image can be cut so.
    #[error("cut the image into records of {found} logical blocks: expected 1 to {max}")]
    IoSize {
        /// The size asked for.
        found: Lb,
        /// What readers take.
        max: u64,
    },
    /// The wdiff cannot be written.
    #[error("write the wdiff")]
    Write(#[from] WriteWdiffError),
}

/// Makes a sorted wdiff of `image`, with one record for each `io_size` of it; the last may be shorter. A stream: one
/// record's data and one pack in memory. `uuid` is nil unless the image is known to be of a log sequence. Gives the
/// stream back, unflushed.
pub fn image_to_sorted<W: Write>(
    image: impl Read,
    out: W,
    uuid: Uuid,
    setting: CompressionSetting,
    io_size: Lb,
) -> Result<(W, WriteStats), ImageToWdiffError> {
    let mut writer = SortedWriter::new(out, uuid, setting)?;
    each_chunk(image, io_size, |address, raw| {
        Ok(writer.write(&WdiffRecord::normal(address, raw.into()))?)
    })?;
    Ok(writer.finish()?)
}

/// Makes an indexed wdiff of `image`: one stored image for each `io_size` of it, in aligned pieces. Keeps the index in
/// memory. Otherwise as [`image_to_sorted`].
pub fn image_to_indexed<W: Write>(
    image: impl Read,
    out: W,
    uuid: Uuid,
    setting: CompressionSetting,
    io_size: Lb,
) -> Result<(W, WriteStats), ImageToWdiffError> {
    let mut writer = IndexedWriter::new(out, uuid)?;
    let mut compressor = Compressor::new(setting);
    let mut index = Vec::new();
    each_chunk(image, io_size, |address, raw| {
        let blocks = Lb(raw.len() as u64 / LB_SIZE);
        let image = match compressor.compress(&raw) {
            Some(stored) => Image::stored(setting.kind, stored.into(), blocks, None),
            None => Image::raw(raw.into()),
        };
        let stored = writer.add_image(&image)?;
        let mut done = 0;
        while done < blocks.0 {
            let size = aligned_size(address.0 + done, blocks.0 - done, 0);
            index.push(IndexRecord {
                address: Lb(address.0 + done),
                blocks: Lb(size),
                kind: RecordKind::Normal,
                compression: stored.compression,
                data_offset: stored.data_offset,
                data_size: stored.data_size,
                io_offset: Lb(done),
                orig_blocks: blocks,
                io_checksum: stored.checksum,
            });
            done += size;
        }
        Ok(())
    })?;
    Ok(writer.finish(index)?)
}

/// Hands the image to `take`, `io_size` at a time.
fn each_chunk(
    mut image: impl Read,
    io_size: Lb,
    mut take: impl FnMut(Lb, Vec<u8>) -> Result<(), ImageToWdiffError>,
) -> Result<(), ImageToWdiffError> {
    let max = MAX_IMAGE_BYTES as u64 / LB_SIZE;
    if !(1..=max).contains(&io_size.0) {
        return Err(ImageToWdiffError::IoSize { found: io_size, max });
    }
    let mut position = 0;
    loop {
        let mut raw = vec![0; io_size.bytes() as usize];
        let found = crate::format::fill(&mut image, &mut raw)
            .map_err(|source| ImageToWdiffError::Read { position, source })?;
        raw.truncate(found);
        let bytes = position + found as u64;
        if !bytes.is_multiple_of(LB_SIZE) {
            return Err(ImageToWdiffError::PartialBlock { bytes });
        }
        if found > 0 {
            take(Lb(position / LB_SIZE), raw)?;
        }
        if found < io_size.bytes() as usize {
            return Ok(());
        }
        position = bytes;
    }
}

#[cfg(test)]
mod tests;
