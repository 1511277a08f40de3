//! The foreground of a terminal: corten stands between the user's terminal and the container's, passes bytes both ways and
//! the size of the window in one, and leaves the user's terminal as it was, however it ends.

use crate::error::{Context, Result};
use crate::process::close_all_but;
use crate::sync::{self, Message, Socket};
use crate::sys::{self, Cloned, tty};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{read, write};
use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A pipe that is ready takes this much without blocking (PIPE_BUF, pipe(7)).
const CHUNK: usize = 4096;

/// A conversation between two terminals.
pub struct Console {
    master: OwnedFd,
    host: Option<Host>,
    /// From stdin, on its way to the container.
    typed: Vec<u8>,
    /// From the container, on its way to stdout.
    printed: Vec<u8>,
    stdin_open: bool,
    stdout_open: bool,
    master_open: bool,
}

/// The user's own terminal, and how it was.
struct Host {
    terminal: OwnedFd,
    saved: Termios,
    /// Tells the guard that there is nothing to mend.
    guard: Option<Socket>,
}

impl Console {
    /// Takes the master that the child has sent; makes the user's terminal raw, if he has one.
    pub fn start(way: BorrowedFd<'_>) -> Result<Console> {
        let what = || "receive the container's terminal";
        let master = sys::receive_fd(way)
            .context(|| "recvmsg")
            .context(what)?
            .ok_or_else(|| crate::error::Error::new("none came").context(what()))?;
        let host = Host::find()?;
        let console = Console {
            master,
            host,
            typed: Vec::new(),
            printed: Vec::new(),
            stdin_open: true,
            stdout_open: true,
            master_open: true,
        };
        console.resize();
        Ok(console)
    }

    /// The container's window becomes as large as the user's.
    pub fn resize(&self) {
        let Some(host) = &self.host else { return };
        if let Ok(size) = tty::window_size(host.terminal.as_fd()) {
            // A terminal whose other side has just closed needs no size.
            let _ = tty::set_window_size(self.master.as_fd(), &size);
        }
    }

    /// What to wait for.
    pub fn wanted(&self) -> Vec<PollFd<'_>> {
        let mut wanted = Vec::with_capacity(3);
        if self.stdin_open && self.typed.is_empty() {
            wanted.push(PollFd::new(STDIN, PollFlags::POLLIN));
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.printed.is_empty());
        events.set(PollFlags::POLLOUT, !self.typed.is_empty());
        if self.master_open && !events.is_empty() {
            wanted.push(PollFd::new(self.master.as_fd(), events));
        }
        if self.stdout_open && !self.printed.is_empty() {
            wanted.push(PollFd::new(STDOUT, PollFlags::POLLOUT));
        }
        wanted
    }

    /// Passes on what is there, without waiting for more.
    pub fn pass_on(&mut self) {
        if self.typed.is_empty() && self.stdin_open && is_ready(STDIN, PollFlags::POLLIN) {
            self.stdin_open = take(STDIN, &mut self.typed);
        }
        if !self.typed.is_empty() && is_ready(self.master.as_fd(), PollFlags::POLLOUT) {
            give(self.master.as_fd(), &mut self.typed);
        }
        if self.printed.is_empty() && self.master_open && is_ready(self.master.as_fd(), PollFlags::POLLIN) {
            // EIO: nobody has the other side open any more.
            self.master_open = take(self.master.as_fd(), &mut self.printed);
        }
        if !self.printed.is_empty() && is_ready(STDOUT, PollFlags::POLLOUT) {
            self.stdout_open = give(STDOUT, &mut self.printed);
        }
        if !self.stdout_open {
            // The reader is gone; the container is not to stop for that.
            self.printed.clear();
        }
    }

    /// After the end of the process: passes on what has still been said, up to the end of the terminal. If others have it
    /// open, only what is there already.
    pub fn finish(mut self) {
        self.typed.clear();
        self.stdin_open = false;
        while self.master_open || !self.printed.is_empty() {
            let (fd, events, patience) = match self.printed.is_empty() {
                true => (self.master.as_fd(), PollFlags::POLLIN, 50u16),
                false => (STDOUT, PollFlags::POLLOUT, 10_000),
            };
            let mut wanted = [PollFd::new(fd, events)];
            match nix::poll::poll(&mut wanted, patience) {
                Ok(1..) | Err(Errno::EINTR) => {}
                _ => break,
            }
            self.pass_on();
        }
    }
}

const STDIN: BorrowedFd<'static> = sys::stdio(0);
const STDOUT: BorrowedFd<'static> = sys::stdio(1);

fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> bool {
    let mut wanted = [PollFd::new(fd, events)];
    nix::poll::poll(&mut wanted, nix::poll::PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Reads once; whether there may be more later.
fn take(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> bool {
    buffer.resize(CHUNK, 0);
    let result = read(fd, buffer);
    buffer.truncate(*result.as_ref().unwrap_or(&0));
    !matches!(result, Ok(0) | Err(Errno::EIO | Errno::EBADF))
}

/// Writes once, and keeps the rest; false if nobody will ever take it.
fn give(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> bool {
    match write(fd, buffer) {
        Ok(written) => {
            buffer.drain(..written.min(buffer.len()));
            true
        }
        Err(errno) => matches!(errno, Errno::EINTR | Errno::EAGAIN),
    }
}

impl Host {
    /// The terminal that one of stdin, stdout and stderr is, or the controlling one; raw from now on if the user types
    /// there. None: this process has no terminal.
    fn find() -> Result<Option<Host>> {
        let candidates = [stdin().as_fd().try_clone_to_owned(), stdout().as_fd().try_clone_to_owned()]
            .into_iter()
            .chain([stderr().as_fd().try_clone_to_owned()])
            .flatten()
            .chain(crate::files::open(Path::new("/dev/tty"), nix::fcntl::OFlag::O_RDWR));
        let Some((terminal, saved)) =
            candidates.into_iter().find_map(|fd| tcgetattr(&fd).ok().map(|saved| (fd, saved)))
        else {
            return Ok(None);
        };
        let mut host = Host { terminal, saved, guard: None };
        if tcgetattr(STDIN).is_ok() {
            host.guard = Some(host.guard()?);
            let mut raw = host.saved.clone();
            cfmakeraw(&mut raw);
            // Output is still processed here, for the container's side does not.
            raw.output_flags.insert(OutputFlags::OPOST);
            tcsetattr(&host.terminal, SetArg::TCSANOW, &raw).context(|| "make the terminal raw: tcsetattr")?;
        }
        Ok(Some(host))
    }

    /// A process that does nothing but mend the terminal if corten is killed before it can.
    fn guard(&self) -> Result<Socket> {
        let what = || "start the guard of the terminal";
        let (ours, theirs) = sync::pair().context(what)?;
        match sys::clone(CloneFlags::empty(), None).context(|| "clone3").context(what)? {
            Cloned::Parent(..) => Ok(ours),
            Cloned::Child => {
                let keep = [theirs.as_fd(), self.terminal.as_fd()];
                let ready = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
                    .context(|| "sigprocmask")
                    .and_then(|()| close_all_but(&keep, 0));
                if ready.is_ok() && theirs.receive() == Ok(None) {
                    let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.saved);
                }
                sys::exit(0)
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.saved);
            let _ = guard.send(&Message::Ready);
        }
    }
}
