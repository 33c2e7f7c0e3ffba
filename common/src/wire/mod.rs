//! The data plane and who may speak on it.
//!
//! ```text
//! TCP -> TLS 1.3, both sides with certificates (tls, identity, pki)
//!     -> HTTP/1.1: REST requests (client; the server side is daemon::server)
//!     -> "Upgrade: walb/1": frames (frame), with handshake, credit, deadlines (stream)
//! ```
//! One port per daemon. A stream is an HTTP request that upgrades, so it has the same identity and the same
//! authorisation as REST. Byte table of the frames: docs/formats/wire.md.

pub mod client;
pub mod frame;
pub mod identity;
pub mod message;
pub mod pki;
pub mod stream;
pub mod tls;

/// The token of the HTTP upgrade that starts a stream.
pub const UPGRADE_PROTOCOL: &str = "walb/1";

/// Version of the frames and messages of a stream; settled in the handshake.
pub const STREAM_VERSION: u32 = 1;
