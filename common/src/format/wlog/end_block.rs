//! The end block: a header block without records that says "complete".

use bytes::Bytes;

use crate::format::checksum::Salt;
use crate::format::log_device::encode_block;
use crate::types::{Lsid, PhysicalBlockSize};

/// The block that ends a wlog. Decoding it as a header yields `LogpackHeaderError::EndBlock`.
pub fn end_block(pbs: PhysicalBlockSize, salt: Salt) -> Bytes {
    encode_block(pbs, salt, Lsid::INVALID, 0, 0, &[])
}
