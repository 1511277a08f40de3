//! Pseudo-terminals: the ioctls of ioctl_tty(2) that nix has no wrapper for.

use super::{SysResult, own};
use nix::errno::Errno;
use nix::pty::Winsize;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// `ioctl(master, TIOCSPTLCK, &0)`: lets the other side be opened.
pub fn unlock(master: BorrowedFd<'_>) -> SysResult<()> {
    let lock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const lock) }).map(drop)
}

/// `ioctl(master, TIOCGPTN, &number)`: the name of the other side below the devpts.
pub fn number(master: BorrowedFd<'_>) -> SysResult<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN as _, &raw mut number) })?;
    Ok(number)
}

/// `ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)`: the other side itself, without any look-up by name.
pub fn peer(master: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes a number.
    own(Errno::result(i64::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) })))
}

/// `ioctl(terminal, TIOCGWINSZ, &size)`
pub fn window_size(terminal: BorrowedFd<'_>) -> SysResult<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one struct winsize.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ as _, &raw mut size) })?;
    Ok(size)
}

/// `ioctl(terminal, TIOCSWINSZ, &size)`
pub fn set_window_size(terminal: BorrowedFd<'_>, size: &Winsize) -> SysResult<()> {
    // SAFETY: TIOCSWINSZ reads one struct winsize.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const *size) }).map(drop)
}

/// `ioctl(terminal, TIOCSCTTY, 0)`: makes it the controlling terminal of a session leader that has none.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: TIOCSCTTY takes a number.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) }).map(drop)
}

/// `dup2(fd, 0)`, `dup2(fd, 1)`, `dup2(fd, 2)`: the descriptor becomes stdin, stdout and stderr.
pub fn become_stdio(fd: BorrowedFd<'_>) -> SysResult<()> {
    for number in 0..3 as RawFd {
        // SAFETY: 0-2 are nobody's property in this program; what they were is meant to be replaced.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    }
    Ok(())
}
