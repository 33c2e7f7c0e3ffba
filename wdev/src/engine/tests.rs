//! Goal: the engine is a disk - what was written is read - and its log is exactly what was written. Method: random requests
//! against a plain array, the log read back by the readers of walb-common, the threads ended where they stand.

#![expect(clippy::cast_possible_truncation, reason = "small numbers in tests")]

mod allocation;
mod changed;
mod crash;
mod exhaustive;
mod io;
mod log;
mod model;
mod power_loss;
mod stop;
mod submit;
mod throttle;

use std::fs::File;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use camino::Utf8PathBuf;
use walb_common::types::{LB_SIZE, PhysicalBlockSize};

use super::{Engine, format_log_device};
use crate::block::{BlockDevice, IoErrno, IoOp, IoRequest, submit_and_wait};
use crate::config::{DeviceConfig, Limits};

/// A device in a directory of its own.
pub(super) struct Place {
    dir: tempfile::TempDir,
    pub limits: Limits,
}

impl Place {
    pub fn new(pbs: PhysicalBlockSize, log_bytes: u64, data_bytes: u64) -> Self {
        let limits = Limits {
            checkpoint_interval_ms: 0,
            log_sync_interval_ms: 5,
            ..Limits::default()
        };
        let place = Self {
            dir: crate::disk::testing::direct_dir(),
            limits,
        };
        File::create(place.path("log"))
            .unwrap()
            .set_len(log_bytes)
            .unwrap();
        File::create(place.path("data"))
            .unwrap()
            .set_len(data_bytes)
            .unwrap();
        format_log_device(&place.path("log"), &place.path("data"), "vol0", Some(pbs), true).unwrap();
        place
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8PathBuf::try_from(self.dir.path().join(name)).unwrap()
    }

    fn config(&self) -> DeviceConfig {
        let (ldev, ddev) = (self.path("log"), self.path("data"));
        DeviceConfig {
            name: "vol0".to_owned(),
            ldev,
            ddev,
            nbd: None,
            nbd_guests: vec![],
            fuse: None,
            ublk: None,
            nbd_node: None,
            limits: self.limits,
        }
    }

    pub fn open(&self) -> Arc<Engine> {
        Engine::open(&self.config(), &self.path("state")).unwrap()
    }
}

pub(super) fn write(engine: &Engine, at_lb: u64, data: Vec<u8>) -> Result<(), IoErrno> {
    let op = IoOp::Write {
        offset: at_lb * LB_SIZE,
        data: Bytes::from(data),
        fua: false,
    };
    submit_and_wait(engine, op).map(drop)
}

/// The same, by this thread if it may.
pub(super) fn write_here(engine: &Engine, at_lb: u64, data: Vec<u8>) -> Result<(), IoErrno> {
    let op = IoOp::Write {
        offset: at_lb * LB_SIZE,
        data: Bytes::from(data),
        fua: false,
    };
    here(engine, vec![op]).remove(0).map(drop)
}

/// Submits all of them together, to be done by this thread if it may, and waits.
pub(super) fn here(engine: &Engine, ops: Vec<IoOp>) -> Vec<Result<Bytes, IoErrno>> {
    let (sender, receiver) = mpsc::channel();
    let request = |(index, op)| {
        let sender = sender.clone();
        let done = Box::new(move |result| sender.send((index, result)).unwrap());
        IoRequest { op, done }
    };
    let count = ops.len();
    engine.submit_here(ops.into_iter().enumerate().map(request).collect());
    let mut results = vec![Err(IoErrno::EIO); count];
    for _ in 0..count {
        let (index, result): (usize, _) = receiver.recv().unwrap();
        results[index] = result;
    }
    results
}

pub(super) fn flush(engine: &Engine) {
    submit_and_wait(engine, IoOp::Flush).unwrap();
}

pub(super) fn read_all(engine: &Engine) -> Vec<u8> {
    let len = u32::try_from(engine.size()).unwrap();
    submit_and_wait(engine, IoOp::Read { offset: 0, len })
        .unwrap()
        .to_vec()
}

pub(super) fn block_of(value: u8, blocks: u64) -> Vec<u8> {
    vec![value; usize::try_from(blocks * LB_SIZE).unwrap()]
}
