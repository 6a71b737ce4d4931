//! Reads and writes at a bounded rate, and stops once another thread waits. Maintenance uses the disk this way.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::{DirEntry, File, FileInfo, Hold, LockGuard, OpenMode, Reserve, Reserved, Sizes, Storage};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Instant, Mutex, thread};

/// Unused rate is kept for this long, so that a series of large reads or writes proceeds evenly.
const KEPT: Duration = Duration::from_millis(100);
/// The longest sleep before checking for a waiting thread.
const SLEEP: Duration = Duration::from_millis(5);

/// A rate that all compactions of a log share.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_second: Option<u64>,
    /// When all bytes requested so far have passed at this rate.
    passed_at: Mutex<Option<Instant>>,
    /// This flag and `cancel` are polled, and synchronize nothing else.
    stopped: AtomicBool,
}

impl Throttle {
    /// Sets a bound in bytes per second; `None` means no bound.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Throttle {
        Throttle { bytes_per_second, passed_at: Mutex::new(None), stopped: AtomicBool::new(false) }
    }

    /// Interrupts everything that runs under it, now and later, because the log is being closed.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether it was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn is_cancelled(&self, cancel: &AtomicU64) -> bool {
        self.is_stopped() || cancel.load(Ordering::Acquire) > 0
    }

    /// Lets `bytes` bytes pass, waiting until the rate allows them. Fails with
    /// [`Interrupted`](io::ErrorKind::Interrupted) as soon as another thread waits for it to stop.
    fn pass(&self, bytes: usize, cancel: &AtomicU64) -> io::Result<()> {
        let check = || match self.is_cancelled(cancel) {
            true => Err(io::Error::from(io::ErrorKind::Interrupted)),
            false => Ok(()),
        };
        check()?;
        let Some(rate) = self.bytes_per_second else { return Ok(()) };
        let at = self.reserve(bytes, rate);
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLEEP));
            check()?;
        }
    }

    /// Returns when `bytes` more bytes may pass.
    fn reserve(&self, bytes: usize, rate: u64) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let now = Instant::now();
        let mut passed_at = self.passed_at.lock();
        let kept = now.checked_sub(KEPT).unwrap_or(now);
        let begins = passed_at.map_or(kept, |passed| passed.max(kept));
        let ends = begins.checked_add(takes).unwrap_or(begins);
        *passed_at = Some(ends);
        ends
    }
}

/// A storage whose files are read and written at the rate of a [`Throttle`]. While `cancel` is not zero, every read and
/// write fails with [`Interrupted`](io::ErrorKind::Interrupted).
#[derive(Clone, Debug)]
pub(crate) struct Throttled {
    storage: Arc<dyn Storage>,
    throttle: Arc<Throttle>,
    cancel: Arc<AtomicU64>,
}

impl Throttled {
    pub(crate) fn new(storage: Arc<dyn Storage>, throttle: Arc<Throttle>, cancel: Arc<AtomicU64>) -> Throttled {
        Throttled { storage, throttle, cancel }
    }

    /// Whether another thread waits for this to end. Then nothing more is read or written.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.throttle.is_cancelled(&self.cancel)
    }

    /// Wraps a file that was opened elsewhere, to be read and written at this rate.
    pub(crate) fn file(&self, file: &Arc<dyn File>) -> Arc<dyn File> {
        let (throttle, cancel) = (Arc::clone(&self.throttle), Arc::clone(&self.cancel));
        Arc::new(ThrottledFile { file: Arc::clone(file), throttle, cancel })
    }
}

impl Storage for Throttled {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(self.file(&self.storage.open(path, mode)?))
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        self.storage.info(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.storage.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.storage.create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.storage.remove_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.storage.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.storage.remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.storage.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.storage.free_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.storage.lock(path)
    }

    fn sizes(&self) -> Sizes {
        self.storage.sizes()
    }
}

#[derive(Debug)]
struct ThrottledFile {
    file: Arc<dyn File>,
    throttle: Arc<Throttle>,
    cancel: Arc<AtomicU64>,
}

impl File for ThrottledFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.throttle.pass(buf.len(), &self.cancel)?;
        self.file.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.throttle.pass(buf.len(), &self.cancel)?;
        self.file.write_at(buf, position)
    }

    fn info(&self) -> io::Result<FileInfo> {
        self.file.info()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write_out(&self, begin: Range<u64>, wait_for: Range<u64>) -> io::Result<()> {
        self.file.write_out(begin, wait_for)
    }

    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
        self.file.reserve(position, len, how)
    }

    fn map(&self, len: u64) -> io::Result<Option<Bytes>> {
        self.file.map(len)
    }

    fn hold(&self, len: u64) -> io::Result<Hold> {
        self.file.hold(len)
    }

    fn held(&self) -> u64 {
        self.file.held()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_rate() {
        let throttle = Throttle::new(Some(1_000_000));
        let (cancel, began) = (AtomicU64::new(0), Instant::now());
        for _ in 0..20 {
            throttle.pass(15_000, &cancel).unwrap();
        }
        // Unused rate that was kept passes at once.
        assert!(began.elapsed() >= Duration::from_millis(300) - KEPT, "{:?}", began.elapsed());
    }

    #[test]
    fn whoever_waits_for_the_rate_is_interrupted() {
        let throttle = Throttle::new(Some(1));
        let (cancel, began) = (AtomicU64::new(0), Instant::now());
        thread::scope(|scope| {
            let waits = scope.spawn(|| throttle.pass(1 << 20, &cancel));
            cancel.store(1, Ordering::Release);
            assert_eq!(waits.join().unwrap().unwrap_err().kind(), io::ErrorKind::Interrupted);
        });
        assert!(began.elapsed() < Duration::from_secs(600), "twelve days would be the rate");
        cancel.store(0, Ordering::Release);
        throttle.stop();
        assert_eq!(throttle.pass(0, &cancel).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn whoever_waits_interrupts_also_where_no_rate_is_set() {
        let (throttle, cancel) = (Throttle::new(None), AtomicU64::new(1));
        assert_eq!(throttle.pass(1, &cancel).unwrap_err().kind(), io::ErrorKind::Interrupted);
        cancel.store(0, Ordering::Release);
        throttle.pass(1, &cancel).unwrap();
        throttle.stop();
        assert_eq!(throttle.pass(1, &cancel).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn all_else_is_that_of_the_storage_below() {
        let storage = crate::sim::SimStorage::new();
        storage.set_free_space(Some(1000));
        let path = Path::new("/file");
        let below: Arc<dyn Storage> = Arc::new(storage.clone());
        let paced = Throttled::new(below, Arc::new(Throttle::new(None)), Arc::new(AtomicU64::new(0)));
        let file = paced.open(path, OpenMode::CreateNew).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        assert_eq!(paced.free_space(Path::new("/")).unwrap(), 990);
        assert_eq!(file.map(10).unwrap().unwrap(), b"0123456789"[..]);
        file.sync().unwrap();
        paced.sync_dir(Path::new("/")).unwrap();
        let cut = storage.crash(&crate::sim::Crash { order: crate::sim::Order::Strict, seed: 0 });
        let mut bytes = [0; 10];
        cut.open(path, OpenMode::Read).unwrap().read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"0123456789", "it was synced");
    }
}
