//! `linux.resources`, checked: plain numbers, with what is unset or means "leave it" being None.

use super::devices::Rule;
use crate::error::{Error, Result};
use oci_spec::runtime::LinuxResources;

/// The limits of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    pub devices: Vec<Rule>,
    pub memory: Memory,
    pub cpu: Cpu,
    /// Number of processes; None: unlimited, as a new cgroup is.
    pub pids: Option<u64>,
    /// Files of v2 with what to write into them, in order of their names.
    pub unified: Vec<(String, String)>,
}

/// Bytes; -1: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    /// Memory and swap together.
    pub swap: Option<i64>,
    pub swappiness: Option<u64>,
    pub disable_oom_killer: bool,
    pub kernel_tcp: Option<i64>,
}

/// Times in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    pub shares: Option<u64>,
    pub quota: Option<i64>,
    pub period: Option<u64>,
    pub burst: Option<u64>,
    pub idle: Option<i64>,
    pub realtime_runtime: Option<i64>,
    pub realtime_period: Option<u64>,
    pub cpus: Option<String>,
    pub mems: Option<String>,
}

impl Resources {
    /// Whether there is any limit, apart from devices.
    pub fn limit_anything(&self) -> bool {
        *self != Resources { devices: self.devices.clone(), ..Resources::default() }
    }

    /// Checks the values.
    pub fn new(resources: Option<&LinuxResources>) -> Result<Resources> {
        let Some(given) = resources else {
            return Ok(Resources { devices: super::devices::rules(&[])?, ..Resources::default() });
        };
        let bad = |field: &str, why: &str| Error::new(format!("config.json: /linux/resources/{field}: {why}"));
        let mut resources = Resources {
            devices: super::devices::rules(given.devices().as_deref().unwrap_or_default())?,
            ..Resources::default()
        };
        if let Some(memory) = given.memory() {
            // 0 is what engines write when they mean nothing at all.
            let size = |value: Option<i64>, field: &str| match value.filter(|value| *value != 0) {
                Some(value) if value < -1 => Err(bad(field, "must be -1 or a number of bytes")),
                value => Ok(value),
            };
            resources.memory = Memory {
                limit: size(memory.limit(), "memory/limit")?,
                reservation: size(memory.reservation(), "memory/reservation")?,
                swap: size(memory.swap(), "memory/swap")?,
                kernel_tcp: size(memory.kernel_tcp(), "memory/kernelTCP")?,
                swappiness: memory.swappiness(),
                disable_oom_killer: memory.disable_oom_killer().unwrap_or(false),
            };
            let Memory { limit, swap, .. } = resources.memory;
            if limit.is_some_and(|limit| limit > 0 && swap.is_some_and(|swap| swap > 0 && swap < limit)) {
                return Err(bad("memory/swap", "is memory and swap together, so not less than memory/limit"));
            }
            if resources.memory.swappiness.is_some_and(|swappiness| swappiness > 100) {
                return Err(bad("memory/swappiness", "must be between 0 and 100"));
            }
        }
        if let Some(cpu) = given.cpu() {
            let text = |text: &Option<String>, field: &str| match text.as_ref().filter(|text| !text.is_empty()) {
                Some(text) if !text.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b',') => {
                    Err(bad(field, "is no list like 0-3,7"))
                }
                text => Ok(text.cloned()),
            };
            resources.cpu = Cpu {
                shares: cpu.shares().filter(|shares| *shares != 0),
                quota: cpu.quota().filter(|quota| *quota != 0),
                period: cpu.period().filter(|period| *period != 0),
                burst: cpu.burst(),
                idle: cpu.idle(),
                realtime_runtime: cpu.realtime_runtime().filter(|runtime| *runtime != 0),
                realtime_period: cpu.realtime_period().filter(|period| *period != 0),
                cpus: text(cpu.cpus(), "cpu/cpus")?,
                mems: text(cpu.mems(), "cpu/mems")?,
            };
            if resources.cpu.idle.is_some_and(|idle| !(0..=1).contains(&idle)) {
                return Err(bad("cpu/idle", "must be 0 or 1"));
            }
        }
        // 0 is a limit like any other; negative means none (config-linux.md: pids).
        resources.pids = given.pids().and_then(|pids| u64::try_from(pids.limit()).ok());
        for (file, value) in given.unified().iter().flatten() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if file.is_empty() || !file.chars().all(plain) || file.starts_with('.') || !file.contains('.') {
                return Err(bad("unified", &format!("{file:?} is no name of a cgroup file")));
            }
            resources.unified.push((file.clone(), value.clone()));
        }
        resources.unified.sort();
        Ok(resources)
    }
}
