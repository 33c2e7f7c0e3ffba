//! NBD front-end: block devices to anything that speaks the Network Block Device protocol.
//!
//! ```text
//!  accept --> handshake (TLS, choose an export) --> transmission: requests --> BlockDevice::submit
//!                                               window <-- answers <------ its callbacks
//!                                                 +--> writer thread --> socket
//! ```
//!
//! - [`Exports`]: what is offered; shared with whoever adds and removes devices.
//! - [`NbdServer`]: fixed newstyle, structured replies, block status, flush, FUA, trim, write zeroes, several connections
//!   at once. On a unix socket in the clear, or inside TLS if the client likes; on TCP inside TLS only, and each device
//!   for the guests named for it.
//! - [`NbdNode`]: the kernel's own client, kept connected: a device as `/dev/nbdN`.
//! - [`client::NbdClient`]: a small blocking client.
//!
//! Nothing a client does can stall the device, another client, or fill memory: see `window` and `handshake`.

mod acceptor;
pub mod client;
mod connection;
mod contexts;
mod exports;
mod handshake;
mod listen;
mod netlink;
mod node;
pub mod protocol;
mod server;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod transmission;
mod transport;
mod window;

pub use exports::{Export, Exports};
pub use listen::{NbdListenError, bind_tcp};
pub use node::{NbdNode, NbdNodeError, remove_left};
pub use server::{NbdLimits, NbdServer};
