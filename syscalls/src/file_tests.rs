//! The file calls beside the host's kernel: the same random calls through the table and by the
//! `syscall` instruction, on the same objects, must answer the same.

use crate::context::Ctx;
use crate::{mounts, table, testing};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use platform::sys::{number as nr, syscall_raw};
use std::collections::BTreeMap;
use std::path::PathBuf;

struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 3) as usize
    }
    fn below(&mut self, end: usize) -> usize {
        self.next() % end
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// One side: calls, and a working directory that it sees as `.`.
enum Side {
    Guest(Ctx<'static>),
    Host { directory: i32 },
}

impl Side {
    fn call(&self, number: u32, args: [usize; 6]) -> isize {
        match self {
            Side::Guest(ctx) => {
                let handler = table::handler(number as usize).expect("the call is switched on");
                match handler(ctx, &args) {
                    Ok(value) => value as isize,
                    Err(errno) => errno.to_raw(),
                }
            }
            // SAFETY: the arguments are the test's own buffers and numbers.
            Side::Host { .. } => unsafe { syscall_raw(number as usize, args) },
        }
    }

    fn directory(&self) -> usize {
        match self {
            Side::Guest(_) => -100isize as usize,
            Side::Host { directory } => *directory as usize,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    File,
    Pipe,
    Stream,
    Datagram,
}

/// A descriptor of both sides. `group` is what it shares bytes with: pieces put in are counted for
/// it, because Linux's pipes and sockets hold a number of pieces that depends on their sizes.
#[derive(Clone, Copy, Debug)]
struct Object {
    guest: isize,
    host: isize,
    kind: Kind,
    group: usize,
}

struct Pair {
    guest: Side,
    host: Side,
    objects: Vec<Object>,
    pieces: BTreeMap<usize, usize>,
    groups: usize,
    log: Vec<String>,
}

const EBADF: isize = -9;
const BIG: usize = 3000;

impl Pair {
    /// The same call on both sides, with its buffer; the answers and what stands in the buffers.
    fn both(
        &mut self,
        what: &str,
        number: u32,
        args: impl Fn(&Side, usize) -> [usize; 6],
        buffer: &[u8],
    ) -> isize {
        let (mut one, mut two) = (buffer.to_vec(), buffer.to_vec());
        let guest = self.guest.call(number, args(&self.guest, one.as_mut_ptr() as usize));
        let host = self.host.call(number, args(&self.host, two.as_mut_ptr() as usize));
        self.log.push(format!("{what}: {host}"));
        let tail = &self.log[self.log.len().saturating_sub(12)..];
        assert_eq!(guest, host, "guest, host: {what}\n{}", tail.join("\n"));
        let at = one.iter().zip(&two).position(|(one, two)| one != two);
        assert_eq!(at, None, "the buffers differ: {what}\n{}", tail.join("\n"));
        guest
    }

    fn fd(object: Object) -> impl Fn(&Side) -> usize {
        move |side| match side {
            Side::Guest(_) => object.guest as usize,
            Side::Host { .. } => object.host as usize,
        }
    }

    fn add(&mut self, kind: Kind, fds: &[(isize, isize)]) {
        self.groups += 1;
        for &(guest, host) in fds {
            self.objects.push(Object { guest, host, kind, group: self.groups });
        }
    }

    fn open(&mut self, random: &mut Random) {
        let name = random.pick(&["a\0", "b\0", "c\0", "ram/a\0", "ram/b\0"]);
        let access = random.pick(&[0, 1, 2, 2, 2]);
        let more = random.pick(&[0o100, 0o100, 0o100, 0o1100, 0o300, 0o2100, 0o200000, 0]);
        let flags = access | more;
        let call = |side: &Side| {
            side.call(nr::openat, [side.directory(), name.as_ptr() as usize, flags, 0o644, 0, 0])
        };
        let (guest, host) = (call(&self.guest), call(&self.host));
        self.log.push(format!("open {name:?} {flags:o} -> {guest} {host}"));
        assert_eq!(guest.min(0), host.min(0), "open {name} {flags:o}");
        if guest >= 0 {
            self.add(Kind::File, &[(guest, host)]);
        }
    }

    fn two(&mut self, what: &str, kind: Kind, number: u32, args: impl Fn(usize) -> [usize; 6]) {
        let (mut one, mut two) = ([0i32; 2], [0i32; 2]);
        let guest = self.guest.call(number, args(one.as_mut_ptr() as usize));
        let host = self.host.call(number, args(two.as_mut_ptr() as usize));
        assert_eq!((guest, host), (0, 0));
        self.log.push(format!("{what} -> {one:?} {two:?}"));
        let ends = [(one[0] as isize, two[0] as isize), (one[1] as isize, two[1] as isize)];
        self.add(kind, &ends);
    }

    fn may_put(&mut self, object: Object) -> bool {
        let count = self.pieces.entry(object.group).or_default();
        *count += 1;
        object.kind == Kind::File || *count < 7
    }

    fn step(&mut self, random: &mut Random, step: usize) {
        if self.objects.len() < 3 || random.below(8) == 0 && self.objects.len() < 20 {
            match random.below(6) {
                0 => self.two("pipe", Kind::Pipe, nr::pipe2, |at| [at, 0o4000, 0, 0, 0, 0]),
                1 => self.two("stream", Kind::Stream, nr::socketpair, |at| [1, 0o4001, 0, at, 0, 0]),
                2 => self.two("datagram", Kind::Datagram, nr::socketpair, |at| [1, 0o4002, 0, at, 0, 0]),
                _ => self.open(random),
            }
            return;
        }
        let at = random.below(self.objects.len());
        let object = self.objects[at];
        let fd = Pair::fd(object);
        let len = random.pick(&[0, 1, 7, 100, BIG, BIG - 1]);
        let position = random.pick(&[0, 5, 1000, 4096, 70_000, 200_000]);
        let pattern: Vec<u8> = (0..BIG).map(|n| (n * 7 + step) as u8).collect();
        let room = alloc::vec![0u8; BIG];
        let what = |name: &str| format!("{step} {name} {object:?} {len} {position}");
        match random.below(24) {
            0..=2 => drop(self.both(&what("read"), nr::read, |side, at| [fd(side), at, len, 0, 0, 0], &room)),
            3..=5 if self.may_put(object) => {
                self.both(&what("write"), nr::write, |side, at| [fd(side), at, len, 0, 0, 0], &pattern);
            }
            6 => {
                self.both(&what("pread"), nr::pread64, |side, at| [fd(side), at, len, position, 0, 0], &room);
            }
            7 => {
                self.both(
                    &what("pwrite"),
                    nr::pwrite64,
                    |side, at| [fd(side), at, len, position, 0, 0],
                    &pattern,
                );
            }
            8 | 9 => {
                let whence = random.below(6);
                let what = format!("{} whence {whence}", what("lseek"));
                self.both(&what, nr::lseek, |side, _| [fd(side), position, whence, 0, 0, 0], &[]);
            }
            10 => drop(self.both(
                &what("ftruncate"),
                nr::ftruncate,
                |side, _| [fd(side), position, 0, 0, 0, 0],
                &[],
            )),
            11 => {
                let mode = random.pick(&[0, 1, 3, 2]);
                let what = format!("{} mode {mode}", what("fallocate"));
                self.both(&what, nr::fallocate, |side, _| [fd(side), mode, position, len, 0, 0], &[]);
            }
            12 => {
                let dup = |side: &Side| side.call(nr::dup, [fd(side), 0, 0, 0, 0, 0]);
                let (guest, host) = (dup(&self.guest), dup(&self.host));
                assert!(guest >= 0 && host >= 0);
                self.log.push(format!("{} -> {guest} {host}", what("dup")));
                self.objects.push(Object { guest, host, ..object });
            }
            13 | 14 => {
                self.both(&what("close"), nr::close, |side, _| [fd(side), 0, 0, 0, 0, 0], &[]);
                self.objects.swap_remove(at);
            }
            15 => {
                let flags = self.both(&what("getfl"), nr::fcntl, |side, _| [fd(side), 3, 0, 0, 0, 0], &[]);
                if object.kind == Kind::File && flags >= 0 {
                    let append = random.pick(&[0, 0o2000]);
                    self.both(&what("setfl"), nr::fcntl, |side, _| [fd(side), 4, append, 0, 0, 0], &[]);
                }
            }
            16 => drop(self.both(
                &what("fionread"),
                nr::ioctl,
                |side, at| [fd(side), 0x541b, at, 0, 0, 0],
                &[0; 4],
            )),
            17 => {
                let other = self.objects[random.below(self.objects.len())];
                let input = Pair::fd(other);
                // From file to file Linux copies between its pages, which shows where they are the same.
                if self.may_put(object) && other.kind == Kind::File && object.kind != Kind::File {
                    let text = format!("{step} sendfile to {object:?} from {other:?} {len} {position}");
                    if random.below(2) == 0 {
                        self.both(&text, nr::sendfile, |side, _| [fd(side), input(side), 0, len, 0, 0], &[]);
                    } else {
                        let offset = position.to_ne_bytes();
                        self.both(
                            &text,
                            nr::sendfile,
                            |side, at| [fd(side), input(side), at, len, 0, 0],
                            &offset,
                        );
                    }
                    self.empty_soon(object);
                }
            }
            18 => {
                let other = self.objects[random.below(self.objects.len())];
                let input = Pair::fd(other);
                let pipes = object.kind == Kind::Pipe || other.kind == Kind::Pipe;
                let sockets = [object.kind, other.kind]
                    .iter()
                    .any(|kind| matches!(kind, Kind::Stream | Kind::Datagram));
                if pipes && !sockets && other.group != object.group && self.may_put(object) && len > 0 {
                    let text = format!("{step} splice to {object:?} from {other:?} {len}");
                    self.both(&text, nr::splice, |side, _| [input(side), 0, fd(side), 0, len, 2], &[]);
                    self.empty_soon(object);
                }
            }
            19 => {
                let other = self.objects[random.below(self.objects.len())];
                let input = Pair::fd(other);
                if self.may_put(object) {
                    let text = format!("{step} copy_file_range to {object:?} from {other:?} {len}");
                    // Overlapping copies inside one file and mixed file systems differ by kernel version.
                    let ram = |side: &Side| side.call(nr::fstatfs, [input(side), 0, 0, 0, 0, 0]);
                    let _ = ram;
                    if object.kind != Kind::File || other.kind != Kind::File {
                        self.both(
                            &text,
                            nr::copy_file_range,
                            |side, _| [input(side), 0, fd(side), 0, len, 0],
                            &[],
                        );
                    }
                }
            }
            20 => {
                let events = 0x2000 | 0x7;
                let call = |side: &Side| {
                    let mut poll = [fd(side) as i32, events];
                    let answer = side.call(nr::poll, [poll.as_mut_ptr() as usize, 1, 0, 0, 0, 0]);
                    (answer, poll[1] as u32 >> 16)
                };
                let (guest, host) = (call(&self.guest), call(&self.host));
                assert_eq!(guest, host, "{}", what("poll"));
            }
            21 if matches!(object.kind, Kind::Stream | Kind::Datagram) && random.below(4) == 0 => {
                // Linux answers a datagram socket that was shut for reading by EAGAIN or 0, depending on
                // O_NONBLOCK; here it is 0.
                let how = if object.kind == Kind::Stream { random.below(3) } else { 1 };
                let text = format!("{} how {how}", what("shutdown"));
                self.both(&text, nr::shutdown, |side, _| [fd(side), how, 0, 0, 0, 0], &[]);
            }
            22 => {
                let call = |side: &Side| {
                    let mut stat = fs::Stat::default();
                    let answer = side.call(nr::fstat, [fd(side), (&raw mut stat) as usize, 0, 0, 0, 0]);
                    let size = if object.kind == Kind::File && !stat.is(0o040000) { stat.size } else { 0 };
                    let links = if stat.is(0o100000) { stat.nlink } else { 0 };
                    (answer, stat.mode & 0o170777, size, links)
                };
                let (guest, host) = (call(&self.guest), call(&self.host));
                let tail = &self.log[self.log.len().saturating_sub(8)..];
                assert_eq!(guest, host, "{}\n{}", what("fstat"), tail.join("\n"));
            }
            _ => {
                // Three buffers, one of them empty.
                let call = |side: &Side, number| {
                    let mut bytes = pattern.clone();
                    let base = bytes.as_mut_ptr() as usize;
                    let vector = [base, 10, base + 500, 0, base + 100, len.min(BIG - 100)];
                    let answer = side.call(number, [fd(side), vector.as_ptr() as usize, 3, 0, 0, 0]);
                    (answer, bytes)
                };
                let number = if random.below(2) == 0 { nr::readv } else { nr::writev };
                if number == nr::readv || self.may_put(object) {
                    let (guest, host) = (call(&self.guest, number), call(&self.host, number));
                    let tail = &self.log[self.log.len().saturating_sub(8)..];
                    assert_eq!(guest.0, host.0, "{}\n{}", what("vector"), tail.join("\n"));
                    assert!(guest.1 == host.1, "{}", what("vector"));
                    self.log.push(format!("{}: {}", what("vector"), host.0));
                }
            }
        }
        self.drain(random);
    }

    /// Linux puts the file's own pages into a pipe or socket, so a later write to the file would show
    /// there: read them now.
    fn empty_soon(&mut self, object: Object) {
        self.pieces.insert(object.group, 7);
    }

    /// Empties what holds many pieces, so that limits in pieces are not met.
    fn drain(&mut self, random: &mut Random) {
        let full: Vec<usize> =
            self.pieces.iter().filter(|(_, count)| **count >= 6).map(|(group, _)| *group).collect();
        for group in full {
            let ends: Vec<Object> =
                self.objects.iter().filter(|o| o.group == group && o.kind != Kind::File).copied().collect();
            for end in ends {
                let fd = Pair::fd(end);
                let room = alloc::vec![0u8; BIG];
                let text = format!("drain {end:?}");
                while self.both(&text, nr::read, |side, at| [fd(side), at, BIG, 0, 0, 0], &room) > 0 {}
            }
            self.pieces.remove(&group);
        }
        let _ = random;
    }
}

/// A directory that goes away with the test.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let path = std::env::temp_dir().join(format!("attacca-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Temp(path)
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

/// A process with a tree whose root is a host directory, /ram a tmpfs.
fn guest(temp: &Temp) -> Ctx<'static> {
    let ctx = testing::ctx();
    // SAFETY: no memory is involved.
    let uid = unsafe { platform::host!(geteuid) }.unwrap() as u32;
    *ctx.process.credentials.lock() = crate::process::Credentials::new(uid, uid, Vec::new());
    let plan = mounts::Plan { root: temp.bytes(), tmpfs: &[b"/ram"], processors: 2, ..Default::default() };
    mounts::start(ctx.process, &plan).unwrap();
    let ignore = crate::signal::Action { handler: 1, ..Default::default() };
    ctx.process.actions.set(13, ignore);
    ctx
}

fn lockstep(seed: u64, steps: usize) {
    let (one, two) = (Temp::new(&format!("guest-{seed}")), Temp::new(&format!("host-{seed}")));
    let ram = PathBuf::from(format!("/dev/shm/attacca-{}-{seed}", std::process::id()));
    std::fs::create_dir_all(&ram).unwrap();
    std::os::unix::fs::symlink(&ram, two.0.join("ram")).unwrap();
    let ram = Temp(ram);
    let directory = fs::HostFd::open_host(two.bytes(), 0o200000, 0).unwrap();
    let mut pair = Pair {
        guest: Side::Guest(guest(&one)),
        host: Side::Host { directory: directory.raw() },
        objects: Vec::new(),
        pieces: BTreeMap::new(),
        groups: 0,
        log: Vec::new(),
    };
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for step in 0..steps {
        pair.step(&mut random, step);
    }
    for object in core::mem::take(&mut pair.objects) {
        pair.both("close", nr::close, |side, _| [Pair::fd(object)(side), 0, 0, 0, 0, 0], &[]);
    }
    assert_eq!(pair.guest.call(nr::close, [3, 0, 0, 0, 0, 0]), EBADF);
    drop(ram);
}

#[test]
fn answers_as_the_host() {
    for seed in 1..=30 {
        lockstep(seed, 1500);
    }
}

fn call(ctx: &Ctx, number: u32, args: &[usize]) -> isize {
    let mut registers = [0; 6];
    registers[..args.len()].copy_from_slice(args);
    let handler = table::handler(number as usize).expect("the call is switched on");
    handler(ctx, &registers).map_or_else(crate::Errno::to_raw, |value| value as isize)
}

fn text(bytes: &[u8]) -> usize {
    assert_eq!(bytes.last(), Some(&0));
    bytes.as_ptr() as usize
}

const O_CREAT: usize = 0o100;

fn read_file(ctx: &Ctx, path: &[u8]) -> Result<Vec<u8>, isize> {
    let fd = call(ctx, nr::open, &[text(path), 0, 0]);
    if fd < 0 {
        return Err(fd);
    }
    let mut all = Vec::new();
    let mut piece = [0u8; 700];
    loop {
        let got = call(ctx, nr::read, &[fd as usize, piece.as_mut_ptr() as usize, piece.len()]);
        if got <= 0 {
            call(ctx, nr::close, &[fd as usize]);
            return if got < 0 { Err(got) } else { Ok(all) };
        }
        all.extend_from_slice(&piece[..got as usize]);
    }
}

fn read_text(ctx: &Ctx, path: &[u8]) -> String {
    String::from_utf8(read_file(ctx, path).unwrap()).unwrap()
}

#[test]
fn proc_tells_of_the_guest() {
    let temp = Temp::new("proc");
    std::fs::write(temp.0.join("x"), "file x").unwrap();
    let ctx = guest(&temp);
    let pid = ctx.process.pid;
    assert!(read_text(&ctx, b"/proc/self/stat\0").starts_with(&format!("{pid} (")));
    assert!(read_text(&ctx, b"/proc/self/status\0").contains(&format!("\nPid:\t{pid}\n")));
    assert_eq!(read_text(&ctx, b"/proc/self/cgroup\0"), "0::/\n");
    assert!(read_text(&ctx, b"/proc/mounts\0").contains("tmpfs /ram tmpfs rw"));
    assert!(read_text(&ctx, b"/proc/self/mountinfo\0").contains(" - cgroup2 "));
    assert!(read_text(&ctx, b"/proc/cpuinfo\0").matches("processor\t").count() <= 2);
    assert_eq!(read_text(&ctx, b"/sys/devices/system/cpu/online\0"), "0-1\n");
    assert_eq!(read_text(&ctx, b"/proc/sys/kernel/hostname\0"), "guest\n");
    assert!(read_text(&ctx, b"/proc/self/limits\0").contains("Max open files"));
    assert_eq!(read_file(&ctx, b"/proc/1234567/stat\0"), Err(-2));
    assert_eq!(read_file(&ctx, b"/proc/self/fd\0"), Err(-21));
    // comm can be written.
    let fd = call(&ctx, nr::open, &[text(b"/proc/self/comm\0"), 1 | 0o1000]);
    assert_eq!(call(&ctx, nr::write, &[fd as usize, b"renamed".as_ptr() as usize, 7]), 7);
    assert_eq!(read_text(&ctx, b"/proc/thread-self/comm\0"), "renamed\n");
    // Descriptors: links that lead to the open files.
    let fd = call(&ctx, nr::open, &[text(b"/x\0"), 0]) as usize;
    let mut link = [0u8; 64];
    let path = format!("/proc/self/fd/{fd}\0");
    let len = call(&ctx, nr::readlink, &[text(path.as_bytes()), link.as_mut_ptr() as usize, 64]);
    assert_eq!(&link[..len as usize], b"/x");
    std::fs::remove_file(temp.0.join("x")).unwrap();
    assert_eq!(read_text(&ctx, path.as_bytes()), "file x", "opened again although its name is gone");
    let path = format!("/dev/fd/{fd}\0");
    assert_eq!(read_text(&ctx, path.as_bytes()), "file x");
    let mut pipe = [0i32; 2];
    assert_eq!(call(&ctx, nr::pipe2, &[pipe.as_mut_ptr() as usize, 0o4000]), 0);
    let path = format!("/proc/self/fd/{}\0", pipe[1]);
    let writer = call(&ctx, nr::open, &[text(path.as_bytes()), 1]) as usize;
    assert_eq!(call(&ctx, nr::write, &[writer, b"hi".as_ptr() as usize, 2]), 2);
    assert_eq!(call(&ctx, nr::read, &[pipe[0] as usize, link.as_mut_ptr() as usize, 64]), 2);
    let mut stat = fs::Stat::default();
    assert_eq!(call(&ctx, nr::stat, &[text(path.as_bytes()), (&raw mut stat) as usize]), 0);
    assert!(stat.is(0o010000));
}

fn entries(ctx: &Ctx, path: &[u8]) -> Vec<String> {
    let fd = call(ctx, nr::open, &[text(path), 0o200000]) as usize;
    let mut names = Vec::new();
    let mut bytes = [0u8; 200];
    loop {
        let len = call(ctx, nr::getdents64, &[fd, bytes.as_mut_ptr() as usize, bytes.len()]);
        assert!(len >= 0, "{len}");
        if len == 0 {
            break;
        }
        let mut at = 0;
        while at < len as usize {
            let size = usize::from(u16::from_ne_bytes([bytes[at + 16], bytes[at + 17]]));
            let name = bytes[at + 19..at + size].split(|&byte| byte == 0).next().unwrap();
            names.push(String::from_utf8(name.to_vec()).unwrap());
            at += size;
        }
    }
    call(ctx, nr::close, &[fd]);
    names.sort();
    names
}

#[test]
fn directories_list_names_and_mounts() {
    let temp = Temp::new("dirs");
    std::fs::create_dir(temp.0.join("etc")).unwrap();
    std::fs::write(temp.0.join("etc/hosts"), "").unwrap();
    let ctx = guest(&temp);
    assert_eq!(entries(&ctx, b"/\0"), [".", "..", "dev", "etc", "proc", "ram", "sys"]);
    assert_eq!(entries(&ctx, b"/etc\0"), [".", "..", "hosts"]);
    let many: Vec<String> = (0..50).map(|n| format!("/ram/file-number-{n}\0")).collect();
    for path in &many {
        assert!(call(&ctx, nr::open, &[text(path.as_bytes()), O_CREAT | 1, 0o600]) >= 0);
    }
    assert_eq!(entries(&ctx, b"/ram\0").len(), 52);
    assert!(entries(&ctx, b"/dev\0").contains(&String::from("shm")));
    assert_eq!(call(&ctx, nr::chdir, &[text(b"/ram\0")]), 0);
    let mut cwd = [0u8; 16];
    assert_eq!(call(&ctx, nr::getcwd, &[cwd.as_mut_ptr() as usize, 16]), 5);
    assert_eq!(&cwd[..5], b"/ram\0");
    assert_eq!(call(&ctx, nr::getcwd, &[cwd.as_mut_ptr() as usize, 4]), -34);
    assert_eq!(call(&ctx, nr::chdir, &[text(b"file-number-1\0")]), -20);
    assert_eq!(call(&ctx, nr::chdir, &[text(b"../etc\0")]), 0);
    assert_eq!(read_text(&ctx, b"hosts\0"), "");
}

#[test]
fn memory_is_the_programs_own() {
    let temp = Temp::new("memory");
    let ctx = guest(&temp);
    let fd = call(&ctx, nr::open, &[text(b"/ram/m\0"), O_CREAT | 2, 0o600]) as usize;
    assert_eq!(call(&ctx, nr::write, &[fd, b"mapped".as_ptr() as usize, 6]), 6);
    // A shared mapping of a tmpfs file and its writes see each other.
    let at = call(&ctx, nr::mmap, &[0, 4096, 3, 1, fd, 0]);
    assert!(at > 0, "{at}");
    // SAFETY: mapped readable and writable a moment ago, one page.
    let page = unsafe { core::slice::from_raw_parts_mut(at as *mut u8, 4096) };
    assert_eq!(&page[..6], b"mapped");
    assert_eq!(call(&ctx, nr::pwrite64, &[fd, b"M".as_ptr() as usize, 1, 0]), 1);
    assert_eq!(page[0], b'M');
    page[5] = b'D';
    assert_eq!(read_text(&ctx, b"/ram/m\0"), "MappeD");
    assert_eq!(call(&ctx, nr::munmap, &[at as usize, 4096]), 0);
    // The runtime's window is out of reach.
    let window = platform::layout::ARENA_BASE;
    assert_eq!(call(&ctx, nr::mmap, &[window, 4096, 3, 0x32, usize::MAX, 0]), -12);
    assert_eq!(call(&ctx, nr::munmap, &[window, 4096]), -22);
    assert_eq!(call(&ctx, nr::munmap, &[0, usize::MAX & !4095]), -22);
    assert_eq!(call(&ctx, nr::mprotect, &[window - 4096, 8192, 0]), -22);
    let hint = call(&ctx, nr::mmap, &[window, 4096, 3, 0x22, usize::MAX, 0]);
    assert!(hint > 0 && !platform::layout::touches_window(hint as usize, 4096));
    assert_eq!(call(&ctx, nr::mremap, &[hint as usize, 4096, 4096, 3, window]), -22);
    // Rights of the description count.
    let reader = call(&ctx, nr::open, &[text(b"/ram/m\0"), 0]) as usize;
    assert_eq!(call(&ctx, nr::mmap, &[0, 4096, 3, 1, reader, 0]), -13);
    let null = call(&ctx, nr::open, &[text(b"/dev/null\0"), 2]) as usize;
    assert_eq!(call(&ctx, nr::mmap, &[0, 4096, 3, 2, null, 0]), -19);
    // brk grows, is zero, shrinks, and is zero again.
    let start = call(&ctx, nr::brk, &[0]) as usize;
    for _ in 0..2 {
        assert_eq!(call(&ctx, nr::brk, &[start + 10_000]) as usize, start + 10_000);
        // SAFETY: brk has just given these bytes.
        let heap = unsafe { core::slice::from_raw_parts_mut(start as *mut u8, 10_000) };
        assert!(heap.iter().all(|&byte| byte == 0));
        heap.fill(7);
        assert_eq!(call(&ctx, nr::brk, &[start]) as usize, start);
    }
    assert_eq!(call(&ctx, nr::brk, &[start - 1]) as usize, start, "refused by the old end");
    let memfd = call(&ctx, nr::memfd_create, &[text(b"m\0"), 2]) as usize;
    const F_ADD_SEALS: usize = 1033;
    assert_eq!(call(&ctx, nr::fcntl, &[memfd, F_ADD_SEALS, 8]), 0);
    assert_eq!(call(&ctx, nr::write, &[memfd, b"x".as_ptr() as usize, 1]), -1, "sealed against writing");
}

#[test]
fn locks_belong_to_descriptions() {
    let temp = Temp::new("locks");
    let ctx = guest(&temp);
    for path in [&b"/f\0"[..], b"/ram/f\0"] {
        let one = call(&ctx, nr::open, &[text(path), O_CREAT | 2, 0o600]) as usize;
        let two = call(&ctx, nr::open, &[text(path), 2]) as usize;
        let dup = call(&ctx, nr::dup, &[one]) as usize;
        const EXCLUSIVE_NOW: usize = 2 | 4;
        assert_eq!(call(&ctx, nr::flock, &[one, EXCLUSIVE_NOW]), 0);
        assert_eq!(call(&ctx, nr::flock, &[dup, EXCLUSIVE_NOW]), 0);
        assert_eq!(call(&ctx, nr::flock, &[two, EXCLUSIVE_NOW]), -11);
        assert_eq!(call(&ctx, nr::close, &[one]), 0);
        assert_eq!(call(&ctx, nr::flock, &[two, EXCLUSIVE_NOW]), -11, "the duplicate holds it");
        assert_eq!(call(&ctx, nr::close, &[dup]), 0);
        assert_eq!(call(&ctx, nr::flock, &[two, EXCLUSIVE_NOW]), 0);
    }
}

fn socket_address(path: &[u8]) -> Vec<u8> {
    [&1u16.to_ne_bytes()[..], path].concat()
}

#[test]
fn unix_sockets_connect_by_name() {
    let temp = Temp::new("unix");
    let ctx = guest(&temp);
    for name in [&b"/s\0"[..], b"/ram/s\0", b"\0abstract"] {
        for kind in [1usize, 5] {
            let address = socket_address(name);
            let (at, len) = (address.as_ptr() as usize, address.len());
            let listener = call(&ctx, nr::socket, &[1, kind | 0o4000, 0]) as usize;
            let client = call(&ctx, nr::socket, &[1, kind | 0o4000, 0]) as usize;
            assert!(call(&ctx, nr::connect, &[client, at, len]) < 0);
            assert_eq!(call(&ctx, nr::bind, &[listener, at, len]), 0, "{name:?}");
            assert_eq!(call(&ctx, nr::connect, &[client, at, len]), -111, "nobody listens");
            assert_eq!(call(&ctx, nr::listen, &[listener, 1]), 0);
            let other = call(&ctx, nr::socket, &[1, kind, 0]) as usize;
            assert_eq!(call(&ctx, nr::bind, &[other, at, len]), -98);
            assert_eq!(call(&ctx, nr::accept4, &[listener, 0, 0, 0]), -11);
            assert_eq!(call(&ctx, nr::connect, &[client, at, len]), 0);
            let hello = b"hello".as_ptr() as usize;
            assert_eq!(call(&ctx, nr::sendto, &[client, hello, 5, 0, 0, 0]), 5, "before it is accepted");
            let server = call(&ctx, nr::accept4, &[listener, 0, 0, 0o4000]);
            assert!(server >= 0);
            let mut bytes = [0u8; 16];
            let room = bytes.as_mut_ptr() as usize;
            assert_eq!(call(&ctx, nr::recvfrom, &[server as usize, room, 16, 2, 0, 0]), 5, "a look");
            assert_eq!(call(&ctx, nr::recvfrom, &[server as usize, room, 16, 0, 0, 0]), 5);
            assert_eq!(&bytes[..5], b"hello");
            let (mut who, mut size) = ([0u32; 3], 12u32);
            let out = [who.as_mut_ptr() as usize, (&raw mut size) as usize];
            assert_eq!(call(&ctx, nr::getsockopt, &[server as usize, 1, 17, out[0], out[1]]), 0);
            assert_eq!(who[0], ctx.process.pid);
            assert_eq!(call(&ctx, nr::connect, &[client, at, len]), -106);
            // The queue takes one more than its backlog, then says that it is full.
            let clients: Vec<usize> =
                (0..3).map(|_| call(&ctx, nr::socket, &[1, kind | 0o4000, 0]) as usize).collect();
            let answers: Vec<isize> =
                clients.iter().map(|&fd| call(&ctx, nr::connect, &[fd, at, len])).collect();
            assert_eq!(answers, [0, 0, -11]);
            call(&ctx, nr::close, &[listener]);
            assert_eq!(call(&ctx, nr::read, &[clients[0], room, 16]), -104, "never accepted: reset");
            assert_eq!(call(&ctx, nr::read, &[server as usize, room, 16]), -11);
            call(&ctx, nr::close, &[client]);
            assert_eq!(call(&ctx, nr::read, &[server as usize, room, 16]), 0);
            if name[0] != 0 {
                assert_eq!(call(&ctx, nr::unlink, &[text(name)]), 0);
            }
        }
    }
}

#[test]
fn descriptors_travel() {
    let temp = Temp::new("rights");
    let ctx = guest(&temp);
    let (mut ends, mut pipe) = ([0i32; 2], [0i32; 2]);
    assert_eq!(call(&ctx, nr::socketpair, &[1, 0o4001, 0, ends.as_mut_ptr() as usize]), 0);
    assert_eq!(call(&ctx, nr::pipe2, &[pipe.as_mut_ptr() as usize, 0o4000]), 0);
    let mut control = [24usize, 0, 0];
    control[0] = 16 + 4;
    control[1] = 1 | 1 << 32;
    control[2] = pipe[1] as usize;
    let mut byte = [b'x'];
    let vector = [byte.as_mut_ptr() as usize, 1];
    let mut header = [0, 0, vector.as_ptr() as usize, 1, control.as_mut_ptr() as usize, 20, 0];
    assert_eq!(call(&ctx, nr::sendmsg, &[ends[0] as usize, header.as_ptr() as usize, 0]), 1);
    // The last descriptor of the writing end is closed while it is under way.
    call(&ctx, nr::close, &[pipe[1] as usize]);
    let mut room = [0u8; 4];
    let room_at = room.as_mut_ptr() as usize;
    assert_eq!(call(&ctx, nr::read, &[pipe[0] as usize, room_at, 4]), -11, "not the end yet");
    control = [0; 3];
    header[5] = 24;
    const CMSG_CLOEXEC: usize = 0x4000_0000;
    assert_eq!(call(&ctx, nr::recvmsg, &[ends[1] as usize, header.as_mut_ptr() as usize, CMSG_CLOEXEC]), 1);
    assert_eq!((control[0], control[1]), (20, 1 | 1 << 32));
    let fd = control[2] as u32 as usize;
    assert_eq!(call(&ctx, nr::fcntl, &[fd, 1, 0]), 1);
    assert_eq!(call(&ctx, nr::write, &[fd, b"ok".as_ptr() as usize, 2]), 2);
    assert_eq!(call(&ctx, nr::read, &[pipe[0] as usize, room_at, 4]), 2);
    // Nobody takes it: it is closed with the socket.
    control.copy_from_slice(&[20, 1 | 1 << 32, fd]);
    header[5] = 20;
    assert_eq!(call(&ctx, nr::sendmsg, &[ends[0] as usize, header.as_ptr() as usize, 0]), 1);
    call(&ctx, nr::close, &[fd]);
    call(&ctx, nr::close, &[ends[1] as usize]);
    assert_eq!(call(&ctx, nr::read, &[pipe[0] as usize, room_at, 4]), 0, "the end");
    // Without room for it, none is made.
    let before = ctx.process.fds.numbers();
    assert_eq!(call(&ctx, nr::socketpair, &[1, 0o4002, 0, ends.as_mut_ptr() as usize]), 0);
    control.copy_from_slice(&[20, 1 | 1 << 32, pipe[0] as usize]);
    assert_eq!(call(&ctx, nr::sendmsg, &[ends[0] as usize, header.as_ptr() as usize, 0]), 1);
    header[4] = 0;
    header[5] = 0;
    assert_eq!(call(&ctx, nr::recvmsg, &[ends[1] as usize, header.as_mut_ptr() as usize, 0]), 1);
    assert_eq!(header[6] as u32 & 0x8, 0x8, "MSG_CTRUNC");
    assert_eq!(ctx.process.fds.numbers().len(), before.len() + 2, "the two ends");
}

#[test]
fn blocking_calls_wait_for_each_other() {
    let temp = Temp::new("blocking");
    let ctx = guest(&temp);
    let mut pipe = [0i32; 2];
    assert_eq!(call(&ctx, nr::pipe2, &[pipe.as_mut_ptr() as usize, 0]), 0);
    let (reader, writer) = (pipe[0] as usize, pipe[1] as usize);
    const TOTAL: usize = 1 << 20;
    let thread = testing::spawn(ctx.process, move |ctx| {
        let bytes: Vec<u8> = (0..TOTAL).map(|at| (at / 3) as u8).collect();
        let wrote = call(&ctx, nr::write, &[writer, bytes.as_ptr() as usize, TOTAL]);
        call(&ctx, nr::close, &[writer]);
        wrote
    });
    let mut all = Vec::new();
    let mut piece = alloc::vec![0u8; 10_000];
    loop {
        let got = call(&ctx, nr::read, &[reader, piece.as_mut_ptr() as usize, piece.len()]);
        if got == 0 {
            break;
        }
        all.extend_from_slice(&piece[..got as usize]);
    }
    assert_eq!(thread.join().unwrap(), TOTAL as isize, "a blocking write writes all");
    assert!(all.len() == TOTAL && all.iter().enumerate().all(|(at, &byte)| byte == (at / 3) as u8));
}

#[test]
fn inherited_streams_do_not_block() {
    let temp = Temp::new("inherit");
    let ctx = guest(&temp);
    let mut pipe = [0i32; 2];
    // SAFETY: two descriptors of ours.
    unsafe { platform::host!(pipe2, pipe.as_mut_ptr(), 0) }.unwrap();
    let install = |fd| {
        let open = crate::host_file::HostFile::inherited(fs::HostFd::new(fd)).unwrap();
        open.flags.fetch_or(0o4000, core::sync::atomic::Ordering::Relaxed);
        ctx.install(alloc::sync::Arc::new(open), false).unwrap()
    };
    let (reader, writer) = (install(pipe[0]), install(pipe[1]));
    let mut bytes = alloc::vec![0u8; 100_000];
    let at = bytes.as_mut_ptr() as usize;
    assert_eq!(call(&ctx, nr::read, &[reader, at, 10]), -11, "although the host's description blocks");
    assert_eq!(call(&ctx, nr::write, &[writer, at, 100_000]), 65_536);
    assert_eq!(call(&ctx, nr::write, &[writer, at, 1]), -11);
    assert_eq!(call(&ctx, nr::read, &[reader, at, 100_000]), 65_536);
    assert_eq!(call(&ctx, nr::lseek, &[reader, 0, 0]), -29);
    call(&ctx, nr::close, &[writer]);
    assert_eq!(call(&ctx, nr::read, &[reader, at, 10]), 0);
}
