//! What a peer sends: frames, messages, whole streams; and requests on the control socket of walb-wdev.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use walb_common::format::checksum::Salt;
use walb_common::testing::{Io, logpacks};
use walb_common::types::{Lb, Lsid, PhysicalBlockSize, Timestamp, Uuid, VolumeName};
use walb_common::wire::STREAM_VERSION;
use walb_common::wire::frame::{BULK_MAX, CONTROL_MAX, Frame, HEADER_LEN, Kind, read_frame, write_frame};
use walb_common::wire::message::{
    Answer, Done, FullBegin, FullCommit, FullReset, Hello, Refusal, RefusalReason, StreamKind, WdiffBegin,
    WireError, WlogBegin, WlogCommit,
};
use walb_common::wire::stream::{Received, Stream};
use walb_fuzz_engine::memory::bounded;
use walb_wdev::control::frame::{REQUEST_MAX, RESPONSE_MAX, receive, send};
use walb_wdev::control::message::{Call, Reply, Request, Response};
use xxhash_rust::xxh3::xxh3_64;

use super::Target;
use crate::naive::{u32_at, u64_at};

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap_or_else(|e| panic!("a runtime: {e}"));
}

/// Nothing here ever waits: inputs are in memory and answers are dropped.
fn now<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        now(write_frame(&mut bytes, frame)).unwrap_or_else(|e| panic!("to memory: {e}"));
    }
    bytes
}

fn packed<T: Serialize>(message: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(message).unwrap_or_else(|e| panic!("to memory: {e}"))
}

fn control<T: Serialize>(message: &T) -> Frame {
    Frame {
        payload: packed(message).into(),
        ..Frame::bare(Kind::Control, 0)
    }
}

fn bulk(payload: &[u8]) -> Frame {
    Frame {
        payload: payload.to_vec().into(),
        raw_len: payload.len() as u32,
        ..Frame::bare(Kind::Bulk, 5)
    }
}

fn repair_frames(input: &mut [u8], deep: bool) {
    let mut at = 0;
    while let Some(header) = input.get_mut(at..at + HEADER_LEN) {
        if deep {
            header[0] = 1 + header[0].wrapping_sub(1) % 6;
            header[5] &= 7;
            header[6..8].fill(0);
        }
        let end = at + HEADER_LEN + u32_at(header, 4).unwrap_or(0) as usize;
        if end > input.len() {
            return;
        }
        // Copied together, as the function takes one piece.
        let head = [&input[at..at + 24], &input[at + HEADER_LEN..end]].concat();
        input[at + 24..at + HEADER_LEN].copy_from_slice(&xxh3_64(&head).to_le_bytes());
        at = end;
    }
}

/// Input: frames, one after the other.
pub const FRAMES: Target = Target {
    name: "frames",
    about: "frames of a stream",
    seeds: || {
        let frames = [
            bulk(b"some bytes"),
            Frame::bare(Kind::Credit, 77),
            Frame::bare(Kind::End, 0),
        ];
        vec![
            encoded(&frames),
            encoded(&[control(&Done {}), Frame::bare(Kind::Ping, 0)]),
        ]
    },
    repair: |input, deep| repair_frames(input, deep),
    run: |input| {
        let mut rest = input;
        loop {
            let before = rest;
            let Ok(frame) = bounded(BULK_MAX + 4096, || now(read_frame(&mut rest))) else {
                return;
            };
            let used = before.len() - rest.len();
            assert_eq!(used, HEADER_LEN + frame.payload.len());
            assert!(frame.payload.len() <= BULK_MAX && frame.raw_len as usize <= BULK_MAX);
            assert!(frame.kind == Kind::Bulk || frame.payload.len() <= CONTROL_MAX);
            assert_eq!(Some(frame.tag), u64_at(before, 16));
            assert_eq!(frame.payload[..], before[HEADER_LEN..used]);
            let again = encoded(std::slice::from_ref(&frame));
            let reserved = before[2..4] == [0; 2] && before[12..16] == [0; 4];
            assert!(
                !reserved || again == before[..used],
                "what was decoded encodes to the same"
            );
        }
    },
    max_len: 8 << 10,
};

fn hello() -> Hello {
    Hello {
        version: STREAM_VERSION,
        kind: StreamKind::Wlog,
        node: "n".to_owned(),
        volume: volume(),
    }
}

fn volume() -> VolumeName {
    VolumeName::new("vol").unwrap_or_else(|e| panic!("{e}"))
}

fn wlog_begin() -> WlogBegin {
    WlogBegin {
        uuid: Uuid([1; 16]),
        pbs: PhysicalBlockSize::B512,
        salt: 5,
        size: Lb(64),
        begin: Lsid(7),
        max_pb: 100,
    }
}

fn diff() -> walb_common::lineage::MetaDiff {
    "20260102030405-M--0-1.wdiff"
        .parse()
        .map(|name: walb_common::format::wdiff::WdiffFileName| name.to_string())
        .and_then(|name| walb_common::lineage::MetaDiff::from_file_name(&name, 3))
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Input: a byte that chooses the message, then MessagePack.
pub const MESSAGES: Target = Target {
    name: "messages",
    about: "messages of every stream",
    seeds: || {
        let snapshot = diff().begin();
        let refusal = Refusal {
            reason: RefusalReason::TooOldDiff,
            message: "m".to_owned(),
        };
        let (size, timestamp) = (Lb(64), Timestamp(7));
        let all = [
            packed(&hello()),
            packed(&Answer::Refuse(refusal)),
            packed(&wlog_begin()),
            packed(&WlogCommit {
                end: Lsid(9),
                diff: diff(),
            }),
            packed(&WdiffBegin {
                uuid: Uuid([1; 16]),
                size,
                diff: diff(),
            }),
            packed(&FullBegin {
                size,
                timestamp,
                bulk: Lb(8),
            }),
            packed(&FullReset { uuid: Uuid([2; 16]) }),
            packed(&FullCommit { snapshot }),
            packed(&Done {}),
            packed(&WireError {
                code: walb_common::rest::ErrorCode::Busy,
                message: "m".to_owned(),
            }),
        ];
        let all = all.into_iter().enumerate();
        all.map(|(n, message)| [&[n as u8][..], &message].concat())
            .collect()
    },
    repair: super::nothing_to_repair,
    run: |input| {
        let Some((&kind, bytes)) = input.split_first() else {
            return;
        };
        match kind % 10 {
            0 => message::<Hello>(bytes),
            1 => message::<Answer>(bytes),
            2 => message::<WlogBegin>(bytes),
            3 => message::<WlogCommit>(bytes),
            4 => message::<WdiffBegin>(bytes),
            5 => message::<FullBegin>(bytes),
            6 => message::<FullReset>(bytes),
            7 => message::<FullCommit>(bytes),
            8 => message::<Done>(bytes),
            _ => message::<WireError>(bytes),
        }
    },
    max_len: 512,
};

fn message<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = bounded(16 * bytes.len() + (16 << 10), || {
        rmp_serde::from_slice::<T>(bytes)
    }) else {
        return;
    };
    let again: T = rmp_serde::from_slice(&packed(&value)).expect("what is sent can be read");
    assert_eq!(packed(&again), packed(&value));
}

/// A peer whose words are fixed and who hears nothing.
struct Peer(io::Cursor<Vec<u8>>);

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Input: what a storage sends to a proxy on a stream, the handshake included.
pub const STREAM: Target = Target {
    name: "stream",
    about: "a whole stream of a hostile storage: handshake, begin, bulk, commit",
    seeds: || {
        let ios = [Io::Write {
            address: Lb(1),
            data: vec![3; 512].into(),
        }];
        let packs = logpacks(&ios, PhysicalBlockSize::B512, Salt(5), Lsid(7), 1);
        let pack = [&packs[0].block()[..], packs[0].data()].concat();
        let (end, diff) = (packs[0].header().next_lsid(), diff());
        let good = [
            control(&hello()),
            control(&wlog_begin()),
            Frame::bare(Kind::Ping, 0),
            Frame::bare(Kind::Credit, u64::MAX),
            bulk(&pack),
            Frame::bare(Kind::End, 0),
            control(&WlogCommit { end, diff }),
        ];
        let busy = WireError {
            code: walb_common::rest::ErrorCode::Busy,
            message: "m".to_owned(),
        };
        let error = Frame {
            kind: Kind::Error,
            ..control(&busy)
        };
        vec![encoded(&good), encoded(&[control(&hello()), error])]
    },
    repair: |input, deep| repair_frames(input, deep),
    run: |input| {
        let peer = Box::new(Peer(io::Cursor::new(input.to_vec())));
        // A frame, the buffer of the connection, and what is queued.
        bounded(BULK_MAX + input.len() + (256 << 10), || now(listen(peer)));
    },
    max_len: 8 << 10,
};

/// What a proxy does with a stream, without doing anything about it.
async fn listen(peer: Box<Peer>) -> Option<()> {
    let mut stream = Stream::accept(peer, StreamKind::Wlog, "p", &volume())
        .await
        .ok()?;
    let begin: WlogBegin = stream.recv().await.ok()?;
    stream.send(&Answer::Accept).await.ok()?;
    let mut packs = walb_common::format::wlog::LogpackParser::new(begin.pbs, Salt(begin.salt), begin.begin);
    while let Received::Bulk(bulk) = stream.recv_bulk().await.ok()? {
        packs.push(bulk.payload.clone());
        while let walb_common::format::wlog::Parsed::Pack(pack) = packs.next().ok()? {
            assert!(pack.verify(Salt(begin.salt)).is_ok());
        }
        stream.consumed(&bulk).await.ok()?;
    }
    let commit: WlogCommit = stream.recv().await.ok()?;
    assert!(commit.diff.begin().begin() < commit.diff.end().begin());
    stream.send(&Done {}).await.ok()
}

/// Input: a byte (request or response), then what is on the socket.
pub const CONTROL: Target = Target {
    name: "wdev-control",
    about: "requests and responses of walb-wdev's control socket",
    seeds: || {
        let device = "v".to_owned();
        let config = "name = \"v\"\nldev = \"/l\"\nddev = \"/d\"\n";
        let config = toml::from_str(config).unwrap_or_else(|e| panic!("{e}"));
        let calls = [
            Call::List,
            Call::Create(Box::new(config)),
            Call::ReadLog {
                from: Lsid(1),
                limit: Lsid::INVALID,
                max_bytes: 1 << 20,
            },
            Call::Resize { size: Some(Lb(9)) },
            Call::WhoUses {
                path: "/x".to_owned(),
            },
        ];
        let mut all = Vec::new();
        for call in calls {
            let mut bytes = vec![0];
            now(send(
                &mut bytes,
                &Request {
                    device: device.clone(),
                    call,
                },
                &[],
            ))
            .unwrap_or_else(|e| panic!("{e}"));
            all.push(bytes);
        }
        for reply in [
            Reply::Done,
            Reply::UsedBy(Some(device)),
            Reply::Permanent(Lsid(3)),
        ] {
            let mut bytes = vec![1];
            let response = Response {
                result: Ok(reply),
                bulk: 3,
            };
            now(send(&mut bytes, &response, b"abc")).unwrap_or_else(|e| panic!("{e}"));
            all.push(bytes);
        }
        all
    },
    repair: |input, deep| {
        // The length in front of the message.
        if deep && input.len() >= 5 {
            let length = (input.len() - 5) as u32;
            input[1..5].copy_from_slice(&length.to_le_bytes());
        }
    },
    run: |input| {
        let Some((&kind, bytes)) = input.split_first() else {
            return;
        };
        match kind % 2 {
            0 => conversation::<Request>(bytes, REQUEST_MAX),
            _ => conversation::<Response>(bytes, RESPONSE_MAX),
        }
    },
    max_len: 1024,
};

fn conversation<T: Serialize + DeserializeOwned>(mut input: &[u8], max: u32) {
    let limit = max as usize + 16 * input.len() + (16 << 10);
    while let Ok(Some(message)) = bounded(limit, || now(receive::<T>(&mut input, max))) {
        let mut again = Vec::new();
        now(send(&mut again, &message, &[])).expect("to memory");
        let back: T = now(receive(&mut &again[..], max))
            .expect("what is sent can be read")
            .expect("it is there");
        assert_eq!(packed(&back), packed(&message));
    }
}
