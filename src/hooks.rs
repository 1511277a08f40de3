//! Hooks: programs of the configuration that run at fixed points of a container's life (rule R30).
//!
//! Each gets the state on stdin, exactly the environment of the configuration, no descriptor beyond 0-2, and a process
//! group of its own, which is killed as a whole when the time is up. What it writes is part of the error.

use crate::error::{Context, Error, Result};
use crate::log;
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::Hook;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What is kept of a hook's output.
const MAX_OUTPUT: usize = 4096;

/// Where the output of hooks goes if the annotations `run.oci.hooks.stdout` and `run.oci.hooks.stderr` name files (crun).
#[derive(Default)]
pub struct Outputs {
    stdout: Option<File>,
    stderr: Option<File>,
}

impl Outputs {
    /// Opens the files, to append to them.
    pub fn open(annotations: &BTreeMap<String, String>) -> Result<Outputs> {
        let open = |name: &str| {
            let key = format!("run.oci.hooks.{name}");
            let Some(path) = annotations.get(&key) else { return Ok(None) };
            // A FIFO without a reader must not make us wait (rule R23).
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            options.open(path).map(Some).context(|| format!("config.json: /annotations/{key}: open {path}"))
        };
        Ok(Outputs { stdout: open("stdout")?, stderr: open("stderr")? })
    }

    /// The files.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.stdout.iter().chain(&self.stderr).map(AsFd::as_fd)
    }
}

/// Runs the hooks of one kind in order, up to the first that fails.
pub fn run(kind: &str, hooks: &[Hook], state: &str, outputs: &Outputs) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, state, outputs).context(|| running(kind, index, hook))?;
    }
    Ok(())
}

/// Runs them all; one that fails is only worth a warning (runtime.md: poststop).
pub fn run_all(kind: &str, hooks: &[Hook], state: &str, outputs: &Outputs) {
    for (index, hook) in hooks.iter().enumerate() {
        if let Err(error) = run_one(hook, state, outputs) {
            log::warning(&format!("{}: {error}", running(kind, index, hook)));
        }
    }
}

/// As runc says it.
fn running(kind: &str, index: usize, hook: &Hook) -> String {
    format!("error running {kind} hook #{index}: {}", hook.path().display())
}

fn run_one(hook: &Hook, state: &str, outputs: &Outputs) -> Result<()> {
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for variable in hook.env().iter().flatten() {
        // What has no `=` cannot be given to a process in another form.
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    // One pipe for both outputs, and no /dev/null: a startContainer hook has the container's /dev, whose nodes cannot be
    // opened where the rootfs lies on a file system that is mounted nodev.
    let (reader, writer) = std::io::pipe().context(|| "pipe")?;
    let output = |file: &Option<File>| match file {
        Some(file) => file.try_clone().map(Stdio::from).context(|| "dup"),
        None => writer.try_clone().map(Stdio::from).context(|| "dup"),
    };
    command.stdin(Stdio::piped()).process_group(0);
    command.stdout(output(&outputs.stdout)?).stderr(output(&outputs.stderr)?);
    let mut child = command.spawn().context(|| "start it")?;
    // What we hold of the writing end would keep the pipe from ending.
    drop((command, writer));
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let finished = supervise(&mut child, reader, state.as_bytes(), timeout);
    // Nothing of a hook that is over may stay, and a hook that is not over is killed as a whole.
    if finished.is_err() {
        let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        let _ = child.wait();
    }
    let (status, output) = finished?;
    let output = output.trim();
    let error = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => Error::new(format!("exit status {code}")),
        (None, signal) => Error::new(format!("killed by signal {}", signal.unwrap_or(0))),
    };
    Err(if output.is_empty() { error } else { error.hint(format!("it wrote: {output}")) })
}

/// Feeds stdin, collects the output and waits for the end, all at once and bounded in time.
fn supervise(
    child: &mut Child,
    reader: PipeReader,
    state: &[u8],
    timeout: Option<Duration>,
) -> Result<(ExitStatus, String)> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let pidfd = sys::pidfd_open(Pid::from_raw(child.id() as i32)).context(|| "pidfd_open")?;
    let mut stdin = child.stdin.take();
    let mut reader = Some(reader);
    let mut left = state;
    let mut output = Vec::new();
    if let Some(stdin) = &stdin {
        set_nonblocking(stdin.as_fd())?;
    }
    if let Some(reader) = &reader {
        set_nonblocking(reader.as_fd())?;
    }
    loop {
        let mut wanted = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        wanted.extend(reader.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        wanted.extend(stdin.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        let wait = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => {
                return Err(Error::new(format!("not finished after {} s", timeout.unwrap_or_default().as_secs())));
            }
            // A poll lasts 50 days at most; the loop comes back.
            Some(left) => {
                PollTimeout::try_from(left.as_millis().min(i32::MAX as u128) as i32 + 1).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut wanted, wait) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from(errno).context("poll")),
        }
        let ended = wanted.first().is_some_and(|fd| fd.any().unwrap_or(false));
        if reader.as_mut().is_some_and(|pipe| drain(pipe, &mut output)) {
            reader = None;
        }
        if let Some(pipe) = &mut stdin {
            match pipe.write(left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // A hook need not read its stdin.
                Err(_) => left = &[],
            }
            if left.is_empty() {
                stdin = None;
            }
        }
        if ended {
            let status = child.wait().context(|| "wait for it")?;
            return Ok((status, String::from_utf8_lossy(&output).into_owned()));
        }
    }
}

fn set_nonblocking(fd: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop).context(|| "fcntl(O_NONBLOCK)")
}

/// Reads what is there, keeping the end, where it says why; whether the pipe has ended.
fn drain(pipe: &mut impl Read, output: &mut Vec<u8>) -> bool {
    let mut buffer = [0u8; 4096];
    for _ in 0..64 {
        match pipe.read(&mut buffer) {
            Ok(0) => return true,
            Ok(length) => {
                output.extend_from_slice(buffer.get(..length).unwrap_or_default());
                output.drain(..output.len().saturating_sub(MAX_OUTPUT));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(json: &str) -> Hook {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_failing_hook_tells_what_it_wrote() {
        let hook = hook(r#"{"path": "/bin/sh", "args": ["sh", "-c", "echo so; echo why >&2; exit 3"]}"#);
        let error = run("prestart", &[hook], "{}", &Outputs::default()).unwrap_err().to_string();
        assert_eq!(error, "error running prestart hook #0: /bin/sh: exit status 3 (it wrote: so\nwhy)");
    }

    #[test]
    fn the_environment_is_the_configured_one() {
        let hook = hook(
            r#"{"path": "/bin/sh", "args": ["sh", "-c", "test \"$(env | grep -v ^PWD= | grep -v ^SHLVL= | grep -v ^_=)\" = A=b && grep -q x"], "env": ["A=b"]}"#,
        );
        assert_eq!(run("prestart", std::slice::from_ref(&hook), "x", &Outputs::default()), Ok(()));
        assert!(run("prestart", &[hook], "y", &Outputs::default()).is_err());
    }

    #[test]
    fn the_time_out_kills_the_whole_group() {
        let hook = hook(r#"{"path": "/bin/sh", "args": ["sh", "-c", "sleep 100 & wait"], "timeout": 1}"#);
        let begin = Instant::now();
        assert!(
            run("prestart", &[hook], "{}", &Outputs::default())
                .unwrap_err()
                .to_string()
                .contains("not finished after 1 s")
        );
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
