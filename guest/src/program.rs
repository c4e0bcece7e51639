//! The program: personality and loader wired to the scheduler. Feature `program`.

#[cfg(feature = "program")]
pub(crate) use with_loader::{begin, hooks};

#[cfg(not(feature = "program"))]
pub(crate) use without::{begin, hooks};

#[cfg(not(feature = "program"))]
mod without {
    use crate::config::Config;
    use crate::message::die;

    /// The scheduler's hooks of a guest that runs a program.
    pub(crate) fn hooks() -> sched::Hooks {
        sched::Hooks::none()
    }

    /// Makes the first guest thread, which loads the program.
    pub(crate) fn begin(config: Config, _: &crate::start::Startup) {
        die(format_args!(
            "cannot run {}: this runtime was built without the loader (feature `program`)",
            config.path.escape_ascii()
        ))
    }
}

#[cfg(feature = "program")]
mod with_loader {
    use crate::config::Config;
    use crate::message::{die, die_with};
    use crate::start::Startup;
    use alloc::boxed::Box;
    use alloc::vec::Vec;
    use core::ffi::c_void;
    use loader::{LoadError, LoadRequest};
    use platform::mem::{Prot, map_private};
    use sched::thread::{self, Start};

    /// Stack of the loading thread; the program gets its own from the loader.
    const LOADER_STACK: usize = 1 << 20;

    /// The scheduler's hooks of a guest that runs a program.
    pub(crate) fn hooks() -> sched::Hooks {
        syscalls::hooks(sched::Hooks::none())
    }

    /// What the first thread needs.
    struct Job {
        config: Config,
        auxv: Vec<(usize, usize)>,
    }

    /// Makes the first guest thread, which loads the program.
    pub(crate) fn begin(config: Config, startup: &Startup) {
        let job = Box::new(Job { config, auxv: startup.vector().collect() });
        let base = map_private(0, LOADER_STACK, Prot::READ | Prot::WRITE);
        let Ok(base) = base else { die(format_args!("no memory for the first stack")) };
        let start = Start {
            entry: first_thread,
            argument: Box::into_raw(job).cast(),
            stack_top: base + LOADER_STACK,
            fs_base: 0,
        };
        if let Err(error) = thread::spawn(start, core::ptr::null_mut()) {
            die(format_args!("the first thread cannot start: {error}"));
        }
    }

    unsafe extern "C" fn first_thread(argument: *mut c_void) {
        // SAFETY: `begin` passes a boxed job.
        let job = unsafe { Box::from_raw(argument.cast::<Job>()) };
        let config = &job.config;
        sched::kernel(|| start_personality(config));
        let request = LoadRequest {
            path: config.path,
            argv: &config.args,
            envp: &config.env,
            lazy: config.lazy,
            preload: &[],
            library_path: b"",
            auxv: &job.auxv,
            stack_size: 0,
            set_fs: thread::set_fs_base,
        };
        match loader::load(&request) {
            Ok(loaded) => loaded.start(),
            Err(error) => die_with(status(&error), format_args!("{error}")),
        }
    }

    fn start_personality(config: &Config) {
        let Ok(hostname) = core::str::from_utf8(config.hostname) else {
            die(format_args!("the host name is not text"))
        };
        syscalls::init(&syscalls::Config {
            hostname,
            pid: platform::thread::getpid() as u32,
            credentials: None,
        });
    }

    /// The shell's convention: 127 not found, 126 found but cannot run.
    fn status(error: &LoadError) -> i32 {
        match error {
            LoadError::Open(_, platform::Errno::ENOENT) => 127,
            _ => 126,
        }
    }
}
