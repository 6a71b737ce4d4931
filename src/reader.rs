//! Reading: fetches of whole batches, and readers that go from one to the next.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BATCH_HEADER_LEN, BatchHeader, BatchView, Batches, Codec, RecordView, Records, Scratch, SuspendedRecords,
};
use crate::isolation::{Isolation, Offsets, aborted_in, offsets};
use crate::offset::{Offset, Timestamp};
use crate::pins::ReaderPin;
use crate::segment::{OpenData, Segment};
use crate::shared::Shared;
use crate::sync::atomic::{Ordering, fence};
use crate::tail::WaitOutcome;
use crate::transactions::{self, AbortedRange};
use crate::view::View;

/// What a reader asks for first, in bytes: who reads one record and goes elsewhere does not pay for more.
const FIRST_FETCH: usize = 1 << 7;
/// How much more it asks for each time it goes on from there.
const FETCH_GROWTH: usize = 4;

/// What a fetch is to return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchOptions {
    /// About how many bytes: at least one batch is returned, whatever its size. Default 1 MiB.
    /// A [`Reader`] begins with less, and comes to this while it goes on in order.
    pub max_bytes: usize,
    /// How far it may see. Default [`Isolation::End`].
    pub isolation: Isolation,
    /// Whether the CRC of each batch is checked. Default `false`: who sends the bytes on has the receiver check them.
    /// A [`Reader`] always checks.
    pub check_crc: bool,
}

impl Default for FetchOptions {
    fn default() -> FetchOptions {
        FetchOptions { max_bytes: 1 << 20, isolation: Isolation::End, check_crc: false }
    }
}

/// Whole batches, as they lie on disk, and where to go on.
#[derive(Clone, Debug)]
pub struct Fetch {
    first: Bytes,
    more: Vec<Bytes>,
    region: Option<FileRegion>,
    from: Offset,
    /// Where the next fetch begins. It grows even where no record is left: compaction leaves gaps.
    pub next_offset: Offset,
    /// The partition's offsets at the time.
    pub offsets: Offsets,
    /// Aborted transactions with records in the batches; only under [`Isolation::Committed`].
    pub aborted: Vec<AbortedRange>,
}

/// The place in a file of the first batches of a fetch, for `sendfile`. While it lives the file is neither cut nor
/// overwritten.
#[derive(Clone)]
pub struct FileRegion {
    data: Arc<OpenData>,
    _lease: Arc<()>,
    position: u64,
    len: u64,
}

impl Fetch {
    /// The bytes, in as many pieces as segments were touched.
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

    /// The batches. The first one may begin before the offset asked for.
    pub fn batches(&self) -> impl Iterator<Item = Result<BatchView<'_>>> {
        self.chunks().flat_map(|chunk| Batches::new(chunk)).map(|batch| batch.map_err(Error::from))
    }

    /// The offset asked for: records before it, in the first batch, are to be skipped.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// Where the first chunk lies in its file; `None` where the storage has no descriptors.
    pub fn region(&self) -> Option<&FileRegion> {
        self.region.as_ref()
    }
}

impl FileRegion {
    /// The file.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.data.file.descriptor().expect("a region is only made of a file with a descriptor")
    }

    /// The first byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is empty; it never is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl std::fmt::Debug for FileRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileRegion[{}, +{})", self.position, self.len)
    }
}

/// Whole batches from the one that holds `from` on.
pub(crate) fn fetch(shared: &Shared, from: Offset, options: FetchOptions) -> Result<Fetch> {
    fetch_from(shared, || Ok(shared.view.load()), from, options)
}

/// The same, from the view that the caller has to go on with.
fn fetch_from(
    shared: &Shared,
    mut load: impl FnMut() -> Result<Arc<View>>,
    from: Offset,
    options: FetchOptions,
) -> Result<Fetch> {
    undisturbed(shared, || fetch_view(shared, &*load()?, from, options))
}

/// Reads again what a truncation has come in between of: it may have shown bytes that are gone, or shown them as
/// damage.
fn undisturbed<T>(shared: &Shared, mut read: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        let cuts = shared.wait_for_cut();
        let done = read();
        // It looks for leases after it has changed the count (begin_cut).
        fence(Ordering::SeqCst);
        if shared.cuts.load(Ordering::Acquire) == cuts {
            // The files may be gone, or another's, once the log is closed or the topic deleted.
            return shared.check_open().and(done).map_err(|error| shared.blame(error));
        }
    }
}

fn fetch_view(shared: &Shared, view: &View, from: Offset, options: FetchOptions) -> Result<Fetch> {
    let offsets = offsets(shared);
    check_range(shared, from, &offsets)?;
    let mut limit = offsets.visible(options.isolation);
    if shared.health.is_poisoned() {
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
            fetch.region = region(segment, &slice)?;
            fetch.first = slice.bytes;
        } else {
            fetch.more.push(slice.bytes);
        }
        if slice.next < segment.end() {
            break;
        }
    }
    if options.isolation == Isolation::Committed && !fetch.is_empty() {
        fetch.aborted = aborted_in(shared, view, from, fetch.next_offset)?;
    }
    Ok(fetch)
}

fn check_range(shared: &Shared, from: Offset, offsets: &Offsets) -> Result<()> {
    if from >= offsets.start && from <= offsets.end {
        return Ok(());
    }
    // Beyond damage found at open nothing is served, and the damage is the reason.
    if from > offsets.end
        && let Some(reason) = shared.health.reason()
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

fn region(segment: &Segment, slice: &crate::segment::Slice) -> Result<Option<FileRegion>> {
    let data = segment.open()?;
    if data.file.descriptor().is_none() {
        return Ok(None);
    }
    Ok(Some(FileRegion { data, _lease: segment.lease(), position: slice.position, len: slice.bytes.len() as u64 }))
}

/// The first offset at or after which every record is at least as late as `at`: the offset of the first such record.
pub(crate) fn offset_for(shared: &Shared, at: Timestamp) -> Result<Option<Offset>> {
    undisturbed(shared, || offset_in(shared, &shared.view.load(), at))
}

fn offset_in(shared: &Shared, view: &View, at: Timestamp) -> Result<Option<Offset>> {
    let start = shared.ends.log_start();
    let end = offsets(shared).end;
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

/// Reads a partition from an offset on, in order. `None` means "the end for now": [`wait`](Reader::wait) for more, and
/// go on. It disturbs nobody, and nobody disturbs it: a compaction that starts meanwhile changes nothing for what it
/// has fetched, and keeps the tombstones that it has not read yet (up to `reader_hold_max`).
///
/// Errors are sticky: after one, every call returns it again, so that going on never skips data.
/// [`seek`](Reader::seek) begins anew.
pub struct Reader {
    shared: Arc<Shared>,
    options: FetchOptions,
    pin: ReaderPin<Arc<View>>,
    next: Offset,
    /// What was fetched and not read yet: the rest of one piece, then whole ones, the last one first.
    bytes: Bytes,
    more: Vec<Bytes>,
    aborted: Vec<AbortedRange>,
    /// Where the fetch ends.
    fetched_to: Offset,
    /// Up to where there was nothing to read when it was looked at: what is visible may end inside a batch.
    empty_to: Offset,
    /// How much the next fetch asks for.
    ahead: usize,
    /// The batch that was read last, and those of its records that were not.
    batch: Bytes,
    records: Option<SuspendedRecords>,
    /// Whether they are in `scratch`; else they are in the batch.
    compressed: bool,
    scratch: Scratch,
    failed: Option<Error>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, from: Offset, options: FetchOptions) -> Reader {
        let pin = shared.pins.reader(from);
        Reader {
            shared,
            options: FetchOptions { check_crc: true, ..options },
            pin,
            next: from,
            bytes: Bytes::new(),
            more: Vec::new(),
            aborted: Vec::new(),
            fetched_to: from,
            empty_to: from,
            ahead: FIRST_FETCH,
            batch: Bytes::new(),
            records: None,
            compressed: false,
            scratch: Scratch::default(),
            failed: None,
        }
    }

    /// The offset that is read next.
    pub fn offset(&self) -> Offset {
        self.next
    }

    /// Goes on at another offset, and forgets an error.
    pub fn seek(&mut self, offset: Offset) {
        self.pin = self.shared.pins.reader(offset);
        self.bytes = Bytes::new();
        self.more.clear();
        self.records = None;
        self.failed = None;
        // Batches are alike: as much as the last one had.
        self.ahead = FIRST_FETCH.max(self.batch.len());
        (self.next, self.fetched_to, self.empty_to) = (offset, offset, offset);
    }

    /// The next batch, its CRC checked, or `None` at the end for now. Control batches and aborted ones are among them.
    /// The first one may begin before the offset asked for.
    pub fn next_batch(&mut self) -> Result<Option<BatchView<'_>>> {
        self.records = None;
        if !self.take_batch()? {
            return Ok(None);
        }
        let batch = BatchView::parse(&self.batch)?;
        self.next = batch.header().next_offset();
        Ok(Some(batch))
    }

    /// The next record, or `None` at the end for now. Control records, and under [`Isolation::Committed`] those of
    /// aborted transactions, are left out.
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<RecordView<'_>>> {
        while self.records.as_ref().is_none_or(SuspendedRecords::is_done) {
            if !self.enter_batch()? {
                return Ok(None);
            }
        }
        let Some(records) = &mut self.records else { return Ok(None) };
        let bytes = if self.compressed {
            self.scratch.decompressed()
        } else {
            self.batch.get(BATCH_HEADER_LEN..).unwrap_or_default()
        };
        match records.next(bytes) {
            Some(Ok(record)) => {
                self.next = record.offset + 1;
                Ok(Some(record))
            }
            Some(Err(why)) => {
                self.records = None;
                let error = Error::from(why);
                self.failed = Some(error.clone());
                Err(error)
            }
            None => Ok(None),
        }
    }

    /// Waits until there is something to read behind [`offset`](Reader::offset), or for `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<WaitOutcome> {
        self.shared.wait(self.options.isolation, self.next.max(self.empty_to) + 1, Some(timeout))
    }

    /// Prepares the records of the next batch; `false` at the end.
    fn enter_batch(&mut self) -> Result<bool> {
        if let Some(header) = self.records.take().and_then(|_| BatchHeader::parse(&self.batch).ok()) {
            self.next = self.next.max(header.next_offset());
        }
        if !self.take_batch()? {
            return Ok(false);
        }
        let batch = BatchView::parse(&self.batch)?;
        let header = *batch.header();
        if header.attributes.is_control() || transactions::is_aborted(&self.aborted, &header) {
            self.next = self.next.max(header.next_offset());
            return Ok(true);
        }
        let entered =
            batch.records(&mut self.scratch).and_then(|records| records.skip_to(self.next)).map(Records::suspend);
        match entered {
            Ok(records) => self.records = Some(records),
            Err(why) => {
                let error = Error::from(why);
                self.failed = Some(error.clone());
                return Err(error);
            }
        }
        self.compressed = header.count > 0 && header.attributes.codec().is_ok_and(|codec| codec != Codec::None);
        Ok(true)
    }

    /// Moves on to the next batch, fetching more where needed; `false` at the end.
    fn take_batch(&mut self) -> Result<bool> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let taken = self.try_take_batch();
        self.failed = taken.as_ref().err().cloned();
        taken
    }

    fn try_take_batch(&mut self) -> Result<bool> {
        while self.bytes.is_empty() {
            if let Some(bytes) = self.more.pop() {
                self.bytes = bytes;
                break;
            }
            self.next = self.next.max(self.fetched_to);
            let Reader { shared, pin, next, .. } = self;
            let load = || pin.view_at(*next, || shared.view.load());
            let max_bytes = self.options.max_bytes.min(self.ahead);
            let fetched = fetch_from(shared, load, *next, FetchOptions { max_bytes, ..self.options })?;
            if fetched.is_empty() && fetched.next_offset <= self.next {
                self.empty_to = fetched.offsets.visible(self.options.isolation);
                return Ok(false);
            }
            self.ahead = self.ahead.saturating_mul(FETCH_GROWTH);
            self.fetched_to = fetched.next_offset;
            self.aborted = fetched.aborted;
            self.bytes = fetched.first;
            self.more = fetched.more;
            self.more.reverse();
        }
        let size = BatchHeader::parse(&self.bytes)?.size;
        self.batch = self.bytes.split_to(size);
        Ok(true)
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("partition", &self.shared).field("offset", &self.next).finish_non_exhaustive()
    }
}
