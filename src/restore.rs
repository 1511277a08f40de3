//! `restore`: a container goes on from the files that `checkpoint` has written. CRIU makes its processes; what is around them
//! is made as for a new container, from the configuration, and in the same order: record, cgroups, limits.
//!
//! The images are not trusted with anything that the configuration decides: after CRIU has made the processes, and before
//! they run, `verify` compares what they are and what they see with it (rule R29).

mod verify;

use crate::caller::Caller;
use crate::cgroups::{self, Entrance, Layout, Manager, systemd};
use crate::checkpoint::{DESCRIPTORS, leads_out};
use crate::cli::{CreateArgs, RestoreArgs};
use crate::create::{self, Mode};
use crate::criu::{CgroupRoot, Criu, InheritFd, JoinNamespace, Kind, Notification, Options, Place, namespace_key};
use crate::error::{Context, Error, Result};
use crate::init;
use crate::namespaces::{self, CLONE_NEWTIME, Existing};
use crate::netdev::{self, Transfer};
use crate::plan::{self, Plan};
use crate::rootfs::mountinfo;
use crate::rootfs::restoring::Workshop;
use crate::rootfs::sources::Sources;
use crate::state::{Container, InitProcess, Record, Root, Status};
use crate::sys::{self, tty};
use crate::terminal::{Destination, Way};
use crate::{files, hooks, log, pidfile, process, run, scheduling, seccomp};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `corten restore`; the exit status.
pub fn restore(root: &Path, manager: Manager, args: &RestoreArgs) -> Result<i32> {
    if !args.no_subreaper && !args.detach {
        nix::sys::prctl::set_child_subreaper(true).context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    }
    let caller = Caller::look()?;
    let mut plan = plan::load(&args.bundle, None)?;
    plan.suit(&caller)?;
    plan.cgroup.leave_to(manager, &args.id, &plan.annotations, &caller)?;
    let terminal = plan.process.as_ref().is_some_and(|process| process.terminal);
    let way = Way::open(terminal, args.detach, args.console_socket.as_deref())?;
    let (ours, theirs) = way.map_or((None, None), |way| (way.ours, Some(way.theirs)));
    let existing = create::open_namespaces(&plan)?;
    let annotations = plan.annotations.clone().into_iter().collect();
    let mut place = Place::open(&args.criu, "restore.log", false)?;
    let options = Options::new(&args.criu, &place, &annotations)?;
    let root = Root::make(root)?;
    let layout = Layout::detect(&plan.cgroup)?;
    let mut systemd = plan.cgroup.connect()?;
    let create = create_args(args);

    // Here the id becomes ours, and from here on everything is undone on an error.
    let container = Container::make(root, &args.id)?;
    let mode = if args.detach { Mode::Detached } else { Mode::Foreground };
    let notify = create::add_notify_socket(&mut plan, &container, mode);
    let notify = notify.map_err(|error| create::remove_state(&container, error))?;
    let made = create::make_cgroups(&layout, &plan, &container, &create, &caller, systemd.as_mut(), true);
    let (mut record, entrance) = made.map_err(|error| create::remove_state(&container, error))?;
    let mut restore = Restore {
        args,
        plan: &plan,
        caller,
        container: &container,
        systemd: systemd.filter(|_| plan.cgroup.has_scope()),
        is_checked: false,
        init: None,
        network: None,
        hooks: false,
    };
    let restored = restore
        .run(&mut record, entrance, options, &mut place, theirs, &existing)
        .and_then(|()| run::open_console(ours.as_ref()))
        .and_then(|console| container.announce_restored().map(|()| console));
    let Restore { init, mut network, hooks, .. } = restore;
    let (console, (pid, pidfd)) = match (restored, init) {
        (Ok(console), Some(init)) => (console, init),
        (restored, init) => {
            let error = restored.err().unwrap_or_else(|| Error::new("criu has restored nothing"));
            // Whatever CRIU may have left besides init.
            let _ = record.cgroups.kill();
            let pid_file = args.pid_file.as_deref();
            return Err(create::undo(&container, &record, init.as_ref(), network.as_mut(), hooks, pid_file, error));
        }
    };
    // Now the devices are the container's: we must not keep its network namespace alive.
    drop(network);
    container.unlock();
    if args.detach {
        return notify.map_or(Ok(()), |notify| notify.wait(pid, pidfd.as_fd())).map(|()| 0);
    }
    let status = run::wait(pid, pidfd.as_fd(), console, notify)?;
    run::clear_away(&container, &record).map(|()| status)
}

/// What `create` would have been told.
fn create_args(args: &RestoreArgs) -> CreateArgs {
    CreateArgs {
        id: args.id.clone(),
        bundle: args.bundle.clone(),
        config: None,
        pid_file: args.pid_file.clone(),
        console_socket: args.console_socket.clone(),
        pidfd_socket: None,
        no_pivot: args.no_pivot,
        no_new_keyring: false,
        no_subreaper: args.no_subreaper,
        preserve_fds: 0,
        may_lack_cgroups: None,
    }
}

struct Restore<'a> {
    args: &'a RestoreArgs,
    plan: &'a Plan,
    caller: Caller,
    container: &'a Container,
    /// As long as CRIU is not in the scope.
    systemd: Option<systemd::Manager>,
    /// Whether the rights of the processes have been looked at.
    is_checked: bool,
    /// Once there is one; what it is needed for on an error.
    init: Option<(Pid, OwnedFd)>,
    /// Likewise.
    network: Option<Transfer>,
    /// Whether hooks have run, so that poststop has to.
    hooks: bool,
}

impl Restore<'_> {
    /// Everything up to processes that run.
    fn run(
        &mut self,
        record: &mut Record,
        mut entrance: Entrance,
        mut options: Options,
        place: &mut Place,
        console: Option<Destination>,
        existing: &[Existing],
    ) -> Result<()> {
        let (plan, args) = (self.plan, self.args);
        if let (Some(config), Some(group)) = (&plan.rdt, &mut record.rdt) {
            group.make(config)?;
        }
        if let Some(profile) = &plan.seccomp {
            self.container.write_filter(&seccomp::filter(profile, self.caller.uid)?)?;
        }
        let mut restrictions = init::restrictions(plan, &self.caller, plan.ids.as_ref(), existing, &record.cgroups);
        restrictions.pidns = None;
        let sources = Sources::open(&plan.rootfs, &restrictions)?;
        let view = if plan.rootfs.shows_cgroups() { Some(record.cgroups.view()?) } else { None };
        let workshop = Workshop::new(&plan.rootfs, &sources, view.as_ref(), self.container.path()?)?;
        let keyring = create::keyring_name(&args.id, false)?;

        options.root = plan.rootfs.path.to_string_lossy().into_owned();
        options.rst_sibling = true;
        options.evasive_devices = true;
        options.tcp_close = args.tcp_close;
        options.external = workshop.external()?;
        let of_config = plan.process.as_ref().and_then(|process| process.labels.for_criu());
        options.lsm_profile = args.lsm_profile.clone().or(of_config);
        let of_config = plan.rootfs.mount_label.as_ref().map(|label| label.to_string_lossy().into_owned());
        options.lsm_mount_context = args.lsm_mount_context.clone().or(of_config);
        options.inherit_fd = inherited_streams(place.images())?;
        let inherited = join(existing, &mut options);
        // Then CRIU makes no cgroup namespace either, and gets it from us.
        let is_spared = options.spare_cgroups(&args.criu, &record.cgroups)?;
        let unshares_cgroup = is_spared && plan.namespaces.creates(CloneFlags::CLONE_NEWCGROUP);

        let cgroup = entrance.into.as_ref().map(AsFd::as_fd);
        let criu = Criu::start(self.container, cgroup, &inherited, || {
            cgroups::join(&entrance.tasks)?;
            if unshares_cgroup {
                unshare(CloneFlags::CLONE_NEWCGROUP).context(|| "unshare(CLONE_NEWCGROUP)")?;
            }
            keyring.as_deref().map_or(Ok(()), process::join_keyring)?;
            workshop.build()?;
            place.enter_mount_namespace()
        })?;
        let ready = self.enter_scope(&criu, record, &mut entrance).and_then(|()| self.limit(&criu, record, &entrance));
        let asked = ready.and_then(|()| {
            options.cg_root = cgroup_roots(criu.pid())?;
            let shop = (criu.pid(), self.container.path()?);
            criu.ask(Kind::Restore, options, place, |moment, fd| match moment.script.as_str() {
                "post-restore" => self.finish(record, existing, &shop),
                // Nobody may refuse any more: CRIU would wait for ever for what it still holds.
                "pre-resume" => self.check_rights(record).inspect_err(|_| criu.kill()),
                _ => self.answer(moment, fd, record, console.as_ref()),
            })
        });
        criu.end(self.container);
        asked?;
        match self.is_checked {
            true => Ok(()),
            false => Err(Error::new("this criu is too old: it does not say when the processes are about to run")),
        }
    }

    /// Puts CRIU, and with it everything that it makes, into the container's scope of systemd's.
    fn enter_scope(&mut self, criu: &Criu, record: &Record, entrance: &mut Entrance) -> Result<()> {
        if let Some(mut systemd) = self.systemd.take() {
            let (cgroups, config) = (&record.cgroups, &self.plan.cgroup);
            entrance.into = systemd::adopt(cgroups, config, &mut systemd, &entrance.later, criu.pid())?;
        }
        Ok(())
    }

    /// Limits and device rules, before anything of the container runs. Not the number of processes, in which CRIU would
    /// count.
    fn limit(&self, criu: &Criu, record: &Record, entrance: &Entrance) -> Result<()> {
        scheduling::free_affinity(criu.pid());
        if record.cgroups.directories.is_empty() {
            return Ok(());
        }
        let into = entrance.into.as_ref().map(AsFd::as_fd);
        record.cgroups.limit(&entrance.later, &self.plan.cgroup.resources, into)
    }

    /// Our part at each of the moments that CRIU tells of.
    fn answer(
        &mut self,
        moment: &Notification,
        fd: Option<OwnedFd>,
        record: &Record,
        console: Option<&Destination>,
    ) -> Result<()> {
        match moment.script.as_str() {
            "setup-namespaces" => {
                self.adopt(Pid::from_raw(moment.pid))?;
                self.set_up_network()?;
                self.run_hooks(record)
            }
            "orphan-pts-master" => match (fd, console) {
                (Some(master), Some(console)) => send_master(master.as_fd(), console),
                _ => {
                    Err(Error::new("config.json: /process/terminal: the container has a terminal, but none is wanted"))
                }
            },
            _ => Ok(()),
        }
    }

    /// The restored init is our child, and its pid goes to disk before it can do anything.
    fn adopt(&mut self, pid: Pid) -> Result<()> {
        let pidfd = sys::pidfd_open(pid).context(|| format!("pidfd_open({pid})"))?;
        self.init = Some((pid, pidfd));
        log::debug(|| format!("init of container {} has pid {pid}", self.args.id));
        self.container.write_init(InitProcess::of_child(pid)?)
    }

    /// A network namespace that is made is empty: it gets what a new container would have there.
    fn set_up_network(&mut self) -> Result<()> {
        let Some((pid, pidfd)) = &self.init else { return Ok(()) };
        if self.plan.namespaces.creates(CloneFlags::CLONE_NEWNET) {
            netdev::loopback_up_in(*pid)?;
        }
        if !self.plan.net_devices.is_empty() {
            self.network.insert(Transfer::to(pidfd.as_fd())?).move_all(&self.plan.net_devices)?;
        }
        Ok(())
    }

    /// As runc does: the hooks that set up what is around the container, and not those that run in it.
    #[allow(deprecated, reason = "prestart is deprecated in the specification, and engines still use it")]
    fn run_hooks(&mut self, record: &Record) -> Result<()> {
        let list = [self.plan.hooks.prestart(), self.plan.hooks.create_runtime()];
        if list.iter().all(|list| list.as_ref().is_none_or(Vec::is_empty)) {
            return Ok(());
        }
        self.hooks = true;
        let state = record.to_json(Status::Creating, self.init.as_ref().map(|(pid, _)| *pid));
        let outputs = hooks::Outputs::open(&record.annotations)?;
        for (kind, list) in ["prestart", "createRuntime"].into_iter().zip(list) {
            hooks::run(kind, list.as_deref().unwrap_or_default(), &state, &outputs)?;
        }
        Ok(())
    }

    /// The last moment before the processes run.
    fn check_rights(&mut self, record: &Record) -> Result<()> {
        self.is_checked = true;
        let init = self.init.as_ref().map(|(pid, _)| *pid);
        init.map_or(Ok(()), |init| verify::rights(init, self.plan, &record.cgroups.processes()?))
    }

    /// Everything is there, and nothing runs yet. `shop`: the process of CRIU, and where it sees mounts of the host.
    fn finish(&self, record: &mut Record, existing: &[Existing], shop: &(Pid, PathBuf)) -> Result<()> {
        let Some(pid) = self.init.as_ref().map(|(pid, _)| *pid) else {
            return Err(Error::new("criu has not told of the container's init"));
        };
        let mut pieces = mountinfo::read(&shop.0.to_string())?;
        pieces.retain(|mount| mount.place.starts_with(&shop.1) && mount.place != shop.1);
        verify::surroundings(pid, self.plan, existing, &pieces)?;
        if !namespaces::is_shared(pid, CLONE_NEWTIME)? {
            // CRIU makes one, for clocks must not jump.
            record.add_namespace(CLONE_NEWTIME);
            self.container.write_record(record)?;
        }
        if let Some(group) = &record.rdt {
            group.assign(pid)?;
        }
        match &self.args.pid_file {
            Some(file) => pidfile::write(file, pid),
            None => Ok(()),
        }
    }
}

/// The master of the container's terminal goes where that of a new container would.
fn send_master(master: BorrowedFd<'_>, console: &Destination) -> Result<()> {
    let name = format!("/dev/pts/{}", tty::number(master).context(|| "ioctl(TIOCGPTN)")?);
    sys::send_with_fd(console.socket.as_fd(), name.as_bytes(), master)
        .context(|| "send the container's terminal to the console socket")
}

/// Each hierarchy's cgroup of the container: CRIU is in it already.
fn cgroup_roots(criu: Pid) -> Result<Vec<CgroupRoot>> {
    let text = files::read_text(Path::new(&format!("/proc/{criu}/cgroup")))?;
    let mut roots = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        // Of several in one hierarchy each is named alone; that of v2 has no name.
        roots.extend(
            controllers
                .split(',')
                .map(|controller| CgroupRoot { controllers: Some(controller.to_string()), path: path.to_string() }),
        );
    }
    Ok(roots)
}

/// Existing namespaces: of the network and of processes CRIU inherits descriptors, the others it joins by path. The paths are
/// those of descriptors that are open here, so that they lead where they have led before.
fn join<'a>(existing: &'a [Existing], options: &mut Options) -> Vec<BorrowedFd<'a>> {
    let mut inherited = Vec::new();
    for namespace in existing {
        let fd = namespace.fd.as_fd();
        match namespace.kind {
            CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID => {
                let key = namespace_key(namespace.kind).to_string();
                options.inherit_fd.push(InheritFd { key, fd: fd.as_raw_fd() });
                inherited.push(fd);
            }
            kind => {
                let file = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
                options.join_ns.push(JoinNamespace { kind: namespaces::file_name(kind).to_string(), file });
            }
        }
    }
    inherited
}

/// What led out of the container as one of init's standard streams: in its place it gets ours, which CRIU inherits.
fn inherited_streams(images: BorrowedFd<'_>) -> Result<Vec<InheritFd>> {
    let what = || format!("read {DESCRIPTORS} in the image directory");
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = files::open_at(images, Path::new(DESCRIPTORS), flags, 0).context(|| "open").context(what)?;
    let bytes = files::read(file, 4095, 1 << 20).context(what)?;
    let targets: Vec<String> = serde_json::from_slice(&bytes).context(what)?;
    let mut streams: Vec<InheritFd> = Vec::new();
    for (key, fd) in targets.into_iter().zip(0..3).filter(|(target, _)| leads_out(target)) {
        // CRIU wants each once; two streams that were one file still are.
        if streams.iter().all(|stream| stream.key != key) {
            streams.push(InheritFd { key, fd });
        }
    }
    Ok(streams)
}
