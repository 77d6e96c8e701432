//! The bytes of a file: read into memory, or mapped, so that the system reads what is looked at and forgets it again.

#![allow(unsafe_code)]

use super::{read_file, unpacked};
use crate::data::idx::unreadable;
use crate::error::Result;
use memmap2::Mmap;
use std::fs::{self, File};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// Bytes in memory, or a part of a mapped file.
#[derive(Clone)]
pub enum Bytes {
    Owned(Vec<u8>),
    Mapped { map: Arc<Mmap>, span: Range<usize> },
}

impl Bytes {
    /// The content of a file: mapped if it has more than `most` bytes and is not packed by gzip.
    pub fn open(path: &Path, most: u64) -> Result<Self> {
        let large = fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() > most);
        if !large {
            return read_file(path).map(Self::Owned);
        }
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        // SAFETY: the map is private to this process and read as bytes alone, of which every value is good; all that is
        // derived from them is checked where it is read, and read anew each time. Other programs may write to the file: the
        // numbers are then others, and if it is cut short the system ends this process (SIGBUS), which no memory of it
        // survives. Nothing here writes to the file.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| unreadable(path, &error))?;
        if map.starts_with(&GZIP) {
            return unpacked(path, &map).map(Self::Owned);
        }
        let span = 0..map.len();
        Ok(Self::Mapped { map: Arc::new(map), span })
    }

    /// A part of them: copied, unless it is mapped.
    pub fn part(&self, span: Range<usize>) -> Self {
        match self {
            Self::Owned(bytes) => Self::Owned(bytes[span].to_vec()),
            Self::Mapped { map, span: all } => {
                assert!(span.start <= span.end && span.end <= all.len(), "a part of the bytes");
                Self::Mapped { map: map.clone(), span: all.start + span.start..all.start + span.end }
            }
        }
    }

    /// What follows the first `n`.
    pub fn after(self, n: usize) -> Self {
        match self {
            Self::Owned(mut bytes) => {
                bytes.drain(..n);
                Self::Owned(bytes)
            }
            Self::Mapped { .. } => self.part(n..self.len()),
        }
    }

    /// Whether they stay in the file.
    pub fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped { .. })
    }
}

/// What a gzip file begins with.
pub const GZIP: [u8; 2] = [0x1f, 0x8b];

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped { map, span } => &map[span.clone()],
        }
    }
}
