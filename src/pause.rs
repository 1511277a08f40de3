//! `pause` and `resume`: the processes of a container stand still, and go on.

use crate::error::{Error, Result};
use crate::state::{Container, Lock, Status};
use std::path::Path;

/// `corten pause ID`
pub fn pause(root: &Path, id: &str) -> Result<()> {
    let container = Container::find(root, id)?;
    container.lock(Lock::Exclusive)?;
    let record = container.record()?;
    match container.status(&record)?.0 {
        Status::Created | Status::Running => record.cgroups.freeze(),
        Status::Creating | Status::Paused | Status::Stopped => Err(Error::new("container not running")),
    }
}

/// `corten resume ID`
pub fn resume(root: &Path, id: &str) -> Result<()> {
    let container = Container::find(root, id)?;
    container.lock(Lock::Exclusive)?;
    let record = container.record()?;
    match container.status(&record)?.0 {
        Status::Paused => record.cgroups.thaw(),
        _ => Err(Error::new("container not paused")),
    }
}
