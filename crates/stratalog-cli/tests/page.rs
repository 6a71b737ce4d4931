//! The page of `inspect`: what it tells, and how it looks in a browser.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{expect, json, text, write_log};

fn page(dir: &Path, file: &Path) -> String {
    expect(0, &["inspect", text(dir), "--html", text(file)]);
    fs::read_to_string(file).unwrap()
}

#[test]
fn the_page_tells_what_the_other_commands_tell() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    write_log(&log);
    let page = page(&log, &dir.path().join("page.html"));
    let segments = json(0, &["segments", text(&log)]);
    let segments = segments["segments"].as_array().unwrap();
    assert!(segments.len() > 10);
    for segment in segments {
        let place = format!("<b>{} to {}</b>", segment["base"], segment["end"]);
        assert!(page.contains(&place), "{place}");
    }
    let looked = json(0, &["inspect", text(&log)]);
    for partition in looked["partitions"].as_array().unwrap() {
        let sum =
            |of: &str| partition["segments"].as_array().unwrap().iter().filter_map(|s| s["shares"][of].as_u64()).sum();
        let (live, tombstones, garbage): (u64, u64, u64) =
            (sum("liveRecords"), sum("tombstones"), sum("garbageRecords"));
        let is_this =
            |s: &&serde_json::Value| s["topic"] == partition["topic"] && s["partition"] == partition["partition"];
        let records: u64 = segments.iter().filter(is_this).filter_map(|s| s["records"].as_u64()).sum();
        assert_eq!(live + tombstones + garbage, records, "{}", partition["topic"]);
        assert!(partition["topic"] != "prices" || garbage > 0 && tombstones > 0);
    }
    assert!(
        !page.contains("http:") && !page.contains("https:") && !page.contains("<script"),
        "nothing is fetched or run"
    );
}

/// A browser, if there is one.
fn chromium() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    if found.is_none() {
        eprintln!("SKIPPED: there is no Chromium, the page was not opened in a browser");
    }
    found
}

#[test]
fn a_browser_opens_it_without_errors_and_without_sideways_scrolling_on_a_telephone() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a log with a rather long name, as those have that are mounted somewhere deep in a tree");
    write_log(&log);
    let page = page(&log, &dir.path().join("page.html"));
    // A browser's window has a least width; a frame has none.
    let quoted = page.replace('&', "&amp;").replace('"', "&quot;");
    let script = "const d = document.getElementById('f').contentDocument, e = d.documentElement;\
        document.body.dataset.found = [e.clientWidth, e.scrollWidth, d.querySelectorAll('ol.segments li').length,\
        d.querySelectorAll('svg').length].join(' ')";
    let frame = format!(
        "<body><iframe id=f style=\"width:360px;height:800px;border:0\" srcdoc=\"{quoted}\" onload=\"{script}\"></iframe></body>"
    );
    let outer = dir.path().join("frame.html");
    fs::write(&outer, frame).unwrap();
    let profile = dir.path().join("profile");
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(&outer)
        .output()
        .unwrap();
    let (dom, log_lines) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found = dom.split("data-found=\"").nth(1).and_then(|rest| rest.split('"').next());
    let found: Vec<u32> =
        found.unwrap_or_else(|| panic!("{log_lines}")).split(' ').map(|n| n.parse().unwrap()).collect();
    assert_eq!((found[0], found[1]), (360, 360), "as wide as the screen, and no wider");
    let segments = json(0, &["segments", text(&log)])["segments"].as_array().unwrap().len();
    assert_eq!(found[2] as usize, segments);
    assert!(found[3] >= 9, "three drawings of each of three partitions");
    assert!(!log_lines.contains(":CONSOLE"), "{log_lines}");
}
