//! A failure of `attacca` itself: one line that says what failed, on what, and what to do.

use std::fmt::Display;
use std::process::ExitCode;

/// The line and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What failed, on what, what to do.
    pub(crate) message: String,
    /// 125 our own failure, 126 cannot run, 127 not found.
    pub(crate) code: u8,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of Attacca itself (exit code 125).
    pub(crate) fn new(message: impl Display) -> Failure {
        Failure { message: message.to_string(), code: 125 }
    }

    /// The program is there but cannot be run (126).
    pub(crate) fn cannot_run(message: impl Display) -> Failure {
        Failure { message: message.to_string(), code: 126 }
    }

    /// The program is not there (127).
    pub(crate) fn not_found(message: impl Display) -> Failure {
        Failure { message: message.to_string(), code: 127 }
    }

    /// Prints the line and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        eprintln!("attacca: {}", self.message);
        ExitCode::from(self.code)
    }
}

/// `.or_fail("cannot read FILE")`: turns any error into a [`Failure`] that names its object.
pub(crate) trait OrFail<T> {
    /// Puts `what` before the error's own words.
    fn or_fail(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Failure::new(format_args!("{what}: {error}")))
    }
}
