//! One offer to an archive, from the connection to its acknowledgement.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::mpsc;
use walb_common::daemon::chain;
use walb_common::format::wdiff::WdiffFileError;
use walb_common::lineage::MetaDiff;
use walb_common::rest::ApiError;
use walb_common::types::Uuid;
use walb_common::wire::client::ClientError;
use walb_common::wire::identity::Role;
use walb_common::wire::message::{Answer, Done, Refusal, RefusalReason, StreamKind, WdiffBegin};
use walb_common::wire::stream::{Bulk, Stream, StreamError};

use super::stream_out::{MergeEnded, merge};
use crate::Shared;
use crate::reaction::Reply;
use crate::volume::Volume;
use crate::volume::destination::Destination;

/// Frames between the merging thread and the network.
const QUEUED_FRAMES: usize = 4;

/// How an offer ended.
pub(super) enum Ended {
    /// The archive has it durably.
    Delivered { bytes: u64 },
    /// It has not.
    Refused { reply: Reply, message: String },
    /// One of our files cannot be read.
    Damaged(WdiffFileError),
}

impl Ended {
    fn broken(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Refused {
            reply: Reply::ConnectionFailed,
            message: chain(error),
        }
    }
}

impl From<StreamError> for Ended {
    fn from(error: StreamError) -> Self {
        match error.peer() {
            // It is there, and gives up again and again until something changes: that wants growing pauses.
            Some(peer) => Self::Refused {
                reply: Reply::OtherRefusal,
                message: peer.to_string(),
            },
            None => Self::broken(&error),
        }
    }
}

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Api(refusal) => Self::Refused {
                reply: Reply::OtherRefusal,
                message: refusal.to_string(),
            },
            ClientError::Stream { source, .. } if source.peer().is_some() => Self::Refused {
                reply: Reply::OtherRefusal,
                message: chain(&error),
            },
            _ => Self::broken(&error),
        }
    }
}

/// What an archive's refusal means to us.
fn reply_of(refusal: &Refusal) -> Reply {
    match refusal.reason {
        RefusalReason::TooOldDiff => Reply::TooOldDiff,
        RefusalReason::TooNewDiff => Reply::TooNewDiff,
        RefusalReason::DifferentUuid => Reply::DifferentUuid,
        RefusalReason::Syncing => Reply::Syncing,
        RefusalReason::WdiffRecv => Reply::WdiffRecv,
        RefusalReason::Stopped => Reply::Stopped,
        RefusalReason::SmallerSize => Reply::SmallerLvSize,
        RefusalReason::ArchiveNotFound => Reply::ArchiveNotFound,
        RefusalReason::BadState | RefusalReason::Limit | RefusalReason::NoSpace | RefusalReason::Other => {
            Reply::OtherRefusal
        }
    }
}

/// Offers `files`, merged, and streams them if the archive accepts.
pub(super) async fn send(
    shared: &Arc<Shared>,
    volume: &Arc<Volume>,
    archive: &Arc<Destination>,
    files: Vec<(String, File)>,
    merged: MetaDiff,
    uuid: Uuid,
) -> Ended {
    let info = archive.info();
    let client = &shared.context.client;
    let mut stream = match client
        .open_stream(&info.address, Role::Archive, StreamKind::Wdiff, &volume.name)
        .await
    {
        Ok(stream) => stream,
        Err(error) => return error.into(),
    };
    let (sender, mut frames) = mpsc::channel(QUEUED_FRAMES);
    let result = async {
        stream
            .send(&WdiffBegin {
                uuid,
                size: volume.size(),
                diff: merged,
            })
            .await?;
        match stream.recv::<Answer>().await? {
            Answer::Accept => {}
            Answer::Refuse(refusal) => {
                return Ok(Some(Ended::Refused {
                    reply: reply_of(&refusal),
                    message: refusal.message,
                }));
            }
        }
        // Only now is there anything to merge for.
        let thread = tokio::task::spawn_blocking(move || merge(files, uuid, info.compression, sender));
        let mut position = 0;
        while let Some(frame) = stream.working(frames.recv()).await? {
            let length = frame.len() as u64;
            stream.send_bulk(Bulk::raw(position, frame)).await?;
            position += length;
        }
        let ended = match thread.await {
            Ok(Ok(())) => return finish(&mut stream, position).await.map(Some),
            Ok(Err(MergeEnded::Damaged(error))) => Ended::Damaged(error),
            Ok(Err(MergeEnded::NotWanted)) => return Ok(None),
            Ok(Err(MergeEnded::Other(error))) => Ended::Refused {
                reply: Reply::OtherRefusal,
                message: chain(&error),
            },
            Err(error) => Ended::Refused {
                reply: Reply::OtherRefusal,
                message: format!("the merge ended: {error}"),
            },
        };
        let text = match &ended {
            Ended::Damaged(error) => chain(error),
            Ended::Refused { message, .. } => message.clone(),
            Ended::Delivered { .. } => String::new(),
        };
        stream
            .fail(&ApiError::new(
                walb_common::rest::ErrorCode::Corrupt,
                format!("volume {}: {text}", volume.name),
            ))
            .await;
        Ok::<_, StreamError>(Some(ended))
    };
    match result.await {
        Ok(Some(ended)) => ended,
        Ok(None) => Ended::Refused {
            reply: Reply::OtherRefusal,
            message: "the merged stream broke off".to_owned(),
        },
        Err(error) => error.into(),
    }
}

async fn finish(stream: &mut Stream, bytes: u64) -> Result<Ended, StreamError> {
    stream.send_end().await?;
    let Done {} = stream.recv().await?;
    Ok(Ended::Delivered { bytes })
}
