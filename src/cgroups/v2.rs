//! cgroup v2: limits first, then the child is born in its cgroup (CLONE_INTO_CGROUP).

use super::resources::{Cpu, Memory, Resources};
use super::{Cgroups, Entrance, UNIFIED, devices, make_directory, open_directory, own_cgroups, write};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::rootfs::path::clean;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The mount point, and the container's path below it. A relative cgroupsPath counts from the *parent* of the runtime's
/// own cgroup, for that has processes and so can enable no controllers for cgroups below it.
pub fn path(given: Option<&Path>, id: &str) -> Result<(PathBuf, PathBuf)> {
    let given = given.unwrap_or(Path::new(id));
    let base = if given.is_absolute() {
        PathBuf::new()
    } else {
        let own = own_cgroups()?;
        let own = clean(Path::new(own.get("").map_or("/", String::as_str)));
        own.parent().and_then(|parent| parent.strip_prefix("/").ok()).unwrap_or(Path::new("")).to_path_buf()
    };
    let below = clean(given).strip_prefix("/").map(|below| base.join(below)).unwrap_or_default();
    Ok((PathBuf::from(UNIFIED), below))
}

/// Makes the directory, enables the controllers on the way to it, and writes every limit that does not stop the clone.
pub fn make(cgroups: &mut Cgroups, resources: &Resources) -> Result<Entrance> {
    let Some(directory) = cgroups.directories.first_mut() else {
        return Err(Error::new("no cgroup was chosen"));
    };
    make_directory(directory)?;
    let fd = open_directory(directory)?;
    let writes = writes(resources)?;
    enable_controllers(&directory.path, &writes, resources)?;
    for (file, value) in &writes {
        write(fd.as_fd(), file, value)?;
    }
    Ok(Entrance { into: Some(fd), tasks: Vec::new() })
}

/// Opens the directory of a container that exists.
pub fn enter(cgroups: &Cgroups) -> Result<Entrance> {
    Ok(Entrance { into: Some(open(cgroups)?), tasks: Vec::new() })
}

fn open(cgroups: &Cgroups) -> Result<OwnedFd> {
    let Some(directory) = cgroups.directories.first() else {
        return Err(Error::new("no cgroup was chosen"));
    };
    open_directory(directory)
}

/// The device program, and the number of processes, which at 0 would have stopped the clone.
pub fn limit(directory: BorrowedFd<'_>, resources: &Resources) -> Result<()> {
    devices::apply_v2(directory, &resources.devices)?;
    if let Some(limit) = resources.pids {
        write(directory, "pids.max", &limit.to_string())?;
    }
    Ok(())
}

/// SIGKILL to everything in the container's cgroup and below.
pub fn kill(cgroups: &Cgroups) -> Result<()> {
    let fd = open(cgroups)?;
    write(fd.as_fd(), "cgroup.kill", "1")
}

/// Lets the container go on.
pub fn thaw(cgroups: &Cgroups) -> Result<()> {
    write(open(cgroups)?.as_fd(), "cgroup.freeze", "0")
}

/// Enables what the limits need in every ancestor. A controller that is not there is an error that names it.
fn enable_controllers(path: &Path, writes: &[(&str, String)], resources: &Resources) -> Result<()> {
    let mut wanted: Vec<&str> = writes.iter().filter_map(|(file, _)| file.split('.').next()).collect();
    wanted.extend(resources.pids.map(|_| "pids"));
    wanted.retain(|controller| *controller != "cgroup");
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(());
    }
    let enable = wanted.iter().map(|controller| format!("+{controller}")).collect::<Vec<_>>().join(" ");
    let mut ancestors: Vec<&Path> =
        path.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(UNIFIED)).collect();
    ancestors.reverse();
    for ancestor in ancestors {
        let what = || format!("enable {} for the cgroups below {}", wanted.join(", "), ancestor.display());
        let file = ancestor.join("cgroup.subtree_control");
        let fd = files::open(&file, OFlag::O_WRONLY).context(what)?;
        match nix::unistd::write(&fd, enable.as_bytes()) {
            Ok(_) => {}
            Err(errno) => {
                let error = Error::from(errno).context(what());
                return Err(match errno {
                    Errno::EINVAL | Errno::ENOENT => match missing(ancestor, &wanted) {
                        Some(missing) => error.hint(format!("the controller {missing} is not available there")),
                        None => error,
                    },
                    Errno::EBUSY => error.hint("it has processes itself, which v2 does not allow beside controllers"),
                    _ => error,
                });
            }
        }
    }
    Ok(())
}

fn missing<'a>(ancestor: &Path, wanted: &[&'a str]) -> Option<&'a str> {
    let there = std::fs::read_to_string(ancestor.join("cgroup.controllers")).ok()?;
    wanted.iter().copied().find(|controller| !there.split_whitespace().any(|name| name == *controller))
}

/// The files and their values, in an order in which each write is legal.
fn writes(resources: &Resources) -> Result<Vec<(&str, String)>> {
    let mut writes: Vec<(&str, String)> = Vec::new();
    memory(&resources.memory, &mut writes)?;
    cpu(&resources.cpu, &mut writes)?;
    writes.extend(resources.unified.iter().map(|(file, value)| (file.as_str(), value.clone())));
    Ok(writes)
}

fn memory(memory: &Memory, writes: &mut Vec<(&str, String)>) -> Result<()> {
    let amount = |value: i64| {
        if value == -1 { "max".to_string() } else { value.to_string() }
    };
    let bad = |field: &str, why: &str| Err(Error::new(format!("config.json: /linux/resources/memory/{field}: {why}")));
    // v1 limits memory and swap together, v2 swap alone.
    match (memory.swap, memory.limit) {
        (Some(-1), _) => writes.push(("memory.swap.max", "max".to_string())),
        (Some(_), None | Some(-1)) => return bad("swap", "needs a limit beside it: v2 counts swap alone"),
        (Some(swap), Some(limit)) => writes.push(("memory.swap.max", (swap - limit).to_string())),
        (None, Some(-1)) => writes.push(("memory.swap.max", "max".to_string())),
        (None, _) => {}
    }
    writes.extend(memory.limit.map(|limit| ("memory.max", amount(limit))));
    writes.extend(memory.reservation.map(|reservation| ("memory.low", amount(reservation))));
    if memory.kernel_tcp.is_some() {
        return bad("kernelTCP", "has no form on cgroup v2");
    }
    if memory.disable_oom_killer {
        return bad("disableOOMKiller", "has no form on cgroup v2");
    }
    if memory.swappiness.is_some() {
        return bad("swappiness", "has no form on cgroup v2");
    }
    Ok(())
}

fn cpu(cpu: &Cpu, writes: &mut Vec<(&str, String)>) -> Result<()> {
    if cpu.realtime_runtime.is_some() || cpu.realtime_period.is_some() {
        return Err(Error::new("config.json: /linux/resources/cpu/realtimeRuntime: has no form on cgroup v2"));
    }
    // Idle and a weight exclude each other.
    writes.extend(cpu.idle.map(|idle| ("cpu.idle", idle.to_string())));
    writes.extend(cpu.shares.filter(|_| cpu.idle != Some(1)).map(|shares| ("cpu.weight", weight(shares).to_string())));
    if cpu.quota.is_some() || cpu.period.is_some() {
        let quota = match cpu.quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_string(),
        };
        writes.push(("cpu.max", format!("{quota} {}", cpu.period.unwrap_or(100_000))));
    }
    writes.extend(cpu.burst.map(|burst| ("cpu.max.burst", burst.to_string())));
    writes.extend(cpu.cpus.clone().map(|cpus| ("cpuset.cpus", cpus)));
    writes.extend(cpu.mems.clone().map(|mems| ("cpuset.mems", mems)));
    Ok(())
}

/// v1's shares (2..262144, 1024 by default) as v2's weight (1..10000, 100 by default): the curve through those three
/// points that every runtime uses, quadratic in the logarithms.
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(1, 1), (2, 1), (512, 59), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn swap_is_counted_alone() {
        let mut writes = Vec::new();
        memory(&Memory { limit: Some(100), swap: Some(150), ..Memory::default() }, &mut writes).unwrap();
        assert_eq!(writes, [("memory.swap.max", "50".to_string()), ("memory.max", "100".to_string())]);
        assert!(memory(&Memory { swap: Some(150), ..Memory::default() }, &mut writes).is_err());
    }
}
