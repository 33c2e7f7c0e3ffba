//! Who works on a volume right now: its state, running actions, a stop under way. In memory; the static state that
//! survives is stored by the role, before the commit that shows it.
//!
//! ```text
//! begin(command) ---- table allows? ---> Work (dynamic state) --- commit() ---> next static state
//!                                          `--- dropped -------> the state it came from
//! ```
//! A command checks state and running actions atomically; long work then runs without any lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::rest::{ApiError, ErrorCode, StopMode};
use crate::state::{Move, Named, Refused, Rule, State};
use crate::types::Timestamp;

/// A role's tables.
pub trait Machine: 'static {
    /// States at rest.
    type Static: Named + Send + Sync;
    /// States of running work.
    type Dynamic: Named + Send + Sync;
    /// What is asked for.
    type Command: Named + Send + Sync;
    /// Background actions.
    type Action: Named + Send + Sync;
    /// Permitted moves.
    const MOVES: &'static [Move<Self::Static, Self::Dynamic, Self::Command>];
    /// Commands that need certain states or the absence of actions.
    const RULES: &'static [Rule<Self::Static, Self::Dynamic, Self::Command, Self::Action>];
}

type StateOf<M> = State<<M as Machine>::Static, <M as Machine>::Dynamic>;

/// A command was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// The tables do not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The volume is being stopped.
    #[error("volume is stopping")]
    Stopping,
    /// A stop is under way already.
    #[error("already under stopping")]
    AlreadyStopping,
    /// The volume did not come to rest in time.
    #[error("volume did not come to rest within {} s: state {state}, running {running}", after.as_secs())]
    NotAtRest {
        /// How long was waited.
        after: Duration,
        /// State found.
        state: &'static str,
        /// Running actions.
        running: String,
    },
}

impl From<NotNow> for ApiError {
    fn from(error: NotNow) -> Self {
        let code = match &error {
            NotNow::Refused(Refused::State { .. }) => ErrorCode::WrongState,
            NotNow::Refused(Refused::Action { .. })
            | NotNow::Stopping
            | NotNow::AlreadyStopping
            | NotNow::NotAtRest { .. } => ErrorCode::Busy,
        };
        let api = ApiError::new(code, error.to_string());
        match &error {
            NotNow::Refused(Refused::State { state, .. }) | NotNow::NotAtRest { state, .. } => {
                api.state(state)
            }
            _ => api,
        }
    }
}

/// What can be seen of a volume.
pub struct View<M: Machine> {
    /// Its state.
    pub state: StateOf<M>,
    /// Running actions, and when the last of each began.
    pub actions: HashMap<M::Action, (u32, Timestamp)>,
    /// A stop that is under way.
    pub stopping: Option<StopMode>,
}

impl<M: Machine> View<M> {
    fn running(&self, action: M::Action) -> u32 {
        self.actions.get(&action).map_or(0, |(n, _)| *n)
    }

    fn is_quiet(&self) -> bool {
        self.state.at_rest().is_some() && self.actions.values().all(|(n, _)| *n == 0)
    }

    fn names_of_running(&self) -> String {
        let names: Vec<_> = self
            .actions
            .iter()
            .filter(|(_, (n, _))| *n > 0)
            .map(|(a, _)| a.name())
            .collect();
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        }
    }
}

impl<M: Machine> Clone for View<M> {
    fn clone(&self) -> Self {
        Self {
            state: self.state,
            actions: self.actions.clone(),
            stopping: self.stopping,
        }
    }
}

/// A volume's occupancy. Cheap to clone: all clones speak of the same volume.
pub struct Occupancy<M: Machine>(Arc<Inner<M>>);

impl<M: Machine> Clone for Occupancy<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<M: Machine> {
    view: watch::Sender<View<M>>,
    force: Mutex<CancellationToken>,
}

impl<M: Machine> Occupancy<M> {
    /// A volume at rest in `state`.
    pub fn new(state: M::Static) -> Self {
        let view = View {
            state: State::Static(state),
            actions: HashMap::new(),
            stopping: None,
        };
        Self(Arc::new(Inner {
            view: watch::Sender::new(view),
            force: Mutex::default(),
        }))
    }

    /// A look at it.
    pub fn view(&self) -> View<M> {
        self.0.view.borrow().clone()
    }

    /// Its state.
    pub fn state(&self) -> StateOf<M> {
        self.0.view.borrow().state
    }

    /// How many of an action run.
    pub fn running(&self, action: M::Action) -> u32 {
        self.0.view.borrow().running(action)
    }

    /// Cancelled when a forced stop asks running work to abort. Take it when the work begins.
    pub fn force_stop(&self) -> CancellationToken {
        self.force().clone()
    }

    /// Checks a command that neither moves the volume nor starts an action.
    pub fn check(&self, command: M::Command) -> Result<(), NotNow> {
        allowed::<M>(&self.0.view.borrow(), command)
    }

    /// Enters the dynamic state of `command`. A move of a volume that is being stopped is refused.
    pub fn begin(&self, command: M::Command) -> Result<Work<M>, NotNow> {
        self.enter(command, false)
    }

    fn enter(&self, command: M::Command, for_stop: bool) -> Result<Work<M>, NotNow> {
        let mut result = Err(NotNow::Stopping);
        self.0.view.send_if_modified(|view| {
            result = (|| {
                if view.stopping.is_some() && !for_stop {
                    return Err(NotNow::Stopping);
                }
                allowed::<M>(view, command)?;
                let found = M::MOVES
                    .iter()
                    .find(|m| State::Static(m.from) == view.state && m.by == command);
                let found = found.ok_or_else(|| Refused::State {
                    state: view.state.name(),
                    expected: M::MOVES
                        .iter()
                        .filter(|m| m.by == command)
                        .map(|m| m.from.name())
                        .collect(),
                })?;
                view.state = State::Dynamic(found.through);
                Ok(Work {
                    occupancy: self.clone(),
                    from: found.from,
                    to: found.to,
                    settled: false,
                })
            })();
            result.is_ok()
        });
        result
    }

    /// Starts a background action that `command` stands for.
    pub fn start_action(&self, command: M::Command, action: M::Action) -> Result<Running<M>, NotNow> {
        let mut result = Err(NotNow::Stopping);
        self.0.view.send_if_modified(|view| {
            result = if view.stopping == Some(StopMode::Empty) || view.stopping.is_none() {
                allowed::<M>(view, command).map(|()| {
                    let entry = view.actions.entry(action).or_default();
                    *entry = (entry.0 + 1, Timestamp::now());
                    Running {
                        occupancy: self.clone(),
                        action,
                    }
                })
            } else {
                Err(NotNow::Stopping)
            };
            result.is_ok()
        });
        result
    }

    /// Marks the volume as being stopped; refused while a stop is under way. `force` asks running work to abort.
    pub fn begin_stop(&self, mode: StopMode) -> Result<Stopping<M>, NotNow> {
        let mut result = Err(NotNow::AlreadyStopping);
        self.0.view.send_if_modified(|view| {
            if view.stopping.is_none() {
                view.stopping = Some(mode);
                result = Ok(Stopping {
                    occupancy: self.clone(),
                });
            }
            result.is_ok()
        });
        if result.is_ok() && mode == StopMode::Force {
            self.force().cancel();
        }
        result
    }

    /// Waits until a condition holds, at most so long; answers whether it does.
    pub async fn wait_for(&self, within: Duration, mut condition: impl FnMut(&View<M>) -> bool) -> bool {
        let mut watch = self.0.view.subscribe();
        matches!(
            tokio::time::timeout(within, watch.wait_for(|view| condition(view))).await,
            Ok(Ok(_))
        )
    }

    fn force(&self) -> MutexGuard<'_, CancellationToken> {
        self.0.force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn allowed<M: Machine>(view: &View<M>, command: M::Command) -> Result<(), NotNow> {
    crate::state::check_rule(M::RULES, command, view.state, |action| view.running(action) > 0)
        .map_err(NotNow::Refused)
}

/// Foreground work: the volume is in its dynamic state until this is committed or dropped (then it rolls back).
#[must_use = "dropping it rolls the volume back"]
pub struct Work<M: Machine> {
    occupancy: Occupancy<M>,
    from: M::Static,
    to: M::Static,
    settled: bool,
}

impl<M: Machine> Work<M> {
    /// The static state this leads to: store it durably, then commit.
    pub fn target(&self) -> M::Static {
        self.to
    }

    /// Shows the new state. What has to be durable is durable before this is called.
    pub fn commit(mut self) {
        self.settle(self.to);
    }

    /// Goes over into another command's work without coming to rest in between: the volume is never seen idle.
    pub fn commit_into(mut self, command: M::Command) -> Result<Self, NotNow> {
        let occupancy = self.occupancy.clone();
        let to = self.to;
        self.settled = true;
        let Some(next) = M::MOVES.iter().find(|m| m.from == to && m.by == command) else {
            self.settled = false;
            let expected = M::MOVES
                .iter()
                .filter(|m| m.by == command)
                .map(|m| m.from.name())
                .collect();
            return Err(Refused::State {
                state: to.name(),
                expected,
            }
            .into());
        };
        occupancy
            .0
            .view
            .send_modify(|view| view.state = State::Dynamic(next.through));
        Ok(Self {
            occupancy,
            from: next.from,
            to: next.to,
            settled: false,
        })
    }

    fn settle(&mut self, state: M::Static) {
        if !self.settled {
            self.settled = true;
            self.occupancy
                .0
                .view
                .send_modify(|view| view.state = State::Static(state));
        }
    }
}

impl<M: Machine> Drop for Work<M> {
    fn drop(&mut self) {
        self.settle(self.from);
    }
}

/// A running background action; counted until dropped.
#[must_use = "dropping it ends the action"]
pub struct Running<M: Machine> {
    occupancy: Occupancy<M>,
    action: M::Action,
}

impl<M: Machine> Drop for Running<M> {
    fn drop(&mut self) {
        self.occupancy.0.view.send_modify(|view| {
            if let Some(entry) = view.actions.get_mut(&self.action) {
                entry.0 = entry.0.saturating_sub(1);
            }
        });
    }
}

/// A stop under way; other commands are refused until this is dropped.
#[must_use = "dropping it ends the stop"]
pub struct Stopping<M: Machine> {
    occupancy: Occupancy<M>,
}

impl<M: Machine> Stopping<M> {
    /// Waits until nothing runs any more.
    pub async fn until_quiet(&self, within: Duration) -> Result<(), NotNow> {
        if self.occupancy.wait_for(within, View::is_quiet).await {
            return Ok(());
        }
        let view = self.occupancy.view();
        Err(NotNow::NotAtRest {
            after: within,
            state: view.state.name(),
            running: view.names_of_running(),
        })
    }

    /// Enters the dynamic state of the stop's own command.
    pub fn begin(&self, command: M::Command) -> Result<Work<M>, NotNow> {
        self.occupancy.enter(command, true)
    }
}

impl<M: Machine> Drop for Stopping<M> {
    fn drop(&mut self) {
        {
            // Work that outlived a stop which was not forced holds the token still: the next forced stop has to reach it.
            let mut force = self.occupancy.force();
            if force.is_cancelled() {
                *force = CancellationToken::new();
            }
        }
        self.occupancy.0.view.send_modify(|view| view.stopping = None);
    }
}

/// The storage role's tables.
pub enum Storage {}
impl Machine for Storage {
    type Static = crate::state::storage::Static;
    type Dynamic = crate::state::storage::Dynamic;
    type Command = crate::state::storage::Command;
    type Action = crate::state::storage::Action;
    const MOVES: &'static [Move<Self::Static, Self::Dynamic, Self::Command>] = crate::state::storage::MOVES;
    const RULES: &'static [Rule<Self::Static, Self::Dynamic, Self::Command, Self::Action>] =
        crate::state::storage::RULES;
}

/// The proxy role's tables.
pub enum Proxy {}
impl Machine for Proxy {
    type Static = crate::state::proxy::Static;
    type Dynamic = crate::state::proxy::Dynamic;
    type Command = crate::state::proxy::Command;
    type Action = crate::state::proxy::Action;
    const MOVES: &'static [Move<Self::Static, Self::Dynamic, Self::Command>] = crate::state::proxy::MOVES;
    const RULES: &'static [Rule<Self::Static, Self::Dynamic, Self::Command, Self::Action>] =
        crate::state::proxy::RULES;
}

/// The archive role's tables.
pub enum Archive {}
impl Machine for Archive {
    type Static = crate::state::archive::Static;
    type Dynamic = crate::state::archive::Dynamic;
    type Command = crate::state::archive::Command;
    type Action = crate::state::archive::Action;
    const MOVES: &'static [Move<Self::Static, Self::Dynamic, Self::Command>] = crate::state::archive::MOVES;
    const RULES: &'static [Rule<Self::Static, Self::Dynamic, Self::Command, Self::Action>] =
        crate::state::archive::RULES;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::archive::{Action, Command, Static};

    #[test]
    fn work_that_is_dropped_rolls_back_and_work_that_is_committed_stays() {
        let volume = Occupancy::<Archive>::new(Static::SyncReady);
        let work = volume.begin(Command::FullSync).unwrap();
        assert_eq!(volume.state().name(), "FullSync");
        assert!(volume.begin(Command::FullSync).is_err());
        drop(work);
        assert_eq!(volume.state().name(), "SyncReady");
        volume.begin(Command::FullSync).unwrap().commit();
        assert_eq!(volume.state().name(), "Archived");
    }

    #[test]
    fn an_action_stands_against_another_until_it_ends() {
        let volume = Occupancy::<Archive>::new(Static::Archived);
        let running = volume.start_action(Command::Restore, Action::Restore).unwrap();
        let error = volume
            .start_action(Command::Restore, Action::Restore)
            .err()
            .unwrap();
        assert_eq!(ApiError::from(error).code, ErrorCode::Busy);
        drop(running);
        assert!(volume.start_action(Command::Restore, Action::Restore).is_ok());
    }

    #[test]
    fn a_forced_stop_reaches_work_that_outlived_a_graceful_one() {
        let volume = Occupancy::<Archive>::new(Static::Archived);
        let _running = volume.start_action(Command::Restore, Action::Restore).unwrap();
        let token = volume.force_stop();
        drop(volume.begin_stop(StopMode::Graceful).unwrap());
        let _stop = volume.begin_stop(StopMode::Force).unwrap();
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn a_stop_waits_for_what_runs_and_refuses_what_comes() {
        let volume = Occupancy::<Archive>::new(Static::Archived);
        let running = volume.start_action(Command::Restore, Action::Restore).unwrap();
        let token = volume.force_stop();
        let stop = volume.begin_stop(StopMode::Force).unwrap();
        assert!(token.is_cancelled());
        assert_eq!(
            volume.begin_stop(StopMode::Graceful).err(),
            Some(NotNow::AlreadyStopping)
        );
        assert_eq!(volume.begin(Command::WdiffRecv).err(), Some(NotNow::Stopping));
        assert!(stop.until_quiet(Duration::from_millis(1)).await.is_err());
        drop(running);
        stop.until_quiet(Duration::from_secs(5)).await.unwrap();
        stop.begin(Command::Stop).unwrap().commit();
        drop(stop);
        assert_eq!(volume.state().name(), "Stopped");
        assert!(!volume.force_stop().is_cancelled());
    }
}
