//! Logs that were lost heal by themselves: a hash backup is started for every volume that stopped because its log's
//! continuity is gone (an overflow above all), if the configuration allows (`heal_overflow`), and one that was cut by a
//! restart goes on. Retried a bounded number of times, further and further apart; where the archive refuses, somebody has
//! to do something there, and the status says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::storage::Static;

use crate::config::StorageConfig;
use crate::full_backup::bulk_size;
use crate::hash_backup::{self, Wanted};
use crate::volume::Volume;

/// How often volumes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The archive's answer comes within this, beyond the time it is waited for.
const ASKING_MAX: Duration = Duration::from_secs(120);
/// Attempts that fail, before somebody has to look.
const ATTEMPTS_MAX: u32 = 20;

/// What is being done about a log that was lost; memory only, a restart begins anew.
#[derive(Debug, Default)]
pub(crate) struct Healing(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    failures: u32,
    not_before: Option<Instant>,
    over: bool,
    told: Option<String>,
}

impl Healing {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the status.
    pub(crate) fn told(&self) -> Option<String> {
        self.lock().told.clone()
    }

    /// What is being done.
    pub(crate) fn say(&self, text: String) {
        self.lock().told = Some(text);
    }

    /// Nothing has to be healed any more.
    pub(crate) fn done(&self) {
        *self.lock() = Inner::default();
    }

    /// An attempt failed: when the next one comes, or who has to do what.
    pub(crate) fn failed(&self, error: &ApiError, settings: &StorageConfig) {
        let mut inner = self.lock();
        inner.failures += 1;
        let needs_somebody = matches!(error.code, ErrorCode::PeerRefused | ErrorCode::WrongState);
        if needs_somebody || inner.failures >= ATTEMPTS_MAX {
            inner.over = true;
            inner.told = Some(format!(
                "given up after {} attempt{}: {}; see to that, then run hash-bkp, or reset the volume on both sides and \
                 run full-bkp",
                inner.failures,
                if inner.failures == 1 { "" } else { "s" },
                error.message
            ));
            return;
        }
        let delay = settings.retry_delay(inner.failures);
        inner.not_before = Some(Instant::now() + delay);
        inner.told = Some(format!(
            "attempt {} failed: {}; the next in {} s",
            inner.failures,
            error.message,
            delay.as_secs()
        ));
    }

    fn is_due(&self) -> bool {
        let inner = self.lock();
        !inner.over && inner.not_before.is_none_or(|at| at <= Instant::now())
    }
}

/// Looks at all volumes, again and again. `volumes` answers none when the server is gone.
pub(crate) async fn run(volumes: impl Fn() -> Option<Vec<Arc<Volume>>>, life: Lifecycle) {
    let stopping = life.stopping();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stopping.cancelled() => return,
        }
        for volume in volumes().unwrap_or_default() {
            look(&volume, &life).await;
        }
    }
}

async fn look(volume: &Arc<Volume>, life: &Lifecycle) {
    let Some(why) = ill(volume).await else { return };
    if !volume.healing.is_due() {
        return;
    }
    let wanted = Wanted {
        bulk: match bulk_size(None) {
            Ok(bulk) => bulk,
            Err(_) => return,
        },
        full_compare: false,
        why,
        catch_up: Duration::from_secs(volume.shared.settings.catch_up_seconds),
    };
    tracing::warn!(volume = %volume.name, why = wanted.why, "healing by a hash backup");
    // Asking may take a while: no other volume waits for it, and nobody asks a second time meanwhile.
    let volume = volume.clone();
    volume.healing.lock().not_before = Some(Instant::now() + wanted.catch_up + ASKING_MAX);
    let stopping = life.stopping();
    life.spawn(async move {
        let started = tokio::select! {
            started = hash_backup::start(&volume, wanted) => started,
            () = stopping.cancelled() => return,
        };
        match started {
            // Its end says what comes next.
            Ok(job) => tracing::info!(volume = %volume.name, job, "healing"),
            // Somebody else was quicker.
            Err(error) if error.code == ErrorCode::WrongState && ill(&volume).await.is_none() => {}
            Err(error) => {
                tracing::warn!(volume = %volume.name, %error, "healing has not begun");
                volume.healing.failed(&error, &volume.shared.settings);
            }
        }
    });
}

/// Why a volume needs a hash backup, if it does and may have one.
async fn ill(volume: &Volume) -> Option<String> {
    let view = volume.occupancy.view();
    if view.stopping.is_some() {
        return None;
    }
    let records = volume.records().await;
    match view.state.at_rest()? {
        Static::Stopped if volume.shared.settings.heal_overflow => records.failed,
        Static::SyncReady => records.backup.map(|intent| intent.why),
        Static::Target | Static::Clear => {
            volume.healing.done();
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_are_retried_further_and_further_apart_and_not_for_ever() {
        let healing = Healing::default();
        assert!(healing.is_due() && healing.told().is_none());
        let away = ApiError::new(ErrorCode::Unavailable, "archive away");
        for attempt in 1..ATTEMPTS_MAX {
            healing.failed(&away, &StorageConfig::sample());
            let told = healing.told().unwrap();
            assert!(
                told.starts_with(&format!("attempt {attempt} failed: archive away; the next in ")),
                "{told}"
            );
            assert!(!healing.is_due());
        }
        healing.failed(&away, &StorageConfig::sample());
        assert!(healing.told().unwrap().starts_with("given up after 20 attempts"));
        healing.done();
        assert!(healing.is_due() && healing.told().is_none());
    }

    #[tokio::test]
    async fn a_refusal_waits_for_somebody() {
        let healing = Healing::default();
        let refused = ApiError::new(
            ErrorCode::PeerRefused,
            "not accepted by archive:a0:bad state:SyncReady",
        );
        healing.failed(&refused, &StorageConfig::sample());
        assert!(!healing.is_due());
        let told = healing.told().unwrap();
        assert!(
            told.starts_with("given up after 1 attempt: not accepted"),
            "{told}"
        );
        assert!(told.contains("run full-bkp"), "{told}");
    }
}
