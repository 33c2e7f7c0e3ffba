//! Runs a command.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use walb_common::types::{Lb, Lsid};
use walb_wdev::client::{Changed, DeviceError, DeviceSpec, DeviceStatus, WalDevice, WdevClient};
use walb_wdev::config::{DeviceConfig, Limits, LogDirect};
use walb_wdev::kernel::KernelDevice;

use crate::args::{Args, Command, Create, Wdev};
use crate::format;

/// Runs it and returns its answer, for stdout.
pub async fn run(args: Args) -> anyhow::Result<String> {
    let mut out = String::new();
    let open = |wdev: &Wdev| device(wdev, args.socket.as_ref());
    let daemon = |name: &str| WdevClient::new(args.socket.clone(), name.to_owned());
    match &args.command {
        Command::FormatLdev(options) => out = format::run(options)?,
        Command::CreateWdev(options) => {
            let config = config(options)?;
            daemon(&config.name).create(config.clone()).await?;
            writeln!(out, "name {}\nmajor 0\nminor 0", config.name)?;
        }
        Command::DeleteWdev { wdev, force } => match open(wdev)? {
            Device::Wdev(device) => device.delete(*force).await?,
            Device::Kernel(_) => anyhow::bail!(
                "{}: a device of the kernel driver is stopped with the tool that started it",
                wdev.wdev
            ),
        },
        Command::List => {
            for entry in daemon("").list().await? {
                writeln!(out, "0 0 walb/{}", entry.name)?;
                if let Some(reason) = entry.failed {
                    eprintln!("{}: not running: {reason}", entry.name);
                }
            }
        }
        Command::GetStatus { wdev, json } => {
            let status = open(wdev)?.wal().status().await?;
            if *json {
                writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
            } else {
                tell_status(&mut out, &status)?;
            }
        }
        Command::SetCheckpointInterval { wdev, ms } => open(wdev)?.set_checkpoint_interval(*ms).await?,
        Command::ForceCheckpoint(wdev) => open(wdev)?.wal().checkpoint().await?,
        Command::SetOldestLsid { wdev, lsid } => open(wdev)?.wal().set_oldest(Lsid(*lsid)).await?,
        Command::Resize { wdev, lb } => drop(open(wdev)?.wal().resize((*lb > 0).then_some(Lb(*lb))).await?),
        Command::GetChanged { wdev, json } => {
            tell_changed(&mut out, open(wdev)?.wal().changed().await?, *json)?;
        }
        Command::ForgetChanged(wdev) => open(wdev)?.wal().forget_changed().await?,
        Command::SetOnRingFull { wdev, policy } => match open(wdev)? {
            Device::Wdev(device) => device.set_on_ring_full(*policy).await?,
            Device::Kernel(_) => anyhow::bail!("{}: the kernel driver always goes on", wdev.wdev),
        },
        Command::ResetWal(wdev) => drop(open(wdev)?.wal().reset_log().await?),
        Command::ClearWal { wdev, timeout } => {
            let work = clear_wal(open(wdev)?);
            match *timeout {
                0 => work.await?,
                seconds => tokio::time::timeout(Duration::from_secs(seconds), work)
                    .await
                    .with_context(|| format!("log not written back within {seconds} s"))??,
            }
        }
        Command::Freeze { wdev, seconds } => {
            open(wdev)?
                .wal()
                .freeze((*seconds > 0).then(|| Duration::from_secs(*seconds)))
                .await?;
        }
        Command::Melt(wdev) => open(wdev)?.wal().melt().await?,
        Command::GetVersion => writeln!(out, "{}", daemon("").version().await?)?,
        Command::GetCheckpointInterval(w) => {
            show(&mut out, &open(w)?, |s| u64::from(s.checkpoint_interval_ms)).await?;
        }
        Command::GetOldestLsid(w) => show(&mut out, &open(w)?, |s| s.lsids.oldest.0).await?,
        Command::GetWrittenLsid(w) => show(&mut out, &open(w)?, |s| s.lsids.written.0).await?,
        Command::GetPrevWrittenLsid(w) => show(&mut out, &open(w)?, |s| s.lsids.prev_written.0).await?,
        Command::GetPermanentLsid(w) => show(&mut out, &open(w)?, |s| s.lsids.permanent.0).await?,
        Command::GetCompletedLsid(w) => show(&mut out, &open(w)?, |s| s.lsids.completed.0).await?,
        Command::GetLatestLsid(w) => show(&mut out, &open(w)?, |s| s.lsids.latest.0).await?,
        Command::GetLogUsage(w) => show(&mut out, &open(w)?, |s| s.log_usage_pb).await?,
        Command::GetLogCapacity(w) => show(&mut out, &open(w)?, |s| s.log_capacity_pb).await?,
        Command::IsFlushCapable(w) => writeln!(out, "{}", u8::from(open(w)?.is_flush_capable().await?))?,
        Command::IsLogOverflow(w) => show(&mut out, &open(w)?, |s| u64::from(s.overflow)).await?,
        Command::IsFrozen(w) => show(&mut out, &open(w)?, |s| u64::from(s.frozen)).await?,
    }
    Ok(out)
}

async fn show(out: &mut String, device: &Device, what: impl Fn(&DeviceStatus) -> u64) -> anyhow::Result<()> {
    writeln!(out, "{}", what(&device.wal().status().await?))?;
    Ok(())
}

/// A device of either kind.
enum Device {
    Wdev(WdevClient),
    Kernel(KernelDevice),
}

impl Device {
    fn wal(&self) -> &dyn WalDevice {
        match self {
            Self::Wdev(device) => device,
            Self::Kernel(device) => device,
        }
    }

    async fn set_checkpoint_interval(&self, ms: u32) -> Result<(), DeviceError> {
        match self {
            Self::Wdev(device) => device.set_checkpoint_interval(ms).await,
            Self::Kernel(device) => device.set_checkpoint_interval(ms).await,
        }
    }

    async fn is_flush_capable(&self) -> Result<bool, DeviceError> {
        match self {
            // One that exists honours flushes.
            Self::Wdev(device) => device.status().await.map(|_| true),
            Self::Kernel(device) => device.is_flush_capable().await,
        }
    }
}

/// NAME alone is a device of the default daemon.
fn device(Wdev { wdev }: &Wdev, socket: Option<&Utf8PathBuf>) -> anyhow::Result<Device> {
    let text = if wdev.contains(':') || wdev.contains('/') {
        wdev.clone()
    } else {
        format!("wdev:{wdev}")
    };
    Ok(match text.parse()? {
        DeviceSpec::Wdev { socket: own, name } => {
            Device::Wdev(WdevClient::new(own.or_else(|| socket.cloned()), name))
        }
        DeviceSpec::Kernel { path } => Device::Kernel(KernelDevice::at(&path)),
    })
}

fn config(options: &Create) -> anyhow::Result<DeviceConfig> {
    // The daemon has another working directory.
    let absolute = |path: &Utf8PathBuf| {
        let found = path.canonicalize_utf8().with_context(|| format!("find {path}"))?;
        anyhow::Ok(found)
    };
    let here = |path: &Option<Utf8PathBuf>| {
        path.as_ref()
            .map(|p| camino::absolute_utf8(p).with_context(|| format!("path {p}")))
            .transpose()
    };
    let name = match &options.name {
        Some(name) => name.clone(),
        None => format::stored_name(&options.ldev)?,
    };
    let default = Limits::default();
    let limits = Limits {
        logpack_max_kib: options
            .maxl
            .filter(|&kib| kib > 0)
            .unwrap_or(default.logpack_max_kib)
            .min(default.logpack_max_kib),
        pending_max_mib: options.maxp.unwrap_or(default.pending_max_mib).max(1),
        nbd_clients: options.nbd_clients.unwrap_or(default.nbd_clients).max(1),
        on_ring_full: options.on_ring_full.unwrap_or(default.on_ring_full),
        io: options.io,
        log_direct: match (options.log_direct, options.log_buffered) {
            (true, _) => LogDirect::Always,
            (false, true) => LogDirect::Never,
            (false, false) => LogDirect::Auto,
        },
        data_direct: options.data_direct,
        log_sync_interval_ms: options.fp.unwrap_or(default.log_sync_interval_ms),
        ..default
    };
    Ok(DeviceConfig {
        name,
        ldev: absolute(&options.ldev)?,
        ddev: absolute(&options.ddev)?,
        nbd: here(&options.nbd)?,
        nbd_guests: options.nbd_guest.clone(),
        fuse: here(&options.fuse)?,
        ublk: options.ublk,
        nbd_node: options.nbd_node,
        limits,
    })
}

fn tell_changed(out: &mut String, changed: Changed, json: bool) -> anyhow::Result<()> {
    let chunks = match changed {
        Changed::Known(chunks) => chunks,
        Changed::Unknown { reason } => anyhow::bail!("what has changed is not known: {reason}"),
    };
    if json {
        let blocks: Vec<_> = chunks.blocks().map(|(at, len)| [at.0, len.0]).collect();
        let object = serde_json::json!({
            "base_uuid": chunks.base_uuid,
            "base_lsid": chunks.base_lsid,
            "chunk_lb": chunks.chunk,
            "device_size_lb": chunks.device_size,
            "bytes": chunks.bytes(),
            "blocks": blocks,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let (uuid, lsid, chunk) = (chunks.base_uuid, chunks.base_lsid, chunks.chunk);
    writeln!(out, "{uuid} {lsid} {chunk} {}", chunks.bytes())?;
    for (at, len) in chunks.blocks() {
        writeln!(out, "{at} {len}")?;
    }
    Ok(())
}

/// Not a reset: uuid and salt are kept, and what is not yet permanent stays in the log.
async fn clear_wal(device: Device) -> anyhow::Result<()> {
    let device = device.wal();
    let permanent = device.status().await?.lsids.permanent;
    device.checkpoint().await?;
    device.set_oldest(permanent).await?;
    Ok(())
}

fn tell_status(out: &mut String, status: &DeviceStatus) -> std::fmt::Result {
    let lsids = &status.lsids;
    writeln!(out, "name {}", status.name)?;
    writeln!(out, "ldev {}", status.ldev)?;
    writeln!(out, "ddev {}", status.ddev)?;
    if let Some(node) = &status.node {
        writeln!(out, "node {node}")?;
    }
    writeln!(out, "uuid {}", status.uuid)?;
    writeln!(out, "pbs {}", status.pbs)?;
    writeln!(out, "size_lb {}", status.size)?;
    for (name, lsid) in [
        ("latest", lsids.latest),
        ("completed", lsids.completed),
        ("flush", lsids.flush),
        ("permanent", lsids.permanent),
        ("written", lsids.written),
        ("prev_written", lsids.prev_written),
        ("oldest", lsids.oldest),
    ] {
        writeln!(out, "{name} {lsid}")?;
    }
    writeln!(out, "log_capacity_pb {}", status.log_capacity_pb)?;
    writeln!(out, "log_usage_pb {}", status.log_usage_pb)?;
    writeln!(out, "log_overflow {}", u8::from(status.overflow))?;
    writeln!(out, "on_ring_full {}", status.on_ring_full)?;
    writeln!(out, "waits_for_ring {}", u8::from(status.waits_for_ring))?;
    match status.changed_bytes {
        Some(bytes) => writeln!(out, "changed_bytes {bytes}")?,
        None => writeln!(out, "changed_bytes unknown")?,
    }
    if let Some(problem) = &status.changed_problem {
        writeln!(out, "changed_problem {problem}")?;
    }
    writeln!(out, "frozen {}", u8::from(status.frozen))?;
    writeln!(out, "read_only {}", u8::from(status.read_only))?;
    writeln!(out, "pending_bytes {}", status.pending_bytes)?;
    writeln!(out, "checkpoint_interval_ms {}", status.checkpoint_interval_ms)
}
