//! The figures as a page: one file, no network, no script.

use std::fmt::{self, Write as _};

use super::{Bench, Row};
use crate::commands::inspect::page::{Escaped, document};
use crate::human;

/// The whole page.
pub fn page(bench: &Bench) -> String {
    let mut body = String::new();
    write(&mut body, bench).expect("text can be written into memory");
    document(&format!("bench of {}", bench.path), &body)
}

fn write(out: &mut String, bench: &Bench) -> fmt::Result {
    writeln!(out, "<header><p class=\"kind\">bench</p><h1>{}</h1>", Escaped(&bench.path))?;
    writeln!(out, "<p>{} for each figure</p></header>", human::size(bench.size_bytes))?;
    out.push_str("<details open><summary><h2>The engine</h2><span>each bar is a share of what the machine can do</span></summary>\n");
    out.push_str("<ol class=\"segments\">\n");
    bench.rows.iter().try_for_each(|row| figure(out, row))?;
    out.push_str("</ol></details>\n<details open><summary><h2>The machine</h2></summary>\n<dl class=\"cards\">");
    for limit in &bench.limits {
        write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", limit.name, limit.unit.show(limit.value))?;
    }
    out.push_str("</dl></details>\n");
    writeln!(out, "<footer>stratalog {}</footer>", env!("CARGO_PKG_VERSION"))
}

fn figure(out: &mut String, row: &Row) -> fmt::Result {
    let records = human::optional(row.records_per_second, |rate| format!("{rate:.0} records/s"));
    let share = (row.of_limit * 100.0).clamp(0.5, 100.0);
    writeln!(
        out,
        "<li><b>{}</b> <span>{} · {records}</span><div class=\"bar\"><i class=\"live\" style=\"width:{share:.1}%\"></i></div>\
         <small>{:.0} % of {}</small></li>",
        row.name,
        row.unit.show(row.value),
        row.of_limit * 100.0,
        row.limit,
    )
}
