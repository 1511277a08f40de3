//! Hooks: all six, their order, namespaces, state, environment, timeouts, and what happens when one fails.
//!
//! The hooks are the probe (its `--out FILE --stdin` makes it tell what it was given) and shell scripts.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use serde_json::{Value, json};

use crate::bundle::{Bundle, Seen, set};
use crate::harness::{Case, Outcome};
use crate::leftovers::cgroup_directories_named;
use crate::mounts::Mounted;
use crate::{ensure, tests};

tests![
    hooks_run_in_the_order_of_the_lifecycle,
    hooks_of_one_kind_run_in_the_listed_order,
    each_hook_gets_the_state_on_stdin,
    hooks_run_in_the_namespaces_that_the_spec_says,
    create_container_hooks_run_before_pivot_root,
    a_hook_gets_its_args_and_env_and_nothing_else,
    a_hook_has_standard_fds_only,
    a_failing_hook_of_create_fails_create_and_leaves_nothing,
    a_failing_hook_of_create_is_named_with_its_output,
    a_failing_start_container_hook_stops_the_container,
    poststart_hooks_are_over_when_start_returns,
    a_failing_poststart_hook_stops_the_container,
    a_failing_poststop_hook_is_a_warning,
    output_goes_where_the_annotations_say,
    a_hook_that_takes_too_long_is_killed,
    a_timeout_of_zero_is_refused,
    a_relative_hook_path_is_refused,
    a_missing_hook_is_an_error,
    a_hook_that_does_not_read_its_stdin_is_no_error,
    delete_force_runs_poststop_hooks,
    a_hook_sees_the_container_process_in_its_cgroup,
    a_start_container_hook_runs_where_devices_cannot_be_opened,
];

/// The kinds of hooks, in the order of the lifecycle.
pub const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A shell script as a hook. It reads its stdin first, because crun may die of SIGPIPE when a hook does not.
fn script(text: &str) -> Value {
    script_with_stdin(&format!("cat >/dev/null; {text}"))
}

/// A shell script that finds the state on its stdin.
fn script_with_stdin(text: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", text], "env": ["PATH=/usr/bin:/bin"]})
}

/// The probe as a hook that prints into a file; a startContainer hook finds both inside the rootfs.
fn probing(case: &Case, bundle: &Bundle, kind: &str) -> Value {
    let (program, out) = match kind {
        "startContainer" => (PathBuf::from("/probe"), PathBuf::from("/startContainer.json")),
        kind => (case.machine.tmp.join("probe"), bundle.rootfs().join(format!("{kind}.json"))),
    };
    json!({"path": program, "args": ["the-hook", "--stdin", "--out", out], "env": ["KIND=".to_owned() + kind]})
}

/// A bundle whose hooks of every kind are the probe.
fn with_probes(case: &Case) -> Outcome<Bundle> {
    let mut bundle = case.bundle()?.probe(&["--hold"]);
    for kind in KINDS {
        let hook = probing(case, &bundle, kind);
        set(&mut bundle.config, &format!("/hooks/{kind}"), json!([hook]));
    }
    Ok(bundle)
}

/// What the hook of a kind has seen.
fn seen(bundle: &Bundle, kind: &str) -> Outcome<Seen> {
    let file = bundle.rootfs().join(format!("{kind}.json"));
    let text = fs::read_to_string(&file).map_err(|error| format!("the {kind} hook left nothing: {error}"))?;
    Ok(Seen(serde_json::from_str(&text).map_err(|error| format!("{kind}: {error}: {text:?}"))?))
}

fn hooks_run_in_the_order_of_the_lifecycle(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?;
    let order = bundle.rootfs().join("order");
    for kind in KINDS {
        let file = if kind == "startContainer" { PathBuf::from("/order") } else { order.clone() };
        let hook = script(&format!("echo {kind} >>{}", file.display()));
        set(&mut bundle.config, &format!("/hooks/{kind}"), json!([hook]));
    }
    let bundle = bundle.shell("echo process >>/order; exec sleep 1000");
    let so_far = |expected: &[&str]| -> Outcome {
        let text = fs::read_to_string(&order).unwrap_or_default();
        ensure!(text.lines().eq(expected.iter().copied()), "the order is {text:?}, not {expected:?}");
        Ok(())
    };
    let container = case.create(&bundle)?;
    so_far(&["prestart", "createRuntime", "createContainer"])?;
    container.start()?;
    // poststart comes after the process is executed, but not necessarily after its first words.
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end && fs::read_to_string(&order).unwrap_or_default().lines().count() < 6 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = fs::read_to_string(&order)?;
    let mut last: Vec<_> = text.lines().skip(4).collect();
    last.sort_unstable();
    ensure!(text.lines().nth(3) == Some("startContainer") && last == ["poststart", "process"], "the order is {text:?}");
    container.end()?;
    ensure!(fs::read_to_string(&order)?.lines().last() == Some("poststop"), "poststop did not run at delete");
    Ok(())
}

fn hooks_of_one_kind_run_in_the_listed_order(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?;
    let order = bundle.rootfs().join("order");
    let hook = |number: u32| script(&format!("echo {number} >>{}", order.display()));
    set(&mut bundle.config, "/hooks/createRuntime", json!([hook(1), hook(2), hook(3)]));
    bundle.run(case)?.succeeds()?;
    ensure!(fs::read_to_string(&order)? == "1\n2\n3\n", "{:?}", fs::read_to_string(&order)?);
    Ok(())
}

fn each_hook_gets_the_state_on_stdin(case: &Case) -> Outcome {
    let bundle = with_probes(case)?.with("/annotations", json!({"k": "v"}));
    let container = case.run_detached(&bundle)?;
    container.end()?;
    for (kind, status) in KINDS.iter().zip(["created", "created", "created", "created", "running", "stopped"]) {
        let seen = seen(&bundle, kind)?;
        let text = seen.get("/stdin").as_str().unwrap_or_default();
        let state: Value = serde_json::from_str(text).map_err(|error| format!("{kind}: {error}: {text:?}"))?;
        let is = |key: &str, value: &Value| -> Outcome {
            ensure!(state.get(key) == Some(value), "{key} for {kind} should be {value}: {state}");
            Ok(())
        };
        is("id", &json!(bundle.id))?;
        is("status", &json!(status))?;
        is("bundle", &json!(bundle.dir))?;
        is("annotations", &json!({"k": "v"}))?;
        ensure!(state.get("ociVersion").is_some_and(Value::is_string), "ociVersion for {kind}: {state}");
        // runtime.md: for a hook in the container namespace it is the pid as seen by the container.
        match *kind {
            "createContainer" | "startContainer" => is("pid", &json!(1))?,
            "poststop" => {}
            _ => is("pid", &json!(container.pid))?,
        }
    }
    Ok(())
}

fn hooks_run_in_the_namespaces_that_the_spec_says(case: &Case) -> Outcome {
    let bundle = with_probes(case)?.with("/linux/namespaces/-", json!({"type": "uts"}));
    let container = case.run_detached(&bundle)?;
    let inner = fs::metadata(format!("/proc/{}/ns/mnt", container.pid))?.ino();
    let uts = fs::metadata(format!("/proc/{}/ns/uts", container.pid))?.ino();
    let own = fs::metadata("/proc/self/ns/mnt")?.ino();
    container.end()?;
    for kind in KINDS {
        let inside = ["createContainer", "startContainer"].contains(&kind);
        let seen = seen(&bundle, kind)?;
        let expected = if inside { inner } else { own };
        seen.is("/namespaces/mnt", &json!(expected)).map_err(|why| format!("{kind}: {why}"))?;
        if inside {
            seen.is("/namespaces/uts", &json!(uts)).map_err(|why| format!("{kind}: {why}"))?;
        }
    }
    Ok(())
}

fn create_container_hooks_run_before_pivot_root(case: &Case) -> Outcome {
    // The host's files are still there, and so are the container's mounts, below the rootfs.
    let mut bundle = case.bundle()?;
    let proof = bundle.rootfs().join("proof");
    let mounted = bundle.rootfs().join("proc/self/status");
    let test = format!("test -e {} && test -e /etc/hostname", mounted.display());
    let hook = script(&format!("{test} && echo yes >{}", proof.display()));
    set(&mut bundle.config, "/hooks/createContainer", json!([hook]));
    bundle.run(case)?.succeeds()?;
    ensure!(fs::read_to_string(&proof)? == "yes\n", "not there");
    Ok(())
}

fn a_hook_gets_its_args_and_env_and_nothing_else(case: &Case) -> Outcome {
    let bundle = with_probes(case)?;
    let mut bundle = bundle.with("/process/env", json!(["SECRET=of the container"]));
    // Without env there is none; the caller's environment is not for hooks.
    crate::bundle::remove(&mut bundle.config, "/hooks/createRuntime/0/env");
    crate::bundle::remove(&mut bundle.config, "/hooks/createContainer/0/env");
    crate::bundle::remove(&mut bundle.config, "/hooks/poststop/0/env");
    case.run_detached(&bundle)?.end()?;
    for kind in KINDS {
        let seen = seen(&bundle, kind)?;
        let none = ["createRuntime", "createContainer", "poststop"].contains(&kind);
        let expected = if none { json!([]) } else { json!([format!("KIND={kind}")]) };
        seen.is("/env", &expected).map_err(|why| format!("{kind}: {why}"))?;
        seen.is("/args/0", &json!("the-hook")).map_err(|why| format!("{kind}: {why}"))?;
    }
    Ok(())
}

fn a_hook_has_standard_fds_only(case: &Case) -> Outcome {
    let bundle = with_probes(case)?;
    case.run_detached(&bundle)?.end()?;
    for kind in KINDS {
        let seen = seen(&bundle, kind)?;
        let fds = seen.get("/fds").as_array().cloned().unwrap_or_default();
        let numbers: Vec<_> = fds.iter().filter_map(|fd| fd.get("fd")?.as_i64()).collect();
        ensure!(numbers == [0, 1, 2], "the fds of {kind} are {fds:?}");
    }
    Ok(())
}

fn a_failing_hook_of_create_fails_create_and_leaves_nothing(case: &Case) -> Outcome {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = case.docker_like()?;
        set(&mut bundle.config, &format!("/hooks/{kind}"), json!([script("exit 3")]));
        let ran = bundle.rootfs().join("poststop-ran");
        set(&mut bundle.config, "/hooks/poststop", json!([script(&format!("echo >{}", ran.display()))]));
        bundle.write()?;
        let output = case.runtime(&["create", "--bundle"]).args(&[&bundle.dir]).args(&[&bundle.id]).go()?;
        output.fails(1, "hook")?;
        case.run(&["state", &bundle.id])?.fails(1, "does not exist")?;
        let groups = cgroup_directories_named(&bundle.id);
        ensure!(groups.is_empty(), "{kind}: there are {groups:?}");
        // runtime.md: continue the lifecycle at step 12, whose step 13 are these hooks.
        ensure!(ran.exists(), "{kind}: poststop did not run");
    }
    Ok(())
}

fn a_failing_hook_of_create_is_named_with_its_output(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?;
    set(&mut bundle.config, "/hooks/createRuntime", json!([script("true"), script("echo the reason >&2; exit 3")]));
    let output = bundle.run(case)?.fails(1, "createRuntime")?;
    ensure!(output.stderr.contains("exit status 3") && output.stderr.contains("the reason"), "{output}");
    Ok(())
}

fn a_failing_start_container_hook_stops_the_container(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.shell("echo >/ran");
    set(&mut bundle.config, "/hooks/startContainer", json!([script("exit 3")]));
    let container = case.create(&bundle)?;
    case.run(&["start", &container.id])?.ends_with(1)?;
    container.wait()?;
    ensure!(!bundle.rootfs().join("ran").exists(), "the process was executed");
    case.delete_force(&container.id)
}

fn poststart_hooks_are_over_when_start_returns(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.args(&["/bin/sleep", "1000"]);
    let found = bundle.dir.join("found");
    // Which program the process of the container has executed by then.
    let pid = "$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p')";
    let script = format!("cat /proc/{pid}/cmdline >{0}.part; sleep 0.3; mv {0}.part {0}", found.display());
    set(&mut bundle.config, "/hooks/poststart", json!([script_with_stdin(&script)]));
    let container = case.create(&bundle)?;
    ensure!(!found.with_extension("part").exists() && !found.exists(), "it ran at create");
    container.start()?;
    let program = fs::read_to_string(&found).map_err(|error| format!("the hook is not over: {error}"))?;
    ensure!(program.starts_with("/bin/sleep\0"), "the process was {program:?} when the hook ran");
    container.end()
}

fn a_failing_poststart_hook_stops_the_container(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.probe(&["--quiet", "--hold"]);
    set(&mut bundle.config, "/hooks/poststart", json!([script("exit 3")]));
    let container = case.create(&bundle)?;
    case.run(&["start", &container.id])?.fails(1, "poststart")?;
    container.wait()?;
    case.delete_force(&container.id)?;
    bundle.run(case)?.fails(1, "poststart").map(drop)
}

fn a_failing_poststop_hook_is_a_warning(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.probe(&["--quiet"]);
    let ran = bundle.rootfs().join("ran");
    let second = script(&format!("echo >{}", ran.display()));
    set(&mut bundle.config, "/hooks/poststop", json!([script("exit 3"), second]));
    let container = case.run_detached(&bundle)?;
    container.wait()?;
    let output = case.run(&["delete", &container.id])?.succeeds()?;
    ensure!(output.stderr.contains("level=warning"), "no warning: {output}");
    ensure!(ran.exists(), "the hook after it did not run");
    Ok(())
}

fn output_goes_where_the_annotations_say(case: &Case) -> Outcome {
    let (out, err) = (case.dir.join("hooks.out"), case.dir.join("hooks.err"));
    let bundle = || -> Outcome<Bundle> {
        let hook = |kind: &str| json!([script(&format!("echo {kind} out; echo {kind} err >&2"))]);
        let hooks = json!({"createRuntime": hook("createRuntime"), "poststop": hook("poststop")});
        Ok(case.bundle()?.probe(&["--quiet"]).with("/hooks", hooks))
    };
    bundle()?.run(case)?.succeeds()?;
    ensure!(!out.exists() && !err.exists(), "there is output without the annotations");
    let annotations = json!({"run.oci.hooks.stdout": out, "run.oci.hooks.stderr": err});
    bundle()?.with("/annotations", annotations).run(case)?.succeeds()?;
    let texts = (fs::read_to_string(&out)?, fs::read_to_string(&err)?);
    ensure!(texts.0 == "createRuntime out\npoststop out\n", "the output is {:?}", texts.0);
    ensure!(texts.1 == "createRuntime err\npoststop err\n", "the errors are {:?}", texts.1);
    Ok(())
}

fn a_hook_that_takes_too_long_is_killed(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?;
    // The working directory carries the tag, so that a process that survives is found.
    let mut hook = script(&format!("cd {}; sleep 1000; true", case.dir.display()));
    set(&mut hook, "/timeout", json!(1));
    set(&mut bundle.config, "/hooks/createRuntime", json!([hook]));
    let begin = Instant::now();
    bundle.run(case)?.fails(1, "createRuntime")?;
    ensure!(begin.elapsed() < Duration::from_secs(8), "it took {:?}", begin.elapsed());
    Ok(())
}

fn a_timeout_of_zero_is_refused(case: &Case) -> Outcome {
    for timeout in [0, -1] {
        let mut bundle = case.bundle()?;
        let mut hook = script("true");
        set(&mut hook, "/timeout", json!(timeout));
        set(&mut bundle.config, "/hooks/createRuntime", json!([hook]));
        bundle.run(case)?.fails(1, "timeout")?;
    }
    Ok(())
}

fn a_relative_hook_path_is_refused(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?;
    set(&mut bundle.config, "/hooks/createRuntime", json!([{"path": "true"}]));
    bundle.run(case)?.fails(1, "").map(drop)
}

fn a_missing_hook_is_an_error(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?;
    set(&mut bundle.config, "/hooks/createRuntime", json!([{"path": "/no/such/hook"}]));
    bundle.run(case)?.fails(1, "/no/such/hook").map(drop)
}

fn a_hook_that_does_not_read_its_stdin_is_no_error(case: &Case) -> Outcome {
    // The state is larger than a pipe: writing it fails when the hook has gone.
    let mut bundle = case.bundle()?.with("/annotations", json!({"big": "x".repeat(200_000)})).probe(&["--quiet"]);
    set(&mut bundle.config, "/hooks/createRuntime", json!([{"path": "/bin/true"}]));
    bundle.run(case)?.succeeds().map(drop)
}

fn delete_force_runs_poststop_hooks(case: &Case) -> Outcome {
    let bundle = with_probes(case)?;
    let container = case.run_detached(&bundle)?;
    case.delete_force(&container.id)?;
    container.wait()?;
    seen(&bundle, "poststop").map(drop)
}

fn a_hook_sees_the_container_process_in_its_cgroup(case: &Case) -> Outcome {
    // Network plug-ins are called as createRuntime hooks and look for the process of the container.
    let mut bundle = case.docker_like()?;
    let out = bundle.dir.join("cgroup-seen");
    let pid = "$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p')";
    let read = format!("cat /proc/{pid}/cgroup >{}", out.display());
    set(&mut bundle.config, "/hooks/createRuntime", json!([script_with_stdin(&read)]));
    bundle.run(case)?.succeeds()?;
    let text = fs::read_to_string(&out)?;
    ensure!(text.contains(&bundle.id), "the cgroups were {text:?}");
    Ok(())
}

fn a_start_container_hook_runs_where_devices_cannot_be_opened(case: &Case) -> Outcome {
    // The rootfs lies on a file system that is mounted nodev, as /tmp is by systemd, and has no /dev of its own.
    let holder = case.dir.join("holder");
    let _mounted = Mounted::tmpfs(&holder)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NODEV;
    nix::mount::mount(None::<&str>, &holder, None::<&str>, flags, None::<&str>)?;
    case.make_rootfs(&holder.join("rootfs"))?;
    let mut bundle = case.bundle()?.with("/root/path", json!(holder.join("rootfs").to_string_lossy()));
    set(&mut bundle.config, "/hooks/startContainer", json!([script("echo >/ran")]));
    bundle.probe(&["--quiet"]).run(case)?.succeeds()?;
    ensure!(holder.join("rootfs/ran").exists(), "the hook did not run");
    Ok(())
}
