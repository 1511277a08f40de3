//! `linux.resources`, checked: plain numbers, with what is unset or means "leave it" being None.

use super::devices::Rule;
use crate::error::{Error, Result};
use crate::log;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};
use std::fmt;

/// The limits of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// Where they were given, as error messages begin: `config.json: /linux/resources`.
    pub whence: String,
    pub devices: Vec<Rule>,
    pub memory: Memory,
    pub cpu: Cpu,
    /// Number of processes; negative: unlimited.
    pub pids: Option<i64>,
    pub block_io: BlockIo,
    pub hugepages: Vec<HugepageLimit>,
    pub network: Network,
    /// By the name of the device, in order.
    pub rdma: Vec<(String, RdmaLimit)>,
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
    /// Whether cgroups below share the limits, as on v2 they always do.
    pub use_hierarchy: Option<bool>,
    pub kernel_tcp: Option<i64>,
    /// A limit below what is in use is refused, on v2, too.
    pub check_before_update: bool,
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

/// Weights are 10..1000.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    pub weight: Option<u16>,
    /// Against the cgroups below.
    pub leaf_weight: Option<u16>,
    pub devices: Vec<WeightDevice>,
    pub throttles: Vec<Throttle>,
}

/// The weights of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightDevice {
    pub device: DeviceNumber,
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
}

/// A limit of one device; a rate of 0 is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    pub what: Throttled,
    pub device: DeviceNumber,
    pub rate: u64,
}

/// What a second of a throttled device is limited to: bytes, or operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttled {
    ReadBps,
    WriteBps,
    ReadIops,
    WriteIops,
}

/// `major:minor`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Memory of one size of huge pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugepageLimit {
    /// As the kernel's files are named: `2MB`.
    pub page_size: String,
    pub bytes: u64,
}

/// v1 only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    pub class_id: Option<u32>,
    /// Interfaces of the runtime's network namespace.
    pub priorities: Vec<(String, u32)>,
}

/// What may be used of one RDMA device; at least one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RdmaLimit {
    pub handles: Option<u32>,
    pub objects: Option<u32>,
}

impl Resources {
    /// Whether there is any limit, apart from devices.
    pub fn limit_anything(&self) -> bool {
        let (devices, whence) = (self.devices.clone(), self.whence.clone());
        *self != Resources { devices, whence, ..Resources::default() }
    }

    /// Checks the values. `whence` says where they come from, as error messages begin.
    pub fn new(resources: Option<&LinuxResources>, whence: &str) -> Result<Resources> {
        let mut checked = Resources { whence: whence.to_string(), ..Resources::default() };
        let Some(given) = resources else {
            checked.devices = super::devices::rules(&[], whence)?;
            return Ok(checked);
        };
        checked.devices = super::devices::rules(given.devices().as_deref().unwrap_or_default(), whence)?;
        checked.memory =
            given.memory().as_ref().map_or(Ok(Memory::default()), |memory| checked.check_memory(memory))?;
        checked.cpu = given.cpu().as_ref().map_or(Ok(Cpu::default()), |cpu| checked.check_cpu(cpu))?;
        // 0 is a limit like any other; negative means none (config-linux.md: pids).
        checked.pids = given.pids().map(|pids| pids.limit());
        checked.block_io = given.block_io().as_ref().map_or(Ok(BlockIo::default()), |io| checked.check_block_io(io))?;
        for (index, limit) in given.hugepage_limits().iter().flatten().enumerate() {
            let bad = |field: &str, why: &str| checked.error(&format!("hugepageLimits/{index}/{field}"), why);
            if !is_page_size(limit.page_size()) {
                return Err(bad("pageSize", &format!("{:?} is no size like 64KB, 2MB or 1GB", limit.page_size())));
            }
            let bytes = u64::try_from(limit.limit()).map_err(|_| bad("limit", "must not be negative"))?;
            checked.hugepages.push(HugepageLimit { page_size: limit.page_size().clone(), bytes });
        }
        checked.network =
            given.network().as_ref().map_or(Ok(Network::default()), |network| checked.check_network(network))?;
        for (device, limit) in given.rdma().iter().flatten() {
            let limit = RdmaLimit { handles: limit.hca_handles(), objects: limit.hca_objects() };
            if device.is_empty() || device.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(checked.error("rdma", &format!("{device:?} is no name of a device")));
            }
            if limit.handles.is_none() && limit.objects.is_none() {
                return Err(checked.error(&format!("rdma/{device}"), "needs hcaHandles or hcaObjects"));
            }
            checked.rdma.push((device.clone(), limit));
        }
        checked.rdma.sort_by(|a, b| a.0.cmp(&b.0));
        checked.unified = checked.check_unified(given)?;
        Ok(checked)
    }

    /// What is wrong with a property: `config.json: /linux/resources/memory/limit: why`.
    pub fn error(&self, property: &str, why: &str) -> Error {
        Error::new(format!("{}/{property}: {why}", self.whence))
    }

    #[allow(deprecated, reason = "memory.kernel is deprecated in the specification, and engines may still send it")]
    fn check_memory(&self, memory: &LinuxMemory) -> Result<Memory> {
        // 0 is what engines write when they mean nothing at all.
        let size = |value: Option<i64>, field: &str| match value.filter(|value| *value != 0) {
            Some(value) if value < -1 => Err(self.error(field, "must be -1 or a number of bytes")),
            value => Ok(value),
        };
        if size(memory.kernel(), "memory/kernel")?.is_some() {
            // It limited what the kernel now counts as memory like any other (Linux 5.4 deprecated, 6.1 ignores it).
            log::warning(&format!("{}/memory/kernel: is ignored, as the kernel does", self.whence));
        }
        let checked = Memory {
            limit: size(memory.limit(), "memory/limit")?,
            reservation: size(memory.reservation(), "memory/reservation")?,
            swap: size(memory.swap(), "memory/swap")?,
            kernel_tcp: size(memory.kernel_tcp(), "memory/kernelTCP")?,
            swappiness: memory.swappiness(),
            disable_oom_killer: memory.disable_oom_killer().unwrap_or(false),
            use_hierarchy: memory.use_hierarchy(),
            check_before_update: memory.check_before_update().unwrap_or(false),
        };
        let Memory { limit, swap, .. } = checked;
        if limit.is_some_and(|limit| limit > 0 && swap.is_some_and(|swap| swap > 0 && swap < limit)) {
            return Err(self.error("memory/swap", "is memory and swap together, so not less than memory/limit"));
        }
        if checked.swappiness.is_some_and(|swappiness| swappiness > 100) {
            return Err(self.error("memory/swappiness", "must be between 0 and 100"));
        }
        Ok(checked)
    }

    fn check_cpu(&self, cpu: &LinuxCpu) -> Result<Cpu> {
        let list = |text: &Option<String>, field: &str| match text.as_ref().filter(|text| !text.trim().is_empty()) {
            Some(text) if !text.bytes().all(|b| b.is_ascii_digit() || b"-,:/ \n".contains(&b)) => {
                Err(self.error(field, "is no list like 0-3,7"))
            }
            text => Ok(text.cloned()),
        };
        let checked = Cpu {
            shares: cpu.shares().filter(|shares| *shares != 0),
            quota: cpu.quota().filter(|quota| *quota != 0),
            period: cpu.period().filter(|period| *period != 0),
            burst: cpu.burst(),
            idle: cpu.idle(),
            realtime_runtime: cpu.realtime_runtime().filter(|runtime| *runtime != 0),
            realtime_period: cpu.realtime_period().filter(|period| *period != 0),
            cpus: list(cpu.cpus(), "cpu/cpus")?,
            mems: list(cpu.mems(), "cpu/mems")?,
        };
        if checked.idle.is_some_and(|idle| !(0..=1).contains(&idle)) {
            return Err(self.error("cpu/idle", "must be 0 or 1"));
        }
        let quota = checked.quota.and_then(|quota| u64::try_from(quota).ok());
        if quota.is_some_and(|quota| checked.burst.is_some_and(|burst| burst > quota)) {
            return Err(self.error("cpu/burst", "must not be more than cpu/quota"));
        }
        Ok(checked)
    }

    fn check_block_io(&self, io: &LinuxBlockIo) -> Result<BlockIo> {
        // 0 is what engines write when they mean nothing at all.
        let weight = |value: Option<u16>, field: &str| match value.filter(|weight| *weight != 0) {
            Some(weight) if !(10..=1000).contains(&weight) => {
                Err(self.error(&format!("blockIO/{field}"), "must be between 10 and 1000"))
            }
            value => Ok(value),
        };
        let mut checked = BlockIo {
            weight: weight(io.weight(), "weight")?,
            leaf_weight: weight(io.leaf_weight(), "leafWeight")?,
            ..BlockIo::default()
        };
        for (index, device) in io.weight_device().iter().flatten().enumerate() {
            let at = |field: &str| format!("weightDevice/{index}/{field}");
            if device.weight().is_none() && device.leaf_weight().is_none() {
                return Err(self.error(&format!("blockIO/weightDevice/{index}"), "needs weight or leafWeight"));
            }
            checked.devices.push(WeightDevice {
                device: self
                    .device_number((device.major(), device.minor()), &format!("blockIO/weightDevice/{index}"))?,
                weight: weight(device.weight(), &at("weight"))?,
                leaf_weight: weight(device.leaf_weight(), &at("leafWeight"))?,
            });
        }
        for (what, list, name) in [
            (Throttled::ReadBps, io.throttle_read_bps_device(), "throttleReadBpsDevice"),
            (Throttled::WriteBps, io.throttle_write_bps_device(), "throttleWriteBpsDevice"),
            (Throttled::ReadIops, io.throttle_read_iops_device(), "throttleReadIOPSDevice"),
            (Throttled::WriteIops, io.throttle_write_iops_device(), "throttleWriteIOPSDevice"),
        ] {
            for (index, throttle) in list.iter().flatten().enumerate() {
                let numbers = (throttle.major(), throttle.minor());
                let device = self.device_number(numbers, &format!("blockIO/{name}/{index}"))?;
                checked.throttles.push(Throttle { what, device, rate: throttle.rate() });
            }
        }
        Ok(checked)
    }

    fn device_number(&self, (major, minor): (i64, i64), property: &str) -> Result<DeviceNumber> {
        let number = |value: i64, field: &str| {
            u32::try_from(value).map_err(|_| self.error(&format!("{property}/{field}"), "is out of range"))
        };
        Ok(DeviceNumber { major: number(major, "major")?, minor: number(minor, "minor")? })
    }

    fn check_network(&self, network: &LinuxNetwork) -> Result<Network> {
        let mut checked = Network { class_id: network.class_id(), priorities: Vec::new() };
        for (index, priority) in network.priorities().iter().flatten().enumerate() {
            let name = priority.name();
            if name.is_empty() || name.len() > 15 || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
                let property = format!("network/priorities/{index}/name");
                return Err(self.error(&property, &format!("{name:?} is no name of an interface")));
            }
            checked.priorities.push((name.clone(), priority.priority()));
        }
        Ok(checked)
    }

    /// Any file may be named, also one that nobody has heard of yet (config-linux.md: unified).
    fn check_unified(&self, given: &LinuxResources) -> Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        for (file, value) in given.unified().iter().flatten() {
            let (controller, rest) = file.split_once('.').unwrap_or_default();
            if controller.is_empty() || rest.is_empty() || file.contains(['/', '\0']) {
                return Err(self.error("unified", &format!("{file:?} is no name of a cgroup file like memory.high")));
            }
            if file == "cgroup.freeze" && value.trim() != "0" {
                return Err(self.error("unified/cgroup.freeze", "the container's init could never begin"));
            }
            if ["cgroup.procs", "cgroup.threads", "cgroup.kill"].contains(&file.as_str()) {
                return Err(self.error(&format!("unified/{file}"), "moves or ends processes, and is no limit"));
            }
            files.push((file.clone(), value.clone()));
        }
        files.sort();
        Ok(files)
    }
}

/// `<size><unit>B`, as the kernel's files are named (config-linux.md: huge page limits).
fn is_page_size(text: &str) -> bool {
    let size = text.strip_suffix("KB").or_else(|| text.strip_suffix("MB")).or_else(|| text.strip_suffix("GB"));
    size.is_some_and(|size| {
        !size.is_empty() && !size.starts_with('0') && size.bytes().all(|byte| byte.is_ascii_digit())
    })
}
