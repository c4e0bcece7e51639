//! Against the real ld.so of this host: what its programs bind to, object by object, and our own
//! rows against the symbols of the real glibc.

mod support;

use loader::check::check;
use loader::closure::{Closure, Options};
use loader::object::Namespace;
use loader::symbols::{Class, Name, Want};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use support::*;

/// (object, symbol) -> provider, from LD_DEBUG=bindings of the real ld.so with everything bound.
fn real_bindings(program: &str, arguments: &[&str]) -> BTreeMap<(String, String), BTreeSet<String>> {
    let output = Command::new(program)
        .args(arguments)
        .env("LD_DEBUG", "bindings")
        .env("LD_BIND_NOW", "1")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut map = BTreeMap::new();
    for line in text.lines() {
        // "   123:\tbinding file A [0] to B [0]: normal symbol `s' [V]"
        let Some((_, rest)) = line.split_once("binding file ") else { continue };
        let Some((from, rest)) = rest.split_once(" [0] to ") else { continue };
        let Some((to, rest)) = rest.split_once(" [0]: ") else { continue };
        // A protected or copied symbol has its own line; "normal" is what relocations use.
        let Some(symbol) = rest.split_once('`').and_then(|(_, s)| s.split_once('\'')) else { continue };
        map.entry((canonical(from), symbol.0.to_string()))
            .or_insert_with(BTreeSet::new)
            .insert(canonical(to));
    }
    map
}

fn canonical(path: &str) -> String {
    std::fs::canonicalize(path).map_or(path.to_string(), |p| p.to_string_lossy().into_owned())
}

fn is_glibc(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap();
    loader::exports::LIBRARIES.iter().any(|l| l.soname == name)
        || name.starts_with("libc.")
        || name.starts_with("ld-linux")
}

#[test]
fn bindings_are_those_of_ld_so() {
    let installed = [
        "/usr/bin/gdb --version",
        "/usr/bin/curl --version",
        "/usr/bin/git --version",
        "/usr/bin/perl -v",
        "/usr/bin/python3 -V",
        "/usr/bin/openssl version",
        "/usr/bin/ssh -V",
        "/bin/ls --version",
    ];
    // More of the form "PROGRAM ARGUMENT;PROGRAM ARGUMENT", with LD_LIBRARY_PATH for their libraries.
    let more = std::env::var("LOADER_TEST_PROGRAMS").unwrap_or_default();
    let programs = installed.into_iter().chain(more.split(';')).filter_map(|line| line.split_once(' '));
    let library_path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default().into_bytes();
    let options = Options { library_path, ..Options::default() };
    let mut compared = 0;
    for (program, argument) in programs.filter(|(p, _)| Path::new(p).exists()) {
        let real = real_bindings(program, &[argument]);
        let report = check(&FILES, program.as_bytes(), &options, libc_abi::TABLES).unwrap();
        assert!(report.objects.len() > 1 && report.imports.len() > 20, "{program}");
        for import in &report.imports {
            let from = canonical(&String::from_utf8_lossy(&import.symbol.object));
            let name = String::from_utf8_lossy(&import.symbol.name).into_owned();
            let Some(theirs) = real.get(&(from.clone(), name.clone())) else { continue };
            let ours = import.provider.as_ref().map(|p| canonical(&String::from_utf8_lossy(p)));
            // A copied variable is bound twice: its copy to glibc's, its uses to the copy.
            let fits = |theirs: &String| match &ours {
                Some(ours) => ours == theirs || import.ours && is_glibc(theirs),
                None => is_glibc(theirs),
            };
            assert!(theirs.iter().any(fits), "{name} wanted by {from}: {ours:?}, not {theirs:?}");
            compared += 1;
        }
    }
    assert!(compared > 500, "only {compared} bindings compared");
}

#[test]
fn the_search_finds_what_ldd_finds() {
    for program in ["/usr/bin/gdb", "/usr/bin/git", "/usr/bin/perl", "/bin/ls"]
        .into_iter()
        .filter(|p| Path::new(p).exists())
    {
        let listed = Command::new("/lib64/ld-linux-x86-64.so.2").args(["--list", program]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let theirs: BTreeSet<String> = listed
            .lines()
            .filter_map(|l| Some(l.split_once("=> ")?.1.split(' ').next()?.to_string()))
            .filter(|p| !is_glibc(p))
            .collect();
        let report = check(&FILES, program.as_bytes(), &Options::default(), &[]).unwrap();
        let ours: BTreeSet<String> = report
            .objects
            .iter()
            .skip(1)
            .filter(|o| !o.ours)
            .map(|o| String::from_utf8_lossy(&o.path).into_owned())
            .collect();
        assert_eq!(ours, theirs, "{program}");
    }
}

/// Every library of the host is read to the end: versions, hash tables, relocations.
#[test]
fn all_libraries_of_the_host_are_readable() {
    let mut read = 0;
    for entry in std::fs::read_dir("/lib/x86_64-linux-gnu").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_elf = || {
            std::fs::File::open(&path)
                .and_then(|mut f| {
                    use std::io::Read;
                    let mut m = [0; 4];
                    f.read_exact(&mut m)?;
                    Ok(m)
                })
                .is_ok_and(|m| m == *b"\x7fELF")
        };
        if !name.contains(".so") || path.is_symlink() || !path.is_file() || !is_elf() {
            continue;
        }
        let mut ns = Namespace::new(&FILES, &LIBC, &[]);
        let options = Options { view: true, ..Options::default() };
        let id = Closure::new(&mut ns, &options).library(path.as_os_str().as_encoded_bytes(), None);
        let id = id.unwrap_or_else(|e| panic!("{e}"));
        let Some(elf) = ns.elf(id) else { continue };
        loader::relocate::references(elf);
        // Every defined symbol is found again by its own name and version.
        let symbols = elf.symbols();
        let mut tried = 0;
        symbols.each_definition(|index, symbol| {
            let exported = symbol.st_info >> 4 != 0 && symbol.st_other & 3 == 0 && symbol.st_value != 0;
            if exported && index % 7 == 0 {
                let (version, _) = symbols.version(index);
                let want = Want {
                    name: Name::new(symbols.name(symbol).unwrap()),
                    version,
                    class: Class::Call,
                    newest: false,
                };
                let found = symbols.find(&want).map(|(_, s)| s.st_value);
                assert_eq!(
                    found,
                    Some(symbol.st_value),
                    "{name}: {}",
                    String::from_utf8_lossy(want.name.bytes)
                );
                tried += 1;
            }
            tried > 300
        });
        read += 1;
    }
    assert!(read > 50, "only {read} libraries");
}

/// A row that glibc 2.36 does not have, or has with another size or default, would bind programs
/// wrongly or not at all.
#[test]
fn our_rows_are_glibcs() {
    let mut wrong = Vec::new();
    for library in loader::exports::LIBRARIES {
        let path = format!("/lib/x86_64-linux-gnu/{}", library.soname);
        let mut ns = Namespace::new(&FILES, &LIBC, &[]);
        let options = Options { view: true, ..Options::default() };
        // `program` takes a path as it is; `library` would answer with our own.
        let id = Closure::new(&mut ns, &options).program(path.as_bytes()).unwrap();
        let elf = ns.elf(id).unwrap();
        let symbols = elf.symbols();
        let mut real = BTreeMap::new();
        symbols.each_definition(|index, symbol| {
            if let (Some(name), (Some(version), hidden)) = (symbols.name(symbol), symbols.version(index)) {
                real.insert(
                    (name.to_vec(), version.name.clone()),
                    (hidden, symbol.st_info & 0xf, symbol.st_size as usize),
                );
            }
            false
        });
        for row in libc_abi::TABLES.iter().flat_map(|t| t.iter()).filter(|r| r.library == library.soname) {
            let label = format!("{} {}@{}", row.library, row.name, row.version);
            match real.get(&(row.name.as_bytes().to_vec(), row.version.as_bytes().to_vec())) {
                None => wrong.push(format!("{label}: glibc has no such symbol")),
                Some((hidden, ..)) if *hidden == row.default => {
                    wrong.push(format!("{label}: default is {}", row.default))
                }
                Some((_, kind, size)) => match row.kind {
                    libc_abi::Kind::Object { size: ours } if *kind != 1 || ours != *size => {
                        wrong.push(format!("{label}: size {size}, kind {kind}"))
                    }
                    libc_abi::Kind::Func if *kind == 1 => wrong.push(format!("{label}: is data")),
                    _ => {}
                },
            }
        }
    }
    let known: BTreeSet<&str> = loader::exports::LIBRARIES.iter().map(|l| l.soname).collect();
    wrong.extend(
        libc_abi::TABLES
            .iter()
            .flat_map(|t| t.iter())
            .filter(|r| !known.contains(r.library))
            .map(|r| format!("{}: unknown library {}", r.name, r.library)),
    );
    let mut seen = BTreeSet::new();
    for row in libc_abi::TABLES.iter().flat_map(|t| t.iter()) {
        if !seen.insert((row.library, row.name, row.version)) {
            wrong.push(format!("{} {}@{}: twice", row.library, row.name, row.version));
        }
    }
    assert!(wrong.is_empty(), "{} rows are not glibc's:\n{}", wrong.len(), wrong.join("\n"));
}
