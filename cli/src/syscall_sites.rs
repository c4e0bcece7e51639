//! The `syscall` instructions in a program's code, and which calls they make, for `attacca check`.
//!
//! Code is decoded from the functions' starts, as the unwind tables have them, so that neither data between
//! functions nor the middle of an instruction looks like one. A number counts as known if it is a constant
//! in the same basic block. Left out: jumps into code that no table describes.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Sites {
    /// The calls whose number is known.
    pub(crate) numbers: BTreeSet<u32>,
    /// How many instructions take theirs from elsewhere.
    pub(crate) unknown: usize,
}

/// Looks through `code` (address, bytes). Without `functions` everything is taken for one.
pub(crate) fn find(code: &[(usize, Vec<u8>)], functions: &[Range<usize>]) -> Sites {
    let mut sites = Sites::default();
    for (start, bytes) in code {
        // Most code has no such instruction at all; looking for its bytes is quick.
        if !bytes.windows(2).any(|pair| pair == [0x0f, 0x05]) {
            continue;
        }
        let whole = *start..start + bytes.len();
        let here = functions.iter().filter(|f| whole.contains(&f.start) && f.end <= whole.end);
        let here: Vec<_> = if functions.is_empty() { vec![whole.clone()] } else { here.cloned().collect() };
        for function in here {
            let body = &bytes[function.start - start..function.end - start];
            if body.windows(2).any(|pair| pair == [0x0f, 0x05]) {
                scan(body, function.start as u64, functions.is_empty(), &mut sites);
            }
        }
    }
    sites
}

fn scan(body: &[u8], address: u64, resynchronise: bool, sites: &mut Sites) {
    let decode = || Decoder::with_ip(64, body, address, DecoderOptions::NONE);
    let targets: HashSet<u64> = decode().iter().filter_map(|i| target(&i)).collect();
    let mut info = InstructionInfoFactory::new();
    let mut eax = None;
    for instruction in &mut decode() {
        if instruction.is_invalid() {
            // Data, or what the decoder does not know: the rest of this function says nothing.
            if !resynchronise {
                return;
            }
            eax = None;
            continue;
        }
        if targets.contains(&instruction.ip()) {
            eax = None;
        }
        if instruction.mnemonic() == Mnemonic::Syscall {
            match eax {
                Some(number) => drop(sites.numbers.insert(number)),
                None => sites.unknown += 1,
            }
        }
        eax = follow(&instruction, &mut info, eax);
    }
}

fn target(instruction: &Instruction) -> Option<u64> {
    let near =
        matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16);
    let jump = matches!(
        instruction.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    );
    (near && jump).then(|| instruction.near_branch_target())
}

/// What %eax holds after an instruction, if that is a constant.
fn follow(instruction: &Instruction, info: &mut InstructionInfoFactory, eax: Option<u32>) -> Option<u32> {
    let to_rax = instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().full_register() == Register::RAX;
    let whole = to_rax && instruction.op0_register().size() >= 4;
    match (instruction.mnemonic(), instruction.op1_kind()) {
        (Mnemonic::Mov, OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64) if whole => {
            return u32::try_from(instruction.immediate(1)).ok();
        }
        (Mnemonic::Xor, OpKind::Register)
            if whole && instruction.op1_register() == instruction.op0_register() =>
        {
            return Some(0);
        }
        _ => (),
    }
    if instruction.flow_control() != FlowControl::Next {
        // Behind a jump or call nothing is known of where one comes from; behind a branch that is not
        // taken all is as before.
        return eax.filter(|_| instruction.flow_control() == FlowControl::ConditionalBranch);
    }
    let writes = |access| {
        !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
    };
    let used = info.info(instruction);
    let changed = used
        .used_registers()
        .iter()
        .any(|u| u.register().full_register() == Register::RAX && writes(u.access()));
    eax.filter(|_| !changed)
}

#[cfg(test)]
mod tests {
    use super::find;

    /// The bytes as one function at 0x1000.
    fn found(bytes: &[u8]) -> (Vec<u32>, usize) {
        let function = 0x1000..0x1000 + bytes.len();
        let sites = find(&[(0x1000, bytes.to_vec())], std::slice::from_ref(&function));
        (sites.numbers.into_iter().collect(), sites.unknown)
    }

    #[test]
    fn constants_of_the_block() {
        // mov eax, 39; syscall; ret
        assert_eq!(found(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3]), (vec![39], 0));
        // xor eax, eax; mov edi, 1; syscall; syscall (its number is the first one's answer)
        assert_eq!(found(&[0x31, 0xc0, 0xbf, 1, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x05]), (vec![0], 1));
        // mov eax, 60; pop rax; syscall
        assert_eq!(found(&[0xb8, 60, 0, 0, 0, 0x58, 0x0f, 0x05]), (vec![], 1));
        // mov eax, 60; call; syscall
        assert_eq!(found(&[0xb8, 60, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x0f, 0x05]), (vec![], 1));
    }

    #[test]
    fn joins_of_paths_know_nothing() {
        // mov eax, 1; je +5; mov eax, 2; [target] syscall
        assert_eq!(found(&[0xb8, 1, 0, 0, 0, 0x74, 5, 0xb8, 2, 0, 0, 0, 0x0f, 0x05]), (vec![], 1));
    }

    #[test]
    fn data_and_immediates_are_no_instructions() {
        // mov edi, 0x050f; ret
        assert_eq!(found(&[0xbf, 0x0f, 0x05, 0, 0, 0xc3]), (vec![], 0));
        // Behind the function's end.
        let sites = find(&[(0, vec![0xc3, 0x0f, 0x05, 0, 0])], std::slice::from_ref(&(0..1)));
        assert_eq!((sites.numbers.len(), sites.unknown), (0, 0));
    }
}
