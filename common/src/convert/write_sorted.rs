//! A stream of records to a sorted wdiff, compressed on as many threads as the setting says.

use std::cell::RefCell;
use std::io::Write;

use crate::convert::in_order::{Line, in_order};
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
    let spare = RefCell::new(Vec::new());
    let mut write = |pack: Result<EncodedPack, WriteWdiffError>| {
        let pack = pack?;
        writer.write_pack(&pack)?;
        spare.borrow_mut().push(pack.into_buffer());
        Ok::<_, WriteWdiffError>(())
    };
    let job = |batch| (batch, spare.borrow_mut().pop().unwrap_or_default());
    in_order(
        setting.cpus.into(),
        || Compressor::new(setting),
        |compressor, (batch, buffer): (PackBatch, Vec<u8>)| batch.encode(compressor, buffer),
        |line| {
            let mut packs = NextPack::new(setting.kind);
            let mut copier = Compressor::new(setting);
            let mut encode = |line: &mut Line<'_, _, _>, batch: PackBatch| {
                let (batch, buffer) = job(batch);
                if batch.compresses() {
                    line.give((batch, buffer))
                } else {
                    line.put(batch.encode(&mut copier, buffer))
                }
            };
            while let Some(record) = next() {
                if let Some(batch) = packs.push(record?)? {
                    encode(line, batch).map_or(Ok(()), &mut write)?;
                }
            }
            if let Some(batch) = packs.finish() {
                encode(line, batch).map_or(Ok(()), &mut write)?;
            }
            while let Some(pack) = line.take() {
                write(pack)?;
            }
            Ok::<_, E>(())
        },
    )?;
    Ok(writer.finish()?)
}
