//! SCMP_ACT_NOTIFY: an agent of the harness gets the listener and what it is told, and answers for the kernel.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::harness::{Case, Outcome, skip};
use crate::{ensure, tests};

tests![
    the_agent_answers_and_is_told_who_asks,
    a_filter_before_the_loss_of_privileges_notifies_too,
    one_state_comes_by_a_connection_which_is_then_closed,
    exec_has_a_listener_of_its_own,
    calls_that_the_runtime_itself_needs_do_not_deadlock,
    everything_may_be_asked,
    create_hands_the_listener_over_before_it_returns,
    wait_killable_recv_is_accepted,
    notify_without_listener_path_is_refused,
    metadata_without_listener_path_is_refused,
    an_agent_that_is_not_there_is_an_error_that_leaves_nothing,
    an_agent_that_hangs_up_is_an_error_or_an_answer,
];

/// The number of `mkdir`, which nothing but the payload calls, and which the agent answers with this errno.
const ANSWER: i32 = libc::EDOM;

/// An agent: what it was told, and how it answers until the end.
struct Agent {
    path: PathBuf,
    told: Arc<Mutex<Vec<Value>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h
#[repr(C)]
#[derive(Default)]
struct Request {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

impl Agent {
    /// Starts it; the call with this number gets [`ANSWER`], every other one goes on.
    fn start(case: &Case, denied: i64) -> Outcome<Agent> {
        let path = case.dir.join(format!("agent-{}", crate::runtime::unique()));
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let (told, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (told.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut listeners: Vec<OwnedFd> = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((connection, _)) = listener.accept()
                    && let Ok((fd, message)) = receive(connection.as_raw_fd())
                {
                    listeners.push(fd);
                    shared.lock().unwrap().push(message);
                }
                listeners.retain(|fd| answer(fd, denied));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Ok(Agent { path, told, stop, thread: Some(thread) })
    }

    fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn receive(socket: RawFd) -> io::Result<(OwnedFd, Value)> {
    let mut bytes = [0u8; 16384];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut iov = [io::IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket, &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let (length, mut fds) = (message.bytes, Vec::new());
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(more) = part {
            fds.extend(more);
        }
    }
    let fd = fds.first().ok_or_else(|| io::Error::other("no descriptor came"))?;
    // SAFETY: the kernel has just made it for this process.
    let fd = unsafe { OwnedFd::from_raw_fd(*fd) };
    Ok((fd, serde_json::from_slice(&bytes[..length])?))
}

/// Answers every request that waits; false when nobody can ask any more.
fn answer(fd: &OwnedFd, denied: i64) -> bool {
    const RECV: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    const CONTINUE: u32 = 1;
    loop {
        let mut wanted = [PollFd::new(std::os::fd::AsFd::as_fd(fd), PollFlags::POLLIN)];
        if !poll(&mut wanted, 0u8).is_ok_and(|count| count > 0) {
            return true;
        }
        let events = wanted[0].revents().unwrap_or(PollFlags::empty());
        if !events.contains(PollFlags::POLLIN) {
            return !events.contains(PollFlags::POLLHUP);
        }
        let mut request = Request::default();
        // SAFETY: the kernel writes one seccomp_notif.
        if unsafe { libc::ioctl(fd.as_raw_fd(), RECV as _, &raw mut request) } < 0 {
            return true;
        }
        let deny = i64::from(request.number) == denied;
        let (error, flags) = if deny { (-ANSWER, 0) } else { (0, CONTINUE) };
        let mut response = Response { id: request.id, value: 0, error, flags };
        // SAFETY: the kernel reads one seccomp_notif_resp.
        unsafe { libc::ioctl(fd.as_raw_fd(), SEND as _, &raw mut response) };
    }
}

fn profile(agent: &Agent, names: &[&str]) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": agent.path, "listenerMetadata": "some {metadata}",
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]})
}

/// mkdir of a null pointer: EFAULT if the kernel does it, EDOM if the agent does.
fn asked(case: &Case, no_new_privileges: bool, names: &[&str]) -> Outcome<Vec<Value>> {
    let agent = Agent::start(case, libc::SYS_mkdir)?;
    let call = libc::SYS_mkdir.to_string();
    let bundle = case.bundle()?.with("/linux/seccomp", profile(&agent, names));
    let bundle = bundle.with("/process/noNewPrivileges", json!(no_new_privileges)).probe(&["--syscall", &call]);
    bundle.see(case)?.answers("syscall", &call, &json!("EDOM"))?;
    Ok(agent.told())
}

fn the_agent_answers_and_is_told_who_asks(case: &Case) -> Outcome {
    let told = asked(case, true, &["mkdir"])?;
    let [state] = &told[..] else { return Err(format!("{} states were sent", told.len()).into()) };
    ensure!(state["fds"] == json!(["seccompFd"]), "{state}");
    ensure!(state["metadata"] == "some {metadata}", "{state}");
    ensure!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
    ensure!(state["pid"].as_i64().is_some_and(|pid| pid > 1) && state["pid"] == state["state"]["pid"], "{state}");
    ensure!(state["state"]["status"] == "creating" && state["state"]["bundle"].is_string(), "{state}");
    ensure!(state["state"]["id"].as_str().is_some_and(|id| id.starts_with(&case.tag)), "{state}");
    Ok(())
}

fn a_filter_before_the_loss_of_privileges_notifies_too(case: &Case) -> Outcome {
    asked(case, false, &["mkdir"]).map(drop)
}

fn one_state_comes_by_a_connection_which_is_then_closed(case: &Case) -> Outcome {
    let path = case.dir.join("once");
    let listener = UnixListener::bind(&path)?;
    let thread = std::thread::spawn(move || -> io::Result<(Value, usize, usize)> {
        let (mut connection, _) = listener.accept()?;
        let (fd, state) = receive(connection.as_raw_fd())?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut rest = Vec::new();
        let more = io::Read::read_to_end(&mut connection, &mut rest)?;
        drop(fd);
        // And nobody comes back by another.
        listener.set_nonblocking(true)?;
        std::thread::sleep(Duration::from_millis(100));
        Ok((state, more, usize::from(listener.accept().is_ok())))
    });
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    case.bundle()?.with("/linux/seccomp", profile).args(&["/bin/true"]).run(case)?.succeeds()?;
    let told = thread.join().map_err(|_| "the agent panicked")??;
    ensure!(told.0["fds"] == json!(["seccompFd"]) && told.0["state"].is_object(), "{}", told.0);
    ensure!((told.1, told.2) == (0, 0), "{} bytes and {} connections more", told.1, told.2);
    Ok(())
}

fn exec_has_a_listener_of_its_own(case: &Case) -> Outcome {
    let agent = Agent::start(case, libc::SYS_mkdir)?;
    let call = libc::SYS_mkdir.to_string();
    let bundle = case.bundle()?.with("/linux/seccomp", profile(&agent, &["mkdir"]));
    let bundle = bundle.with("/process/noNewPrivileges", json!(true)).shell("sleep 1000");
    let container = case.run_detached(&bundle)?;
    let seen = container.exec(&["/probe", "--syscall", &call])?.succeeds()?.seen()?;
    seen.answers("syscall", &call, &json!("EDOM"))?;
    let told = agent.told();
    ensure!(told.len() == 2, "{} states were sent", told.len());
    ensure!(told[1]["pid"] != told[1]["state"]["pid"], "{}", told[1]);
    ensure!(told[1]["state"]["pid"] == container.pid && told[1]["state"]["status"] == "running", "{}", told[1]);
    container.end()
}

fn calls_that_the_runtime_itself_needs_do_not_deadlock(case: &Case) -> Outcome {
    let names = [
        "mkdir",
        "execve",
        "openat",
        "read",
        "write",
        "close",
        "fcntl",
        "sendmsg",
        "recvmsg",
        "recvfrom",
        "prctl",
        "capset",
        "setgroups",
        "setresuid",
        "chdir",
        "accept4",
        "close_range",
    ];
    asked(case, true, &names)?;
    asked(case, false, &names).map(drop)
}

fn everything_may_be_asked(case: &Case) -> Outcome {
    let agent = Agent::start(case, libc::SYS_mkdir)?;
    let mut profile = profile(&agent, &["mkdir"]);
    profile["defaultAction"] = json!("SCMP_ACT_NOTIFY");
    profile["syscalls"] = json!([]);
    let bundle = case.bundle()?.with("/linux/seccomp", profile).with("/process/noNewPrivileges", json!(true));
    bundle.args(&["/bin/true"]).run(case)?.succeeds().map(drop)
}

fn create_hands_the_listener_over_before_it_returns(case: &Case) -> Outcome {
    if case.machine.name == "crun" {
        return skip(
            "crun loads the filter now before and now after create returns, and hangs when it is killed between",
        );
    }
    let agent = Agent::start(case, libc::SYS_mkdir)?;
    let call = libc::SYS_mkdir.to_string();
    let bundle = case.bundle()?.with("/linux/seccomp", profile(&agent, &["mkdir", "execve"]));
    let bundle = bundle.with("/process/noNewPrivileges", json!(true)).probe(&["--syscall", &call]);
    let container = case.create(&bundle)?;
    std::thread::sleep(Duration::from_millis(50));
    ensure!(agent.told().len() == 1, "the agent knows nothing of a created container");
    container.start()?;
    ensure!(container.wait()? == 0, "it failed");
    ensure!(container.printed().contains("EDOM"), "{}", container.printed());
    container.delete()
}

fn wait_killable_recv_is_accepted(case: &Case) -> Outcome {
    let agent = Agent::start(case, libc::SYS_mkdir)?;
    let call = libc::SYS_mkdir.to_string();
    let mut profile = profile(&agent, &["mkdir"]);
    profile["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"]);
    let bundle = case.bundle()?.with("/linux/seccomp", profile).probe(&["--syscall", &call]);
    bundle.see(case)?.answers("syscall", &call, &json!("EDOM")).map_err(Into::into)
}

fn notify_without_listener_path_is_refused(case: &Case) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let bundle = case.bundle()?.with("/linux/seccomp", profile).args(&["/bin/true"]);
    bundle.run(case)?.fails(1, "listenerPath").map(drop)
}

fn metadata_without_listener_path_is_refused(case: &Case) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"});
    let bundle = case.bundle()?.with("/linux/seccomp", profile).args(&["/bin/true"]);
    bundle.run(case)?.fails(1, "listenerPath").map(drop)
}

fn an_agent_that_is_not_there_is_an_error_that_leaves_nothing(case: &Case) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/agent",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let bundle = case.bundle()?.with("/linux/seccomp", profile).args(&["/bin/true"]);
    bundle.run(case)?.fails(1, "/no/such/agent").map(drop)
}

fn an_agent_that_hangs_up_is_an_error_or_an_answer(case: &Case) -> Outcome {
    // It accepts, takes the listener and goes away: the kernel answers ENOSYS from then on.
    let path = case.dir.join("fleeting");
    let listener = UnixListener::bind(&path)?;
    let thread = std::thread::spawn(move || {
        let (connection, _) = listener.accept()?;
        receive(connection.as_raw_fd()).map(drop)
    });
    let call = libc::SYS_mkdir.to_string();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let bundle = case.bundle()?.with("/linux/seccomp", profile).probe(&["--syscall", &call]);
    bundle.see(case)?.answers("syscall", &call, &json!("ENOSYS"))?;
    let _ = thread.join();
    Ok(())
}
