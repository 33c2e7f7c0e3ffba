//! Life and death of a daemon: signals, tracked tasks, graceful and forced stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by everything that runs in a daemon.
#[derive(Clone)]
pub struct Lifecycle(Arc<Inner>);

struct Inner {
    stop: CancellationToken,
    abort: CancellationToken,
    failed: AtomicBool,
    tasks: TaskTracker,
    grace: Duration,
}

impl Lifecycle {
    /// A life that ends with [`Lifecycle::stop`]; running work then has `grace` to end.
    pub fn new(grace: Duration) -> Self {
        Self(Arc::new(Inner {
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            failed: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            grace,
        }))
    }

    /// The same, also ended by SIGINT, SIGTERM and SIGQUIT: the first one stops, the second one aborts.
    pub fn install(grace: Duration) -> std::io::Result<Self> {
        let life = Self::new(grace);
        let mut signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::quit())?,
        ];
        let on_signal = life.clone();
        tokio::spawn(async move {
            next_signal(&mut signals).await;
            tracing::info!("signal: stopping; a second one aborts what still runs");
            on_signal.stop();
            next_signal(&mut signals).await;
            on_signal.abort();
        });
        Ok(life)
    }

    /// Take no new work; what runs should end at its next safe point.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Do not wait for what runs.
    pub fn abort(&self) {
        self.0.stop.cancel();
        self.0.abort.cancel();
    }

    /// Cancelled when the daemon is to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Cancelled when running streams are to be cut.
    pub fn aborting(&self) -> CancellationToken {
        self.0.abort.clone()
    }

    /// Runs a task that the daemon waits for when it stops.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.tasks.spawn(task);
    }

    /// Runs a task without which the daemon is of no use: if it ends before a stop was asked for, the daemon stops with
    /// a failure.
    pub fn spawn_essential<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let life = self.clone();
        let handle = self.0.tasks.spawn(task);
        tokio::spawn(async move {
            let ended = handle.await;
            if !life.0.stop.is_cancelled() {
                tracing::error!(
                    task = name,
                    panicked = ended.is_err(),
                    "essential task ended; stopping"
                );
                life.0.failed.store(true, Ordering::SeqCst);
                life.stop();
            }
        });
    }

    /// Waits for the stop, then for the tasks, at most for the grace.
    pub async fn until_stopped(&self) -> ExitCode {
        self.0.stop.cancelled().await;
        self.0.tasks.close();
        tokio::select! {
            () = self.0.tasks.wait() => {}
            () = self.0.abort.cancelled() => tracing::warn!("aborted: what was still running is cut"),
            () = tokio::time::sleep(self.0.grace) => tracing::warn!("grace is over: what was still running is cut"),
        }
        self.0.abort.cancel();
        if self.0.failed.load(Ordering::SeqCst) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

async fn next_signal(signals: &mut [Signal; 3]) {
    let [a, b, c] = signals;
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
        _ = c.recv() => {}
    }
}
