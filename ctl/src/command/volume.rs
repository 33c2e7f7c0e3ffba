//! A volume's life on one server: init-vol, clear-vol, reset-vol, start, stop.

use clap::Args;
use serde_json::Value;
use walb_common::rest::{Empty, StartRequest, StopMode, StopRequest, archive, storage};
use walb_common::types::{Gid, VolumeName};
use walb_common::wire::identity::Role;

use super::wait;
use crate::answer::Answer;
use crate::error::CommandError;
use crate::session::{SERVERS, STORAGE, STORAGE_OR_ARCHIVE, Session};

/// The path of a volume's route.
pub fn path(volume: &VolumeName, rest: &str) -> String {
    format!("/v1/volumes/{volume}{rest}")
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a s0 -p 10000 init-vol vol0 wdev:vol0\n  walbc -a a0 -p 10200 init-vol vol0"
)]
pub struct InitVol {
    /// Volume name
    vol: VolumeName,
    /// Storage: its device, as wdev:NAME, wdev:SOCKET#NAME or /dev/walb/NAME
    wdev: Option<String>,
}

impl InitVol {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let Self { vol, wdev } = self;
        let role = session.role(STORAGE_OR_ARCHIVE).await?;
        let path = path(&vol, "/init");
        let answer: Value = match (role, wdev) {
            (Role::Storage, Some(device)) => {
                session
                    .post(STORAGE, &path, &storage::InitRequest { device })
                    .await?
            }
            (Role::Storage, None) => {
                return Err(CommandError::Usage(
                    "WDEV is required: a storage needs the volume's device".into(),
                ));
            }
            (_, None) => session.post(&[role], &path, &archive::InitRequest {}).await?,
            (_, Some(wdev)) => {
                return Err(CommandError::Usage(format!(
                    "surplus argument {wdev}: an archive takes no device"
                )));
            }
        };
        Ok(Answer::silent(answer))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a a0 -p 10200 clear-vol vol0")]
pub struct ClearVol {
    /// Volume name
    vol: VolumeName,
}

impl ClearVol {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let path = path(&self.vol, "/clear");
        wait::done(session, session.post(SERVERS, &path, &Empty {}).await?).await
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a s0 -p 10000 reset-vol vol0\n  walbc -a s0 -p 10000 reset-vol vol0 77"
)]
pub struct ResetVol {
    /// Volume name
    vol: VolumeName,
    /// Storage: the gid to begin with [default: 0]; without meaning to an archive
    gid: Option<Gid>,
}

impl ResetVol {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let path = path(&self.vol, "/reset");
        // An archive starts a new lineage with the next backup, whatever the gid; scripts may still name one.
        let request = storage::ResetRequest {
            gid: self.gid.unwrap_or_default(),
        };
        let answer = session.post(STORAGE_OR_ARCHIVE, &path, &request).await?;
        wait::done(session, answer).await
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a s0 -p 10000 start vol0 target\n  walbc -a p0 -p 10100 start vol0"
)]
pub struct Start {
    /// Volume name
    vol: VolumeName,
    /// Storage: target or standby
    role: Option<String>,
}

impl Start {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let Self { vol, role } = self;
        let servers = match role.as_deref() {
            None => SERVERS,
            Some("target" | "standby") => STORAGE,
            Some(word) => {
                return Err(CommandError::local(format!(
                    "specify role: target or standby:{word}"
                )));
            }
        };
        let answer = session
            .post(servers, &path(&vol, "/start"), &StartRequest { role })
            .await?;
        wait::done(session, answer).await
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a s0 -p 10000 --wait stop vol0\n  walbc -a p0 -p 10100 stop vol0 empty"
)]
pub struct Stop {
    /// Volume name
    vol: VolumeName,
    /// graceful: let what runs end; force: abort it; empty (proxy only): first send everything
    #[arg(default_value = "graceful")]
    mode: StopMode,
}

impl Stop {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let answer = session
            .post(
                SERVERS,
                &path(&self.vol, "/stop"),
                &StopRequest { mode: self.mode },
            )
            .await?;
        wait::accepted(session, answer).await
    }
}
