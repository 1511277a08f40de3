//! What comes before libseccomp's program: calls that are newer than the profile or than libseccomp.
//!
//! A profile with a list of what is allowed was written at some time; a call that did not exist then would get EPERM,
//! which C libraries take for a final no. ENOSYS makes them use the older call instead, so any number above the highest
//! that the profile names gets that answer. Calls that the profile names but libseccomp 2.6 does not know yet are
//! answered here, too, by a table of ours.

use libseccomp::{ScmpAction, ScmpArch, ScmpSyscall};
use oci_spec::runtime::LinuxSeccomp;

/// Calls since Linux 6.11, by the number that they have on every architecture but the MIPS (asm-generic/unistd.h).
const NEWER: [(&str, u32); 9] = [
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
    ("rseq_slice_yield", 471),
];

/// x32 calls are calls of x86-64 with this bit in their number.
const X32_BIT: u32 = 0x4000_0000;

/// Raised when the programs that are made here change, for the cache.
pub const VERSION: u32 = 2;

/// The number of a call that libseccomp does not know.
pub fn newer_syscall(name: &str) -> Option<u32> {
    NEWER.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// linux/audit.h; only architectures whose newest calls have the generic numbers.
fn audit_number(architecture: ScmpArch) -> Option<u32> {
    Some(match architecture {
        ScmpArch::X8664 | ScmpArch::X32 => 0xc000_003e,
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Loongarch64 => 0xc000_0102,
        ScmpArch::Ppc => 0x14,
        ScmpArch::Ppc64 => 0x8000_0015,
        ScmpArch::Ppc64Le => 0xc000_0015,
        ScmpArch::S390 => 0x16,
        ScmpArch::S390X => 0x8000_0016,
        ScmpArch::Riscv64 => 0xc000_00f3,
        _ => return None,
    })
}

/// linux/filter.h, struct sock_filter
fn instruction(code: u16, jump_true: u8, jump_false: u8, value: u32) -> [u8; 8] {
    let [code, value] = [u32::from(code), value].map(u32::to_le_bytes);
    [code[0], code[1], jump_true, jump_false, value[0], value[1], value[2], value[3]]
}

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

fn verdict(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        ScmpAction::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        ScmpAction::Trap => libc::SECCOMP_RET_TRAP,
        ScmpAction::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno as u32 & 0xffff,
        ScmpAction::Trace(value) => libc::SECCOMP_RET_TRACE | u32::from(value),
        ScmpAction::Log => libc::SECCOMP_RET_LOG,
        ScmpAction::Notify => libc::SECCOMP_RET_USER_NOTIF,
        _ => libc::SECCOMP_RET_ALLOW,
    }
}

/// The instructions, which end by falling into the program that follows. Without `profile` nothing gets ENOSYS.
pub fn build(architectures: &[ScmpArch], newer: &[(u32, ScmpAction)], profile: Option<&LinuxSeccomp>) -> Vec<u8> {
    if newer.is_empty() && profile.is_none() {
        return Vec::new();
    }
    let mut numbers: Vec<u32> = architectures.iter().filter_map(|arch| audit_number(*arch)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut blocks: Vec<Vec<[u8; 8]>> = Vec::new();
    for &number in &numbers {
        let mut block = vec![instruction(LOAD, 0, 0, 0)];
        let same = |arch: &&ScmpArch| audit_number(**arch) == Some(number);
        for architecture in architectures.iter().filter(same) {
            let calls = calls(*architecture, newer, profile);
            if *architecture == ScmpArch::X8664 {
                // Numbers with the bit of x32 are not for these tests.
                block.push(instruction(JUMP_GREATER_OR_EQUAL, calls.len() as u8, 0, X32_BIT));
            } else if *architecture == ScmpArch::X32 {
                block.push(instruction(JUMP_GREATER_OR_EQUAL, 0, calls.len() as u8, X32_BIT));
            }
            block.extend(calls);
        }
        blocks.push(block);
    }
    let mut program = vec![instruction(LOAD, 0, 0, 4)];
    let mut left: usize = blocks.iter().map(|block| block.len() + 2).sum();
    for (number, block) in numbers.into_iter().zip(&blocks) {
        left -= block.len() + 2;
        program.push(instruction(JUMP_EQUAL, 0, (block.len() + 1) as u8, number));
        program.extend(block);
        program.push(instruction(JUMP, 0, 0, left as u32));
    }
    program.concat()
}

/// The tests of one architecture: the newer calls by number, then everything above the highest.
fn calls(architecture: ScmpArch, newer: &[(u32, ScmpAction)], profile: Option<&LinuxSeccomp>) -> Vec<[u8; 8]> {
    let bit = if architecture == ScmpArch::X32 { X32_BIT } else { 0 };
    let mut calls = Vec::new();
    for (number, action) in newer {
        calls.push(instruction(JUMP_EQUAL, 0, 1, number | bit));
        calls.push(instruction(RETURN, 0, 0, verdict(*action)));
    }
    let names = profile.iter().flat_map(|profile| profile.syscalls().iter().flatten()).flat_map(|rule| rule.names());
    let number = |name: &String| {
        let known = ScmpSyscall::from_name_by_arch(name, architecture).ok();
        let known = known.and_then(|call| u32::try_from(call.as_raw_syscall()).ok());
        known.or_else(|| newer_syscall(name).map(|number| number | bit))
    };
    if let Some(highest) = names.filter_map(number).max() {
        calls.push(instruction(JUMP_GREATER, 0, 1, highest));
        calls.push(instruction(RETURN, 0, 0, verdict(ScmpAction::Errno(libc::ENOSYS))));
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the stub as the kernel would; None: it falls into the program behind.
    fn run(program: &[u8], arch: u32, number: u32) -> Option<u32> {
        let words: Vec<&[u8]> = program.chunks(8).collect();
        let (mut position, mut accumulator) = (0usize, 0u32);
        while position < words.len() {
            let word = words[position];
            let value = u32::from_le_bytes(word[4..8].try_into().unwrap());
            let (yes, no) = (word[2] as usize, word[3] as usize);
            position += 1;
            let jump = |taken: bool| if taken { yes } else { no };
            match u16::from_le_bytes([word[0], word[1]]) {
                LOAD => accumulator = if value == 4 { arch } else { number },
                JUMP => position += value as usize,
                JUMP_EQUAL => position += jump(accumulator == value),
                JUMP_GREATER => position += jump(accumulator > value),
                JUMP_GREATER_OR_EQUAL => position += jump(accumulator >= value),
                RETURN => return Some(value),
                code => panic!("unknown instruction {code:#x}"),
            }
        }
        assert_eq!(position, words.len(), "a jump leads past the end");
        None
    }

    #[test]
    fn calls_above_the_highest_are_unknown_ones() {
        let profile: LinuxSeccomp = serde_json::from_str(
            r#"{"defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": ["read", "openat2", "listns"], "action": "SCMP_ACT_ALLOW"}]}"#,
        )
        .unwrap();
        let architectures = [ScmpArch::X8664, ScmpArch::X86, ScmpArch::X32];
        let program = build(&architectures, &[(470, ScmpAction::Allow)], Some(&profile));
        let enosys = Some(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        for (arch, bit) in [(0xc000_003e, 0), (0x4000_0003, 0), (0xc000_003e, X32_BIT)] {
            assert_eq!(run(&program, arch, bit), None, "{arch:#x}");
            assert_eq!(run(&program, arch, 437 | bit), None);
            assert_eq!(run(&program, arch, 470 | bit), Some(libc::SECCOMP_RET_ALLOW));
            assert_eq!(run(&program, arch, 471 | bit), enosys);
        }
        assert_eq!(run(&program, 0x1234, 9999), None);
    }
}
