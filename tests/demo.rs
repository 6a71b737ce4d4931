//! The demo, run as a newcomer would run it: on a git repository, on a file, and on nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The example that Cargo built beside this test.
fn demo() -> Command {
    let exe = std::env::current_exe().unwrap();
    let profile = exe.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    let demo = profile.join("examples").join("demo");
    if !demo.is_file() {
        // `cargo test --test demo` builds no examples.
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--example", "demo", "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    }
    Command::new(demo)
}

fn run(command: &mut Command) -> (String, String, Option<i32>) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&stdout), text(&stderr), status.code())
}

fn assert_equal(command: &mut Command, records: usize, live: usize) {
    let (out, err, status) = run(command);
    assert_eq!(status, Some(0), "{out}\n{err}");
    assert!(out.contains(&format!("records         {records}\n")), "{out}");
    assert!(out.contains(&format!("live paths      {live} in the log, {live} in ")), "{out}");
    assert!(out.contains("verdict         before compaction equal, after it equal"), "{out}");
}

fn git(dir: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.current_dir(dir).args(["-c", "user.name=demo", "-c", "user.email=demo@example.org"]).args(arguments);
    // Hooks and settings of whoever runs the test stay out of it.
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A repository with additions, changes, deletions, a mode, a merge and names that need care.
fn repository(dir: &Path) -> PathBuf {
    let repo = dir.join("repo");
    fs::create_dir(&repo).unwrap();
    let write = |name: &str, content: &str| fs::write(repo.join(name), content).unwrap();
    let commit = |message: &str| {
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-q", "-m", message]);
    };
    git(&repo, &["init", "-q", "-b", "main"]);
    write("a", "1");
    write("with space", "2");
    write("tab\tand\nline", "3");
    commit("first");
    git(&repo, &["checkout", "-q", "-b", "side"]);
    write("side", "4");
    fs::remove_file(repo.join("a")).unwrap();
    commit("on the side");
    git(&repo, &["checkout", "-q", "main"]);
    write("ünïcode", "5");
    commit("second");
    git(&repo, &["merge", "-q", "--no-ff", "-m", "merge", "side"]);
    git(&repo, &["mv", "with space", "moved"]);
    git(&repo, &["update-index", "--chmod=+x", "moved"]);
    git(&repo, &["commit", "-q", "-m", "third"]);
    repo
}

#[test]
fn a_repository_is_replayed_killed_recovered_and_compacted_to_its_tree() {
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no git here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let bare = dir.path().join("bare.git");
    git(dir.path(), &["clone", "-q", "--bare", "repo", "bare.git"]);
    // Three files; one more; a merge that adds one and deletes one; a move, which is an addition and a deletion.
    assert_equal(demo().current_dir(&repo), 8, 4);
    assert_equal(demo().arg("--git").arg(&bare), 8, 4);
    let (_, err, status) = run(demo().arg("--git").arg(dir.path().join("absent")));
    assert_eq!(status, Some(1));
    assert!(err.contains("absent"), "{err}");
}

#[test]
fn a_file_is_replayed_and_a_wrong_truth_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let history = dir.path().join("history.tsv");
    fs::write(&history, "1\ta\tx\n2\tb\ty\n3\ta\t\n4\tc\tz\n5\tc\tzz\n").unwrap();
    assert_equal(demo().arg("--tsv").arg(&history), 5, 2);
    fs::write(dir.path().join("tree.tsv"), "b\ty\nc\tz\n").unwrap();
    let (out, _, status) = run(demo().arg("--tsv").arg(&history));
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("verdict         before compaction NOT EQUAL, after it NOT EQUAL"), "{out}");
    fs::write(&history, "no tabs\n").unwrap();
    let (_, err, status) = run(demo().arg("--tsv").arg(&history));
    assert_eq!(status, Some(1));
    assert!(err.contains("line 1"), "{err}");
}

#[test]
fn without_a_repository_changes_are_made_up_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = demo();
    // Not even a repository further up is one.
    let (out, err, status) = run(command.current_dir(dir.path()).env("GIT_CEILING_DIRECTORIES", "/"));
    assert_eq!(status, Some(0), "{out}\n{err}");
    assert!(err.contains("--git DIR") && err.contains("--tsv FILE"), "{err}");
    assert!(out.contains("after it equal"), "{out}");
    let (_, err, status) = run(demo().arg("--what"));
    assert_eq!(status, Some(1));
    assert!(err.contains("usage"), "{err}");
}
