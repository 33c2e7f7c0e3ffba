//! A device of `walb-wdev`, over its control socket. Connects on demand, so a restart of the daemon costs one failed call
//! at most: [`Remedy::Retry`](super::Remedy).

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use camino::Utf8PathBuf;
use tokio::net::UnixStream;
use walb_common::daemon::chain;
use walb_common::types::{Lb, Lsid};

use super::{
    Changed, ChangedChunks, DeviceError, DeviceStatus, LogChunk, Refusal, WalDevice, default_socket,
};
use crate::config::{DeviceConfig, OnRingFull};
use crate::control::frame;
use crate::control::message::{Call, ListEntry, Reply, Request, Response};

/// Idle connections kept; more calls at once simply connect anew.
const IDLE_MAX: usize = 4;

/// The client of one device (or, with an empty name, of the daemon).
#[derive(Debug)]
pub struct WdevClient {
    socket: Utf8PathBuf,
    name: String,
    idle: Mutex<Vec<UnixStream>>,
}

impl WdevClient {
    /// A client that connects when first used. No socket: the default one.
    pub fn new(socket: Option<Utf8PathBuf>, name: String) -> Self {
        Self {
            socket: socket.unwrap_or_else(default_socket),
            name,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// The control socket.
    pub fn socket(&self) -> &Utf8PathBuf {
        &self.socket
    }

    /// The daemon's version.
    pub async fn version(&self) -> Result<String, DeviceError> {
        match self.call(Call::Version).await? {
            (Reply::Version(version), _) => Ok(version),
            (other, _) => Err(self.unexpected("version", &other)),
        }
    }

    /// Every device of the daemon.
    pub async fn list(&self) -> Result<Vec<ListEntry>, DeviceError> {
        match self.call(Call::List).await? {
            (Reply::List(list), _) => Ok(list),
            (other, _) => Err(self.unexpected("list", &other)),
        }
    }

    /// The device that uses `path`, if any.
    pub async fn who_uses(&self, path: String) -> Result<Option<String>, DeviceError> {
        match self.call(Call::WhoUses { path }).await? {
            (Reply::UsedBy(name), _) => Ok(name),
            (other, _) => Err(self.unexpected("who-uses", &other)),
        }
    }

    /// Adds a device to the daemon.
    pub async fn create(&self, config: DeviceConfig) -> Result<(), DeviceError> {
        self.done("create", Call::Create(Box::new(config))).await
    }

    /// Stops this device and forgets it; log and data stay.
    pub async fn delete(&self, force: bool) -> Result<(), DeviceError> {
        self.done("delete", Call::Delete { force }).await
    }

    /// Milliseconds between automatic checkpoints, 0 is off.
    pub async fn set_checkpoint_interval(&self, ms: u32) -> Result<(), DeviceError> {
        self.done("set-checkpoint-interval", Call::SetCheckpointInterval { ms })
            .await
    }

    /// What happens when the ring is full of log that was not released, now and after restarts.
    pub async fn set_on_ring_full(&self, policy: OnRingFull) -> Result<(), DeviceError> {
        self.done("set-on-ring-full", Call::SetOnRingFull { policy })
            .await
    }

    async fn done(&self, name: &'static str, call: Call) -> Result<(), DeviceError> {
        match self.call(call).await? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(self.unexpected(name, &other)),
        }
    }

    async fn status_of(&self, name: &'static str, call: Call) -> Result<DeviceStatus, DeviceError> {
        match self.call(call).await? {
            (Reply::Status(status), _) => Ok(*status),
            (other, _) => Err(self.unexpected(name, &other)),
        }
    }

    /// One call. A kept connection may be of an earlier life of the daemon: then the call is made once more on a new one,
    /// unless it must not run twice.
    async fn call(&self, call: Call) -> Result<(Reply, Vec<u8>), DeviceError> {
        let repeatable = !matches!(call, Call::ResetLog | Call::Create(_) | Call::Delete { .. });
        let request = Request {
            device: self.name.clone(),
            call,
        };
        let name = call_name(&request.call);
        let kept = if repeatable { self.take_idle() } else { None };
        if let Some(mut stream) = kept {
            match exchange(&mut stream, &request).await {
                Ok(answer) => return self.finish(stream, answer, &request),
                Err(source) if source.kind() == io::ErrorKind::TimedOut => {
                    return Err(DeviceError::Broken {
                        socket: self.socket.clone(),
                        call: name,
                        source,
                    });
                }
                // Closed by a restart, most likely.
                Err(_) => {}
            }
        }
        let mut stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| DeviceError::Connect {
                socket: self.socket.clone(),
                source,
            })?;
        match exchange(&mut stream, &request).await {
            Ok(answer) => self.finish(stream, answer, &request),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => Err(DeviceError::Protocol {
                socket: self.socket.clone(),
                call: name,
                found: source.to_string(),
            }),
            Err(source) => Err(DeviceError::Broken {
                socket: self.socket.clone(),
                call: name,
                source,
            }),
        }
    }

    fn take_idle(&self) -> Option<UnixStream> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn finish(
        &self,
        stream: UnixStream,
        (response, bulk): (Response, Vec<u8>),
        request: &Request,
    ) -> Result<(Reply, Vec<u8>), DeviceError> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(stream);
        }
        match response.result {
            Ok(reply) => Ok((reply, bulk)),
            Err(Refusal::LogGone { from, oldest }) => Err(DeviceError::LogGone {
                device: request.device.clone(),
                from,
                oldest,
            }),
            Err(source) => Err(DeviceError::Refused {
                device: request.device.clone(),
                source,
            }),
        }
    }

    fn unexpected(&self, call: &'static str, found: &Reply) -> DeviceError {
        let mut found = format!("{found:?}");
        found.truncate(found.floor_char_boundary(100));
        DeviceError::Protocol {
            socket: self.socket.clone(),
            call,
            found,
        }
    }
}

/// How long a call may take before its daemon counts as hanging. Those that write everything back take what the disks need.
fn deadline(call: &Call) -> Duration {
    match call {
        Call::WaitForLog { within_ms, .. } => {
            Duration::from_millis(*within_ms).saturating_add(Duration::from_secs(30))
        }
        Call::Create(_)
        | Call::Delete { .. }
        | Call::ResetLog
        | Call::Changed
        | Call::Flush
        | Call::Checkpoint
        | Call::Freeze { .. } => Duration::from_mins(10),
        _ => Duration::from_mins(1),
    }
}

async fn exchange(stream: &mut UnixStream, request: &Request) -> io::Result<(Response, Vec<u8>)> {
    let limit = deadline(&request.call);
    match tokio::time::timeout(limit, exchange_unbounded(stream, request)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", limit.as_secs()),
        )),
    }
}

async fn exchange_unbounded(stream: &mut UnixStream, request: &Request) -> io::Result<(Response, Vec<u8>)> {
    frame::send(stream, request, &[]).await?;
    let response: Response = frame::receive(stream, frame::RESPONSE_MAX)
        .await?
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed instead of an answer"))?;
    let bulk = frame::receive_bulk(stream, response.bulk).await?;
    Ok((response, bulk))
}

fn call_name(call: &Call) -> &'static str {
    match call {
        Call::Version => "version",
        Call::List => "list",
        Call::WhoUses { .. } => "who-uses",
        Call::Create(_) => "create",
        Call::Delete { .. } => "delete",
        Call::Status => "status",
        Call::WaitForLog { .. } => "wait-for-log",
        Call::ReadLog { .. } => "read-log",
        Call::SetOldest { .. } => "set-oldest",
        Call::ResetLog => "reset-log",
        Call::ReadData { .. } => "read-data",
        Call::Flush => "flush",
        Call::Checkpoint => "checkpoint",
        Call::Freeze { .. } => "freeze",
        Call::Melt => "melt",
        Call::Resize { .. } => "resize",
        Call::Changed => "changed",
        Call::ForgetChanged => "forget-changed",
        Call::SetOnRingFull { .. } => "set-on-ring-full",
        Call::SetCheckpointInterval { .. } => "set-checkpoint-interval",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl WalDevice for WdevClient {
    async fn status(&self) -> Result<DeviceStatus, DeviceError> {
        self.status_of("status", Call::Status).await
    }

    async fn wait_for_log(&self, after: Lsid, within: Duration) -> Result<Lsid, DeviceError> {
        match self
            .call(Call::WaitForLog {
                after,
                within_ms: millis(within),
            })
            .await?
        {
            (Reply::Permanent(lsid), _) => Ok(lsid),
            (other, _) => Err(self.unexpected("wait-for-log", &other)),
        }
    }

    async fn read_log(&self, from: Lsid, limit: Lsid, max_bytes: usize) -> Result<LogChunk, DeviceError> {
        match self
            .call(Call::ReadLog {
                from,
                limit,
                max_bytes: max_bytes as u64,
            })
            .await?
        {
            (Reply::Log { uuid, salt, next }, bulk) => Ok(LogChunk {
                uuid,
                salt,
                bytes: Bytes::from(bulk),
                next,
            }),
            (other, _) => Err(self.unexpected("read-log", &other)),
        }
    }

    async fn set_oldest(&self, lsid: Lsid) -> Result<(), DeviceError> {
        self.done("set-oldest", Call::SetOldest { lsid }).await
    }

    async fn reset_log(&self) -> Result<DeviceStatus, DeviceError> {
        self.status_of("reset-log", Call::ResetLog).await
    }

    async fn read_data(&self, offset: u64, len: u32) -> Result<Bytes, DeviceError> {
        match self.call(Call::ReadData { offset, len }).await? {
            (Reply::Data, bulk) if bulk.len() == len as usize => Ok(Bytes::from(bulk)),
            (other, _) => Err(self.unexpected("read-data", &other)),
        }
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.done("flush", Call::Flush).await
    }

    async fn checkpoint(&self) -> Result<(), DeviceError> {
        self.done("checkpoint", Call::Checkpoint).await
    }

    async fn freeze(&self, timeout: Option<Duration>) -> Result<(), DeviceError> {
        let timeout_ms = timeout.map_or(0, |t| millis(t).max(1));
        self.done("freeze", Call::Freeze { timeout_ms }).await
    }

    async fn melt(&self) -> Result<(), DeviceError> {
        self.done("melt", Call::Melt).await
    }

    async fn changed(&self) -> Result<Changed, DeviceError> {
        match self.call(Call::Changed).await? {
            (Reply::Changed(Ok(header)), bulk) => match ChangedChunks::decode(&header, &bulk) {
                Ok(chunks) => Ok(Changed::Known(chunks)),
                Err(error) => Err(DeviceError::Protocol {
                    socket: self.socket.clone(),
                    call: "changed",
                    found: chain(&error),
                }),
            },
            (Reply::Changed(Err(reason)), _) => Ok(Changed::Unknown { reason }),
            (other, _) => Err(self.unexpected("changed", &other)),
        }
    }

    async fn forget_changed(&self) -> Result<(), DeviceError> {
        self.done("forget-changed", Call::ForgetChanged).await
    }

    async fn resize(&self, size: Option<Lb>) -> Result<DeviceStatus, DeviceError> {
        self.status_of("resize", Call::Resize { size }).await
    }
}
