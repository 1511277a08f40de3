//! `update`: other limits for a container that lives, from flags or from JSON as `linux.resources` has it.
//!
//! All of them are changed or none, device rules never, and who is paused stays paused. What is not given stays as it is
//! in the kernel, which is asked for it where one limit depends on another.

use crate::cgroups::resources::Resources;
use crate::cli::UpdateArgs;
use crate::error::{Context, Error, Result};
use crate::state::{Container, Lock, Status};
use crate::{files, json, log, rdt};
use nix::poll::PollTimeout;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use std::num::IntErrorKind;
use std::path::Path;
use std::str::FromStr;

/// A larger file is no JSON of ours.
const MAX_JSON: usize = 4 << 20;

/// `corten update ID`
pub fn update(root: &Path, args: &UpdateArgs) -> Result<()> {
    let container = Container::find(root, &args.id)?;
    let resources = match &args.resources {
        Some(file) => read(file)?,
        None => from_flags(args)?,
    };
    let schemata = schemata(args)?;
    container.lock(Lock::Exclusive)?;
    let record = container.record()?;
    if matches!(container.status(&record)?.0, Status::Creating | Status::Stopped) {
        return Err(Error::new("container not running"));
    }
    if schemata.is_empty() {
        return record.cgroups.update(&resources);
    }
    let group = record.rdt.as_ref().ok_or_else(|| {
        Error::new("the container has no class of service whose schema could be changed")
            .hint("it was created without linux.intelRdt")
    })?;
    let former = group.update(&schemata)?;
    record.cgroups.update(&resources).map_err(|error| match group.restore(&former) {
        Ok(()) => error,
        Err(left) => error.hint(format!("and undoing it failed: {left}")),
    })
}

/// The schemata of Intel RDT that are asked for, beside a file of resources, too.
fn schemata(args: &UpdateArgs) -> Result<Vec<&str>> {
    let [l3_cache, mem_bw] =
        [&args.l3_cache_schema, &args.mem_bw_schema].map(|text| text.as_deref().filter(|text| !text.is_empty()));
    if l3_cache.is_some() && !rdt::is_enabled("L3") {
        return Err(Error::new("Intel RDT/CAT: l3 cache schema is not enabled"));
    }
    if mem_bw.is_some() && !rdt::is_enabled("MB") {
        return Err(Error::new("Intel RDT/MBA: memory bandwidth schema is not enabled"));
    }
    Ok(l3_cache.into_iter().chain(mem_bw).collect())
}

/// Reads `linux.resources` from a file, or from stdin if it is called `-`.
fn read(file: &Path) -> Result<Resources> {
    let name = file.display().to_string();
    let mut given: LinuxResources = json::parse(&read_json(file)?, &name)?;
    given.set_devices(None);
    Resources::new(Some(&given), &format!("{name}: "))
}

/// The bytes of a JSON file that the caller names, or of stdin if it is called `-`; at most 4 MiB.
pub fn read_json(file: &Path) -> Result<Vec<u8>> {
    match file == Path::new("-") {
        true => files::read_pipe(std::io::stdin(), MAX_JSON, PollTimeout::NONE).context(|| "read stdin"),
        false => files::read_given(file, MAX_JSON),
    }
}

fn from_flags(args: &UpdateArgs) -> Result<Resources> {
    let mut given = LinuxResources::default();
    if let Some(weight) = args.blkio_weight.filter(|weight| *weight != 0) {
        let mut io = LinuxBlockIo::default();
        // What is no u16 is out of range anyway, and told so with the others.
        io.set_weight(Some(u16::try_from(weight).unwrap_or(u16::MAX)));
        given.set_block_io(Some(io));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_cpus(args.cpuset_cpus.clone()).set_mems(args.cpuset_mems.clone());
    cpu.set_idle(number("cpu-idle", args.cpu_idle.as_ref())?);
    cpu.set_burst(number("cpu-burst", args.cpu_burst.as_ref())?);
    cpu.set_period(number("cpu-period", args.cpu_period.as_ref())?);
    cpu.set_realtime_period(number("cpu-rt-period", args.cpu_rt_period.as_ref())?);
    cpu.set_shares(number("cpu-share", args.cpu_share.as_ref())?);
    cpu.set_quota(number("cpu-quota", args.cpu_quota.as_ref())?);
    cpu.set_realtime_runtime(number("cpu-rt-runtime", args.cpu_rt_runtime.as_ref())?);
    let mut memory = LinuxMemory::default();
    memory.set_limit(size("memory", args.memory.as_ref())?);
    memory.set_swap(size("memory-swap", args.memory_swap.as_ref())?);
    let kernel = [
        size("kernel-memory", args.kernel_memory.as_ref())?,
        size("kernel-memory-tcp", args.kernel_memory_tcp.as_ref())?,
    ];
    memory.set_reservation(size("memory-reservation", args.memory_reservation.as_ref())?);
    if kernel.into_iter().flatten().any(|limit| limit != 0) {
        log::warning("Kernel memory settings are ignored and will be removed");
    }
    given.set_cpu(Some(cpu));
    given.set_memory(Some(memory));
    if let Some(limit) = args.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        given.set_pids(Some(pids));
    }
    given.set_devices(None);
    Resources::new(Some(&given), "update: ")
}

/// A number as Go's strconv reads it, and complains about it; an empty text is none.
fn number<T: FromStr<Err = std::num::ParseIntError> + Default + PartialOrd>(
    flag: &str,
    text: Option<&String>,
) -> Result<Option<T>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let is_signed = "-1".parse::<T>().is_ok();
    let parsed = if text.starts_with('+') && !is_signed { "".parse() } else { text.parse::<T>() };
    parsed.map(Some).map_err(|error| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let function = if is_signed { "ParseInt" } else { "ParseUint" };
        Error::new(format!("invalid value for {flag}: strconv.{function}: parsing {text:?}: {why}"))
    })
}

/// A number of bytes; an empty text is none.
fn size(flag: &str, text: Option<&String>) -> Result<Option<i64>> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) if text == "-1" => Ok(Some(-1)),
        Some(text) => parse_size(text).map(Some).map_err(|error| error.context(format!("invalid value for {flag}"))),
    }
}

/// As Docker's go-units reads sizes: `50M`, `1.5g`, `100 KiB`, `7b`, each a power of 1024.
fn parse_size(text: &str) -> Result<i64> {
    let invalid = || Error::new(format!("invalid size: '{text}'"));
    let is_number = |c: char| c.is_ascii_digit() || c == '.' || c == ' ';
    let end = text.rfind(is_number).ok_or_else(invalid)?;
    let (number, suffix) = text.split_at_checked(end + 1).ok_or_else(invalid)?;
    // One space may be between the two.
    let number = number.strip_suffix(' ').unwrap_or(number);
    let suffix = suffix.to_lowercase();
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || b".+-eE".contains(&byte));
    let value = match number.parse::<f64>() {
        Ok(value) if plain => value,
        _ => return Err(Error::new(format!("strconv.ParseFloat: parsing {number:?}: invalid syntax"))),
    };
    if value < 0.0 {
        return Err(invalid());
    }
    let letter = suffix.chars().next();
    let power = match letter {
        None | Some('b') => 0,
        Some(letter) => 1 + "kmgtp".find(letter).ok_or_else(|| bad_suffix(&suffix))? as i32,
    };
    let rest = suffix.get(1..).unwrap_or_default();
    if !(rest.is_empty() || power > 0 && (rest == "b" || rest == "ib")) {
        return Err(bad_suffix(&suffix));
    }
    let bytes = value * 1024f64.powi(power);
    if bytes >= i64::MAX as f64 { Err(invalid()) } else { Ok(bytes as i64) }
}

fn bad_suffix(suffix: &str) -> Error {
    Error::new(format!("invalid suffix: '{suffix}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, bytes) in [
            ("0", 0),
            ("10", 10),
            ("10b", 10),
            ("50M", 50 << 20),
            ("50m", 50 << 20),
            ("100MiB", 100 << 20),
            ("100kb", 100 << 10),
            ("1.5g", 3 << 29),
            (".5G", 1 << 29),
            ("5.G", 5 << 30),
            ("10 M", 10 << 20),
            ("2T", 2 << 40),
            ("1p", 1 << 50),
            ("1e3", 1000),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for (text, why) in [
            ("abc", "invalid size: 'abc'"),
            ("-5", "invalid size: '-5'"),
            ("1kk", "invalid suffix: 'kk'"),
            ("10X", "invalid suffix: 'x'"),
            ("10bb", "invalid suffix: 'bb'"),
            ("10kib2", "strconv.ParseFloat: parsing \"10kib2\": invalid syntax"),
            ("10 kibi", "invalid suffix: 'kibi'"),
            ("0x10", "strconv.ParseFloat: parsing \"0x10\": invalid syntax"),
            ("99999999999999999999", "invalid size: '99999999999999999999'"),
            ("1 é", "invalid suffix: 'é'"),
        ] {
            assert_eq!(parse_size(text).unwrap_err().to_string(), why, "{text}");
        }
    }

    #[test]
    fn numbers_are_gos() {
        let text = |text: &str| Some(text.to_string());
        assert_eq!(number::<i64>("x", text("-5").as_ref()), Ok(Some(-5)));
        assert_eq!(number::<u64>("x", text("5").as_ref()), Ok(Some(5)));
        assert_eq!(number::<u64>("x", text("").as_ref()), Ok(None));
        let error = |text: Option<String>| number::<u64>("cpu-share", text.as_ref()).unwrap_err().to_string();
        let begin = "invalid value for cpu-share: strconv.ParseUint: parsing ";
        assert_eq!(error(text("-1")), format!("{begin}\"-1\": invalid syntax"));
        assert_eq!(error(text("+1")), format!("{begin}\"+1\": invalid syntax"));
        assert_eq!(error(text("18446744073709551616")), format!("{begin}\"18446744073709551616\": value out of range"));
    }
}
