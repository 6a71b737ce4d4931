//! The queue of a log's preallocating thread. It exists because new pages would cost an append more than all the rest
//! of it.

use std::collections::VecDeque;
use std::fmt;

use crate::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};

/// Work for the preallocating thread, done one piece at a time.
pub(crate) trait Work: Send + Sync {
    /// Does the next piece. Returns whether there is another one.
    fn run(&self) -> bool;
}

/// The queued work of all partitions of a log.
#[derive(Default)]
pub(crate) struct Preallocator {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Weak<dyn Work>>,
    closed: bool,
}

impl Preallocator {
    /// Queues work, which the queue does not keep alive. Returns `false` once the queue is closed.
    pub(crate) fn push(&self, work: Weak<dyn Work>) -> bool {
        let mut queue = self.lock();
        if queue.closed {
            return false;
        }
        queue.work.push_back(work);
        drop(queue);
        self.changed.notify_one();
        true
    }

    /// Runs queued work until the queue is closed.
    pub(crate) fn serve(&self) {
        while let Some(work) = self.wait() {
            self.carry_out(&work);
        }
    }

    /// Runs one piece, for an owner that runs no threads. Returns whether there was one.
    pub(crate) fn run_one(&self) -> bool {
        let work = self.lock().pop();
        work.map(|work| self.carry_out(&work)).is_some()
    }

    /// Ends [`serve`](Self::serve). Work that was not begun is dropped.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.work.clear();
        drop(queue);
        self.changed.notify_all();
    }

    /// Runs one piece and requeues the work, so that others get their turn.
    fn carry_out(&self, work: &Arc<dyn Work>) {
        if work.run() {
            self.push(Arc::downgrade(work));
        }
    }

    fn wait(&self) -> Option<Arc<dyn Work>> {
        let mut queue = self.lock();
        while !queue.closed {
            if let Some(work) = queue.pop() {
                return Some(work);
            }
            queue = self.changed.wait(queue);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

impl Queue {
    /// Takes the first work whose owner still exists.
    fn pop(&mut self) -> Option<Arc<dyn Work>> {
        while let Some(work) = self.work.pop_front() {
            if let Some(work) = work.upgrade() {
                return Some(work);
            }
        }
        None
    }
}

impl fmt::Debug for Preallocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preallocator").finish_non_exhaustive()
    }
}
