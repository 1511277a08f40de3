//! `run`: create, start, wait, delete. In the foreground corten stands for the container: signals go through, and the
//! exit status is the program's.

use crate::cli::RunArgs;
use crate::create::{self, Launched};
use crate::error::{Context, Error, Result};
use crate::state::{Lock, Status};
use crate::sync::Message;
use crate::{delete, hooks, start, sys};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// `corten run`; the exit status.
pub fn run(root: &Path, args: &RunArgs) -> Result<i32> {
    if !args.no_subreaper && !args.detach {
        nix::sys::prctl::set_child_subreaper(true).context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    }
    let mut launched = create::launch(root, &args.create, false)?;
    let pid_file = args.create.pid_file.as_deref();
    if let Err(error) = confirm(&launched) {
        return Err(launched.undo(error, pid_file));
    }
    let Launched { container, record, pid, pidfd, network, .. } = launched;
    // Now the devices are the container's: we must not keep its network namespace alive.
    drop(network);
    let poststart = record.hooks.poststart().as_deref().unwrap_or_default();
    if let Err(error) = hooks::run("poststart", poststart, &record.to_json(Status::Running, Some(pid))) {
        return Err(start::stop(&container, &record, error));
    }
    if args.detach {
        return Ok(0);
    }
    container.unlock();
    let status = wait(pid, pidfd.as_fd())?;
    if !args.keep {
        match container.lock(Lock::Exclusive) {
            Ok(()) => {}
            // Somebody else has deleted it while it ran.
            Err(error) if delete::is_missing(&error) => return Ok(status),
            Err(error) => return Err(error),
        }
        let removed = delete::remove_all(&container, &record, true);
        delete::run_poststop(&record);
        removed?;
    }
    Ok(status)
}

/// READY has come; the end of the conversation means that execve has succeeded.
fn confirm(launched: &Launched) -> Result<()> {
    match launched.socket.receive()? {
        None => Ok(()),
        Some(Message::Error(error)) => Err(create::in_init(error)),
        Some(other) => Err(Error::new(format!("the container's init sent {other:?}"))),
    }
}

/// Waits for the end of a child, passing signals on to it, and reaps whatever else becomes a child of ours.
pub fn wait(pid: Pid, pidfd: BorrowedFd<'_>) -> Result<i32> {
    let mut forwarded = SigSet::all();
    // Signals that report an error of this very process are not to be blocked.
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGTRAP] {
        forwarded.remove(fault);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&forwarded), None).context(|| "block the signals: sigprocmask")?;
    // A child may have ended before SIGCHLD was blocked.
    if let Some(status) = reap(pid)? {
        return Ok(status);
    }
    let signals = SignalFd::with_flags(&forwarded, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context(|| "receive signals: signalfd")?;
    loop {
        let mut wanted = [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(pidfd, PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from(errno).context("wait for the container: poll")),
        }
        if let Some(signal) = signals.read_signal().context(|| "read a signal")? {
            let number = signal.ssi_signo as i32;
            match number {
                libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG => {}
                // One that is gone gets no more signals; its status is about to be read.
                _ => drop(sys::pidfd_send_signal(pidfd, number)),
            }
        }
        if let Some(status) = reap(pid)? {
            return Ok(status);
        }
    }
}

/// Reaps children that have ended, up to the one with this pid; its status is what a shell would say.
fn reap(init: Pid) -> Result<Option<i32>> {
    while let Some((pid, status)) = sys::wait_any().context(|| "wait for the container: waitpid")? {
        if pid == init {
            return Ok(Some(status));
        }
    }
    Ok(None)
}
