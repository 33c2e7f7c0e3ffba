//! The control plane's requests and answers: JSON over HTTPS under `/v1`.
//!
//! ```text
//! every daemon   GET  /v1/node                          NodeInfo
//!                GET  /v1/status                        {storage,proxy,archive}::Status
//!                GET  /v1/volumes                       [VolumeBrief]
//!                GET  /v1/volumes/{vol}                 {storage,proxy,archive}::VolumeStatus (unknown volume: state Clear)
//!                POST /v1/volumes/{vol}/start|stop|clear|reset ...
//!                GET  /v1/jobs[?volume=]  /v1/jobs/{id}   POST /v1/jobs/{id}/cancel
//!                POST /v1/shutdown   GET /healthz /readyz /metrics
//! storage        POST /v1/volumes/{vol}/init|full-backup|snapshot     POST /v1/kick|full-scan-limit
//! proxy          GET|PUT|DELETE /v1/volumes/{vol}/archives[/{name}]   POST /v1/kick   GET /v1/volumes/{vol}/diffs
//! archive        POST /v1/volumes/{vol}/init|restore   DELETE /v1/volumes/{vol}/restored/{gid}
//!                GET  /v1/volumes/{vol}/restorable|diffs|applicable-diffs|restored
//! ```
//! A long action answers 202 with [`Accepted`]; its job tells the rest. Every error is an [`ApiError`].

pub mod archive;
mod error;
mod job;
mod node;
pub mod proxy;
pub mod storage;

pub use error::{ApiError, ErrorCode};
pub use job::{Accepted, Job, JobState, Progress};
pub use node::{NodeInfo, ShutdownRequest, StartRequest, StopMode, StopRequest, VolumeBrief};

/// An answer without content.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Empty {}
