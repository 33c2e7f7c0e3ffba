//! What receiving costs: a wlog file, sent to a running proxy over TLS, until its acknowledgement.
//!
//! `cargo bench -p walb-proxy-server --bench receive -- WLOG RUNS`: starts the program in a temporary directory (`TMPDIR`
//! decides on which disk) and prints MB of log per second, and per CPU-second of the proxy.

#![expect(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a measuring tool")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use bytes::Bytes;
use support::storage::{Log, Storage};
use support::{Site, vol};
use walb_common::format::wlog::{WLOG_HEADER_SIZE, WlogReader};
use walb_common::lineage::{MetaDiff, Snapshot};
use walb_common::types::{Gid, Lb};
use walb_common::wire::message::{WlogBegin, WlogCommit};

/// CPU seconds of a process so far.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(runs)) = (args.next(), args.next().and_then(|n| n.parse::<u64>().ok())) else {
        return println!("usage: cargo bench -p walb-proxy-server --bench receive -- WLOG RUNS");
    };
    let file = Bytes::from(std::fs::read(&path).unwrap());
    let mut reader = WlogReader::open(&file[..]).unwrap();
    let header = *reader.header();
    while reader.next_pack().unwrap().is_some() {}
    let end = reader.next_lsid();
    let body = file.slice(WLOG_HEADER_SIZE..file.len() - header.pbs.bytes());
    let diff = |n: u64| MetaDiff::new(Snapshot::clean(Gid(n)), Snapshot::clean(Gid(n + 1))).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let site = Site::new();
        let proxy = site.start_program("", "").await;
        proxy.add("vol0", "a0", "127.0.0.1:9").await;
        proxy.start_volume("vol0").await;
        let mut storage = Storage::new(&site, "vol0", 1, header.pbs);
        storage.volume = vol("vol0");
        for run in 0..runs {
            let begin = WlogBegin {
                uuid: header.uuid,
                pbs: header.pbs,
                salt: header.salt.0,
                size: Lb(1 << 30),
                begin: header.begin,
                max_pb: end.0 - header.begin.0,
            };
            let log = Log {
                begin,
                packs: Vec::new(),
                commit: WlogCommit { end, diff: diff(run) },
            };
            let (wall, busy) = (Instant::now(), cpu(proxy.pid()));
            storage
                .send_bytes(&proxy.address, &log, body.clone(), 1 << 20)
                .await
                .unwrap();
            let (wall, busy) = (wall.elapsed().as_secs_f64(), cpu(proxy.pid()) - busy);
            let mb = body.len() as f64 / 1e6;
            println!(
                "{mb:.0} MB in {wall:.2} s, {busy:.2} CPU-s of the proxy: {:.0} MB/s, {:.0} MB/CPU-s",
                mb / wall,
                mb / busy
            );
        }
    });
}
