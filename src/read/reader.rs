//! Reading: readers that go from one batch to the next.

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

/// What a reader asks for first, in bytes: who reads one record and goes elsewhere does not pay for more.
const FIRST_FETCH: usize = 1 << 7;
/// How much more it asks for each time it goes on from there.
const FETCH_GROWTH: usize = 4;

/// Reads a partition from an offset on, in order. `None` means "the end for now": [`wait`](Reader::wait) for more, and
/// go on. It disturbs nobody, and nobody disturbs it: a compaction that starts meanwhile changes nothing for what it
/// has fetched, and keeps the tombstones that it has not read yet (up to `reader_hold_max`).
///
/// Errors are sticky: after one, every call returns it again, so that going on never skips data.
/// [`seek`](Reader::seek) begins anew.
pub struct Reader {
    core: Arc<PartitionCore>,
    options: FetchOptions,
    pin: ReaderPin<Arc<SegmentList>>,
    next: Offset,
    /// What was fetched: a piece that is read up to `at`, then whole ones, the last one first.
    piece: Bytes,
    at: usize,
    more: Vec<Bytes>,
    aborted: Vec<AbortedRange>,
    /// Where the fetch ends.
    fetched_to: Offset,
    /// What was fetched from here on is gone: the log was cut back meanwhile.
    cut_to: Offset,
    /// Up to where there was nothing to read when it was looked at: what is visible may end inside a batch.
    empty_to: Offset,
    /// How often the log had been cut by then: what lay there may be gone.
    empty_at_cuts: u64,
    /// How much the next fetch asks for.
    ahead: usize,
    /// The batch of the piece that was read last, where it ends, and those of its records that were not read.
    batch: Range<usize>,
    batch_end: Offset,
    records: SuspendedRecords,
    /// Whether they are in `scratch`; else they are in the batch.
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

    /// The offset that is read next.
    pub fn offset(&self) -> Offset {
        self.next
    }

    /// Goes on at another offset, and forgets an error.
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

    /// The next batch, its CRC checked, or `None` at the end for now. Control batches and aborted ones are among them.
    /// The first one may begin before the offset asked for. Who reads much reads its records fastest so
    /// ([`BatchView::records`]).
    pub fn next_batch(&mut self) -> Result<Option<BatchView<'_>>> {
        self.records = SuspendedRecords::default();
        let Some(header) = self.take_batch()? else { return Ok(None) };
        self.next = header.next_offset();
        Ok(Some(BatchView::new(header, self.batch_bytes())))
    }

    /// The next record, or `None` at the end for now. Control records, and under
    /// [`Isolation::Committed`](crate::Isolation::Committed) those of aborted transactions, are left out.
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

    /// Waits until there is something to read behind [`offset`](Reader::offset), or for `timeout`.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) when what it waits for, or the place where it stands, was
    /// cut off; the reason for which nothing more comes.
    pub fn wait(&self, timeout: Duration) -> Result<WaitOutcome> {
        let (target, check) = self.awaited();
        let core = &self.core;
        core.wait_where(self.options.isolation, target, Some(timeout), || check(core))
    }

    /// Resolves once there is something to read behind [`offset`](Reader::offset): the same as [`wait`](Reader::wait), as
    /// a future of no particular runtime. It goes by what the reader has seen as empty: where what is visible ends inside
    /// a batch it waits for the rest of that. Dropping it loses nothing.
    ///
    /// # Errors
    /// Those of [`wait`](Reader::wait).
    pub fn ready(&self) -> impl Future<Output = Result<Offset>> + Send + Unpin + 'static {
        let (target, check) = self.awaited();
        self.core.future_where(self.options.isolation, target, check)
    }

    /// Which end it waits for, and what ends that: a truncation.
    fn awaited(&self) -> (Offset, impl Fn(&PartitionCore) -> Result<()> + Send + Unpin + 'static) {
        let next = self.next;
        let cuts = self.core.cuts.count();
        let empty_to = if cuts == self.empty_at_cuts { self.empty_to.max(next) } else { next };
        // Asked once it is among those whom a truncation ends: this tells of those before.
        let check = move |core: &PartitionCore| {
            let rest_is_gone = empty_to > next && core.cuts.count() != cuts;
            if rest_is_gone || next > core.end() { Err(ErrorKind::Truncated.into()) } else { Ok(()) }
        };
        (empty_to + 1, check)
    }

    /// The records from here on, each of its own, up to the end for now: the iterator gives `None` there, and goes on when
    /// there is more. An error is given once, and again by each further call.
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
        // Records of one that is not compressed lie in the piece, which is not left before they are done.
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

    /// Prepares the records of the next batch; `false` at the end.
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

    /// Moves on to the next batch, fetching more where needed; `None` at the end.
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
                // Gaps lie before it, and it begins at or above the cut.
                self.next = self.next.max(self.cut_to);
                return Err(ErrorKind::Truncated.into());
            }
            // Here, not in the fetch: its records are decoded from the cache that this brings them into.
            if batch.check_crc().is_err() {
                // Once more, by itself: the error says where. What was fetched may be cut by now.
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

    /// Takes note that the log was cut back: what was fetched from there on is not shown any more.
    #[cold]
    fn note_cut(&mut self) {
        let Some(cut_to) = self.pin.take_cut() else { return };
        self.cut_to = self.cut_to.min(cut_to);
        if self.next > self.cut_to {
            // The batch that it stands in is gone.
            self.records = SuspendedRecords::default();
        }
    }

    /// Fetches what comes behind all that was fetched; `false` at the end.
    fn fetch_more(&mut self) -> Result<bool> {
        self.next = self.next.max(self.fetched_to.min(self.cut_to));
        let max_bytes = self.options.max_bytes.min(self.ahead);
        let fetched = self.fetch(FetchOptions { max_bytes, check_crc: false, ..self.options })?;
        if fetched {
            self.ahead = self.ahead.saturating_mul(FETCH_GROWTH);
        }
        Ok(fetched)
    }

    /// Fetches from where it stands.
    fn fetch(&mut self, options: FetchOptions) -> Result<bool> {
        // Before the fetch, so that one to come is seen after it.
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

/// The next record, whatever it is like. Errors stay.
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

/// The records of a [`Reader`], one after the other: see [`Reader::records`].
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
