//! What a storage does with its volume: full-bkp, snapshot.

use clap::Args;
use walb_common::rest::{Empty, storage};
use walb_common::types::{ParseError, VolumeName, parse_size};

use super::status::hash_backup_line;
use super::{volume, wait};
use crate::answer::Answer;
use crate::error::CommandError;
use crate::session::{STORAGE, Session, decode};

/// Sizes of a chunk that the servers take.
const BULK_BYTES: std::ops::RangeInclusive<u64> = 512..=4 << 20;

fn bulk(text: &str) -> Result<u64, ParseError> {
    let bytes = parse_size(text)?;
    if !BULK_BYTES.contains(&bytes) {
        return Err(ParseError::new("bulk size", text, "512 to 4m"));
    }
    Ok(bytes)
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a s0 -p 10000 --wait full-bkp vol0")]
pub struct FullBkp {
    /// Volume name
    vol: VolumeName,
    /// Size of the chunks, 512 to 4m [default: 256k]
    #[arg(value_parser = bulk)]
    bulk: Option<u64>,
}

impl FullBkp {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let request = storage::BackupRequest {
            bulk_bytes: self.bulk,
        };
        let answer = session
            .post(STORAGE, &volume::path(&self.vol, "/full-backup"), &request)
            .await?;
        wait::accepted(session, answer).await
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a s0 -p 10000 --wait hash-bkp vol0\n  walbc -a s0 -p 10000 --wait hash-bkp vol0 256k --full-compare\n\n\
The volume is SyncReady or Stopped. Where the device's bitmap says what has changed since the archive's latest\n\
snapshot only that is read and sent; else the whole volume is read and compared by hashes. With --wait one line tells\n\
what it came to."
)]
pub struct HashBkp {
    /// Volume name
    vol: VolumeName,
    /// Size of the chunks, 512 to 4m [default: 256k]
    #[arg(value_parser = bulk)]
    bulk: Option<u64>,
    /// Compare everything, whatever the device's bitmap says
    #[arg(long)]
    full_compare: bool,
}

impl HashBkp {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let request = storage::HashBackupRequest {
            bulk_bytes: self.bulk,
            full_compare: self.full_compare,
        };
        let answer = session
            .post(STORAGE, &volume::path(&self.vol, "/hash-backup"), &request)
            .await?;
        let answer = wait::accepted(session, answer).await?;
        // Followed to its end, it is the job with its result.
        let report = answer.json.get("result").map(decode::<storage::HashBackupReport>);
        Ok(match report {
            Some(Ok(report)) => Answer::line(answer.json, hash_backup_line(&report)),
            _ => answer,
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a s0 -p 10000 snapshot vol0")]
pub struct Snapshot {
    /// Volume name
    vol: VolumeName,
}

impl Snapshot {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let answer = session
            .post(STORAGE, &volume::path(&self.vol, "/snapshot"), &Empty {})
            .await?;
        let storage::SnapshotAnswer { gid } = decode(&answer)?;
        Ok(Answer::line(answer, gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_sizes_are_bounded() {
        assert_eq!(bulk("256k"), Ok(262_144));
        assert_eq!(bulk("4m"), Ok(4 << 20));
        for text in ["511", "5m", "0", "", "x"] {
            assert!(bulk(text).is_err(), "{text}");
        }
    }
}
