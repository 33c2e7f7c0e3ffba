//! What a fresh Debian machine lacks, installed through apt without questions.

use std::path::Path;
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
    ("pg_ctlcluster", "postgresql"),
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

/// Told to Debian's PostgreSQL while it is installed: make no cluster of the system's own, and start none.
const NO_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/no-main-cluster.conf";

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
    let no_cluster = packages
        .contains(&"postgresql")
        .then(NoCluster::say)
        .transpose()?;
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(&packages);
    apt(&arguments)?;
    drop(no_cluster);
    match needs.iter().find(|(program, _)| !is_there(program)) {
        Some((program, package)) => bail!("{program} is still missing after installing {package}"),
        None => Ok(()),
    }
}

/// The file is there as long as this value.
struct NoCluster;

impl NoCluster {
    fn say() -> Result<Self> {
        let path = Path::new(NO_CLUSTER);
        let dir = path.parent().context("an absolute path")?;
        std::fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
        std::fs::write(path, "create_main_cluster = false\n")
            .with_context(|| format!("write {NO_CLUSTER}"))?;
        Ok(Self)
    }
}

impl Drop for NoCluster {
    fn drop(&mut self) {
        // Left behind, it would only keep a later installation from making a cluster.
        let _ = std::fs::remove_file(NO_CLUSTER);
    }
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    // A machine that has just been started may be updating itself, and a mirror may be slow to answer.
    command
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
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
        .any(|dir| Path::new(dir).join(program).is_file())
}

/// Fails unless we are root.
pub fn root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this mounts file systems and makes loop devices: run it as root");
    }
    Ok(())
}
