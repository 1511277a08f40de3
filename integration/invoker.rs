//! Who calls the runtime, and what that changes in a config.json: an ordinary user's containers have a user namespace and
//! lie below the cgroup that systemd has delegated to him; with `--systemd-cgroup` the path of a cgroup is the name of a unit.
//!
//! The tests write what root would with cgroups as files. [`Invoker::adapt`] turns that into what this caller has to write.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bundle::set;

/// Who calls the runtime, and how.
#[derive(Clone)]
pub struct Invoker {
    /// An ordinary user, if it is one.
    pub user: Option<u32>,
    /// His: what root in his containers is outside, and all other ids.
    mappings: Option<[Value; 2]>,
    /// With `--systemd-cgroup`.
    pub systemd: bool,
    /// What an absolute cgroupsPath is put below: nothing for root, for a user the parent of the own cgroup.
    cgroups: String,
}

impl Invoker {
    /// Looks what an ordinary user has been given; without one it is root.
    pub fn look(systemd: bool, user: Option<u32>) -> Result<Invoker, String> {
        let Some(id) = user else {
            return Ok(Invoker { user, mappings: None, systemd, cgroups: String::new() });
        };
        let uids = mapping(id, "/etc/subuid")?;
        let gids = mapping(id, "/etc/subgid")?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
        let parent = own.rsplit_once('/').map_or("", |(parent, _)| parent);
        Ok(Invoker { user, mappings: Some([uids, gids]), systemd, cgroups: parent.to_owned() })
    }

    /// Whether it is an ordinary user.
    pub fn is_rootless(&self) -> bool {
        self.user.is_some()
    }

    /// What his cgroups are below, without a slash at either end.
    pub fn cgroup_prefix(&self) -> &str {
        self.cgroups.trim_matches('/')
    }

    /// From now on what the harness makes belongs to the user, although it keeps the rights of root, with which it mounts,
    /// makes devices and looks at everything. Its children are root again unless they become the user.
    pub fn make_files_the_users(&self) -> Result<(), String> {
        let Some(id) = self.user else { return Ok(()) };
        nix::unistd::setfsgid(id.into());
        nix::unistd::setfsuid(id.into());
        // The kernel has taken away those that go with being root on file systems.
        let permitted = caps::read(None, caps::CapSet::Permitted).map_err(|error| error.to_string())?;
        caps::set(None, caps::CapSet::Effective, &permitted).map_err(|error| error.to_string())
    }

    /// Where the controllers of this caller's cgroups are, on cgroup v2.
    pub fn cgroup2(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup{}", self.cgroups))
    }

    /// Where the runtime keeps its state: for a user below XDG_RUNTIME_DIR, which is his alone.
    pub fn state(&self) -> Option<PathBuf> {
        let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| self.is_rootless())?;
        Some(PathBuf::from(dir).join(format!("corten-it-{}", std::process::id())))
    }

    /// The config.json of this caller.
    pub fn adapt(&self, config: &Value) -> Value {
        let mut config = config.clone();
        let namespaces = config.pointer("/linux/namespaces").and_then(Value::as_array);
        let has_user = namespaces.is_some_and(|all| all.iter().any(|one| one.get("type") == Some(&json!("user"))));
        if let Some([uids, gids]) = self.mappings.as_ref().filter(|_| !has_user && config.get("linux").is_some()) {
            match joined_userns(&config) {
                // The namespaces of another container can only be joined together with its user namespace.
                Some(path) => set(&mut config, "/linux/namespaces/-", json!({"type": "user", "path": path})),
                None => {
                    set(&mut config, "/linux/namespaces/-", json!({"type": "user"}));
                    set(&mut config, "/linux/uidMappings", uids.clone());
                    set(&mut config, "/linux/gidMappings", gids.clone());
                }
            }
        }
        let path = config.pointer("/linux/cgroupsPath").and_then(Value::as_str).map(str::to_owned);
        if let Some(path) = path.filter(|path| path.starts_with('/')) {
            let adapted = match (self.systemd, path.rsplit('/').next()) {
                // A slice below another.
                (true, Some(name)) => format!("corten-test.slice:ct:{name}"),
                _ => format!("{}{path}", self.cgroups),
            };
            set(&mut config, "/linux/cgroupsPath", json!(adapted));
        }
        config
    }
}

/// The user namespace of the process whose namespaces are joined, unless that is the harness's own.
fn joined_userns(config: &Value) -> Option<String> {
    let namespaces = config.pointer("/linux/namespaces").and_then(Value::as_array)?;
    let path = namespaces.iter().find_map(|one| one.get("path")?.as_str()?.strip_prefix("/proc/"))?;
    let userns = format!("/proc/{}/ns/user", path.split('/').next()?);
    (fs::read_link(&userns).ok()? != fs::read_link("/proc/self/ns/user").ok()?).then_some(userns)
}

/// The user's own id as 0, and the subordinate ids that the machine gives him from 1 on.
fn mapping(own: u32, file: &str) -> Result<Value, String> {
    let user = nix::unistd::User::from_uid(own.into()).ok().flatten().map(|user| user.name);
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let range = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, first, count) =
            (fields.next()?, fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
        (Some(name) == user.as_deref()).then_some((first, count))
    });
    let (first, count) = range.ok_or_else(|| format!("{file} has no ids for the user {}", user.unwrap_or_default()))?;
    Ok(json!([
        {"containerID": 0, "hostID": own, "size": 1},
        {"containerID": 1, "hostID": first, "size": count.min(65_535)},
    ]))
}
