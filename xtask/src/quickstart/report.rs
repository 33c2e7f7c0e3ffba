//! What a person, or a program, is told at the end.

use std::fmt;
use std::path::Path;

use serde::Serialize;

/// The whole run.
#[derive(Serialize)]
pub struct Report {
    pub volume_bytes: u64,
    pub tree_files: u64,
    pub tree_bytes: u64,
    pub writer_files: u64,
    pub writer_bytes: u64,
    pub backup_seconds: f64,
    pub wire_bytes: u64,
    pub snapshots: Vec<SnapshotReport>,
    pub total_seconds: f64,
}

/// One snapshot.
#[derive(Serialize)]
pub struct SnapshotReport {
    pub gid: u64,
    /// From the command to the moment it could have been restored.
    pub restorable_seconds: f64,
    pub restore_seconds: f64,
    pub sha256: String,
    /// Digest, file system check and files were all as they should be.
    pub identical: bool,
}

fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for reading, to one digit")]
    let value = bytes as f64 / f64::from(1 << 20);
    format!("{value:.1} MiB")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nA volume of {} was protected while it was in use, and restored.\n",
            mib(self.volume_bytes)
        )?;
        writeln!(
            f,
            "  on it            {} files, {}",
            self.tree_files,
            mib(self.tree_bytes)
        )?;
        writeln!(
            f,
            "  written meanwhile {} times, {}",
            self.writer_files,
            mib(self.writer_bytes)
        )?;
        writeln!(
            f,
            "  full backup      {:.1} s, the writer never paused",
            self.backup_seconds
        )?;
        for snapshot in &self.snapshots {
            writeln!(
                f,
                "  snapshot {:<7} restorable after {:.2} s, restored in {:.1} s: {}",
                snapshot.gid,
                snapshot.restorable_seconds,
                snapshot.restore_seconds,
                if snapshot.identical {
                    "SHA-256 equal, e2fsck clean, every file equal"
                } else {
                    "NOT identical"
                }
            )?;
        }
        writeln!(
            f,
            "  over the wire    {} (TLS), for a volume of {}",
            mib(self.wire_bytes),
            mib(self.volume_bytes)
        )?;
        writeln!(f, "  altogether       {:.1} s\n", self.total_seconds)
    }
}

/// What to try after `--keep`.
pub fn commands_to_play_with(binaries: &Path, dir: &Path) -> String {
    let port = |role: &str| {
        let config = std::fs::read_to_string(dir.join(format!("walb-{role}.toml"))).unwrap_or_default();
        let address = config
            .lines()
            .find_map(|l| l.strip_prefix("listen = "))
            .unwrap_or_default()
            .to_owned();
        address
            .trim_matches('"')
            .rsplit(':')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let (storage, proxy, archive) = (port("storage"), port("proxy"), port("archive"));
    let (bin, dir) = (binaries.display(), dir.display());
    format!(
        "It is all still running. To play with it:

  export PATH={bin}:$PATH WALBC_CONFIG={dir}/pki/walbc.toml WALB_WDEV_SOCKET={dir}/wdev.sock
  ls {dir}/mnt                                             # the protected file system
  walbc -a 127.0.0.1 -p {storage} status                      # storage; proxy: -p {proxy}, archive: -p {archive}
  walbc -a 127.0.0.1 -p {storage} snapshot vol0
  walbc -a 127.0.0.1 -p {archive} get restorable vol0 all
  walbc -a 127.0.0.1 -p {archive} restore vol0 GID --wait
  walbc -a 127.0.0.1 -p {archive} get restored-path vol0 GID
  wdevc get-log-usage vol0

To end it: cargo xtask quickstart --stop {dir}"
    )
}
