//! walb-storage as a process, on a real walb-wdev device, between a proxy and an archive made by hand that verify every
//! byte that arrives.
//!
//! What must hold in every scenario: the image of the backup plus the wlogs, applied in the order of their gids without a
//! gap, is the device.

mod backup;
mod commands;
mod crash;
mod delivery;
mod support;
