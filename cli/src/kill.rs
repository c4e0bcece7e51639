//! `attacca kill [-s SIGNAL] GUEST...`: a host signal to a guest's first process, as kill(1) would send. When that one
//! has ended, as a program's does that goes into the background, to the eldest that is left: a daemon's master,
//! which knows what its workers shall do. SIGKILL is for all of them.

use crate::error::{Failure, OrFail, Result};
use crate::guests;
use std::process::ExitCode;

/// Arguments of `attacca kill`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Signal by name or number
    #[arg(short, long, default_value = "TERM", value_parser = parse_signal)]
    signal: i32,
    /// Names of guests (see `attacca ps`)
    #[arg(required = true)]
    guests: Vec<String>,
}

const SIGNALS: [(&str, i32); 17] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("ABRT", libc::SIGABRT),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("WINCH", libc::SIGWINCH),
];

fn parse_signal(text: &str) -> std::result::Result<i32, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let by_name = SIGNALS.iter().find(|(n, _)| *n == name).map(|&(_, number)| number);
    let by_number = text.parse().ok().filter(|n| (1..=64).contains(n));
    by_name.or(by_number).ok_or_else(|| format!("'{text}' is no signal (try TERM, HUP, QUIT or a number)"))
}

/// Signals each guest.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let running = guests::running()?;
    for name in &args.guests {
        let guest = running.iter().find(|g| g.name == *name).ok_or_else(|| {
            Failure::new(format_args!("no guest is called '{name}': `attacca ps` lists the running ones"))
        })?;
        let all = args.signal == libc::SIGKILL;
        let targets: Vec<i32> = if all { guest.processes.clone() } else { vec![guest.pid] };
        for pid in targets {
            // SAFETY: kill(2) has no memory arguments; `running` checked that the process is the guest's.
            let sent = unsafe { libc::kill(pid, args.signal) } == 0;
            let error = std::io::Error::last_os_error();
            // One that has just ended is what was wanted.
            if !sent && error.raw_os_error() != Some(libc::ESRCH) {
                Err(error).or_fail(format_args!("cannot signal guest '{name}'"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
