//! Records as they are shown: for people, or in a format.

use std::fmt;

use stratalog::{Partition, RecordView};

use crate::human::{self, Readable};
use crate::outcome::Failure;
use crate::text::{Format, FormatArgs, Kind};
use crate::ui::Ui;

/// How records are shown.
pub enum Shape {
    /// For people; cut where long, unless `whole`.
    Readable { whole: bool },
    /// As an export writes them.
    Format(Format),
}

#[derive(clap::Args, Debug)]
pub struct ShapeArgs {
    #[command(flatten)]
    format: FormatArgs,
    /// Show keys and values whole, however long.
    #[arg(long)]
    whole: bool,
}

impl ShapeArgs {
    pub fn shape(&self, ui: &Ui) -> Result<Shape, Failure> {
        if !ui.json() && self.format.is_default() {
            return Ok(Shape::Readable { whole: self.whole });
        }
        let otherwise = if ui.json() { Kind::Json } else { Kind::Lines };
        self.format.format(None, otherwise).map(Shape::Format)
    }
}

impl Shape {
    /// Appends a record as a line.
    pub fn write(&self, out: &mut Vec<u8>, place: (&str, u32), record: &RecordView<'_>) -> Result<(), Failure> {
        match self {
            Shape::Format(format) => format.write(out, place, record).map_err(|unfit| {
                Failure::misuse(format!("{}-{}, offset {}: {unfit}", place.0, place.1, record.offset))
            }),
            Shape::Readable { whole } => {
                use std::io::Write as _;
                Ok(writeln!(out, "{}", Line { place, record, whole: *whole })?)
            }
        }
    }
}

/// The name and number of a partition.
pub fn place(partition: &Partition) -> (&str, u32) {
    (partition.topic(), partition.id())
}

struct Line<'a> {
    place: (&'a str, u32),
    record: &'a RecordView<'a>,
    whole: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readable = |bytes| Readable { bytes, whole: self.whole };
        let record = self.record;
        write!(f, "{}-{}@{}  {}  ", self.place.0, self.place.1, record.offset, human::time(record.timestamp))?;
        if record.key.is_some() {
            write!(f, "{} = ", readable(record.key))?;
        }
        write!(f, "{}", readable(record.value))?;
        for header in record.headers() {
            write!(f, "  {}: {}", readable(Some(header.key)), readable(header.value))?;
        }
        Ok(())
    }
}
