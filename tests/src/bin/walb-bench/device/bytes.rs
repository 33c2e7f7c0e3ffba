//! `bench device-bytes`: how many bytes our device writes to log and data device for each byte the guest writes, and how fast
//! the log is read by who ships it.
//!
//! Log and data device are loop devices, which count the sectors written to them. A checkpoint ends each run. (What proc(5)
//! counts for a process is of no use: a large folio of which one page became dirty counts whole.)

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use camino::Utf8PathBuf;
use walb_common::format::checksum::Salt;
use walb_common::format::wlog::{LogpackParser, Parsed};
use walb_common::types::Lsid;
use walb_wdev::client::{DeviceStatus, WalDevice, WdevClient};

use super::fio::{self, Job, Mode, Span, mode};
use super::targets::{Setup, Target};
use crate::{generate, interrupt, scratch};

/// Counts the bytes that the block device writes, and reads its log.
#[derive(clap::Args)]
#[command(after_help = "Example: walb-bench device-bytes --amount 256m")]
pub struct Arguments {
    /// What the guest writes in each run; of single small writes a quarter.
    #[arg(long, default_value = "256m", value_parser = |text: &str| walb_common::types::parse_size(text))]
    amount: u64,
    /// Size of the device.
    #[arg(long, default_value = "1g", value_parser = |text: &str| walb_common::types::parse_size(text))]
    size: u64,
    /// Where files go while it runs (four times the size, at most); by default the target directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// What the guest does, and what part of the amount it writes. The log of the last one is read back.
const MODES: &[(Mode, u64)] = &[
    (mode("4 KiB random, qd 1", "randwrite", "4k", "1", "0"), 4),
    (mode("4 KiB random, qd 32", "randwrite", "4k", "32", "0"), 1),
    (
        mode(
            "4 KiB random, qd 32, flush after 32",
            "randwrite",
            "4k",
            "32",
            "32",
        ),
        1,
    ),
    (mode("64 KiB random, qd 4", "randwrite", "64k", "4", "0"), 1),
    (mode("1 MiB sequential, qd 4", "write", "1m", "4", "0"), 1),
];

#[derive(serde::Serialize)]
struct Row {
    mode: &'static str,
    physical_block: u32,
    /// Bytes written to the log and to the data device, each over those of the guest.
    log: f64,
    data: f64,
    total: f64,
}

#[derive(serde::Serialize)]
struct LogRead {
    /// MB (10^6 bytes) per second: read through the control socket and verified, as walb-storage does.
    ours: f64,
    /// The same file by `dd iflag=direct bs=1M`.
    dd: f64,
}

/// Counts and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let (mut rows, mut reads) = (Vec::new(), Vec::new());
    for physical_block in [512, 4096] {
        let scratch = scratch::create(arguments.dir.as_deref())?;
        let content = scratch.path().join("content");
        generate::image(&content, arguments.size, 1, generate::Data::Half)?;
        let mut setup = Setup::new(scratch.path(), &content).on_loops(physical_block);
        let log_bytes = arguments.amount * 3;
        setup.start(Target::WalbNbd, log_bytes)?;
        std::fs::remove_file(&content)?;
        let device = Device::of(&setup)?;
        let mut last = Lsid(0);
        for (mode, part) in MODES {
            interrupt::check()?;
            eprintln!("{}, physical block {physical_block} ...", mode.name);
            let (row, begin) = device.count(mode, arguments.amount / part, arguments.size)?;
            rows.push(row);
            last = begin;
        }
        // Its end may still be in the memory of walb-wdev.
        reads.push(device.read_log(last, arguments.amount / 8 * 7)?);
    }
    if arguments.json {
        let answer = serde_json::json!({ "rows": rows, "log_reads": reads });
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    println!("\n| the guest writes | physical block | log | data | total |\n|:--|--:|--:|--:|--:|");
    for row in &rows {
        println!(
            "| {} | {} | {:.2} | {:.2} | {:.2} |",
            row.mode, row.physical_block, row.log, row.data, row.total
        );
    }
    for LogRead { ours, dd } in &reads {
        println!(
            "\nLog read through the control socket and verified: {ours:.0} MB/s; dd of the same file: {dd:.0} MB/s."
        );
    }
    Ok(())
}

/// Our device, with its daemon.
struct Device<'a> {
    setup: &'a Setup,
    client: WdevClient,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Device<'a> {
    fn of(setup: &'a Setup) -> Result<Self> {
        let socket = Utf8PathBuf::try_from(setup.control_socket())?;
        Ok(Self {
            setup,
            client: WdevClient::new(Some(socket), "nbd".to_owned()),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        })
    }

    /// Everything is on the data device when this returns.
    fn settle(&self) -> Result<DeviceStatus> {
        self.runtime.block_on(async {
            self.client.flush().await?;
            self.client.checkpoint().await?;
            Ok(self.client.status().await?)
        })
    }

    /// Lets the guest write; also where the log of that begins.
    fn count(&self, mode: &Mode, amount: u64, size: u64) -> Result<(Row, Lsid)> {
        let status = self.settle()?;
        let (ldev, ddev) = (status.ldev.as_str(), status.ddev.as_str());
        let before = (written(ldev)?, written(ddev)?);
        let job = Job {
            mode,
            span: Span::Bytes(amount),
            size,
            iops: None,
            device: self.setup.fio_arguments(Target::WalbNbd)?,
        };
        fio::measure(self.setup.dir(), &job)?;
        self.settle()?;
        let log = over(written(ldev)? - before.0, amount);
        let data = over(written(ddev)? - before.1, amount);
        let row = Row {
            mode: mode.name,
            physical_block: u32::try_from(status.pbs.bytes())?,
            log,
            data,
            total: log + data,
        };
        Ok((row, status.lsids.latest))
    }

    /// Reads about so many bytes of log and verifies them.
    fn read_log(&self, from: Lsid, amount: u64) -> Result<LogRead> {
        let status = self.settle()?;
        let began = Instant::now();
        let bytes = self.runtime.block_on(self.read_from(from, amount, &status))?;
        let ours = rate(bytes, began);
        let mib = bytes >> 20;
        ensure!(mib > 0, "there was no log to read");
        let began = Instant::now();
        let dd = Command::new("dd")
            .arg(format!("if={}", status.ldev))
            .args(["of=/dev/null", "iflag=direct", "bs=1M"])
            .arg(format!("count={mib}"))
            .output()
            .context("run dd")?;
        ensure!(
            dd.status.success(),
            "dd failed: {}",
            String::from_utf8_lossy(&dd.stderr)
        );
        Ok(LogRead {
            ours,
            dd: rate(mib << 20, began),
        })
    }

    async fn read_from(&self, mut lsid: Lsid, amount: u64, status: &DeviceStatus) -> Result<u64> {
        let mut bytes = 0;
        while bytes < amount {
            let chunk = self
                .client
                .read_log(lsid, status.lsids.permanent, 1 << 20)
                .await?;
            if chunk.next == lsid {
                break;
            }
            let mut parser = LogpackParser::new(status.pbs, Salt(status.salt), lsid);
            bytes += chunk.bytes.len() as u64;
            parser.push(chunk.bytes);
            while let Parsed::Pack(_) = parser.next()? {}
            ensure!(parser.next_lsid() == chunk.next, "no whole packs at lsid {lsid}");
            lsid = chunk.next;
        }
        Ok(bytes)
    }
}

/// Bytes that were written to a block device so far: the seventh figure of its `stat` in sysfs, sectors of 512 bytes.
fn written(device: &str) -> Result<u64> {
    let name = device.strip_prefix("/dev/").context("not a block device")?;
    let path = format!("/sys/block/{name}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let sectors = text
        .split_whitespace()
        .nth(6)
        .with_context(|| format!("too little in {path}"))?;
    Ok(sectors.parse::<u64>()? * 512)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for reading")]
fn over(bytes: u64, of: u64) -> f64 {
    bytes as f64 / of as f64
}

/// MB (10^6 bytes) per second.
#[expect(clippy::cast_precision_loss, reason = "a figure for reading")]
fn rate(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
}
