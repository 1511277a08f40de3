//! The child's story, from the clone to execve of the user's program, one step a line and in the order that matters.
//!
//! Everything it needs it has inherited, as memory or as descriptors that the parent opened. Whatever goes wrong travels
//! to the parent as (errno, text), and the process ends: there is no second way for any step.

use crate::caller::Caller;
use crate::cgroups::{self, Cgroups, View};
use crate::error::{Context, Error, Result};
use crate::namespaces::{self, CLONE_NEWTIME, Existing};
use crate::plan::{Plan, Process};
use crate::process::{Confinement, Ready, make_directories};
use crate::procfs::Procfs;
use crate::rootfs::sources::{Restrictions, Sources};
use crate::rootfs::{self, Tree, devices, masks, mounts};
use crate::seccomp::Filter;
use crate::state::{Container, Record, Status};
use crate::sync::{self, Message, Socket};
use crate::sys::{self, Cloned};
use crate::terminal::{self, Destination, Terminal};
use crate::userns::{self, Mappings};
use crate::{create, hooks, nofile, process, sysctl};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What the parent has prepared.
pub struct Init<'a> {
    pub plan: &'a Plan,
    pub record: &'a Record,
    pub container: &'a Container,
    pub socket: Socket,
    pub caller: Caller,
    /// `create`: where to wait for `start`. None: the program is executed at once.
    pub start: Option<OwnedFd>,
    /// Whether the parent has something to do between READY and execve.
    pub wait: bool,
    pub existing: Vec<Existing>,
    /// The ids of the container's user namespace, made or joined.
    pub ids: Option<Mappings>,
    /// None: the parent may not open them.
    pub sources: Option<Sources>,
    /// For the sysctls, if the child may not make it.
    pub procfs: Option<Procfs>,
    /// Where the master of the terminal goes.
    pub console: Option<Destination>,
    pub outputs: hooks::Outputs,
    /// v1: the `tasks` files of the container's cgroups.
    pub tasks: Vec<OwnedFd>,
    /// What a mount of type cgroup shows.
    pub view: Option<View>,
    pub filter: Option<Filter>,
    /// None: stay in the caller's session keyring.
    pub keyring: Option<CString>,
    pub no_pivot: bool,
    pub preserve_fds: u32,
    /// The caller's limit on descriptors, if it had to be raised.
    pub nofile: Option<nofile::Limit>,
}

/// Runs the story; an error is reported to the parent, and after `start` to that.
pub fn run(init: &Init<'_>) -> ! {
    let failure = match init.story() {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // If even this fails, the parent learns of our end by EOF.
    let _ = init.socket.send(&Message::Error(failure));
    sys::exit(1)
}

impl Init<'_> {
    /// Everything that is open only for the child, which the parent closes after the clone.
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        let mut fds = vec![self.socket.into_fd()];
        fds.extend(self.sources.into_iter().flat_map(Sources::into_descriptors));
        fds.extend(self.start.into_iter().chain(self.console.map(|console| console.socket)).chain(self.tasks));
        fds.extend(self.procfs.map(Procfs::into_fd));
        fds.extend(self.existing.into_iter().map(|namespace| namespace.fd));
        if let Some(View::Legacy(shown)) = self.view {
            fds.extend(shown.into_iter().map(|shown| shown.tree));
        }
        fds
    }

    fn story(&self) -> Result<Infallible> {
        die_with_parent()?;
        self.container.close_inherited();
        nix::unistd::setsid().context(|| "setsid")?;
        let score = self.plan.process.as_ref().and_then(|process| process.oom_score_adj);
        if let Some(score) = score.filter(|_| !self.caller.may_mount) {
            create::set_oom_score_adj("self", score)?;
        }

        // Namespaces first: what is mounted below shows what they hold.
        let groups_are_fixed = self.enter_namespaces()?;
        if !self.plan.net_devices.is_empty() {
            // The parent moves them before it says GO.
            self.socket.send(&Message::Network)?;
        }
        self.set_names()?;
        // While nothing of the container is mounted yet, or could be in its way (rule R4).
        let procfs = self.plan.process.as_ref().map(|process| process.labels.open()).transpose()?.flatten();

        // Beside this the parent writes the limits and the record.
        umask(Mode::empty());
        let rootfs = &self.plan.rootfs;
        let opened;
        let sources = match &self.sources {
            Some(sources) => sources,
            None => {
                opened = Sources::open(rootfs, &self.restrictions())?;
                &opened
            }
        };
        let mut tree = Tree::new(sources.root.as_fd(), rootfs.mount_label.as_deref());
        match rootfs.pivot {
            true => rootfs::attach(rootfs, sources)?,
            false => rootfs::keep_apart(sources)?,
        }
        mounts::attach_early(&mut tree, rootfs, sources).map_err(|error| match (rootfs.pivot, error.errno()) {
            (false, Some(Errno::EINVAL)) => error.hint("without a mount namespace of its own: from Linux 6.15 on"),
            _ => error,
        })?;

        // The pid is on disk now, so that whatever follows can be undone by anybody.
        self.socket.expect(&Message::Go)?;
        cgroups::join(&self.tasks)?;
        if self.plan.namespaces.creates(CloneFlags::CLONE_NEWCGROUP) {
            unshare(CloneFlags::CLONE_NEWCGROUP).context(|| "unshare(CLONE_NEWCGROUP)")?;
        }
        mounts::attach_late(&mut tree, rootfs, sources, self.view.as_ref())?;
        let root = tree.root();
        devices::make(&tree, &rootfs.devices, sources.nodes.as_ref())?;
        if rootfs.own_dev {
            devices::make_links(&tree, rootfs.has_proc())?;
        }
        let terminal = self.make_terminal(&tree)?;

        // The environment is complete, and the host's root still there.
        self.run_create_hooks()?;

        if !self.plan.sysctls.is_empty() {
            let opened;
            let procfs = match &self.procfs {
                Some(procfs) => procfs,
                None => {
                    opened = Procfs::open(true)?;
                    &opened
                }
            };
            sysctl::apply(&self.plan.sysctls, procfs)?;
        }
        if let Some(null) = &sources.null {
            masks::mask(&tree, &rootfs.masked, null.as_fd())?;
        }
        masks::make_read_only(&tree, &rootfs.read_only)?;
        match rootfs.pivot {
            true if self.no_pivot => rootfs::move_to_top(rootfs, root)?,
            true => rootfs::pivot(root)?,
            false => rootfs::change_root(root)?,
        }
        if let (true, Some(process)) = (rootfs.readonly, &self.plan.process) {
            // Later it would be too late to make it.
            make_directories(&process.cwd)?;
        }
        rootfs::finish(rootfs, root)?;
        if let (Some(process), Some(procfs)) = (&self.plan.process, procfs) {
            process.labels.set(&procfs, self.keyring.is_some())?;
        }
        self.enter_pid_namespace()?;
        self.become_process(terminal.as_ref(), groups_are_fixed)
    }

    /// Into every namespace that can be entered at once; whether the user namespace lets nobody change his groups.
    fn enter_namespaces(&self) -> Result<bool> {
        let namespaces = &self.plan.namespaces;
        let makes_userns = namespaces.creates(CloneFlags::CLONE_NEWUSER);
        if !makes_userns || namespaces.unshares_user() {
            namespaces::join(&self.existing, makes_userns)?;
        }
        if namespaces.unshares_user() {
            let flags = namespaces.clone_flags().difference(CloneFlags::CLONE_NEWPID);
            unshare(flags).context(|| format!("unshare({flags:?})"))?;
        }
        if namespaces.joins(CloneFlags::CLONE_NEWUSER) {
            self.become_root()?;
            self.make_owned_namespaces()?;
        }
        let makes_time = namespaces.creates(CLONE_NEWTIME);
        if makes_time {
            unshare(CLONE_NEWTIME).context(|| "unshare(CLONE_NEWTIME)")?;
        }
        let has_offsets = !self.plan.time_offsets.is_empty();
        if has_offsets || namespaces.unshares_user() {
            self.socket.send(&Message::Unshared)?;
        }
        if makes_userns || has_offsets {
            self.socket.expect(&Message::Mapped)?;
        }
        if makes_userns {
            self.become_root()?;
        }
        if makes_time {
            namespaces::enter_new_time_namespace()?;
        }
        if namespaces.unshares_user() && namespaces.hands_over_early() {
            self.hand_over(CloneFlags::CLONE_NEWPID)?;
        }
        self.unshare_network()?;
        let may_be_fixed = namespaces.has(CloneFlags::CLONE_NEWUSER) || self.caller.has_groups_of_userns();
        Ok(may_be_fixed && !sys::may_set_groups())
    }

    /// What is made from here on belongs to root in the container. The change of user has disarmed what makes us die with
    /// the parent, and may have opened us to tracers (rules R11, R22).
    fn become_root(&self) -> Result<()> {
        let (uid, gid) = self.plan.process.as_ref().map_or((0, 0), |process| (process.uid, process.gid));
        userns::become_root(uid, gid)?;
        nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        die_with_parent()
    }

    /// In an existing user namespace: makes the namespaces that are to belong to it. A PID namespace is only for children,
    /// so with one of those init is one more process.
    fn make_owned_namespaces(&self) -> Result<()> {
        let namespaces = &self.plan.namespaces;
        let flags = namespaces.clone_flags();
        match namespaces.hands_over_early() {
            true => self.hand_over(flags),
            false => unshare(flags).context(|| format!("unshare({flags:?})")),
        }
    }

    fn hand_over(&self, flags: CloneFlags) -> Result<()> {
        hand_over(&self.socket, flags, || format!("clone3({flags:?})"))
    }

    fn restrictions(&self) -> Restrictions<'_> {
        restrictions(self.plan, &self.caller, self.ids.as_ref(), &self.existing, &self.record.cgroups)
    }

    fn make_terminal(&self, tree: &Tree<'_>) -> Result<Option<Terminal>> {
        let (Some(process), Some(console)) = (&self.plan.process, &self.console) else {
            return Ok(None);
        };
        let dev_pts = terminal::open_dev_pts(tree)?;
        let terminal = Terminal::make(dev_pts.as_fd(), process.console_size, console)?;
        terminal.attach_as_console(tree, self.plan.rootfs.own_dev)?;
        Ok(Some(terminal))
    }

    fn unshare_network(&self) -> Result<()> {
        let flags = self.plan.namespaces.unshare_flags();
        if !flags.is_empty() {
            unshare(flags).context(|| format!("unshare({flags:?})"))?;
        }
        if flags.contains(CloneFlags::CLONE_NEWNET) {
            crate::netdev::loopback_up()?;
        }
        Ok(())
    }

    fn set_names(&self) -> Result<()> {
        if let Some(name) = &self.plan.hostname {
            nix::unistd::sethostname(name).context(|| format!("sethostname({name:?})"))?;
        }
        if let Some(name) = &self.plan.domainname {
            sys::setdomainname(name).context(|| format!("setdomainname({name:?})"))?;
        }
        Ok(())
    }

    /// prestart and createRuntime run in the parent, createContainer here, all before pivot_root (config.md: hooks). Their
    /// state says created, for they are the steps after the second of the lifecycle (runtime.md: state).
    fn run_create_hooks(&self) -> Result<()> {
        if !has_create_hooks(self.plan) {
            return Ok(());
        }
        self.socket.send(&Message::Hooks)?;
        self.socket.expect(&Message::HooksDone)?;
        let list = self.plan.hooks.create_container().as_deref().unwrap_or_default();
        let state = self.record.to_json(Status::Created, Some(nix::unistd::getpid()));
        if let Some(limit) = self.nofile.filter(|_| !list.is_empty()) {
            limit.give_back()?;
            hooks::run("createContainer", list, &state, &self.outputs)?;
            return limit.raise_again();
        }
        hooks::run("createContainer", list, &state, &self.outputs)
    }

    /// Joins an existing PID namespace, by one more clone, for setns(2) only counts for children. It comes so late
    /// because a process in there could look at us: by now we hold nothing of the host (rule R11).
    fn enter_pid_namespace(&self) -> Result<()> {
        let Some(namespace) = self.existing.iter().find(|namespace| namespace.kind == CloneFlags::CLONE_NEWPID) else {
            return Ok(());
        };
        let what = || format!("join the pid namespace {}", namespace.path.display());
        let makes_userns = self.plan.namespaces.creates(CloneFlags::CLONE_NEWUSER);
        let is_late = namespaces::joined_late(&self.existing, makes_userns)?.is_some();
        let keep: Vec<_> = self.kept().chain([namespace.fd.as_fd()]).collect();
        process::close_all_but(&keep, self.preserve_fds).context(what)?;
        if is_late {
            sys::setns(namespace.fd.as_fd(), CloneFlags::CLONE_NEWPID).context(|| "setns").context(what)?;
        }
        self.hand_over(CloneFlags::empty()).context(what)
    }

    /// The last part: the container's own process takes over.
    fn become_process(&self, terminal: Option<&Terminal>, groups_are_fixed: bool) -> Result<Infallible> {
        let keep: Vec<_> = self.kept().collect();
        if let Some(limit) = self.nofile {
            limit.give_back()?;
        }
        let ready = match &self.plan.process {
            Some(process) => Some(self.confinement(process, terminal, groups_are_fixed).apply(&keep)?),
            None => None,
        };
        // From here on the container is on its own: its parent may end. If the parent dies before it has said PROCEED,
        // the socket tells.
        nix::sys::prctl::set_pdeathsig(None).context(|| "prctl(PR_SET_PDEATHSIG, 0)")?;
        self.socket.send(&Message::Ready)?;
        if self.wait {
            self.socket.expect(&Message::Proceed)?;
        }
        match (&self.start, &ready) {
            (Some(listener), ready) => self.wait_for_start(listener, ready.as_ref()),
            (None, Some(ready)) => {
                self.run_start_hooks()?;
                Err(ready.execute())
            }
            (None, None) => Err(Error::new("config.json: /process: is required to run a container")),
        }
    }

    /// What stays open until execve: the sockets, whose end it tells, and the files of the last hooks.
    fn kept(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sockets = std::iter::once(self.socket.as_fd()).chain(self.start.as_ref().map(AsFd::as_fd));
        sockets.chain(self.outputs.descriptors())
    }

    fn confinement<'a>(
        &'a self,
        process: &'a Process,
        terminal: Option<&'a Terminal>,
        groups_are_fixed: bool,
    ) -> Confinement<'a> {
        Confinement {
            process,
            attributes: &self.plan.attributes,
            filter: self.filter.as_ref(),
            keyring: self.keyring.as_deref(),
            signals: self.caller.signals,
            make_cwd: true,
            preserve_fds: self.preserve_fds,
            terminal,
            keep_groups: self.record.keeps_groups(),
            groups_are_fixed,
            socket: &self.socket,
            for_unprivileged: !self.caller.may_mount,
        }
    }

    /// Waits until somebody starts the container; then `start` is who wants to know.
    fn wait_for_start(&self, listener: &OwnedFd, ready: Option<&Ready>) -> Result<Infallible> {
        // `create` is waiting for this EOF no longer, and nobody else has the other end.
        sys::close_inherited(self.socket.as_fd());
        let starter = match sync::accept_start(listener.as_fd()) {
            Ok(starter) => starter,
            Err(_) => sys::exit(1),
        };
        let failure = match ready {
            None => Error::new("config.json: /process: is required to start a container"),
            Some(ready) => match self.run_start_hooks().and_then(|()| starter.send(&Message::Ready)) {
                Ok(()) => ready.execute(),
                Err(failure) => failure,
            },
        };
        let _ = starter.send(&Message::Error(failure));
        sys::exit(1)
    }

    fn run_start_hooks(&self) -> Result<()> {
        let list = self.plan.hooks.start_container().as_deref().unwrap_or_default();
        if list.is_empty() {
            return Ok(());
        }
        let state = self.record.to_json(Status::Created, Some(nix::unistd::getpid()));
        hooks::run("startContainer", list, &state, &self.outputs)
    }
}

/// Goes on as a new process, a child of our parent, who is told its pid; a PID namespace that was joined is only for
/// children. `what` names the clone if it fails.
pub fn hand_over(socket: &Socket, flags: CloneFlags, what: impl FnOnce() -> String) -> Result<()> {
    match sys::clone(flags | CloneFlags::CLONE_PARENT, None).context(what)? {
        Cloned::Parent(pid, _) => {
            socket.send(&Message::Init(pid.as_raw()))?;
            sys::exit(0)
        }
        Cloned::Child => {
            die_with_parent()?;
            nix::unistd::setsid().context(|| "setsid")?;
            socket.expect(&Message::Adopted)
        }
    }
}

/// What the container may not do by itself.
pub fn restrictions<'a>(
    plan: &Plan,
    caller: &Caller,
    ids: Option<&'a Mappings>,
    existing: &'a [Existing],
    cgroups: &'a Cgroups,
) -> Restrictions<'a> {
    let namespaces = &plan.namespaces;
    let in_userns = caller.is_nested || namespaces.has(CloneFlags::CLONE_NEWUSER);
    let find = |kind: CloneFlags| existing.iter().find(|namespace| namespace.kind == kind);
    let unified = cgroups.directories.iter().find(|directory| directory.hierarchy == "unified");
    let unified = unified.map(|directory| directory.path.as_path());
    // A mount of the hierarchy would show a user namespace more than it may see, and from the first cgroup namespace it
    // would take away what options the host's own has (cgroup_namespaces(7)): what is there is shown instead.
    let has_own = match find(CloneFlags::CLONE_NEWCGROUP) {
        Some(joined) => !joined.is_own().unwrap_or(true),
        None => namespaces.creates(CloneFlags::CLONE_NEWCGROUP),
    };
    let shown = match in_userns {
        // One that is joined may belong to somebody else, who alone could mount it.
        true => unified.filter(|_| !namespaces.creates(CloneFlags::CLONE_NEWCGROUP)),
        false => Some(Path::new(cgroups::UNIFIED)).filter(|_| cgroups.unified && !has_own),
    };
    Restrictions {
        ids,
        userns: find(CloneFlags::CLONE_NEWUSER).map(|namespace| namespace.fd.as_fd()),
        pidns: find(CloneFlags::CLONE_NEWPID).map(|namespace| namespace.fd.as_fd()),
        makes_nodes: !in_userns,
        shows_sys: in_userns && !namespaces.creates(CloneFlags::CLONE_NEWNET),
        shows_cgroup: shown,
        mounts_cgroup: has_own,
    }
}

/// Whether the parent has to be asked before pivot_root.
#[allow(deprecated, reason = "prestart is deprecated in the specification, and engines still use it")]
pub fn has_create_hooks(plan: &Plan) -> bool {
    let hooks = &plan.hooks;
    [hooks.prestart(), hooks.create_runtime(), hooks.create_container()]
        .into_iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

/// From now on the death of the parent is ours, too, until the container is created (rule R22). A parent that died
/// before this call is noticed by the next read from the socket.
pub fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context(|| "prctl(PR_SET_PDEATHSIG)")
}
