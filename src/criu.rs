//! CRIU, the program that saves processes and restores them, driven by its RPC (criu.org/RPC; images/rpc.proto).
//!
//! One process `criu swrk FD` serves one request. While it works it tells how far it is, and waits for each answer, so that
//! the runtime can do its part at the right moment. Directories, namespaces and pipes are given as descriptors that it
//! inherits. The directories it opens anew by way of /proc/PID/fd of the process that has made the socket: so that is made
//! in its own process, whose mount namespace may be another one than ours.

use crate::cgroups::Cgroups;
use crate::cgroups::v2::RootOptions;
use crate::cli::CriuArgs;
use crate::error::{Context, Error, Result};
use crate::state::Container;
use crate::sync::{self, Message};
use crate::sys::{self, Cloned};
use crate::{create, files, log};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use nix::sys::stat::fstat;
use nix::unistd::{AccessFlags, Pid, access};
use prost::Message as _;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Where settings of this machine are, unless the annotation `org.criu.config` names another file: runc's.
const CONFIG: &str = "/etc/criu/runc.conf";

/// The largest answer; CRIU sends a few hundred bytes.
const MAX_ANSWER: usize = 40 * 1024;

/// `criu_req_type` of rpc.proto.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    Empty = 0,
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
}

/// `criu_req`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    #[prost(enumeration = "Kind", required, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    options: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    notify_success: Option<bool>,
    #[prost(message, optional, tag = "5")]
    features: Option<Features>,
}

/// `criu_features`: what is asked for, and then what is there.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Features {
    #[prost(bool, optional, tag = "1")]
    pub mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub lazy_pages: Option<bool>,
}

/// `criu_opts`, as far as a runtime uses it; `criu(8)` has the options of the same names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Options {
    #[prost(int32, required, tag = "1")]
    images_dir_fd: i32,
    #[prost(int32, tag = "2")]
    pub pid: i32,
    #[prost(bool, tag = "3")]
    pub leave_running: bool,
    #[prost(bool, tag = "4")]
    ext_unix_sk: bool,
    #[prost(bool, tag = "5")]
    tcp_established: bool,
    #[prost(bool, tag = "6")]
    pub evasive_devices: bool,
    #[prost(bool, tag = "7")]
    shell_job: bool,
    #[prost(bool, tag = "8")]
    file_locks: bool,
    #[prost(int32, tag = "9")]
    log_level: i32,
    #[prost(string, tag = "10")]
    log_file: String,
    #[prost(message, optional, tag = "11")]
    pub page_server: Option<PageServer>,
    #[prost(bool, tag = "12")]
    notify_scripts: bool,
    #[prost(string, tag = "13")]
    pub root: String,
    #[prost(string, optional, tag = "14")]
    pub parent_img: Option<String>,
    #[prost(bool, tag = "15")]
    pub track_mem: bool,
    #[prost(bool, tag = "16")]
    auto_dedup: bool,
    #[prost(int32, optional, tag = "17")]
    work_dir_fd: Option<i32>,
    #[prost(bool, tag = "18")]
    pub link_remap: bool,
    #[prost(bool, tag = "24")]
    manage_cgroups: bool,
    #[prost(message, repeated, tag = "25")]
    pub cg_root: Vec<CgroupRoot>,
    #[prost(bool, tag = "26")]
    pub rst_sibling: bool,
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    #[prost(bool, tag = "30")]
    ext_masters: bool,
    #[prost(int32, optional, tag = "34")]
    manage_cgroups_mode: Option<i32>,
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    #[prost(uint32, tag = "38")]
    empty_ns: u32,
    #[prost(message, repeated, tag = "39")]
    pub join_ns: Vec<JoinNamespace>,
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    #[prost(bool, tag = "46")]
    pub tcp_skip_in_flight: bool,
    #[prost(bool, tag = "48")]
    lazy_pages: bool,
    #[prost(bool, tag = "50")]
    orphan_pts_master: bool,
    #[prost(string, optional, tag = "51")]
    config_file: Option<String>,
    #[prost(bool, tag = "52")]
    pub tcp_close: bool,
    #[prost(string, optional, tag = "53")]
    pub lsm_profile: Option<String>,
    #[prost(string, optional, tag = "63")]
    pub lsm_mount_context: Option<String>,
    #[prost(int32, optional, tag = "64")]
    network_lock: Option<i32>,
}

/// `criu_page_server_info`
#[derive(Clone, PartialEq, prost::Message)]
pub struct PageServer {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(int32, tag = "2")]
    pub port: i32,
}

/// `cgroup_root`: where the cgroup of the restored processes is in a hierarchy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CgroupRoot {
    #[prost(string, optional, tag = "1")]
    pub controllers: Option<String>,
    #[prost(string, required, tag = "2")]
    pub path: String,
}

/// `inherit_fd`: a descriptor that CRIU has inherited, in place of what it has saved under this name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InheritFd {
    #[prost(string, required, tag = "1")]
    pub key: String,
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// `join_namespace`
#[derive(Clone, PartialEq, prost::Message)]
pub struct JoinNamespace {
    #[prost(string, required, tag = "1")]
    pub kind: String,
    #[prost(string, required, tag = "2")]
    pub file: String,
}

/// `criu_resp`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    #[prost(enumeration = "Kind", required, tag = "1")]
    kind: i32,
    #[prost(bool, required, tag = "2")]
    success: bool,
    #[prost(message, optional, tag = "5")]
    notify: Option<Notification>,
    #[prost(int32, optional, tag = "7")]
    cr_errno: Option<i32>,
    #[prost(message, optional, tag = "8")]
    features: Option<Features>,
}

/// `criu_notify`: how far CRIU is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Notification {
    /// The name of the moment: `post-dump`, `setup-namespaces`, ...
    #[prost(string, tag = "1")]
    pub script: String,
    /// The init of the container, where there is one.
    #[prost(int32, tag = "2")]
    pub pid: i32,
}

/// The directories of one request.
pub struct Place {
    images: OwnedFd,
    work: Option<OwnedFd>,
    /// The directory that CRIU's log is in, and its name there.
    log: (PathBuf, &'static str),
}

impl Place {
    /// Opens the directories; with `make`, those that are missing are made. What is on the command line is checked first.
    pub fn open(args: &CriuArgs, log: &'static str, make: bool) -> Result<Place> {
        let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let images = given(&args.image_path).unwrap_or_else(|| PathBuf::from("checkpoint"));
        let work = given(&args.work_path);
        if make {
            make_directory(&images, true).context(|| format!("make the image directory {}", images.display()))?;
        }
        if let Some(work) = &work {
            make_directory(work, false).context(|| format!("make the work directory {}", work.display()))?;
        }
        let open = |path: &Path, what: &str| {
            files::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
                .context(|| format!("open the {what} directory {}", path.display()))
        };
        Ok(Place {
            images: open(&images, "image")?,
            work: work.as_deref().map(|work| open(work, "work")).transpose()?,
            log: (work.unwrap_or(images), log),
        })
    }

    /// The directory of the images.
    pub fn images(&self) -> BorrowedFd<'_> {
        self.images.as_fd()
    }

    /// What CRIU has to inherit.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(&self.images).chain(&self.work).map(AsFd::as_fd)
    }

    /// Opens the directories once more, under the same numbers, in the mount namespace that this process is in by now: it
    /// is there that CRIU mounts what it needs, beside its files.
    pub fn enter_mount_namespace(&mut self) -> Result<()> {
        for fd in std::iter::once(&mut self.images).chain(&mut self.work) {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let path = PathBuf::from(nix::fcntl::readlink(link.as_str()).context(|| format!("readlink {link}"))?);
            let what = || format!("open {} once more", path.display());
            let again = files::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).context(what)?;
            let (before, now) = (fstat(&*fd).context(what)?, fstat(&again).context(what)?);
            if (before.st_dev, before.st_ino) != (now.st_dev, now.st_ino) {
                return Err(Error::new("another directory is there by now").context(what()));
            }
            nix::unistd::dup2(&again, fd).context(|| "dup2")?;
        }
        Ok(())
    }

    /// What CRIU has complained of last, for the one line of an error; where to read more.
    fn complaint(&self) -> Option<String> {
        let path = self.log.0.join(self.log.1);
        let directory = self.work.as_ref().unwrap_or(&self.images).as_fd();
        let file = files::open_at(directory, Path::new(self.log.1), OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0).ok()?;
        let text = String::from_utf8_lossy(&files::read(file, 64 << 10, 64 << 20).ok()?).into_owned();
        // The last one only says that it has failed.
        let errors = text.lines().filter_map(|line| Some(line.get(line.find("Error (")?..)?.trim()));
        let errors: Vec<&str> = errors.filter(|line| !line.ends_with("FAILED.")).collect();
        let told = errors.get(errors.len().saturating_sub(2)..).unwrap_or_default().join("; ");
        let log = format!("log file: {}", path.display());
        Some(if told.is_empty() { log } else { format!("{told} ({log})") })
    }
}

fn make_directory(path: &Path, parents: bool) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().recursive(parents).mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

impl Options {
    /// CRIU saves, and then makes, every cgroup below those that the processes are in. Where these are not all the container's
    /// own, that would be those of the whole host: so there it leaves cgroups alone, unless it is told what to do. Whether it
    /// does.
    pub fn spare_cgroups(&mut self, args: &CriuArgs, cgroups: &Cgroups) -> Result<bool> {
        let ignore = Some(cgroups_mode(Some("ignore"))?);
        if args.manage_cgroups_mode.is_none() && !cgroups.are_in_every_hierarchy()? {
            self.manage_cgroups_mode = ignore;
        }
        Ok(self.manage_cgroups_mode == ignore)
    }

    /// What both requests have; an option that makes no sense is an error.
    pub fn new(args: &CriuArgs, place: &Place, annotations: &BTreeMap<String, String>) -> Result<Options> {
        let network = CloneFlags::CLONE_NEWNET.bits() as u32;
        for kind in &args.empty_ns {
            if kind != "network" {
                return Err(Error::new(format!("namespace {kind:?} is not supported")));
            }
        }
        Ok(Options {
            images_dir_fd: place.images.as_raw_fd(),
            work_dir_fd: place.work.as_ref().map(AsRawFd::as_raw_fd),
            log_file: place.log.1.to_string(),
            log_level: 4,
            notify_scripts: true,
            ext_unix_sk: args.ext_unix_sk,
            tcp_established: args.tcp_established,
            shell_job: args.shell_job,
            file_locks: args.file_locks,
            auto_dedup: args.auto_dedup,
            lazy_pages: args.lazy_pages,
            orphan_pts_master: true,
            // Bind mounts are slaves of the host's unless the configuration wants it otherwise.
            ext_masters: true,
            manage_cgroups: true,
            manage_cgroups_mode: Some(cgroups_mode(args.manage_cgroups_mode.as_deref())?),
            network_lock: args.network_lock.as_deref().map(network_lock).transpose()?,
            // Who made the devices of the network makes them again.
            empty_ns: network,
            config_file: match annotations.get("org.criu.config") {
                Some(file) => Some(file.clone()).filter(|file| !file.is_empty()),
                None => Some(CONFIG.to_string()),
            },
            ..Options::default()
        })
    }
}

/// `criu_cg_mode` of rpc.proto.
fn cgroups_mode(name: Option<&str>) -> Result<i32> {
    match name.unwrap_or_default() {
        "ignore" => Ok(0),
        "" | "soft" => Ok(3),
        "full" => Ok(4),
        "strict" => Ok(5),
        _ => Err(Error::new("invalid manage-cgroups-mode value")),
    }
}

/// `criu_network_lock_method` of rpc.proto.
fn network_lock(name: &str) -> Result<i32> {
    match name {
        "iptables" => Ok(1),
        "nftables" => Ok(2),
        "skip" => Ok(3),
        _ => Err(Error::new(format!("{name:?} is no way to lock the network (iptables, nftables, skip)"))),
    }
}

/// The name under which an existing namespace is saved, and then found again among the inherited descriptors.
pub fn namespace_key(kind: CloneFlags) -> &'static str {
    if kind == CloneFlags::CLONE_NEWNET { "extRootNetNS" } else { "extRootPidNS" }
}

/// A process of CRIU.
pub struct Criu {
    pid: Pid,
    pidfd: OwnedFd,
    socket: OwnedFd,
}

impl Criu {
    /// Starts one for a container, which inherits these descriptors under the numbers that they have. `prepare` is done in
    /// the new process before it executes CRIU.
    ///
    /// CRIU mounts cgroup2 once more and so clears its options on the host. They are noted in the container's state, for
    /// whoever removes what a killed runtime has left, and [`Criu::end`] gives them back.
    pub fn start(
        container: &Container,
        cgroup: Option<BorrowedFd<'_>>,
        inherited: &[BorrowedFd<'_>],
        prepare: impl FnOnce() -> Result<()>,
    ) -> Result<Criu> {
        let options = if container.read_root_options()?.is_none() { RootOptions::look()? } else { None };
        if let Some(options) = options.filter(RootOptions::can_be_lost) {
            container.write_root_options(&options)?;
        }
        Criu::start_alone(cgroup, inherited, prepare)
    }

    /// The same for a request that changes nothing.
    fn start_alone(
        cgroup: Option<BorrowedFd<'_>>,
        inherited: &[BorrowedFd<'_>],
        prepare: impl FnOnce() -> Result<()>,
    ) -> Result<Criu> {
        let program = find()?;
        let what = || "start criu";
        let (report, child_report) = sync::pair()?;
        let (way, child_way) = sync::pair()?;
        match sys::clone(CloneFlags::empty(), cgroup).context(|| "clone3").context(what)? {
            Cloned::Child => {
                // Our copies of the parent's ends would keep its EOF from us.
                sys::close_inherited(report.as_fd());
                sys::close_inherited(way.as_fd());
                let failure = match prepare().and_then(|()| make_socket(child_way.as_fd())) {
                    Ok(socket) => execute(&program, socket.as_fd(), inherited),
                    Err(error) => error,
                };
                let _ = child_report.send(&Message::Error(failure));
                sys::exit(1)
            }
            Cloned::Parent(pid, pidfd) => {
                drop((child_report, child_way));
                // The end of the report has gone with execve.
                let socket = match report.receive() {
                    Ok(None) => sys::receive_fd(way.as_fd()).context(|| "recvmsg"),
                    Ok(Some(Message::Error(error))) => Err(error),
                    told => Err(Error::new(format!("its process sent {told:?}"))),
                };
                match socket.and_then(|socket| socket.ok_or_else(|| Error::new("it has no socket"))) {
                    Ok(socket) => Ok(Criu { pid, pidfd, socket }),
                    Err(error) => {
                        create::end(pid, &pidfd);
                        Err(error.context(what()))
                    }
                }
            }
        }
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Makes a request and hears CRIU out. At each moment that it tells of `notified` does the runtime's part, with the
    /// descriptor that came along; an error of that is a reason for CRIU to give up.
    pub fn ask(
        &self,
        kind: Kind,
        options: Options,
        place: &Place,
        mut notified: impl FnMut(&Notification, Option<OwnedFd>) -> Result<()>,
    ) -> Result<()> {
        self.send(&Request { kind: kind.into(), options: Some(options), ..Request::default() })?;
        let mut refusal = None;
        loop {
            let (answer, fd) = match self.receive() {
                Ok(answer) => answer,
                Err(error) => return Err(refusal.unwrap_or_else(|| explain(error, place))),
            };
            match answer.notify.as_ref().filter(|_| answer.kind == i32::from(Kind::Notify) && answer.success) {
                Some(notification) => {
                    log::debug(|| format!("criu: {}", notification.script));
                    let done = notified(notification, fd);
                    let notify_success = Some(done.is_ok());
                    refusal = refusal.or(done.err());
                    let told = self.send(&Request { kind: Kind::Notify.into(), notify_success, ..Request::default() });
                    if let Err(error) = told {
                        return Err(refusal.unwrap_or(error));
                    }
                }
                None if answer.success && answer.kind == i32::from(kind) => return refusal.map_or(Ok(()), Err),
                None => return Err(refusal.unwrap_or_else(|| explain(answer.failure(), place))),
            }
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        sys::send(self.socket.as_fd(), [&request.encode_to_vec(), &[]]).context(|| "send a request to criu")
    }

    fn receive(&self) -> Result<(Answer, Option<OwnedFd>)> {
        let mut bytes = vec![0u8; MAX_ANSWER];
        let (length, fd) = sys::receive_with_fd(self.socket.as_fd(), &mut bytes).context(|| "hear from criu")?;
        match bytes.get(..length).filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => Ok((decode(bytes)?, fd)),
            None => Err(Error::new("criu failed: it ended without an answer")),
        }
    }

    /// Ends it at once. What it has not let go of yet is let go of by that.
    pub fn kill(&self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Lets it end, and gives back what it has taken from the host.
    pub fn end(self, container: &Container) {
        self.end_alone();
        container.give_back_root_options();
    }

    /// Lets it end by itself, which it does when nobody asks any more; kills it if it does not.
    fn end_alone(self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        let mut wanted = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut wanted, PollTimeout::from(10_000u16)), Ok(1..)) {
            self.kill();
        }
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

fn decode(bytes: &[u8]) -> Result<Answer> {
    Answer::decode(bytes).map_err(|error| Error::new(format!("read an answer of criu: {error}")))
}

impl Answer {
    fn failure(&self) -> Error {
        let kind = match Kind::try_from(self.kind) {
            Ok(Kind::Dump) => "DUMP",
            Ok(Kind::Restore) => "RESTORE",
            Ok(Kind::PreDump) => "PRE_DUMP",
            Ok(Kind::Notify) => "NOTIFY",
            _ => "EMPTY",
        };
        Error::new(format!("criu failed: type {kind} errno {}", self.cr_errno.unwrap_or(0)))
    }
}

fn explain(error: Error, place: &Place) -> Error {
    match place.complaint() {
        Some(complaint) => Error::new(format!("{error}: {complaint}")),
        None => error,
    }
}

/// Refuses what neither this CRIU nor this kernel can do.
pub fn require(wanted: Features) -> Result<()> {
    let criu = Criu::start_alone(None, &[], || Ok(()))?;
    let features = Some(wanted);
    let asked = criu.send(&Request { kind: Kind::FeatureCheck.into(), features, ..Request::default() });
    let answer = asked.and_then(|()| criu.receive());
    criu.end_alone();
    let there = answer?.0.features.unwrap_or_default();
    let lacks = |wanted: Option<bool>, there: Option<bool>| wanted == Some(true) && there != Some(true);
    let missing = [
        ("MemTrack", lacks(wanted.mem_track, there.mem_track)),
        ("LazyPages", lacks(wanted.lazy_pages, there.lazy_pages)),
    ];
    match missing.iter().find(|(_, is_missing)| *is_missing) {
        Some((name, _)) => Err(Error::new(format!("criu is missing features: [{name}]"))
            .hint("neither does without support in the kernel: criu check --all")),
        None => Ok(()),
    }
}

/// The program, as a shell would find it.
fn find() -> Result<CString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join("criu"));
    let found = candidates.find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok());
    let missing = || {
        Error::with_errno("exec: \"criu\": executable file not found in $PATH", Errno::ENOENT)
            .hint("checkpoint and restore need CRIU")
    };
    Ok(CString::new(found.ok_or_else(missing)?.into_os_string().into_vec())?)
}

/// Makes the socket for requests and sends one end of it to the parent; the other end.
fn make_socket(way: BorrowedFd<'_>) -> Result<OwnedFd> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context(|| "socketpair")?;
    sys::send_with_fd(way, b"socket", theirs.as_fd()).context(|| "send the socket")?;
    Ok(ours)
}

/// Executes CRIU; returns only the reason why that failed.
fn execute(program: &CString, socket: BorrowedFd<'_>, inherited: &[BorrowedFd<'_>]) -> Error {
    for fd in inherited.iter().chain([&socket]) {
        sys::clear_close_on_exec(fd.as_raw_fd());
    }
    let number = socket.as_raw_fd().to_string();
    let args = [&b"criu"[..], b"swrk", number.as_bytes()].map(CString::new);
    let env = std::env::vars_os().map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()));
    match (
        args.into_iter().collect::<std::result::Result<Vec<_>, _>>(),
        env.collect::<std::result::Result<Vec<_>, _>>(),
    ) {
        (Ok(args), Ok(env)) => Error::from(sys::execve(program, &args, &env)).context(format!("execve {program:?}")),
        (Err(error), _) | (_, Err(error)) => Error::from(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_encoded_as_the_protocol_wants_it() {
        let options = Options { images_dir_fd: 7, manage_cgroups_mode: Some(0), ..Options::default() };
        let request = Request { kind: Kind::Dump.into(), options: Some(options), ..Request::default() };
        // Field 1: 1. Field 2, of five bytes: field 1: 7, field 34: 0, which is not left out.
        assert_eq!(request.encode_to_vec(), [8, 1, 18, 5, 8, 7, 0x90, 2, 0]);
    }

    #[test]
    fn descriptor_0_is_not_left_out() {
        assert_eq!(InheritFd { key: "a".into(), fd: 0 }.encode_to_vec(), [10, 1, b'a', 16, 0]);
    }
}
