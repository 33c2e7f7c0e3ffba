//! storage-server
