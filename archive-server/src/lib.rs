//! archive-server
