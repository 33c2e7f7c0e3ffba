//! Goal: when everything of the backup system is gone but the archive's files, they are enough. Method: a guest with ext4;
//! the archive dies, its database with it, and its directory is all that is copied. Oracle: the device, read over NBD
//! while the guest's file system is frozen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use walb_tests::image::digest_file;
use walb_tests::wait::PATIENCE;
use walb_tests::{Cluster, Role, VolumeSpec, binaries};

/// Runs a tool; a missing one fails the test.
fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .env_remove("WALBC_CONFIG")
        .output()
        .with_context(|| {
            format!(
                "run {}: `cargo xtask test` installs what it needs",
                program.display()
            )
        })?;
    ensure!(
        output.status.success(),
        "{} {arguments:?}: {}: {}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Undone when dropped, whatever happened.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).output();
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

/// Files of different sizes, some compressible; different in each round.
fn write_files(dir: &Path, round: u64) -> Result<()> {
    fs::create_dir_all(dir)?;
    for n in 0..30_u64 {
        let length = usize::try_from(n * n * 300)?;
        let word = |i: usize| {
            (i as u64 / 3)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15 + n + round)
                .to_le_bytes()
        };
        let bytes: Vec<u8> = (0..length / 8).flat_map(word).collect();
        fs::write(dir.join(format!("file-{n}")), bytes)?;
    }
    Ok(())
}

#[test]
fn the_files_of_a_dead_archive_restore_a_file_system() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let dir = cluster.dir().to_owned();
    let spec = VolumeSpec {
        size: 64 << 20,
        ..VolumeSpec::default()
    };
    let (log, data, fuse) = (dir.join("vol0.ldev"), dir.join("vol0.ddev"), dir.join("fuse"));
    fs::File::create(&log)?.set_len(spec.log_size)?;
    fs::File::create(&data)?.set_len(spec.size)?;
    fs::create_dir(&fuse)?;
    let (socket, point) = (cluster.nbd_socket("vol0"), dir.join("mnt"));
    fs::create_dir(&point)?;
    cluster.wdevc(&[
        "format-ldev",
        text(&log)?,
        text(&data)?,
        "-n",
        "vol0",
        "-pbs",
        "4096",
    ])?;
    #[rustfmt::skip]
    cluster.wdevc(&[
        "create-wdev", text(&log)?, text(&data)?, "-n", "vol0", "-nbd", text(&socket)?, "-fuse", text(&fuse)?,
    ])?;
    let device = run("losetup", &["--find", "--show", text(&fuse.join("vol0"))?])?;
    let _detach = Undo("losetup", vec!["-d".into(), device.clone()]);
    run("mkfs.ext4", &["-q", "-F", &device])?;
    run("mount", &[&device, text(&point)?])?;
    let _unmount = Undo("umount", vec!["-l".into(), text(&point)?.to_owned()]);
    write_files(&point.join("before"), 0)?;
    cluster.register("vol0")?;
    cluster.walbc(Role::Storage, &["full-bkp", "vol0", "--wait"])?;

    // Three instants, each frozen, read and marked.
    let uri = format!("nbd+unix:///vol0?socket={}", text(&socket)?);
    let mut taken: Vec<(u64, PathBuf, PathBuf)> = Vec::new();
    for round in 1..=3 {
        write_files(&point.join("files"), round)?;
        if round == 3 {
            fs::remove_dir_all(point.join("before"))?;
        }
        let tree = dir.join(format!("tree-{round}"));
        run("cp", &["-a", text(&point)?, text(&tree)?])?;
        run("fsfreeze", &["-f", text(&point)?])?;
        let thaw = Undo("fsfreeze", vec!["-u".into(), text(&point)?.to_owned()]);
        let captured = dir.join(format!("captured-{round}"));
        run("nbdcopy", &[&uri, text(&captured)?])?;
        let gid = cluster.snapshot("vol0")?;
        drop(thaw);
        cluster.until_restorable("vol0", gid, PATIENCE)?;
        taken.push((gid, captured, tree));
    }

    cluster.daemon(Role::Archive).kill9();
    let archive = dir.join("a0");
    let mut removed = 0;
    for entry in fs::read_dir(&archive)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("metadata.sqlite") {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    ensure!(removed > 0, "there was no database");
    let copy = dir.join("elsewhere");
    run("cp", &["-a", "--sparse=always", text(&archive)?, text(&copy)?])?;
    fs::rename(&archive, dir.join("gone"))?;

    let walbc = binaries::path("walbc");
    let copy = text(&copy)?;
    run(&walbc, &["offline", "verify", "--archive", copy])?;
    let restored = dir.join("restored");
    for (gid, captured, tree) in &taken {
        let gid = gid.to_string();
        #[rustfmt::skip]
        run(&walbc, &[
            "offline", "restore", "--archive", copy, "--volume", "vol0", "--gid", &gid, "--force", "-o", text(&restored)?,
        ])?;
        ensure!(
            digest_file(&restored)? == digest_file(captured)?,
            "gid {gid} differs"
        );
        run("e2fsck", &["-fn", text(&restored)?])?;
        let look = dir.join("look");
        fs::create_dir_all(&look)?;
        run("mount", &["-o", "loop,ro,noload", text(&restored)?, text(&look)?])?;
        let unmount = Undo("umount", vec![text(&look)?.to_owned()]);
        run("diff", &["-r", text(tree)?, text(&look)?])?;
        drop(unmount);
    }
    Ok(())
}
