//! What the runtime needs of a thread's stack beyond what the program asked for.
//!
//! Kernel code runs on the calling thread's stack, and so does the frame of an interrupted program
//! (register state with AVX-512: some 3 KiB). Whoever makes stacks (`pthread_create`, the loader's
//! main stack) adds [`HEADROOM`] below what the program asked for; a program that brings its own
//! stack must bring that much.

/// Bytes below the program's own use that calls into the kernel may need.
pub const HEADROOM: usize = 64 * 1024;

/// The red zone below the stack pointer that leaf functions use (psABI x86-64, 3.2.2).
pub const RED_ZONE: usize = 128;
