//! `start`: tells the init of a created container to execute the user's program, and waits until it has.

use crate::error::{Error, Result};
use crate::notify_socket::Proxy;
use crate::state::{Container, Lock, ProcessStat, Record, START_SOCKET, Status};
use crate::sync::{self, Message};
use crate::{create, delete, hooks, log};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::path::Path;

/// `corten start ID`
pub fn start(root: &Path, id: &str) -> Result<()> {
    let container = Container::find(root, id)?;
    container.lock(Lock::Exclusive)?;
    let record = container.record()?;
    let (status, init) = container.status(&record)?;
    match status {
        Status::Created => {}
        Status::Stopped => return Err(Error::new("cannot start a container that has stopped")),
        Status::Creating => return Err(Error::new("cannot start a container that is not created yet")),
        Status::Paused => return Err(Error::new("cannot start a container in the paused state")),
        Status::Running => return Err(Error::new("cannot start an already running container")),
    }
    if record.process.is_none() {
        return Err(Error::new("config.json: /process: is required to start a container"));
    }
    let notify = Proxy::listen(&container)?;
    let socket = sync::connect_for_start(container.directory(), START_SOCKET)?;
    socket.send(&Message::Start)?;
    // READY, then the end of the conversation: the socket has gone with execve.
    let outcome = match socket.receive()? {
        Some(Message::Ready) => socket.receive()?,
        None => Some(Message::Error(Error::new("container init ended"))),
        other => other,
    };
    match outcome {
        None => {}
        Some(Message::Error(error)) => {
            // Init is gone: what it leaves is a stopped container.
            return Err(create::in_init(error));
        }
        Some(other) => return Err(Error::new(format!("the container's init sent {other:?}"))),
    }
    let pid = init.map(|init| init.pid);
    // A filter may keep even the reason of a failure from being told; that nothing was executed the kernel knows.
    if let Some(stat) = pid.map(ProcessStat::read).transpose()?.flatten()
        && !stat.has_executed()
    {
        return Err(create::in_init(Error::new("the program could not be executed")));
    }
    log::debug(|| format!("container {id} is running"));
    run_poststart(&record, pid).map_err(|error| stop(&container, &record, error))?;
    let (Some(notify), Some(init)) = (notify, init) else { return Ok(()) };
    let Some(pidfd) = init.pidfd()? else { return Ok(()) };
    container.unlock();
    notify.wait(init.pid, pidfd.as_fd())
}

/// The hooks that run when the program does.
pub fn run_poststart(record: &Record, pid: Option<Pid>) -> Result<()> {
    let poststart = record.hooks.poststart().as_deref().unwrap_or_default();
    if poststart.is_empty() {
        return Ok(());
    }
    let outputs = hooks::Outputs::open(&record.annotations)?;
    hooks::run("poststart", poststart, &record.to_json(Status::Running, pid), &outputs)
}

/// A failing poststart hook stops the container and continues with its deletion (runtime.md: lifecycle, step 9).
pub fn stop(container: &Container, record: &Record, error: Error) -> Error {
    match delete::kill_and_remove(container, record) {
        Ok(()) => error,
        Err(left) => error.hint(format!("and stopping the container failed: {left}")),
    }
}
