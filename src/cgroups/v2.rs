//! cgroup v2: limits first, then the child is born in its cgroup (CLONE_INTO_CGROUP).

use super::devices::Rule;
use super::resources::Resources;
use super::setting::{self, Setting};
use super::{Cgroups, Entrance, UNIFIED, devices, limits, make_directory, open_directory, own_cgroups};
use crate::caller::Caller;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::log;
use crate::rootfs::mountinfo;
use crate::rootfs::path::clean;
use crate::sys::FsContext;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::unistd::{Uid, fchownat};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
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
    let of_unit = cgroups.unit.is_some();
    let Some(directory) = cgroups.directories.first_mut() else {
        return Err(Error::new("no cgroup was chosen"));
    };
    make_directory(directory, of_unit)?;
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

/// Gives a cgroup to a user of the host: the directory, and of the files in it those that the kernel names for this. With
/// any other file he could raise his own limits.
pub fn delegate(directory: BorrowedFd<'_>, uid: u32) -> Result<()> {
    let list = match files::read_text(Path::new("/sys/kernel/cgroup/delegate")) {
        Ok(list) => list,
        Err(_) => "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_string(),
    };
    let what = || format!("give the container's cgroup to the user {uid}");
    let give = |name: &str, flags: AtFlags| match fchownat(directory, name, Some(Uid::from_raw(uid)), None, flags) {
        // Some are those of controllers that are not enabled; and without the right to, everything stays as it is.
        Err(Errno::ENOENT | Errno::EPERM) => Ok(()),
        other => other.context(|| format!("fchownat({name:?})")).context(what),
    };
    give("", AtFlags::AT_EMPTY_PATH)?;
    list.lines().filter(|name| !name.contains('/')).try_for_each(|name| give(name, AtFlags::AT_SYMLINK_NOFOLLOW))
}

/// What an update is to write. v1 knows by itself what is not given; here it is asked for.
pub fn prepare_update(cgroups: &Cgroups, resources: &Resources) -> Result<Vec<Setting>> {
    let fd = open(cgroups)?;
    if resources.memory.check_before_update {
        check_usage(fd.as_fd(), resources)?;
    }
    let mut resources = resources.clone();
    complete_memory(fd.as_fd(), &mut resources, cgroups.swap_with_memory)?;
    if resources.cpu.period.is_some() && resources.cpu.quota.is_none() {
        // Both are in one file.
        resources.cpu.quota = number(fd.as_fd(), "cpu.max")?;
    }
    let settings = limits::v2(&resources)?;
    if let Some(directory) = cgroups.directories.first() {
        enable_controllers(&directory.path, &settings)?;
    }
    Ok(settings)
}

/// The sum of memory and swap that is limited stays the same if only memory is given, and the other way round: as on v1,
/// where the kernel counts the sum.
fn complete_memory(directory: BorrowedFd<'_>, resources: &mut Resources, swap_with_memory: bool) -> Result<()> {
    let memory = resources.memory;
    let given = |limit: Option<i64>| limit.is_some_and(|limit| limit > 0);
    if given(memory.swap) && memory.limit.is_none() {
        resources.memory.limit = number(directory, "memory.max")?;
    } else if given(memory.limit) && memory.swap.is_none() && swap_with_memory {
        let now = (number(directory, "memory.max")?, number(directory, "memory.swap.max")?);
        if let (Some(limit), Some(swap)) = now {
            resources.memory.swap = Some(limit.saturating_add(swap));
        }
    }
    match (resources.memory.limit, resources.memory.swap) {
        (Some(limit), Some(swap)) if swap > 0 && limit > swap => {
            Err(Error::new("memory+swap limit should be >= memory limit").hint(format!("{swap} and {limit}")))
        }
        _ => Ok(()),
    }
}

/// The first number of a file; None if it says `max`, or is not there.
fn number(directory: BorrowedFd<'_>, file: &str) -> Result<Option<i64>> {
    let text = setting::read(directory, file)?;
    Ok(text.and_then(|text| text.split_whitespace().next()?.parse().ok()))
}

/// Refuses a limit below what is in use, for which v1 refuses it and v2 kills (config-linux.md: checkBeforeUpdate).
fn check_usage(directory: BorrowedFd<'_>, resources: &Resources) -> Result<()> {
    let memory = &resources.memory;
    let usage = number(directory, "memory.current")?;
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

/// Opens the directory that systemd has just made, with the controllers that it does not enable.
pub fn enter_made(cgroups: &Cgroups, settings: &[Setting]) -> Result<OwnedFd> {
    let fd = open(cgroups)?;
    let all = check_controllers(settings)?;
    let there = setting::read(fd.as_fd(), "cgroup.controllers")?.unwrap_or_default();
    let is_there = |controller| there.split_whitespace().any(|one| one == controller);
    if let (false, Some(directory)) = (all.split_whitespace().all(is_there), cgroups.directories.first()) {
        enable_controllers(&directory.path, settings)?;
    }
    Ok(fd)
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
        Err(error) if error.errno() == Some(Errno::EPERM) && Caller::look()?.may_do_without_cgroup(&error, None) => {
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

/// Asks for a pause; whether everybody stands still.
pub fn freeze(cgroups: &Cgroups) -> Result<bool> {
    let fd = open(cgroups)?;
    setting::write(fd.as_fd(), "cgroup.freeze", "1")?;
    let events = setting::read(fd.as_fd(), "cgroup.events")?.unwrap_or_default();
    Ok(events.lines().any(|line| line == "frozen 1"))
}

/// Lets the container go on.
pub fn thaw(cgroups: &Cgroups) -> Result<()> {
    setting::write(open(cgroups)?.as_fd(), "cgroup.freeze", "0")
}

/// Enables every controller that there is for the cgroup: some are needed for limits, and the others count what the
/// container uses, which engines ask for (`docker stats`). Only a needed one that cannot be had is an error.
fn enable_controllers(path: &Path, settings: &[Setting]) -> Result<()> {
    let available = check_controllers(settings)?;
    let all: Vec<&str> = available.split_whitespace().collect();
    let needed = needed_controllers(settings);
    let missing = |there: &[&str]| needed.iter().find(|controller| !there.contains(controller)).copied();
    let mut ancestors: Vec<&Path> =
        path.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(UNIFIED)).collect();
    ancestors.reverse();
    let mut failure = None;
    for ancestor in ancestors {
        if all.is_empty() || enable(ancestor, &all).is_ok() {
            continue;
        }
        // One that cannot be enabled keeps no other from it.
        for controller in &all {
            if let (Err(error), true) = (enable(ancestor, &[controller]), needed.contains(controller)) {
                failure.get_or_insert(error);
            }
        }
    }
    let Some(failure) = failure else { return Ok(()) };
    // Whoever made the cgroups above may have enabled what we may not.
    let there = files::read_text(&path.join("cgroup.controllers"))?;
    match missing(&there.split_whitespace().collect::<Vec<_>>()) {
        Some(missing) => Err(failure.hint(format!("the controller {missing} is not available"))),
        None => Ok(()),
    }
}

/// The controllers that limits cannot do without.
fn needed_controllers(settings: &[Setting]) -> Vec<&str> {
    let needed = settings.iter().filter(|setting| !setting.is_optional()).map(Setting::controller);
    needed.filter(|controller| *controller != "cgroup").collect()
}

/// Refuses limits whose controllers this machine does not have on v2; those that it has, as the kernel lists them.
pub fn check_controllers(settings: &[Setting]) -> Result<String> {
    let available = files::read_text(&Path::new(UNIFIED).join("cgroup.controllers"))?;
    let is_there = |controller: &&str| available.split_whitespace().any(|one| one == *controller);
    match needed_controllers(settings).iter().find(|controller| !is_there(controller)) {
        Some(missing) => Err(Error::new(format!("the controller {missing} is not available in {UNIFIED}"))),
        None => Ok(available),
    }
}

/// Enables controllers for the cgroups below one.
fn enable(ancestor: &Path, controllers: &[&str]) -> Result<()> {
    let what = || format!("enable {} for the cgroups below {}", controllers.join(", "), ancestor.display());
    let text = controllers.iter().map(|controller| format!("+{controller}")).collect::<Vec<_>>().join(" ");
    let fd = files::open(&ancestor.join("cgroup.subtree_control"), OFlag::O_WRONLY).context(what)?;
    match nix::unistd::write(&fd, text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(errno) => {
            let error = Error::from(errno).context(what());
            Err(match errno {
                Errno::EBUSY => error.hint("it has processes itself, which v2 does not allow beside controllers"),
                _ => error,
            })
        }
    }
}

/// The options of cgroup2, of which there is one, however often it is mounted. Who mounts it once more in the first cgroup
/// namespace sets those that he gives and clears the others (cgroup_namespaces(7)); CRIU gives none.
#[derive(Debug, Serialize, Deserialize)]
pub struct RootOptions {
    /// One of its mounts.
    place: PathBuf,
    options: String,
}

impl RootOptions {
    /// None: it is mounted nowhere.
    pub fn look() -> Result<Option<RootOptions>> {
        let mut mounts = mountinfo::read("self")?.into_iter().filter(|mount| mount.fstype == "cgroup2");
        Ok(mounts.next().map(|mount| RootOptions { place: mount.place, options: mount.super_options }))
    }

    /// Those that are not of the mount.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.options.split(',').filter(|option| !matches!(*option, "rw" | "ro"))
    }

    /// Whether there are any.
    pub fn can_be_lost(&self) -> bool {
        self.names().next().is_some()
    }

    /// Sets them again if they have changed.
    pub fn give_back(&self) -> Result<()> {
        if RootOptions::look()?.is_none_or(|now| now.options == self.options) {
            return Ok(());
        }
        let mount = files::open(&self.place, OFlag::O_PATH).context(|| format!("open {}", self.place.display()))?;
        let context = FsContext::pick(mount.as_fd()).context(|| "fspick")?;
        for option in self.names() {
            context.set_flag(&CString::new(option)?).context(|| format!("fsconfig({option})"))?;
        }
        context.reconfigure().context(|| "fsconfig(reconfigure)")
    }
}
