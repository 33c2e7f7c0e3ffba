//! What crosses the driver's ioctls: three requests, one struct, thirty commands. All in the machine's own byte order, with
//! 64-bit pointers.

use std::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The driver's letter in its ioctl numbers.
const MAGIC: u32 = 0xfe;
const READ: u32 = 2;
const WRITE: u32 = 1;

/// Asks for the driver's version: a `u32`, `major << 16 | minor << 8 | patch`. On the control node and on devices.
pub const VERSION: u32 = request(READ, 0, size_of::<u32>());
/// A [`Ctl`] on the control node.
pub const CONTROL: u32 = request(READ | WRITE, 1, size_of::<Ctl>());
/// A [`Ctl`] on a device.
pub const WDEV: u32 = request(READ | WRITE, 2, size_of::<Ctl>());

const fn request(direction: u32, number: u32, size: usize) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "at most 120; asserted below")]
    let size = size as u32;
    direction << 30 | size << 16 | MAGIC << 8 | number
}

/// Device numbers and a buffer, in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Half {
    /// The WalB device.
    pub wmajor: u32,
    /// Its minor number.
    pub wminor: u32,
    /// The log device.
    pub lmajor: u32,
    /// Its minor number.
    pub lminor: u32,
    /// The data device.
    pub dmajor: u32,
    /// Its minor number.
    pub dminor: u32,
    /// Bytes of the buffer; 0: none.
    pub buf_size: u64,
    /// Its address; filled in by whoever makes the system call.
    pub buf: u64,
    kbuf: u64,
}

/// The argument of [`CONTROL`] and [`WDEV`], and the answer in the same place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ctl {
    command: i32,
    /// A number or truth value.
    pub val_int: i32,
    /// An lsid, or a count of blocks or seconds.
    pub val_u64: u64,
    /// Milliseconds.
    pub val_u32: u32,
    /// Set by some commands that fail.
    pub error: i32,
    /// To the driver.
    pub u2k: Half,
    /// From the driver.
    pub k2u: Half,
}

const _: () = {
    assert!(
        size_of::<usize>() == 8,
        "the driver's interface has 64-bit pointers"
    );
    assert!(size_of::<Half>() == 48 && offset_of!(Half, dminor) == 20 && offset_of!(Half, buf_size) == 24);
    assert!(offset_of!(Half, buf) == 32 && offset_of!(Half, kbuf) == 40);
    assert!(size_of::<Ctl>() == 120 && offset_of!(Ctl, val_int) == 4 && offset_of!(Ctl, val_u64) == 8);
    assert!(offset_of!(Ctl, val_u32) == 16 && offset_of!(Ctl, error) == 20);
    assert!(offset_of!(Ctl, u2k) == 24 && offset_of!(Ctl, k2u) == 72);
    assert!(VERSION == 0x8004_fe00 && CONTROL == 0xc078_fe01 && WDEV == 0xc078_fe02);
};

impl Ctl {
    /// Everything zero but the command.
    pub fn new(command: Command) -> Self {
        Self {
            command: command as i32,
            ..Self::default()
        }
    }

    /// With a 64-bit value.
    #[must_use]
    pub fn with_u64(mut self, value: u64) -> Self {
        self.val_u64 = value;
        self
    }
}

/// What a [`Ctl`] asks for. The numbers left out are not implemented by the driver, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Command {
    /// Starts a device. Control node.
    StartDev = 1,
    /// Stops a device, `val_int != 0`: also one in use. Control node.
    StopDev = 2,
    /// The block major number. Control node.
    GetMajor = 3,
    /// The devices of a range of minor numbers. Control node.
    ListDev = 4,
    /// How many devices there are. Control node.
    NumOfDev = 5,
    /// `val_u64`: the log below is released.
    GetOldestLsid = 6,
    /// Releases the log below `val_u64`.
    SetOldestLsid = 7,
    /// `val_u32`: ms between automatic checkpoints.
    GetCheckpointInterval = 16,
    /// Records what is on the data device.
    TakeCheckpoint = 17,
    /// Sets what [`Command::GetCheckpointInterval`] gets.
    SetCheckpointInterval = 18,
    /// `val_u64`: the log below is on the data device.
    GetWrittenLsid = 19,
    /// `val_u64`: the log below is durable.
    GetPermanentLsid = 20,
    /// `val_u64`: the log below is written.
    GetCompletedLsid = 21,
    /// `val_u64`: physical blocks of log.
    GetLogUsage = 22,
    /// `val_u64`: physical blocks of the ring.
    GetLogCapacity = 23,
    /// `val_int`: the log device honours flushes.
    IsFlushCapable = 24,
    /// Grows the device to `val_u64` logical blocks, 0: the data device's size.
    Resize = 25,
    /// Drops all log.
    ClearLog = 26,
    /// `val_int`: log was overwritten before it was released.
    IsLogOverflow = 27,
    /// Holds back writes, for `val_u64` seconds or (0) until melted.
    Freeze = 28,
    /// Ends a freeze.
    Melt = 29,
    /// `val_int`: writes are held back.
    IsFrozen = 30,
}
