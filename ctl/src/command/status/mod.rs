//! `status`: for people, but line by line, because monitoring scripts search it. One file per kind of server.

mod archive;
mod proxy;
mod storage;

#[cfg(test)]
pub mod fixtures;
#[cfg(test)]
mod tests;

pub use storage::hash_backup_line;

use clap::Args;
use walb_common::types::VolumeName;
use walb_common::wire::identity::Role;

use super::volume;
use crate::answer::Answer;
use crate::error::CommandError;
use crate::session::{SERVERS, Session, decode};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a s0 -p 10000 status\n  walbc -a a0 -p 10200 status vol0")]
pub struct Status {
    /// Only this volume, in detail
    vol: Option<VolumeName>,
}

impl Status {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let role = session.role(SERVERS).await?;
        let path = self
            .vol
            .as_ref()
            .map_or("/v1/status".to_owned(), |vol| volume::path(vol, ""));
        let json = session.get(&[role], &path).await?;
        let text = match (role, &self.vol) {
            (Role::Storage, None) => storage::all(&decode(&json)?),
            (Role::Storage, Some(_)) => storage::one(&decode(&json)?),
            (Role::Proxy, None) => proxy::all(&decode(&json)?),
            (Role::Proxy, Some(_)) => proxy::one(&decode(&json)?),
            (Role::Archive, None) => archive::all(&decode(&json)?),
            (Role::Archive, Some(_)) => archive::one(&decode(&json)?),
            (Role::Operator | Role::Viewer | Role::Guest, _) => {
                return Err(CommandError::local(format!(
                    "bad host type:{role}, expected storage, proxy or archive"
                )));
            }
        };
        Ok(Answer { json, text })
    }
}

/// A reason fit for one line.
fn one_line(reason: &str) -> String {
    reason.replace(['\n', '\r'], " ")
}
