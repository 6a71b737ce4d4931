//! Reused read buffers, because each page of fresh memory costs a fault.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use crate::sync::{Arc, Mutex, MutexGuard};

/// The most bytes kept for the next reads.
const KEPT_MAX: usize = 4 << 20;
/// The most buffers kept, because each read searches them.
const COUNT_MAX: usize = 64;
/// A buffer more than this many times larger than the read stays free, so that a small read does not hold much memory.
const WASTE_MAX: usize = 2;

/// The free buffers, shared by all partitions of a log.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// The buffer returned last is at the end.
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// A buffer in use, which returns to the pool.
struct Lent {
    buffer: Vec<u8>,
    len: usize,
    home: Arc<BufferPool>,
}

impl BufferPool {
    /// Lets `read` fill a buffer of `len` bytes, and returns as many of them as it reports. The buffer's earlier
    /// contents are unspecified.
    pub(crate) fn read(
        self: &Arc<Self>,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Bytes> {
        let mut lent = Lent { buffer: self.take(len), len, home: Arc::clone(self) };
        lent.len = read(&mut lent.buffer[..len])?.min(len);
        Ok(Bytes::from_owner(lent))
    }

    /// Frees the memory of all free buffers.
    pub(crate) fn clear(&self) {
        let freed = std::mem::take(&mut *self.lock());
        drop(freed);
    }

    fn take(&self, len: usize) -> Vec<u8> {
        let free = self.lock().take(len);
        free.unwrap_or_else(|| vec![0; len])
    }

    fn put(&self, buffer: Vec<u8>) {
        let freed = self.lock().put(buffer);
        drop(freed);
    }

    /// The sizes of the free buffers.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let free = self.lock();
        let sizes: Vec<usize> = free.buffers.iter().map(Vec::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), free.bytes);
        sizes
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock()
    }
}

impl Free {
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let fits = |buffer: &Vec<u8>| (len..=len.saturating_mul(WASTE_MAX)).contains(&buffer.len());
        let at = self.buffers.iter().rposition(fits)?;
        let buffer = self.buffers.remove(at)?;
        self.bytes -= buffer.len();
        Some(buffer)
    }

    /// Returns the buffers to be freed now. The oldest ones make room, so that sizes no longer in use disappear.
    fn put(&mut self, buffer: Vec<u8>) -> Vec<Vec<u8>> {
        if buffer.len() > KEPT_MAX {
            return vec![buffer];
        }
        self.bytes += buffer.len();
        self.buffers.push_back(buffer);
        let mut freed = Vec::new();
        while self.bytes > KEPT_MAX || self.buffers.len() > COUNT_MAX {
            let Some(oldest) = self.buffers.pop_front() else { break };
            self.bytes -= oldest.len();
            freed.push(oldest);
        }
        freed
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_where_it_fits_and_shows_what_was_read() {
        let buffers = Arc::new(BufferPool::default());
        let fill = |with: u8, count: usize| {
            move |buffer: &mut [u8]| {
                buffer[..count].fill(with);
                Ok(count)
            }
        };
        let first = buffers.read(1000, fill(1, 1000)).unwrap();
        let place = first.as_ptr();
        let part = first.slice(10..20);
        drop(first);
        let second = buffers.read(1000, fill(2, 1000)).unwrap();
        assert_ne!(second.as_ptr(), place, "somebody holds a part of the first");
        assert_eq!(part[..], [1; 10]);
        drop(part);
        let third = buffers.read(900, fill(3, 700)).unwrap();
        assert_eq!((third.as_ptr(), &third[..]), (place, &[3; 700][..]), "what was there before is not shown");
        drop(third);
        let fourth = buffers.read(100, fill(4, 100)).unwrap();
        assert_ne!(fourth.as_ptr(), place, "ten times what is needed");
        assert_eq!(buffers.sizes().len(), 1);
    }

    #[test]
    fn no_more_is_kept_than_the_bounds_and_the_oldest_go() {
        let buffers = Arc::new(BufferPool::default());
        let all: Vec<Bytes> = (0..10).map(|_| buffers.read(1 << 20, |buffer| Ok(buffer.len())).unwrap()).collect();
        drop(all);
        assert_eq!(buffers.sizes(), [1 << 20; 4]);
        drop(buffers.read(KEPT_MAX / 2, |buffer| Ok(buffer.len())).unwrap());
        assert_eq!(buffers.sizes(), [1 << 20, 1 << 20, KEPT_MAX / 2]);
        let small: Vec<Bytes> = (0..100).map(|_| buffers.read(10, |_| Ok(10)).unwrap()).collect();
        drop(small);
        assert_eq!(buffers.sizes(), [10; COUNT_MAX]);
        drop(buffers.read(KEPT_MAX + 1, |buffer| Ok(buffer.len())).unwrap());
        assert_eq!(buffers.sizes(), [10; COUNT_MAX], "too large to be kept, and nothing makes room for it");
        buffers.clear();
        assert!(buffers.sizes().is_empty());
    }

    #[test]
    fn a_read_that_fails_gives_the_buffer_back() {
        let buffers = Arc::new(BufferPool::default());
        assert!(buffers.read(10, |_| Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(buffers.sizes().len(), 1);
    }
}
