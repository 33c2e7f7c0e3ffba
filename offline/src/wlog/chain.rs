//! Logs that follow each other, in one file or in several, as one sequence of verified packs.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context;
use walb_common::format::wlog::{Logpack, ReadWlogError, WlogFileHeader, WlogReader};
use walb_common::types::{Lsid, Uuid};

use crate::input::{self, Input};

type Reader = WlogReader<BufReader<Input>>;

/// Packs of all logs, each one verified, each log continuing the one before it.
#[derive(Debug)]
pub struct Chain {
    rest: std::vec::IntoIter<PathBuf>,
    verb: &'static str,
    name: String,
    reader: Option<Reader>,
    uuid: Uuid,
    begin: Lsid,
    next: Lsid,
    packs: u64,
    wlogs: u64,
}

impl Chain {
    /// Opens the first one. `verb` is for the progress.
    pub fn open(paths: Vec<PathBuf>, verb: &'static str) -> anyhow::Result<Self> {
        input::check_stdin_once(&paths)?;
        let mut rest = paths.into_iter();
        let first = rest.next().context("no wlog was named")?;
        let (name, reader) = open(&first, verb)?;
        let WlogFileHeader { uuid, begin, .. } = *reader.header();
        Ok(Self {
            rest,
            verb,
            name,
            reader: Some(reader),
            uuid,
            begin,
            next: begin,
            packs: 0,
            wlogs: 1,
        })
    }

    /// Of the log sequence.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Lsid of the first pack.
    pub fn begin(&self) -> Lsid {
        self.begin
    }

    /// Lsid after the packs so far.
    pub fn next_lsid(&self) -> Lsid {
        self.next
    }

    /// Packs so far.
    pub fn packs(&self) -> u64 {
        self.packs
    }

    /// Logs so far.
    pub fn wlogs(&self) -> u64 {
        self.wlogs
    }

    /// The next pack; None behind the last log.
    pub fn next_pack(&mut self) -> anyhow::Result<Option<Logpack>> {
        while let Some(reader) = &mut self.reader {
            if let Some(pack) = reader.next_pack().with_context(|| self.name.clone())? {
                self.next = pack.header().next_lsid();
                self.packs += 1;
                return Ok(Some(pack));
            }
            self.reader = self.next_wlog()?;
        }
        Ok(None)
    }

    fn next_wlog(&mut self) -> anyhow::Result<Option<Reader>> {
        if let Some(reader) = self.reader.take()
            && let Some(next) = reader.next_wlog().with_context(|| self.name.clone())?
        {
            self.wlogs += 1;
            return Ok(Some(next));
        }
        let Some(path) = self.rest.next() else {
            return Ok(None);
        };
        let (name, reader) = open(&path, self.verb)?;
        self.name = name;
        self.wlogs += 1;
        let (header, expected) = (reader.header(), self.next);
        if header.uuid != self.uuid {
            let (found, expected) = (header.uuid, self.uuid);
            return Err(ReadWlogError::OtherUuid { found, expected }).with_context(|| self.name.clone());
        }
        if header.begin != expected {
            let found = header.begin;
            return Err(ReadWlogError::Gap { found, expected }).with_context(|| self.name.clone());
        }
        Ok(Some(reader))
    }
}

fn open(path: &Path, verb: &str) -> anyhow::Result<(String, Reader)> {
    let input = Input::open(path, verb)?;
    let name = input.name().to_owned();
    let reader =
        WlogReader::open(BufReader::with_capacity(256 << 10, input)).with_context(|| name.clone())?;
    Ok((name, reader))
}
