//! The server as a whole: kick, set-full-scan-bps, shutdown, version.

use clap::{Args, ValueEnum};
use walb_common::rest::{Empty, NodeInfo, ShutdownRequest, proxy, storage};
use walb_common::types::{VolumeName, parse_size};

use super::archive_info::archive_name;
use crate::answer::Answer;
use crate::error::CommandError;
use crate::session::{PROXY, SERVERS, STORAGE, STORAGE_OR_PROXY, Session, decode};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a s0 -p 10000 kick\n  walbc -a p0 -p 10100 kick vol0 a0")]
pub struct Kick {
    /// Proxy: only this volume
    vol: Option<VolumeName>,
    /// Proxy: only this archive of the volume
    #[arg(value_parser = archive_name)]
    archive: Option<String>,
}

impl Kick {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let Self { vol, archive } = self;
        let answer = match vol {
            None => session.post(STORAGE_OR_PROXY, "/v1/kick", &Empty {}).await?,
            Some(vol) => {
                let request = proxy::KickRequest {
                    volume: Some(vol.to_string()),
                    archive,
                };
                session.post(PROXY, "/v1/kick", &request).await?
            }
        };
        Ok(Answer::silent(answer))
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a s0 -p 10000 set-full-scan-bps 50m\n  walbc -a s0 -p 10000 set-full-scan-bps 0\n\n\
The configuration's full_scan_bytes_per_second counts again after a restart."
)]
pub struct SetFullScanBps {
    /// Bytes per second that each backup reads at most, with an optional suffix k, m, g, t; 0 is no limit
    #[arg(value_parser = parse_size)]
    size: u64,
}

impl SetFullScanBps {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let request = storage::FullScanLimitRequest {
            bytes_per_second: self.size,
        };
        let answer = session.post(STORAGE, "/v1/full-scan-limit", &request).await?;
        Ok(Answer::silent(answer))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShutdownMode {
    /// Let what runs end at its next safe point
    Graceful,
    /// Abort what runs
    Force,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a p0 -p 10100 shutdown")]
pub struct Shutdown {
    /// How
    #[arg(default_value = "graceful")]
    mode: ShutdownMode,
}

impl Shutdown {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let request = ShutdownRequest {
            force: self.mode == ShutdownMode::Force,
        };
        Ok(Answer::silent(
            session.post(SERVERS, "/v1/shutdown", &request).await?,
        ))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a a0 -p 10200 version")]
pub struct Version {}

impl Version {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let answer = session.get(SERVERS, "/v1/node").await?;
        let line = version_line(&decode(&answer)?);
        Ok(Answer::line(answer, line))
    }
}

/// The fields of the existing tool in its order. A server tells neither build date nor commit.
fn version_line(node: &NodeInfo) -> String {
    format!(
        "version:{}\tbuild_date:---\tlog_version:{}\tcommit:---",
        node.version, node.log_version
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use walb_common::types::Timestamp;

    #[test]
    fn the_version_is_one_ltsv_line() {
        let node = NodeInfo {
            host_type: "archive".into(),
            node_id: "a0".into(),
            pid: 77,
            version: "0.1.0".into(),
            log_version: 2,
            stream_version: 1,
            started: Timestamp(0),
            certificate_expires: Timestamp(0),
            stream_bytes_sent: 0,
            stream_bytes_received: 0,
        };
        assert_eq!(
            version_line(&node),
            "version:0.1.0\tbuild_date:---\tlog_version:2\tcommit:---"
        );
    }
}
