//! States of a volume on a proxy.

use super::names::named;
use super::{Refused, Rule};

named! {
    /// A proxy volume at rest.
    pub enum Static ("state of a proxy volume") {
        /// No archive is known for it.
        Clear = "Clear",
        /// Nothing is received or sent.
        Stopped = "Stopped",
        /// Logs are received, diffs are sent.
        Started = "Started",
    }
}

named! {
    /// What runs on a proxy volume.
    pub enum Dynamic ("state of a proxy volume") {
        /// An archive is being added or changed.
        AddArchiveInfo = "AddArchiveInfo",
        /// An archive is being removed.
        DeleteArchiveInfo = "DeleteArchiveInfo",
        /// Being forgotten with all its diffs.
        ClearVol = "ClearVol",
        /// Starting.
        Start = "Start",
        /// Stopping.
        Stop = "Stop",
        /// Sending what is left, receiving nothing.
        WaitForEmpty = "WaitForEmpty",
        /// A storage sends a log.
        WlogRecv = "WlogRecv",
    }
}

named! {
    /// What is asked of a proxy volume.
    pub enum Command ("command of a proxy volume") {
        /// `archive-info add` or `update`.
        AddArchiveInfo = "archive-info add/update",
        /// `archive-info delete` while others remain.
        DeleteArchiveInfo = "archive-info delete",
        /// `archive-info delete` of the only one.
        DeleteLastArchiveInfo = "archive-info delete (the last)",
        /// Forget it.
        ClearVol = "clear-vol",
        /// Go on; also at daemon start.
        Start = "start",
        /// Stop, gracefully or by force.
        Stop = "stop",
        /// Stop once everything is sent.
        StopEmpty = "stop empty",
        /// A storage offers a log.
        WlogRecv = "wlog transfer",
        /// Send a diff to an archive.
        WdiffSend = "wdiff transfer",
        /// Set the remembered size.
        Resize = "resize",
    }
}

named! {
    /// What runs in the background of a proxy volume; at most one per archive, and listed under the archive's name.
    pub enum Action ("action of a proxy volume") {
        /// A wdiff transfer to an archive.
        WdiffSend = "WdiffSend",
    }
}

/// A proxy volume's state.
pub type State = super::State<Static, Dynamic>;
/// A permitted move of a proxy volume.
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

/// Every permitted move.
#[rustfmt::skip]
pub const MOVES: &[Move] = &[
    Move { from: Static::Clear,   by: Command::AddArchiveInfo,        through: Dynamic::AddArchiveInfo,    to: Static::Stopped },
    Move { from: Static::Stopped, by: Command::AddArchiveInfo,        through: Dynamic::AddArchiveInfo,    to: Static::Stopped },
    Move { from: Static::Stopped, by: Command::DeleteArchiveInfo,     through: Dynamic::DeleteArchiveInfo, to: Static::Stopped },
    Move { from: Static::Stopped, by: Command::DeleteLastArchiveInfo, through: Dynamic::DeleteArchiveInfo, to: Static::Clear },
    Move { from: Static::Stopped, by: Command::ClearVol,              through: Dynamic::ClearVol,          to: Static::Clear },
    Move { from: Static::Stopped, by: Command::Start,                 through: Dynamic::Start,             to: Static::Started },
    Move { from: Static::Started, by: Command::Stop,                  through: Dynamic::Stop,              to: Static::Stopped },
    Move { from: Static::Started, by: Command::StopEmpty,             through: Dynamic::WaitForEmpty,      to: Static::Stopped },
    Move { from: Static::Started, by: Command::WlogRecv,              through: Dynamic::WlogRecv,          to: Static::Started },
];

/// Commands that do not move the volume but need certain states. What is neither here nor a move is always accepted.
#[rustfmt::skip]
pub const RULES: &[Rule<Static, Dynamic, Command, Action>] = &[
    Rule {
        command: Command::WdiffSend,
        accepted: &[
            State::Static(Static::Started),
            State::Dynamic(Dynamic::WlogRecv), State::Dynamic(Dynamic::WaitForEmpty),
        ],
        refused_while: &[],
    },
    Rule { command: Command::Resize, accepted: &[State::Static(Static::Stopped)], refused_while: &[] },
];

/// The move that `by` makes from `from`.
pub fn find_move(from: impl Into<State>, by: Command) -> Result<&'static Move, Refused> {
    super::find_in(MOVES, from.into(), by)
}

/// Whether a command of [`RULES`] is accepted. `kick` of a volume needs what a wdiff transfer needs.
pub fn check(command: Command, state: impl Into<State>) -> Result<(), Refused> {
    super::check_rule(RULES, command, state.into(), |_| false)
}
