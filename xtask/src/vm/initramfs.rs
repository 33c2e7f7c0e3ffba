//! The guest's root: our programs, Debian's tools, the libraries of both, and kernel modules in the order to load them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::run::quietly;

/// Modules the scenarios need; what these need is found by `modules.dep`. The first one is asked for by name by others.
const MODULES: &[&str] = &[
    "crc32c_generic",
    "virtio_blk",
    "nbd",
    "ublk_drv",
    "dm-mod",
    "sd_mod",
    "scsi_debug",
    "ext4",
    "xfs",
];
/// Programs that stay where they are.
const TOOLS: &[&str] = &[
    "mkfs.ext4",
    "e2fsck",
    "mkfs.xfs",
    "xfs_repair",
    "fstrim",
    "blkdiscard",
    "fio",
    "nbd-client",
    "dmsetup",
    "dd",
    "fsfreeze",
    "ip",
];
/// Ours.
const OURS: &[&str] = &[
    "walb-wdev",
    "wdevc",
    "walb-storage",
    "walb-proxy",
    "walb-archive",
    "walbc",
];

/// Makes the archive that the kernel unpacks.
pub fn make(dir: &Path, kernel: &Kernel, binaries: &Path) -> Result<PathBuf> {
    remove(dir)?;
    let root = dir.join("root");
    for sub in ["bin", "modules", "proc", "sys", "dev", "run", "tmp", "mnt", "etc"] {
        let path = root.join(sub);
        fs::create_dir_all(&path).with_context(|| format!("make directory {}", path.display()))?;
    }
    // mkfs and dmsetup look here for what is mounted.
    symlink("/proc/mounts", root.join("etc/mtab")).context("link etc/mtab")?;
    let mut libraries = BTreeSet::new();
    // Cargo may have replaced our own file since we started.
    let init = dir.join("xtask");
    fs::copy("/proc/self/exe", &init).with_context(|| format!("copy ourselves to {}", init.display()))?;
    let ours = OURS
        .iter()
        .map(|name| (binaries.join(name), format!("bin/{name}")));
    for (from, to) in ours.chain([(init.clone(), "init".to_owned())]) {
        libraries.append(&mut needed_by(&from)?);
        let (from, to) = (from.display().to_string(), root.join(to).display().to_string());
        quietly("strip", &["-o", &to, &from])?;
    }
    fs::remove_file(&init).with_context(|| format!("remove {}", init.display()))?;
    for name in TOOLS {
        let from = find(name)?;
        libraries.append(&mut needed_by(&from)?);
        copy(&from, &root.join("bin").join(name))?;
    }
    for library in &libraries {
        // Under the very name that it is looked up by.
        copy(library, &root.join(library.strip_prefix("/").unwrap_or(library)))?;
    }
    modules(kernel, &root.join("modules"))?;
    pack(&root, &dir.join("initramfs"))
}

/// Removes what [`make`] has made.
pub fn remove(dir: &Path) -> Result<()> {
    let root = dir.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    for suffix in ["cpio", "list"] {
        let path = dir.join("initramfs").with_extension(suffix);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn find(name: &str) -> Result<PathBuf> {
    let dirs = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|dir| Path::new(dir).join(name));
    let found = dirs.into_iter().find(|path| path.is_file());
    found.with_context(|| format!("no program {name}"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("a file has a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The libraries that the loader would load for a program, and the loader.
fn needed_by(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let text = quietly("ldd", &[&program.display().to_string()])?;
    if text.contains("not found") {
        bail!("libraries of {} are missing: {text}", program.display());
    }
    let path = |word: &str| word.starts_with('/').then(|| PathBuf::from(word));
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().find_map(path))
        .collect())
}

/// Unpacks the modules as `000-NAME.ko`, `001-...`: in this order each finds what it needs.
fn modules(kernel: &Kernel, to: &Path) -> Result<()> {
    let table = kernel.modules.join("modules.dep");
    let table = fs::read_to_string(&table).with_context(|| format!("read {}", table.display()))?;
    let mut needs = BTreeMap::new();
    for line in table.lines() {
        let (module, others) = line
            .split_once(':')
            .context("modules.dep: a line without a colon")?;
        needs.insert(module, others.split_whitespace().collect::<Vec<_>>());
    }
    let builtin =
        fs::read_to_string(kernel.modules.join("modules.builtin")).context("read modules.builtin")?;
    let mut order: Vec<&str> = Vec::new();
    for name in MODULES {
        let file = format!("/{name}.ko");
        if builtin.lines().any(|line| line.ends_with(&file)) {
            continue;
        }
        let (module, others) = needs
            .iter()
            .find(|(module, _)| module.contains(&file))
            .with_context(|| format!("kernel {} has no module {name}", kernel.version))?;
        // The list is complete, the deepest need last.
        for module in others.iter().rev().chain([module]) {
            if !order.contains(module) {
                order.push(module);
            }
        }
    }
    for (i, module) in order.into_iter().enumerate() {
        let from = kernel.modules.join(module);
        let name = Path::new(module).file_name().context("a module has a name")?;
        let name = name.to_string_lossy();
        let to = to.join(format!("{i:03}-{}", name.trim_end_matches(".xz")));
        if name.ends_with(".xz") {
            let to = File::create(&to).with_context(|| format!("create {}", to.display()))?;
            let status = Command::new("xz").arg("-dc").arg(&from).stdout(to).status();
            if !status.context("run xz")?.success() {
                bail!("xz does not unpack {}", from.display());
            }
        } else {
            copy(&from, &to)?;
        }
    }
    Ok(())
}

fn pack(root: &Path, to: &Path) -> Result<PathBuf> {
    let list = quietly("find", &[&root.display().to_string(), "-printf", "%P\\n"])?;
    let names = to.with_extension("list");
    fs::write(&names, list.trim_start()).with_context(|| format!("write {}", names.display()))?;
    let archive = to.with_extension("cpio");
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "-o", "-H", "newc", "-R", "0:0", "-F"])
        .arg(&archive)
        .current_dir(root);
    let input = File::open(&names).with_context(|| format!("open {}", names.display()))?;
    let status = cpio.stdin(Stdio::from(input)).status().context("run cpio")?;
    if !status.success() {
        bail!("cpio made no {}", archive.display());
    }
    Ok(archive)
}
