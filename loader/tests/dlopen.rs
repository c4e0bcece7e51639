//! dlopen and its kin on the process's one namespace: one test, because there is one namespace.

mod support;

use loader::dlopen::{self, RTLD_DEFAULT, RTLD_NEXT, flag};
use loader::init::Arguments;
use loader::{LoadError, debug, find, state};
use std::path::Path;
use support::*;

const NONE: Arguments = Arguments { argc: 0, argv: std::ptr::null(), envp: std::ptr::null() };

fn open(path: &Path, flags: i32) -> Result<usize, LoadError> {
    // SAFETY: fixtures of this test.
    unsafe { dlopen::open(Some(path.as_os_str().as_encoded_bytes()), flags, 0, NONE) }
        .map(|link| link as usize)
}

fn symbol(handle: usize, name: &str) -> Result<usize, LoadError> {
    // SAFETY: as above.
    unsafe { dlopen::symbol(handle, name.as_bytes(), None, 0) }
}

fn close(handle: usize) -> Result<(), LoadError> {
    // SAFETY: as above.
    unsafe { dlopen::close(handle) }
}

fn call(address: usize) -> i32 {
    // SAFETY: an `int f(void)` of a fixture.
    unsafe { std::mem::transmute::<usize, extern "C" fn() -> i32>(address)() }
}

fn mapped(name: &str) -> bool {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().any(|l| l.ends_with(name))
}

/// Names in gdb's list, by walking it as gdb does.
fn listed() -> Vec<String> {
    // SAFETY: r_debug's public layout: version, map.
    unsafe {
        let map = ((&raw const debug::R_DEBUG) as *const *const debug::LinkMap).add(1).read();
        std::iter::successors(map.as_ref(), |link| link.l_next.as_ref())
            .map(|link| {
                std::ffi::CStr::from_ptr(link.l_name)
                    .to_string_lossy()
                    .rsplit('/')
                    .next()
                    .unwrap()
                    .to_string()
            })
            .collect()
    }
}

#[test]
fn libraries_come_and_go() {
    let dir = folder("dlopen");
    let source = "int counter; int base(void) { return 10; } int shared(void) { return 1; }";
    let program =
        build(&dir, "program", &format!("{source} void _start(void) {{}}"), &["-fPIE", "-pie", "-rdynamic"]);
    let mut world = load(&program, &[]).unwrap();
    let (program_base, program_end) = {
        let elf = world.ns.elf(world.root).unwrap();
        (elf.elf.start + elf.bias, elf.elf.end + elf.bias)
    };
    let program_call = world.address("base");
    debug::changed(&mut world.ns);
    find::publish(&mut world.ns);
    state::install(world.ns);
    assert_eq!(listed(), [""]);

    // Constructors run, the program's symbols are seen, the library's are not global.
    let plugin = "extern int base(void), counter; int local(void) { return base() + 1; } int twice(void) { return 2; } __attribute__((constructor)) static void c(void) { counter += 1; } __attribute__((destructor)) static void d(void) { counter += 100; }";
    let plugin = library(&dir, "plugin.so", plugin, &["-fasynchronous-unwind-tables"]);
    let handle = open(&plugin, flag::NOW).unwrap();
    let counter = symbol(RTLD_DEFAULT, "counter").unwrap() as *const i32;
    // SAFETY: a variable of the fixture.
    let counter = || unsafe { counter.read_volatile() };
    assert_eq!(counter(), 1);
    assert_eq!(call(symbol(handle, "local").unwrap()), 11);
    assert_eq!(
        symbol(RTLD_DEFAULT, "local").unwrap_err().to_string(),
        format!("{}: undefined symbol: local", program.display())
    );
    assert_eq!(
        symbol(handle, "base").unwrap_err().to_string(),
        format!("{}: undefined symbol: base", plugin.display())
    );
    assert_eq!(open(&plugin, flag::LAZY).unwrap(), handle, "one object, one handle");
    assert_eq!(counter(), 1, "constructors run once");
    assert_eq!(listed(), ["", "plugin.so"]);

    // dladdr, _dl_find_object, dl_iterate_phdr.
    let local = symbol(handle, "local").unwrap();
    let info = dlopen::address_info(local + 1).unwrap();
    // SAFETY: C strings of the loader.
    let (file, name) = unsafe { (std::ffi::CStr::from_ptr(info.file), std::ffi::CStr::from_ptr(info.name)) };
    assert_eq!(
        (file.to_str().unwrap(), name.to_str().unwrap(), info.address),
        (plugin.to_str().unwrap(), "local", local)
    );
    let range = find::object(local).unwrap();
    assert!(
        range.start <= local && local < range.end && range.link as usize == handle && range.eh_frame != 0
    );
    let range = find::object(program_call).unwrap();
    assert_eq!((range.start, range.end), (program_base, program_end));
    assert!(find::object(8).is_none());
    let headers = dlopen::program_headers();
    assert_eq!((headers.len(), headers[0].added - headers[0].removed), (2, 2));

    // RTLD_GLOBAL makes them visible, also for a stub that waits for them.
    let waiting = library(
        &dir,
        "waiting.so",
        "extern int late(int, double); int ask(void) { return late(3, 0.5); }",
        &[],
    );
    let waiting = open(&waiting, flag::LAZY).unwrap();
    let late = library(&dir, "late.so", "int late(int a, double b) { return a * 2 + (b == 0.5); }", &[]);
    let late_handle = open(&late, flag::NOW | flag::GLOBAL).unwrap();
    assert_eq!(call(symbol(waiting, "ask").unwrap()), 7, "arguments survive late binding");
    assert_eq!(call(symbol(waiting, "ask").unwrap()), 7, "and the slot is patched");
    // The waiting library is bound to the late one, which therefore stays.
    close(late_handle).unwrap();

    // Dependencies: they come with the library and go with the last user.
    library(&dir, "dep.so", "int dep(void) { return 5; }", &[]);
    let one =
        library(&dir, "one.so", "extern int dep(void); int one(void) { return dep() + 1; }", &["-l:dep.so"]);
    let two =
        library(&dir, "two.so", "extern int dep(void); int two(void) { return dep() + 2; }", &["-l:dep.so"]);
    let (one, two) = (open(&one, flag::NOW).unwrap(), open(&two, flag::NOW).unwrap());
    assert_eq!(call(symbol(one, "dep").unwrap()), 5, "a handle finds what its library needs");
    close(one).unwrap();
    assert!(mapped("dep.so") && !mapped("one.so"));
    assert_eq!(call(symbol(two, "two").unwrap()), 7);
    close(two).unwrap();
    assert!(!mapped("dep.so") && !mapped("two.so"));

    // Reference counts, destructors, NODELETE.
    close(handle).unwrap();
    assert!(mapped("plugin.so") && counter() == 1, "opened twice, closed once");
    close(handle).unwrap();
    assert!(!mapped("plugin.so") && counter() == 101);
    assert!(matches!(close(handle), Err(LoadError::BadHandle(_))));
    assert!(find::object(local).is_none());
    let handle = open(&plugin, flag::NOW | flag::NODELETE).unwrap();
    close(handle).unwrap();
    assert!(mapped("plugin.so"));

    // RTLD_NOLOAD, RTLD_DEEPBIND, RTLD_NEXT.
    assert_eq!(open(&dir.join("one.so"), flag::NOW | flag::NOLOAD).unwrap(), 0);
    assert_ne!(open(&plugin, flag::NOW | flag::NOLOAD).unwrap(), 0);
    let shared = "int shared(void) { return 2; } int mine(void) { return shared(); }";
    let usual = library(&dir, "usual.so", shared, &[]);
    let deep = library(&dir, "deep.so", shared, &[]);
    let usual = open(&usual, flag::NOW).unwrap();
    let deep = open(&deep, flag::NOW | flag::DEEPBIND).unwrap();
    assert_eq!((call(symbol(usual, "mine").unwrap()), call(symbol(deep, "mine").unwrap())), (1, 2));
    // SAFETY: as above; the caller is the program, nothing behind it has the name.
    let next = unsafe { dlopen::symbol(RTLD_NEXT, b"shared", None, program_call) };
    assert!(matches!(next, Err(LoadError::Undefined(..))));

    // TLS of opened libraries: dynamic for general code, in the surplus for initial-exec.
    let dynamic = library(
        &dir,
        "dyn.so",
        "__thread int t = 77; int *t_at(void) { return &t; }",
        &["-mtls-dialect=gnu2"],
    );
    let dynamic = open(&dynamic, flag::NOW).unwrap();
    let t = symbol(dynamic, "t").unwrap() as *const i32;
    // SAFETY: the test's C library made the variable.
    assert_eq!(unsafe { t.read() }, 77);
    let live = LIBC.live();
    close(dynamic).unwrap();
    assert_eq!(LIBC.live(), live - 1);
    let ie = "__attribute__((tls_model(\"initial-exec\"))) __thread int t; int *t_at(void) { return &t; }";
    let initial = open(&library(&dir, "ie.so", ie, &[]), flag::NOW).unwrap();
    state::with(|ns| {
        let id = dlopen::by_handle(ns, initial).unwrap();
        let tls = ns.elf(id).unwrap().tls.unwrap();
        assert!(tls.offset.unwrap() <= ns.tls.size && tls.offset.unwrap() > 0);
    });
    let big = ie.replace("int t;", "int t; __thread char many[5000];");
    let error = open(&library(&dir, "big.so", &big, &[]), flag::NOW).unwrap_err();
    assert!(error.to_string().ends_with("big.so: cannot allocate memory in static TLS block"), "{error}");
    assert!(!mapped("big.so"));

    // What fails leaves nothing behind, dependencies included.
    library(&dir, "fine.so", "int fine;", &[]);
    let bad = library(
        &dir,
        "bad.so",
        "extern int nowhere; int *p = &nowhere;",
        &["-Wl,--no-as-needed", "-l:fine.so"],
    );
    let before = listed();
    let error = open(&bad, flag::NOW).unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("bad.so"), "{error}");
    assert_eq!(listed(), before);
    assert!(!mapped("bad.so") && !mapped("fine.so"));
    assert!(
        open(&dir.join("absent.so"), flag::NOW)
            .unwrap_err()
            .to_string()
            .contains("absent.so: cannot open shared object file")
    );
    assert!(matches!(open(&plugin, 0), Err(LoadError::Usage(_))));
    std::fs::write(dir.join("text.so"), "not an ELF file").unwrap();
    assert!(open(&dir.join("text.so"), flag::NOW).unwrap_err().to_string().contains("not an ELF"));
    assert!(open(&program.with_file_name("program2"), flag::NOW).is_err());
}
