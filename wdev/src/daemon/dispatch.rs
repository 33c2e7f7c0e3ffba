//! Answering control requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::Daemon;
use super::device::RunningDevice;
use crate::block::IoErrno;
use crate::client::{Changed, Refusal};
use crate::control::frame;
use crate::control::message::{Call, Reply, Request, Response};

/// Longest single wait for log; the client asks again.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Largest single read of data.
const READ_MAX: u32 = 4 << 20;

type Answer = Result<(Reply, Vec<Bytes>), Refusal>;

/// Answers requests until the peer closes or breaks the protocol.
pub(super) async fn converse(daemon: &Arc<Daemon>, mut stream: UnixStream) {
    loop {
        let request: Request = match frame::receive(&mut stream, frame::REQUEST_MAX).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("control connection dropped: {error}");
                return;
            }
        };
        let answer = answer(daemon, request).await;
        if let Err(error) = send(&mut stream, answer).await {
            tracing::debug!("control connection gone before its answer: {error}");
            return;
        }
    }
}

async fn send(stream: &mut UnixStream, answer: Answer) -> io::Result<()> {
    let (result, pieces) = match answer {
        Ok((reply, pieces)) => (Ok(reply), pieces),
        Err(refusal) => (Err(refusal), Vec::new()),
    };
    let bulk = pieces.iter().map(Bytes::len).sum::<usize>();
    let bulk = u32::try_from(bulk).map_err(io::Error::other)?;
    frame::send(stream, &Response { result, bulk }, &[]).await?;
    for piece in pieces {
        stream.write_all(&piece).await?;
    }
    stream.flush().await
}

async fn answer(daemon: &Arc<Daemon>, Request { device, call }: Request) -> Answer {
    match call {
        // The only call that waits long waits without a thread.
        Call::WaitForLog { after, within_ms } => {
            let running = daemon.find(&device)?;
            let within = Duration::from_millis(within_ms).min(WAIT_MAX);
            Ok((
                Reply::Permanent(running.engine.wait_for_log(after, within).await),
                vec![],
            ))
        }
        call => {
            let daemon = Arc::clone(daemon);
            let work = tokio::task::spawn_blocking(move || blocking(&daemon, &device, call));
            work.await.unwrap_or_else(|e| {
                Err(Refusal::Io {
                    reason: format!("the call panicked: {e}"),
                })
            })
        }
    }
}

fn blocking(daemon: &Daemon, name: &str, call: Call) -> Answer {
    let done = |()| (Reply::Done, vec![]);
    let status = |d: &RunningDevice| (Reply::Status(Box::new(d.status())), vec![]);
    match call {
        Call::Version => return Ok((Reply::Version(env!("CARGO_PKG_VERSION").to_owned()), vec![])),
        Call::List => return Ok((Reply::List(daemon.list()), vec![])),
        Call::WhoUses { path } => return Ok((Reply::UsedBy(daemon.who_uses(&path)), vec![])),
        Call::Create(config) => return daemon.create(&config).map(done),
        Call::Delete { force } => return daemon.delete(name, force).map(done),
        _ => {}
    }
    let device = daemon.find(name)?;
    let engine = &device.engine;
    match call {
        Call::ReadLog {
            from,
            limit,
            max_bytes,
        } => {
            let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
            let log = engine.read_log(from, limit, max_bytes)?;
            Ok((
                Reply::Log {
                    uuid: log.uuid,
                    salt: log.salt,
                    next: log.next,
                },
                log.packs,
            ))
        }
        Call::ReadData { len, .. } if len > READ_MAX => Err(Refusal::Bad {
            reason: format!("read of {len} bytes, expected at most {READ_MAX}"),
        }),
        Call::ReadData { offset, len } => match engine.read_data(offset, len) {
            Ok(bytes) => Ok((Reply::Data, vec![bytes])),
            Err(IoErrno::EINVAL) => Err(Refusal::Bad {
                reason: format!(
                    "read of {len} bytes at {offset}, expected multiples of 512 inside the device"
                ),
            }),
            Err(errno) => Err(Refusal::Io {
                reason: format!("read of {len} bytes at {offset}: {errno}"),
            }),
        },
        Call::SetOldest { lsid } => engine.set_oldest(lsid).map(done),
        Call::ResetLog => engine.reset_log().map(|()| status(&device)),
        Call::Flush => engine.flush().map(done),
        Call::Checkpoint => engine.checkpoint().map(done),
        Call::Freeze { timeout_ms } => {
            let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.min(86_400_000)));
            engine.freeze(timeout).map(done)
        }
        Call::Melt => {
            engine.melt();
            Ok(done(()))
        }
        Call::Resize { size } => device.resize(size).map(|()| status(&device)),
        Call::Changed => Ok(match engine.changed()? {
            Changed::Known(chunks) => {
                let (header, bulk) = chunks.encode();
                (Reply::Changed(Ok(header)), vec![bulk])
            }
            Changed::Unknown { reason } => (Reply::Changed(Err(reason)), vec![]),
        }),
        Call::ForgetChanged => engine.forget_changed().map(done),
        Call::SetOnRingFull { policy } => daemon.set_on_ring_full(&device, policy).map(done),
        Call::SetCheckpointInterval { ms } => engine.set_checkpoint_interval(ms).map(done),
        Call::Status
        | Call::Version
        | Call::List
        | Call::WhoUses { .. }
        | Call::Create(_)
        | Call::Delete { .. }
        | Call::WaitForLog { .. } => Ok(status(&device)),
    }
}
