//! The host calls that std has no name for: descriptors over Unix sockets, eventfd, memfd, epoll.
//! The only unsafe file of this crate but for the ring ends in `server`.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// Descriptors in one message at most.
pub(crate) const MAX_FDS: usize = 64;
/// Bytes in one message at most.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;

pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Takes ownership of a descriptor that a call has just made.
fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pair of connected SOCK_SEQPACKET sockets.
pub(crate) fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: two descriptors fit.
    check(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    })?;
    Ok((owned(fds[0])?, owned(fds[1])?))
}

/// An eventfd that never blocks.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory arguments.
    owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })
}

/// Adds 1 to an eventfd. A full counter wakes as well as any.
pub(crate) fn ring(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes, as eventfd(2) wants them.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

/// Sets an eventfd to 0.
pub(crate) fn silence(fd: RawFd) {
    let mut count = [0u8; 8];
    // SAFETY: eight bytes, as eventfd(2) gives them.
    unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) };
}

/// Shared memory of fixed size: nobody who has the descriptor can shrink it under somebody's mapping.
pub(crate) fn memfd(name: &std::ffi::CStr, len: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let fd =
        owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) })?;
    // SAFETY: no memory arguments.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) })?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no memory arguments.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(fd)
}

/// A shared mapping of a whole memfd.
pub(crate) struct Mapping {
    pub(crate) base: *mut u8,
    pub(crate) len: usize,
}

// SAFETY: an address range; who reads or writes it argues there.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(crate) fn new(fd: BorrowedFd<'_>, writable: bool) -> io::Result<Mapping> {
        // SAFETY: an all-zero stat is valid.
        let mut stat: libc::stat = unsafe { zeroed() };
        // SAFETY: `stat` is ours.
        check(unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) })?;
        Mapping::part(fd, stat.st_size as usize, 0, writable)
    }

    /// A part of what the descriptor offers, writable.
    pub(crate) fn at_offset(fd: BorrowedFd<'_>, len: usize, offset: u64) -> io::Result<Mapping> {
        Mapping::part(fd, len, offset, true)
    }

    fn part(fd: BorrowedFd<'_>, len: usize, offset: u64, writable: bool) -> io::Result<Mapping> {
        let prot = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            let none = std::ptr::null_mut();
            libc::mmap(none, len, prot, libc::MAP_SHARED, fd.as_raw_fd(), offset as libc::off_t)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { base: base.cast(), len })
    }
}

impl Mapping {
    /// Has the pages mapped now and not at their first use. Only speed depends on it.
    pub(crate) fn populate(&self) {
        const MADV_POPULATE_WRITE: libc::c_int = 23;
        // SAFETY: our own mapping; its content stays.
        unsafe { libc::madvise(self.base.cast(), self.len, MADV_POPULATE_WRITE) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the owner drops what uses the memory before (field order in `server::Port`).
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Sends one message with descriptors.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, bytes, fds, 0)
}

/// As [`send`], without waiting for a receiver that does not take.
pub(crate) fn post(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, bytes, fds, libc::MSG_DONTWAIT)
}

fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: libc::c_int,
) -> io::Result<()> {
    assert!(fds.len() <= MAX_FDS);
    let mut part = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    // u64: aligned for cmsghdr.
    let mut control = [0u64; 4 + MAX_FDS / 2];
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    // SAFETY: all-zero is an empty message.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !raw.is_empty() {
        let payload = std::mem::size_of_val(raw.as_slice()) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: arithmetic only; the space fits `control` (MAX_FDS descriptors).
        message.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as usize;
        // SAFETY: `control` holds one header and the descriptors (see above).
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as usize;
            std::ptr::copy_nonoverlapping(
                raw.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(header),
                payload as usize,
            );
        }
    }
    // SAFETY: the message points at live memory of these lengths.
    check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags | libc::MSG_NOSIGNAL) }).map(drop)
}

/// Receives one message with descriptors; empty bytes mean that the peer has closed.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    receive_with(socket, 0)
}

/// As [`receive`], without waiting.
pub(crate) fn receive_now(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    receive_with(socket, libc::MSG_DONTWAIT)
}

fn receive_with(socket: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0u8; MAX_MESSAGE];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = [0u64; 4 + MAX_FDS / 2];
    // SAFETY: all-zero is an empty message.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; 4 + MAX_FDS / 2]>();
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message points at live memory of these lengths.
    let len = check_len(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) })?;
    let mut fds = Vec::new();
    // SAFETY: the kernel wrote well-formed headers into `control`; each descriptor is fresh and ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                fds.extend((0..count).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a control message is too long"));
    }
    bytes.truncate(len);
    Ok((bytes, fds))
}

/// An epoll instance.
pub(crate) struct Epoll(OwnedFd);

pub(crate) const IN: u32 = libc::EPOLLIN as u32;
pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
pub(crate) const ERR: u32 = libc::EPOLLERR as u32;
pub(crate) const HUP: u32 = libc::EPOLLHUP as u32;
pub(crate) const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub(crate) const EDGE: u32 = libc::EPOLLET as u32;

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no memory arguments.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Epoll)
    }

    /// Watches a descriptor until it is closed.
    pub(crate) fn add(&self, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` is ours.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    /// Watches a descriptor no more.
    pub(crate) fn remove(&self, fd: RawFd) {
        // SAFETY: no memory arguments that are used.
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits at most `timeout_ns` (`None`: for ever).
    pub(crate) fn wait(
        &self,
        events: &mut [libc::epoll_event],
        timeout_ns: Option<u64>,
    ) -> io::Result<usize> {
        let timeout = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        let pointer = timeout.as_ref().map_or(std::ptr::null(), |t| t as *const _);
        // SAFETY: `events` is ours and as long as said.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                pointer,
                std::ptr::null::<libc::sigset_t>(),
                8usize,
            )
        };
        match check_len(count as isize) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }
}

/// recv(2) without waiting.
pub(crate) fn recv(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `into` is ours and as long as said.
    check_len(unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) })
}

/// send(2) without waiting and without SIGPIPE.
pub(crate) fn send_bytes(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is as long as said.
    check_len(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// shutdown(2) of the sending direction.
pub(crate) fn shutdown_write(fd: RawFd) {
    // SAFETY: no memory arguments.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Makes the close of a TCP socket a reset.
pub(crate) fn reset_on_close(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
}

/// TCP_NODELAY: what the guest's engine sent as a segment should not wait here.
pub(crate) fn no_delay(fd: RawFd) {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32);
}

fn set_option<T>(fd: RawFd, level: i32, name: i32, value: &T) {
    // SAFETY: `value` is as long as said.
    unsafe { libc::setsockopt(fd, level, name, (value as *const T).cast(), size_of::<T>() as u32) };
}

/// Room for what was sent at `socket` and not read at the other end: past the host's limit if we may, else up to it.
pub(crate) fn set_send_buffer(socket: BorrowedFd<'_>, bytes: i32) {
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes);
}

/// Begins a connection without waiting for it.
pub(crate) fn connect(to: std::net::SocketAddr, udp: bool) -> io::Result<OwnedFd> {
    let (family, address, len) = sockaddr(to);
    let kind = if udp { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
    // SAFETY: no memory arguments.
    let fd = owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: the address is a sockaddr of `len` bytes.
    match check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(fd),
    }
}

/// SO_ERROR.
pub(crate) fn take_error(fd: RawFd) -> i32 {
    let (mut error, mut len) = (0i32, 4u32);
    // SAFETY: an int and its length.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &mut len) };
    error
}

fn sockaddr(to: std::net::SocketAddr) -> (i32, libc::sockaddr_storage, u32) {
    // SAFETY: all-zero is a valid sockaddr_storage; the casts below stay inside it.
    unsafe {
        let mut storage: libc::sockaddr_storage = zeroed();
        match to {
            std::net::SocketAddr::V4(v4) => {
                let address = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                address.sin_family = libc::AF_INET as u16;
                address.sin_port = v4.port().to_be();
                address.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                (libc::AF_INET, storage, size_of::<libc::sockaddr_in>() as u32)
            }
            std::net::SocketAddr::V6(v6) => {
                let address = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                address.sin6_family = libc::AF_INET6 as u16;
                address.sin6_port = v6.port().to_be();
                address.sin6_addr.s6_addr = v6.ip().octets();
                address.sin6_scope_id = v6.scope_id();
                (libc::AF_INET6, storage, size_of::<libc::sockaddr_in6>() as u32)
            }
        }
    }
}

/// What fork(2) says.
pub(crate) enum Fork {
    Parent(libc::pid_t),
    Child,
}

/// fork(2). The caller has one thread: the child may go on with all of std.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: single-threaded (see the callers), so no lock is held by a thread that the child lacks.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// waitpid(2): how the child ended, or `None` if `block` is false and it runs.
pub(crate) fn wait(pid: libc::pid_t, block: bool) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: an int.
    let got = check(unsafe { libc::waitpid(pid, &mut status, if block { 0 } else { libc::WNOHANG }) })?;
    Ok((got == pid).then_some(status))
}

/// Has `platform::time` read clocks through libc, and so through the vDSO, instead of by system calls.
pub(crate) fn use_fast_clock() {
    // SAFETY: clock_gettime(2) of libc has the vDSO function's type and stays mapped.
    unsafe { platform::time::set_vdso_clock_gettime(libc::clock_gettime as *const () as usize) };
}

/// The process's name in ps(1).
pub(crate) fn set_name(name: &std::ffi::CStr) {
    // SAFETY: reads a NUL-terminated name.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Leaves the caller's terminal, closes its standard streams, and takes a name of its own.
///
/// A process group of its own, so that nothing the terminal says means it; not a session (setsid(2)), which is a scheduling
/// group of its own where the host has autogroups (sched(7)). Such a group, whose few tasks sleep most of the time,
/// has next to no weight, and on a host that is busy otherwise it may wait for ten seconds (Linux 6.18) while guests
/// wait for it. In the caller's session it is in the group of the guests that it serves.
pub(crate) fn become_daemon(name: &std::ffi::CStr, log: Option<&std::path::Path>) {
    let log = log.and_then(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok());
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").ok();
    set_name(name);
    // SAFETY: descriptors 0 to 2 are replaced by open ones.
    unsafe {
        libc::setpgid(0, 0);
        if let Some(null) = null {
            for fd in 0..3 {
                libc::dup2(null.as_raw_fd(), fd);
            }
        }
        if let Some(log) = log {
            libc::dup2(log.as_raw_fd(), 2);
        }
        libc::chdir(c"/".as_ptr());
        let of_terminals =
            [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        for signal in of_terminals.into_iter().chain([libc::SIGPIPE]) {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Ends the process at once, without destructors of what a parent still uses.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Waits until one of the descriptors is readable or closed.
pub(crate) fn poll_readable(fds: &[RawFd], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the array is ours and as long as said.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(polled.iter().map(|p| p.revents != 0).collect()),
    }
}

/// A Unix socket's address; names that are too long are refused.
fn unix_address(path: &Path) -> io::Result<(libc::sockaddr_un, u32)> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let words = format!("{}: too long for a socket's path (set XDG_RUNTIME_DIR)", path.display());
        return Err(io::Error::other(words));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, len as u32))
}

fn seqpacket() -> io::Result<OwnedFd> {
    // SAFETY: no memory arguments.
    owned(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })
}

/// Listens at a path, which nobody else listens at; never blocks in accept.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let (address, len) = unix_address(path)?;
    let fd = seqpacket()?;
    let _ = std::fs::remove_file(path);
    // SAFETY: the address is `len` bytes long.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: no memory arguments.
    check(unsafe { libc::listen(fd.as_raw_fd(), 128) })?;
    // SAFETY: no memory arguments.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(fd)
}

/// The next connection.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let none = std::ptr::null_mut();
    // SAFETY: no address is asked for.
    owned(unsafe { libc::accept4(listener.as_raw_fd(), none, none.cast(), libc::SOCK_CLOEXEC) })
}

/// Connects to a path.
pub(crate) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let (address, len) = unix_address(path)?;
    let fd = seqpacket()?;
    // SAFETY: the address is `len` bytes long.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(fd)
}

/// The process at the other end of a Unix socket, when it connected.
pub(crate) fn peer_pid(socket: BorrowedFd<'_>) -> io::Result<libc::pid_t> {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as u32;
    // SAFETY: a ucred and its length.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &mut len,
        )
    })?;
    Ok(who.pid)
}

/// A descriptor for a process: readable when it has ended.
pub(crate) fn pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no memory arguments.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)
}

/// Kills the process behind a pidfd.
pub(crate) fn kill(pidfd: BorrowedFd<'_>) {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is read.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, none, 0) };
}

/// A descriptor that is readable when a child has ended or stopped. SIGCHLD is blocked from now on.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is ours; only the signal mask changes.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        owned(libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))
    }
}

/// Takes what a signalfd or eventfd holds.
pub(crate) fn drain(fd: RawFd) {
    let mut bytes = [0u8; 128];
    // SAFETY: memory of ours. (A signalfd gives one record of 128 bytes at a time.)
    while unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) } == 128 {}
}

/// What became of a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Ended(i32),
    Stopped,
}

/// The next child that ended (it is reaped) or stopped.
pub(crate) fn next_fate() -> Option<(libc::pid_t, Fate)> {
    let mut status = 0;
    // SAFETY: an int.
    match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED) } {
        pid if pid > 0 && libc::WIFSTOPPED(status) => Some((pid, Fate::Stopped)),
        pid if pid > 0 => Some((pid, Fate::Ended(status))),
        _ => None,
    }
}

/// Closes all descriptors but the standard streams and these.
pub(crate) fn close_others(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().map(|&fd| fd as u32).filter(|&fd| fd > 2).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: the caller, a fresh child, uses only what it keeps.
            unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// Lets a descriptor survive exec.
pub(crate) fn keep_over_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory arguments.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

/// Back to the default for signals that a daemon ignores or blocks: what exec would hand on.
pub(crate) fn unblock_signals() {
    // SAFETY: the set is ours; only the signal mask changes.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// A file in memory, which may grow.
pub(crate) fn open_memfd(name: &std::ffi::CStr) -> io::Result<std::fs::File> {
    // SAFETY: the name is NUL-terminated.
    owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) }).map(std::fs::File::from)
}

/// Whether nobody can change the size of this memory.
pub(crate) fn check_sealed(memory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory arguments.
    let seals = check(unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_GET_SEALS) })?;
    let wanted = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    if seals & wanted == wanted { Ok(()) } else { Err(io::Error::other("its memory is not sealed")) }
}

/// Whether this is an eventfd, on which a write does not block for long.
pub(crate) fn check_eventfd(bell: BorrowedFd<'_>) -> io::Result<()> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", bell.as_raw_fd()))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(io::Error::other("a bell is no eventfd"));
    }
    // SAFETY: no memory arguments.
    check(unsafe { libc::fcntl(bell.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}

/// Another descriptor for the same; used where the old one's owner never comes to drop it.
pub(crate) fn duplicate(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().expect("a process that has just begun has descriptors left")
}
