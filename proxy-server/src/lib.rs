//! proxy-server

pub mod reaction;
