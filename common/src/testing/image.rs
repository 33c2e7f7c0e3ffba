//! A volume in memory: the naive model that everything else is compared with.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::generators::Io;
use crate::convert::{ImageSource, ImageTarget};
use crate::format::read_at::ReadAt;
use crate::types::{LB_SIZE, Lb};

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

impl ReadAt for MemImage {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes().read_exact_at(buf, offset)
    }
}

/// Logical blocks of zeros are its holes.
impl ImageSource for MemImage {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }
    fn data_from(&self, position: u64) -> io::Result<Option<Range<u64>>> {
        let bytes = self.bytes();
        let block = |n: u64| bytes.get((n * LB_SIZE) as usize..).unwrap_or(&[]);
        let is_data = |n: &u64| block(*n).iter().take(LB_SIZE as usize).any(|b| *b != 0);
        let blocks = (bytes.len() as u64).div_ceil(LB_SIZE);
        let Some(start) = (position / LB_SIZE..blocks).find(is_data) else {
            return Ok(None);
        };
        let end = (start..blocks).find(|n| !is_data(n)).unwrap_or(blocks);
        let end = (end * LB_SIZE).min(bytes.len() as u64);
        Ok(Some((start * LB_SIZE).max(position)..end))
    }
}
