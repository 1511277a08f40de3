//! Descriptors that cross from one process to another.

use super::{SysResult, call, fd_arg, own};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `sendmsg` of some bytes with one descriptor (SCM_RIGHTS, unix(7)), never raising SIGPIPE.
pub fn send_with_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> SysResult<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            Ok(length) if length < bytes.len() => return Err(Errno::EMSGSIZE),
            other => return other.map(drop),
        }
    }
}

/// `recvmsg` of one descriptor, close-on-exec; None if the other side is gone or sent none.
pub fn receive_fd(socket: BorrowedFd<'_>) -> SysResult<Option<OwnedFd>> {
    receive_with_fd(socket, &mut [0u8; 256]).map(|(_, fd)| fd)
}

/// `recvmsg` of some bytes, how many, and the descriptor that came with them, if one did, close-on-exec.
pub fn receive_with_fd(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> SysResult<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut iov = [IoSliceMut::new(bytes)];
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut received = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows of them.
            for fd in fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }) {
                received = Some(fd);
            }
        }
    }
    Ok((message.bytes, received))
}

/// `pidfd_getfd(pidfd, fd, 0)`: a copy of another process's descriptor, close-on-exec.
pub fn take_fd(pidfd: BorrowedFd<'_>, fd: RawFd) -> SysResult<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { call(libc::SYS_pidfd_getfd, [fd_arg(pidfd), fd as u64, 0, 0, 0, 0]) })
}
