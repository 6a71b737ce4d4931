//! Calls that fail: which, how often, and what a failed one leaves behind.

use std::collections::HashMap;
use std::io;

/// Kinds of calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Call {
    /// A write. A failed one may leave any part of itself.
    Write,
    /// A change of a file's length, reserved space included.
    SetLen,
    /// A sync of a file. A failed one marks the pages clean: what was written is lost unless written again.
    Sync,
    /// A sync of a directory.
    SyncDir,
    /// A new file.
    Create,
    /// A rename.
    Rename,
    /// A removal.
    Remove,
    /// A directory made or removed.
    Dir,
    /// A read.
    Read,
    /// An existing file opened.
    Open,
    /// A directory listed, or a name looked up.
    Look,
    /// A file mapped. Reserved space that cannot be mapped is there all the same.
    Map,
    /// Zeros of reserved space written. A failed one may leave any part of itself; the append does without the space.
    Reserve,
    /// Written bytes handed to the medium before the sync that makes them durable.
    WriteOut,
}

impl Call {
    /// All kinds.
    pub const ALL: [Call; 14] = [
        Call::Write,
        Call::SetLen,
        Call::Sync,
        Call::SyncDir,
        Call::Create,
        Call::Rename,
        Call::Remove,
        Call::Dir,
        Call::Read,
        Call::Open,
        Call::Look,
        Call::Map,
        Call::WriteOut,
        Call::Reserve,
    ];

    /// Whether it changes something, on the disk or in what the disk will keep.
    pub fn changes(self) -> bool {
        !matches!(self, Call::Read | Call::Open | Call::Look | Call::Map | Call::WriteOut)
    }
}

/// A call that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which kind of call; `None` for any that changes something.
    pub call: Option<Call>,
    /// After so many calls of that kind.
    pub after: u64,
    /// How it fails.
    pub error: io::ErrorKind,
    /// Whether all later ones fail too.
    pub forever: bool,
}

/// A call that fails as the operating system has it fail, and leaves what a seed chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// Which calls are counted.
    pub calls: Calls,
    /// After so many of them.
    pub after: u64,
    /// How it fails.
    pub failure: Failure,
    /// Whether all later ones fail too.
    pub forever: bool,
    /// Chooses what a failed write or sync leaves; 0 leaves half of a write, and of a sync nothing.
    pub seed: u64,
}

/// Which calls a fault counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Calls {
    /// All.
    All,
    /// Those that change something.
    Changing,
    /// One kind.
    Only(Call),
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// `EINTR`.
    Interrupted,
    /// `EMFILE`.
    TooManyFiles,
    /// A read ends early and says so; a write stops half way and fails. Other calls fail with `EIO`.
    Short,
}

impl Failure {
    /// All kinds.
    pub const ALL: [Failure; 5] =
        [Failure::Io, Failure::NoSpace, Failure::Interrupted, Failure::TooManyFiles, Failure::Short];

    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Failure::Io | Failure::Short => libc::EIO,
            Failure::NoSpace => libc::ENOSPC,
            Failure::Interrupted => libc::EINTR,
            Failure::TooManyFiles => libc::EMFILE,
        })
    }
}

/// What is to become of a call.
pub(super) struct Failed {
    pub(super) error: io::Error,
    /// A read returns less instead.
    pub(super) short: bool,
    /// Chooses what is left of it.
    pub(super) seed: u64,
}

/// Counts calls, and has those fail that are to.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    counts: HashMap<Call, u64>,
    plan: Option<Plan>,
    failed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    calls: Calls,
    after: u64,
    how: How,
    forever: bool,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Kind(io::ErrorKind),
    Failure(Failure),
}

impl Faults {
    pub(super) fn set(&mut self, fault: Option<Fault>) {
        let plan = |fault: Fault| Plan {
            calls: fault.call.map_or(Calls::Changing, Calls::Only),
            after: fault.after,
            how: How::Kind(fault.error),
            forever: fault.forever,
            seed: 0,
        };
        *self = Faults { plan: fault.map(plan), ..Faults::default() };
    }

    pub(super) fn inject(&mut self, injection: Injection) {
        let Injection { calls, after, failure, forever, seed } = injection;
        let plan = Plan { calls, after, how: How::Failure(failure), forever, seed };
        *self = Faults { plan: Some(plan), ..Faults::default() };
    }

    /// How many calls have failed.
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// How many calls of a kind there were.
    pub(super) fn count(&self, calls: Calls) -> u64 {
        let counted = |call: &Call| match calls {
            Calls::All => true,
            Calls::Changing => call.changes(),
            Calls::Only(only) => *call == only,
        };
        self.counts.iter().filter(|(call, _)| counted(call)).map(|(_, count)| count).sum()
    }

    /// Counts a call; what it fails with, if it does.
    pub(super) fn begin(&mut self, call: Call) -> Option<Failed> {
        *self.counts.entry(call).or_default() += 1;
        let plan = self.plan?;
        let counts = match plan.calls {
            Calls::All => true,
            Calls::Changing => call.changes(),
            Calls::Only(only) => only == call,
        };
        let reached = self.count(plan.calls);
        if !counts || !(reached == plan.after + 1 || plan.forever && reached > plan.after) {
            return None;
        }
        self.failed += 1;
        let seed = if plan.seed == 0 { 0 } else { plan.seed.wrapping_mul(31).wrapping_add(reached) | 1 };
        Some(match plan.how {
            How::Kind(kind) => Failed { error: kind.into(), short: false, seed },
            How::Failure(failure) => {
                Failed { error: failure.error(), short: failure == Failure::Short && call == Call::Read, seed }
            }
        })
    }
}

/// Draws numbers, the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
