//! The last steps before execve, the same for a container's init and for exec, in the order of rule R12.

use crate::error::{Context, Error, Result, errno_text};
use crate::plan::Process;
use crate::rootfs::path::{self, Kind};
use crate::scheduling::ContainerAttributes;
use crate::seccomp::Filter;
use crate::signals::Inherited;
use crate::sync::{Message, Socket};
use crate::terminal::Terminal;
use crate::{passwd, sys};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{Mode, SFlag, stat, umask};
use nix::unistd::AccessFlags;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a process is made into.
pub struct Confinement<'a> {
    pub process: &'a Process,
    pub attributes: &'a ContainerAttributes,
    pub filter: Option<&'a Filter>,
    /// None: the caller's session keyring stays.
    pub keyring: Option<&'a CStr>,
    /// What the runtime's caller ignores and blocks.
    pub signals: Inherited,
    /// Whether a working directory that is missing is made, as for a container's init.
    pub make_cwd: bool,
    /// Descriptors 3 and up that the caller wants to pass.
    pub preserve_fds: u32,
    pub terminal: Option<&'a Terminal>,
    /// `run.oci.keep_original_groups`: the caller's supplementary groups stay (crun).
    pub keep_groups: bool,
    /// Whether its user namespace lets nobody change his groups (user_namespaces(7)).
    pub groups_are_fixed: bool,
    /// Who is told of a seccomp listener before it is made.
    pub socket: &'a Socket,
    /// Whether that one has no privileges, and so can take the listener only from a process that is dumpable.
    pub for_unprivileged: bool,
}

/// A program that is ready to be executed.
pub struct Ready {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    filter: Option<Filter>,
    preserve_fds: u32,
}

impl Confinement<'_> {
    /// Everything but the last word of seccomp and execve. From here on the process is the container's: it has its user,
    /// its capabilities and its working directory, and holds nothing of the host.
    ///
    /// `keep` are the sockets that tell of the end, all close-on-exec.
    pub fn apply(&self, keep: &[BorrowedFd<'_>]) -> Result<Ready> {
        let process = self.process;
        self.signals.reset()?;
        if let Some(name) = self.keyring {
            join_keyring(name)?;
        }
        // Before the limits, which may leave no descriptor for it.
        let env = passwd::with_home(&process.env, process.uid)?;
        for limit in &process.rlimits {
            sys::set_rlimit(limit.resource, limit.soft, limit.hard).map_err(|errno| {
                let error = Error::from(errno)
                    .context(format!("set {}: prlimit(soft {}, hard {})", limit.name, limit.soft, limit.hard));
                if errno == Errno::EPERM { error.hint("raising a hard limit needs CAP_SYS_RESOURCE") } else { error }
            })?;
        }
        umask(Mode::from_bits_truncate(process.umask));
        if let Some(terminal) = self.terminal {
            terminal.enter(process.uid)?;
        }
        close_all_but(keep, self.preserve_fds)?;
        // As root first: the directory may be one that only root can reach, and the user is to be in it all the same.
        let entered = self.enter_cwd()?;
        self.attributes.apply()?;
        process.attributes.apply()?;
        if process.no_new_privileges {
            nix::sys::prctl::set_no_new_privs().context(|| "prctl(PR_SET_NO_NEW_PRIVS)")?;
        } else if let Some(filter) = self.filter {
            // Without no_new_privs the filter needs CAP_SYS_ADMIN, which is about to go.
            self.load(filter)?;
        }
        self.change_user()?;
        if !entered {
            chdir(&process.cwd).map_err(|errno| cwd_error(&process.cwd, errno))?;
            check_cwd()?;
        }
        process.capabilities.apply()?;
        let path = look_up(process, &env)?;
        let mut filter = self.filter.filter(|_| process.no_new_privileges).cloned();
        if let Some(notifying) = filter.take_if(|filter| filter.notifies()) {
            // As long as there is somebody who hands over the listener.
            self.load(&notifying)?;
        }
        Ok(Ready { path, args: process.args.clone(), env, filter, preserve_fds: self.preserve_fds })
    }

    fn load(&self, filter: &Filter) -> Result<()> {
        if filter.notifies() {
            if self.for_unprivileged {
                nix::sys::prctl::set_dumpable(true).context(|| "prctl(PR_SET_DUMPABLE, 1)")?;
            }
            let number = sys::next_descriptor().context(|| "fcntl(F_DUPFD)")?;
            self.socket.send(&Message::Notify(number))?;
        }
        filter.load()?;
        if filter.notifies() && self.for_unprivileged {
            // Whatever this asks of the agent, he gets what he needs for an answer while we wait.
            self.socket.expect(&Message::Taken)?;
            nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        }
        Ok(())
    }

    /// Bounding set, groups, user. The permitted set survives the change of user so that `apply` can still choose.
    fn change_user(&self) -> Result<()> {
        let process = self.process;
        process.capabilities.apply_bounding()?;
        // What the caller had raised is not for the container; without inheritable capabilities it falls anyway.
        if process.capabilities.inheritable != 0 {
            sys::clear_ambient().context(|| "prctl(PR_CAP_AMBIENT_CLEAR_ALL)")?;
        }
        if process.uid != 0 {
            nix::sys::prctl::set_keepcaps(true).context(|| "prctl(PR_SET_KEEPCAPS)")?;
        }
        let nothing_to_set = self.groups_are_fixed && process.groups.is_empty();
        if !(self.keep_groups || nothing_to_set) {
            sys::setgroups(&process.groups).map_err(|errno| {
                let error = Error::from(errno).context(format!("setgroups({:?})", process.groups));
                if self.groups_are_fixed {
                    error.hint("the user namespace does not allow it: setgroups is deny")
                } else {
                    error
                }
            })?;
        }
        sys::set_gid(process.gid).map_err(|errno| id_error("setresgid", process.gid, errno))?;
        sys::set_uid(process.uid).map_err(|errno| id_error("setresuid", process.uid, errno))
    }

    /// Enters the working directory; false if root may not, which the user is then to try.
    fn enter_cwd(&self) -> Result<bool> {
        let cwd = &self.process.cwd;
        let mut entered = chdir(cwd);
        if entered == Err(Errno::ENOENT) && self.make_cwd {
            make_directories(cwd)?;
            entered = chdir(cwd);
        }
        match entered {
            Ok(()) => check_cwd().map(|()| true),
            Err(Errno::EACCES | Errno::EPERM) => Ok(false),
            Err(errno) => Err(cwd_error(cwd, errno)),
        }
    }
}

fn id_error(call: &str, id: u32, errno: Errno) -> Error {
    let error = Error::from(errno).context(format!("{call}({id})"));
    if errno == Errno::EINVAL { error.hint(format!("{id} is not mapped in the user namespace")) } else { error }
}

/// Closes every descriptor from 3 on but these, and those that the caller wants to pass. A real close, not just
/// close-on-exec: a descriptor of a directory could otherwise still be reached as cwd or program through /proc/self/fd
/// (rule R8).
pub fn close_all_but(keep: &[BorrowedFd<'_>], preserve_fds: u32) -> Result<()> {
    let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    let mut next = 3 + preserve_fds;
    for fd in kept {
        let fd = fd as u32;
        if fd > next {
            sys::close_range(next, fd - 1).context(|| "close_range")?;
        }
        next = next.max(fd + 1);
    }
    sys::close_range(next, u32::MAX).context(|| "close_range")
}

impl Ready {
    /// Loads the filter, if it comes last, and executes the program; returns only why that failed.
    pub fn execute(&self) -> Error {
        if let Some(filter) = &self.filter
            && let Err(error) = filter.load()
        {
            return error;
        }
        // Not earlier, for hooks are not to have them.
        for fd in 3..3 + self.preserve_fds as RawFd {
            sys::clear_close_on_exec(fd);
        }
        let errno = sys::execve(&self.path, &self.args, &self.env);
        let path = self.path.to_string_lossy();
        let error = Error::with_errno(format!("exec {path}: {}", errno_text(errno)), errno);
        match hint(&self.path, errno) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

fn chdir(path: &CStr) -> nix::Result<()> {
    // Whoever has just entered a root is in it.
    if path == c"/" { Ok(()) } else { nix::unistd::chdir(path) }
}

fn cwd_error(cwd: &CStr, errno: Errno) -> Error {
    Error::with_errno(
        format!("chdir to cwd ({:?}) set in config.json failed: {}", cwd.to_string_lossy(), errno_text(errno)),
        errno,
    )
}

/// The working directory must be inside the container's root: a descriptor of the host that leaked could make it one
/// that is not (CVE-2024-21626, rule R9).
fn check_cwd() -> Result<()> {
    let cwd = nix::unistd::getcwd().map_err(|errno| match errno {
        Errno::ENOENT => Error::new("current working directory is outside of container mount namespace root -- possible container breakout detected"),
        errno => Error::from(errno).context("getcwd"),
    })?;
    match cwd.is_absolute() {
        true => Ok(()),
        false => Err(Error::new(
            "current working directory is outside of container mount namespace root -- possible container breakout detected",
        )),
    }
}

/// Makes a working directory that is missing. We are in the container's root by now; but there may be links of /proc on the
/// way that lead out of it.
pub fn make_directories(cwd: &CStr) -> Result<()> {
    let cwd = Path::new(OsStr::from_bytes(cwd.to_bytes()));
    path::open_or_make(AT_FDCWD, cwd, || Ok(Kind::Directory))
        .map(drop)
        .context(|| format!("make cwd {}", cwd.display()))
}

/// A session keyring of its own, in which the container sees no key of its caller.
fn join_keyring(name: &CStr) -> Result<()> {
    let what = || "join a new session keyring";
    match sys::join_session_keyring(name) {
        // Who possesses it may do everything, its user view, read, link and, beyond the kernel's default, search it: by
        // that a later exec finds it under its name.
        Ok(serial) => sys::set_key_permissions(serial, 0x3f1b_0000)
            .or_else(|errno| if errno == Errno::EACCES { Ok(()) } else { Err(errno) })
            .context(|| "keyctl(KEYCTL_SETPERM)")
            .context(what),
        // A kernel without keyrings has none to leak.
        Err(Errno::ENOSYS) => Ok(()),
        Err(errno @ (Errno::EDQUOT | Errno::ENOMEM)) => Err(Error::from(errno)
            .context("keyctl(KEYCTL_JOIN_SESSION_KEYRING)")
            .context(what())
            .hint("the quota of keys may be used up: /proc/sys/kernel/keys, or use --no-new-keyring")),
        Err(errno) => Err(Error::from(errno).context("keyctl(KEYCTL_JOIN_SESSION_KEYRING)").context(what())),
    }
}

/// Finds the program as execvp(3) would, with the PATH of the *container's* environment, and in runc's words if it is
/// not there.
fn look_up(process: &Process, env: &[CString]) -> Result<CString> {
    let name = process.args.first().ok_or_else(|| Error::new("exec args cannot be empty"))?;
    let text = name.to_string_lossy();
    if name.is_empty() {
        return Err(Error::new(format!("exec: {text:?}: executable file not found in $PATH")));
    }
    if name.as_bytes().contains(&b'/') {
        return match executable(name) {
            Ok(()) => Ok(name.clone()),
            Err(errno) => {
                let error = Error::with_errno(format!("exec: {text:?}: {}", errno_text(errno)), errno);
                Err(match hint(name, errno) {
                    Some(hint) => error.hint(hint),
                    None => error,
                })
            }
        };
    }
    let path = env.iter().find_map(|variable| variable.as_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate = CString::new([directory, b"/", name.as_bytes()].concat())?;
        if executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(Error::with_errno(format!("exec: {text:?}: executable file not found in $PATH"), Errno::ENOENT))
}

/// Whether this process may execute the file.
fn executable(path: &CStr) -> std::result::Result<(), Errno> {
    let status = stat(path)?;
    if status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
        return Err(Errno::EISDIR);
    }
    match nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        // A profile that does not know the newer call must not keep the program from running: execve has the last word.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        other => other,
    }
}

/// What an errno of execve does not say: which file is missing, or why one that is there cannot run.
fn hint(path: &CStr, errno: Errno) -> Option<String> {
    use std::io::Read;
    let name = std::path::Path::new(std::ffi::OsStr::new(path.to_str().ok()?));
    if errno == Errno::EACCES {
        let mode = stat(path).ok()?.st_mode;
        if mode & 0o111 == 0 {
            return Some("it has no execute permission: chmod +x".to_string());
        }
        let flags = nix::sys::statvfs::statvfs(path).ok()?.flags();
        return flags
            .contains(nix::sys::statvfs::FsFlags::ST_NOEXEC)
            .then(|| "it lies on a mount with noexec".to_string());
    }
    if !matches!(errno, Errno::ENOENT | Errno::ENOEXEC) {
        return None;
    }
    let mut head = [0u8; 4096];
    // Not a FIFO, which would make us wait (rule R23).
    let mut file = {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(name).ok()?
    };
    let length = file.read(&mut head).ok()?;
    let head = head.get(..length)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let target = String::from_utf8_lossy(line);
        let interpreter = target.trim_start().split([' ', '\t']).next().unwrap_or_default();
        return Some(match target.ends_with('\r') {
            true => format!("its first line ends with a carriage return, so its interpreter would be {interpreter:?}"),
            false => format!("its interpreter {interpreter:?} is missing"),
        });
    }
    if head.starts_with(b"\x7fELF") {
        let machine = u16::from_le_bytes([*head.get(18)?, *head.get(19)?]);
        if errno == Errno::ENOEXEC {
            return Some(format!(
                "it is a program for {}, this machine is {}",
                machine_name(machine),
                std::env::consts::ARCH
            ));
        }
        return elf_interpreter(head).map(|interpreter| format!("its program interpreter {interpreter:?} is missing"));
    }
    (errno == Errno::ENOEXEC)
        .then(|| "it is no program of a format that the kernel knows; a script needs #! in its first line".to_string())
}

/// elf(5), e_machine
fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv",
        21 => "powerpc64",
        22 => "s390",
        258 => "loongarch",
        _ => return format!("machine {machine}"),
    }
    .to_string()
}

/// The name in PT_INTERP of a 64-bit little-endian ELF file whose headers lie in `head`.
fn elf_interpreter(head: &[u8]) -> Option<String> {
    let word = |offset: usize| Some(u64::from_le_bytes(head.get(offset..offset + 8)?.try_into().ok()?) as usize);
    let half = |offset: usize| Some(u16::from_le_bytes(head.get(offset..offset + 2)?.try_into().ok()?) as usize);
    let (table, size, count) = (word(32)?, half(54)?, half(56)?);
    for index in 0..count.min(64) {
        let header = table.checked_add(index * size)?;
        if head.get(header..header + 4)? == [3, 0, 0, 0] {
            let (offset, length) = (word(header + 8)?, word(header + 32)?);
            let name = head.get(offset..offset.checked_add(length)?)?;
            return Some(String::from_utf8_lossy(name.split(|byte| *byte == 0).next()?).into_owned());
        }
    }
    None
}
