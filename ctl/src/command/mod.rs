//! The commands, one file per family: what clap reads, the request made of it, the text made of the answer.

mod archive_info;
mod backup;
mod get;
mod jobs;
mod node;
mod pki;
mod restore;
mod status;
mod volume;
mod wait;

#[cfg(test)]
mod help_tests;

use clap::{Parser, Subcommand};

use crate::answer::Answer;
use crate::error::CommandError;
use crate::session::{Options, Session};

pub use get::UNSUPPORTED_TARGETS;

/// Commands of the existing tool that are still to come.
pub const UNSUPPORTED_COMMANDS: &[&str] = &[
    "del-cold",
    "enable-snapshot",
    "disable-snapshot",
    "replicate",
    "apply",
    "merge",
    "resize",
    "bhash",
    "virt-full-scan",
    "gc-diff",
    "exec",
    "sleep",
    "dbg-reload-metadata",
    "dbg-set-uuid",
    "dbg-set-state",
    "dbg-set-base",
    "dbg-dump-logpack-header",
];

/// Attempts of the commands that only look, unless `-retry` says otherwise.
const DEFAULT_RETRIES: u32 = 2;

/// Controls WalB servers: storage, proxy and archive.
#[derive(Debug, Parser)]
#[command(
    name = "walbc",
    version,
    disable_help_subcommand = true,
    override_usage = "walbc [-a HOST] [-p PORT] [global options] COMMAND [arguments]",
    after_help = "Example:\n  walbc -a s0 -p 10000 status\n\n-id, -to, -debug and -retry are also accepted with one dash, \
before the command.\nThe identity comes from the file named by WALBC_CONFIG, ~/.config/walb/walbc.toml or \
/etc/walb/walbc.toml:\n  ca = \"ca.pem\"\n  cert = \"op.pem\"\n  key = \"op.key\"\n  host = \"s0\"    # optional, as -a\n  \
port = 10000   # optional, as -p"
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a server, or one volume of it
    Status(status::Status),
    /// Make a volume known to a storage or an archive
    InitVol(volume::InitVol),
    /// Make a server forget a volume, with all its data there
    ClearVol(volume::ClearVol),
    /// Drop a volume's logs (storage) or all its data (archive); it stays known
    ResetVol(volume::ResetVol),
    /// Start a volume
    Start(volume::Start),
    /// Stop a volume; returns when accepted
    Stop(volume::Stop),
    /// Send a whole volume to the primary archive; returns when accepted
    FullBkp(backup::FullBkp),
    /// Send what differs from the archive's latest snapshot, over a log that was lost; returns when accepted
    HashBkp(backup::HashBkp),
    /// Take a snapshot that stays, and print its gid
    Snapshot(backup::Snapshot),
    /// Make the image of a snapshot; returns when accepted
    Restore(restore::Restore),
    /// Remove the restored image of a snapshot
    DelRestored(restore::DelRestored),
    /// Tell a proxy which archives a volume goes to
    ArchiveInfo(archive_info::ArchiveInfoCommand),
    /// Try waiting transfers now
    Kick(node::Kick),
    /// Limit how fast full and hash backups read, those that run too, until the storage restarts
    SetFullScanBps(node::SetFullScanBps),
    /// Print one fact
    Get(get::Get),
    /// List long actions, newest first
    Jobs(jobs::Jobs),
    /// Show, follow or cancel one long action
    Job(jobs::JobCommand),
    /// Stop a server
    Shutdown(node::Shutdown),
    /// Print the server's version
    Version(node::Version),
    /// Make and show certificates; needs no server
    Pki(pki::Pki),
    /// Read and write WalB's files with no server, no configuration, no network
    Offline(walb_offline::Offline),
}

impl Command {
    /// Runs it. `origin` is its name for errors.
    pub async fn run(self, options: &Options, origin: &str) -> Result<Answer, CommandError> {
        let retries = match (&self, options.retry) {
            (Self::Status(_) | Self::Get(_), retries) => retries.unwrap_or(DEFAULT_RETRIES),
            (_, Some(_)) => {
                return Err(CommandError::Usage(
                    "-retry is for status and get only: others are not repeated blindly".into(),
                ));
            }
            (_, None) => 0,
        };
        let open = || Session::open(options, origin, retries.saturating_add(1));
        match self {
            Self::Pki(command) => command.run(time::OffsetDateTime::now_utc()),
            Self::Offline(_) => unreachable!("run without a runtime, before this is called"),
            Self::Status(command) => command.run(&open()?).await,
            Self::InitVol(command) => command.run(&open()?).await,
            Self::ClearVol(command) => command.run(&open()?).await,
            Self::ResetVol(command) => command.run(&open()?).await,
            Self::Start(command) => command.run(&open()?).await,
            Self::Stop(command) => command.run(&open()?).await,
            Self::FullBkp(command) => command.run(&open()?).await,
            Self::HashBkp(command) => command.run(&open()?).await,
            Self::Snapshot(command) => command.run(&open()?).await,
            Self::Restore(command) => command.run(&open()?).await,
            Self::DelRestored(command) => command.run(&open()?).await,
            Self::ArchiveInfo(command) => command.run(&open()?).await,
            Self::Kick(command) => command.run(&open()?).await,
            Self::SetFullScanBps(command) => command.run(&open()?).await,
            Self::Get(command) => command.run(&open()?).await,
            Self::Jobs(command) => command.run(&open()?).await,
            Self::Job(command) => command.run(&open()?).await,
            Self::Shutdown(command) => command.run(&open()?).await,
            Self::Version(command) => command.run(&open()?).await,
        }
    }
}
