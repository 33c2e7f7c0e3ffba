//! A stream of records to a sorted wdiff, compressed on as many threads as the setting says.

use std::io::Write;

use crate::convert::in_order::in_order;
use crate::format::compress::Compressor;
use crate::format::wdiff::{
    EncodedPack, NextPack, PackBatch, SortedWriter, WdiffRecord, WriteStats, WriteWdiffError,
};
use crate::types::{CompressionSetting, Uuid};

/// Writes what `next` gives, records in address order, until it gives none. Gives the stream back, unflushed.
pub fn write_sorted<W: Write, E: From<WriteWdiffError>>(
    mut next: impl FnMut() -> Option<Result<WdiffRecord, E>>,
    out: W,
    uuid: Uuid,
    setting: CompressionSetting,
) -> Result<(W, WriteStats), E> {
    let mut writer = SortedWriter::new(out, uuid, setting)?;
    let mut write = |pack: Result<EncodedPack, WriteWdiffError>| writer.write_pack(&pack?);
    in_order(
        setting.cpus.into(),
        || Compressor::new(setting),
        |compressor, batch: PackBatch| batch.encode(compressor),
        |line| {
            let mut packs = NextPack::new(setting.kind);
            while let Some(record) = next() {
                if let Some(batch) = packs.push(record?)? {
                    line.give(batch).map_or(Ok(()), &mut write)?;
                }
            }
            if let Some(batch) = packs.finish() {
                line.give(batch).map_or(Ok(()), &mut write)?;
            }
            while let Some(pack) = line.take() {
                write(pack)?;
            }
            Ok::<_, E>(())
        },
    )?;
    Ok(writer.finish()?)
}
