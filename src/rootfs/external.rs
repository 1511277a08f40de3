//! What a container sees of the host, and how CRIU is told of it: such a mount is saved by an opaque key only, and what the
//! key stands for is decided by the configuration at the restore (rule R29).
//!
//! Where a mount is in the container is asked of the kernel. A path below the rootfs says nothing: the container may have put
//! a symlink there since it was created.

use super::mountinfo::{self, Mounted};
use super::mounts::{Mount, Source};
use super::path;
use crate::cgroups;
use crate::error::{Context, Error, Result};
use crate::files;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat, lstat, major, minor, stat};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A file or directory of the host in the container.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Bind {
    pub destination: PathBuf,
    pub source: PathBuf,
    /// Whether the source may be missing, and then nothing is mounted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
    /// Whether the source itself is a symlink.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    nofollow: bool,
}

impl Bind {
    /// Such a mount of the configuration.
    pub fn of(mount: &Mount) -> Option<Bind> {
        match &mount.source {
            Source::Bind(source) => Some(Bind {
                destination: mount.destination.clone(),
                source: source.clone(),
                optional: mount.options.may_fail || mount.options.copy_symlink,
                nofollow: mount.options.source_nofollow,
            }),
            _ => None,
        }
    }

    fn stat_source(&self) -> nix::Result<FileStat> {
        if self.nofollow { lstat(&self.source) } else { stat(&self.source) }
    }
}

/// The key of a bind mount: its destination in the configuration, in a form that nothing can be smuggled into.
pub fn bind_key(destination: &Path) -> String {
    format!("bind-{}", hex(destination.as_os_str().as_bytes()))
}

/// The key of a hierarchy of v1.
pub fn cgroup_key(name: &str) -> String {
    format!("cgroup-{}", hex(name.as_bytes()))
}

/// The key of a device node of another file system: of what hides files, and of all nodes in a user namespace.
pub fn device_key(kind: SFlag, number: (u64, u64)) -> String {
    let kind = if kind == SFlag::S_IFBLK { 'b' } else { 'c' };
    format!("device-{kind}-{}-{}", number.0, number.1)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `external` options for saving a container with this init.
pub fn of_container(init: Pid, binds: &[Bind]) -> Result<Vec<String>> {
    let path = format!("/proc/{init}/root");
    let root = files::open(Path::new(&path), OFlag::O_PATH | OFlag::O_DIRECTORY).context(|| format!("open {path}"))?;
    let mounts = mountinfo::read(&init.to_string())?;
    let mut keys: BTreeMap<u64, String> = BTreeMap::new();
    for bind in binds {
        let what = || format!("find {} at {} in the container", bind.source.display(), bind.destination.display());
        if let Some(id) = find(root.as_fd(), bind).context(what)?
            && keys.insert(id, bind_key(&bind.destination)).is_some()
        {
            return Err(Error::new("another mount is there").context(what()));
        }
    }
    // The root mount itself is no bind mount, whatever a path leads to.
    let is_root = |mount: &Mounted| mount.place == Path::new("/");
    if let Some(mount) = mounts.iter().find(|mount| is_root(mount) && keys.contains_key(&mount.id)) {
        return Err(Error::new(format!(
            "{} is at the root of the container",
            keys.remove(&mount.id).unwrap_or_default()
        )));
    }
    let mut external = Vec::new();
    for mount in mounts.iter().filter(|mount| !is_root(mount)) {
        let found = match keys.remove(&mount.id) {
            None if mount.fstype == "cgroup" => Some(cgroup_key(&cgroups::shown_name(&mount.super_options))),
            None => foreign_device(root.as_fd(), mount, &mounts),
            key => key,
        };
        let Some(key) = found else { continue };
        let place = mount.place.to_str().filter(|place| !place.contains([']', '[']));
        let place = place.ok_or_else(|| {
            Error::new(format!("criu cannot be told of a mount at {}", mount.place.display()))
                .hint("its name has brackets in it, or is not UTF-8")
        })?;
        external.push(format!("mnt[{place}]:{key}"));
    }
    match keys.into_values().next() {
        Some(key) => Err(Error::new(format!("the mount {key} is not among those of the container's init"))),
        None => Ok(external),
    }
}

/// The kernel's number for the mount of a source, which has to be what is found at its destination.
fn find(root: BorrowedFd<'_>, bind: &Bind) -> Result<Option<u64>> {
    let source = match bind.stat_source() {
        Err(Errno::ENOENT) if bind.optional => return Ok(None),
        other => other.context(|| "stat the source")?,
    };
    let target = path::open_in_root(root, &bind.destination, OFlag::O_PATH).context(|| "open the destination")?;
    let there = fstat(&target).context(|| "fstat the destination")?;
    if (there.st_dev, there.st_ino) != (source.st_dev, source.st_ino) {
        if bind.optional {
            return Ok(None);
        }
        return Err(Error::new("something else is there")
            .hint("the container has changed the way to it, or the source was replaced on the host"));
    }
    files::mount_of(&format!("/proc/self/fdinfo/{}", target.as_raw_fd())).map(Some)
}

/// The key of a mount that is a device node of another file system than those that the container has as a whole.
fn foreign_device(root: BorrowedFd<'_>, mount: &Mounted, all: &[Mounted]) -> Option<String> {
    let is_whole = |other: &Mounted| other.device == mount.device && other.root == Path::new("/");
    if mount.root == Path::new("/") || all.iter().any(is_whole) {
        return None;
    }
    let found = path::open_without_links(root, &mount.place, OFlag::O_PATH).and_then(fstat).ok()?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let is_device = matches!(kind, SFlag::S_IFCHR | SFlag::S_IFBLK);
    is_device.then(|| device_key(kind, (major(found.st_rdev), minor(found.st_rdev))))
}

/// Whether this is the status of the null device.
pub fn is_null(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_can_be_taken_for_another() {
        assert_eq!(bind_key(Path::new("/a]:x")), "bind-2f615d3a78");
        assert_ne!(bind_key(Path::new("/a")), bind_key(Path::new("/a/")));
    }
}
