//! Long actions: accepted at once, then asked for by number. Stored, so that a restart tells what became of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sqlx::{Row, SqlitePool};
use tokio_util::sync::CancellationToken;

use super::lifecycle::Lifecycle;
use crate::rest::{ApiError, ErrorCode, Job, JobState, Progress};
use crate::types::{Timestamp, VolumeName};

/// Ended jobs beyond this many are forgotten, oldest first.
const KEPT: i64 = 1000;

/// What a running job is given.
#[derive(Clone)]
pub struct JobContext {
    /// Cancelled by `POST /v1/jobs/{id}/cancel`, and when the daemon aborts.
    pub cancel: CancellationToken,
    progress: Arc<Counters>,
}

impl JobContext {
    /// Sets how many bytes are to be done.
    pub fn set_total(&self, bytes: u64) {
        self.progress.total.store(bytes, Ordering::Relaxed);
    }

    /// Sets how many bytes are done.
    pub fn set_done(&self, bytes: u64) {
        self.progress.done.store(bytes, Ordering::Relaxed);
    }

    /// Bytes done so far.
    pub fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Relaxed)
    }
}

struct Counters {
    done: AtomicU64,
    total: AtomicU64,
    began: Instant,
}

impl Counters {
    fn read(&self) -> Progress {
        let (done, total) = (
            self.done.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        );
        let millis = u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let rate = done.saturating_mul(1000) / millis;
        let eta_seconds = (rate > 0 && total >= done).then(|| (total - done) / rate);
        Progress {
            done,
            total,
            rate,
            eta_seconds,
        }
    }
}

/// The daemon's jobs.
#[derive(Clone)]
pub struct Jobs {
    pool: SqlitePool,
    lifecycle: Lifecycle,
    running: Arc<Mutex<HashMap<u64, JobContext>>>,
}

impl Jobs {
    /// Takes up the stored list. A job that was running when the process died failed with that reason: every action
    /// rolls back or heals by itself at start, so nothing is resumed here.
    pub async fn open(pool: SqlitePool, lifecycle: Lifecycle) -> Result<Self, sqlx::Error> {
        let error = ApiError::new(
            ErrorCode::Unavailable,
            "the daemon was restarted while the job was running",
        );
        let error = serde_json::to_string(&error).unwrap_or_default();
        sqlx::query("UPDATE job SET state = 'failed', ended = ?, error = ? WHERE state = 'running'")
            .bind(signed(Timestamp::now().0))
            .bind(error)
            .execute(&pool)
            .await?;
        Ok(Self {
            pool,
            lifecycle,
            running: Arc::default(),
        })
    }

    /// Accepts a job and runs it in the background; answers with its number.
    pub async fn start<F, W>(
        &self,
        kind: &'static str,
        volume: Option<&VolumeName>,
        work: W,
    ) -> Result<u64, ApiError>
    where
        W: FnOnce(JobContext) -> F,
        F: Future<Output = Result<serde_json::Value, ApiError>> + Send + 'static,
    {
        let row = sqlx::query("INSERT INTO job (kind, volume, state, started) VALUES (?, ?, 'running', ?)")
            .bind(kind)
            .bind(volume.map(ToString::to_string))
            .bind(signed(Timestamp::now().0))
            .execute(&self.pool)
            .await
            .map_err(|e| ApiError::internal(&e))?;
        let id = row.last_insert_rowid().unsigned_abs();
        let progress = Arc::new(Counters {
            done: 0.into(),
            total: 0.into(),
            began: Instant::now(),
        });
        let context = JobContext {
            cancel: self.lifecycle.aborting().child_token(),
            progress,
        };
        self.lock().insert(id, context.clone());
        let future = work(context.clone());
        let (jobs, volume) = (self.clone(), volume.cloned());
        self.lifecycle.spawn(async move {
            // A panic in one job must not leave it "running" for ever.
            let result = match tokio::spawn(future).await {
                Ok(result) => result,
                Err(error) => Err(ApiError::new(ErrorCode::Internal, format!("the job's task ended: {error}"))),
            };
            match &result {
                Ok(_) => tracing::info!(job = id, kind, volume = volume.as_ref().map(VolumeName::as_str), "job succeeded"),
                Err(error) => {
                    tracing::error!(job = id, kind, volume = volume.as_ref().map(VolumeName::as_str), %error, "job failed");
                }
            }
            if let Err(error) = jobs.store_end(id, &context, &result).await {
                tracing::error!(job = id, error = %super::chain(&error), "the end of a job could not be stored");
            }
            jobs.lock().remove(&id);
        });
        Ok(id)
    }

    async fn store_end(
        &self,
        id: u64,
        context: &JobContext,
        result: &Result<serde_json::Value, ApiError>,
    ) -> Result<(), sqlx::Error> {
        let (state, value, error) = match result {
            Ok(value) => ("succeeded", Some(value.to_string()), None),
            Err(error) => {
                let state = if context.cancel.is_cancelled() {
                    "cancelled"
                } else {
                    "failed"
                };
                (state, None, serde_json::to_string(error).ok())
            }
        };
        sqlx::query("UPDATE job SET state = ?, ended = ?, result = ?, error = ? WHERE id = ?")
            .bind(state)
            .bind(signed(Timestamp::now().0))
            .bind(value)
            .bind(error)
            .bind(signed(id))
            .execute(&self.pool)
            .await?;
        sqlx::query("DELETE FROM job WHERE state <> 'running' AND id <= (SELECT max(id) FROM job) - ?")
            .bind(KEPT)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// One job.
    pub async fn get(&self, id: u64) -> Result<Job, ApiError> {
        let row = sqlx::query("SELECT * FROM job WHERE id = ?")
            .bind(signed(id))
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| ApiError::internal(&e))?;
        match row {
            Some(row) => self.job(&row).map_err(|e| ApiError::internal(&e)),
            None => Err(ApiError::new(ErrorCode::NotFound, format!("no job {id}"))),
        }
    }

    /// All jobs, newest first.
    pub async fn list(&self, volume: Option<&str>) -> Result<Vec<Job>, ApiError> {
        let rows = sqlx::query("SELECT * FROM job WHERE ?1 IS NULL OR volume = ?1 ORDER BY id DESC")
            .bind(volume)
            .fetch_all(&self.pool)
            .await
            .map_err(|e| ApiError::internal(&e))?;
        rows.iter()
            .map(|row| self.job(row))
            .collect::<Result<_, _>>()
            .map_err(|e| ApiError::internal(&e))
    }

    /// Asks a running job to end; it does at its next safe point.
    pub async fn cancel(&self, id: u64) -> Result<Job, ApiError> {
        let context = self.lock().get(&id).cloned();
        let Some(context) = context else {
            let job = self.get(id).await?;
            let error = ApiError::new(ErrorCode::WrongState, format!("job {id} has ended"));
            return Err(error.state(format!("{:?}", job.state)));
        };
        context.cancel.cancel();
        self.get(id).await
    }

    fn job(&self, row: &sqlx::sqlite::SqliteRow) -> Result<Job, sqlx::Error> {
        let id = row.try_get::<i64, _>("id")?.unsigned_abs();
        let state = match row.try_get::<&str, _>("state")? {
            "running" => JobState::Running,
            "succeeded" => JobState::Succeeded,
            "cancelled" => JobState::Cancelled,
            _ => JobState::Failed,
        };
        let progress = self
            .lock()
            .get(&id)
            .map(|c| c.progress.read())
            .unwrap_or_default();
        let text = |column: &str| row.try_get::<Option<String>, _>(column);
        Ok(Job {
            id,
            kind: row.try_get("kind")?,
            volume: row.try_get("volume")?,
            state,
            started: Timestamp(row.try_get::<i64, _>("started")?.unsigned_abs()),
            ended: row
                .try_get::<Option<i64>, _>("ended")?
                .map(|t| Timestamp(t.unsigned_abs())),
            progress,
            result: text("result")?.and_then(|t| serde_json::from_str(&t).ok()),
            error: text("error")?.and_then(|t| serde_json::from_str(&t).ok()),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, JobContext>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SQLite stores signed numbers; ids and times stay far below the sign.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
