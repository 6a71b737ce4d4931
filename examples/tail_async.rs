//! A task that follows a partition as a stream, without a runtime: `cargo run --features async --example tail_async`.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use futures_core::Stream;
use stratalog::{Isolation, Log, LogConfig, Start, Tail, TopicConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = Log::open(dir.path(), LogConfig::new())?;
    let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).expect("it has one");
    events.append_records(["before"])?;

    let mut tail = events.tail(Start::Earliest, Isolation::End)?;
    let writer = thread::spawn(move || {
        for n in 0..4 {
            events.append_records([format!("event {n}").as_str()]).unwrap();
        }
    });
    let count = block_on(async {
        let mut count = 0;
        while count < 5 {
            let record = next(&mut tail).await.expect("a tail has no end")?;
            println!("{}: {}", record.offset, String::from_utf8_lossy(&record.value.unwrap_or_default()));
            count += 1;
        }
        Ok::<_, stratalog::Error>(count)
    })?;
    writer.join().expect("the writer wrote");
    println!("{count} events");
    log.close()?;
    Ok(())
}

/// The next item of the stream, as `StreamExt::next` of the crate `futures` gives it.
async fn next(tail: &mut Tail) -> Option<stratalog::Result<stratalog::OwnedRecord>> {
    std::future::poll_fn(|context| Pin::new(&mut *tail).poll_next(context)).await
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}
