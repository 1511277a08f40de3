//! `exec`'s flags: each changes what it says and nothing else of the sandbox that the container's own process has.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bundle::Seen;
use crate::harness::{Case, Outcome, skip};
use crate::runtime::{Container, Output};
use crate::{ensure, tests};

tests![
    cap_adds_to_three_sets_and_to_no_other,
    cap_is_ambient_where_the_container_can_inherit_it,
    an_unknown_cap_is_a_warning,
    additional_gids_add_to_those_of_the_container,
    an_additional_gid_is_a_number,
    no_new_privs_is_set_on_request,
    a_sub_cgroup_is_entered,
    a_missing_sub_cgroup_is_an_error,
    a_payload_that_gives_its_controllers_to_cgroups_below_is_joined_where_init_is,
    an_unknown_controller_is_refused,
    the_rest_of_the_sandbox_is_that_of_the_container,
    preserved_descriptors_reach_the_process_and_no_others,
    a_process_comes_through_a_pipe,
    a_pipe_that_nobody_writes_to_is_an_error,
];

fn seen(container: &Container, flags: &[&str]) -> Outcome<Seen> {
    let mut arguments = flags.to_vec();
    arguments.insert(flags.len(), "/probe");
    // The id comes between the flags and the program.
    let id = container.id.clone();
    arguments.insert(flags.len(), &id);
    container.exec_flags(&arguments)?.succeeds()?.seen()
}

fn holding<'c>(case: &'c Case<'c>) -> Outcome<Container<'c>> {
    case.run_detached(&case.docker_like()?.probe(&["--quiet", "--hold"]))
}

fn has(seen: &Seen, set: &str, capability: &str) -> bool {
    seen.get(&format!("/capabilities/{set}")).as_array().is_some_and(|all| all.contains(&json!(capability)))
}

fn cap_adds_to_three_sets_and_to_no_other(case: &Case) -> Outcome {
    let container = holding(case)?;
    let before = seen(&container, &[])?;
    let after = seen(&container, &["--cap", "CAP_SYS_TIME", "-c", "CAP_SYS_PTRACE"])?;
    for capability in ["CAP_SYS_TIME", "CAP_SYS_PTRACE"] {
        for set in ["bounding", "effective", "permitted"] {
            ensure!(!has(&before, set, capability), "{set} has {capability} without the flag");
            ensure!(has(&after, set, capability), "{set} has no {capability}");
        }
        for set in ["inheritable", "ambient"] {
            ensure!(!has(&after, set, capability), "{set} has {capability}");
        }
    }
    container.end()
}

fn cap_is_ambient_where_the_container_can_inherit_it(case: &Case) -> Outcome {
    let mut bundle = case.docker_like()?;
    for set in ["bounding", "permitted", "inheritable"] {
        bundle = bundle.with(&format!("/process/capabilities/{set}"), json!(["CAP_KILL", "CAP_NET_RAW"]));
    }
    let bundle = bundle.with("/process/capabilities/effective", json!(["CAP_KILL"]));
    let container = case.run_detached(&bundle.probe(&["--quiet", "--hold"]))?;
    ensure!(!has(&seen(&container, &[])?, "ambient", "CAP_NET_RAW"), "ambient without the flag");
    ensure!(has(&seen(&container, &["--cap", "CAP_NET_RAW"])?, "ambient", "CAP_NET_RAW"), "not ambient");
    container.end()
}

fn an_unknown_cap_is_a_warning(case: &Case) -> Outcome {
    let container = holding(case)?;
    let output = container.exec_flags(&["--cap", "CAP_NOSUCH", &container.id, "true"])?.succeeds()?;
    ensure!(output.stderr.contains("CAP_NOSUCH"), "no warning: {output}");
    container.end()
}

fn additional_gids_add_to_those_of_the_container(case: &Case) -> Outcome {
    let bundle = case.docker_like()?.with("/process/user/additionalGids", json!([10]));
    let container = case.run_detached(&bundle.probe(&["--quiet", "--hold"]))?;
    let groups = |seen: &Seen| seen.get("/ids/groups").clone();
    ensure!(groups(&seen(&container, &[])?) == json!([10]), "the groups differ without the flag");
    let more = seen(&container, &["-g", "2000", "--additional-gids", "3000"])?;
    ensure!(groups(&more) == json!([10, 2000, 3000]), "the groups are {}", groups(&more));
    container.end()
}

fn an_additional_gid_is_a_number(case: &Case) -> Outcome {
    let container = holding(case)?;
    for bad in ["root", "-1", "", "4294967296", "1x"] {
        let output = container.exec_flags(&["--additional-gids", bad, &container.id, "true"])?.ends_with(1)?;
        ensure!(output.stderr.contains(&format!("invalid value {bad:?} for flag -additional-gids")), "{output}");
    }
    container.end()
}

fn no_new_privs_is_set_on_request(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet", "--hold"]))?;
    seen(&container, &[])?.is("/no_new_privs", &json!(0))?;
    seen(&container, &["--no-new-privs"])?.is("/no_new_privs", &json!(1))?;
    container.end()
}

/// A cgroup below the container's, in the first hierarchy that init names; its controller on v1.
fn make_sub_cgroup(case: &Case, pid: i32, name: &str) -> Outcome<Option<String>> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let lines: Vec<Vec<&str>> = cgroups.lines().map(|line| line.splitn(3, ':').collect()).collect();
    let wanted = if case.machine.cgroup2 { "" } else { "pids" };
    let path = lines.iter().find(|line| line[1] == wanted).map(|line| line[2]).ok_or("no such hierarchy")?;
    let directory = Path::new("/sys/fs/cgroup").join(wanted).join(path.trim_start_matches('/')).join(name);
    fs::create_dir(&directory)?;
    Ok((!case.machine.cgroup2).then(|| wanted.to_owned()))
}

fn a_sub_cgroup_is_entered(case: &Case) -> Outcome {
    let container = holding(case)?;
    let controller = make_sub_cgroup(case, container.pid, "inner")?;
    let flag = controller.map_or("inner".to_owned(), |controller| format!("{controller}:inner"));
    let pid_file = case.dir.join("exec.pid");
    let pid_path = pid_file.to_string_lossy().into_owned();
    let arguments = ["--detach", "--pid-file", &pid_path, "--cgroup", &flag, &container.id, "sleep", "1000"];
    container.exec_flags(&arguments)?.succeeds()?;
    let own = fs::read_to_string(format!("/proc/{}/cgroup", fs::read_to_string(&pid_file)?))?;
    let inner = own.lines().filter(|line| line.ends_with("/inner")).count();
    ensure!(inner == 1, "it is in {own}");
    container.end()
}

fn a_payload_that_gives_its_controllers_to_cgroups_below_is_joined_where_init_is(case: &Case) -> Outcome {
    if !case.machine.cgroup2 {
        return skip("on v1 a cgroup may have processes and cgroups below it");
    }
    let script = "cd /sys/fs/cgroup && mkdir init && echo 0 >init/cgroup.procs && \
                  for one in $(cat cgroup.controllers); do echo +$one >cgroup.subtree_control; done; \
                  cat cgroup.subtree_control; echo made; exec sleep 1000";
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"});
    let bundle = case.docker_like()?.shell(script);
    let mounts = bundle.config["mounts"].as_array().cloned().unwrap_or_default();
    let others = mounts.into_iter().filter(|one| one["type"] != "cgroup").chain([mount]).collect::<Vec<_>>();
    let container = case.run_detached(&bundle.with("/mounts", json!(others)))?;
    let text = container.prints("made\n")?;
    if !["memory", "io", "hugetlb"].iter().any(|one| text.contains(one)) {
        container.end()?;
        return skip("this view has no controller that keeps processes out of inner cgroups");
    }
    let own = container.exec(&["cat", "/proc/self/cgroup"])?.succeeds()?.stdout;
    ensure!(own.contains("0::/init"), "it is in {own}");
    container.end()
}

fn a_missing_sub_cgroup_is_an_error(case: &Case) -> Outcome {
    let container = holding(case)?;
    container.exec_flags(&["--cgroup", "nosuch", &container.id, "true"])?.fails(255, "nosuch")?;
    container.end()
}

fn an_unknown_controller_is_refused(case: &Case) -> Outcome {
    let container = holding(case)?;
    container.exec_flags(&["--cgroup", "nosuch:inner", &container.id, "true"])?.fails(255, "nosuch")?;
    container.end()
}

fn the_rest_of_the_sandbox_is_that_of_the_container(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.probe(&["--hold"]))?;
    container.prints("}\n")?;
    let init: Value = serde_json::from_str(&container.printed()).map_err(|error| format!("no JSON: {error}"))?;
    let other = seen(&container, &[])?;
    for fact in ["capabilities", "ids", "umask", "no_new_privs", "seccomp", "rlimits", "namespaces", "mounts"] {
        let (init, other) = (&init[fact], &other.0[fact]);
        ensure!(init == other, "{fact}: init has {init}, exec {other}");
    }
    container.end()
}

fn preserved_descriptors_reach_the_process_and_no_others(case: &Case) -> Outcome {
    let container = holding(case)?;
    let invocation = case.runtime(&["exec", "--preserve-fds", "2", &container.id, "/probe"]);
    let seen = invocation.inheriting(&case.dir, 3..=6)?.go()?.succeeds()?.seen()?;
    let fds: Vec<i64> =
        seen.get("/fds").as_array().into_iter().flatten().filter_map(|fd| fd.get("fd")?.as_i64()).collect();
    ensure!(fds == [0, 1, 2, 3, 4], "the descriptors are {fds:?}");
    container.end()
}

/// exec of a process that two parts of a JSON text, one later than the other, describe through a pipe; `script` has them as
/// $1 and $2.
fn exec_by_pipe(case: &Case, container: &Container, script: &str, parts: [&str; 2]) -> Outcome<Output> {
    let command = format!("{script} | \"$3\" --root \"$4\" exec --process /dev/stdin \"$5\"");
    let shell = case.program(Path::new("/bin/sh")).args(&["-c", &command, "sh"]).args(&parts);
    shell.args(&[case.machine.runtime.as_os_str(), case.root().as_ref(), container.id.as_ref()]).go()
}

fn a_process_comes_through_a_pipe(case: &Case) -> Outcome {
    // As from a shell's `<(COMMAND)`, in pieces and more than a pipe holds.
    let container = holding(case)?;
    let long = format!("LONG={}", "x".repeat(100_000));
    let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/echo", "came"], "env": [long]});
    let text = process.to_string();
    let output = exec_by_pipe(
        case,
        &container,
        "{ printf %s \"$1\"; sleep 0.2; printf %s \"$2\"; }",
        text.split_at(text.len() / 2).into(),
    )?;
    ensure!(output.succeeds()?.stdout == "came\n", "it says something else");
    container.end()
}

fn a_pipe_that_nobody_writes_to_is_an_error(case: &Case) -> Outcome {
    let container = holding(case)?;
    let fifo = case.dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    let fifo = fifo.to_string_lossy().into_owned();
    case.runtime(&["exec", "--process", &fifo, &container.id]).timeout(Duration::from_secs(5)).go()?.fails(255, "")?;
    exec_by_pipe(case, &container, "sleep 12", ["", ""])?.fails(255, "timed out")?;
    container.end()
}
