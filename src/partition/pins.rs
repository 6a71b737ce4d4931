//! Open readers, registered positions and the owner's pins: all that relies on what a compaction would remove.
//!
//! # What is promised about tombstones, and to whom
//!
//! Removing a record that a newer one of its key supersedes harms no reader: the newer one is still ahead of every
//! reader that saw the older one. A tombstone is the only record that is removed without a successor. A reader that has
//! read an older value of the key and has not reached the tombstone would keep that value for ever. So (I5) a tombstone
//! stays while there may be such a reader. The promise holds for
//!
//! - an open reader, from its creation until it is dropped or moves to another offset with a new pin;
//! - a position registered under a name, from the first compaction that begins after the registration.
//!
//! A reader or position in the way of a removal may stay at the same offset. If a compaction finds it there again
//! `reader_hold_max` or more later, it does not hold tombstones any longer. It is marked only when a tombstone that it
//! has not passed is removed. From then on it gets [`LostTombstones`](ErrorKind::LostTombstones) instead of any further
//! record. A reader that waits at the log end is never in the way. A consumer that fetches without a position, or comes
//! back after the log was closed (nothing here is stored), has only the time until the tombstone's horizon, as in
//! Kafka.
//!
//! # Why no reader is missed
//!
//! A compaction decides at its start which tombstones to remove, and publishes its output some time later. By then
//! there may be readers that it has not seen. Everything here is under one lock, so each reader is created
//!
//! - before the compaction begins: the reader bounds what may be removed;
//! - after the output is published: the reader never sees an older value, because this swap or an earlier one removed
//!   them all;
//! - in between. The reader might read an older value from the old segments, and then miss the tombstone in the new
//!   ones. So it keeps the view (the list of segments) that it begins with until it is past everything that may be
//!   removed: the tombstone is in the same view as the older value. Segments that have left the published view stay
//!   readable for readers that hold the old view.
//!
//! A position has no view to keep. If it was registered, or set back, in between, it is marked if it has not passed the
//! tombstone by the time of the publication. Such a position has only just begun.
//!
//! Marks are set before the new view is published, and read after a view was loaded: a reader that sees a view without
//! the tombstone sees the mark.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::offset::{Offset, Timestamp};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicU64, Mutex, MutexGuard};

/// How many positions a partition may have.
const MAX_POSITIONS: usize = 10_000;
/// How long the name of a position may be, in bytes.
const MAX_NAME: usize = 249;
const NOT_LOST: u64 = u64::MAX;
const NOT_CUT: u64 = u64::MAX;

/// The readers, positions and pins of a partition.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    registry: Arc<Mutex<Registry>>,
}

#[derive(Debug, Default)]
struct Registry {
    /// Readers, pins and passes are numbered in the order in which they come.
    last_id: u64,
    readers: BTreeMap<u64, Standing>,
    positions: BTreeMap<Box<str>, Standing>,
    owner: BTreeSet<(Offset, u64)>,
    pass: Option<RunningPass>,
}

/// A compaction between the choice of its tombstones and its end.
#[derive(Clone, Copy, Debug)]
struct RunningPass {
    floor: Offset,
}

/// A reader or position, as compactions see it.
#[derive(Debug)]
struct Standing {
    place: Arc<Place>,
    /// Below this a reader keeps the view that it began with.
    hold_until: Offset,
    /// Where a compaction found it in its way, and when it was first found at that place.
    seen: Option<(Offset, Timestamp)>,
}

/// Where a reader stands. Moving on takes no lock.
#[derive(Debug)]
struct Place {
    /// The offset that is read next. A compaction that sees an older place keeps, or marks, more than it has to.
    next: AtomicU64,
    /// Where it stood when it lost a tombstone.
    lost_from: AtomicU64,
    /// The lowest offset to which the log was cut back since the reader asked last. Set before anything is appended there,
    /// so a reader that sees what was appended sees it.
    cut_to: AtomicU64,
}

impl Pins {
    /// A reader that goes from `offset` on, seeing views of type `V`.
    pub(crate) fn reader<V: Clone>(&self, offset: Offset) -> ReaderPin<V> {
        let mut registry = self.lock();
        let id = registry.next_id();
        let hold_until = registry.pass.map_or(Offset::ZERO, |pass| pass.floor);
        let standing = Standing::at(offset, hold_until);
        let place = Arc::clone(&standing.place);
        registry.readers.insert(id, standing);
        ReaderPin { registry: Arc::clone(&self.registry), id, place, hold_until, held: None }
    }

    /// A pin of the owner's.
    pub(crate) fn pin(&self, offset: Offset) -> Pin {
        let mut registry = self.lock();
        let id = registry.next_id();
        registry.owner.insert((offset, id));
        Pin { registry: Arc::clone(&self.registry), id, offset }
    }

    /// Nothing from here on may be compacted.
    pub(crate) fn owner_bound(&self) -> Option<Offset> {
        self.lock().owner.first().map(|(offset, _)| *offset)
    }

    /// Registers a position, or moves one: what lies below `offset` was read. Tombstones from there on are kept for it.
    ///
    /// `Ok` says that nothing was missed below `offset`, if everything since the last call was read.
    /// [`LostTombstones`](ErrorKind::LostTombstones) says that something was, and is said until the position is
    /// [removed](Pins::unregister_position): its reader has to start over. A new position beyond 10,000, or a name
    /// longer than 249 bytes, is [`InvalidConfig`](ErrorKind::InvalidConfig).
    pub(crate) fn register_position(&self, name: &str, offset: Offset) -> Result<()> {
        let mut registry = self.lock();
        if let Some(known) = registry.positions.get(name) {
            known.place.check()?;
            known.place.set(offset);
            return Ok(());
        }
        if name.len() > MAX_NAME {
            return Err(ErrorKind::InvalidConfig("the name of a position has at most 249 bytes".into()).into());
        }
        if registry.positions.len() >= MAX_POSITIONS {
            return Err(ErrorKind::InvalidConfig("a partition has at most 10000 registered positions".into()).into());
        }
        registry.positions.insert(name.into(), Standing::at(offset, Offset::ZERO));
        Ok(())
    }

    /// Forgets a position. Returns whether there was one.
    pub(crate) fn unregister_position(&self, name: &str) -> bool {
        self.lock().positions.remove(name).is_some()
    }

    /// Begins a compaction that may remove tombstones below `below`: finds out which of them nobody needs. It has to be
    /// called before anything is decided about tombstones, and what it returns kept until all output is published.
    ///
    /// A compaction runs alone in its partition; one at a time.
    pub(crate) fn begin_pass(&self, below: Offset, now: Timestamp, reader_hold_max: Duration) -> TombstonePass<'_> {
        let mut registry = self.lock();
        assert!(registry.pass.is_none(), "one compaction at a time");
        let mut holder: Option<Holder> = None;
        for (_, name, standing) in registry.all() {
            let Some((offset, since)) = standing.look(below, now) else { continue };
            if now < since.plus(reader_hold_max) && holder.as_ref().is_none_or(|lowest| offset < lowest.offset) {
                let name = name.map(str::to_owned);
                holder = Some(Holder { name, offset, holds_until: since.plus(reader_hold_max) });
            }
        }
        let floor = holder.as_ref().map_or(below, |holder| holder.offset);
        let id = registry.next_id();
        registry.pass = Some(RunningPass { floor });
        TombstonePass { pins: self, id, floor, holder }
    }

    /// Who stands lowest of all below `below`: where, and the name of a position.
    pub(crate) fn lowest(&self, below: Offset) -> Option<(Offset, Option<String>)> {
        let mut registry = self.lock();
        let standing = registry.all().filter(|(_, _, standing)| !standing.place.is_lost());
        let standing = standing.map(|(_, name, standing)| (standing.place.get(), name));
        let lowest = standing.filter(|(offset, _)| *offset < below).min_by_key(|(offset, _)| *offset);
        lowest.map(|(offset, name)| (offset, name.map(str::to_owned)))
    }

    /// The log was cut back to `to`: readers forget what they have fetched above. One that still keeps a view from before
    /// cannot go on with that, nor safely with another: it is told that it lost tombstones.
    pub(crate) fn truncated(&self, to: Offset) {
        let registry = self.lock();
        registry.readers.values().for_each(|standing| standing.place.cut(to));
        for standing in registry.readers.values().filter(|standing| standing.place.get() < standing.hold_until) {
            standing.place.lose();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }
}

/// The choice of tombstones of one compaction. While it lives, new readers keep the view that they begin with.
#[derive(Debug)]
pub(crate) struct TombstonePass<'a> {
    pins: &'a Pins,
    id: u64,
    floor: Offset,
    holder: Option<Holder>,
}

/// Who keeps tombstones from going.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    /// The name of a position; `None` for a reader.
    pub(crate) name: Option<String>,
    /// The offset that it reads next.
    pub(crate) offset: Offset,
    /// When it holds no longer, should it stay there: a compaction is worth while then.
    pub(crate) holds_until: Timestamp,
}

/// Who lost tombstones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LostReader {
    /// The name of a position; `None` for a reader.
    pub(crate) name: Option<String>,
    /// Where it stood.
    pub(crate) from: Offset,
}

impl TombstonePass<'_> {
    /// Tombstones from here on stay, whatever their horizon.
    pub(crate) fn floor(&self) -> Offset {
        self.floor
    }

    /// Who stands there, when it is not the bound that was asked for.
    pub(crate) fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// Calls `publish`, which makes visible an output that lacks tombstones up to the offset `highest`, below the
    /// floor. Who has not passed that offset, and is not held to be on the way any more, is marked before.
    ///
    /// An output that lacks no tombstone is published without this.
    pub(crate) fn publish<R>(&self, highest: Offset, publish: impl FnOnce() -> R) -> (R, Vec<LostReader>) {
        assert!(highest < self.floor, "a tombstone above the floor has to stay");
        let mut registry = self.pins.lock();
        let mut lost = Vec::new();
        for (reader, name, standing) in registry.all() {
            // A reader that was made since the pass began keeps a view with the tombstones.
            let keeps_view = reader.is_some_and(|id| id > self.id);
            if !keeps_view && !standing.place.is_lost() && standing.place.get() <= highest {
                lost.push(LostReader { name: name.map(str::to_owned), from: standing.place.lose() });
            }
        }
        (publish(), lost)
    }
}

impl Drop for TombstonePass<'_> {
    fn drop(&mut self) {
        self.pins.lock().pass = None;
    }
}

/// A reader's place in the log.
#[derive(Debug)]
pub(crate) struct ReaderPin<V> {
    registry: Arc<Mutex<Registry>>,
    id: u64,
    place: Arc<Place>,
    hold_until: Offset,
    held: Option<V>,
}

impl<V: Clone> ReaderPin<V> {
    /// Begins anew at `offset`, as a reader that is made now would.
    pub(crate) fn restart(&mut self, offset: Offset) {
        let mut registry = lock(&self.registry);
        let pass = registry.pass;
        if pass.is_some() {
            // Its number tells that it was made since the pass began.
            let id = registry.next_id();
            if let Some(standing) = registry.readers.remove(&self.id) {
                registry.readers.insert(id, standing);
            }
            self.id = id;
        }
        self.hold_until = pass.map_or(Offset::ZERO, |pass| pass.floor);
        if let Some(standing) = registry.readers.get_mut(&self.id) {
            (standing.hold_until, standing.seen) = (self.hold_until, None);
        }
        self.place.begin(offset);
        drop(registry);
        self.held = None;
    }

    /// Whether the log was cut back since this was asked last: see [`take_cut`](Self::take_cut).
    #[inline]
    pub(crate) fn is_cut(&self) -> bool {
        self.place.cut_to.load(Ordering::Acquire) != NOT_CUT
    }

    /// The lowest offset to which the log was cut back since this was called last.
    pub(crate) fn take_cut(&self) -> Option<Offset> {
        let cut_to = self.place.cut_to.swap(NOT_CUT, Ordering::AcqRel);
        (cut_to != NOT_CUT).then(|| Offset::new(cut_to))
    }

    /// Moves on to `next`: everything below was read. Returns the view to go on with, the current one as `load` has it
    /// or the one that has to be kept. Called again before each further look at the log.
    ///
    /// [`LostTombstones`](ErrorKind::LostTombstones), now and for ever after, when a compaction did not wait for this
    /// reader.
    pub(crate) fn view_at(&mut self, next: Offset, load: impl FnOnce() -> V) -> Result<V> {
        assert!(next >= self.place.get(), "to go back takes another pin");
        self.place.set(next);
        let view = match self.held.take() {
            Some(held) if next < self.hold_until => held,
            _ => load(),
        };
        // Not before the view is loaded: see the head of this file.
        self.place.check()?;
        self.held = (next < self.hold_until).then(|| view.clone());
        Ok(view)
    }
}

impl<V> Drop for ReaderPin<V> {
    fn drop(&mut self) {
        lock(&self.registry).readers.remove(&self.id);
    }
}

/// Keeps compactions below an offset while the pin exists: compactions that start later leave everything from this
/// offset up untouched. Everything below is compacted as usual.
///
/// For an owner whose own state still refers to records by offset, such as a state machine with a snapshot of
/// everything below. A pin is not stored: after each open of the log the owner must make it again before the first
/// maintenance.
///
/// ```
/// # use stratalog::{Cleanup, CompactMode, Log, LogConfig, Offset, Start, Timestamp, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let config = TopicConfig::new().cleanup(Cleanup::Compact);
/// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
/// events.append_records([("ada", "London"), ("ada", "Paris")])?;
/// events.roll()?;
/// events.flush()?;
/// let pin = events.pin(Offset::ZERO);
/// events.compact(Timestamp::now(), CompactMode::Full)?;
/// assert_eq!(events.reader(Start::Earliest)?.records().count(), 2); // both are kept
/// drop(pin);
/// events.compact(Timestamp::now(), CompactMode::Full)?;
/// assert_eq!(events.reader(Start::Earliest)?.records().count(), 1);
/// # log.close()
/// # }
/// ```
#[derive(Debug)]
pub struct Pin {
    registry: Arc<Mutex<Registry>>,
    id: u64,
    offset: Offset,
}

impl Pin {
    /// Returns the offset of the pin.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Moves the pin to another offset. At every moment one of the two offsets is pinned.
    pub fn move_to(&mut self, offset: Offset) {
        let mut registry = lock(&self.registry);
        registry.owner.remove(&(self.offset, self.id));
        registry.owner.insert((offset, self.id));
        self.offset = offset;
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        lock(&self.registry).owner.remove(&(self.offset, self.id));
    }
}

impl Registry {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The readers with their ids and the positions with their names.
    fn all(&mut self) -> impl Iterator<Item = (Option<u64>, Option<&str>, &mut Standing)> {
        let readers = self.readers.iter_mut().map(|(id, standing)| (Some(*id), None, standing));
        let positions = self.positions.iter_mut().map(|(name, standing)| (None, Some(&**name), standing));
        readers.chain(positions)
    }
}

impl Standing {
    fn at(next: Offset, hold_until: Offset) -> Standing {
        let (next, lost_from) = (AtomicU64::new(next.get()), AtomicU64::new(NOT_LOST));
        let place = Place { next, lost_from, cut_to: AtomicU64::new(NOT_CUT) };
        Standing { place: Arc::new(place), hold_until, seen: None }
    }

    /// A compaction below `below` looks at it: where it stands in the way, and since when.
    fn look(&mut self, below: Offset, now: Timestamp) -> Option<(Offset, Timestamp)> {
        let next = self.place.get();
        self.seen = match self.seen {
            _ if next >= below || self.place.is_lost() => None,
            // A clock that was set back does not make the wait longer.
            Some((at, since)) if at == next => Some((at, since.min(now))),
            _ => Some((next, now)),
        };
        self.seen
    }
}

impl Place {
    #[inline]
    fn get(&self) -> Offset {
        Offset::new(self.next.load(Ordering::Acquire))
    }

    #[inline]
    fn set(&self, next: Offset) {
        self.next.store(next.get(), Ordering::Release);
    }

    /// Only under the lock.
    fn begin(&self, offset: Offset) {
        self.set(offset);
        self.lost_from.store(NOT_LOST, Ordering::Release);
    }

    fn cut(&self, to: Offset) {
        self.cut_to.fetch_min(to.get(), Ordering::AcqRel);
    }

    #[inline]
    fn is_lost(&self) -> bool {
        self.lost_from.load(Ordering::Acquire) != NOT_LOST
    }

    /// Only under the lock.
    fn lose(&self) -> Offset {
        let from = self.get();
        self.lost_from.store(from.get(), Ordering::Release);
        from
    }

    #[inline]
    fn check(&self) -> Result<()> {
        match self.lost_from.load(Ordering::Acquire) {
            NOT_LOST => Ok(()),
            from => Err(Error::new(ErrorKind::LostTombstones { from: Offset::new(from) })),
        }
    }
}

fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    // Nothing panics half way through a change, but for a caller's closure, and then nothing is half changed.
    registry.lock()
}

#[cfg(all(test, loom))]
mod model_tests;
#[cfg(test)]
mod tests;
