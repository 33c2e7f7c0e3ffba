//! A volume of block devices, backed up and restored.

use anyhow::{Context, Result, ensure};

use super::daemon::{NAME, Pair, Wdev};
use super::end_it::{ends_well, goes_on, write_to};
use super::filesystem::Kind;
use super::front_end::FrontEnd;
use super::servers::Servers;
use super::tools::{MOUNTPOINT, disk, linear, mount_on, mount_store, run, same, unmount_from, until};

/// Where the servers and the copies to compare with are.
const STORE: &str = "/store";

/// Backed up while it is written to; a snapshot of the frozen file system is what `dd` read of the device then, whether the
/// archive restores it or the offline tool, the latter onto a block device.
pub fn snapshot_is_what_the_device_held(front_end: FrontEnd, pair: &Pair) -> Result<()> {
    const MIB: u64 = 64;
    run("ip", &["link", "set", "lo", "up"])?;
    mount_store(&disk("store")?, STORE)?;
    let volume = Pair {
        log: pair.log.clone(),
        data: linear("volume", MIB << 11, &pair.data)?,
    };
    let wdev = Wdev::fresh()?;
    wdev.create(&volume, front_end.options())?;
    let device = front_end.attach(&wdev)?;
    Kind::Ext4.make(device)?;
    mount_on(device, Kind::Ext4.name(), MOUNTPOINT)?;

    let servers = Servers::start(&format!("{STORE}/walb"))?;
    servers.register()?;
    let mut writer = write_to(&format!("{MOUNTPOINT}/during-the-backup"), 12)?;
    goes_on(&mut writer, device)?;
    servers.walbc("storage", &["--wait", "full-bkp", NAME])?;
    ends_well(writer)?;

    let mut writer = write_to(&format!("{MOUNTPOINT}/during-the-snapshot"), 12)?;
    goes_on(&mut writer, device)?;
    run("fsfreeze", &["-f", MOUNTPOINT])?;
    let expected = format!("{STORE}/expected");
    let captured = run(
        "dd",
        &[
            &format!("if={device}"),
            &format!("of={expected}"),
            "bs=1M",
            "iflag=direct",
            "conv=sparse",
        ],
    );
    let gid = servers.walbc("storage", &["snapshot", NAME]);
    run("fsfreeze", &["-u", MOUNTPOINT])?;
    captured?;
    let gid = gid?;
    ends_well(writer)?;

    let listed = format!("{gid} ");
    until("the snapshot arrives", || {
        let list = servers.walbc("archive", &["get", "restorable", NAME])?;
        Ok(list.lines().any(|line| line.starts_with(&listed)).then_some(()))
    })?;
    servers.walbc("archive", &["--wait", "restore", NAME, &gid])?;
    let restored = servers.walbc("archive", &["get", "restored-path", NAME, &gid])?;
    same(&restored, &expected, MIB << 20).context("restored by the archive")?;

    // Onto a logical volume, which has held something else.
    let target = linear("target", (MIB + 8) << 11, &Pair::other_than(pair)?.data)?;
    let archive = servers.archive_dir();
    let archive = archive.to_str().context("path is not UTF-8")?;
    let offline = [
        "offline",
        "restore",
        "--archive",
        archive,
        "--volume",
        NAME,
        "--gid",
        &gid,
        "-o",
        &target,
    ];
    ensure!(
        run("walbc", &offline).is_err(),
        "overwrote {target} without --force"
    );
    run("walbc", &[&offline[..], &["--force"]].concat())?;
    same(&target, &expected, MIB << 20).context("restored by the offline tool")?;
    Kind::Ext4.check(&target)?;

    drop(servers);
    unmount_from(MOUNTPOINT)?;
    front_end.detach(wdev)?;
    unmount_from(STORE)?;
    run("dmsetup", &["remove", "target"])?;
    run("dmsetup", &["remove", "volume"]).map(drop)
}
