//! The walk from a path to a file (path_resolution(7)), across mounts.
//!
//! Most paths need one host call: no symbolic link, no `..`, no mount on the way ([`View::leap`]). All
//! others are walked component by component. Only the walk follows links, and it does so in the
//! guest's tree: an absolute link starts again at the process's root, `..` goes up in canonical text
//! and stops at that root. Hence neither can leave a host directory that is mounted, and a link in
//! one mount leads into another as the program expects.

use crate::attr::{S_IFDIR, S_IFLNK};
use crate::host::{HostFd, O_DIRECTORY, O_NOFOLLOW, O_PATH};
use crate::mount::{Mount, Node, Place, join, parent};
use crate::view::View;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::errno::{Errno, Result};

/// Symbolic links that one walk follows before ELOOP (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// `NAME_MAX`
const NAME_MAX: usize = 255;
/// `PATH_MAX`, the NUL included.
const PATH_MAX: usize = 4096;

/// The last component of a path, not yet looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// A name in the walker's directory.
    Name(Vec<u8>),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// The path was `/`.
    Root,
}

/// A walk under way: a directory, and what of the path is left.
pub(crate) struct Walker<'a> {
    view: &'a View,
    /// The directory reached.
    pub(crate) dir: Place,
    rest: Vec<u8>,
    at: usize,
    links: u32,
    /// The path ended in a slash, so its last component must be a directory.
    pub(crate) must_be_dir: bool,
}

impl View {
    /// For a path without `..`: its canonical text if there are no links on it, and the host directory
    /// and remaining path that lead there in one step. `None` where a walk is needed.
    pub(crate) fn leap(&self, base: &Place, path: &[u8]) -> Option<Leap> {
        let start = if path.starts_with(b"/") { &self.root } else { base };
        let mut text = Vec::with_capacity(start.path.len() + 1 + path.len());
        text.extend_from_slice(&start.path);
        for name in path.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return None,
                name => {
                    if !text.ends_with(b"/") {
                        text.push(b'/');
                    }
                    text.extend_from_slice(name);
                }
            }
        }
        let (mount, rest) = self.tree.deepest(&text);
        let (node, from) = match Arc::ptr_eq(&mount, &start.mount) {
            true => (&start.node, start.path.len()),
            false => (&mount.root, text.len() - rest.len()),
        };
        let Node::Host(fd) = node else { return None };
        let fd = fd.clone();
        let from = from + usize::from(text.get(from) == Some(&b'/'));
        Some(Leap { fd, mount, path: text, from })
    }
}

/// One host call away: [`Leap::rest`] beneath `fd`.
pub(crate) struct Leap {
    pub(crate) fd: Arc<HostFd>,
    /// The mount of both.
    pub(crate) mount: Arc<Mount>,
    /// Canonical path of the goal.
    pub(crate) path: Vec<u8>,
    from: usize,
}

impl Leap {
    /// The way from `fd` to the goal; empty if it is `fd` itself.
    pub(crate) fn rest(&self) -> &[u8] {
        self.path.get(self.from..).unwrap_or(b"")
    }
}

impl<'a> Walker<'a> {
    /// Starts at `base`, or at the root for an absolute path.
    pub(crate) fn new(view: &'a View, base: &Place, path: &[u8]) -> Result<Walker<'a>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let dir = if path[0] == b'/' { view.root.clone() } else { base.clone() };
        Ok(Walker { view, dir, rest: path.to_vec(), at: 0, links: 0, must_be_dir: false })
    }

    /// Walks until one component is left.
    pub(crate) fn walk_to_last(&mut self) -> Result<Last> {
        self.skip_ahead()?;
        let mut only_slashes = self.at == 0;
        loop {
            while self.rest.get(self.at) == Some(&b'/') {
                self.at += 1;
            }
            let left = &self.rest[self.at..];
            if left.is_empty() {
                debug_assert!(only_slashes);
                return Ok(Last::Root);
            }
            only_slashes = false;
            let len = left.iter().position(|&byte| byte == b'/').unwrap_or(left.len());
            let name = left[..len].to_vec();
            let is_last = left[len..].iter().all(|&byte| byte == b'/');
            if name.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            self.at += len;
            if is_last {
                self.must_be_dir |= left.len() > len;
                return Ok(match &name[..] {
                    b"." => Last::Dot,
                    b".." => Last::DotDot,
                    _ => Last::Name(name),
                });
            }
            self.step(&name)?;
        }
    }

    /// The symbolic link that was found under the last name leads on: go to its target, then
    /// [`Walker::walk_to_last`] again.
    pub(crate) fn follow(&mut self, target: &[u8]) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut rest = target.to_vec();
        rest.extend_from_slice(&self.rest[self.at..]);
        if rest.len() >= 2 * PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if target[0] == b'/' {
            self.dir = self.view.root.clone();
        }
        (self.rest, self.at) = (rest, 0);
        Ok(())
    }

    /// The last component looked up, links followed if asked for. `dir` stays the directory of
    /// the final name.
    pub(crate) fn finish(&mut self, follow: bool) -> Result<Place> {
        loop {
            let last = self.walk_to_last()?;
            let Last::Name(name) = last else { return self.special(&last) };
            match self.child(&name, follow || self.must_be_dir)? {
                Child::Place(place) => {
                    if self.must_be_dir && !is_directory(&place)? {
                        return Err(Errno::ENOTDIR);
                    }
                    return Ok(place);
                }
                Child::Link(target) => self.follow(&target)?,
            }
        }
    }

    /// What `.`, `..` and `/` mean here.
    pub(crate) fn special(&self, last: &Last) -> Result<Place> {
        match last {
            Last::DotDot => self.up(),
            Last::Root => Ok(self.view.root.clone()),
            _ => Ok(self.dir.clone()),
        }
    }

    /// Looks a name up in the present directory. With `follow`, a link is answered as its text.
    pub(crate) fn child(&self, name: &[u8], follow: bool) -> Result<Child> {
        self.look_up(name, if follow { 0 } else { O_NOFOLLOW })
    }

    /// `flags`: O_NOFOLLOW, or O_DIRECTORY where nothing else will do (ENOTDIR from the host).
    fn look_up(&self, name: &[u8], flags: u32) -> Result<Child> {
        let follow = flags & O_NOFOLLOW == 0;
        let path = join(&self.dir.path, name);
        if let Some(mount) = self.view.tree.at(&path) {
            return Ok(Child::Place(mount.place()));
        }
        match &self.dir.node {
            Node::Host(fd) => {
                match fd.open_beneath(name, O_PATH | flags, 0) {
                    Ok(fd) => Ok(Child::Place(self.place(path, Node::Host(Arc::new(fd))))),
                    Err(Errno::ELOOP) => match fd.readlink(name) {
                        // It ceased to be a link meanwhile: the caller's next try sees what it is.
                        Err(Errno::EINVAL) => self.look_up(name, flags),
                        text => text.map(Child::Link),
                    },
                    Err(error) => Err(error),
                }
            }
            Node::Inner(dir) => {
                self.searchable(dir.stat())?;
                let node = dir.lookup(name)?;
                if follow && node.stat().is(S_IFLNK) {
                    if let Some(place) = node.follow() {
                        return place.map(Child::Place);
                    }
                    return node.readlink().map(Child::Link);
                }
                Ok(Child::Place(self.place(path, Node::Inner(node))))
            }
            Node::Object(_) => Err(Errno::ENOTDIR),
        }
    }

    /// Goes down into the directory `name`, following links.
    fn step(&mut self, name: &[u8]) -> Result<()> {
        match name {
            b"." => Ok(()),
            b".." => {
                self.dir = self.up()?;
                Ok(())
            }
            name => match self.look_up(name, O_DIRECTORY)? {
                Child::Link(target) => {
                    self.follow(&target)?;
                    self.skip_ahead()
                }
                // What the host opened beneath this directory is one; mounts may be files.
                Child::Place(place) => {
                    let asked = matches!((&self.dir.node, &place.node), (Node::Host(_), Node::Host(_)))
                        && Arc::ptr_eq(&place.mount, &self.dir.mount);
                    if !asked && !is_directory(&place)? {
                        return Err(Errno::ENOTDIR);
                    }
                    self.dir = place;
                    Ok(())
                }
            },
        }
    }

    /// The directory above; the root's is the root itself.
    fn up(&self) -> Result<Place> {
        if self.dir.path == self.view.root.path || &*self.dir.path == b"/" {
            return Ok(self.dir.clone());
        }
        self.canonical(parent(&self.dir.path))
    }

    /// The directory with this canonical path.
    fn canonical(&self, path: &[u8]) -> Result<Place> {
        let (mount, rest) = self.view.tree.deepest(path);
        let place = mount.place();
        if rest.is_empty() {
            return Ok(place);
        }
        let node = match &place.node {
            Node::Host(fd) => Node::Host(Arc::new(fd.open_beneath(rest, O_PATH | O_DIRECTORY, 0)?)),
            Node::Inner(root) => {
                let mut node = root.clone();
                for name in rest.split(|&byte| byte == b'/') {
                    node = node.lookup(name)?;
                }
                Node::Inner(node)
            }
            Node::Object(_) => return Err(Errno::ENOTDIR),
        };
        Ok(Place { mount, path: path.into(), node })
    }

    /// Takes all directories up to the last component in one host call if no link is among them.
    fn skip_ahead(&mut self) -> Result<()> {
        let left = &self.rest[self.at..];
        let Some(last) = left.iter().rposition(|&byte| byte != b'/') else { return Ok(()) };
        let Some(slash) = left[..last].iter().rposition(|&byte| byte == b'/') else { return Ok(()) };
        let directories = &left[..slash];
        if directories.iter().all(|&byte| byte == b'/') {
            return Ok(());
        }
        // What is left after a followed link is relative to `dir` (the root, if it was absolute).
        let relative = &directories[directories.iter().take_while(|&&byte| byte == b'/').count()..];
        let Some(leap) = self.view.leap(&self.dir, relative) else { return Ok(()) };
        if leap.rest().is_empty() {
            self.dir = Place { mount: leap.mount, path: leap.path.into(), node: Node::Host(leap.fd) };
        } else {
            match leap.fd.open_beneath(leap.rest(), O_PATH | O_DIRECTORY, 0) {
                Ok(fd) => {
                    let mount = leap.mount;
                    self.dir = Place { mount, path: leap.path.into(), node: Node::Host(Arc::new(fd)) };
                }
                Err(Errno::ELOOP) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.at += slash;
        Ok(())
    }

    fn searchable(&self, dir: crate::attr::Stat) -> Result<()> {
        if !dir.is(S_IFDIR) {
            Err(Errno::ENOTDIR)
        } else if self.view.cred.permits(&dir, 1) {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    fn place(&self, path: Vec<u8>, node: Node) -> Place {
        Place { mount: self.dir.mount.clone(), path: path.into(), node }
    }
}

/// What a name leads to.
pub(crate) enum Child {
    /// A file (or a link that shall not be followed).
    Place(Place),
    /// A symbolic link with this text.
    Link(Vec<u8>),
}

/// Whether a place is a directory. Host places cost a host call.
pub(crate) fn is_directory(place: &Place) -> Result<bool> {
    match &place.node {
        Node::Object(_) => Ok(false),
        _ => place.stat().map(|stat| stat.is(S_IFDIR)),
    }
}
