//! Goal: two passes over files give what one pass with everything in memory gives, on any number of threads.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::convert::{IndexedConverter, SortedConverter};
use crate::format::checksum::Salt;
use crate::format::log_device::{Logpack, RecordKind as LogRecordKind};
use crate::format::wdiff::{RecordKind, WdiffReader};
use crate::testing::{Io, logpacks, random_ios, wdiff_reader, wlog};
use crate::types::{Compression, Lsid, PhysicalBlockSize, Uuid};

const UUID: Uuid = Uuid([5; 16]);
const SALT: Salt = Salt(77);

fn nonstop(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn packs(seed: u64, pbs: PhysicalBlockSize, count: usize) -> Vec<Logpack> {
    logpacks(&random_ios(seed, Lb(400), count), pbs, SALT, Lsid(3), 7)
}

/// The packs as one wlog, or as two one after the other if `cut` is inside.
fn stored(packs: &[Logpack], pbs: PhysicalBlockSize, cut: usize) -> Vec<u8> {
    let (first, second) = packs.split_at(cut.min(packs.len()));
    let mut stored = Vec::new();
    for part in [first, second] {
        if !part.is_empty() || (packs.is_empty() && stored.is_empty()) {
            let begin = part.first().map_or(Lsid(3), |p| p.header().lsid());
            stored.extend(wlog(part, pbs, SALT, UUID, begin));
        }
    }
    stored
}

fn file(stored: &[u8], name: &str) -> WlogFile {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(stored).unwrap();
    WlogFile::from_file(file, name).unwrap()
}

fn form(layout: Layout, max_io: u64, cpus: u16) -> WdiffForm {
    WdiffForm {
        layout,
        setting: CompressionSetting {
            kind: Compression::Lz4,
            level: 0,
            cpus,
        },
        max_io: Lb(max_io),
        cut_dataless: true,
    }
}

type Facts = Vec<(Lb, Lb, RecordKind, Option<bytes::Bytes>)>;

fn facts(stored: Vec<u8>) -> (Uuid, Facts) {
    let mut reader: WdiffReader = wdiff_reader(stored);
    let uuid = reader.uuid();
    let records = std::iter::from_fn(|| reader.next_record().unwrap());
    (
        uuid,
        records
            .map(|r| (r.address, r.blocks, r.kind(), r.raw_data().unwrap()))
            .collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_passes_give_what_one_pass_gives(
        seed: u64, count in 0usize..80, max_io in 0u64..40, cut in 0usize..20, cpus in 1u16..4, small: bool,
    ) {
        let pbs = if small { PhysicalBlockSize::B512 } else { PhysicalBlockSize::B4096 };
        let packs = packs(seed, pbs, count);
        let log = [file(&stored(&packs, pbs, cut), "a.wlog")];
        let setting = CompressionSetting::of(Compression::None);
        let mut sorted = SortedConverter::new(Lb(max_io));
        let mut indexed = IndexedConverter::new(Vec::new(), UUID, setting, Lb(max_io)).unwrap().cut_dataless();
        for pack in &packs {
            sorted.add_pack(pack).unwrap();
            indexed.add_pack(pack).unwrap();
        }
        let (expected, expected_stats) = sorted.finish(Vec::new(), UUID, setting).unwrap();
        let (ours, converted) = convert_wlogs(&log, Vec::new(), form(Layout::Sorted, max_io, cpus), &mut nonstop).unwrap();
        prop_assert_eq!(converted.stats.wdiff.bytes, ours.len() as u64);
        prop_assert_eq!((converted.stats.packs, converted.stats.wdiff.records), (expected_stats.packs, expected_stats.wdiff.records));
        prop_assert!(facts(ours) == facts(expected));
        let (expected, expected_stats) = indexed.finish().unwrap();
        let (ours, converted) = convert_wlogs(&log, Vec::new(), form(Layout::Indexed, max_io, cpus), &mut nonstop).unwrap();
        prop_assert_eq!(converted.stats.wdiff.bytes, ours.len() as u64);
        prop_assert_eq!(converted.stats.wdiff.records, expected_stats.wdiff.records);
        prop_assert!(facts(ours) == facts(expected));
    }
}

#[test]
fn what_does_not_survive_is_not_stored() {
    let pbs = PhysicalBlockSize::B512;
    let data = |seed: u8| {
        bytes::Bytes::from(
            (0..4096u32)
                .map(|i| ((i * i) >> 3) as u8 ^ seed)
                .collect::<Vec<_>>(),
        )
    };
    let write = |seed| Io::Write {
        address: Lb(8),
        data: data(seed),
    };
    let many: Vec<_> = (1..50).map(write).collect();
    let none = CompressionSetting::of(Compression::None);
    let form = WdiffForm {
        setting: none,
        ..form(Layout::Indexed, 0, 1)
    };
    let log = [file(
        &stored(&logpacks(&many, pbs, SALT, Lsid(3), 7), pbs, 0),
        "a.wlog",
    )];
    let (stored, converted) = convert_wlogs(&log, Vec::new(), form, &mut nonstop).unwrap();
    assert!(stored.len() < 2 * 4096, "{} bytes", stored.len());
    assert_eq!((converted.stats.ios, converted.stats.wdiff.records), (49, 1));
    assert_eq!(facts(stored).1[0].3, Some(data(49)));
}

#[test]
fn damage_is_told_with_file_and_place_and_the_first_in_the_log_wins() {
    let pbs = PhysicalBlockSize::B512;
    let packs = packs(9, pbs, 200);
    let whole = stored(&packs, pbs, 0);
    let pack = packs.iter().rposition(|p| !p.data().is_empty()).unwrap();
    let at: usize = 4096 + packs[..pack].iter().map(Logpack::stored_bytes).sum::<usize>();
    for cpus in [1, 3] {
        for layout in [Layout::Sorted, Layout::Indexed] {
            let refused = |bytes: &[u8]| {
                let log = [file(bytes, "bad.wlog")];
                let error = convert_wlogs(&log, Vec::new(), form(layout, 0, cpus), &mut nonstop).unwrap_err();
                crate::daemon::chain(&error)
            };
            let mut bad = whole.clone();
            bad[at] ^= 1;
            let error = refused(&bad);
            assert!(
                error.contains("bad.wlog") && error.contains(&packs[pack].header().lsid().to_string()),
                "{error}"
            );
            // Damage in data before it comes first, though headers are walked ahead.
            let records = packs[0].header().records();
            if let Some(record) = records.iter().find(|r| r.kind == LogRecordKind::Normal) {
                bad[4096 + 512 + packs[0].header().data_range(record).start] ^= 1;
                assert!(refused(&bad).contains("data of record"), "{}", refused(&bad));
            }
            assert!(refused(&whole[..whole.len() - 512]).contains("without an end block"));
            assert!(refused(&whole[..at + 100]).contains("ends inside logpack"));
        }
    }
}

#[test]
fn a_conversion_can_be_stopped() {
    let pbs = PhysicalBlockSize::B512;
    let log = [file(&stored(&packs(1, pbs, 50), pbs, 0), "a.wlog")];
    for cpus in [1, 2] {
        let form = form(Layout::Sorted, 0, cpus);
        let error = convert_wlogs(&log, Vec::new(), form, &mut |_| ControlFlow::Break(())).unwrap_err();
        assert!(matches!(error, ConvertWlogError::Stopped), "{error}");
    }
}
