//! Recovery: whatever the moment at which a command is killed, `delete --force` leaves nothing.
//!
//! The driver in `kill_points` kills each process of a command before and after each of its system calls. With
//! `CORTEN_TEST_QUICK` it takes every twentieth point only.

use serde_json::json;

use crate::ensure;
use crate::harness::{Case, Outcome, View, skip};
use crate::kill_points::{Command, Subject, WORKERS, kill_at_every_point};

crate::tests![; serial:
    a_killed_create_leaves_nothing_after_delete_force,
    a_killed_run_leaves_nothing_after_delete_force,
    a_killed_exec_leaves_nothing_after_delete_force,
    a_killed_start_leaves_nothing_after_delete_force,
    a_killed_delete_leaves_nothing_after_delete_force,
];

fn killed(case: &Case, command: Command, at_least: usize) -> Outcome {
    if !case.machine.is_corten() {
        return skip(
            "the peers leave something after a third to a half of the points, and waiting for it takes minutes",
        );
    }
    let step = if std::env::var_os("CORTEN_TEST_QUICK").is_some() { 20 } else { 1 };
    let mut bundle = case.docker_like()?;
    if case.machine.view == View::V2 {
        for resource in ["memory", "cpu", "pids"] {
            if !case.has_controller(resource) {
                bundle = bundle.without(&format!("/linux/resources/{resource}"));
            }
        }
    }
    let bundle = bundle.with("/process/args", json!(["/bin/true"]));
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
