use std::fs;

use walb_common::lineage::BaseState;
use walb_common::types::Compression;

use crate::support::{Archive, EPOCH, Form, History, SIZE, SNAPPY, clean, digests, dirty, time_of};

fn idle(gid: u64) -> BaseState {
    BaseState::idle(clean(gid), time_of(gid))
}

#[test]
fn every_snapshot_of_a_chain_in_every_layout_and_compression_is_restored() {
    let history = History::new(1, 12);
    let archive = Archive::new(&idle(0), history.at(0));
    for (n, kind) in (0..).zip(Compression::ALL) {
        let (sorted, indexed) = (Form::Sorted(kind), Form::Indexed(kind));
        archive.diff(&history, clean(2 * n), clean(2 * n + 1), sorted);
        archive.diff(&history, clean(2 * n + 1), clean(2 * n + 2), indexed);
    }
    let gids = archive.check_every_gid(&history, &[]);
    assert_eq!(gids, (0..=12).collect::<Vec<_>>());
}

#[test]
fn diffs_that_overlap_are_laid_over_in_the_right_order() {
    let history = History::new(2, 12);
    let archive = Archive::new(&idle(1), history.at(1));
    for (from, to, form) in [
        (0, 1, SNAPPY),
        (1, 2, SNAPPY),
        (2, 3, Form::Indexed(Compression::None)),
        // Merges, with their inputs still there; the second starts before where the first leads.
        (0, 3, Form::Indexed(Compression::Zstd)),
        (2, 6, SNAPPY),
        (3, 5, SNAPPY),
        (6, 8, Form::Compared),
        (8, 9, SNAPPY),
        // Nothing leads to this one.
        (10, 11, SNAPPY),
    ] {
        archive.diff(&history, clean(from), clean(to), form);
    }
    assert_eq!(archive.check_every_gid(&history, &[]), [1, 3, 6, 8, 9]);
}

#[test]
fn a_compared_diff_fits_where_it_starts_only() {
    let history = History::new(3, 6);
    let archive = Archive::new(&idle(0), history.at(0));
    archive.diff(&history, clean(0), clean(4), SNAPPY);
    archive.diff(&history, clean(2), clean(6), Form::Compared);
    archive.diff(&history, clean(4), clean(5), Form::Compared);
    assert_eq!(archive.check_every_gid(&history, &[]), [0, 4, 5]);
}

#[test]
fn a_dirty_base_becomes_clean_where_the_diffs_reach_its_end() {
    let history = History::new(4, 9);
    let base = BaseState::idle(dirty(0, 4), time_of(4));
    let archive = Archive::new(&base, &history.torn(0, 4));
    for gid in 0..7 {
        archive.diff(&history, clean(gid), clean(gid + 1), SNAPPY);
    }
    // As a hash backup leaves it, then the log behind it.
    archive.diff(&history, clean(7), dirty(8, 9), Form::Indexed(Compression::Gzip));
    assert_eq!(archive.check_every_gid(&history, &[]), [4, 5, 6, 7]);
    archive.diff(&history, clean(8), clean(9), SNAPPY);
    assert_eq!(archive.check_every_gid(&history, &[]), [4, 5, 6, 7, 9]);
}

#[test]
fn an_apply_that_was_cut_is_made_up_for() {
    let history = History::new(5, 8);
    let base = BaseState::applying(clean(2), clean(5), time_of(5)).unwrap();
    let archive = Archive::new(&base, &history.torn(2, 5));
    for gid in 2..8 {
        archive.diff(&history, clean(gid), clean(gid + 1), SNAPPY);
    }
    assert_eq!(archive.check_every_gid(&history, &[]), [5, 6, 7, 8]);
    // A diff that came since and covers more is fine too; one of the way missing is not.
    let covering = archive.diff(&history, clean(1), clean(7), Form::Indexed(Compression::Lz4));
    assert_eq!(archive.check_every_gid(&history, &[]), [7, 8]);
    fs::remove_file(covering).unwrap();
    fs::remove_file(archive.volume().join(name(3, 4))).unwrap();
    for wanted in [&["--latest"][..], &["--gid", "5"], &["--at", "20991231000000"]] {
        let error = archive.restore(wanted).unwrap_err();
        assert!(error.contains("no snapshot can be restored"), "{error}");
        assert!(error.contains("<|2|-->|5|>") && error.contains("|3|"), "{error}");
    }
}

fn name(from: u64, to: u64) -> String {
    format!("{}-M--{from}-{to}.wdiff", time_of(to).compact())
}

#[test]
fn a_directory_of_the_existing_archive_is_restored() {
    let history = History::new(6, 8);
    let base = BaseState::idle(dirty(0, 3), time_of(3));
    let archive = Archive::new(&base, b"");
    // Its small files are binary, it stores no size, and its base image is elsewhere.
    let time = u32::try_from(time_of(3).0).unwrap().to_le_bytes();
    let snapshot = [0x11, 0x03, 0, 3];
    let stored = [&[0x13, 0x03, 0, 0x82][..], &time, &snapshot, &snapshot].concat();
    archive.put("base", &stored);
    archive.put("state", b"\x08Archived");
    archive.put("archive_uuid", &[9; 16]);
    archive.put("uuid", &[7; 16]);
    archive.put("20991231235959.cold", b"x");
    for gone in ["vol0/size", "images/wb_vol0", "images"] {
        let gone = archive.path().join(gone);
        fs::remove_file(&gone).or_else(|_| fs::remove_dir(&gone)).unwrap();
    }
    for gid in 0..8 {
        archive.diff(
            &history,
            clean(gid),
            clean(gid + 1),
            Form::Indexed(Compression::Snappy),
        );
    }
    let error = archive.restore(&["--latest"]).unwrap_err();
    assert!(
        error.contains("images/wb_vol0") && error.contains("--base"),
        "{error}"
    );
    let image = tempfile::NamedTempFile::new().unwrap();
    fs::write(image.path(), history.torn(0, 3)).unwrap();
    let path = image.path().to_str().unwrap();
    assert_eq!(
        archive.check_every_gid(&history, &["--base", path]),
        [3, 4, 5, 6, 7, 8]
    );
    assert!(
        archive
            .run("verify", &["--volume", "vol0", "--base", path])
            .unwrap()
    );

    // A cold image is a base like any other.
    fs::write(image.path(), history.at(6)).unwrap();
    let words = ["--base", path, "--base-state", "<|6|>", "--gid", "7"];
    assert!(archive.restore(&words).unwrap() == history.at(7));
    let error = archive
        .restore(&["--base", path, "--base-state", "<|6|>", "--gid", "5"])
        .unwrap_err();
    assert!(error.contains("<|6|> already"), "{error}");
}

#[test]
fn a_snapshot_is_found_by_time() {
    let history = History::new(7, 4);
    let archive = Archive::new(&idle(0), history.at(0));
    for gid in 0..4 {
        archive.diff(&history, clean(gid), clean(gid + 1), SNAPPY);
    }
    let unix = |seconds: u64| (EPOCH + seconds).to_string();
    for (time, gid) in [
        (unix(0), 0),
        (unix(59), 0),
        (unix(60), 1),
        (time_of(2).to_string(), 2),
        (format!("{}Z", time_of(3)), 3),
        (time_of(3).compact(), 3),
        ("2099-01-01T00:00:00".to_owned(), 4),
    ] {
        assert!(
            archive.restore(&["--at", &time]).unwrap() == history.at(gid),
            "{time}"
        );
    }
    assert!(archive.restore(&["--latest"]).unwrap() == history.at(4));
    let error = archive.restore(&["--at", &(EPOCH - 1).to_string()]).unwrap_err();
    assert!(error.contains("the oldest is gid 0"), "{error}");
    assert!(
        archive
            .restore(&["--at", "yesterday"])
            .unwrap_err()
            .contains("bad time")
    );
    archive.restore(&[]).unwrap_err();
    archive.restore(&["--latest", "--gid", "3"]).unwrap_err();
}

#[test]
fn more_diffs_than_are_read_at_once_are_merged_before() {
    let history = History::new(8, 600);
    let archive = Archive::new(&idle(0), history.at(0));
    for gid in 0..600 {
        let form = if gid % 2 == 0 {
            SNAPPY
        } else {
            Form::Indexed(Compression::None)
        };
        archive.diff(&history, clean(gid), clean(gid + 1), form);
    }
    for gid in [255, 256, 257, 512, 513, 600] {
        let image = archive.restore(&["--gid", &gid.to_string()]).unwrap();
        assert!(image == history.at(gid), "gid {gid}");
    }
}

#[test]
fn discards_can_leave_older_data() {
    let history = History::new(9, 300);
    let archive = Archive::new(&idle(0), history.at(0));
    for gid in 0..300 {
        archive.diff(&history, clean(gid), clean(gid + 1), SNAPPY);
    }
    for gid in [10, 300] {
        let image = archive
            .restore(&["--gid", &gid.to_string(), "--discard", "ignore"])
            .unwrap();
        assert!(image == history.with_discards_ignored(gid), "gid {gid}");
        assert!(gid > 10 || image != history.at(gid), "no discard in this history");
    }
}

#[test]
fn a_restored_file_has_holes_where_there_are_zeros() {
    use std::os::unix::fs::MetadataExt;
    let history = History::new(10, 2);
    let mut image = history.at(0).to_vec();
    image[200 * 512..].fill(0);
    let archive = Archive::new(&idle(0), &image);
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let words = ["--volume", "vol0", "--latest", "-o", out.to_str().unwrap()];
    assert!(archive.run("restore", &words).unwrap());
    assert!(fs::read(&out).unwrap() == image);
    let about = fs::metadata(&out).unwrap();
    assert!(about.blocks() * 512 <= 210 * 512, "{} blocks", about.blocks());
    assert_eq!(about.mode() & 0o777, 0o600);
}

#[test]
fn an_output_is_not_replaced_unasked_and_never_lies_in_the_archive() {
    let history = History::new(11, 1);
    let archive = Archive::new(&idle(0), history.at(0));
    archive.diff(&history, clean(0), clean(1), SNAPPY);
    let before = digests(archive.path());
    let to = |out: &str, more: &[&str]| {
        archive.run(
            "restore",
            &[&["--volume", "vol0", "--latest", "-o", out][..], more].concat(),
        )
    };
    let inside = |name: &str| archive.path().join(name).to_str().unwrap().to_owned();
    for out in ["vol0/out", "out", "images/wb_vol0", "images/wr_vol0_1"] {
        let error = to(&inside(out), &["--force"]).unwrap_err();
        assert!(error.contains("where nothing is written"), "{error}");
    }
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    fs::write(&out, b"precious").unwrap();
    let out_text = out.to_str().unwrap();
    let error = to(out_text, &[]).unwrap_err();
    assert!(error.contains("exists already"), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    assert!(to(out_text, &["--force"]).unwrap());
    assert!(fs::read(&out).unwrap() == history.at(1));
    // The base image by another way.
    let link = place.path().join("link");
    fs::hard_link(archive.image(), &link).unwrap();
    let error = to(link.to_str().unwrap(), &["--force"]).unwrap_err();
    assert!(error.contains("is input and output"), "{error}");
    fs::remove_file(link).unwrap();
    assert!(digests(archive.path()) == before);
    assert_eq!(fs::metadata(archive.image()).unwrap().len(), SIZE.bytes());
}

#[test]
fn images_may_be_elsewhere() {
    let history = History::new(13, 2);
    let archive = Archive::new(&idle(0), history.at(0));
    archive.diff(&history, clean(0), clean(2), SNAPPY);
    let images = tempfile::tempdir().unwrap();
    fs::rename(archive.image(), images.path().join("wb_vol0")).unwrap_or_else(|_| {
        fs::copy(archive.image(), images.path().join("wb_vol0")).unwrap();
        fs::remove_file(archive.image()).unwrap();
    });
    let path = images.path().to_str().unwrap();
    assert_eq!(archive.check_every_gid(&history, &["--images", path]), [0, 2]);
    assert!(archive.run("verify", &["--images", path]).unwrap());
    assert!(!archive.run("verify", &[]).unwrap());
    let out = images.path().join("out");
    let words = [
        "--volume",
        "vol0",
        "--latest",
        "--images",
        path,
        "-o",
        out.to_str().unwrap(),
    ];
    let error = archive.run("restore", &words).unwrap_err();
    assert!(error.contains("where nothing is written"), "{error}");
}

#[test]
fn a_volume_that_holds_nothing_is_not_restored() {
    let history = History::new(12, 1);
    let archive = Archive::new(&idle(0), history.at(0));
    archive.diff(&history, clean(0), clean(1), SNAPPY);
    archive.put("state", b"SyncReady\n");
    let error = archive.restore(&["--latest"]).unwrap_err();
    assert!(
        error.contains("in state SyncReady, expected Archived or Stopped"),
        "{error}"
    );
    archive.put("state", b"Stopped\n");
    assert!(archive.restore(&["--latest"]).unwrap() == history.at(1));
    assert!(archive.run("list", &[]).unwrap());
    assert!(archive.run("list", &["--volume", "vol0"]).unwrap());
    let error = archive.run("list", &["--volume", "vol1"]).unwrap_err();
    assert!(
        error.contains("no volume vol1") && error.contains("there are vol0"),
        "{error}"
    );
}
