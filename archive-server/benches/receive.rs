//! What an archive costs: MB/s, and MB per CPU-second of its process, for a full backup of a sparse image, for wdiffs
//! and for a restore, over TLS on loopback. `cargo bench -p walb-archive-server`; `WALB_BENCH_MB` sets the size (1024).
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a measurement")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use bytes::Bytes;
use support::{LOG, Operator, Site, diff, vol};
use walb_common::format::wdiff::{SortedWriter, WdiffRecord};
use walb_common::lineage::Snapshot;
use walb_common::types::{Compression, CompressionSetting, Gid, Lb, Timestamp};
use walb_common::wire::identity::Role;
use walb_common::wire::message::{Answer, Done, FullBegin, FullCommit, FullReset, StreamKind, WdiffBegin};
use walb_common::wire::stream::Bulk;

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

struct Meter {
    pid: u32,
    cpu: f64,
    began: Instant,
}

impl Meter {
    fn start(pid: u32) -> Self {
        Self {
            pid,
            cpu: cpu_seconds(pid),
            began: Instant::now(),
        }
    }

    fn report(self, what: &str, bytes: u64) {
        let (wall, cpu) = (
            self.began.elapsed().as_secs_f64(),
            cpu_seconds(self.pid) - self.cpu,
        );
        let mb = bytes as f64 / 1e6;
        println!(
            "{what:40} {mb:7.0} MB  {:7.0} MB/s  {:7.0} MB/CPU-s",
            mb / wall,
            mb / cpu.max(0.01)
        );
    }
}

/// Half noise, half zeros in 4 KiB pieces, so that lz4 halves it.
fn data(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = vec![0; bytes];
    for piece in out.chunks_mut(4096) {
        let half = piece.len() / 2;
        for word in piece[..half].chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
    }
    out
}

fn main() {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(run());
}

async fn run() {
    let megabytes: u64 = std::env::var("WALB_BENCH_MB")
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(1024);
    let size = Lb(megabytes << 11);
    let site = Site::new();
    let process = site.spawn("");
    let pid = process.child.id();
    let operator = Operator::at(&site, &process.address);
    operator.command("vol0", "init").await.unwrap();

    // Every other 4 MiB are zeros.
    let chunk = 64 << 10;
    let raw = data(1, chunk);
    let stored: Bytes =
        walb_common::format::compress::Compressor::new(CompressionSetting::of(Compression::Lz4))
            .compress(&raw)
            .unwrap()
            .into();
    let kind = StreamKind::FullBackup;
    let mut stream = site
        .storage
        .open_stream(&process.address, Role::Archive, kind, &vol("vol0"))
        .await
        .unwrap();
    let meter = Meter::start(pid);
    stream
        .send(&FullBegin {
            size,
            timestamp: Timestamp(1),
            bulk: Lb(128),
        })
        .await
        .unwrap();
    assert_eq!(stream.recv::<Answer>().await.unwrap(), Answer::Accept);
    stream.send(&FullReset { uuid: LOG }).await.unwrap();
    let Done {} = stream.recv().await.unwrap();
    for at in (0..size.0).step_by(128) {
        let raw_len = u32::try_from(chunk).unwrap();
        let bulk = if (at / 8192) % 2 == 1 {
            Bulk::zeros(at, raw_len)
        } else {
            Bulk {
                tag: at,
                codec: Compression::Lz4,
                raw_len,
                payload: stored.clone(),
            }
        };
        stream.send_bulk(bulk).await.unwrap();
    }
    stream.send_end().await.unwrap();
    let Done {} = stream.recv().await.unwrap();
    stream
        .send(&FullCommit {
            snapshot: Snapshot::clean(Gid(0)),
        })
        .await
        .unwrap();
    let Done {} = stream.recv().await.unwrap();
    meter.report("full backup (volume bytes, half zeros)", size.bytes());

    // One diff of a quarter of the volume in 64 KiB records, stored with lz4 and uncompressed.
    for (gid, compression) in [(1, Compression::Lz4), (2, Compression::None)] {
        let mut writer = SortedWriter::new(Vec::new(), LOG, CompressionSetting::of(compression)).unwrap();
        let raw = Bytes::from(data(gid, chunk));
        for n in 0..size.0 / 512 {
            writer
                .write(&WdiffRecord::normal(Lb(n * 512), raw.clone()))
                .unwrap();
        }
        let bytes = writer.finish().unwrap().0;
        let bytes = Bytes::from(bytes);
        let kind = StreamKind::Wdiff;
        let mut stream = site
            .proxy
            .open_stream(&process.address, Role::Archive, kind, &vol("vol0"))
            .await
            .unwrap();
        let meter = Meter::start(pid);
        stream
            .send(&WdiffBegin {
                uuid: LOG,
                size,
                diff: diff(gid - 1, gid),
            })
            .await
            .unwrap();
        assert_eq!(stream.recv::<Answer>().await.unwrap(), Answer::Accept);
        let mut at = 0;
        while at < bytes.len() {
            let end = (at + (1 << 20)).min(bytes.len());
            stream
                .send_bulk(Bulk::raw(at as u64, bytes.slice(at..end)))
                .await
                .unwrap();
            at = end;
        }
        stream.send_end().await.unwrap();
        let Done {} = stream.recv().await.unwrap();
        meter.report(
            &format!("wdiff received, {} (stored bytes)", compression.name()),
            bytes.len() as u64,
        );
    }

    let meter = Meter::start(pid);
    let job = operator
        .job(operator.restore("vol0", 2).await.unwrap())
        .await
        .unwrap();
    assert_eq!(job.error, None);
    meter.report("restore (volume bytes)", size.bytes());
    drop(process);
}
