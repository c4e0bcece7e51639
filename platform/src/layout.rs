//! Fixed addresses of a guest. One window belongs to the runtime; all else is the program's.
//!
//! The window lies below the highest addresses that the host hands out by `mmap` (its random base
//! is within 1 TiB of the stack) and far above the 0x400000 and 0x5555_5555_0000 regions where
//! programs are linked or loaded. Fixed addresses let kernel state in the arena hold plain pointers
//! that mean the same in every process of a family.

/// First address of the runtime's window: the guest image is linked here.
pub const WINDOW_START: usize = 0x7d00_0000_0000;
/// End (exclusive) of the guest image's part.
pub const IMAGE_END: usize = 0x7d08_0000_0000;
/// The shared arena (kernel state: descriptors, sockets, wait queues), `MAP_SHARED`.
pub const ARENA_BASE: usize = 0x7d10_0000_0000;
/// End (exclusive) of the address space kept for the arena.
pub const ARENA_END: usize = 0x7d20_0000_0000;
/// The rings shared with the network server, one region after the other.
pub const RINGS_BASE: usize = 0x7d20_0000_0000;
/// End (exclusive) of the rings' part.
pub const RINGS_END: usize = 0x7d30_0000_0000;
/// Private memory of the runtime: vCPU stacks, the runtime's private heap.
pub const PRIVATE_BASE: usize = 0x7d30_0000_0000;
/// End (exclusive) of the runtime's private memory.
pub const PRIVATE_END: usize = 0x7d50_0000_0000;
/// Stacks of host threads (vCPUs and helpers), in slots of [`STACK_SLOT`] bytes.
pub const STACKS_BASE: usize = 0x7d60_0000_0000;
/// Bytes of a slot.
pub const STACK_SLOT: usize = 1 << 20;
/// The stack on which a program is loaded.
pub const LOADER_STACK: usize = 0x7d70_0000_0000;
/// Its size.
pub const LOADER_STACK_SIZE: usize = 1 << 20;
/// End (exclusive) of the window. A program may map, protect or unmap nothing inside.
pub const WINDOW_END: usize = 0x7e00_0000_0000;

/// The host's page size, and the guest's.
pub const PAGE_SIZE: usize = 4096;

/// Where host thread stack `number` lies.
pub const fn stack_slot(number: usize) -> usize {
    STACKS_BASE + number * STACK_SLOT
}

/// Whether `[start, start + len)` touches the runtime's window.
pub const fn touches_window(start: usize, len: usize) -> bool {
    let end = start.saturating_add(len);
    start < WINDOW_END && end > WINDOW_START
}

/// Whether the address lies in the shared arena (kernel state).
pub const fn in_arena(address: usize) -> bool {
    address >= ARENA_BASE && address < ARENA_END
}
