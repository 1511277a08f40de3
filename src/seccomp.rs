//! linux.seccomp -> a BPF program, by libseccomp, and from a cache the next time.
//!
//! The program is compiled once, when the container is created, and stored with its state, so that init and every exec
//! load the very same one. libseccomp compiles it as a tree, which loads and runs faster than its list.

mod cache;
pub mod notify;
mod stub;

use crate::error::{Context, Error, Result};
use crate::sys;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSyscall};
use serde::Serialize;
use std::fs::File;
use std::io::{Read, Seek};

/// A program that is ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// SECCOMP_FILTER_FLAG_* of seccomp(2)
    pub flags: u32,
    /// Instructions of eight bytes each.
    pub program: Vec<u8>,
}

pub const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;
const FLAG_NEW_LISTENER: u32 = 8;
const FLAG_TSYNC_ESRCH: u32 = 16;
const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// Compiles a profile, or takes the result of an earlier time from this user's cache.
pub fn filter(profile: &LinuxSeccomp, uid: u32) -> Result<Filter> {
    let flags = flags(profile)?;
    let key = cache::key(profile)?;
    let program = match cache::load(&key, uid) {
        Some(program) => program,
        None => {
            let program = compile(profile).context(|| "compile the seccomp profile")?;
            cache::store(&key, &program, uid);
            program
        }
    };
    Ok(Filter { flags, program })
}

impl Filter {
    /// Whether loading it makes a listener.
    pub fn notifies(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }

    /// Loads the filter into this process; from here on it decides what the process may ask of the kernel. The listener,
    /// if there is one, stays open until execve.
    pub fn load(&self) -> Result<()> {
        sys::load_seccomp(self.flags, &self.program)
            .map(|listener| listener.map_or((), std::mem::forget))
            .context(|| format!("load the seccomp filter of {} instructions", self.program.len() / 8))
    }
}

/// Without `flags` the mitigation of speculative store bypass is left off, as runc does; an empty list means none.
fn flags(profile: &LinuxSeccomp) -> Result<u32> {
    let Some(list) = profile.flags() else {
        return Ok(FLAG_SPEC_ALLOW | listener_flags(profile, 0));
    };
    let mut flags = 0;
    for flag in list {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies(profile) => FLAG_WAIT_KILLABLE_RECV,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(Error::new(
                    "config.json: /linux/seccomp/flags: WAIT_KILLABLE_RECV needs the action SCMP_ACT_NOTIFY",
                ));
            }
        };
    }
    Ok(flags | listener_flags(profile, flags))
}

/// With a listener, threads that cannot be synchronised must be told of by an errno, not by their number.
fn listener_flags(profile: &LinuxSeccomp, flags: u32) -> u32 {
    match notifies(profile) {
        true if flags & FLAG_TSYNC != 0 => FLAG_NEW_LISTENER | FLAG_TSYNC_ESRCH,
        true => FLAG_NEW_LISTENER,
        false => 0,
    }
}

/// Whether any action of the profile asks an agent.
fn notifies(profile: &LinuxSeccomp) -> bool {
    let mut actions = profile.syscalls().iter().flatten().map(LinuxSyscall::action);
    profile.default_action() == LinuxSeccompAction::ScmpActNotify
        || actions.any(|action| action == LinuxSeccompAction::ScmpActNotify)
}

/// The name that config.json has for a value of oci-spec.
fn name_of(value: impl Serialize) -> Result<String> {
    match serde_json::to_value(value)? {
        serde_json::Value::String(name) => Ok(name),
        other => Err(Error::new(format!("{other} is no name"))),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>, pointer: &str) -> Result<ScmpAction> {
    use LinuxSeccompAction as Action;
    let bad = |why: &str| Error::new(format!("config.json: /linux/seccomp/{pointer}: {why}"));
    if errno.is_some() && !matches!(action, Action::ScmpActErrno | Action::ScmpActTrace) {
        return Err(bad("this action takes no errno"));
    }
    let errno = errno.unwrap_or(libc::EPERM as u32);
    let errno = u16::try_from(errno).map_err(|_| bad("the errno is out of range"))?;
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(errno.into()),
        Action::ScmpActTrace => ScmpAction::Trace(errno),
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
        Action::ScmpActNotify => ScmpAction::Notify,
    })
}

/// Refuses what the kernel need not be asked for; `plan` calls this before anything is made.
pub fn check(profile: &LinuxSeccomp) -> Result<()> {
    let agent = notify::Listener::new(profile);
    if agent.is_none() && notifies(profile) {
        return Err(Error::new("config.json: /linux/seccomp/listenerPath: is required with SCMP_ACT_NOTIFY"));
    }
    if agent.is_none() && profile.listener_metadata().as_ref().is_some_and(|metadata| !metadata.is_empty()) {
        return Err(Error::new("config.json: /linux/seccomp/listenerMetadata: needs listenerPath beside it"));
    }
    flags(profile)?;
    action(profile.default_action(), profile.default_errno_ret(), "defaultAction")?;
    for (index, rule) in profile.syscalls().iter().flatten().enumerate() {
        if rule.names().is_empty() {
            return Err(Error::new(format!("config.json: /linux/seccomp/syscalls/{index}/names: must not be empty")));
        }
        action(rule.action(), rule.errno_ret(), &format!("syscalls/{index}/action"))?;
        if let Some(at) = rule.args().iter().flatten().position(|arg| arg.index() > 5) {
            let pointer = format!("/linux/seccomp/syscalls/{index}/args/{at}/index");
            return Err(Error::new(format!("config.json: {pointer}: must be between 0 and 5")));
        }
    }
    Ok(())
}

/// Whether its numbers begin with the most significant byte.
fn is_big_endian(architecture: ScmpArch) -> bool {
    matches!(
        architecture,
        ScmpArch::M68k
            | ScmpArch::Mips
            | ScmpArch::Mips64
            | ScmpArch::Mips64N32
            | ScmpArch::Parisc
            | ScmpArch::Parisc64
            | ScmpArch::Ppc
            | ScmpArch::Ppc64
            | ScmpArch::S390
            | ScmpArch::S390X
            | ScmpArch::Sheb
    )
}

/// The architectures of the filter: the native one always, and those of the profile that can run on this kernel. One of
/// another byte order never does, and libseccomp makes no filter with both.
fn architectures(profile: &LinuxSeccomp) -> Result<Vec<ScmpArch>> {
    let mut architectures = vec![ScmpArch::native()];
    for architecture in profile.architectures().iter().flatten() {
        let name = name_of(architecture)?;
        let architecture: ScmpArch = name
            .parse()
            .map_err(|_| Error::new(format!("config.json: /linux/seccomp/architectures: {name} is not known")))?;
        let can_run = is_big_endian(architecture) == is_big_endian(ScmpArch::native());
        if architecture != ScmpArch::Native && can_run && !architectures.contains(&architecture) {
            architectures.push(architecture);
        }
    }
    Ok(architectures)
}

impl From<libseccomp::error::SeccompError> for Error {
    fn from(error: libseccomp::error::SeccompError) -> Error {
        Error::new(format!("libseccomp: {error}"))
    }
}

fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>> {
    let default = action(profile.default_action(), profile.default_errno_ret(), "defaultAction")?;
    let architectures = architectures(profile)?;
    let mut filter = ScmpFilterContext::new(default)?;
    for architecture in &architectures {
        filter.add_arch(*architecture).map_err(|error| {
            let error = Error::from(error).context(format!("/linux/seccomp/architectures: {architecture:?}"));
            error.hint("all architectures of a filter have one byte order")
        })?;
    }
    filter.set_ctl_optimize(2)?;
    let mut newer: Vec<(u32, ScmpAction)> = Vec::new();
    for (index, rule) in profile.syscalls().iter().flatten().enumerate() {
        let action = action(rule.action(), rule.errno_ret(), &format!("syscalls/{index}/action"))?;
        // A rule that says what happens anyway is an error to libseccomp.
        let is_default = action == default;
        for name in rule.names() {
            match ScmpSyscall::from_name(name) {
                Ok(_) if is_default => {}
                Ok(syscall) => add_rule(&mut filter, action, syscall, rule)
                    .map_err(|error| error.context(format!("/linux/seccomp/syscalls/{index}: {name}")))?,
                // Names that nobody knows are ignored: profiles are written for many kernels and architectures.
                Err(_) => match stub::newer_syscall(name) {
                    Some(_) if is_default => {}
                    // What is denied by default stays denied; a condition on it cannot be kept, and is no reason to fail.
                    Some(_) if has_args(rule) && !passes(default) => {}
                    Some(_) if has_args(rule) => {
                        return Err(Error::new(format!("/linux/seccomp/syscalls/{index}: {name} is too new for args")));
                    }
                    Some(number) if newer.iter().all(|(known, _)| *known != number) => newer.push((number, action)),
                    _ => {}
                },
            }
        }
    }
    let compiled = export(&filter)?;
    // A default that lets calls pass needs no word about calls that nobody thought of.
    let stub = stub::build(&architectures, &newer, Some(profile).filter(|_| !passes(default)));
    Ok([stub, compiled].concat())
}

fn has_args(rule: &LinuxSyscall) -> bool {
    rule.args().as_ref().is_some_and(|args| !args.is_empty())
}

/// Whether this action lets the call happen.
fn passes(action: ScmpAction) -> bool {
    matches!(action, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_) | ScmpAction::Notify)
}

/// The program as bytes, by way of a file in memory: the crate has the direct way only where pkg-config finds 2.6.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>> {
    let file = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).context(|| "memfd_create")?;
    filter.export_bpf(&file)?;
    let mut file = File::from(file);
    let mut program = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut program)?;
    Ok(program)
}

/// Adds one rule. Conditions on different arguments must all hold; several on the same argument are alternatives, for
/// which libseccomp wants a rule each.
fn add_rule(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    syscall: ScmpSyscall,
    rule: &LinuxSyscall,
) -> Result<()> {
    let mut conditions = Vec::new();
    let mut seen = [0u32; 6];
    for arg in rule.args().iter().flatten() {
        let op: ScmpCompareOp = name_of(arg.op())?.parse()?;
        let index = arg.index() as u32;
        if let Some(count) = seen.get_mut(arg.index()) {
            *count += 1;
        }
        conditions.push(match op {
            ScmpCompareOp::MaskedEqual(_) => {
                let value = arg.value_two().unwrap_or(0);
                ScmpArgCompare::new(index, ScmpCompareOp::MaskedEqual(arg.value()), value)
            }
            op => ScmpArgCompare::new(index, op, arg.value()),
        });
    }
    if conditions.is_empty() {
        filter.add_rule(action, syscall)?;
    } else if seen.iter().any(|count| *count > 1) {
        for condition in conditions {
            filter.add_rule_conditional(action, syscall, &[condition])?;
        }
    } else {
        filter.add_rule_conditional(action, syscall, &conditions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_profile_compiles_and_its_stub_is_in_front() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
                       "syscalls": [{"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]}"#;
        let program = compile(&profile(text)).unwrap();
        assert!(program.len() > 64 && program.len().is_multiple_of(8));
        // ld [4]: the architecture
        assert_eq!(program[..8], [0x20, 0, 0, 0, 4, 0, 0, 0]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, message) in [
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#, "takes no errno"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}"#, "listenerPath"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}"#, "empty"),
        ] {
            assert!(check(&profile(text)).unwrap_err().to_string().contains(message), "{text}");
        }
    }
}
