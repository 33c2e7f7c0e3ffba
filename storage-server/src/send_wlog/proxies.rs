//! Which proxies are there. The list's order is the order of priority.
//!
//! A proxy that cannot be reached is left out until a probe finds it again; then every volume that waits looks at once.
//! So traffic returns to a preferred proxy by itself, and a dead one costs its timeout once, not per transfer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use walb_common::daemon::chain;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::rest::NodeInfo;
use walb_common::rest::storage::ProxyStatus;
use walb_common::wire::client::Client;
use walb_common::wire::identity::Role;

/// How long a probe may take.
const PROBE_WITHIN: Duration = Duration::from_secs(3);
/// A proxy that went away is looked for after this, then after twice that, up to the usual interval.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// The proxies of a daemon.
pub struct Proxies {
    list: Mutex<Vec<Proxy>>,
    interval: Duration,
    probe_now: Notify,
    called: watch::Sender<()>,
}

struct Proxy {
    address: String,
    available: bool,
    next_look: Instant,
    delay: Duration,
}

impl Proxies {
    /// All available, until one is found not to be.
    pub fn new(addresses: &[String], interval: Duration) -> Self {
        let now = Instant::now();
        let proxy = |address: &String| Proxy {
            address: address.clone(),
            available: true,
            next_look: now + interval,
            delay: interval,
        };
        Self {
            list: Mutex::new(addresses.iter().map(proxy).collect()),
            interval,
            probe_now: Notify::new(),
            called: watch::Sender::new(()),
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Proxy>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Their addresses, in order.
    pub fn addresses(&self) -> Vec<String> {
        self.list().iter().map(|p| p.address.clone()).collect()
    }

    /// Whether a transfer should try it.
    pub fn is_available(&self, address: &str) -> bool {
        self.list().iter().any(|p| p.address == address && p.available)
    }

    /// It could not be reached.
    pub fn failed(&self, address: &str) {
        self.note(address, false);
        self.probe_now.notify_one();
    }

    /// Changes whenever waiting volumes should look at once: a proxy has come back, or somebody kicks.
    pub fn calls(&self) -> watch::Receiver<()> {
        self.called.subscribe()
    }

    /// Probe all now, and let waiting volumes look now.
    pub fn kick(&self) {
        let now = Instant::now();
        self.list().iter_mut().for_each(|p| p.next_look = now);
        self.probe_now.notify_one();
        self.called.send_replace(());
    }

    /// What is shown.
    pub fn status(&self) -> Vec<ProxyStatus> {
        let now = Instant::now();
        self.list()
            .iter()
            .map(|p| ProxyStatus {
                address: p.address.clone(),
                available: p.available,
                time_to_next_check: p.next_look.saturating_duration_since(now).as_secs(),
            })
            .collect()
    }

    /// Takes note of how a look went; answers whether that is a change.
    fn note(&self, address: &str, available: bool) -> bool {
        let now = Instant::now();
        let mut list = self.list();
        let Some(proxy) = list.iter_mut().find(|p| p.address == address) else {
            return false;
        };
        let changed = proxy.available != available;
        proxy.delay = match (available, changed) {
            (true, _) => self.interval,
            (false, true) => FIRST_LOOK.min(self.interval),
            (false, false) => (proxy.delay * 2).min(self.interval),
        };
        proxy.available = available;
        proxy.next_look = now + proxy.delay;
        changed
    }

    fn next_look(&self) -> Instant {
        self.list()
            .iter()
            .map(|p| p.next_look)
            .min()
            .unwrap_or_else(|| Instant::now() + self.interval)
    }

    fn due(&self) -> Vec<String> {
        let now = Instant::now();
        self.list()
            .iter()
            .filter(|p| p.next_look <= now)
            .map(|p| p.address.clone())
            .collect()
    }
}

/// Looks after the proxies until the daemon stops.
pub async fn monitor(proxies: &Proxies, client: Client, lifecycle: Lifecycle) {
    let stopping = lifecycle.stopping();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = sleep_until(proxies.next_look()) => {}
            () = proxies.probe_now.notified() => {}
        }
        let client = &client;
        let probes = proxies.due().into_iter().map(|address| async move {
            let result = probe(client, &address).await;
            let changed = proxies.note(&address, result.is_ok());
            match (&result, changed) {
                (Ok(()), true) => {
                    tracing::info!(proxy = address, "proxy is available again");
                    proxies.called.send_replace(());
                }
                (Err(error), true) => tracing::warn!(proxy = address, error, "proxy is not available"),
                _ => {}
            }
        });
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = futures_util::future::join_all(probes) => {}
        }
    }
}

async fn probe(client: &Client, address: &str) -> Result<(), String> {
    match timeout(
        PROBE_WITHIN,
        client.get::<NodeInfo>(address, &[Role::Proxy], "/v1/node"),
    )
    .await
    {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", PROBE_WITHIN.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_that_fails_is_looked_for_ever_more_seldom_until_it_is_back() {
        let address = "p:1".to_owned();
        let proxies = Proxies::new(std::slice::from_ref(&address), Duration::from_secs(10));
        assert!(proxies.is_available(&address));
        let mut delays = Vec::new();
        for _ in 0..6 {
            proxies.note(&address, false);
            delays.push(proxies.list()[0].delay.as_secs());
        }
        assert_eq!(delays, [1, 2, 4, 8, 10, 10]);
        assert!(!proxies.is_available(&address));
        assert!(proxies.note(&address, true));
        assert!(proxies.is_available(&address));
    }

    #[tokio::test]
    async fn a_kick_makes_every_probe_due_and_calls_the_volumes() {
        let proxies = Proxies::new(&["p:1".to_owned(), "p:2".to_owned()], Duration::from_secs(10));
        let mut calls = proxies.calls();
        assert!(proxies.due().is_empty());
        proxies.kick();
        assert_eq!(proxies.due().len(), 2);
        assert!(calls.has_changed().unwrap());
        calls.mark_unchanged();
    }
}
