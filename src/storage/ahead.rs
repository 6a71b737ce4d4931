//! Space that threads of the log reserve ahead of appends: new pages cost an append more than all the rest of it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{File, Reserve, Reserved, Window};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What the reserving threads are asked for, shared by all partitions of a log.
#[derive(Default)]
pub(crate) struct Ahead {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    orders: VecDeque<Arc<Order>>,
    /// Threads that serve it.
    threads: usize,
    closed: bool,
}

/// A part of a file that somebody wants reserved.
struct Order {
    file: Arc<dyn File>,
    part: Range<u64>,
    how: Reserve,
    progress: Mutex<Progress>,
    done: Condvar,
}

enum Progress {
    /// With a window that is done with: it is let go of first.
    Waiting(Option<Window>),
    Running,
    Done(io::Result<Reserved>),
    /// It was taken back, or its outcome was taken.
    Gone,
}

/// A part of a file that was asked for. When this is gone nothing is written there any more.
pub(crate) struct Asked {
    order: Arc<Order>,
}

impl Ahead {
    /// Has a part of a file reserved, behind what is written meanwhile, and a window of the file unmapped, which takes
    /// about as long; `None` where no thread does that.
    pub(crate) fn ask(
        &self,
        file: &Arc<dyn File>,
        part: Range<u64>,
        how: Reserve,
        spent: Option<Window>,
    ) -> Option<Asked> {
        let mut queue = self.lock();
        if queue.threads == 0 || queue.closed {
            return None;
        }
        let progress = Mutex::new(Progress::Waiting(spent));
        let order = Arc::new(Order { file: Arc::clone(file), part, how, progress, done: Condvar::new() });
        queue.orders.push_back(Arc::clone(&order));
        drop(queue);
        self.changed.notify_one();
        Some(Asked { order })
    }

    /// One more thread is going to [`serve`](Self::serve).
    pub(crate) fn join(&self) {
        self.lock().threads += 1;
    }

    /// Reserves what is asked for, until the queue is closed.
    pub(crate) fn serve(&self) {
        let mut queue = self.lock();
        while !queue.closed {
            match queue.orders.pop_front() {
                Some(order) => {
                    drop(queue);
                    order.carry_out();
                    queue = self.lock();
                }
                None => queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Ends the threads that serve it. What was not begun is left to who asked.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    fn carry_out(&self) {
        let mut progress = self.lock();
        let Progress::Waiting(spent) = &mut *progress else { return };
        let spent = spent.take();
        *progress = Progress::Running;
        drop(progress);
        drop(spent);
        let reserve = || self.file.reserve(self.part.start, self.part.end - self.part.start, self.how);
        // Who asked waits for an answer, whatever a storage does.
        let reserved = catch_unwind(AssertUnwindSafe(reserve)).unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        *self.lock() = Progress::Done(reserved);
        self.done.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// Where it ends.
    pub(crate) fn end(&self) -> u64 {
        self.order.part.end
    }

    /// What came of it: waits while it is being reserved. `None` when that was not begun, and then it never is.
    pub(crate) fn take(self) -> Option<io::Result<Reserved>> {
        self.settle()
    }

    fn settle(&self) -> Option<io::Result<Reserved>> {
        let mut progress = self.order.lock();
        while let Progress::Running = *progress {
            progress = self.order.done.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        match std::mem::replace(&mut *progress, Progress::Gone) {
            Progress::Done(reserved) => Some(reserved),
            _ => None,
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.settle();
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ahead").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::storage::sim::SimStorage;
    use crate::storage::{OpenMode, Storage};

    fn file(storage: &SimStorage) -> Arc<dyn File> {
        storage.open(Path::new("/file"), OpenMode::CreateNew).unwrap()
    }

    fn length(storage: &SimStorage) -> u64 {
        storage.info(Path::new("/file")).unwrap().len
    }

    #[test]
    fn where_no_thread_serves_nothing_can_be_asked() {
        let (ahead, storage) = (Ahead::default(), SimStorage::new());
        assert!(ahead.ask(&file(&storage), 0..10, Reserve::Mapped, None).is_none());
    }

    #[test]
    fn what_is_taken_back_before_it_was_begun_is_never_done() {
        let (ahead, storage) = (Ahead::default(), SimStorage::new());
        let file = file(&storage);
        ahead.join();
        let ask = |part| ahead.ask(&file, part, Reserve::Mapped, None).unwrap();
        drop(ask(0..10));
        assert!(ask(0..20).take().is_none());
        let kept = ask(0..5);
        thread::scope(|scope| {
            scope.spawn(|| ahead.serve());
            // It is the last one in the queue: those before it were passed over.
            while matches!(*kept.order.lock(), Progress::Waiting(_)) {
                thread::yield_now();
            }
            assert_eq!(kept.end(), 5);
            assert!(matches!(kept.take(), Some(Ok(Reserved::Space))));
            ahead.close();
        });
        assert_eq!(length(&storage), 5);
        assert!(ahead.ask(&file, 5..10, Reserve::Mapped, None).is_none(), "it is closed");
    }

    /// A file whose reservations begin with a word and end on one.
    #[derive(Debug)]
    struct Slow {
        file: Arc<dyn File>,
        begun: mpsc::Sender<()>,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl File for Slow {
        fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
            self.file.read_at(buf, position)
        }
        fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
            self.file.write_at(buf, position)
        }
        fn info(&self) -> io::Result<crate::storage::FileInfo> {
            self.file.info()
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }
        fn sync(&self) -> io::Result<()> {
            self.file.sync()
        }
        fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
            self.begun.send(()).unwrap();
            // Nobody who says so: it panics.
            self.go_on.lock().unwrap().recv().unwrap();
            self.file.reserve(position, len, how)
        }
        fn release(&self, len: u64) -> io::Result<()> {
            self.file.release(len)
        }
        fn map(&self, len: u64) -> io::Result<Option<bytes::Bytes>> {
            self.file.map(len)
        }
        fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            None
        }
    }

    #[test]
    fn what_was_begun_is_waited_for_and_a_storage_that_panics_is_an_error() {
        let (ahead, storage) = (Ahead::default(), SimStorage::new());
        let ((begun, is_begun), (go_on, told)) = (mpsc::channel(), mpsc::channel());
        let slow: Arc<dyn File> = Arc::new(Slow { file: file(&storage), begun, go_on: Mutex::new(told) });
        ahead.join();
        thread::scope(|scope| {
            scope.spawn(|| ahead.serve());
            let asked = ahead.ask(&slow, 0..7, Reserve::Mapped, None).unwrap();
            is_begun.recv().unwrap();
            let waiting = scope.spawn(|| {
                drop(asked);
                length(&storage)
            });
            go_on.send(()).unwrap();
            assert_eq!(waiting.join().unwrap(), 7, "it was given up before it was done");
            let asked = ahead.ask(&slow, 7..9, Reserve::Mapped, None).unwrap();
            is_begun.recv().unwrap();
            drop(go_on);
            assert!(matches!(asked.take(), Some(Err(_))));
            ahead.close();
        });
    }
}
