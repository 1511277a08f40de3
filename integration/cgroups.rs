//! Cgroups from outside: where the container is, which limits are written, and that all of it goes away again.
//!
//! The limits are those of the hierarchy that the view shows; a controller that is not there is a reason to skip.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bundle::{Check, property};
use crate::harness::{Case, Outcome, skip};
use crate::leftovers::cgroup_directories_named;
use crate::runtime::Container;
use crate::{ensure, tests};

tests![
    memory_limit_is_written,
    memory_reservation_is_written,
    memory_swap_is_written,
    cpu_shares_are_written,
    cpu_quota_and_period_are_written,
    cpuset_is_written,
    pids_limit_is_written,
    pids_limit_minus_one_is_no_limit,
    pids_limit_zero_is_a_limit,
    pids_limit_holds,
    cgroups_path_is_where_the_process_is,
    every_hierarchy_has_the_process,
    a_relative_cgroups_path_is_the_same_place_each_time,
    a_cgroups_path_with_dots_stays_below_the_root,
    the_cgroup_is_gone_after_delete,
    subgroups_are_removed_too,
    a_cgroup_that_existed_stays,
    a_cgroup_with_processes_is_refused,
    delete_force_ends_every_process_of_the_cgroup,
    kill_ends_every_process_without_a_pid_namespace,
    true_runs_in_192_kib,
    a_limit_of_a_missing_controller_is_an_error,
    the_cgroup_mount_shows_the_containers_own_groups,
    a_readonly_cgroup_mount_is_readonly,
];

/// The directory of the container's cgroup that holds a controller's files.
fn group(case: &Case, pid: i32, controller: &str) -> Result<PathBuf, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| error.to_string())?;
    let mut found = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/');
        match (case.machine.cgroup2, controllers) {
            (true, "") => Some(PathBuf::from("/sys/fs/cgroup").join(path)),
            (false, list) if list.split(',').any(|name| name == controller) => {
                Some(PathBuf::from("/sys/fs/cgroup").join(controller).join(path))
            }
            _ => None,
        }
    });
    found.next().ok_or_else(|| format!("{pid} is in no {controller} cgroup: {text}"))
}

/// What a cgroup file of the container holds: the name on v1, or that on v2.
fn limit(case: &Case, container: &Container, controller: &str, v1: &str, v2: &str) -> Result<String, String> {
    let file = group(case, container.pid, controller)?.join(if case.machine.cgroup2 { v2 } else { v1 });
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn need(case: &Case, controller: &str) -> Outcome {
    if case.has_controller(controller) { Ok(()) } else { skip(format!("this view has no {controller} controller")) }
}

/// A limit has to be found in the file of its controller: value on v1, value on v2.
fn is_written(case: &Case, resource: (&str, Value), files: [&str; 3], values: [&str; 2]) -> Outcome {
    let ([controller, v1, v2], [on_v1, on_v2]) = (files, values);
    need(case, controller)?;
    let expected = if case.machine.cgroup2 { on_v2 } else { on_v1 };
    let pointer = format!("/linux/resources{}", resource.0);
    property(case, &pointer, resource.1).holds_outside(|container| -> Check {
        let found = limit(case, container, controller, v1, v2)?;
        ensure!(found == expected, "the limit is {found}, not {expected}");
        Ok(())
    })
}

fn memory_limit_is_written(case: &Case) -> Outcome {
    let files = ["memory", "memory.limit_in_bytes", "memory.max"];
    is_written(case, ("/memory/limit", json!(100 << 20)), files, ["104857600", "104857600"])
}

fn memory_reservation_is_written(case: &Case) -> Outcome {
    let files = ["memory", "memory.soft_limit_in_bytes", "memory.low"];
    is_written(case, ("/memory/reservation", json!(50 << 20)), files, ["52428800", "52428800"])
}

fn memory_swap_is_written(case: &Case) -> Outcome {
    let memory = json!({"limit": 100 << 20, "swap": 150 << 20});
    let files = ["memory", "memory.memsw.limit_in_bytes", "memory.swap.max"];
    is_written(case, ("/memory", memory), files, ["157286400", "52428800"])
}

fn cpu_shares_are_written(case: &Case) -> Outcome {
    is_written(case, ("/cpu/shares", json!(512)), ["cpu", "cpu.shares", "cpu.weight"], ["512", "59"])
}

fn cpu_quota_and_period_are_written(case: &Case) -> Outcome {
    let cpu = json!({"quota": 30000, "period": 60000});
    is_written(case, ("/cpu", cpu.clone()), ["cpu", "cpu.cfs_quota_us", "cpu.max"], ["30000", "30000 60000"])?;
    is_written(case, ("/cpu", cpu), ["cpu", "cpu.cfs_period_us", "cpu.max"], ["60000", "30000 60000"])
}

fn cpuset_is_written(case: &Case) -> Outcome {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip("there is one CPU only");
    }
    is_written(case, ("/cpu/cpus", json!("0")), ["cpuset", "cpuset.cpus", "cpuset.cpus"], ["0", "0"])
}

fn pids_limit_is_written(case: &Case) -> Outcome {
    is_written(case, ("/pids/limit", json!(77)), ["pids", "pids.max", "pids.max"], ["77", "77"])
}

fn pids_limit_minus_one_is_no_limit(case: &Case) -> Outcome {
    need(case, "pids")?;
    let alternative = json!({"limit": 5});
    let minus_one = property(case, "/linux/resources/pids", json!({"limit": -1})).instead_of(alternative);
    minus_one.holds_outside(|container| {
        let found = limit(case, container, "pids", "pids.max", "pids.max")?;
        ensure!(found == "max", "the limit is {found}");
        Ok(())
    })
}

fn pids_limit_zero_is_a_limit(case: &Case) -> Outcome {
    is_written(case, ("/pids/limit", json!(0)), ["pids", "pids.max", "pids.max"], ["0", "0"])
}

fn pids_limit_holds(case: &Case) -> Outcome {
    need(case, "pids")?;
    // getpid made in a child of the probe: the child is one process too many.
    property(case, "/linux/resources/pids", json!({"limit": 1}))
        .probe(&["--syscall", "39"])
        .holds(|seen| seen.answers("syscall", "39", &json!("fork: EAGAIN")))
}

fn cgroups_path_is_where_the_process_is(case: &Case) -> Outcome {
    let path = format!("/corten-test/{}-here", case.tag);
    property(case, "/linux/cgroupsPath", json!(path)).holds_outside(|container| {
        let group = group(case, container.pid, "devices")?;
        ensure!(group.to_string_lossy().ends_with(&path), "it is in {}", group.display());
        Ok(())
    })
}

fn every_hierarchy_has_the_process(case: &Case) -> Outcome {
    let path = format!("/corten-test/{}-here", case.tag);
    let container = case.create(&case.bundle()?.with("/linux/cgroupsPath", json!(path)))?;
    let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid))?;
    let outside: Vec<_> = text
        .lines()
        .filter(|line| !line.ends_with(&path))
        // What the view does not show cannot be used: v1 hierarchies under v2, cgroup2 where it is hidden from crun.
        .filter(|line| {
            if case.machine.cgroup2 {
                line.starts_with("0:")
            } else {
                !line.starts_with("0:")
            }
        })
        .collect();
    ensure!(outside.is_empty(), "outside of {path}: {outside:?}");
    case.delete_force(&container.id)
}

fn a_relative_cgroups_path_is_the_same_place_each_time(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/linux/cgroupsPath", json!(format!("{}-relative", case.tag)));
    let mut places = Vec::new();
    for _ in 0..2 {
        let container = case.create(&bundle)?;
        places.push(fs::read_to_string(format!("/proc/{}/cgroup", container.pid))?);
        case.delete_force(&container.id)?;
    }
    ensure!(places.first() == places.get(1) && places.concat().contains("-relative"), "the places are {places:?}");
    Ok(())
}

fn a_cgroups_path_with_dots_stays_below_the_root(case: &Case) -> Outcome {
    let name = format!("{}-dots", case.tag);
    let bundle = case.bundle()?.with("/linux/cgroupsPath", json!(format!("/corten-test/../../../{name}")));
    let output = bundle.run(case)?;
    ensure!(output.status == 0 || output.status == 1 && output.stderr.contains("cgroup"), "{output}");
    // On v1 that directory is a tmpfs, in which only the hierarchies lie.
    let beside = !case.machine.cgroup2 && PathBuf::from("/sys/fs/cgroup").join(&name).exists();
    ensure!(!beside, "it was made beside the hierarchies");
    Ok(())
}

fn the_cgroup_is_gone_after_delete(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.probe(&["--hold"]))?;
    let before = cgroup_directories_named(&container.id);
    ensure!(!before.is_empty(), "it has no cgroup");
    container.end()?;
    let after = cgroup_directories_named(&container.id);
    ensure!(after.is_empty(), "after delete there are {after:?}");
    Ok(())
}

fn subgroups_are_removed_too(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.probe(&["--hold"]))?;
    for dir in cgroup_directories_named(&container.id) {
        fs::create_dir_all(dir.join("sub/deeper"))?;
    }
    container.end()
}

fn a_cgroup_that_existed_stays(case: &Case) -> Outcome {
    let path = format!("corten-test/{}-mine", case.tag);
    let base = if case.machine.cgroup2 { PathBuf::from("/sys/fs/cgroup") } else { "/sys/fs/cgroup/pids".into() };
    let dir = base.join(&path);
    fs::create_dir_all(&dir)?;
    let output = case.bundle()?.with("/linux/cgroupsPath", json!(format!("/{path}"))).run(case)?;
    let stays = dir.exists();
    let _ = fs::remove_dir(&dir);
    // Refusing it is allowed as well: then nothing has happened to it.
    ensure!(stays, "the container has removed a cgroup that it had not made: {output}");
    Ok(())
}

fn a_cgroup_with_processes_is_refused(case: &Case) -> Outcome {
    let first = case.docker_like()?.probe(&["--hold"]);
    let path = first.config.pointer("/linux/cgroupsPath").cloned().unwrap_or_default();
    let first = case.run_detached(&first)?;
    let output = case.bundle()?.with("/linux/cgroupsPath", path).run(case)?;
    output.fails(1, "cgroup")?;
    ensure!(case.status(&first.id)? == "running", "the first container was hurt");
    first.end()
}

/// A bundle without a pid namespace, whose init leaves a child in a session of its own.
fn with_a_straggler(case: &Case) -> Outcome<crate::bundle::Bundle> {
    let bundle = case.docker_like()?.shell("sleep 1000 & echo up; exec sleep 1000");
    Ok(bundle.with("/linux/namespaces", json!([{"type": "mount"}, {"type": "cgroup"}])).without("/hostname"))
}

fn delete_force_ends_every_process_of_the_cgroup(case: &Case) -> Outcome {
    let container = case.run_detached(&with_a_straggler(case)?)?;
    container.prints("up")?;
    // The init process is gone before delete: what is left is found by the cgroup only.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(container.pid), nix::sys::signal::Signal::SIGKILL)?;
    container.wait()?;
    case.delete_force(&container.id)
}

fn kill_ends_every_process_without_a_pid_namespace(case: &Case) -> Outcome {
    let container = case.run_detached(&with_a_straggler(case)?)?;
    container.prints("up")?;
    container.kill("KILL")?;
    container.wait()?;
    container.delete()
}

fn true_runs_in_192_kib(case: &Case) -> Outcome {
    need(case, "memory")?;
    crate::limits::not_on_user_mode_linux()?;
    let bundle = case.bundle()?.with("/linux/resources/memory/limit", json!(192 << 10)).args(&["/bin/true"]);
    bundle.run(case)?.succeeds().map(drop)
}

fn a_limit_of_a_missing_controller_is_an_error(case: &Case) -> Outcome {
    if case.has_controller("memory") {
        return skip("this view has all controllers");
    }
    property(case, "/linux/resources/memory", json!({"limit": 1 << 30})).refused("memory")
}

fn the_cgroup_mount_shows_the_containers_own_groups(case: &Case) -> Outcome {
    let file = if case.machine.cgroup2 { "/sys/fs/cgroup/cgroup.procs" } else { "/sys/fs/cgroup/pids/cgroup.procs" };
    let seen = case.docker_like()?.probe(&["--read", file]).see(case)?;
    ensure!(seen.text(file)?.lines().eq(["1"]), "the processes are {:?}", seen.text(file)?);
    Ok(())
}

fn a_readonly_cgroup_mount_is_readonly(case: &Case) -> Outcome {
    let dir = if case.machine.cgroup2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
    let file = format!("{dir}/cgroup.procs");
    let seen = case.docker_like()?.probe(&["--write", &file]).see(case)?;
    seen.answers("write", &file, &json!("EROFS"))?;
    Ok(seen.mounted_with(dir, &["ro", "nosuid", "nodev", "noexec"])?)
}
