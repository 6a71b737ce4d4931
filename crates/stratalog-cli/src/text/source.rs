//! Reads text by blocks of whole lines and parses them, in a thread of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use flate2::read::MultiGzDecoder;

use super::parse::{BadLine, Block};
use super::{Format, is_gz};
use crate::outcome::Failure;

/// About how many bytes of text are parsed at a time.
const BLOCK: usize = 1 << 20;
/// Blocks that are parsed ahead.
const AHEAD: usize = 3;
/// No line is longer: it could not be a record, which a batch of at most 2 GiB has to hold.
const LINE_MAX: usize = 1 << 30;

/// A file or standard input, read and parsed ahead.
pub struct Source {
    blocks: Option<Receiver<io::Result<Block>>>,
    used: Sender<Block>,
    thread: Option<JoinHandle<()>>,
    path: Option<PathBuf>,
    /// Its length, where it is a file.
    pub len: Option<u64>,
}

struct Reading {
    input: Box<dyn Read + Send>,
    format: Format,
    /// The line that is not whole yet.
    rest: Vec<u8>,
    next_line: u64,
    source_bytes: u64,
    read: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

/// Counts what is read of a file, below a decompression.
struct Counted<R>(R, std::sync::Arc<std::sync::atomic::AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(read)
    }
}

impl Source {
    /// Begins to read a file, or standard input.
    pub fn open(path: Option<&Path>, format: Format) -> Result<Source, Failure> {
        let read = std::sync::Arc::default();
        let mut len = None;
        let input: Box<dyn Read + Send> = match path {
            None => Box::new(Counted(io::stdin(), std::sync::Arc::clone(&read))),
            Some(path) => {
                let failure = |error: io::Error| Failure::misuse(format!("{}: {error}", path.display()));
                let file = File::open(path).map_err(failure)?;
                let metadata = file.metadata().map_err(failure)?;
                if metadata.is_dir() {
                    return Err(Failure::misuse(format!("{}: a directory, not a file", path.display())));
                }
                len = metadata.is_file().then_some(metadata.len());
                let file = Counted(file, std::sync::Arc::clone(&read));
                if is_gz(path) {
                    Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(1 << 16, file)))
                } else {
                    Box::new(file)
                }
            }
        };
        let reading = Reading { input, format, rest: Vec::new(), next_line: 1, source_bytes: 0, read };
        let (send, blocks) = sync_channel(AHEAD);
        let (used, recycled) = channel();
        let thread =
            std::thread::Builder::new().name("read".to_owned()).spawn(move || reading.run(&send, &recycled))?;
        Ok(Source { blocks: Some(blocks), used, thread: Some(thread), path: path.map(Path::to_path_buf), len })
    }

    /// The next block; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Block>, Failure> {
        match self.blocks.as_ref().and_then(|blocks| blocks.recv().ok()) {
            None => Ok(None),
            Some(Ok(block)) => Ok(Some(block)),
            Some(Err(error)) => {
                let name = self.path.as_ref().map_or_else(|| "standard input".to_owned(), |p| p.display().to_string());
                Err(Failure::misuse(format!("{name}: {error}")))
            }
        }
    }

    /// Gives a block back that is done with.
    pub fn done(&self, block: Block) {
        // The reader may be at its end already.
        let _ = self.used.send(block);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.blocks = None;
        // A thread that waits for a terminal would never come back.
        if self.path.is_some()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Reading {
    fn run(mut self, blocks: &SyncSender<io::Result<Block>>, recycled: &Receiver<Block>) {
        loop {
            let mut block = recycled.try_recv().unwrap_or_default();
            let read = self.fill(&mut block);
            let last = match &read {
                Ok(more) => !more,
                Err(_) => true,
            };
            if !block.text.is_empty() {
                block.first_line = self.next_line;
                self.next_line += memchr::memchr_iter(b'\n', &block.text).count() as u64;
                block.source_bytes = self.source_bytes;
                block.parse(&self.format);
                let bad = block.error.is_some();
                if blocks.send(Ok(block)).is_err() || bad {
                    return;
                }
            }
            if let Err(error) = read {
                let _ = blocks.send(Err(error));
                return;
            }
            if last {
                return;
            }
        }
    }

    /// Reads whole lines into a block; whether there is more. After an error the block holds the lines before it.
    fn fill(&mut self, block: &mut Block) -> io::Result<bool> {
        block.text.clear();
        block.text.append(&mut self.rest);
        let mut want = BLOCK;
        let mut searched = 0;
        loop {
            let start = block.text.len();
            block.text.resize(start.max(want), 0);
            let (filled, end) = self.read(&mut block.text, start);
            block.text.truncate(filled);
            self.source_bytes = self.read.load(std::sync::atomic::Ordering::Relaxed);
            let newline = memchr::memrchr(b'\n', &block.text[searched..]).map(|at| searched + at + 1);
            match (end, newline) {
                (Ok(true), _) => return Ok(false),
                (Err(error), newline) => {
                    block.text.truncate(newline.unwrap_or(0));
                    return Err(error);
                }
                (Ok(false), Some(newline)) => {
                    self.rest.extend_from_slice(&block.text[newline..]);
                    block.text.truncate(newline);
                    return Ok(true);
                }
                (Ok(false), None) if filled >= LINE_MAX => {
                    block.text.clear();
                    let what = format!("line {} is longer than {LINE_MAX} bytes", self.next_line);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                (Ok(false), None) => {
                    searched = filled;
                    want = filled * 2;
                }
            }
        }
    }

    /// Reads behind `start`: until the buffer is full, or the input has no more at the moment and a line is whole.
    /// Returns where what was read ends, and whether the input has ended.
    fn read(&mut self, buffer: &mut [u8], start: usize) -> (usize, io::Result<bool>) {
        let mut filled = start;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => return (filled, Ok(true)),
                Ok(read) => {
                    filled += read;
                    // Lines that come one by one are not kept waiting for others.
                    let is_slow = read < 4096 && buffer[filled - 1] == b'\n';
                    if is_slow {
                        return (filled, Ok(false));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (filled, Err(error)),
            }
        }
        (filled, Ok(false))
    }
}

/// What is said of a line that is no record.
pub fn bad_line(bad: &BadLine) -> String {
    format!("line {}: {}", bad.line, bad.why)
}
