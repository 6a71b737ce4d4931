//! Readers, which move from one batch to the next.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BATCH_HEADER_LEN, BatchHeader, BatchView, Codec, OwnedRecord, RecordView, Scratch, SuspendedRecords,
};
use crate::offset::Offset;
use crate::partition::core::PartitionCore;
use crate::partition::pins::ReaderPin;
use crate::partition::waiters::WaitOutcome;
use crate::replay::transactions::{self, AbortedRange};
use crate::segment::list::SegmentList;

use super::fetch::{FetchOptions, fetch_from};

/// How many bytes a reader fetches first. Small, so that reading a single record does not pay for more.
const FIRST_FETCH: usize = 1 << 7;
/// The factor by which each further fetch grows while the reader reads on in order.
const FETCH_GROWTH: usize = 4;

/// Reads a partition in order, from an offset on. `None` means "the end for now": [`wait`](Reader::wait) for more, then
/// read on. A reader does not disturb appends and maintenance, and they do not disturb the reader. A compaction that
/// starts meanwhile changes nothing that the reader has fetched, and keeps the tombstones that the reader has not read
/// yet (up to `reader_hold_max`).
///
/// Errors are sticky: after an error every call returns it again, so that reading on never skips data.
/// [`seek`](Reader::seek) clears the error.
///
/// ```
/// # use stratalog::{Log, LogConfig, Offset, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one"])?;
/// let mut reader = events.reader(Offset::ZERO)?;
/// assert_eq!(reader.next_record()?.unwrap().value, Some(&b"one"[..]));
/// assert!(reader.next_record()?.is_none()); // the end for now
/// events.append_records(["two"])?;
/// assert_eq!(reader.next_record()?.unwrap().value, Some(&b"two"[..]));
/// # log.close()
/// # }
/// ```
pub struct Reader {
    core: Arc<PartitionCore>,
    options: FetchOptions,
    pin: ReaderPin<Arc<SegmentList>>,
    next: Offset,
    /// The fetched bytes: a piece that is read up to `at`, then in `more` whole pieces in reverse order.
    piece: Bytes,
    at: usize,
    more: Vec<Bytes>,
    aborted: Vec<AbortedRange>,
    /// Where the fetch ends.
    fetched_to: Offset,
    /// Fetched bytes from this offset on are no longer valid: the log was truncated meanwhile.
    cut_to: Offset,
    /// The visible end at the last read that found nothing. It may be above `next`: the visible end may be inside a
    /// batch.
    empty_to: Offset,
    /// How often the log had been truncated at that read: a later truncation may have removed what `empty_to` covers.
    empty_at_cuts: u64,
    /// How many bytes the next fetch asks for.
    ahead: usize,
    /// The last batch read, as a range of the piece, with its end offset and its records not yet read.
    batch: Range<usize>,
    batch_end: Offset,
    records: SuspendedRecords,
    /// Whether the records are in `scratch`, decompressed. Otherwise they are in the batch itself.
    compressed: bool,
    scratch: Scratch,
    failed: Option<Error>,
}

impl Reader {
    pub(crate) fn new(core: Arc<PartitionCore>, from: Offset, options: FetchOptions) -> Reader {
        let pin = core.pins.reader(from);
        Reader {
            core,
            options,
            pin,
            next: from,
            piece: Bytes::new(),
            at: 0,
            more: Vec::new(),
            aborted: Vec::new(),
            fetched_to: from,
            cut_to: Offset::MAX,
            empty_to: from,
            empty_at_cuts: 0,
            ahead: FIRST_FETCH,
            batch: 0..0,
            batch_end: from,
            records: SuspendedRecords::default(),
            compressed: false,
            scratch: Scratch::default(),
            failed: None,
        }
    }

    /// Returns the offset that is read next.
    pub fn offset(&self) -> Offset {
        self.next
    }

    /// Moves to another offset, and clears a sticky error.
    ///
    /// ```
    /// # use stratalog::{Log, LogConfig, Offset, Start, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two"])?;
    /// let mut reader = events.reader(Start::Latest)?;
    /// assert!(reader.next_record()?.is_none());
    /// reader.seek(Offset::new(1));
    /// assert_eq!(reader.next_record()?.unwrap().value, Some(&b"two"[..]));
    /// # log.close()
    /// # }
    /// ```
    pub fn seek(&mut self, offset: Offset) {
        self.pin.restart(offset);
        self.ahead = FIRST_FETCH;
        (self.piece, self.at, self.batch) = (Bytes::new(), 0, 0..0);
        self.more.clear();
        self.records = SuspendedRecords::default();
        self.failed = None;
        (self.next, self.batch_end, self.fetched_to, self.empty_to) = (offset, offset, offset, offset);
        self.cut_to = Offset::MAX;
    }

    /// Returns the next batch, with its CRC checked, or `None` at the end for now. Control batches and aborted batches
    /// are included. The first batch may begin before the requested offset. For bulk reads this is the fastest path
    /// ([`BatchView::records`]).
    ///
    /// ```
    /// # use stratalog::{Log, LogConfig, Offset, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two"])?;
    /// events.append_records(["three"])?;
    /// let mut reader = events.reader(Offset::ZERO)?;
    /// let mut records = 0;
    /// while let Some(batch) = reader.next_batch()? {
    ///     records += batch.header().count;
    /// }
    /// assert_eq!(records, 3);
    /// # log.close()
    /// # }
    /// ```
    pub fn next_batch(&mut self) -> Result<Option<BatchView<'_>>> {
        self.records = SuspendedRecords::default();
        let Some(header) = self.take_batch()? else { return Ok(None) };
        self.next = header.next_offset();
        Ok(Some(BatchView::new(header, self.batch_bytes())))
    }

    /// Returns the next record, or `None` at the end for now. Leaves out control records, and under
    /// [`Isolation::Committed`](crate::Isolation::Committed) also records of aborted transactions.
    ///
    /// ```
    /// # use stratalog::{Log, LogConfig, Offset, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records([("ada", "London"), ("bob", "Paris")])?;
    /// let mut reader = events.reader(Offset::ZERO)?;
    /// let mut cities = Vec::new();
    /// while let Some(record) = reader.next_record()? {
    ///     cities.extend(record.value.map(<[u8]>::to_vec));
    /// }
    /// assert_eq!(cities, [&b"London"[..], &b"Paris"[..]]);
    /// # log.close()
    /// # }
    /// ```
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<RecordView<'_>>> {
        if self.pin.is_cut() {
            self.note_cut();
        }
        while self.records.is_done() {
            if !self.enter_batch()? {
                return Ok(None);
            }
        }
        let bytes = if self.compressed {
            self.scratch.decompressed()
        } else {
            self.piece.get(self.batch.start + BATCH_HEADER_LEN..self.batch.end).unwrap_or_default()
        };
        if let Some(record) = self.records.next_short(bytes) {
            self.next = record.offset + 1;
            return Ok(Some(record));
        }
        next_any(&mut self.records, &mut self.next, &mut self.failed, bytes)
    }

    /// Waits until there is something to read from [`offset`](Reader::offset) on, at most for `timeout`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stratalog::{Log, LogConfig, Offset, TopicConfig, WaitOutcome};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let mut reader = events.reader(Offset::ZERO)?;
    /// assert_eq!(reader.wait(Duration::from_millis(1))?, WaitOutcome::TimedOut(Offset::ZERO));
    /// let writer = std::thread::spawn(move || events.append_records(["one"]));
    /// assert_eq!(reader.wait(Duration::from_secs(60))?, WaitOutcome::Reached(Offset::new(1)));
    /// assert_eq!(reader.next_record()?.unwrap().value, Some(&b"one"[..]));
    /// writer.join().unwrap()?;
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) if a truncation removed the awaited offset or the reader's
    /// own position; or the reason why nothing more will come.
    pub fn wait(&self, timeout: Duration) -> Result<WaitOutcome> {
        let (target, check) = self.awaited();
        let core = &self.core;
        core.wait_where(self.options.isolation, target, Some(timeout), || check(core))
    }

    /// Resolves once there is something to read from [`offset`](Reader::offset) on: the same as [`wait`](Reader::wait),
    /// as a future for any async runtime. It waits beyond what the reader has already found empty: if the visible end
    /// is inside a batch, it waits for the rest of that batch. Dropping the future loses nothing.
    ///
    /// ```
    /// # use std::pin::pin;
    /// # use std::task::{Context, Waker};
    /// # use stratalog::{Log, LogConfig, Offset, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let mut reader = events.reader(Offset::ZERO)?;
    /// let mut ready = pin!(reader.ready()); // a task would await it
    /// let mut context = Context::from_waker(Waker::noop());
    /// assert!(ready.as_mut().poll(&mut context).is_pending());
    /// events.append_records(["one"])?;
    /// assert!(ready.as_mut().poll(&mut context).is_ready());
    /// assert_eq!(reader.next_record()?.unwrap().value, Some(&b"one"[..]));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of [`wait`](Reader::wait).
    pub fn ready(&self) -> impl Future<Output = Result<Offset>> + Send + Unpin + 'static {
        let (target, check) = self.awaited();
        self.core.future_where(self.options.isolation, target, check)
    }

    /// Returns the end to wait for, and the check that fails the wait after a truncation.
    fn awaited(&self) -> (Offset, impl Fn(&PartitionCore) -> Result<()> + Send + Unpin + 'static) {
        let next = self.next;
        let cuts = self.core.cuts.count();
        let empty_to = if cuts == self.empty_at_cuts { self.empty_to.max(next) } else { next };
        // Called after the waiter is registered. A later truncation ends the wait itself; this check finds an earlier
        // one.
        let check = move |core: &PartitionCore| {
            let rest_is_gone = empty_to > next && core.cuts.count() != cuts;
            if rest_is_gone || next > core.end() { Err(ErrorKind::Truncated.into()) } else { Ok(()) }
        };
        (empty_to + 1, check)
    }

    /// Returns an iterator over owned records, from here up to the end for now. It returns `None` at the end, and
    /// continues when there is more. After an error each further call returns the error again.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// use stratalog::{Log, LogConfig, OwnedRecord, Start, TopicConfig};
    ///
    /// let dir = tempfile::tempdir().unwrap();
    /// let log = Log::open(dir.path(), LogConfig::new())?;
    /// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two"])?;
    /// let records: Vec<OwnedRecord> = events.reader(Start::Earliest)?.records().collect::<Result<_, _>>()?;
    /// assert_eq!(records[1].value.as_deref(), Some(&b"two"[..]));
    /// # log.close()
    /// # }
    /// ```
    pub fn records(&mut self) -> OwnedRecords<'_> {
        OwnedRecords(self)
    }

    fn next_owned(&mut self) -> Result<Option<OwnedRecord>> {
        while self.records.is_done() {
            if !self.enter_batch()? {
                return Ok(None);
            }
        }
        // Records of an uncompressed batch are in the piece, and the reader does not leave the piece before they are
        // all read.
        let piece = (!self.compressed).then(|| self.piece.clone());
        let record = self.next_record()?;
        Ok(record.map(|record| match &piece {
            Some(piece) => OwnedRecord::of(&record, |bytes| piece.slice_ref(bytes)),
            None => record.into(),
        }))
    }

    fn batch_bytes(&self) -> &[u8] {
        self.piece.get(self.batch.clone()).unwrap_or_default()
    }

    /// Prepares the records of the next batch. Returns `false` at the end.
    fn enter_batch(&mut self) -> Result<bool> {
        let Some(header) = self.take_batch()? else { return Ok(false) };
        if header.attributes.is_control() || transactions::is_aborted(&self.aborted, &header) {
            return Ok(true);
        }
        let bytes = self.piece.get(self.batch.clone()).unwrap_or_default();
        match BatchView::new(header, bytes).records(&mut self.scratch) {
            Ok(records) => self.records = records.skip_to(self.next).suspend(),
            Err(why) => {
                let error = Error::from(why);
                self.failed = Some(error.clone());
                return Err(error);
            }
        }
        self.compressed = header.count > 0 && header.attributes.codec().is_ok_and(|codec| codec != Codec::None);
        Ok(true)
    }

    /// Moves to the next batch, and fetches more if needed. Returns `None` at the end.
    fn take_batch(&mut self) -> Result<Option<BatchHeader>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.pin.is_cut() {
            self.note_cut();
        }
        let taken = self.try_take_batch();
        self.failed = taken.as_ref().err().cloned();
        taken
    }

    fn try_take_batch(&mut self) -> Result<Option<BatchHeader>> {
        self.next = self.next.max(self.batch_end);
        if self.next > self.cut_to {
            return Err(ErrorKind::Truncated.into());
        }
        loop {
            if self.at == self.piece.len() {
                if let Some(piece) = self.more.pop() {
                    (self.piece, self.at) = (piece, 0);
                } else if !self.fetch_more()? {
                    return Ok(None);
                }
                continue;
            }
            let batch = BatchView::parse(self.piece.get(self.at..).unwrap_or_default())?;
            let header = *batch.header();
            if header.next_offset() > self.cut_to {
                // Only gaps are before this batch, and it begins at or above the cut.
                self.next = self.next.max(self.cut_to);
                return Err(ErrorKind::Truncated.into());
            }
            // The CRC is checked here, not in the fetch: this brings the records into the processor's cache just before
            // decoding.
            if batch.check_crc().is_err() {
                // Fetches this batch again, alone: that error tells the position. The fetched bytes may have been
                // truncated by now.
                (self.piece, self.at) = (Bytes::new(), 0);
                self.more.clear();
                if !self.fetch(FetchOptions { max_bytes: 1, check_crc: true, ..self.options })? {
                    return Ok(None);
                }
                continue;
            }
            self.batch = self.at..self.at + header.size;
            self.batch_end = header.next_offset();
            self.at = self.batch.end;
            return Ok(Some(header));
        }
    }

    /// Notes that the log was truncated: fetched bytes from that offset on are not returned any more.
    #[cold]
    fn note_cut(&mut self) {
        let Some(cut_to) = self.pin.take_cut() else { return };
        self.cut_to = self.cut_to.min(cut_to);
        if self.next > self.cut_to {
            // The batch that the reader is in is gone.
            self.records = SuspendedRecords::default();
        }
    }

    /// Fetches what follows the fetched bytes. Returns `false` at the end.
    fn fetch_more(&mut self) -> Result<bool> {
        self.next = self.next.max(self.fetched_to.min(self.cut_to));
        let max_bytes = self.options.max_bytes.min(self.ahead);
        let fetched = self.fetch(FetchOptions { max_bytes, check_crc: false, ..self.options })?;
        if fetched {
            self.ahead = self.ahead.saturating_mul(FETCH_GROWTH);
        }
        Ok(fetched)
    }

    /// Fetches from the reader's position.
    fn fetch(&mut self, options: FetchOptions) -> Result<bool> {
        // Before the fetch, so that a truncation during the fetch is seen after it.
        self.note_cut();
        if self.next > self.cut_to {
            return Err(ErrorKind::Truncated.into());
        }
        self.cut_to = Offset::MAX;
        let Reader { core, pin, next, .. } = self;
        let cuts = core.cuts.count();
        let load = || pin.view_at(*next, || core.view.load());
        let fetched = fetch_from(core, load, *next, options)?;
        if fetched.is_empty() && fetched.next_offset <= self.next {
            (self.empty_to, self.empty_at_cuts) = (fetched.offsets.visible(self.options.isolation), cuts);
            return Ok(false);
        }
        self.fetched_to = fetched.next_offset;
        self.aborted = fetched.aborted;
        (self.piece, self.at) = (fetched.first, 0);
        self.more = fetched.more;
        self.more.reverse();
        Ok(true)
    }
}

/// Returns the next record, of any encoding. Errors are sticky.
#[cold]
#[inline(never)]
fn next_any<'a>(
    records: &mut SuspendedRecords,
    next: &mut Offset,
    failed: &mut Option<Error>,
    bytes: &'a [u8],
) -> Result<Option<RecordView<'a>>> {
    match records.next_any(bytes) {
        Some(Ok(record)) => {
            *next = record.offset + 1;
            Ok(Some(record))
        }
        Some(Err(why)) => {
            let error = Error::from(why);
            *failed = Some(error.clone());
            Err(error)
        }
        None => Ok(None),
    }
}

/// Iterates over the records of a [`Reader`]: see [`Reader::records`].
#[derive(Debug)]
pub struct OwnedRecords<'r>(&'r mut Reader);

impl Iterator for OwnedRecords<'_> {
    type Item = Result<OwnedRecord>;

    fn next(&mut self) -> Option<Result<OwnedRecord>> {
        self.0.next_owned().transpose()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("partition", &self.core).field("offset", &self.next).finish_non_exhaustive()
    }
}
