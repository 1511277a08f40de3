//! Control groups: where the container's are, what was made for it, and what is removed with it.
//!
//! v1 and v2 differ in who does what when, so each has a file of its own with the same functions; the choice is made
//! once, by [`Layout::detect`]. Nobody writes a pid to `cgroup.procs`: that waits for an RCU grace period, 15 ms on an
//! idle machine. On v2 the child is born in its cgroup, on v1 it writes 0 to the `tasks` files that the parent opened.
//! With `--systemd-cgroup` systemd makes the cgroups and puts the child there (`systemd.rs`).
//!
//! The crate cgroups-rs reads the mounts of v1 and drives the freezer; limits are written here, each with one write
//! (`limits.rs` says which, `setting.rs` writes and reads).

pub mod devices;
pub mod limits;
pub mod oom;
pub mod resources;
pub mod setting;
pub mod stats;
pub mod systemd;
mod units;
mod v1;
pub mod v2;

use crate::caller::Caller;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::plan;
use crate::rootfs::path::clean;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, Pid};
use oci_spec::runtime::LinuxResources;
use resources::Resources;
use serde::{Deserialize, Serialize};
use setting::Setting;
use std::borrow::Cow;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};
use systemd::Unit;

/// Where a single unified hierarchy is mounted; nobody puts it elsewhere.
pub const UNIFIED: &str = "/sys/fs/cgroup";

/// Where the resources of a configuration are, as messages begin.
const RESOURCES: &str = "config.json: /linux/resources";

/// Who makes the cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// We do, as directories.
    Cgroupfs,
    Systemd,
    /// Nobody: the container stays in the caller's.
    Disabled,
}

/// `linux.cgroupsPath` and `linux.resources`.
#[derive(Debug, Clone)]
pub struct Config {
    /// None: chosen by the runtime from the container's id.
    path: Option<PathBuf>,
    pub resources: Resources,
    manager: Manager,
    /// With systemd: the unit that the path stands for.
    pub unit: Option<systemd::Config>,
}

impl Config {
    /// Checks path and resources.
    pub fn new(path: Option<&Path>, resources: Option<&LinuxResources>) -> Result<Config> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = path {
            plan::check_path(path, "config.json: /linux/cgroupsPath")?;
        }
        if path.is_some_and(|path| clean(path) == Path::new("/")) {
            return Err(Error::new("config.json: /linux/cgroupsPath: cannot be the root of the hierarchy"));
        }
        let resources = Resources::new(resources, RESOURCES)?;
        Ok(Config { path: path.map(Path::to_path_buf), resources, manager: Manager::Cgroupfs, unit: None })
    }

    /// Leaves the cgroups to somebody else; the path and the annotations have to make sense to him.
    pub fn leave_to(
        &mut self,
        manager: Manager,
        id: &str,
        annotations: &HashMap<String, String>,
        caller: &Caller,
    ) -> Result<()> {
        self.manager = manager;
        match manager {
            Manager::Cgroupfs => {}
            Manager::Disabled if self.resources.limit_anything() => {
                return Err(Error::new(format!("{RESOURCES}: nobody imposes limits with --cgroup-manager disabled")));
            }
            Manager::Disabled => {}
            Manager::Systemd => {
                let user = caller.is_nested || !nix::unistd::geteuid().is_root();
                self.unit = Some(systemd::Config::new(self.path.as_deref(), id, annotations, user)?);
            }
        }
        Ok(())
    }

    /// Whether there is a scope of systemd's that the child is put into after the clone.
    pub fn has_scope(&self) -> bool {
        self.unit.as_ref().is_some_and(|config| !config.unit.is_slice())
    }

    /// Connects to whom the cgroups are left.
    pub fn connect(&self) -> Result<Option<systemd::Manager>> {
        self.unit.as_ref().map(|config| systemd::Manager::connect_with_pids(&config.unit)).transpose()
    }
}

/// How this machine mounts its hierarchies.
pub enum Layout {
    /// cgroup v2 alone.
    Unified,
    /// cgroup v1, each hierarchy where it is mounted; a cgroup2 beside them (hybrid) is one of them.
    Legacy(Vec<v1::Hierarchy>),
}

impl Layout {
    /// Looks at what is mounted; without cgroups for the container it need not be anything.
    pub fn detect(config: &Config) -> Result<Layout> {
        match Layout::look() {
            Err(_) if config.manager == Manager::Disabled => Ok(Layout::Legacy(Vec::new())),
            Ok(Layout::Legacy(_)) if config.unit.as_ref().is_some_and(|config| config.unit.is_of_user()) => {
                Err(Error::new("the user's systemd has no controllers of cgroup v1"))
            }
            layout => layout,
        }
    }

    fn look() -> Result<Layout> {
        match statfs(UNIFIED) {
            Ok(root) if root.filesystem_type() == CGROUP2_SUPER_MAGIC => return Ok(Layout::Unified),
            // Hierarchies of v1 may be mounted anywhere.
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Error::from(errno).context(format!("statfs {UNIFIED}"))),
        }
        let hierarchies = v1::hierarchies();
        match hierarchies.is_empty() {
            true => Err(Error::new("no cgroup hierarchy is mounted")),
            false => Ok(Layout::Legacy(hierarchies)),
        }
    }
}

/// The container's directory in one hierarchy, as it is recorded before it is made.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Directory {
    /// The controllers of the hierarchy (`cpu,cpuacct`) or its name (`name=systemd`), `unified` for cgroup2.
    pub hierarchy: String,
    pub path: PathBuf,
    /// The topmost directory of the path that did not exist: from there on everything is ours to remove. None: the
    /// cgroup existed, and stays when the container goes.
    pub made_from: Option<PathBuf>,
}

impl Directory {
    /// Whether the files of a controller of v1 are in it.
    fn has(&self, controller: &str) -> bool {
        self.hierarchy.split(',').any(|name| name == controller)
    }
}

/// The container's cgroups: what `delete` needs to know, written into the state before anything is made.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Cgroups {
    /// Whether there is one hierarchy, of v2.
    pub unified: bool,
    pub directories: Vec<Directory>,
    /// The unit of systemd's that makes and removes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// v2: whether swap was limited together with memory, as v1 does it, so that a new limit of memory changes both.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub swap_with_memory: bool,
}

/// What the child needs to get into its cgroups, and what `mounts::attach_late` shows of them.
pub struct Entrance {
    /// v2 and hybrid: the directory to be born in.
    pub into: Option<OwnedFd>,
    /// v1: the `tasks` files to write 0 to.
    pub tasks: Vec<OwnedFd>,
    /// The limits that are written beside or after the clone.
    pub later: Vec<Setting>,
}

/// What a mount of type cgroup shows.
pub enum View {
    /// The v2 hierarchy.
    Unified,
    /// The container's directory of each v1 hierarchy.
    Legacy(Vec<Shown>),
}

/// What a hierarchy of v1 is called in the container's /sys/fs/cgroup, by the options of its super block (mountinfo).
pub fn shown_name(super_options: &str) -> String {
    let options: Vec<String> = super_options.split(',').map(str::to_string).collect();
    v1::shown_name(&v1::controllers(&options))
}

/// One hierarchy in the container's /sys/fs/cgroup.
pub struct Shown {
    /// `cpu,cpuacct`
    pub name: String,
    /// A detached copy of the container's directory in it.
    pub tree: OwnedFd,
}

impl Cgroups {
    /// Decides where the container's cgroups are and looks which of them exist; one that is in use is refused.
    pub fn locate(
        layout: &Layout,
        config: &Config,
        id: &str,
        systemd: Option<&mut systemd::Manager>,
    ) -> Result<Cgroups> {
        let unit = config.unit.as_ref().map(|config| config.unit.clone());
        let of_unit = systemd.zip(unit.as_ref()).map(|(manager, unit)| manager.path(unit)).transpose()?;
        let given = of_unit.as_deref().or(config.path.as_deref());
        let (unified, paths) = match layout {
            Layout::Unified => (true, vec![("unified".to_string(), v2::path(given, id)?)]),
            Layout::Legacy(hierarchies) => (false, v1::paths(hierarchies, given, id)?),
        };
        let paths = if config.manager == Manager::Disabled { Vec::new() } else { paths };
        let mut directories = Vec::with_capacity(paths.len());
        for (hierarchy, (mount, below)) in paths {
            let (path, mut made_from) = (mount.join(&below), first_missing(&mount, &below)?);
            if made_from.is_none() {
                refuse_if_used(&path)?;
            }
            if unit.is_some() && units::manages(&hierarchy) {
                // The slices above are systemd's.
                made_from = Some(path.clone());
            }
            directories.push(Directory { hierarchy, path, made_from });
        }
        let swap_with_memory = unified && config.resources.memory.swap.is_some_and(|swap| swap > 0);
        Ok(Cgroups { unified, directories, unit, swap_with_memory })
    }

    /// Makes the directories; on v2 also applies the limits, for the child will be born in them. A scope of systemd's comes
    /// after the clone.
    pub fn make(&mut self, config: &Config, systemd: Option<&mut systemd::Manager>) -> Result<Entrance> {
        if let (Some(unit), Some(manager)) = (self.unit.clone(), systemd) {
            return systemd::make(self, &unit, config, manager);
        }
        if self.directories.is_empty() {
            return Ok(Entrance { into: None, tasks: Vec::new(), later: Vec::new() });
        }
        if self.unified { v2::make(self, &config.resources) } else { v1::make(self, &config.resources) }
    }

    /// What can only be applied beside or after the clone: the limits that [`Cgroups::make`] left, and device rules.
    ///
    /// `into` is the directory of the only hierarchy of v2.
    pub fn limit(&self, later: &[Setting], resources: &Resources, into: Option<BorrowedFd<'_>>) -> Result<()> {
        match into {
            Some(directory) if self.unified => v2::limit(directory, later, &resources.devices),
            _ => v1::limit(self, later, resources),
        }
    }

    /// Changes limits of a container that lives, all of them or none; device rules stay as they are.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let settings =
            if self.unified { v2::prepare_update(self, resources)? } else { v1::prepare_update(self, resources)? };
        let mut before = Vec::new();
        for setting in &settings {
            if let Some(directory) = self.directory(setting.controller()) {
                before.extend(setting.previous(open_directory(directory)?.as_fd())?);
            }
        }
        let written = self.write_all(&settings).and_then(|()| match &self.unit {
            // systemd writes what it is told, too, and rounds: so ours comes last.
            Some(unit) => systemd::update(self, unit, &settings).and_then(|()| self.write_all(&settings)),
            None => Ok(()),
        });
        let Err(error) = written else {
            return Ok(());
        };
        let mut restored = before.chunk_by(|a, b| a.controller() == b.controller()).map(|settings| {
            match settings.first().and_then(|setting| self.directory(setting.controller())) {
                Some(directory) => setting::restore(open_directory(directory)?.as_fd(), settings),
                None => Ok(()),
            }
        });
        Err(match restored.find_map(Result::err) {
            Some(left) => error.hint(format!("and undoing it failed: {left}")),
            None => error,
        })
    }

    /// Writes settings, those of each controller into its directory.
    fn write_all(&self, settings: &[Setting]) -> Result<()> {
        for settings in settings.chunk_by(|a, b| a.controller() == b.controller()) {
            let Some(setting) = settings.first() else { continue };
            match self.directory(setting.controller()) {
                Some(directory) => setting::write_all(open_directory(directory)?.as_fd(), settings)?,
                None if settings.iter().all(Setting::is_optional) => {}
                None => return Err(not_mounted(setting)),
            }
        }
        Ok(())
    }

    /// The directory with the files of a controller; on v2 there is only one.
    fn directory(&self, controller: &str) -> Option<&Directory> {
        self.directories.iter().find(|directory| self.unified || directory.has(controller))
    }

    /// Whether the container has a cgroup of its own in every hierarchy there is, mounted here or not.
    pub fn are_in_every_hierarchy(&self) -> Result<bool> {
        let text = files::read_text(Path::new("/proc/self/cgroup"))?;
        let mut hierarchies = text.lines().filter_map(|line| line.split(':').nth(1));
        Ok(hierarchies.all(|name| {
            let name = if name.is_empty() { "unified" } else { name };
            self.directories.iter().any(|directory| directory.hierarchy == name)
        }))
    }

    /// The directory of the freezer.
    pub fn freezer(&self) -> Option<&Path> {
        self.directory("freezer").map(|directory| directory.path.as_path())
    }

    /// Gives the container's cgroup to a user of the host, on v2; v1 knows no safe way to (config-linux.md: cgroup
    /// ownership).
    pub fn delegate(&self, into: Option<BorrowedFd<'_>>, uid: u32) -> Result<()> {
        match into.filter(|_| self.unified) {
            Some(directory) => v2::delegate(directory, uid),
            None => Ok(()),
        }
    }

    /// Opens what a cgroup mount of the container shows.
    pub fn view(&self) -> Result<View> {
        if self.unified { Ok(View::Unified) } else { v1::view(self) }
    }

    /// The way for a further process into the container's cgroups.
    pub fn enter(&self) -> Result<Entrance> {
        if self.unified && !self.directories.is_empty() { v2::enter(self) } else { v1::enter(self) }
    }

    /// The same with the cgroup that this process of the container has come to below: on v2 one that has controllers for its
    /// children cannot have processes of its own (cgroups(7)).
    pub fn with(&self, process: Option<Pid>) -> Result<Cgroups> {
        let process = process.ok_or_else(|| Error::new("the container has ended"))?;
        let found = cgroups_rs::fs::cgroup::get_cgroups_relative_paths_by_pid(process.as_raw() as u32)
            .map_err(|error| Error::new(format!("read /proc/{process}/cgroup: {error}").to_lowercase()))?;
        let below = found.get("").map_or("", String::as_str).trim_start_matches('/');
        let mut cgroups = self.clone();
        for directory in cgroups.directories.iter_mut().filter(|directory| directory.hierarchy == "unified") {
            let path = Path::new(UNIFIED).join(clean(Path::new(below)).strip_prefix("/").unwrap_or(Path::new("")));
            if path.starts_with(&directory.path) {
                directory.path = path;
            }
        }
        Ok(cgroups)
    }

    /// The same with cgroups below in place of some: each word is `[CONTROLLER[,CONTROLLER...]:]PATH`, without controllers
    /// for all hierarchies (`exec --cgroup`). A path cannot lead out of the container's cgroup (rule R27).
    pub fn below(&self, words: &[String]) -> Result<Cgroups> {
        let mut chosen = self.clone();
        for word in words {
            let (controllers, path) = match word.split_once(':') {
                Some((controllers, path)) => (Some(controllers), path),
                None => (None, word.as_str()),
            };
            let path = Path::new(path.trim_start_matches('/'));
            let is_below = |component| matches!(component, Component::Normal(_) | Component::CurDir);
            if !path.components().all(is_below) || path.as_os_str().as_encoded_bytes().contains(&0) {
                return Err(Error::new(format!("bad sub cgroup path: {}", path.display())));
            }
            if controllers.is_some() && self.unified {
                return Err(Error::new(format!(
                    "bad sub cgroup {word:?}: cgroup v2 has no controllers to choose from"
                )));
            }
            for controller in controllers.map_or(vec![None], |names| names.split(',').map(Some).collect()) {
                let wanted = |directory: &&mut Directory| controller.is_none_or(|name| directory.has(name));
                let mut count = 0;
                for directory in chosen.directories.iter_mut().filter(wanted) {
                    // Of several words for one hierarchy the last counts.
                    let own = self.directories.iter().find(|own| own.hierarchy == directory.hierarchy);
                    if let Some(own) = own {
                        directory.path = own.path.join(path);
                        count += 1;
                    }
                }
                if let (0, Some(name)) = (count, controller) {
                    return Err(Error::new(format!("bad sub cgroup {word:?}: there is no controller {name}")));
                }
            }
        }
        Ok(chosen)
    }

    /// The processes in the container's cgroups and below them.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let Some(directory) = self.directories.first() else {
            return Ok(Vec::new());
        };
        let mut pids = Vec::new();
        collect_processes(&directory.path, &mut pids)?;
        Ok(pids)
    }

    /// A file of the container's cgroup, if it is there: on v1 in the hierarchy of a controller, on v2 by its name there.
    fn read(&self, (controller, v1_file): (&str, &str), v2_file: &str) -> Option<String> {
        let file = if self.unified { v2_file } else { v1_file };
        let path = self.directory(controller)?.path.join(file);
        files::read_text(&path).ok()
    }

    /// How many processes of the container the kernel has killed for lack of memory, if it tells.
    pub fn oom_kills(&self) -> Option<u64> {
        let text = self.read(("memory", "memory.oom_control"), "memory.events")?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    /// What is said of a process that was killed by SIGKILL (status 137), if the kernel has killed in the container for lack
    /// of memory: nobody else would tell.
    pub fn explain_oom(&self, status: i32) -> Option<String> {
        if status != 128 + libc::SIGKILL {
            return None;
        }
        let kills = self.oom_kills().filter(|kills| *kills > 0)?;
        let peak = self.memory_peak().map_or(String::new(), |peak| format!("; {peak} bytes were used"));
        Some(format!(
            "it was OOM-killed (memory limit too low?): the kernel has killed {kills} processes of the container{peak}"
        ))
    }

    /// The most memory that the container has used, in bytes.
    pub fn memory_peak(&self) -> Option<u64> {
        self.read(("memory", "memory.max_usage_in_bytes"), "memory.peak")?.trim().parse().ok()
    }

    /// Whether the processes are paused.
    pub fn is_frozen(&self) -> bool {
        self.read(("freezer", "freezer.state"), "cgroup.freeze")
            .is_some_and(|state| matches!(state.trim(), "1" | "FROZEN" | "FREEZING"))
    }

    /// Sends a signal to every process in the container's own cgroups; to how many.
    pub fn signal(&self, signal: i32) -> Result<usize> {
        if self.directories.iter().all(|directory| directory.made_from.is_none()) {
            return Ok(0);
        }
        let pids = self.processes()?;
        for pid in &pids {
            // One that is gone already needs no signal.
            sys::kill(*pid, signal);
        }
        if signal == libc::SIGKILL {
            self.kill()?;
        }
        Ok(pids.len())
    }

    /// Pauses every process, and waits until they all stand still; if they do not, they go on as before.
    pub fn freeze(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut pause = Duration::from_micros(100);
        loop {
            // On v1 a process that is just being forked is only caught by another attempt.
            match if self.unified { v2::freeze(self) } else { v1::freeze(self) } {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() < deadline => {}
                Ok(false) => {
                    self.thaw()?;
                    return Err(Error::new("unable to freeze").hint("some process still runs after 10 s"));
                }
                Err(error) => return Err(error),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Lets paused processes go on.
    pub fn thaw(&self) -> Result<()> {
        match if self.unified { v2::thaw(self) } else { v1::thaw(self) } {
            // systemd removes a cgroup as soon as it is empty, and then nobody waits there.
            Err(error) if error.errno() == Some(Errno::ENOENT) && self.unit.is_some() => Ok(()),
            thawed => thawed,
        }
    }

    /// Kills every process in cgroups that were made for this container, and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut pause = Duration::from_micros(200);
        while self.directories.iter().any(|directory| directory.made_from.is_some()) && !self.processes()?.is_empty() {
            match if self.unified { v2::kill(self) } else { v1::kill(self) } {
                // systemd removes a cgroup as soon as it is empty.
                Err(error) if error.errno() == Some(Errno::ENOENT) && self.unit.is_some() => {}
                killed => killed?,
            }
            if Instant::now() > deadline {
                return Err(Error::new("processes of the container are still there 10 s after SIGKILL"));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The cgroups that are this container's. Until its init is known a unit of that name may be somebody else's.
    pub fn own(&self, id: &str, has_init: bool) -> Result<Cow<'_, Cgroups>> {
        match self.unit.as_ref().filter(|_| !has_init) {
            Some(unit) => systemd::own(self, unit, id),
            None => Ok(Cow::Borrowed(self)),
        }
    }

    /// Lets systemd move a process here, for somebody who may not be born here (`exec`).
    pub fn attach(&self, whole: &Cgroups, pid: Pid) -> Result<()> {
        let (Some(unit), Some(own), Some(top)) = (&self.unit, self.directories.first(), whole.directories.first())
        else {
            return Ok(());
        };
        systemd::attach(unit, own.path.strip_prefix(&top.path).unwrap_or(Path::new("")), pid)
    }

    fn stop_unit(&self) -> Result<()> {
        let Some(unit) = &self.unit else { return Ok(()) };
        // Where systemd is no more, what it had made may be gone, too.
        let is_there = self.directories.iter().any(|directory| directory.path.exists());
        systemd::stop(unit).or_else(|error| if is_there { Err(error) } else { Ok(()) })
    }

    /// Removes what was made for this container, sub-cgroups of the payload included; reports what stays.
    pub fn remove(&self) -> Result<()> {
        let mut first_error = self.stop_unit().err();
        for directory in &self.directories {
            let Some(top) = &directory.made_from else { continue };
            let removed = remove_tree(&directory.path, 0)
                .context(|| format!("remove cgroup {}", directory.path.display()))
                .and_then(|()| remove_parents(&directory.path, top));
            if let Err(error) = removed {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

fn not_mounted(setting: &Setting) -> Error {
    let Setting { file, value, .. } = setting;
    Error::new(format!("set {file} to {value}: the controller {} is not mounted", setting.controller()))
}

/// v1: a process of one thread moves itself through `tasks` without the lock that waits for an RCU grace period.
pub fn join(tasks: &[OwnedFd]) -> Result<()> {
    for tasks in tasks {
        nix::unistd::write(tasks, b"0").context(|| "enter a cgroup of the container")?;
    }
    Ok(())
}

/// The first directory on the way from `mount` down `below` that does not exist.
fn first_missing(mount: &Path, below: &Path) -> Result<Option<PathBuf>> {
    let mut path = mount.to_path_buf();
    for component in below.components() {
        path.push(component);
        match nix::unistd::access(&path, AccessFlags::F_OK) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(Some(path)),
            Err(errno) => return Err(Error::from(errno).context(format!("look for cgroup {}", path.display()))),
        }
    }
    Ok(None)
}

/// A cgroup that existed before must be empty and running, or the container would share it with strangers.
fn refuse_if_used(path: &Path) -> Result<()> {
    let mut pids = Vec::new();
    collect_processes(path, &mut pids)?;
    if !pids.is_empty() {
        return Err(Error::new(format!("container's cgroup is not empty: {} process(es) found", pids.len()))
            .hint(path.display()));
    }
    let frozen =
        |file: &str, value: &str| std::fs::read_to_string(path.join(file)).is_ok_and(|state| state.trim() == value);
    if frozen("cgroup.freeze", "1") || frozen("freezer.state", "FROZEN") {
        return Err(Error::new("container's cgroup unexpectedly frozen").hint(path.display()));
    }
    Ok(())
}

/// The pids of `cgroup.procs` in a directory and all below it; one that is gone has none.
fn collect_processes(path: &Path, pids: &mut Vec<Pid>) -> Result<()> {
    let what = || format!("read cgroup {}", path.display());
    let list = match std::fs::read_to_string(path.join("cgroup.procs")) {
        Ok(list) => list,
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
            // A threaded cgroup of v2 lists its processes at the root of its domain only.
            Some(Errno::EOPNOTSUPP) => String::new(),
            _ => return Err(error).context(what),
        },
    };
    pids.extend(list.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw));
    for name in subdirectories(path).context(what)? {
        collect_processes(&path.join(name), pids)?;
    }
    Ok(())
}

fn subdirectories(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(error.into()),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// Removes a cgroup and those below it. A cgroup whose last process has just ended may be busy for a moment.
fn remove_tree(path: &Path, depth: u32) -> Result<()> {
    if depth > 256 {
        return Err(Error::new("more than 256 levels of cgroups"));
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut pause = Duration::from_micros(100);
    loop {
        match rmdir(path) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) if Instant::now() < deadline => {}
            Err(errno) => return Err(Error::from(errno).context("rmdir")),
        }
        for name in subdirectories(path)? {
            remove_tree(&path.join(name), depth + 1)?;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Removes the parents that were made for the container, unless others have come to use them.
fn remove_parents(path: &Path, top: &Path) -> Result<()> {
    for parent in path.ancestors().skip(1).take_while(|parent| parent.starts_with(top)) {
        match rmdir(parent) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EBUSY | Errno::ENOTEMPTY) => return Ok(()),
            Err(errno) => return Err(Error::from(errno).context(format!("remove cgroup {}: rmdir", parent.display()))),
        }
    }
    Ok(())
}

fn rmdir(path: &Path) -> nix::Result<()> {
    nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, path, nix::unistd::UnlinkatFlags::RemoveDir)
}

/// Makes the directories of a path that are missing.
fn make_directory(directory: &mut Directory, of_unit: bool) -> Result<()> {
    let path = directory.path.clone();
    let what = || format!("make cgroup {}", path.display());
    if of_unit && units::manages(&directory.hierarchy) {
        // systemd may have been here already, and does not mind if it has not.
        return std::fs::create_dir_all(&path).context(|| "mkdir").context(what);
    }
    if let Some(top) = &directory.made_from {
        let mut missing: Vec<&Path> = path.ancestors().take_while(|path| path.starts_with(top)).collect();
        missing.reverse();
        for one in missing {
            match nix::unistd::mkdir(one, Mode::from_bits_truncate(0o755)) {
                Ok(()) => {}
                // A parent may be made by several at once; the leaf must be ours alone, and is not ours to remove if
                // somebody else was faster.
                Err(Errno::EEXIST) if one != path => {}
                Err(errno) => {
                    if errno == Errno::EEXIST {
                        directory.made_from = None;
                    }
                    return Err(Error::from(errno).context("mkdir").context(what()));
                }
            }
        }
    }
    Ok(())
}

/// Opens the directory of a cgroup.
fn open_directory(directory: &Directory) -> Result<OwnedFd> {
    files::open(&directory.path, OFlag::O_PATH | OFlag::O_DIRECTORY)
        .context(|| format!("open cgroup {}", directory.path.display()))
}

/// The cgroup of this process in each hierarchy, by its controllers (cgroups(7), /proc/[pid]/cgroup).
fn own_cgroups() -> Result<HashMap<String, String>> {
    cgroups_rs::fs::cgroup::get_cgroups_relative_paths()
        .map_err(|error| Error::new(format!("read /proc/self/cgroup: {error}").to_lowercase()))
}
