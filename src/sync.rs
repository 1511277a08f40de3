//! What the two processes say to each other: one SOCK_SEQPACKET pair, one datagram a message.
//!
//! ```text
//! parent                                   container init
//!    <-------------------------- INIT pid ---- [only with an existing user namespace and a new PID namespace] who stays;
//!                                              if the child makes the user namespace, this comes after MAPPED
//!    ADOPTED -------------------------------> its pid is on disk
//!    <--------------------------- UNSHARED ---- [only with time offsets] the time namespace is there, nobody in it;
//!                                              [only with a user namespace that the child makes] that is there, too
//!    MAPPED --------------------------------> [only with a new user namespace or time offsets] ids and offsets are set
//!    <--------------------------- NETWORK ---- [only with netDevices] it is in its network namespace
//!    GO ------------------------------------> the pid is on disk: enter the cgroups, finish the mounts
//!    <----------------------------- HOOKS ---- [only if there are any] the mounts are there
//!    HOOKS DONE ----------------------------> prestart and createRuntime have run
//!    <------------------------- INIT pid ---- [only with an existing PID namespace] the one that stays
//!    ADOPTED -------------------------------> its pid is on disk
//!    <------------------------- NOTIFY fd ---- [only with a seccomp listener] the descriptor is about to be there
//!    <----------------------------- READY ---- everything is done but the filter and execve
//!    PROCEED -------------------------------> create: the container is created, wait for `start`; else: execve
//!    <--------------------------- (EOF) ----- execve has succeeded, or init waits for `start`
//!    <----------------- ERROR errno, text ---- at any time, instead of what was expected; then EOF
//! ```
//!
//! `start` and init speak the same language over the start socket: START, then READY and EOF, or ERROR.
//! EOF before READY means that init died. Success is never inferred from silence.

use crate::error::{Context, Error, Result};
use crate::sys;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, recv, socket,
    socketpair,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Longer texts of errors are cut.
const MAX_TEXT: usize = 16 * 1024;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Unshared,
    Mapped,
    Network,
    Go,
    Hooks,
    HooksDone,
    /// The pid of the process that became init, as its parent sees it.
    Init(i32),
    Adopted,
    /// The number of the descriptor that the seccomp listener will have in the sender.
    Notify(i32),
    /// The listener has been taken: told only to a process that made itself accessible for that.
    Taken,
    Ready,
    Proceed,
    Start,
    Error(Error),
}

/// One end of the conversation.
pub struct Socket(OwnedFd);

/// The two ends.
pub fn pair() -> Result<(Socket, Socket)> {
    let (parent, child) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context(|| "make the sync socket: socketpair")?;
    Ok((Socket(parent), Socket(child)))
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Message::Unshared => b'u',
            Message::Mapped => b'm',
            Message::Adopted => b'a',
            Message::Notify(_) => b'n',
            Message::Taken => b't',
            Message::Network => b'w',
            Message::Go => b'g',
            Message::Hooks => b'h',
            Message::HooksDone => b'd',
            Message::Init(_) => b'i',
            Message::Ready => b'r',
            Message::Proceed => b'p',
            Message::Start => b's',
            Message::Error(_) => b'e',
        }
    }
}

impl Socket {
    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one message; never raises SIGPIPE.
    pub fn send(&self, message: &Message) -> Result<()> {
        let payload = match message {
            Message::Error(error) => {
                let mut bytes = error.to_bytes();
                bytes.truncate(MAX_TEXT);
                bytes
            }
            Message::Init(number) | Message::Notify(number) => number.to_le_bytes().to_vec(),
            _ => Vec::new(),
        };
        sys::send(self.0.as_fd(), [&[message.kind()], &payload]).context(|| format!("send {message:?}"))
    }

    /// Waits for a message; None: the other end is gone.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0u8; MAX_TEXT + 1];
        let length = loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // ECONNRESET: the other end was closed with a message of ours still unread. It is told once, before what
                // the other had sent.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                other => break other.context(|| "receive from the sync socket")?,
            }
        };
        let Some((kind, payload)) = buffer.get(..length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let message = match kind {
            b'u' => Message::Unshared,
            b'm' => Message::Mapped,
            b'a' => Message::Adopted,
            b'w' => Message::Network,
            b'g' => Message::Go,
            b'h' => Message::Hooks,
            b'd' => Message::HooksDone,
            b't' => Message::Taken,
            b'r' => Message::Ready,
            b'p' => Message::Proceed,
            b's' => Message::Start,
            b'e' => Message::Error(Error::from_bytes(payload)),
            b'i' | b'n' => match (kind, payload.try_into().map(i32::from_le_bytes)) {
                (b'i', Ok(pid)) => Message::Init(pid),
                (_, Ok(fd)) => Message::Notify(fd),
                (_, Err(_)) => return Err(Error::new("a number of wrong size came over the sync socket")),
            },
            _ => {
                return Err(Error::new(format!("an unknown message {kind} came over the sync socket")));
            }
        };
        Ok(Some(message))
    }

    /// The error that the other end has sent before it went, if it has.
    pub fn last_words(&self) -> Option<Error> {
        let mut peek = [0u8; 1];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        // ECONNRESET is told once, before what was sent.
        let waiting = (0..2).any(|_| recv(self.0.as_raw_fd(), &mut peek, flags).is_ok());
        match waiting.then(|| self.receive()) {
            Some(Ok(Some(Message::Error(error)))) => Some(error),
            _ => None,
        }
    }

    /// Waits for one certain message; anything else, the other's death included, is an error.
    pub fn expect(&self, expected: &Message) -> Result<()> {
        match self.receive()? {
            Some(message) if message == *expected => Ok(()),
            Some(Message::Error(error)) => Err(error),
            Some(other) => Err(Error::new(format!("{other:?} came over the sync socket instead of {expected:?}"))),
            None => Err(Error::new("the other process is gone")),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A path of a socket in an open directory; sun_path holds only 108 bytes, state directories may lie deeper.
fn address(directory: BorrowedFd<'_>, name: &str) -> Result<UnixAddr> {
    Ok(UnixAddr::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()).as_str())?)
}

fn new_socket() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).context(|| "socket")
}

/// Makes the socket on which a created container waits for `start`.
pub fn listen_for_start(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let what = || "make the start socket";
    let socket = new_socket().context(what)?;
    // The file in the file system gets the mode that the socket has now.
    nix::sys::stat::fchmod(&socket, nix::sys::stat::Mode::from_bits_truncate(0o600))
        .context(|| "fchmod")
        .context(what)?;
    bind(socket.as_raw_fd(), &address(directory, name)?).context(|| "bind").context(what)?;
    listen(&socket, Backlog::new(1)?).context(|| "listen").context(what)?;
    Ok(socket)
}

/// Connects to a created container.
pub fn connect_for_start(directory: BorrowedFd<'_>, name: &str) -> Result<Socket> {
    let socket = new_socket()?;
    connect(socket.as_raw_fd(), &address(directory, name)?).context(|| "connect to the container's init")?;
    Ok(Socket(socket))
}

/// Waits for `start`. A connection that ends without a word, as that of a killed `start` does, is none.
pub fn accept_start(listener: BorrowedFd<'_>) -> Result<Socket> {
    loop {
        match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno) => return Err(Error::from(errno).context("wait for start: accept4")),
            Ok(fd) => {
                let socket = Socket(sys::own_fd(fd));
                if socket.receive()? == Some(Message::Start) {
                    return Ok(socket);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_arrive_even_if_ours_were_not_read() {
        let (here, there) = pair().unwrap();
        here.send(&Message::Go).unwrap();
        there.send(&Message::Error(Error::new("x"))).unwrap();
        drop(there);
        assert_eq!(here.receive().unwrap(), Some(Message::Error(Error::new("x"))));
        assert_eq!(here.receive().unwrap(), None);
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let (here, there) = pair().unwrap();
        let error = Error::from(Errno::EPERM).context("x");
        for message in [Message::Go, Message::Init(7), Message::Notify(9), Message::Ready, Message::Error(error)] {
            here.send(&message).unwrap();
            assert_eq!(there.receive().unwrap(), Some(message));
        }
        here.send(&Message::Error(Error::new("y".repeat(1 << 20)))).unwrap();
        assert!(there.receive().unwrap().is_some());
        drop(here);
        assert_eq!(there.receive().unwrap(), None);
        assert!(there.send(&Message::Go).is_err());
    }
}
