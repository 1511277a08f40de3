//! The root file system: what is mounted where, planned here, prepared by the parent, built by the child.
//!
//! The rootfs and everything in it is hostile, also while we work in it. So no path below it is resolved twice, every
//! look-up is openat2 confined to the root's descriptor, every mount is complete (attributes, propagation) before it is
//! attached, and what cannot be done is an error: there is no second way (rules R1-R7).
//!
//! Who does what: the parent, still in the host's mount namespace, opens the rootfs and all bind sources as *detached*
//! mounts, for after the clone the kernel refuses them as sources. The child makes the file systems that depend on its
//! namespaces and attaches everything in the order of the configuration.

mod copy_up;
pub mod devices;
pub mod external;
mod filesystem;
pub mod masks;
pub mod mountinfo;
pub mod mounts;
pub mod options;
pub mod path;
pub mod restoring;
pub mod sources;

use crate::error::{Context, Error, Result};
use crate::files;
use crate::lsm;
use crate::namespaces::Namespaces;
use crate::plan;
use crate::sys::{self, MountAttr, mount_flags};
use crate::userns::Mappings;
use devices::Device;
use mountinfo::Mounted;
use mounts::{Mount, Place};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, Spec};
use options::Propagation;
use sources::Sources;
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the container's root is made of.
#[derive(Debug, Clone)]
pub struct Rootfs {
    /// Absolute path on the host.
    pub path: PathBuf,
    pub readonly: bool,
    pub propagation: Option<Propagation>,
    pub mounts: Vec<Mount>,
    pub mount_label: Option<CString>,
    pub devices: Vec<Device>,
    /// Whether /dev is the container's own, and not a bind mount of the host's.
    pub own_dev: bool,
    pub masked: Vec<PathBuf>,
    pub read_only: Vec<PathBuf>,
    /// Whether there is a mount namespace to pivot in; otherwise the root is only changed.
    pub pivot: bool,
}

/// The root file system while it is being built: its root, and the mounts of ours in it whose roots are at hand.
///
/// What lies directly below one of these is reached by one component that follows no link, so nothing need be looked up
/// for it. Everything else takes the way of `path`.
pub struct Tree<'a> {
    rootfs: BorrowedFd<'a>,
    /// What `mounts` has put on the root: from then on it is the root.
    cover: Option<OwnedFd>,
    /// `linux.mountLabel`, the SELinux context of file systems that are made.
    label: Option<&'a CStr>,
    known: Vec<Known>,
    /// Descriptors that have served; see [`Tree::done`].
    used: RefCell<Vec<OwnedFd>>,
}

struct Known {
    destination: PathBuf,
    mount: OwnedFd,
    /// procfs or sysfs: nobody but the kernel makes names in it.
    is_kernels: bool,
}

impl<'a> Tree<'a> {
    /// Nothing is mounted in it yet.
    pub fn new(root: BorrowedFd<'a>, label: Option<&'a CStr>) -> Tree<'a> {
        Tree { rootfs: root, cover: None, label, known: Vec::new(), used: RefCell::default() }
    }

    /// Where every look-up begins, and what the container will see as `/`.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.cover.as_ref().map_or(self.rootfs, AsFd::as_fd)
    }

    /// A mount on the root itself hides all that was there.
    fn cover(&mut self, mount: OwnedFd) {
        self.forget();
        self.cover = Some(mount);
    }

    /// Takes a descriptor that is not needed any more. Everything is closed at once before execve; only if there are many
    /// are some closed before.
    fn done(&self, fd: OwnedFd) {
        let mut used = self.used.borrow_mut();
        used.push(fd);
        if used.len() >= 64 {
            sys::close_together(used.drain(..));
        }
    }

    /// Remembers a mount; what was known at or below its destination is hidden now.
    fn add(&mut self, destination: &Path, mount: OwnedFd, is_kernels: bool) {
        self.hide(destination);
        self.known.push(Known { destination: destination.to_path_buf(), mount, is_kernels });
    }

    /// From now on everything is looked up.
    fn forget(&mut self) {
        self.known.clear();
    }

    fn hide(&mut self, destination: &Path) {
        for known in self.known.extract_if(.., |known| known.destination.starts_with(destination)) {
            self.used.borrow_mut().push(known.mount);
        }
    }

    /// The directory and the name in it of a path that lies directly below the root or a known mount.
    fn spot(&self, path: &Path) -> Option<(BorrowedFd<'_>, CString)> {
        let name = CString::new(path.file_name()?.as_encoded_bytes()).ok()?;
        match path.parent()? {
            parent if parent == Path::new("/") => Some((self.root(), name)),
            parent => Some((self.known(parent)?.mount.as_fd(), name)),
        }
    }

    /// The same in a file system of the kernel.
    fn kernels_spot(&self, path: &Path) -> Option<(BorrowedFd<'_>, CString)> {
        let known = self.known(path.parent()?).filter(|known| known.is_kernels)?;
        Some((known.mount.as_fd(), CString::new(path.file_name()?.as_encoded_bytes()).ok()?))
    }

    /// Whether the kernel has a file of this name.
    fn has_kernels_file(&self, path: &Path) -> bool {
        self.kernels_spot(path).is_some_and(|(directory, name)| {
            let (exists, follow) = (nix::unistd::AccessFlags::F_OK, nix::fcntl::AtFlags::empty());
            nix::unistd::faccessat(directory, name.as_c_str(), exists, follow).is_ok()
        })
    }

    /// The root of the mount at a path.
    pub fn mount_at(&self, path: &Path) -> Option<BorrowedFd<'_>> {
        self.known(path).map(|known| known.mount.as_fd())
    }

    fn known(&self, destination: &Path) -> Option<&Known> {
        self.known.iter().find(|known| known.destination == destination)
    }
}

impl Rootfs {
    /// Checks root, mounts, devices and paths.
    pub fn new(
        bundle: &Path,
        spec: &Spec,
        linux: &Linux,
        namespaces: &Namespaces,
        ids: Option<&Mappings>,
    ) -> Result<Rootfs> {
        let root = spec.root().as_ref().ok_or_else(|| Error::new("config.json: /root: is required"))?;
        if root.path().as_os_str().is_empty() {
            return Err(Error::new("config.json: /root/path: must not be empty"));
        }
        plan::check_path(root.path(), "config.json: /root/path")?;
        let path = bundle.join(root.path());
        let path = files::canonical_directory(&path)
            .context(|| format!("config.json: /root/path: invalid rootfs {}", path.display()))?;
        if path == Path::new("/")
            && namespaces.has(CloneFlags::CLONE_NEWNS)
            && !namespaces.creates(CloneFlags::CLONE_NEWNS)
        {
            return Err(Error::new("config.json: /root/path: cannot be / in a joined mount namespace"));
        }
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let has_userns = namespaces.has(CloneFlags::CLONE_NEWUSER);
        let place = Place { whence: "config.json: /mounts", bundle, rootfs: &path, ids, has_userns };
        let mounts = mounts.iter().enumerate().map(|(i, mount)| Mount::new(i, mount, &place));
        let mounts = mounts.collect::<Result<Vec<_>>>()?;
        let propagation = match linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty()) {
            Some(text) => Some(Propagation::parse(text).ok_or_else(|| {
                Error::new(format!("config.json: /linux/rootfsPropagation: {text:?} is no kind of propagation"))
            })?),
            None => None,
        };
        let pivot = namespaces.has(CloneFlags::CLONE_NEWNS);
        if propagation.is_some() && !pivot {
            // What its root is made of is attached nowhere, so that nothing reaches it or comes from it.
            return Err(Error::new("config.json: /linux/rootfsPropagation: needs a private mount namespace"));
        }
        // A bind mount on /dev brings its own devices, and they are not ours to change.
        let own_dev = !mounts.iter().any(|mount| mount.destination == Path::new("/dev") && mount.is_bind());
        Ok(Rootfs {
            path,
            readonly: root.readonly().unwrap_or(false),
            propagation,
            devices: devices::plan(linux.devices().as_deref().unwrap_or_default(), own_dev)?,
            own_dev,
            masked: absolute(linux.masked_paths().as_deref(), "/linux/maskedPaths")?,
            read_only: absolute(linux.readonly_paths().as_deref(), "/linux/readonlyPaths")?,
            pivot,
            mount_label: lsm::mount_label(linux.mount_label().as_deref())?,
            mounts,
        })
    }

    /// How many descriptors building it may take at most, apart from those that the caller has open: each mount one, and
    /// one more if its ids are mapped.
    pub fn descriptors(&self) -> u64 {
        256 + 2 * self.mounts.len() as u64 + self.devices.len() as u64
    }

    /// Whether the container has a /proc, to which the links in /dev lead.
    pub fn has_proc(&self) -> bool {
        self.mounts.iter().any(|mount| mount.destination == Path::new("/proc"))
    }

    /// Whether the container may write to its cgroups (config-linux.md: cgroup ownership).
    pub fn has_writable_cgroups(&self) -> bool {
        let is_writable = |mount: &Mount| mount.options.attr.set & mount_flags::MOUNT_ATTR_RDONLY == 0;
        let place = Path::new("/sys/fs/cgroup");
        let mut shown = self.mounts.iter().filter(|mount| mount.source == mounts::Source::Cgroup);
        shown.any(|mount| mount.destination == place && is_writable(mount))
    }

    /// Whether the container sees its cgroups.
    pub fn shows_cgroups(&self) -> bool {
        self.mounts.iter().any(|mount| mount.source == mounts::Source::Cgroup)
    }
}

/// Every path must be absolute and without NUL; each is taken once.
fn absolute(paths: Option<&[String]>, pointer: &str) -> Result<Vec<PathBuf>> {
    let mut result: Vec<PathBuf> = Vec::new();
    for (index, path) in paths.into_iter().flatten().enumerate() {
        plan::check_path(Path::new(path), &format!("config.json: {pointer}/{index}"))?;
        if !path.starts_with('/') {
            return Err(Error::new(format!("config.json: {pointer}/{index}: {path:?} is not an absolute path")));
        }
        let path = path::clean(Path::new(path));
        if path == Path::new("/") {
            return Err(Error::new(format!("config.json: {pointer}/{index}: cannot be the root itself")));
        }
        if !result.contains(&path) {
            result.push(path);
        }
    }
    Ok(result)
}

/// Attaches the rootfs where it is found on the host, so that hooks that enter the mount namespace find it there.
///
/// Our copy of the host's mounts is cut off first: nothing that happens here may reach the host. Where the container's root
/// may not go on the host, its rootfs is attached on top of the host's root, which pivot_root does as well.
pub fn attach(rootfs: &Rootfs, sources: &Sources) -> Result<()> {
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    sys::mount_setattr_at(c"/", private).context(|| "mount_setattr(/, recursive, private)")?;
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    sys::mount_setattr(sources.root.as_fd(), true, slave).context(|| "mount_setattr(rootfs, recursive, slave)")?;
    // Even if the way there has changed meanwhile: it is our own copy of the host's mounts that is changed here.
    let target = CString::new(rootfs.path.as_os_str().as_encoded_bytes())?;
    match sys::move_mount(sources.root.as_fd(), AT_FDCWD, &target) {
        // Nor may it be there at all, in a mount namespace that was joined.
        Err(Errno::EACCES | Errno::ENOENT) => sys::move_mount(sources.root.as_fd(), AT_FDCWD, c"/"),
        other => other,
    }
    .context(|| format!("attach the rootfs at {}: move_mount", rootfs.path.display()))
}

/// For a copy of a mount of the host: as its peer it would carry to the host what the container mounts on it (rule R6).
fn make_private(mount: BorrowedFd<'_>, recursive: bool) -> nix::Result<()> {
    sys::mount_setattr(mount, recursive, MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() })
}

/// Without a mount namespace of the container's own its root stays a tree that is attached nowhere: the mounts in it are seen
/// by its processes alone and go with the last of them, so that none can reach the host, or be left there (Linux 6.15).
pub fn keep_apart(sources: &Sources) -> Result<()> {
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    sys::mount_setattr(sources.root.as_fd(), true, slave).context(|| "mount_setattr(rootfs, recursive, slave)")
}

/// Makes the rootfs the root of this mount namespace and lets go of the host's (rule R6).
pub fn pivot(root: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::fchdir(root).context(|| "fchdir to the rootfs")?;
    nix::unistd::pivot_root(".", ".").context(|| "pivot_root(\".\", \".\")")?;
    // The host's root now lies on top of ours, where "." finds it; below, we are in our own root already.
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).context(|| "unmount the host's root")
}

/// `--no-pivot`, for a root that cannot be pivoted away, such as an initramfs: our root goes on top of the host's.
pub fn move_to_top(rootfs: &Rootfs, root: BorrowedFd<'_>) -> Result<()> {
    let what = || "move the rootfs on top of the host's root";
    hide_kernels_file_systems(rootfs).context(what)?;
    nix::unistd::fchdir(root).context(|| "fchdir to the rootfs").context(what)?;
    sys::move_mount(root, AT_FDCWD, c"/").context(|| "move_mount").context(what)?;
    nix::unistd::chroot(".").context(|| "chroot(\".\")").context(what)?;
    nix::unistd::chdir("/").context(|| "chdir to /").context(what)
}

/// The host's root stays below ours, so every procfs and sysfs in it that shows all is unmounted, or covered where that is
/// not allowed: with one of them about, the kernel would let a user namespace mount another that shows all (rule R6).
fn hide_kernels_file_systems(rootfs: &Rootfs) -> Result<()> {
    let mounts = mountinfo::read("self")?;
    let is_kernels =
        |mount: &Mounted| mount.root == Path::new("/") && matches!(mount.fstype.as_str(), "proc" | "sysfs");
    let places = mounts.into_iter().filter(is_kernels).map(|mount| mount.place);
    let places: Vec<PathBuf> = places.filter(|place| !place.starts_with(&rootfs.path)).collect();
    for place in places {
        let what = || format!("hide the host's {}", place.display());
        match nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EINVAL | Errno::EPERM | Errno::EACCES) => {}
            Err(errno) => return Err(Error::from(errno).context("umount2").context(what())),
        }
        let target = CString::new(place.as_os_str().as_encoded_bytes())?;
        let cover = masks::empty_directory(None, |empty| empty.mount_alone()).context(what)?;
        sys::move_mount(cover.as_fd(), AT_FDCWD, &target).context(|| "move_mount").context(what)?;
    }
    Ok(())
}

/// Without a mount namespace there is nothing to pivot: only the root of the process changes; see [`keep_apart`].
pub fn change_root(root: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::fchdir(root).context(|| "fchdir to the rootfs")?;
    nix::unistd::chroot(".").context(|| "chroot(\".\")")?;
    nix::unistd::chdir("/").context(|| "chdir to /")
}

/// The last word on the root mount itself: its propagation and, if asked for, read-only.
pub fn finish(rootfs: &Rootfs, root: BorrowedFd<'_>) -> Result<()> {
    if let Some(propagation) = rootfs.propagation {
        let attr = MountAttr { propagation: propagation.kind, ..MountAttr::default() };
        sys::mount_setattr(root, propagation.recursive, attr).context(|| "set the propagation of the rootfs")?;
    }
    if rootfs.readonly {
        let attr = MountAttr { set: mount_flags::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        sys::mount_setattr(root, false, attr).context(|| "make the rootfs read-only: mount_setattr(rdonly)")?;
    }
    Ok(())
}
