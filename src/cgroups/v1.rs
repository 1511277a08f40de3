//! cgroup v1 and hybrid: every hierarchy where it is mounted, the child joining by itself through `tasks`. Into the
//! cgroup2 of a hybrid machine it is born, as on v2.

use super::resources::Resources;
use super::setting::{self, Setting};
use super::{
    Cgroups, Directory, Entrance, Shown, UNIFIED, View, devices, limits, make_directory, not_mounted, open_directory,
    own_cgroups,
};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::rootfs::path::clean;
use crate::sys;
use cgroups_rs::FreezerState;
use cgroups_rs::fs::freezer::FreezerController;
use cgroups_rs::fs::hierarchies::mountinfo_self;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// One mounted hierarchy.
pub struct Hierarchy {
    /// Its controllers (`cpu,cpuacct`) or its name (`name=systemd`), as in /proc/[pid]/cgroup; `unified` for cgroup2.
    controllers: String,
    mount: PathBuf,
    /// What of the hierarchy is mounted there, usually `/`.
    root: PathBuf,
}

impl Hierarchy {
    /// Of several mounts of one hierarchy that below /sys/fs/cgroup is the one that everybody uses, and a whole one is
    /// better than a part.
    fn rank(&self) -> (bool, bool) {
        (self.mount.parent() == Some(Path::new(UNIFIED)), self.root == Path::new("/"))
    }
}

/// The mounted hierarchies, wherever that is, each once.
pub fn hierarchies() -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mountinfo_self() {
        let controllers = controllers(&mount.super_opts);
        if controllers.is_empty() {
            continue;
        }
        let new = Hierarchy { controllers, mount: mount.mount_point, root: mount.mount_root };
        match found.iter_mut().find(|known| known.controllers == new.controllers) {
            None => found.push(new),
            // At the same place the later mount hides the earlier.
            Some(known) if new.mount == known.mount || new.rank() > known.rank() => *known = new,
            Some(_) => {}
        }
    }
    let unified = Path::new(UNIFIED).join("unified");
    if statfs(&unified).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        found.push(Hierarchy { controllers: "unified".to_string(), mount: unified, root: PathBuf::from("/") });
    }
    found
}

/// What of the options of a v1 super block names the hierarchy.
pub fn controllers(options: &[String]) -> String {
    const OTHERS: [&str; 7] = ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"];
    if let Some(name) = options.iter().find(|option| option.starts_with("name=")) {
        return name.clone();
    }
    let is_controller = |option: &&String| !OTHERS.contains(&option.as_str()) && !option.contains('=');
    options.iter().filter(is_controller).cloned().collect::<Vec<_>>().join(",")
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
                // cgroups-rs lists the controllers of a hierarchy one by one, and cgroup2 as nothing.
                let first = hierarchy.controllers.split(',').next().filter(|first| *first != "unified");
                let path = own.get(first.unwrap_or_default()).map_or("/", String::as_str);
                let path = Path::new(path);
                path.strip_prefix(&hierarchy.root).unwrap_or(path.strip_prefix("/").unwrap_or(path)).to_path_buf()
            }
            None => PathBuf::new(),
        };
        let below = clean(given).strip_prefix("/").map(|below| base.join(below)).unwrap_or_default();
        paths.push((hierarchy.controllers.clone(), (hierarchy.mount.clone(), below)));
    }
    Ok(paths)
}

/// Makes the directories and opens their `tasks`; the limits come beside the child's work.
pub fn make(cgroups: &mut Cgroups, resources: &Resources) -> Result<Entrance> {
    let later = settings(cgroups, resources)?;
    let mut entrance = Entrance { into: None, tasks: Vec::with_capacity(cgroups.directories.len()), later };
    let of_unit = cgroups.unit.is_some();
    for directory in &mut cgroups.directories {
        make_directory(directory, of_unit)?;
        if directory.has("cpuset") {
            fill_cpusets(directory)?;
        }
        open_entrance(directory, &mut entrance)?;
    }
    Ok(entrance)
}

/// What is to be written; a limit whose controller is not mounted is an error.
fn settings(cgroups: &Cgroups, resources: &Resources) -> Result<Vec<Setting>> {
    let settings = limits::v1(resources)?;
    let mut needed = settings.iter().filter(|setting| !setting.is_optional());
    match needed.find(|setting| cgroups.directory(setting.controller()).is_none()) {
        Some(setting) => Err(not_mounted(setting)),
        None => Ok(settings),
    }
}

/// What an update is to write.
pub fn prepare_update(cgroups: &Cgroups, resources: &Resources) -> Result<Vec<Setting>> {
    let settings = settings(cgroups, resources)?;
    grant_realtime(cgroups, &limits::realtime(&resources.cpu))?;
    Ok(settings)
}

/// Opens the `tasks` files of cgroups that exist.
pub fn enter(cgroups: &Cgroups) -> Result<Entrance> {
    let tasks = Vec::with_capacity(cgroups.directories.len());
    let mut entrance = Entrance { into: None, tasks, later: Vec::new() };
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
/// the one above them. So does one above that has none either: who made it has been killed or has failed, or is about to.
fn fill_cpusets(directory: &Directory) -> Result<()> {
    let Some(top) = &directory.made_from else { return Ok(()) };
    let (made, above): (Vec<&Path>, Vec<&Path>) = directory.path.ancestors().partition(|path| path.starts_with(top));
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut empty = made.clone();
        let mut value = String::new();
        for path in &above {
            value = files::read_text(&path.join(file))?;
            if !value.trim().is_empty() {
                break;
            }
            empty.push(path);
        }
        for path in empty.into_iter().rev() {
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
pub fn limit(cgroups: &Cgroups, settings: &[Setting], resources: &Resources) -> Result<()> {
    grant_realtime(cgroups, &limits::realtime(&resources.cpu))?;
    cgroups.write_all(settings)?;
    match cgroups.directory("devices") {
        Some(directory) => devices::apply_v1(open_directory(directory)?.as_fd(), &resources.devices),
        None => Err(Error::new("restrict devices: the controller devices is not mounted")),
    }
}

/// A new cgroup has no realtime to give to those below it, so each that was made above the container's gets as much as
/// the container. What others have made is theirs to fill.
fn grant_realtime(cgroups: &Cgroups, settings: &[Setting]) -> Result<()> {
    let Some(Directory { path, made_from: Some(top), .. }) = cgroups.directory("cpu") else {
        return Ok(());
    };
    if settings.is_empty() {
        return Ok(());
    }
    let mut made: Vec<&Path> = path.ancestors().skip(1).take_while(|path| path.starts_with(top)).collect();
    made.reverse();
    for parent in made {
        let what = || format!("give realtime to cgroup {}", parent.display());
        let fd = files::open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY).context(|| "open").context(what)?;
        setting::write_all(fd.as_fd(), settings).context(what)?;
    }
    Ok(())
}

/// A detached copy of the container's directory in each v1 hierarchy.
pub fn view(cgroups: &Cgroups) -> Result<View> {
    let mut shown = Vec::new();
    for directory in cgroups.directories.iter().filter(|directory| directory.hierarchy != "unified") {
        let path = CString::new(directory.path.as_os_str().as_encoded_bytes())?;
        let tree = sys::open_tree_clone(AT_FDCWD, &path, 0)
            .context(|| format!("open_tree(clone) {}", directory.path.display()))?;
        shown.push(Shown { name: shown_name(&directory.hierarchy), tree });
    }
    Ok(View::Legacy(shown))
}

/// What a hierarchy is called in the container.
pub fn shown_name(hierarchy: &str) -> String {
    hierarchy.trim_start_matches("name=").to_string()
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

/// Asks for a pause; whether everybody stands still.
pub fn freeze(cgroups: &Cgroups) -> Result<bool> {
    let what = |error: cgroups_rs::fs::error::Error| Error::new(format!("pause the container: {error}").to_lowercase());
    let Some(freezer) = freezer(cgroups) else {
        return Err(Error::new("pause the container: the controller freezer is not mounted"));
    };
    freezer.freeze().map_err(what)?;
    Ok(matches!(freezer.state().map_err(what)?, FreezerState::Frozen))
}

/// Lets the container go on.
pub fn thaw(cgroups: &Cgroups) -> Result<()> {
    match freezer(cgroups) {
        Some(freezer) => freezer.thaw().map_err(|error| Error::new(format!("thaw the container: {error}"))),
        None => Ok(()),
    }
}

fn freezer(cgroups: &Cgroups) -> Option<FreezerController> {
    let directory = cgroups.directory("freezer")?;
    Some(FreezerController::new(directory.path.clone(), PathBuf::new(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_named_by_its_controllers() {
        let named = |options: &str| controllers(&options.split(',').map(str::to_string).collect::<Vec<_>>());
        assert_eq!(named("rw,cpu,cpuacct"), "cpu,cpuacct");
        assert_eq!(named("rw,net_cls,net_prio,clone_children"), "net_cls,net_prio");
        assert_eq!(named("rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd"), "name=systemd");
        assert_eq!(named("rw,cpuset,noprefix,release_agent=/x"), "cpuset");
    }

    #[test]
    fn a_whole_hierarchy_at_the_usual_place_is_preferred() {
        let hierarchy = |mount: &str, root: &str| {
            let (mount, root) = (PathBuf::from(mount), PathBuf::from(root));
            Hierarchy { controllers: "cpu".to_string(), mount, root }
        };
        let usual = hierarchy("/sys/fs/cgroup/cpu", "/");
        for other in [hierarchy("/mnt/cpu", "/"), hierarchy("/x/sys/fs/cgroup/cpu", "/a"), hierarchy("/cpu", "/a")] {
            assert!(usual.rank() > other.rank(), "{}", other.mount.display());
        }
        assert!(hierarchy("/mnt/cpu", "/").rank() > hierarchy("/mnt/part", "/a").rank());
    }
}
