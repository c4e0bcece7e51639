//! <argp.h> (the GNU C library manual, "Parsing Program Options with Argp"): parsers that are put together as a tree,
//! over getopt_long(3), with `--help`, `--usage` and `--version` of their own. What they print is in [`help`].
//!
//! Left out: ARGP_HELP_FMT, the hidden options `--program-name` and `--HANG`, translation domains (see `gettext.rs`).
//! The scan is getopt(3)'s one, so `optind` moves, which it does not with glibc.

// C's contract in every function: pointers valid as the manual says.
#![allow(unsafe_op_in_unsafe_fn)]

mod help;

use crate::data::DataCell;
use crate::getopt::{self, LongOption};
use crate::start::{PROGRAM_SHORT_NAME, exit};
use crate::stdio::bytes::fputs;
use crate::stdio::file::{FILE, STDERR, STDOUT};
use crate::stdio::printf::vfprintf;
use crate::strerror::strerror;
use crate::string::{strcmp, strrchr};
use crate::types::*;
use crate::va::VaList;
use crate::variadic;
use alloc::vec::Vec;
use core::ptr::{null, null_mut};

/// `struct argp_option`
#[repr(C)]
pub struct ArgpOption {
    name: *const c_char,
    key: c_int,
    arg: *const c_char,
    flags: c_int,
    doc: *const c_char,
    group: c_int,
}

/// `argp_parser_t`
type Parser = unsafe extern "C" fn(key: c_int, arg: *mut c_char, state: *mut ArgpState) -> c_int;

/// `struct argp`
#[repr(C)]
pub struct Argp {
    options: *const ArgpOption,
    parser: Option<Parser>,
    args_doc: *const c_char,
    doc: *const c_char,
    children: *const ArgpChild,
    help_filter: Option<unsafe extern "C" fn(c_int, *const c_char, *mut c_void) -> *mut c_char>,
    domain: *const c_char,
}

/// `struct argp_child`
#[repr(C)]
pub struct ArgpChild {
    argp: *const Argp,
    flags: c_int,
    header: *const c_char,
    group: c_int,
}

/// `struct argp_state`
#[repr(C)]
pub struct ArgpState {
    root: *const Argp,
    argc: c_int,
    argv: *mut *mut c_char,
    next: c_int,
    flags: c_uint,
    arg_num: c_uint,
    quoted: c_int,
    input: *mut c_void,
    child_inputs: *mut *mut c_void,
    hook: *mut c_void,
    name: *mut c_char,
    err_stream: *mut FILE,
    out_stream: *mut FILE,
    pstate: *mut c_void,
}

// ARGP_PARSE_ARGV0, ARGP_NO_ERRS, ...
const PARSE_ARGV0: c_uint = 1;
const NO_ERRS: c_uint = 2;
const NO_ARGS: c_uint = 4;
const IN_ORDER: c_uint = 8;
const NO_HELP: c_uint = 0x10;
const NO_EXIT: c_uint = 0x20;
const LONG_ONLY: c_uint = 0x40;

// OPTION_ARG_OPTIONAL, OPTION_HIDDEN, ...
const OPTIONAL: c_int = 1;
const HIDDEN: c_int = 2;
const ALIAS: c_int = 4;
const DOC: c_int = 8;
const NO_USAGE: c_int = 16;

// ARGP_KEY_*
const ARG: c_int = 0;
const ARGS: c_int = 0x100_0006;
const END: c_int = 0x100_0001;
const NO_ARGS_KEY: c_int = 0x100_0002;
const INIT: c_int = 0x100_0003;
const SUCCESS: c_int = 0x100_0004;
const ERROR: c_int = 0x100_0005;
const FINI: c_int = 0x100_0007;

/// ARGP_ERR_UNKNOWN: E2BIG.
const UNKNOWN: c_int = 7;
const EINVAL: c_int = 22;

/// `argp_program_version`
pub static VERSION: DataCell<*const c_char> = DataCell::new(null());
/// `argp_program_version_hook`
pub static VERSION_HOOK: DataCell<Option<unsafe extern "C" fn(*mut FILE, *mut ArgpState)>> =
    DataCell::new(None);
/// `argp_program_bug_address`
pub static BUG_ADDRESS: DataCell<*const c_char> = DataCell::new(null());
/// `argp_err_exit_status`: EX_USAGE of <sysexits.h>.
pub static ERROR_STATUS: DataCell<c_int> = DataCell::new(64);

impl ArgpOption {
    const fn row(name: &'static core::ffi::CStr, key: c_int, doc: *const c_char, group: c_int) -> ArgpOption {
        ArgpOption { name: name.as_ptr(), key, arg: null(), flags: 0, doc, group }
    }
    const NONE: ArgpOption =
        ArgpOption { name: null(), key: 0, arg: null(), flags: 0, doc: null(), group: 0 };

    /// The one behind the last.
    fn ends(&self) -> bool {
        self.key == 0 && self.name.is_null() && self.doc.is_null() && self.group == 0
    }
    /// Whether its key is a letter.
    fn is_short(&self) -> bool {
        self.flags & DOC == 0 && (0x21..=0x7e).contains(&self.key)
    }
    fn is_visible(&self) -> bool {
        self.flags & HIDDEN == 0
    }
}

const USAGE_KEY: c_int = -3;

/// Options that every program has, and `--version`.
struct Table<const N: usize>([ArgpOption; N]);
// SAFETY: constants.
unsafe impl<const N: usize> Sync for Table<N> {}
static DEFAULTS: Table<3> = Table([
    ArgpOption::row(c"help", b'?' as c_int, c"Give this help list".as_ptr(), -1),
    ArgpOption::row(c"usage", USAGE_KEY, c"Give a short usage message".as_ptr(), 0),
    ArgpOption::NONE,
]);
static VERSION_OPTION: Table<2> = Table([
    ArgpOption::row(c"version", b'V' as c_int, c"Print program version".as_ptr(), -1),
    ArgpOption::NONE,
]);

unsafe extern "C" fn parse_default(key: c_int, _arg: *mut c_char, state: *mut ArgpState) -> c_int {
    match key {
        _ if key == b'?' as c_int => help::state_help(state, (*state).out_stream, help::STD_HELP),
        USAGE_KEY => help::state_help(state, (*state).out_stream, help::USAGE | help::EXIT_OK),
        _ => return UNKNOWN,
    }
    0
}

unsafe extern "C" fn parse_version(key: c_int, _arg: *mut c_char, state: *mut ArgpState) -> c_int {
    if key != b'V' as c_int {
        return UNKNOWN;
    }
    match VERSION_HOOK.load() {
        Some(hook) => hook((*state).out_stream, state),
        None if VERSION.load().is_null() => {
            vargp_error(state, c"(PROGRAM ERROR) No version known!?".as_ptr(), null_mut());
        }
        None => {
            fputs(VERSION.load(), (*state).out_stream);
            fputs(c"\n".as_ptr(), (*state).out_stream);
        }
    }
    if (*state).flags & NO_EXIT == 0 {
        exit(0);
    }
    0
}

const fn argp(options: *const ArgpOption, parser: Option<Parser>, children: *const ArgpChild) -> Argp {
    Argp { options, parser, args_doc: null(), doc: null(), children, help_filter: None, domain: null() }
}

unsafe fn options_of<'a>(argp: *const Argp) -> &'a [ArgpOption] {
    let first = (*argp).options;
    if first.is_null() {
        return &[];
    }
    let count = (0..).take_while(|&at| !(*first.add(at)).ends()).count();
    core::slice::from_raw_parts(first, count)
}

unsafe fn children_of<'a>(argp: *const Argp) -> &'a [ArgpChild] {
    let first = (*argp).children;
    if first.is_null() {
        return &[];
    }
    let count = (0..).take_while(|&at| !(*first.add(at)).argp.is_null()).count();
    core::slice::from_raw_parts(first, count)
}

/// One parser of the tree.
struct Group {
    parser: Option<Parser>,
    /// Operands that it took.
    taken: c_uint,
    /// Its maker, and which of its children it is.
    parent: Option<(usize, usize)>,
    input: *mut c_void,
    child_inputs: Vec<*mut c_void>,
    hook: *mut c_void,
}

struct Parse {
    state: ArgpState,
    groups: Vec<Group>,
    short: Vec<u8>,
    /// Which group has a letter.
    letters: Vec<(u8, usize)>,
    long: Vec<LongOption>,
    /// Group and key of each long option.
    long_keys: Vec<(usize, c_int)>,
    scanning: bool,
}

/// Long options come back from getopt as numbers from here on.
const LONG_BASE: c_int = 0x1_0000;

impl Parse {
    /// Puts a parser and its children into the tables.
    unsafe fn add(&mut self, argp: *const Argp, parent: Option<(usize, usize)>) {
        let at = self.groups.len();
        let group = !(*argp).options.is_null() || (*argp).parser.is_some();
        if group {
            self.groups.push(Group {
                parser: (*argp).parser,
                taken: 0,
                parent,
                input: null_mut(),
                child_inputs: alloc::vec![null_mut(); children_of(argp).len()],
                hook: null_mut(),
            });
            self.add_options(argp, at);
        }
        for (index, child) in children_of(argp).iter().enumerate() {
            self.add(child.argp, if group { Some((at, index)) } else { parent });
        }
    }

    unsafe fn add_options(&mut self, argp: *const Argp, group: usize) {
        let mut real = &ArgpOption::NONE;
        for option in options_of(argp) {
            if option.flags & ALIAS == 0 {
                real = option;
            }
            if real.flags & DOC != 0 {
                continue;
            }
            let colons: &[u8] = match (real.arg.is_null(), real.flags & OPTIONAL != 0) {
                (true, _) => b"",
                (_, false) => b":",
                (_, true) => b"::",
            };
            if option.is_short() && !self.letters.iter().any(|letter| letter.0 == option.key as u8) {
                self.letters.push((option.key as u8, group));
                self.short.push(option.key as u8);
                self.short.extend(colons);
            }
            let known = |long: &LongOption| !long.name().is_null() && strcmp(long.name(), option.name) == 0;
            if !option.name.is_null() && !self.long.iter().any(known) {
                let key = if option.key != 0 { option.key } else { real.key };
                let value = LONG_BASE + self.long_keys.len() as c_int;
                self.long.push(LongOption::new(option.name, colons.len() as c_int, value));
                self.long_keys.push((group, key));
            }
        }
    }

    /// Calls a parser.
    unsafe fn call(&mut self, at: usize, key: c_int, arg: *mut c_char) -> c_int {
        let group = &mut self.groups[at];
        let Some(parser) = group.parser else { return UNKNOWN };
        self.state.hook = group.hook;
        self.state.input = group.input;
        self.state.child_inputs = group.child_inputs.as_mut_ptr();
        self.state.arg_num = group.taken;
        let error = parser(key, arg, &mut self.state);
        self.groups[at].hook = self.state.hook;
        error
    }

    unsafe fn init(&mut self, input: *mut c_void) -> c_int {
        for at in 0..self.groups.len() {
            let given = match self.groups[at].parent {
                Some((parent, index)) => self.groups[parent].child_inputs[index],
                None => input,
            };
            let group = &mut self.groups[at];
            group.input = given;
            // One that only holds others passes its own on.
            if group.parser.is_none()
                && let Some(first) = group.child_inputs.first_mut()
            {
                *first = given;
            }
            match self.call(at, INIT, null_mut()) {
                0 | UNKNOWN => {}
                error => return error,
            }
        }
        0
    }

    /// The next option or operand: an error, and whether one that nobody knows was an operand.
    unsafe fn step(&mut self) -> (c_int, bool) {
        let state = &mut self.state;
        if state.quoted != 0 && state.next < state.quoted {
            state.quoted = 0;
        }
        let mut option = -1;
        if self.scanning && state.quoted == 0 {
            *getopt::OPTIND.get() = state.next;
            *getopt::OPTOPT.get() = -1;
            let scan =
                if state.flags & LONG_ONLY != 0 { getopt::getopt_long_only } else { getopt::getopt_long };
            option = scan(state.argc, state.argv, self.short.as_ptr().cast(), self.long.as_ptr(), null_mut());
            state.next = *getopt::OPTIND.get();
            if option == -1 {
                self.scanning = false;
                if state.next > 1 && strcmp(*state.argv.add(state.next as usize - 1), c"--".as_ptr()) == 0 {
                    state.quoted = state.next;
                }
            } else if option == b'?' as c_int && *getopt::OPTOPT.get() != -1 {
                return (UNKNOWN, false);
            }
        }
        if option == -1 {
            if state.next >= state.argc || state.flags & NO_ARGS != 0 {
                return (UNKNOWN, true);
            }
            let operand = *state.argv.add(state.next as usize);
            state.next += 1;
            return (self.operand(operand), true);
        }
        let argument = getopt::OPTARG.load();
        if option == 1 {
            return (self.operand(argument), true);
        }
        let (group, key) = if option >= LONG_BASE {
            self.long_keys[(option - LONG_BASE) as usize]
        } else {
            let owner = self.letters.iter().find(|letter| c_int::from(letter.0) == option);
            (owner.map_or(0, |letter| letter.1), option)
        };
        let error = self.call(group, key, argument);
        if error == UNKNOWN {
            let mut words = Vec::new();
            match option >= LONG_BASE {
                false => words.extend([b'-', option as u8]),
                true => {
                    let name = self.long[(option - LONG_BASE) as usize].name();
                    words.extend(b"--");
                    words.extend(core::ffi::CStr::from_ptr(name).to_bytes());
                }
            }
            words.extend(b": (PROGRAM ERROR) Option should have been recognized!?\0");
            vargp_error(&mut self.state, words.as_ptr().cast(), null_mut());
        }
        (error, false)
    }

    /// Offers an operand to each parser in turn: alone, then all that are left.
    unsafe fn operand(&mut self, operand: *mut c_char) -> c_int {
        self.state.next -= 1;
        let index = self.state.next;
        for at in 0..self.groups.len() {
            self.state.next += 1;
            let mut error = self.call(at, ARG, operand);
            if error == UNKNOWN {
                self.state.next -= 1;
                error = self.call(at, ARGS, null_mut());
                if error == 0 && self.state.next == index {
                    self.state.next = self.state.argc;
                }
            }
            if error == UNKNOWN {
                continue;
            }
            if error == 0 {
                match self.state.next > index {
                    true => self.groups[at].taken += (self.state.next - index) as c_uint,
                    // It was given back, to be scanned again.
                    false => self.scanning = true,
                }
            }
            return error;
        }
        UNKNOWN
    }

    unsafe fn finish(&mut self, mut error: c_int, at_operand: bool, end: *mut c_int) -> c_int {
        let unasked = |error: c_int| if error == UNKNOWN { 0 } else { error };
        if error == UNKNOWN && at_operand {
            error = 0;
        }
        if error == 0 && self.state.next == self.state.argc {
            for at in 0..self.groups.len() {
                if error == 0 && self.groups[at].taken == 0 {
                    error = unasked(self.call(at, NO_ARGS_KEY, null_mut()));
                }
            }
            for at in (0..self.groups.len()).rev() {
                if error == 0 {
                    error = unasked(self.call(at, END, null_mut()));
                }
            }
        }
        if error == 0 && !end.is_null() {
            *end = self.state.next;
        } else if error == 0 && self.state.next != self.state.argc {
            if self.state.flags & NO_ERRS == 0 && !self.state.err_stream.is_null() {
                fputs(self.state.name, self.state.err_stream);
                fputs(c": Too many arguments\n".as_ptr(), self.state.err_stream);
            }
            error = UNKNOWN;
        }
        if error == 0 {
            for at in (0..self.groups.len()).rev() {
                if error == 0 {
                    error = unasked(self.call(at, SUCCESS, null_mut()));
                }
            }
        } else {
            if error == UNKNOWN {
                let stream = self.state.err_stream;
                help::state_help(&mut self.state, stream, help::STD_ERR);
            }
            for at in 0..self.groups.len() {
                self.call(at, ERROR, null_mut());
            }
        }
        for at in (0..self.groups.len()).rev() {
            self.call(at, FINI, null_mut());
        }
        if error == UNKNOWN { EINVAL } else { error }
    }
}

/// argp_parse's body.
unsafe fn parse(
    argp: *const Argp,
    argc: c_int,
    argv: *mut *mut c_char,
    flags: c_uint,
    end: *mut c_int,
    input: *mut c_void,
) -> c_int {
    let mut parse = Parse {
        state: ArgpState {
            root: argp,
            argc,
            argv,
            next: if flags & PARSE_ARGV0 != 0 { 0 } else { 1 },
            flags,
            arg_num: 0,
            quoted: 0,
            input,
            child_inputs: null_mut(),
            hook: null_mut(),
            name: PROGRAM_SHORT_NAME.load().cast_mut(),
            err_stream: STDERR.load(),
            out_stream: STDOUT.load(),
            pstate: null_mut(),
        },
        groups: Vec::new(),
        short: Vec::new(),
        letters: Vec::new(),
        long: Vec::new(),
        long_keys: Vec::new(),
        scanning: true,
    };
    if flags & PARSE_ARGV0 == 0 && argc > 0 && !(*argv).is_null() {
        let slash = strrchr(*argv, b'/' as c_int);
        parse.state.name = if slash.is_null() { *argv } else { slash.add(1) };
    }
    if flags & IN_ORDER != 0 {
        parse.short.push(b'-');
    } else if flags & NO_ARGS != 0 {
        parse.short.push(b'+');
    }
    parse.add(argp, None);
    parse.short.push(0);
    parse.long.push(LongOption::new(null(), 0, 0));
    parse.state.root = argp;
    let complaints = *getopt::OPTERR.get();
    *getopt::OPTERR.get() = c_int::from(flags & NO_ERRS == 0);
    getopt::start_anew();
    let mut at_operand = false;
    let mut error = parse.init(input);
    while error == 0 {
        (error, at_operand) = parse.step();
    }
    *getopt::OPTERR.get() = complaints;
    parse.finish(error, at_operand, end)
}

unsafe extern "C" fn vargp_error(state: *mut ArgpState, format: *const c_char, arguments: *mut VaList) {
    if !state.is_null() && (*state).flags & NO_ERRS != 0 {
        return;
    }
    let stream = if state.is_null() { STDERR.load() } else { (*state).err_stream };
    if stream.is_null() {
        return;
    }
    fputs(help::name_of(state), stream);
    fputs(c": ".as_ptr(), stream);
    match arguments.is_null() {
        true => fputs(format, stream),
        false => vfprintf(stream, format, arguments),
    };
    fputs(c"\n".as_ptr(), stream);
    help::state_help(state, stream, help::STD_ERR);
}

unsafe extern "C" fn vargp_failure(
    state: *mut ArgpState,
    status: c_int,
    number: c_int,
    format: *const c_char,
    arguments: *mut VaList,
) {
    if !state.is_null() && (*state).flags & NO_ERRS != 0 {
        return;
    }
    let stream = if state.is_null() { STDERR.load() } else { (*state).err_stream };
    if stream.is_null() {
        return;
    }
    fputs(help::name_of(state), stream);
    if !format.is_null() {
        fputs(c": ".as_ptr(), stream);
        vfprintf(stream, format, arguments);
    }
    if number != 0 {
        fputs(c": ".as_ptr(), stream);
        fputs(strerror(number), stream);
    }
    fputs(c"\n".as_ptr(), stream);
    if status != 0 && (state.is_null() || (*state).flags & NO_EXIT == 0) {
        exit(status);
    }
}

abi! { EXPORTS "libc.so.6":
    /// argp_parse(3).
    "GLIBC_2.2.5" fn argp_parse(
        root: *const Argp, argc: c_int, argv: *mut *mut c_char, flags: c_uint, end: *mut c_int, input: *mut c_void,
    ) -> c_int {
        if flags & NO_HELP != 0 {
            return parse(root, argc, argv, flags, end, input);
        }
        let version = !VERSION.load().is_null() || VERSION_HOOK.load().is_some();
        let defaults = argp(DEFAULTS.0.as_ptr(), Some(parse_default), null());
        let versions = argp(VERSION_OPTION.0.as_ptr(), Some(parse_version), null());
        let child = |argp| ArgpChild { argp, flags: 0, header: null(), group: 0 };
        let mut all: Vec<ArgpChild> = Vec::new();
        if !root.is_null() {
            all.push(child(root));
        }
        all.push(child(&defaults));
        if version {
            all.push(child(&versions));
        }
        all.push(child(null()));
        parse(&argp(null(), None, all.as_ptr()), argc, argv, flags, end, input)
    }
    /// argp_state_help(3).
    "GLIBC_2.2.5" fn argp_state_help(state: *const ArgpState, stream: *mut FILE, flags: c_uint) {
        help::state_help(state.cast_mut(), stream, flags);
    }
    /// argp_usage(3).
    "GLIBC_2.2.5" fn argp_usage(state: *const ArgpState) {
        help::state_help(state.cast_mut(), STDERR.load(), help::STD_USAGE);
    }
    /// argp_help(3).
    "GLIBC_2.2.5" fn argp_help(argp: *const Argp, stream: *mut FILE, flags: c_uint, name: *mut c_char) {
        help::print(argp, null_mut(), stream, flags, name);
    }
}

variadic! {
    /// argp_error(3).
    fn argp_error(2 fixed) = vargp_error;
    /// argp_failure(3).
    fn argp_failure(4 fixed) = vargp_failure;
}

exports! { DATA "libc.so.6":
    alias "GLIBC_2.2.5" "argp_error" = argp_error;
    alias "GLIBC_2.2.5" "argp_failure" = argp_failure;
    cell "GLIBC_2.2.5" "argp_program_version" 8 = VERSION;
    cell "GLIBC_2.2.5" "argp_program_version_hook" 8 = VERSION_HOOK;
    cell "GLIBC_2.2.5" "argp_program_bug_address" 8 = BUG_ADDRESS;
    cell "GLIBC_2.2.5" "argp_err_exit_status" 4 = ERROR_STATUS;
}
