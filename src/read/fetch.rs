//! Fetches of whole batches.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{BatchView, Batches, Scratch};
use crate::offset::{Offset, Timestamp};
use crate::partition::core::PartitionCore;
use crate::partition::visibility::{aborted_in, offsets};
use crate::partition::{Isolation, Offsets};
use crate::replay::transactions::AbortedRange;
use crate::segment::list::SegmentList;
use crate::segment::{OpenData, Segment};
use crate::storage::Hold;

/// Options of a fetch.
///
/// ```
/// # use stratalog::{FetchOptions, Log, LogConfig, Offset, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one"])?;
/// events.append_records(["two"])?;
/// let options = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
/// let fetch = events.fetch(Offset::ZERO, options)?;
/// assert_eq!(fetch.batches().count(), 1); // one whole batch all the same
/// let rest = events.fetch(fetch.next_offset, options)?;
/// assert_eq!(rest.next_offset, events.offsets().end);
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchOptions {
    /// About how many bytes to return. At least one batch is returned, whatever its size. Default 1 MiB. A
    /// [`Reader`](crate::Reader) begins with less, and grows to this while it reads on in order.
    pub max_bytes: usize,
    /// How far the fetch may see. Default [`Isolation::End`].
    pub isolation: Isolation,
    /// Whether the CRC of each batch is checked. Default `false`: if the bytes are sent on, the receiver checks them. A
    /// [`Reader`](crate::Reader) always checks.
    pub check_crc: bool,
}

impl Default for FetchOptions {
    fn default() -> FetchOptions {
        FetchOptions { max_bytes: 1 << 20, isolation: Isolation::End, check_crc: false }
    }
}

/// Whole batches as they are on disk, and the offset of the next fetch.
///
/// ```
/// # use stratalog::{FetchOptions, Log, LogConfig, Offset, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one", "two"])?;
/// events.append_records(["three"])?;
/// let fetch = events.fetch(Offset::ZERO, FetchOptions::default())?;
/// let mut counts = Vec::new();
/// for batch in fetch.batches() {
///     counts.push(batch?.header().count);
/// }
/// assert_eq!(counts, [2, 1]);
/// assert_eq!(fetch.next_offset.get(), 3);
/// # log.close()
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Fetch {
    pub(super) first: Bytes,
    pub(super) more: Vec<Bytes>,
    region: Option<FileRegion>,
    from: Offset,
    /// Where the next fetch begins. It advances even if no record is left there: compaction leaves gaps.
    pub next_offset: Offset,
    /// The partition's offsets at the time of the fetch.
    pub offsets: Offsets,
    /// Aborted transactions with records in the batches; only under [`Isolation::Committed`].
    pub aborted: Vec<AbortedRange>,
}

/// The position of a fetch's first batches in their file, for `sendfile`. While the region exists, the bytes do not
/// change, and the file is neither cut below them nor removed.
///
/// ```
/// # use std::fs::File;
/// # use std::os::unix::fs::FileExt;
/// # use stratalog::{FetchOptions, Log, LogConfig, Offset, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one"])?;
/// let fetch = events.fetch(Offset::ZERO, FetchOptions::default())?;
/// let region = fetch.region().unwrap();
/// // A server gives the descriptor, the position and the length to `sendfile`. Here they are read.
/// let file = File::from(region.descriptor().unwrap().try_clone_to_owned().unwrap());
/// let mut bytes = vec![0; region.len() as usize];
/// file.read_exact_at(&mut bytes, region.position()).unwrap();
/// assert_eq!(&bytes, fetch.chunks().next().unwrap());
/// # log.close()
/// # }
/// ```
#[derive(Clone)]
pub struct FileRegion {
    /// Dropped before the file: once the file is removed and closed, another file may get its identity.
    _hold: Arc<Hold>,
    data: Arc<OpenData>,
    /// A segment removed by compaction or retention stays on disk while this reference exists.
    _segment: Arc<Segment>,
    position: u64,
    len: u64,
}

impl Fetch {
    /// Returns the bytes, in one piece for each segment read.
    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).filter(|first| !first.is_empty()).chain(&self.more)
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.chunks().map(Bytes::len).sum()
    }

    /// Whether there is no batch.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Returns the batches. The first one may begin before the requested offset.
    pub fn batches(&self) -> impl Iterator<Item = Result<BatchView<'_>>> {
        self.chunks().flat_map(|chunk| Batches::new(chunk)).map(|batch| batch.map_err(Error::from))
    }

    /// Returns the requested offset. The caller must skip records before it in the first batch.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// Returns the position of the first chunk in its file; `None` if there is no chunk.
    pub fn region(&self) -> Option<&FileRegion> {
        self.region.as_ref()
    }
}

impl FileRegion {
    /// Returns the file descriptor; `None` if the storage has no descriptors.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.data.file.descriptor()
    }

    /// Returns the position of the first byte in the file.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the region is empty. It never is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl std::fmt::Debug for FileRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileRegion[{}, +{})", self.position, self.len)
    }
}

/// Returns whole batches, starting with the one that holds `from`.
pub(crate) fn fetch(core: &PartitionCore, from: Offset, options: FetchOptions) -> Result<Fetch> {
    undisturbed(core, || fetch_seen(core, &seen(core, || Ok(core.view.load()))?, from, options, true))
}

/// Does the same for a reader: from the view that the reader must continue with, and without the file region.
pub(super) fn fetch_from(
    core: &PartitionCore,
    mut load: impl FnMut() -> Result<Arc<SegmentList>>,
    from: Offset,
    options: FetchOptions,
) -> Result<Fetch> {
    undisturbed(core, || fetch_seen(core, &seen(core, &mut load)?, from, options, false))
}

/// What a read works on.
struct Seen {
    view: Arc<SegmentList>,
    /// The ends below which the view certainly has everything, and the read certainly looks. A read that finds nothing
    /// reports these ends, so a reader that waits for more misses nothing. The high watermark may have been set back
    /// meanwhile.
    sure: Offsets,
    /// The ends loaded after the view: everything that the view had when it was loaded is below them. The ends from
    /// before it are not enough, because a compaction may have kept only newer records in place of all below those
    /// ends. Anything removed from the view is below this log start.
    offsets: Offsets,
}

fn seen(core: &PartitionCore, load: impl FnOnce() -> Result<Arc<SegmentList>>) -> Result<Seen> {
    let before = offsets(core);
    let view = load()?;
    let offsets = offsets(core);
    let start = offsets.start;
    let lower = |one: Offset, other: Offset| one.min(other).max(start);
    let sure = Offsets {
        start,
        end: lower(before.end, offsets.end),
        durable: lower(before.durable, offsets.durable),
        high_watermark: lower(before.high_watermark, offsets.high_watermark),
        last_stable: lower(before.last_stable, offsets.last_stable),
    };
    Ok(Seen { view, sure, offsets })
}

/// Repeats a read that a truncation has overlapped: the read may have returned bytes that are gone, or reported them as
/// damage.
fn undisturbed<T>(core: &PartitionCore, read: impl FnMut() -> Result<T>) -> Result<T> {
    let done = core.cuts.undisturbed(|| core.wait_for_cut(), read);
    // Once the log is closed or the topic deleted, the files may be gone or belong to another owner.
    core.check_open().and(done).map_err(|error| core.blame(error))
}

fn fetch_seen(
    core: &PartitionCore,
    seen: &Seen,
    from: Offset,
    options: FetchOptions,
    with_region: bool,
) -> Result<Fetch> {
    let Seen { view, sure, offsets } = seen;
    let offsets = *offsets;
    check_range(core, from, &offsets)?;
    let mut limit = offsets.visible(options.isolation);
    if core.health.is_poisoned() {
        // What the failed sync left in the page cache may not be on disk.
        limit = limit.min(offsets.durable);
    }
    let mut fetch = Fetch {
        first: Bytes::new(),
        more: Vec::new(),
        region: None,
        from,
        next_offset: from,
        offsets,
        aborted: Vec::new(),
    };
    let mut size = 0;
    for segment in view.from(from) {
        if fetch.next_offset >= limit || segment.base() >= limit || size >= options.max_bytes && size > 0 {
            break;
        }
        let Some(slice) = segment.slice(fetch.next_offset, limit, options.max_bytes - size, size == 0)? else {
            // Up to the log end there are whole batches: none where one must be has lost its offset.
            if size == 0 && !segment.is_sealed() && limit == offsets.end && fetch.next_offset < limit {
                return Err(Error::corrupt(&segment.path(), segment.len(), "offsets below the log end are not there"));
            }
            // With batches in hand it may also be that the next one is too large for the rest of the budget.
            if size > 0 || segment.end() > limit || !segment.is_sealed() {
                break;
            }
            fetch.next_offset = fetch.next_offset.max(segment.end());
            continue;
        };
        if options.check_crc {
            check_crcs(segment, slice.position, &slice.bytes)?;
        }
        size += slice.bytes.len();
        fetch.next_offset = slice.next;
        if fetch.first.is_empty() {
            fetch.region = if with_region { region(segment, &slice)? } else { None };
            fetch.first = slice.bytes;
        } else {
            fetch.more.push(slice.bytes);
        }
        if slice.next < segment.end() {
            break;
        }
    }
    if fetch.is_empty() && fetch.next_offset == from {
        fetch.offsets = *sure;
    }
    if options.isolation == Isolation::Committed && !fetch.is_empty() {
        fetch.aborted = aborted_in(core, view, from, fetch.next_offset)?;
    }
    Ok(fetch)
}

fn check_range(core: &PartitionCore, from: Offset, offsets: &Offsets) -> Result<()> {
    if from >= offsets.start && from <= offsets.end {
        return Ok(());
    }
    // Nothing beyond damage found at the open is served. The damage is returned as the reason.
    if from > offsets.end
        && let Some(reason) = core.health.reason()
    {
        return Err(reason);
    }
    Err(ErrorKind::OffsetOutOfRange { requested: from, start: offsets.start, end: offsets.end }.into())
}

fn check_crcs(segment: &Segment, position: u64, bytes: &[u8]) -> Result<()> {
    let mut batches = Batches::new(bytes);
    loop {
        let at = position + batches.position() as u64;
        let Some(batch) = batches.next() else { return Ok(()) };
        batch
            .and_then(|batch| batch.check_crc())
            .map_err(|why| Error::corrupt(&segment.path(), at, why.to_string()))?;
    }
}

fn region(segment: &Arc<Segment>, slice: &crate::segment::Slice) -> Result<Option<FileRegion>> {
    let data = segment.open()?;
    let len = slice.bytes.len() as u64;
    // While the segment is being cut there is no hold, and the read is repeated.
    let hold = segment.hold(&data, slice.position + len).map_err(|e| Error::io(e, &segment.path()))?;
    Ok(hold.map(|hold| FileRegion {
        data,
        _segment: Arc::clone(segment),
        _hold: Arc::new(hold),
        position: slice.position,
        len,
    }))
}

/// Returns the offset of the first record with a timestamp at or after `at`.
pub(crate) fn offset_for(core: &PartitionCore, at: Timestamp) -> Result<Option<Offset>> {
    undisturbed(core, || offset_in(&seen(core, || Ok(core.view.load()))?, at))
}

fn offset_in(seen: &Seen, at: Timestamp) -> Result<Option<Offset>> {
    let Seen { view, offsets, .. } = seen;
    let Offsets { start, end, .. } = *offsets;
    let mut scratch = Scratch::default();
    for segment in view.from(start) {
        if segment.is_sealed() && segment.max_timestamp()? < at {
            continue;
        }
        let mut from = segment.floor_time(at)?.max(start);
        while let Some(slice) = segment.slice(from, end, 1 << 16, true)? {
            for batch in Batches::new(&slice.bytes) {
                let corrupt =
                    |why: crate::format::FormatError| Error::corrupt(&segment.path(), slice.position, why.to_string());
                let batch = batch.map_err(corrupt)?;
                if batch.header().max_timestamp < at {
                    continue;
                }
                for record in batch.records(&mut scratch).map_err(corrupt)? {
                    let record = record.map_err(corrupt)?;
                    if record.timestamp >= at && record.offset >= start {
                        return Ok(Some(record.offset));
                    }
                }
            }
            from = slice.next;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
