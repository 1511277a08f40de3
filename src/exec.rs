//! `exec`: one more process in a running container, with the same confinement as its init.
//!
//! A payload must not see anything of the host in a process that is about to join it, even if it may trace (rule R11). So
//! the child closes the descriptors of the host that it has inherited, joins the container, where it has the container's
//! root and working directory, and only then makes one more process, which is the first to be in the PID namespace.
//!
//! Where the container has a user namespace, nobody in there may trace what still belongs to the host's, and the namespaces
//! need not all belong to the container's. There the parent enters the mount namespace, and the PID namespace for children,
//! *before* the clone, and leaves them afterwards; unless it has no privileges, with which only the child may join, once it
//! is in the user namespace.

use crate::caller::Caller;
use crate::cli::{ExecArgs, decimal_id};
use crate::error::{Context, Error, Result};
use crate::init::{die_with_parent, hand_over};
use crate::namespaces::Visit;
use crate::plan::{self, Process};
use crate::process::Confinement;
use crate::rootfs;
use crate::rootfs::path::open_in_root;
use crate::seccomp::Filter;
use crate::state::{Container, InitProcess, Lock, Record, Status};
use crate::sync::{self, Message, Socket};
use crate::sys::{self, Cloned};
use crate::terminal::{Destination, Terminal, Way, connect_to};
use crate::{cgroups, create, files, log, pidfile, run, scheduling, userns};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use oci_spec::runtime::{Capability, LinuxCapabilities};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// `corten exec`; the exit status.
pub fn exec(root: &Path, args: &ExecArgs) -> Result<i32> {
    let (id, words) = args.split()?;
    let container = Container::find(root, &id)?;
    create::check_preserved(args.preserve_fds)?;
    let caller = Caller::look()?;
    // A pipe may take its time, and nobody has to wait for us meanwhile.
    let given = args.process.as_deref().map(|file| files::read_given(file, plan::MAX_CONFIG)).transpose()?;
    container.lock(Lock::Shared)?;
    let record = container.record()?;
    let (status, init) = container.status(&record)?;
    match status {
        Status::Running | Status::Created => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => {
            return Err(Error::new("cannot exec in a paused container (use --ignore-paused to override)"));
        }
        Status::Stopped => return Err(Error::new("cannot exec in a stopped container")),
        Status::Creating => return Err(Error::new("cannot exec in a container that is not created yet")),
    }
    let mut process = process(args, given.as_deref(), &words, &record)?;
    let has_userns = record.namespaces().contains(CloneFlags::CLONE_NEWUSER);
    process.grant_what_is_there(if has_userns { u64::MAX } else { caller.permitted });
    let way = Way::open(process.terminal, args.detach, args.console_socket.as_deref())?;
    if let Some(size) = way.as_ref().and_then(|way| way.size) {
        process.console_size = Some(size);
    }
    let (ours, theirs) = way.map_or((None, None), |way| (way.ours, Some(way.theirs)));
    let stopped = || Error::new("cannot exec in a stopped container");
    let init = init.ok_or_else(stopped)?;
    let init_pidfd = init.pidfd()?.ok_or_else(stopped)?;
    let joined = Joined::new(&record, init, init_pidfd, &caller)?;
    let mut exec = Exec { args, container: &container, record: &record, process: &process, caller, child: None };
    let outcome = exec.run(joined, theirs).and_then(|()| run::open_console(ours.as_ref()));
    let (console, pid, pidfd) = match (outcome, exec.child) {
        (Ok(console), Some((pid, pidfd))) => (console, pid, pidfd),
        (Ok(_), None) => return Err(Error::new("no process was made")),
        (Err(error), child) => {
            if let Some((pid, pidfd)) = child {
                create::end(pid, &pidfd);
                if let Some(file) = &args.pid_file {
                    pidfile::remove(file, pid);
                }
            }
            return Err(error.context("unable to start container process"));
        }
    };
    container.unlock();
    if args.detach {
        return Ok(0);
    }
    let status = run::wait(pid, pidfd.as_fd(), console, None)?;
    if let Some(oom) = record.cgroups.explain_oom(status) {
        log::warning(&format!("process {pid} of container {}: {oom}", record.id));
    }
    Ok(status)
}

/// The process to run: from a file, or the container's own with what the command line changes. The defaults are those
/// of the configuration that the container was created from, whatever has become of the file since.
fn process(args: &ExecArgs, given: Option<&[u8]>, words: &[OsString], record: &Record) -> Result<Process> {
    if let (Some(file), Some(bytes)) = (&args.process, given) {
        let mut given = plan::parse_process(bytes, &file.display().to_string())?;
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
    // Whatever the container's own process has.
    process.set_terminal(Some(args.tty));
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
    if !args.additional_gids.is_empty() {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        process.user_mut().set_additional_gids(Some(groups));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if !args.cap.is_empty() {
        let capabilities = with_capabilities(process.capabilities().clone().unwrap_or_default(), &args.cap);
        process.set_capabilities(Some(capabilities));
    }
    Process::new(&process, "exec: ")
}

/// Rule R13: further capabilities are never inheritable, and ambient only where the container's own make them so.
fn with_capabilities(mut sets: LinuxCapabilities, names: &[String]) -> LinuxCapabilities {
    let mut unknown = BTreeSet::new();
    for name in names {
        let Ok(capability) = serde_json::from_value::<Capability>(name.as_str().into()) else {
            // Only worth a warning, as in a configuration (config.md: capabilities).
            unknown.insert(name.clone());
            continue;
        };
        let with = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let inheritable = sets.inheritable().as_ref().is_some_and(|set| set.contains(&capability));
        sets.set_bounding(with(sets.bounding()));
        sets.set_effective(with(sets.effective()));
        sets.set_permitted(with(sets.permitted()));
        if inheritable {
            sets.set_ambient(with(sets.ambient()));
        }
    }
    plan::warn_of_unknown_capabilities(&unknown);
    sets
}

/// Rule R17: `UID[:GID]` in plain decimal; a name is never looked up, nor anything guessed. Without a group that of the
/// configuration stays.
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((parse_id(uid, "uid")?, Some(parse_id(gid, "gid")?))),
        None => Ok((parse_id(text, "uid")?, None)),
    }
}

fn parse_id(text: &str, what: &str) -> Result<u32> {
    decimal_id(text).ok_or_else(|| Error::new(format!("bad {what}: {text:?} is no number between 0 and 4294967294")))
}

/// The container as seen by a process that is about to join it.
struct Joined {
    init_pidfd: OwnedFd,
    /// The namespaces that the parent enters before the clone.
    before: CloneFlags,
    /// Those that the child enters after it.
    after: CloneFlags,
    /// The way back.
    visit: Visit,
    /// Without a mount namespace of its own the container only has another root.
    root: Option<OwnedFd>,
}

impl Joined {
    fn new(record: &Record, init: InitProcess, init_pidfd: OwnedFd, caller: &Caller) -> Result<Joined> {
        let namespaces = record.namespaces();
        // Where the container has no user namespace of its own, whoever may trace in there may trace a process that comes from
        // outside, too. So nothing is born in its PID namespace that still has the host open (rule R11).
        let before = match caller.may_mount && namespaces.contains(CloneFlags::CLONE_NEWUSER) {
            true => namespaces & (CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID),
            false => CloneFlags::empty(),
        };
        let root = match namespaces.contains(CloneFlags::CLONE_NEWNS) {
            true => None,
            false => {
                let root = format!("/proc/{}/root", init.pid);
                let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
                Some(files::open(Path::new(&root), directory).context(|| "open the container's root")?)
            }
        };
        // Nothing more is cloned afterwards, so there is no way back to take from the PID namespace.
        let visit = Visit::prepare(before & CloneFlags::CLONE_NEWNS)?;
        // Not `& !before`, which would drop the flags that nix does not know.
        Ok(Joined { init_pidfd, before, after: namespaces.difference(before), visit, root })
    }

    /// Whether the process will be another one than the parent's child: a PID namespace that was joined is for children.
    fn hands_over(&self) -> bool {
        self.after.contains(CloneFlags::CLONE_NEWPID)
    }

    fn enter(&self) -> Result<()> {
        if self.before.is_empty() {
            return Ok(());
        }
        sys::setns(self.init_pidfd.as_fd(), self.before)
            .context(|| format!("join the container: setns(pidfd, {:?})", self.before))
    }
}

/// One exec, from the parent's side.
struct Exec<'a> {
    args: &'a ExecArgs,
    container: &'a Container,
    record: &'a Record,
    process: &'a Process,
    caller: Caller,
    child: Option<(Pid, OwnedFd)>,
}

impl Exec<'_> {
    /// Everything up to the process that executes its program.
    fn run(&mut self, joined: Joined, console: Option<Destination>) -> Result<()> {
        let (args, record) = (self.args, self.record);
        let pidfd_socket = args.pidfd_socket.as_deref().map(connect_to).transpose()?;
        let filter = self.container.read_filter()?;
        let keyring = create::keyring_name(&record.id, !record.keyring)?;
        let cgroups = record.cgroups.below(&args.cgroup)?;
        let entrance = cgroups.enter()?;
        let (socket, child_socket) = sync::pair()?;
        let notifies = filter.as_ref().is_some_and(Filter::notifies);
        let wait = args.pid_file.is_some()
            || args.pidfd_socket.is_some()
            || self.process.oom_score_adj.is_some()
            || record.rdt.is_some();
        let mut child = Child {
            exec: self,
            joined,
            socket: child_socket,
            console,
            tasks: entrance.tasks,
            filter,
            keyring,
            wait: wait || notifies,
            waits_for_cgroup: false,
        };
        self.process.attributes.set_initial_affinity()?;
        if self.caller.may_mount {
            nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        }
        child.joined.enter()?;
        let cgroup = entrance.into.as_ref().map(AsFd::as_fd);
        let mut cloned = sys::clone(CloneFlags::empty(), cgroup);
        if matches!(cloned, Err(Errno::EACCES)) && cgroups.unit.is_some() {
            // From where we are a user may not move to his units by himself; his systemd may have it done.
            child.waits_for_cgroup = true;
            cloned = sys::clone(CloneFlags::empty(), None);
        }
        if matches!(cloned, Err(Errno::EBUSY)) && args.cgroup.is_empty() {
            // The container's own cgroup has none but its children any more, as a systemd in there makes it.
            child.joined.visit.leave()?;
            let entrance = cgroups.with(self.container.read_init()?.map(|init| init.pid))?.enter()?;
            child.joined.enter()?;
            cloned = sys::clone(CloneFlags::empty(), entrance.into.as_ref().map(AsFd::as_fd));
        }
        let cloned = cloned.context(|| "make the process: clone3");
        if let Ok(Cloned::Child) = cloned {
            // Our copy of the parent's end would keep its EOF from us.
            sys::close_inherited(socket.as_fd());
            child.run()
        }
        let left = child.joined.visit.leave();
        let (waits, waits_for_cgroup) = (child.wait, child.waits_for_cgroup);
        let hands_over = child.joined.hands_over();
        drop(child);
        if let Cloned::Parent(pid, pidfd) = cloned? {
            // Who reads the debug output of runc knows the moments by these words.
            log::debug(|| format!("nsexec[{pid}]: => nsexec container setup"));
            log::debug(|| format!("nsexec[{pid}]: affinity: {}", scheduling::affinity_of(pid)));
            self.child = Some((pid, pidfd));
        }
        left?;
        if let (Some((pid, _)), true) = (&self.child, waits_for_cgroup) {
            cgroups.attach(&record.cgroups, *pid)?;
            let _ = socket.send(&Message::Go);
        }
        self.converse(&socket, hands_over)?;
        log::debug(|| format!("setns_init: about to exec in container {}", record.id));
        let Some((pid, pidfd)) = &self.child else { return Ok(()) };
        if let Some(score) = self.process.oom_score_adj.filter(|_| self.caller.may_mount) {
            create::set_oom_score_adj(&pid.to_string(), score)?;
        }
        if let Some(file) = &args.pid_file {
            pidfile::write(file, *pid)?;
        }
        if let Some(group) = &record.rdt {
            group.assign(*pid)?;
        }
        if let Some(socket) = &pidfd_socket {
            sys::send_with_fd(socket.as_fd(), b"pidfd", pidfd.as_fd()).context(|| "send the pidfd")?;
        }
        if waits {
            socket.send(&Message::Proceed)?;
        }
        confirm(&socket)
    }

    /// Answers the child until it is ready.
    fn converse(&mut self, socket: &Socket, mut hands_over: bool) -> Result<()> {
        loop {
            let message = match &self.child {
                Some((_, pidfd)) if hands_over => socket.receive_from(pidfd.as_fd()),
                _ => socket.receive(),
            };
            match message? {
                Some(Message::Ready) => return Ok(()),
                Some(Message::Init(pid)) => {
                    hands_over = false;
                    create::adopt(&mut self.child, Pid::from_raw(pid))?;
                    let _ = socket.send(&Message::Adopted);
                }
                Some(Message::Notify(number)) => {
                    let init = self.container.read_init()?.map(|init| init.pid);
                    let state = self.record.to_json(Status::Running, init);
                    let handed = create::hand_over_listener(self.record, self.child.as_ref(), number, &state);
                    handed.map_err(|error| socket.last_words().unwrap_or(error))?;
                    if !self.caller.may_mount {
                        let _ = socket.send(&Message::Taken);
                    }
                }
                Some(Message::Error(error)) => return Err(error),
                Some(other) => return Err(Error::new(format!("the process sent {other:?}"))),
                None => {
                    let died = Error::new("the process ended before it could run the program");
                    let killed = self.record.cgroups.explain_oom(128 + libc::SIGKILL);
                    return Err(killed.map_or(died.clone(), |oom| died.hint(oom)));
                }
            }
        }
    }
}

/// The end of the conversation means that execve has succeeded.
fn confirm(socket: &Socket) -> Result<()> {
    match socket.receive()? {
        None => Ok(()),
        Some(Message::Error(error)) => Err(error),
        Some(other) => Err(Error::new(format!("the process sent {other:?}"))),
    }
}

/// The new process.
struct Child<'a> {
    exec: &'a Exec<'a>,
    joined: Joined,
    socket: Socket,
    console: Option<Destination>,
    tasks: Vec<OwnedFd>,
    filter: Option<Filter>,
    keyring: Option<CString>,
    /// Whether the parent has something to do between READY and execve.
    wait: bool,
    /// Whether it is put into the container's cgroup by somebody else, which comes before everything.
    waits_for_cgroup: bool,
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
        self.joined.visit.descriptors().for_each(sys::close_inherited);
        self.exec.container.close_inherited();
        log::close_inherited();
    }

    fn story(&self) -> Result<Infallible> {
        self.let_go_of_the_host();
        die_with_parent()?;
        nix::unistd::setsid().context(|| "setsid")?;
        if let Some(score) = self.exec.process.oom_score_adj.filter(|_| !self.exec.caller.may_mount) {
            create::set_oom_score_adj("self", score)?;
        }
        cgroups::join(&self.tasks)?;
        if self.waits_for_cgroup {
            self.socket.expect(&Message::Go)?;
        }
        self.exec.process.attributes.set_final_affinity()?;
        let groups_are_fixed = self.join()?;
        if let Some(root) = &self.joined.root {
            rootfs::change_root(root.as_fd())?;
        }
        umask(Mode::empty());
        let process = self.exec.process;
        let terminal = self.console.as_ref().map(|console| self.make_terminal(console)).transpose()?;
        // In the container's PID namespace, but out of reach of its mounts.
        if let Some(procfs) = process.labels.open()? {
            process.labels.set(&procfs, self.keyring.is_some())?;
        }
        let confinement = Confinement {
            process,
            attributes: &self.exec.record.attributes,
            filter: self.filter.as_ref(),
            keyring: self.keyring.as_deref(),
            signals: self.exec.caller.signals,
            make_cwd: false,
            preserve_fds: self.exec.args.preserve_fds,
            terminal: terminal.as_ref(),
            keep_groups: self.exec.record.keeps_groups(),
            groups_are_fixed,
            socket: &self.socket,
            for_unprivileged: !self.exec.caller.may_mount,
        };
        let ready = confinement.apply(&[self.socket.as_fd()])?;
        nix::sys::prctl::set_pdeathsig(None).context(|| "prctl(PR_SET_PDEATHSIG, 0)")?;
        self.socket.send(&Message::Ready)?;
        if self.wait {
            self.socket.expect(&Message::Proceed)?;
        }
        Err(ready.execute())
    }

    /// Joins the rest of the container's namespaces; whether its user namespace lets nobody change his groups.
    fn join(&self) -> Result<bool> {
        let joined = &self.joined;
        if !joined.after.is_empty() {
            sys::setns(joined.init_pidfd.as_fd(), joined.after).map_err(|errno| {
                let error = Error::from(errno).context(format!("join the container: setns(pidfd, {:?})", joined.after));
                // Before execve its init is open to nobody who is not privileged (rule R11).
                let is_refused = errno == Errno::EPERM && !self.exec.caller.may_mount;
                if is_refused { error.hint("without privileges only once it has been started") } else { error }
            })?;
        }
        let has_userns = joined.after.contains(CloneFlags::CLONE_NEWUSER);
        if has_userns {
            userns::become_root(self.exec.process.uid, self.exec.process.gid)?;
            nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
            die_with_parent()?;
        }
        if joined.hands_over() {
            hand_over(&self.socket, CloneFlags::empty(), || "make the process: clone3".to_string())?;
        }
        Ok((has_userns || self.exec.caller.has_groups_of_userns()) && !sys::may_set_groups())
    }

    /// From the devpts that the container has at this moment.
    fn make_terminal(&self, console: &Destination) -> Result<Terminal> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = files::open(Path::new("/"), directory).context(|| "open the container's root")?;
        let dev_pts = open_in_root(root.as_fd(), Path::new("/dev/pts"), directory)
            .context(|| "open /dev/pts of the container")?;
        Terminal::make(dev_pts.as_fd(), self.exec.process.console_size, console)
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
