use serde::{Deserialize, Serialize};

use super::ApiError;
use crate::types::Timestamp;

/// Answer to a long action: it runs as this job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Accepted {
    /// Ask for it at `/v1/jobs/{job}`.
    pub job: u64,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// At work.
    Running,
    /// Done; `result` says what came of it.
    Succeeded,
    /// Failed; `error` says why. Nothing half-done is left.
    Failed,
    /// Cancelled by a request.
    Cancelled,
}

impl JobState {
    /// Whether it has ended.
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Running)
    }
}

/// Work done so far, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes to do; 0 while unknown.
    pub total: u64,
    /// Bytes per second over the life of the job.
    pub rate: u64,
    /// Seconds still to go at that rate.
    pub eta_seconds: Option<u64>,
}

/// A long action.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its number, unique in the daemon's data directory.
    pub id: u64,
    /// What it does: `full-backup`, `restore`, `stop`, ...
    pub kind: String,
    /// The volume it works on.
    pub volume: Option<String>,
    /// How far it is.
    pub state: JobState,
    /// When it was accepted.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How much is done.
    pub progress: Progress,
    /// What came of it.
    pub result: Option<serde_json::Value>,
    /// Why it failed.
    pub error: Option<ApiError>,
}
