//! The export tables against the host's glibc 2.36: every row exists there with its version, is the
//! default or not as there, has its kind and (data) its size; none stands twice.

use crate::abi::Kind;
use std::collections::{HashMap, HashSet};
use std::process::Command;
use std::string::{String, ToString};
use std::vec::Vec;

struct Symbol {
    default: bool,
    object: bool,
    size: usize,
}

/// name@version of one of the host's libraries.
fn symbols(library: &str) -> HashMap<String, Symbol> {
    let path = std::format!("/lib/x86_64-linux-gnu/{library}");
    let output =
        Command::new("readelf").args(["--dyn-syms", "-W", &path]).output().expect("readelf (binutils)");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut all = HashMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, size, kind, _, _, section, name, ..] = fields[..] else { continue };
        let Some((name, version)) = name.split_once('@') else { continue };
        if section == "UND" {
            continue;
        }
        let size = size.strip_prefix("0x").map_or_else(|| size.parse(), |hex| usize::from_str_radix(hex, 16));
        let default = version.starts_with('@');
        let key = std::format!("{name}@{}", version.trim_start_matches('@'));
        all.insert(key, Symbol { default, object: kind == "OBJECT", size: size.unwrap_or(0) });
    }
    all
}

#[test]
fn every_row_is_one_of_glibcs() {
    let mut libraries: HashMap<&str, HashMap<String, Symbol>> = HashMap::new();
    let mut seen = HashSet::new();
    let mut wrong = Vec::new();
    for row in crate::TABLES.iter().flat_map(|table| table.iter()) {
        let theirs = libraries.entry(row.library).or_insert_with(|| symbols(row.library));
        let key = std::format!("{}@{}", row.name, row.version);
        if !seen.insert((row.library, key.clone())) {
            wrong.push(std::format!("{key} twice"));
        }
        match theirs.get(&key) {
            None => {
                let has = theirs.iter().filter(|(k, _)| k.split('@').next() == Some(row.name));
                let has: Vec<_> = has.map(|(k, s)| std::format!("{k} (default {})", s.default)).collect();
                wrong.push(std::format!("{key} is not in {}, which has {has:?}", row.library));
            }
            Some(symbol) => {
                let object = matches!(row.kind, Kind::Object { .. });
                if symbol.default != row.default {
                    wrong.push(std::format!("{key}: default is {} in glibc", symbol.default));
                }
                if symbol.object != object {
                    wrong.push(std::format!("{key}: kind"));
                }
                if let Kind::Object { size } = row.kind
                    && size != symbol.size
                {
                    wrong.push(std::format!("{key}: size {size}, glibc's {}", symbol.size));
                }
            }
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{}", wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

/// Prints every row, for tools: `cargo test -p libc-abi list_rows -- --ignored --nocapture`.
#[test]
#[ignore = "a listing"]
fn list_rows() {
    for row in crate::TABLES.iter().flat_map(|table| table.iter()) {
        std::println!("ROW {} {} {} {}", row.library, row.name, row.version, row.default);
    }
}

/// The list of what Debian's programs import: see the head of compat-tests/abi/imports.tsv.
#[test]
fn every_measured_import_binds() {
    let list = include_str!("../../compat-tests/abi/imports.tsv");
    let rows: HashSet<(&str, &str, &str)> = crate::TABLES
        .iter()
        .flat_map(|table| table.iter())
        .map(|row| (row.name, row.version, row.library))
        .collect();
    let wanted = list.lines().filter(|l| !l.starts_with('#')).map(|line| {
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap();
        (next(), next(), next())
    });
    let missing: Vec<_> = wanted.filter(|import| !rows.contains(import)).collect();
    assert!(missing.is_empty(), "{} imports do not bind: {missing:?}", missing.len());
}
