//! The digest of a segment: which keys it holds, without the keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::digest::{DigestAnnex, DigestBlocks, DigestEntry, DigestFooter};
use crate::segment::digest_file::read_footer;
use crate::storage::{File, OpenMode, Storage};

/// An open `.digest` file. That it is of the segment beside it is for the caller to see: `footer.subject` says of which
/// one it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DigestFile {
    /// What it is of, and what is in it.
    pub footer: DigestFooter,
    /// What it says beside its entries.
    pub annex: DigestAnnex,
    file: Arc<dyn File>,
    path: PathBuf,
}

/// Opens a `.digest` file of any suffix, and reads all but its entries.
pub fn digest(storage: &dyn Storage, path: &Path) -> Result<DigestFile> {
    let file = storage.open(path, OpenMode::Read).map_err(|e| Error::io(e, path))?;
    let footer = read_footer(&*file).map_err(|e| Error::io(e, path))?.map_err(|why| Error::bad_file(path, &why))?;
    let position = footer.annex_position();
    // The file is as long as its footer says: what is allocated is there.
    let bytes = read_exact(&*file, path, position, footer.annex_len() as usize)?;
    let annex = DigestAnnex::decode(&footer, &bytes).map_err(|why| Error::corrupt(path, position, why.to_string()))?;
    Ok(DigestFile { footer, annex, file, path: path.to_path_buf() })
}

impl DigestFile {
    /// Its entries in the order of their hashes, block by block as their checksums are found right. An error ends them.
    pub fn entries(&self) -> impl Iterator<Item = Result<DigestEntry>> + '_ {
        let count = self.footer.counts.keys.div_ceil(DigestBlocks::ENTRIES as u64);
        let mut failed = false;
        (0..count)
            .map_while(move |number| {
                let block = (!failed).then(|| self.block(number))?;
                failed = block.is_err();
                Some(block)
            })
            .flat_map(|block| {
                let (entries, error) = match block {
                    Ok(entries) => (entries, None),
                    Err(error) => (Vec::new(), Some(error)),
                };
                entries.into_iter().map(Ok).chain(error.map(Err))
            })
    }

    fn block(&self, number: u64) -> Result<Vec<DigestEntry>> {
        let position = number * DigestBlocks::LEN as u64;
        let len = (self.footer.annex_position() - position).min(DigestBlocks::LEN as u64);
        let block = read_exact(&*self.file, &self.path, position, len as usize)?;
        let entries = self.footer.subject.blocks().check(number, &block);
        let entries = entries.map_err(|why| Error::corrupt(&self.path, position, why.to_string()))?;
        Ok(DigestEntry::decode_all(entries).collect())
    }
}

fn read_exact(file: &dyn File, path: &Path, position: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, position).map_err(|e| Error::io(e, path).at_position(position))?;
    if read == len {
        return Ok(bytes);
    }
    Err(Error::corrupt(path, position + read as u64, "the file is shorter than it was"))
}
