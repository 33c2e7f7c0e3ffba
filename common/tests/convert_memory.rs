//! Goal: merging, applying and restoring take bounded memory, however many wdiffs there are and however their records
//! share images. Method: 120 wdiffs whose images of 1 or 2 MiB lie across each other, every allocation counted. The images,
//! with their data decompressed, would take three or four times the bound.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use walb_common::convert::{
    DEFAULT_MAX_IO, DiscardMode, ImageTarget, IndexedConverter, RestoreStream, apply_wdiffs, merge_to_sorted,
    restore_to_writer,
};
use walb_common::format::checksum::{Salt, checksum};
use walb_common::format::log_device::{Logpack, LogpackBuilder};
use walb_common::format::wdiff::{IndexedReader, WdiffReader};
use walb_common::types::{Compression, CompressionSetting, Lb, Lsid, PhysicalBlockSize, Uuid};
use walb_fuzz_engine::memory::bounded;

const WDIFFS: u64 = 120;
const VOLUME: Lb = Lb(8192);
/// What is stated: 64 MiB.
const BOUND: usize = 64 << 20;

/// Where the one image of a wdiff lies. Unaligned, so that the index cuts it into many pieces.
type Shape = fn(u64) -> (Lb, Lb);

/// Of each but the newest a little survives at its start.
fn staircase(number: u64) -> (Lb, Lb) {
    (Lb(1 + 31 * number), Lb(2048))
}

/// Of each but the newest a little survives at its start, and a little at its end.
fn pyramid(number: u64) -> (Lb, Lb) {
    (Lb(1 + 7 * number), Lb(4096 - 14 * number))
}

fn wdiff((address, blocks): (Lb, Lb), data: &Bytes) -> Bytes {
    let setting = CompressionSetting::of(Compression::Lz4);
    let mut converter = IndexedConverter::new(Vec::new(), Uuid::NIL, setting, DEFAULT_MAX_IO).unwrap();
    let salt = Salt(1);
    let mut builder = LogpackBuilder::new(PhysicalBlockSize::B4096, salt, Lsid(0));
    let data = &data[..usize::try_from(blocks.bytes()).unwrap()];
    builder
        .push_normal(address, blocks, checksum(data, salt))
        .unwrap();
    let (header, block) = builder.finish().unwrap();
    let mut stored = data.to_vec();
    stored.resize(data.len().next_multiple_of(4096), 0);
    converter
        .add_pack(&Logpack::from_stored(header, block, stored.into()))
        .unwrap();
    converter.finish().unwrap().0.into()
}

fn readers(wdiffs: &[Bytes]) -> Vec<WdiffReader> {
    let reader = |stored: &Bytes| {
        let reader = IndexedReader::open(stored.clone(), stored.len() as u64).unwrap();
        let header = *reader.header();
        WdiffReader::from_source(reader, header, "in memory")
    };
    wdiffs.iter().map(reader).collect()
}

/// Throws everything away.
struct Nowhere;

impl ImageTarget for Nowhere {
    fn size(&self) -> io::Result<u64> {
        Ok(VOLUME.bytes())
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

// One test, as others would allocate meanwhile.
#[test]
fn many_wdiffs_of_large_images_across_each_other_take_bounded_memory() {
    // Every second byte noise: about half when compressed.
    let mut noise = 1_u32;
    let data: Vec<u8> = (0..2_u64 << 20)
        .map(|n| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if n / 32 % 2 == 0 { 7 } else { (noise >> 24) as u8 }
        })
        .collect();
    let data = Bytes::from(data);
    let wdiffs = |shape: Shape| -> Vec<Bytes> { (0..WDIFFS).map(|n| wdiff(shape(n), &data)).collect() };
    let go_on = &mut |_| ControlFlow::Continue(());

    let setting = CompressionSetting {
        cpus: 2,
        ..CompressionSetting::of(Compression::Lz4)
    };
    for shape in [staircase as Shape, pyramid] {
        let wdiffs = wdiffs(shape);
        let merge = |inputs| {
            let merge = || merge_to_sorted(inputs, io::sink(), Uuid::NIL, setting, Lb(0));
            bounded(BOUND, merge).unwrap().1
        };
        let pieces = merge(readers(&wdiffs));
        assert!(
            pieces.records_in > 10 * WDIFFS && pieces.wdiff.records > WDIFFS,
            "{pieces:?}"
        );
        let inputs = readers(&wdiffs).into_iter();
        let joined = merge(inputs.map(WdiffReader::joining_pieces).collect());
        assert!(
            joined.records_in < pieces.records_in && joined.wdiff.records <= pieces.wdiff.records,
            "{joined:?}"
        );
    }
    let wdiffs = wdiffs(pyramid);
    let inputs = readers(&wdiffs);
    let applied = bounded(BOUND, || apply_wdiffs(inputs, &Nowhere, DiscardMode::Zero, go_on)).unwrap();
    assert_eq!(applied.written, 4096 * 512);
    let base = vec![1_u8; usize::try_from(VOLUME.bytes()).unwrap()];
    let inputs = readers(&wdiffs);
    let restored = bounded(BOUND, || {
        let stream = RestoreStream::new(&base[..], inputs, DiscardMode::Zero).unwrap();
        restore_to_writer(stream, &mut io::sink(), go_on)
    })
    .unwrap();
    assert_eq!(restored.written, VOLUME.bytes());
}
