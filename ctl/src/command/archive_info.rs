//! Which archives a proxy sends a volume to: archive-info list, get, add, update, delete.

use clap::{Args, Subcommand};
use walb_common::rest::proxy::{ArchiveInfo, VolumeStatus};
use walb_common::types::{Compression, CompressionSetting, ParseError, VolumeName};
use walb_common::wire::identity::{Identity, Role};

use super::volume;
use crate::answer::Answer;
use crate::error::CommandError;
use crate::session::{PROXY, Session, decode, is_not_found};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc -a p0 -p 10100 archive-info add vol0 a0 localhost:10200")]
pub struct ArchiveInfoCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Print the names of a volume's archives, one per line
    #[command(after_help = "Example:\n  walbc -a p0 -p 10100 archive-info list vol0")]
    List {
        /// Volume name
        vol: VolumeName,
    },
    /// Print address, compression and delay of one archive
    #[command(after_help = "Example:\n  walbc -a p0 -p 10100 archive-info get vol0 a0")]
    Get(Which),
    /// Register an archive; it must be new
    #[command(
        after_help = "Example:\n  walbc -a p0 -p 10100 archive-info add vol0 a0 localhost:10200 snappy:0:1 0"
    )]
    Add(Entry),
    /// Register an archive, or change it
    #[command(
        after_help = "Example:\n  walbc -a p0 -p 10100 archive-info update vol0 a0 localhost:10201 zstd:3:2"
    )]
    Update(Entry),
    /// Forget an archive; what waits for it is dropped
    #[command(after_help = "Example:\n  walbc -a p0 -p 10100 archive-info delete vol0 a0")]
    Delete(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// Volume name
    vol: VolumeName,
    /// The archive's name, normally its node id
    #[arg(value_parser = archive_name)]
    archive: String,
}

#[derive(Debug, Args)]
struct Entry {
    #[command(flatten)]
    which: Which,
    /// The archive's address, HOST:PORT
    #[arg(value_name = "HOST:PORT", value_parser = address)]
    address: String,
    /// TYPE:LEVEL:CPUS; TYPE is none, snappy, gzip, lzma, lz4 or zstd
    #[arg(default_value_t = CompressionSetting::of(Compression::Snappy))]
    compression: CompressionSetting,
    /// Seconds a diff waits before it is sent
    #[arg(default_value_t = 0)]
    delay: u64,
}

/// The rule for archive names is that of node ids, without a leading dot.
pub fn archive_name(name: &str) -> Result<String, ParseError> {
    match Identity::new(Role::Archive, name) {
        Ok(_) if !name.starts_with('.') => Ok(name.to_owned()),
        _ => Err(ParseError::new(
            "archive name",
            name,
            "1 to 64 characters of 0-9 a-z A-Z - _ . and no dot first",
        )),
    }
}

fn address(text: &str) -> Result<String, ParseError> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0) => {
            Ok(text.to_owned())
        }
        _ => Err(ParseError::new("address", text, "HOST:PORT")),
    }
}

impl Which {
    fn path(&self) -> String {
        volume::path(&self.vol, &format!("/archives/{}", self.archive))
    }
}

impl Entry {
    fn info(&self) -> ArchiveInfo {
        ArchiveInfo {
            address: self.address.clone(),
            compression: self.compression,
            delay_seconds: self.delay,
        }
    }
}

impl ArchiveInfoCommand {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        match self.command {
            Sub::List { vol } => {
                // The volume's status lists them in any state, Clear included.
                let answer = session.get(PROXY, &volume::path(&vol, "")).await?;
                let mut status: VolumeStatus = decode(&answer)?;
                status.archives.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(Answer::lines(
                    answer["archives"].clone(),
                    status.archives.iter().map(|a| &a.name),
                ))
            }
            Sub::Get(which) => {
                let answer = session.get(PROXY, &which.path()).await.map_err(|error| {
                    if !is_not_found(&error) {
                        return error;
                    }
                    CommandError::local(format!("archive info not exists:{}", which.archive))
                })?;
                let line = info_line(&decode(&answer)?);
                Ok(Answer::line(answer, line))
            }
            Sub::Add(entry) => Ok(Answer::silent(
                session.post(PROXY, &entry.which.path(), &entry.info()).await?,
            )),
            Sub::Update(entry) => Ok(Answer::silent(
                session.put(PROXY, &entry.which.path(), &entry.info()).await?,
            )),
            Sub::Delete(which) => Ok(Answer::silent(session.delete(PROXY, &which.path()).await?)),
        }
    }
}

fn info_line(info: &ArchiveInfo) -> String {
    format!("{} {} {}", info.address, info.compression, info.delay_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_info_prints_three_fields() {
        let info = ArchiveInfo {
            address: "localhost:10201".into(),
            compression: "gzip:6:2".parse().unwrap(),
            delay_seconds: 10,
        };
        assert_eq!(info_line(&info), "localhost:10201 gzip:6:2 10");
    }

    #[test]
    fn names_and_addresses_of_archives_are_checked_before_the_server_is_asked() {
        assert!(archive_name("a0").is_ok());
        for name in ["", ".a", "a/b", "a b", &"x".repeat(65)] {
            assert!(archive_name(name).is_err(), "{name}");
        }
        assert!(address("localhost:10200").is_ok() && address("[::1]:1").is_ok());
        for text in [
            "",
            "localhost",
            "localhost:",
            ":1",
            "localhost:65536",
            "localhost:0",
            "localhost:x",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
