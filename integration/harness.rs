//! The harness: prepares the machine, runs the tests in parallel threads and judges them.
//!
//! A test is a function from a [`Case`] to an [`Outcome`]. It passes, fails with a message, or is skipped with a reason
//! when the kernel or the machine lacks something. Whatever it says, it fails when something of it is left afterwards.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::invoker::Invoker;
use crate::leftovers::{self, Mountinfo};
use crate::runtime;

/// How long one test may take in all, times the patience.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What other runtimes are known to do differently: runtime[-version][@set-up], test, reason.
pub const KNOWN_DIFFERENCES: &str = include_str!("known-differences.tsv");

/// What cannot be tried on another runtime: runtime[-version][@set-up], test, reason.
pub const NOT_TRIED: &str = include_str!("not-tried.tsv");

/// What is not tried in a set-up: set-up, test, reason.
pub const NOT_HERE: &str = include_str!("not-here.tsv");

/// Why a test did not pass.
#[derive(Debug)]
pub enum Stop {
    /// The runtime does not do what it should.
    Fail(String),
    /// The kernel or the machine lacks what the test needs.
    Skip(String),
}

impl From<String> for Stop {
    fn from(message: String) -> Stop {
        Stop::Fail(message)
    }
}

impl From<&str> for Stop {
    fn from(message: &str) -> Stop {
        Stop::Fail(message.to_owned())
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Fail(format!("the test itself failed: {error}"))
    }
}

impl From<nix::Error> for Stop {
    fn from(error: nix::Error) -> Stop {
        Stop::Fail(format!("the test itself failed: {error}"))
    }
}

/// What a test returns.
pub type Outcome<T = ()> = Result<T, Stop>;

/// A test that is skipped says why.
pub fn skip<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Stop::Skip(reason.into()))
}

/// One line of a module's table.
#[derive(Clone, Copy)]
pub struct Test {
    /// The fact that the test establishes.
    pub name: &'static str,
    /// The test.
    pub run: fn(&Case) -> Outcome,
    /// Whether it must have the machine for itself.
    pub serial: bool,
}

/// Declares a module's table: `tests![a_fact, another_fact; serial: a_fact_that_needs_the_machine]`.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)? $(; serial: $($alone:ident),* $(,)?)?) => {
        /// The tests of this module.
        pub const TESTS: &[$crate::harness::Test] = &[
            $($crate::harness::Test { name: stringify!($name), run: $name, serial: false },)*
            $($($crate::harness::Test { name: stringify!($alone), run: $alone, serial: true },)*)?
        ];
    };
}

/// Returns an error with a message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}

/// Which cgroup mounts the runtime sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Those of the machine.
    Host,
    /// One cgroup2 at /sys/fs/cgroup.
    V2,
}

/// What all tests share.
pub struct Machine {
    /// The runtime under test.
    pub runtime: PathBuf,
    /// Its name as `--version` prints it: corten, runc, crun, youki.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Which cgroup mounts it sees.
    pub view: View,
    /// What the machine is called in known-differences.tsv: host, v2, or a set-up of integration/vm/suite.
    pub setup: String,
    /// Who calls the runtime.
    pub invoker: Invoker,
    /// By how much all time limits are multiplied, for a machine without hardware of its own is slow.
    pub patience: u32,
    /// Whether /sys/fs/cgroup is a cgroup2.
    pub cgroup2: bool,
    /// The directory of all tests; the probe lies in it.
    pub tmp: PathBuf,
    /// The directory of the `--root` of each test, where that is not in the test's own.
    state: Option<PathBuf>,
    mounts: RwLock<Mountinfo>,
    real_root: Option<File>,
}

impl Machine {
    /// Whether the runtime is the one of this repository.
    pub fn is_corten(&self) -> bool {
        self.name == "corten"
    }

    fn mounts(&self) -> RwLockReadGuard<'_, Mountinfo> {
        self.mounts.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one test works with: a directory of its own and a tag that is part of everything it makes.
pub struct Case<'m> {
    /// What all tests share.
    pub machine: &'m Machine,
    /// Unique; part of every container id, path and cgroup of this test.
    pub tag: String,
    /// The test's own directory.
    pub dir: PathBuf,
    /// When the test began, and when it has to be over.
    pub begun: Instant,
    pub deadline: Instant,
    /// The user and group of the caller; see [`Case::become_user`].
    pub user: AtomicU32,
    counter: AtomicU32,
}

impl<'m> Case<'m> {
    /// A part of this test for another thread, with a directory, ids and a deadline of its own.
    pub fn part(&self, timeout: Duration) -> Case<'m> {
        let name = format!("part{}", self.next());
        let (tag, dir) = (format!("{}-{name}", self.tag), self.dir.join(name));
        let (begun, user, counter) = (Instant::now(), AtomicU32::new(0), AtomicU32::new(0));
        Case { machine: self.machine, tag, dir, begun, deadline: begun + self.patience(timeout), user, counter }
    }
}

impl Case<'_> {
    /// A number that is new in this test.
    pub fn next(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A container id that is new in this test.
    pub fn id(&self) -> String {
        format!("{}-{}", self.tag, self.next())
    }

    /// A time limit for this machine.
    pub fn patience(&self, limit: Duration) -> Duration {
        limit * self.machine.patience
    }

    /// The `--root` of the test.
    pub fn root(&self) -> PathBuf {
        match &self.machine.state {
            Some(state) => state.join(&self.tag),
            None => self.dir.join("root"),
        }
    }

    /// From now on the runtime is called by a user without privileges, to whom the directory of the test belongs.
    pub fn become_user(&self, id: u32) -> Outcome {
        self.user.store(id, Ordering::Relaxed);
        for dir in [self.dir.clone(), self.root(), self.dir.join("run")] {
            fs::create_dir_all(&dir)?;
            std::os::unix::fs::chown(&dir, Some(id), Some(id))?;
        }
        Ok(())
    }
}

/// The options of the command line.
struct Options {
    view: View,
    setup: Option<String>,
    systemd: bool,
    user: Option<u32>,
    patience: u32,
    list: bool,
    /// A page of docs/ to be printed, and nothing else done.
    page: Option<fn() -> String>,
    jobs: usize,
    filters: Vec<String>,
    /// The modules that are no part of the set-up.
    without: Vec<String>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let cpus = std::thread::available_parallelism().map_or(2, usize::from);
        let mut options = Options {
            view: View::Host,
            setup: None,
            systemd: false,
            user: None,
            patience: 1,
            list: false,
            page: None,
            jobs: (cpus * 2).min(8),
            filters: Vec::new(),
            without: Vec::new(),
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => options.list = true,
                "--ledger" => options.page = Some(crate::ledger::page),
                "--properties" => options.page = Some(crate::properties::page),
                "--systemd" => options.systemd = true,
                "--user" => {
                    let user = words.next().and_then(|text| text.parse().ok()).filter(|user| *user > 0);
                    options.user = Some(user.ok_or("--user takes the uid of an ordinary user")?);
                }
                "--without" => options.without.push(words.next().ok_or("--without takes a module")?),
                "--setup" => options.setup = Some(words.next().ok_or("--setup takes a name")?),
                "--patience" => {
                    let factor = words.next().and_then(|text| text.parse().ok()).filter(|factor| *factor > 0);
                    options.patience = factor.ok_or("--patience takes a positive number")?;
                }
                "--view" => match words.next().as_deref() {
                    Some("host") => options.view = View::Host,
                    Some("v2") => options.view = View::V2,
                    other => return Err(format!("--view takes host or v2, not {other:?}")),
                },
                "--jobs" => {
                    let number = words.next().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
                    options.jobs = number.ok_or("--jobs takes a positive number")?;
                }
                word if word.starts_with('-') => return Err(format!("unknown option {word}")),
                filter => options.filters.push(filter.to_owned()),
            }
        }
        Ok(options)
    }
}

/// The verdict on one test.
struct Verdict {
    name: String,
    outcome: Outcome,
    seconds: f64,
}

/// The full names of the tests of some modules.
pub fn names(modules: &[(&str, &[Test])]) -> impl Iterator<Item = String> {
    modules.iter().flat_map(|(module, tests)| tests.iter().map(move |test| format!("{module}::{}", test.name)))
}

/// Runs the tests that the command line selects.
pub fn main(modules: &[(&str, &[Test])]) -> ExitCode {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("integration: {message}");
            return ExitCode::from(2);
        }
    };
    if let Some(page) = options.page {
        print!("{}", page());
        return ExitCode::SUCCESS;
    }
    let selected: Vec<(String, Test)> = modules
        .iter()
        .filter(|(module, _)| !options.without.iter().any(|name| name == module))
        .flat_map(|(module, tests)| tests.iter().map(move |test| (format!("{module}::{}", test.name), *test)))
        .filter(|(name, _)| options.filters.is_empty() || options.filters.iter().any(|filter| name.contains(filter)))
        .collect();
    if options.list {
        selected.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    match prepare(&options) {
        Ok(machine) => {
            let success = run_all(&machine, &options, selected);
            clean_up(&machine);
            if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(message) => {
            eprintln!("integration: {message}");
            ExitCode::from(2)
        }
    }
}

/// Makes the machine ready while this process still has one thread: a thread of another mount namespace could not be
/// brought back.
fn prepare(options: &Options) -> Result<Machine, String> {
    let invoker = Invoker::look(options.systemd, options.user)?;
    let runtime = runtime_under_test()?;
    let (name, version) = name_and_version(&runtime)?;
    // The probe is built before the mount namespace changes, in case cargo has to build it.
    let probe = probe()?;
    let real_root = enter_private_mounts(options.view, &name)?;
    invoker.make_files_the_users()?;
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| format!("become a subreaper: {error}"))?;
    let tmp = env::temp_dir().join(format!("corten-it-{}", std::process::id()));
    fs::create_dir(&tmp).map_err(|error| format!("make {}: {error}", tmp.display()))?;
    fs::copy(&probe, tmp.join("probe")).map_err(|error| format!("copy {}: {error}", probe.display()))?;
    // Another user may not be able to reach the one in the target directory.
    fs::copy(&runtime, tmp.join("runtime")).map_err(|error| format!("copy {}: {error}", runtime.display()))?;
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, tmp.join("busybox")).map_err(|error| format!("copy {}: {error}", busybox.display()))?;
    let cgroup2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    runtime::start_reaper();
    let mounts = RwLock::new(Mountinfo::read());
    let state = invoker.state();
    let (view, patience) = (options.view, options.patience);
    let setup = options.setup.clone().unwrap_or_else(|| if view == View::V2 { "v2" } else { "host" }.to_owned());
    Ok(Machine { runtime, name, version, view, setup, invoker, patience, cgroup2, tmp, state, mounts, real_root })
}

/// A mount namespace of the harness's own, with the cgroup mounts that were asked for; returns the box of [`show_v2`].
fn enter_private_mounts(view: View, name: &str) -> Result<Option<File>, String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("unshare the mount namespace: {error}"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|error| format!("make all mounts private: {error}"))?;
    arrange_cgroups(view, name)
}

/// The binary under test: what CORTEN_UNDER_TEST names, else what cargo has just built.
fn runtime_under_test() -> Result<PathBuf, String> {
    let path = env::var_os("CORTEN_UNDER_TEST").or_else(|| option_env!("CARGO_BIN_EXE_corten").map(OsString::from));
    let path = PathBuf::from(path.ok_or("CORTEN_UNDER_TEST names no runtime and cargo has built none")?);
    fs::canonicalize(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What `--version` begins with: the name, the word `version`, the version.
fn name_and_version(runtime: &Path) -> Result<(String, String), String> {
    let output =
        Command::new(runtime).arg("--version").output().map_err(|error| format!("{}: {error}", runtime.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(name), Some("version" | "version:"), Some(version)) => Ok((name.to_owned(), version.to_owned())),
        _ => Err(format!("{} --version says {text:?}", runtime.display())),
    }
}

/// The probe, brought up to date where cargo runs this: `cargo test --test integration` alone does not build examples.
fn probe() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("CORTEN_PROBE") {
        return Ok(path.into());
    }
    let here = env::current_exe().map_err(|error| format!("/proc/self/exe: {error}"))?;
    let profile_dir = here.ancestors().nth(2).ok_or("the test binary lies in no target directory")?;
    let probe = profile_dir.join("examples/probe");
    if let Some(cargo) = env::var_os("CARGO") {
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let status =
            Command::new(cargo).args(["build", "--quiet", "--example", "probe", "--profile", profile]).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err("cargo build --example probe failed".to_owned());
        }
    }
    if probe.exists() { Ok(probe) } else { Err(format!("{}: cargo build --example probe", probe.display())) }
}

/// Shows the runtime the cgroup mounts that were asked for; returns the box of [`show_v2`].
fn arrange_cgroups(view: View, name: &str) -> Result<Option<File>, String> {
    if view == View::V2 {
        return show_v2().map(Some);
    }
    if name == "crun" && Path::new("/sys/fs/cgroup/unified").exists() {
        hide_unified().map_err(|error| format!("hide the cgroup2 of the hybrid hierarchy: {error}"))?;
    }
    Ok(None)
}

/// The name of the cgroup that is the root for everything that the harness starts under `--view v2`.
fn box_name() -> String {
    format!("corten-it-{}", std::process::id())
}

/// Mounts one cgroup2 at /sys/fs/cgroup, as seen from a cgroup namespace that begins in a box of the harness's own.
///
/// Without the box the root would hold every process of the machine, and crun 1.28 has killed them all there. The
/// harness itself sits in a leaf, so that controllers can be enabled in the root of the box. Returns the real root.
fn show_v2() -> Result<File, String> {
    let (dir, none) = ("/sys/fs/cgroup", None::<&str>);
    let status = Command::new("umount").args(["-R", dir]).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err("umount -R /sys/fs/cgroup failed".to_owned());
    }
    let say = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mount_it = || mount(Some("none"), dir, Some("cgroup2"), MsFlags::empty(), none).map_err(std::io::Error::from);
    mount_it().map_err(say("mount cgroup2"))?;
    let root = File::open(dir).map_err(say("open the root of cgroup2"))?;
    let own = Path::new(dir).join(box_name());
    fs::create_dir(&own).map_err(say("make a cgroup"))?;
    for controller in fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default().split_whitespace() {
        // A controller that can not be enabled is one that the tests will find missing.
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
    }
    fs::write(own.join("cgroup.procs"), "0").map_err(say("enter a cgroup"))?;
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|error| format!("unshare the cgroup namespace: {error}"))?;
    umount2(dir, MntFlags::MNT_DETACH).map_err(|error| format!("umount cgroup2: {error}"))?;
    mount_it().map_err(say("mount cgroup2 again"))?;
    fs::create_dir("/sys/fs/cgroup/harness").map_err(say("make a cgroup for the harness"))?;
    fs::write("/sys/fs/cgroup/harness/cgroup.procs", "0").map_err(say("enter the cgroup of the harness"))?;
    Ok(root)
}

/// Leaves the box and removes it.
fn leave_box(root: &File) -> std::io::Result<()> {
    let root = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    fs::write(root.join("cgroup.procs"), "0")?;
    fs::remove_dir(root.join(box_name()).join("harness"))?;
    fs::remove_dir(root.join(box_name()))
}

/// crun refuses a hybrid hierarchy altogether, so it gets to see the v1 part only: a new tmpfs with the v1 mounts bound
/// into it. Unmounting `unified` would not do, for crun takes the directory below it for a controller.
fn hide_unified() -> nix::Result<()> {
    let (none, staging) = (None::<&str>, "/sys/fs/cgroup/unified");
    mount(Some("none"), staging, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    for entry in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let (name, controller) = (entry.file_name(), entry.path());
        if controller.join("cgroup.procs").exists() {
            let target = Path::new(staging).join(name);
            nix::unistd::mkdir(&target, nix::sys::stat::Mode::from_bits_truncate(0o755))?;
            mount(Some(&controller), &target, none, MsFlags::MS_BIND, none)?;
        }
    }
    mount(Some(staging), "/sys/fs/cgroup", none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
}

/// Runs the parallel tests on several threads, then the serial ones; prints what did not pass and the totals.
fn run_all(machine: &Machine, options: &Options, selected: Vec<(String, Test)>) -> bool {
    let (serial, parallel): (Vec<_>, Vec<_>) = selected.into_iter().partition(|(_, test)| test.serial);
    let verdicts = Mutex::new(Vec::new());
    for (jobs, tests) in [(options.jobs, parallel), (1, serial)] {
        let queue = Mutex::new(VecDeque::from(tests));
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some((name, test)) = take(&queue) {
                        let verdict = judge(machine, name, test);
                        report(machine, &verdict);
                        if let Ok(mut verdicts) = verdicts.lock() {
                            verdicts.push(verdict);
                        }
                    }
                });
            }
        });
    }
    let verdicts = verdicts.into_inner().unwrap_or_default();
    summarise(machine, &verdicts, options.filters.is_empty())
}

fn take(queue: &Mutex<VecDeque<(String, Test)>>) -> Option<(String, Test)> {
    queue.lock().ok()?.pop_front()
}

/// Runs one test and looks for what it has left.
fn judge(machine: &Machine, name: String, test: Test) -> Verdict {
    let begin = Instant::now();
    let tag = format!("ct{}-{}", std::process::id(), runtime::unique());
    let dir = machine.tmp.join(&tag);
    let deadline = begin + TEST_TIMEOUT * machine.patience;
    let (user, counter) = (AtomicU32::new(0), AtomicU32::new(0));
    let case = Case { machine, tag, dir, begun: begin, deadline, user, counter };
    let made = fs::create_dir_all(&case.dir).and_then(|()| fs::create_dir_all(case.root()));
    let mut outcome = match (made, not_here(machine, &name)) {
        (_, Some(reason)) => skip(reason),
        // A bug in a test must not take the other tests with it.
        (Ok(()), None) => std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (test.run)(&case)))
            .unwrap_or_else(|_| Err(Stop::Fail("the test panicked".to_owned()))),
        (Err(error), None) => Err(error.into()),
    };
    let left = leftovers::find(&case, &machine.mounts(), outcome.is_ok());
    if outcome.is_ok() && !left.is_empty() {
        outcome = Err(Stop::Fail(format!("left behind: {}", left.join("; "))));
    }
    if !left.is_empty() {
        leftovers::remove(&case);
        machine.mounts.write().unwrap_or_else(PoisonError::into_inner).accept();
    }
    let keep = outcome.is_err() && env::var_os("CORTEN_IT_KEEP").is_some();
    if !keep {
        leftovers::remove_directory(&case.dir);
        leftovers::remove_directory(&case.root());
    }
    Verdict { name, outcome, seconds: begin.elapsed().as_secs_f64() }
}

/// The reason why a test is not tried in this set-up, if there is one.
fn not_here(machine: &Machine, test: &str) -> Option<&'static str> {
    NOT_HERE.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut columns = line.split('\t');
        let (setup, name, reason) = (columns.next()?, columns.next()?, columns.next()?);
        let applies = match setup {
            "rootless" => machine.invoker.is_rootless(),
            "systemd" => machine.invoker.systemd,
            setup => setup == machine.setup,
        };
        (applies && name == test).then_some(reason)
    })
}

/// The reason why the runtime under test is known to fail a test, if it is.
fn known_difference(machine: &Machine, test: &str) -> Option<&'static str> {
    difference(KNOWN_DIFFERENCES, machine, test)
}

/// A line of a list of differences that is for this machine and the runtime under test.
fn difference(list: &'static str, machine: &Machine, test: &str) -> Option<&'static str> {
    let applies = |setups: Option<&str>| setups.is_none_or(|all| all.split(',').any(|name| name == machine.setup));
    differences(list, &machine.name, &machine.version, test).find(|(setups, _)| applies(*setups)).map(|(_, why)| why)
}

/// In which set-ups, if not in all, a runtime is known to fail a test or cannot be tried with it, and why.
pub fn differences_of(
    name: &str,
    version: &str,
    test: &str,
) -> impl Iterator<Item = (Option<&'static str>, &'static str)> {
    let tried = differences(KNOWN_DIFFERENCES, name, version, test);
    tried.chain(differences(NOT_TRIED, name, version, test))
}

/// The lines about a runtime and a test: for which set-ups, and the reason.
///
/// The first column is a name, optionally with the beginning of a version and the set-ups where it holds: `runc`,
/// `runc-1.1`, `crun@v2`, `crun@uml,tcg`.
fn differences(
    list: &'static str,
    name: &str,
    version: &str,
    test: &str,
) -> impl Iterator<Item = (Option<&'static str>, &'static str)> {
    let full = format!("{name}-{version}");
    list.lines().filter(|line| !line.starts_with('#')).filter_map(move |line| {
        let mut columns = line.split('\t');
        let (who, of, reason) = (columns.next()?, columns.next()?, columns.next()?);
        let (runtime, setups) = match who.split_once('@') {
            Some((runtime, setups)) => (runtime, Some(setups)),
            None => (who, None),
        };
        let applies = runtime == name || full.starts_with(runtime) && runtime.contains('-');
        (applies && of == test).then_some((setups, reason))
    })
}

fn report(machine: &Machine, verdict: &Verdict) {
    let known = known_difference(machine, &verdict.name);
    let untried = difference(NOT_TRIED, machine, &verdict.name).is_some();
    let verbose = env::var_os("CORTEN_IT_VERBOSE").is_some();
    match (&verdict.outcome, known) {
        (Ok(()) | Err(Stop::Fail(_)), _) if untried => {
            println!("FAIL {}: was tried, but not-tried.tsv lists it", verdict.name);
        }
        (Ok(()), None) if verbose => println!("pass {} ({:.2} s)", verdict.name, verdict.seconds),
        (Ok(()), None) => {}
        (Ok(()), Some(_)) => println!("FAIL {}: passes, but known-differences.tsv lists it", verdict.name),
        (Err(Stop::Skip(reason)), _) => println!("skip {}: {reason}", verdict.name),
        (Err(Stop::Fail(message)), Some(reason)) if verbose => println!("known {}: {reason}: {message}", verdict.name),
        (Err(Stop::Fail(_)), Some(_)) => {}
        (Err(Stop::Fail(message)), None) => println!("FAIL {}: {message}", verdict.name),
    }
}

/// Prints the totals, `N passed, N failed, N skipped` last; true if the run is a success.
fn summarise(machine: &Machine, verdicts: &[Verdict], is_whole: bool) -> bool {
    let (mut passed, mut failed, mut known, mut skipped) = (0, 0, 0, 0);
    for verdict in verdicts {
        let untried = difference(NOT_TRIED, machine, &verdict.name).is_some();
        match (&verdict.outcome, known_difference(machine, &verdict.name)) {
            (Ok(()) | Err(Stop::Fail(_)), _) if untried => failed += 1,
            (Ok(()), None) => passed += 1,
            (Err(Stop::Skip(_)), _) => skipped += 1,
            (Err(Stop::Fail(_)), Some(_)) => known += 1,
            _ => failed += 1,
        }
    }
    let strayed = leftovers::strayed_mounts(&machine.mounts());
    if !strayed.is_empty() {
        println!("FAIL the mounts of the harness changed: {}", strayed.join("; "));
        failed += 1;
    }
    // What other set-ups lack is said in not-here.tsv.
    if machine.is_corten()
        && is_whole
        && ["host", "v2"].contains(&machine.setup.as_str())
        && !machine.invoker.is_rootless()
    {
        let skipped = verdicts.iter().filter(|verdict| matches!(verdict.outcome, Err(Stop::Skip(_))));
        let skipped = skipped.map(|verdict| verdict.name.as_str()).collect();
        for test in crate::ledger::skipped_without_leave(&skipped) {
            println!("FAIL {test}: the ledger needs it, it was skipped, and elsewhere.tsv does not say where it runs");
            failed += 1;
        }
    }
    if machine.is_corten() && known > 0 {
        println!("FAIL known-differences.tsv lists corten: its bugs are fixed, not listed");
        failed += known;
    }
    if !machine.is_corten() {
        println!("{} {}: {known} known differences", machine.name, machine.version);
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed == 0
}

/// Removes the directory of the run and the parent that the docker-like cgroups share.
fn clean_up(machine: &Machine) {
    if env::var_os("CORTEN_IT_KEEP").is_none() {
        leftovers::remove_directory(&machine.tmp);
        machine.state.iter().for_each(|state| leftovers::remove_directory(state));
    }
    for parent in leftovers::cgroup_directories_named("corten-test") {
        let _ = fs::remove_dir(parent);
    }
    if let Some(Err(error)) = machine.real_root.as_ref().map(leave_box) {
        eprintln!("integration: the cgroup {} is left: {error}", box_name());
    }
}
