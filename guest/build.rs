//! The link line of a freestanding static executable at the runtime's fixed address.

fn main() {
    // No crt files, no libc, no relocation at start-up. The address is `platform::layout::WINDOW_START`;
    // x86-64 code reaches its own data by rip-relative addressing, so a high base needs no other code
    // model. Sections that stay in the file are those that a debugger and the fault report need.
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--image-base=0x7d0000000000",
        "-Wl,-z,noexecstack",
        "-Wl,--build-id=sha1",
        "-Wl,--eh-frame-hdr",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    // Where gdb looks in a static executable: see loader/src/debug.rs.
    if std::env::var_os("CARGO_FEATURE_PROGRAM").is_some() {
        for (theirs, ours) in [("_r_debug", "attacca_r_debug"), ("_dl_debug_state", "attacca_dl_debug_state")]
        {
            println!("cargo:rustc-link-arg-bins=-Wl,--defsym={theirs}={ours}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
}
