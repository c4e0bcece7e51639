//! <fenv.h>: the floating-point environment: x87 control and status words and MXCSR, kept alike.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::types::*;
use core::arch::asm;

const ALL: c_int = 0x3d;

/// `fenv_t`: what `fnstenv` stores, then MXCSR.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Environment {
    x87: [u32; 7],
    mxcsr: u32,
}

unsafe fn mxcsr() -> u32 {
    let mut value = 0u32;
    asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack));
    value
}
unsafe fn set_mxcsr(value: u32) {
    asm!("ldmxcsr [{}]", in(reg) &value, options(nostack));
}
unsafe fn control() -> u16 {
    let mut value = 0u16;
    asm!("fnstcw [{}]", in(reg) &mut value, options(nostack));
    value
}
unsafe fn set_control(value: u16) {
    asm!("fldcw [{}]", in(reg) &value, options(nostack));
}
unsafe fn status() -> u16 {
    let value: u16;
    asm!("fnstsw ax", out("ax") value, options(nostack));
    value
}
unsafe fn store() -> Environment {
    let mut environment = Environment { x87: [0; 7], mxcsr: mxcsr() };
    // fnstenv masks all exceptions; put the control word back.
    asm!("fnstenv [{0}]", "fldenv [{0}]", in(reg) &mut environment.x87, options(nostack));
    environment
}
unsafe fn load(environment: &Environment) {
    asm!("fldenv [{}]", in(reg) &environment.x87, options(nostack));
    set_mxcsr(environment.mxcsr);
}

/// `FE_DFL_ENV` is -1, `FE_NOMASK_ENV` -2.
unsafe fn named(environment: *const Environment) -> Environment {
    let mut plain = store();
    // Round to nearest, 64-bit significands, no flags; exceptions masked or not.
    let masks = match environment as isize {
        -1 => 0x3d,
        -2 => 0,
        _ => return *environment,
    };
    plain.x87[0] = plain.x87[0] & !0xffff | 0x0300 | 0x40 | masks | 2;
    plain.x87[1] &= !0xbdff;
    plain.mxcsr = masks << 7 | 1 << 8;
    plain
}

abi! { EXPORTS "libm.so.6":
    /// feclearexcept(3).
    "GLIBC_2.2.5" fn feclearexcept(which: c_int) -> c_int {
        let which = (which & ALL) as u32;
        let mut environment = store();
        environment.x87[1] &= !which;
        environment.mxcsr &= !which;
        load(&environment);
        0
    }
    /// fetestexcept(3).
    "GLIBC_2.2.5" fn fetestexcept(which: c_int) -> c_int {
        (status() as u32 | mxcsr()) as c_int & which & ALL
    }
    /// feraiseexcept(3): sets the flags in MXCSR and traps if one is unmasked.
    "GLIBC_2.2.5" fn feraiseexcept(which: c_int) -> c_int {
        let which = (which & ALL) as u32;
        let unmasked = !(mxcsr() >> 7) & which;
        if unmasked != 0 {
            // Through the x87, which traps at the next waiting instruction.
            let mut environment = store();
            environment.x87[1] |= which;
            load(&environment);
            asm!("fwait", options(nostack));
        }
        set_mxcsr(mxcsr() | which);
        0
    }
    /// fesetexceptflag(3).
    "GLIBC_2.2.5" fn fesetexceptflag(flags: *const u16, which: c_int) -> c_int {
        let which = (which & ALL) as u32;
        let mut environment = store();
        environment.x87[1] = environment.x87[1] & !which | *flags as u32 & which;
        environment.mxcsr = environment.mxcsr & !which | *flags as u32 & which;
        load(&environment);
        0
    }
    /// fegetexceptflag(3).
    "GLIBC_2.2.5" fn fegetexceptflag(flags: *mut u16, which: c_int) -> c_int {
        *flags = fetestexcept(which) as u16;
        0
    }
    /// fegetround(3).
    "GLIBC_2.2.5" fn fegetround() -> c_int {
        (control() & 0xc00) as c_int
    }
    /// fesetround(3).
    "GLIBC_2.2.5" fn fesetround(mode: c_int) -> c_int {
        if mode & !0xc00 != 0 {
            return 1;
        }
        set_control(control() & !0xc00 | mode as u16);
        set_mxcsr(mxcsr() & !0x6000 | (mode as u32) << 3);
        0
    }
    /// fegetenv(3).
    "GLIBC_2.2.5" fn fegetenv(to: *mut Environment) -> c_int {
        *to = store();
        0
    }
    /// fesetenv(3).
    "GLIBC_2.2.5" fn fesetenv(from: *const Environment) -> c_int {
        load(&named(from));
        0
    }
    /// feholdexcept(3).
    "GLIBC_2.2.5" fn feholdexcept(to: *mut Environment) -> c_int {
        *to = store();
        let mut quiet = *to;
        quiet.x87[0] |= 0x3f;
        quiet.x87[1] &= !0x3f;
        quiet.mxcsr = (quiet.mxcsr | 0x1f80) & !0x3f;
        load(&quiet);
        0
    }
    /// feupdateenv(3).
    "GLIBC_2.2.5" fn feupdateenv(from: *const Environment) -> c_int {
        let raised = fetestexcept(ALL);
        fesetenv(from);
        feraiseexcept(raised)
    }
    /// feenableexcept(3).
    "GLIBC_2.2.5" fn feenableexcept(which: c_int) -> c_int {
        let old = fegetexcept();
        let which = (which & ALL) as u32;
        set_control(control() & !(which as u16));
        set_mxcsr(mxcsr() & !(which << 7));
        old
    }
    /// fedisableexcept(3).
    "GLIBC_2.2.5" fn fedisableexcept(which: c_int) -> c_int {
        let old = fegetexcept();
        let which = (which & ALL) as u32;
        set_control(control() | which as u16);
        set_mxcsr(mxcsr() | which << 7);
        old
    }
    /// fegetexcept(3).
    "GLIBC_2.2.5" fn fegetexcept() -> c_int {
        !(control() as c_int) & ALL
    }
}
