//! Images of snapshots: restore, del-restored.

use clap::Args;
use walb_common::rest::archive;
use walb_common::types::{Gid, VolumeName};

use super::{volume, wait};
use crate::answer::Answer;
use crate::error::CommandError;
use crate::session::{ARCHIVE, Session};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a a0 -p 10200 --wait restore vol0 9\n  walbc -a a0 -p 10200 get restored-path vol0 9"
)]
pub struct Restore {
    /// Volume name
    vol: VolumeName,
    /// Snapshot, one of `get restorable VOL all`
    gid: Gid,
}

impl Restore {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let request = archive::RestoreRequest { gid: self.gid };
        let answer = session
            .post(ARCHIVE, &volume::path(&self.vol, "/restore"), &request)
            .await?;
        wait::accepted(session, answer).await
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a a0 -p 10200 del-restored vol0 9")]
pub struct DelRestored {
    /// Volume name
    vol: VolumeName,
    /// Snapshot, one of `get restored VOL`
    gid: Gid,
}

impl DelRestored {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let path = volume::path(&self.vol, &format!("/restored/{}", self.gid));
        Ok(Answer::silent(session.delete(ARCHIVE, &path).await?))
    }
}
