//! The system calls that nix has no wrapper for, one thin typed function each, and the only unsafe code of corten.
//!
//! The first line of each doc comment is the C call it makes. Every descriptor that a function here returns is
//! close-on-exec, and EINTR is retried wherever the call can return it. Nothing in here knows what a container is.

#![allow(unsafe_code)]

#[cfg(not(test))]
mod alloc;
mod passing;
pub mod scheduling;
pub mod tty;

pub use passing::{receive_fd, receive_with_fd, send_with_fd, take_fd};

use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

type SysResult<T> = std::result::Result<T, Errno>;

/// Makes one raw system call; the arguments are plain numbers or pointers cast to them.
///
/// # Safety
/// The arguments must be what the system call `number` asks for, and pointers must be valid for its duration.
unsafe fn call(number: libc::c_long, args: [u64; 6]) -> SysResult<i64> {
    loop {
        // SAFETY: the caller upholds what this very function asks for.
        let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            #[allow(clippy::useless_conversion, reason = "c_long is i32 on 32-bit targets")]
            other => return other.map(i64::from),
        }
    }
}

fn fd_arg(fd: BorrowedFd<'_>) -> u64 {
    fd.as_raw_fd() as u64
}

/// Takes over a descriptor that a system call has just returned.
fn own(result: SysResult<i64>) -> SysResult<OwnedFd> {
    // SAFETY: the kernel has just created this descriptor for us and nobody else knows of it.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The entry point that the C library's start-up code calls.
///
/// Rust's own would first make two dozen system calls for signal handlers that this program, which has no threads and
/// recurses nowhere deeply, does not need, and twice, for it starts itself once more (see `selfexe`).
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(argc: libc::c_int, argv: *const *const libc::c_char) -> libc::c_int {
    use std::os::unix::ffi::OsStringExt;
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the C library passes `argc` strings, which live as long as the process.
    let strings = (0..count).map(|index| unsafe { CStr::from_ptr(*argv.add(index)) });
    let args = strings.map(|string| OsString::from_vec(string.to_bytes().to_vec())).collect();
    crate::run(args)
}

/// `signal(SIGPIPE, SIG_IGN)`: a reader that is gone is an error to report, not a reason to die.
pub fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is no function of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// stdin, stdout or stderr, which `files::ensure_stdio` keeps open.
pub const fn stdio(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: nothing in this program closes 0-2; what replaces one of them does so in one step.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// The number that the next descriptor of this process will have: the lowest that is free.
pub fn next_descriptor() -> SysResult<RawFd> {
    // SAFETY: the copy is closed again at once, and nobody else knows of it.
    unsafe {
        let copy = Errno::result(libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 0))?;
        libc::close(copy);
        Ok(copy)
    }
}

/// Takes over a descriptor that nix has returned as a number.
pub fn own_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: called only with what accept4 has just returned, which nobody else knows of.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `close(fd)` of a descriptor that this process has only inherited with its copy of the parent's memory, whose owner
/// there must stay as it is.
pub fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: the child never uses the owner that it was copied with, for it ends with execve or _exit.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Which of the two processes a [`clone`] returned in.
pub enum Cloned {
    /// The new process.
    Child,
    /// The caller, with the child's pid in the caller's PID namespace and a pidfd of it.
    Parent(Pid, OwnedFd),
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}
const _: () = assert!(size_of::<CloneArgs>() == 88);

/// `clone3(flags | CLONE_PIDFD [| CLONE_INTO_CGROUP])`, with the semantics of fork(2) for memory.
///
/// corten has no threads, so the child may allocate and format like any process.
pub fn clone(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> SysResult<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    // The sign of the highest flag (CLONE_IO) must not spread into the upper half.
    let mut clone_flags = u64::from(flags.bits() as u32) | libc::CLONE_PIDFD as u64;
    if cgroup.is_some() {
        clone_flags |= CLONE_INTO_CGROUP;
    }
    // With CLONE_PARENT the exit signal is the one that the parent chose.
    let exit_signal = if flags.contains(CloneFlags::CLONE_PARENT) { 0 } else { libc::SIGCHLD as u64 };
    let args = CloneArgs {
        flags: clone_flags,
        pidfd: &raw mut pidfd as u64,
        exit_signal,
        cgroup: cgroup.map_or(0, fd_arg),
        ..CloneArgs::default()
    };
    // SAFETY: `args` and `pidfd` live until the call returns; without CLONE_VM the child has copies of its own, and no
    // other thread exists that could hold a lock at this moment.
    let pid = unsafe { call(libc::SYS_clone3, [&raw const args as u64, size_of::<CloneArgs>() as u64, 0, 0, 0, 0])? };
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: with CLONE_PIDFD and a successful clone the kernel has stored a new descriptor here.
    Ok(Cloned::Parent(Pid::from_raw(pid as i32), unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// `pidfd_open(pid, 0)`
pub fn pidfd_open(pid: Pid) -> SysResult<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { call(libc::SYS_pidfd_open, [pid.as_raw() as u64, 0, 0, 0, 0, 0]) })
}

/// `pidfd_send_signal(pidfd, signal, NULL, 0)`; signal 0 only asks whether the process exists.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> SysResult<()> {
    // SAFETY: the siginfo pointer is null, which the call allows.
    unsafe { call(libc::SYS_pidfd_send_signal, [fd_arg(pidfd), signal as u64, 0, 0, 0, 0]).map(drop) }
}

/// `setns(fd, flags)` with several flags at once, as a pidfd takes them (Linux 5.8).
pub fn setns(fd: BorrowedFd<'_>, flags: CloneFlags) -> SysResult<()> {
    nix::sched::setns(fd, flags)
}

/// The kind of a namespace descriptor: `ioctl(fd, NS_GET_NSTYPE)`; ENOTTY when it is no namespace.
pub fn namespace_type(fd: BorrowedFd<'_>) -> SysResult<CloneFlags> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument; an fd of another kind answers ENOTTY.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    Errno::result(kind).map(CloneFlags::from_bits_retain)
}

/// The user namespace that a namespace belongs to: `ioctl(fd, NS_GET_USERNS)`; EPERM when it is none of ours or below.
pub fn namespace_owner(fd: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: NS_GET_USERNS takes no argument.
    own(Errno::result(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS as _) })))
}

/// Flags of [`open_tree`], [`move_mount`] and [`mount_setattr`].
pub mod mount_flags {
    /// open_tree(2): a detached copy of the mount, not a handle on the mount itself.
    pub const OPEN_TREE_CLONE: u32 = 1;
    /// With the submounts.
    pub const AT_RECURSIVE: u32 = 0x8000;
    /// The path is empty: the descriptor itself is meant.
    pub const AT_EMPTY_PATH: u32 = 0x1000;

    /// A trailing symlink is not followed.
    pub const AT_SYMLINK_NOFOLLOW: u32 = 0x100;

    /// mount_setattr(2) and fsmount(2): attributes of one mount.
    pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
    /// nosuid
    pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
    /// nodev
    pub const MOUNT_ATTR_NODEV: u64 = 0x4;
    /// noexec
    pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
    /// The bits of which the three access time modes are values.
    pub const MOUNT_ATTR__ATIME: u64 = 0x70;
    /// relatime is the zero of these bits.
    pub const MOUNT_ATTR_RELATIME: u64 = 0x0;
    /// noatime
    pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
    /// strictatime
    pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
    /// nodiratime
    pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
    /// The ids are those that the user namespace of `userns_fd` maps.
    pub const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    /// nosymfollow (Linux 5.14)
    pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;
}
use mount_flags::{AT_EMPTY_PATH, OPEN_TREE_CLONE};

/// `open_tree(dir, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags)`: a detached copy of what is mounted there.
///
/// With an empty path and AT_EMPTY_PATH in `flags` it is `dir` itself that is copied.
pub fn open_tree_clone(dir: BorrowedFd<'_>, path: &CStr, flags: u32) -> SysResult<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | flags;
    // SAFETY: `path` is a C string that outlives the call.
    own(unsafe { call(libc::SYS_open_tree, [fd_arg(dir), path.as_ptr() as u64, u64::from(flags), 0, 0, 0]) })
}

/// `move_mount(mount, "", target_dir, target, MOVE_MOUNT_F_EMPTY_PATH [| MOVE_MOUNT_T_EMPTY_PATH])`
///
/// An empty `target` means the directory or file `target_dir` itself. No symlink is followed in `target`.
pub fn move_mount(mount: BorrowedFd<'_>, target_dir: BorrowedFd<'_>, target: &CStr) -> SysResult<()> {
    const F_EMPTY_PATH: u64 = 0x4;
    const T_EMPTY_PATH: u64 = 0x40;
    let flags = F_EMPTY_PATH | if target.is_empty() { T_EMPTY_PATH } else { 0 };
    let (from, to) = (c"".as_ptr() as u64, target.as_ptr() as u64);
    // SAFETY: both strings outlive the call.
    unsafe { call(libc::SYS_move_mount, [fd_arg(mount), from, fd_arg(target_dir), to, flags, 0]).map(drop) }
}

/// What [`mount_setattr`] changes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// Attributes to set (`MOUNT_ATTR_*`).
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// One of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, or 0 to leave it.
    pub propagation: u64,
    /// The user namespace of MOUNT_ATTR_IDMAP.
    pub userns_fd: u64,
}
const _: () = assert!(size_of::<MountAttr>() == 32);

/// `mount_setattr(mount, "", AT_EMPTY_PATH [| AT_RECURSIVE], attr)`
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: MountAttr) -> SysResult<()> {
    let flags = AT_EMPTY_PATH | if recursive { mount_flags::AT_RECURSIVE } else { 0 };
    let pointer = &raw const attr as u64;
    let size = size_of::<MountAttr>() as u64;
    // SAFETY: `attr` is a mount_attr of the size given and outlives the call.
    unsafe {
        call(libc::SYS_mount_setattr, [fd_arg(mount), c"".as_ptr() as u64, u64::from(flags), pointer, size, 0])
            .map(drop)
    }
}

/// `mount_setattr(AT_FDCWD, path, AT_RECURSIVE, attr)`
pub fn mount_setattr_at(path: &CStr, attr: MountAttr) -> SysResult<()> {
    let (pointer, size) = (&raw const attr as u64, size_of::<MountAttr>() as u64);
    let arguments =
        [libc::AT_FDCWD as u64, path.as_ptr() as u64, u64::from(mount_flags::AT_RECURSIVE), pointer, size, 0];
    // SAFETY: `path` and `attr` outlive the call, and `attr` has the size given.
    unsafe { call(libc::SYS_mount_setattr, arguments).map(drop) }
}

/// A file system that is being configured: `fsopen(2)`.
pub struct FsContext(OwnedFd);

impl FsContext {
    /// `fsopen(fstype, FSOPEN_CLOEXEC)`
    pub fn open(fstype: &CStr) -> SysResult<FsContext> {
        // SAFETY: a C string that outlives the call.
        own(unsafe { call(libc::SYS_fsopen, [fstype.as_ptr() as u64, 1, 0, 0, 0, 0]) }).map(FsContext)
    }

    fn config(&self, command: u64, key: Option<&CStr>, value: Option<&CStr>) -> SysResult<()> {
        let pointer = |string: Option<&CStr>| string.map_or(0, |string| string.as_ptr() as u64);
        // SAFETY: the strings outlive the call; null is allowed where the command has no key or value.
        unsafe {
            call(libc::SYS_fsconfig, [fd_arg(self.0.as_fd()), command, pointer(key), pointer(value), 0, 0]).map(drop)
        }
    }

    /// `fsconfig(FSCONFIG_SET_FLAG, key)`
    pub fn set_flag(&self, key: &CStr) -> SysResult<()> {
        self.config(0, Some(key), None)
    }

    /// `fsconfig(FSCONFIG_SET_STRING, key, value)`
    pub fn set_string(&self, key: &CStr, value: &CStr) -> SysResult<()> {
        self.config(1, Some(key), Some(value))
    }

    /// `fsconfig(FSCONFIG_SET_FD, key, fd)`
    pub fn set_fd(&self, key: &CStr, fd: BorrowedFd<'_>) -> SysResult<()> {
        let arguments = [fd_arg(self.0.as_fd()), 5, key.as_ptr() as u64, 0, fd_arg(fd), 0];
        // SAFETY: the key outlives the call; this command takes no value but the descriptor.
        unsafe { call(libc::SYS_fsconfig, arguments).map(drop) }
    }

    /// `fspick(mount, "", FSPICK_CLOEXEC | FSPICK_NO_AUTOMOUNT | FSPICK_EMPTY_PATH)`: the file system that is mounted.
    pub fn pick(mount: BorrowedFd<'_>) -> SysResult<FsContext> {
        const FLAGS: u64 = 0x1 | 0x4 | 0x8;
        // SAFETY: an empty C string that outlives the call.
        own(unsafe { call(libc::SYS_fspick, [fd_arg(mount), c"".as_ptr() as u64, FLAGS, 0, 0, 0]) }).map(FsContext)
    }

    /// `fsconfig(FSCONFIG_CMD_RECONFIGURE)`
    pub fn reconfigure(&self) -> SysResult<()> {
        self.config(7, None, None)
    }

    /// `fsconfig(FSCONFIG_CMD_CREATE)`, then `fsmount(FSMOUNT_CLOEXEC, attributes)`: a detached mount.
    pub fn mount(&self, attributes: u64) -> SysResult<OwnedFd> {
        self.config(6, None, None)?;
        // SAFETY: no pointers.
        own(unsafe { call(libc::SYS_fsmount, [fd_arg(self.0.as_fd()), 1, attributes, 0, 0, 0]) })
    }

    /// The descriptor, for those who close many together.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// What the file system wrote about its refusal, for error messages.
    pub fn message(&self) -> Option<String> {
        let mut buffer = [0u8; 512];
        let length = nix::unistd::read(self.0.as_fd(), &mut buffer).ok()?;
        let text = String::from_utf8_lossy(buffer.get(2..length)?).trim().to_string();
        (!text.is_empty()).then_some(text)
    }
}

/// `close_range(first, last, 0)`
pub fn close_range(first: u32, last: u32) -> SysResult<()> {
    // SAFETY: called where no OwnedFd of the range is used any more: right before execve, which ends this program.
    unsafe { call(libc::SYS_close_range, [u64::from(first), u64::from(last), 0, 0, 0, 0]).map(drop) }
}

/// Closes descriptors together: one `close_range(2)` for each run of neighbours.
pub fn close_together(fds: impl IntoIterator<Item = OwnedFd>) {
    use std::os::fd::IntoRawFd;
    let mut fds: Vec<u32> = fds.into_iter().map(|fd| fd.into_raw_fd() as u32).collect();
    fds.sort_unstable();
    for run in fds.chunk_by(|a, b| a + 1 == *b) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            // Descriptors that are open can be closed.
            let _ = close_range(*first, *last);
        }
    }
}

/// `close_range(first, ~0, CLOSE_RANGE_CLOEXEC)`
pub fn close_on_exec_from(first: u32) -> SysResult<()> {
    // SAFETY: changes only the close-on-exec flag.
    unsafe { call(libc::SYS_close_range, [u64::from(first), u64::from(u32::MAX), 4, 0, 0, 0]).map(drop) }
}

/// `keyctl(KEYCTL_JOIN_SESSION_KEYRING, name)`: the serial number of the new session keyring.
pub fn join_session_keyring(name: &CStr) -> SysResult<i32> {
    // SAFETY: a C string that outlives the call.
    unsafe { call(libc::SYS_keyctl, [1, name.as_ptr() as u64, 0, 0, 0, 0]).map(|serial| serial as i32) }
}

/// `keyctl(KEYCTL_SETPERM, key, permissions)`
pub fn set_key_permissions(key: i32, permissions: u32) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_keyctl, [5, key as u64, u64::from(permissions), 0, 0, 0]).map(drop) }
}

/// `capset(2)`: the three sets of the calling thread, one bit for each capability.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> SysResult<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let data: [u32; 6] = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    // SAFETY: version 3 takes a header and two data structs of three u32, which `data` is.
    unsafe { call(libc::SYS_capset, [&raw const header as u64, data.as_ptr() as u64, 0, 0, 0, 0]).map(drop) }
}

/// `prctl(PR_CAPBSET_DROP, capability)`; EINVAL for a capability that the kernel does not know.
pub fn drop_bounding(capability: u8) -> SysResult<()> {
    prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0)
}

/// `prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)`
pub fn raise_ambient(capability: u8) -> SysResult<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(capability))
}

/// `prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)`
pub fn clear_ambient() -> SysResult<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)
}

fn prctl(option: i32, first: u64, second: u64) -> SysResult<()> {
    // SAFETY: only options that take numbers are used here.
    unsafe { call(libc::SYS_prctl, [option as u64, first, second, 0, 0, 0]).map(drop) }
}

/// `setgroups(2)` by the raw call: the C library's would signal other threads, of which there are none.
pub fn setgroups(groups: &[u32]) -> SysResult<()> {
    // SAFETY: pointer and length belong to one slice of gid_t.
    unsafe { call(libc::SYS_setgroups, [groups.len() as u64, groups.as_ptr() as u64, 0, 0, 0, 0]).map(drop) }
}

/// `setgroups(INT_MAX, NULL)`, which changes nothing: whether this process may change its groups, and not only by its
/// capabilities (user_namespaces(7), /proc/[pid]/setgroups). The kernel looks at the rights before it looks at the number.
pub fn may_set_groups() -> bool {
    // SAFETY: with a number that is too large the kernel does not read the list.
    let refused = unsafe { call(libc::SYS_setgroups, [i32::MAX as u64, 0, 0, 0, 0, 0]) };
    refused != Err(Errno::EPERM)
}

/// `setresgid(gid, gid, gid)`
pub fn set_gid(gid: u32) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_setresgid, [u64::from(gid), u64::from(gid), u64::from(gid), 0, 0, 0]).map(drop) }
}

/// `setresuid(uid, uid, uid)`
pub fn set_uid(uid: u32) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_setresuid, [u64::from(uid), u64::from(uid), u64::from(uid), 0, 0, 0]).map(drop) }
}

/// `prlimit64(0, resource, {soft, hard}, NULL)`
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> SysResult<()> {
    let limit = [soft, hard];
    // SAFETY: rlimit64 is two u64, soft before hard.
    unsafe { call(libc::SYS_prlimit64, [0, u64::from(resource), limit.as_ptr() as u64, 0, 0, 0]).map(drop) }
}

/// `seccomp(SECCOMP_SET_MODE_FILTER, flags, program)`; a descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER.
///
/// `program` is an array of `struct sock_filter`, eight bytes each.
pub fn load_seccomp(flags: u32, program: &[u8]) -> SysResult<Option<OwnedFd>> {
    const NEW_LISTENER: u32 = 1 << 3;
    #[repr(C)]
    struct SockFprog {
        length: u16,
        filter: *const u8,
    }
    let length = u16::try_from(program.len() / 8).map_err(|_| Errno::E2BIG)?;
    let prog = SockFprog { length, filter: program.as_ptr() };
    // SAFETY: the program outlives the call and has `length` instructions; the kernel checks and copies it.
    let result = unsafe { call(libc::SYS_seccomp, [1, u64::from(flags), &raw const prog as u64, 0, 0, 0]) };
    if flags & NEW_LISTENER == 0 { result.map(|_| None) } else { own(result).map(Some) }
}

/// `bpf(BPF_PROG_LOAD)` of a program of type BPF_PROG_TYPE_CGROUP_DEVICE; eight bytes an instruction.
pub fn load_device_program(instructions: &[u64]) -> SysResult<OwnedFd> {
    const BPF_PROG_LOAD: u64 = 5;
    const CGROUP_DEVICE: u32 = 15;
    #[repr(C)]
    #[derive(Default)]
    struct LoadAttr {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    const _: () = assert!(size_of::<LoadAttr>() == 64);
    let attr = LoadAttr {
        program_type: CGROUP_DEVICE,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        // The program calls no helper, so its licence does not matter to the kernel.
        license: c"Apache-2.0".as_ptr() as u64,
        name: *b"corten_devices\0\0",
        ..LoadAttr::default()
    };
    // SAFETY: every pointer in `attr` outlives the call and has the length that is given beside it.
    own(unsafe { call(libc::SYS_bpf, [BPF_PROG_LOAD, &raw const attr as u64, size_of::<LoadAttr>() as u64, 0, 0, 0]) })
}

/// `bpf(BPF_PROG_ATTACH, cgroup, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)`
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> SysResult<()> {
    const BPF_PROG_ATTACH: u64 = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let attr: [u32; 5] = [cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32, CGROUP_DEVICE, ALLOW_MULTI, 0];
    // SAFETY: the attributes of BPF_PROG_ATTACH are these five u32.
    unsafe { call(libc::SYS_bpf, [BPF_PROG_ATTACH, attr.as_ptr() as u64, 20, 0, 0, 0]).map(drop) }
}

/// `execve(path, args, env)`; returns only the reason why it failed.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    match nix::unistd::execve(path, args, env) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// `execveat(dir, path, args, env, flags)` with this process's own environment.
pub fn execveat_self(dir: BorrowedFd<'_>, path: &CStr, args: &[OsString], flags: i32) -> Error {
    use std::os::unix::ffi::OsStrExt;
    let cstrings = |strings: Vec<Vec<u8>>| -> Result<Vec<CString>> {
        strings.into_iter().map(|s| CString::new(s).map_err(|_| Error::new("a NUL in an argument"))).collect()
    };
    let args = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    let env = std::env::vars_os().map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let (args, env) = match (cstrings(args), cstrings(env)) {
        (Ok(args), Ok(env)) => (args, env),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (args, env) = (pointers(&args), pointers(&env));
    let arguments = [fd_arg(dir), path.as_ptr() as u64, args.as_ptr() as u64, env.as_ptr() as u64, flags as u64, 0];
    // SAFETY: both arrays end with a null pointer, and the strings they point to are alive.
    match unsafe { call(libc::SYS_execveat, arguments) } {
        Err(errno) => errno.into(),
        Ok(_) => Error::new("execveat returned"),
    }
}

/// `exit_group(status)`: at once, running no destructor and flushing nothing that the parent also has in its memory.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// `rt_sigaction(number, {SIG_DFL}, NULL)`, the raw call: the C library refuses the signals that it keeps for itself,
/// and a caller may ignore those, too.
pub fn default_signal(number: i32) {
    // struct sigaction of the kernel, all zero: SIG_DFL, no flags, an empty mask.
    let default = [0u64; 4];
    // SAFETY: the kernel reads at most 32 bytes, on every architecture; SIG_DFL is no function of ours.
    let _ = unsafe { call(libc::SYS_rt_sigaction, [number as u64, default.as_ptr() as u64, 0, 8, 0, 0]) };
}

/// `waitpid(-1, &status, WNOHANG)`: a child that has ended and its status as a shell has it, 128 + n after signal n.
///
/// nix has no names for the real-time signals, and would lose the status of who died by one.
pub fn wait_any() -> SysResult<Option<(Pid, i32)>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        match Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }) {
            Ok(0) | Err(Errno::ECHILD) => return Ok(None),
            Ok(pid) if libc::WIFEXITED(status) => return Ok(Some((Pid::from_raw(pid), libc::WEXITSTATUS(status)))),
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Ok(Some((Pid::from_raw(pid), 128 + libc::WTERMSIG(status))));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// `kill(pid, signal)`; that the process is gone is no news.
pub fn kill(pid: Pid, signal: i32) {
    // SAFETY: no pointers.
    unsafe { libc::kill(pid.as_raw(), signal) };
}

/// `flock(fd, operation)`
pub fn flock(fd: BorrowedFd<'_>, operation: i32) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_flock, [fd_arg(fd), operation as u64, 0, 0, 0, 0]).map(drop) }
}

/// `fcntl(fd, F_SETFD, 0)`: execve leaves this descriptor open.
pub fn clear_close_on_exec(fd: RawFd) {
    // SAFETY: changes a flag of a descriptor that the caller gave us; one that is not open stays so.
    unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
}

/// `fsetxattr(fd, name, value, 0)`
pub fn set_xattr(fd: BorrowedFd<'_>, name: &CStr, value: &CStr) -> SysResult<()> {
    let (bytes, length) = (value.as_ptr() as u64, value.to_bytes().len() as u64);
    // SAFETY: both strings outlive the call, and `length` is that of the value.
    unsafe { call(libc::SYS_fsetxattr, [fd_arg(fd), name.as_ptr() as u64, bytes, length, 0, 0]).map(drop) }
}

/// `setdomainname(2)`
pub fn setdomainname(name: &str) -> SysResult<()> {
    // SAFETY: pointer and length belong to one string.
    unsafe { call(libc::SYS_setdomainname, [name.as_ptr() as u64, name.len() as u64, 0, 0, 0, 0]).map(drop) }
}

/// `ioctl(socket, SIOCSIFFLAGS, {name, IFF_UP})` (netdevice(7))
pub fn set_interface_up(socket: BorrowedFd<'_>, name: &CStr) -> SysResult<()> {
    // struct ifreq: 16 bytes of name, then a union of 24 bytes, of which the flags are the first two.
    let mut request = [0u8; 40];
    for (to, from) in request.iter_mut().take(15).zip(name.to_bytes()) {
        *to = *from;
    }
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as u16;
    for (to, from) in request.iter_mut().skip(16).zip(flags.to_ne_bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads at most sizeof(struct ifreq), which is 40 bytes on 64-bit machines and 32 on others.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, request.as_mut_ptr()) }).map(drop)
}

/// `setsockopt(socket, SOL_NETLINK, NETLINK_EXT_ACK, 1)`: the kernel adds a reason in words to its errors (netlink(7)).
pub fn explain_netlink_errors(socket: BorrowedFd<'_>) -> SysResult<()> {
    let (one, size) = (1i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the option takes an int, which outlives the call.
    Errno::result(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, (&raw const one).cast(), size)
    })
    .map(drop)
}

/// `poll(2)` of 0-2, which tells of a descriptor that is not open: whether one is not.
pub fn has_closed_stdio() -> bool {
    let mut fds = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: an array of three, and no time to wait.
    unsafe { libc::poll(fds.as_mut_ptr(), 3, 0) };
    fds.iter().any(|fd| fd.revents & libc::POLLNVAL != 0)
}

/// `fcntl(fd, F_GETFD)`: whether somebody has given us this descriptor number.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only reads, and any number may be asked for.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// `sendmsg` of one datagram with up to one descriptor, never raising SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, parts: [&[u8]; 2]) -> SysResult<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let iov = parts.map(std::io::IoSlice::new);
    let nothing: [ControlMessage<'_>; 0] = [];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &iov, &nothing, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}
