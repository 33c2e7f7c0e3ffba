//! What a volume may do next, per role: one table each, read by the daemons, the tests and the documentation.
//!
//! Two kinds of state, two types, so that nothing can start from a state in which something runs. A *static* state is at
//! rest and survives a restart; a *dynamic* one means that something runs in the foreground. Only the static state is
//! stored: an action that fails, or a crash while in `through`, leaves the volume at `from`. Background *actions* are
//! counted beside the state and do not change it.
//!
//! The diagrams of docs/states.md are rendered from these tables ([`diagram::render_page`]).

mod names;

pub mod archive;
pub mod diagram;
pub mod proxy;
pub mod storage;

use std::fmt;

pub use archive::State as ArchiveState;
pub use names::Named;
pub use proxy::State as ProxyState;
pub use storage::State as StorageState;

use crate::types::ParseError;

/// A volume's state: at rest, or something runs in the foreground. Its text is the name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State<S, D> {
    /// At rest; survives a restart.
    Static(S),
    /// Something runs; left by commit to the next static state, or by rollback to the one it came from.
    Dynamic(D),
}

/// A permitted move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move<S, D, C> {
    /// Where the volume has to be, and stays if the move fails.
    pub from: S,
    /// What asks for it.
    pub by: C,
    /// The state while it runs.
    pub through: D,
    /// Where it leads.
    pub to: S,
}

/// A command that is accepted in some states only, and while none of some actions runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule<S: 'static, D: 'static, C, A: 'static> {
    /// The command.
    pub command: C,
    /// The states in which it is accepted.
    pub accepted: &'static [State<S, D>],
    /// The actions that must not run.
    pub refused_while: &'static [A],
}

/// A command came in a state, or while an action ran, that does not allow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The state does not allow it: `bad state:Clear, expected SyncReady`.
    #[error("bad state:{state}, expected {}", .expected.join(" or "))]
    State {
        /// The state found.
        state: &'static str,
        /// The states that would have allowed it.
        expected: Vec<&'static str>,
    },
    /// A running action does not allow it: `bad action:Apply is running, expected none of Apply, Merge`.
    #[error("bad action:{running} is running, expected none of {}", .excluded.join(", "))]
    Action {
        /// The action found running.
        running: &'static str,
        /// The actions that must not run.
        excluded: Vec<&'static str>,
    },
}

impl<S: Named, D: Named> State<S, D> {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Static(s) => s.name(),
            Self::Dynamic(d) => d.name(),
        }
    }

    /// The static state, if the volume is at rest.
    pub fn at_rest(self) -> Option<S> {
        match self {
            Self::Static(s) => Some(s),
            Self::Dynamic(_) => None,
        }
    }

    /// Every state, static ones first.
    pub fn all() -> impl Iterator<Item = Self> {
        let at_rest = S::ALL.iter().map(|s| Self::Static(*s));
        at_rest.chain(D::ALL.iter().map(|d| Self::Dynamic(*d)))
    }
}

impl<S: Named, D: Named> fmt::Display for State<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl<S: Named, D: Named> std::str::FromStr for State<S, D> {
    type Err = ParseError;
    fn from_str(name: &str) -> Result<Self, ParseError> {
        Self::all()
            .find(|s| s.name() == name)
            .ok_or_else(|| ParseError::new(S::WHAT, name, "the name of a state, e.g. Clear"))
    }
}

impl<S: Named, D: Named> serde::Serialize for State<S, D> {
    fn serialize<T: serde::Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de, S: Named, D: Named> serde::Deserialize<'de> for State<S, D> {
    fn deserialize<T: serde::Deserializer<'de>>(deserializer: T) -> Result<Self, T::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn find_in<S: Named, D: Named, C: Named>(
    moves: &'static [Move<S, D, C>],
    from: State<S, D>,
    by: C,
) -> Result<&'static Move<S, D, C>, Refused> {
    moves
        .iter()
        .find(|m| from == State::Static(m.from) && m.by == by)
        .ok_or_else(|| Refused::State {
            state: from.name(),
            expected: moves
                .iter()
                .filter(|m| m.by == by)
                .map(|m| m.from.name())
                .collect(),
        })
}

/// Checks a command against its rule; a command without one is accepted always.
pub(crate) fn check_rule<S: Named, D: Named, C: Named, A: Named>(
    rules: &'static [Rule<S, D, C, A>],
    command: C,
    state: State<S, D>,
    is_running: impl Fn(A) -> bool,
) -> Result<(), Refused> {
    let Some(rule) = rules.iter().find(|r| r.command == command) else {
        return Ok(());
    };
    if !rule.accepted.contains(&state) {
        return Err(Refused::State {
            state: state.name(),
            expected: rule.accepted.iter().map(State::name).collect(),
        });
    }
    if let Some(running) = rule.refused_while.iter().find(|a| is_running(**a)) {
        return Err(Refused::Action {
            running: running.name(),
            excluded: rule.refused_while.iter().map(Named::name).collect(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
