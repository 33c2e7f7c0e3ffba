//! The kernel: Debian's package, verified by apt, unpacked once.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{output, quietly};

/// Suites of Debian that it may come from, best first. Not the suite of this system, whose kernel may have no ublk.
const SUITES: &[&str] = &["bookworm-backports", "trixie"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
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
        let fresh = dir.join("kernel.new");
        let mut reasons = Vec::new();
        let got = SUITES.iter().any(|suite| {
            fetch(&fresh, suite)
                .map_err(|e| reasons.push(format!("{suite}: {e:#}")))
                .is_ok()
        });
        if !got {
            bail!(
                "apt offers no kernel for the machine ({NEWEST} of {}): {}",
                SUITES.join(" or "),
                reasons.join("; ")
            );
        }
        remove(&root)?;
        fs::rename(&fresh, &root).with_context(|| format!("rename {}", fresh.display()))?;
    }
    let version = fs::read_to_string(root.join("ready")).context("read the kernel's version")?;
    Ok(Kernel {
        image: root.join("boot").join(format!("vmlinuz-{version}")),
        modules: root.join("lib/modules").join(&version),
        version,
    })
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    Ok(())
}

fn fetch(root: &Path, suite: &str) -> Result<()> {
    remove(root)?;
    let lists = root.join("apt/lists/partial");
    let archives = root.join("apt/cache/archives/partial");
    for dir in [&lists, &archives] {
        fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
    }
    let sources = root.join("apt/kernel.sources");
    let source = format!(
        "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {suite}\nComponents: main\nArchitectures: amd64\n\
         Signed-By: {KEYRING}\n"
    );
    fs::write(&sources, source).with_context(|| format!("write {}", sources.display()))?;
    let set = |key: &str, path: &Path| format!("{key}={}", path.display());
    let settings = [
        set("Dir::Etc::sourcelist", &sources),
        set("Dir::Etc::sourceparts", Path::new("/dev/null")),
        set("Dir::State::lists", &root.join("apt/lists")),
        set("Dir::Cache", &root.join("apt/cache")),
        set("Dir::State::status", Path::new("/dev/null")),
        // The directories are ours, and not readable by apt's own user everywhere.
        "APT::Sandbox::User=root".to_owned(),
        "APT::Architecture=amd64".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ];
    let apt = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        for setting in &settings {
            command.args(["-o", setting]);
        }
        output(command.args(arguments).current_dir(root))
    };
    // Without this a suite that is gone would be a warning.
    apt("apt-get", &["update", "-q", "--error-on=any"])?;
    let depends = apt("apt-cache", &["depends", "--important", NEWEST])?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .with_context(|| format!("{NEWEST} depends on no kernel, but on: {depends}"))?;
    println!("fetching linux-image-{package} of {suite}");
    apt("apt-get", &["download", "-q", &format!("linux-image-{package}")])?;
    let deb = fs::read_dir(root)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt fetched no package")?;
    let here = root.display().to_string();
    quietly("dpkg-deb", &["-x", &deb.display().to_string(), &here])?;
    // Newer packages have the modules below usr, where an older depmod does not look, and the other way round.
    let (lib, usr_lib) = (root.join("lib"), root.join("usr/lib"));
    if lib.exists() && !usr_lib.exists() {
        fs::create_dir_all(root.join("usr"))?;
        symlink("../lib", &usr_lib).context("link usr/lib")?;
    } else if !lib.exists() {
        symlink("usr/lib", &lib).context("link lib")?;
    }
    let depmod = if Path::new("/usr/sbin/depmod").exists() {
        "/usr/sbin/depmod"
    } else {
        "/sbin/depmod"
    };
    quietly(depmod, &["-b", &here, package])?;
    fs::remove_file(&deb).with_context(|| format!("remove {}", deb.display()))?;
    remove(&root.join("apt"))?;
    fs::write(root.join("ready"), package).context("remember the kernel's version")
}
