//! Goal: through the page cache or past it, by one call or many at once, a disk holds what an array holds. Method: random
//! writes and reads; the file is also read by somebody else, who must never see old bytes.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::disk::testing::direct_dir;

const SIZE: usize = 1 << 20;

/// How a disk is used: by what, and in which blocks past the page cache (by what the file system says if `None`).
type Way = (Engine, Option<Option<usize>>);

const WAYS: [Way; 6] = [
    (Engine::Threads, None),
    (Engine::IoUring, None),
    (Engine::Threads, Some(None)),
    (Engine::IoUring, Some(None)),
    // As on a device with large blocks: smaller writes go through the page cache, and lie in the same pages.
    (Engine::Threads, Some(Some(4096))),
    (Engine::IoUring, Some(Some(4096))),
];

fn medium(path: &std::path::Path, (engine, direct): Way) -> FileMedium {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let medium = FileMedium::new(file, engine);
    if let Some(unit) = direct {
        let mut opened =
            open_direct(&medium.file, 4096).expect("the file system of the target directory takes O_DIRECT");
        opened.unit = unit.unwrap_or(opened.unit);
        medium.direct.set(opened).unwrap();
    }
    medium
}

/// Ranges in blocks of 512 that do not overlap, at random, some of them in the same page.
fn ranges(rng: &mut StdRng) -> Vec<(usize, usize)> {
    let mut at = rng.random_range(0..64);
    let mut ranges = Vec::new();
    while at + 40 < SIZE / 512 && ranges.len() < 100 {
        let len = *[1, 3, 8, 16, 33].get(rng.random_range(0..5)).unwrap();
        ranges.push((at * 512, len * 512));
        at += len + rng.random_range(0..30);
        if rng.random_bool(0.5) {
            at = at.next_multiple_of(8);
        }
    }
    ranges
}

#[test]
fn what_is_written_is_read_whichever_way_it_goes() {
    uring::availability().expect("this test needs io_uring");
    let dir = direct_dir();
    for (number, way) in WAYS.into_iter().enumerate() {
        let path = dir.path().join(format!("disk{number}"));
        let mut model = vec![0; SIZE];
        std::fs::write(&path, &model).unwrap();
        let medium = medium(&path, way);
        let mut rng = StdRng::seed_from_u64(number as u64);
        for round in 0..30 {
            let ranges = ranges(&mut rng);
            let mut writes = Vec::new();
            for &(offset, len) in &ranges {
                let mut bytes = AlignedBuf::zeroed(len);
                rng.fill(&mut bytes[..]);
                model[offset..offset + len].copy_from_slice(&bytes);
                let cut = 512 * rng.random_range(0..=len / 512);
                let whole = bytes.freeze();
                // Now and then in memory that no device takes.
                let first = if rng.random_bool(0.2) {
                    let mut odd = vec![0; cut + 1];
                    odd[1..].copy_from_slice(&whole[..cut]);
                    Bytes::from(odd).slice(1..)
                } else {
                    whole.slice(..cut)
                };
                let pieces = [first, whole.slice(cut..)].into_iter().filter(|p| !p.is_empty());
                writes.push(Write {
                    offset: offset as u64,
                    pieces: pieces.collect(),
                });
            }
            for (write, result) in writes.iter().zip(medium.write_many(&writes)) {
                assert_eq!(result.unwrap(), write.len(), "{way:?}, round {round}");
            }
            let reads: Vec<_> = ranges
                .iter()
                .map(|&(offset, len)| Read {
                    offset: offset as u64,
                    len,
                })
                .collect();
            let mut seen = vec![0; reads.len()];
            medium.read_many(&reads, &mut |index, found| {
                let (offset, len) = ranges[index];
                assert!(
                    found.unwrap() == model[offset..offset + len],
                    "{way:?}, round {round}, read {index}"
                );
                seen[index] += 1;
            });
            assert!(seen.iter().all(|&n| n == 1), "{seen:?}");
            let (offset, len) = (512 * rng.random_range(0..64), 512 * rng.random_range(1..1500));
            let mut odd = vec![0; len];
            medium.read_exact_at(&mut odd, offset as u64).unwrap();
            assert!(odd == model[offset..offset + len], "{way:?}, round {round}");
            if round % 5 == 0 {
                assert!(
                    std::fs::read(&path).unwrap() == model,
                    "{way:?}, round {round}: seen by somebody else"
                );
            }
        }
        medium.sync_data().unwrap();
        let rung = medium.rung();
        assert_eq!(
            rung > 500,
            way.0 == Engine::IoUring,
            "{way:?}: io_uring did {rung}"
        );
        let behind = medium
            .read_exact_at(&mut [0; 1024], SIZE as u64 - 512)
            .unwrap_err();
        assert_eq!(behind.kind(), io::ErrorKind::UnexpectedEof, "{way:?}");
    }
}

#[test]
fn a_disk_that_takes_no_direct_io_is_used_as_before() {
    // A pipe has none; nor has a file in units smaller than the blocks below it.
    let (_reader, pipe) = io::pipe().unwrap();
    let pipe = FileMedium::new(File::from(std::os::fd::OwnedFd::from(pipe)), Engine::Threads);
    pipe.go_direct(4096).unwrap_err();
    assert!(pipe.direct.get().is_none() && pipe.write_depth() == 1);
    let dir = direct_dir();
    let path = dir.path().join("disk");
    std::fs::write(&path, [1; 8192]).unwrap();
    let medium = medium(&path, (Engine::Threads, None));
    medium.go_direct(256).unwrap_err();
    medium.write_at(&[IoSlice::new(&[2; 100])], 50).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[49..51], [1, 2]);
}

#[test]
fn cached_and_direct_writes_of_one_file_follow_each_other_at_will() {
    let dir = direct_dir();
    let path = dir.path().join("disk");
    let mut model = vec![0; SIZE];
    std::fs::write(&path, &model).unwrap();
    let medium = medium(&path, (Engine::Threads, Some(None)));
    let mut rng = StdRng::seed_from_u64(7);
    // As a log is written: on and on, in blocks that share pages; and jumping back now and then.
    let mut at = 0;
    for n in 0..2000_usize {
        let len = 512 * [1, 8, 9, 16, 64][rng.random_range(0..5)];
        if at + len > SIZE || rng.random_bool(0.02) {
            at = 512 * rng.random_range(0..64);
        }
        let mut bytes = AlignedBuf::zeroed(len);
        rng.fill(&mut bytes[..]);
        model[at..at + len].copy_from_slice(&bytes);
        let (pieces, offset) = ([IoSlice::new(&bytes)], at as u64);
        let written = if rng.random_bool(0.5) {
            medium.write_cached_at(&pieces, offset)
        } else {
            medium.write_at(&pieces, offset)
        };
        assert_eq!(written.unwrap(), len);
        at += len;
        match n % 50 {
            // One who reads past the page cache, and one who reads through it.
            0 | 17 => {
                let mut found = vec![0; SIZE];
                medium.read_exact_at(&mut found, 0).unwrap();
                assert!(found == model, "write {n}");
            }
            9 => assert!(std::fs::read(&path).unwrap() == model, "write {n}"),
            20 => medium.sync_data().unwrap(),
            30 => medium.forget_cached(512 * rng.random_range(0..64), SIZE as u64 / 2),
            _ => {}
        }
    }
    medium.sync_data().unwrap();
    medium.forget_cache();
    assert!(std::fs::read(&path).unwrap() == model);
}
