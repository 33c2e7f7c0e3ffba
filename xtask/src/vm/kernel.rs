//! The kernel: Debian's package, verified by apt, unpacked once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{output, quietly};

/// Where it comes from. Not the suite of this system, whose kernel may have no ublk.
const SOURCE: &str = "\
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";
/// The package that always depends on the newest one.
const NEWEST: &str = "linux-image-amd64";

/// An unpacked kernel.
pub struct Kernel {
    /// As `uname -r` says.
    pub version: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Its modules, with `modules.dep`.
    pub modules: PathBuf,
}

/// The kernel kept in `dir`, or the newest one if there is none yet or it is wanted.
pub fn get(dir: &Path, newest: bool) -> Result<Kernel> {
    let root = dir.join("kernel");
    if newest || !root.join("ready").exists() {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
        }
        fetch(&root).context("get a kernel from Debian's backports")?;
    }
    let version = fs::read_to_string(root.join("ready")).context("read the kernel's version")?;
    Ok(Kernel {
        image: root.join("boot").join(format!("vmlinuz-{version}")),
        modules: root.join("lib/modules").join(&version),
        version,
    })
}

fn fetch(root: &Path) -> Result<()> {
    let lists = root.join("apt/lists/partial");
    let archives = root.join("apt/cache/archives/partial");
    for dir in [&lists, &archives] {
        fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
    }
    let sources = root.join("apt/backports.sources");
    fs::write(&sources, SOURCE).with_context(|| format!("write {}", sources.display()))?;
    let set = |key: &str, path: &Path| format!("{key}={}", path.display());
    let settings = [
        set("Dir::Etc::sourcelist", &sources),
        set("Dir::Etc::sourceparts", Path::new("/dev/null")),
        set("Dir::State::lists", &root.join("apt/lists")),
        set("Dir::Cache", &root.join("apt/cache")),
        set("Dir::State::status", Path::new("/dev/null")),
        // The directories are ours, and not readable by apt's own user everywhere.
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        for setting in &settings {
            command.args(["-o", setting]);
        }
        output(command.args(arguments).current_dir(root))
    };
    apt("apt-get", &["update", "-q"])?;
    let depends = apt("apt-cache", &["depends", "--important", NEWEST])?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .with_context(|| format!("{NEWEST} depends on no kernel, but on: {depends}"))?;
    println!("fetching linux-image-{package}");
    apt("apt-get", &["download", "-q", &format!("linux-image-{package}")])?;
    let deb = fs::read_dir(root)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt fetched no package")?;
    let here = root.display().to_string();
    quietly("dpkg-deb", &["-x", &deb.display().to_string(), &here])?;
    let depmod = if Path::new("/usr/sbin/depmod").exists() {
        "/usr/sbin/depmod"
    } else {
        "/sbin/depmod"
    };
    quietly(depmod, &["-b", &here, package])?;
    fs::remove_file(&deb).with_context(|| format!("remove {}", deb.display()))?;
    fs::write(root.join("ready"), package).context("remember the kernel's version")
}
