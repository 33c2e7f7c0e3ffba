//! What a server offers: names and the devices behind them. Devices come and go while the server runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use walb_common::wire::identity::{Identity, Role};

use super::contexts::Context;
use super::protocol::{Errno, flag};
use crate::block::BlockDevice;

/// Clients of one export at once, unless told otherwise.
const CLIENTS_MAX: usize = 64;

/// A device under a name.
pub struct Export {
    name: String,
    description: String,
    device: Arc<dyn BlockDevice>,
    read_only: bool,
    clients_max: usize,
    /// Node ids of the guests that may use it; `None`: whoever can connect.
    guests: Option<Vec<String>>,
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
            clients_max: CLIENTS_MAX,
            guests: None,
        }
    }

    /// The same export, refusing every change.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The same export, for so many clients at once.
    #[must_use]
    pub fn clients_max(mut self, clients: usize) -> Self {
        self.clients_max = clients;
        self
    }

    /// The same export, for those alone whose certificate has the role guest and one of these node ids. To others it does
    /// not exist.
    #[must_use]
    pub fn only_for(mut self, guests: &[String]) -> Self {
        self.guests = Some(guests.to_vec());
        self
    }

    /// Whether `peer` (`None`: who has shown no certificate) may see it.
    fn admits(&self, peer: Option<&Identity>) -> bool {
        match (&self.guests, peer) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(guests), Some(peer)) => peer.role == Role::Guest && guests.contains(&peer.node),
        }
    }

    pub(super) fn most_clients(&self) -> usize {
        self.clients_max
    }

    /// The metadata contexts it has.
    pub(super) fn contexts(&self) -> impl Iterator<Item = Context> + '_ {
        let has_bitmap = self.device.dirty(0, self.size(), 1).is_some();
        Context::ALL
            .into_iter()
            .filter(move |context| *context != Context::Dirty || has_bitmap)
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

    /// Why changes are refused, if they are: an export may not be written to; a device that has failed fails, like a disk.
    pub(super) fn refuses_writes(&self) -> Option<Errno> {
        if self.read_only {
            return Some(Errno::Perm);
        }
        self.device.read_only().then_some(Errno::Io)
    }

    /// Smaller requests than a page cost the guest's page cache a read; smaller than a physical block, log space.
    pub(super) fn preferred_block(&self) -> u32 {
        u32::from(self.device.pbs()).max(4096)
    }

    /// `CAN_MULTI_CONN` is true because all connections share one device: a flush makes durable whatever was answered
    /// on any of them.
    pub(super) fn transmission_flags(&self, structured: bool) -> u16 {
        let mut flags =
            flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
        if self.refuses_writes().is_some() {
            flags |= flag::READ_ONLY;
        } else {
            flags |= flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
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

    /// The names that `peer` may see, in the order of adding.
    pub(super) fn names(&self, peer: Option<&Identity>) -> Vec<String> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter()
            .filter(|e| e.admits(peer))
            .map(|e| e.name.clone())
            .collect()
    }

    /// The export of that name, if `peer` may see it. The empty name is the default export, which exists only while there
    /// is exactly one to see: with several, guessing could let a client write to the wrong device.
    pub(super) fn find(&self, name: &str, peer: Option<&Identity>) -> Option<Arc<Export>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let mut seen = list.iter().filter(|e| e.admits(peer));
        if name.is_empty() {
            let only = seen.next()?;
            return seen.next().is_none().then(|| only.clone());
        }
        seen.find(|e| e.name == name).cloned()
    }

    /// Whether this very export is still offered.
    pub(super) fn offers(&self, export: &Arc<Export>) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().any(|e| Arc::ptr_eq(e, export))
    }
}
