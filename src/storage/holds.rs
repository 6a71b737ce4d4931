//! The bytes of a file that are in use: mapped for reading, handed out as a region, or mapped as a window.
//!
//! The account belongs to the file's identity, not to a handle. Bytes that were handed out outlive the log that made
//! them, and the log that is opened next in the same process must respect them.
//!
//! # Invariant
//! Held bytes do not change, and the file is not truncated below them. Three rules ensure this, each checked under one
//! lock:
//!
//! - a write by call that begins below `end` may only write the bytes that are there already, as recovery does (I8);
//! - a truncation below `end`, or below the end of a window, is refused;
//! - bytes that a write under way or a window may still change cannot be held. A window writes only at and above the
//!   position up to which it is filled.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::io;
use std::ops::Range;
use std::sync::LazyLock;

use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicU64, Mutex, MutexGuard};
use crate::sync::{Arc, Weak};

/// A registry that has grown to this many files is searched for files that are no longer in use.
const PRUNED_AT: usize = 64;

/// The accounts of the files in use, by their identity.
pub(super) struct Registry<K>(LazyLock<crate::sync::Mutex<Accounts<K>>>);

struct Accounts<K> {
    files: HashMap<K, Weak<Holds>>,
    pruned_at: usize,
}

impl<K: Eq + Hash> Registry<K> {
    pub(super) const fn new() -> Registry<K> {
        Registry(LazyLock::new(|| crate::sync::Mutex::new(Accounts { files: HashMap::new(), pruned_at: PRUNED_AT })))
    }

    /// Returns the account of a file. An identity is not reused while the file is in use, and its account ends before
    /// that.
    pub(super) fn of(&self, identity: K) -> Arc<Holds> {
        let mut accounts = self.0.lock();
        if accounts.files.len() >= accounts.pruned_at {
            accounts.files.retain(|_, holds| holds.strong_count() > 0);
            accounts.pruned_at = (2 * accounts.files.len()).max(PRUNED_AT);
        }
        let known = accounts.files.entry(identity).or_default();
        known.upgrade().unwrap_or_else(|| {
            let holds = Arc::new(Holds::default());
            *known = Arc::downgrade(&holds);
            holds
        })
    }
}

/// The account of one file, shared by all handles of it.
#[derive(Default)]
pub(crate) struct Holds {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of holds on the bytes up to each position.
    held: BTreeMap<u64, usize>,
    windows: Vec<Arc<Extent>>,
    /// The start of each write under way.
    writing: Vec<u64>,
}

/// The range of a window and how far it is filled. The window writes only at and above that position.
#[derive(Debug)]
struct Extent {
    end: u64,
    filled: AtomicU64,
}

/// Holds the bytes of a file below some position. Until it is dropped they do not change, and the file is not truncated
/// below them.
pub struct Hold(#[expect(dead_code, reason = "dropped, it gives the bytes back")] Box<dyn Send + Sync>);

struct Held {
    holds: Arc<Holds>,
    end: u64,
}

/// A write under way.
pub(super) struct Writing<'h> {
    holds: &'h Holds,
    from: u64,
    /// The bytes below this are held. A write there must repeat the bytes that are there already.
    pub(super) same_below: u64,
}

/// The part of a file that a window covers.
pub(super) struct WindowHold {
    holds: Arc<Holds>,
    extent: Arc<Extent>,
}

impl Holds {
    /// One past the last held byte.
    pub(super) fn end(&self) -> u64 {
        self.lock().end()
    }

    /// Holds the bytes below `end`.
    ///
    /// # Errors
    /// `ResourceBusy` if a write under way or a window may still change one of them.
    pub(super) fn hold(self: &Arc<Self>, end: u64) -> io::Result<Hold> {
        let mut state = self.lock();
        if state.writing.iter().any(|from| *from < end) || state.windows.iter().any(|extent| extent.is_open_below(end))
        {
            return Err(busy("bytes that are still written cannot be held"));
        }
        *state.held.entry(end).or_default() += 1;
        Ok(Hold::new(Held { holds: Arc::clone(self), end }))
    }

    /// Begins a write by call.
    pub(super) fn write(&self, from: u64) -> Writing<'_> {
        let mut state = self.lock();
        state.writing.push(from);
        Writing { holds: self, from, same_below: state.end() }
    }

    /// Changes the length of a file by `cut`.
    ///
    /// # Errors
    /// `ResourceBusy` if the file would end below held bytes or inside a window.
    pub(super) fn cut(&self, len: u64, cut: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let state = self.lock();
        if len < state.end() || state.windows.iter().any(|extent| len < extent.end) {
            return Err(busy("the file is held beyond this length"));
        }
        cut()
    }

    /// Registers a window that is filled from its start on.
    ///
    /// # Errors
    /// `ResourceBusy` if some of its bytes are held, or lie in another window that is not full.
    pub(super) fn window(self: &Arc<Self>, part: Range<u64>) -> io::Result<WindowHold> {
        let mut state = self.lock();
        let overlaps = |extent: &Arc<Extent>| part.start < extent.end && extent.is_open_below(extent.end);
        if part.start < state.end() || state.windows.iter().any(overlaps) {
            return Err(busy("a window cannot cover what is held"));
        }
        let extent = Arc::new(Extent { end: part.end, filled: AtomicU64::new(part.start) });
        state.windows.push(Arc::clone(&extent));
        Ok(WindowHold { holds: Arc::clone(self), extent })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Extent {
    /// Whether the window may still write bytes below `end`.
    fn is_open_below(&self, end: u64) -> bool {
        self.filled.load(Ordering::Acquire) < end.min(self.end)
    }
}

impl State {
    fn end(&self) -> u64 {
        self.held.last_key_value().map_or(0, |(end, _)| *end)
    }
}

impl Writing<'_> {
    /// Fails unless the held bytes, as found by `read`, equal the bytes of `buf` for `position`.
    ///
    /// # Errors
    /// `ResourceBusy` if one differs.
    pub(super) fn check(
        &self,
        buf: &[u8],
        position: u64,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let len = self.same_below.saturating_sub(position).min(buf.len() as u64) as usize;
        if len == 0 {
            return Ok(());
        }
        let mut there = vec![0; len];
        if read(&mut there)? == len && there == buf[..len] {
            return Ok(());
        }
        Err(busy("bytes that are held cannot be overwritten with others"))
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.holds.lock();
        let at = state.writing.iter().position(|from| *from == self.from).expect("it was begun");
        state.writing.swap_remove(at);
    }
}

impl WindowHold {
    /// The lowest position of the next write.
    #[inline]
    pub(super) fn filled(&self) -> u64 {
        // Only the window's owner stores to it.
        self.extent.filled.load(Ordering::Relaxed)
    }

    /// Records that everything below `position` is written.
    #[inline]
    pub(super) fn fill(&self, position: u64) {
        // A thread that holds the bytes after this sees them written.
        self.extent.filled.store(position, Ordering::Release);
    }
}

impl Drop for WindowHold {
    fn drop(&mut self) {
        self.holds.lock().windows.retain(|extent| !Arc::ptr_eq(extent, &self.extent));
    }
}

impl Hold {
    /// A hold that ends when `guard` is dropped, for custom storages.
    pub fn new(guard: impl Send + Sync + 'static) -> Hold {
        Hold(Box::new(guard))
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.holds.lock();
        let count = state.held.get_mut(&self.end).expect("it is held");
        *count -= 1;
        if *count == 0 {
            state.held.remove(&self.end);
        }
    }
}

fn busy(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails<T>(done: io::Result<T>) -> bool {
        done.is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
    }

    #[test]
    fn what_is_held_is_neither_cut_nor_changed_until_the_last_hold_goes() {
        let holds = Arc::new(Holds::default());
        let (first, second) = (holds.hold(10).unwrap(), holds.hold(10).unwrap());
        for hold in [first, second] {
            assert!(fails(holds.cut(9, || panic!("it is held"))));
            let writing = holds.write(8);
            let there = |into: &mut [u8]| {
                into.copy_from_slice(b"ab");
                Ok(into.len())
            };
            assert!(writing.check(b"abX", 8, there).is_ok(), "the third byte is not held");
            assert!(fails(writing.check(b"aX", 8, there)));
            assert!(fails(writing.check(b"ab", 8, |_| Ok(1))), "the file is shorter");
            drop(hold);
        }
        assert_eq!(holds.end(), 0);
        holds.cut(0, || Ok(())).unwrap();
    }

    #[test]
    fn a_file_may_grow_and_be_cut_above_what_is_held() {
        let holds = Arc::new(Holds::default());
        let _hold = holds.hold(10).unwrap();
        holds.cut(10, || Ok(())).unwrap();
        assert_eq!(holds.write(10).same_below, 10);
    }

    #[test]
    fn what_may_still_be_written_cannot_be_held() {
        let holds = Arc::new(Holds::default());
        let writing = holds.write(5);
        assert!(fails(holds.hold(6)));
        drop((holds.hold(5).unwrap(), writing));
        let window = holds.window(5..20).unwrap();
        assert!(fails(holds.hold(6)));
        window.fill(8);
        assert!(fails(holds.hold(9)));
        let hold = holds.hold(8).unwrap();
        assert!(fails(holds.window(7..9)), "a held byte is in it");
        assert!(fails(holds.window(8..9)), "the other window writes there");
        assert!(fails(holds.cut(19, || panic!("the window ends at 20"))));
        window.fill(20);
        let next = holds.window(20..30).unwrap();
        drop((window, hold));
        assert!(fails(holds.cut(25, || panic!("the second window ends at 30"))));
        drop(next);
        holds.cut(0, || Ok(())).unwrap();
    }

    #[test]
    fn the_accounts_of_files_that_nobody_has_are_let_go() {
        let registry: Registry<u64> = Registry::new();
        let kept = registry.of(0);
        (1..10 * PRUNED_AT as u64).for_each(|identity| drop(registry.of(identity)));
        let accounts = registry.0.lock();
        assert!(accounts.files.len() <= 2 * PRUNED_AT, "{} accounts", accounts.files.len());
        drop(accounts);
        assert!(Arc::ptr_eq(&kept, &registry.of(0)));
    }
}
