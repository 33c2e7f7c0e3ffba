//! A ublk device's life: found or added, started or taken over, left behind or removed.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use walb_common::disk::fault;
use walb_common::types::LB_SIZE;

use super::control::{Command, CommandError, Control};
use super::queue::Queue;
use super::uapi::{
    self, ATTR_FUA, ATTR_VOLATILE_CACHE, DeviceInfo, F_CMD_IOCTL_ENCODE, F_UPDATE_SIZE, F_USER_COPY,
    F_USER_RECOVERY, F_USER_RECOVERY_REISSUE, PARAM_BASIC, PARAM_DISCARD, Params, STATE_DEAD, STATE_LIVE,
    STATE_QUIESCED,
};
use crate::block::BlockDevice;

/// Requests at once.
const DEPTH: u16 = 64;
/// Longest request: with all tags in use 32 MiB are in flight.
const BYTES_MAX: u32 = 512 << 10;
/// Longest discard and longest write of zeros in one request; zeros are logged like data.
const DISCARD_SECTORS_MAX: u32 = 1 << 21;
const ZEROES_SECTORS_MAX: u32 = 1 << 13;
/// What the driver must be able to do.
const NEEDED: u64 = F_USER_RECOVERY | F_USER_RECOVERY_REISSUE | F_CMD_IOCTL_ENCODE | F_USER_COPY;
/// Earlier kernels can crash when a device is taken over twice (CVE-2024-46735).
const OLDEST_KERNEL: (u32, u32) = (6, 12);
/// The last owner of a device is given so long to go away.
const LEAVES_WITHIN: Duration = Duration::from_secs(30);

const ENODEV: i32 = 19;
const EEXIST: i32 = 17;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;

/// Why there is no ublk device.
#[derive(Debug, thiserror::Error)]
pub enum UblkError {
    /// The kernel has none.
    #[error(
        "this kernel has no ublk (no /dev/ublk-control; `modprobe ublk_drv` where it is a module): use NBD or FUSE instead"
    )]
    NoUblk,
    /// The kernel's is not good enough.
    #[error("ublk of this kernel is not usable ({reason}): use NBD or FUSE instead")]
    Unusable {
        /// What it lacks.
        reason: String,
    },
    /// The control device cannot be opened.
    #[error("open /dev/ublk-control (as root)")]
    Open(#[source] io::Error),
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The number is taken.
    #[error("/dev/ublkb{number} is in use: {by}")]
    InUse {
        /// Which.
        number: u32,
        /// Who has it.
        by: String,
    },
    /// The device that was left behind is larger than ours.
    #[error(
        "/dev/ublkb{number} has {found} bytes, but the device has {size}: remove the one or grow the other"
    )]
    Size {
        /// Which.
        number: u32,
        /// Its bytes.
        found: u64,
        /// Ours.
        size: u64,
    },
    /// The queue does not start.
    #[error("serve /dev/ublkc{number}")]
    Queue {
        /// Which.
        number: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A ublk device that is served.
pub struct UblkDevice {
    number: u32,
    control: Mutex<Control>,
    queue: Mutex<Option<Queue>>,
    can_grow: bool,
}

impl UblkDevice {
    /// Serves `device` as `/dev/ublkb{number}`: takes the one over that an earlier process left under this number, or adds it.
    /// `mark` tells our devices from those of others, and must stay the same.
    pub fn serve(
        device: Arc<dyn BlockDevice>,
        name: &str,
        number: u32,
        mark: u64,
    ) -> Result<Self, UblkError> {
        let (mut control, features) = probe()?;
        let queue = match settle(&mut control, number, mark)? {
            Some(info) => take_over(&mut control, device, name, &info)?,
            None => add(&mut control, device, name, number, mark)?,
        };
        Ok(Self {
            number,
            control: Mutex::new(control),
            queue: Mutex::new(Some(queue)),
            can_grow: features & F_UPDATE_SIZE != 0,
        })
    }

    /// Tells the kernel that the device has grown. `false` where it cannot be told: the node keeps its size until it is removed.
    pub fn grow(&self, size: u64) -> Result<bool, UblkError> {
        if self.can_grow {
            let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            control.run(Command {
                data: size / LB_SIZE,
                ..command("UPDATE_SIZE", uapi::UPDATE_SIZE, self.number)
            })?;
        }
        Ok(self.can_grow)
    }

    /// Removes the device: whoever still uses it gets errors.
    pub fn remove(&self) -> Result<(), UblkError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        // Requests in flight are answered meanwhile.
        let stopped = control.run(command("STOP_DEV", uapi::STOP_DEV, self.number));
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        stopped?;
        if let Some(queue) = queue {
            queue.stopped(LEAVES_WITHIN);
        }
        control.run(command("DEL_DEV_ASYNC", uapi::DEL_DEV_ASYNC, self.number))?;
        Ok(())
    }
}

/// Removes a device that an earlier process left behind, if it is marked as ours.
pub fn remove_left(number: u32, mark: u64) -> Result<(), UblkError> {
    let (mut control, _) = probe()?;
    if let Some(info) = find(&mut control, number)?
        && info.ublksrv_flags == mark
    {
        control.run(command("STOP_DEV", uapi::STOP_DEV, number))?;
        control.run(command("DEL_DEV_ASYNC", uapi::DEL_DEV_ASYNC, number))?;
    }
    Ok(())
}

fn command(name: &'static str, op: u32, device: u32) -> Command {
    let data = 0;
    Command {
        name,
        op,
        device,
        data,
    }
}

/// The control device, and what the driver can do; refuses kernels that would not do.
fn probe() -> Result<(Control, u64), UblkError> {
    let mut control = Control::open().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => UblkError::NoUblk,
        _ => UblkError::Open(e),
    })?;
    let unusable = |reason| Err(UblkError::Unusable { reason });
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    if version(&release).is_none_or(|found| found < OLDEST_KERNEL) {
        let (major, minor) = OLDEST_KERNEL;
        return unusable(format!("Linux {release}, expected {major}.{minor} or later"));
    }
    let features = control.with(command("GET_FEATURES", uapi::GET_FEATURES, u32::MAX), 0_u64)?;
    if features & NEEDED != NEEDED {
        return unusable(format!("it has features {features:#x}, expected {NEEDED:#x}"));
    }
    Ok((control, features))
}

/// The first two numbers of a release as `uname` has it.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn find(control: &mut Control, number: u32) -> Result<Option<DeviceInfo>, CommandError> {
    let asked = control.with(
        command("GET_DEV_INFO", uapi::GET_DEV_INFO, number),
        DeviceInfo::default(),
    );
    match asked {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.errno() == Some(ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A device under this number that can be taken over; `None` once there is none at all.
fn settle(control: &mut Control, number: u32, mark: u64) -> Result<Option<DeviceInfo>, UblkError> {
    let in_use = |by| Err(UblkError::InUse { number, by });
    let deadline = Instant::now() + LEAVES_WITHIN;
    loop {
        let Some(info) = find(control, number)? else {
            return Ok(None);
        };
        if info.ublksrv_flags != mark {
            return in_use("it was not made for this device; choose another number".to_owned());
        }
        match info.state {
            STATE_QUIESCED => return Ok(Some(info)),
            // Never started: nobody has seen it.
            STATE_DEAD => match control.run(command("DEL_DEV_ASYNC", uapi::DEL_DEV_ASYNC, number)) {
                Ok(()) => {}
                Err(error) if error.errno() == Some(ENODEV) => {}
                Err(error) => return Err(error.into()),
            },
            STATE_LIVE => {}
            state => return in_use(format!("it is in state {state}")),
        }
        // The kernel is still letting go of the process that had it.
        if Instant::now() > deadline {
            return in_use(format!("process {} has not let go of it", info.ublksrv_pid));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Repeats what the kernel refuses while it still lets go of the last owner.
fn when_free(mut ask: impl FnMut() -> Result<(), CommandError>, busy: i32) -> Result<(), CommandError> {
    let deadline = Instant::now() + LEAVES_WITHIN;
    loop {
        match ask() {
            Err(error) if error.errno() == Some(busy) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            ended => return ended,
        }
    }
}

fn start_queue(device: Arc<dyn BlockDevice>, name: &str, info: &DeviceInfo) -> Result<Queue, UblkError> {
    let number = info.dev_id;
    let node = open_node(number).map_err(failed_at(number))?;
    Queue::start(device, node, info.queue_depth, info.max_io_buf_bytes, name).map_err(failed_at(number))
}

/// Opens `/dev/ublkcN`; udev may be about to make it.
fn open_node(number: u32) -> io::Result<File> {
    let deadline = Instant::now() + LEAVES_WITHIN;
    loop {
        match OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/dev/ublkc{number}"))
        {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy
                ) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

fn failed_at(number: u32) -> impl FnOnce(io::Error) -> UblkError {
    move |source| UblkError::Queue { number, source }
}

fn process() -> u64 {
    std::process::id().into()
}

fn add(
    control: &mut Control,
    device: Arc<dyn BlockDevice>,
    name: &str,
    number: u32,
    mark: u64,
) -> Result<Queue, UblkError> {
    let wanted = DeviceInfo {
        nr_hw_queues: 1,
        queue_depth: DEPTH,
        max_io_buf_bytes: BYTES_MAX,
        dev_id: number,
        ublksrv_pid: i32::try_from(std::process::id()).unwrap_or(i32::MAX),
        flags: NEEDED,
        ublksrv_flags: mark,
        ..DeviceInfo::default()
    };
    let mut info = wanted;
    // The number may still belong to one that is being removed.
    when_free(
        || {
            info = control.with(command("ADD_DEV", uapi::ADD_DEV, number), wanted)?;
            Ok(())
        },
        EEXIST,
    )?;
    let started = fault::point("wdev.ublk.added")
        .map_err(failed_at(number))
        .and_then(|()| {
            let params = params(&*device);
            control.with(command("SET_PARAMS", uapi::SET_PARAMS, number), params)?;
            let queue = start_queue(device, name, &info)?;
            control.run(Command {
                data: process(),
                ..command("START_DEV", uapi::START_DEV, number)
            })?;
            Ok(queue)
        });
    match started {
        Ok(queue) => fault::point("wdev.ublk.started")
            .map_err(failed_at(number))
            .map(|()| queue),
        Err(error) => {
            // Nobody has seen it. What is left is removed by the next start.
            let _ = control.run(command("DEL_DEV_ASYNC", uapi::DEL_DEV_ASYNC, number));
            Err(error)
        }
    }
}

fn take_over(
    control: &mut Control,
    device: Arc<dyn BlockDevice>,
    name: &str,
    info: &DeviceInfo,
) -> Result<Queue, UblkError> {
    let number = info.dev_id;
    let kept = Params {
        len: Params::LEN,
        ..Params::default()
    };
    let kept = control.with(command("GET_PARAMS", uapi::GET_PARAMS, number), kept)?;
    let (found, size) = (kept.dev_sectors.saturating_mul(LB_SIZE), device.size());
    if found > size {
        return Err(UblkError::Size { number, found, size });
    }
    let begin = command("START_USER_RECOVERY", uapi::START_USER_RECOVERY, number);
    match when_free(|| control.run(begin), EBUSY) {
        Ok(()) => {}
        // An earlier process began and did not end it.
        Err(error) if error.errno() == Some(EINVAL) => {}
        Err(error) => return Err(error.into()),
    }
    fault::point("wdev.ublk.recovery_begun").map_err(failed_at(number))?;
    let queue = start_queue(device, name, info)?;
    fault::point("wdev.ublk.recovery_ready").map_err(failed_at(number))?;
    control.run(Command {
        data: process(),
        ..command("END_USER_RECOVERY", uapi::END_USER_RECOVERY, number)
    })?;
    tracing::info!(device = name, "took over /dev/ublkb{number}");
    Ok(queue)
}

fn params(device: &dyn BlockDevice) -> Params {
    let pbs = device.pbs().bytes();
    let pbs_shift = u8::try_from(pbs.trailing_zeros()).unwrap_or(9);
    Params {
        len: Params::LEN,
        types: PARAM_BASIC | PARAM_DISCARD,
        attrs: ATTR_VOLATILE_CACHE | ATTR_FUA,
        logical_bs_shift: 9,
        physical_bs_shift: pbs_shift,
        io_opt_shift: pbs_shift,
        io_min_shift: pbs_shift,
        max_sectors: BYTES_MAX / 512,
        dev_sectors: device.size() / LB_SIZE,
        discard_granularity: u32::try_from(pbs).unwrap_or(512),
        max_discard_sectors: DISCARD_SECTORS_MAX,
        max_write_zeroes_sectors: ZEROES_SECTORS_MAX,
        max_discard_segments: 1,
        ..Params::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_compare_as_numbers() {
        assert_eq!(version("6.12.95+deb12-amd64"), Some((6, 12)));
        assert!(version("6.9.1").unwrap() < OLDEST_KERNEL);
        assert!(version("7.0-rc1").unwrap() > OLDEST_KERNEL);
        assert_eq!(version("linux"), None);
    }
}
