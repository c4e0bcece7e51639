//! <sys/socket.h>.

use crate::kcall;
use crate::types::*;
use crate::wrappers;
use platform::time::Timespec;

wrappers! { EXPORTS "libc.so.6":
    /// socket(2).
    "GLIBC_2.2.5" plain socket(family: c_int, kind: c_int, protocol: c_int) -> c_int = socket(family, kind, protocol);
    /// socketpair(2).
    "GLIBC_2.2.5" plain socketpair(family: c_int, kind: c_int, protocol: c_int, to: *mut c_int) -> c_int
        = socketpair(family, kind, protocol, to);
    /// bind(2).
    "GLIBC_2.2.5" plain bind(fd: c_int, address: *const c_void, len: socklen_t) -> c_int = bind(fd, address, len);
    /// listen(2).
    "GLIBC_2.2.5" plain listen(fd: c_int, backlog: c_int) -> c_int = listen(fd, backlog);
    /// accept(2).
    "GLIBC_2.2.5" point accept(fd: c_int, address: *mut c_void, len: *mut socklen_t) -> c_int = accept(fd, address, len);
    /// accept4(2).
    "GLIBC_2.10" point accept4(fd: c_int, address: *mut c_void, len: *mut socklen_t, flags: c_int) -> c_int
        = accept4(fd, address, len, flags);
    /// connect(2).
    "GLIBC_2.2.5" point connect(fd: c_int, address: *const c_void, len: socklen_t) -> c_int = connect(fd, address, len);
    /// getsockname(2).
    "GLIBC_2.2.5" plain getsockname(fd: c_int, address: *mut c_void, len: *mut socklen_t) -> c_int
        = getsockname(fd, address, len);
    /// getpeername(2).
    "GLIBC_2.2.5" plain getpeername(fd: c_int, address: *mut c_void, len: *mut socklen_t) -> c_int
        = getpeername(fd, address, len);
    /// getsockopt(2).
    "GLIBC_2.2.5" plain getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int
        = getsockopt(fd, level, name, value, len);
    /// setsockopt(2).
    "GLIBC_2.2.5" plain setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int
        = setsockopt(fd, level, name, value, len);
    /// shutdown(2).
    "GLIBC_2.2.5" plain shutdown(fd: c_int, how: c_int) -> c_int = shutdown(fd, how);
    /// send(2).
    "GLIBC_2.2.5" point send(fd: c_int, from: *const c_void, len: usize, flags: c_int) -> isize
        = sendto(fd, from, len, flags, 0, 0);
    /// sendto(2).
    "GLIBC_2.2.5" point sendto(
        fd: c_int, from: *const c_void, len: usize, flags: c_int, address: *const c_void, address_len: socklen_t,
    ) -> isize = sendto(fd, from, len, flags, address, address_len);
    /// sendmsg(2).
    "GLIBC_2.2.5" point sendmsg(fd: c_int, message: *const c_void, flags: c_int) -> isize = sendmsg(fd, message, flags);
    /// sendmmsg(2).
    "GLIBC_2.14" point sendmmsg(fd: c_int, messages: *mut c_void, count: c_uint, flags: c_int) -> c_int
        = sendmmsg(fd, messages, count, flags);
    /// recv(2).
    "GLIBC_2.2.5" point recv(fd: c_int, to: *mut c_void, len: usize, flags: c_int) -> isize
        = recvfrom(fd, to, len, flags, 0, 0);
    /// recvfrom(2).
    "GLIBC_2.2.5" point recvfrom(
        fd: c_int, to: *mut c_void, len: usize, flags: c_int, address: *mut c_void, address_len: *mut socklen_t,
    ) -> isize = recvfrom(fd, to, len, flags, address, address_len);
    /// recvmsg(2).
    "GLIBC_2.2.5" point recvmsg(fd: c_int, message: *mut c_void, flags: c_int) -> isize = recvmsg(fd, message, flags);
    /// recvmmsg(2).
    "GLIBC_2.12" point recvmmsg(fd: c_int, messages: *mut c_void, count: c_uint, flags: c_int, timeout: *mut Timespec)
        -> c_int = recvmmsg(fd, messages, count, flags, timeout);
    /// sendfile(2).
    "GLIBC_2.2.5" point sendfile(to: c_int, from: c_int, offset: *mut off_t, count: usize) -> isize
        = sendfile(to, from, offset, count);
}

abi! { MORE "libc.so.6":
    /// sockatmark(3).
    "GLIBC_2.2.5" fn sockatmark(fd: c_int) -> c_int {
        const SIOCATMARK: usize = 0x8905;
        let mut answer: c_int = 0;
        // SAFETY: our own word.
        match unsafe { kcall!(ioctl, fd, SIOCATMARK, &raw mut answer) } {
            Ok(_) => answer,
            Err(errno) => crate::errno::int(Err(errno)),
        }
    }
    /// isfdtype(3).
    "GLIBC_2.2.5" fn isfdtype(fd: c_int, kind: c_int) -> c_int {
        let mut state = crate::stat::Stat::default();
        // SAFETY: our own struct.
        match unsafe { kcall!(fstat, fd, &raw mut state) } {
            Ok(_) => c_int::from(state.mode as c_int & 0o170000 == kind),
            Err(errno) => crate::errno::int(Err(errno)),
        }
    }
    /// recv(2) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __recv_chk(fd: c_int, to: *mut c_void, len: usize, room: usize, flags: c_int) -> isize {
        crate::unistd::check(len, room);
        // SAFETY: forwarded.
        unsafe { recv(fd, to, len, flags) }
    }
    /// recvfrom(2) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __recvfrom_chk(
        fd: c_int, to: *mut c_void, len: usize, room: usize, flags: c_int, address: *mut c_void,
        address_len: *mut socklen_t,
    ) -> isize {
        crate::unistd::check(len, room);
        // SAFETY: forwarded.
        unsafe { recvfrom(fd, to, len, flags, address, address_len) }
    }
    /// CMSG_NXTHDR of cmsg(3), as a function.
    "GLIBC_2.2.5" fn __cmsg_nxthdr(message: *mut Message, control: *mut Control) -> *mut Control {
        // SAFETY: the program's message; the header lies in its control buffer.
        unsafe {
            let end = (*message).control as usize + (*message).control_len;
            let len = (*control).len;
            if len < size_of::<Control>() {
                return core::ptr::null_mut();
            }
            let next = (control as usize).saturating_add(len).saturating_add(7) & !7;
            if next.saturating_add(size_of::<Control>()) > end {
                return core::ptr::null_mut();
            }
            let next = next as *mut Control;
            if next as usize + (((*next).len + 7) & !7) > end { core::ptr::null_mut() } else { next }
        }
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__connect" = connect;
    alias "GLIBC_2.2.5" "__send" = send;
    alias "GLIBC_2.3" "sendfile64" = sendfile;
}

/// `struct msghdr`.
#[repr(C)]
pub struct Message {
    name: *mut c_void,
    name_len: socklen_t,
    parts: *mut c_void,
    part_count: usize,
    control: *mut c_void,
    control_len: usize,
    flags: c_int,
}

/// `struct cmsghdr`.
#[repr(C)]
pub struct Control {
    len: usize,
    level: c_int,
    kind: c_int,
}
