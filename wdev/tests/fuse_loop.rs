//! Goal: the device file is a disk that people can use through a loop device. Method: a real file system on it.
//! Needs root, /dev/fuse and loop devices; Debian packages mount and e2fsprogs.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use support::{MemDevice, noise, tool};
use walb_wdev::fuse::{self, FuseError, FuseHandle};

const SIZE: usize = 64 << 20;

fn mounted(dir: &Path) -> (Arc<MemDevice>, FuseHandle) {
    let device = MemDevice::new(SIZE);
    let handle = fuse::mount(device.clone(), "vol", &dir.join("mnt")).unwrap();
    (device, handle)
}

/// Undoes something when the test ends, however it ends.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        // When the test itself has undone it, this fails, and that is fine.
        let _ = Command::new(self.0).args(&self.1).output();
    }
}

fn attach(file: &Path, options: &[&str]) -> (String, Undo) {
    let mut args = vec!["--find", "--show"];
    args.extend(options);
    args.push(file.to_str().unwrap());
    let device = tool("mount", "losetup", &args).trim().to_owned();
    let undo = Undo("losetup", vec!["-d".to_owned(), device.clone()]);
    (device, undo)
}

/// A loop device lets go of its file only when the last opener of the device, perhaps udev, has closed it.
fn unmount_when_free(handle: &mut FuseHandle) {
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = handle.unmount() {
        assert!(
            matches!(error, FuseError::Busy { .. }) && Instant::now() < until,
            "{error}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn copy_a_tree_through_ext4(loop_options: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (device, mut handle) = mounted(dir.path());
    let tree = dir.path().join("tree");
    for i in 0..40_u64 {
        let sub = tree.join(format!("d{}", i % 5));
        std::fs::create_dir_all(&sub).unwrap();
        let length = usize::try_from(i * i * 700).unwrap();
        std::fs::write(sub.join(format!("f{i}")), noise(i, length)).unwrap();
    }
    let tree = tree.to_str().unwrap().to_owned();
    let target: PathBuf = dir.path().join("guest");
    std::fs::create_dir(&target).unwrap();
    let target = target.to_str().unwrap().to_owned();
    {
        let (disk, _detach) = attach(handle.file(), loop_options);
        tool("e2fsprogs", "mkfs.ext4", &["-q", "-F", &disk]);
        tool("mount", "mount", &["-o", "discard", &disk, &target]);
        let _unmount = Undo("umount", vec!["-l".to_owned(), target.clone()]);
        tool("coreutils", "cp", &["-a", &tree, &target]);
        tool("coreutils", "cp", &["-a", &tree, &format!("{target}/again")]);
        tool("coreutils", "rm", &["-r", &format!("{target}/again")]);
        let before = device.flushes.load(Ordering::SeqCst);
        tool("coreutils", "sync", &["-f", &target]);
        assert!(
            device.flushes.load(Ordering::SeqCst) > before,
            "sync of the file system is a flush of the device"
        );
        tool("diffutils", "diff", &["-r", &tree, &format!("{target}/tree")]);
        tool("util-linux", "fstrim", &[&target]);
        assert!(device.discards.load(Ordering::SeqCst) > 0, "fstrim discards");
        assert!(
            matches!(handle.unmount(), Err(FuseError::Busy { .. })),
            "it is in use"
        );
        tool("mount", "umount", &[&target]);
        tool("e2fsprogs", "e2fsck", &["-fn", &disk]);
        tool("mount", "losetup", &["-d", &disk]);
    }
    unmount_when_free(&mut handle);
    // What the guest wrote is on the device: look at it without the front-end.
    let image = dir.path().join("image");
    std::fs::write(&image, device.image()).unwrap();
    tool("e2fsprogs", "e2fsck", &["-fn", image.to_str().unwrap()]);
    let (disk, _detach) = attach(&image, &["--read-only"]);
    tool("mount", "mount", &["-o", "ro", &disk, &target]);
    let _unmount = Undo("umount", vec!["-l".to_owned(), target.clone()]);
    tool("diffutils", "diff", &["-r", &tree, &format!("{target}/tree")]);
    tool("mount", "umount", &[&target]);
}

#[test]
fn a_tree_copied_to_ext4_on_a_loop_device_over_the_file_is_there_afterwards() {
    copy_a_tree_through_ext4(&[]);
}

#[test]
fn the_same_with_a_loop_device_in_direct_io_mode() {
    copy_a_tree_through_ext4(&["--direct-io=on"]);
}

#[test]
fn single_bytes_and_odd_ranges_are_written_without_touching_their_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let (device, handle) = mounted(dir.path());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(handle.file())
        .unwrap();
    let mut model = noise(3, SIZE);
    file.write_all_at(&model, 0).unwrap();
    for (seed, (offset, length)) in [
        (1, 1),
        (511, 2),
        (700, 300),
        (4095, 513),
        (10_000, 70_001),
        (SIZE - 3, 3),
        (1_048_575, 1_048_577),
    ]
    .into_iter()
    .enumerate()
    {
        let data = noise(seed as u64 + 10, length);
        file.write_all_at(&data, offset as u64).unwrap();
        model[offset..offset + length].copy_from_slice(&data);
    }
    for (offset, length) in [
        (5_000, 100),
        (6_001, 3_000),
        (8_192, 4_096),
        (20_480, 1_000),
        (30_000, 720),
    ] {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, offset as u64, length as u64).unwrap();
        model[offset..offset + length].fill(0);
    }
    rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 1 << 20, 1 << 20).unwrap();
    model[1 << 20..2 << 20].fill(0);
    assert!(device.image() == model);
    let mut odd = vec![0; 5_001];
    file.read_exact_at(&mut odd, 9_999).unwrap();
    assert!(odd == model[9_999..15_000]);
    assert_eq!(file.read_at(&mut odd, SIZE as u64 - 5).unwrap(), 5);
    assert_eq!(file.read_at(&mut odd, SIZE as u64).unwrap(), 0);
    let error = file.write_at(&[1], SIZE as u64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn many_threads_writing_single_bytes_of_the_same_blocks_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (device, handle) = mounted(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let file = OpenOptions::new().write(true).open(handle.file()).unwrap();
            scope.spawn(move || {
                for i in (u64::from(thread)..2048).step_by(8) {
                    file.write_all_at(&[thread + 1], i).unwrap();
                }
            });
        }
    });
    let image = device.image();
    assert!((0..2048).all(|i| usize::from(image[i]) == i % 8 + 1));
}

#[test]
fn fsync_is_a_flush_and_a_synchronous_write_is_durable_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (device, handle) = mounted(dir.path());
    let file = OpenOptions::new().write(true).open(handle.file()).unwrap();
    file.write_all_at(&[7; 4096], 0).unwrap();
    assert_eq!(device.flushes.load(Ordering::SeqCst), 0);
    file.sync_all().unwrap();
    assert_eq!(device.flushes.load(Ordering::SeqCst), 1);
    let synced = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(handle.file())
        .unwrap();
    synced.write_all_at(&[8; 4096], 4096).unwrap();
    let durable = device.fuas.load(Ordering::SeqCst) + device.flushes.load(Ordering::SeqCst);
    assert!(durable >= 2);
}

#[test]
fn an_error_of_the_device_reaches_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (device, handle) = mounted(dir.path());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(handle.file())
        .unwrap();
    device.failing.store(true, Ordering::SeqCst);
    assert_eq!(
        file.write_at(&[0; 512], 0).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    assert_eq!(
        file.write_at(&[0; 5], 0).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    assert_eq!(
        file.read_at(&mut [0; 512], 0).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    device.failing.store(false, Ordering::SeqCst);
    device.read_only.store(true, Ordering::SeqCst);
    assert_eq!(
        file.write_at(&[0; 512], 0).unwrap_err().raw_os_error(),
        Some(libc::EROFS)
    );
    assert_eq!(file.set_len(0).unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert_eq!(
        std::fs::remove_file(handle.file()).unwrap_err().raw_os_error(),
        Some(libc::EPERM)
    );
    let other = handle.file().with_file_name("other");
    assert_eq!(
        std::fs::write(other, "x").unwrap_err().raw_os_error(),
        Some(libc::EPERM)
    );
}

#[test]
fn a_second_mount_at_the_same_place_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_device, handle) = mounted(dir.path());
    let refused = fuse::mount(MemDevice::new(SIZE), "other", &dir.path().join("mnt"));
    assert!(matches!(refused, Err(FuseError::Occupied { .. })));
    assert_eq!(handle.file().metadata().unwrap().len(), SIZE as u64);
    for name in ["", "a/b", ".", ".."] {
        let refused = fuse::mount(MemDevice::new(SIZE), name, &dir.path().join("x"));
        assert!(matches!(refused, Err(FuseError::Name { .. })), "{name}");
    }
}

#[test]
fn dropping_the_handle_while_the_file_is_open_takes_the_mount_away_and_the_user_gets_errors() {
    let dir = tempfile::tempdir().unwrap();
    let (device, handle) = mounted(dir.path());
    let file = File::open(handle.file()).unwrap();
    drop(handle);
    assert!(!dir.path().join("mnt/vol").exists());
    assert_eq!(
        file.read_at(&mut [0; 512], 0).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    assert_eq!(
        Arc::strong_count(&device),
        1,
        "the front-end has let go of the device"
    );
    // The place can be used again at once.
    let again = fuse::mount(device.clone(), "vol", &dir.path().join("mnt")).unwrap();
    assert_eq!(
        File::open(again.file())
            .unwrap()
            .read_at(&mut [0; 512], 0)
            .unwrap(),
        512
    );
}

/// Not a test of its own: the victim of the next one, run in a process of its own.
#[test]
fn helper_process_that_mounts_and_waits_to_be_killed() {
    let Ok(mountpoint) = std::env::var("WALB_TEST_MOUNT_AND_WAIT") else {
        return;
    };
    let _handle = fuse::mount(MemDevice::new(SIZE), "vol", Path::new(&mountpoint)).unwrap();
    println!("mounted");
    std::thread::park();
}

#[test]
fn a_mountpoint_whose_process_was_killed_is_taken_over() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mountpoint = dir.path().join("mnt");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "helper_process_that_mounts_and_waits_to_be_killed",
            "--nocapture",
        ])
        .env("WALB_TEST_MOUNT_AND_WAIT", &mountpoint)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let _unmount = Undo(
        "umount",
        vec!["-l".to_owned(), mountpoint.to_str().unwrap().to_owned()],
    );
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("mounted")));
    victim.kill().unwrap();
    victim.wait().unwrap();
    let error = std::fs::metadata(mountpoint.join("vol")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let (_device, handle) = mounted(dir.path());
    assert_eq!(handle.file().metadata().unwrap().len(), SIZE as u64);
}
