//! Goal: where the archive's file system shares extents, a restore copies nothing. Method: XFS on a loop device of our
//! own; what the restored image takes is told by the file system.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use walb_tests::guest::Load;
use walb_tests::image::digest_file;
use walb_tests::wait::PATIENCE;
use walb_tests::{Cluster, Guest, Options, Role, VolumeSpec};

/// A mounted XFS of our own, gone when dropped.
struct Xfs(PathBuf);

impl Xfs {
    fn mount(dir: &Path) -> Result<Self> {
        let (image, point) = (dir.join("xfs.img"), dir.join("xfs"));
        std::fs::File::create(&image)?.set_len(512 << 20)?;
        std::fs::create_dir(&point)?;
        for (program, arguments) in [
            ("mkfs.xfs", vec!["-q", "-m", "reflink=1"]),
            ("mount", vec!["-o", "loop"]),
        ] {
            let mut command = Command::new(program);
            command.args(arguments).arg(&image);
            if program == "mount" {
                command.arg(&point);
            }
            let status = command
                .status()
                .with_context(|| format!("run {program} as root"))?;
            ensure!(
                status.success(),
                "{program} failed: this test needs root and xfsprogs"
            );
        }
        Ok(Self(point))
    }

    /// Bytes in use.
    fn used(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_restore_shares_the_base_images_blocks_where_the_file_system_can() -> Result<()> {
    let place = tempfile::tempdir()?;
    let xfs = Xfs::mount(place.path())?;
    let cluster = Cluster::start_with(&Options {
        archive_dir: Some(xfs.0.join("archive")),
        ..Options::default()
    })?;
    let size = 96 << 20;
    cluster.create_device(&VolumeSpec {
        size,
        log_size: 256 << 20,
        ..VolumeSpec::default()
    })?;
    // Noise everywhere, so that the base image takes its full size.
    let noise: Vec<u8> = (0..size / 8)
        .flat_map(|n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
        .collect();
    let mut writer = walb_wdev::nbd::client::NbdClient::connect(&cluster.nbd_socket("vol0"), "vol0")?;
    for (at, chunk) in noise.chunks(1 << 20).enumerate() {
        writer.write((at as u64) << 20, chunk)?;
    }
    drop(writer);
    cluster.register("vol0")?;
    cluster.walbc(Role::Storage, &["full-bkp", "vol0", "--wait"])?;
    let mut writer = walb_wdev::nbd::client::NbdClient::connect(&cluster.nbd_socket("vol0"), "vol0")?;
    writer.write_fua(8 << 20, &vec![0x5a; 1 << 20])?;
    writer.trim(20 << 20, 1 << 20)?;
    let mut image = Vec::new();
    writer.copy_to(&mut image)?;
    let gid = cluster.snapshot("vol0")?;
    cluster.until_restorable("vol0", gid, PATIENCE)?;

    let before = xfs.used()?;
    let text = gid.to_string();
    cluster.walbc(Role::Archive, &["restore", "vol0", &text, "--wait"])?;
    let path = cluster.walbc(Role::Archive, &["get", "restored-path", "vol0", &text])?;
    let grown = xfs.used()?.saturating_sub(before);
    ensure!(
        before > size,
        "the base image takes only {before} bytes: the test shows nothing"
    );
    ensure!(
        grown < size / 4,
        "the restored image takes {grown} bytes of its own: nothing is shared"
    );
    let captured = walb_tests::image::digest(image.as_slice())?;
    ensure!(
        digest_file(Path::new(&path))? == captured,
        "restored image differs"
    );

    // Writing to the device, and to the restored image, changes neither the base nor a second restore.
    std::fs::File::options().write(true).open(&path)?.set_len(0)?;
    cluster.walbc(Role::Archive, &["del-restored", "vol0", &text])?;
    let guest = Guest::start(
        &cluster.nbd_socket("vol0"),
        "vol0",
        3,
        Load {
            pace: Duration::from_millis(1),
            max_blocks: 64,
        },
    );
    std::thread::sleep(Duration::from_millis(300));
    drop(guest);
    ensure!(
        cluster.restored_digest("vol0", gid)? == captured,
        "restored a second time"
    );
    Ok(())
}
