//! What is opened before anything is mounted: the rootfs, bind sources and devices, as detached mounts of the host.
//!
//! The parent does it before the clone, for after it the kernel refuses them as sources. Only a runtime without the right to
//! mount leaves it to its child, which has that right in its own copy of the host's mounts, and does it there before
//! anything else.

use super::devices::{self, Nodes};
use super::mounts::{Mount, Source};
use super::{Rootfs, make_private, masks};
use crate::error::{Context, Error, Result};
use crate::sys::{self, mount_flags};
use crate::userns::{self, Mappings};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{SFlag, fstat, stat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The number of the topmost directory of every procfs (linux/proc_fs.h).
const PROC_ROOT_INO: u64 = 1;

/// What has been opened.
pub struct Sources {
    /// The rootfs, with its submounts, detached.
    pub root: OwnedFd,
    /// For each mount of the plan.
    pub binds: Vec<Opened>,
    /// User namespaces of id-mapped file systems that the child mounts, by the position of the mount.
    pub idmaps: Vec<(usize, OwnedFd)>,
    /// Where the child cannot make device nodes.
    pub nodes: Option<Nodes>,
    /// The null device, if anything is masked.
    pub null: Option<OwnedFd>,
    /// The host's /sys and the container's cgroup, for a child that may not mount these file systems.
    pub sys: Option<OwnedFd>,
    pub cgroup: Option<OwnedFd>,
    /// See [`Restrictions`].
    pub mounts_cgroup: bool,
}

/// The source of one mount.
pub enum Opened {
    /// There is none to open.
    Nothing,
    /// A detached mount: of a bind, or the file system itself, if the parent had to make it.
    Mount(OwnedFd),
    /// `copy-symlink`: it is a link with this target.
    Link(PathBuf),
    /// `nofail`: it does not exist.
    Missing,
}

/// What the container may not do by itself.
pub struct Restrictions<'a> {
    /// The ids of its user namespace, if it has one.
    pub ids: Option<&'a Mappings>,
    /// An existing user namespace.
    pub userns: Option<BorrowedFd<'a>>,
    /// An existing PID namespace, whose members its /proc shows; it joins them only later.
    pub pidns: Option<BorrowedFd<'a>>,
    /// Whether it can make device nodes.
    pub makes_nodes: bool,
    /// Whether it may have to be shown the host's /sys, and its cgroup.
    pub shows_sys: bool,
    pub shows_cgroup: Option<&'a Path>,
    /// Whether it may try to mount the hierarchy of v2 itself.
    pub mounts_cgroup: bool,
}

impl Sources {
    /// Opens everything as this process sees it now.
    pub fn open(rootfs: &Rootfs, restrictions: &Restrictions<'_>) -> Result<Sources> {
        let root = clone_path(&rootfs.path, true).context(|| format!("open the rootfs {}", rootfs.path.display()))?;
        let mut opened = Sources::of_mounts(root, &rootfs.mounts, rootfs.mount_label.as_deref(), restrictions)?;
        if !restrictions.makes_nodes {
            opened.nodes = Some(devices::prepare(&rootfs.devices, restrictions.ids)?);
        }
        if !rootfs.masked.is_empty() {
            opened.null = Some(masks::open_null()?);
        }
        if restrictions.shows_sys && rootfs.mounts.iter().any(|mount| mount.is_type(c"sysfs")) {
            opened.sys = Some(show(Path::new("/sys"))?);
        }
        if let Some(path) = restrictions.shows_cgroup.filter(|_| rootfs.shows_cgroups()) {
            opened.cgroup = Some(show(path)?);
        }
        Ok(opened)
    }

    /// Opens the sources of mounts alone; `root` is what they are to be attached in.
    pub fn of_mounts(
        root: OwnedFd,
        mounts: &[Mount],
        label: Option<&CStr>,
        restrictions: &Restrictions<'_>,
    ) -> Result<Sources> {
        let mut opened = Sources {
            root,
            binds: Vec::with_capacity(mounts.len()),
            idmaps: Vec::new(),
            nodes: None,
            null: None,
            sys: None,
            cgroup: None,
            mounts_cgroup: restrictions.mounts_cgroup,
        };
        for (position, mount) in mounts.iter().enumerate() {
            opened.open_mount(position, mount, label, restrictions).context(|| mount.to_string())?;
        }
        Ok(opened)
    }

    fn open_mount(
        &mut self,
        position: usize,
        mount: &Mount,
        label: Option<&CStr>,
        restrictions: &Restrictions<'_>,
    ) -> Result<()> {
        let source = match restrictions.pidns.filter(|_| mount.is_type(c"proc")) {
            Some(pidns) => Opened::Mount(mount.make_proc_of(pidns)?),
            None if mount.device().is_some() => open_device(mount, label)?,
            None => open_bind(mount)?,
        };
        if let Some(idmap) = &mount.idmap {
            let userns = match (&idmap.mappings, restrictions.userns, restrictions.ids) {
                (Some(mappings), ..) => userns::namespace(mappings)?,
                (None, Some(userns), _) => userns.try_clone_to_owned().context(|| "dup")?,
                (None, None, Some(ids)) => userns::namespace(ids)?,
                (None, None, None) => return Err(Error::new("there are no mappings for its ids")),
            };
            match &source {
                Opened::Mount(tree) => mount.set_idmap(tree.as_fd(), userns.as_fd())?,
                _ => self.idmaps.push((position, userns)),
            }
        }
        self.binds.push(source);
        Ok(())
    }

    /// Every descriptor in it.
    pub fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        let binds = self.binds.into_iter().filter_map(|source| match source {
            Opened::Mount(fd) => Some(fd),
            _ => None,
        });
        let nodes = self.nodes.into_iter().flat_map(Nodes::into_descriptors);
        let others = [self.null, self.sys, self.cgroup].into_iter().flatten();
        std::iter::once(self.root)
            .chain(binds)
            .chain(self.idmaps.into_iter().map(|(_, fd)| fd))
            .chain(nodes)
            .chain(others)
    }
}

/// Mounts the file system of a device or of an image, detached: the path is one of the host's, and the container's own
/// device rules, which are set beside the child's work, might not let it.
fn open_device(mount: &Mount, label: Option<&CStr>) -> Result<Opened> {
    let kind = match mount.device().map(stat) {
        Some(Ok(stat)) => SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT,
        Some(Err(Errno::ENOENT)) if mount.options.may_fail => return Ok(Opened::Missing),
        _ => return Ok(Opened::Nothing),
    };
    match kind {
        SFlag::S_IFBLK | SFlag::S_IFREG => mount.make_of_device(label).map(Opened::Mount),
        // What begins with a slash need be no path.
        _ => Ok(Opened::Nothing),
    }
}

/// Opens the source of a bind mount from outside the rootfs, detached.
fn open_bind(mount: &Mount) -> Result<Opened> {
    let Source::Bind(path) = &mount.source else {
        return Ok(Opened::Nothing);
    };
    let options = &mount.options;
    if options.copy_symlink
        && let Ok(target) = nix::fcntl::readlink(path)
    {
        return Ok(Opened::Link(PathBuf::from(target)));
    }
    let c_path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut flags = if options.bind == Some(true) { mount_flags::AT_RECURSIVE } else { 0 };
    if options.source_nofollow {
        flags |= mount_flags::AT_SYMLINK_NOFOLLOW;
    }
    match sys::open_tree_clone(AT_FDCWD, &c_path, flags) {
        Err(Errno::ENOENT) if options.may_fail => Ok(Opened::Missing),
        Ok(opened) if mount.must_be_proc() => {
            let is_procfs = fstatfs(&opened).context(|| "fstatfs")?.filesystem_type() == PROC_SUPER_MAGIC;
            match is_procfs && fstat(&opened).context(|| "fstat")?.st_ino == PROC_ROOT_INO {
                true => Ok(Opened::Mount(opened)),
                false => Err(Error::new("nothing may be mounted on /proc but a whole procfs")),
            }
        }
        other => other.map(Opened::Mount).context(|| format!("open_tree(clone) {}", path.display())),
    }
}

/// A copy of what is there of one of the kernel's file systems.
fn show(path: &Path) -> Result<OwnedFd> {
    let copy = clone_path(path, true).context(|| format!("open_tree(clone) {}", path.display()))?;
    make_private(copy.as_fd(), true).context(|| format!("mount_setattr(recursive, private) {}", path.display()))?;
    Ok(copy)
}

/// A detached copy of what is mounted at a path of the host, as this process sees it now.
fn clone_path(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let flags = if recursive { mount_flags::AT_RECURSIVE } else { 0 };
    Ok(sys::open_tree_clone(AT_FDCWD, &path, flags)?)
}
