//! How the kernel runs the container's processes: on which CPUs, with which priority, on whose memory, and as what kind
//! of Linux.
//!
//! `process.scheduler`, `process.ioPriority` and `process.execCPUAffinity` are of one process; `linux.memoryPolicy` and
//! `linux.personality` of all of them, so they are part of the record and exec applies them, too. Each is one system
//! call of the process itself, shortly before it gives its privileges up; what is not configured costs none.

use crate::error::{Context, Error, Result};
use crate::log;
use crate::sys::scheduling::{self as sys, SchedAttr};
use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality,
    LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType,
    Process, Scheduler,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest number of a CPU or memory node in a list. set_mempolicy(2) takes no larger one, and no kernel can be
/// built for as many CPUs.
const MAX_NUMBER: usize = 32767;

/// What `process` says.
#[derive(Debug, Clone, Default)]
pub struct ProcessAttributes {
    scheduler: Option<(String, SchedAttr)>,
    io_priority: Option<u32>,
    affinity: Affinity,
}

/// `process.execCPUAffinity`: masks, one bit a CPU.
#[derive(Debug, Clone, Default)]
struct Affinity {
    initial: Option<Vec<u64>>,
    last: Option<Vec<u64>>,
}

/// What `linux` says, for every process of the container; a part of its record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerAttributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_policy: Option<MemoryPolicy>,
    /// For personality(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    personality: Option<u32>,
}

/// The arguments of set_mempolicy(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MemoryPolicy {
    /// With the flags.
    mode: u32,
    /// One bit a node.
    nodes: Vec<u64>,
}

/// The names of the specification for flags that oci-spec 0.10 calls otherwise.
const RENAMED_FLAGS: [(&str, &str); 2] =
    [("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"), ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")];

/// Changes what the specification allows in a `process` and oci-spec does not read: some names of flags, and empty lists
/// of CPUs, which are the same as none. Whether there was anything to change.
pub fn mend(process: &mut Value) -> bool {
    let mut changed = false;
    for flag in process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some((_, name)) = RENAMED_FLAGS.iter().find(|(specified, _)| flag == specified) {
            *flag = Value::from(*name);
            changed = true;
        }
    }
    if let Some(affinity) = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut) {
        let before = affinity.len();
        affinity.retain(|_, list| list != "");
        changed |= affinity.len() != before;
    }
    changed
}

impl ProcessAttributes {
    /// Checks what a process asks for; `whence` begins the messages.
    pub fn new(process: &Process, whence: &str) -> Result<ProcessAttributes> {
        let bad = |field: &str, why: String| Error::new(format!("{whence}{field}: {why}"));
        let affinity = process.exec_cpu_affinity().as_ref();
        Ok(ProcessAttributes {
            scheduler: match process.scheduler() {
                Some(scheduler) => {
                    let attributes =
                        attributes(scheduler).map_err(|(field, why)| bad(&format!("/scheduler{field}"), why))?;
                    Some((scheduler.policy().to_string(), attributes))
                }
                None => None,
            },
            io_priority: match process.io_priority() {
                Some(priority) => Some(io_priority(priority).map_err(|why| bad("/ioPriority/priority", why))?),
                None => None,
            },
            affinity: Affinity {
                initial: cpus(affinity.and_then(|affinity: &ExecCPUAffinity| affinity.initial().as_deref()))
                    .map_err(|why| bad("/execCPUAffinity/initial", why))?,
                last: cpus(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref()))
                    .map_err(|why| bad("/execCPUAffinity/final", why))?,
            },
        })
    }

    /// Sets what the calling process is to have for good.
    pub fn apply(&self) -> Result<()> {
        if let Some((policy, attributes)) = &self.scheduler {
            sys::sched_setattr(attributes).map_err(|errno| {
                let error = Error::from(errno).context(format!("set the scheduler: sched_setattr({policy})"));
                match errno {
                    Errno::EPERM => error.hint(
                        "it needs CAP_SYS_NICE, on cgroup v1 real-time bandwidth (cpu.rt_runtime_us) for the \
                         container, and SCHED_DEADLINE all CPUs of its domain",
                    ),
                    Errno::EBUSY => error.hint("the CPUs have no more time to reserve"),
                    Errno::EOPNOTSUPP => error.hint("this kernel does not clamp utilisation"),
                    _ => error,
                }
            })?;
        }
        if let Some(value) = self.io_priority {
            sys::ioprio_set(value).map_err(|errno| {
                let error = Error::from(errno).context(format!("set the I/O priority: ioprio_set({value:#x})"));
                if errno == Errno::EPERM { error.hint("the real-time class needs CAP_SYS_NICE") } else { error }
            })?;
        }
        Ok(())
    }

    /// exec, before the clone: the CPUs on which the new process begins. The runtime itself moves there; see
    /// [`free_affinity`] for why it moves if nothing is asked for.
    pub fn set_initial_affinity(&self) -> Result<()> {
        match &self.affinity.initial {
            Some(cpus) => set_affinity(cpus, "/execCPUAffinity/initial"),
            None => {
                free_affinity(Pid::from_raw(0));
                Ok(())
            }
        }
    }

    /// exec, in the new process, once it is in the container's cgroups: the CPUs on which it stays.
    pub fn set_final_affinity(&self) -> Result<()> {
        self.affinity.last.as_ref().map_or(Ok(()), |cpus| set_affinity(cpus, "/execCPUAffinity/final"))
    }
}

fn set_affinity(cpus: &[u64], property: &str) -> Result<()> {
    sys::sched_setaffinity(Pid::from_raw(0), cpus).map_err(|errno| {
        let error = Error::from(errno).context(format!("set the CPU affinity of {property}: sched_setaffinity"));
        if errno == Errno::EINVAL { error.hint("there is none of these CPUs, or none in the cpuset") } else { error }
    })
}

/// Lets a process run on every CPU of its cpuset, whatever the caller of the runtime was restricted to (by systemd's
/// CPUAffinity=, say). Since Linux 6.2 a process that enters a cpuset keeps such a restriction.
///
/// The kernel cuts the mask to what there is, so that nothing has to be looked up: to find out first whether the caller
/// is restricted would take the same one call, and another to know how many CPUs there are.
pub fn free_affinity(pid: Pid) {
    // As many CPUs as any kernel can have. One that is gone needs none, and knows better why.
    if let Err(errno) = sys::sched_setaffinity(pid, &[u64::MAX; 128])
        && errno != Errno::ESRCH
    {
        log::warning(&format!("the CPU affinity of the caller stays: {}", Error::from(errno)));
    }
}

/// The CPU affinity of a process, as a number of one bit a CPU, for a line of the log.
pub fn affinity_of(pid: Pid) -> String {
    let Ok(cpus) = nix::sched::sched_getaffinity(pid) else {
        return "unknown".to_string();
    };
    let is_set = |cpu: usize| cpus.is_set(cpu).unwrap_or(false);
    let digit = |first: usize| (0..4).filter(|bit| is_set(first + bit)).fold(0, |digit, bit| digit | 1 << bit);
    let digits: String =
        (0..nix::sched::CpuSet::count()).step_by(4).rev().map(|cpu| format!("{:x}", digit(cpu))).collect();
    format!("0x{}", digits.trim_start_matches('0'))
}

impl ContainerAttributes {
    /// Checks `linux.memoryPolicy` and `linux.personality`.
    pub fn new(linux: &Linux) -> Result<ContainerAttributes> {
        Ok(ContainerAttributes {
            memory_policy: linux.memory_policy().as_ref().map(MemoryPolicy::new).transpose()?,
            personality: linux.personality().as_ref().map(personality).transpose()?,
        })
    }

    /// Whether there is nothing to set.
    pub fn is_empty(&self) -> bool {
        *self == ContainerAttributes::default()
    }

    /// Sets them for the calling process and its descendants.
    pub fn apply(&self) -> Result<()> {
        if let Some(policy) = &self.memory_policy {
            sys::set_mempolicy(policy.mode, &policy.nodes).map_err(|errno| {
                let what = format!("set the memory policy: set_mempolicy({:#x})", policy.mode);
                let error = Error::from(errno).context(what);
                match errno {
                    Errno::EINVAL => error.hint("no such node, or this kernel does not know the mode"),
                    Errno::ENOSYS => error.hint("this kernel has no NUMA"),
                    _ => error,
                }
            })?;
        }
        if let Some(persona) = self.personality {
            sys::personality(persona).context(|| format!("personality({persona:#x})"))?;
        }
        Ok(())
    }
}

/// What is wrong with a scheduler: the field, and why.
type Fault = (&'static str, String);

/// config.md: scheduler; sched(7) says what goes together.
fn attributes(scheduler: &Scheduler) -> std::result::Result<SchedAttr, Fault> {
    let policy = *scheduler.policy();
    // linux/sched.h
    let number = match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
        LinuxSchedulerPolicy::SchedIso => return Err(("/policy", "Linux has no SCHED_ISO".to_string())),
    };
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(("/nice", format!("{nice} is not between -20 and 19")));
    }
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| flags | flag_bit(*flag));
    let attributes = SchedAttr {
        policy: number,
        flags,
        nice,
        priority: priority(scheduler, policy, flags)?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    };
    check_deadline(&attributes, policy)?;
    Ok(attributes)
}

const KEEP_POLICY: u64 = 0x08;
const KEEP_PARAMS: u64 = 0x10;

/// The bit in `sched_flags` (linux/sched.h).
fn flag_bit(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => KEEP_POLICY,
        LinuxSchedulerFlag::SchedFlagKeepParams => KEEP_PARAMS,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// The static priority, which the real-time policies need and the others do not have.
fn priority(scheduler: &Scheduler, policy: LinuxSchedulerPolicy, flags: u64) -> std::result::Result<u32, Fault> {
    let priority = scheduler.priority().unwrap_or(0);
    let fault = |why: String| Err(("/priority", why));
    match policy {
        // What the caller has stays.
        _ if flags & KEEP_PARAMS != 0 && priority == 0 => Ok(0),
        LinuxSchedulerPolicy::SchedFifo | LinuxSchedulerPolicy::SchedRr => match u32::try_from(priority) {
            Ok(priority @ 1..=99) => Ok(priority),
            _ => fault(format!("{policy} needs one between 1 and 99, not {priority}")),
        },
        _ if priority != 0 => fault(format!("{policy} has none; only SCHED_FIFO and SCHED_RR have")),
        _ => Ok(0),
    }
}

/// The reservation of SCHED_DEADLINE: runtime <= deadline <= period, a period of 0 being the deadline.
fn check_deadline(attributes: &SchedAttr, policy: LinuxSchedulerPolicy) -> std::result::Result<(), Fault> {
    let SchedAttr { runtime, deadline, period, .. } = *attributes;
    if policy != LinuxSchedulerPolicy::SchedDeadline {
        for (field, value) in [("/runtime", runtime), ("/deadline", deadline), ("/period", period)] {
            if value != 0 {
                return Err((field, format!("{policy} has none; only SCHED_DEADLINE has")));
            }
        }
        return Ok(());
    }
    if attributes.flags & (KEEP_POLICY | KEEP_PARAMS) != 0 {
        return Ok(());
    }
    if runtime == 0 {
        return Err(("/runtime", "SCHED_DEADLINE needs one".to_string()));
    }
    if deadline < runtime {
        return Err(("/deadline", format!("{deadline} ns are less than the runtime of {runtime} ns")));
    }
    if period != 0 && period < deadline {
        return Err(("/period", format!("{period} ns are less than the deadline of {deadline} ns")));
    }
    Ok(())
}

/// The value for ioprio_set(2).
fn io_priority(priority: &LinuxIOPriority) -> std::result::Result<u32, String> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(format!("{} is not between 0 and 7", priority.priority())),
    }
}

/// A mask of CPUs; no list and an empty one are none.
fn cpus(list: Option<&str>) -> std::result::Result<Option<Vec<u64>>, String> {
    list.filter(|list| !list.is_empty()).map(mask).transpose()
}

/// The mask of a list like `0-3,7`: bit n of word n / 64 (cpuset(7), list format).
fn mask(list: &str) -> std::result::Result<Vec<u64>, String> {
    let number = |text: &str| match text.parse::<usize>() {
        Ok(number) if number <= MAX_NUMBER && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(format!("{list:?} is no list of numbers up to {MAX_NUMBER} like 0-3,7")),
    };
    let mut mask: Vec<u64> = Vec::new();
    for part in list.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(format!("{list:?} has a range that ends before it begins"));
        }
        mask.resize(mask.len().max(last / 64 + 1), 0);
        for number in first..=last {
            if let Some(word) = mask.get_mut(number / 64) {
                *word |= 1 << (number % 64);
            }
        }
    }
    Ok(mask)
}

impl MemoryPolicy {
    /// config-linux.md: memory policy; set_mempolicy(2) says what goes together.
    fn new(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
        use MemoryPolicyFlagType as Flag;
        use MemoryPolicyModeType as Mode;
        let bad = |field: &str, why: &str| Error::new(format!("config.json: /linux/memoryPolicy/{field}: {why}"));
        let mode = policy.mode();
        let number = match mode {
            Mode::MpolDefault => 0,
            Mode::MpolPreferred => 1,
            Mode::MpolBind => 2,
            Mode::MpolInterleave => 3,
            Mode::MpolLocal => 4,
            Mode::MpolPreferredMany => 5,
            Mode::MpolWeightedInterleave => 6,
        };
        let nodes = match policy.nodes().as_deref().filter(|nodes| !nodes.is_empty()) {
            Some(list) => mask(list).map_err(|why| bad("nodes", &why))?,
            None => Vec::new(),
        };
        match mode {
            Mode::MpolDefault | Mode::MpolLocal if !nodes.is_empty() => {
                return Err(bad("nodes", &format!("{mode} takes none")));
            }
            // MPOL_PREFERRED without nodes is MPOL_LOCAL.
            Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred => {}
            _ if nodes.is_empty() => return Err(bad("nodes", &format!("{mode} needs at least one"))),
            _ => {}
        }
        let flags = policy.flags().as_deref().unwrap_or_default();
        let has = |flag: Flag| flags.contains(&flag);
        if has(Flag::MpolFStaticNodes) && has(Flag::MpolFRelativeNodes) {
            return Err(bad("flags", "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"));
        }
        let of_nodes = has(Flag::MpolFStaticNodes) || has(Flag::MpolFRelativeNodes);
        if of_nodes && nodes.is_empty() && mode != Mode::MpolDefault {
            return Err(bad("flags", "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES need nodes"));
        }
        if has(Flag::MpolFNumaBalancing) && !matches!(mode, Mode::MpolBind | Mode::MpolPreferredMany) {
            return Err(bad("flags", "MPOL_F_NUMA_BALANCING needs MPOL_BIND or MPOL_PREFERRED_MANY"));
        }
        let bit = |flag: &Flag| match flag {
            Flag::MpolFNumaBalancing => 1 << 13,
            Flag::MpolFRelativeNodes => 1 << 14,
            Flag::MpolFStaticNodes => 1 << 15,
        };
        Ok(MemoryPolicy { mode: flags.iter().map(bit).fold(number, |mode, bit| mode | bit), nodes })
    }
}

/// The value for personality(2) (linux/personality.h).
fn personality(personality: &LinuxPersonality) -> Result<u32> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::new("config.json: /linux/personality/flags: the specification knows no flag"));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0x0000,
        LinuxPersonalityDomain::PerLinux32 => 0x0008,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scheduler(value: Value) -> std::result::Result<SchedAttr, Fault> {
        let mut process = json!({"scheduler": value});
        mend(&mut process);
        attributes(&serde_json::from_value(process["scheduler"].take()).unwrap())
    }

    #[test]
    fn an_affinity_is_a_number() {
        let text = affinity_of(Pid::this());
        let mask = u128::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        assert!(text.starts_with("0x") && mask != 0, "{text}");
    }

    #[test]
    fn every_flag_has_its_bit_under_the_name_of_the_specification() {
        let names = ["RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS"];
        let names = names.into_iter().chain(["UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX"]);
        for (bit, name) in names.enumerate() {
            let attr = scheduler(json!({"policy": "SCHED_OTHER", "flags": [format!("SCHED_FLAG_{name}")]})).unwrap();
            assert_eq!(attr.flags, 1 << bit, "{name}");
        }
    }

    #[test]
    fn what_a_policy_does_not_have_is_refused() {
        for (value, field) in [
            (json!({"policy": "SCHED_ISO"}), "/policy"),
            (json!({"policy": "SCHED_OTHER", "nice": 20}), "/nice"),
            (json!({"policy": "SCHED_BATCH", "nice": -21}), "/nice"),
            (json!({"policy": "SCHED_OTHER", "priority": 1}), "/priority"),
            (json!({"policy": "SCHED_FIFO"}), "/priority"),
            (json!({"policy": "SCHED_RR", "priority": 100}), "/priority"),
            (json!({"policy": "SCHED_FIFO", "priority": -1}), "/priority"),
            (json!({"policy": "SCHED_IDLE", "runtime": 1}), "/runtime"),
            (json!({"policy": "SCHED_FIFO", "priority": 1, "period": 1}), "/period"),
            (json!({"policy": "SCHED_DEADLINE", "deadline": 1}), "/runtime"),
            (json!({"policy": "SCHED_DEADLINE", "runtime": 2, "deadline": 1}), "/deadline"),
            (json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 3, "period": 2}), "/period"),
        ] {
            assert_eq!(scheduler(value.clone()).map_err(|fault| fault.0), Err(field), "{value}");
        }
    }

    #[test]
    fn the_attributes_are_those_of_the_configuration() {
        let attr = scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3})).unwrap();
        assert_eq!((attr.policy, attr.runtime, attr.deadline, attr.period), (6, 1, 2, 3));
        let attr = scheduler(json!({"policy": "SCHED_RR", "priority": 99})).unwrap();
        assert_eq!((attr.policy, attr.priority), (2, 99));
        let attr = scheduler(json!({"policy": "SCHED_BATCH", "nice": -20})).unwrap();
        assert_eq!((attr.policy, attr.nice), (3, -20));
    }

    #[test]
    fn lists_become_masks() {
        assert_eq!(mask("0-3,7"), Ok(vec![0x8f]));
        assert_eq!(mask("64"), Ok(vec![0, 1]));
        assert_eq!(mask("63-64,0"), Ok(vec![1 << 63 | 1, 1]));
        assert_eq!(mask("32767").unwrap().len(), 512);
        for bad in ["", ",", "1,", "-1", "1-", "3-1", "1-2-3", "a", "+1", " 1", "0x1", "32768", "99999999999999999999"]
        {
            assert!(mask(bad).is_err(), "{bad:?}");
        }
        assert_eq!(cpus(Some("")), Ok(None));
    }

    #[test]
    fn memory_policies_are_checked_as_the_kernel_does() {
        let policy = |value: Value| MemoryPolicy::new(&serde_json::from_value(value).unwrap());
        let bind = policy(json!({"mode": "MPOL_BIND", "nodes": "0,1025", "flags": ["MPOL_F_STATIC_NODES"]})).unwrap();
        assert_eq!((bind.mode, bind.nodes.len(), bind.nodes[16]), (2 | 1 << 15, 17, 2));
        assert!(policy(json!({"mode": "MPOL_DEFAULT", "nodes": ""})).is_ok());
        assert!(policy(json!({"mode": "MPOL_PREFERRED"})).is_ok());
        for (bad, field) in [
            (json!({"mode": "MPOL_BIND"}), "/nodes"),
            (json!({"mode": "MPOL_LOCAL", "nodes": "0"}), "/nodes"),
            (json!({"mode": "MPOL_BIND", "nodes": "x"}), "/nodes"),
            (json!({"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES"]}), "/flags"),
            (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}), "/flags"),
            (
                json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
                "/flags",
            ),
        ] {
            let message = policy(bad.clone()).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains(&format!("/linux/memoryPolicy{field}")), "{bad}: {message}");
        }
    }

    #[test]
    fn io_priorities_are_class_and_level() {
        let priority = |class: &str, level| {
            io_priority(&serde_json::from_value(json!({"class": class, "priority": level})).unwrap())
        };
        assert_eq!(priority("IOPRIO_CLASS_BE", 7), Ok(2 << 13 | 7));
        assert_eq!(priority("IOPRIO_CLASS_RT", 0), Ok(1 << 13));
        assert!(priority("IOPRIO_CLASS_IDLE", 8).is_err() && priority("IOPRIO_CLASS_IDLE", -1).is_err());
    }

    #[test]
    fn what_oci_spec_does_not_read_is_mended() {
        let mut process = json!({"execCPUAffinity": {"initial": "", "final": "1"}, "args": []});
        assert!(mend(&mut process));
        assert_eq!(process, json!({"execCPUAffinity": {"final": "1"}, "args": []}));
        assert!(!mend(&mut process));
    }
}
