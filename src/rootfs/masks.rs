//! `maskedPaths` and `readonlyPaths`. They fail closed: a container whose mask cannot be made does not start (rule R7).

use super::{Tree, path};
use crate::error::{Context, Error, Result};
use crate::sys::{self, FsContext, MountAttr, mount_flags};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{SFlag, fstat, major, minor};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The host's /dev/null, opened before the clone: the container's own could be anything (CVE-2025-31133).
pub fn open_null() -> Result<OwnedFd> {
    let null = sys::open_tree_clone(AT_FDCWD, c"/dev/null", mount_flags::AT_SYMLINK_NOFOLLOW)
        .context(|| "open_tree(clone) /dev/null")?;
    let stat = fstat(&null).context(|| "fstat /dev/null")?;
    let is_null = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits()
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
    if !is_null {
        return Err(Error::new("/dev/null of the host is not the null device"));
    }
    // As a peer of the host's mount it would carry to the host what the container mounts on it.
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    sys::mount_setattr(null.as_fd(), false, private).context(|| "mount_setattr(private) /dev/null")?;
    Ok(null)
}

/// Hides each path: a directory under an empty read-only tmpfs, which all share, anything else under the null device.
pub fn mask(tree: &Tree<'_>, paths: &[PathBuf], null: BorrowedFd<'_>) -> Result<()> {
    let mut null = Cover { tree, mount: null, is_attached: false, spare: None };
    let mut empty = Empty { tree, mount: None, is_attached: false };
    for masked in paths {
        mask_one(tree, masked, &mut null, &mut empty).context(|| format!("mask {}", masked.display()))?;
    }
    Ok(())
}

fn mask_one(tree: &Tree<'_>, masked: &Path, null: &mut Cover<'_>, empty: &mut Empty<'_>) -> Result<()> {
    // In procfs and sysfs there is nothing to fear from a name, and the kernel says what is there.
    if let Some((directory, name)) = tree.kernels_spot(masked) {
        return match null.put_on(directory, &name)? {
            Err(Errno::ENOENT) => Ok(()),
            // move_mount(2): a file on a directory is EINVAL.
            Err(Errno::EINVAL) => empty.put_on(directory, &name),
            other => other.context(|| "move_mount"),
        };
    }
    let Some(target) = open_target(tree.root(), masked)? else {
        return Ok(());
    };
    if path::is_directory(&fstat(&target).context(|| "fstat")?) {
        empty.put_on(target.as_fd(), c"")
    } else {
        null.put_on(target.as_fd(), c"")?.context(|| "move_mount")
    }
}

/// A mount that is to hide several things. The kernel copies no mount that is attached nowhere, so the first target gets
/// the mount itself, and the others a copy of it.
struct Cover<'a> {
    tree: &'a Tree<'a>,
    mount: BorrowedFd<'a>,
    is_attached: bool,
    /// A copy that found no target.
    spare: Option<OwnedFd>,
}

impl Cover<'_> {
    /// The inner result is that of move_mount(2).
    fn put_on(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<nix::Result<()>> {
        if !self.is_attached {
            let moved = sys::move_mount(self.mount, directory, name);
            self.is_attached = moved.is_ok();
            return Ok(moved);
        }
        let copy = match self.spare.take() {
            Some(copy) => copy,
            None => path::clone_at(self.mount, false).context(|| "open_tree(clone)")?,
        };
        let moved = sys::move_mount(copy.as_fd(), directory, name);
        match moved {
            Ok(()) => self.tree.done(copy),
            Err(_) => self.spare = Some(copy),
        }
        Ok(moved)
    }
}

/// The empty directory, made when the first one needs it.
struct Empty<'a> {
    tree: &'a Tree<'a>,
    mount: Option<OwnedFd>,
    is_attached: bool,
}

impl Empty<'_> {
    fn put_on(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let mount = match &mut self.mount {
            Some(mount) => mount,
            none => none.insert(empty_directory(self.tree.label)?),
        };
        let mut cover = Cover { tree: self.tree, mount: mount.as_fd(), is_attached: self.is_attached, spare: None };
        let moved = cover.put_on(directory, name)?;
        self.is_attached = true;
        moved.context(|| "move_mount")
    }
}

/// A tmpfs without room for anything.
pub fn empty_directory(label: Option<&CStr>) -> Result<OwnedFd> {
    let context = FsContext::open(c"tmpfs").context(|| "fsopen(tmpfs)")?;
    for (key, value) in [(c"nr_blocks", c"1"), (c"nr_inodes", c"1"), (c"mode", c"755")] {
        context.set_string(key, value).context(|| format!("fsconfig({key:?})"))?;
    }
    if let Some(label) = label {
        context.set_string(c"context", label).context(|| format!("fsconfig(context={label:?})"))?;
    }
    let read_only = mount_flags::MOUNT_ATTR_RDONLY
        | mount_flags::MOUNT_ATTR_NOSUID
        | mount_flags::MOUNT_ATTR_NODEV
        | mount_flags::MOUNT_ATTR_NOEXEC;
    context.mount(read_only).context(|| "fsmount(tmpfs)")
}

/// Makes each path, with what is mounted below it, read-only.
pub fn make_read_only(tree: &Tree<'_>, paths: &[PathBuf]) -> Result<()> {
    for read_only in paths {
        make_one_read_only(tree, read_only).context(|| format!("make {} read-only", read_only.display()))?;
    }
    Ok(())
}

fn make_one_read_only(tree: &Tree<'_>, read_only: &Path) -> Result<()> {
    let attr = MountAttr { set: mount_flags::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    if let Some((directory, name)) = tree.kernels_spot(read_only) {
        let copy = match sys::open_tree_clone(directory, &name, mount_flags::AT_RECURSIVE) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other.context(|| "open_tree(clone)")?,
        };
        sys::mount_setattr(copy.as_fd(), true, attr).context(|| "mount_setattr(rdonly)")?;
        match sys::move_mount(copy.as_fd(), directory, &name) {
            // The name is a link to a directory, which the long way follows.
            Err(Errno::EINVAL) => {}
            other => {
                tree.done(copy);
                return other.context(|| "move_mount");
            }
        }
    }
    let Some(target) = open_target(tree.root(), read_only)? else {
        return Ok(());
    };
    let copy = path::clone_at(target.as_fd(), true).context(|| "open_tree(clone)")?;
    sys::mount_setattr(copy.as_fd(), true, attr).context(|| "mount_setattr(rdonly)")?;
    sys::move_mount(copy.as_fd(), target.as_fd(), c"").context(|| "move_mount")
}

/// The path, or None if it does not exist; any other failure is one.
fn open_target(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match path::open_in_root(root, path, OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Error::from(errno).context("openat2")),
    }
}
