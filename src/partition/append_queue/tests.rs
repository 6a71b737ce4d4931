//! Appends that meet, in every interleaving.

use loom::sync::Mutex;
use loom::thread;

use super::*;
use crate::Record;
use crate::format::RecordBatch;
use crate::sync::tests::explore;

/// Gives offsets in the order in which it is locked.
type Appender = Mutex<u64>;

/// An append that says who it is by its time.
fn queued(number: i64) -> Queued {
    let mut builder = RecordBatch::builder();
    builder.push(&Record::new("k", "v"), Timestamp::from_millis(0)).unwrap();
    let header = *builder.build().unwrap().header();
    Queued { bytes: Bytes::new(), header, now: Timestamp::from_millis(number), result: OnceLock::new() }
}

fn give(next: &mut u64, number: Timestamp) -> Result<Appended> {
    *next += 1;
    Ok(Appended { base_offset: Offset::new(*next - 1), next_offset: Offset::new(*next), append_time: Some(number) })
}

fn drain(append_queue: &AppendQueue, next: &mut u64) -> usize {
    let batch = append_queue.take();
    for queued in &batch {
        queued.result.set(give(next, queued.now)).expect("each is answered once");
    }
    batch.len()
}

/// An append that found nobody at the appender; and how many it answered.
fn append_first(append_queue: &AppendQueue, appender: &Appender) -> (Result<Appended>, usize) {
    let mut next = appender.lock().unwrap();
    let appended = give(&mut next, Timestamp::from_millis(0));
    let others = if append_queue.has_waiting() { drain(append_queue, &mut next) } else { 0 };
    (appended, others)
}

/// An append that found somebody there, who may be gone by now.
fn append_behind(append_queue: &AppendQueue, appender: &Appender, number: i64) -> (Result<Appended>, usize) {
    let (mut others, lock) = (0, || appender.lock().unwrap());
    let appended = append_queue.combine(queued(number), lock, |next| others = drain(append_queue, next) - 1);
    (appended, others)
}

#[test]
fn models_each_append_that_meets_others_has_its_own_answer() {
    explore("appends that meet", None, |seen| {
        let (append_queue, appender) = (Arc::new(AppendQueue::default()), Arc::new(Appender::new(0)));
        let threads = [1, 2].map(|number| {
            let (append_queue, appender) = (Arc::clone(&append_queue), Arc::clone(&appender));
            thread::spawn(move || append_behind(&append_queue, &appender, number))
        });
        let mut appended = vec![append_first(&append_queue, &appender)];
        appended.extend(threads.map(|thread| thread.join().unwrap()));
        if appended.iter().any(|(_, others)| *others > 0) {
            seen.note();
        }
        let mut offsets = Vec::new();
        for (number, (appended, _)) in appended.into_iter().enumerate() {
            let appended = appended.expect("none fails");
            assert_eq!(appended.append_time, Some(Timestamp::from_millis(number as i64)), "it is its own");
            offsets.push(appended.base_offset.get());
        }
        offsets.sort_unstable();
        assert_eq!(offsets, [0, 1, 2], "each was appended once");
        assert!(append_queue.take().is_empty() && !append_queue.has_waiting());
    });
}
