//! Certificates and configurations for one of each server on this machine, as an operator would write them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Role and node id of each.
pub const SERVERS: [(&str, &str); 3] = [("storage", "s0"), ("proxy", "p0"), ("archive", "a0")];

/// Makes an authority and certificates in `DIR/pki`, and walbc's configuration for an operator; `walbc` runs it.
pub fn certificates(dir: &Path, walbc: impl Fn(&[&str]) -> Result<String>) -> Result<()> {
    let pki = dir.join("pki");
    let at = pki.to_str().context("path is not UTF-8")?;
    walbc(&["pki", "init", "--dir", at])?;
    for (role, id) in SERVERS.into_iter().chain([("operator", "admin")]) {
        #[rustfmt::skip]
        walbc(&["pki", "issue", "--dir", at, "--role", role, "--id", id, "--host", "127.0.0.1", "--host", "localhost"])?;
    }
    let client = "ca = \"ca.pem\"\ncert = \"admin.pem\"\nkey = \"admin.key\"\n";
    fs::write(pki.join("walbc.toml"), client).context("write walbc.toml")
}

/// Writes the configuration of a server with its data in `DIR/NODE`; `address` is that of a role. Returns where it is.
pub fn configuration(
    dir: &Path,
    (role, node): (&str, &str),
    address: impl Fn(&str) -> String,
) -> Result<PathBuf> {
    let data = dir.join(node);
    fs::create_dir_all(&data).with_context(|| format!("make directory {}", data.display()))?;
    let settings = match role {
        "storage" => format!(
            "archive = {:?}\nproxies = [{:?}]\n",
            address("archive"),
            address("proxy")
        ),
        _ => String::new(),
    };
    let pki = dir.join("pki");
    let file = |suffix| pki.join(format!("{node}.{suffix}"));
    let config = format!(
        "[node]\nlisten = {:?}\ndata_dir = {data:?}\n\n[node.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n\n[{role}]\n{settings}",
        address(role),
        pki.join("ca.pem"),
        file("pem"),
        file("key"),
    );
    let path = dir.join(format!("walb-{role}.toml"));
    fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The commands that make a device a volume of all three; each is for the server of a role.
pub fn registration(volume: &str, device: &str, archive: &str) -> [(&'static str, Vec<String>); 4] {
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
    [
        ("storage", words(&["init-vol", volume, device])),
        ("archive", words(&["init-vol", volume])),
        (
            "proxy",
            words(&["archive-info", "add", volume, "a0", archive, "lz4:0:1"]),
        ),
        ("proxy", words(&["start", volume])),
    ]
}
