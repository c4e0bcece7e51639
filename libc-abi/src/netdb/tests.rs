//! Against the host's glibc, and against a name server of our own on loopback.

use super::addrinfo::{Hints, flag, freeaddrinfo, getaddrinfo};
use super::conf::{Conf, Server, Source};
use super::hosts::Address;
use super::*;
use proptest::prelude::*;
use std::borrow::ToOwned;
use std::ffi::{CStr, CString};
use std::net::{TcpListener, UdpSocket};
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

mod host {
    use core::ffi::{c_char, c_int, c_void};
    unsafe extern "C" {
        pub(super) fn inet_pton(family: c_int, text: *const c_char, to: *mut c_void) -> c_int;
        pub(super) fn inet_ntop(
            family: c_int,
            from: *const c_void,
            to: *mut c_char,
            size: u32,
        ) -> *const c_char;
        pub(super) fn inet_aton(text: *const c_char, to: *mut u32) -> c_int;
        pub(super) fn inet_network(text: *const c_char) -> u32;
        pub(super) fn ether_aton_r(text: *const c_char, to: *mut [u8; 6]) -> *mut c_void;
        pub(super) fn hstrerror(error: c_int) -> *const c_char;
    }
    #[link(name = "resolv")]
    unsafe extern "C" {
        pub(super) fn dn_comp(
            a: *const c_char,
            b: *mut u8,
            c: c_int,
            d: *mut *const u8,
            e: *mut *const u8,
        ) -> c_int;
        pub(super) fn dn_expand(a: *const u8, b: *const u8, c: *const u8, d: *mut c_char, e: c_int) -> c_int;
        pub(super) fn ns_name_pton(a: *const c_char, b: *mut u8, c: usize) -> c_int;
    }
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn check_address(text: &str) {
    let text = c(text);
    // SAFETY: C strings and buffers of ours, for us and for the host alike.
    unsafe {
        for family in [AF_INET, AF_INET6, 1] {
            let (mut ours, mut theirs) = ([0u8; 16], [0u8; 16]);
            let a = inet::inet_pton(family, text.as_ptr(), ours.as_mut_ptr().cast());
            let b = host::inet_pton(family, text.as_ptr(), theirs.as_mut_ptr().cast());
            assert_eq!(a, b, "inet_pton({family}, {text:?})");
            if a == 1 {
                assert_eq!(ours, theirs, "inet_pton({family}, {text:?})");
            }
        }
        let (mut ours, mut theirs) = (0, 0);
        let a = inet::inet_aton(text.as_ptr(), &mut ours);
        let b = host::inet_aton(text.as_ptr(), &mut theirs);
        assert_eq!((a != 0, ours), (b != 0, theirs), "inet_aton({text:?})");
        assert_eq!(
            inet::inet_network(text.as_ptr()),
            host::inet_network(text.as_ptr()),
            "inet_network({text:?})"
        );
        let (mut ours, mut theirs) = ([0u8; 6], [0u8; 6]);
        let a = inet::ether_aton_r(text.as_ptr(), &mut ours).is_null();
        let b = host::ether_aton_r(text.as_ptr(), &mut theirs).is_null();
        assert_eq!(a, b, "ether_aton({text:?})");
        if !a {
            assert_eq!(ours, theirs, "ether_aton({text:?})");
        }
    }
}

#[test]
fn addresses_as_glibc_reads_them() {
    for text in [
        "",
        ".",
        "1",
        "1.2",
        "1.2.3",
        "1.2.3.4",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.256",
        "01.2.3.4",
        "0x7f.1",
        "0x",
        "0x7f000001",
        "037777777777",
        "4294967295",
        "4294967296",
        "1.2.3.4 x",
        "1.2.3.4x",
        "1..2",
        "1.2.3.",
        " 1.2.3.4",
        "::",
        "::1",
        "1::",
        ":",
        ":::",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "1::2::3",
        "::1.2.3.4",
        "::ffff:1.2.3.4",
        "1:2:3:4:5:6:1.2.3.4",
        "1:2:3:4:5:6:7:1.2.3.4",
        "::1.2.3",
        "::1.2.3.4.5",
        "::1.2.3.4:5",
        "12345::",
        "g::",
        "::1%lo",
        "1:",
        "::1:",
        ":1",
        "1.2.3.4:",
        "0:1:2:3:4:5",
        "00:11:22:aa:BB:cc",
        "1:2:3:4:5:6 x",
        "1:2:3:4:5:600",
        "::01.2.3.4",
        "1:2:3:4:5:6:7:",
    ] {
        check_address(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_text_as_glibc_reads_it(text in "[0-9a-fx.: :]{0,24}") {
        check_address(&text);
    }

    #[test]
    fn addresses_as_glibc_writes_them(groups in prop::array::uniform8(prop_oneof![3 => Just(0u16), 1 => Just(0xffff), 2 => any::<u16>()]), size in 0u32..48) {
        let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_be_bytes()).collect();
        for family in [AF_INET, AF_INET6] {
            let (mut ours, mut theirs) = ([1u8; 64], [1u8; 64]);
            // SAFETY: buffers of ours, longer than the size told.
            unsafe {
                let a = inet::inet_ntop(family, bytes.as_ptr().cast(), ours.as_mut_ptr().cast(), size).is_null();
                let b = host::inet_ntop(family, bytes.as_ptr().cast(), theirs.as_mut_ptr().cast(), size).is_null();
                prop_assert_eq!(a, b);
                if !a {
                    prop_assert_eq!(CStr::from_ptr(ours.as_ptr().cast()), CStr::from_ptr(theirs.as_ptr().cast()));
                }
            }
        }
    }

    #[test]
    fn names_as_glibc_packs_them(names in prop::collection::vec("[a-cA\\\\.0-9]{1,12}", 1..5)) {
        let (mut ours, mut theirs) = ([0u8; 512], [0u8; 512]);
        // A table of ten pointers that starts with the message.
        let mut known_ours = [std::ptr::null::<u8>(); 10];
        let mut known_theirs = known_ours;
        known_ours[0] = ours.as_ptr();
        known_theirs[0] = theirs.as_ptr();
        let mut at = 0;
        for name in &names {
            let name = c(name);
            // SAFETY: buffers and tables of ours.
            let (a, b) = unsafe {
                let last = known_ours.as_mut_ptr().add(10);
                let a = ns::dn_comp(name.as_ptr(), ours.as_mut_ptr().add(at), 300 - at as i32, known_ours.as_mut_ptr(), last);
                let last = known_theirs.as_mut_ptr().add(10);
                let b = host::dn_comp(name.as_ptr(), theirs.as_mut_ptr().add(at), 300 - at as i32, known_theirs.as_mut_ptr(), last);
                (a, b)
            };
            prop_assert_eq!(a, b, "{:?}", name);
            if a > 0 {
                prop_assert_eq!(&ours[at..at + a as usize], &theirs[at..at + a as usize], "{:?}", name);
                let (mut x, mut y) = ([0u8; 300], [0u8; 300]);
                // SAFETY: as above.
                unsafe {
                    let end = ours.as_ptr().add(512);
                    let used = ns::dn_expand(ours.as_ptr(), end, ours.as_ptr().add(at), x.as_mut_ptr().cast(), 300);
                    let end = theirs.as_ptr().add(512);
                    prop_assert_eq!(used, host::dn_expand(theirs.as_ptr(), end, theirs.as_ptr().add(at), y.as_mut_ptr().cast(), 300));
                    prop_assert_eq!(CStr::from_ptr(x.as_ptr().cast()), CStr::from_ptr(y.as_ptr().cast()));
                }
                at += a as usize;
            }
        }
    }

    #[test]
    fn hostile_messages_end(message in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = dns::follow(&message, wire::TYPE_A);
        let _ = wire::records(&message).count();
        let _ = wire::answers(&message, &message);
        // SAFETY: a message and a handle of ours.
        unsafe {
            let mut handle = std::mem::zeroed();
            if ns::ns_initparse(message.as_ptr(), message.len() as i32, &mut handle) == 0 {
                let mut record = std::mem::zeroed();
                for section in 0..4 {
                    for number in 0..3 {
                        ns::ns_parserr(&mut handle, section, number, &mut record);
                    }
                }
            }
        }
    }
}

#[test]
fn wire_names_as_glibc_reads_them() {
    for name in [
        "",
        ".",
        "a",
        "a.",
        "a.b",
        "a..b",
        ".a",
        "a\\.b",
        "a\\065b",
        "a\\256",
        "a\\",
        "a\\06",
        &"x".repeat(63),
        &"x".repeat(64),
        &format!("{}.", "abc.".repeat(63)),
    ] {
        let text = c(name);
        let (mut ours, mut theirs) = ([0u8; 256], [0u8; 256]);
        // SAFETY: strings and buffers of ours.
        let (a, b) = unsafe {
            (
                ns::ns_name_pton(text.as_ptr(), ours.as_mut_ptr(), 256),
                host::ns_name_pton(text.as_ptr(), theirs.as_mut_ptr(), 256),
            )
        };
        assert_eq!(a, b, "{name:?}");
        if a >= 0 {
            assert_eq!(ours, theirs, "{name:?}");
        }
    }
}

#[test]
fn h_errno_texts() {
    for error in -2..7 {
        // SAFETY: static texts.
        unsafe {
            assert_eq!(CStr::from_ptr(hostent::hstrerror(error)), CStr::from_ptr(host::hstrerror(error)))
        };
    }
    for error in (-110..3).chain([-1000]) {
        // SAFETY: static texts.
        unsafe {
            assert_eq!(
                CStr::from_ptr(addrinfo::gai_strerror(error)),
                CStr::from_ptr(libc::gai_strerror(error)),
                "{error}"
            )
        };
    }
}

type Line = (i32, i32, i32, i32, Vec<u8>, Option<String>);

/// The host's answer and ours, in one form.
fn both(
    node: Option<&str>,
    service: Option<&str>,
    hints: Option<Hints>,
) -> (Result<Vec<Line>, i32>, Result<Vec<Line>, i32>) {
    let (node, service) = (node.map(c), service.map(c));
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
    // SAFETY: all-zero hints are valid; lists are freed by whom they came from; the layouts agree.
    unsafe {
        let given = hints.map(|h| {
            let mut given: libc::addrinfo = std::mem::zeroed();
            (given.ai_flags, given.ai_family, given.ai_socktype, given.ai_protocol) =
                (h.flags, h.family, h.socktype, h.protocol);
            given
        });
        let given: *const libc::addrinfo = given.as_ref().map_or(std::ptr::null(), |g| g);
        let lines = |mut at: *const libc::addrinfo| {
            let mut lines = Vec::new();
            while let Some(a) = at.as_ref() {
                let address =
                    std::slice::from_raw_parts(a.ai_addr.cast::<u8>(), a.ai_addrlen as usize).to_vec();
                let name = (!a.ai_canonname.is_null())
                    .then(|| CStr::from_ptr(a.ai_canonname).to_string_lossy().into_owned());
                lines.push((a.ai_flags, a.ai_family, a.ai_socktype, a.ai_protocol, address, name));
                at = a.ai_next;
            }
            lines
        };
        let mut list = std::ptr::null_mut();
        let theirs = match libc::getaddrinfo(pointer(&node), pointer(&service), given, &mut list) {
            0 => {
                let lines = lines(list);
                libc::freeaddrinfo(list);
                Ok(lines)
            }
            error => Err(error),
        };
        let mut list: *mut addrinfo::addrinfo = std::ptr::null_mut();
        let ours = match getaddrinfo(pointer(&node), pointer(&service), given.cast(), &mut list) {
            0 => {
                let lines = lines(list.cast());
                freeaddrinfo(list);
                Ok(lines)
            }
            error => Err(error),
        };
        (theirs, ours)
    }
}

#[test]
fn getaddrinfo_as_glibc() {
    let nodes = [
        None,
        Some("127.0.0.1"),
        Some("::1"),
        Some("localhost"),
        Some("10.1"),
        Some("0x7f.1"),
        Some("::ffff:1.2.3.4"),
        Some("fe80::1%lo"),
        Some("fe80::1%1"),
        Some("fe80::1%nosuch"),
        Some("1.2.3.4.5.6"),
        Some("*"),
    ];
    let services = [
        None,
        Some("80"),
        Some("http"),
        Some("domain"),
        Some("no-such-service"),
        Some("65536"),
        Some("+7"),
        Some(""),
        Some("*"),
        Some("ntp"),
    ];
    let mut compared = 0;
    for node in nodes {
        // "::1" and numbers need no server; names that are not in /etc/hosts would ask one.
        if node == Some("1.2.3.4.5.6") {
            continue;
        }
        for service in services {
            for family in [AF_UNSPEC, AF_INET, AF_INET6, 1] {
                for (socktype, protocol) in [
                    (0, 0),
                    (1, 0),
                    (2, 0),
                    (3, 0),
                    (0, 6),
                    (0, 17),
                    (2, 6),
                    (3, 1),
                    (5, 0),
                    (99, 0),
                    (1, 132),
                ] {
                    for flags in [
                        0,
                        flag::PASSIVE,
                        flag::CANONNAME,
                        flag::NUMERICHOST,
                        flag::V4MAPPED,
                        flag::V4MAPPED | flag::ALL,
                        flag::NUMERICSERV,
                        0x8000,
                    ] {
                        if flags & flag::NUMERICHOST == 0
                            && node == Some("localhost")
                            && (socktype, protocol) != (1, 0)
                        {
                            continue;
                        }
                        let hints = Hints { flags, family, socktype, protocol };
                        let (theirs, ours) = both(node, service, Some(hints));
                        assert_eq!(ours, theirs, "{node:?} {service:?} {hints:?}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 20000);
    for node in [None, Some("127.0.0.1"), Some("0.0.0.0")] {
        let (theirs, ours) = both(node, Some("80"), None);
        assert_eq!(ours, theirs, "{node:?} without hints");
    }
}

#[test]
fn getnameinfo_as_glibc() {
    let address = |a: Address, port, scope| {
        addrinfo::socket_address(&addrinfo::Entry { address: a, scope, port, socktype: 0, protocol: 0 })
    };
    let link_local = Address::V6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    let addresses = [
        address(Address::V4([127, 0, 0, 1]), 80, 0),
        address(Address::V4([192, 0, 2, 7]), 53, 0),
        address(Address::V6(inet::IN6ADDR_LOOPBACK), 443, 0),
        address(link_local, 1, 1),
        address(link_local, 1, 777),
        address(Address::V6([0x20; 16]), 40000, 3),
    ];
    for (i, (bytes, len)) in addresses.iter().enumerate() {
        for flags in [1, 1 | 2, 1 | 16, 1 | 8, 1 | 4, 0x4000, 0, 8] {
            // Names of addresses that are in no file would be asked of a server.
            if flags & 1 == 0 && i != 0 {
                continue;
            }
            for (host_len, service_len) in [(100, 100), (5, 100), (100, 3), (0, 100), (0, 0)] {
                let run = |ours: bool| {
                    let (mut host, mut service) = ([0u8; 100], [0u8; 100]);
                    let (h, s) = (host.as_mut_ptr().cast(), service.as_mut_ptr().cast());
                    let address = bytes.as_ptr();
                    // SAFETY: an address and buffers of ours, as long as told.
                    let error = unsafe {
                        if ours {
                            nameinfo::getnameinfo(
                                address.cast(),
                                *len as u32,
                                h,
                                host_len,
                                s,
                                service_len,
                                flags,
                            )
                        } else {
                            libc::getnameinfo(address.cast(), *len as u32, h, host_len, s, service_len, flags)
                        }
                    };
                    let text =
                        |b: &[u8; 100]| CStr::from_bytes_until_nul(b).unwrap().to_string_lossy().into_owned();
                    (error, (error == 0).then(|| (text(&host), text(&service))))
                };
                assert_eq!(run(true), run(false), "address {i}, flags {flags:#x}, {host_len} {service_len}");
            }
        }
    }
    // SAFETY: a short address.
    let short = unsafe {
        nameinfo::getnameinfo(
            addresses[0].0.as_ptr().cast(),
            4,
            [0u8; 9].as_mut_ptr().cast(),
            9,
            std::ptr::null_mut(),
            0,
            1,
        )
    };
    assert_eq!(short, -6);
}

/// All fields of a servent, from either libc.
unsafe fn service(entry: *const libc::servent) -> Option<(String, Vec<String>, i32, String)> {
    // SAFETY: null, or a servent.
    unsafe {
        let e = entry.as_ref()?;
        let text = |p| CStr::from_ptr(p).to_string_lossy().into_owned();
        let aliases =
            (0..).map(|i| *e.s_aliases.add(i)).take_while(|p| !p.is_null()).map(|p| text(p)).collect();
        Some((text(e.s_name), aliases, e.s_port, text(e.s_proto)))
    }
}

#[test]
fn services_and_protocols_as_glibc() {
    // SAFETY: C strings; results are read before the next call.
    unsafe {
        for name in ["http", "www", "domain", "ssh", "nosuch", "ntp", "HTTP"] {
            for protocol in [None, Some("tcp"), Some("udp"), Some("x")] {
                let (name, protocol) = (c(name), protocol.map(c));
                let p = protocol.as_ref().map_or(std::ptr::null(), |p| p.as_ptr());
                let ours = service(servent::getservbyname(name.as_ptr(), p).cast());
                assert_eq!(ours, service(libc::getservbyname(name.as_ptr(), p)), "{name:?} {protocol:?}");
            }
        }
        for port in [80u16, 53, 22, 1, 60000] {
            let port = port.to_be() as i32;
            assert_eq!(
                service(servent::getservbyport(port, std::ptr::null()).cast()),
                service(libc::getservbyport(port, std::ptr::null()))
            );
        }
        for number in [0, 1, 6, 17, 58, 250] {
            let read = |e: *const libc::protoent| {
                e.as_ref().map(|e| (CStr::from_ptr(e.p_name).to_owned(), e.p_proto))
            };
            assert_eq!(
                read(servent::getprotobynumber(number).cast()),
                read(libc::getprotobynumber(number)),
                "{number}"
            );
        }
    }
}

#[test]
fn service_list_to_its_end() {
    // SAFETY: results are read before the next call.
    unsafe {
        servent::setservent(0);
        let mut count = 0;
        let mut buffer = [0u8; 1024];
        loop {
            let mut entry: libc::servent = std::mem::zeroed();
            let mut result = std::ptr::null_mut();
            let out = (&raw mut entry).cast();
            // A buffer that is too small loses nothing.
            let small = servent::getservent_r(out, buffer.as_mut_ptr().cast(), 3, &mut result);
            if small == libc::ENOENT {
                break;
            }
            assert_eq!((small, result.is_null()), (libc::ERANGE, true));
            assert_eq!(servent::getservent_r(out, buffer.as_mut_ptr().cast(), 1024, &mut result), 0);
            count += 1;
        }
        servent::endservent();
        let listed = std::fs::read("/etc/services").unwrap();
        use super::files::Line;
        assert_eq!(count, files::lines(&listed).filter_map(servent::Service::parse).count());
        assert!(count > 100);
    }
}

#[test]
fn accounts_and_groups_as_glibc() {
    use crate::{grp, pwd};
    // SAFETY: C strings; results are read before the next call.
    unsafe {
        let text = |p| CStr::from_ptr(p).to_string_lossy().into_owned();
        let account = |e: *const libc::passwd| {
            e.as_ref().map(|e| {
                (
                    text(e.pw_name),
                    text(e.pw_passwd),
                    e.pw_uid,
                    e.pw_gid,
                    text(e.pw_gecos),
                    text(e.pw_dir),
                    text(e.pw_shell),
                )
            })
        };
        let group = |e: *const libc::group| {
            e.as_ref().map(|e| {
                (
                    text(e.gr_name),
                    e.gr_gid,
                    (0..)
                        .map(|i| *e.gr_mem.add(i))
                        .take_while(|p| !p.is_null())
                        .map(|p| text(p))
                        .collect::<Vec<_>>(),
                )
            })
        };
        for name in ["root", "daemon", "nobody", "www-data", "no such user", ""] {
            let name = c(name);
            assert_eq!(
                account(pwd::getpwnam(name.as_ptr()).cast()),
                account(libc::getpwnam(name.as_ptr())),
                "{name:?}"
            );
            assert_eq!(
                group(grp::getgrnam(name.as_ptr()).cast()),
                group(libc::getgrnam(name.as_ptr())),
                "{name:?}"
            );
            let (mut ours, mut theirs) = ([0u32; 64], [0u32; 64]);
            let (mut a, mut b) = (64, 64);
            let x = grp::getgrouplist(name.as_ptr(), 7, ours.as_mut_ptr(), &mut a);
            let y = libc::getgrouplist(name.as_ptr(), 7, theirs.as_mut_ptr(), &mut b);
            assert_eq!((x, a, ours), (y, b, theirs), "{name:?}");
        }
        for id in [0, 1, 33, 65534, 424242] {
            assert_eq!(account(pwd::getpwuid(id).cast()), account(libc::getpwuid(id)), "{id}");
            assert_eq!(group(grp::getgrgid(id).cast()), group(libc::getgrgid(id)), "{id}");
        }
        // ERANGE, and "not found" is no error.
        let mut out: libc::passwd = std::mem::zeroed();
        let mut buffer = [0u8; 4];
        let mut result = std::ptr::null_mut();
        let name = c("root");
        let answer =
            pwd::getpwnam_r(name.as_ptr(), (&raw mut out).cast(), buffer.as_mut_ptr().cast(), 4, &mut result);
        assert_eq!((answer, result.is_null()), (libc::ERANGE, true));
        let name = c("no such user");
        let answer =
            pwd::getpwnam_r(name.as_ptr(), (&raw mut out).cast(), buffer.as_mut_ptr().cast(), 4, &mut result);
        assert_eq!((answer, result.is_null()), (0, true));
        // The whole list, in order.
        pwd::setpwent();
        libc::setpwent();
        loop {
            let theirs = account(libc::getpwent());
            assert_eq!(account(pwd::getpwent().cast()), theirs);
            if theirs.is_none() {
                break;
            }
        }
        pwd::endpwent();
        libc::endpwent();
    }
}

#[test]
fn interfaces_as_glibc() {
    // SAFETY: lists are freed by whom they came from; the layouts agree.
    unsafe {
        let lines = |mut at: *const libc::ifaddrs| {
            let mut lines = Vec::new();
            while let Some(a) = at.as_ref() {
                let bytes = |p: *const libc::sockaddr| {
                    p.as_ref().map(|s| {
                        let len = match s.sa_family as i32 {
                            2 => 16,
                            10 => 28,
                            _ => 20,
                        };
                        std::slice::from_raw_parts(p.cast::<u8>(), len).to_vec()
                    })
                };
                // The broadcast field of hardware addresses is left out: without one glibc has a null.
                let other =
                    if bytes(a.ifa_addr).is_some_and(|b| b[0] == 17) { None } else { bytes(a.ifa_ifu) };
                lines.push((
                    CStr::from_ptr(a.ifa_name).to_owned(),
                    a.ifa_flags,
                    bytes(a.ifa_addr),
                    bytes(a.ifa_netmask),
                    other,
                ));
                at = a.ifa_next;
            }
            lines.sort();
            lines
        };
        let (mut ours, mut theirs) = (std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!((interfaces::getifaddrs(&mut ours), libc::getifaddrs(&mut theirs)), (0, 0));
        let (a, b) = (lines(ours.cast()), lines(theirs));
        interfaces::freeifaddrs(ours);
        libc::freeifaddrs(theirs);
        assert_eq!(a, b);
        assert!(!a.is_empty());
        let mut name = [0u8; 16];
        assert!(!interfaces::if_indextoname(1, name.as_mut_ptr().cast()).is_null());
        assert_eq!(interfaces::if_nametoindex(name.as_ptr().cast()), 1);
        assert_eq!(interfaces::if_nametoindex(c"nosuch0".as_ptr()), 0);
        assert_eq!(crate::errno::get(), platform::Errno::ENODEV);
        assert!(interfaces::if_indextoname(99999, name.as_mut_ptr().cast()).is_null());
        assert_eq!(crate::errno::get(), platform::Errno::ENXIO);
        let list = interfaces::if_nameindex();
        assert!(!list.is_null());
        interfaces::if_freenameindex(list);
    }
}

#[test]
fn hosts_file_lines() {
    let file = b"127.0.0.1 localhost\n::1 localhost ip6-localhost # loopback\n127.0.1.1\tme.example me\n\n#x\n1.2.3.4\n10.0.0.1 ME\nbad name\n::ffff:10.0.0.2 mapped\n";
    let find = |name: &[u8], family| hosts::find_in(file, name, family);
    let both = find(b"localhost", AF_UNSPEC).unwrap();
    assert_eq!(both.addresses, [Address::V4([127, 0, 0, 1]), Address::V6(inet::IN6ADDR_LOOPBACK)]);
    assert_eq!(find(b"ip6-localhost", AF_INET).unwrap().addresses, [Address::V4([127, 0, 0, 1])]);
    let me = find(b"me", AF_INET).unwrap();
    assert_eq!(
        (me.name.as_slice(), me.aliases, me.addresses.len()),
        (&b"me.example"[..], vec![b"me".to_vec()], 1)
    );
    assert_eq!(find(b"me.", AF_UNSPEC).unwrap().addresses.len(), 2);
    assert_eq!(find(b"mapped", AF_INET).unwrap().addresses, [Address::V4([10, 0, 0, 2])]);
    assert!(find(b"name", AF_UNSPEC).is_none() && find(b"nobody", AF_UNSPEC).is_none());
}

#[test]
fn configuration_files() {
    let conf = conf::parse(b"# c\n; c\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver x\nnameserver 192.0.2.3\nnameserver 192.0.2.4\ndomain old.example\nsearch a.example b.example\noptions ndots:3 timeout:99 attempts:0 rotate unknown\n");
    assert_eq!(
        conf.servers,
        [
            Server::v4([192, 0, 2, 1]),
            Server::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 0),
            Server::v4([192, 0, 2, 3])
        ]
    );
    assert_eq!(conf.search, [b"a.example".to_vec(), b"b.example".to_vec()]);
    assert_eq!((conf.ndots, conf.timeout, conf.attempts, conf.rotate), (3, 30, 1, true));
    assert_eq!(conf::parse(b"").servers, [Server::v4([127, 0, 0, 1])]);
    let candidates = |name: &[u8]| {
        dns::candidates(&conf, name).into_iter().map(|n| String::from_utf8(n).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(candidates(b"x"), ["x.a.example", "x.b.example", "x"]);
    assert_eq!(candidates(b"x.y.z.w"), ["x.y.z.w", "x.y.z.w.a.example", "x.y.z.w.b.example"]);
    assert_eq!(candidates(b"x."), ["x."]);
    let steps = |text: &[u8]| {
        conf::parse_steps(text).into_iter().map(|s| (s.source, s.final_not_found)).collect::<Vec<_>>()
    };
    assert_eq!(
        steps(b"passwd: files\nhosts: files mdns4_minimal [NOTFOUND=return] dns myhostname\n"),
        [(Source::Files, false), (Source::Dns, false)]
    );
    assert_eq!(
        steps(b"hosts: dns [!UNAVAIL=continue NOTFOUND=return] files # x"),
        [(Source::Dns, true), (Source::Files, false)]
    );
    assert_eq!(steps(b""), [(Source::Files, false), (Source::Dns, false)]);
}

// ---- a name server -----------------------------------------------------------------------------

/// A record of the server's: owner, type, data.
type Zone = &'static [(&'static str, u16, &'static [u8])];

fn name(text: &str) -> Vec<u8> {
    wire::from_text(text.as_bytes()).unwrap().0
}

/// Answers a query from the zone; CNAME data is text. Bit 0 of `mode`: cut UDP answers.
fn reply(zone: Zone, query: &[u8], cut: bool) -> Vec<u8> {
    let (asked, end) = wire::unpack(query, 12).unwrap();
    let kind = wire::u16_at(query, end).unwrap();
    let mut answers = Vec::new();
    let mut owner = asked.clone();
    loop {
        let here = |(n, _, _): &&(&str, u16, &[u8])| wire::same_name(&name(n), &owner);
        if let Some((_, _, data)) = zone.iter().filter(here).find(|(_, k, _)| *k == wire::TYPE_CNAME) {
            let target = name(std::str::from_utf8(data).unwrap());
            answers.push((owner.clone(), wire::TYPE_CNAME, target.clone()));
            owner = target;
            continue;
        }
        for (_, k, data) in zone.iter().filter(here).filter(|(_, k, _)| *k == kind) {
            answers.push((owner.clone(), *k, data.to_vec()));
        }
        break;
    }
    let known = zone.iter().any(|(n, ..)| wire::same_name(&name(n), &owner));
    let mut out = query[..2].to_vec();
    out.extend([
        0x81 | if cut { 2 } else { 0 },
        if known { 0x80 } else { 0x83 },
        0,
        1,
        0,
        if cut { 0 } else { answers.len() as u8 },
        0,
        0,
        0,
        0,
    ]);
    out.extend(&query[12..end + 4]);
    for (owner, kind, data) in answers.iter().filter(|_| !cut) {
        // The question's name by pointer, as servers do.
        if wire::same_name(owner, &asked) {
            out.extend([0xc0, 12])
        } else {
            out.extend(owner)
        }
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60]);
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}

/// Starts a server; answers its configuration. It drops the first `lose` datagrams.
fn server(zone: Zone, cut: bool, lose: usize) -> Conf {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        for count in 0.. {
            let Ok((n, from)) = udp.recv_from(&mut buffer) else { return };
            if count < lose {
                continue;
            }
            let answer = reply(zone, &buffer[..n], cut);
            // Noise first: a wrong id, and a message that answers nothing.
            let mut wrong = answer.clone();
            wrong[0] ^= 1;
            let _ = udp.send_to(&wrong, from);
            let _ = udp.send_to(&answer[..7], from);
            let _ = udp.send_to(&answer, from);
        }
    });
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut query = vec![0; u16::from_be_bytes(len) as usize];
            stream.read_exact(&mut query).unwrap();
            let answer = reply(zone, &query, false);
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    let mut conf = conf::parse(b"search inner.example\noptions timeout:1");
    conf.servers = vec![Server::v4_port([127, 0, 0, 1], port)];
    conf
}

const ZONE: Zone = &[
    ("www.example", wire::TYPE_CNAME, b"host.example"),
    ("host.example", wire::TYPE_A, &[192, 0, 2, 1]),
    ("host.example", wire::TYPE_A, &[192, 0, 2, 2]),
    ("host.example", wire::TYPE_AAAA, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ("v4.inner.example", wire::TYPE_A, &[192, 0, 2, 4]),
    ("empty.example", 16, b"\x01x"),
    ("1.2.0.192.in-addr.arpa", wire::TYPE_PTR, b"\x04host\x07example\x00"),
];

fn look_up(conf: &Conf, name: &str, kinds: &[u16]) -> Result<Vec<Option<dns::Host>>, HostError> {
    let replies = dns::search(conf, name.as_bytes(), kinds)?;
    Ok(kinds
        .iter()
        .zip(replies)
        .map(|(&kind, reply)| reply.ok().and_then(|m| dns::follow(&m, kind)))
        .collect())
}

#[test]
fn servers_are_asked() {
    for (cut, lose) in [(false, 0), (true, 0), (false, 2)] {
        let conf = server(ZONE, cut, lose);
        let found = look_up(&conf, "www.example", &[wire::TYPE_A, wire::TYPE_AAAA]).unwrap();
        let a = found[0].as_ref().unwrap();
        assert_eq!(
            (a.name.as_slice(), a.aliases.as_slice()),
            (&b"host.example"[..], &[b"www.example".to_vec()][..])
        );
        assert_eq!(a.data, [vec![192, 0, 2, 1], vec![192, 0, 2, 2]], "cut {cut}, lose {lose}");
        assert_eq!(found[1].as_ref().unwrap().data.len(), 1);
        // One family only; found along the search list.
        let found = look_up(&conf, "v4", &[wire::TYPE_A, wire::TYPE_AAAA]).unwrap();
        assert_eq!(found[0].as_ref().unwrap().name, b"v4.inner.example");
        assert!(found[1].is_none());
        assert_eq!(look_up(&conf, "nobody.example", &[wire::TYPE_A]).err(), Some(HostError::NotFound));
        assert_eq!(look_up(&conf, "empty.example", &[wire::TYPE_A]).err(), Some(HostError::NoData));
        let found = look_up(&conf, "1.2.0.192.in-addr.arpa.", &[wire::TYPE_PTR]).unwrap();
        assert_eq!(found[0].as_ref().unwrap().data, [b"host.example".to_vec()]);
    }
}

#[test]
fn silent_and_absent_servers() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut conf = conf::parse(b"options timeout:1 attempts:1");
    conf.servers = vec![Server::v4_port([127, 0, 0, 1], silent.local_addr().unwrap().port())];
    let start = std::time::Instant::now();
    assert_eq!(look_up(&conf, "host.example", &[wire::TYPE_A]).err(), Some(HostError::TryAgain));
    assert!((900..3000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    // A refusal is not waited for, and the next server answers.
    let gone = silent.local_addr().unwrap().port();
    drop(silent);
    let good = server(ZONE, false, 0);
    conf.servers = vec![Server::v4_port([127, 0, 0, 1], gone), good.servers[0]];
    let start = std::time::Instant::now();
    assert!(look_up(&conf, "host.example", &[wire::TYPE_A]).is_ok());
    assert!(start.elapsed().as_millis() < 900, "{:?}", start.elapsed());
}

#[test]
fn resolver_states() {
    // SAFETY: a state of ours, as a caller has it on its stack.
    unsafe {
        let mut state: res::res_state = std::mem::zeroed();
        assert_eq!(res::__res_ninit(&mut state), 0);
        let conf = server(ZONE, false, 0);
        // A caller puts its own server in: sockaddr_in at byte 20, their number at 16.
        let bytes = (&raw mut state).cast::<u8>();
        bytes.add(16).cast::<i32>().write(1);
        std::ptr::copy_nonoverlapping(conf.servers[0].address.as_ptr(), bytes.add(20), 16);
        let mut answer = [0u8; 512];
        let len = res::res_nquery(&mut state, c"host.example".as_ptr(), 1, 1, answer.as_mut_ptr(), 512);
        assert!(len > 12, "{len}");
        let mut handle = std::mem::zeroed();
        assert_eq!(ns::ns_initparse(answer.as_ptr(), len, &mut handle), 0);
        let mut record: ns::ns_rr = std::mem::zeroed();
        assert_eq!(ns::ns_parserr(&mut handle, 1, 1, &mut record), 0);
        let record = (&raw const record).cast::<u8>();
        assert_eq!(CStr::from_ptr(record.cast()).to_str().unwrap(), "host.example");
        let data = record.add(1040).cast::<*const u8>().read();
        assert_eq!(std::slice::from_raw_parts(data, 4), [192, 0, 2, 2]);
        assert_eq!(ns::ns_parserr(&mut handle, 1, 2, std::ptr::dangling_mut()), -1);
        assert_eq!(
            res::res_nsearch(&mut state, c"nobody.example".as_ptr(), 1, 1, answer.as_mut_ptr(), 512),
            -1
        );
        assert_eq!(bytes.add(496).cast::<i32>().read(), HostError::NotFound as i32);
        res::__res_nclose(&mut state);
    }
}
