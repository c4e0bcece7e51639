//! Relocations, versions, scopes and TLS layout, on fixtures loaded into this process.

mod support;

use goblin::elf::reloc::*;
use libc_abi::data::DataCell;
use libc_abi::{Export, Kind};
use loader::relocate::references;
use loader::{LoadError, init};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use support::*;

extern "C" fn seven() -> i32 {
    7
}
extern "C" fn eight() -> i32 {
    8
}

static ROWS: &[Export] = &[
    row("libc.so.6", "number", "GLIBC_2.2.5", false, seven as *const ()),
    row("libc.so.6", "number", "GLIBC_2.14", true, eight as *const ()),
];

/// A library that stands for libc.so.6 at link time, with the version nodes of the real one.
fn fake_libc(folder: &std::path::Path) {
    std::fs::write(
        folder.join("libc.map"),
        "GLIBC_2.2.5 { global: *; }; GLIBC_2.14 { global: number; } GLIBC_2.2.5;",
    )
    .unwrap();
    let source = r#"
        __asm__(".symver old_number,number@GLIBC_2.2.5");
        __asm__(".symver new_number,number@@GLIBC_2.14");
        int old_number(void) { return -1; }
        int new_number(void) { return -2; }
        long variable = 5; extern long alias __attribute__((alias("variable")));
        int absent(void) { return 0; }
    "#;
    library(folder, "libc.so.6", source, &["-Wl,--version-script=libc.map"]);
}

#[test]
fn the_usual_relocations() {
    let dir = folder("usual");
    library(
        &dir,
        "libother.so",
        "long there = 40; long *there_at(void) { return &there; } int two(void) { return 2; }",
        &[],
    );
    let source = r#"
        extern long there; extern int two(void); extern long none __attribute__((weak)); extern int nobody(void) __attribute__((weak));
        static long own = 3; long *relative = &own; long *symbolic = &there; long beyond_[4]; long *addend = &beyond_[2];
        int call(void) { return two() + there + own; }
        int weak(void) { return &none == 0 && nobody == 0; }
        int addends(void) { return addend - beyond_; }
        int same(void) { extern long *there_at(void); return there_at() == symbolic && symbolic == &there; }
    "#;
    let path = library(&dir, "libusual.so", source, &["-l:libother.so"]);
    let world = load(&path, &[]).unwrap();
    assert_eq!(world.call("call"), 45);
    assert_eq!(world.call("weak"), 1);
    assert_eq!(world.call("addends"), 2);
    assert_eq!(world.call("same"), 1);
    let kinds: Vec<u32> = references(world.ns.elf(world.root).unwrap()).iter().map(|&(_, k)| k).collect();
    for kind in [R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT] {
        assert!(kinds.contains(&kind), "the fixture should use type {kind}");
    }
}

#[test]
fn packed_relative_relocations() {
    let dir = folder("relr");
    let source = "static int v[300]; int *p[300] = { [0 ... 299] = v + 1 }; int ok(void) { int n = 0; for (int i = 0; i < 300; i++) n += p[i] == v + 1; return n; }";
    let flags = ["-Wl,-z,pack-relative-relocs"];
    if !try_build(&dir, "probe.so", "int *x; int **y = &x;", &["-shared", "-fPIC", flags[0]]) {
        panic!("Debian 12's ld knows -z pack-relative-relocs");
    }
    let path = library(&dir, "librelr.so", source, &flags);
    let world = load(&path, &[]).unwrap();
    assert!(!world.ns.elf(world.root).unwrap().dynamic.relr.is_empty(), "the fixture should have DT_RELR");
    assert_eq!(world.call("ok"), 300);
}

#[test]
fn ifuncs_of_any_object() {
    let dir = folder("ifunc");
    let far = r#"
        static int pick_me(void) { return 11; }
        static void *resolve(void) { return pick_me; }
        int far(void) __attribute__((ifunc("resolve")));
    "#;
    library(&dir, "libfar.so", far, &[]);
    let source = r#"
        extern int far(void);
        static int base = 100; static int *volatile base_at = &base;
        static int impl(void) { return *base_at + 1; }
        static void *resolve(void) { return impl; }
        static int near(void) __attribute__((ifunc("resolve")));
        int exported(void) __attribute__((ifunc("resolve")));
        int (*pointer)(void) = exported; int (*far_pointer)(void) = far;
        int all(void) { return near() + far() * 1000 + (pointer() == near()) * 100000 + (far_pointer() == far()) * 1000000; }
    "#;
    let path = library(&dir, "libifunc.so", source, &["-l:libfar.so"]);
    let world = load(&path, &[]).unwrap();
    assert_eq!(world.call("all"), 101 + 11_000 + 1_100_000);
}

#[test]
fn versions_bind_exactly() {
    let dir = folder("versions");
    fake_libc(&dir);
    let source = r#"
        extern int old(void); extern int number(void);
        __asm__(".symver old,number@GLIBC_2.2.5");
        int both(void) { return old() * 10 + number(); }
    "#;
    let path = library(&dir, "libuser.so", source, &["-l:libc.so.6"]);
    // libc.so.6 is ours although one lies beside the library: it is never loaded from disk.
    let world = load(&path, &[ROWS]).unwrap();
    assert_eq!(world.call("both"), 78);
}

#[test]
fn hidden_and_default_versions_of_a_library() {
    let dir = folder("verdef");
    std::fs::write(dir.join("v.map"), "V1 { global: f; g; local: *; }; V2 { global: f; } V1;").unwrap();
    let source = r#"
        __asm__(".symver f1,f@V1"); __asm__(".symver f2,f@@V2");
        int f1(void) { return 1; } int f2(void) { return 2; } int g(void) { return 3; }
    "#;
    library(&dir, "libv.so", source, &["-Wl,--version-script=v.map"]);
    let user = "extern int f(void), g(void), old(void); __asm__(\".symver old,f@V1\"); int all(void) { return f() * 100 + old() * 10 + g(); }";
    let path = library(&dir, "libuser.so", user, &["-l:libv.so"]);
    assert_eq!(load(&path, &[]).unwrap().call("all"), 213);
    // The same library, rebuilt without versions, serves versioned references too.
    library(&dir, "libv.so", "int f(void) { return 5; } int g(void) { return 6; }", &[]);
    assert_eq!(load(&path, &[]).unwrap().call("all"), 556);
    // With other versions it does not: ld.so's message.
    std::fs::write(dir.join("v.map"), "V3 { global: *; };").unwrap();
    library(
        &dir,
        "libv.so",
        "int f(void) { return 5; } int g(void) { return 6; }",
        &["-Wl,--version-script=v.map"],
    );
    let error = load(&path, &[]).err().unwrap();
    assert!(
        matches!(&error, LoadError::VersionNotFound(v, l, _) if (v == b"V1" || v == b"V2") && l == b"libv.so"),
        "{error}"
    );
}

static VARIABLE: DataCell<i64> = DataCell::new(42);
static DATA_ROWS: &[Export] = &[
    Export {
        kind: Kind::Object { size: 8 },
        cell: Some(VARIABLE.place()),
        ..row("libc.so.6", "variable", "GLIBC_2.2.5", true, VARIABLE.home())
    },
    Export {
        kind: Kind::Object { size: 8 },
        cell: Some(VARIABLE.place()),
        ..row("libc.so.6", "alias", "GLIBC_2.2.5", true, VARIABLE.home())
    },
];

#[test]
fn copies_of_our_data_are_ours_too() {
    let dir = folder("copy");
    fake_libc(&dir);
    library(&dir, "libdata.so", "long mine = 9; long *mine_at(void) { return &mine; }", &[]);
    // Uses the alias, not the name that the program copies.
    library(
        &dir,
        "libalias.so",
        "extern long alias; long *alias_at(void) { return &alias; }",
        &["-l:libc.so.6"],
    );
    let source = r#"
        extern long variable, mine; extern long *alias_at(void), *mine_at(void);
        int first(void) { return variable; }
        int same(void) { return alias_at() == &variable; }
        int theirs(void) { return mine == 9 && mine_at() == &mine; }
        void _start(void) {}
    "#;
    let flags = [
        "-fno-pie",
        "-no-pie",
        "-rdynamic",
        "-L.",
        "-Wl,-rpath,$ORIGIN",
        "-l:libdata.so",
        "-l:libalias.so",
        "-l:libc.so.6",
        "-Wl,-Ttext-segment=0x2000000",
    ];
    let path = build(&dir, "program", source, &flags);
    let world = load(&path, &[DATA_ROWS]).unwrap();
    let kinds: Vec<u32> = references(world.ns.elf(world.root).unwrap()).iter().map(|&(_, k)| k).collect();
    assert_eq!(kinds.iter().filter(|&&k| k == R_X86_64_COPY).count(), 2);
    assert_eq!(world.call("first"), 42);
    assert_eq!(world.call("same"), 1);
    assert_eq!(world.call("theirs"), 1);
    // SAFETY: this test is the only user of the variable.
    unsafe { VARIABLE.store(43) };
    assert_eq!(world.call("first"), 43, "our writes reach the program's copy");
}

#[test]
fn a_function_has_one_address() {
    // Canonical PLT: the program takes the address without PIC, so its PLT entry is the address.
    let dir = folder("canonical");
    library(&dir, "libf.so", "int f(void) { return 1; } void *f_at(void) { return f; }", &[]);
    let source = "extern int f(void); extern void *f_at(void); int same(void) { return (void *)f == f_at(); } void _start(void) {}";
    let flags = [
        "-fno-pie",
        "-no-pie",
        "-rdynamic",
        "-L.",
        "-Wl,-rpath,$ORIGIN",
        "-l:libf.so",
        "-Wl,-Ttext-segment=0x2400000",
        "-fno-pic",
        "-mcmodel=small",
    ];
    let path = build(&dir, "program", source, &flags);
    let world = load(&path, &[]).unwrap();
    assert_eq!(world.call("same"), 1);
}

#[test]
fn a_fixed_program_says_when_its_addresses_are_taken() {
    let dir = folder("taken");
    let flags = ["-no-pie", "-rdynamic", "-Wl,-Ttext-segment=0x2800000"];
    let path = build(&dir, "program", "void _start(void) {} int f(void) { return 4; }", &flags);
    let world = load(&path, &[]);
    let again = load(&path, &[]);
    assert!(world.is_ok());
    assert!(matches!(again.err(), Some(LoadError::AddressInUse(_, 0x2800000, _))));
}

#[test]
fn symbolic_protected_and_global_order() {
    let dir = folder("symbolic");
    let lib =
        "int f(void) { return 1; } int via(void) { return f(); } int (*taken(void))(void) { return f; }";
    library(&dir, "libplain.so", lib, &[]);
    library(
        &dir,
        "libsymbolic.so",
        &lib.replace("via", "via_s").replace("taken", "taken_s"),
        &["-Wl,-Bsymbolic"],
    );
    library(
        &dir,
        "libprotected.so",
        &lib.replace("via", "via_p")
            .replace("taken", "taken_p")
            .replace("int f(void)", "__attribute__((visibility(\"protected\"))) int f(void)"),
        &[],
    );
    let source = r#"
        int f(void) { return 9; } extern int via(void), via_s(void), via_p(void);
        int all(void) { return via() * 100 + via_s() * 10 + via_p(); }
    "#;
    let path =
        library(&dir, "libtop.so", source, &["-l:libplain.so", "-l:libsymbolic.so", "-l:libprotected.so"]);
    assert_eq!(load(&path, &[]).unwrap().call("all"), 911);
}

#[test]
fn unique_symbols_are_one() {
    let dir = folder("unique");
    // Two objects define the symbol; neither is before the other for both users without the rule.
    let source = |n: u32| {
        format!(
            ".globl one\n.type one, @gnu_unique_object\n.size one, 8\n.data\none: .quad {n}\n.text\n.globl at{n}\nat{n}: mov one@GOTPCREL(%rip), %rax\nret\n.section .note.GNU-stack,\"\",@progbits\n"
        )
    };
    for n in [1, 2] {
        std::fs::write(dir.join(format!("u{n}.s")), source(n)).unwrap();
        let asm = format!("u{n}.s");
        library(&dir, &format!("libu{n}.so"), "", &[&asm, "-Wl,-Bsymbolic"]);
    }
    let path = library(
        &dir,
        "libtop.so",
        "extern void *at1(void), *at2(void); int same(void) { return at1() == at2(); }",
        &["-l:libu1.so", "-l:libu2.so"],
    );
    // -Bsymbolic makes each look at itself first; unique wins over that.
    assert_eq!(load(&path, &[]).unwrap().call("same"), 1);
}

#[test]
fn missing_functions_are_told_by_name() {
    let dir = folder("missing");
    fake_libc(&dir);
    let path = library(
        &dir,
        "libuser.so",
        "extern int absent(void), number(void); int f(void) { return absent() + number(); }",
        &["-l:libc.so.6"],
    );
    let error = load(&path, &[ROWS]).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("absent@GLIBC_2.2.5 of libc.so.6") && text.contains("libuser.so"), "{text}");
    assert!(!text.contains("number") && !text.contains('\n'), "{text}");
    // With --lazy the rest runs.
    let world = load_with(&path, &[ROWS], loader::closure::Options { lazy: true, ..options() }).unwrap();
    assert_eq!(world.ns.stubs.borrow().late.len(), 1);
    // What no library of ours should have is ld.so's affair: bound when first called.
    let path = library(
        &dir,
        "libplugin.so",
        "extern int host_function(void); int f(void) { return host_function(); } int g(void) { return 3; }",
        &[],
    );
    assert_eq!(load(&path, &[]).unwrap().call("g"), 3);
    let path = library(
        &dir,
        "libnow.so",
        "extern int host_function(void); int f(void) { return host_function(); }",
        &["-Wl,-z,now"],
    );
    assert!(load(&path, &[]).err().unwrap().to_string().contains("host_function"));
    // Data cannot wait.
    let path = library(&dir, "libdata.so", "extern int host_data; int f(void) { return host_data; }", &[]);
    assert!(load(&path, &[]).err().unwrap().to_string().contains("host_data"));
}

#[test]
fn a_missing_library_is_told_by_name() {
    let dir = folder("nolib");
    library(&dir, "libgone.so", "int f(void) { return 1; }", &[]);
    let path =
        library(&dir, "libuser.so", "extern int f(void); int g(void) { return f(); }", &["-l:libgone.so"]);
    std::fs::remove_file(dir.join("libgone.so")).unwrap();
    let text = load(&path, &[]).err().unwrap().to_string();
    assert!(
        text.starts_with("libgone.so: cannot open shared object file") && text.contains("libuser.so"),
        "{text}"
    );
}

#[test]
fn static_tls_offsets_and_modules() {
    let dir = folder("tls");
    let other = "__thread long far[4] = { 1, 2, 3, 4 }; __thread char odd[3] __attribute__((aligned(128)));";
    library(&dir, "libfar.so", other, &[]);
    let source = r#"
        extern __thread long far[4]; __thread long near = 5; static __thread long local;
        long *gd(void) { return &far[1]; }
        __attribute__((tls_model("initial-exec"))) extern __thread char odd[3];
        char *ie(void) { return odd; }
        long *ld(void) { return &local; }
    "#;
    fake_libc(&dir);
    let path = library(&dir, "libtls.so", source, &["-l:libfar.so", "-Wl,--no-as-needed", "-l:libc.so.6"]);
    let world = load(&path, &[TLS_ROWS]).unwrap();
    let near = world.ns.elf(world.root).unwrap().tls.unwrap();
    let far = world.ns.elf(world.id("libfar.so")).unwrap().tls.unwrap();
    assert!(near.id != 0 && far.id != 0 && near.id != far.id);
    assert!(far.segment.align >= 128 && far.offset.unwrap() >= near.offset.unwrap() + far.segment.memsz);
    assert_eq!(far.offset.unwrap() % 128, (128 - far.segment.vaddr % 128) % 128);
    let kinds: Vec<u32> = references(world.ns.elf(world.root).unwrap()).iter().map(|&(_, k)| k).collect();
    for kind in [R_X86_64_DTPMOD64, R_X86_64_DTPOFF64, R_X86_64_TPOFF64] {
        assert!(kinds.contains(&kind), "the fixture should use type {kind}");
    }
    // General dynamic code passes a (module, offset) pair to the exported __tls_get_addr.
    // SAFETY: a function of the fixture.
    let gd: extern "C" fn() -> usize = unsafe { std::mem::transmute(world.address("gd")) };
    gd();
    // SAFETY: the pair that the fixture's code passed, in its GOT.
    let [module, _] = unsafe { (LAST_INDEX.load(Relaxed) as *const [usize; 2]).read() };
    assert_eq!(module, far.id);
}

static LAST_INDEX: AtomicUsize = AtomicUsize::new(0);
extern "C" fn tls_get_addr(index: usize) -> usize {
    LAST_INDEX.store(index, Relaxed);
    index
}
static TLS_ROWS: &[Export] =
    &[row("ld-linux-x86-64.so.2", "__tls_get_addr", "GLIBC_2.3", true, tls_get_addr as *const ())];

#[test]
fn descriptors_of_static_tls_need_no_call() {
    let dir = folder("tlsdesc");
    let source = "__thread long a = 1; __thread long b = 2; extern __thread long none __attribute__((weak)); long off_b(void) { long v; __asm__(\"lea b@TLSDESC(%%rip), %%rax; call *b@TLSCALL(%%rax)\" : \"=a\"(v)); return v; }";
    let path = library(&dir, "libdesc.so", source, &["-mtls-dialect=gnu2"]);
    let world = load(&path, &[]).unwrap();
    let elf = world.ns.elf(world.root).unwrap();
    assert!(references(elf).iter().any(|&(_, k)| k == R_X86_64_TLSDESC));
    let tls = elf.tls.unwrap();
    // SAFETY: a function of the fixture.
    let off: extern "C" fn() -> i64 = unsafe { std::mem::transmute(world.address("off_b")) };
    let offset = tls.segment.vaddr as i64;
    let _ = offset;
    let value = off();
    assert!(value < 0 && value >= -(tls.offset.unwrap() as i64), "{value}");
    // b's own place: its offset in the block minus the block's distance.
    let want = loader::symbols::Want {
        name: loader::symbols::Name::new(b"b"),
        version: None,
        class: loader::symbols::Class::Call,
        newest: true,
    };
    let (_, symbol) = elf.symbols().find(&want).unwrap();
    assert_eq!(value, symbol.st_value as i64 - tls.offset.unwrap() as i64);
}

#[test]
fn constructors_run_after_those_of_what_they_need() {
    let dir = folder("init");
    let source = |n: u32, body: &str| {
        format!(
            "extern int log_[16], logged; {body} __attribute__((constructor)) static void c(void) {{ log_[logged++] = {n}; }} __attribute__((destructor)) static void d(void) {{ log_[logged++] = 10 + {n}; }}"
        )
    };
    library(&dir, "liblog.so", "int log_[16], logged;", &[]);
    library(&dir, "libd.so", &source(4, ""), &["-l:liblog.so"]);
    library(
        &dir,
        "libb.so",
        &source(2, "extern int x; int *b_x = &x;"),
        &["-l:liblog.so", "-Wl,--no-as-needed", "-l:libd.so"],
    );
    library(&dir, "libc3.so", &source(3, "int x;"), &["-l:liblog.so", "-Wl,--no-as-needed", "-l:libb.so"]);
    let path = library(
        &dir,
        "liba.so",
        &source(1, ""),
        &["-l:liblog.so", "-Wl,--no-as-needed", "-l:libb.so", "-l:libc3.so"],
    );
    let mut world = load(&path, &[]).unwrap();
    let order = world.ns.global.clone();
    let sorted = init::sort(&world.ns, &order, false);
    let calls = init::constructors(&mut world.ns, &sorted, None);
    let none = init::Arguments { argc: 0, argv: std::ptr::null(), envp: std::ptr::null() };
    // SAFETY: constructors of the fixtures.
    unsafe { init::run(&calls, none) };
    let log = |world: &World, n: usize| {
        let at = world.address_in(world.id("liblog.so"), "log_") as *const i32;
        // SAFETY: an array of the fixture.
        (0..n).map(|i| unsafe { at.add(i).read() }).collect::<Vec<_>>()
    };
    assert_eq!(log(&world, 4), [4, 2, 3, 1]);
    assert!(init::constructors(&mut world.ns, &sorted, None).is_empty(), "each runs once");
    let sorted = init::sort(&world.ns, &order, true);
    let calls = init::destructors(&mut world.ns, &sorted);
    // SAFETY: destructors of the fixtures.
    unsafe { init::run(&calls, none) };
    assert_eq!(log(&world, 8)[4..], [11, 13, 12, 14]);
}

#[test]
fn large_alignment_and_bss() {
    let dir = folder("align");
    let source = "static char page[100000] = { [5] = 6 }; long big_bss[50000]; int ok(void) { long n = 0; for (int i = 0; i < 50000; i++) n |= big_bss[i]; return n == 0 && page[5] == 6 && page[99999] == 0; }";
    let path = library(&dir, "libalign.so", source, &["-Wl,-z,max-page-size=0x200000"]);
    let world = load(&path, &[]).unwrap();
    let elf = world.ns.elf(world.root).unwrap();
    assert_eq!(elf.elf.align, 0x200000);
    assert_eq!(elf.bias % 0x200000, 0);
    assert_eq!(world.call("ok"), 1);
}

#[test]
fn relro_is_read_only_after_relocation() {
    let dir = folder("relro");
    let source = "int x; int *const fixed[600] = { &x }; int ok(void) { return fixed[0] == &x; }";
    let path = library(&dir, "librelro.so", source, &["-Wl,-z,relro,-z,now"]);
    let world = load(&path, &[]).unwrap();
    assert_eq!(world.call("ok"), 1);
    let address = world.address("fixed");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|l| {
        let (range, _) = l.split_once(' ').unwrap();
        let (a, b) = range.split_once('-').unwrap();
        (usize::from_str_radix(a, 16).unwrap()..usize::from_str_radix(b, 16).unwrap()).contains(&address)
    });
    let line = line.expect("mapped");
    assert!(line.contains(" r--p ") && line.ends_with("librelro.so"), "{line}");
}
