//! Space ahead of the end of the active segment: zeros, windows, and who may write where.
//!
//! # Invariant
//!
//! [`State::boundary`] divides the file. The appender writes only below it; the preallocating thread writes only at and
//! above it, inside of what was ordered. The boundary moves under the lock of the state, by the appender alone, in two
//! ways: over a piece that the thread has finished, or to [`NOWHERE`] when nothing is ordered and nothing is under way.
//! So no byte is ever written by both, and zeros never land on a record. Every write, whatever its size and however
//! windows are configured, passes [`Reservation::make_room`], which claims its bytes first.
//!
//! [`Reservation::halt`] ends all that the thread does. Nothing cuts, closes or seals the file before.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::storage::preallocator::{Preallocator, Work};
use crate::storage::{File, Reserve, Reserved, Sizes, Window};

use crate::sync::explored::{Condvar, Mutex, MutexGuard};
use crate::sync::{Arc, Weak};

/// The boundary where nothing is ordered: all of the file is the appender's.
const NOWHERE: u64 = u64::MAX;

/// The appender's side: the space of one file that is reserved.
pub(super) struct Reservation {
    sizes: Sizes,
    how: Option<Reserve>,
    /// Zeros lie up to here, and nobody else writes below it.
    reserved: u64,
    /// The mapped part that is being filled. It goes before the file is cut.
    window: Option<Window>,
    /// The one before it, until somebody unmaps it. It goes before the file is cut as well.
    spent: Option<Window>,
    /// How large the next window is.
    next: u64,
    small_writes: u32,
    preallocator: Arc<Preallocator>,
    /// Made with the first order.
    lead: Option<Arc<Lead>>,
}

/// What the appender and the preallocating thread share.
#[derive(Default)]
struct Lead {
    state: Mutex<State>,
    /// A piece is finished.
    finished: Condvar,
}

struct State {
    /// The appender writes below this, the thread at and above it.
    boundary: u64,
    /// The file, while something is ordered of it.
    file: Option<Arc<dyn File>>,
    /// What is to be reserved: pieces that meet, behind the ready ones.
    ordered: VecDeque<Range<u64>>,
    /// Where the piece ends that is being reserved.
    running: Option<u64>,
    /// What was reserved: pieces that meet, the first at the boundary. After one that failed there is none.
    ready: VecDeque<Ready>,
    /// A window that is done with, for the thread to unmap: that takes about as long as to make one.
    spent: Option<Window>,
    /// Whether it is in the thread's queue.
    queued: bool,
}

struct Ready {
    end: u64,
    outcome: io::Result<Reserved>,
}

/// What the appender takes over.
#[derive(Default)]
struct Claimed {
    /// Where the last piece ends.
    end: Option<u64>,
    windows: Vec<Window>,
    failed: bool,
    /// The file system reserves nothing.
    unsupported: bool,
}

impl Reservation {
    /// Nothing is reserved of a file of `len` bytes.
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

    /// How space is to be reserved from now on. What is reserved or ordered stays as it is.
    pub(super) fn set_how(&mut self, how: Option<Reserve>) {
        self.how = how;
    }

    /// Where the file ends.
    pub(super) fn end(&self) -> u64 {
        self.reserved
    }

    /// Copies a write at the end into the window; `false`, and nothing done, where it does not lie in it whole.
    #[inline]
    pub(super) fn copy(&mut self, parts: [&[u8]; 2], len: u64) -> bool {
        self.window.as_mut().is_some_and(|window| window.write(parts, len))
    }

    /// Makes the `size` bytes behind `len` the appender's own, and reserves more where that pays. A full disk, or a file
    /// system that cannot, is no error here: the write itself will tell. Returns the window behind the current one.
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
        // It ends before the write does, and would be in the way of what is reserved here.
        drop(next);
        self.small_writes += 1;
        if self.small_writes < self.sizes.writes_before_window {
            return None;
        }
        let how = if size > self.sizes.mapped_write_max { Reserve::Zeroed } else { how };
        self.reserve_here(&**file, len, end, how);
        None
    }

    /// Copies a write at `len` into the window and the one behind it, which takes its place. `false`, and nothing that
    /// counts done, where it does not lie in both whole.
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

    /// Takes note of a write of `size` bytes that ends at `len`, and orders space ahead of the next ones.
    pub(super) fn written(&mut self, file: &Arc<dyn File>, len: u64, size: u64) {
        self.reserved = self.reserved.max(len);
        // Bytes that a call wrote into the range of a window are written: readers may hold them.
        for window in self.window.iter_mut().chain(&mut self.spent) {
            window.skip_to(len);
        }
        self.order(file, len, size);
    }

    /// Ends all that is at work in the file, and lets go of its windows; zeros that were written stay.
    pub(super) fn halt(&mut self) {
        (self.window, self.spent) = (None, None);
        self.small_writes = 0;
        if let Some(lead) = &self.lead
            && let Some(end) = lead.halt()
        {
            self.reserved = self.reserved.max(end);
        }
    }

    /// Takes note that a halted file was cut at `len`.
    pub(super) fn cut_at(&mut self, len: u64) {
        self.reserved = len;
    }

    /// Claims the bytes below `end`, and returns the window behind the current one where it is the only new one.
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
        // The write reaches over more than one: it goes by a call, and the rest of the last one is filled next.
        (self.window, self.spent) = (last, None);
        None
    }

    /// Reserves space at once. The claim has left nothing at work in the file.
    fn reserve_here(&mut self, file: &dyn File, len: u64, end: u64, how: Reserve) {
        // Zeros that lie there already are not written again, unless they are to be mapped. Pieces are whole: the kernel
        // then keeps them in large pages.
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

    /// After a failed reservation: a part of it that is there goes back, so that the write may have its room.
    fn give_up(&mut self, file: &dyn File, len: u64) {
        self.halt();
        if file.set_len(len).is_ok() {
            self.reserved = len;
        }
        self.next = self.sizes.window_min;
    }

    /// Orders the next windows while this one is used, once there was use for the largest.
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
    /// Orders windows behind `from`, up to where zeros lie that are the appender's, until as many are on their way as
    /// are to be. Whether the thread has to be told.
    fn order(&self, file: &Arc<dyn File>, from: u64, sizes: &Sizes, spent: &mut Option<Window>) -> bool {
        let mut state = self.lock();
        if state.is_idle() {
            state.boundary = from;
        }
        assert_eq!(state.boundary, from, "all below the boundary is the appender's, and all its zeros lie below it");
        while state.ordered.len() + state.ready.len() + usize::from(state.running.is_some()) < sizes.windows_ahead {
            let from = state.ahead();
            // After a failure no more is ordered before the appender has seen it.
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

    /// Moves the boundary to `end` or beyond it: over what is ready, waiting for a piece that is under way, and by taking
    /// back what was not begun.
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

    /// Ends everything; returns where the zeros end that were written.
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
        // The appender waits for an answer, whatever a storage does.
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

    /// Where the next order begins.
    fn ahead(&self) -> u64 {
        let ready = self.ready.back().map(|ready| ready.end);
        let ordered = self.ordered.back().map(|ordered| ordered.end);
        ordered.or(self.running).or(ready).unwrap_or(self.boundary)
    }

    fn has_failed(&self) -> bool {
        let space = |ready: &Ready| matches!(ready.outcome, Ok(Reserved::Space | Reserved::Window(_)));
        self.ready.back().is_some_and(|last| !space(last))
    }

    /// Takes back what was not begun, while nothing is under way or ready: all of the file is the appender's. What it
    /// returns is dropped without the lock.
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

/// The first `at` bytes of two buffers, one behind the other, and the rest.
fn split(parts: [&[u8]; 2], at: usize) -> ([&[u8]; 2], [&[u8]; 2]) {
    let [first, second] = parts;
    match at.checked_sub(first.len()) {
        None => ([&first[..at], &[]], [&first[at..], second]),
        Some(at) => ([first, &second[..at]], [&second[at..], &[]]),
    }
}

#[cfg(test)]
mod tests;
