//! config.json -> [`Plan`]: everything that can be decided and refused without the kernel.
//!
//! The plan is plain data. `create` and `exec` act on it and never look at the configuration again, so what is refused
//! is refused before the first side effect, with a message that names the property by its JSON pointer.

use crate::caller::Caller;
use crate::capabilities::{self, CapabilitySets};
use crate::cgroups;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::json;
use crate::log;
use crate::lsm::Labels;
use crate::namespaces::{CLONE_NEWTIME, Namespaces};
use crate::netdev;
use crate::rdt;
use crate::rootfs::Rootfs;
use crate::scheduling::{self, ContainerAttributes, ProcessAttributes};
use crate::sysctl::{self, Sysctl};
use crate::terminal::Size;
use crate::userns::{Mapping, Mappings, to_outside};
use nix::sched::CloneFlags;
use oci_spec::runtime::{Hook, Hooks, Linux, LinuxDevice, LinuxDeviceType, LinuxSeccomp, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Larger files are no configurations.
pub const MAX_CONFIG: usize = 32 << 20;

/// What is going to be done, from a bundle that has been checked.
pub struct Plan {
    /// Absolute path of the bundle, free of symlinks.
    pub bundle: PathBuf,
    /// None: `create` works, `start` does not (runtime.md: start).
    pub process: Option<Process>,
    pub namespaces: Namespaces,
    /// The ids of a user namespace that is made for the container.
    pub ids: Option<Mappings>,
    /// What timens_offsets takes (proc(5)), for a time namespace that is made; empty: nothing.
    pub time_offsets: String,
    pub net_devices: Vec<netdev::Device>,
    pub rootfs: Rootfs,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub sysctls: Vec<Sysctl>,
    pub cgroup: cgroups::Config,
    pub seccomp: Option<LinuxSeccomp>,
    pub attributes: ContainerAttributes,
    pub rdt: Option<rdt::Config>,
    pub hooks: Hooks,
    pub annotations: HashMap<String, String>,
    /// As config.json gives it.
    pub oci_version: String,
    /// The process as config.json gives it, from which exec takes what it is not told.
    pub exec_defaults: Option<oci_spec::runtime::Process>,
}

/// The process of a container, or one that joins it.
#[derive(Debug, Clone)]
pub struct Process {
    pub args: Vec<CString>,
    /// Every name once, the last value of each; HOME is added in the container.
    pub env: Vec<CString>,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: CapabilitySets,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub terminal: bool,
    /// The size that its terminal begins with.
    pub console_size: Option<Size>,
    pub attributes: ProcessAttributes,
    pub labels: Labels,
}

/// One resource limit, its number as getrlimit(2) knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
    pub name: &'static str,
}

/// Reads and checks the bundle's config.json, or the file that the caller names instead.
pub fn load(bundle: &Path, config: Option<&Path>) -> Result<Plan> {
    let bundle = files::canonical_directory(bundle).context(|| format!("chdir {}", bundle.display()))?;
    let file = config.map_or_else(|| bundle.join("config.json"), Path::to_path_buf);
    let bytes = files::read_given(&file, MAX_CONFIG).map_err(|error| match error.errno() {
        Some(nix::errno::Errno::ENOENT) => {
            let name = file.file_name().unwrap_or_default().display().to_string();
            Error::new(format!("JSON specification file {name} not found"))
        }
        _ => error,
    })?;
    let spec = parse(&bytes)?;
    Plan::new(bundle, spec)
}

/// Parses a configuration.
pub fn parse(bytes: &[u8]) -> Result<Spec> {
    let spec: Spec = parse_leniently(bytes, "config.json", "/process")?;
    check_device_numbers(&spec, bytes)?;
    Ok(spec)
}

/// Parses the process of `exec --process`.
pub fn parse_process(bytes: &[u8], file: &str) -> Result<oci_spec::runtime::Process> {
    parse_leniently(bytes, file, "")
}

/// A capability that this version has never heard of is worth a warning, not an error (config.md: capabilities), but to
/// oci-spec it is one, as are some names of the scheduler and a process without a user; so a document that fails is tried
/// once more without these.
fn parse_leniently<T: DeserializeOwned>(bytes: &[u8], name: &str, process: &str) -> Result<T> {
    let failure = match json::parse(bytes, name) {
        Ok(parsed) => return Ok(parsed),
        Err(failure) => failure,
    };
    let mut value = json::parse::<Value>(bytes, name)?;
    let Some(process) = value.pointer_mut(process) else {
        return Err(failure);
    };
    let mended = remove_unknown_capabilities(process.get_mut("capabilities")) | scheduling::mend(process);
    if !(mended | add_user(process)) {
        return Err(failure);
    }
    json::parse(&serde_json::to_vec(&value)?, name)
}

/// The numbers of a device are required unless it is a FIFO (config-linux.md: devices), while oci-spec puts a 0 in for a
/// missing one. A 0 is rare, so it is asked for once more.
fn check_device_numbers(spec: &Spec, bytes: &[u8]) -> Result<()> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let is_odd =
        |device: &LinuxDevice| device.typ() != LinuxDeviceType::P && (device.major() == 0 || device.minor() == 0);
    if !devices.iter().any(is_odd) {
        return Ok(());
    }
    let config = json::parse::<Value>(bytes, "config.json")?;
    for (index, _) in devices.iter().enumerate().filter(|(_, device)| is_odd(device)) {
        for name in ["major", "minor"] {
            if config.pointer(&format!("/linux/devices/{index}/{name}")).is_none() {
                return Err(Error::new(format!("config.json: /linux/devices/{index}/{name}: is required")));
            }
        }
    }
    Ok(())
}

/// The user may be missing, for the schema does not require it; then the process is root's, as with runc. Whether it was.
fn add_user(process: &mut Value) -> bool {
    match process.as_object_mut() {
        Some(process) if !process.contains_key("user") => {
            process.insert("user".to_string(), serde_json::json!({"uid": 0, "gid": 0}));
            true
        }
        _ => false,
    }
}

/// Drops the names that no kernel known to us has, with a warning; whether there were any.
fn remove_unknown_capabilities(sets: Option<&mut Value>) -> bool {
    let mut unknown = BTreeSet::new();
    for (_, set) in sets.and_then(Value::as_object_mut).into_iter().flatten() {
        let Some(names) = set.as_array_mut() else { continue };
        names.retain(|name| match name.as_str().filter(|name| !capabilities::is_known(name)) {
            Some(name) => {
                unknown.insert(name.to_string());
                false
            }
            None => true,
        });
    }
    warn_of_unknown_capabilities(&unknown);
    !unknown.is_empty()
}

/// In runc's words.
pub fn warn_of_unknown_capabilities(names: &BTreeSet<String>) {
    if !names.is_empty() {
        let list = names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        log::warning(&format!("ignoring unknown or unavailable capabilities: [{list}]"));
    }
}

impl Plan {
    /// Checks a configuration as a whole.
    pub fn new(bundle: PathBuf, mut spec: Spec) -> Result<Plan> {
        check_version(spec.version())?;
        check_annotations(spec.annotations().as_ref())?;
        // oci-spec's default for a missing `linux` has opinions; here it means that everything in it is missing.
        let linux = match spec.linux_mut().take() {
            Some(linux) => linux,
            None => serde_json::from_str("{}").context(|| "config.json: /linux")?,
        };
        let namespaces = Namespaces::new(linux.namespaces().as_deref().unwrap_or_default())?;
        let ids = ids(&linux, &namespaces)?;
        let rootfs = Rootfs::new(&bundle, &spec, &linux, &namespaces, ids.as_ref())?;
        let hooks = spec.hooks_mut().take().unwrap_or_default();
        check_hooks(&hooks)?;
        let hostname = spec.hostname().clone().filter(|name| !name.is_empty());
        let domainname = spec.domainname().clone().filter(|name| !name.is_empty());
        for (name, pointer) in [(&hostname, "/hostname"), (&domainname, "/domainname")] {
            if name.is_some() && !namespaces.has(nix::sched::CloneFlags::CLONE_NEWUTS) {
                return Err(Error::new(format!("config.json: {pointer}: needs a private uts namespace")));
            }
            if let Some(name) = name {
                check_text(name, pointer, 64)?;
            }
        }
        let process = match spec.process() {
            Some(process) => Some(Process::new(process, "config.json: /process")?),
            None => None,
        };
        if let (Some(process), Some(ids)) = (&process, &ids) {
            process.check_ids(ids, "config.json: /process")?;
        }
        if let Some(profile) = linux.seccomp() {
            crate::seccomp::check(profile)?;
        }
        Ok(Plan {
            net_devices: netdev::plan(linux.net_devices().as_ref(), &namespaces)?,
            sysctls: sysctl::plan(linux.sysctl().as_ref(), &namespaces, hostname.is_some())?,
            cgroup: cgroups::Config::new(linux.cgroups_path().as_deref(), linux.resources().as_ref())?,
            seccomp: linux.seccomp().clone(),
            attributes: ContainerAttributes::new(&linux)?,
            rdt: linux.intel_rdt().as_ref().map(rdt::Config::new).transpose()?,
            oci_version: spec.version().clone(),
            exec_defaults: spec.process().clone(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            bundle,
            process,
            time_offsets: time_offsets(linux.time_offsets().as_ref(), &namespaces)?,
            namespaces,
            ids,
            rootfs,
            hostname,
            domainname,
            hooks,
        })
    }

    /// Fits the plan to what the runtime may do here.
    pub fn suit(&mut self, caller: &Caller) -> Result<()> {
        let has_userns = self.namespaces.has(CloneFlags::CLONE_NEWUSER);
        if !caller.may_mount && !has_userns {
            return Err(Error::new("this user may only run containers with a user namespace")
                .hint("corten spec --rootless writes a config.json that has one"));
        }
        if !caller.may_mount && !self.net_devices.is_empty() {
            return Err(Error::new("config.json: /linux/netDevices: this user may not move network devices"));
        }
        if (has_userns || caller.is_nested) && !self.rootfs.pivot {
            // Nobody makes device nodes there, and mounts of them would stay in the caller's mount namespace.
            let why = "a private mount namespace is needed in a user namespace";
            return Err(Error::new(format!("config.json: /linux/namespaces: {why}")));
        }
        // Whoever enters a user namespace has every capability there.
        let permitted = if has_userns { u64::MAX } else { caller.permitted };
        if let Some(process) = &mut self.process {
            process.grant_what_is_there(permitted);
        }
        Ok(())
    }

    /// Adds variables, `NAME=VALUE`, to the environment of the process, in place of those of the same name.
    pub fn add_variables(&mut self, variables: &[String]) -> Result<()> {
        let Some(process) = self.process.as_mut().filter(|_| !variables.is_empty()) else {
            return Ok(());
        };
        for variable in variables {
            let name = variable.split_inclusive('=').next().unwrap_or_default().as_bytes();
            process.env.retain(|known| !known.as_bytes().starts_with(name));
            process.env.push(CString::new(variable.as_str())?);
        }
        Ok(())
    }
}

/// The mappings of a user namespace that is to be made; those of an existing one are what they are.
fn ids(linux: &Linux, namespaces: &Namespaces) -> Result<Option<Mappings>> {
    let ids = Mappings::new(linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref(), "/linux")?;
    match (ids, namespaces.creates(CloneFlags::CLONE_NEWUSER)) {
        (None, true) => Err(Error::new("config.json: /linux/uidMappings: is required for a new user namespace")),
        (Some(_), false) if !namespaces.has(CloneFlags::CLONE_NEWUSER) => {
            Err(Error::new("config.json: /linux/uidMappings: needs a user namespace"))
        }
        (ids, true) => Ok(ids),
        (_, false) => Ok(None),
    }
}

fn time_offsets(
    offsets: Option<&HashMap<String, oci_spec::runtime::LinuxTimeOffset>>,
    namespaces: &Namespaces,
) -> Result<String> {
    let mut lines = Vec::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        let bad = |why: &str| Err(Error::new(format!("config.json: /linux/timeOffsets/{clock}: {why}")));
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return bad("is no clock that has an offset (monotonic, boottime)");
        }
        if !namespaces.creates(CLONE_NEWTIME) {
            return bad("needs a new time namespace");
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= 1_000_000_000 {
            return bad("nanosecs must be less than a second");
        }
        lines.push(format!("{clock} {} {nanoseconds}\n", offset.secs().unwrap_or(0)));
    }
    lines.sort();
    Ok(lines.concat())
}

/// ociVersion is SemVer 2.0, and of the 1.x that exist (config.md: specification version).
fn check_version(version: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::new(format!("config.json: /ociVersion: {version:?} {why}")));
    let (core, build) = version.split_once('+').unwrap_or((version, "0"));
    let (core, pre) = core.split_once('-').unwrap_or((core, "0"));
    let identifiers = |text: &str| {
        text.split('.').all(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    };
    let number = |text: &str| match text {
        "0" => Some(0),
        text if !text.starts_with(['0', '+']) => text.parse::<u32>().ok(),
        _ => None,
    };
    let numbers: Vec<Option<u32>> = core.split('.').map(number).collect();
    let [Some(major), Some(minor), Some(_)] = numbers[..] else {
        return bad("is not a version of the form 1.2.3 (semver.org)");
    };
    if !identifiers(pre) || !identifiers(build) {
        return bad("is not a version of the form 1.2.3 (semver.org)");
    }
    if major != 1 || minor > 3 {
        return bad("is not supported: this runtime knows 1.0.0 to 1.3.x");
    }
    Ok(())
}

fn check_annotations(annotations: Option<&HashMap<String, String>>) -> Result<()> {
    match annotations.is_some_and(|annotations| annotations.contains_key("")) {
        true => Err(Error::new("config.json: /annotations: a key must not be empty")),
        false => Ok(()),
    }
}

/// A string that goes to the kernel: no NUL, at most `max` bytes.
fn check_text(text: &str, pointer: &str, max: usize) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::new(format!("config.json: {pointer}: contains a NUL character")));
    }
    if text.len() > max {
        return Err(Error::new(format!("config.json: {pointer}: {} bytes are more than {max}", text.len())));
    }
    Ok(())
}

/// A path that goes to the kernel: no NUL, and no longer than any path can be (limits.h). `whence` begins the message.
pub fn check_path(path: &Path, whence: &str) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.contains(&0) {
        return Err(Error::new(format!("{whence}: contains a NUL character")));
    }
    if bytes.len() >= libc::PATH_MAX as usize {
        return Err(Error::new(format!("{whence}: {} bytes are too many for a path", bytes.len())));
    }
    Ok(())
}

/// The hooks by name, in the order of the life cycle.
#[allow(deprecated, reason = "prestart is deprecated in the specification, and engines still use it")]
pub fn hook_lists(hooks: &Hooks) -> [(&'static str, &[Hook]); 6] {
    [
        ("prestart", hooks.prestart().as_deref().unwrap_or_default()),
        ("createRuntime", hooks.create_runtime().as_deref().unwrap_or_default()),
        ("createContainer", hooks.create_container().as_deref().unwrap_or_default()),
        ("startContainer", hooks.start_container().as_deref().unwrap_or_default()),
        ("poststart", hooks.poststart().as_deref().unwrap_or_default()),
        ("poststop", hooks.poststop().as_deref().unwrap_or_default()),
    ]
}

fn check_hooks(hooks: &Hooks) -> Result<()> {
    for (kind, list) in hook_lists(hooks) {
        for (index, hook) in list.iter().enumerate() {
            let bad =
                |field: &str, why: &str| Err(Error::new(format!("config.json: /hooks/{kind}/{index}/{field}: {why}")));
            if !hook.path().is_absolute() {
                return bad("path", "must be absolute");
            }
            check_path(hook.path(), &format!("config.json: /hooks/{kind}/{index}/path"))?;
            for (name, texts) in [("args", hook.args()), ("env", hook.env())] {
                if let Some(at) = texts.iter().flatten().position(|text| text.contains('\0')) {
                    return bad(&format!("{name}/{at}"), "contains a NUL character");
                }
            }
            if hook.timeout().is_some_and(|timeout| timeout <= 0) {
                return bad("timeout", "must be greater than zero");
            }
        }
    }
    Ok(())
}

impl Process {
    /// Takes out the capabilities that the runtime, which has these, cannot give.
    pub fn grant_what_is_there(&mut self, permitted: u64) {
        self.capabilities = self.capabilities.grantable(permitted);
    }

    /// Every id of the process must be one of its user namespace.
    pub fn check_ids(&self, ids: &Mappings, whence: &str) -> Result<()> {
        let check = |list: &[Mapping], id: u32, field: &str| match to_outside(list, id) {
            Some(_) => Ok(()),
            None => Err(Error::new(format!("{whence}/user/{field}: {id} is not mapped in the user namespace"))),
        };
        check(&ids.uid, self.uid, "uid")?;
        check(&ids.gid, self.gid, "gid")?;
        self.groups.iter().try_for_each(|group| check(&ids.gid, *group, "additionalGids"))
    }

    /// Checks a process; `whence` begins the messages (`config.json: /process`, `process.json: `).
    pub fn new(process: &oci_spec::runtime::Process, whence: &str) -> Result<Process> {
        let bad = |field: &str, why: &str| Error::new(format!("{whence}{field}: {why}"));
        let text = |field: &str, text: &str| CString::new(text).map_err(|_| bad(field, "contains a NUL character"));
        let args = process.args().as_deref().unwrap_or_default();
        if args.is_empty() {
            return Err(bad("/args", "must have at least one entry"));
        }
        let args = args.iter().enumerate().map(|(i, arg)| text(&format!("/args/{i}"), arg)).collect::<Result<_>>()?;
        let cwd = process.cwd().to_str().ok_or_else(|| bad("/cwd", "is not UTF-8"))?;
        if !cwd.starts_with('/') {
            return Err(bad("/cwd", "must be an absolute path"));
        }
        if cwd.len() >= libc::PATH_MAX as usize {
            return Err(bad("/cwd", &format!("{} bytes are too many for a path", cwd.len())));
        }
        let user = process.user();
        let umask = user.umask().unwrap_or(0o022);
        if umask > 0o777 {
            return Err(bad("/user/umask", "must be between 0 and 511 (0777)"));
        }
        let groups = user.additional_gids().clone().unwrap_or_default();
        let ids = [("uid".to_string(), user.uid()), ("gid".to_string(), user.gid())].into_iter();
        let mut ids = ids.chain(groups.iter().enumerate().map(|(at, id)| (format!("additionalGids/{at}"), *id)));
        if let Some((field, id)) = ids.find(|(_, id)| *id == u32::MAX) {
            return Err(bad(&format!("/user/{field}"), &format!("{id} is no user or group id")));
        }
        let oom_score_adj = process.oom_score_adj();
        if oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
            return Err(bad("/oomScoreAdj", "must be between -1000 and 1000"));
        }
        Ok(Process {
            args,
            env: environment(process.env().as_deref().unwrap_or_default(), whence)?,
            cwd: text("/cwd", cwd)?,
            uid: user.uid(),
            gid: user.gid(),
            groups,
            umask,
            // Without the property there are none, not those of the runtime.
            capabilities: process.capabilities().as_ref().map(CapabilitySets::new).unwrap_or_default(),
            rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default(), whence)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj,
            terminal: process.terminal().unwrap_or(false),
            console_size: console_size(process, whence)?,
            attributes: ProcessAttributes::new(process, whence)?,
            labels: Labels::new(process, whence)?,
        })
    }
}

/// Without a terminal the size is ignored (config.md: process).
fn console_size(process: &oci_spec::runtime::Process, whence: &str) -> Result<Option<Size>> {
    let given = process.console_size();
    let Some(given) = given.as_ref().filter(|_| process.terminal() == Some(true)) else {
        return Ok(None);
    };
    let number = |value: u64, field: &str| {
        u16::try_from(value)
            .map_err(|_| Error::new(format!("{whence}/consoleSize/{field}: {value} is more than a terminal can have")))
    };
    let (height, width) = (number(given.height(), "height")?, number(given.width(), "width")?);
    // A terminal of no size is one of unknown size, as without the property.
    Ok((height != 0 || width != 0).then_some(Size { height, width }))
}

/// The environment with each name once and the last value winning; an entry without `=` is refused, for some programs
/// take it from *their* environment (podman CVE-2026-57231).
fn environment(entries: &[String], whence: &str) -> Result<Vec<CString>> {
    let mut last: Vec<&str> = Vec::with_capacity(entries.len());
    let mut positions: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let name = match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() && !entry.contains('\0') => name,
            _ => {
                return Err(Error::new(format!("{whence}/env/{index}: must have the form NAME=VALUE: {entry:?}")));
            }
        };
        match positions.get(name).and_then(|position| last.get_mut(*position)) {
            Some(known) => *known = entry,
            None => {
                positions.insert(name, last.len());
                last.push(entry);
            }
        }
    }
    last.iter().map(|entry| CString::new(*entry).context(|| format!("{whence}/env"))).collect()
}

/// The numbers of asm-generic/resource.h, which every architecture that Rust's Linux targets know uses but MIPS and
/// SPARC; libc has them for all.
fn rlimits(limits: &[oci_spec::runtime::PosixRlimit], whence: &str) -> Result<Vec<Rlimit>> {
    use oci_spec::runtime::PosixRlimitType as Type;
    let mut result: Vec<Rlimit> = Vec::with_capacity(limits.len());
    for (index, limit) in limits.iter().enumerate() {
        let (resource, name) = match limit.typ() {
            Type::RlimitCpu => (libc::RLIMIT_CPU, "RLIMIT_CPU"),
            Type::RlimitFsize => (libc::RLIMIT_FSIZE, "RLIMIT_FSIZE"),
            Type::RlimitData => (libc::RLIMIT_DATA, "RLIMIT_DATA"),
            Type::RlimitStack => (libc::RLIMIT_STACK, "RLIMIT_STACK"),
            Type::RlimitCore => (libc::RLIMIT_CORE, "RLIMIT_CORE"),
            Type::RlimitRss => (libc::RLIMIT_RSS, "RLIMIT_RSS"),
            Type::RlimitNproc => (libc::RLIMIT_NPROC, "RLIMIT_NPROC"),
            Type::RlimitNofile => (libc::RLIMIT_NOFILE, "RLIMIT_NOFILE"),
            Type::RlimitMemlock => (libc::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"),
            Type::RlimitAs => (libc::RLIMIT_AS, "RLIMIT_AS"),
            Type::RlimitLocks => (libc::RLIMIT_LOCKS, "RLIMIT_LOCKS"),
            Type::RlimitSigpending => (libc::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"),
            Type::RlimitMsgqueue => (libc::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"),
            Type::RlimitNice => (libc::RLIMIT_NICE, "RLIMIT_NICE"),
            Type::RlimitRtprio => (libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
            Type::RlimitRttime => (libc::RLIMIT_RTTIME, "RLIMIT_RTTIME"),
        };
        let bad = |why: &str| Error::new(format!("{whence}/rlimits/{index}: {name} {why}"));
        #[allow(clippy::unnecessary_cast, reason = "the constants are i32 with musl and u32 with glibc")]
        let resource = resource as u32;
        if result.iter().any(|known| known.resource == resource) {
            return Err(bad("is given twice"));
        }
        if limit.soft() > limit.hard() {
            return Err(bad("has a soft limit above its hard limit"));
        }
        result.push(Rlimit { resource, soft: limit.soft(), hard: limit.hard(), name });
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(change: impl FnOnce(&mut Value)) -> Result<Plan> {
        let mut config = json!({
            "ociVersion": "1.3.0",
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "/"},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}]},
        });
        change(&mut config);
        Plan::new(PathBuf::from("/"), parse(&serde_json::to_vec(&config).unwrap())?)
    }

    fn refused(change: impl FnOnce(&mut Value), text: &str) {
        let message = match plan(change) {
            Ok(_) => "accepted".to_string(),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(text), "{message} does not contain {text}");
    }

    #[test]
    fn versions_are_semantic_and_known() {
        for good in ["1.0.0", "1.3.0", "1.0.0-rc5", "1.0.2-dev", "1.1.0+dev", "1.3.99"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "1", "1.0", "v1.0.0", "1.0.0.0", "1.4.0", "2.0.0", "01.0.0", "invalid", "1.0.-1", "1.0.0-"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_pointer_of_a_wrong_value_is_named() {
        refused(|c| c["process"]["user"]["uid"] = json!("root"), "/process/user/uid");
        refused(|c| c["process"]["user"]["uid"] = json!(4294967296u64), "/process/user/uid");
        refused(
            |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "hard": 1, "soft": 1}]),
            "/process/rlimits/0",
        );
        refused(|c| c["linux"]["namespaces"][0]["type"] = json!("x"), "/linux/namespaces/0");
    }

    #[test]
    fn what_the_spec_forbids_is_refused() {
        refused(|c| c["process"]["args"] = json!([]), "/process/args");
        refused(|c| c["process"]["cwd"] = json!("tmp"), "/process/cwd");
        refused(|c| c["process"]["env"] = json!(["A"]), "/process/env/0");
        refused(|c| c["annotations"] = json!({"": "x"}), "/annotations");
        let twice = json!({"type": "RLIMIT_CORE", "hard": 1, "soft": 1});
        refused(|c| c["process"]["rlimits"] = json!([twice, twice]), "twice");
        refused(|c| c["hooks"] = json!({"poststop": [{"path": "x"}]}), "/hooks/poststop/0/path");
        refused(|c| c["hooks"] = json!({"poststop": [{"path": "/x", "timeout": 0}]}), "timeout");
        refused(|c| c["linux"]["namespaces"][0]["type"] = json!("user"), "/linux/uidMappings");
        refused(|c| c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}}), "time namespace");
    }

    #[test]
    fn the_numbers_of_a_device_are_required() {
        let device = |value: Value| move |c: &mut Value| c["linux"]["devices"] = json!([value]);
        refused(device(json!({"path": "/dev/x", "type": "c", "minor": 1})), "/linux/devices/0/major: is required");
        refused(device(json!({"path": "/dev/x", "type": "b", "major": 8})), "/linux/devices/0/minor: is required");
        assert!(plan(device(json!({"path": "/dev/x", "type": "b", "major": 8, "minor": 0}))).is_ok());
        assert!(plan(device(json!({"path": "/dev/x", "type": "p"}))).is_ok());
    }

    #[test]
    fn a_path_is_no_longer_than_any_can_be() {
        let long = format!("/{}", "x".repeat(5000));
        refused(|c| c["process"]["cwd"] = json!(long), "/process/cwd: 5001 bytes");
        refused(|c| c["linux"]["cgroupsPath"] = json!(long), "/linux/cgroupsPath: 5001 bytes");
        refused(
            |c| c["hooks"] = json!({"poststop": [{"path": "/x", "env": ["A=b", "C=\0"]}]}),
            "/hooks/poststop/0/env/1: ",
        );
    }

    #[test]
    fn unknown_capabilities_are_dropped() {
        let plan = plan(|c| c["process"]["capabilities"] = json!({"bounding": ["CAP_TEST", "CAP_KILL"]})).unwrap();
        assert_eq!(plan.process.unwrap().capabilities.bounding, 1 << 5);
    }

    #[test]
    fn what_only_oci_spec_takes_amiss_is_read() {
        let scheduler = json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
        assert!(plan(|c| c["process"]["scheduler"] = scheduler).is_ok());
        assert!(plan(|c| c["process"]["execCPUAffinity"] = json!({"initial": "", "final": "0"})).is_ok());
        refused(|c| c["process"]["ioPriority"] = json!({"priority": 1}), "/process/ioPriority: missing field `class`");
        refused(|c| c["process"]["scheduler"] = json!({"policy": "SCHED_RR"}), "/process/scheduler/priority");
    }

    #[test]
    fn the_last_value_of_a_variable_wins() {
        let env = environment(&["A=1".into(), "B=2".into(), "A=3".into()], "").unwrap();
        assert_eq!(env, [c"A=3".to_owned(), c"B=2".to_owned()]);
    }
}
