//! /sys, as far as programs look: processors, huge pages, and the control group of the guest.
//!
//! redis and jemalloc ask for transparent huge pages, the JVM for processors and cgroup limits.

use crate::synth::{Dir, Kind, Text};
use crate::vnode::Vnode;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;

const SYSFS_MAGIC: i64 = 0x6265_6572;
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The root directory of /sys for a guest with so many processors.
pub fn new(dev: u64, processors: usize) -> Arc<dyn Vnode> {
    let kind = Kind { dev, magic: SYSFS_MAGIC };
    let text = |name: &'static [u8], text: String| (name, Text::fixed(kind, name, text));
    let range = if processors > 1 { format!("0-{}\n", processors - 1) } else { String::from("0\n") };
    let cpu = Dir::fixed(
        kind,
        b"/sys/devices/system/cpu",
        vec![
            text(b"kernel_max", format!("{}\n", processors - 1)),
            text(b"offline", String::from("\n")),
            text(b"online", range.clone()),
            text(b"possible", range.clone()),
            text(b"present", range.clone()),
        ],
    );
    let node0 = Dir::fixed(kind, b"node0", vec![text(b"cpulist", range)]);
    let node = Dir::fixed(
        kind,
        b"/sys/devices/system/node",
        vec![(b"node0", node0), text(b"online", String::from("0\n")), text(b"possible", String::from("0\n"))],
    );
    let thp = Dir::fixed(
        kind,
        b"transparent_hugepage",
        vec![
            (b"enabled", Text::of_host(kind, b"/sys/kernel/mm/transparent_hugepage/enabled")),
            (b"hpage_pmd_size", Text::of_host(kind, b"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")),
            (b"shmem_enabled", Text::of_host(kind, b"/sys/kernel/mm/transparent_hugepage/shmem_enabled")),
        ],
    );
    let dir = |name: &'static [u8], children| Dir::fixed(kind, name, children);
    dir(
        b"/sys",
        vec![
            (
                b"devices",
                dir(b"devices", vec![(b"system", dir(b"system", vec![(b"cpu", cpu), (b"node", node)]))]),
            ),
            (b"fs", dir(b"fs", vec![(b"cgroup", dir(b"cgroup", vec![]))])),
            (b"kernel", dir(b"kernel", vec![(b"mm", dir(b"mm", vec![(b"transparent_hugepage", thp)]))])),
        ],
    )
}

/// /sys/fs/cgroup: the guest as a control group (v2) of its own. `memory` is its limit in bytes.
pub fn cgroup(dev: u64, processors: usize, memory: Option<u64>) -> Arc<dyn Vnode> {
    let kind = Kind { dev, magic: CGROUP2_MAGIC };
    let text = |name: &'static [u8], text: String| (name, Text::fixed(kind, name, text));
    let memory = memory.map_or(String::from("max\n"), |bytes| format!("{bytes}\n"));
    let range = if processors > 1 { format!("0-{}\n", processors - 1) } else { String::from("0\n") };
    Dir::fixed(
        kind,
        b"/sys/fs/cgroup",
        vec![
            text(b"cgroup.controllers", String::from("cpuset cpu memory pids\n")),
            text(b"cpu.max", String::from("max 100000\n")),
            text(b"cpu.weight", String::from("100\n")),
            text(b"cpuset.cpus", range.clone()),
            text(b"cpuset.cpus.effective", range),
            text(b"memory.max", memory.clone()),
            text(b"memory.high", String::from("max\n")),
            text(b"memory.low", String::from("0\n")),
            text(b"memory.swap.max", String::from("max\n")),
            text(b"pids.max", String::from("max\n")),
        ],
    )
}
