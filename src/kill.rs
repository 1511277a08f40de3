//! `kill`: sends a signal to the init of a container. It takes no lock, so that it works while a hook hangs.

use crate::error::{Context, Error, Result};
use crate::signals;
use crate::state::{Container, Status};
use crate::sys;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use std::os::fd::AsFd;
use std::path::Path;

/// `corten kill [--all] ID [SIGNAL]`
pub fn kill(root: &Path, words: &[String], all: bool) -> Result<()> {
    let (id, signal) = match words {
        [id] => (id, "SIGTERM"),
        [id, signal] => (id, signal.as_str()),
        _ => return Err(Error::new("kill takes a container id and a signal")),
    };
    let container = Container::find(root, id)?;
    let signal = signals::parse(signal)?;
    let record = container.record()?;
    let (status, init) = container.status(&record)?;
    let not_running = || Error::new("container not running");
    // A shared PID namespace does not take the rest of the container with its init, so SIGKILL is for all of them.
    let shares_pids = !record.namespaces().contains(CloneFlags::CLONE_NEWPID);
    if signal == libc::SIGKILL && shares_pids && init.is_some() || all && shares_pids {
        record.cgroups.kill()?;
        return Ok(());
    }
    if status == Status::Stopped || init.is_none() {
        return if all { Ok(()) } else { Err(not_running()) };
    }
    let pidfd = init.map(|init| init.pidfd()).transpose()?.flatten().ok_or_else(not_running)?;
    match sys::pidfd_send_signal(pidfd.as_fd(), signal) {
        Err(Errno::ESRCH) if all => Ok(()),
        Err(Errno::ESRCH) => Err(not_running()),
        other => other.context(|| format!("send signal {signal} to container {id}: pidfd_send_signal")),
    }
}
