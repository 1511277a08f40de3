//! What a container uses, as `events` prints it: the names, the order and the units are runc's, for cAdvisor, containerd
//! and others read them. What the kernel does not count is 0, or absent where runc leaves it out.

use super::{Cgroups, open_directory, setting};
use crate::error::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    cpu: Cpu,
    cpuset: Cpuset,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    /// By the size of the pages: `2MB`.
    hugetlb: BTreeMap<String, Hugetlb>,
    intel_rdt: IntelRdt,
    /// runc has counted none since its networks became somebody else's: always null.
    network_interfaces: Option<()>,
}

#[derive(Debug, Default, Serialize)]
struct Cpu {
    usage: CpuUsage,
    #[serde(skip_serializing_if = "Throttling::is_nothing")]
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

/// Nanoseconds.
#[derive(Debug, Default, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

impl Throttling {
    fn is_nothing(&self) -> bool {
        self.periods == 0 && self.throttled_periods == 0 && self.throttled_time == 0
    }
}

/// v1 only.
#[derive(Debug, Default, Serialize)]
struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

/// Bytes.
#[derive(Debug, Default, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryEntry,
    /// Memory and swap together, on v2, too.
    swap: MemoryEntry,
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryEntry,
    /// memory.stat
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Debug, Default, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    /// 0: unlimited.
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    io_queued_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct BlkioEntry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    op: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Default, Serialize)]
struct Hugetlb {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

/// What of the processor's caches and bandwidth a container uses belongs here.
#[derive(Debug, Default, Serialize)]
struct IntelRdt {}

/// Pressure stall information (v2, PSI): how long some or all processes have waited.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Pressure {
    some: Stall,
    full: Stall,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Stall {
    /// Per cent of the last 10, 60 and 300 seconds.
    avg10: Percent,
    avg60: Percent,
    avg300: Percent,
    /// Microseconds.
    total: u64,
}

/// Written as Go writes a number: 0, 1.5.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Percent(f64);

impl Serialize for Percent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 { serializer.serialize_u64(self.0 as u64) } else { serializer.serialize_f64(self.0) }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Reads everything that the container's cgroups count.
pub fn collect(cgroups: &Cgroups) -> Result<Stats> {
    if cgroups.unified { v2(cgroups) } else { v1(cgroups) }
}

/// The files of one directory; what is not there is empty.
struct Files(Option<OwnedFd>);

impl Files {
    fn of(cgroups: &Cgroups, controller: &str) -> Result<Files> {
        cgroups.directory(controller).map(open_directory).transpose().map(Files)
    }

    fn text(&self, file: &str) -> Result<String> {
        let text = self.0.as_ref().map(|directory| setting::read(directory.as_fd(), file)).transpose()?.flatten();
        Ok(text.unwrap_or_default())
    }

    /// A number; 0 if there is none.
    fn number(&self, file: &str) -> Result<u64> {
        Ok(self.text(file)?.trim().parse().unwrap_or(0))
    }

    fn numbers(&self, file: &str) -> Result<Vec<u64>> {
        Ok(self.text(file)?.split_whitespace().filter_map(|number| number.parse().ok()).collect())
    }

    /// Lines of a name and a number.
    fn table(&self, file: &str) -> Result<BTreeMap<String, u64>> {
        let text = self.text(file)?;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.filter_map(|(name, number)| Some((name.to_string(), number.trim().parse().ok()?))).collect())
    }

    fn pressure(&self, file: &str) -> Result<Option<Pressure>> {
        Ok(parse_pressure(&self.text(file)?))
    }

    fn pids(&self) -> Result<Pids> {
        Ok(Pids { current: self.number("pids.current")?, limit: self.number("pids.max")? })
    }
}

fn of(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

fn v1(cgroups: &Cgroups) -> Result<Stats> {
    Ok(Stats {
        cpu: cpu_v1(&Files::of(cgroups, "cpu")?, &Files::of(cgroups, "cpuacct")?)?,
        cpuset: cpuset_v1(&Files::of(cgroups, "cpuset")?)?,
        memory: memory_v1(&Files::of(cgroups, "memory")?)?,
        pids: Files::of(cgroups, "pids")?.pids()?,
        blkio: blkio_v1(&Files::of(cgroups, "blkio")?)?,
        hugetlb: hugetlb(&Files::of(cgroups, "hugetlb")?, hugetlb_v1)?,
        ..Stats::default()
    })
}

fn cpu_v1(cpu: &Files, cpuacct: &Files) -> Result<Cpu> {
    let throttled = cpu.table("cpu.stat")?;
    let ticks = cpuacct.table("cpuacct.stat")?;
    // USER_HZ is 100 on every architecture that is in use.
    let nanoseconds = |name| of(&ticks, name).saturating_mul(10_000_000);
    // A header, then a line for each CPU: its number, user, system.
    let all = cpuacct.text("cpuacct.usage_all")?;
    let column = |index: usize| -> Vec<u64> {
        let cells = all.lines().skip(1).filter_map(|line| line.split_whitespace().nth(index));
        cells.filter_map(|cell| cell.parse().ok()).collect()
    };
    Ok(Cpu {
        usage: CpuUsage {
            total: cpuacct.number("cpuacct.usage")?,
            percpu: cpuacct.numbers("cpuacct.usage_percpu")?,
            percpu_kernel: column(2),
            percpu_user: column(1),
            kernel: nanoseconds("system"),
            user: nanoseconds("user"),
        },
        throttling: Throttling {
            periods: of(&throttled, "nr_periods"),
            throttled_periods: of(&throttled, "nr_throttled"),
            throttled_time: of(&throttled, "throttled_time"),
        },
        psi: None,
    })
}

fn cpuset_v1(files: &Files) -> Result<Cpuset> {
    let flag = |name: &str| files.number(&format!("cpuset.{name}"));
    Ok(Cpuset {
        cpus: parse_list(&files.text("cpuset.cpus")?),
        cpu_exclusive: flag("cpu_exclusive")?,
        mems: parse_list(&files.text("cpuset.mems")?),
        mem_hardwall: flag("mem_hardwall")?,
        mem_exclusive: flag("mem_exclusive")?,
        memory_migrate: flag("memory_migrate")?,
        memory_spread_page: flag("memory_spread_page")?,
        memory_spread_slab: flag("memory_spread_slab")?,
        memory_pressure: flag("memory_pressure")?,
        sched_load_balance: flag("sched_load_balance")?,
        sched_relax_domain_level: files.text("cpuset.sched_relax_domain_level")?.trim().parse().unwrap_or(0),
    })
}

/// `0-2,7`
fn parse_list(text: &str) -> Vec<u16> {
    let mut numbers = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            numbers.extend(first..=last);
        }
    }
    numbers
}

fn memory_v1(files: &Files) -> Result<Memory> {
    let raw = files.table("memory.stat")?;
    let entry = |name: &str| -> Result<MemoryEntry> {
        let number = |kind: &str| files.number(&format!("memory{name}.{kind}"));
        Ok(MemoryEntry {
            limit: number("limit_in_bytes")?,
            usage: number("usage_in_bytes")?,
            max: number("max_usage_in_bytes")?,
            failcnt: number("failcnt")?,
        })
    };
    Ok(Memory {
        cache: of(&raw, "cache"),
        usage: entry("")?,
        swap: entry(".memsw")?,
        kernel: entry(".kmem")?,
        kernel_tcp: entry(".kmem.tcp")?,
        raw,
        psi: None,
    })
}

/// Who counts depends on the I/O scheduler: the first of these that has counted something tells. As in runc, the files
/// of each are the operations and the bytes; BFQ (with debugging) and CFQ count more.
fn blkio_v1(files: &Files) -> Result<Blkio> {
    let entries = |file: &str| -> Result<Vec<BlkioEntry>> { Ok(parse_blkio(&files.text(file)?)) };
    for prefix in ["blkio.bfq.", "blkio."] {
        let of = |name: &str| entries(&format!("{prefix}{name}_recursive"));
        let (serviced, bytes) = (of("io_serviced")?, of("io_service_bytes")?);
        if !serviced.is_empty() && !bytes.is_empty() {
            return Ok(Blkio {
                io_service_bytes_recursive: bytes,
                io_serviced_recursive: serviced,
                io_queued_recursive: of("io_queued")?,
                io_service_time_recursive: of("io_service_time")?,
                io_wait_time_recursive: of("io_wait_time")?,
                io_merged_recursive: of("io_merged")?,
                io_time_recursive: of("time")?,
                sectors_recursive: of("sectors")?,
                psi: None,
            });
        }
    }
    for suffix in ["_recursive", ""] {
        let of = |name: &str| entries(&format!("blkio.throttle.{name}{suffix}"));
        let (serviced, bytes) = (of("io_serviced")?, of("io_service_bytes")?);
        if !serviced.is_empty() {
            return Ok(Blkio {
                io_service_bytes_recursive: bytes,
                io_serviced_recursive: serviced,
                ..Blkio::default()
            });
        }
    }
    Ok(Blkio::default())
}

/// `8:0 Read 100` or, where there is one kind only, `8:0 100`; the total is not for a device.
fn parse_blkio(text: &str) -> Vec<BlkioEntry> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (first, second) = (words.next()?, words.next());
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: second.map_or_else(String::new, |_| first.to_string()),
            value: second.unwrap_or(first).parse().ok()?,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// For each size of huge pages that the machine has, if there is a controller.
fn hugetlb(files: &Files, one: fn(&Files, &str) -> Result<Option<Hugetlb>>) -> Result<BTreeMap<String, Hugetlb>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(size) = name.to_str().and_then(page_size) else { continue };
        // Reservations are what counts where the kernel counts them.
        let counted = match one(files, &format!("hugetlb.{size}.rsvd"))? {
            None => one(files, &format!("hugetlb.{size}"))?,
            some => some,
        };
        all.extend(counted.map(|counted| (size, counted)));
    }
    Ok(all)
}

/// `hugepages-2048kB` as the cgroup files name it: 2MB.
fn page_size(directory: &str) -> Option<String> {
    let mut size: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let mut unit = "KB";
    for larger in ["MB", "GB"] {
        if size >= 1024 && size.is_multiple_of(1024) {
            (size, unit) = (size / 1024, larger);
        }
    }
    Some(format!("{size}{unit}"))
}

fn hugetlb_v1(files: &Files, prefix: &str) -> Result<Option<Hugetlb>> {
    let usage = files.text(&format!("{prefix}.usage_in_bytes"))?;
    if usage.is_empty() {
        return Ok(None);
    }
    Ok(Some(Hugetlb {
        usage: usage.trim().parse().unwrap_or(0),
        max: files.number(&format!("{prefix}.max_usage_in_bytes"))?,
        failcnt: files.number(&format!("{prefix}.failcnt"))?,
    }))
}

fn v2(cgroups: &Cgroups) -> Result<Stats> {
    let files = Files::of(cgroups, "")?;
    let mut pids = files.pids()?;
    if pids.current == 0 {
        // Without the controller they can still be counted.
        pids.current = cgroups.processes()?.len() as u64;
    }
    Ok(Stats {
        cpu: cpu_v2(&files)?,
        memory: memory_v2(&files)?,
        pids,
        blkio: blkio_v2(&files)?,
        hugetlb: hugetlb(&files, hugetlb_v2)?,
        ..Stats::default()
    })
}

fn cpu_v2(files: &Files) -> Result<Cpu> {
    let table = files.table("cpu.stat")?;
    let nanoseconds = |name| of(&table, name).saturating_mul(1000);
    Ok(Cpu {
        usage: CpuUsage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
            ..CpuUsage::default()
        },
        throttling: Throttling {
            periods: of(&table, "nr_periods"),
            throttled_periods: of(&table, "nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        },
        psi: files.pressure("cpu.pressure")?,
    })
}

fn memory_v2(files: &Files) -> Result<Memory> {
    let raw = files.table("memory.stat")?;
    let psi = files.pressure("memory.pressure")?;
    if raw.is_empty() {
        return Ok(Memory { psi, ..Memory::default() });
    }
    // Go's largest number stands for no limit.
    let limit = |file: &str| -> Result<u64> {
        let text = files.text(file)?;
        Ok(if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) })
    };
    let usage = MemoryEntry {
        limit: limit("memory.max")?,
        usage: files.number("memory.current")?,
        max: files.number("memory.peak")?,
        failcnt: 0,
    };
    let (swap_limit, swap_usage) = (limit("memory.swap.max")?, files.number("memory.swap.current")?);
    let swap = MemoryEntry {
        limit: if swap_limit == u64::MAX { u64::MAX } else { swap_limit.saturating_add(usage.limit) },
        usage: swap_usage.saturating_add(usage.usage),
        ..MemoryEntry::default()
    };
    Ok(Memory { cache: of(&raw, "file"), usage, swap, raw, psi, ..Memory::default() })
}

fn blkio_v2(files: &Files) -> Result<Blkio> {
    let mut blkio = parse_io_stat(&files.text("io.stat")?);
    blkio.psi = files.pressure("io.pressure")?;
    Ok(blkio)
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`; what v1 has no name for is left out.
fn parse_io_stat(text: &str) -> Blkio {
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let numbers = words.next().and_then(|device| {
            let (major, minor) = device.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let Some((major, minor)) = numbers else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (table, op) = match name {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                _ => continue,
            };
            table.push(BlkioEntry { major, minor, op: op.to_string(), value: value.parse().unwrap_or(0) });
        }
    }
    blkio
}

fn hugetlb_v2(files: &Files, prefix: &str) -> Result<Option<Hugetlb>> {
    let usage = files.text(&format!("{prefix}.current"))?;
    if usage.is_empty() {
        return Ok(None);
    }
    // Reservations that were refused are counted with the pages.
    let events = prefix.trim_end_matches(".rsvd");
    let failcnt = of(&files.table(&format!("{events}.events"))?, "max");
    Ok(Some(Hugetlb { usage: usage.trim().parse().unwrap_or(0), max: 0, failcnt }))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same with `full`; None without such lines.
fn parse_pressure(text: &str) -> Option<Pressure> {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let percent = |name| value(name).and_then(|text| text.parse().ok()).map(Percent).unwrap_or_default();
        let total = value("total").and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Stall { avg10: percent("avg10"), avg60: percent("avg60"), avg300: percent("avg300"), total })
    };
    // Before Linux 5.13 a CPU had no full stalls.
    Some(Pressure { some: stall("some ")?, full: stall("full ").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_looks_like_runcs_nothing() {
        let json = serde_json::to_string(&Stats::default()).unwrap();
        let entry = r#"{"limit":0,"failcnt":0}"#;
        let expected = format!(
            "{}{}{}",
            r#"{"cpu":{"usage":{"kernel":0,"user":0}},"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},"#,
            format_args!(r#""memory":{{"usage":{entry},"swap":{entry},"kernel":{entry},"kernelTCP":{entry}}},"#),
            r#""pids":{},"blkio":{},"hugetlb":{},"intel_rdt":{},"network_interfaces":null}"#,
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.25 total=123\nfull avg10=0.00 avg60=0.00 avg300=2.00 total=4\n";
        let json = serde_json::to_string(&parse_pressure(text).unwrap()).unwrap();
        let expected = r#"{"some":{"avg10":1.5,"avg60":0,"avg300":0.25,"total":123},"full":{"avg10":0,"avg60":0,"avg300":2,"total":4}}"#;
        assert_eq!(json, expected);
        assert_eq!(parse_pressure(""), None);
    }

    #[test]
    fn block_io_is_read() {
        let entry = |minor, op: &str, value| BlkioEntry { major: 8, minor, op: op.to_string(), value };
        let text = "8:0 Read 5\n8:0 Total 5\n8:16 7\nTotal 12\n";
        assert_eq!(parse_blkio(text), [entry(0, "Read", 5), entry(0, "Total", 5), entry(16, "", 7)]);
        let blkio = parse_io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n");
        assert_eq!(blkio.io_service_bytes_recursive, [entry(0, "Read", 1), entry(0, "Write", 2)]);
        assert_eq!(blkio.io_serviced_recursive, [entry(0, "Read", 3), entry(0, "Write", 4)]);
    }

    #[test]
    fn names_and_lists_are_read() {
        assert_eq!(page_size("hugepages-2048kB").unwrap(), "2MB");
        assert_eq!(page_size("hugepages-1048576kB").unwrap(), "1GB");
        assert_eq!(page_size("hugepages-64kB").unwrap(), "64KB");
        assert_eq!(parse_list("0-2,7\n"), [0, 1, 2, 7]);
        assert!(parse_list("\n").is_empty());
    }
}
