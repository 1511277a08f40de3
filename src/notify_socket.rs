//! sd_notify(3) for containers: who starts corten as a service hears from the container's program when it is ready.
//!
//! The container gets a socket of its own at /run/notify, on which only corten listens, and corten passes on `READY=1`, and
//! that the container's init is the main process. What else a container might tell the service manager stays here.

use crate::error::{Context, Error, Result};
use crate::state::Container;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, recv, sendmsg, socket,
};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Where the container finds its socket.
pub const DESTINATION: &str = "/run/notify";
/// What it finds in its environment.
pub const VARIABLE: &str = "NOTIFY_SOCKET=/run/notify/notify.sock";

/// How long the service manager may take to confirm that it has heard.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service manager's socket, if we run as a service that is to notify.
pub fn of_service() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

/// The socket of one container, and where its news go.
pub struct Proxy {
    socket: OwnedFd,
    service: UnixAddr,
}

impl Proxy {
    /// Listens for a container that was made with a notify directory; None if there is no service manager, or no such
    /// directory.
    pub fn listen(container: &Container) -> Result<Option<Proxy>> {
        let what = || "listen on the container's notify socket";
        let Some(service) = of_service() else { return Ok(None) };
        let Some(directory) = container.open_notify_directory()? else { return Ok(None) };
        let service = match service.as_bytes() {
            [b'@', name @ ..] => UnixAddr::new_abstract(name),
            path => UnixAddr::new(path),
        }
        .context(|| format!("NOTIFY_SOCKET={}", service.display()))?;
        let socket = datagram_socket().context(what)?;
        // Everybody in the container may write to it; the directory above is closed to everybody else.
        nix::sys::stat::fchmod(&socket, nix::sys::stat::Mode::from_bits_truncate(0o777))
            .context(|| "fchmod")
            .context(what)?;
        let path = format!("/proc/self/fd/{}/notify.sock", directory.as_raw_fd());
        let address = UnixAddr::new(path.as_str()).context(what)?;
        bind(socket.as_raw_fd(), &address).context(|| "bind").context(what)?;
        Ok(Some(Proxy { socket, service }))
    }

    /// The descriptor to poll.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one message, if there is one, and passes on what it says about readiness; whether it said so.
    pub fn pass_on(&self, main: Pid) -> Result<bool> {
        let mut buffer = [0u8; 4096];
        let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(Error::from(errno).context("read the container's notify socket")),
        };
        let message = buffer.get(..length).unwrap_or_default();
        if !message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return Ok(false);
        }
        self.tell(format!("READY=1\nMAINPID={main}\n").as_bytes()).context(|| "notify the service manager")?;
        Ok(true)
    }

    /// Sends a message, and then waits until the service manager has taken it: it asks who the sender is while we still are.
    fn tell(&self, message: &[u8]) -> Result<()> {
        let socket = datagram_socket()?;
        let send = |bytes: &[u8], rights: &[ControlMessage<'_>]| {
            sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, Some(&self.service))
                .map(drop)
        };
        send(message, &[]).context(|| "sendmsg")?;
        let (ours, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context(|| "pipe2")?;
        // sd_notify_barrier(3): the other end is closed when everything before it has been dealt with.
        let sent = send(b"BARRIER=1", &[ControlMessage::ScmRights(&[theirs.as_raw_fd()])]);
        drop(theirs);
        if sent.is_ok() {
            let mut wanted = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
            let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
            // A manager that knows no barriers just lets us wait.
            let _ = poll(&mut wanted, patience);
        }
        Ok(())
    }

    /// Waits until the container is ready, or has ended.
    pub fn wait(&self, main: Pid, process: BorrowedFd<'_>) -> Result<()> {
        loop {
            let mut wanted = [PollFd::new(self.as_fd(), PollFlags::POLLIN), PollFd::new(process, PollFlags::POLLIN)];
            match poll(&mut wanted, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::from(errno).context("wait for the container to be ready: poll")),
            }
            let ended = wanted.get(1).and_then(PollFd::any).unwrap_or(false);
            if self.pass_on(main)? || ended {
                return Ok(());
            }
        }
    }
}

fn datagram_socket() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).context(|| "socket")
}

/// Descriptors that a service manager has opened for the program (sd_listen_fds(3)), which become the container's.
pub struct Activation {
    /// How many there are, from 3 on.
    pub count: u32,
    names: Option<String>,
}

impl Activation {
    /// What the environment says, if it is meant for this very process.
    pub fn of_service() -> Activation {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
        let is_for_us = |pid: u32| pid == std::process::id();
        let count = match number("LISTEN_FDS") {
            Some(count) if number("LISTEN_PID").is_some_and(is_for_us) => count,
            _ => 0,
        };
        Activation { count, names: std::env::var("LISTEN_FDNAMES").ok().filter(|_| count > 0) }
    }

    /// The variables that tell the container's program, which is 1 in a PID namespace of its own.
    pub fn variables(&self) -> Vec<String> {
        if self.count == 0 {
            return Vec::new();
        }
        let mut variables = vec![format!("LISTEN_FDS={}", self.count), "LISTEN_PID=1".to_string()];
        variables.extend(self.names.as_ref().map(|names| format!("LISTEN_FDNAMES={names}")));
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_told_of_only_if_they_are_there() {
        assert!(Activation { count: 0, names: Some("x".into()) }.variables().is_empty());
        let some = Activation { count: 2, names: Some("a:b".into()) };
        assert_eq!(some.variables(), ["LISTEN_FDS=2", "LISTEN_PID=1", "LISTEN_FDNAMES=a:b"]);
    }
}
