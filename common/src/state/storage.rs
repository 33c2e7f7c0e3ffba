//! States of a volume on a storage.

use super::names::named;
use super::{Refused, Rule};

named! {
    /// A storage volume at rest.
    pub enum Static ("state of a storage volume") {
        /// Unknown here.
        Clear = "Clear",
        /// Known; its log is not followed. A backup or standby can start.
        SyncReady = "SyncReady",
        /// Continuity is kept by the log alone; nothing is sent.
        Stopped = "Stopped",
        /// Its log is sent.
        Target = "Target",
        /// Its log is thrown away; another leg of the volume is the target.
        Standby = "Standby",
    }
}

named! {
    /// What runs on a storage volume.
    pub enum Dynamic ("state of a storage volume") {
        /// Becoming known.
        InitVol = "InitVol",
        /// Being forgotten.
        ClearVol = "ClearVol",
        /// Starting to throw its log away.
        StartStandby = "StartStandby",
        /// No longer throwing its log away.
        StopStandby = "StopStandby",
        /// A full backup reads the device.
        FullSync = "FullSync",
        /// A hash backup reads the device.
        HashSync = "HashSync",
        /// Starting to send.
        StartTarget = "StartTarget",
        /// No longer sending.
        StopTarget = "StopTarget",
        /// Dropping its log.
        Reset = "Reset",
    }
}

named! {
    /// What is asked of a storage volume.
    pub enum Command ("command of a storage volume") {
        /// Make it known.
        InitVol = "init-vol",
        /// Forget it.
        ClearVol = "clear-vol",
        /// Throw its log away from now on.
        StartStandby = "start standby",
        /// Send its log from now on.
        StartTarget = "start target",
        /// Stop either.
        Stop = "stop",
        /// The device found its log overflowed.
        LogOverflow = "log overflow",
        /// Send the whole device.
        FullBackup = "full-bkp",
        /// Send what differs.
        HashBackup = "hash-bkp",
        /// Drop the log and start a new life of it.
        ResetVol = "reset-vol",
        /// Mark an explicit snapshot.
        Snapshot = "snapshot",
        /// Follow a grown device.
        Resize = "resize",
        /// Tell whether the log overflowed, the uuid, the use of the log.
        GetDeviceInfo = "get is-overflow/uuid/log-usage",
    }
}

named! {
    /// What runs in the background of a storage volume; at most one at a time.
    pub enum Action ("action of a storage volume") {
        /// A transfer to a proxy.
        WlogSend = "WlogSend",
        /// Erasing the log of a standby.
        WlogRemove = "WlogRemove",
    }
}

/// A storage volume's state.
pub type State = super::State<Static, Dynamic>;
/// A permitted move of a storage volume.
pub type Move = super::Move<Static, Dynamic, Command>;

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

/// Every permitted move. A backup ends in `Stopped` and goes on to `Target` by the move of `start target`.
#[rustfmt::skip]
pub const MOVES: &[Move] = &[
    Move { from: Static::Clear,     by: Command::InitVol,      through: Dynamic::InitVol,      to: Static::SyncReady },
    Move { from: Static::SyncReady, by: Command::ClearVol,     through: Dynamic::ClearVol,     to: Static::Clear },
    Move { from: Static::SyncReady, by: Command::StartStandby, through: Dynamic::StartStandby, to: Static::Standby },
    Move { from: Static::Standby,   by: Command::Stop,         through: Dynamic::StopStandby,  to: Static::SyncReady },
    Move { from: Static::SyncReady, by: Command::FullBackup,   through: Dynamic::FullSync,     to: Static::Stopped },
    Move { from: Static::SyncReady, by: Command::HashBackup,   through: Dynamic::HashSync,     to: Static::Stopped },
    Move { from: Static::Stopped,   by: Command::StartTarget,  through: Dynamic::StartTarget,  to: Static::Target },
    Move { from: Static::Target,    by: Command::Stop,         through: Dynamic::StopTarget,   to: Static::Stopped },
    Move { from: Static::Target,    by: Command::LogOverflow,  through: Dynamic::StopTarget,   to: Static::Stopped },
    Move { from: Static::Stopped,   by: Command::ResetVol,     through: Dynamic::Reset,        to: Static::SyncReady },
];

/// Commands that do not move the volume but need certain states. What is neither here nor a move is always accepted.
#[rustfmt::skip]
pub const RULES: &[Rule<Static, Dynamic, Command, Action>] = &[
    Rule { command: Command::Snapshot, accepted: &[State::Static(Static::Target), State::Static(Static::Stopped)], refused_while: &[] },
    Rule {
        command: Command::Resize,
        accepted: &[
            State::Static(Static::SyncReady), State::Static(Static::Stopped),
            State::Static(Static::Target), State::Static(Static::Standby),
        ],
        refused_while: &[],
    },
    Rule {
        command: Command::GetDeviceInfo,
        accepted: &[
            State::Static(Static::SyncReady), State::Static(Static::Stopped),
            State::Static(Static::Target), State::Static(Static::Standby),
            State::Dynamic(Dynamic::InitVol), State::Dynamic(Dynamic::ClearVol),
            State::Dynamic(Dynamic::StartStandby), State::Dynamic(Dynamic::StopStandby),
            State::Dynamic(Dynamic::FullSync), State::Dynamic(Dynamic::HashSync),
            State::Dynamic(Dynamic::StartTarget), State::Dynamic(Dynamic::StopTarget),
            State::Dynamic(Dynamic::Reset),
        ],
        refused_while: &[],
    },
];

/// The move that `by` makes from `from`.
pub fn find_move(from: impl Into<State>, by: Command) -> Result<&'static Move, Refused> {
    super::find_in(MOVES, from.into(), by)
}

/// Whether a command of [`RULES`] is accepted.
pub fn check(command: Command, state: impl Into<State>) -> Result<(), Refused> {
    super::check_rule(RULES, command, state.into(), |_| false)
}

/// Whether a wlog transfer may run: also during a backup, so that the log does not grow meanwhile.
pub fn may_send_wlog(state: impl Into<State>) -> bool {
    matches!(
        state.into(),
        State::Static(Static::Target) | State::Dynamic(Dynamic::FullSync | Dynamic::HashSync)
    )
}
