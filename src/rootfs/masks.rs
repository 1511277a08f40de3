//! `maskedPaths` and `readonlyPaths`. They fail closed: a container whose mask cannot be made does not start (rule R7).

use super::path;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::sys::{self, FsContext, MountAttr, mount_flags};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat, major, minor};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The host's /dev/null, opened before the clone: the container's own could be anything (CVE-2025-31133).
pub fn open_null() -> Result<OwnedFd> {
    let null = files::open(Path::new("/dev/null"), OFlag::O_PATH | OFlag::O_NOFOLLOW)
        .context(|| "open /dev/null")?;
    let stat = fstat(&null).context(|| "fstat /dev/null")?;
    let is_null = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits()
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
    if !is_null {
        return Err(Error::new("/dev/null of the host is not the null device"));
    }
    path::clone_at(null.as_fd(), false).context(|| "open_tree(clone) /dev/null")
}

/// Hides each path: a directory under an empty read-only tmpfs, which all share, anything else under the null device.
pub fn mask(root: BorrowedFd<'_>, paths: &[PathBuf], null: BorrowedFd<'_>) -> Result<()> {
    let mut null_cover = Cover { mount: null, is_attached: false };
    let mut empty: Option<OwnedFd> = None;
    let mut empty_is_attached = false;
    for masked in paths {
        let what = || format!("mask {}", masked.display());
        let Some(target) = open_target(root, masked).context(what)? else { continue };
        if path::is_directory(&fstat(&target).context(|| "fstat").context(what)?) {
            let empty = match &mut empty {
                Some(empty) => empty,
                none => none.insert(empty_directory().context(what)?),
            };
            let mut cover = Cover { mount: empty.as_fd(), is_attached: empty_is_attached };
            cover.put_on(target.as_fd()).context(what)?;
            empty_is_attached = true;
        } else {
            null_cover.put_on(target.as_fd()).context(what)?;
        }
    }
    Ok(())
}

/// A mount that is to hide several things. The kernel copies no mount that is attached nowhere, so the first target gets
/// the mount itself, and the others a copy of it.
struct Cover<'a> {
    mount: BorrowedFd<'a>,
    is_attached: bool,
}

impl Cover<'_> {
    fn put_on(&mut self, target: BorrowedFd<'_>) -> Result<()> {
        if !self.is_attached {
            self.is_attached = true;
            return sys::move_mount(self.mount, target, c"").context(|| "move_mount");
        }
        let copy = path::clone_at(self.mount, false).context(|| "open_tree(clone)")?;
        sys::move_mount(copy.as_fd(), target, c"").context(|| "move_mount")
    }
}

/// A tmpfs without room for anything.
fn empty_directory() -> Result<OwnedFd> {
    let context = FsContext::open(c"tmpfs").context(|| "fsopen(tmpfs)")?;
    for (key, value) in [(c"nr_blocks", c"1"), (c"nr_inodes", c"1"), (c"mode", c"755")] {
        context.set_string(key, value).context(|| format!("fsconfig({key:?})"))?;
    }
    let read_only = mount_flags::MOUNT_ATTR_RDONLY
        | mount_flags::MOUNT_ATTR_NOSUID
        | mount_flags::MOUNT_ATTR_NODEV
        | mount_flags::MOUNT_ATTR_NOEXEC;
    context.mount(read_only).context(|| "fsmount(tmpfs)")
}

/// Makes each path, with what is mounted below it, read-only.
pub fn make_read_only(root: BorrowedFd<'_>, paths: &[PathBuf]) -> Result<()> {
    for read_only in paths {
        let what = || format!("make {} read-only", read_only.display());
        let Some(target) = open_target(root, read_only).context(what)? else { continue };
        let copy = path::clone_at(target.as_fd(), true).context(|| "open_tree(clone)").context(what)?;
        let attr = MountAttr { set: mount_flags::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        sys::mount_setattr(copy.as_fd(), true, attr).context(|| "mount_setattr(rdonly)").context(what)?;
        sys::move_mount(copy.as_fd(), target.as_fd(), c"").context(|| "move_mount").context(what)?;
    }
    Ok(())
}

/// The path, or None if it does not exist; any other failure is one.
fn open_target(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match path::open_in_root(root, path, OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(Error::from(errno).context("openat2")),
    }
}
