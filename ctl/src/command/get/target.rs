//! The targets of `get` with their arguments, as clap reads them.

use clap::{Args, Subcommand, ValueEnum};
use walb_common::state::archive as archive_state;
use walb_common::types::{Gid, VolumeName};

use crate::command::archive_info::archive_name;

/// A volume.
#[derive(Debug, Args)]
pub(super) struct Vol {
    /// Volume name
    pub(super) vol: VolumeName,
}

/// Diffs of a volume whose begin gid is in a range.
#[derive(Debug, Args)]
pub(super) struct Range {
    /// Volume name
    pub(super) vol: VolumeName,
    /// Begin gids from here on
    #[arg(default_value_t = Gid(0))]
    pub(super) gid0: Gid,
    /// Begin gids below this [default: no limit]
    pub(super) gid1: Option<Gid>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum All {
    /// Implicit snapshots, too
    All,
}

#[derive(Debug, Subcommand)]
pub(super) enum Target {
    /// Kind of server: storage, proxy or archive
    #[command(after_help = "Example:\n  walbc -a s0 -p 10000 get host-type")]
    HostType,
    /// State of a volume; Clear when it is unknown
    #[command(after_help = "Example:\n  walbc -a s0 -p 10000 get state vol0")]
    State(Vol),
    /// Names of all volumes, one per line
    #[command(after_help = "Example:\n  walbc -a s0 -p 10000 get vol")]
    Vol,
    /// Process id of the server
    #[command(after_help = "Example:\n  walbc -a s0 -p 10000 get pid")]
    Pid,
    /// Latest snapshot of one volume or of all, one LTSV line each
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get latest-snap vol0")]
    LatestSnap {
        /// Volume name; all volumes that have a value when not given
        vol: Option<VolumeName>,
    },
    /// Storage: 1 if the log has overflowed
    #[command(after_help = "Example:\n  walbc -a s0 -p 10000 get is-overflow vol0")]
    IsOverflow(Vol),
    /// Storage: how full the log is, one LTSV line per volume
    #[command(after_help = "Example:\n  walbc -a s0 -p 10000 get log-usage")]
    LogUsage {
        /// Volume name; all volumes when not given
        vol: Option<VolumeName>,
    },
    /// Storage: uuid of the volume's log; archive: uuid of the log its diffs come from
    #[command(after_help = "Example:\n  walbc -a s0 -p 10000 get uuid vol0")]
    Uuid(Vol),
    /// Archive: uuid of this lineage of archive data
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get archive-uuid vol0")]
    ArchiveUuid(Vol),
    /// Proxy: 1 if sending to an archive has been given up until a kick
    #[command(after_help = "Example:\n  walbc -a p0 -p 10100 get is-wdiff-send-error vol0 a0")]
    IsWdiffSendError {
        /// Volume name
        vol: VolumeName,
        /// Archive name
        #[arg(value_parser = archive_name)]
        archive: String,
    },
    /// Proxy: diffs that wait for an archive, or (without ARCHIVE) for distribution
    #[command(after_help = "Example:\n  walbc -a p0 -p 10100 get proxy-diff vol0 a0")]
    ProxyDiff {
        /// Volume name
        vol: VolumeName,
        /// Archive name
        #[arg(value_parser = archive_name)]
        archive: Option<String>,
    },
    /// Archive: diffs, as BEGIN-->END FLAGS TIME SIZE
    #[command(
        after_help = "Example:\n  walbc -a a0 -p 10200 get diff vol0\n  walbc -a a0 -p 10200 get diff vol0 10 20"
    )]
    Diff(Range),
    /// Archive: the chain of diffs from the base image on
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get applicable-diff vol0 20")]
    ApplicableDiff {
        /// Volume name
        vol: VolumeName,
        /// Only as far as diffs end at or before this gid [default: no limit]
        max_gid: Option<Gid>,
    },
    /// Archive: number of diffs
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get num-diff vol0")]
    NumDiff(Range),
    /// Archive: bytes of the diffs
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get total-diff-size vol0")]
    TotalDiffSize(Range),
    /// Archive: 1 if there is a diff from |BB,BE| to |EB,EE|
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get exists-diff vol0 2 2 3 3")]
    ExistsDiff {
        /// Volume name
        vol: VolumeName,
        /// First gid of the snapshot it starts from
        bb: Gid,
        /// Last gid of the snapshot it starts from
        be: Gid,
        /// First gid of the snapshot it leads to
        eb: Gid,
        /// Last gid of the snapshot it leads to
        ee: Gid,
    },
    /// Archive: 1 if the volume has a base image
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get exists-base-image vol0")]
    ExistsBaseImage(Vol),
    /// Archive: how many actions of a kind run
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get num-action vol0 Restore")]
    NumAction {
        /// Volume name
        vol: VolumeName,
        /// Merge, Apply, Restore, ReplSyncAsClient or Resize
        action: archive_state::Action,
    },
    /// Archive: actions of every active volume
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get all-actions")]
    AllActions,
    /// Archive: gids of restored images, ascending
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get restored vol0")]
    Restored(Vol),
    /// Archive: path of a restored image on the archive host
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get restored-path vol0 9")]
    RestoredPath {
        /// Volume name
        vol: VolumeName,
        /// Snapshot
        gid: Gid,
    },
    /// Archive: snapshots that can be restored, as GID TIME EXPLICIT
    #[command(
        after_help = "Example:\n  walbc -a a0 -p 10200 get restorable vol0\n  walbc -a a0 -p 10200 get restorable vol0 all"
    )]
    Restorable {
        /// Volume name
        vol: VolumeName,
        /// Implicit snapshots, too
        all: Option<All>,
    },
    /// Archive: what the base image shows, with time
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get base vol0")]
    Base(Vol),
    /// Archive: what the base image of every active volume shows
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get base-all")]
    BaseAll,
    /// Archive: the snapshot that the chain of diffs leads to
    #[command(
        after_help = "Example:\n  walbc -a a0 -p 10200 get meta-snap vol0\n  walbc -a a0 -p 10200 get meta-snap vol0 20"
    )]
    MetaSnap {
        /// Volume name
        vol: VolumeName,
        /// Not beyond this gid [default: no limit]
        gid: Option<Gid>,
    },
    /// Archive: size of the base image in blocks of 512 bytes
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get vol-size vol0")]
    VolSize(Vol),
    /// Archive: position of a running full or hash backup in blocks of 512 bytes, else 0
    #[command(after_help = "Example:\n  walbc -a a0 -p 10200 get progress vol0")]
    Progress(Vol),
}
