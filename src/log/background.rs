//! The threads of a log.

use std::time::Duration;

use crate::maintenance;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Arc, Weak};

use super::inner::LogInner;
use super::signals::Stop;

impl LogInner {
    pub(super) fn start_threads(&self) {
        let mut threads = self.threads.lock();
        for at in 0..self.config.sync_threads {
            let resources = Arc::clone(&self.resources);
            let run = move || {
                while let Some(partition) = resources.sync_queue.next() {
                    partition.sync_now();
                }
            };
            threads.push(spawn(&format!("stratalog-sync-{at}"), run));
        }
        if self.config.sync_threads > 0 {
            let preallocator = Arc::clone(&self.resources.preallocator);
            threads.push(spawn("stratalog-prealloc", move || preallocator.serve()));
        }
        let Some(interval) = self.config.maintenance_interval else { return };
        let (log, stop) = (self.me.clone(), Arc::clone(&self.stop));
        threads.push(spawn("stratalog-upkeep", move || keep_up(&log, &stop, interval)));
        for at in 0..self.config.compaction_threads {
            let (log, stop) = (self.me.clone(), Arc::clone(&self.stop));
            threads.push(spawn(&format!("stratalog-compact-{at}"), move || take_turns(&log, &stop)));
        }
    }

    pub(super) fn stop_threads(&self) {
        self.stop.stop();
        self.resources.throttle.stop();
        self.resources.sync_queue.close();
        self.resources.preallocator.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // The maintenance thread may hold the last clone, for a pass. A thread cannot join itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Visits all partitions at each interval. The thread keeps no clone of the log while it waits: dropping the last clone
/// ends it.
fn keep_up(log: &Weak<LogInner>, stop: &Stop, interval: Duration) {
    while !stop.wait(interval) {
        let Some((all, clock)) = log.upgrade().map(|log| (log.begin_round(), Arc::clone(&log.config.clock))) else {
            return;
        };
        for core in all.iter() {
            if stop.is_stopped() {
                return;
            }
            maintenance::run(core, clock.now());
        }
        stop.tick();
    }
}

/// Compacts what is due, after each tick of [`keep_up`].
fn take_turns(log: &Weak<LogInner>, stop: &Stop) {
    let mut seen = 0;
    while let Some(tick) = stop.wait_for_tick(seen) {
        seen = tick;
        while !stop.is_stopped() {
            let Some(log) = log.upgrade() else { return };
            let now = log.config.clock.now();
            let turn = log.schedule.next(&log.maintained(), now, &|_| false);
            drop(log);
            let Some(turn) = turn else { break };
            // The outcome is stored with the partition.
            let _ = turn.take(now, None);
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).expect("the process can start threads")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogConfig;
    use crate::log::Log;

    #[test]
    fn each_look_gives_back_the_memory_that_no_read_uses() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), LogConfig::new().maintenance_interval(Some(Duration::from_millis(1)))).unwrap();
        let buffers = log.inner.resources.file_cache.buffers();
        for _ in 0..2 {
            drop(buffers.read(1000, |_| Ok(1000)).unwrap());
            while !buffers.sizes().is_empty() {
                thread::yield_now();
            }
        }
    }
}
