//! Small files, read whole with as few system calls as they need.
//!
//! musl's open(2) sets close-on-exec twice and the library's `read_to_string` feels its way up in small steps; on the
//! path of `run` that adds up to forty calls.

use crate::error::{Context, Error, Result};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Opens a path of the host. EINTR is retried.
pub fn open(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    open_at(AT_FDCWD, path, flags, 0)
}

/// Opens a path below a directory, close-on-exec; `mode` counts if it is created.
pub fn open_at(directory: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: u32) -> nix::Result<OwnedFd> {
    loop {
        match openat(directory, path, flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::from_bits_truncate(mode)) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Opens a directory of the host and asks the kernel for its absolute path, free of symlinks.
pub fn canonical_directory(path: &Path) -> nix::Result<PathBuf> {
    if path == Path::new(".") {
        return nix::unistd::getcwd();
    }
    let fd = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).map(PathBuf::from)
}

/// Reads from a descriptor to its end, but `max` bytes at most. `expected` is a guess at the size: a read that returns
/// less than it asked for ends a regular file, and a file of procfs that is no list ([`read_list`]).
pub fn read(fd: impl AsFd, expected: usize, max: usize) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0u8; expected.clamp(64, max) + 1];
    let mut length = 0;
    loop {
        let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) else {
            if length > max {
                return Err(Errno::EFBIG);
            }
            bytes.resize((length * 2).min(max + 1), 0);
            continue;
        };
        let asked = room.len();
        match nix::unistd::read(&fd, room) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(read) => {
                length += read;
                if read < asked {
                    bytes.truncate(length);
                    return Ok(bytes);
                }
            }
        }
    }
}

/// How long the writer of a pipe may take for its next bytes, in milliseconds.
const PATIENCE: u16 = 10_000;

/// Reads what a caller names: a regular file, or a pipe, such as a shell makes for `<(COMMAND)`; `max` bytes at most.
///
/// Nobody is waited for without end (rule R23): a FIFO without a writer is empty.
pub fn read_given(path: &Path, max: usize) -> Result<Vec<u8>> {
    let name = path.display();
    let fd = open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).context(|| format!("open {name}"))?;
    let stat = fstat(&fd).context(|| format!("stat {name}"))?;
    let read = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => match usize::try_from(stat.st_size) {
            Ok(size) if size <= max => read(fd, size, max),
            _ => return Err(Error::new(format!("{name} has {} bytes; the limit is {max}", stat.st_size))),
        },
        SFlag::S_IFIFO => read_pipe(fd, max, PollTimeout::from(PATIENCE)),
        _ => return Err(Error::new(format!("{name} is not a regular file"))),
    };
    read.context(|| format!("read {name}"))
}

/// Reads a pipe, which may give less than it was asked for, to its end.
pub fn read_pipe(fd: impl AsFd, max: usize, patience: PollTimeout) -> nix::Result<Vec<u8>> {
    let (mut bytes, mut part) = (Vec::new(), vec![0u8; 64 << 10]);
    loop {
        match nix::unistd::read(&fd, &mut part) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend(part.get(..length).unwrap_or_default()),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                if poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], patience)? == 0 {
                    return Err(Errno::ETIMEDOUT);
                }
            }
            Err(errno) => return Err(errno),
        }
        if bytes.len() > max {
            return Err(Errno::EFBIG);
        }
    }
}

/// Reads a file of procfs or sysfs, or another small one, as text.
pub fn read_text(path: &Path) -> Result<String> {
    let what = || format!("read {}", path.display());
    let fd = open(path, OFlag::O_RDONLY).context(|| "open").context(what)?;
    let bytes = read(fd, 4095, 16 << 20).context(what)?;
    String::from_utf8(bytes).map_err(|_| Error::new(format!("{}: it is not UTF-8", what())))
}

/// Reads a file of procfs that is a list, like mountinfo: of that the kernel gives at a time only as many whole lines as it
/// has room for, so the end is where nothing more comes.
pub fn read_list(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).context(|| format!("read {}", path.display()))
}

/// The kernel's number for the mount that an open file is on, from a file of /proc/PID/fdinfo (proc_pid_fdinfo(5)).
pub fn mount_of(fdinfo: &str) -> Result<u64> {
    let text = read_text(Path::new(fdinfo))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| Error::new(format!("{fdinfo} does not tell the mount")))
}

/// Writes a value to an existing file of procfs or cgroupfs.
pub fn write_value(path: &Path, value: &str) -> Result<()> {
    let what = || format!("write {value:?} to {}", path.display());
    let fd = open(path, OFlag::O_WRONLY).context(|| "open").context(what)?;
    nix::unistd::write(&fd, value.as_bytes()).context(what)?;
    Ok(())
}

/// Keeps descriptors 0-2 from being anything but what they are meant for: a caller may have closed them, and then the
/// first thing that corten opens would become the container's stdin.
pub fn ensure_stdio() -> Result<()> {
    while sys::has_closed_stdio() {
        let null = open(Path::new("/dev/null"), OFlag::O_RDWR).context(|| "open /dev/null for a closed descriptor")?;
        sys::clear_close_on_exec(null.into_raw_fd());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_whatever_was_expected() {
        let fd = || open(Path::new("/proc/self/exe"), OFlag::O_RDONLY).unwrap();
        let whole = std::fs::read("/proc/self/exe").unwrap();
        for expected in [0, 100, whole.len(), whole.len() * 2] {
            assert_eq!(read(fd(), expected, usize::MAX >> 1).unwrap().len(), whole.len());
        }
        assert_eq!(read(fd(), 10, 1000), Err(Errno::EFBIG));
    }
}
