//! Where the changes come from: a git repository, a TSV file, or a generator.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// How many changes are made up where there is no repository.
const GENERATED: u64 = 50_000;

/// A file was written, or deleted.
pub struct Change {
    pub millis: i64,
    pub path: Vec<u8>,
    /// Mode and blob id; `None` for a deletion.
    pub value: Option<Vec<u8>>,
}

/// All changes, and what they must come to.
pub struct Stream {
    pub changes: Vec<Change>,
    pub expected: BTreeMap<Vec<u8>, Vec<u8>>,
    pub origin: String,
    /// What `expected` was taken from.
    pub truth: &'static str,
}

impl Stream {
    /// The stream that the arguments name.
    pub fn open(arguments: &[String]) -> Result<Stream, Error> {
        match arguments {
            [flag, dir] if flag == "--git" => git(Path::new(dir)),
            [flag, file] if flag == "--tsv" => tsv(Path::new(file)),
            [] => match git(Path::new(".")) {
                Ok(stream) if !stream.changes.is_empty() => Ok(stream),
                _ => {
                    eprintln!("no git history here: made-up changes (try --git DIR or --tsv FILE)");
                    Ok(generated())
                }
            },
            _ => Err("usage: demo [--git DIR | --tsv FILE]".into()),
        }
    }

    /// How many different paths.
    pub fn paths(&self) -> usize {
        self.changes.iter().map(|change| &change.path).collect::<BTreeSet<_>>().len()
    }
}

/// What is left when the changes are played into a map.
fn play(changes: &[Change]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = BTreeMap::new();
    for change in changes {
        match &change.value {
            Some(value) => state.insert(change.path.clone(), value.clone()),
            None => state.remove(&change.path),
        };
    }
    state
}

fn run_git(dir: &Path, arguments: &[&str]) -> Result<Vec<u8>, Error> {
    let output = Command::new("git").arg("-C").arg(dir).args(arguments).output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("git {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim()).into())
    }
}

/// The main line of a repository, oldest change first, and its tree.
fn git(dir: &Path) -> Result<Stream, Error> {
    let log = run_git(
        dir,
        &[
            "log",
            "--first-parent",
            "-m",
            "--reverse",
            "--raw",
            "-z",
            "--no-renames",
            "--no-abbrev",
            "--format=%x01%ct",
            "HEAD",
        ],
    )?;
    let mut changes = Vec::new();
    let mut millis = 0;
    let mut fields = log.split(|byte| *byte == 0);
    while let Some(field) = fields.next() {
        let field = field.strip_prefix(b"\n").unwrap_or(field);
        if let Some(time) = field.strip_prefix(b"\x01") {
            millis = std::str::from_utf8(time)?.trim().parse::<i64>()? * 1000;
        } else if let Some(raw) = field.strip_prefix(b":") {
            // Old mode, new mode, old blob, new blob, status; the path is the next field.
            let words: Vec<&str> = std::str::from_utf8(raw)?.split(' ').collect();
            let path = fields.next().ok_or("git log ends early")?.to_vec();
            let [_, mode, _, blob, status] = words[..] else { return Err("git log is not understood".into()) };
            let value = (!status.starts_with('D')).then(|| format!("{mode} {blob}").into_bytes());
            changes.push(Change { millis, path, value });
        }
    }
    let mut expected = BTreeMap::new();
    for line in run_git(dir, &["ls-tree", "-r", "-z", "--full-tree", "HEAD"])?.split(|byte| *byte == 0) {
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
        let words: Vec<&str> = std::str::from_utf8(&line[..tab])?.split(' ').collect();
        let [mode, _, blob] = words[..] else { return Err("git ls-tree is not understood".into()) };
        expected.insert(line[tab + 1..].to_vec(), format!("{mode} {blob}").into_bytes());
    }
    Ok(Stream { changes, expected, origin: format!("the git history of {}", dir.display()), truth: "git's tree" })
}

fn text(file: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let bytes = std::fs::File::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
    if file.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::GzDecoder::new(bytes).read_to_string(&mut text)?;
    } else {
        std::io::BufReader::new(bytes).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Lines of `milliseconds TAB path TAB value`, the value empty for a deletion. A file that has `tree` for `history` in
/// its name, beside this one, tells the final state; else the changes themselves do.
fn tsv(file: &Path) -> Result<Stream, Error> {
    let mut changes = Vec::new();
    for (number, line) in text(file)?.lines().enumerate() {
        let mut fields = line.split('\t');
        let bad = |what: &str| format!("{}: line {}: {what}", file.display(), number + 1);
        let millis = fields.next().unwrap_or_default().parse().map_err(|_| bad("it begins with no time"))?;
        let path = fields.next().ok_or_else(|| bad("no path follows the time"))?;
        let value = fields.next().filter(|value| !value.is_empty()).map(|value| value.as_bytes().to_vec());
        changes.push(Change { millis, path: path.as_bytes().to_vec(), value });
    }
    let name = file.file_name().map(|name| name.to_string_lossy().replace("history", "tree")).unwrap_or_default();
    let tree: PathBuf = file.with_file_name(name);
    let (expected, truth) = if tree != file && tree.is_file() {
        let line = |line: &str| {
            line.split_once('\t').map(|(path, value)| (path.as_bytes().to_vec(), value.as_bytes().to_vec()))
        };
        (text(&tree)?.lines().filter_map(line).collect(), "the tree file")
    } else {
        (play(&changes), "the stream itself")
    };
    Ok(Stream { changes, expected, origin: file.display().to_string(), truth })
}

/// Changes with a fixed seed.
fn generated() -> Stream {
    let mut state = 42u64;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let changes: Vec<Change> = (0..GENERATED)
        .map(|n| Change {
            millis: 1_700_000_000_000 + n as i64,
            path: format!("src/file-{}.rs", next() % (GENERATED / 10)).into_bytes(),
            value: (next() % 20 != 0).then(|| format!("100644 {:040x}", next()).into_bytes()),
        })
        .collect();
    let expected = play(&changes);
    Stream { changes, expected, origin: "a generator with a fixed seed".to_owned(), truth: "the stream itself" }
}
