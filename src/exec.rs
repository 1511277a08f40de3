//! `exec`: one more process in a running container, with the same confinement as its init.
//!
//! The parent enters the container's mount namespace, and its PID namespace for children, *before* the clone, and leaves
//! them afterwards. So the child, which a hostile payload can see from its first moment, never had the host's root or
//! working directory, and it is not dumpable. Descriptors of the host it inherits with everything else, and closes them
//! before it does anything: a payload with CAP_SYS_PTRACE would have to win that race (rule R11, SECURITY.md).

use crate::cli::ExecArgs;
use crate::error::{Context, Error, Result};
use crate::init::die_with_parent;
use crate::plan::{self, Process};
use crate::process::Confinement;
use crate::seccomp::Filter;
use crate::state::{Container, InitProcess, Lock, Record, Status};
use crate::sync::{self, Message, Socket};
use crate::sys::{self, Cloned};
use crate::{cgroups, create, files, log, pidfile, run, signals};
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// `corten exec`; the exit status.
pub fn exec(root: &Path, args: &ExecArgs) -> Result<i32> {
    let (id, words) = args.split()?;
    let container = Container::find(root, &id)?;
    create::check_preserved(args.preserve_fds)?;
    container.lock(Lock::Shared)?;
    let record = container.record()?;
    let (status, init) = container.status(&record)?;
    match status {
        Status::Running | Status::Created => {}
        Status::Paused => {
            return Err(Error::new("cannot exec in a paused container (use --ignore-paused to override)"));
        }
        Status::Stopped => return Err(Error::new("cannot exec in a stopped container")),
        Status::Creating => return Err(Error::new("cannot exec in a container that is not created yet")),
    }
    let mut process = process(args, &words, &record)?;
    process.grant_what_is_there()?;
    let stopped = || Error::new("cannot exec in a stopped container");
    let init = init.ok_or_else(stopped)?;
    let init_pidfd = init.pidfd()?.ok_or_else(stopped)?;
    let joined = Joined::new(&record, init, init_pidfd)?;
    let (pid, pidfd, socket) = launch(args, &container, &record, &process, joined)?;

    let outcome = converse(&socket, args, &record, &process, pid);
    if let Err(error) = outcome {
        create::end(pid, &pidfd);
        if let Some(file) = &args.pid_file {
            pidfile::remove(file, pid);
        }
        return Err(error.context("unable to start container process"));
    }
    container.unlock();
    if args.detach {
        return Ok(0);
    }
    run::wait(pid, pidfd.as_fd())
}

/// The process to run: from a file, or the container's own with what the command line changes. The defaults are those
/// of the configuration that the container was created from, whatever has become of the file since.
fn process(args: &ExecArgs, words: &[OsString], record: &Record) -> Result<Process> {
    if let Some(file) = &args.process {
        let bytes = plan::read_config(file)?;
        let mut given = plan::parse_process(&bytes, &file.display().to_string())?;
        if given.oom_score_adj().is_none() {
            // As runc does: an engine protects itself from the OOM killer, and what it executes must not inherit that.
            given.set_oom_score_adj(record.process.as_ref().and_then(|process| process.oom_score_adj()));
        }
        return Process::new(&given, &format!("{}: ", file.display()));
    }
    if words.is_empty() {
        return Err(Error::new("exec args cannot be empty"));
    }
    let mut process = record.process.clone().unwrap_or_default();
    let text =
        |word: &OsString| word.to_str().map(str::to_string).ok_or_else(|| Error::new(format!("{word:?} is not UTF-8")));
    process.set_args(Some(words.iter().map(text).collect::<Result<_>>()?));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if !args.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(args.env.iter().cloned());
        process.set_env(Some(env));
    }
    if let Some(user) = &args.user {
        let (uid, gid) = parse_user(user)?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    Process::new(&process, "exec: ")
}

/// Rule R17: `UID[:GID]` in plain decimal; a name is never looked up, nor anything guessed. Without a group that of the
/// configuration stays.
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |part: &str, what: &str| match part.parse::<u32>() {
        Ok(number) if number != u32::MAX && part.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(Error::new(format!("bad {what}: {part:?} is no number between 0 and 4294967294"))),
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid, "uid")?, Some(number(gid, "gid")?))),
        None => Ok((number(text, "uid")?, None)),
    }
}

/// The container as seen by a process that is about to join it.
struct Joined {
    init_pidfd: OwnedFd,
    /// The namespaces that the parent enters before the clone.
    before: CloneFlags,
    /// Those that the child enters after it.
    after: CloneFlags,
    /// The way back.
    own_mounts: OwnedFd,
    own_root: OwnedFd,
    own_cwd: OwnedFd,
    /// Without a mount namespace of its own the container only has another root.
    root: Option<OwnedFd>,
}

impl Joined {
    fn new(record: &Record, init: InitProcess, init_pidfd: OwnedFd) -> Result<Joined> {
        let namespaces = record.namespaces();
        let before = namespaces & (CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID);
        let path = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = match namespaces.contains(CloneFlags::CLONE_NEWNS) {
            true => None,
            false => {
                let root = format!("/proc/{}/root", init.pid);
                Some(files::open(Path::new(&root), path).context(|| "open the container's root")?)
            }
        };
        let mounts = Path::new("/proc/self/ns/mnt");
        Ok(Joined {
            init_pidfd,
            before,
            after: namespaces & !before,
            own_mounts: files::open(mounts, OFlag::O_RDONLY).context(|| "open /proc/self/ns/mnt")?,
            own_root: files::open(Path::new("/"), path).context(|| "open the root directory")?,
            own_cwd: files::open(Path::new("."), path).context(|| "open the working directory")?,
            root,
        })
    }

    fn enter(&self) -> Result<()> {
        if self.before.is_empty() {
            return Ok(());
        }
        sys::setns(self.init_pidfd.as_fd(), self.before)
            .context(|| format!("join the container: setns(pidfd, {:?})", self.before))
    }

    /// Back to the host's mounts, and for children to our own PID namespace.
    fn leave(&self) -> Result<()> {
        if self.before.contains(CloneFlags::CLONE_NEWNS) {
            sys::setns(self.own_mounts.as_fd(), CloneFlags::CLONE_NEWNS)
                .context(|| "leave the container's mount namespace: setns")?;
            // The caller's root need not be that of his mount namespace.
            nix::unistd::fchdir(&self.own_root).context(|| "go back to the root directory: fchdir")?;
            nix::unistd::chroot(".").context(|| "go back to the root directory: chroot")?;
            nix::unistd::fchdir(&self.own_cwd).context(|| "go back to the working directory: fchdir")?;
        }
        Ok(())
    }
}

fn launch(
    args: &ExecArgs,
    container: &Container,
    record: &Record,
    process: &Process,
    joined: Joined,
) -> Result<(Pid, OwnedFd, Socket)> {
    let filter = container.read_filter()?;
    let keyring = create::keyring_name(&record.id, !record.keyring)?;
    let entrance = record.cgroups.enter()?;
    let ignored_signals = signals::ignored()?;
    let (socket, child_socket) = sync::pair()?;
    process.attributes.set_initial_affinity()?;
    nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    joined.enter()?;
    let cgroup = entrance.into.as_ref().map(AsFd::as_fd);
    let cloned = sys::clone(CloneFlags::empty(), cgroup).context(|| "make the process: clone3");
    if let Ok(Cloned::Child) = cloned {
        // Our copy of the parent's end would keep its EOF from us.
        sys::close_inherited(socket.as_fd());
        let child = Child {
            args,
            container,
            record,
            process,
            joined,
            socket: child_socket,
            tasks: entrance.tasks,
            filter,
            keyring,
            ignored_signals,
        };
        child.run()
    }
    let left = joined.leave();
    match cloned? {
        Cloned::Parent(pid, pidfd) => match left {
            Ok(()) => Ok((pid, pidfd, socket)),
            Err(error) => {
                create::end(pid, &pidfd);
                Err(error)
            }
        },
        Cloned::Child => Err(Error::new("the child came back")),
    }
}

/// READY, the pid file, PROCEED, and the end of the conversation by execve.
fn converse(socket: &Socket, args: &ExecArgs, record: &Record, process: &Process, pid: Pid) -> Result<()> {
    match socket.receive()? {
        Some(Message::Ready) => {}
        Some(Message::Error(error)) => return Err(error),
        Some(other) => return Err(Error::new(format!("the process sent {other:?}"))),
        None => return Err(Error::new("the process ended before it could run the program")),
    }
    if let Some(score) = process.oom_score_adj {
        create::set_oom_score_adj(pid, score)?;
    }
    if let Some(file) = &args.pid_file {
        pidfile::write(file, pid)?;
    }
    if let Some(group) = &record.rdt {
        group.assign(pid)?;
    }
    if waits(args, record, process) {
        socket.send(&Message::Proceed)?;
    }
    match socket.receive()? {
        None => Ok(()),
        Some(Message::Error(error)) => Err(error),
        Some(other) => Err(Error::new(format!("the process sent {other:?}"))),
    }
}

/// The new process.
struct Child<'a> {
    args: &'a ExecArgs,
    container: &'a Container,
    record: &'a Record,
    process: &'a Process,
    joined: Joined,
    socket: Socket,
    tasks: Vec<OwnedFd>,
    filter: Option<Filter>,
    keyring: Option<CString>,
    ignored_signals: u64,
}

/// Whether the parent has something to do between READY and execve.
fn waits(args: &ExecArgs, record: &Record, process: &Process) -> bool {
    args.pid_file.is_some() || process.oom_score_adj.is_some() || record.rdt.is_some()
}

impl Child<'_> {
    fn run(&self) -> ! {
        let failure = match self.story() {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        let _ = self.socket.send(&Message::Error(failure));
        sys::exit(255)
    }

    /// Closes what the parent has open of the host, but for what the next steps need.
    fn let_go_of_the_host(&self) {
        let joined = &self.joined;
        for fd in [&joined.own_mounts, &joined.own_root, &joined.own_cwd] {
            sys::close_inherited(fd.as_fd());
        }
        self.container.close_inherited();
        log::close_inherited();
    }

    fn story(&self) -> Result<Infallible> {
        self.let_go_of_the_host();
        die_with_parent()?;
        nix::unistd::setsid().context(|| "setsid")?;
        cgroups::join(&self.tasks)?;
        self.process.attributes.set_final_affinity()?;
        if !self.joined.after.is_empty() {
            sys::setns(self.joined.init_pidfd.as_fd(), self.joined.after)
                .context(|| format!("join the container: setns(pidfd, {:?})", self.joined.after))?;
        }
        if let Some(root) = &self.joined.root {
            crate::rootfs::change_root(root.as_fd())?;
        }
        umask(Mode::empty());
        // In the container's PID namespace, but out of reach of its mounts.
        if let Some(procfs) = self.process.labels.open()? {
            self.process.labels.set(&procfs, self.keyring.is_some())?;
        }
        let confinement = Confinement {
            process: self.process,
            attributes: &self.record.attributes,
            filter: self.filter.as_ref(),
            keyring: self.keyring.as_deref(),
            ignored_signals: self.ignored_signals,
            make_cwd: false,
            preserve_fds: self.args.preserve_fds,
        };
        let ready = confinement.apply(&[self.socket.as_fd()])?;
        nix::sys::prctl::set_pdeathsig(None).context(|| "prctl(PR_SET_PDEATHSIG, 0)")?;
        self.socket.send(&Message::Ready)?;
        if waits(self.args, self.record, self.process) {
            self.socket.expect(&Message::Proceed)?;
        }
        Err(ready.execute())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("1000"), Ok((1000, None)));
        assert_eq!(parse_user("1:2"), Ok((1, Some(2))));
        for bad in ["", "root", "-1", "+1", " 1", "1 ", "1:", ":1", "1:-5", "4294967295", "4294967296", "1:2:3", "0x1"]
        {
            assert!(parse_user(bad).is_err(), "{bad:?}");
        }
    }
}
