//! Attacca's own words, on standard error, and the end of a guest that cannot go on (status 125).

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use platform::host;

/// Says `attacca: ...` and ends the guest.
pub(crate) fn die(text: fmt::Arguments<'_>) -> ! {
    die_with(125, text)
}

/// Says `attacca: ...` and ends the guest with this status.
pub(crate) fn die_with(status: i32, text: fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Line::to(2), "attacca: {text}");
    platform::thread::exit_group(status)
}

/// Says `attacca: ...` and goes on.
#[cfg(feature = "program")]
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let _ = writeln!(Line::to(2), "attacca: {text}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if crate::heap::exhausted() {
        die(format_args!(
            "the guest's kernel memory ({} MiB) is used up; give it more with --memory",
            crate::heap::arena_size() >> 20
        ));
    }
    match info.location() {
        Some(place) => die(format_args!("internal error: {} ({place})", info.message())),
        None => die(format_args!("internal error: {}", info.message())),
    }
}

/// Named by the unwind tables of debug builds of `core`; with `panic = "abort"` nothing ever calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The landing pads of the precompiled `alloc` name it; with panic=abort nobody unwinds into them.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    die(format_args!("internal error: unwinding inside the runtime"))
}

/// A writer to a descriptor of the host, buffered to the end of the value's life or a full buffer.
pub(crate) struct Line {
    fd: i32,
    text: [u8; 512],
    held: usize,
}

impl Line {
    pub(crate) fn to(fd: i32) -> Line {
        Line { fd, text: [0; 512], held: 0 }
    }

    fn flush(&mut self) {
        // SAFETY: the buffer is ours. A closed descriptor loses the words, nothing else.
        let _ = unsafe { host!(write, self.fd, self.text.as_ptr(), self.held) };
        self.held = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.held == self.text.len() {
                self.flush();
            }
            self.text[self.held] = byte;
            self.held += 1;
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.flush();
    }
}
