//! Terminals: in the foreground, where the harness is the user at a terminal of his own, and detached, by a socket.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::{LocalFlags, tcgetattr};
use serde_json::json;

use crate::bundle::Bundle;
use crate::harness::{Case, Outcome};
use crate::runtime::{Invocation, Output};
use crate::{ensure, tests};

tests![
    a_terminal_is_stdio_console_and_controlling,
    the_terminal_belongs_to_the_user,
    console_size_is_the_size_of_the_terminal,
    console_size_without_terminal_is_ignored,
    the_window_is_as_large_as_the_users_and_follows_it,
    what_is_typed_arrives_and_what_is_printed_returns,
    ctrl_c_is_for_the_container,
    ctrl_z_stops_a_job_of_the_container,
    the_users_terminal_is_raw_meanwhile_and_restored_at_the_end,
    the_users_terminal_is_restored_after_a_signal,
    the_users_terminal_is_restored_after_sigkill,
    the_users_terminal_is_restored_after_an_error,
    output_without_a_terminal_of_the_user_has_plain_newlines,
    the_last_words_of_a_fast_program_are_not_lost,
    the_console_socket_gets_the_master,
    the_path_of_the_console_socket_may_be_long,
    a_detached_terminal_needs_a_console_socket,
    a_console_socket_needs_a_detached_terminal,
    a_console_socket_that_is_not_there_is_an_error_that_leaves_nothing,
    a_terminal_without_devpts_is_refused,
    exec_has_a_terminal_only_if_asked_for,
    exec_detached_sends_its_terminal,
    the_pidfd_sockets_get_pidfds,
];

/// A user at a terminal.
struct User {
    master: OwnedFd,
    /// Kept open, so that the settings can be compared and the terminal stays when the last program in it ends.
    slave: OwnedFd,
}

impl User {
    fn new(rows: u16, columns: u16) -> Outcome<User> {
        let pair = openpty(&size(rows, columns), None)?;
        for fd in [&pair.master, &pair.slave] {
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        Ok(User { master: pair.master, slave: pair.slave })
    }

    /// An invocation of the runtime in this terminal, below a shell that notes how the terminal was before and is after.
    fn invokes<'c, S: AsRef<std::ffi::OsStr>>(&self, case: &'c Case, arguments: &[S]) -> Invocation<'c> {
        let slave = self.slave.as_raw_fd();
        let script = "stty -g >before; root=$1; shift; sh -c 'echo $$ >pid; exec \"$@\"' sh \"$@\"; s=$?; \
                      sleep 0.2; stty -g >after; exit $s";
        let invocation = case.program(Path::new("/bin/sh")).args(&["-c", script, "sh", "root"]);
        let invocation = invocation.args(&[case.machine.runtime.as_os_str(), "--root".as_ref(), case.root().as_ref()]);
        invocation.args(arguments).before_exec(move || {
            nix::unistd::setsid()?;
            // SAFETY: TIOCSCTTY takes a number; dup2 replaces stdio, which is what it is for.
            unsafe {
                if libc::ioctl(slave, libc::TIOCSCTTY, 0) < 0 || (0..3).any(|fd| libc::dup2(slave, fd) < 0) {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        })
    }

    fn types(&self, text: &str) -> Outcome {
        let mut file = File::from(self.master.try_clone()?);
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Reads until a text has come.
    fn reads(&self, text: &str) -> Outcome<String> {
        let mut file = File::from(self.master.try_clone()?);
        let (mut seen, end) = (String::new(), Instant::now() + Duration::from_secs(10));
        while !seen.contains(text) {
            ensure!(Instant::now() < end, "{text:?} does not come, only {seen:?}");
            let mut wanted = [nix::poll::PollFd::new(self.master.as_fd(), nix::poll::PollFlags::POLLIN)];
            if nix::poll::poll(&mut wanted, 100u16)? > 0 {
                let mut buffer = [0; 4096];
                let length = file.read(&mut buffer)?;
                seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        }
        Ok(seen)
    }

    fn resizes(&self, rows: u16, columns: u16) {
        let size = size(rows, columns);
        // SAFETY: TIOCSWINSZ reads one winsize.
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }

    /// Waits until the terminal is raw.
    fn becomes_raw(&self) -> Outcome {
        let end = Instant::now() + Duration::from_secs(10);
        while tcgetattr(&self.slave)?.local_flags.contains(LocalFlags::ICANON) {
            ensure!(Instant::now() < end, "the terminal does not become raw");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// The terminal has to be after the invocation what it was before.
fn is_restored(case: &Case) -> Outcome {
    let [before, after] = ["before", "after"].map(|name| fs::read_to_string(case.dir.join(name)).unwrap_or_default());
    ensure!(!before.is_empty() && before == after, "the terminal was {before:?} and is {after:?}");
    Ok(())
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A minimal bundle with a terminal and what that needs.
fn bundle(case: &Case) -> Outcome<Bundle> {
    let dev = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
    let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]});
    let bundle = case.bundle()?.with("/mounts/-", dev).with("/mounts/-", pts);
    for applet in ["tty", "stty"] {
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin").join(applet))?;
    }
    Ok(bundle.with("/process/terminal", json!(true)))
}

/// Runs a bundle in the foreground of a terminal, which has to show a text.
pub fn shows(case: &Case, bundle: &Bundle, text: &str) -> Outcome {
    let user = User::new(24, 80)?;
    at_terminal(case, &user, bundle, || user.reads(text).map(drop))?.succeeds().map(drop)
}

/// Runs a bundle in the foreground of a terminal while the user does something.
fn at_terminal(case: &Case, user: &User, bundle: &Bundle, acts: impl FnOnce() -> Outcome) -> Outcome<Output> {
    bundle.write()?;
    let arguments = bundle.run_arguments();
    converse(case, user, &arguments.map(OsString::from), acts)
}

fn converse(case: &Case, user: &User, arguments: &[OsString], acts: impl FnOnce() -> Outcome) -> Outcome<Output> {
    let invocation = user.invokes(case, arguments);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let invocation = Sent(invocation);
        scope.spawn(move || {
            let whole = invocation;
            let _ = sender.send(whole.0.go());
        });
        let acted = acts();
        let output = receiver.recv().map_err(|error| format!("the invocation: {error}"))?;
        acted?;
        output
    })
}

/// What one thread prepares and another uses, never both.
struct Sent<T>(T);
// SAFETY: the value moves to the other thread and is used there only.
unsafe impl<T> Send for Sent<T> {}

fn a_terminal_is_stdio_console_and_controlling(case: &Case) -> Outcome {
    let script = "for i in 0 1 2; do test -t $i || echo $i is none; done; tty; \
                  test $(stat -c %t:%T /dev/console) = $(stat -c %t:%T $(tty)) && echo console; echo typed >/dev/tty";
    let user = User::new(24, 80)?;
    let output = at_terminal(case, &user, &bundle(case)?.shell(script), || {
        let said = user.reads("typed")?;
        ensure!(said.contains("/dev/pts/0") && said.contains("console") && !said.contains("none"), "{said:?}");
        Ok(())
    })?;
    output.succeeds().map(drop)
}

fn the_terminal_belongs_to_the_user(case: &Case) -> Outcome {
    let bundle = bundle(case)?.with("/process/user", json!({"uid": 1000, "gid": 1000}));
    let user = User::new(24, 80)?;
    at_terminal(case, &user, &bundle.shell("stat -c 'owned by %u:%g.' $(tty)"), || {
        user.reads("owned by 1000:5.").map(drop)
    })?
    .succeeds()
    .map(drop)
}

fn console_size_is_the_size_of_the_terminal(case: &Case) -> Outcome {
    let bundle = bundle(case)?.with("/process/consoleSize", json!({"height": 33, "width": 77})).shell("stty size");
    let output = bundle.run(case)?.succeeds()?;
    ensure!(output.stdout == "33 77\n", "{output}");
    Ok(())
}

fn console_size_without_terminal_is_ignored(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/process/consoleSize", json!({"height": 33, "width": 77}));
    bundle.probe(&[]).see(case).map(drop)
}

fn the_window_is_as_large_as_the_users_and_follows_it(case: &Case) -> Outcome {
    let user = User::new(21, 61)?;
    let script = "echo $(stty size).; trap 'echo $(stty size).; exit 0' WINCH; while :; do sleep 0.05; done";
    at_terminal(case, &user, &bundle(case)?.shell(script), || {
        user.reads("21 61.")?;
        std::thread::sleep(Duration::from_millis(100));
        user.resizes(40, 132);
        user.reads("40 132.").map(drop)
    })?
    .succeeds()
    .map(drop)
}

fn what_is_typed_arrives_and_what_is_printed_returns(case: &Case) -> Outcome {
    let user = User::new(24, 80)?;
    at_terminal(case, &user, &bundle(case)?.shell("echo ready; read line; echo got $line; exit 7"), || {
        user.reads("ready")?;
        user.types("hello\r")?;
        user.reads("got hello").map(drop)
    })?
    .ends_with(7)
    .map(drop)
}

fn ctrl_c_is_for_the_container(case: &Case) -> Outcome {
    let user = User::new(24, 80)?;
    let script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    at_terminal(case, &user, &bundle(case)?.shell(script), || {
        user.reads("ready")?;
        user.types("\x03")?;
        user.reads("interrupted").map(drop)
    })?
    .ends_with(5)
    .map(drop)
}

fn ctrl_z_stops_a_job_of_the_container(case: &Case) -> Outcome {
    let user = User::new(24, 80)?;
    at_terminal(case, &user, &bundle(case)?.args(&["/bin/sh"]), || {
        user.types("PS1='$ '; echo be''gin; sleep 100\r")?;
        user.reads("begin")?;
        std::thread::sleep(Duration::from_millis(200));
        user.types("\x1a")?;
        user.reads("Stopped")?;
        user.types("kill -9 %1; exit 3\r")?;
        // The shell may want to be told twice that it has a job.
        user.types("exit 3\r")
    })?
    .ends_with(3)
    .map(drop)
}

fn the_users_terminal_is_raw_meanwhile_and_restored_at_the_end(case: &Case) -> Outcome {
    let user = User::new(24, 80)?;
    at_terminal(case, &user, &bundle(case)?.shell("echo ready; read line"), || {
        user.reads("ready")?;
        user.becomes_raw()?;
        user.types("\r")
    })?
    .succeeds()?;
    is_restored(case)
}

fn the_users_terminal_is_restored_after_a_signal(case: &Case) -> Outcome {
    let user = User::new(24, 80)?;
    let bundle = bundle(case)?.shell("trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done");
    let pid = case.dir.join("pid");
    let output = at_terminal(case, &user, &bundle, || {
        user.reads("ready")?;
        user.becomes_raw()?;
        signal(&pid, libc::SIGTERM)
    })?;
    output.ends_with(4)?;
    is_restored(case)
}

fn the_users_terminal_is_restored_after_sigkill(case: &Case) -> Outcome {
    let user = User::new(24, 80)?;
    let bundle = bundle(case)?.shell("echo ready; read line");
    let pid = case.dir.join("pid");
    let output = at_terminal(case, &user, &bundle, || {
        user.reads("ready")?;
        user.becomes_raw()?;
        signal(&pid, libc::SIGKILL)
    })?;
    output.ends_with(137)?;
    is_restored(case)?;
    case.delete_force(&bundle.id)
}

fn signal(pid_file: &Path, signal: i32) -> Outcome {
    let pid: i32 = fs::read_to_string(pid_file)?.trim().parse().map_err(|_| "no pid in the file")?;
    // SAFETY: no memory is involved; it is the invocation that this test has started and not yet reaped.
    unsafe { libc::kill(pid, signal) };
    Ok(())
}

fn the_users_terminal_is_restored_after_an_error(case: &Case) -> Outcome {
    let user = User::new(24, 80)?;
    at_terminal(case, &user, &bundle(case)?.args(&["/nosuch"]), || Ok(()))?.ends_with(1)?;
    is_restored(case)
}

fn output_without_a_terminal_of_the_user_has_plain_newlines(case: &Case) -> Outcome {
    let output = bundle(case)?.shell("echo one; echo two; test -t 0 && echo three").run(case)?.succeeds()?;
    ensure!(output.stdout == "one\ntwo\nthree\n", "{output}");
    Ok(())
}

fn the_last_words_of_a_fast_program_are_not_lost(case: &Case) -> Outcome {
    for _ in 0..20 {
        let output = bundle(case)?.shell("echo all").run(case)?.succeeds()?;
        ensure!(output.stdout == "all\n", "{output}");
    }
    Ok(())
}

/// A console socket that is listening.
pub struct Socket {
    listener: UnixListener,
    /// What `--console-socket` gets.
    pub path: PathBuf,
}

impl Socket {
    /// A new one in a directory that is made for it.
    pub fn in_directory(dir: &Path) -> Outcome<Socket> {
        fs::create_dir_all(dir)?;
        // The path itself may be too long for bind.
        let open = File::open(dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/socket", open.as_raw_fd()))?;
        listener.set_nonblocking(true)?;
        Ok(Socket { listener, path: dir.join("socket") })
    }

    /// The descriptor that was sent, and the bytes beside it.
    pub fn receives(&self) -> Outcome<(OwnedFd, String)> {
        let (connection, _) = self.listener.accept()?;
        let mut bytes = [0u8; 256];
        let mut space = nix::cmsg_space!([RawFd; 2]);
        let (length, fds) = {
            let mut iov = [std::io::IoSliceMut::new(&mut bytes)];
            let message =
                recvmsg::<()>(connection.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
            let fds: Vec<RawFd> = message
                .cmsgs()?
                .flat_map(|part| match part {
                    ControlMessageOwned::ScmRights(fds) => fds,
                    _ => Vec::new(),
                })
                .collect();
            (message.bytes, fds)
        };
        let [fd] = fds[..] else { return Err(format!("{} descriptors came", fds.len()).into()) };
        // SAFETY: the kernel has just made it for this process.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok((fd, String::from_utf8_lossy(&bytes[..length]).into_owned()))
    }
}

fn read_all(fd: OwnedFd, text: &str) -> Outcome {
    let user = User { slave: fd.try_clone()?, master: fd };
    user.reads(text).map(drop)
}

fn the_console_socket_gets_the_master(case: &Case) -> Outcome {
    socket_works(case, &case.dir.join("s"))
}

fn the_path_of_the_console_socket_may_be_long(case: &Case) -> Outcome {
    socket_works(case, &case.dir.join("x".repeat(120)).join("y".repeat(120)))
}

fn socket_works(case: &Case, dir: &Path) -> Outcome {
    let socket = Socket::in_directory(dir)?;
    let bundle = bundle(case)?.shell("stty size; tty; sleep 1000");
    bundle.write()?;
    let arguments = ["create", "--console-socket"].map(OsString::from).into_iter().chain([socket.path.clone().into()]);
    let rest = ["--bundle".into(), bundle.dir.clone().into(), bundle.id.clone().into()];
    let arguments: Vec<OsString> = arguments.chain(rest).collect();
    case.run(&arguments)?.succeeds()?;
    let (master, name) = socket.receives()?;
    ensure!(case.machine.name != "corten" || name == "/dev/pts/0", "it is called {name:?}");
    case.run(&["start", &bundle.id])?.succeeds()?;
    read_all(master, "/dev/pts/0")?;
    case.delete_force(&bundle.id)
}

fn a_detached_terminal_needs_a_console_socket(case: &Case) -> Outcome {
    let bundle = bundle(case)?.shell("true");
    bundle.write()?;
    for command in [&["create"][..], &["run", "--detach"]] {
        let mut arguments: Vec<&std::ffi::OsStr> = command.iter().map(std::ffi::OsStr::new).collect();
        arguments.extend(["--bundle".as_ref(), bundle.dir.as_os_str(), bundle.id.as_ref()]);
        case.run(&arguments)?.fails(1, "cannot allocate tty if")?;
    }
    Ok(())
}

fn a_console_socket_needs_a_detached_terminal(case: &Case) -> Outcome {
    let socket = Socket::in_directory(&case.dir.join("s"))?;
    let path = socket.path.to_string_lossy().into_owned();
    let with = bundle(case)?.shell("true");
    with.write()?;
    let dir = with.dir.to_string_lossy().into_owned();
    let message = "cannot use console socket if";
    case.run(&["run", "--console-socket", &path, "--bundle", &dir, &with.id])?.fails(1, message)?;
    with.with("/process/terminal", json!(false)).write()?;
    case.run(&["create", "--console-socket", &path, "--bundle", &dir, &case.id()])?.fails(1, message).map(drop)
}

fn a_console_socket_that_is_not_there_is_an_error_that_leaves_nothing(case: &Case) -> Outcome {
    let bundle = bundle(case)?.shell("true");
    bundle.write()?;
    let dir = bundle.dir.to_string_lossy().into_owned();
    let file = case.dir.join("plain");
    fs::write(&file, "")?;
    for path in ["/no/such/socket", &file.to_string_lossy()] {
        case.run(&["create", "--console-socket", path, "--bundle", &dir, &bundle.id])?.fails(1, path)?;
    }
    Ok(())
}

fn a_terminal_without_devpts_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/process/terminal", json!(true)).shell("true");
    bundle.run(case)?.fails(1, "/dev/pts").map(drop)
}

fn exec_has_a_terminal_only_if_asked_for(case: &Case) -> Outcome {
    let socket = Socket::in_directory(&case.dir.join("s"))?;
    let bundle = bundle(case)?.shell("sleep 1000");
    bundle.write()?;
    let (dir, path) = (bundle.dir.to_string_lossy().into_owned(), socket.path.to_string_lossy().into_owned());
    case.run(&["run", "--detach", "--console-socket", &path, "--bundle", &dir, &bundle.id])?.succeeds()?;
    let _master = socket.receives()?;
    let script = "test -t 0 && tty; echo done";
    let output = case.run(&["exec", &bundle.id, "sh", "-c", script])?.succeeds()?;
    ensure!(output.stdout == "done\n", "{output}");
    let output = case.run(&["exec", "--tty", &bundle.id, "sh", "-c", script])?.succeeds()?;
    ensure!(output.stdout == "/dev/pts/1\ndone\n", "{output}");
    let user = User::new(19, 55)?;
    let arguments = ["exec", "-t", &bundle.id, "sh", "-c", "stty size; read a; exit 9"].map(OsString::from);
    let output = converse(case, &user, &arguments, || {
        user.reads("19 55")?;
        user.types("\r")
    })?;
    output.ends_with(9)?;
    is_restored(case)?;
    case.delete_force(&bundle.id)
}

fn exec_detached_sends_its_terminal(case: &Case) -> Outcome {
    let bundle = bundle(case)?.with("/process/terminal", json!(false)).shell("sleep 1000");
    let container = case.run_detached(&bundle)?;
    container.exec(&["true"])?.succeeds()?;
    let detached = ["exec", "--tty", "--detach", &bundle.id, "true"];
    case.run(&detached)?.fails(255, "cannot allocate tty if")?;
    let socket = Socket::in_directory(&case.dir.join("s"))?;
    let path = socket.path.to_string_lossy().into_owned();
    case.run(&["exec", "--tty", "--detach", "--console-socket", &path, &bundle.id, "sh", "-c", "tty; sleep 1000"])?
        .succeeds()?;
    read_all(socket.receives()?.0, "/dev/pts/0")?;
    container.end()
}

fn the_pidfd_sockets_get_pidfds(case: &Case) -> Outcome {
    let socket = Socket::in_directory(&case.dir.join("s"))?;
    let path = socket.path.to_string_lossy().into_owned();
    let bundle = case.bundle()?.shell("sleep 1000");
    bundle.write()?;
    let dir = bundle.dir.to_string_lossy().into_owned();
    case.run(&["run", "--detach", "--pidfd-socket", &path, "--bundle", &dir, &bundle.id])?.succeeds()?;
    let pid_of = |fd: &OwnedFd| -> Outcome<i32> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let line = info.lines().find_map(|line| line.strip_prefix("Pid:"));
        line.and_then(|pid| pid.trim().parse().ok()).ok_or_else(|| format!("no pidfd: {info}").into())
    };
    let (pidfd, _) = socket.receives()?;
    let init = case.state(&bundle.id)?["pid"].as_i64().unwrap_or(0);
    ensure!(i64::from(pid_of(&pidfd)?) == init, "another process than init came");
    let pid_file = case.dir.join("exec.pid");
    let arguments = ["exec", "--detach", "--pidfd-socket", &path, "--pid-file"].map(OsString::from).to_vec();
    let rest = [pid_file.as_os_str(), bundle.id.as_ref(), "sleep".as_ref(), "1000".as_ref()].map(OsString::from);
    case.run(&[arguments, rest.to_vec()].concat())?.succeeds()?;
    let (pidfd, _) = socket.receives()?;
    ensure!(pid_of(&pidfd)?.to_string().as_bytes() == fs::read(&pid_file)?, "another process than exec's came");
    let _ = pid_file.as_os_str().as_bytes();
    case.delete_force(&bundle.id)
}
