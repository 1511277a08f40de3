//! `delete`: removes everything that was made for a container, whatever the moment at which its creation ended, and
//! nothing else.

use crate::cli::DeleteArgs;
use crate::error::{Context, Error, Result};
use crate::state::{Container, InitProcess, Lock, Record, Status};
use crate::{hooks, list, log, sys};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::path::Path;

/// `corten delete [--force] ID`
pub fn delete(root: &Path, args: &DeleteArgs) -> Result<()> {
    match args.regex {
        true => list::each_matching(root, &args.id, |id| delete_one(root, id, args.force)),
        false => delete_one(root, &args.id, args.force),
    }
}

fn delete_one(root: &Path, id: &str, force: bool) -> Result<()> {
    let container = match Container::find(root, id) {
        Err(error) if force && is_missing(&error) => return Ok(()),
        other => other?,
    };
    if force {
        // Without the lock, which a `create` with a hanging hook holds for as long as the hook takes.
        kill_init(&container, container.read_record()?.as_ref())?;
    }
    match container.lock(Lock::Exclusive) {
        Err(error) if force && is_missing(&error) => return Ok(()),
        other => other?,
    }
    let Some(record) = container.read_record()? else {
        // Its creator was killed before it had done anything else.
        return container.remove();
    };
    if !force {
        let (status, _) = container.status(&record)?;
        let error = || Error::new(format!("cannot delete container {id} that is not stopped: {status}"));
        match status {
            Status::Stopped => {}
            Status::Created => return Err(error().hint("use --force to kill and delete it")),
            _ => return Err(error()),
        }
    }
    kill_and_remove(&container, &record)
}

/// Whether an error says that there is no such container.
pub fn is_missing(error: &Error) -> bool {
    error.to_string() == "container does not exist"
}

/// Ends the container, removes it and runs its poststop hooks. The caller holds the lock.
pub fn kill_and_remove(container: &Container, record: &Record) -> Result<()> {
    kill_init(container, Some(record))?;
    let has_init = container.read_init()?.is_some();
    let removed = remove_all(container, record, has_init);
    run_poststop(record);
    removed
}

/// SIGKILL to init, and nobody else, waiting until it is gone. In a PID namespace of its own it takes all with it.
fn kill_init(container: &Container, record: Option<&Record>) -> Result<()> {
    let Some(pidfd) = container.read_init()?.map(|init: InitProcess| init.pidfd()).transpose()?.flatten() else {
        return Ok(());
    };
    let what = || format!("kill the init of container {}", container.id);
    match sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Ok(()) | Err(nix::Error::ESRCH) => {}
        Err(errno) => return Err(Error::from(errno).context("pidfd_send_signal").context(what())),
    }
    if let Some(record) = record {
        if record.cgroups.is_frozen() {
            // On v1 a frozen process does not even die.
            record.cgroups.thaw().context(what)?;
        }
        if record.restored {
            // Nor does one that CRIU holds.
            record.cgroups.kill().context(what)?;
        }
    }
    let mut wanted = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    match poll(&mut wanted, PollTimeout::from(10_000u16)).context(|| "poll").context(what)? {
        0 => Err(Error::new(format!("{}: it is still there 10 s after SIGKILL", what()))),
        _ => Ok(()),
    }
}

/// Removes cgroups, resctrl groups and state. Processes in the cgroups are killed only if init ever entered them, for
/// before there can be none of ours, and if they did not end with init.
pub fn remove_all(container: &Container, record: &Record, entered: bool) -> Result<()> {
    // Only a unit can be somebody else's.
    let has_init = record.cgroups.unit.is_none() || container.read_init()?.is_some();
    let cgroups = record.cgroups.own(&record.id, has_init)?;
    if entered && !record.ends_with_init || record.restored {
        cgroups.kill()?;
    }
    // The state goes last: as long as something is left, it tells what.
    cgroups.remove()?;
    if let Some(group) = &record.rdt {
        group.remove()?;
    }
    container.remove()
}

/// The last hooks; one that fails does not keep the others from running, nor the container (runtime.md: lifecycle).
pub fn run_poststop(record: &Record) {
    let poststop = record.hooks.poststop().as_deref().unwrap_or_default();
    if poststop.is_empty() {
        return;
    }
    match hooks::Outputs::open(&record.annotations) {
        Ok(outputs) => hooks::run_all("poststop", poststop, &record.to_json(Status::Stopped, None), &outputs),
        Err(error) => log::warning(&format!("poststop hooks: {error}")),
    }
}
