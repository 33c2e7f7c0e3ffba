//! States of a volume on an archive.

use super::Refused;
use super::names::named;

named! {
    /// An archive volume at rest.
    pub enum Static ("state of an archive volume") {
        /// Unknown here.
        Clear = "Clear",
        /// Known; holds no image that means anything.
        SyncReady = "SyncReady",
        /// Holds a base image and diffs, takes more.
        Archived = "Archived",
        /// Holds a base image and diffs, takes nothing.
        Stopped = "Stopped",
    }
}

named! {
    /// What runs on an archive volume.
    pub enum Dynamic ("state of an archive volume") {
        /// Becoming known.
        InitVol = "InitVol",
        /// Being forgotten with all its data.
        ClearVol = "ClearVol",
        /// Giving up its data.
        ResetVol = "ResetVol",
        /// A whole image comes in.
        FullSync = "FullSync",
        /// Its image is made equal to another archive's, in place.
        Resync = "Resync",
        /// A hash backup comes in.
        HashSync = "HashSync",
        /// A diff comes in.
        WdiffRecv = "WdiffRecv",
        /// A diff comes in from another archive.
        ReplSyncAsServer = "ReplSyncAsServer",
        /// Stopping.
        Stop = "Stop",
        /// Starting.
        Start = "Start",
    }
}

named! {
    /// What is asked of an archive volume.
    pub enum Command ("command of an archive volume") {
        /// Make it known.
        InitVol = "init-vol",
        /// Forget it with all its data.
        ClearVol = "clear-vol",
        /// Clear it and make it known again.
        ResetVol = "reset-vol",
        /// A storage, or another archive, sends a whole image.
        FullSync = "full backup",
        /// A resync is about to replace the data held; from here on only a completed resync makes it good again.
        PrepareResync = "prepare resync",
        /// Another archive makes our image equal to its own.
        Resync = "resync",
        /// A storage sends what differs from our latest snapshot.
        HashSync = "hash backup",
        /// A proxy sends a diff.
        WdiffRecv = "wdiff transfer",
        /// Another archive sends a diff.
        ReplSyncAsServer = "replicate (one diff)",
        /// Take nothing more.
        Stop = "stop",
        /// Take diffs again.
        Start = "start",
        /// Make the image of a snapshot.
        Restore = "restore",
        /// Remove a restored image.
        DelRestored = "del-restored",
        /// Remove a cold image.
        DelCold = "del-cold",
        /// Move the base forward. (Whether something can be applied is checked apart.)
        Apply = "apply",
        /// Merge diffs. (That the base is not applying is checked apart.)
        Merge = "merge",
        /// Send to another archive.
        ReplicateAsSource = "replicate (source)",
        /// Take from another archive.
        ReplicateAsDestination = "replicate (destination)",
        /// Grow the base image.
        Resize = "resize",
        /// Make a snapshot explicit.
        EnableSnapshot = "enable-snapshot",
        /// Make a snapshot implicit.
        DisableSnapshot = "disable-snapshot",
        /// Remove diffs that are not needed.
        GcDiff = "gc-diff",
        /// Read the image of a snapshot without restoring it.
        VirtFullScan = "virt-full-scan",
        /// Hash the image of a snapshot without restoring it.
        Bhash = "bhash",
        /// List restored images, cold images, diffs.
        GetImages = "get restored/cold/exists-diff",
        /// Tell uuid, archive uuid, base state.
        GetBase = "get uuid/archive-uuid/base",
        /// Tell how many actions run.
        GetNumAction = "get num-action",
    }
}

named! {
    /// What runs in the background of an archive volume.
    pub enum Action ("action of an archive volume") {
        /// Diffs are being merged.
        Merge = "Merge",
        /// The base is being moved forward.
        Apply = "Apply",
        /// The image of a snapshot is being made.
        Restore = "Restore",
        /// The volume is being sent to another archive.
        ReplSyncAsClient = "ReplSyncAsClient",
        /// The grown part of the base is being zeroed.
        Resize = "Resize",
    }
}

/// An archive volume's state.
pub type State = super::State<Static, Dynamic>;
/// A permitted move of an archive volume.
pub type Move = super::Move<Static, Dynamic, Command>;
/// A command, the states it needs and the actions that stand against it.
pub type Rule = super::Rule<Static, Dynamic, Command, Action>;

impl From<Static> for State {
    fn from(state: Static) -> Self {
        Self::Static(state)
    }
}

impl From<Dynamic> for State {
    fn from(state: Dynamic) -> Self {
        Self::Dynamic(state)
    }
}

/// Every permitted move.
///
/// A resync of a volume that holds data first stores `SyncReady` (`PrepareResync`), because a crash while its data is
/// being replaced must not leave it looking good.
#[rustfmt::skip]
pub const MOVES: &[Move] = &[
    Move { from: Static::Clear,     by: Command::InitVol,          through: Dynamic::InitVol,          to: Static::SyncReady },
    Move { from: Static::SyncReady, by: Command::ClearVol,         through: Dynamic::ClearVol,         to: Static::Clear },
    Move { from: Static::Stopped,   by: Command::ClearVol,         through: Dynamic::ClearVol,         to: Static::Clear },
    Move { from: Static::SyncReady, by: Command::ResetVol,         through: Dynamic::ResetVol,         to: Static::SyncReady },
    Move { from: Static::Stopped,   by: Command::ResetVol,         through: Dynamic::ResetVol,         to: Static::SyncReady },
    Move { from: Static::SyncReady, by: Command::FullSync,         through: Dynamic::FullSync,         to: Static::Archived },
    Move { from: Static::Archived,  by: Command::PrepareResync,    through: Dynamic::ResetVol,         to: Static::SyncReady },
    Move { from: Static::SyncReady, by: Command::Resync,           through: Dynamic::Resync,           to: Static::Archived },
    Move { from: Static::Archived,  by: Command::HashSync,         through: Dynamic::HashSync,         to: Static::Archived },
    Move { from: Static::Archived,  by: Command::WdiffRecv,        through: Dynamic::WdiffRecv,        to: Static::Archived },
    Move { from: Static::Archived,  by: Command::ReplSyncAsServer, through: Dynamic::ReplSyncAsServer, to: Static::Archived },
    Move { from: Static::Archived,  by: Command::Stop,             through: Dynamic::Stop,             to: Static::Stopped },
    Move { from: Static::Stopped,   by: Command::Start,            through: Dynamic::Start,            to: Static::Archived },
];

use Action::{Apply, Merge, ReplSyncAsClient, Resize, Restore};

const ALL_ACTIONS: &[Action] = &[Merge, Apply, Restore, ReplSyncAsClient, Resize];
const CLEAR: State = State::Static(Static::Clear);
const SYNC_READY: State = State::Static(Static::SyncReady);
const ARCHIVED: State = State::Static(Static::Archived);
const STOPPED: State = State::Static(Static::Stopped);
const HASH_SYNC: State = State::Dynamic(Dynamic::HashSync);
const WDIFF_RECV: State = State::Dynamic(Dynamic::WdiffRecv);
const REPL_SYNC: State = State::Dynamic(Dynamic::ReplSyncAsServer);

/// The states in which the volume is served: it holds data and takes diffs.
pub const ACTIVE: &[State] = &[ARCHIVED, HASH_SYNC, WDIFF_RECV, REPL_SYNC];
const ACTIVE_OR_STOPPED: &[State] = &[ARCHIVED, HASH_SYNC, WDIFF_RECV, REPL_SYNC, STOPPED];
#[rustfmt::skip]
const NOT_CLEAR: &[State] = &[
    SYNC_READY, ARCHIVED, STOPPED,
    State::Dynamic(Dynamic::InitVol), State::Dynamic(Dynamic::ClearVol), State::Dynamic(Dynamic::ResetVol),
    State::Dynamic(Dynamic::FullSync), State::Dynamic(Dynamic::Resync), HASH_SYNC, WDIFF_RECV, REPL_SYNC,
    State::Dynamic(Dynamic::Stop), State::Dynamic(Dynamic::Start),
];

/// What each command needs. What is not here is always accepted (`stop` waits for everything to end).
///
/// Consequences: a merge may start while a restore or a replication as source runs (they have their files open), but not
/// the other way round for replication; a wdiff transfer runs beside every action; an apply may start during HashSync or
/// WdiffRecv.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { command: Command::InitVol,          accepted: &[CLEAR],                refused_while: ALL_ACTIONS },
    Rule { command: Command::Start,            accepted: &[STOPPED],              refused_while: ALL_ACTIONS },
    Rule { command: Command::ClearVol,         accepted: &[SYNC_READY, STOPPED],  refused_while: ALL_ACTIONS },
    Rule { command: Command::ResetVol,         accepted: &[SYNC_READY, STOPPED],  refused_while: ALL_ACTIONS },
    Rule { command: Command::Restore,          accepted: ACTIVE,                  refused_while: &[Restore, Resize] },
    Rule { command: Command::DelRestored,      accepted: ACTIVE_OR_STOPPED,       refused_while: &[Restore, Resize] },
    Rule { command: Command::DelCold,          accepted: ACTIVE_OR_STOPPED,       refused_while: &[Restore, Resize] },
    Rule { command: Command::Apply,            accepted: ACTIVE,                  refused_while: &[Restore, ReplSyncAsClient, Apply, Merge, Resize] },
    Rule { command: Command::Merge,            accepted: ACTIVE,                  refused_while: &[Apply, Merge, Resize] },
    Rule { command: Command::ReplicateAsSource,      accepted: ACTIVE,                 refused_while: &[Restore, ReplSyncAsClient, Apply, Merge, Resize] },
    Rule { command: Command::ReplicateAsDestination, accepted: &[SYNC_READY, ARCHIVED], refused_while: ALL_ACTIONS },
    Rule { command: Command::PrepareResync,    accepted: &[ARCHIVED],             refused_while: ALL_ACTIONS },
    Rule { command: Command::Resync,           accepted: &[SYNC_READY],           refused_while: ALL_ACTIONS },
    Rule { command: Command::ReplSyncAsServer, accepted: &[ARCHIVED],             refused_while: &[] },
    Rule { command: Command::Resize,           accepted: &[SYNC_READY, ARCHIVED, HASH_SYNC, WDIFF_RECV, REPL_SYNC, STOPPED], refused_while: &[Restore, ReplSyncAsClient, Apply, Resize] },
    Rule { command: Command::EnableSnapshot,   accepted: ACTIVE,                  refused_while: &[Apply, Merge] },
    Rule { command: Command::DisableSnapshot,  accepted: ACTIVE,                  refused_while: &[Apply, Merge] },
    Rule { command: Command::GcDiff,           accepted: ACTIVE_OR_STOPPED,       refused_while: ALL_ACTIONS },
    Rule { command: Command::FullSync,         accepted: &[SYNC_READY],           refused_while: ALL_ACTIONS },
    Rule { command: Command::HashSync,         accepted: &[ARCHIVED],             refused_while: ALL_ACTIONS },
    Rule { command: Command::WdiffRecv,        accepted: &[ARCHIVED],             refused_while: &[] },
    Rule { command: Command::VirtFullScan,     accepted: ACTIVE,                  refused_while: &[] },
    Rule { command: Command::Bhash,            accepted: ACTIVE,                  refused_while: &[] },
    Rule { command: Command::GetImages,        accepted: ACTIVE_OR_STOPPED,       refused_while: &[] },
    Rule { command: Command::GetBase,          accepted: ACTIVE,                  refused_while: &[] },
    Rule { command: Command::GetNumAction,     accepted: NOT_CLEAR,               refused_while: &[] },
];

/// The move that `by` makes from `from`.
pub fn find_move(from: impl Into<State>, by: Command) -> Result<&'static Move, Refused> {
    super::find_in(MOVES, from.into(), by)
}

/// Whether a command is accepted in this state while these actions run.
pub fn check(
    command: Command,
    state: impl Into<State>,
    is_running: impl Fn(Action) -> bool,
) -> Result<(), Refused> {
    super::check_rule(RULES, command, state.into(), is_running)
}

/// Whether the volume is served: it holds data and takes diffs.
pub fn is_active(state: impl Into<State>) -> bool {
    ACTIVE.contains(&state.into())
}
