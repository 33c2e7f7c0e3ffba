//! A walb-wdev with three devices under load, killed and started again.
//!
//! Three kinds of devices, so that each death meets: one connection with many requests in flight and a log that is
//! released; several connections; and a ring so small that it goes round all the time and overflows. And each does its IO in
//! another way.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walb_common::types::PhysicalBlockSize;
use walb_wdev::client::{DeviceError, Remedy, WalDevice, WdevClient};
use walb_wdev::nbd::client::NbdClient;

use crate::history::{CONTROL, Death, History, Kind};
use crate::support::daemon::{Daemon, PATIENCE};
use crate::writer;

pub const BLOCKS: usize = 256;

/// How a device is made and used.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    pub pbs: PhysicalBlockSize,
    pub log_bytes: u64,
    /// Connections.
    pub clients: usize,
    /// Requests in flight on each.
    pub depth: usize,
    pub limits: &'static str,
}

pub const SHAPES: [Shape; 3] = [
    Shape {
        name: "deep",
        pbs: PhysicalBlockSize::B512,
        log_bytes: 1 << 20,
        clients: 1,
        depth: 32,
        limits: "checkpoint_interval_ms = 50\nlog_sync_interval_ms = 10\n",
    },
    Shape {
        name: "wide",
        pbs: PhysicalBlockSize::B512,
        log_bytes: 512 << 10,
        clients: 3,
        depth: 6,
        limits: "checkpoint_interval_ms = 30\nlog_sync_interval_ms = 1000\nlogpack_max_kib = 8\n\
                 io = 'threads'\nlog_direct = false\ndata_direct = true\n",
    },
    Shape {
        name: "small",
        pbs: PhysicalBlockSize::B4096,
        log_bytes: 288 << 10,
        clients: 1,
        depth: 16,
        limits: "checkpoint_interval_ms = 20\nlog_sync_interval_ms = 5\nio = 'io-uring'\nlog_cached_after = 3\n",
    },
];

pub struct Device {
    pub shape: Shape,
    pub socket: Utf8PathBuf,
    pub history: Arc<History>,
}

impl Device {
    fn read(&self) -> Vec<u8> {
        let mut nbd = NbdClient::connect(self.socket.as_std_path(), self.shape.name).unwrap();
        nbd.set_timeout(Some(PATIENCE)).unwrap();
        nbd.read(0, BLOCKS * 512).unwrap()
    }
}

pub struct Machine {
    dir: Utf8PathBuf,
    daemon: Option<Daemon>,
    pub devices: Vec<Device>,
    pub random: StdRng,
    runtime: tokio::runtime::Runtime,
    /// Whether requests and calls may fail while the daemon lives.
    pub errors_allowed: bool,
    /// Requests there for certain after the deaths, and requests there were.
    pub tally: (usize, usize),
}

/// By a process of its own: the lock of a file that is open here would be inherited by whatever another test just starts.
pub fn format(log: &Utf8Path, data: &Utf8Path, shape: Shape) -> bool {
    let mut wdevc = std::process::Command::new(env!("CARGO_BIN_EXE_wdevc"));
    wdevc.args(["format-ldev", log.as_str(), data.as_str(), "-n", shape.name]);
    wdevc.args(["-pbs", &shape.pbs.bytes().to_string()]);
    wdevc.output().unwrap().status.success()
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

impl Machine {
    /// Makes the devices, with their disks in `disks`; the daemon does not run yet.
    pub fn new(dir: &Utf8Path, disks: &Utf8Path, shapes: &[Shape], seed: u64) -> Self {
        let configs = dir.join("state/devices");
        std::fs::create_dir_all(&configs).unwrap();
        let device = |&shape: &Shape| {
            let name = shape.name;
            let [log, data] = ["log", "data"].map(|kind| disks.join(format!("{name}-{kind}")));
            for (path, bytes) in [(&log, shape.log_bytes), (&data, BLOCKS as u64 * 512)] {
                if !path.exists() {
                    File::create(path).unwrap().set_len(bytes).unwrap();
                }
            }
            assert!(format(&log, &data, shape), "format {log}");
            let socket = dir.join(format!("{name}.nbd"));
            let text = format!(
                "name = {name:?}\nldev = {log:?}\nddev = {data:?}\nnbd = {socket:?}\n[limits]\n{}",
                shape.limits
            );
            std::fs::write(configs.join(format!("{name}.toml")), text).unwrap();
            let history = Arc::new(History::new(BLOCKS));
            Device {
                shape,
                socket,
                history,
            }
        };
        Self {
            dir: dir.to_owned(),
            daemon: None,
            devices: shapes.iter().map(device).collect(),
            random: StdRng::seed_from_u64(seed),
            runtime: runtime(),
            errors_allowed: false,
            tally: (0, 0),
        }
    }

    /// Starts the daemon and does not wait.
    pub fn launch(&mut self, fault: Option<&str>) -> &mut Daemon {
        assert!(self.daemon.is_none());
        self.daemon.insert(Daemon::start(&self.dir, fault))
    }

    /// Waits until the daemon answers; false if it dies before.
    pub fn wait_until_open(&mut self) -> bool {
        let client = self.client(self.devices[0].shape.name);
        let until = Instant::now() + PATIENCE;
        while self.block_on(client.list()).is_err() {
            if self.is_dead() {
                return false;
            }
            assert!(Instant::now() < until, "it does not come up\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Starts the daemon; why each device is not served, if so.
    pub fn start_and_list(&mut self) -> Vec<String> {
        self.launch(None);
        assert!(self.wait_until_open(), "it died\n{}", self.log());
        let client = self.client(self.devices[0].shape.name);
        let list = self.block_on(client.list()).unwrap();
        list.into_iter().filter_map(|entry| entry.failed).collect()
    }

    /// Starts the daemon and waits until its devices are open.
    pub fn start(&mut self) {
        assert_eq!(self.start_and_list(), [""; 0], "{}", self.log());
    }

    pub fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    pub fn died_by_itself(&mut self) {
        self.daemon.take().unwrap().died_by_itself();
    }

    pub fn is_dead(&mut self) -> bool {
        self.daemon.as_mut().unwrap().is_dead()
    }

    /// A clean stop.
    pub fn terminate(&mut self) {
        self.daemon.take().unwrap().terminate();
    }

    pub fn client(&self, name: &str) -> WdevClient {
        WdevClient::new(Some(self.dir.join("control")), name.to_owned())
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Clients write to every device, and somebody uses the control socket, until `enough` is true of the number of
    /// answers of each device, or the daemon dies.
    /// It is dead then; whether it died by itself.
    pub fn load(&mut self, mut enough: impl FnMut(&[usize]) -> bool) -> bool {
        let (stop, errors_allowed) = (Arc::new(AtomicBool::new(false)), self.errors_allowed);
        let mut threads = Vec::new();
        for device in &self.devices {
            for client in 0..device.shape.clients {
                let (socket, shape) = (device.socket.clone(), device.shape);
                let (history, stop) = (Arc::clone(&device.history), Arc::clone(&stop));
                let seed = self.random.random();
                threads.push(std::thread::spawn(move || {
                    let writer = writer::Writer {
                        client,
                        seed,
                        shape,
                        flushes: true,
                        errors_allowed,
                    };
                    writer.run(&socket, &history, &stop);
                }));
            }
            let client = self.client(device.shape.name);
            let (history, stop) = (Arc::clone(&device.history), Arc::clone(&stop));
            let (seed, shape) = (self.random.random(), device.shape);
            threads.push(std::thread::spawn(move || {
                operate(&client, shape, seed, (&history, &stop), errors_allowed);
            }));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let answered: Vec<_> = self.devices.iter().map(|d| d.history.answered()).collect();
            if self.is_dead() || enough(&answered) {
                break;
            }
            assert!(
                Instant::now() < until,
                "no progress: {answered:?} answers\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_micros(300));
        }
        let died = self.is_dead();
        if died {
            self.died_by_itself();
        } else {
            self.kill();
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        died
    }

    /// Every device holds something that is allowed; it is the truth from now on.
    pub fn settle(&mut self, death: Death, context: &str) {
        for device in &self.devices {
            match device.history.settle(&device.read(), death) {
                Ok((there, all)) => self.tally = (self.tally.0 + there, self.tally.1 + all),
                Err(why) => panic!("{context}: device {}: {why}\n{}", device.shape.name, self.log()),
            }
        }
    }

    /// What a device holds is not what it may hold after such a death.
    pub fn would_be_wrong(&self, death: Death) {
        for device in &self.devices {
            device.history.check(&device.read(), death).unwrap_err();
        }
    }

    /// The end of the daemon's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("log.txt")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// What an operator and a backup do meanwhile.
fn operate(
    client: &WdevClient,
    shape: Shape,
    seed: u64,
    (history, stop): (&History, &AtomicBool),
    errors_allowed: bool,
) {
    let (runtime, mut random) = (runtime(), StdRng::seed_from_u64(seed));
    let nothing: Range<usize> = 0..0;
    while !stop.load(Ordering::Relaxed) {
        let result = runtime.block_on(async {
            match random.random_range(0..12) {
                // These make durable what was answered before.
                kind @ 0..5 => {
                    let (number, _) = history.begin(CONTROL, Kind::Flush, nothing.clone(), false);
                    match kind {
                        0 if shape.name == "small" => client.reset_log().await.map(drop)?,
                        0 | 1 => client.flush().await?,
                        _ => client.checkpoint().await?,
                    }
                    history.answer(number);
                }
                5..8 if shape.name != "small" => {
                    let lsids = client.status().await?.lsids;
                    match client.set_oldest(lsids.prev_written).await {
                        // After an overflow no pack may begin there any more.
                        Err(DeviceError::Refused { source, .. }) if source.remedy() == Remedy::FixRequest => {
                        }
                        result => result?,
                    }
                }
                8 => {
                    client.freeze(Some(Duration::from_secs(5))).await?;
                    client.melt().await?;
                }
                9 => drop(client.resize(None).await?),
                _ => tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await,
            }
            Ok::<_, DeviceError>(())
        });
        match result {
            Ok(()) => {}
            // The daemon is dead.
            Err(error) if error.remedy() == Remedy::Retry => return,
            Err(error) => {
                assert!(errors_allowed, "{}: {error:?}", shape.name);
                return;
            }
        }
    }
}
