//! Commands that change partitions: how each was before, what was done, how it is after.

use serde::Serialize;
use stratalog::Partition;

use crate::human;
use crate::outcome::{Failure, Outcome, Status};
use crate::target::Writable;
use crate::ui::{self, Ui};

/// A partition at one moment.
#[derive(Serialize, Clone, Copy, Debug)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub log_start: u64,
    pub end: u64,
    pub segments: usize,
    /// Bytes of its `.log` files, without reserved space.
    pub log_bytes: u64,
}

/// What a command did to one partition.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change<T> {
    topic: String,
    partition: u32,
    before: State,
    after: State,
    /// `null` where it failed.
    done: Option<T>,
    error: Option<String>,
    #[serde(skip)]
    status: Status,
}

/// What was done.
pub trait Done: Serialize {
    /// Whether damage was met on the way.
    fn found_damage(&self) -> bool {
        false
    }
}

#[derive(Serialize)]
struct Changes<T> {
    partitions: Vec<Change<T>>,
}

impl State {
    pub fn of(partition: &Partition) -> State {
        let stats = partition.stats();
        State {
            log_start: stats.offsets.start.get(),
            end: stats.offsets.end.get(),
            segments: stats.segments,
            log_bytes: stats.bytes,
        }
    }
}

impl<T: Done> Change<T> {
    /// Does it, and looks at the partition before and after.
    pub fn make<E: Into<Failure>>(partition: &Partition, act: impl FnOnce() -> Result<T, E>) -> Change<T> {
        let before = State::of(partition);
        let (done, error, status) = match act() {
            Ok(done) => {
                let status = if done.found_damage() { Status::Damage } else { Status::Well };
                (Some(done), None, status)
            }
            Err(error) => {
                let failure: Failure = error.into();
                (None, Some(failure.to_string()), failure.status())
            }
        };
        Change {
            topic: partition.topic().to_owned(),
            partition: partition.id(),
            before,
            after: State::of(partition),
            done,
            error,
            status,
        }
    }
}

/// Closes the log and shows what was done.
pub fn finish<T: Done>(
    writable: Writable,
    changes: Vec<Change<T>>,
    ui: &Ui,
    text: impl Fn(&T, &State, &State) -> String,
) -> Outcome {
    let mut status = if writable.is_well { Status::Well } else { Status::Damage };
    writable.log.close()?;
    let changes = Changes { partitions: changes };
    for change in &changes.partitions {
        status = status.max(change.status);
        if let Some(error) = &change.error {
            ui.error(&format!("{}-{}: {error}", change.topic, change.partition));
        }
    }
    ui.show(&changes, |changes| show(changes, text))?;
    Ok(status)
}

/// An empty directory has nothing to change.
pub fn show_none(ui: &Ui) -> Outcome {
    let none: Changes<()> = Changes { partitions: Vec::new() };
    ui.show(&none, |_| "nothing to do: the directory is empty".to_owned())?;
    Ok(Status::Well)
}

impl Done for () {}

fn show<T>(changes: &Changes<T>, text: impl Fn(&T, &State, &State) -> String) -> String {
    if changes.partitions.is_empty() {
        return "nothing to do\n".to_owned();
    }
    let headings = ["PARTITION", "", "START", "END", "SEGMENTS", "LOG SIZE"];
    let mut table = ui::table_of_numbers(headings, &[2, 3, 4, 5]);
    for change in &changes.partitions {
        let name = format!("{}-{}", change.topic, change.partition);
        for (name, when, state) in [(name.as_str(), "before", change.before), ("", "after", change.after)] {
            table.add_row([
                name.to_owned(),
                when.to_owned(),
                state.log_start.to_string(),
                state.end.to_string(),
                state.segments.to_string(),
                human::size(state.log_bytes),
            ]);
        }
    }
    let mut out = ui::text_of(&table);
    out.push('\n');
    for change in &changes.partitions {
        let what = match (&change.done, &change.error) {
            (Some(done), _) => text(done, &change.before, &change.after),
            (None, error) => error.clone().unwrap_or_default(),
        };
        out.push_str(&format!("{}-{}: {what}\n", change.topic, change.partition));
    }
    out
}
