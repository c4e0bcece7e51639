//! Fixtures built with gcc, and a world to load them into the test process: host files, a table of
//! exports made here, no C library.

#![allow(dead_code, unreachable_pub, missing_docs)]

use loader::closure::{Closure, Options};
use loader::files::HostFiles;
use loader::init;
use loader::libc::CLibrary;
use loader::object::{Namespace, Object, ObjectId};
use loader::symbols::{Class, Name, Want};
use loader::tls::Module;
use loader::{LoadError, dlopen, interpose};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

pub static FILES: HostFiles = HostFiles { root: None };
pub static LIBC: TestLibc = TestLibc { modules: Mutex::new(Vec::new()) };

/// TLS modules with one block each: enough for one thread.
pub struct TestLibc {
    modules: Mutex<Vec<Option<(Module, usize)>>>,
}

impl TestLibc {
    pub fn live(&self) -> usize {
        self.modules.lock().unwrap().iter().flatten().count()
    }
}

impl CLibrary for TestLibc {
    fn add_module(&self, module: &Module, image: *const u8) -> usize {
        let mut modules = self.modules.lock().unwrap();
        let at = modules.iter().position(Option::is_none).unwrap_or(modules.len());
        if at == modules.len() {
            modules.push(None);
        }
        modules[at] = Some((*module, image as usize));
        at + 1
    }
    fn remove_module(&self, id: usize) {
        self.modules.lock().unwrap()[id - 1] = None;
    }
    /// A fresh block each time: only for tests that ask once.
    fn tls_address(&self, module: usize, offset: usize) -> usize {
        let (module, image) = self.modules.lock().unwrap()[module - 1].expect("a live module");
        let block = Box::leak(vec![0u8; module.segment.memsz].into_boxed_slice());
        // SAFETY: the image of a loaded object.
        let image = unsafe { std::slice::from_raw_parts(image as *const u8, module.segment.filesz) };
        block[..image.len()].copy_from_slice(image);
        block.as_ptr() as usize + offset
    }
    fn program_name(&self) -> *const core::ffi::c_char {
        c"test".as_ptr()
    }
}

/// A folder of this test's own, emptied.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Compiles C source in `folder` to `name`; `flags` as for gcc.
pub fn build(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let out = folder.join(name);
    assert!(try_build(folder, name, source, flags), "gcc failed for {name}");
    out
}

pub fn try_build(folder: &Path, name: &str, source: &str, flags: &[&str]) -> bool {
    let file = folder.join(format!("{name}.c"));
    std::fs::write(&file, source).unwrap();
    let status = Command::new("gcc")
        .current_dir(folder)
        .args(["-O1", "-nostdlib", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-w"])
        .arg(&file)
        .args(flags)
        .args(["-o", name])
        .status()
        .expect("gcc is installed");
    status.success()
}

/// A shared library.
pub fn library(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let soname = format!("-Wl,-soname,{name}");
    let mut all = vec!["-shared", "-fPIC", &soname, "-L.", "-Wl,-rpath,$ORIGIN"];
    all.extend(flags);
    build(folder, name, source, &all)
}

/// Objects loaded into this process.
pub struct World {
    pub ns: Namespace,
    pub root: ObjectId,
}

pub fn options() -> Options {
    Options::default()
}

/// Maps and relocates a program or library with all it needs, as `start` does.
pub fn load(path: &Path, tables: &[&'static [libc_abi::Export]]) -> Result<World, LoadError> {
    load_with(path, tables, options())
}

pub fn load_with(
    path: &Path,
    tables: &[&'static [libc_abi::Export]],
    options: Options,
) -> Result<World, LoadError> {
    let mut ns = Namespace::new(&FILES, &LIBC, tables);
    ns.options = options.clone();
    let bytes = path.as_os_str().as_encoded_bytes();
    let mut closure = Closure::new(&mut ns, &options);
    let root = closure.program(bytes)?;
    if ns.global.is_empty() {
        // A library as root: it has no interpreter.
        let mut closure = Closure::new(&mut ns, &options);
        closure.dependencies(&[root])?;
        closure.check_versions()?;
        ns.global = ns.breadth_first(&[root]);
    }
    interpose::copy_our_data(&ns, root)?;
    let order = ns.global.clone();
    let mut layout = std::mem::take(&mut ns.tls);
    for &id in &order {
        if let Some(module) = ns.get_mut(id).and_then(Object::elf_mut).and_then(|e| e.tls.as_mut()) {
            layout.place(module);
            let number = LIBC.add_module(module, std::ptr::null());
            module.id = number;
        }
    }
    layout.seal();
    ns.tls = layout;
    let sorted = init::sort(&ns, &order, false);
    dlopen::relocate_all(&mut ns, sorted.iter().rev().copied(), options.lazy)?;
    Ok(World { ns, root })
}

impl World {
    pub fn id(&self, soname: &str) -> ObjectId {
        self.ns.by_name(soname.as_bytes()).unwrap_or_else(|| panic!("{soname} is not loaded"))
    }

    /// Address of a symbol as dlsym(object) has it.
    pub fn address_in(&self, id: ObjectId, name: &str) -> usize {
        let want =
            Want { name: Name::new(name.as_bytes()), version: None, class: Class::Address, newest: true };
        let found = self.ns.find_in(id, &want).unwrap_or_else(|| panic!("{name} is not defined"));
        // SAFETY: everything is relocated.
        unsafe { self.ns.address(&found) }
    }

    pub fn address(&self, name: &str) -> usize {
        self.address_in(self.root, name)
    }

    /// Calls `int name(void)` of the root object.
    pub fn call(&self, name: &str) -> i32 {
        self.call_in(self.root, name)
    }

    pub fn call_in(&self, id: ObjectId, name: &str) -> i32 {
        // SAFETY: a function of a fixture.
        let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(self.address_in(id, name)) };
        function()
    }

    pub fn read(&self, name: &str) -> i64 {
        // SAFETY: a variable of a fixture.
        unsafe { (self.address(name) as *const i64).read() }
    }
}

/// A row of a test table.
pub const fn row(
    library: &'static str,
    name: &'static str,
    version: &'static str,
    default: bool,
    address: *const (),
) -> libc_abi::Export {
    libc_abi::Export {
        library,
        name,
        version,
        default,
        kind: libc_abi::Kind::Func,
        address: libc_abi::abi::Address(address),
        cell: None,
    }
}
