//! `create`: from a bundle to a container that waits for `start`. `run` uses the same story.

use crate::caller::Caller;
use crate::cgroups::setting::Setting;
use crate::cgroups::systemd;
use crate::cgroups::{Cgroups, Entrance, Layout, Manager, UNIFIED};
use crate::cli::CreateArgs;
use crate::error::{Context, Error, Result};
use crate::init::{self, Init};
use crate::namespaces::{self, Existing, Visit};
use crate::netdev::Transfer;
use crate::notify_socket::{self, Activation, Proxy};
use crate::plan::{self, Plan};
use crate::procfs::Procfs;
use crate::rdt::Group;
use crate::rootfs::mounts::Mount;
use crate::rootfs::sources::Sources;
use crate::seccomp::{self, Filter};
use crate::state::{Container, EARLY_START_SOCKET, InitProcess, Record, Root, Status};
use crate::sync::{self, Message, Socket};
use crate::sys::{self, Cloned};
use crate::terminal::{Destination, Way, connect_to};
use crate::userns::Mappings;
use crate::{delete, files, hooks, log, nofile, pidfile, scheduling, userns};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What becomes of a container once its init is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It waits for `start`.
    Create,
    /// It runs, and corten goes.
    Detached,
    /// It runs, and corten waits for its end.
    Foreground,
}

/// A container whose init is ready.
pub struct Launched {
    pub container: Container,
    pub record: Record,
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// run: EOF tells of execve.
    pub socket: Socket,
    /// In the foreground: where the container's terminal has arrived.
    pub console: Option<OwnedFd>,
    /// `run` under a service manager: where the container says that it is ready.
    pub notify: Option<Proxy>,
    /// The network devices that were moved, as long as they can be moved back.
    pub network: Option<Transfer>,
}

/// `corten create`
pub fn create(root: &Path, manager: Manager, args: &CreateArgs) -> Result<()> {
    let mut launched = launch(root, manager, args, Mode::Create)?;
    finish(&launched).map_err(|error| launched.undo(error, args.pid_file.as_deref()))
}

/// The container is created when its start socket has its name; then init may wait there on its own.
fn finish(launched: &Launched) -> Result<()> {
    launched.container.announce()?;
    launched.socket.send(&Message::Proceed)
}

/// Everything up to an init that is ready to execute the program.
///
/// On an error the host is as it was before.
pub fn launch(root: &Path, manager: Manager, args: &CreateArgs, mode: Mode) -> Result<Launched> {
    let activation = Activation::of_service();
    let passed = activation.count.saturating_add(args.preserve_fds);
    check_preserved(passed)?;
    let caller = Caller::look()?;
    let mut plan = plan::load(&args.bundle, args.config.as_deref())?;
    plan.suit(&caller)?;
    plan.cgroup.leave_to(manager, &args.id, &plan.annotations, &caller)?;
    plan.add_variables(&activation.variables())?;
    let terminal = plan.process.as_ref().is_some_and(|process| process.terminal);
    let way = Way::open(terminal, mode != Mode::Foreground, args.console_socket.as_deref())?;
    if let (Some(process), Some(size)) = (&mut plan.process, way.as_ref().and_then(|way| way.size)) {
        process.console_size = Some(size);
    }
    let (console, theirs) = way.map_or((None, None), |way| (way.ours, Some(way.theirs)));
    let existing = open_namespaces(&plan)?;
    let root = Root::make(root)?;
    let layout = Layout::detect(&plan.cgroup)?;
    let mut systemd = plan.cgroup.connect()?;

    // Here the id becomes ours, and from here on everything is undone on an error.
    let container = Container::make(root, &args.id)?;
    let notify = match add_notify_socket(&mut plan, &container, mode) {
        Ok(notify) => notify,
        Err(error) => return Err(remove_state(&container, error)),
    };
    let made = make_cgroups(&layout, &plan, &container, args, &caller, systemd.as_mut(), false);
    let (mut record, entrance) = match made {
        Ok(made) => made,
        Err(error) => return Err(remove_state(&container, error)),
    };
    if let (Some(config), Some(group)) = (&plan.rdt, &mut record.rdt)
        && let Err(error) = group.make(config)
    {
        return Err(undo(&container, &record, None, None, false, None, error));
    }
    let mut launch = Launch {
        args,
        plan: &plan,
        caller,
        mode,
        container: &container,
        record: &record,
        systemd: systemd.filter(|_| plan.cgroup.has_scope()),
        later: entrance.later,
        cgroup: entrance.into,
        passed,
        child: None,
        network: None,
        outputs: hooks::Outputs::default(),
        hooks: false,
    };
    match launch.run(entrance.tasks, theirs, existing) {
        Ok(socket) => {
            let Some((pid, pidfd)) = launch.child else {
                return Err(Error::new("no process was made"));
            };
            let network = launch.network.take();
            Ok(Launched { container, record, pid, pidfd, socket, console, notify, network })
        }
        Err(error) => {
            let (child, mut network, hooks) = (launch.child.take(), launch.network.take(), launch.hooks);
            let pid_file = args.pid_file.as_deref();
            Err(undo(&container, &record, child.as_ref(), network.as_mut(), hooks, pid_file, error))
        }
    }
}

/// Under a service manager that wants to hear of readiness the container gets a socket for it.
pub fn add_notify_socket(plan: &mut Plan, container: &Container, mode: Mode) -> Result<Option<Proxy>> {
    if notify_socket::of_service().is_none() || !plan.rootfs.pivot {
        return Ok(None);
    }
    let index = plan.rootfs.mounts.len();
    let source = container.make_notify_directory()?;
    plan.rootfs.mounts.push(Mount::of_runtime(index, source, notify_socket::DESTINATION));
    plan.add_variables(&[notify_socket::VARIABLE.to_string()])?;
    // `start` listens for a container that waits for it.
    if mode == Mode::Create { Ok(None) } else { Proxy::listen(container) }
}

/// Decides on cgroups and resctrl groups, writes that down, and only then makes the cgroups (rule R18). Another corten that
/// removes a parent which has become empty may come in between: then it is decided anew.
pub fn make_cgroups(
    layout: &Layout,
    plan: &Plan,
    container: &Container,
    args: &CreateArgs,
    caller: &Caller,
    mut systemd: Option<&mut systemd::Manager>,
    restored: bool,
) -> Result<(Record, Entrance)> {
    let rdt = plan.rdt.as_ref().map(|config| config.locate(&args.id)).transpose()?;
    let mut tries = 0;
    loop {
        let cgroups = Cgroups::locate(layout, &plan.cgroup, &args.id, systemd.as_deref_mut())?;
        let mut record = Record::new(args, caller, plan, cgroups, rdt.clone());
        record.restored = restored;
        container.write_record(&record)?;
        match record.cgroups.make(&plan.cgroup, systemd.as_deref_mut()) {
            Ok(entrance) => return Ok((record, entrance)),
            Err(error) => {
                if let Err(left) = record.cgroups.own(&args.id, false).and_then(|cgroups| cgroups.remove()) {
                    return Err(error.hint(format!("and undoing it failed: {left}")));
                }
                if record.cgroups.unit.is_none()
                    && caller.may_do_without_cgroup(&error, args.may_lack_cgroups)
                    && !plan.cgroup.resources.limit_anything()
                {
                    log::debug(|| format!("container {} has no cgroup of its own: {error}", args.id));
                    record.cgroups.directories.clear();
                    container.write_record(&record)?;
                    return Ok((record, Entrance { into: None, tasks: Vec::new(), later: Vec::new() }));
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
    caller: Caller,
    mode: Mode,
    container: &'a Container,
    record: &'a Record,
    /// As long as the child is not in its scope.
    systemd: Option<systemd::Manager>,
    /// The limits that are written beside or after the clone.
    later: Vec<Setting>,
    /// v2: the container's cgroup.
    cgroup: Option<OwnedFd>,
    /// How many descriptors from 3 on are for the container.
    passed: u32,
    /// Once there is one; what it is needed for on an error.
    child: Option<(Pid, OwnedFd)>,
    /// Likewise.
    network: Option<Transfer>,
    /// Where hooks write to.
    outputs: hooks::Outputs,
    /// Whether hooks have run, so that poststop has to.
    hooks: bool,
}

impl<'a> Launch<'a> {
    fn run(&mut self, tasks: Vec<OwnedFd>, console: Option<Destination>, existing: Vec<Existing>) -> Result<Socket> {
        let (plan, cgroups) = (self.plan, &self.record.cgroups);
        let pidfd_socket = self.args.pidfd_socket.as_deref().map(connect_to).transpose()?;
        let (socket, child_socket) = sync::pair()?;
        let nofile = nofile::raise(plan.rootfs.descriptors() + u64::from(self.passed))?;
        let mut init = self.prepare(child_socket, console, tasks, existing)?;
        init.nofile = nofile;
        if self.caller.may_mount {
            // A process that is about to be visible in a container must not be open to its tracers (rule R11). Without
            // privileges the kernel would then not let us map its ids, and it comes after that.
            nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        }
        let (pid, pidfd) = match self.clone(&init.existing)? {
            Cloned::Child => {
                // Our copy of the parent's end would keep its EOF from us.
                sys::close_inherited(socket.as_fd());
                self.systemd.iter().for_each(systemd::Manager::close_inherited);
                init::run(&init)
            }
            Cloned::Parent(pid, pidfd) => (pid, pidfd),
        };
        // Who reads the debug output of runc knows the moments by these words.
        log::debug(|| format!("nsexec[{pid}]: => nsexec container setup for init of container {}", self.args.id));
        self.child = Some((pid, pidfd));
        let (filter, waits) = (init.filter.take(), init.wait);
        let cgroup_owner = self.cgroup_owner(init.ids.as_ref());
        self.outputs = std::mem::take(&mut init.outputs);
        // Above all its end of the socket: as long as we hold it there is no EOF.
        sys::close_together(init.into_descriptors());
        if let Some(limit) = nofile {
            limit.give_back()?;
        }
        self.settle(&socket)?;
        self.enter_scope(&socket)?;
        let cgroup = self.cgroup.as_ref().map(AsFd::as_fd);

        // Beside the child, which is building its root file system.
        if let Some(filter) = &filter {
            self.container.write_filter(filter)?;
        }
        let score = plan.process.as_ref().and_then(|process| process.oom_score_adj);
        if let (Some(score), Some((pid, _)), true) = (score, &self.child, self.caller.may_mount) {
            // A child that is gone cannot be adjusted, and knows better why.
            set_oom_score_adj(&pid.to_string(), score).map_err(|error| socket.last_words().map_or(error, in_init))?;
        }
        // The same, where systemd has taken the cgroup away with the only process in it.
        let explain = |error| socket.last_words().map_or(error, in_init);
        if let Some(uid) = cgroup_owner {
            cgroups.delegate(cgroup, uid).map_err(explain)?;
        }
        let limited = match cgroups.directories.is_empty() {
            true => Ok(()),
            false => cgroups.limit(&self.later, &plan.cgroup.resources, cgroup),
        };
        if let Some((pid, _)) = &self.child {
            scheduling::free_affinity(*pid);
        }
        if !plan.namespaces.hands_over() {
            self.register(pid)?;
        }
        limited.map_err(explain)?;
        if !plan.net_devices.is_empty() {
            self.move_devices(&socket)?;
        }
        // A child that has died already left an error in the socket, or its end tells.
        let _ = socket.send(&Message::Go);
        self.converse(&socket, &Message::Ready)?;
        log::debug(|| "child process in init(): root file system and confinement are complete".to_string());
        if let Some((pid, pidfd)) = &self.child {
            if let Some(file) = &self.args.pid_file {
                pidfile::write(file, *pid)?;
            }
            if let Some(socket) = &pidfd_socket {
                sys::send_with_fd(socket.as_fd(), b"pidfd", pidfd.as_fd()).context(|| "send the pidfd")?;
            }
        }
        if waits && self.mode != Mode::Create {
            socket.send(&Message::Proceed)?;
        }
        Ok(socket)
    }

    /// What the child needs is opened before the clone and inherited (rule R2: it cannot be opened after).
    fn prepare(
        &self,
        socket: Socket,
        console: Option<Destination>,
        tasks: Vec<OwnedFd>,
        existing: Vec<Existing>,
    ) -> Result<Init<'a>> {
        let (plan, cgroups) = (self.plan, &self.record.cgroups);
        let filter = plan.seccomp.as_ref().map(|profile| seccomp::filter(profile, self.caller.uid)).transpose()?;
        if let Some(filter) = &filter {
            // TSYNC makes no difference to a single thread.
            log::debug(|| format!("seccomp filter flags: {}", filter.flags & !seccomp::FLAG_TSYNC));
        }
        let start = match self.mode {
            Mode::Create => Some(sync::listen_for_start(self.container.directory(), EARLY_START_SOCKET)?),
            Mode::Detached | Mode::Foreground => None,
        };
        let userns = existing.iter().find(|namespace| namespace.kind == CloneFlags::CLONE_NEWUSER);
        let ids = match userns {
            Some(userns) => Some(userns::mappings_of(userns.fd.as_fd())?),
            None => plan.ids.clone(),
        };
        if let (Some(process), Some(ids)) = (&plan.process, ids.as_ref().filter(|_| userns.is_some())) {
            process.check_ids(ids, "config.json: /process")?;
        }
        let restrictions = init::restrictions(plan, &self.caller, ids.as_ref(), &existing, cgroups);
        let shown = restrictions.shows_cgroup.filter(|path| *path != Path::new(UNIFIED));
        if let Some(path) = shown.filter(|_| self.systemd.is_some() && plan.rootfs.shows_cgroups()) {
            systemd::make_early(path)?;
        }
        let sources = match self.caller.may_mount {
            true => Some(Sources::open(&plan.rootfs, &restrictions)?),
            false => None,
        };
        let is_asked_for = self.args.pid_file.is_some() || self.args.pidfd_socket.is_some();
        Ok(Init {
            plan,
            record: self.record,
            container: self.container,
            socket,
            caller: self.caller,
            wait: start.is_some() || is_asked_for || filter.as_ref().is_some_and(Filter::notifies),
            start,
            sources,
            // A procfs belongs to the owner of its PID namespace. What it shows of others is the reader's own.
            procfs: if self.lends_procfs() { Some(Procfs::open(true)?) } else { None },
            existing,
            ids,
            console,
            outputs: hooks::Outputs::open(&self.record.annotations)?,
            tasks,
            view: if plan.rootfs.shows_cgroups() { Some(cgroups.view()?) } else { None },
            filter,
            keyring: keyring_name(&self.args.id, self.args.no_new_keyring)?,
            no_pivot: self.args.no_pivot,
            preserve_fds: self.passed,
            nofile: None,
        })
    }

    /// Who is to own the container's cgroup, if not root: its user, where it sees a cgroup of its own and may write to it.
    fn cgroup_owner(&self, ids: Option<&Mappings>) -> Option<u32> {
        let is_own = self.plan.namespaces.creates(CloneFlags::CLONE_NEWCGROUP) && self.caller.may_mount;
        let process = self.plan.process.as_ref().filter(|_| is_own && self.plan.rootfs.has_writable_cgroups())?;
        let uid = match ids {
            Some(ids) => userns::to_outside(&ids.uid, process.uid),
            None => Some(process.uid),
        };
        uid.filter(|uid| *uid != 0)
    }

    /// Whether the child, in a user namespace that does not own its PID namespace, needs our procfs for its sysctls.
    fn lends_procfs(&self) -> bool {
        let namespaces = &self.plan.namespaces;
        let may_not = namespaces.has(CloneFlags::CLONE_NEWUSER) && !namespaces.creates(CloneFlags::CLONE_NEWPID);
        self.caller.may_mount && may_not && !self.plan.sysctls.is_empty()
    }

    /// Makes the child, in namespaces that belong to its user namespace, if it gets a new one.
    fn clone(&self, existing: &[Existing]) -> Result<Cloned> {
        let namespaces = &self.plan.namespaces;
        let cgroup = self.cgroup.as_ref().map(AsFd::as_fd);
        let flags = match namespaces.joins(CloneFlags::CLONE_NEWUSER) || namespaces.unshares_user() {
            true => CloneFlags::empty(),
            false => namespaces.clone_flags(),
        };
        let is_born_there = namespaces.creates(CloneFlags::CLONE_NEWUSER) && !namespaces.unshares_user();
        let visit = match is_born_there && !existing.is_empty() {
            true => Some(Visit::join(existing)?),
            false => None,
        };
        let cloned = sys::clone(flags, cgroup).context(|| format!("make the container's process: clone3({flags:?})"));
        let Some(visit) = visit else {
            return cloned;
        };
        if let Ok(Cloned::Child) = &cloned {
            visit.descriptors().for_each(sys::close_inherited);
            return cloned;
        }
        match (cloned, visit.leave()) {
            (Ok(Cloned::Parent(pid, pidfd)), Err(error)) => {
                end(pid, &pidfd);
                Err(error)
            }
            (cloned, _) => cloned,
        }
    }

    /// Answers what the child needs to be in its namespaces.
    fn settle(&mut self, socket: &Socket) -> Result<()> {
        let plan = self.plan;
        let (early, unshares) = (plan.namespaces.hands_over_early(), plan.namespaces.unshares_user());
        if early && !unshares {
            self.await_successor(socket)?;
        }
        let Some((pid, _)) = &self.child else { return Ok(()) };
        let pid = *pid;
        if !plan.time_offsets.is_empty() || unshares {
            match self.receive(socket)? {
                Some(Message::Unshared) => {}
                other => return Err(self.unexpected(other)),
            }
        }
        if let Some(ids) = &plan.ids {
            let written = userns::write(pid, ids, self.caller.may_mount);
            written.map_err(|error| socket.last_words().map_or(error, in_init))?;
        }
        if !plan.time_offsets.is_empty() {
            let path = format!("/proc/{pid}/timens_offsets");
            files::write_value(Path::new(&path), &plan.time_offsets)?;
        }
        if plan.ids.is_some() || !plan.time_offsets.is_empty() {
            let _ = socket.send(&Message::Mapped);
        }
        if early && unshares {
            self.await_successor(socket)?;
        }
        Ok(())
    }

    /// The child hands over to one more process, in a PID namespace that it could not be born in.
    fn await_successor(&mut self, socket: &Socket) -> Result<()> {
        match self.receive(socket)? {
            Some(Message::Init(pid)) => self.adopt(Pid::from_raw(pid), socket),
            other => Err(self.unexpected(other)),
        }
    }

    /// Moves network devices into the namespace that the child is in by then; before the hooks and the sysctls, which are
    /// for them, too.
    fn move_devices(&mut self, socket: &Socket) -> Result<()> {
        self.converse(socket, &Message::Network)?;
        if let Some((_, pidfd)) = &self.child {
            self.network.insert(Transfer::to(pidfd.as_fd())?).move_all(&self.plan.net_devices)?;
        }
        Ok(())
    }

    fn receive(&self, socket: &Socket) -> Result<Option<Message>> {
        match &self.child {
            Some((_, pidfd)) if self.plan.namespaces.hands_over() => socket.receive_from(pidfd.as_fd()),
            _ => socket.receive(),
        }
    }

    /// Answers the child until it says what is awaited.
    fn converse(&mut self, socket: &Socket, awaited: &Message) -> Result<()> {
        loop {
            match self.receive(socket)? {
                Some(message) if message == *awaited => return Ok(()),
                Some(Message::Hooks) => {
                    self.run_hooks()?;
                    let _ = socket.send(&Message::HooksDone);
                }
                Some(Message::Init(pid)) => self.adopt(Pid::from_raw(pid), socket)?,
                Some(Message::Notify(number)) => {
                    let handed =
                        hand_over_listener(self.record, self.child.as_ref(), number, &self.state(Status::Creating));
                    handed.map_err(|error| socket.last_words().map_or(error, in_init))?;
                    if !self.caller.may_mount {
                        let _ = socket.send(&Message::Taken);
                    }
                }
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// An error of the child, its death, or nonsense.
    fn unexpected(&mut self, message: Option<Message>) -> Error {
        match message {
            Some(Message::Error(error)) => in_init(error),
            Some(other) => Error::new(format!("the container's init sent {other:?}")),
            None => in_init(self.explain_death()),
        }
    }

    /// The container's state as agents and hooks are told it.
    fn state(&self, status: Status) -> String {
        self.record.to_json(status, self.child.as_ref().map(|(pid, _)| *pid))
    }

    #[allow(deprecated, reason = "prestart is deprecated in the specification, and engines still use it")]
    fn run_hooks(&mut self) -> Result<()> {
        self.hooks = true;
        let state = self.state(Status::Created);
        let hooks = &self.plan.hooks;
        hooks::run("prestart", hooks.prestart().as_deref().unwrap_or_default(), &state, &self.outputs)?;
        hooks::run("createRuntime", hooks.create_runtime().as_deref().unwrap_or_default(), &state, &self.outputs)
    }

    /// The child has handed over to another one: that is init now.
    fn adopt(&mut self, pid: Pid, socket: &Socket) -> Result<()> {
        adopt(&mut self.child, pid)?;
        self.enter_scope(socket)?;
        self.register(pid)?;
        let _ = socket.send(&Message::Adopted);
        Ok(())
    }

    /// Gives the child to systemd, if it is to be in a scope and is not yet; before it is registered, for a container with
    /// an init has a unit of its own.
    fn enter_scope(&mut self, socket: &Socket) -> Result<()> {
        let (Some(mut systemd), Some((pid, _))) = (self.systemd.take(), &self.child) else {
            return Ok(());
        };
        let made = systemd::adopt(&self.record.cgroups, &self.plan.cgroup, &mut systemd, &self.later, *pid)
            .map_err(|error| socket.last_words().map_or(error, in_init))?;
        self.cgroup = made.or(self.cgroup.take());
        Ok(())
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
pub fn open_namespaces(plan: &Plan) -> Result<Vec<Existing>> {
    let existing = plan.namespaces.open()?;
    for namespace in &existing {
        if namespace.kind == CloneFlags::CLONE_NEWNS && (namespace.is_own()? || namespace.is_of_first()?) {
            return Err(Error::new(format!("{} is the host's own mount namespace", namespace.path.display()))
                .hint("every process in there would get another root"));
        }
        let names = plan.hostname.is_some() || plan.domainname.is_some();
        let devices = !plan.net_devices.is_empty();
        let changes = !plan.sysctls.is_empty()
            || names && namespace.kind == CloneFlags::CLONE_NEWUTS
            || devices && namespace.kind == CloneFlags::CLONE_NEWNET;
        if changes && namespace.is_own()? {
            let name = namespaces::name(namespace.kind);
            return Err(Error::new(format!("{} is the runtime's own {name} namespace", namespace.path.display()))
                .hint("sysctl, hostname and netDevices would change the host"));
        }
    }
    Ok(existing)
}

/// A child has handed over to another process, which takes its place; the first one is reaped.
pub fn adopt(child: &mut Option<(Pid, OwnedFd)>, pid: Pid) -> Result<()> {
    let pidfd = sys::pidfd_open(pid).context(|| format!("pidfd_open({pid})"))?;
    if let Some((first, _)) = child.replace((pid, pidfd)) {
        let _ = nix::sys::wait::waitpid(first, None);
    }
    Ok(())
}

/// Gives the seccomp listener that a child is about to have as `number` to the container's agent; `state` is the
/// container's as JSON.
pub fn hand_over_listener(record: &Record, child: Option<&(Pid, OwnedFd)>, number: i32, state: &str) -> Result<()> {
    let (Some(listener), Some((pid, pidfd))) = (&record.listener, child) else {
        return Err(Error::new("there is nobody to hand the seccomp listener to"));
    };
    listener.hand_over(pidfd.as_fd(), number, *pid, state)
}

impl Launched {
    /// Takes everything back after an error that came later than `launch`.
    pub fn undo(&mut self, error: Error, pid_file: Option<&Path>) -> Error {
        let child = self.pidfd.try_clone().ok().map(|pidfd| (self.pid, pidfd));
        undo(&self.container, &self.record, child.as_ref(), self.network.as_mut(), true, pid_file, error)
    }
}

/// runc's words for an error that happened in the container.
pub fn in_init(error: Error) -> Error {
    error.context("unable to start container process: error during container init")
}

/// The state as before: network devices where they were, no process, no cgroup, no directory, no pid file. What cannot be
/// undone is named (rule R24).
pub fn undo(
    container: &Container,
    record: &Record,
    child: Option<&(Pid, OwnedFd)>,
    network: Option<&mut Transfer>,
    hooks: bool,
    pid_file: Option<&Path>,
    error: Error,
) -> Error {
    let mut error = error;
    // A namespace that ends takes virtual devices with it.
    if let Some(Err(left)) = network.map(Transfer::undo) {
        error = error.hint(format!("and undoing it failed: {left}"));
    }
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

/// Lets go of an id before anything else was made.
pub fn remove_state(container: &Container, error: Error) -> Error {
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

/// Written by the parent, for the child is not dumpable and so could not. Without privileges it is the other way round: the
/// child writes it first of all, as long as its files in /proc are its own.
pub fn set_oom_score_adj(process: &str, score: i32) -> Result<()> {
    files::write_value(Path::new(&format!("/proc/{process}/oom_score_adj")), &score.to_string()).map_err(|error| {
        let denied = error.errno() == Some(nix::errno::Errno::EACCES);
        let error = error.context(format!("set oomScoreAdj to {score}"));
        if denied { error.hint("lowering it needs CAP_SYS_RESOURCE") } else { error }
    })
}
