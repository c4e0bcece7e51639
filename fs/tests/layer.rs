//! A tmpfs over a host folder: everything is seen, everything can be changed, the folder stays as it is.

use fs::host::{HostFd, O_CREAT, O_DIRECTORY, O_PATH, O_RDWR, O_TRUNC, O_WRONLY};
use fs::{Cred, Node, Opened, Tree, View, ramfs};
use platform::Errno;
use std::collections::BTreeMap;
use std::fs as host;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("attacca-layer-{name}-{}", std::process::id()));
        let _ = host::remove_dir_all(&path);
        host::create_dir_all(path.join("etc/deep/er")).unwrap();
        host::write(path.join("etc/motd"), "below\n").unwrap();
        host::write(path.join("etc/deep/er/file"), vec![7; 200_000]).unwrap();
        std::os::unix::fs::symlink("motd", path.join("etc/link")).unwrap();
        host::create_dir(path.join("empty")).unwrap();
        Folder(path)
    }

    fn view(&self) -> View {
        let bytes = self.0.as_os_str().as_encoded_bytes();
        let folder = HostFd::open_host(bytes, O_PATH | O_DIRECTORY, 0).unwrap();
        let root = Node::Inner(ramfs::over(0x41, folder).unwrap());
        let tree = Arc::new(Tree::new(root, "overlay", b"overlay", false));
        View::new(tree, Cred { uid: 0, gid: 0, groups: [].into() }, 0)
    }

    /// Every path below with its mode, size, and bytes.
    fn all(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut all = BTreeMap::new();
        collect(&self.0, &mut all);
        all
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = host::remove_dir_all(&self.0);
    }
}

fn collect(at: &Path, all: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    use std::os::unix::fs::MetadataExt;
    for entry in host::read_dir(at).unwrap().map(Result::unwrap) {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        let bytes = if meta.is_file() { host::read(&path).unwrap() } else { Vec::new() };
        all.insert(path.clone(), (meta.mode(), bytes));
        if meta.is_dir() {
            collect(&path, all);
        }
    }
}

fn read(view: &View, path: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; 1 << 20];
    let len = match view.open(&view.cwd, path, 0, 0)? {
        Opened::Host { fd, .. } => fd.pread(0, &mut bytes)?,
        Opened::Inner { node, .. } => node.read_at(0, &mut bytes)?,
        _ => return Err(Errno::EINVAL),
    };
    bytes.truncate(len);
    Ok(bytes)
}

fn write(view: &View, path: &[u8], flags: u32, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    match view.open(&view.cwd, path, flags, 0o644)? {
        Opened::Inner { node, .. } => node.write_at(at, bytes).map(drop),
        _ => panic!("a file of the folder was opened for writing"),
    }
}

fn names(view: &View, path: &[u8]) -> Vec<String> {
    let place = view.locate(&view.cwd, path, true).unwrap();
    let Node::Inner(node) = &place.node else { panic!("not of the layer") };
    let mut names: Vec<_> =
        node.list().unwrap().into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_below_is_seen() {
    let folder = Folder::new("seen");
    let view = folder.view();
    assert_eq!(read(&view, b"/etc/motd").unwrap(), b"below\n");
    assert_eq!(read(&view, b"/etc/link").unwrap(), b"below\n");
    assert_eq!(read(&view, b"/etc/deep/er/file").unwrap(), vec![7; 200_000]);
    assert_eq!(read(&view, b"/etc/none"), Err(Errno::ENOENT));
    assert_eq!(names(&view, b"/etc"), ["deep", "link", "motd"]);
    let stat = view.locate(&view.cwd, b"/etc/motd", true).unwrap().stat().unwrap();
    use std::os::unix::fs::MetadataExt;
    let below = host::metadata(folder.0.join("etc/motd")).unwrap();
    assert_eq!((stat.ino, stat.mode, stat.size), (below.ino(), below.mode(), 6));
}

#[test]
fn every_change_leaves_the_folder_alone() {
    let folder = Folder::new("alone");
    let before = folder.all();
    let view = folder.view();
    let at = &view.cwd;
    write(&view, b"/etc/motd", O_WRONLY, 0, b"BE").unwrap();
    assert_eq!(read(&view, b"/etc/motd").unwrap(), b"BElow\n");
    write(&view, b"/etc/deep/er/file", O_RDWR, 199_999, b"xyz").unwrap();
    let mut expected = vec![7; 199_999];
    expected.extend(b"xyz");
    assert_eq!(read(&view, b"/etc/deep/er/file").unwrap(), expected);
    write(&view, b"/etc/new", O_CREAT | O_WRONLY, 0, b"new").unwrap();
    assert_eq!(names(&view, b"/etc"), ["deep", "link", "motd", "new"]);

    // Removed names stay away, also when they come and go again.
    view.remove(at, b"/etc/link", false).unwrap();
    assert_eq!(read(&view, b"/etc/link"), Err(Errno::ENOENT));
    write(&view, b"/etc/link", O_CREAT | O_WRONLY, 0, b"a file").unwrap();
    view.remove(at, b"/etc/link", false).unwrap();
    assert_eq!(names(&view, b"/etc"), ["deep", "motd", "new"]);

    // A directory with entries below is not empty; moved, it takes them along.
    assert_eq!(view.remove(at, b"/etc/deep", true), Err(Errno::ENOTEMPTY));
    view.rename((at, b"/etc/deep"), (at, b"/moved"), 0).unwrap();
    assert_eq!(read(&view, b"/moved/er/file").unwrap(), expected);
    assert_eq!(names(&view, b"/"), ["empty", "etc", "moved"]);
    view.remove(at, b"/empty", true).unwrap();
    view.mkdir(at, b"/empty", 0o700).unwrap();
    assert_eq!(names(&view, b"/empty"), [""; 0]);

    // An unchanged file moved over a changed one.
    write(&view, b"/etc/other", O_CREAT | O_WRONLY | O_TRUNC, 0, b"other").unwrap();
    view.rename((at, b"/moved/er/file"), (at, b"/etc/other"), 0).unwrap();
    assert_eq!(read(&view, b"/etc/other").unwrap(), expected);
    assert_eq!(names(&view, b"/moved/er"), [""; 0]);

    let place = view.locate(at, b"/etc/motd", true).unwrap();
    view.chmod(&place, 0o600).unwrap();
    let Node::Inner(node) = &place.node else { panic!("not of the layer") };
    node.truncate(1).unwrap();
    assert_eq!(read(&view, b"/etc/motd").unwrap(), b"B");
    assert_eq!(folder.all(), before);
}

#[test]
fn an_unchanged_file_cannot_be_changed_by_its_descriptor() {
    let folder = Folder::new("descriptor");
    let view = folder.view();
    let Opened::Host { mount, .. } = view.open(&view.cwd, b"/etc/motd", 0, 0).unwrap() else {
        panic!("copied although nobody writes");
    };
    assert!(mount.read_only);
}

#[test]
fn two_layers_do_not_see_each_other() {
    let folder = Folder::new("two");
    let (one, other) = (folder.view(), folder.view());
    write(&one, b"/etc/motd", O_WRONLY | O_TRUNC, 0, b"mine").unwrap();
    assert_eq!(read(&one, b"/etc/motd").unwrap(), b"mine");
    assert_eq!(read(&other, b"/etc/motd").unwrap(), b"below\n");
}

#[test]
fn many_at_once_look_up_and_remove() {
    let folder = Folder::new("many");
    for number in 0..200 {
        host::write(folder.0.join(format!("empty/{number}")), number.to_string()).unwrap();
    }
    let before = folder.all();
    let view = Arc::new(folder.view());
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let view = view.clone();
            std::thread::spawn(move || {
                let removed = (0..200).filter(|number| {
                    let path = format!("/empty/{number}");
                    let _ = read(&view, path.as_bytes());
                    view.remove(&view.cwd, path.as_bytes(), false).is_ok()
                });
                removed.count()
            })
        })
        .collect();
    let removed: usize = workers.into_iter().map(|w| w.join().unwrap()).sum();
    assert_eq!((removed, names(&view, b"/empty").len()), (200, 0));
    assert_eq!(folder.all(), before);
}
