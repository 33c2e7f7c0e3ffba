//! What a server offers: names and the devices behind them. Devices come and go while the server runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::protocol::flag;
use crate::block::BlockDevice;

/// A device under a name.
pub struct Export {
    name: String,
    description: String,
    device: Arc<dyn BlockDevice>,
    read_only: bool,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl Export {
    /// A writable export.
    pub fn new(name: &str, device: Arc<dyn BlockDevice>) -> Self {
        let description = format!("WalB device {name}");
        Self {
            name: name.to_owned(),
            description,
            device,
            read_only: false,
        }
    }

    /// The same export, refusing every change.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The name a client asks for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Text for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The device behind it.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.device.size()
    }

    pub(super) fn refuses_writes(&self) -> bool {
        self.read_only || self.device.read_only()
    }

    /// Smaller requests than a page cost the guest's page cache a read; smaller than a physical block, log space.
    pub(super) fn preferred_block(&self) -> u32 {
        u32::from(self.device.pbs()).max(4096)
    }

    /// `CAN_MULTI_CONN` is true because all connections share one device: a flush makes durable whatever was answered
    /// on any of them. `SEND_FAST_ZERO` is not set: zeroes may be logged like data.
    pub(super) fn transmission_flags(&self, structured: bool) -> u16 {
        let mut flags =
            flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
        if self.refuses_writes() {
            flags |= flag::READ_ONLY;
        } else {
            flags |= flag::SEND_TRIM | flag::SEND_WRITE_ZEROES;
        }
        if structured {
            flags |= flag::SEND_DF; // every read is answered in one chunk anyway
        }
        flags
    }
}

/// The exports of a server, shared with whoever adds and removes devices.
#[derive(Debug, Default)]
pub struct Exports {
    list: RwLock<Vec<Arc<Export>>>,
}

impl Exports {
    /// None yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Adds an export, in place of one of the same name. Connections to the old one keep it.
    pub fn add(&self, export: Export) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|e| e.name != export.name);
        list.push(Arc::new(export));
    }

    /// Removes an export; true if it was there. Connections to it keep it: see `NbdServer::disconnect`.
    pub fn remove(&self, name: &str) -> bool {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let before = list.len();
        list.retain(|e| e.name != name);
        list.len() < before
    }

    /// Every name, in the order of adding.
    pub fn names(&self) -> Vec<String> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().map(|e| e.name.clone()).collect()
    }

    /// The export of that name. The empty name is the default export, which exists only while there is exactly one
    /// export: with several, guessing could let a client write to the wrong device.
    pub fn find(&self, name: &str) -> Option<Arc<Export>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        match (name, list.as_slice()) {
            ("", [only]) => Some(only.clone()),
            _ => list.iter().find(|e| e.name == name).cloned(),
        }
    }
}
