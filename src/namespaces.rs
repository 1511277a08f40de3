//! Namespaces: which to create, which to join, and by whom.
//!
//! | namespace       | created                      | joined                                              |
//! |-----------------|------------------------------|-----------------------------------------------------|
//! | user            | by clone3; beside an existing pid or cgroup namespace by the child's unshare | by the child's setns, after all that only the runtime may join |
//! | mount, pid, uts | by clone3                    | by the child's setns; pid see below                 |
//! | ipc             | by clone3; with a new user namespace by the child's unshare, for it is to belong to root in there | by the child's setns |
//! | network         | by the child's unshare: it costs most, and the parent has work of its own meanwhile | by the child's setns |
//! | cgroup          | by the child's unshare, once it is in its cgroup: the namespace's root is the cgroup of that moment | by the child's setns |
//! | time            | by the child's unshare; the parent writes the offsets before anybody is in it | by the child's setns |
//!
//! Every namespace that is made is to belong to the container's user namespace, if it has one. So what needs more rights
//! than that gives is joined before it is entered: by the child if it joins one, by the parent around the clone if the
//! clone makes one ([`Visit`]). And if an existing user namespace is joined, clone3 comes too early for the others:
//! `Init::make_owned_namespaces` makes them, with one more clone if a PID namespace is among them.
//!
//! An existing PID namespace is joined only after pivot_root, by one more clone, for a process that is visible in it must
//! hold nothing of the host (rule R11): `init::enter_pid_namespace`. Its procfs is made without being in it
//! (`FileSystem::mount_of`).

use crate::error::{Context, Error, Result};
use crate::files;
use crate::plan;
use crate::sync::{self, Message, Socket};
use crate::sys::{self, Cloned};
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, chroot, fchdir};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// CLONE_NEWTIME of linux/sched.h; nix does not know it.
pub const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// The namespaces of a configuration.
#[derive(Debug, Clone)]
pub struct Namespaces {
    create: CloneFlags,
    join: Vec<(CloneFlags, PathBuf)>,
}

/// An existing namespace, opened and known to be of its kind.
pub struct Existing {
    pub kind: CloneFlags,
    pub path: PathBuf,
    pub fd: OwnedFd,
}

/// The name of a namespace in config.json.
pub fn name(kind: CloneFlags) -> &'static str {
    match kind {
        CloneFlags::CLONE_NEWNS => "mount",
        CloneFlags::CLONE_NEWPID => "pid",
        CloneFlags::CLONE_NEWNET => "network",
        CloneFlags::CLONE_NEWIPC => "ipc",
        CloneFlags::CLONE_NEWUTS => "uts",
        CloneFlags::CLONE_NEWUSER => "user",
        CloneFlags::CLONE_NEWCGROUP => "cgroup",
        _ => "time",
    }
}

impl Namespaces {
    /// Checks the list: every type once, paths absolute.
    pub fn new(list: &[LinuxNamespace]) -> Result<Namespaces> {
        let mut namespaces = Namespaces { create: CloneFlags::empty(), join: Vec::new() };
        for (index, namespace) in list.iter().enumerate() {
            let bad = |why: &str| Err(Error::new(format!("config.json: /linux/namespaces/{index}: {why}")));
            let kind = match namespace.typ() {
                LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
                LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
                LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
                LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
                LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
                LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
                LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
                LinuxNamespaceType::Time => CLONE_NEWTIME,
            };
            if namespaces.has(kind) {
                return bad(&format!("the {} namespace is given twice", name(kind)));
            }
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) if !path.is_absolute() => return bad("path must be absolute"),
                Some(path) => {
                    plan::check_path(path, &format!("config.json: /linux/namespaces/{index}/path"))?;
                    namespaces.join.push((kind, path.clone()));
                }
                None => namespaces.create |= kind,
            }
        }
        Ok(namespaces)
    }

    /// Whether the container is in another namespace of this kind than the runtime (or in one given by path).
    pub fn has(&self, kind: CloneFlags) -> bool {
        self.create.contains(kind) || self.joins(kind)
    }

    /// Whether a namespace of this kind is made for the container.
    pub fn creates(&self, kind: CloneFlags) -> bool {
        self.create.contains(kind)
    }

    /// Whether a namespace of this kind is joined by path.
    pub fn joins(&self, kind: CloneFlags) -> bool {
        self.join.iter().any(|(joined, _)| *joined == kind)
    }

    /// What is made together with the process; by the first clone3, unless an existing user namespace comes before.
    pub fn clone_flags(&self) -> CloneFlags {
        let mut flags =
            CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS;
        if !self.has(CloneFlags::CLONE_NEWUSER) {
            flags |= CloneFlags::CLONE_NEWIPC;
        }
        self.create & flags
    }

    /// What the child unshares at once, beside the parent's work.
    pub fn unshare_flags(&self) -> CloneFlags {
        self.create & (CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC) & !self.clone_flags()
    }

    /// Whether the child makes its user namespace by itself. Born in one, it could not join an existing PID or cgroup
    /// namespace any more. The parent could do it around the clone, but then the child would be seen in the PID namespace at
    /// once, and from another cgroup namespace nobody is cloned into a cgroup outside (nsdelegate, cgroups(7)).
    pub fn unshares_user(&self) -> bool {
        let joins = self.joins(CloneFlags::CLONE_NEWPID) || self.joins(CloneFlags::CLONE_NEWCGROUP);
        self.creates(CloneFlags::CLONE_NEWUSER) && joins
    }

    /// Whether init will be another process than the parent's child: there is one more clone.
    pub fn hands_over(&self) -> bool {
        self.hands_over_early() || self.joins(CloneFlags::CLONE_NEWPID)
    }

    /// The same, before anything is mounted.
    pub fn hands_over_early(&self) -> bool {
        let is_later = self.joins(CloneFlags::CLONE_NEWUSER) || self.unshares_user();
        is_later && self.creates(CloneFlags::CLONE_NEWPID)
    }

    /// Opens the namespaces to join; one of the wrong kind is refused here, before any side effect.
    pub fn open(&self) -> Result<Vec<Existing>> {
        let mut opened = Vec::with_capacity(self.join.len());
        for (kind, path) in &self.join {
            let what = || format!("join the {} namespace {}", name(*kind), path.display());
            // O_NONBLOCK: the path may be a FIFO, and we must not wait for its writer.
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
            let fd = files::open(path, flags).context(|| "open").context(what)?;
            match sys::namespace_type(fd.as_fd()) {
                Ok(found) if found == *kind => opened.push(Existing { kind: *kind, path: path.clone(), fd }),
                Ok(found) => {
                    return Err(Error::with_errno(format!("it is a {} namespace", name(found)), nix::Error::EINVAL)
                        .context(what()));
                }
                Err(_) => return Err(Error::with_errno("it is no namespace", nix::Error::EINVAL).context(what())),
            }
        }
        Ok(opened)
    }
}

impl Existing {
    /// Whether it is the one that this process is in.
    pub fn is_own(&self) -> Result<bool> {
        self.is_at(&path_of("self", self.kind))
    }

    /// Whether it is the one that the first process is in. Who may not look there has no right to join it, either.
    pub fn is_of_first(&self) -> Result<bool> {
        match self.is_at(&path_of("1", self.kind)) {
            Err(error) if matches!(error.errno(), Some(nix::Error::EACCES | nix::Error::EPERM)) => Ok(false),
            other => other,
        }
    }

    fn is_at(&self, path: &str) -> Result<bool> {
        let other = nix::sys::stat::stat(path).context(|| format!("stat {path}"))?;
        let this = nix::sys::stat::fstat(&self.fd).context(|| "fstat")?;
        Ok((other.st_dev, other.st_ino) == (this.st_dev, this.st_ino))
    }

    /// Whether it belongs to a user namespace.
    fn belongs_to(&self, userns: &Existing) -> Result<bool> {
        let owner = match sys::namespace_owner(self.fd.as_fd()) {
            Err(nix::Error::EPERM) => return Ok(false),
            other => other.context(|| "ioctl(NS_GET_USERNS)")?,
        };
        let (owner, userns) = (nix::sys::stat::fstat(owner), nix::sys::stat::fstat(&userns.fd));
        Ok(owner.context(|| "fstat")?.st_ino == userns.context(|| "fstat")?.st_ino)
    }
}

/// The PID namespace that is joined only when the process holds nothing of the host any more, if there is one. Where the
/// user namespace that is entered does not own it, it must be joined before, while there is the right to; nobody is in it
/// by that but the children made from then on.
pub fn joined_late(existing: &[Existing], makes_userns: bool) -> Result<Option<&Existing>> {
    let find = |kind: CloneFlags| existing.iter().find(|namespace| namespace.kind == kind);
    match (find(CloneFlags::CLONE_NEWPID), find(CloneFlags::CLONE_NEWUSER)) {
        (Some(pid), Some(user)) => Ok(pid.belongs_to(user)?.then_some(pid)),
        (pid, None) => Ok(pid.filter(|_| !makes_userns)),
        (None, _) => Ok(None),
    }
}

/// Joins what the child joins at once: everything but the PID namespace of [`joined_late`]. One that the runtime has no
/// right to join may belong to the user namespace that is joined after it.
pub fn join(existing: &[Existing], makes_userns: bool) -> Result<()> {
    let what = |namespace: &Existing| {
        format!("join the {} namespace {}: setns", name(namespace.kind), namespace.path.display())
    };
    let user = existing.iter().find(|namespace| namespace.kind == CloneFlags::CLONE_NEWUSER);
    let has_late = joined_late(existing, makes_userns)?.is_some();
    let mut refused = Vec::new();
    for namespace in existing {
        let is_late = namespace.kind == CloneFlags::CLONE_NEWPID && has_late;
        if is_late || namespace.kind == CloneFlags::CLONE_NEWUSER {
            continue;
        }
        match sys::setns(namespace.fd.as_fd(), namespace.kind) {
            Err(nix::Error::EPERM) if user.is_some() => refused.push(namespace),
            other => other.context(|| what(namespace))?,
        }
    }
    for namespace in user.into_iter().chain(refused) {
        sys::setns(namespace.fd.as_fd(), namespace.kind).context(|| what(namespace))?;
    }
    Ok(())
}

/// What a process in an existing PID namespace makes. It is visible in there while it lives, which is for a few system
/// calls; as the process of an exec it is not dumpable.
pub fn made_within(pidns: BorrowedFd<'_>, make: impl FnOnce() -> Result<OwnedFd>) -> Result<OwnedFd> {
    let (ours, theirs) = sync::pair()?;
    let pid = match sys::clone(CloneFlags::empty(), None).context(|| "clone3")? {
        Cloned::Parent(pid, _) => pid,
        Cloned::Child => {
            sys::close_inherited(ours.as_fd());
            if let Err(error) = make_within(pidns, &theirs, make) {
                let _ = theirs.send(&Message::Error(error));
            }
            sys::exit(0)
        }
    };
    drop(theirs);
    let made = ours.expect(&Message::Ready).and_then(|()| {
        let made = sys::receive_fd(ours.as_fd()).context(|| "receive what was made in the PID namespace")?;
        made.ok_or_else(|| Error::new("nothing was made in the PID namespace"))
    });
    let _ = waitpid(pid, None);
    made
}

/// A PID namespace that is joined is only for children, so it takes one more.
fn make_within(pidns: BorrowedFd<'_>, to: &Socket, make: impl FnOnce() -> Result<OwnedFd>) -> Result<()> {
    nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    sys::setns(pidns, CloneFlags::CLONE_NEWPID).context(|| "setns")?;
    match sys::clone(CloneFlags::empty(), None).context(|| "clone3")? {
        Cloned::Parent(pid, _) => drop(waitpid(pid, None)),
        Cloned::Child => {
            let made = make()?;
            to.send(&Message::Ready)?;
            sys::send_with_fd(to.as_fd(), b"made", made.as_fd()).context(|| "send it")?;
        }
    }
    Ok(())
}

/// Enters a time namespace that this process has made, once its offsets are written: time_namespaces(7).
pub fn enter_new_time_namespace() -> Result<()> {
    let path = "/proc/self/ns/time_for_children";
    let what = || "enter the new time namespace";
    let fd = files::open(Path::new(path), OFlag::O_RDONLY).context(|| format!("open {path}")).context(what)?;
    sys::setns(fd.as_fd(), CLONE_NEWTIME).context(|| "setns").context(what)
}

/// A stay of the parent in namespaces of the container, around the clone: who is born there has never held the host's.
pub struct Visit {
    /// The way back, one descriptor for each kind.
    own: Vec<(CloneFlags, OwnedFd)>,
    root: OwnedFd,
    cwd: OwnedFd,
}

impl Visit {
    /// Opens the way back from namespaces of these kinds.
    pub fn prepare(kinds: CloneFlags) -> Result<Visit> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut own = Vec::new();
        for kind in kinds {
            let path = path_of("self", kind);
            let fd = files::open(Path::new(&path), OFlag::O_RDONLY).context(|| format!("open {path}"))?;
            own.push((kind, fd));
        }
        Ok(Visit {
            own,
            root: files::open(Path::new("/"), directory).context(|| "open the root directory")?,
            cwd: files::open(Path::new("."), directory).context(|| "open the working directory")?,
        })
    }

    /// Joins every existing namespace of a container that is to have a user namespace of its own, which will not let it.
    pub fn join(existing: &[Existing]) -> Result<Visit> {
        let kinds = existing.iter().fold(CloneFlags::empty(), |kinds, namespace| kinds | namespace.kind);
        let visit = Visit::prepare(kinds)?;
        for namespace in existing {
            let joined = sys::setns(namespace.fd.as_fd(), namespace.kind)
                .context(|| format!("join the {} namespace {}: setns", name(namespace.kind), namespace.path.display()));
            if let Err(error) = joined {
                // Who could join nothing has nowhere to come back from, and might not be let.
                let has_joined = existing.first().is_some_and(|first| first.kind != namespace.kind);
                return Err(match visit.leave() {
                    Err(left) if has_joined => error.hint(left),
                    _ => error,
                });
            }
        }
        Ok(visit)
    }

    /// Back to the host's namespaces. The caller's root need not be that of his mount namespace.
    pub fn leave(&self) -> Result<()> {
        for (kind, fd) in &self.own {
            sys::setns(fd.as_fd(), *kind)
                .context(|| format!("leave the container's {} namespace: setns", name(*kind)))?;
        }
        if self.own.iter().any(|(kind, _)| *kind == CloneFlags::CLONE_NEWNS) {
            fchdir(&self.root).context(|| "go back to the root directory: fchdir")?;
            chroot(".").context(|| "go back to the root directory: chroot")?;
            fchdir(&self.cwd).context(|| "go back to the working directory: fchdir")?;
        }
        Ok(())
    }

    /// What the child has inherited of it and must let go of.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.own.iter().map(|(_, fd)| fd.as_fd()).chain([self.root.as_fd(), self.cwd.as_fd()])
    }
}

/// The file of a process's namespace of a kind (namespaces(7)); `process` is its directory in /proc.
pub fn path_of(process: impl Display, kind: CloneFlags) -> String {
    format!("/proc/{process}/ns/{}", file_name(kind))
}

/// What the kernel, and so CRIU, calls a namespace.
pub fn file_name(kind: CloneFlags) -> &'static str {
    match kind {
        CloneFlags::CLONE_NEWNS => "mnt",
        CloneFlags::CLONE_NEWNET => "net",
        kind => name(kind),
    }
}

/// Whether another process is in this process's own namespace of a kind.
pub fn is_shared(process: Pid, kind: CloneFlags) -> Result<bool> {
    let number =
        |path: String| nix::sys::stat::stat(path.as_str()).context(|| format!("stat {path}")).map(|stat| stat.st_ino);
    Ok(number(path_of("self", kind))? == number(path_of(process, kind))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Namespaces> {
        Namespaces::new(&serde_json::from_str::<Vec<LinuxNamespace>>(json).unwrap())
    }

    #[test]
    fn each_namespace_is_made_where_it_costs_least() {
        let namespaces = parse(
            r#"[{"type":"pid"},{"type":"mount"},{"type":"network"},{"type":"cgroup"},{"type":"ipc","path":"/x"}]"#,
        )
        .unwrap();
        assert_eq!(namespaces.clone_flags(), CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS);
        assert_eq!(namespaces.unshare_flags(), CloneFlags::CLONE_NEWNET);
        assert!(namespaces.creates(CloneFlags::CLONE_NEWCGROUP) && namespaces.joins(CloneFlags::CLONE_NEWIPC));
        assert!(!namespaces.has(CloneFlags::CLONE_NEWUTS));
    }

    #[test]
    fn everything_belongs_to_the_user_namespace() {
        let list = r#"[{"type":"user"},{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"time"}]"#;
        let new = parse(list).unwrap();
        assert_eq!(new.clone_flags(), CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID);
        assert_eq!(new.unshare_flags(), CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC);
        assert!(!new.hands_over() && !new.unshares_user() && new.creates(CLONE_NEWTIME));
        let beside = parse(r#"[{"type":"user"},{"type":"pid","path":"/x"},{"type":"mount"}]"#).unwrap();
        assert!(beside.hands_over() && beside.unshares_user() && !beside.hands_over_early());
        let beside = parse(r#"[{"type":"user"},{"type":"pid"},{"type":"cgroup","path":"/x"}]"#).unwrap();
        assert!(beside.hands_over_early() && beside.unshares_user());
        let joined = parse(r#"[{"type":"user","path":"/x"},{"type":"pid"}]"#).unwrap();
        assert!(joined.hands_over_early());
    }

    #[test]
    fn duplicates_and_relative_paths_are_refused() {
        assert!(parse(r#"[{"type":"pid"},{"type":"pid","path":"/x"}]"#).unwrap_err().to_string().contains("twice"));
        assert!(parse(r#"[{"type":"pid","path":"x"}]"#).unwrap_err().to_string().contains("absolute"));
    }

    #[test]
    fn a_namespace_of_another_kind_is_refused() {
        let wrong = parse(r#"[{"type":"pid","path":"/proc/self/ns/net"}]"#).unwrap().open();
        assert!(wrong.err().unwrap().to_string().contains("it is a network namespace"));
        let file = parse(r#"[{"type":"pid","path":"/proc/self/status"}]"#).unwrap().open();
        assert!(file.err().unwrap().to_string().contains("it is no namespace"));
    }
}
