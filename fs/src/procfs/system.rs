//! /proc/cpuinfo, /proc/meminfo, /proc/sys and the rest that is not about one process.

use super::{Net, Proc, Provider, Slab, Sysctl, SysvIpc};
use crate::attr::S_IFREG;
use crate::host::HostFd;
use crate::synth::{Dir, Link, Text};
use crate::vnode::Vnode;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use platform::errno::{Errno, Result};
use platform::host;

type Children = Vec<(&'static [u8], Arc<dyn Vnode>)>;

/// The files beside the processes.
pub(crate) fn files(proc: &Proc) -> Children {
    let kind = proc.kind;
    vec![
        (b"cgroups", Text::fixed(kind, b"cgroups", CGROUPS)),
        (b"cpuinfo", proc.text(b"cpuinfo", 0o444, |provider| cpuinfo(provider))),
        (b"filesystems", Text::fixed(kind, b"filesystems", FILESYSTEMS)),
        (b"loadavg", Text::of_host(kind, b"/proc/loadavg")),
        (b"meminfo", Text::of_host(kind, b"/proc/meminfo")),
        (b"mounts", Link::fixed(kind, b"self/mounts")),
        (b"net", Link::fixed(kind, b"self/net")),
        (b"slabinfo", proc.text(b"slabinfo", 0o400, |provider| Ok(slabinfo(&provider.slabs()).into_bytes()))),
        (b"stat", proc.text(b"stat", 0o444, |provider| stat(provider))),
        (b"swaps", Text::of_host(kind, b"/proc/swaps")),
        (b"sys", sys(proc)),
        (b"sysvipc", sysvipc(proc)),
        (b"uptime", Text::of_host(kind, b"/proc/uptime")),
        (b"version", Text::of_host(kind, b"/proc/version")),
        (b"vmstat", Text::of_host(kind, b"/proc/vmstat")),
    ]
}

const FILESYSTEMS: &str =
    "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tcgroup2\nnodev\tdevtmpfs\n\text4\n";
/// cgroups(7): all controllers are with version 2 (hierarchy 0).
const CGROUPS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\ncpu\t0\t1\t1\n\
                       cpuacct\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n";

/// The host's processors, as many as the guest has.
fn cpuinfo(provider: &dyn Provider) -> Result<Vec<u8>> {
    let all = HostFd::open_host(b"/proc/cpuinfo", 0, 0)?.read_all()?;
    Ok(first_processors(&all, provider.processors()))
}

fn first_processors(all: &[u8], count: usize) -> Vec<u8> {
    let mut seen = 0;
    let mut out = Vec::new();
    for line in all.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"processor") {
            seen += 1;
            if seen > count {
                break;
            }
        }
        out.extend_from_slice(line);
    }
    out
}

/// The host's statistics, without the lines of processors that the guest does not have.
fn stat(provider: &dyn Provider) -> Result<Vec<u8>> {
    let all = HostFd::open_host(b"/proc/stat", 0, 0)?.read_all()?;
    let keep = |line: &&[u8]| {
        let number = line.strip_prefix(b"cpu").map(|rest| rest.split(|&b| b == b' ').next().unwrap_or(b""));
        let number = number.and_then(|digits| core::str::from_utf8(digits).ok()?.parse::<usize>().ok());
        number.is_none_or(|number| number < provider.processors())
    };
    Ok(all.split_inclusive(|&byte| byte == b'\n').filter(keep).flatten().copied().collect())
}

/// slabinfo(5): the runtime's own memory, a row for each size of object. Per-host-thread caches count as free.
fn slabinfo(slabs: &[Slab]) -> String {
    let mut text = String::from(
        "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : \
         tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n",
    );
    for Slab { active, total, size } in slabs.iter().filter(|slab| slab.total != 0) {
        let pages = size.div_ceil(4096);
        let each = (pages * 4096 / size).max(1);
        let name = format!("attacca-{size}");
        let slabs = total.div_ceil(each);
        text += &format!(
            "{name:<17} {active:>6} {total:>6} {size:>6} {each:>4} {pages:>4} : tunables    0    0    0 : slabdata {slabs:>6} \
             {slabs:>6}      0\n"
        );
    }
    text
}

/// /proc/self/net.
pub(crate) fn net(proc: &Proc) -> Arc<dyn Vnode> {
    const TCP: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
    const UDP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
    const UNIX: &str = "Num       RefCount Protocol Flags    Type St Inode Path";
    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed";
    const ARP: &str = "IP address       HW type     Flags       HW address            Mask     Device";
    const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let table = |name: &'static [u8], head: &'static str, table: Net| {
        let file = proc.text(name, 0o444, move |provider| {
            let head = if head.is_empty() { String::new() } else { format!("{head}\n") };
            Ok((head + &provider.net(table)).into_bytes())
        });
        (name, file)
    };
    Dir::fixed(
        proc.kind,
        b"/proc/net",
        vec![
            table(b"arp", ARP, Net::Arp),
            table(b"dev", DEV, Net::Dev),
            table(b"if_inet6", "", Net::IfInet6),
            table(b"ipv6_route", "", Net::Ipv6Route),
            table(b"netstat", "", Net::Netstat),
            table(b"route", ROUTE, Net::Route),
            table(b"snmp", "", Net::Snmp),
            table(b"sockstat", "", Net::Sockstat),
            table(b"sockstat6", "", Net::Sockstat6),
            table(b"softnet_stat", "", Net::Softnet),
            table(b"tcp", TCP, Net::Tcp),
            table(b"tcp6", TCP6, Net::Tcp6),
            table(b"udp", UDP, Net::Udp),
            table(b"udp6", UDP6, Net::Udp6),
            table(b"unix", UNIX, Net::Unix),
        ],
    )
}

fn sysvipc(proc: &Proc) -> Arc<dyn Vnode> {
    let table = |name: &'static [u8], table: SysvIpc| {
        (name, proc.text(name, 0o444, move |provider| Ok(provider.sysvipc(table).into_bytes())))
    };
    let tables = [(&b"msg"[..], SysvIpc::Msg), (b"sem", SysvIpc::Sem), (b"shm", SysvIpc::Shm)];
    Dir::fixed(
        proc.kind,
        b"/proc/sysvipc",
        tables.into_iter().map(|(name, kind)| table(name, kind)).collect(),
    )
}

fn sys(proc: &Proc) -> Arc<dyn Vnode> {
    let kind = proc.kind;
    let dir = |name: &'static [u8], children: Children| (name, Dir::fixed(kind, name, children));
    let host = |name: &'static [u8], path: &'static [u8]| (name, Text::of_host(kind, path));
    let hostname =
        proc.text(b"sys/hostname", 0o444, |provider| Ok((provider.hostname() + "\n").into_bytes()));
    let boot_id = uuid();
    let random = dir(
        b"random",
        vec![
            (b"boot_id", Text::fixed(kind, b"boot_id", boot_id + "\n")),
            (b"entropy_avail", Text::fixed(kind, b"entropy_avail", "256\n")),
            (b"poolsize", Text::fixed(kind, b"poolsize", "256\n")),
            (
                b"uuid",
                Text::node(kind, kind.stat(S_IFREG | 0o444, b"uuid"), |out| {
                    out.extend_from_slice((uuid() + "\n").as_bytes());
                    Ok(())
                }),
            ),
        ],
    );
    let kernel = dir(
        b"kernel",
        vec![
            (b"cap_last_cap", Text::fixed(kind, b"cap_last_cap", "40\n")),
            (b"hostname", hostname),
            (b"msgmax", Text::fixed(kind, b"msgmax", "8192\n")),
            (b"msgmnb", Text::fixed(kind, b"msgmnb", "16384\n")),
            (b"msgmni", Text::fixed(kind, b"msgmni", "32000\n")),
            (b"sem", Text::fixed(kind, b"sem", "32000\t1024000000\t500\t32000\n")),
            (b"shmall", Text::fixed(kind, b"shmall", "18446744073692774399\n")),
            (b"shmmax", Text::fixed(kind, b"shmmax", "18446744073692774399\n")),
            (b"shmmni", Text::fixed(kind, b"shmmni", "4096\n")),
            host(b"ngroups_max", b"/proc/sys/kernel/ngroups_max"),
            host(b"osrelease", b"/proc/sys/kernel/osrelease"),
            host(b"ostype", b"/proc/sys/kernel/ostype"),
            host(b"pid_max", b"/proc/sys/kernel/pid_max"),
            random,
            host(b"threads-max", b"/proc/sys/kernel/threads-max"),
            host(b"version", b"/proc/sys/kernel/version"),
        ],
    );
    let vm = dir(
        b"vm",
        vec![
            host(b"max_map_count", b"/proc/sys/vm/max_map_count"),
            host(b"min_free_kbytes", b"/proc/sys/vm/min_free_kbytes"),
            host(b"overcommit_memory", b"/proc/sys/vm/overcommit_memory"),
            host(b"swappiness", b"/proc/sys/vm/swappiness"),
        ],
    );
    let core = dir(b"core", vec![(b"somaxconn", Text::fixed(kind, b"somaxconn", "4096\n"))]);
    let ipv4 = dir(
        b"ipv4",
        vec![
            (b"ip_local_port_range", Text::fixed(kind, b"ip_local_port_range", "32768\t60999\n")),
            (b"tcp_fastopen", setting(proc, b"tcp_fastopen", Sysctl::TcpFastOpen)),
        ],
    );
    let net = dir(b"net", vec![core, ipv4]);
    let mqueue = dir(
        b"mqueue",
        vec![
            (b"msg_default", Text::fixed(kind, b"msg_default", "10\n")),
            (b"msg_max", Text::fixed(kind, b"msg_max", "10\n")),
            (b"msgsize_default", Text::fixed(kind, b"msgsize_default", "8192\n")),
            (b"msgsize_max", Text::fixed(kind, b"msgsize_max", "8192\n")),
            (b"queues_max", Text::fixed(kind, b"queues_max", "256\n")),
        ],
    );
    let fs = dir(
        b"fs",
        vec![
            host(b"file-max", b"/proc/sys/fs/file-max"),
            mqueue,
            (b"nr_open", Text::fixed(kind, b"nr_open", "1048576\n")),
            host(b"pipe-max-size", b"/proc/sys/fs/pipe-max-size"),
        ],
    );
    Dir::fixed(kind, b"/proc/sys", vec![fs, kernel, net, vm])
}

/// A number that root may change (proc_dointvec of Linux: the first word counts).
fn setting(proc: &Proc, name: &[u8], what: Sysctl) -> Arc<dyn Vnode> {
    let (reader, writer) = (proc.provider.clone(), proc.provider.clone());
    Text::writable(
        proc.kind,
        proc.kind.stat(S_IFREG | 0o644, &[b"sys/", name].concat()),
        move |out| {
            out.extend_from_slice(format!("{}\n", reader.sysctl(what)).as_bytes());
            Ok(())
        },
        move |value| {
            let text = core::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
            let word = text.split_whitespace().next().ok_or(Errno::EINVAL)?;
            let number = match word.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => word.parse(),
            };
            writer.set_sysctl(what, number.map_err(|_| Errno::EINVAL)?)
        },
    )
}

/// A random UUID (RFC 4122, version 4).
fn uuid() -> String {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer is ours. Without random numbers the kernel's own file would fail as well.
    let _ = unsafe { host!(getrandom, bytes.as_mut_ptr(), bytes.len(), 0) };
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_processors() {
        let all = b"processor : 0\nmodel : x\n\nprocessor : 1\nmodel : y\n\n";
        assert_eq!(first_processors(all, 1), b"processor : 0\nmodel : x\n\n");
        assert_eq!(first_processors(all, 2), all);
        assert_eq!(uuid().len(), 36);
        assert_ne!(uuid(), uuid());
    }
}
