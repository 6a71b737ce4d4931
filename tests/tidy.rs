//! Holds the house together: imports go down only, one door to the disk, one to file names, sizes that do not grow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, lowest first: a module imports from floors below its own, and never from another one on its own.
const FLOORS: &[&[&str]] = &[
    &["sync", "offset"],
    &["format"],
    &["error"],
    &["storage"],
    &["config", "segment"],
    &["catalog", "replay"],
    &["compaction", "inspect"],
    &["partition"],
    &["append", "read", "recovery", "truncate", "verify"],
    &["maintenance"],
    &["log"],
    &["repair"],
    &["lib"],
];

/// The entries of the root of `src`, at most.
const ROOT_MAX: usize = 22;

/// The files of `partition` that put its parts together, and those above it. No other one of them knows the whole.
const CORE: &str = "partition/core.rs";
const ABOVE_CORE: &[&str] = &[
    "partition/append_parts.rs",
    "partition/append_state.rs",
    "partition/lifecycle.rs",
    "partition/maintenance_lock.rs",
    "partition/persist.rs",
    "partition/sync.rs",
    "partition/visibility.rs",
    "partition/wait.rs",
];

/// Files above the limit, tests not counted, and how far they may go. They only shrink.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions above the limit.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// The one door to the disk, and the one to names.
const DISK: &str = "storage/fs";
const NAMES: &str = "format/file_name.rs";

/// Where code may ask whether it is built for a test or for the simulation: there the two storages differ, or the model
/// checkers replace locks.
const SIMULATED: &[(&str, usize)] = &[
    // The modules and their re-exports.
    ("lib.rs", 1),
    ("storage/mod.rs", 1),
    // A window of the simulation.
    ("storage/fs/window.rs", 4),
];

/// A file under `src/`.
struct Source {
    /// Its path below `src/`.
    path: String,
    /// Its lines without comments and without its unit tests.
    code: Vec<String>,
    text: String,
}

impl Source {
    fn load(root: &Path, path: &Path) -> Source {
        let text = fs::read_to_string(path).unwrap();
        let path = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        let lines: Vec<&str> = text.lines().collect();
        let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1] == "mod tests {");
        let code = lines[..tests.unwrap_or(lines.len())].iter().map(|line| without_comment(line)).collect();
        Source { path, code, text }
    }

    /// The module right below the crate's root.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    fn is_disk(&self) -> bool {
        self.path.strip_prefix(DISK).is_some_and(|rest| rest.starts_with(['.', '/']))
    }

    fn is_tests(&self) -> bool {
        self.path.ends_with("tests.rs")
    }
}

fn without_comment(line: &str) -> String {
    match line.find("//") {
        Some(at) if line[..at].matches('"').count().is_multiple_of(2) => line[..at].to_owned(),
        _ => line.to_owned(),
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    rust_files(&root, &mut paths);
    paths.sort();
    let sources: Vec<Source> = paths.iter().map(|path| Source::load(&root, path)).collect();
    assert!(sources.len() > 30, "the sources were found");
    sources
}

fn report(violations: Vec<String>) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The modules that a line names by `crate::`.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        &rest[..end]
    })
}

fn is_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|found| found == word)
}

/// The string literals of a line.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

#[test]
fn imports_go_down_only() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| !source.is_tests()) {
        let module = source.module();
        let Some(floor) = floor_of(module) else {
            violations.push(format!("{}: its module has no floor", source.path));
            continue;
        };
        for (at, line) in source.code.iter().enumerate() {
            // Macros and re-exports of the crate's root have no floor.
            let upward = |import: &&str| *import != module && floor_of(import).is_some_and(|below| below >= floor);
            let found = imports(line).filter(upward);
            violations.extend(found.map(|import| format!("{}:{}: imports {import}", source.path, at + 1)));
        }
    }
    report(violations);
}

#[test]
fn the_root_is_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let entries = fs::read_dir(root).unwrap().count();
    assert!(entries <= ROOT_MAX, "{entries} entries, at most {ROOT_MAX}");
}

#[test]
fn the_parts_of_a_partition_do_not_know_the_whole() {
    let sources = sources();
    let parts = sources.iter().filter(|source| {
        let path = source.path.as_str();
        source.module() == "partition" && !source.is_tests() && path != CORE && !ABOVE_CORE.contains(&path)
    });
    let knows = |line: &&String| is_word(line, "PartitionCore");
    report(parts.filter(|part| part.code.iter().any(|line| knows(&line))).map(|part| part.path.clone()).collect());
    let is_there = |path: &&&str| sources.iter().any(|source| source.path == ***path);
    assert!(ABOVE_CORE.iter().chain([&CORE]).all(|path| is_there(&path)));
}

/// What each file imports from which other one, with the re-exports of modules followed to the file that has the name.
fn file_imports(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let files: BTreeMap<Vec<String>, &Source> =
        sources.iter().filter(|source| !source.is_tests()).map(|source| (module_path(&source.path), source)).collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, source) in &files {
        let imports = found.entry(source.path.clone()).or_default();
        for (path, is_reexport) in uses(&source.code.join("\n")) {
            let Some(holder) = resolve(&files, module, &path) else { continue };
            // A parent that only passes on what a child has does not need it.
            if holder != *module && !is_reexport {
                imports.insert(files[&holder].path.clone());
            }
        }
    }
    found
}

/// `segment/mod.rs` is the module `segment`, `segment/list.rs` is `segment::list`.
fn module_path(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

/// The paths of all `use` items, each name by itself, and whether others may use it from here.
fn uses(code: &str) -> Vec<(Vec<String>, bool)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap_or_default().trim();
        if !line.is_empty() && !line.starts_with("pub") {
            continue;
        }
        let Some((item, _)) = code[at + 4..].split_once(';') else { continue };
        spread(&item.split_whitespace().collect::<String>(), &mut Vec::new(), &mut |path| {
            found.push((path.to_vec(), line.starts_with("pub")))
        });
    }
    found
}

/// Calls `each` with every path of a tree `a::{b, c::d}`.
fn spread(tree: &str, before: &mut Vec<String>, each: &mut impl FnMut(&[String])) {
    let depth = before.len();
    match tree.split_once("::{") {
        Some((path, rest)) if !path.contains([',', '{']) => {
            before.extend(path.split("::").map(str::to_owned));
            let (mut level, mut start) = (0, 0);
            let inner = rest.strip_suffix('}').unwrap_or(rest);
            for (at, c) in inner.char_indices() {
                match c {
                    '{' => level += 1,
                    '}' => level -= 1,
                    ',' if level == 0 => {
                        spread(&inner[start..at], before, each);
                        start = at + 1;
                    }
                    _ => {}
                }
            }
            spread(&inner[start..], before, each);
        }
        _ if tree.is_empty() => {}
        _ => {
            before.extend(tree.split("::").map(str::to_owned));
            each(before);
        }
    }
    before.truncate(depth);
}

/// The module of the file that has what `path` names, as seen from `from`.
fn resolve(files: &BTreeMap<Vec<String>, &Source>, from: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut at = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => from.to_vec(),
        "super" => from[..from.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    let mut rest = &path[1..];
    while let Some((name, more)) = rest.split_first() {
        if name == "super" {
            at.pop();
        } else if files.contains_key(&[&at[..], std::slice::from_ref(name)].concat()) {
            at.push(name.clone());
        } else {
            break;
        }
        rest = more;
    }
    let name = rest.first().map(|name| name.split(" as ").next().unwrap_or_default().to_owned());
    let holder = files.get(&at)?;
    let passed_on = uses(&holder.code.join("\n")).into_iter().find(|(path, _)| path.last() == name.as_ref());
    match passed_on {
        Some((path, true))
            if path
                .first()
                .is_some_and(|first| files.contains_key(&[&at[..], std::slice::from_ref(first)].concat())) =>
        {
            resolve(files, &at, &[&["self".to_owned()], &path[..]].concat())
        }
        Some((path, true)) => resolve(files, &at, &path).or(Some(at)),
        _ => Some(at),
    }
}

#[test]
fn no_files_import_one_another_in_a_circle() {
    let mut left = file_imports(&sources());
    assert!(left["truncate.rs"].contains("segment/cut_point.rs"), "imports are found: {:?}", left["truncate.rs"]);
    assert!(left["append.rs"].contains("format/batch.rs"), "through re-exports: {:?}", left["append.rs"]);
    // What imports nothing that is left, or is imported by nothing that is left, is in no circle.
    loop {
        let files: BTreeSet<String> = left.keys().cloned().collect();
        let imported: BTreeSet<String> = left.values().flatten().cloned().collect();
        let before = left.len();
        left.retain(|file, imports| imported.contains(file) && imports.iter().any(|import| files.contains(import)));
        if left.len() == before {
            break;
        }
    }
    let circle = |(file, imports): (&String, &BTreeSet<String>)| {
        format!("{file} -> {:?}", imports.iter().filter(|import| left.contains_key(*import)).collect::<Vec<_>>())
    };
    report(left.iter().map(circle).collect());
}

#[test]
fn one_file_goes_to_the_disk() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| !source.is_disk() && !source.is_tests()) {
        for (at, line) in source.code.iter().enumerate() {
            let door = ["std::fs", "memmap2", "rustix::fs", "libc::open"].into_iter().find(|door| line.contains(door));
            if let Some(door) = door.or(is_word(line, "unsafe").then_some("unsafe")) {
                violations.push(format!("{}:{}: {door}", source.path, at + 1));
            }
        }
    }
    report(violations);
}

/// What is not the scheduler's to order: a hash that is worked out once, between two points where threads change; and the
/// making of the account of real files, which no schedule has.
const UNSCHEDULED: &[(&str, &str)] = &[("storage/sim/disk.rs", "OnceLock"), ("storage/holds.rs", "LazyLock")];

#[test]
fn locks_threads_and_time_come_from_where_a_scheduler_replaces_them() {
    const OF_THE_STANDARD_LIBRARY: &[(&str, &[&str])] = &[
        ("std::sync", &["Mutex", "RwLock", "Condvar", "OnceLock", "LazyLock", "Once", "Barrier", "mpsc", "atomic"]),
        ("std::time", &["Instant"]),
        ("std::thread", &["spawn", "scope", "sleep", "park", "park_timeout", "yield_now", "current", "Builder"]),
    ];
    let mut violations = Vec::new();
    let own = |source: &&Source| source.module() != "sync" && !source.is_tests();
    for source in sources().iter().filter(own) {
        for (at, line) in source.code.iter().enumerate() {
            let found = OF_THE_STANDARD_LIBRARY.iter().filter(|(module, _)| line.contains(module));
            let found = found.flat_map(|(_, names)| names.iter()).find(|name| is_word(line, name));
            let whole = ["use std::thread;", "use std::sync;"].into_iter().find(|import| line.contains(import));
            if let Some(name) = found.copied().or(whole)
                && !UNSCHEDULED.contains(&(source.path.as_str(), name))
            {
                violations.push(format!("{}:{}: {name}", source.path, at + 1));
            }
        }
    }
    report(violations);
}

#[test]
fn one_file_knows_the_names_of_files() {
    const EXTENSIONS: &[&str] = &["log", "index", "timeindex", "txnindex", "snapshot", "digest"];
    const SUFFIXES: &[&str] = &["cleaned", "swap", "deleted", "broken", "tmp"];
    let sources = sources();
    let names = sources.iter().find(|source| source.path == NAMES).unwrap();
    let constants: Vec<&str> =
        names.code.iter().filter(|line| line.starts_with("pub const")).flat_map(|line| literals(line)).collect();
    assert!(constants.contains(&"stratalog.meta"));
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| source.path != NAMES && !source.is_tests()) {
        for (at, line) in source.code.iter().enumerate() {
            let is_name = |literal: &&str| {
                let extension = literal.rsplit_once('.').map(|(_, extension)| extension);
                constants.contains(literal)
                    || extension.is_some_and(|found| EXTENSIONS.contains(&found) || SUFFIXES.contains(&found))
            };
            violations.extend(
                literals(line).filter(is_name).map(|literal| format!("{}:{}: {literal:?}", source.path, at + 1)),
            );
        }
    }
    report(violations);
}

#[test]
fn numbers_on_disk_are_big_endian() {
    let mut violations = Vec::new();
    for source in sources() {
        for (at, line) in source.code.iter().enumerate() {
            for bad in ["to_le_bytes", "to_ne_bytes", "from_le_bytes", "from_ne_bytes", "LittleEndian"] {
                // The lz4 and snappy framings, and the words of SipHash, are little-endian by their own specification.
                let by_theirs = ["format/compression/", "format/siphash.rs"];
                if line.contains(bad) && !by_theirs.iter().any(|path| source.path.starts_with(path)) {
                    violations.push(format!("{}:{}: {bad}", source.path, at + 1));
                }
            }
        }
    }
    report(violations);
}

#[test]
fn nothing_is_left_for_later() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for dir in ["src", "tests", "benches", "examples", "crates"] {
        if root.join(dir).is_dir() {
            rust_files(&root.join(dir), &mut paths);
        }
    }
    let own = Path::new(file!()).file_name();
    let mut violations = Vec::new();
    for path in paths.iter().filter(|path| path.file_name() != own) {
        for (at, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
            for bad in ["todo!(", "dbg!(", "unimplemented!(", "#[ignore", "TODO", "FIXME", "XXX"] {
                if line.contains(bad) {
                    violations.push(format!("{}:{}: {bad}", path.display(), at + 1));
                }
            }
        }
    }
    report(violations);
}

#[test]
fn files_and_functions_stay_small() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| !source.is_tests()) {
        let allowed = LONG_FILES.iter().find(|(path, _)| *path == source.path).map(|(_, lines)| *lines);
        let lines = source.code.len();
        if lines > allowed.unwrap_or(FILE_LINES_MAX) {
            violations.push(format!("{}: {lines} lines", source.path));
        }
        if allowed.is_some() && lines <= FILE_LINES_MAX {
            violations.push(format!("{} is short again: take it off the list", source.path));
        }
        for (name, lines) in functions(&source.code) {
            if lines > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.contains(&(source.path.as_str(), name.as_str())) {
                violations.push(format!("{}: {name} has {lines} lines", source.path));
            }
        }
    }
    report(violations);
}

#[test]
fn files_end_with_a_line_end_and_hold_no_tabs() {
    let bad = |source: &Source| !source.text.ends_with('\n') || source.text.contains('\t');
    report(sources().iter().filter(|source| bad(source)).map(|source| source.path.clone()).collect());
}

/// The functions of a file and their lines, by the indentation that rustfmt gives them.
fn functions(code: &[String]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, line) in code.iter().enumerate() {
        let head = line.trim_start();
        let is_item = head.starts_with("fn ") || head.starts_with("pub") || head.starts_with("const fn ");
        let Some((_, rest)) = line.split_once("fn ").filter(|_| is_item) else { continue };
        let name = rest.split(['(', '<']).next().unwrap_or_default();
        let indent = &line[..line.len() - head.len()];
        let close = format!("{indent}}}");
        let is_declared_only =
            code[at..].iter().find(|line| line.ends_with([';', '{', '}'])).is_some_and(|line| line.ends_with(';'));
        if !is_declared_only && let Some(lines) = code[at..].iter().position(|line| *line == close) {
            found.push((name.to_owned(), lines + 1));
        }
    }
    found
}

#[test]
fn the_measure_of_functions_measures() {
    let code = "fn a() {\n    1\n}\n\nimpl B {\n    pub(crate) fn c(\n        &self,\n    ) {\n    }\n    fn d();\n}\n";
    let code: Vec<String> = code.lines().map(str::to_owned).collect();
    assert_eq!(functions(&code), [("a".to_owned(), 3), ("c".to_owned(), 4)]);
}

/// The functions that a trait of the seam declares.
fn methods(text: &str, of: &str) -> Vec<String> {
    let start = text.find(of).expect("the seam has this trait");
    let body = &text[start..];
    let body = &body[..body.find("\n}\n").expect("it ends")];
    let declared = body.lines().filter_map(|line| line.strip_prefix("    fn "));
    declared.map(|rest| rest.split(['(', '<']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_simulated_storage_implements_every_call_of_the_seam() {
    let sources = sources();
    let text = |path: &str| &sources.iter().find(|source| source.path == path).expect("it is there").text;
    let seam = text("storage/sim/seam.rs");
    let mut violations = Vec::new();
    for name in ["pub trait Storage", "pub trait File"] {
        for method in methods(text("storage/mod.rs"), name) {
            if !seam.contains(&format!("fn {method}(")) {
                violations.push(format!("{name}: {method} is the default of the simulated storage"));
            }
        }
    }
    report(violations);
}

#[test]
fn the_engine_does_not_ask_whether_its_storage_is_simulated() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| !source.is_tests() && !source.path.starts_with("storage/sim/")) {
        let asks = |line: &&String| {
            let line = line.trim();
            line.contains("feature = \"sim\"") || line.contains("cfg!(") && line.contains("test")
        };
        let count = source.code.iter().filter(asks).count();
        let allowed = SIMULATED.iter().find(|(path, _)| *path == source.path).map_or(0, |(_, count)| *count);
        if count > allowed {
            violations.push(format!("{}: {count} places ask, {allowed} may", source.path));
        }
    }
    report(violations);
}
