//! Goal: merging, applying and restoring take bounded memory, however many wdiffs there are and however their records
//! share images. Method: 120 wdiffs whose images are 1 MiB and lie across each other, every allocation counted. The
//! images, with their data decompressed, would take three times the bound.

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
const IMAGE: Lb = Lb(2048);
/// Unaligned, so that the index cuts each image into many pieces.
const SPACE: u64 = 2048 + 37;
const VOLUME: Lb = Lb(2 * SPACE + 1000);
/// What is stated: 64 MiB.
const BOUND: usize = 64 << 20;

/// One image, elsewhere in each wdiff.
fn wdiff(number: u64, data: &Bytes) -> Bytes {
    let setting = CompressionSetting::of(Compression::Lz4);
    let mut converter = IndexedConverter::new(Vec::new(), Uuid::NIL, setting, DEFAULT_MAX_IO).unwrap();
    let salt = Salt(1);
    let mut builder = LogpackBuilder::new(PhysicalBlockSize::B4096, salt, Lsid(0));
    let address = Lb(1 + number * 31 % SPACE);
    builder.push_normal(address, IMAGE, checksum(data, salt)).unwrap();
    let (header, block) = builder.finish().unwrap();
    converter
        .add_pack(&Logpack::from_stored(header, block, data.clone()))
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
    let data: Vec<u8> = (0..IMAGE.bytes())
        .map(|n| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if n / 32 % 2 == 0 { 7 } else { (noise >> 24) as u8 }
        })
        .collect();
    let data = Bytes::from(data);
    let wdiffs: Vec<Bytes> = (0..WDIFFS).map(|number| wdiff(number, &data)).collect();
    assert!(wdiffs.iter().all(|w| w.len() < 1 << 20 && w.len() > 1 << 19));
    let go_on = &mut |_| ControlFlow::Continue(());

    let setting = CompressionSetting {
        cpus: 2,
        ..CompressionSetting::of(Compression::Lz4)
    };
    let inputs = readers(&wdiffs);
    let (_, stats) = bounded(BOUND, || {
        merge_to_sorted(inputs, io::sink(), Uuid::NIL, setting, Lb(0))
    })
    .unwrap();
    assert!(stats.records_in > 10 * WDIFFS, "{stats:?}");
    let inputs = readers(&wdiffs);
    let applied = bounded(BOUND, || apply_wdiffs(inputs, &Nowhere, DiscardMode::Zero, go_on)).unwrap();
    assert!(applied.written > IMAGE.bytes());
    let base = vec![1_u8; usize::try_from(VOLUME.bytes()).unwrap()];
    let inputs = readers(&wdiffs);
    let restored = bounded(BOUND, || {
        let stream = RestoreStream::new(&base[..], inputs, DiscardMode::Zero).unwrap();
        restore_to_writer(stream, &mut io::sink(), go_on)
    })
    .unwrap();
    assert_eq!(restored.written, VOLUME.bytes());
}
