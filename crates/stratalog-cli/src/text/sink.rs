//! Writes text to a file or to standard output, in a thread of its own.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::is_gz;
use crate::outcome::Failure;

/// About how many bytes are written at a time.
const BLOCK: usize = 1 << 20;
/// Blocks that wait to be written.
const BEHIND: usize = 3;

/// A file that is written, or standard output.
pub struct Sink {
    /// What is written next; [`advance`](Sink::advance) hands it on when it is full.
    pub buffer: Vec<u8>,
    blocks: Option<SyncSender<Vec<u8>>>,
    written: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// A file that is not whole yet: it goes when it is left so.
    path: Option<PathBuf>,
}

impl Sink {
    /// Begins to write a new file, or standard output. A file that is there is left alone, unless `force`.
    pub fn open(path: Option<&Path>, force: bool) -> Result<Sink, Failure> {
        let output: Output = match path {
            None => Output::Plain(Box::new(io::stdout())),
            Some(path) => {
                let mut options = File::options();
                options.write(true);
                if force {
                    options.create(true).truncate(true)
                } else {
                    options.create_new(true)
                };
                let file = options.open(path).map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => {
                        Failure::misuse(format!("{}: is there already; --force writes over it", path.display()))
                    }
                    _ => Failure::misuse(format!("{}: {error}", path.display())),
                })?;
                if is_gz(path) {
                    Output::Gz(GzEncoder::new(file, Compression::default()))
                } else {
                    Output::Plain(Box::new(file))
                }
            }
        };
        let (blocks, receive) = sync_channel(BEHIND);
        let (recycle, written) = channel();
        let thread =
            std::thread::Builder::new().name("write".to_owned()).spawn(move || run(output, &receive, &recycle))?;
        Ok(Sink {
            buffer: Vec::with_capacity(BLOCK + BLOCK / 8),
            blocks: Some(blocks),
            written,
            thread: Some(thread),
            path: path.map(Path::to_path_buf),
        })
    }

    /// Hands on what was written, when it is enough.
    #[inline]
    pub fn advance(&mut self) -> Result<(), Failure> {
        if self.buffer.len() < BLOCK { Ok(()) } else { self.hand_on() }
    }

    /// Writes the rest, and waits until all of it is written.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.hand_on()?;
        self.end()?;
        self.path = None;
        Ok(())
    }

    #[cold]
    fn hand_on(&mut self) -> Result<(), Failure> {
        let next = self.written.try_recv().unwrap_or_default();
        let full = std::mem::replace(&mut self.buffer, next);
        let sent = self.blocks.as_ref().is_some_and(|blocks| blocks.send(full).is_ok());
        if sent { Ok(()) } else { self.end() }
    }

    /// Waits for the thread, which says why it ended.
    fn end(&mut self) -> Result<(), Failure> {
        self.blocks = None;
        let ended = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        };
        ended.map_err(|error| match &self.path {
            Some(path) => Failure::misuse(format!("{}: {error}", path.display())),
            None => Failure::from(error),
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.blocks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = self.path.take().filter(|path| path.is_file()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

enum Output {
    Plain(Box<dyn Write + Send>),
    Gz(GzEncoder<File>),
}

fn run(mut output: Output, blocks: &Receiver<Vec<u8>>, recycle: &Sender<Vec<u8>>) -> io::Result<()> {
    for mut block in blocks {
        match &mut output {
            Output::Plain(output) => output.write_all(&block)?,
            Output::Gz(output) => output.write_all(&block)?,
        }
        block.clear();
        let _ = recycle.send(block);
    }
    match output {
        Output::Plain(mut output) => output.flush(),
        Output::Gz(output) => output.finish()?.flush(),
    }
}
