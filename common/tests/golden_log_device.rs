//! Goal: log devices left behind by the existing tools and by the kernel driver are read, extracted and redone exactly as
//! the format says. Method: every image with the facts its manifest states. Where the log ends is no matter of taste: one
//! pack more or less is lost or invented data.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::log::{check_images, header_facts, pack_facts};
use support::{Class, driver_image, each, sha256};
use walb_common::convert::{Extracted, log_device_to_wlog};
use walb_common::format::log_device::{
    Logpack, LogpackHeader, SUPER_SECTOR_OFFSET, ScanEnd, Scanner, SuperSector, SuperSectorError,
    stale_headers,
};
use walb_common::format::wlog::WlogReader;
use walb_common::types::{Lsid, PhysicalBlockSize};

fn super_block<'a>(device: &'a [u8], vector: &Value) -> (&'a [u8], PhysicalBlockSize) {
    let pbs = PhysicalBlockSize::new(vector["pbs"].as_u64().unwrap() as u32).unwrap();
    (&device[SUPER_SECTOR_OFFSET as usize..][..pbs.bytes()], pbs)
}

#[test]
fn bad_super_sectors_are_refused_for_the_right_reason() {
    each("ldev", Class::Damaged, |name, device, vector| {
        assert_eq!(vector["expect"]["verdict"], "bad-super");
        let (block, pbs) = super_block(device, vector);
        let error = SuperSector::decode(block, pbs).unwrap_err();
        println!("{name}: {error}");
        let what = name.trim_start_matches("l9.badsuper-").trim_end_matches(".ldev");
        let right = match &error {
            SuperSectorError::Checksum { .. } => what == "checksum",
            SuperSectorError::Name => what == "name",
            SuperSectorError::Lsids { .. } => what == "lsids",
            SuperSectorError::Field { field, .. } => match what {
                "type" => *field == "sector type",
                "version" => *field == "version",
                "pbs" => *field == "physical block size",
                _ => false,
            },
            SuperSectorError::Length { .. } | SuperSectorError::RingBeyondDevice { .. } => false,
        };
        assert!(right, "{name}: {error}");
    });
}

#[test]
fn log_devices_are_read_extracted_and_redone_as_by_the_existing_tools() {
    each("ldev", Class::Sound, |name, device, vector| {
        let (block, pbs) = super_block(device, vector);
        let sector = SuperSector::decode(block, pbs).unwrap();
        sector.check_fits(device.len() as u64).unwrap();
        let sum = u32::from_le_bytes(block[4..8].try_into().unwrap());
        let facts = json!({
            "pbs": sector.pbs(), "salt": sector.salt().0, "uuid": sector.uuid(), "device_name": sector.name(),
            "ring_buffer_size": sector.ring_size(), "ring_buffer_offset": sector.ring().first_pb(),
            "oldest_lsid": sector.oldest(), "written_lsid": sector.written(), "device_size_lb": sector.device_size(),
            "version": 2, "metadata_size": sector.metadata_size(), "checksum": sum,
        });
        assert_eq!(facts, vector["expect"]["super"], "{name}");
        assert_eq!(
            sector.encode(),
            block,
            "{name}: the super sector is written as it was read"
        );
        check_log(name, device, &sector, &vector["expect"]);
        check_redo(name, device, &sector, vector);
    });
}

fn scanner<'a>(device: &'a [u8], sector: &SuperSector, from: Lsid) -> Scanner<&'a [u8]> {
    Scanner::new(device, sector.ring(), sector.salt(), from)
}

fn scan(device: &[u8], sector: &SuperSector, from: Lsid) -> (Vec<Logpack>, ScanEnd) {
    let mut scanner = scanner(device, sector, from);
    let mut packs = vec![];
    while let Some(pack) = scanner.next_pack().unwrap() {
        packs.push(pack);
    }
    (packs, scanner.end().unwrap().clone())
}

fn extracted(device: &[u8], sector: &SuperSector, begin: Lsid, end: Lsid) -> (Vec<u8>, Extracted) {
    let (wlog, extracted) = log_device_to_wlog(device, sector, begin, end, Vec::new(), |_| {}).unwrap();
    (wlog.finish().unwrap(), extracted)
}

/// From the oldest lsid: headers alone, packs, and the wlog, whole and in parts.
fn check_log(name: &str, device: &[u8], sector: &SuperSector, expect: &Value) {
    let mut headers = vec![];
    let mut by_header = scanner(device, sector, sector.oldest());
    while let Some(header) = by_header.next_header().unwrap() {
        headers.push(header_facts(&header, sector.salt()));
    }
    assert_eq!(json!(headers), expect["headers_from_oldest"], "{name}");
    let end = by_header.end().unwrap().lsid();
    assert_eq!(json!(end), expect["header_end_lsid"], "{name}");

    let (packs, end) = scan(device, sector, sector.oldest());
    assert_eq!(
        pack_facts(&packs, sector.salt()),
        expect["log_from_oldest"],
        "{name}"
    );
    assert_eq!(json!(end.lsid()), expect["log_end_lsid"], "{name}");

    let (wlog, all) = extracted(device, sector, Lsid(0), Lsid::INVALID);
    assert_eq!(sha256(&wlog), expect["wlog_from_oldest_sha256"], "{name}");
    assert_eq!(
        (all.begin, all.end, all.packs),
        (sector.oldest(), end.lsid(), packs.len() as u64)
    );
    assert_eq!(all.log_end, Some(end));
    assert!(read(&wlog) == packs, "{name}: the wlog is read back");

    // Cut anywhere, inside packs too: the pack that starts below the end comes whole, and the rest continues it.
    let Some(middle) = packs.get(packs.len() / 2).map(|p| p.header().lsid()) else {
        return;
    };
    let cut = Lsid(middle.0 + 1);
    let (first, one) = extracted(device, sector, sector.oldest(), cut);
    let mut both = read(&first);
    if one.end < all.end {
        assert_eq!(one.log_end, None, "{name}: there is more log behind the cut");
        let (second, _) = extracted(device, sector, one.end, Lsid::INVALID);
        let chained = [first, second].concat();
        let wlog = WlogReader::open(&chained[..]).unwrap();
        let mut wlog = wlog.next_wlog().unwrap().unwrap();
        while let Some(pack) = wlog.next_pack().unwrap() {
            both.push(pack);
        }
    }
    assert!(both == packs, "{name}: cut at lsid {cut}");
}

fn read(wlog: &[u8]) -> Vec<Logpack> {
    let mut reader = WlogReader::open(wlog).unwrap();
    std::iter::from_fn(|| reader.next_pack().unwrap()).collect()
}

/// From the written lsid, onto a zero volume and, where there is one, onto the data device of the same instant.
fn check_redo(name: &str, device: &[u8], sector: &SuperSector, vector: &Value) {
    let expect = &vector["expect"];
    let redo = &expect["redo"];
    let (packs, end) = scan(device, sector, sector.written());
    assert_eq!(json!(end.lsid()), redo["written_lsid_after"], "{name}");
    let after = pack_facts(&packs, sector.salt());
    match &redo["headers_after_from_written"] {
        Value::Null => assert!(packs.is_empty(), "{name}"),
        expected => assert_eq!(after, *expected, "{name}"),
    }
    check_images(&packs, None, redo);
    if let Some(image) = vector["data_image"]["name"].as_str() {
        let data = driver_image(image);
        assert_eq!(vector["data_image"]["sha256"], sha256(&data), "{image}");
        let on_data = &expect["redo_on_data_image"];
        check_images(&packs, Some(&data), on_data);
        if let Some(volume) = vector["volume_sha256"].as_str() {
            assert_eq!(
                on_data["discard_zero"], volume,
                "{name}: what the writer left is what redo gives"
            );
        }
    }

    let mut verdict = "ok";
    let mut repaired = device.to_vec();
    match &end {
        ScanEnd::Torn { bad, rewrite, .. } => {
            let facts = json!({ "pack_lsid": bad.pack, "record": bad.index });
            assert_eq!(facts, expect["torn"], "{name}");
            verdict = "torn";
            if let Some(header) = rewrite {
                let block = header.encode(sector.salt());
                repaired[sector.ring().offset_of(header.lsid()) as usize..][..block.len()]
                    .copy_from_slice(&block);
            }
        }
        ScanEnd::NoHeader { .. } => assert!(expect["torn"].is_null(), "{name}"),
    }
    if overflowed(device, sector, end.lsid()) {
        verdict = "overflow";
    }
    assert_eq!(expect["verdict"], verdict, "{name}");

    let stale = stale_headers(
        &device,
        &sector.ring(),
        sector.salt(),
        sector.oldest(),
        end.lsid(),
        256,
    );
    let stale = stale.unwrap();
    if vector["stale_valid_headers_at"].is_array() {
        assert_eq!(json!(stale), vector["stale_valid_headers_at"], "{name}");
    }
    // With the header rewritten and the rest cleared, the log reads the same again and ends without a torn pack.
    for lsid in stale {
        repaired[sector.ring().offset_of(lsid) as usize..][..sector.pbs().bytes()].fill(0);
    }
    let (again, end_again) = scan(&repaired, sector, sector.written());
    assert!(again == packs, "{name}: redone twice");
    assert!(
        matches!(end_again, ScanEnd::NoHeader { lsid, .. } if lsid == end.lsid()),
        "{name}: {end_again:?}"
    );
}

/// More log than the ring holds, or the oldest of it overwritten.
fn overflowed(device: &[u8], sector: &SuperSector, latest: Lsid) -> bool {
    let (oldest, ring) = (sector.oldest(), sector.ring());
    let block = &device[ring.offset_of(oldest) as usize..][..sector.pbs().bytes()];
    latest.0 - oldest.0 > ring.size()
        || (latest > oldest && LogpackHeader::decode(block, sector.pbs(), sector.salt(), oldest).is_err())
}
