//! `linux.resources` as files of a cgroup and their values: once for v1 and once for v2, in an order in which each write
//! is legal in a new cgroup. Where v2 has no form for a limit, that is an error (config-linux.md: unified).

use super::resources::{BlockIo, Cpu, Memory, Resources, Throttled};
use super::setting::Setting;
use crate::error::Result;

/// What v1 takes as shares.
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// What is written on v1, the settings of one controller together.
pub fn v1(resources: &Resources) -> Result<Vec<Setting>> {
    if !resources.unified.is_empty() {
        return Err(resources.error("unified", "needs cgroup v2"));
    }
    // The kernel would take other numbers quietly, for something else; runc refuses them.
    match shares(&resources.cpu) {
        Some(..MIN_SHARES) => return Err(resources.error("cpu/shares", "the minimum allowed cpu-shares is 2")),
        Some(shares) if shares > MAX_SHARES => {
            return Err(resources.error("cpu/shares", "the maximum allowed cpu-shares is 262144"));
        }
        _ => {}
    }
    let mut settings = Vec::new();
    memory_v1(&resources.memory, &mut settings);
    cpu_v1(&resources.cpu, &mut settings);
    cpuset(&resources.cpu, &mut settings);
    settings.extend(resources.pids.map(pids));
    block_io_v1(&resources.block_io, &mut settings);
    for limit in &resources.hugepages {
        let file = |kind: &str| format!("hugetlb.{}.{kind}limit_in_bytes", limit.page_size);
        settings.push(Setting::must(file(""), limit.bytes));
        // Reservations are limited as well where the kernel can (Linux 5.7).
        settings.push(Setting::may(file("rsvd."), limit.bytes));
    }
    settings.extend(resources.network.class_id.map(|class| Setting::must("net_cls.classid", class)));
    for (name, priority) in &resources.network.priorities {
        settings.push(Setting::must("net_prio.ifpriomap", format!("{name} {priority}")));
    }
    rdma(resources, &mut settings);
    Ok(settings)
}

/// What is written on v2; the files of `unified` come last, in order of their names.
pub fn v2(resources: &Resources) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    memory_v2(resources, &mut settings)?;
    cpu_v2(resources, &mut settings)?;
    cpuset(&resources.cpu, &mut settings);
    settings.extend(resources.pids.map(pids));
    block_io_v2(resources, &mut settings)?;
    for limit in &resources.hugepages {
        settings.push(Setting::must(format!("hugetlb.{}.max", limit.page_size), limit.bytes));
        settings.push(Setting::may(format!("hugetlb.{}.rsvd.max", limit.page_size), limit.bytes));
    }
    // Class 0 is that of a container without one.
    if resources.network.class_id.is_some_and(|class| class != 0) {
        return Err(resources.error("network/classID", "has no form on cgroup v2"));
    }
    if !resources.network.priorities.is_empty() {
        return Err(resources.error("network/priorities", "have no form on cgroup v2"));
    }
    rdma(resources, &mut settings);
    settings.extend(resources.unified.iter().map(|(file, value)| Setting::must(file.clone(), value)));
    Ok(settings)
}

/// A number of processes, or of bytes on v2; what is negative is unlimited.
fn maximum(limit: i64) -> String {
    if limit < 0 { "max".to_string() } else { limit.to_string() }
}

fn pids(limit: i64) -> Setting {
    match limit {
        limit if limit < 0 => Setting::may("pids.max", "max"),
        limit => Setting::must("pids.max", limit),
    }
}

/// "No limit" need not be written where the kernel counts nothing.
fn amount(file: &str, bytes: i64) -> Setting {
    if bytes < 0 { Setting::may(file, bytes) } else { Setting::must(file, bytes) }
}

fn memory_v1(memory: &Memory, settings: &mut Vec<Setting>) {
    // Unlimited memory means unlimited swap, unless that is said.
    let swap = memory.swap.or(memory.limit.filter(|limit| *limit < 0));
    let files = [
        ("memory.limit_in_bytes", memory.limit),
        ("memory.memsw.limit_in_bytes", swap),
        ("memory.soft_limit_in_bytes", memory.reservation),
        ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp),
    ];
    settings.extend(files.iter().filter_map(|(file, bytes)| bytes.map(|bytes| amount(file, bytes))));
    settings.extend(memory.swappiness.map(|value| Setting::must("memory.swappiness", value)));
    if memory.disable_oom_killer {
        settings.push(Setting::must("memory.oom_control", 1));
    }
    // The kernels that we run on always do, so that only the contrary is theirs to refuse.
    if memory.use_hierarchy == Some(false) {
        settings.push(Setting::must("memory.use_hierarchy", 0));
    }
}

fn memory_v2(resources: &Resources, settings: &mut Vec<Setting>) -> Result<()> {
    let memory = &resources.memory;
    // v1 limits memory and swap together, v2 swap alone.
    let swap = match (memory.swap, memory.limit) {
        (Some(swap), _) if swap < 0 => Some(-1),
        (Some(_), None) => {
            return Err(resources.error("memory/swap", "needs memory/limit beside it: v2 counts swap alone"));
        }
        (Some(_), Some(limit)) if limit < 0 => {
            return Err(resources.error("memory/swap", "is memory and swap together, and memory/limit is unlimited"));
        }
        (Some(swap), Some(limit)) => Some(swap - limit),
        (None, limit) => limit.filter(|limit| *limit < 0),
    };
    settings.extend(swap.map(|swap| {
        // A kernel that does not account swap has nothing to forbid either.
        let file = "memory.swap.max";
        if swap > 0 { Setting::must(file, swap) } else { Setting::may(file, maximum(swap)) }
    }));
    for (file, bytes) in [("memory.max", memory.limit), ("memory.low", memory.reservation)] {
        settings.extend(bytes.map(|bytes| match bytes {
            bytes if bytes < 0 => Setting::may(file, "max"),
            bytes => Setting::must(file, bytes),
        }));
    }
    for (property, given) in [
        ("memory/kernelTCP", memory.kernel_tcp.is_some_and(|limit| limit >= 0)),
        ("memory/disableOOMKiller", memory.disable_oom_killer),
        ("memory/swappiness", memory.swappiness.is_some()),
        ("memory/useHierarchy", memory.use_hierarchy == Some(false)),
    ] {
        if given {
            return Err(resources.error(property, "has no form on cgroup v2"));
        }
    }
    Ok(())
}

fn cpu_v1(cpu: &Cpu, settings: &mut Vec<Setting>) {
    settings.extend(cpu.idle.map(idle));
    settings.extend(shares(cpu).map(|shares| Setting::must("cpu.shares", shares)));
    // The period first: a quota for another period might be more than the cgroup above has.
    settings.extend(cpu.period.map(|period| Setting::must("cpu.cfs_period_us", period)));
    settings.extend(cpu.quota.map(|quota| Setting::must("cpu.cfs_quota_us", quota)));
    settings.extend(cpu.burst.map(|burst| Setting::must("cpu.cfs_burst_us", burst)));
    settings.extend(realtime(cpu));
}

/// v1: what a process of the container, and with it each cgroup above that was made for it, may take as realtime.
pub fn realtime(cpu: &Cpu) -> Vec<Setting> {
    let period = cpu.realtime_period.map(|period| Setting::must("cpu.rt_period_us", period));
    let runtime = cpu.realtime_runtime.map(|runtime| Setting::must("cpu.rt_runtime_us", runtime));
    period.into_iter().chain(runtime).collect()
}

/// Kernels before 5.15 have no idle cgroups, so there none is.
fn idle(idle: i64) -> Setting {
    if idle == 0 { Setting::may("cpu.idle", 0) } else { Setting::must("cpu.idle", idle) }
}

/// An idle cgroup has the least weight there is, and takes no other.
fn shares(cpu: &Cpu) -> Option<u64> {
    cpu.shares.filter(|_| cpu.idle != Some(1))
}

fn cpu_v2(resources: &Resources, settings: &mut Vec<Setting>) -> Result<()> {
    let cpu = &resources.cpu;
    for (property, given) in
        [("cpu/realtimeRuntime", cpu.realtime_runtime.is_some()), ("cpu/realtimePeriod", cpu.realtime_period.is_some())]
    {
        if given {
            return Err(resources.error(property, "has no form on cgroup v2"));
        }
    }
    settings.extend(cpu.idle.map(idle));
    settings.extend(shares(cpu).map(|shares| Setting::must("cpu.weight", weight_of_shares(shares))));
    let quota = cpu.quota.map_or_else(|| "max".to_string(), maximum);
    match (cpu.quota, cpu.period) {
        (None, None) => {}
        // Alone, it leaves the period as it is.
        (Some(_), None) => settings.push(Setting::must("cpu.max", quota)),
        (_, Some(period)) => settings.push(Setting::must("cpu.max", format!("{quota} {period}"))),
    }
    settings.extend(cpu.burst.map(|burst| Setting::must("cpu.max.burst", burst)));
    Ok(())
}

fn cpuset(cpu: &Cpu, settings: &mut Vec<Setting>) {
    settings.extend(cpu.cpus.iter().map(|cpus| Setting::must("cpuset.cpus", cpus)));
    settings.extend(cpu.mems.iter().map(|mems| Setting::must("cpuset.mems", mems)));
}

/// v1's shares (2..262144, 1024 by default) as v2's weight (1..10000, 100 by default): the curve through those three
/// points that every runtime uses, quadratic in the logarithms.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= MIN_SHARES {
        return 1;
    }
    if shares >= MAX_SHARES {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

/// The weights of CFQ and BFQ (10..1000) as those of io.cost (1..10000), in a straight line as every runtime does it.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

fn block_io_v1(io: &BlockIo, settings: &mut Vec<Setting>) {
    // CFQ had these names, BFQ has others; the values are the same.
    settings.extend(io.weight.map(|weight| Setting::either(("blkio.weight", weight), ("blkio.bfq.weight", weight))));
    settings.extend(io.leaf_weight.map(|weight| Setting::must("blkio.leaf_weight", weight)));
    for device in &io.devices {
        let number = &device.device;
        settings.extend(device.weight.map(|weight| {
            let value = format!("{number} {weight}");
            Setting::either(("blkio.weight_device", &value), ("blkio.bfq.weight_device", &value))
        }));
        let leaf = device.leaf_weight;
        settings.extend(leaf.map(|weight| Setting::must("blkio.leaf_weight_device", format!("{number} {weight}"))));
    }
    for throttle in &io.throttles {
        let file = match throttle.what {
            Throttled::ReadBps => "blkio.throttle.read_bps_device",
            Throttled::WriteBps => "blkio.throttle.write_bps_device",
            Throttled::ReadIops => "blkio.throttle.read_iops_device",
            Throttled::WriteIops => "blkio.throttle.write_iops_device",
        };
        settings.push(Setting::must(file, format!("{} {}", throttle.device, throttle.rate)));
    }
}

fn block_io_v2(resources: &Resources, settings: &mut Vec<Setting>) -> Result<()> {
    let io = &resources.block_io;
    if io.leaf_weight.is_some() || io.devices.iter().any(|device| device.leaf_weight.is_some()) {
        return Err(resources.error("blockIO/leafWeight", "has no form on cgroup v2"));
    }
    settings
        .extend(io.weight.map(|weight| Setting::either(("io.bfq.weight", weight), ("io.weight", io_weight(weight)))));
    for device in &io.devices {
        let number = &device.device;
        settings.extend(device.weight.map(|weight| {
            let converted = format!("{number} {}", io_weight(weight));
            Setting::either(("io.bfq.weight", format!("{number} {weight}")), ("io.weight", converted))
        }));
    }
    for throttle in &io.throttles {
        let key = match throttle.what {
            Throttled::ReadBps => "rbps",
            Throttled::WriteBps => "wbps",
            Throttled::ReadIops => "riops",
            Throttled::WriteIops => "wiops",
        };
        // On v1 a rate of 0 is no limit; v2 has a word for that and refuses 0.
        let rate = if throttle.rate == 0 { "max".to_string() } else { throttle.rate.to_string() };
        settings.push(Setting::must("io.max", format!("{} {key}={rate}", throttle.device)));
    }
    Ok(())
}

fn rdma(resources: &Resources, settings: &mut Vec<Setting>) {
    for (device, limit) in &resources.rdma {
        let handles = limit.handles.map(|number| format!(" hca_handle={number}"));
        let objects = limit.objects.map(|number| format!(" hca_object={number}"));
        let value = format!("{device}{}{}", handles.unwrap_or_default(), objects.unwrap_or_default());
        settings.push(Setting::must("rdma.max", value));
    }
}

#[cfg(test)]
mod tests {
    use super::super::setting::Otherwise;
    use super::*;

    fn resources(json: &str) -> Result<Resources> {
        let given = serde_json::from_str(json).unwrap();
        Resources::new(Some(&given), "config.json: /linux/resources")
    }

    /// `file=value`, `?` in front if it may be missing, ` or file=value` behind for the other file.
    fn show(settings: Vec<Setting>) -> Vec<String> {
        let show = |setting: Setting| match setting.otherwise {
            Otherwise::Refuse => format!("{}={}", setting.file, setting.value),
            Otherwise::Skip => format!("?{}={}", setting.file, setting.value),
            Otherwise::Use(file, value) => format!("{}={} or {file}={value}", setting.file, setting.value),
        };
        settings.into_iter().map(show).collect()
    }

    /// What becomes of resources on v1 and v2; of an error its text behind the pointer of the resources.
    fn becomes(json: &str, on_v1: &[&str], on_v2: &[&str]) {
        let resources = resources(json).unwrap();
        for (converted, expected) in [(v1(&resources), on_v1), (v2(&resources), on_v2)] {
            let shown = match converted {
                Ok(settings) => show(settings),
                Err(error) => vec![error.to_string().replace("config.json: /linux/resources/", "! ")],
            };
            assert_eq!(shown, expected, "{json}");
        }
    }

    fn refused(json: &str, text: &str) {
        let error = resources(json).expect_err(json).to_string();
        let expected = format!("config.json: /linux/resources/{text}");
        assert!(error.starts_with(&expected), "{json}: {error}");
    }

    #[test]
    fn what_engines_write_for_nothing_is_nothing() {
        let docker = r#"{"devices": [{"allow": false, "access": "rwm"}], "memory": {"disableOOMKiller": false,
            "swappiness": null, "limit": 0, "swap": 0, "reservation": 0, "kernel": 0, "kernelTCP": 0,
            "checkBeforeUpdate": false, "useHierarchy": true},
            "cpu": {"shares": 0, "quota": 0, "period": 0, "realtimeRuntime": 0, "realtimePeriod": 0, "cpus": "",
            "mems": ""}, "blockIO": {"weight": 0, "leafWeight": 0, "weightDevice": [], "throttleReadBpsDevice": null},
            "hugepageLimits": [], "network": {"priorities": []}, "rdma": {}, "unified": {}}"#;
        becomes(docker, &[], &[]);
        becomes("{}", &[], &[]);
        becomes(r#"{"pids": {"limit": -1}}"#, &["?pids.max=max"], &["?pids.max=max"]);
    }

    #[test]
    fn shares_beyond_the_range_of_v1_are_refused_there() {
        let (least, most) = ("the minimum allowed cpu-shares is 2", "the maximum allowed cpu-shares is 262144");
        becomes(r#"{"cpu": {"shares": 1}}"#, &[&format!("! cpu/shares: {least}")], &["cpu.weight=1"]);
        becomes(r#"{"cpu": {"shares": 262145}}"#, &[&format!("! cpu/shares: {most}")], &["cpu.weight=10000"]);
        becomes(r#"{"cpu": {"shares": 262144}}"#, &["cpu.shares=262144"], &["cpu.weight=10000"]);
    }

    #[test]
    fn memory_is_converted() {
        becomes(
            r#"{"memory": {"limit": 100, "swap": 150, "reservation": 50}}"#,
            &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150", "memory.soft_limit_in_bytes=50"],
            &["memory.swap.max=50", "memory.max=100", "memory.low=50"],
        );
        becomes(
            r#"{"memory": {"limit": 100, "swap": 100}}"#,
            &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100"],
            &["?memory.swap.max=0", "memory.max=100"],
        );
        becomes(
            r#"{"memory": {"limit": 100, "swap": -1}}"#,
            &["memory.limit_in_bytes=100", "?memory.memsw.limit_in_bytes=-1"],
            &["?memory.swap.max=max", "memory.max=100"],
        );
        becomes(
            r#"{"memory": {"limit": -1}}"#,
            &["?memory.limit_in_bytes=-1", "?memory.memsw.limit_in_bytes=-1"],
            &["?memory.swap.max=max", "?memory.max=max"],
        );
        let needs = "! memory/swap: needs memory/limit beside it: v2 counts swap alone";
        becomes(r#"{"memory": {"swap": 150}}"#, &["memory.memsw.limit_in_bytes=150"], &[needs]);
        becomes(
            r#"{"memory": {"swappiness": 0}}"#,
            &["memory.swappiness=0"],
            &["! memory/swappiness: has no form on cgroup v2"],
        );
        becomes(r#"{"memory": {"useHierarchy": true}}"#, &[], &[]);
        let shared = "! memory/useHierarchy: has no form on cgroup v2";
        becomes(r#"{"memory": {"useHierarchy": false}}"#, &["memory.use_hierarchy=0"], &[shared]);
        becomes(
            r#"{"memory": {"disableOOMKiller": true}}"#,
            &["memory.oom_control=1"],
            &["! memory/disableOOMKiller: has no form on cgroup v2"],
        );
        becomes(
            r#"{"memory": {"kernelTCP": 7}}"#,
            &["memory.kmem.tcp.limit_in_bytes=7"],
            &["! memory/kernelTCP: has no form on cgroup v2"],
        );
        becomes(r#"{"memory": {"kernelTCP": -1, "kernel": 5}}"#, &["?memory.kmem.tcp.limit_in_bytes=-1"], &[]);
        refused(r#"{"memory": {"limit": 100, "swap": 50}}"#, "memory/swap: ");
        refused(r#"{"memory": {"limit": -2}}"#, "memory/limit: ");
        refused(r#"{"memory": {"swappiness": 101}}"#, "memory/swappiness: ");
    }

    #[test]
    fn cpu_is_converted() {
        becomes(
            r#"{"cpu": {"shares": 512, "quota": 30000, "period": 60000, "burst": 100, "cpus": "0-1", "mems": "0"}}"#,
            &[
                "cpu.shares=512",
                "cpu.cfs_period_us=60000",
                "cpu.cfs_quota_us=30000",
                "cpu.cfs_burst_us=100",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
            ],
            &["cpu.weight=59", "cpu.max=30000 60000", "cpu.max.burst=100", "cpuset.cpus=0-1", "cpuset.mems=0"],
        );
        becomes(r#"{"cpu": {"quota": 30000}}"#, &["cpu.cfs_quota_us=30000"], &["cpu.max=30000"]);
        becomes(r#"{"cpu": {"quota": -1}}"#, &["cpu.cfs_quota_us=-1"], &["cpu.max=max"]);
        becomes(r#"{"cpu": {"period": 60000}}"#, &["cpu.cfs_period_us=60000"], &["cpu.max=max 60000"]);
        // An idle cgroup has no shares.
        becomes(r#"{"cpu": {"idle": 1, "shares": 512}}"#, &["cpu.idle=1"], &["cpu.idle=1"]);
        becomes(
            r#"{"cpu": {"idle": 0, "shares": 512}}"#,
            &["?cpu.idle=0", "cpu.shares=512"],
            &["?cpu.idle=0", "cpu.weight=59"],
        );
        becomes(
            r#"{"cpu": {"realtimePeriod": 500000, "realtimeRuntime": 1000}}"#,
            &["cpu.rt_period_us=500000", "cpu.rt_runtime_us=1000"],
            &["! cpu/realtimeRuntime: has no form on cgroup v2"],
        );
        becomes(
            r#"{"cpu": {"realtimePeriod": 500000}}"#,
            &["cpu.rt_period_us=500000"],
            &["! cpu/realtimePeriod: has no form on cgroup v2"],
        );
        refused(r#"{"cpu": {"idle": 2}}"#, "cpu/idle: ");
        refused(r#"{"cpu": {"cpus": "first"}}"#, "cpu/cpus: ");
        refused(r#"{"cpu": {"quota": 1000, "burst": 1001}}"#, "cpu/burst: ");
        becomes(
            r#"{"cpu": {"quota": -1, "burst": 1001}}"#,
            &["cpu.cfs_quota_us=-1", "cpu.cfs_burst_us=1001"],
            &["cpu.max=max", "cpu.max.burst=1001"],
        );
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(1, 1), (2, 1), (512, 59), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_of_shares(shares), expected, "{shares}");
        }
        for (weight, expected) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(io_weight(weight), expected, "{weight}");
        }
    }

    #[test]
    fn block_io_is_converted() {
        becomes(
            r#"{"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 16, "weight": 10}]}}"#,
            &[
                "blkio.weight=500 or blkio.bfq.weight=500",
                "blkio.weight_device=8:16 10 or blkio.bfq.weight_device=8:16 10",
            ],
            &["io.bfq.weight=500 or io.weight=4950", "io.bfq.weight=8:16 10 or io.weight=8:16 1"],
        );
        let leaf = "! blockIO/leafWeight: has no form on cgroup v2";
        becomes(r#"{"blockIO": {"leafWeight": 10}}"#, &["blkio.leaf_weight=10"], &[leaf]);
        becomes(
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 1000}]}}"#,
            &["blkio.leaf_weight_device=8:0 1000"],
            &[leaf],
        );
        becomes(
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}, {"major": 8, "minor": 16,
                "rate": 18446744073709551615}], "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}}"#,
            &[
                "blkio.throttle.read_bps_device=8:0 1",
                "blkio.throttle.read_bps_device=8:16 18446744073709551615",
                "blkio.throttle.write_bps_device=8:0 2",
                "blkio.throttle.read_iops_device=8:0 3",
                "blkio.throttle.write_iops_device=8:0 0",
            ],
            &[
                "io.max=8:0 rbps=1",
                "io.max=8:16 rbps=18446744073709551615",
                "io.max=8:0 wbps=2",
                "io.max=8:0 riops=3",
                "io.max=8:0 wiops=max",
            ],
        );
        for (json, text) in [
            (r#"{"weight": 9}"#, "weight: must be between"),
            (r#"{"leafWeight": 1001}"#, "leafWeight: must be between"),
            (r#"{"weightDevice": [{"major": 8, "minor": 0}]}"#, "weightDevice/0: needs weight or leafWeight"),
            (r#"{"weightDevice": [{"major": 8, "minor": 0, "weight": 5}]}"#, "weightDevice/0/weight: must be between"),
            (r#"{"weightDevice": [{"major": -1, "minor": 0, "weight": 50}]}"#, "weightDevice/0/major: is out of range"),
            (
                r#"{"throttleReadIOPSDevice": [{"major": 8, "minor": 4294967296, "rate": 5}]}"#,
                "throttleReadIOPSDevice/0/minor: is out of range",
            ),
        ] {
            refused(&format!(r#"{{"blockIO": {json}}}"#), &format!("blockIO/{text}"));
        }
    }

    #[test]
    fn pids_and_huge_pages_are_converted() {
        becomes(r#"{"pids": {"limit": 0}}"#, &["pids.max=0"], &["pids.max=0"]);
        becomes(
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}, {"pageSize": "64KB", "limit": 0}]}"#,
            &[
                "hugetlb.2MB.limit_in_bytes=4194304",
                "?hugetlb.2MB.rsvd.limit_in_bytes=4194304",
                "hugetlb.64KB.limit_in_bytes=0",
                "?hugetlb.64KB.rsvd.limit_in_bytes=0",
            ],
            &[
                "hugetlb.2MB.max=4194304",
                "?hugetlb.2MB.rsvd.max=4194304",
                "hugetlb.64KB.max=0",
                "?hugetlb.64KB.rsvd.max=0",
            ],
        );
        for size in ["", "2", "MB", "2mb", "2MiB", "02MB", "2.5MB", "2TB", "../2MB", "-2MB"] {
            let json = format!(r#"{{"hugepageLimits": [{{"pageSize": "{size}", "limit": 1}}]}}"#);
            refused(&json, "hugepageLimits/0/pageSize: ");
        }
        refused(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}"#, "hugepageLimits/0/limit: ");
    }

    #[test]
    fn network_and_rdma_are_converted() {
        let network = r#"{"network": {"classID": 1048577,
            "priorities": [{"name": "eth0", "priority": 500}, {"name": "lo", "priority": 0}]}}"#;
        becomes(
            network,
            &["net_cls.classid=1048577", "net_prio.ifpriomap=eth0 500", "net_prio.ifpriomap=lo 0"],
            &["! network/classID: has no form on cgroup v2"],
        );
        becomes(
            r#"{"network": {"classID": 0, "priorities": [{"name": "lo", "priority": 5}]}}"#,
            &["net_cls.classid=0", "net_prio.ifpriomap=lo 5"],
            &["! network/priorities: have no form on cgroup v2"],
        );
        refused(r#"{"network": {"priorities": [{"name": "e 0", "priority": 5}]}}"#, "network/priorities/0/name: ");
        let rdma = ["rdma.max=a hca_handle=3", "rdma.max=b hca_handle=1 hca_object=2", "rdma.max=c hca_object=0"];
        becomes(
            r#"{"rdma": {"b": {"hcaHandles": 1, "hcaObjects": 2}, "a": {"hcaHandles": 3}, "c": {"hcaObjects": 0}}}"#,
            &rdma,
            &rdma,
        );
        refused(r#"{"rdma": {"mlx5_1": {}}}"#, "rdma/mlx5_1: needs hcaHandles or hcaObjects");
    }

    #[test]
    fn every_unified_file_is_written_last() {
        becomes(
            r#"{"pids": {"limit": 5}, "unified": {"unheard.of": "x", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"}}"#,
            &["! unified: needs cgroup v2"],
            &["pids.max=5", "io.max=8:0 rbps=1\n8:16 rbps=2\n", "unheard.of=x"],
        );
        for file in ["", "a/b", "../x.y", "nodot", ".hidden", "memory.", "memory.max/../x"] {
            refused(&format!(r#"{{"unified": {{"{file}": "1"}}}}"#), "unified: ");
        }
        refused(r#"{"unified": {"cgroup.freeze": "1"}}"#, "unified/cgroup.freeze: ");
        refused(r#"{"unified": {"cgroup.procs": "1"}}"#, "unified/cgroup.procs: ");
    }
}
