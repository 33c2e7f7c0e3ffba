//! Layouts and numbers of `linux/ublk_cmd.h` (Linux 6.12). All fields are in the machine's byte order.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A control command, inside the submission queue entry (`struct ublksrv_ctrl_cmd`).
#[derive(Debug, Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub struct ControlCommand {
    pub dev_id: u32,
    /// Always [`NO_QUEUE`]: our commands are for a device.
    pub queue_id: u16,
    /// Bytes at `addr`.
    pub len: u16,
    pub addr: u64,
    pub data: u64,
    pub dev_path_len: u16,
    pub pad: u16,
    pub reserved: u32,
}

/// What a device is (`struct ublksrv_ctrl_dev_info`).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceInfo {
    pub nr_hw_queues: u16,
    pub queue_depth: u16,
    pub state: u16,
    pub pad0: u16,
    pub max_io_buf_bytes: u32,
    pub dev_id: u32,
    pub ublksrv_pid: i32,
    pub pad1: u32,
    pub flags: u64,
    /// Not looked at by the driver: ours to recognise our devices.
    pub ublksrv_flags: u64,
    pub owner_uid: u32,
    pub owner_gid: u32,
    pub reserved1: u64,
    pub reserved2: u64,
}

/// What its disk is like (`struct ublk_params`, as far as `discard`).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Params {
    /// Bytes that count: [`Params::LEN`].
    pub len: u32,
    pub types: u32,
    pub attrs: u32,
    pub logical_bs_shift: u8,
    pub physical_bs_shift: u8,
    pub io_opt_shift: u8,
    pub io_min_shift: u8,
    pub max_sectors: u32,
    pub chunk_sectors: u32,
    pub dev_sectors: u64,
    pub virt_boundary_mask: u64,
    pub discard_alignment: u32,
    pub discard_granularity: u32,
    pub max_discard_sectors: u32,
    pub max_write_zeroes_sectors: u32,
    pub max_discard_segments: u16,
    pub reserved0: u16,
    /// Only so that this struct has no hidden bytes.
    pub tail: u32,
}

impl Params {
    /// Without `tail`.
    pub const LEN: u32 = 60;
}

/// A request, in memory shared with the driver (`struct ublksrv_io_desc`).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// Bits 0 to 7: what; from bit 8 on: how.
    pub op_flags: u32,
    pub nr_sectors: u32,
    pub start_sector: u64,
    pub addr: u64,
}

/// Asks for a request, and answers one (`struct ublksrv_io_cmd`).
#[derive(Debug, Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub struct IoCommand {
    pub q_id: u16,
    pub tag: u16,
    /// Bytes moved, or a negative errno.
    pub result: i32,
    pub addr: u64,
}

const _: () = assert!(size_of::<ControlCommand>() == 32 && std::mem::offset_of!(ControlCommand, data) == 16);
const _: () = assert!(size_of::<DeviceInfo>() == 64 && std::mem::offset_of!(DeviceInfo, flags) == 24);
const _: () = assert!(std::mem::offset_of!(Params, dev_sectors) == 24);
const _: () = assert!(std::mem::offset_of!(Params, discard_alignment) == 40);
const _: () = assert!(std::mem::offset_of!(Params, tail) == Params::LEN as usize);
const _: () = assert!(size_of::<Request>() == 24 && size_of::<IoCommand>() == 16);

/// For commands that are not about one queue.
pub const NO_QUEUE: u16 = u16::MAX;

/// The kernel's `_IOR('u', nr, struct)`.
const fn read(nr: u32, len: usize) -> u32 {
    encode(2, nr, len)
}
/// The kernel's `_IOWR('u', nr, struct)`.
const fn both(nr: u32, len: usize) -> u32 {
    encode(3, nr, len)
}
#[allow(clippy::cast_possible_truncation)] // sizes of structs above
const fn encode(direction: u32, nr: u32, len: usize) -> u32 {
    direction << 30 | (len as u32) << 16 | (b'u' as u32) << 8 | nr
}

const CONTROL: usize = size_of::<ControlCommand>();
pub const GET_FEATURES: u32 = read(0x13, CONTROL);
pub const GET_DEV_INFO: u32 = read(0x02, CONTROL);
pub const ADD_DEV: u32 = both(0x04, CONTROL);
pub const START_DEV: u32 = both(0x06, CONTROL);
pub const STOP_DEV: u32 = both(0x07, CONTROL);
pub const SET_PARAMS: u32 = both(0x08, CONTROL);
pub const GET_PARAMS: u32 = read(0x09, CONTROL);
pub const START_USER_RECOVERY: u32 = both(0x10, CONTROL);
pub const END_USER_RECOVERY: u32 = both(0x11, CONTROL);
pub const DEL_DEV_ASYNC: u32 = read(0x14, CONTROL);
pub const UPDATE_SIZE: u32 = both(0x15, CONTROL);
pub const FETCH_REQ: u32 = both(0x20, size_of::<IoCommand>());
pub const COMMIT_AND_FETCH_REQ: u32 = both(0x21, size_of::<IoCommand>());

pub const F_USER_RECOVERY: u64 = 1 << 3;
pub const F_USER_RECOVERY_REISSUE: u64 = 1 << 4;
pub const F_CMD_IOCTL_ENCODE: u64 = 1 << 6;
pub const F_USER_COPY: u64 = 1 << 7;
pub const F_UPDATE_SIZE: u64 = 1 << 10;

pub const STATE_DEAD: u16 = 0;
pub const STATE_LIVE: u16 = 1;
pub const STATE_QUIESCED: u16 = 2;

pub const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
pub const ATTR_FUA: u32 = 1 << 3;
pub const PARAM_BASIC: u32 = 1;
pub const PARAM_DISCARD: u32 = 1 << 1;

pub const OP_READ: u32 = 0;
pub const OP_WRITE: u32 = 1;
pub const OP_FLUSH: u32 = 2;
pub const OP_DISCARD: u32 = 3;
pub const OP_WRITE_ZEROES: u32 = 5;
pub const OP_MASK: u32 = 0xff;
pub const IO_FUA: u32 = 1 << 13;
pub const IO_NO_UNMAP: u32 = 1 << 15;

/// Where the data of a request are, in `/dev/ublkcN`.
pub fn data_position(tag: u16) -> u64 {
    0x8000_0000 + (u64::from(tag) << 25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel_header() {
        // Computed by a C compiler from linux/ublk_cmd.h.
        assert_eq!(GET_FEATURES, 0x8020_7513);
        assert_eq!(ADD_DEV, 0xc020_7504);
        assert_eq!(DEL_DEV_ASYNC, 0x8020_7514);
        assert_eq!(END_USER_RECOVERY, 0xc020_7511);
        assert_eq!(FETCH_REQ, 0xc010_7520);
        assert_eq!(COMMIT_AND_FETCH_REQ, 0xc010_7521);
        assert_eq!(data_position(3), 0x8600_0000);
    }
}
