//! A mapping of a segment's file: what is read is not copied.
//!
//! The active segment is mapped up to where it was readable then; those bytes are never written again. It is mapped
//! anew as it grows, and what lies behind is read. A mapping only ever shows what has been read in before.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use crate::storage::file_cache::MappedTicket;
use crate::storage::{File, fetch_for_reading};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Mappings are read in by pieces of this size before they are touched.
const PIECE: u64 = 256 << 10;

/// The mapping of an open file, if there is one.
#[derive(Default)]
pub(super) struct Mapping {
    /// How much was readable when the file was last mapped, or could not be.
    tried: u64,
    mapped: Option<Mapped>,
}

struct Mapped {
    bytes: Bytes,
    /// One bit for each piece that has been read in. The kernel has the pages; two that read one in at once do no harm.
    populated: Box<[AtomicU64]>,
    _ticket: MappedTicket,
}

impl Mapping {
    /// Whether it is time to map a file of which `len` bytes are readable.
    pub(super) fn is_outgrown(&self, len: u64, sealed: bool, growth_min: u64) -> bool {
        let grown = len.saturating_sub(self.tried);
        if sealed { grown > 0 } else { grown >= growth_min.max(self.tried / 4) }
    }

    /// Lets go of the mapping: one of `len` bytes is to take its place.
    pub(super) fn clear(&mut self, len: u64) {
        *self = Mapping { tried: len, mapped: None };
    }

    /// Maps the file, whose first `tried` bytes are readable.
    pub(super) fn fill(&mut self, file: &dyn File, ticket: MappedTicket) {
        // Where mapping fails, reading tells the error.
        let Some(bytes) = file.map(self.tried).ok().flatten() else { return };
        let words = self.tried.div_ceil(PIECE).div_ceil(64) as usize;
        let populated = (0..words).map(|_| AtomicU64::new(0)).collect();
        self.mapped = Some(Mapped { bytes, populated, _ticket: ticket });
    }

    /// Has the processor fetch what is mapped of a part of the file: a walk that meets it one header after the other
    /// waits for each. That touches no page: one that was not read in is left out.
    pub(super) fn fetch(&self, from: u64, len: u64) {
        if let Some(mapped) = &self.mapped
            && let Some(part) = mapped.bytes.get(from as usize..)
        {
            fetch_for_reading(&part[..part.len().min(len as usize)]);
        }
    }

    /// A part of the file; `None` where it is not mapped.
    pub(super) fn part(&self, file: &dyn File, part: Range<u64>) -> io::Result<Option<Bytes>> {
        let Some(mapped) = self.mapped.as_ref().filter(|mapped| part.end <= mapped.bytes.len() as u64) else {
            return Ok(None);
        };
        mapped.populate(file, &part)?;
        Ok(Some(mapped.bytes.slice(part.start as usize..part.end as usize)))
    }
}

impl Mapped {
    /// Reads in the pieces that cover a part, each once.
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
