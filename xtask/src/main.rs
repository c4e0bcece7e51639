//! `cargo xtask COMMAND`: what developers run now and then.

mod bench;
mod client;
mod direct;
mod libc_bench;
mod outage;
mod pair;
mod plot;
mod process;
mod report;
mod tap;

use std::process::{Command, ExitCode};

const HELP: &str = "\
Usage: cargo xtask COMMAND

  bench [--rounds N] [--seconds N] [--plot FILE] [--no-shortcuts] [WORKLOAD...]
            native and Attacca side by side, alternating, from one run; without WORKLOAD it also writes
            compat-tests/bench/RESULTS.md. WORKLOADs: start, memory, nginx-1k, nginx-128k, nginx-new, memcached
            (a client of the host, a published port); pair-redis, pair-memcached, pair-nginx, pair-netpipe,
            pair-iperf3 (guest to guest, with --no-shortcuts through the network server); tap (clients of the host behind a TAP device; needs root)
  bench direct [--rounds N] [--seconds N] [SERVER...]
            over TAP, AF_XDP and wires, direct and through the network server, against native Linux over veth;
            needs root; without SERVER (nginx, redis-server, memcached) it also writes its section of RESULTS.md
  bench libc [--rounds N] [WORD]
            the C library's functions against glibc's; without WORD it also writes its section of RESULTS.md
  bench processes [--rounds N] [fork|exec|spawn|trip]
            fork, exec and posix_spawn, round trips between threads and processes; likewise
  outage    nginx and redis at once while their network server is killed, stopped and upgraded, and while they are
            switched to queues of their own: the silences, and compat-tests/bench/outage.svg (needs root)
  syscalls  every Linux system call and how much of it is there";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("bench") if args.get(1).is_some_and(|a| a == "libc") => {
            libc_bench::run(&libc_bench::LIBC, &args[2..])
        }
        Some("bench") if args.get(1).is_some_and(|a| a == "processes") => {
            libc_bench::run(&libc_bench::PROCESSES, &args[2..])
        }
        Some("bench") if args.get(1).is_some_and(|a| a == "direct") => direct::run(&args[2..]),
        Some("bench") => bench::run(&args[1..]),
        Some("outage") => outage::run(),
        Some("syscalls") => syscalls(),
        _ => Err(HELP.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("{words}");
            ExitCode::FAILURE
        }
    }
}

fn syscalls() -> Result<(), String> {
    let attacca = process::build_attacca()?;
    let status = Command::new(&attacca).args(["check", "--syscalls"]).status();
    status.map(drop).map_err(|error| format!("{}: {error}", attacca.display()))
}
