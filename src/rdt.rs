//! `linux.intelRdt`: a share of the caches and of the memory bandwidth, and its measurement, by way of resctrl
//! (config-linux.md: IntelRdt; resctrl.rst of the kernel).
//!
//! A directory of resctrl is a class of service (CLOS), one in its `mon_groups` a group that is measured. Which of them
//! are made for the container goes into its record before they are made (rule R18). The parent writes the pids, of init
//! and of exec alike, for the container has nothing to do with this file system.

use crate::error::{Context, Error, Result};
use crate::files;
use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};
use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where resctrl is mounted; nobody puts it elsewhere.
const RESCTRL: &str = "/sys/fs/resctrl";

/// The names in the root of resctrl that are not classes of service.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

/// `linux.intelRdt`.
#[derive(Debug, Clone)]
pub struct Config {
    /// None: named after the container. `/`: the default class.
    clos_id: Option<String>,
    l3_cache_schema: Option<String>,
    mem_bw_schema: Option<String>,
    schemata: Vec<String>,
    monitoring: bool,
}

/// What a container uses of resctrl.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The directory of the class of service.
    clos: PathBuf,
    /// Whether it is made for this container.
    made: bool,
    /// Whether the configuration names it, so that it outlives the container.
    named: bool,
    /// The container's group in its `mon_groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monitor: Option<PathBuf>,
}

impl Config {
    /// Checks names and schemata.
    pub fn new(rdt: &LinuxIntelRdt) -> Result<Config> {
        let bad = |field: &str, why: &str| Error::new(format!("config.json: /linux/intelRdt/{field}: {why}"));
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let config = Config {
            clos_id: given(rdt.clos_id()),
            l3_cache_schema: given(rdt.l3_cache_schema()),
            mem_bw_schema: given(rdt.mem_bw_schema()),
            schemata: rdt.schemata().clone().unwrap_or_default(),
            monitoring: rdt.enable_monitoring().unwrap_or(false),
        };
        if let Some(id) = config.clos_id.as_deref().filter(|id| *id != "/" && !is_name(id)) {
            return Err(bad("closID", &format!("{id:?} cannot be the name of a class of service")));
        }
        if config.l3_cache_schema.as_ref().is_some_and(|schema| schema.contains('\0')) {
            return Err(bad("l3CacheSchema", "contains a NUL character"));
        }
        if config.mem_bw_schema.as_ref().is_some_and(|schema| !schema.starts_with("MB:") || !is_line(schema)) {
            return Err(bad("memBwSchema", "must be one line that begins with MB:"));
        }
        match config.schemata.iter().position(|line| !is_line(line)) {
            Some(index) => Err(bad(&format!("schemata/{index}"), "must be one line")),
            None => Ok(config),
        }
    }

    /// Decides which directories the container `id` uses and which of them have to be made. Nothing is changed.
    pub fn locate(&self, id: &str) -> Result<Group> {
        let fault = |field: &str, why: &str| Error::new(format!("config.json: /linux/intelRdt{field}: {why}"));
        if !Path::new(RESCTRL).join("info").is_dir() {
            return Err(fault("", &format!("no resctrl file system is mounted at {RESCTRL}")));
        }
        let clos = match self.clos_id.as_deref() {
            Some("/") => PathBuf::from(RESCTRL),
            Some(name) => Path::new(RESCTRL).join(name),
            None if is_name(id) => Path::new(RESCTRL).join(id),
            None => return Err(fault("", &format!("{id:?} cannot be the name of a class of service"))),
        };
        let made = !clos.is_dir();
        let changes = [&self.l3_cache_schema, &self.mem_bw_schema];
        if !made && changes.iter().any(|schema| schema.is_some()) {
            let file = clos.join("schemata");
            let found = files::read_text(&file)?;
            for (schema, field) in changes.into_iter().zip(["/l3CacheSchema", "/memBwSchema"]) {
                if let Some(schema) = schema.as_ref().filter(|schema| !is_in_force(schema, &found)) {
                    let why = format!("{schema:?} is not what {} has already: {:?}", file.display(), found.trim());
                    return Err(fault(field, &why));
                }
            }
        }
        if made && self.clos_id.is_some() && !self.changes_schemata() {
            let why = format!("{} does not exist, and no schema is given to make it with", clos.display());
            return Err(fault("/closID", &why));
        }
        let monitor = self.monitoring.then(|| clos.join("mon_groups").join(id));
        if let Some(monitor) = monitor.as_ref().filter(|monitor| monitor.exists()) {
            return Err(fault("/enableMonitoring", &format!("{} exists already", monitor.display())));
        }
        Ok(Group { clos, made, named: self.clos_id.is_some(), monitor })
    }

    fn changes_schemata(&self) -> bool {
        self.l3_cache_schema.is_some() || self.mem_bw_schema.is_some() || !self.schemata.is_empty()
    }
}

/// Whether it is a name that resctrl has not taken itself.
fn is_name(name: &str) -> bool {
    !RESERVED.contains(&name) && !name.starts_with('.') && !name.contains(['/', '\0', '\n']) && name.len() <= 255
}

fn is_line(text: &str) -> bool {
    !text.contains(['\n', '\0'])
}

/// Whether every value of a schema is the one that a `schemata` file shows, which may have more of them, and pads them
/// with spaces and zeros: `L3:0=f` is in force where the file has `    L3:0=000f;1=7ff`.
fn is_in_force(schema: &str, file: &str) -> bool {
    let mut lines = schema.lines().filter(|line| !line.trim().is_empty());
    lines.all(|line| {
        let Some((resource, wanted)) = line.split_once(':') else {
            return false;
        };
        let current = file.lines().filter_map(|line| line.split_once(':'));
        let current = current.filter(|(name, _)| name.trim() == resource.trim()).map(|(_, values)| values);
        let current: Vec<(&str, &str)> = current.flat_map(values).collect();
        values(wanted).all(|(domain, value)| {
            current.iter().any(|(known, current)| *known == domain && current.eq_ignore_ascii_case(value))
        })
    })
}

/// `0=00f;1=7ff`: pairs of a domain and its value, without what pads them.
fn values(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(';').filter(|pair| !pair.trim().is_empty()).map(|pair| {
        let (domain, value) = pair.split_once('=').unwrap_or((pair, "none"));
        (domain.trim(), value.trim().trim_start_matches("0x").trim_start_matches('0'))
    })
}

impl Group {
    /// Makes the directories and writes the schemata, in the order that the specification asks for. What turns out to be
    /// another's after all is struck from the record, so that undoing this leaves it alone.
    pub fn make(&mut self, config: &Config) -> Result<()> {
        if self.made {
            make_directory(&self.clos).inspect_err(|error| self.made = error.errno() != Some(Errno::EEXIST))?;
        }
        for schema in config.l3_cache_schema.iter().chain(&config.mem_bw_schema) {
            self.write_schemata(schema)?;
        }
        if !config.schemata.is_empty() {
            self.write_schemata(&config.schemata.join("\n"))?;
        }
        if let Some(monitor) = &self.monitor {
            let made = make_directory(monitor);
            if made.as_ref().is_err_and(|error| error.errno() == Some(Errno::EEXIST)) {
                self.monitor = None;
            }
            made?;
        }
        Ok(())
    }

    /// `update`: changes the schemata of the container's class of service, all of them or none. What they were comes
    /// back, for [`Group::restore`].
    pub fn update(&self, schemata: &[&str]) -> Result<String> {
        let former = files::read_text(&self.clos.join("schemata"))?;
        for schema in schemata {
            if let Err(error) = self.write_schemata(schema) {
                return Err(match self.restore(&former) {
                    Ok(()) => error,
                    Err(left) => error.hint(format!("and undoing it failed: {left}")),
                });
            }
        }
        Ok(former)
    }

    /// Brings back what [`Group::update`] has changed.
    pub fn restore(&self, former: &str) -> Result<()> {
        let lines: Vec<&str> = former.lines().map(str::trim).collect();
        self.write_schemata(&lines.join("\n"))
    }

    fn write_schemata(&self, lines: &str) -> Result<()> {
        files::write_value(&self.clos.join("schemata"), &format!("{lines}\n")).map_err(explain)
    }

    /// Puts a process in, and so its descendants.
    pub fn assign(&self, pid: Pid) -> Result<()> {
        for directory in std::iter::once(&self.clos).chain(&self.monitor) {
            files::write_value(&directory.join("tasks"), &pid.to_string()).map_err(explain)?;
        }
        Ok(())
    }

    /// Removes what goes with the container: its group of measurement, and a class of service that was made for it
    /// without being named.
    pub fn remove(&self) -> Result<()> {
        if let Some(monitor) = &self.monitor {
            remove_directory(monitor)?;
        }
        match self.made && !self.named {
            true => remove_directory(&self.clos),
            false => Ok(()),
        }
    }

    /// What is left to remove after a creation that failed: a class that was made and named, unless another container has
    /// come to use it.
    pub fn undo(&self) -> Result<()> {
        let is_idle = || files::read_text(&self.clos.join("tasks")).is_ok_and(|tasks| tasks.trim().is_empty());
        match self.made && self.named && is_idle() {
            true => remove_directory(&self.clos),
            false => Ok(()),
        }
    }
}

/// Whether the processor's share of a resource can be limited here: `L3` (CAT), `MB` (MBA).
pub fn is_enabled(resource: &str) -> bool {
    let schemata = files::read_text(&Path::new(RESCTRL).join("schemata")).unwrap_or_default();
    schemata.lines().any(|line| line.trim_start().starts_with(resource))
}

fn make_directory(path: &Path) -> Result<()> {
    let made = nix::unistd::mkdir(path, Mode::from_bits_truncate(0o755));
    made.context(|| format!("make {}: mkdir", path.display())).map_err(explain)
}

fn remove_directory(path: &Path) -> Result<()> {
    match unlinkat(nix::fcntl::AT_FDCWD, path, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::from(errno).context(format!("remove {}: rmdir", path.display()))),
    }
}

/// resctrl says why it refused the last command.
fn explain(error: Error) -> Error {
    match files::read_text(&Path::new(RESCTRL).join("info/last_cmd_status")).map(|text| text.trim().to_string()) {
        Ok(status) if !status.is_empty() && status != "ok" => error.hint(format!("resctrl: {status}")),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<Config> {
        Config::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn names_and_schemata_are_checked() {
        for (bad, field) in [
            (r#"{"closID": ".."}"#, "closID"),
            (r#"{"closID": "a/b"}"#, "closID"),
            (r#"{"closID": "mon_groups"}"#, "closID"),
            (r#"{"closID": "info"}"#, "closID"),
            (r#"{"memBwSchema": "L3:0=f"}"#, "memBwSchema"),
            (r#"{"memBwSchema": "MB:0=1\nMB:1=2"}"#, "memBwSchema"),
            (r#"{"schemata": ["L3:0=f", "L2:0=f\n"]}"#, "schemata/1"),
        ] {
            let message = config(bad).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.starts_with(&format!("config.json: /linux/intelRdt/{field}: ")), "{bad}: {message}");
        }
        assert!(config(r#"{"closID": "/", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=10"}"#).is_ok());
    }

    #[test]
    fn schemata_are_compared_by_what_they_mean() {
        let file = "    MB:0=100;1= 20\n    L3:0=007f;1=fff\nL2:0=f\n";
        for same in ["L3:0=7f", "L3:0=7f;1=fff", "L3:1=0xFFF", "MB:1=20;0=100", "MB:0=100;", "L3:0=7f\nMB:1=20\n"] {
            assert!(is_in_force(same, file), "{same}");
        }
        for other in ["L3:0=f7", "L3:2=f", "MB:0=10", "L4:0=7f", "L3:0=7f;1=ff0", "L3CODE:0=7f", "L3", "L3:0"] {
            assert!(!is_in_force(other, file), "{other}");
        }
    }
}
