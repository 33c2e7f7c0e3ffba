//! A volume in memory: the naive model that everything else is compared with.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::generators::Io;
use crate::convert::ImageTarget;
use crate::types::Lb;

/// An image in memory. Discarded ranges become zeros.
#[derive(Debug)]
pub struct MemImage(Mutex<Vec<u8>>);

impl MemImage {
    /// An image of `size` whose every byte is `byte`.
    pub fn filled(size: Lb, byte: u8) -> Self {
        Self(Mutex::new(vec![byte; size.bytes() as usize]))
    }

    /// Its bytes.
    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does an IO the plain way; a discard writes zeros unless it is to be ignored.
    pub fn apply(&self, io: &Io, ignore_discards: bool) {
        match io {
            Io::Write { address, data } => {
                self.bytes()[address.bytes() as usize..][..data.len()].copy_from_slice(data);
            }
            Io::Discard { .. } if ignore_discards => {}
            Io::Discard { address, blocks } => {
                self.bytes()[address.bytes() as usize..][..blocks.bytes() as usize].fill(0);
            }
        }
    }
}

impl ImageTarget for MemImage {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }
    fn write_at(&self, data: &[u8], position: u64) -> io::Result<()> {
        self.bytes()[position as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
    fn write_zeroes(&self, position: u64, length: u64) -> io::Result<()> {
        self.bytes()[position as usize..][..length as usize].fill(0);
        Ok(())
    }
    fn discard(&self, position: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(position, length)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
