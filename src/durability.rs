//! Durable watermark, group commit, checkpoints of `state`, poison.
//!
//! The order of every sync is the one of docs/design.md, "Durable chain": data files, then the directory that names
//! them, then `state`, then the acknowledgement. A sync runs outside of every lock that an append or a read needs, and
//! never takes the appender's lock: what a checkpoint needs of the appender is handed over by it.

mod account;
mod health;

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::format::State;
use crate::offset::{Offset, Timestamp};
use crate::segment::Segment;
use crate::segment::index::Entries;
use crate::shared::Shared;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::yield_now;
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError};

use self::account::Account;
pub(crate) use self::health::Health;

/// So many turns of others may pass without one who comes, then who syncs for a group waits for it no more.
const PATIENCE: usize = 32;

/// The durable end of a partition and the syncs that move it.
#[derive(Debug)]
pub(crate) struct Durability {
    /// Stored (Release) after the sync that it tells of.
    durable_end: AtomicU64,
    pub(crate) account: Account,
    /// Syncs of the active segment: what group commit saves is counted by it.
    syncs: AtomicU64,
    work: Mutex<Work>,
    done: Condvar,
}

/// What is to be done, and whether somebody does it.
#[derive(Debug, Default)]
struct Work {
    syncing: bool,
    /// How many have begun to wait since the last wake-up: one that nobody waits for is a system call all the same.
    waiting: usize,
    /// How many took part in the last sync or came while it ran: those that it let go will come again.
    company: usize,
    /// The roll whose second half is open. There is never a second one (protocol: "a second roll waits").
    roll: Option<Roll>,
    /// What the appender handed over for the next checkpoint.
    capture: Option<Capture>,
    /// Until when the syncing threads leave it alone: it found no room.
    rests_until: Option<Instant>,
}

/// A roll: the new active segment takes appends, the ones before it are not durable yet.
#[derive(Debug)]
pub(crate) struct Roll {
    /// The segments that were sealed, in order: the one that was active, and those behind it that an append has filled
    /// at once.
    pub(crate) sealed: Vec<Sealed>,
    /// The base of the new active segment, whose file is there.
    pub(crate) active_base: Offset,
}

/// A segment that was sealed, and the producers at its end.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) producers: Producers,
}

/// A point of the active segment up to which everything derived from it is known: once durable, recovery begins there.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) segment: Arc<Segment>,
    pub(crate) end: Offset,
    pub(crate) position: u64,
    pub(crate) index_entries: Entries,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) producers: Producers,
}

/// The producer state at an offset: the bytes of its snapshot file, or none when there are no producers.
#[derive(Debug)]
pub(crate) struct Producers {
    pub(crate) at: Offset,
    pub(crate) snapshot: Option<Vec<u8>>,
}

impl Durability {
    /// All below `end` is durable.
    pub(crate) fn new(end: Offset) -> Durability {
        Durability {
            durable_end: AtomicU64::new(end.get()),
            account: Account::new(),
            syncs: AtomicU64::new(0),
            work: Mutex::new(Work::default()),
            done: Condvar::new(),
        }
    }

    /// One past the last durable offset.
    #[inline]
    pub(crate) fn end(&self) -> Offset {
        Offset::new(self.durable_end.load(Ordering::Acquire))
    }

    /// How many syncs of the active segment there were.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// For how long the syncing threads leave it alone.
    pub(crate) fn rests(&self) -> Duration {
        let until = self.lock().rests_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Has the syncing threads leave it alone for this time.
    pub(crate) fn rest(&self, time: Duration) {
        self.lock().rests_until = Instant::now().checked_add(time);
    }

    /// Hands over a roll, before the new segment is published: nothing in it is durable before the roll is done. The
    /// roll before this one is done.
    pub(crate) fn begin_roll(&self, roll: Roll) {
        let mut work = self.lock();
        assert!(work.roll.is_none(), "a second roll waits for the first");
        // A capture in the segment that is now sealed would make recovery begin before the roll: the roll has its own.
        work.capture = None;
        work.roll = Some(roll);
    }

    /// Hands over what the next checkpoint needs.
    pub(crate) fn capture(&self, capture: Capture) {
        self.lock().capture = Some(capture);
    }

    /// Keeps everyone from syncing until the guard is dropped, for a truncation: a sync that is under way would note in
    /// `state` that what is cut is durable. Who holds the appender gets it, with no roll open.
    pub(crate) fn hold(&self) -> Held<'_> {
        let mut work = self.quiet();
        assert!(work.roll.is_none(), "a roll is finished before its segment is cut");
        work.capture = None;
        work.syncing = true;
        Held(self)
    }

    /// Waits until nobody syncs. Nobody begins any more: the topic is gone, and its health says so.
    pub(crate) fn stop(&self) {
        drop(self.quiet());
    }

    /// Stops counting bytes that will never be durable: others must not wait for them.
    pub(crate) fn give_up(&self, shared: &Shared) {
        self.account.give_up(&shared.budgets.unsynced);
    }

    /// Waits until nobody syncs.
    fn quiet(&self) -> MutexGuard<'_, Work> {
        let mut work = self.lock();
        while work.syncing {
            work = self.wait(work);
        }
        work
    }

    fn wait<'a>(&self, mut work: MutexGuard<'a, Work>) -> MutexGuard<'a, Work> {
        work.waiting += 1;
        self.done.wait(work).unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all go on that wait, once they can have the lock: else each of them would wait for it once more.
    fn stop_syncing(&self, mut work: MutexGuard<'_, Work>) {
        work.syncing = false;
        work.company = work.waiting + 1;
        let waited_for = std::mem::take(&mut work.waiting) > 0;
        drop(work);
        if waited_for {
            self.done.notify_all();
        }
    }

    /// Lets those come that the last sync has let go: else they would miss this one, and threads that append in turn
    /// would share each sync by halves. Who is alone waits for nobody.
    fn gather<'a>(&'a self, shared: &Shared, mut work: MutexGuard<'a, Work>) -> Result<MutexGuard<'a, Work>> {
        let mut patience = PATIENCE;
        while work.waiting + 1 < work.company && patience > 0 {
            let before = work.waiting;
            drop(work);
            yield_now();
            work = self.lock();
            patience = if work.waiting > before { PATIENCE } else { patience - 1 };
        }
        match shared.health.check_syncable() {
            Ok(()) => Ok(work),
            Err(error) => {
                self.stop_syncing(work);
                Err(error)
            }
        }
    }

    /// Makes everything below `target` durable. Concurrent callers share one sync: who comes while one runs waits for
    /// it, and one of those left over syncs for all of them.
    pub(crate) fn sync_to(&self, shared: &Shared, target: Offset) -> Result<Offset> {
        let synced = self.turn(shared, target).and_then(|turn| match turn {
            Some(work) => self.sync_now(shared, self.gather(shared, work)?),
            None => Ok(self.end()),
        });
        // One that fails may have done a part of it.
        shared.tails.durable.notify(self.end().get());
        synced
    }

    /// The same for who holds a lock, under which no waker is called: that is done [later](Shared::tell), by a syncing
    /// thread if by nobody else. It waits for nobody who could join.
    pub(crate) fn sync_quietly(&self, shared: &Shared, target: Offset) -> Result<()> {
        self.turn(shared, target)?.map_or(Ok(()), |work| self.sync_now(shared, work).map(drop))
    }

    /// Waits until everything below `target` is durable, or nobody syncs: then the caller does.
    fn turn(&self, shared: &Shared, target: Offset) -> Result<Option<MutexGuard<'_, Work>>> {
        let mut work = self.lock();
        loop {
            if self.end() >= target && work.roll.is_none() {
                drop(work);
                self.account.settle_if(&shared.budgets.unsynced, || self.end() >= shared.end());
                return Ok(None);
            }
            shared.health.check_syncable()?;
            if !work.syncing {
                work.syncing = true;
                return Ok(Some(work));
            }
            work = self.wait(work);
        }
    }

    /// Makes everything below `target` durable, and a roll that is open, but waits for nobody who syncs: two threads
    /// that each sync a partition and need a file of the other's closed would wait for each other. Whether it is
    /// done.
    pub(crate) fn try_sync(&self, shared: &Shared, target: Offset) -> bool {
        let mut work = self.lock();
        if self.end() >= target && work.roll.is_none() {
            return !work.syncing;
        }
        if work.syncing || shared.health.check_syncable().is_err() {
            return false;
        }
        work.syncing = true;
        let synced = self.sync_now(shared, work).is_ok();
        shared.sync_soon();
        synced
    }

    /// Syncs, as the only one: the caller has said so in `work`.
    fn sync_now(&self, shared: &Shared, mut work: MutexGuard<'_, Work>) -> Result<Offset> {
        let roll = work.roll.take();
        // Looked at together: a roll that begins from here on is not done by this sync, so its new segment, whose bytes
        // follow unsynced ones, is not for this sync either.
        let covered = self.account.covered();
        let active = Arc::clone(shared.view.load().active());
        drop(work);

        let result = self.sync_once(shared, roll.as_ref(), &active, covered);
        let mut work = self.lock();
        match &result {
            // The data is safe; what did not fit goes beside it. The roll is finished when there is room (I9).
            Err(error) if *error.kind() == ErrorKind::DiskFull && !shared.health.is_poisoned() => work.roll = roll,
            // What the failed sync covered is unknown for good; a second try would prove nothing (I8).
            Err(error) => shared.poison(error),
            Ok(_) => work.rests_until = None,
        }
        self.stop_syncing(work);
        result
    }

    /// Finishes a roll that is open, for whoever needs to roll again.
    pub(crate) fn finish_roll(&self, shared: &Shared) -> Result<()> {
        // One that found no room is open again after its sync.
        while self.quiet().roll.is_some() {
            let synced = self.sync_quietly(shared, self.end() + 1);
            shared.sync_soon();
            synced?;
        }
        shared.health.check_syncable()
    }

    fn sync_once(&self, shared: &Shared, roll: Option<&Roll>, active: &Segment, covered: u64) -> Result<Offset> {
        // A `state` that was read but is not durable may come back as the one before it, with an operation to redo.
        shared.settle_state()?;
        if let Some(roll) = roll {
            self.complete_roll(shared, roll)?;
        }
        let end = active.end();
        self.sync_segment(shared, active)?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.durable_end.fetch_max(end.get(), Ordering::AcqRel);
        self.account.settle(&shared.budgets.unsynced, covered);
        self.checkpoint(shared, end)?;
        Ok(end)
    }

    fn sync_segment(&self, shared: &Shared, segment: &Segment) -> Result<()> {
        let data = segment.open_for_writing()?;
        // Whatever the error, a full disk included: the page cache cannot be trusted any more.
        data.file.sync().map_err(|e| Error::io(e, &segment.path())).inspect_err(|error| shared.poison(error))
    }

    /// The second half of a roll: old data, names, `state`. Only then may anything in the new segments be durable.
    fn complete_roll(&self, shared: &Shared, roll: &Roll) -> Result<()> {
        let (Some(first), Some(last)) = (roll.sealed.first(), roll.sealed.last()) else { return Ok(()) };
        for sealed in &roll.sealed {
            self.sync_segment(shared, &sealed.segment)?;
            sealed.segment.set_synced();
            sealed.segment.note_modified();
        }
        // The name of the first one is durable already.
        self.durable_end.fetch_max(first.segment.end().get(), Ordering::AcqRel);
        for sealed in &roll.sealed {
            shared.store_sidecars(&sealed.segment, &sealed.producers)?;
        }
        shared.place.sync_dir()?;
        let producers_at = last.producers.snapshot.as_ref().map(|_| last.producers.at);
        shared.update_state(|state| {
            state.active_base = roll.active_base;
            state.durable_end = last.segment.end();
            state.durable_position = 0;
            state.producers_at = producers_at;
        })?;
        self.durable_end.fetch_max(last.segment.end().get(), Ordering::AcqRel);
        shared.remove_old_snapshots();
        Ok(())
    }

    /// Records in `state` how far the active segment is durable, when the appender handed over a point for it.
    fn checkpoint(&self, shared: &Shared, durable_end: Offset) -> Result<()> {
        let capture = {
            let mut work = self.lock();
            match &work.capture {
                Some(capture) if capture.end <= durable_end => work.capture.take(),
                _ => None,
            }
        };
        let Some(capture) = capture else { return Ok(()) };
        match shared.store_checkpoint(&capture) {
            // Recovery begins at the one before.
            Err(error) if *error.kind() == ErrorKind::DiskFull => return Ok(()),
            stored => stored?,
        }
        let producers_at = capture.producers.snapshot.as_ref().map(|_| capture.producers.at);
        shared.update_state(|state: &mut State| {
            state.active_base = capture.segment.base();
            state.durable_end = capture.end;
            state.durable_position = capture.position;
            state.producers_at = producers_at;
        })?;
        shared.remove_old_snapshots();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody syncs while this lives.
pub(crate) struct Held<'d>(&'d Durability);

impl Held<'_> {
    /// Moves the durable end to where the log ends after the truncation.
    pub(crate) fn reset(&self, shared: &Shared, end: Offset) {
        self.0.durable_end.store(end.get(), Ordering::Release);
        self.0.give_up(shared);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.stop_syncing(self.0.lock());
    }
}
