//! Goal: wdiffs made by the existing tools are read exactly as they read them, and ours say the same as theirs. Method:
//! every golden file with the facts its manifest states: each record, the image after applying, the outcome of
//! converting and merging again.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod support;

use std::fs::File;
use std::ops::ControlFlow;

use serde_json::{Value, json};
use support::{MemImage, bytes, chain, each, path};
use walb_common::convert::{
    DiscardMode, IndexedConverter, SortedConverter, WdiffMerger, apply_wdiffs, merge_to_sorted,
};
use walb_common::format::log_device::Logpack;
use walb_common::format::wdiff::{
    INDEX_RECORD_SIZE, IndexedReader, Layout, RecordKind, SortedReader, WdiffFileName, WdiffReader,
    WdiffRecord,
};
use walb_common::format::wlog::WlogReader;
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};

#[test]
fn file_names_mean_what_they_mean_to_the_existing_tools() {
    for fact in support::manifest()["facts"]["wdiff_names"].as_array().unwrap() {
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

#[test]
fn wdiffs_are_read_as_by_the_existing_tools() {
    each(&["wdiff", "wdiff-merge"], |name, vector| {
        let expect = &vector["expect"];
        if expect["verdict"].is_string() {
            return;
        }
        let (stored, reader) = (bytes(name), open(name));
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
        let (records, packs) = facts(&stored);
        assert_eq!(records, expect["records"], "{name}");
        if expect["packs"].is_array() {
            assert_eq!(packs, expect["packs"], "{name}");
        }
        reader.verify().unwrap();
        check_images(|| vec![open(name)], &expect["apply_to_zero_image_sha256"]);
    });
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
    each(&["wdiff"], |name, vector| {
        let Some(source) = vector["source"].as_str().filter(|s| path(s).exists()) else {
            return;
        };
        if vector["expect"]["verdict"].is_string() {
            return;
        }
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
        let (ours, golden) = (meaning(&records(reader_of(ours))), meaning(&records(golden)));
        assert!(
            ours == golden,
            "{name}: {} records, expected {}",
            ours.len(),
            golden.len()
        );
    });
}

#[test]
fn merging_wdiffs_gives_what_the_existing_tools_made_of_them() {
    each(&["wdiff-merge"], |name, vector| {
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

#[test]
fn damaged_wdiffs_are_refused_for_the_right_reason() {
    each(&["wdiff"], |name, vector| {
        let Some(verdict) = vector["expect"]["verdict"].as_str() else {
            return;
        };
        let error = WdiffReader::open(path(name))
            .and_then(WdiffReader::verify)
            .unwrap_err();
        let text = chain(&error);
        println!("{name}: {text}");
        assert!(text.contains(name), "the file is named: {text}");
        let says = match verdict {
            "bad-file-header" => "file header",
            "bad-pack" => "pack header",
            "bad-record" => "record at byte",
            "bad-data" => "checksum",
            "missing-end-pack" => "without an end pack",
            "truncated" => "inside its data",
            "bad-index-super" => "index super",
            other => panic!("unknown verdict {other}"),
        };
        assert!(text.contains(says), "{name} ({verdict}): {text}");
    });
}
