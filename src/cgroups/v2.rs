//! cgroup v2: limits first, then the child is born in its cgroup (CLONE_INTO_CGROUP).

use super::devices::Rule;
use super::resources::Resources;
use super::setting::{self, Setting};
use super::{Cgroups, Entrance, UNIFIED, devices, limits, make_directory, open_directory, own_cgroups};
use crate::caller::Caller;
use crate::error::{Error, Result};
use crate::files;
use crate::log;
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
    let settings = limits::v2(resources)?;
    let Some(directory) = cgroups.directories.first_mut() else {
        return Err(Error::new("no cgroup was chosen"));
    };
    make_directory(directory)?;
    let fd = open_directory(directory)?;
    enable_controllers(&directory.path, &settings)?;
    if resources.memory.check_before_update {
        check_usage(fd.as_fd(), resources)?;
    }
    // At 0 the number of processes would stop the clone.
    let (later, now): (Vec<Setting>, Vec<Setting>) =
        settings.into_iter().partition(|setting| setting.controller() == "pids");
    setting::write_all(fd.as_fd(), &now)?;
    Ok(Entrance { into: Some(fd), tasks: Vec::new(), later })
}

/// Refuses a limit below what is in use, for which v1 refuses it and v2 kills (config-linux.md: checkBeforeUpdate).
pub fn check_usage(directory: BorrowedFd<'_>, resources: &Resources) -> Result<()> {
    let memory = &resources.memory;
    let usage = setting::read(directory, "memory.current")?.and_then(|text| text.trim().parse::<i64>().ok());
    for (name, limit) in [("memory+swap", memory.swap), ("memory", memory.limit)] {
        match (usage, limit) {
            (Some(usage), Some(limit)) if limit > 0 && limit <= usage => {
                return Err(Error::new(format!("rejecting {name} limit {limit} <= usage {usage}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the directory of a container that exists.
pub fn enter(cgroups: &Cgroups) -> Result<Entrance> {
    Ok(Entrance { into: Some(open(cgroups)?), tasks: Vec::new(), later: Vec::new() })
}

fn open(cgroups: &Cgroups) -> Result<OwnedFd> {
    let Some(directory) = cgroups.directories.first() else {
        return Err(Error::new("no cgroup was chosen"));
    };
    open_directory(directory)
}

/// The device program, and the limits that would have stopped the clone.
pub fn limit(directory: BorrowedFd<'_>, later: &[Setting], devices: &[Rule]) -> Result<()> {
    match devices::apply_v2(directory, devices) {
        // Without privileges nobody makes device nodes, and those of the host have the host's permissions.
        Err(error) if error.errno() == Some(Errno::EPERM) && Caller::look()?.may_do_without_cgroup(&error) => {
            log::debug(|| format!("no device rules: {error}"));
        }
        applied => applied?,
    }
    setting::write_all(directory, later)
}

/// SIGKILL to everything in the container's cgroup and below.
pub fn kill(cgroups: &Cgroups) -> Result<()> {
    let fd = open(cgroups)?;
    setting::write(fd.as_fd(), "cgroup.kill", "1")
}

/// Lets the container go on.
pub fn thaw(cgroups: &Cgroups) -> Result<()> {
    setting::write(open(cgroups)?.as_fd(), "cgroup.freeze", "0")
}

/// Enables what the limits need in every ancestor. A controller that is not there is an error that names it.
fn enable_controllers(path: &Path, settings: &[Setting]) -> Result<()> {
    let needed = settings.iter().filter(|setting| !setting.is_optional());
    let mut wanted: Vec<&str> = needed.map(Setting::controller).filter(|controller| *controller != "cgroup").collect();
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
        let enabled = files::open(&file, OFlag::O_WRONLY).and_then(|fd| nix::unistd::write(&fd, enable.as_bytes()));
        let Err(errno) = enabled else { continue };
        let error = Error::from(errno).context(what());
        match errno {
            // Whoever delegated the cgroup to us has enabled them above it, where we may not write.
            Errno::EACCES | Errno::EPERM if missing(&file, &wanted).is_none() => {}
            Errno::EINVAL | Errno::ENOENT => {
                return Err(match missing(&ancestor.join("cgroup.controllers"), &wanted) {
                    Some(missing) => error.hint(format!("the controller {missing} is not available there")),
                    None => error,
                });
            }
            Errno::EBUSY => {
                return Err(error.hint("it has processes itself, which v2 does not allow beside controllers"));
            }
            _ => return Err(error),
        }
    }
    Ok(())
}

/// The first of some controllers that a list in a file does not have.
fn missing<'a>(list: &Path, wanted: &[&'a str]) -> Option<&'a str> {
    let there = std::fs::read_to_string(list).ok()?;
    wanted.iter().copied().find(|controller| !there.split_whitespace().any(|name| name == *controller))
}
