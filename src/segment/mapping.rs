//! A mapping of a segment's file, so that reads need no copy.
//!
//! The active segment is mapped up to its readable end, because those bytes are never written again. As it grows it is
//! mapped again; until then, bytes beyond the mapping are read. A mapping is accessed only where its pages have been
//! populated.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use crate::storage::file_cache::MappedTicket;
use crate::storage::{File, fetch_for_reading};
use crate::sync::atomic::{AtomicU64, Ordering};

/// The size of the pieces in which mappings are populated before access.
const PIECE: u64 = 256 << 10;

/// The mapping of an open file, if there is one.
#[derive(Default)]
pub(super) struct Mapping {
    /// The readable length at the last attempt to map the file.
    tried: u64,
    mapped: Option<Mapped>,
}

struct Mapped {
    bytes: Bytes,
    /// One bit for each populated piece. The kernel keeps the pages; two threads that populate a piece at once do no
    /// harm.
    populated: Box<[AtomicU64]>,
    _ticket: MappedTicket,
}

impl Mapping {
    /// Whether a file with `len` readable bytes is due to be mapped.
    pub(super) fn is_outgrown(&self, len: u64, sealed: bool, growth_min: u64) -> bool {
        let grown = len.saturating_sub(self.tried);
        if sealed { grown > 0 } else { grown >= growth_min.max(self.tried / 4) }
    }

    /// Drops the mapping, to make way for one of `len` bytes.
    pub(super) fn clear(&mut self, len: u64) {
        *self = Mapping { tried: len, mapped: None };
    }

    /// Maps the file, whose first `tried` bytes are readable.
    pub(super) fn fill(&mut self, file: &dyn File, ticket: MappedTicket) {
        // If mapping fails, reading will report the error.
        let Some(bytes) = file.map(self.tried).ok().flatten() else { return };
        let words = self.tried.div_ceil(PIECE).div_ceil(64) as usize;
        let populated = (0..words).map(|_| AtomicU64::new(0)).collect();
        self.mapped = Some(Mapped { bytes, populated, _ticket: ticket });
    }

    /// Prefetches the mapped bytes in a part of the file all at once, instead of missing on one header after the other.
    /// Faults no pages in: a part that was not populated is skipped.
    pub(super) fn fetch(&self, from: u64, len: u64) {
        if let Some(mapped) = &self.mapped
            && let Some(part) = mapped.bytes.get(from as usize..)
        {
            fetch_for_reading(&part[..part.len().min(len as usize)]);
        }
    }

    /// Returns a part of the file, or `None` if it is not mapped.
    pub(super) fn part(&self, file: &dyn File, part: Range<u64>) -> io::Result<Option<Bytes>> {
        let Some(mapped) = self.mapped.as_ref().filter(|mapped| part.end <= mapped.bytes.len() as u64) else {
            return Ok(None);
        };
        mapped.populate(file, &part)?;
        Ok(Some(mapped.bytes.slice(part.start as usize..part.end as usize)))
    }
}

impl Mapped {
    /// Populates the pieces that cover a part, each once.
    fn populate(&self, file: &dyn File, part: &Range<u64>) -> io::Result<()> {
        for piece in part.start / PIECE..part.end.div_ceil(PIECE) {
            let Some(word) = self.populated.get((piece / 64) as usize) else { break };
            let bit = 1 << (piece % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                let end = ((piece + 1) * PIECE).min(self.bytes.len() as u64);
                file.populate(&self.bytes[(piece * PIECE) as usize..end as usize])?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
