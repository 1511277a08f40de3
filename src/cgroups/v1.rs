//! cgroup v1 and hybrid: every hierarchy where it is mounted, the child joining by itself through `tasks`. Into the
//! cgroup2 of a hybrid machine it is born, as on v2.

use super::resources::Resources;
use super::{
    Cgroups, Directory, Entrance, Shown, UNIFIED, View, devices, make_directory, open_directory, own_cgroups, write,
};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::rootfs::path::clean;
use crate::sys;
use cgroups_rs::fs::freezer::FreezerController;
use cgroups_rs::fs::hierarchies::mountinfo_self;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// One mounted hierarchy.
pub struct Hierarchy {
    /// The last component of its mount point, which by convention names its controllers.
    name: String,
    mount: PathBuf,
    /// What of the hierarchy is mounted there, usually `/`.
    root: PathBuf,
    /// The key of its line in /proc/[pid]/cgroup: its controllers, `name=systemd`, or nothing for cgroup2.
    key: String,
}

/// The hierarchies below /sys/fs/cgroup, each once.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mountinfo_self() {
        let Ok(name) = mount.mount_point.strip_prefix(UNIFIED) else {
            continue;
        };
        let Some(name) = name.to_str().filter(|name| !name.is_empty() && !name.contains('/')) else {
            continue;
        };
        let known =
            |option: &&String| !matches!(option.as_str(), "rw" | "ro" | "xattr" | "noprefix" | "clone_children");
        let named = mount.super_opts.iter().find(|option| option.starts_with("name="));
        let key = match named {
            Some(name) => name.clone(),
            None => mount.super_opts.iter().filter(known).cloned().collect::<Vec<_>>().join(","),
        };
        let name = name.to_string();
        found.retain(|hierarchy| hierarchy.name != name);
        found.push(Hierarchy { name, mount: mount.mount_point, root: mount.mount_root, key });
    }
    let unified = Path::new(UNIFIED).join("unified");
    if statfs(&unified).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        let (name, root, key) = ("unified".to_string(), PathBuf::from("/"), String::new());
        found.push(Hierarchy { name, mount: unified, root, key });
    }
    Ok(found)
}

/// For each hierarchy its mount point and the container's path below it: an absolute cgroupsPath counts from the mount
/// point, a relative one from the runtime's own cgroup.
pub fn paths(hierarchies: &[Hierarchy], given: Option<&Path>, id: &str) -> Result<Vec<(String, (PathBuf, PathBuf))>> {
    let given = given.unwrap_or(Path::new(id));
    let own = if given.is_absolute() { None } else { Some(own_cgroups()?) };
    let mut paths = Vec::with_capacity(hierarchies.len());
    for hierarchy in hierarchies {
        let base = match &own {
            Some(own) => {
                // cgroups-rs lists the controllers of a hierarchy one by one.
                let first = hierarchy.key.split(',').next().unwrap_or_default();
                let path = own.get(&hierarchy.key).or_else(|| own.get(first)).map_or("/", String::as_str);
                let path = Path::new(path);
                path.strip_prefix(&hierarchy.root).unwrap_or(path.strip_prefix("/").unwrap_or(path)).to_path_buf()
            }
            None => PathBuf::new(),
        };
        let below = clean(given).strip_prefix("/").map(|below| base.join(below)).unwrap_or_default();
        paths.push((hierarchy.name.clone(), (hierarchy.mount.clone(), below)));
    }
    Ok(paths)
}

/// Makes the directories and opens their `tasks`; the limits come beside the child's work.
pub fn make(cgroups: &mut Cgroups) -> Result<Entrance> {
    let mut entrance = Entrance { into: None, tasks: Vec::with_capacity(cgroups.directories.len()) };
    for directory in &mut cgroups.directories {
        make_directory(directory)?;
        if directory.hierarchy.split(',').any(|controller| controller == "cpuset") {
            fill_cpusets(directory)?;
        }
        open_entrance(directory, &mut entrance)?;
    }
    Ok(entrance)
}

/// Opens the `tasks` files of cgroups that exist.
pub fn enter(cgroups: &Cgroups) -> Result<Entrance> {
    let mut entrance = Entrance { into: None, tasks: Vec::with_capacity(cgroups.directories.len()) };
    for directory in &cgroups.directories {
        open_entrance(directory, &mut entrance)?;
    }
    Ok(entrance)
}

/// The cgroup2 of a hybrid machine is entered by the clone; it has no `tasks`, and a write to its `cgroup.procs` waits.
fn open_entrance(directory: &Directory, entrance: &mut Entrance) -> Result<()> {
    if directory.hierarchy == "unified" {
        entrance.into = Some(open_directory(directory)?);
        return Ok(());
    }
    let tasks = directory.path.join("tasks");
    let fd = files::open(&tasks, OFlag::O_WRONLY).context(|| format!("open {}", tasks.display()))?;
    entrance.tasks.push(fd);
    Ok(())
}

/// A new cpuset has no CPUs and no memory nodes, and takes no process before it has: each that was made gets those of
/// the one above them.
fn fill_cpusets(directory: &Directory) -> Result<()> {
    let Some(top) = &directory.made_from else { return Ok(()) };
    let Some(above) = top.parent() else { return Ok(()) };
    let mut made: Vec<&Path> = directory.path.ancestors().take_while(|path| path.starts_with(top)).collect();
    made.reverse();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = files::read_text(&above.join(file))?;
        for path in &made {
            // A parent that somebody else has made at the same time may have processes, and keeps what it has.
            match files::write_value(&path.join(file), value.trim()) {
                Err(error) if *path == directory.path => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Writes all limits.
pub fn limit(cgroups: &Cgroups, resources: &Resources) -> Result<()> {
    let open = |controller: &str| -> Result<Option<OwnedFd>> {
        let Some(directory) =
            cgroups.directories.iter().find(|directory| directory.hierarchy.split(',').any(|name| name == controller))
        else {
            return Ok(None);
        };
        open_directory(directory).map(Some)
    };
    let mut writes: Vec<(&str, &str, String)> = Vec::new();
    let mut set = |controller, file, value: Option<String>| writes.extend(value.map(|value| (controller, file, value)));
    let memory = &resources.memory;
    let number = |value: Option<i64>| value.map(|value| value.to_string());
    set("memory", "memory.limit_in_bytes", number(memory.limit));
    // Unlimited memory with unlimited swap is what it is already, and not every kernel accounts swap.
    set(
        "memory",
        "memory.memsw.limit_in_bytes",
        number(memory.swap.filter(|swap| *swap != -1 || memory.limit.is_some())),
    );
    set("memory", "memory.soft_limit_in_bytes", number(memory.reservation));
    set("memory", "memory.kmem.tcp.limit_in_bytes", number(memory.kernel_tcp));
    set("memory", "memory.swappiness", memory.swappiness.map(|value| value.to_string()));
    set("memory", "memory.oom_control", memory.disable_oom_killer.then(|| "1".to_string()));
    let cpu = &resources.cpu;
    set("cpu", "cpu.shares", cpu.shares.map(|value| value.to_string()));
    set("cpu", "cpu.cfs_period_us", cpu.period.map(|value| value.to_string()));
    set("cpu", "cpu.cfs_quota_us", number(cpu.quota));
    set("cpu", "cpu.cfs_burst_us", cpu.burst.map(|value| value.to_string()));
    set("cpu", "cpu.rt_period_us", cpu.realtime_period.map(|value| value.to_string()));
    set("cpu", "cpu.rt_runtime_us", number(cpu.realtime_runtime));
    set("cpu", "cpu.idle", number(cpu.idle));
    set("cpuset", "cpuset.cpus", cpu.cpus.clone());
    set("cpuset", "cpuset.mems", cpu.mems.clone());
    set("pids", "pids.max", resources.pids.map(|limit| limit.to_string()));
    let mut opened: Option<(&str, OwnedFd)> = None;
    for (controller, file, value) in writes {
        if opened.as_ref().is_none_or(|(name, _)| *name != controller) {
            let fd = open(controller)?.ok_or_else(|| {
                Error::new(format!("set {file} to {value}: the controller {controller} is not mounted"))
            })?;
            opened = Some((controller, fd));
        }
        if let Some((_, fd)) = &opened {
            write(fd.as_fd(), file, &value)?;
        }
    }
    if !resources.unified.is_empty() {
        return Err(Error::new("config.json: /linux/resources/unified: needs cgroup v2"));
    }
    match open("devices")? {
        Some(directory) => devices::apply_v1(directory.as_fd(), &resources.devices),
        None => Err(Error::new("restrict devices: the controller devices is not mounted")),
    }
}

/// A detached copy of the container's directory in each v1 hierarchy.
pub fn view(cgroups: &Cgroups) -> Result<View> {
    let mut shown = Vec::new();
    for directory in cgroups.directories.iter().filter(|directory| directory.hierarchy != "unified") {
        let path = CString::new(directory.path.as_os_str().as_encoded_bytes())?;
        let tree = sys::open_tree_clone(AT_FDCWD, &path, 0)
            .context(|| format!("open_tree(clone) {}", directory.path.display()))?;
        shown.push(Shown { name: directory.hierarchy.clone(), tree });
    }
    Ok(View::Legacy(shown))
}

/// SIGKILL to every process, frozen meanwhile so that none can have a child in between; always thawed again.
pub fn kill(cgroups: &Cgroups) -> Result<()> {
    if let Some(freezer) = freezer(cgroups) {
        // Freezing only narrows the race; the caller looks again until nobody is left.
        let _ = freezer.freeze();
    }
    let killed = cgroups.processes().map(|pids| {
        for pid in pids {
            // One that is gone already is what we want.
            sys::kill(pid, libc::SIGKILL);
        }
    });
    thaw(cgroups)?;
    killed
}

/// Lets the container go on.
pub fn thaw(cgroups: &Cgroups) -> Result<()> {
    match freezer(cgroups) {
        Some(freezer) => freezer.thaw().map_err(|error| Error::new(format!("thaw the container: {error}"))),
        None => Ok(()),
    }
}

fn freezer(cgroups: &Cgroups) -> Option<FreezerController> {
    let directory = cgroups.directories.iter().find(|directory| directory.hierarchy == "freezer")?;
    Some(FreezerController::new(directory.path.clone(), PathBuf::new(), false))
}
