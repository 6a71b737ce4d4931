//! The budgets of open files and of mapped bytes, and the read buffers, shared by all partitions of a log.

use std::cell::Cell;
use std::cmp::Reverse;

use super::buffer_pool::BufferPool;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::explored;
use crate::sync::{Arc, Mutex, MutexGuard, Weak};

/// Something that holds a file open and can close it.
pub(crate) trait Evict: Send + Sync {
    /// The [`FileCache::now`] of its last use.
    fn last_used(&self) -> u64;
    /// Closes the file. Returns `false` if it is in use or could not be synced. May sync, but never waits for an
    /// append.
    fn evict(&self) -> bool;
}

/// Counts open files and mapped bytes, and evicts the least recently used ones when a budget is spent.
///
/// The budget of files is soft: if nothing can be evicted, the new file is opened all the same. The counters
/// synchronize nothing else, because other locks hand over what is opened or mapped.
#[derive(Debug)]
pub(crate) struct FileCache {
    open_max: usize,
    mapped_max: u64,
    open: AtomicUsize,
    mapped: explored::AtomicU64,
    /// Grows with each file opened, and orders the uses.
    tick: AtomicU64,
    members: Mutex<Vec<Weak<dyn Evict>>>,
    buffers: Arc<BufferPool>,
}

/// An open file within the budget, until dropped.
#[derive(Debug)]
pub(crate) struct OpenTicket(Arc<FileCache>);

/// Mapped or cached bytes within the budget, until dropped.
#[derive(Debug)]
pub(crate) struct MappedTicket(Arc<FileCache>, u64);

impl FileCache {
    pub(crate) fn new(open_max: usize, mapped_max: u64) -> Arc<FileCache> {
        Arc::new(FileCache {
            open_max: open_max.max(1),
            mapped_max,
            open: AtomicUsize::new(0),
            mapped: explored::AtomicU64::new(0),
            tick: AtomicU64::new(0),
            members: Mutex::new(Vec::new()),
            buffers: Arc::default(),
        })
    }

    /// The pool of read buffers.
    pub(crate) fn buffers(&self) -> &Arc<BufferPool> {
        &self.buffers
    }

    /// The stamp of a use at this moment.
    pub(crate) fn now(&self) -> u64 {
        self.tick.load(Ordering::Relaxed)
    }

    /// The number of open files.
    pub(crate) fn open_files(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The number of mapped or cached bytes.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }

    /// Makes room for one more open file, of `member`.
    pub(crate) fn open(self: &Arc<Self>, member: Weak<dyn Evict>) -> OpenTicket {
        self.tick.fetch_add(1, Ordering::Relaxed);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        if open > self.open_max {
            self.evict_while(&member, || self.open.load(Ordering::Relaxed) > self.open_max);
        }
        self.join(member);
        OpenTicket(Arc::clone(self))
    }

    /// Makes room for `len` more mapped bytes. Returns `None` if they do not fit the budget.
    pub(crate) fn map(self: &Arc<Self>, len: u64, member: &Weak<dyn Evict>) -> Option<MappedTicket> {
        if len > self.mapped_max {
            return None;
        }
        // Checks and takes the room in one step. Of two concurrent calls, one may find no room.
        let room = |mapped: u64| mapped.checked_add(len).filter(|mapped| *mapped <= self.mapped_max);
        let take = || self.mapped.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        let taken = Cell::new(take());
        if !taken.get() {
            self.evict_while(member, || {
                taken.set(take());
                !taken.get()
            });
        }
        taken.get().then(|| MappedTicket(Arc::clone(self), len))
    }

    fn join(&self, member: Weak<dyn Evict>) {
        let mut members = self.lock_members();
        if members.len() > 2 * self.open_max + 16 {
            members.sort_unstable_by_key(|m| m.as_ptr() as *const () as usize);
            members.dedup_by(|a, b| Weak::ptr_eq(a, b));
            members.retain(|m| m.strong_count() > 0);
        }
        members.push(member);
    }

    fn lock_members(&self) -> MutexGuard<'_, Vec<Weak<dyn Evict>>> {
        self.members.lock()
    }

    /// Evicts the least recently used members first while a budget is overspent, but never `asking` itself.
    ///
    /// The registry is not locked while a member is evicted, because evicting may sync a file.
    fn evict_while(&self, asking: &Weak<dyn Evict>, overspent: impl Fn() -> bool) {
        let mut candidates: Vec<Arc<dyn Evict>> = {
            let mut members = self.lock_members();
            members.retain(|m| m.strong_count() > 0);
            members.iter().filter(|m| !Weak::ptr_eq(m, asking)).filter_map(Weak::upgrade).collect()
        };
        // Reads each stamp once, because a member may be used during the sort.
        candidates.sort_by_cached_key(|m| Reverse(m.last_used()));
        while overspent() {
            let Some(oldest) = candidates.pop() else { return };
            // Not registered while it is evicted. If it is reopened meanwhile, it registers again.
            let gone = Arc::downgrade(&oldest);
            self.lock_members().retain(|m| !Weak::ptr_eq(m, &gone));
            if !oldest.evict() {
                self.lock_members().push(gone);
            }
        }
    }
}

impl Drop for OpenTicket {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for MappedTicket {
    fn drop(&mut self) {
        self.0.mapped.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod model_tests;

#[cfg(test)]
mod tests {
    use super::*;

    struct Holder {
        used: u64,
        ticket: Mutex<Option<OpenTicket>>,
        busy: bool,
    }

    impl Evict for Holder {
        fn last_used(&self) -> u64 {
            self.used
        }

        fn evict(&self) -> bool {
            !self.busy && self.ticket.lock().take().is_some()
        }
    }

    fn holder(file_cache: &Arc<FileCache>, busy: bool) -> Arc<Holder> {
        let holder = Arc::new(Holder { used: file_cache.now(), ticket: Mutex::new(None), busy });
        let member: Weak<dyn Evict> = Arc::downgrade(&(Arc::clone(&holder) as Arc<dyn Evict>));
        *holder.ticket.lock() = Some(file_cache.open(member));
        holder
    }

    #[test]
    fn the_file_unused_for_longest_is_closed_first() {
        let file_cache = FileCache::new(2, 0);
        let first = holder(&file_cache, false);
        let second = holder(&file_cache, false);
        let third = holder(&file_cache, false);
        assert!(first.ticket.lock().is_none());
        assert!(second.ticket.lock().is_some() && third.ticket.lock().is_some());
        assert_eq!(file_cache.open_files(), 2);
    }

    #[test]
    fn a_file_in_use_is_passed_over_and_the_budget_gives() {
        let file_cache = FileCache::new(1, 0);
        let busy = holder(&file_cache, true);
        let next = holder(&file_cache, false);
        assert_eq!(file_cache.open_files(), 2);
        assert!(busy.ticket.lock().is_some() && next.ticket.lock().is_some());
    }

    /// Used by other threads all the time.
    struct Busy(AtomicU64);

    impl Evict for Busy {
        fn last_used(&self) -> u64 {
            // Scattered stamps: each differs from the one before, sometimes higher, sometimes lower.
            self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
        }

        fn evict(&self) -> bool {
            false
        }
    }

    #[test]
    fn what_is_used_while_the_oldest_is_looked_for_does_no_harm() {
        let file_cache = FileCache::new(1, 0);
        let busy: Vec<Arc<dyn Evict>> = (0..100).map(|n| Arc::new(Busy(AtomicU64::new(n))) as Arc<dyn Evict>).collect();
        let tickets: Vec<OpenTicket> = busy.iter().map(|member| file_cache.open(Arc::downgrade(member))).collect();
        assert_eq!(file_cache.open_files(), tickets.len());
    }

    #[test]
    fn more_than_the_mapped_budget_is_never_mapped() {
        let file_cache = FileCache::new(4, 100);
        let holder = holder(&file_cache, false);
        let member: Weak<dyn Evict> = Arc::downgrade(&(Arc::clone(&holder) as Arc<dyn Evict>));
        assert!(file_cache.map(101, &member).is_none());
        let whole = file_cache.map(100, &member).unwrap();
        assert!(file_cache.map(1, &member).is_none());
        drop(whole);
        assert!(file_cache.map(1, &member).is_some());
    }

    #[test]
    fn one_that_could_not_let_go_is_asked_again() {
        let file_cache = FileCache::new(2, 0);
        let late = Arc::new(Late { asked: AtomicU64::new(0), ticket: Mutex::new(None) });
        let member: Weak<dyn Evict> = Arc::downgrade(&(Arc::clone(&late) as Arc<dyn Evict>));
        *late.ticket.lock() = Some(file_cache.open(member));
        let others: Vec<_> = (0..3).map(|_| holder(&file_cache, true)).collect();
        assert!(late.ticket.lock().is_none(), "it was asked {:?} times", late.asked);
        drop(others);
    }

    /// In use when it is first asked.
    struct Late {
        asked: AtomicU64,
        ticket: Mutex<Option<OpenTicket>>,
    }

    impl Evict for Late {
        fn last_used(&self) -> u64 {
            0
        }

        fn evict(&self) -> bool {
            self.asked.fetch_add(1, Ordering::Relaxed) > 0 && self.ticket.lock().take().is_some()
        }
    }

    #[test]
    fn the_mapping_unused_for_longest_makes_room_for_the_next_one() {
        let file_cache = FileCache::new(8, 100);
        let mapped = Arc::new(Mapped(Mutex::new(None)));
        let member: Weak<dyn Evict> = Arc::downgrade(&(Arc::clone(&mapped) as Arc<dyn Evict>));
        let _open = file_cache.open(member.clone());
        *mapped.0.lock() = file_cache.map(60, &member);
        assert!(mapped.0.lock().is_some());
        let other = holder(&file_cache, false);
        let other: Weak<dyn Evict> = Arc::downgrade(&(Arc::clone(&other) as Arc<dyn Evict>));
        let fits = file_cache.map(40, &other).expect("there is room for it");
        assert!(mapped.0.lock().is_some(), "nobody has to go for it");
        drop(fits);
        let _taken = file_cache.map(41, &other).expect("room is made for it");
        assert!(mapped.0.lock().is_none());
        assert_eq!(file_cache.mapped_bytes(), 41);
    }

    struct Mapped(Mutex<Option<MappedTicket>>);

    impl Evict for Mapped {
        fn last_used(&self) -> u64 {
            0
        }

        fn evict(&self) -> bool {
            self.0.lock().take().is_some()
        }
    }

    #[test]
    fn members_that_are_gone_or_come_again_take_no_room() {
        let file_cache = FileCache::new(4, 0);
        let stays = holder(&file_cache, false);
        let member: Weak<dyn Evict> = Arc::downgrade(&(Arc::clone(&stays) as Arc<dyn Evict>));
        for _ in 0..1000 {
            file_cache.join(member.clone());
            let gone = holder(&FileCache::new(4, 0), false);
            let gone: Arc<dyn Evict> = gone;
            file_cache.join(Arc::downgrade(&gone));
        }
        assert!(file_cache.lock_members().len() < 50, "{} members", file_cache.lock_members().len());
    }
}
