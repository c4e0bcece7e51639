//! `attacca check PROGRAM`: what its imports bind to, what is missing, which system calls it may make.

use crate::debian;
use crate::error::{Failure, OrFail, Result};
use crate::syscall_sites;
use loader::LoadError;
use loader::check::{Import, ObjectReport, Report};
use loader::closure::Options;
use loader::files::HostFiles;
use platform::Errno;
use std::collections::BTreeMap;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use syscalls::table::{self, Level};

/// Arguments of `attacca check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder to take for "/" [default: the host's]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Print only what is missing
    #[arg(short, long)]
    missing: bool,
    /// A path, or debian:PACKAGE[:PROGRAM]
    #[arg(value_name = "PROGRAM", required_unless_present = "syscalls")]
    program: Option<String>,
    /// List every Linux system call and how much of it is there
    #[arg(long, conflicts_with_all = ["program", "missing", "root"])]
    syscalls: bool,
}

/// Prints the imports. Exit code 0 if nothing is missing, else 1.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.syscalls {
        list_syscalls();
        return Ok(ExitCode::SUCCESS);
    }
    let program = args.program.as_deref().unwrap_or_default();
    let (root, path) = match program.strip_prefix("debian:") {
        Some(spec) => {
            let image = debian::image(spec, false)?;
            (Some(image.root), image.program)
        }
        None => (args.root.clone(), program.to_owned()),
    };
    let files: &'static HostFiles = Box::leak(Box::new(match root {
        None => HostFiles::default(),
        Some(root) => {
            let folder = std::fs::File::open(&root).or_fail(root.display())?;
            HostFiles { root: Some(folder.into_raw_fd()) }
        }
    }));
    let report = loader::check::check(files, path.as_bytes(), &Options::default(), libc_abi::TABLES);
    let report = report.map_err(|error| match error {
        LoadError::Open(_, Errno::ENOENT) => Failure::not_found(error),
        _ => Failure::cannot_run(error),
    })?;
    Ok(print(args, &report))
}

fn print(args: &Args, report: &Report) -> ExitCode {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut by_object: BTreeMap<String, Vec<&Import>> = BTreeMap::new();
    for import in &report.imports {
        by_object.entry(text(&import.symbol.object)).or_default().push(import);
    }
    let mut missing = 0;
    for (object, mut imports) in by_object {
        imports.sort_by_key(|i| (i.symbol.name.clone(), i.symbol.version.clone()));
        imports.dedup_by_key(|i| (i.symbol.name.clone(), i.symbol.version.clone()));
        let shown: Vec<_> =
            imports.iter().filter(|i| !args.missing || i.provider.is_none() && !i.weak).collect();
        if !shown.is_empty() {
            println!("{object}:");
        }
        for import in shown {
            let state = match &import.provider {
                Some(_) if import.ours => "bound".to_owned(),
                Some(provider) => format!("bound to {}", text(provider)),
                None if import.weak => "not there (weak)".to_owned(),
                None => {
                    missing += 1;
                    "MISSING".to_owned()
                }
            };
            println!("  {} {state}", label(import));
        }
    }
    for object in &report.objects {
        print_syscalls(object);
    }
    eprintln!("attacca: {} imports, {missing} missing", report.imports.len());
    ExitCode::from(u8::from(missing != 0))
}

/// The system calls that an object makes itself, past libc. (They end in the same table.)
fn print_syscalls(object: &ObjectReport) {
    let calls = syscall_sites::find(&object.code, &object.functions);
    if calls.numbers.is_empty() && calls.unknown == 0 {
        return;
    }
    let how =
        if object.functions.is_empty() { " (without unwind tables to tell code from data)" } else { "" };
    println!("{}: `syscall` instructions{how}:", String::from_utf8_lossy(&object.path));
    for &number in &calls.numbers {
        println!("  {}", describe(number));
    }
    if calls.unknown != 0 {
        println!("  {} whose number is computed elsewhere", calls.unknown);
    }
}

/// `strlen@GLIBC_2.2.5`
fn label(import: &Import) -> String {
    let name = String::from_utf8_lossy(&import.symbol.name);
    match &import.symbol.version {
        Some(version) => format!("{name}@{}", String::from_utf8_lossy(version)),
        None => name.into_owned(),
    }
}

fn describe(number: u32) -> String {
    match table::rows().find(|r| r.number == number as usize) {
        None => format!("{number}: unknown"),
        Some(row) => format!("{} {}", row.name, support(row)),
    }
}

fn support(row: &table::Row) -> String {
    let level = match row.level {
        Level::Full => "full",
        Level::Partial => "partial",
        Level::Missing => "MISSING",
    };
    if row.note.is_empty() { level.to_owned() } else { format!("{level}: {}", row.note) }
}

fn list_syscalls() {
    for row in table::rows() {
        println!("{:>3} {} {}", row.number, row.name, support(row));
    }
}
