//! The child's story, from the clone to execve of the user's program, one step a line and in the order that matters.
//!
//! Everything it needs it has inherited, as memory or as descriptors that the parent opened. Whatever goes wrong travels
//! to the parent as (errno, text), and the process ends: there is no second way for any step.

use crate::cgroups::{self, View};
use crate::error::{Context, Error, Result};
use crate::namespaces::{self, Existing};
use crate::plan::{Plan, Process};
use crate::process::{Confinement, Ready, make_directories};
use crate::procfs::Procfs;
use crate::rootfs::{self, Sources, Tree, devices, masks, mounts};
use crate::seccomp::Filter;
use crate::state::{Container, Record, Status};
use crate::sync::{self, Message, Socket};
use crate::sys::{self, Cloned};
use crate::{hooks, process, sysctl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the parent has prepared.
pub struct Init<'a> {
    pub plan: &'a Plan,
    pub record: &'a Record,
    pub container: &'a Container,
    pub socket: Socket,
    /// `create`: where to wait for `start`. None: the program is executed at once.
    pub start: Option<OwnedFd>,
    /// Whether the parent has something to do between READY and execve.
    pub wait: bool,
    pub existing: Vec<Existing>,
    pub sources: Sources,
    pub null: Option<OwnedFd>,
    /// v1: the `tasks` files of the container's cgroups.
    pub tasks: Vec<OwnedFd>,
    /// What a mount of type cgroup shows.
    pub view: Option<View>,
    pub filter: Option<Filter>,
    /// None: stay in the caller's session keyring.
    pub keyring: Option<CString>,
    pub ignored_signals: u64,
    pub preserve_fds: u32,
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
        let mut fds = vec![self.socket.into_fd(), self.sources.root];
        fds.extend(self.sources.binds.into_iter().flatten());
        fds.extend(self.start.into_iter().chain(self.null).chain(self.tasks));
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

        // Namespaces first: what is mounted below shows what they hold.
        namespaces::join(&self.existing)?;
        self.unshare_network()?;
        self.set_names()?;
        // While nothing of the container is mounted yet, or could be in its way (rule R4).
        let procfs = self.plan.process.as_ref().map(|process| process.labels.open()).transpose()?.flatten();

        // Beside this the parent writes the limits and the record.
        umask(Mode::empty());
        let rootfs = &self.plan.rootfs;
        let root = self.sources.root.as_fd();
        let mut tree = Tree::new(root, rootfs.mount_label.as_deref());
        if rootfs.pivot {
            rootfs::attach(rootfs, &self.sources)?;
            mounts::attach_all(&mut tree, rootfs, &self.sources)?;
        }

        // The pid is on disk now, so that whatever follows can be undone by anybody.
        self.socket.expect(&Message::Go)?;
        cgroups::join(&self.tasks)?;
        if self.plan.namespaces.creates(CloneFlags::CLONE_NEWCGROUP) {
            unshare(CloneFlags::CLONE_NEWCGROUP).context(|| "unshare(CLONE_NEWCGROUP)")?;
        }
        if let Some(view) = &self.view {
            mounts::attach_cgroups(&mut tree, rootfs, &self.sources, view)?;
        }
        devices::make(&tree, &rootfs.devices)?;
        if rootfs.pivot && rootfs.own_dev {
            devices::make_links(&tree, rootfs.has_proc())?;
        }

        // The environment is complete, and the host's root still there.
        self.run_create_hooks()?;

        if !self.plan.sysctls.is_empty() {
            sysctl::apply(&self.plan.sysctls, &Procfs::open(true)?)?;
        }
        if rootfs.pivot {
            if let Some(null) = &self.null {
                masks::mask(&tree, &rootfs.masked, null.as_fd())?;
            }
            masks::make_read_only(&tree, &rootfs.read_only)?;
            rootfs::pivot(root)?;
            if let (true, Some(process)) = (rootfs.readonly, &self.plan.process) {
                // Later it would be too late to make it.
                make_directories(&process.cwd)?;
            }
            rootfs::finish(rootfs, root)?;
        } else {
            rootfs::change_root(root)?;
        }
        if let (Some(process), Some(procfs)) = (&self.plan.process, procfs) {
            process.labels.set(&procfs, self.keyring.is_some())?;
        }
        self.enter_pid_namespace()?;
        self.become_process()
    }

    fn unshare_network(&self) -> Result<()> {
        let flags = self.plan.namespaces.unshare_flags();
        if flags.contains(CloneFlags::CLONE_NEWNET) {
            unshare(flags).context(|| "unshare(CLONE_NEWNET)")?;
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

    /// prestart and createRuntime run in the parent, createContainer here, all before pivot_root (config.md: hooks).
    fn run_create_hooks(&self) -> Result<()> {
        if !has_create_hooks(self.plan) {
            return Ok(());
        }
        self.socket.send(&Message::Hooks)?;
        self.socket.expect(&Message::HooksDone)?;
        let list = self.plan.hooks.create_container().as_deref().unwrap_or_default();
        let state = self.record.to_json(Status::Creating, Some(nix::unistd::getpid()));
        hooks::run("createContainer", list, &state)
    }

    /// Joins an existing PID namespace, by one more clone, for setns(2) only counts for children. It comes so late
    /// because a process in there could look at us: by now we hold nothing of the host (rule R11).
    fn enter_pid_namespace(&self) -> Result<()> {
        let Some(namespace) = self.existing.iter().find(|namespace| namespace.kind == CloneFlags::CLONE_NEWPID) else {
            return Ok(());
        };
        let what = || format!("join the pid namespace {}", namespace.path.display());
        let keep: Vec<_> = self.sockets().chain([namespace.fd.as_fd()]).collect();
        process::close_all_but(&keep, self.preserve_fds).context(what)?;
        sys::setns(namespace.fd.as_fd(), CloneFlags::CLONE_NEWPID).context(|| "setns").context(what)?;
        match sys::clone(CloneFlags::CLONE_PARENT, None).context(|| "clone3").context(what)? {
            Cloned::Parent(pid, _) => {
                self.socket.send(&Message::Init(pid.as_raw()))?;
                sys::exit(0)
            }
            Cloned::Child => {
                die_with_parent()?;
                nix::unistd::setsid().context(|| "setsid")?;
                self.socket.expect(&Message::Go)
            }
        }
    }

    /// The last part: the container's own process takes over.
    fn become_process(&self) -> Result<Infallible> {
        let keep: Vec<_> = self.sockets().collect();
        let ready = match &self.plan.process {
            Some(process) => Some(self.confinement(process).apply(&keep)?),
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

    /// What stays open until execve, whose end they tell.
    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.socket.as_fd()).chain(self.start.as_ref().map(AsFd::as_fd))
    }

    fn confinement<'a>(&'a self, process: &'a Process) -> Confinement<'a> {
        Confinement {
            process,
            attributes: &self.plan.attributes,
            filter: self.filter.as_ref(),
            keyring: self.keyring.as_deref(),
            ignored_signals: self.ignored_signals,
            make_cwd: true,
            preserve_fds: self.preserve_fds,
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
        hooks::run("startContainer", list, &self.record.to_json(Status::Created, Some(nix::unistd::getpid())))
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
