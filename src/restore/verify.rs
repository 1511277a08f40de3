//! What CRIU has made, compared with the configuration, before anything of it runs.
//!
//! An image says with which rights a process runs, in which namespaces it is and what is mounted there, and who can write
//! images could have written anything. So whatever goes beyond config.json is a reason to refuse (rule R29).

use crate::error::{Context, Error, Result};
use crate::files;
use crate::namespaces::{self, Existing};
use crate::plan::{Plan, Process};
use crate::rootfs::external::is_null;
use crate::rootfs::mountinfo::{self, Mounted};
use crate::rootfs::mounts::Source;
use crate::rootfs::path;
use crate::sys::{self, mount_flags::MOUNT_ATTR_RDONLY};
use crate::userns::{self, Mapping};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::{fstat, stat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// File systems that CRIU makes anew, and that show nothing of the host but what every container may see.
const OWN: [&str; 5] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"];

/// What takes something away from who uses a mount.
const RESTRICTIONS: [&str; 5] = ["ro", "nosuid", "nodev", "noexec", "nosymfollow"];

fn what() -> &'static str {
    "the checkpoint does not fit the configuration"
}

/// What the container sees: its namespaces, its ids, and its mounts. `pieces` are the mounts of the host that CRIU was given.
pub fn surroundings(init: Pid, plan: &Plan, existing: &[Existing], pieces: &[Mounted]) -> Result<()> {
    namespaces_fit(init, plan, existing).context(what)?;
    match plan.rootfs.pivot {
        true => mounts_fit(init, plan, pieces).context(what),
        false => Ok(()),
    }
}

/// The rights of its processes, which are among these. CRIU gives them last, and lets nobody refuse any more; so on an error
/// they are killed, before they have done anything.
pub fn rights(init: Pid, plan: &Plan, processes: &[Pid]) -> Result<()> {
    let Some(process) = &plan.process else { return Ok(()) };
    let own = of_container(init, processes)?;
    let fit = |pid: &Pid| rights_fit(*pid, init, process, plan.seccomp.is_some()).context(|| format!("process {pid}"));
    let checked = own.iter().try_for_each(fit).context(what);
    if checked.is_err() {
        own.iter().for_each(|pid| sys::kill(*pid, libc::SIGKILL));
    }
    checked
}

fn namespaces_fit(init: Pid, plan: &Plan, existing: &[Existing]) -> Result<()> {
    let kinds = [
        CloneFlags::CLONE_NEWNS,
        CloneFlags::CLONE_NEWPID,
        CloneFlags::CLONE_NEWNET,
        CloneFlags::CLONE_NEWIPC,
        CloneFlags::CLONE_NEWUTS,
        CloneFlags::CLONE_NEWCGROUP,
        CloneFlags::CLONE_NEWUSER,
    ];
    for kind in kinds {
        let name = namespaces::name(kind);
        let shared = namespaces::is_shared(init, kind)?;
        if let Some(joined) = existing.iter().find(|namespace| namespace.kind == kind) {
            let there = stat(namespaces::path_of(init, kind).as_str()).context(|| "stat")?;
            if there.st_ino != fstat(&joined.fd).context(|| "fstat")?.st_ino {
                return Err(Error::new(format!("its {name} namespace is not {}", joined.path.display())));
            }
        } else if shared == plan.namespaces.has(kind) {
            let word = if shared { "no" } else { "a" };
            return Err(Error::new(format!("it has {word} {name} namespace of its own")));
        }
    }
    if let Some(ids) = &plan.ids {
        for (file, wanted) in [("uid_map", &ids.uid), ("gid_map", &ids.gid)] {
            let sorted = |list: &[Mapping]| {
                let mut list = list.to_vec();
                list.sort();
                list
            };
            if sorted(&userns::read(init, file)?) != sorted(wanted) {
                return Err(Error::new(format!("its {file} is another one")));
            }
        }
    }
    Ok(())
}

/// Of these processes init and what descends from it; CRIU and its helpers are in the cgroup, too.
fn of_container(init: Pid, processes: &[Pid]) -> Result<Vec<Pid>> {
    let mut parents = BTreeMap::new();
    for pid in processes {
        if let Some(parent) = status(*pid)?.get("PPid").and_then(|text| text.parse().ok()) {
            parents.insert(*pid, Pid::from_raw(parent));
        }
    }
    let descends = |pid: &Pid| {
        // A chain cannot be longer than there are processes.
        let mut chain = std::iter::successors(Some(*pid), |pid| parents.get(pid).copied()).take(parents.len() + 1);
        chain.any(|pid| pid == init)
    };
    let mut found: Vec<Pid> = parents.keys().copied().filter(descends).collect();
    if !found.contains(&init) {
        found.push(init);
    }
    Ok(found)
}

/// /proc/PID/status as names and values (proc_pid_status(5)).
fn status(pid: Pid) -> Result<BTreeMap<String, String>> {
    let text = files::read_text(Path::new(&format!("/proc/{pid}/status")))?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_string(), value.trim().to_string())).collect())
}

fn rights_fit(pid: Pid, init: Pid, process: &Process, filtered: bool) -> Result<()> {
    let status = status(pid)?;
    let value = |name: &str| status.get(name).map(String::as_str).unwrap_or_default();
    let user = |pid| stat(namespaces::path_of(pid, CloneFlags::CLONE_NEWUSER).as_str()).map(|stat| stat.st_ino);
    // Capabilities in a namespace that the container has made itself are worth nothing outside of it.
    if user(pid).context(|| "stat")? == user(init).context(|| "stat")? {
        let sets = &process.capabilities;
        let allowed = sets.bounding | sets.permitted | sets.inheritable | sets.ambient;
        for name in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
            let set = u64::from_str_radix(value(name), 16).map_err(|_| Error::new(format!("{name} cannot be read")))?;
            if set & !allowed != 0 {
                return Err(Error::new(format!(
                    "it has the capabilities {:#x}, which config.json does not give",
                    set & !allowed
                ))
                .hint(name));
            }
        }
    }
    if process.no_new_privileges && value("NoNewPrivs") != "1" {
        return Err(Error::new("config.json: /process/noNewPrivileges: the process has not lost that right"));
    }
    if filtered && value("Seccomp") != "2" {
        return Err(Error::new("config.json: /linux/seccomp: the process has no filter"));
    }
    Ok(())
}

fn mounts_fit(init: Pid, plan: &Plan, pieces: &[Mounted]) -> Result<()> {
    let rootfs = &plan.rootfs;
    let path = format!("/proc/{init}/root");
    let root = files::open(Path::new(&path), OFlag::O_PATH | OFlag::O_DIRECTORY).context(|| format!("open {path}"))?;
    let (there, wanted) = (fstat(&root).context(|| "fstat")?, stat(&rootfs.path).context(|| "stat the rootfs")?);
    if (there.st_dev, there.st_ino) != (wanted.st_dev, wanted.st_ino) {
        return Err(Error::new(format!("its root is not {}", rootfs.path.display())));
    }
    let mounts = mountinfo::read(&init.to_string())?;
    let at_root = mounts.iter().find(|mount| mount.place == Path::new("/"));
    let at_root = at_root.ok_or_else(|| Error::new("it has no root"))?;
    for mount in mounts.iter().filter(|mount| mount.place != Path::new("/")) {
        mount_fits(mount, at_root, plan, pieces).context(|| format!("the mount at {}", mount.place.display()))?;
    }
    if rootfs.readonly && !at_root.has("ro") {
        return Err(Error::new("config.json: /root/readonly: the root is not"));
    }
    for mount in rootfs.mounts.iter().filter(|mount| !mount.is_bind()) {
        let read_only = mount.options.attr.set & MOUNT_ATTR_RDONLY != 0;
        if read_only && is_read_only(root.as_fd(), &mount.destination)? == Some(false) {
            return Err(Error::new(format!("{} can be written to", mount.destination.display())));
        }
    }
    for path in &rootfs.read_only {
        if is_read_only(root.as_fd(), path)? == Some(false) {
            return Err(Error::new(format!("{} can be written to", path.display())).hint("linux.readonlyPaths"));
        }
    }
    for path in &rootfs.masked {
        if let Some(found) = open(root.as_fd(), path)? {
            let hidden = match path::kind_of(found.as_fd())? {
                path::Kind::Directory => flags(found.as_fd())?.contains(FsFlags::ST_RDONLY),
                path::Kind::File => is_null(&fstat(&found).context(|| "fstat")?),
            };
            if !hidden {
                return Err(Error::new(format!("{} is not hidden", path.display())).hint("linux.maskedPaths"));
            }
        }
    }
    Ok(())
}

/// A mount has to be one of the configuration: a part of the host that it shows, with what that may not be used for, a part
/// of the rootfs, or a file system of the container's own.
fn mount_fits(mount: &Mounted, at_root: &Mounted, plan: &Plan, pieces: &[Mounted]) -> Result<()> {
    let shows = |piece: &&Mounted| piece.device == mount.device && mount.root.starts_with(&piece.root);
    let restricted = |piece: &Mounted| RESTRICTIONS.iter().all(|option| !piece.has(option) || mount.has(option));
    let mut shown = pieces.iter().filter(shows).peekable();
    if shown.peek().is_some() {
        return match shown.any(restricted) {
            true => Ok(()),
            false => Err(Error::new(format!("it has more rights than config.json gives it: {}", mount.options))),
        };
    }
    if mount.device == at_root.device && mount.root.starts_with(&at_root.root) {
        return Ok(());
    }
    let of_config = |given: &crate::rootfs::mounts::Mount| match &given.source {
        Source::FileSystem { fstype, .. } => fstype.to_bytes() == mount.fstype.as_bytes(),
        Source::Cgroup => mount.fstype == "cgroup2",
        _ => false,
    };
    match OWN.contains(&mount.fstype.as_str()) || plan.rootfs.mounts.iter().any(of_config) {
        true => Ok(()),
        false => Err(Error::new(format!("config.json has no such mount of the type {}", mount.fstype))),
    }
}

/// Whether what is at a path cannot be written to; None if there is nothing.
fn is_read_only(root: BorrowedFd<'_>, path: &Path) -> Result<Option<bool>> {
    let found = open(root, path)?;
    found.map(|found| flags(found.as_fd()).map(|flags| flags.contains(FsFlags::ST_RDONLY))).transpose()
}

fn flags(fd: BorrowedFd<'_>) -> Result<FsFlags> {
    Ok(fstatvfs(fd).context(|| "fstatvfs")?.flags())
}

fn open(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match path::open_in_root(root, path, OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("open {} in the container", path.display())),
    }
}
