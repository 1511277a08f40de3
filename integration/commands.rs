//! The commands on a container that lives: pause and resume, ps, update, events.

use std::fs::{self, File};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::cgroups::{limit, need};
use crate::harness::{Case, Outcome, skip};
use crate::runtime::{Container, Output};
use crate::{ensure, tests};

tests![
    a_paused_container_stands_still_until_resume,
    a_created_container_can_be_paused,
    a_container_that_forks_all_the_time_can_be_paused,
    exec_in_a_paused_container_is_255,
    pause_of_a_container_that_does_not_run_is_an_error,
    resume_of_a_container_that_is_not_paused_is_an_error,
    a_paused_container_can_be_killed_and_deleted,
    ps_lists_the_processes_of_the_container,
    ps_json_is_a_list_of_pids,
    ps_passes_its_options_to_ps,
    ps_of_a_stopped_container_is_a_header,
    ps_refuses_an_unknown_format,
    ps_without_a_pid_column_is_an_error,
    ps_reports_the_errors_of_ps,
    commands_without_an_id_are_wrong_calls,
    commands_on_a_missing_container_are_errors,
    update_changes_each_limit,
    update_moves_memory_and_swap_up_and_down,
    update_moves_quota_period_and_burst_anywhere,
    update_reads_json_from_a_file_and_from_stdin,
    update_of_nothing_changes_nothing,
    update_is_all_or_nothing,
    update_leaves_a_paused_container_paused,
    update_leaves_devices_alone,
    update_of_a_stopped_container_is_an_error,
    update_refuses_odd_values,
    update_refuses_a_limit_below_the_usage,
    update_of_memory_alone_keeps_the_sum_with_swap,
    update_changes_unified_files_on_v2,
    events_stats_is_one_line_of_runcs_keys,
    events_prints_at_once_and_at_intervals_until_the_end,
    events_tells_of_oom,
    events_of_a_stopped_container_is_an_error,
    events_refuses_odd_intervals,
];

/// A running container whose program counts on stdout.
fn counting<'c>(case: &'c Case<'c>) -> Outcome<Container<'c>> {
    let bundle = case.docker_like()?.shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done");
    let container = case.run_detached(&bundle)?;
    container.prints("\n2\n")?;
    Ok(container)
}

/// A running container that does nothing.
fn holding<'c>(case: &'c Case<'c>) -> Outcome<Container<'c>> {
    case.run_detached(&case.docker_like()?.probe(&["--hold"]))
}

/// A container whose program has ended.
fn stopped<'c>(case: &'c Case<'c>) -> Outcome<Container<'c>> {
    let container = holding(case)?;
    container.kill("KILL")?;
    container.wait()?;
    Ok(container)
}

fn a_paused_container_stands_still_until_resume(case: &Case) -> Outcome {
    let container = counting(case)?;
    case.run(&["pause", &container.id])?.succeeds()?;
    ensure!(case.status(&container.id)? == "paused", "the status is {}", case.status(&container.id)?);
    let before = container.printed();
    std::thread::sleep(Duration::from_millis(100));
    ensure!(container.printed() == before, "it goes on printing");
    case.run(&["resume", &container.id])?.succeeds()?;
    ensure!(case.status(&container.id)? == "running", "the status is {}", case.status(&container.id)?);
    let next = before.lines().count() + 3;
    container.prints(&format!("\n{next}\n"))?;
    container.end()
}

fn a_created_container_can_be_paused(case: &Case) -> Outcome {
    let container = case.create(&case.docker_like()?.shell("echo up"))?;
    case.run(&["pause", &container.id])?.succeeds()?;
    ensure!(case.status(&container.id)? == "paused", "the status is {}", case.status(&container.id)?);
    case.run(&["start", &container.id])?.fails(1, "cannot start a container in the paused state")?;
    case.run(&["resume", &container.id])?.succeeds()?;
    ensure!(case.status(&container.id)? == "created", "the status is {}", case.status(&container.id)?);
    container.start()?;
    container.prints("up")?;
    container.wait()?;
    container.delete()
}

fn a_container_that_forks_all_the_time_can_be_paused(case: &Case) -> Outcome {
    let bundle = case.docker_like()?.shell("echo up; while :; do (/bin/true & /bin/true) & /bin/true; done");
    let container = case.run_detached(&bundle.without("/linux/resources/pids"))?;
    container.prints("up")?;
    for _ in 0..5 {
        case.run(&["pause", &container.id])?.succeeds()?;
        ensure!(case.status(&container.id)? == "paused", "the status is {}", case.status(&container.id)?);
        case.run(&["resume", &container.id])?.succeeds()?;
    }
    container.end()
}

fn exec_in_a_paused_container_is_255(case: &Case) -> Outcome {
    let container = holding(case)?;
    case.run(&["pause", &container.id])?.succeeds()?;
    container.exec(&["/probe"])?.fails(255, "cannot exec in a paused container (use --ignore-paused to override)")?;
    case.run(&["resume", &container.id])?.succeeds()?;
    container.end()
}

fn pause_of_a_container_that_does_not_run_is_an_error(case: &Case) -> Outcome {
    let container = holding(case)?;
    case.run(&["pause", &container.id])?.succeeds()?;
    case.run(&["pause", &container.id])?.fails(1, "container not running")?;
    case.run(&["resume", &container.id])?.succeeds()?;
    container.kill("KILL")?;
    container.wait()?;
    case.run(&["pause", &container.id])?.fails(1, "container not running")?;
    container.delete()
}

fn resume_of_a_container_that_is_not_paused_is_an_error(case: &Case) -> Outcome {
    let container = holding(case)?;
    case.run(&["resume", &container.id])?.fails(1, "container not paused")?;
    container.kill("KILL")?;
    container.wait()?;
    case.run(&["resume", &container.id])?.fails(1, "container not paused")?;
    container.delete()
}

fn a_paused_container_can_be_killed_and_deleted(case: &Case) -> Outcome {
    let container = holding(case)?;
    case.run(&["pause", &container.id])?.succeeds()?;
    case.run(&["delete", &container.id])?.fails(1, "that is not stopped: paused")?;
    container.kill("KILL")?;
    container.wait()?;
    container.delete()?;
    let container = holding(case)?;
    case.run(&["pause", &container.id])?.succeeds()?;
    case.delete_force(&container.id)
}

fn ps_lists_the_processes_of_the_container(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.shell("sleep 1000 & echo up; exec sleep 1001"))?;
    container.prints("up")?;
    // The shell executes sleep after it has printed.
    std::thread::sleep(Duration::from_millis(50));
    let output = case.run(&["ps", &container.id])?.succeeds()?;
    let lines: Vec<&str> = output.stdout.lines().collect();
    let has = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    ensure!(lines.first().is_some_and(|line| line.starts_with("UID")), "no header: {output}");
    ensure!(lines.len() == 3 && has("sleep 1000") == 1 && has("sleep 1001") == 1, "the table is {output}");
    container.end()
}

fn ps_json_is_a_list_of_pids(case: &Case) -> Outcome {
    let container = holding(case)?;
    for flags in [["-f", "json"], ["--format", "json"], ["-format", "json"]] {
        let output = case.run(&["ps", flags[0], flags[1], &container.id])?.succeeds()?;
        ensure!(output.stdout == format!("[{}]\n", container.pid), "the list is {output}");
    }
    container.kill("KILL")?;
    container.wait()?;
    let output = case.run(&["ps", "--format=json", &container.id])?.succeeds()?;
    ensure!(output.stdout == "null\n", "the list is {output}");
    container.delete()
}

fn ps_passes_its_options_to_ps(case: &Case) -> Outcome {
    let container = holding(case)?;
    let output = case.run(&["ps", &container.id, "-e", "-o", "pid,args"])?.succeeds()?;
    let rows: Vec<Vec<&str>> = output.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows.first().is_some_and(|row| row[..] == ["PID", "COMMAND"]), "the header is {output}");
    let pid = container.pid.to_string();
    ensure!(rows.len() == 2 && rows[1][..2] == [pid.as_str(), "/probe"], "the table is {output}");
    container.end()
}

fn ps_of_a_stopped_container_is_a_header(case: &Case) -> Outcome {
    let container = stopped(case)?;
    let output = case.run(&["ps", &container.id])?.succeeds()?;
    ensure!(output.stdout.lines().count() == 1 && output.stdout.starts_with("UID"), "the table is {output}");
    container.delete()
}

fn ps_refuses_an_unknown_format(case: &Case) -> Outcome {
    let container = holding(case)?;
    case.run(&["ps", "-f", "yaml", &container.id])?.fails(1, "invalid format option")?;
    container.end()
}

fn ps_without_a_pid_column_is_an_error(case: &Case) -> Outcome {
    let container = holding(case)?;
    case.run(&["ps", &container.id, "-o", "user"])?.fails(1, "couldn't find PID field in ps output")?;
    container.end()
}

fn ps_reports_the_errors_of_ps(case: &Case) -> Outcome {
    let container = holding(case)?;
    case.run(&["ps", &container.id, "--nosuch"])?.fails(1, "exit status 1: error: unknown gnu long option")?;
    container.end()
}

fn commands_without_an_id_are_wrong_calls(case: &Case) -> Outcome {
    for (command, text) in [
        ("pause", "requires exactly 1 argument(s)"),
        ("resume", "requires exactly 1 argument(s)"),
        ("ps", "requires a minimum of 1 argument(s)"),
        ("update", "requires exactly 1 argument(s)"),
        ("events", "requires exactly 1 argument(s)"),
    ] {
        let output = case.run(&[command])?.fails(1, &format!("\\\"{command}\\\" {text}"))?;
        ensure!(output.stdout.starts_with("Incorrect Usage."), "no help: {output}");
    }
    Ok(())
}

fn commands_on_a_missing_container_are_errors(case: &Case) -> Outcome {
    for command in ["pause", "resume", "ps", "update", "events"] {
        case.run(&[command, "nosuch"])?.fails(1, "container does not exist")?;
    }
    Ok(())
}

/// A file that update changes: the controller, its name on v1 and on v2.
type Files = [&'static str; 3];

const MEMORY: Files = ["memory", "memory.limit_in_bytes", "memory.max"];
const SWAP: Files = ["memory", "memory.memsw.limit_in_bytes", "memory.swap.max"];
const RESERVATION: Files = ["memory", "memory.soft_limit_in_bytes", "memory.low"];
const PIDS: Files = ["pids", "pids.max", "pids.max"];
const SHARES: Files = ["cpu", "cpu.shares", "cpu.weight"];
const QUOTA: Files = ["cpu", "cpu.cfs_quota_us", "cpu.max"];
const PERIOD: Files = ["cpu", "cpu.cfs_period_us", "cpu.max"];
const BURST: Files = ["cpu", "cpu.cfs_burst_us", "cpu.max.burst"];
const CPUS: Files = ["cpuset", "cpuset.cpus", "cpuset.cpus"];

/// What a file of the container holds.
fn value(case: &Case, container: &Container, [controller, v1, v2]: Files) -> Result<String, String> {
    limit(case, container, controller, v1, v2)
}

/// `update` with flags behind the id.
fn update(case: &Case, container: &Container, flags: &str) -> Outcome<Output> {
    let mut arguments = vec!["update", container.id.as_str()];
    arguments.extend(flags.split(' '));
    case.run(&arguments)
}

/// A file has to hold what is expected in this view.
fn holds(case: &Case, container: &Container, files: Files, on_v1: &str, on_v2: &str) -> Outcome {
    let expected = if case.machine.cgroup2 { on_v2 } else { on_v1 };
    let found = value(case, container, files)?;
    ensure!(found == expected, "{} is {found}, not {expected}", files[1]);
    Ok(())
}

fn update_changes_each_limit(case: &Case) -> Outcome {
    let container = holding(case)?;
    let mut tried = 0;
    for (flags, files, on_v1, on_v2) in [
        ("--memory 50M", MEMORY, "52428800", "52428800"),
        ("--memory-reservation 1.5m", RESERVATION, "1572864", "1572864"),
        ("--memory 50M --memory-swap 100MiB", SWAP, "104857600", "52428800"),
        ("--memory -1 --memory-swap -1", MEMORY, "9223372036854771712", "max"),
        ("--pids-limit 33", PIDS, "33", "33"),
        ("--pids-limit -1", PIDS, "max", "max"),
        ("--cpu-share 512", SHARES, "512", "59"),
        ("--cpu-period 50000 --cpu-quota 20000", QUOTA, "20000", "20000 50000"),
        ("--cpu-quota 30000", QUOTA, "30000", "30000 50000"),
        ("--cpu-period 60000", PERIOD, "60000", "30000 60000"),
        ("--cpu-burst 10000", BURST, "10000", "10000"),
        ("--cpu-quota -1", QUOTA, "-1", "max 60000"),
        ("--cpu-idle 1", ["cpu", "cpu.idle", "cpu.idle"], "1", "1"),
        ("--cpu-idle 0", ["cpu", "cpu.idle", "cpu.idle"], "0", "0"),
        ("--cpuset-cpus 0 --cpuset-mems 0", CPUS, "0", "0"),
        ("--blkio-weight 500", ["blkio", "blkio.bfq.weight", ""], "500", ""),
    ] {
        let there = value(case, &container, files).is_ok();
        if case.has_controller(files[0]) && (there || case.machine.cgroup2 && !files[2].is_empty()) {
            update(case, &container, flags)?.succeeds()?;
            holds(case, &container, files, on_v1, on_v2)?;
            tried += 1;
        }
    }
    container.end()?;
    if tried == 0 { skip("this view has none of the controllers") } else { Ok(()) }
}

fn update_moves_memory_and_swap_up_and_down(case: &Case) -> Outcome {
    need(case, "memory")?;
    let container = holding(case)?;
    for (memory, swap) in [(40, 60), (400, 600), (50, 500), (500, 500), (30, 30), (30, 300), (20, 30)] {
        update(case, &container, &format!("--memory {memory}M --memory-swap {swap}M"))?.succeeds()?;
        let bytes = |mib: u64| (mib << 20).to_string();
        holds(case, &container, MEMORY, &bytes(memory), &bytes(memory))?;
        holds(case, &container, SWAP, &bytes(swap), &bytes(swap - memory))?;
    }
    container.end()
}

fn update_moves_quota_period_and_burst_anywhere(case: &Case) -> Outcome {
    need(case, "cpu")?;
    // The cgroup above has a quota of its own, so that not each order of writing is legal.
    let path = format!("/corten-test/{}-quota/inner", case.tag);
    let container =
        case.run_detached(&case.docker_like()?.with("/linux/cgroupsPath", json!(path)).probe(&["--hold"]))?;
    let above = if case.machine.cgroup2 { case.machine.invoker.cgroup2() } else { "/sys/fs/cgroup/cpu".into() };
    let above = above.join(format!("corten-test/{}-quota", case.tag));
    let (file, half) = if case.machine.cgroup2 { ("cpu.max", "50000 100000") } else { ("cpu.cfs_quota_us", "50000") };
    fs::write(above.join(file), half)?;
    let steps = [(50, 100, 50), (5, 10, 1), (40, 100, 30), (4, 9, 4), (500, 1000, 500), (1, 2, 0), (450, 900, 1)];
    for (quota, period, burst) in steps {
        let flags = format!("--cpu-quota {quota}000 --cpu-period {period}000 --cpu-burst {burst}000");
        update(case, &container, &flags)?.succeeds()?;
        holds(case, &container, QUOTA, &format!("{quota}000"), &format!("{quota}000 {period}000"))?;
        holds(case, &container, PERIOD, &format!("{period}000"), &format!("{quota}000 {period}000"))?;
        let burst = (burst * 1000).to_string();
        holds(case, &container, BURST, &burst, &burst)?;
    }
    container.end()
}

fn update_reads_json_from_a_file_and_from_stdin(case: &Case) -> Outcome {
    need(case, "pids")?;
    let container = holding(case)?;
    let file = case.dir.join("resources.json");
    fs::write(&file, json!({"pids": {"limit": 44}}).to_string())?;
    // Other flags are not looked at beside a file.
    let path = file.to_string_lossy().into_owned();
    case.run(&["update", "-r", &path, "--pids-limit", "3", &container.id])?.succeeds()?;
    holds(case, &container, PIDS, "44", "44")?;
    fs::write(&file, "{\"pids\": {\"limit\": 45}}\n")?;
    let invocation = case.runtime(&["update", "--resources=-", &container.id]);
    invocation.stdin(File::open(&file)?).go()?.succeeds()?;
    holds(case, &container, PIDS, "45", "45")?;
    for (text, why) in [("{\"pids\": ", "EOF"), ("{\"pids\": {\"limit\": \"x\"}}", "limit"), ("", "EOF"), ("[]", "")] {
        fs::write(&file, text)?;
        case.run(&["update", "-r", &path, &container.id])?.fails(1, why)?;
    }
    case.run(&["update", "-r", "/nonexistent", &container.id])?.fails(1, "open /nonexistent: no such file")?;
    holds(case, &container, PIDS, "45", "45")?;
    container.end()
}

fn update_of_nothing_changes_nothing(case: &Case) -> Outcome {
    let container = holding(case)?;
    let before = case.has_controller("pids").then(|| value(case, &container, PIDS)).transpose()?;
    let output = case.run(&["update", &container.id])?.succeeds()?;
    ensure!(output.stdout.is_empty() && output.stderr.is_empty(), "it says {output}");
    let after = case.has_controller("pids").then(|| value(case, &container, PIDS)).transpose()?;
    ensure!(before == after, "the limit was {before:?} and is {after:?}");
    container.end()
}

fn update_is_all_or_nothing(case: &Case) -> Outcome {
    need(case, "memory")?;
    need(case, "cpu")?;
    let container = holding(case)?;
    update(case, &container, "--memory 60M --memory-swap 90M --cpu-share 300 --pids-limit 30")?.succeeds()?;
    // The last of these cannot be had: no period is that short, and no CPU has that number.
    for wrong in ["--cpu-quota 10", "--cpuset-cpus 4000"] {
        if wrong.contains("cpuset") && !case.has_controller("cpuset") {
            continue;
        }
        let flags = format!("--memory 600M --memory-swap 900M --cpu-share 700 --pids-limit 70 {wrong}");
        update(case, &container, &flags)?
            .fails(1, "invalid argument")
            .or_else(|_| update(case, &container, &flags)?.fails(1, "out of range"))?;
        holds(case, &container, MEMORY, "62914560", "62914560")?;
        holds(case, &container, SWAP, "94371840", "31457280")?;
        holds(case, &container, SHARES, "300", "39")?;
        holds(case, &container, PIDS, "30", "30")?;
    }
    container.end()
}

fn update_leaves_a_paused_container_paused(case: &Case) -> Outcome {
    let container = holding(case)?;
    case.run(&["pause", &container.id])?.succeeds()?;
    let flags = if case.has_controller("pids") { "--pids-limit 40" } else { "--pids-limit -1" };
    update(case, &container, flags)?.succeeds()?;
    ensure!(case.status(&container.id)? == "paused", "the status is {}", case.status(&container.id)?);
    case.run(&["resume", &container.id])?.succeeds()?;
    container.end()
}

fn update_leaves_devices_alone(case: &Case) -> Outcome {
    let bundle = case.docker_like()?.probe(&["--hold"]);
    let container = case.run_detached(&bundle)?;
    let file = case.dir.join("resources.json");
    fs::write(&file, json!({"devices": [{"allow": false, "access": "rwm"}]}).to_string())?;
    case.run(&["update", "-r", &file.to_string_lossy(), &container.id])?.succeeds()?;
    let seen = container.exec(&["/probe", "--open", "/dev/null"])?.succeeds()?.seen()?;
    seen.answers("open", "/dev/null", &json!("ok"))?;
    container.end()
}

fn update_of_a_stopped_container_is_an_error(case: &Case) -> Outcome {
    let container = stopped(case)?;
    case.run(&["update", &container.id])?.fails(1, "container not running")?;
    update(case, &container, "--pids-limit 5")?.fails(1, "container not running")?;
    update(case, &container, "--memory abc")?.fails(1, "invalid value for memory: invalid size: 'abc'")?;
    container.delete()
}

fn update_refuses_odd_values(case: &Case) -> Outcome {
    let container = holding(case)?;
    for (flags, text) in [
        ("--memory abc", "invalid value for memory: invalid size: 'abc'"),
        ("--memory -5", "invalid value for memory: invalid size: '-5'"),
        ("--memory-swap 1kk", "invalid value for memory-swap: invalid suffix: 'kk'"),
        ("--memory-reservation 10X", "invalid value for memory-reservation: invalid suffix: 'x'"),
        ("--memory 0x10", "invalid value for memory: strconv.ParseFloat: parsing \\\"0x10\\\": invalid syntax"),
        ("--cpu-quota abc", "invalid value for cpu-quota: strconv.ParseInt: parsing \\\"abc\\\": invalid syntax"),
        ("--cpu-period -1", "invalid value for cpu-period: strconv.ParseUint: parsing \\\"-1\\\": invalid syntax"),
        ("--cpu-share 1.5", "invalid value for cpu-share: strconv.ParseUint: parsing \\\"1.5\\\": invalid syntax"),
        ("--cpu-idle x", "invalid value for cpu-idle: strconv.ParseInt: parsing \\\"x\\\": invalid syntax"),
        ("--l3-cache-schema x", "Intel RDT/CAT: l3 cache schema is not enabled"),
        ("--mem-bw-schema x", "Intel RDT/MBA: memory bandwidth schema is not enabled"),
    ] {
        update(case, &container, flags)?.fails(1, text)?;
    }
    for flags in ["--pids-limit x", "--blkio-weight 1.5"] {
        let output = update(case, &container, flags)?.ends_with(1)?;
        let (name, value) = flags.trim_start_matches('-').split_once(' ').unwrap_or_default();
        let text = format!("invalid value \\\"{value}\\\" for flag -{name}: parse error");
        ensure!(output.stderr.contains(&text), "it says {output}");
    }
    container.end()
}

fn update_refuses_a_limit_below_the_usage(case: &Case) -> Outcome {
    need(case, "memory")?;
    // Anonymous memory, which can only be swapped out.
    let script = "x=$(/bin/busybox dd if=/dev/zero bs=1M count=8 2>/dev/null | /bin/busybox tr '\\0' x); echo up; \
                  while :; do sleep 1; done";
    let container = case.run_detached(&case.docker_like()?.shell(script))?;
    container.prints("up")?;
    if case.machine.cgroup2 {
        let file = case.dir.join("resources.json");
        fs::write(&file, json!({"memory": {"limit": 1 << 20, "checkBeforeUpdate": true}}).to_string())?;
        let output = case.run(&["update", "-r", &file.to_string_lossy(), &container.id])?;
        output.fails(1, "rejecting memory limit 1048576 <= usage")?;
    } else {
        let output = update(case, &container, "--memory 1M --memory-swap 1M")?;
        output.fails(1, "unable to set memory limit to 1048576 (current usage: ")?;
    }
    ensure!(case.status(&container.id)? == "running", "it was killed");
    container.end()
}

fn update_of_memory_alone_keeps_the_sum_with_swap(case: &Case) -> Outcome {
    need(case, "memory")?;
    let memory = json!({"limit": 100 << 20, "swap": 150 << 20});
    let bundle = case.docker_like()?.with("/linux/resources/memory", memory).probe(&["--hold"]);
    let container = case.run_detached(&bundle)?;
    update(case, &container, "--memory 120M")?.succeeds()?;
    holds(case, &container, MEMORY, "125829120", "125829120")?;
    holds(case, &container, SWAP, "157286400", "31457280")?;
    update(case, &container, "--memory 200M")?.ends_with(1)?;
    holds(case, &container, MEMORY, "125829120", "125829120")?;
    update(case, &container, "--memory-swap 250M")?.succeeds()?;
    holds(case, &container, SWAP, "262144000", "136314880")?;
    container.end()
}

fn update_changes_unified_files_on_v2(case: &Case) -> Outcome {
    let container = holding(case)?;
    let file = case.dir.join("resources.json");
    fs::write(&file, json!({"unified": {"cgroup.max.depth": "7"}}).to_string())?;
    let output = case.run(&["update", "-r", &file.to_string_lossy(), &container.id])?;
    if case.machine.cgroup2 {
        output.succeeds()?;
        let found = limit(case, &container, "", "", "cgroup.max.depth")?;
        ensure!(found == "7", "the file holds {found}");
    } else {
        output.fails(1, "unified")?;
    }
    container.end()
}

/// The stats of a container, after checks of the form.
fn stats(output: &Output, id: &str) -> Outcome<Value> {
    let begin = format!("{{\"type\":\"stats\",\"id\":\"{id}\",\"data\":{{");
    ensure!(output.stdout.starts_with(&begin), "it does not begin with {begin}: {output}");
    let line = output.stdout.lines().next().unwrap_or_default();
    let event: Value = serde_json::from_str(line).map_err(|error| format!("no JSON: {error}: {output}"))?;
    Ok(event.get("data").cloned().unwrap_or_default())
}

fn events_stats_is_one_line_of_runcs_keys(case: &Case) -> Outcome {
    let container = counting(case)?;
    // A kernel that counts in ticks has seen nothing of what took less.
    container.exec(&["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])?.succeeds()?;
    let output = case.run(&["events", "--stats", &container.id])?.succeeds()?;
    ensure!(output.stdout.lines().count() == 1, "it is not one line: {output}");
    let data = stats(&output, &container.id)?;
    let keys: Vec<&String> = data.as_object().map(|data| data.keys().collect()).unwrap_or_default();
    let expected = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"];
    ensure!(keys == expected, "the keys are {keys:?}");
    let positive = |pointer: &str| data.pointer(pointer).and_then(Value::as_u64).is_some_and(|number| number > 0);
    ensure!(positive("/cpu/usage/total"), "no CPU time: {data}");
    ensure!(positive("/pids/current"), "no processes: {data}");
    ensure!(data.get("network_interfaces") == Some(&Value::Null), "interfaces: {data}");
    for name in ["usage", "swap", "kernel", "kernelTCP"] {
        ensure!(data.pointer(&format!("/memory/{name}/failcnt")).is_some(), "no {name}: {data}");
    }
    if case.has_controller("memory") {
        ensure!(positive("/memory/usage/usage") && positive("/memory/usage/limit"), "no memory: {data}");
        ensure!(data.pointer("/memory/raw/pgfault").is_some(), "no memory.stat: {data}");
    }
    if !case.machine.cgroup2 {
        ensure!(positive("/cpu/usage/percpu/0") || positive("/cpu/usage/percpu/1"), "no CPU time by CPU: {data}");
        ensure!(data.pointer("/cpuset/cpus").is_some_and(Value::is_array), "no CPUs: {data}");
    } else if fs::metadata("/proc/pressure/cpu").is_ok() {
        for name in ["some/avg10", "some/avg60", "full/avg300", "full/total"] {
            ensure!(data.pointer(&format!("/cpu/psi/{name}")).is_some_and(Value::is_number), "no {name}: {data}");
        }
        if case.has_controller("hugetlb") {
            ensure!(data.pointer("/hugetlb/2MB/failcnt") == Some(&json!(0)), "no huge pages: {data}");
        }
    }
    container.end()
}

fn events_prints_at_once_and_at_intervals_until_the_end(case: &Case) -> Outcome {
    let bundle: Bundle = case.docker_like()?.shell("echo up; sleep 1.3");
    let container = case.run_detached(&bundle)?;
    container.prints("up")?;
    let output = case.run(&["events", "--interval", "300ms", &container.id])?.succeeds()?;
    stats(&output, &container.id)?;
    let lines = output.stdout.lines().count();
    ensure!((3..=6).contains(&lines), "{lines} lines in 1.3 s: {output}");
    container.wait()?;
    container.delete()
}

fn events_tells_of_oom(case: &Case) -> Outcome {
    need(case, "memory")?;
    let script = "echo up; sleep 0.5; /bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 0.3";
    let memory = json!({"limit": 20 << 20, "swap": 20 << 20});
    let container = case.run_detached(&case.docker_like()?.with("/linux/resources/memory", memory).shell(script))?;
    container.prints("up")?;
    let output = case.run(&["events", "--interval", "20s", &container.id])?.succeeds()?;
    let oom = format!("{{\"type\":\"oom\",\"id\":\"{}\"}}", container.id);
    ensure!(output.stdout.lines().any(|line| line == oom), "no OOM event: {output}");
    container.wait()?;
    container.delete()
}

fn events_of_a_stopped_container_is_an_error(case: &Case) -> Outcome {
    let container = stopped(case)?;
    let text = format!("container with id {} is not running", container.id);
    case.run(&["events", &container.id])?.fails(1, &text)?;
    case.run(&["events", "--stats", &container.id])?.fails(1, &text)?;
    container.delete()
}

fn events_refuses_odd_intervals(case: &Case) -> Outcome {
    let container = holding(case)?;
    for interval in ["0s", "0", "-1s"] {
        let output = case.run(&["events", "--interval", interval, &container.id])?;
        output.fails(1, "duration interval must be greater than 0")?;
    }
    for interval in ["5", "x"] {
        let output = case.run(&["events", "--interval", interval, &container.id])?.ends_with(1)?;
        let text = format!("invalid value \\\"{interval}\\\" for flag -interval: parse error");
        ensure!(output.stderr.contains(&text), "it says {output}");
    }
    container.end()
}
