//! Loaded objects and the one namespace that holds them.

use crate::dynamic::Dynamic;
use crate::elf::Elf;
use crate::exports::{Exports, Library};
use crate::files::{Files, Identity};
use crate::image::Image;
use crate::map::Mapping;
use crate::stub::Stubs;
use crate::symbols::Symbols;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
use hashbrown::HashMap;

/// Names an object of the namespace; not reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ObjectId(pub usize);

/// The program, a library, or one of our own libraries.
pub struct Object {
    /// Path it was found at, as ld.so names it; the soname for ours.
    pub path: Vec<u8>,
    /// Names it was asked for by, and its soname.
    pub names: Vec<Vec<u8>>,
    /// The file behind it.
    pub identity: Option<Identity>,
    /// What `$ORIGIN` stands for in its paths.
    pub origin: Vec<u8>,
    /// Direct dependencies in the order of DT_NEEDED.
    pub needed: Vec<ObjectId>,
    /// Who asked for it first: where inherited RPATHs come from.
    pub loader: Option<ObjectId>,
    /// What it consists of.
    pub body: Body,
    /// How far its life has gone.
    pub life: Life,
}

/// ELF file or library of ours.
// One for each object, and objects are boxed: a box more would only cost a step in every lookup.
#[allow(clippy::large_enum_variant)]
pub enum Body {
    /// An ELF file.
    Elf(ElfObject),
    /// Rows of `libc-abi`.
    Builtin(&'static Library),
}

/// The parts of an object that come from its file.
pub struct ElfObject {
    /// Headers.
    pub elf: Elf,
    /// Dynamic section.
    pub dynamic: Dynamic,
    /// Its bytes.
    pub image: Image,
    /// Memory address minus the file's own address.
    pub bias: usize,
    /// Keeps the memory; unmaps it when the object goes.
    pub mapping: Mapping,
    /// Its thread-local storage.
    pub tls: Option<crate::tls::Module>,
}

/// State that changes after loading.
#[derive(Default)]
pub struct Life {
    /// dlopen calls not yet undone by dlclose.
    pub opens: usize,
    /// In the global scope.
    pub global: bool,
    /// Never unloaded.
    pub nodelete: bool,
    /// RTLD_DEEPBIND: own scopes before the global one.
    pub deep: bool,
    /// Functions were to be bound on load (RTLD_NOW or the program's start).
    pub now: bool,
    /// Relocated.
    pub relocated: bool,
    /// Constructors were started.
    pub initialised: bool,
    /// Destructors were started.
    pub finished: bool,
    /// For an object that was opened: it and all it needs, breadth first.
    pub search: Vec<ObjectId>,
    /// Opened objects whose search lists this one also looks into.
    pub scopes: Vec<ObjectId>,
    /// Objects that its relocations were bound to outside its dependencies: they must stay.
    pub bound_to: RefCell<Vec<ObjectId>>,
    /// Its entry in gdb's list.
    pub link: Option<Box<crate::debug::LinkMap>>,
}

/// All objects, and the scopes that names are looked up in.
pub struct Namespace {
    /// By id; `None` where one was unloaded.
    objects: Vec<Option<Box<Object>>>,
    /// The global scope: program, preloaded, their dependencies breadth first, RTLD_GLOBAL ones.
    pub global: Vec<ObjectId>,
    /// Our libc's rows.
    pub exports: Exports,
    /// STB_GNU_UNIQUE symbols by name: the first definition serves all.
    pub unique: RefCell<HashMap<Vec<u8>, (ObjectId, u32)>>,
    /// Functions bound when first called.
    pub stubs: RefCell<Stubs>,
    /// Old snapshots of [`crate::find`].
    pub retired: crate::find::Retired,
    /// Names of our functions as C strings, for dladdr.
    pub c_names: HashMap<&'static str, Box<[u8]>>,
    /// How the program was loaded: dlopen goes on in the same way.
    pub options: crate::closure::Options,
    /// The C library's part in loading.
    pub libc: &'static dyn crate::libc::CLibrary,
    /// The static TLS block.
    pub tls: crate::tls::Layout,
    /// The world that files come from.
    pub files: &'static dyn Files,
    /// The program.
    pub program: Option<ObjectId>,
    /// How many objects were ever added and removed: dl_iterate_phdr tells both.
    pub added: u64,
    /// See `added`.
    pub removed: u64,
}

// SAFETY: the raw pointers inside (images, gdb's list) refer to memory that all threads of the
// process share; the namespace is only used by one thread at a time, under the loader's lock.
unsafe impl Send for Namespace {}

impl Namespace {
    /// An empty namespace over the given files and rows.
    pub fn new(
        files: &'static dyn Files,
        libc: &'static dyn crate::libc::CLibrary,
        tables: &[&'static [libc_abi::Export]],
    ) -> Self {
        Self {
            libc,
            objects: Vec::new(),
            global: Vec::new(),
            exports: Exports::new(tables),
            unique: RefCell::new(HashMap::new()),
            stubs: RefCell::default(),
            retired: crate::find::Retired::default(),
            c_names: HashMap::new(),
            options: crate::closure::Options::default(),
            tls: crate::tls::Layout::default(),
            files,
            program: None,
            added: 0,
            removed: 0,
        }
    }

    /// Adds an object.
    pub fn add(&mut self, object: Object) -> ObjectId {
        self.added += 1;
        self.objects.push(Some(Box::new(object)));
        ObjectId(self.objects.len() - 1)
    }

    /// Takes an object out.
    pub fn remove(&mut self, id: ObjectId) -> Option<Box<Object>> {
        self.removed += 1;
        self.objects.get_mut(id.0)?.take()
    }

    /// The object, if it is still there.
    pub fn get(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(id.0)?.as_deref()
    }

    /// As [`Self::get`], to change it.
    pub fn get_mut(&mut self, id: ObjectId) -> Option<&mut Object> {
        self.objects.get_mut(id.0)?.as_deref_mut()
    }

    /// The ELF part of an object; `None` for ours.
    pub fn elf(&self, id: ObjectId) -> Option<&ElfObject> {
        self.get(id)?.elf()
    }

    /// Ids of all objects, in the order they were loaded.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ObjectId> + '_ {
        self.objects.iter().enumerate().filter(|(_, o)| o.is_some()).map(|(i, _)| ObjectId(i))
    }

    /// The object that answers to a name.
    pub fn by_name(&self, name: &[u8]) -> Option<ObjectId> {
        self.ids().find(|&id| self.get(id).is_some_and(|o| o.names.iter().any(|n| n == name)))
    }

    /// The object that comes from a file.
    pub fn by_identity(&self, identity: Identity) -> Option<ObjectId> {
        self.ids().find(|&id| self.get(id).is_some_and(|o| o.identity == Some(identity)))
    }

    /// The object whose memory holds an address.
    pub fn by_address(&self, address: usize) -> Option<ObjectId> {
        self.ids().find(|&id| self.elf(id).is_some_and(|o| o.loaded(address)))
    }

    /// `root` and everything it needs, breadth first, each once.
    pub fn breadth_first(&self, roots: &[ObjectId]) -> Vec<ObjectId> {
        let mut list: Vec<ObjectId> = Vec::new();
        let mut seen = alloc::vec![false; self.objects.len()];
        let mut add = |list: &mut Vec<ObjectId>, id: ObjectId| {
            if !core::mem::replace(&mut seen[id.0], true) {
                list.push(id);
            }
        };
        roots.iter().for_each(|&id| add(&mut list, id));
        let mut at = 0;
        while at < list.len() {
            let needed = self.get(list[at]).map_or(&[][..], |o| &o.needed);
            needed.iter().for_each(|&id| add(&mut list, id));
            at += 1;
        }
        list
    }
}

impl Object {
    /// The ELF part; `None` for ours.
    pub fn elf(&self) -> Option<&ElfObject> {
        match &self.body {
            Body::Elf(elf) => Some(elf),
            Body::Builtin(_) => None,
        }
    }

    /// The ELF part, to change it.
    pub fn elf_mut(&mut self) -> Option<&mut ElfObject> {
        match &mut self.body {
            Body::Elf(elf) => Some(elf),
            Body::Builtin(_) => None,
        }
    }
}

impl ElfObject {
    /// Its symbols.
    pub fn symbols(&self) -> Symbols<'_> {
        Symbols::new(&self.image, &self.dynamic)
    }

    /// Whether an address of the process lies in one of its segments.
    pub fn loaded(&self, address: usize) -> bool {
        self.elf.loaded(address.wrapping_sub(self.bias), 1).is_some()
    }
}
