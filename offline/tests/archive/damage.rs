//! Files that are missing, damaged or strange: never a wrong image, always which file.

use std::fs;

use walb_common::lineage::BaseState;
use walb_common::types::Compression;

use crate::support::{Archive, Form, History, SNAPPY, clean, dirty, time_of};

fn archive(history: &History) -> Archive {
    let base = BaseState::idle(clean(0), time_of(0));
    let archive = Archive::new(&base, history.at(0));
    for gid in 0..6 {
        let form = if gid % 2 == 0 {
            SNAPPY
        } else {
            Form::Indexed(Compression::Zstd)
        };
        archive.diff(history, clean(gid), clean(gid + 1), form);
    }
    archive
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn path(archive: &Archive, from: u64, to: u64) -> std::path::PathBuf {
    archive
        .volume()
        .join(format!("{}-M--{from}-{to}.wdiff", time_of(to).compact()))
}

#[test]
fn damage_anywhere_in_a_diff_is_noticed_before_the_image_has_its_name() {
    let history = History::new(21, 6);
    let archive = archive(&history);
    for (from, to) in [(2, 3), (3, 4)] {
        let damaged = path(&archive, from, to);
        let whole = fs::read(&damaged).unwrap();
        // The last byte of an indexed one, and those from 16 on of a file header, are covered by checksums as all else.
        for at in (0..whole.len()).step_by(whole.len() / 40 + 1) {
            flip(&damaged, at);
            let error = archive.restore(&["--gid", "5"]).unwrap_err();
            assert!(error.contains(damaged.to_str().unwrap()), "byte {at}: {error}");
            // What comes before does not need it.
            assert!(archive.restore(&["--gid", "2"]).unwrap() == history.at(2));
            fs::write(&damaged, &whole).unwrap();
        }
        for length in [0, 31, 32, whole.len() / 2, whole.len() - 1] {
            fs::write(&damaged, &whole[..length]).unwrap();
            let error = archive.restore(&["--latest"]).unwrap_err();
            assert!(
                error.contains(damaged.to_str().unwrap()),
                "cut to {length}: {error}"
            );
        }
        fs::write(&damaged, &whole).unwrap();
    }
    assert!(archive.restore(&["--latest"]).unwrap() == history.at(6));
}

#[test]
fn a_damaged_diff_can_be_left_out_where_others_lead_past_it() {
    let history = History::new(22, 6);
    let archive = archive(&history);
    let merged = archive.diff(&history, clean(1), clean(4), SNAPPY);
    let name = merged.file_name().unwrap().to_str().unwrap().to_owned();
    flip(&merged, 2000);
    let error = archive.restore(&["--gid", "5"]).unwrap_err();
    assert!(error.contains(&format!("--without {name}")), "{error}");
    assert!(
        error.contains("without it gid 5 can be restored from other diffs"),
        "{error}"
    );
    for gid in 0..=6 {
        let words = ["--gid", &gid.to_string(), "--without", &name];
        assert!(archive.restore(&words).unwrap() == history.at(gid), "gid {gid}");
    }
    let error = archive
        .restore(&["--latest", "--without", "20260101000000-M--1-2.wdiff"])
        .unwrap_err();
    assert!(
        error.contains("no wdiff 20260101000000-M--1-2.wdiff to leave out"),
        "{error}"
    );
    // Where none leads past it, that is said.
    let only = path(&archive, 4, 5);
    flip(&only, 2000);
    let error = archive.restore(&["--latest", "--without", &name]).unwrap_err();
    assert!(error.contains("the newest is gid 4"), "{error}");
}

#[test]
fn a_missing_diff_is_a_gap_that_is_told() {
    let history = History::new(23, 6);
    let archive = archive(&history);
    fs::remove_file(path(&archive, 3, 4)).unwrap();
    assert_eq!(archive.check_every_gid(&history, &[]), [0, 1, 2, 3]);
    let error = archive.restore(&["--gid", "5"]).unwrap_err();
    assert!(
        error.contains("no diff leads from gid 3 to gid 4") && error.contains("the newest is gid 3"),
        "{error}"
    );
}

#[test]
fn strange_files_are_not_used() {
    let history = History::new(24, 6);
    let archive = archive(&history);
    archive.put("20261122140000-M--6-07.wdiff", b"x");
    archive.put("20261122140000-M--0-6.wdiff.tmp", b"half");
    archive.put("notes.txt", b"x");
    fs::create_dir(archive.path().join("lost+found")).unwrap();
    fs::create_dir(archive.path().join("strange")).unwrap();
    fs::create_dir(archive.path().join("vol1.init")).unwrap();
    assert_eq!(archive.check_every_gid(&history, &[]), [0, 1, 2, 3, 4, 5, 6]);
    // Two of the same way: the later is used.
    let same = path(&archive, 2, 3);
    let later = archive.volume().join("20991231235959-M--2-3.wdiff");
    fs::copy(&same, &later).unwrap();
    fs::write(&same, b"old").unwrap();
    assert!(archive.restore(&["--latest"]).unwrap() == history.at(6));
}

#[test]
fn a_record_beyond_the_image_and_an_image_of_another_size_are_refused() {
    let history = History::new(25, 6);
    let archive = archive(&history);
    let image = fs::OpenOptions::new().write(true).open(archive.image()).unwrap();
    image.set_len(1 << 19).unwrap();
    let error = archive.restore(&["--latest"]).unwrap_err();
    assert!(error.contains("has 524288 bytes, expected 1048576"), "{error}");
    // Without the file that says so, as in a directory of the existing archive.
    fs::remove_file(archive.volume().join("size")).unwrap();
    let error = archive.restore(&["--latest"]).unwrap_err();
    assert!(error.contains("the base image has 1024 blocks"), "{error}");
    image.set_len((1 << 19) + 100).unwrap();
    let error = archive.restore(&["--latest"]).unwrap_err();
    assert!(error.contains("expected a multiple of 512"), "{error}");
}

#[test]
fn a_small_file_that_says_nothing_is_named() {
    let history = History::new(26, 6);
    let archive = archive(&history);
    for (name, content) in [
        ("base", &b"<|5|"[..]),
        ("base", b""),
        ("state", b"archived"),
        ("size", b"-1"),
    ] {
        let path = archive.volume().join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let error = archive.restore(&["--latest"]).unwrap_err();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        fs::remove_file(&path).unwrap();
        if name != "size" {
            let error = archive.restore(&["--latest"]).unwrap_err();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        fs::write(&path, good).unwrap();
    }
    // A restore needs neither uuid.
    for name in ["uuid", "archive_uuid"] {
        fs::remove_file(archive.volume().join(name)).unwrap();
    }
    assert!(archive.restore(&["--latest"]).unwrap() == history.at(6));
}

#[test]
fn a_base_that_is_dirty_and_being_applied_needs_every_diff_of_its_way() {
    let history = History::new(27, 8);
    let base = BaseState::applying(dirty(0, 2), clean(5), time_of(5)).unwrap();
    let archive = Archive::new(&base, &history.torn(0, 5));
    for gid in 0..8 {
        archive.diff(&history, clean(gid), clean(gid + 1), SNAPPY);
    }
    assert_eq!(archive.check_every_gid(&history, &[]), [5, 6, 7, 8]);
    for gid in 0..5 {
        let path = path(&archive, gid, gid + 1);
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        archive.restore(&["--latest"]).unwrap_err();
        fs::write(&path, content).unwrap();
    }
}
