//! Recovery: whatever the moment at which a command is killed, `delete --force` leaves nothing.
//!
//! The driver in `kill_points` kills each process of a command before and after each of its system calls. With
//! `CORTEN_TEST_QUICK` it takes every twentieth point only.

use serde_json::json;

use crate::bundle::Bundle;
use crate::ensure;
use crate::harness::{Case, Outcome, View, skip};
use crate::kill_points::{Command, Subject, WORKERS, kill_at_every_point};
use crate::mounts::Mounted;

crate::tests![; serial:
    a_killed_create_leaves_nothing_after_delete_force,
    a_killed_run_leaves_nothing_after_delete_force,
    a_killed_exec_leaves_nothing_after_delete_force,
    a_killed_start_leaves_nothing_after_delete_force,
    a_killed_delete_leaves_nothing_after_delete_force,
    a_killed_create_in_a_user_namespace_leaves_nothing_after_delete_force,
    a_killed_create_that_joins_namespaces_leaves_nothing_after_delete_force,
];

fn killed(case: &Case, command: Command, at_least: usize) -> Outcome {
    killed_with(case, command, at_least, 1, Ok)
}

/// The same for a bundle that is changed first, at every so many points.
fn killed_with(
    case: &Case,
    command: Command,
    at_least: usize,
    every: usize,
    change: impl FnOnce(Bundle) -> Outcome<Bundle>,
) -> Outcome {
    if !case.machine.is_corten() {
        return skip(
            "the peers leave something after a third to a half of the points, and waiting for it takes minutes",
        );
    }
    let step = if std::env::var_os("CORTEN_TEST_QUICK").is_some() { 20 * every } else { every };
    let mut bundle = case.docker_like()?;
    if case.machine.view == View::V2 {
        for resource in ["memory", "cpu", "pids"] {
            if !case.has_controller(resource) {
                bundle = bundle.without(&format!("/linux/resources/{resource}"));
            }
        }
    }
    let bundle = change(bundle.with("/process/args", json!(["/bin/true"])))?;
    bundle.write()?;
    let root = case.dir.join("kill-points");
    std::fs::create_dir(&root)?;
    let report = kill_at_every_point(
        &Subject {
            runtime: &case.machine.runtime,
            bundle: &bundle.dir,
            root: &root,
            ends: &["/bin/true"],
            stays: &["/bin/sleep", "1000"],
            workers: WORKERS,
            invoker: &case.machine.invoker,
        },
        command,
        step,
    )?;
    println!("{command:?} killed: {report}");
    ensure!(report.dirty.is_empty(), "{report}: {}", report.dirty.join("; "));
    ensure!(report.notes.is_empty(), "without being killed: {}", report.notes.join("; "));
    ensure!(report.points >= at_least / step, "only {} points were hit", report.points);
    Ok(())
}

fn a_killed_create_leaves_nothing_after_delete_force(case: &Case) -> Outcome {
    killed(case, Command::Create, 400)
}

fn a_killed_run_leaves_nothing_after_delete_force(case: &Case) -> Outcome {
    killed(case, Command::Run, 400)
}

fn a_killed_exec_leaves_nothing_after_delete_force(case: &Case) -> Outcome {
    killed(case, Command::Exec, 200)
}

fn a_killed_start_leaves_nothing_after_delete_force(case: &Case) -> Outcome {
    killed(case, Command::Start, 40)
}

fn a_killed_delete_leaves_nothing_after_delete_force(case: &Case) -> Outcome {
    killed(case, Command::Delete, 60)
}

/// A user namespace, with everything that takes a word between the two processes.
fn remapped(bundle: Bundle) -> Outcome<Bundle> {
    let bundle = bundle.in_user_namespace()?.with("/linux/namespaces/-", json!({"type": "time"}));
    Ok(bundle.with("/linux/timeOffsets", json!({"boottime": {"secs": 1000}})))
}

fn a_killed_create_in_a_user_namespace_leaves_nothing_after_delete_force(case: &Case) -> Outcome {
    killed_with(case, Command::Create, 400, 3, remapped)
}

fn a_killed_create_that_joins_namespaces_leaves_nothing_after_delete_force(case: &Case) -> Outcome {
    let pod = remapped(case.docker_like()?)?.probe(&["--quiet", "--hold"]);
    let pod = case.run_detached(&pod)?;
    // The driver has another /proc, so they are kept by mounts, as engines do.
    let mut kept = Vec::new();
    // In an existing user namespace a new PID namespace takes one more process. (One that exists cannot be joined by the
    // driver, which is in another one itself.)
    let mut list = vec![json!({"type": "mount"}), json!({"type": "cgroup"}), json!({"type": "pid"})];
    for (kind, name) in [("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        let file = case.dir.join(name);
        kept.push(Mounted::namespace(pod.pid, name, &file)?);
        list.push(json!({"type": kind, "path": file}));
    }
    let join = |bundle: Bundle| bundle.with("/linux/namespaces", json!(list)).owned_by(100_000);
    killed_with(case, Command::Create, 400, 3, join)?;
    drop(kept);
    pod.end()
}
