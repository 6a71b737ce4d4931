//! One file behind a buffer of 1 MiB: the least that a log can be. It cannot be read by number.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{Mode, Points, Seen, Store, in_calls};
use crate::data::{Run, Stop};

const BUFFER: usize = 1 << 20;

pub struct Opened {
    path: PathBuf,
    tail: Mutex<Tail>,
    mode: Mode,
}

struct Tail {
    file: File,
    buffer: Vec<u8>,
}

impl Opened {
    pub fn open(dir: &Path, mode: Mode) -> Opened {
        let path = dir.join("log");
        let file = File::options().create(true).append(true).open(&path).expect("it opens");
        let opened = Opened { path, tail: Mutex::new(Tail { file, buffer: Vec::with_capacity(2 * BUFFER) }), mode };
        // What a log must do before it can be appended to.
        opened.scan();
        opened
    }
}

impl Tail {
    fn flush(&mut self) {
        self.file.write_all(&self.buffer).expect("there is room");
        self.buffer.clear();
    }
}

/// A call is its length, a CRC-32C, and records: a length and the payload.
impl Store for Opened {
    fn append(&self, _lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        in_calls(records, per_call, stop, |run| {
            let mut tail = self.tail.lock().expect("nobody panicked");
            let at = tail.buffer.len();
            tail.buffer.extend_from_slice(&[0; 8]);
            for entry in run.iter() {
                tail.buffer.extend_from_slice(&(entry.payload.len() as u32).to_be_bytes());
                tail.buffer.extend_from_slice(entry.payload);
            }
            let body = &tail.buffer[at + 8..];
            let (len, crc) = (body.len() as u32, crc_fast::crc32_iscsi(body));
            tail.buffer[at..at + 4].copy_from_slice(&len.to_be_bytes());
            tail.buffer[at + 4..at + 8].copy_from_slice(&crc.to_be_bytes());
            if self.mode == Mode::Synced {
                tail.flush();
                tail.file.sync_data().expect("the disk works");
            } else if tail.buffer.len() >= BUFFER {
                tail.flush();
            }
        })
    }

    fn scan(&self) -> Option<Seen> {
        self.tail.lock().expect("nobody panicked").flush();
        let mut file = BufReader::with_capacity(BUFFER, File::open(&self.path).expect("it opens"));
        let mut seen = Seen::default();
        let (mut header, mut body) = ([0; 8], Vec::new());
        while file.read_exact(&mut header).is_ok() {
            let [l0, l1, l2, l3, crc @ ..] = header;
            body.resize(u32::from_be_bytes([l0, l1, l2, l3]) as usize, 0);
            file.read_exact(&mut body).expect("it is whole");
            assert_eq!(crc_fast::crc32_iscsi(&body), u32::from_be_bytes(crc));
            let mut rest = &body[..];
            while let Some((len, behind)) = rest.split_first_chunk() {
                let len = u32::from_be_bytes(*len) as usize;
                seen.add(len);
                rest = &behind[len..];
            }
        }
        Some(seen)
    }

    fn points(&self) -> Option<Points<'_>> {
        None
    }

    fn close(self: Box<Self>) {
        let mut tail = self.tail.into_inner().expect("nobody panicked");
        tail.flush();
        tail.file.sync_data().expect("the disk works");
    }
}
