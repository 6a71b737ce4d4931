//! The copy of the tree that the mutants are built in.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::find::{Mutant, mutants};
use crate::rewrite::{Rewritten, rewrite};

/// The code that is mutated: where records are written, held, cut and read.
const MUTATED: [&str; 15] = [
    "src/segment/",
    "src/storage/",
    "src/partition/account",
    "src/partition/active",
    "src/partition/append_parts",
    "src/partition/append_state",
    "src/partition/group_commit",
    "src/partition/health",
    "src/partition/pins",
    "src/partition/sync",
    "src/partition/waiters",
    "src/append.rs",
    "src/maintenance/retention.rs",
    "src/read/",
    "src/truncate.rs",
];
const NOT_MUTATED: [&str; 3] = ["src/storage/sim/", "/tests.rs", "/tests/"];
const SWITCH: &str = include_str!("switch.rs.txt");

/// A test binary.
#[derive(Clone, Debug)]
pub struct Binary {
    pub name: String,
    pub path: PathBuf,
}

pub struct Tree {
    pub root: PathBuf,
    pub project: PathBuf,
}

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

impl Tree {
    /// All mutants of the project, in the order of their files and places.
    pub fn mutants(&self) -> Result<Vec<Mutant>> {
        let mut found = Vec::new();
        for file in self.files()? {
            let is_mutated = file.ends_with(".rs") && MUTATED.iter().any(|prefix| file.starts_with(prefix));
            if is_mutated && !NOT_MUTATED.iter().any(|part| file.contains(part)) {
                let text = fs::read_to_string(self.project.join(&file))?;
                found.extend(mutants(&file, &text).map_err(|error| format!("{file}: {error}"))?);
            }
        }
        Ok(found)
    }

    /// The files under version control, in order.
    fn files(&self) -> Result<Vec<String>> {
        let output = Command::new("git").args(["ls-files"]).current_dir(&self.project).output()?;
        if !output.status.success() {
            return Err(format!("`git ls-files` in {} failed", self.project.display()).into());
        }
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    }

    /// Copies the files that differ, so that an earlier build of them stays, but for those that get switches.
    pub fn copy(&self, sample: &[(u32, Mutant)]) -> Result<()> {
        let switched = |file: &str| file == "src/lib.rs" || sample.iter().any(|(_, mutant)| mutant.file == file);
        for file in self.files()?.iter().filter(|file| !switched(file)) {
            let (from, to) = (self.project.join(file), self.root.join(file));
            // One that is removed, and not committed yet.
            let Ok(bytes) = fs::read(&from) else { continue };
            self.put(&to, &bytes)?;
            fs::set_permissions(&to, fs::metadata(&from)?.permissions())?;
        }
        Ok(())
    }

    fn put(&self, to: &Path, bytes: &[u8]) -> io::Result<()> {
        if fs::read(to).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(to, bytes)
    }

    /// Puts the mutants behind switches, and takes those out that do not compile. Returns the numbers of these, which a
    /// file keeps for the next run: what is built already stays so.
    pub fn plant(&self, sample: &[(u32, Mutant)], kept: &Path, told: impl Fn(&str)) -> Result<BTreeSet<u32>> {
        let files: BTreeSet<&str> = sample.iter().map(|(_, mutant)| mutant.file.as_str()).collect();
        let known = fs::read_to_string(kept).unwrap_or_default();
        let mut unviable: BTreeSet<u32> = known.lines().filter_map(|line| line.parse().ok()).collect();
        loop {
            let mut written: Vec<(&str, Rewritten)> = Vec::new();
            for file in &files {
                let of_file = sample.iter().filter(|(id, mutant)| mutant.file == *file && !unviable.contains(id));
                let of_file: Vec<(u32, &Mutant)> = of_file.map(|(id, mutant)| (*id, mutant)).collect();
                let done = rewrite(&fs::read_to_string(self.project.join(file))?, &of_file);
                self.put(&self.root.join(file), done.text.as_bytes())?;
                written.push((file, done));
            }
            self.put(&self.root.join("src/mutant.rs"), SWITCH.as_bytes())?;
            let library = fs::read_to_string(self.project.join("src/lib.rs"))?;
            self.put(&self.root.join("src/lib.rs"), format!("{library}\nmod mutant;\n").as_bytes())?;
            let bad = self.unviable(&written)?;
            if bad.is_empty() {
                return Ok(unviable);
            }
            told(&format!("{} do not compile", bad.len()));
            unviable.extend(bad);
            let lines: String = unviable.iter().map(|id| format!("{id}\n")).collect();
            fs::write(kept, lines)?;
        }
    }

    /// The mutants whose code the compiler complains of.
    fn unviable(&self, written: &[(&str, Rewritten)]) -> Result<BTreeSet<u32>> {
        let mut cargo = self.cargo(&["check", "--lib", "--features", "sim", "--message-format=json"]);
        let output = cargo.output()?;
        if output.status.success() {
            return Ok(BTreeSet::new());
        }
        let mut bad = BTreeSet::new();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for message in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if message["message"]["level"] == "error" {
                bad.extend(blamed(&message["message"], written));
            }
        }
        if bad.is_empty() {
            return Err(format!("the copy does not build:\n{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(bad)
    }

    /// Builds the tests. Returns their binaries.
    pub fn binaries(&self) -> Result<Vec<Binary>> {
        let output = self.cargo(&["test", "--workspace", "--no-run", "--message-format=json"]).output()?;
        if !output.status.success() {
            return Err(format!("the tests do not build:\n{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut binaries = Vec::new();
        for message in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if let (Some(path), Some(name), Some(true)) = (
                message["executable"].as_str(),
                message["target"]["name"].as_str(),
                message["profile"]["test"].as_bool(),
            ) {
                binaries.push(Binary { name: name.to_owned(), path: path.into() });
            }
        }
        Ok(binaries)
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(arguments).current_dir(&self.root).env("CARGO_INCREMENTAL", "0");
        cargo.env("RUSTFLAGS", "--cap-lints warn").env_remove("CARGO_TARGET_DIR");
        cargo
    }
}

/// The mutants in whose own code a complaint lies; else those whose switches enclose it.
fn blamed(message: &Value, written: &[(&str, Rewritten)]) -> BTreeSet<u32> {
    let spans = message["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut own = BTreeSet::new();
    let mut around = BTreeSet::new();
    for span in spans.iter().filter(|span| span["is_primary"] == true) {
        let (Some(begin), Some(end)) = (span["byte_start"].as_u64(), span["byte_end"].as_u64()) else { continue };
        let (begin, end) = (begin as usize, end as usize);
        let file = span["file_name"].as_str().unwrap_or_default();
        let Some((_, rewritten)) = written.iter().find(|(name, _)| *name == file) else { continue };
        own.extend(rewritten.own.iter().filter(|(_, r)| r.start <= end && begin <= r.end).map(|(id, _)| *id));
        around.extend(rewritten.around.iter().filter(|(_, r)| r.start <= begin && end <= r.end).map(|(id, _)| *id));
    }
    if own.is_empty() { around } else { own }
}
