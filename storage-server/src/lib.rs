//! storage-server

pub mod plan;
