//! Goal: a conversion in stretches gives the records and data of one in memory. Method: golden logs, with stretches of every
//! size from one pack on; so many of them that intermediate diffs are merged as well.

use std::path::Path;

use walb_common::types::Compression;

use super::*;

fn convert(names: &[&str], max_io: Lb, segment_bytes: u64) -> Vec<u8> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/tests/golden");
    let paths = names.iter().map(|name| golden.join(name)).collect();
    let mut chain = Chain::open(paths, "convert").unwrap();
    let setting = CompressionSetting::of(Compression::Lz4);
    let segments = Segments::new(std::env::temp_dir(), chain.uuid(), setting);
    let (out, stats) = to_sorted(&mut chain, Vec::new(), segments, max_io, segment_bytes).unwrap();
    assert_eq!(stats.packs, chain.packs());
    out
}

#[test]
fn stretches_make_no_difference() {
    for names in [
        &["w1.p512.wlog"][..],
        &["w3.overlap.wlog"],
        &["w8.many.wlog"],
        &["c6.overlapshapes.wlog"],
        &["w7a.chain.wlog", "w7b.chain.wlog", "w7c.chain.wlog"],
    ] {
        for max_io in [Lb(0), Lb(4), Lb(2048)] {
            let whole = convert(names, max_io, u64::MAX);
            for segment_bytes in [1, 10_000, 30_000, 100_000] {
                let ours = convert(names, max_io, segment_bytes);
                assert!(
                    ours == whole,
                    "{names:?}, {max_io:?}, stretches of {segment_bytes}"
                );
            }
        }
    }
}

#[test]
fn more_stretches_than_files_may_be_open_are_merged_in_between() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/tests/golden/w8.many.wlog");
    let mut chain = Chain::open(vec![path], "convert").unwrap();
    let setting = CompressionSetting::of(Compression::Lz4);
    let mut segments = Segments::new(std::env::temp_dir(), chain.uuid(), setting);
    let mut whole = SortedConverter::new(Lb(0));
    let mut packs = Vec::new();
    while let Some(pack) = chain.next_pack().unwrap() {
        packs.push(pack);
    }
    // The same log again and again: later stretches overwrite all that earlier ones wrote.
    for pack in packs.iter().cycle().take(3 * SEGMENTS_MAX) {
        whole.add_pack(pack).unwrap();
        let mut converter = SortedConverter::new(Lb(0));
        converter.add_pack(pack).unwrap();
        segments.add(converter).unwrap();
        assert!(segments.done.len() <= SEGMENTS_MAX);
    }
    let (ours, stats) = segments.finish(Vec::new()).unwrap();
    let (whole, expected) = whole.finish(Vec::new(), chain.uuid(), setting).unwrap();
    assert_eq!(stats, expected);
    assert!(ours == whole);
}
