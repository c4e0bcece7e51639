//! The program: personality and loader wired to the scheduler. Feature `program`.

#[cfg(feature = "program")]
pub(crate) use with_loader::{begin, hooks, note_image, take_name};

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
    use crate::network;
    use crate::start::Startup;
    use alloc::boxed::Box;
    use alloc::vec::Vec;
    use core::ffi::c_void;
    use loader::{LoadError, LoadRequest, Loaded};
    use platform::layout::{LOADER_STACK, LOADER_STACK_SIZE};
    use platform::mem::{Prot, map_private};
    use sched::thread::{self, Start};
    use syscalls::context::Ctx;
    use syscalls::mounts::{self, Plan, Volume};
    use syscalls::proc::Image;
    use syscalls::process::Credentials;

    /// The scheduler's hooks of a guest that runs a program.
    pub(crate) fn hooks() -> sched::Hooks {
        let network = sched::Hooks {
            poll: |_| syscalls::net_poll::poll(),
            tick: |_| {
                syscalls::net_poll::poll();
                syscalls::net_poll::hand_over();
            },
            deadline: |_| syscalls::net_poll::deadline(),
            before_sleep: |_| syscalls::net_poll::before_sleep(),
            after_sleep: |_| syscalls::net_poll::after_sleep(),
            before_fork: || {
                crate::image::copy_tables_at_forks();
                crate::heap::before_fork();
            },
            ending: crate::heap::ending,
            after_fork: |child_of| {
                crate::heap::after_fork(child_of.as_ref());
                if child_of.is_some() {
                    // Before the child opens its signal mask: what comes from then on is its own.
                    syscalls::host_signal::forget();
                }
            },
            ..sched::Hooks::none()
        };
        syscalls::hooks(network)
    }

    /// What the first thread needs.
    struct Job {
        config: Config,
        auxv: Vec<(usize, usize)>,
    }

    /// Makes the first guest thread, which loads the program.
    pub(crate) fn begin(config: Config, startup: &Startup) {
        let job = Box::new(Job { config, auxv: startup.vector().collect() });
        if map_private(LOADER_STACK, LOADER_STACK_SIZE, Prot::READ | Prot::WRITE).is_err() {
            die(format_args!("no memory for the first stack"));
        }
        let start = Start {
            entry: first_thread,
            argument: Box::into_raw(job).cast(),
            stack_top: LOADER_STACK + LOADER_STACK_SIZE,
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
        sched::kernel(|| {
            start_personality(config);
            crate::exec::start(&job.auxv);
        });
        check_executable(config.path);
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
            Ok(loaded) => {
                sched::kernel(|| note_image(config.path, &loaded));
                loaded.start()
            }
            Err(error) => die_with(status(&error), format_args!("{error}")),
        }
    }

    /// ps(1) and top(1) shall name the program, not the runtime. A process's name is that of its first host
    /// thread, which need not be the one that runs here.
    pub(crate) fn take_name(path: &[u8]) {
        let base = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
        if let Ok(name) = fs::HostFd::open_host(b"/proc/self/comm", fs::host::O_WRONLY, 0) {
            // SAFETY: `base` for its length; the host cuts what is too long.
            let _ = unsafe { platform::host!(write, name.raw(), base.as_ptr(), base.len()) };
        }
    }

    fn start_personality(config: &Config) {
        take_name(config.path);
        let Ok(hostname) = core::str::from_utf8(config.hostname) else {
            die(format_args!("the host name is not text"))
        };
        let credentials = config.uid.map(|uid| {
            let gid = config.gid.unwrap_or(uid);
            Credentials::new(uid, gid, alloc::vec![gid])
        });
        let pid = platform::thread::getpid() as u32;
        syscalls::init(&syscalls::Config { hostname, pid, credentials });
        network::start(config);
        start_files(config);
        crate::door::start(config);
        if let Some(set) = config.trace {
            let set = core::str::from_utf8(set).unwrap_or("");
            if let Err(word) = syscalls::trace::start(config.trace_fd.unwrap_or(2), set) {
                die(format_args!(
                    "--trace: '{word}' is no system call and no family (see attacca run --help)"
                ));
            }
        }
    }

    /// execve(2) runs only what the caller may execute; even root needs one of the three bits.
    fn check_executable(path: &'static [u8]) {
        const AT_FDCWD: isize = -100;
        const X_OK: usize = 1;
        let faccessat = platform::sys::number::faccessat as usize;
        // The configuration's records end with a NUL, so the path is a C string.
        let args = [AT_FDCWD as usize, path.as_ptr() as usize, X_OK, 0, 0, 0];
        // SAFETY: the personality checks the pointer; the path stays for the life of the guest.
        let answer = unsafe { syscalls::call(faccessat, args) };
        if answer == platform::Errno::EACCES.to_raw() {
            die_with(
                126,
                format_args!("{}: not executable (set the permission with chmod +x)", path.escape_ascii()),
            );
        }
    }

    /// What /proc/self tells of the program.
    pub(crate) fn note_image(path: &[u8], loaded: &Loaded) {
        let process = Ctx::current().process;
        let exe = process.view.get().and_then(|view| view.locate(&view.cwd, path, true).ok());
        // SAFETY: the loader has just made this stack: argc, argv, envp, auxv, in the ABI's form.
        let (arguments, environment, auxv) = unsafe { stack_parts(loaded.stack) };
        // SAFETY: the strings were written by the loader, and nothing of the program has run.
        let given =
            unsafe { core::slice::from_raw_parts(arguments.0 as *const u8, arguments.1 - arguments.0) };
        process.image.set(Image {
            exe,
            arguments,
            given: given.to_vec(),
            environment,
            auxv,
            stack_start: loaded.stack,
            code: loaded.program_range,
            oom_score_adj: 0,
        });
    }

    /// Where the argument and environment strings lie, and the auxiliary vector's bytes.
    ///
    /// # Safety
    /// `stack` is an initial stack (psABI figure 3.9) whose strings follow each other.
    unsafe fn stack_parts(stack: usize) -> ((usize, usize), (usize, usize), Vec<u8>) {
        const AT_NULL: usize = 0;
        // SAFETY: the caller's promise bounds every read below.
        unsafe {
            let words = stack as *const usize;
            let argc = *words;
            let argv = words.add(1);
            let envp = argv.add(argc + 1);
            let count = (0..).take_while(|&i| *envp.add(i) != 0).count();
            let auxv = envp.add(count + 1);
            let pairs = (0..).take_while(|&i| *auxv.add(2 * i) != AT_NULL).count() + 1;
            let bytes = core::slice::from_raw_parts(auxv.cast::<u8>(), pairs * 16).to_vec();
            (string_range(argv, argc), string_range(envp, count), bytes)
        }
    }

    /// From the first string's start to the last one's end.
    ///
    /// # Safety
    /// `pointers` are `count` pointers to strings.
    unsafe fn string_range(pointers: *const usize, count: usize) -> (usize, usize) {
        if count == 0 {
            return (0, 0);
        }
        // SAFETY: the caller's promise.
        unsafe {
            let last = *pointers.add(count - 1);
            let len = core::ffi::CStr::from_ptr(last as *const _).to_bytes_with_nul().len();
            (*pointers, last + len)
        }
    }

    /// The tree of files, the working directory, and the descriptors that the caller left open.
    fn start_files(config: &Config) {
        let process = Ctx::current().process;
        let volumes: Vec<Volume> = config
            .volumes
            .iter()
            .map(|v| Volume { source: v.source, target: v.target, read_only: v.read_only })
            .collect();
        let texts = network::files(config);
        let files: Vec<(&[u8], &[u8])> = texts.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
        let plan = Plan {
            root: config.root,
            layer: config.layer,
            read_only: config.read_only,
            volumes: &volumes,
            tmpfs: &config.tmpfs,
            files: &files,
            cwd: config.cwd,
            processors: config.cpus as usize,
            memory: None,
            slabs: Some(crate::heap::slabs),
        };
        if let Err(failure) = mounts::start(process, &plan) {
            die(format_args!("{} {}: {}", failure.what, failure.path.escape_ascii(), failure.error));
        }
        if let Err(error) = mounts::inherit(process) {
            die(format_args!("the standard descriptors cannot be taken over: {error}"));
        }
    }

    /// The shell's convention: 127 not found, 126 found but cannot run.
    fn status(error: &LoadError) -> i32 {
        match error {
            LoadError::Open(_, platform::Errno::ENOENT) => 127,
            _ => 126,
        }
    }
}
