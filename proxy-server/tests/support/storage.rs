//! A hand-made storage: a guest's IOs, as logpacks, over the wlog stream.

use bytes::{Bytes, BytesMut};
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::Logpack;
use walb_common::lineage::{MetaDiff, Snapshot};
use walb_common::testing::{Io, MemImage, logpacks, random_ios};
use walb_common::types::{Gid, Lb, Lsid, PhysicalBlockSize, Timestamp, Uuid, VolumeName};
use walb_common::wire::client::Client;
use walb_common::wire::identity::Role;
use walb_common::wire::message::{Answer, Done, Refusal, StreamKind, WlogBegin, WlogCommit};
use walb_common::wire::stream::{Bulk, Stream, StreamError};

use super::{Site, vol};

pub const SALT: Salt = Salt(77);

/// One volume at a storage, and what its guest wrote so far.
pub struct Storage {
    pub client: Client,
    pub volume: VolumeName,
    pub uuid: Uuid,
    pub pbs: PhysicalBlockSize,
    pub size: Lb,
    pub image: MemImage,
    pub lsid: Lsid,
    pub gid: Gid,
    seed: u64,
}

/// What a transfer would carry.
#[derive(Clone)]
pub struct Log {
    pub begin: WlogBegin,
    pub packs: Vec<Logpack>,
    pub commit: WlogCommit,
}

impl Log {
    pub fn bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        for pack in &self.packs {
            bytes.extend_from_slice(pack.block());
            bytes.extend_from_slice(pack.data());
        }
        bytes.freeze()
    }
}

#[derive(Debug)]
pub enum NotSent {
    Refused(Refusal),
    Stream(StreamError),
}

impl From<StreamError> for NotSent {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl NotSent {
    /// The proxy's own words.
    pub fn text(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.message.clone(),
            Self::Stream(error) => error.to_string(),
        }
    }
}

impl Storage {
    pub fn new(site: &Site, volume: &str, seed: u64, pbs: PhysicalBlockSize) -> Self {
        let size = Lb(4096);
        Self {
            client: site.client(Role::Storage, &format!("s-{volume}")),
            volume: vol(volume),
            uuid: Uuid([u8::try_from(seed).unwrap(); 16]),
            pbs,
            size,
            image: MemImage::filled(size, 0),
            lsid: Lsid(0),
            gid: Gid(0),
            seed,
        }
    }

    /// The guest writes; the log of it, up to the next snapshot.
    pub fn write(&mut self, ios: usize) -> Log {
        self.seed += 1000;
        let ios = random_ios(self.seed, self.size, ios);
        self.log(&ios)
    }

    pub fn log(&mut self, ios: &[Io]) -> Log {
        for io in ios {
            self.image.apply(io, false);
        }
        let packs = logpacks(ios, self.pbs, SALT, self.lsid, 7);
        let end = packs.last().map_or(self.lsid, |p| p.header().next_lsid());
        let (begin_gid, end_gid) = (self.gid, Gid(self.gid.0 + 1));
        let diff = MetaDiff::new(Snapshot::clean(begin_gid), Snapshot::clean(end_gid)).unwrap();
        let diff = diff.with_timestamp(Timestamp(1_790_000_000 + end_gid.0));
        let begin = WlogBegin {
            uuid: self.uuid,
            pbs: self.pbs,
            salt: SALT.0,
            size: self.size,
            begin: self.lsid,
            max_pb: end.0 - self.lsid.0,
        };
        (self.lsid, self.gid) = (end, end_gid);
        Log {
            begin,
            packs,
            commit: WlogCommit { end, diff },
        }
    }

    /// A stream up to the answer.
    pub async fn offer(&self, address: &str, log: &Log) -> Result<Stream, NotSent> {
        let mut stream = self
            .client
            .open_stream(address, Role::Proxy, StreamKind::Wlog, &self.volume)
            .await
            .unwrap();
        stream.send(&log.begin).await?;
        match stream.recv::<Answer>().await? {
            Answer::Accept => Ok(stream),
            Answer::Refuse(refusal) => Err(NotSent::Refused(refusal)),
        }
    }

    /// A whole transfer, the log in frames of `frame` bytes.
    pub async fn send_bytes(
        &self,
        address: &str,
        log: &Log,
        bytes: Bytes,
        frame: usize,
    ) -> Result<(), NotSent> {
        let mut stream = self.offer(address, log).await?;
        for piece in bytes.chunks(frame) {
            stream
                .send_bulk(Bulk::raw(log.begin.begin.0, Bytes::copy_from_slice(piece)))
                .await?;
        }
        stream.send_end().await?;
        stream.send(&log.commit).await?;
        let Done {} = stream.recv().await?;
        Ok(())
    }

    pub async fn send(&self, address: &str, log: &Log) -> Result<(), NotSent> {
        self.send_bytes(address, log, log.bytes(), 5000).await
    }

    /// Sends again and again, as a storage does, until it is acknowledged. `address` may change meanwhile.
    pub async fn send_until_done(&self, address: &str, log: &Log) {
        super::until("the log to be taken", || async {
            self.send(address, log).await.ok()
        })
        .await;
    }
}
