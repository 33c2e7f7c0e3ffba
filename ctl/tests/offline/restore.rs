//! Restores as a process: into a pipe that is read slowly, so that the archive changes while it is read.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;

use walb_common::format::wdiff::{SortedWriter, WdiffRecord};
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};

use crate::support::{Outcome, command, walbc};

/// Far more than what lies between a restore and a reader that waits.
const SIZE: usize = 24 << 20;
/// Where each diff writes: at the end, so that it is read last.
const CHANGED: usize = SIZE - (1 << 20);

/// A volume whose every gid writes one block, and rewrites another.
struct Site {
    dir: tempfile::TempDir,
    images: Vec<Vec<u8>>,
}

impl Site {
    fn new(base: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("vol0");
        fs::create_dir(&volume).unwrap();
        fs::create_dir(dir.path().join("images")).unwrap();
        let image: Vec<u8> = (0..SIZE / 8)
            .flat_map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        for (name, content) in [
            ("state", "Archived\n"),
            ("base", base),
            ("uuid", "00000000000000000000000000000001\n"),
            ("archive_uuid", "00000000000000000000000000000002\n"),
        ] {
            fs::write(volume.join(name), content).unwrap();
        }
        fs::write(dir.path().join("images/wb_vol0"), &image).unwrap();
        let mut site = Self {
            dir,
            images: vec![image],
        };
        for gid in 0..4_u8 {
            let records: Vec<_> = [CHANGED, CHANGED + 4096 * (1 + usize::from(gid))]
                .map(|at| (at, vec![gid + 1; 4096]))
                .into();
            let setting = CompressionSetting::of(Compression::Snappy);
            let mut writer = SortedWriter::new(Vec::new(), Uuid::NIL, setting).unwrap();
            let mut image = site.images[usize::from(gid)].clone();
            for (at, data) in records {
                image[at..at + data.len()].copy_from_slice(&data);
                let address = Lb(at as u64 / 512);
                writer.write(&WdiffRecord::normal(address, data.into())).unwrap();
            }
            fs::write(site.diff(gid), writer.finish().unwrap().0).unwrap();
            site.images.push(image);
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn diff(&self, from: u8) -> PathBuf {
        self.path(&format!("vol0/2026112214000{from}-M--{from}-{}.wdiff", from + 1))
    }

    fn words(&self, gid: &str) -> Vec<String> {
        let dir = self.dir.path().to_str().unwrap();
        [
            "restore",
            "--archive",
            dir,
            "--volume",
            "vol0",
            "--gid",
            gid,
            "-o",
            "-",
        ]
        .map(str::to_owned)
        .into()
    }

    /// Replaces a small file, as an archive does.
    fn replace(&self, name: &str, content: &str) {
        let new = self.path("vol0/new.tmp");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.path("vol0").join(name)).unwrap();
    }

    /// Applies what leads to a gid to the base image, as an archive does.
    fn apply(&self, to: usize) {
        self.replace("base", &format!("<|0|-->|{to}|>-20261122150000\n"));
        let image = fs::File::options()
            .write(true)
            .open(self.path("images/wb_vol0"))
            .unwrap();
        image
            .write_all_at(&self.images[to][CHANGED..], CHANGED as u64)
            .unwrap();
        self.replace("base", &format!("<|{to}|>-20261122150000\n"));
        for from in 0..u8::try_from(to).unwrap() {
            fs::remove_file(self.diff(from)).unwrap();
        }
    }

    /// Restores into a pipe; `meanwhile` happens after the first bytes came and long before the last can.
    fn restore(&self, gid: &str, meanwhile: impl FnOnce(&Self)) -> Outcome {
        let mut child = command(&self.words(gid))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdout.take().unwrap();
        let mut stdout = vec![0; 4096];
        pipe.read_exact(&mut stdout).unwrap();
        meanwhile(self);
        pipe.read_to_end(&mut stdout).unwrap();
        let output = child.wait_with_output().unwrap();
        Outcome {
            status: output.status.code(),
            stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

const IDLE: &str = "<|0|>-20261122140000\n";

#[track_caller]
fn is_image(outcome: &Outcome, image: &[u8]) {
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout == image, "not the snapshot");
}

#[test]
fn stdout_gets_the_image_and_stderr_says_which() {
    let site = Site::new(IDLE);
    for gid in 0..=4 {
        let outcome = walbc(&site.words(&gid.to_string()));
        is_image(&outcome, &site.images[gid]);
        assert_eq!(outcome.stderr.lines().count(), 1);
        assert!(
            outcome
                .stderr
                .contains(&format!("vol0: gid {gid} of 2026-11-22T14:00:0")),
            "{}",
            outcome.stderr
        );
    }
    let json = [&["--json".to_owned()][..], &site.words("1")].concat();
    let outcome = walbc(&json);
    assert!(
        outcome.status == Some(1) && outcome.stderr.starts_with("OptionError:"),
        "{outcome:?}"
    );
}

#[test]
fn a_reader_that_closes_the_pipe_gets_no_success() {
    let site = Site::new(IDLE);
    let mut child = command(&site.words("3"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 4096];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(1), &b""[..]));
}

#[test]
fn diffs_that_are_removed_once_open_and_an_apply_up_to_the_snapshot_do_no_harm() {
    let site = Site::new(IDLE);
    let outcome = site.restore("3", |site| site.apply(2));
    is_image(&outcome, &site.images[3]);
    // Cut in the middle, too.
    let site = Site::new(IDLE);
    let outcome = site.restore("3", |site| {
        site.replace("base", "<|0|-->|3|>-20261122150000\n");
        let image = fs::File::options()
            .write(true)
            .open(site.path("images/wb_vol0"))
            .unwrap();
        image
            .write_all_at(&site.images[3][CHANGED..CHANGED + 8192], CHANGED as u64)
            .unwrap();
    });
    is_image(&outcome, &site.images[3]);
    // New diffs, merges of old ones.
    let site = Site::new(IDLE);
    let outcome = site.restore("3", |site| {
        fs::copy(site.diff(0), site.path("vol0/20261122150000-M--4-5.wdiff")).unwrap();
        for from in 0..3 {
            fs::remove_file(site.diff(from)).unwrap();
        }
    });
    is_image(&outcome, &site.images[3]);
}

#[test]
fn a_base_image_that_moves_past_the_snapshot_is_noticed() {
    let site = Site::new(IDLE);
    let outcome = site.restore("3", |site| site.apply(4));
    assert!(
        outcome.stdout != site.images[3],
        "the test has to show a wrong image to be worth anything"
    );
    outcome.fails_with(&[
        "moved from <|0|> to <|4|>",
        "run this again",
        "what was written to stdout is not the snapshot",
    ]);
    // Run again, it says what there is now.
    walbc(&site.words("3")).fails_with(&["gid 3 cannot be restored", "<|4|> already"]);
    is_image(&walbc(&site.words("4")), &site.images[4]);
}

/// What happens to an archive while it is read.
type Harm = fn(&Site);

#[test]
fn what_is_reset_or_replaced_is_noticed() {
    let harms: [(&str, Harm); 5] = [
        ("was stopped, started, reset", |site| {
            site.replace("state", "SyncReady\n");
        }),
        ("was stopped, started, reset", |site| {
            site.replace("state", "Archived\n");
        }),
        ("was stopped, started, reset", |site| {
            site.replace("archive_uuid", "00000000000000000000000000000002\n");
        }),
        ("was replaced while it was read", |site| {
            let (image, new) = (site.path("images/wb_vol0"), site.path("images/new"));
            fs::copy(&image, &new).unwrap();
            fs::rename(new, image).unwrap();
        }),
        ("look at", |site| {
            fs::remove_file(site.path("images/wb_vol0")).unwrap();
        }),
    ];
    for (told, harm) in harms {
        let site = Site::new(IDLE);
        site.restore("2", harm)
            .fails_with(&[told, "what was written to stdout is not the snapshot"]);
    }
}

#[test]
fn a_compared_diff_makes_every_move_of_the_base_count() {
    let site = Site::new(IDLE);
    let compared = site.path("vol0/20261122140001-MC-1-2.wdiff");
    fs::rename(site.diff(1), &compared).unwrap();
    let outcome = site.restore("3", |site| {
        site.replace("base", "<|0|-->|1|>-20261122150000\n");
    });
    outcome.fails_with(&["moved from <|0|> to <|0|-->|1|>"]);
}

#[test]
fn a_file_is_whole_under_its_name_or_not_there() {
    let site = Site::new(IDLE);
    for (fault, left) in [
        ("convert.restore.written=enospc", 0),
        ("convert.restore.synced=eio", 0),
        ("offline.out.before_sync=enospc", 0),
        ("offline.out.before_rename=eio", 0),
        // Killed: what is left does not have the name.
        ("convert.restore.written=crash", 1),
        ("offline.out.before_rename=crash", 1),
    ] {
        let out = tempfile::tempdir().unwrap();
        let mut words = site.words("2");
        *words.last_mut().unwrap() = out.path().join("image").to_str().unwrap().to_owned();
        let mut command = command(&words);
        command.env("WALB_FAULT", fault);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{fault}");
        assert!(!out.path().join("image").exists(), "{fault}");
        assert_eq!(
            fs::read_dir(out.path()).unwrap().count(),
            left,
            "{fault}: {output:?}"
        );
        // Another attempt is not in the way of what is left.
        walbc(&words).ok();
        assert!(fs::read(out.path().join("image")).unwrap() == site.images[2]);
    }
}
