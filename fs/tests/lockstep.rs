//! ramfs beside the host's tmpfs: the same random operations, the same answers.

use fs::host::{O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_TRUNC};
use fs::vnode::{New, NewTime};
use fs::{Cred, Node, Opened, Tree, View, ramfs};
use platform::errno::{Errno, Result};
use std::sync::Arc;

const NAMES: [&str; 7] = ["a", "b", "c", "a/b", "b/a", "c/a", "a/c"];
const ODD: [&str; 12] =
    ["a/", "b/.", "a/..", "./c", "c/../b", "", "/", "a/b/c", "..", "a//b", "b/../../c", "."];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 5
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
    fn path(&mut self) -> &'static [u8] {
        let path = if self.next().is_multiple_of(6) { self.pick(&ODD) } else { self.pick(&NAMES) };
        path.as_bytes()
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Open(u32, u32),
    Write(u64, usize),
    Truncate(u64),
    Mkdir,
    Remove(bool),
    Rename(u32),
    Link(bool),
    Symlink,
    Stat(bool),
    Readlink,
    Chmod(u32),
    Access(u32),
    Chdir,
    List,
}

/// What an operation answers, in words: so that both sides can be compared.
fn apply(view: &mut View, op: Op, one: &[u8], two: &[u8]) -> Result<String> {
    let cwd = view.cwd.clone();
    let done = |result: Result<()>| result.map(|()| String::new());
    match op {
        Op::Open(flags, mode) => view.open(&cwd, one, flags, mode).map(|_| String::new()),
        Op::Write(at, len) => {
            let bytes = vec![7u8; len];
            match view.open(&cwd, one, 1, 0)? {
                Opened::Host { fd, .. } => fd.pwrite(at, &bytes).map(|n| n.to_string()),
                Opened::Inner { node, .. } => node.write_at(at, &bytes).map(|n| n.to_string()),
                _ => unreachable!(),
            }
        }
        Op::Truncate(size) => match view.open(&cwd, one, 1, 0)? {
            Opened::Host { fd, .. } => {
                // SAFETY: plain numbers.
                unsafe { platform::host!(ftruncate, fd.raw(), size) }.map(|_| String::new())
            }
            Opened::Inner { node, .. } => done(node.truncate(size)),
            _ => unreachable!(),
        },
        Op::Mkdir => done(view.mkdir(&cwd, one, 0o777)),
        Op::Remove(directory) => done(view.remove(&cwd, one, directory)),
        Op::Rename(flags) => done(view.rename((&cwd, one), (&cwd, two), flags)),
        Op::Link(follow) => done(view.link((&cwd, one), (&cwd, two), follow)),
        Op::Symlink => done(view.symlink(&cwd, one, two)),
        Op::Stat(follow) => {
            let place = view.locate(&cwd, one, follow)?;
            let stat = place.stat()?;
            let size = if stat.is(0o040000) { 0 } else { stat.size };
            Ok(format!("{:o} {} {size} {:?}", stat.mode, stat.nlink, String::from_utf8_lossy(&place.path)))
        }
        Op::Readlink => {
            let text = view.readlink(&view.locate(&cwd, one, false)?)?;
            Ok(String::from_utf8(text).unwrap())
        }
        Op::Chmod(mode) => done(view.chmod(&view.locate(&cwd, one, true)?, mode)),
        Op::Access(want) => done(view.access(&view.locate(&cwd, one, true)?, want, true)),
        Op::Chdir => {
            view.cwd = view.directory(&cwd, one)?;
            Ok(String::from_utf8_lossy(&view.cwd.path).into_owned())
        }
        Op::List => {
            let place = view.locate(&cwd, one, true)?;
            let mut names: Vec<String> = match &place.node {
                Node::Inner(node) => {
                    node.list()?.iter().map(|e| String::from_utf8_lossy(&e.name).into()).collect()
                }
                Node::Host(fd) => {
                    let fd = fs::view::reopen(fd, O_DIRECTORY, 0)?;
                    let path = format!("/proc/self/fd/{}", fd.raw());
                    let names = std::fs::read_dir(path).unwrap();
                    names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
                }
                Node::Object(_) => unreachable!(),
            };
            names.sort();
            Ok(names.join(" "))
        }
    }
}

fn random_op(random: &mut Random) -> Op {
    match random.next() % 20 {
        0..=2 => {
            let flags = [
                0,
                1,
                2,
                O_CREAT | 1,
                O_CREAT | 2 | O_TRUNC,
                O_CREAT | O_EXCL | 1,
                O_DIRECTORY,
                O_NOFOLLOW,
                O_PATH,
                O_PATH | O_NOFOLLOW,
                O_PATH | O_DIRECTORY,
                O_CREAT | O_NOFOLLOW | 1,
                O_TRUNC | 1,
            ];
            Op::Open(random.pick(&flags), random.pick(&[0o644, 0o600, 0o777]))
        }
        3 => Op::Write(random.pick(&[0, 10, 5000, 70_000, 200_000]), random.pick(&[0, 1, 4096, 9000])),
        4 => Op::Truncate(random.pick(&[0, 1, 4096, 65_536, 65_537, 300_000])),
        5 | 6 => Op::Mkdir,
        7 => Op::Remove(true),
        8 | 9 => Op::Remove(false),
        10 | 11 => Op::Rename(random.pick(&[0, 0, 0, 1, 2, 3])),
        12 => Op::Link(random.next().is_multiple_of(2)),
        13 => Op::Symlink,
        14 | 15 => Op::Stat(random.next().is_multiple_of(2)),
        16 => Op::Readlink,
        17 => Op::Access(random.pick(&[0, 2, 4, 6])),
        18 => Op::Chdir,
        _ => match random.next() % 3 {
            0 => Op::List,
            1 => Op::Chdir,
            // Rights stay readable, so that the run does not lock itself out as an ordinary user.
            _ => Op::Chmod(random.pick(&[0o755, 0o700, 0o4755, 0o1777])),
        },
    }
}

fn cred() -> Cred {
    // SAFETY: no memory is involved.
    let (uid, gid) = unsafe { (platform::host!(geteuid).unwrap(), platform::host!(getegid).unwrap()) };
    Cred { uid: uid as u32, gid: gid as u32, groups: [].into() }
}

fn run(seed: u64, steps: usize) {
    let directory = format!("/dev/shm/attacca-lockstep-{}-{seed}", std::process::id());
    std::fs::create_dir(&directory).unwrap();
    // A view sets the host's umask to 0, and the runs of a test program share it.
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let host = Arc::new(Tree::host(directory.as_bytes(), false).unwrap());
    let cred = cred();
    let root = ramfs::new(1, 64 << 20, 0o755, cred.uid, cred.gid);
    let inner = Arc::new(Tree::new(Node::Inner(root), "tmpfs", b"tmpfs", false));
    let mut host = View::new(host, cred.clone(), 0o022);
    let mut inner = View::new(inner, cred, 0o022);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for step in 0..steps {
        let op = random_op(&mut random);
        let (one, two) = (random.path(), random.path());
        let want = apply(&mut host, op, one, two);
        let have = apply(&mut inner, op, one, two);
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        assert_eq!(
            have,
            want,
            "seed {seed} step {step}: {op:?} {:?} {:?} in {:?}",
            text(one),
            text(two),
            text(&host.cwd.path)
        );
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn ramfs_answers_as_tmpfs() {
    for seed in 1..=40 {
        run(seed, 600);
    }
}

#[test]
fn content_matches_a_model() {
    let node = ramfs::file(1, 0o644, b"");
    let mut model: Vec<u8> = Vec::new();
    let mut random = Random(42);
    for step in 0..3000u32 {
        let at = random.next() % 150_000;
        let len = (random.next() % 9000) as usize;
        match random.next() % 8 {
            0 => {
                node.truncate(at).unwrap();
                model.resize(at as usize, 0);
            }
            1 if step > 1000 => drop(node.host().unwrap()),
            2..=4 if step < 1000 && at > 60_000 => {}
            2..=4 => {
                let bytes: Vec<u8> = (0..len).map(|n| n as u8 ^ step as u8).collect();
                assert_eq!(node.write_at(at, &bytes), Ok(len));
                let end = at as usize + len;
                if len > 0 {
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].copy_from_slice(&bytes);
                }
            }
            _ => {
                let mut bytes = vec![0; len];
                let count = node.read_at(at, &mut bytes).unwrap();
                let rest = model.get(at as usize..).unwrap_or(&[]);
                assert_eq!(&bytes[..count], &rest[..rest.len().min(len)]);
            }
        }
        assert_eq!(node.stat().size as usize, model.len());
    }
}

#[test]
fn limit_is_enospc() {
    let root = ramfs::new(1, 16 * 4096, 0o755, 0, 0);
    let new = fs::vnode::New { mode: 0o100644, uid: 0, gid: 0, rdev: 0, target: b"" };
    let file = root.create(b"f", new).unwrap();
    assert_eq!(file.write_at(0, &[1; 12 * 4096]), Ok(12 * 4096));
    assert_eq!(file.write_at(12 * 4096, &[1; 8 * 4096]), Ok(4 * 4096), "what fits is written");
    assert_eq!(file.write_at(16 * 4096, &[1]), Err(Errno::ENOSPC));
    assert_eq!(file.write_at(100, &[2; 50]), Ok(50), "what is there can be overwritten");
    let other = root.create(b"g", new).unwrap();
    assert_eq!(other.write_at(0, &[1]), Err(Errno::ENOSPC));
    assert_eq!(root.statfs().bfree, 0);
    root.remove(b"f", false).unwrap();
    assert_eq!(other.write_at(0, &[1]), Err(Errno::ENOSPC), "an open file keeps its pages");
    drop(file);
    assert_eq!(other.write_at(0, &[1]), Ok(1));
    assert_eq!(root.statfs().bfree, 15);
}

#[test]
fn times_are_kept() {
    let node = ramfs::file(1, 0o644, b"x");
    let at = platform::time::Timespec { sec: 5, nsec: 6 };
    node.set_times(NewTime::At(at), NewTime::Keep).unwrap();
    let stat = node.stat();
    assert_eq!((stat.atime, stat.atime_nsec), (5, 6));
    assert!(stat.mtime > 1_000_000_000);
}

#[test]
fn what_has_no_name_is_told_and_given_up() {
    let root = ramfs::new(0x99, 1 << 20, 0o755, 0, 0);
    let make = |name: &[u8]| {
        let node = root.create(name, New { mode: 0o100_600, uid: 0, gid: 0, rdev: 0, target: b"" }).unwrap();
        node.write_at(0, &[7; 200_000]).unwrap();
        node
    };
    let numbers = || ramfs::unnamed(&root).iter().map(|node| node.stat().ino).collect::<Vec<_>>();
    let (open, linked, over) = (make(b"open"), make(b"linked"), make(b"over"));
    root.link(b"link", &linked).unwrap();
    drop(make(b"closed"));
    drop(make(b"from"));
    for name in [&b"open"[..], b"linked", b"closed"] {
        root.remove(name, false).unwrap();
    }
    assert_eq!(numbers(), [open.stat().ino]);
    root.rename(b"from", &root, b"over", 0).unwrap();
    assert_eq!(numbers(), [open.stat().ino, over.stat().ino]);
    let free = root.statfs().bfree;
    ramfs::give_up(&open);
    assert_eq!((open.stat().size, open.stat().blocks), (0, 0));
    assert_eq!(root.statfs().bfree, free + 49);
    drop(open);
    assert_eq!(numbers(), [over.stat().ino]);
}
