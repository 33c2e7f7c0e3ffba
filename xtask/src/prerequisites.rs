//! What a fresh Debian machine lacks, installed through apt without questions.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// A program and the package that has it.
type Need = (&'static str, &'static str);

/// For the quickstart.
pub const QUICKSTART: &[Need] = &[
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("losetup", "mount"),
    ("mount", "mount"),
    ("fsfreeze", "util-linux"),
    ("diff", "diffutils"),
];

/// For the tests: clients of other projects that must work with ours, and file systems.
pub const TESTS: &[Need] = &[
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("mkfs.xfs", "xfsprogs"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("qemu-io", "qemu-utils"),
    ("qemu-img", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("fio", "fio"),
    ("python3", "python3"),
    ("lz4", "lz4"),
    ("xxhsum", "xxhash"),
    ("nbdkit", "nbdkit"),
    ("qemu-nbd", "qemu-utils"),
    ("qemu-storage-daemon", "qemu-utils"),
];

/// For the benches of files and of the flow: the yardsticks.
pub const BENCH: &[Need] = &[("lz4", "lz4"), ("xxhsum", "xxhash")];

/// For the bench of the device: what measures, and what it is measured beside.
pub const BENCH_DEVICE: &[Need] = &[
    ("fio", "fio"),
    ("losetup", "mount"),
    ("nbdkit", "nbdkit"),
    ("qemu-nbd", "qemu-utils"),
    ("qemu-storage-daemon", "qemu-utils"),
];

/// Installs what is missing.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let mut packages: Vec<_> = needs
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, p)| *p)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!("installing: {}", packages.join(" "));
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(&packages);
    apt(&arguments)?;
    match needs.iter().find(|(program, _)| !is_there(program)) {
        Some((program, package)) => bail!("{program} is still missing after installing {package}"),
        None => Ok(()),
    }
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null());
    // What apt tells is of interest only when it fails.
    crate::run::output(&mut command)
        .map(drop)
        .context("install packages (this needs root and Debian's apt)")
}

fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|dir| std::path::Path::new(dir).join(program).is_file())
}

/// Fails unless we are root.
pub fn root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this mounts file systems and makes loop devices: run it as root");
    }
    Ok(())
}
