//! A container's record on disk, and the command `state`.
//!
//! ```text
//! ROOT/ID/            0700; the directory is the lock, its existence takes the id
//!   state.json        what was decided, written before the first side effect and not changed after the clone
//!   init              pid and start time of init, as a symlink, made before init may go on
//!   start.sock        the socket on which init waits for `start`; it gets this name when the container is created
//!   seccomp.bpf       the filter, for exec
//!   restored          init was restored from a checkpoint: it runs, though it has executed nothing itself
//!   notify/           with a service manager: what the container sees at /run/notify
//! ```
//!
//! What changes in a container's life is not recorded but asked of the kernel: whether init lives, and whether it has
//! executed the user's program yet. So there is nothing that a crash could leave wrong.

use crate::caller::Caller;
use crate::cgroups::Cgroups;
use crate::cgroups::v2::RootOptions;
use crate::cli::CreateArgs;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::log;
use crate::namespaces::CLONE_NEWTIME;
use crate::plan::Plan;
use crate::rdt;
use crate::rootfs::external::Bind;
use crate::scheduling::ContainerAttributes;
use crate::seccomp::Filter;
use crate::seccomp::notify::Listener;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, symlinkat, unlinkat};
use oci_spec::runtime::{Hooks, Process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Raised when an older corten could no longer read the file; a newer one reads all older ones.
const VERSION: u32 = 1;
const RECORD: &str = "state.json";
const INIT: &str = "init";
const FILTER: &str = "seccomp.bpf";
/// The start socket of a created container.
pub const START_SOCKET: &str = "start.sock";
/// The same before the container is created.
pub const EARLY_START_SOCKET: &str = ".start.sock";
const RESTORED: &str = "restored";
const NOTIFY: &str = "notify";
const ROOT_OPTIONS: &str = "cgroup2.json";
const FILES: [&str; 9] = [
    RECORD,
    INIT,
    FILTER,
    START_SOCKET,
    EARLY_START_SOCKET,
    RESTORED,
    ROOT_OPTIONS,
    ".state.json",
    "notify/notify.sock",
];

/// What was decided about a container when it was created.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    version: u32,
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    pub owner: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub cgroups: Cgroups,
    /// Flags of clone(2): the namespaces that are not the runtime's.
    namespaces: i32,
    /// Those of them that were not made for the container.
    #[serde(default, skip_serializing_if = "is_zero")]
    joined: i32,
    /// What of the host it sees, for checkpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<Bind>,
    /// Whether the PID namespace was made for the container, so that its processes end with init.
    pub ends_with_init: bool,
    /// Whether it was restored: then processes of CRIU may be in its cgroups, too, and not end with init.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// Whether the container has a session keyring of its own.
    pub keyring: bool,
    /// Who gets the seccomp listeners of further processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    /// What every process of the container has.
    #[serde(default, skip_serializing_if = "ContainerAttributes::is_empty")]
    pub attributes: ContainerAttributes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<rdt::Group>,
    /// What exec takes its defaults from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// poststart and poststop.
    #[serde(default)]
    pub hooks: Hooks,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// The init process of a container: a pid alone could have been given to somebody else since (rule R21).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitProcess {
    pub pid: Pid,
    /// Clock ticks since boot (proc(5), starttime).
    start_time: u64,
}

/// runtime.md: state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl Record {
    /// The record of a container that is about to be made.
    pub fn new(args: &CreateArgs, caller: &Caller, plan: &Plan, cgroups: Cgroups, rdt: Option<rdt::Group>) -> Record {
        let namespaces = [
            CloneFlags::CLONE_NEWNS,
            CloneFlags::CLONE_NEWPID,
            CloneFlags::CLONE_NEWNET,
            CloneFlags::CLONE_NEWIPC,
            CloneFlags::CLONE_NEWUTS,
            CloneFlags::CLONE_NEWCGROUP,
            CloneFlags::CLONE_NEWUSER,
            CLONE_NEWTIME,
        ];
        let joined = namespaces.into_iter().filter(|kind| plan.namespaces.joins(*kind));
        let joined = joined.fold(CloneFlags::empty(), |all, kind| all | kind).bits();
        let namespaces = namespaces.into_iter().filter(|kind| plan.namespaces.has(*kind));
        let mut hooks = Hooks::default();
        hooks.set_poststart(plan.hooks.poststart().clone());
        hooks.set_poststop(plan.hooks.poststop().clone());
        Record {
            version: VERSION,
            oci_version: plan.oci_version.clone(),
            id: args.id.clone(),
            bundle: plan.bundle.clone(),
            rootfs: plan.rootfs.path.clone(),
            created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
            owner: caller.uid,
            annotations: plan.annotations.clone().into_iter().collect(),
            cgroups,
            namespaces: namespaces.fold(CloneFlags::empty(), |all, kind| all | kind).bits(),
            joined,
            binds: plan.rootfs.mounts.iter().filter_map(Bind::of).collect(),
            ends_with_init: plan.namespaces.creates(CloneFlags::CLONE_NEWPID),
            restored: false,
            keyring: !args.no_new_keyring,
            listener: plan.seccomp.as_ref().and_then(Listener::new),
            attributes: plan.attributes.clone(),
            rdt,
            process: plan.exec_defaults.clone(),
            hooks,
        }
    }

    /// The namespaces that are not the runtime's.
    pub fn namespaces(&self) -> CloneFlags {
        CloneFlags::from_bits_retain(self.namespaces)
    }

    /// Whether it has joined the namespace of a kind that existed before.
    pub fn has_joined(&self, kind: CloneFlags) -> bool {
        CloneFlags::from_bits_retain(self.joined).contains(kind)
    }

    /// Adds a namespace that it turned out to have.
    pub fn add_namespace(&mut self, kind: CloneFlags) {
        self.namespaces |= kind.bits();
    }

    /// Whether the caller's supplementary groups stay with the container's processes (an annotation of crun's).
    pub fn keeps_groups(&self) -> bool {
        self.annotations.get("run.oci.keep_original_groups").is_some_and(|value| value == "1")
    }

    /// The state as hooks get it on stdin (runtime.md: state).
    pub fn to_json(&self, status: Status, pid: Option<Pid>) -> String {
        let mut state = serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status.to_string(),
            "pid": pid.map_or(0, Pid::as_raw),
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        if let Some(object) = state.as_object_mut().filter(|_| self.annotations.is_empty()) {
            object.shift_remove("annotations");
        }
        state.to_string()
    }
}

/// Rule R16. A name that passes is one component of a path and no special one.
pub fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::new("container id cannot be empty"));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(&byte);
    match id.len() <= 255 && !id.starts_with('.') && id.bytes().all(allowed) {
        true => Ok(()),
        false => Err(Error::new("invalid container ID format")),
    }
}

/// The directory of all containers, from `--root`.
pub struct Root {
    fd: OwnedFd,
    pub path: PathBuf,
}

impl Root {
    /// Opens it; None if it does not exist, and so no container does.
    pub fn open(path: &Path) -> Result<Option<Root>> {
        match files::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => Ok(Some(Root { fd, path: path.to_path_buf() })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::from(errno).context(format!("open the state directory {}: open", path.display()))),
        }
    }

    /// Opens it, making it if need be.
    pub fn make(path: &Path) -> Result<Root> {
        if let Some(root) = Root::open(path)? {
            return Ok(root);
        }
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.context(|| format!("make the state directory {}: mkdir", path.display()))?;
        Root::open(path)?.ok_or_else(|| Error::new(format!("the state directory {} is gone", path.display())))
    }

    /// The ids of everything in it that looks like a container, in order.
    pub fn ids(&self) -> Result<Vec<String>> {
        let what = || format!("list {}", self.path.display());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = nix::dir::Dir::openat(&self.fd, ".", flags, Mode::empty()).context(what)?;
        let mut ids = Vec::new();
        for entry in directory.iter() {
            let entry = entry.context(what)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let may_be_one = entry.file_type().is_none_or(|kind| kind == nix::dir::Type::Directory);
            if may_be_one && check_id(name).is_ok() {
                ids.push(name.to_string());
            }
        }
        ids.sort();
        Ok(ids)
    }
}

/// The state directory of one container.
pub struct Container {
    root: Root,
    fd: OwnedFd,
    pub id: String,
}

/// How a container is locked: alone, or with others that do not change it.
#[derive(Debug, Clone, Copy)]
pub enum Lock {
    Exclusive = libc::LOCK_EX as isize,
    Shared = libc::LOCK_SH as isize,
}

/// Opens the directory of one container. The look-up cannot leave `root`, whatever the id (rule R16).
fn open_directory(root: &Root, id: &str) -> Result<OwnedFd> {
    check_id(id)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    openat2(&root.fd, id, how).map_err(|errno| match errno {
        Errno::ENOENT => Error::new("container does not exist"),
        errno => Error::from(errno).context(format!("open {}/{id}", root.path.display())),
    })
}

impl Container {
    /// Takes an id: makes its directory and locks it.
    pub fn make(root: Root, id: &str) -> Result<Container> {
        check_id(id)?;
        match mkdirat(&root.fd, id, Mode::from_bits_truncate(0o700)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(Error::new("container with given ID already exists")),
            Err(errno) => return Err(Error::from(errno).context(format!("make {}/{id}: mkdir", root.path.display()))),
        }
        let what = || format!("make the state directory of container {id}");
        let fd = match open_directory(&root, id) {
            Ok(fd) => fd,
            Err(error) => {
                let _ = unlinkat(&root.fd, id, UnlinkatFlags::RemoveDir);
                return Err(error).context(what);
            }
        };
        let container = Container { root, fd, id: id.to_string() };
        if let Err(error) = container.lock(Lock::Exclusive) {
            let _ = container.remove();
            return Err(error).context(what);
        }
        Ok(container)
    }

    /// Opens the directory of a container that exists.
    pub fn open(root: Root, id: &str) -> Result<Container> {
        let fd = open_directory(&root, id)?;
        Ok(Container { root, fd, id: id.to_string() })
    }

    /// Opens a container by the value of `--root`.
    pub fn find(root: &Path, id: &str) -> Result<Container> {
        check_id(id)?;
        let root = Root::open(root)?.ok_or_else(|| Error::new("container does not exist"))?;
        Container::open(root, id)
    }

    /// Locks the container, waiting ten seconds at most for another corten that works on it. The kernel releases the
    /// lock with the process, however that ends (rule R19).
    pub fn lock(&self, kind: Lock) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut pause = Duration::from_micros(100);
        loop {
            match sys::flock(self.fd.as_fd(), kind as i32 | libc::LOCK_NB) {
                Ok(()) => break,
                Err(Errno::EWOULDBLOCK) if Instant::now() < deadline => {}
                Err(Errno::EWOULDBLOCK) => {
                    return Err(Error::new(format!("container {} is in use by another corten command", self.id)));
                }
                Err(errno) => return Err(Error::from(errno).context("lock the state directory: flock")),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        // Whoever held the lock before may have removed the container.
        match fstat(&self.fd).context(|| "fstat the state directory")?.st_nlink {
            0 => Err(Error::new("container does not exist")),
            _ => Ok(()),
        }
    }

    /// Lets others work on the container.
    pub fn unlock(&self) {
        // Unlocking a descriptor that is open cannot fail.
        let _ = sys::flock(self.fd.as_fd(), libc::LOCK_UN);
    }

    /// In the child of a clone: lets go of its copy of our descriptor, which would keep the lock alive (rule R19).
    pub fn close_inherited(&self) {
        sys::close_inherited(self.fd.as_fd());
    }

    /// Whether another corten is working on the container right now.
    pub fn is_locked(&self) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // A lock belongs to an open file, and ours may hold one itself.
        let Ok(fd) = openat(&self.fd, ".", flags, Mode::empty()) else {
            return false;
        };
        sys::flock(fd.as_fd(), libc::LOCK_SH | libc::LOCK_NB) == Err(Errno::EWOULDBLOCK)
    }

    /// Writes the record, in one step.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        let what = || format!("write {RECORD} of container {}", self.id);
        let bytes = serde_json::to_vec(record).context(what)?;
        self.write_new(".state.json", &bytes).context(what)?;
        renameat(&self.fd, ".state.json", &self.fd, RECORD).context(|| "rename").context(what)
    }

    /// The record; None if the creator was killed before it had done anything else.
    pub fn read_record(&self) -> Result<Option<Record>> {
        let what = || format!("read {RECORD} of container {}", self.id);
        let Some(bytes) = self.read(RECORD).context(what)? else {
            return Ok(None);
        };
        let record: Record = serde_json::from_slice(&bytes).context(what)?;
        match record.version <= VERSION {
            true => Ok(Some(record)),
            false => Err(Error::new(format!("{}: it was written by a newer corten", what()))),
        }
    }

    /// The record of a container that must have one.
    pub fn record(&self) -> Result<Record> {
        self.read_record()?.ok_or_else(|| Error::new("container does not exist").hint("its creation was interrupted"))
    }

    /// Records the init process. A symlink holds the text, for it is made and read in one step and never half written.
    pub fn write_init(&self, init: InitProcess) -> Result<()> {
        let text = format!("{} {}", init.pid, init.start_time);
        symlinkat(text.as_str(), &self.fd, INIT)
            .context(|| "symlinkat")
            .context(|| format!("record the init process of container {}", self.id))
    }

    /// The init process, if it got as far.
    pub fn read_init(&self) -> Result<Option<InitProcess>> {
        let text = match readlinkat(&self.fd, INIT) {
            Ok(text) => text.to_string_lossy().into_owned(),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => {
                return Err(Error::from(errno).context(format!("read the init process of container {}", self.id)));
            }
        };
        let parsed = text.split_once(' ').and_then(|(pid, time)| {
            let (pid, start_time) = (pid.parse().ok().filter(|pid| *pid > 0)?, time.parse().ok()?);
            Some(InitProcess { pid: Pid::from_raw(pid), start_time })
        });
        Ok(parsed)
    }

    /// Stores the filter for exec.
    pub fn write_filter(&self, filter: &Filter) -> Result<()> {
        let bytes = [&filter.flags.to_le_bytes()[..], &filter.program].concat();
        self.write_new(FILTER, &bytes).context(|| "store the seccomp filter")
    }

    /// The filter, if the container has one.
    pub fn read_filter(&self) -> Result<Option<Filter>> {
        let Some(bytes) = self.read(FILTER).context(|| "read the seccomp filter")? else {
            return Ok(None);
        };
        match bytes.split_first_chunk::<4>() {
            Some((flags, program)) if !program.is_empty() && program.len() % 8 == 0 => {
                Ok(Some(Filter { flags: u32::from_le_bytes(*flags), program: program.to_vec() }))
            }
            _ => Err(Error::new("the stored seccomp filter is damaged")),
        }
    }

    /// Creation is complete: from now on `start` finds the socket.
    pub fn announce(&self) -> Result<()> {
        renameat(&self.fd, EARLY_START_SOCKET, &self.fd, START_SOCKET).context(|| "announce the container: rename")
    }

    /// A restored container is complete.
    pub fn announce_restored(&self) -> Result<()> {
        self.write_new(RESTORED, b"").context(|| "announce the restored container")
    }

    /// Its path, free of symlinks.
    pub fn path(&self) -> Result<PathBuf> {
        let root = files::canonical_directory(&self.root.path).context(|| "look at the state directory")?;
        Ok(root.join(&self.id))
    }

    /// Makes the directory for the container's notify socket; its path.
    pub fn make_notify_directory(&self) -> Result<PathBuf> {
        let what = || "make the directory of the notify socket";
        mkdirat(&self.fd, NOTIFY, Mode::from_bits_truncate(0o755)).context(|| "mkdir").context(what)?;
        Ok(self.path().context(what)?.join(NOTIFY))
    }

    /// Opens that directory; None if the container has none.
    pub fn open_notify_directory(&self) -> Result<Option<OwnedFd>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.fd, NOTIFY, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::from(errno).context("open the directory of the notify socket")),
        }
    }

    /// The descriptor of the directory.
    pub fn directory(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where the container is in its life, and its init if that is alive.
    pub fn status(&self, record: &Record) -> Result<(Status, Option<InitProcess>)> {
        let Some(init) = self.read_init()? else {
            // A creator that was killed leaves a container which only waits for its removal.
            return Ok((if self.is_locked() { Status::Creating } else { Status::Stopped }, None));
        };
        let Some(stat) = ProcessStat::read(init.pid)?.filter(|stat| stat.is_alive(init.start_time)) else {
            return Ok((Status::Stopped, None));
        };
        let or_paused = |status| if record.cgroups.is_frozen() { Status::Paused } else { status };
        let exists = |name: &str| {
            let (flag, follow) = (nix::unistd::AccessFlags::F_OK, nix::fcntl::AtFlags::empty());
            nix::unistd::faccessat(&self.fd, name, flag, follow).is_ok()
        };
        let status = if stat.has_executed() {
            or_paused(Status::Running)
        } else if exists(START_SOCKET) {
            or_paused(Status::Created)
        } else if exists(RESTORED) {
            or_paused(Status::Running)
        } else {
            Status::Creating
        };
        Ok((status, Some(init)))
    }

    /// Notes the options of cgroup2 that CRIU is about to clear.
    pub fn write_root_options(&self, options: &RootOptions) -> Result<()> {
        let what = || "note the options of cgroup2";
        self.write_new(ROOT_OPTIONS, &serde_json::to_vec(options).context(what)?).context(what)
    }

    /// Those that have not been given back yet.
    pub fn read_root_options(&self) -> Result<Option<RootOptions>> {
        let what = || format!("read {ROOT_OPTIONS} of container {}", self.id);
        let bytes = self.read(ROOT_OPTIONS).context(what)?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).context(what)).transpose()
    }

    /// Gives them back. Who may not is told, and it keeps nobody from removing the container.
    pub fn give_back_root_options(&self) {
        let given_back = self.read_root_options().and_then(|options| match options {
            Some(options) => options.give_back().and_then(|()| self.unlink(&[ROOT_OPTIONS])),
            None => Ok(()),
        });
        if let Err(error) = given_back {
            log::warning(&format!("give cgroup2 back the options that criu has taken away: {error}"));
        }
    }

    /// Removes the directory: the files that corten makes, and nothing else, ever.
    pub fn remove(&self) -> Result<()> {
        // Most containers have these three; the rest is looked for only if something is left.
        let (usual, rest) = FILES.split_at(3);
        self.unlink(usual)?;
        match unlinkat(&self.root.fd, self.id.as_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                self.give_back_root_options();
                self.unlink(rest)?;
                // What else is in it was not made by us, and the next step says so.
                let _ = unlinkat(&self.fd, NOTIFY, UnlinkatFlags::RemoveDir);
            }
            Err(errno) => return Err(Error::from(errno).context(format!("remove container {}", self.id))),
        }
        match unlinkat(&self.root.fd, self.id.as_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Error::from(errno)
                .context(format!("remove the state directory of container {}", self.id))
                .hint("it holds something that corten did not make")),
        }
    }

    fn unlink(&self, names: &[&str]) -> Result<()> {
        for name in names {
            match unlinkat(&self.fd, *name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    return Err(Error::from(errno).context(format!("remove {name} of container {}", self.id)));
                }
            }
        }
        Ok(())
    }

    fn write_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::from_bits_truncate(0o600)).context(|| "open")?;
        File::from(fd).write_all(bytes).context(|| "write")
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(files::read(fd, 16 << 10, 64 << 20)?)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What /proc/[pid]/stat tells of a process (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    state: u8,
    flags: u64,
    start_time: u64,
}

impl ProcessStat {
    /// Reads it; None if there is no such process.
    pub fn read(pid: Pid) -> Result<Option<ProcessStat>> {
        let path = format!("/proc/{pid}/stat");
        match files::read_text(Path::new(&path)) {
            Ok(text) => match ProcessStat::parse(&text) {
                Some(stat) => Ok(Some(stat)),
                None => Err(Error::new(format!("{path} has an unknown form"))),
            },
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ESRCH)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name of the program, in parentheses, may hold anything; what follows the last one is regular.
    fn parse(text: &str) -> Option<ProcessStat> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let start_time = fields.nth(12)?.parse().ok()?;
        Some(ProcessStat { state, flags, start_time })
    }

    /// Whether this is the process that started then, and no zombie.
    fn is_alive(&self, start_time: u64) -> bool {
        self.start_time == start_time && !b"ZXx".contains(&self.state)
    }

    /// Whether it has executed a program since it was forked: PF_FORKNOEXEC of linux/sched.h, the same since 2.4.
    pub fn has_executed(&self) -> bool {
        const PF_FORKNOEXEC: u64 = 0x40;
        self.flags & PF_FORKNOEXEC == 0
    }
}

impl InitProcess {
    /// A child that has just been cloned, and whose pid therefore cannot belong to another.
    pub fn of_child(pid: Pid) -> Result<InitProcess> {
        let stat = ProcessStat::read(pid)?.ok_or_else(|| Error::new("the container's init is gone"))?;
        Ok(InitProcess { pid, start_time: stat.start_time })
    }

    /// A pidfd of exactly this process; None if it is gone. First the descriptor, then the comparison: the other way
    /// round the pid could change hands in between.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>> {
        let pidfd = match sys::pidfd_open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            Err(errno) => return Err(Error::from(errno).context(format!("pidfd_open({})", self.pid))),
        };
        let same = ProcessStat::read(self.pid)?.is_some_and(|stat| stat.start_time == self.start_time);
        Ok(same.then_some(pidfd))
    }
}

/// Everything that `state` and `list` print about a container.
pub struct Description {
    pub record: Record,
    pub status: Status,
    pub pid: i32,
}

/// Looks at one container; takes no lock, so that it works while a hook hangs.
pub fn describe(container: &Container) -> Result<Description> {
    let record = container.record()?;
    let (status, init) = container.status(&record)?;
    Ok(Description { record, status, pid: init.map_or(0, |init| init.pid.as_raw()) })
}

impl Description {
    /// The object in runc's order of keys; `owner` is empty in `state` and a name in `list`.
    pub fn to_json(&self, owner: &str, pretty: bool) -> Result<String> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct State<'a> {
            oci_version: &'a str,
            id: &'a str,
            pid: i32,
            status: String,
            bundle: &'a Path,
            rootfs: &'a Path,
            created: &'a str,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            annotations: &'a BTreeMap<String, String>,
            owner: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            oom_kills: Option<u64>,
        }
        let state = State {
            oci_version: &self.record.oci_version,
            id: &self.record.id,
            pid: self.pid,
            status: self.status.to_string(),
            bundle: &self.record.bundle,
            rootfs: &self.record.rootfs,
            created: &self.record.created,
            annotations: &self.record.annotations,
            owner,
            // Of a container that runs `events` tells; of one that has ended it may be the reason.
            oom_kills: match self.status {
                Status::Stopped => self.record.cgroups.oom_kills().filter(|kills| *kills > 0),
                _ => None,
            },
        };
        Ok(if pretty { serde_json::to_string_pretty(&state) } else { serde_json::to_string(&state) }?)
    }
}

/// `corten state ID`
pub fn state(root: &Path, id: &str) -> Result<()> {
    let container = Container::find(root, id)?;
    let json = describe(&container)?.to_json("", true)?;
    std::io::stdout().write_all(json.as_bytes()).context(|| "write to stdout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_single_plain_names() {
        for good in ["a", "A-b_c.d+e", "0", &"x".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "/", "a b", "a\0", "é", &"x".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stat_is_read_whatever_the_program_is_called() {
        let fields = "S 1 2 3 4 5 4194368 7 8 9 10 11 12 13 14 15 16 17 18 12345 20";
        let stat = ProcessStat::parse(&format!("42 (a) b) R 1) {fields}")).unwrap();
        assert_eq!((stat.state, stat.start_time, stat.has_executed()), (b'S', 12345, false));
        assert!(stat.is_alive(12345) && !stat.is_alive(1));
        assert_eq!(ProcessStat::parse("42 (x) S"), None);
    }

    #[test]
    fn this_process_is_alive_and_has_executed() {
        let init = InitProcess::of_child(nix::unistd::getpid()).unwrap();
        assert!(init.pidfd().unwrap().is_some());
        assert!(InitProcess { start_time: 1, ..init }.pidfd().unwrap().is_none());
        assert!(ProcessStat::read(init.pid).unwrap().unwrap().has_executed());
    }
}
