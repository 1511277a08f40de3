//! systemd as the one who makes the container's cgroups: a scope, or a slice, for each container.
//!
//! A scope needs a process, so the child is cloned where we are and given to systemd by its pid, while it waits for GO.
//! `create` is one StartTransientUnit, `delete` one StopUnit, each with the end of its job; nothing else is asked. What
//! systemd knows as a property it is told (`units.rs`), so that it does not undo the limit at its next reload; everything,
//! that included, is written into the files of the cgroup as without systemd, for some it does not know, and others not
//! exactly. On v1 systemd moves the child in the hierarchies that it manages, and the child enters the others by itself.
//!
//! The name of the unit is on disk before it is made. Whether it then *was* made, `init` in the state directory tells; if
//! that is missing systemd is asked for the unit's description, for the name may be somebody else's.

use super::setting::Setting;
use super::units::{self, Property};
use super::{Cgroups, Directory, Entrance, limits, v1, v2};
use crate::dbus::{Bus, Call, Connection, Message, Refusal, Value};
use crate::error::{Context, Error, Result};
use crate::files;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
/// Where the system's manager has the files of units that were started like ours, as long as it knows them.
const TRANSIENT: &str = "/run/systemd/transient";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const JOB_REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
                           interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// The unit of a container as config.json wants it, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub unit: Unit,
    /// By which we know it again.
    description: String,
    /// From annotations; they win over ours.
    properties: Vec<Property>,
}

/// The unit of a container, as it is recorded before it is made.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    /// The slice that a scope lies in. A slice has its place by its name, and only wants this other one.
    slice: String,
    /// Whether it is a unit of the user's own systemd.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    user: bool,
    /// Whether systemd keeps it when it has failed, which an annotation can say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    keeps_failed: bool,
}

impl Config {
    /// Checks `linux.cgroupsPath`, here `slice:prefix:name`, and the annotations with properties. `user`: whether it is the
    /// user's own systemd that is asked.
    pub fn new(path: Option<&Path>, id: &str, annotations: &HashMap<String, String>, user: bool) -> Result<Config> {
        let (slice, name) = units::place(path, id, user)?;
        let properties = units::of_annotations(annotations)?;
        let collect = properties.iter().find(|property| property.name == "CollectMode");
        let keeps_failed = collect.is_some_and(|property| property.value != units::collect_mode());
        let description = description(id);
        Ok(Config { unit: Unit { name, slice, user, keeps_failed }, description, properties })
    }
}

fn description(id: &str) -> String {
    format!("corten container {id}")
}

impl Unit {
    /// Whether it is a slice, which takes no processes from systemd.
    pub fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Whether it is a unit of the user's own systemd.
    pub fn is_of_user(&self) -> bool {
        self.user
    }

    /// Its cgroup below that of the manager.
    fn path(&self) -> PathBuf {
        match self.is_slice() {
            true => units::slice_path(&self.name),
            false => units::slice_path(&self.slice).join(units::cgroup_name(&self.name)),
        }
    }

    fn bus(&self) -> Bus {
        if self.user { Bus::User } else { Bus::System }
    }
}

/// systemd, connected to.
pub struct Manager {
    connection: Connection,
    user: bool,
}

impl Manager {
    /// Connects to the one that has, or is to have, the unit.
    pub fn connect(unit: &Unit) -> Result<Manager> {
        Ok(Manager { connection: Connection::open(unit.bus(), JOB_REMOVED)?, user: unit.user })
    }

    /// Connects to give it processes, which it knows by their pids. So it must be in our PID namespace; in another, where
    /// our peer has no number that we could see, ours would be the numbers of strangers.
    pub fn connect_with_pids(unit: &Unit) -> Result<Manager> {
        let manager = Manager::connect(unit)?;
        match manager.connection.peer() {
            Some(_) => Ok(manager),
            None => Err(Error::new("systemd is in another PID namespace, and pids are not the same there")),
        }
    }

    /// In the child of a clone, which has nothing to say to systemd.
    pub fn close_inherited(&self) {
        self.connection.close_inherited();
    }

    /// The absolute path of the unit's cgroup in its hierarchies.
    pub fn path(&mut self, unit: &Unit) -> Result<PathBuf> {
        Ok(self.cgroup()?.join(unit.path()))
    }

    /// The cgroup below which the manager has its units. That of a user is the one whose `init.scope` the manager sits in,
    /// and it is the manager who listens on its sockets; only if somebody else does it has to be asked.
    fn cgroup(&mut self) -> Result<PathBuf> {
        if !self.user {
            return Ok(PathBuf::from("/"));
        }
        let own =
            self.connection.peer().and_then(|pid| files::read_text(Path::new(&format!("/proc/{pid}/cgroup"))).ok());
        let own = own.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::")));
        if let Some(path) = own.and_then(|path| path.strip_suffix("/init.scope")) {
            return Ok(Path::new("/").join(path));
        }
        let what = || "ask the user's systemd for its cgroup";
        let path = self.property(OBJECT, MANAGER, "ControlGroup").context(what)?;
        if path.starts_with('/') { Ok(PathBuf::from(path)) } else { Err(Error::new("it has none").context(what())) }
    }

    fn call(&mut self, member: &str, arguments: &[Value]) -> Result<std::result::Result<Message, Refusal>> {
        let call = Call { destination: SYSTEMD, path: OBJECT, interface: MANAGER, member, arguments };
        self.connection.call(&call)
    }

    /// A property that is a text.
    fn property(&mut self, path: &str, interface: &str, name: &str) -> Result<String> {
        let arguments = [Value::text(interface), Value::text(name)];
        let interface = "org.freedesktop.DBus.Properties";
        let call = Call { destination: SYSTEMD, path, interface, member: "Get", arguments: &arguments };
        let answer = self.connection.call(&call)?.map_err(|refusal| Error::new(refusal.text))?;
        answer.texts().into_iter().next().ok_or_else(|| Error::new(format!("{name} is no text")))
    }

    /// Waits for the end of the job that an answer names; its result.
    fn finish(&mut self, answer: &Message) -> Result<String> {
        let job = answer.texts().into_iter().next().ok_or_else(|| Error::new("systemd names no job"))?;
        loop {
            let signal = self.connection.signal()?;
            if signal.member != "JobRemoved" || signal.interface != MANAGER {
                continue;
            }
            if let [removed, _unit, result] = signal.texts().as_slice()
                && *removed == job
            {
                return Ok(result.clone());
            }
        }
    }

    /// Starts a unit that does not exist yet. One that has failed and is only remembered makes room; a property that this
    /// systemd does not know is left out if it is in a file as well.
    fn start(&mut self, unit: &Unit, mut properties: Vec<Property>) -> Result<()> {
        let what = || format!("start the unit {}", unit.name);
        let mut was_reset = false;
        let answer = loop {
            let list = Value::Array("(sv)".to_string(), properties.iter().map(Property::to_value).collect());
            let others = Value::Array("(sa(sv))".to_string(), Vec::new());
            let arguments = [Value::text(&unit.name), Value::text("replace"), list, others];
            let refusal = match self.call("StartTransientUnit", &arguments).context(what)? {
                Ok(answer) => break answer,
                Err(refusal) => refusal,
            };
            if refusal.name.ends_with(".UnitExists") && !was_reset {
                was_reset = true;
                // It is there and has not failed: then the second try says so.
                self.forget_failed(unit)?;
                continue;
            }
            let is_unknown = |property: &Property| property.is_in_file && refusal.text.contains(&property.name);
            match properties.iter().position(is_unknown) {
                Some(index) => drop(properties.remove(index)),
                None => return Err(Error::new(refusal.text).context(what())),
            }
        };
        match self.finish(&answer).context(what)?.as_str() {
            "done" => Ok(()),
            result => Err(Error::new(format!("its job has ended as {result}")).context(what())),
        }
    }

    /// Stops a unit and waits for its end; one that is gone already is what is wanted.
    fn stop(&mut self, unit: &Unit) -> Result<()> {
        let what = || format!("stop the unit {}", unit.name);
        match self.call("StopUnit", &[Value::text(&unit.name), Value::text("replace")]).context(what)? {
            // Whatever the result: if something is left, removing the cgroup says so.
            Ok(answer) => drop(self.finish(&answer).context(what)?),
            Err(refusal) if refusal.name.ends_with(".NoSuchUnit") => return Ok(()),
            Err(refusal) => return Err(Error::new(refusal.text).context(what())),
        }
        // One that has not failed is gone by now.
        if unit.keeps_failed { self.forget_failed(unit) } else { Ok(()) }
    }

    /// Makes systemd forget a unit that has failed, and remove what is left of its cgroup; any other stays.
    fn forget_failed(&mut self, unit: &Unit) -> Result<()> {
        let what = || format!("reset the failed unit {}", unit.name);
        self.call("ResetFailedUnit", &[Value::text(&unit.name)]).context(what).map(drop)
    }
}

/// Before the clone: a slice is started now, for the child is to be born in its cgroup. Of a scope on v2 nothing is there
/// yet; its limits are only checked.
pub fn make(cgroups: &mut Cgroups, unit: &Unit, config: &super::Config, manager: &mut Manager) -> Result<Entrance> {
    let resources = &config.resources;
    match (unit.is_slice(), cgroups.unified) {
        (false, true) => {
            let later = limits::v2(resources)?;
            v2::check_controllers(&later)?;
            Ok(Entrance { into: None, tasks: Vec::new(), later })
        }
        (false, false) => {
            // Forgotten later, it would take the directories that are made now with it.
            if Path::new(TRANSIENT).join(&unit.name).exists() {
                manager.forget_failed(unit)?;
            }
            v1::make(cgroups, resources)
        }
        (true, unified) => {
            let settings = if unified { limits::v2(resources)? } else { limits::v1(resources)? };
            start(cgroups, config, manager, &settings, None)?;
            if unified { v2::make(cgroups, resources) } else { v1::make(cgroups, resources) }
        }
    }
}

/// v2: makes the directory of a scope before systemd does, for somebody who is to be shown it; systemd takes it as it is.
pub fn make_early(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).context(|| format!("make cgroup {}: mkdir", path.display()))
}

/// After the clone: puts the child into its scope; on v2 the scope's cgroup. `settings` are its limits.
pub fn adopt(
    cgroups: &Cgroups,
    config: &super::Config,
    manager: &mut Manager,
    settings: &[Setting],
    pid: Pid,
) -> Result<Option<OwnedFd>> {
    start(cgroups, config, manager, settings, Some(pid))?;
    if cgroups.unified { v2::enter_made(cgroups, settings).map(Some) } else { Ok(None) }
}

fn start(
    cgroups: &Cgroups,
    config: &super::Config,
    manager: &mut Manager,
    settings: &[Setting],
    pid: Option<Pid>,
) -> Result<()> {
    let Some(Config { unit, description, properties }) = &config.unit else {
        return Err(Error::new("there is no unit to start"));
    };
    let mut all = vec![Property::new("Description", Value::text(description))];
    match unit.is_slice() {
        true => all.push(Property::new("Wants", Value::Array("s".to_string(), vec![Value::text(&unit.slice)]))),
        false => {
            all.push(Property::new("Slice", Value::text(&unit.slice)));
            all.push(Property::new("Delegate", Value::Bool(true)));
        }
    }
    if let Some(pid) = pid {
        all.push(Property::new("PIDs", pids(pid)));
    }
    let io = if cgroups.unified { "IOAccounting" } else { "BlockIOAccounting" };
    for name in ["CPUAccounting", io, "MemoryAccounting", "TasksAccounting"] {
        all.push(Property { is_in_file: true, ..Property::new(name, Value::Bool(true)) });
    }
    // Who started the container stops it at shutdown, too. And nobody looks after a unit that has failed.
    all.push(Property::new("DefaultDependencies", Value::Bool(false)));
    all.push(Property::new("CollectMode", units::collect_mode()));
    all.extend(units::of_settings(settings, None));
    all.extend(units::oom_policy(settings));
    if !cgroups.unified {
        all.extend(units::of_devices(&config.resources.devices));
    }
    all.extend(properties.iter().cloned());
    manager.start(unit, units::last_of_each(all))
}

fn pids(pid: Pid) -> Value {
    Value::Array("u".to_string(), vec![Value::U32(pid.as_raw().unsigned_abs())])
}

/// Tells systemd of limits that have been written into the files.
pub fn update(cgroups: &Cgroups, unit: &Unit, settings: &[Setting]) -> Result<()> {
    // What is not given of quota and period stays, and the files know it.
    let mut properties = units::of_settings(settings, bandwidth(cgroups));
    let mut manager = None;
    let exact = exact(cgroups);
    while !properties.is_empty() {
        let manager = match &mut manager {
            Some(manager) => manager,
            none => none.insert(Manager::connect(unit)?),
        };
        let list = Value::Array("(sv)".to_string(), properties.iter().map(Property::to_value).collect());
        let arguments = [Value::text(&unit.name), Value::Bool(true), list];
        let what = || format!("change the unit {}", unit.name);
        let Err(refusal) = manager.call("SetUnitProperties", &arguments).context(what)? else {
            break;
        };
        match properties.iter().position(|property| refusal.text.contains(&property.name)) {
            Some(index) => drop(properties.remove(index)),
            None => return Err(Error::new(refusal.text).context(what())),
        }
    }
    cgroups.write_all(&exact)
}

/// What is in files that systemd, at each change, writes anew and not as it was: it rounds the quota, has no period without
/// one, and no limit of zero processes.
fn exact(cgroups: &Cgroups) -> Vec<Setting> {
    let files: &[(&str, &str)] = match cgroups.unified {
        true => &[("cpu", "cpu.max"), ("pids", "pids.max")],
        false => &[("cpu", "cpu.cfs_period_us"), ("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max")],
    };
    let setting = |(controller, file): &(&str, &str)| {
        let text = cgroups.read((controller, file), file)?;
        Some(Setting::must(*file, text.trim()))
    };
    files.iter().filter_map(setting).collect()
}

/// Quota (negative: none) and period as the kernel has them, in microseconds.
fn bandwidth(cgroups: &Cgroups) -> Option<(i64, u64)> {
    let quota = cgroups.read(("cpu", "cpu.cfs_quota_us"), "cpu.max")?;
    if !cgroups.unified {
        let period = cgroups.read(("cpu", "cpu.cfs_period_us"), "cpu.max")?;
        return Some((quota.trim().parse().ok()?, period.trim().parse().ok()?));
    }
    let (quota, period) = quota.trim().split_once(' ')?;
    Some((if quota == "max" { -1 } else { quota.parse().ok()? }, period.parse().ok()?))
}

/// Lets systemd move a process into the unit, for somebody who may not do it himself; `below` is the path of a cgroup in
/// the unit's own, empty for that.
pub fn attach(unit: &Unit, below: &Path, pid: Pid) -> Result<()> {
    let what = || format!("attach the process to the unit {}", unit.name);
    let mut manager = Manager::connect_with_pids(unit)?;
    let below = if below.as_os_str().is_empty() { String::new() } else { format!("/{}", below.display()) };
    let arguments = [Value::text(&unit.name), Value::text(below), pids(pid)];
    match manager.call("AttachProcessesToUnit", &arguments).context(what)? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Error::new(refusal.text).context(what())),
    }
}

/// Stops the unit.
pub fn stop(unit: &Unit) -> Result<()> {
    Manager::connect(unit)?.stop(unit)
}

/// The cgroups of a container as far as they are its own. Its creator may have been killed before it had started the unit,
/// or been refused because there was one of that name: then the unit, and what systemd made for it, is not ours. Without a
/// cgroup there is no such unit at all.
pub fn own<'a>(cgroups: &'a Cgroups, unit: &Unit, id: &str) -> Result<Cow<'a, Cgroups>> {
    let is_made = |directory: &Directory| units::manages(&directory.hierarchy) && directory.path.exists();
    let mut unknown = None;
    if cgroups.directories.iter().any(is_made) {
        let what = || format!("ask whose the unit {} is", unit.name);
        let path = format!("{OBJECT}/unit/{}", units::label(&unit.name));
        let interface = "org.freedesktop.systemd1.Unit";
        let asked = Manager::connect(unit).and_then(|mut manager| manager.property(&path, interface, "Description"));
        match asked.context(what) {
            Ok(known) if known == description(id) => return Ok(Cow::Borrowed(cgroups)),
            Ok(_) => {}
            Err(error) => unknown = Some(error),
        }
    }
    let mut rest = Cgroups { unit: None, ..cgroups.clone() };
    rest.directories.retain(|directory| {
        let is_ours = !units::manages(&directory.hierarchy);
        if !is_ours
            // Made before the unit, it is empty; and one with processes of others stays.
            && super::rmdir(&directory.path).is_ok()
            && let Some(top) = &directory.made_from
        {
            let _ = super::remove_parents(&directory.path, top);
        }
        is_ours
    });
    // Who cannot be asked does not matter if there is nothing left to ask about.
    if let Some(error) = unknown.filter(|_| cgroups.directories.iter().any(is_made)) {
        return Err(error);
    }
    Ok(Cow::Owned(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Unit {
        Config::new(Some(Path::new(path)), "id", &HashMap::new(), false).unwrap().unit
    }

    #[test]
    fn a_scope_lies_in_its_slice_and_a_slice_where_its_name_says() {
        for (path, cgroup) in [
            ("machine.slice:libpod:x", "machine.slice/libpod-x.scope"),
            ("a-b.slice:p:n", "a.slice/a-b.slice/p-n.scope"),
            ("-.slice:p:n", "p-n.scope"),
            ("::n", "system.slice/-n.scope"),
            ("system.slice::a-b.slice", "a.slice/a-b.slice"),
        ] {
            assert_eq!(unit(path).path(), Path::new(cgroup), "{path}");
        }
    }

    #[test]
    fn a_unit_is_recorded_in_few_words() {
        let unit = unit("a.slice:p:n");
        let json = serde_json::to_string(&unit).unwrap();
        assert_eq!(json, r#"{"name":"p-n.scope","slice":"a.slice"}"#);
        assert_eq!(serde_json::from_str::<Unit>(&json).unwrap(), unit);
    }

    #[test]
    fn a_failed_unit_is_kept_only_if_an_annotation_says_so() {
        let keeps = |mode: &str| {
            let annotation = ("org.systemd.property.CollectMode".to_string(), mode.to_string());
            Config::new(None, "id", &HashMap::from([annotation]), true).unwrap().unit.keeps_failed
        };
        assert!(keeps("'inactive'"));
        assert!(!keeps("'inactive-or-failed'"));
    }
}
