//! The protocol of the control socket: one request at a time per connection, each answered once.
//!
//! ```text
//!  request:   length (u32 LE, at most 64 KiB)   MessagePack Request
//!  response:  length (u32 LE, at most 1 MiB)    MessagePack Response   raw bulk bytes (Response::bulk of them)
//! ```
//! The socket has mode 0600: whoever may open it may control the devices.

pub mod frame;
pub mod message;
