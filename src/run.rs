//! `run`: create, start, wait, delete. In the foreground corten stands for the container: signals go through, and the
//! exit status is the program's.

use crate::cgroups::Manager;
use crate::cli::RunArgs;
use crate::console::Console;
use crate::create::{self, Launched, Mode};
use crate::error::{Context, Error, Result};
use crate::notify_socket::Proxy;
use crate::state::{Container, Lock, Record};
use crate::sync::Message;
use crate::{delete, log, start, sys};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// `corten run`; the exit status.
pub fn run(root: &Path, manager: Manager, args: &RunArgs) -> Result<i32> {
    if !args.create.no_subreaper && !args.detach {
        nix::sys::prctl::set_child_subreaper(true).context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    }
    let mode = if args.detach { Mode::Detached } else { Mode::Foreground };
    let mut launched = create::launch(root, manager, &args.create, mode)?;
    let pid_file = args.create.pid_file.as_deref();
    let console = match confirm(&launched).and_then(|()| open_console(launched.console.as_ref())) {
        Ok(console) => console,
        Err(error) => return Err(launched.undo(error, pid_file)),
    };
    let Launched { container, record, pid, pidfd, notify, network, .. } = launched;
    // Now the devices are the container's: we must not keep its network namespace alive.
    drop(network);
    if let Err(error) = start::run_poststart(&record, Some(pid)) {
        return Err(start::stop(&container, &record, error));
    }
    container.unlock();
    if args.detach {
        return notify.map_or(Ok(()), |notify| notify.wait(pid, pidfd.as_fd())).map(|()| 0);
    }
    let status = wait(pid, pidfd.as_fd(), console, notify)?;
    if let Some(oom) = record.cgroups.explain_oom(status) {
        log::warning(&format!("container {}: {oom}", record.id));
    }
    if args.keep { Ok(()) } else { clear_away(&container, &record) }.map(|()| status)
}

/// Removes a container that has ended, unless somebody else has while it ran, and runs its last hooks.
pub fn clear_away(container: &Container, record: &Record) -> Result<()> {
    match container.lock(Lock::Exclusive) {
        Ok(()) => {}
        Err(error) if delete::is_missing(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    let removed = delete::remove_all(container, record, true);
    delete::run_poststop(record);
    removed
}

/// READY has come; the end of the conversation means that execve has succeeded.
fn confirm(launched: &Launched) -> Result<()> {
    match launched.socket.receive()? {
        None => Ok(()),
        Some(Message::Error(error)) => Err(create::in_init(error)),
        Some(other) => Err(Error::new(format!("the container's init sent {other:?}"))),
    }
}

/// The terminal of a process in the foreground, if it has one.
pub fn open_console(way: Option<&OwnedFd>) -> Result<Option<Console>> {
    way.map(|way| Console::start(way.as_fd())).transpose()
}

/// Waits for the end of a child, passing signals on to it and, with a terminal, bytes both ways; reaps whatever else
/// becomes a child of ours.
pub fn wait(pid: Pid, pidfd: BorrowedFd<'_>, mut console: Option<Console>, notify: Option<Proxy>) -> Result<i32> {
    let status = wait_for_end(pid, pidfd, console.as_mut(), notify)?;
    if let Some(console) = console {
        console.finish();
    }
    Ok(status)
}

fn wait_for_end(
    pid: Pid,
    pidfd: BorrowedFd<'_>,
    mut console: Option<&mut Console>,
    mut notify: Option<Proxy>,
) -> Result<i32> {
    let mut forwarded = SigSet::all();
    // Signals that report an error of this very process are not to be blocked.
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGTRAP] {
        forwarded.remove(fault);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&forwarded), None).context(|| "block the signals: sigprocmask")?;
    let signals = SignalFd::with_flags(&forwarded, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context(|| "receive signals: signalfd")?;
    loop {
        let mut wanted = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(pidfd, PollFlags::POLLIN)];
        wanted.extend(console.iter().flat_map(|console| console.wanted()));
        wanted.extend(notify.iter().map(|notify| PollFd::new(notify.as_fd(), PollFlags::POLLIN)));
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from(errno).context("wait for the container: poll")),
        }
        if let Some(signal) = signals.read_signal().context(|| "read a signal")? {
            let number = signal.ssi_signo as i32;
            match (number, &console) {
                (libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG, _) => {}
                // The kernel tells the container itself when its terminal changes.
                (libc::SIGWINCH, Some(console)) => console.resize(),
                // One that is gone gets no more signals; its status is about to be read.
                _ => drop(sys::pidfd_send_signal(pidfd, number)),
            }
        }
        if let Some(console) = &mut console {
            console.pass_on();
        }
        // Being ready is said once.
        if notify.as_ref().is_some_and(|notify| notify.pass_on(nix::unistd::getpid()).unwrap_or(true)) {
            notify = None;
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
