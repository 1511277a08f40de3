//! Time namespaces with their offsets; and every kind of namespace joined by path, or refused because it is another kind.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::bundle::{Check, Seen, property, within};
use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    the_clocks_are_shifted,
    a_clock_may_go_back,
    nanoseconds_count,
    offsets_go_with_a_user_namespace,
    a_time_namespace_without_offsets_is_new,
    the_first_process_is_in_the_time_namespace,
    exec_is_in_the_time_namespace,
    a_joined_time_namespace_has_its_offsets,
    offsets_without_a_new_time_namespace_are_refused,
    an_unknown_clock_is_refused,
    too_many_nanoseconds_are_refused,
    an_offset_that_the_kernel_refuses_is_an_error,
    each_kind_of_namespace_is_joined,
    a_mount_namespace_of_a_container_is_joined,
    another_kind_of_namespace_is_refused_by_name,
    what_is_no_namespace_is_refused,
    each_kind_is_refused_when_given_twice,
];

/// Type in config.json, name in /proc/self/ns.
pub const KINDS: [(&str, &str); 8] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mount", "mnt"),
    ("network", "net"),
    ("pid", "pid"),
    ("time", "time"),
    ("user", "user"),
    ("uts", "uts"),
];

fn namespace(kind: &str) -> Value {
    json!({"type": kind})
}

/// The time of a clock of the host.
fn now(clock: &str) -> Result<f64, String> {
    let clock = match clock {
        "monotonic" => nix::time::ClockId::CLOCK_MONOTONIC,
        _ => nix::time::ClockId::CLOCK_BOOTTIME,
    };
    let time = nix::time::clock_gettime(clock).map_err(|error| error.to_string())?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// A clock in the container has to be ahead of the host's by some seconds, which was read before the container ran.
fn is_ahead(seen: &Seen, clock: &str, before: f64, offset: f64) -> Check {
    let found = seen.get(&format!("/clocks/{clock}")).as_f64().ok_or("the probe saw no clock")?;
    let range = before + offset..=now(clock)? + offset;
    ensure!(range.contains(&found), "{clock} is {found}, not within {range:?}");
    Ok(())
}

fn the_clocks_are_shifted(case: &Case) -> Outcome {
    let before = (now("monotonic")?, now("boottime")?);
    let offsets = json!({"monotonic": {"secs": 86400}, "boottime": {"secs": 604_800}});
    property(case, "/linux/timeOffsets", offsets).given("/linux/namespaces/-", namespace("time")).holds(|seen| {
        is_ahead(seen, "monotonic", before.0, 86400.0)?;
        is_ahead(seen, "boottime", before.1, 604_800.0)
    })?;
    // One without the other.
    property(case, "/linux/timeOffsets", json!({"boottime": {"secs": 1000}}))
        .given("/linux/namespaces/-", namespace("time"))
        .holds(|seen| {
            is_ahead(seen, "monotonic", before.0, 0.0)?;
            is_ahead(seen, "boottime", before.1, 1000.0)
        })
}

fn a_clock_may_go_back(case: &Case) -> Outcome {
    let before = now("monotonic")?;
    let offset = -before.min(1000.0).floor() + 1.0;
    // Both runs are over before the clock has gone on by that much.
    property(case, "/linux/timeOffsets", json!({"monotonic": {"secs": offset as i64}}))
        .given("/linux/namespaces/-", namespace("time"))
        .holds(|seen| is_ahead(seen, "monotonic", before, offset))
}

fn nanoseconds_count(case: &Case) -> Outcome {
    let before = now("boottime")?;
    let offsets = json!({"boottime": {"secs": 100, "nanosecs": 999_999_999}});
    property(case, "/linux/timeOffsets", offsets)
        .instead_of(json!({"boottime": {"secs": 0}}))
        .given("/linux/namespaces/-", namespace("time"))
        .holds(|seen| is_ahead(seen, "boottime", before, 100.999))
}

fn offsets_go_with_a_user_namespace(case: &Case) -> Outcome {
    let before = now("boottime")?;
    property(case, "/linux/timeOffsets", json!({"boottime": {"secs": 5000}}))
        .given("/linux/namespaces/-", namespace("time"))
        .prepared(crate::bundle::enter_user_namespace)
        .holds(|seen| {
            ensure!(
                seen.get("/owners/time") == seen.get("/namespaces/user"),
                "it belongs to {}",
                seen.get("/owners/time")
            );
            is_ahead(seen, "boottime", before, 5000.0)
        })
}

fn a_time_namespace_without_offsets_is_new(case: &Case) -> Outcome {
    let own = fs::metadata("/proc/self/ns/time")?.ino();
    let before = now("monotonic")?;
    property(case, "/linux/namespaces/-", namespace("time")).holds(|seen| {
        ensure!(
            seen.get("/namespaces/time").is_u64() && seen.get("/namespaces/time") != &json!(own),
            "it is the host's"
        );
        is_ahead(seen, "monotonic", before, 0.0)
    })
}

fn the_first_process_is_in_the_time_namespace(case: &Case) -> Outcome {
    let (own, children) = ("/proc/self/ns/time", "/proc/self/ns/time_for_children");
    let bundle = case.bundle()?.with("/linux/namespaces/-", namespace("time"));
    let seen = bundle.probe(&["--stat", own, "--stat", children]).see(case)?;
    let target = |link: &str| seen.answer("stat", link).get("target").cloned().unwrap_or_default();
    ensure!(target(own).is_string() && target(own) == target(children), "{} and {}", target(own), target(children));
    Ok(())
}

fn exec_is_in_the_time_namespace(case: &Case) -> Outcome {
    let before = now("boottime")?;
    let bundle = case.bundle()?.with("/linux/namespaces/-", namespace("time")).probe(&["--hold"]);
    let container = case.run_detached(&bundle.with("/linux/timeOffsets", json!({"boottime": {"secs": 777}})))?;
    let inode = fs::metadata(format!("/proc/{}/ns/time", container.pid))?.ino();
    let seen = container.exec(&["/probe"])?.succeeds()?.seen()?;
    seen.is("/namespaces/time", &json!(inode))?;
    is_ahead(&seen, "boottime", before, 777.0)?;
    container.end()
}

fn a_joined_time_namespace_has_its_offsets(case: &Case) -> Outcome {
    let before = now("boottime")?;
    let bundle = case.bundle()?.with("/linux/namespaces/-", namespace("time")).probe(&["--hold"]);
    let holder = case.run_detached(&bundle.with("/linux/timeOffsets", json!({"boottime": {"secs": 4321}})))?;
    let path = format!("/proc/{}/ns/time", holder.pid);
    property(case, "/linux/namespaces/-", json!({"type": "time", "path": path}))
        .holds(|seen| is_ahead(seen, "boottime", before, 4321.0))?;
    let offsets = json!({"boottime": {"secs": 1}});
    let bundle = case.bundle()?.with("/linux/namespaces/-", json!({"type": "time", "path": path}));
    bundle.with("/linux/timeOffsets", offsets).run(case)?.fails(1, "")?;
    holder.end()
}

fn offsets_without_a_new_time_namespace_are_refused(case: &Case) -> Outcome {
    property(case, "/linux/timeOffsets", json!({"boottime": {"secs": 1}})).refused("")
}

fn an_unknown_clock_is_refused(case: &Case) -> Outcome {
    for clock in ["realtime", "", "Boottime"] {
        let mut offsets = json!({});
        offsets[clock] = json!({"secs": 1});
        property(case, "/linux/timeOffsets", offsets).given("/linux/namespaces/-", namespace("time")).refused("")?;
    }
    Ok(())
}

fn too_many_nanoseconds_are_refused(case: &Case) -> Outcome {
    property(case, "/linux/timeOffsets", json!({"boottime": {"secs": 1, "nanosecs": 1_000_000_000}}))
        .given("/linux/namespaces/-", namespace("time"))
        .refused("")
}

fn an_offset_that_the_kernel_refuses_is_an_error(case: &Case) -> Outcome {
    // Before the machine was started, and after the end of time.
    for seconds in [-1_000_000_000_i64, i64::MAX] {
        property(case, "/linux/timeOffsets", json!({"boottime": {"secs": seconds}}))
            .given("/linux/namespaces/-", namespace("time"))
            .refused("")?;
    }
    Ok(())
}

/// A process of the test's own in new namespaces, ended with the test.
struct Holder(std::process::Child);

impl Holder {
    fn new(flags: &[&str]) -> Outcome<Holder> {
        let mut command = std::process::Command::new("unshare");
        command.args(["--propagation", "private"]).args(flags).args(["sleep", "1000"]);
        let holder = Holder(command.spawn()?);
        for _ in 0..500 {
            let name = fs::read_to_string(format!("/proc/{}/comm", holder.0.id())).unwrap_or_default();
            if name.trim() == "sleep" {
                return Ok(holder);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err("unshare does not execute sleep".into())
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

fn each_kind_of_namespace_is_joined(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.in_user_namespace()?.probe(&["--hold"]);
    for (kind, _) in KINDS.iter().filter(|(kind, _)| !matches!(*kind, "mount" | "pid" | "user")) {
        bundle = bundle.with("/linux/namespaces/-", namespace(kind));
    }
    let container = case.run_detached(&bundle)?;
    container.prints("\n")?;
    let mounts = Holder::new(&["--mount"])?;
    for (kind, name) in KINDS {
        let path = match kind {
            "mount" => mounts.path(name),
            _ => format!("/proc/{}/ns/{name}", container.pid),
        };
        let expected = fs::metadata(&path)?.ino();
        let list: Vec<Value> =
            ["mount", "pid"].iter().filter(|other| **other != kind).map(|other| namespace(other)).collect();
        property(case, "/linux/namespaces/-", json!({"type": kind, "path": path}))
            .instead_of(namespace(if kind == "user" { "uts" } else { kind }))
            .given("/linux/namespaces", json!(list))
            .prepared(|bundle| crate::bundle::give_away(&bundle.rootfs(), 100_000))
            .holds(|seen| seen.is(&format!("/namespaces/{name}"), &json!(expected)))
            .map_err(|stop| within(stop, kind))?;
    }
    container.end()
}

fn a_mount_namespace_of_a_container_is_joined(case: &Case) -> Outcome {
    // There the path of the rootfs leads nowhere.
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet", "--hold"]))?;
    let path = format!("/proc/{}/ns/mnt", container.pid);
    let expected = fs::metadata(&path)?.ino();
    let list = json!([namespace("pid"), {"type": "mount", "path": path}]);
    let seen = case.bundle()?.with("/linux/namespaces", list).see(case)?;
    seen.is("/namespaces/mnt", &json!(expected))?;
    container.end()
}

fn another_kind_of_namespace_is_refused_by_name(case: &Case) -> Outcome {
    for (position, (kind, _)) in KINDS.iter().enumerate() {
        let (other, name) = KINDS[(position + 1) % KINDS.len()];
        let path = format!("/proc/self/ns/{name}");
        let mut list = vec![json!({"type": kind, "path": path})];
        list.extend(["mount", "pid"].iter().filter(|known| *known != kind).map(|known| namespace(known)));
        let bundle = case.bundle()?.with("/linux/namespaces", json!(list));
        let output = bundle.run(case)?.fails(1, "").map_err(|stop| within(stop, kind))?;
        if case.machine.is_corten() {
            let text = format!("it is a {other} namespace");
            ensure!(output.stderr.contains(&text) && output.stderr.contains(kind), "{kind}: no {text:?} in {output}");
        }
        ensure!(
            !bundle.dir.join("rootfs/mnt").exists() && fs::read_dir(case.root())?.next().is_none(),
            "it left something"
        );
    }
    Ok(())
}

fn what_is_no_namespace_is_refused(case: &Case) -> Outcome {
    let fifo = case.dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    let paths = [fifo.to_string_lossy().into_owned(), "/etc/passwd".into(), "/tmp".into(), "/dev/null".into()];
    for (kind, _) in KINDS {
        for path in &paths {
            let mut list = vec![json!({"type": kind, "path": path})];
            list.extend(["mount", "pid"].iter().filter(|known| **known != kind).map(|known| namespace(known)));
            let output = case.bundle()?.with("/linux/namespaces", json!(list)).run(case)?;
            output.fails(1, "").map_err(|stop| within(stop, &format!("{kind} {path}")))?;
        }
    }
    Ok(())
}

fn each_kind_is_refused_when_given_twice(case: &Case) -> Outcome {
    for (kind, name) in KINDS {
        for second in [namespace(kind), json!({"type": kind, "path": format!("/proc/self/ns/{name}")})] {
            let mut list: Vec<Value> = ["mount", "pid"].iter().map(|known| namespace(known)).collect();
            if !matches!(kind, "mount" | "pid") {
                list.push(namespace(kind));
            }
            list.push(second);
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            let mut bundle = case.bundle()?.with("/linux/namespaces", json!(list));
            if kind == "user" {
                bundle = bundle.with("/linux/uidMappings", ids.clone()).with("/linux/gidMappings", ids);
            }
            bundle.run(case)?.fails(1, "").map_err(|stop| within(stop, kind))?;
        }
    }
    Ok(())
}
