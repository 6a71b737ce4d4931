//! The page: one file, no network, no script.

use std::fmt::{self, Write as _};

use super::look::{CompactionLook, LogLook, PartitionLook, SharesLook};
use super::parts;
use crate::human;
use crate::summary::second;

/// Partitions that are open when the page is.
const OPEN_MAX: usize = 8;

const STYLE: &str = include_str!("page.css");

/// Text that means nothing to a browser.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The whole page.
pub fn page(log: &LogLook) -> String {
    let mut body = String::new();
    write(&mut body, log).expect("text can be written into memory");
    document(&log.path, &body)
}

/// A page with this body, in the style of all.
pub fn document(title: &str, body: &str) -> String {
    let title = Escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title} · stratalog</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

fn write(out: &mut String, log: &LogLook) -> fmt::Result {
    let sum = |of: fn(&PartitionLook) -> u64| log.partitions.iter().map(of).sum::<u64>();
    let kind = if log.kind == "kafka" { "Kafka's log directory" } else { "log directory" };
    writeln!(out, "<header><p class=\"kind\">{kind}</p><h1>{}</h1>", Escaped(&log.path))?;
    let closed = if log.closed_cleanly { "closed in good order" } else { "open, or not closed in good order" };
    writeln!(out, "<p>{closed}</p></header>")?;
    out.push_str("<dl class=\"cards\">");
    card(out, "partitions", &log.partitions.len().to_string())?;
    card(out, "segments", &sum(|partition| partition.segments.len() as u64).to_string())?;
    let counted = sum(|partition| partition.segments.iter().filter_map(|segment| segment.records).sum());
    card(out, "records", &counted.to_string())?;
    card(out, "on disk", &human::size(sum(|partition| partition.bytes)))?;
    let garbage = sum(|partition| shares(partition, |shares| shares.garbage_bytes));
    let known = sum(|partition| shares(partition, SharesLook::bytes));
    let at_least = if log.partitions.iter().all(|partition| partition.shares_known) { "" } else { "≥ " };
    card(out, "garbage", &format!("{at_least}{}", human::percent(garbage, known)))?;
    card(out, "dirty", &human::size(sum(|partition| partition.dirty_bytes)))?;
    out.push_str("</dl>\n");
    out.push_str(
        "<ul class=\"legend\"><li><i class=\"live\"></i>live: the latest record of its key</li>\
         <li><i class=\"tomb\"></i>tombstones</li><li><i class=\"garbage\"></i>garbage: a later record has its key</li>\
         <li><i class=\"unknown\"></i>not known</li>\
         <li><i class=\"dirty\"></i>dirty: no compaction has looked at it</li></ul>\n",
    );
    if log.partitions.is_empty() {
        out.push_str("<p class=\"empty\">There is no partition in it.</p>\n");
    }
    for (at, partition) in log.partitions.iter().enumerate() {
        section(out, partition, at < OPEN_MAX)?;
    }
    writeln!(out, "<footer>stratalog {}, from the files as they lay there</footer>", env!("CARGO_PKG_VERSION"))
}

fn card(out: &mut String, name: &str, value: &str) -> fmt::Result {
    write!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(value))
}

fn shares(partition: &PartitionLook, of: fn(&SharesLook) -> u64) -> u64 {
    partition.segments.iter().filter_map(|segment| segment.shares.as_ref()).map(of).sum()
}

fn section(out: &mut String, partition: &PartitionLook, is_open: bool) -> fmt::Result {
    let open = if is_open { " open" } else { "" };
    let name = format!("{}-{}", partition.topic, partition.partition);
    writeln!(
        out,
        "<details{open}><summary><h2>{}</h2><span>{} · {} · offsets {} to {} · cleanup {}</span></summary>",
        Escaped(&name),
        human::size(partition.log_bytes),
        human::count(partition.segments.len() as u64, "segment", "segments"),
        partition.log_start,
        partition.end,
        partition.cleanup.unwrap_or("not known"),
    )?;
    for damage in &partition.damage {
        writeln!(out, "<p class=\"damage\">{}</p>", Escaped(damage))?;
    }
    parts::whole(out, partition)?;
    parts::offsets(out, partition)?;
    parts::times(out, partition)?;
    compaction(out, partition, &partition.compaction)?;
    parts::growth(out, partition)?;
    parts::segments(out, partition)?;
    out.push_str("</details>\n");
    Ok(())
}

fn compaction(out: &mut String, partition: &PartitionLook, look: &CompactionLook) -> fmt::Result {
    out.push_str("<section><h3>What compaction has done</h3><ul class=\"facts\">");
    let mut fact = |text: String| writeln!(out, "<li>{}</li>", Escaped(&text));
    let all = human::count(partition.segments.len() as u64, "segment", "segments");
    if look.segments_looked_at == 0 && look.segments_rewritten == 0 {
        let because = if partition.cleanup == Some("delete") { ": the topic is not compacted" } else { "" };
        fact(format!("No compaction of ours has looked at any of its {all}{because}."))?;
    } else {
        let looked = look.segments_looked_at;
        fact(format!("It has looked at {looked} of {all}: digests of their keys lie beside them."))?;
    }
    if look.segments_rewritten > 0 {
        let rewritten = human::count(look.segments_rewritten, "segment", "segments");
        let removed = human::count(look.records_removed, "record", "records");
        let when = second(look.last_rewrite_ms);
        fact(format!(
            "{rewritten} miss {removed}, by the gaps in their offsets. The last was written at {when}, if its file was not copied since."
        ))?;
    }
    if let (Some(records), Some(bytes)) = (look.garbage_records_left, look.garbage_bytes_left) {
        let records = human::count(records, "record", "records");
        fact(format!("Its last plan counted {records} of garbage, {}, in what it left alone.", human::size(bytes)))?;
    }
    if let Some(offset) = look.max_winner_offset {
        fact(format!("The record at offset {offset} is the latest that others were removed for."))?;
    }
    if let Some(at) = look.next_tombstones_ms {
        fact(format!("The first tombstones may go from {} on.", second(Some(at))))?;
    }
    fact(
        "Not known: when its passes ran, how long they took, and what each of them freed. That is not kept on disk."
            .to_owned(),
    )?;
    out.push_str("</ul></section>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_named_can_be_markup() {
        let log = LogLook {
            path: "/tmp/<script>alert(\"x\")</script>&'".to_owned(),
            kind: "stratalog",
            closed_cleanly: true,
            partitions: Vec::new(),
        };
        let page = page(&log);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("/tmp/&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;"));
        assert!(page.contains("There is no partition in it."));
        assert!(!page.contains("http"), "nothing is fetched");
    }
}
