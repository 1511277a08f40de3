//! The payload of the integration suite: prints one JSON object of everything it can see of its sandbox.
//!
//! It is static and needs neither /proc nor a writable file system: a fact that cannot be had is null. It has no Rust
//! runtime (`no_main`), because that would open /dev/null on missing standard fds and ignore SIGPIPE before the probe
//! could look. Options, in any order:
//!
//! ```text
//! --read PATH   contents or errno          --write PATH      errno of opening for writing (a directory: of creating)
//! --stat PATH   type, mode, owner, ...     --list PATH       names in a directory
//! --label PATH  its SELinux label
//! --open PATH   errno of opening O_RDWR    --mknod PATH:c:MAJ:MIN   errno of making (and removing) a device node
//! --try MODE:PATH         errno of opening for r, w or rw
//! --syscall NR[,ARG...]   errno or return value, made in a child so that a lethal filter is reported as a signal
//! --attack-exe SECONDS    keeps trying to open the executables of other processes for writing
//! --spy SECONDS:PATH      keeps looking for PATH below the root, cwd and fds of other processes
//! --write-self-exe        tries to open the running executables for writing (nothing is written)
//! --put PATH=TEXT         writes TEXT into PATH
//! --notify TEXT           sends TEXT to $NOTIFY_SOCKET
//! --make PATH             makes a new file and tells its status or the errno
//! --mkdir PATH            errno of making (and removing) a directory
//! --stdin                 adds what stdin holds    --out FILE    prints into FILE instead (for hooks)
//! --network               adds the network devices
//! --quiet  --hold  --sleep SECONDS  --wait-signal N  --signal-self N  --exit N
//! ```
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

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use serde_json::{Map, Value, json};

/// Linux's names of the capabilities, by number.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// All sixteen resource limits, by number.
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// The C entry point: collects the facts, prints them, then does what the options ask for.
///
/// # Safety
///
/// Only the C start-up code may call it: `argv` holds `argc` strings that end in NUL and live as long as the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // The fds come first, before anything here has opened one of its own.
    let fds = open_fds();
    let args: Vec<String> = (0..usize::try_from(argc).unwrap_or(0))
        // SAFETY: the kernel passes argc pointers to strings that end in NUL and live as long as the process.
        .map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy().into_owned())
        .collect();
    let request = Request::parse(&args);
    if !request.quiet {
        let mut facts = facts(&args);
        facts.insert("fds".to_owned(), fds);
        facts.extend(request.answers());
        let text = format!("{}\n", Value::Object(facts));
        let written = match &request.out {
            Some(path) => fs::write(path, text),
            None => io::stdout().write_all(text.as_bytes()),
        };
        if written.is_err() {
            return 99;
        }
    }
    request.finish()
}

/// What the command line asks for beyond the facts.
#[derive(Default)]
struct Request {
    actions: Vec<(String, String)>,
    self_exe: bool,
    stdin: bool,
    network: bool,
    out: Option<String>,
    notify: Option<String>,
    quiet: bool,
    hold: bool,
    sleep: Option<u64>,
    wait_signal: Option<c_int>,
    signal_self: Option<c_int>,
    exit: c_int,
}

impl Request {
    fn parse(args: &[String]) -> Request {
        let mut request = Request::default();
        let mut words = args.iter().skip(1).cloned();
        while let Some(option) = words.next() {
            let mut value = || words.next().unwrap_or_default();
            match option.as_str() {
                "--quiet" => request.quiet = true,
                "--hold" => request.hold = true,
                "--stdin" => request.stdin = true,
                "--notify" => request.notify = Some(value()),
                "--network" => request.network = true,
                "--out" => request.out = Some(value()),
                "--write-self-exe" => request.self_exe = true,
                "--sleep" => request.sleep = value().parse().ok(),
                "--wait-signal" => request.wait_signal = value().parse().ok(),
                "--signal-self" => request.signal_self = value().parse().ok(),
                "--exit" => request.exit = value().parse().unwrap_or(98),
                "--read" | "--write" | "--stat" | "--list" | "--label" | "--open" | "--try" | "--mknod"
                | "--syscall" | "--put" | "--make" | "--attack-exe" | "--spy" => {
                    let value = value();
                    request.actions.push((option, value));
                }
                // An unknown word is an argument that a test wants to find again in `args`.
                _ => {}
            }
        }
        request
    }

    /// The results of the actions, grouped by option and keyed by their argument.
    fn answers(&self) -> Map<String, Value> {
        let mut answers = Map::new();
        for (option, argument) in &self.actions {
            let answer = match option.as_str() {
                "--read" => read(argument),
                "--write" => json!(write_attempt(argument)),
                "--stat" => stat(argument),
                "--list" => list(argument),
                "--label" => label(argument),
                "--open" => json!(outcome(
                    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(argument)
                )),
                "--try" => {
                    let (mode, path) = argument.split_once(':').unwrap_or(("", argument));
                    let (read, write) = (mode.contains('r'), mode.contains('w'));
                    let mut options = OpenOptions::new();
                    json!(outcome(options.read(read).write(write).custom_flags(libc::O_NONBLOCK).open(path)))
                }
                "--mknod" => json!(mknod(argument)),
                "--put" => {
                    let (path, text) = argument.split_once('=').unwrap_or((argument, ""));
                    json!(outcome(
                        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()))
                    ))
                }
                "--make" => match File::create_new(argument) {
                    Ok(_) => stat(argument),
                    Err(error) => json!({"errno": errno_name(&error)}),
                },
                "--mkdir" => json!(outcome(fs::create_dir(argument).and_then(|()| fs::remove_dir(argument)))),
                "--attack-exe" => attack_executables(argument),
                "--spy" => spy(argument),
                _ => json!(in_a_child(argument)),
            };
            let group = answers.entry(option.trim_start_matches('-').to_owned()).or_insert_with(|| json!({}));
            if let Some(group) = group.as_object_mut() {
                group.insert(argument.clone(), answer);
            }
        }
        if self.stdin {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            answers.insert("stdin".to_owned(), read.map_or(Value::Null, |_| json!(text)));
        }
        if self.network {
            answers.insert("network".to_owned(), network());
        }
        if self.self_exe {
            let attempt = |path: &str| outcome(OpenOptions::new().write(true).open(path));
            answers.insert(
                "self_exe".to_owned(),
                json!({"/proc/1/exe": attempt("/proc/1/exe"), "/proc/self/exe": attempt("/proc/self/exe")}),
            );
        }
        answers
    }

    fn finish(&self) -> c_int {
        if let (Some(text), Ok(path)) = (&self.notify, std::env::var("NOTIFY_SOCKET")) {
            let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|s| s.send_to(text.as_bytes(), path));
            if sent.is_err() {
                return 97;
            }
        }
        if let Some(signal) = self.wait_signal {
            // SAFETY: the set is initialised before use; blocking and awaiting a signal touches no other memory.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, signal);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                let mut got = 0;
                libc::sigwait(&raw const set, &raw mut got);
            }
        }
        if let Some(signal) = self.signal_self {
            // SAFETY: no memory is involved.
            unsafe { libc::kill(libc::getpid(), signal) };
        }
        if let Some(seconds) = self.sleep {
            std::thread::sleep(std::time::Duration::from_secs(seconds));
        }
        if self.hold {
            loop {
                // SAFETY: no memory is involved.
                unsafe { libc::pause() };
            }
        }
        self.exit
    }
}

/// Everything that is printed without being asked for.
fn facts(args: &[String]) -> Map<String, Value> {
    let status = fs::read_to_string("/proc/self/status").ok();
    let field = |name: &str| {
        let line = status.as_deref()?.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let facts = json!({
        "args": args,
        "env": environment(),
        "cwd": std::env::current_dir().map(|path| path.to_string_lossy().into_owned()).ok(),
        "ids": ids(),
        "umask": umask(),
        "capabilities": capabilities(),
        // SAFETY: these prctl calls take and return plain numbers.
        "no_new_privs": unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) },
        "seccomp": {
            "mode": field("Seccomp:").and_then(|mode| mode.parse().ok())
                // SAFETY: as above.
                .unwrap_or_else(|| unsafe { libc::prctl(libc::PR_GET_SECCOMP) }),
            "filters": field("Seccomp_filters:").and_then(|count| count.parse::<u32>().ok()),
        },
        "rlimits": rlimits(),
        "uts": uts(),
        "oom_score_adj": read_trimmed("/proc/self/oom_score_adj").and_then(|text| text.parse::<i32>().ok()),
        "namespaces": namespaces(),
        "owners": namespace_owners(),
        "clocks": clocks(),
        "mounts": mounts(),
        "signals": signals(),
        "process": process(),
        "scheduler": scheduler(),
        "memory_policy": memory_policy(),
        "dev": Path::new("/dev").is_dir().then(|| devices(Path::new("/dev"))),
        "cgroup": fs::read_to_string("/proc/self/cgroup").ok(),
        "cpus_allowed": affinity(),
        "session_keyring": session_keyring(),
        "comm": read_trimmed("/proc/self/comm"),
        "processes": fs::read_dir("/proc").ok().map(|entries| {
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).collect::<Vec<_>>()
        }),
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

/// Numbers of the open fds with what they lead to (null without /proc).
fn open_fds() -> Value {
    // SAFETY: F_GETFD takes no pointer and fails with EBADF for a number that is not open.
    let open = (0..4096).filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0).collect::<Vec<c_int>>();
    open.iter()
        .map(|fd| {
            let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok();
            json!({"fd": fd, "target": target.map(|path| path.to_string_lossy().into_owned())})
        })
        .collect()
}

/// The network devices by name; an IPv4 address with a label is listed by that.
fn network() -> Value {
    let mut devices = Map::new();
    for entry in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let device = devices.entry(entry.interface_name.clone()).or_insert_with(|| json!({"addresses": []}));
        device["up"] = json!(entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP));
        device["mtu"] = json!(mtu(&entry.interface_name));
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            let bytes = link.addr().unwrap_or_default();
            device["mac"] = json!(bytes.map(|byte| format!("{byte:02x}")).join(":"));
        }
        let mask = entry.netmask;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => {
                let mask = mask.and_then(|mask| mask.as_sockaddr_in().map(|mask| u32::from(mask.ip()).count_ones()));
                format!("{}/{}", v4.ip(), mask.unwrap_or(0))
            }
            (_, Some(v6)) => {
                let mask = mask.and_then(|mask| mask.as_sockaddr_in6().map(|mask| u128::from(mask.ip()).count_ones()));
                format!("{}/{}", v6.ip(), mask.unwrap_or(0))
            }
            _ => continue,
        };
        if let Some(addresses) = device["addresses"].as_array_mut() {
            addresses.push(json!(ip));
        }
    }
    Value::Object(devices)
}

/// SIOCGIFMTU (netdevice(7))
fn mtu(device: &str) -> Option<c_int> {
    // SAFETY: an ifreq of zeroes is valid, the kernel fills it in, and the descriptor is ours.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().take(15).zip(device.bytes()) {
            *to = from as c_char;
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let result = libc::ioctl(socket, libc::SIOCGIFMTU as _, &raw mut request);
        libc::close(socket);
        (result == 0).then_some(request.ifr_ifru.ifru_mtu)
    }
}

fn environment() -> Vec<String> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let mut entries = Vec::new();
    // SAFETY: environ is an array of strings that ends in a null pointer, and nothing here changes it.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() {
            entries.push(CStr::from_ptr(*next).to_string_lossy().into_owned());
            next = next.add(1);
        }
    }
    entries
}

fn ids() -> Value {
    let (mut r, mut e, mut s) = (0, 0, 0);
    let (mut gr, mut ge, mut gs) = (0, 0, 0);
    let mut groups = vec![0; 1024];
    // SAFETY: every pointer leads to a variable of the right type, and getgroups is told the length of the array.
    let count = unsafe {
        libc::getresuid(&raw mut r, &raw mut e, &raw mut s);
        libc::getresgid(&raw mut gr, &raw mut ge, &raw mut gs);
        libc::getgroups(1024, groups.as_mut_ptr())
    };
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups.sort_unstable();
    json!({"uid": r, "euid": e, "suid": s, "gid": gr, "egid": ge, "sgid": gs, "groups": groups})
}

fn umask() -> u32 {
    // SAFETY: umask takes and returns a number; the first call's result is put back at once.
    unsafe {
        let mask = libc::umask(0);
        libc::umask(mask);
        mask
    }
}

fn capabilities() -> Value {
    let mut header = [0x2008_0522_u32, 0];
    let mut data = [[0_u32; 3]; 2];
    // SAFETY: version 3 of capget writes two structures of three words, which is what `data` holds.
    unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    let [low, high] = data;
    let names = |has: &dyn Fn(usize) -> bool| -> Vec<&str> {
        CAPABILITIES.iter().enumerate().filter(|(number, _)| has(*number)).map(|(_, name)| *name).collect()
    };
    let word = |number: usize, of: usize| {
        let half = if number < 32 { low } else { high };
        half.get(of).is_some_and(|bits| bits & (1 << (number % 32)) != 0)
    };
    // SAFETY: these prctl calls take and return plain numbers.
    let asked = |option: c_int, first: c_ulong, number: usize| unsafe {
        match option {
            libc::PR_CAPBSET_READ => libc::prctl(option, number as c_ulong, 0, 0, 0) == 1,
            _ => libc::prctl(option, first, number as c_ulong, 0, 0) == 1,
        }
    };
    json!({
        "effective": names(&|n| word(n, 0)),
        "permitted": names(&|n| word(n, 1)),
        "inheritable": names(&|n| word(n, 2)),
        "bounding": names(&|n| asked(libc::PR_CAPBSET_READ, 0, n)),
        "ambient": names(&|n| asked(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET as c_ulong, n)),
    })
}

fn rlimits() -> Value {
    RLIMITS
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let mut limit = [0_u64; 2];
            // SAFETY: prlimit64 writes two 64-bit words into `limit` and reads nothing.
            unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, std::ptr::null::<u64>(), limit.as_mut_ptr()) };
            let [soft, hard] = limit;
            ((*name).to_owned(), json!({"soft": soft, "hard": hard}))
        })
        .collect::<Map<_, _>>()
        .into()
}

fn uts() -> Value {
    // SAFETY: uname fills the structure, whose fields end in NUL.
    unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        let text = |field: &[c_char]| CStr::from_ptr(field.as_ptr()).to_string_lossy().into_owned();
        json!({"hostname": text(&name.nodename), "domainname": text(&name.domainname), "machine": text(&name.machine)})
    }
}

/// The inode of each namespace of this process.
fn namespaces() -> Value {
    ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
        .iter()
        .map(|name| ((*name).to_owned(), json!(fs::metadata(format!("/proc/self/ns/{name}")).map(|m| m.ino()).ok())))
        .collect::<Map<_, _>>()
        .into()
}

/// The inode of the user namespace that each namespace belongs to, or why it is not told.
fn namespace_owners() -> Value {
    use std::os::fd::AsRawFd as _;
    use std::os::fd::FromRawFd as _;
    const NS_GET_USERNS: c_ulong = 0xb701;
    ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
        .iter()
        .map(|name| {
            let owner = File::open(format!("/proc/self/ns/{name}")).and_then(|namespace| {
                // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor, which nobody else knows of.
                match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) } {
                    -1 => Err(io::Error::last_os_error()),
                    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
                    fd => unsafe { File::from_raw_fd(fd) }.metadata(),
                }
            });
            ((*name).to_owned(), owner.map_or_else(|error| json!(errno_name(&error)), |owner| json!(owner.ino())))
        })
        .collect::<Map<_, _>>()
        .into()
}

/// The two clocks that a time namespace shifts, in seconds.
fn clocks() -> Value {
    let seconds = |clock| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec.
        unsafe { libc::clock_gettime(clock, &raw mut time) };
        json!(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
    };
    json!({"monotonic": seconds(libc::CLOCK_MONOTONIC), "boottime": seconds(libc::CLOCK_BOOTTIME)})
}

/// /proc/self/mountinfo, field by field; null without /proc.
fn mounts() -> Value {
    let Ok(text) = fs::read_to_string("/proc/self/mountinfo") else {
        return Value::Null;
    };
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    text.lines()
        .map(|line| {
            let (before, after) = line.split_once(" - ").unwrap_or((line, ""));
            let mut left = before.split(' ');
            let mut right = after.split(' ');
            let mut next = || left.next().unwrap_or_default();
            let (id, parent, device, root, destination, options) = (next(), next(), next(), next(), next(), next());
            let propagation = left.map(str::to_owned).collect::<Vec<_>>();
            let mut next = || right.next().unwrap_or_default();
            let (fstype, source, super_options) = (next(), next(), next());
            json!({
                "id": id, "parent": parent, "device": device, "root": root, "destination": destination,
                "options": list(options), "propagation": propagation,
                "fstype": fstype, "source": source, "super": list(super_options),
            })
        })
        .collect()
}

/// Blocked and ignored signals.
fn signals() -> Value {
    // SAFETY: the kernel's signal set is 64 bits; rt_sigprocmask writes it into `blocked`, rt_sigaction writes one
    // struct (handler first) into `action`, which is larger than the kernel's.
    unsafe {
        let mut blocked = 0_u64;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, std::ptr::null::<u64>(), &raw mut blocked, 8);
        let ignored = (1..=64).filter(|number| {
            let mut action = [0_usize; 16];
            let status =
                libc::syscall(libc::SYS_rt_sigaction, *number, std::ptr::null::<usize>(), action.as_mut_ptr(), 8);
            status == 0 && action.first() == Some(&libc::SIG_IGN)
        });
        json!({
            "blocked": (1..=64).filter(|number| blocked & (1 << (number - 1)) != 0).collect::<Vec<u32>>(),
            "ignored": ignored.collect::<Vec<c_int>>(),
        })
    }
}

fn process() -> Value {
    let mut signal: c_int = -1;
    // SAFETY: only the first call takes a pointer, to the int that the kernel writes.
    unsafe {
        libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal, 0, 0, 0);
        json!({
            "pid": libc::getpid(), "ppid": libc::getppid(), "pgid": libc::getpgid(0), "sid": libc::getsid(0),
            "scheduler": libc::syscall(libc::SYS_sched_getscheduler, 0),
            "nice": 20 - libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0),
            "ioprio": libc::syscall(libc::SYS_ioprio_get, 1, 0),
            "personality": libc::syscall(libc::SYS_personality, 0xffff_ffff_u64),
            "dumpable": libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0),
            "parent_death_signal": signal,
        })
    }
}

/// sched_getattr(2), less the clamps of utilisation.
fn scheduler() -> Value {
    let mut words = [0_u32; 14];
    // SAFETY: the kernel writes at most the number of bytes it is told.
    let status = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, words.as_mut_ptr(), size_of_val(&words), 0) };
    if status != 0 {
        return json!({"errno": format!("{:?}", Errno::last())});
    }
    let [_, policy, flags, flags_high, nice, priority, times @ ..] = words;
    let long = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    json!({
        "policy": policy, "flags": long(flags, flags_high), "nice": nice.cast_signed(), "priority": priority,
        "runtime": long(times[0], times[1]), "deadline": long(times[2], times[3]), "period": long(times[4], times[5]),
    })
}

/// get_mempolicy(2): the mode with its flags, and the nodes.
fn memory_policy() -> Value {
    let mut mode: c_int = -1;
    let mut nodes = [0_u64; 512];
    // SAFETY: the kernel writes an int and at most the number of bits it is told.
    let status = unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), size_of_val(&nodes) * 8, 0, 0)
    };
    if status != 0 {
        return json!({"errno": format!("{:?}", Errno::last())});
    }
    let set = |node: &usize| nodes.get(node / 64).is_some_and(|word| word & (1 << (node % 64)) != 0);
    json!({"mode": mode, "nodes": (0..32768).filter(set).collect::<Vec<usize>>()})
}

fn affinity() -> Value {
    let mut bits = [0_u64; 128];
    // SAFETY: the kernel writes at most the number of bytes it is told.
    let bytes = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&bits), bits.as_mut_ptr()) };
    if bytes < 0 {
        return Value::Null;
    }
    let set = |cpu: &usize| bits.get(cpu / 64).is_some_and(|word| word & (1 << (cpu % 64)) != 0);
    json!((0..8192).filter(set).collect::<Vec<usize>>())
}

/// The kernel's description of the session keyring (type;uid;gid;permissions;name) and its label, or the errno.
fn session_keyring() -> Value {
    const KEYCTL_GET_KEYRING_ID: c_int = 0;
    const KEYCTL_DESCRIBE: c_int = 6;
    const KEYCTL_GET_SECURITY: c_int = 17;
    const KEY_SPEC_SESSION_KEYRING: c_int = -3;
    let mut text = [0_u8; 512];
    // SAFETY: the kernel writes at most the number of bytes it is told.
    let (id, length) = unsafe {
        let id = libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
        (id, libc::syscall(libc::SYS_keyctl, KEYCTL_DESCRIBE, id, text.as_mut_ptr(), text.len()))
    };
    if id < 0 || length < 0 {
        return json!({"errno": format!("{:?}", Errno::last())});
    }
    let mut security = [0_u8; 512];
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_SECURITY, id, security.as_mut_ptr(), security.len()) };
    json!({"serial": id, "description": until_nul(&text), "label": until_nul(&security)})
}

/// The attribute security.selinux of a file.
fn label(path: &str) -> Value {
    let Ok(path) = CString::new(path) else { return Value::Null };
    let mut text = [0_u8; 512];
    // SAFETY: the kernel writes at most the number of bytes it is told, and both strings end in NUL.
    let length = unsafe {
        libc::lgetxattr(path.as_ptr(), c"security.selinux".as_ptr(), text.as_mut_ptr().cast(), text.len() - 1)
    };
    if length < 0 { json!({"errno": format!("{:?}", Errno::last())}) } else { json!(until_nul(&text)) }
}

fn until_nul(text: &[u8]) -> String {
    String::from_utf8_lossy(text.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Every node below /dev: path to type, device number, mode, owner, link target.
fn devices(directory: &Path) -> Value {
    let mut nodes = Map::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path().to_string_lossy().into_owned();
            let node = stat(&path);
            if node.get("type") == Some(&json!("d")) && nodes.len() < 2000 {
                pending.push(entry.path());
            }
            nodes.insert(path, node);
        }
    }
    nodes.into()
}

fn stat(path: &str) -> Value {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => return json!({"errno": errno_name(&error)}),
    };
    let kind = found.file_type();
    let letter = match () {
        () if kind.is_dir() => "d",
        () if kind.is_symlink() => "l",
        () if kind.is_char_device() => "c",
        () if kind.is_block_device() => "b",
        () if kind.is_fifo() => "p",
        () if kind.is_socket() => "s",
        () => "f",
    };
    json!({
        "type": letter, "mode": found.mode() & 0o7777, "uid": found.uid(), "gid": found.gid(), "size": found.size(),
        "major": libc::major(found.rdev()), "minor": libc::minor(found.rdev()), "dev": found.dev(), "ino": found.ino(),
        "target": fs::read_link(path).ok().map(|target| target.to_string_lossy().into_owned()),
    })
}

fn list(path: &str) -> Value {
    match fs::read_dir(path) {
        Ok(entries) => {
            let mut names: Vec<_> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            json!({"names": names})
        }
        Err(error) => json!({"errno": errno_name(&error)}),
    }
}

/// At most 64 KiB of a file, opened so that a FIFO cannot block.
fn read(path: &str) -> Value {
    let mut bytes = Vec::new();
    let result = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| file.take(65536).read_to_end(&mut bytes));
    match result {
        Ok(_) => json!({"text": String::from_utf8_lossy(&bytes)}),
        Err(error) => json!({"errno": errno_name(&error)}),
    }
}

/// The directories of all other processes in /proc.
fn other_processes() -> impl Iterator<Item = std::path::PathBuf> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(move |entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok() && name != own))
        .map(|entry| entry.path())
}

/// For some seconds: stops other processes to gain time, opens their executables, keeps them open, and tries to open
/// them for writing through its own fds, which succeeds once nobody executes a writable file any more. Nothing is
/// written. Returns the device and inode of every file that could be opened so.
fn attack_executables(seconds: &str) -> Value {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds.parse().unwrap_or(1));
    let (mut held, mut tried) = (Vec::<((u64, u64), File)>::new(), 0_u64);
    let mut opened = std::collections::BTreeSet::new();
    while std::time::Instant::now() < end {
        for process in other_processes() {
            let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0);
            let signal = |number| {
                // SAFETY: no memory is involved; pid 0 would be this process's own group and is left alone.
                let _ = pid > 1 && unsafe { libc::kill(pid, number) } == 0;
            };
            signal(libc::SIGSTOP);
            let file = File::open(process.join("exe"));
            signal(libc::SIGCONT);
            let Ok(file) = file else { continue };
            let Ok(found) = file.metadata() else { continue };
            let key = (found.dev(), found.ino());
            if held.len() < 200 && held.iter().all(|(known, _)| *known != key) {
                held.push((key, file));
            }
        }
        for (key, file) in &held {
            use std::os::fd::AsRawFd as _;
            tried += 1;
            if OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok() {
                opened.insert(*key);
            }
        }
    }
    json!({"tried": tried, "held": held.len(), "opened": opened})
}

/// For some seconds: looks whether a path that exists on the host only can be reached by way of another process.
fn spy(argument: &str) -> Value {
    let (seconds, path) = argument.split_once(':').unwrap_or((argument, ""));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds.parse().unwrap_or(1));
    let mut reached = std::collections::BTreeSet::new();
    let mut looked = 0_u64;
    while std::time::Instant::now() < end {
        for process in other_processes() {
            looked += 1;
            let name = read_trimmed(&process.join("comm").to_string_lossy()).unwrap_or_default();
            let below = |link: &Path| fs::metadata(link.join(path.trim_start_matches('/'))).is_ok();
            let mut links = vec![process.join("root"), process.join("cwd")];
            links.extend(fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path()));
            for link in links.iter().filter(|link| below(link)) {
                reached.insert(format!("{name}: {}", link.display()));
            }
        }
    }
    json!({"looked": looked, "reached": reached})
}

/// Whether the path could be written, found out without writing: a file is only opened, in a directory an empty file
/// is made and removed.
fn write_attempt(path: &str) -> String {
    if Path::new(path).is_dir() {
        let file = Path::new(path).join(".probe-write");
        let result = outcome(File::create_new(&file));
        let _ = fs::remove_file(&file);
        return result;
    }
    outcome(OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path))
}

/// Makes PATH:TYPE:MAJOR:MINOR and removes it again.
fn mknod(argument: &str) -> String {
    let mut words = argument.split(':');
    let mut next = || words.next().unwrap_or_default();
    let (path, kind, major, minor) = (next(), next(), next().parse().unwrap_or(0), next().parse().unwrap_or(0));
    let Ok(name) = CString::new(path) else {
        return "NUL".to_owned();
    };
    let mode = 0o600 | if kind == "b" { libc::S_IFBLK } else { libc::S_IFCHR };
    // SAFETY: `name` is a string that ends in NUL.
    let status = unsafe { libc::mknod(name.as_ptr(), mode, libc::makedev(major, minor)) };
    let result = if status == 0 { "ok".to_owned() } else { format!("{:?}", Errno::last()) };
    let _ = fs::remove_file(path);
    result
}

/// Makes one system call in a child; a filter that kills shows as `signal N`.
fn in_a_child(argument: &str) -> String {
    let mut words = argument.split(',').map(|word| {
        let word = word.trim();
        let hex = word.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
        // System calls take 64-bit words, and a negative number is passed as its two's complement.
        hex.unwrap_or_else(|| word.parse::<i64>().map(i64::cast_unsigned)).unwrap_or(0).cast_signed()
    });
    let mut next = || words.next().unwrap_or(0) as c_long;
    let (number, a, b, c, d, e, f) = (next(), next(), next(), next(), next(), next(), next());
    let mut pipe = [-1; 2];
    // SAFETY: the probe has one thread, so the child may do anything; the caller of the probe chose a call that does
    // no harm with the arguments given. The pipe's array has two elements.
    unsafe {
        if libc::pipe(pipe.as_mut_ptr()) != 0 {
            return format!("pipe: {:?}", Errno::last());
        }
        let [reader, writer] = pipe;
        let child = libc::fork();
        if child < 0 {
            return format!("fork: {:?}", Errno::last());
        }
        if child == 0 {
            let result = libc::syscall(number, a, b, c, d, e, f);
            let text = if result == -1 { format!("{:?}", Errno::last()) } else { format!("ok:{result}") };
            libc::write(writer, text.as_ptr().cast(), text.len());
            libc::_exit(0);
        }
        libc::close(writer);
        let mut text = [0_u8; 64];
        let length = libc::read(reader, text.as_mut_ptr().cast(), text.len());
        libc::close(reader);
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        if libc::WIFSIGNALED(status) {
            return format!("signal {}", libc::WTERMSIG(status));
        }
        String::from_utf8_lossy(text.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default()).into_owned()
    }
}

fn read_trimmed(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn outcome<T>(result: io::Result<T>) -> String {
    result.map_or_else(|error| errno_name(&error), |_| "ok".to_owned())
}

fn errno_name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| format!("{:?}", Errno::from_raw(number)))
}
