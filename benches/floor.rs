//! The floor: the kernel's own work for the docker-like bundle, with everything decided beforehand.
//!
//! No runtime can be faster than the system calls that a container needs. This program makes just these, hard-wired,
//! without reading a configuration, checking anything or undoing a failure, so that `compare` can say how far above
//! that floor a runtime is. It is no runtime: it trusts its bundle, and it exits at the first error.
//!
//! ```text
//! floor run    v1|v2 NAME [MEMORY]   clone, set up, execute, wait, remove the cgroups
//! floor create v1|v2 NAME [pause]    the same, but init waits before the execve
//! floor start  v1|v2 NAME            let it go, and learn whether it executed
//! floor delete v1|v2 NAME
//! floor exec   v1|v2 NAME            a second process in it
//! floor state  v1|v2 NAME
//! floor true, floor pause                   the payloads: exit at once, sleep for ever
//! floor measure COMMAND...                  print the peak resident set (KiB) of a command, not counting ours
//! ```
//!
//! The current directory is the bundle: `rootfs` (with this program as /floor), `filter.bpf` (eight bytes with the
//! number of instructions, then these), the three files that
//! Docker binds and a directory `state`. The parents of the cgroups exist (`/corten-bench-floor` in every hierarchy,
//! with `cgroup.clone_children` in cpuset and the controllers enabled on v2), as they do after the first container.
//!
//! Everything goes through one raw system call: the wrappers of a libc add calls of their own (musl blocks signals
//! around setuid). `no_main` and the C entry point leave out what Rust's runtime does at start; nothing allocates.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::too_many_lines
)]
#![no_main]
// A program that consists of raw system calls; `sys` is the only unsafe block but for reading argv and the C structs.

use std::ffi::CStr;
use std::mem::size_of;

use libc::{c_char, c_int};

/// The parent of every cgroup that the floor makes; `compare` prepares and removes it.
const PARENT: &str = "corten-bench-floor";

/// The v1 hierarchies, each of which is mounted at /sys/fs/cgroup/NAME.
const HIERARCHIES: [&str; 9] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];

/// What docker-like.json limits, as v1 has it: hierarchy, file, value (memory's comes from the command line).
const V1_LIMITS: [(&str, &CStr, &str); 4] = [
    ("cpu", c"cpu.shares", "512"),
    ("cpu", c"cpu.cfs_period_us", "100000"),
    ("cpu", c"cpu.cfs_quota_us", "50000"),
    ("pids", c"pids.max", "100"),
];

/// The same as v2 has it.
const V2_LIMITS: [(&CStr, &str); 3] = [(c"cpu.weight", "20"), (c"cpu.max", "50000 100000"), (c"pids.max", "100")];

const MEMORY_LIMIT: &str = "268435456";

/// The devices that docker-like.json allows, after a `deny a`.
const DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The nodes of a container's /dev: name, major, minor.
const NODES: [(&CStr, u32, u32); 6] =
    [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

const MASKED_FILES: [&CStr; 10] = [
    c"proc/asound",
    c"proc/interrupts",
    c"proc/kcore",
    c"proc/keys",
    c"proc/latency_stats",
    c"proc/timer_list",
    c"proc/timer_stats",
    c"proc/sched_debug",
    c"proc/scsi",
    c"sys/devices/virtual/powercap",
];

const MASKED_DIRECTORIES: [&CStr; 2] = [c"proc/acpi", c"sys/firmware"];

/// The read-only paths, all of which lie below /proc.
const READONLY: [&CStr; 5] = [c"bus", c"fs", c"irq", c"sys", c"sysrq-trigger"];

/// Docker's fourteen capabilities, one bit each: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const CAPABILITIES: u64 = 0x0000_0000_a804_25fb;
const LAST_CAPABILITY: u32 = 40;

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;
const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
const SAFE: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const OPEN_TREE_CLONE: usize = 1;
const AT_RECURSIVE: usize = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const AT_FDCWD: usize = libc::AT_FDCWD as isize as usize;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLOEXEC: usize = libc::O_CLOEXEC as usize;

const BPF_PROG_LOAD: usize = 5;
const BPF_PROG_ATTACH: usize = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Make one system call and return what the kernel returned: a value, or a negative errno.
fn raw(number: libc::c_long, args: &[usize]) -> isize {
    let arg = |n: usize| args.get(n).copied().unwrap_or(0);
    // SAFETY: every caller in this file passes the number of arguments that the call takes, and pointers to data that
    // live until it returns; no call here hands out memory that Rust believes to own.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    if result == -1 {
        // SAFETY: errno is thread-local and always readable.
        return -(unsafe { *libc::__errno_location() } as isize);
    }
    result as isize
}

/// End the process at once, without any clean-up of the C library.
fn exit(status: usize) -> ! {
    loop {
        raw(libc::SYS_exit_group, &[status]);
    }
}

/// Write a text to stderr and fail.
fn die(what: &str, errno: isize) -> ! {
    let mut number = Text::new();
    number.decimal(errno.unsigned_abs());
    for part in ["floor: ", what, ": errno ", number.as_str(), "\n"] {
        raw(libc::SYS_write, &[2, part.as_ptr() as usize, part.len()]);
    }
    exit(1)
}

/// A system call that has to succeed: `sys!(SYS_openat, dir, path, ...)`. Every argument is cast to a register.
macro_rules! sys {
    ($name:ident $(, $arg:expr)*) => {{
        let result = raw(libc::$name, &[$($arg as usize),*]);
        if result < 0 {
            die(stringify!($name), result);
        }
        result as usize
    }};
}

/// A short text on the stack, always followed by a NUL: for paths and numbers without an allocator.
struct Text {
    bytes: [u8; 160],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Text { bytes: [0; 160], length: 0 }
    }

    fn of(parts: &[&str]) -> Self {
        let mut text = Text::new();
        for part in parts {
            for byte in part.bytes() {
                text.push(byte);
            }
        }
        text
    }

    /// The last byte stays NUL; what does not fit is cut, and the call that gets the path then fails.
    fn push(&mut self, byte: u8) {
        if self.length < self.bytes.len() - 1 {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
    }

    fn decimal(&mut self, number: usize) {
        if number >= 10 {
            self.decimal(number / 10);
        }
        self.push(b'0' + (number % 10) as u8);
    }

    fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.bytes.get(..self.length).unwrap_or_default()).unwrap_or_default()
    }
}

/// Which control groups the host has.
#[derive(Clone, Copy, PartialEq)]
enum View {
    V1,
    V2,
}

/// The words of the command line that the commands need.
struct Job<'a> {
    view: View,
    name: &'a str,
    memory: &'a str,
    /// The payload stays instead of ending at once.
    pauses: bool,
}

impl Job<'_> {
    /// The container's cgroup in one hierarchy ("" on v2), as an absolute path.
    fn cgroup(&self, hierarchy: &str) -> Text {
        Text::of(&["/sys/fs/cgroup/", hierarchy, "/", PARENT, "/", self.name])
    }

    fn state(&self, file: &str) -> Text {
        Text::of(&["state/", self.name, file])
    }

    /// Remove the cgroups.
    fn remove_cgroups(&self) {
        match self.view {
            View::V1 => {
                for hierarchy in HIERARCHIES {
                    sys!(SYS_unlinkat, AT_FDCWD, self.cgroup(hierarchy).as_ptr(), libc::AT_REMOVEDIR);
                }
            }
            View::V2 => {
                sys!(SYS_unlinkat, AT_FDCWD, self.cgroup("").as_ptr(), libc::AT_REMOVEDIR);
            }
        }
    }
}

/// The files by which a process joins its cgroups: one directory on v2, a `tasks` file for each hierarchy on v1.
struct Cgroups {
    v2: usize,
    tasks: [usize; HIERARCHIES.len()],
}

impl Cgroups {
    /// Open them; the descriptors are inherited by the child.
    fn open(job: &Job) -> Self {
        let mut cgroups = Cgroups { v2: 0, tasks: [0; HIERARCHIES.len()] };
        match job.view {
            View::V1 => {
                for (hierarchy, fd) in HIERARCHIES.iter().zip(&mut cgroups.tasks) {
                    let path = Text::of(&["/sys/fs/cgroup/", hierarchy, "/", PARENT, "/", job.name, "/tasks"]);
                    *fd = sys!(SYS_openat, AT_FDCWD, path.as_ptr(), libc::O_WRONLY as usize | CLOEXEC);
                }
            }
            View::V2 => {
                cgroups.v2 = sys!(SYS_openat, AT_FDCWD, job.cgroup("").as_ptr(), libc::O_DIRECTORY as usize | CLOEXEC);
            }
        }
        cgroups
    }

    /// v1: the calling process moves itself, without the lock that writing a pid would take.
    fn join(&self, job: &Job) {
        if job.view == View::V1 {
            for fd in self.tasks {
                sys!(SYS_write, fd, c"0".as_ptr(), 1);
            }
        }
    }
}

/// A seccomp program as the kernel wants it: the file that `compare` wrote, mapped.
fn map_filter() -> libc::sock_fprog {
    let fd = sys!(SYS_openat, AT_FDCWD, c"filter.bpf".as_ptr(), libc::O_RDONLY as usize | CLOEXEC);
    // The first 8 bytes say how many instructions follow, which spares a stat.
    let pages = 64 << 10;
    let start = sys!(SYS_mmap, 0, pages, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0) as *mut libc::sock_filter;
    // SAFETY: the mapping is 64 KiB long, the file at least eight bytes, and sock_filter is 8 plain bytes.
    let (count, filter) = unsafe { ((*start).k, start.add(1)) };
    libc::sock_fprog { len: count as u16, filter }
}

/// clone3 with a pidfd; returns 0 in the child. The flags are the namespaces.
fn clone(job: &Job, namespaces: c_int, cgroups: &Cgroups, pidfd: &mut c_int) -> usize {
    let mut flags = namespaces as u64 | libc::CLONE_PIDFD as u64;
    if job.view == View::V2 {
        flags |= CLONE_INTO_CGROUP;
    }
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup.
    let mut arguments = [0u64; 11];
    arguments[0] = flags;
    arguments[1] = &raw mut *pidfd as u64;
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = cgroups.v2 as u64;
    sys!(SYS_clone3, arguments.as_ptr(), size_of::<[u64; 11]>())
}

/// Wait for the process behind a pidfd and return its exit status (128 + signal if it was killed).
fn wait(pidfd: c_int) -> usize {
    // siginfo_t: the status of a child is the word at offset 24, the code the one at offset 8.
    let mut info = [0i32; 32];
    sys!(SYS_waitid, libc::P_PIDFD, pidfd, info.as_mut_ptr(), libc::WEXITED, 0);
    let killed = info[2] != libc::CLD_EXITED;
    (info[6] + if killed { 128 } else { 0 }) as usize
}

/// `run` and `create`: everything from the cgroup to the execve.
fn run(job: &Job, wait_for_start: bool) -> ! {
    let mut listener = 0;
    if wait_for_start {
        sys!(SYS_mkdirat, AT_FDCWD, job.state("").as_ptr(), 0o700);
        listener = sys!(SYS_socket, libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        let address = start_address(job);
        sys!(SYS_bind, listener, &raw const address, size_of::<libc::sockaddr_un>());
        sys!(SYS_listen, listener, 1);
    }
    match job.view {
        View::V1 => {
            for hierarchy in HIERARCHIES {
                sys!(SYS_mkdirat, AT_FDCWD, job.cgroup(hierarchy).as_ptr(), 0o755);
            }
        }
        View::V2 => {
            sys!(SYS_mkdirat, AT_FDCWD, job.cgroup("").as_ptr(), 0o755);
        }
    }
    let cgroups = Cgroups::open(job);
    let filter = map_filter();
    let mut pair = [0 as c_int; 2];
    sys!(SYS_socketpair, libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr());

    let mut pidfd = 0;
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    let pid = clone(job, namespaces, &cgroups, &mut pidfd);
    if pid == 0 {
        init(job, &cgroups, &filter, pair[1], wait_for_start.then_some(listener));
    }
    // In parallel with the child, which makes its network namespace meanwhile.
    match job.view {
        View::V1 => limit_v1(job),
        View::V2 => limit_v2(job, cgroups.v2),
    }
    let byte = [0u8; 1];
    sys!(SYS_write, pair[0], byte.as_ptr(), 1);
    if !wait_for_start {
        let status = wait(pidfd);
        job.remove_cgroups();
        exit(status);
    }
    let mut record = Text::new();
    record.decimal(pid);
    let state = sys!(SYS_openat, AT_FDCWD, job.state("/pid").as_ptr(), libc::O_WRONLY | libc::O_CREAT, 0o600);
    sys!(SYS_write, state, record.as_ptr(), record.length);
    sys!(SYS_read, pair[0], byte.as_ptr(), 1);
    exit(0)
}

/// Write the limits of v1, each into the hierarchy that has it.
fn limit_v1(job: &Job) {
    let put = |hierarchy: &str, file: &CStr, values: &[&str]| {
        let file = file.to_str().unwrap_or_default();
        let path = Text::of(&["/sys/fs/cgroup/", hierarchy, "/", PARENT, "/", job.name, "/", file]);
        let fd = sys!(SYS_openat, AT_FDCWD, path.as_ptr(), libc::O_WRONLY as usize | CLOEXEC);
        for value in values {
            sys!(SYS_write, fd, value.as_ptr(), value.len());
        }
    };
    put("memory", c"memory.limit_in_bytes", &[job.memory]);
    for (hierarchy, file, value) in V1_LIMITS {
        put(hierarchy, file, &[value]);
    }
    put("devices", c"devices.deny", &["a"]);
    put("devices", c"devices.allow", &DEVICES);
}

/// Write the limits of v2 if their controllers exist, and attach the device program.
fn limit_v2(job: &Job, cgroup: usize) {
    let write_only = libc::O_WRONLY as usize | CLOEXEC;
    // One look says whether there are controllers at all: those of a delegated cgroup come together.
    let memory = raw(libc::SYS_openat, &[cgroup, c"memory.max".as_ptr() as usize, write_only]);
    if memory >= 0 {
        sys!(SYS_write, memory, job.memory.as_ptr(), job.memory.len());
        for (file, value) in V2_LIMITS {
            let fd = sys!(SYS_openat, cgroup, file.as_ptr(), write_only);
            sys!(SYS_write, fd, value.as_ptr(), value.len());
        }
    }
    let program = load_device_program();
    // union bpf_attr for BPF_PROG_ATTACH: target_fd, attach_bpf_fd, attach_type, attach_flags, replace_bpf_fd.
    let attach = [cgroup as u32, program as u32, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI, 0];
    sys!(SYS_bpf, BPF_PROG_ATTACH, attach.as_ptr(), size_of::<[u32; 5]>());
}

/// Load the eBPF program for the same device list: allow the listed ones, refuse the rest.
fn load_device_program() -> usize {
    // struct bpf_insn: opcode, registers (source in the high four bits), offset, immediate. The context is
    // bpf_cgroup_dev_ctx: access << 16 | type, major, minor; type 1 is a block, 2 a character device, access 1 mknod.
    let mut program = [0u64; 96];
    let mut length = 0;
    let mut emit = |opcode: u8, registers: u8, offset: i16, immediate: i32| {
        program[length] = u64::from(opcode)
            | u64::from(registers) << 8
            | u64::from(offset as u16) << 16
            | u64::from(immediate as u32) << 32;
        length += 1;
    };
    emit(0x61, 0x12, 0, 0); // r2 = *(u32 *)(r1 + 0)
    emit(0xbc, 0x23, 0, 0); // w3 = w2
    emit(0x74, 0x03, 0, 16); // w3 >>= 16: the access
    emit(0x54, 0x02, 0, 0xffff); // w2 &= 0xffff: the type
    emit(0x61, 0x14, 4, 0); // r4 = major
    emit(0x61, 0x15, 8, 0); // r5 = minor
    for kind in [1, 2] {
        // mknod alone is allowed for every device
        emit(0x55, 0x02, 3, kind); // if r2 != kind goto next
        emit(0x55, 0x03, 2, 1); // if r3 != 1 goto next
        emit(0xb7, 0x00, 0, 1); // r0 = 1
        emit(0x95, 0x00, 0, 0); // exit
    }
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        emit(0x55, 0x02, 4, 2);
        emit(0x55, 0x04, 3, major);
        emit(0x55, 0x05, 2, minor);
        emit(0xb7, 0x00, 0, 1);
        emit(0x95, 0x00, 0, 0);
    }
    emit(0x55, 0x02, 3, 2);
    emit(0x55, 0x04, 2, 136);
    emit(0xb7, 0x00, 0, 1);
    emit(0x95, 0x00, 0, 0);
    emit(0xb7, 0x00, 0, 0);
    emit(0x95, 0x00, 0, 0);
    // union bpf_attr for BPF_PROG_LOAD: prog_type, insn_cnt, insns, license, then nothing more that is needed.
    let attributes = [
        u64::from(BPF_PROG_TYPE_CGROUP_DEVICE) | (length as u64) << 32,
        program.as_ptr() as u64,
        c"Apache-2.0".as_ptr() as u64,
        0,
        0,
        0,
    ];
    sys!(SYS_bpf, BPF_PROG_LOAD, attributes.as_ptr(), size_of::<[u64; 6]>())
}

/// The child of `run` and `create`.
fn init(job: &Job, cgroups: &Cgroups, filter: &libc::sock_fprog, sync: c_int, start: Option<usize>) -> ! {
    sys!(SYS_setsid);
    // The longest single step comes first, so that the parent writes limits at the same time. On v2 the child is in
    // its cgroup already, on v1 it enters it later and the namespace has to wait for that.
    match job.view {
        View::V1 => sys!(SYS_unshare, libc::CLONE_NEWNET),
        View::V2 => sys!(SYS_unshare, libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP),
    };
    raise_loopback();
    let oom = sys!(SYS_openat, AT_FDCWD, c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY as usize | CLOEXEC);
    sys!(SYS_write, oom, c"100".as_ptr(), 3);

    // mount_attr: attr_set, attr_clr, propagation, userns_fd. Nothing below may reach the host.
    let slave = [0u64, 0, libc::MS_SLAVE, 0];
    sys!(SYS_mount_setattr, AT_FDCWD, c"/".as_ptr(), AT_RECURSIVE, slave.as_ptr(), 32);
    let rootfs = sys!(SYS_open_tree, AT_FDCWD, c"rootfs".as_ptr(), OPEN_TREE_CLONE | AT_RECURSIVE | CLOEXEC);
    sys!(SYS_move_mount, rootfs, c"".as_ptr(), AT_FDCWD, c"rootfs".as_ptr(), MOVE_MOUNT_F_EMPTY_PATH);
    mount_tree(job, rootfs);

    let mut byte = [0u8; 1];
    sys!(SYS_read, sync, byte.as_mut_ptr(), 1);
    if job.view == View::V1 {
        cgroups.join(job);
        sys!(SYS_unshare, libc::CLONE_NEWCGROUP);
    }
    sys!(SYS_fchdir, rootfs);
    sys!(SYS_pivot_root, c".".as_ptr(), c".".as_ptr());
    sys!(SYS_umount2, c".".as_ptr(), libc::MNT_DETACH);
    sys!(SYS_sethostname, c"docker-like".as_ptr(), 11);
    mask();
    drop_privileges(job, filter, || {
        if let Some(listener) = start {
            // The byte is READY; start's connection is the barrier, and its end (CLOEXEC) the proof of the execve.
            sys!(SYS_write, sync, byte.as_ptr(), 1);
            sys!(SYS_accept4, listener, 0, 0, libc::SOCK_CLOEXEC);
        }
    })
}

/// What runtimes do in a new network namespace: `ip link set lo up`.
fn raise_loopback() {
    let socket = sys!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
    // struct ifreq: a name of 16 bytes, then the flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes());
    sys!(SYS_ioctl, socket, libc::SIOCSIFFLAGS as usize, request.as_ptr());
}

/// Make a file system with its options and attach it below the rootfs.
fn mount(rootfs: usize, kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64, target: &CStr) -> usize {
    let context = sys!(SYS_fsopen, kind.as_ptr(), 1);
    for (key, value) in options {
        sys!(SYS_fsconfig, context, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0);
    }
    sys!(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
    let mount = sys!(SYS_fsmount, context, 1, attributes);
    sys!(SYS_move_mount, mount, c"".as_ptr(), rootfs, target.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH);
    mount
}

/// Clone the tree at a path of the old root and attach it below the new one.
fn bind(source: *const u8, rootfs: usize, target: *const u8) {
    let tree = sys!(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | AT_RECURSIVE | CLOEXEC);
    sys!(SYS_move_mount, tree, c"".as_ptr(), rootfs, target, MOVE_MOUNT_F_EMPTY_PATH);
}

/// The ten mounts of docker-like.json and what lies in /dev.
fn mount_tree(job: &Job, rootfs: usize) {
    // Clones of a read-only mount are read-only, so one call serves all read-only paths; then /proc itself is opened.
    let proc = mount(rootfs, c"proc", &[], SAFE | MOUNT_ATTR_RDONLY, c"proc");
    for path in READONLY {
        let flags = OPEN_TREE_CLONE | AT_RECURSIVE | CLOEXEC;
        let tree = raw(libc::SYS_open_tree, &[proc, path.as_ptr() as usize, flags]);
        if tree >= 0 {
            sys!(SYS_move_mount, tree, c"".as_ptr(), proc, path.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH);
        }
    }
    let writable = [0, MOUNT_ATTR_RDONLY, 0, 0];
    sys!(SYS_mount_setattr, proc, c"".as_ptr(), libc::AT_EMPTY_PATH, writable.as_ptr(), 32);
    let dev_options = [(c"mode", c"755"), (c"size", c"65536k")];
    let dev = mount(rootfs, c"tmpfs", &dev_options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME, c"dev");
    // The modes below are exact; start-up inherits the caller's mask.
    raw(libc::SYS_umask, &[0]);
    for directory in [c"pts", c"mqueue", c"shm"] {
        sys!(SYS_mkdirat, dev, directory.as_ptr(), 0o755);
    }
    let pts_options = [(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"gid", c"5")];
    mount(dev, c"devpts", &pts_options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, c"pts");
    let sys_fs = mount(rootfs, c"sysfs", &[], SAFE | MOUNT_ATTR_RDONLY, c"sys");
    match job.view {
        View::V1 => {
            let cgroup = mount(sys_fs, c"tmpfs", &[(c"mode", c"755")], SAFE, c"fs/cgroup");
            for hierarchy in HIERARCHIES {
                // Binding the container's own directory costs less than mounting the hierarchy afresh.
                let name = Text::of(&[hierarchy]);
                sys!(SYS_mkdirat, cgroup, name.as_ptr(), 0o755);
                bind(job.cgroup(hierarchy).as_ptr(), cgroup, name.as_ptr());
            }
            // One call makes all ten read-only; they are not visible to anybody yet.
            let readonly = [SAFE | MOUNT_ATTR_RDONLY, 0, 0, 0];
            sys!(SYS_mount_setattr, sys_fs, c"fs/cgroup".as_ptr(), AT_RECURSIVE, readonly.as_ptr(), 32);
        }
        View::V2 => {
            mount(sys_fs, c"cgroup2", &[], SAFE | MOUNT_ATTR_RDONLY, c"fs/cgroup");
        }
    }
    mount(dev, c"mqueue", &[], SAFE, c"mqueue");
    mount(dev, c"tmpfs", &[(c"size", c"67108864")], SAFE, c"shm");
    for (source, target) in
        [(c"resolv.conf", c"etc/resolv.conf"), (c"hostname", c"etc/hostname"), (c"hosts", c"etc/hosts")]
    {
        bind(source.as_ptr().cast(), rootfs, target.as_ptr().cast());
    }
    for (name, major, minor) in NODES {
        sys!(SYS_mknodat, dev, name.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(major, minor));
    }
    for (target, name) in LINKS {
        sys!(SYS_symlinkat, target.as_ptr(), dev, name.as_ptr());
    }
}

/// Cover the masked paths, after the pivot. A path that is not there is skipped.
fn mask() {
    let clone = |path: &CStr| {
        raw(libc::SYS_open_tree, &[AT_FDCWD, path.as_ptr() as usize, OPEN_TREE_CLONE | AT_RECURSIVE | CLOEXEC])
    };
    let attach = |tree: usize, path: &CStr| {
        let empty = c"".as_ptr() as usize;
        raw(libc::SYS_move_mount, &[tree, empty, AT_FDCWD, path.as_ptr() as usize, MOVE_MOUNT_F_EMPTY_PATH]) >= 0
    };
    // A clone of /dev/null that found no target serves the next one.
    let mut spare = None;
    for path in MASKED_FILES {
        let tree = spare.unwrap_or_else(|| clone(c"dev/null") as usize);
        spare = if attach(tree, path) { None } else { Some(tree) };
    }
    let context = sys!(SYS_fsopen, c"tmpfs".as_ptr(), 1);
    sys!(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
    let mut empty = sys!(SYS_fsmount, context, 1, SAFE | MOUNT_ATTR_RDONLY);
    for (index, path) in MASKED_DIRECTORIES.iter().enumerate() {
        if index > 0 {
            empty = clone(MASKED_DIRECTORIES[0]) as usize;
        }
        attach(empty, path);
    }
}

/// From root of the host's kind to what docker-like.json allows, then the payload. `before` runs last of all.
fn drop_privileges(job: &Job, filter: &libc::sock_fprog, before: impl FnOnce()) -> ! {
    let files = [1024u64, 1024];
    sys!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, files.as_ptr(), 0);
    for capability in 0..=LAST_CAPABILITY {
        if CAPABILITIES & (1 << capability) == 0 {
            sys!(SYS_prctl, libc::PR_CAPBSET_DROP, capability);
        }
    }
    let groups = [0u32, 10];
    sys!(SYS_setgroups, 2, groups.as_ptr());
    // Version 3 of the header; effective, permitted and inheritable, the low words first.
    let header = [0x2008_0522u32, 0];
    let low = CAPABILITIES as u32;
    let sets = [low, low, 0, 0, 0, 0];
    sys!(SYS_capset, header.as_ptr(), sets.as_ptr());
    raw(libc::SYS_umask, &[0o22]);
    sys!(SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    sys!(SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, filter as *const libc::sock_fprog);
    before();
    let payload = if job.pauses { c"pause" } else { c"true" };
    let arguments = [c"/floor".as_ptr(), payload.as_ptr(), std::ptr::null()];
    let environment = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(), std::ptr::null()];
    sys!(SYS_execve, c"/floor".as_ptr(), arguments.as_ptr(), environment.as_ptr());
    exit(127)
}

/// The start socket's address: relative, for the current directory is the bundle.
fn start_address(job: &Job) -> libc::sockaddr_un {
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    let path = job.state("/start");
    for (to, from) in address.sun_path.iter_mut().zip(path.as_str().bytes()) {
        *to = from as c_char;
    }
    address
}

/// `start`: the connection lets init go on; its end says that the payload executed.
fn start(job: &Job) -> ! {
    let socket = sys!(SYS_socket, libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
    let address = start_address(job);
    sys!(SYS_connect, socket, &raw const address, size_of::<libc::sockaddr_un>());
    let mut byte = [0u8; 1];
    sys!(SYS_read, socket, byte.as_mut_ptr(), 1);
    exit(0)
}

/// `delete` of a stopped container.
fn delete(job: &Job) -> ! {
    job.remove_cgroups();
    sys!(SYS_unlinkat, AT_FDCWD, job.state("/start").as_ptr(), 0);
    sys!(SYS_unlinkat, AT_FDCWD, job.state("/pid").as_ptr(), 0);
    sys!(SYS_unlinkat, AT_FDCWD, job.state("").as_ptr(), libc::AT_REMOVEDIR);
    exit(0)
}

/// The pid of init as `create` recorded it.
fn recorded_pid(job: &Job) -> Text {
    let mut record = Text::new();
    let file = sys!(SYS_openat, AT_FDCWD, job.state("/pid").as_ptr(), libc::O_RDONLY as usize | CLOEXEC);
    record.length = sys!(SYS_read, file, record.bytes.as_mut_ptr(), 16);
    record
}

/// `exec`: one process in the container's namespaces and cgroups, under the same restrictions.
fn exec(job: &Job) -> ! {
    let pid = recorded_pid(job).as_str().bytes().fold(0usize, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    let target = sys!(SYS_pidfd_open, pid, 0);
    let cgroups = Cgroups::open(job);
    let filter = map_filter();
    // The child is born inside the PID namespace; no process in between is needed.
    sys!(SYS_setns, target, libc::CLONE_NEWPID);
    let mut pidfd = 0;
    if clone(job, 0, &cgroups, &mut pidfd) != 0 {
        exit(wait(pidfd));
    }
    sys!(SYS_setsid);
    let oom = sys!(SYS_openat, AT_FDCWD, c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY as usize | CLOEXEC);
    sys!(SYS_write, oom, c"100".as_ptr(), 3);
    cgroups.join(job);
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    sys!(SYS_setns, target, namespaces | libc::CLONE_NEWCGROUP);
    drop_privileges(job, &filter, || ())
}

/// `state`: what is on disk, to stdout.
fn state(job: &Job) -> ! {
    let record = recorded_pid(job);
    sys!(SYS_write, 1, record.as_ptr(), record.length);
    exit(0)
}

/// Run a command without its output and print its peak resident set in KiB. A process begins with the peak of the one
/// that it was cloned from, and this program is as small as a process gets.
fn measure(command: *const *const c_char) -> ! {
    let child = sys!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
    if child == 0 {
        let null = sys!(SYS_openat, AT_FDCWD, c"/dev/null".as_ptr(), libc::O_RDWR as usize | CLOEXEC);
        for fd in 0..3 {
            sys!(SYS_dup3, null, fd, 0);
        }
        // SAFETY: the command line ends in NULL and has at least one more word, checked by main.
        let program = unsafe { *command };
        sys!(SYS_execve, program, command, [std::ptr::null::<c_char>()].as_ptr());
    }
    // struct rusage: two timevals, then ru_maxrss.
    let mut usage = [0u64; 18];
    let mut status = 0i32;
    sys!(SYS_wait4, child, &raw mut status, 0, usage.as_mut_ptr());
    let mut text = Text::new();
    text.decimal(usage[4] as usize);
    text.push(b'\n');
    sys!(SYS_write, 1, text.as_ptr(), text.length);
    exit(usize::from(status != 0))
}

/// The C entry point: nothing of Rust's runtime has run.
///
/// # Safety
///
/// argv has argc entries, each a NUL-terminated string, and a NULL after them: what the C start-up code passes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let word = |n: usize| -> &str {
        if n >= argc as usize {
            return "";
        }
        // SAFETY: argv has argc entries, each a NUL-terminated string that lives as long as the process.
        unsafe { CStr::from_ptr(*argv.add(n)) }.to_str().unwrap_or_default()
    };
    let command = word(1);
    match command {
        "true" => exit(0),
        "pause" => loop {
            raw(libc::SYS_ppoll, &[0, 0, 0, 0, 0]);
        },
        // SAFETY: argc says that there is a third word, and argv ends in NULL.
        "measure" if argc > 2 => measure(unsafe { argv.add(2) }),
        _ => {}
    }
    let view = if word(2) == "v1" { View::V1 } else { View::V2 };
    let memory = if command == "run" && argc > 4 { word(4) } else { MEMORY_LIMIT };
    let job = Job { view, name: word(3), memory, pauses: command == "create" && word(4) == "pause" };
    if job.name.is_empty() {
        die("usage: floor run|create|start|delete|exec|state v1|v2 NAME", 0);
    }
    match command {
        "run" => run(&job, false),
        "create" => run(&job, true),
        "start" => start(&job),
        "delete" => delete(&job),
        "exec" => exec(&job),
        "state" => state(&job),
        _ => die("no such command", 0),
    }
}
