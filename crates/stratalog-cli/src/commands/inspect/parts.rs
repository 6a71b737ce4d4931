//! The drawings of the page. Axes are to scale; text stands beside them, so that nothing shrinks on a narrow screen.

use std::fmt::{self, Write as _};

use super::look::{PartitionLook, SegmentLook, SharesLook};
use crate::human;
use crate::summary::second;

/// Units across a drawing, which is as wide as there is room.
const WIDTH: f64 = 1000.0;
/// Units up.
const HEIGHT: f64 = 100.0;
/// Lanes of segments whose times overlap.
const LANES: usize = 6;
/// Axes that are longer than this tell days: ten of them.
const DAYS_MS: i64 = 10 * 86_400_000;
/// Segments that have a row of their own.
const ROWS_MAX: usize = 120;

/// A part of a bar: its class, and its share.
type Part = (&'static str, f64);

/// What all the records of a partition are, as one bar.
pub fn whole(out: &mut String, partition: &PartitionLook) -> fmt::Result {
    let known = partition.segments.iter().filter_map(|segment| segment.shares);
    let Some(sum) = known.reduce(SharesLook::plus) else { return Ok(()) };
    out.push_str("<section><h3>Shares</h3>");
    bar(out, 100.0, &parts(Some(&sum)))?;
    writeln!(out, "<p>{}</p></section>", shares_text(&sum, if partition.shares_known { "" } else { "≥ " }))
}

/// Segments along the offsets, each filled by its shares.
pub fn offsets(out: &mut String, partition: &PartitionLook) -> fmt::Result {
    out.push_str("<section><h3>Along the offsets</h3>");
    let (Some(first), Some(last)) = (partition.segments.first(), partition.segments.last()) else {
        out.push_str("<p>There is no segment.</p></section>\n");
        return Ok(());
    };
    let span = (last.end - first.base).max(1) as f64;
    open_svg(out, "offsets", "segments along the offsets, each filled by what its records are")?;
    for segment in &partition.segments {
        let x = (segment.base - first.base) as f64 / span * WIDTH;
        let width = (segment.end - segment.base) as f64 / span * WIDTH;
        block(out, segment, Rect { x, y: 0.0, width, height: HEIGHT })?;
    }
    out.push_str("</svg>");
    let middle = first.base + (last.end - first.base) / 2;
    axis(out, &[first.base, middle, last.end].map(|offset| offset.to_string()))?;
    out.push_str("</section>\n");
    Ok(())
}

/// Segments along the time of their records, in lanes where the times overlap.
pub fn times(out: &mut String, partition: &PartitionLook) -> fmt::Result {
    out.push_str("<section><h3>Along the time</h3>");
    let spans: Vec<(i64, i64, &SegmentLook)> = partition
        .segments
        .iter()
        .filter_map(|segment| Some((segment.oldest_ms?, segment.newest_ms?, segment)))
        .map(|(oldest, newest, segment)| (oldest.min(newest), newest, segment))
        .collect();
    let (Some(from), Some(to)) = (spans.iter().map(|span| span.0).min(), spans.iter().map(|span| span.1).max()) else {
        out.push_str("<p>No record tells a time.</p></section>\n");
        return Ok(());
    };
    let length = to.saturating_sub(from).max(1) as f64;
    let mut lanes: Vec<i64> = Vec::new();
    let mut placed = Vec::new();
    for (oldest, newest, segment) in spans {
        let free = lanes.iter().position(|end| *end <= oldest);
        let lane = free.unwrap_or(lanes.len().min(LANES - 1));
        if lane == lanes.len() {
            lanes.push(newest);
        } else {
            lanes[lane] = lanes[lane].max(newest);
        }
        placed.push((oldest, newest, lane, segment));
    }
    open_svg(out, if lanes.len() > 1 { "times lanes" } else { "times" }, "segments along the time of their records")?;
    let height = HEIGHT / lanes.len() as f64;
    for (oldest, newest, lane, segment) in placed {
        // What is over in an instant is seen all the same.
        let width = (newest.saturating_sub(oldest) as f64 / length * WIDTH).max(2.0);
        let x = (oldest.saturating_sub(from) as f64 / length * WIDTH).min(WIDTH - width);
        block(out, segment, Rect { x, y: lane as f64 * height, width, height })?;
    }
    out.push_str("</svg>");
    time_axis(out, from, to)?;
    out.push_str("</section>\n");
    Ok(())
}

/// Bytes over time.
pub fn growth(out: &mut String, partition: &PartitionLook) -> fmt::Result {
    out.push_str("<section><h3>Growth</h3>");
    let (Some(first), Some(last)) = (partition.growth.first(), partition.growth.last()) else {
        out.push_str("<p>No record tells a time.</p></section>\n");
        return Ok(());
    };
    let length = last.0.saturating_sub(first.0).max(1) as f64;
    let top = last.1.max(1) as f64;
    write!(out, "<p class=\"axis\"><span>{}</span></p>", human::size(last.1))?;
    open_svg(out, "growth", "bytes over time")?;
    let mut line = String::new();
    for (at, bytes) in &partition.growth {
        let x = at.saturating_sub(first.0) as f64 / length * WIDTH;
        let y = HEIGHT - *bytes as f64 / top * (HEIGHT - 2.0);
        write!(line, "{}{x:.1} {y:.1}", if line.is_empty() { "M" } else { "L" })?;
    }
    write!(out, "<path class=\"area\" d=\"{line}V{HEIGHT}H0Z\"/><path class=\"line\" d=\"{line}\"/>")?;
    steps(out, partition, first.0, length)?;
    out.push_str("</svg>");
    time_axis(out, first.0, last.0)?;
    let size = human::size(last.1);
    writeln!(
        out,
        "<p>{size} of what is there today, by the timestamps of its records. What was removed is not in it.</p></section>"
    )
}

/// What is told of the growth where it is pointed at: how large the log was when a segment ended.
fn steps(out: &mut String, partition: &PartitionLook, from: i64, length: f64) -> fmt::Result {
    let (mut bytes, mut x) = (0, 0.0);
    for segment in &partition.segments {
        bytes += segment.log_bytes;
        let Some(newest) = segment.newest_ms else { continue };
        let end = (newest.saturating_sub(from) as f64 / length * WIDTH).clamp(x, WIDTH);
        write!(
            out,
            "<rect class=\"touch\" x=\"{x:.2}\" y=\"0\" width=\"{:.2}\" height=\"{HEIGHT}\"><title>{} at {}, offset {}</title></rect>",
            end - x,
            human::size(bytes),
            second(Some(newest)),
            segment.end
        )?;
        x = end;
    }
    Ok(())
}

/// A row for each segment.
pub fn segments(out: &mut String, partition: &PartitionLook) -> fmt::Result {
    out.push_str("<section><h3>Segments</h3>");
    let skipped = partition.segments.len().saturating_sub(ROWS_MAX);
    if skipped > 0 {
        writeln!(out, "<p>The {ROWS_MAX} newest; {skipped} older ones are in the drawings above.</p>")?;
    }
    if !partition.shares_known {
        out.push_str("<p>Some shares are not known, so there may be more garbage in the others than is told here.</p>");
    }
    let largest = partition.segments.iter().map(|segment| segment.log_bytes).max().unwrap_or(0).max(1);
    out.push_str("<ol class=\"segments\">\n");
    for segment in partition.segments.iter().skip(skipped) {
        row(out, segment, largest)?;
    }
    out.push_str("</ol></section>\n");
    Ok(())
}

/// The figures are attributes too, for those who read the page by a program.
fn row(out: &mut String, segment: &SegmentLook, largest: u64) -> fmt::Result {
    let records = human::optional(segment.records, |records| records.to_string());
    write!(
        out,
        "<li title=\"{}\" data-base=\"{}\" data-end=\"{}\" data-log-bytes=\"{}\" data-records=\"{records}\" data-dirty=\"{}\">",
        label(segment),
        segment.base,
        segment.end,
        segment.log_bytes,
        segment.dirty
    )?;
    write!(out, "<b>{} to {}</b> <span>{}", segment.base, segment.end, human::size(segment.log_bytes))?;
    if let Some(records) = segment.records {
        write!(out, " · {}", human::count(records, "record", "records"))?;
    }
    if segment.active {
        out.push_str(" · <em>active</em>");
    }
    if segment.dirty {
        out.push_str(" · <em class=\"dirty-text\">dirty</em>");
    }
    out.push_str("</span>");
    let width = (segment.log_bytes as f64 / largest as f64 * 100.0).max(1.0);
    bar(out, width, &parts(segment.shares.as_ref()))?;
    write!(out, "<small>{}", second(segment.oldest_ms))?;
    write!(out, " to {}<br>", second(segment.newest_ms))?;
    match &segment.shares {
        Some(shares) => {
            out.push_str(&shares_text(shares, ""));
            out.push_str(if shares.from_digest { ", by its digest" } else { ", by reading it" });
        }
        None => out.push_str("shares not known"),
    }
    out.push_str("<br>");
    density(out, "index: ", segment.index_entries, segment.log_bytes)?;
    density(out, " · time index: ", segment.time_index_entries, segment.log_bytes)?;
    if let Some(at) = segment.rewritten_ms {
        write!(out, " · compacted, file of {}", second(Some(at)))?;
    }
    out.push_str("</small></li>\n");
    Ok(())
}

fn bar(out: &mut String, width: f64, parts: &[Part]) -> fmt::Result {
    write!(out, "<div class=\"bar\" style=\"width:{width:.2}%\">")?;
    for (class, share) in parts {
        write!(out, "<i class=\"{class}\" style=\"width:{:.2}%\"></i>", share * 100.0)?;
    }
    out.push_str("</div>");
    Ok(())
}

/// Shares in words; the numbers in brackets are records.
fn shares_text(shares: &SharesLook, at_least: &str) -> String {
    let whole = shares.bytes();
    format!(
        "live {} ({}), tombstones {} ({}), garbage {at_least}{} ({at_least}{})",
        human::percent(shares.live_bytes, whole),
        shares.live_records,
        human::percent(shares.tombstone_bytes, whole),
        shares.tombstones,
        human::percent(shares.garbage_bytes, whole),
        shares.garbage_records,
    )
}

fn density(out: &mut String, name: &str, entries: Option<u64>, bytes: u64) -> fmt::Result {
    out.push_str(name);
    match entries {
        Some(0) => out.push_str("no entry"),
        Some(entries) => write!(out, "an entry per {} ({entries})", human::size(bytes / entries))?,
        None => out.push_str("not known"),
    }
    Ok(())
}

/// The shares, which add up to 1.
fn parts(shares: Option<&SharesLook>) -> Vec<Part> {
    let Some(shares) = shares else { return vec![("unknown", 1.0)] };
    let whole = shares.bytes();
    if whole == 0 {
        return Vec::new();
    }
    let share = |bytes: u64| bytes as f64 / whole as f64;
    let all = [("live", shares.live_bytes), ("tomb", shares.tombstone_bytes), ("garbage", shares.garbage_bytes)];
    all.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(class, bytes)| (class, share(bytes))).collect()
}

/// What is shown of a segment where it is pointed at.
fn label(segment: &SegmentLook) -> String {
    let (base, end, size) = (segment.base, segment.end, human::size(segment.log_bytes));
    let mut label = format!("offsets {base} to {end}, {size}");
    if let Some(records) = segment.records {
        label += &format!(", {}", human::count(records, "record", "records"));
    }
    label += &format!("\n{} to {}\n", second(segment.oldest_ms), second(segment.newest_ms));
    label += &segment.shares.as_ref().map_or("shares not known".to_owned(), |shares| shares_text(shares, ""));
    label + if segment.dirty { "\ndirty: no compaction has looked at it" } else { "" }
}

/// Where something is drawn.
#[derive(Clone, Copy)]
struct Rect {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// A segment: its shares from below, and a mark on top where it is dirty.
fn block(out: &mut String, segment: &SegmentLook, place: Rect) -> fmt::Result {
    let Rect { x, y, width, height } = place;
    let mark = height * 0.1;
    write!(out, "<g><title>{}</title>", label(segment))?;
    let mut rect = |class: &str, y: f64, height: f64| {
        write!(out, "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"/>")
    };
    let mut top = y + height;
    for (class, share) in parts(segment.shares.as_ref()) {
        let part = share * (height - mark * 1.5);
        top -= part;
        rect(class, top, part)?;
    }
    if segment.dirty {
        rect("dirty", y + mark * 0.25, mark)?;
    }
    write!(out, "<path class=\"edge\" d=\"M{x:.2} {y:.2}v{height:.2}\"/></g>")
}

fn open_svg(out: &mut String, class: &str, what: &str) -> fmt::Result {
    write!(
        out,
        "<svg class=\"{class}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{what}\">"
    )
}

fn time_axis(out: &mut String, from: i64, to: i64) -> fmt::Result {
    let length = to.saturating_sub(from);
    let at = [from, from.saturating_add(length / 2), to].map(|at| {
        let time = second(Some(at));
        // Of years nobody needs the seconds; all of them are below.
        if length > DAYS_MS { time.split('T').next().unwrap_or_default().to_owned() } else { time }
    });
    axis(out, &at)
}

/// What is at the beginning, in the middle and at the end.
fn axis(out: &mut String, at: &[String; 3]) -> fmt::Result {
    let [from, middle, to] = at;
    write!(out, "<p class=\"axis\"><span>{from}</span><span class=\"middle\">{middle}</span><span>{to}</span></p>")
}
