use std::fs;

use walb_common::lineage::BaseState;
use walb_common::types::Compression;

use crate::support::{Archive, Form, History, SNAPPY, clean, digests, time_of};

fn archive(history: &History) -> Archive {
    let base = BaseState::applying(clean(0), clean(2), time_of(2)).unwrap();
    let archive = Archive::new(&base, &history.torn(0, 2));
    for gid in 0..4 {
        let form = if gid % 2 == 0 {
            SNAPPY
        } else {
            Form::Indexed(Compression::Lzma)
        };
        archive.diff(history, clean(gid), clean(gid + 1), form);
    }
    archive
}

#[test]
fn a_sound_archive_passes_and_stays_as_it_is() {
    let history = History::new(31, 4);
    let archive = archive(&history);
    archive.put("20261122140000-M--0-6.wdiff.tmp", b"half");
    let before = digests(archive.path());
    assert!(archive.run("verify", &[]).unwrap());
    assert!(archive.run("verify", &["--volume", "vol0"]).unwrap());
    assert!(archive.run("list", &[]).unwrap());
    assert!(digests(archive.path()) == before);
    // One that holds nothing yet has nothing wrong.
    archive.put("state", b"SyncReady\n");
    assert!(archive.run("verify", &[]).unwrap());
}

/// What somebody, or a disk, did to an archive.
type Harm = fn(&Archive);

#[test]
fn whatever_is_wrong_makes_the_answer_negative() {
    let history = History::new(32, 4);
    let first = |archive: &Archive| {
        archive
            .volume()
            .join(format!("{}-M--0-1.wdiff", time_of(1).compact()))
    };
    let harms: [(&str, Harm); 14] = [
        ("no state", |a| fs::remove_file(a.volume().join("state")).unwrap()),
        ("bad state", |a| a.put("state", b"Clear-ish")),
        ("no uuid", |a| fs::remove_file(a.volume().join("uuid")).unwrap()),
        ("bad archive uuid", |a| a.put("archive_uuid", b"1")),
        ("bad base", |a| a.put("base", b"<|2|-->|0|>")),
        ("bad size", |a| a.put("size", b"x")),
        ("other size", |a| a.put("size", b"2049")),
        ("no image", |a| fs::remove_file(a.image()).unwrap()),
        ("cut image", |a| {
            fs::File::options()
                .write(true)
                .open(a.image())
                .unwrap()
                .set_len(512)
                .unwrap();
        }),
        ("a name that is none", |a| {
            a.put("20261122140000-M--1-x.wdiff", b"");
        }),
        ("a diff of the interrupted apply is missing", |a| {
            let name = format!("{}-M--1-2.wdiff", time_of(2).compact());
            fs::remove_file(a.volume().join(name)).unwrap();
        }),
        ("a gap", |a| {
            let name = format!("{}-M--2-3.wdiff", time_of(3).compact());
            fs::remove_file(a.volume().join(name)).unwrap();
        }),
        ("an empty diff", |a| a.put("20261122140000-M--9-10.wdiff", b"")),
        ("a diff that no snapshot needs is damaged", |a| {
            a.put("20201122140000-M--0-1.wdiff", &[0; 4096]);
        }),
    ];
    for (what, harm) in harms {
        let archive = archive(&history);
        harm(&archive);
        assert!(!archive.run("verify", &[]).unwrap(), "{what}");
    }
    // Every byte counts.
    let archive = archive(&history);
    let path = first(&archive);
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 30 + 1) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(!archive.run("verify", &[]).unwrap(), "byte {at}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(archive.run("verify", &[]).unwrap());
}

#[test]
fn a_directory_without_volumes_is_an_error_not_a_sound_archive() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["verify", "--archive", dir.path().to_str().unwrap()];
    let error = crate::support::offline(&words).unwrap_err();
    assert!(error.contains("holds no volume"), "{error}");
    let error = crate::support::offline(&["list", "--archive", "/nonexistent"]).unwrap_err();
    assert!(error.contains("/nonexistent"), "{error}");
    let words = [&words[..], &["--base", "/dev/null"]].concat();
    let error = crate::support::offline(&words).unwrap_err();
    assert!(error.contains("--volume says which"), "{error}");
}
