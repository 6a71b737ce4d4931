//! How a command ends.

use std::fmt;
use std::io;
use std::process::ExitCode;

use stratalog::{Error, ErrorKind};

/// The exit status.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Status {
    /// All is well.
    Well = 0,
    /// Damage or a difference was found.
    Damage = 1,
    /// Wrong use: nothing was looked at.
    Misuse = 2,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

/// Why a command could not go on.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    message: String,
    is_silent: bool,
}

/// What a command comes to.
pub type Outcome = Result<Status, Failure>;

impl Failure {
    /// The command was used in a way that cannot work.
    pub fn misuse(message: impl Into<String>) -> Failure {
        Failure { status: Status::Misuse, message: message.into(), is_silent: false }
    }

    /// What was looked at is damaged.
    pub fn damage(message: impl Into<String>) -> Failure {
        Failure { status: Status::Damage, message: message.into(), is_silent: false }
    }

    /// Nothing is to be said: whoever read the output has seen enough.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// The status that it ends with.
    pub fn status(&self) -> Status {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error.kind() {
            _ if error.is_corruption() => Failure::damage(error.to_string()),
            // The directory is what it is used for, and nothing in it is wrong.
            ErrorKind::DiskFull | ErrorKind::Poisoned => Failure::damage(error.to_string()),
            _ => Failure::misuse(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            // `stratalog ... | head` is used well.
            io::ErrorKind::BrokenPipe => Failure { status: Status::Well, message: error.to_string(), is_silent: true },
            _ => Failure::misuse(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        io::Error::from(error).into()
    }
}
