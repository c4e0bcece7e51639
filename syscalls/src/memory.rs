//! The program's address space: mmap and its family, brk, memfd_create.
//!
//! The address space is the host process's; only the runtime's window is kept out of the program's
//! hands ([`platform::layout`]): no call may map over it, change or drop what is in it. What the host
//! chooses for a mapping without a fixed address never lies in the window as long as there is room
//! elsewhere, and is refused if it does.

use crate::args::{Address, Advice, Fd, MapFlags, ProtFlags};
use crate::context::Ctx;
use crate::file::{O_ACCMODE, OpenFile};
use crate::host_file::HostFile;
use crate::tree_file::InnerFile;
use crate::user::{UserPtr, UserStr, in_user_space};
use crate::{Errno, Result, memory_limit};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use fs::HostFd;
use platform::host;
use platform::layout::{PAGE_SIZE, touches_window};
use platform::sync::Lock;

const PROT_WRITE: u32 = 2;
const MAP_SHARED: u32 = 1;
const MAP_PRIVATE: u32 = 2;
const MAP_TYPE: u32 = 0xf;
const MAP_FIXED: u32 = 0x10;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
const MREMAP_FIXED: i32 = 2;
const MREMAP_DONTUNMAP: i32 = 4;

/// mmap(2).
pub fn mmap(
    ctx: &Ctx,
    at: Address,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
    fd: Fd,
    offset: usize,
) -> Result {
    if !offset.is_multiple_of(PAGE_SIZE) || len == 0 {
        return Err(Errno::EINVAL);
    }
    let fixed = flags.0 & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    let touches = touches_window(at.0, round_up(len)?);
    if fixed && touches {
        return Err(Errno::ENOMEM);
    }
    let hint = if touches { 0 } else { at.0 };
    let room = Room { hint, len, fixed: fixed.then_some(at.0) };
    if flags.0 & MAP_ANONYMOUS != 0 {
        return map(ctx, &room, prot, flags, None, offset);
    }
    let backing = backing(ctx, fd, prot.0, flags.0)?;
    ctx.task.stay.holding_count(&backing, || map(ctx, &room, prot, flags, Some(&backing), offset))
}

/// Where a mapping shall lie.
struct Room {
    hint: usize,
    len: usize,
    /// The address, if it is fixed.
    fixed: Option<usize>,
}

fn map(
    ctx: &Ctx,
    &Room { hint, len, fixed }: &Room,
    prot: ProtFlags,
    flags: MapFlags,
    backing: Option<&HostFd>,
    offset: usize,
) -> Result {
    let host_fd = backing.map_or(-1, HostFd::raw);
    if prot.0 != 0 {
        memory_limit::check(ctx, fixed.unwrap_or(0), round_up(len)?)?;
    }
    // SAFETY: nothing of the runtime lies outside its window, and the program answers for its own
    // memory. A fixed mapping was checked; any other replaces nothing.
    let mapped = unsafe { host!(mmap, hint, len, prot.0, flags.0, host_fd, offset) }?;
    let mapped = outside_window(mapped, len)?;
    if let Err(error) = memory_limit::lock_new(ctx, mapped, len) {
        // SAFETY: nobody knows of it yet; what a fixed mapping has replaced is gone in Linux as well.
        let _ = unsafe { host!(munmap, mapped, len) };
        return Err(error);
    }
    note_mapping(ctx, mapped, len, flags.0, backing, offset)?;
    Ok(mapped)
}

/// Keeps the table of shared mappings right ([`crate::maps`]).
fn note_mapping(
    ctx: &Ctx,
    at: usize,
    len: usize,
    flags: u32,
    backing: Option<&HostFd>,
    offset: usize,
) -> Result<()> {
    let maps = &ctx.process.ipc.maps;
    if flags & MAP_TYPE == MAP_PRIVATE {
        drop(maps.cut(at, len));
        return Ok(());
    }
    let object = match backing.map(HostFd::stat).transpose()? {
        // A device, such as /dev/zero: each mapping is memory of its own.
        Some(stat) if !stat.is(fs::attr::S_IFCHR) => crate::maps::Object(stat.dev, stat.ino),
        _ => crate::ipc::all().numbers.anonymous(),
    };
    let len = len.next_multiple_of(PAGE_SIZE);
    maps.add(at, crate::maps::Entry { len, object, offset: offset as u64, attachment: None });
    Ok(())
}

/// A mapping that the host placed: taken back if it lies in the window.
pub(crate) fn outside_window(mapped: usize, len: usize) -> Result {
    if touches_window(mapped, len) {
        // SAFETY: the range was mapped a moment ago and nobody knows of it.
        let _ = unsafe { host!(munmap, mapped, len) };
        return Err(Errno::ENOMEM);
    }
    Ok(mapped)
}

fn round_up(len: usize) -> Result {
    len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)
}

/// The host descriptor to map, with the rights that mmap(2) asks of the description.
fn backing(ctx: &Ctx, fd: Fd, prot: u32, flags: u32) -> Result<Arc<HostFd>> {
    let open = ctx.file(fd)?;
    let mode = open.flags.load(Ordering::Relaxed) & O_ACCMODE;
    let writes_through = flags & MAP_TYPE != MAP_PRIVATE && flags & MAP_SHARED != 0 && prot & PROT_WRITE != 0;
    if mode == 1 || (writes_through && mode != 2) {
        return Err(Errno::EACCES);
    }
    host_of(&open)
}

fn host_of(open: &OpenFile) -> Result<Arc<HostFd>> {
    if let Some(host) = open.downcast::<HostFile>() {
        return Ok(host.fd.clone());
    }
    match open.downcast::<InnerFile>() {
        Some(inner) => inner.node.host(),
        None => Err(Errno::ENODEV),
    }
}

/// munmap(2).
pub fn munmap(ctx: &Ctx, at: Address, len: usize) -> Result {
    outside(at, len)?;
    if !at.0.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let cut = ctx.process.ipc.maps.cut(at.0, len);
    // SAFETY: outside the window, memory is the program's to give up.
    let done = unsafe { host!(munmap, at.0, len) };
    if done.is_err() {
        ctx.process.ipc.maps.restore(cut);
    }
    done
}

/// mprotect(2).
pub fn mprotect(ctx: &Ctx, at: Address, len: usize, prot: ProtFlags) -> Result {
    outside(at, len)?;
    if prot.0 != 0 {
        memory_limit::check(ctx, at.0, round_up(len)?)?;
    }
    // SAFETY: outside the window, memory is the program's.
    unsafe { host!(mprotect, at.0, len, prot.0) }
}

/// mremap(2).
pub fn mremap(ctx: &Ctx, at: Address, len: usize, new_len: usize, flags: i32, new_at: Address) -> Result {
    outside(at, len)?;
    if flags & MREMAP_FIXED != 0 {
        outside(new_at, new_len)?;
    } else if flags & MREMAP_DONTUNMAP == 0 && touches_window(at.0, round_up(new_len)?) {
        // Growing in place would run into the window: only a move helps.
        if flags & 1 == 0 {
            return Err(Errno::ENOMEM);
        }
    }
    if new_len > len {
        memory_limit::check(ctx, 0, round_up(new_len)? - round_up(len)?)?;
    }
    // SAFETY: source and fixed target are outside the window. Growth in place goes into free room only.
    let call = || unsafe { host!(mremap, at.0, len, new_len, flags, new_at.0) };
    let maps = &ctx.process.ipc.maps;
    if len == 0 || flags & MREMAP_DONTUNMAP != 0 {
        // The old mapping stays, and a second one of the same memory comes (mremap(2)).
        let source = maps.find(at.0);
        let to = call()?;
        drop(maps.cut(to, new_len));
        if let Some((object, offset)) = source {
            let len = new_len.next_multiple_of(PAGE_SIZE);
            maps.add(to, crate::maps::Entry { len, object, offset, attachment: None });
        }
        return Ok(to);
    }
    let taken = maps.cut(at.0, len);
    match call() {
        Ok(to) => {
            drop(maps.cut(to, new_len));
            maps.moved(taken, at.0, len, to, new_len);
            Ok(to)
        }
        Err(error) => {
            maps.restore(taken);
            Err(error)
        }
    }
}

/// madvise(2).
pub fn madvise(_ctx: &Ctx, at: Address, len: usize, advice: Advice) -> Result {
    outside(at, len)?;
    // SAFETY: outside the window, memory is the program's.
    unsafe { host!(madvise, at.0, len, advice.0) }
}

/// msync(2).
pub fn msync(_ctx: &Ctx, at: Address, len: usize, flags: i32) -> Result {
    outside(at, len)?;
    // SAFETY: outside the window, memory is the program's.
    crate::host_file::blocking(|| unsafe { host!(msync, at.0, len, flags) })
}

/// mincore(2).
pub fn mincore(_ctx: &Ctx, at: Address, len: usize, out: UserPtr<u8>) -> Result {
    outside(at, len)?;
    if !in_user_space(out.address(), len.div_ceil(PAGE_SIZE)) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: the host checks `out`, which lies outside kernel state.
    unsafe { host!(mincore, at.0, len, out.address()) }
}

/// mlock(2).
pub fn mlock(_ctx: &Ctx, at: Address, len: usize) -> Result {
    outside(at, len)?;
    // SAFETY: locking changes no content.
    unsafe { host!(mlock, at.0, len) }
}

/// mlock2(2).
pub fn mlock2(_ctx: &Ctx, at: Address, len: usize, flags: u32) -> Result {
    outside(at, len)?;
    // SAFETY: locking changes no content.
    unsafe { host!(mlock2, at.0, len, flags) }
}

/// munlock(2).
pub fn munlock(_ctx: &Ctx, at: Address, len: usize) -> Result {
    outside(at, len)?;
    // SAFETY: unlocking changes no content.
    unsafe { host!(munlock, at.0, len) }
}

/// mbind(2), by the host.
pub fn mbind(
    _ctx: &Ctx,
    at: Address,
    len: usize,
    mode: i32,
    nodes: Address,
    most: usize,
    flags: u32,
) -> Result {
    outside(at, len)?;
    if !in_user_space(nodes.0, most.div_ceil(8)) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: the host checks `nodes`, which lies outside kernel state; placement changes no content.
    unsafe { host!(mbind, at.0, len, mode, nodes.0, most, flags) }
}

/// set_mempolicy(2): threads move between vCPUs, so only the default policy can be promised.
pub fn set_mempolicy(_ctx: &Ctx, mode: i32, _nodes: Address, _most: usize) -> Result {
    if mode == 0 { Ok(0) } else { Err(Errno::ENOSYS) }
}

/// get_mempolicy(2), by the host.
pub fn get_mempolicy(
    _ctx: &Ctx,
    mode: Address,
    nodes: Address,
    most: usize,
    at: Address,
    flags: usize,
) -> Result {
    if !in_user_space(mode.0, 4) || !in_user_space(nodes.0, most.div_ceil(8)) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: the host checks both addresses, which lie outside kernel state.
    unsafe { host!(get_mempolicy, mode.0, nodes.0, most, at.0, flags) }
}

/// EINVAL for what touches the runtime's window.
fn outside(at: Address, len: usize) -> Result<()> {
    if touches_window(at.0, len) { Err(Errno::EINVAL) } else { Ok(()) }
}

// ---- brk ----

/// Address space kept for brk(2). What is not used costs nothing.
const HEAP_ROOM: usize = 64 << 30;

/// The heap of brk(2): a range of its own, of which the part below `end` can be used.
#[derive(Default)]
pub struct Heap(Lock<HeapRange>);

#[derive(Clone, Copy, Default)]
struct HeapRange {
    start: usize,
    room: usize,
    end: usize,
}

impl Heap {
    /// Not begun.
    pub const fn new() -> Heap {
        Heap(Lock::new(HeapRange { start: 0, room: 0, end: 0 }))
    }

    /// The child's heap after fork(2): at the same addresses.
    pub fn fork(&self) -> Heap {
        Heap(Lock::new(*self.0.lock()))
    }

    /// Another program begins (execve(2)): the range went with the old one's memory.
    pub fn renew(&self) {
        *self.0.lock() = HeapRange::default();
    }

    /// Moves the end to `to`; answers where it is then (brk(2), "C library/kernel differences").
    fn set_end(&self, ctx: &Ctx, to: usize) -> Result {
        let mut heap = self.0.lock();
        if heap.start == 0 {
            *heap = HeapRange::reserve()?;
        }
        if to < heap.start || to > heap.start + heap.room {
            return Ok(heap.end);
        }
        let (old, new) = (heap.end.next_multiple_of(PAGE_SIZE), to.next_multiple_of(PAGE_SIZE));
        if new > old && memory_limit::check(ctx, old, new - old).is_err() {
            return Ok(heap.end);
        }
        const PROT_NONE: usize = 0;
        const READ_WRITE: usize = 3;
        // SAFETY: the range is the heap's; what is given up is mapped afresh, so it is zero if it comes back.
        let done = unsafe {
            if new > old {
                host!(mprotect, old, new - old, READ_WRITE)
            } else if new < old {
                let flags = 2 | MAP_ANONYMOUS | MAP_FIXED | 0x4000;
                host!(mmap, new, old - new, PROT_NONE, flags, -1isize, 0)
            } else {
                Ok(0)
            }
        };
        let locked = || new <= old || memory_limit::lock_new(ctx, old, new - old).is_ok();
        if done.is_ok() && locked() {
            heap.end = to;
        }
        Ok(heap.end)
    }
}

impl HeapRange {
    fn reserve() -> Result<HeapRange> {
        const PRIVATE_NORESERVE: u32 = 2 | 0x4000;
        let mut room = HEAP_ROOM;
        loop {
            // SAFETY: a fresh range without rights.
            match unsafe { host!(mmap, 0, room, 0, PRIVATE_NORESERVE | MAP_ANONYMOUS, -1isize, 0) } {
                Ok(start) => {
                    outside_window(start, room)?;
                    return Ok(HeapRange { start, room, end: start });
                }
                // Under a limit on address space a smaller heap must do.
                Err(_) if room > 1 << 20 => room /= 4,
                Err(error) => return Err(error),
            }
        }
    }
}

/// brk(2).
pub fn brk(ctx: &Ctx, to: Address) -> Result {
    ctx.process.heap.set_end(ctx, to.0)
}

// ---- memfd ----

/// memfd_create(2).
pub fn memfd_create(ctx: &Ctx, name: UserStr, flags: u32) -> Result {
    const MFD_CLOEXEC: u32 = 1;
    const NAME_MAX: usize = 249;
    const O_RDWR_LARGEFILE: u32 = 0o100002;
    let name = name.to_vec(NAME_MAX).map_err(|e| if e == Errno::E2BIG { Errno::EINVAL } else { e })?;
    let path = fs::host::CPath::new(&name)?;
    // SAFETY: the name is a C string.
    let fd = HostFd::opened(|| unsafe { host!(memfd_create, path.ptr(), flags | MFD_CLOEXEC) })?;
    let stat = fd.stat()?;
    let text = [b"/memfd:", &name[..], b" (deleted)"].concat();
    let file = HostFile::new(fd, text.into(), None, &stat);
    ctx.install(Arc::new(OpenFile::new(file, O_RDWR_LARGEFILE)), flags & MFD_CLOEXEC != 0)
}
