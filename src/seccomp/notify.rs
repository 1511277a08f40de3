//! SCMP_ACT_NOTIFY: the descriptor of the listener goes to an agent, with what it is the listener of
//! (config-linux.md: containerProcessState).
//!
//! It comes into being in the process that is filtered, which may not be able to send it any more: the filter may stop
//! that very call until the agent, who does not have the listener yet, lets it go on. So the process tells beforehand
//! which number the descriptor will have, and the parent takes a copy as soon as it is there.

use crate::error::{Context, Error, Result};
use crate::sys;
use crate::terminal::connect_to;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the agent is, and what it is told beside the state.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Listener {
    path: PathBuf,
    #[serde(default)]
    metadata: String,
}

/// containerProcessState, whose one descriptor has this name.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: serde_json::Value,
}

impl Listener {
    /// The agent of a profile, if it names one.
    pub fn new(profile: &LinuxSeccomp) -> Option<Listener> {
        let path = profile.listener_path().clone().filter(|path| !path.as_os_str().is_empty())?;
        Some(Listener { path, metadata: profile.listener_metadata().clone().unwrap_or_default() })
    }

    /// Takes the listener from a process that is about to have it as `number`, and gives it to the agent. `state` is the
    /// container's as JSON, `pid` the process's as the runtime sees it.
    pub fn hand_over(&self, process: BorrowedFd<'_>, number: i32, pid: Pid, state: &str) -> Result<()> {
        let what = || format!("hand the seccomp listener to {}", self.path.display());
        let listener = take(process, number).context(what)?;
        let state: serde_json::Value = serde_json::from_str(state).context(what)?;
        let oci_version = state.get("ociVersion").and_then(serde_json::Value::as_str).unwrap_or_default().to_string();
        let message = ProcessState {
            oci_version: &oci_version,
            fds: ["seccompFd"],
            pid: pid.as_raw(),
            metadata: &self.metadata,
            state,
        };
        let message = serde_json::to_vec(&message).context(what)?;
        let agent = connect_to(&self.path).context(what)?;
        sys::send_with_fd(agent.as_fd(), &message, listener.as_fd()).context(|| "sendmsg").context(what)
    }
}

/// Copies the descriptor once it is there; ten seconds at most.
fn take(process: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut pause = Duration::from_micros(20);
    loop {
        match sys::take_fd(process, number) {
            Ok(fd) => {
                let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let name = nix::fcntl::readlink(link.as_str()).context(|| format!("readlink {link}"))?;
                return match name.to_string_lossy().contains("seccomp notify") {
                    true => Ok(fd),
                    false => Err(Error::new(format!("descriptor {number} of the process is {name:?}"))),
                };
            }
            Err(Errno::EBADF) if Instant::now() < deadline => {}
            Err(errno) => return Err(Error::from(errno).context("pidfd_getfd")),
        }
        // A process that has ended, or given up, never has it; its own words are in the socket.
        let mut wanted = [PollFd::new(process, PollFlags::POLLIN)];
        if poll(&mut wanted, PollTimeout::ZERO) == Ok(1) {
            return Err(Error::new("the process has ended"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
