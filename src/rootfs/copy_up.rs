//! `tmpcopyup`: a tmpfs that begins with a copy of the directory which it hides.
//!
//! Both sides are reached by descriptors only, no link is followed, and what is read must be what it was looked at as: the
//! directory belongs to the image.

use crate::error::{Context, Error, Result};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Deeper trees are an attack, not an image.
const MAX_DEPTH: u32 = 128;

/// What the copy of the topmost directory keeps of its own, because the configuration says so.
#[derive(Clone, Copy, Default)]
pub struct Keep {
    pub owner: bool,
    pub mode: bool,
}

/// Copies what is in one directory into another that is empty, with modes, owners and times.
pub fn copy(from: OwnedFd, to: BorrowedFd<'_>, keep: Keep) -> Result<()> {
    copy_directory(from, to, 0, keep).context(|| "copy up")
}

fn copy_directory(from: OwnedFd, to: BorrowedFd<'_>, depth: u32, keep: Keep) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::from(Errno::ELOOP).context(format!("more than {MAX_DEPTH} levels of directories")));
    }
    let status = fstat(&from).context(|| "fstat")?;
    let mut directory = Dir::from_fd(from).context(|| "read the directory")?;
    let names: Vec<_> =
        directory.iter().map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type()))).collect();
    for entry in names {
        let (name, _): (_, Option<Type>) = entry.context(|| "read the directory")?;
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            copy_entry(directory.as_fd(), to, &name, depth).context(|| name.to_string_lossy().into_owned())?;
        }
    }
    if !keep.owner {
        fchown(to, Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(status.st_gid))).context(|| "fchown")?;
    }
    if !keep.mode {
        fchmod(to, Mode::from_bits_truncate(status.st_mode)).context(|| "fchmod")?;
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<()> {
    let status = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "fstatat")?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    let (uid, gid) = (Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(status.st_gid)));
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU).context(|| "mkdirat")?;
            let inner = openat(to, name, read | OFlag::O_DIRECTORY, Mode::empty()).context(|| "open the copy")?;
            let outer = openat(from, name, read | OFlag::O_DIRECTORY, Mode::empty()).context(|| "open")?;
            copy_directory(outer, inner.as_fd(), depth + 1, Keep::default())?;
        }
        SFlag::S_IFREG => copy_file(openat(from, name, read, Mode::empty()).context(|| "open")?, to, name, &status)?,
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name).context(|| "readlinkat")?;
            symlinkat(target.as_os_str(), to, name).context(|| "symlinkat")?;
            fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "fchownat")?;
        }
        kind => {
            let mode = Mode::from_bits_truncate(status.st_mode);
            mknodat(to, name, kind, mode, status.st_rdev).context(|| "mknodat")?;
            fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "fchownat")?;
        }
    }
    let (accessed, modified) =
        (TimeSpec::new(status.st_atime, status.st_atime_nsec), TimeSpec::new(status.st_mtime, status.st_mtime_nsec));
    utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink).context(|| "utimensat")
}

fn copy_file(from: OwnedFd, to: BorrowedFd<'_>, name: &CStr, status: &FileStat) -> Result<()> {
    let opened = fstat(&from).context(|| "fstat")?;
    if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino) {
        return Err(Error::new("it was exchanged while it was copied"));
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let copy = openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).context(|| "make the copy")?;
    let (mut from, mut copy) = (File::from(from), File::from(copy));
    std::io::copy(&mut from, &mut copy).context(|| "copy")?;
    // The change of owner takes set-uid bits away, so the mode comes last.
    fchown(&copy, Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(status.st_gid))).context(|| "fchown")?;
    fchmod(&copy, Mode::from_bits_truncate(status.st_mode)).context(|| "fchmod")
}
