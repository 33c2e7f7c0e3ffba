//! `get TARGET`: one fact, in the form scripts parse. Targets are declared in [`target`]; what they print is in [`lines`].

mod lines;
mod target;

#[cfg(test)]
mod tests;

use clap::Args;
use serde_json::Value;
use walb_common::lineage::{BaseState, MetaDiff};
use walb_common::rest::{NodeInfo, VolumeBrief, archive, proxy, storage};
use walb_common::state::{ArchiveState, archive as archive_state};
use walb_common::types::{Gid, VolumeName};
use walb_common::wire::identity::Role;

use self::target::{Range, Target, Vol};
use super::volume::path;
use crate::answer::{Answer, bit};
use crate::error::CommandError;
use crate::session::{ARCHIVE, PROXY, SERVERS, STORAGE, STORAGE_OR_ARCHIVE, Session, decode};

/// Targets of the existing tool that are still to come.
pub const UNSUPPORTED_TARGETS: &[&str] = &[
    "handler-stat",
    "ts-delta",
    "cold",
    "meta-state",
    "volume-group",
    "thinpool",
];

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a a0 -p 10200 get restorable vol0 all\n\nA volume that a server does not know has the \
state Clear.\nNot yet supported: handler-stat, ts-delta, cold, meta-state, volume-group, thinpool."
)]
pub struct Get {
    #[command(subcommand)]
    target: Target,
}

/// One volume at an archive, and the server's JSON of it.
async fn at_archive(
    session: &Session,
    vol: &VolumeName,
) -> Result<(Value, archive::VolumeStatus), CommandError> {
    let answer = session.get(ARCHIVE, &path(vol, "")).await?;
    let status = decode(&answer)?;
    Ok((answer, status))
}

async fn diffs(
    session: &Session,
    roles: &[Role],
    path: &str,
) -> Result<(Value, Vec<MetaDiff>), CommandError> {
    let answer = session.get(roles, path).await?;
    let mut diffs: Vec<MetaDiff> = decode(&answer)?;
    diffs.sort_by_key(|d| d.begin().begin());
    Ok((answer, diffs))
}

impl Range {
    async fn diffs(&self, session: &Session) -> Result<(Value, Vec<MetaDiff>), CommandError> {
        let Self { vol, gid0, gid1 } = self;
        let gid1 = gid1.unwrap_or(Gid::MAX);
        if *gid0 >= gid1 {
            return Err(CommandError::local(format!(
                "bad gid range:{gid0}:{gid1}, expected the first below the second"
            )));
        }
        diffs(
            session,
            ARCHIVE,
            &path(vol, &format!("/diffs?gid0={gid0}&gid1={gid1}")),
        )
        .await
    }
}

fn is_active(state: &str) -> bool {
    state.parse::<ArchiveState>().is_ok_and(archive_state::is_active)
}

fn active(status: &archive::VolumeStatus) -> Result<(), CommandError> {
    if is_active(&status.state) {
        return Ok(());
    }
    let expected = archive_state::ACTIVE
        .iter()
        .map(ArchiveState::name)
        .collect::<Vec<_>>()
        .join(" or ");
    Err(CommandError::bad_state(&status.name, &status.state, &expected))
}

fn active_or_stopped(status: &archive::VolumeStatus) -> Result<(), CommandError> {
    if status.state == "Stopped" {
        Ok(())
    } else {
        active(status)
    }
}

fn known(name: &str, state: &str) -> Result<(), CommandError> {
    if state == "Clear" {
        Err(CommandError::bad_state(name, state, "any other"))
    } else {
        Ok(())
    }
}

fn usable(name: &str, failed: Option<&str>) -> Result<(), CommandError> {
    failed.map_or(Ok(()), |reason| {
        Err(CommandError::local(format!("volume has failed:{name}:{reason}")))
    })
}

fn base(status: &archive::VolumeStatus) -> Result<BaseState, CommandError> {
    known(&status.name, &status.state)?;
    usable(&status.name, status.failed.as_deref())?;
    status
        .base
        .parse()
        .map_err(|_| CommandError::local(format!("no base image:{}", status.name)))
}

/// What the device of a storage volume says.
fn device_log(status: &storage::VolumeStatus) -> Result<&storage::DeviceLog, CommandError> {
    known(&status.name, &status.state)?;
    // A volume that has stopped by itself, after an overflow for instance, still has a device that answers.
    if let Some(log) = &status.log {
        return Ok(log);
    }
    usable(&status.name, status.failed.as_deref())?;
    Err(CommandError::local(format!(
        "device cannot be asked:{}",
        status.name
    )))
}

impl Get {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        match self.target {
            Target::HostType => {
                let answer = session.get(SERVERS, "/v1/node").await?;
                let node: NodeInfo = decode(&answer)?;
                Ok(Answer::line(answer, node.host_type))
            }
            Target::Pid => {
                let answer = session.get(SERVERS, "/v1/node").await?;
                let node: NodeInfo = decode(&answer)?;
                Ok(Answer::line(answer, node.pid))
            }
            Target::State(Vol { vol }) => {
                let status = session.get(SERVERS, &path(&vol, "")).await?;
                Ok(Answer::line(status.clone(), text_of(&status, "state")?))
            }
            Target::Vol => {
                let answer = session.get(SERVERS, "/v1/volumes").await?;
                let volumes: Vec<VolumeBrief> = decode(&answer)?;
                Ok(Answer::lines(answer, volumes.iter().map(|v| &v.name)))
            }
            Target::LatestSnap { vol } => latest_snap(session, vol.as_ref()).await,
            Target::IsOverflow(Vol { vol }) => {
                let answer = session.get(STORAGE, &path(&vol, "")).await?;
                let overflow = device_log(&decode(&answer)?)?.overflow;
                Ok(Answer::line(answer, bit(overflow)))
            }
            Target::LogUsage { vol: Some(vol) } => {
                let answer = session.get(STORAGE, &path(&vol, "")).await?;
                let line = lines::log_usage(vol.as_str(), device_log(&decode(&answer)?)?);
                Ok(Answer::line(answer, line))
            }
            Target::LogUsage { vol: None } => {
                let answer = session.get(STORAGE, "/v1/status").await?;
                let status: storage::Status = decode(&answer)?;
                let logs = status
                    .volumes
                    .iter()
                    .filter_map(|v| Some(lines::log_usage(&v.name, v.log.as_ref()?)));
                Ok(Answer::lines(answer, logs))
            }
            Target::Uuid(Vol { vol }) => uuid(session, &vol).await,
            Target::ArchiveUuid(Vol { vol }) => {
                let (answer, status) = at_archive(session, &vol).await?;
                active(&status)?;
                Ok(Answer::line(answer, status.archive_uuid))
            }
            Target::IsWdiffSendError { vol, archive } => {
                let answer = session.get(PROXY, &path(&vol, "")).await?;
                let status: proxy::VolumeStatus = decode(&answer)?;
                known(&status.name, &status.state)?;
                let found = status.archives.iter().find(|a| a.name == archive);
                let found =
                    found.ok_or_else(|| CommandError::local(format!("archive info not exists:{archive}")))?;
                Ok(Answer::line(answer, bit(found.send_error)))
            }
            Target::ProxyDiff { vol, archive } => {
                let query = archive.map_or(String::new(), |a| format!("?archive={a}"));
                let (answer, diffs) = diffs(session, PROXY, &path(&vol, &format!("/diffs{query}"))).await?;
                Ok(Answer::lines(answer, diffs.iter().map(MetaDiff::listing)))
            }
            Target::Diff(range) => {
                let (answer, diffs) = range.diffs(session).await?;
                Ok(Answer::lines(answer, diffs.iter().map(MetaDiff::listing)))
            }
            Target::NumDiff(range) => {
                let (answer, diffs) = range.diffs(session).await?;
                Ok(Answer::line(answer, diffs.len()))
            }
            Target::TotalDiffSize(range) => {
                let (answer, diffs) = range.diffs(session).await?;
                Ok(Answer::line(
                    answer,
                    diffs.iter().map(MetaDiff::size).fold(0, u64::saturating_add),
                ))
            }
            Target::ApplicableDiff { vol, max_gid } => {
                let query = max_gid.map_or(String::new(), |gid| format!("?max={gid}"));
                let answer = session
                    .get(ARCHIVE, &path(&vol, &format!("/applicable-diffs{query}")))
                    .await?;
                // In the order of the chain, which the server knows.
                let chain: Vec<MetaDiff> = decode(&answer)?;
                Ok(Answer::lines(answer, chain.iter().map(MetaDiff::listing)))
            }
            Target::ExistsDiff { vol, bb, be, eb, ee } => {
                let wanted = lines::diff_between(bb, be, eb, ee)?;
                active_or_stopped(&at_archive(session, &vol).await?.1)?;
                let (answer, diffs) = diffs(session, ARCHIVE, &path(&vol, "/diffs")).await?;
                Ok(Answer::line(
                    answer,
                    bit(diffs.iter().any(|d| d.is_same_as(&wanted))),
                ))
            }
            Target::ExistsBaseImage(Vol { vol }) => {
                let (answer, status) = at_archive(session, &vol).await?;
                Ok(Answer::line(answer, bit(status.size.is_some())))
            }
            Target::NumAction { vol, action } => {
                let (answer, status) = at_archive(session, &vol).await?;
                known(&status.name, &status.state)?;
                Ok(Answer::line(answer, lines::running(&status, &action.to_string())))
            }
            Target::AllActions => {
                let answer = session.get(ARCHIVE, "/v1/status").await?;
                let status: archive::Status = decode(&answer)?;
                let active = status.volumes.iter().filter(|v| is_active(&v.state));
                Ok(Answer::lines(answer, active.map(lines::actions)))
            }
            Target::Restored(Vol { vol }) => {
                let answer = session.get(ARCHIVE, &path(&vol, "/restored")).await?;
                let mut restored: Vec<archive::Restored> = decode(&answer)?;
                restored.sort_by_key(|r| r.gid);
                Ok(Answer::lines(answer, restored.iter().map(|r| r.gid)))
            }
            Target::RestoredPath { vol, gid } => {
                let answer = session
                    .get(ARCHIVE, &path(&vol, &format!("/restored/{gid}")))
                    .await?;
                let restored: archive::Restored = decode(&answer)?;
                Ok(Answer::line(answer, restored.path))
            }
            Target::Restorable { vol, all } => restorable(session, &vol, all.is_some()).await,
            Target::Base(Vol { vol }) => {
                let (answer, status) = at_archive(session, &vol).await?;
                active(&status)?;
                Ok(Answer::line(answer, base(&status)?.with_time()))
            }
            Target::BaseAll => {
                let answer = session.get(ARCHIVE, "/v1/status").await?;
                let status: archive::Status = decode(&answer)?;
                let active = status.volumes.iter().filter(|v| is_active(&v.state));
                Ok(Answer::lines(answer, active.map(lines::base)))
            }
            Target::MetaSnap { vol, gid } => {
                let (_, status) = at_archive(session, &vol).await?;
                let base = base(&status)?;
                let query = gid.map_or(String::new(), |gid| format!("?max={gid}"));
                let answer = session
                    .get(ARCHIVE, &path(&vol, &format!("/applicable-diffs{query}")))
                    .await?;
                let reached = lines::reached(&base, &decode::<Vec<MetaDiff>>(&answer)?);
                Ok(Answer::line(answer, reached))
            }
            Target::VolSize(Vol { vol }) => {
                let (answer, status) = at_archive(session, &vol).await?;
                known(&status.name, &status.state)?;
                let size = status
                    .size
                    .ok_or_else(|| CommandError::local(format!("no base image:{vol}")))?;
                Ok(Answer::line(answer, size))
            }
            Target::Progress(Vol { vol }) => {
                let (answer, status) = at_archive(session, &vol).await?;
                Ok(Answer::line(answer, status.progress))
            }
        }
    }
}

/// A text member of an object.
fn text_of<'a>(answer: &'a Value, key: &str) -> Result<&'a str, CommandError> {
    let missing = || CommandError::local(format!("the answer is not of the form expected:no text {key}"));
    answer[key].as_str().ok_or_else(missing)
}

async fn uuid(session: &Session, vol: &VolumeName) -> Result<Answer, CommandError> {
    let role = session.role(STORAGE_OR_ARCHIVE).await?;
    let answer = session.get(&[role], &path(vol, "")).await?;
    let uuid = if role == Role::Storage {
        let status: storage::VolumeStatus = decode(&answer)?;
        known(&status.name, &status.state)?;
        if status.device.is_none() {
            usable(&status.name, status.failed.as_deref())?;
        }
        status.uuid
    } else {
        let status: archive::VolumeStatus = decode(&answer)?;
        active(&status)?;
        status.uuid
    };
    Ok(Answer::line(answer, uuid))
}

/// A volume that is not active has nothing to list, which is no error.
async fn restorable(session: &Session, vol: &VolumeName, all: bool) -> Result<Answer, CommandError> {
    let (_, status) = at_archive(session, vol).await?;
    if !is_active(&status.state) {
        return Ok(Answer::silent(Value::Array(Vec::new())));
    }
    let answer = session
        .get(ARCHIVE, &path(vol, &format!("/restorable?all={all}")))
        .await?;
    let mut list: Vec<archive::Restorable> = decode(&answer)?;
    list.sort_by_key(|r| r.gid);
    Ok(Answer::lines(answer, list.iter().map(lines::restorable)))
}

async fn latest_snap(session: &Session, vol: Option<&VolumeName>) -> Result<Answer, CommandError> {
    let role = session.role(SERVERS).await?;
    let (answer, volumes) = if let Some(vol) = vol {
        let answer = session.get(&[role], &path(vol, "")).await?;
        (answer.clone(), vec![answer])
    } else {
        let answer = session.get(&[role], "/v1/status").await?;
        let volumes = decode(&answer["volumes"])?;
        (answer, volumes)
    };
    let mut found = Vec::new();
    for volume in &volumes {
        match role {
            Role::Storage => found.extend(lines::latest_at_storage(&decode(volume)?)),
            Role::Proxy => found.extend(lines::latest_at_proxy(&decode(volume)?)),
            _ => {
                let status: archive::VolumeStatus = decode(volume)?;
                found.extend(
                    active_or_stopped(&status)
                        .ok()
                        .and_then(|()| lines::latest_at_archive(&status)),
                );
            }
        }
    }
    match (vol, found.is_empty()) {
        (Some(vol), true) => {
            let state = text_of(&answer, "state")?;
            Err(CommandError::local(format!(
                "could not get latest snapshot for volume:{vol}:{state}"
            )))
        }
        _ => Ok(Answer::lines(answer, found)),
    }
}
