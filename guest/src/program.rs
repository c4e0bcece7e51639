//! The program: personality, loader and network wired to the scheduler.

use crate::config::Config;
use crate::message::die;

/// The scheduler's hooks of a guest that runs a program.
pub(crate) fn hooks() -> sched::Hooks {
    sched::Hooks::none()
}

/// Makes the first guest thread, which loads the program.
pub(crate) fn begin(config: Config) {
    die(format_args!("cannot run {}: this runtime has no loader", config.path.escape_ascii()))
}
