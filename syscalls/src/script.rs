//! `#!` lines, by the kernel's rules (fs/binfmt_script.c): for exec and for the command line.

use alloc::vec::Vec;

/// What a script's first line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The program to run.
    pub interpreter: Vec<u8>,
    /// The one optional argument: the rest of the line, not split.
    pub argument: Option<Vec<u8>>,
}

/// Bytes of a file that the kernel looks at.
pub const HEAD: usize = 256;

/// Reads the `#!` line in a file's first [`HEAD`] bytes. `None`: not a script, or a line without a
/// program or too long for its program to be whole (the kernel answers ENOEXEC).
pub fn parse(head: &[u8]) -> Option<Script> {
    let head = &head[..head.len().min(HEAD)];
    let line = head.strip_prefix(b"#!")?;
    let end = line.iter().position(|&b| b == b'\n' || b == 0);
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let text = trim(&line[..end.unwrap_or(line.len())]);
    let split = text.iter().position(blank);
    // Without an end of line in sight the program's name may be cut: only a blank proves it whole,
    // or the end of a short file.
    if end.is_none() && split.is_none() && head.len() == HEAD {
        return None;
    }
    let (program, rest) = text.split_at(split.unwrap_or(text.len()));
    if program.is_empty() {
        return None;
    }
    let rest = trim(rest);
    Some(Script { interpreter: program.to_vec(), argument: (!rest.is_empty()).then(|| rest.to_vec()) })
}

fn trim(text: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = text.iter().position(|b| !blank(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_does() {
        let check = |line: &[u8], want: Option<(&str, Option<&str>)>| {
            let got = parse(line).map(|s| {
                (
                    std::string::String::from_utf8(s.interpreter).unwrap(),
                    s.argument.map(|a| std::string::String::from_utf8(a).unwrap()),
                )
            });
            let want = want.map(|(i, a)| (std::string::String::from(i), a.map(std::string::String::from)));
            assert_eq!(got, want, "{line:?}");
        };
        check(b"#!/bin/sh\n", Some(("/bin/sh", None)));
        check(b"#! /usr/bin/env  python3 -u \necho", Some(("/usr/bin/env", Some("python3 -u"))));
        check(b"#!/bin/sh", Some(("/bin/sh", None)));
        check(b"#!\n/bin/sh", None);
        check(b"#!   \t\n", None);
        check(b"\x7fELF", None);
        let long = [b"#!/".as_slice(), &[b'a'; 300]].concat();
        check(&long, None);
    }
}
