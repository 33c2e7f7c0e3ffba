//! One transfer: logpacks of a stretch of the log to the first proxy that takes them.
//!
//! Order of durability: the proxy has the diff durable and says so, then our new done record is durable, and only then may
//! the log be erased. Anything that fails before changes nothing; the same stretch is sent again, perhaps to another end.

mod proxies;
mod reader;

use std::time::Instant;

use walb_common::daemon::chain;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::types::Lsid;
use walb_common::wire::client::ClientError;
use walb_common::wire::frame::BULK_MAX;
use walb_common::wire::identity::Role;
use walb_common::wire::message::{Answer, Done, StreamKind, WlogBegin, WlogCommit};
use walb_common::wire::stream::{Bulk, Stream, StreamError};
use walb_wdev::client::DeviceStatus;

pub use proxies::{Proxies, monitor};
pub(crate) use reader::ReadError;
use reader::VerifiedReader;

use crate::plan::{Outcome, Transfer, TransferError, after_transfer};
use crate::volume::Volume;

/// A transfer failed; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no proxy took the log: {}", .0.join("; "))]
    NoProxy(Vec<String>),
    #[error("send the log to proxy {proxy}")]
    Stream {
        proxy: String,
        #[source]
        source: StreamError,
    },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// What a transfer came to.
pub(crate) struct Sent {
    pub outcome: Outcome,
    pub proxy: String,
    pub bytes: u64,
}

/// Makes one transfer. The outcome is still to be stored.
pub(crate) async fn send(
    volume: &Volume,
    status: &DeviceStatus,
    transfer: &Transfer,
) -> Result<Sent, SendError> {
    let began = Instant::now();
    let begin = WlogBegin {
        uuid: status.uuid,
        pbs: status.pbs,
        salt: status.salt,
        size: status.size,
        begin: transfer.done.lsid,
        max_pb: transfer.max_pb(),
    };
    let (proxy, mut stream) = open(volume, &begin).await?;
    match stream_log(volume, status, transfer, &mut stream).await {
        Ok((outcome, bytes)) => {
            stream.close().await;
            volume.add_sent(bytes);
            tracing::info!(
                volume = %volume.name, proxy, from = %transfer.done.gid, to = %outcome.done.gid,
                begin = %transfer.done.lsid, end = %outcome.done.lsid, bytes,
                seconds = began.elapsed().as_secs_f32(), "wlog delivered"
            );
            Ok(Sent {
                outcome,
                proxy,
                bytes,
            })
        }
        Err(Failure::Ours(error)) => {
            stream
                .fail(&ApiError::new(ErrorCode::Unavailable, chain(&error)).volume(&volume.name))
                .await;
            Err(error)
        }
        Err(Failure::Stream(source)) => {
            if source.peer().is_none() {
                // The connection broke: the next transfer takes another proxy without waiting for this one first.
                volume.shared.proxies.failed(&proxy);
            }
            Err(SendError::Stream { proxy, source })
        }
    }
}

/// Whether the peer still has to be told.
enum Failure {
    Ours(SendError),
    Stream(StreamError),
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Ours(error.into())
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        Self::Ours(error.into())
    }
}

/// The first available proxy, in order of priority, that accepts.
async fn open(volume: &Volume, begin: &WlogBegin) -> Result<(String, Stream), SendError> {
    let shared = &volume.shared;
    let mut reasons = Vec::new();
    for proxy in shared.proxies.addresses() {
        if !shared.proxies.is_available(&proxy) {
            reasons.push(format!("{proxy} is not available"));
            continue;
        }
        let opened = shared
            .context
            .client
            .open_stream(&proxy, Role::Proxy, StreamKind::Wlog, &volume.name)
            .await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                if !matches!(error, ClientError::Api(_)) {
                    shared.proxies.failed(&proxy);
                }
                reasons.push(format!("{proxy}: {}", chain(&error)));
                continue;
            }
        };
        match ask(&mut stream, begin).await {
            Ok(Answer::Accept) => return Ok((proxy, stream)),
            Ok(Answer::Refuse(refusal)) => {
                reasons.push(format!("{proxy} refused: {}", refusal.message));
                stream.close().await;
            }
            Err(error) => reasons.push(format!("{proxy}: {}", chain(&error))),
        }
    }
    Err(SendError::NoProxy(reasons))
}

async fn ask(stream: &mut Stream, begin: &WlogBegin) -> Result<Answer, StreamError> {
    stream.send(begin).await?;
    stream.recv().await
}

async fn stream_log(
    volume: &Volume,
    status: &DeviceStatus,
    transfer: &Transfer,
    stream: &mut Stream,
) -> Result<(Outcome, u64), Failure> {
    let mut reader = VerifiedReader::new(&volume.device, status, transfer.done.lsid, transfer.limit);
    let mut bytes = 0;
    let mut next = reader.next().await?;
    while let Some((lsid, chunk)) = next {
        bytes += chunk.len() as u64;
        // The next chunk is read and verified while this one is on its way.
        let (sent, read) = tokio::join!(send_chunk(stream, lsid, chunk), reader.next());
        sent?;
        next = read?;
    }
    let outcome = after_transfer(transfer, reader.reached())?;
    stream.send_end().await?;
    stream
        .send(&WlogCommit {
            end: outcome.done.lsid,
            diff: outcome.diff,
        })
        .await?;
    let Done {} = stream.recv().await?;
    Ok((outcome, bytes))
}

/// A chunk is one frame, unless a single pack is larger than a frame may be: then it goes on in further ones.
async fn send_chunk(stream: &mut Stream, lsid: Lsid, mut chunk: bytes::Bytes) -> Result<(), StreamError> {
    while chunk.len() > BULK_MAX {
        stream
            .send_bulk(Bulk::raw(lsid.0, chunk.split_to(BULK_MAX)))
            .await?;
    }
    stream.send_bulk(Bulk::raw(lsid.0, chunk)).await
}
