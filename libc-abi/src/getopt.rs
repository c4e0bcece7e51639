//! getopt(3), getopt_long(3), getopt_long_only(3), with glibc's permutation and messages.
//!
//! Operands before options are moved behind them as the scan goes on, unless the option string
//! starts with `+` or POSIXLY_CORRECT is set; with `-` each operand is handed out as option 1.
//! `optind` 0 starts anew.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::data::DataCell;
use crate::types::*;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;

/// `struct option`
#[repr(C)]
pub struct LongOption {
    name: *const c_char,
    has_arg: c_int,
    flag: *mut c_int,
    val: c_int,
}

impl LongOption {
    /// A row of a table that is made here.
    pub(crate) fn new(name: *const c_char, has_arg: c_int, val: c_int) -> LongOption {
        LongOption { name, has_arg, flag: null_mut(), val }
    }
    pub(crate) fn name(&self) -> *const c_char {
        self.name
    }
}

/// The next call begins with another argv.
pub(crate) fn start_anew() {
    // SAFETY: getopt(3) is not for several threads at once; nor are its neighbours.
    unsafe { SCAN.started = false };
}

/// `optarg`
pub static OPTARG: DataCell<*mut c_char> = DataCell::new(null_mut());
/// `optind`
pub static OPTIND: DataCell<c_int> = DataCell::new(1);
/// `opterr`
pub static OPTERR: DataCell<c_int> = DataCell::new(1);
/// `optopt`
pub static OPTOPT: DataCell<c_int> = DataCell::new(b'?' as c_int);

#[derive(Clone, Copy, PartialEq)]
enum Ordering {
    Permute,
    StopAtOperand,
    HandOut,
}

/// Where a scan stands between calls.
struct Scan {
    started: bool,
    ordering: Ordering,
    /// Rest of a cluster of short options; null or at its end between arguments.
    next: *mut c_char,
    /// Operands that were passed over: `first..last` of argv.
    first: usize,
    last: usize,
}

static mut SCAN: Scan =
    Scan { started: false, ordering: Ordering::Permute, next: null_mut(), first: 1, last: 1 };

/// One call's arguments.
struct Call {
    argc: usize,
    argv: *mut *mut c_char,
    short: *const u8,
    long: *const LongOption,
    index: *mut c_int,
    long_only: bool,
    quiet: bool,
}

unsafe fn text<'a>(s: *const c_char) -> &'a [u8] {
    CStr::from_ptr(s).to_bytes()
}

fn complain(parts: &[&[u8]]) {
    let message: Vec<u8> = parts.concat();
    crate::diagnostic::to_stderr(&message);
}

impl Call {
    unsafe fn argument(&self, at: usize) -> *mut c_char {
        *self.argv.add(at)
    }
    unsafe fn program<'a>(&self) -> &'a [u8] {
        text(self.argument(0))
    }
    unsafe fn is_operand(&self, at: usize) -> bool {
        let argument = text(self.argument(at));
        argument.first() != Some(&b'-') || argument.len() == 1
    }

    /// Moves the options at `last..optind` before the operands at `first..last`.
    unsafe fn exchange(&self, scan: &mut Scan) {
        let end = *OPTIND.get() as usize;
        let moved = core::slice::from_raw_parts_mut(self.argv.add(scan.first), end - scan.first);
        moved.rotate_left(scan.last - scan.first);
        scan.first += end - scan.last;
        scan.last = end;
    }

    unsafe fn run(&self, scan: &mut Scan) -> c_int {
        if self.argc < 1 {
            return -1;
        }
        *OPTARG.get() = null_mut();
        let mut short = self.short;
        if *OPTIND.get() == 0 || !scan.started {
            if *OPTIND.get() == 0 {
                *OPTIND.get() = 1;
            }
            let start = *OPTIND.get() as usize;
            let posix = !crate::text_env::getenv(c"POSIXLY_CORRECT".as_ptr()).is_null();
            let ordering = match *short {
                b'-' => Ordering::HandOut,
                b'+' => Ordering::StopAtOperand,
                _ if posix => Ordering::StopAtOperand,
                _ => Ordering::Permute,
            };
            *scan = Scan { started: true, ordering, next: null_mut(), first: start, last: start };
        }
        if matches!(*short, b'-' | b'+') {
            short = short.add(1);
        }
        let quiet = self.quiet || *short == b':';
        if (scan.next.is_null() || *scan.next == 0)
            && let Some(answer) = self.next_argument(scan, short, quiet)
        {
            return answer;
        }
        self.short_option(scan, short, quiet)
    }

    /// Goes to the next argument; answers unless it is a cluster of short options.
    unsafe fn next_argument(&self, scan: &mut Scan, short: *const u8, quiet: bool) -> Option<c_int> {
        let optind = OPTIND.get();
        scan.last = scan.last.min(*optind as usize);
        scan.first = scan.first.min(*optind as usize);
        if scan.ordering == Ordering::Permute {
            if scan.first != scan.last && scan.last != *optind as usize {
                self.exchange(scan);
            } else if scan.last != *optind as usize {
                scan.first = *optind as usize;
            }
            while (*optind as usize) < self.argc && self.is_operand(*optind as usize) {
                *optind += 1;
            }
            scan.last = *optind as usize;
        }
        if *optind as usize != self.argc && text(self.argument(*optind as usize)) == b"--" {
            *optind += 1;
            if scan.first != scan.last && scan.last != *optind as usize {
                self.exchange(scan);
            } else if scan.first == scan.last {
                scan.first = *optind as usize;
            }
            scan.last = self.argc;
            *optind = self.argc as c_int;
        }
        if *optind as usize == self.argc {
            // Back to the operands that were passed over.
            if scan.first != scan.last {
                *optind = scan.first as c_int;
            }
            return Some(-1);
        }
        let argument = self.argument(*optind as usize);
        if self.is_operand(*optind as usize) {
            if scan.ordering == Ordering::StopAtOperand {
                return Some(-1);
            }
            *OPTARG.get() = argument;
            *optind += 1;
            return Some(1);
        }
        if !self.long.is_null() {
            if *argument.add(1) == b'-' as c_char {
                scan.next = argument.add(2);
                return self.long_option(scan, short, quiet, b"--");
            }
            // "-f" is short if that exists; "-foo" is long if it can be.
            let known = short_kind(short, *argument.add(1) as u8).is_some();
            if self.long_only && (*argument.add(2) != 0 || !known) {
                scan.next = argument.add(1);
                if let Some(answer) = self.long_option(scan, short, quiet, b"-") {
                    return Some(answer);
                }
            }
        }
        scan.next = argument.add(1);
        None
    }

    /// The long option at `scan.next`; `None` if it should be tried as short ones.
    unsafe fn long_option(
        &self,
        scan: &mut Scan,
        short: *const u8,
        quiet: bool,
        prefix: &[u8],
    ) -> Option<c_int> {
        let given = text(scan.next);
        let name = &given[..given.iter().position(|&c| c == b'=').unwrap_or(given.len())];
        let mut table = Vec::new();
        let mut at = self.long;
        while !(*at).name.is_null() {
            table.push(&*at);
            at = at.add(1);
        }
        let known = |option: &LongOption| text(option.name);
        let mut found = table.iter().position(|option| known(option) == name);
        if found.is_none() {
            // An abbreviation, if all that it fits mean the same.
            let fits: Vec<usize> = (0..table.len()).filter(|&i| known(table[i]).starts_with(name)).collect();
            let same =
                |a: &LongOption, b: &LongOption| a.has_arg == b.has_arg && a.flag == b.flag && a.val == b.val;
            let ambiguous = fits.iter().any(|&i| self.long_only || !same(table[i], table[fits[0]]));
            if ambiguous && fits.len() > 1 {
                if !quiet {
                    let mut parts: Vec<&[u8]> = alloc::vec![
                        self.program(),
                        b": option '",
                        prefix,
                        given,
                        b"' is ambiguous; possibilities:"
                    ];
                    for &i in &fits {
                        parts.extend([b" '".as_slice(), prefix, known(table[i]), b"'"]);
                    }
                    parts.push(b"\n");
                    complain(&parts);
                }
                scan.next = null_mut();
                *OPTIND.get() += 1;
                *OPTOPT.get() = 0;
                return Some(b'?' as c_int);
            }
            found = fits.first().copied();
        }
        let Some(found) = found else {
            let argument = self.argument(*OPTIND.get() as usize);
            let long = !self.long_only || *argument.add(1) == b'-' as c_char;
            if long || short_kind(short, *scan.next as u8).is_none() {
                if !quiet {
                    complain(&[self.program(), b": unrecognized option '", prefix, given, b"'\n"]);
                }
                scan.next = null_mut();
                *OPTIND.get() += 1;
                *OPTOPT.get() = 0;
                return Some(b'?' as c_int);
            }
            return None;
        };
        let option = table[found];
        *OPTIND.get() += 1;
        let rest = scan.next.add(name.len());
        scan.next = null_mut();
        if *rest != 0 {
            if option.has_arg == 0 {
                if !quiet {
                    let name = known(option);
                    complain(&[
                        self.program(),
                        b": option '",
                        prefix,
                        name,
                        b"' doesn't allow an argument\n",
                    ]);
                }
                *OPTOPT.get() = option.val;
                return Some(b'?' as c_int);
            }
            *OPTARG.get() = rest.add(1);
        } else if option.has_arg == 1 {
            if *OPTIND.get() as usize >= self.argc {
                if !quiet {
                    let name = known(option);
                    complain(&[self.program(), b": option '", prefix, name, b"' requires an argument\n"]);
                }
                *OPTOPT.get() = option.val;
                return Some(if *short == b':' { b':' } else { b'?' } as c_int);
            }
            *OPTARG.get() = self.argument(*OPTIND.get() as usize);
            *OPTIND.get() += 1;
        }
        if !self.index.is_null() {
            *self.index = found as c_int;
        }
        if !option.flag.is_null() {
            *option.flag = option.val;
            return Some(0);
        }
        Some(option.val)
    }

    unsafe fn short_option(&self, scan: &mut Scan, short: *const u8, quiet: bool) -> c_int {
        let letter = *scan.next as u8;
        scan.next = scan.next.add(1);
        let at_end = *scan.next == 0;
        if at_end {
            *OPTIND.get() += 1;
        }
        let Some(kind) = short_kind(short, letter) else {
            if !quiet {
                complain(&[self.program(), b": invalid option -- '", &[letter], b"'\n"]);
            }
            *OPTOPT.get() = letter as c_int;
            return b'?' as c_int;
        };
        if kind == Kind::Long && !self.long.is_null() {
            return self.w_option(scan, short, quiet, at_end, letter);
        }
        match kind {
            Kind::Plain | Kind::Long => return letter as c_int,
            Kind::Optional => {
                if !at_end {
                    *OPTARG.get() = scan.next;
                    *OPTIND.get() += 1;
                }
            }
            Kind::Required if !at_end => {
                *OPTARG.get() = scan.next;
                *OPTIND.get() += 1;
            }
            Kind::Required => {
                if *OPTIND.get() as usize == self.argc {
                    scan.next = null_mut();
                    return self.missing(short, quiet, letter);
                }
                *OPTARG.get() = self.argument(*OPTIND.get() as usize);
                *OPTIND.get() += 1;
            }
        }
        scan.next = null_mut();
        letter as c_int
    }

    unsafe fn missing(&self, short: *const u8, quiet: bool, letter: u8) -> c_int {
        if !quiet {
            complain(&[self.program(), b": option requires an argument -- '", &[letter], b"'\n"]);
        }
        *OPTOPT.get() = letter as c_int;
        if *short == b':' { b':' as c_int } else { b'?' as c_int }
    }

    /// `-W foo` is `--foo` if the option string says `W;`.
    unsafe fn w_option(
        &self,
        scan: &mut Scan,
        short: *const u8,
        quiet: bool,
        at_end: bool,
        letter: u8,
    ) -> c_int {
        if at_end {
            if *OPTIND.get() as usize == self.argc {
                scan.next = null_mut();
                return self.missing(short, quiet, letter);
            }
            scan.next = self.argument(*OPTIND.get() as usize);
        }
        self.long_option(scan, short, quiet, b"-W ").unwrap_or(b'?' as c_int)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Required,
    Optional,
    Long,
}

/// What the option string says of `letter`.
unsafe fn short_kind(short: *const u8, letter: u8) -> Option<Kind> {
    let known = text(short.cast());
    let at = known.iter().position(|&c| c == letter).filter(|_| letter != b':' && letter != b';')?;
    Some(match (known.get(at + 1), known.get(at + 2)) {
        (Some(b':'), Some(b':')) => Kind::Optional,
        (Some(b':'), _) => Kind::Required,
        (Some(b';'), _) if letter == b'W' => Kind::Long,
        _ => Kind::Plain,
    })
}

unsafe fn scan(
    argc: c_int,
    argv: *mut *mut c_char,
    short: *const c_char,
    long: *const LongOption,
    index: *mut c_int,
    long_only: bool,
) -> c_int {
    let call = Call {
        argc: argc.max(0) as usize,
        argv,
        short: short.cast(),
        long,
        index,
        long_only,
        quiet: *OPTERR.get() == 0,
    };
    let state = &raw mut SCAN;
    call.run(&mut *state)
}

abi! { EXPORTS "libc.so.6":
    /// getopt(3).
    "GLIBC_2.2.5" fn getopt(argc: c_int, argv: *mut *mut c_char, short: *const c_char) -> c_int {
        scan(argc, argv, short, core::ptr::null(), null_mut(), false)
    }
    /// getopt_long(3).
    "GLIBC_2.2.5" fn getopt_long(
        argc: c_int, argv: *mut *mut c_char, short: *const c_char, long: *const LongOption, index: *mut c_int,
    ) -> c_int {
        scan(argc, argv, short, long, index, false)
    }
    /// getopt_long_only(3).
    "GLIBC_2.2.5" fn getopt_long_only(
        argc: c_int, argv: *mut *mut c_char, short: *const c_char, long: *const LongOption, index: *mut c_int,
    ) -> c_int {
        scan(argc, argv, short, long, index, true)
    }
}

exports! { MORE "libc.so.6":
    cell "GLIBC_2.2.5" "optarg" 8 = OPTARG;
    cell "GLIBC_2.2.5" "optind" 4 = OPTIND;
    cell "GLIBC_2.2.5" "opterr" 4 = OPTERR;
    cell "GLIBC_2.2.5" "optopt" 4 = OPTOPT;
}
