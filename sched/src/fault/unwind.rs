//! From a register state to its caller's, by the objects' own call frame information (.eh_frame, found
//! by the binary search table of .eh_frame_hdr; LSB Core 10.6), since Debian's libraries keep no frame
//! pointers. gimli interprets the instructions. What it gets to see are copies of one CIE and one FDE in
//! a buffer of ours, and values on the stack are read one by one through `user_copy`: whatever the
//! program did to its memory, the worst is a backtrace that ends early.
//!
//! Signal frames need no information: the return address of a handler is a `rt_sigreturn` stub, and what
//! lies above it is the kernel's `ucontext_t`.

use super::maps::{self, Headers, read, read_into, read_u32, read_word};
use core::arch::naked_asm;
use core::ops::Range;
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EndianSlice, Evaluation, EvaluationResult, EvaluationStorage,
    LittleEndian, Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindExpression,
    UnwindSection, UnwindTableRow, Value,
};

/// rsp's number in the psABI's table 3.36.
pub(super) const RSP: usize = 7;
/// rbp's.
pub(super) const RBP: usize = 6;
/// The return address's: a frame's rip.
pub(super) const RIP: usize = 16;
/// Most bytes of a CIE and of an FDE. glibc's and OpenSSL's largest are below 1 KiB.
const CIE: usize = 512;
const FDE: usize = 4096;

/// The registers of a frame, by DWARF number; unknown ones keep what the callee had.
#[derive(Clone, Copy)]
pub(super) struct Registers(pub(super) [usize; 17]);

impl Registers {
    /// Those that the psABI preserves over a call, as the caller of this function has them behind it.
    #[inline(always)]
    pub(super) fn here() -> Registers {
        let mut registers = Registers([0; 17]);
        capture(&mut registers.0);
        registers
    }
}

#[unsafe(naked)]
extern "C" fn capture(_into: &mut [usize; 17]) {
    naked_asm!(
        "mov [rdi + 8 * 3], rbx",
        "mov [rdi + 8 * 6], rbp",
        "lea rax, [rsp + 8]",
        "mov [rdi + 8 * 7], rax",
        "mov [rdi + 8 * 12], r12",
        "mov [rdi + 8 * 13], r13",
        "mov [rdi + 8 * 14], r14",
        "mov [rdi + 8 * 15], r15",
        "mov rax, [rsp]",
        "mov [rdi + 8 * 16], rax",
        "ret",
    )
}

/// A caller.
pub(super) struct Caller {
    pub(super) registers: Registers,
    /// The instruction pointer is exact (the frame was interrupted), no return address.
    pub(super) exact: bool,
}

/// Why there is no caller.
pub(super) enum Stop {
    /// The outermost frame says so.
    Outermost,
    /// No information about this code.
    Unknown,
    /// The stack is not what the information says.
    Damaged,
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Step<T> = core::result::Result<T, Stop>;

/// The code that the last frame was in: neighbours in a backtrace share it, and an overflowed stack has
/// ten thousands of them.
#[derive(Default)]
pub(super) struct Cache {
    code: Range<usize>,
    headers: Headers,
}

impl Cache {
    fn headers(&mut self, place: usize) -> Option<&Headers> {
        if !self.code.contains(&place) {
            let object = maps::object_at(place).filter(|o| o.executable)?;
            self.headers = maps::headers(object.base)?;
            self.code = object.mapping;
        }
        Some(&self.headers)
    }
}

/// The caller of the frame `of`. `exact`: its rip is where it was interrupted, else a return address,
/// whose call stands one byte before (it may be the function's last instruction).
pub(super) fn caller(of: &Registers, exact: bool, cache: &mut Cache) -> Step<Caller> {
    if is_signal_return(of.0[RIP]) {
        return interrupted(of).ok_or(Stop::Damaged);
    }
    let place = of.0[RIP].wrapping_sub(usize::from(!exact));
    let headers = cache.headers(place).ok_or(Stop::Unknown)?;
    let fde = headers.eh_frame_hdr.and_then(|hdr| search(hdr, place)).ok_or(Stop::Unknown)?;
    by_information(of, place, fde)
}

/// `mov rax, 15; syscall`: glibc's, the kernel's and our own restorers all read so.
pub(super) fn is_signal_return(rip: usize) -> bool {
    read(rip) == Some([0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05])
}

/// Above the restorer's return address lies the `ucontext_t` (arch/x86 struct rt_sigframe).
fn interrupted(of: &Registers) -> Option<Caller> {
    /// uc_mcontext's first register.
    const GENERAL: usize = 40;
    /// r8..r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip by DWARF number.
    const ORDER: [usize; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, RBP, 3, 1, 0, 2, RSP, RIP];
    let mut registers = [0; 17];
    for (i, &number) in ORDER.iter().enumerate() {
        registers[number] = read_word(of.0[RSP].checked_add(GENERAL + 8 * i)?)?;
    }
    Some(Caller { registers: Registers(registers), exact: true })
}

/// The FDE of the function around `place`: binary search in .eh_frame_hdr, whose table must be of the
/// one form that linkers write (DW_EH_PE_datarel | DW_EH_PE_sdata4, count as udata4).
fn search(hdr: usize, place: usize) -> Option<usize> {
    let [version, _, count_form, table_form] = read(hdr)?;
    if (version, count_form, table_form) != (1, 0x03, 0x3b) {
        return None;
    }
    let count = read_u32(hdr + 8)? as usize;
    let at = |i: usize, field: usize| -> Option<usize> {
        let offset = read_u32(hdr.checked_add(12 + 8 * i + field)?)? as i32;
        Some(hdr.wrapping_add_signed(offset as isize))
    };
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if at(middle, 0)? <= place { low = middle + 1 } else { high = middle }
    }
    at(low.checked_sub(1)?, 4)
}

/// An FDE and its CIE as a little .eh_frame section of their own.
struct Excerpt {
    bytes: [u8; CIE + FDE],
    cie: usize,
    len: usize,
    /// Memory address of the excerpt's first byte, as far as the FDE is concerned: its pointers are
    /// relative to their own place.
    address: usize,
}

impl Excerpt {
    /// Copies both, and makes the FDE point at the copy of its CIE.
    fn read(fde: usize) -> Option<Excerpt> {
        let fde_len = read_u32(fde)? as usize + 4;
        let cie_at = (fde + 4).checked_sub(read_u32(fde + 4)? as usize)?;
        let cie = read_u32(cie_at)? as usize + 4;
        // Also refuses 64-bit lengths (0xffffffff), which no linker writes for x86-64.
        if !(8..=CIE).contains(&cie) || !(8..=FDE).contains(&fde_len) {
            return None;
        }
        let len = cie + fde_len;
        let mut excerpt = Excerpt { bytes: [0; CIE + FDE], cie, len, address: fde.wrapping_sub(cie) };
        let good =
            read_into(cie_at, &mut excerpt.bytes[..cie]) && read_into(fde, &mut excerpt.bytes[cie..len]);
        excerpt.bytes[cie + 4..cie + 8].copy_from_slice(&(cie as u32 + 4).to_le_bytes());
        good.then_some(excerpt)
    }
}

/// gimli's working memory: a row has at most one rule for each of the 17 registers.
struct OnStack;

impl UnwindContextStorage<usize> for OnStack {
    type Rules = [(Register, RegisterRule<usize>); 20];
    type Stack = [UnwindTableRow<usize, Self>; 4];
}

impl<'a> EvaluationStorage<Slice<'a>> for OnStack {
    type Stack = [Value; 32];
    type ExpressionStack = [(Slice<'a>, Slice<'a>); 1];
    type Result = [gimli::Piece<Slice<'a>>; 1];
}

fn by_information(of: &Registers, place: usize, fde: usize) -> Step<Caller> {
    let excerpt = Excerpt::read(fde).ok_or(Stop::Unknown)?;
    let section = EhFrame::new(&excerpt.bytes[..excerpt.len], LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(excerpt.address as u64);
    let mut entries = section.entries(&bases);
    // The CIE stands first.
    let _ = entries.next();
    let partial = match entries.next() {
        Ok(Some(CieOrFde::Fde(partial))) => partial,
        _ => return Err(Stop::Unknown),
    };
    debug_assert!(excerpt.cie != 0);
    let fde = partial.parse(EhFrame::cie_from_offset).map_err(|_| Stop::Unknown)?;
    if !fde.contains(place as u64) {
        return Err(Stop::Unknown);
    }
    let mut context = UnwindContext::<usize, OnStack>::new_in();
    let row = fde
        .unwind_info_for_address(&section, &bases, &mut context, place as u64)
        .map_err(|_| Stop::Unknown)?;
    let evaluate = |expression: &UnwindExpression<usize>, first: Option<usize>| {
        evaluate(of, expression.get(&section).ok()?, fde.cie().encoding(), first)
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            of.0.get(usize::from(register.0)).map(|base| base.wrapping_add_signed(*offset as isize))
        }
        CfaRule::Expression(expression) => evaluate(expression, None),
    };
    let cfa = cfa.ok_or(Stop::Damaged)?;
    let mut registers = *of;
    registers.0[RSP] = cfa;
    for (number, register) in registers.0.iter_mut().enumerate() {
        let beside = |offset: i64| cfa.wrapping_add_signed(offset as isize);
        let value = match row.register(Register(number as u16)) {
            None | Some(RegisterRule::SameValue) => continue,
            Some(RegisterRule::Undefined) if number == RIP => return Err(Stop::Outermost),
            Some(RegisterRule::Undefined) => continue,
            Some(RegisterRule::Offset(offset)) => read_word(beside(offset)),
            Some(RegisterRule::ValOffset(offset)) => Some(beside(offset)),
            Some(RegisterRule::Register(other)) => of.0.get(usize::from(other.0)).copied(),
            Some(RegisterRule::Expression(expression)) => {
                evaluate(&expression, Some(cfa)).and_then(read_word)
            }
            Some(RegisterRule::ValExpression(expression)) => evaluate(&expression, Some(cfa)),
            Some(_) => None,
        };
        *register = value.ok_or(Stop::Damaged)?;
    }
    let signal = fde.is_signal_trampoline();
    // Stacks grow down: a caller's frame lies above, unless a signal changed stacks.
    if cfa <= of.0[RSP] && !signal && cfa != of.0[RSP].wrapping_add(8) {
        return Err(Stop::Damaged);
    }
    if registers.0[RIP] == 0 {
        return Err(Stop::Outermost);
    }
    Ok(Caller { registers, exact: signal })
}

/// Value of an expression over the frame's registers and memory.
fn evaluate(
    of: &Registers,
    expression: gimli::Expression<Slice<'_>>,
    encoding: gimli::Encoding,
    first: Option<usize>,
) -> Option<usize> {
    let mut evaluation = Evaluation::<_, OnStack>::new_in(expression.0, encoding);
    evaluation.set_max_iterations(1000);
    if let Some(value) = first {
        evaluation.set_initial_value(value as u64);
    }
    let mut result = evaluation.evaluate().ok()?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = *of.0.get(usize::from(register.0))?;
                evaluation.resume_with_register(Value::Generic(value as u64)).ok()?
            }
            EvaluationResult::RequiresMemory { address, size, .. } => {
                let mut bytes = [0u8; 8];
                if !read_into(address as usize, bytes.get_mut(..usize::from(size))?) {
                    return None;
                }
                evaluation.resume_with_memory(Value::Generic(u64::from_le_bytes(bytes))).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.as_result().first()?.location {
        gimli::Location::Address { address } => Some(address as usize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn deep(levels: u32, seen: &mut std::vec::Vec<usize>) -> u32 {
        if levels != 0 {
            return core::hint::black_box(deep(levels - 1, seen)) + 1;
        }
        let mut registers = Registers::here();
        let (mut exact, mut cache) = (false, Cache::default());
        while let Ok(caller) = caller(&registers, exact, &mut cache) {
            registers = caller.registers;
            exact = caller.exact;
            seen.push(registers.0[RIP]);
        }
        0
    }

    #[test]
    fn unwinds_to_the_threads_start() {
        let mut seen = std::vec::Vec::new();
        assert_eq!(deep(5, &mut seen), 5);
        // Five times the same return address, this test, and the standard library's frames around it.
        assert!(seen.len() > 8, "{seen:x?}");
        assert!(seen[1..4].iter().all(|&rip| rip == seen[0]), "{seen:x?}");
    }

    #[test]
    fn a_bad_stack_ends_it() {
        crate::signal::install_fixups();
        let mut registers = Registers::here();
        registers.0[RSP] = 16;
        registers.0[RBP] = 24;
        assert!(matches!(caller(&registers, false, &mut Cache::default()), Err(Stop::Damaged)));
        registers.0[RIP] = 12;
        assert!(matches!(caller(&registers, false, &mut Cache::default()), Err(Stop::Unknown)));
    }
}
