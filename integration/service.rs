//! corten as a service: readiness is passed on to the service manager (sd_notify), and so are the descriptors that it has
//! opened (LISTEN_FDS). The harness is the service manager.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::Value;

use crate::bundle::Bundle;
use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    run_passes_readiness_on,
    start_waits_for_readiness_and_names_the_main_process,
    start_ends_with_a_container_that_never_is_ready,
    run_detached_waits_for_readiness,
    other_news_stay_in_the_container,
    without_a_service_manager_there_is_no_socket,
    listen_fds_reach_the_program,
    listen_fds_for_somebody_else_are_ignored,
];

struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(case: &Case) -> Outcome<Manager> {
        let path = case.dir.join("notify").to_string_lossy().into_owned();
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Manager { socket, path })
    }

    /// The next message; the descriptor of a barrier is closed by not taking it.
    fn hears(&self) -> Outcome<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

/// A container that says something to its notify socket, then waits to be killed or ends.
fn telling(case: &Case, text: &str, then: &str) -> Outcome<Bundle> {
    // busybox has no datagram client, so the probe speaks.
    let script = format!("/probe --quiet --notify '{text}'; {then}");
    Ok(case.bundle()?.shell(&script))
}

fn run_passes_readiness_on(case: &Case) -> Outcome {
    let manager = Manager::new(case)?;
    let bundle = telling(case, "READY=1", "sleep 0.3; exit 6")?;
    bundle.write()?;
    case.runtime(&bundle.run_arguments()).env("NOTIFY_SOCKET", &manager.path).go()?.ends_with(6)?;
    let heard = manager.hears()?;
    ensure!(heard.lines().any(|line| line == "READY=1"), "heard {heard:?}");
    Ok(())
}

fn start_waits_for_readiness_and_names_the_main_process(case: &Case) -> Outcome {
    let manager = Manager::new(case)?;
    let bundle = telling(case, "READY=1", "sleep 1000")?;
    bundle.write()?;
    let dir = bundle.dir.to_string_lossy().into_owned();
    let create = case.runtime(&["create", "--bundle", &dir, &bundle.id]);
    create.env("NOTIFY_SOCKET", &manager.path).go()?.succeeds()?;
    case.runtime(&["start", &bundle.id]).env("NOTIFY_SOCKET", &manager.path).go()?.succeeds()?;
    let heard = manager.hears()?;
    let pid = case.state(&bundle.id)?.get("pid").and_then(Value::as_i64).unwrap_or(0);
    let rest = if heard.contains("MAINPID") { String::new() } else { manager.hears()? };
    ensure!(heard.contains("READY=1"), "heard {heard:?}");
    ensure!([heard, rest].concat().contains(&format!("MAINPID={pid}\n")), "not told of {pid}");
    case.delete_force(&bundle.id)
}

fn start_ends_with_a_container_that_never_is_ready(case: &Case) -> Outcome {
    let manager = Manager::new(case)?;
    let bundle = case.bundle()?.shell("sleep 0.3");
    bundle.write()?;
    let dir = bundle.dir.to_string_lossy().into_owned();
    let create = case.runtime(&["create", "--bundle", &dir, &bundle.id]);
    create.env("NOTIFY_SOCKET", &manager.path).go()?.succeeds()?;
    case.runtime(&["start", &bundle.id]).env("NOTIFY_SOCKET", &manager.path).go()?.succeeds()?;
    case.delete_force(&bundle.id)
}

fn run_detached_waits_for_readiness(case: &Case) -> Outcome {
    let manager = Manager::new(case)?;
    let bundle = telling(case, "STATUS=up\nREADY=1", "sleep 1000")?;
    bundle.write()?;
    let dir = bundle.dir.to_string_lossy().into_owned();
    let run = case.runtime(&["run", "--detach", "--bundle", &dir, &bundle.id]);
    run.env("NOTIFY_SOCKET", &manager.path).go()?.succeeds()?;
    ensure!(manager.hears()?.contains("READY=1"), "nothing was heard");
    case.delete_force(&bundle.id)
}

fn other_news_stay_in_the_container(case: &Case) -> Outcome {
    let manager = Manager::new(case)?;
    let bundle = telling(case, "FDSTORE=1\nMAINPID=1", "/probe --quiet --notify READY=1; sleep 0.2")?;
    bundle.write()?;
    case.runtime(&bundle.run_arguments()).env("NOTIFY_SOCKET", &manager.path).go()?.succeeds()?;
    let heard = manager.hears()?;
    ensure!(heard.contains("READY=1") && !heard.contains("FDSTORE") && !heard.contains("MAINPID=1\n"), "{heard:?}");
    Ok(())
}

fn without_a_service_manager_there_is_no_socket(case: &Case) -> Outcome {
    let seen = case.bundle()?.probe(&["--stat", "/run/notify"]).see(case)?;
    ensure!(!seen.get("/env").to_string().contains("NOTIFY_SOCKET"), "the variable is there");
    ensure!(seen.mount("/run/notify").is_err(), "something is mounted there");
    Ok(())
}

/// Runs the probe with descriptors 3 and 4 and the variables of a service manager, meant for this process or not.
fn listening(case: &Case, for_us: bool) -> Outcome<crate::bundle::Seen> {
    let bundle = case.bundle()?.probe(&[]);
    bundle.write()?;
    // The pid is known only to the process itself, so a shell puts it into the environment.
    let pid = if for_us { "$$" } else { "1" };
    let script = format!("LISTEN_PID={pid} LISTEN_FDS=2 LISTEN_FDNAMES=web:db exec \"$@\"");
    let invocation = case.program(std::path::Path::new("/bin/sh")).args(&["-c", &script, "sh"]);
    let invocation = invocation.args(&[case.machine.runtime.as_os_str(), "--root".as_ref(), case.root().as_ref()]);
    let invocation = invocation.args(&bundle.run_arguments()).inheriting(&case.dir, 3..=5)?;
    invocation.go()?.succeeds()?.seen()
}

fn listen_fds_reach_the_program(case: &Case) -> Outcome {
    let seen = listening(case, true)?;
    let env = seen.get("/env").to_string();
    for variable in ["LISTEN_FDS=2", "LISTEN_PID=1", "LISTEN_FDNAMES=web:db"] {
        ensure!(env.contains(variable), "{variable} is not in {env}");
    }
    let fds: Vec<i64> =
        seen.get("/fds").as_array().into_iter().flatten().filter_map(|fd| fd.get("fd")?.as_i64()).collect();
    ensure!(fds == [0, 1, 2, 3, 4], "the descriptors are {fds:?}");
    Ok(())
}

fn listen_fds_for_somebody_else_are_ignored(case: &Case) -> Outcome {
    let seen = listening(case, false)?;
    ensure!(!seen.get("/env").to_string().contains("LISTEN_"), "{}", seen.get("/env"));
    let fds = seen.get("/fds").as_array().map_or(0, Vec::len);
    ensure!(fds == 3, "{fds} descriptors");
    Ok(())
}
