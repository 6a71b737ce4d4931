//! The file of a segment, while it is open.

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::Suffix;
use crate::storage::file_cache::{MappedTicket, OpenTicket};
use crate::storage::{File, OpenMode};
use crate::sync::{Arc, Mutex, RwLock};

use super::mapping::Mapping;

/// The open file, and the name under which it is opened again. A swap changes the name under this lock.
pub(super) struct Slot {
    pub(super) suffix: Suffix,
    pub(super) data: Option<Arc<OpenData>>,
    pub(super) usage: Use,
}

impl Slot {
    /// Returns the file if it is open in this mode. Fails if it may not be opened any more.
    pub(super) fn open(&self, mode: OpenMode) -> Result<Option<Arc<OpenData>>> {
        let data = self.data.as_ref().filter(|data| data.writable || mode == OpenMode::Read);
        match data {
            None if self.usage == Use::Gone => Err(Error::new(ErrorKind::Closed)),
            data => Ok(data.cloned()),
        }
    }
}

/// The allowed uses of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// The file is opened, mapped and held as needed.
    Open,
    /// The file is being truncated: no new holds.
    Cut,
    /// The partition is closed or deleted. The file is not opened again: another file may have its name, and its inode.
    Gone,
}

/// An open segment file and the data cached from it.
pub(crate) struct OpenData {
    pub(crate) file: Arc<dyn File>,
    pub(super) writable: bool,
    pub(super) map: RwLock<Mapping>,
    pub(super) offsets: Mutex<Option<Cached>>,
    pub(super) times: Mutex<Option<Cached>>,
    _ticket: OpenTicket,
}

pub(super) struct Cached {
    pub(super) bytes: Bytes,
    pub(super) _ticket: MappedTicket,
}

impl OpenData {
    pub(super) fn new(file: Arc<dyn File>, writable: bool, ticket: OpenTicket) -> OpenData {
        OpenData {
            file,
            writable,
            map: RwLock::new(Mapping::default()),
            offsets: Mutex::new(None),
            times: Mutex::new(None),
            _ticket: ticket,
        }
    }
}
