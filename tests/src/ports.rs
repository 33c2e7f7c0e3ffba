//! Ports that stay ours while a daemon is down: outside the range that outgoing connections take theirs from, and
//! reserved among test processes by a lock file.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

/// A reserved port of the loopback interface.
pub struct Port {
    /// The number.
    pub number: u16,
    _reserved: File,
}

/// Reserves a port.
///
/// # Panics
/// When none is free.
pub fn reserve() -> Port {
    let start: u16 = rand::random_range(0..16_000);
    for step in 0..16_000 {
        let number = 12_000 + (start + step) % 16_000;
        let path = std::env::temp_dir().join(format!("walb-test-port-{number}.lock"));
        let Ok(file) = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
        else {
            continue;
        };
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
            return Port {
                number,
                _reserved: file,
            };
        }
    }
    panic!("no free port between 12000 and 28000")
}

impl Port {
    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
