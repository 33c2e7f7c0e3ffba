//! NBD front-end: block devices to anything that speaks the Network Block Device protocol.
//!
//! ```text
//!  accept --> handshake (choose an export) --> transmission: requests --> BlockDevice::submit
//!                                               window <-- answers <------ its callbacks
//!                                                 +--> writer thread --> socket
//! ```
//!
//! - [`Exports`]: what is offered; shared with whoever adds and removes devices.
//! - [`NbdServer`]: fixed newstyle, structured replies, flush, FUA, trim, write zeroes, several connections at once.
//! - [`client::NbdClient`]: a small blocking client.
//!
//! Nothing a client does can stall the device, another client, or fill memory: see `window` and `handshake`.

pub mod client;
mod exports;
mod handshake;
pub mod protocol;
mod server;
#[cfg(feature = "testing")]
pub mod testing;
mod transmission;
mod transport;
mod window;

pub use exports::{Export, Exports};
pub use server::{NbdLimits, NbdListenError, NbdServer};
pub use transport::{Listener, Transport};
