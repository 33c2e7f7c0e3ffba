//! Block devices, file systems that are full, read-only or share extents. Needs root, and fails without.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use walb_common::lineage::BaseState;

use crate::support::{Archive, History, SIZE, SNAPPY, clean, time_of};

fn archive(history: &History) -> Archive {
    let archive = Archive::new(&BaseState::idle(clean(0), time_of(0)), history.at(0));
    for gid in 0..4 {
        archive.diff(history, clean(gid), clean(gid + 1), SNAPPY);
    }
    archive
}

/// A mount of our own, gone when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A loop device, gone when dropped.
struct Loop {
    path: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn new(bytes: u64) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        for start in (0..bytes).step_by(1 << 16) {
            let length = (bytes - start).min(1 << 16) as usize;
            file.as_file().write_all_at(&vec![0xee; length], start).unwrap();
        }
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "run as root, to make a loop device: {made:?}"
        );
        Self {
            path: PathBuf::from(String::from_utf8(made.stdout).unwrap().trim()),
            _file: file,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[test]
fn a_block_device_is_overwritten_when_that_is_asked_for() {
    let history = History::new(41, 4);
    let archive = archive(&history);
    let behind = 8192;
    let device = Loop::new(SIZE.bytes() + behind);
    let path = device.path.to_str().unwrap();
    let words = ["--volume", "vol0", "--gid", "3", "-o", path];
    let error = archive.run("restore", &words).unwrap_err();
    assert!(error.contains("--force overwrites it"), "{error}");
    assert!(device.bytes().iter().all(|b| *b == 0xee));
    assert!(
        archive
            .run("restore", &[&words[..], &["--force"]].concat())
            .unwrap()
    );
    let (image, rest) = (device.bytes(), SIZE.bytes() as usize);
    assert!(image[..rest] == *history.at(3));
    assert!(
        image[rest..].iter().all(|b| *b == 0xee),
        "what is behind the image stays"
    );
    // A base image that is a device, too.
    let words = ["--base", path, "--base-state", "<|3|>", "--gid", "4"];
    let error = archive.restore(&words).unwrap_err();
    assert!(error.contains("has 1056768 bytes, expected 1048576"), "{error}");
    fs::remove_file(archive.volume().join("size")).unwrap();
    let restored = archive.restore(&words).unwrap();
    assert!(restored[..rest] == *history.at(4) && restored.len() == image.len());
    let words = [&words[..], &["--volume", "vol0", "--force", "-o", path]].concat();
    let error = archive.run("restore", &words).unwrap_err();
    assert!(error.contains("is the base image"), "{error}");
}

#[test]
fn a_device_that_is_too_small_or_in_use_is_left_alone() {
    let history = History::new(42, 4);
    let archive = archive(&history);
    let small = Loop::new(SIZE.bytes() - 4096);
    let to = |path: &Path| {
        let words = [
            "--volume",
            "vol0",
            "--latest",
            "--force",
            "-o",
            path.to_str().unwrap(),
        ];
        archive.run("restore", &words).unwrap_err()
    };
    let error = to(&small.path);
    assert!(
        error.contains("has 1044480 bytes, the image needs 1048576"),
        "{error}"
    );
    assert!(small.bytes().iter().all(|b| *b == 0xee));
    let used = Loop::new(16 << 20);
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&used.path)
        .status()
        .unwrap();
    assert!(made.success());
    let point = tempfile::tempdir().unwrap();
    mount(&used.path, point.path(), "ext4", MountFlags::empty(), None).unwrap();
    let mounted = Mounted(point.path().to_owned());
    let before = used.bytes();
    let error = to(&used.path);
    assert!(error.contains("is in use"), "{error}");
    assert!(used.bytes() == before);
    drop(mounted);
}

#[test]
fn a_failure_says_that_a_device_holds_nothing_of_use() {
    let history = History::new(43, 4);
    let archive = archive(&history);
    let damaged = archive
        .volume()
        .join(format!("{}-M--2-3.wdiff", time_of(3).compact()));
    let mut bytes = fs::read(&damaged).unwrap();
    let last = bytes.len() - 5000;
    bytes[last] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let device = Loop::new(SIZE.bytes());
    let words = [
        "--volume",
        "vol0",
        "--latest",
        "--force",
        "-o",
        device.path.to_str().unwrap(),
    ];
    let error = archive.run("restore", &words).unwrap_err();
    assert!(
        error.contains("holds neither what it held nor the snapshot"),
        "{error}"
    );
    assert!(error.contains(damaged.to_str().unwrap()), "{error}");
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left_on_it() {
    let history = History::new(44, 4);
    let archive = archive(&history);
    let place = tempfile::tempdir().unwrap();
    // One that cannot take what the base holds, and one that only cannot take what the diffs add.
    let base = fs::metadata(archive.image()).unwrap().len();
    for kibibytes in [256, base / 1024 + 4] {
        let size = std::ffi::CString::new(format!("size={kibibytes}k")).unwrap();
        mount("tmpfs", place.path(), "tmpfs", MountFlags::empty(), Some(&*size))
            .expect("run as root, to mount a small file system");
        let mounted = Mounted(place.path().to_owned());
        let ballast = File::create(place.path().join("ballast")).unwrap();
        if kibibytes > 256 {
            ballast.write_all_at(&vec![1; (base / 2) as usize], 0).unwrap();
        }
        let out = place.path().join("out");
        let words = ["--volume", "vol0", "--latest", "-o", out.to_str().unwrap()];
        let error = archive.run("restore", &words).unwrap_err();
        assert!(error.contains("out was not made"), "{error}");
        assert!(
            error.contains("free") || error.contains("No space left"),
            "{error}"
        );
        let left: Vec<_> = fs::read_dir(place.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["ballast"]);
        drop(mounted);
    }
}

#[test]
fn an_archive_that_cannot_be_written_to_is_enough() {
    let history = History::new(45, 4);
    let archive = archive(&history);
    let _mounted = Mounted(archive.path().to_owned());
    mount_bind(archive.path(), archive.path()).expect("run as root, to mount read-only");
    mount_remount(archive.path(), MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    fs::write(archive.volume().join("x"), b"x").unwrap_err();
    assert_eq!(archive.check_every_gid(&history, &[]), [0, 1, 2, 3, 4]);
    assert!(archive.run("list", &["--volume", "vol0"]).unwrap());
    assert!(archive.run("verify", &[]).unwrap());
}

#[test]
fn extents_are_shared_where_the_file_system_can() {
    use std::os::unix::fs::MetadataExt;
    let history = History::new(46, 300);
    let place = tempfile::tempdir().unwrap();
    let (disk, point) = (place.path().join("disk"), place.path().join("xfs"));
    File::create(&disk).unwrap().set_len(400 << 20).unwrap();
    fs::create_dir(&point).unwrap();
    let made = Command::new("mkfs.xfs")
        .args(["-q", "-m", "reflink=1"])
        .arg(&disk)
        .status()
        .unwrap();
    assert!(made.success(), "this test needs xfsprogs");
    let status = Command::new("mount")
        .args(["-o", "loop"])
        .arg(&disk)
        .arg(&point)
        .status()
        .unwrap();
    assert!(status.success(), "run as root");
    let _mounted = Mounted(point.clone());
    // Everything on that file system, the output as well; with more diffs than are applied at once.
    let made = Archive::new(&BaseState::idle(clean(0), time_of(0)), history.at(0));
    for gid in 0..300 {
        made.diff(&history, clean(gid), clean(gid + 1), SNAPPY);
    }
    let copied = Command::new("cp")
        .arg("-a")
        .arg(made.path())
        .arg(point.join("archive"))
        .status()
        .unwrap();
    assert!(copied.success());
    let archive = point.join("archive");
    for gid in [0, 7, 300] {
        let out = point.join(format!("out-{gid}"));
        let text = gid.to_string();
        let words = [
            "restore",
            "--archive",
            archive.to_str().unwrap(),
            "--volume",
            "vol0",
            "--gid",
            &text,
            "-o",
        ];
        assert!(crate::support::offline(&[&words[..], &[out.to_str().unwrap()]].concat()).unwrap());
        assert!(fs::read(&out).unwrap() == history.at(gid), "gid {gid}");
    }
    let shared = Command::new("filefrag")
        .arg("-v")
        .arg(point.join("out-0"))
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&shared.stdout).contains("shared"),
        "{shared:?}"
    );
    assert!(fs::metadata(archive.join("images/wb_vol0")).unwrap().size() == SIZE.bytes());
}
