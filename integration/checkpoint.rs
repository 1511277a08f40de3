//! checkpoint and restore: what a container was doing goes on, what it was is the same, and nobody gets more than
//! config.json gives him.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::{Bundle, Seen};
use crate::harness::{Case, Outcome, Stop, View, skip};
use crate::runtime::{Container, Invocation, Output};
use crate::terminal::Socket;
use crate::{ensure, tests};

tests![
    a_counter_goes_on_where_it_was,
    after_a_checkpoint_the_container_is_gone,
    leave_running_leaves_it_running,
    a_tcp_connection_lives_on,
    a_terminal_goes_to_the_console_socket,
    a_detached_terminal_needs_a_console_socket,
    in_the_foreground_restore_ends_with_the_status_of_the_program,
    a_restored_container_is_like_any_other,
    exec_after_restore_has_the_same_confinement,
    limits_and_device_rules_are_in_force_after_restore,
    the_hooks_around_a_container_run_at_restore,
    bind_mounts_of_files_and_below_links_come_back,
    a_hundred_mounts_come_back,
    an_existing_network_namespace_is_joined_again,
    standard_streams_are_those_of_restore,
    memory_goes_through_a_page_server,
    memory_comes_when_it_is_needed,
    a_second_dump_builds_on_a_pre_dump,
    a_paused_container_can_be_saved,
    a_configuration_file_of_criu_is_read,
    a_failed_checkpoint_leaves_it_as_it_was,
    a_failed_restore_leaves_nothing,
    a_killed_restore_leaves_nothing_after_delete_force,
    a_restore_onto_an_id_in_use_is_refused,
    without_criu_there_is_a_clear_error,
    wrong_options_are_refused,
    only_a_container_that_runs_can_be_saved,
    links_that_lead_to_another_mount_are_noticed,
    a_mount_point_with_brackets_is_refused,
    a_mount_that_was_writable_does_not_become_so_again,
    an_image_cannot_take_back_a_mask,
    an_image_cannot_give_rights;
    serial: twenty_times_in_a_row,
];

/// Counts in a tmpfs and, line by line, in a directory of the host.
const COUNTING: &str = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/count; echo $i >>/data/log; sleep 0.02; done";

/// The PATH with a CRIU that works here: that of ./setup test, or the machine's own.
fn path(case: &Case) -> Outcome<String> {
    let rest = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".criu/bin");
    let mut why = "criu is not installed: ./setup test".to_owned();
    for directory in [fetched.as_path(), Path::new("/usr/sbin")] {
        let criu = directory.join("criu");
        if !criu.exists() {
            continue;
        }
        let checked = case.program(&criu).args(&["check"]).timeout(Duration::from_secs(30)).go()?;
        if checked.status == 0 {
            return Ok(format!("{}:{rest}", directory.display()));
        }
        why = checked.stderr.lines().next().unwrap_or("criu check fails").to_owned();
    }
    skip(why)
}

/// Whether this CRIU on this kernel has a feature.
fn has_feature(case: &Case, feature: &str) -> Outcome<bool> {
    let directory = path(case)?;
    let criu = Path::new(directory.split(':').next().unwrap_or_default()).join("criu");
    Ok(case.program(&criu).args(&["check", "--feature", feature]).go()?.status == 0)
}

/// A container with what is needed to save it and let it go on.
struct Subject<'c> {
    case: &'c Case<'c>,
    bundle: Bundle,
    images: PathBuf,
    path: String,
}

impl<'c> Subject<'c> {
    /// The docker-like bundle with a directory of the host at /data.
    fn new(case: &'c Case<'c>, script: &str) -> Outcome<Subject<'c>> {
        Subject::with(case, script, path(case)?)
    }

    /// The same for what is refused before CRIU is called, which need not work on this kernel.
    fn refused(case: &'c Case<'c>, script: &str) -> Outcome<Subject<'c>> {
        Subject::with(case, script, "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())
    }

    fn with(case: &'c Case<'c>, script: &str, path: String) -> Outcome<Subject<'c>> {
        let bundle = case.docker_like()?.shell(script);
        let data = bundle.dir.join("data");
        fs::create_dir(&data)?;
        let mount = json!({"destination": "/data", "type": "bind", "source": data, "options": ["bind"]});
        Subject::of(case, bundle.with("/mounts/-", mount), path)
    }

    fn of(case: &'c Case<'c>, mut bundle: Bundle, path: String) -> Outcome<Subject<'c>> {
        if case.machine.invoker.is_rootless() {
            return skip("CRIU needs root");
        }
        // CRIU itself takes more than a test of limits gives.
        if case.machine.name == "runc" && case.machine.view == View::Host {
            let list = bundle.config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
            list.into_iter().for_each(|list| list.retain(|one| one["type"] != "cgroup"));
        }
        let images = case.dir.join(format!("images-{}", bundle.id));
        Ok(Subject { case, images, path, bundle })
    }

    fn invoke(&self, command: &str, flags: &[&str]) -> Invocation<'c> {
        let invocation = self.case.runtime(&[command]).env("PATH", &self.path).args(flags);
        let invocation = invocation.args(&["--image-path".as_ref(), self.images.as_os_str()]);
        invocation.timeout(Duration::from_secs(30))
    }

    fn start(&self) -> Outcome<Container<'c>> {
        if self.case.machine.is_corten() {
            return self.case.run_detached(&self.bundle);
        }
        // The peers cannot save a container whose output is a file of the host.
        self.bundle.write()?;
        let script = "exec \"$@\" >/dev/null 2>&1";
        let shell = self.case.program(Path::new("/bin/sh")).args(&["-c", script, "sh"]);
        let shell = shell.args(&[self.case.machine.runtime.as_os_str(), "--root".as_ref(), self.case.root().as_ref()]);
        let words = ["run".as_ref(), "--detach".as_ref(), "--bundle".as_ref(), self.bundle.dir.as_os_str()];
        let output = shell.args(&words).args(&[&self.bundle.id]).go()?.succeeds()?;
        let pid = self.case.state(&self.bundle.id)?["pid"].as_i64().unwrap_or(0);
        Ok(Container::adopt(self.case, &self.bundle.id, i32::try_from(pid).unwrap_or(0), output))
    }

    fn checkpoint(&self, flags: &[&str]) -> Outcome<Output> {
        self.invoke("checkpoint", flags).args(&[&self.bundle.id]).go()
    }

    /// Restores it, detached.
    fn restore(&self, flags: &[&str]) -> Outcome<Container<'c>> {
        let output = self.try_restore(flags)?.succeeds()?;
        let pid = self.case.state(&self.bundle.id)?["pid"].as_i64().unwrap_or(0);
        Ok(Container::adopt(self.case, &self.bundle.id, i32::try_from(pid).unwrap_or(0), output))
    }

    fn try_restore(&self, flags: &[&str]) -> Outcome<Output> {
        let bundle = self.bundle.dir.as_os_str();
        let rest = ["--detach".as_ref(), "--bundle".as_ref(), bundle, self.bundle.id.as_ref()];
        self.invoke("restore", flags).args(&rest).go()
    }

    /// A file that the container writes in /data.
    fn data(&self, name: &str) -> String {
        fs::read_to_string(self.bundle.dir.join("data").join(name)).unwrap_or_default()
    }

    /// Waits until that file has more than so many lines; how many.
    fn lines(&self, name: &str, more_than: usize) -> Outcome<usize> {
        let end = Instant::now() + self.case.patience(Duration::from_secs(10));
        loop {
            let count = self.data(name).lines().count();
            if count > more_than {
                return Ok(count);
            }
            ensure!(Instant::now() < end, "{name} does not grow beyond {count} lines");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Every number once and in order.
    fn counts_without_a_gap(&self, name: &str) -> Outcome {
        let text = self.data(name);
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for (line, number) in whole.lines().zip(1..) {
            ensure!(line == number.to_string(), "{name}: {line:?} where {number} should be");
        }
        Ok(())
    }

    /// The restore is refused with a text, and leaves nothing.
    fn is_refused(&self, text: &str) -> Outcome {
        self.bundle.write()?;
        self.try_restore(&[])?.fails(1, text)?;
        self.is_gone()
    }

    fn is_gone(&self) -> Outcome {
        self.case.run(&["state", &self.bundle.id])?.fails(1, "container does not exist").map(drop)
    }
}

/// A mount of a directory of the host.
fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

fn a_counter_goes_on_where_it_was(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    subject.start()?;
    subject.lines("log", 5)?;
    subject.checkpoint(&[])?.succeeds()?;
    let saved = subject.lines("log", 0)?;
    std::thread::sleep(Duration::from_millis(100));
    ensure!(subject.lines("log", 0)? == saved, "it counts on while it is saved");
    let container = subject.restore(&[])?;
    subject.lines("log", saved + 5)?;
    subject.counts_without_a_gap("log")?;
    let count = container.exec(&["cat", "/dev/shm/count"])?.succeeds()?.stdout;
    ensure!(count.trim().parse::<usize>().is_ok_and(|count| count > saved), "in the tmpfs it is {count:?}");
    container.end()
}

fn after_a_checkpoint_the_container_is_gone(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let container = subject.start()?;
    subject.lines("log", 1)?;
    let work = case.dir.join("work");
    let work = work.to_string_lossy();
    let output = subject.checkpoint(&["--work-path", &work])?.succeeds()?;
    ensure!(output.stdout.is_empty() && output.stderr.is_empty(), "{output}");
    container.wait()?;
    subject.is_gone()?;
    for name in ["inventory.img", "pstree.img", "descriptors.json"] {
        ensure!(subject.images.join(name).exists(), "there is no {name}");
    }
    ensure!(Path::new(&*work).join("dump.log").exists(), "there is no dump.log in the work path");
    Ok(())
}

fn leave_running_leaves_it_running(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let container = subject.start()?;
    subject.lines("log", 1)?;
    subject.checkpoint(&["--leave-running"])?.succeeds()?;
    ensure!(case.status(&container.id)? == "running", "it is {}", case.status(&container.id)?);
    let now = subject.lines("log", 0)?;
    subject.lines("log", now + 3)?;
    subject.counts_without_a_gap("log")?;
    container.end()
}

fn twenty_times_in_a_row(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    subject.start()?;
    for _ in 0..20 {
        let before = subject.lines("log", 0)?;
        subject.lines("log", before + 1)?;
        subject.checkpoint(&[])?.succeeds()?;
        subject.restore(&[])?;
    }
    let now = subject.lines("log", 0)?;
    subject.lines("log", now + 1)?;
    subject.counts_without_a_gap("log")?;
    case.delete_force(&subject.bundle.id)
}

fn a_tcp_connection_lives_on(case: &Case) -> Outcome {
    let script = "mkfifo /dev/shm/in /dev/shm/quiet; nc -l -p 5000 </dev/shm/quiet >/data/received & \
                  exec 8<>/dev/shm/quiet 9<>/dev/shm/in; sleep 0.3; nc 127.0.0.1 5000 </dev/shm/in >/dev/shm/out & \
                  i=0; while :; do i=$((i+1)); echo $i >&9; sleep 0.02; done";
    let subject = Subject::new(case, script)?;
    for applet in ["nc", "mkfifo"] {
        std::os::unix::fs::symlink("busybox", subject.bundle.rootfs().join("bin").join(applet))?;
    }
    subject.start()?;
    subject.lines("received", 5)?;
    let output = subject.checkpoint(&[])?.ends_with(1)?;
    ensure!(output.stderr.contains("onnected"), "without --tcp-established: {output}");
    let before = subject.lines("received", 0)?;
    subject.lines("received", before + 1)?;
    subject.checkpoint(&["--tcp-established"])?.succeeds()?;
    let before = subject.lines("received", 0)?;
    let container = subject.restore(&["--tcp-established"])?;
    subject.lines("received", before + 5)?;
    subject.counts_without_a_gap("received")?;
    container.end()
}

/// A container with a terminal that repeats what it hears.
fn with_terminal<'c>(case: &'c Case<'c>) -> Outcome<Subject<'c>> {
    let script = "while read line; do echo heard $line on $(readlink /proc/self/fd/0); done";
    let subject = Subject::new(case, script)?;
    Ok(Subject { bundle: subject.bundle.with("/process/terminal", json!(true)), ..subject })
}

fn talk(master: &OwnedFd, word: &str) -> Outcome {
    let mut file = File::from(master.try_clone()?);
    file.write_all(format!("{word}\n").as_bytes())?;
    let (mut seen, end) = (String::new(), Instant::now() + Duration::from_secs(10));
    while !seen.contains(&format!("heard {word} on /dev/pts/0")) {
        ensure!(Instant::now() < end, "no answer to {word:?}, only {seen:?}");
        let mut wanted = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(master), nix::poll::PollFlags::POLLIN)];
        if nix::poll::poll(&mut wanted, 100u16)? > 0 {
            let mut buffer = [0; 4096];
            let length = file.read(&mut buffer)?;
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }
    Ok(())
}

/// Starts it with a console socket; the master of its terminal.
fn start_with_terminal(subject: &Subject) -> Outcome<OwnedFd> {
    let socket = Socket::in_directory(&subject.case.dir.join("s1"))?;
    subject.bundle.write()?;
    let arguments = ["run", "--detach", "--console-socket", &socket.path.to_string_lossy(), "--bundle"];
    let rest = [subject.bundle.dir.as_os_str(), subject.bundle.id.as_ref()];
    subject.case.runtime(&arguments).args(&rest).go()?.succeeds()?;
    let (master, _) = socket.receives()?;
    talk(&master, "first")?;
    Ok(master)
}

fn a_terminal_goes_to_the_console_socket(case: &Case) -> Outcome {
    let subject = with_terminal(case)?;
    drop(start_with_terminal(&subject)?);
    // The hang-up of the old master must not reach it.
    let master = start_again(&subject)?;
    talk(&master, "second")?;
    case.delete_force(&subject.bundle.id)
}

fn start_again(subject: &Subject) -> Outcome<OwnedFd> {
    subject.case.delete_force(&subject.bundle.id)?;
    fs::remove_dir_all(subject.case.dir.join("s1"))?;
    let before = start_with_terminal(subject)?;
    subject.checkpoint(&[])?.succeeds()?;
    drop(before);
    let socket = Socket::in_directory(&subject.case.dir.join("s2"))?;
    subject.restore(&["--console-socket", &socket.path.to_string_lossy()])?;
    Ok(socket.receives()?.0)
}

fn a_detached_terminal_needs_a_console_socket(case: &Case) -> Outcome {
    let subject = with_terminal(case)?;
    let master = start_with_terminal(&subject)?;
    subject.checkpoint(&[])?.succeeds()?;
    drop(master);
    subject.is_refused("cannot allocate tty if")
}

fn in_the_foreground_restore_ends_with_the_status_of_the_program(case: &Case) -> Outcome {
    let script = "echo first; until [ -e /data/end ]; do sleep 0.02; done; echo last; exit 7";
    let subject = Subject::new(case, script)?;
    subject.start()?.prints("first")?;
    subject.checkpoint(&[])?.succeeds()?;
    File::create(subject.bundle.dir.join("data/end"))?;
    let bundle = subject.bundle.dir.to_string_lossy();
    let output = subject.invoke("restore", &["--bundle", &bundle]).args(&[&subject.bundle.id]).go()?.ends_with(7)?;
    ensure!(output.stdout == "last\n", "{output}");
    subject.is_gone()
}

fn a_restored_container_is_like_any_other(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    subject.start()?;
    subject.lines("log", 1)?;
    subject.checkpoint(&[])?.succeeds()?;
    let pid_file = case.dir.join("pid");
    let container = subject.restore(&["--pid-file", &pid_file.to_string_lossy()])?;
    let pid = fs::read_to_string(&pid_file)?;
    ensure!(pid == container.pid.to_string(), "the pid file has {pid}, the state {}", container.pid);
    ensure!(case.status(&container.id)? == "running", "it is {}", case.status(&container.id)?);
    let list = case.run(&["list", "-q"])?.succeeds()?.stdout;
    ensure!(list.lines().any(|id| id == container.id), "{list}");
    let ps = case.run(&["ps", "--format", "json", &container.id])?.succeeds()?.stdout;
    ensure!(ps.contains(&pid), "{ps}");
    let events = case.run(&["events", "--stats", &container.id])?.succeeds()?.stdout;
    ensure!(events.starts_with("{\"type\":\"stats\""), "{events}");
    case.run(&["pause", &container.id])?.succeeds()?;
    ensure!(case.status(&container.id)? == "paused", "it is {}", case.status(&container.id)?);
    case.run(&["resume", &container.id])?.succeeds()?;
    container.exec(&["true"])?.succeeds()?;
    case.run(&["start", &container.id])?.fails(1, "cannot start an already running container")?;
    container.kill("KILL")?;
    container.wait()?;
    ensure!(case.status(&container.id)? == "stopped", "it is {}", case.status(&container.id)?);
    container.delete()
}

/// What the probe sees as one more process of a container.
fn seen_by_exec(container: &Container) -> Outcome<Seen> {
    container.exec(&["/probe"])?.succeeds()?.seen()
}

fn exec_after_restore_has_the_same_confinement(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let before = seen_by_exec(&subject.start()?)?;
    subject.checkpoint(&[])?.succeeds()?;
    let container = subject.restore(&[])?;
    let after = seen_by_exec(&container)?;
    for fact in ["/capabilities", "/seccomp", "/no_new_privs", "/rlimits", "/uid", "/hostname", "/cwd"] {
        ensure!(before.get(fact) == after.get(fact), "{fact} was {}, is {}", before.get(fact), after.get(fact));
    }
    let status = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status"));
    let of_init = status(container.pid)?;
    let line = |name: &str| of_init.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    ensure!(line("Seccomp:").ends_with('2'), "{of_init}");
    ensure!(line("NoNewPrivs:").ends_with('1') || before.get("/no_new_privs") != &json!(1), "{of_init}");
    let shown = |seen: &Seen| -> Vec<Value> {
        let mounts = seen.get("/mounts").as_array().cloned().unwrap_or_default();
        let mut all: Vec<Value> = mounts.iter().map(|one| json!([one["destination"], one["options"]])).collect();
        all.sort_by_key(Value::to_string);
        all
    };
    if case.machine.is_corten() {
        ensure!(shown(&before) == shown(&after), "mounts: {:?} and {:?}", shown(&before), shown(&after));
    }
    container.end()
}

fn limits_and_device_rules_are_in_force_after_restore(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    subject.start()?;
    subject.checkpoint(&[])?.succeeds()?;
    let container = subject.restore(&[])?;
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid))?;
    ensure!(cgroups.contains(&subject.bundle.id), "{cgroups}");
    if case.has_controller("pids") {
        let (v1, v2) = ("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max");
        let file = if case.machine.cgroup2 { v2 } else { v1 };
        let limit = container.exec(&["cat", file])?.succeeds()?.stdout;
        ensure!(limit == "100\n", "pids.max is {limit:?}");
    }
    let seen =
        container.exec(&["/probe", "--mknod", "/dev/shm/kmsg:c:1:11", "--open", "/dev/null"])?.succeeds()?.seen()?;
    ensure!(seen.answer("open", "/dev/null") == "ok", "/dev/null: {}", seen.answer("open", "/dev/null"));
    container.exec(&["sh", "-c", "busybox mknod /tmp/kmsg c 1 11 && ! cat /tmp/kmsg"])?.succeeds()?;
    container.end()
}

fn the_hooks_around_a_container_run_at_restore(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let told = case.dir.join("hooks");
    let mut bundle = subject.bundle;
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        let script = format!("cat >/dev/null; echo {kind} >>{}", told.display());
        bundle = bundle.with(&format!("/hooks/{kind}"), json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    }
    let subject = Subject { bundle, ..subject };
    subject.start()?;
    subject.checkpoint(&[])?.succeeds()?;
    let first = fs::read_to_string(&told)?;
    ensure!(first == "prestart\ncreateRuntime\npoststart\npoststop\n", "{first:?}");
    let container = subject.restore(&[])?;
    container.end()?;
    let all = fs::read_to_string(&told)?;
    ensure!(all == format!("{first}prestart\ncreateRuntime\npoststop\n"), "{all:?}");
    Ok(())
}

fn bind_mounts_of_files_and_below_links_come_back(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let rootfs = subject.bundle.rootfs();
    fs::create_dir_all(rootfs.join("real"))?;
    std::os::unix::fs::symlink("/real", rootfs.join("link"))?;
    let (file, directory) = (case.dir.join("file"), case.dir.join("directory"));
    fs::create_dir(&directory)?;
    fs::write(&file, "of the host")?;
    fs::write(directory.join("inner"), "inside")?;
    let bundle = subject.bundle.with("/mounts/-", bind(&file, "/link/file", &["bind", "ro"]));
    let bundle = bundle.with("/mounts/-", bind(&directory, "/link/a b", &["rbind", "nosuid", "ro"]));
    let subject = Subject { bundle, ..subject };
    subject.start()?;
    subject.checkpoint(&[])?.succeeds()?;
    // As on another machine: the places have to be made again.
    fs::remove_file(rootfs.join("real/file"))?;
    fs::remove_dir(rootfs.join("real/a b"))?;
    let container = subject.restore(&[])?;
    let output = container.exec(&["cat", "/real/file", "/link/a b/inner"])?.succeeds()?;
    ensure!(output.stdout == "of the hostinside", "{output}");
    let seen = seen_by_exec(&container)?;
    seen.mounted_with("/real/file", &["ro"])?;
    seen.mounted_with("/real/a\\040b", &["ro", "nosuid"])?;
    container.end()
}

fn a_hundred_mounts_come_back(case: &Case) -> Outcome {
    // The kernel tells of so many in several pieces.
    let mut subject = Subject::new(case, COUNTING)?;
    for number in 0..100 {
        let (directory, place) = (case.dir.join(format!("source-{number}")), format!("/places/{number}"));
        fs::create_dir(&directory)?;
        fs::write(directory.join("number"), number.to_string())?;
        subject.bundle = subject.bundle.with("/mounts/-", bind(&directory, &place, &["bind", "ro"]));
    }
    subject.start()?;
    subject.checkpoint(&[])?.succeeds()?;
    let container = subject.restore(&[])?;
    let output = container.exec(&["cat", "/places/0/number", "/places/99/number"])?.succeeds()?;
    ensure!(output.stdout == "099", "{output}");
    seen_by_exec(&container)?.mounted_with("/places/99", &["ro"])?;
    container.end()
}

fn an_existing_network_namespace_is_joined_again(case: &Case) -> Outcome {
    let other = case.run_detached(&case.docker_like()?.args(&["sleep", "1000"]))?;
    let subject = Subject::new(case, COUNTING)?;
    let path = format!("/proc/{}/ns/net", other.pid);
    let namespaces = subject.bundle.config["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
    let namespaces: Vec<Value> = namespaces.into_iter().filter(|one| one["type"] != "network").collect();
    let bundle = subject.bundle.with("/linux/namespaces", json!(namespaces));
    let bundle = bundle.with("/linux/namespaces/-", json!({"type": "network", "path": path}));
    let subject = Subject { bundle, ..subject };
    subject.start()?;
    subject.checkpoint(&[])?.succeeds()?;
    let container = subject.restore(&[])?;
    let (theirs, ours) = (fs::read_link(&path)?, fs::read_link(format!("/proc/{}/ns/net", container.pid))?);
    ensure!(theirs == ours, "it is in {ours:?}, not in {theirs:?}");
    container.end()?;
    other.end()
}

fn standard_streams_are_those_of_restore(case: &Case) -> Outcome {
    let subject = Subject::new(case, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")?;
    let before = subject.start()?;
    before.prints("3\n")?;
    subject.checkpoint(&[])?.succeeds()?;
    let last = before.printed();
    let container = subject.restore(&[])?;
    let next = last.lines().last().and_then(|line| line.parse::<u32>().ok()).unwrap_or(0) + 1;
    let printed = container.prints(&format!("{}\n", next + 1))?;
    ensure!(printed.starts_with(&format!("{next}\n")), "{next} is next, and it printed {printed:?}");
    ensure!(before.printed() == last, "it still prints where it printed before");
    container.end()
}

/// A port that is free.
fn free_port() -> Outcome<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// CRIU itself, in one of its other roles.
fn criu<'c>(subject: &Subject<'c>, words: &[&str]) -> Outcome<Invocation<'c>> {
    let criu = Path::new(subject.path.split(':').next().unwrap_or_default()).join("criu");
    let images = subject.images.to_string_lossy();
    Ok(subject.case.program(&criu).args(words).args(&["--images-dir", &*images, "-o", &*format!("{}.log", words[0])]))
}

fn memory_goes_through_a_page_server(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    subject.start()?;
    subject.lines("log", 1)?;
    fs::create_dir(&subject.images)?;
    let port = free_port()?.to_string();
    criu(&subject, &["page-server", "--daemon", "--address", "127.0.0.1", "--port", &port])?.go()?.succeeds()?;
    subject.checkpoint(&["--page-server", &format!("127.0.0.1:{port}")])?.succeeds()?;
    let saved = subject.lines("log", 0)?;
    let container = subject.restore(&[])?;
    subject.lines("log", saved + 1)?;
    subject.counts_without_a_gap("log")?;
    container.end()
}

fn memory_comes_when_it_is_needed(case: &Case) -> Outcome {
    if !has_feature(case, "uffd-noncoop")? {
        return skip("this kernel's userfaultfd does not suffice");
    }
    let subject = Subject::new(case, COUNTING)?;
    subject.start()?;
    subject.lines("log", 1)?;
    fs::create_dir(&subject.images)?;
    let (port, work) = (free_port()?.to_string(), case.dir.join("work"));
    let (server, work_path) = (format!("127.0.0.1:{port}"), work.to_string_lossy().into_owned());
    let (ready, told) = nix::unistd::pipe()?;
    let status_fd = std::os::fd::AsRawFd::as_raw_fd(&told);
    let flags = ["--lazy-pages", "--page-server", &server, "--work-path", &work_path, "--status-fd", "9"];
    let checkpoint = subject.invoke("checkpoint", &flags).args(&[&subject.bundle.id]).before_exec(move || {
        // SAFETY: dup2 is async-signal-safe, and 9 belongs to nobody here.
        if unsafe { libc::dup2(status_fd, 9) } < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    });
    let (saved, output) = std::thread::scope(|scope| -> Outcome<_> {
        let checkpoint = scope.spawn(|| checkpoint.go());
        let mut byte = [1u8];
        let mut wanted = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&ready), nix::poll::PollFlags::POLLIN)];
        ensure!(nix::poll::poll(&mut wanted, 20_000u16)? == 1, "--status-fd tells nothing");
        ensure!(nix::unistd::read(&ready, &mut byte)? == 1 && byte == [0], "--status-fd told {byte:?}");
        let saved = subject.lines("log", 0)?;
        let words = ["lazy-pages", "--daemon", "--page-server", "--address", "127.0.0.1", "--port", &port];
        criu(&subject, &words)?.args(&["--work-dir", &work_path]).go()?.succeeds()?;
        // The old container has the id until all of its memory is gone.
        let bundle = subject.bundle.named(&case.id());
        let cgroup = json!(format!("/corten-test/{}", bundle.id));
        let other = Subject {
            bundle: bundle.with("/linux/cgroupsPath", cgroup),
            images: subject.images.clone(),
            path: subject.path.clone(),
            case,
        };
        other.bundle.write()?;
        let words = ["--detach".as_ref(), "--bundle".as_ref(), other.bundle.dir.as_os_str(), other.bundle.id.as_ref()];
        let restore = other.invoke("restore", &["--lazy-pages", "--work-path", &work_path]).args(&words);
        let output = restore.timeout(Duration::from_secs(5)).go();
        if fs::read_to_string(work.join("dump.log")).is_ok_and(|log| log.contains("page-pipe: splice: -1")) {
            // So it is with runc; the CRIU that restores waits for ever then.
            case.delete_force(&other.bundle.id)?;
            drop(checkpoint.join());
            case.delete_force(&subject.bundle.id)?;
            return skip("this criu cannot serve the memory that it has not saved (page-pipe: splice)");
        }
        let output = output?.succeeds()?;
        let pid = case.state(&other.bundle.id)?["pid"].as_i64().unwrap_or(0);
        let restored = Container::adopt(case, &other.bundle.id, i32::try_from(pid).unwrap_or(0), output);
        subject.lines("log", saved + 3)?;
        restored.exec(&["true"])?.succeeds()?;
        restored.end()?;
        Ok((saved, checkpoint.join().map_err(|_| "the checkpoint panicked")??))
    })?;
    output.succeeds()?;
    ensure!(saved > 0, "it had not begun");
    subject.counts_without_a_gap("log")
}

fn a_second_dump_builds_on_a_pre_dump(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let container = subject.start()?;
    subject.lines("log", 1)?;
    let whole = subject.images.clone();
    let first = Subject {
        images: whole.join("first"),
        bundle: subject.bundle.named(&subject.bundle.id),
        path: subject.path.clone(),
        case,
    };
    if !has_feature(case, "mem_dirty_track")? {
        first.checkpoint(&["--pre-dump"])?.fails(1, "criu is missing features: [MemTrack]")?;
        ensure!(case.status(&container.id)? == "running", "it does not run on");
        container.end()?;
        return skip("this kernel does not track memory, and that was told");
    }
    first.checkpoint(&["--pre-dump"])?.succeeds()?;
    ensure!(case.status(&container.id)? == "running", "it does not run on");
    let second = Subject { images: whole.join("second"), ..subject };
    second.checkpoint(&["--parent-path", "../first"])?.succeeds()?;
    let saved = second.lines("log", 0)?;
    let container = second.restore(&[])?;
    second.lines("log", saved + 1)?;
    second.counts_without_a_gap("log")?;
    container.end()
}

fn a_paused_container_can_be_saved(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let container = subject.start()?;
    subject.lines("log", 1)?;
    case.run(&["pause", &container.id])?.succeeds()?;
    subject.checkpoint(&["--leave-running"])?.succeeds()?;
    ensure!(case.status(&container.id)? == "paused", "it is {}", case.status(&container.id)?);
    subject.checkpoint(&[])?.succeeds()?;
    let saved = subject.lines("log", 0)?;
    let container = subject.restore(&[])?;
    subject.lines("log", saved + 1)?;
    subject.counts_without_a_gap("log")?;
    container.end()
}

fn a_configuration_file_of_criu_is_read(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let config = case.dir.join("criu.conf");
    fs::write(&config, "log-file of-the-file.log\n")?;
    let bundle = subject.bundle.with("/annotations", json!({"org.criu.config": config}));
    let subject = Subject { bundle, ..subject };
    let container = subject.start()?;
    subject.checkpoint(&["--leave-running"])?.succeeds()?;
    ensure!(subject.images.join("of-the-file.log").exists(), "the file was not read");
    container.end()
}

/// It runs, as it did before.
fn runs_on(subject: &Subject) -> Outcome {
    let status = subject.case.status(&subject.bundle.id)?;
    ensure!(status == "running", "it is {status}");
    let now = subject.lines("log", 0)?;
    subject.lines("log", now + 2)?;
    subject.counts_without_a_gap("log")
}

fn a_failed_checkpoint_leaves_it_as_it_was(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    subject.bundle.write()?;
    // A directory of the host is open in it, which CRIU cannot find in the container.
    let bundle = subject.bundle.dir.as_os_str();
    let words =
        ["run".as_ref(), "--detach".as_ref(), "--preserve-fds".as_ref(), "1".as_ref(), "--bundle".as_ref(), bundle];
    let invocation = case.runtime(&words).args(&[&subject.bundle.id]).inheriting(&case.dir, 3..=3)?;
    invocation.go()?.succeeds()?;
    subject.lines("log", 1)?;
    let output = subject.checkpoint(&[])?.ends_with(1)?;
    if case.machine.is_corten() {
        output.is_one_line()?;
        ensure!(output.stderr.contains("criu failed: type DUMP errno"), "{output}");
        ensure!(output.stderr.contains("Error (") && output.stderr.contains("dump.log"), "{output}");
    }
    runs_on(&subject)?;
    case.run(&["pause", &subject.bundle.id])?.succeeds()?;
    subject.checkpoint(&[])?.ends_with(1)?;
    let status = case.status(&subject.bundle.id)?;
    ensure!(status == "paused", "it was paused and is {status}");
    case.delete_force(&subject.bundle.id)
}

fn a_failed_restore_leaves_nothing(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    subject.start()?;
    subject.checkpoint(&[])?.succeeds()?;
    let nothing = Subject {
        images: case.dir.join("nothing"),
        bundle: subject.bundle.named(&case.id()),
        path: subject.path.clone(),
        case,
    };
    if case.machine.is_corten() {
        nothing.is_refused("open the image directory")?;
    }
    fs::create_dir_all(&nothing.images)?;
    nothing.is_refused("descriptors.json")?;
    // CRIU finds out when half of it is done.
    for name in ["core-1.img", "mountpoints-13.img", "pstree.img"] {
        let file = subject.images.join(name);
        let Ok(whole) = fs::read(&file) else { continue };
        fs::write(&file, &whole[..whole.len() / 2])?;
        let output = subject.try_restore(&[])?.ends_with(1)?;
        if case.machine.is_corten() {
            output.is_one_line()?;
            ensure!(output.stderr.contains("criu failed: type"), "{output}");
        }
        subject.is_gone()?;
        fs::write(&file, whole)?;
    }
    // A hook of the configuration refuses.
    let bundle = subject.bundle.named(&subject.bundle.id);
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null; exit 1"]}]);
    let refusing = Subject {
        bundle: bundle.with("/hooks/createRuntime", hook),
        images: subject.images.clone(),
        path: subject.path.clone(),
        case,
    };
    if case.machine.is_corten() {
        refusing.is_refused("createRuntime hook #0")?;
    }
    subject.bundle.write()?;
    subject.restore(&[])?.end()
}

/// With half of the memory missing CRIU 4.2 waits for ever for the rest.
fn a_killed_restore_leaves_nothing_after_delete_force(case: &Case) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    subject.start()?;
    subject.checkpoint(&[])?.succeeds()?;
    let file = subject.images.join("pages-1.img");
    let whole = fs::read(&file)?;
    fs::write(&file, &whole[..whole.len() / 2])?;
    let words = ["--detach".as_ref(), "--bundle".as_ref(), subject.bundle.dir.as_os_str(), subject.bundle.id.as_ref()];
    let restore = subject.invoke("restore", &[]).args(&words).timeout(Duration::from_secs(2));
    match restore.go() {
        Err(Stop::Fail(told)) if told.starts_with("hang: ") => {}
        Ok(output) if output.status == 1 => return subject.is_gone(),
        other => return Err(format!("it was restored: {other:?}").into()),
    }
    ensure!(case.status(&subject.bundle.id)? != "running", "it is running");
    case.delete_force(&subject.bundle.id)
}

fn a_restore_onto_an_id_in_use_is_refused(case: &Case) -> Outcome {
    let subject = Subject::refused(case, COUNTING)?;
    subject.start()?;
    subject.lines("log", 1)?;
    fs::create_dir(&subject.images)?;
    fs::write(subject.images.join("descriptors.json"), "[]")?;
    subject.try_restore(&[])?.fails(1, "container with given ID already exists")?;
    runs_on(&subject)?;
    case.delete_force(&subject.bundle.id)
}

fn without_criu_there_is_a_clear_error(case: &Case) -> Outcome {
    let subject = Subject::refused(case, COUNTING)?;
    subject.start()?;
    subject.lines("log", 1)?;
    let subject = Subject { path: "/nowhere:/bin".to_owned(), ..subject };
    if Path::new("/bin/criu").exists() {
        case.delete_force(&subject.bundle.id)?;
        return skip("criu is in /bin");
    }
    subject.checkpoint(&[])?.fails(1, "executable file not found in $PATH")?;
    runs_on(&subject)?;
    case.delete_force(&subject.bundle.id)?;
    fs::write(subject.images.join("descriptors.json"), "[]")?;
    subject.is_refused("executable file not found in $PATH")
}

fn wrong_options_are_refused(case: &Case) -> Outcome {
    let subject = Subject::refused(case, COUNTING)?;
    subject.start()?;
    subject.lines("log", 1)?;
    for (flags, text) in [
        (&["--page-server", "here"][..], "Use --page-server ADDRESS:PORT to specify page server"),
        (&["--page-server", "here:x"], "Invalid port number"),
        (&["--manage-cgroups-mode", "some"], "invalid manage-cgroups-mode value"),
        (&["--empty-ns", "ipc"], "is not supported"),
        (&["--parent-path", "/absolute"], "--parent-path"),
        (&["--parent-path", "missing"], "invalid --parent-path"),
        (&["--lazy-pages", "--status-fd", "77"], "invalid --status-fd argument 77"),
    ] {
        subject.checkpoint(flags)?.fails(1, text)?;
    }
    runs_on(&subject)?;
    case.delete_force(&subject.bundle.id)
}

fn only_a_container_that_runs_can_be_saved(case: &Case) -> Outcome {
    let subject = Subject::refused(case, "true")?;
    let container = case.create(&subject.bundle)?;
    subject.checkpoint(&[])?.fails(1, "created")?;
    container.start()?;
    container.wait()?;
    subject.checkpoint(&[])?.fails(1, "stopped")?;
    ensure!(!subject.images.exists(), "it has made the image directory");
    container.delete()
}

/// A container that turns the links to its mounts around: /a leads to what was mounted below /b.
fn links_that_lead_to_another_mount_are_noticed(case: &Case) -> Outcome {
    let script = format!("rm /a /b; ln -s /r2 /a; ln -s /r1 /b; {COUNTING}");
    let subject = Subject::refused(case, &script)?;
    let (rootfs, secret, other) = (subject.bundle.rootfs(), case.dir.join("secret"), case.dir.join("other"));
    for directory in [&rootfs.join("r1"), &rootfs.join("r2"), &secret, &other] {
        fs::create_dir(directory)?;
    }
    std::os::unix::fs::symlink("/r1", rootfs.join("a"))?;
    std::os::unix::fs::symlink("/r2", rootfs.join("b"))?;
    let bundle = subject.bundle.with("/mounts/-", bind(&secret, "/a/x", &["bind", "ro"]));
    let bundle = bundle.with("/mounts/-", bind(&other, "/b/x", &["bind"]));
    for applet in ["rm", "ln"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet))?;
    }
    let subject = Subject { bundle, ..subject };
    subject.start()?;
    subject.lines("log", 1)?;
    subject.checkpoint(&[])?.fails(1, "something else is there")?;
    runs_on(&subject)?;
    case.delete_force(&subject.bundle.id)
}

fn a_mount_point_with_brackets_is_refused(case: &Case) -> Outcome {
    let subject = Subject::refused(case, COUNTING)?;
    let secret = case.dir.join("secret");
    fs::create_dir(&secret)?;
    let bundle = subject.bundle.with("/mounts/-", bind(&secret, "/data2]:/etc", &["bind", "ro"]));
    let subject = Subject { bundle, ..subject };
    subject.start()?;
    subject.lines("log", 1)?;
    subject.checkpoint(&[])?.fails(1, "its name has brackets in it")?;
    runs_on(&subject)?;
    case.delete_force(&subject.bundle.id)
}

/// Saves a container whose configuration was changed, and lets it go on with the right one: that must be refused, and with
/// the changed one it works.
fn is_noticed(
    case: &Case,
    prepare: impl FnOnce(Bundle) -> Bundle,
    change: impl FnOnce(Bundle) -> Bundle,
    text: &str,
) -> Outcome {
    let subject = Subject::new(case, COUNTING)?;
    let subject = Subject { bundle: prepare(subject.bundle), ..subject };
    let right = subject.bundle.named(&subject.bundle.id);
    let subject = Subject { bundle: change(subject.bundle), ..subject };
    subject.start()?;
    subject.checkpoint(&[])?.succeeds()?;
    let refused = Subject { bundle: right, images: subject.images.clone(), path: subject.path.clone(), case };
    refused.is_refused(text)?;
    subject.bundle.write()?;
    subject.restore(&[])?.end()
}

fn a_mount_that_was_writable_does_not_become_so_again(case: &Case) -> Outcome {
    let secret = case.dir.join("secret");
    fs::create_dir(&secret)?;
    let mount = |options: &[&str]| bind(&secret, "/secret", options);
    let (read_only, writable) = (mount(&["bind", "ro"]), mount(&["bind"]));
    let place = "/mounts/11";
    is_noticed(
        case,
        |bundle| bundle.with("/mounts/-", read_only),
        |bundle| bundle.with(place, writable),
        "it has more rights than config.json gives it",
    )
}

fn an_image_cannot_take_back_a_mask(case: &Case) -> Outcome {
    is_noticed(case, |bundle| bundle, |bundle| bundle.without("/linux/maskedPaths"), "is not hidden")?;
    is_noticed(case, |bundle| bundle, |bundle| bundle.without("/linux/readonlyPaths"), "can be written to")?;
    let read_only = |bundle: Bundle| bundle.with("/root/readonly", json!(true));
    is_noticed(case, read_only, |bundle| bundle.with("/root/readonly", json!(false)), "/root/readonly")
}

fn an_image_cannot_give_rights(case: &Case) -> Outcome {
    let capabilities = |set: &'static str| {
        move |bundle: Bundle| bundle.with(&format!("/process/capabilities/{set}/-"), json!("CAP_SYS_ADMIN"))
    };
    is_noticed(case, |bundle| bundle, capabilities("bounding"), "which config.json does not give")?;
    let restricted = |bundle: Bundle| bundle.with("/process/noNewPrivileges", json!(true));
    let free = |bundle: Bundle| bundle.with("/process/noNewPrivileges", json!(false));
    is_noticed(case, restricted, free, "/process/noNewPrivileges")?;
    is_noticed(case, |bundle| bundle, |bundle| bundle.without("/linux/seccomp"), "the process has no filter")?;
    let shared = |bundle: Bundle| bundle.without("/linux/namespaces/4");
    is_noticed(case, |bundle| bundle, shared, "it has no ipc namespace of its own")
}
