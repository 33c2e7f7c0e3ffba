//! wdiff files of both layouts.

use std::fs::File;
use std::io::{self, Read, Write};

use bytes::Bytes;
use rustix::fs::{MemfdFlags, memfd_create};
use walb_common::format::compress::Compressor;
use walb_common::format::wdiff::{
    Content, IndexRecord, IndexedReader, IndexedWriter, ReadWdiffError, RecordSource, SortedReader,
    SortedWriter, WdiffFileHeader, WdiffReader, WdiffRecord,
};
use walb_common::testing::{indexed_wdiff, sorted_wdiff};
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};
use walb_fuzz_engine::memory::bounded;

use super::{Target, seeds};
use crate::naive;
use crate::naive::effect::{Change, Step, assert_same};

/// The bound for an image that the readers here are given.
pub const MAX_IMAGE: usize = 256 << 10;
const MAX_LEN: usize = 32 << 10;

/// Input: a wdiff, sorted to begin with.
pub const SORTED: Target = Target {
    name: "wdiff-sorted",
    about: "sorted wdiffs, from a stream and from a file",
    seeds: || {
        let mut all = seeds::golden("wdiff", MAX_LEN);
        all.retain(|file| file.get(6) == Some(&0));
        all.extend(made(sorted_wdiff));
        all
    },
    repair: |input, deep| naive::wdiff::repair(input, deep),
    run,
    max_len: MAX_LEN,
};

/// Input: a wdiff, indexed to begin with.
pub const INDEXED: Target = Target {
    name: "wdiff-indexed",
    about: "indexed wdiffs, from memory and from a file",
    seeds: || {
        let mut all = seeds::golden("wdiff", MAX_LEN);
        all.retain(|file| file.get(6) == Some(&1));
        all.extend(made(indexed_wdiff));
        all
    },
    repair: |input, deep| naive::wdiff::repair(input, deep),
    run,
    max_len: MAX_LEN,
};

fn made(make: fn(&[walb_common::testing::Io], Uuid, Compression, Lb) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for kind in Compression::ALL {
        for (n, ios) in seeds::ios(Lb(64)).iter().enumerate() {
            // The wide one and the far one need no more than one kind.
            if n < 2 || kind == Compression::Snappy {
                all.push(make(ios, Uuid([7; 16]), kind, Lb(0)));
            }
        }
    }
    all
}

/// A few bytes at a time, as a socket may give them.
struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = buf.len().min(1 + self.0.len() % 613);
        (&mut self.0).read(&mut buf[..count])
    }
}

fn all_of(source: &mut impl RecordSource) -> Result<Vec<WdiffRecord>, ReadWdiffError> {
    std::iter::from_fn(|| source.next_record().transpose()).collect()
}

fn records(input: &[u8]) -> Result<Vec<WdiffRecord>, ReadWdiffError> {
    if input.get(6) == Some(&1) {
        let mut reader = IndexedReader::open(input, input.len() as u64)?.max_image_bytes(MAX_IMAGE);
        all_of(&mut reader)
    } else {
        let mut reader = SortedReader::new(input)?
            .nothing_follows()
            .max_image_bytes(MAX_IMAGE);
        all_of(&mut reader)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// The records decompressed, as steps. None where data do not decompress.
pub fn steps(records: &[WdiffRecord]) -> Option<Vec<Step>> {
    let step = |record: &WdiffRecord| {
        let change = match &record.content {
            Content::AllZero => Change::Zero,
            Content::Discard => Change::Discard,
            Content::Normal(data) => Change::Data(data.raw().ok()?.to_vec()),
        };
        Some(Step {
            address: record.address.0,
            blocks: record.blocks.0,
            change,
        })
    };
    records.iter().map(step).collect()
}

/// A wdiff in memory as steps; None if it is refused.
pub fn read(wdiff: &[u8]) -> Option<Vec<Step>> {
    steps(&records(wdiff).ok()?)
}

/// A file that is gone when it is closed.
pub fn file_of(bytes: &[u8]) -> File {
    let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).map(File::from);
    let written = file.map_err(io::Error::from).and_then(|mut file| {
        file.write_all(bytes)?;
        io::Seek::rewind(&mut file)?;
        Ok(file)
    });
    written.unwrap_or_else(|e| panic!("a file in memory: {e}"))
}

fn run(input: &[u8]) {
    // The records kept here hold their stored images; the reader a header, an image being read, some it remembers.
    // An image may be shared by many records of an indexed file, each holding its own copy once it is not remembered.
    let shared = input.len() / 48 * input.len();
    let found = bounded(MAX_IMAGE + 4 * input.len() + shared + (64 << 10), || {
        records(input)
    });

    // From a file, with the reader that finds out the layout.
    let by_file = WdiffReader::from_file_bounded(file_of(input), "file", MAX_IMAGE);
    let by_file = by_file.and_then(|mut reader| {
        std::iter::from_fn(|| reader.next_record().transpose()).collect::<Result<Vec<_>, _>>()
    });
    match (&found, &by_file) {
        (Ok(found), Ok(by_file)) => assert_eq!(steps(found), steps(by_file), "from a file"),
        // What is too short for either layout is refused by whoever looks first.
        (Err(found), Err(by_file)) if input.len() >= 56 => {
            assert_eq!(chain(found), chain(&by_file.source), "from a file");
        }
        (Err(_), Err(_)) => {}
        (found, by_file) => panic!("in memory {found:?}, from a file {by_file:?}"),
    }
    let verified =
        WdiffReader::from_file_bounded(file_of(input), "file", MAX_IMAGE).and_then(WdiffReader::verify);
    if input.get(6) == Some(&0) {
        let mut dribble =
            SortedReader::new(Dribble(input)).map(|r| r.nothing_follows().max_image_bytes(MAX_IMAGE));
        let dribbled = dribble.as_mut().map_or(None, |r| all_of(r).ok());
        assert_eq!(found.is_ok(), dribbled.is_some(), "a few bytes at a time");
        assert_eq!(found.as_ref().ok().map(|f| steps(f)), dribbled.map(|d| steps(&d)));
    }

    let Ok(found) = found else {
        assert!(verified.is_err(), "verified, but not readable");
        return;
    };
    let mut from = Lb(0);
    for record in &found {
        assert!(record.address >= from, "records ascend without overlap");
        from = record.end();
    }
    let steps = bounded(
        2 * found.iter().map(size_of_data).sum::<usize>() + (128 << 10),
        || steps(&found),
    );
    assert_eq!(
        verified.is_ok(),
        steps.is_some(),
        "verifying finds what decompressing finds"
    );
    let Some(steps) = steps else { return };
    assert_eq!(
        naive::wdiff::read(input).as_ref(),
        Some(&steps),
        "the naive reader"
    );
    for record in &found {
        let Content::Normal(data) = &record.content else {
            continue;
        };
        let raw = data.raw().map_or(0, |raw| raw.len() as u64);
        assert_eq!(raw, record.blocks.bytes(), "data are of the record's size");
    }
    let header = WdiffFileHeader::decode(&input[..32]).expect("it was read");
    assert_eq!(
        WdiffFileHeader::decode(&header.encode()).expect("as encoded"),
        header
    );
    written_again(&found, &steps, header.uuid);
}

fn size_of_data(record: &WdiffRecord) -> usize {
    match &record.content {
        Content::Normal(data) => data.image().blocks().bytes() as usize + record.blocks.bytes() as usize,
        _ => 0,
    }
}

/// Both layouts give back what was put in, whichever it came from.
fn written_again(records: &[WdiffRecord], steps: &[Step], uuid: Uuid) {
    for kind in [Compression::Snappy, Compression::None] {
        let setting = CompressionSetting::of(kind);
        let mut sorted = SortedWriter::new(Vec::new(), uuid, setting).expect("to memory");
        let mut indexed = IndexedWriter::new(Vec::new(), uuid).expect("to memory");
        let mut compressor = Compressor::new(setting);
        let mut index = Vec::new();
        for record in records {
            sorted.write(record).expect("what was read can be written");
            let stored = match &record.content {
                Content::Normal(data) => {
                    let image = data.to_stored(&mut compressor).expect("it decompressed");
                    Some(indexed.add_image(&image).expect("to memory"))
                }
                _ => None,
            };
            index.push(IndexRecord {
                address: record.address,
                blocks: record.blocks,
                kind: record.kind(),
                compression: stored.map_or(Compression::None, |s| s.compression),
                data_offset: stored.map_or(0, |s| s.data_offset),
                data_size: stored.map_or(0, |s| s.data_size),
                io_offset: Lb(0),
                orig_blocks: stored.map_or(Lb(0), |s| s.blocks),
                io_checksum: stored.map_or(0, |s| s.checksum),
            });
        }
        let (sorted, stats) = sorted.finish().expect("to memory");
        assert_eq!(
            (stats.bytes, stats.records),
            (sorted.len() as u64, records.len() as u64)
        );
        assert_eq!(read(&sorted).as_deref(), Some(steps), "written as sorted");
        let (indexed, _) = indexed.finish(index).expect("to memory");
        assert_eq!(read(&indexed).as_deref(), Some(steps), "written as indexed");
        assert_same(
            "layouts",
            &read(&sorted).unwrap_or_default(),
            &read(&indexed).unwrap_or_default(),
        );
    }
}

/// A reader of a wdiff in memory with the bound of these targets; None if its header is refused.
pub fn reader(wdiff: &[u8]) -> Option<WdiffReader> {
    let bytes = Bytes::copy_from_slice(wdiff);
    let size = bytes.len() as u64;
    if wdiff.get(6) == Some(&1) {
        let reader = IndexedReader::open(bytes, size).ok()?.max_image_bytes(MAX_IMAGE);
        let header = *reader.header();
        return Some(WdiffReader::from_source(reader, header, "in memory"));
    }
    let reader = SortedReader::new(io::Cursor::new(bytes)).ok()?;
    let reader = reader.nothing_follows().max_image_bytes(MAX_IMAGE);
    let header = *reader.header();
    Some(WdiffReader::from_source(reader, header, "in memory"))
}
