//! The drawings of the page. Axes are to scale; text stands beside them, so that nothing shrinks on a narrow screen.

use std::fmt::{self, Write as _};

use super::look::{PartitionLook, SegmentLook};
use super::page::second;
use crate::human;

/// Units across a drawing, which is as wide as there is room.
const WIDTH: f64 = 1000.0;
/// Units up.
const HEIGHT: f64 = 100.0;
/// Lanes of segments whose times overlap.
const LANES: usize = 6;
/// Segments that have a row of their own.
const ROWS_MAX: usize = 120;

/// A part of a bar: its class, and its share.
type Part = (&'static str, f64);

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
        write!(out, "<g><title>{}</title>", label(segment))?;
        let mut y = HEIGHT;
        for (class, share) in parts(segment) {
            let height = share * (HEIGHT - 12.0);
            y -= height;
            write!(
                out,
                "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"/>"
            )?;
        }
        if segment.dirty {
            write!(out, "<rect class=\"dirty\" x=\"{x:.2}\" y=\"0\" width=\"{width:.2}\" height=\"8\"/>")?;
        }
        write!(out, "<path class=\"edge\" d=\"M{x:.2} 0V{HEIGHT}\"/></g>")?;
    }
    out.push_str("</svg>");
    axis(out, &first.base.to_string(), &last.end.to_string())?;
    out.push_str("</section>\n");
    Ok(())
}

/// Segments along the time of their records.
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
    open_svg(out, "times", "segments along the time of their records")?;
    let height = HEIGHT / lanes.len() as f64;
    for (oldest, newest, lane, segment) in placed {
        let x = oldest.saturating_sub(from) as f64 / length * WIDTH;
        // What is over in an instant is seen all the same.
        let width = (newest.saturating_sub(oldest) as f64 / length * WIDTH).max(2.0);
        let x = x.min(WIDTH - width);
        let y = lane as f64 * height;
        let class = if segment.dirty { "span dirty-span" } else { "span" };
        write!(
            out,
            "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{:.2}\"><title>{}</title></rect>",
            (height - 2.0).max(height * 0.8),
            label(segment)
        )?;
    }
    out.push_str("</svg>");
    axis(out, &second(Some(from)), &second(Some(to)))?;
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
    open_svg(out, "growth", "bytes over time")?;
    let mut line = String::new();
    for (at, bytes) in &partition.growth {
        let x = at.saturating_sub(first.0) as f64 / length * WIDTH;
        let y = HEIGHT - *bytes as f64 / top * (HEIGHT - 2.0);
        write!(line, "{}{x:.1} {y:.1}", if line.is_empty() { "M" } else { "L" })?;
    }
    write!(out, "<path class=\"area\" d=\"{line}V{HEIGHT}H0Z\"/><path class=\"line\" d=\"{line}\"/></svg>")?;
    axis(out, &second(Some(first.0)), &second(Some(last.0)))?;
    let size = human::size(last.1);
    writeln!(
        out,
        "<p>{size} of what is there today, by the timestamps of its records. What was removed is not in it.</p></section>"
    )
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

fn row(out: &mut String, segment: &SegmentLook, largest: u64) -> fmt::Result {
    write!(out, "<li><b>{} to {}</b> <span>{}", segment.base, segment.end, human::size(segment.log_bytes))?;
    if segment.active {
        out.push_str(" · <em>active</em>");
    }
    if segment.dirty {
        out.push_str(" · <em class=\"dirty-text\">dirty</em>");
    }
    out.push_str("</span>");
    let width = (segment.log_bytes as f64 / largest as f64 * 100.0).max(1.0);
    write!(out, "<div class=\"bar\" style=\"width:{width:.2}%\">")?;
    for (class, share) in parts(segment) {
        write!(out, "<i class=\"{class}\" style=\"width:{:.2}%\"></i>", share * 100.0)?;
    }
    out.push_str("</div><small>");
    match &segment.shares {
        Some(shares) => {
            let whole = shares.live_bytes + shares.tombstone_bytes + shares.garbage_bytes;
            write!(
                out,
                "live {} ({}), tombstones {} ({}), garbage {} ({})",
                human::percent(shares.live_bytes, whole),
                shares.live_records,
                human::percent(shares.tombstone_bytes, whole),
                shares.tombstones,
                human::percent(shares.garbage_bytes, whole),
                shares.garbage_records,
            )?;
            out.push_str(if shares.from_digest { ", by its digest" } else { ", by reading it" });
        }
        None => out.push_str("shares not known"),
    }
    density(out, " · index: ", segment.index_entries, segment.log_bytes)?;
    density(out, " · time index: ", segment.time_index_entries, segment.log_bytes)?;
    if let Some(at) = segment.rewritten_ms {
        write!(out, " · compacted, file of {}", second(Some(at)))?;
    }
    out.push_str("</small></li>\n");
    Ok(())
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

/// The shares of a segment, which add up to 1.
fn parts(segment: &SegmentLook) -> Vec<Part> {
    let Some(shares) = &segment.shares else { return vec![("unknown", 1.0)] };
    let whole = shares.live_bytes + shares.tombstone_bytes + shares.garbage_bytes;
    if whole == 0 {
        return Vec::new();
    }
    let share = |bytes: u64| bytes as f64 / whole as f64;
    let all = [("live", shares.live_bytes), ("tomb", shares.tombstone_bytes), ("garbage", shares.garbage_bytes)];
    all.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(class, bytes)| (class, share(bytes))).collect()
}

/// What is shown of a segment where it is pointed at.
fn label(segment: &SegmentLook) -> String {
    let size = human::size(segment.log_bytes);
    format!(
        "{} to {}, {size}, {} to {}",
        segment.base,
        segment.end,
        second(segment.oldest_ms),
        second(segment.newest_ms)
    )
}

fn open_svg(out: &mut String, class: &str, what: &str) -> fmt::Result {
    write!(
        out,
        "<svg class=\"{class}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{what}\">"
    )
}

fn axis(out: &mut String, from: &str, to: &str) -> fmt::Result {
    write!(out, "<p class=\"axis\"><span>{from}</span><span>{to}</span></p>")
}
