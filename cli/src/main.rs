//! `attacca`: runs unmodified Linux programs on a library OS. See `attacca --help`.
//!
//! A subcommand is a file. Attacca's own words go to stderr, so that a program's output stays clean.
//! Exit codes follow the shell: the program's own status; 125 for a failure of Attacca, 126 for a
//! program that cannot be run, 127 for one that is not there.

mod check;
mod debian;
mod error;
mod exec;
mod guest;
mod guests;
mod help;
mod kill;
mod nic;
mod pcap;
mod ps;
mod publish;
mod pull;
mod run;
mod server;
mod switch;
mod syscall_sites;
mod top;

use clap::{Parser, Subcommand};
use error::Failure;
use std::process::ExitCode;

/// Runs unmodified Linux programs on a library OS in their own address space.
#[derive(Parser)]
#[command(name = "attacca", version, about, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  attacca run -p 8080:80 debian:nginx      fetch Debian's nginx, run it, publish its port 80
  attacca run /usr/bin/memcached -t 4      run a program of this machine
  attacca run --trace=network PROGRAM      show the network calls it makes, as strace does
  attacca check /usr/sbin/nginx            list every libc function it imports: bound or missing
  attacca ps                               list running guests";

#[derive(Subcommand)]
enum Command {
    /// Run a program in a new guest
    #[command(after_help = help::RUN)]
    Run(Box<run::Args>),
    /// List what a program imports: bound or missing
    #[command(after_help = help::CHECK)]
    Check(check::Args),
    /// Run one more process in a running guest
    #[command(after_help = help::EXEC)]
    Exec(exec::Args),
    /// Fetch Debian packages into the cache without running them
    #[command(after_help = help::PULL)]
    Pull(pull::Args),
    /// Networks with a name: start, restart, upgrade, stop, status
    #[command(after_help = help::SERVER)]
    Server(server::Args),
    /// List running guests
    #[command(after_help = help::PS)]
    Ps(ps::Args),
    /// Move a guest between the network's server and a NIC queue of its own
    #[command(after_help = help::SWITCH)]
    Switch(switch::Args),
    /// Show what guests do on the network, second by second
    #[command(after_help = help::TOP)]
    Top(top::Args),
    /// Write a guest's frames to a pcapng file
    #[command(after_help = help::PCAP)]
    Pcap(pcap::Args),
    /// Send a signal to a guest (SIGTERM unless told otherwise)
    #[command(after_help = help::KILL)]
    Kill(kill::Args),
}

fn main() -> ExitCode {
    // std ignores SIGPIPE, and a guest would inherit that. As any command, we end quietly when the
    // reader of our output has gone.
    // SAFETY: before any thread exists.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let result = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Check(args) => check::run(&args),
        Command::Exec(args) => exec::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Server(args) => server::run(args),
        Command::Ps(args) => ps::run(&args),
        Command::Switch(args) => switch::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Pcap(args) => pcap::run(&args),
        Command::Kill(args) => kill::run(&args),
    };
    result.unwrap_or_else(Failure::report)
}

/// Help goes out as it is and is no failure; a mistake is one line like any other failure of ours.
fn explain(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || error.kind() == DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { 125 } else { 0 });
    }
    // clap's first paragraph says what is wrong; usage and advice follow after empty lines.
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let what = lines.collect::<Vec<_>>().join(" ");
    Failure::new(format_args!("{} (see --help)", what.trim_start_matches("error: "))).report()
}
