//! Records as a stream that goes on at the end of the log.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::error::Result;
use crate::format::OwnedRecord;
use crate::offset::Offset;

use super::Reader;

/// The records of a partition, those that are there and those that come: see
/// [`Partition::tail`](crate::Partition::tail).
///
/// It ends after an error. What was read but not taken stays in the stream, so a task that is cancelled between two
/// records loses none: whoever goes on with the stream gets the next one.
pub struct Tail {
    reader: Reader,
    ready: Option<Ready>,
    ended: bool,
}

type Ready = Pin<Box<dyn Future<Output = Result<Offset>> + Send>>;

impl Tail {
    pub(crate) fn new(reader: Reader) -> Tail {
        Tail { reader, ready: None, ended: false }
    }

    /// The offset of the record that comes next.
    pub fn offset(&self) -> Offset {
        self.reader.offset()
    }

    /// The reader, to go on without the stream.
    pub fn into_reader(self) -> Reader {
        self.reader
    }

    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Result<OwnedRecord>> {
        loop {
            if let Some(ready) = &mut self.ready {
                match ready.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(reached) => {
                        self.ready = None;
                        reached?;
                    }
                }
            }
            if let Some(record) = self.reader.records().next() {
                return Poll::Ready(record);
            }
            self.ready = Some(Box::pin(self.reader.ready()));
        }
    }
}

impl Stream for Tail {
    type Item = Result<OwnedRecord>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<OwnedRecord>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = self.advance(context);
        self.ended = matches!(next, Poll::Ready(Err(_)));
        next.map(Some)
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("reader", &self.reader).finish_non_exhaustive()
    }
}
