//! The rows of the comparison.

use crate::engines::Engine;
use crate::limits::Limits;
use crate::session::Outcome;

/// A row.
pub struct Workload {
    /// The figure of the outcome.
    pub figure: &'static str,
    pub title: &'static str,
    pub kind: Kind,
    /// What of the machine bounds it, as units of the figure: given what a unit has of bytes of payload.
    pub limit: fn(&Limits, f64) -> f64,
    pub limit_name: &'static str,
    /// Bytes of keys and values of a record, on average.
    pub payload: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Records a second that are acknowledged without a sync: who loses them with the process is marked.
    Unsynced,
    /// Records a second: more is better.
    Rate,
    /// Milliseconds: less is better.
    Time,
}

const SMALL: f64 = 12.0 + 95.0;
const LARGE: f64 = 12.0 + 0.95 * 1024.0;

fn written(limits: &Limits, payload: f64) -> f64 {
    limits.write / payload
}

fn decoded(limits: &Limits, payload: f64) -> f64 {
    limits.mapped_and_checked() / payload
}

fn synced(limits: &Limits, _: f64) -> f64 {
    limits.sync
}

fn random(limits: &Limits, _: f64) -> f64 {
    limits.random
}

fn scanned(limits: &Limits, log: f64) -> f64 {
    log / limits.read_and_checked() * 1e3
}

const WRITE: &str = "64 KiB writes";
const CHECK: &str = "mapping and CRC";
const COPY: &str = "a random copy";

pub const WORKLOADS: &[Workload] = &[
    row("append-1-100B/rate", "append 100 B, one a call", Kind::Unsynced, written, WRITE, SMALL),
    row("append-1-1KiB/rate", "append 1 KiB, one a call", Kind::Unsynced, written, WRITE, LARGE),
    row("append-100-100B/rate", "append 100 B, 100 a call", Kind::Unsynced, written, WRITE, SMALL),
    row("append-100-1KiB/rate", "append 1 KiB, 100 a call", Kind::Unsynced, written, WRITE, LARGE),
    row("synced-1/rate", "append 100 B, each synced, 1 thread", Kind::Rate, synced, "fdatasync", SMALL),
    row("synced-8/rate", "append 100 B, each synced, 8 threads", Kind::Rate, synced, "fdatasync, one thread", SMALL),
    row("append-100-100B/scan", "read all in order, 100 B", Kind::Rate, decoded, CHECK, SMALL),
    row("append-100-100B/scan_settled", "read all in order, 100 B, sealed", Kind::Rate, decoded, CHECK, SMALL),
    row("append-100-1KiB/scan", "read all in order, 1 KiB", Kind::Rate, decoded, CHECK, LARGE),
    row("append-100-1KiB/scan_settled", "read all in order, 1 KiB, sealed", Kind::Rate, decoded, CHECK, LARGE),
    row("append-1-100B/point", "read one at random, appended singly", Kind::Rate, random, COPY, SMALL),
    row("append-1-100B/point_settled", "read one at random, singly, sealed", Kind::Rate, random, COPY, SMALL),
    row("append-100-100B/point", "read one at random, appended by 100", Kind::Rate, random, COPY, SMALL),
    row("append-100-100B/point_settled", "read one at random, by 100, sealed", Kind::Rate, random, COPY, SMALL),
    row("open-clean/open", "open after a clean close", Kind::Time, |_, _| f64::NAN, "", SMALL),
    row("open-killed/open", "open after a kill", Kind::Time, scanned, "read and CRC of all", SMALL),
    row("latest/rate", "latest value per key: write, compact", Kind::Rate, written, WRITE, SMALL),
    row("latest-synced/rate", "latest value per key, then synced", Kind::Rate, written, WRITE, SMALL),
];

const fn row(
    figure: &'static str,
    title: &'static str,
    kind: Kind,
    limit: fn(&Limits, f64) -> f64,
    limit_name: &'static str,
    payload: f64,
) -> Workload {
    Workload { figure, title, kind, limit, limit_name, payload }
}

impl Workload {
    /// What each engine reached, those that can do it.
    pub fn results<'a>(&self, outcome: &'a Outcome) -> impl Iterator<Item = (Engine, f64)> + use<'a> {
        let figure = self.figure;
        Engine::ALL.iter().filter_map(move |engine| Some((*engine, outcome.median(figure, *engine)?)))
    }

    pub fn is_time(&self) -> bool {
        self.kind == Kind::Time
    }

    /// Whether what this engine acknowledges is lost with the process, unlike ours.
    pub fn is_weaker(&self, engine: Engine) -> bool {
        self.kind == Kind::Unsynced && !engine.outlives_kill()
    }

    /// How many times ahead ours is of a figure.
    pub fn ahead(&self, ours: f64, other: f64) -> f64 {
        if self.is_time() { other / ours } else { ours / other }
    }

    /// The share of the limit that ours is.
    pub fn share(&self, outcome: &Outcome, ours: f64) -> f64 {
        let per = if self.is_time() { self.payload * outcome.scale.batch() as f64 } else { self.payload };
        let limit = (self.limit)(&outcome.limits(), per);
        if self.is_time() { limit / ours } else { ours / limit }
    }

    /// A figure in words.
    pub fn told(&self, value: f64) -> String {
        match value {
            _ if self.is_time() && value < 10.0 => format!("{value:.1} ms"),
            _ if self.is_time() => format!("{value:.0} ms"),
            v if v >= 1e7 => format!("{:.1} M", v / 1e6),
            v if v >= 1e6 => format!("{:.2} M", v / 1e6),
            v if v >= 1e4 => format!("{:.0} k", v / 1e3),
            v => format!("{:.1} k", v / 1e3),
        }
    }
}
