//! Whole-system tests: the real binaries as child processes, real TLS, real devices, an oracle of their own.
//!
//! ```text
//! Guest --NBD--> walb-wdev <--- walb-storage ---> walb-proxy ---> walb-archive ---> restored image
//!   |                |                                                                   |
//!   model            +-- capture(): the device read over NBD while the guest pauses -----+-- compared byte for byte
//! ```
//! What a unit test could show is not tested here.

pub mod binaries;
pub mod cluster;
pub mod daemon;
pub mod guest;
pub mod image;
pub mod mounted;
pub mod pki;
pub mod ports;
pub mod postgres;
pub mod protected;
pub mod wait;

pub use cluster::{Cluster, Options, Role, VolumeSpec};
pub use guest::Guest;
pub use protected::Recorded;
