//! Reserves space ahead of the end of the active segment: zeros, windows, and which thread may write where.
//!
//! # Invariant
//!
//! [`State::boundary`] divides the file. The appender writes only below it. The preallocating thread writes only at and
//! above it, inside the ordered ranges. Only the appender moves the boundary, under the lock of the state, and in two
//! ways: over a piece that the thread has finished, or to [`NOWHERE`] when nothing is ordered and nothing is under way.
//! So no byte is ever written by both, and zeros never land on a record. Every write, whatever its size and however
//! windows are configured, passes [`Reservation::make_room`], which claims its bytes first.
//!
//! [`Reservation::halt`] ends all work of the thread in this file. The file is never truncated, closed or sealed before
//! that.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::storage::preallocator::{Preallocator, Work};
use crate::storage::{File, Reserve, Reserved, Sizes, Window};

use crate::sync::explored::{Condvar, Mutex, MutexGuard};
use crate::sync::{Arc, Weak};

/// The boundary when nothing is ordered: the whole file belongs to the appender.
const NOWHERE: u64 = u64::MAX;

/// The appender's side: the reserved space of one file.
pub(super) struct Reservation {
    sizes: Sizes,
    how: Option<Reserve>,
    /// The zeros end here. Only the appender writes below this position.
    reserved: u64,
    /// The mapped part that is being filled. It is unmapped before the file is truncated.
    window: Option<Window>,
    /// The previous window, until it is unmapped. It too is unmapped before the file is truncated.
    spent: Option<Window>,
    /// The size of the next window.
    next: u64,
    small_writes: u32,
    preallocator: Arc<Preallocator>,
    /// Created with the first order.
    lead: Option<Arc<Lead>>,
}

/// What the appender and the preallocating thread share.
#[derive(Default)]
struct Lead {
    state: Mutex<State>,
    /// Signals that a piece is finished.
    finished: Condvar,
}

struct State {
    /// The appender writes below this position, the thread at and above it.
    boundary: u64,
    /// The file, while part of it is ordered.
    file: Option<Arc<dyn File>>,
    /// The ranges still to be reserved. They are contiguous and follow the ready ones.
    ordered: VecDeque<Range<u64>>,
    /// The end of the piece that is being reserved.
    running: Option<u64>,
    /// The reserved pieces. They are contiguous, and the first starts at the boundary. No piece follows a failed one.
    ready: VecDeque<Ready>,
    /// A used-up window for the thread to unmap, because unmapping takes about as long as mapping.
    spent: Option<Window>,
    /// Whether this lead is in the thread's queue.
    queued: bool,
}

struct Ready {
    end: u64,
    outcome: io::Result<Reserved>,
}

/// What the appender takes over.
#[derive(Default)]
struct Claimed {
    /// The end of the last piece.
    end: Option<u64>,
    windows: Vec<Window>,
    failed: bool,
    /// The file system does not support reserving.
    unsupported: bool,
}

impl Reservation {
    /// Starts with no space reserved, for a file of `len` bytes.
    pub(super) fn new(len: u64, how: Option<Reserve>, sizes: Sizes, preallocator: &Arc<Preallocator>) -> Reservation {
        Reservation {
            sizes,
            how,
            reserved: len,
            window: None,
            spent: None,
            next: sizes.window_min,
            small_writes: 0,
            preallocator: Arc::clone(preallocator),
            lead: None,
        }
    }

    /// Sets how space is reserved from now on. Space that is reserved or ordered stays as it is.
    pub(super) fn set_how(&mut self, how: Option<Reserve>) {
        self.how = how;
    }

    /// The end of the file.
    pub(super) fn end(&self) -> u64 {
        self.reserved
    }

    /// Copies a write at the end into the window. Returns `false` and does nothing if the write does not fit whole.
    #[inline]
    pub(super) fn copy(&mut self, parts: [&[u8]; 2], len: u64) -> bool {
        self.window.as_mut().is_some_and(|window| window.write(parts, len))
    }

    /// Makes the `size` bytes behind `len` the appender's own, and reserves more where that pays. A full disk or an
    /// unsupporting file system is no error here: the write itself will report it. Returns the window behind the
    /// current one.
    pub(super) fn make_room(&mut self, file: &Arc<dyn File>, len: u64, size: u64) -> Option<Window> {
        let end = len + size;
        if end <= self.reserved {
            return None;
        }
        let next = self.claim(&**file, len, end);
        let how = self.how?;
        if size > self.sizes.zeroed_write_max || end <= self.reserved {
            return next;
        }
        // This window ends before the write does, and would overlap the space that is reserved here.
        drop(next);
        self.small_writes += 1;
        if self.small_writes < self.sizes.writes_before_window {
            return None;
        }
        let how = if size > self.sizes.mapped_write_max { Reserve::Zeroed } else { how };
        self.reserve_here(&**file, len, end, how);
        None
    }

    /// Copies a write at `len` into the window and the one behind it, which then becomes the current one. Returns
    /// `false` if the two together do not hold the whole write; bytes already copied then do not count.
    pub(super) fn copy_across(&mut self, parts: [&[u8]; 2], len: u64, next: Option<Window>) -> bool {
        let Some(mut next) = next else { return self.copy(parts, len) };
        let copied = match self.window.as_mut().filter(|window| window.end() > len) {
            Some(window) => {
                let (head, tail) = split(parts, (window.end() - len) as usize);
                window.write(head, len) && next.write(tail, window.end())
            }
            None => next.write(parts, len),
        };
        self.spent = self.window.replace(next);
        copied
    }

    /// Records a write of `size` bytes that ends at `len`, and orders space for the next writes.
    pub(super) fn written(&mut self, file: &Arc<dyn File>, len: u64, size: u64) {
        self.reserved = self.reserved.max(len);
        // A write call also fills the range of a window that it covers. Skip that range: readers may hold those bytes.
        for window in self.window.iter_mut().chain(&mut self.spent) {
            window.skip_to(len);
        }
        self.order(file, len, size);
    }

    /// Ends all work in the file and unmaps its windows. Zeros that are already written stay.
    pub(super) fn halt(&mut self) {
        (self.window, self.spent) = (None, None);
        self.small_writes = 0;
        if let Some(lead) = &self.lead
            && let Some(end) = lead.halt()
        {
            self.reserved = self.reserved.max(end);
        }
    }

    /// Records that a halted file was truncated at `len`.
    pub(super) fn cut_at(&mut self, len: u64) {
        self.reserved = len;
    }

    /// Claims the bytes below `end`. Returns the window behind the current one if it is the only new one.
    fn claim(&mut self, file: &dyn File, len: u64, end: u64) -> Option<Window> {
        let mut claimed = self.lead.as_ref()?.claim(end);
        if let Some(end) = claimed.end {
            self.reserved = end;
        }
        if claimed.unsupported {
            self.how = None;
        }
        if claimed.failed {
            drop(claimed);
            self.give_up(file, len);
            return None;
        }
        let last = claimed.windows.pop();
        if claimed.windows.is_empty() {
            return last;
        }
        // The write spans several windows, so it goes through a write call. The next writes fill the rest of the last
        // window.
        (self.window, self.spent) = (last, None);
        None
    }

    /// Reserves space at once. After the claim, no other work is under way in the file.
    fn reserve_here(&mut self, file: &dyn File, len: u64, end: u64, how: Reserve) {
        // Existing zeros are not written again, unless they are to be mapped. Pieces have their full size, because the
        // kernel then keeps them in large pages.
        let (from, piece) = match how {
            Reserve::Mapped => (len, self.next),
            Reserve::Zeroed => (self.reserved, self.sizes.zeroed_piece),
        };
        let end = end.next_multiple_of(piece);
        (self.window, self.spent) = (None, None);
        match file.reserve(from, end - from, how) {
            Ok(Reserved::Nothing) => self.how = None,
            Ok(Reserved::Space) => self.reserved = end,
            Ok(Reserved::Window(window)) => (self.reserved, self.window) = (end, Some(window)),
            Err(_) => {
                self.reserved = end;
                self.give_up(file, len);
                return;
            }
        }
        self.next = (self.next * 2).min(self.sizes.window_max);
    }

    /// Cleans up after a failed reservation: gives back the part that succeeded, so that the write has that room.
    fn give_up(&mut self, file: &dyn File, len: u64) {
        self.halt();
        if file.set_len(len).is_ok() {
            self.reserved = len;
        }
        self.next = self.sizes.window_min;
    }

    /// Orders the next windows while this one is filled, as soon as windows have reached their largest size.
    fn order(&mut self, file: &Arc<dyn File>, len: u64, size: u64) {
        let sizes = &self.sizes;
        let pays = self.how == Some(Reserve::Mapped) && self.next >= sizes.window_max && size <= sizes.ahead_write_max;
        if !pays || self.reserved <= len {
            return;
        }
        let lead = self.lead.get_or_insert_default();
        if lead.order(file, self.reserved, sizes, &mut self.spent) {
            let work: Weak<dyn Work> = Arc::downgrade(&(Arc::clone(lead) as Arc<dyn Work>));
            if !self.preallocator.push(work) {
                lead.halt();
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Lead {
    /// Orders windows behind `from`, where the appender's zeros end, until `windows_ahead` of them are ordered or
    /// ready. Returns whether the thread must be notified.
    fn order(&self, file: &Arc<dyn File>, from: u64, sizes: &Sizes, spent: &mut Option<Window>) -> bool {
        let mut state = self.lock();
        if state.is_idle() {
            state.boundary = from;
        }
        assert_eq!(state.boundary, from, "all below the boundary is the appender's, and all its zeros lie below it");
        while state.ordered.len() + state.ready.len() + usize::from(state.running.is_some()) < sizes.windows_ahead {
            let from = state.ahead();
            // After a failure, order nothing more before the appender has seen it.
            if state.has_failed() {
                break;
            }
            state.ordered.push_back(from..(from + 1).next_multiple_of(sizes.window_max));
            state.file = Some(Arc::clone(file));
            if state.spent.is_none() {
                state.spent = spent.take();
            }
        }
        let to_be_told = !state.ordered.is_empty() && !state.queued;
        state.queued |= to_be_told;
        to_be_told
    }

    /// Moves the boundary to `end` or beyond. It passes over the ready pieces, waits for a piece that is under way, and
    /// takes back the ranges that were not begun.
    fn claim(&self, end: u64) -> Claimed {
        let mut claimed = Claimed::default();
        let mut state = self.lock();
        while state.boundary < end {
            if let Some(ready) = state.ready.pop_front() {
                state.boundary = ready.end;
                claimed.take(ready);
            } else if state.running.is_some() {
                state = self.wait(state);
            } else {
                let taken_back = state.take_back();
                drop(state);
                drop(taken_back);
                return claimed;
            }
        }
        claimed
    }

    /// Ends all work. Returns where the written zeros end.
    fn halt(&self) -> Option<u64> {
        let mut state = self.lock();
        state.ordered.clear();
        while state.running.is_some() {
            state = self.wait(state);
        }
        let ready = std::mem::take(&mut state.ready);
        let taken_back = state.take_back();
        drop(state);
        drop(taken_back);
        ready.back().map(|last| last.end)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.finished.wait(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Work for Lead {
    fn run(&self) -> bool {
        let mut state = self.lock();
        state.queued = false;
        let (Some(part), Some(file)) = (state.ordered.pop_front(), state.file.clone()) else { return false };
        state.running = Some(part.end);
        let spent = state.spent.take();
        drop(state);

        drop(spent);
        // The appender waits for an outcome, so a panic of the storage must become one.
        let reserve = || file.reserve(part.start, part.end - part.start, Reserve::Mapped);
        let outcome = catch_unwind(AssertUnwindSafe(reserve)).unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));

        let mut state = self.lock();
        state.ready.push_back(Ready { end: part.end, outcome });
        if state.has_failed() {
            state.ordered.clear();
        }
        state.running = None;
        state.queued = !state.ordered.is_empty();
        self.finished.notify_all();
        state.queued
    }
}

impl State {
    /// Whether nothing is ordered, under way or ready.
    fn is_idle(&self) -> bool {
        self.ordered.is_empty() && self.ready.is_empty() && self.running.is_none()
    }

    /// The start of the next order.
    fn ahead(&self) -> u64 {
        let ready = self.ready.back().map(|ready| ready.end);
        let ordered = self.ordered.back().map(|ordered| ordered.end);
        ordered.or(self.running).or(ready).unwrap_or(self.boundary)
    }

    fn has_failed(&self) -> bool {
        let space = |ready: &Ready| matches!(ready.outcome, Ok(Reserved::Space | Reserved::Window(_)));
        self.ready.back().is_some_and(|last| !space(last))
    }

    /// Takes back the ranges that were not begun, while nothing is under way or ready. The whole file then belongs to
    /// the appender. The caller drops the returned values without holding the lock.
    fn take_back(&mut self) -> (Option<Arc<dyn File>>, Option<Window>) {
        assert!(self.running.is_none() && self.ready.is_empty(), "a piece that was begun is waited for");
        self.ordered.clear();
        self.boundary = NOWHERE;
        (self.file.take(), self.spent.take())
    }
}

impl Default for State {
    fn default() -> State {
        State {
            boundary: NOWHERE,
            file: None,
            ordered: VecDeque::new(),
            running: None,
            ready: VecDeque::new(),
            spent: None,
            queued: false,
        }
    }
}

impl Claimed {
    fn take(&mut self, ready: Ready) {
        match ready.outcome {
            Ok(Reserved::Nothing) => {
                self.unsupported = true;
                return;
            }
            Ok(Reserved::Space) => {}
            Ok(Reserved::Window(window)) => self.windows.push(window),
            Err(_) => self.failed = true,
        }
        self.end = Some(ready.end);
    }
}

/// Splits two consecutive buffers into their first `at` bytes and the rest.
fn split(parts: [&[u8]; 2], at: usize) -> ([&[u8]; 2], [&[u8]; 2]) {
    let [first, second] = parts;
    match at.checked_sub(first.len()) {
        None => ([&first[..at], &[]], [&first[at..], second]),
        Some(at) => ([first, &second[..at]], [&second[at..], &[]]),
    }
}

#[cfg(test)]
mod tests;
