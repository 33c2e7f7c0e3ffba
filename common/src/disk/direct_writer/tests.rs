use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;

/// Data that differ at any shift.
fn data(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| (n % 251) as u8 ^ (n >> 12) as u8 ^ seed)
        .collect()
}

/// Where the files of tests are: beside the sources, on a file system that takes direct IO, unlike `/tmp` perhaps.
fn new_file() -> NamedTempFile {
    NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Skip(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![
        0..6000u64,
        (0..600u64).prop_map(|blocks| blocks * 4096),
        Just(BUFFER_BYTES as u64),
        0..5_000_000u64,
    ];
    (any::<bool>(), length).prop_map(|(write, length)| {
        if write {
            Step::Write(length as usize)
        } else {
            Step::Skip(length)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_file_holds_what_was_written_and_zeros_where_it_was_skipped(
        steps in proptest::collection::vec(any_step(), 0..12),
        refused: bool,
    ) {
        let file = new_file();
        let mut writer = DirectWriter::new(file.as_file()).unwrap();
        if refused {
            // As where the file system does not take direct IO.
            let (file, direct) = (file.as_file().try_clone().unwrap(), None);
            writer.way = Way::Thread(Thread::start(Target { file, direct }).unwrap());
        }
        let mut expected = Vec::new();
        for (seed, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write(length) => {
                    let data = data(seed as u8, length);
                    writer.write_all(&data).unwrap();
                    expected.extend(data);
                }
                Step::Skip(length) => {
                    writer.skip(length).unwrap();
                    expected.resize(expected.len() + length as usize, 0);
                }
            }
            prop_assert_eq!(writer.position(), expected.len() as u64);
        }
        writer.finish().unwrap();
        prop_assert!(fs::read(file.path()).unwrap() == expected);
    }
}

#[test]
fn it_goes_past_the_page_cache_and_leaves_holes() {
    let file = new_file();
    let mut target = Target::new(file.as_file().try_clone().unwrap());
    assert!(
        target.direct.is_some(),
        "the file system of the sources takes no direct IO"
    );
    let mut buffer = Buffer::default();
    buffer.push(&data(0, 80_000), 4096);
    let held = &buffer.blocks.as_bytes()[..buffer.held];
    assert_eq!(target.write_direct(held, 4096).unwrap(), 77_824);
    assert_eq!(target.write_direct(&held[..8192], 4096).unwrap(), 0);
    // Not of whole blocks, so the rest is left to the page cache.
    assert_eq!(target.write_direct(held, 77).unwrap(), 0);
    assert!(target.direct.is_none());

    let file = new_file();
    let mut writer = DirectWriter::new(file.as_file()).unwrap();
    writer.write_all(&[1; 5000]).unwrap();
    writer.skip(100 << 20).unwrap();
    writer.write_all(&[1]).unwrap();
    writer.skip(100 << 20).unwrap();
    writer.finish().unwrap();
    let about = file.as_file().metadata().unwrap();
    assert_eq!(about.len(), 5001 + (200 << 20));
    assert!(about.blocks() * 512 < 1 << 20, "{} blocks", about.blocks());
}

#[test]
fn an_error_is_told_by_a_later_write_or_the_finish_and_nothing_succeeds_after_it() {
    // No direct IO there, and every write finds the disk full.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    for length in [1, 3 << 20] {
        let mut writer = DirectWriter::new(&full).unwrap();
        let error = writer
            .write_all(&vec![1; length])
            .and_then(|()| writer.finish())
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{length}: {error}");
    }
    // Direct IO, but not for writing.
    let file = new_file();
    let read_only = fs::File::open(file.path()).unwrap();
    let mut writer = DirectWriter::new(file.as_file()).unwrap();
    let (file, direct) = (file.as_file().try_clone().unwrap(), Some(read_only));
    writer.way = Way::Thread(Thread::start(Target { file, direct }).unwrap());
    let part = data(0, 1 << 20);
    let mut errors = (0..40).filter_map(|_| writer.write_all(&part).err());
    let first = errors.next().unwrap();
    assert_eq!(first.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
    assert!(errors.all(|error| error.to_string() == told().to_string()));
    assert!(writer.finish().is_err());
}

#[test]
fn one_that_is_given_up_writes_no_more_once_it_is_gone() {
    let file = new_file();
    let mut writer = DirectWriter::new(file.as_file()).unwrap();
    writer.write_all(&data(3, 9 << 20)).unwrap();
    drop(writer);
    // What was handed over is there, and the thread that could write is not.
    assert_eq!(file.as_file().metadata().unwrap().len(), 8 << 20);
}
