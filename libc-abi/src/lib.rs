//! The C surface of glibc 2.36 (x86-64): what programs import from `libc.so.6` and its companions.
//!
//! A function here converts: C pointers become typed values, a call goes to the personality by
//! number ([`kcall`]), the answer becomes -1 and `errno`. Pure C library code (strings, stdio,
//! malloc, time zones) lives here whole. All state of this crate is *process state*: private
//! memory, copied by `fork`.
//!
//! Every function is declared once by [`abi!`]; the declaration is the symbol, the export row
//! (library, name, version) and the signature. Rows go into a table that the loader binds imports
//! to; no C name becomes a symbol of the Rust binary, so the crate is tested on the host, where
//! [`kcall`] reaches the host's kernel instead of the personality.
#![no_std]
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[macro_use]
pub mod abi;
pub mod data;
pub mod errno;
pub mod kcall;
pub mod malloc;
pub mod thread;
pub mod types;

// Text, numbers, time and tables of C: pure library code.
pub mod argp;
pub mod argz;
pub mod assert;
pub mod charset_tables;
pub mod complex;
pub mod ctype;
pub mod diagnostic;
mod dir_read;
pub mod err;
pub mod fenv;
pub mod fnmatch;
pub mod fortify;
pub mod fts;
pub mod getopt;
pub mod gettext;
pub mod glob;
pub mod iconv;
pub mod langinfo_table;
pub mod locale;
pub mod math;
pub mod math_long;
#[cfg(test)]
mod math_tests;
pub mod multibyte;
pub mod number;
pub mod random;
pub mod regex;
#[cfg(test)]
mod regex_tests;
pub mod search;
pub mod sort;
pub mod stdlib;
pub mod strerror;
pub mod strerror_table;
pub mod string;
pub mod string_evex;
pub mod string_mem;
pub mod string_scan;
pub mod string_wide;
pub mod strings_search;
pub mod text_env;
#[cfg(test)]
mod text_tests;
#[cfg(test)]
mod text_tests_files;
pub mod time;
pub mod time_format;
pub mod tz;
pub mod unicode_tables;
pub mod wchar;
pub mod wctype;

// Memory, threads, start and end, and the system calls under their C names.
pub mod auxv;
pub mod backtrace;
pub mod c11threads;
pub mod dirent;
pub mod dl;
pub mod dynarray;
pub mod env;
pub mod epoll;
#[cfg(test)]
mod exports_check;
pub mod fcntl;
pub mod futex;
pub mod getpass;
pub mod getrandom;
pub mod ids;
pub mod ipc;
pub mod mman;
pub mod mntent;
pub mod mqueue;
pub mod old_names;
pub mod poll;
pub mod popen;
pub mod prctl;
pub mod process;
pub mod pthread;
pub mod pty;
pub mod resource;
pub mod sched;
pub mod setjmp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod start;
pub mod stat;
pub mod syslog;
pub mod tls;
pub mod trusted_hosts;
pub mod ucontext;
pub mod uio;
pub mod unistd;
pub mod utmp;
pub mod wrap;
pub mod xattr;

// One C header each: mostly a system call under its C name.
pub mod account_streams;
pub mod aio;
pub mod aliases;
pub mod ioctl;
pub mod posix_timers;
pub mod realpath;
pub mod sem;
pub mod syscall;
pub mod sysinfo;
pub mod tempfiles;
pub mod termios;
pub mod time_calls;

// Streams, printf, scanf, and floating point in text.
pub mod stdio;
pub mod strtod;
pub mod va;

// Names: users, groups, hosts, services, interfaces.
pub mod grp;
pub mod gshadow;
pub mod netdb;
pub mod pwd;
pub mod shadow;

pub use abi::{Export, Kind};

/// The export tables of all modules. A module that declares functions with `abi!` or `exports!`
/// stands here once.
#[rustfmt::skip]
pub static TABLES: &[&[Export]] = &[
    errno::EXPORTS,
    grp::EXPORTS, pwd::EXPORTS, shadow::EXPORTS, gshadow::EXPORTS, aliases::EXPORTS, account_streams::EXPORTS,
    dynarray::EXPORTS,
    trusted_hosts::EXPORTS, trusted_hosts::DATA,
    netdb::addrinfo::EXPORTS, netdb::asynchronous::EXPORTS, netdb::asynchronous::OLD,
    netdb::hostent::EXPORTS, netdb::inet::EXPORTS, netdb::inet::DATA, netdb::interfaces::EXPORTS,
    netdb::nameinfo::EXPORTS, netdb::netent::EXPORTS, netdb::netgroup::EXPORTS, netdb::nss::EXPORTS,
    netdb::rpcent::EXPORTS, netdb::ns::EXPORTS, netdb::ns::NAMES, netdb::ns::OLD,
    netdb::res::EXPORTS, netdb::res::OLD, netdb::servent::EXPORTS,
    ctype::EXPORTS, ctype::EXPORTS_L, ctype::MORE, ctype::ALIASES,
    locale::EXPORTS, locale::MORE,
    multibyte::EXPORTS, multibyte::MORE,
    strerror::EXPORTS,
    string::EXPORTS, string::MORE,
    strings_search::EXPORTS, strings_search::MORE,
    wchar::EXPORTS, wchar::MORE,
    wctype::EXPORTS, wctype::EXPORTS_L, wctype::MORE, wctype::ALIASES,
    fortify::EXPORTS, fortify::MORE,
    getopt::EXPORTS, getopt::MORE,
    number::EXPORTS, number::MORE,
    random::EXPORTS, random::RAND48_ROWS, random::MORE,
    search::EXPORTS,
    sort::EXPORTS,
    stdlib::EXPORTS, stdlib::MORE,
    time::EXPORTS, time::MORE,
    time_format::EXPORTS, time_format::MORE,
    math::ONE, math::EXPONENTIAL, math::EXACT, math::TWO, math::EXPORTS, math::MORE, math::IN_LIBC,
    math_long::EXPORTS, math_long::IN_LIBC,
    complex::EXPORTS, complex::LONG,
    fenv::EXPORTS,
    assert::EXPORTS,
    err::EXPORTS, err::MORE, fts::EXPORTS, fts::FTW, fts::MORE,
    regex::EXPORTS, regex::MORE,
    argp::DATA, argp::EXPORTS, argz::EXPORTS, fnmatch::EXPORTS, gettext::DATA, gettext::EXPORTS, gettext::MORE, gettext::NAME, glob::EXPORTS, glob::MORE, iconv::EXPORTS,
    stdio::bytes::EXPORTS, stdio::bytes::MORE,
    stdio::control::EXPORTS, stdio::control::MORE,
    stdio::convert::EXPORTS, stdio::convert::MORE,
    stdio::file::OBJECTS, stdio::fsops::EXPORTS, stdio::lock::EXPORTS, stdio::memory::EXPORTS,
    stdio::obstack::EXPORTS, stdio::obstack::MORE,
    stdio::open::EXPORTS, stdio::open::MORE,
    stdio::printf::NARROW, stdio::printf::NARROW_MORE, stdio::printf::PARSE,
    stdio::printf::WIDE, stdio::printf::WIDE_MORE,
    stdio::scanf::EXPORTS, stdio::scanf::MORE, stdio::scanf::WIDE,
    stdio::wide::EXPORTS, stdio::wide::MORE,
    strtod::EXPORTS, strtod::MORE,
    malloc::EXPORTS, malloc::ALIASES,
    auxv::EXPORTS, auxv::ALIASES,
    dl::EXPORTS, dl::ROWS,
    env::EXPORTS, env::DATA,
    pthread::atfork::EXPORTS, pthread::atfork::ROWS, pthread::attr::EXPORTS, pthread::barrier::EXPORTS,
    pthread::cancel::EXPORTS, pthread::cancel::ROWS, pthread::cond::EXPORTS,
    pthread::control::EXPORTS, pthread::control::ROWS, pthread::key::EXPORTS, pthread::key::ROWS, pthread::mutex::EXPORTS, pthread::ceiling::EXPORTS,
    pthread::once::EXPORTS, pthread::rwlock::EXPORTS, pthread::spin::EXPORTS, pthread::thread::EXPORTS,
    setjmp::EXPORTS, setjmp::ROWS,
    signal::EXPORTS, signal::ROWS,
    start::EXPORTS, start::ROWS, start::LD, start::PRIVATE,
    tls::EXPORTS,
    // One C header each.
    aio::EXPORTS, aio::ROWS,
    ioctl::EXPORTS, posix_timers::EXPORTS, posix_timers::ROWS, realpath::EXPORTS, realpath::MORE,
    sem::EXPORTS, sem::ROWS, syscall::ROWS, sysinfo::EXPORTS, sysinfo::MORE,
    tempfiles::EXPORTS, tempfiles::MORE, termios::EXPORTS, time_calls::EXPORTS, time_calls::ROWS,
    c11threads::EXPORTS,
    dirent::EXPORTS, dirent::ALIASES,
    epoll::EXPORTS, epoll::MORE,
    fcntl::EXPORTS, fcntl::MORE, fcntl::ALIASES,
    getrandom::EXPORTS,
    ids::EXPORTS, ids::MORE,
    ipc::EXPORTS,
    mman::EXPORTS, mman::MORE, mman::ALIASES,
    mqueue::EXPORTS, mqueue::MORE,
    poll::EXPORTS, poll::MORE, poll::ALIASES,
    prctl::EXPORTS, prctl::MORE, prctl::ALIASES,
    process::EXPORTS, process::MORE, process::ALIASES,
    pty::EXPORTS,
    resource::EXPORTS, resource::MORE, resource::ALIASES,
    sched::EXPORTS, sched::MORE, sched::ALIASES,
    socket::EXPORTS, socket::MORE, socket::ALIASES,
    spawn::EXPORTS,
    stat::EXPORTS, stat::MORE, stat::ALIASES,
    ucontext::ROWS,
    uio::EXPORTS, uio::MORE, uio::ALIASES,
    unistd::EXPORTS, unistd::MORE, unistd::ALIASES,
    xattr::EXPORTS,
    old_names::ROWS,
    backtrace::EXPORTS, backtrace::ALIASES, getpass::EXPORTS, mntent::EXPORTS, mntent::ALIASES, popen::EXPORTS, popen::ROWS,
    syslog::EXPORTS, syslog::ROWS, utmp::EXPORTS, utmp::ROWS,
];
