//! walb-storage as a process, on a real walb-wdev device, between a proxy and an archive made by hand that verify every
//! byte that arrives.
//!
//! What must hold in every scenario: the image of the backup plus the wlogs, applied in the order of their gids without a
//! gap, is the device.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends"
)]

mod backup;
mod commands;
mod crash;
mod delivery;
mod support;
