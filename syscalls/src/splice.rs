//! Moving bytes between two descriptors inside the kernel: sendfile, splice, tee, vmsplice,
//! copy_file_range.
//!
//! Bytes pass through one kernel buffer. For a file that is sent to a socket it is filled from the
//! host's page cache by one host call for each [`CHUNK`], and emptied into the connection's queue.

use crate::args::Fd;
use crate::buffer::{Slice, SliceMut};
use crate::context::Ctx;
use crate::file::{Buffer, OpenFile};
use crate::host_file::blocking;
use crate::hub::Events;
use crate::pipe::End;
use crate::rw;
use crate::tree_file::{Dir, InnerFile};
use crate::user::{Iovec, UserPtr, UserVec};
use crate::wait::{self, Waiting};
use crate::{Errno, Result};
use alloc::vec::Vec;
use platform::host;

/// Bytes for each step.
const CHUNK: usize = 128 * 1024;
/// The most that one call moves (`MAX_RW_COUNT`).
const MOST: usize = 0x7fff_f000;
const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_F_ALL: u32 = 0xf;

/// sendfile(2).
pub fn sendfile(ctx: &Ctx, out: Fd, input: Fd, offset: UserPtr<i64>, count: usize) -> Result {
    let from = rw::readable(ctx, input)?;
    let to = rw::writable(ctx, out)?;
    let at = match offset.read_optional()? {
        Some(at) => u64::try_from(at).map_err(|_| Errno::EINVAL)?,
        None => rw::position(&from).map_err(|_| Errno::EINVAL)?,
    };
    if !from.file.seekable() || from.downcast::<Dir>().is_some() || rw::appends(&to) {
        return Err(Errno::EINVAL);
    }
    // A pipe without a reader is found before the file's end is.
    if to.downcast::<End>().is_some_and(End::poll_error) {
        rw::raise_sigpipe(ctx);
        return Err(Errno::EPIPE);
    }
    let sent = ctx.task.stay.holding(&[&from, &to], || pump(ctx, &from, at, &to, count.min(MOST), false))?;
    let end = at + sent as u64;
    if offset.is_null() {
        rw::set_position(&from, end)?
    } else {
        offset.write(end as i64)?
    }
    Ok(sent)
}

/// Sends `count` bytes of a file from `at`; as many as go without waiting if `to` does not block.
fn pump(ctx: &Ctx, from: &OpenFile, at: u64, to: &OpenFile, count: usize, no_wait: bool) -> Result {
    let mut buffer = room(count)?;
    let mut done = 0;
    while done < count {
        let len = buffer.len().min(count - done);
        let got = match read_at(from, at + done as u64, &mut buffer[..len]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        let mut bytes = Slice::new(&buffer[..got]);
        let wrote = write_some(ctx, to, &mut bytes, no_wait);
        done += got - bytes.remaining();
        match wrote {
            Ok(_) if bytes.remaining() == 0 => {}
            Ok(_) => break,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn room(count: usize) -> Result<Vec<u8>> {
    let len = count.min(CHUNK);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(len, 0);
    Ok(buffer)
}

fn read_at(from: &OpenFile, at: u64, into: &mut [u8]) -> Result {
    match rw::regular(from) {
        Some(host) => {
            let buffer = Iovec { base: into.as_mut_ptr() as usize, len: into.len() };
            host.read_regular(&[buffer], at as i64)
        }
        None => from.file.read(from, &mut { at }, &mut SliceMut::new(into)),
    }
}

/// Writes at the file's own position. The source tells how much went.
fn write_some(ctx: &Ctx, to: &OpenFile, bytes: &mut Slice<'_>, no_wait: bool) -> Result {
    if let Some(host) = rw::regular(to) {
        let (base, len) = crate::file::Source::chunk(bytes);
        let count = host.write_regular(&[Iovec { base, len }], crate::host_file::AT_OFFSET, 0)?;
        crate::file::Source::advance(bytes, count);
        return Ok(count);
    }
    if no_wait && !to.file.seekable() && to.file.as_socket().is_none() {
        return to.file.write(to, &mut 0, bytes);
    }
    rw::write_open(ctx, to, bytes)
}

/// splice(2): one of both is a pipe.
pub fn splice(
    ctx: &Ctx,
    input: Fd,
    in_offset: UserPtr<i64>,
    out: Fd,
    out_offset: UserPtr<i64>,
    count: usize,
    flags: u32,
) -> Result {
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if count == 0 {
        return Ok(0);
    }
    let from = rw::readable(ctx, input)?;
    let to = rw::writable(ctx, out)?;
    let (in_pipe, out_pipe) = (from.downcast::<End>(), to.downcast::<End>());
    if in_pipe.is_none() && out_pipe.is_none() {
        return Err(Errno::EINVAL);
    }
    if (in_pipe.is_some() && !in_offset.is_null()) || (out_pipe.is_some() && !out_offset.is_null()) {
        return Err(Errno::ESPIPE);
    }
    let no_wait = flags & SPLICE_F_NONBLOCK != 0;
    ctx.task.stay.holding(&[&from, &to], || match out_pipe {
        Some(end) => into_pipe(ctx, &from, in_offset, &to, end, count, no_wait),
        None => out_of_pipe(ctx, &from, &to, out_offset, count, no_wait),
    })
}

fn into_pipe(
    ctx: &Ctx,
    from: &OpenFile,
    offset: UserPtr<i64>,
    to: &OpenFile,
    end: &End,
    count: usize,
    no_wait: bool,
) -> Result {
    let given = offset.read_optional()?;
    // From pipe to pipe, the one with the bytes is asked first (splice_pipe_to_pipe).
    if let Some(source) = from.downcast::<End>() {
        let attempt = || source.peek(&mut [0]);
        let how = Waiting::for_events(Events::READABLE);
        // Its end, too, comes after what is wrong with the other one.
        if no_wait {
            attempt()?
        } else {
            wait::block_on(ctx, from, how, attempt)?
        };
    }
    // No more is taken from the source than the pipe has room for: it could not be put back.
    let room_in_pipe = || match end.capacity() - end.len() {
        _ if end.poll_error() => Err(Errno::EPIPE),
        0 => Err(Errno::EAGAIN),
        room => Ok(room),
    };
    let how = Waiting::for_events(Events::WRITABLE);
    let fits = if no_wait { room_in_pipe() } else { wait::block_on(ctx, to, how, room_in_pipe) };
    let fits = fits.inspect_err(|&error| {
        if error == Errno::EPIPE {
            rw::raise_sigpipe(ctx);
        }
    })?;
    let len = count.min(fits).min(CHUNK);
    if from.file.seekable() {
        let at = match given {
            Some(at) => u64::try_from(at).map_err(|_| Errno::EINVAL)?,
            None => rw::position(from)?,
        };
        let moved = pump(ctx, from, at, to, len, true)?;
        match given {
            Some(_) => offset.write((at + moved as u64) as i64)?,
            None => rw::set_position(from, at + moved as u64)?,
        }
        return Ok(moved);
    }
    if given.is_some() {
        return Err(Errno::ESPIPE);
    }
    let mut buffer = room(len)?;
    let mut into = SliceMut::new(&mut buffer);
    let got = if no_wait && from.file.as_socket().is_none() {
        from.file.read(from, &mut 0, &mut into)?
    } else {
        rw::read_open(ctx, from, &mut into)?
    };
    let mut bytes = Slice::new(&buffer[..got]);
    while bytes.remaining() > 0 {
        rw::write_open(ctx, to, &mut bytes)?;
        if bytes.remaining() > 0 {
            // Another writer took the room: what was taken from the source waits for it, whatever the flags.
            wait::block_on(ctx, to, how, room_in_pipe)?;
        }
    }
    Ok(got)
}

fn out_of_pipe(
    ctx: &Ctx,
    from: &OpenFile,
    to: &OpenFile,
    offset: UserPtr<i64>,
    count: usize,
    no_wait: bool,
) -> Result {
    if rw::appends(to) {
        return Err(Errno::EINVAL);
    }
    let given = offset.read_optional()?;
    let mut buffer = room(count)?;
    // Look first and take what was written: what does not fit stays in the pipe.
    let peeked = |buffer: &mut [u8]| from.downcast::<End>().ok_or(Errno::EINVAL)?.peek(buffer);
    let how = Waiting::for_events(Events::READABLE);
    let got =
        if no_wait { peeked(&mut buffer)? } else { wait::block_on(ctx, from, how, || peeked(&mut buffer))? };
    let mut bytes = Slice::new(&buffer[..got]);
    let done = match given {
        Some(at) => {
            let mut at = u64::try_from(at).map_err(|_| Errno::EINVAL)?;
            if !to.file.seekable() {
                return Err(Errno::ESPIPE);
            }
            let done = to.file.write(to, &mut at, &mut bytes)?;
            offset.write(at as i64)?;
            done
        }
        None => match write_some(ctx, to, &mut bytes, no_wait) {
            Err(error) if bytes.remaining() == got => return Err(error),
            _ => got - bytes.remaining(),
        },
    };
    from.file.read(from, &mut 0, &mut SliceMut::new(&mut buffer[..done]))?;
    Ok(done)
}

/// tee(2).
pub fn tee(ctx: &Ctx, input: Fd, out: Fd, count: usize, flags: u32) -> Result {
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let from = rw::readable(ctx, input)?;
    let to = rw::writable(ctx, out)?;
    let (source, target) = (from.downcast::<End>(), to.downcast::<End>());
    let (source, target) = source.zip(target).ok_or(Errno::EINVAL)?;
    let attempt = || source.tee(target, count.min(CHUNK));
    if flags & SPLICE_F_NONBLOCK != 0 || count == 0 {
        return if count == 0 { Ok(0) } else { attempt() };
    }
    ctx.task.stay.holding(&[&from, &to], || {
        wait::block_on(ctx, &from, Waiting::for_events(Events::READABLE), || {
            if source.is_empty() { attempt() } else { Ok(0) }
        })?;
        wait::block_on(ctx, &to, Waiting::for_events(Events::WRITABLE), attempt)
    })
}

/// vmsplice(2): as writev or readv of the pipe; SPLICE_F_GIFT is a hint.
pub fn vmsplice(ctx: &Ctx, fd: Fd, vector: UserPtr<Iovec>, count: usize, flags: u32) -> Result {
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let open = ctx.file(fd)?;
    let end = open.downcast::<End>().ok_or(Errno::EBADF)?;
    let mut buffers = UserVec::new(vector, count)?;
    match (end.writes(), flags & SPLICE_F_NONBLOCK != 0) {
        (true, false) => rw::write_open(ctx, &open, &mut buffers),
        (true, true) => open.file.write(&open, &mut 0, &mut buffers),
        (false, false) => rw::read_open(ctx, &open, &mut buffers),
        (false, true) => open.file.read(&open, &mut 0, &mut buffers),
    }
}

/// copy_file_range(2).
pub fn copy_file_range(
    ctx: &Ctx,
    input: Fd,
    in_offset: UserPtr<i64>,
    out: Fd,
    out_offset: UserPtr<i64>,
    count: usize,
    flags: u32,
) -> Result {
    // The order of the checks is the kernel's (vfs_copy_file_range): kinds before modes.
    let (from, to) = (ctx.file(input)?, ctx.file(out)?);
    if from.downcast::<Dir>().is_some() || to.downcast::<Dir>().is_some() {
        return Err(Errno::EISDIR);
    }
    let is_file = |open: &OpenFile| rw::regular(open).is_some() || open.downcast::<InnerFile>().is_some();
    if flags != 0 || !is_file(&from) || !is_file(&to) {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (rw::readable(ctx, input)?, rw::writable(ctx, out)?);
    if rw::appends(&to) {
        return Err(Errno::EBADF);
    }
    let given = (in_offset.read_optional()?, out_offset.read_optional()?);
    let start = |given: Option<i64>, open: &OpenFile| match given {
        Some(at) => u64::try_from(at).map_err(|_| Errno::EINVAL),
        None => rw::position(open),
    };
    let (mut source, mut target) = (start(given.0, &from)?, start(given.1, &to)?);
    let count = count.min(MOST);
    let moved = match (rw::regular(&from), rw::regular(&to)) {
        (Some(one), Some(two)) => {
            let (one, two) = (one.fd.raw(), two.fd.raw());
            let (mut at, mut to) = (source as i64, target as i64);
            blocking(move || {
                // SAFETY: two offsets of ours; the rest are numbers.
                unsafe { host!(copy_file_range, one, &raw mut at, two, &raw mut to, count, 0) }
            })?
        }
        _ => copy_through(&from, source, &to, target, count)?,
    };
    source += moved as u64;
    target += moved as u64;
    if given.0.is_some() {
        in_offset.write(source as i64)?
    } else {
        rw::set_position(&from, source)?
    }
    if given.1.is_some() {
        out_offset.write(target as i64)?
    } else {
        rw::set_position(&to, target)?
    }
    Ok(moved)
}

fn copy_through(from: &OpenFile, source: u64, to: &OpenFile, target: u64, count: usize) -> Result {
    let mut buffer = room(count)?;
    let mut done = 0;
    while done < count {
        let len = buffer.len().min(count - done);
        let got = read_at(from, source + done as u64, &mut buffer[..len])?;
        if got == 0 {
            break;
        }
        let mut at = target + done as u64;
        match to.file.write(to, &mut at, &mut Slice::new(&buffer[..got])) {
            Ok(wrote) => done += wrote,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
