//! Many streams of small items in fixed memory: what does not fit goes to one temporary file.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::storage::{File, OpenMode, Storage};

const CRC_LEN: usize = 4;
const NONE: u32 = u32::MAX;
/// The most that is read or written at a time.
const PIECE_MAX: usize = 1 << 18;

/// Makes temporary files. They have no name as soon as they are open, so nothing is left of them when they are closed,
/// by whatever way.
#[derive(Clone, Copy)]
pub(crate) struct TempFiles<'a> {
    storage: &'a dyn Storage,
    name: &'a dyn Fn() -> PathBuf,
}

impl<'a> TempFiles<'a> {
    /// Each call of `name` gives the path of a file that is not there, and would be removed when the log is opened.
    pub(crate) fn new(storage: &'a dyn Storage, name: &'a dyn Fn() -> PathBuf) -> TempFiles<'a> {
        TempFiles { storage, name }
    }

    fn create(&self) -> Result<Temp> {
        let path = (self.name)();
        let at = |e| Error::io(e, &path);
        let file = self.storage.open(&path, OpenMode::CreateNew).map_err(at)?;
        self.storage.remove_file(&path).map_err(at)?;
        Ok(Temp { file, path, len: 0 })
    }
}

#[derive(Debug)]
struct Temp {
    file: Arc<dyn File>,
    path: PathBuf,
    len: u64,
}

/// How much memory streams take, and in what pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pages {
    /// Items in a page.
    pub(super) items: usize,
    /// Pages in memory; more than there are streams.
    pub(super) count: usize,
}

/// Streams of items of `N` bytes, each read in the order in which it was written.
///
/// A stream is a list of pages. All but its last page are full; when the memory is used up the full ones are written to
/// the file, those of a stream one behind the other. In the file each page has a checksum, over what it holds and where
/// it belongs: what comes back from the disk decides what is removed from the log.
#[derive(Debug)]
pub(super) struct Streams<const N: usize> {
    pages: Pages,
    pool: Vec<u8>,
    /// For each page in memory the next one of its stream, or of the free ones.
    next: Vec<u32>,
    free: u32,
    /// Pages from here on were never used.
    unused: u32,
    /// Where the next item of each stream goes in the pool, and where its last page ends.
    cursors: Vec<(usize, usize)>,
    streams: Vec<Stream>,
    temp: Option<Temp>,
    piece: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Stream {
    /// The first page in memory.
    first: u32,
    last: u32,
    /// Pages in memory.
    held: u64,
    /// Pages in the file.
    spilled: u64,
    /// Where those are: runs of pages by their place in the file.
    runs: Vec<(u64, u64)>,
}

const EMPTY: Stream = Stream { first: NONE, last: NONE, held: 0, spilled: 0, runs: Vec::new() };

impl<const N: usize> Streams<N> {
    pub(super) fn new(streams: usize, pages: Pages) -> Streams<N> {
        assert!(
            pages.items > 0 && pages.count > streams && pages.count < NONE as usize,
            "{pages:?} for {streams} streams"
        );
        Streams {
            pages,
            pool: Vec::new(),
            next: Vec::new(),
            free: NONE,
            unused: 0,
            cursors: vec![(0, 0); streams],
            streams: vec![EMPTY; streams],
            temp: None,
            piece: Vec::new(),
        }
    }

    pub(super) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Items in a stream.
    pub(super) fn len(&self, stream: usize) -> u64 {
        let Stream { held, spilled, .. } = self.streams[stream];
        let (at, end) = self.cursors[stream];
        (held + spilled) * self.pages.items as u64 - ((end - at) / N) as u64
    }

    /// Whether anything was written to a file.
    pub(super) fn has_spilled(&self) -> bool {
        self.temp.is_some()
    }

    /// The place of a new item at the end of a stream, to be filled; `None` when there is no memory for it.
    #[inline]
    pub(super) fn try_push(&mut self, stream: usize) -> Option<&mut [u8; N]> {
        let (mut at, end) = self.cursors[stream];
        if at == end {
            at = self.add_page(stream)?;
        }
        self.cursors[stream].0 = at + N;
        self.pool[at..].first_chunk_mut()
    }

    /// The place of a new item at the end of a stream, to be filled.
    #[inline]
    pub(super) fn push(&mut self, stream: usize, temp: &TempFiles<'_>) -> Result<&mut [u8; N]> {
        let (at, end) = self.cursors[stream];
        if at == end && self.add_page(stream).is_none() {
            self.spill(temp)?;
        }
        Ok(self.try_push(stream).expect("there are more pages than streams: some were full"))
    }

    /// Writes all full pages to the file.
    pub(super) fn spill(&mut self, temp: &TempFiles<'_>) -> Result<()> {
        self.write_pages(temp, false)
    }

    /// The streams are complete. If they did not fit, they are in the file as a whole now, and the memory is free.
    pub(super) fn complete(&mut self, temp: &TempFiles<'_>) -> Result<()> {
        if self.has_spilled() {
            self.write_pages(temp, true)?;
            (self.pool, self.next) = (Vec::new(), Vec::new());
        }
        Ok(())
    }

    /// Calls `visit` with the items of a stream, some at a time.
    pub(super) fn read(&mut self, stream: usize, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = self.len(stream) as usize * N;
        let page_len = self.page_on_disk();
        let mut number = 0;
        for &(position, count) in &self.streams[stream].runs {
            let temp = self.temp.as_ref().expect("what was spilled is in a file");
            let mut done = 0;
            while done < count {
                let pages = (count - done).min((PIECE_MAX / page_len).max(1) as u64);
                self.piece.resize(pages as usize * page_len, 0);
                read_exact(temp, &mut self.piece, position + done * page_len as u64)?;
                for page in self.piece.chunks(page_len) {
                    let items = check(temp, stream, number, page)?;
                    let len = items.len().min(left);
                    visit(&items[..len])?;
                    left -= len;
                    number += 1;
                }
                done += pages;
            }
        }
        self.read_held(stream, visit)
    }

    /// The same for what is in memory of a stream.
    pub(super) fn read_held(&self, stream: usize, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Stream { first, last, .. } = self.streams[stream];
        let mut page = first;
        while page != NONE {
            let start = page as usize * self.page_len();
            let end = if page == last { self.cursors[stream].0 } else { start + self.page_len() };
            visit(&self.pool[start..end])?;
            page = self.next[page as usize];
        }
        Ok(())
    }

    /// Forgets what is in memory of a stream.
    pub(super) fn clear_held(&mut self, stream: usize) {
        let Stream { first, last, .. } = self.streams[stream];
        if last != NONE {
            self.next[last as usize] = self.free;
            self.free = first;
        }
        let stream_state = &mut self.streams[stream];
        (stream_state.first, stream_state.last, stream_state.held) = (NONE, NONE, 0);
        self.cursors[stream] = (0, 0);
    }

    /// Forgets everything but the memory.
    pub(super) fn clear(&mut self) {
        (self.free, self.unused, self.temp) = (NONE, 0, None);
        self.cursors.fill((0, 0));
        self.streams.fill(EMPTY);
    }

    /// Bytes of a page in memory.
    fn page_len(&self) -> usize {
        self.pages.items * N
    }

    fn page_on_disk(&self) -> usize {
        self.page_len() + CRC_LEN
    }

    /// Adds a page to a stream whose last one is full; returns where it begins in the pool.
    #[cold]
    fn add_page(&mut self, stream: usize) -> Option<usize> {
        let page = self.take_page()?;
        self.next[page as usize] = NONE;
        let held = &mut self.streams[stream];
        match held.last {
            NONE => held.first = page,
            last => self.next[last as usize] = page,
        }
        held.last = page;
        held.held += 1;
        let start = page as usize * self.page_len();
        self.cursors[stream] = (start, start + self.page_len());
        Some(start)
    }

    fn take_page(&mut self) -> Option<u32> {
        if self.pool.is_empty() {
            self.pool = vec![0; self.pages.count * self.page_len()];
            self.next = vec![NONE; self.pages.count];
        }
        if self.free != NONE {
            let page = self.free;
            self.free = self.next[page as usize];
            return Some(page);
        }
        let page = self.unused;
        self.unused += u32::from((page as usize) < self.pages.count);
        ((page as usize) < self.pages.count).then_some(page)
    }

    /// Writes the full pages, or all of them, to the file.
    fn write_pages(&mut self, temp: &TempFiles<'_>, all: bool) -> Result<()> {
        let mut file = match self.temp.take() {
            Some(file) => file,
            None => temp.create()?,
        };
        self.piece.clear();
        for stream in 0..self.streams.len() {
            let mut page = self.streams[stream].first;
            while page != NONE {
                let (next, start) = (self.next[page as usize], page as usize * self.page_len());
                let (at, end) = self.cursors[stream];
                if next == NONE && at < end {
                    if !all {
                        break;
                    }
                    self.pool[at..end].fill(0);
                }
                let number = self.streams[stream].spilled;
                let items = &self.pool[start..start + self.pages.items * N];
                self.piece.extend_from_slice(items);
                self.piece.extend_from_slice(&crc(stream, number, items).to_be_bytes());
                self.move_to_file(stream, page, next, file.len);
                file.len += self.page_on_disk() as u64;
                if self.piece.len() + self.page_on_disk() > PIECE_MAX {
                    write_piece(&file, &mut self.piece)?;
                }
                page = next;
            }
        }
        write_piece(&file, &mut self.piece)?;
        self.temp = Some(file);
        Ok(())
    }

    /// Notes that the first page in memory of a stream is in the file, at `position`.
    fn move_to_file(&mut self, stream: usize, page: u32, next: u32, position: u64) {
        let page_on_disk = self.page_on_disk() as u64;
        let held = &mut self.streams[stream];
        held.spilled += 1;
        held.held -= 1;
        held.first = next;
        if next == NONE {
            held.last = NONE;
            // An incomplete last page stays counted as one: `len` is what was pushed.
            let (at, end) = self.cursors[stream];
            self.cursors[stream] = (0, end - at);
        }
        match held.runs.last_mut() {
            Some((start, count)) if *start + *count * page_on_disk == position => *count += 1,
            _ => held.runs.push((position, 1)),
        }
        self.next[page as usize] = self.free;
        self.free = page;
    }
}

fn crc(stream: usize, number: u64, items: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(stream as u64).to_be_bytes());
    hasher.update(&number.to_be_bytes());
    hasher.update(items);
    hasher.finalize()
}

/// The items of a page that came from the file.
fn check<'p>(temp: &Temp, stream: usize, number: u64, page: &'p [u8]) -> Result<&'p [u8]> {
    match page.split_last_chunk::<CRC_LEN>() {
        Some((items, stored)) if crc(stream, number, items).to_be_bytes() == *stored => Ok(items),
        _ => Err(Error::corrupt(&temp.path, 0, "a temporary file does not hold what was written to it")),
    }
}

fn read_exact(temp: &Temp, buffer: &mut [u8], position: u64) -> Result<()> {
    let read = temp.file.read_at(buffer, position).map_err(|e| Error::io(e, &temp.path))?;
    if read == buffer.len() {
        return Ok(());
    }
    Err(Error::corrupt(&temp.path, position + read as u64, "a temporary file is shorter than it was"))
}

/// Writes the piece that ends where the file will end.
fn write_piece(temp: &Temp, piece: &mut Vec<u8>) -> Result<()> {
    let position = temp.len - piece.len() as u64;
    temp.file.write_at(piece, position).map_err(|e| Error::io(e, &temp.path))?;
    piece.clear();
    Ok(())
}

#[cfg(test)]
mod tests;
