//! Stands in for the driver: a directory with nodes (the log and data device as files), a directory like its sysfs, and the
//! answers of its ioctls, by the offsets of the table and not by our own struct.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use camino::Utf8PathBuf;
use walb_wdev::kernel::{Driver, Ioctl, KernelDevice};

pub const NAME: &str = "vol0";

/// What the driver keeps of its one device.
pub struct State {
    pub version: u32,
    pub lsids: BTreeMap<&'static str, u64>,
    pub uuid: [u8; 16],
    pub size_lb: u64,
    pub capacity: u64,
    pub overflow: bool,
    pub frozen: bool,
    pub read_only: bool,
    pub interval_ms: u32,
    /// Command numbers that the driver refuses, and with what.
    pub refuse: BTreeMap<u32, i32>,
    /// Every ioctl but VERSION: the node's file name, the request code, the argument as it was passed.
    pub seen: Vec<(String, u32, Vec<u8>)>,
}

pub struct StandIn {
    pub dir: tempfile::TempDir,
    state: Mutex<State>,
}

struct Answers(Arc<StandIn>);

impl StandIn {
    /// A loaded driver with one device, its log device `log` and its data device `data`.
    pub fn new(log: &[u8], data: &[u8]) -> Arc<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let dev = dir.path().join("dev");
        std::fs::create_dir_all(&dev).unwrap();
        std::fs::create_dir_all(dir.path().join("sys/walb!vol0/walb")).unwrap();
        std::fs::create_dir_all(dir.path().join("sys/sda")).unwrap();
        for (name, content) in [("control", &[][..]), ("Lvol0", log), ("vol0", data)] {
            std::fs::write(dev.join(name), content).unwrap();
        }
        let word = |at: usize| u64::from_le_bytes(log[4096 + at..4096 + at + 8].try_into().unwrap());
        let (oldest, written) = (word(80), word(88));
        let lsids = [
            "latest",
            "completed",
            "flush",
            "permanent",
            "written",
            "prev_written",
        ];
        let mut lsids: BTreeMap<_, _> = lsids.into_iter().map(|name| (name, written)).collect();
        lsids.insert("oldest", oldest);
        let stand_in = Arc::new(Self {
            dir,
            state: Mutex::new(State {
                version: 0x0001_0501,
                lsids,
                uuid: log[4096 + 24..4096 + 40].try_into().unwrap(),
                size_lb: data.len() as u64 / 512,
                capacity: word(72),
                overflow: false,
                frozen: false,
                read_only: false,
                interval_ms: 10_000,
                refuse: BTreeMap::new(),
                seen: Vec::new(),
            }),
        });
        stand_in.change(|_| {});
        stand_in
    }

    pub fn driver(self: &Arc<Self>) -> Driver {
        Driver {
            dev: self.path("dev"),
            sys: self.path("sys"),
            ioctl: Arc::new(Answers(self.clone())),
        }
    }

    pub fn device(self: &Arc<Self>) -> KernelDevice {
        KernelDevice::new(self.driver(), NAME)
    }

    pub fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.dir.path().join(name)).unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the device, and what sysfs shows of it.
    pub fn change(&self, how: impl FnOnce(&mut State)) {
        let mut state = self.state();
        how(&mut state);
        self.show(&state);
    }

    /// Moves one position of the log.
    pub fn set(&self, lsid: &'static str, value: u64) {
        self.change(|state| {
            state.lsids.insert(lsid, value);
        });
    }

    fn show(&self, state: &State) {
        use std::fmt::Write as _;
        let mut lsids = String::new();
        for name in [
            "latest",
            "completed",
            "flush",
            "permanent",
            "written",
            "prev_written",
            "oldest",
        ] {
            writeln!(lsids, "{name:<12} {}", state.lsids[name]).unwrap();
        }
        let mut uuid = String::new();
        for byte in state.uuid {
            write!(uuid, "{byte:02X} ").unwrap();
        }
        uuid.push('\n');
        let mut status = String::new();
        for (name, value) in [("read_only", state.read_only), ("log_overflow", state.overflow)] {
            writeln!(status, "{name:<24} {}", u8::from(value)).unwrap();
        }
        let size = format!("{}\n", state.size_lb);
        for (name, text) in [
            ("walb/lsids", lsids.as_str()),
            ("walb/uuid", &uuid),
            ("walb/status", &status),
            ("walb/ldev", "8:16\n"),
            ("walb/ddev", "8:32\n"),
            ("size", &size),
        ] {
            // At once, as sysfs does.
            let path = self.path("sys/walb!vol0").join(name);
            let new = self.path("sys/new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        }
    }

    fn answer(&self, command: u32, argument: &mut [u8]) -> Result<(), i32> {
        let mut state = self.state();
        if let Some(&errno) = state.refuse.get(&command) {
            return Err(errno);
        }
        let value = u64::from_le_bytes(argument[8..16].try_into().unwrap());
        let mut u64_out = |value: u64| argument[8..16].copy_from_slice(&value.to_le_bytes());
        match command {
            6 => u64_out(state.lsids["oldest"]),
            7 => {
                state.lsids.insert("oldest", value);
            }
            16 => argument[16..20].copy_from_slice(&state.interval_ms.to_le_bytes()),
            17 => {
                let written = state.lsids["written"];
                state.lsids.insert("prev_written", written);
            }
            18 => state.interval_ms = u32::from_le_bytes(argument[16..20].try_into().unwrap()),
            19 => u64_out(state.lsids["written"]),
            20 => u64_out(state.lsids["permanent"]),
            21 => u64_out(state.lsids["completed"]),
            22 => u64_out(state.lsids["latest"] - state.lsids["oldest"]),
            23 => u64_out(state.capacity),
            24 => argument[4..8].copy_from_slice(&1_i32.to_le_bytes()),
            25 => state.size_lb = if value == 0 { 1 << 20 } else { value },
            26 => self.clear_log(&mut state),
            27 => argument[4..8].copy_from_slice(&i32::from(state.overflow).to_le_bytes()),
            28 | 29 => state.frozen = command == 28,
            30 => argument[4..8].copy_from_slice(&i32::from(state.frozen).to_le_bytes()),
            _ => return Err(libc::EFAULT),
        }
        // Those that only look leave sysfs alone.
        if [7, 17, 18, 25, 26, 28, 29].contains(&command) {
            self.show(&state);
        }
        Ok(())
    }

    /// Another uuid and salt, all positions 0: on the log device as well.
    fn clear_log(&self, state: &mut State) {
        let log = self.path("dev/Lvol0");
        let mut bytes = std::fs::read(&log).unwrap();
        state.uuid = [0x5a; 16];
        state.lsids.values_mut().for_each(|lsid| *lsid = 0);
        state.overflow = false;
        let pbs = u32::from_le_bytes(bytes[4096 + 12..4096 + 16].try_into().unwrap()) as usize;
        let sector = &mut bytes[4096..4096 + pbs];
        sector[4..8].fill(0);
        sector[20..24].copy_from_slice(&77_u32.to_le_bytes());
        sector[24..40].copy_from_slice(&state.uuid);
        sector[80..96].fill(0);
        let sum = sector.chunks(4).fold(0_u32, |sum, word| {
            sum.wrapping_add(u32::from_le_bytes(word.try_into().unwrap()))
        });
        sector[4..8].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
        std::fs::write(&log, bytes).unwrap();
    }
}

impl Ioctl for Answers {
    fn ioctl(
        &self,
        node: BorrowedFd<'_>,
        request: u32,
        argument: &mut [u8],
        _u2k: &[u8],
        _k2u: &mut [u8],
    ) -> io::Result<()> {
        let node = std::fs::read_link(format!("/proc/self/fd/{}", node.as_raw_fd())).unwrap();
        let node = node.file_name().unwrap().to_str().unwrap().to_owned();
        let result = match (request, node.as_str()) {
            (0x8004_fe00, "control" | NAME) => {
                argument.copy_from_slice(&self.0.state().version.to_le_bytes());
                return Ok(());
            }
            (0xc078_fe02, NAME) => {
                assert_eq!(argument.len(), 120);
                let seen = (node, request, argument.to_vec());
                self.0.state().seen.push(seen);
                let command = u32::from_le_bytes(argument[..4].try_into().unwrap());
                self.0.answer(command, argument)
            }
            _ => Err(libc::ENOTTY),
        };
        result.map_err(io::Error::from_raw_os_error)
    }
}
