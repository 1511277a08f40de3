//! `kill`: sends a signal to the init of a container. It takes no lock, so that it works while a hook hangs.

use crate::cli::KillArgs;
use crate::error::{Context, Error, Result};
use crate::state::{Container, Status};
use crate::{list, signals, sys};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use std::os::fd::AsFd;
use std::path::Path;

/// `corten kill [--all] ID [SIGNAL]`
pub fn kill(root: &Path, args: &KillArgs) -> Result<()> {
    let (id, signal) = match args.words.as_slice() {
        [id, signal] if !signal.is_empty() => (id, signal.as_str()),
        [id] | [id, _] => (id, "SIGTERM"),
        _ => return Err(Error::new("kill takes a container id and a signal")),
    };
    match args.regex {
        true => list::each_matching(root, id, |id| kill_one(root, id, signal, args.all)),
        false => kill_one(root, id, signal, args.all),
    }
}

fn kill_one(root: &Path, id: &str, signal: &str, all: bool) -> Result<()> {
    let container = Container::find(root, id)?;
    let signal = signals::parse(signal)?;
    let record = container.record()?;
    let (status, init) = container.status(&record)?;
    // A shared PID namespace does not take the rest of the container with its init, so SIGKILL, and every signal with
    // --all, is for all of them.
    let mut others = 0;
    if !record.namespaces().contains(CloneFlags::CLONE_NEWPID) && (all || signal == libc::SIGKILL) {
        others = record.cgroups.signal(signal)?;
    }
    let gone = || {
        if all || others > 0 { Ok(()) } else { Err(Error::new("container not running")) }
    };
    let Some(pidfd) = init.map(|init| init.pidfd()).transpose()?.flatten() else {
        return gone();
    };
    let sent = sys::pidfd_send_signal(pidfd.as_fd(), signal);
    if signal == libc::SIGKILL && status == Status::Paused {
        // On v1 a frozen process does not even die.
        record.cgroups.thaw()?;
    }
    match sent {
        Err(Errno::ESRCH) => gone(),
        other => other.context(|| format!("send signal {signal} to container {id}: pidfd_send_signal")),
    }
}
