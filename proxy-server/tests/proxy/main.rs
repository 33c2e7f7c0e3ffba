//! Goal: what a guest wrote reaches every archive, whatever the archives answer and however the proxy is restarted.
//! Method: a hand-made storage and hand-made archives around a proxy in this process; images are compared.
#![expect(clippy::unwrap_used, reason = "tests")]

mod commands;
mod delivers;
mod receives;
mod starts;
#[path = "../support/mod.rs"]
mod support;

use support::archive::Archive;
use support::storage::Storage;
use support::{Proxy, Site};
use walb_common::types::PhysicalBlockSize;

const PBS: PhysicalBlockSize = PhysicalBlockSize::B512;

/// A started volume with one archive.
async fn volume(site: &Site, proxy: &Proxy, archive: &Archive) -> Storage {
    proxy.add("vol0", "a0", &archive.address).await;
    proxy.start_volume("vol0").await;
    Storage::new(site, "vol0", 1, PBS)
}
