//! Which devices may be used: on v1 lines written to `devices.allow` and `devices.deny`, on v2 a small eBPF program.

use crate::error::{Context, Error, Result};
use crate::sys;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fmt;
use std::os::fd::BorrowedFd;

/// One rule. On both versions the container starts with nothing allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    pub kind: Kind,
    /// None: any.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Bits of [`MKNOD`], [`READ`], [`WRITE`].
    pub access: u8,
}

/// Character device, block device, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    All,
    Char,
    Block,
}

/// linux/bpf.h: BPF_DEVCG_ACC_*
pub const MKNOD: u8 = 1;
pub const READ: u8 = 2;
pub const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// What every container may use, after the rules of its configuration: making any node, and the default devices.
const DEFAULT: [Rule; 11] = {
    const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule { allow: true, kind, major, minor, access }
    }
    [
        allow(Kind::Char, None, None, MKNOD),
        allow(Kind::Block, None, None, MKNOD),
        allow(Kind::Char, Some(1), Some(3), ALL),
        allow(Kind::Char, Some(1), Some(8), ALL),
        allow(Kind::Char, Some(1), Some(7), ALL),
        allow(Kind::Char, Some(5), Some(0), ALL),
        allow(Kind::Char, Some(1), Some(5), ALL),
        allow(Kind::Char, Some(1), Some(9), ALL),
        allow(Kind::Char, Some(136), None, ALL),
        allow(Kind::Char, Some(5), Some(2), ALL),
        allow(Kind::Char, Some(10), Some(200), ALL),
    ]
};

/// The rules of the configuration in their order, then the defaults.
pub fn rules(given: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(given.len() + DEFAULT.len());
    for (index, rule) in given.iter().enumerate() {
        let bad = |field: &str, why: &str| {
            Error::new(format!("config.json: /linux/resources/devices/{index}/{field}: {why}"))
        };
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => Kind::All,
            Some(LinuxDeviceType::C) => Kind::Char,
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(_) => return Err(bad("type", "must be one of a, c, b")),
        };
        let number = |value: Option<i64>, field: &str| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value).map(Some).map_err(|_| bad(field, "is out of range")),
        };
        let (major, minor) = (number(rule.major(), "major")?, number(rule.minor(), "minor")?);
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => return Err(bad("access", "must be made of r, w and m")),
            };
        }
        // To the kernel a rule for all types is a rule for all devices, so one that is not cannot mean both.
        if kind == Kind::All && (major.is_some() || minor.is_some() || access != ALL && access != 0) {
            for kind in [Kind::Char, Kind::Block] {
                rules.push(Rule { allow: rule.allow(), kind, major, minor, access });
            }
        } else {
            rules.push(Rule {
                allow: rule.allow(),
                kind,
                major,
                minor,
                access: if access == 0 { ALL } else { access },
            });
        }
    }
    rules.extend(DEFAULT);
    Ok(rules)
}

impl fmt::Display for Rule {
    /// The line that v1 takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_string(), |number| number.to_string());
        let kind = match self.kind {
            Kind::All => return f.write_str("a"),
            Kind::Char => 'c',
            Kind::Block => 'b',
        };
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if self.access & bit != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Denies everything, then writes the rules in their order, through two descriptors.
pub fn apply_v1(directory: BorrowedFd<'_>, rules: &[Rule]) -> Result<()> {
    let open = |file: &str| {
        openat(directory, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
            .context(|| format!("open {file} of the container's cgroup"))
    };
    let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
    let write = |rule: &Rule| -> Result<()> {
        let (fd, verb) = if rule.allow { (&allow, "allow") } else { (&deny, "deny") };
        nix::unistd::write(fd, rule.to_string().as_bytes()).context(|| format!("{verb} device {rule}"))?;
        Ok(())
    };
    let nothing = Rule { allow: false, kind: Kind::All, major: None, minor: None, access: ALL };
    // The first rule of most configurations is this one anyway.
    if rules.first() != Some(&nothing) {
        write(&nothing)?;
    }
    rules.iter().try_for_each(write)
}

/// Loads the program and attaches it to the cgroup.
pub fn apply_v2(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> Result<()> {
    use std::os::fd::AsFd;
    let program = sys::load_device_program(&program(rules))
        .context(|| format!("load the device program for {} rules: bpf(BPF_PROG_LOAD)", rules.len()))?;
    sys::attach_device_program(cgroup, program.as_fd()).context(|| "attach the device program: bpf(BPF_PROG_ATTACH)")
}

/// One eBPF instruction (linux/bpf.h, struct bpf_insn).
const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    code as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

/// The program: for each kind of access the last rule that matches decides, so it asks them from the last to the first
/// and keeps what is still undecided.
///
/// The context holds `access_type` (the kind in the low, the access in the high half), `major` and `minor`.
fn program(rules: &[Rule]) -> Vec<u64> {
    const LOAD: u8 = 0x61; // r = *(u32 *)(r + offset)
    const MOVE: u8 = 0xb7; // r = immediate
    const COPY: u8 = 0xbf; // r = r
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_IF_EQUAL: u8 = 0x15;
    const JUMP_IF_NOT: u8 = 0x55;
    const EXIT: u8 = 0x95;
    let mut program = vec![
        instruction(LOAD, 2, 1, 0, 0),
        instruction(COPY, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests: Vec<u64> = Vec::new();
        let kind = match rule.kind {
            Kind::All => None,
            Kind::Block => Some(1),
            Kind::Char => Some(2),
        };
        // The offsets of the jumps are filled in when the length of the block is known.
        tests.extend(kind.map(|kind| instruction(JUMP_IF_NOT, 2, 0, 0, kind)));
        tests.extend(rule.major.map(|major| instruction(JUMP_IF_NOT, 4, 0, 0, major as i32)));
        tests.extend(rule.minor.map(|minor| instruction(JUMP_IF_NOT, 5, 0, 0, minor as i32)));
        if rule.access != ALL && rule.allow {
            // What is allowed is decided; only if nothing is left, all is.
            tests.push(instruction(AND, 3, 0, 0, i32::from(ALL & !rule.access)));
            tests.push(instruction(JUMP_IF_NOT, 3, 0, 0, 0));
        } else if rule.access != ALL {
            // One kind of access that is denied denies the request.
            tests.push(instruction(COPY, 1, 3, 0, 0));
            tests.push(instruction(AND, 1, 0, 0, i32::from(rule.access)));
            tests.push(instruction(JUMP_IF_EQUAL, 1, 0, 0, 0));
        }
        let is_last = tests.is_empty();
        let length = tests.len() + 2;
        for (position, test) in tests.into_iter().enumerate() {
            let is_jump = matches!(test as u8, JUMP_IF_NOT | JUMP_IF_EQUAL);
            let offset = if is_jump { (length - position - 1) as u64 } else { 0 };
            program.push(test | offset << 16);
        }
        program.push(instruction(MOVE, 0, 0, 0, i32::from(rule.allow)));
        program.push(instruction(EXIT, 0, 0, 0, 0));
        // After a rule for everything nothing is ever asked, and the kernel refuses code that is not reached.
        if is_last {
            return program;
        }
    }
    program.extend([instruction(MOVE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn verdict(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut position = 0;
        loop {
            let word = program[position];
            let (code, dst, src) = (word as u8, (word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, immediate) = ((word >> 16) as u16 as i16, (word >> 32) as u32 as i32);
            position += 1;
            match code {
                0x61 => registers[dst] = u64::from(context[offset as usize / 4]),
                0xb7 => registers[dst] = immediate as i64 as u64,
                0xbf => registers[dst] = registers[src],
                0x57 => registers[dst] &= immediate as i64 as u64,
                0x77 => registers[dst] >>= immediate,
                0x55 if registers[dst] != immediate as i64 as u64 => position += offset as usize,
                0x15 if registers[dst] == immediate as i64 as u64 => position += offset as usize,
                0x55 | 0x15 => {}
                0x95 => return registers[0] != 0,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_last_matching_rule_decides() {
        let rule = |allow, kind, major, access| Rule { allow, kind, major, minor: None, access };
        let rules = [
            rule(false, Kind::All, None, ALL),
            rule(true, Kind::Char, Some(1), READ | WRITE),
            rule(false, Kind::Char, Some(1), WRITE),
        ];
        let program = program(&rules);
        assert!(verdict(&program, 2, READ.into(), 1, 3));
        assert!(!verdict(&program, 2, WRITE.into(), 1, 3));
        assert!(!verdict(&program, 2, MKNOD.into(), 1, 3));
        assert!(!verdict(&program, 1, READ.into(), 1, 3));
        assert!(!verdict(&program, 2, READ.into(), 2, 3));
        // Opened for both, one of which is denied; allowed by two rules together.
        assert!(!verdict(&program, 2, (READ | WRITE).into(), 1, 3));
        let apart = [rule(true, Kind::Char, Some(1), READ), rule(true, Kind::Char, None, WRITE)];
        assert!(verdict(&super::program(&apart), 2, (READ | WRITE).into(), 1, 3));
    }

    #[test]
    fn rules_are_lines_of_v1() {
        let given = r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "access": "rw"}]"#;
        let rules = rules(&serde_json::from_str::<Vec<_>>(given).unwrap()).unwrap();
        let lines: Vec<String> = rules.iter().take(3).map(Rule::to_string).collect();
        assert_eq!(lines, ["a", "c 10:* rw", "c *:* m"]);
    }
}
