//! A change to a simulated file, and what a crash leaves of one.

use std::sync::Arc;

use super::fault::Draw;

/// A write is torn at multiples of this, as sectors are written whole.
const SECTOR: u64 = 512;

/// A change to a file.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { position: u64, bytes: Arc<[u8]> },
    SetLen(u64),
}

impl Change {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { position, bytes } => {
                grow(content, position + bytes.len() as u64);
                content[*position as usize..*position as usize + bytes.len()].copy_from_slice(bytes);
            }
            Change::SetLen(len) => content.resize(*len as usize, 0),
        }
    }

    /// Some of a write is there: up to a byte, or some of its sectors, or its length with zeros or garbage in it.
    pub(super) fn apply_torn(&self, content: &mut Vec<u8>, draw: &mut Draw) {
        let Change::Write { position, bytes } = self else { return self.apply(content) };
        let len = bytes.len() as u64;
        match draw.below(4) {
            0 => {
                let cut = draw.below(len + 1) as usize;
                Change::Write { position: *position, bytes: bytes[..cut].into() }.apply(content);
            }
            1 => {
                grow(content, position + len);
                let mut at = 0;
                while at < len {
                    let end = ((position + at) / SECTOR * SECTOR + SECTOR - position).min(len);
                    if draw.below(2) == 0 {
                        let piece = bytes[at as usize..end as usize].into();
                        Change::Write { position: position + at, bytes: piece }.apply(content);
                    }
                    at = end;
                }
            }
            2 => grow(content, position + draw.below(len + 1)),
            _ => {
                // Only blocks that the file did not have yet can hold anything: what is overwritten is old or new.
                let new = (content.len() as u64).max(*position);
                let garbage: Vec<u8> = (new..position + len).map(|_| draw.next() as u8).collect();
                Change::Write { position: new, bytes: garbage.into() }.apply(content);
            }
        }
    }
}

pub(super) fn grow(content: &mut Vec<u8>, len: u64) {
    if (content.len() as u64) < len {
        content.resize(len as usize, 0);
    }
}
