//! Namespaces: which to create, which to join, and by whom.
//!
//! | namespace                    | created                      | joined                                              |
//! |------------------------------|------------------------------|-----------------------------------------------------|
//! | mount, pid, ipc, uts         | by clone3                    | by the child's setns; pid see below                 |
//! | network                      | by the child's unshare: it costs most, and the parent has work of its own meanwhile | by the child's setns |
//! | cgroup                       | by the child's unshare, once it is in its cgroup: the namespace's root is the cgroup of that moment | by the child's setns |
//!
//! An existing PID namespace is joined only after pivot_root, by one more clone, for a process that is visible in it must
//! hold nothing of the host (rule R11): `init::enter_pid_namespace`.

use crate::error::{Context, Error, Result};
use crate::files;
use crate::sys;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

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
                LinuxNamespaceType::User => return bad("user namespaces are not supported by this version"),
                LinuxNamespaceType::Time => return bad("time namespaces are not supported by this version"),
            };
            if namespaces.has(kind) {
                return bad(&format!("the {} namespace is given twice", name(kind)));
            }
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) if !path.is_absolute() => return bad("path must be absolute"),
                Some(path) if path.as_os_str().as_encoded_bytes().contains(&0) => return bad("path contains a NUL"),
                Some(path) => namespaces.join.push((kind, path.clone())),
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

    /// What clone3 creates.
    pub fn clone_flags(&self) -> CloneFlags {
        self.create
            & (CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
    }

    /// What the child unshares at once, beside the parent's work.
    pub fn unshare_flags(&self) -> CloneFlags {
        self.create & CloneFlags::CLONE_NEWNET
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
        let name = match self.kind {
            CloneFlags::CLONE_NEWNS => "mnt",
            CloneFlags::CLONE_NEWNET => "net",
            kind => name(kind),
        };
        let own = format!("/proc/self/ns/{name}");
        let own = nix::sys::stat::stat(own.as_str()).context(|| format!("stat {own}"))?;
        let this = nix::sys::stat::fstat(&self.fd).context(|| "fstat")?;
        Ok((own.st_dev, own.st_ino) == (this.st_dev, this.st_ino))
    }
}

/// Joins what the child joins at once: everything but a PID namespace.
pub fn join(existing: &[Existing]) -> Result<()> {
    for namespace in existing.iter().filter(|namespace| namespace.kind != CloneFlags::CLONE_NEWPID) {
        sys::setns(namespace.fd.as_fd(), namespace.kind)
            .context(|| format!("join the {} namespace {}: setns", name(namespace.kind), namespace.path.display()))?;
    }
    Ok(())
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
