//! Paths over several mounts, and attempts to get out of them.

use fs::host::{O_CREAT, O_PATH, O_TRUNC};
use fs::{Cred, Node, Opened, Tree, View, devfs, ramfs};
use platform::errno::Errno;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

/// A host directory that goes away with the test.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let path = std::env::temp_dir().join(format!("attacca-fs-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Temp(path)
    }
    fn dir(&self, path: &str) -> &Temp {
        std::fs::create_dir_all(self.0.join(path)).unwrap();
        self
    }
    fn file(&self, path: &str, text: &str) -> &Temp {
        std::fs::write(self.0.join(path), text).unwrap();
        self
    }
    fn link(&self, path: &str, target: &str) -> &Temp {
        symlink(target, self.0.join(path)).unwrap();
        self
    }
    fn bytes(&self) -> &[u8] {
        self.0.as_os_str().as_encoded_bytes()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn cred() -> Cred {
    // SAFETY: no memory is involved.
    let (uid, gid) = unsafe { (platform::host!(geteuid).unwrap(), platform::host!(getegid).unwrap()) };
    Cred { uid: uid as u32, gid: gid as u32, groups: [].into() }
}

fn view(temp: &Temp) -> View {
    View::new(Arc::new(Tree::host(temp.bytes(), false).unwrap()), cred(), 0o022)
}

fn read(view: &View, path: &str) -> Result<String, Errno> {
    let mut bytes = vec![0; 1000];
    let count = match view.open(&view.cwd, path.as_bytes(), 0, 0)? {
        Opened::Host { fd, .. } => fd.pread(0, &mut bytes)?,
        Opened::Inner { node, .. } => node.read_at(0, &mut bytes)?,
        _ => panic!("not a file"),
    };
    bytes.truncate(count);
    Ok(String::from_utf8(bytes).unwrap())
}

fn check(view: &View, path: &str, want: Result<&str, Errno>) {
    assert_eq!(read(view, path).as_deref(), want.as_ref().map(|text| &**text), "{path}");
}

#[test]
fn nothing_leads_out_of_the_root() {
    let temp = Temp::new("escape");
    temp.dir("root/d/e").file("secret", "outside").file("root/secret", "inside");
    temp.file("root/d/e/f", "deep");
    temp.link("root/up", "../secret").link("root/d/up", "../../../../secret");
    temp.link("root/absolute", temp.0.join("secret").to_str().unwrap());
    temp.link("root/host", "/etc/passwd").link("root/d/root", "/secret").link("root/d/loop", "loop");
    temp.link("root/d/here", ".").link("root/d/e/back", "../..");
    let root = Temp(temp.0.join("root"));
    let view = view(&root);
    std::mem::forget(root);
    for path in ["/secret", "secret", "../secret", "/../../secret", "up", "d/up", "d/root", "d/../../secret"]
    {
        check(&view, path, Ok("inside"));
    }
    check(&view, "d/e/back/secret", Ok("inside"));
    check(&view, "d/e/back/../secret", Ok("inside"));
    check(&view, "d/here/here/e/f", Ok("deep"));
    check(&view, "absolute", Err(Errno::ENOENT));
    check(&view, "host", Err(Errno::ENOENT));
    check(&view, "d/loop", Err(Errno::ELOOP));
    check(&view, "d/e/f/", Err(Errno::ENOTDIR));
    check(&view, "d/e/f/..", Err(Errno::ENOTDIR));
    check(&view, "d/e/f/../f", Err(Errno::ENOTDIR));
    check(&view, "nothing/../secret", Err(Errno::ENOENT));
    check(&view, "", Err(Errno::ENOENT));
    // Writing through links stays inside too.
    view.open(&view.cwd, b"host", O_CREAT | 1, 0o644).err().expect("no /etc inside");
    view.open(&view.cwd, b"d/up", O_TRUNC | 1, 0).unwrap();
    assert_eq!(std::fs::read_to_string(temp.0.join("secret")).unwrap(), "outside");
    check(&view, "secret", Ok(""));
    // The same below a working directory and a changed root.
    let mut jailed = view.clone();
    jailed.root = view.directory(&view.cwd, b"d").unwrap();
    jailed.cwd = jailed.directory(&view.cwd, b"d/e").unwrap();
    check(&jailed, "/../e/f", Ok("deep"));
    check(&jailed, "../../../e/f", Ok("deep"));
    check(&jailed, "../../secret", Err(Errno::ENOENT));
    assert_eq!(jailed.name_of(&jailed.cwd.path), Some(&b"/e"[..]));
    assert_eq!(jailed.name_of(b"/x"), None);
}

#[test]
fn a_directory_swapped_for_a_link_does_not_help() {
    let temp = Temp::new("race");
    temp.dir("root/a").file("root/a/f", "inside").dir("out").file("out/f", "outside");
    let root = temp.0.join("root");
    let view =
        View::new(Arc::new(Tree::host(root.as_os_str().as_encoded_bytes(), false).unwrap()), cred(), 0);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (root, stop, out) = (root.clone(), stop.clone(), temp.0.join("out"));
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(root.join("a"), root.join("b")).unwrap();
                symlink(&out, root.join("a")).unwrap();
                std::fs::remove_file(root.join("a")).unwrap();
                std::fs::rename(root.join("b"), root.join("a")).unwrap();
            }
        })
    };
    for _ in 0..3000 {
        if let Ok(text) = read(&view, "a/../a/f").or_else(|_| read(&view, "a/f")) {
            assert_eq!(text, "inside");
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
}

#[test]
fn links_lead_from_mount_to_mount() {
    let (temp, volume) = (Temp::new("mounts"), Temp::new("volume"));
    temp.dir("etc")
        .dir("var")
        .file("etc/name", "root")
        .link("var/run", "../run")
        .link("etc/out", "/data/in/x");
    temp.link("log", "/dev/null");
    volume.dir("in").file("in/x", "volume").link("in/home", "/etc/name").link("in/up", "../../etc/name");
    volume.link("in/tmp", "/run/t").link("dots", "..");
    let view = view(&temp);
    let tree = &view.tree;
    let data = Tree::host(volume.bytes(), false).unwrap().mounts()[0].root.clone();
    tree.mount(b"/data", data.clone(), "ext4", b"/dev/sda1", false);
    tree.mount(b"/ro", data, "ext4", b"/dev/sda1", true);
    let cred = cred();
    tree.mount(
        b"/run",
        Node::Inner(ramfs::new(9, 1 << 20, 0o777, cred.uid, cred.gid)),
        "tmpfs",
        b"tmpfs",
        false,
    );
    tree.mount(b"/dev", Node::Inner(devfs::new(8)), "devtmpfs", b"devtmpfs", false);
    tree.mount(b"/dev/shm", Node::Inner(ramfs::new(7, 1 << 20, 0o1777, 0, 0)), "tmpfs", b"tmpfs", false);
    tree.mount(
        b"/etc/hosts",
        Node::Inner(ramfs::file(6, 0o644, b"127.0.0.1 localhost\n")),
        "tmpfs",
        b"tmpfs",
        false,
    );

    check(&view, "/etc/out", Ok("volume"));
    check(&view, "/data/in/home", Ok("root"));
    check(&view, "/data/in/up", Ok("root"));
    check(&view, "/data/in/../../etc/name", Ok("root"));
    check(&view, "/data/dots/etc/name", Ok("root"));
    check(&view, "/etc/hosts", Ok("127.0.0.1 localhost\n"));
    check(&view, "/etc/../etc/hosts", Ok("127.0.0.1 localhost\n"));
    check(&view, "/data/in/tmp", Err(Errno::ENOENT));
    match view.open(&view.cwd, b"/var/run/t", O_CREAT | 1, 0o644).unwrap() {
        Opened::Inner { node, place } => {
            node.write_at(0, b"ram").unwrap();
            assert_eq!(&*place.path, b"/run/t");
        }
        _ => panic!("not in the tmpfs"),
    }
    check(&view, "/data/in/tmp", Ok("ram"));
    check(&view, "/log", Ok(""));
    check(&view, "/ro/in/x", Ok("volume"));
    let error = |flags, path: &[u8]| view.open(&view.cwd, path, flags, 0o644).err();
    assert_eq!(error(1, b"/ro/in/x"), Some(Errno::EROFS));
    assert_eq!(error(O_CREAT, b"/ro/in/x"), None, "it is there: nothing is written");
    assert_eq!(error(O_CREAT | 1, b"/ro/in/new"), Some(Errno::EROFS));
    assert_eq!(error(O_TRUNC, b"/ro/in/x"), Some(Errno::EROFS));
    assert_eq!(view.mkdir(&view.cwd, b"/ro/n", 0o755), Err(Errno::EROFS));
    assert_eq!(view.mkdir(&view.cwd, b"/ro/in", 0o755), Err(Errno::EEXIST));
    assert_eq!(view.remove(&view.cwd, b"/ro/in/x", false), Err(Errno::EROFS));
    assert_eq!(view.remove(&view.cwd, b"/ro/in/y", false), Err(Errno::ENOENT));
    let place = view.locate(&view.cwd, b"/ro/in/x", true).unwrap();
    assert_eq!(view.chmod(&place, 0o600), Err(Errno::EROFS));
    assert_eq!(view.access(&place, 2, true), Err(Errno::EROFS));

    assert_eq!(view.rename((&view.cwd, b"/etc/name"), (&view.cwd, b"/run/name"), 0), Err(Errno::EXDEV));
    assert_eq!(view.link((&view.cwd, b"/etc/name"), (&view.cwd, b"/data/name"), false), Err(Errno::EXDEV));
    assert_eq!(view.remove(&view.cwd, b"/data", true), Err(Errno::EBUSY));
    assert_eq!(view.rename((&view.cwd, b"/etc"), (&view.cwd, b"/etc2"), 0), Err(Errno::EBUSY));
    assert_eq!(view.mkdir(&view.cwd, b"/data", 0o755), Err(Errno::EEXIST));
    let mut names = tree.names_in(b"/");
    names.sort();
    assert_eq!(names, [&b"data"[..], b"dev", b"ro", b"run"]);
    assert_eq!(tree.names_in(b"/dev"), [b"shm"]);
    // The working directory is in one mount, the way leads through others.
    let mut inside = view.clone();
    inside.cwd = view.directory(&view.cwd, b"/run").unwrap();
    check(&inside, "../etc/name", Ok("root"));
    check(&inside, "../data/in/x", Ok("volume"));
    check(&inside, "t", Ok("ram"));
    let shm = inside.locate(&inside.cwd, b"../dev/shm", true).unwrap();
    assert_eq!((&*shm.path, shm.stat().unwrap().dev), (&b"/dev/shm"[..], 7));
    assert!(matches!(view.open(&view.cwd, b"/data/in", O_PATH, 0), Ok(Opened::Path(_))));
}

#[test]
fn devices_are_devices() {
    let view =
        View::new(Arc::new(Tree::new(Node::Inner(devfs::new(8)), "devtmpfs", b"dev", false)), cred(), 0);
    check(&view, "null", Ok(""));
    let open = |path: &[u8]| match view.open(&view.cwd, path, 2, 0).unwrap() {
        Opened::Inner { node, .. } => node,
        _ => panic!("not a device of ours"),
    };
    let mut bytes = [1u8; 8];
    assert_eq!(open(b"zero").read_at(5, &mut bytes), Ok(8));
    assert_eq!(bytes, [0; 8]);
    assert_eq!(open(b"urandom").read_at(0, &mut bytes), Ok(8));
    assert_ne!(bytes, [0; 8]);
    assert_eq!(open(b"full").write_at(0, &bytes), Err(Errno::ENOSPC));
    assert_eq!(open(b"null").stat().rdev, 0x103);
    assert_eq!(
        view.readlink(&view.locate(&view.cwd, b"stdout", false).unwrap()).unwrap(),
        b"/proc/self/fd/1"
    );
}
