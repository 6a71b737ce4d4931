//! Windows: mapped reserved space of a file, so that a small write is a copy in memory.

use std::fmt;

use memmap2::MmapMut;

use crate::storage::holds::WindowHold;

/// Small writes prefetch the window this far ahead. Its zeros lie in the cache of the processor that wrote them, so
/// without prefetching each line would cost a wait.
const FETCHED_AHEAD: usize = 1 << 10;

/// Mapped reserved space behind the data of a file. Small writes are copied into it.
///
/// It is filled from its start, never below what is already written. The file cannot be truncated below its end while
/// it lives.
pub struct Window {
    /// The position of the first mapped byte in the file. For a real mapping this is the start of a page.
    start: u64,
    /// Dropped before the bytes: once nothing of a removed file is mapped or open, another file may get its identity.
    hold: WindowHold,
    bytes: Bytes,
}

enum Bytes {
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux maps for writing"))]
    Mapped(MmapMut),
    #[cfg(any(test, feature = "sim"))]
    Simulated(crate::storage::sim::SimWindow),
}

impl Window {
    #[cfg(target_os = "linux")]
    pub(super) fn mapped(start: u64, map: MmapMut, hold: WindowHold) -> Window {
        Window { start, bytes: Bytes::Mapped(map), hold }
    }

    #[cfg(any(test, feature = "sim"))]
    pub(in crate::storage) fn simulated(
        start: u64,
        window: crate::storage::sim::SimWindow,
        hold: WindowHold,
    ) -> Window {
        Window { start, bytes: Bytes::Simulated(window), hold }
    }

    /// One past the position of the last byte.
    pub fn end(&self) -> u64 {
        self.start
            + match &self.bytes {
                Bytes::Mapped(map) => map.len() as u64,
                #[cfg(any(test, feature = "sim"))]
                Bytes::Simulated(window) => window.len(),
            }
    }

    /// Forbids writes below `position`, because those bytes were written by a call.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.hold.fill(self.hold.filled().max(position.min(self.end())));
    }

    /// Copies two consecutive buffers to a position of the file. Returns `false` and does nothing unless they fit whole
    /// into the unfilled part of the window.
    #[inline]
    pub fn write(&mut self, parts: [&[u8]; 2], position: u64) -> bool {
        if position < self.hold.filled() {
            return false;
        }
        let Some(start) = position.checked_sub(self.start).and_then(|start| usize::try_from(start).ok()) else {
            return false;
        };
        let written = match &mut self.bytes {
            Bytes::Mapped(map) => copy(map, start, parts),
            #[cfg(any(test, feature = "sim"))]
            Bytes::Simulated(window) => window.write(parts, position),
        };
        if written {
            self.hold.fill(position + (parts[0].len() + parts[1].len()) as u64);
        }
        written
    }
}

#[inline]
fn copy(map: &mut MmapMut, start: usize, [first, second]: [&[u8]; 2]) -> bool {
    let Some(target) = map.get_mut(start..).and_then(|rest| rest.get_mut(..first.len() + second.len())) else {
        return false;
    };
    let size = target.len();
    let (head, tail) = target.split_at_mut(first.len());
    head.copy_from_slice(first);
    tail.copy_from_slice(second);
    // For a longer copy the processor's own prefetcher does this.
    if size <= FETCHED_AHEAD
        && let Some(coming) = map.get(start + size + FETCHED_AHEAD..)
    {
        fetch_for_writing(&coming[..size.min(coming.len())]);
    }
    true
}

/// Prefetches all cache lines of some bytes at once instead of missing on each in turn. Never faults, so missing pages
/// stay out.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn fetch_for_reading(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in bytes.chunks(64) {
        // SAFETY: the line is borrowed. Prefetching it neither faults nor changes anything that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn fetch_for_reading(_bytes: &[u8]) {}

#[cfg(target_arch = "x86_64")]
#[inline]
fn fetch_for_writing(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
    for line in bytes.chunks(64) {
        // SAFETY: the line is part of a live mapping. Prefetching it changes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn fetch_for_writing(_bytes: &[u8]) {}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window[{}, {})", self.start, self.end())
    }
}
