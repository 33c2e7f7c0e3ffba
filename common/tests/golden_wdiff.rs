//! Goal: wdiffs made by the existing tools are read exactly as they read them, and ours say the same as theirs. Method:
//! every golden file with the facts its manifest states: each record, the image after applying, the outcome of
//! converting and merging again.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod support;

use std::fs::File;
use std::ops::ControlFlow;

use serde_json::{Value, json};
use support::{Class, MemImage, bytes, chain, each, path};
use walb_common::convert::{
    DiscardMode, IndexedConverter, SortedConverter, WdiffForm, WdiffMerger, WlogFile, apply_wdiffs,
    convert_wlogs, image_to_indexed, image_to_sorted, merge_to_sorted,
};
use walb_common::format::log_device::Logpack;
use walb_common::format::wdiff::{
    INDEX_RECORD_SIZE, IndexedReader, Layout, ReadWdiffError, RecordKind, SortedReader, SortedWriter,
    WdiffFileName, WdiffReader, WdiffRecord,
};
use walb_common::format::wlog::WlogReader;
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};

#[test]
fn file_names_mean_what_they_mean_to_the_existing_tools() {
    let manifest = support::manifest();
    let facts = manifest["facts"]["wdiff_names"].as_array().unwrap();
    assert_eq!(facts.len(), 7);
    for fact in facts {
        let text = fact["name"].as_str().unwrap();
        let name: WdiffFileName = text.parse().unwrap();
        assert_eq!(name.to_string(), text);
        let parts = json!({
            "name": text, "timestamp": name.timestamp.compact(), "mergeable": name.mergeable,
            "compdiff": name.compare, "before": name.before, "after": name.after,
        });
        assert_eq!(&parts, fact);
    }
}

fn flags(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Normal => "--",
        RecordKind::AllZero => "Z-",
        RecordKind::Discard => "-D",
    }
}

/// The record list and the pack list as the manifest has them, read from the structures themselves.
fn facts(stored: &[u8]) -> (Value, Value) {
    let (mut records, mut packs) = (vec![], vec![]);
    if let Ok(mut reader) = SortedReader::new(stored) {
        while reader.next_record().unwrap().is_some() {
            let (pack, index) = reader.place();
            if index == 0 {
                packs.push(json!([pack.records().len(), pack.total_size(), 0]));
            }
            let r = pack.records()[index];
            let sum = format!("{:08x}", r.checksum);
            let (kind, name) = (flags(r.kind), r.compression.name());
            records.push(json!([
                r.address,
                r.blocks,
                name,
                r.data_offset,
                r.data_size,
                sum,
                kind
            ]));
        }
        packs.push(json!([0, 0, 1]));
    } else {
        let mut reader = IndexedReader::open(stored, stored.len() as u64).unwrap();
        while let Some(r) = reader.next_index_record().unwrap() {
            // As stored: existing writers leave anything in the unused flag bits, and the checksum covers it.
            let at = reader.index().index_offset as usize + records.len() * INDEX_RECORD_SIZE + 44;
            let rec_checksum = u32::from_le_bytes(stored[at..at + 4].try_into().unwrap());
            records.push(json!([
                r.address,
                r.blocks,
                r.compression.name(),
                r.data_offset,
                r.data_size,
                r.orig_blocks,
                r.io_offset,
                format!("{:08x}", r.io_checksum),
                format!("{rec_checksum:08x}"),
                flags(r.kind)
            ]));
        }
    }
    (json!(records), json!(packs))
}

fn open(name: &str) -> WdiffReader {
    WdiffReader::open(path(name)).unwrap()
}

fn reader_of(stored: Vec<u8>) -> WdiffReader {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &stored).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    WdiffReader::from_file(file, "converted").unwrap()
}

fn records(mut reader: WdiffReader) -> Vec<WdiffRecord> {
    std::iter::from_fn(|| reader.next_record().unwrap()).collect()
}

/// Address, size, kind and data: what must agree even where the stored bytes need not.
fn meaning(records: &[WdiffRecord]) -> Vec<(Lb, Lb, RecordKind, Option<bytes::Bytes>)> {
    records
        .iter()
        .map(|r| (r.address, r.blocks, r.kind(), r.raw_data().unwrap()))
        .collect()
}

fn check_images(inputs: impl Fn() -> Vec<WdiffReader>, facts: &Value) {
    for (key, mode) in [
        ("discard_zero", DiscardMode::Zero),
        ("discard_ignore", DiscardMode::Ignore),
    ] {
        let Some(expected) = facts[key].as_str() else {
            continue;
        };
        let image = MemImage::zero(facts["volume_bytes"].as_u64().unwrap());
        apply_wdiffs(inputs(), &image, mode, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(image.sha256(), expected, "{key}");
    }
}

fn check_reading(name: &str, stored: &[u8], vector: &Value) {
    let expect = &vector["expect"];
    let reader = open(name);
    let layout = match reader.header().layout {
        Layout::Sorted => "sorted",
        Layout::Indexed => "indexed",
    };
    let sum = u32::from_le_bytes(reader.header().encode()[..4].try_into().unwrap());
    assert_eq!(
        json!({ "checksum": format!("{sum:08x}"), "version": 2, "type": layout, "uuid": reader.uuid() }),
        expect["header"],
        "{name}"
    );
    let (records, packs) = facts(stored);
    assert_eq!(records, expect["records"], "{name}");
    if expect["packs"].is_array() {
        assert_eq!(packs, expect["packs"], "{name}");
    }
    reader.verify().unwrap();
    let images = &expect["apply_to_zero_image_sha256"];
    // Its discards reach 2^32 blocks far; no image was made of it.
    assert_eq!(images.is_null(), name.starts_with("c4.x0."), "{name}");
    if !images.is_null() {
        check_images(|| vec![open(name)], images);
    }
}

#[test]
fn wdiffs_are_read_as_by_the_existing_tools() {
    each("wdiff", Class::Sound, check_reading);
    each("wdiff-merge", Class::Sound, check_reading);
}

fn packs_of(name: &str) -> (Uuid, Vec<Logpack>) {
    let mut packs = vec![];
    let mut reader = Some(WlogReader::open(File::open(path(name)).unwrap()).unwrap());
    let mut uuid = Uuid::NIL;
    while let Some(mut wlog) = reader {
        uuid = wlog.header().uuid;
        while let Some(pack) = wlog.next_pack().unwrap() {
            packs.push(pack);
        }
        reader = wlog.next_wlog().unwrap();
    }
    (uuid, packs)
}

#[test]
fn converting_a_wlog_gives_the_wdiff_the_existing_tools_made_of_it() {
    let mut converted = 0;
    each("wdiff", Class::Sound, |name, _, vector| {
        let Some(source) = vector["source"].as_str() else {
            return;
        };
        converted += 1;
        let (uuid, packs) = packs_of(source);
        let max_io = Lb(vector["max_io_bytes"].as_u64().unwrap() / 512);
        let golden = open(name);
        assert_eq!(golden.uuid(), uuid);
        let setting = CompressionSetting::of(Compression::Snappy);
        let ours = if golden.header().layout == Layout::Indexed {
            let mut converter = IndexedConverter::new(Vec::new(), uuid, setting, max_io)
                .unwrap()
                .cut_dataless();
            for p in &packs {
                converter.add_pack(p).unwrap();
            }
            let ours = converter.finish().unwrap().0;
            // Address, size, original size, offset in it, kind.
            let pick = |stored: &[u8]| -> Vec<Value> {
                let list = facts(stored).0;
                list.as_array()
                    .unwrap()
                    .iter()
                    .map(|r| json!([r[0], r[1], r[5], r[6], r[9]]))
                    .collect()
            };
            assert_eq!(pick(&ours), pick(&bytes(name)), "{name}");
            ours
        } else {
            let mut converter = SortedConverter::new(max_io);
            for p in &packs {
                converter.add_pack(p).unwrap();
            }
            converter.finish(Vec::new(), uuid, setting).unwrap().0
        };
        let layout = golden.header().layout;
        let form = WdiffForm {
            layout,
            setting: CompressionSetting { cpus: 2, ..setting },
            max_io,
            cut_dataless: true,
        };
        let log = [WlogFile::open(path(source)).unwrap()];
        let (two_passes, _) =
            convert_wlogs(&log, Vec::new(), form, &mut |_| ControlFlow::Continue(())).unwrap();
        let two_passes = meaning(&records(reader_of(two_passes)));
        let (ours, golden) = (meaning(&records(reader_of(ours))), meaning(&records(golden)));
        assert!(two_passes == golden, "{name} in two passes");
        assert!(
            ours == golden,
            "{name}: {} records, expected {}",
            ours.len(),
            golden.len()
        );
    });
    assert_eq!(converted, 25);
}

#[test]
fn merging_wdiffs_gives_what_the_existing_tools_made_of_them() {
    each("wdiff-merge", Class::Sound, |name, _, vector| {
        let names: Vec<&str> = vector["inputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i.as_str().unwrap())
            .collect();
        let inputs = || names.iter().map(|n| open(n)).collect::<Vec<_>>();
        let max_io = Lb(vector["max_io_bytes"].as_u64().unwrap() / 512);
        let mut merger = WdiffMerger::new(inputs(), max_io).unwrap();
        let merged: Vec<_> = std::iter::from_fn(|| merger.next_record().unwrap()).collect();
        let golden = meaning(&records(open(name)));
        assert!(
            meaning(&merged) == golden,
            "{name}: {} records, expected {}",
            merged.len(),
            golden.len()
        );
        for kind in Compression::ALL {
            let setting = CompressionSetting::of(kind);
            let (stored, _) = merge_to_sorted(inputs(), Vec::new(), Uuid::NIL, setting, max_io).unwrap();
            assert!(
                meaning(&records(reader_of(stored))) == golden,
                "{name} as {kind:?}"
            );
        }
        check_images(
            inputs,
            &json!({
                "volume_bytes": vector["expect"]["apply_to_zero_image_sha256"]["volume_bytes"],
                "discard_zero": vector["expect"]["apply_to_zero_image_sha256"]["discard_zero"],
            }),
        );
    });
}

/// The image that a golden wdiff of a full image was made from: as its digest says, the one that applying it gives.
fn image_of(name: &str, bytes: u64) -> Vec<u8> {
    let image = MemImage::zero(bytes);
    apply_wdiffs(vec![open(name)], &image, DiscardMode::Zero, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    image.0.into_inner()
}

#[test]
fn an_image_becomes_the_wdiff_that_the_existing_tools_make_of_it() {
    let setting = CompressionSetting::of(Compression::Snappy);
    for (name, bytes, io_size) in [
        ("full.sorted.wdiff", 1_050_112, Lb(128)),
        ("full.indexed.wdiff", 1_050_112, Lb(128)),
        ("big.packlimit.sorted.wdiff", 40 << 20, Lb(2048)),
    ] {
        let image = image_of(name, bytes);
        let make = if open(name).header().layout == Layout::Indexed {
            image_to_indexed
        } else {
            image_to_sorted
        };
        let (ours, stats) = make(&image[..], Vec::new(), Uuid::NIL, setting, io_size).unwrap();
        assert_eq!(stats.bytes, ours.len() as u64);
        let without_bytes = |stored: &[u8], indexed: &[usize]| -> Vec<Value> {
            let list = facts(stored).0;
            let pick = |r: &Value| indexed.iter().map(|i| r[i].clone()).collect();
            list.as_array().unwrap().iter().map(pick).collect()
        };
        // Address, size, original size, offset in it, kind; what was compressed depends on the library.
        let columns: &[usize] = match open(name).header().layout {
            Layout::Indexed => &[0, 1, 5, 6, 9],
            Layout::Sorted => &[0, 1, 6],
        };
        let golden = support::bytes(name);
        assert_eq!(
            without_bytes(&ours, columns),
            without_bytes(&golden, columns),
            "{name}"
        );
        assert!(
            meaning(&records(reader_of(ours))) == meaning(&records(open(name))),
            "{name}"
        );
    }
}

/// Reads every record and writes it again, its data as they are stored.
fn rewritten(stored: &[u8]) -> Vec<u8> {
    if let Ok(mut reader) = SortedReader::new(stored) {
        let uuid = reader.header().uuid;
        let kinds: Vec<Value> = facts(stored).0.as_array().unwrap().clone();
        let kind = kinds
            .iter()
            .map(|r| r[2].as_str().unwrap())
            .find(|k| *k != "none");
        let kind = kind.unwrap_or("none").parse().unwrap();
        let mut writer = SortedWriter::new(Vec::new(), uuid, CompressionSetting::of(kind)).unwrap();
        while let Some(record) = reader.next_record().unwrap() {
            writer.write(&record).unwrap();
        }
        return writer.finish().unwrap().0;
    }
    let mut reader = IndexedReader::open(stored, stored.len() as u64).unwrap();
    let mut out = stored[..reader.index().index_offset as usize].to_vec();
    while let Some(record) = reader.next_index_record().unwrap() {
        out.extend_from_slice(&record.encode());
    }
    out.extend_from_slice(&reader.index().encode());
    out
}

#[test]
fn wdiffs_are_written_as_they_were_read() {
    let check = |name: &str, stored: &[u8], _: &Value| {
        let ours = rewritten(stored);
        match name {
            // The flags there have bits set that mean nothing; we write 0.
            "full.indexed.wdiff" => {
                assert_eq!(meaning(&records(reader_of(ours))), meaning(&records(open(name))));
            }
            // Its packs are cut by uncompressed size.
            "big.packlimit.sorted.wdiff" => assert_eq!(facts(&ours).1, json!([[40, 4280, 0], [0, 0, 1]])),
            _ => assert!(ours == stored, "{name}"),
        }
    };
    each("wdiff", Class::Sound, check);
    each("wdiff-merge", Class::Sound, check);
}

#[test]
fn without_compression_the_very_bytes_of_the_existing_tools_are_written() {
    let golden = bytes("c1.cmpr-none.sorted.wdiff");
    let setting = CompressionSetting::of(Compression::None);
    let input = || vec![open("c1.shortio.p4096.sorted.wdiff")];
    let merged = merge_to_sorted(input(), Vec::new(), Uuid::NIL, setting, Lb(0)).unwrap();
    assert!(merged.0 == golden, "merged");
    let mut converter = SortedConverter::new(Lb(2048));
    for pack in packs_of("c1.shortio.p4096.wlog").1 {
        converter.add_pack(&pack).unwrap();
    }
    let converted = converter.finish(Vec::new(), Uuid::NIL, setting).unwrap();
    assert!(converted.0 == golden, "converted");
}

/// The manifest's word for what is wrong.
fn verdict(error: &ReadWdiffError) -> &'static str {
    match error {
        ReadWdiffError::Checksum { part, .. } | ReadWdiffError::Field { part, .. } => match *part {
            "file header" => "bad-file-header",
            "pack header" => "bad-pack",
            "record" | "index record" => "bad-record",
            "index super" => "bad-index-super",
            "data" | "image" => "bad-data",
            _ => "something else",
        },
        ReadWdiffError::Order { .. } => "bad-record",
        ReadWdiffError::Decompress { .. } => "bad-data",
        ReadWdiffError::Truncated { .. } => "truncated",
        ReadWdiffError::MissingEndPack { .. } => "missing-end-pack",
        ReadWdiffError::Io { .. } | ReadWdiffError::Trailing { .. } => "something else",
    }
}

#[test]
fn damaged_wdiffs_are_refused_for_the_right_reason() {
    each("wdiff", Class::Damaged, |name, _, vector| {
        let error = WdiffReader::open(path(name))
            .and_then(WdiffReader::verify)
            .unwrap_err();
        let text = chain(&error);
        println!("{name}: {text}");
        assert_eq!(
            vector["expect"]["verdict"],
            verdict(&error.source),
            "{name}: {text}"
        );
        assert!(
            text.contains(name) && text.contains(" at byte "),
            "the file and the place are named: {text}"
        );
    });
}
