//! `create`: from a bundle to a container that waits for `start`. `run` uses the same story.

use crate::cgroups::{Cgroups, Entrance, Layout};
use crate::cli::CreateArgs;
use crate::error::{Context, Error, Result};
use crate::init::{self, Init};
use crate::namespaces::{self, Existing};
use crate::plan::{self, Plan};
use crate::rdt::Group;
use crate::rootfs::masks;
use crate::state::{Container, EARLY_START_SOCKET, InitProcess, Record, Root, Status};
use crate::sync::{self, Message, Socket};
use crate::sys::{self, Cloned};
use crate::{delete, files, hooks, log, pidfile, scheduling, seccomp, signals};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A container whose init is ready.
pub struct Launched {
    pub container: Container,
    pub record: Record,
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// run: EOF tells of execve.
    pub socket: Socket,
}

/// `corten create`
pub fn create(root: &Path, args: &CreateArgs) -> Result<()> {
    let launched = launch(root, args, true)?;
    finish(&launched).map_err(|error| launched.undo(error, args.pid_file.as_deref()))
}

/// The container is created when its start socket has its name; then init may wait there on its own.
fn finish(launched: &Launched) -> Result<()> {
    launched.container.announce()?;
    launched.socket.send(&Message::Proceed)
}

/// Everything up to an init that is ready to execute the program. `start_later`: it waits for `start` first.
///
/// On an error the host is as it was before.
pub fn launch(root: &Path, args: &CreateArgs, start_later: bool) -> Result<Launched> {
    check_preserved(args.preserve_fds)?;
    let mut plan = plan::load(&args.bundle)?;
    if let Some(process) = &mut plan.process {
        process.grant_what_is_there()?;
    }
    let root = Root::make(root)?;
    let layout = Layout::detect()?;

    // Here the id becomes ours, and from here on everything is undone on an error.
    let container = Container::make(root, &args.id)?;
    let (mut record, entrance) = match make_cgroups(&layout, &plan, &container, args) {
        Ok(made) => made,
        Err(error) => return Err(remove_state(&container, error)),
    };
    if let (Some(config), Some(group)) = (&plan.rdt, &mut record.rdt)
        && let Err(error) = group.make(config)
    {
        return Err(undo(&container, &record, None, false, None, error));
    }
    let mut launch =
        Launch { args, plan: &plan, start_later, container: &container, record: &record, child: None, hooks: false };
    match launch.run(entrance) {
        Ok(socket) => {
            let Some((pid, pidfd)) = launch.child else {
                return Err(Error::new("no process was made"));
            };
            Ok(Launched { container, record, pid, pidfd, socket })
        }
        Err(error) => {
            let (child, hooks) = (launch.child.take(), launch.hooks);
            Err(undo(&container, &record, child.as_ref(), hooks, args.pid_file.as_deref(), error))
        }
    }
}

/// Decides on cgroups and resctrl groups, writes that down, and only then makes the cgroups (rule R18). Another corten that removes a parent
/// which has become empty may come in between: then it is decided anew.
fn make_cgroups(layout: &Layout, plan: &Plan, container: &Container, args: &CreateArgs) -> Result<(Record, Entrance)> {
    let rdt = plan.rdt.as_ref().map(|config| config.locate(&args.id)).transpose()?;
    let mut tries = 0;
    loop {
        let mut record = Record::new(args, plan, Cgroups::locate(layout, &plan.cgroup, &args.id)?, rdt.clone());
        container.write_record(&record)?;
        match record.cgroups.make(&plan.cgroup.resources) {
            Ok(entrance) => return Ok((record, entrance)),
            Err(error) => {
                if let Err(left) = record.cgroups.remove() {
                    return Err(error.hint(format!("and undoing it failed: {left}")));
                }
                tries += 1;
                if error.errno() != Some(Errno::ENOENT) || tries == 10 {
                    return Err(error);
                }
            }
        }
    }
}

struct Launch<'a> {
    args: &'a CreateArgs,
    plan: &'a Plan,
    start_later: bool,
    container: &'a Container,
    record: &'a Record,
    /// Once there is one; what it is needed for on an error.
    child: Option<(Pid, OwnedFd)>,
    /// Whether hooks have run, so that poststop has to.
    hooks: bool,
}

impl Launch<'_> {
    fn run(&mut self, entrance: Entrance) -> Result<Socket> {
        let (plan, cgroups) = (self.plan, &self.record.cgroups);

        // What the child needs is opened before the clone and inherited (rule R2: it cannot be opened after).
        let filter = plan.seccomp.as_ref().map(seccomp::filter).transpose()?;
        let start = match self.start_later {
            true => Some(sync::listen_for_start(self.container.directory(), EARLY_START_SOCKET)?),
            false => None,
        };
        let (socket, child_socket) = sync::pair()?;
        let mut init = Init {
            plan,
            record: self.record,
            container: self.container,
            socket: child_socket,
            start,
            wait: self.start_later || self.args.pid_file.is_some(),
            existing: open_namespaces(plan)?,
            sources: plan.rootfs.open()?,
            null: if plan.rootfs.masked.is_empty() { None } else { Some(masks::open_null()?) },
            tasks: entrance.tasks,
            view: if plan.rootfs.shows_cgroups() { Some(cgroups.view()?) } else { None },
            filter,
            keyring: keyring_name(&self.args.id, self.args.no_new_keyring)?,
            ignored_signals: signals::ignored()?,
            preserve_fds: self.args.preserve_fds,
        };
        // A process that is about to be visible in a container must not be open to its tracers (rule R11).
        nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        let cgroup = entrance.into.as_ref().map(AsFd::as_fd);
        let cloned = sys::clone(plan.namespaces.clone_flags(), cgroup)
            .context(|| format!("make the container's process: clone3({:?})", plan.namespaces.clone_flags()))?;
        let (pid, pidfd) = match cloned {
            Cloned::Child => {
                // Our copy of the parent's end would keep its EOF from us.
                sys::close_inherited(socket.as_fd());
                init::run(&init)
            }
            Cloned::Parent(pid, pidfd) => (pid, pidfd),
        };
        log::debug(|| format!("init of container {} has pid {pid}", self.args.id));
        self.child = Some((pid, pidfd));
        let filter = init.filter.take();
        // Above all its end of the socket: as long as we hold it there is no EOF.
        sys::close_together(init.into_descriptors());

        // Beside the child, which is building its root file system.
        if let Some(filter) = &filter {
            self.container.write_filter(filter)?;
        }
        if let Some(score) = plan.process.as_ref().and_then(|process| process.oom_score_adj) {
            // A child that is gone cannot be adjusted, and knows better why.
            set_oom_score_adj(pid, score).map_err(|error| socket.last_words().map_or(error, in_init))?;
        }
        let limited = cgroups.limit(&plan.cgroup.resources, cgroup);
        scheduling::free_affinity(pid);
        if !plan.namespaces.joins(CloneFlags::CLONE_NEWPID) {
            self.register(pid)?;
        }
        limited?;
        // A child that has died already left an error in the socket, or its end tells.
        let _ = socket.send(&Message::Go);
        self.converse(&socket)?;
        if let (Some(file), Some((pid, _))) = (&self.args.pid_file, &self.child) {
            pidfile::write(file, *pid)?;
        }
        if !self.start_later && self.args.pid_file.is_some() {
            socket.send(&Message::Proceed)?;
        }
        Ok(socket)
    }

    /// Answers the child until it is ready.
    fn converse(&mut self, socket: &Socket) -> Result<()> {
        loop {
            match socket.receive()? {
                Some(Message::Ready) => return Ok(()),
                Some(Message::Hooks) => {
                    self.run_hooks()?;
                    let _ = socket.send(&Message::HooksDone);
                }
                Some(Message::Init(pid)) => {
                    self.adopt(Pid::from_raw(pid))?;
                    let _ = socket.send(&Message::Go);
                }
                Some(Message::Error(error)) => return Err(in_init(error)),
                Some(other) => return Err(Error::new(format!("the container's init sent {other:?}"))),
                None => return Err(in_init(self.explain_death())),
            }
        }
    }

    #[allow(deprecated, reason = "prestart is deprecated in the specification, and engines still use it")]
    fn run_hooks(&mut self) -> Result<()> {
        self.hooks = true;
        let state = self.record.to_json(Status::Creating, self.child.as_ref().map(|(pid, _)| *pid));
        let hooks = &self.plan.hooks;
        hooks::run("prestart", hooks.prestart().as_deref().unwrap_or_default(), &state)?;
        hooks::run("createRuntime", hooks.create_runtime().as_deref().unwrap_or_default(), &state)
    }

    /// The child has handed over to another one, in an existing PID namespace: that is init now.
    fn adopt(&mut self, pid: Pid) -> Result<()> {
        let pidfd = sys::pidfd_open(pid).context(|| format!("pidfd_open({pid})"))?;
        if let Some((first, _)) = self.child.replace((pid, pidfd)) {
            let _ = nix::sys::wait::waitpid(first, None);
        }
        self.register(pid)
    }

    /// Writes the pid of init where it belongs.
    fn register(&self, pid: Pid) -> Result<()> {
        self.container.write_init(InitProcess::of_child(pid)?)?;
        self.record.rdt.as_ref().map_or(Ok(()), |group| group.assign(pid))
    }

    /// A child that ended without a word was killed, most likely for lack of memory.
    fn explain_death(&mut self) -> Error {
        let oom = self.record.cgroups.oom_kills().is_some_and(|kills| kills > 0);
        let ended =
            self.child.as_ref().and_then(|(_, pidfd)| waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).ok());
        match ended {
            Some(WaitStatus::Signaled(..)) if oom => {
                let limit = self.plan.cgroup.resources.memory.limit.map(|limit| format!("the limit is {limit} bytes"));
                let peak = self.record.cgroups.memory_peak().map(|peak| format!("{peak} were used"));
                let figures: Vec<String> = limit.into_iter().chain(peak).collect();
                let error = Error::new("container init was OOM-killed (memory limit too low?)");
                if figures.is_empty() { error } else { error.hint(figures.join(", ")) }
            }
            Some(WaitStatus::Signaled(_, signal, _)) => Error::new(format!("container init was killed by {signal}")),
            Some(WaitStatus::Exited(_, code)) => Error::new(format!("container init ended with status {code}")),
            _ => Error::new("container init ended"),
        }
    }
}

/// Opens the namespaces to join. What the configuration changes in one must not be the runtime's own (rule R28).
fn open_namespaces(plan: &Plan) -> Result<Vec<Existing>> {
    let existing = plan.namespaces.open()?;
    for namespace in &existing {
        let names = plan.hostname.is_some() || plan.domainname.is_some();
        let changes = !plan.sysctls.is_empty() || names && namespace.kind == CloneFlags::CLONE_NEWUTS;
        if changes && namespace.is_own()? {
            let name = namespaces::name(namespace.kind);
            return Err(Error::new(format!("{} is the runtime's own {name} namespace", namespace.path.display()))
                .hint("sysctl and hostname would change the host"));
        }
    }
    Ok(existing)
}

impl Launched {
    /// Takes everything back after an error that came later than `launch`.
    pub fn undo(&self, error: Error, pid_file: Option<&Path>) -> Error {
        let child = self.pidfd.try_clone().ok().map(|pidfd| (self.pid, pidfd));
        undo(&self.container, &self.record, child.as_ref(), true, pid_file, error)
    }
}

/// runc's words for an error that happened in the container.
pub fn in_init(error: Error) -> Error {
    error.context("unable to start container process: error during container init")
}

/// The state as before: no process, no cgroup, no directory, no pid file. What cannot be undone is named (rule R24).
fn undo(
    container: &Container,
    record: &Record,
    child: Option<&(Pid, OwnedFd)>,
    hooks: bool,
    pid_file: Option<&Path>,
    error: Error,
) -> Error {
    let mut error = error;
    if let Some((pid, pidfd)) = child {
        end(*pid, pidfd);
        if let Some(file) = pid_file {
            pidfile::remove(file, *pid);
        }
    }
    let removed = delete::remove_all(container, record, child.is_some());
    let undone = record.rdt.as_ref().map_or(Ok(()), Group::undo);
    for left in [removed, undone].into_iter().filter_map(Result::err) {
        error = error.hint(format!("and undoing it failed: {left}"));
    }
    if hooks {
        delete::run_poststop(record);
    }
    error
}

/// Kills and reaps a child that must not go on.
pub fn end(pid: Pid, pidfd: &OwnedFd) {
    let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = nix::sys::wait::waitpid(pid, None);
}

fn remove_state(container: &Container, error: Error) -> Error {
    match container.remove() {
        Ok(()) => error,
        Err(left) => error.hint(format!("and undoing it failed: {left}")),
    }
}

/// Everything from 3 on belongs to the caller, and only what he asks for may reach the container (rule R8).
pub fn check_preserved(count: u32) -> Result<()> {
    // The kernel's own limit on descriptors is below this (fs.nr_open).
    if count > 1 << 30 {
        return Err(Error::new(format!("--preserve-fds {count} is too many")));
    }
    for fd in (3..3 + count).map(|fd| fd as i32) {
        if !sys::is_open(fd) {
            return Err(Error::new(format!("--preserve-fds {count}: descriptor {fd} is not open")));
        }
    }
    Ok(())
}

/// One keyring for each container, named after it.
pub fn keyring_name(id: &str, stay: bool) -> Result<Option<CString>> {
    if stay { Ok(None) } else { Ok(Some(CString::new(format!("_ses.{id}"))?)) }
}

/// Written here, where /proc is the host's; the child is not dumpable and so could not.
pub fn set_oom_score_adj(pid: Pid, score: i32) -> Result<()> {
    files::write_value(Path::new(&format!("/proc/{pid}/oom_score_adj")), &score.to_string()).map_err(|error| {
        let denied = error.errno() == Some(nix::errno::Errno::EACCES);
        let error = error.context(format!("set oomScoreAdj to {score}"));
        if denied { error.hint("lowering it needs CAP_SYS_RESOURCE") } else { error }
    })
}
