//! What a storage does with its volume: full-bkp, snapshot.

use clap::Args;
use walb_common::rest::{Empty, storage};
use walb_common::types::{ParseError, VolumeName, parse_size};

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
