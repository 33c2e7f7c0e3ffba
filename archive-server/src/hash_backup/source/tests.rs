use std::fs;

use walb_common::convert::bulk_hash;
use walb_common::lineage::Snapshot;
use walb_common::testing::{MemImage, random_ios, sorted_wdiff};
use walb_common::types::Gid;

use super::*;

const SIZE: Lb = Lb(2048);
const BULK: Lb = Lb(64);

/// A volume's directory with so many diffs, and the image they lead to by the plain model.
fn volume(diffs: u64) -> (tempfile::TempDir, VolumeDir, Vec<MetaDiff>, Vec<u8>) {
    let keep = tempfile::tempdir().unwrap();
    let dir = VolumeDir::new(keep.path().to_owned());
    let image = MemImage::filled(SIZE, 0);
    let mut list = Vec::new();
    for gid in 0..diffs {
        let ios = random_ios(gid, SIZE, 3);
        for io in &ios {
            image.apply(io, false);
        }
        let stored = sorted_wdiff(&ios, Uuid([1; 16]), Compression::Lz4, Lb(64));
        let snapshot = |gid| Snapshot::clean(Gid(gid));
        let diff = MetaDiff::new(snapshot(gid), snapshot(gid + 1)).unwrap();
        let diff = diff.with_size(stored.len() as u64);
        fs::write(dir.diff(&diff), stored).unwrap();
        list.push(diff);
    }
    let bytes = image.bytes().clone();
    (keep, dir, list, bytes)
}

fn source(dir: &VolumeDir, list: &[MetaDiff], at_once: usize) -> Source {
    let base = tempfile::tempfile().unwrap();
    base.set_len(SIZE.bytes()).unwrap();
    Source {
        base,
        diffs: list.iter().map(|diff| dir.diff(diff)).collect(),
        at_once,
        room: Room::take(dir, list, at_once).unwrap(),
        discard: DiscardMode::Zero,
    }
}

/// The hashes that go out, one after the other; `None`: of zeros.
fn hashes(dir: &VolumeDir, source: Source) -> Result<Vec<u8>, SourceError> {
    let (out, mut sections) = mpsc::channel(100);
    source.run(dir, Lb(0), SIZE, BULK, &out)?;
    drop(out);
    let mut all = Vec::new();
    while let Ok(section) = sections.try_recv() {
        if section.hashes.is_empty() {
            let zeros = bulk_hash(&vec![0; usize::try_from(BULK.bytes()).unwrap()]);
            all.extend((0..section.bulks).flat_map(|_| zeros));
        } else {
            all.extend_from_slice(&section.hashes);
        }
    }
    Ok(all)
}

#[test]
fn any_number_of_diffs_is_hashed_however_few_may_be_open_and_leaves_nothing() {
    let (_keep, dir, list, expected) = volume(70);
    let expected: Vec<u8> = expected
        .chunks(usize::try_from(BULK.bytes()).unwrap())
        .flat_map(bulk_hash)
        .collect();
    let files = || fs::read_dir(dir.path()).unwrap().count();
    let before = files();
    // All at once, one level of merging, two and more.
    for at_once in [70, 69, 8, 2] {
        let found = hashes(&dir, source(&dir, &list, at_once)).unwrap();
        assert!(found == expected, "{at_once}");
        assert_eq!(files(), before);
    }
}

#[test]
fn the_room_for_merging_is_taken_at_the_beginning_and_given_back_to_what_is_merged() {
    let (_keep, dir, list, _) = volume(20);
    let bytes: u64 = list.iter().map(MetaDiff::size).sum();
    assert_eq!(Room::take(&dir, &list, 20).unwrap().bytes, 0, "nothing is merged");
    assert_eq!(Room::take(&dir, &list, 10).unwrap().bytes, bytes);
    let mut twice = Room::take(&dir, &list, 4).unwrap();
    assert_eq!(twice.bytes, 2 * bytes);
    let taken = |room: &Room| room.held.as_ref().unwrap().metadata().unwrap().len();
    assert_eq!(taken(&twice), 2 * bytes);
    twice.give(bytes);
    assert_eq!(taken(&twice), bytes);
    // More than any disk has.
    let huge: Vec<_> = list.iter().map(|diff| diff.with_size(1 << 58)).collect();
    let error = Room::take(&dir, &huge, 10).err().unwrap();
    assert!(error.to_string().contains("take room in"), "{error}");
}

#[test]
fn a_diff_that_cannot_be_read_is_named_in_any_group() {
    let (_keep, dir, list, _) = volume(20);
    let bad = dir.diff(&list[13]);
    fs::write(&bad, [0; 100]).unwrap();
    for at_once in [20, 8, 2] {
        let error = hashes(&dir, source(&dir, &list, at_once)).unwrap_err();
        let text = walb_common::daemon::chain(&error);
        assert!(
            text.contains(bad.file_name().unwrap().to_str().unwrap()),
            "{text}"
        );
    }
}
