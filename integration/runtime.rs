//! Runs the runtime under test: invocations with a timeout, containers that outlive them, and the reaper for both.
//!
//! The harness is a subreaper, so what the runtime leaves running becomes its child. One thread reaps *all* children and
//! keeps their statuses; nobody else waits, so nobody can steal a status. Output goes to files and not through pipes,
//! which a detached container would keep open.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::ensure;
use crate::harness::{Case, Outcome, Stop};

/// How long one invocation of the runtime may take, times the patience.
const INVOCATION_TIMEOUT: Duration = Duration::from_secs(15);

static UNIQUE: AtomicU32 = AtomicU32::new(0);
static REAPER: OnceLock<Reaper> = OnceLock::new();

/// A number that is new in this process.
pub fn unique() -> u32 {
    UNIQUE.fetch_add(1, Ordering::Relaxed)
}

/// Starts the thread that reaps every child of this process.
pub fn start_reaper() {
    std::thread::spawn(|| reaper().reap());
}

fn reaper() -> &'static Reaper {
    REAPER.get_or_init(Reaper::default)
}

/// The statuses of all children that have ended, in the form of a shell: 128 + n for signal n.
#[derive(Default)]
struct Reaper {
    /// By pid, with the time: the number may have belonged to another process before.
    ended: Mutex<HashMap<i32, (i32, Instant)>>,
    changed: Condvar,
}

impl Reaper {
    /// Starts a process. The lock keeps the reaper from storing its status before an older one of the same pid is gone.
    fn spawn(&self, command: &mut Command) -> io::Result<i32> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        ended.remove(&pid);
        self.changed.notify_all();
        Ok(pid)
    }

    /// Waits until a process that was started after `since` has ended.
    fn wait(&self, pid: i32, since: Instant, timeout: Duration) -> Option<i32> {
        let status = |ended: &HashMap<i32, (i32, Instant)>| {
            ended.get(&pid).filter(|(_, when)| *when >= since).map(|(status, _)| *status)
        };
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) = self
            .changed
            .wait_timeout_while(ended, timeout, |ended| status(ended).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        status(&ended)
    }

    fn reap(&self) {
        loop {
            // Looking without reaping first: the child is reaped under the lock that `spawn` holds.
            let found = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            match found.ok().and_then(|status| status.pid()) {
                Some(pid) => {
                    let status = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                        Ok(WaitStatus::Exited(_, status)) => status,
                        Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
                        _ => continue,
                    };
                    ended.insert(pid.as_raw(), (status, Instant::now()));
                    self.changed.notify_all();
                }
                // Without children there is nothing to wait for until one is started.
                None => drop(self.changed.wait_timeout(ended, Duration::from_millis(20))),
            }
        }
    }
}

/// One invocation being prepared.
pub struct Invocation<'c> {
    case: &'c Case<'c>,
    command: Command,
    stdin: Option<File>,
    timeout: Duration,
    user: Option<u32>,
}

impl Case<'_> {
    /// The runtime with `--root` and arguments.
    pub fn runtime<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Invocation<'_> {
        self.runtime_with(&[], arguments)
    }

    /// The same with further global options before the command.
    pub fn runtime_with<S: AsRef<OsStr>>(&self, globals: &[&str], arguments: &[S]) -> Invocation<'_> {
        let user = self.user.load(Ordering::Relaxed);
        let mut invocation = match user {
            // The caller of all tests, root or not.
            0 => self.program(&self.machine.runtime),
            user => self
                .program(&self.machine.tmp.join("runtime"))
                .user(user)
                .env("XDG_RUNTIME_DIR", &self.dir.join("run").to_string_lossy()),
        };
        invocation.command.arg("--root").arg(self.root());
        // An ordinary user on root's machine has no systemd of his own.
        if self.machine.invoker.systemd && user == 0 {
            invocation.command.arg("--systemd-cgroup");
        }
        invocation.command.args(globals).args(arguments);
        invocation
    }

    /// A script of root's, in mounts of its own, that calls the runtime with these arguments as `$as "$@"`.
    pub fn scripted<S: AsRef<OsStr>>(&self, unshare: &[&str], script: &str, arguments: &[S]) -> Invocation<'_> {
        let (runtime, root) = (self.machine.runtime.as_os_str(), self.root());
        let invocation = self.boxed(unshare, script).args(&[runtime, "--root".as_ref(), root.as_os_str()]);
        let globals: &[&str] = if self.machine.invoker.systemd { &["--systemd-cgroup"] } else { &[] };
        invocation.args(globals).args(arguments)
    }

    /// Any program of the caller, watched over in the same way.
    pub fn program(&self, program: &Path) -> Invocation<'_> {
        let invocation = self.tool(program);
        match self.machine.invoker.user {
            Some(user) => invocation.user(user),
            None => invocation,
        }
    }

    /// Any program of root, whoever is the caller of the runtime.
    pub fn tool(&self, program: &Path) -> Invocation<'_> {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        // The tag makes each process of this test findable; a container must not see it (attacks.rs).
        command.env("HOME", "/root").env("CORTEN_IT", &self.tag).current_dir(&self.dir);
        if self.machine.invoker.is_rootless() {
            // Where a user's own systemd manager is found.
            let names = ["HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];
            command.envs(names.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        }
        Invocation { case: self, command, stdin: None, timeout: INVOCATION_TIMEOUT, user: None }
    }

    /// A shell of root, in mounts of its own; in the script `$as` before a command makes it the caller's.
    pub fn boxed(&self, unshare: &[&str], script: &str) -> Invocation<'_> {
        let caller = self
            .machine
            .invoker
            .user
            .map_or(String::new(), |user| format!("setpriv --reuid={user} --regid={user} --clear-groups --"));
        let invocation = self.tool(Path::new("/usr/bin/unshare")).env("as", &caller);
        invocation.args(&["--mount", "--propagation", "private"]).args(unshare).args(&["sh", "-c", script, "sh"])
    }

    /// The short form: the runtime with arguments, run to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Outcome<Output> {
        self.runtime(arguments).go()
    }

    /// `delete --force`, which has to succeed.
    pub fn delete_force(&self, id: &str) -> Outcome {
        self.run(&["delete", "--force", id])?.succeeds().map(drop)
    }

    /// The state of a container.
    pub fn state(&self, id: &str) -> Outcome<Value> {
        let output = self.run(&["state", id])?.succeeds()?;
        serde_json::from_str(&output.stdout).map_err(|error| format!("state is no JSON: {error}: {output}").into())
    }

    /// The status of a container as `state` reports it.
    pub fn status(&self, id: &str) -> Outcome<String> {
        Ok(self.state(id)?.get("status").and_then(Value::as_str).unwrap_or("none").to_owned())
    }

    /// Creates a container and returns it with its process waiting for `start`.
    pub fn create<'c>(&'c self, bundle: &Bundle) -> Outcome<Container<'c>> {
        self.launch(bundle, &["create"])
    }

    /// Runs a container in the background.
    pub fn run_detached<'c>(&'c self, bundle: &Bundle) -> Outcome<Container<'c>> {
        self.launch(bundle, &["run", "--detach"])
    }

    fn launch<'c>(&'c self, bundle: &Bundle, command: &[&str]) -> Outcome<Container<'c>> {
        bundle.write()?;
        let id = bundle.id.clone();
        let pid_file = self.dir.join(format!("{id}.pid"));
        let mut arguments: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
        arguments.extend([OsStr::new("--pid-file"), pid_file.as_os_str()]);
        arguments.extend([OsStr::new("--bundle"), bundle.dir.as_os_str(), OsStr::new(&id)]);
        let begun = Instant::now();
        let output = self.run(&arguments)?.succeeds()?;
        let text = fs::read_to_string(&pid_file)?;
        let pid = text.parse().map_err(|_| format!("the pid file holds {text:?}"))?;
        Ok(Container { case: self, id, pid, begun, output })
    }
}

impl Invocation<'_> {
    /// The working directory of the caller.
    pub fn cwd(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// A variable in the environment of the caller.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Further arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: &[S]) -> Self {
        self.command.args(arguments);
        self
    }

    /// The user and group of the caller; what is done before it executes the runtime is still done as root.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// What it reads from stdin.
    pub fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }

    /// How long it may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Something that is done in the caller before it executes the runtime; it must be async-signal-safe.
    #[allow(unsafe_code, reason = "pre_exec is unsafe because of what may be done between fork and exec")]
    pub fn before_exec(mut self, action: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        // SAFETY: the few callers make plain system calls and allocate nothing.
        unsafe { self.command.pre_exec(action) };
        self
    }

    /// The caller has a directory open, without close-on-exec, under each of these numbers.
    #[allow(unsafe_code, reason = "fds that are inherited on purpose have no owner")]
    pub fn inheriting(self, dir: &Path, numbers: std::ops::RangeInclusive<i32>) -> Outcome<Self> {
        let dir = CString::new(dir.as_os_str().as_encoded_bytes()).map_err(io::Error::from)?;
        Ok(self.before_exec(move || {
            // SAFETY: open, dup2 and close are async-signal-safe; the numbers above 2 belong to nobody in the child
            // but std's own pipe for a failing exec, which dup2 may replace.
            unsafe {
                let fd = libc::open(dir.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
                for number in numbers.clone().filter(|number| *number != fd) {
                    if fd < 0 || libc::dup2(fd, number) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                if numbers.contains(&fd) {
                    libc::fcntl(fd, libc::F_SETFD, 0);
                }
            }
            Ok(())
        }))
    }

    /// The caller blocks SIGUSR1 and SIGTERM and ignores SIGINT and SIGUSR2.
    pub fn with_odd_signals(self) -> Self {
        self.before_exec(|| {
            let mut blocked = SigSet::empty();
            blocked.add(Signal::SIGUSR1);
            blocked.add(Signal::SIGTERM);
            blocked.thread_block()?;
            Ok(())
        })
        .ignoring(Signal::SIGINT)
        .ignoring(Signal::SIGUSR2)
    }

    /// The caller ignores this signal.
    #[allow(unsafe_code, reason = "changing a disposition is unsafe because of handlers; SIG_IGN has none")]
    pub fn ignoring(self, ignored: Signal) -> Self {
        self.before_exec(move || {
            // SAFETY: SIG_IGN runs no code.
            unsafe { signal(ignored, SigHandler::SigIgn) }?;
            Ok(())
        })
    }

    /// Runs it to its end. An invocation that hangs is killed and fails the test.
    pub fn go(mut self) -> Outcome<Output> {
        let base = self.case.dir.join(format!("io-{}", self.case.next()));
        let paths = [base.with_extension("out"), base.with_extension("err")];
        let open = |path: &Path| OpenOptions::new().append(true).create_new(true).open(path);
        let [stdout, stderr] = [open(&paths[0])?, open(&paths[1])?];
        self.command.stdin(self.stdin.take().map_or_else(Stdio::null, Stdio::from)).stdout(stdout).stderr(stderr);
        if let Some(user) = self.user {
            self = self.before_exec(move || {
                nix::unistd::setgroups(&[])?;
                nix::unistd::setgid(user.into())?;
                Ok(nix::unistd::setuid(user.into())?)
            });
        }
        let told = format!("{:?}", self.command.get_args().collect::<Vec<_>>());
        let begun = Instant::now();
        let pid = reaper().spawn(&mut self.command).map_err(|error| format!("start {told}: {error}"))?;
        let left = self.case.deadline.saturating_duration_since(Instant::now());
        let status = reaper().wait(pid, begun, self.case.patience(self.timeout).min(left));
        if status.is_none() {
            // Only a process that this harness has started, and that has not been reaped, is killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            reaper().wait(pid, begun, Duration::from_secs(5));
        }
        let [out, err] = paths.each_ref().map(|path| fs::read(path).unwrap_or_default());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let [stdout_path, _] = paths;
        match status {
            Some(status) => {
                let warnings = !self.case.machine.is_corten();
                Ok(Output { told, status, stdout: text(&out), stderr: text(&err), stdout_path, warnings })
            }
            None => Err(Stop::Fail(format!("hang: {told} did not end; stderr {:?}", text(&err)))),
        }
    }
}

/// What an invocation has ended with.
#[derive(Clone, Debug)]
pub struct Output {
    /// The arguments, for messages.
    pub told: String,
    /// The exit status, 128 + n for signal n.
    pub status: i32,
    /// What was on stdout when it ended.
    pub stdout: String,
    /// What was on stderr.
    pub stderr: String,
    /// Where stdout goes: a detached container may still write there.
    pub stdout_path: PathBuf,
    /// Whether warnings are let pass beside an error: runc on v2 cannot do without one.
    warnings: bool,
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut = |text: &str| text.chars().take(600).collect::<String>();
        write!(
            f,
            "{}: status {}, stdout {:?}, stderr {:?}",
            self.told,
            self.status,
            cut(&self.stdout),
            cut(&self.stderr)
        )
    }
}

impl Output {
    /// The status has to be 0.
    pub fn succeeds(self) -> Outcome<Output> {
        self.ends_with(0)
    }

    /// The status has to be this one.
    pub fn ends_with(self, status: i32) -> Outcome<Output> {
        ensure!(self.status == status, "expected status {status}: {self}");
        Ok(self)
    }

    /// The status has to be this one, and stderr one line that contains a text: no panic, no trace, nothing twice.
    pub fn fails(self, status: i32, text: &str) -> Outcome<Output> {
        let output = self.ends_with(status)?;
        output.is_one_line()?;
        ensure!(output.stderr.contains(text), "stderr should contain {text:?}: {output}");
        Ok(output)
    }

    /// stderr has to be exactly one line.
    pub fn is_one_line(&self) -> Outcome {
        let lines = self.stderr.lines().filter(|line| !self.warnings || !line.contains("level=warning"));
        ensure!(lines.count() == 1, "stderr should be one line: {self}");
        ensure!(!self.stderr.contains("panicked at"), "panic: {self}");
        Ok(())
    }
}

/// A container that has been created.
pub struct Container<'c> {
    case: &'c Case<'c>,
    /// Its id.
    pub id: String,
    /// Its pid as the pid file has it.
    pub pid: i32,
    /// Before it was created.
    begun: Instant,
    /// What the create command printed.
    pub output: Output,
}

impl<'c> Container<'c> {
    /// One that the test has made by itself, with the output of the command that did.
    pub fn adopt(case: &'c Case<'c>, id: &str, pid: i32, output: Output) -> Container<'c> {
        // What has ended before the test began was another process.
        Container { case, id: id.to_owned(), pid, begun: case.begun, output }
    }
}

impl Container<'_> {
    /// Starts it.
    pub fn start(&self) -> Outcome {
        self.case.run(&["start", &self.id])?.succeeds().map(drop)
    }

    /// Runs a command in it, to its end.
    pub fn exec(&self, arguments: &[&str]) -> Outcome<Output> {
        let mut all = vec!["exec", self.id.as_str()];
        all.extend_from_slice(arguments);
        self.case.run(&all)
    }

    /// `exec` with flags in front of the id, which is among the arguments.
    pub fn exec_flags(&self, arguments: &[&str]) -> Outcome<Output> {
        let mut all = vec!["exec"];
        all.extend_from_slice(arguments);
        self.case.run(&all)
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: &str) -> Outcome {
        self.case.run(&["kill", &self.id, signal])?.succeeds().map(drop)
    }

    /// Waits for the end of its process; returns its status.
    pub fn wait(&self) -> Outcome<i32> {
        let status = reaper().wait(self.pid, self.begun, self.case.patience(Duration::from_secs(10)));
        status.ok_or_else(|| format!("the process {} of {} does not end", self.pid, self.id).into())
    }

    /// Deletes it after it has stopped.
    pub fn delete(&self) -> Outcome {
        self.case.run(&["delete", &self.id])?.succeeds().map(drop)
    }

    /// Kills, awaits and deletes it.
    pub fn end(&self) -> Outcome {
        self.kill("KILL")?;
        self.wait()?;
        self.delete()
    }

    /// What its process has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.output.stdout_path).unwrap_or_default()
    }

    /// Waits until its process has printed a text.
    pub fn prints(&self, text: &str) -> Outcome<String> {
        let end = Instant::now() + self.case.patience(Duration::from_secs(10));
        while Instant::now() < end {
            let printed = self.printed();
            if printed.contains(text) {
                return Ok(printed);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("{} does not print {text:?}, only {:?}", self.id, self.printed()).into())
    }
}
