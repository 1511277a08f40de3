//! Self-protection (rule R10): the file of this program must not be writable through /proc/[pid]/exe of the process that
//! enters the container (CVE-2019-5736).
//!
//! The program executes itself once more from a detached, read-only copy of the mount of its *directory*. A copy of the
//! file alone would not do: as the root of its mount it could be made writable again (rule R10a). Where the kernel does
//! not let us make mounts, a sealed copy in memory takes its place. If neither works, nothing is run.

use crate::error::{Context, Error, Result};
use crate::files;
use crate::sys::{self, MountAttr, mount_flags};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const SELF: &str = "/proc/self/exe";

/// Returns when this process executes a file that the container cannot change; before, it starts the program anew.
///
/// It comes before anything else, for the second start begins from the beginning.
pub fn protect(args: &[OsString]) -> Result<()> {
    // A read-only mount is enough, as a copy of ours is.
    let status = statvfs(SELF).context(|| format!("statvfs {SELF}"))?;
    if status.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let path = std::fs::read_link(SELF).context(|| format!("readlink {SELF}"))?;
    if is_sealed_copy(&path)? {
        return Ok(());
    }
    let failure = match read_only_directory(&path) {
        Ok((directory, name)) => sys::execveat_self(directory.as_fd(), &name, args, 0),
        // Without the right to make mounts, or when the path leads to the file no more.
        Err(first) => match sealed_copy() {
            Ok(copy) => sys::execveat_self(copy.as_fd(), c"", args, libc::AT_EMPTY_PATH),
            Err(error) => error.hint(first),
        },
    };
    Err(failure.context("protect the runtime's own file from the container"))
}

fn is_sealed_copy(path: &Path) -> Result<bool> {
    if path != Path::new("/memfd:corten (deleted)") {
        return Ok(false);
    }
    let file = files::open(Path::new(SELF), OFlag::O_RDONLY).context(|| format!("open {SELF}"))?;
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).context(|| "fcntl(F_GET_SEALS)")?;
    Ok(SealFlag::from_bits_truncate(seals).contains(seals_wanted()))
}

fn seals_wanted() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// The directory of this program as a read-only mount that is attached nowhere, and the program's name in it.
fn read_only_directory(path: &Path) -> Result<(OwnedFd, CString)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("{} is no path of a file", path.display())));
    };
    let directory = CString::new(directory.as_os_str().as_encoded_bytes())?;
    let name = CString::new(name.as_encoded_bytes())?;
    let mount = sys::open_tree_clone(nix::fcntl::AT_FDCWD, &directory, 0)
        .context(|| format!("open_tree(clone) {directory:?}"))?;
    let attr = MountAttr { set: mount_flags::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    sys::mount_setattr(mount.as_fd(), false, attr).context(|| "mount_setattr(rdonly)")?;
    Ok((mount, name))
}

/// A copy of this program in memory that nobody can change.
fn sealed_copy() -> Result<OwnedFd> {
    let mut from = File::open(SELF).context(|| format!("open {SELF}"))?;
    let copy =
        memfd_create(c"corten", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).context(|| "memfd_create")?;
    let mut to = File::from(copy);
    std::io::copy(&mut from, &mut to).context(|| "copy the program into memory")?;
    let copy = OwnedFd::from(to);
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals_wanted())).context(|| "fcntl(F_ADD_SEALS)")?;
    // The descriptor is writable, and executing it would fail with ETXTBSY: reopen it for reading.
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    files::open(Path::new(&path), OFlag::O_RDONLY).context(|| format!("open {path}"))
}
