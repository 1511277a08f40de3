//! Names and properties of systemd's units: what of a config.json becomes which. Pure functions, so that everything here is
//! tested without a systemd.
//!
//! Names follow systemd's own rules (`unit-name.c`, `cgroup-util.c`), and what it would refuse is refused before anything
//! is done. Properties are made from the files and values that the limits are anyway (`limits.rs`), those of `unified`
//! among them, so there is one table for everything, and `create` and `update` cannot differ.

use super::devices::{self, Rule};
use super::setting::{Otherwise, Setting};
use crate::dbus::{Value, text};
use crate::error::{Error, Result};
use crate::state::check_id;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One property of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    pub name: String,
    pub value: Value,
    /// Whether it is in a file of the cgroup, too: then a systemd that does not know it can do without.
    pub is_in_file: bool,
}

impl Property {
    /// One that systemd has to know.
    pub fn new(name: impl Into<String>, value: Value) -> Property {
        Property { name: name.into(), value, is_in_file: false }
    }

    /// As it is part of a list: `(sv)`.
    pub fn to_value(&self) -> Value {
        Value::Struct(vec![Value::text(&self.name), Value::Variant(Box::new(self.value.clone()))])
    }
}

/// A unit that has failed goes like one that has ended.
pub fn collect_mode() -> Value {
    Value::text("inactive-or-failed")
}

/// Of properties with the same name the last, where the first was.
pub fn last_of_each(properties: Vec<Property>) -> Vec<Property> {
    let mut kept: Vec<Property> = Vec::with_capacity(properties.len());
    for property in properties {
        match kept.iter_mut().find(|known| known.name == property.name) {
            Some(known) => *known = property,
            None => kept.push(property),
        }
    }
    kept
}

/// The slice and the name of the unit that `linux.cgroupsPath` asks for: `slice:prefix:name`, where a name that ends in
/// `.slice` is that of a slice; without it a scope that is named after the container's id.
pub fn place(path: Option<&Path>, id: &str, user: bool) -> Result<(String, String)> {
    let bad = |why: String| Error::new(format!("config.json: /linux/cgroupsPath: {why}"));
    let default = if user { "user.slice" } else { "system.slice" };
    let Some(path) = path else {
        check_id(id)?;
        // Of what an id may hold only this is no part of a name (systemd.unit(5): string escaping).
        let name = format!("runc-{}.scope", id.replace('+', "\\x2b"));
        return match is_unit_name(&name) {
            true => Ok((default.to_string(), name)),
            false => Err(Error::new(format!("container {id}: {name:?} is no name of a unit"))),
        };
    };
    let text = path.to_str().unwrap_or_default();
    let mut parts = text.split(':');
    let (Some(slice), Some(prefix), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        let form = "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups";
        return Err(bad(format!("{form}, got {:?} instead", path.display())));
    };
    let slice = match slice {
        "" => default,
        "-" => "-.slice",
        slice => slice,
    };
    if !is_slice_name(slice) {
        return Err(bad(format!("invalid slice name: {slice}")));
    }
    let name = if name.ends_with(".slice") { name.to_string() } else { format!("{prefix}-{name}.scope") };
    let is_good =
        if name.ends_with(".slice") { is_slice_name(&name) && name != "-.slice" } else { is_unit_name(&name) };
    if is_good { Ok((slice.to_string(), name)) } else { Err(bad(format!("invalid unit name: {name}"))) }
}

/// Whether systemd takes this as a unit, a template being none; that it has a type is known.
fn is_unit_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
    // What follows an @ is an instance, and there must be something before it, too.
    let is_instance = |at: usize| at > 0 && at + 1 < stem.len();
    name.len() <= 255 && !stem.is_empty() && name.bytes().all(is_part) && stem.find('@').is_none_or(is_instance)
}

/// Dashes separate the slices above, so none may be empty; only the root is called by a dash alone.
fn is_slice_name(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".slice") else { return false };
    is_unit_name(name) && !stem.contains('@') && (stem == "-" || stem.split('-').all(|part| !part.is_empty()))
}

/// Where a slice lies: `a-b.slice` in `a.slice/a-b.slice`.
pub fn slice_path(slice: &str) -> PathBuf {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    if stem == "-" {
        return PathBuf::new();
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.filter_map(|end| stem.get(..end)).map(|name| cgroup_name(&format!("{name}.slice"))).collect()
}

/// The name of a unit's cgroup, which must not be one that the kernel has files for.
pub fn cgroup_name(unit: &str) -> String {
    const CONTROLLERS: [&str; 12] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "io",
        "blkio",
        "memory",
        "devices",
        "pids",
        "bpf-firewall",
        "bpf-devices",
        "bpf-foreign",
        "bpf-socket-bind",
    ];
    let first = unit.split('.').next().unwrap_or_default();
    let is_taken = unit.starts_with(['_', '.']) || first == "cgroup" || CONTROLLERS.contains(&first);
    if is_taken { format!("_{unit}") } else { unit.to_string() }
}

/// A name as part of the path of an object (sd_bus_path_encode(3)).
pub fn label(name: &str) -> String {
    let mut label = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'0'..=b'9' if at > 0 => label.push(byte.into()),
            b'a'..=b'z' | b'A'..=b'Z' => label.push(byte.into()),
            other => label.push_str(&format!("_{other:02x}")),
        }
    }
    label
}

/// Whether systemd makes and removes a unit's cgroup in this hierarchy, by its controllers or name. With Delegate that is
/// so for every controller that it knows.
pub fn manages(hierarchy: &str) -> bool {
    const CONTROLLERS: [&str; 8] = ["unified", "name=systemd", "cpu", "cpuacct", "blkio", "memory", "devices", "pids"];
    hierarchy.split(',').any(|name| CONTROLLERS.contains(&name))
}

/// The annotations `org.systemd.property.NAME`; their values are GVariants as text. Times that end in `Sec` are given in
/// seconds, while systemd has them in microseconds, as `USec`.
pub fn of_annotations(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let mut found = Vec::new();
    for (key, given) in annotations {
        let Some(name) = key.strip_prefix("org.systemd.property.") else { continue };
        let bad = |why: String| Error::new(format!("config.json: /annotations/{key}: {why}"));
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(bad("is no name of a property".to_string()));
        }
        if matches!(name, "PIDs" | "PIDFDs" | "Slice" | "Description") {
            return Err(bad("is for the runtime to decide".to_string()));
        }
        let value = text::parse(given).map_err(|why| bad(format!("{given:?}: {why}")))?;
        let stem = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
        found.push(match stem {
            Some(stem) => {
                let time = microseconds(&value).ok_or_else(|| bad(format!("{given:?} is no number of seconds")))?;
                Property::new(format!("{stem}USec"), Value::U64(time))
            }
            None => Property::new(name, value),
        });
    }
    // The order of a map is none, and errors and units should not depend on it.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn microseconds(seconds: &Value) -> Option<u64> {
    const MILLION: u64 = 1_000_000;
    let whole = match *seconds {
        Value::Byte(value) => u64::from(value),
        Value::U16(value) => u64::from(value),
        Value::U32(value) => u64::from(value),
        Value::U64(value) => value,
        Value::I16(value) => u64::try_from(value).ok()?,
        Value::I32(value) => u64::try_from(value).ok()?,
        Value::I64(value) => u64::try_from(value).ok()?,
        Value::Double(value) => {
            let time = value * 1e6;
            return (time >= 0.0 && time < u64::MAX as f64).then_some(time as u64);
        }
        _ => return None,
    };
    whole.checked_mul(MILLION)
}

/// The properties that limits are, of those that systemd knows. `bandwidth` is quota and period as they are in the kernel
/// already; without it they are what the settings say.
pub fn of_settings(settings: &[Setting], bandwidth: Option<(i64, u64)>) -> Vec<Property> {
    let mut properties = Vec::new();
    let (mut quota, mut period, mut has_bandwidth) = (None, None, false);
    for Setting { file, value, otherwise } in settings {
        match file.as_str() {
            "cpu.max" => {
                let mut words = value.split_whitespace();
                quota = words.next().map(|word| word.parse().unwrap_or(-1)).or(quota);
                period = words.next().and_then(|word| word.parse().ok()).or(period);
                has_bandwidth = true;
            }
            "cpu.cfs_quota_us" => (quota, has_bandwidth) = (value.parse().ok(), true),
            "cpu.cfs_period_us" => (period, has_bandwidth) = (value.parse().ok(), true),
            _ => {
                let other = match otherwise {
                    Otherwise::Use(file, value) => property(file, value),
                    Otherwise::Refuse | Otherwise::Skip => None,
                };
                properties.extend(property(file, value).or(other));
            }
        }
    }
    if has_bandwidth {
        (quota, period) = bandwidth.map_or((quota, period), |(quota, period)| (Some(quota), Some(period)));
        properties.extend(period.map(|period| ("CPUQuotaPeriodUSec", Value::U64(period))));
        let per_second = per_second(quota.unwrap_or(-1), period.unwrap_or(100_000));
        properties.push(("CPUQuotaPerSecUSec", Value::U64(per_second)));
    }
    let to_property = |(name, value): (&str, Value)| Property { is_in_file: true, ..Property::new(name, value) };
    last_of_each(properties.into_iter().map(to_property).collect())
}

/// CPU time in a second. systemd stores whole percents and cuts off what is less, so that is rounded up; the exact quota is
/// in the file.
fn per_second(quota: i64, period: u64) -> u64 {
    match u64::try_from(quota) {
        Ok(quota) if quota > 0 && period > 0 => {
            let exact = u128::from(quota) * 1_000_000 / u128::from(period);
            u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(u64::MAX)
        }
        _ => u64::MAX,
    }
}

/// One file as a property; None if systemd has none for it, or if the value is one that the kernel will refuse.
fn property(file: &str, value: &str) -> Option<(&'static str, Value)> {
    let value = value.trim();
    let number = || value.parse().ok().map(Value::U64);
    Some(match file {
        "memory.max" => ("MemoryMax", Value::U64(bytes(value)?)),
        "memory.high" => ("MemoryHigh", Value::U64(bytes(value)?)),
        "memory.low" => ("MemoryLow", Value::U64(bytes(value)?)),
        "memory.min" => ("MemoryMin", Value::U64(bytes(value)?)),
        "memory.swap.max" => ("MemorySwapMax", Value::U64(bytes(value)?)),
        "memory.zswap.max" => ("MemoryZSwapMax", Value::U64(bytes(value)?)),
        "memory.limit_in_bytes" => ("MemoryLimit", Value::U64(bytes(value)?)),
        "cpu.weight" => ("CPUWeight", number()?),
        // To systemd, idle is a weight; and what is not idle just has another.
        "cpu.idle" if value == "1" => ("CPUWeight", Value::U64(0)),
        "cpu.shares" => ("CPUShares", number()?),
        "io.weight" => ("IOWeight", Value::U64(value.strip_prefix("default").unwrap_or(value).trim().parse().ok()?)),
        "blkio.weight" => ("BlockIOWeight", number()?),
        "cpuset.cpus" => ("AllowedCPUs", bits(value)?),
        "cpuset.mems" => ("AllowedMemoryNodes", bits(value)?),
        // systemd has no zero; the file has.
        "pids.max" => ("TasksMax", Value::U64(bytes(value)?.max(1))),
        _ => return None,
    })
}

/// What is to happen when the kernel has killed for lack of memory, which is only said at the start.
pub fn oom_policy(settings: &[Setting]) -> Option<Property> {
    let group = settings.iter().find(|setting| setting.file == "memory.oom.group")?;
    let policy = match group.value.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => return None,
    };
    Some(Property { is_in_file: true, ..Property::new("OOMPolicy", Value::text(policy)) })
}

/// A number as the kernel reads sizes; `max`, and on v1 -1, is no limit.
fn bytes(text: &str) -> Option<u64> {
    if text == "max" || text.starts_with('-') {
        return Some(u64::MAX);
    }
    let unit = text.chars().last().and_then(|last| "kmgt".find(last.to_ascii_lowercase()));
    let digits = if unit.is_some() { text.get(..text.len() - 1)? } else { text };
    digits.parse::<u64>().ok()?.checked_mul(unit.map_or(1, |power| 1 << (10 * (power + 1))))
}

/// `0-3,7` as a bit for each CPU or node, the first in the lowest bit of the first byte.
fn bits(list: &str) -> Option<Value> {
    let mut mask: Vec<u8> = Vec::new();
    for part in list.split([',', '\n', ' ']).map(str::trim).filter(|part| !part.is_empty()) {
        // `0-15:2/4`: of each four the first two.
        let (range, stride) = part.split_once(':').map_or((part, None), |(range, stride)| (range, Some(stride)));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        let (used, group) = match stride {
            Some(stride) => stride.split_once('/').and_then(|(used, group)| {
                Some((used.parse::<usize>().ok()?, group.parse::<usize>().ok().filter(|group| *group > 0)?))
            })?,
            None => (1, 1),
        };
        // No kernel has as many.
        if last >= 1 << 16 {
            return None;
        }
        for number in (first..=last).filter(|number| (number - first) % group < used) {
            if mask.len() <= number / 8 {
                mask.resize(number / 8 + 1, 0);
            }
            if let Some(byte) = mask.get_mut(number / 8) {
                *byte |= 1 << (number % 8);
            }
        }
    }
    Some(Value::Array("y".to_string(), mask.into_iter().map(Value::Byte).collect()))
}

/// v1: systemd writes its own idea of the devices at every reload, so it has to be ours. It knows only what is allowed:
/// rules that allow everything but some devices it gets as none at all.
pub fn of_devices(rules: &[Rule]) -> Vec<Property> {
    let Some(allowed) = devices::allowed(rules) else {
        return vec![Property::new("DevicePolicy", Value::text("auto"))];
    };
    let entry = |(devices, access)| Value::Struct(vec![Value::Str(devices), Value::Str(access)]);
    let list = Value::Array("(ss)".to_string(), allowed.into_iter().map(entry).collect());
    vec![Property::new("DevicePolicy", Value::text("strict")), Property::new("DeviceAllow", list)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(path: &str) -> std::result::Result<(String, String), String> {
        place(Some(Path::new(path)), "id", false).map_err(|error| error.to_string())
    }

    #[test]
    fn a_unit_is_named_as_runc_does() {
        let both = |slice: &str, name: &str| (slice.to_string(), name.to_string());
        assert_eq!(placed("user.slice:docker:x").unwrap(), both("user.slice", "docker-x.scope"));
        assert_eq!(placed(":cri-containerd:1f").unwrap(), both("system.slice", "cri-containerd-1f.scope"));
        assert_eq!(placed("-:p:n").unwrap(), both("-.slice", "p-n.scope"));
        assert_eq!(placed("a.slice:ignored:b-c.slice").unwrap(), both("a.slice", "b-c.slice"));
        assert_eq!(placed(":p:a@b").unwrap().1, "p-a@b.scope");
        assert_eq!(place(None, "c1", false).unwrap(), both("system.slice", "runc-c1.scope"));
        assert_eq!(place(None, "a+b", true).unwrap(), both("user.slice", "runc-a\\x2bb.scope"));
    }

    #[test]
    fn what_systemd_would_refuse_is_refused() {
        let long = format!(":p:{}", "x".repeat(250));
        for (path, why) in [
            ("/docker/x", "expected cgroupsPath to be of format \"slice:prefix:name\""),
            ("a:b", "got \"a:b\" instead"),
            ("a.slice:b:c:d", "format"),
            ("a:b:c", "invalid slice name: a"),
            (".slice:b:c", "invalid slice name"),
            ("a--b.slice:b:c", "invalid slice name"),
            ("-a.slice:b:c", "invalid slice name"),
            ("a-.slice:b:c", "invalid slice name"),
            ("a/b.slice:b:c", "invalid slice name"),
            ("../x.slice:b:c", "invalid slice name"),
            ("a@b.slice:b:c", "invalid slice name"),
            (":p:a/b", "invalid unit name: p-a/b.scope"),
            (":p:../../x", "invalid unit name"),
            (":p:a b", "invalid unit name"),
            (":p:a+b", "invalid unit name"),
            (":p:é", "invalid unit name"),
            (":p:a@", "invalid unit name"),
            ("::-.slice", "invalid unit name"),
            ("::a--b.slice", "invalid unit name"),
            (&long, "invalid unit name"),
        ] {
            let error = placed(path).expect_err(path);
            assert!(error.starts_with("config.json: /linux/cgroupsPath: ") && error.contains(why), "{path}: {error}");
        }
        assert!(place(None, &"x".repeat(250), false).is_err());
    }

    #[test]
    fn slices_lie_in_each_other() {
        assert_eq!(slice_path("-.slice"), Path::new(""));
        assert_eq!(slice_path("a.slice"), Path::new("a.slice"));
        assert_eq!(slice_path("a-b-c.slice"), Path::new("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(slice_path("cpu-x.slice"), Path::new("_cpu.slice/cpu-x.slice"));
    }

    #[test]
    fn a_cgroup_is_never_called_like_a_file() {
        for (unit, name) in [
            ("a.scope", "a.scope"),
            ("_a.scope", "__a.scope"),
            ("memory.slice", "_memory.slice"),
            ("-a.scope", "-a.scope"),
        ] {
            assert_eq!(cgroup_name(unit), name);
        }
        assert_eq!(label("1-a_b.scope"), "_31_2da_5fb_2escope");
    }

    #[test]
    fn annotations_are_properties() {
        let of = |pairs: &[(&str, &str)]| {
            let annotations =
                pairs.iter().map(|(name, value)| (format!("org.systemd.property.{name}"), value.to_string()));
            of_annotations(&annotations.chain([("other".to_string(), "x".to_string())]).collect())
        };
        let found = of(&[("TimeoutStopSec", "456"), ("CollectMode", "'inactive'"), ("FooUSec", "uint64 7")]).unwrap();
        let expected = [
            Property::new("CollectMode", Value::text("inactive")),
            Property::new("FooUSec", Value::U64(7)),
            Property::new("TimeoutStopUSec", Value::U64(456_000_000)),
        ];
        assert_eq!(found, expected);
        assert_eq!(of(&[("XySec", "1.5")]).unwrap()[0].value, Value::U64(1_500_000));
        for (name, value) in [
            ("TimeoutStopSec", "'x'"),
            ("TimeoutStopSec", "-1"),
            ("TimeoutStopSec", "uint64 18446744073709551615"),
            ("Description", "'x'"),
            ("PIDs", "[uint32 1]"),
            ("Slice", "'x.slice'"),
            ("CollectMode", "inactive"),
            ("Collect Mode", "'x'"),
            ("", "'x'"),
            ("ab", "'x'"),
        ] {
            let error = of(&[(name, value)]).expect_err(name).to_string();
            assert!(error.starts_with(&format!("config.json: /annotations/org.systemd.property.{name}: ")), "{error}");
        }
    }

    fn shown(settings: &[Setting], bandwidth: Option<(i64, u64)>) -> Vec<(String, Value)> {
        of_settings(settings, bandwidth).into_iter().map(|property| (property.name, property.value)).collect()
    }

    #[test]
    fn files_are_properties() {
        for (file, value, name, expected) in [
            ("memory.max", "1048576", "MemoryMax", 1 << 20),
            ("memory.max", "max", "MemoryMax", u64::MAX),
            ("memory.high", "1G", "MemoryHigh", 1 << 30),
            ("memory.low", "5", "MemoryLow", 5),
            ("memory.swap.max", "0", "MemorySwapMax", 0),
            ("memory.limit_in_bytes", "-1", "MemoryLimit", u64::MAX),
            ("cpu.weight", "39", "CPUWeight", 39),
            ("cpu.idle", "1", "CPUWeight", 0),
            ("cpu.shares", "512", "CPUShares", 512),
            ("io.weight", "default 50", "IOWeight", 50),
            ("pids.max", "0", "TasksMax", 1),
            ("pids.max", "max", "TasksMax", u64::MAX),
        ] {
            assert_eq!(
                shown(&[Setting::must(file, value)], None),
                [(name.to_string(), Value::U64(expected))],
                "{file}"
            );
        }
        let weight = Setting::either(("io.bfq.weight", 100), ("io.weight", 910));
        assert_eq!(shown(&[weight], None), [("IOWeight".to_string(), Value::U64(910))]);
        let twice = [Setting::must("memory.max", 1), Setting::must("memory.max", 2)];
        assert_eq!(shown(&twice, None), [("MemoryMax".to_string(), Value::U64(2))]);
        for (file, value) in [("io.weight", "8:0 50"), ("io.max", "8:0 rbps=5"), ("memory.max", "x"), ("cpu.idle", "0")]
        {
            assert_eq!(shown(&[Setting::must(file, value)], None), [], "{file}");
        }
    }

    #[test]
    fn a_quota_is_time_in_a_second() {
        let quota = |settings: &[Setting], bandwidth| {
            let of = |wanted: &str| {
                shown(settings, bandwidth).into_iter().find(|(name, _)| name == wanted).map(|(_, value)| match value {
                    Value::U64(number) => number,
                    other => panic!("{other:?}"),
                })
            };
            (of("CPUQuotaPerSecUSec"), of("CPUQuotaPeriodUSec"))
        };
        let max = |value: &str| [Setting::must("cpu.max", value)];
        assert_eq!(quota(&max("50000 100000"), None), (Some(500_000), Some(100_000)));
        assert_eq!(quota(&max("50000"), None), (Some(500_000), None));
        assert_eq!(quota(&max("max 50000"), None), (Some(u64::MAX), Some(50_000)));
        assert_eq!(quota(&max("1001 100000"), None), (Some(20_000), Some(100_000)));
        assert_eq!(quota(&max("20000"), Some((20_000, 50_000))), (Some(400_000), Some(50_000)));
        assert_eq!(quota(&[], Some((20_000, 50_000))), (None, None));
        let v1 = [Setting::must("cpu.cfs_period_us", 50_000), Setting::must("cpu.cfs_quota_us", 25_000)];
        assert_eq!(quota(&v1, None), (Some(500_000), Some(50_000)));
    }

    #[test]
    fn lists_are_bits() {
        let mask = |bytes: &[u8]| Some(Value::Array("y".to_string(), bytes.iter().copied().map(Value::Byte).collect()));
        assert_eq!(bits("0"), mask(&[1]));
        assert_eq!(bits("0-3,7"), mask(&[0x8f]));
        assert_eq!(bits("8"), mask(&[0, 1]));
        assert_eq!(bits("0-7:1/2"), mask(&[0x55]));
        assert_eq!(bits(""), mask(&[]));
        for bad in ["x", "1-", "0-99999999", "0-3:1", "0-3:1/0"] {
            assert_eq!(bits(bad), None, "{bad}");
        }
    }

    #[test]
    fn devices_are_a_list_of_what_is_allowed() {
        let rules = |json: &str| devices::rules(&serde_json::from_str::<Vec<_>>(json).unwrap(), "").unwrap();
        let list = of_devices(&rules(
            r#"[{"allow": false}, {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"}]"#,
        ));
        assert_eq!(list[0].value, Value::text("strict"));
        let Value::Array(_, entries) = &list[1].value else { panic!("{list:?}") };
        let entry = |devices: &str, access: &str| Value::Struct(vec![Value::text(devices), Value::text(access)]);
        for wanted in [
            entry("/dev/block/8:0", "r"),
            entry("char-*", "m"),
            entry("block-*", "m"),
            entry("/dev/char/1:3", "rwm"),
            entry("char-136", "rwm"),
        ] {
            assert!(entries.contains(&wanted), "{wanted:?} in {entries:?}");
        }
        assert_eq!(of_devices(&rules(r#"[{"allow": true}]"#))[0].value, Value::text("auto"));
    }
}
