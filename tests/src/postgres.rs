//! A PostgreSQL of the test's own: its directory where the test wants it, no port, run as the user `postgres`.
//!
//! Three things tell whether a copy of it is sound: PostgreSQL's checks of its own structures (page checksums,
//! `pg_amcheck`), the balance of pgbench's tables, whose sums agree after every whole transaction, and the numbers that
//! [`Noter`] committed one by one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::mounted::tool;
use crate::wait::{PATIENCE, until};

const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=8MB",
    "max_connections=20",
    "checkpoint_timeout=30s",
    "max_wal_size=8MB",
    "min_wal_size=2MB",
];

/// A database cluster, running or not. Killed when dropped.
pub struct Postgres {
    programs: PathBuf,
    user: (u32, u32),
    data: PathBuf,
    /// Sockets and the server's log.
    run: PathBuf,
    server: Option<Child>,
}

impl Postgres {
    /// For the directory `data`; `run` is where its socket is, and must be reachable for the user `postgres`.
    pub fn new(data: &Path, run: &Path) -> Result<Self> {
        let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
            .context("PostgreSQL is not installed: Debian package postgresql")?
            .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
            .filter(|dir| dir.join("initdb").is_file())
            .collect();
        found.sort();
        let programs = found.pop().context("no initdb below /usr/lib/postgresql")?;
        let id = |what: &str| -> Result<u32> { Ok(tool("id", &[what, "postgres"])?.parse()?) };
        let user = (id("-u")?, id("-g")?);
        std::fs::create_dir_all(run)?;
        std::os::unix::fs::chown(run, Some(user.0), Some(user.1))?;
        Ok(Self {
            programs,
            user,
            data: data.to_owned(),
            run: run.to_owned(),
            server: None,
        })
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command
            .uid(self.user.0)
            .gid(self.user.1)
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    fn client(&self, name: &str) -> Command {
        let mut command = self.program(name);
        command.arg("-h").arg(&self.run).args(["-U", "postgres"]);
        command
    }

    /// Makes the cluster, with checksums in its pages, and pgbench's tables in it. It runs afterwards.
    pub fn init(&mut self) -> Result<()> {
        std::fs::create_dir(&self.data)?;
        std::os::unix::fs::chown(&self.data, Some(self.user.0), Some(self.user.1))?;
        let mut initdb = self.program("initdb");
        initdb
            .args(["-k", "-A", "trust", "-U", "postgres", "--wal-segsize=1"])
            .args(["--encoding=UTF8", "--locale=C", "-D"])
            .arg(&self.data);
        output(initdb)?;
        self.start()?;
        let mut pgbench = self.client("pgbench");
        pgbench.args(["-i", "-q", "-s", "1", "postgres"]);
        output(pgbench)?;
        self.sql("create table noted (n bigint primary key); create extension amcheck; checkpoint")?;
        Ok(())
    }

    /// Starts it, with recovery if that is needed, and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.run);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.stdout(log.try_clone()?).stderr(log);
        // SAFETY: only an async-signal-safe system call between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        self.server = Some(command.spawn().context("start postgres")?);
        until("PostgreSQL to answer", PATIENCE, || {
            let server = self.server.as_mut().context("it runs")?;
            if let Some(status) = server.try_wait()? {
                bail!("it has ended: {status}\n{}", self.log());
            }
            self.sql("select 1").map(Some)
        })?;
        Ok(())
    }

    /// Runs SQL; what it prints, columns separated by `|`.
    pub fn sql(&self, text: &str) -> Result<String> {
        let mut psql = self.client("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", text]);
        output(psql)
    }

    /// pgbench's own load, until its end is wanted or the server dies.
    pub fn load(&self) -> Result<Load> {
        let mut pgbench = self.client("pgbench");
        pgbench.args(["-n", "-c", "3", "-T", "600", "postgres"]);
        let child = pgbench.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Load(child.context("start pgbench")?))
    }

    /// Commits numbers, one after another.
    pub fn note(&self) -> Result<Noter> {
        let first = self.noted()? + 1;
        let mut psql = self.client("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let mut child = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start psql")?;
        let (mut input, output) = (
            child.stdin.take().context("stdin")?,
            child.stdout.take().context("stdout")?,
        );
        let counts = Arc::new(Counts {
            asked: AtomicU64::new(first - 1),
            committed: AtomicU64::new(first - 1),
        });
        let shared = Arc::clone(&counts);
        let thread = std::thread::spawn(move || {
            let mut lines = BufReader::new(output).lines();
            for n in first.. {
                shared.asked.store(n, Ordering::SeqCst);
                if writeln!(input, "insert into noted values ({n}) returning n;").is_err() {
                    return;
                }
                match lines.next() {
                    Some(Ok(line)) if line == n.to_string() => shared.committed.store(n, Ordering::SeqCst),
                    _ => return,
                }
            }
        });
        Ok(Noter {
            counts,
            child,
            thread: Some(thread),
        })
    }

    /// The last number; there must be no gap before it.
    pub fn noted(&self) -> Result<u64> {
        let found = self.sql("select count(*), coalesce(max(n), 0) from noted")?;
        let (count, last) = found.split_once('|').context("two columns")?;
        ensure!(
            count == last,
            "{count} numbers, the last one is {last}: some are missing"
        );
        Ok(last.parse()?)
    }

    /// Starts it, has everything checked that it can check, and stops it cleanly. The last number noted.
    pub fn check(&mut self) -> Result<u64> {
        self.start()?;
        let sums = self.sql(
            "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
             (select sum(bbalance) from pgbench_branches), coalesce((select sum(delta) from pgbench_history), 0)",
        )?;
        let first = sums.split('|').next().unwrap_or_default();
        ensure!(
            sums.split('|').all(|sum| sum == first),
            "the sums of accounts, tellers, branches and history differ: {sums}"
        );
        let noted = self.noted()?;
        let mut amcheck = self.client("pg_amcheck");
        amcheck.args(["--heapallindexed", "-d", "postgres"]);
        output(amcheck)?;
        self.stop()?;
        let mut checksums = self.program("pg_checksums");
        checksums.arg("--check").arg("-D").arg(&self.data);
        output(checksums)?;
        Ok(noted)
    }

    /// A clean stop.
    pub fn stop(&mut self) -> Result<()> {
        let mut server = self.server.take().context("it does not run")?;
        kill_process(Pid::from_child(&server), Signal::INT)?;
        let status = until("PostgreSQL to stop", PATIENCE, || Ok(server.try_wait()?))?;
        ensure!(
            status.success(),
            "PostgreSQL stopped with {status}\n{}",
            self.log()
        );
        Ok(())
    }

    /// Kills all its processes, and waits until they are gone.
    pub fn kill9(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        let id = server.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let children: Vec<_> = children
            .split_whitespace()
            .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
            .collect();
        server.kill()?;
        server.wait()?;
        for &pid in &children {
            // It may have ended with the server.
            let _ = kill_process(pid, Signal::KILL);
        }
        until("the processes of PostgreSQL to end", PATIENCE, || {
            Ok((!children.iter().copied().any(is_alive)).then_some(()))
        })
    }

    fn log_path(&self) -> PathBuf {
        self.run.join("log")
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Whether a process still runs; one that has ended and waits for its parent does not.
fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

/// A running pgbench.
pub struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // It ends with its server.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Counts {
    asked: AtomicU64,
    committed: AtomicU64,
}

/// A client that commits 1, 2, 3 and so on, and knows which of them it was told are committed.
pub struct Noter {
    counts: Arc<Counts>,
    child: Child,
    thread: Option<JoinHandle<()>>,
}

impl Noter {
    /// The last number that is committed for certain.
    pub fn committed(&self) -> u64 {
        self.counts.committed.load(Ordering::SeqCst)
    }

    /// The last number that may be committed.
    pub fn asked(&self) -> u64 {
        self.counts.asked.load(Ordering::SeqCst)
    }

    /// Waits until so many more are committed.
    pub fn until_more(&self, more: u64) -> Result<()> {
        let goal = self.committed() + more;
        until("commits", PATIENCE, || {
            Ok((self.committed() >= goal).then_some(()))
        })
    }
}

impl Drop for Noter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn output(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
