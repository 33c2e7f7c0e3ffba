//! wdev
