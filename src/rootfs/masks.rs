//! `maskedPaths` and `readonlyPaths`. They fail closed: a container whose mask cannot be made does not start (rule R7).

use super::external::is_null;
use super::filesystem::FileSystem;
use super::mounts::context_option;
use super::{Tree, make_private, path};
use crate::error::{Context, Error, Result};
use crate::sys::{self, MountAttr, mount_flags};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::fstat;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The host's /dev/null, opened before the clone: the container's own could be anything (CVE-2025-31133).
pub fn open_null() -> Result<OwnedFd> {
    let null = sys::open_tree_clone(AT_FDCWD, c"/dev/null", mount_flags::AT_SYMLINK_NOFOLLOW)
        .context(|| "open_tree(clone) /dev/null")?;
    let stat = fstat(&null).context(|| "fstat /dev/null")?;
    if !is_null(&stat) {
        return Err(Error::new("/dev/null of the host is not the null device"));
    }
    make_private(null.as_fd(), false).context(|| "mount_setattr(private) /dev/null")?;
    Ok(null)
}

/// Hides each path: a directory under an empty read-only tmpfs, which all share, anything else under the null device.
pub fn mask(tree: &Tree<'_>, paths: &[PathBuf], null: BorrowedFd<'_>) -> Result<()> {
    let mut null = Cover { tree, mount: null, is_attached: false, spare: None };
    let mut empty = Empty { tree, mount: None, is_attached: false };
    for masked in paths {
        mask_one(tree, masked, &mut null, &mut empty).context(|| format!("mask {}", masked.display()))?;
    }
    null.spare.into_iter().chain(empty.mount).for_each(|mount| tree.done(mount));
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
            none => none.insert(empty_directory(self.tree.label, |empty| empty.mount(self.tree))?),
        };
        let mut cover = Cover { tree: self.tree, mount: mount.as_fd(), is_attached: self.is_attached, spare: None };
        let moved = cover.put_on(directory, name)?;
        self.is_attached = true;
        moved.context(|| "move_mount")
    }
}

/// A tmpfs without room for anything, mounted by one of [`FileSystem`]'s ways.
pub fn empty_directory(
    label: Option<&CStr>,
    mount: impl FnOnce(&FileSystem<'_>) -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    let numbers = [("nr_blocks", "1"), ("nr_inodes", "1"), ("mode", "755")];
    let data = numbers.map(|(key, value)| (key.to_string(), Some(value.to_string())));
    let data: Vec<_> = data.into_iter().chain(label.map(context_option)).collect();
    let attributes = mount_flags::MOUNT_ATTR_RDONLY
        | mount_flags::MOUNT_ATTR_NOSUID
        | mount_flags::MOUNT_ATTR_NODEV
        | mount_flags::MOUNT_ATTR_NOEXEC;
    mount(&FileSystem { fstype: c"tmpfs", source: c"", data: &data, attributes }).context(|| "an empty tmpfs")
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
