//! Reads beside a truncation, in every interleaving: with the segment, its file's account of holders and the view as they
//! are.

use std::cell::Cell;

use loom::sync::Mutex;
use loom::thread;

use super::*;
use crate::error::{Error, Result};
use crate::format::BatchHeader;
use crate::offset::Offset;
use crate::partition::offsets::Ends;
use crate::segment::index::SegmentIndex;
use crate::segment::list::{SegmentList, SegmentListCell};
use crate::segment::replace;
use crate::segment::writer::SegmentWriter;
use crate::segment::{OpenData, PartitionDir, Segment, SegmentMeta};
use crate::storage::Hold;
use crate::storage::tests::{batch, batch_len, dir};
use crate::sync::Arc;
use crate::sync::tests::{Seen, explore};

/// Three batches, of which two are cut off, and perhaps others appended in their place.
struct Log {
    dir: Arc<PartitionDir>,
    appender: Mutex<()>,
    cuts: Cuts,
    view: SegmentListCell,
    ends: Ends,
}

/// The log end before the cut, and again after the append.
const END: Offset = Offset::new(3);

/// What a read has shown: the batches from offset 1 on, and the place in their file if it got that.
type Shown = Option<(Vec<u8>, Option<Region>)>;

struct Region {
    data: Arc<OpenData>,
    position: u64,
    _hold: Hold,
}

impl Region {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 2 * batch_len() as usize];
        assert_eq!(self.data.file.read_at(&mut bytes, self.position).unwrap(), bytes.len(), "the file was cut");
        bytes
    }
}

/// The batches at offsets 1 and 2.
fn two(value: &str) -> Vec<u8> {
    [batch(1, value), batch(2, value)].concat()
}

fn append(writer: &mut SegmentWriter, batches: &[u8], end: u64) {
    let position = writer.len();
    writer.write([batches, &[]]).unwrap();
    writer.note(&BatchHeader::parse(batches).unwrap(), position);
    writer.publish(Offset::new(end));
}

impl Log {
    fn new() -> Arc<Log> {
        let dir = dir();
        let mut writer = SegmentWriter::create(&dir, Offset::ZERO, u64::MAX, None).unwrap();
        append(&mut writer, &batch(0, "a"), 1);
        append(&mut writer, &two("b"), 3);
        let view = SegmentListCell::new(SegmentList::new(vec![Arc::clone(writer.segment())]));
        let ends = Ends::new(Offset::ZERO, Offset::ZERO, END);
        Arc::new(Log { dir, appender: Mutex::new(()), cuts: Cuts::new(), view, ends })
    }

    /// A fetch from offset 1 on.
    fn read(&self, with_region: bool, again: impl Fn()) -> Result<Shown> {
        let looks = Cell::new(0);
        self.cuts.undisturbed(
            || drop(self.appender.lock().unwrap()),
            || {
                looks.set(looks.get() + 1);
                if looks.get() == 2 {
                    again();
                }
                let segment = Arc::clone(self.view.load().active());
                let end = self.ends.log_end();
                if end < END {
                    return Ok(None);
                }
                let slice = segment.slice(Offset::new(1), end, 1 << 16, true)?;
                let slice = slice.ok_or_else(|| Error::corrupt(&segment.path(), 0, "it is below the end"))?;
                let mut region = None;
                if with_region {
                    let data = segment.open()?;
                    let hold = segment.hold(&data, slice.position + slice.bytes.len() as u64);
                    let hold = hold.expect("what is readable can be held");
                    region = hold.map(|_hold| Region { data, position: slice.position, _hold });
                }
                Ok(Some((slice.bytes.to_vec(), region)))
            },
        )
    }

    /// A truncation to 1, with the appender, in the order of `truncate`; and an append in the place of what was cut.
    fn cut(&self, append_again: bool) {
        let _appender = self.appender.lock().unwrap();
        let (to, len) = (Offset::new(1), batch_len());
        let segment = Arc::clone(self.view.load().active());
        self.cuts.begin();
        segment.close_file();
        segment.begin_cut();
        let file = Arc::clone(&segment.open().unwrap().file);
        segment.close_file();
        replace::cut(&self.dir, &*file, segment.base(), len).expect("a hold is seen before the cut, or refused");
        let id = self.dir.storage.info(&segment.path()).unwrap().id;
        let left =
            Segment::new(&self.dir, segment.base(), (len, to), false, SegmentMeta::new(id), SegmentIndex::empty());
        self.view.update(|_| Some(SegmentList::new(vec![Arc::clone(&left)])));
        self.ends.set_log_end(to);
        self.cuts.end();
        if append_again {
            let mut writer = SegmentWriter::resume(left, u64::MAX, None);
            append(&mut writer, &two("c"), END.get());
            self.ends.set_log_end(END);
        }
    }
}

fn model(name: &str, with_region: bool, append_again: bool) {
    explore(name, Some(4), move |seen: &Seen| {
        let log = Log::new();
        let reader = {
            let (log, seen) = (Arc::clone(&log), seen.clone());
            thread::spawn(move || log.read(with_region, || seen.note()).expect("a read beside a cut is no damage"))
        };
        let before = log.cuts.count();
        log.cut(append_again);
        assert_eq!(log.cuts.count(), before + 2);
        let Some((bytes, region)) = reader.join().unwrap() else { return };
        assert!(bytes == two("b") || bytes == two("c"), "what was there at one moment");
        if let Some(region) = region {
            assert!(region.bytes() == bytes, "held bytes do not change");
        }
    });
}

#[test]
fn models_a_read_beside_a_cut() {
    model("a read beside a cut", false, false);
}

#[test]
fn models_a_read_beside_a_cut_and_an_append() {
    model("a read beside a cut and an append", false, true);
}

#[test]
fn models_a_hold_beside_a_cut() {
    model("a hold beside a cut", true, false);
}

#[test]
fn models_a_hold_beside_a_cut_and_an_append() {
    model("a hold beside a cut and an append", true, true);
}
