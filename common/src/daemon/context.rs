//! What every daemon has at hand.

use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::NodeConfig;
use super::jobs::Jobs;
use super::lifecycle::Lifecycle;
use crate::rest::{ApiError, ErrorCode, NodeInfo};
use crate::types::Timestamp;
use crate::wire::client::Client;
use crate::wire::tls::TlsContext;

/// Node, TLS, client, jobs, lifecycle, limits. Cheap to share behind an `Arc`.
pub struct DaemonContext {
    /// The common part of the configuration.
    pub node: NodeConfig,
    /// Our identity.
    pub tls: Arc<TlsContext>,
    /// For talking to others.
    pub client: Client,
    /// Life and death.
    pub lifecycle: Lifecycle,
    /// Long actions.
    pub jobs: Jobs,
    /// When the process started.
    pub started: Timestamp,
    foreground: Arc<Semaphore>,
}

impl DaemonContext {
    /// Puts it together; `pool` is the daemon's database.
    pub async fn new(
        node: NodeConfig,
        tls: Arc<TlsContext>,
        lifecycle: Lifecycle,
        pool: SqlitePool,
    ) -> Result<Arc<Self>, sqlx::Error> {
        let timeout = Duration::from_secs(node.socket_timeout_seconds);
        let client = Client::new(tls.clone(), timeout, timeout);
        let jobs = Jobs::open(pool, lifecycle.clone()).await?;
        let foreground = Arc::new(Semaphore::new(node.max_foreground_tasks));
        Ok(Arc::new(Self {
            node,
            tls,
            client,
            lifecycle,
            jobs,
            started: Timestamp::now(),
            foreground,
        }))
    }

    /// A place among the foreground tasks, or the refusal.
    pub fn foreground(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.foreground.clone().try_acquire_owned().map_err(|_| {
            let max = self.node.max_foreground_tasks;
            ApiError::new(ErrorCode::Limit, format!("exceeds max foreground tasks:{max}"))
                .hint("try again later")
        })
    }

    /// Our node id, from the certificate.
    pub fn node_id(&self) -> String {
        self.tls.identity().node
    }

    /// Who we are, for `/v1/node`.
    pub fn info(&self) -> NodeInfo {
        let current = self.tls.current();
        let (stream_bytes_sent, stream_bytes_received) = crate::wire::stream::totals();
        NodeInfo {
            host_type: current.identity.role.to_string(),
            node_id: current.identity.node,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log_version: 2,
            stream_version: crate::wire::STREAM_VERSION,
            started: self.started,
            certificate_expires: Timestamp(u64::try_from(current.expires).unwrap_or(0)),
            stream_bytes_sent,
            stream_bytes_received,
        }
    }
}
