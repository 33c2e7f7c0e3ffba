//! Goal: whatever path the writes take - converted in either layout, merged or not - the image ends with the bytes a
//! plain volume has. Method: compare with a volume in memory, and merges with the overlay rules taken literally.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::overlay::{Cut, Overlay};
use super::*;
use crate::format::wdiff::{Content, RecordKind, WdiffReader, WdiffRecord};
use crate::testing::{Io, MemImage, indexed_wdiff, random_ios, sorted_wdiff, wdiff_reader};
use crate::types::{Compression, CompressionSetting, Lb, Uuid};

const SIZE: Lb = Lb(300);

fn nonstop(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn stored(ios: &[Io], indexed: bool, max_io: Lb) -> Vec<u8> {
    let kind = Compression::Snappy;
    if indexed {
        indexed_wdiff(ios, Uuid::NIL, kind, max_io)
    } else {
        sorted_wdiff(ios, Uuid::NIL, kind, max_io)
    }
}

fn records(mut next: impl FnMut() -> Option<WdiffRecord>) -> Vec<(Lb, Lb, RecordKind, Option<bytes::Bytes>)> {
    std::iter::from_fn(&mut next)
        .map(|r| (r.address, r.blocks, r.kind(), r.raw_data().unwrap()))
        .collect()
}

/// The merge rules of the format, literally: everything in memory, oldest input first.
fn merged_literally(
    inputs: Vec<WdiffReader>,
    max_io: u64,
) -> Vec<(Lb, Lb, RecordKind, Option<bytes::Bytes>)> {
    let mut overlay: Overlay<Content> = Overlay::new(Cut::Chunks(max_io));
    for mut input in inputs {
        while let Some(record) = input.next_record().unwrap() {
            overlay.add(record.address.0, record.blocks.0, record.content);
        }
    }
    let mut pieces = overlay.into_pieces();
    records(|| {
        let placed = pieces.next()?;
        Some(WdiffRecord {
            address: Lb(placed.address),
            blocks: Lb(placed.blocks),
            content: placed.piece,
        })
    })
}

fn any_chain() -> impl Strategy<Value = Vec<(Vec<Io>, bool)>> {
    proptest::collection::vec((any::<u64>(), 0usize..25, any::<bool>()), 1..6).prop_map(|wdiffs| {
        wdiffs
            .into_iter()
            .map(|(seed, count, indexed)| (random_ios(seed, SIZE, count), indexed))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn applying_what_was_converted_equals_writing(chain in any_chain(), max_io in 0u64..50) {
        for discard in [DiscardMode::Zero, DiscardMode::Passdown] {
            let (model, image) = (MemImage::filled(SIZE, 9), MemImage::filled(SIZE, 9));
            for (ios, indexed) in &chain {
                for io in ios {
                    model.apply(io, false);
                }
                let input = wdiff_reader(stored(ios, *indexed, Lb(max_io)));
                apply_wdiffs(vec![input], &image, discard, &mut nonstop).unwrap();
            }
            prop_assert!(*model.bytes() == *image.bytes(), "{discard:?}");
        }
    }

    #[test]
    fn applying_many_at_once_equals_applying_one_by_one(chain in any_chain()) {
        let inputs = || -> Vec<Vec<u8>> { chain.iter().map(|(ios, i)| stored(ios, *i, DEFAULT_MAX_IO)).collect() };
        for discard in [DiscardMode::Zero, DiscardMode::Ignore] {
            let (one_by_one, at_once) = (MemImage::filled(SIZE, 9), MemImage::filled(SIZE, 9));
            for input in inputs() {
                apply_wdiffs(vec![wdiff_reader(input)], &one_by_one, discard, &mut nonstop).unwrap();
            }
            let all = inputs().into_iter().map(wdiff_reader).collect();
            apply_wdiffs(all, &at_once, discard, &mut nonstop).unwrap();
            prop_assert!(*one_by_one.bytes() == *at_once.bytes(), "{discard:?}");
        }
    }

    #[test]
    fn a_streaming_merge_gives_the_records_of_the_literal_rules(chain in any_chain(), max_io in 0u64..50) {
        let inputs = || -> Vec<WdiffReader> {
            chain.iter().map(|(ios, i)| wdiff_reader(stored(ios, *i, Lb(0)))).collect()
        };
        let literal = merged_literally(inputs(), max_io);
        let mut merger = WdiffMerger::new(inputs(), Lb(max_io)).unwrap();
        let streamed = records(|| merger.next_record().unwrap());
        prop_assert!(streamed == literal, "streamed {} records, literal {}", streamed.len(), literal.len());
        for kind in [Compression::Snappy, Compression::Zstd, Compression::None] {
            let setting = CompressionSetting::of(kind);
            let (file, stats) = merge_to_sorted(inputs(), Vec::new(), Uuid::NIL, setting, Lb(max_io)).unwrap();
            prop_assert_eq!(stats.wdiff.bytes, file.len() as u64);
            let mut reader = wdiff_reader(file);
            prop_assert!(records(|| reader.next_record().unwrap()) == literal, "{:?}", kind);
        }
    }
}

/// Which bytes each block gets; None of those that no record is about.
fn blocks_of(records: &[(Lb, Lb, RecordKind, Option<bytes::Bytes>)]) -> Vec<Option<(RecordKind, Vec<u8>)>> {
    let mut blocks = vec![None; SIZE.0 as usize];
    for (address, count, kind, data) in records {
        for n in 0..count.0 as usize {
            let data = data.as_ref().map(|data| data[n * 512..(n + 1) * 512].to_vec());
            let before = blocks[address.0 as usize + n].replace((*kind, data.unwrap_or_default()));
            assert!(before.is_none(), "records do not overlap");
        }
    }
    blocks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_merge_that_joins_pieces_says_of_each_block_what_one_of_pieces_says(chain in any_chain(), max_io in 0u64..50) {
        let inputs = |join: bool| -> Vec<WdiffReader> {
            let input = |(ios, i): &(Vec<Io>, bool)| wdiff_reader(stored(ios, *i, Lb(0)));
            let joined = |reader: WdiffReader| if join { reader.joining_pieces() } else { reader };
            chain.iter().map(input).map(joined).collect()
        };
        let setting = CompressionSetting::of(Compression::Snappy);
        let (file, _) = merge_to_sorted(inputs(true), Vec::new(), Uuid::NIL, setting, Lb(max_io)).unwrap();
        let mut reader = wdiff_reader(file);
        let found = records(|| reader.next_record().unwrap());
        let literal = merged_literally(inputs(false), max_io);
        prop_assert!(blocks_of(&found) == blocks_of(&literal));
        prop_assert!(found.iter().all(|(_, blocks, ..)| max_io == 0 || blocks.0 <= max_io));
        if max_io == 0 {
            prop_assert!(found.len() <= literal.len(), "{} records of {} pieces", found.len(), literal.len());
        }
    }
}

#[test]
fn the_pieces_of_a_whole_write_are_joined_and_its_image_is_copied_as_stored() {
    let write = |address, blocks: usize, byte| Io::Write {
        address: Lb(address),
        data: vec![byte; blocks * 512].into(),
    };
    // Cut at every power of two; the second touches the first, the third lies within the second.
    let ios = [write(3, 61, 1), write(64, 32, 2), write(70, 2, 3)];
    let input = indexed_wdiff(&ios, Uuid::NIL, Compression::Lz4, Lb(0));
    let mut pieces = wdiff_reader(input.clone());
    assert_eq!(records(|| pieces.next_record().unwrap()).len(), 5 + 5);
    let setting = CompressionSetting::of(Compression::Lz4);
    let inputs = vec![wdiff_reader(input.clone()).joining_pieces()];
    let (file, _) = merge_to_sorted(inputs, Vec::new(), Uuid::NIL, setting, Lb(0)).unwrap();
    let mut reader = wdiff_reader(file);
    let mut found = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        let Content::Normal(data) = &record.content else {
            panic!("a write became {:?}", record.kind());
        };
        let stored = data.image().stored_bytes().clone();
        let copied = input.windows(stored.len()).any(|window| window == stored);
        found.push((record.address.0, record.blocks.0, copied));
    }
    let shape: Vec<_> = found
        .iter()
        .map(|(address, blocks, _)| (*address, *blocks))
        .collect();
    assert_eq!(shape, [(3, 61), (64, 6), (70, 2), (72, 24)]);
    assert!(found[0].2 && found[2].2, "what is whole is as it was stored");
}

#[test]
fn images_that_are_hidden_are_not_read_and_of_those_that_show_each_is_verified() {
    let write = |address, blocks: usize| Io::Write {
        address: Lb(address),
        data: vec![7; 512 * blocks].into(),
    };
    let mut damaged = indexed_wdiff(&[write(8, 8)], Uuid::NIL, Compression::None, Lb(0));
    damaged[1000] ^= 1;
    let none = CompressionSetting::of(Compression::None);
    // One wdiff for each.
    let merge = |newer: &[Io]| {
        let stored = |io| sorted_wdiff(std::slice::from_ref(io), Uuid::NIL, Compression::None, Lb(0));
        let mut inputs = vec![wdiff_reader(damaged.clone())];
        inputs.extend(newer.iter().map(|io| wdiff_reader(stored(io))));
        merge_to_sorted(inputs, Vec::new(), Uuid::NIL, none, Lb(0))
    };
    let (_, stats) = merge(&[write(8, 8)]).unwrap();
    assert_eq!((stats.records_in, stats.wdiff.records), (2, 1));
    // By two that meet in its middle, too.
    merge(&[write(4, 16), write(2, 8)]).unwrap();
    for shows in [7, 9] {
        let error = crate::daemon::chain(&merge(&[write(shows, 8)]).unwrap_err());
        assert!(error.contains("image") && error.contains("checksum"), "{error}");
    }
}

#[test]
fn a_record_that_survives_whole_is_copied_as_stored() {
    let data = bytes::Bytes::from(vec![7; 4096]);
    let ios = [Io::Write { address: Lb(8), data }];
    let input = sorted_wdiff(&ios, Uuid::NIL, Compression::Zstd, Lb(0));
    let setting = CompressionSetting {
        kind: Compression::Zstd,
        level: 9,
        cpus: 1,
    };
    let image_of = |mut reader: WdiffReader| match reader.next_record().unwrap().unwrap().content {
        Content::Normal(data) => data.image().stored_bytes().clone(),
        other => panic!("{other:?}"),
    };
    let merged = merge_to_sorted(
        vec![wdiff_reader(input.clone())],
        Vec::new(),
        Uuid::NIL,
        setting,
        Lb(0),
    )
    .unwrap()
    .0;
    assert_eq!(image_of(wdiff_reader(merged)), image_of(wdiff_reader(input)));
}

#[test]
fn a_record_beyond_the_end_of_the_image_is_an_error() {
    let ios = [Io::Discard {
        address: Lb(90),
        blocks: Lb(11),
    }];
    let input = wdiff_reader(sorted_wdiff(&ios, Uuid::NIL, Compression::None, Lb(0)));
    let image = MemImage::filled(Lb(100), 0);
    let error = apply_wdiffs(vec![input], &image, DiscardMode::Ignore, &mut nonstop);
    // Ignored discards are not even looked at; others are refused.
    assert!(error.is_ok());
    let input = wdiff_reader(sorted_wdiff(&ios, Uuid::NIL, Compression::None, Lb(0)));
    let error = apply_wdiffs(vec![input], &image, DiscardMode::Zero, &mut nonstop).unwrap_err();
    assert_eq!(
        error.to_string(),
        "record at address 90 ends at 101, but the image has 100 blocks"
    );
}

#[test]
fn discarding_a_whole_device_takes_few_pieces() {
    let everything = Io::Discard {
        address: Lb(3),
        blocks: Lb(u32::MAX.into()),
    };
    let ios = [
        everything,
        Io::Write {
            address: Lb(1 << 20),
            data: vec![1; 4096].into(),
        },
    ];
    let mut reader = wdiff_reader(indexed_wdiff(&ios, Uuid::NIL, Compression::None, DEFAULT_MAX_IO));
    let pieces = records(|| reader.next_record().unwrap());
    assert!(pieces.len() < 100, "{}", pieces.len());
    assert_eq!(pieces.iter().map(|p| p.1.0).sum::<u64>(), u64::from(u32::MAX));
}

#[test]
fn applying_stops_when_asked() {
    let input = wdiff_reader(sorted_wdiff(
        &random_ios(1, SIZE, 20),
        Uuid::NIL,
        Compression::None,
        Lb(0),
    ));
    let image = MemImage::filled(SIZE, 0);
    let stopped = apply_wdiffs(vec![input], &image, DiscardMode::Zero, &mut |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(ApplyError::Stopped)));
}

#[test]
fn a_file_is_written_zeroed_and_discarded_like_any_image() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE.bytes()).unwrap();
    let model = MemImage::filled(SIZE, 0);
    for seed in 0..8 {
        let ios = random_ios(seed, SIZE, 30);
        for io in &ios {
            model.apply(io, false);
        }
        let input = wdiff_reader(indexed_wdiff(&ios, Uuid::NIL, Compression::Lz4, DEFAULT_MAX_IO));
        apply_wdiffs(vec![input], &file, DiscardMode::Passdown, &mut nonstop).unwrap();
    }
    let mut found = vec![0; SIZE.bytes() as usize];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 0).unwrap();
    assert!(found == *model.bytes());
    assert_eq!(ImageTarget::size(&file).unwrap(), SIZE.bytes(), "the size stays");
}
