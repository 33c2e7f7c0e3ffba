//! What a device's users see when walb-wdev ends, or a disk does: a pause, or an error; never other data.

use anyhow::{Context, Result, bail, ensure};

use super::daemon::{NAME, Pair, Wdev};
use super::filesystem::Kind;
use super::front_end::FrontEnd;
use super::tools::{
    MOUNTPOINT, Running, fio, fio_options, linear, mount_at, run, same, switch, unmount_it, until,
    writes_done,
};

/// Enough writes to be interrupted a few times.
const LONG_MIB: u32 = 32;

/// Starts fio, writing so much and checking it.
pub fn write_to(target: &str, mib: u32) -> Result<Running> {
    let options = fio_options(target, mib);
    Running::start("fio", &options.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Returns once the device has completed some more writes.
pub fn goes_on(fio: &mut Running, device: &str) -> Result<()> {
    let before = writes_done(device)?;
    until("writes go on", || {
        if let Some(status) = fio.ended()? {
            bail!("fio ended early: {status}: {}", fio.said());
        }
        Ok((writes_done(device)? >= before + 40).then_some(()))
    })
}

/// Killed three times under writes: they pause, and nothing is lost.
pub fn kill(front_end: FrontEnd, pair: &Pair) -> Result<()> {
    let mut wdev = Wdev::fresh()?;
    wdev.create(pair, front_end.options())?;
    let device = front_end.attach(&wdev)?;
    let mut fio = write_to(device, LONG_MIB)?;
    for _ in 0..3 {
        goes_on(&mut fio, device)?;
        wdev.kill()?;
        wdev = Wdev::again()?;
    }
    ends_well(fio)?;
    wdev.wdevc(&["force-checkpoint", NAME])?;
    same(device, &pair.data, u64::from(LONG_MIB) << 20)?;
    front_end.detach(wdev)
}

/// Another program file takes over under a mounted file system in use, twice.
pub fn upgrade(front_end: FrontEnd, pair: &Pair) -> Result<()> {
    let mut wdev = Wdev::fresh()?;
    wdev.create(pair, front_end.options())?;
    let device = front_end.attach(&wdev)?;
    Kind::Ext4.make(device)?;
    mount_at(device, Kind::Ext4.name())?;
    let mut fio = write_to(&format!("{MOUNTPOINT}/fio"), LONG_MIB)?;
    for version in ["walb-wdev-2", "walb-wdev"] {
        goes_on(&mut fio, device)?;
        wdev.stop()?;
        if version != "walb-wdev" {
            std::fs::copy("/bin/walb-wdev", format!("/bin/{version}"))
                .context("make another program file")?;
        }
        wdev = Wdev::run(version, &[])?;
    }
    ends_well(fio)?;
    unmount_it()?;
    Kind::Ext4.check(device)?;
    front_end.detach(wdev)
}

/// Waits for its end.
pub fn ends_well(mut fio: Running) -> Result<()> {
    let status = fio.wait()?;
    ensure!(status.success(), "fio: {status}: {}", fio.said());
    Ok(())
}

/// Dies at each step of adding a ublk device, and of taking one over; the next start makes it good.
pub fn crash_at_each_ublk_step(pair: &Pair) -> Result<()> {
    for step in ["wdev.ublk.added", "wdev.ublk.started"] {
        let fault = format!("{step}=crash");
        let wdev = Wdev::fresh_with(&[("WALB_FAULT", &fault)])?;
        if wdev.create(pair, FrontEnd::Ublk.options()).is_ok() {
            bail!("walb-wdev did not die at {step}");
        }
        drop(wdev);
        let wdev = Wdev::again()?;
        wdev.create(pair, FrontEnd::Ublk.options())?;
        let device = FrontEnd::Ublk.attach(&wdev)?;
        fio(device, 2)?;
        FrontEnd::Ublk.detach(wdev)?;
    }
    let wdev = Wdev::fresh()?;
    wdev.create(pair, FrontEnd::Ublk.options())?;
    let device = FrontEnd::Ublk.attach(&wdev)?;
    let mut writer = write_to(device, LONG_MIB)?;
    goes_on(&mut writer, device)?;
    wdev.kill()?;
    for step in ["wdev.ublk.recovery_begun", "wdev.ublk.recovery_ready"] {
        let fault = format!("{step}=crash");
        if Wdev::run("walb-wdev", &[("WALB_FAULT", &fault)]).is_ok() {
            bail!("walb-wdev did not die at {step}");
        }
    }
    let wdev = Wdev::again()?;
    ends_well(writer)?;
    FrontEnd::Ublk.detach(wdev)
}

/// A number that another device has is refused, and that device goes on.
pub fn ublk_number_in_use(pair: &Pair, other: &Pair) -> Result<()> {
    let wdev = Wdev::fresh()?;
    wdev.create(pair, FrontEnd::Ublk.options())?;
    let device = FrontEnd::Ublk.attach(&wdev)?;
    wdev.wdevc(&["format-ldev", &other.log, &other.data, "-n", "other"])?;
    let Err(refused) = wdev.wdevc(&[
        "create-wdev",
        &other.log,
        &other.data,
        "-n",
        "other",
        "-ublk",
        "0",
    ]) else {
        bail!("two devices have one number");
    };
    let refused = format!("{refused:#}");
    ensure!(refused.contains("/dev/ublkb0 is in use"), "{refused}");
    fio(device, 2)?;
    FrontEnd::Ublk.detach(wdev)
}

/// The log device fails: so do writes, and only those; after a restart everything that was acknowledged is there.
pub fn log_device_fails(front_end: FrontEnd, pair: &Pair) -> Result<()> {
    const SECTORS: u64 = 64 << 11;
    let mapped = Pair {
        log: linear("failing", SECTORS, &pair.log)?,
        data: pair.data.clone(),
    };
    let wdev = Wdev::fresh()?;
    wdev.create(&mapped, front_end.options())?;
    let device = front_end.attach(&wdev)?;
    fio(device, 4)?;
    switch("failing", &format!("0 {SECTORS} error"))?;
    let Err(error) = fio(device, 1) else {
        bail!("writes succeed without a log device");
    };
    println!("{error:#}");
    let status = wdev.wdevc(&["get-status", NAME, "--json"])?;
    ensure!(status.contains("\"read_only\": true"), "not read-only: {status}");
    switch("failing", &format!("0 {SECTORS} linear {} 0", pair.log))?;
    drop(wdev);
    let wdev = Wdev::again()?;
    fio(device, 4)?;
    wdev.wdevc(&["force-checkpoint", NAME])?;
    same(device, &pair.data, 4 << 20)?;
    front_end.detach(wdev)?;
    run("dmsetup", &["remove", "failing"]).map(drop)
}

/// A part of the data device fails: what is elsewhere is still read, reads there and all writes fail, and it is told which
/// device it was; once it is well a restart has everything that was acknowledged.
pub fn data_device_fails(front_end: FrontEnd, pair: &Pair) -> Result<()> {
    const SECTORS: u64 = 64 << 11;
    // Bad from 8 MiB on, for 8 MiB.
    const BAD: u64 = 16_384;
    let good = format!("0 {SECTORS} linear {} 0", pair.data);
    let bad = format!(
        "0 {BAD} linear {d} 0\n{BAD} {BAD} error\n{end} {rest} linear {d} {end}",
        d = pair.data,
        end = 2 * BAD,
        rest = SECTORS - 2 * BAD
    );
    for direct in [false, true] {
        let mapped = Pair {
            log: pair.log.clone(),
            data: linear("failing", SECTORS, &pair.data)?,
        };
        let mut options = front_end.options().to_vec();
        options.extend(direct.then_some("-data-direct"));
        let wdev = Wdev::fresh()?;
        wdev.create(&mapped, &options)?;
        let device = front_end.attach(&wdev)?;
        fio(device, 16)?;
        wdev.wdevc(&["force-checkpoint", NAME])?;
        switch("failing", &bad)?;
        // Acknowledged once it is in the log, perhaps; but no checkpoint and no later write is.
        if let Err(error) = fio(device, 16) {
            println!("{error:#}");
        } else if wdev.wdevc(&["force-checkpoint", NAME]).is_ok() {
            bail!("a checkpoint succeeds without the data device");
        }
        let Err(error) = fio(device, 1) else {
            bail!("writes succeed without a data device");
        };
        println!("{error:#}");
        let status = wdev.wdevc(&["get-status", NAME, "--json"])?;
        ensure!(status.contains("\"read_only\": true"), "not read-only: {status}");
        let Err(refused) = wdev.wdevc(&["force-checkpoint", NAME]) else {
            bail!("a checkpoint succeeds without the data device");
        };
        let said = format!("{refused:#}");
        ensure!(
            said.contains("/dev/mapper/failing"),
            "not told which device: {said}"
        );
        let read = |at_mib: u64| {
            let skip = format!("skip={at_mib}");
            let input = format!("if={device}");
            #[rustfmt::skip]
            return run("dd", &[&input, "of=/dev/null", "bs=1M", "count=1", "iflag=direct", &skip]);
        };
        read(40)?;
        switch("failing", &good)?;
        drop(wdev);
        let wdev = Wdev::again()?;
        fio(device, 4)?;
        wdev.wdevc(&["force-checkpoint", NAME])?;
        same(device, &pair.data, SECTORS * 512)?;
        front_end.detach(wdev)?;
        run("dmsetup", &["remove", "failing"])?;
    }
    Ok(())
}
