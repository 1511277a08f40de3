//! `process.scheduler`, `process.ioPriority`, `process.execCPUAffinity`, `linux.memoryPolicy` and `linux.personality`, for
//! init and for exec, and the CPU affinity of the caller, which a container does not inherit.

use std::fs;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::{Bundle, Check, Seen, property};
use crate::harness::{Case, Outcome, View, skip};
use crate::runtime::Container;
use crate::tests;

tests![
    fair_policies_and_nice_are_set,
    real_time_policies_and_priority_are_set,
    the_deadline_policy_is_set,
    scheduler_flags_are_set,
    scheduler_values_that_do_not_go_together_are_refused,
    io_priority_is_set,
    io_priorities_out_of_range_or_without_class_are_refused,
    exec_has_scheduler_and_io_priority_of_the_container,
    exec_process_has_scheduler_and_io_priority_of_the_file,
    exec_process_with_wrong_values_is_refused,
    exec_cpu_affinity_initial_is_set,
    exec_cpu_affinity_final_is_set,
    exec_cpu_affinity_may_be_empty,
    exec_cpu_affinity_that_is_no_list_is_refused,
    exec_cpu_affinity_of_no_cpu_is_an_error,
    init_does_not_have_the_cpu_affinity_of_exec,
    the_cpu_affinity_of_the_caller_is_reset,
    the_cpu_affinity_of_the_caller_is_reset_for_exec,
    the_cpu_affinity_is_reset_to_the_cpuset,
    memory_policy_mode_and_nodes_are_set,
    memory_policy_flags_are_set,
    memory_policies_that_do_not_go_together_are_refused,
    memory_nodes_above_1024_reach_the_kernel,
    exec_has_the_memory_policy_of_the_container,
    personality_linux32_is_set,
    personality_linux_is_set,
    a_flag_of_personality_is_refused,
    exec_has_the_personality_of_the_container,
];

const SCHEDULER: &str = "/process/scheduler";

/// The scheduler has these attributes.
fn is_scheduled(seen: &Seen, attributes: &[(&str, i64)]) -> Check {
    for (name, value) in attributes {
        seen.is(&format!("/scheduler/{name}"), &json!(value))?;
    }
    Ok(())
}

fn fair_policies_and_nice_are_set(case: &Case) -> Outcome {
    for (policy, number, nice) in [("SCHED_OTHER", 0, 5), ("SCHED_OTHER", 0, -20), ("SCHED_BATCH", 3, 19)] {
        property(case, SCHEDULER, json!({"policy": policy, "nice": nice}))
            .holds(|seen| is_scheduled(seen, &[("policy", number), ("nice", nice)]))?;
    }
    property(case, SCHEDULER, json!({"policy": "SCHED_IDLE"})).holds(|seen| is_scheduled(seen, &[("policy", 5)]))
}

/// cgroup v1 lets nobody be real-time in a new cgroup unless it is given time.
fn real_time_bandwidth(case: &Case, bundle: &mut Bundle) {
    let controller = "/sys/fs/cgroup/cpu/cpu.rt_runtime_us";
    if case.machine.view == View::Host && !case.machine.cgroup2 && fs::exists(controller).unwrap_or(false) {
        let cpu = json!({"realtimePeriod": 1_000_000, "realtimeRuntime": 1000});
        crate::bundle::set(&mut bundle.config, "/linux/resources/cpu", cpu);
    }
}

/// Where kernels are built with RT_GROUP_SCHED, cgroup v2 lets nobody be real-time outside its root, whoever asks.
fn needs_real_time(case: &Case) -> Outcome {
    let attempt = case.program(Path::new("/bin/true")).before_exec(|| {
        let priority: libc::c_int = 1;
        // SAFETY: the kernel reads a sched_param, which is one int.
        match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &raw const priority) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    });
    if attempt.go().is_ok() { Ok(()) } else { skip("nobody may be real-time in the cgroup that the tests run in") }
}

fn real_time_policies_and_priority_are_set(case: &Case) -> Outcome {
    needs_real_time(case)?;
    for (policy, number, priority) in [("SCHED_FIFO", 1, 1), ("SCHED_RR", 2, 99)] {
        property(case, SCHEDULER, json!({"policy": policy, "priority": priority}))
            .prepared(|bundle| {
                real_time_bandwidth(case, bundle);
                Ok(())
            })
            .holds(|seen| is_scheduled(seen, &[("policy", number), ("priority", priority)]))?;
    }
    Ok(())
}

fn deadline(flags: &[&str]) -> Value {
    json!({
        "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 50_000_000, "period": 100_000_000, "flags": flags,
    })
}

fn the_deadline_policy_is_set(case: &Case) -> Outcome {
    let expected = [("policy", 6), ("runtime", 1_000_000), ("deadline", 50_000_000), ("period", 100_000_000)];
    property(case, SCHEDULER, deadline(&[])).holds(|seen| is_scheduled(seen, &expected))
}

fn scheduler_flags_are_set(case: &Case) -> Outcome {
    let scheduler = json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    property(case, SCHEDULER, scheduler).holds(|seen| is_scheduled(seen, &[("flags", 1)]))?;
    for (flag, bit) in [("SCHED_FLAG_RECLAIM", 2), ("SCHED_FLAG_DL_OVERRUN", 4)] {
        property(case, SCHEDULER, deadline(&[flag])).holds(|seen| is_scheduled(seen, &[("flags", bit)]))?;
    }
    // With both of these nothing at all is changed.
    let keep =
        json!({"policy": "SCHED_BATCH", "nice": 9, "flags": ["SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS"]});
    let seen = case.bundle()?.with(SCHEDULER, keep).see(case)?;
    Ok(is_scheduled(&seen, &[("policy", 0), ("nice", 0)])?)
}

fn scheduler_values_that_do_not_go_together_are_refused(case: &Case) -> Outcome {
    for (scheduler, field) in [
        (json!({"policy": "SCHED_OTHER", "nice": 20}), "nice"),
        (json!({"policy": "SCHED_BATCH", "nice": -21}), "nice"),
        (json!({"policy": "SCHED_OTHER", "priority": 1}), "priority"),
        (json!({"policy": "SCHED_IDLE", "runtime": 1}), "runtime"),
        (json!({"policy": "SCHED_FIFO", "priority": 1, "period": 1}), "period"),
        (json!({"policy": "SCHED_FIFO", "priority": 100}), "sched"),
        (json!({"policy": "SCHED_RR"}), "sched"),
        (json!({"policy": "SCHED_NOSUCH"}), "policy"),
        (json!({"nice": 1}), "policy"),
        (json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NOSUCH"]}), "flag"),
    ] {
        property(case, SCHEDULER, scheduler).refused(field)?;
    }
    Ok(())
}

fn io_priority_is_set(case: &Case) -> Outcome {
    for (class, level, value) in
        [("IOPRIO_CLASS_BE", 7, 2 << 13 | 7), ("IOPRIO_CLASS_RT", 0, 1 << 13), ("IOPRIO_CLASS_IDLE", 3, 3 << 13 | 3)]
    {
        property(case, "/process/ioPriority", json!({"class": class, "priority": level}))
            .holds(|seen| seen.is("/process/ioprio", &json!(value)))?;
    }
    Ok(())
}

fn io_priorities_out_of_range_or_without_class_are_refused(case: &Case) -> Outcome {
    for (priority, field) in [
        (json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "/priority"),
        (json!({"class": "IOPRIO_CLASS_BE", "priority": -1}), "/priority"),
        (json!({"class": "IOPRIO_CLASS_NOSUCH", "priority": 1}), "/class"),
        (json!({"priority": 1}), ": missing field `class`"),
    ] {
        let pointer = format!("/process/ioPriority{field}");
        property(case, "/process/ioPriority", priority).refused(if case.machine.is_corten() {
            &pointer
        } else {
            ""
        })?;
    }
    Ok(())
}

/// A container that stays, and what the probe sees when it is executed in it.
fn exec_sees<'c>(case: &'c Case, bundle: Bundle) -> Outcome<(Container<'c>, Seen)> {
    let container = case.run_detached(&bundle.probe(&["--hold"]))?;
    let seen = container.exec(&["/probe"])?.succeeds()?.seen()?;
    Ok((container, seen))
}

fn exec_has_scheduler_and_io_priority_of_the_container(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with(SCHEDULER, json!({"policy": "SCHED_BATCH", "nice": 4}));
    let bundle = bundle.with("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
    let (container, seen) = exec_sees(case, bundle)?;
    is_scheduled(&seen, &[("policy", 3), ("nice", 4)])?;
    seen.is("/process/ioprio", &json!(2 << 13 | 6))?;
    container.end()
}

/// Executes the probe as the process of a file says, which the container's own does not matter for.
fn exec_process(case: &Case, container: &Container<'_>, process: Value) -> Outcome<crate::runtime::Output> {
    let mut whole = json!({"args": ["/probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    if let (Some(whole), Some(more)) = (whole.as_object_mut(), process.as_object()) {
        whole.extend(more.clone());
    }
    let file = case.dir.join("process.json");
    fs::write(&file, whole.to_string())?;
    case.run(&["exec", "--process", &file.to_string_lossy(), &container.id])
}

fn exec_process_has_scheduler_and_io_priority_of_the_file(case: &Case) -> Outcome {
    if case.machine.name == "crun" {
        return skip("crun sets the scheduler from outside, now before and now after the program begins");
    }
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let process = json!({
        "scheduler": {"policy": "SCHED_OTHER", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
    });
    let seen = exec_process(case, &container, process)?.succeeds()?.seen()?;
    is_scheduled(&seen, &[("policy", 0), ("nice", 3), ("flags", 1)])?;
    seen.is("/process/ioprio", &json!(3 << 13))?;
    container.end()
}

fn exec_process_with_wrong_values_is_refused(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    for (wrong, field) in [
        (json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 77}}), "/scheduler/nice"),
        (json!({"ioPriority": {"priority": 1}}), "/ioPriority: missing field `class`"),
        (json!({"execCPUAffinity": {"final": "3-1"}}), "/execCPUAffinity/final"),
    ] {
        let text = if case.machine.is_corten() { field } else { "" };
        exec_process(case, &container, wrong)?.fails(255, text)?;
    }
    container.end()
}

/// The CPUs on which this process may run; a test that wants another affinity needs two of them.
fn cpus() -> Outcome<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
    if cpus.len() < 2 { skip("the machine has one CPU, so there is nothing to choose") } else { Ok(cpus) }
}

fn runs_on(seen: &Seen, cpus: &[usize]) -> Check {
    seen.is("/cpus_allowed", &json!(cpus))
}

/// What an exec with this execCPUAffinity in the configuration runs on; and one in which it is a file's.
fn execs_run_on(case: &Case, affinity: &Value, expected: &[usize]) -> Outcome {
    let (container, seen) = exec_sees(case, case.bundle()?.with("/process/execCPUAffinity", affinity.clone()))?;
    runs_on(&seen, expected)?;
    container.end()?;
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let seen = exec_process(case, &container, json!({"execCPUAffinity": affinity}))?.succeeds()?.seen()?;
    runs_on(&seen, expected)?;
    container.end()
}

fn exec_cpu_affinity_initial_is_set(case: &Case) -> Outcome {
    for cpu in cpus()? {
        execs_run_on(case, &json!({"initial": cpu.to_string()}), &[cpu])?;
    }
    Ok(())
}

fn exec_cpu_affinity_final_is_set(case: &Case) -> Outcome {
    let cpus = cpus()?;
    let (first, last) = (cpus[0], cpus[1]);
    execs_run_on(case, &json!({"final": last.to_string()}), &[last])?;
    execs_run_on(case, &json!({"initial": last.to_string(), "final": first.to_string()}), &[first])?;
    let list = format!("{first}-{first},{last},1000");
    execs_run_on(case, &json!({"initial": first.to_string(), "final": list}), &[first, last])
}

fn exec_cpu_affinity_may_be_empty(case: &Case) -> Outcome {
    execs_run_on(case, &json!({"initial": "", "final": ""}), &cpus()?)
}

fn exec_cpu_affinity_that_is_no_list_is_refused(case: &Case) -> Outcome {
    for list in ["x", "1-", "3-1", "0,,1", "-1", "99999999999999999999"] {
        property(case, "/process/execCPUAffinity", json!({"final": list})).refused("")?;
    }
    Ok(())
}

fn exec_cpu_affinity_of_no_cpu_is_an_error(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    for which in ["initial", "final"] {
        exec_process(case, &container, json!({"execCPUAffinity": {which: "999"}}))?.fails(255, "ffinity")?;
    }
    container.end()
}

fn init_does_not_have_the_cpu_affinity_of_exec(case: &Case) -> Outcome {
    let cpus = cpus()?;
    let list = cpus[0].to_string();
    let bundle = case.bundle()?.with("/process/execCPUAffinity", json!({"initial": list, "final": list}));
    Ok(runs_on(&bundle.see(case)?, &cpus)?)
}

/// What a caller does that has only one CPU.
fn restrict(cpu: usize) -> impl Fn() -> std::io::Result<()> + Send + Sync + 'static {
    move || {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
    }
}

fn the_cpu_affinity_of_the_caller_is_reset(case: &Case) -> Outcome {
    let cpus = cpus()?;
    let bundle = case.bundle()?;
    bundle.write()?;
    let invocation = case.runtime(&bundle.run_arguments()).before_exec(restrict(cpus[1]));
    Ok(runs_on(&invocation.go()?.succeeds()?.seen()?, &cpus)?)
}

fn the_cpu_affinity_of_the_caller_is_reset_for_exec(case: &Case) -> Outcome {
    let cpus = cpus()?;
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let invocation = case.runtime(&["exec", &container.id, "/probe"]).before_exec(restrict(cpus[1]));
    runs_on(&invocation.go()?.succeeds()?.seen()?, &cpus)?;
    container.end()
}

fn the_cpu_affinity_is_reset_to_the_cpuset(case: &Case) -> Outcome {
    if !case.has_controller("cpuset") {
        return skip("there is no cpuset controller in this view");
    }
    let cpus = cpus()?;
    let bundle = case.bundle()?.with("/linux/resources/cpu", json!({"cpus": cpus[0].to_string(), "mems": "0"}));
    let bundle = bundle.probe(&["--hold"]);
    bundle.write()?;
    let pid_file = case.dir.join("pid");
    let invocation = case.runtime(&["run", "--detach", "--pid-file"]).args(&[&pid_file]).args(&["--bundle"]);
    let invocation = invocation.args(&[&bundle.dir]).args(&[&bundle.id]).before_exec(restrict(cpus[1]));
    let output = invocation.go()?.succeeds()?;
    let pid = fs::read_to_string(&pid_file)?.parse().map_err(|_| "the pid file holds no pid")?;
    let container = Container::adopt(case, &bundle.id, pid, output);
    let line = container.prints("\n")?;
    let seen = Seen(serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?);
    runs_on(&seen, &cpus[..1])?;
    let exec = case.runtime(&["exec", &container.id, "/probe"]).before_exec(restrict(cpus[1]));
    runs_on(&exec.go()?.succeeds()?.seen()?, &cpus[..1])?;
    container.end()
}

fn has_memory_policy(seen: &Seen, mode: u32, nodes: &[u32]) -> Check {
    seen.is("/memory_policy/mode", &json!(mode))?;
    seen.is("/memory_policy/nodes", &json!(nodes))
}

fn memory_policy_mode_and_nodes_are_set(case: &Case) -> Outcome {
    needs_numa(case)?;
    for (mode, nodes, number, effective) in [
        ("MPOL_PREFERRED", "0", 1, &[0][..]),
        ("MPOL_BIND", "0", 2, &[0]),
        ("MPOL_INTERLEAVE", "0-0", 3, &[0]),
        ("MPOL_LOCAL", "", 4, &[]),
        ("MPOL_PREFERRED", "", 4, &[]),
        ("MPOL_PREFERRED_MANY", "0", 5, &[0]),
        ("MPOL_WEIGHTED_INTERLEAVE", "0", 6, &[0]),
        // Nodes that do not exist are left out by the kernel.
        ("MPOL_BIND", "0,3-5,1000", 2, &[0]),
    ] {
        if number == 6 && !fs::exists("/sys/kernel/mm/mempolicy/weighted_interleave").unwrap_or(false) {
            continue;
        }
        property(case, "/linux/memoryPolicy", json!({"mode": mode, "nodes": nodes}))
            .holds(|seen| has_memory_policy(seen, number, effective))?;
    }
    // The default is what there is without a policy, too, so that this shows only that it is accepted.
    let seen = case.bundle()?.with("/linux/memoryPolicy", json!({"mode": "MPOL_DEFAULT", "nodes": ""})).see(case)?;
    Ok(has_memory_policy(&seen, 0, &[])?)
}

fn needs_numa(case: &Case) -> Outcome {
    let seen = case.bundle()?.see(case)?;
    if seen.get("/memory_policy/errno").is_null() { Ok(()) } else { skip("the kernel has no memory policies") }
}

fn memory_policy_flags_are_set(case: &Case) -> Outcome {
    needs_numa(case)?;
    for (flag, bit) in
        [("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)]
    {
        property(case, "/linux/memoryPolicy/flags", json!([flag]))
            .given("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}))
            .holds(|seen| has_memory_policy(seen, 2 | bit, &[0]))?;
    }
    Ok(())
}

fn memory_policies_that_do_not_go_together_are_refused(case: &Case) -> Outcome {
    for policy in [
        json!({"mode": "MPOL_NOSUCH", "nodes": "0"}),
        json!({"nodes": "0"}),
        json!({"mode": "MPOL_BIND", "nodes": ""}),
        json!({"mode": "MPOL_BIND", "nodes": "0-"}),
        json!({"mode": "MPOL_DEFAULT", "nodes": "0"}),
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NOSUCH"]}),
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
        json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}),
    ] {
        property(case, "/linux/memoryPolicy", policy).refused("")?;
    }
    Ok(())
}

fn memory_nodes_above_1024_reach_the_kernel(case: &Case) -> Outcome {
    needs_numa(case)?;
    // This kernel knows 1024 nodes at most and refuses others itself.
    let policy = json!({"mode": "MPOL_BIND", "nodes": "0,1500"});
    property(case, "/linux/memoryPolicy", policy).refused("nvalid argument")
}

fn exec_has_the_memory_policy_of_the_container(case: &Case) -> Outcome {
    needs_numa(case)?;
    let policy = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    let (container, seen) = exec_sees(case, case.bundle()?.with("/linux/memoryPolicy", policy))?;
    has_memory_policy(&seen, 3 | 1 << 15, &[0])?;
    container.end()
}

fn personality_linux32_is_set(case: &Case) -> Outcome {
    let personality = json!({"domain": "LINUX32"});
    property(case, "/linux/personality", personality).holds(|seen| seen.is("/process/personality", &json!(8)))
}

fn personality_linux_is_set(case: &Case) -> Outcome {
    let of_caller = |bundle: Bundle| -> Outcome<Seen> {
        bundle.write()?;
        let invocation = case.runtime(&bundle.run_arguments()).before_exec(|| {
            // SAFETY: personality takes a number; this one is a flag.
            unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
            Ok(())
        });
        invocation.go()?.succeeds()?.seen()
    };
    of_caller(case.bundle()?)?.is("/process/personality", &json!(libc::ADDR_NO_RANDOMIZE))?;
    let bundle = case.bundle()?.with("/linux/personality", json!({"domain": "LINUX"}));
    Ok(of_caller(bundle)?.is("/process/personality", &json!(0))?)
}

fn a_flag_of_personality_is_refused(case: &Case) -> Outcome {
    let personality = json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]});
    property(case, "/linux/personality", personality).refused("/linux/personality/flags")?;
    property(case, "/linux/personality", json!({"domain": "BSD"})).refused("")
}

fn exec_has_the_personality_of_the_container(case: &Case) -> Outcome {
    let (container, seen) = exec_sees(case, case.bundle()?.with("/linux/personality", json!({"domain": "LINUX32"})))?;
    seen.is("/process/personality", &json!(8))?;
    container.end()
}
