//! Memory that stays in memory.
//!
//! When the kernel is short of memory it writes dirty pages, those of file systems on our devices too, and waits for us. If we
//! then had to wait for a page of our own that was taken from us, nobody would go on. Pages are locked when they are first
//! touched, not before: stacks and heaps are far larger than what is used of them.

use rustix::mm::{MlockAllFlags, mlockall};

/// Which memory of the process is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LockMemory {
    /// None.
    None,
    /// The program, its libraries and what it needs at its start, as far as they are used: without swap nothing else can be
    /// taken from a process.
    Code,
    /// Everything that is used. Memory that has been used once is then not given back before the process ends.
    All,
}

impl LockMemory {
    /// At the start of the process, when nearly all there is is its code.
    pub fn at_start(self) {
        if self == Self::Code {
            lock(MlockAllFlags::CURRENT);
        }
    }

    /// When all devices are open, before anybody uses them: what their redo needed has gone back by then.
    pub fn when_open(self) {
        if self == Self::All {
            lock(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
        }
    }
}

fn lock(which: MlockAllFlags) {
    if let Err(error) = mlockall(which | MlockAllFlags::ONFAULT) {
        tracing::warn!("memory is not locked and may be paged out: {error} (see --lock-memory)");
    }
}

/// Gives pages of the heap back to the system that hold nothing, so that a thousand devices that each had a busy hour need no
/// more than those that had none. What is locked stays, as far as the heap does not shrink at its end.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
