//! The tables.

use super::WORKLOADS;
use crate::data::KEYS;
use crate::engines::Engine;
use crate::grid::Grid;
use crate::machine::Machine;
use crate::session::Outcome;

/// A part of the report.
pub struct Section {
    pub title: &'static str,
    pub text: String,
    pub grid: Option<Grid>,
}

pub fn sections(outcome: &Outcome, machine: &Machine) -> Vec<Section> {
    let section = |title, text, grid| Section { title, text, grid };
    vec![
        section("Beside other crates", intro(outcome, machine), Some(comparison(outcome))),
        section("Where we lose, and where we win by less than double", losses(outcome), None),
        section("What it takes", takes_text(), Some(takes(outcome))),
        section("Limits of the machine in this run", String::new(), Some(limits(outcome))),
    ]
}

pub fn text(outcome: &Outcome, machine: &Machine) -> String {
    let mut text = String::new();
    for section in sections(outcome, machine) {
        text += &format!("\n## {}\n\n", section.title);
        if !section.text.is_empty() {
            text += &format!("{}\n", section.text);
        }
        if let Some(grid) = section.grid {
            text += &format!("\n{}", grid.markdown());
        }
        if section.title == "Beside other crates" {
            text += "\n![The same, drawn](benchmarks.svg)\n";
        }
    }
    text.trim_end().replace("\n\n\n", "\n\n").trim_start().to_owned()
}

fn intro(outcome: &Outcome, machine: &Machine) -> String {
    let Machine { processor, cores, memory, kernel, file_system, load, date, command } = machine;
    let (rounds, took) = (outcome.scale.rounds(), outcome.took.as_secs_f64() / 60.0);
    format!(
        "`{command}`\n\n\
         {date}, {cores} cores of {processor}, {memory}, {kernel}, {file_system}, page cache warm; load at the end {load}. \
         Medians of {rounds} rounds in which the engines take turns, and half of what lies between the extremes; \
         {took:.0} min. Each part runs in a process of its own, so that memory is each one's own and a kill is a real one.\n\n\
         Records a second, or milliseconds. Records have keys of 12 bytes out of {KEYS}, values of 100 B or 1 KiB, and one \
         in twenty has none; {batch} records of 100 B are read and opened, a fifth of 1 KiB; {latest} updates of a tenth as \
         many keys. The last columns: how far we are ahead of the best other at the same guarantee, and what we reach \
         of the machine's limit, measured in the same run, for keys and values alone.\n\n\
         `(u)`: what was acknowledged is lost with the process, while ours outlives a kill; such figures are not compared. \
         okaywal is read in order by opening it. Where it says sealed, \
         our active segment was sealed before, and the others read the same again. `-`: it cannot. The bare file has a buffer of 1 MiB and no index: it is \
         no engine and not compared.",
        batch = outcome.scale.batch(),
        latest = outcome.scale.latest(),
    )
}

fn engines(outcome: &Outcome) -> Vec<Engine> {
    let took_part = |engine: &&Engine| outcome.figures.keys().any(|(_, of)| of == *engine);
    Engine::ALL.iter().filter(took_part).copied().collect()
}

fn comparison(outcome: &Outcome) -> Grid {
    let engines = engines(outcome);
    let name = |engine: &Engine| format!("{} {}", engine.name(), engine.version()).trim_end().to_owned();
    let mut head = vec![String::new()];
    head.extend(engines.iter().map(name));
    head.extend(["ahead of the best", "of the limit"].map(str::to_owned));
    let mut grid = Grid::new(head);
    for workload in WORKLOADS {
        let cell = |engine: &Engine| {
            let Some(value) = outcome.median(workload.figure, *engine) else { return "-".to_owned() };
            let spread = outcome.spread(workload.figure, *engine) * 100.0;
            let mark = if workload.is_weaker(*engine) { " (u)" } else { "" };
            let told = workload.told(value);
            let told = if *engine == Engine::Stratalog { format!("**{told}**") } else { told };
            format!("{told} ±{spread:.0}%{mark}")
        };
        let mut row = vec![workload.title.to_owned()];
        row.extend(engines.iter().map(cell));
        row.push(ahead(outcome, workload).map_or("-".to_owned(), |(times, of)| format!("{times:.1}x {}", of.name())));
        let ours = outcome.median(workload.figure, Engine::Stratalog);
        let share = ours.map(|ours| workload.share(outcome, ours)).filter(|share| share.is_finite());
        row.push(share.map_or("-".to_owned(), |share| format!("{:.0}% of {}", share * 100.0, workload.limit_name)));
        grid.push(row);
    }
    grid
}

/// The best other engine at the same guarantee, and how far ours is ahead.
fn ahead(outcome: &Outcome, workload: &super::Workload) -> Option<(f64, Engine)> {
    let ours = outcome.median(workload.figure, Engine::Stratalog)?;
    let others = workload
        .results(outcome)
        .filter(|(engine, _)| !matches!(engine, Engine::Stratalog | Engine::Bare) && !workload.is_weaker(*engine));
    others.map(|(engine, other)| (workload.ahead(ours, other), engine)).min_by(|a, b| a.0.total_cmp(&b.0))
}

fn losses(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    for workload in WORKLOADS {
        let Some(ours) = outcome.median(workload.figure, Engine::Stratalog) else { continue };
        for (engine, other) in workload.results(outcome) {
            let times = workload.ahead(ours, other);
            if engine == Engine::Stratalog || times >= 2.0 {
                continue;
            }
            let how = match times {
                _ if workload.is_weaker(engine) => "not compared, its guarantee is weaker",
                _ if engine == Engine::Bare => "not compared, it is no engine",
                t if t < 1.0 => "**lost**",
                _ => "won",
            };
            lines.push(format!("- {}: {times:.2}x of {}: {how}.", workload.title, engine.name()));
        }
    }
    for figure in ["append-100-100B/scan_missing", "append-100-1KiB/scan_missing"] {
        for engine in engines(outcome) {
            let missing = outcome.median(figure, engine).filter(|missing| *missing > 0.0);
            let told = |missing| {
                format!("- Reading in order, {} showed {missing} records less than were appended.", engine.name())
            };
            lines.extend(missing.map(told));
        }
    }
    lines.extend(outcome.failures.iter().map(|failure| format!("- Failed: {failure}")));
    if lines.is_empty() { "Nowhere.".to_owned() } else { lines.join("\n") }
}

fn takes_text() -> String {
    "Bytes on disk are blocks of the file system, what is reserved included, before the close. Memory is the peak of what \
     the process grew by in resident memory, its mapped files included."
        .to_owned()
}

fn takes(outcome: &Outcome) -> Grid {
    let figures = [
        ("append-1-100B/disk", "B a record, 100 B singly"),
        ("append-100-100B/disk", "by 100"),
        ("latest/disk", "B an update, latest per key"),
        ("append-1-100B/memory", "MiB to append singly"),
        ("append-100-100B/memory", "by 100"),
        ("append-100-100B/scan_memory", "to read in order"),
        ("open-killed/memory", "to open after a kill"),
        ("latest/memory", "latest per key"),
        ("append-1-100B/cpu", "CPU ns a record, singly"),
        ("append-100-100B/cpu", "by 100"),
        ("open-killed/kept", "records left by the kill"),
    ];
    let mut head = vec![""];
    head.extend(figures.iter().map(|(_, title)| *title));
    head.push("what it syncs");
    let mut grid = Grid::new(head);
    for engine in engines(outcome) {
        let cell = |(figure, _): &(&str, &str)| match outcome.median(figure, engine) {
            Some(value) if value < 10.0 => format!("{value:.1}"),
            Some(value) => format!("{value:.0}"),
            None => "-".to_owned(),
        };
        let mut row = vec![engine.name().to_owned()];
        row.extend(figures.iter().map(cell));
        row.push(engine.syncs().to_owned());
        grid.push(row);
    }
    grid
}

fn limits(outcome: &Outcome) -> Grid {
    let (limits, kafkas) = (outcome.limits(), crate::limits::KAFKAS);
    let mut grid = Grid::new(["", "this run", "where Kafka was measured"]);
    for ((name, ours), (_, theirs)) in limits.rows().into_iter().zip(kafkas.rows()) {
        grid.push([name.to_owned(), ours, theirs]);
    }
    grid
}
