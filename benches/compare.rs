//! corten beside crun, runc and the floor program, interleaved in one run: wall time, CPU time, system calls, memory.
//!
//! ```text
//! cargo bench                    forty rounds
//! cargo bench -- --quick         ten; `--rounds N` for another number
//! CORTEN=... CRUN=... RUNC=...   another binary than this build's, `.peers/bin` (made by `peers/get`) and Debian's
//! ```
//!
//! Absolute times say nothing on machines with noisy neighbours, so every round runs every command on every runtime,
//! and what counts are the ratios of minima and medians. All runtimes get the same bundle (docker-like.json) with a
//! static payload that ends at once (the floor program itself), on a tmpfs, in a mount namespace of their own. There
//! are two views of control groups, each measured by a child process of this program: "v1", the host's hierarchies
//! (without cgroup2 beside them, which crun refuses), and "v2", cgroup2 alone. Controllers that a view does not have
//! are left out of the bundle. A runtime that is absent or can't run the bundle is named and left out.

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
// The measuring itself needs wait4's resource usage, which no safe wrapper returns.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

const CONFIG: &str = include_str!("../integration/bundles/docker-like.json");

/// The parents of all cgroups made here. The floor's own is prepared for it (floor.rs says how).
const PARENT: &str = "corten-bench";
const FLOOR_PARENT: &str = "corten-bench-floor";

const PAGE: usize = 4096;

/// Set in the child that measures one view; the value is "v1" or "v2".
const VIEW_VARIABLE: &str = "CORTEN_BENCH_VIEW";

fn main() -> ExitCode {
    let result = match std::env::var(VIEW_VARIABLE) {
        Ok(view) => Bench::prepare(view == "v2").and_then(|bench| bench.measure()),
        Err(_) => measure_both_views(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many rounds the command line asks for.
fn rounds() -> Result<usize, Error> {
    let mut rounds = 40;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => rounds = 10,
            "--rounds" => rounds = arguments.next().ok_or("--rounds needs a number")?.parse()?,
            // cargo adds this one.
            "--bench" => {}
            other => return Err(format!("unknown argument {other:?}; there are --quick and --rounds N").into()),
        }
    }
    Ok(std::cmp::max(rounds, 1))
}

/// Start one child for each view and wait; a mount namespace cannot be taken back, a process can.
fn measure_both_views() -> Result<(), Error> {
    rounds()?;
    let floor = build_floor()?;
    let work = std::env::temp_dir().join(format!("corten-bench-{}", std::process::id()));
    fs::create_dir(&work)?;
    let mut failed = false;
    for view in ["v1", "v2"] {
        let mut child = Command::new(std::env::current_exe()?);
        child.args(std::env::args_os().skip(1));
        child.env(VIEW_VARIABLE, view).env("FLOOR", &floor).env("CORTEN_BENCH_WORK", &work);
        failed |= !child.status()?.success();
    }
    fs::remove_dir(&work)?;
    if failed { Err("a view could not be measured".into()) } else { Ok(()) }
}

/// The floor program: cargo builds no examples for a bench, so it is asked to.
fn build_floor() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("FLOOR") {
        return Ok(path.into());
    }
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--example", "floor"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    // target/TRIPLE/release/deps/compare-HASH -> target/TRIPLE/release/examples/floor
    let this = std::env::current_exe()?;
    let release = this.ancestors().nth(2).ok_or("no target directory")?;
    let floor = release.join("examples/floor");
    if !status.success() || !floor.exists() {
        return Err(format!("the floor program is not at {}", floor.display()).into());
    }
    Ok(floor)
}

/// One of the programs that are compared.
struct Runtime {
    name: &'static str,
    path: PathBuf,
    /// Its bundles, its state and its rootfs.
    directory: PathBuf,
    /// The floor program has a command line of its own.
    is_floor: bool,
}

/// What a command cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: f64,
    cpu: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// What is measured, as in the tables.
#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Run,
    CreateStartDelete,
    Exec,
    State,
}

const OPERATIONS: [(Operation, &str); 4] = [
    (Operation::Run, "run"),
    (Operation::CreateStartDelete, "create+start+delete"),
    (Operation::Exec, "exec"),
    (Operation::State, "state"),
];

/// The id of the container that `exec` enters, and of the one that comes and goes.
const KEPT: &str = "kept";
const ONCE: &str = "once";

impl Runtime {
    /// The command line of a runtime's command on a container.
    fn command(&self, view: &str, command: &str, id: &str) -> Vec<String> {
        let mut words = vec![self.path.display().to_string()];
        let mut add = |list: &[&str]| words.extend(list.iter().map(|word| (*word).to_owned()));
        if self.is_floor {
            add(&[command, view, id]);
            if command == "create" && id == KEPT {
                add(&["pause"]);
            }
            return words;
        }
        let path = |name: &str| self.directory.join(name).display().to_string();
        add(&["--root", &path("root"), command]);
        match command {
            "run" => add(&["--bundle", &path(id), id]),
            "create" => add(&["--bundle", &path(id), "--pid-file", &path(&format!("{id}.pid")), id]),
            "exec" => add(&[id, "/floor", "true"]),
            _ => add(&[id]),
        }
        words
    }

    /// The pid of a created container's init.
    fn init(&self, id: &str) -> Result<i32, Error> {
        let file = if self.is_floor { format!("state/{id}/pid") } else { format!("{id}.pid") };
        Ok(fs::read_to_string(self.directory.join(file))?.trim().parse()?)
    }
}

/// One view's set-up.
struct Bench {
    view: &'static str,
    rounds: usize,
    work: PathBuf,
    controllers: Vec<String>,
    runtimes: Vec<Runtime>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for hierarchy in hierarchies() {
            for parent in [PARENT, FLOOR_PARENT] {
                remove_cgroup(&hierarchy.join(parent));
            }
        }
        // The files are on a tmpfs that ends with the namespace; the directory belongs to our parent.
        let _ = std::env::set_current_dir("/");
        let _ = umount2(&self.work, MntFlags::MNT_DETACH);
    }
}

impl Bench {
    /// Enter a mount namespace with this view, make the bundles and try every runtime once.
    fn prepare(v2: bool) -> Result<Bench, Error> {
        let view = if v2 { "v2" } else { "v1" };
        let work = PathBuf::from(std::env::var_os("CORTEN_BENCH_WORK").ok_or("no work directory")?);
        let rounds = rounds()?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        if v2 {
            umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH)?;
            mount(Some("none"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none)?;
        } else if Path::new("/sys/fs/cgroup/unified").exists() {
            umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH)?;
        }
        mount(Some("none"), &work, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        // A created container's init outlives its parent; as its reaper we learn when it has ended.
        nix::sys::prctl::set_child_subreaper(true)?;

        let controllers = controllers(v2);
        let mut bench = Bench { view, rounds, work, controllers, runtimes: Vec::new() };
        if !v2 && !bench.controllers.iter().any(|name| name == "memory") {
            println!("\nview v1: this host has no v1 hierarchies");
            return Ok(bench);
        }
        bench.prepare_cgroups()?;
        bench.add_runtimes()?;
        Ok(bench)
    }

    /// The floor decides nothing, so its cgroups' parent is made ready beforehand.
    fn prepare_cgroups(&self) -> Result<(), Error> {
        for hierarchy in hierarchies() {
            let parent = hierarchy.join(FLOOR_PARENT);
            fs::create_dir_all(&parent)?;
            if hierarchy.ends_with("cpuset") {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(parent.join(file), fs::read(hierarchy.join(file))?)?;
                }
                fs::write(parent.join("cgroup.clone_children"), "1")?;
            }
            if self.view == "v2" {
                for controller in self.controllers.iter().filter(|name| *name != "hugetlb") {
                    let enable = format!("+{controller}");
                    fs::write(hierarchy.join("cgroup.subtree_control"), &enable)?;
                    fs::write(parent.join("cgroup.subtree_control"), &enable)?;
                }
            }
        }
        Ok(())
    }

    /// Find the four programs, give each its directory, and keep those that can run the bundle.
    fn add_runtimes(&mut self) -> Result<(), Error> {
        println!("\nview {}: controllers {}", self.view, self.controllers.join(" "));
        let floor = PathBuf::from(std::env::var_os("FLOOR").ok_or("no floor program")?);
        for name in ["corten", "crun", "runc", "floor"] {
            let found = if name == "floor" { Some(floor.clone()) } else { find(name) };
            let Some(path) = found else {
                println!("{name}: absent");
                continue;
            };
            let runtime =
                Runtime { name, path: path.clone(), directory: self.work.join(name), is_floor: name == "floor" };
            self.make_bundles(&runtime, &floor)?;
            let version = Command::new(&path).arg("--version").output()?.stdout;
            let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().to_owned();
            std::env::set_current_dir(&runtime.directory)?;
            let words = runtime.command(self.view, "run", ONCE);
            let (program, arguments) = words.split_first().ok_or("no command")?;
            let trial = Command::new(program).args(arguments).output()?;
            if trial.status.success() {
                println!("{name}: {} {version}", path.display());
                self.runtimes.push(runtime);
            } else {
                let text = String::from_utf8_lossy(&trial.stderr);
                println!("{name}: {} can't run the bundle and is left out: {}", path.display(), text.trim());
            }
        }
        Ok(())
    }

    /// The rootfs, a bundle for each container, and what else the floor wants.
    fn make_bundles(&self, runtime: &Runtime, floor: &Path) -> Result<(), Error> {
        let rootfs = runtime.directory.join("rootfs");
        for directory in ["proc", "sys", "dev", "etc"] {
            fs::create_dir_all(rootfs.join(directory))?;
        }
        fs::copy(floor, rootfs.join("floor"))?;
        fs::create_dir_all(runtime.directory.join("state"))?;
        for file in ["resolv.conf", "hostname", "hosts"] {
            fs::write(runtime.directory.join(file), "127.0.0.1 localhost\n")?;
            fs::write(rootfs.join("etc").join(file), "")?;
        }
        fs::write(runtime.directory.join("filter.bpf"), docker_sized_filter())?;
        self.write_config(runtime, ONCE, "true", None)?;
        self.write_config(runtime, KEPT, "pause", None)
    }

    /// docker-like.json with our paths and payload, without what this view has no controller for.
    fn write_config(&self, runtime: &Runtime, id: &str, payload: &str, memory: Option<usize>) -> Result<(), Error> {
        let mut config: Value = serde_json::from_str(CONFIG)?;
        config["process"]["args"] = json!(["/floor", payload]);
        config["root"]["path"] = json!(runtime.directory.join("rootfs"));
        for mount in config["mounts"].as_array_mut().ok_or("no mounts")? {
            if mount["type"] == "bind" {
                mount["source"] = json!(runtime.directory.join(mount["source"].as_str().unwrap_or_default()));
            }
        }
        let suffix = memory.map(|limit| format!("-{limit}")).unwrap_or_default();
        config["linux"]["cgroupsPath"] = json!(format!("/{PARENT}/{}-{id}{suffix}", runtime.name));
        if let Some(resources) = config["linux"]["resources"].as_object_mut() {
            for controller in ["memory", "cpu", "pids"] {
                if !self.controllers.iter().any(|name| name == controller) {
                    resources.remove(controller);
                }
            }
            if let Some(limit) = memory {
                resources.insert("memory".to_owned(), json!({ "limit": limit }));
            }
        }
        let bundle = runtime.directory.join(id);
        fs::create_dir_all(&bundle)?;
        Ok(fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?)
    }

    /// Run all rounds and print this view's tables.
    fn measure(&self) -> Result<(), Error> {
        if self.runtimes.is_empty() {
            return Ok(());
        }
        for runtime in &self.runtimes {
            self.one(runtime, "create", KEPT)?;
            self.one(runtime, "start", KEPT)?;
        }
        // costs[operation][runtime] is the list of what each round cost.
        let mut costs = vec![vec![Vec::with_capacity(self.rounds); self.runtimes.len()]; OPERATIONS.len()];
        for round in 0..self.rounds {
            for ((operation, _), costs) in OPERATIONS.iter().zip(&mut costs) {
                for turn in 0..self.runtimes.len() {
                    // Nobody is always the one who comes after the slowest.
                    let index = (round + turn) % self.runtimes.len();
                    costs[index].push(self.operate(&self.runtimes[index], *operation)?);
                }
            }
        }
        println!(
            "{} rounds; milliseconds, wall time minimum and median, CPU time (user and system) median",
            self.rounds
        );
        for ((operation, title), costs) in OPERATIONS.iter().zip(&costs) {
            self.print(*operation, title, costs)?;
        }
        self.print_smallest_limits()?;
        for runtime in &self.runtimes {
            let init = runtime.init(KEPT)?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL)?;
            wait(init)?;
            self.one(runtime, "delete", KEPT)?;
        }
        Ok(())
    }

    /// Run one command and fail if it does.
    fn one(&self, runtime: &Runtime, command: &str, id: &str) -> Result<Cost, Error> {
        std::env::set_current_dir(&runtime.directory)?;
        let words = runtime.command(self.view, command, id);
        let (status, cost) = timed(&words)?;
        if status.success() { Ok(cost) } else { Err(format!("{}: {status}", words.join(" ")).into()) }
    }

    /// Do one operation once; a created container's end is waited for, but its time is nobody's.
    fn operate(&self, runtime: &Runtime, operation: Operation) -> Result<Cost, Error> {
        match operation {
            Operation::Run => self.one(runtime, "run", ONCE),
            Operation::Exec => self.one(runtime, "exec", KEPT),
            Operation::State => self.one(runtime, "state", KEPT),
            Operation::CreateStartDelete => {
                let mut cost = self.one(runtime, "create", ONCE)?;
                let init = runtime.init(ONCE)?;
                cost += self.one(runtime, "start", ONCE)?;
                let (_, cpu) = wait(init)?;
                cost.cpu += cpu;
                cost += self.one(runtime, "delete", ONCE)?;
                Ok(cost)
            }
        }
    }

    /// One operation's table.
    fn print(&self, operation: Operation, title: &str, costs: &[Vec<Cost>]) -> Result<(), Error> {
        println!(
            "\n{:<22}{:>8}{:>8}{:>8}{:>8}{:>10}",
            format!("{title} ({})", self.view),
            "min",
            "median",
            "cpu",
            "calls",
            "peak KiB"
        );
        let mut summary = Vec::new();
        for (runtime, costs) in self.runtimes.iter().zip(costs) {
            let wall = sorted(costs.iter().map(|cost| cost.wall));
            let cpu = sorted(costs.iter().map(|cost| cost.cpu));
            let calls = self.count_calls(runtime, operation).map_or("-".to_owned(), |count| count.to_string());
            let peak = self.peak(runtime, operation)?;
            let (minimum, middle) = (wall[0], wall[wall.len() / 2]);
            let cpu = cpu[cpu.len() / 2];
            println!("  {:<20}{minimum:>8.2}{middle:>8.2}{cpu:>8.2}{calls:>8}{peak:>10}", runtime.name);
            summary.push((runtime.name, minimum, middle, cpu));
        }
        let base = if self.runtimes.iter().any(|runtime| runtime.name == "corten") { "corten" } else { "crun" };
        let Some(own) = summary.iter().find(|row| row.0 == base) else {
            return Ok(());
        };
        for other in summary.iter().filter(|row| row.0 != base) {
            let (minimum, middle, cpu) = (own.1 / other.1, own.2 / other.2, own.3 / other.3);
            println!("  {:<20}{minimum:>8.2}{middle:>8.2}{cpu:>8.2}", format!("{base}/{}", other.0));
        }
        Ok(())
    }

    /// How many system calls an operation makes, with all its processes; none if there is no strace.
    fn count_calls(&self, runtime: &Runtime, operation: Operation) -> Option<usize> {
        let strace = |command: &str, id: &str| -> Option<std::process::Child> {
            let output = self.work.join(format!("strace-{command}"));
            let mut strace = Command::new("strace");
            strace.args(["-f", "-c", "-o"]).arg(output).args(runtime.command(self.view, command, id));
            strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        };
        let count = |command: &str, child: Option<std::process::Child>| -> Option<usize> {
            child?.wait().ok()?;
            let text = fs::read_to_string(self.work.join(format!("strace-{command}"))).ok()?;
            // "100.00    0.007588          46       163        12 total": the fourth word of the last line.
            text.lines().last()?.split_whitespace().nth(3)?.parse().ok()
        };
        std::env::set_current_dir(&runtime.directory).ok()?;
        match operation {
            Operation::Run => count("run", strace("run", ONCE)),
            Operation::Exec => count("exec", strace("exec", KEPT)),
            Operation::State => count("state", strace("state", KEPT)),
            Operation::CreateStartDelete => {
                // strace stays as long as the container's init that it follows: create is waited for last.
                let create = strace("create", ONCE)?;
                let deadline = Instant::now() + Duration::from_secs(20);
                while !self.is_created(runtime) {
                    sleep(Duration::from_millis(20));
                    if Instant::now() > deadline {
                        return None;
                    }
                }
                let start = count("start", strace("start", ONCE))?;
                let create = count("create", Some(create))?;
                let delete = count("delete", strace("delete", ONCE))?;
                Some(create + start + delete)
            }
        }
    }

    fn is_created(&self, runtime: &Runtime) -> bool {
        if runtime.is_floor {
            return runtime.init(ONCE).is_ok();
        }
        let words = runtime.command(self.view, "state", ONCE);
        let output = words.split_first().and_then(|(program, rest)| Command::new(program).args(rest).output().ok());
        output.is_some_and(|output| String::from_utf8_lossy(&output.stdout).contains("created"))
    }

    /// The largest resident set of an operation's processes, in KiB, as the floor's `measure` sees it. The kernel
    /// counts pages in batches, so a process of a few pages may show as 0.
    fn peak(&self, runtime: &Runtime, operation: Operation) -> Result<usize, Error> {
        std::env::set_current_dir(&runtime.directory)?;
        let floor = std::env::var("FLOOR")?;
        let commands: &[(&str, &str)] = match operation {
            Operation::Run => &[("run", ONCE)],
            Operation::Exec => &[("exec", KEPT)],
            Operation::State => &[("state", KEPT)],
            Operation::CreateStartDelete => &[("create", ONCE), ("start", ONCE), ("delete", ONCE)],
        };
        let mut peak = 0;
        for (command, id) in commands {
            let output = Command::new(&floor).arg("measure").args(runtime.command(self.view, command, id)).output()?;
            peak = std::cmp::max(peak, String::from_utf8_lossy(&output.stdout).trim().parse()?);
            if *command == "start" {
                wait(runtime.init(ONCE)?)?;
            }
        }
        Ok(peak)
    }

    /// The smallest memory limit under which the payload still runs: what a runtime's own set-up is charged for.
    fn print_smallest_limits(&self) -> Result<(), Error> {
        if !self.controllers.iter().any(|name| name == "memory") {
            println!("\nsmallest memory limit: this view has no memory controller");
            return Ok(());
        }
        println!("\nsmallest memory limit with which `true` runs ({})", self.view);
        for runtime in &self.runtimes {
            let (mut fails, mut runs) = ((64 << 10) / PAGE - 1, (8 << 20) / PAGE + 1);
            while runs - fails > 1 {
                let middle = usize::midpoint(fails, runs);
                // Twice, for whether a reclaim comes in time is partly luck.
                if self.runs_within(runtime, middle * PAGE)? && self.runs_within(runtime, middle * PAGE)? {
                    runs = middle;
                } else {
                    fails = middle;
                }
            }
            println!("  {:<20}{:>8} KiB", runtime.name, runs * PAGE / 1024);
        }
        Ok(())
    }

    /// Whether `run` succeeds within ten seconds under a memory limit (bytes).
    fn runs_within(&self, runtime: &Runtime, limit: usize) -> Result<bool, Error> {
        std::env::set_current_dir(&runtime.directory)?;
        let mut words = if runtime.is_floor {
            let mut words = runtime.command(self.view, "run", ONCE);
            words.push(limit.to_string());
            words
        } else {
            self.write_config(runtime, "limited", "true", Some(limit))?;
            runtime.command(self.view, "run", "limited")
        };
        let program = words.remove(0);
        let mut child = quiet(&program).args(&words).spawn()?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                break child.wait()?;
            }
            sleep(Duration::from_millis(1));
        };
        if !status.success() && !runtime.is_floor {
            let mut delete = runtime.command(self.view, "delete", "limited");
            delete.insert(delete.len() - 1, "--force".to_owned());
            timed(&delete)?;
        }
        let leaf = if runtime.is_floor {
            format!("{FLOOR_PARENT}/{ONCE}")
        } else {
            format!("{PARENT}/{}-limited-{limit}", runtime.name)
        };
        for hierarchy in hierarchies() {
            remove_cgroup(&hierarchy.join(&leaf));
        }
        Ok(status.success())
    }
}

/// Where a runtime is: what the environment says, then this build or the newest packaged one, then Debian's.
fn find(name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(name.to_uppercase()) {
        return Some(path.into());
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = if name == "corten" {
        option_env!("CARGO_BIN_EXE_corten").map(PathBuf::from).into_iter().collect()
    } else {
        vec![
            repository.join(".peers/bin").join(name),
            Path::new("/usr/bin").join(name),
            Path::new("/usr/sbin").join(name),
        ]
    };
    candidates.into_iter().find(|path| path.exists())
}

/// The mount points of the control groups of this view.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let is_cgroup = |line: &&str| matches!(line.split(' ').nth(2), Some("cgroup" | "cgroup2"));
    mounts.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect()
}

/// The names of the controllers that this view has.
fn controllers(v2: bool) -> Vec<String> {
    if v2 {
        let text = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        return text.split_whitespace().map(str::to_owned).collect();
    }
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    hierarchies().iter().filter_map(name).collect()
}

/// Remove a cgroup and what is below it, with all processes in it.
fn remove_cgroup(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    for _ in 0..50 {
        for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                let _ = nix::sys::wait::waitpid(pid, None);
            }
        }
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
}

/// A command without streams: no runtime pays for a reader.
fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Run a command to its end and say what it cost.
fn timed(words: &[String]) -> Result<(ExitStatus, Cost), Error> {
    let (program, arguments) = words.split_first().ok_or("no command")?;
    let mut command = quiet(program);
    command.args(arguments);
    let before = Instant::now();
    let child = command.spawn()?;
    let (status, cpu) = wait(child.id().try_into()?)?;
    let wall = before.elapsed().as_secs_f64() * 1e3;
    Ok((status, Cost { wall, cpu }))
}

/// Wait for a child of ours, by birth or by adoption: its status and its CPU time in milliseconds, with that of the
/// children it has waited for.
fn wait(pid: i32) -> io::Result<(ExitStatus, f64)> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value of this plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals of the types that wait4 writes.
        if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let milliseconds = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Ok((ExitStatus::from_raw(status), milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime)))
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// x86-64 calls that Docker refuses to an ordinary container: modules, mounts, clocks, keys, namespaces, swap ...
const REFUSED: [u32; 46] = [
    134, 135, 136, 139, 153, 154, 155, 156, 159, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 174, 175, 176,
    177, 178, 179, 180, 237, 238, 239, 246, 248, 249, 250, 256, 272, 279, 298, 300, 304, 308, 313, 320, 321, 323, 335,
];

/// A seccomp program that costs the kernel what Docker's costs: an allow list for two architectures as balanced trees,
/// about a thousand instructions. Returns the file that the floor reads: the count in eight bytes, then the program.
fn docker_sized_filter() -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const RETURN: u16 = 0x06;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP: u16 = 0x05;
    let native = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };
    let (first, second) = (allow(&allowed(cfg!(target_arch = "x86_64"))), allow(&allowed(false)));
    let mut program = vec![
        (LOAD, 0, 0, 4),            // the architecture
        (JUMP_EQUAL, 1, 0, native), // native: over the next
        (JUMP, 0, 0, first.len() as u32 + 1),
        (LOAD, 0, 0, 0), // the number of the call
    ];
    program.extend(first);
    let foreign = [
        (JUMP_EQUAL, 1, 0, if cfg!(target_arch = "aarch64") { 0x4000_0028 } else { 0x4000_0003 }),
        (RETURN, 0, 0, 0x8000_0000), // another architecture: kill the process
        (LOAD, 0, 0, 0),
    ];
    program.extend(foreign);
    program.extend(second);
    let mut file = u64::to_ne_bytes((program.len() as u64) << 32).to_vec();
    for (code, yes, no, value) in program {
        file.extend(u16::to_ne_bytes(code));
        file.extend([yes, no]);
        file.extend(u32::to_ne_bytes(value));
    }
    file
}

/// The numbers of calls that the filter allows.
fn allowed(without_refused: bool) -> Vec<u32> {
    (0..=334).chain(424..=466).filter(|number| !without_refused || !REFUSED.contains(number)).collect()
}

/// Instructions (code, jump if true, jump if false, operand) that allow exactly these numbers, in order.
fn allow(numbers: &[u32]) -> Vec<(u16, u8, u8, u32)> {
    if numbers.len() <= 8 {
        // One comparison each; the last instruction allows, the one before it refuses with EPERM.
        let count = numbers.len();
        let leaf = numbers.iter().enumerate().map(|(index, number)| (0x15, (count - index) as u8, 0, *number));
        return leaf.chain([(0x06, 0, 0, 0x0005_0001), (0x06, 0, 0, 0x7fff_0000)]).collect();
    }
    let (low, high) = numbers.split_at(numbers.len() / 2);
    let (below, above) = (allow(low), allow(high));
    // Greater or equal: jump over the lower half, in two steps, for a conditional jump reaches 255 instructions.
    let mut program = vec![(0x35, 0, 1, high[0]), (0x05, 0, 0, below.len() as u32)];
    program.extend(below);
    program.extend(above);
    program
}
