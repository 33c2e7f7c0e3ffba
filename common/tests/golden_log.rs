//! Goal: logs and wlogs made by the existing tools and driver are read exactly as they read them. Method: every golden
//! file with the facts its manifest states: each header and record, the image after applying, where the log ends.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{MemImage, bytes, chain, each, sha256};
use walb_common::convert::ImageTarget;
use walb_common::format::checksum::{Salt, checksum};
use walb_common::format::log_device::{
    Logpack, LogpackHeader, RecordKind, SUPER_SECTOR_OFFSET, ScanEnd, Scanner, SuperSector,
};
use walb_common::format::wlog::{LogpackParser, Parsed, WlogFileHeader, WlogReader, WlogWriter};
use walb_common::types::{Lsid, PhysicalBlockSize};

#[test]
fn checksums_are_those_of_the_existing_tools() {
    for fact in support::manifest()["facts"]["checksums"].as_array().unwrap() {
        let hex = fact["data_hex"].as_str().unwrap();
        let data: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect();
        let salt = Salt(fact["salt"].as_u64().unwrap() as u32);
        assert_eq!(
            u64::from(checksum(&data, salt)),
            fact["checksum"].as_u64().unwrap()
        );
    }
}

fn header_facts(header: &LogpackHeader, salt: Salt) -> Value {
    let block = header.encode(salt);
    let records: Vec<Value> = header
        .records()
        .iter()
        .map(|r| {
            let flags = match r.kind {
                RecordKind::Normal => "E--",
                RecordKind::Padding => "EP-",
                RecordKind::Discard => "E-D",
            };
            let sum = format!("{:08x}", r.checksum);
            json!([r.lsid, r.lsid_local, r.offset, r.size, flags, sum])
        })
        .collect();
    let n_padding = header
        .records()
        .iter()
        .filter(|r| r.kind == RecordKind::Padding)
        .count();
    let sum = u32::from_le_bytes(block[..4].try_into().unwrap());
    json!({
        "lsid": header.lsid(), "total_io_size": header.total_io_pb(), "n_records": header.records().len(),
        "n_padding": n_padding, "checksum": format!("{sum:08x}"), "records": records,
    })
}

fn apply(pack: &Logpack, image: &MemImage, discards_as_zeros: bool) {
    let size = image.size().unwrap();
    for (record, data) in pack.records() {
        // The existing tools skip what reaches beyond the end, as a whole.
        if record.offset.bytes().saturating_add(record.size.bytes()) > size {
            continue;
        }
        match record.kind {
            RecordKind::Normal => image.write_at(&data, record.offset.bytes()).unwrap(),
            RecordKind::Discard if discards_as_zeros => {
                image.fill(0, record.offset.bytes(), record.size.bytes());
            }
            RecordKind::Discard | RecordKind::Padding => {}
        }
    }
}

fn check_images(packs: &[Logpack], facts: &Value) {
    for (mode, zeros) in [("discard_zero", true), ("discard_ignore", false)] {
        let Some(expected) = facts[mode].as_str() else {
            continue;
        };
        let image = MemImage::zero(facts["volume_bytes"].as_u64().unwrap());
        for p in packs {
            apply(p, &image, zeros);
        }
        assert_eq!(image.sha256(), expected, "{mode}");
    }
}

#[test]
fn wlogs_are_read_and_written_as_by_the_existing_tools() {
    each(&["wlog"], |name, vector| {
        let expect = &vector["expect"];
        if expect["verdict"].is_string() {
            return;
        }
        let stored = bytes(name);
        let mut reader = WlogReader::open(&stored[..]).unwrap();
        let header = *reader.header();
        assert_eq!(
            json!({ "version": 2, "pbs": header.pbs, "salt": header.salt.0, "uuid": header.uuid,
                    "begin_lsid": header.begin, "end_lsid": header.end }),
            expect["header"]
        );
        let mut packs = vec![];
        while let Some(pack) = reader.next_pack().unwrap() {
            packs.push(pack);
        }
        let facts: Vec<Value> = packs
            .iter()
            .map(|p| header_facts(p.header(), header.salt))
            .collect();
        assert_eq!(json!(facts), expect["packs"], "{name}");
        assert_eq!(json!(reader.next_lsid()), expect["real_end_lsid"]);
        check_images(&packs, &expect["apply_to_zero_image_sha256"]);

        let mut writer = WlogWriter::new(Vec::new(), header).unwrap();
        for p in &packs {
            writer.write(p).unwrap();
        }
        assert!(
            writer.finish().unwrap() == stored,
            "{name} is written as it was read"
        );
        assert_eq!(
            parsed_in_chunks(&stored, &header),
            packs,
            "{name} through the parser"
        );
    });
}

fn parsed_in_chunks(stored: &[u8], header: &WlogFileHeader) -> Vec<Logpack> {
    let mut parser = LogpackParser::new(header.pbs, header.salt, header.begin);
    let mut packs = vec![];
    for chunk in stored[4096..].chunks(1777) {
        parser.push(bytes::Bytes::copy_from_slice(chunk));
        while let Parsed::Pack(pack) = parser.next().unwrap() {
            packs.push(pack);
        }
    }
    parser.finish().unwrap();
    packs
}

#[test]
fn concatenated_wlogs_are_read_through() {
    each(&["wlog-stream"], |name, vector| {
        let stored = bytes(name);
        let mut packs = vec![];
        let mut reader = Some(WlogReader::open(&stored[..]).unwrap());
        let mut parts = 0;
        while let Some(mut wlog) = reader {
            while let Some(pack) = wlog.next_pack().unwrap() {
                packs.push(pack);
            }
            parts += 1;
            reader = wlog.next_wlog().unwrap();
        }
        assert_eq!(parts, vector["expect"]["parts"].as_array().unwrap().len());
        check_images(&packs, &vector["expect"]["apply_to_zero_image_sha256"]);
    });
}

#[test]
fn damaged_wlogs_are_refused_for_the_right_reason() {
    each(&["wlog"], |name, vector| {
        let Some(verdict) = vector["expect"]["verdict"].as_str() else {
            return;
        };
        let stored = bytes(name);
        let read = || {
            let mut reader = WlogReader::open(&stored[..])?;
            while reader.next_pack()?.is_some() {}
            Ok::<_, walb_common::format::wlog::ReadWlogError>(())
        };
        let text = chain(&read().unwrap_err());
        println!("{name}: {text}");
        let says = match verdict {
            "bad-file-header" => "wlog file header is damaged",
            "bad-pack-header" => "header of logpack",
            "bad-data-checksum" => "data of record",
            "missing-end-block" => "without an end block",
            "truncated" => "wlog ends inside",
            other => panic!("unknown verdict {other}"),
        };
        assert!(text.contains(says), "{name} ({verdict}): {text}");
    });
}

#[test]
fn log_devices_are_scanned_and_redone_as_by_the_existing_tools() {
    each(&["ldev"], |name, vector| {
        let (device, expect) = (bytes(name), &vector["expect"]);
        let pbs = PhysicalBlockSize::new(vector["pbs"].as_u64().unwrap_or(512) as u32).unwrap();
        let block = &device[SUPER_SECTOR_OFFSET as usize..][..pbs.bytes()];
        let verdict = expect["verdict"].as_str().unwrap();
        let sector = match SuperSector::decode(block, pbs) {
            Ok(sector) => sector,
            Err(e) => {
                println!("{name}: {e}");
                assert_eq!(verdict, "bad-super", "{name}: {e}");
                return;
            }
        };
        assert_ne!(verdict, "bad-super", "{name}");
        sector.check_fits(device.len() as u64).unwrap();
        let sum = u32::from_le_bytes(block[4..8].try_into().unwrap());
        let super_facts = json!({
            "pbs": sector.pbs(), "salt": sector.salt().0, "uuid": sector.uuid(), "device_name": sector.name(),
            "ring_buffer_size": sector.ring_size(), "ring_buffer_offset": sector.ring().first_pb(),
            "oldest_lsid": sector.oldest(), "written_lsid": sector.written(), "device_size_lb": sector.device_size(),
            "version": 2, "metadata_size": sector.metadata_size(), "checksum": sum,
        });
        assert_eq!(super_facts, expect["super"], "{name}");
        assert_eq!(
            sector.encode(),
            block,
            "{name}: the super sector is written as it was read"
        );
        check_scan(name, &device, &sector, expect);
    });
}

fn check_scan(name: &str, device: &[u8], sector: &SuperSector, expect: &Value) {
    let facts = |h: &LogpackHeader| header_facts(h, sector.salt());
    let scan = |from| Scanner::new(device, sector.ring(), sector.salt(), from);
    let mut headers = vec![];
    let mut scanner = scan(sector.oldest());
    while let Some(header) = scanner.next_header().unwrap() {
        headers.push(facts(&header));
    }
    assert_eq!(json!(headers), expect["headers_from_oldest"], "{name}");
    assert_eq!(
        json!(scanner.end().unwrap().lsid()),
        expect["header_end_lsid"],
        "{name}"
    );

    let whole = |from| {
        let mut scanner = scan(from);
        let mut packs = vec![];
        while let Some(pack) = scanner.next_pack().unwrap() {
            packs.push(pack);
        }
        let end = scanner.end().unwrap().clone();
        (packs, end)
    };
    let (packs, end) = whole(sector.oldest());
    let log: Vec<Value> = packs.iter().map(|p| facts(p.header())).collect();
    assert_eq!(json!(log), expect["log_from_oldest"], "{name}");
    assert_eq!(json!(end.lsid()), expect["log_end_lsid"], "{name}");
    let header = WlogFileHeader {
        pbs: sector.pbs(),
        salt: sector.salt(),
        uuid: sector.uuid(),
        begin: sector.oldest(),
        end: Lsid::INVALID,
    };
    let mut wlog = WlogWriter::new(Vec::new(), header).unwrap();
    for p in &packs {
        wlog.write(p).unwrap();
    }
    assert_eq!(
        sha256(&wlog.finish().unwrap()),
        expect["wlog_from_oldest_sha256"],
        "{name}"
    );

    let (packs, end) = whole(sector.written());
    let redo = &expect["redo"];
    assert_eq!(json!(end.lsid()), redo["written_lsid_after"], "{name}");
    if redo["headers_after_from_written"].is_array() {
        let after: Vec<Value> = packs.iter().map(|p| facts(p.header())).collect();
        assert_eq!(json!(after), redo["headers_after_from_written"], "{name}");
    }
    check_images(&packs, redo);
    match &end {
        ScanEnd::Torn { bad, .. } => {
            assert_eq!(
                json!({ "pack_lsid": bad.pack, "record": bad.index }),
                expect["torn"],
                "{name}"
            );
        }
        ScanEnd::NoHeader { .. } => assert!(expect["torn"].is_null(), "{name}"),
    }
}
