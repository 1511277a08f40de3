//! Which devices may be used: on v1 lines written to `devices.allow` and `devices.deny`, on v2 a small eBPF program.
//!
//! What a list of rules means is what the devices controller of v1 makes of it (security/device_cgroup.c), for there is no
//! other definition. [`State`] follows it step by step, and the program gives the verdicts of the state that is reached.

use crate::error::{Context, Error, Result};
use crate::log;
use crate::sys;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

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

/// To the kernel and to runc a rule for all types is a rule for all devices and every access, and a fresh start: it lets
/// go of whatever was said before.
const fn everything(allow: bool) -> Rule {
    Rule { allow, kind: Kind::All, major: None, minor: None, access: ALL }
}

/// The rules of the configuration in their order, then the defaults. `whence` is what messages begin with.
pub fn rules(given: &[LinuxDeviceCgroup], whence: &str) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(given.len() + DEFAULT.len());
    for (index, rule) in given.iter().enumerate() {
        let bad = |field: &str, why: &str| Error::new(format!("{whence}/devices/{index}/{field}: {why}"));
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => Kind::All,
            Some(LinuxDeviceType::C) => Kind::Char,
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(_) => return Err(bad("type", "must be one of a, c, b")),
        };
        let number = |value: Option<i64>, field: &str| match value {
            None | Some(-1) => Ok(None),
            // The largest number is the kernel's own word for any.
            Some(value) => match u32::try_from(value) {
                Ok(number) if number != u32::MAX => Ok(Some(number)),
                _ => Err(bad(field, "is out of range")),
            },
        };
        let (major, minor) = (number(rule.major(), "major")?, number(rule.minor(), "minor")?);
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or_default().chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => return Err(bad("access", "must be made of r, w and m")),
            };
        }
        let access = if access == 0 { ALL } else { access };
        if kind != Kind::All {
            rules.push(Rule { allow: rule.allow(), kind, major, minor, access });
            continue;
        }
        if major.is_some() || minor.is_some() || access != ALL {
            log::warning(&bad("type", "a rule for all types is one for all devices and every access").to_string());
        }
        rules.push(everything(rule.allow()));
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
    // The first rule of most configurations is this one anyway.
    let nothing = everything(false);
    if rules.first() != Some(&nothing) {
        write(&nothing)?;
    }
    rules.iter().try_for_each(write)
}

/// What the controller has in mind after some rules: a verdict, and the exceptions from it.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    allow: bool,
    /// No two are for the same devices, and none is a rule for everything.
    exceptions: Vec<Rule>,
}

impl State {
    /// From a container that may use nothing on.
    fn after(rules: &[Rule]) -> State {
        let mut state = State::default();
        rules.iter().for_each(|rule| state.follow(rule));
        state
    }

    fn follow(&mut self, rule: &Rule) {
        if rule.kind == Kind::All {
            *self = State { allow: rule.allow, exceptions: Vec::new() };
            return;
        }
        let devices = |rule: &Rule| (rule.kind, rule.major, rule.minor);
        let known = self.exceptions.iter_mut().find(|exception| devices(exception) == devices(rule));
        match known {
            // Only an exception for exactly these devices is taken back: one for more of them stays.
            Some(exception) if rule.allow == self.allow => exception.access &= !rule.access,
            Some(exception) => exception.access |= rule.access,
            None if rule.allow == self.allow => {}
            None => self.exceptions.push(*rule),
        }
        self.exceptions.retain(|exception| exception.access != 0);
    }
}

/// What is allowed, as systemd names devices, each with the access; None if that is everything, or everything but some. Any
/// major with a fixed minor has no name there.
pub fn allowed(rules: &[Rule]) -> Option<Vec<(String, String)>> {
    let state = State::after(rules);
    let name = |rule: &Rule| {
        let kind = if rule.kind == Kind::Block { "block" } else { "char" };
        Some(match (rule.major, rule.minor) {
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            (Some(major), None) => format!("{kind}-{major}"),
            (None, None) => format!("{kind}-*"),
            (None, Some(_)) => return None,
        })
    };
    let access = |rule: &Rule| {
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        letters.iter().filter(|(bit, _)| rule.access & bit != 0).map(|(_, letter)| *letter).collect()
    };
    let entries = state.exceptions.iter().filter_map(|rule| Some((name(rule)?, access(rule))));
    if state.allow { None } else { Some(entries.collect()) }
}

/// Loads the program and attaches it to the cgroup, unless everything is allowed.
pub fn apply_v2(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> Result<()> {
    let state = State::after(rules);
    if state == (State { allow: true, exceptions: Vec::new() }) {
        return Ok(());
    }
    let program = sys::load_device_program(&program(&state))
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

/// The program: the exceptions one after the other, then the verdict for everything else. As the controller does it, a
/// request is allowed by a single exception that covers all of it, and denied by one that covers any of it.
///
/// The context holds `access_type` (the kind in the low, the access in the high half), `major` and `minor`.
fn program(state: &State) -> Vec<u64> {
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
    for exception in &state.exceptions {
        let kind = if exception.kind == Kind::Block { 1 } else { 2 };
        // The offsets of the jumps are filled in when the length of the block is known.
        let mut tests = vec![instruction(JUMP_IF_NOT, 2, 0, 0, kind)];
        tests.extend(exception.major.map(|major| instruction(JUMP_IF_NOT, 4, 0, 0, major as i32)));
        tests.extend(exception.minor.map(|minor| instruction(JUMP_IF_NOT, 5, 0, 0, minor as i32)));
        let (bits, jump) = match state.allow {
            true => (exception.access, JUMP_IF_EQUAL),
            false => (ALL & !exception.access, JUMP_IF_NOT),
        };
        if bits != 0 {
            tests.push(instruction(COPY, 1, 3, 0, 0));
            tests.push(instruction(AND, 1, 0, 0, i32::from(bits)));
            tests.push(instruction(jump, 1, 0, 0, 0));
        }
        let length = tests.len() + 2;
        for (position, test) in tests.into_iter().enumerate() {
            let is_jump = matches!(test as u8, JUMP_IF_NOT | JUMP_IF_EQUAL);
            let offset = if is_jump { (length - position - 1) as u64 } else { 0 };
            program.push(test | offset << 16);
        }
        program.push(instruction(MOVE, 0, 0, 0, i32::from(!state.allow)));
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.extend([instruction(MOVE, 0, 0, 0, i32::from(state.allow)), instruction(EXIT, 0, 0, 0, 0)]);
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

    /// A rule as a test writes it, and a request: kind, major, minor, access.
    type Request = (Kind, u32, u32, u8);

    fn rule(allow: bool, kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule { allow, kind, major, minor, access }
    }

    /// What the controller of v1 says, written from its description and not from `State`: the last rule for everything
    /// is the verdict; of what follows, the access bits of each set of devices are those that were last made exceptions.
    fn verdict_of_v1(rules: &[Rule], (kind, major, minor, access): Request) -> bool {
        let start = rules.iter().rposition(|rule| rule.kind == Kind::All);
        let default = start.is_some_and(|start| rules[start].allow);
        let since = &rules[start.map_or(0, |start| start + 1)..];
        let mut matched = false;
        for (position, rule) in since.iter().enumerate() {
            let same = |other: &Rule| (other.kind, other.major, other.minor) == (rule.kind, rule.major, rule.minor);
            if since[..position].iter().any(same) {
                continue;
            }
            let is_exception = |bit: u8| {
                let last = since.iter().rfind(|other| same(other) && other.access & bit != 0);
                last.is_some_and(|last| last.allow != default)
            };
            let bits: u8 = [MKNOD, READ, WRITE].into_iter().filter(|bit| is_exception(*bit)).sum();
            let hits = rule.kind == kind
                && rule.major.is_none_or(|wanted| wanted == major)
                && rule.minor.is_none_or(|wanted| wanted == minor)
                && bits != 0;
            matched |= hits && if default { access & bits != 0 } else { access & !bits == 0 };
        }
        matched != default
    }

    fn requests(majors: &[u32], minors: &[u32]) -> Vec<Request> {
        let mut requests = Vec::new();
        for kind in [Kind::Char, Kind::Block] {
            for major in majors {
                for minor in minors {
                    requests.extend((0..=ALL).map(|access| (kind, *major, *minor, access)));
                }
            }
        }
        requests
    }

    /// Compares program and controller for a list of rules and every request.
    fn compare(rules: &[Rule], requests: &[Request]) {
        let program = program(&State::after(rules));
        for request in requests {
            let (kind, major, minor, access) = *request;
            let number = if kind == Kind::Block { 1 } else { 2 };
            let said = verdict(&program, number, access.into(), major, minor);
            assert_eq!(said, verdict_of_v1(rules, *request), "{request:?} after {rules:?}");
        }
    }

    /// Every list of up to `length` rules.
    fn for_each_list(universe: &[Rule], length: usize, list: &mut Vec<Rule>, action: &mut impl FnMut(&[Rule])) {
        action(list);
        if length > 0 {
            for rule in universe {
                list.push(*rule);
                for_each_list(universe, length - 1, list, action);
                list.pop();
            }
        }
    }

    fn universe(sets: &[(Kind, Option<u32>, Option<u32>)], accesses: &[u8]) -> Vec<Rule> {
        let mut universe = vec![everything(true), everything(false)];
        for (kind, major, minor) in sets {
            for access in accesses {
                universe.extend([true, false].map(|allow| rule(allow, *kind, *major, *minor, *access)));
            }
        }
        universe
    }

    #[test]
    fn the_program_gives_the_verdicts_of_the_v1_controller() {
        let (c, b) = (Kind::Char, Kind::Block);
        let requests = requests(&[1, 2], &[3, 4]);
        // Sets of devices that contain each other, with every access.
        let accesses: Vec<u8> = (1..=ALL).collect();
        let nested = universe(&[(c, None, None), (c, Some(1), None), (c, Some(1), Some(3))], &accesses);
        for_each_list(&nested, 2, &mut Vec::new(), &mut |list| compare(list, &requests));
        // Sets that overlap or have nothing in common, with few.
        let sets = [(c, None, None), (c, Some(1), None), (c, None, Some(3)), (c, Some(1), Some(3)), (b, Some(1), None)];
        let crossed = universe(&sets, &[MKNOD, READ, READ | WRITE, ALL]);
        for_each_list(&crossed, 3, &mut Vec::new(), &mut |list| compare(list, &requests));
    }

    #[test]
    fn the_defaults_follow_the_list() {
        let (c, b) = (Kind::Char, Kind::Block);
        let sets = [(c, None, None), (c, Some(1), Some(3)), (c, Some(136), None), (b, None, None), (c, Some(10), None)];
        let universe = universe(&sets, &[MKNOD, READ, READ | WRITE, ALL]);
        let requests = requests(&[1, 10, 136], &[3, 200]);
        for_each_list(&universe, 2, &mut Vec::new(), &mut |list| compare(&[list, &DEFAULT].concat(), &requests));
    }

    #[test]
    fn examples_from_the_kernels_documentation() {
        let says = |rules: &[Rule], request: Request| {
            compare(rules, &[request]);
            verdict_of_v1(rules, request)
        };
        let c = Kind::Char;
        // Two exceptions do not add up to one.
        let apart = [rule(true, c, Some(1), None, READ), rule(true, c, None, None, WRITE)];
        assert!(says(&apart, (c, 1, 3, READ)) && !says(&apart, (c, 1, 3, READ | WRITE)));
        // An exception for more devices is not narrowed by a denial of some of them.
        let narrower = [rule(true, c, Some(1), None, ALL), rule(false, c, Some(1), Some(3), WRITE)];
        assert!(says(&narrower, (c, 1, 3, WRITE)));
        // Where everything is allowed, a part of a denied access is denied, too.
        let denied = [everything(true), rule(false, c, Some(1), Some(3), WRITE)];
        assert!(!says(&denied, (c, 1, 3, READ | WRITE)) && says(&denied, (c, 1, 3, READ)));
    }

    #[test]
    fn rules_are_lines_of_v1() {
        let given = r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "access": "rw"},
            {"allow": true, "type": "a", "major": 5, "access": "r"}, {"allow": false, "type": "b", "access": ""}]"#;
        let rules = rules(&serde_json::from_str::<Vec<_>>(given).unwrap(), "").unwrap();
        let lines: Vec<String> = rules.iter().take(5).map(Rule::to_string).collect();
        assert_eq!(lines, ["a", "c 10:* rw", "a", "b *:* rwm", "c *:* m"]);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for field in [r#""major": -2"#, r#""minor": 4294967295"#, r#""access": "x""#, r#""type": "u""#] {
            let given = format!(r#"[{{"allow": true, "type": "c"}}, {{"allow": true, {field}}}]"#);
            let error = rules(&serde_json::from_str::<Vec<_>>(&given).unwrap(), "here").unwrap_err().to_string();
            assert!(error.starts_with("here/devices/1/"), "{error}");
        }
    }
}
