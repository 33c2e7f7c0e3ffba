use std::fs;

use super::*;
use crate::lineage::{BaseState, DiffSet, MetaDiff, Snapshot};
use crate::state::archive::Static;
use crate::types::{Gid, Lb, Timestamp, Uuid, VolumeName};

fn volume(files: &[(&str, &[u8])]) -> (tempfile::TempDir, VolumeFiles) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vol0");
    fs::create_dir(&path).unwrap();
    for (name, content) in files {
        fs::write(path.join(name), content).unwrap();
    }
    (dir, VolumeFiles::new(path))
}

fn base(text: &str) -> BaseState {
    text.parse().unwrap()
}

/// Names as the files have, without time: `----0-1`.
fn diffs(names: &[&str]) -> DiffSet {
    let diff = |name: &&str| MetaDiff::from_file_name(&format!("20261122140000{name}.wdiff"), 1).unwrap();
    names.iter().map(diff).collect()
}

#[test]
fn small_files_are_read_as_text() {
    let uuid = Uuid([0xab; 16]);
    let (_dir, files) = volume(&[
        ("state", b"Stopped\n"),
        ("base", b"<|0,10|-->|25|>-20261122150000\n"),
        ("archive_uuid", format!("{uuid}\n").as_bytes()),
        ("uuid", b"00000000000000000000000000000001"),
        ("size", b"2048\n"),
    ]);
    assert_eq!(files.read_state().unwrap(), Static::Stopped);
    let lineage = files.read_lineage().unwrap();
    assert_eq!(lineage.base.with_time(), "<|0,10|-->|25|>-20261122150000");
    assert_eq!(lineage.archive_uuid, uuid);
    assert_eq!(lineage.uuid.0[15], 1);
    assert_eq!(files.read_size().unwrap(), Some(Lb(2048)));
}

#[test]
fn small_files_are_read_in_the_form_of_the_existing_archive() {
    // Mark, applying, time in 4 bytes, snapshot |0,200| (1 byte with a head), snapshot |70000| (4 bytes with a head).
    let applying = [
        &[0x13, 0x03, 1, 0x82][..],
        &1_795_356_000_u32.to_le_bytes(),
        &[0x11, 0x03, 0, 0x80, 200],
        &[0x11, 0x03, 0x82, 0x70, 0x11, 1, 0, 0x82, 0x70, 0x11, 1, 0],
    ]
    .concat();
    let (_dir, files) = volume(&[
        ("state", b"\x08Archived"),
        ("base", &applying),
        ("archive_uuid", &[0x41; 16]),
        ("uuid", b"0123456789abcdef"),
    ]);
    assert_eq!(files.read_state().unwrap(), Static::Archived);
    let lineage = files.read_lineage().unwrap();
    assert_eq!(lineage.base.to_string(), "<|0,200|-->|70000|>");
    assert_eq!(lineage.base.timestamp(), Timestamp(1_795_356_000));
    assert_eq!(lineage.archive_uuid, Uuid([0x41; 16]));
    assert_eq!(lineage.uuid, Uuid(*b"0123456789abcdef"));
    assert_eq!(files.read_size().unwrap(), None);

    // Idle; gids around the ends of each width, as that archive's writer chooses them.
    let gids: [(u64, &[u8]); 9] = [
        (0, &[0]),
        (127, &[0x7f]),
        (128, &[0x80, 0x80]),
        (255, &[0x80, 0xff]),
        (256, &[0x81, 0, 1]),
        (65536, &[0x82, 0, 0, 1, 0]),
        (1 << 32, &[0x83, 0, 0, 0, 0, 1, 0, 0, 0]),
        (u64::MAX, &[0xff]),
        (u64::MAX - 127, &[0x84, 0x81 - 1]),
    ];
    for (gid, stored) in gids {
        let snapshot = [&[0x11, 0x03][..], stored, stored].concat();
        let idle = [&[0x13, 0x03, 0, 5][..], &snapshot, &snapshot].concat();
        fs::write(files.path().join("base"), &idle).unwrap();
        let found = files.read_base().unwrap();
        assert_eq!(found, BaseState::idle(Snapshot::clean(Gid(gid)), Timestamp(5)));
        // Cut anywhere, or longer, it is nothing.
        for cut in 2..idle.len() {
            fs::write(files.path().join("base"), &idle[..cut]).unwrap();
            files.read_base().unwrap_err();
        }
        fs::write(files.path().join("base"), [&idle[..], &[0]].concat()).unwrap();
        files.read_base().unwrap_err();
    }
}

#[test]
fn what_a_small_file_does_not_say_is_an_error_that_names_it() {
    let (_dir, files) = volume(&[
        ("state", b"\x08Archivee"),
        ("base", &[0; 5000]),
        ("uuid", b""),
        ("size", b"\xff\xfe"),
    ]);
    for (error, expected) in [
        (
            files.read_state().unwrap_err(),
            "vol0/state: bad state of an archive volume",
        ),
        (
            files.read_base().unwrap_err(),
            "vol0/base: expected at most 4096 bytes, found more",
        ),
        (files.read_uuid().unwrap_err(), "vol0/uuid: bad uuid \"\""),
        (files.read_archive_uuid().unwrap_err(), "vol0/archive_uuid: "),
        (files.read_size().unwrap_err(), "vol0/size: bad content"),
    ] {
        let told = crate::daemon::chain(&error);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_listing_takes_what_is_a_diff_and_tells_of_the_rest() {
    let (dir, files) = volume(&[
        ("20261122140000-M--0-1.wdiff", b"12345"),
        ("20261122140001-M--0-1.wdiff", b"123456"),
        ("20261122140002-MC-0-1.wdiff", b"1234567"),
        ("20261122140000-M--1-01.wdiff", b""),
        ("20261122140000-M--2-3.wdiff.tmp", b""),
        ("notes", b""),
    ]);
    let found = files.list().unwrap();
    let names: Vec<String> = found.diffs.iter().map(MetaDiff::listing).collect();
    assert_eq!(names, ["|0|-->|1| M- 2026-11-22T14:00:01 6"]);
    assert_eq!(found.odd.len(), 3, "{:?}", found.odd);
    assert_eq!(found.temporary.len(), 1);
    fs::create_dir(dir.path().join("strange")).unwrap();
    fs::create_dir(dir.path().join("vol1.init")).unwrap();
    let volumes = volumes(dir.path()).unwrap();
    assert_eq!(volumes, [(VolumeName::new("vol0").unwrap(), files)]);
}

#[test]
fn a_choice_tells_why_there_is_none_and_what_is_near() {
    let held = diffs(&["----3-5", "-M--5-8", "-M--8-9", "-M--12-15", "-M--15-16"]);
    let idle = base("<|3|>");
    let list: Vec<u64> = Choice::list(&idle, &held)
        .unwrap()
        .iter()
        .map(|r| r.gid.0)
        .collect();
    assert_eq!(list, [3, 5, 8, 9]);
    let told = |base: &BaseState, gid| Choice::of_gid(base, &held, Gid(gid)).unwrap_err().to_string();
    for (gid, expected) in [
        (
            2,
            "gid 2 cannot be restored: the base image is <|3|> already; the oldest is gid 3",
        ),
        (
            6,
            "gid 6 cannot be restored: no snapshot ends there, 20261122140000-M--5-8.wdiff passes over it; \
             the nearest are gid 5 and gid 8",
        ),
        (
            11,
            "gid 11 cannot be restored: the diffs lead to |9|; the newest is gid 9",
        ),
        (
            16,
            "gid 16 cannot be restored: no diff leads from gid 9 to gid 12, where the next one starts; \
             the newest is gid 9",
        ),
    ] {
        assert_eq!(told(&idle, gid), expected);
    }
    let dirty = base("<|3,7|>");
    assert_eq!(
        told(&dirty, 5),
        "gid 5 cannot be restored: the base image is <|3,7|> already; the oldest is gid 8"
    );
    let applying = base("<|3|-->|8|>");
    assert_eq!(
        told(&applying, 5),
        "gid 5 cannot be restored: the base image is <|3|-->|8|> already; the oldest is gid 8"
    );
    let choice = Choice::of_gid(&applying, &held, Gid(8)).unwrap();
    assert_eq!(choice.diffs.len(), 2);
    let lost = Choice::newest(&base("<|3|-->|20|>"), &held).unwrap_err();
    let lost = crate::daemon::chain(&lost);
    assert!(lost.contains("a diff on that way is missing: "), "{lost}");
    assert!(lost.contains("|9|") && lost.contains("|20|"), "{lost}");
    let error = Choice::newest(&base("<|3,20|>"), &held).unwrap_err().to_string();
    assert!(error.contains("nothing on that way is clean"), "{error}");
}

#[test]
fn a_choice_by_time_is_the_newest_at_or_before_it() {
    let held: DiffSet = (3..6)
        .map(|g| {
            let (from, to) = (Snapshot::clean(Gid(g)), Snapshot::clean(Gid(g + 1)));
            MetaDiff::new(from, to)
                .unwrap()
                .with_timestamp(Timestamp(100 * g))
        })
        .collect();
    let idle = BaseState::idle(Snapshot::clean(Gid(3)), Timestamp(200));
    let at = |time| Choice::at_time(&idle, &held, Timestamp(time)).map(|c| c.gid.0);
    assert_eq!(at(200).unwrap(), 3);
    assert_eq!(at(299).unwrap(), 3);
    assert_eq!(at(300).unwrap(), 4);
    assert_eq!(at(10_000).unwrap(), 6);
    let error = at(199).unwrap_err().to_string();
    assert!(
        error.contains("the oldest is gid 3 of 1970-01-01T00:03:20"),
        "{error}"
    );
    assert_eq!(Choice::newest(&idle, &held).unwrap().gid, Gid(6));
}
