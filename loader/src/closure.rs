//! A program and everything it needs, found and brought in: mapped to run, or viewed to be checked.

use crate::dynamic::{self, DF_1_NODELETE, DF_1_PIE};
use crate::elf::{self, Elf};
use crate::error::{Fault, LoadError};
use crate::exports::{self, Library};
use crate::files::{self, File, open_error};
use crate::image::Image;
use crate::map::{self, Mapping};
use crate::object::{Body, ElfObject, Life, Namespace, Object, ObjectId};
use crate::search::{Found, Search};
use crate::tls::Module;
use alloc::vec::Vec;

/// How objects are brought in and bound.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// LD_LIBRARY_PATH.
    pub library_path: Vec<u8>,
    /// LD_PRELOAD and what the caller adds.
    pub preload: Vec<Vec<u8>>,
    /// Missing functions become stubs that stop the program by name when called.
    pub lazy: bool,
    /// Files are only viewed: nothing can run.
    pub view: bool,
    /// Where a position-independent program would like to be; 0 for anywhere.
    pub base_hint: usize,
}

/// Brings objects into a namespace.
pub struct Closure<'n> {
    /// The namespace.
    pub ns: &'n mut Namespace,
    options: &'n Options,
    search: Search,
}

impl<'n> Closure<'n> {
    /// Brings objects into `ns`.
    pub fn new(ns: &'n mut Namespace, options: &'n Options) -> Self {
        Self { ns, options, search: Search::default() }
    }

    /// The program with all it needs; sets the global scope. A program without an interpreter
    /// (static, static-PIE) is mapped alone.
    pub fn program(&mut self, path: &[u8]) -> Result<ObjectId, LoadError> {
        let file = File::open(self.ns.files, path).map_err(open_error(path))?;
        let elf = parse(path, &file)?;
        let dynamic = elf.interp.is_some();
        let id = self.add(Found { path: files::absolute(self.ns.files, path), file, elf }, None, None)?;
        self.ns.program = Some(id);
        if !dynamic {
            return Ok(id);
        }
        let mut roots = alloc::vec![id];
        for name in &self.options.preload {
            match self.library(name, None) {
                Ok(id) => roots.push(id),
                // ld.so: "object ... from LD_PRELOAD cannot be preloaded: ignored" for absent ones;
                // here the caller asked for something that does not exist, and is told.
                Err(error) => return Err(error),
            }
        }
        self.dependencies(&roots)?;
        self.ns.global = self.ns.breadth_first(&roots);
        for id in self.ns.global.clone() {
            if let Some(object) = self.ns.get_mut(id) {
                object.life.global = true;
                // What the program started with stays as long as it does.
                object.life.nodelete = true;
            }
        }
        self.check_versions()?;
        Ok(id)
    }

    /// The interpreter of a program that is not glibc's: mapped alone, as the kernel would.
    pub fn foreign_interpreter(&mut self, path: &[u8]) -> Result<ObjectId, LoadError> {
        let file = File::open(self.ns.files, path).map_err(open_error(path))?;
        let elf = parse(path, &file)?;
        self.add(Found { path: path.to_vec(), file, elf }, None, None)
    }

    /// A library by name, with nothing of what it needs yet; one that is there already answers.
    pub fn library(&mut self, name: &[u8], by: Option<ObjectId>) -> Result<ObjectId, LoadError> {
        if let Some(id) = self.ns.by_name(name) {
            return Ok(id);
        }
        if let Some(library) = exports::library(name) {
            return Ok(self.builtin(library));
        }
        let found = self.search.find(self.ns, self.options, name, by)?;
        if let Some(id) = self.ns.by_identity(found.file.identity) {
            self.ns.get_mut(id).expect("just found").names.push(name.to_vec());
            return Ok(id);
        }
        if found.elf.fixed {
            return Err(LoadError::File(found.path, Fault::NotALibrary));
        }
        self.add(found, by, Some(name))
    }

    /// Brings in what the roots need, and what that needs, breadth first.
    pub fn dependencies(&mut self, roots: &[ObjectId]) -> Result<(), LoadError> {
        let mut queue = self.ns.breadth_first(roots);
        let mut at = 0;
        while at < queue.len() {
            let id = queue[at];
            at += 1;
            let Some(object) = self.ns.get(id) else { continue };
            // Already complete, or one of ours.
            let Some(elf) = object.elf().filter(|_| object.needed.is_empty()) else { continue };
            for name in elf.dynamic.needed.clone() {
                let name = crate::search::expand(&name, &self.ns.get(id).expect("in the queue").origin);
                let needed = self.library(&name, Some(id))?;
                self.ns.get_mut(id).expect("in the queue").needed.push(needed);
                if !queue.contains(&needed) {
                    queue.push(needed);
                }
            }
        }
        Ok(())
    }

    /// Every version node that an object wants of a library must exist there (ld.so checks this
    /// before binding anything).
    pub fn check_versions(&self) -> Result<(), LoadError> {
        for id in self.ns.ids() {
            let object = self.ns.get(id).expect("listed");
            let Some(elf) = object.elf().filter(|_| !object.life.relocated) else { continue };
            for version in &elf.dynamic.versions {
                let Some(library) = &version.library else { continue };
                if !version.weak && !self.has_version(id, library, &version.name) {
                    return Err(LoadError::VersionNotFound(
                        version.name.clone(),
                        library.clone(),
                        object.path.clone(),
                    ));
                }
            }
        }
        Ok(())
    }

    fn has_version(&self, by: ObjectId, library: &[u8], version: &[u8]) -> bool {
        let needed = self.ns.get(by).map_or(&[][..], |o| &o.needed);
        let named = |id: &&ObjectId| self.ns.get(**id).is_some_and(|o| o.names.iter().any(|n| n == library));
        let id = needed.iter().find(named).copied().or_else(|| self.ns.by_name(library));
        match id.and_then(|id| self.ns.get(id)).map(|o| &o.body) {
            Some(Body::Builtin(ours)) => ours.has_version(version),
            Some(Body::Elf(elf)) => {
                let mut defined =
                    elf.dynamic.versions.iter().filter(|v| v.library.is_none() && v.hash != 0).peekable();
                // A library without versions serves any (ld.so only warns).
                defined.peek().is_none() || defined.any(|v| v.name == version)
            }
            // Not loaded under that name (a merged library): the symbol decides.
            None => true,
        }
    }

    fn builtin(&mut self, library: &'static Library) -> ObjectId {
        let name = library.soname.as_bytes().to_vec();
        if let Some(id) = self.ns.by_name(&name) {
            return id;
        }
        let needed = library.needed.iter().filter_map(|n| exports::library(n.as_bytes())).collect::<Vec<_>>();
        let needed = needed.into_iter().map(|l| self.builtin(l)).collect();
        self.ns.add(Object {
            path: name.clone(),
            names: alloc::vec![name],
            identity: None,
            origin: Vec::new(),
            needed,
            loader: None,
            body: Body::Builtin(library),
            life: Life { relocated: true, initialised: true, nodelete: true, ..Life::default() },
        })
    }

    fn add(
        &mut self,
        found: Found<'_>,
        by: Option<ObjectId>,
        name: Option<&[u8]>,
    ) -> Result<ObjectId, LoadError> {
        let Found { path, file, elf } = found;
        let (mapping, image, bias) = self.bring_in(&path, &file, &elf, by.is_none() && name.is_none())?;
        let dynamic = dynamic::parse(&elf, &image).map_err(|fault| LoadError::File(path.clone(), fault))?;
        // glibc: "cannot dynamically load position-independent executable".
        if name.is_some() && dynamic.flags_1 & DF_1_PIE != 0 {
            return Err(LoadError::File(path, Fault::NotALibrary));
        }
        let mut names = Vec::new();
        names.extend(name.map(<[u8]>::to_vec));
        names.extend(dynamic.soname.clone().filter(|s| Some(&s[..]) != name));
        names.push(path.clone());
        let program = name.is_none();
        let at = if program {
            files::canonical(self.ns.files, &path)
        } else {
            files::absolute(self.ns.files, &path)
        };
        let life = Life { nodelete: dynamic.flags_1 & DF_1_NODELETE != 0, ..Life::default() };
        let tls = elf.tls.map(|segment| Module { segment, id: 0, offset: None });
        Ok(self.ns.add(Object {
            origin: files::directory(&at).to_vec(),
            path,
            names,
            identity: Some(file.identity),
            needed: Vec::new(),
            loader: by,
            body: Body::Elf(ElfObject { elf, dynamic, image, bias, mapping, tls }),
            life,
        }))
    }

    fn bring_in(
        &self,
        path: &[u8],
        file: &File<'_>,
        elf: &Elf,
        program: bool,
    ) -> Result<(Mapping, Image, usize), LoadError> {
        if self.options.view {
            let mapping = map::view(self.ns.files, path, file)?;
            // SAFETY: the whole file is mapped, and the mapping is kept with the image.
            let image = unsafe { Image::viewed(mapping.start) };
            return Ok((mapping, image, 0));
        }
        let hint = if program { self.options.base_hint } else { 0 };
        let (mapping, bias) = map::load(self.ns.files, path, file, elf, hint)?;
        // SAFETY: all segments are mapped, and the mapping is kept with the image.
        let image = unsafe { Image::loaded(bias) };
        Ok((mapping, image, bias))
    }
}

/// Headers of an open file, with errors that name it.
pub fn parse(path: &[u8], file: &File<'_>) -> Result<Elf, LoadError> {
    elf::parse(file.size, &mut |at, buffer| file.read_at(at, buffer)).map_err(|error| match error {
        elf::ParseError::Fault(fault) => LoadError::File(path.to_vec(), fault),
        elf::ParseError::Read(errno) => LoadError::Open(path.to_vec(), errno),
    })
}

/// Splits LD_PRELOAD: names between spaces and colons.
pub fn preload_list(value: &[u8]) -> Vec<Vec<u8>> {
    value.split(|b| matches!(b, b' ' | b':')).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect()
}
