//! SIGKILL at every point of a command: before and after each system call of each of its processes, one run a point.
//!
//! A runtime that is killed (by the OOM killer, by an impatient engine) must leave nothing that `delete --force` can't
//! find. `kill_at_every_point` runs a command again and again under ptrace, each time up to one stop further, kills
//! the one process that stopped there, leaves the others alone, and then looks:
//!
//! 1. one second later no process is alive but that of a container which `state` calls created or running;
//! 2. `delete --force` succeeds;
//! 3. no process, no cgroup, no file below `--root` and no mount is left;
//! 4. now and then: a container of the same id can be created again.
//!
//! For `exec` the container has to stay as it was instead. What a clean cycle of the same runtime leaves as well (runc
//! and crun keep the parent of a cgroup, crun a cache below its root) is no finding but a note.
//!
//! A point is a process (by order of appearance) and the number of its stop. Only that process is stopped at its
//! system calls; the others run freely, followed at fork alone, so counts repeat from run to run as far as the
//! runtime's own do. The calls of all threads of a process count together. A process has been enumerated when two
//! runs in a row end before the next point.
//!
//! The work is shared by two processes, each of which is the first one of a PID namespace with a mount namespace of its
//! own. So "no process is left" is what /proc lists, whoever its parent was, and nothing outlives the driver.

// fork, ptrace and waiting for any child have no safe form.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{ForkResult, Pid, fork};
use serde_json::{Value, json};

use crate::invoker::Invoker;

/// Processes that share the points; the machines have two cores.
pub const WORKERS: usize = 2;

/// What a killed command's other processes get to end by themselves (attacks.md, F3).
const GRACE: Duration = Duration::from_secs(1);

/// No command of a runtime takes longer.
const HANG: Duration = Duration::from_secs(10);

/// A command has ended and its processes are silent for so long: they wait for something that nobody does.
const QUIET: Duration = Duration::from_millis(60);

/// Not in libc for musl.
const PTRACE_GET_SYSCALL_INFO: c_int = 0x420e;

/// How often the id of a killed container is used again.
const REUSE_EVERY: usize = 50;

/// Which command is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// `create`.
    Create,
    /// `run` in the foreground, of a payload that ends at once.
    Run,
    /// `exec` into a container that stays.
    Exec,
    /// `start` of a created container.
    Start,
    /// `delete --force` of a created container.
    Delete,
}

/// What is tested, and on what.
pub struct Subject<'a> {
    /// The runtime's executable.
    pub runtime: &'a Path,
    /// A bundle; a copy of its configuration with absolute paths and other cgroups is what runs.
    pub bundle: &'a Path,
    /// An existing directory, under which every worker makes its own `--root`.
    pub root: &'a Path,
    /// The arguments of a payload that ends at once.
    pub ends: &'a [&'a str],
    /// The arguments of a payload that stays until it is killed.
    pub stays: &'a [&'a str],
    /// How many processes share the points: [`WORKERS`], or one where containers of the same id are in each other's way.
    pub workers: usize,
    /// Who calls the runtime.
    pub invoker: &'a Invoker,
}

/// What came out.
#[derive(Default)]
pub struct Report {
    /// How many points were hit: runs in which a process was killed.
    pub points: usize,
    /// The same for each process, by order of appearance.
    pub by_process: Vec<usize>,
    /// After how many of them nothing was left even before `delete --force`.
    pub clean_at_once: usize,
    /// One line for each point after which something was left.
    pub dirty: Vec<String>,
    /// What the runtime leaves without being killed.
    pub notes: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let processes: Vec<String> = self.by_process.iter().map(usize::to_string).collect();
        write!(to, "{} points ({} by process), ", self.points, processes.join("+"))?;
        write!(to, "{} clean at once, {} dirty after delete --force", self.clean_at_once, self.dirty.len())
    }
}

/// Kill a command at every `step`th point; 1 is every point.
///
/// # Errors
///
/// The driver could not work, or the runtime can't do the command at all.
pub fn kill_at_every_point(subject: &Subject, command: Command, step: usize) -> Result<Report, String> {
    let text = |error: &dyn fmt::Display| format!("kill points of {command:?}: {error}");
    let (from, to) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| text(&error))?;
    // Everything that may take a lock of the standard library is done before the forks: the caller has threads.
    let config = prepare_config(subject.bundle).map_err(|error| text(&error))?;
    let environment = std::env::vars_os().map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()]));
    let environment: Vec<CString> = environment.collect();
    let caller = std::process::id();
    let mut keepers = Vec::new();
    for number in 0..subject.workers {
        let home = subject.root.join(format!("worker-{number}"));
        fs::create_dir_all(&home).map_err(|error| text(&error))?;
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let worker = Worker {
            command,
            runtime: subject.runtime.to_owned(),
            config: config.clone(),
            environment: environment.clone(),
            ends: words(subject.ends),
            stays: words(subject.stays),
            step: std::cmp::max(step, 1),
            number,
            workers: subject.workers,
            cgroup_stem: format!("{}/corten-kill-{caller}-{number}", subject.invoker.cgroup_prefix())
                .trim_start_matches('/')
                .to_owned(),
            user: subject.invoker.user,
            home,
            report: to.try_clone().map_err(|error| text(&error))?,
            baseline: Baseline::default(),
            runs: 0,
            points: 0,
            kept: None,
        };
        // SAFETY: the child goes on in `keep`, which never returns and takes no lock that another thread may hold.
        match unsafe { fork() }.map_err(|error| text(&error))? {
            ForkResult::Child => worker.keep(),
            ForkResult::Parent { child } => keepers.push(child),
        }
    }
    drop(to);
    let report = collect(from, keepers.len());
    for keeper in keepers {
        // A reaper of the caller may have been faster.
        let _ = nix::sys::wait::waitpid(keeper, None);
    }
    for number in 0..subject.workers {
        let _ = fs::remove_dir(subject.root.join(format!("worker-{number}")));
    }
    report.map_err(|error| text(&error))
}

/// Read what the workers report until each has ended.
fn collect(from: OwnedFd, mut workers: usize) -> Result<Report, String> {
    let mut report = Report::default();
    let mut failure = None;
    for line in BufReader::new(File::from(from)).lines() {
        let line = line.map_err(|error| error.to_string())?;
        let (kind, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match kind {
            "hit" => {
                let process: usize = rest.parse().map_err(|_| format!("a worker said {line:?}"))?;
                if report.by_process.len() <= process {
                    report.by_process.resize(process + 1, 0);
                }
                if let Some(count) = report.by_process.get_mut(process) {
                    *count += 1;
                }
                report.points += 1;
            }
            "clean" => report.clean_at_once += 1,
            "dirty" => report.dirty.push(rest.to_owned()),
            "note" if report.notes.iter().all(|note| note != rest) => report.notes.push(rest.to_owned()),
            "error" => failure = Some(rest.to_owned()),
            "end" => workers -= 1,
            _ => {}
        }
        // Not the end of the pipe: an unrelated child of the caller may have inherited it.
        if workers == 0 {
            break;
        }
    }
    failure.map_or(Ok(report), Err)
}

/// The bundle's configuration, independent of the directory it lies in.
fn prepare_config(bundle: &Path) -> Result<Value, String> {
    let bundle = fs::canonicalize(bundle).map_err(|error| format!("{}: {error}", bundle.display()))?;
    let text = fs::read_to_string(bundle.join("config.json")).map_err(|error| error.to_string())?;
    let mut config: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let absolute = |value: &Value| json!(bundle.join(value.as_str().unwrap_or_default()));
    config["root"]["path"] = absolute(&config["root"]["path"]);
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["type"] == "bind" {
            mount["source"] = absolute(&mount["source"]);
        }
    }
    Ok(config)
}

/// A C string of these parts; a NUL inside, which no path or variable has, would cut it to nothing.
fn c_string(parts: &[&[u8]]) -> CString {
    CString::new(parts.concat()).unwrap_or_default()
}

/// What is there without any container, and what the runtime leaves after a clean cycle.
#[derive(Default)]
struct Baseline {
    mounts: String,
    root: Vec<String>,
    parent_stays: bool,
}

/// The container that `exec` enters.
struct Kept {
    init: i32,
}

/// One of the processes that share the points.
struct Worker {
    command: Command,
    runtime: PathBuf,
    config: Value,
    environment: Vec<CString>,
    ends: Vec<String>,
    stays: Vec<String>,
    step: usize,
    number: usize,
    workers: usize,
    cgroup_stem: String,
    /// An ordinary user who calls the runtime.
    user: Option<u32>,
    home: PathBuf,
    report: OwnedFd,
    baseline: Baseline,
    /// Runs so far; every one has cgroups of its own.
    runs: usize,
    /// Points hit so far.
    points: usize,
    kept: Option<Kept>,
}

/// The id of every container here; the roots differ.
const ID: &str = "killed";

/// How a traced run ended.
enum Traced {
    /// The target was killed at the point; the text says where it was.
    Hit(String),
    /// The command ended before; whether the target ever appeared.
    Missed(bool),
}

impl Worker {
    /// In the first child: make the namespaces, start the worker proper as their first process, and tell its end.
    fn keep(self) -> ! {
        let report = self.report.try_clone();
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        let result = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
            // SAFETY: this process has one thread; the child goes on in `work`, which never returns.
            .and_then(|()| unsafe { fork() });
        match result {
            Ok(ForkResult::Child) => self.work(),
            Ok(ForkResult::Parent { child }) => {
                let ended = nix::sys::wait::waitpid(child, None);
                if !matches!(ended, Ok(nix::sys::wait::WaitStatus::Exited(_, 0))) {
                    self.say("error", &format!("a worker died: {ended:?}"));
                }
            }
            Err(error) => self.say("error", &format!("namespaces: {error}")),
        }
        if let Ok(report) = report {
            let _ = File::from(report).write_all(b"end\n");
        }
        exit(0)
    }

    /// The worker proper: all its points, then the end of the namespace and of everything in it.
    fn work(mut self) -> ! {
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        if let Err(error) = self.prepare().and_then(|()| self.enumerate()) {
            self.say("error", &error);
        }
        self.sweep();
        exit(0)
    }

    /// Send one line; shorter than PIPE_BUF, so that those of the two workers do not mix.
    fn say(&self, kind: &str, text: &str) {
        let mut line = format!("{kind} {}", text.replace('\n', " | "));
        while line.len() > 2000 {
            line.pop();
        }
        line.push('\n');
        let _ = nix::unistd::write(&self.report, line.as_bytes());
    }

    fn state_root(&self) -> PathBuf {
        self.home.join("root")
    }

    /// Mounts of our own, the clean cycle that says what is normal, and the container for `exec`.
    fn prepare(&mut self) -> Result<(), String> {
        let text = |error: Errno| format!("private mounts: {error}");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(text)?;
        // Shared with nobody yet, as systemd has it: a runtime that forgets to cut the propagation shows itself.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).map_err(text)?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).map_err(text)?;
        mount(Some("none"), &self.home, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).map_err(text)?;
        // Tells of children and of stops; blocked, for it is taken by sigtimedwait.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGCHLD);
        blocked.thread_block().map_err(text)?;
        fs::create_dir(self.home.join("bundle")).map_err(|error| error.to_string())?;
        fs::create_dir(self.state_root()).map_err(|error| error.to_string())?;
        self.baseline.mounts = read("/proc/self/mountinfo");

        self.write_config(&self.ends.clone())?;
        self.must("create")?;
        self.must("delete")?;
        self.baseline.root = entries(&self.state_root());
        if !self.baseline.root.is_empty() {
            self.say("note", &format!("a clean delete leaves {} below --root", self.baseline.root.join(" ")));
        }
        self.baseline.parent_stays = !self.cgroups(false).is_empty();
        if self.baseline.parent_stays {
            self.say("note", "a clean delete leaves the parent of the cgroup that create made");
        }
        self.remove_cgroups();
        Ok(())
    }

    /// Every process, and every point of it that is this worker's.
    fn enumerate(&mut self) -> Result<(), String> {
        for process in 0.. {
            let mut seen = false;
            let (mut turn, mut misses) = (self.number, 0);
            while misses < 2 {
                let hit = self.one_point(process, turn * self.step)?;
                match hit {
                    Traced::Hit(_) => misses = 0,
                    Traced::Missed(appeared) => {
                        misses += 1;
                        seen |= appeared;
                    }
                }
                turn += self.workers;
            }
            if !seen {
                break;
            }
        }
        Ok(())
    }

    /// A run of its own for one point: prepare, trace and kill, look.
    fn one_point(&mut self, process: usize, point: usize) -> Result<Traced, String> {
        match self.command {
            Command::Exec => self.keep_container()?,
            Command::Start | Command::Delete => {
                self.write_config(&self.ends.clone())?;
                self.must("create")?;
            }
            Command::Create | Command::Run => self.write_config(&self.ends.clone())?,
        }
        let words = self.words(match self.command {
            Command::Create => "create",
            Command::Run => "run",
            Command::Exec => "exec",
            Command::Start => "start",
            Command::Delete => "delete",
        });
        let child = self.spawn(&words, "traced", true)?;
        let mut trace = Trace::new(child, process, point);
        let traced = trace.follow();
        let place = match &traced {
            Ok(Traced::Hit(place)) => {
                self.points += 1;
                self.say("hit", &process.to_string());
                format!("{:?}, process {process}, stop {point} ({place})", self.command)
            }
            Ok(Traced::Missed(_)) => format!("{:?}, not killed", self.command),
            Err(text) => format!("{:?}, process {process}, stop {point}: {text}", self.command),
        };
        let mut faults = traced.as_ref().err().cloned().into_iter().collect();
        self.look(&mut faults, matches!(traced, Ok(Traced::Hit(_))))?;
        if !faults.is_empty() {
            self.say("dirty", &format!("{place}: {}", faults.join("; ")));
            self.sweep();
        }
        // A hang was reported; it ends the enumeration of this process like a miss.
        Ok(traced.unwrap_or(Traced::Missed(true)))
    }

    /// The questions after a kill; everything that is wrong goes into `faults`.
    fn look(&mut self, faults: &mut Vec<String>, killed: bool) -> Result<(), String> {
        self.settle(faults);
        if self.command == Command::Exec {
            if self.status().0 != "running" {
                faults.push(format!("the container is {:?} after a killed exec", self.status().0));
            }
            if killed && self.points.is_multiple_of(REUSE_EVERY) {
                self.succeeds("exec", faults);
            }
            return Ok(());
        }
        if killed && self.nothing_left().is_empty() {
            self.say("clean", "");
        }
        self.succeeds("delete", faults);
        let start = Instant::now();
        let mut left = self.nothing_left();
        // A killed process takes a moment to go, and its cgroup with it; files do not go by themselves.
        while !left.is_empty() && start.elapsed() < if processes().is_empty() { GRACE / 10 } else { GRACE } {
            sleep(Duration::from_millis(2));
            left = self.nothing_left();
        }
        faults.append(&mut left);
        if killed && faults.is_empty() && self.points.is_multiple_of(REUSE_EVERY) {
            self.succeeds("create", faults);
            self.succeeds("delete", faults);
        }
        if faults.is_empty() {
            // Only a parent that this runtime always leaves; after a finding `sweep` does it.
            self.remove_cgroups();
        }
        Ok(())
    }

    /// Wait until the other processes of a killed command have ended, or belong to a container that is created.
    fn settle(&self, faults: &mut Vec<String>) {
        let start = Instant::now();
        let mut pause = 1;
        loop {
            reap();
            let mut alive = processes();
            let may_live = match self.command {
                Command::Exec => self.kept.as_ref().map(|kept| kept.init),
                _ if alive.is_empty() => None,
                // Asking costs a process; most are gone after a moment.
                _ if start.elapsed() < Duration::from_millis(3) => None,
                _ => {
                    Some(self.status()).filter(|(status, _)| status == "created" || status == "running").map(|it| it.1)
                }
            };
            alive.retain(|(pid, _)| Some(*pid) != may_live);
            if alive.is_empty() {
                return;
            }
            if start.elapsed() > GRACE {
                let (status, _) = self.status();
                // What it is doing, as the kernel tells: a number of a call, or that it stands still.
                let doing = |pid: i32| {
                    let stat = read(format!("/proc/{pid}/stat"));
                    let letter = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
                    format!("{letter} in {}", read(format!("/proc/{pid}/syscall")).trim())
                };
                let name = |(pid, name): (i32, String)| format!("{pid} ({name}, {})", doing(pid));
                let names: Vec<String> = alive.into_iter().map(name).collect();
                faults.push(format!("alive after {GRACE:?}: {} (state: {status:?})", names.join(" ")));
                return;
            }
            sleep(Duration::from_millis(pause));
            pause = std::cmp::min(pause * 2, 50);
        }
    }

    /// What is left of the container: one text for each kind of thing.
    fn nothing_left(&self) -> Vec<String> {
        reap();
        let mut left = Vec::new();
        let alive: Vec<String> = processes().into_iter().map(|(pid, name)| format!("{pid} ({name})")).collect();
        if !alive.is_empty() {
            left.push(format!("processes left: {}", alive.join(" ")));
        }
        let cgroups = self.cgroups(self.baseline.parent_stays);
        if !cgroups.is_empty() {
            let paths: Vec<String> = cgroups.iter().map(|path| path.display().to_string()).collect();
            left.push(format!("{} cgroups left: {} ...", paths.len(), paths.first().map_or("", String::as_str)));
        }
        let files: Vec<String> =
            entries(&self.state_root()).into_iter().filter(|name| !self.baseline.root.contains(name)).collect();
        if !files.is_empty() {
            left.push(format!("left below --root: {}", files.join(" ")));
        }
        let mounts = read("/proc/self/mountinfo");
        if mounts != self.baseline.mounts {
            let new = mounts.lines().filter(|line| !self.baseline.mounts.lines().any(|old| old == *line));
            left.push(format!("mounts changed: {}", new.collect::<Vec<_>>().join(", ")));
        }
        left
    }

    /// This run's cgroups that exist, in every hierarchy; optionally without the parent.
    fn cgroups(&self, leaves_only: bool) -> Vec<PathBuf> {
        let parent = self.cgroup_parent();
        let paths = hierarchies(&self.baseline.mounts).into_iter().flat_map(|mount| {
            let parent = mount.join(&parent);
            [parent.join("c"), parent].into_iter().take(if leaves_only { 1 } else { 2 })
        });
        paths.filter(|path| path.exists()).collect()
    }

    fn cgroup_parent(&self) -> String {
        format!("{}-{}", self.cgroup_stem, self.runs)
    }

    /// Remove this run's cgroups; whatever was in them has been killed or has gone.
    fn remove_cgroups(&self) {
        for path in self.cgroups(false) {
            let deadline = Instant::now() + GRACE;
            while remove_cgroup(&path) == Err(libc::EBUSY) && Instant::now() < deadline {
                reap();
                sleep(Duration::from_millis(2));
            }
        }
    }

    /// Make everything as it was, by force: after a finding, so that the next point starts clean.
    fn sweep(&mut self) {
        for path in self.cgroups(true) {
            // A frozen process of v1 does not die.
            let _ = fs::write(path.join("freezer.state"), "THAWED");
            let _ = fs::write(path.join("cgroup.freeze"), "0");
        }
        let deadline = Instant::now() + GRACE;
        while !processes().is_empty() && Instant::now() < deadline {
            // Everything in this PID namespace but this process, which is its first.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            reap();
            sleep(Duration::from_millis(1));
        }
        self.kept = None;
        self.remove_cgroups();
        let mounts = read("/proc/self/mountinfo");
        for line in mounts.lines().rev().filter(|line| !self.baseline.mounts.lines().any(|old| old == *line)) {
            if let Some(path) = line.split(' ').nth(4) {
                let _ = umount2(path, MntFlags::MNT_DETACH);
            }
        }
        let _ = fs::remove_dir_all(self.state_root());
        let _ = fs::create_dir(self.state_root());
    }

    /// A running container for `exec`, made when there is none.
    fn keep_container(&mut self) -> Result<(), String> {
        if self.kept.is_none() {
            self.write_config(&self.stays.clone())?;
            self.must("create")?;
            self.must("start")?;
            let (status, init) = self.status();
            if status != "running" {
                return Err(format!("the container for exec is {status:?}"));
            }
            self.kept = Some(Kept { init });
        }
        Ok(())
    }

    /// A bundle with a payload, and cgroups that no other run has.
    fn write_config(&mut self, payload: &[String]) -> Result<(), String> {
        self.runs += 1;
        self.config["process"]["args"] = json!(payload);
        self.config["linux"]["cgroupsPath"] = json!(format!("/{}/c", self.cgroup_parent()));
        let text = serde_json::to_vec(&self.config).map_err(|error| error.to_string())?;
        fs::write(self.home.join("bundle/config.json"), text).map_err(|error| error.to_string())
    }

    /// The command line of one of the runtime's commands.
    fn words(&self, command: &str) -> Vec<CString> {
        let root = self.state_root();
        let bundle = self.home.join("bundle");
        let bytes = |path: &'_ Path| c_string(&[path.as_os_str().as_bytes()]);
        let word = |word: &str| c_string(&[word.as_bytes()]);
        let mut words = vec![bytes(&self.runtime), word("--root"), bytes(&root), word(command)];
        match command {
            "create" | "run" => words.extend([word("--bundle"), bytes(&bundle)]),
            "delete" => words.push(word("--force")),
            _ => {}
        }
        words.push(word(ID));
        if command == "exec" {
            words.extend(self.ends.iter().map(|argument| word(argument)));
        }
        words
    }

    /// Start a program; traced ones wait until the tracer has seized them. Its stderr goes to a file of this name.
    fn spawn(&self, words: &[CString], name: &str, traced: bool) -> Result<Pid, String> {
        let text = |error: &dyn fmt::Display| format!("spawn: {error}");
        let output = |suffix: &str| File::create(self.home.join(format!("{name}.{suffix}")));
        let stdout = output("stdout").map_err(|error| text(&error))?;
        let stderr = output("stderr").map_err(|error| text(&error))?;
        let stdin = File::open("/dev/null").map_err(|error| text(&error))?;
        let (gate, key) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| text(&error))?;
        // SAFETY: this process has one thread; the child makes a few calls and executes.
        match unsafe { fork() }.map_err(|error| text(&error))? {
            ForkResult::Child => {
                drop(key);
                let _ = nix::unistd::read(&gate, &mut [0]);
                let _ = nix::unistd::setsid();
                let _ = SigSet::empty().thread_set_mask();
                for (file, number) in [(&stdin, 0), (&stdout, 1), (&stderr, 2)] {
                    // SAFETY: dup2 onto the standard streams, which nothing in this child uses as Rust objects.
                    unsafe { libc::dup2(file.as_fd().as_raw_fd(), number) };
                }
                if let Some(user) = self.user
                    && become_user(user).is_err()
                {
                    exit(126)
                }
                if let Some(program) = words.first() {
                    let _ = nix::unistd::execve(program, words, &self.environment);
                }
                exit(127)
            }
            ForkResult::Parent { child } => {
                if traced {
                    let options = libc::PTRACE_O_TRACESYSGOOD
                        | libc::PTRACE_O_TRACEFORK
                        | libc::PTRACE_O_TRACEVFORK
                        | libc::PTRACE_O_TRACECLONE
                        | libc::PTRACE_O_TRACEEXEC;
                    ptrace(libc::PTRACE_SEIZE, child.as_raw(), 0, options as usize)
                        .map_err(|error| format!("PTRACE_SEIZE: {error}"))?;
                }
                drop(key);
                Ok(child)
            }
        }
    }

    /// Run a command to its end: its status (128 + signal), or that it hangs.
    fn complete(&self, command: &str) -> Result<i32, String> {
        let child = self.spawn(&self.words(command), command, false)?;
        let deadline = Instant::now() + HANG;
        while Instant::now() < deadline {
            match wait(child.as_raw()) {
                Some((_, status)) if libc::WIFEXITED(status) => return Ok(libc::WEXITSTATUS(status)),
                Some((_, status)) => return Ok(128 + libc::WTERMSIG(status)),
                None => wait_for_sigchld(Duration::from_millis(20)),
            }
        }
        let _ = kill(child, Signal::SIGKILL);
        Err(format!("{command} hangs"))
    }

    /// A command that has to succeed for the driver to work at all.
    fn must(&self, command: &str) -> Result<(), String> {
        match self.complete(command)? {
            0 => Ok(()),
            status => Err(format!("{command} fails with {status} unkilled: {}", self.message(command))),
        }
    }

    /// A command that has to succeed after a kill.
    fn succeeds(&self, command: &str, faults: &mut Vec<String>) {
        match self.complete(command) {
            Ok(0) => {}
            Ok(status) => faults.push(format!("{command} then fails with {status}: {}", self.message(command))),
            Err(text) => faults.push(text),
        }
    }

    fn message(&self, command: &str) -> String {
        read(self.home.join(format!("{command}.stderr"))).trim().to_owned()
    }

    /// What `state` says: the status, empty if there is no such container, and the pid of init.
    fn status(&self) -> (String, i32) {
        match self.complete("state") {
            Ok(0) => {}
            Ok(_) => return (String::new(), 0),
            Err(text) => return (text, 0),
        }
        let state: Value = serde_json::from_str(&read(self.home.join("state.stdout"))).unwrap_or_default();
        let pid = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        (state["status"].as_str().unwrap_or_default().to_owned(), pid.unwrap_or_default())
    }
}

/// One traced run.
struct Trace {
    main: i32,
    target: usize,
    point: usize,
    /// The process (by order of appearance) of every traced thread.
    tasks: HashMap<i32, usize>,
    /// The pid of each process.
    processes: Vec<i32>,
    /// Stops of the target so far.
    count: usize,
    /// The main process has executed the runtime.
    executed: bool,
    main_ended: bool,
    /// The number of the call that the target entered last; looked up only near the point.
    call: Option<u64>,
    /// At its entry, not at its exit.
    entering: bool,
}

impl Trace {
    fn new(main: Pid, target: usize, point: usize) -> Self {
        let main = main.as_raw();
        Trace {
            main,
            target,
            point,
            tasks: HashMap::from([(main, 0)]),
            processes: vec![main],
            count: 0,
            executed: false,
            main_ended: false,
            call: None,
            entering: false,
        }
    }

    /// Run to the point, kill the target there and let the others go.
    fn follow(&mut self) -> Result<Traced, String> {
        let mut last = Instant::now();
        loop {
            let Some((pid, status)) = wait(-1) else {
                if self.over(last.elapsed()) {
                    self.release();
                    return Ok(Traced::Missed(self.processes.len() > self.target));
                }
                if last.elapsed() > HANG {
                    self.release();
                    return Err(format!("nothing happens for {HANG:?}"));
                }
                wait_for_sigchld(Duration::from_millis(10));
                continue;
            };
            last = Instant::now();
            if libc::WIFSTOPPED(status) {
                if self.stopped(pid, status) {
                    let place = self.place(pid);
                    if let Some(target) = self.processes.get(self.target) {
                        let _ = kill(Pid::from_raw(*target), Signal::SIGKILL);
                    }
                    self.release();
                    return Ok(Traced::Hit(place));
                }
            } else {
                self.tasks.remove(&pid);
                self.main_ended |= pid == self.main;
            }
        }
    }

    /// Whether the point can't come any more: the command has ended, and so has the target or everything is silent.
    fn over(&self, silent: Duration) -> bool {
        let target_lives = self.tasks.values().any(|process| *process == self.target);
        let target_gone = !target_lives && self.processes.len() > self.target;
        self.main_ended && (target_gone || self.tasks.is_empty() || silent > QUIET)
    }

    /// One stop of one thread; true if it is the point. Otherwise the thread goes on.
    fn stopped(&mut self, pid: i32, status: c_int) -> bool {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        let process = self.register(pid);
        let mut deliver = 0;
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                if let Some(child) = event_message(pid) {
                    self.register(child);
                }
            }
            libc::PTRACE_EVENT_EXEC => {
                // A thread that executes takes over the pid of its process.
                if let Some(former) = event_message(pid).filter(|former| *former != pid) {
                    self.tasks.remove(&former);
                }
                self.executed = true;
            }
            libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => {
                // Stopped by job control: it stays so, but can be woken.
                let _ = ptrace(libc::PTRACE_LISTEN, pid, 0, 0);
                return false;
            }
            libc::PTRACE_EVENT_STOP => {}
            _ if signal == libc::SIGTRAP | 0x80 => {
                if process == self.target {
                    if self.count + 1 >= self.point {
                        self.note_call(pid);
                    }
                    if self.count == self.point {
                        return true;
                    }
                    self.count += 1;
                }
            }
            _ => deliver = signal,
        }
        let traced = process == self.target && self.executed;
        let request = if traced { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
        let _ = ptrace(request, pid, 0, deliver as usize);
        false
    }

    /// The process of a thread; one that is new gets the next number. Fork events and first stops come in any order.
    fn register(&mut self, task: i32) -> usize {
        if let Some(process) = self.tasks.get(&task) {
            return *process;
        }
        let leader = read(format!("/proc/{task}/status"))
            .lines()
            .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
            .unwrap_or(task);
        let known = self.processes.iter().position(|pid| *pid == leader);
        let process = known.unwrap_or_else(|| {
            self.processes.push(leader);
            self.processes.len() - 1
        });
        self.tasks.insert(task, process);
        process
    }

    /// Remember which call the thread is in, and on which side of it.
    fn note_call(&mut self, pid: i32) {
        // struct ptrace_syscall_info: the kind (1 is an entry) in the first byte, the number of the call in byte 24.
        let mut info = [0u64; 16];
        let size = size_of_val(&info);
        let read = ptrace(PTRACE_GET_SYSCALL_INFO, pid, size, info.as_mut_ptr() as usize);
        let [kind, _, _, number, ..] = info;
        self.entering = read.is_ok() && kind & 0xff == 1;
        if self.entering {
            // At an exit the number is that of the entry before.
            self.call = Some(number);
        }
    }

    /// Where the target is, in words.
    fn place(&self, pid: i32) -> String {
        let side = if self.entering { "before" } else { "after" };
        let call = self.call.map_or("its execve".to_owned(), |number| format!("call {number}"));
        format!("{} {side} {call}", read(format!("/proc/{pid}/comm")).trim())
    }

    /// Detach from everything that is not about to die, and wait for what is. A running thread has to be interrupted for
    /// that, which no program notices but by an EINTR. The kernel is asked who is traced: a parent that is killed within its
    /// clone tells of no child, and the child is attached nevertheless.
    fn release(&mut self) {
        let deadline = Instant::now() + GRACE;
        loop {
            let traced = traced();
            if traced.is_empty() || Instant::now() > deadline {
                break;
            }
            for task in traced {
                let _ = ptrace(libc::PTRACE_INTERRUPT, task, 0, 0);
            }
            wait_for_sigchld(Duration::from_millis(10));
            while let Some((pid, status)) = wait(-1) {
                if libc::WIFSTOPPED(status) {
                    let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
                    let deliver = if event == 0 && signal != libc::SIGTRAP | 0x80 { signal } else { 0 };
                    let _ = ptrace(libc::PTRACE_DETACH, pid, 0, deliver as usize);
                }
            }
        }
        self.tasks.clear();
    }
}

/// ptrace(2), for the requests that return nothing but success.
fn ptrace(request: impl TryInto<c_int>, pid: i32, address: usize, data: usize) -> Result<(), Errno> {
    // The C libraries disagree on the type of the requests.
    let request = request.try_into().unwrap_or_default();
    // SAFETY: the caller's address and data are what the request takes: sizes, flags, or pointers to live locals.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request, pid, address, data) };
    Errno::result(result).map(drop)
}

/// In a child: from now on it is an ordinary user's.
fn become_user(user: u32) -> nix::Result<()> {
    nix::unistd::setgroups(&[])?;
    nix::unistd::setgid(user.into())?;
    nix::unistd::setuid(user.into())
}

/// The pid that a fork, clone or exec event is about.
fn event_message(pid: i32) -> Option<i32> {
    let mut message = 0usize;
    ptrace(libc::PTRACE_GETEVENTMSG, pid, 0, &raw mut message as usize).ok()?;
    message.try_into().ok()
}

/// The next child (or this one) that has stopped or ended, with its status; none if there is nothing to tell now.
fn wait(pid: i32) -> Option<(i32, c_int)> {
    let mut status = 0;
    // SAFETY: the pointer is to a live local.
    let result = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::WNOHANG) };
    (result > 0).then_some((result, status))
}

/// Sleep until a child has something to tell, at most so long. SIGCHLD is blocked, so none is missed.
fn wait_for_sigchld(most: Duration) {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    // The types of the fields differ between C libraries.
    let timeout = libc::timespec { tv_sec: most.as_secs() as _, tv_nsec: most.subsec_nanos() as _ };
    // SAFETY: both pointers are to live values; no information about the signal is asked for.
    unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &raw const timeout) };
}

/// Collect everything that has ended.
fn reap() {
    while wait(-1).is_some() {}
}

/// The processes of this PID namespace but ourselves, the first: pid and name. Zombies do not count; nobody but a
/// living parent keeps them.
fn processes() -> Vec<(i32, String)> {
    let pids = entries(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    let alive = pids.filter(|pid| *pid != 1).filter_map(|pid: i32| {
        let stat = read(format!("/proc/{pid}/stat"));
        let (start, rest) = stat.rsplit_once(") ")?;
        let name = start.split_once('(')?.1.to_owned();
        (!rest.starts_with(['Z', 'X'])).then_some((pid, name))
    });
    alive.collect()
}

/// The threads of this PID namespace that are traced by us, the first process.
fn traced() -> Vec<i32> {
    let processes = entries(Path::new("/proc")).into_iter().filter(|name| name.parse::<i32>().is_ok());
    let threads = processes.flat_map(|pid| entries(Path::new(&format!("/proc/{pid}/task"))));
    let is_traced = |task: &i32| read(format!("/proc/{task}/status")).lines().any(|line| line == "TracerPid:\t1");
    threads.filter_map(|task| task.parse().ok()).filter(is_traced).collect()
}

/// The mount points of all control group hierarchies.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    });
    mounts.collect()
}

/// Remove a cgroup and those below it; the errno if that is not possible.
fn remove_cgroup(path: &Path) -> Result<(), i32> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path).map_err(|error| error.raw_os_error().unwrap_or_default())
}

/// The names in a directory.
fn entries(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A file's text, empty if it can't be read: files of /proc go with their process.
fn read(path: impl AsRef<Path>) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// End a forked process without the caller's exit handlers.
fn exit(status: c_int) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}
