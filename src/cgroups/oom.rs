//! Being told when the kernel kills for lack of memory.
//!
//! v1 signals an eventfd when a cgroup is out of memory. v2 counts the processes that it has killed in `memory.events`,
//! and wakes who polls the file when a number in it changes.

use super::{Cgroups, open_directory, setting};
use crate::error::{Context, Result};
use crate::files;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// What to poll, and how to tell what it means.
pub enum OomEvents {
    Legacy(EventFd),
    Unified { file: OwnedFd, known: u64 },
}

impl Cgroups {
    /// Begins to listen. None without a memory controller.
    pub fn oom_events(&self) -> Result<Option<OomEvents>> {
        if self.unified { listen_v2(self) } else { listen_v1(self) }
    }
}

fn listen_v1(cgroups: &Cgroups) -> Result<Option<OomEvents>> {
    let Some(directory) = cgroups.directory("memory").map(open_directory).transpose()? else {
        return Ok(None);
    };
    let what = || "listen for lack of memory";
    let control = files::open_at(directory.as_fd(), Path::new("memory.oom_control"), OFlag::O_RDONLY, 0);
    let control = control.context(|| "open memory.oom_control").context(what)?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let events = EventFd::from_value_and_flags(0, flags).context(|| "eventfd").context(what)?;
    let request = format!("{} {}", events.as_fd().as_raw_fd(), control.as_raw_fd());
    // The kernel remembers which file it was, not its descriptor.
    setting::write(directory.as_fd(), "cgroup.event_control", &request).context(what)?;
    Ok(Some(OomEvents::Legacy(events)))
}

fn listen_v2(cgroups: &Cgroups) -> Result<Option<OomEvents>> {
    let Some(directory) = cgroups.directory("memory").map(open_directory).transpose()? else {
        return Ok(None);
    };
    match files::open_at(directory.as_fd(), Path::new("memory.events"), OFlag::O_RDONLY, 0) {
        Ok(file) => {
            let known = kills(&file)?;
            Ok(Some(OomEvents::Unified { file, known }))
        }
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| "open memory.events"),
    }
}

/// Reading is also what makes the next change wake us.
fn kills(file: &OwnedFd) -> Result<u64> {
    let mut text = [0u8; 1024];
    let length = match nix::sys::uio::pread(file, &mut text, 0) {
        Ok(length) => length,
        // The cgroup is gone, and with it who could be killed.
        Err(Errno::ENODEV) => 0,
        Err(errno) => return Err(errno).context(|| "read memory.events"),
    };
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
    Ok(text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0))
}

impl OomEvents {
    /// What becomes ready when there may be something new.
    pub fn poll_fd(&self) -> PollFd<'_> {
        match self {
            OomEvents::Legacy(events) => PollFd::new(events.as_fd(), PollFlags::POLLIN),
            OomEvents::Unified { file, .. } => PollFd::new(file.as_fd(), PollFlags::POLLPRI),
        }
    }

    /// How many events there have been since the last call.
    pub fn new_events(&mut self, cgroups: &Cgroups) -> Result<u64> {
        match self {
            OomEvents::Legacy(events) => match events.read() {
                // The removal of the cgroup is signalled in the same way.
                Ok(_) => Ok(u64::from(cgroups.oom_kills().is_some())),
                Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
                Err(errno) => Err(errno).context(|| "read an eventfd"),
            },
            OomEvents::Unified { file, known } => {
                let before = std::mem::replace(known, kills(file)?.max(*known));
                Ok(known.saturating_sub(before))
            }
        }
    }
}
