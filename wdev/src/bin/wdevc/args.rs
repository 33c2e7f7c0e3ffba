//! The command line.

use camino::Utf8PathBuf;
use clap::{Args as ClapArgs, Parser, Subcommand};
use walb_wdev::config::{IoEngine, OnRingFull};

/// Controls WalB devices of this host.
///
/// WDEV is a device of walb-wdev: NAME, wdev:NAME, or wdev:SOCKET#NAME for another control socket. Or one of the kernel driver:
/// /dev/walb/NAME; such a device is started and stopped with the driver's own tool.
#[derive(Debug, Parser)]
#[command(
    name = "wdevc",
    version,
    max_term_width = 100,
    after_help = "Example:\n  wdevc list"
)]
pub struct Args {
    /// More messages.
    #[arg(long, global = true)]
    pub debug: bool,
    /// The control socket of walb-wdev [default: $WALB_WDEV_SOCKET or /run/walb/wdev/control.sock].
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<Utf8PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A device.
#[derive(Debug, ClapArgs)]
pub struct Wdev {
    /// NAME, wdev:NAME, wdev:SOCKET#NAME or /dev/walb/NAME.
    pub wdev: String,
}

/// Options of create-wdev.
#[derive(Debug, ClapArgs)]
pub struct Create {
    /// Log device, formatted: a file or a block device.
    pub ldev: Utf8PathBuf,
    /// Data device: a file or a block device.
    pub ddev: Utf8PathBuf,
    /// Name of the device [default: the one the log device was formatted with].
    #[arg(short, value_name = "NAME")]
    pub name: Option<String>,
    /// Serve NBD on this unix socket.
    #[arg(long, value_name = "SOCKET")]
    pub nbd: Option<Utf8PathBuf>,
    /// Connect the kernel's NBD client /dev/nbdN to that socket, and again after each restart.
    #[arg(long, value_name = "N", requires = "nbd", conflicts_with = "ublk")]
    pub nbd_node: Option<u32>,
    /// Offer the device over TCP and TLS to this guest (role guest, this node id); may be given several times.
    #[arg(long, value_name = "NODE")]
    pub nbd_guest: Vec<String>,
    /// Most NBD clients at once [default: 64].
    #[arg(long, value_name = "N")]
    pub nbd_clients: Option<u32>,
    /// Show the device as a file in this directory.
    #[arg(long, value_name = "DIR")]
    pub fuse: Option<Utf8PathBuf>,
    /// Show the device as the block device /dev/ublkbN; it keeps its number through restarts. Needs Linux 6.12.
    #[arg(long, value_name = "N")]
    pub ublk: Option<u32>,
    /// Most data of a logpack, KiB; 0 is no limit of its own.
    #[arg(long, value_name = "KIB")]
    pub maxl: Option<u32>,
    /// Most data not yet on the data device, MiB.
    #[arg(long, value_name = "MIB")]
    pub maxp: Option<u32>,
    /// What happens when the ring is full of log that was not released [default: go-on].
    #[arg(long, value_name = "POLICY")]
    pub on_ring_full: Option<OnRingFull>,
    /// How reads and writes that can be done at once are done.
    #[arg(long, value_enum, default_value = "auto")]
    pub io: IoEngine,
    /// Write the log past the page cache, where the log device takes that. Otherwise through it while nobody flushes.
    #[arg(long, conflicts_with = "log_buffered")]
    pub log_direct: bool,
    /// Write the log through the page cache, always.
    #[arg(long)]
    pub log_buffered: bool,
    /// Read and write the data past the page cache, where the data device takes that. They go through it otherwise.
    #[arg(long)]
    pub data_direct: bool,
    /// Accepted for scripts; has no effect here.
    #[arg(long, value_name = "MIB")]
    pub minp: Option<u32>,
    /// Accepted for scripts; has no effect here.
    #[arg(long, value_name = "MS")]
    pub qp: Option<u32>,
    /// Accepted for scripts; has no effect here.
    #[arg(long, value_name = "MIB")]
    pub fs: Option<u32>,
    /// Longest time until the log is synced, ms.
    #[arg(long, value_name = "MS")]
    pub fp: Option<u32>,
    /// Accepted for scripts; has no effect here.
    #[arg(long, value_name = "N")]
    pub bp: Option<u32>,
    /// Accepted for scripts; has no effect here.
    #[arg(long, value_name = "N")]
    pub bi: Option<u32>,
}

/// Options of format-ldev.
#[derive(Debug, ClapArgs)]
pub struct Format {
    /// Log device: a file or a block device.
    pub ldev: Utf8PathBuf,
    /// Data device: a file or a block device; its data are kept.
    pub ddev: Utf8PathBuf,
    /// Name of the device.
    #[arg(short, value_name = "NAME", default_value = "")]
    pub name: String,
    /// Do not discard the log device first.
    #[arg(long)]
    pub nd: bool,
    /// Physical block size, 512 or 4096: for files [default: 512]; block devices have their own.
    #[arg(long, value_name = "BYTES")]
    pub pbs: Option<u32>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a log device ready for use; all log on it is lost. Prints its super block.
    #[command(
        name = "format-ldev",
        after_help = "Example:\n  wdevc format-ldev /dev/vg/log0 /dev/vg/data0 -n vol0"
    )]
    FormatLdev(Format),
    /// Starts a device, now and at every start of walb-wdev.
    #[command(
        name = "create-wdev",
        after_help = "Example:\n  wdevc create-wdev /dev/vg/log0 /dev/vg/data0 -n vol0 -nbd /run/walb/vol0.sock"
    )]
    CreateWdev(Create),
    /// Stops a device and forgets it; its log and data stay.
    #[command(name = "delete-wdev", after_help = "Example:\n  wdevc delete-wdev vol0")]
    DeleteWdev {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// Also when it is in use.
        #[arg(short)]
        force: bool,
    },
    /// Lists the devices of walb-wdev: major, minor (both 0), name.
    #[command(name = "list", after_help = "Example:\n  wdevc list")]
    List,
    /// Prints everything about a device.
    #[command(name = "get-status", after_help = "Example:\n  wdevc get-status vol0 --json")]
    GetStatus {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Sets the time between automatic checkpoints.
    #[command(
        name = "set-checkpoint-interval",
        after_help = "Example:\n  wdevc set-checkpoint-interval vol0 10000"
    )]
    SetCheckpointInterval {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// Milliseconds; 0 turns them off.
        ms: u32,
    },
    /// Prints the milliseconds between automatic checkpoints.
    #[command(
        name = "get-checkpoint-interval",
        after_help = "Example:\n  wdevc get-checkpoint-interval vol0"
    )]
    GetCheckpointInterval(Wdev),
    /// Writes back what is logged and records it.
    #[command(
        name = "force-checkpoint",
        after_help = "Example:\n  wdevc force-checkpoint vol0"
    )]
    ForceCheckpoint(Wdev),
    /// Releases the log before an lsid.
    #[command(
        name = "set-oldest-lsid",
        after_help = "Example:\n  wdevc set-oldest-lsid vol0 1234"
    )]
    SetOldestLsid {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// A logpack must begin there, at most at the last checkpoint.
        lsid: u64,
    },
    /// Prints the start of the kept log.
    #[command(
        name = "get-oldest-lsid",
        after_help = "Example:\n  wdevc get-oldest-lsid vol0"
    )]
    GetOldestLsid(Wdev),
    /// Prints the lsid below which the data device has everything.
    #[command(
        name = "get-written-lsid",
        after_help = "Example:\n  wdevc get-written-lsid vol0"
    )]
    GetWrittenLsid(Wdev),
    /// Prints the written lsid as of the last checkpoint.
    #[command(
        name = "get-prev-written-lsid",
        after_help = "Example:\n  wdevc get-prev-written-lsid vol0"
    )]
    GetPrevWrittenLsid(Wdev),
    /// Prints the lsid below which the log is durable.
    #[command(
        name = "get-permanent-lsid",
        after_help = "Example:\n  wdevc get-permanent-lsid vol0"
    )]
    GetPermanentLsid(Wdev),
    /// Prints the lsid below which the log is written.
    #[command(
        name = "get-completed-lsid",
        after_help = "Example:\n  wdevc get-completed-lsid vol0"
    )]
    GetCompletedLsid(Wdev),
    /// Prints the lsid that the next logpack gets.
    #[command(
        name = "get-latest-lsid",
        after_help = "Example:\n  wdevc get-latest-lsid vol0"
    )]
    GetLatestLsid(Wdev),
    /// Prints the log in use, in physical blocks.
    #[command(name = "get-log-usage", after_help = "Example:\n  wdevc get-log-usage vol0")]
    GetLogUsage(Wdev),
    /// Prints the size of the ring, in physical blocks.
    #[command(
        name = "get-log-capacity",
        after_help = "Example:\n  wdevc get-log-capacity vol0"
    )]
    GetLogCapacity(Wdev),
    /// Prints 1 if the device honours flushes.
    #[command(
        name = "is-flush-capable",
        after_help = "Example:\n  wdevc is-flush-capable vol0"
    )]
    IsFlushCapable(Wdev),
    /// Grows a device.
    #[command(name = "resize", after_help = "Example:\n  wdevc resize vol0 4194304")]
    Resize {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// New size in logical blocks of 512 bytes; 0 is the size of the data device.
        #[arg(default_value_t = 0)]
        lb: u64,
    },
    /// Prints 1 if log was overwritten before it was released.
    #[command(
        name = "is-log-overflow",
        after_help = "Example:\n  wdevc is-log-overflow vol0"
    )]
    IsLogOverflow(Wdev),
    /// Prints which chunks have changed since log was last released.
    ///
    /// First line: uuid and lsid that the changes count from, blocks of a chunk, changed bytes. Then a line for each run of
    /// changed blocks: first block and count, in blocks of 512 bytes. Fails with the reason when it is not known.
    #[command(
        name = "get-changed",
        after_help = "Example:\n  wdevc get-changed vol0 --json"
    )]
    GetChanged {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forgets the changes that a log reset carried on: they count from the beginning of the present log then.
    #[command(name = "forget-changed", after_help = "Example:\n  wdevc forget-changed vol0")]
    ForgetChanged(Wdev),
    /// Sets what happens when the ring is full of log that was not released: writes go on, or wait for a release.
    #[command(
        name = "set-on-ring-full",
        after_help = "Example:\n  wdevc set-on-ring-full vol0 throttle"
    )]
    SetOnRingFull {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// go-on overwrites that log; throttle lets writes wait.
        policy: OnRingFull,
    },
    /// Drops all log: new uuid, lsids from 0, overflow cleared. The data are kept.
    #[command(name = "reset-wal", after_help = "Example:\n  wdevc reset-wal vol0")]
    ResetWal(Wdev),
    /// Writes back everything permanent, then releases that log.
    #[command(name = "clear-wal", after_help = "Example:\n  wdevc clear-wal vol0")]
    ClearWal {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// Seconds to wait; 0 is no limit.
        #[arg(default_value_t = 0)]
        timeout: u64,
    },
    /// Holds back writes.
    #[command(name = "freeze", after_help = "Example:\n  wdevc freeze vol0 10")]
    Freeze {
        /// The device.
        #[command(flatten)]
        wdev: Wdev,
        /// Seconds until it melts by itself; 0 is until melt.
        #[arg(default_value_t = 0)]
        seconds: u64,
    },
    /// Prints 1 if writes are held back.
    #[command(
        name = "is-frozen",
        alias = "is-flozen",
        after_help = "Example:\n  wdevc is-frozen vol0"
    )]
    IsFrozen(Wdev),
    /// Ends a freeze.
    #[command(name = "melt", after_help = "Example:\n  wdevc melt vol0")]
    Melt(Wdev),
    /// Prints the version of walb-wdev.
    #[command(name = "get-version", after_help = "Example:\n  wdevc get-version")]
    GetVersion,
}
