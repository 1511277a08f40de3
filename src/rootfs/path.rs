//! Paths below the rootfs: always an openat2 confined to the root's descriptor, never a string joined to another.

use crate::error::{Context, Error, Result};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fstat, mkdirat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The path without `.`, `..` and repeated slashes, absolute; `..` at the root stays at the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::Normal(name) => cleaned.push(name),
            _ => {}
        }
    }
    cleaned
}

/// Opens `path` as if `root` were the root directory: links are followed, but never out of it, and no magic ones.
///
/// The kernel answers EAGAIN when something was renamed meanwhile and it cannot be sure; an attacker who renames all
/// the time gets an error from us, not a wrong descriptor.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// As [`open_in_root`], but a symlink anywhere in the path is an error (ELOOP).
pub fn open_without_links(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS)
}

fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    let mut tries = 0;
    loop {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) if tries < 1024 => tries += 1,
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// What is to be found, or made, at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// Opens a path, making what is missing of it: directories 0755, files 0644.
///
/// A dangling symlink on the way is resolved inside the root, and its target is made.
pub fn open_or_make(root: BorrowedFd<'_>, path: &Path, kind: impl FnOnce() -> Result<Kind>) -> Result<OwnedFd> {
    match open_in_root(root, path, OFlag::O_PATH) {
        Ok(fd) => Ok(fd),
        Err(Errno::ENOENT) => make(root, path, kind()?),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes a path that does not exist component by component, and opens its end.
pub fn make(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd> {
    let mut path = path.to_path_buf();
    // Each round either makes one component or replaces one dangling link; paths have at most 2048 components.
    for _ in 0..4096 {
        let (parent, ancestor, missing, rest) = deepest_ancestor(root, &path)?;
        let is_end = rest.as_os_str().is_empty();
        let made = if is_end && kind == Kind::File {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
            openat(&parent, missing.as_path(), flags, Mode::from_bits_truncate(0o644)).map(drop)
        } else {
            mkdirat(&parent, missing.as_path(), Mode::from_bits_truncate(0o755))
        };
        match made {
            Ok(()) => {}
            // A dangling link, or something that has come into being meanwhile.
            Err(Errno::EEXIST) => match readlinkat(&parent, missing.as_os_str()) {
                Ok(link) => {
                    path = ancestor.join(link);
                    // Joining an empty path would add a slash, and so ask for a directory.
                    if !is_end {
                        path.push(rest);
                    }
                }
                Err(Errno::ENOENT | Errno::EINVAL) => {}
                Err(errno) => return Err(errno.into()),
            },
            Err(errno) => return Err(Error::from(errno).context(format!("make {}", path.display()))),
        }
        match open_in_root(root, &path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => {}
            other => return Ok(other?),
        }
    }
    Err(Error::from(Errno::ELOOP))
}

/// The deepest directory of `path` that exists, its path, the first name that is missing below it, and the rest.
fn deepest_ancestor(root: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, PathBuf, PathBuf, PathBuf)> {
    let components: Vec<&OsStr> = path.iter().filter(|name| *name != OsStr::from_bytes(b"/")).collect();
    for end in (0..components.len()).rev() {
        let (above, below) = components.split_at(end);
        let Some((missing, rest)) = below.split_first() else {
            continue;
        };
        let ancestor: PathBuf = std::iter::once(OsStr::new("/")).chain(above.iter().copied()).collect();
        match open_in_root(root, &ancestor, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Ok(fd) => return Ok((fd, ancestor, PathBuf::from(missing), rest.iter().collect())),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Error::from(errno).context(format!("open {}", ancestor.display()))),
        }
    }
    Err(Error::from(Errno::ENOENT))
}

/// Changes the mode of what an O_PATH descriptor is of: `fchmodat2(fd, "", mode, AT_EMPTY_PATH)` without that call, which
/// came with Linux 6.6.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        path.as_str(),
        Mode::from_bits_truncate(mode),
        FchmodatFlags::FollowSymlink,
    )
    .context(|| format!("fchmodat({mode:o})"))
}

/// Whether a descriptor is of a directory.
pub fn kind_of(fd: BorrowedFd<'_>) -> Result<Kind> {
    let stat = fstat(fd).context(|| "fstat")?;
    Ok(if is_directory(&stat) { Kind::Directory } else { Kind::File })
}

/// Whether this is the status of a directory.
pub fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// The status of a name in a directory, not following a link.
pub fn stat_at(dir: BorrowedFd<'_>, name: &Path) -> nix::Result<FileStat> {
    nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// The directory that holds the last component of `path`, made if it is missing, and that component.
pub fn parent_of(root: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, PathBuf)> {
    let name = path.file_name().map(PathBuf::from).ok_or_else(|| Error::new("is not a path of a file"))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let directory = open_or_make(root, parent, || Ok(Kind::Directory))?;
    Ok((directory, name))
}

/// A detached copy of the mount at an opened file or directory.
pub fn clone_at(fd: BorrowedFd<'_>, recursive: bool) -> nix::Result<OwnedFd> {
    use crate::sys::mount_flags::{AT_EMPTY_PATH, AT_RECURSIVE};
    sys::open_tree_clone(fd.as_fd(), c"", AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::open;

    fn directory() -> (PathBuf, OwnedFd) {
        let path = nix::unistd::mkdtemp("/tmp/corten-path-XXXXXX").unwrap();
        let fd = open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        (path, fd)
    }

    #[test]
    fn paths_are_cleaned_below_the_root() {
        for (dirty, cleaned) in [("a", "/a"), ("/a/../../b", "/b"), ("//a/./b/", "/a/b"), ("", "/"), ("../..", "/")] {
            assert_eq!(clean(Path::new(dirty)), Path::new(cleaned));
        }
    }

    #[test]
    fn a_dangling_link_is_made_inside_the_root() {
        let (path, root) = directory();
        std::os::unix::fs::symlink("/target/deep", path.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/escape", path.join("up")).unwrap();
        make(root.as_fd(), Path::new("/link/x"), Kind::Directory).unwrap();
        make(root.as_fd(), Path::new("/up"), Kind::File).unwrap();
        assert!(path.join("target/deep/x").is_dir());
        assert!(path.join("etc/escape").is_file());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_link_loop_ends() {
        let (path, root) = directory();
        std::os::unix::fs::symlink("b", path.join("a")).unwrap();
        std::os::unix::fs::symlink("a", path.join("b")).unwrap();
        assert!(make(root.as_fd(), Path::new("/a/x"), Kind::Directory).is_err());
        std::fs::remove_dir_all(path).unwrap();
    }
}
