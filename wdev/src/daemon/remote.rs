//! Devices over TCP: one port of the daemon for all that have guests, inside TLS.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use walb_common::wire::tls::TlsContext;

use crate::nbd::{Export, Exports, NbdLimits, NbdServer};

/// What a daemon needs for guests on other machines, and for TLS on unix sockets.
#[derive(Default)]
pub struct Network {
    /// Our certificate, and whom we trust. Without it nothing is encrypted, and there is no TCP.
    pub tls: Option<Arc<TlsContext>>,
    /// Bound already. Connections wait there until all devices are open.
    pub listener: Option<TcpListener>,
}

/// What is offered over TCP.
pub(super) struct Remote {
    pub tls: Option<Arc<TlsContext>>,
    exports: Arc<Exports>,
    server: Mutex<Option<NbdServer>>,
}

impl Remote {
    pub fn new(tls: Option<Arc<TlsContext>>) -> Self {
        Self {
            tls,
            exports: Exports::new(),
            server: Mutex::default(),
        }
    }

    /// Begins to accept: from now on whoever connects finds the devices that are open.
    pub fn serve(&self, listener: TcpListener) -> std::io::Result<()> {
        let Some(tls) = self.tls.clone() else {
            return Err(std::io::Error::other("NBD over TCP needs TLS files"));
        };
        let server = NbdServer::serve_tcp(listener, self.exports.clone(), tls, NbdLimits::default())?;
        *self.server() = Some(server);
        Ok(())
    }

    pub fn is_served(&self) -> bool {
        self.server().is_some()
    }

    pub fn add(&self, export: Export) {
        self.exports.add(export);
    }

    pub fn clients(&self, name: &str) -> usize {
        self.server()
            .as_ref()
            .map_or(0, |server| server.connections(name))
    }

    /// Takes a device away from its guests; none of their requests is in flight when this returns.
    pub fn remove(&self, name: &str) {
        if self.exports.remove(name)
            && let Some(server) = &*self.server()
        {
            server.disconnect(name);
        }
    }

    /// Cuts all guests off, before the devices stop: to them it is a broken connection, not a device that is gone.
    pub fn stop(&self) {
        let server = self.server().take();
        drop(server);
    }

    fn server(&self) -> MutexGuard<'_, Option<NbdServer>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
