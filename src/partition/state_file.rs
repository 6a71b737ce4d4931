//! The one writer of a partition's `state` file.
//!
//! Two slots of one preallocated file are written in turn, so a full disk stops neither retention nor truncation (I9).
//! Each update writes the slot that is not known to be durable, syncs, and then writes the other one: a torn write
//! leaves the older slot, and later damage to one slot leaves its twin.

use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::format::state::decode_slot;
use crate::format::{FormatError, State, file_name};
use crate::offset::Offset;
use crate::segment::PartitionDir;
use crate::storage::{File, OpenMode};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard};

/// The smallest slot: a sector that most disks write whole.
const SLOT_MIN: usize = 4096;

/// A larger file was not written by us.
const FILE_MAX: u64 = 1 << 30;

/// The result of reading a `state` file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Found {
    /// There is no file.
    Missing,
    /// Neither slot can be read.
    Bad,
    /// The newest undamaged slot.
    Good(State),
}

/// Reads and writes the `state` file. All writes go through [`update`](Self::update), one at a time.
#[derive(Debug)]
pub(crate) struct StateFile {
    dir: Arc<PartitionDir>,
    inner: Mutex<Inner>,
    /// The base of the active segment in `inner`'s state, for readers that must not wait for a write of the file. An
    /// older value only keeps more than necessary. Only a truncation lowers it, under the maintenance lock, and every
    /// thread that removes or replaces segments holds that lock too.
    active_base: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    /// The sequence number of the newest slot.
    sequence: u64,
    /// The size of a slot. 0 while there is no file, or while the file has another size.
    slot: usize,
    /// The slot that the next update writes first.
    first: u64,
    /// Whether the other slot is known to be durable.
    settled: bool,
    /// Whether both slots that were read are the same: then one of them was synced before the other was written.
    agreed: bool,
    /// Whether only one of the slots that were read is undamaged.
    alone: bool,
    state: State,
    /// Whether `state` is without its segments. A caller that needs them reads them from the file again. They would be
    /// most of the memory of an idle partition, and the partition knows its segments itself.
    lean: bool,
}

impl StateFile {
    /// Whether another process has changed the file since it was read.
    pub(crate) fn is_outdated(&self) -> bool {
        StateFile::load(&self.dir).map_or(true, |(_, now)| now.lock().state != self.lock().state)
    }

    /// Reads the file.
    pub(crate) fn load(dir: &Arc<PartitionDir>) -> Result<(Found, StateFile)> {
        let path = dir.file_path(file_name::STATE);
        let bytes = match dir.storage.open(&path, OpenMode::Read) {
            Ok(file) => read_all(&*file).map_err(|e| Error::io(e, &path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(e, &path)),
        };
        let half = bytes.len() / 2;
        // If the length of the file has changed, a slot may be left at either end.
        let slots = [decode_slot(&bytes), decode_slot(&bytes[bytes.len() - half..])];
        let newer = |error: &&FormatError| matches!(error, FormatError::BadVersion { .. });
        if let Some(error) = slots.iter().filter_map(|slot| slot.as_ref().err()).find(newer) {
            return Err(Error::bad_file(&path, error));
        }
        let newest = match &slots {
            [Ok(left), Ok(right)] => Some(usize::from(right.0 > left.0)),
            [Ok(_), Err(_)] => Some(0),
            [Err(_), Ok(_)] => Some(1),
            [Err(_), Err(_)] => None,
        };
        let is_sized = bytes.len() == 2 * half && half.is_power_of_two();
        let alone = slots.iter().any(|slot| slot.is_err());
        let agreed = is_sized && matches!(&slots, [Ok(left), Ok(right)] if left == right);
        // After a crash it is unknown which slot is durable. The one that is not the newest is written first.
        let (found, sequence, first) = match newest {
            Some(at) => {
                let (sequence, state) = slots.into_iter().nth(at).and_then(|slot| slot.ok()).unwrap_or_default();
                (Found::Good(state), sequence, 1 - at as u64)
            }
            None if bytes.is_empty() => (Found::Missing, 0, 0),
            None => (Found::Bad, 0, 0),
        };
        let slot = if is_sized && matches!(found, Found::Good(_)) { half } else { 0 };
        let state = if let Found::Good(state) = &found { state.clone() } else { State::default() };
        let active_base = AtomicU64::new(state.active_base.get());
        let inner = Inner { sequence, slot, first, settled: false, agreed, alone, state, lean: false };
        Ok((found, StateFile { dir: Arc::clone(dir), inner: Mutex::new(inner), active_base }))
    }

    /// Returns the last written state without its segments.
    pub(crate) fn get(&self) -> State {
        let inner = self.lock();
        State { segments: Vec::new(), adopted_gaps: inner.state.adopted_gaps.clone(), ..inner.state }
    }

    /// Returns the last written state with its segments.
    pub(crate) fn read(&self) -> Result<State> {
        self.whole(&self.lock())
    }

    /// Drops the segments from memory until they are needed.
    pub(crate) fn forget_segments(&self) {
        self.lock().forget_segments();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Returns the state with its segments.
    fn whole(&self, inner: &Inner) -> Result<State> {
        if !inner.lean {
            return Ok(inner.state.clone());
        }
        let path = self.dir.file_path(file_name::STATE);
        let bytes = self.dir.storage.open(&path, OpenMode::Read).and_then(|file| read_all(&*file));
        let bytes = bytes.map_err(|e| Error::io(e, &path))?;
        // If one slot is damaged, the other one is used. If both are, the state in memory is used: the segments are a
        // cache.
        let written = bytes.chunks(inner.slot).filter_map(|slot| decode_slot(slot).ok());
        let same = written.filter(|(sequence, _)| *sequence == inner.sequence).map(|(_, state)| state).next();
        Ok(same.unwrap_or_else(|| inner.state.clone()))
    }

    /// Returns the base of the active segment that the file names. Recovery needs that segment: no segment from it on
    /// may be removed or replaced, even if a newer one is active by now.
    pub(crate) fn active_base(&self) -> Offset {
        Offset::new(self.active_base.load(Ordering::Acquire))
    }

    /// Changes the state durably: once this returns, no crash brings the old state back. After an error the old state
    /// is still valid, on disk and in memory, or else the storage has failed and the caller stops writing.
    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut inner = self.lock();
        let mut state = self.whole(&inner)?;
        (inner.state, inner.lean) = (state.clone(), false);
        change(&mut state);
        let written = self.write(&mut inner, state);
        self.active_base.store(inner.state.active_base.get(), Ordering::Release);
        inner.forget_segments();
        written
    }

    fn write(&self, inner: &mut Inner, state: State) -> Result<()> {
        if state == inner.state && inner.slot != 0 {
            return self.settle_slot(inner);
        }
        let path = self.dir.file_path(file_name::STATE);
        let sequence = inner.sequence + 1;
        if state.needed_size() > inner.slot {
            match self.replace(&path, sequence, &state) {
                Ok(slot) => {
                    *inner = Inner {
                        sequence,
                        slot,
                        first: 0,
                        settled: true,
                        agreed: true,
                        alone: false,
                        state,
                        lean: false,
                    };
                    return Ok(());
                }
                // There is no room for larger slots. The part that does not fit is only a cache.
                Err(e) if inner.slot != 0 && *e.kind() == ErrorKind::DiskFull => {}
                Err(e) => return Err(e),
            }
        }
        let slot = inner.slot;
        let bytes = state.encode(sequence, slot).ok_or_else(|| Error::from(ErrorKind::DiskFull).at_path(&path))?;
        let io = |e| Error::io(e, &path);
        self.settle_slot(inner)?;
        let file = self.dir.storage.open(&path, OpenMode::Write).map_err(io)?;
        if let Err(error) = file.write_at(&bytes, inner.first * slot as u64) {
            return Err(inner.undo(&*file).map_or(Error::io(error, &path), |error| fatal(error, &path)));
        }
        file.sync().map_err(|e| fatal(e, &path))?;
        // The new state is durable whether or not the write of the other slot succeeds. The next update writes that
        // slot first.
        let twin = file.write_at(&bytes, (1 - inner.first) * slot as u64).map_err(io);
        inner.first = 1 - inner.first;
        inner.sequence = sequence;
        inner.state = state;
        twin.or_else(|error| if *error.kind() == ErrorKind::DiskFull { Ok(()) } else { Err(error) })
    }

    /// Makes the state that was read durable: the process that wrote it may have been killed before the sync. Nothing
    /// may be done because of that state before this.
    pub(crate) fn settle(&self) -> Result<()> {
        self.settle_slot(&mut self.lock())
    }

    /// Makes the state that was read durable, unless it surely survives a crash. No reader may see a state that a crash
    /// can revert.
    pub(crate) fn settle_seen(&self) -> Result<()> {
        let agreed = self.lock().agreed;
        if agreed { Ok(()) } else { self.settle() }
    }

    fn settle_slot(&self, inner: &mut Inner) -> Result<()> {
        if inner.settled || inner.sequence == 0 {
            return Ok(());
        }
        let path = self.dir.file_path(file_name::STATE);
        if inner.slot == 0 {
            let slot = self.replace(&path, inner.sequence, &inner.state)?;
            (inner.slot, inner.first, inner.settled, inner.agreed) = (slot, 0, true, true);
            return Ok(());
        }
        let io = |e| Error::io(e, &path);
        let file = self.dir.storage.open(&path, OpenMode::Write).map_err(io)?;
        // The slot may be only in the page cache, even after a sync that succeeds (I8). It is written again.
        let read = self.whole(inner)?.encode(inner.sequence, inner.slot).unwrap_or_default();
        file.write_at(&read, (1 - inner.first) * inner.slot as u64).map_err(io)?;
        file.sync().map_err(|e| fatal(e, &path))?;
        if inner.alone {
            // A slot that is torn in the page cache may be whole on disk, and newer.
            file.write_at(&read, inner.first * inner.slot as u64).map_err(io)?;
            file.sync().map_err(|e| fatal(e, &path))?;
            inner.alone = false;
        }
        inner.settled = true;
        Ok(())
    }

    /// Makes the second slot durable as well.
    pub(crate) fn sync(&self) -> Result<()> {
        let inner = self.lock();
        if inner.slot == 0 {
            return Ok(());
        }
        let path = self.dir.file_path(file_name::STATE);
        let io = |e| Error::io(e, &path);
        self.dir.storage.open(&path, OpenMode::Write).map_err(io)?.sync().map_err(|e| fatal(e, &path))
    }

    /// Writes a new file with larger slots and renames it over the old one.
    fn replace(&self, path: &Path, sequence: u64, state: &State) -> Result<usize> {
        let slot = state.needed_size().next_power_of_two().max(SLOT_MIN);
        let temporary = self.dir.file_path(&file_name::temporary(file_name::STATE));
        let io = |e| Error::io(e, &temporary);
        match self.dir.storage.remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => {}
        }
        let bytes = state.encode(sequence, slot).expect("a slot of the needed size holds the state");
        let file = self.dir.storage.open(&temporary, OpenMode::CreateNew).map_err(io)?;
        file.write_at(&[&bytes[..], &bytes[..]].concat(), 0).map_err(io)?;
        file.sync().map_err(io)?;
        self.dir.storage.rename(&temporary, path).map_err(io)?;
        self.dir.storage.sync_dir(&self.dir.path).map_err(|e| fatal(e, &self.dir.path))?;
        Ok(slot)
    }
}

impl Inner {
    /// Drops the segments from memory if the file surely has them: in a slot that was synced, or in both slots.
    fn forget_segments(&mut self) {
        if self.slot != 0 && (self.settled || self.agreed) {
            (self.state.segments, self.lean) = (Vec::new(), true);
        }
    }

    /// Writes the old state durably over the slot whose write has failed: that slot may hold the complete new state,
    /// and a crash would bring it back. The old state is written as the newest one. A process that finds it only in the
    /// page cache then sees that the slots differ, and settles it.
    fn undo(&mut self, file: &dyn File) -> Option<io::Error> {
        let sequence = self.sequence + 2;
        let old = self.state.encode(sequence, self.slot).unwrap_or_default();
        if let Err(error) = file.write_at(&old, self.first * self.slot as u64).and_then(|()| file.sync()) {
            return Some(error);
        }
        (self.sequence, self.first) = (sequence, 1 - self.first);
        None
    }
}

/// Wraps an error after which the contents of the disk are unknown. It never counts as a full disk, whatever its kind,
/// because after a full disk writes may continue.
fn fatal(error: io::Error, path: &Path) -> Error {
    Error::io(io::Error::other(error), path)
}

fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let len = file.info()?.len;
    if len > FILE_MAX {
        return Ok(vec![0]);
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
