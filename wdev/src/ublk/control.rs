//! `/dev/ublk-control`: one command at a time, none waited for without end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::uapi::{ControlCommand, NO_QUEUE};

const NODE: &str = "/dev/ublk-control";
/// No command takes this long unless the kernel has lost its way.
const WITHIN: Duration = Duration::from_secs(30);

/// The control device, open.
pub struct Control {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    node: File,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The kernel refuses it.
    #[error("ublk command {command} for device {device}")]
    Refused {
        /// Its name.
        command: &'static str,
        /// The device's number.
        device: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not end in time; the device may be half of what was asked for.
    #[error("ublk command {command} for device {device} has not ended after {} s", WITHIN.as_secs())]
    TimedOut {
        /// Its name.
        command: &'static str,
        /// The device's number.
        device: u32,
    },
    /// `io_uring` does not work.
    #[error("io_uring for {NODE}")]
    Ring(#[source] io::Error),
}

impl CommandError {
    /// The error number of a refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::TimedOut { .. } | Self::Ring(_) => None,
        }
    }
}

/// What to ask for.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// As the kernel calls it.
    pub name: &'static str,
    /// Its number.
    pub op: u32,
    /// For which device; `u32::MAX` for none.
    pub device: u32,
    /// A number that goes with it.
    pub data: u64,
}

impl Control {
    /// Opens the device: `NotFound` where the kernel has no ublk.
    pub fn open() -> io::Result<Self> {
        let node = OpenOptions::new().read(true).write(true).open(NODE)?;
        let ring = IoUring::builder().build(4)?;
        Ok(Self { ring, node })
    }

    /// A command without a buffer.
    pub fn run(&mut self, command: Command) -> Result<(), CommandError> {
        self.exchange(command, Box::new(0_u8), 0).map(drop)
    }

    /// A command that reads `value`, or writes it, or both.
    pub fn with<T>(&mut self, command: Command, value: T) -> Result<T, CommandError>
    where
        T: FromBytes + IntoBytes + Immutable + 'static,
    {
        let len = u16::try_from(size_of::<T>()).unwrap_or(u16::MAX);
        self.exchange(command, Box::new(value), len).map(|value| *value)
    }

    fn exchange<T: FromZeros + IntoBytes + Immutable>(
        &mut self,
        Command {
            name,
            op,
            device,
            data,
        }: Command,
        mut value: Box<T>,
        len: u16,
    ) -> Result<Box<T>, CommandError> {
        let addr = if len == 0 {
            0
        } else {
            (&raw mut *value).expose_provenance() as u64
        };
        let stored = ControlCommand {
            dev_id: device,
            queue_id: NO_QUEUE,
            len,
            addr,
            data,
            ..ControlCommand::default()
        };
        let mut bytes = [0; 80];
        bytes[..size_of::<ControlCommand>()].copy_from_slice(stored.as_bytes());
        let entry = opcode::UringCmd80::new(Fd(self.node.as_raw_fd()), op)
            .cmd(bytes)
            .build();
        // SAFETY: the kernel reads and writes `len` bytes at `addr`, which is the whole of `value`. It is dropped only after
        // the command has ended; where that is not known it is never dropped. The file outlives the ring's use of it: an
        // entry holds its own reference from its submission on.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return Err(CommandError::Ring(io::Error::other("the queue is full")));
        }
        let result = self.ended();
        match result {
            Ok(Some(result)) if result >= 0 => Ok(value),
            Ok(Some(result)) => Err(CommandError::Refused {
                command: name,
                device,
                source: io::Error::from_raw_os_error(-result),
            }),
            Ok(None) => {
                std::mem::forget(value);
                Err(CommandError::TimedOut {
                    command: name,
                    device,
                })
            }
            Err(error) => {
                std::mem::forget(value);
                Err(CommandError::Ring(error))
            }
        }
    }

    /// Submits what was pushed and waits for its result; `None` after [`WITHIN`].
    fn ended(&mut self) -> io::Result<Option<i32>> {
        let timespec = Timespec::from(WITHIN);
        loop {
            let waited = self
                .ring
                .submitter()
                .submit_with_args(1, &SubmitArgs::new().timespec(&timespec));
            if let Some(entry) = self.ring.completion().next() {
                return Ok(Some(entry.result()));
            }
            match waited {
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }
}
