//! The entry for fuzzers: bytes become what a hostile peer writes into a link's memory, between uses of
//! our ends. Everything may turn out [`Corrupt`](super::Corrupt); nothing may panic, or reach outside.

use super::link::{Layout, Link, Role};
use super::spsc::{Consumer, Meta, Producer, RING_HEADER_BYTES};

const LAYOUT: Layout = Layout { queues: 1, capacity: 4096 };
const GUARD: u8 = 0x5a;
/// The longest frame, as the device would allow it.
const LONGEST: usize = 2048;

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Takes part in a link as a server does while `bytes` are played out by its peer.
pub fn fuzz_rings(bytes: &[u8]) {
    let pages = LAYOUT.bytes() / size_of::<Page>();
    // A page more: writes behind the end are seen there.
    let mut memory = alloc::vec![Page([0; 4096]); pages];
    memory.push(Page([GUARD; 4096]));
    let base = memory.as_mut_ptr().cast::<u8>();
    // SAFETY: page-aligned, as long as the layout, and kept to the end of this function; from here on it
    // is reached through `base` and what is made from it alone.
    let link = unsafe { Link::create(base, LAYOUT) }.expect("a valid layout");
    // SAFETY: this function is the only one with ends.
    let mut ends = unsafe { link.ends(Role::Server, 0) }.ok();
    for step in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..step.len()].copy_from_slice(step);
        if play(base, word, &mut ends).is_err() {
            // Cut off; a later server takes the memory as it finds it.
            ends = None;
        }
    }
    assert!(memory[pages].0.iter().all(|&b| b == GUARD), "a write behind the link's end");
}

/// One step: what (3 bits and a half), where, and a value.
fn play(
    base: *mut u8,
    [what, at, low, high, value @ ..]: [u8; 8],
    ends: &mut Option<(Producer, Consumer)>,
) -> Result<(), super::Corrupt> {
    let place = usize::from(u16::from_le_bytes([low, high]));
    match (what % 12, ends.as_mut()) {
        // A position, or a flag beside it, of one of the rings.
        (0..=2, _) => {
            let ring = 4096 + usize::from((what / 12) & 1) * (LAYOUT.bytes() - 4096) / 2;
            write(base, ring + usize::from(at) * 4 % RING_HEADER_BYTES, value);
        }
        // Anything, anywhere: mostly record headers.
        (3..=5, _) => write(base, (place & !7) % (LAYOUT.bytes() - 4), value),
        (6, _) => {
            // SAFETY: as in `fuzz_rings`; the old ends are given up first.
            *ends = unsafe {
                *ends = None;
                Link::open(base, LAYOUT.bytes()).and_then(|link| link.ends(Role::Server, 0)).ok()
            };
        }
        (7, Some((producer, _))) => {
            producer.push(place % (LONGEST + 1), Meta::default(), |frame| frame.fill(at))?;
        }
        (8, Some((producer, _))) => {
            let _ = producer.publish();
            producer.wait_for_space(place % (LONGEST + 1))?;
        }
        (9, Some((_, consumer))) => {
            let mut frame = [0; LONGEST];
            if let Some((len, _)) = consumer.pop(&mut frame)? {
                assert!(len <= LONGEST);
            }
        }
        (10, Some((_, consumer))) => {
            let _ = consumer.release();
        }
        (_, Some((_, consumer))) => {
            if !consumer.announce_sleep() {
                consumer.awake();
            }
        }
        (_, None) => (),
    }
    Ok(())
}

fn write(base: *mut u8, at: usize, value: [u8; 4]) {
    // SAFETY: callers stay four bytes below the end of the link. Volatile, as from another process.
    unsafe { base.add(at).cast::<[u8; 4]>().write_volatile(value) };
}
