//! The comparison as a picture: a panel for each workload, a bar for each engine, the best on top of its scale.

use std::fmt::Write;

use super::{WORKLOADS, Workload};
use crate::engines::Engine;
use crate::session::Outcome;

const WIDTH: usize = 900;
const PANEL: usize = WIDTH / 2;
const BAR: usize = 16;
const NAMES: usize = 92;
/// The longest bar.
const LENGTH: usize = PANEL - NAMES - 110;

const STYLE: &str = "
  svg { background: #ffffff; font: 11px system-ui, sans-serif; fill: #333333 }
  .title { font-weight: 600; font-size: 12px } .ours { fill: #c2410c } .other { fill: #94a3b8 } .weaker { fill: #cbd5e1 }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; fill: #d0d7de } .ours { fill: #fb923c } .other { fill: #64748b } .weaker { fill: #334155 }
  }
";

pub fn draw(outcome: &Outcome) -> String {
    let panels: Vec<&Workload> = WORKLOADS.iter().filter(|w| w.results(outcome).next().is_some()).collect();
    let rows_of = |workload: &Workload| workload.results(outcome).count() * BAR + 44;
    let mut body = String::new();
    let mut top = 34;
    for pair in panels.chunks(2) {
        for (at, workload) in pair.iter().enumerate() {
            panel(&mut body, outcome, workload, at * PANEL + 10, top);
        }
        top += pair.iter().map(|workload| rows_of(workload)).max().unwrap_or(0);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" width=\"{WIDTH}\" height=\"{top}\">\n\
         <title>stratalog beside other crates</title>\n<style>{STYLE}</style>\n\
         <text x=\"10\" y=\"20\">Records a second (more is better), or milliseconds (less is better). \
         Pale: lost with the process, unlike ours.</text>\n{body}</svg>\n"
    )
}

fn panel(body: &mut String, outcome: &Outcome, workload: &Workload, left: usize, top: usize) {
    let results: Vec<(Engine, f64)> = workload.results(outcome).collect();
    let most = results.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let better = if workload.is_time() { ", less is better" } else { "" };
    let mut line = |text: String| writeln!(body, "{text}").expect("a string takes it");
    line(format!("<text class=\"title\" x=\"{left}\" y=\"{}\">{}{better}</text>", top + 12, workload.title));
    for (at, (engine, value)) in results.into_iter().enumerate() {
        let y = top + 20 + at * BAR;
        let class = match engine {
            Engine::Stratalog => "ours",
            _ if workload.is_weaker(engine) => "weaker",
            _ => "other",
        };
        let length = (value / most * LENGTH as f64).max(1.0);
        let (x, baseline) = (left + NAMES, y + 11);
        line(format!("<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>", x - 6, engine.name()));
        line(format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{length:.0}\" height=\"{}\"/>", BAR - 3));
        line(format!("<text x=\"{:.0}\" y=\"{baseline}\">{}</text>", x as f64 + length + 5.0, workload.told(value)));
    }
}
