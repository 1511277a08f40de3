//! The commands and their order: create, start, run, exec, state, kill, delete, list, spec, features; statuses, outputs
//! and messages as runc has them, which is what engines parse.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    a_container_goes_through_created_running_stopped_and_is_gone,
    created_does_not_run_the_program_before_start,
    run_returns_the_status_of_the_program,
    run_returns_128_plus_the_signal_that_killed_the_program,
    run_passes_stdout_and_stderr_through,
    run_detached_returns_while_the_program_runs,
    run_keep_leaves_a_stopped_container,
    run_of_a_missing_program_says_so,
    run_of_a_missing_absolute_path_says_so,
    run_of_a_file_without_x_bit_says_permission_denied,
    a_failed_run_leaves_nothing,
    create_of_an_existing_id_is_refused,
    create_needs_an_id,
    create_with_an_invalid_id_is_refused,
    create_with_a_missing_bundle_says_so,
    run_without_config_json_says_so,
    run_with_a_cut_config_json_is_refused,
    flags_may_follow_the_id,
    the_bundle_defaults_to_the_working_directory,
    pid_file_is_relative_to_the_caller_and_has_no_newline,
    the_pid_file_of_create_names_the_init_process,
    start_of_a_missing_container_is_an_error,
    start_of_a_running_container_is_an_error,
    start_of_a_stopped_container_is_an_error,
    start_without_process_is_an_error,
    changes_to_config_json_after_create_have_no_effect,
    state_of_a_missing_container_is_an_error,
    state_is_two_space_json_without_newline,
    state_has_what_the_spec_requires,
    state_of_a_stopped_container_has_pid_0,
    state_carries_the_annotations,
    kill_of_a_missing_container_is_an_error,
    kill_on_a_stopped_container_is_an_error,
    kill_all_on_a_stopped_container_succeeds,
    kill_takes_names_and_numbers_of_signals,
    kill_sends_term_by_default,
    kill_of_an_unknown_signal_is_refused,
    kill_zero_asks_whether_the_container_lives,
    kill_works_on_a_created_container,
    delete_of_a_missing_container_is_an_error,
    delete_force_of_a_missing_container_is_silent,
    delete_of_a_running_container_is_an_error_and_has_no_effect,
    delete_of_a_created_container_is_an_error_and_has_no_effect,
    delete_force_ends_a_running_container,
    delete_force_ends_a_created_container,
    an_id_can_be_used_again_after_delete,
    list_of_nothing_is_a_header,
    list_json_of_nothing_is_null,
    list_shows_every_container_sorted,
    list_quiet_prints_ids,
    list_json_is_compact_and_in_order,
    list_refuses_an_unknown_format,
    exec_returns_the_status_of_its_program,
    exec_returns_128_plus_the_signal,
    exec_joins_the_namespaces_and_the_cgroup,
    exec_of_a_missing_container_is_255,
    exec_of_a_stopped_container_is_255,
    exec_without_arguments_is_255,
    exec_of_a_missing_program_is_255,
    exec_of_a_file_without_x_bit_is_255,
    exec_with_a_missing_cwd_is_255,
    exec_with_an_unknown_user_is_255,
    exec_takes_environment_and_cwd_from_the_container,
    exec_env_adds_to_the_environment,
    exec_cwd_sets_the_directory,
    exec_user_sets_the_ids,
    exec_process_takes_everything_from_the_file,
    exec_detached_writes_its_pid,
    exec_stops_parsing_at_the_command,
    exec_works_in_a_created_container,
    exec_passes_output_through,
    spec_writes_a_config_that_runs,
    spec_does_not_overwrite,
    features_is_json_on_stdout_with_silent_stderr,
    version_begins_with_the_name_and_version,
    help_of_each_command_is_status_0,
    an_unknown_command_is_status_3,
    an_unknown_flag_is_status_1_with_help,
    log_file_gets_the_error_and_stderr_the_bare_message,
    log_format_json_has_level_msg_and_time,
    log_is_appended,
    an_error_on_stderr_is_one_logrus_line,
    an_unknown_log_format_is_refused,
    debug_goes_to_the_log_file_only,
];

fn a_container_goes_through_created_running_stopped_and_is_gone(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?.probe(&["--hold"]))?;
    ensure!(case.status(&container.id)? == "created", "after create: {}", case.state(&container.id)?);
    container.start()?;
    ensure!(case.status(&container.id)? == "running", "after start: {}", case.state(&container.id)?);
    container.kill("KILL")?;
    ensure!(container.wait()? == 137, "the init process did not die of SIGKILL");
    ensure!(case.status(&container.id)? == "stopped", "after kill: {}", case.state(&container.id)?);
    container.delete()?;
    case.run(&["state", &container.id])?.fails(1, "does not exist").map(drop)
}

fn created_does_not_run_the_program_before_start(case: &Case) -> Outcome {
    let bundle = case.bundle()?.shell("echo ran >/ran");
    let container = case.create(&bundle)?;
    std::thread::sleep(Duration::from_millis(100));
    ensure!(!bundle.rootfs().join("ran").exists(), "the program ran before start");
    container.start()?;
    ensure!(container.wait()? == 0, "the program failed");
    ensure!(bundle.rootfs().join("ran").exists(), "the program did not run after start");
    container.delete()
}

fn run_returns_the_status_of_the_program(case: &Case) -> Outcome {
    case.bundle()?.probe(&["--quiet", "--exit", "7"]).run(case)?.ends_with(7)?;
    case.bundle()?.probe(&["--quiet", "--exit", "255"]).run(case)?.ends_with(255).map(drop)
}

fn run_returns_128_plus_the_signal_that_killed_the_program(case: &Case) -> Outcome {
    // SIGKILL to oneself has no effect on the first process of a pid namespace, so there is none here.
    let bundle = case.bundle()?.with("/linux/namespaces", json!([{"type": "mount"}]));
    let bundle = bundle.with("/mounts", json!([])).probe(&["--quiet", "--signal-self", "9"]);
    bundle.run(case)?.ends_with(137).map(drop)
}

fn run_passes_stdout_and_stderr_through(case: &Case) -> Outcome {
    let output = case.bundle()?.shell("echo out; echo err >&2").run(case)?.succeeds()?;
    ensure!(output.stdout == "out\n" && output.stderr == "err\n", "{output}");
    Ok(())
}

fn run_detached_returns_while_the_program_runs(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.shell("echo up; exec sleep 1000"))?;
    container.prints("up")?;
    ensure!(case.status(&container.id)? == "running", "it does not run");
    container.end()
}

fn run_keep_leaves_a_stopped_container(case: &Case) -> Outcome {
    let bundle = case.bundle()?.probe(&["--quiet"]);
    bundle.write()?;
    let output = case.runtime(&["run", "--keep", "--bundle"]).args(&[&bundle.dir]).args(&[&bundle.id]).go()?;
    output.succeeds()?;
    ensure!(case.status(&bundle.id)? == "stopped", "it is not there any more");
    case.run(&["delete", &bundle.id])?.succeeds().map(drop)
}

fn run_of_a_missing_program_says_so(case: &Case) -> Outcome {
    let output = case.bundle()?.args(&["nosuchbin"]).run(case)?;
    output.fails(1, "exec: \\\"nosuchbin\\\": executable file not found in $PATH").map(drop)
}

fn run_of_a_missing_absolute_path_says_so(case: &Case) -> Outcome {
    case.bundle()?.args(&["/nosuch"]).run(case)?.fails(1, "/nosuch")?.fails(1, "no such file or directory").map(drop)
}

fn run_of_a_file_without_x_bit_says_permission_denied(case: &Case) -> Outcome {
    case.bundle()?.args(&["/etc/passwd"]).run(case)?.fails(1, "permission denied").map(drop)
}

fn a_failed_run_leaves_nothing(case: &Case) -> Outcome {
    // The harness looks for what is left after every test.
    let bundle = case.docker_like()?.args(&["nosuchbin"]);
    bundle.run(case)?.fails(1, "executable file not found")?;
    case.run(&["state", &bundle.id])?.fails(1, "does not exist").map(drop)
}

fn create_of_an_existing_id_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let container = case.create(&bundle)?;
    let output = case.runtime(&["create", "--bundle"]).args(&[&bundle.dir]).args(&[&bundle.id]).go()?;
    output.fails(1, "container with given ID already exists")?;
    ensure!(case.status(&container.id)? == "created", "the first container is gone");
    case.delete_force(&container.id)
}

fn create_needs_an_id(case: &Case) -> Outcome {
    case.run(&["create"])?.fails(1, "requires exactly 1 argument").map(drop)
}

fn create_with_an_invalid_id_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    bundle.write()?;
    for id in ["bad/id", "bad id", "bad\nid", "b\u{e4}d", "bad*"] {
        let output = case.runtime(&["create", "--bundle"]).args(&[&bundle.dir]).args(&[id]).go()?;
        output.fails(1, "invalid container ID format")?;
    }
    Ok(())
}

fn create_with_a_missing_bundle_says_so(case: &Case) -> Outcome {
    let output = case.run(&["create", "--bundle", "/nosuch", &case.id()])?;
    output.fails(1, "/nosuch")?.fails(1, "no such file or directory").map(drop)
}

fn run_without_config_json_says_so(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    case.run(&bundle.run_arguments())?.fails(1, "config.json").map(drop)
}

fn run_with_a_cut_config_json_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let text = bundle.config.to_string();
    fs::write(bundle.dir.join("config.json"), text.get(..text.len() / 2).unwrap_or_default())?;
    case.run(&bundle.run_arguments())?.fails(1, "").map(drop)
}

fn flags_may_follow_the_id(case: &Case) -> Outcome {
    let bundle = case.bundle()?.probe(&["--quiet", "--exit", "3"]);
    bundle.write()?;
    let output = case.runtime(&["run", &bundle.id, "--bundle"]).args(&[&bundle.dir]).go()?;
    output.ends_with(3).map(drop)
}

fn the_bundle_defaults_to_the_working_directory(case: &Case) -> Outcome {
    let bundle = case.bundle()?.probe(&["--quiet", "--exit", "3"]);
    bundle.write()?;
    case.runtime(&["run", &bundle.id]).cwd(&bundle.dir).go()?.ends_with(3).map(drop)
}

fn pid_file_is_relative_to_the_caller_and_has_no_newline(case: &Case) -> Outcome {
    let bundle = case.bundle()?.probe(&["--quiet"]);
    bundle.write()?;
    let caller = case.dir.join("caller");
    fs::create_dir(&caller)?;
    let invocation = case.runtime(&["run", "--pid-file", "the.pid", "--bundle"]).args(&[&bundle.dir]);
    invocation.args(&[&bundle.id]).cwd(&caller).go()?.succeeds()?;
    let text = fs::read_to_string(caller.join("the.pid"))?;
    ensure!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()), "the pid file holds {text:?}");
    Ok(())
}

fn the_pid_file_of_create_names_the_init_process(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    let state = case.state(&container.id)?;
    ensure!(state.get("pid") == Some(&json!(container.pid)), "pid file {}, state {state}", container.pid);
    case.delete_force(&container.id)
}

fn start_of_a_missing_container_is_an_error(case: &Case) -> Outcome {
    case.run(&["start", &case.id()])?.fails(1, "container does not exist").map(drop)
}

fn start_of_a_running_container_is_an_error(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    case.run(&["start", &container.id])?.fails(1, "cannot start an already running container")?;
    ensure!(case.status(&container.id)? == "running", "start had an effect");
    container.end()
}

fn start_of_a_stopped_container_is_an_error(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet"]))?;
    container.wait()?;
    case.run(&["start", &container.id])?.fails(1, "")?;
    container.delete()
}

fn start_without_process_is_an_error(case: &Case) -> Outcome {
    // The specification asks for process only when start is called; a runtime may refuse it earlier, with a message.
    let bundle = case.bundle()?.without("/process");
    bundle.write()?;
    let output = case.runtime(&["create", "--bundle"]).args(&[&bundle.dir]).args(&[&bundle.id]).go()?;
    if output.status != 0 {
        return output.fails(1, "process").map(drop);
    }
    case.run(&["start", &bundle.id])?.fails(1, "process")?;
    case.delete_force(&bundle.id)
}

fn changes_to_config_json_after_create_have_no_effect(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/hostname", json!("before")).with("/linux/namespaces/-", json!({"type": "uts"}));
    let container = case.create(&bundle)?;
    bundle.with("/hostname", json!("after")).args(&["/nosuch"]).write()?;
    container.start()?;
    ensure!(container.wait()? == 0, "the program of the changed file was executed");
    ensure!(container.printed().contains("\"hostname\":\"before\""), "{}", container.printed());
    container.delete()
}

fn state_of_a_missing_container_is_an_error(case: &Case) -> Outcome {
    case.run(&["state", &case.id()])?.fails(1, "container does not exist")?;
    case.run(&["state"])?.fails(1, "requires exactly 1 argument").map(drop)
}

fn state_is_two_space_json_without_newline(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    let output = case.run(&["state", &container.id])?.succeeds()?;
    let keys: Vec<_> = output.stdout.lines().filter_map(|line| line.strip_prefix("  \"")?.split('"').next()).collect();
    ensure!(output.stdout.starts_with("{\n  \"ociVersion\": \"") && output.stdout.ends_with('}'), "{output}");
    let expected = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"];
    ensure!(keys == expected, "the keys are {keys:?}");
    case.delete_force(&container.id)
}

fn state_has_what_the_spec_requires(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let container = case.create(&bundle)?;
    let state = case.state(&container.id)?;
    let text = |key: &str| state.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    ensure!(text("id") == container.id, "id: {state}");
    ensure!(text("status") == "created", "status: {state}");
    ensure!(Path::new(&text("bundle")) == bundle.dir, "bundle: {state}");
    ensure!(Path::new(&text("rootfs")) == bundle.rootfs(), "rootfs: {state}");
    ensure!(text("ociVersion").starts_with("1."), "ociVersion: {state}");
    let created = text("created");
    ensure!(created.get(10..11) == Some("T") && created.ends_with('Z'), "created is not RFC 3339 in UTC: {state}");
    ensure!(Path::new(&format!("/proc/{}", state.get("pid").unwrap_or(&Value::Null))).exists(), "pid: {state}");
    case.delete_force(&container.id)
}

fn state_of_a_stopped_container_has_pid_0(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet"]))?;
    container.wait()?;
    let state = case.state(&container.id)?;
    ensure!(state.get("status") == Some(&json!("stopped")) && state.get("pid") == Some(&json!(0)), "{state}");
    container.delete()
}

fn state_carries_the_annotations(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/annotations", json!({"com.example.key": "a value", "empty": ""}));
    let container = case.create(&bundle)?;
    let state = case.state(&container.id)?;
    let annotations = state.get("annotations");
    ensure!(annotations == bundle.config.get("annotations"), "annotations are {annotations:?}");
    case.delete_force(&container.id)
}

fn kill_of_a_missing_container_is_an_error(case: &Case) -> Outcome {
    case.run(&["kill", &case.id()])?.fails(1, "container does not exist").map(drop)
}

fn kill_on_a_stopped_container_is_an_error(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet"]))?;
    container.wait()?;
    case.run(&["kill", &container.id, "KILL"])?.fails(1, "container not running")?;
    container.delete()
}

fn kill_all_on_a_stopped_container_succeeds(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet"]))?;
    container.wait()?;
    case.run(&["kill", "-a", &container.id, "KILL"])?.succeeds()?;
    container.delete()
}

fn kill_takes_names_and_numbers_of_signals(case: &Case) -> Outcome {
    for signal in ["KILL", "SIGKILL", "9", "kill", "sigkill"] {
        let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
        container.kill(signal)?;
        ensure!(container.wait()? == 137, "{signal} did not kill");
        container.delete()?;
    }
    Ok(())
}

fn kill_sends_term_by_default(case: &Case) -> Outcome {
    let bundle = case.bundle()?.shell("trap 'exit 42' TERM; echo up; while :; do sleep 0.01; done");
    let container = case.run_detached(&bundle)?;
    container.prints("up")?;
    case.run(&["kill", &container.id])?.succeeds()?;
    let status = container.wait()?;
    ensure!(status == 42, "the trap for TERM ended with {status}");
    container.delete()
}

fn kill_of_an_unknown_signal_is_refused(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    for signal in ["NOSUCH", "SIG", "-1", "99", "9x"] {
        case.run(&["kill", &container.id, signal])?.ends_with(1)?.is_one_line()?;
    }
    case.run(&["kill", &container.id, "NOSUCH"])?.fails(1, "unknown signal \\\"NOSUCH\\\"")?;
    ensure!(case.status(&container.id)? == "created", "a refused signal had an effect");
    case.delete_force(&container.id)
}

fn kill_zero_asks_whether_the_container_lives(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    container.kill("0")?;
    ensure!(case.status(&container.id)? == "running", "signal 0 had an effect");
    container.end()
}

fn kill_works_on_a_created_container(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    container.end()
}

fn delete_of_a_missing_container_is_an_error(case: &Case) -> Outcome {
    case.run(&["delete", &case.id()])?.fails(1, "container does not exist").map(drop)
}

fn delete_force_of_a_missing_container_is_silent(case: &Case) -> Outcome {
    let output = case.run(&["delete", "--force", &case.id()])?.succeeds()?;
    ensure!(output.stdout.is_empty() && output.stderr.is_empty(), "{output}");
    Ok(())
}

fn delete_of_a_running_container_is_an_error_and_has_no_effect(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let expected = format!("cannot delete container {} that is not stopped: running", container.id);
    case.run(&["delete", &container.id])?.fails(1, &expected)?;
    ensure!(case.status(&container.id)? == "running", "it does not run any more");
    container.end()
}

fn delete_of_a_created_container_is_an_error_and_has_no_effect(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    case.run(&["delete", &container.id])?.fails(1, "is not stopped: created")?;
    ensure!(case.status(&container.id)? == "created", "it is not created any more");
    case.delete_force(&container.id)
}

fn delete_force_ends_a_running_container(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.shell("sleep 1000 & sleep 1000"))?;
    case.delete_force(&container.id)?;
    ensure!(container.wait()? == 137, "the init process was not killed");
    case.run(&["state", &container.id])?.fails(1, "does not exist").map(drop)
}

fn delete_force_ends_a_created_container(case: &Case) -> Outcome {
    let container = case.create(&case.docker_like()?)?;
    case.delete_force(&container.id)?;
    container.wait().map(drop)
}

fn an_id_can_be_used_again_after_delete(case: &Case) -> Outcome {
    // /dev is a mount, so that the links that the runtime makes there do not stay in the rootfs.
    let dev = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"});
    let bundle = case.bundle()?.with("/mounts/-", dev).probe(&["--quiet"]);
    for _ in 0..2 {
        bundle.run(case)?.succeeds()?;
        let container = case.create(&bundle)?;
        case.delete_force(&container.id)?;
    }
    Ok(())
}

fn list_of_nothing_is_a_header(case: &Case) -> Outcome {
    let output = case.run(&["list"])?.succeeds()?;
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    ensure!(words == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], "{output}");
    ensure!(output.stdout.starts_with("ID          PID         STATUS      BUNDLE"), "the columns: {output}");
    Ok(())
}

fn list_json_of_nothing_is_null(case: &Case) -> Outcome {
    let output = case.run(&["list", "--format", "json"])?.succeeds()?;
    ensure!(output.stdout.trim_end() == "null", "{output}");
    Ok(())
}

/// Whose the containers are; the ordinary user of the VM is called lab.
fn owner(case: &Case) -> &'static str {
    if case.machine.invoker.is_rootless() { "lab" } else { "root" }
}

fn list_shows_every_container_sorted(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    bundle.write()?;
    let ids = ["b", "c", "a"].map(|letter| format!("{letter}-{}", case.tag));
    for id in &ids {
        case.runtime(&["create", "--bundle"]).args(&[&bundle.dir]).args(&[id]).go()?.succeeds()?;
    }
    let output = case.run(&["list"])?.succeeds()?;
    let rows: Vec<Vec<&str>> = output.stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    for id in &ids {
        case.delete_force(id)?;
    }
    let listed: Vec<_> = rows.iter().filter_map(|row| row.first().copied()).collect();
    let [b, c, a] = &ids;
    ensure!(listed == [a, b, c], "the ids are {listed:?}");
    ensure!(rows.iter().all(|row| row.get(2) == Some(&"created") && row.last() == Some(&owner(case))), "{rows:?}");
    Ok(())
}

fn list_quiet_prints_ids(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    let output = case.run(&["list", "-q"])?.succeeds()?;
    case.delete_force(&container.id)?;
    ensure!(output.stdout == format!("{}\n", container.id), "{output}");
    Ok(())
}

fn list_json_is_compact_and_in_order(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/annotations", json!({"k": "v"}));
    let container = case.create(&bundle)?;
    let output = case.run(&["list", "--format", "json"])?.succeeds()?;
    case.delete_force(&container.id)?;
    let mut rest = output.stdout.as_str();
    for part in [
        "[{\"ociVersion\":\"1.".to_owned(),
        format!("\"id\":\"{}\",\"pid\":{},\"status\":\"created\",\"bundle\":\"", container.id, container.pid),
        "\",\"rootfs\":\"".to_owned(),
        "\",\"created\":\"".to_owned(),
        format!("\",\"annotations\":{{\"k\":\"v\"}},\"owner\":\"{}\"}}]", owner(case)),
    ] {
        let Some((_, after)) = rest.split_once(&part) else {
            return Err(format!("{part} is missing: {output}").into());
        };
        rest = after;
    }
    ensure!(output.stdout.trim_end().lines().count() == 1, "it is not one line: {output}");
    Ok(())
}

fn list_refuses_an_unknown_format(case: &Case) -> Outcome {
    case.run(&["list", "-f", "yaml"])?.fails(1, "invalid format option").map(drop)
}

fn exec_returns_the_status_of_its_program(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    container.exec(&["/bin/sh", "-c", "exit 42"])?.ends_with(42)?;
    container.exec(&["true"])?.succeeds()?;
    container.end()
}

fn exec_returns_128_plus_the_signal(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    container.exec(&["sh", "-c", "kill -9 $$"])?.ends_with(137)?;
    container.end()
}

fn exec_joins_the_namespaces_and_the_cgroup(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.probe(&["--hold"]))?;
    let printed = container.prints("\n")?;
    let init: Value = serde_json::from_str(&printed).map_err(|error| error.to_string())?;
    let seen = container.exec(&["/probe"])?.succeeds()?.seen()?;
    seen.is("/namespaces", init.get("namespaces").unwrap_or(&Value::Null))?;
    seen.is("/cgroup", init.get("cgroup").unwrap_or(&Value::Null))?;
    container.end()
}

fn exec_of_a_missing_container_is_255(case: &Case) -> Outcome {
    case.run(&["exec", &case.id(), "true"])?.fails(255, "exec failed: container does not exist").map(drop)
}

fn exec_of_a_stopped_container_is_255(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet"]))?;
    container.wait()?;
    container.exec(&["true"])?.fails(255, "exec failed: cannot exec in a stopped container")?;
    container.delete()
}

fn exec_without_arguments_is_255(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    container.exec(&[])?.fails(255, "exec failed: exec args cannot be empty")?;
    container.end()
}

fn exec_of_a_missing_program_is_255(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let expected = "exec: \\\"nosuch\\\": executable file not found in $PATH";
    container.exec(&["nosuch"])?.fails(255, expected)?;
    container.end()
}

fn exec_of_a_file_without_x_bit_is_255(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    container.exec(&["/etc/passwd"])?.fails(255, "exec: \\\"/etc/passwd\\\": permission denied")?;
    container.end()
}

fn exec_with_a_missing_cwd_is_255(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let output = case.run(&["exec", "--cwd", "/nosuch", &container.id, "true"])?;
    output.fails(255, "chdir to cwd (\\\"/nosuch\\\")")?.fails(255, "no such file or directory")?;
    container.end()
}

fn exec_with_an_unknown_user_is_255(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    case.run(&["exec", "--user", "nosuchuser", &container.id, "true"])?.fails(255, "nosuchuser")?;
    container.end()
}

fn exec_takes_environment_and_cwd_from_the_container(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/process/env/-", json!("FROM_CONFIG=yes")).with("/process/cwd", json!("/etc"));
    let container = case.run_detached(&bundle.probe(&["--hold"]))?;
    let seen = container.exec(&["/probe"])?.succeeds()?.seen()?;
    seen.is("/cwd", &json!("/etc"))?;
    let env = seen.get("/env").as_array().cloned().unwrap_or_default();
    ensure!(env.contains(&json!("FROM_CONFIG=yes")), "the environment is {env:?}");
    container.end()
}

fn exec_env_adds_to_the_environment(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let command = ["exec", "--env", "A=1", "--env", "B=2 3", "--env", "A=4", &container.id, "/probe"];
    let seen = case.run(&command)?.succeeds()?.seen()?;
    let env = seen.get("/env").as_array().cloned().unwrap_or_default();
    ensure!(env.contains(&json!("A=4")) && !env.contains(&json!("A=1")), "of duplicates the last wins: {env:?}");
    ensure!(env.contains(&json!("B=2 3")), "{env:?}");
    container.end()
}

fn exec_cwd_sets_the_directory(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let seen = case.run(&["exec", "--cwd", "/tmp", &container.id, "/probe"])?.succeeds()?.seen()?;
    seen.is("/cwd", &json!("/tmp"))?;
    container.end()
}

fn exec_user_sets_the_ids(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let seen = case.run(&["exec", "--user", "1000:2000", &container.id, "/probe"])?.succeeds()?.seen()?;
    seen.is("/ids/uid", &json!(1000))?;
    seen.is("/ids/gid", &json!(2000))?;
    let seen = case.run(&["exec", "-u", "7", &container.id, "/probe"])?.succeeds()?.seen()?;
    seen.is("/ids/uid", &json!(7))?;
    container.end()
}

fn exec_process_takes_everything_from_the_file(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/process/env/-", json!("FROM_CONFIG=yes"));
    let container = case.run_detached(&bundle.probe(&["--hold"]))?;
    let file = case.dir.join("process.json");
    let process = json!({"args": ["/probe", "word"], "cwd": "/tmp", "env": ["ONLY=this"],
        "user": {"uid": 5, "gid": 6, "additionalGids": [7]}, "noNewPrivileges": true,
        "capabilities": {"bounding": ["CAP_KILL"]}, "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]});
    fs::write(&file, process.to_string())?;
    let seen = case.runtime(&["exec", "--process"]).args(&[&file]).args(&[&container.id]).go()?.succeeds()?.seen()?;
    seen.is("/args", &json!(["/probe", "word"]))?;
    seen.is("/cwd", &json!("/tmp"))?;
    seen.is("/ids/uid", &json!(5))?;
    seen.is("/ids/groups", &json!([7]))?;
    seen.is("/no_new_privs", &json!(1))?;
    seen.is("/capabilities/bounding", &json!(["CAP_KILL"]))?;
    let env = seen.get("/env").as_array().cloned().unwrap_or_default();
    ensure!(env.contains(&json!("ONLY=this")) && !env.contains(&json!("FROM_CONFIG=yes")), "{env:?}");
    container.end()
}

fn exec_detached_writes_its_pid(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let file = case.dir.join("exec.pid");
    let invocation = case.runtime(&["exec", "--detach", "--pid-file"]).args(&[&file]);
    invocation.args(&[&container.id, "sleep", "1000"]).go()?.succeeds()?;
    let pid = fs::read_to_string(&file)?;
    // A runtime may return before its last step, which is to execute the program.
    let command = || fs::read_to_string(format!("/proc/{pid}/cmdline"));
    let end = Instant::now() + Duration::from_secs(2);
    while !command()?.starts_with("sleep") && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    ensure!(command()?.starts_with("sleep"), "pid {pid} is {:?}", command()?);
    container.end()
}

fn exec_stops_parsing_at_the_command(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let seen = container.exec(&["/probe", "--user", "1000", "-d"])?.succeeds()?.seen()?;
    seen.is("/args", &json!(["/probe", "--user", "1000", "-d"]))?;
    container.end()
}

fn exec_works_in_a_created_container(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    container.exec(&["/probe", "--quiet", "--exit", "4"])?.ends_with(4)?;
    ensure!(case.status(&container.id)? == "created", "exec changed the status");
    case.delete_force(&container.id)
}

fn exec_passes_output_through(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let output = container.exec(&["sh", "-c", "echo out; echo err >&2"])?.succeeds()?;
    ensure!(output.stdout == "out\n" && output.stderr == "err\n", "{output}");
    container.end()
}

fn spec_writes_a_config_that_runs(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?;
    case.runtime(&["spec"]).cwd(&bundle.dir).go()?.succeeds()?;
    let text = fs::read_to_string(bundle.dir.join("config.json"))?;
    bundle.config = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let process = bundle.config.get("process").cloned().unwrap_or_default();
    ensure!(process.get("args") == Some(&json!(["sh"])) && process.get("terminal") == Some(&json!(true)), "{process}");
    let bundle = bundle.with("/process/terminal", json!(false)).without("/process/rlimits").args(&["/probe"]);
    bundle.see(case)?.is("/process/pid", &json!(1)).map_err(Into::into)
}

fn spec_does_not_overwrite(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    bundle.write()?;
    let before = fs::read(bundle.dir.join("config.json"))?;
    case.runtime(&["spec"]).cwd(&bundle.dir).go()?.fails(1, "File config.json exists. Remove it first")?;
    ensure!(fs::read(bundle.dir.join("config.json"))? == before, "config.json was overwritten");
    Ok(())
}

fn features_is_json_on_stdout_with_silent_stderr(case: &Case) -> Outcome {
    let output = case.run(&["features"])?.succeeds()?;
    ensure!(output.stderr.is_empty(), "cri-o reads both streams: {output}");
    let features: Value = serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output}"))?;
    for pointer in ["/ociVersionMin", "/ociVersionMax", "/hooks", "/mountOptions", "/linux/namespaces"] {
        ensure!(features.pointer(pointer).is_some(), "{pointer} is missing");
    }
    Ok(())
}

fn version_begins_with_the_name_and_version(case: &Case) -> Outcome {
    let name = &case.machine.name;
    for flag in ["--version", "-v"] {
        let output = case.program(&case.machine.runtime).args(&[flag]).go()?.succeeds()?;
        ensure!(output.stdout.starts_with(&format!("{name} version ")), "{output}");
        ensure!(output.stdout.lines().any(|line| line.starts_with("spec: 1.")), "no line with the spec: {output}");
    }
    Ok(())
}

fn help_of_each_command_is_status_0(case: &Case) -> Outcome {
    case.program(&case.machine.runtime).args(&["--help"]).go()?.succeeds()?;
    for command in ["create", "start", "run", "exec", "state", "kill", "delete", "list", "spec", "features"] {
        let output = case.run(&[command, "--help"])?.succeeds()?;
        ensure!(output.stdout.contains(command) && output.stderr.is_empty(), "{output}");
    }
    Ok(())
}

fn an_unknown_command_is_status_3(case: &Case) -> Outcome {
    case.run(&["nosuchcommand"])?.fails(3, "No help topic for 'nosuchcommand'").map(drop)
}

fn an_unknown_flag_is_status_1_with_help(case: &Case) -> Outcome {
    let output = case.run(&["run", "--nosuchflag", "x"])?.ends_with(1)?;
    ensure!(output.stderr.contains("flag provided but not defined: -nosuchflag"), "{output}");
    ensure!(output.stdout.contains("--bundle"), "no help on stdout: {output}");
    Ok(())
}

fn log_file_gets_the_error_and_stderr_the_bare_message(case: &Case) -> Outcome {
    let log = case.dir.join("log").to_string_lossy().into_owned();
    let output = case.runtime_with(&["--log", &log], &["start", "nosuch"]).go()?.ends_with(1)?;
    ensure!(output.stderr == "container does not exist\n", "{output}");
    let text = fs::read_to_string(&log)?;
    ensure!(text.contains("level=error msg=\"container does not exist\""), "the log holds {text:?}");
    Ok(())
}

fn log_format_json_has_level_msg_and_time(case: &Case) -> Outcome {
    let log = case.dir.join("log").to_string_lossy().into_owned();
    let output = case.bundle()?.args(&["nosuchbin"]);
    output.write()?;
    let output = case.runtime_with(&["--log", &log, "--log-format", "json"], &output.run_arguments()).go()?;
    output.ends_with(1)?;
    let text = fs::read_to_string(&log)?;
    let last = text.lines().last().unwrap_or_default();
    let entry: Value = serde_json::from_str(last).map_err(|error| format!("{error}: {text:?}"))?;
    let keys: Vec<_> = entry.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect();
    // In their order; corten also names the errno if it knows one.
    let known: Vec<_> = keys.iter().filter(|key| *key != "errno").collect();
    ensure!(known == ["level", "msg", "time"] && keys.is_sorted(), "the keys are {keys:?}");
    ensure!(last.contains("\"level\":\"error\",\"msg\":\""), "the order of the keys: {last}");
    let message = entry.get("msg").and_then(Value::as_str).unwrap_or_default();
    let prefix = format!("{} run failed: ", case.machine.name);
    ensure!(message.starts_with(&prefix) && message.contains("executable file not found in $PATH"), "{message}");
    Ok(())
}

fn log_is_appended(case: &Case) -> Outcome {
    let log = case.dir.join("log").to_string_lossy().into_owned();
    for count in 1..=2 {
        case.runtime_with(&["--log", &log], &["state", "nosuch"]).go()?.ends_with(1)?;
        ensure!(fs::read_to_string(&log)?.lines().count() == count, "not {count} lines");
    }
    Ok(())
}

fn an_error_on_stderr_is_one_logrus_line(case: &Case) -> Outcome {
    let output = case.run(&["state", "nosuch"])?.fails(1, "")?;
    let line = output.stderr.trim_end();
    let well_formed = line.starts_with("time=\"") && line.ends_with(" level=error msg=\"container does not exist\"");
    ensure!(well_formed && line.get(26..27) == Some("\""), "not a line of logrus: {line}");
    Ok(())
}

fn an_unknown_log_format_is_refused(case: &Case) -> Outcome {
    case.runtime_with(&["--log-format", "xml"], &["list"]).go()?.fails(1, "invalid log-format: xml").map(drop)
}

fn debug_goes_to_the_log_file_only(case: &Case) -> Outcome {
    let log = case.dir.join("log").to_string_lossy().into_owned();
    let bundle = case.bundle()?.probe(&["--quiet"]);
    bundle.write()?;
    let output = case.runtime_with(&["--debug", "--log", &log], &bundle.run_arguments()).go()?.succeeds()?;
    ensure!(output.stderr.is_empty(), "{output}");
    let text = fs::read_to_string(&log)?;
    ensure!(text.contains("level=debug"), "no debug line: {text:?}");
    Ok(())
}
