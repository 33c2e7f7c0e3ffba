//! What a proxy does on an archive's answer to an offered diff, and when it tries again.
//!
//! Pure: the sending task feeds it the answer and the clock, and does what it says.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use walb_common::types::Timestamp;

/// How an offer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The archive takes it.
    Accept,
    /// It ends at or before the archive's latest snapshot: the archive has it.
    TooOldDiff,
    /// It belongs to a life of the log that ended at the last backup.
    DifferentUuid,
    /// It starts beyond the archive's latest snapshot: an earlier one, perhaps at another proxy, has to arrive first.
    TooNewDiff,
    /// A full or hash backup is running.
    Syncing,
    /// Another transfer for the volume is running.
    WdiffRecv,
    /// The volume is stopped there.
    Stopped,
    /// The base image is smaller than the volume.
    SmallerLvSize,
    /// The archive has no data for the volume.
    ArchiveNotFound,
    /// Refused for any other reason.
    OtherRefusal,
    /// The connection could not be made, or broke.
    ConnectionFailed,
}

impl Reply {
    /// Every reply.
    pub const ALL: [Self; 11] = [
        Self::Accept,
        Self::TooOldDiff,
        Self::DifferentUuid,
        Self::TooNewDiff,
        Self::Syncing,
        Self::WdiffRecv,
        Self::Stopped,
        Self::SmallerLvSize,
        Self::ArchiveNotFound,
        Self::OtherRefusal,
        Self::ConnectionFailed,
    ];

    /// The word on the wire, for replies that have one.
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Accept => Some("accept"),
            Self::TooOldDiff => Some("too-old-diff"),
            Self::DifferentUuid => Some("different-uuid"),
            Self::TooNewDiff => Some("too-new-diff"),
            Self::Syncing => Some("syncing"),
            Self::WdiffRecv => Some("wdiff-recv"),
            Self::Stopped => Some("stopped"),
            Self::SmallerLvSize => Some("smaller-lv-size"),
            Self::ArchiveNotFound => Some("archive-not-found"),
            Self::OtherRefusal | Self::ConnectionFailed => None,
        }
    }

    /// The reply a word stands for; any unknown text is a refusal of some other kind.
    pub fn from_word(word: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|r| r.word() == Some(word))
            .unwrap_or(Self::OtherRefusal)
    }
}

/// What to do with the diffs that were offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Stream them.
    Send,
    /// Delete them - the archive has them, or they belong to a dead log - and go on at once.
    DeleteAndContinue,
    /// Keep them and try again after this time.
    RetryAfter(Duration),
    /// Keep them and set the error flag: only seldom tries until a wlog comes, a kick or a start.
    RaiseErrorFlag,
}

/// The rule for a reply, without time in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Send,
    Delete,
    KeepForEver,
    KeepButMayGiveUp,
    KeepAndRetrySoon,
    Flag,
}

const fn rule(reply: Reply) -> Rule {
    match reply {
        Reply::Accept => Rule::Send,
        Reply::TooOldDiff | Reply::DifferentUuid => Rule::Delete,
        Reply::TooNewDiff | Reply::Syncing => Rule::KeepForEver,
        Reply::WdiffRecv | Reply::Stopped | Reply::OtherRefusal => Rule::KeepButMayGiveUp,
        Reply::SmallerLvSize | Reply::ArchiveNotFound => Rule::Flag,
        Reply::ConnectionFailed => Rule::KeepAndRetrySoon,
    }
}

/// The wait after a failed connection.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// How a proxy was told to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first wait.
    pub delay: Duration,
    /// The longest wait.
    pub max_delay: Duration,
    /// Seconds without a new wlog after which a refusal that may be for ever is taken as such.
    pub give_up_after: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
            give_up_after: 1800,
        }
    }
}

/// Waits that double: `delay`, 2 `delay`, 4 `delay` ... `max_delay`. One per task; a success starts it anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait.
    pub fn fail(&mut self, policy: &RetryPolicy) -> Duration {
        let wait = policy
            .delay
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(policy.max_delay);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// The last try succeeded, or somebody asked for one now.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// What to do on `reply`. `last_wlog` is when the last wlog of the volume came in since the process started.
pub fn react(
    reply: Reply,
    backoff: &mut Backoff,
    policy: &RetryPolicy,
    last_wlog: Option<Timestamp>,
    now: Timestamp,
) -> Reaction {
    match rule(reply) {
        Rule::Send => {
            backoff.reset();
            Reaction::Send
        }
        Rule::Delete => {
            backoff.reset();
            Reaction::DeleteAndContinue
        }
        Rule::Flag => {
            backoff.reset();
            Reaction::RaiseErrorFlag
        }
        Rule::KeepAndRetrySoon => Reaction::RetryAfter(RECONNECT_DELAY.min(policy.max_delay)),
        Rule::KeepForEver => Reaction::RetryAfter(backoff.fail(policy)),
        Rule::KeepButMayGiveUp => {
            let given_up = last_wlog.is_some_and(|last| now.0.saturating_sub(last.0) > policy.give_up_after);
            if given_up {
                backoff.reset();
                Reaction::RaiseErrorFlag
            } else {
                Reaction::RetryAfter(backoff.fail(policy))
            }
        }
    }
}

#[cfg(test)]
#[path = "reaction_tests.rs"]
mod tests;
