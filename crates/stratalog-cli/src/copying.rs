//! Copies log directories, file by file, so that what was copied is on disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use stratalog::format::file_name::LOCK;
use stratalog::inspect::{self, Directory, FileEntry};
use stratalog::storage::{FileSystem, LockGuard, Storage};

use crate::outcome::Failure;
use crate::ui::Ui;

/// What is copied into a new directory. It goes again when it is left unfinished.
pub struct Copy {
    into: PathBuf,
    /// The directory was made here.
    is_new: bool,
    /// Names below both directories.
    files: Vec<(PathBuf, PathBuf)>,
    dirs: Vec<PathBuf>,
    bytes: u64,
    is_done: bool,
}

impl Copy {
    /// Begins a copy into a directory that is absent or empty.
    pub fn into(path: &Path) -> Result<Copy, Failure> {
        let failure = |error: io::Error| Failure::misuse(format!("{}: {error}", path.display()));
        let is_new = match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => false,
            Ok(false) => return Err(Failure::misuse(format!("{}: is not empty", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(path).map_err(failure)?;
                true
            }
            Err(error) => return Err(failure(error)),
        };
        let into = path.canonicalize().map_err(failure)?;
        Ok(Copy { into, is_new, files: Vec::new(), dirs: Vec::new(), bytes: 0, is_done: false })
    }

    /// Where the copy is.
    pub fn path(&self) -> &Path {
        &self.into
    }

    /// How many bytes there are to copy.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Has a file of the directory itself copied, if it is there.
    pub fn add(&mut self, directory: &Directory, name: &str) {
        let from = directory.path.join(name);
        if let Ok(metadata) = fs::symlink_metadata(&from).map(|metadata| metadata.len()) {
            self.bytes += metadata;
            self.files.push((from, self.into.join(name)));
        }
    }

    /// Has the files of its partitions copied that are wanted.
    pub fn add_partitions(
        &mut self,
        directory: &Directory,
        wanted: impl Fn(&FileEntry) -> bool,
    ) -> Result<(), Failure> {
        for partition in &directory.partitions {
            let name = partition.path.file_name().unwrap_or_default();
            let into = self.into.join(name);
            for file in inspect::files(&FileSystem::new(), &partition.path)?.into_iter().filter(&wanted) {
                self.bytes += file.len;
                self.files.push((file.path, into.join(file.name)));
            }
            self.dirs.push(into);
        }
        Ok(())
    }

    /// Copies, and makes the copy durable.
    pub fn run(&mut self, ui: &Ui) -> Result<(), Failure> {
        let bar = ui.bytes(self.bytes, "copying");
        for dir in &self.dirs {
            fs::create_dir(dir).map_err(|error| at(dir, &error))?;
        }
        for (from, into) in &self.files {
            let copied = fs::copy(from, into).map_err(|error| at(from, &error))?;
            File::open(into).and_then(|file| file.sync_all()).map_err(|error| at(into, &error))?;
            bar.inc(copied);
        }
        for dir in self.dirs.iter().chain([&self.into]) {
            sync_dir(dir)?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Writes one more file, the last of all: it tells that the copy is whole.
    pub fn seal(&mut self, name: &str, content: &str) -> Result<(), Failure> {
        let path = self.into.join(name);
        fs::write(&path, content).and_then(|()| File::open(&path)?.sync_all()).map_err(|error| at(&path, &error))?;
        sync_dir(&self.into)
    }

    /// It is whole, and stays.
    pub fn finish(mut self) {
        self.is_done = true;
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // Only what was made here is taken away: the directory was absent, or empty.
        for (_, into) in &self.files {
            let _ = fs::remove_file(into);
        }
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
        if self.is_new {
            let _ = fs::remove_dir(&self.into);
        }
    }
}

/// Keeps owners out while a directory is copied; one that has no lock file has no owner.
pub fn lock(directory: &Directory) -> Result<Option<Box<dyn LockGuard>>, Failure> {
    let path = directory.path.join(LOCK);
    if !path.is_file() {
        return Ok(None);
    }
    FileSystem::new().lock(&path).map(Some).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            Failure::misuse(format!("{}: in use; stop its owner first", directory.path.display()))
        }
        _ => at(&path, &error),
    })
}

fn sync_dir(dir: &Path) -> Result<(), Failure> {
    FileSystem::new().sync_dir(dir).map_err(|error| at(dir, &error))
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::misuse(format!("{}: {error}", path.display()))
}
