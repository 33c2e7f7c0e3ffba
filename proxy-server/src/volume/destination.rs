//! One archive of a volume: what waits for it, and when its task tries next.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walb_common::lineage::MetaDiff;
use walb_common::rest::proxy::{ArchiveInfo, ArchiveStatus, TaskStatus};
use walb_common::types::{Timestamp, VolumeName};

use super::waiting::{Waiting, WaitingDiff};
use crate::reaction::Backoff;

/// An archive registered for a volume. Its sending task lives as long as the registration.
pub struct Destination {
    /// Its name.
    pub name: String,
    /// Where its diffs wait.
    pub dir: PathBuf,
    /// Ends its task.
    pub gone: CancellationToken,
    wake: Notify,
    inner: Mutex<Inner>,
}

struct Inner {
    info: ArchiveInfo,
    waiting: Waiting,
    /// When the task runs next; None: when something comes.
    due: Option<Instant>,
    sending: bool,
    send_error: bool,
    last_error: Option<String>,
    /// Since when the archive says that an earlier diff is missing, and how it says it.
    too_new: Option<(Timestamp, String)>,
    last_sent: Timestamp,
    backoff: Backoff,
    bad: Vec<String>,
}

impl Destination {
    /// An archive for which `waiting` was found on disk.
    pub fn new(name: String, dir: PathBuf, info: ArchiveInfo, waiting: Waiting, bad: Vec<String>) -> Self {
        let inner = Inner {
            info,
            waiting,
            due: None,
            sending: false,
            send_error: false,
            last_error: None,
            too_new: None,
            last_sent: Timestamp::NONE,
            backoff: Backoff::default(),
            bad,
        };
        Self {
            name,
            dir,
            gone: CancellationToken::new(),
            wake: Notify::new(),
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where and how to send.
    pub fn info(&self) -> ArchiveInfo {
        self.lock().info.clone()
    }

    /// Replaces where and how to send.
    pub fn set_info(&self, info: ArchiveInfo) {
        self.lock().info = info;
    }

    /// Replaces what is known to wait by what was found on disk.
    pub fn reload(&self, waiting: Waiting, bad: Vec<String>) {
        let mut inner = self.lock();
        inner.waiting = waiting;
        inner.bad = bad;
    }

    /// Works on what waits.
    pub fn with_waiting<T>(&self, work: impl FnOnce(&mut Waiting) -> T) -> T {
        work(&mut self.lock().waiting)
    }

    /// Forgets a diff that was sent or is gone.
    pub fn forget(&self, diff: &WaitingDiff) {
        let mut inner = self.lock();
        inner.waiting.remove(diff);
        if inner.waiting.is_empty() {
            inner.too_new = None;
        }
    }

    /// Forgets a diff whose file was set aside.
    pub fn forget_bad(&self, diff: &WaitingDiff, file: String) {
        let mut inner = self.lock();
        inner.waiting.remove(diff);
        inner.bad.push(file);
    }

    /// A wlog came: whatever stood against sending may be over. What is queued already keeps its time.
    pub fn queue(&self) {
        let mut inner = self.lock();
        let at = Instant::now() + Duration::from_secs(inner.info.delay_seconds);
        if std::mem::take(&mut inner.send_error) {
            inner.due = Some(at);
        }
        inner.due.get_or_insert(at);
        drop(inner);
        self.wake.notify_one();
    }

    /// Try now, whatever happened before.
    pub fn kick(&self) {
        let mut inner = self.lock();
        inner.send_error = false;
        inner.backoff.reset();
        inner.due = Some(Instant::now());
        drop(inner);
        self.wake.notify_one();
    }

    /// When the task is to run; None while nothing is queued.
    pub fn due(&self) -> Option<Instant> {
        self.lock().due
    }

    /// Something happened to the queue.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// The task takes up what is due; what is queued from now on is another run.
    pub fn begin_run(&self) {
        self.lock().due = None;
    }

    /// The task will run again.
    pub fn run_again(&self, after: Duration) {
        let mut inner = self.lock();
        let at = Instant::now() + after;
        // A kick that came meanwhile is sooner; a wlog that came meanwhile does not cut a back-off short.
        if inner.due.is_none_or(|due| due > Instant::now()) {
            inner.due = Some(at);
        }
    }

    /// The task raises the error flag until a wlog, a kick or a start; unless one came while it was running. It goes on
    /// trying, seldom: whatever stood against sending may be mended without anybody thinking of a kick here.
    pub fn give_up(&self, try_after: Duration) {
        let mut inner = self.lock();
        if inner.due.is_none() {
            inner.send_error = true;
            inner.due = Some(Instant::now() + try_after);
        }
    }

    /// Shows that a transfer runs.
    pub fn set_sending(&self, sending: bool) {
        self.lock().sending = sending;
    }

    /// What the last transfer failed of. Answers whether the one before failed of the same.
    pub fn set_error(&self, error: String) -> bool {
        let mut inner = self.lock();
        let repeated = inner.last_error.as_ref() == Some(&error);
        inner.last_error = Some(error);
        repeated
    }

    /// The archive says that an earlier diff is missing. That holds until it takes one, or nothing waits.
    pub fn set_too_new(&self, text: &str) {
        let mut inner = self.lock();
        let since = inner.too_new.as_ref().map(|(since, _)| *since);
        inner.too_new = Some((since.unwrap_or_else(Timestamp::now), text.to_owned()));
    }

    /// What somebody should look at. A missing diff is waited for without end: it may be at another proxy, or lost.
    pub fn warning(&self) -> Option<String> {
        let inner = self.lock();
        let (since, text) = inner.too_new.as_ref()?;
        let name = &self.name;
        Some(format!(
            "archive {name} lacks an earlier diff since {since}: {text}; if no proxy has it any more, only a new full backup goes on"
        ))
    }

    /// A transfer was acknowledged.
    pub fn delivered(&self, now: Timestamp) {
        let mut inner = self.lock();
        inner.last_sent = now;
        inner.too_new = None;
        inner.last_error = None;
        inner.send_error = false;
        inner.backoff.reset();
    }

    /// Works with the back-off.
    pub fn with_backoff<T>(&self, work: impl FnOnce(&mut Backoff) -> T) -> T {
        work(&mut self.lock().backoff)
    }

    /// For `status`.
    pub fn status(&self) -> ArchiveStatus {
        let inner = self.lock();
        let newest = inner.waiting.newest();
        let oldest = inner.waiting.oldest_time();
        ArchiveStatus {
            name: self.name.clone(),
            info: inner.info.clone(),
            sending: inner.sending,
            num_diff: inner.waiting.len() as u64,
            total_size: inner.waiting.bytes(),
            min_gid: inner.waiting.min_gid(),
            max_gid: newest.map(|d| d.end().begin()),
            newest: newest.map_or(Timestamp::NONE, MetaDiff::timestamp),
            last_sent: inner.last_sent,
            send_error: inner.send_error,
            last_error: inner.last_error.clone(),
            delay_measured: oldest.map_or(0, |t| Timestamp::now().0.saturating_sub(t.0)),
            damaged: inner.bad.clone(),
        }
    }

    /// For `status`: the transfer that waits for its time.
    pub fn task(&self, volume: &VolumeName) -> Option<TaskStatus> {
        let inner = self.lock();
        let due = inner.due.filter(|_| !inner.send_error)?;
        let now = Instant::now();
        let ahead = i64::try_from(due.saturating_duration_since(now).as_millis()).unwrap_or(i64::MAX);
        let behind = i64::try_from(now.saturating_duration_since(due).as_millis()).unwrap_or(i64::MAX);
        Some(TaskStatus {
            volume: volume.to_string(),
            archive: self.name.clone(),
            time_diff_ms: ahead - behind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination() -> Destination {
        let info = ArchiveInfo {
            address: "localhost:1".to_owned(),
            compression: walb_common::types::CompressionSetting::of(walb_common::types::Compression::None),
            delay_seconds: 0,
        };
        Destination::new(
            "a0".to_owned(),
            PathBuf::new(),
            info,
            Waiting::default(),
            Vec::new(),
        )
    }

    #[test]
    fn a_flagged_archive_is_still_tried_now_and_then_and_at_once_when_a_log_comes() {
        let archive = destination();
        let volume = VolumeName::new("vol0").unwrap();
        let wait = || archive.due().unwrap().saturating_duration_since(Instant::now());
        archive.give_up(Duration::from_secs(300));
        assert!(wait() > Duration::from_secs(200));
        assert!(archive.status().send_error && archive.task(&volume).is_none());
        archive.queue();
        assert_eq!(wait(), Duration::ZERO);
        assert!(!archive.status().send_error && archive.task(&volume).is_some());
        // A log that came while the task was running is sent at once; no flag then.
        archive.give_up(Duration::from_secs(300));
        assert_eq!((wait(), archive.status().send_error), (Duration::ZERO, false));
    }

    #[test]
    fn the_same_failure_again_is_told_from_another() {
        let archive = destination();
        assert!(!archive.set_error("refused".to_owned()));
        assert!(archive.set_error("refused".to_owned()));
        assert!(!archive.set_error("timed out".to_owned()));
    }

    #[test]
    fn an_archive_that_lacks_a_diff_is_warned_of_until_it_takes_one() {
        let archive = destination();
        assert_eq!(archive.warning(), None);
        archive.set_too_new("too-new-diff: |5|-->|6|, latest is |3|");
        let told = archive.warning().unwrap_or_default();
        assert!(
            told.starts_with("archive a0 lacks an earlier diff since ") && told.contains("latest is |3|"),
            "{told}"
        );
        archive.delivered(Timestamp(1));
        assert_eq!(archive.warning(), None);
    }
}
